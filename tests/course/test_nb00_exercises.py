"""Notebook 00's exercise: plausible wrong answers get a helpful message, other right answers are accepted."""

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


WRONG = {
    "shares": [
        (by_the_largest, "largest share is 1"),
        (by_the_count, "the count of the numbers"),
        (whole_numbers, "drops the fraction"),
        (by_the_sum_of_the_others, "Expected a sum of 1, and each"),
        (lambda numbers: numbers, "nothing has been divided"),
        (lambda numbers: [1 / len(numbers)] * len(numbers), "All your shares are equal"),
        (only_the_first, "3 in all"),
        (the_sum, "a list of 3 shares"),
        (right_for_three, "Expected a sum of 1, and each"),
    ],
}


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
