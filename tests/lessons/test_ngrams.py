"""helpers/ngrams.py: the trigram model of Kneser and Ney, against a plain computation and on known sequences."""

from collections import Counter

import numpy as np
import pytest
import torch

from helpers import corpus, ngrams


def plainly(train, u, v, w, vocab_size, discounts=(None,) * 3):
    """P(w | u v) straight from the definition: dictionaries instead of sorted arrays."""
    trigrams = Counter(zip(train, train[1:], train[2:]))
    bigrams = Counter(trigram[1:] for trigram in trigrams)
    unigrams = Counter(bigram[1:] for bigram in bigrams)
    probability = 1 / vocab_size
    for counts, context, given in zip((unigrams, bigrams, trigrams), ((), (v,), (u, v)), discounts):
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        discount = discount if given is None else given
        after = {ngram[-1]: count for ngram, count in counts.items() if ngram[:-1] == context}
        if after:
            total = sum(after.values())
            probability = (max(after.get(w, 0) - discount, 0) + discount * len(after) * probability) / total
    return probability


def test_every_probability_is_that_of_the_definition_and_they_sum_to_one():
    V = 7
    train = torch.randint(V - 1, (200,), generator=torch.Generator().manual_seed(0)) ** 2 % V  # some ids never occur
    for u, v in ((0, 1), (1, 4), (6, 6), (4, 2)):  # the last two contexts are rare or never seen
        texts = torch.tensor([[u, v, w] for w in range(V)])
        found = np.array([ngrams.trigram_probabilities(train, text, V)[0] for text in texts])
        assert found == pytest.approx([plainly(train.tolist(), u, v, w, V) for w in range(V)])
        assert found.sum() == pytest.approx(1) and found.min() > 0


def test_it_learns_what_two_tokens_determine_and_a_bigram_model_cannot():
    pattern = [0, 0, 1, 1] * 500  # after 0 comes 0 or 1: only the token before it decides
    train, test = torch.tensor(pattern), torch.tensor(pattern[:400])
    assert ngrams.trigram_loss(train, test, 2) < 0.05
    assert corpus.ngram_losses(train, test, 2)["bigram"] > 0.6


def test_on_the_book_it_beats_the_bigram(real_files):
    book = corpus.load_gulliver("course")
    (train, test), V = book.split(), book.tokenizer.vocab_size
    assert ngrams.trigram_loss(train, test, V) < corpus.ngram_losses(train, test, V)["bigram"] - 0.1


def test_the_counts_are_those_of_the_text():
    counts = ngrams.Counts.of(np.array([5, 3, 5, 9, 5]))
    assert counts.of_each(np.array([5, 9, 4, 100])).tolist() == [3, 1, 0, 0]
    sums, kinds = counts.by_context(3)  # contexts 1 (of 3 and 5) and 3 (of 9)
    assert dict(zip(sums.keys, sums.counts)) == {1: 4, 3: 1} and dict(zip(kinds.keys, kinds.counts)) == {1: 2, 3: 1}


@pytest.mark.parametrize("train, test", [(2, 10), (10, 2)])
def test_too_short_texts_are_named(train, test):
    with pytest.raises(ValueError, match=f"{train} training and {test} test tokens"):
        ngrams.trigram_loss(torch.zeros(train, dtype=torch.int64), torch.zeros(test, dtype=torch.int64), 5)


def test_a_text_of_five_tokens_by_hand():
    """The text 0 1 0 1 2, V = 3, all discounts 1/2; how likely is 2 after 0 1?

    Trigrams: 010, 101, 012, each once. Pairs by the different tokens before them: 10 after 0, 01 after 1, 12 after 0.
    Tokens by the different tokens before them: 0, 1 and 2 after one each, of three in all.
    Unigram: (1 - 1/2) / 3 + (1/2 * 3 / 3) * 1/3 = 1/6 + 1/6 = 1/3.
    After 1 come 0 and 2, once each: (1 - 1/2) / 2 + (1/2 * 2 / 2) * 1/3 = 1/4 + 1/6 = 5/12.
    After 0 1 come 0 and 2, once each: (1 - 1/2) / 2 + (1/2 * 2 / 2) * 5/12 = 1/4 + 5/24 = 11/24.
    """
    found = ngrams.trigram_probabilities([0, 1, 0, 1, 2], [0, 1, 2], 3, (0.5, 0.5, 0.5))
    assert found == pytest.approx([11 / 24])


def test_tuned_discounts_are_those_of_the_training_set_and_no_worse_than_neys():
    train = torch.randint(6, (600,), generator=torch.Generator().manual_seed(1)) ** 2 % 9
    tuned, (fit, validation) = ngrams.tuned_discounts(train, 9), corpus.split_validation(train)
    mean = -np.log(ngrams.trigram_probabilities(fit, validation, 9, tuned)).mean()
    assert mean <= ngrams.trigram_loss(fit, validation, 9) + 1e-12 and len(tuned) == 3
    test = train.flip(0)[:50].tolist()
    loss = -np.mean(np.log([plainly(train.tolist(), *test[i : i + 3], 9, tuned) for i in range(48)]))
    assert ngrams.kneser_ney_losses(train, test, 9)["Kneser-Ney trigram"] == pytest.approx(loss)
    with pytest.raises(ValueError, match="at least 40"):
        ngrams.kneser_ney_losses(train[:39], test, 9)


@pytest.mark.parametrize("discounts", [(0.01, 0.3, 0.9), (1.0, 1.0, 1.0)])
def test_with_any_discounts_the_probabilities_sum_to_one(discounts):
    train = torch.randint(5, (150,), generator=torch.Generator().manual_seed(2))
    for u, v in ((0, 1), (4, 4), (6, 1), (6, 6)):  # 6 never occurs
        texts = [[u, v, w] for w in range(7)]
        assert sum(ngrams.trigram_probabilities(train, text, 7, discounts)[0] for text in texts) == pytest.approx(1)


def test_the_bigram_model_counts_pairs_and_not_their_contexts():
    """The text 0 1 0 1 0 2 with V = 3 and discounts 1/2: after 0 come 1 twice and 2 once.

    Tokens by the different tokens before them: 0 after 1; 1 after 0; 2 after 0: one each of three, so P(1) = 1/3.
    P(1 | 0) = (2 - 1/2) / 3 + (1/2 * 2 / 3) * 1/3 = 1/2 + 1/9 = 11/18.
    """
    counts = ngrams.tables(torch.tensor([0, 1, 0, 1, 0, 2]), 3, 2)
    found = ngrams.looked_up(counts, [0, 1], 3)
    assert ngrams.interpolated(found, (0.5, 0.5), 3) == pytest.approx([11 / 18])


def test_on_the_book_kneser_ney_beats_plain_interpolation(real_files):
    book = corpus.load_gulliver("course")
    (train, test), V = book.split(), book.tokenizer.vocab_size
    losses, plain = ngrams.kneser_ney_losses(train, test, V), corpus.ngram_losses(train, test, V)
    assert losses["Kneser-Ney trigram"] < losses["Kneser-Ney bigram"] - 0.1 < plain["bigram"] - 0.1
    assert losses["Kneser-Ney trigram"] <= ngrams.trigram_loss(train, test, V)
