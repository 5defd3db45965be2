"""For each exercise: correct attempts in different styles, and arguments that its check does not use.

tests/course/test_judge.py needs both: every style must be accepted, and of the solution's mutants that change its
result on these arguments at least 95 % must be rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """styles: at least five correct attempts. inputs(seed): the arguments of one call, of sizes that depend on the seed
    and differ from the check's. run(attempt, *arguments): what to compare, where a plain call is not enough.
    most: how many mutants of the solution are tried, drawn at random from all."""

    styles: list
    inputs: Callable
    run: Callable = lambda attempt, *arguments: attempt(*arguments)
    most: int = 60
