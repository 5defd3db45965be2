"""Notebook 00's exercise: plausible wrong answers get a helpful message, other right answers are accepted."""

import pytest
import torch

from helpers.course.exercises import nb00


def by_the_largest(numbers):
    return [number / max(numbers) for number in numbers]


def by_the_count(numbers):
    return [number / len(numbers) for number in numbers]


def whole_numbers(numbers):
    return [number // sum(numbers) for number in numbers]


def by_the_sum_of_the_others(numbers):
    return [number / (sum(numbers) - number) if len(numbers) > 1 else 1.0 for number in numbers]


def only_the_first(numbers):
    return [numbers[0] / sum(numbers)]


def the_sum(numbers):
    return sum(numbers)


def right_for_three(numbers):
    return [number / 8 for number in numbers]


def from_large_to_small(numbers):
    return sorted((number / sum(numbers) for number in numbers), reverse=True)


WRONG = {
    "shares": [
        (by_the_largest, "largest share is 1"),
        (by_the_count, "the count of the numbers"),
        (whole_numbers, "drops the fraction"),
        (by_the_sum_of_the_others, "Expected a sum of 1, and each"),
        (lambda numbers: numbers, "nothing has been divided"),
        (lambda numbers: [1 / len(numbers)] * len(numbers), "All your shares are equal"),
        (only_the_first, "Return 3 numbers: the share of 1, the share of 2, the share of 5. You returned a list of 1"),
        (the_sum, "You returned a float: 8.0"),
        (lambda numbers: [number / sum(numbers) for number in numbers[:-1]] + [float("nan")], "with a sum of nan"),
        (from_large_to_small, "not in the order of the numbers"),
        (lambda numbers: [100 * number / sum(numbers) for number in numbers], "These are percentages"),
        (right_for_three, "For [3.0, 3.0, 3.0, 3.0]: Your shares are 0.375, 0.375, 0.375, 0.375, with a sum of 1.5"),
    ],
}


WRONG_TYPES = [
    ("shares", (0.5, 0.5), "You returned a tuple of 2 numbers"),
    ("shares", [0.1, 0.2, 0.3, 0.4], "You returned a list of 4 numbers"),
    ("shares", "one eighth", "You returned a str: 'one eighth'"),
    ("shares", {1.0: 0.125, 2.0: 0.25, 5.0: 0.625}, "You returned a dict"),
    ("shares", [torch.ones(2), torch.ones(2), torch.ones(2)], "a list of 3 tensors of shapes (2,)"),
    ("shares", torch.ones(3, 2), "a tensor of shape (3, 2)"),
]


@pytest.mark.parametrize("name, answer, words", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name, answer, words):
    verdict = getattr(nb00, name).judge(lambda *arguments: answer)
    assert not verdict.solved and words in verdict.text, verdict.text
    assert "Your code stopped" not in verdict.text and "The check cannot use" not in verdict.text, verdict.text


def with_tensors(numbers):
    return torch.tensor(numbers) / sum(numbers)


def in_place(numbers):
    total = sum(numbers)
    for i in range(len(numbers)):
        numbers[i] /= total
    return numbers


def test_other_right_answers_are_accepted(capsys):
    for attempt in (with_tensors, in_place, lambda numbers: tuple(n / sum(numbers) for n in numbers)):
        nb00.shares.check(attempt)
        assert ": correct." in capsys.readouterr().out
