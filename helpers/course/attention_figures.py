"""Figures of notebook 01 that show small tensors with their numbers, and a soft look-up."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from helpers.course.figures import BLACK, BLUE, COLOURS, SIGNED, finish, headline, new_figure


def as_cell(value):
    """A number in a cell: two decimals at most, without trailing zeros."""
    if np.isneginf(value):
        return "−∞"
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text.replace("-", "−")


def plot_tables(tables, title, size=0.82):
    """Small tensors side by side, as coloured tables of their numbers: purple above 0, orange below, hatched for −inf.

    tables: {heading: (values (R, N), names of the rows, names of the columns)}. All share one scale of colours. Row
    names are left out where they repeat those of the table before. size: the width of a cell in inches.
    """
    arrays = {heading: np.asarray(values, dtype=float) for heading, (values, _, _) in tables.items()}
    finite = np.concatenate([values[np.isfinite(values)] for values in arrays.values()])
    largest, rows = max(abs(finite).max(), 1e-9), max(len(values) for values in arrays.values())
    widths = [values.shape[1] + 1.2 for values in arrays.values()]
    sns.set_theme(style="white", context="talk", font_scale=0.8)
    shape = size * sum(widths) + 0.8, 0.46 * rows + 2.1
    figure, grid = plt.subplots(1, len(tables), figsize=shape, facecolor="white", layout="constrained",
                                width_ratios=widths, squeeze=False)
    before = None
    for axis, (heading, values) in zip(grid[0], arrays.items()):
        row_names, column_names = tables[heading][1:]
        _draw_table(axis, values, largest, [] if list(row_names) == before else row_names, column_names)
        before = list(row_names)
        axis.set_title(heading, fontsize=16, fontweight="bold", loc="left")
    headline(figure, title)
    plt.show()
    return grid[0]


def _draw_table(axis, values, largest, row_names, column_names):
    """One table of plot_tables, with a cell of each number."""
    shown = np.where(np.isneginf(values), np.nan, values)
    words = [[as_cell(value) for value in row] for row in values]
    sns.heatmap(shown, ax=axis, annot=np.asarray(words, dtype=object), fmt="", cmap=SIGNED, vmin=-1.4 * largest,
                vmax=1.4 * largest, cbar=False, linewidths=2, annot_kws={"size": 14}, xticklabels=list(column_names),
                yticklabels=list(row_names) or False)
    for row, column in np.argwhere(np.isneginf(values)):
        axis.add_patch(plt.Rectangle((column, row), 1, 1, facecolor="#eeeeee", edgecolor="#bbbbbb", hatch="////",
                                     linewidth=0))
        axis.text(column + 0.5, row + 0.5, "−∞", ha="center", va="center", fontsize=14, color=BLACK)
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0 if max(map(len, map(str, column_names)), default=0) < 6 else 40)


def plot_lookup(query, keys, names, weights, axes_names, title):
    """A soft look-up: the keys and the query as arrows, and the weights of the keys as bars, one panel for each scale.

    query (2,), keys (N, 2), names (N,), weights: {scale: (N,)}, axes_names: what the two elements mean.
    """
    axes = new_figure(columns=1 + len(weights), width=4.6 + 2.9 * len(weights), height=4.6)
    for name, key, colour in zip(names, np.asarray(keys), COLOURS[1:]):
        is_up = key[1] >= 0
        _arrow(axes[0], key, colour, name, (0, 8 if is_up else -8), ha="center", va="bottom" if is_up else "top")
    _arrow(axes[0], np.asarray(query), BLUE, "query", (-8, 14), ha="left", va="bottom")
    reach = 2 * max(1, abs(np.asarray(keys)).max(), abs(np.asarray(query)).max())
    axes[0].set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    finish(axes[0], "query and keys", *axes_names)
    for axis, (scale, shares) in zip(axes[1:], weights.items()):
        bars = axis.bar(range(len(names)), np.asarray(shares), color=COLOURS[1 : 1 + len(names)])
        axis.bar_label(bars, [f"{share:.2f}" for share in np.asarray(shares)], fontsize=14)
        axis.set_xticks(range(len(names)), names, rotation=40)
        axis.set_ylim(0, 1.12)
        axis.grid(False)
        finish(axis, f"scale {scale}", None, "weight" if axis is axes[1] else None)
    headline(axes[0].figure, title)
    plt.show()
    return axes


def _arrow(axis, point, colour, name, offset, **places):
    """An arrow from the origin to a point, with its name at an offset (in points) from the tip."""
    axis.annotate("", point, (0, 0), arrowprops={"color": colour, "width": 3, "headwidth": 12, "shrink": 0})
    axis.annotate(name, point, offset, textcoords="offset points", fontweight="bold", fontsize=15, **places)
