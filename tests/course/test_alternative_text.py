"""The texts that stand for figures: what they say, and that a notebook stores one with every figure."""

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import seaborn as sns
from nbclient import NotebookClient

from helpers.course import figures
from helpers.course.alternative_text import LONGEST, alternative_text, describe_figures
from helpers.machine.assets import ROOT

matplotlib.use("Agg")
CELLS = """from helpers.course import figures
figures.plot_curve([3, 2, 1], "The loss falls", "step", "loss");

import matplotlib.pyplot as plt
import seaborn as sns
axes = sns.histplot([1, 2, 2, 3])
axes.set(title="One peak", xlabel="value");

%config InlineBackend.figure_formats = ["png"]
plt.plot([1, 2])
plt.title("A line");"""


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


def test_lines_are_described_by_title_axes_and_legend():
    axes = figures.new_figure()
    axes.plot([1, 2], [1, 2], label="a run")
    axes.plot([1, 2], [2, 1], label="another $x^2$")
    axes.set_yscale("log")
    figures.finish(axes, "Two runs\ncross", "step", "loss", legend="best")
    assert alternative_text(axes.figure) == (
        "Two runs cross. Lines, loss (logarithmic) against step. Legend: a run, another x^2.")


def test_grids_and_bars_are_named():
    grid, bars = figures.new_figure(columns=2)
    sns.heatmap(np.eye(3)[:2], ax=grid, yticklabels=["the", "ship"])
    bars.barh(["red", "blue"], [1, 2])
    figures.headline(grid.figure, "Two panels")
    figures.finish(grid, "left", "key", "query")
    text = alternative_text(grid.figure)
    assert text.startswith("Two panels. left. A coloured grid of 2 rows and 3 columns, query against key.")
    assert "Rows: the, ship" in text and "Bars. Rows: red, blue" in text and text.count("rows") == 1


def test_a_diagram_is_described_by_its_words():
    axes = figures.plot_induction_circuit()
    text = alternative_text(axes.figure)
    assert "previous-token head" in text and "I am A" in text and ", ," not in text


def test_many_panels_are_described_together_and_long_texts_are_cut():
    grid = figures.plot_head_grid(np.zeros((3, 4, 5, 5)), "All heads")
    text = alternative_text(grid[0, 0].figure)
    assert text.startswith("All heads. 12 panels: a coloured grid of 5 rows and 5 columns.") and len(text) < 200
    axes = figures.new_figure()
    axes.set_title("word " * 400)
    assert len(alternative_text(axes.figure)) <= LONGEST + 2


def test_an_empty_figure_says_so():
    assert alternative_text(plt.figure()) == "A figure without words."


def test_outside_a_notebook_nothing_happens():
    assert describe_figures() is None


def test_a_notebook_stores_a_text_with_every_figure():
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.split("\n\n")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs if "image/png" in output.get("data", {})]
    texts = [output.metadata["image/png"]["alt"] for output in outputs]
    assert texts[0] == "The loss falls. Lines, loss against step."
    assert texts[1].startswith("One peak. Bars, Count against value") and texts[2] == "A line. Lines."
