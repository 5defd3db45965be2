"""What a slide is made of: cells of a notebook as blocks, each a piece of HTML with an estimate of its height.

Of a cell's prose a slide shows formulas, tables, lists and the paragraphs that begin in bold. All other prose, and
every paragraph that is too long to be shown whole, belongs to the speaker's notes.
"""
import base64
import html
import math
import re
import struct
import textwrap
from dataclasses import dataclass, field

from bs4 import BeautifulSoup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from helpers.course.claims import MIME, conditions_of
from scripts import rendering

ROOM = 540  # height of a slide's body in units of a slide that is 1280 wide and 720 high
WIDTH = 1180
WORDS_SHOWN = 42  # of one paragraph; what is longer goes to the notes
INTRODUCED = ("formula", "list", "table")  # stand on the same slide as the paragraph before them
ORPHANS = 2  # rows of a table; so few never stand on a slide of their own
UNWRAPPED = 14  # characters; a cell of a table that has no more stays on one line
VIEW_HEIGHTS = {"steps": 411, "next-token": 552, "heads": 615}  # of a view that is VIEW_WIDTH wide
VIEW_WIDTH = 860
CONDITION_WORDS = 25  # of a claim's condition that its slide shows
OUTPUT_COLUMNS = 117  # of the widest table that is legible in one piece; wider lines are wrapped

LEAD = re.compile(r"\*\*.+?\*\*")
PREDICT = re.compile(r"\*\*Predict first[.:]?\*\*")
SEEN = re.compile(r"\*\*What you should see\.?\*\*\s*")
SPOKEN = re.compile(r"\*\*(You need|Time|If you are stuck)")  # of the opening: said, not shown
SENTENCE = re.compile(r"(?<=[.?!])(?<!al\.)(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)\s+(?=[A-Z$`*(“\"])")
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.S)
NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+(e[-+]?\d+)?( ?[%×])?$")
DARK = re.compile(r"@media \(prefers-color-scheme:\s*dark\)\s*\{[^{}]*\{[^{}]*\}\s*\}")

STAMPS = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗"), "depends": ("depends", "◐"),
          "inconclusive": ("open", "?"), "unmeasured here": ("open", "–"), "to come": ("open", "…")}


@dataclass
class Block:
    """A piece of a slide. height: an estimate, in units of a slide of 1280 x 720."""

    html: str
    height: float
    kind: str = "text"
    words: int = 0  # that are said when it is shown
    fragment: bool = False  # appears after a click
    lines: list[str] = field(default_factory=list)  # of code and printed text: what html is made of
    ratio: float = 0  # of a figure: width / height
    answers: bool = False  # is what the prediction before it asks for

    def is_picture(self) -> bool:
        """Whether it stands on the right when text stands beside it."""
        return self.kind in ("figure", "output", "table", "formula")


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


def sentences_of(text: str) -> list[str]:
    """The sentences of a paragraph; what stands in brackets is not cut."""
    found = [""]
    for sentence in SENTENCE.split(" ".join(text.split())):
        is_open = found[-1].count("(") > found[-1].count(")") or found[-1].count("$") % 2
        found = [*found[:-1], f"{found[-1]} {sentence}"] if is_open else [*found, sentence]
    return found[1:]


def first_sentences(text: str, limit: int = WORDS_SHOWN) -> str:
    """As many sentences from the beginning of `text` as have at most `limit` words, but at least one."""
    shown, *sentences = sentences_of(text)
    for sentence in sentences:
        if len(f"{shown} {sentence}".split()) > limit:
            break
        shown = f"{shown} {sentence}"
    return shown


