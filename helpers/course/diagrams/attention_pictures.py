"""Pictures of attention: one head, the split into heads and its mistake, the causal mask and its two slips."""

import math

import torch

from helpers import attention
from helpers.course.diagrams import sentence
from helpers.course.diagrams.sentence import C, HEAD_SIZE, HEADS, T, TEXT
from helpers.course.diagrams.svg import LARGE, SMALL, Drawing, number

CELL = 53  # wide enough for a number with a minus sign and one decimal
FUTURE = torch.ones(T, T).triu(1).bool()  # (T, T): what must not be seen


def _numbers(table, kind, digits=1):
    return [[(number(value, digits), kind) for value in row] for row in table]


def _shaded(weights):
    """The cells of a table of weights: the larger, the stronger the colour; the zeros of the mask are hatched."""
    return [[("", "plain", "hatched") if FUTURE[t, s] else (number(w, 2), "attention", float(w))
             for s, w in enumerate(row)] for t, row in enumerate(weights)]


def _outline(drawing, x, y, width, height):
    """A strong line around a row of a grid that the picture follows."""
    drawing.raw(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" fill="none" '
                'stroke="var(--accent)" stroke-width="5"/>')


# --- one head --------------------------------------------------------------------------------------------------------


def _projections(drawing, tensors):
    """The upper half of one-head: x goes through three matrices and becomes q, k and v."""
    drawing.grid(72, 134, _numbers(sentence.vectors(), "stream", 2), 66, row_names=TEXT, height=26)
    drawing.text(218, 112, "x (T, C)", anchor="start", bold=True)
    drawing.arrow((204, 134), (204, 42), (887, 42), (887, 66), kind="stream", width=4)
    for middle, (kind, table) in zip((425, 593, 887), tensors.items()):
        if kind != "v":
            drawing.arrow((middle, 42), (middle, 66), kind="stream", width=4)
        drawing.box(middle - 62, 68, 124, 36, f"x @ W_{kind}.T", kind, SMALL)
        drawing.arrow((middle, 104), (middle, 132), kind=kind)
        drawing.text(middle - 12, 117, "(T, hs)", SMALL, "end", colour=kind)
        drawing.grid(middle - CELL, 134, _numbers(table, kind), CELL, height=26)
        drawing.text(middle - CELL - 20, 212, kind, LARGE, bold=True, colour=kind)
    drawing.text(542, 22, "ln_1 is left out", SMALL, colour="muted")


def _mixing(drawing, scores, weights, y):
    """The lower half of one-head: scores, softmax, and the weighted sum of the values."""
    drawing.arrow((425, 290), (425, 304), (231, 304), (231, 334), kind="q")
    drawing.arrow((593, 290), (593, 320), (350, 320), (350, 334), kind="k")
    drawing.arrow((887, 290), (887, 334), kind="v")
    for x, says, anchor, kind in ((437, "looks for", "start", "q"), (607, "offers", "start", "k"),
                                  (873, "passes on", "end", "v")):
        drawing.text(x, 304, says, SMALL, anchor, colour=kind)
    drawing.box(72, 336, 318, 38, "q @ k.T / √hs, then mask", "plain", bold=True)
    drawing.box(456, 336, 318, 38, "softmax of each row", "attention", bold=True)
    drawing.box(818, 336, 134, 38, "weights @ v", "v", SMALL)
    for middle, shape in ((231, "scores (T, T)"), (615, "weights (T, T)"), (887, "")):
        drawing.arrow((middle, 374), (middle, 400 if shape else 432))
        drawing.text(middle + 14, 387, shape, SMALL, "start", colour="muted")
    cells = [[("", "plain", "hatched") if FUTURE[t, s] else number(a) for s, a in enumerate(row)]
             for t, row in enumerate(scores)]
    drawing.grid(72, 434, cells, CELL, row_names=TEXT, column_names=TEXT, height=32)
    drawing.grid(456, 434, _shaded(weights), CELL, column_names=TEXT, height=32)
    drawing.grid(834, 434, _numbers(y, "v"), CELL, height=32)
    drawing.arrow((390, 530), (423, 530), (423, 355), (454, 355))
    drawing.arrow((774, 530), (794, 530), (794, 355), (816, 355))
    drawing.text(887, 650, "y (T, hs)", bold=True)


