"""The ledgers that are stored in the notebooks: their rows, the cells that add them, and both as Markdown."""
import functools
import re
from pathlib import Path
from typing import NamedTuple

import nbformat

from helpers.course.claims import MIME, conditions_of

HEADING = re.compile(r"(?m)^#{1,3} (.+)$")
FENCE = re.compile(r"(?ms)^```.*?^```")


class Place(NamedTuple):
    """A cell of a notebook, and the heading of its section."""

    path: Path
    cell: str  # the cell's id
    heading: str

    def link(self, folder: str = "") -> str:
        """A Markdown link that opens the notebook at the cell. folder: the way from the page to the course's folder.

        JupyterLab and the pages of nbconvert know a cell by its id; GitHub opens the notebook at its beginning.
        """
        text = f"{self.path.stem[:2]}, {self.heading}" if self.heading else self.path.stem[:2]
        return f"[{markdown(text)}]({folder}notebooks/{self.path.name}#cell-id={self.cell})"


def notebooks(root: Path) -> dict[str, tuple[Path, nbformat.NotebookNode]]:
    """{"07": (path, notebook)} of all lessons, in their order."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[:2]: (path, read(path, path.stat().st_mtime_ns)) for path in paths}


@functools.lru_cache(maxsize=64)
def read(path: Path, changed: int) -> nbformat.NotebookNode:
    """A notebook. changed: when the file was changed, so that a new version is read again."""
    return nbformat.read(path, as_version=4)


def rows_of(notebook: nbformat.NotebookNode) -> list[dict]:
    """The rows of a notebook's ledger, from its stored outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [row for output in outputs for row in output.get("data", {}).get(MIME, {}).get("claims", [])]


def stored_ledgers(root: Path) -> list[tuple[Path, str, list[dict]]]:
    """Path, title and ledger rows of every notebook that has a ledger, in the order of the notebooks."""
    ledgers = [(path, notebook.cells[0].source.splitlines()[0].removeprefix("# "), rows_of(notebook))
               for path, notebook in notebooks(root).values() if notebook.cells]
    return [(path, title, sorted(rows, key=lambda row: row["number"])) for path, title, rows in ledgers if rows]


def stored_claims(root: Path) -> list[tuple[Path, dict]]:
    """Every row of every notebook's ledger, with the notebook it is from, in the order of the claims' numbers."""
    claims = [(path, row) for path, _, rows in stored_ledgers(root) for row in rows]
    return sorted(claims, key=lambda claim: claim[1]["number"])


def place_of(root: Path, notebook: str, cell_id: str) -> Place:
    """The Place of a cell, for example place_of(root, "07", "s1").

    Its heading is the first one in the cell, or the last one before it that is not an exercise's.
    Raises KeyError for an unknown notebook or cell.
    """
    path, content = notebooks(root)[notebook]
    heading = ""
    for cell in content.cells:
        found = HEADING.findall(FENCE.sub("", cell.source)) if cell.cell_type == "markdown" else []
        found = [text for text in found if not text.startswith("Exercise ")]
        if cell.id == cell_id:
            return Place(path, cell_id, found[0] if found else heading)
        heading = found[-1] if found else heading
    raise KeyError(f"{path.name} has no cell {cell_id!r}")


def home_of(root: Path, number: int) -> Place:
    """The Place of the cell that adds a claim's row. Raises LookupError unless there is exactly one."""
    pattern = re.compile(rf"\bledger\.add\(\s*{number}\s*,")
    found = [(name, cell.id) for name, (_, notebook) in notebooks(root).items() for cell in notebook.cells
             if cell.cell_type == "code" and pattern.search(cell.source)]
    if len(found) != 1:
        raise LookupError(f"claim {number} is added by {len(found)} cells: {found}")
    return place_of(root, *found[0])


def markdown(text: str) -> str:
    """A stored text as one line of Markdown, in which nothing is read as markup."""
    return re.sub(r"([*|<\\])", r"\\\1", text).replace("\n", " ")


def verdict(row: dict) -> str:
    """The verdict in bold, with its condition, the smallest effect and the unmeasured part where it has them."""
    conditions = conditions_of(row)
    return f"**{row['verdict']}**" + (f": {markdown(conditions)}" if conditions else "")


def verdict_texts(row: dict) -> tuple[str, str]:
    """A row's verdict for a reader of the article: "confirmed", "corrected" or "open", and the text that goes with it.

    What is corrected is followed by the measurement, or by the condition on which it depends.
    """
    conditions = conditions_of(row)
    if row["verdict"] == "holds":
        return "confirmed", conditions
    if row["verdict"] == "does not hold":
        return "corrected", "; ".join(filter(None, (row["measured"], conditions)))
    if row["verdict"] == "depends":
        return "corrected", f"depends: {conditions}"
    return "open", f"{row['verdict']}: {conditions or row['measured']}"
