"""The ledger: what you will often read about GPT-2, what a notebook has measured, and whether the claim holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from IPython.display import display

from helpers.course.display import render_table

VERDICTS = ("holds", "does not hold", "depends", "inconclusive", "unmeasured here", "to come")
MIME = "application/vnd.gpt2-course.claims+json"  # readable by a program from the notebook's stored output

# Rows measured on the real GPT-2: `python -m scripts.claims_table --record` writes them.
RECORD = Path(__file__).resolve().parents[2] / "data" / "measurements" / "claims.json"

# "You will often read that ..." The numbers are those of CLAIMS.md.
STATEMENTS = {
    1: "d_k in the attention formula is the size of the embedding.",
    2: "One fused QKV matrix gives the same numbers as three separate ones, and is faster.",
    3: "torchinfo reports 163M parameters for GPT-2 small; without the 38M of the tied unembedding that is 124M.",
    4: "Adding up named_parameters() gives 163M.",
    5: "lm_head.weight = nn.Parameter(wte.weight) ties the embedding and the unembedding.",
    6: "A forward pass takes 20 s on a CPU and 0.03 s on a GPU: 4 orders of magnitude.",
    7: "A CPU and a GPU take about as long to construct the model.",
    8: "Backpropagation is practically impossible on a CPU.",
    9: "GPT-2's four sizes have 124M, 355M, 774M and 1.5B parameters.",
    10: "Attention holds 22, 28, 30 and 31 % of the four sizes' parameters, the MLPs 45, 56, 60 and 63 %.",
    11: "The MLPs have about twice as many parameters as attention.",
    12: "LayerNorm is less than 0.01 % of the model.",
    13: "LayerNorm has tens of thousands to about 100,000 parameters.",
    14: "The embeddings have the same size in all versions of GPT-2.",
    15: "LayerNorm has as many weights as biases; the whole model does not.",
    16: "Filtering names by “attn” or “attention”, “mlp” or “fc”, and “ln” sorts the parameters correctly.",
    17: "Token embeddings are widely spread, position embeddings are concentrated near zero.",
    18: "Later layers have wider weight distributions.",
    19: "Q and K are distributed alike, and V is more concentrated.",
    20: "Temperature 0.1 repeats itself, 1 is balanced, 10 is incoherent.",
    21: "Gulliver's Travels, cleaned, is about 158,000 tokens.",
    22: "An untrained GPT-2 repeats its last token: “ions ions ions”.",
    23: "The loss falls fast and converges early, within a few hundred batches.",
    24: "Random sampling may miss, repeat or weight regions of the text unevenly.",
    25: "A forward pass of training size takes 45 s on a CPU and 1 s on a GPU.",
    26: "A test set at the end of the book biases the test loss.",
    27: "Generated text stays coherent locally and loses coherence over long stretches.",
    28: "Sharing the embedding with the unembedding improves generalisation.",
    29: "When blocks are added, attention and MLP grow linearly and the embeddings stay the same.",
    30: "Sampling at random is harmless for text but dangerous for small data, as in biomedicine.",
    31: "Two processes train twice as fast as one.",
    32: "Processes that share each batch train the same model as one process.",
    33: "With twice as many processes, each has twice as much to send.",
    34: "Gradient accumulation trains as the large batch does, in less memory.",
    35: "Training with Adam needs 16 bytes per parameter, not counting activations.",
    36: "A model that starts from pretrained weights is better after the same training than one from scratch.",
}


# The sections in which the five articles say it (docs/articles.md); the statements after 30 are the course's own.
SOURCES = {
    1: ("S0 2.1",),
    2: ("S0 2.3", "S1 3.2"),
    3: ("S1 7.2",),
    4: ("S3 5.1",),
    5: ("S1 5.1",),
    6: ("S0 4.2",),
    7: ("S0 4.1",),
    8: ("S0 4.3",),
    9: ("S0 5.1",),
    10: ("S2 4.3",),
    11: ("S2 4.3",),
    12: ("S2 6.2",),
    13: ("S2 6.2",),
    14: ("S2 5.1",),
    15: ("S2 6.3",),
    16: ("S2 3.1",),
    17: ("S0 5.2",),
    18: ("S0 5.3",),
    19: ("S0 5.4",),
    20: ("S0 6", "S3 6.2"),
    21: ("S4 3.1",),
    22: ("S4 5.2",),
    23: ("S4 5.1",),
    24: ("S4 6.2",),
    25: ("S4 4.1",),
    26: ("S4 3.2",),
    27: ("S3 6.3",),
    28: ("S1 5.1",),
    29: ("S2 5.2",),
    30: ("S4 6.3",),
}
OWN = "this course"  # the source of a statement that none of the articles makes
ARTICLES = "S0 to S4 are the articles that docs/articles.md lists, with the number of the section"


def source_of(number):
    """The article sections of a claim in one line, for example "S0 2.3, S1 3.2"; OWN if no article states it."""
    return ", ".join(SOURCES.get(number, (OWN,)))


@dataclass(frozen=True)
class Claim:
    """One row of the ledger. measured and measured_on are computed where the row is added, never typed in.

    smallest: the smallest effect that would have been seen. unmeasured: the part of the statement that no measurement
    covers. source: the article sections that make the statement. Rows stored by older versions lack these three.
    """

    number: int
    statement: str
    measured: str
    measured_on: str
    verdict: str
    condition: str = ""
    smallest: str = ""
    unmeasured: str = ""
    source: str = ""


def conditions_of(row):
    """What a verdict is shown with, in one text. row: a ledger row as a dict, which may be from an older version."""
    smallest = row.get("smallest", "")
    effect = f"an effect of {smallest}" if smallest[:1].isdigit() else smallest
    parts = [row.get("unmeasured", ""), row.get("condition", ""), effect and f"{effect} would have been seen"]
    if parts[0] and row["verdict"] != "unmeasured here":
        parts = [*parts[1:], f"unmeasured here: {parts[0]}"]
    return "; ".join(part for part in parts if part)


def recorded(number):
    """The recorded row of a claim that needs GPT-2's real weights, with its date; None if nothing is recorded."""
    rows = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return rows.get(str(number))


