"""The website: every link leads somewhere, every picture has a text, what is folded is folded, nothing is fetched."""

import base64
import html
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts.fold_notebooks import answers
from scripts.notebooks import ROOT, chosen
from scripts.website import pages
from tests.html_requests import Requests

PATHS = chosen([])
PAGES = ["index", "README", "CLAIMS", "BENCHMARKS", "CONTRIBUTING", "ERRATA", "CHANGELOG", "data/README", "search",
         *(path.relative_to(ROOT).with_suffix("").as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
         *(f"notebooks/{path.stem}" for path in PATHS)]
ELSEWHERE = re.compile(r"[a-z]+:|//")
PIXEL = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class Page(HTMLParser):
    """The links, the names that a link can lead to, and the pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.names, self.pictures = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes["href"]] if tag == "a" and "href" in attributes else []
        self.names += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            self.pictures.append((attributes["src"], attributes.get("alt")))


@pytest.fixture(scope="module")
def texts(website):
    return {name: (website / f"{name}.html").read_text(encoding="utf-8") for name in PAGES}


@pytest.fixture(scope="module")
def read(texts):
    return {name: Page(text) for name, text in texts.items()}


def notebook_of(name):
    return nbformat.read(ROOT / f"{name}.ipynb", as_version=4)


# --- the whole website -----------------------------------------------------------------------------------------------

def test_every_page_is_there_and_so_are_the_slides(website):
    found = {path.relative_to(website).with_suffix("").as_posix() for path in website.rglob("*.html")}
    decks = {f"slides/{path.stem}" for path in PATHS}
    views = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.html")}
    assert found == {*PAGES, *decks, *views}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_anchor_of_the_course_leads_somewhere(website, read, name):
    inside = [link for link in read[name].links if not ELSEWHERE.match(link)]
    assert inside
    for link in inside:
        address, _, anchor = unquote(urljoin(f"/{name}.html", link)).partition("#")
        file = website / address.lstrip("/")
        assert file.is_file(), link
        if anchor and file.suffix == ".html" and "slides" not in address:
            assert anchor in read[address.lstrip("/").removesuffix(".html")].names, link


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_read_from_the_network(website, texts, name):
    addresses = [address for address in Requests(texts[name]).found if not address.startswith("#")]
    assert addresses and not [address for address in addresses if ELSEWHERE.match(address)]
    for address in addresses:
        file = website / urljoin(f"/{name}.html", address).partition("?")[0].lstrip("/")
        assert list(file.parent.glob(f"{file.name}*")), address  # of a long address only the beginning is known


def test_no_style_sheet_reads_from_the_network(website):
    for sheet in website.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:|//)[^)]*", text), sheet


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_is_there_and_has_a_text(website, texts, read, name):
    for address, text in read[name].pictures:
        assert text and len(text) > 20, address[:80]
        if not address.startswith("data:image/png"):  # the still picture of a view
            assert (website / urljoin(f"/{name}.html", address).lstrip("/")).is_file()
    for drawing in re.findall(r'<figure class="diagram".*?</figure>', texts[name], re.S):
        assert 'role="img"' in drawing and "<desc" in drawing or "aria-label=" in drawing


# --- lessons ---------------------------------------------------------------------------------------------------------

@pytest.fixture(params=[name for name in PAGES if name.startswith("notebooks/")])
def lesson(request):
    return request.param


def test_a_lesson_links_to_colab_to_its_slides_and_to_itself(lesson, read):
    stem = lesson.removeprefix("notebooks/")
    links = read[lesson].links
    assert f"../slides/{stem}.html" in links and f"{stem}.ipynb" in links and "../README.html" in links
    assert [link for link in links if "colab.research.google.com" in link and link.endswith(f"{stem}.ipynb")]


def test_every_figure_of_a_lesson_is_shown(lesson, texts, read):
    outputs = [output.get("data", {}) for cell in notebook_of(lesson).cells for output in cell.get("outputs", [])]
    drawings = sum("image/svg+xml" in data for data in outputs)
    assert texts[lesson].count('<figure class="diagram"') == drawings
    figures = [address for address, _ in read[lesson].pictures if not address.startswith("data:")]
    assert len(figures) == sum("image/png" in data and "image/svg+xml" not in data for data in outputs)


def test_setup_and_results_of_predictions_are_folded(lesson, texts):
    notebook = notebook_of(lesson)
    assert texts[lesson].count("Show the result") == len(answers(notebook))
    setup = texts[lesson].index("find_course")
    assert texts[lesson].rfind("<details", 0, setup) > texts[lesson].rfind("</details>", 0, setup)


def test_formulas_are_mathml(lesson, texts):
    text = re.sub(r"<(pre|code|script|title)\b.*?</\1>", "", texts[lesson], flags=re.S)
    formulas = re.findall(r"<math.*?</math>", text, re.S)
    assert not [formula for formula in formulas if "\\" in formula or "merror" in formula]
    assert "MathJax" not in text and not re.search(r"\\(?:frac|text|sqrt|sum)\b|\$\$", html.unescape(text))


# --- the rules -------------------------------------------------------------------------------------------------------

def changed(*cells, tmp_path):
    notebook = new_notebook(cells=list(cells))
    pages.change_notebook(notebook, "01_x", tmp_path)
    return notebook.cells


def test_a_figure_becomes_a_file_with_its_size_and_its_text(tmp_path):
    figure = new_output("display_data", {"image/png": PIXEL}, metadata={"image/png": {"alt": 'A "red" dot'}})
    (cell,) = changed(new_code_cell("plot()", id="plot", outputs=[figure]), tmp_path=tmp_path)
    assert (tmp_path / "figures" / "01_x-plot-0.png").read_bytes() == base64.b64decode(PIXEL)
    shown = cell.outputs[0].data["text/html"]
    assert 'src="../figures/01_x-plot-0.png" alt="A &quot;red&quot; dot" width="1" height="1"' in shown


def test_a_drawing_follows_the_switch_of_the_page():
    svg = "<svg id='a'><style>#a{--x:1}@media (prefers-color-scheme:dark){#a{--x:2}}#a text{y:z}</style>\n\n</svg>"
    assert pages.drawing(svg, "A & B") == (
        '<figure class="diagram" role="group" aria-label="A &amp; B">'
        "<svg id='a'><style>#a{--x:1}body[data-theme=\"dark\"] #a{--x:2}"
        '@media (prefers-color-scheme:dark){body[data-theme="auto"] #a{--x:2}}#a text{y:z}</style>\n</svg></figure>')


def test_a_shown_source_has_the_colours_of_the_page(tmp_path):
    source = new_output("display_data", {"text/html": '<div class="highlight" style="color: #222">x</div>',
                                         "text/plain": "x = 1"})
    (cell,) = changed(new_code_cell("show_source(f)", outputs=[source]), tmp_path=tmp_path)
    assert cell.outputs[0].data == {"text/plain": "x = 1", "text/markdown": "````python\nx = 1\n````"}


def test_the_output_of_a_prediction_is_folded_rather_than_its_code(tmp_path):
    output = new_output("stream", text="7")
    cells = changed(new_code_cell("a", outputs=[output], metadata={"tags": ["hide-input", "own"]}),
                    new_markdown_cell("**Predict first.** How many?"),
                    new_code_cell("b", outputs=[output], metadata={"tags": ["hide-input"]}),
                    new_markdown_cell("So many."), new_code_cell("c"), tmp_path=tmp_path)
    assert [cell.metadata.get("tags") for cell in cells] == [
        ["own", "hide-input"], None, ["hide-output"], None, []]


def test_the_line_that_shows_a_diagram_is_left_out(tmp_path):
    hidden = {"tags": ["hide-input"]}
    cells = changed(new_code_cell('diagrams.show("ring")', metadata=hidden),
                    new_code_cell('x = 1\ndiagrams.show("ring")', metadata=hidden), tmp_path=tmp_path)
    assert [cell.metadata.tags for cell in cells] == [["remove-input"], ["hide-input"]]


def test_a_lesson_links_to_the_views_that_it_uses(tmp_path, monkeypatch):
    (tmp_path / "docs" / "views").mkdir(parents=True)
    for name in ("heads", "next_token"):
        (tmp_path / "docs" / "views" / f"{name}.html").write_text("<title>Q &amp; A</title>", encoding="utf-8")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    notebook = new_notebook(cells=[new_code_cell("views.heads(model)")])
    assert pages.views_of(notebook) == [("../docs/views/heads.html", "Q & A")]


def test_a_badge_becomes_buttons(tmp_path):
    address = "https://colab.research.google.com/github/a/b/blob/main/notebooks/01_x.ipynb"
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
    (cell,) = changed(new_markdown_cell(badge), tmp_path=tmp_path)
    assert f'<a href="{address}">Open in Colab</a>' in cell.source and "badge.svg" not in cell.source
    assert '<a href="../slides/01_x.html">Slides</a>' in cell.source
