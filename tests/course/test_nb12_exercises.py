"""Notebook 12's exercises: wrong answers get a helpful message. (Correct ones: exercise_cases/nb12.py.)"""

import math
import statistics

import numpy as np
import pytest
import torch

from helpers import corpus, muon
from helpers.course import speedrun_results
from helpers.course.exercises import nb12


def with_factors(combine):
    """The result of combine(U, S, Vh) of the singular value decomposition."""
    return lambda G: combine(*torch.linalg.svd(G, full_matrices=False))


def with_all_of_u(G):
    U, _, Vh = torch.linalg.svd(G)
    return U @ Vh


def with_all_of_u_in_numpy(G):
    U, _, Vh = np.linalg.svd(G.numpy())
    return U @ Vh


def information_with(combine):
    """PMI whose value combine(pairs, each, n, count of the tokens, number of the tokens) gives, 0 for new pairs."""

    def attempt(ids, V):
        one = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V).float()
        pairs = one + one.T
        values = combine(pairs, pairs.sum(1), pairs.sum(), torch.bincount(ids, minlength=V), len(ids))
        return values.nan_to_num(0.0, neginf=0.0, posinf=0.0)

    return attempt


def pmi(pairs, each, n):
    return (pairs * n / (each[:, None] * each)).log()


def without_a_guard(ids, V):
    pairs = torch.zeros(V, V)
    pairs.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    pairs = pairs + pairs.T
    return pmi(pairs, pairs.sum(1), pairs.sum()).clamp(min=0)


def of_one_order(ids, V):
    pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V).float()
    return (pairs * pairs.sum() / torch.outer(pairs.sum(1), pairs.sum(0))).clamp(min=1).log().nan_to_num(0.0)


def once_on_the_diagonal(ids, V):
    pairs = torch.zeros(V, V)
    for a, b in zip(ids[:-1].tolist(), ids[1:].tolist()):
        for row, column in {(a, b), (b, a)}:
            pairs[row, column] += 1
    return pmi(pairs, pairs.sum(1), pairs.sum()).clamp(min=0).nan_to_num(0.0)


def noise_in_place(x, random_ids, u, share):
    x[u < share] = random_ids[u < share]
    return x


def t_with(spread):
    """The right difference, divided by another measure of the spread: spread(losses, n)."""
    return lambda losses, target: (target - np.mean(losses)) / spread(np.array(losses), len(losses))


