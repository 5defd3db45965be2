"""Judges what the experiments have recorded: paired differences, equivalence, and the rows of the ledger (notebook 09).

A comparison is of two arms, seed by seed. Its interval is a 99 % interval: if nothing were different, one of a hundred
such comparisons would exclude 0, and the notebook makes a few dozen. Losses are in nats per token.
"""

import json
import statistics
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import ngrams
from helpers.course.speedrun_results import quantile, standard_error
from helpers.machine import timing

LEVEL = 0.99
MARGIN = 0.05  # nats per token: arms that differ by less are called equal
POSITIONS = timing.RECORDS / "positions.json"


class Comparison(NamedTuple):
    """The mean of some differences, half the width of its 99 % interval, and the number of differences."""

    difference: float
    half: float
    number: int

    @property
    def reading(self):
        """"higher" or "lower" if the interval excludes 0, "equal" if it lies within the margin, else "inconclusive"."""
        if self.difference - self.half > 0:
            return "higher"
        if self.difference + self.half < 0:
            return "lower"
        return "equal" if abs(self.difference) + self.half < MARGIN else "inconclusive"

    @property
    def smallest(self):
        """The smallest effect that four of five such experiments would have found, in nats: so many standard errors
        above the edge of the interval that chance falls below it in one of five."""
        return self.half * (1 + quantile(0.8, self.number - 1) / quantile((1 + LEVEL) / 2, self.number - 1))

    def __str__(self):
        return f"{self.difference:+.3f} ± {self.half:.3f}"

    def row(self):
        """The comparison as a row of a table."""
        words = {"equal": f"equal within {MARGIN}",
                 "inconclusive": f"inconclusive: {self.smallest:.2f} would have been found"}
        return {"difference": f"{self.difference:+.3f}", "99 % interval": f"± {self.half:.3f}",
                "pairs": self.number, "reading": words.get(self.reading, self.reading)}


def judged(differences):
    """The Comparison of two or more differences. ValueError for fewer."""
    differences = list(differences)
    error = standard_error(differences)
    half = quantile((1 + LEVEL) / 2, len(differences) - 1) * error
    return Comparison(statistics.mean(differences), half, len(differences))


def runs_of(records):
    """All recorded runs as a DataFrame with one row for each arm and seed: the columns test, train and gap, bits per
    byte, other test losses ("other.new text"), measures of samples ("quality.known words") and, of arms that were
    measured on the way, the checkpoint that is kept ("kept.step", "kept.test", ...)."""
    rows = pd.json_normalize([{"arm": name, "seed": int(seed), "kept": kept(run.get("curve", {})), **run}
                              for name, record in records.items() for seed, run in record["runs"].items()])
    rows = rows.set_index(["arm", "seed"])
    rows["gap"] = rows["test"] - rows["train"]
    return rows


def kept(curve):
    """The measurements at the point with the lowest validation loss, {} without any. curve: {name: values}."""
    best = int(np.argmin(curve["validation"])) if curve else None
    return {name: values[best] for name, values in curve.items()}


def compare(runs, first, second, key="test"):
    """Two arms seed by seed, first minus second: a Comparison. runs: a DataFrame of runs_of."""
    return judged((runs[key][first] - runs[key][second]).dropna())


# --- claims 24 and 28: one book, many seeds --------------------------------------------------------------------------


def claim_24(runs, passes, coverage, missed, first_token, origin):
    """Random sampling may miss, repeat or weight regions of the text unevenly: arithmetic settles it.

    runs: of runs_of. passes: {(arm with epochs, arm with random windows): passes over the text}. coverage: the share
    that one pass visits; missed: what ten passes miss; first_token: how often token 0 is visited, as a share of an
    inner token's visits.
    """
    effects = {f"{number:.1f} passes": compare(runs, other, name) for (name, other), number in passes.items()}
    measured = (f"one pass misses {1 - coverage:.0%} of the tokens, ten passes {missed:.2%}; token 0 gets "
                f"{first_token:.1%} of the visits of an inner token; test loss, random minus shuffled epochs: "
                + ", ".join(f"{effect} nats ({number})" for number, effect in effects.items()))
    words = {"higher": "random windows end higher", "lower": "random windows end lower",
             "equal": f"the loss is equal within {MARGIN} nats", "inconclusive": "no clear difference of the loss"}
    condition = "; ".join(f"after {number} {words[effect.reading]}" for number, effect in effects.items())
    is_uneven = bool(coverage < 0.9 and first_token < 0.5)
    return measured, origin, is_uneven, f"counted exactly; {condition}"


