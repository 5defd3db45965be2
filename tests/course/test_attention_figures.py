"""The figures of notebook 01 that show small tensors: every number is in its cell, and -inf is hatched."""

import matplotlib
import pytest
import torch

from helpers.course import attention_figures

matplotlib.use("Agg")


@pytest.mark.parametrize("value, text", [(0.0, "0"), (-0.001, "0"), (1.0, "1"), (0.5, "0.5"), (-2.25, "−2.25"),
                                         (0.126, "0.13"), (10.0, "10"), (float("-inf"), "−∞")])
def test_a_cell_shows_a_short_number(value, text):
    assert attention_figures.as_cell(value) == text


def test_tables_show_all_numbers_and_hide_repeated_row_names():
    scores = torch.tensor([[1.0, float("-inf")], [-0.5, 2.0]])
    first, second = attention_figures.plot_tables(
        {"scores": (scores, ["a", "b"], ["c", "d"]), "x": (torch.ones(2, 3), ["a", "b"], range(3))}, "Two tables")
    assert {text.get_text() for text in first.texts} == {"1", "−∞", "−0.5", "2"}
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert not second.get_yticklabels() and len(second.texts) == 6
    assert [patch.get_hatch() for patch in first.patches] == ["////"]


def test_tables_of_zeros_can_be_drawn():
    (axis,) = attention_figures.plot_tables({"zeros": (torch.zeros(1, 2), ["a"], ["b", "c"])}, "Zeros")
    assert [text.get_text() for text in axis.texts] == ["0", "0"]


def test_a_look_up_has_an_arrow_for_each_key_and_bars_for_each_scale():
    keys, weights = torch.eye(2), {0: torch.tensor([0.5, 0.5]), 9: torch.tensor([1.0, 0.0])}
    axes = attention_figures.plot_lookup(torch.tensor([1.0, 0.2]), keys, ["a", "b"], weights, ("x", "y"), "A look-up")
    assert {text.get_text() for text in axes[0].texts} >= {"a", "b", "query"}
    assert [[bar.get_height() for bar in axis.patches] for axis in axes[1:]] == [[0.5, 0.5], [1.0, 0.0]]