WRONG = {
    "directions": [
        (lambda G: G / G.norm(), "G times one number"),
        (lambda G: G / torch.linalg.matrix_norm(G, 2), "G times one number"),
        (lambda G: G.sign(), "That is sign(G)"),
        (lambda G: G / G.norm(dim=1, keepdim=True), "has rows of length 1"),
        (lambda G: G / G.norm(dim=0), "has columns of length 1"),
        (with_factors(lambda U, S, Vh: U @ Vh.T), "V instead of its transpose"),
        (with_all_of_u, "full_matrices=False it returns U (7, 3) and Vh (3, 3)"),
        (with_all_of_u_in_numpy, "full_matrices=False it returns U (7, 3)"),
        (with_factors(lambda U, S, Vh: U @ S.diag() @ Vh), "That is G again"),
        (with_factors(lambda U, S, Vh: -U @ Vh), "times -1"),
        (with_factors(lambda U, S, Vh: (U @ Vh).T), "transpose of the right one"),
        (with_factors(lambda U, S, Vh: U), "singular vectors are not those of G"),
        (lambda G: torch.linalg.qr(G)[0], "singular vectors are not those of G"),
        (with_factors(lambda U, S, Vh: U @ S.sqrt().diag() @ Vh), "expected 1 for all"),
        (with_factors(lambda U, S, Vh: 2 * U @ Vh), "singular values go from 2 to 2"),
        (lambda G: G.clamp(-0.5, 0.5), "Begin with torch.linalg.svd"),
        (lambda G: G / 0, "not finite"),
        (muon.orthogonalize, "polynomial reaches only values near 1. That suffices for Muon"),
    ],
    "epoch": [
        (lambda T, B, first, order, place: [first + T * w for w in order[place : place + B]], "not at place"),
        (lambda T, B, first, order, place: first + T * order[place], "You return one start"),
        (lambda T, B, first, order, place: [first + w for w in order[place * B :][:B]], "Your windows overlap"),
        (lambda T, B, first, order, place: order[place * B :][:B], "the numbers of the windows"),
        (lambda T, B, first, order, place: [T * w for w in order[place * B :][:B]], "but at token `first`"),
        (lambda T, B, first, order, place: [(first + w) * T for w in order[place * B :][:B]], "not a window"),
        (lambda T, B, first, order, place: [first + (T + 1) * w for w in order[place * B :][:B]], "leave a token out"),
        (lambda T, B, first, order, place: [first + T * (place * B + b) for b in range(B)], "in `order`"),
        (lambda T, B, first, order, place: [first + T * w for w in order[place :: len(order) // B]], "B neighbours"),
        (lambda T, B, first, order, place: [first + T * w for w in sorted(order[place * B :][:B])], "the sequence"),
        (lambda T, B, first, order, place: [first + T * w for w in order[(place - 1) * B : place * B]], "has place 0"),
        (lambda T, B, first, order, place: [[first + T * w + t for t in range(T)] for w in order[place * B :][:B]],
         "Return only the B"),
        (lambda T, B, first, order, place: [first + T * w + 1 for w in order[place * B :][:B]], "place = 0 you return"),
    ],
    "information": [
        (of_one_order, "one order only"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, each, n)), "Negative values must become 0"),
        (information_with(lambda pairs, each, n, *rest: pmi(pairs, each, n).abs().where(pairs > 0, 0)), "their sign"),
        (lambda ids, V: nb12.positive_information(ids, V) / math.log(2), "natural logarithm"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, each, N).clamp(min=0)), "not a number of tokens"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, each, N - 1).clamp(min=0)), "number of tokens"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, count, N).clamp(min=0)), "You count tokens"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, each + 1, n).clamp(min=0)), "1 to the row sums"),
        (information_with(lambda pairs, each, n, count, N: (pmi(pairs, each, n).exp() + 1).log()), "1 inside"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, each, n).exp()), "Take its logarithm"),
        (information_with(lambda pairs, each, n, count, N: pmi(pairs, each, 1).clamp(min=0)), "All your values are 0"),
        (information_with(lambda pairs, each, n, count, N: pairs), "These are the counts"),
        (without_a_guard, "contains -inf, inf or nan"),
        (once_on_the_diagonal, "follows itself is counted once"),
        (lambda ids, V: 2 * nb12.positive_information(ids, V), "In the text [0, 1, 0, 1"),
    ],
    "noise": [
        (noise_in_place, "changes x itself"),
        (lambda x, random_ids, u, share: torch.where(u < share, x, random_ids), "You replace where u is at least"),
        (lambda x, random_ids, u, share: torch.where(u > share, random_ids, x), "You replace where u is at least"),
        (lambda x, random_ids, u, share: torch.where(u <= share, random_ids, x), "where u equals the share"),
        (lambda x, random_ids, u, share: x * (u >= share), "0 is a token, too"),
        (lambda x, random_ids, u, share: x + random_ids * (u < share), "You add the random ids"),
        (lambda x, random_ids, u, share: torch.where(u[0] < share, random_ids, x), "the same positions in each row"),
        (lambda x, random_ids, u, share: torch.where(u[:, :1] < share, random_ids, x), "whole rows"),
        (lambda x, random_ids, u, share: random_ids, "You replace all tokens"),
        (lambda x, random_ids, u, share: x, "You replace no token"),
        (lambda x, random_ids, u, share: u < share, "That is the mask"),
        (lambda x, random_ids, u, share: torch.where(u < share, random_ids, x).float(), "must stay int64"),
        (lambda x, random_ids, u, share: torch.where(u < 0.25, random_ids, x), "the share 0.5: expected"),
    ],
    "target": [
        (lambda losses, target: -nb12.t_statistic(losses, target), "The sign is wrong"),
        (lambda losses, target: abs(nb12.t_statistic(losses, target)), "The sign is wrong"),
        (t_with(lambda losses, n: losses.std() / math.sqrt(n)), "by n - 1"),
        (t_with(lambda losses, n: losses.std(ddof=1)), "divide it by sqrt(n) first"),
        (t_with(lambda losses, n: losses.std()), "computed with n"),
        (t_with(lambda losses, n: losses.std(ddof=1) / n), "not by n"),
        (t_with(lambda losses, n: losses.var(ddof=1) / n), "the square of the standard error"),
        (t_with(lambda losses, n: losses.var(ddof=1) / math.sqrt(n)), "You divide the variance by sqrt(n)"),
        (lambda losses, target: nb12.t_statistic(losses, target) ** 2, "That is the square of t"),
        (lambda losses, target: target - statistics.mean(losses), "That is the difference alone"),
        (lambda losses, target: statistics.stdev(losses) / math.sqrt(len(losses)), "That is the standard error"),
        (lambda losses, target: speedrun_results.p_below(losses, target), "That is p. Return t"),
        (lambda losses, target: 0.5, "you return 0.500"),
    ],
}
# Answers of a wrong type, and the part of the message that describes them.
WRONG_TYPES = {
    "directions": [
        (lambda G: torch.linalg.svd(G, full_matrices=False)[1], "returned a tensor of shape (4,)"),
        (lambda G: tuple(torch.linalg.svd(G)), "returned a tuple of 3 tensors"),
        (lambda G: "U @ Vh", "returned a str: 'U @ Vh'"),
    ],
    "epoch": [
        (lambda T, B, first, order, place: range(B * T), "you return a range: range(0, 15)"),
        (lambda T, B, first, order, place: {0: first}, "returned a dict"),
        (lambda T, B, first, order, place: (first + T * w for w in order), "returned a generator"),
    ],
    "information": [
        (lambda ids, V: torch.zeros(V), "returned a tensor of shape (5,)"),
        (lambda ids, V: {(0, 1): 0.5}, "returned a dict"),
        (lambda ids, V: 0.5, "returned a float: 0.5"),
    ],
    "noise": [
        (lambda x, *rest: x[0], "returned a tensor of shape (5,)"),
        (lambda x, *rest: 3, "returned an int: 3"),
        (lambda x, random_ids, *rest: (x, random_ids), "returned a tuple of 2 tensors"),
    ],
    "target": [
        (lambda losses, target: torch.tensor(losses) - target, "you returned a tensor of shape (10,)"),
        (lambda losses, target: (4.4, 0.001), "you returned a tuple of 2 numbers"),
        (lambda losses, target: "t > 4.3", "you returned a str: 't > 4.3'"),
    ],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name):
    for attempt, words in WRONG_TYPES[name]:
        said = getattr(nb12, name).judge(attempt).text
        assert "not yet" in said and words in said, said
        assert "Your code stopped" not in said and "returns None" not in said, said


