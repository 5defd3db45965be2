"""Notebook 05's exercises: typical wrong answers get a sentence that helps."""

import pytest

from helpers.exercises import nb05

EXERCISES = {name: getattr(nb05, name) for name in ("biases", "groups", "llama")}


def without_betas(C, L):
    return 9 * C * L


def without_the_last_norm(C, L):
    return 11 * C * L


def with_fc_alone(name):
    return "MLP" if "fc" in name else nb05.group(name).replace("MLP", "attention")


def attention_first(name):
    return "attention" if "attn" in name or "attention" in name else nb05.group(name)


def ln_alone(name):
    return "norms" if "ln" in name else nb05.group(name.replace("norm.", "mlp."))


def equal_heads(V, C, L, F, heads, kv_heads, hs, tied):
    return nb05.count_llama(V, C, L, F, heads, heads, hs, tied)


def two_matrices(V, C, L, F, *others):
    return nb05.count_llama(V, C, L, F, *others) - L * C * F


def with_betas(V, C, L, *others):
    return nb05.count_llama(V, C, L, *others) + (2 * L + 1) * C


def always_untied(*shape):
    return nb05.count_llama(*shape[:-1], False)


@pytest.mark.parametrize("name, attempt, message", [
    ("biases", without_betas, "betas are missing"),
    ("biases", without_the_last_norm, "after the last block"),
    ("groups", with_fc_alone, "c_proj"),
    ("groups", attention_first, "post_attention_layernorm"),
    ("groups", ln_alone, "norms"),
    ("llama", equal_heads, "fewer than Q"),
    ("llama", two_matrices, "gated"),
    ("llama", with_betas, "no beta"),
    ("llama", always_untied, "Look at tied"),
])
def test_typical_mistakes_are_named(name, attempt, message, capsys):
    EXERCISES[name].check(attempt)
    printed = capsys.readouterr().out
    assert "not yet" in printed and message in printed
