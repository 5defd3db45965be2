"""Model 5: its shape, its initialisation, what it computes, and its errors."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import attention
from helpers.model import GPT, SIZES, GPTConfig
from helpers.parameters import meta_model
from tests.small import TINY


def ids(rows=2, length=9, vocabulary=TINY.vocab_size):
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))


def tied(model):
    return model.lm_head.weight is model.transformer.wte.weight


def test_default_is_gpt2_small():
    assert GPTConfig() == GPTConfig.named("gpt2")
    assert (GPTConfig().vocab_size, GPTConfig().n_positions, GPTConfig().n_embd) == (50257, 1024, 768)
    assert GPTConfig.named("gpt2-xl", n_positions=8).n_positions == 8


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_embd": 100, "n_head": 12}, "Try n_embd=108"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"vocab_size": 10.5}, "vocab_size=10.5"),
        ({"n_positions": -1}, "n_positions=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_impossible_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**wrong)


def test_unknown_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="gpt2-medium"):
        GPTConfig.named("gpt3")


def test_parameter_names_are_gpt2s():
    names = {name for name, _ in meta_model(TINY).named_parameters(remove_duplicate=False)}
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    expected = {f"transformer.h.{i}.{part}.{kind}" for i in range(3) for part in block for kind in ("weight", "bias")}
    expected |= {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"}
    assert names == expected | {"transformer.ln_f.weight", "transformer.ln_f.bias"}


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=1000, n_positions=256, n_embd=128, n_layer=8, n_head=4))
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert parameter.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05), name
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(".ln_" in name and "weight" in name))), name
    x = ids(4, 64, 1000)
    assert model(x, x.roll(17)).item() == pytest.approx(math.log(1000), abs=0.2)


def test_untied_head_is_initialised_and_counted():
    model = GPT(GPTConfig(vocab_size=500, n_positions=8, n_embd=32, n_layer=1, n_head=1, tie_word_embeddings=False))
    assert not tied(model) and not model.lm_head.weight.is_meta
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_tie_survives_casts_copies_and_moves():
    model = GPT(TINY)
    assert tied(model)
    assert tied(model.double()) and tied(model.float())
    assert tied(copy.deepcopy(model)) and tied(model.train()) and tied(model.eval())
    assert tied(model.to(torch.device("cpu"), torch.bfloat16))


def test_block_equals_the_readable_reference(tiny):
    block, x = tiny.transformer.h[0], torch.randn(2, 7, TINY.n_embd)
    attn, mlp = block.attn, block.mlp
    weights = attn.c_attn.weight, attn.c_attn.bias, attn.c_proj.weight, attn.c_proj.bias
    x_att = x + attention.multi_head_attention(block.ln_1(x), *weights, TINY.n_head)
    hidden = block.ln_2(x_att) @ mlp.c_fc.weight.T + mlp.c_fc.bias
    hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    x_ff = x_att + hidden @ mlp.c_proj.weight.T + mlp.c_proj.bias
    torch.testing.assert_close(block(x), x_ff, atol=1e-5, rtol=1e-5)


def test_no_token_sees_a_later_one(tiny):
    tiny.eval()
    x = ids(1, 12)
    changed = x.clone()
    changed[0, 8] = (x[0, 8] + 1) % TINY.vocab_size
    before, after = tiny(x), tiny(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-3


@pytest.mark.parametrize("rows, length", [(1, 1), (3, 1), (3, 7), (2, 16)])
def test_loss_is_the_cross_entropy_of_the_logits(tiny, rows, length):
    x, y = ids(rows, length), ids(rows, length).flip(0)
    logits = tiny(x)
    assert logits.shape == (rows, length, TINY.vocab_size)
    torch.testing.assert_close(tiny(x, y), F.cross_entropy(logits.flatten(0, 1), y.flatten()))
    torch.testing.assert_close(tiny(x, last_only=True), logits[:, -1:])


@pytest.mark.parametrize(
    "bad, message",
    [
        (torch.tensor([[0, 101]]), "0 to 101; this model knows 0 to 100"),
        (torch.tensor([[-1, 5]]), "-1 to 5"),
        (torch.zeros(1, 17, dtype=torch.int64), "17 tokens per sequence; this model reads 1 to 16"),
        (torch.zeros(1, 0, dtype=torch.int64), "0 tokens per sequence"),
        (torch.zeros(5, dtype=torch.int64), r"ids\[None\]"),
        (torch.zeros(1, 5), "torch.float32"),
        (torch.zeros(1, 5, dtype=torch.int32), "torch.int32"),
        (np.zeros((1, 5), dtype=np.int64), r"a ndarray; expected a tensor .*torch.tensor\(ids, dtype=torch.int64\)"),
        ([[1]], "are a list; expected a tensor"),
        ("text", r"are a str; expected a tensor.*tokenizer.encode\(text\)\[None\]"),
        (None, "are a NoneType; expected a tensor"),
    ],
)
def test_bad_ids_are_named(tiny, bad, message):
    with pytest.raises(ValueError, match=message):
        tiny(bad)


def test_bad_targets_are_named(tiny):
    with pytest.raises(ValueError, match="one target per id"):
        tiny(ids(2, 5), ids(2, 4))
    with pytest.raises(ValueError, match="targets run from"):
        tiny(ids(1, 2), torch.tensor([[0, 500]]))
    with pytest.raises(ValueError, match="targets run from -1 .* that shall not count is -100"):
        tiny(ids(1, 2), torch.tensor([[0, -1]]))
    for wrong in ([[1, 2]], np.zeros((1, 2), dtype=np.int64)):
        with pytest.raises(ValueError, match="targets are a .* expected a tensor"):
            tiny(ids(1, 2), wrong)


def test_targets_of_minus_100_do_not_count(tiny):
    x, targets = ids(3, 7), ids(3, 7)
    targets[0, 4:], targets[2] = -100, -100
    expected = F.cross_entropy(tiny(x).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(tiny(x, targets), expected)


WRONG_SHAPES = {
    "n_layer": (0, -1, 1.5, True, "2", None, np.float64(2), [2], 2**63), "n_embd": (0, 2.0, np.nan),
    "dropout": (-0.1, 1, math.nan, "0.1", None, True, np.float32(1), 1j, [0.1], 10**400),
    "layer_norm_epsilon": (0, -1e-5, math.inf, math.nan, "x", None, False),
    "tie_word_embeddings": (1, None, "yes", 0.0),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_a_shape_that_no_model_has_is_named(name):
    for value in WRONG_SHAPES[name]:
        with pytest.raises(ValueError, match=rf"GPTConfig\({name}=.*\): expected "):
            GPTConfig(**{name: value})


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, n_positions=8, n_embd=32, n_layer=2, n_head=2, dropout=0.5))
    x = ids(2, 8, 50)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_compiled_model_computes_the_same_loss(tiny):
    compiled = torch.compile(tiny, backend="eager")
    x = ids(2, 6)
    torch.testing.assert_close(compiled(x, x), tiny(x, x))


@pytest.mark.parametrize("name", SIZES)
def test_all_sizes_run_on_meta(name):
    model = meta_model(GPTConfig.named(name))
    assert tied(model)
    assert model(torch.zeros(2, 5, dtype=torch.int64, device="meta")).shape == (2, 5, 50257)
