"""The figures of notebook 02: what they draw for values that are known."""

import numpy as np
import pytest

from helpers.course import figures, model_figures


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    monkeypatch.setattr(figures.plt, "show", lambda: None)
    yield
    figures.plt.close("all")


def test_each_element_keeps_its_colour_and_the_mean_is_marked():
    x = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    axes = model_figures.plot_layer_norm({"x": x, "twice": 2 * x}, ["one", "two"])
    dots = [[line for line in axis.lines if line.get_marker() == "o"] for axis in axes]
    assert [dot.get_xdata()[0] for dot in dots[0]] == x.flatten().tolist()
    assert [dot.get_color() for dot in dots[0]] == [dot.get_color() for dot in dots[1]]
    means = [line.get_xdata()[0] for line in axes[0].lines if line.get_linewidth() == 3]
    assert means == [3.0, 1.0]


def test_bars_begin_at_the_loss_of_the_whole_model():
    axis = model_figures.plot_without_parts(2.0, {"the MLP": {"block 1": 3.0, "all": 5.0},
                                                  "attention": {"block 1": 2.5, "all": 4.0}}, "title")
    assert [bar.get_height() for bar in axis.patches] == [1.0, 3.0, 0.5, 2.0]
    assert {bar.get_y() for bar in axis.patches} == {2.0}
    assert {text.get_text() for text in axis.texts} == {"3.00", "5.00", "2.50", "4.00"}
