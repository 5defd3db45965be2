"""Attention step by step as SVG: four panels whose parts stay where they are, with one frame for each token.

What all frames share (names, tables) is drawn once. Whatever depends on the token that looks is a group of the class
"frame t0", "frame t1" and so on: a page shows one of them, and an animation shows them in turn.
"""

import html
import re
from dataclasses import dataclass

import torch

from helpers import attention
from helpers.course.diagrams.svg import FONT, KINDS, PAGE, number, text_width

PANEL_WIDTH, LEFT, TABLE, HEAD, BARS, SIZE = 290, 66, 216, 56, 84, 17  # lengths in units of a panel; the size of text
MOST_ELEMENTS = 2  # of the values: with more columns there is no room for numbers
MOST_TOKENS = 12
HEADINGS = (("1 · scores", "q·k / √d"), ("2 · mask", "the past only"), ("3 · softmax", "weights w"),
            ("4 · weighted sum", "y = Σ w·v"))


@dataclass
class Steps:
    """What the four panels show of one head: scores and weights (T, T), values (T, at most 2), labels (T,)."""

    scores: torch.Tensor
    weights: torch.Tensor
    values: torch.Tensor
    labels: list
    elements: int  # of a value, of which the first ones are shown

    @property
    def T(self):
        return len(self.labels)

    @property
    def cell(self):
        """The width and height of one cell of a table."""
        return TABLE / self.T

    @property
    def top(self):
        """Where the tables begin: below the names of their columns, which are slanted if they are long."""
        widest = max(text_width(label, SIZE) for label in self.labels)
        return HEAD + 26 if widest <= self.cell else HEAD + 14 + 0.75 * widest

    @property
    def height(self):
        return self.top + TABLE + BARS + 36


def steps_of(q, k, v, labels):
    """The Steps of a head. q, k: (T, d), v: (T, m), labels: T texts. ValueError for other sizes."""
    q, k, v = (torch.as_tensor(matrix).detach().float().cpu() for matrix in (q, k, v))
    if not len(q) == len(k) == len(v) == len(labels):
        raise ValueError(f"{len(q)} queries, {len(k)} keys, {len(v)} values and {len(labels)} labels: expected one "
                         "of each per token.")
    if not 0 < len(labels) <= MOST_TOKENS:
        raise ValueError(f"{len(labels)} tokens: the view has room for 1 to {MOST_TOKENS}.")
    return Steps(attention.attention_scores(q, k), attention.attention_weights(q, k), v[:, :MOST_ELEMENTS],
                 [str(label).strip() or repr(label) for label in labels], v.shape[1])


def palette(selector, names=("q", "k", "v")):
    """The course's colours as CSS variables of a selector, for a light and for a dark screen."""
    look = []
    for dark in (0, 1):
        pairs = {name: pair[dark] for name, pair in PAGE.items()}
        for kind in names:
            pairs |= {kind: KINDS[kind][dark][0], f"{kind}-line": KINDS[kind][dark][1]}
        pairs |= {"plus": ("#6a4fb0", "#a793ea")[dark], "minus": ("#d97a0d", "#f2a341")[dark]}
        look.append(f"{selector}{{" + ";".join(f"--{name}:{colour}" for name, colour in pairs.items()) + "}")
    return f"{look[0]}\n@media (prefers-color-scheme:dark){{{look[1]}}}"


STYLE = f"""text{{font:{SIZE}px {FONT};fill:var(--ink);text-anchor:middle}}
.b{{font-weight:600}}.s{{text-anchor:start}}.e{{text-anchor:end}}.m{{fill:var(--muted)}}
.n{{font-size:13px}}.q{{fill:var(--q-line)}}.k{{fill:var(--k-line)}}.v{{fill:var(--v-line)}}
.p{{fill:var(--plus)}}.u{{fill:var(--minus)}}
.c{{fill:none;stroke:var(--edge)}}.r{{fill:none;stroke:var(--q-line);stroke-width:3}}.l{{stroke:var(--muted)}}
.dim{{fill:var(--card);opacity:.62}}.card{{fill:var(--card)}}"""


def text(x, y, words, kind):
    """A line of text as SVG."""
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{html.escape(words)}</text>'


def block(x, y, width, height, kind, opacity=None):
    """A rectangle as SVG."""
    look = "" if opacity is None else f' opacity="{opacity:.2f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"{look}/>'


def hatch(name):
    """The pattern of what is masked, under a name that is unique on the page."""
    return (f'<pattern id="{name}" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect width="2.5" height="8" fill="var(--muted)" opacity=".6"/></pattern>')


