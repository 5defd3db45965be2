"""Readable attention: the same numbers as torch's fused kernel and as transformers, and its own properties."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from helpers import attention
from helpers.model import GPT
from helpers.pretrained import from_huggingface
from tests.small import TINY


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 7, 8), (3, 2, 16, 5)])
def test_equals_torchs_fused_attention(shape):
    q, k, v = torch.randn(3, *shape)
    torch.testing.assert_close(attention.attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_weights_are_distributions_over_the_past():
    weights = attention.attention_weights(*torch.randn(2, 4, 9, 8))
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 9))
    past = torch.ones(9, 9, dtype=torch.bool).tril()
    assert (weights[:, ~past] == 0).all() and (weights[:, past] > 0).all()


def test_merging_heads_reverses_splitting_them():
    x = torch.randn(2, 5, 12)
    heads = attention.split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert torch.equal(heads[:, 1], x[:, :, 4:8])
    assert torch.equal(attention.merge_heads(heads), x)
    with pytest.raises(ValueError, match="12 cannot be split among 5 heads"):
        attention.split_heads(x, 5)


def test_attention_maps_are_those_of_transformers():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=2, n_head=3)
    theirs = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():  # a fresh model attends almost evenly to all tokens; larger weights give maps that differ
        for parameter in theirs.parameters():
            parameter.mul_(8)
    ids = torch.randint(50, (1, 9))
    expected = torch.stack(theirs(ids, output_attentions=True).attentions)[:, 0]
    maps = attention.attention_maps(from_huggingface(theirs), ids)
    assert maps.shape == (2, 3, 9, 9) and torch.allclose(maps, expected, atol=1e-5)
    assert (maps[0] - maps[1]).abs().max() > 0.1, "both layers gave the same map"


def test_attention_maps_leave_no_hook_behind():
    model = GPT(TINY).eval()
    with pytest.raises(ValueError, match="n_positions"):
        attention.attention_maps(model, torch.zeros(1, TINY.n_positions + 1, dtype=torch.int64))
    attention.attention_maps(model, torch.zeros(1, 3, dtype=torch.int64))
    assert not any(block.attn.c_attn._forward_hooks for block in model.transformer.h)
