"""Complaints that courses like this one often receive, and that this one must not: numbers that differ, solutions in
the lesson. CONTRIBUTING.md lists all twelve. The others are tested beside their code."""

import ast
import importlib
import inspect
import re
from dataclasses import replace

import nbformat
import pytest
import torch

from helpers.course.checking import Exercise
from helpers.machine import assets
from tests.small import CONFIG, new_model, train

NOTEBOOKS = sorted((assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test_different_rounding_changes_only_late_digits():
    """Other machines round differently, as other types do. The losses still agree to about two digits."""
    config, losses = replace(CONFIG, steps=60, learning_rate=3e-3), {}
    for bits, dtype, precision in (
        (64, torch.float64, "fp32"), (32, torch.float32, "fp32"), (16, torch.float32, "bf16")
    ):
        losses[bits] = train(replace(config, precision=precision), new_model().to(dtype))[1].validation_loss[-1]
    assert [losses[32], losses[16]] == pytest.approx([losses[64]] * 2, rel=0.01)
    assert len(set(losses.values())) == 3, "nothing was rounded differently: this test shows nothing"


def body(node):
    """The statements of a function, one per line, without comments, formatting and docstring."""
    return "\n".join(ast.unparse(line) for line in node.body[ast.get_docstring(node) is not None :])


def functions_in(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_solution_is_in_a_lesson(path):
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sources = [re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell.source) for cell in cells]
    lessons = [body(node) for source in sources for node in functions_in(source)]
    shown = "\n".join(str(output) for cell in cells for output in cell.get("outputs", []))
    module = importlib.import_module(f"helpers.course.exercises.nb{path.stem[:2]}")
    exercises = {name: value for name, value in vars(module).items() if isinstance(value, Exercise)}
    assert exercises
    for name, exercise in exercises.items():
        solution = body(functions_in(inspect.getsource(exercise.solution))[0])
        assert solution and solution not in lessons, f"{name}: the lesson contains its solution"
        assert f"def {exercise.solution.__name__}(" not in shown, f"{name}: an output contains its solution"
    called = [ast.unparse(node.func) for source in sources for node in ast.walk(ast.parse(source))
              if isinstance(node, ast.Call)]
    assert not [name for name in called if name.endswith((".show_solution", ".hint"))]
