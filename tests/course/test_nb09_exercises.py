"""Notebook 09's exercises: wrong answers get a helpful message. (Correct ones: exercise_cases/nb09.py.)"""

import math

import numpy as np
import pytest
import torch

from helpers import corpus
from helpers.course import experiments
from helpers.course.exercises import nb09


def difference_with(spread):
    """The right mean with another measure of the spread."""

    def attempt(losses, base_losses):
        differences = np.subtract(losses, base_losses)
        return differences.mean(), spread(differences, np.array(losses), np.array(base_losses))

    return attempt


def split_with(number):
    return lambda *arguments: list(nb09._split_mistakes(*arguments).values())[number]


def keeps_the_last(losses, patience):
    _, stopped = experiments.best_checkpoint(losses, patience)
    return stopped, stopped


def looks_ahead(losses, patience):
    return losses.index(min(losses)), experiments.best_checkpoint(losses, patience)[1]


def never_counts_again(losses, patience):
    best, worse = 0, 0
    for i, loss in enumerate(losses):
        best, worse = (i, worse) if loss < losses[best] else (best, worse + (i > 0))
        if worse >= patience:
            return best, i
    return best, len(losses) - 1


def one_too_late(losses, patience):
    kept, _ = experiments.best_checkpoint(losses, patience)
    return kept, experiments.best_checkpoint(losses, patience + 1)[1]


def takes_equal_ones(losses, patience):
    best = 0
    for i, loss in enumerate(losses):
        best = i if loss <= losses[best] else best
        if i - best >= patience:
            return best, i
    return best, len(losses) - 1


def compares_with_the_one_before(losses, patience):
    worse = 0
    for i in range(1, len(losses)):
        worse = 0 if losses[i] < losses[i - 1] else worse + 1
        if worse == patience:
            break
    return losses.index(min(losses[: i + 1])), i


def looks_at_the_ends(starts, T, first, last):
    """Misses windows that begin before the region and end after it."""
    begins, ends = ((place >= first) & (place < last) for place in (starts, starts + T))
    return ~begins & ~ends, begins & ends


