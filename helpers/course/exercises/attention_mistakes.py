"""What attention returns after typical mistakes, and a message for each (for the checks of notebooks 01 and 02)."""

import contextlib
import itertools
import math
import re

import torch

from helpers import attention
from helpers.course import judge
from helpers.course.checking import NotYet

MASKS_ITSELF = "A token may attend to itself. Your mask hides the diagonal too: begin one above it, with triu(1)."
NOT_DIVIDED = "The scores are not divided by the square root of a query's width."
WRONG_WIDTH = "You divide by sqrt(C). Each query has only hs = C / nh elements: divide by sqrt(hs)."
FINITE_MASK = "A masked score must be -inf: a finite one, such as -10, still gets a weight above 0."
SPLITTING = "Splitting: view(B, nh, T, hs) gives head 0 the first tokens only. Ask for (B, T, nh, hs) first."
DIMENSIONS = ("Attention runs over the second to last dimension. That must be T, not the heads: use transpose(1, 2) "
              "after view, so that the head dimension comes before T.")


@contextlib.contextmanager
def advice_on_errors(advice):
    """Adds a sentence to PyTorch's message when the learner's code inside stops with a known error. advice: {regular
    expression for the message: sentence}."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        message = judge.in_words(error, str)
        sentence = next((text for pattern, text in advice.items() if re.search(pattern, message)), None)
        if sentence is None:
            raise
        line = judge.learners_line(error)
        where = f" (in {line})" if line else ""
        raise NotYet(f"{sentence} PyTorch's message: {message}{where}") from None


def product_errors(q):
    """Advice for the errors of q @ k.T and of q @ k, with q and k (B, T, d_k): see advice_on_errors."""
    (B, T), width = q.shape[:2], q.shape[-1]
    reverses = ("The batch must stay in front, but .T reverses all dimensions. Exchange the last two only: "
                "k.transpose(-2, -1).")
    return {
        rf"tensor a \({B}\) must match the size of tensor b \(({width}|{T})\) at non-singleton dimension 0": reverses,
        r"x\.T|t\(\) expects": reverses,
        rf"to be: \[{B}, {width}\] but got: \[{B}, {T}\]":
            "The last two dimensions of k must change places: q @ k.transpose(-2, -1).",
    }


def name_the_nan(answer):
    """Raises NotYet if an attention's result (..., T, C) has a nan. Its position shows where it comes from."""
    nan = answer.isnan().any(-1).reshape(-1, answer.shape[-2]).any(0)  # (T,)
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
    scores, scalings, weightings = q @ k.transpose(-2, -1), _scalings(T, width, v.shape[-1]), _weightings(T)
    finite = [_hide(scores / math.sqrt(width), torch.ones(T, T).triu(1), value).softmax(-1) for value in range(-10, 0)]
    return [
        *((f"{weighting} {scaling}".strip(), weigh(scores * factor) @ v)
          for weighting, weigh in weightings.items() for scaling, factor in scalings.items() if weighting or scaling),
        *((FINITE_MASK, weights @ v) for weights in finite),
    ]


def swapped_inputs(q, k, v):
    """What attention returns when its inputs change places: q, k (..., T, hs), v (..., T, any width) -> [(message,
    result)]."""
    return [
        ("q and k have changed places. Each row of the scores belongs to a query: q @ k.transpose(-2, -1).",
         attention.attention(k, q, v)),
        ("The weights are right, but you multiply them by q. The weighted sum is over the values: weights @ v.",
         attention.attention(q, k, q)),
        ("The weights are right, but you multiply them by k. The weighted sum is over the values: weights @ v.",
         attention.attention(q, k, k)),
    ]


