"""Notebook 06's exercises: typical wrong answers get a sentence that helps."""

import pytest
import torch

from helpers.exercises import nb06

EXERCISES = {name: getattr(nb06, name) for name in ("median_distance", "pool", "folding")}


@pytest.mark.parametrize("name, attempt, message", [
    ("median_distance", lambda x: (x - x.mean()).abs().median(), "from the median"),
    ("median_distance", lambda x: (x - x.median()).abs().mean(), "take their median"),
    ("median_distance", lambda x: x.abs().median(), "around zero"),
    ("median_distance", lambda x: x.std(), "the MAD is"),
    ("pool", lambda n, m, s: s.mean(), "stds cannot"),
    ("pool", lambda n, m, s: ((n * s**2).sum() / n.sum()).sqrt(), "means differ"),
    ("pool", lambda n, m, s: (s**2).mean().sqrt(), "weight with the counts"),
    ("folding", lambda w, b, gamma, beta: (w.T * beta[:1], b), "Shapes"),
    ("folding", lambda w, b, gamma, beta: (w / gamma, b + w @ beta), "columns"),
    ("folding", lambda w, b, gamma, beta: (w * gamma, b), "beta alone"),
    ("folding", lambda w, b, gamma, beta: (w * gamma, b + (w * gamma) @ beta), "beta alone"),
])
def test_typical_mistakes_are_named(name, attempt, message, capsys):
    EXERCISES[name].check(attempt)
    printed = capsys.readouterr().out
    assert "not yet" in printed and message in printed


def test_plain_numbers_are_accepted(capsys):
    middle = lambda numbers: sorted(numbers)[len(numbers) // 2]  # noqa: E731
    nb06.median_distance.check(lambda x: middle([abs(v - middle(x.tolist())) for v in x.tolist()]))
    nb06.pool.check(lambda n, m, s: nb06.pooled_std(n, m, s).item())
    assert capsys.readouterr().out.count("correct") == 2


def test_fold_does_not_change_its_inputs():
    weight, bias, gamma, beta = torch.ones(2, 3), torch.ones(2), torch.ones(3) * 2, torch.ones(3)
    nb06.fold(weight, bias, gamma, beta)
    assert weight.eq(1).all() and bias.eq(1).all()