@pytest.mark.parametrize("rows, columns", [(6, 2), (2, 6), (5, 5)])
def test_all_singular_values_become_one_and_the_directions_stay(rows, columns):
    G = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    result = nb12.same_length(G)
    torch.testing.assert_close(torch.linalg.svdvals(result), torch.ones(min(rows, columns)))
    root = result.T @ G  # G = result @ root: symmetric, and all of its eigenvalues are positive or 0
    torch.testing.assert_close(root, root.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(result @ root, G, rtol=0, atol=1e-5)
    assert torch.linalg.eigvalsh(root).min() > -1e-5


def test_the_starts_are_those_of_the_course_own_epochs():
    N, T, B = 43, 6, 2
    for step in range(6):  # two epochs of three batches
        generator = torch.Generator().manual_seed(7 * 100_003 + step // 3)
        first = int(torch.randint(T, (), generator=generator))
        order = torch.randperm(6, generator=generator).tolist()
        inputs, _ = corpus.epoch_batch(torch.arange(N), B, T, step, seed=7)
        assert nb12.epoch_starts(T, B, first, order, step % 3) == inputs[:, 0].tolist()


def test_information_of_a_text_counted_by_hand():
    # 0 1 1 2: the pairs 01, 11 and 12, in both orders. n = 6, n(0) = 1, n(1) = 4, n(2) = 1.
    result = nb12.positive_information(torch.tensor([0, 1, 1, 2]), 4)
    expected = torch.zeros(4, 4)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = math.log(1 * 6 / (1 * 4))
    expected[1, 1] = max(0.0, math.log(2 * 6 / (4 * 4)))
    torch.testing.assert_close(result, expected)


def test_noise_is_that_of_the_course():
    x = torch.arange(24).view(4, 6)
    generator = torch.Generator().manual_seed(3)
    random_ids = torch.randint(500, x.shape, generator=generator)
    own = nb12.with_noise(x, random_ids, torch.rand(x.shape, generator=generator), 0.3)
    torch.testing.assert_close(own, corpus.replace_some(x, 0.3, 500, torch.Generator().manual_seed(3)))


def test_the_praise_of_a_record_names_the_computed_limit():
    limit, t = speedrun_results.quantile(0.999, 9), nb12.t_statistic(nb12.TEN, 4.96)
    assert f"With 10 seeds, p < 0.001 means t > {limit:.1f}" in nb12.target.judge(nb12.t_statistic).text
    assert t > limit and speedrun_results.p_below(nb12.TEN, 4.96) < 0.001
    assert speedrun_results.tail(t, 9) == pytest.approx(speedrun_results.p_below(nb12.TEN, 4.96))
