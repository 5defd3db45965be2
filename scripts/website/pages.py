"""The part of the website that Sphinx does not bring along: formulas in MathML, figures with their alternative texts.

Sphinx loads this file as an extension. It reads the course's own files; no copy of them is made for the website.
"""
import base64
import html
import re
from pathlib import Path

import nbformat
from docutils import nodes
from mdit_py_plugins.anchors.index import slugify

from helpers.course.claims import MIME
from scripts.fold_notebooks import answers, hides_code
from scripts.ledgers import place_of
from scripts.notebooks import ROOT, chosen
from scripts.rendering import mathml

BADGE = re.compile(r"\[!\[(?P<text>[^\]]*)\]\([^)]*colab-badge\.svg\)\]\((?P<address>[^)]*)\)")
DRAWING = re.compile(r"(?m)^!\[(?P<text>[^\]]*)\]\((?P<address>[^)]*\.svg)\) *$")
CELL = re.compile(r"(?P<file>[\w./]*\b(?P<number>\d\d)_\w+\.ipynb)#cell-id=(?P<cell>[\w-]+)")
DIAGRAM = re.compile(r"diagrams\.show\([^\n]*\)\s*")
DARK = re.compile(r"@media \(prefers-color-scheme:\s*dark\)\s*\{(.*?\})\s*\}", re.S)
CONTENTS = """
```{{toctree}}
:hidden:
:caption: Lessons

{lessons}
```
```{{toctree}}
:hidden:
:caption: Around the lessons

CLAIMS
BENCHMARKS
{guides}
CONTRIBUTING
ERRATA
CHANGELOG
data/README
```
"""


# The sources


def change_source(app, name: str, content: list[str]) -> None:
    """Sphinx's event source-read: replaces the text of the page `name` in `content` by what the website shows."""
    if name.startswith("notebooks/"):
        notebook = nbformat.reads(content[0], as_version=4)
        change_notebook(notebook, Path(name).name, Path(app.outdir))
        content[0] = nbformat.writes(notebook)
    else:
        folder = (ROOT / name).parent
        content[0] = BADGE.sub(r"[\g<text>](\g<address>)", content[0])
        content[0] = DRAWING.sub(lambda found: drawing((folder / found["address"]).read_text(encoding="utf-8"),
                                                       found["text"]), content[0])
        content[0] = CELL.sub(section_link, content[0])
    if name == app.config.root_doc:
        lessons, guides = chosen([]), sorted((ROOT / "docs").rglob("*.md"))
        content[0] += CONTENTS.format(lessons=names(lessons), guides=names(guides))


def section_link(link: re.Match) -> str:
    """A link to a cell of a notebook as one to the heading above the cell: pages of the website do not name cells."""
    heading = place_of(ROOT, link["number"], link["cell"]).heading
    return f"{link['file']}#{slugify(re.sub(r'[$][^$]*[$]', '', heading))}"


def names(paths: list[Path]) -> str:
    """Sphinx's names of files of the course, one a line: docs/questions for docs/questions.md."""
    return "\n".join(path.relative_to(ROOT).with_suffix("").as_posix() for path in paths)


