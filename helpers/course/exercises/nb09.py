"""Exercises of notebook 09: an equal budget, paired differences, how much of a text is sampled, the best checkpoint, a
split without leakage."""

import math

import numpy as np
import torch

from helpers.corpus import expected_coverage
from helpers.course.checking import Exercise, NotYet, as_number, as_numbers, close, describe, needs_answer
from helpers.course.experiments import best_checkpoint

# --- an equal budget -------------------------------------------------------------------------------------------------


def equal_budget(steps, batch_size, context, new_batch_size, new_context):
    """The largest number of steps of new_batch_size x new_context tokens that reads no more than the first run."""
    return steps * batch_size * context // (new_batch_size * new_context)


def _test_budget(attempt):
    """Compares the numbers of steps for other batches, other contexts, and for budgets that leave a rest."""
    def steps(*arguments):
        return as_number(attempt(*arguments), "the number of steps, one number")

    answer = steps(500, 16, 256, 8, 256)
    if close(answer, 250):
        raise NotYet("With half the batch a run needs twice as many steps, not half as many. Invert the fraction.")
    if not close(answer, 1000):
        raise NotYet(f"500 steps of 16 x 256 tokens, then steps of 8 x 256: you return {answer:g}; expected 1000.")
    answer = steps(500, 16, 256, 16, 128)
    if close(answer, 500):
        raise NotYet("A shorter context also means fewer tokens per step: a step reads batch size x context tokens.")
    if not close(answer, 1000):
        raise NotYet(f"500 steps of 16 x 256 tokens, then steps of 16 x 128: you return {answer:g}; expected 1000.")
    answer = steps(100, 10, 10, 3, 7)
    if close(answer, 10_000 / 21):
        raise NotYet(f"A run cannot make {answer:.2f} steps. Round down: the budget must not be exceeded.")
    if close(answer, 477):
        raise NotYet("477 steps of 3 x 7 tokens read 10,017, more than the 10,000 of the first run. Round down.")
    if not close(answer, equal_budget(100, 10, 10, 3, 7)):
        raise NotYet(f"100 steps of 10 x 10 tokens, then steps of 3 x 7: you return {answer:g}; expected 476.")
    answer = steps(90, 6, 16, 7, 5)
    if close(answer, 247):
        raise NotYet("247 steps of 7 x 5 tokens read 8,645, more than the 8,640 of the first run. Round down, not to "
                     "the nearest whole number.")
    if not close(answer, equal_budget(90, 6, 16, 7, 5)):
        raise NotYet(f"90 steps of 6 x 16 tokens, then steps of 7 x 5: you return {answer:g}; expected 246.")
    return "The arms of this notebook read as many tokens as the base arm, unless its text says otherwise."


# --- paired differences ----------------------------------------------------------------------------------------------


