"""Does a generated text hold together as a book does, nearby and far apart? Measures, rules and record (notebook 04).

Each generated continuation is compared with the true continuation of the same passage. A measure is taken at several
distances; a text without any coherence has the value 0. What counts is the share of the book's value that the
generated text keeps at each distance. The unit of all intervals is the book from which the passages come.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from helpers.course.speedrun_results import quantile
from helpers.machine import timing

DISTANCES = ((1, 2), (2, 4), (4, 16), (16, 64), (64, 128))  # in words, the end not included
KEPT = 0.9  # a text is coherent at a distance if it keeps more than this share of the book's value, and not if less
MATTERS = 0.75  # coherence far apart is not lost where the interval excludes this share; in between, it is not clear
FITTING = 3000  # words whose fit is known: the most frequent ones of the training books
FREQUENT = 100  # words that say nothing about a subject: recurrence counts the others
PSEUDO = 5  # added to the observed and to the expected count of each pair of words
OTHERS = 8  # texts of other books that say what chance gives
REAL = "the book"
# The shortest distance at which each measure is read: in a true text, rare words hardly return within three words.
NEAR = {"fit": 0, "recurrence": 2}
MEANING = {"fit": "words fit together", "recurrence": "rare words come back"}


def label(distance):
    """A distance in words as text: (64, 128) -> "64–127"."""
    near, far = distance
    return str(near) if far == near + 1 else f"{near}–{far - 1}"


def fit_tables(books, ranks, shifts=4):
    """How well words fit together at each distance: the logarithm of observed over expected count of each pair.

    books: lists of words, from which the pairs are counted, at up to so many shifts of each distance. ranks: {word: its
    number}. Returns (distances, V, V) float32; rare pairs are close to 0, because PSEUDO is added to both counts.
    """
    V, gap = len(ranks), np.full(DISTANCES[-1][1], -1)  # the gap keeps pairs within one book
    ids = np.concatenate([part for words in books for part in (numbers(words, ranks), gap)])
    tables = []
    for near, far in DISTANCES:
        counts = np.zeros(V * V)
        for shift in sorted({near + (far - near) * i // shifts for i in range(shifts)}):
            first, second = ids[:-shift], ids[shift:]
            known = (first >= 0) & (second >= 0)
            counts += np.bincount(first[known] * V + second[known], minlength=V * V)
        counts = counts.reshape(V, V)
        expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / max(1, counts.sum())
        tables.append(np.log((counts + PSEUDO) / (expected + PSEUDO)).astype(np.float32))
    return np.stack(tables)


def numbers(words, ranks):
    """Words as numbers, (N,) int64; -1 for a word without one."""
    return np.array([ranks.get(word, -1) for word in words], dtype=np.int64)


def fit(texts, groups, tables, ranks, seed=0):
    """How well the words of each text fit together, in nats: (texts, distances).

    texts: lists of words; groups: the book of each. The mean over all pairs of words at a distance, minus the mean over
    pairs whose second word is from a text of another book: 0 means that they fit as words of different books do.
    """
    generator, ids = np.random.default_rng(seed), [numbers(words, ranks) for words in texts]
    rows = []
    for own, group in zip(ids, groups):
        others = generator.permutation([i for i, other in enumerate(groups) if other != group])[:OTHERS]
        row = []
        for table, (near, far) in zip(tables, DISTANCES):
            together = [_looked_up(table, own[:-shift], own[shift:]) for shift in range(near, min(far, len(own)))]
            chance = [_looked_up(table, own, ids[i]) for i in others]
            row.append(_mean(together) - _mean(chance))
        rows.append(row)
    return np.array(rows)


def _looked_up(table, first, second):
    """The entries of a table for pairs of word numbers, without those of unknown words."""
    length = min(len(first), len(second))
    known = (first[:length] >= 0) & (second[:length] >= 0)
    return table[first[:length][known], second[:length][known]]


def _mean(parts):
    """The mean over several arrays; 0 for none."""
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(values.mean()) if len(values) else 0.0


def recurrence(texts, groups, frequent, distances=DISTANCES):
    """How often rare words come back, in per cent: (texts, distances).

    The share of equal pairs among all pairs of rare words at a distance, minus that share among pairs whose second
    word is from a text of another group. frequent: the words that are not rare. groups: the book of each text.
    """
    rows = [[None if word in frequent else word for word in words] for words in texts]
    own = [Counter(word for word in row if word) for row in rows]
    everything, of_group = Counter(), {group: Counter() for group in groups}
    for counts, group in zip(own, groups):
        everything.update(counts)
        of_group[group].update(counts)
    results = []
    for row, counts, group in zip(rows, own, groups):
        others = everything.total() - of_group[group].total()
        chance = sum(n * (everything[word] - of_group[group][word]) for word, n in counts.items())
        chance /= max(1, counts.total() * others)
        equal = [[a == b for shift in range(near, far) for a, b in zip(row, row[shift:]) if a and b]
                 for near, far in distances]
        results.append([100 * (sum(pairs) / max(1, len(pairs)) - chance) for pairs in equal])
    return np.array(results)


def in_pieces(texts, length=16, seed=0):
    """Texts that are locally real and otherwise without coherence: pieces of so many words, each of another text."""
    generator = np.random.default_rng(seed)
    shortest = min(map(len, texts))
    results = []
    for words in texts:
        sources = generator.permutation(len(texts))
        starts = range(0, len(words), length)
        pieces = [texts[sources[i % len(texts)]][start % max(1, shortest - length):][:length]
                  for i, start in enumerate(starts)]
        results.append([word for piece in pieces for word in piece][: len(words)])
    return results


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; seen: the smallest difference that 4 of 5 such experiments would find."""

    value: float
    low: float
    high: float
    seen: float

    def __str__(self):
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def jackknifed(statistic, *values):
    """A statistic of several measurements with its interval, whose unit is the book: each is left out in turn.

    values: arrays (books, ...), of which the statistic gets the means over the books. Returns an Interval.
    """
    books = len(values[0])
    without = [statistic(*(np.delete(each, i, axis=0).mean(0) for each in values)) for i in range(books)]
    error = math.sqrt((books - 1) / books * sum((value - np.mean(without)) ** 2 for value in without))
    value, reach = float(statistic(*(each.mean(0) for each in values))), quantile(0.975, books - 1) * error
    return Interval(value, value - reach, value + reach, reach + quantile(0.8, books - 1) * error)


