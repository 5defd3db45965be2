"""Drawings as SVG: boxes, arrows, grids and text in one visual language, on a card that is light or dark by itself.

A picture is 960 units wide, and no text in it is smaller than 20 units: it can be read on a projector and in half a
browser's width. Text is measured in DejaVu Sans, which is wider than what a browser takes: what fits here fits there.
problems() finds what cannot be read: text that overlaps other text, leaves its box, or is crossed by an arrow.
"""

import html
from dataclasses import dataclass, field
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, get_font

WIDTH = 960
SMALL, NORMAL, LARGE = 20, 22, 28  # sizes of text
SHADE = 0.45  # the opacity of a cell whose shade is 1: text on it can still be read
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONO = "'DejaVu Sans Mono', Menlo, Consolas, monospace"

# What a thing is decides its colour, in every picture: (fill, line) on a light card and on a dark one.
KINDS = {
    "q": (("#cfe4f5", "#0072b2"), ("#0d3a5c", "#62b5ea")),
    "k": (("#fbe3b6", "#9c6300"), ("#553a05", "#f2b33d")),
    "v": (("#c9ece0", "#007a59"), ("#0b4636", "#3fcba2")),
    "stream": (("#e4e7ea", "#65717c"), ("#39434d", "#a5b1bc")),
    "mlp": (("#e7d6f3", "#7d3fae"), ("#43265b", "#c596ea")),
    "attention": (("#d6e4f7", "#2f5fa8"), ("#1d365c", "#86b2f0")),
    "embedding": (("#f6d9d2", "#b4472c"), ("#5a2518", "#ee937b")),
    "norm": (("#f4efc8", "#80730c"), ("#46400c", "#d9cb58")),
    "plain": (("#ffffff", "#8a96a1"), ("#232b33", "#8794a0")),
    "result": (("#dff0d8", "#3d7a2a"), ("#264a1c", "#8ed07a")),
    "wrong": (("#fbd9d9", "#c0272d"), ("#5c1c1f", "#ff8a8a")),
}
PAGE = {"card": ("#fbfcfd", "#161c22"), "edge": ("#d5dbe1", "#3a444e"), "ink": ("#16202a", "#eef2f5"),
        "muted": ("#4f5b66", "#b7c2cc"), "accent": ("#0b4f8a", "#7cc0ff")}


