"""Run the course's notebooks from top to bottom at the run size of this machine (COURSE_SIZE overrides it).

    python -m scripts.run_notebooks                    all notebooks; executed copies and HTML pages go to build/
    python -m scripts.run_notebooks notebooks/02_*     only these
    python -m scripts.run_notebooks --in-place         write the outputs into the notebooks themselves, for a commit

If a notebook fails, its partial copy is written to build/, the others still run, and the exit status is 1.
"""
import argparse
import base64
import io
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image
from tqdm import tqdm

from scripts import rendering
from scripts.clean_notebooks import clear_metadata, clear_outputs
from scripts.fold_notebooks import fold
from scripts.notebooks import ROOT, chosen

# How sharp the figures are of notebooks with so many that they would pass 1 MB (2: two points where a screen has one).
FIGURE_SCALES = {"01": "1", "04": "1.8", "06": "1.2", "07": "1.5", "09": "1.6"}
WIDGET = "application/vnd.jupyter.widget-view+json"
STARTUP = 600  # seconds to wait for a kernel: a busy machine needs more than nbclient's 60
PROGRESS_BAR = re.compile(r"\d+%\||\d+(\.\d+)?\w*it \[|\x1b\[A")
os.environ["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")  # this Python's own kernel first


def execute(notebook: nbformat.NotebookNode, folder: Path) -> str | None:
    """Run all cells of `notebook` in `folder`, outputs into `notebook`. Returns None, or what failed and where."""
    clear_outputs(notebook)
    running = {"index": 0}
    to_run = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    with tqdm(total=to_run, unit="cell", leave=False) as bar:
        client = NotebookClient(
            notebook, timeout=None, startup_timeout=STARTUP, kernel_name="python3", record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=40"],  # without the kernel's own remarks on its transport
            on_cell_execute=lambda cell, cell_index: running.update(index=cell_index),
            on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
        )
        try:
            client.execute(cwd=str(folder))
        except CellExecutionError as error:
            return f"cell {running['index'] + 1}: {error.ename}: {error.evalue}"
        except DeadKernelError:
            return f"cell {running['index'] + 1}: the kernel died (out of memory?)"
        except RuntimeError as error:  # of the kernel's start
            return f"the first cell: no kernel: {error}"


def smaller(png: str) -> str:
    """A figure in base64 with a palette of 64 colours: the same to the eye in less than half of the bytes."""
    file, figure = io.BytesIO(), Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    figure.quantize(64, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def shrink_figures(notebook: nbformat.NotebookNode) -> None:
    """Makes the figures of `notebook` smaller, for a commit."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Removes from `notebook` what differs between two runs without being a result, and folds its cells."""
    clear_metadata(notebook)
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                lines = [line for line in re.split(r"[\r\n]+", output.text) if line and not PROGRESS_BAR.search(line)]
                output.text = "".join(line + "\n" for line in lines)
        cell.outputs = [output for output in cell.outputs
                        if WIDGET not in output.get("data", {}) and output.get("text") != ""]
    fold(notebook)


def run(path: Path, build: Path, in_place: bool) -> tuple[str | None, nbformat.NotebookNode | None]:
    """Run one notebook and write its copy. Returns None, or what failed and where; and what needs a page."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except nbformat.reader.NotJSONError as error:
        return f"reading it: {str(error)[:80]}", None
    os.environ["COURSE_FIGURE_SCALE"] = FIGURE_SCALES.get(path.name[:2], "2")
    failure = execute(notebook, path.parent)
    tidy(notebook)
    if in_place and not failure:
        shrink_figures(notebook)
        nbformat.write(notebook, path)
        return None, None
    build.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, build / path.name)
    return failure, notebook


def write_page(notebook: nbformat.NotebookNode, path: Path, build: Path) -> None:
    """Write the page of a notebook that has run."""
    html = rendering.page(notebook, path.parent, build)
    (build / path.with_suffix(".html").name).write_text(html, encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="default: all of notebooks/NN_*.ipynb")
    parser.add_argument("--in-place", action="store_true", help="write the outputs into the notebooks themselves")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder of the copies (default: build/)")
    options = parser.parse_args(arguments)
    paths = chosen(options.notebooks)
    rows, pages = [], []
    with ThreadPoolExecutor(1) as background:  # writes a page while the next notebook starts
        for number, path in enumerate(paths, start=1):
            print(f"[{number}/{len(paths)}] {path.name} ...", flush=True)
            start = time.perf_counter()
            failure, notebook = run(path.resolve(), options.build, options.in_place)
            if notebook:
                pages.append(background.submit(write_page, notebook, path.resolve(), options.build))
            seconds = time.perf_counter() - start
            rows.append((path, seconds, failure))
            print(f"    {f'FAILED in {failure}' if failure else 'done'}, {seconds:.0f} s", flush=True)
    width = max(len(path.name) for path in paths)
    print("\n" + "\n".join(f"{path.name:{width}}  {seconds:6.0f} s  {'FAILED' if failure else 'ok'}"
                           for path, seconds, failure in rows))
    failed = any(failure for *_, failure in rows)
    if failed or not options.in_place:
        print(f"\nExecuted copies and HTML pages: {options.build}")
    for page in pages:
        page.result()  # raises what went wrong with it
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
