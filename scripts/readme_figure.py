"""Save the README's picture from the outputs that are stored in a notebook.

    python -m scripts.readme_figure            write docs/images/two_heads.png
    python -m scripts.readme_figure --check    change nothing; exit status 1 if the picture is not the notebook's

The picture is a figure of notebook 01. To show another one, change SOURCE and the README's text under the picture.
"""

import argparse
import base64
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("notebooks/01_attention_theory.ipynb", "trained-maps")  # a notebook, and the id of a cell with one figure
TARGET = "docs/images/two_heads.png"


def stored_figure(path: Path, cell_id: str) -> bytes:
    """The figure, a PNG, that is stored in the outputs of a notebook's cell. ValueError if there is not exactly one."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.id == cell_id]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    figures = [data["image/png"] for data in outputs if "image/png" in data]
    if len(figures) != 1:
        raise ValueError(f"{path.name}: expected one figure in the cell {cell_id!r}, found {len(figures)}")
    return base64.b64decode(figures[0])


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.readme_figure", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if the picture is outdated")
    options = parser.parse_args(arguments)
    name, cell_id = SOURCE
    figure, target = stored_figure(root / name, cell_id), root / TARGET
    if target.is_file() and target.read_bytes() == figure:
        return 0
    print(f"readme_figure: {TARGET} {'differs from the notebook' if options.check else 'was renewed'}")
    if not options.check:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(figure)
    return int(options.check)


if __name__ == "__main__":
    sys.exit(main())
