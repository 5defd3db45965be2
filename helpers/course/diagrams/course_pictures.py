"""Pictures of the course itself, and of processes that share the work: the ring, the map with “you are here”."""

import math

from helpers.course.diagrams.svg import LARGE, SMALL, Drawing

MAP = {  # notebook: (short name, what it is about, column, row); the columns are read from left to right
    "00": ("start here", "plain", 0, 1), "01": ("attention", "attention", 1, 1), "02": ("Model 5", "attention", 2, 1),
    "03": ("speed", "stream", 3, 0), "04": ("pretrained", "k", 3, 1), "05": ("counting", "stream", 2, 0),
    "06": ("weights", "k", 2, 2), "07": ("training", "mlp", 3, 2), "08": ("many GPUs", "mlp", 4, 2),
    "09": ("experiments", "mlp", 4, 3), "10": ("a circuit", "k", 4, 1), "11": ("blank file", "result", 3, 3),
    "12": ("speedrun", "mlp", 4, 4),
}
NEEDS = (("00", "01"), ("01", "02"), ("02", "03"), ("02", "04"), ("02", "05"), ("02", "07"), ("02", "06"), ("04", "10"),
         ("07", "08"), ("07", "09"), ("07", "11"), ("09", "12"))

RING_COLOURS = ("q", "k", "v")  # of the processes in the ring, and of what they begin with


def course_map(here=None):
    """The notebooks and which of them build on which. here: the number of the notebook to mark, such as "03"."""
    if here is not None and here not in MAP:
        raise ValueError(f"There is no notebook {here!r}. Choose one of: {', '.join(MAP)}.")
    place = f" You are in notebook {here}." if here else ""
    drawing = Drawing(
        f"course-map-{here}" if here else "course-map", "The map of the course", "Notebook 00 prepares, 01 explains "
        "attention, 02 builds Model 5, the complete GPT-2. From there ways lead to its speed (03), its parameters "
        "(05) and its weights (06), to a pretrained GPT-2 (04) and a circuit in it (10), and to training (07), "
        "several GPUs (08), experiments (09) with a race for the best recipe (12), and writing GPT-2 from a blank "
        f"file (11).{place}", 500)
    width, height = 158, 66
    corner = {name: (26 + 187 * column, 30 + 94 * row) for name, (_, _, column, row) in MAP.items()}
    for start, end in NEEDS:
        (x1, y1), (x2, y2) = corner[start], corner[end]
        if x1 == x2:  # above or below
            down = y2 > y1
            drawing.arrow((x1 + width / 2, y1 + height * down), (x2 + width / 2, y2 + height * (not down) - 2 * down))
        elif y1 == y2:
            drawing.arrow((x1 + width, y1 + height / 2), (x2 - 2, y2 + height / 2))
        else:
            bend = x2 - 15
            drawing.arrow((x1 + width, y1 + height / 2), (bend, y1 + height / 2), (bend, y2 + height / 2),
                          (x2 - 2, y2 + height / 2))
    for name, (says, kind, *_) in MAP.items():
        x, y = corner[name]
        if name == here:
            drawing.raw(f'<rect x="{x - 9}" y="{y - 9}" width="{width + 18}" height="{height + 18}" rx="15" '
                        'fill="none" stroke="var(--accent)" stroke-width="6"/>')
        drawing.box(x, y, width, height, f"{name}\n{says}", kind)
    for i, (says, kind) in enumerate((("build it", "attention"), ("look inside", "k"), ("measure it", "stream"),
                                      ("train it", "mlp"), ("prove it to yourself", "result"))):
        drawing.box(36, 278 + 36 * i, 26, 22, "", kind, radius=4)
        drawing.text(74, 289 + 36 * i, says, SMALL, "start")
    if here:
        drawing.text(26, 64, "You are here:", SMALL, "start", colour="accent")
        drawing.text(26, 100, f"{here} · {MAP[here][0]}", LARGE, "start", bold=True, colour="accent")
    return drawing


def ring_states(n):
    """The pieces of n processes before, between and after the two rounds of a ring all-reduce.

    Process p begins with the numbers 10^p in each of its n pieces, so a sum shows whose numbers it holds. Returns three
    lists of n rows of n numbers.
    """
    pieces = [[10**p] * n for p in range(n)]
    start = [row[:] for row in pieces]
    for step in range(n - 1):  # reduce-scatter: each process passes one piece to the right, where it is added
        sent = [(p, (p - step) % n, pieces[p][(p - step) % n]) for p in range(n)]
        for p, piece, value in sent:
            pieces[(p + 1) % n][piece] += value
    middle = [row[:] for row in pieces]
    for step in range(n - 1):  # all-gather: finished pieces are passed on, and replace what is there
        sent = [(p, (p + 1 - step) % n, pieces[p][(p + 1 - step) % n]) for p in range(n)]
        for p, piece, value in sent:
            pieces[(p + 1) % n][piece] = value
    return start, middle, pieces


def ring():
    """The all-reduce of three processes in a ring: what each of them holds before, between and after its two "
    "rounds."""
    n = len(RING_COLOURS)
    states = ring_states(n)
    total = sum(10**p for p in range(n))
    drawing = Drawing(
        "ring", "All-reduce in a ring", f"{n} processes each hold a gradient, cut into {n} pieces. They stand in "
        f"a ring and pass one piece at a time to their right-hand neighbour. After {n - 1} steps, called "
        f"reduce-scatter, each holds one piece that is the sum over all processes. After {n - 1} more, called "
        f"all-gather, everyone holds all sums. Each process has sent {2 * (n - 1)} pieces of {n}, so 2 (N - 1) / N "
        "times its gradient.", 500)
    places = ((170, 84), (250, 226), (90, 226))
    for (x1, y1), (x2, y2) in zip(places, [*places[1:], places[0]]):
        share = 46 / math.dist((x1, y1), (x2, y2))
        dx, dy = share * (x2 - x1), share * (y2 - y1)
        drawing.arrow((x1 + dx, y1 + dy), (x2 - dx, y2 - dy))
    for p, (x, y) in enumerate(places):
        drawing.circle(x, y, 38, f"{p}", RING_COLOURS[p], LARGE)
    drawing.text(360, 76, f"{n} processes, a gradient in {n} pieces", SMALL, "start", bold=True)
    drawing.text(360, 120, "At each step every process passes one piece to the\n"
                 "next process. First the pieces are added up on their\nway, then finished sums are passed on. "
                 "001 is a piece\nof process 0, 011 the sum of pieces of 0 and 1.", SMALL, "start")
    drawing.text(360, 252, f"each sends {2 * (n - 1)} pieces of 1/{n}: 2(N − 1)/N of a gradient", SMALL, "start",
                 colour="accent")
    headings = ("before", f"{n - 1} steps: reduce-scatter", f"{n - 1} steps: all-gather")
    for i, (heading, state) in enumerate(zip(headings, states)):
        x, y = 64 + 312 * i, 330
        kinds = [["result" if value == total else "stream" if i else RING_COLOURS[p] for value in row]
                 for p, row in enumerate(state)]
        drawing.grid(x, y, [[(f"{value:0{n}d}", kind) for value, kind in zip(*pair)] for pair in zip(state, kinds)],
                     72, height=44, row_names=[f"{p}" for p in range(n)])
        drawing.text(x + 108, y - 26, heading, SMALL, bold=True)
        if i:
            drawing.arrow((x - 88, y + 66), (x - 36, y + 66))
    return drawing


PICTURES = {"ring": ring, "course-map": course_map}
