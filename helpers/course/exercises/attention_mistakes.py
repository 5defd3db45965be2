"""What attention returns after typical mistakes, and a message for each (for the checks of notebooks 01 and 02)."""

import math

import torch

from helpers import attention
from helpers.course.checking import NotYet

MASKS_ITSELF = "A token may attend to itself. Your mask hides the diagonal too: begin one above it, with triu(1)."
NOT_DIVIDED = "The scores are not divided by the square root of a query's width."
WRONG_WIDTH = "You divide by sqrt(C). Each query has only hs = C / nh elements: divide by sqrt(hs)."
FINITE_MASK = "A masked score must be -inf: a finite one, such as -10, still gets a weight above 0."
SPLITTING = "Splitting: view(B, nh, T, hs) gives head 0 the first tokens only. Ask for (B, T, nh, hs) first."
DIMENSIONS = ("Attention runs over the second to last dimension. That must be T, not the heads: use transpose(1, 2) "
              "after view, so that the head dimension comes before T.")


def name_the_nan(answer):
    """Raises NotYet if an attention's result (..., T, C) has a nan. Its position shows where it comes from."""
    nan = answer.isnan().any(-1).flatten(end_dim=-2).any(0)  # (T,)
    if nan.all():
        raise NotYet("Every token gets nan. Does your mask multiply by -inf? 0 * inf is nan. Use masked_fill or "
                     "torch.where instead of multiplying by -inf.")
    if nan[-1] and not nan[:-1].any():
        raise NotYet("Some weights are nan: your mask hides the past and shows the future. Hide what is above the "
                     "diagonal, triu(1).")
    if answer[..., 1:, :].isnan().any():
        raise NotYet("Some entries are nan, which is what softmax makes of -inf alone. Over which dimension is yours?")
    if answer.isnan().any():
        raise NotYet(f"Token 0 gets nan, which is what softmax makes of -inf alone. {MASKS_ITSELF}")


def attention_mistakes(q, k, v):
    """What attention returns after one or two typical mistakes: q, k, v (..., T, hs) -> [(message, result)]."""
    T, width = q.shape[-2:]
    scores, scalings, weightings = q @ k.transpose(-2, -1), _scalings(T, width), _weightings(T)
    finite = [_hide(scores / math.sqrt(width), torch.ones(T, T).triu(1), value).softmax(-1) for value in range(-10, 0)]
    return [
        *((f"{weighting} {scaling}".strip(), weigh(scores * factor) @ v)
          for weighting, weigh in weightings.items() for scaling, factor in scalings.items() if weighting or scaling),
        *((FINITE_MASK, weights @ v) for weights in finite),
    ]


def _scalings(T, width):
    """{message: factor of the scores}; "" is right."""
    return {
        "": 1 / math.sqrt(width),
        NOT_DIVIDED: 1.0,
        "You divide by a query's width. Divide by its square root.": 1 / width,
        "You multiply by the square root of a query's width. Divide by it.": math.sqrt(width),
        "You divide by sqrt(T). It is not the number of tokens that counts, but a query's width: its square root.":
            1 / math.sqrt(T),
    }


def _weightings(T):
    """{message: function from scores to weights}; "" is right."""
    ones = torch.ones(T, T)
    return {
        "": lambda scores: _hide(scores, ones.triu(1)).softmax(-1),
        "Your tokens look at later ones. Put -inf above the diagonal, before the softmax.":
            lambda scores: scores.softmax(-1),
        "Your weights do not sum to 1: the mask comes before the softmax, not after it.":
            lambda scores: scores.softmax(-1).tril(),
        "A masked score must be -inf: softmax gives a score of 0 a weight above 0.":
            lambda scores: scores.tril().softmax(-1),
        "The softmax runs over the queries. It belongs over the keys, the last dimension: each row must sum to 1.":
            lambda scores: _hide(scores, ones.triu(1)).softmax(-2),
        "Your tokens look one step ahead. The mask begins one above the diagonal: triu(1).":
            lambda scores: _hide(scores, ones.triu(2)).softmax(-1),
        MASKS_ITSELF: lambda scores: _hide(scores, ones.triu(), -1e9).softmax(-1),
        "Your mask hides the past and shows the future. Hide what is above the diagonal, not below it.":
            lambda scores: _hide(scores, ones.tril(-1)).softmax(-1),
        "You multiply the scores by the values without a softmax. Its rows must become weights that sum to 1.":
            lambda scores: scores.tril(),
    }


def _hide(scores, where, value=float("-inf")):
    return scores.masked_fill(where.bool(), value)


def multi_head_mistakes(x, w_qkv, b_qkv, w_0, b_0, nh):
    """What several heads return after typical mistakes: [(message, (B, T, C))]. Arguments as in multi_head."""
    parts = (x @ w_qkv.T + b_qkv).chunk(3, dim=-1)  # three times (B, T, C)
    q, k, v = (attention.split_heads(part, nh) for part in parts)  # (B, nh, T, hs)
    unbiased = [attention.split_heads(part, nh) for part in (x @ w_qkv.T).chunk(3, dim=-1)]
    heads = attention.attention(q, k, v)

    def finish(heads):
        return attention.merge_heads(heads) @ w_0.T + b_0

    return [
        *((message, finish(result)) for message, result in attention_mistakes(q, k, v)),
        (WRONG_WIDTH, finish(attention.attention(q / math.sqrt(nh), k, v))),
        *((message, merged @ w_0.T + b_0) for message, merged in _mixed_up_dimensions(parts, heads, nh)),
        ("That is one head of full width. Split Q, K and V into heads first.",
         attention.attention(*parts) @ w_0.T + b_0),
        ("The heads are right. What is missing is the last matrix, W0 (c_proj), which mixes their results.",
         attention.merge_heads(heads)),
        ("The last matrix is laid out as in nn.Linear, (out, in): multiply by its transpose.",
         attention.merge_heads(heads) @ w_0 + b_0),
        ("The bias of the last matrix is missing.", finish(heads) - b_0),
        ("The bias of the fused matrix is missing.", finish(attention.attention(*unbiased))),
        ("Q and K have changed places. The order in the fused matrix is Q, K, V.",
         finish(attention.attention(k, q, v))),
        ("V comes last: the order in the fused matrix is Q, K, V.", finish(attention.attention(k, v, q))),
        ("Right, except that x itself is added outside of attention, in the block (notebook 02).", finish(heads) + x),
    ]


def _mixed_up_dimensions(parts, heads, nh):
    """Mistakes with view and transpose: [(message, (B, T, C) before the last matrix)]. parts: Q, K and V (B, T, C)."""
    B, T, C = parts[0].shape
    by_view = [part.reshape(B, nh, T, C // nh) for part in parts]  # the right shape, the wrong content
    in_tokens = [part.reshape(B, T, nh, C // nh) for part in parts]  # without the transpose
    among_heads = (in_tokens[0] @ in_tokens[1].transpose(-2, -1) / math.sqrt(C // nh)).softmax(-1) @ in_tokens[2]
    wrong_heads = attention.attention(*by_view)
    return [
        (SPLITTING, wrong_heads.reshape(B, T, C)),
        (SPLITTING, attention.merge_heads(wrong_heads)),
        ("Merging: the heads' results end up in other tokens. transpose(1, 2) comes before reshape(B, T, C).",
         heads.reshape(B, T, C)),
        *((DIMENSIONS, result.reshape(B, T, C))
          for unsplit in (attention.attention(*in_tokens), among_heads)
          for result in (unsplit, unsplit.transpose(1, 2))),  # merged without and with a transpose
    ]
