"""The notebooks as documents: what every one of them must have, and what none may have."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from helpers import assets
from scripts import claims_table

PATHS = sorted((assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
NAMES = [path.stem for path in PATHS]
LESSONS = [path for path in PATHS if not path.stem.startswith("00")]  # 00 leads in: no claims, one exercise
CLASSES = {
    node.name
    for path in (assets.ROOT / "helpers").rglob("*.py")
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


def test_the_notebooks_are_there():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(10)]


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
    assert "STAND-IN: “The Brass Yard”" not in shown and "STAND-IN: the course's tokenizer" not in shown


def test_every_figure_is_followed_by_a_sentence(notebook):
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None]):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert after is not None and after.cell_type == "markdown", f"{cell.id}: no sentence under its figure"
            assert len(after.source.split()) >= 8, f"{cell.id}: too little under its figure"


def test_code_is_short_and_comes_from_helpers(notebook):
    for cell in code(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]
        assert cell.id == "setup" or len(lines) <= 20, f"{cell.id}: {len(lines)} lines"
        assert "matplotlib" not in cell.source and "plt." not in cell.source, cell.id
        if cell.id != "setup":
            assert not re.search(r"requests|urllib|urlopen|pooch", cell.source), cell.id
        for node in ast.walk(ast.parse(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", cell.source))):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                assert node.name not in CLASSES and not any("Module" in base for base in bases), cell.id


def test_nothing_of_this_machine_is_in_it(notebook):
    text = notebook.path.read_text(encoding="utf-8")
    assert not re.search(r"/(work|tmp|root|home)/|[A-Z]:\\\\Users", text)


def test_every_exercise_is_shown_and_has_hint_and_solution(notebook):
    module = assets.ROOT / "helpers" / "exercises" / f"nb{notebook.path.stem[:2]}.py"
    names = re.findall(r"(?m)^(\w+) = Exercise\(", module.read_text(encoding="utf-8"))
    assert names
    source = "\n".join(cell.source for cell in notebook.cells)
    for name in names:
        for call in (f"{name}.check(", f"{name}.hint()", f"{name}.show_solution()"):
            assert call in source, call


def test_every_notebook_is_on_the_map():
    readme = (assets.ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert f"notebooks/{path.name}" in readme, path.name
    for linked in re.findall(r"\((notebooks/[^)]+\.ipynb)\)", readme):
        assert (assets.ROOT / linked).exists(), linked


def test_public_helpers_say_what_they_do():
    for path in sorted(Path(assets.ROOT / "helpers").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path.name
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_package_stays_small():
    """Lines of code in helpers without exercises: no blank lines, comments or docstrings. A third of them serves the
    learner around the lessons: figures, views, the check of the computer, files, and answers to what goes wrong."""
    lines = 0
    for path in (assets.ROOT / "helpers").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        docstrings = {
            number
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for number in range(node.lineno, node.end_lineno + 1)
        }
        numbered = [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1)]
        lines += sum(bool(line) and not line.startswith("#") and i not in docstrings for i, line in numbered)
    assert lines < 2_500


def test_the_table_of_claims_is_the_notebooks_own():
    assert claims_table.main(["--check"]) == 0
    numbers = [row["number"] for _, row in claims_table.stored_claims(assets.ROOT)]
    assert len(numbers) == len(set(numbers)), "a claim has two homes"


def test_a_changed_table_is_noticed(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in PATHS:
        (tmp_path / "notebooks" / path.name).write_bytes(path.read_bytes())
    readme = (assets.ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(readme.replace("**does not hold**", "**holds**", 1), encoding="utf-8")
    assert claims_table.main(["--check"], tmp_path) == 1
    assert claims_table.main([], tmp_path) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == readme
