"""Make slides from the notebooks' stored outputs: one file of HTML per notebook, usable without the internet.

    python -m scripts.slides                      all notebooks, to build/slides/
    python -m scripts.slides notebooks/01_*       only these
    python -m scripts.slides --minutes            print the words and the minutes of each slide
    python -m scripts.slides --check              print what is missing: headings, captions, a deck's size

Nothing is executed. The metadata `slideshow` of a cell says where a slide begins (slide_type) and how it looks
(heading, code, output, layout, sparse; see CONTRIBUTING.md). What a slide does not show of a cell's prose is in the
speaker's notes (key S). The slides run on reveal.js, from the package sphinx-revealjs, written into each file.
"""
import argparse
import html
import importlib.util
import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import nbformat
from pygments.formatters import HtmlFormatter

from helpers.course import diagrams
from helpers.course.claims import conditions_of
from scripts import slide_blocks
from scripts.notebooks import ROOT, chosen
from scripts.slide_blocks import INTRODUCED, ROOM, SEEN, Block, claims_of, plain

WORDS_PER_MINUTE = 130  # of somebody who explains, not of somebody who reads aloud
# To look, to think, to answer.
SECONDS = {"figure": 20, "output": 10, "table": 10, "code": 20, "question": 30, "predict": 30, "formula": 5}
NARROW = 2.2  # a text beside a figure needs so many times the lines
TALL = 1.3  # a figure that is not wider than this stands beside its text by itself
LONGEST_HEADING = 70
SQUEEZED = 1.25  # so much more than ROOM fits with smaller letters
ESCAPED = "<\\/script"  # inside of a script's text
GOALS = "What you will be able to do"


@dataclass
class Slide:
    """A slide: its name is the id of the cell where it begins.

    heading, told: Markdown of its message, and of the one that takes its place with the first click. part: 2, 3, ... of
    a slide that continues the one before.
    """

    name: str
    section: str
    heading: str = ""
    told: str = ""
    part: int = 1
    layout: str = ""
    sparse: bool = False
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # Markdown
    number: int = 0

    def words(self) -> int:
        """How many words are said: all that is on the slide but code and output, and the notes."""
        return sum(block.words for block in self.blocks) + sum(len(plain(note).split()) for note in self.notes)

    def minutes(self) -> float:
        """How long the slide takes: its words, and the pauses to look and to answer."""
        pauses = sum(SECONDS.get(block.kind, 0) for block in self.blocks)
        return self.words() / WORDS_PER_MINUTE + pauses / 60

    def is_beside(self) -> bool:
        """Whether its text stands on the left of its figure."""
        words = [block for block in self.blocks if not block.is_picture()]
        if self.layout or not words or any(block.kind == "code" for block in words):
            return self.layout == "beside" and 0 < len(words) < len(self.blocks)
        figures = [block for block in self.blocks if block.kind == "figure"]
        return len(figures) == len(self.blocks) - len(words) == 1 and figures[0].ratio < TALL

    def height(self) -> float:
        """An estimate of what the slide's blocks need."""
        if not self.is_beside():
            return sum(block.height for block in self.blocks)
        left = sum(NARROW * block.height for block in self.blocks if not block.is_picture())
        return max(left, sum(block.height for block in self.blocks if block.is_picture()))


# The deck


def settings(cell) -> dict:
    """What a cell's metadata says about its slide."""
    return cell.metadata.get("slideshow", {})


def slide_type(cell) -> str:
    return settings(cell).get("slide_type", "-")


def parts_of(cell) -> list[nbformat.NotebookNode]:
    """A cell, cut before its second, third, ... heading of a section, without the references."""
    if cell.cell_type == "code" or not cell.source.startswith("## "):
        return [cell]
    sources = [source.strip() for source in re.split(r"(?m)^(?=## )", cell.source)[1:]]
    first = {"slideshow": settings(cell)}
    later = {"slideshow": {"slide_type": "skip" if slide_type(cell) == "skip" else "slide"}}
    return [nbformat.NotebookNode(id=cell.id, cell_type="markdown", source=source, metadata=first if not i else later)
            for i, source in enumerate(sources) if not source.startswith("## References")]


