"""Notebook 03's exercises: typical wrong answers get a sentence that helps."""

from statistics import mean, median

import pytest

from helpers.exercises import nb03

EXERCISES = {name: getattr(nb03, name) for name in ("clock", "flops", "tokens", "lever")}


def never_waits(function, wait, clock):
    function()
    return median(_readings(function, lambda: None, clock))


def takes_the_mean(function, wait, clock):
    function(), wait()
    return mean(_readings(function, wait, clock))


def counts_the_first(function, wait, clock):
    return max(_readings(function, wait, clock))


def takes_the_minimum(function, wait, clock):
    return min(_readings(function, wait, clock, 8)[1:])


def once(function, wait, clock):
    return _readings(function, wait, clock, 1)[0]


def _readings(function, wait, clock, runs=5):
    times = []
    for _ in range(runs):
        start = clock()
        function()
        wait()
        times.append(clock() - start)
    return times


WRONG = [
    ("clock", never_waits, "launch"),
    ("clock", takes_the_mean, "median"),
    ("clock", takes_the_minimum, "minimum down"),
    ("clock", counts_the_first, "first run"),
    ("clock", once, "1 times"),
    ("flops", lambda c, T: nb03.flops_per_token(c, T) - 2 * c.vocab_size * c.n_embd, "head is missing"),
    ("flops", lambda c, T: nb03.flops_per_token(c, 0), "Attention is missing"),
    ("flops", lambda c, T: nb03.flops_per_token(c, T) / 2, "addition"),
    ("flops", lambda c, T: 2 * 124_439_808, "the count"),
    ("tokens", lambda peak, bandwidth, size: peak / bandwidth, "FLOPs per byte"),
    ("tokens", lambda peak, bandwidth, size: peak * size / bandwidth, "two FLOPs"),
    ("tokens", lambda peak, bandwidth, size: peak / (2 * bandwidth), "bytes"),
    ("tokens", lambda peak, bandwidth, size: 17.0, "it is"),
    ("lever", lambda share, factor: 1 - share + share / factor, "new time"),
    ("lever", lambda share, factor: share * factor, "Add up times"),
    ("lever", lambda share, factor: 1 - share + share * factor, "takes a smaller time"),
    ("lever", lambda share, factor: factor, "the rest do"),
    ("lever", lambda share, factor: 1 / (1 - share) if share < 1 else 2.0, "still takes"),
    ("lever", lambda share, factor: nb03.whole_speedup(share / 100, factor), "is a fraction"),
    ("lever", lambda share, factor: 1.0, "the whole is"),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_passes_and_stub_does_not(name, capsys):
    EXERCISES[name].check(EXERCISES[name].solution)
    assert "correct" in capsys.readouterr().out
    EXERCISES[name].check(lambda *arguments: None)
    assert "returns None" in capsys.readouterr().out
    EXERCISES[name].hint()
    assert "Hint: " in capsys.readouterr().out


@pytest.mark.parametrize("name, attempt, said", WRONG)
def test_wrong_answers_are_named(name, attempt, said, capsys):
    EXERCISES[name].check(attempt)
    printed = capsys.readouterr().out
    assert "not yet" in printed and said in printed, printed
