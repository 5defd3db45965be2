"""Slides and hand-outs: what they show, what the notes say, what is left out; and the teaching guide about them."""

import re
from dataclasses import asdict

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.course.claims import Ledger
from helpers.course.display import render_table
from helpers.machine import assets
from scripts import clean_notebooks, slides
from tests.html_requests import Requests

PATHS = sorted((assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
GUIDE = assets.ROOT / "docs" / "teaching.md"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS], scope="module")
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def deck(notebook):
    return slides.deck(notebook)


def all_slides(notebook):
    return [slide for section in slides.deck(notebook) for slide in section]


def tagged(kind, cell, *tags):
    cell.metadata = nbformat.NotebookNode(slideshow={"slide_type": kind}, tags=list(tags))
    return cell


def prose(source, kind="subslide", name="cell"):
    return tagged(kind, new_markdown_cell(source, id=name))


def code(source, *outputs, kind="subslide", tags=(), name="code"):
    return tagged(kind, new_code_cell(source, outputs=list(outputs), id=name), *tags)


def printed(text):
    return new_output("stream", text=text)


def figure():
    return new_output("display_data", {"image/png": PIXEL})


def made(*cells):
    return all_slides(new_notebook(cells=[prose("# 01 · A title", "slide", "title"), *cells]))[1:]


def text_of(slide):
    return re.sub(r"<[^>]+>", "", "".join(block.html for block in slide.blocks))


# --- the notebooks ---------------------------------------------------------------------------------------------------

def test_every_cell_has_a_slide_tag(notebook):
    kinds = {cell.id: slides.slide_type(cell) for cell in notebook.cells if "slideshow" in cell.metadata}
    assert set(kinds) == {cell.id for cell in notebook.cells}, "cells without a tag"
    assert set(kinds.values()) <= {"slide", "subslide", "fragment", "notes", "skip", "-"}
    assert kinds["setup"] == "skip" and kinds[notebook.cells[0].id] == "slide"
    for cell in notebook.cells:
        if cell.source.startswith("## ") and not cell.source.startswith("## References"):
            assert kinds[cell.id] == "slide", cell.id


def test_there_is_a_sensible_number_of_slides(notebook, deck):
    sections = [cell for cell in notebook.cells if re.match(r"## (?!References)", cell.source)]
    assert len(deck) >= len(sections)
    assert 2 * len(sections) <= sum(map(len, deck)) <= 12 * len(sections)
    assert all(slide.blocks for section in deck for slide in section)


def test_every_figure_exercise_and_claim_has_its_slide(notebook, deck):
    html = "".join(block.html for section in deck for slide in section for block in slide.blocks)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                assert f'alt="figure: {cell.id}"' in html, cell.id
        for title in re.findall(r"(?m)^### (Exercise \d+) ", cell.source):
            assert title in html, title
        for row in slides.claims_of(cell):
            assert f"<h3>Claim {row['number']}</h3>" in html


