"""Figures of notebook 02: what the parts of GPT-2 do. Each function draws one figure, shows it and returns its axes."""

import matplotlib.pyplot as plt
import numpy as np

from helpers.course.figures import BLACK, BLUE, COLOURS, PURPLE, finish, new_figure

PALE = "#e4e4e4"


def plot_layer_norm(panels, tokens):
    """The elements of a few vectors as dots, before and after the steps of LayerNorm. panels: {heading: (tokens, C)},
    tokens: their names. Each element of the vector keeps its colour."""
    axes = new_figure(columns=len(panels), width=5.2 * len(panels), height=4.4)
    for axis, (heading, values) in zip(axes, panels.items()):
        values = np.asarray(values, dtype=float)
        for row, vector in enumerate(values):
            axis.axhline(row, color=PALE, linewidth=1.5, zorder=0)
            for element, value in enumerate(vector):
                axis.plot(value, row, "o", color=COLOURS[element % len(COLOURS)], markersize=13, alpha=0.9,
                          markeredgecolor="white")
            axis.plot([vector.mean()] * 2, [row - 0.28, row + 0.28], color=BLACK, linewidth=3)
        axis.set_yticks(range(len(values)), tokens if axis is axes[0] else [""] * len(values))
        axis.set_ylim(len(values) - 0.5, -0.5)
        axis.grid(False)
        finish(axis, heading, "value of an element")
    plt.show()
    return axes


def plot_without_parts(full, losses, title, ylabel="loss (nats per token)"):
    """The loss of a model without single parts, beside that of the whole model, full. losses: {part: {place: loss}}."""
    axis = new_figure(width=13, height=5)
    names, width = list(next(iter(losses.values()))), 0.8 / len(losses)
    for i, ((part, values), colour) in enumerate(zip(losses.items(), (PURPLE, BLUE))):
        places = np.arange(len(names)) + (i - (len(losses) - 1) / 2) * width
        bars = axis.bar(places, [values[name] - full for name in names], width, bottom=full, color=colour,
                        label=f"without {part}")
        axis.bar_label(bars, [f"{values[name]:.2f}" for name in names], fontsize=13, padding=2)
    axis.axhline(full, color=BLACK, linewidth=2, label=f"the whole model: {full:.2f}")
    axis.set_xticks(range(len(names)), names)
    highest = max(max(values.values()) for values in losses.values())
    axis.set_ylim(full - 0.05 * (highest - full), highest + 0.15 * (highest - full))
    axis.grid(axis="x", visible=False)
    finish(axis, title, "left out", ylabel, "upper center")
    plt.show()
    return axis
