"""The notebooks as pages of HTML: readable from a disk without the internet, linked to each other, folded."""

import base64
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts import rendering
from scripts.notebooks import FOLDER, ROOT, chosen
from tests.html_requests import Requests

PATHS = chosen([])
BUILD = ROOT / "build"
FORMULA = re.compile(r"\$\$.+?\$\$", re.S)


class Links(HTMLParser):
    """The address of every link of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "a" and "anchor-link" not in (dict(attributes).get("class") or ""):
            self.found.append(dict(attributes)["href"])


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS], scope="module")
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def page(notebook):
    return rendering.page(notebook, FOLDER, BUILD)


def made(*cells, source=FOLDER):
    return rendering.page(new_notebook(cells=list(cells)), source, BUILD)


# --- the notebooks ---------------------------------------------------------------------------------------------------

def test_a_page_reads_no_other_file_and_runs_no_script(page):
    assert Requests(page).found == []
    assert "<script" not in page


def test_every_link_within_the_course_leads_to_a_page_or_a_file(page):
    inside = [link for link in Links(page).found if not re.match(r"https?://|#", link)]
    assert inside
    for link in inside:
        name = link.partition("#")[0]
        notebook = FOLDER / Path(name).with_suffix(".ipynb").name
        assert "/" not in name and notebook.exists() or (BUILD / name).resolve().exists(), link
        assert not name.endswith(".ipynb"), link


def test_every_formula_is_mathml(notebook, page):
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert page.count('display="block"') >= sum(len(FORMULA.findall(source)) for source in sources)
    for formula in re.findall(r"<math.*?</math>", page, re.S):
        assert "\\" not in formula and "merror" not in formula, formula
    assert "MathJax" not in page and "ns0:" not in page


# --- the rules -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("link, expected", [
    ("02_x.ipynb", "02_x.html"),
    ("02_x.ipynb#4-·-Why", "02_x.html#4-·-Why"),
    ("../README.md#map", "../README.md#map"),
    ("../docs/teaching.md", "../docs/teaching.md"),
    ("#here", "#here"),
    ("https://example.org/a.ipynb", "https://example.org/a.ipynb"),
])
def test_links_fit_the_place_of_the_page(link, expected):
    assert rendering.PageRenderer(FOLDER, BUILD).address(link) == expected


def test_links_to_files_fit_another_folder_of_pages(tmp_path):
    (tmp_path / "course" / "notebooks").mkdir(parents=True)
    renderer = rendering.PageRenderer(tmp_path / "course" / "notebooks", tmp_path / "a" / "b")
    assert renderer.address("../README.md") == "../../course/README.md"


def test_pictures_are_in_the_page_and_badges_are_their_text(tmp_path):
    (tmp_path / "figure.png").write_bytes(b"pixels")
    page = made(new_markdown_cell("![A figure](figure.png)\n\n[![Open in Colab](https://a.b/badge.svg)](https://a.b/c)"),
                source=tmp_path)
    assert f'src="data:image/png;base64,{base64.b64encode(b"pixels").decode()}"' in page
    assert '<a href="https://a.b/c">Open in Colab</a>' in page and "badge.svg" not in page


@pytest.mark.parametrize("kind", ["image/png", "image/svg+xml"])
def test_outputs_that_are_pictures_have_their_alternative_text(kind):
    picture = {"image/png": "cGl4ZWxz", "image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'></svg>"}[kind]
    told = new_output("display_data", {kind: picture}, metadata={kind: {"alt": 'A "red" dot & more'}})
    untold = new_output("display_data", {kind: picture})
    page = made(new_code_cell("draw()", outputs=[told, untold]))
    first, second = map(unescape, re.findall(r"<img [^>]*>", page))
    assert f"data:{kind};base64," in first and f"data:{kind};base64," in second
    assert 'A "red" dot & more' in first and re.search(r"alt=.A (figure|diagram). The text", second)


def test_an_answer_of_the_quiz_is_inside_its_details():
    page = made(new_markdown_cell("1. Why?\n\n<details><summary>Answer</summary>\n\nBecause of $x$.\n</details>"))
    assert re.search(r"<details>\s*<summary>Answer</summary>\s*<p>Because of <math.*?</p>\s*</details>", page, re.S)


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("tags", [[], ["hide-input"]])
def test_hidden_code_and_predicted_results_are_folded(predicted, tags):
    page = made(new_markdown_cell("**Predict first.** How many?" if predicted else "How many?"),
                new_code_cell("six = 6", outputs=[new_output("stream", text="seven")], metadata={"tags": tags}))
    expected = [("Show the code", "six")] * bool(tags) + [("Show the result", "seven")] * predicted
    details = re.findall(r'<details class="folded"><summary>(.*?)</summary>(.*?)</details>', page, re.S)
    assert [summary for summary, _ in details] == [summary for summary, _ in expected]
    assert all(content in body for (_, content), (_, body) in zip(expected, details))
    assert page.count(">six<") == 1 and page.count("seven") == 1


def test_a_heading_keeps_its_formula():
    page = made(new_markdown_cell(r"## 4 · Why divide by $\sqrt{d_k}$?"))
    assert re.search(r"<h2[^>]*>4 · Why divide by <math[^>]*><mrow><msqrt>", page)
