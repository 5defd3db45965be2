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
    35: "Training with Adam needs 16 bytes per parameter, before the first activation.",
    36: "A model that starts from pretrained weights is better after the same training than one from scratch.",
}


@dataclass(frozen=True)
class Claim:
    """One row of the ledger. measured and measured_on are computed where the row is added, never typed in."""

    number: int
    statement: str
    measured: str
    measured_on: str
    verdict: str
    condition: str = ""


def recorded(number):
    """The recorded row of a claim that needs GPT-2's real weights, with its date; None if nothing is recorded."""
    rows = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return rows.get(str(number))


class Ledger:
    """The claims of one notebook: add() each one where it is measured, show() the table at the end."""

    def __init__(self, notebook):
        self.notebook, self.claims = notebook, []

    def add(self, number, measured, measured_on, verdict, condition=""):
        """Adds a row. verdict: one of VERDICTS, or a bool for holds / does not hold. "depends" needs its condition.

        A second row with the same number replaces the first, so a cell can be run again. Beside a row that is
        "unmeasured here" the recorded measurement and its origin are shown, if there is one.
        Raises ValueError for an unknown number or verdict.
        """
        verdict = {True: "holds", False: "does not hold"}.get(verdict, verdict)
        if number not in STATEMENTS:
            raise ValueError(f"Claim {number} is not in STATEMENTS.")
        if verdict not in VERDICTS:
            raise ValueError(f"verdict={verdict!r}: expected one of {', '.join(VERDICTS)}.")
        if verdict in ("depends", "inconclusive") and not condition:
            raise ValueError(f"Claim {number}: {verdict}, but on what, or why? Give the condition.")
        if verdict == "unmeasured here" and (row := recorded(number)):
            measured = f"{measured}. Recorded: {row['measured']}"
            condition = f"recorded on {row['measured_on']}, {row['date']}: {row['verdict']} {row['condition']}".strip()
        self.claims = [claim for claim in self.claims if claim.number != number]
        self.claims.append(Claim(number, STATEMENTS[number], measured, measured_on, verdict, condition))

    def show(self):
        """Displays the table."""
        rows = sorted(self.claims, key=lambda claim: claim.number)
        data = {MIME: {"notebook": self.notebook, "claims": [asdict(row) for row in rows]}}
        display({**render_table([_columns(row) for row in rows]), "text/plain": _plain(rows), **data}, raw=True)


def _verdict(row):
    return f"{row.verdict}: {row.condition}" if row.condition else row.verdict


def _columns(row):
    return {"#": str(row.number), "You will often read that": row.statement, "Measured": row.measured,
            "On": row.measured_on, "Verdict": _verdict(row)}


def _plain(rows):
    return "\n".join(
        f"{r.number}. {r.statement}\n   measured: {r.measured} (on {r.measured_on})\n   verdict: {_verdict(r)}"
        for r in rows
    )
