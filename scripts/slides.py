"""Make slides from the notebooks' stored outputs: one file of HTML per notebook, usable without the internet.

    python -m scripts.slides                      all notebooks, to build/slides/
    python -m scripts.slides notebooks/01_*       only these
    python -m scripts.slides --minutes            print the words and the minutes of each slide

Nothing is executed. The tags of the cells (slide, subslide, fragment, notes, skip) say where a slide begins. Of a
cell's prose a slide shows headings, formulas, tables, lists and the paragraphs that begin in bold. All other prose, and
every paragraph that is too long to be shown whole, is in the speaker's notes (key S). Code is shown unless its cell has
the tag "hide-input". The slides run on reveal.js, taken from the package sphinx-revealjs and written into each file.
"""
import argparse
import base64
import html
import importlib.util
import math
import re
import struct
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from helpers.course.claims import MIME
from scripts import rendering
from scripts.notebooks import ROOT, chosen

WORDS_PER_MINUTE = 130  # of somebody who explains, not of somebody who reads aloud
SECONDS = {"figure": 20, "output": 10, "code": 20, "question": 30, "formula": 5}  # to look, to think, to answer
ROOM = 585  # height of a slide's body in units of a slide that is 1280 wide and 720 high
WIDTH = 1180
WORDS_SHOWN = 42  # of one paragraph; what is longer goes to the notes
INTRODUCED = ("formula", "list", "table")  # stand on the same slide as the paragraph before them
OUTPUT_COLUMNS = 117  # of the widest table that is legible in one piece; wider lines are wrapped

LEAD = re.compile(r"\*\*.+?\*\*")
SEEN = re.compile(r"\*\*What you should see\.?\*\*\s*")
SPOKEN = re.compile(r"\*\*(You need|Time|If you are stuck)")  # of the opening: said, not shown
ESCAPED = "<\\/script"  # inside of a script's text
SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z$`*(“\"])")
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.S)


@dataclass
class Block:
    """A piece of a slide. height: an estimate, in units of a slide of 1280 x 720."""

    html: str
    height: float
    kind: str = "text"
    words: int = 0  # that are said when it is shown
    fragment: bool = False  # appears after a click
    lines: list[str] = field(default_factory=list)  # of code and printed text: what html is made of


@dataclass
class Slide:
    """A slide: its name is the id of the cell where it begins."""

    name: str
    section: str
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    number: str = ""

    def minutes(self) -> float:
        """How long the slide takes: everything on it but code and output is said, and so are its notes."""
        words = sum(block.words for block in self.blocks) + sum(len(note.split()) for note in self.notes)
        pauses = sum(SECONDS.get(block.kind, 0) for block in self.blocks)
        return words / WORDS_PER_MINUTE + pauses / 60


class Renderer(rendering.MathRenderer):
    """Markdown to HTML for a slide."""

    def heading(self, text, level, **attributes):
        return f"<h{level}>{text}</h{level}>\n"  # without the link to itself


def markdown(source: str) -> str:
    """Markdown as HTML; a link to another file of the course keeps its text only."""
    text = rendering.markdown(source, Renderer(escape=False))
    return re.sub(r'<a href="(?!https?://)[^"]*">(.*?)</a>', r"\1", text, flags=re.S)


def python(source: str) -> list[str]:
    """Highlighted lines of Python, each a block of its own, so that the rest of a long line can be indented."""
    lines = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip("\n").split("\n")
    indents = [len(line) - len(line.lstrip()) for line in (re.sub(r"<[^>]+>", "", line) for line in lines)]
    return [f'<span class="line" style="--indent: {indent}">{line}\n</span>' for line, indent in zip(lines, indents)]


# Prose


def pieces(source: str) -> list[tuple[str, str]]:
    """Markdown cut into (kind, text): heading, formula, table, list, fence, details, quote, html or text."""
    found, lines = [], source.splitlines()
    fenced = {"```": "fence", "$$": "formula", "<details": "details"}
    while lines:
        line = lines.pop(0)
        start = next((mark for mark in fenced if line.lstrip().startswith(mark)), None)
        if start:
            end = {"<details": "</details>"}.get(start, start)
            body = [line]
            while lines and not (body[-1].rstrip().endswith(end) and len("".join(body).strip()) > len(end)):
                body.append(lines.pop(0))
            found.append((fenced[start], "\n".join(body)))
            continue
        kind = kind_of(line)
        if kind is None:
            found.append(("", ""))
        elif found and (found[-1][0] == kind or (found[-1][0] == "list" and kind == "text")) and kind != "heading":
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
        else:
            found.append((kind, line))
    return [piece for piece in found if piece[0]]