WRONG = {
    "budget": [
        (lambda steps, B, T, new_B, new_T: steps * new_B * new_T // (B * T), "Invert the fraction"),
        (lambda steps, B, T, new_B, new_T: steps * B // new_B, "batch size x context"),
        (lambda steps, B, T, new_B, new_T: steps * B * T / (new_B * new_T), "Round down"),
        (lambda steps, B, T, new_B, new_T: math.ceil(steps * B * T / (new_B * new_T)), "10,017"),
        (lambda steps, B, T, new_B, new_T: round(steps * B * T / (new_B * new_T)), "nearest whole number"),
        (lambda steps, *rest: steps, "expected 1000"),
    ],
    "difference": [
        (lambda a, b: nb09.paired_difference(b, a), "sign is wrong"),
        (lambda a, b: nb09.paired_difference(a, b)[0], "Return 2 numbers: the mean of the differences"),
        (lambda a, b: nb09.paired_difference(a, b)[::-1], "wrong order"),
        (lambda a, b: nb09.paired_difference(sorted(a), sorted(b)), "The mean is right"),
        (difference_with(lambda d, a, b: d.std(ddof=1)), "divide by sqrt(n)"),
        (difference_with(lambda d, a, b: d.std() / math.sqrt(len(d))), "n - 1"),
        (difference_with(lambda d, a, b: d.std()), "computed with n"),
        (difference_with(lambda d, a, b: d.var(ddof=1) / len(d)), "take the root"),
        (difference_with(lambda d, a, b: d.std(ddof=1) / len(d)), "not by n"),
        (difference_with(lambda d, a, b: math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(d))), "share their luck"),
        (lambda a, b: (max(a) - max(b), 0.0), "mean of the differences is"),
    ],
    "coverage": [
        (lambda N, T, k: 1 - (1 - T / (N - T)) ** k, "share inside the text"),
        (lambda N, T, k: 1 - (1 - T / N) ** k, "N - T starts, not N"),
        (lambda N, T, k: min(1.0, k * T / N), "counts a token twice"),
        (lambda N, T, k: 1 - corpus.expected_coverage(N, T, k), "1 minus it"),
        (lambda N, T, k: 1 - math.exp(-k * T / N), "approximation"),
        (lambda N, T, k: corpus.expected_coverage(N + 1, T, k), "the expected share is"),
    ],
    "checkpoint": [
        (keeps_the_last, "Keep the best one"),
        (looks_ahead, "never reached"),
        (never_counts_again, "start counting again"),
        (one_too_late, "too late"),
        (takes_equal_ones, "An equal loss is no improvement"),
        (lambda losses, patience: losses.index(min(losses)), "the index of the checkpoint to keep"),
        (lambda *arguments: experiments.best_checkpoint(*arguments)[::-1], "wrong order"),
        (lambda losses, patience: [losses[i] for i in experiments.best_checkpoint(losses, patience)], "their indices"),
        (compares_with_the_one_before, "2.125"),
    ],
    "split": [
        (split_with(0), "They belong to neither"),
        (split_with(1), "It belongs to neither"),
        (split_with(2), "only at the start"),
        (split_with(3), "T + 1 tokens"),
        (split_with(4), "after the test region"),
        (split_with(5), "wrong order"),
        (lambda starts, *rest: [starts[mask] for mask in nb09.leak_free_split(starts, *rest)], "Boolean mask"),
        (lambda starts, T, first, last: nb09.leak_free_split(starts, T, first + 1, last), "starts at"),
        (looks_at_the_ends, "test region 20 to 23"),
    ],
}
# Answers of a wrong type, and the part of the message that describes them.
WRONG_TYPES = {
    "budget": [
        (lambda *arguments: (1000, 0), "you returned a tuple of 2 numbers"),
        (lambda *arguments: [1000], "you returned a list of 1 number"),
        (lambda *arguments: "1000 steps", "you returned a str: '1000 steps'"),
        (lambda *arguments: {"steps": 1000}, "you returned a dict: {'steps': 1000}"),
    ],
    "difference": [
        (lambda a, b: torch.tensor(a) - torch.tensor(b), "returned a tensor of shape (4,)"),
        (lambda a, b: (0.1, 0.2, 0.3), "returned a tuple of 3 numbers"),
        (lambda a, b: "0.175 ± 0.05", "returned a str: '0.175 ± 0.05'"),
        (lambda a, b: {"mean": 0.1, "error": 0.1}, "returned a dict: {'mean': 0.1, 'error': 0.1}"),
    ],
    "coverage": [
        (lambda N, T, draws: torch.zeros(N), "you returned a tensor of shape (50,)"),
        (lambda N, T, draws: (0.5, 0.5), "you returned a tuple of 2 numbers"),
        (lambda N, T, draws: "50 %", "you returned a str: '50 %'"),
        (lambda N, T, draws: {0: 0.5}, "you returned a dict: {0: 0.5}"),
    ],
    "checkpoint": [
        (lambda losses, patience: [4, 5, 6], "returned a list of 3 numbers"),
        (lambda losses, patience: (4, None), "returned a tuple of 2 items"),
        (lambda losses, patience: "4 and 6", "returned a str: '4 and 6'"),
        (lambda losses, patience: {"keep": 4, "stop": 6}, "returned a dict: {'keep': 4, 'stop': 6}"),
    ],
    "split": [
        (lambda starts, *rest: starts > 3, "returned a tensor of shape (60,) and type bool"),
        (lambda starts, *rest: (starts > 3, (starts > 3).long()), "test: expected a Boolean mask of shape (60,); yours "
         "is a tensor of shape (60,) and type int64"),
        (lambda starts, *rest: [[True], [False, True]], "yours is a list of 1 number"),
        (lambda starts, *rest: ([[True], [True, False]], starts > 3), "yours is a list of 2 lists"),
        (lambda starts, *rest: ("train", "test"), "yours is a str: 'train'"),
        (lambda starts, *rest: {"train": starts > 3, "test": starts < 3}, "returned a dict"),
    ],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name):
    for attempt, words in WRONG_TYPES[name]:
        said = getattr(nb09, name).judge(attempt).text
        assert "not yet" in said and words in said, said
        assert "Your code stopped" not in said and "returns None" not in said, said


@pytest.mark.parametrize("name, helper", [
    ("coverage", lambda *arguments: corpus.expected_coverage(*arguments)),
    ("checkpoint", lambda *arguments: experiments.best_checkpoint(*arguments)),
])
def test_the_course_own_function_is_not_a_solution(name, helper):
    verdict = getattr(nb09, name).judge(helper)
    assert not verdict.solved and "correct, but not by hand" in verdict.text


def test_coverage_agrees_with_drawing():
    N, T, draws, seen = 40, 6, 5, []
    for seed in range(2000):
        starts = torch.randint(N - T, (draws, 1), generator=torch.Generator().manual_seed(seed))
        seen.append(len((starts + torch.arange(T)).unique()) / N)
    assert np.mean(seen) == pytest.approx(corpus.expected_coverage(N, T, draws), abs=0.01)
