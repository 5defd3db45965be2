"""Exercises of notebook 09: an equal budget, a difference in pairs, how much of a text is drawn, a best checkpoint, a
split without leakage."""

import math

import torch

from helpers.exercises import Exercise, NotYet, needs_answer


def close(answer, right, tolerance=1e-6):
    """Whether a learner's number (plain, NumPy's or torch's) is the right one."""
    return math.isclose(float(answer), float(right), rel_tol=tolerance, abs_tol=1e-9)


# --- an equal budget -------------------------------------------------------------------------------------------------


def equal_budget(steps, batch_size, context, new_batch_size, new_context):
    """The number of steps of new_batch_size x new_context that read at most as many tokens as the first run."""
    return steps * batch_size * context // (new_batch_size * new_context)


def _test_budget(attempt):
    answer = needs_answer(attempt(500, 16, 256, 8, 256))
    if close(answer, 250):
        raise NotYet("With half the batch a run needs twice as many steps, not half as many. Turn the fraction round.")
    if not close(answer, 1000):
        raise NotYet(f"500 steps of 16 x 256 against steps of 8 x 256: you give {answer}, 1000 was expected.")
    answer = attempt(500, 16, 256, 16, 128)
    if close(answer, 500):
        raise NotYet("A shorter context also means fewer tokens per step: a step reads batch size x context tokens.")
    if not close(answer, 1000):
        raise NotYet(f"500 steps of 16 x 256 against steps of 16 x 128: you give {answer}, 1000 was expected.")
    answer = attempt(100, 10, 10, 3, 7)
    if close(answer, 10_000 / 21):
        raise NotYet(f"{float(answer):.2f} steps cannot be made. Round down: the budget must not be exceeded.")
    if close(answer, 477):
        raise NotYet("477 steps of 3 x 7 read 10,017 tokens, more than the 10,000 of the first run. Round down.")
    if not close(answer, equal_budget(100, 10, 10, 3, 7)):
        raise NotYet(f"100 steps of 10 x 10 against steps of 3 x 7: you give {answer}, 476 was expected.")
    return "All arms of this notebook read as many tokens as the base arm, unless the table says otherwise."


# --- a difference in pairs -------------------------------------------------------------------------------------------


