"""Exercises that check themselves: one module per notebook, each with its exercises' hints, checks and tested
solutions."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from helpers.runtime import show_source


class NotYet(Exception):
    """Raised by a test: the attempt is not right yet, and the message says what to look at."""


@dataclass(frozen=True)
class Exercise:
    """One exercise. test(attempt) returns what to say when it is right and raises NotYet with a helpful sentence when
    not.

    hints go from a nudge to nearly the whole answer; solution is a function that passes the test; difficulty goes from
    1 to 3; minutes is the time to give it before the solution.
    """

    title: str
    difficulty: int
    minutes: int
    hints: tuple
    test: Callable
    solution: Callable

    def check(self, attempt):
        """Says whether the attempt is right. It never raises, so an exercise left open does not stop "Run all"."""
        try:
            print(f"{self.title}: correct. {self.test(attempt)}")
        except NotYet as reason:
            print(f"{self.title}: not yet. {reason}")
        except Exception as error:  # whatever a learner's code may raise
            print(f"{self.title}: not yet. Your code stopped with {type(error).__name__}: {error}")

    @property
    def name(self):
        """What a notebook calls the exercise: nb01.causal, for example."""
        module = sys.modules[self.test.__module__]
        return next(f"{module.__name__.split('.')[-1]}.{name}" for name, value in vars(module).items() if value is self)

    def hint(self, number=1):
        """Prints one hint. They get plainer: first hint(), then hint(2), and so on."""
        if number not in range(1, len(self.hints) + 1):
            print(f"{self.title} has the hints 1 to {len(self.hints)}. Then comes {self.name}.show_solution().")
            return
        after = f"{self.name}.hint({number + 1})" if number < len(self.hints) else f"{self.name}.show_solution()"
        print(f"Hint {number} of {len(self.hints)}: {self.hints[number - 1]} (Next: {after})")

    def show_solution(self):
        """Shows the source of a solution. It is tested code."""
        show_source(self.solution)


def needs_answer(answer):
    """Raises NotYet while an exercise's function still returns None, as its stub does."""
    if answer is None:
        raise NotYet("Your function returns None so far: write its body, then run the cell again.")
    return answer
