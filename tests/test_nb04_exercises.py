"""Notebook 04's exercises: typical wrong answers get a sentence that helps."""

import pytest
import torch
import torch.nn as nn

from helpers.exercises import nb04

EXERCISES = {name: getattr(nb04, name) for name in ("linear", "cut", "previous")}


def not_transposed(conv):
    linear = nn.Linear(*conv.weight.shape)
    linear.weight, linear.bias = conv.weight, conv.bias
    return linear


def transposed_only_if_it_must(conv):
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs)
    linear.weight = nn.Parameter(conv.weight if inputs == outputs else conv.weight.T)
    linear.bias = conv.bias
    return linear


def forgets_the_bias(conv):
    linear = nn.Linear(*conv.weight.shape, bias=False)
    linear.weight = nn.Parameter(conv.weight.T)
    return linear


def a_tensor(conv):
    return conv.weight.T


def drops_the_crossing_token(probabilities, p):
    ordered, order = probabilities.sort(descending=True)
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (ordered.cumsum(0) <= p)
    return kept / kept.sum() if kept.sum() else ordered * 0 + torch.tensor([0.0, 1, 0, 0])


def does_not_divide(probabilities, p):
    ordered, order = probabilities.sort(descending=True)
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (ordered.cumsum(0) - ordered < p)
    return kept


def stays_sorted(probabilities, p):
    ordered = probabilities.sort(descending=True).values
    kept = ordered * (ordered.cumsum(0) - ordered < p)
    return kept / kept.sum()


def returns_a_number(maps):
    return maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1).argmax().item()


def looks_at_itself(maps):
    best = maps.diagonal(0, dim1=-2, dim2=-1).mean(-1).argmax().item()
    return divmod(best, maps.shape[1])


def turned_round(maps):
    return nb04.previous_token_head(maps)[::-1]


@pytest.mark.parametrize("name, attempt, message", [
    ("linear", not_transposed, "outputs first"),
    ("linear", transposed_only_if_it_must, "square"),
    ("linear", forgets_the_bias, "bias"),
    ("linear", a_tensor, "nn.Linear was expected"),
    ("cut", drops_the_crossing_token, "crosses the line"),
    ("cut", does_not_divide, "Divide by the sum"),
    ("cut", stays_sorted, "undo the sorting"),
    ("previous", returns_a_number, "pair"),
    ("previous", looks_at_itself, "looks at itself"),
    ("previous", turned_round, "turned round"),
])
def test_typical_mistakes_are_named(name, attempt, message, capsys):
    EXERCISES[name].check(attempt)
    printed = capsys.readouterr().out
    assert "not yet" in printed and message in printed


def test_nucleus_agrees_with_the_helper():
    from helpers.generation import next_token_probabilities

    logits = torch.randn(30, generator=torch.Generator().manual_seed(2))
    for p in (0.1, 0.5, 0.9, 1.0):
        torch.testing.assert_close(nb04.nucleus(logits.softmax(-1), p), next_token_probabilities(logits, top_p=p))
