"""What a notebook shows besides figures: tables, and the source of the course's own code."""

import hashlib
import html
import inspect
from numbers import Integral, Real

import pandas as pd
from IPython.display import display
from pandas.api.types import is_bool
from pandas.io.formats.style import Styler
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

STYLES = [
    {"selector": "th, td", "props": "text-align: left; padding: 0.25em 0.9em; vertical-align: top"},
    {"selector": ".number", "props": "text-align: right; font-variant-numeric: tabular-nums"},
    {"selector": "caption", "props": "text-align: left; caption-side: top; font-weight: bold; padding: 0.25em 0"},
]

NUMBER_HEADING = [{"selector": "th", "props": "text-align: right"}]


def show_table(rows, formats=None, caption=None):
    """Shows rows as a table, with numbers right-aligned.

    rows: a list of {column: value}, or {row name: {column: value}}, or a DataFrame, whose index is not shown. A value
    is a number, a text, True or False (yes or no), or None (an empty cell).
    formats: "{:.3f}" for all numbers that are not whole, or {column: format} for all numbers of a column. Without a
    format whole numbers get a comma between thousands, and others four digits.
    """
    display(render_table(rows, formats, caption), raw=True)


def render_table(rows, formats=None, caption=None):
    """The table that show_table shows, as {"text/html": ..., "text/plain": ...}. The same rows give the same text."""
    is_named = isinstance(rows, dict)
    index = list(rows) if is_named else None
    frame = pd.DataFrame(list(rows.values()) if is_named else rows, index, dtype=object)  # whole numbers stay whole
    text = pd.DataFrame({name: [_as_text(value, name, formats) for value in frame[name]] for name in frame},
                        index=frame.index)
    is_number = frame.map(lambda value: isinstance(value, Real) and not is_bool(value))
    identity = hashlib.sha256(text.to_json().encode()).hexdigest()[:8]
    styler = Styler(text, uuid=identity, cell_ids=False, caption=caption and html.escape(caption))
    styler.format(escape="html").format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    styler.set_table_styles(STYLES).set_td_classes(is_number.map({True: "number", False: ""}.get))
    number_columns = [name for name in frame if (is_number[name] | frame[name].isna()).all()]
    styler.set_table_styles({name: NUMBER_HEADING for name in number_columns}, overwrite=False)
    if not is_named:
        styler.hide(axis="index")
    plain = text.to_string(index=is_named)
    return {"text/html": styler.to_html(), "text/plain": f"{caption}\n{plain}" if caption else plain}


def _as_text(value, column, formats):
    """A cell of a table as text."""
    if value is None or value != value:  # nan differs from itself
        return ""
    if is_bool(value):  # Python's or NumPy's
        return "yes" if value else "no"
    if not isinstance(value, Real):
        return str(value)
    if isinstance(formats, dict) and column in formats:
        return formats[column].format(value)
    if isinstance(value, Integral):
        return f"{value:,}"
    return formats.format(value) if isinstance(formats, str) else f"{value:,.4g}"


def show_source(*things):
    """Shows the source of helpers' functions or classes, so that a notebook never needs a copy of them.

    The colours are part of the HTML itself, because GitHub and exported pages keep no style sheet of an output.
    """
    colours = HtmlFormatter(noclasses=True, cssstyles="color: #222", prestyles="font-family: monospace")
    for thing in things:
        source = inspect.getsource(thing).rstrip()
        display({"text/html": highlight(source, PythonLexer(), colours), "text/plain": source}, raw=True)