def change_notebook(notebook: nbformat.NotebookNode, name: str, target: Path) -> None:
    """Changes a notebook into what its page shows: links at the top, folded cells, figures as HTML.

    name: of the notebook, without .ipynb. target: the folder of the website, which gets the figures.
    """
    predicted = answers(notebook)
    views = views_of(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub(lambda badge: buttons(badge["address"], name, views), cell.source)
            continue
        fold(cell, "output" if cell.id in predicted else "input" if hides_code(cell) else None)
        for k, output in enumerate(cell.outputs):
            if "data" in output:
                change_output(output, f"{name}-{cell.id}-{k}", target)


def fold(cell: nbformat.NotebookNode, part: str | None) -> None:
    """Marks the "input" or the "output" of a cell as folded, in the words of MyST-NB; None: neither.

    The line of code that only shows a diagram is left out.
    """
    tags = [tag for tag in cell.metadata.get("tags", []) if not tag.startswith("hide-")]
    if part:
        tags.append("remove-input" if DIAGRAM.fullmatch(cell.source) and part == "input" else f"hide-{part}")
    cell.metadata["tags"] = tags
    word = "result" if part == "output" else "code"
    cell.metadata["mystnb"] = {"code_prompt_show": f"Show the {word}", "code_prompt_hide": f"Hide the {word}"}


def views_of(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The views in docs/views that a notebook uses, as (address seen from its page, title)."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    found = []
    for path in sorted((ROOT / "docs" / "views").glob("*.html")):
        if f"views.{path.stem}(" in code:
            title = re.search(r"<title>(.*?)</title>", path.read_text(encoding="utf-8"))[1]
            found.append((f"../docs/views/{path.name}", html.unescape(title)))
    return found


def buttons(colab: str, name: str, views: list[tuple[str, str]]) -> str:
    """The links at the top of the page of a notebook: to Colab, its slides, the notebook itself, and its views."""
    links = [(colab, "Open in Colab"), (f"../slides/{name}.html", "Slides"), (f"{name}.ipynb", "Notebook file"),
             *((address, f"View: {title}") for address, title in views)]
    anchors = " ".join(f'<a href="{html.escape(address)}">{html.escape(text)}</a>' for address, text in links)
    return f'<p class="buttons">{anchors}</p>'


def change_output(output: nbformat.NotebookNode, name: str, target: Path) -> None:
    """Changes a figure, a diagram or a highlighted source among the outputs into what the website shows.

    name: of this output, unique in the course. target: the folder of the website, where a figure becomes a file.
    """
    data, metadata = output.data, output.get("metadata", {})
    data.pop(MIME, None)  # the rows of a ledger, which are also there as HTML
    if "image/svg+xml" in data:
        data["text/html"] = drawing("".join(data.pop("image/svg+xml")), metadata.get("image/svg+xml", {}).get("alt"))
    elif "image/png" in data:
        picture = base64.b64decode(data.pop("image/png"))
        (target / "figures").mkdir(parents=True, exist_ok=True)
        (target / "figures" / f"{name}.png").write_bytes(picture)
        text = metadata.get("image/png", {}).get("alt") or "A figure. The text below it says what it shows."
        size = size_of(picture, metadata.get("image/png", {}).get("width"))
        data["text/html"] = (f'<figure><img src="../figures/{name}.png" alt="{html.escape(text)}" {size} '
                             'loading="lazy"></figure>')
    elif data.get("text/html", "").startswith('<div class="highlight"'):
        del data["text/html"]  # its colours are for a light page only
        data["text/markdown"] = f"````python\n{data['text/plain']}\n````"


def size_of(picture: bytes, shown: float | None = None) -> str:
    """The width and height of a PNG as attributes of HTML, so that the page does not move when it arrives.

    shown: the width at which it is shown, if it has more points than that.
    """
    width, height = (int.from_bytes(picture[start:start + 4], "big") for start in (16, 20))
    share = (shown or width) / width
    return f'width="{width * share:.0f}" height="{height * share:.0f}"'


def drawing(svg: str, text: str | None) -> str:
    """A drawing as a part of the page, which is a block of Markdown, too. text: its alternative text, None for its own.

    Its dark colours follow the page's switch, and the system's setting only as long as the switch says so.
    """
    def rules(match: re.Match) -> str:
        return (f'body[data-theme="dark"] {match[1]}'
                f'@media (prefers-color-scheme:dark){{body[data-theme="auto"] {match[1]}}}')
    label = f' role="group" aria-label="{html.escape(text)}"' if text else ""
    svg = re.sub(r"\n\s*\n", "\n", DARK.sub(rules, svg[svg.index("<svg"):].strip()))
    return f'<figure class="diagram"{label}>{svg}</figure>'


# Formulas


def visit_math(writer, node) -> None:
    """Writes a formula within a line as MathML."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_math_block(writer, node) -> None:
    """Writes a formula on a line of its own as MathML."""
    writer.body.append(f'<div class="math-block">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app) -> dict:
    """What Sphinx calls when it loads this extension."""
    app.connect("source-read", change_source)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
