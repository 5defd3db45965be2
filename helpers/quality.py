"""What a text is like beyond its loss: its lines and signs, its words, and what is copied (notebooks 07 and 09)."""

import re

import numpy as np

MARKS = ",.;:?!“”-()"


def words_of(text):
    """The words of a text in lower case. A word is a run of letters."""
    return re.findall(r"[^\W\d_]+", text.lower())


def layout(texts, known_words):
    """How texts look: {"newlines": their share of the characters, "lines": lengths of whole lines, "marks": {sign: per
    1,000 characters}, "known": the share of their words that are in known_words, a set}."""
    joined = "".join(texts)
    words = [word for text in texts for word in words_of(text)]
    return {
        "newlines": joined.count("\n") / max(1, len(joined)),
        "lines": [len(line) for text in texts for line in text.split("\n")[1:-1]],  # not the first, not the last
        "marks": {mark: 1000 * joined.count(mark) / max(1, len(joined)) for mark in MARKS},
        "known": sum(word in known_words for word in words) / max(1, len(words)),
    }


def overlap(a, b):
    """What two distributions, given as counts, have in common: from 0, nothing, to 1, everything."""
    a, b = (np.asarray(counts, dtype=float) / max(1e-9, sum(counts)) for counts in (a, b))
    return float(np.minimum(a, b).sum())


def line_overlap(lines, others):
    """What two lists of line lengths have in common, in steps of five characters: 0 to 1."""
    bins = [*range(0, 101, 5), 10_000]
    return overlap(*(np.histogram(lengths, bins)[0] for lengths in (lines, others)))


def letters(ids):
    """Token ids as a string with one character per token, so that Python's fast text search finds sequences."""
    return "".join(map(chr, ids.tolist()))


def longest_copy(ids, training_letters):
    """The longest run of ids, (T,), that is also in the training tokens, given as letters(): (length, where it begins
    in ids)."""
    row, best, where = letters(ids), 0, 0
    for start in range(len(row)):
        while start + best < len(row) and row[start : start + best + 1] in training_letters:
            best, where = best + 1, start
    return best, where
