"""Exercises that check themselves: what an exercise is, and the comparisons that its check is made of."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from helpers.course.display import show_source


class NotYet(Exception):
    """Raised by a test: the attempt is not right yet, and the message says what to look at."""


@dataclass(frozen=True)
class Exercise:
    """One exercise. test(attempt) returns praise for a right attempt, and raises NotYet with a helpful sentence for
    any other.

    hints go from a nudge to nearly the whole answer; solution is a function that passes the test; difficulty goes from
    1 to 3; minutes is how long to try before looking at the solution.
    """

    title: str
    difficulty: int
    minutes: int
    hints: tuple
    test: Callable
    solution: Callable

    def check(self, attempt):
        """Prints whether the attempt is right. It never raises, so an unsolved exercise does not stop "Run all"."""
        try:
            print(f"{self.title}: correct. {self.test(attempt)}")
        except NotYet as reason:
            print(f"{self.title}: not yet. {reason}")
        except Exception as error:  # anything that a learner's code may raise
            print(f"{self.title}: not yet. Your code stopped with {type(error).__name__}: {error}")

    @property
    def name(self):
        """The exercise's name in a notebook: nb01.causal, for example."""
        module = sys.modules[self.test.__module__]
        return next(f"{module.__name__.split('.')[-1]}.{name}" for name, value in vars(module).items() if value is self)

    def hint(self, number=1):
        """Prints one hint. Each gives away more than the one before: first hint(), then hint(2), and so on."""
        if number not in range(1, len(self.hints) + 1):
            print(f"{self.title} has hints 1 to {len(self.hints)}. After those, use {self.name}.show_solution().")
            return
        after = f"{self.name}.hint({number + 1})" if number < len(self.hints) else f"{self.name}.show_solution()"
        print(f"Hint {number} of {len(self.hints)}: {self.hints[number - 1]} (Next: {after})")

    def show_solution(self):
        """Shows the source of a solution. It is tested code."""
        show_source(self.solution)


def needs_answer(answer):
    """Returns the answer, and raises NotYet while it is still None, as it is from an exercise's stub."""
    if answer is None:
        raise NotYet("Your function returns None so far: write its body, then run the cell again.")
    return answer


def as_floats(answer):
    """A learner's answer as a float32 tensor. Python numbers, arrays and other precisions are accepted, too."""
    return torch.as_tensor(needs_answer(answer)).detach().float()


def same(answer, right):
    """Whether a learner's tensor has the right shape and values."""
    return answer.shape == right.shape and torch.allclose(answer, right.detach().float(), rtol=1e-4, atol=1e-4)


def name_the_mistake(answer, mistakes):
    """Raises NotYet with the message whose result the answer equals. mistakes: (message, result) pairs."""
    for message, result in mistakes:
        if same(answer, result):
            raise NotYet(message)


def close(answer, right, tolerance=1e-6):
    """Whether a learner's number (plain, NumPy's or torch's) is the right one."""
    return math.isclose(float(answer), float(right), rel_tol=tolerance, abs_tol=1e-9)