def test_every_formula_becomes_mathml(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            html = slides.markdown(cell.source)
            assert html.count("<math") >= cell.source.count("$$") // 2
            for formula in re.findall(r"<math.*?</math>", html, re.S):
                assert "\\" not in formula and "merror" not in formula, (cell.id, formula)


def test_the_page_needs_no_other_file(notebook):
    page = slides.page(notebook)
    assert Requests(page).found == []
    assert len(page) < 3_000_000
    assert "Permission is hereby granted" in page, "the licence of reveal.js"


def test_what_would_be_requested_is_noticed():
    page = ('<script src="https://a.b/c.js"></script><img src="x.png"><img src="data:image/png;base64,AA">'
            '<p style="background: url(y.png)"><style>@import "z.css"; p { background: url("w.png") }</style>')
    assert Requests(page).found == ["https://a.b/c.js", "x.png", "y.png", '@import "z.css"', "w.png"]


# --- the rules -------------------------------------------------------------------------------------------------------

def test_prose_is_said_and_what_matters_is_shown():
    (slide,) = made(prose("## 1 · Heads\n\n**Question.** How many?\n\nThis is only said.\n\nSo it is\n\n$$a_1 = b$$\n\n"
                          "- one\n- two\n\n**Predict first.** What comes?", "slide"))
    shown = text_of(slide)
    for part in ("1 · Heads", "How many?", "So it is", "one", "two", "What comes?"):
        assert part in shown, part
    assert "only said" not in shown and slide.notes == ["This is only said."]
    assert '<div class="predict">' in slide.blocks[-1].html and "<math" in "".join(b.html for b in slide.blocks)


def test_a_long_paragraph_is_cut_after_a_sentence_and_said_whole():
    long = "**A lead.** " + "This sentence has exactly seven words, really. " * 20
    (slide,) = made(prose(long))
    assert text_of(slide).strip().endswith("really.")
    assert len(text_of(slide).split()) <= slides.WORDS_SHOWN
    assert slide.notes[0].count("exactly seven") == 20


def test_what_is_seen_appears_under_its_figure_and_the_rest_begins_a_slide():
    first, second = made(code("plot()", figure(), tags=["hide-input"]),
                         prose("**What you should see.** A line.\n\n**Predict first.** And now?", "fragment", "see"))
    assert [block.kind for block in first.blocks] == ["figure", "text"] and "plot()" not in text_of(first)
    assert first.blocks[1].fragment and "A line." in first.blocks[1].html
    assert second.name == "see" and "And now?" in text_of(second) and "A line." not in text_of(second)


def test_code_is_shown_unless_it_is_hidden_and_skipped_cells_are_gone():
    shown, hidden = made(code("x = 1", name="a"), code("y = 2", printed("two"), tags=["hide-input"], name="b"),
                         code("z = 3", printed("three"), kind="skip", name="c"))
    assert "x" in text_of(shown)
    assert text_of(hidden).strip() == "two"


def test_an_exercise_shows_its_task_and_not_that_it_is_unsolved():
    (slide,) = made(prose("### Exercise 1 · Add (★, 2 minutes)\n\nAdd two numbers. Help: `nb01.add.hint()`."),
                    code("def add(a, b):\n    return None\n\nnb01.add.check(add)", printed("Add: not yet."), kind="-"))
    assert "Add two numbers." in text_of(slide) and "return" in text_of(slide)
    assert "not yet" not in text_of(slide) and "Help" not in text_of(slide)


def test_the_answers_of_a_quiz_wait_for_a_click():
    (slide,) = made(prose("## Quiz\n\n1. Why?\n\n<details><summary>Answer</summary>\n\nBecause of $x$.\n</details>",
                          "slide"))
    assert [block.fragment for block in slide.blocks] == [False, False, True]
    assert "Because" in slide.blocks[-1].html and "<math" in slide.blocks[-1].html


def test_an_answer_and_a_formula_stay_with_the_words_before_them():
    answer = "<details><summary>Answer</summary>\n\nAnswer {}, " + "long " * 40 + "\n</details>"
    quiz = "\n\n".join(f"{i}. Question {i}?\n\n{answer.format(i)}" for i in range(1, 6))
    found = made(prose(f"## Quiz\n\n{quiz}", "slide"))
    assert len(found) > 1
    for slide in found:
        assert re.findall(r"Question (\d)", text_of(slide)) == re.findall(r"Answer (\d)", text_of(slide))
    found = made(prose("\n\n".join(f"So number {i} is\n\n$$x_{i} = \\frac{{1}}{{{i}}}$$" for i in range(1, 9))))
    assert len(found) > 1 and all(slide.blocks[-1].kind == "formula" for slide in found)


def test_other_details_stay_in_the_notebook():
    (slide,) = made(prose("**Lead.** Text.\n\n<details><summary>A proof</summary>\n\nLong.\n</details>"))
    assert "Long." not in text_of(slide) and slide.notes == ["A proof: in the notebook."]


def test_each_claim_of_a_ledger_has_a_slide_with_a_hidden_verdict():
    ledger = Ledger("05")
    ledger.add(9, "measured & counted", "the meta device", True)
    data = {slides.MIME: {"notebook": "05", "claims": [asdict(row) for row in ledger.claims]}}
    (slide,) = made(code("ledger.show()", new_output("display_data", data)))
    assert slide.name == "code-9"
    assert [block.fragment for block in slide.blocks] == [False, False, True]
    assert "measured &amp; counted" in slide.blocks[2].html and "holds" in slide.blocks[2].html


def test_long_code_long_lists_and_long_output_are_cut_and_nothing_is_lost():
    source = "\n".join(f"name_{i} = {i}" for i in range(60))
    parts = made(code(source, printed("\n".join(f"row {i}" for i in range(70)))))
    assert len(parts) > 3 and all(sum(block.height for block in slide.blocks) <= slides.ROOM for slide in parts)
    text = "\n".join(map(text_of, parts))
    assert all(f"name_{i} " in text for i in range(60)) and all(f"row {i}" in text for i in range(70))
    items = made(prose("\n".join(f"- item {i}" for i in range(40))))
    assert len(items) > 1 and all(f"item {i}" in "".join(map(text_of, items)) for i in range(40))
    rows = made(prose("\n".join(["| a | b |", "|---|---|", *(f"| cell {i} | x |" for i in range(30))])))
    assert len(rows) > 1 and all("<th>" in slide.blocks[0].html for slide in rows)
    assert [slide.name for slide in rows] == ["cell", "cell~2", "cell~3"]


def html_table(rows):
    rows = "".join(f"<tr><td style='color:red'>{row}</td></tr>" for row in rows)
    table = f"<table><thead><tr><th>head</th></tr></thead><tbody>{rows}</tbody></table>"
    return made(code("table()", new_output("display_data", {"text/html": table}), tags=["hide-input"]))


def test_a_table_of_html_shows_as_many_rows_as_fit():
    (slide,) = html_table(f"row {i}" for i in range(40))
    assert "row 0" in text_of(slide) and "row 1<" not in slide.blocks[0].html and "of the 40 rows" in text_of(slide)
    assert sum(block.height for block in slide.blocks) <= slides.ROOM and "style" not in slide.blocks[0].html
    (whole,) = html_table(f"row {i}" for i in range(9))
    assert all(f"row {i}" in text_of(whole) for i in range(9)) and "of the" not in text_of(whole)


def test_a_table_keeps_its_caption_its_row_names_and_its_numbers_on_the_right():
    rows = {"GPT-2 <small>": {"blocks": 12, "tied": True}, "GPT-2 XL": {"blocks": 48, "tied": True}}
    table = new_output("display_data", render_table(rows, caption="Two models"))
    (slide,) = made(code("show_table(rows)", table, tags=["hide-input"]))
    (block,) = slide.blocks
    assert "<caption>Two models</caption>" in block.html and "<style" not in block.html and "#T_" not in block.html
    assert re.search(r'<th>GPT-2 &lt;small&gt;</th>\s*<td class="number">12</td>\s*<td>yes</td>', block.html)


def test_a_table_whose_only_row_is_higher_than_a_slide_stays_in_one_piece():
    (slide,) = html_table(["long text " * 300])
    assert slide.blocks[0].height > slides.ROOM and text_of(slide).count("long text") == 300


@pytest.mark.parametrize("kind, tags, waits", [
    ("subslide", [], True), ("-", ["hide-input"], True), ("subslide", ["hide-input"], False)])
def test_the_answer_to_a_prediction_waits_for_a_click_unless_its_slide_begins_with_it(kind, tags, waits):
    cell = code("count()", printed("seven"), kind=kind, tags=tags)
    cell.metadata["jupyter"] = {"outputs_hidden": True}
    found = made(prose("**Predict first.** How many?"), cell)
    assert found[-1].blocks[-1].fragment is waits and "seven" in found[-1].blocks[-1].html
    assert not any(block.fragment for block in found[-1].blocks[:-1])


def test_prose_without_anything_to_show_is_said_on_the_next_slide():
    (slide,) = made(prose("Nothing but plain words here, " + "and more of them " * 15, name="a"),
                    code("x", printed("7"), tags=["hide-input"]))
    assert slide.name == "code" and slide.notes[0].startswith("Nothing but plain words")


def test_minutes_count_words_and_looks():
    words = slides.Slide("a", "", [slides.Block("", 0, words=slides.WORDS_PER_MINUTE)], ["word " * 65])
    assert words.minutes() == pytest.approx(1.5)
    words.blocks.append(slides.Block("", 0, "figure"))
    assert words.minutes() == pytest.approx(1.5 + slides.SECONDS["figure"] / 60)


def test_the_command_writes_a_file_and_prints_minutes(tmp_path, capsys):
    assert slides.main([str(PATHS[1]), "--build", str(tmp_path)]) == 0
    assert (tmp_path / f"{PATHS[1].stem}.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert slides.main([str(PATHS[1]), "--minutes"]) == 0
    assert re.search(r"(?m)^1\.1 +title +\d+ words", capsys.readouterr().out)
    with pytest.raises(SystemExit, match="no such notebook: nowhere.ipynb"):
        slides.main(["nowhere.ipynb"])


# --- hand-outs -------------------------------------------------------------------------------------------------------

def test_hand_outs_have_no_outputs_and_the_notebooks_keep_theirs(tmp_path):
    before = [path.read_bytes() for path in PATHS]
    assert clean_notebooks.main(["--build", str(tmp_path)]) == 0
    assert [path.read_bytes() for path in PATHS] == before
    for path in PATHS:
        here, copy = nbformat.read(path, as_version=4), nbformat.read(tmp_path / path.name, as_version=4)
        assert [cell.id for cell in copy.cells] == [cell.id for cell in here.cells]
        assert [cell.source for cell in copy.cells] == [cell.source for cell in here.cells]
        cells = [cell for cell in copy.cells if cell.cell_type == "code"]
        assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_hand_outs_never_replace_the_notebooks(capsys):
    before = PATHS[0].read_bytes()
    with pytest.raises(SystemExit):
        clean_notebooks.main([str(PATHS[0]), "--build", str(PATHS[0].parent)])
    assert "would replace the notebook itself" in capsys.readouterr().err
    assert PATHS[0].read_bytes() == before


# --- the teaching guide ----------------------------------------------------------------------------------------------

def guide_part(heading):
    """The guide's text from a heading to the next one of the same level."""
    text = GUIDE.read_text(encoding="utf-8")
    level = heading.split(" ")[0]
    found = re.search(rf"(?ms)^{re.escape(heading)}$(.*?)(?=^{level} |^{level[:-1]} |\Z)", text)
    assert found, f"docs/teaching.md has no heading {heading!r}"
    return found[1]


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def planned_minutes(notebook):
    """Of each section: its title, the minutes to read and those of its exercises, as the guide writes them."""
    exercises, number = {}, 0
    for line in "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").splitlines():
        number = int(found[1]) if (found := re.match(r"## (\d+) · ", line)) else number
        if found := re.match(r"### Exercise \d+ .*?(\d+) minutes?\)", line):
            exercises[number] = exercises.get(number, 0) + int(found[1])
    head, _, *rows = rows_of(next(cell.source for cell in notebook.cells if cell.id == "plan"))
    for title, *planned in rows:
        if re.match(r"\d+ · ", title) and planned[0].isdigit():
            mine = exercises.get(int(title.split(" ")[0]), 0)
            apart = any(column.startswith("exercises") for column in head)
            assert not apart or planned[1] == str(mine or ""), title
            reading = int(planned[0]) if apart else int(planned[0]) - mine
            yield title, f"{reading} + {mine}" if mine else str(reading)


def test_the_guide_has_each_section_with_the_notebooks_own_minutes(notebook):
    part = guide_part("### " + notebook.cells[0].source.splitlines()[0].removeprefix("# "))
    in_guide = [tuple(row[:2]) for row in rows_of(part) if re.match(r"\d+ · ", row[0])]
    assert in_guide == list(planned_minutes(notebook))


def test_the_cells_that_settle_a_misconception_exist(notebook):
    part = guide_part("### " + notebook.cells[0].source.splitlines()[0].removeprefix("# "))
    named = re.findall(r"cell `([^`]+)`", part)
    assert named and set(named) <= {cell.id for cell in notebook.cells}


def run_sheet():
    _, _, *rows = rows_of(guide_part("## Run sheet: 90 minutes from the slides alone"))
    return [(int(at), int(minutes), re.findall(r"`([^`]+)`", names)) for at, minutes, names, *_ in rows]


def test_the_run_sheet_fills_ninety_minutes_without_a_gap():
    clock = 0
    for at, minutes, _ in run_sheet():
        assert at == clock
        clock += minutes
    assert clock == 90


def test_the_run_sheet_goes_through_all_slides_and_gives_each_its_time():
    (path,) = [path for path in PATHS if path.stem.startswith("01_")]
    left = all_slides(nbformat.read(path, as_version=4))
    for at, minutes, names in run_sheet():
        if not names:
            continue
        assert left and left[0].name == names[0], f"minute {at}: the next slide is {left[0].name if left else 'none'}"
        last = max((i for i, slide in enumerate(left) if slide.name.partition("~")[0] == names[-1]), default=None)
        assert last is not None, f"minute {at}: no slide {names[-1]} from here on"
        needed = sum(slide.minutes() for slide in left[:last + 1])
        assert needed <= minutes + 0.5, f"minute {at}: its slides take {needed:.1f} minutes"
        left = left[last + 1:]
    assert not left, [slide.name for slide in left]