def claim_28(runs, origin, first="untied", equally_wide="base", equally_large="tied_wider"):
    """Sharing the embedding with the unembedding improves generalisation: the gap and the test loss, with as wide and
    with as large a tied model."""
    cases = {"gap, test minus training loss, same width": compare(runs, first, equally_wide, "gap"),
             "test loss, same width": compare(runs, first, equally_wide),
             "gap, same number of parameters": compare(runs, first, equally_large, "gap"),
             "test loss, same number of parameters": compare(runs, first, equally_large)}
    readings = [case.reading for case in cases.values()]
    measured = "untied minus tied, in nats: " + ", ".join(f"{name} {case}" for name, case in cases.items())
    words = {"higher": "smaller with tied weights", "lower": "larger with tied weights",
             "equal": f"equal within {MARGIN} nats", "inconclusive": "inconclusive"}
    condition = "; ".join(f"{name}: {words[case.reading]}" for name, case in cases.items())
    helps, helps_not = "higher" in readings, bool({"lower", "equal"} & set(readings))
    if helps and helps_not:
        return measured, origin, "depends", condition, ""
    if "inconclusive" in readings:  # the clear ones agree with each other, and the others may not
        smallest = max(case.smallest for case in cases.values() if case.reading == "inconclusive")
        return measured, origin, "inconclusive", condition, f"{smallest:.2f} nats"
    return measured, origin, helps, condition, ""


# --- claim 26: many books, ten positions -----------------------------------------------------------------------------


def positions():
    """The record of data/recipes/measure_positions.py, or None."""
    return json.loads(POSITIONS.read_text(encoding="utf-8")) if POSITIONS.is_file() else None


def contrasts(losses):
    """Each position's loss minus the mean of the others: [ten losses] -> [ten differences]."""
    return [loss - (sum(losses) - loss) / (len(losses) - 1) for loss in losses]


def by_author(record, kind="trigram"):
    """The contrasts of each author's books, averaged over them: (authors, positions)."""
    books = defaultdict(list)
    for book in record["books"].values():
        if kind in book:
            books[book["author"]].append(contrasts(book[kind]))
    return np.array([np.mean(rows, axis=0) for rows in books.values()])


def with_models(record):
    """The books of which small GPTs have measured every position, too: {title: book}."""
    return {title: book for title, book in record["books"].items()
            if len(book.get("model", [])) == len(book["trigram"])}


def claim_26(record):
    """A test set at the end of the book biases the test loss. record: of positions(). The unit is the author."""
    if record is None:
        return "no recorded books", "", "unmeasured here", "", ""
    each = by_author(record)
    last, first = judged(each[:, -1]), judged(each[:, 0])
    single = np.std([contrasts(book["trigram"])[-1] for book in record["books"].values()], ddof=1)
    models = [contrasts(book["model"]) for book in with_models(record).values()]
    measured = (f"loss of the last tenth minus the mean of the other nine, over {len(record['books'])} books of "
                f"{len(each)} authors: {last} nats; of the first tenth: {first}; in a single book the last tenth "
                f"differs by a standard deviation of {single:.2f}")
    if models:
        measured += f"; small GPTs on {len(models)} of the books: " + ", ".join(f"{row[-1]:+.2f}" for row in models)
    on = f"a trigram model with {record['tokenizer']}, each book cut into ten; unit: the author"
    words = {"higher": "the last tenth is harder on average", "lower": "the last tenth is easier on average",
             "equal": f"on average it is as hard as the others, within {MARGIN} nats",
             "inconclusive": "no clear difference on average"}
    verdict = {"higher": True, "lower": True, "equal": False}.get(last.reading, "inconclusive")
    condition = f"{words[last.reading]}; in a single book it may lie {single:.2f} nats off"
    return measured, on, verdict, condition, f"{last.smallest:.2f} nats" if verdict == "inconclusive" else ""


# --- claim 30: passages ----------------------------------------------------------------------------------------------


def leaks(runs, numbers):
    """What a split by window hides, by the number of passages: {number: Comparison}, in nats.

    Each seed draws its passages, which both splits share. Hidden is the loss on new text minus that on the split's own
    test set, at the checkpoint with the lowest loss on the book's validation set; the same difference of the split by
    passage, whose test set shares nothing with the training set, is subtracted.
    """
    hidden = runs["kept.new text"] - runs["kept.test"]
    return {number: judged((hidden[f"window_{number}"] - hidden[f"passage_{number}"]).dropna()) for number in numbers}


def claim_30(found, shared, origin):
    """Sampling at random is harmless for text but dangerous for small data, as in biomedicine.

    found: of leaks(). shared: the share of test tokens that are also trained on when windows are drawn at random within
    the training set, after the split.
    """
    measured = ("what a random split of overlapping windows hides, in nats per token: "
                + ", ".join(f"{number} passages {leak}" for number, leak in found.items()))
    clear = [number for number, leak in found.items() if leak.reading == "higher"]
    if not clear:
        most = max(leak.smallest for leak in found.values())
        return (measured, origin, "unmeasured here", "on text no clear leak with any number of passages",
                f"{most:.2f} nats", "biomedical data")
    condition = (f"on text, too, splitting overlapping windows at random hides loss, clearly with {_listed(clear)} "
                 f"passages; sampling after the split shares {shared:.0%} of the test tokens")
    return measured, origin, False, condition, "", "biomedical data"


def _listed(numbers):
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))


# --- counting --------------------------------------------------------------------------------------------------------


def below_counting(runs, book, arm="base"):
    """An arm's test losses minus that of the Kneser-Ney trigram on the same split: a Comparison, and the trigram's."""
    losses = ngrams.kneser_ney_losses(*book.split(), book.tokenizer.vocab_size)
    trigram = losses["Kneser-Ney trigram"]
    return judged(runs["test"][arm] - trigram), trigram