def masked(x, y, width, height, pattern):
    """A hatched rectangle as SVG, for what a causal mask hides."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="url(#{pattern})"/>'


def coloured(x, y, width, height, value, largest, shown=True):
    """A cell: purple above 0, orange below it, the stronger the larger the value; shown: with its number."""
    strength = 0.75 * min(1, abs(value) / largest)
    parts = [block(x, y, width, height, "p" if value > 0 else "u", strength)] if strength >= 0.005 else []
    if shown:
        parts.append(text(x + width / 2, y + height / 2 + 5, number(value, 2), "n"))
    return "".join(parts)


def lines(x, y, columns, rows, width, height):
    """The edges of a table of cells of this width and height."""
    path = [f"M{x:.1f} {y + row * height:.1f}h{columns * width:.1f}" for row in range(rows + 1)]
    path += [f"M{x + column * width:.1f} {y:.1f}v{rows * height:.1f}" for column in range(columns + 1)]
    return f'<path d="{"".join(path)}" class="c"/>'


def heading(steps, panel):
    """The two lines above a panel."""
    title, formula = HEADINGS[panel]
    if panel == 3 and steps.elements > MOST_ELEMENTS:
        formula = f"{formula}, first {MOST_ELEMENTS} of {steps.elements}"
    return text(LEFT, 20, title, "b s") + text(LEFT, 43, formula, "m s")


def names(steps, columns=True):
    """The names of the rows of a table (queries; keys in panel 4) and of its columns (keys)."""
    kind = "q" if columns else "v"
    parts = [text(LEFT - 7, steps.top + (t + 0.5) * steps.cell + 6, label, f"e {kind}")
             for t, label in enumerate(steps.labels)]
    slanted = steps.top > HEAD + 26
    for s, label in enumerate(steps.labels if columns else ()):
        x, y = LEFT + (s + 0.5) * steps.cell, steps.top - 8
        parts.append(f'<text transform="translate({x:.1f} {y:.1f}) rotate(-45)" class="s k">{html.escape(label)}</text>'
                     if slanted else text(x, y, label, "k"))
    return "".join(parts)


def table(steps, panel, pattern):
    """The table of all queries and keys in panels 1 to 3 (counted from 0): scores, masked scores, or weights."""
    values, largest = (steps.weights, 1.0) if panel == 2 else (steps.scores, steps.scores.abs().max().item() or 1.0)
    size, parts = steps.cell, []
    for t in range(steps.T):
        for s in range(steps.T):
            x, y = LEFT + s * size, steps.top + t * size
            if panel and s > t:
                parts.append(masked(x, y, size, size, pattern))
            else:
                parts.append(coloured(x, y, size, size, values[t, s].item(), largest, size > 34))
    return "".join(parts) + lines(LEFT, steps.top, steps.T, steps.T, size, size)


def dimmed(steps, t):
    """Pale rows but for the one of the token that looks, which has a frame and a bold name."""
    y, edge = steps.top + t * steps.cell, steps.top + TABLE
    parts = [block(LEFT, steps.top, TABLE, y - steps.top, "dim")] if t else []
    if t < steps.T - 1:
        parts.append(block(LEFT, y + steps.cell, TABLE, edge - y - steps.cell, "dim"))
    name = block(0, y, LEFT - 3, steps.cell, "card") + text(LEFT - 7, y + steps.cell / 2 + 6, steps.labels[t], "e q b")
    return "".join(parts) + block(LEFT, y, TABLE, steps.cell, "r") + name


def bars(steps, panel, t, pattern):
    """The chosen row as bars below its columns; all tokens share one scale."""
    size, top, parts = steps.cell, steps.top + TABLE + 16, []
    if panel == 2:
        row, low, high = steps.weights[t], 0.0, 1.0
    else:
        row, low, high = steps.scores[t], min(0, steps.scores.min().item()), max(0, steps.scores.max().item())
    scale = BARS / ((high - low) or 1)
    zero = top + high * scale
    for s, value in enumerate(row.tolist()):
        x, width = LEFT + (s + 0.18) * size, 0.64 * size
        if panel == 1 and s > t:
            parts += [masked(x, top, width, BARS, pattern), text(x + width / 2, top + BARS + 16, "−∞", "n")]
        elif abs(value) * scale > 0.2:
            parts.append(block(x, zero - max(value, 0) * scale, width, abs(value) * scale, "p" if value > 0 else "u"))
    parts.append(f'<path d="M{LEFT} {zero:.1f}h{TABLE}" class="l"/>')
    parts.append(text(LEFT - 7, zero + 5, steps.labels[t], "e q b"))
    return "".join(parts)


def weighted(steps, t):
    """Panel 4 for token t: each token's weight and value, their product, and below them the sum."""
    count = steps.values.shape[1]
    width, height, parts = TABLE / (1 + 2 * count), steps.cell, []
    mixed = steps.weights[t][:, None] * steps.values  # (T, count)
    largest, shown = steps.values.abs().max().item() or 1.0, width > 34 and height > 17
    for s in range(steps.T):
        y = steps.top + s * height
        cells = [(steps.weights[t, s].item(), 1.0), *((value, largest) for value in steps.values[s].tolist()),
                 *((value, largest) for value in mixed[s].tolist())]
        row = [coloured(LEFT + i * width, y, width, height, *cell, shown) for i, cell in enumerate(cells)]
        pale = ' opacity=".35"' if s > t else ""
        parts.append(f"<g{pale}>{''.join(row)}</g>")
    y = steps.top + TABLE + 34
    for i, value in enumerate(mixed.sum(0).tolist()):
        parts.append(coloured(LEFT + (1 + count + i) * width, y, width, 36, value, largest, shown))
    left = LEFT + (1 + count) * width
    parts.append(lines(left, y, count, 1, width, 36))
    parts.append(text(left - 10, y + 24, f"y of “{steps.labels[t]}” =", "e b"))
    parts.append(f'<path d="M{left:.1f} {y - 17}h{count * width:.1f}" class="l" stroke-width="3"/>')
    return "".join(parts)


