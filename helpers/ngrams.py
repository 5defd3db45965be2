"""Counting instead of learning: bigram and trigram models with Kneser-Ney smoothing, the baselines that a model must
beat (notebook 07).

They predict a token from the one or two before it. A pair of tokens that was rarely seen says little about the next
one, so its counts are mixed with those of shorter contexts. Kneser-Ney's idea: for these, what counts is not how often
a token was seen but after how many different tokens. "Francisco" is frequent, but it occurs almost only after "San".

Source: R. Kneser and H. Ney, "Improved backing-off for m-gram language modeling", 1995; the interpolated form: S. F.
Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", 1999.
"""

from dataclasses import dataclass

import numpy as np

from helpers.corpus import check_vocabulary, split_validation


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


def tables(train_ids, vocab_size, order):
    """The Counts of a model that predicts from order - 1 tokens: of single tokens, pairs, ... The longest n-grams count
    how often they occur; the shorter ones, after how many different tokens they were seen."""
    ids, length = np.asarray(train_ids, dtype=np.int64), len(train_ids)
    counts = [Counts.of(as_numbers(ids, vocab_size, order, length))]
    for n in range(order - 1, 0, -1):
        counts.insert(0, Counts.of(counts[0].keys % vocab_size**n))
    return counts


def as_numbers(ids, vocab_size, order, length):
    """Each n-gram of `order` tokens in a text of this length as one number in base V: (length - order + 1,)."""
    return sum(ids[i : length - order + 1 + i] * vocab_size ** (order - 1 - i) for i in range(order))


def looked_up(counts, new_ids, vocab_size):
    """What the tables know about each token of new_ids that has enough tokens before it: for each length of n-gram, its
    count, the sum over its context and the context's number of different next tokens. The discounts come later."""
    ids, order = np.asarray(new_ids, dtype=np.int64), len(counts)
    longest = as_numbers(ids, vocab_size, order, len(ids))
    found = []
    for n, table in enumerate(counts, start=1):
        ngrams = longest % vocab_size**n
        total, kinds = (part.of_each(ngrams // vocab_size) for part in table.by_context(vocab_size))
        found.append((table.of_each(ngrams), total, kinds))
    return found


def interpolated(found, discounts, vocab_size):
    """The probability of each token: every count loses its discount, and what that frees goes to the shorter context,
    from uniform up to the longest. After a context that was never seen, it is that of the shorter one alone."""
    probability = 1 / vocab_size
    for (count, total, kinds), discount in zip(found, discounts, strict=True):
        mixed = ((count - discount).clip(min=0) + discount * kinds * probability) / total.clip(min=1)
        probability = np.where(total > 0, mixed, probability)
    return probability


def mean_loss(found, discounts, vocab_size):
    """The mean of -ln P, in nats per token."""
    return float(-np.log(interpolated(found, discounts, vocab_size)).mean())


def tuned_discounts(train_ids, vocab_size, order=3):
    """The discounts of n-grams of 1, 2, ... `order` tokens, each 0.01 to 1, that suit the last tenth of train_ids best
    when the rest is counted: by default (unigram, bigram, trigram).

    The search starts from Ney's estimates and changes one discount at a time, until no change lowers the loss.
    train_ids: (N,) ids. Raises ValueError for fewer than 40 tokens.
    """
    if len(train_ids) < 40:
        raise ValueError(f"{len(train_ids)} training tokens: tuning the discounts needs at least 40.")
    fit, validation = split_validation(train_ids)
    counts = tables(fit, vocab_size, order)
    found = looked_up(counts, validation, vocab_size)  # once: only the discounts change below
    best, before = [table.discount() for table in counts], None
    while best != before:
        before = list(best)
        for i in range(order):
            choices = [[*best[:i], float(d), *best[i + 1 :]] for d in (best[i], *np.arange(1, 100) / 100)]
            best = min(choices, key=lambda discounts: mean_loss(found, discounts, vocab_size))
    return tuple(best)


def kneser_ney_losses(train_ids, test_ids, vocab_size):
    """The losses on test_ids, in nats per token, of the bigram and the trigram model counted on all of train_ids, with
    discounts tuned on its last tenth: {"Kneser-Ney bigram": ..., "Kneser-Ney trigram": ...}.

    Both are sequences of ids, (N,). Raises ValueError for fewer than 40 training or 3 test tokens, and for ids that the
    vocabulary does not have.
    """
    if len(train_ids) < 40 or len(test_ids) < 3:
        raise ValueError(f"{len(train_ids)} training and {len(test_ids)} test tokens: expected at least 40 and 3.")
    check_vocabulary(np.concatenate([train_ids, test_ids]), vocab_size)
    losses = {}
    for name, order in (("Kneser-Ney bigram", 2), ("Kneser-Ney trigram", 3)):
        found = looked_up(tables(train_ids, vocab_size, order), test_ids, vocab_size)
        losses[name] = mean_loss(found, tuned_discounts(train_ids, vocab_size, order), vocab_size)
    return losses


def trigram_probabilities(train_ids, test_ids, vocab_size, discounts=None):
    """The probability that the trigram model of train_ids gives each token of test_ids from the third on: (N - 2,).

    Both are sequences of ids, (N,). discounts: of unigrams, bigrams and trigrams (default: Ney's estimates). Raises
    ValueError if a text has fewer than three tokens.
    """
    if min(len(train_ids), len(test_ids)) < 3:
        raise ValueError(f"{len(train_ids)} training and {len(test_ids)} test tokens: a trigram model needs at least 3 "
                         "of each.")
    counts = tables(train_ids, vocab_size, 3)
    discounts = discounts or [table.discount() for table in counts]
    return interpolated(looked_up(counts, test_ids, vocab_size), discounts, vocab_size)


def trigram_loss(train_ids, test_ids, vocab_size):
    """The loss on test_ids of the trigram model with Ney's estimates as discounts, in nats per token."""
    return float(-np.log(trigram_probabilities(train_ids, test_ids, vocab_size)).mean())