class Deck:
    """Collects the slides of a notebook, section by section, while add() is given one cell after another."""

    def __init__(self):
        self.sections: list[list[Slide]] = []
        self.section = ""  # the title of the section
        self.heading = ""  # of a cell that shows nothing else: for the next slide
        self.notes: list[str] = []  # what is said without a slide of its own goes to the next slide
        self.has_result = False  # whether a code cell was shown after the last cell of prose

    def last(self) -> Slide | None:
        return self.sections[-1][-1] if self.sections and self.sections[-1] else None

    def add(self, cell, announces: bool) -> None:
        """Takes a cell. announces: code follows it."""
        kind, is_prose = slide_type(cell), cell.cell_type == "markdown"
        if is_prose and (title := re.match(r"## (.*)", cell.source)):
            self.section = title[1]
        if kind == "skip" or cell.id == "course-map":  # the map is on the first slide
            return
        if kind == "slide" or not self.sections:
            self.sections.append([])
        if kind == "notes":
            self.notes += [cell.source] if is_prose else []
        elif claims_of(cell):
            self.add_claims(cell)
        elif is_prose:
            self.add_prose(cell, announces)
        else:
            self.add_code(cell)
        self.has_result = not is_prose and (self.has_result or kind != "notes")

    def begins(self, cell) -> bool:
        """Whether a slide begins at a cell: it says so, it has a heading, or one waits for it."""
        has_heading = bool(settings(cell).get("heading") or self.heading)
        return slide_type(cell) in ("slide", "subslide") or has_heading or not self.last()

    def begin(self, cell, heading: str = "", told: str = "", part: int = 1) -> Slide:
        """A new slide, which begins at a cell. heading: the one of the cell's prose, if its metadata has none."""
        known = settings(cell)
        heading = known.get("heading") or heading or self.heading
        slide = Slide(cell.id, self.section, heading, told, part, known.get("layout", ""), known.get("sparse", False))
        self.heading = ""
        self.sections[-1].append(slide)
        return slide

    def go_on(self, name: str) -> Slide:
        """A new slide that continues the last one."""
        last = self.last()
        slide = replace(last, name=name, heading=last.told or last.heading, told="", part=last.part + 1, sparse=False,
                        blocks=[], notes=[])
        self.sections[-1].append(slide)
        return slide

    def say(self, notes: list[str]) -> None:
        """Puts what was waiting, and these notes, under the last slide, or lets them wait for the first one."""
        self.notes += [note for note in notes if note.strip()]
        if last := self.last():
            last.notes += self.notes
            self.notes = []

    def add_claims(self, cell) -> None:
        """A slide for each row of a ledger."""
        for row in claims_of(cell):
            slide = self.begin(cell)
            slide.name, slide.heading = f"{cell.id}-{row['number']}", slide_blocks.short_statement(row)
            slide.told = f"{slide.heading}: {row['verdict']}"
            slide.blocks = slide_blocks.claim_blocks(row)
            is_cut = slide_blocks.first_clauses(row["measured"]) != row["measured"]
            self.say([row["measured"]] if is_cut else [])
            conditions = conditions_of(row)
            self.say([conditions] if slide_blocks.shortened(conditions) != conditions else [])

    def add_prose(self, cell, announces: bool) -> None:
        """A cell of Markdown. Of one that says what should be seen, the first paragraph is the last slide's caption."""
        source, has_heading = cell.source, "heading" in settings(cell)
        begins = self.begins(cell)
        if SEEN.match(source):
            source = self.conclude(source)
            begins = True
            if not has_heading and not source.startswith("#"):
                before, lead, after = source.partition("**Predict first")
                self.say([before])
                source = lead + after
        blocks, notes = slide_blocks.prose(source, announces)
        own = ""
        while blocks and blocks[0].kind == "heading":  # of an exercise under the heading of its section: the exercise's
            own, begins = blocks.pop(0).html, True
        if cell.source.startswith("# "):
            self.add_title(cell, own, blocks)
        elif not blocks:
            self.heading = settings(cell).get("heading") or re.sub(r"^\d+ · ", "", own) or self.heading
            self.notes += notes
            return
        else:
            if begins:
                self.begin(cell, re.sub(r"^\d+ · ", "", own))
            for block in blocks:
                block.fragment |= slide_type(cell) == "fragment" and not SEEN.match(cell.source)
            self.place(blocks, cell.id)
        self.say(notes)

    def add_title(self, cell, title: str, blocks: list[Block]) -> None:
        """The first slide: the promise and the map of the course. What the learner will be able to do follows."""
        data, metadata = diagrams.draw("course-map", here=title[:2])._repr_mimebundle_()
        first = self.begin(cell, title)
        first.blocks = [block for block in blocks if block.kind == "quote"]
        first.blocks.append(slide_blocks.figure_block(data, metadata, "course-map"))
        goals = [block for block in blocks if block.kind != "quote" and "You will be able to" not in block.html]
        if goals:
            self.go_on(cell.id)
            self.last().heading, self.last().part = GOALS, 1
            self.place(goals, cell.id)

    def conclude(self, source: str) -> str:
        """Puts what should be seen under the slide that shows it, after a click. Returns the rest of the cell."""
        first, _, rest = source.partition("\n\n")
        seen = " ".join(SEEN.sub("", first).split())
        if not self.has_result or slide_blocks.kind_of(first) != "text":
            self.say([seen])
            return rest
        slide = self.last()
        figures = any(block.kind == "figure" for block in slide.blocks)
        shown = slide_blocks.first_sentences(seen, 40 if figures else 55)
        slide.blocks.append(slide_blocks.text_block(shown, "seen", "seen", fragment=True))
        self.say([seen] if shown != seen else [])
        return rest

    def add_code(self, cell) -> None:
        """A code cell: its code unless it is hidden, and its outputs unless they are the answer to a check."""
        known, kind = settings(cell), slide_type(cell)
        is_hidden = "hide-input" in cell.metadata.get("tags", []) or known.get("code") is False
        code = [] if is_hidden else [slide_blocks.code_block(cell.source)]
        has_output = known.get("output", ".check(" not in cell.source)
        outputs = slide_blocks.outputs_of(cell) if has_output else []
        is_answer = cell.metadata.get("jupyter", {}).get("outputs_hidden", False)
        last, begins = self.last(), self.begins(cell)
        if not code and not outputs:
            return
        if is_answer and last and last.blocks and last.blocks[-1].kind == "predict":
            self.answer(cell, code, outputs)
            return
        if begins:
            self.begin(cell)
        for block in outputs:
            block.fragment = is_answer and bool(code or not begins)
        for block in code + outputs:
            block.fragment |= kind == "fragment"
        self.place(code + outputs, cell.id)
        self.say([])

    def answer(self, cell, code: list[Block], outputs: list[Block]) -> None:
        """Puts a result under the prediction that asks for it, where it appears with a click."""
        known, slide = settings(cell), self.last()
        for block in outputs:
            block.fragment = block.answers = True
        slide.layout = known.get("layout") or slide.layout
        together = replace(slide, blocks=[*slide.blocks, *code, *outputs])
        if together.height() > ROOM:
            question = slide.blocks.pop()
            with_code = replace(slide, blocks=[question, *code, *outputs])
            if with_code.height() > 1.1 * ROOM:
                self.place(code, cell.id)
                code = []
            if self.last().blocks:
                slide = self.go_on(cell.id)
                slide.heading, slide.part = known.get("heading", slide.heading), 1 if "heading" in known else slide.part
            slide.blocks.append(question)
        if known.get("heading", slide.heading) != slide.heading:
            slide.heading, slide.told = slide.heading or known["heading"], known["heading"] if slide.heading else ""
        self.place(code + outputs, cell.id)
        self.say([])

    def place(self, blocks: list[Block], name: str) -> None:
        """Appends blocks to the last slide, and to new ones wherever they do not fit any more or a heading begins."""
        for block in blocks:
            if block.kind == "heading":
                self.go_on(name)
                self.last().heading, self.last().part = block.html, 1
                continue
            for part in slide_blocks.split_lines(block) if block.height > ROOM and block.lines else [block]:
                before = self.last().blocks
                if before and replace(self.last(), blocks=[*before, part]).height() > ROOM:
                    leads = part.kind == "answer" or part.kind in INTRODUCED and before[-1].kind == "text"
                    goes_along = [before.pop()] if leads and len(before) > 1 and not before[-1].fragment else []
                    self.go_on(name).blocks += goes_along
                self.last().blocks.append(part)


