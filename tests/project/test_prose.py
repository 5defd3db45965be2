"""What a lesson says under an output: a statement about this output, which could be wrong, and not a description that
is true of any output. It stands in the cells that begin with "What you should see", and it comes first."""

import re
from pathlib import Path

import nbformat
import pytest

from scripts.slide_blocks import SEEN, SENTENCE

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))

PARTS = "bar|caption|cell|column|curve|dot|figure|grid|legend|line|map|panel|picture|point|ring|row|table|title"
SAYS = "compares|contains|gives|has|lists|names|says|tells"

# How a first sentence begins that says nothing about the output.
FIRST = {
    "it describes the form": rf"(One|Two|Three|Four|Five|Six|Seven|A|An) ({PARTS}|share|text|tree)s?"
                             r"( (per|for|with|of|from|beside)\b|[.,:;])",
    "it describes the parts": rf"Each ({PARTS}|name|text) (is|shows|stands|belongs|per|for|with|beside)\b",
    "it names a table or figure": rf"The ((first|second|third|last|two|next|upper|lower) )?({PARTS})s? "
                                  rf"({SAYS}|shows? (each|how|the|what|where|whether|which))\b(?! that\b)",
    "it asks": r"(How|Which|Whether|Who)\b|The (names|beginning|rate|same (text|ids)) (of|in|from)\b",
    "it leaves the answer open": r".*\b(whether|which of the)\b",
    "it tells the reader to look": r"(Check|Compare|Expect|Find|Follow|Look|Note|Notice|Read|Remember|See|Watch)\b",
}

EXPECTED = ("agree|become|bend|come|decrease|differ|drop|end|fall|follow|gain|grow|have|increase|level|lie|match|reach|"
            "rise|save|see|show|shrink|stay|vary|be (about|above|below|bright|clear|close|equal|flat|level|near|small|"
            "the same|visible|(bright|clear|clos|fast|great|high|larg|long|low|near|short|slow|small)er)")
ANYWHERE = {
    "it expects instead of reporting": rf"\b(?<!that )should (not |also |always |usually )?({EXPECTED})\b"
                                       r"|(^|[.:;] )Expect\b|\b(?<!you )expect (it|them|the)\b",
    "it speaks of one run": r"\bin our (own )?(runs?|records?)\b",
    "it is true of any output": r"\bmay or may not\b|\byou (will )?see (how|that|whether|what)\b|"
                                r"\bshows? the differences? between\b|\bwhich (of the )?rules hold\b",
}
HEDGE = re.compile(r"\b(may|might|can|could) (well )?(differ|be different|look different)\b")
REASON = re.compile(r"(?i)\b(as|at|because|if|so|since|than|where|when|with|without|on)\b")


def complaints(source):
    """What is wrong with a cell of Markdown: [(what, the sentence)]. Nothing is, if it begins with other words."""
    if not SEEN.match(source):
        return []
    paragraphs = [" ".join(part.split()) for part in SEEN.sub("", source, count=1).split("\n\n")]
    sentences = [sentence for part in paragraphs for sentence in SENTENCE.split(part)]
    found = [(what, sentences[0]) for what, pattern in FIRST.items() if re.match(pattern, sentences[0])]
    for sentence in sentences:
        found += [(what, sentence) for what, pattern in ANYWHERE.items() if re.search(pattern, sentence, re.I)]
        if HEDGE.search(sentence) and not REASON.search(sentence):
            found.append(("it does not say why another run differs", sentence))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_you_should_see_is_a_statement_about_the_output(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    found = [f"{cell.id}: {what}: {sentence}" for cell in cells for what, sentence in complaints(cell.source)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("sentence", [
    "Which of the rules hold for the model in the caption.",
    "The names of the sources, and how many entries each covers.",
    "The table shows the difference between the two.",
    "The title says how much of the probability the ten most likely tokens have.",
    "The table has four texts, each with its share of repeated tokens.",
    "The last column says which rows are records.",
    "One row per distance, in per cent, each value with its standard error.",
    "Two curves with the same seed, measured just now, without and with dropout.",
    "A table for each GPU: this machine's own, if it has one.",
    "Four shares.",
    "Each bar is one process of eight; the colours are weights, gradients and Adam.",
    "Read both columns of losses.",
    "How much the loss falls.",
    "Only hardware with units for 16 bits is faster: the left panel shows whether this machine is.",
    "The rate of each step of this run.",
    "It holds. The loss should fall from batch to batch.",
    "It holds. On a quiet machine the two should be close.",
    "It holds. Expect the book's values to be above zero.",
    "It holds. In our records it does, if nothing else is running.",
    "It holds. Here you see how the heads differ.",
    "It holds. Layer 3 may or may not show it.",
    "It holds. Your own numbers may differ.",
])
def test_a_sentence_of_the_old_kind_is_found(sentence):
    assert complaints(f"**What you should see.** {sentence}")
    assert not complaints(f"**The measurement.** {sentence}")


@pytest.mark.parametrize("text", [
    "No: in GPT-2 small the order is MLP, embeddings, attention.",
    "Three of the six filters go wrong, and none of them says so.",
    "The last two rows agree exactly in all four sizes.",
    "The table says that every layer needs its Q.",
    "The two counts are the same in every bin. On another machine a few may differ, because they are rounded.",
    "Noise costs least in Q.\n\nOne row for each layer. Whoever reads a width should say why it should be read here.",
])
def test_a_statement_is_left_alone(text):
    assert complaints(f"**What you should see.** {text}") == []