def text_block(source: str, kind: str = "text", css: str = "text", fragment: bool = False) -> Block:
    """A paragraph in a box of the class `css`; the question of a paragraph that begins with one has its own box."""
    said = plain(source)
    lines = sum(math.ceil(max(1, len(line)) / 84) for line in said.split("\n"))
    css = {"Predict first": "predict", "Question": "question"}.get(re.split("[.:]", said)[0], css)
    kind = {"predict": "predict"}.get(css, kind)
    return Block(f'<div class="{css}">{markdown(source)}</div>', 37 * lines + 14 + 16 * (css != "text"), kind,
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
        is_orphan = kind == "table" and i > first + ORPHANS and len(items) - i <= ORPHANS
        if i == len(items) or sum(heights[first:i + 1]) > room and not is_orphan:
            text, chunk = "\n".join([*head, *items[first:i]]), sum(heights[first:i]) + (56 if head else 12)
            words = 12 if kind == "table" else len(plain(text).split())  # a table is not read aloud
            blocks.append(Block(f'<div class="text">{unwrapped(markdown(text))}</div>', chunk, kind, words))
            first = i
    return blocks


def unwrapped(text: str) -> str:
    """HTML with the short cells of its tables marked, so that they stay on one line; the first column may be wider."""
    if "<table" not in text:
        return text
    found = BeautifulSoup(text, "html.parser")
    for row in found.find_all("tr"):
        for i, cell in enumerate(row.find_all(["td", "th"])):
            said = cell.get_text().strip()
            if re.search(r"[\s–-]", said) and len(said) <= UNWRAPPED:
                cell["class"] = [*cell.get("class", []), "short"]
            elif i == 0 and len(said) > UNWRAPPED:
                cell["class"] = [*cell.get("class", []), "first"]
    return str(found)


def prose(source: str, announces: bool = False) -> tuple[list[Block], list[str]]:
    """What a slide shows of a cell of Markdown, and what its notes say. announces: code follows this cell.

    A heading is a block of the kind "heading" whose html is its Markdown: it begins a slide.
    """
    blocks, notes, found = [], [], pieces(source)
    for i, (kind, text) in enumerate(found):
        after = found[i + 1][0] if i + 1 < len(found) else "code" if announces else ""
        if kind == "heading":
            blocks.append(Block(text.lstrip("# "), 0, "heading", len(plain(text).split())))
        elif kind == "formula":
            tall = 150 if r"\begin" in text else 72 if r"\frac" not in text and r"\sum" not in text else 96
            blocks.append(Block(f'<div class="formula">{markdown(text)}</div>', tall, kind, 12))
        elif kind in ("list", "table"):
            blocks += list_blocks(text, kind)
        elif kind == "fence":
            blocks.append(code_block("\n".join(text.splitlines()[1:-1])))
        elif kind == "quote":
            blocks.append(text_block(text, "quote"))
        elif kind == "details":
            summary, body = DETAILS.search(text).groups()
            if summary.strip() == "Answer":
                blocks.append(text_block(body.strip(), "answer", "answer", fragment=True))
            else:
                notes.append(f"{summary.strip()}: in the notebook.")
        elif kind == "text" and "colab-badge" not in text and not text.startswith("["):
            shown = shown_of(text, after, "### Exercise" in source)
            if shown:
                blocks.append(text_block(shown))
            if shown != " ".join(text.split()):
                notes.append(text)
    return blocks, notes


def shown_of(paragraph: str, after: str, exercise: bool) -> str:
    """The part of a paragraph that is shown: its beginning after a bold lead, its end before a formula or a list."""
    if exercise:
        return re.sub(r"\s*(Help:|If you want help,|Stuck\?).*", "", " ".join(paragraph.split()))
    if SPOKEN.match(paragraph):
        return ""
    if PREDICT.match(paragraph):
        return " ".join(paragraph.split())
    if LEAD.match(paragraph) or paragraph.startswith("*You will often"):
        return first_sentences(paragraph)
    if after == "code":
        return paragraph if len(paragraph.split()) <= WORDS_SHOWN else ""
    if after in INTRODUCED:
        sentences = sentences_of(paragraph)
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
    """Printed text in a frame. Up to OUTPUT_COLUMNS it keeps its columns, in smaller letters if need be."""
    lines = text.strip("\n").split("\n")
    if max(len(line) for line in lines) > OUTPUT_COLUMNS:
        lines = [part for line in lines for part in textwrap.wrap(line, 96, subsequent_indent="    ") or [""]]
    size = max(16, min(20, WIDTH / 0.605 / max(1, *(len(line) for line in lines))))
    opening = f'<pre class="out" style="--size: {size:.1f}px">'
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


def table_output(source: str) -> Block:
    """A table of HTML, without its own styles. Of one that is too high, every second, third, ... row."""
    table = BeautifulSoup(source, "html.parser").table
    rows = [row for row in table.find_all("tr") if row.find("td")]
    for row in table.find_all("tr"):
        for cell in row.find_all(["td", "th"]):
            is_number = cell.name == "td" and NUMBER.fullmatch(cell.get_text().strip() or "-")
            cell.attrs = {name: cell[name] for name in ("colspan", "rowspan") if name in cell.attrs}
            cell.attrs |= {"class": "number"} if is_number else {}
    for part in [table, *table.find_all(["thead", "tbody", "tr", "caption"])]:
        part.attrs = {}
    mark_number_columns(table, rows)
    heights, shown = [row_height(row) for row in rows], rows
    room = ROOM - (110 if table.caption else 76)
    if sum(heights) > room:
        steps = range(2, len(rows) + 1)
        shown = next((rows[::k] for k in steps if sum(heights[::k]) <= room), rows)
    for row in rows:
        if not any(row is other for other in shown):
            row.extract()
    note = f"<p>Here {len(shown)} of the {len(rows)} rows.</p>" if len(shown) < len(rows) else ""
    caption = f'<p class="caption">{table.caption.extract().decode_contents()}</p>' if table.caption else ""
    height = sum(height for row, height in zip(rows, heights) if any(row is other for other in shown))
    return Block(f'<div class="html">{caption}{unwrapped(str(table))}{note}</div>', height + ROOM - room, "table")


def mark_number_columns(table, rows) -> None:
    """The heading of a column stands on the right if all that its rows hold are numbers."""
    for head in table.find_all("tr"):
        for i, cell in enumerate(head.find_all("th") if not head.find("td") else []):
            column = [row.find_all(["td", "th"])[i] for row in rows if i < len(row.find_all(["td", "th"]))]
            full = [entry for entry in column if entry.get_text().strip()]
            if full and all(entry.get("class") == "number" for entry in full):
                cell["class"] = "number"


def row_height(row) -> float:
    """The height of a row of a table: that of its longest cell."""
    return 11 + 25 * max(math.ceil(max(1, len(cell.get_text().strip())) / 60) for cell in row.find_all(["td", "th"]))


def claims_of(cell) -> list[dict]:
    """The rows of the ledger that a cell shows."""
    return [row for output in cell.get("outputs", []) for row in output.get("data", {}).get(MIME, {}).get("claims", [])]


def claim_blocks(row: dict) -> list[Block]:
    """A row of a ledger; the measurement and the verdict appear after a click.

    The statement stands here only if the heading has no room for all of it.
    """
    told = {key: html.escape(str(value)) for key, value in row.items()}
    css, sign = STAMPS[row["verdict"]]
    condition = html.escape(shortened(conditions_of(row)))
    word = "Missing" if row["verdict"] == "unmeasured here" and row.get("unmeasured") else "Because"
    why = f"<p><strong>{word}:</strong> {condition}</p>" if condition else ""
    asked = "does it hold?" if short_statement(row) in row["statement"] else f"“{told['statement']}”"
    answer = (f'<div class="measured"><p><strong>Measured:</strong> {html.escape(first_clauses(row["measured"]))}</p>'
              f'<p><strong>On:</strong> {told["measured_on"]}</p>{why}</div>'
              f'<div class="stamp {css}"><span>{sign}</span> {told["verdict"]}</div>')
    return [Block(f'<div class="statement"><p>Claim {row["number"]}: {asked}</p></div>', 110, "question",
                  len(told["statement"].split())),
            Block(f'<div class="claim">{answer}</div>', 300, "verdict", len(answer.split()), True, answers=True)]


def short_statement(row: dict, limit: int = 70) -> str:
    """What a claim says, in so few words that a heading of `limit` characters has room for the verdict, too."""
    statement = row["statement"].rstrip(".")
    return textwrap.shorten(statement, limit - len(f": {row['verdict']}"), placeholder=" …")


def shortened(condition: str) -> str:
    """The beginning of a condition, with "…" if it is longer than CONDITION_WORDS words."""
    shown = first_clauses(condition, CONDITION_WORDS)
    words = shown.split()
    if len(words) > CONDITION_WORDS:
        return " ".join(words[:CONDITION_WORDS]) + " …"
    return shown if shown == condition else f"{shown}; …"


def first_clauses(text: str, limit: int = 55) -> str:
    """As many clauses from the beginning of `text`, divided by semicolons, as have at most `limit` words."""
    shown, *clauses = text.split("; ")
    for clause in clauses:
        if len(f"{shown} {clause}".split()) > limit:
            break
        shown = f"{shown}; {clause}"
    return shown


def figure_block(data: dict, metadata: dict, name: str) -> Block:
    """A figure: a drawing as it is, light whatever the screen is set to, or a PNG."""
    kind = "image/svg+xml" if "image/svg+xml" in data else "image/png"
    alt = html.escape(metadata.get(kind, {}).get("alt") or f"figure: {name}")
    if kind == "image/svg+xml":
        picture = DARK.sub("", data[kind][data[kind].index("<svg"):])
        left, top, width, height = map(float, re.search(r'viewBox="([^"]+)"', picture)[1].split())
    else:
        picture = f'<img src="data:image/png;base64,{"".join(data[kind].split())}" alt="{alt}">'
        width, height = struct.unpack(">II", base64.b64decode(data[kind])[16:24])
    return Block(f'<div class="figure" data-cell="{name}" style="--ratio: {width / height:.3f}">{picture}</div>',
                 0.85 * min(480, WIDTH * height / width), "figure", ratio=width / height)


def view_block(source: str) -> Block:
    """A view that can be moved and clicked, as it is stored: a style and a frame that holds a page of its own."""
    name = re.search(r"course-view-([\w-]+)", source)
    height = VIEW_HEIGHTS.get(name[1] if name else "", max(VIEW_HEIGHTS.values()))
    return Block(f'<div class="view"><div class="sized">{source}</div></div>', 0.72 * height, "figure",
                 ratio=VIEW_WIDTH / height)


def outputs_of(cell) -> list[Block]:
    """The outputs of a code cell: views, figures, printed text, shown source code, tables."""
    blocks = []
    for output in cell.outputs:
        data = output.get("data", {})
        if 'class="course-view' in data.get("text/html", ""):
            blocks.append(view_block(data["text/html"]))
        elif "image/svg+xml" in data or "image/png" in data:
            blocks.append(figure_block(data, output.metadata, cell.id))
        elif "highlight" in data.get("text/html", "") and "text/plain" in data:
            blocks.append(code_block(data["text/plain"]))
        elif "<table" in data.get("text/html", ""):
            blocks.append(table_output(data["text/html"]))
        elif (text := output.get("text") or data.get("text/plain", "")).strip():
            blocks.append(output_block(text))
    return blocks