def deck(notebook: nbformat.NotebookNode) -> list[list[Slide]]:
    """The slides of a notebook, section by section."""
    found = Deck()
    cells = [part for cell in notebook.cells for part in parts_of(cell)]
    shown = [cell for cell in cells if slide_type(cell) != "skip"]
    for cell, after in zip(shown, [*shown[1:], None]):
        found.add(cell, announces=after is not None and after.cell_type == "code" and not claims_of(after))
    found.say([])
    sections, used = [rejoined(slides) for slides in found.sections if slides], Counter()
    for number, slide in enumerate((slide for slides in sections for slide in slides), start=1):
        used[slide.name] += 1
        slide.name += f"~{used[slide.name]}" if used[slide.name] > 1 else ""
        slide.number = number
    return sections


def rejoined(slides: list[Slide]) -> list[Slide]:
    """Slides, of which a short rest goes back to the slide that it continues: all letters become a little smaller."""
    kept = slides[:1]
    for slide in slides[1:]:
        together = replace(kept[-1], blocks=kept[-1].blocks + slide.blocks, notes=kept[-1].notes + slide.notes)
        is_cut = kept[-1].blocks[-1:] and slide.blocks[0].lines and kept[-1].blocks[-1].lines
        if slide.part > 1 and not is_cut and together.height() <= SQUEEZED * ROOM:
            kept[-1] = together
        else:
            part = kept[-1].part + 1 if slide.part > 1 else 1
            kept.append(replace(slide, part=part))
    return kept


