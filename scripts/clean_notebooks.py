"""Copy the notebooks without their outputs, to hand out: learners then see only what they have run themselves.

    python scripts/clean_notebooks.py                  all notebooks, to build/notebooks-clean/
    python scripts/clean_notebooks.py notebooks/01_*   only these

The notebooks themselves stay as they are. A copy finds the course's helpers as long as it lies in the course's folder
or below it, or beside a zip of the course.
"""
import argparse
import glob
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`notebook` without outputs, execution counts and the state of widgets; cells, ids and tags stay."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)
    return notebook


def chosen(names: list[str]) -> list[Path]:
    """The notebooks that were named, or all. SystemExit names those that do not exist."""
    # Windows' shells leave the * of notebooks/02_* to the program.
    named = [Path(found) for name in names for found in sorted(glob.glob(name)) or [name]]
    if absent := [str(path) for path in named if not path.is_file()]:
        raise SystemExit(f"no such notebook: {', '.join(absent)}")
    return named or sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="default: all of notebooks/NN_*.ipynb")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "notebooks-clean",
                        help="folder of the copies (default: build/notebooks-clean)")
    options = parser.parse_args(arguments)
    options.build.mkdir(parents=True, exist_ok=True)
    for path in chosen(options.notebooks):
        target = options.build / path.name
        if target.resolve() == path.resolve():
            parser.error(f"{target} would replace the notebook itself: give --build another folder")
        nbformat.write(clean(nbformat.read(path, as_version=4)), target)
        print(f"without outputs: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
