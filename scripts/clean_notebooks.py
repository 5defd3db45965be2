"""Copy the notebooks without their outputs, to hand out: learners then see only what they have run themselves.

    python -m scripts.clean_notebooks                  all notebooks, to build/notebooks-clean/
    python -m scripts.clean_notebooks notebooks/01_*   only these

The notebooks themselves do not change. A copy finds the course's helpers if it lies in the course's folder or below it,
or beside a zip of the course.
"""
import argparse
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearMetadataPreprocessor, ClearOutputPreprocessor

from scripts.notebooks import ROOT, chosen

KEPT = ClearMetadataPreprocessor(preserve_nb_metadata_mask={"kernelspec", "language_info"},
                                 preserve_cell_metadata_mask={"tags", "slideshow", "jupyter", "cellView"})


def clear_metadata(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`notebook` without what a run leaves in its metadata: times of execution and the state of widgets."""
    return KEPT.preprocess(notebook, {})[0]


def clear_outputs(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`notebook` without outputs and execution counts; ids, tags and folding stay."""
    return ClearOutputPreprocessor().preprocess(notebook, {})[0]


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
        nbformat.write(clear_metadata(clear_outputs(nbformat.read(path, as_version=4))), target)
        print(f"without outputs: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
