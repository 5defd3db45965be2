"""The practice exercise of notebook 00: shares that sum to 1, the last step of every softmax."""

from helpers.course.checking import Exercise, NotYet, as_numbers


def share_out(numbers):
    """A list of positive numbers -> a list with the share of each, in the same order. The shares sum to 1."""
    total = sum(numbers)
    return [number / total for number in numbers]


def _agree(shares, others):
    """Whether two lists of shares of one length agree."""
    return all(abs(a - b) < 1e-6 for a, b in zip(shares, others))  # never for NaN


def _mistake_in(shares, numbers):
    """What is wrong with shares that are not right: a typical mistake, or only what was expected."""
    count, right = len(numbers), share_out(numbers)
    mistakes = {
        "Your largest share is 1: you divide by the largest number. Which divisor makes the shares sum to 1?":
            [number / max(numbers) for number in numbers],
        "You divide by the count of the numbers. Then the shares sum to the numbers' mean, not to 1.":
            [number / count for number in numbers],
        "Your shares are whole numbers, because // drops the fraction. Use /.": [0.0] * count,
        "You return the numbers themselves: nothing has been divided yet.": numbers,
        "All your shares are equal. A larger number must get a larger share.": [1 / count] * count,
        "These are percentages: they sum to 100, not to 1.": [100 * share for share in right],
    }
    if _agree(sorted(shares), sorted(right)):
        return "The shares are right, but not in the order of the numbers."
    expected = (f"Your shares are {', '.join(f'{share:.4g}' for share in shares)}, with a sum of {sum(shares):.4g}. "
                "Expected a sum of 1, and each share in proportion to its number.")
    return next((message for message, wrong in mistakes.items() if _agree(shares, wrong)), expected)


def _test_shares(attempt):
    """Tries lists of several lengths, first one for which each typical mistake gives a different result."""
    for numbers in ([1.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0], [0.2, 4.0], [6.5, 0.5, 2.0, 7.0, 9.0, 1.0]):
        shares = as_numbers(attempt(list(numbers)), [f"the share of {number:g}" for number in numbers])
        if not _agree(shares, share_out(numbers)):
            raise NotYet(f"For {numbers}: {_mistake_in(shares, numbers)}")
    return ("Right for four lists of 2 to 6 numbers. Softmax does this with e to the power of each score. You will use "
            "it in notebook 01.")


shares = Exercise(
    "Shares that sum to 1", 1, 2,
    ("Three people paid 1, 2 and 5 for a present. What share of it did each of them pay?",
     "Divide each number by the sum of all of them, sum(numbers)."),
    _test_shares, share_out,
)
