"""Slides and hand-outs: what they show, what the notes say, what is left out; and the teaching guide about them."""

import re
from dataclasses import asdict

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.course.claims import Ledger
from helpers.course.display import render_table
from helpers.machine import assets
from scripts import clean_notebooks, slide_blocks, slides
from tests.html_requests import Requests

PATHS = sorted((assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
GUIDE = assets.ROOT / "docs" / "teaching.md"
MOST = {"02": 52, "07": 55, "09": 55}  # slides of a deck that may have more than 50
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS], scope="module")
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def deck(notebook):
    return slides.deck(notebook)


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
    return slides.slides_of(new_notebook(cells=[prose("# 01 · A title", "slide", "title"), *cells]))[1:]


def text_of(slide):
    return re.sub(r"<[^>]+>", "", "".join(block.html for block in slide.blocks))


# --- the notebooks ---------------------------------------------------------------------------------------------------

def test_every_cell_has_a_slide_tag(notebook):
    kinds = {cell.id: slides.slide_type(cell) for cell in notebook.cells if "slideshow" in cell.metadata}
    assert set(kinds) == {cell.id for cell in notebook.cells}, "cells without a tag"
    known = {"slide_type", "heading", "code", "output", "layout", "sparse"}
    for cell in notebook.cells:
        assert set(slides.settings(cell)) <= known, cell.id
        assert slides.settings(cell).get("layout", "beside") == "beside", cell.id
    assert set(kinds.values()) <= {"slide", "subslide", "fragment", "notes", "skip", "-"}
    assert kinds["setup"] == "skip" and kinds[notebook.cells[0].id] == "slide"
    for cell in notebook.cells:
        if cell.source.startswith("## ") and not cell.source.startswith("## References"):
            assert kinds[cell.id] in ("slide", "notes", "skip"), cell.id


def test_there_is_a_sensible_number_of_slides(notebook):
    number, found = notebook.cells[0].source[2:4], slides.slides_of(notebook)
    assert 12 <= len(found) <= MOST.get(number, 50)
    assert all(slide.blocks for slide in found)


def test_every_slide_has_a_message_and_whole_captions(notebook):
    assert slides.problems(notebook) == []


def test_every_shown_figure_exercise_and_claim_has_its_slide(notebook, deck):
    html = "".join(block.html for section in deck for slide in section for block in slide.blocks)
    headings = [slide.heading for section in deck for slide in section]
    for cell in notebook.cells:
        if slides.slide_type(cell) in ("skip", "notes") or cell.id == "course-map":
            continue
        for output in cell.get("outputs", []):
            if 'class="course-view' in output.get("data", {}).get("text/html", ""):
                assert output.data["text/html"] in html, cell.id
            if "image/png" in output.get("data", {}) and slides.settings(cell).get("output", True):
                assert f'data-cell="{cell.id}"' in html, cell.id
        for row in slide_blocks.claims_of(cell):
            assert slide_blocks.short_statement(row) in headings and f"Claim {row['number']}: " in html


