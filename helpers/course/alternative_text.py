"""Alternative texts of figures, for those who cannot see them: made from titles, axis labels and legends.

In a notebook, describe_figures() makes IPython store such a text with every figure of matplotlib or seaborn, and draw
the figure with twice as many points in each direction (COURSE_FIGURE_SCALE), so that it is sharp on a projector.
"""

import os
import re
import struct

from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

LONGEST = 900  # characters
MANY = 9  # so many panels are described together


def alternative_text(figure):
    """What a figure shows, in words: its title, and for each panel its heading, axes, kind of drawing and legend."""
    panels = _panels(figure)
    parts = [_words(figure.get_suptitle()), *(map(_panel, panels) if len(panels) < MANY else _alike(panels))]
    parts += [_words(figure.get_supxlabel()), _words(figure.get_supylabel())]
    parts += [_legend(legend) for legend in figure.legends]
    text = " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts if part)
    text = text or "A figure without words."
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0] + " …"


def describe_figures():
    """In a notebook, makes every figure's picture sharp, and carry its alternative text. Elsewhere it does nothing."""
    shell = get_ipython()
    if shell is None:
        return
    import matplotlib

    if "inline" in matplotlib.get_backend():
        import matplotlib_inline.backend_inline  # noqa: F401  now it sets how figures are drawn, and not later
    pictures = shell.display_formatter.formatters["image/png"]
    draw = pictures.type_printers.get(Figure)
    if draw is None or hasattr(draw, "describes"):
        return

    scale = float(os.environ.get("COURSE_FIGURE_SCALE", "2"))

    def draw_and_describe(figure):
        data = print_figure(figure, dpi=scale * figure.dpi)
        if not data:  # a figure without axes
            return data
        width, height = (round(side / scale) for side in struct.unpack(">II", data[16:24]))
        return data, {"width": width, "height": height, "alt": alternative_text(figure)}

    draw_and_describe.describes = True
    pictures.for_type(Figure, draw_and_describe)


def _panels(figure):
    """The axes that hold something; the scale of colours of another one is left out."""
    return [axis for axis in figure.axes if axis.get_visible() and axis.get_label() != "<colorbar>"]


def _alike(panels):
    """Many panels in words: what is drawn in them, and their headings and labels once."""
    kinds, labels = (dict.fromkeys(filter(None, found)) for found in (
        map(_kind, panels), (_words(label) for axis in panels for label in (axis.get_title(), axis.get_ylabel(),
                                                                          axis.get_xlabel(), axis.get_title("left")))))
    return [f"{len(panels)} panels: {'; '.join(kinds)}", f"Labels: {', '.join(labels)}" if labels else ""]


def _words(text):
    """A label on one line, without the signs of TeX."""
    return re.sub(r"\s+", " ", re.sub(r"[$\\{}]", "", text)).strip()


def _panel(axis):
    """One panel in words."""
    title = _words(" ".join(filter(None, (axis.get_title(loc=place) for place in ("left", "center", "right")))))
    x, y = _words(axis.get_xlabel()), _words(axis.get_ylabel())
    scale = " (logarithmic)" if axis.get_yscale() == "log" else ""
    axes = f"{y}{scale} against {x}" if x and y else (y + scale if y else x)
    if not axis.axison and not axes:  # a diagram
        texts = filter(None, (_words(text.get_text()) for text in axis.texts))
        return ": ".join(filter(None, [title, ", ".join(dict.fromkeys(texts))]))
    legend = _legend(axis.get_legend()) if axis.get_legend() else _names(axis)
    detail = ", ".join(filter(None, [_kind(axis), axes]))
    return ". ".join(filter(None, [title, detail[:1].upper() + detail[1:], legend]))


def _kind(axis):
    """What is drawn in a panel."""
    grids = [thing for thing in axis.collections if isinstance(thing, QuadMesh)]
    if grids or axis.images:
        shape = (grids[0].get_array() if grids else axis.images[0].get_array()).shape
        return f"a coloured grid of {shape[0]} rows and {shape[1]} columns" if len(shape) > 1 else "a coloured grid"
    kinds = {"bars": any(isinstance(thing, BarContainer) for thing in axis.containers),
             "points": any(isinstance(thing, PathCollection) for thing in axis.collections)
             or any(line.get_marker() not in ("None", None, "", " ") for line in axis.lines),
             "lines": any(line.get_linestyle() not in ("None", "", " ") for line in axis.lines)}
    return " and ".join(kind for kind, is_there in kinds.items() if is_there)


def _names(axis):
    """The rows of a panel of bars, or of a grid, that has no legend."""
    names = [_words(label.get_text()) for label in axis.get_yticklabels()]
    is_text = [name for name in names if name and not re.fullmatch(r"[−\-\d.,%^ ]+", name)]
    return f"Rows: {', '.join(is_text)}" if is_text else ""


def _legend(legend):
    """The entries of a legend."""
    names = [_words(text.get_text()) for text in legend.get_texts()]
    return f"Legend: {', '.join(names)}" if names else ""
