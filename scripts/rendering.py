"""Markdown and notebooks as HTML that needs no network: formulas in MathML, and links that work between the pages."""
import base64
import mimetypes
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from latex2mathml import converter
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from scripts.fold_notebooks import answers, hides_code

TEMPLATE = Path(__file__).with_name("page.html.j2")
MATRIX = re.compile(r"(<mo>&#x0005B;</mo><mtable>.*?</mtable><mo>&#x0005D;</mo>)", re.S)
NAMESPACE = "http://www.w3.org/1998/Math/MathML"


def mathml(formula: str, display: str) -> str:
    """A formula of TeX in MathML. Corrects the spacing in two places, and makes a matrix with its brackets one piece,
    which is what an exponent needs."""
    text = converter.convert(formula.strip(), display=display).replace("<mo>&#x0221E;</mo>", "<mi>&#x0221E;</mi>")
    text = text.replace(f' xmlns="{NAMESPACE}"', "")  # HTML needs none, and nbconvert's headings would repeat it
    text = MATRIX.sub(r"<mrow>\1</mrow>", text)
    return re.sub(r"(<mi>(?:ln|log|exp|cos|sin|tanh)</mi>)(?=<m(?!o|row><mo))", r'\1<mspace width="0.17em"/>', text)


class MathRenderer(IPythonRenderer):
    """Markdown to HTML with formulas in MathML, which browsers show without any further file."""

    def inline_math(self, body):
        return mathml(body, "inline")

    def block_math(self, body):
        return mathml(body, "block")

    def latex_environment(self, name, body):
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


class PageRenderer(MathRenderer):
    """Markdown of a notebook in the folder `source` to HTML for a page in the folder `target`."""

    def __init__(self, source: Path, target: Path):
        super().__init__(escape=False)
        self.source, self.target = source, target

    def link(self, text, url, title=None):
        return super().link(text, self.address(url), title)

    def address(self, url: str) -> str:
        """A link of the notebook as the page needs it: other notebooks are pages, other files stay where they are."""
        file, hash_mark, anchor = url.partition("#")
        if urlsplit(url).scheme or not file:
            return url
        if file.endswith(".ipynb") and "/" not in file:
            return Path(file).with_suffix(".html").name + hash_mark + anchor
        path = (self.source / file).resolve()
        try:
            file = Path(os.path.relpath(path, self.target)).as_posix()
        except ValueError:  # on another drive of Windows
            file = path.as_uri()
        return file + hash_mark + anchor

    def image(self, text, url, title=None):
        """A picture with its content, or its text if it would come from the network, as the badge of Colab would."""
        if urlsplit(url).scheme:
            return text
        content = base64.b64encode((self.source / url).read_bytes()).decode()
        return super().image(text, f"data:{mimetypes.guess_type(url)[0]};base64,{content}", title)


def markdown(source: str, renderer: IPythonRenderer) -> str:
    """Markdown as HTML, its formulas in MathML."""
    return MarkdownWithMath(renderer=renderer).render(source)


def page(notebook: nbformat.NotebookNode, source: Path, target: Path) -> str:
    """A notebook of the folder `source` as a page of HTML for the folder `target`, which reads no other file.

    It folds the code of the setup cell and of cells with the tag "hide-input", and outputs that answer a prediction.
    """
    renderer, predicted = PageRenderer(source.resolve(), target.resolve()), answers(notebook)
    filters = {"markdown2html": lambda text: markdown(text, renderer), "hides_code": hides_code,
               "hides_result": lambda cell: cell.id in predicted}
    exporter = HTMLExporter(template_file=str(TEMPLATE), filters=filters)
    title = notebook.cells[0].source.partition("\n")[0].lstrip("# ") if notebook.cells else ""
    html, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return html