def one_head():
    """One attention head with the numbers of notebook 01: from x to q, k, v, to scores, weights and the output."""
    q, k, v = sentence.head()
    scores, weights = attention.attention_scores(q, k), attention.attention_weights(q, k)
    best = f"{number(q[5, 0], 0)} · {number(k[1, 0], 0)} / √{HEAD_SIZE} = {number(scores[5, 1])}"
    drawing = Drawing(
        "one-head", "One attention head", "The vectors x of six tokens, (T, C), without ln_1, go through three "
        "matrices and become queries q (blue), keys k (orange) and values v (green), each (T, hs). Every query times "
        "every key, divided by the root of hs, gives the scores, a T x T table; the future of each token, above the "
        f"diagonal, is masked and hatched. The softmax of each row gives the weights. “it” has the score {best} with "
        f"“ship” and gives it the weight {number(weights[5, 1], 2)}. Weights times values give the output y, (T, hs), "
        "whose row “it” is close to the value of “ship”.", 700)
    _projections(drawing, {"q": q, "k": k, "v": v})
    _mixing(drawing, scores, weights, weights @ v)
    for left, top, columns, height in ((372, 264, 2, 26), (540, 160, 2, 26), (834, 160, 2, 26), (72, 594, 6, 32),
                                       (456, 594, 6, 32), (834, 594, 2, 32)):
        _outline(drawing, left, top, CELL * columns, height)
    drawing.grid(546, 652, [[("", "plain", "hatched")]], 30, height=26)
    drawing.text(588, 665, "masked: the future", SMALL, "start", colour="muted")
    drawing.text(72, 652, f"“it” asks, “ship” answers: {best}", SMALL, "start", colour="accent")
    drawing.text(72, 678, f"so “it” takes {number(weights[5, 1], 2)} of the value of “ship”", SMALL, "start",
                 colour="accent")
    return drawing


# --- the split into heads --------------------------------------------------------------------------------------------


def split_tables():
    """Elements numbered in memory order: x (T, C), the view (T, nh, hs), the right and the wrong heads (nh, T, hs)."""
    x = torch.arange(T * C).view(1, T, C)
    return (x[0], x.view(1, T, HEADS, HEAD_SIZE)[0], attention.split_heads(x, HEADS)[0],
            x.view(1, HEADS, T, HEAD_SIZE)[0])


def _heads(drawing, y, tables, expected, names):
    """The two heads side by side; elements that are not the expected ones are red."""
    for i, (left, table) in enumerate(zip((630, 822), tables)):
        cells = [[(str(int(value)), HEAD_KINDS[i] if value == right else "wrong") for value, right in zip(*rows)]
                 for rows in zip(table, expected[i])]
        drawing.grid(left, y, cells, 42, height=28)
        for t, name in enumerate(names[i]):
            drawing.text(left - 10, y + 14 + 28 * t, name, SMALL, "end", colour="ink" if name == TEXT[t] else "wrong")
        drawing.text(left + 42, y - 18, f"head {i}", SMALL, bold=True)


HEAD_KINDS = ("attention", "norm")