def finite_masks(q, k, v):
    """What attention returns when a masked score is low instead of -inf: [(message, result)]."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:]).triu(1)
    values = -11, -12, -15, -20
    return [(FINITE_MASK, _hide(scores, later, value).softmax(-1) @ v) for value in values]


def _scalings(T, width, value_width):
    """{message: factor of the scores}; "" is right."""
    return {
        "": 1 / math.sqrt(width),
        NOT_DIVIDED: 1.0,
        "You divide by a query's width. Divide by its square root.": 1 / width,
        "You multiply by the square root of a query's width. Divide by it.": math.sqrt(width),
        "You divide by sqrt(T). It is not the number of tokens that counts, but a query's width: its square root.":
            1 / math.sqrt(T),
        "You divide by the square root of the width of the values. Divide by that of a query's width.":
            1 / math.sqrt(value_width),
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


def gradient_mistakes(q, k, v, dy):
    """What typical mistakes make of the gradients of attention: q, k (T, d_k), v and dy (T, d_v) -> {"q", "k" or "v":
    [(message, result)]}. Only mistakes whose result has the right shape are listed, single ones first."""
    dw, scalings = dy @ v.T, _backward_scalings(q.shape[-1], v.shape[-1])
    done = {"q": "dv is right. In dq:", "k": "dv and dq are right. In dk:"}
    mistakes = {"v": _value_gradient_mistakes(q, k, v, dy)}
    for name, products in _products(q, k).items():
        combined = itertools.product(_softmax_gradients(q, k, dw).items(), products.items(), scalings.items())
        combined = sorted(combined, key=lambda parts: sum(text != "" for text, _ in parts))  # "" is right
        mistakes[name] = [(" ".join(filter(None, (done[name], softmax, product, scaling))), multiply(ds) * factor)
                          for (softmax, ds), (product, multiply), (scaling, factor) in combined[1:]]
    return mistakes


def _value_gradient_mistakes(q, k, v, dy):
    """The gradient of the values after typical mistakes: [(message, (T, d_v))]."""
    (T, width), w, scores = q.shape, attention.attention_weights(q, k), q @ k.T
    scalings, weightings = _scalings(T, width, v.shape[-1]), _weightings(T)
    return [
        ("dv = w.T @ dy: value s takes part in every later row t, with the weight w[t, s]. You use w itself.", w @ dy),
        ("That is dy. Each row of y is a weighted sum of values, so dv weights dy: w.T @ dy.", dy),
        ("The weights in dv are those without the mask.", attention.attention_scores(q, k).softmax(-1).T @ dy),
        ("The weights in dv lack the division by sqrt(d_k).", attention.attention_weights(q * math.sqrt(width), k).T
         @ dy),
        *((f"In the weights of dv: {weighting} {scaling}".replace("  ", " ").strip(), weigh(scores * factor).T @ dy)
          for weighting, weigh in weightings.items() for scaling, factor in scalings.items() if weighting or scaling),
    ]


def _products(q, k):
    """How dq and dk are made of the gradient ds of the scores: {"q" or "k": {message: function of ds}}; "" is right."""
    return {
        "q": {
            "": lambda ds: ds @ k,
            "dq and dk have changed places: return dq, dk, dv.": lambda ds: ds.T @ q,
            "dq = ds @ k: row t of ds belongs to query t. You use ds transposed.": lambda ds: ds.T @ k,
            "dq = ds @ k: a score changes with the query by the key. You multiply by q.": lambda ds: ds @ q,
        },
        "k": {
            "": lambda ds: ds.T @ q,
            "That is dq again. dk = ds.T @ q.": lambda ds: ds @ k,
            "dk = ds.T @ q: column s of ds belongs to key s. You use ds itself.": lambda ds: ds @ q,
            "dk = ds.T @ q: a score changes with the key by the query. You multiply by k.": lambda ds: ds.T @ k,
        },
    }


def _backward_scalings(width, value_width):
    """{message: factor of the gradients of q and k}; "" is right."""
    return {
        "": 1 / math.sqrt(width),
        "The division by sqrt(d_k) is missing on the way back.": 1.0,
        "On the way back, too, you divide by sqrt(d_k). You multiply.": math.sqrt(width),
        "You divide by d_k. Forward there was one division by sqrt(d_k), so backward there is one, too.": 1 / width,
        "You divide by the square root of the width of the values. Divide by sqrt(d_k), as forward.":
            1 / math.sqrt(value_width),
    }


def _softmax_gradients(q, k, dw):
    """Gradients of the scores, from the gradient dw (T, T) of the weights: {message: (T, T)}; "" is right."""
    w, unmasked = attention.attention_weights(q, k), attention.attention_scores(q, k).softmax(-1)
    return {
        "": w * (dw - (dw * w).sum(-1, keepdim=True)),
        "w * (1 - w) is the diagonal of the softmax's derivative alone. Each score of a row also changes the other "
        "weights: ds = w * (dw - the sum of dw * w over each row).": w * (1 - w) * dw,
        "The softmax is missing: you use the gradient of the weights as that of the scores.": dw,
        "The softmax is missing, only the mask is there: ds = w * (dw - the sum of dw * w over each row).": dw.tril(),
        "A weight also falls when another score rises. Subtract the sum of dw * w over each row: ds = w * (dw - sum).":
            w * dw,
        "The sum of dw * w runs over the columns. It belongs to each row of the weights: dim=-1, keepdim=True.":
            w * (dw - (dw * w).sum(0, keepdim=True)),
        "The sums are spread over the columns instead of the rows: keepdim=True is missing.":
            w * (dw - (dw * w).sum(-1)),
        "In the softmax you subtract the sum of dw, without its weights: the sum is over dw * w.":
            w * (dw - dw.sum(-1, keepdim=True)),
        "The weights are those without the mask.": unmasked * (dw - (dw * unmasked).sum(-1, keepdim=True)),
    }