def paired_difference(losses, base_losses):
    """Losses of two arms, seed by seed -> (mean of the differences, its standard error)."""
    differences = [loss - base for loss, base in zip(losses, base_losses, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean, math.sqrt(variance / n)


def _test_difference(attempt):
    a, b = [5.2, 5.9, 5.5, 5.1], [5.0, 5.8, 5.2, 5.0]
    answer = needs_answer(attempt(list(a), list(b)))
    if not hasattr(answer, "__len__") or len(answer) != 2:
        raise NotYet("Return two numbers: the mean of the differences and its standard error.")
    mean, error = (float(part) for part in answer)
    right_mean, right_error = paired_difference(a, b)
    if close(mean, -right_mean):
        raise NotYet("The sign is turned round: the first arm minus the base arm, so that a positive number is worse.")
    if not close(mean, right_mean):
        raise NotYet(f"The mean of the differences is {right_mean:.4f}; you give {mean:.4f}.")
    n, spread = len(a), right_error * math.sqrt(len(a))

    def variance(values):
        middle = sum(values) / n
        return sum((value - middle) ** 2 for value in values) / (n - 1)

    for wrong, message in (
        (spread, "That is the standard deviation of one difference. The mean of n is steadier: divide by sqrt(n)."),
        (spread * math.sqrt((n - 1) / n), "The standard deviation of one difference, and with n: the mean was taken "
         "from the same numbers, so divide the sum of squares by n - 1, and then the variance by n."),
        (right_error * math.sqrt((n - 1) / n), "Divide the sum of squares by n - 1: the mean was taken from the same "
         "numbers (torch.std does this by itself, numpy.std with ddof=1)."),
        (right_error**2, "That is the square of it: the root is missing."),
        (spread / n, "Divide the standard deviation by sqrt(n), not by n."),
        (math.sqrt((variance(a) + variance(b)) / n), "You take each arm's own spread. But runs with the same seed "
         "share their luck: take the difference of each pair first, then the spread of the differences."),
    ):
        if close(error, wrong, 1e-4):
            raise NotYet(message)
    if not close(error, right_error, 1e-4):
        raise NotYet(f"The mean is right. Its standard error is {right_error:.4f}; you give {error:.4f}.")
    return "Pairs share the first weights and the batches, so their differences vary less than the losses themselves."


# --- how much of a text is drawn -------------------------------------------------------------------------------------


def expected_coverage(N, T, draws):
    """The expected share of N tokens that at least one of so many random windows of T tokens holds as an input."""
    tokens = torch.arange(N)
    first, last = (tokens - T + 1).clamp(min=0), tokens.clamp(max=N - T - 1)
    holding = (last - first + 1).clamp(min=0).double()  # windows that hold each token, (N,)
    missed = (1 - holding / (N - T)) ** draws
    return (1 - missed).mean().item()


def _test_coverage(attempt):
    cases = ((50, 10, 1), (50, 10, 8), (50, 10, 4000), (9, 8, 1))
    for N, T, draws in cases:
        answer = float(needs_answer(attempt(N, T, draws)))
        right = expected_coverage(N, T, draws)
        if close(answer, right, 1e-5):
            continue
        for wrong, message in (
            (1 - (1 - T / (N - T)) ** draws if T < N - T else -1, "That is the share inside the text. At both ends "
             "fewer windows hold a token: count the windows of each token (exercise 3 of notebook 07)."),
            (1 - (1 - T / N) ** draws, "Every token is not in T of N windows: there are N - T starts, and at both ends "
             "fewer windows hold a token."),
            (min(1.0, draws * T / N), "draws * T counts a token twice that is drawn twice. What is the chance that all "
             "draws miss it?"),
            (1 - right, "That is the share that is missed. The coverage is 1 minus it."),
            (1 - math.exp(-draws * T / N), "That is an approximation for the middle of a long text. The exact chance "
             "that all draws miss a token is (1 - windows / starts) ** draws."),
        ):
            if close(answer, wrong, 1e-5):
                raise NotYet(message)
        raise NotYet(f"For N = {N}, T = {T} and {draws} draws the expected share is {right:.4f}; you give "
                     f"{answer:.4f}.")
    return "The last token is never an input, so even endless draws do not reach 100 %."


# --- a best checkpoint -----------------------------------------------------------------------------------------------


def best_checkpoint(test_losses, patience):
    """Early stopping: (index of the checkpoint to keep, index of the measurement after which training stops)."""
    best = 0
    for i, loss in enumerate(test_losses):
        if loss < test_losses[best]:
            best = i
        if i - best >= patience:  # so many measurements in a row without a new best
            return best, i
    return best, len(test_losses) - 1


def _test_checkpoint(attempt):
    curve = [8.0, 6.0, 5.5, 5.6, 5.4, 5.5, 5.6, 5.7, 5.2]
    answer = needs_answer(attempt(list(curve), 2))
    if not hasattr(answer, "__len__") or len(answer) != 2:
        raise NotYet("Return two indices: which checkpoint is kept, and after which measurement training stops.")
    for losses, patience, hint in (
        (curve, 2, "5.6 is one measurement without a new best, then 5.4 is one: begin to count again."),
        (curve, 1, "With patience 1 the first measurement that is no new best ends the training."),
        (curve, 9, "Patience is never used up, so training goes to the end, and the last value is the best."),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 2, "An equal loss is no improvement: keep the earlier checkpoint, and go on "
                                       "counting."),
        ([3.0, 2.0, 1.0], 1, "The loss falls to the end: keep the last checkpoint."),
    ):
        kept, stopped = (int(part) for part in attempt(list(losses), patience))
        right_kept, right_stopped = best_checkpoint(losses, patience)
        where = f"For {losses} and patience {patience}"
        if (kept, stopped) == (right_kept, right_stopped):
            continue
        if hint.startswith("An equal"):
            raise NotYet(f"{where} you give {kept} and {stopped}; {right_kept} and {right_stopped} was expected. "
                         f"{hint}")
        if kept == stopped and kept == right_stopped:
            raise NotYet(f"{where} you keep the last checkpoint. Keep the best one that was measured until then.")
        if kept == losses.index(min(losses)) and kept > right_stopped:
            raise NotYet(f"{where} you keep a checkpoint that is never reached: training has stopped before it.")
        if kept == right_kept and stopped == right_stopped + 1:
            raise NotYet(f"{where} you stop one measurement too late. {hint}")
        if kept == right_kept and stopped == right_stopped - 1:
            raise NotYet(f"{where} you stop one measurement too early. {hint}")
        raise NotYet(f"{where} you give {kept} and {stopped}; {right_kept} and {right_stopped} was expected. {hint}")
    return "A rule that looks at the test part has used it: report the loss on a part that chose nothing."


# --- a split without leakage -----------------------------------------------------------------------------------------


def leak_free_split(starts, T, first, last):
    """Windows with inputs start ... start + T - 1, targets one further on; tokens first ... last - 1 are for testing.

    starts (n,) int64 -> two boolean masks (n,): windows to train on share no token with the test region, windows to
    test on lie inside it; windows that stand across its edges are in neither.
    """
    end = starts + T + 1  # the token after the window and its last target
    train = (end <= first) | (starts >= last)
    test = (starts >= first) & (end <= last)
    return train, test


def _split_mistakes(starts, T, first, last):
    """What typical slips give: {what to tell the learner: (train, test)}."""
    end = starts + T + 1
    train, test = leak_free_split(starts, T, first, last)
    inside = (starts >= first) & (starts < last)
    short = starts + T
    return {
        "Windows across an edge of the test region are in your training set, with test tokens in them. They belong to "
        "neither set.": (~test, test),
        "A window across an edge of the test region is in your test set, but it also holds tokens of the training "
        "text. It belongs to neither set.": (train, ~train),
        "You look at the start of each window only. A window that starts before the test region can reach into it.":
            (~inside, inside),
        "The last target is forgotten: a window's tokens run from start to start + T, which is T + 1 tokens.":
            ((short <= first) | (starts >= last), (starts >= first) & (short <= last)),
        "Windows after the test region are missing from your training set.": (end <= first, test),
        "The two masks are in the wrong order: train first, then test.": (test, train),
    }


def _test_split(attempt):
    starts, T = torch.randperm(60, generator=torch.Generator().manual_seed(0)), 5
    for first, last in ((20, 40), (50, 66)):
        answer = needs_answer(attempt(starts.clone(), T, first, last))
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise NotYet("Return two masks: train, test.")
        masks = [torch.as_tensor(mask) for mask in answer]
        right = leak_free_split(starts, T, first, last)
        for name, mask in zip(("train", "test"), masks):
            if mask.dtype != torch.bool or mask.shape != starts.shape:
                raise NotYet(f"{name} must be a mask of {len(starts)} times True or False; yours is "
                             f"{tuple(mask.shape)} of {mask.dtype}.")
        if all(torch.equal(mask, wanted) for mask, wanted in zip(masks, right)):
            continue
        for message, wrong in _split_mistakes(starts, T, first, last).items():
            if all(torch.equal(mask, slip) for mask, slip in zip(masks, wrong)):
                raise NotYet(message)
        for name, mask, wanted in zip(("train", "test"), masks, right):
            if not torch.equal(mask, wanted):
                start = int(starts[mask != wanted].min())
                raise NotYet(f"T = {T}, test region {first} to {last - 1}. The window that starts at {start} holds the "
                             f"tokens {start} to {start + T}; your {name} mask says {bool(mask[starts == start])}.")
    return "What is thrown away at the edges is the price of an honest test."


budget = Exercise(
    "An equal budget", 1, 5,
    ("How many tokens does one step read? How many did the whole first run read?",
     "All tokens: steps * batch_size * context. Divide by the tokens of a new step, and round down with //."),
    _test_budget, equal_budget,
)
difference = Exercise(
    "A difference in pairs", 2, 10,
    ("Subtract seed by seed first. Then there is one list of differences; what are its mean and its spread?",
     "The variance of the differences is the sum of their squared distances from the mean, divided by n - 1.",
     "The standard error of the mean is sqrt(variance / n). Return mean, error."),
    _test_difference, paired_difference,
)
coverage = Exercise(
    "How much of a text is drawn", 2, 15,
    ("For one token: what is the chance that one draw holds it? That all draws miss it? Then take the mean over "
     "tokens.",
     "The number of windows that hold token i was exercise 3 of notebook 07: from max(0, i - T + 1) to min(i, N - T - "
     "1).",
     "missed = (1 - windows / (N - T)) ** draws for each token; the coverage is the mean of 1 - missed over all N "
     "tokens."),
    _test_coverage, expected_coverage,
)
checkpoint = Exercise(
    "A best checkpoint", 2, 10,
    ("Go through the losses and remember the index of the best one so far.",
     "The measurements since the best are i - best. When they reach patience, return best and i. After the loop: best "
     "and the last index."),
    _test_checkpoint, best_checkpoint,
)
split = Exercise(
    "A split without leakage", 3, 15,
    ("Write down all tokens of one window, its targets too. When do they avoid the region? When do they lie inside it?",
     "A window holds the tokens start to start + T, so it ends before token start + T + 1.",
     "train: it ends at first or before, or it starts at last or after (join two masks with |). test: it starts at "
     "first or after, and ends at last or before (&)."),
    _test_split, leak_free_split,
)
