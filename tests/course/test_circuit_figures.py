"""The figures of notebook 10: what they draw for values that are known."""

import numpy as np
import pytest

from helpers.course import figures


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    monkeypatch.setattr(figures.plt, "show", lambda: None)
    yield
    figures.plt.close("all")


def framed(axis):
    """The framed cells of a grid, as (layer, head)."""
    return {(int(patch.get_y()), int(patch.get_x())) for patch in axis.patches}


def test_the_diagram_of_the_circuit_names_its_parts_in_the_courses_colours():
    axes = figures.plot_induction_circuit()
    texts = {text.get_text(): text for text in axes.texts}
    boxes = {text[0]: figures.plt.matplotlib.colors.to_hex(shown.get_bbox_patch().get_edgecolor()).upper()
             for text, shown in texts.items() if text[:2] in ("Q:", "K:", "V:")}
    assert boxes == {"Q": figures.BLUE, "K": figures.ORANGE, "V": figures.GREEN}
    assert "next: B" in texts and any("induction head" in text for text in texts)


def test_grids_share_one_scale_and_frame_what_is_marked():
    values = {"one": np.array([[0.1, 0.5], [0.9, 0.0]]), "two": np.zeros((2, 2))}
    axes = figures.plot_layer_grids(values, "title", [[(1, 0)], []])
    assert [framed(axis) for axis in axes] == [{(1, 0)}, set()]
    assert {axis.collections[0].get_clim() for axis in axes} == {(0, 1)}
    assert [text.get_text() for text in axes[0].texts] == ["0.1", "0.5", "0.9", "0.0"]


def test_a_signed_scale_has_zero_in_the_middle_and_wide_grids_are_below_each_other():
    shares = np.linspace(-0.3, 1.4, 22).reshape(2, 11)
    axes = figures.plot_layer_grids({"one": shares, "two": -shares}, "title", xlabels=list("abcdefghijk"), signed=True)
    assert {axis.collections[0].get_clim() for axis in axes} == {(-1.4, 1.4)}
    boxes = [axis.get_position() for axis in axes]
    assert boxes[0].y0 > boxes[1].y1 and "-0.0" not in {text.get_text() for text in axes[0].texts}


def test_an_effect_is_drawn_beside_those_of_random_choices_on_one_scale():
    panels = {"second half": {"ours": (2.0, [0.1, 0.2]), "theirs": (1.0, [0.3])},
              "first half": {"ours": (0.0, [-0.1, 0.0]), "theirs": (0.1, [0.0])}}
    axes = figures.plot_against_random(panels, "title")
    dots, bar = axes[0].lines[2:4]  # the rows are drawn from the bottom: the first one last
    assert list(dots.get_xdata()) == [0.1, 0.2] and set(bar.get_xdata()) == {2.0}
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["theirs", "ours"]
    assert axes[0].get_xlim() == axes[1].get_xlim()


@pytest.mark.parametrize("moment", [None, 20])
def test_the_moment_of_a_run_is_marked_in_both_panels_if_there_is_one(moment):
    step, values = [0, 10, 20], [3.0, 2.0, 0.5]
    panels = figures.plot_growth(step, {"loss": values}, {"score": [0, 0.2, 0.9]}, {"bigram": 2.5}, "title", moment)
    for panel in panels:
        marks = [line for line in panel.lines if "formed" in str(line.get_label())]
        assert [set(line.get_xdata()) for line in marks] == ([{20}] if moment else [])
    assert "bigram: 2.50" in {text.get_text() for text in panels[0].texts}


def test_each_recorded_run_is_a_line():
    runs = [([0, 1], [0.0, 0.9]), ([0, 1], [0.0, 0.8])]
    left, right = figures.plot_growth_runs({"two blocks": runs, "one block": runs[:1]}, "title")
    assert (len(left.lines), len(right.lines)) == (2, 1) and left.get_ylim() == right.get_ylim()