def _check(number, verdict, condition, smallest, unmeasured):
    """Raises ValueError if a row claims more than it says how to support."""
    if number not in STATEMENTS:
        raise ValueError(f"Claim {number} is not in STATEMENTS.")
    if verdict not in VERDICTS:
        raise ValueError(f"verdict={verdict!r}: expected one of {', '.join(VERDICTS)}.")
    if verdict == "depends" and not condition:
        raise ValueError(f"Claim {number}: depends, but on what? Give the condition; both its sides must be measured.")
    if verdict == "inconclusive" and not smallest:
        raise ValueError(f"Claim {number}: inconclusive, but what would have been seen? Give smallest=, the smallest "
                         "effect that would have been clear, with its unit, for example '0.05 nats'.")
    if smallest and not any(character.isdigit() for character in smallest):
        raise ValueError(f"Claim {number}: smallest={smallest!r} has no number. Write, for example, '0.05 nats'.")
    if unmeasured and verdict not in ("unmeasured here", "does not hold"):
        raise ValueError(f"Claim {number}: {verdict}, although {unmeasured} was not measured. A measured part settles "
                         "the whole only when it refutes it: the verdict may be 'unmeasured here' or 'does not hold'.")


class Ledger:
    """The claims of one notebook: add() each one where it is measured, show() the table at the end."""

    def __init__(self, notebook):
        self.notebook, self.claims = notebook, []

    def add(self, number, measured, measured_on, verdict, condition="", smallest="", unmeasured=""):
        """Adds a row. verdict: one of VERDICTS, or a bool for holds / does not hold.

        condition: what the verdict depends on; "depends" needs it, and both its sides must have been measured.
        smallest: the smallest effect that would have been seen, with its unit ("0.05 nats"), or what would have been
        seen ("a rule kept by 5 of 5 samples"); "inconclusive" needs it.
        unmeasured: the part of the statement that was not measured ("the half about token embeddings"). The verdict is
        then "unmeasured here", or "does not hold" where the measured part alone refutes the statement.

        A second row with the same number replaces the first, so a cell can be run again. Beside a row that is
        "unmeasured here" the recorded measurement and its origin are shown, if there is one.
        Raises ValueError for an unknown number or verdict, and for a verdict without what it needs.
        """
        verdict = {True: "holds", False: "does not hold"}.get(verdict, verdict)
        _check(number, verdict, condition, smallest, unmeasured)
        if verdict == "unmeasured here" and (row := recorded(number)):
            origin = f"recorded on {row['measured_on']}, {row['date']}"
            measured = f"{measured}. Recorded: {row['measured']}"
            condition = f"{origin}: {row['verdict']} {conditions_of(row)}".strip()
        self.claims = [claim for claim in self.claims if claim.number != number]
        self.claims.append(Claim(number, STATEMENTS[number], measured, measured_on, verdict, condition, smallest,
                                 unmeasured, source_of(number)))

    def show(self):
        """Displays the table."""
        rows = [asdict(claim) for claim in sorted(self.claims, key=lambda claim: claim.number)]
        data = {MIME: {"notebook": self.notebook, "claims": rows}}
        display({**_table(rows), "text/plain": _plain(rows), **data}, raw=True)


def _verdict(row):
    return f"{row['verdict']}: {conditions}" if (conditions := conditions_of(row)) else row["verdict"]


def _table(rows):
    """The rows as a table. The column of the article sections stands there only if an article makes a statement."""
    columns = [{"#": str(row["number"]), "You will often read that": row["statement"], "Measured": row["measured"],
                "On": row["measured_on"], "Verdict": _verdict(row), "Article": row["source"]} for row in rows]
    if all(row["source"] == OWN for row in rows):
        return render_table([{key: text for key, text in each.items() if key != "Article"} for each in columns])
    return render_table(columns, caption=ARTICLES)


def _plain(rows):
    return "\n".join(
        f"{r['number']}. {r['statement']} ({r['source']})\n   measured: {r['measured']} (on {r['measured_on']})\n"
        f"   verdict: {_verdict(r)}"
        for r in rows
    )
