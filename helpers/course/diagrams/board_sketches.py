"""Sketches for the board: what a teacher draws by hand in half a minute, with few strokes and few words.

The run sheets show them; python -m scripts.pictures writes them to docs/images.
"""

from helpers.course.diagrams.svg import LARGE, Drawing, Part


def stroke(drawing, *points, kind=None, head=False, dash=False):
    """A line along points (x, y), slightly bent, as a hand draws it. kind: its colour, head: whether it is an arrow."""
    colour = f"var(--{kind}-line)" if kind else "var(--ink)"
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x1, y1), (x2, y2) in zip(points, points[1:]):
        bend = 0.012 * (1 if (x1 + y2) % 2 < 1 else -1)  # a little to one side, always the same for the same line
        path += f" Q{(x1 + x2) / 2 + bend * (y2 - y1):.1f} {(y1 + y2) / 2 - bend * (x2 - x1):.1f} {x2:.1f} {y2:.1f}"
        drawing.parts.append(Part("line", (x1, y1, x2, y2), "stroke"))
    look = ' stroke-dasharray="10 8"' if dash else ""
    drawing.raw(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="4" stroke-linecap="round"{look}/>')
    if head:
        (x1, y1), (x2, y2) = points[-2:]
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        along, across = ((x2 - x1) / length, (y2 - y1) / length), ((y1 - y2) / length, (x2 - x1) / length)
        for side in (-9, 9):
            tip = x2 - 16 * along[0] + side * across[0], y2 - 16 * along[1] + side * across[1]
            drawing.raw(f'<path d="M{x2:.1f} {y2:.1f} L{tip[0]:.1f} {tip[1]:.1f}" stroke="{colour}" stroke-width="4" '
                        'stroke-linecap="round"/>')


def chalk_box(drawing, x, y, width, height, text="", kind=None):
    """A box of four strokes that cross a little at the corners, with a word in it."""
    right, bottom = x + width, y + height
    for ends in (((x - 4, y), (right + 3, y)), ((right, y - 3), (right, bottom + 4)),
                 ((right + 4, bottom), (x - 3, bottom)), ((x, bottom + 3), (x, y - 4))):
        stroke(drawing, *ends, kind=kind)
        drawing.parts.pop()  # the box stands for its strokes
    area = (x, y, right, bottom)
    drawing.parts.append(Part("box", area, text))
    if text:
        drawing.text(x + width / 2, y + height / 2, text, LARGE, colour=kind or "ink", inside=area)


def look_up():
    """A soft look-up: compare a query with keys, turn the scores into weights, mix the values."""
    sketch = Drawing("board-01-look-up", "Sketch: a soft look-up", (
        "A query q is compared with three keys. Lines show three weights, a long one for key 1. The weights mix the "
        "three values into y."), 400)
    for x, word in ((200, "compare"), (500, "weights sum to 1"), (800, "mix")):
        sketch.text(x, 40, word, LARGE, colour="muted")
    chalk_box(sketch, 40, 180, 80, 70, "q", "q")
    for i, length in enumerate((40, 150, 20)):
        y = 90 + 100 * i
        chalk_box(sketch, 250, y, 90, 70, f"k{i}", "k")
        stroke(sketch, (128, 215), (242, y + 35), head=True)
        stroke(sketch, (410, y + 35), (410 + length, y + 35))
        stroke(sketch, (410, y + 15), (410, y + 55))
        chalk_box(sketch, 620, y, 90, 70, f"v{i}", "v")
        stroke(sketch, (718, y + 35), (822, 215), kind="v" if i == 1 else None, head=True)
    chalk_box(sketch, 832, 180, 80, 70, "y")
    return sketch


def leak():
    """Two triangles of weights: the one whose mask comes first has row sums of 1, the other one leaks."""
    sketch = Drawing("board-01-leak", "Sketch: a triangle that leaks", (
        "Left: mask, then softmax; the three rows of a triangle sum to 1. Right: softmax, then mask; the rows sum to "
        "0.2, 0.6 and 1, because each was divided by a sum over the future, too: it leaks."), 400)
    cases = ((60, "mask, then softmax", ("1", "1", "1"), None),
             (540, "softmax, then mask", ("0.2", "0.6", "1"), "wrong"))
    for left, title, sums, kind in cases:
        sketch.text(left + 180, 40, title, LARGE, bold=True, colour=kind or "ink")
        sketch.text(left + 310, 92, "sum", LARGE, colour="muted")
        for i in range(3):
            for j in range(i + 1):
                chalk_box(sketch, left + 75 * j, 115 + 75 * i, 70, 70, "w")
            sketch.text(left + 310, 150 + 75 * i, sums[i], LARGE, colour=kind or "ink")
    stroke(sketch, (520, 375), (750, 375), kind="wrong")
    sketch.text(850, 375, "leaks!", LARGE, bold=True, colour="wrong")
    return sketch


def split():
    """Three tokens of four elements: cut the columns for heads, never the rows."""
    sketch = Drawing("board-01-split", "Sketch: heads are columns", (
        "A grid of three tokens with four elements each. A vertical line cuts the columns: head 0 gets the left two "
        "elements of every token, head 1 the right two. A horizontal cut is crossed out."), 400)
    for left, title, is_right in ((70, "cut the columns", True), (560, "never the rows", False)):
        sketch.text(left + 150, 40, title, LARGE, bold=True, colour="ink" if is_right else "wrong")
        for i in range(3):
            for j in range(4):
                first = j < 2 if is_right else 4 * i + j < 6
                chalk_box(sketch, left + 75 * j, 90 + 75 * i, 70, 70, f"t{i}", "q" if first else "k")
    stroke(sketch, (217, 75), (217, 325), dash=True)
    sketch.text(142, 355, "head 0", LARGE, colour="q")
    sketch.text(295, 355, "head 1", LARGE, colour="k")
    sketch.text(710, 355, "head 0 = first half?", LARGE, colour="wrong")
    return sketch


def block():
    """The residual stream, and the two parts that read from it and add to it."""
    sketch = Drawing("board-02-block", "Sketch: the block", (
        "A line from left to right is the residual stream. Twice a branch leaves it, passes a norm and a part, "
        "attention and then the MLP, and is added to the line again."), 400)
    stroke(sketch, (50, 330), (900, 330), kind="stream", head=True)
    sketch.text(60, 370, "x", LARGE, "start")
    sketch.text(470, 370, "x_att", LARGE)
    sketch.text(890, 370, "x_ff", LARGE, "end")
    for left, part, kind in ((110, "attn", "attention"), (520, "mlp", "mlp")):
        stroke(sketch, (left, 330), (left, 130), (left + 35, 130), head=True)
        chalk_box(sketch, left + 42, 95, 80, 70, "ln")
        stroke(sketch, (left + 128, 130), (left + 158, 130), head=True)
        chalk_box(sketch, left + 165, 95, 100, 70, part, kind)
        stroke(sketch, (left + 270, 130), (left + 310, 130), (left + 310, 300), head=True)
        sketch.circle(left + 310, 330, 22, "+", size=LARGE)
    sketch.text(275, 45, "between tokens", LARGE, colour="attention")
    sketch.text(690, 45, "each token alone", LARGE, colour="mlp")
    return sketch


def spread():
    """How large the stream becomes with the depth, without and with the factor 1/√(2L)."""
    sketch = Drawing("board-02-spread", "Sketch: the spread of the stream", (
        "A curve over the depth. Without the factor the spread of the residual stream grows like a square root. With "
        "the factor one over the root of 2L it stays nearly level."), 400)
    stroke(sketch, (120, 340), (900, 340), head=True)
    stroke(sketch, (120, 340), (120, 50), head=True)
    points = [(120 + 70 * i, 320 - 85 * i ** 0.5) for i in range(9)]
    stroke(sketch, *points, kind="wrong")
    stroke(sketch, (120, 318), (680, 300), kind="result")
    sketch.text(780, 75, "without: √(2L)", LARGE, colour="wrong")
    sketch.text(800, 292, "with 1/√(2L)", LARGE, colour="result")
    sketch.text(880, 372, "depth", LARGE, "end", colour="muted")
    sketch.text(140, 40, "spread", LARGE, "start", colour="muted")
    return sketch


def cache():
    """Two steps of generation: one new query, and keys and values that are only appended."""
    sketch = Drawing("board-02-cache", "Sketch: the key/value cache", (
        "Two rows, one for each step of generation. In the first, one query meets four pairs of keys and values. In "
        "the second, the four pairs are kept and a fifth is appended."), 380)
    for row, count in enumerate((4, 5)):
        y = 70 + 160 * row
        sketch.text(60, y + 35, f"step {row + 1}", LARGE, "start", colour="muted")
        chalk_box(sketch, 190, y, 80, 70, "q", "q")
        stroke(sketch, (280, y + 35), (342, y + 35), head=True)
        for i in range(count):
            chalk_box(sketch, 360 + 100 * i, y, 86, 70, "k, v", "k" if i == count - 1 else None)
    sketch.text(755, 195, "new", LARGE, "start", colour="k")
    sketch.text(360, 350, "kept: computed once", LARGE, "start", colour="muted")
    return sketch


def settings():
    """The same five tokens under four settings: temperature changes all bars, top-k and top-p remove some."""
    sketch = Drawing("board-04-settings", "Sketch: temperature, top-k, top-p", (
        "Four groups of five bars. At temperature 1 the bars fall from left to right. At a low temperature the first "
        "bar is nearly everything, at a high one all are alike. With top-k 2 only the first two are left, and "
        "taller."), 400)
    cases = (("τ = 1", (110, 80, 50, 30, 20), None), ("τ = 0.1", (220, 8, 0, 0, 0), "q"),
             ("τ = 10", (62, 60, 58, 56, 54), "k"), ("top-k 2", (168, 122, 0, 0, 0), "v"))
    for i, (title, heights, kind) in enumerate(cases):
        left = 45 + 235 * i
        sketch.text(left + 85, 40, title, LARGE, bold=True, colour=kind or "ink")
        stroke(sketch, (left, 330), (left + 180, 330))
        for j, height in enumerate(heights):
            if height:
                chalk_box(sketch, left + 8 + 34 * j, 328 - height, 24, height, kind=kind)
    sketch.text(480, 372, "same order everywhere; each group sums to 1", LARGE, colour="muted")
    return sketch


def transposed():
    """A wide matrix shows by its shape that it was transposed; a square one does not."""
    sketch = Drawing("board-04-transposed", "Sketch: which transposed matrix hides?", (
        "Left: a wide matrix C by 3C and its transposed form 3C by C, marked as an error. Right: a square matrix C by "
        "C and its transposed form, which has the same shape, marked as silently wrong."), 400)
    chalk_box(sketch, 60, 90, 210, 80, "C × 3C")
    stroke(sketch, (285, 130), (345, 130), head=True)
    chalk_box(sketch, 360, 60, 110, 190, "3C × C", "wrong")
    sketch.text(250, 320, "shapes do not fit: an error", LARGE, colour="result")
    chalk_box(sketch, 560, 90, 120, 120, "C × C")
    stroke(sketch, (695, 150), (755, 150), head=True)
    chalk_box(sketch, 770, 90, 120, 120, "C × C", "wrong")
    sketch.text(725, 320, "shapes fit: silently wrong", LARGE, colour="wrong")
    sketch.text(725, 362, "compare x @ W", LARGE, bold=True)
    return sketch


def lens():
    """The residual stream with a tap after each block: ln_f and lm_head read it too early."""
    sketch = Drawing("board-04-lens", "Sketch: the logit lens", (
        "The residual stream runs through three blocks. After the embeddings and after every block a branch leads up "
        "to a guess of the next token; only the last guess is the model's own."), 400)
    for i in range(4):  # the stream, with a gap for each block
        stroke(sketch, (40 + 240 * i + 45 * (i > 0), 320), (182 + 240 * i, 320), kind="stream", head=True)
    for i in range(3):
        chalk_box(sketch, 190 + 240 * i, 285, 130, 70, f"block {i}")
    for i, guess in enumerate(("by", "sea", "sea?", "side")):
        x = 120 + 240 * i
        stroke(sketch, (x, 312), (x, 232), dash=i < 3, head=True)
        chalk_box(sketch, x - 75, 150, 150, 72, "ln_f, head")
        stroke(sketch, (x, 142), (x, 100), dash=i < 3, head=True)
        sketch.text(x, 72, f"“{guess}”", LARGE, bold=i == 3, colour="result" if i == 3 else "muted")
    return sketch


def windows():
    """A window of a text, and the same window one token later."""
    sketch = Drawing("board-07-windows", "Sketch: a window and its targets", (
        "A row of seven tokens a to g. The window X is b, c, d; the targets Y are c, d, e, each one place further "
        "right. An arrow leads from each token to the next."), 400)
    for i, letter in enumerate("abcdefg"):
        chalk_box(sketch, 180 + 100 * i, 40, 80, 64, letter)
    sketch.text(100, 72, "text", LARGE, colour="muted")
    for name, y, kind, first in (("X", 160, "q", 1), ("Y", 300, "v", 2)):
        sketch.text(100, y + 32, name, LARGE, bold=True)
        for i in range(first, first + 3):
            chalk_box(sketch, 180 + 100 * i, y, 80, 64, "abcdefg"[i], kind)
    for i in (1, 2, 3):
        stroke(sketch, (220 + 100 * i, 232), (312 + 100 * i, 292), head=True)
    sketch.text(770, 262, "predict the next", LARGE, colour="muted")
    return sketch


def rivals():
    """Axes for the loss of a run: the class draws the curve that it expects between the lines of the rivals."""
    sketch = Drawing("board-07-rivals", "Sketch: which lines will the loss cross?", (
        "An axis of the loss downwards from ln V, and an axis of the batches. Four dashed lines from the top: uniform, "
        "unigram, bigram, trigram. A curve falls from the first and ends in a question mark near the last two."), 400)
    stroke(sketch, (120, 360), (120, 30), head=True)
    stroke(sketch, (120, 360), (900, 360), head=True)
    sketch.text(70, 30, "loss", LARGE, colour="muted")
    sketch.text(850, 335, "batches", LARGE, colour="muted")
    for y, name in ((70, "uniform: ln V"), (170, "unigram"), (255, "bigram"), (300, "trigram")):
        stroke(sketch, (120, y), (700, y), dash=True)
        sketch.text(720, y, name, LARGE, anchor="start")
    sketch.raw('<path d="M124 72 C 180 210 280 245 560 272" fill="none" stroke="var(--q-line)" stroke-width="5" '
               'stroke-linecap="round"/>')
    sketch.text(590, 278, "?", LARGE, bold=True, colour="q")
    return sketch


def edges():
    """How many windows contain a token: a ramp, a plain, and a ramp."""
    sketch = Drawing("board-07-edges", "Sketch: who visits the first token?", (
        "The number of windows that contain a token, over the text: it rises in a straight line over the first T "
        "tokens, stays at T, and falls over the last T tokens."), 400)
    stroke(sketch, (150, 330), (150, 30), head=True)
    stroke(sketch, (150, 330), (900, 330), head=True)
    stroke(sketch, (154, 322), (290, 90), (720, 90), (856, 322), kind="q")
    stroke(sketch, (290, 320), (290, 340))
    stroke(sketch, (720, 320), (720, 340))
    sketch.text(110, 90, "T", LARGE, bold=True)
    sketch.text(220, 365, "T tokens", LARGE, colour="muted")
    sketch.text(790, 365, "T tokens", LARGE, colour="muted")
    sketch.text(505, 365, "all others", LARGE, colour="muted")
    sketch.text(505, 50, "windows that contain a token", LARGE, colour="muted")
    return sketch


SKETCHES = {"01_look_up": look_up, "01_leak": leak, "01_split": split,
            "02_block": block, "02_spread": spread, "02_cache": cache,
            "07_windows": windows, "07_rivals": rivals, "07_edges": edges,
            "04_settings": settings, "04_transposed": transposed, "04_lens": lens}
