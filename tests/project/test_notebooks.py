"""The notebooks as documents: what every one of them must have, and what none may have."""

import ast
import copy
import importlib
import json
import re

import nbformat
import pytest

from helpers.course.checking import Exercise
from scripts import claims_table, fold_notebooks
from scripts.notebooks import ROOT, chosen

PATHS = chosen([])
NAMES = [path.stem for path in PATHS]
LESSONS = [path for path in PATHS if not path.stem.startswith("00")]  # 00 is an introduction: no claims, one exercise
PADDED = re.compile(r"(?!0?\.)(.?[<>^=][ +-]?[\d{]|[ +-]?\d)")  # the format of a value: with a width, not only digits
MATERIAL = {"nb02.LeakyNorm", "nb02.LeakyEmbedding", "nb02.own_or_reference"}  # what an exercise shows or works with
CLASSES = {
    node.name
    for path in (ROOT / "helpers").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


@pytest.fixture(params=PATHS, ids=NAMES)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    found.path = request.param
    return found


@pytest.fixture(params=LESSONS, ids=[path.stem for path in LESSONS])
def lesson(request):
    found = nbformat.read(request.param, as_version=4)
    found.path = request.param
    return found


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def parsed(source):
    """The syntax tree of a cell, in which IPython's own commands are replaced by pass."""
    return ast.walk(ast.parse(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", source)))


def prints_or_pads(node):
    """Whether a part of a program prints, or pads a value to a width, as one does for a table of printed text."""
    if isinstance(node, ast.FormattedValue) and node.format_spec:
        return bool(PADDED.match(ast.unparse(node.format_spec)[2:-1]))
    called = node.func if isinstance(node, ast.Call) else None
    return getattr(called, "id", None) == "print" or getattr(called, "attr", None) in ("ljust", "rjust", "center")


def lines_of_code(source):
    """The numbers of the lines that are neither empty nor a comment."""
    lines = enumerate(source.splitlines(), start=1)
    return {number for number, line in lines if line.strip() and not line.strip().startswith("#")}


def lines_that_print(source):
    printing = [node for node in parsed(source) if prints_or_pads(node)]
    return {number for node in printing for number in range(node.lineno, node.end_lineno + 1)} & lines_of_code(source)


def test_the_notebooks_are_there():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(13)]


def test_it_is_valid_small_and_numbered(notebook):
    nbformat.validate({key: value for key, value in notebook.items() if key != "path"})
    assert notebook.path.stat().st_size < 1_000_000
    assert notebook.cells[0].source.startswith(f"# {notebook.path.stem[:2]} · ")


def test_cells_have_stable_ids_that_say_something(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [name for name in ids if re.fullmatch(r"[0-9a-f]{8}([0-9a-f-]{28})?", name)]


def test_the_opening_has_its_parts(notebook):
    title = notebook.cells[0].source
    assert f"/blob/main/notebooks/{notebook.path.name}" in title and "colab-badge.svg" in title
    for part in ("You will be able to", "You need", "Time", "laptop", "Colab"):
        assert part in title, part


def test_the_closing_has_its_parts(lesson):
    text = prose(lesson)
    for part in ("## Ledger", "## Take-aways", "## Quiz", "## References"):
        assert part in text, part
    assert "<details>" in text and "ledger.show()" in code(lesson)[-1].source


def test_links_between_files_lead_somewhere(notebook):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", prose(notebook)):
        assert (notebook.path.parent / target.split("#")[0]).exists(), target


def test_the_setup_cell_is_the_same_everywhere(notebook):
    cells = {cell.id: cell.source for cell in notebook.cells}
    assert cells["setup"] == {c.id: c.source for c in nbformat.read(PATHS[0], 4).cells}["setup"]
    assert code(notebook)[0].id == "setup"


def test_outputs_are_there_and_clean(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "not the outputs of one run from top to bottom"
    assert "widgets" not in notebook.metadata
    for cell in code(notebook):
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", (cell.id, output.get("text", "")[:200])
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def test_outputs_show_the_real_book(notebook):
    shown = json.dumps(notebook.cells, ensure_ascii=False)
    assert "Stand-in: “The Brass Yard”" not in shown and "Stand-in: the course's tokenizer" not in shown


def test_every_figure_is_followed_by_a_sentence(notebook):
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None]):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert after is not None and after.cell_type == "markdown", f"{cell.id}: no sentence under its figure"
            assert len(after.source.split()) >= 8, f"{cell.id}: too little under its figure"


def test_code_is_short_and_comes_from_helpers(notebook):
    for cell in code(notebook)[1:]:
        lines = len(lines_of_code(cell.source))
        assert lines <= 20, f"{cell.id}: {lines} lines"
        assert "matplotlib" not in cell.source and "plt." not in cell.source, cell.id
        assert not re.search(r"requests|urllib|urlopen|pooch", cell.source), cell.id
        for node in parsed(cell.source):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                is_skeleton = node.name.startswith("My") and "return None" in cell.source  # an exercise fills it
                assert node.name not in CLASSES, cell.id
                assert is_skeleton or not any("Module" in base for base in bases), cell.id


def test_at_most_one_line_in_twenty_prints_or_pads(notebook):
    cells = code(notebook)[1:]
    printing = {cell.id: len(lines_that_print(cell.source)) for cell in cells}
    lines = sum(len(lines_of_code(cell.source)) for cell in cells)
    assert sum(printing.values()) <= 0.05 * lines, {name: number for name, number in printing.items() if number}


def test_printing_and_padding_are_recognised():
    for line in ('print("a")', 'f"{x:8.2f}"', 'f"{x:>8}"', 'f"{x:>{width}}"', 'f"{x:+6,}"', '"a".ljust(9)'):
        assert lines_that_print(line) == {1}, line
    for line in ('f"{x:.2f}"', 'f"{x:,}"', 'f"{x:.1%}"', 'f"{x:+.3f}"', 'f"{x}"', "show_table(rows)", "# print(x)"):
        assert not lines_that_print(line), line
    assert lines_that_print('x = 1\nprint("a",\n      x)') == {2, 3}


def test_what_is_folded_follows_from_tags_and_predictions(notebook):
    folded = copy.deepcopy(notebook)
    fold_notebooks.fold(folded)
    wrong = [cell.id for cell, other in zip(notebook.cells, folded.cells) if cell.metadata != other.metadata]
    assert not wrong, f"{wrong}: run python -m scripts.fold_notebooks"


def test_the_terms_are_those_of_the_field(notebook):
    text = " ".join(prose(notebook).split())
    assert re.findall(r"(?i)(?:test|training|validation) parts?\b|moved on by", text) == []


def test_nothing_of_this_machine_is_in_it(notebook):
    text = notebook.path.read_text(encoding="utf-8")
    assert not re.search(r"/(work|tmp|root|home)/|[A-Z]:\\\\Users", text)


def exercises_of(notebook):
    return importlib.import_module(f"helpers.course.exercises.nb{notebook.path.stem[:2]}")


def test_every_exercise_is_shown_and_has_hint_and_solution(notebook):
    names = [name for name, value in vars(exercises_of(notebook)).items() if isinstance(value, Exercise)]
    assert names
    source = "\n".join(cell.source for cell in notebook.cells)
    for name in names:
        for call in (f"{name}.check(", f"{name}.hint()", f"{name}.show_solution()"):
            assert call in source, call


def test_no_solution_is_used_as_a_library(notebook):
    module = exercises_of(notebook)
    name = module.__name__.rpartition(".")[-1]
    for cell in code(notebook)[1:]:
        assert "solution" not in {node.attr for node in parsed(cell.source) if isinstance(node, ast.Attribute)}, cell.id
        imported = [node.module for node in parsed(cell.source) if isinstance(node, ast.ImportFrom)]
        assert not any(source.startswith("helpers.course.exercises.") for source in imported), cell.id
        for used in re.findall(rf"\b{name}\.(\w+)", cell.source):
            assert isinstance(getattr(module, used), Exercise) or f"{name}.{used}" in MATERIAL, f"{cell.id}: {used}"


def test_every_notebook_is_on_the_map():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert f"notebooks/{path.name}" in readme, path.name
    for linked in re.findall(r"\((notebooks/[^)]+\.ipynb)\)", readme):
        assert (ROOT / linked).exists(), linked


def test_public_helpers_say_what_they_do():
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path.name
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_table_of_claims_is_the_notebooks_own():
    assert claims_table.main(["--check"]) == 0
    numbers = [row["number"] for _, row in claims_table.stored_claims(ROOT)]
    assert len(numbers) == len(set(numbers)), "a claim has two homes"


@pytest.mark.parametrize("name", ["CLAIMS.md", "README.md"])
def test_a_changed_claim_is_noticed(tmp_path, name):
    (tmp_path / "notebooks").mkdir()
    for path in [*PATHS, ROOT / "CLAIMS.md", ROOT / "README.md"]:
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    assert claims_table.main([], tmp_path) == 0
    right = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(right.replace("**does not hold**", "**holds**", 1), encoding="utf-8")
    assert claims_table.main(["--check"], tmp_path) == 1
    assert claims_table.main([], tmp_path) == 0
    assert (tmp_path / name).read_text(encoding="utf-8") == right
