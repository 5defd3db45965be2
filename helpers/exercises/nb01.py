"""Exercises of notebook 01: an average over a window, causal attention, what each head adds, a head made by hand."""

import math

import torch

from helpers import attention
from helpers.exercises import Exercise, NotYet, needs_answer


def same(answer, right):
    """Whether a learner's tensor has the right shape and numbers."""
    return answer.shape == right.shape and torch.allclose(answer, right, atol=1e-5)


# --- an average over a window ----------------------------------------------------------------------------------------


def window_average(T, w):
    """The matrix (T, T) whose row t averages the last w tokens up to t, or all of them where there are fewer."""
    window = torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)  # 1 for the tokens t - w + 1 to t
    return window / window.sum(dim=1, keepdim=True)


def _test_window(attempt):
    """Tries a window within the text and one that is longer than it."""
    T, w = 6, 3
    answer, right = needs_answer(attempt(T, w)), window_average(T, w)
    if tuple(answer.shape) != (T, T):
        raise NotYet(f"For T = {T} the matrix has the shape ({T}, {T}); yours has {tuple(answer.shape)}.")
    if answer.triu(1).any():
        raise NotYet("A number above the diagonal is not 0: there a token looks at a later one.")
    if not torch.allclose(answer.sum(1), torch.ones(T)):
        raise NotYet("Each row must sum to 1. The first rows have fewer than w tokens to average.")
    if same(answer, window_average(T, w + 1)) or same(answer, window_average(T, w - 1)):
        raise NotYet("Count the tokens of the last row: there must be w, token t itself among them.")
    if not same(answer, right) or not same(attempt(4, 9), window_average(4, 9)):
        raise NotYet("Row t has 1 / (number of its tokens) from token t - w + 1, or 0, to token t, and 0 elsewhere.")
    return "Such a sliding window is how some later models limit the cost of long texts."


# --- causal attention ------------------------------------------------------------------------------------------------


def causal_attention(q, k, v):
    """q, k, v (..., T, d_k) -> (..., T, d_k)."""
    T, d_k = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (..., T, T)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)  # True above the diagonal
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    return weights @ v


def _test_attention(attempt):
    """Compares with the reference, and with typical mistakes so that it can name them."""
    q, k, v = torch.randn(3, 2, 5, 9, generator=torch.Generator().manual_seed(0))  # each (2, 5, 9)
    answer, right = needs_answer(attempt(q, k, v)), attention.attention(q, k, v)
    if answer.shape != v.shape:
        raise NotYet(f"v has the shape {tuple(v.shape)}, and so must the result; yours has {tuple(answer.shape)}.")
    scores = attention.attention_scores(q, k)
    masked = attention.apply_causal_mask(scores)
    mistakes = {
        "Your tokens look at later ones. Put -inf above the diagonal, before the softmax.": scores.softmax(-1),
        "The scores are not divided by sqrt(d_k).": (masked * 3).softmax(-1),
        "You divide by d_k. Divide by its square root.": (masked / 3).softmax(-1),
        "Your weights do not sum to 1: the mask comes before the softmax, not after it.": scores.softmax(-1).tril(),
        "A masked score must be -inf: softmax gives a score of 0 a weight above 0.": scores.tril().softmax(-1),
        "The softmax runs over the keys, the last dimension: each row must sum to 1.": masked.softmax(-2),
    }
    for message, weights in mistakes.items():
        if same(answer, weights @ v):
            raise NotYet(message)
    if not same(answer, right):
        raise NotYet(f"The largest difference from the reference is {(answer - right).abs().max():.2g}.")
    return "It equals helpers.attention.attention, for any number of leading dimensions."


# --- what each head adds ---------------------------------------------------------------------------------------------


def head_contributions(heads, w_0):
    """heads (B, nh, T, hs), w_0 (C, C) as in nn.Linear -> (B, nh, T, C): what each head adds to the output."""
    B, nh, T, hs = heads.shape
    slices = w_0.view(-1, nh, hs)  # (C, C) -> (C, nh, hs): the columns that belong to each head
    return torch.stack([heads[:, h] @ slices[:, h].T for h in range(nh)], dim=1)


