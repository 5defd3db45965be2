"""The practice exercise of notebook 00: shares that sum to 1, the last step of every softmax."""

from helpers.course.checking import Exercise, NotYet, needs_answer


def share_out(numbers):
    """A list of positive numbers -> a list with the share of each, in the same order. The shares sum to 1."""
    total = sum(numbers)
    return [number / total for number in numbers]


def _test_shares(attempt):
    """Compares with typical mistakes, on numbers for which each mistake gives a different result."""
    numbers = [1.0, 2.0, 5.0]
    answer = needs_answer(attempt(list(numbers)))
    try:
        shares = [float(share) for share in answer]
    except (TypeError, ValueError):
        raise NotYet(f"For {numbers}, expected a list of 3 shares; you return {answer!r}.") from None
    if len(shares) != 3:
        raise NotYet(f"For {numbers}, expected one share for each number, 3 in all; you return {len(shares)}.")
    mistakes = {
        "Your largest share is 1: you divide by the largest number. Which divisor makes the shares sum to 1?":
            [number / max(numbers) for number in numbers],
        "You divide by the count of the numbers. Then the shares sum to the numbers' mean, not to 1.":
            [number / len(numbers) for number in numbers],
        "Your shares are whole numbers, because // drops the fraction. Use /.": [number // 8 for number in numbers],
        "You return the numbers themselves: nothing has been divided yet.": numbers,
        "All your shares are equal. A larger number must get a larger share.": [1 / 3] * 3,
    }
    for message, wrong in mistakes.items():
        if max(abs(a - b) for a, b in zip(shares, wrong)) < 1e-6:
            raise NotYet(message)
    for given in (numbers, [3.0, 3.0, 3.0, 3.0], [0.5]):
        shares, right = [float(share) for share in attempt(list(given))], share_out(given)
        if len(shares) != len(right) or max(abs(a - b) for a, b in zip(shares, right)) > 1e-6:
            raise NotYet(f"For {given}, your shares are {shares}, with a sum of {sum(shares):.3g}. Expected a sum of "
                         "1, and each share in proportion to its number.")
    return "Softmax does this with e to the power of each score. You will use it in notebook 01."


shares = Exercise(
    "Shares that sum to 1", 1, 2,
    ("Three people paid 1, 2 and 5 for a present. What share of it did each of them pay?",
     "Divide each number by the sum of all of them, sum(numbers)."),
    _test_shares, share_out,
)
