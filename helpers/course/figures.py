"""Every figure of the course. Each function draws one figure, shows it and returns its axes.

The functions are sorted by notebook. Colours are those of Okabe and Ito (2008), which colour-blind readers can
distinguish; only their pink has become the purple of the diagrams. Text is large enough for a projector.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from helpers.course.alternative_text import describe_figures

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#B07AD8", "#56B4E9", "#F0E442", "#000000",
)
GREY = "#767676"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
SIGNED = "PuOr"  # the colours of numbers with a sign: purple above 0, orange below, with 0 in the middle
MEANING = {  # what a thing is decides its colour, in all figures and diagrams of the course
    "Q": BLUE, "K": ORANGE, "V": GREEN, "W0": BLACK, "attention": BLUE, "MLP": PURPLE, "MLP, first": PURPLE,
    "MLP, second": "#D3B3EC", "embeddings": RED, "token embedding": RED, "position embedding": "#F6B48A",
    "unembedding": "#8C4A1F", "LayerNorm": YELLOW, "norms": YELLOW,
}
DARK = (BLUE, BLACK, MEANING["unembedding"], GREY)  # colours that need white text

describe_figures()  # in a notebook: every figure gets an alternative text


def new_figure(columns=1, rows=1, width=9.0, height=4.5):
    """A white figure with large text. Returns the axes, or an array of them."""
    sns.set_theme(style="whitegrid", context="talk", palette=COLOURS, font_scale=0.8)
    _, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", facecolor="white")
    return axes


def wrapped(text, inches, size):
    """A title in lines of similar length that fit into a width. size: of the letters, in points."""
    most, lines = max(12, int(72 * inches / (0.58 * size))), []  # a bold letter is 0.58 of its size wide
    for line in text.split("\n"):
        pieces, width = textwrap.wrap(line, most), most
        while len(pieces) > 1 and len(shorter := textwrap.wrap(line, width - 1)) == len(pieces):
            pieces, width = shorter, width - 1
        lines += pieces or [""]
    return "\n".join(lines)


def headline(figure, title):
    """The conclusion of a whole figure, above its panels at the left."""
    size = 1.2 * plt.rcParams["font.size"]
    title = wrapped(title, figure.get_figwidth() - 0.4, size)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=size)


def finish(axes, title=None, xlabel=None, ylabel=None, legend=None):
    """Sets the title, the axis labels with their units and, if wanted, a legend at the given place.

    The title stands at the left and is wrapped to the width of the axes.
    """
    if title:
        inches = 0.92 * axes.figure.get_figwidth() / axes.get_subplotspec().get_gridspec().ncols - 0.7
        axes.set_title(wrapped(title, inches, plt.rcParams["font.size"]), loc="left", fontweight="bold")
    if xlabel:
        axes.set_xlabel(xlabel)
    if ylabel:
        axes.set_ylabel(ylabel)
    if legend:
        axes.legend(loc=legend, frameon=True, framealpha=1)
    return axes


# --- notebook 01 ------------------------------------------------------------------------------------------------------


def plot_matrices(matrices, title, labels, numbers=False, ylabel="attending token (query)", xlabel="attended (key)"):
    """Square matrices side by side: dark for small values, hatched for what a causal mask hides.

    matrices: {heading: (T, T)}, labels: (T,). Hidden are values of -inf, and all above the diagonal if all are 0 there.
    """
    axes = np.atleast_1d(new_figure(columns=len(matrices), width=5.2 * len(matrices), height=5.4 if numbers else 4.9))
    for axis, (heading, values) in zip(axes, matrices.items()):
        values = np.asarray(values, dtype=float)
        limits = {"vmin": 0, "vmax": 1} if np.all((values >= 0) & (values <= 1)) else {}
        above = np.triu(np.ones(values.shape, dtype=bool), 1)
        hidden = np.isinf(values) | (above & (not values[above].any()))
        sns.heatmap(values, mask=hidden, ax=axis, annot=numbers, fmt=".2f", cmap="cividis", square=True,
                    linewidths=1, xticklabels=labels, yticklabels=labels, cbar=not numbers,
                    cbar_kws={"label": "weight", "shrink": 0.7}, annot_kws={"size": 14}, **limits)
        axis.patch.set(facecolor="#eeeeee", edgecolor="#bbbbbb", hatch="////")  # behind what is hidden
        axis.grid(False)
        axis.tick_params(axis="y", rotation=0)
        finish(axis, heading, xlabel, ylabel if axis is axes[0] else None)
    headline(axes[0].figure, title)
    plt.show()
    return axes


def plot_attention_steps(q, k, v, labels, rows, steps=4):
    """One head, step by step, for some of its tokens: a row of four panels for each. q, k, v: (T, d), rows: tokens.

    The scores; those of the past only; their softmax; the weighted values, with their sum below. steps: how many of the
    four panels are drawn.
    """
    T, d = k.shape
    headings = ("1 · scores q·k / √d", "2 · masked: the past only", "3 · softmax: weights", "4 · weight × value, sum")
    grid = np.atleast_2d(new_figure(columns=4, rows=len(rows), width=15.5, height=max(4.6, 1 + 1.9 * len(rows))))
    scores = np.stack([np.asarray(k @ q[t]) / d**0.5 for t in rows])
    limits = 1.1 * min(0, scores.min()), 1.1 * max(0, scores.max())  # one scale for all rows
    for axes, t, own in zip(grid, rows, scores):
        _draw_attention_steps(axes, own, np.asarray(v), t, labels)
        for axis in axes[:2]:
            axis.set_xlim(limits)
        for axis in axes[steps:]:
            axis.set_visible(False)
    grid[-1, 3].set_xlabel(f"the {v.shape[1]} elements of a vector")
    for axis, heading in zip(grid[0], headings):
        axis.set_title(heading, fontweight="bold", fontsize=15)
    plt.show()
    return grid


def _draw_attention_steps(axes, scores, v, t, labels):
    """The four panels of token t in plot_attention_steps. scores: (T,), v: (T, d)."""
    T, largest = len(scores), abs(v).max()  # no weighted mean of v can be larger: one scale for all tokens
    weights = np.exp(scores[: t + 1] - scores[: t + 1].max())
    weights = np.append(weights / weights.sum(), np.zeros(T - t - 1))
    mixed = weights[:, None] * v
    for axis, values in zip(axes, (scores, np.where(np.arange(T) <= t, scores, 0), weights)):
        axis.barh(range(T), values, color=[BLUE if s <= t else "#bbbbbb" for s in range(T)])
        axis.set_yticks(range(T), labels if axis is axes[0] else [""] * T)
        axis.invert_yaxis()
    for s in range(t + 1, T):
        axes[1].text(0, s, " −∞", va="center", fontsize=16)
    axes[2].set_xlim(0, 1)
    sns.heatmap(np.vstack([mixed, mixed.sum(0)]), ax=axes[3], cmap=SIGNED, vmin=-largest, vmax=largest, cbar=False,
                linewidths=1, xticklabels=False, yticklabels=[""] * T + ["sum"])
    axes[3].axhline(T, color=BLACK, linewidth=3)
    axes[3].tick_params(axis="y", rotation=0)
    axes[0].set_ylabel(f"{labels[t]}\nattends to", fontweight="bold")


# --- notebook 02 ------------------------------------------------------------------------------------------------------


def plot_panels(*panels, height=5.0):
    """Curves side by side. panels: dictionaries of title, xlabel, ylabel, curves {label: (x, y)}, and if wanted
    log=True, legend (a place), limits (of the y axis) and xbase (the base of a logarithmic x axis). y (R, N) of R runs
    is drawn as their mean in a band from the lowest to the highest."""
    axes = np.atleast_1d(new_figure(columns=len(panels), width=9 if len(panels) == 1 else 14, height=height))
    dashes = ("solid", "dashed", "dotted", "dashdot", (0, (6, 1, 1, 1, 1, 1)))
    for axis, panel in zip(axes, panels):
        for (label, (x, y)), colour, dash in zip(panel["curves"].items(), (BLUE, ORANGE, GREEN, RED, BLACK), dashes):
            runs, colour = np.atleast_2d(y), MEANING.get(label, colour)
            axis.plot(x, runs.mean(0), color=colour, linestyle=dash, linewidth=3, label=label)
            if len(runs) > 1:
                axis.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.set_yscale("log" if panel.get("log") else "linear")
        axis.set_ylim(panel.get("limits"))
        if "xbase" in panel:
            axis.set_xscale("log", base=panel["xbase"], subs=[])
            axis.xaxis.set_major_formatter("{x:,g}")
        legend = panel.get("legend", "best") if len(panel["curves"]) > 1 else None
        finish(axis, panel["title"], panel["xlabel"], panel["ylabel"], legend)
    plt.show()
    return axes


def plot_heat_maps(tables, title, xlabel, ylabel, unit):
    """Tables of shares from 0 to 1 as coloured grids with their values. tables: {heading: {(row, column): share}}."""
    axes = np.atleast_1d(new_figure(columns=len(tables), width=6.5 * len(tables), height=5))
    for axis, (heading, table) in zip(axes, tables.items()):
        rows, columns = (sorted({key[i] for key in table}) for i in (0, 1))
        values = [[table[row, column] for column in columns] for row in rows]
        sns.heatmap(values, ax=axis, annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, xticklabels=columns,
                    yticklabels=rows, annot_kws={"size": 20}, cbar_kws={"label": unit})
        for text, share in zip(axis.texts, np.ravel(values)):
            text.set_color("white" if share < 0.5 else BLACK)
        finish(axis, heading, xlabel, ylabel)
    headline(axes[0].figure, title)
    plt.show()
    return axes


# --- notebook 03 ------------------------------------------------------------------------------------------------------


def plot_scaling(*panels):
    """Measurements on a logarithmic axis, side by side. panels: dictionaries of title, xlabel, ylabel,
    curves {label: {x: (median, low, high)}}, drawn with their spread, and if wanted yscale="linear" or the base of the
    logarithmic axis. The legends stand below the panels: one for all of them, with one scale, if all have the
    same labels."""
    axes = np.atleast_1d(new_figure(columns=len(panels), width=9 if len(panels) == 1 else 6 * len(panels), height=6))
    shared = len(panels) > 1 and len({tuple(panel["curves"]) for panel in panels}) == 1
    for axis, panel in zip(axes, panels):
        for (label, curve), colour, marker in zip(panel["curves"].items(), COLOURS, "osD^vP"):
            middle, low, high = np.array(list(curve.values())).T
            spread = np.clip([middle - low, high - middle], 0, None)
            axis.errorbar(curve.keys(), middle, yerr=spread, color=colour, marker=marker, markersize=9, capsize=5,
                          linewidth=2.5, label=label)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:g}"))
        if panel.get("yscale") != "linear":
            axis.set_yscale("log", base=panel.get("base", 10))
            axis.yaxis.set_major_formatter(plt.FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}"))
        finish(axis, panel["title"], panel["xlabel"], panel["ylabel"])
        if not shared:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    if shared:
        limits = [axis.get_ylim() for axis in axes]
        plt.setp(axes, ylim=(min(low for low, _ in limits), max(high for _, high in limits)))
        curves = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(*curves, loc="outside lower center", ncols=len(curves[1]), frameon=False)
    plt.show()
    return axes


def plot_roofline(peak, bandwidth, points, title):
    """A machine's roof, min(peak, intensity x bandwidth), and the measured speeds below it.

    peak in FLOP/s, bandwidth in byte/s. points: {label: (FLOPs per byte, FLOP/s)}.
    """
    axes, ridge = new_figure(height=6), peak / bandwidth
    reached = [ridge, *(intensity for intensity, _ in points.values())]
    x = np.geomspace(0.5 * min(reached), 2 * max(reached), 200)
    axes.plot(x, np.minimum(peak, x * bandwidth) / 1e9, color=BLACK, linewidth=3, label="the machine's roof")
    axes.axvline(ridge, color=BLACK, linestyle="dotted", linewidth=2, label=f"ridge: {ridge:.1f} FLOPs per byte")
    for (label, (intensity, speed)), colour, marker in zip(points.items(), COLOURS, "osD^vP"):
        axes.plot(intensity, speed / 1e9, marker, color=colour, markersize=15, markeredgecolor=BLACK, label=label)
    axes.loglog()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    finish(axes, title, "arithmetic intensity (FLOPs per byte of memory traffic)", "speed (GFLOP/s)")
    axes.figure.legend(loc="outside right center", frameon=False)
    axes.figure.set_size_inches(11.5, 6)
    plt.show()
    return axes


# --- notebook 04 ------------------------------------------------------------------------------------------------------


def plot_token_grid(values, words, title, xlabels, ylabels, unit, xlabel="token read", ylabel="block"):
    """A coloured grid of shares from 0 to 1 with a word in each cell. values: (R, N); words: R lists of N strings.

    Words that are already those of the last row are framed.
    """
    axes = new_figure(width=2.0 + 1.5 * len(xlabels), height=2.7 + 0.5 * len(ylabels))
    sns.heatmap(np.asarray(values), ax=axes, annot=np.asarray(words, dtype=object), fmt="", cmap="cividis", vmin=0,
                vmax=1, linewidths=1, xticklabels=xlabels, yticklabels=ylabels, annot_kws={"size": 14},
                cbar_kws={"label": unit})
    for row, column in np.argwhere(np.asarray(words) == np.asarray(words)[-1]):
        axes.add_patch(plt.Rectangle((column + 0.03, row + 0.06), 0.94, 0.88, fill=False, edgecolor=RED, linewidth=3))
    frame = plt.Rectangle((0, 0), 1, 1, fill=False, edgecolor=RED, linewidth=3, label="the word of the last row")
    axes.figure.legend(handles=[frame], loc="outside lower center", frameon=False)
    axes.tick_params(axis="x", rotation=0)
    axes.tick_params(axis="y", rotation=0)
    finish(axes, title, xlabel, ylabel)
    plt.show()
    return axes


def plot_next_tokens(panels, tokens, title):
    """Bars of next-token probabilities, side by side. panels: {heading: probabilities of tokens}; tokens: strings.

    A last bar holds all other tokens together.
    """
    tokens = [*tokens, "all others"]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = max(9, 4.3 * columns + 1.6), 0.8 + (1.05 + 0.25 * len(tokens)) * rows
    grid = np.atleast_2d(new_figure(columns, rows, width, height))
    for i, (axis, (heading, probabilities)) in enumerate(zip(grid.flat, panels.items())):
        probabilities = [*probabilities, 1 - sum(probabilities)]
        bars = axis.barh(range(len(tokens)), probabilities, color=[BLUE] * (len(tokens) - 1) + [ORANGE])
        axis.bar_label(bars, [f"{p:.0%}" if p >= 0.005 else "" for p in probabilities], padding=3, fontsize=13)
        axis.set_yticks(range(len(tokens)), tokens if i % columns == 0 else [""] * len(tokens))
        axis.invert_yaxis()
        axis.set_xlim(0, 1.18)
        axis.set_xticks((0, 0.5, 1))
        axis.grid(False)
        axis.set_title(heading, fontsize=15, fontweight="bold")
        axis.set_xlabel("probability" if i >= len(panels) - columns else None)
    headline(grid.flat[0].figure, title)
    plt.show()
    return grid


def plot_head_grid(maps, title):
    """The attention maps of all heads, a row per layer, on one scale from 0 (dark) to 1. maps: (L, nh, T, T).

    What the causal mask hides is grey.
    """
    maps = np.asarray(maps)
    L, nh, T = maps.shape[:3]
    maps = np.where(np.tri(T, dtype=bool), maps, np.nan)
    grid = np.reshape(new_figure(nh, L, width=1.4 + 1.1 * nh, height=1.2 + 1.1 * L), (L, nh))
    for (layer, head), axis in np.ndenumerate(grid):
        axis.imshow(maps[layer, head], cmap="cividis", vmin=0, vmax=1)
        axis.set_facecolor("#cccccc")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        if layer == 0:
            axis.set_title(f"{head}", fontsize=14)
        if head == 0:
            axis.set_ylabel(f"{layer}", rotation=0, labelpad=14, va="center", fontsize=14)
    grid[0, 0].figure.supxlabel("head (numbers above)")
    grid[0, 0].figure.supylabel("layer")
    headline(grid[0, 0].figure, title)
    plt.show()
    return grid


# --- notebook 05 ------------------------------------------------------------------------------------------------------


def plot_shares(table, title, xlabel, unit="%"):
    """One horizontal bar per row, divided into its parts, with their values inside. table: {row: {part: value}}."""
    axes, parts = new_figure(width=11.5, height=2.2 + 0.42 * len(table)), list(next(iter(table.values())))
    left, rows, widest = np.zeros(len(table)), list(table)[::-1], max(sum(row.values()) for row in table.values())
    for part, colour in zip(parts, (SKY, BLUE, ORANGE, PURPLE, GREEN, YELLOW)):
        values, colour = np.array([table[row][part] for row in rows]), MEANING.get(part, colour)
        if not any(values):
            continue
        is_thin = max(values) < 0.004 * widest
        label = f"{part} (at most {max(values):.2g} {unit}: too thin to see)" if is_thin else part
        bars = axes.barh(rows, values, left=left, color=colour, edgecolor="white", linewidth=not is_thin, label=label)
        texts = [f"{value:.1f}" if value > 0.045 * widest else "" for value in values]
        axes.bar_label(bars, texts, label_type="center", color="white" if colour in DARK else BLACK, fontsize=15)
        left += values
    axes.set_xlim(0, widest)
    axes.grid(axis="y", visible=False)
    finish(axes, None, f"{xlabel} ({unit})")
    headline(axes.figure, title)
    axes.figure.legend(loc="outside lower center", ncols=len(parts) if len(parts) < 6 else 3, frameon=False)
    plt.show()
    return axes


def plot_bars(panels, kinds, title, shown="{:,.1f}"):
    """Horizontal bars side by side for the same rows. panels: {label of the x axis: {row: value}}, values above 0.

    kinds: {row: kind}; each kind has a colour and, if there are several, a line in the legend.
    """
    rows, colours = list(kinds)[::-1], dict(zip(dict.fromkeys(kinds.values()), (BLUE, ORANGE, GREEN, PURPLE)))
    width, height = max(9, 3.8 * len(panels) + 1.5), max(4, 2.2 + 0.4 * len(rows))
    axes = np.atleast_1d(new_figure(columns=len(panels), width=width, height=height))
    for axis, (label, values) in zip(axes, panels.items()):
        bars = axis.barh(rows, [values[row] for row in rows], color=[colours[kinds[row]] for row in rows])
        axis.bar_label(bars, [shown.format(values[row]) for row in rows], padding=3, fontsize=14)
        axis.set_xlim(0, 1.25 * max(values.values()))
        axis.set_yticks(range(len(rows)), rows if axis is axes[0] else [""] * len(rows))
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.grid(False)
        finish(axis, None, label)
    if len(colours) > 1:
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
        axes[0].figure.legend(handles, colours, loc="outside lower center", ncols=len(colours), frameon=False)
    headline(axes[0].figure, title)
    plt.show()
    return axes


# --- notebook 06 ------------------------------------------------------------------------------------------------------


def plot_histograms(panels, title, log=False):
    """Histograms as outlines, side by side. panels: {heading: {label: helpers.weights.histogram(...)}}.

    The height is the share of all entries in each bin. The legend says which share lies outside. log: the y axis, or
    one answer for each panel. An outline ends where the histogram ends or a bin is empty, without a wall.
    """
    axes = np.atleast_1d(new_figure(columns=len(panels), width=9 if len(panels) == 1 else 14, height=5.6))
    for axis, (heading, curves), logarithmic in zip(axes, panels.items(), np.broadcast_to(log, len(panels))):
        looks, highest = zip((BLUE, ORANGE, GREEN, BLACK), ("solid", "dashed", "dotted", "dashdot")), 0
        for (label, bars), (colour, dash) in zip(curves.items(), looks):
            counts, total = np.array(bars["counts"], dtype=float), sum(bars["counts"]) + bars["outside"]
            edges = np.linspace(bars["low"], bars["high"], len(counts) + 1)
            shares = np.where(counts > 0, counts / total, np.nan) if logarithmic else counts / total
            highest, colour = max(highest, np.nanmax(shares)), MEANING.get(label, colour)
            label += f" ({bars['outside'] / total:.1%} outside)" if bars["outside"] > 0.0005 * total else ""
            axis.stairs(shares, edges, baseline=None, color=colour, linestyle=dash, linewidth=2.5, label=label)
        axis.set_yscale("log" if logarithmic else "linear")
        low = axis.get_ylim()[0] if logarithmic else 0
        axis.set_ylim(low, min(1, highest * (2 if logarithmic else 1.08)))  # a share is at most 1
        axis.xaxis.set_major_locator(plt.MaxNLocator(5))
        finish(axis, heading, "value of an entry", "share of the entries per bin" if axis is axes[0] else None)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.19), frameon=False, fontsize=14)
    if np.ndim(log) == 0:  # panels of one kind share their axis, so that heights can be compared
        limits = np.array([axis.get_ylim() for axis in axes])
        plt.setp(axes, ylim=(limits[:, 0].min(), limits[:, 1].max()))
    headline(axes[0].figure, title)
    plt.show()
    return axes


def plot_by_layer(panels, title):
    """Statistics by layer, side by side. panels: {label of the y axis: {label: values or (low, middle, high)}}.

    Three lists of values are drawn as points with a line from low to high, beside each other within a layer. A label
    has one look in all panels, and 0 is a line where values lie on both sides of it.
    """
    axes = np.atleast_1d(new_figure(columns=len(panels), width=9 if len(panels) == 1 else 14, height=5.2))
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    styles = zip((BLUE, ORANGE, GREEN, BLACK), ("solid", "dashed", "dotted", "dashdot"), "os^D")
    looks, handles = dict(zip(labels, styles)), {}
    for axis, (ylabel, curves) in zip(axes, panels.items()):
        for place, (label, values) in enumerate(curves.items()):
            colour, dash, mark = looks[label]
            look = {"color": MEANING.get(label, colour), "linestyle": dash, "marker": mark}
            if isinstance(values, tuple):
                low, middle, high = map(np.asarray, values)
                layers = np.arange(len(middle)) + 0.16 * (place - (len(curves) - 1) / 2)
                drawn = axis.errorbar(layers, middle, (middle - low, high - middle), linewidth=1.5, elinewidth=3.5,
                                      markersize=8, **look)
            else:
                drawn, = axis.plot(np.arange(len(values)), values, linewidth=3, **look)
            handles[label] = drawn
        if axis.dataLim.y0 >= 0:
            axis.set_ylim(0, 1.08 * axis.dataLim.y1)
        else:
            axis.axhline(0, color=BLACK, linewidth=1.5)
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        finish(axis, None, "layer", ylabel)
    axes[0].figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    headline(axes[0].figure, title)
    plt.show()
    return axes


# --- notebook 07 ------------------------------------------------------------------------------------------------------


def plot_losses(history, baselines, title, initial=None):
    """The training and validation losses of a run over its steps, with horizontal lines for simpler models.

    history: a checkpoints.History. baselines: {label: nats per token}. initial: the loss of a uniform guess, ln V.
    """
    losses, axes = history.as_arrays(), new_figure(height=5.5)
    steps = np.arange(1, len(losses["train_loss"]) + 1)
    axes.plot(steps, losses["train_loss"], color=SKY, linewidth=1, label="training loss, each batch")
    axes.plot(losses["validation_step"], losses["validation_loss"], "o", color=BLUE, markersize=9,
              label="validation loss, as measured")
    lines = {} if initial is None else {"uniform guess, ln V": initial}
    for (label, loss), colour, style in zip(
        {**lines, **baselines}.items(), (BLACK, ORANGE, GREEN, RED, PURPLE),
        ("dotted", "dashed", "dashdot", "dashed", "dashdot")
    ):
        axes.axhline(loss, color=colour, linestyle=style, linewidth=2, label=f"{label}: {loss:.2f}")
    finish(axes, title, "step (batches seen)", "cross-entropy (nats per token)", legend="best")
    plt.show()
    return axes


def plot_curve(values, title, xlabel, ylabel):
    """One curve over the steps 0, 1, 2, ..."""
    axes = new_figure(height=3.5)
    axes.plot(np.arange(len(values)), values, color=BLUE, linewidth=2.5)
    finish(axes, title, xlabel, ylabel)
    plt.show()
    return axes


def plot_visits(visits, mean, edge, edge_formula, title):
    """How many tokens were visited how often, and the visits near the start relative to the mean.

    visits (N,): of each token; mean: that of the visits. edge, edge_formula (M,): the first tokens, measured and
    computed. title: of the left half.
    """
    left, right = new_figure(columns=2, width=14, height=5)
    sns.histplot(x=visits, discrete=True, stat="percent", color=SKY, ax=left)
    left.axvline(mean, color=RED, linewidth=3, linestyle="dashed", label=f"mean: {mean:.2f}")
    left.xaxis.set_major_locator(plt.MaxNLocator(8, integer=True))
    finish(left, title, "visits of a token", "share of the tokens (%)", legend="upper right")
    right.plot(edge, color=BLUE, linewidth=3, label="measured, many draws")
    right.plot(edge_formula, color=BLACK, linewidth=2, linestyle="dotted", label="computed")
    right.set_ylim(0, 1.3)
    finish(right, "The first tokens are visited least", "token of the training text", "visits relative to the mean",
           legend="lower right")
    plt.show()
    return left, right


def plot_layout(layouts, lines_title, marks_title):
    """Lines (left) and punctuation (right) of up to three texts, each with its title.

    layouts: {label: {"lines": lengths, "marks": {mark: per 1,000}}}.
    """
    left, right = new_figure(columns=2, width=13, height=5.5)
    for i, (label, found) in enumerate(layouts.items()):
        look = {"color": (BLACK, ORANGE, BLUE)[i], "linewidth": 3, "linestyle": ("solid", "dotted", "dashed")[i]}
        lengths, marks = np.clip(found["lines"], 0, 104), found["marks"]
        shares = np.full(len(lengths), 1 / max(1, len(lengths)))
        name = f"{label} ({len(lengths):,} lines)"
        left.hist(lengths, np.arange(0, 106, 5), weights=shares, histtype="step", label=name, **look)
        right.bar(np.arange(len(marks)) + 0.27 * (i - 1), marks.values(), 0.27, color=look["color"], label=label)
    right.set_xticks(range(len(marks)), marks, fontsize="large", fontweight="bold")
    left.set_ylim(0, 1.4 * left.get_ylim()[1])
    finish(left, lines_title, "length of a line (characters; last bar: 100+)", "share of the lines",
           legend="upper left")
    finish(right, marks_title, "punctuation mark", "per 1,000 characters", legend="upper right")
    plt.show()
    return left, right


def plot_bits_per_byte(groups, baselines, title, batches_per_pass=None):
    """Test losses over what was read: points where they were measured, and a faint line that only guides the eye.

    groups: {label: [(passes (n,), bits per byte (n,)), one per run]}. baselines: {label: {name: bits per byte}}, drawn
    in the colour of their group. batches_per_pass: those of Model 5, for a second axis at the top.
    """
    axes, dashes = new_figure(width=12, height=7.5), {"unigram": "dashed", "bigram": "dashdot"}
    for (label, runs), colour, marker in zip(groups.items(), (BLUE, RED, GREEN, PURPLE, BLACK), "osD^v"):
        for i, (reads, bits) in enumerate(runs):
            axes.plot(reads, bits, color=colour, linewidth=1, alpha=0.4)
            axes.plot(reads, bits, marker, color=colour, markersize=9, fillstyle="none", markeredgewidth=2.5,
                      label=None if i else f"{label} ({len(runs)} runs)" if len(runs) > 1 else label)
        if runs[0][0][0] == 0:
            axes.plot([], [], " ", label=f"untrained: {runs[0][1][0]:.2f} (above the figure)")
        for name, bits in baselines.get(label, {}).items():
            axes.axhline(bits, color=colour, linewidth=2, linestyle=dashes[name], label=f"{name}: {bits:.2f}")
    if batches_per_pass:
        convert = (lambda reads: reads * batches_per_pass, lambda batches: batches / batches_per_pass)
        axes.secondary_xaxis("top", functions=convert).set_xlabel("batches of Model 5")
    highest = max((bits for lines in baselines.values() for bits in lines.values()), default=None)
    if highest:  # the untrained models would squeeze all that is of interest into the lowest tenth
        axes.set_ylim(top=1.12 * highest)
    finish(axes, None, "passes over the training set", "test loss (bits per byte)", legend="upper right")
    headline(axes.figure, title)
    plt.show()
    return axes


def plot_form(panels, title):
    """How the form of a model's texts approaches the book's, whose value is 1: rates on the left, similarity right.

    panels: two dictionaries {measure: [(batches (n,), values relative to the book (n,)), one per run]}.
    """
    left, right = new_figure(columns=2, width=14, height=6.5)
    for axis, measures in zip((left, right), panels):
        for (measure, runs), colour, marker in zip(measures.items(), (BLUE, RED, GREEN), "osD"):
            for i, (batches, values) in enumerate(runs):
                axis.plot(batches, values, color=colour, linewidth=1, alpha=0.4)
                axis.plot(batches, values, marker, color=colour, markersize=9, fillstyle="none", markeredgewidth=2.5,
                          label=None if i else measure)
        axis.axhline(1, color=BLACK, linewidth=2, linestyle="dotted", label="the book")
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
    right.set_ylim(-0.03, 1.15)
    finish(left, "How often, and how long", "batches", "relative to the book (doubling scale)", legend="best")
    finish(right, "How alike", "batches", "relative to the book", legend="best")
    headline(left.figure, title)
    plt.show()
    return left, right


# --- notebook 09 ------------------------------------------------------------------------------------------------------


def plot_runs(arms, title, xlabel):
    """One row per variant: a ring for each run, a bar for their mean. A line marks the first variant's mean.

    arms: {label: values, one per run}.
    """
    axes, labels = new_figure(width=12, height=1.8 + 0.5 * len(arms)), list(arms)[::-1]
    axes.axvline(np.mean(arms[labels[-1]]), color=ORANGE, linewidth=2, linestyle="dashed")
    for row, label in enumerate(labels):
        axes.plot(arms[label], [row] * len(arms[label]), "o", color=BLUE, markersize=10, fillstyle="none",
                  markeredgewidth=3, zorder=3)
        axes.plot(np.mean(arms[label]), row, "|", color=BLACK, markersize=22, markeredgewidth=4)
    axes.set_yticks(range(len(labels)), labels)
    axes.margins(y=0.6 / len(labels))
    finish(axes, None, xlabel)
    headline(axes.figure, title)
    plt.show()
    return axes


# --- notebook 10 ------------------------------------------------------------------------------------------------------

def plot_induction_circuit(blocks=("an early block", "a later block")):
    """A diagram of the two heads that continue a repetition: A B ... A -> B. blocks: what to call their blocks."""
    axes, places = new_figure(width=12, height=6.6), {"A": 1.0, "B": 4.2, " … ": 6.6, "A ": 9.0}
    box = {"boxstyle": "round,pad=0.35", "linewidth": 2.5}
    for token, x in places.items():
        axes.annotate("", (x, 7.6), (x, 0.8), arrowprops={"arrowstyle": "-|>", "color": GREY, "linewidth": 5})
        axes.text(x, 0.3, token, ha="center", fontsize=24, fontweight="bold")
    for y, block, job in ((2.9, blocks[0], "previous-token head"), (5.7, blocks[1], "induction head")):
        axes.axhspan(y - 0.95, y + 0.95, color="#eeeeee", zorder=0)
        axes.text(-2.5, y, f"{block}:\n{job}", ha="left", va="center", fontsize=16, fontweight="bold")

    def carry(start, end, y, bend):
        axes.annotate("", (end, y), (start, y), arrowprops={
            "arrowstyle": "-|>", "color": GREEN, "linewidth": 4, "connectionstyle": f"arc3,rad={bend}", "shrinkA": 6})

    def note(x, y, text, colour):
        axes.text(x, y, text, ha="center", va="center", fontsize=15, bbox={**box, "fc": "white", "ec": colour})

    carry(places["A"], places["B"], 2.3, 0.25)
    note(2.5, 2.55, "V: “I am A”", GREEN)
    note(places["B"], 3.4, "“before me: A”", GREY)
    note(places["A "], 5.2, "Q: “who comes\nafter an A?”", BLUE)
    note(places["B"], 5.2, "K: “I come\nafter an A”", ORANGE)
    axes.plot((5.15, 7.85), (5.2, 5.2), color=BLACK, linewidth=2.5, linestyle="dotted")
    axes.text(6.6, 5.35, "match", ha="center", fontsize=15, bbox={"fc": "#eeeeee", "ec": "none", "pad": 1})
    carry(places["B"], places["A "], 6.2, -0.12)
    note(6.6, 6.75, "V: “I am B”", GREEN)
    axes.text(places["A "], 7.75, "next: B", ha="center", fontsize=20, fontweight="bold")
    axes.set(xlim=(-2.6, 10.6), ylim=(0, 8.4))
    axes.set_axis_off()
    plt.show()
    return axes


def plot_layer_grids(panels, title, marked=(), xlabel="head", xlabels=None, unit="score", signed=False,
                     ylabel="layer"):
    """A value for each layer and head (or position), as coloured grids on one scale. panels: {heading: (L, N)}.

    marked: (layer, head) pairs to frame, for each panel; xlabels: names of the N columns. signed: a diverging scale
    with 0 in the middle, otherwise from 0 to 1. Wide grids are below each other.
    """
    values = [np.asarray(panel, dtype=float) for panel in panels.values()]
    limit, (L, N) = max(1.0, *(abs(panel).max() for panel in values)), values[0].shape
    scale = {"cmap": SIGNED, "vmin": -limit, "vmax": limit} if signed else {"cmap": "cividis", "vmin": 0, "vmax": 1}
    columns, rows = (1, len(panels)) if N > 8 else (len(panels), 1)
    axes = new_figure(columns, rows, 2.2 + (0.52 * N + 0.6) * columns, 1.2 + (1.1 + 0.5 * L) * rows)
    for i, (axis, heading, panel) in enumerate(zip(np.atleast_1d(axes), panels, values)):
        has_bar = rows > 1 or i == len(panels) - 1
        sns.heatmap(panel, ax=axis, annot=N * L < 120 and np.round(panel, 1) + 0.0, fmt=".1f", linewidths=1,
                    annot_kws={"size": 13}, xticklabels=xlabels or "auto", yticklabels="auto", cbar=has_bar,
                    cbar_kws={"label": unit}, **scale)
        for layer, head in marked[i] if marked else ():
            axis.add_patch(plt.Rectangle((head, layer), 1, 1, fill=False, edgecolor=RED, linewidth=4))
        axis.tick_params(axis="both", rotation=0)
        axis.grid(False)
        finish(axis, heading, xlabel if columns > 1 or i == len(panels) - 1 else None,
               ylabel if rows > 1 or i == 0 else None)
    headline(np.atleast_1d(axes)[0].figure, title)
    plt.show()
    return np.atleast_1d(axes)


def plot_against_random(panels, title):
    """An effect beside those of random choices. panels: {label of the x axis: {row: (effect, effects of the random
    ones)}}. The panels have the same rows and share one scale."""
    rows = list(next(iter(panels.values())))[::-1]
    axes = np.atleast_1d(new_figure(len(panels), width=12, height=2.4 + 0.75 * len(rows)))
    everything = [x for panel in panels.values() for effect, others in panel.values() for x in (effect, *others, 0)]
    low, high = min(everything), max(everything)
    for axis, (xlabel, panel) in zip(axes, panels.items()):
        for y, row in enumerate(rows):
            effect, others = panel[row]
            spread = y + 0.18 * np.sin(2.4 * np.arange(len(others)))  # equal dots do not hide each other
            axis.plot(others, spread, "o", color=GREY, markersize=8, alpha=0.6, label=None if y else "random heads")
            axis.plot([effect] * 2, [y - 0.36, y + 0.36], color=RED, linewidth=5, label=None if y else "these heads")
        axis.axvline(0, color=BLACK, linewidth=1.5)
        axis.set_yticks(range(len(rows)), rows if axis is axes[0] else [""] * len(rows))
        axis.xaxis.set_major_locator(plt.MaxNLocator(5 if len(panels) > 1 else 8))
        axis.set(xlim=(low - 0.06 * (high - low), high + 0.06 * (high - low)), ylim=(-0.6, len(rows) - 0.4))
        finish(axis, None, xlabel)
    headline(axes[0].figure, title)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    plt.show()
    return axes


def plot_growth(step, losses, scores, levels, title, moment=None):
    """The losses of a training run, and below them the scores of its best heads, over the same steps.

    losses, scores: {label: values, one for each step}. levels: {label: a known loss}. moment: the step to mark.
    """
    upper, lower = new_figure(rows=2, width=12, height=8.5)
    for axis, curves in ((upper, losses), (lower, scores)):
        for (label, values), colour, dash in zip(curves.items(), (BLUE, ORANGE, GREEN), ("solid", "dashed", "dotted")):
            axis.plot(step, values, color=colour, linestyle=dash, linewidth=3, label=label)
        if moment is not None:
            axis.axvline(moment, color=BLACK, linewidth=2, label=f"formed at step {moment:,}")
        axis.set_xlim(0, max(step))
    for label, loss in levels.items():
        upper.axhline(loss, color=GREY, linestyle="dotted", linewidth=2.5)
        upper.text(1.02, loss, f"{label}: {loss:.2f}", transform=upper.get_yaxis_transform(), va="center", fontsize=14)
    lower.set_ylim(-0.02, 1.02)
    finish(upper, None, None, "loss (nats per token)")
    finish(lower, None, "training step", "highest score of a head")
    for axis in (upper, lower):
        axis.legend(loc="best", frameon=True, framealpha=1, fontsize=14)
    headline(upper.figure, title)
    plt.show()
    return upper, lower


def plot_growth_runs(panels, title, xlabel="training step", ylabel="highest induction score"):
    """One line for each recorded run, side by side. panels: {heading: [(steps, values), ...]}; one scale for all."""
    axes = np.atleast_1d(new_figure(len(panels), width=14, height=5))
    for axis, (heading, runs) in zip(axes, panels.items()):
        for step, values in runs:
            axis.plot(step, values, color=BLUE, linewidth=2, alpha=0.6)
        axis.set_ylim(-0.02, 1.02)
        finish(axis, heading, xlabel, ylabel if axis is axes[0] else None)
    headline(axes[0].figure, title)
    plt.show()
    return axes