def _test_contributions(attempt):
    """Checks the sum over the heads first, then each head's part."""
    generator = torch.Generator().manual_seed(0)
    heads, w_0 = torch.randn(2, 3, 5, 4, generator=generator), torch.randn(12, 12, generator=generator)
    answer, right = needs_answer(attempt(heads, w_0)), head_contributions(heads, w_0)
    if answer.shape != right.shape:
        raise NotYet(f"Expected the shape (B, nh, T, C) = {tuple(right.shape)}; yours is {tuple(answer.shape)}.")
    if same(answer, head_contributions(heads, w_0.T)):
        raise NotYet("w_0 is laid out as in nn.Linear, (out, in): a head owns hs of its columns, not of its rows.")
    if not torch.allclose(answer.sum(1), attention.merge_heads(heads) @ w_0.T, atol=1e-4):
        raise NotYet("Added up over the heads, the contributions must give merge_heads(heads) @ w_0.T, and do not.")
    if not same(answer, right):
        raise NotYet("The sum is right, but not each head's part. Head h owns the columns h * hs to (h + 1) * hs.")
    return "Their sum is the output, so “concatenate and multiply by W0” means “add what each head has to say”."


# --- a head made by hand ---------------------------------------------------------------------------------------------


def offset_head(T, n):
    """q and k, both (T, d_k), of a head in which every token t >= n looks at token t - n."""
    k = torch.eye(T)  # key s points in direction s
    q = 20 * math.sqrt(T) * torch.eye(T).roll(n, dims=0)  # query t points in direction t - n, and is long
    q[:n] = 0  # the first n tokens have no token n before them
    return q, k


def _test_offset(attempt):
    """Tries three pairs of length and offset, in any width and any scale that work."""
    for T, n in ((8, 1), (10, 3), (5, 0)):
        q, k = needs_answer(attempt(T, n))
        if q.shape != k.shape or len(q) != T:
            raise NotYet(f"q and k need {T} rows and the same width; yours are {tuple(q.shape)}, {tuple(k.shape)}.")
        weights = attention.attention_weights(q.float(), k.float())
        if not torch.isfinite(weights).all():
            raise NotYet("Some weights are not finite. Use long vectors, not infinite ones.")
        hits = weights.diagonal(-n)
        if n and (weights.argmax(-1)[n:] == torch.arange(n, T)).all():
            raise NotYet("Your tokens look at themselves. Query t must point where key t - n points.")
        if (weights.argmax(-1)[n:] != torch.arange(T - n)).any():
            raise NotYet(f"For T = {T}, n = {n} the largest weight of some row is not at token t - {n}.")
        if hits.min() < 0.99:
            raise NotYet(f"The right token, but with weight {hits.min():.2f}. Longer queries make softmax sharper.")
    return "A trained model finds such heads by itself: section 9 shows them."


window = Exercise(
    "An average over a window", 1, 5,
    "torch.ones(T, T).tril(-w) is 1 exactly where a token is too old. Take it away from torch.ones(T, T).tril(), then "
    "divide each row by its sum.",
    _test_window, window_average,
)
causal = Exercise(
    "Causal attention from memory", 2, 10,
    "Four lines: scores q @ k.transpose(-2, -1) / sqrt(d_k); masked_fill with -inf above the diagonal (triu(1)); "
    "softmax over the last dimension; times v.",
    _test_attention, causal_attention,
)
contributions = Exercise(
    "What each head adds", 2, 10,
    "The merged vector is [head 0, head 1, ...]. In merged @ w_0.T head h meets only the columns h * hs to "
    "(h + 1) * hs of w_0. Compute that product for each head and stack the results in dimension 1.",
    _test_contributions, head_contributions,
)
offset = Exercise(
    "A head that looks n tokens back", 3, 15,
    "Let key s be the unit vector of direction s (torch.eye). Let query t be the unit vector of direction t - n, times "
    "a large number: the scores are divided by sqrt(d_k), and a gap of 10 makes a weight of almost 1.",
    _test_offset, offset_head,
)
