"""Notebook 09's exercises: wrong answers get a helpful message, and correct answers in any form are accepted."""

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


def keeps_the_last(test_losses, patience):
    _, stopped = experiments.best_checkpoint(test_losses, patience)
    return stopped, stopped


def looks_ahead(test_losses, patience):
    return test_losses.index(min(test_losses)), experiments.best_checkpoint(test_losses, patience)[1]


def never_counts_again(test_losses, patience):
    best, worse = 0, 0
    for i, loss in enumerate(test_losses):
        best, worse = (i, worse) if loss < test_losses[best] else (best, worse + (i > 0))
        if worse >= patience:
            return best, i
    return best, len(test_losses) - 1


def one_too_late(test_losses, patience):
    kept, _ = experiments.best_checkpoint(test_losses, patience)
    return kept, experiments.best_checkpoint(test_losses, patience + 1)[1]


def takes_equal_ones(test_losses, patience):
    best = 0
    for i, loss in enumerate(test_losses):
        best = i if loss <= test_losses[best] else best
        if i - best >= patience:
            return best, i
    return best, len(test_losses) - 1


WRONG = {
    "budget": [
        (lambda steps, B, T, new_B, new_T: steps * new_B * new_T // (B * T), "Invert the fraction"),
        (lambda steps, B, T, new_B, new_T: steps * B // new_B, "batch size x context"),
        (lambda steps, B, T, new_B, new_T: steps * B * T / (new_B * new_T), "Round down"),
        (lambda steps, B, T, new_B, new_T: math.ceil(steps * B * T / (new_B * new_T)), "10,017"),
        (lambda steps, *rest: steps, "expected 1000"),
    ],
    "difference": [
        (lambda a, b: nb09.paired_difference(b, a), "sign is wrong"),
        (lambda a, b: nb09.paired_difference(a, b)[0], "two values"),
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
        (lambda test_losses, patience: test_losses.index(min(test_losses)), "two indices"),
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
    ],
}


def coverage_by_counting(N, T, draws):
    windows = [sum(s <= i < s + T for s in range(N - T)) for i in range(N)]
    return np.mean([1 - (1 - w / (N - T)) ** draws for w in windows])


def difference_by_torch(losses, base_losses):
    differences = torch.tensor(losses) - torch.tensor(base_losses)
    return differences.mean(), differences.std() / math.sqrt(len(losses))


def split_by_sets(starts, T, first, last):
    held = [set(range(s, s + T + 1)) for s in starts.tolist()]
    region = set(range(first, last))
    return [not tokens & region for tokens in held], np.array([tokens <= region for tokens in held])


@pytest.mark.parametrize("exercise, right", [
    (nb09.budget, lambda steps, B, T, new_B, new_T: int(torch.tensor(steps * B * T) // (new_B * new_T))),
    (nb09.difference, difference_by_torch),
    (nb09.coverage, coverage_by_counting),
    (nb09.checkpoint, lambda losses, patience: torch.tensor(experiments.best_checkpoint(losses, patience))),
    (nb09.split, split_by_sets),
])
def test_correct_answers_in_other_forms_are_accepted(exercise, right, capsys):
    exercise.check(right)
    assert ": correct." in capsys.readouterr().out


def test_coverage_agrees_with_drawing():
    N, T, draws, seen = 40, 6, 5, []
    for seed in range(2000):
        starts = torch.randint(N - T, (draws, 1), generator=torch.Generator().manual_seed(seed))
        seen.append(len((starts + torch.arange(T)).unique()) / N)
    assert np.mean(seen) == pytest.approx(corpus.expected_coverage(N, T, draws), abs=0.01)
