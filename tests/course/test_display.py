"""What notebooks show besides figures: tables, and the source of helpers."""

import re

import numpy as np
import pandas as pd
import pytest

from helpers.course import display
from helpers.course.display import render_table
from helpers.machine import runtime


def cells(table):
    """The texts of the HTML's table, row by row, the headings first."""
    rows = re.findall(r"(?s)<tr>(.*?)</tr>", table["text/html"])
    return [re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def is_number(table, text):
    """Whether the cell with this text is set as a number."""
    (classes,) = re.findall(rf'<td class="([^"]*)" >{re.escape(text)}</td>', table["text/html"])
    return "number" in classes.split()


@pytest.fixture
def shown(monkeypatch):
    """Everything that is displayed, instead of displaying it."""
    outputs = []
    monkeypatch.setattr(display, "display", lambda data, raw: outputs.append(data))
    return outputs


# Tables


def test_numbers_are_formatted_and_on_the_right():
    table = render_table([{"model": "GPT-2", "parameters": 124_439_808, "share": 0.123456, "loss": 3.0}])
    assert cells(table) == [["model", "parameters", "share", "loss"], ["GPT-2", "124,439,808", "0.1235", "3"]]
    assert not is_number(table, "GPT-2") and is_number(table, "124,439,808") and is_number(table, "0.1235")
    assert re.search(r"\.number \{\s*text-align: right", table["text/html"])


def test_numbers_of_numpy_and_pandas_look_the_same():
    for value in (np.float32(2.5), np.float64(2.5)):
        assert cells(render_table([{"x": value}])) == [["x"], ["2.5"]]
    assert cells(render_table([{"n": np.int64(5000), "is_large": np.bool_(True)}]))[1:] == [["5,000", "yes"]]
    assert cells(render_table(pd.DataFrame({"n": [5000], "x": [2.5]}))) == [["n", "x"], ["5,000", "2.5"]]


def test_one_format_is_for_all_numbers_that_are_not_whole():
    assert cells(render_table([{"steps": 1000, "loss": 3.14159, "test": 2.0}], formats="{:.2f}")) == [
        ["steps", "loss", "test"], ["1,000", "3.14", "2.00"]]


def test_each_column_may_have_its_own_format():
    rows = [{"year": 1726, "share": 0.25, "loss": 3.14159, "note": "x"}]
    formats = {"year": "{}", "share": "{:.0%}", "note": "{:.1f}"}  # a text has no format
    assert cells(render_table(rows, formats)) == [["year", "share", "loss", "note"], ["1726", "25%", "3.142", "x"]]


def test_none_and_nan_are_empty_and_truth_values_are_yes_or_no():
    rows = [{"a": None, "b": float("nan"), "c": True, "d": False}, {"a": 1, "b": 2.5, "c": None, "d": "x"}]
    assert cells(render_table(rows))[1:] == [["", "", "yes", "no"], ["1", "2.5", "", "x"]]
    table = render_table(pd.DataFrame({"a": [1.5, float("nan")], "b": [True, False]}))
    assert cells(table)[1:] == [["1.5", "yes"], ["", "no"]]
    assert not is_number(table, "yes")


def test_named_rows_show_their_names_and_a_missing_value_is_empty():
    table = render_table({"small": {"layers": 12, "heads": 12}, "medium": {"layers": 24}})
    assert cells(table)[1:] == [["small", "12", "12"], ["medium", "24", ""]]
    assert "small" in table["text/plain"]


def test_lists_dictionaries_and_data_frames_give_the_same_columns():
    rows, expected = [{"name": "a", "n": 1}, {"name": "b", "n": 2}], [["name", "n"], ["a", "1"], ["b", "2"]]
    assert cells(render_table(rows)) == cells(render_table(pd.DataFrame(rows))) == expected
    named = cells(render_table({row["name"]: {"n": row["n"]} for row in rows}))
    assert [row[-1] for row in named] == ["n", "1", "2"]


def test_text_is_escaped_in_html_and_plain_elsewhere():
    table = render_table([{"text": "<|endoftext|> & <b>"}])
    assert cells(table)[1] == ["&lt;|endoftext|&gt; &amp; &lt;b&gt;"]
    assert "<|endoftext|> & <b>" in table["text/plain"]


def test_headings_names_and_caption_are_escaped_too():
    table = render_table({"<b> row": {"<b> column": 1}}, caption="<b> caption")
    assert "<b>" not in table["text/html"]
    assert all(f"&lt;b&gt; {word}" in table["text/html"] for word in ("row", "column", "caption"))


def test_the_same_table_has_the_same_html_twice_and_another_one_has_not():
    rows = [{"a": 1, "b": 0.5}]
    assert render_table(rows) == render_table([dict(row) for row in rows])
    assert render_table(rows)["text/html"] != render_table([{"a": 1, "b": 0.25}])["text/html"]


def test_the_plain_text_can_be_read():
    table = render_table([{"model": "small", "n": 1_000, "x": None}, {"model": "large", "n": 25, "x": 0.5}],
                         caption="Two models")
    caption, heading, *rows = table["text/plain"].splitlines()
    assert caption == "Two models" and heading.split() == ["model", "n", "x"]
    assert [row.split() for row in rows] == [["small", "1,000"], ["large", "25", "0.5"]]
    assert "nan" not in table["text/plain"] and "None" not in table["text/plain"]
    assert len({row.index(text) + len(text) for row, text in zip(rows, ("1,000", "25"))}) == 1, "not aligned"


def test_a_table_is_shown_as_html_and_as_text(shown):
    display.show_table([{"a": 1}], caption="One number")
    (data,) = shown
    assert data == render_table([{"a": 1}], caption="One number") and set(data) == {"text/html", "text/plain"}
    assert "<caption>One number</caption>" in data["text/html"]


# Source


def test_source_is_shown_with_its_colours_in_the_html(shown):
    display.show_source(runtime.by_size, runtime.describe)
    first, second = shown
    assert first["text/plain"].startswith("def by_size(") and second["text/plain"].startswith("def describe(")
    assert "<style" not in first["text/html"] and "font-family: monospace" in first["text/html"]