def kind_of(line: str) -> str | None:
    """What a line of Markdown is the beginning of; None for an empty line."""
    for pattern, kind in ((r"\s*$", None), (r"#+ ", "heading"), (r"\|", "table"), (r"\s*([-*]|\d+\.) ", "list"),
                          (r">", "quote"), (r"\s*<(?!http)", "html")):
        if re.match(pattern, line):
            return kind
    return "text"


def plain(source: str) -> str:
    """Markdown as it is read aloud: without marks, links and markup of formulas."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"<[^>]+>", " ", source))
    text = re.sub(r"\\(?:text|mathrm)\{([^}]*)\}", r"\1", text)
    text = re.sub(r"\\([a-zA-Z]+)|[{}$^_&\\]", r" \1 ", text)
    return " ".join(re.sub(r"[*`#>|]|^-+$", " ", text).split())


def first_sentences(text: str, limit: int = WORDS_SHOWN) -> str:
    """As many sentences from the beginning of `text` as have at most `limit` words, but at least one."""
    sentences = SENTENCE.split(" ".join(text.split()))
    shown = sentences[:1]
    for sentence in sentences[1:]:
        if len(" ".join([*shown, sentence]).split()) > limit:
            break
        shown.append(sentence)
    return " ".join(shown)


def text_block(source: str, kind: str = "text", per_line: float = 84, fragment: bool = False) -> Block:
    said = plain(source)
    lines = sum(math.ceil(max(1, len(line)) / per_line) for line in said.split("\n"))
    css = {"Predict first": "predict", "Question": "question"}.get(said.split(".")[0], "text")
    kind = "question" if css == "predict" else kind
    return Block(f'<div class="{css}">{markdown(source)}</div>', 37 * lines + 18 + 22 * (css != "text"), kind,
                 len(said.split()), fragment)


def list_blocks(source: str, kind: str) -> list[Block]:
    """A list or a table; one that is higher than a slide is cut between its items or rows."""
    lines = source.split("\n")
    if kind == "table":
        head, items, columns = lines[:2], lines[2:], max(1, lines[0].count("|") - 1)
        heights = [46 + 31 * (len(plain(row)) // (62 + 10 * columns)) for row in items]
    else:
        head, items = [], re.split(r"\n(?=(?:[-*]|\d+\.) )", source)
        heights = [36 * math.ceil(len(plain(item)) / 80) + 8 for item in items]
    blocks, first, room = [], 0, ROOM - 60
    for i in range(1, len(items) + 1):
        if i == len(items) or sum(heights[first:i + 1]) > room:
            text, chunk = "\n".join([*head, *items[first:i]]), sum(heights[first:i]) + (56 if head else 12)
            words = 12 if kind == "table" else len(plain(text).split())  # a table is not read aloud
            blocks.append(Block(f'<div class="text">{markdown(text)}</div>', chunk, kind, words))
            first = i
    return blocks


def prose(source: str, announces: bool = False) -> tuple[list[Block], list[str]]:
    """What a slide shows of a cell of Markdown, and what its notes say. announces: code follows this cell."""
    blocks, notes, found = [], [], pieces(source)
    for i, (kind, text) in enumerate(found):
        after = found[i + 1][0] if i + 1 < len(found) else "code" if announces else ""
        if kind == "heading":
            level = len(text) - len(text.lstrip("#"))
            blocks.append(Block(f'<div class="heading">{markdown(text)}</div>', 62 if level < 3 else 54, "heading",
                                len(plain(text).split())))
        elif kind == "formula":
            tall = 150 if r"\begin" in text else 72 if r"\frac" not in text and r"\sum" not in text else 96
            blocks.append(Block(f'<div class="formula">{markdown(text)}</div>', tall, kind, 12))
        elif kind in ("list", "table"):
            blocks += list_blocks(text, kind)
        elif kind == "fence":
            blocks.append(code_block("\n".join(text.splitlines()[1:-1])))
        elif kind == "quote":
            blocks.append(text_block(text))
        elif kind == "details":
            summary, body = DETAILS.search(text).groups()
            if summary.strip() == "Answer":
                blocks.append(text_block(body.strip(), "answer", fragment=True))
                blocks[-1].html = blocks[-1].html.replace('class="text"', 'class="answer"', 1)
            else:
                notes.append(f"{summary.strip()}: in the notebook.")
        elif kind == "text" and "colab-badge" not in text and not text.startswith("["):
            shown = shown_of(text, after, "### Exercise" in source)
            if shown:
                blocks.append(text_block(shown))
            if shown != " ".join(text.split()):
                notes.append(plain(text))
    return blocks, notes


def shown_of(paragraph: str, after: str, exercise: bool) -> str:
    """The part of a paragraph that is shown: its beginning after a bold lead, its end before a formula or a list."""
    if exercise:
        return re.sub(r"\s*(Help:|If you want help,|Stuck\?).*", "", " ".join(paragraph.split()))
    if SPOKEN.match(paragraph):
        return ""
    if LEAD.match(paragraph) or paragraph.startswith("*You will often"):
        return first_sentences(paragraph)
    if after == "code":
        return paragraph if len(paragraph.split()) <= WORDS_SHOWN else ""
    if after in INTRODUCED:
        sentences = SENTENCE.split(" ".join(paragraph.split()))
        sentences = sentences[-1:] if sentences[-2:][0].startswith("(") else sentences
        shown = " ".join(sentences[-2:])
        return shown if len(shown.split()) <= WORDS_SHOWN else sentences[-1]
    return ""


# Code and its outputs


def code_block(source: str) -> Block:
    source = re.sub(r"\n{3,}", "\n\n", source.strip("\n"))
    height = sum(math.ceil(max(1, len(line)) / 96) for line in source.split("\n"))
    return pre_block('<pre class="code">', python(source), 26 * height + 26, "code")


def output_block(text: str) -> Block:
    """Printed text. Up to OUTPUT_COLUMNS it keeps its columns, in smaller letters if need be."""
    lines = text.strip("\n").split("\n")
    if max(len(line) for line in lines) > OUTPUT_COLUMNS:
        lines = [part for line in lines for part in textwrap.wrap(line, 96, subsequent_indent="    ") or [""]]
    size = max(16, min(20, WIDTH / 0.605 / max(1, *(len(line) for line in lines))))
    opening = f'<pre class="out" style="font-size: {size:.1f}px">'
    return pre_block(opening, [html.escape(line) + "\n" for line in lines], 1.3 * size * len(lines) + 22, "output")


def pre_block(opening: str, lines: list[str], height: float, kind: str) -> Block:
    return Block(f"{opening}{''.join(lines)}</pre>", height, kind, lines=lines)


def split_lines(block: Block) -> list[Block]:
    """Code or output that is higher than a slide, cut into parts: after an empty line near the cut if there is one."""
    lines, parts = block.lines, math.ceil(block.height / ROOM)
    cuts = [round(len(lines) * k / parts) for k in range(parts + 1)]
    for k in range(1, parts):
        empty = [i for i in range(max(1, cuts[k] - 5), cuts[k] + 2) if not re.sub(r"<[^>]+>", "", lines[i - 1]).strip()]
        cuts[k] = empty[-1] if empty else cuts[k]
    opening = block.html.partition(">")[0] + ">"
    return [pre_block(opening, lines[a:b], block.height * (b - a) / len(lines), block.kind)
            for a, b in zip(cuts, cuts[1:]) if "".join(lines[a:b]).strip()]


def table_outputs(source: str) -> list[Block]:
    """A table of HTML. Of one that is too high, every second, third, ... row."""
    source = re.sub(r"<(t[a-z]+)( [^>]*)>", without_attributes, source)
    caption = "".join(re.findall(r"<caption>.*?</caption>", source, re.S))
    head, *rows = re.findall(r"<tr>.*?(?=<tr>|</tbody>|</thead>|</table>|$)", source, re.S)
    total = len(rows)
    if sum(map(row_height, rows)) > ROOM - 70:
        thinned = (rows[::k] for k in range(2, total + 1) if sum(map(row_height, rows[::k])) <= ROOM - 70)
        rows = next(thinned, rows)
    note = f"<p>Here {len(rows)} of the {total} rows.</p>" if len(rows) < total else ""
    blocks = [""]
    for row in rows:
        if blocks[-1] and row_height(blocks[-1] + row) > ROOM - 70:
            blocks.append("")
        blocks[-1] += row
    return [Block(f'<div class="html"><table>{caption}{head}{shown}</table>{note}</div>',
                  (100 if caption else 70) + row_height(shown), "output")
            for shown in blocks]


def without_attributes(tag: re.Match) -> str:
    """The tag of a table without its attributes; only a cell that holds a number stays marked."""
    is_number = re.search(r'class="[^"]*\bnumber\b', tag[2])
    return f'<{tag[1]} class="number">' if is_number else f"<{tag[1]}>"


def row_height(rows: str) -> float:
    """The height of one or more rows of a table: of each, that of its longest cell."""
    cells = [[re.sub(r"<[^>]+>", "", cell).strip() for cell in re.split(r"<t[dh][^>]*>", row)]
             for row in rows.split("<tr>") if row]
    return sum(7 + 25 * math.ceil(max(map(len, row)) / 70) for row in cells)


def claims_of(cell) -> list[dict]:
    """The rows of the ledger that a cell shows."""
    return [row for output in cell.get("outputs", []) for row in output.get("data", {}).get(MIME, {}).get("claims", [])]


def claim_slide(row: dict, name: str, section: str) -> Slide:
    """A row of a ledger; the measurement and the verdict appear after a click."""
    told = {key: html.escape(str(value)) for key, value in row.items()}
    measured = first_words(told["measured"])
    verdict = told["verdict"] + (f": {told['condition']}" if row["condition"] else "")
    asked = f"<strong>You will often read that</strong> … {told['statement']} <strong>Does it hold?</strong>"
    answer = (f"<p><strong>Measured:</strong> {measured}</p><p><strong>On:</strong> {told['measured_on']}</p>"
              f'<p class="verdict"><strong>{verdict}</strong></p>')
    return Slide(f"{name}-{row['number']}", section, [
        Block(f'<div class="heading"><h3>Claim {row["number"]}</h3></div>', 54, "heading"),
        Block(f'<div class="question"><p>{asked}</p></div>', 110, "question", len(asked.split())),
        Block(f'<div class="claim">{answer}</div>', 300, words=len(answer.split()), fragment=True),
    ], [row["measured"]] if measured != told["measured"] else [])


def first_words(text: str, limit: int = 55) -> str:
    words = text.split()
    return text if len(words) <= limit else " ".join(words[:limit]) + " …"


def figure_height(png: str) -> float:
    """The height that a figure needs to be legible: nearly that of its full width, if the slide is high enough."""
    width, height = struct.unpack(">II", base64.b64decode(png)[16:24])
    return 0.93 * min(470, WIDTH * height / width)


def outputs_of(cell) -> list[Block]:
    """The outputs of a code cell: figures, printed text, shown source code, tables."""
    blocks = []
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            image = f'<img src="data:image/png;base64,{"".join(data["image/png"].split())}" alt="figure: {cell.id}">'
            blocks.append(Block(f'<div class="figure">{image}</div>', figure_height(data["image/png"]), "figure"))
        elif "highlight" in data.get("text/html", "") and "text/plain" in data:
            blocks.append(code_block(data["text/plain"]))
        elif "<table" in data.get("text/html", ""):
            blocks += table_outputs(data["text/html"])
        elif (text := output.get("text") or data.get("text/plain", "")).strip():
            blocks.append(output_block(text))
    return blocks


# The deck


def slide_type(cell) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def parts_of(cell) -> list[nbformat.NotebookNode]:
    """A cell without what is never shown, and cut before its second, third, ... heading of a section."""
    if slide_type(cell) == "skip":
        return []
    if cell.cell_type == "code":
        return [cell]
    first, *later = re.split(r"(?m)^(?=## )", cell.source) if cell.source.startswith("## ") else [None, cell.source]
    sources = [source.strip() for source in ([first] if first else []) + later]
    kinds = [slide_type(cell)] + ["slide"] * (len(sources) - 1)
    return [nbformat.NotebookNode(id=cell.id, cell_type="markdown", source=source, outputs=[],
                                  metadata={"slideshow": {"slide_type": kind}})
            for source, kind in zip(sources, kinds) if not source.startswith("## References")]


def deck(notebook: nbformat.NotebookNode) -> list[list[Slide]]:
    """The slides of a notebook, section by section."""
    sections, section, waiting = [], "", []  # waiting: what is said without a slide of its own goes to the next slide
    cells = [part for cell in notebook.cells for part in parts_of(cell)]
    for cell, after in zip(cells, [*cells[1:], None]):
        kind = slide_type(cell)
        if cell.cell_type == "markdown" and (title := re.match(r"## (.*)", cell.source)):
            section = title[1]
        if kind == "slide" or not sections:
            sections.append([])
        slides = sections[-1]
        blocks, notes = content(cell, kind, slides, announces=after is not None and after.cell_type == "code")
        waiting += notes
        slides += [claim_slide(row, cell.id, section) for row in claims_of(cell)]
        if not blocks:
            continue
        if kind in ("slide", "subslide") or SEEN.match(cell.source) or not slides:
            slides.append(Slide(cell.id, section))
        slides[-1].notes += waiting
        waiting = []
        place(blocks, slides, cell.id)
    sections[-1][-1].notes += waiting
    used = Counter()
    for h, slides in enumerate(sections, start=1):
        for v, slide in enumerate(slides, start=1):
            used[slide.name] += 1
            slide.name += f"~{used[slide.name]}" if used[slide.name] > 1 else ""
            slide.number = f"{h}.{v}"
    return sections


def content(cell, kind: str, slides: list[Slide], announces: bool) -> tuple[list[Block], list[str]]:
    """What a cell gives to a slide of its own, and to the notes."""
    if kind == "notes":
        return [], [plain(cell.source)]
    if cell.cell_type == "markdown":
        concludes = kind == "fragment" and SEEN.match(cell.source) and slides
        blocks, notes = conclude(slides[-1], cell.source, announces) if concludes else prose(cell.source, announces)
    elif claims_of(cell):
        return [], []
    else:
        code = [] if "hide-input" in cell.metadata.get("tags", []) else [code_block(cell.source)]
        outputs = outputs_of(cell) if ".check(" not in cell.source else []
        stands_alone = kind in ("slide", "subslide") and not code  # the prediction is on the slide before
        for block in outputs:
            block.fragment = cell.metadata.get("jupyter", {}).get("outputs_hidden", False) and not stands_alone
        blocks, notes = code + outputs, []
    for block in blocks:
        block.fragment |= kind == "fragment" and not SEEN.match(cell.source)
    return blocks, notes


def conclude(slide: Slide, source: str, announces: bool) -> tuple[list[Block], list[str]]:
    """Puts what is seen under the slide that shows it, after a click; returns what the rest of the cell gives."""
    first, _, rest = source.partition("\n\n")
    seen = " ".join(SEEN.sub("", first).split())
    shown = first_sentences(seen, 40 if any(block.kind == "figure" for block in slide.blocks) else 55)
    if kind_of(first) == "text" and "\n- " not in first:
        slide.blocks.append(text_block(shown, fragment=True))
        slide.blocks[-1].html = slide.blocks[-1].html.replace('class="text"', 'class="seen"', 1)
    if shown != seen:
        slide.notes.append(plain(seen))
    return prose(rest, announces)


def place(blocks: list[Block], slides: list[Slide], name: str) -> None:
    """Appends blocks to the last slide, and to new ones wherever they do not fit any more."""
    for block in blocks:
        parts = split_lines(block) if block.height > ROOM and block.lines else [block]
        for part in parts:
            used = sum(other.height for other in slides[-1].blocks)
            headings = all(other.kind == "heading" for other in slides[-1].blocks)
            full = used + part.height > ROOM or part.kind == "heading"
            if full and slides[-1].blocks and not headings:
                before = slides[-1].blocks
                leads = part.kind == "answer" or part.kind in INTRODUCED and before[-1].kind == "text"
                alone = leads and len(before) > 1 and not before[-1].fragment
                slides.append(Slide(name, slides[-1].section, [before.pop()] if alone else []))
            slides[-1].blocks.append(part)


# The page


def reveal() -> Path:
    """The folder of reveal.js, which the package sphinx-revealjs brings with it."""
    found = importlib.util.find_spec("sphinx_revealjs")
    if found is None:
        raise SystemExit("slides: sphinx-revealjs is not installed: pip install -r requirements.txt -c constraints.txt")
    return Path(found.origin).parent / "_static" / "revealjs"


def section_html(slide: Slide, title: str) -> str:
    body = "".join(block.html.replace('class="', 'class="fragment ', 1) if block.fragment else block.html
                   for block in slide.blocks)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in slide.notes)
    header = f"<header><span>{html.escape(title)}</span><span>{markdown_line(slide.section)}</span></header>"
    footer = f"<footer><span>{slide.name}</span><span>{slide.number}</span></footer>"
    return (f'<section id="{slide.name}"><div class="page">{header}<div class="body">{body}</div>{footer}</div>'
            f'<aside class="notes">{notes}</aside></section>')


def markdown_line(text: str) -> str:
    return re.sub(r"</?p>|\n", "", markdown(text))


def page(notebook: nbformat.NotebookNode) -> str:
    """A notebook's slides as one HTML page that needs no other file."""
    folder = reveal()
    title = re.match(r"# (.*)", notebook.cells[0].source)[1]
    sections = "".join(f"<section>{''.join(section_html(slide, title) for slide in slides)}</section>\n"
                       for slides in deck(notebook))
    files = {name: (folder / name).read_text(encoding="utf-8") for name in
             ("LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js")}
    own = {name: Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("slides.css", "slides.js")}
    scripts = (files["dist/reveal.js"], files["plugin/notes/notes.js"], own["slides.js"])
    scripts = "".join(f"<script>{text.replace('</script', ESCAPED)}</script>\n" for text in scripts)
    style = "\n".join([files["dist/reset.css"], files["dist/reveal.css"], HtmlFormatter().get_style_defs(".code"),
                       own["slides.css"]])
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<!-- These slides contain reveal.js (https://revealjs.com), whose licence is:\n{files["LICENSE"]}\n-->\n'
            f'<style>{style}</style></head>\n<body><div class="reveal"><div class="slides">\n{sections}</div></div>\n'
            f'{scripts}</body></html>\n')


