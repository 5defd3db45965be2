"""The twelve complaints that courses like this one receive: each has an answer, and each answer has a test.

CONTRIBUTING.md lists them. Here are the tests that had no better place, and one that the list is true.
"""

import ast
import importlib
import inspect
import re

import nbformat
import pytest
import torch

from helpers import assets, runtime
from helpers.exercises import Exercise
from helpers.generation import generate
from tests.test_training import CONFIG, MODEL, GPT, new_model, replace, train

NOTEBOOKS = sorted((assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test_the_list_has_twelve_rows_and_every_named_test_exists():
    text = (assets.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"(?ms)^## Twelve complaints$(.*?)^## ", text)
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 12 and all(len(row) == 3 for row in rows)
    for complaint, _, tests in rows:
        named = re.findall(r"`(\w+\.py)::(\w+)`", tests)
        assert named and tests.count("`") == 2 * len(named), complaint
        for file, test in named:
            tree = ast.parse((assets.ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert test in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{file}::{test}"


# --- device mismatch -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no NVIDIA GPU"))])
def test_a_model_and_ids_on_two_devices_are_named(device):
    model, ids = GPT(MODEL).to(device), torch.zeros(1, 4, dtype=torch.int64)
    for use in (model, lambda ids: generate(model, ids, 3)):
        with pytest.raises(ValueError, match=rf"ids are on cpu, the model is on {device}.*ids.to\(device\)"):
            use(ids)
    with pytest.raises(ValueError, match=r"targets are on cpu.*targets.to\(device\)"):
        model(ids.to(device), ids)
    with pytest.raises(ValueError, match=f"ids are on {device}.*the model is on cpu"):
        GPT(MODEL)(ids.to(device))


# --- a device that computes other numbers ----------------------------------------------------------------------------

def test_a_device_with_wrong_attention_is_noticed(monkeypatch):
    assert runtime.computes_like_the_cpu("cpu") and runtime.computes_like_the_cpu(runtime.best_device())
    right, calls = torch.nn.functional.scaled_dot_product_attention, []

    def wrong_on_the_first_device(q, k, v, is_causal):
        calls.append(is_causal)
        return right(q, k, v, is_causal=is_causal and len(calls) > 1)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong_on_the_first_device)
    assert not runtime.computes_like_the_cpu("cpu") and calls == [True, True]


def test_the_setup_cell_warns_of_such_a_device(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "best_device", lambda: torch.device("mps"))
    for fine, lines in ((True, 1), (False, 2)):
        monkeypatch.setattr(runtime, "computes_like_the_cpu", lambda device, fine=fine: fine)
        runtime.describe()
        said = capsys.readouterr().out
        assert len(said.splitlines()) == lines
    assert "WRONG NUMBERS" in said and "COURSE_DEVICE=cpu" in said


# --- "my numbers differ" ---------------------------------------------------------------------------------------------

def test_another_rounding_changes_late_digits_only():
    """What README.md promises: losses agree to about two digits. Other machines round otherwise, as these types do."""
    config, losses = replace(CONFIG, steps=60, learning_rate=3e-3), {}
    for name, dtype, precision in (("64 bits", torch.float64, "fp32"), ("32", torch.float32, "fp32"),
                                   ("16", torch.float32, "bf16")):
        losses[name] = train(replace(config, precision=precision), new_model().to(dtype))[1].test_loss[-1]
    assert [losses["32"], losses["16"]] == pytest.approx([losses["64 bits"]] * 2, rel=0.01)
    assert len(set(losses.values())) == 3, "the numbers were not rounded otherwise: this test shows nothing"


# --- solutions -------------------------------------------------------------------------------------------------------

def body(node):
    """The statements of a function, one per line, without comments, layout and docstring."""
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
    module = importlib.import_module(f"helpers.exercises.nb{path.stem[:2]}")
    exercises = {name: thing for name, thing in vars(module).items() if isinstance(thing, Exercise)}
    assert exercises
    for name, exercise in exercises.items():
        solution = body(functions_in(inspect.getsource(exercise.solution))[0])
        assert solution and solution not in lessons, f"{name}: its solution is a function of the lesson"
        assert f"def {exercise.solution.__name__}(" not in shown, f"{name}: its solution is in an output"
    called = [ast.unparse(node.func) for source in sources for node in ast.walk(ast.parse(source))
              if isinstance(node, ast.Call)]
    assert not [name for name in called if name.endswith((".show_solution", ".hint"))]