def paired_difference(losses, base_losses):
    """The losses of two arms, seed by seed -> the mean of their differences and its standard error."""
    differences = [loss - base for loss, base in zip(losses, base_losses, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean, math.sqrt(variance / n)


def _test_difference(attempt):
    """Compares the mean and its standard error for 4, 3 and 6 seeds."""
    for a, b in (([5.2, 5.9, 5.5, 5.1], [5.0, 5.8, 5.2, 5.0]), ([4.0, 4.5, 4.1], [4.6, 4.7, 4.4]),
                 ([6.1, 5.8, 6.6, 6.0, 5.2, 6.3], [6.2, 5.5, 5.9, 6.3, 5.0, 5.6])):
        mean, error = as_numbers(attempt(list(a), list(b)), ("the mean of the differences", "its standard error"))
        right, right_error = paired_difference(a, b)
        if close(mean, -right, 1e-4):
            raise NotYet("The sign is wrong. Subtract the base arm from the first arm: a positive difference is worse.")
        if close(mean, right_error, 1e-4) and close(error, right, 1e-4):
            raise NotYet("The two values are in the wrong order: return the mean, then its standard error.")
        if not close(mean, right, 1e-4):
            raise NotYet(f"The mean of the differences is {right:.4f}; you return {mean:.4f}.")
        for wrong, message in _error_mistakes(a, b):
            if close(error, wrong, 1e-4):
                raise NotYet(message)
        if not close(error, right_error, 1e-4):
            raise NotYet(f"The mean is right. Its standard error is {right_error:.4f}; you return {error:.4f}.")
    return "Chance that raises both losses of a pair alike cancels in their difference."


def _error_mistakes(a, b):
    """The results of typical mistakes in the standard error: (number, message) pairs."""
    n, error = len(a), paired_difference(a, b)[1]
    spread = error * math.sqrt(n)
    return (
        (spread, "That is the standard deviation of one difference. The mean of n differences varies less: divide by "
         "sqrt(n)."),
        (spread * math.sqrt((n - 1) / n), "That is the standard deviation of one difference, computed with n. The mean "
         "comes from the same data, so divide the sum of squares by n - 1, and then the variance by n."),
        (error * math.sqrt((n - 1) / n), "Divide the sum of squares by n - 1: the mean comes from the same data. "
         "(torch.std does this by default, numpy.std with ddof=1.)"),
        (error**2, "That is the square of the standard error: take the root."),
        (spread / n, "Divide the standard deviation by sqrt(n), not by n."),
        (math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / n), "You use the spread of each arm by itself. But runs "
         "with the same seed share their luck: take the difference of each pair first, then the spread of the "
         "differences."),
    )


# --- how much of a text is sampled -----------------------------------------------------------------------------------


def _test_coverage(attempt):
    """Compares the coverage for several texts, windows and numbers of draws."""
    for N, T, draws in ((50, 10, 1), (50, 10, 8), (50, 10, 4000), (9, 8, 1), (31, 4, 5), (26, 17, 2)):
        answer = as_number(attempt(N, T, draws), "the expected share of all tokens, one number")
        right = expected_coverage(N, T, draws)
        if close(answer, right, 1e-5):
            continue
        for wrong, message in (
            (1 - (1 - T / (N - T)) ** draws if T < N - T else -1, "That is the share inside the text. Near both ends "
             "fewer windows contain a token: count the windows of each token, as in notebook 07."),
            (1 - (1 - T / N) ** draws, "There are N - T starts, not N, and near both ends fewer than T windows contain "
             "a token."),
            (min(1.0, draws * T / N), "draws * T counts a token twice if it is drawn twice. What is the probability "
             "that all draws miss it?"),
            (1 - right, "That is the share that is missed. The coverage is 1 minus it."),
            (1 - math.exp(-draws * T / N), "That is an approximation for the middle of a long text. The exact "
             "probability that all draws miss a token is (1 - windows / starts) ** draws."),
        ):
            if close(answer, wrong, 1e-5):
                raise NotYet(message)
        raise NotYet(f"For N = {N}, T = {T} and {draws} draws the expected share is {right:.4f}; you return "
                     f"{answer:.4f}.")
    return "The last token is never an input, so no number of draws reaches 100 %."


# --- the best checkpoint ---------------------------------------------------------------------------------------------


def _test_checkpoint(attempt):
    """Compares the two indices for curves of several lengths, and for patience of 1 to 9."""
    curve = [8.0, 6.0, 5.5, 5.6, 5.4, 5.5, 5.6, 5.7, 5.2]
    for losses, patience, hint in (
        (curve, 2, "5.6 is no new best, but 5.4 is: start counting again from 5.4."),
        (curve, 1, "With patience 1 training stops at the first measurement that is no new best."),
        (curve, 9, "Patience never runs out, so training continues to the end, where the loss is lowest."),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 2, "An equal loss is no improvement: keep the earlier checkpoint and "
                                       "continue counting."),
        ([3.0, 2.0, 1.0], 1, "The loss falls until the end: keep the last checkpoint."),
        ([2.0, 2.5, 2.25, 2.125, 1.0, 3.0], 3, "The first measurement is the best, and three others follow it."),
        ([4.0, 3.0, 3.5, 3.25], 3, "Only two measurements follow the best one when training ends."),
    ):
        answer = attempt(list(losses), patience)
        kept, stopped = as_numbers(answer, ("the index of the checkpoint to keep", "the index of the measurement "
                                                                                   "after which training stops"))
        _explain_checkpoint(kept, stopped, losses, patience, hint)
    return "The set that the rule looks at has been used: report the loss on one that has chosen nothing."


def _explain_checkpoint(kept, stopped, losses, patience, hint):
    """Raises NotYet unless the two indices are right."""
    right_kept, right_stopped = best_checkpoint(losses, patience)
    if (kept, stopped) == (right_kept, right_stopped):
        return
    case = f"For {losses} and patience {patience}"
    comparison = f"{case} you return {kept:g} and {stopped:g}; expected {right_kept} and {right_stopped}. {hint}"
    if hint.startswith("An equal"):
        raise NotYet(comparison)
    if (kept, stopped) == (right_stopped, right_kept):
        raise NotYet(f"{case} your two indices are in the wrong order: first the one to keep.")
    if (kept, stopped) == (losses[right_kept], losses[right_stopped]):
        raise NotYet(f"{case} you return two losses. Return their indices.")
    if kept == stopped == right_stopped:
        raise NotYet(f"{case} you keep the last checkpoint. Keep the best one measured up to that point.")
    if kept == losses.index(min(losses)) and kept > right_stopped:
        raise NotYet(f"{case} you keep a checkpoint that is never reached: training stops before it.")
    if kept == right_kept and stopped == right_stopped + 1:
        raise NotYet(f"{case} you stop one measurement too late. {hint}")
    if kept == right_kept and stopped == right_stopped - 1:
        raise NotYet(f"{case} you stop one measurement too early. {hint}")
    raise NotYet(comparison)


# --- a split without leakage -----------------------------------------------------------------------------------------


def leak_free_split(starts, T, first, last):
    """Sorts windows into training and test windows. The test region is the tokens first ... last - 1.

    starts (n,) int64; a window has its inputs at start ... start + T - 1 and its targets one position later.
    Returns two Boolean masks (n,): training windows share no token with the region, test windows lie inside it, and
    windows across its edges are in neither.
    """
    end = starts + T + 1  # the position after the last target
    train = (end <= first) | (starts >= last)
    test = (starts >= first) & (end <= last)
    return train, test


