"""What holds for every exercise; the typical mistakes in each are tested in test_nbNN_exercises.py."""

import importlib

import pytest

from helpers import assets
from helpers.exercises import Exercise

MODULES = sorted(path.stem for path in (assets.ROOT / "helpers" / "exercises").glob("nb[0-9][0-9].py"))
ALL = {
    f"{module}.{name}": thing
    for module in MODULES
    for name, thing in vars(importlib.import_module(f"helpers.exercises.{module}")).items()
    if isinstance(thing, Exercise)
}


def stub(*arguments):
    return None


def raises(*arguments):
    raise RuntimeError("learner's code")


def test_every_notebook_has_exercises():
    assert MODULES == [f"nb{number:02}" for number in range(1, 8)]
    assert all(sum(name.startswith(module) for name in ALL) >= 2 for module in MODULES)


@pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)
def test_the_solution_passes_and_the_stub_does_not(exercise, capsys):
    exercise.check(exercise.solution)
    assert ": correct." in capsys.readouterr().out
    exercise.check(stub)
    assert "not yet. Your function returns None" in capsys.readouterr().out
    exercise.check(raises)
    assert "not yet" in capsys.readouterr().out
    exercise.hint()
    assert "Hint: " in capsys.readouterr().out
    assert exercise.difficulty in (1, 2, 3) and exercise.minutes > 0