def slides_of(notebook: nbformat.NotebookNode) -> list[Slide]:
    """The slides of a notebook, in one list."""
    return [slide for slides in deck(notebook) for slide in slides]


# The page


def reveal() -> Path:
    """The folder of reveal.js, which the package sphinx-revealjs brings with it."""
    found = importlib.util.find_spec("sphinx_revealjs")
    if found is None:
        raise SystemExit("slides: sphinx-revealjs is not installed: pip install -r requirements.txt -c constraints.txt")
    return Path(found.origin).parent / "_static" / "revealjs"


def block_html(block: Block) -> str:
    """A block, marked as what appears with a click; an answer has a place that shows a question mark until then."""
    if not block.fragment:
        return block.html
    css, index = ("fragment custom answers", ' data-fragment-index="0"') if block.answers else ("fragment", "")
    return block.html.replace('class="', f'{index} class="{css} '.lstrip(), 1)


def section_html(slide: Slide, title: str, total: int) -> str:
    """A slide as reveal.js expects it."""
    blocks = [(block.is_picture(), block_html(block)) for block in slide.blocks]
    body = "".join(text for _, text in blocks)
    if slide.is_beside():
        left, right = ("".join(text for right, text in blocks if right is side) for side in (False, True))
        body = f"<div>{left}</div><div>{right}</div>"
    part = f" ({slide.part})" if slide.part > 1 else ""
    told = f'<h2 class="fragment told" data-fragment-index="0">{markdown_line(slide.told)}</h2>' if slide.told else ""
    place = " — ".join(filter(None, (html.escape(title), markdown_line(slide.section))))
    notes = "".join(slide_blocks.markdown(note) for note in slide.notes)
    css = "body beside" if slide.is_beside() else "body"
    return (f'<section id="{slide.name}"{" data-sparse" if slide.sparse else ""}><div class="page">'
            f'<div class="head"><h2 class="asked">{markdown_line(slide.heading + part)}</h2>{told}</div>'
            f'<div class="{css}">{body}</div><footer><span>{place}</span>'
            f'<span>{slide.name}</span><span>{slide.number} / {total}</span></footer></div>'
            f'<aside class="notes">{notes}</aside></section>')