def minutes_table(notebook: nbformat.NotebookNode) -> str:
    """For each slide its number, its name, the words to be said, what is to be looked at, and the minutes."""
    lines = []
    for slide in (slide for slides in deck(notebook) for slide in slides):
        words = sum(block.words for block in slide.blocks) + sum(len(note.split()) for note in slide.notes)
        seen = ", ".join(block.kind for block in slide.blocks if block.kind in SECONDS)
        lines.append(f"{slide.number:6} {slide.name:32} {words:5} words {slide.minutes():5.1f} min  {seen}")
    total = sum(slide.minutes() for slides in deck(notebook) for slide in slides)
    return "\n".join([*lines, f"{len(lines)} slides, {total:.0f} minutes\n"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="default: all of notebooks/NN_*.ipynb")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "slides", help="folder (default: build/slides)")
    parser.add_argument("--minutes", action="store_true", help="write nothing, print minutes and words of each slide")
    options = parser.parse_args(arguments)
    for path in chosen(options.notebooks):
        notebook = nbformat.read(path, as_version=4)
        if options.minutes:
            print(f"{path.name}\n{minutes_table(notebook)}")
            continue
        options.build.mkdir(parents=True, exist_ok=True)
        target = options.build / path.with_suffix(".html").name
        target.write_text(page(notebook), encoding="utf-8", newline="\n")
        print(f"{sum(map(len, deck(notebook))):3} slides: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