def kept(record, measure, source, distance):
    """The share of the book's value that a source keeps at a distance (an index): an Interval over the books."""
    own, real = (_means(record, measure, name)[:, distance] for name in (source, REAL))
    return jackknifed(lambda a, b: a / b, own, real)


def _means(record, measure, source):
    """The means of the books: (books, distances)."""
    return np.array(record["measures"][measure][source])


def by_author(record, measure, source, distance):
    """The kept share of the passages of each author: {author: share}, without intervals."""
    own, real = (_means(record, measure, name)[:, distance] for name in (source, REAL))
    authors = [book["author"] for book in record["books"]]
    chosen = {author: [i for i, name in enumerate(authors) if name == author] for author in dict.fromkeys(authors)}
    return {author: float(own[rows].mean() / real[rows].mean()) for author, rows in chosen.items()}


def judged(record, source):
    """The three rules for one source: rows {"rule", "estimate": an Interval, "holds": True, False or None: not clear}.

    The rules and all settings above were fixed on books of an author who is not in the record.
    """
    near, far = kept(record, "fit", source, NEAR["fit"]), label(DISTANCES[-1])
    rows = [{"rule": f"local: neighbouring words fit (above {KEPT})", "estimate": near,
             "holds": True if near.low > KEPT else False if near.high < KEPT else None}]
    for measure, meaning in MEANING.items():
        share = kept(record, measure, source, -1)
        rows.append({"rule": f"lost: {meaning}, {far} words apart (below {KEPT})", "estimate": share,
                     "holds": True if share.high < KEPT else False if share.low > MATTERS else None})
    return rows


def verdict(rows):
    """The verdict on a model from judged(): (verdict, condition, smallest)."""
    local, *lost = (row["holds"] for row in rows)
    if local is False or lost == [False, False]:
        return "does not hold", "", ""
    if local and None not in lost:
        if all(lost):
            return "holds", f"up to {DISTANCES[-1][1] - 1} words apart", ""
        both = dict(zip(lost, MEANING.values()))
        return "depends", f"on the kind of coherence: the text loses that {both[True]}, not that {both[False]}", ""
    unclear = max(row["estimate"].seen for row in rows if row["holds"] is None)
    return "inconclusive", "", f"a kept share {unclear:.2f} below {KEPT}"


def recorded(is_openai=False, folder=None):
    """The record of data/recipes/measure_coherence.py for the course's GPT-2, or for OpenAI's; None without one."""
    path = path_of(is_openai, folder)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def path_of(is_openai=False, folder=None):
    """Where the record of a model is stored."""
    return (folder or timing.RECORDS) / ("coherence-gpt2.json" if is_openai else "coherence.json")


def claim_27(record, source="temperature 1"):
    """The row of claim 27 from a record: (measured, measured on, verdict, condition, smallest).

    Only a record of OpenAI's GPT-2 settles it. None is "unmeasured here", too.
    """
    if record is None:
        return "no recorded experiment", "", "unmeasured here", "", ""
    rows = judged(record, source)
    local, fits, returns = (row["estimate"] for row in rows)
    near, far = label(DISTANCES[NEAR["recurrence"]]), label(DISTANCES[-1])
    decided, condition, smallest = verdict(rows)
    close = label(DISTANCES[1])
    measured = (f"share of the book's value that the text keeps (95 % intervals): fit of neighbouring words {local}, "
                f"of words {close} apart {kept(record, 'fit', source, 1)}, of words {far} apart {fits}; rare words "
                f"that come back {near} words apart {kept(record, 'recurrence', source, NEAR['recurrence'])}, {far} "
                f"words apart {returns}")
    on = (f"{record['model']}, {record['texts']} continuations of {record['tokens']} tokens at {source}, with the true "
          f"ones, of {len(record['books'])} books by {len({book['author'] for book in record['books']})} authors")
    if not record["is_openai"]:
        found = f"{record['model']} shows ({': '.join(part for part in (decided, condition, smallest) if part)}): "
        return found + measured, on, "unmeasured here", "", ""
    return measured, on, decided, condition, smallest
