"""Notebook 02's exercises: typical wrong answers get a sentence that helps."""

import math

import pytest
import torch
import torch.nn as nn

from helpers.exercises import nb02
from helpers.model import GPT

EXERCISES = {name: getattr(nb02, name) for name in ("positions", "strays", "attend", "tied")}


def forgets_device(ids):
    return torch.arange(ids.shape[1])


def counts_sequences(ids):
    return torch.arange(ids.shape[0], device=ids.device)


def only_the_top(module, device):
    return [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


def forgets_lists(module, device):
    return ["scale", "norm.beta"] if isinstance(module, nb02.LeakyEmbedding) else []


def names_parameters(module, device):
    return [name for name, _ in module.named_parameters()]


def finds_always(module, device):
    return ["scale", "masks", "norm.beta"]


def no_mask(self, x):
    return nb02.mistaken_attention(self, x, masked=False)


def no_division(self, x):
    return nb02.mistaken_attention(self, x, divide_by=1.0)


def width_of_all_heads(self, x):
    return nb02.mistaken_attention(self, x, divide_by=math.sqrt(x.shape[-1]))


def no_projection(self, x):
    return nb02.mistaken_attention(self, x, project=False)


def mixed_up_heads(self, x):
    B, T, C = x.shape
    q, k, v = (part.reshape(B, self.n_head, T, -1) for part in self.c_attn(x).chunk(3, dim=-1))
    scores = q @ k.transpose(-2, -1) / math.sqrt(C // self.n_head)
    weights = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1)
    return self.c_proj((weights @ v).reshape(B, T, C))


def detached(self, x):
    return nb02.attention_forward(self, x).detach()


def mask_on_the_cpu(self, x):
    keep = torch.ones(x.shape[1], x.shape[1])
    return nb02.attention_forward(self, x) + 0 * keep.sum(0)[None, :, None]


def second_parameter(model):
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight)
    return model


def copied(model):
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())
    return model


def nothing_done(model):
    return model


@pytest.mark.parametrize("name, attempt, message", [
    ("positions", forgets_device, "device"),
    ("positions", counts_sequences, "shape"),
    ("strays", only_the_top, "in a submodule"),
    ("strays", forgets_lists, "in a list"),
    ("strays", names_parameters, "followed .to()"),
    ("strays", finds_always, "no stray tensor"),
    ("attend", no_mask, "later ones"),
    ("attend", no_division, "not divided"),
    ("attend", width_of_all_heads, "divide by sqrt(hs)"),
    ("attend", no_projection, "c_proj"),
    ("attend", mixed_up_heads, "largest difference"),
    ("attend", detached, "gradient"),
    ("attend", mask_on_the_cpu, "device=x.device"),
    ("tied", second_parameter, "share their memory"),
    ("tied", copied, "for now"),
    ("tied", nothing_done, "same numbers"),
])
def test_typical_mistakes_are_named(name, attempt, message, capsys):
    EXERCISES[name].check(attempt)
    printed = capsys.readouterr().out
    assert "not yet" in printed and message in printed


def test_own_attention_runs_inside_the_context_only(capsys):
    torch.manual_seed(0)
    model, ids, calls = GPT(nb02.SMALL), torch.arange(6)[None], []

    def counted(self, x):
        calls.append(x.shape)
        return nb02.attention_forward(self, x)

    expected = model(ids)
    with nb02.own_attention(model, counted) as whose:
        calls.clear()
        torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-5)
    assert whose == "your own forward" and len(calls) == nb02.SMALL.n_layer
    model(ids)
    assert len(calls) == nb02.SMALL.n_layer


def test_a_wrong_attention_is_not_used():
    model, ids = GPT(nb02.SMALL), torch.arange(6)[None]
    expected = model(ids)
    with nb02.own_attention(model, no_mask) as whose:
        assert torch.equal(model(ids), expected)
    assert "the helper's" in whose
