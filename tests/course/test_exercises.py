"""What every exercise must do. Each test_nbNN_exercises.py lists plausible wrong answers in WRONG: {name of the
exercise: [(wrong attempt, part of the message that it must get), ...]}."""

import importlib

import nbformat
import pytest

from helpers.course.checking import Exercise, NotYet, needs_answer
from helpers.machine import assets

MODULES = sorted(path.stem for path in (assets.ROOT / "helpers" / "course" / "exercises").glob("nb[0-9][0-9].py"))
ALL = {
    (module, name): value
    for module in MODULES
    for name, value in vars(importlib.import_module(f"helpers.course.exercises.{module}")).items()
    if isinstance(value, Exercise)
}
WRONG = {
    (module, name): answers
    for module in MODULES
    for name, answers in importlib.import_module(f"tests.course.test_{module}_exercises").WRONG.items()
}


def stub(*arguments):
    return None


def raises(*arguments):
    raise RuntimeError("learner's code")


def test_all_notebooks_have_exercises():
    assert MODULES == [f"nb{number:02}" for number in range(13)]


def test_an_exercise_never_stops_run_all(capsys):
    def check(answer):
        if needs_answer(answer)() != 4:
            raise NotYet("Think of two and two.")
        return "Two and two are four."

    exercise = Exercise("Exercise 1", 1, 5, ("Count your fingers.",), check, lambda: 4)
    exercise.check(None)
    exercise.check(lambda: 5)
    exercise.check(lambda: 1 / 0)
    exercise.check(lambda: 4)
    lines = capsys.readouterr().out.splitlines()
    assert ["not yet" in line for line in lines] == [True, True, True, False]
    assert "ZeroDivisionError" in lines[2] and "correct" in lines[3]


def test_every_notebook_has_exercises_from_a_warm_up_to_a_challenge():
    for module in MODULES:
        own = [exercise for (home, _), exercise in ALL.items() if home == module]
        if module == "nb00":  # one, to practise how exercises work
            assert len(own) == 1
            continue
        assert len(own) >= (3 if module == "nb08" else 4), module
        minutes = [exercise.minutes for exercise in own]
        assert min(minutes) <= 5 and max(minutes) >= 15, module
        assert {exercise.difficulty for exercise in own} == {1, 2, 3}, module


@pytest.mark.parametrize("exercise", ALL.values(), ids=map(".".join, ALL))
def test_the_solution_passes_and_the_stub_does_not(exercise, capsys):
    exercise.check(exercise.solution)
    assert ": correct." in capsys.readouterr().out
    exercise.check(stub)
    assert "not yet. Your function returns None" in capsys.readouterr().out
    exercise.check(raises)
    assert "not yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", ALL, ids=map(".".join, ALL))
def test_hints_come_in_stages(name, capsys):
    exercise, call = ALL[name], ".".join(name)
    assert isinstance(exercise.hints, tuple) and len(exercise.hints) >= 2
    for number, text in enumerate(exercise.hints, start=1):
        exercise.hint(number)
        printed = capsys.readouterr().out
        assert text in printed and f"Hint {number} of {len(exercise.hints)}" in printed
        last = number == len(exercise.hints)
        assert f"(Next: {call}.show_solution())" in printed if last else f"(Next: {call}.hint({number + 1}))" in printed
    exercise.hint(len(exercise.hints) + 1)
    printed = capsys.readouterr().out
    assert f"1 to {len(exercise.hints)}" in printed and f"{call}.show_solution()" in printed


def test_every_exercise_has_three_plausible_wrong_answers():
    assert set(WRONG) == set(ALL)
    for name, answers in WRONG.items():
        assert len(answers) >= 3, name
        assert len({message for _, message in answers}) >= 2, f"{name}: all mistakes get the same message"


@pytest.mark.parametrize("name, number", [(name, i) for name, answers in WRONG.items() for i in range(len(answers))],
                         ids=lambda value: ".".join(value) if isinstance(value, tuple) else str(value))
def test_a_wrong_answer_gets_the_right_message(name, number, capsys):
    attempt, message = WRONG[name][number]
    ALL[name].check(attempt)
    printed = capsys.readouterr().out
    assert "not yet" in printed and message in printed, printed
    assert "returns None" not in printed and "Your code stopped" not in printed, printed


@pytest.mark.parametrize("name", ALL, ids=".".join)
def test_the_notebook_shows_the_exercise_but_not_its_solution(name):
    module, exercise = name[0], ALL[name]
    (path,) = (assets.ROOT / "notebooks").glob(f"{module[2:]}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    call = f"{module}.{name[1]}"
    (stub_cell,) = [c for c in cells if c.cell_type == "code" and f"{call}.check(" in c.source]
    assert "return None" in stub_cell.source
    assert ": not yet." in "".join(output.get("text", "") for output in stub_cell.outputs)
    everything = "\n".join(cell.source for cell in cells)
    heading = f"{exercise.title} (" + "★" * exercise.difficulty + f", {exercise.minutes} minutes)"
    assert heading in everything, heading
    assert f"{call}.hint()" in everything and f"{call}.show_solution()" in everything