def columns_of_the_sum(steps):
    """The names of the columns of panel 4, and lines between its three parts."""
    count = steps.values.shape[1]
    width = TABLE / (1 + 2 * count)
    parts = [lines(LEFT, steps.top, 1 + 2 * count, steps.T, width, steps.cell)]
    for first, columns, name, kind in ((0, 1, "w", "b"), (1, count, "v", "v b"), (1 + count, count, "w·v", "b")):
        parts.append(text(LEFT + (first + columns / 2) * width, steps.top - 8, name, kind))
        if first:
            parts.append(f'<path d="M{LEFT + first * width:.1f} {steps.top - 4:.1f}v{TABLE + 4}" class="l" '
                         'stroke-width="3"/>')
    return "".join(parts)


def panel(steps, index, pattern):
    """One of the four panels as SVG: (heading, content). The content has a group of the class "frame tN" per token."""
    if index < 3:
        shared = names(steps) + table(steps, index, pattern)
        frames = [dimmed(steps, t) + bars(steps, index, t, pattern) for t in range(steps.T)]
    else:
        shared = names(steps, columns=False) + columns_of_the_sum(steps)
        frames = [weighted(steps, t) for t in range(steps.T)]
    groups = "".join(f'<g class="frame t{t}">{frame}</g>' for t, frame in enumerate(frames))
    return heading(steps, index), shared + groups


def sentences(steps):
    """For each token: what its row of weights says."""
    said = []
    for t, label in enumerate(steps.labels):
        if t == 0:
            said.append(f"“{label}” sees only itself: its weight is 1, whatever its score is.")
            continue
        weight, s = steps.weights[t].max(0)
        chosen, later = "itself" if s == t else f"“{steps.labels[s]}”", steps.T - t - 1
        hidden = f"{later} later token{'s are' if later > 1 else ' is'} hidden" if later else "no later token is hidden"
        said.append(f"“{label}” gives its largest weight, {weight.item():.2f}, to {chosen}; {hidden}.")
    return said


def scoped(style, name):
    """Rules that hold only inside the element with this id, so that a page with the drawing keeps its own looks."""
    return re.sub(r"(?<=[{}\n])([a-z*.][^{}@%;:]*)\{",
                  lambda rule: ", ".join(f"#{name} {part.strip()}" for part in rule[1].split(",")) + "{", f"\n{style}")


def animation(steps, title, seconds=4.0):
    """The four panels as one SVG without a script: token after token looks, and its four steps appear one by one.

    seconds: how long one token is shown. Where somebody prefers no motion, the last token stands still.
    """
    total, T, gap = seconds * steps.T, steps.T, PANEL_WIDTH + 8
    width, height, last = 4 * gap + 24, steps.height + 104, steps.T - 1
    rules = [".frame{opacity:0;animation:token " + f"{total:g}s step-end infinite}}",
             f"@keyframes token{{0%{{opacity:1}}{100 / T:.3f}%{{opacity:0}}}}"]
    rules += [f".t{t}{{animation-delay:{t * seconds - total if t else 0:g}s}}" for t in range(T)]
    for index in range(1, 4):
        rules.append(f".p{index}{{animation:p{index} {seconds:g}s step-end infinite}}"
                     f"@keyframes p{index}{{0%{{opacity:0}}{19 * index}%{{opacity:1}}}}")
    rules.append(f"@media (prefers-reduced-motion:reduce){{*{{animation:none!important}}.t{last}{{opacity:1}}}}")
    parts = [text(24, 36, title, "b s big")]
    for t, sentence in enumerate(sentences(steps)):
        parts.append(f'<g class="frame t{t}">{text(24, height - 20, sentence, "s p2")}</g>')
    for index in range(4):
        above, content = panel(steps, index, "attention-steps-masked")
        parts.append(f'<g transform="translate({12 + index * gap} 56)">{above}<g class="p{index}">{content}</g></g>')
    words = f"Attention on “{' '.join(steps.labels)}”: scores, mask, softmax, weighted sum. {sentences(steps)[-1]}"
    style = scoped(f"{STYLE}.big{{font-size:22px}}{''.join(rules)}", "attention-steps")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" id="attention-steps" viewBox="0 0 {width} {height:.0f}" '
            f'width="{width}" height="{height:.0f}" role="img"><title>{html.escape(title)}</title>'
            f'<desc>{html.escape(words)}</desc>'
            f"<style>{palette('#attention-steps')}{style}</style>"
            f"<defs>{hatch('attention-steps-masked')}</defs>"
            f'<rect x="1" y="1" width="{width - 2}" height="{height - 2:.0f}" rx="14" fill="var(--card)" '
            f'stroke="var(--edge)" stroke-width="2"/>\n' + "\n".join(parts) + "\n</svg>\n")