def number(value, digits=1):
    """A number as the pictures write it: with a real minus sign, and never as −0."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "−")


@cache
def _font(bold, mono):
    name = "DejaVu Sans Mono" if mono else "DejaVu Sans"
    return get_font(findfont(FontProperties(family=name, weight="bold" if bold else "normal")))


@cache
def text_width(text, size=NORMAL, bold=False, mono=False):
    """The width of one line of text in units of the drawing."""
    font = _font(bold, mono)
    font.set_size(100, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64 * size / 100


@dataclass
class Part:
    """What problems() knows of a piece of a drawing. box: (left, top, right, bottom). inside: the box that holds it."""

    kind: str  # text, box or line
    box: tuple
    label: str
    inside: tuple | None = None


@dataclass
class Drawing:
    """A picture that is made part by part, and then written with svg().

    name: unique, made of letters, digits and hyphens. title: a short name. description: what somebody who cannot see it
    must be told; it is the alternative text.
    """

    name: str
    title: str
    description: str
    height: float
    width: float = WIDTH
    pieces: list = field(default_factory=list)
    parts: list = field(default_factory=list)

    # --- what can be drawn -------------------------------------------------------------------------------------------

    def text(self, x, y, text, size=NORMAL, anchor="middle", bold=False, mono=False, colour="ink", inside=None):
        """Lines of text. y: the middle of the first line; further lines follow below it.

        anchor: start, middle or end. colour: ink, muted, accent, or a kind, whose line colour it then has.
        """
        for i, line in enumerate(str(text).split("\n")):
            top, width = y + 1.25 * size * i, text_width(line, size, bold, mono)
            if not line:
                continue
            left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
            self.parts.append(Part("text", (left, top - size / 2, left + width, top + size / 2), line, inside))
            look = f'font-size="{size:g}" text-anchor="{anchor}"' + ' font-weight="600"' * bold + ' class="mono"' * mono
            self.pieces.append(f'<text x="{x:.1f}" y="{top + 0.35 * size:.1f}" {look} fill="{self._ink(colour)}">'
                               f"{html.escape(line)}</text>")

    def box(self, x, y, width, height, text="", kind="plain", size=NORMAL, bold=False, mono=False, radius=8, dash=False,
            shade=None):
        """A box with lines of text in its middle. x, y: its left upper corner.

        shade: how strong its colour is, from 0 to 1, for a number that is seen as a colour (default: the kind's fill).
        """
        look = ' stroke-dasharray="7 5"' * dash
        fill = f"var(--{kind})" if shade is None else f'var(--{kind}-line)" fill-opacity="{SHADE * shade:.2f}'
        self.pieces.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" '
                           f'fill="{fill}" stroke="var(--{kind}-line)" stroke-width="2"{look}/>')
        area = (x, y, x + width, y + height)
        self.parts.append(Part("box", area, str(text)))
        if text:
            lines = str(text).count("\n")
            middle = y + height / 2 - 0.625 * size * lines  # of the first line
            self.text(x + width / 2, middle, text, size, bold=bold, mono=mono, inside=area)

    def frame(self, x, y, width, height):
        """A dashed frame around other things."""
        self.pieces.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="12" '
                           'fill="none" stroke="var(--muted)" stroke-width="2" stroke-dasharray="8 6"/>')

    def arrow(self, *points, kind=None, label="", offset=(0, -16), width=3, head=True, dash=False):
        """An arrow along two or more points (x, y), horizontally and vertically wherever possible.

        kind: the colour (default: ink). label: text at the middle of the first straight part, moved by offset.
        """
        colour = f"var(--{kind}-line)" if kind else "var(--muted)"
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        look = f'marker-end="url(#{self.name}-{kind or "ink"})" ' * head + 'stroke-dasharray="7 5"' * dash
        self.pieces.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
                           f'stroke-linejoin="round" {look}/>')
        for (x1, y1), (x2, y2) in zip(points, points[1:]):
            self.parts.append(Part("line", (x1, y1, x2, y2), label or "arrow"))
        if label:
            (x1, y1), (x2, y2) = points[:2]
            self.text((x1 + x2) / 2 + offset[0], (y1 + y2) / 2 + offset[1], label, SMALL, colour=kind or "muted")

    def grid(self, x, y, rows, cell=44, size=SMALL, kind="plain", row_names=(), column_names=(), height=None):
        """A matrix of cells. rows: each cell is a text, or (text, kind), (text, kind, "hatched") or (text, kind,
        shade), with the shade of box(); "" stays empty.

        row_names stand to the left, column_names above. cell: the width of a cell; height: its height (default: equal).
        Returns (left, top, right, bottom).
        """
        height = height or cell
        for i, row in enumerate(rows):
            for j, entry in enumerate(row):
                text, own, *more = (entry, kind) if isinstance(entry, str) else entry
                left, top = x + j * cell, y + i * height
                hatched = more == ["hatched"]
                self.box(left, top, cell, height, "" if hatched else text, own, size, radius=0,
                         shade=more[0] if more and not hatched else None)
                if hatched:
                    self.pieces.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{cell}" height="{height}" '
                                       f'fill="url(#{self.name}-hatch)"/>')
                    if text:
                        self.text(left + cell / 2, top + height / 2, text, size,
                                  inside=(left, top, left + cell, top + height))
        for i, name in enumerate(row_names):
            self.text(x - 10, y + (i + 0.5) * height, name, size, "end")
        for j, name in enumerate(column_names):
            self.text(x + (j + 0.5) * cell, y - size / 2 - 6, name, size)
        return x, y, x + cell * max(map(len, rows)), y + height * len(rows)

    def circle(self, x, y, radius, text="", kind="plain", size=NORMAL):
        """A circle with text in it, such as the + of a residual sum."""
        self.pieces.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="var(--{kind})" '
                           f'stroke="var(--{kind}-line)" stroke-width="2"/>')
        area = (x - radius, y - radius, x + radius, y + radius)
        self.parts.append(Part("box", area, text))
        if text:
            self.text(x, y, text, size, bold=True, inside=area)

    def raw(self, piece):
        """A piece of SVG that problems() does not look at. Its colours: var(--ink), var(--q), var(--q-line), ..."""
        self.pieces.append(piece)

    # --- the result --------------------------------------------------------------------------------------------------

    def _repr_mimebundle_(self, **_):
        """What a notebook shows and stores of the picture: ({mime type: data}, {mime type: metadata})."""
        return ({"image/svg+xml": self.svg(), "text/plain": f"{self.title}: {self.description}"},
                {"image/svg+xml": {"alt": self.description}})

    def _ink(self, colour):
        return f"var(--{colour}-line)" if colour in KINDS else f"var(--{colour})"

    def svg(self):
        """The picture as SVG that needs no other file. Two of them can stand in one page: their names differ."""
        colours = [[f"--{name}:{pair[dark]}" for name, pair in PAGE.items()]
                   + [f"--{kind}:{pairs[dark][0]};--{kind}-line:{pairs[dark][1]}" for kind, pairs in KINDS.items()]
                   for dark in (0, 1)]
        light, dark = map(";".join, colours)
        style = (f"#{self.name}{{{light}}}@media (prefers-color-scheme:dark){{#{self.name}{{{dark}}}}}"
                 f"#{self.name} text{{font-family:{FONT}}}#{self.name} text.mono{{font-family:{MONO}}}")
        used = {kind: f"var(--{kind}-line)" for kind in KINDS if f'url(#{self.name}-{kind})"' in "".join(self.pieces)}
        heads = "".join(f'<marker id="{self.name}-{kind}" viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="18" '
                        f'markerHeight="18" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
                        f'<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/>'
                        "</marker>" for kind, colour in {"ink": "var(--muted)", **used}.items())
        hatch = (f'<pattern id="{self.name}-hatch" width="9" height="9" patternUnits="userSpaceOnUse" '
                 'patternTransform="rotate(45)"><rect width="3" height="9" fill="var(--muted)" opacity="0.4"/>'
                 "</pattern>")
        return (f'<svg xmlns="http://www.w3.org/2000/svg" id="{self.name}" role="img" width="100%" '
                f'viewBox="0 0 {self.width:g} {self.height:g}" style="max-width:{self.width:g}px" '
                f'aria-labelledby="{self.name}-t {self.name}-d">'
                f'<title id="{self.name}-t">{html.escape(self.title)}</title>'
                f'<desc id="{self.name}-d">{html.escape(self.description)}</desc><style>{style}</style>'
                f"<defs>{heads}{hatch}</defs>"
                f'<rect x="1" y="1" width="{self.width - 2:g}" height="{self.height - 2:g}" rx="14" fill="var(--card)" '
                'stroke="var(--edge)" stroke-width="2"/>\n' + "\n".join(self.pieces) + "\n</svg>\n")


# --- checks ----------------------------------------------------------------------------------------------------------


def _overlap(a, b, slack=1.0):
    return min(a[2], b[2]) - max(a[0], b[0]) > slack and min(a[3], b[3]) - max(a[1], b[1]) > slack


def _crosses(line, box):
    """Whether a straight line passes through a box, tested at points along it."""
    x1, y1, x2, y2 = line
    count = max(2, int(max(abs(x2 - x1), abs(y2 - y1)) / 3))
    points = ((x1 + (x2 - x1) * i / count, y1 + (y2 - y1) * i / count) for i in range(count + 1))
    return any(box[0] + 1 < x < box[2] - 1 and box[1] + 3 < y < box[3] - 3 for x, y in points)


def problems(drawing):
    """What cannot be read in a drawing, as a list of sentences; empty if all is well."""
    found = []
    texts = [(i, part) for i, part in enumerate(drawing.parts) if part.kind == "text" and part.label.strip()]
    for place, (i, part) in enumerate(texts):
        left, top, right, bottom = part.box
        if left < 6 or top < 4 or right > drawing.width - 6 or bottom > drawing.height - 4:
            found.append(f"“{part.label}” leaves the picture")
        if part.inside and (left < part.inside[0] + 2 or right > part.inside[2] - 2
                            or top < part.inside[1] - 1 or bottom > part.inside[3] + 1):
            found.append(f"“{part.label}” is larger than its box")
        if bottom - top < SMALL - 0.01:
            found.append(f"“{part.label}” is smaller than {SMALL} units")
        found += [f"“{part.label}” overlaps “{other.label}”" for _, other in texts[place + 1:]
                  if _overlap(part.box, other.box)]
        under = next((k for k in range(i, -1, -1) if drawing.parts[k].box == part.inside), 0)  # what its box covers
        seen = drawing.parts[under:]
        found += [f"an arrow crosses “{part.label}”" for line in seen
                  if line.kind == "line" and _crosses(line.box, part.box)]
        found += [f"the edge of a box crosses “{part.label}”" for box in seen
                  if box.kind == "box" and box.box != part.inside and _overlap(box.box, part.box)
                  and not (box.box[0] <= left and box.box[1] <= top and right <= box.box[2] and bottom <= box.box[3])]
    return found
