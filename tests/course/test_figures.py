"""The common look of the figures, and what single ones draw for values that are known."""

import numpy as np
import pytest

from helpers.course import figures


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    monkeypatch.setattr(figures.plt, "show", lambda: None)
    yield
    figures.plt.close("all")


def test_titles_fit_into_the_width_of_their_axes_and_of_the_figure():
    left, right = figures.new_figure(columns=2, width=14)
    figures.finish(left, "What this panel shows, in a sentence that is longer than the panel is wide on any screen")
    figures.headline(left.figure, "And what both of them show together, which can also need more than a single line "
                                  "when it is said in full, as here, where it goes on and on and on until it ends")
    left.figure.canvas.draw()
    title, whole = left._left_title.get_window_extent(), left.figure._suptitle.get_window_extent()
    assert title.x1 <= right.get_window_extent().x0 and whole.x1 <= left.figure.bbox.x1 and whole.x0 >= 0
    assert left.get_title(loc="left").count("\n") == 1


def test_lines_of_a_title_are_kept():
    assert figures.wrapped("one\n\ntwo three", 100, 10) == "one\n\ntwo three"
    assert figures.wrapped("four words of text, one", 1.7, 10) == "four words\nof text, one"  # no short last line


@pytest.mark.parametrize("draw", [
    lambda curves: figures.plot_panels({"title": "t", "xlabel": "x", "ylabel": "y", "curves": curves})[0],
    lambda curves: figures.plot_by_layer({"y": {label: y for label, (_, y) in curves.items()}}, "t")[0],
])
def test_what_a_thing_is_decides_its_colour(draw):
    axes = draw({"V": ([0, 1], [1, 2]), "Q": ([0, 1], [2, 1]), "MLP": ([0, 1], [3, 3]), "other": ([0, 1], [0, 0])})
    assert [line.get_color() for line in axes.lines][:3] == [figures.GREEN, figures.BLUE, figures.PURPLE]


def test_intervals_by_layer_are_lines_beside_each_other():
    low, middle, high = np.zeros(4), np.ones(4), np.full(4, 3.0)
    axes, = figures.plot_by_layer({"y": {"Q": (low, middle, high), "V": (low, middle, high)}}, "title")
    bars = [collection for collection in axes.collections if collection.get_segments()]
    assert len(bars) == 2 and not axes.patches
    segments = np.array([bar.get_segments() for bar in bars])  # (2, layers, ends, x or y)
    assert segments[:, :, :, 1].tolist() == [[[0, 3]] * 4] * 2
    assert np.all(segments[0, :, 0, 0] < np.arange(4)) and np.all(segments[1, :, 0, 0] > np.arange(4))


@pytest.mark.parametrize("log", [False, True])
def test_histograms_have_no_share_above_1_and_no_walls(log):
    bars = {"counts": [0, 0, 90, 10, 0], "low": -1, "high": 1, "outside": 0}
    axes, = figures.plot_histograms({"heading": {"fresh": bars}}, "title", log=log)
    stairs, = axes.patches
    assert axes.get_ylim()[1] <= 1 and stairs.get_data().baseline is None
    assert np.isnan(stairs.get_data().values).tolist() == [log, log, False, False, log]


def test_parts_too_thin_to_see_are_named_and_parts_of_0_are_left_out():
    rows = {"gpt2": {"attention": 30.0, "MLP": 69.97, "LayerNorm": 0.03, "unembedding": 0}}
    axes = figures.plot_shares(rows, "title", "share")
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels == ["attention", "MLP", "LayerNorm (at most 0.03 %: too thin to see)"]


def test_signed_numbers_have_one_scale_with_0_in_the_middle():
    values = np.array([[-3.0, 1.0], [0.0, 2.0]])
    axes = figures.plot_layer_grids({"one": values, "two": values / 9}, "title", signed=True)
    meshes = [axis.collections[0] for axis in axes]
    assert {mesh.get_clim() for mesh in meshes} == {(-3, 3)} and {mesh.cmap.name for mesh in meshes} == {"PuOr"}
    red, _, blue, _ = meshes[0].cmap(1.0)
    assert blue > red and meshes[0].cmap(0.0)[0] > meshes[0].cmap(0.0)[2]  # purple above 0, orange below


def test_the_steps_of_all_tokens_share_their_scales():
    q, k, v = np.random.default_rng(0).normal(size=(3, 4, 2))
    grid = figures.plot_attention_steps(10 * q, k, v, list("abcd"), (1, 3))
    assert grid[0, 0].get_xlim() == grid[1, 1].get_xlim()
    assert grid[0, 3].collections[0].get_clim() == grid[1, 3].collections[0].get_clim()


def test_what_a_causal_mask_hides_is_hatched():
    full, causal = np.full((3, 3), 0.5), np.tril(np.full((3, 3), 0.5))
    axes = figures.plot_matrices({"full": full, "causal": causal}, "title", list("abc"))
    hidden = [np.ma.getmaskarray(axis.collections[0].get_array()).sum() for axis in axes]
    assert hidden == [0, 3] and axes[1].patch.get_hatch()


def test_words_of_the_last_row_are_framed():
    axes = figures.plot_token_grid(np.zeros((2, 3)), [["a", "b", "c"], ["x", "b", "y"]], "t", "123", ["r", "s"], "p")
    frames = sorted((round(patch.get_x()), round(patch.get_y())) for patch in axes.patches)
    assert frames == [(0, 1), (1, 0), (1, 1), (2, 1)]
