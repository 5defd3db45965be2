"""Judges what the experiments have recorded: paired differences, equivalence, and the rows of the ledger (notebook 09).

A comparison is of two arms, seed by seed. Its interval is a 99 % interval: if nothing were different, one of a hundred
such comparisons would exclude 0, and the notebook makes dozens. Losses are in nats per token.
"""

import json
import statistics
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import ngrams
from helpers.course import model5_runs
from helpers.course.arms import ARMS, BUDGETS, SCHEDULES
from helpers.course.model5_runs import between
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


def compare_groups(runs, first, second, key="test"):
    """Two arms without pairs, first minus second, where one of them has few seeds: a Comparison with the interval of
    two groups whose runs are assumed to scatter equally (Student's t). Its number is the degrees of freedom plus 1."""
    groups = [runs[key][name].dropna() for name in (first, second)]
    freedom = sum(map(len, groups)) - 2
    variance = sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom
    error = (variance * sum(1 / len(group) for group in groups)) ** 0.5
    half = quantile((1 + LEVEL) / 2, freedom) * error
    return Comparison(groups[0].mean() - groups[1].mean(), half, freedom + 1)


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


def against_middle(each):
    """The last tenth minus the mean of the eight in the middle: a Comparison. each: (authors, 10), of by_author()."""
    return judged(0.9 * (each[:, -1] - each[:, 1:-1].mean(axis=1)))  # a contrast is 10/9 of a deviation from the mean


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
                f"differs by a standard deviation of {single:.2f}; of the last tenth minus the eight in the middle, a "
                f"comparison made afterwards: {against_middle(each)}")
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
    condition = (f"on text, sampling after the split shares {shared:.0%} of the test tokens, but splitting overlapping "
                 f"windows at random hides loss, clearly with {_listed(clear)} passages")
    return measured, origin, False, condition, "", "biomedical data"


def _listed(numbers):
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))


# --- how long to train, and when a text looks right ------------------------------------------------------------------


def falls(record):
    """How the test loss of an arm's runs falls: [model5_runs.Fall], one per seed. record: of an arm with points."""
    return [model5_runs.fall({"test_step": run["curve"]["step"], "test_loss": run["curve"]["test"],
                              "training": record["training"]}) for run in record["runs"].values()]


def convergence_row(record):
    """How an arm's runs fall and end, as a row of a table. An end is flat if the last fifth of the batches changes the
    loss by less than model5_runs.FLAT, whatever the seed: if the whole interval lies within this limit."""
    own = falls(record)
    last = judged([fall.change for fall in own])
    is_flat = abs(last.difference) + last.half < model5_runs.FLAT
    moves = abs(last.difference) - last.half > model5_runs.FLAT
    words = "flat" if is_flat else "not clear" if not moves else "still falling" if last.difference < 0 else "rising"
    return {"batches": record["training"]["steps"], "test loss": statistics.mean(
        run["curve"]["test"][-1] for run in record["runs"].values()),
        "first fifth brings": statistics.mean(fall.early for fall in own), "last fifth changes it by": str(last),
        "end": words}


def convergence_words(records):
    """What the arms of three budgets and three schedules say about claim 23, in words. records: of all these arms."""
    names = [name for name in records if ARMS[name].group == "budget"]
    runs = runs_of({name: records[name] for name in names})
    early = [convergence_row(records[name])["first fifth brings"] for name in names]
    longer = [compare(runs, f"{kind}_{new:g}", f"{kind}_{old:g}")
              for kind in SCHEDULES for old, new in zip(BUDGETS, BUDGETS[1:])]
    lower = [-effect.difference for effect in longer]
    return (f"in notebook 09 ({between([records[name]['training']['steps'] for name in names], '{}')} batches, "
            f"{len(SCHEDULES)} schedules, {longer[0].number} seeds) {between(early, '{:.0%}')} of the fall in the "
            f"first fifth, and twice as many batches end {between(lower, '{:.2f}')} nats lower")


def arrivals(runs, arm, measures, share=0.9):
    """When each measure of an arm has come most of its way: the first step from which on its mean over the seeds stays
    beyond `share` of the way from its first to its last value. {measure: step}"""
    steps, found = runs.loc[arm]["curve.step"].iloc[0], {}
    for measure in measures:
        values = np.mean(runs.loc[arm][f"curve.{measure}"].tolist(), axis=0)
        way = (values - values[0]) / (values[-1] - values[0])
        found[measure] = steps[max((i + 1 for i, part in enumerate(way) if part < share), default=0)]
    return found


# --- shapes ----------------------------------------------------------------------------------------------------------


def shape_curve(runs, kind, shapes, base_at, axis):
    """The test losses of models of several shapes, {depth or MLP ratio: (mean, lowest, highest)} over the seeds that
    all of them have.

    kind: "shape" (equal parameters) or "time" (equal time). shapes: [(depth, MLP ratio)]; axis: 0 to sort them by
    depth, 1 by ratio; base_at: where the base arm stands.
    """
    names = {shape[axis]: f"{kind}_{shape[0]}_{shape[1]}" for shape in shapes} | {base_at: "base"}
    losses = runs["test"].unstack("seed").loc[list(names.values())].dropna(axis=1)  # (arms, seeds)
    return {at: (losses.loc[names[at]].mean(), losses.loc[names[at]].min(), losses.loc[names[at]].max())
            for at in sorted(names)}


# --- counting --------------------------------------------------------------------------------------------------------


def below_counting(runs, book, arm="base"):
    """An arm's test losses minus that of the Kneser-Ney trigram on the same split: a Comparison, and the trigram's."""
    losses = ngrams.kneser_ney_losses(*book.split(), book.tokenizer.vocab_size)
    trigram = losses["Kneser-Ney trigram"]
    return judged(runs["test"][arm] - trigram), trigram