def _split_mistakes(starts, T, first, last):
    """The results of typical mistakes: {message to the learner: (train, test)}."""
    end = starts + T + 1
    train, test = leak_free_split(starts, T, first, last)
    inside = (starts >= first) & (starts < last)
    short = starts + T
    return {
        "Windows across an edge of the test region are in your training set, with test tokens in them. They belong to "
        "neither set.": (~test, test),
        "A window across an edge of the test region is in your test set, although it also contains training tokens. It "
        "belongs to neither set.": (train, ~train),
        "You look only at the start of each window. A window that starts before the test region can reach into it.":
            (~inside, inside),
        "You ignore the last target: the tokens of a window run from start to start + T, which is T + 1 tokens.":
            ((short <= first) | (starts >= last), (starts >= first) & (short <= last)),
        "Windows after the test region are missing from your training set.": (end <= first, test),
        "The two masks are in the wrong order: return train first, then test.": (test, train),
    }


def _as_masks(answer, n):
    """A learner's two masks over n windows, as Boolean tensors."""
    needs_answer(answer)
    if not isinstance(answer, (tuple, list, torch.Tensor, np.ndarray)) or len(answer) != 2:
        raise NotYet(f"Return two masks: train, test. You returned {describe(answer)}.")
    masks = []
    for name, mask in zip(("train", "test"), answer):
        try:
            masks.append(torch.as_tensor(mask if isinstance(mask, torch.Tensor) else np.asarray(mask)))
        except (TypeError, ValueError, RuntimeError):
            raise NotYet(f"{name}: expected a Boolean mask of shape ({n},); yours is {describe(mask)}.") from None
        if masks[-1].dtype != torch.bool or masks[-1].shape != (n,):
            raise NotYet(f"{name}: expected a Boolean mask of shape ({n},); yours is {describe(mask)}.")
    return masks


def _test_split(attempt):
    """Compares the masks for regions in the middle, at the end, shorter than a window, and at the beginning."""
    for n, T, first, last in ((60, 5, 20, 40), (60, 5, 50, 66), (45, 9, 20, 24), (33, 2, 0, 7)):
        starts = torch.randperm(n, generator=torch.Generator().manual_seed(n))
        masks = _as_masks(attempt(starts.clone(), T, first, last), n)
        right = leak_free_split(starts, T, first, last)
        if all(map(torch.equal, masks, right)):
            continue
        for message, wrong in _split_mistakes(starts, T, first, last).items():
            if all(map(torch.equal, masks, wrong)):
                raise NotYet(message)
        for name, mask, right_mask in zip(("train", "test"), masks, right):
            if not torch.equal(mask, right_mask):
                start = int(starts[mask != right_mask].min())
                raise NotYet(f"T = {T}, test region {first} to {last - 1}. The window that starts at {start} contains "
                             f"the tokens {start} to {start + T}; your {name} mask is {bool(mask[starts == start])} "
                             "for it.")
    return "Windows across an edge of the test region are in neither set, so both sets lose some text."


budget = Exercise(
    "An equal budget", 1, 5,
    ("How many tokens does one step read? How many tokens did the first run read in total?",
     "The first run read steps * batch_size * context tokens. Divide by the tokens of a new step, and round down with "
     "//."),
    _test_budget, equal_budget,
)
difference = Exercise(
    "Paired differences", 2, 10,
    ("Subtract seed by seed first. That leaves one list of differences. What are its mean and its spread?",
     "The variance of the differences is the sum of their squared distances from the mean, divided by n - 1.",
     "The standard error of the mean is sqrt(variance / n). Return mean, error."),
    _test_difference, paired_difference,
)
coverage = Exercise(
    "How much of a text is sampled", 2, 15,
    ("Take one token. What is the probability that one draw contains it? That all draws miss it? Then take the mean "
     "over all tokens.",
     "You counted the windows that contain token i in an exercise of notebook 07: their starts run from "
     "max(0, i - T + 1) to min(i, N - T - 1).",
     "For each token, missed = (1 - windows / (N - T)) ** draws. The coverage is the mean of 1 - missed over all N "
     "tokens."),
    _test_coverage, expected_coverage, by_hand=("corpus.expected_coverage",),
)
checkpoint = Exercise(
    "The best checkpoint", 2, 10,
    ("Go through the losses and remember the index of the best one so far.",
     "Since the best loss there have been i - best measurements. When this number reaches patience, return best and i. "
     "After the loop, return best and the last index."),
    _test_checkpoint, best_checkpoint, by_hand=("experiments.best_checkpoint",),
)
split = Exercise(
    "A split without leakage", 3, 15,
    ("Write down all tokens of one window, including its targets. When do they avoid the region? When do they lie "
     "inside it?",
     "A window contains the tokens start to start + T, so it ends before token start + T + 1.",
     "train: the window ends at or before first, or starts at or after last (combine two masks with |). test: it "
     "starts at or after first, and ends at or before last (&)."),
    _test_split, leak_free_split,
)
