"""Figures of notebook 02: GPT-2 and its parts. Each function draws one figure, shows it and returns its axes.

Colours: the residual stream is grey, attention blue, the MLP purple, norms yellow, embeddings green.
"""

import matplotlib.pyplot as plt
import numpy as np

from helpers.course.figures import BLACK, BLUE, COLOURS, GREEN, ORANGE, PURPLE, finish, new_figure

GREY, PALE = "#888888", "#e4e4e4"


def _box(axis, x, y, text, colour, width=1.0, height=0.62):
    axis.add_patch(plt.Rectangle((x - width / 2, y - height / 2), width, height, facecolor="white", edgecolor=colour,
                                 linewidth=3, zorder=3))
    axis.text(x, y, text, ha="center", va="center", fontsize=13, zorder=4)


def _arrow(axis, start, end, colour=GREY):
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2.5,
                                              "shrinkA": 0, "shrinkB": 0}, zorder=2)


def _branch(axis, x, norm, part, colour):
    """One part of a block: it reads the residual stream at x through a norm, and adds its result at x + 2.1."""
    axis.plot([x, x], [0, 1.35], color=GREY, linewidth=2.5, zorder=2)
    _arrow(axis, (x, 1.35), (x + 0.25, 1.35))
    _box(axis, x + 0.65, 1.35, norm, "#c9a400", 0.8)
    _arrow(axis, (x + 1.05, 1.35), (x + 1.25, 1.35))
    _box(axis, x + 1.65, 1.35, part, colour, 0.8)
    axis.plot([x + 2.05, x + 2.3], [1.35, 1.35], color=GREY, linewidth=2.5, zorder=2)
    _arrow(axis, (x + 2.3, 1.35), (x + 2.3, 0.2))
    axis.text(x + 2.3, 0, "+", ha="center", va="center", fontsize=17, zorder=4,
              bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": GREY, "linewidth": 2.5})


def plot_gpt(config):
    """All of GPT-2 from left to right, with the names of its parts and the shapes of what flows between them."""
    axis, gold = new_figure(width=15, height=4.6), "#c9a400"
    axis.plot([2.2, 9.6], [0, 0], color=GREY, linewidth=7, zorder=1, solid_capstyle="butt")
    _box(axis, 0.1, 0, "ids\n(B, T)", BLACK, 0.9, 0.8)
    _arrow(axis, (0.55, 0), (0.85, 0))
    _box(axis, 1.65, 0, "wte(ids) +\nwpe(0 … T−1)", GREEN, 1.6, 0.9)
    axis.add_patch(plt.Rectangle((2.75, -0.5), 6.5, 2.8, facecolor="#f6f6f6", edgecolor=GREY, linestyle="--",
                                 linewidth=1.5, zorder=0))
    axis.text(2.9, 2.05, f"h: {config.n_layer} blocks, one after the other", fontsize=14, fontweight="bold",
              va="center")
    _branch(axis, 3.1, "ln_1", "attn", BLUE)
    _branch(axis, 6.2, "ln_2", "mlp", PURPLE)
    axis.text(5.8, 0.22, "x_att", ha="center", fontsize=13)
    axis.text(8.72, 0.22, "x_ff", ha="left", fontsize=13)
    axis.text(5.8, -0.3, f"residual stream: (B, T, C), C = {config.n_embd}", ha="center", va="center", fontsize=13)
    _box(axis, 9.95, 0, "ln_f", gold, 0.8)
    _arrow(axis, (10.35, 0), (10.65, 0))
    _box(axis, 11.2, 0, "lm_head", GREEN, 1.1)
    _arrow(axis, (11.75, 0), (12.05, 0))
    _box(axis, 12.6, 0, "logits\n(B, T, V)", BLACK, 1.1, 0.8)
    axis.plot([1.65, 1.65, 11.2, 11.2], [-0.45, -0.85, -0.85, -0.31], color=GREEN, linestyle=":", linewidth=2.5)
    axis.text(6, -1.12, f"tied: wte and lm_head are one matrix, {config.vocab_size:,} × {config.n_embd}", ha="center",
              va="center", fontsize=13, color=GREEN)
    axis.set(xlim=(-0.4, 13.2), ylim=(-1.35, 2.4))
    axis.axis("off")
    plt.show()
    return axis


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


def plot_recomputed(prompt, new):
    """What generation computes at each step, without and with a cache of keys and values: prompt tokens are given, and
    then each of `new` steps adds one token."""
    axes = new_figure(columns=2, width=14, height=2.6 + 0.55 * new)
    total, counts = prompt + new, []
    for axis, (heading, is_cached) in zip(axes, {"without a cache": False, "with a cache": True}.items()):
        computed = 0
        for step in range(new):
            length = prompt + step  # the tokens that this step has to consider
            for token in range(total):
                is_new = token < length if step == 0 else token == length - 1
                again = not is_new and token < length and not is_cached
                computed += is_new or again
                colour = BLUE if is_new else ORANGE if again else PALE if token < length else "white"
                axis.add_patch(plt.Rectangle((token, step), 0.92, 0.86, facecolor=colour, edgecolor="#cccccc"))
        counts.append(computed)
        axis.set(xlim=(0, total - 1), ylim=(new, 0), aspect="equal")
        axis.set_xticks(np.arange(total - 1) + 0.46, range(1, total))
        axis.set_yticks(np.arange(new) + 0.43, range(1, new + 1))
        axis.grid(False)
        finish(axis, f"{heading}: {computed} vectors per block", "token", "step" if axis is axes[0] else None)
    kinds = {"computed for the first time": BLUE, "computed again": ORANGE, "read from the cache": PALE}
    axes[0].figure.legend(handles=[plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="#cccccc", label=kind)
                                   for kind, colour in kinds.items()], loc="outside lower center", ncols=3)
    plt.show()
    return axes
