"""What a text is like beyond its loss: layout, words, repetition, copied passages (notebooks 04, 07 and 09)."""

import re

import numpy as np
import torch

MARKS = ",.;:?!“”-()"


def words_of(text):
    """The words of a text in lower case. A word is a run of letters."""
    return re.findall(r"[^\W\d_]+", text.lower())


def layout(texts, known_words):
    """How texts look: {"newlines": their share of the characters, "lines": lengths of complete lines, "marks":
    {mark: per 1,000 characters}, "known": the share of their words that are in known_words, a set}."""
    joined = "".join(texts)
    words = [word for text in texts for word in words_of(text)]
    return {
        "newlines": joined.count("\n") / max(1, len(joined)),
        "lines": [len(line) for text in texts for line in text.split("\n")[1:-1]],  # not the first, not the last
        "marks": {mark: 1000 * joined.count(mark) / max(1, len(joined)) for mark in MARKS},
        "known": sum(word in known_words for word in words) / max(1, len(words)),
    }


def overlap(a, b):
    """The overlap of two distributions, given as counts: from 0 (nothing in common) to 1 (equal)."""
    a, b = (np.asarray(counts, dtype=float) / max(1e-9, sum(counts)) for counts in (a, b))
    return float(np.minimum(a, b).sum())


def line_overlap(lines, others):
    """The overlap of two lists of line lengths, in bins of five characters: 0 to 1."""
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


def entropy(probabilities):
    """How undecided a distribution is, in nats: probabilities (..., V) -> (...). 0: one token is certain; ln V: all are
    equally likely (notebook 04)."""
    return torch.special.entr(probabilities).sum(dim=-1)


def repeated_ngrams(ids, n=4):
    """The share of a sequence's n-grams that have occurred in it before: ids (T,) -> 0 to 1 (notebook 04)."""
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    ngrams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    if not ngrams:
        raise ValueError(f"{len(ids)} tokens hold no {n}-gram: expected at least {n}.")
    return 1 - len(set(ngrams)) / len(ngrams)


def distinct_words(text):
    """The share of different words among a text's words, upper and lower case alike: 0 to 1; a text without words: 0.

    It falls as a text gets longer, so compare texts of equal length only (notebook 04).
    """
    words = words_of(text)
    return len(set(words)) / max(1, len(words))