def _right_lane(drawing, x, viewed, right):
    """The upper lane of split-and-merge: view, transpose, and the way back."""
    kinds = [HEAD_KINDS[j // HEAD_SIZE] for j in range(C)]
    drawing.grid(60, 156, [[(str(int(value)), kind) for value, kind in zip(row, kinds)] for row in x], 42,
                 row_names=TEXT, height=28)
    for i in range(HEADS):
        drawing.grid(286 + 96 * i, 156, [[(str(int(value)), HEAD_KINDS[i]) for value in row[i]] for row in viewed], 42,
                     height=28)
    _heads(drawing, 156, right, right, (TEXT, TEXT))
    drawing.text(144, 108, "q (k, v alike), all heads", SMALL)
    drawing.text(144, 134, "(B, T, C)", bold=True)
    drawing.text(376, 134, "(B, T, nh, hs)", bold=True)
    drawing.text(768, 108, "(B, nh, T, hs)", bold=True)
    drawing.arrow((228, 240), (284, 240), label="view", kind="result")
    drawing.arrow((466, 240), (576, 240), label="transpose", kind="result")
    drawing.text(168, 352, "numbers: places in memory", SMALL, "start", colour="muted")
    drawing.text(768, 352, "row t belongs to token t", SMALL, colour="result")


def split_and_merge():
    """How a vector is split among the heads and merged again, and the view that mixes tokens instead."""
    x, viewed, right, wrong = split_tables()
    owners = [[TEXT[int(row[0]) // C] for row in table] for table in wrong]
    drawing = Drawing(
        "split-and-merge", "Split into heads, and merge", "Six tokens with four elements each, numbered in memory "
        "order from 0 to 23. view(B, T, nh, hs) cuts each token's row into two halves, one for each head, and "
        "transpose(1, 2) puts the heads first: row t of each head belongs to token t. Each head computes its "
        "attention; transpose and reshape merge the results, and c_proj (W_O) follows. "
        "Below, the mistake: view(B, nh, T, hs) alone has the same shape, but head 0 gets all elements of the "
        "first three tokens and head 1 those of the last three; the rows of head 0 come from "
        f"{', '.join(owners[0])}. All elements in a wrong place are red.", 650)
    drawing.arrow((768, 95), (768, 58))
    drawing.box(630, 18, 276, 38, "attention in each head", "plain", SMALL)
    drawing.arrow((630, 37), (194, 37), kind="result")
    drawing.text(412, 60, "merge: transpose back, then reshape", SMALL, colour="result")
    drawing.box(24, 18, 168, 38, "c_proj (W_O)", "plain", SMALL)
    _right_lane(drawing, x, viewed, right)
    drawing.arrow((144, 324), (144, 532), (566, 532), kind="wrong")
    drawing.text(168, 506, "the mistake: view(B, nh, T, hs)", SMALL, "start", colour="wrong", bold=True)
    drawing.text(168, 560, "The shape is right, no error is raised,", SMALL, "start")
    drawing.text(168, 588, "but row 1 is not the token “ship”.", SMALL, "start")
    drawing.text(768, 400, "(B, nh, T, hs)", bold=True)
    _heads(drawing, 448, wrong, right, owners)
    return drawing


# --- the causal mask -------------------------------------------------------------------------------------------------


def slips():
    """What notebook 01 compares: {name: function from scores (T, T) to weights (T, T)}; the first one is right."""
    past = ~FUTURE
    return {"right": lambda a: a.masked_fill(FUTURE, -math.inf).softmax(dim=-1),
            "0 before": lambda a: (a * past).softmax(dim=-1), "0 after": lambda a: a.softmax(dim=-1) * past}


def changed_rows(weigh):
    """The rows of the head's output that change when the last token, “it”, becomes “crew”: a list of positions."""
    results = []
    for last in ("it", "crew"):
        ids = sentence.IDS.clone()
        ids[-1] = sentence.WORDS.index(last)
        q, k, v = sentence.head(ids)
        results.append(weigh(attention.attention_scores(q, k)) @ v)
    return (results[0] - results[1]).abs().amax(dim=-1).nonzero().flatten().tolist()


def rows_changed_by(weigh, part):
    """What changes when the last token gets another key or value, and nothing else does.

    weigh: from scores (T, T) to weights (T, T). part: "k" or "v". Returns two lists of positions: the rows of the
    weights that change, and the rows of the output.
    """
    q, k, v = sentence.head()
    other = {"k": k.clone(), "v": v.clone()}
    other[part][-1] += 1
    first, second = (weigh(attention.attention_scores(q, keys)) for keys in (k, other["k"]))
    return [difference.abs().amax(dim=-1).nonzero().flatten().tolist()
            for difference in (first - second, first @ v - second @ other["v"])]


def _panel(drawing, x, y, title, cells, sums=None, colour="ink"):
    """One T x T table with a title, and the sums of its rows at its right."""
    drawing.text(x, y, title, anchor="start", bold=True, colour=colour)
    drawing.grid(x, y + 60, cells, CELL, row_names=TEXT, column_names=TEXT, height=29)
    if sums is not None:
        drawing.text(x + 6 * CELL + 36, y + 44, "sum", SMALL, colour="muted")
        for t, total in enumerate(sums):
            good = abs(float(total) - 1) < 0.005
            drawing.text(x + 6 * CELL + 36, y + 74.5 + 29 * t, number(total, 2), SMALL, bold=not good,
                         colour="muted" if good else "wrong")


def _slip_cells(weights):
    """The weights of a slip: red above the diagonal unless they are 0."""
    return [[(number(w, 2), "wrong") if w and FUTURE[t, s] else (number(w, 2 if w else 0), "attention", float(w))
             for s, w in enumerate(row)] for t, row in enumerate(weights)]


def _says(weigh):
    """Whether the outputs of earlier rows depend on the last token, and through what, in words."""
    through = "".join(part for part in "kv" if rows_changed_by(weigh, part)[1][:-1])
    if not through:
        return "no output depends on later tokens"
    return "earlier outputs depend on later\n" + {
        "v": "tokens: their v gets weight (red)", "k": "tokens: their k is in softmax’s sum"}[through]


def causal_mask():
    """The causal mask with its numbers, and the two slips of notebook 01."""
    q, k, _ = sentence.head()
    scores, ways = attention.attention_scores(q, k), slips()
    right, before, after = (weigh(scores) for weigh in ways.values())
    drawing = Drawing(
        "causal-mask", "The causal mask and its two slips", "Each row of the T x T table of scores belongs to the "
        "token that looks, each column to the token it looks at. The future, above the diagonal, is set to minus "
        "infinity (grey), and softmax makes each row a distribution over the past, with the sum 1. The first slip "
        "writes 0 instead of minus infinity: every token still gives weight to the future (red). The second slip "
        "writes 0 after the softmax: the triangle looks right, but the rows no longer add up to 1 (row 0: "
        f"{number(after[0].sum(), 2)}), and the weights still depend on later keys. When “it” is replaced, "
        f"{len(changed_rows(ways['right']))} row of the output may change; with the slips "
        f"{len(changed_rows(ways['0 before']))} and {len(changed_rows(ways['0 after']))} rows do.", 650)
    cells = [[("−∞", "plain", 0.4) if FUTURE[t, s] else (number(a), "result") for s, a in enumerate(row)]
             for t, row in enumerate(scores)]
    _panel(drawing, 72, 30, "scores: the future is −∞", cells)
    _panel(drawing, 552, 30, "weights: each row adds up to 1", _shaded(right), right.sum(dim=1))
    drawing.text(72, 284, "a row looks, a column is looked at\n(numbers are rounded)", SMALL, "start", colour="muted")
    drawing.arrow((392, 177), (492, 177), label="softmax")
    _panel(drawing, 72, 350, "slip 1: 0 before the softmax", _slip_cells(before), before.sum(dim=1), "wrong")
    _panel(drawing, 552, 350, "slip 2: 0 after the softmax", _slip_cells(after), after.sum(dim=1), "wrong")
    for x, y, name in ((552, 284, "right"), (72, 602, "0 before"), (552, 602, "0 after")):
        drawing.text(x, y, _says(ways[name]), SMALL, "start",
                     colour="result" if name == "right" else "wrong")
    return drawing


PICTURES = {"one-head": one_head, "split-and-merge": split_and_merge, "causal-mask": causal_mask}