def test_every_formula_becomes_mathml(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            html = slide_blocks.markdown(cell.source)
            assert html.count("<math") >= cell.source.count("$$") // 2
            for formula in re.findall(r"<math.*?</math>", html, re.S):
                assert "\\" not in formula and "merror" not in formula, (cell.id, formula)


def test_a_matrix_and_its_brackets_are_the_base_of_their_exponent():
    html = slide_blocks.markdown(r"$$\begin{bmatrix} a \\ b \end{bmatrix}^\top$$")
    assert re.search(r"<msup><mrow><mo>&#x0005B;</mo><mtable>.*</mtable><mo>&#x0005D;</mo></mrow><mo>", html)


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
    for part in ("How many?", "So it is", "one", "two", "What comes?"):
        assert part in shown, part
    assert (slide.heading, slide.section) == ("Heads", "1 · Heads")
    assert "only said" not in shown and slide.notes == ["This is only said."]
    assert '<div class="predict">' in slide.blocks[-1].html and "<math" in "".join(b.html for b in slide.blocks)


def test_a_long_paragraph_is_cut_after_a_sentence_and_said_whole():
    long = "**A lead.** " + "This sentence has exactly seven words, really. " * 20
    (slide,) = made(prose(long))
    assert text_of(slide).strip().endswith("really.")
    assert len(text_of(slide).split()) <= slide_blocks.WORDS_SHOWN
    assert slide.notes[0].count("exactly seven") == 20


def test_what_is_seen_appears_under_its_figure_and_the_rest_is_said():
    first, second = made(code("plot()", figure(), tags=["hide-input"]),
                         prose("**What you should see.** A line.\n\n**More.** It is said.\n\n"
                               "**Predict first.** And now?", "fragment", "see"))
    assert [block.kind for block in first.blocks] == ["figure", "seen"] and "plot()" not in text_of(first)
    assert first.blocks[1].fragment and "A line." in first.blocks[1].html
    assert second.name == "see" and text_of(second).strip() == "Predict first. And now?"
    assert first.notes == ["**More.** It is said.\n\n"]


def test_the_rest_of_what_is_seen_has_a_slide_if_it_has_a_heading():
    rest = prose("**What you should see.** A line.\n\n**More.** It is shown.", "fragment", "see")
    rest.metadata.slideshow["heading"] = "More lines"
    first, second = made(code("plot()", figure()), rest)
    assert "A line." in text_of(first) and second.heading == "More lines" and "It is shown." in text_of(second)


def test_a_caption_is_whole_sentences_and_never_ends_in_brackets():
    text = "It falls (see e.g. Vaswani et al. (2017). They say so) by $a. B$ or so. " + "And much more of it. " * 12
    assert slide_blocks.first_sentences(text, 20) == text.split(" And")[0]


def test_a_heading_begins_a_slide_and_waits_for_one():
    cell = code("x = 1", kind="-", name="a")
    cell.metadata.slideshow["heading"] = "One is a number"
    said = prose("## 2 · Words\n\nOnly said. " + "And this. " * 30, "slide", "b")
    first, second = made(cell, said, code("y = 2", kind="-", name="c"))
    assert [slide.heading for slide in (first, second)] == ["One is a number", "Words"]
    assert second.name == "c" and second.notes[0].startswith("Only said.")


def test_code_output_layout_and_sparse_are_followed():
    shown = code("plot()", figure(), name="a")
    shown.metadata.slideshow |= {"heading": "A", "code": False, "layout": "beside", "sparse": True}
    (slide,) = made(shown, prose("**Look.** Here.", "-", "b"))
    assert "plot()" not in text_of(slide) and slide.is_beside() and slide.sparse
    assert slides.section_html(slide, "t", 1).index("Look.") < slides.section_html(slide, "t", 1).index("<img")
    source = code("count()", printed("seven"), name="c")
    source.metadata.slideshow["output"] = False
    (slide,) = made(source)
    assert "seven" not in text_of(slide)


def test_a_slide_without_a_heading_and_one_that_is_too_long_are_noticed():
    cell = prose("**Look.** " + "word " * 30, name="b")
    cell.metadata.slideshow["heading"] = "x" * 71
    notebook = new_notebook(cells=[prose("# 01 · A title", "slide", "title"), code("x = 1", name="a"), cell])
    found = slides.problems(notebook)
    assert found[0] == "a: no heading" and found[1].startswith("b: the heading has 71 characters") and len(found) == 2


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
    assert [block.fragment for block in slide.blocks] == [False, True]
    assert "Because" in slide.blocks[-1].html and "<math" in slide.blocks[-1].html


def test_an_answer_and_a_formula_stay_with_the_words_before_them():
    answer = "<details><summary>Answer</summary>\n\nAnswer {}, " + "long " * 40 + "\n</details>"
    quiz = "\n\n".join(f"{i}. Question {i}?\n\n{answer.format(i)}" for i in range(1, 6))
    found = made(prose(f"## Quiz\n\n{quiz}", "slide"))
    assert len(found) > 1 and [slide.part for slide in found] == list(range(1, len(found) + 1))
    for slide in found:
        assert re.findall(r"Question (\d)", text_of(slide)) == re.findall(r"Answer (\d)", text_of(slide))
    found = made(prose("\n\n".join(f"So number {i} is\n\n$$x_{i} = \\frac{{1}}{{{i}}}$$" for i in range(1, 9))))
    assert len(found) > 1 and all(slide.blocks[-1].kind == "formula" for slide in found)


def test_other_details_stay_in_the_notebook():
    (slide,) = made(prose("**Lead.** Text.\n\n<details><summary>A proof</summary>\n\nLong.\n</details>"))
    assert "Long." not in text_of(slide) and slide.notes == ["A proof: in the notebook."]


@pytest.mark.parametrize("verdict, css, needs, shown", [
    (True, "holds", {}, ""), (False, "fails", {"unmeasured": "the GPU half"}, "unmeasured here: the GPU half"),
    ("depends", "depends", {"condition": "on what"}, "<strong>Because:</strong> on what"),
    ("inconclusive", "open", {"smallest": "0.05 nats"}, "an effect of 0.05 nats would have been seen"),
    ("unmeasured here", "open", {"unmeasured": "the GPU half"}, "<strong>Missing:</strong> the GPU half"),
])
def test_each_claim_of_a_ledger_has_a_slide_with_a_stamp_that_waits(verdict, css, needs, shown):
    ledger = Ledger("05")
    ledger.add(9, "measured & counted", "the meta device", verdict, **needs)
    data = {slide_blocks.MIME: {"notebook": "05", "claims": [asdict(row) for row in ledger.claims]}}
    (slide,) = made(code("ledger.show()", new_output("display_data", data)))
    assert slide.name == "code-9" and slide.heading.startswith("GPT-2's four sizes have 124M, 355M, 774M")
    assert slide.told == f"{slide.heading}: {ledger.claims[0].verdict}" and len(slide.told) <= slides.LONGEST_HEADING
    assert [block.fragment for block in slide.blocks] == [False, True]
    assert "measured &amp; counted" in slide.blocks[1].html and shown in slide.blocks[1].html
    assert re.search(rf'<div class="stamp {css}"><span>.</span> {ledger.claims[0].verdict}</div>', slide.blocks[1].html)


def test_a_long_measurement_is_cut_between_its_clauses():
    text = "; ".join(f"part {i} has five words" for i in range(20))
    assert slide_blocks.first_clauses(text, 12) == "part 0 has five words; part 1 has five words"


def test_a_long_condition_and_a_long_statement_are_cut_and_the_condition_is_said():
    statement, condition = "A very long statement of a claim. " * 4, "; ".join(f"{i} rows on this" for i in range(20))
    row = {"number": 3, "statement": statement, "verdict": "depends", "condition": condition, "measured": "1 s",
           "measured_on": "a CPU"}
    data = {slide_blocks.MIME: {"notebook": "05", "claims": [row]}}
    (slide,) = made(code("ledger.show()", new_output("display_data", data)))
    assert slide.heading.endswith(" …") and len(slide.told) <= slides.LONGEST_HEADING
    assert f"Claim 3: “{statement}”" in slide.blocks[0].html and slide.notes == [condition]
    assert "5 rows on this; …" in slide.blocks[1].html and "6 rows" not in slide.blocks[1].html
    assert slide_blocks.shortened("word " * 40).split() == ["word"] * slide_blocks.CONDITION_WORDS + ["…"]


def test_a_view_stays_as_it_is_stored():
    view = """<style>p{}</style><div class="course-view course-view-heads"><iframe srcdoc='<p>a</p>'></iframe></div>"""
    output = new_output("display_data", {"text/html": view, "text/plain": "a sentence"})
    (slide,) = made(code("views.heads()", output, tags=["hide-input"]))
    assert [block.kind for block in slide.blocks] == ["figure"] and view in slide.blocks[0].html
    assert "a sentence" not in slide.blocks[0].html


@pytest.mark.parametrize("rows, parts", [(10, 1), (12, 1), (13, 2)])
def test_one_or_two_rows_never_stand_alone(rows, parts):
    found = made(prose("\n".join(["| a | b |", "|---|---|", *(f"| cell {i} | x |" for i in range(rows))])))
    assert len(found) == parts and all(slide.blocks[0].html.count("<tr") > 3 for slide in found)


def test_short_cells_of_a_table_stay_on_one_line():
    (slide,) = made(prose("| what | size |\n|---|---|\n| a name of more letters | 1 x 256 |\n| b | 7 |"))
    html = slide.blocks[0].html
    assert '<td class="first">a name' in html and re.search(r'<td[^>]*class="short"[^>]*>1 x 256', html)
    assert html.count("short") == 1


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
    assert '<p class="caption">Two models</p>' in block.html and "<style" not in block.html and "#T_" not in block.html
    row = r'<th class="short">GPT-2 &lt;small&gt;</th>\s*<td class="number">12</td>\s*<td>yes</td>'
    assert re.search(row, block.html)
    assert re.search(r'<th class="number">blocks</th>\s*<th>tied</th>', block.html)


def test_the_numbers_of_an_unstyled_table_stand_on_the_right():
    cells = "".join(f"<td>{text}</td>" for text in ("1,024", "-3.5e-07", "12 %", "3x", "2 of 3"))
    table = f"<table border='1' class='dataframe'><tr>{cells}</tr></table>"
    (slide,) = made(code("frame", new_output("display_data", {"text/html": table})))
    assert slide.blocks[-1].html.count('class="number') == 3


def test_a_table_whose_only_row_is_higher_than_a_slide_stays_in_one_piece():
    (slide,) = html_table(["long text " * 300])
    assert slide.blocks[0].height > slides.ROOM and text_of(slide).count("long text") == 300


def predicted(*outputs, source="count()", before="", heading="", tags=(), kind="subslide"):
    """The slides of a prediction and of the cell that answers it."""
    cell = code(source, *outputs, kind=kind, tags=tags)
    cell.metadata["jupyter"] = {"outputs_hidden": True}
    cell.metadata.slideshow |= {"heading": heading} if heading else {}
    question = prose(f"{before}**Predict first.** How many?")
    question.metadata.slideshow["heading"] = "How many are there?"
    return made(question, cell)


@pytest.mark.parametrize("kind, tags", [("subslide", []), ("-", ["hide-input"]), ("subslide", ["hide-input"])])
def test_a_prediction_and_its_result_are_one_slide_and_the_result_waits_for_a_click(kind, tags):
    (slide,) = predicted(printed("seven"), heading="There are seven", tags=tags, kind=kind)
    assert (slide.heading, slide.told) == ("How many are there?", "There are seven")
    assert slide.blocks[0].kind == "predict" and "seven" in slide.blocks[-1].html
    assert [block.fragment for block in slide.blocks] == [False] * (len(slide.blocks) - 1) + [True]
    page = slides.section_html(slide, "t", 1)
    assert page.count('data-fragment-index="0"') == 2 and '<h2 class="asked">How many are there?</h2>' in page


def test_a_prediction_that_does_not_fit_takes_its_result_to_a_slide_of_its_own():
    before = "".join(f"**Lead {i}.** {'word ' * 30}\n\n" for i in range(3))
    text, result = predicted(figure(), before=before, source="count()\n" * 3, tags=["hide-input"])
    assert "Lead 2." in text_of(text) and "How many" not in text_of(text)
    assert [block.kind for block in result.blocks] == ["predict", "figure"]
    assert (result.heading, result.part) == ("How many are there?", 2)


def test_a_second_result_without_its_own_code_begins_a_slide_that_shows_it():
    more = code("plot()", figure(), tags=["hide-input"], name="more")
    more.metadata["jupyter"] = {"outputs_hidden": True}
    (slide,) = made(more)
    assert not slide.blocks[0].fragment


def test_pictures_have_their_text_and_drawings_stay_drawings_on_a_light_card():
    drawing = ('<?xml version="1.0"?><svg viewBox="0 0 200 100"><style>#a{--ink:#000}@media (prefers-color-scheme:dark)'
               "{#a{--ink:#fff}}#a text{fill:red}</style></svg>")
    outputs = [new_output("display_data", {"image/svg+xml": drawing}),
               new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": "one <pixel>"}})]
    first, second = (slide.blocks[0] for slide in made(code("draw()", *outputs, tags=["hide-input"])))
    assert first.html.count("<svg") == 1 and "<?xml" not in first.html and "prefers" not in first.html
    assert "fill:red" in first.html and first.ratio == 2
    assert 'alt="one &lt;pixel&gt;"' in second.html


def test_prose_without_anything_to_show_is_said_on_the_next_slide():
    (slide,) = made(prose("Nothing but plain words here, " + "and more of them " * 15, name="a"),
                    code("x", printed("7"), tags=["hide-input"]))
    assert slide.name == "code" and slide.notes[0].startswith("Nothing but plain words")


def test_minutes_count_words_and_looks():
    words = slides.Slide("a", "", blocks=[slides.Block("", 0, words=slides.WORDS_PER_MINUTE)], notes=["word " * 65])
    assert words.minutes() == pytest.approx(1.5)
    words.blocks.append(slides.Block("", 0, "figure"))
    assert words.minutes() == pytest.approx(1.5 + slides.SECONDS["figure"] / 60)


def test_the_command_writes_a_file_and_prints_minutes(tmp_path, capsys):
    assert slides.main([str(PATHS[1]), "--build", str(tmp_path)]) == 0
    assert (tmp_path / f"{PATHS[1].stem}.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert slides.main([str(PATHS[1]), "--minutes"]) == 0
    assert re.search(r"(?m)^ +1 title +\d+ words.* 01 · Attention theory$", capsys.readouterr().out)
    assert slides.main([str(PATHS[1]), "--check"]) == 0
    assert re.search(rf"(?m)^{PATHS[1].name}: \d+ slides$", capsys.readouterr().out)
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


SHEETS = sorted((assets.ROOT / "docs" / "run_sheets").glob("*.md"))


@pytest.fixture(params=SHEETS, ids=[path.stem for path in SHEETS], scope="module")
def sheet(request):
    """A run sheet: its text, its rows (minute, minutes, slides, what is said, questions), and its notebook."""
    text = request.param.read_text(encoding="utf-8")
    _, _, *rows = rows_of(text.partition("\n**On the board**")[0])
    rows = [(int(at), int(minutes), *rest) for at, minutes, *rest in rows if at.isdigit()]
    return text, rows, nbformat.read(assets.ROOT / "notebooks" / f"{request.param.stem}.ipynb", as_version=4)


def test_there_are_run_sheets_for_four_lectures_and_the_guide_links_to_them():
    assert [path.stem[:2] for path in SHEETS] == ["01", "02", "04", "07"]
    assert all(f"(run_sheets/{path.name})" in GUIDE.read_text(encoding="utf-8") for path in SHEETS)


def test_a_run_sheet_is_one_page_of_ninety_minutes_with_twelve_questions_and_one_demo(sheet):
    text, rows, _ = sheet
    clock = 0
    for at, minutes, *_ in rows:
        assert at == clock
        clock += minutes
    assert clock == 90
    assert text.count("\n") <= 45 and sum(row[-1].count("?") for row in rows) <= 12
    (demo,) = [row for row in rows if "demo**" in row[2]]
    assert demo[1] == 5
    pictures = re.findall(r"\(\.\./images/(board_\w+\.svg)\)", text)
    assert 2 <= len(pictures) <= 3 and all((assets.ROOT / "docs" / "images" / name).is_file() for name in pictures)


def test_a_run_sheet_shows_forty_slides_in_their_order_and_gives_each_its_time(sheet):
    _, rows, notebook = sheet
    minutes = {}
    for slide in slides.slides_of(notebook):
        name = slide.name.partition("~")[0]
        minutes[name] = minutes.get(name, 0) + slide.minutes()
    cells, order, shown = {cell.id for cell in notebook.cells}, list(minutes), []
    for at, planned, told, *_ in rows:
        names = re.findall(r"`([^`]+)`", told)
        on_slides = [name for name in names if name in minutes]
        assert set(names) <= (cells | set(minutes) if "demo**" in told else set(minutes)), (at, names)
        needed = sum(minutes[name] for name in on_slides)
        assert needed <= planned + 1, f"minute {at}: its slides take {needed:.1f} minutes"
        shown += on_slides
    assert len(shown) <= 40 and shown == sorted(shown, key=order.index)
