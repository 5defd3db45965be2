"""Fold cells of the notebooks, without running them: JupyterLab and the exported pages open them with one click.

    python -m scripts.fold_notebooks                    all notebooks
    python -m scripts.fold_notebooks notebooks/02_*     only these

It folds the output of every cell that answers a "Predict first", and the code of the setup cell and of every cell with
the tag "hide-input". The code above a folded output stays open, because JupyterLab shows no bar to open an output while
the code above it is folded, too. All other cells are unfolded. `make outputs` also folds.
"""
import argparse
import re
import sys

import nbformat

from scripts.notebooks import chosen

PREDICTION = re.compile(r"(?m)^(?!\|).*\*\*Predict first[.:]\*\*")  # a row of a table only explains the words


def answers(notebook: nbformat.NotebookNode) -> set[str]:
    """The ids of the cells whose output answers a prediction: those with an output, up to the next Markdown cell."""
    ids, is_predicted = set(), False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            is_predicted = bool(PREDICTION.search(cell.source))
        elif is_predicted and cell.get("outputs"):
            ids.add(cell.id)
    return ids


def hides_code(cell: nbformat.NotebookNode) -> bool:
    """Whether the code of a cell is folded, as far as its output is not."""
    return cell.cell_type == "code" and (cell.id == "setup" or "hide-input" in cell.metadata.get("tags", []))


def fold(notebook: nbformat.NotebookNode) -> None:
    """Marks in the metadata of `notebook` which code and which outputs JupyterLab folds, and unfolds all others."""
    predicted = answers(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("jupyter", None)
        if cell.id in predicted:
            cell.metadata["jupyter"] = {"outputs_hidden": True}
        elif hides_code(cell):
            cell.metadata["jupyter"] = {"source_hidden": True}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="default: all of notebooks/NN_*.ipynb")
    for path in chosen(parser.parse_args(arguments).notebooks):
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        fold(notebook)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            print(f"folded: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