def markdown_line(text: str) -> str:
    return re.sub(r"</?p>|\n", "", slide_blocks.markdown(text))


def page(notebook: nbformat.NotebookNode) -> str:
    """A notebook's slides as one HTML page that needs no other file."""
    folder, sections = reveal(), deck(notebook)
    title, total = re.match(r"# (.*)", notebook.cells[0].source)[1], sum(map(len, sections))
    sections = "".join(f"<section>{''.join(section_html(slide, title, total) for slide in slides)}</section>\n"
                       for slides in sections)
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


# What the command prints


def minutes_table(notebook: nbformat.NotebookNode) -> str:
    """For each slide its number, its name, the words to be said, the minutes, what is looked at, and its heading."""
    found = slides_of(notebook)
    lines = []
    for slide in found:
        seen = ", ".join(block.kind for block in slide.blocks if block.kind in SECONDS)
        heading = " > ".join(filter(None, (slide.heading, slide.told))) + (f" ({slide.part})" * (slide.part > 1))
        lines.append(f"{slide.number:3} {slide.name:28} {slide.words():4} words {slide.minutes():5.1f} min  "
                     f"{seen:28} {heading}")
    return "\n".join([*lines, f"{len(found)} slides, {sum(slide.minutes() for slide in found):.0f} minutes\n"])


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a notebook's slides as far as that is seen without a browser, one line each."""
    found = slides_of(notebook)
    lines = []
    for slide in found:
        headings = [plain(text) for text in (slide.heading, slide.told) if text]
        if not headings:
            lines.append(f"{slide.name}: no heading")
        lines += [f"{slide.name}: the heading has {len(text)} characters, more than {LONGEST_HEADING}: {text}"
                  for text in headings if len(text) > LONGEST_HEADING and not text.startswith("Exercise")]
        lines += [f"{slide.name}: the caption does not end with a full stop: ...{said[-40:]}"
                  for block in slide.blocks if block.kind == "seen"
                  for said in [re.sub(r"<[^>]+>", "", block.html).strip()] if not re.search(r"[.?!)”:]$", said)]
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", help="default: all of notebooks/NN_*.ipynb")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "slides", help="folder (default: build/slides)")
    parser.add_argument("--minutes", action="store_true", help="write nothing, print minutes and words of each slide")
    parser.add_argument("--check", action="store_true", help="write nothing, print what is missing")
    options = parser.parse_args(arguments)
    for path in chosen(options.notebooks):
        notebook = nbformat.read(path, as_version=4)
        if options.minutes:
            print(f"{path.name}\n{minutes_table(notebook)}")
        elif options.check:
            print("\n  ".join([f"{path.name}: {len(slides_of(notebook))} slides", *problems(notebook)]))
        else:
            options.build.mkdir(parents=True, exist_ok=True)
            target = options.build / path.with_suffix(".html").name
            target.write_text(page(notebook), encoding="utf-8", newline="\n")
            print(f"{len(slides_of(notebook)):3} slides: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
