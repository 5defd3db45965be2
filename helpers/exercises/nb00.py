"""The exercise of notebook 00, for practice: shares that sum to 1, the last step of every softmax."""

from helpers.exercises import Exercise, NotYet, needs_answer


def share_out(numbers):
    """Positive numbers -> as many shares, in the same order, that sum to 1."""
    total = sum(numbers)
    return [number / total for number in numbers]


def _test_shares(attempt):
    """Compares with the typical slips, on numbers for which each slip gives another result."""
    numbers = [1.0, 2.0, 5.0]
    answer = needs_answer(attempt(list(numbers)))
    try:
        shares = [float(share) for share in answer]
    except (TypeError, ValueError):
        raise NotYet(f"For {numbers} a list of 3 shares was expected; you return {answer!r}.") from None
    if len(shares) != 3:
        raise NotYet(f"For {numbers} you return {len(shares)} numbers. Each number gets one share: 3 were expected.")
    mistakes = {
        "Your largest share is 1: you divide by the largest number. Which number makes all of them together 1?":
            [number / max(numbers) for number in numbers],
        "You divide by how many numbers there are. Then the shares sum to their mean.":
            [number / len(numbers) for number in numbers],
        "Your shares are cut to whole numbers: // drops the fraction. Use /.": [number // 8 for number in numbers],
        "These are the numbers themselves: nothing has been divided yet.": numbers,
        "All shares are equal. A larger number has a larger share.": [1 / 3] * 3,
    }
    for message, slip in mistakes.items():
        if max(abs(a - b) for a, b in zip(shares, slip)) < 1e-6:
            raise NotYet(message)
    for given in (numbers, [3.0, 3.0, 3.0, 3.0], [0.5]):
        shares, right = [float(share) for share in attempt(list(given))], share_out(given)
        if len(shares) != len(right) or max(abs(a - b) for a, b in zip(shares, right)) > 1e-6:
            raise NotYet(f"For {given} your shares are {shares}. They sum to {sum(shares):.3g}; 1 was expected, "
                         "and each share in proportion to its number.")
    return "Softmax does this with e to the power of each score. You meet it in notebook 01."


shares = Exercise(
    "Shares that sum to 1", 1, 2,
    ("Three people paid 1, 2 and 5 for a present. Which part of it belongs to each of them?",
     "Divide each number by the sum of all of them: sum(numbers) gives it."),
    _test_shares, share_out,
)
