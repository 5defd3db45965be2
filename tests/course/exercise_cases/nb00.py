"""Cases for the exercise of notebook 00."""

import random

import numpy as np
import torch

from tests.course.exercise_cases import Case


def with_a_loop(numbers):
    shares = []
    for number in numbers:
        shares.append(number / sum(numbers))
    return shares


def with_numpy(numbers):
    numbers = np.array(numbers)
    return numbers / numbers.sum()


def with_torch(numbers):
    numbers = torch.tensor(numbers)
    return numbers / numbers.sum()


def as_a_tuple(numbers):
    total = 0
    for number in numbers:
        total = total + number
    return tuple(map(lambda number: number / total, numbers))


def by_the_inverse(numbers):
    scale = 1 / sum(numbers)
    return [scale * number for number in numbers]


def some_numbers(seed):
    generator = random.Random(seed)
    return ([generator.uniform(0.1, 9) for _ in range(seed + 2)],)


CASES = {"shares": Case([with_a_loop, with_numpy, with_torch, as_a_tuple, by_the_inverse], some_numbers)}
