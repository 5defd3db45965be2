"""Notebook 00: its glossary agrees with the lessons, and its map links to all of them."""

import re

import nbformat
import pytest

from helpers.machine import assets

FOLDER = assets.ROOT / "notebooks"
START = nbformat.read(FOLDER / "00_start_here.ipynb", as_version=4)
CELLS = {cell.id: cell.source for cell in START.cells}
LESSONS = {path.stem[:2]: nbformat.read(path, as_version=4) for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
           if path.stem[:2] != "00"}
ROWS = [[cell.strip() for cell in line.strip("|").split("|")]
        for line in CELLS["glossary-table"].splitlines() if line.startswith("| ")][1:]
# How the notebooks define a term: "called a *logit*", "A *token* is", "(*warm-up*)", "This is the **logit lens**".
DEFINITIONS = (
    r"\b[Cc]alled (?:an? |the |its )?\*{1,2}([^*\n]+?)\*{1,2}",
    r"\b(?:A|An|The) \*([^*\n]+?)\* (?:is|are|of a|holds)\b",
    r"\((?:an? |the |also )?\*([^*\n]+?)\*(?:[,;:)]| \()",
    r"\b(?:This|That|It) is (?:an? |the )?\*{1,2}([^*\n]+?)\*{1,2}",
)
LOCAL = {"word"}  # defined for a single cell


def prose(lesson):
    return "\n\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")


def pattern(term):
    """A regular expression for a term: in any case, in the plural, across two lines, with or without its hyphen."""
    return r"(?<![\w-])" + re.sub(r"(\\?[ -])+", r"[\\s-]+", re.escape(term)) + r"(?:s|es)?(?!\w)"


def mentions(text, term):
    return re.search(pattern(term), re.sub(r"[*`]", "", text), re.IGNORECASE) is not None


def stresses(text, term):
    """Whether a term is set in italics or bold, as it is where it is defined."""
    return any(re.fullmatch(pattern(term), phrase.rstrip(".:"), re.IGNORECASE)
               for phrase in re.findall(r"\*{1,2}([^*\n]+?)\*{1,2}", text))


def defined(text):
    return {match.lower() for one in DEFINITIONS for match in re.findall(one, text)}


def test_the_glossary_is_sorted_and_complete():
    terms = [row[0] for row in ROWS]
    assert len(terms) >= 60 and terms == sorted(terms, key=str.casefold)
    names = [name.casefold() for term in terms for name in term.split(", ")]
    assert len(set(names)) == len(names)
    for row in ROWS:
        assert len(row) == 4 and all(row), row
        assert row[1].endswith((".", ".)")), row


@pytest.mark.parametrize("term, number, file", [(row[0], *re.fullmatch(r"\[(\d\d)\]\((.+)\)", row[3]).groups())
                                                for row in ROWS])
def test_a_term_is_introduced_where_the_glossary_states(term, number, file):
    assert file.startswith(number) and (FOLDER / file).is_file()
    if number == "00":
        assert mentions("\n".join(text for name, text in CELLS.items() if name != "glossary-table"), term)
        return
    own, earlier = LESSONS[number], [LESSONS[other] for other in LESSONS if other < number]
    text = "\n".join(cell.source for cell in own.cells if cell.id != "setup")
    for name in term.split(", "):
        assert mentions(text, name), f"the glossary refers “{name}” to {number}, where it does not occur"
        first = [lesson.cells[0].source[2:4] for lesson in earlier if stresses(prose(lesson), name)]
        assert not first, f"“{name}” is in italics or bold, as in a definition, in {first}, before {number}"
        if not stresses(prose(own), name):
            early = [lesson.cells[0].source[2:4] for lesson in earlier if mentions(prose(lesson), name)]
            assert not early, f"“{name}” is already used in {early}: change the glossary, or define it in {number}"


@pytest.mark.parametrize("number", LESSONS)
def test_what_a_lesson_defines_is_in_the_glossary(number):
    names = [name for row in ROWS for name in (*row[0].split(", "), *re.findall(r"\*(.+?)\*", row[1]))]
    lacking = {term for term in defined(prose(LESSONS[number])) - LOCAL
               if not any(re.fullmatch(pattern(name), term.rstrip(".:"), re.IGNORECASE) for name in names)}
    assert not lacking, f"notebook {number} defines {lacking}: add it to the glossary in notebook 00"


def test_definitions_are_found_and_mere_emphasis_is_not():
    text = ("A *token* is a piece. It is called a *logit*. One passes (*warm-up*). This is the **logit lens** (2020).\n"
            "It does *not* hold, and the std *falls*. **What you should see.** A **module** is moved *in place*.")
    assert defined(text) == {"token", "logit", "warm-up", "logit lens"}
    assert mentions("two Attention\nheads", "attention head") and not mentions("cross-entropy", "entropy")
    assert stresses("so **Tensors:** are", "tensor") and not stresses("a tensor and *more*", "tensor")


def test_the_map_links_to_every_lesson():
    for number in LESSONS:
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        assert f"({path.name})" in CELLS["s6"], f"the map in notebook 00 does not link to {path.name}"


def test_the_sections_named_in_the_learning_paths_exist():
    named = re.findall(r"“([^”]+)” of\s+\[(\d\d)\]", CELLS["ways"])
    assert len(named) == CELLS["ways"].count("“") >= 3
    for title, number in named:
        assert re.search(rf"(?m)^## \d+ · {re.escape(title)}$", prose(LESSONS[number])), (title, number)


def test_the_stored_report_ends_with_success():
    (cell,) = [cell for cell in START.cells if cell.id == "report"]
    assert "The course can run here." in "".join(output.get("text", "") for output in cell.outputs)
