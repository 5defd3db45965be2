"""Counting instead of learning: the trigram model with Kneser-Ney smoothing, the baseline that a model must beat
(notebook 07).

It predicts a token from the two before it. A pair of tokens that was rarely seen says little about the next one, so
its counts are mixed with those of shorter contexts. Kneser-Ney's idea: for these, what counts is not how often a token
was seen but after how many different tokens. "Francisco" may be frequent, but it occurs almost only after "San".

Source: R. Kneser and H. Ney, "Improved backing-off for m-gram language modeling", 1995; the interpolated form: S. F.
Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", 1999.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Counts:
    """How often each n-gram occurs: `keys`, sorted, each an n-gram as one number in base V, and their `counts`."""

    keys: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, ngrams):
        """Counts these n-grams, an array of numbers in base V."""
        return cls(*np.unique(ngrams, return_counts=True))

    def of_each(self, ngrams):
        """The count of each of these n-grams; 0 if it was never seen."""
        place = np.searchsorted(self.keys, ngrams).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == ngrams, self.counts[place], 0)

    def discount(self):
        """What to subtract from each count, by Ney's estimate from the n-grams seen once and twice: 0 to 1."""
        once, twice = (int((self.counts == n).sum()) for n in (1, 2))
        return once / (once + 2 * twice) if once else 0.5

    def by_context(self, vocab_size):
        """For each context, the n-gram without its last token: the sum of its counts, and its number of different next
        tokens."""
        contexts, first, kinds = np.unique(self.keys // vocab_size, return_index=True, return_counts=True)
        return Counts(contexts, np.add.reduceat(self.counts, first)), Counts(contexts, kinds)


def interpolated(counts, ngrams, vocab_size, shorter):
    """The probability of each n-gram's last token after the others, mixed with `shorter`, the probability that the
    shorter context gives it. After a context that was never seen, it is `shorter` alone."""
    discount = counts.discount()
    total, kinds = (part.of_each(ngrams // vocab_size) for part in counts.by_context(vocab_size))
    seen = (counts.of_each(ngrams) - discount).clip(min=0)
    return np.where(total > 0, (seen + discount * kinds * shorter) / total.clip(min=1), shorter)


def trigram_probabilities(train_ids, test_ids, vocab_size):
    """The probability that the trigram model of train_ids gives each token of test_ids from the third on: (N - 2,).

    Both are sequences of ids, (N,). Raises ValueError if one has fewer than three tokens.
    """
    V, train, test = vocab_size, np.asarray(train_ids, dtype=np.int64), np.asarray(test_ids, dtype=np.int64)
    if min(len(train), len(test)) < 3:
        raise ValueError(f"{len(train)} training and {len(test)} test tokens: a trigram model needs at least 3 "
                         "of each.")
    trigrams = Counts.of((train[:-2] * V + train[1:-1]) * V + train[2:])
    bigrams = Counts.of(trigrams.keys % V**2)  # after how many different tokens each pair was seen
    unigrams = Counts.of(bigrams.keys % V)
    last, pair = test[2:], test[1:-1] * V + test[2:]
    probabilities = interpolated(unigrams, last, V, 1 / V)
    probabilities = interpolated(bigrams, pair, V, probabilities)
    return interpolated(trigrams, test[:-2] * V**2 + pair, V, probabilities)


def trigram_loss(train_ids, test_ids, vocab_size):
    """The trigram model's loss on test_ids, in nats per token."""
    return float(-np.log(trigram_probabilities(train_ids, test_ids, vocab_size)).mean())
