"""The ledger: what you will often read about GPT-2, what a notebook measured, and whether it holds."""

from dataclasses import asdict, dataclass
from html import escape

VERDICTS = ("holds", "does not hold", "depends", "unmeasured here", "to come")
MIME = "application/vnd.gpt2-course.claims+json"  # readable by a program from the notebook's stored output

# "You will often read that ..." The numbers are those of the README's table.
STATEMENTS = {
    3: "torchinfo reports 163M parameters for GPT-2 small; without the 38M of the tied unembedding that is 124M.",
    4: "Adding up named_parameters() gives 163M.",
    5: "lm_head.weight = nn.Parameter(wte.weight) ties the embedding and the unembedding.",
    21: "Gulliver's Travels, cleaned, is about 158,000 tokens.",
    22: "An untrained GPT-2 repeats its last token: “ions ions ions”.",
    23: "The loss falls fast and converges early, within a few hundred batches.",
    24: "Random sampling may miss, repeat or weight regions of the text unevenly.",
    26: "A test set at the end of the book biases the test loss.",
    28: "Sharing the embedding with the unembedding improves generalisation.",
    30: "Sampling at random is harmless for text but dangerous for small data, as in biomedicine.",
}


@dataclass(frozen=True)
class Claim:
    """One row of the ledger. measured and measured_on are computed where the row is added, not typed in."""

    number: int
    statement: str
    measured: str
    measured_on: str
    verdict: str
    condition: str = ""


class Ledger:
    """The claims of one notebook: add() each where it is measured, show() the table at the end."""

    def __init__(self, notebook):
        self.notebook, self.claims = notebook, []

    def add(self, number, measured, measured_on, verdict, condition=""):
        """Adds a row. verdict: one of VERDICTS, or a bool for holds / does not hold. "depends" needs its condition.

        Raises ValueError for an unknown number, a second row of the same number, or a verdict that is none.
        """
        verdict = {True: "holds", False: "does not hold"}.get(verdict, verdict)
        if number not in STATEMENTS or any(claim.number == number for claim in self.claims):
            raise ValueError(
                f"Claim {number} is {'already in this ledger' if number in STATEMENTS else 'not in STATEMENTS'}."
            )
        if verdict not in VERDICTS:
            raise ValueError(f"verdict={verdict!r}: one of {', '.join(VERDICTS)} was expected.")
        if verdict == "depends" and not condition:
            raise ValueError(f"Claim {number} depends, but on what? Give the condition.")
        self.claims.append(Claim(number, STATEMENTS[number], measured, measured_on, verdict, condition))

    def show(self):
        """Displays the table."""
        from IPython.display import display

        rows = sorted(self.claims, key=lambda claim: claim.number)
        data = {MIME: {"notebook": self.notebook, "claims": [asdict(row) for row in rows]}}
        display({**data, "text/html": _html(rows), "text/plain": _plain(rows)}, raw=True)


def _verdict(row):
    return f"{row.verdict}: {row.condition}" if row.condition else row.verdict


def _plain(rows):
    return "\n".join(
        f"{r.number}. {r.statement}\n   measured: {r.measured} (on {r.measured_on})\n   verdict: {_verdict(r)}"
        for r in rows
    )


def _html(rows):
    head = "".join(
        f"<th style='text-align:left'>{name}</th>"
        for name in ("#", "You will often read that", "Measured", "On", "Verdict")
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='text-align:left; vertical-align:top; white-space:normal'>{escape(str(cell))}</td>"
            for cell in (row.number, row.statement, row.measured, row.measured_on, _verdict(row))
        )
        + "</tr>"
        for row in rows
    )
    return f"<table style='font-size:100%'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
