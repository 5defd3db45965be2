"""Exercises of notebook 01: the loss of one prediction, an average over a window, causal attention by hand, several
heads in PyTorch, what each head adds, a head made by hand."""

import math

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers import attention
from helpers.course.checking import Exercise, NotYet, as_floats, name_the_mistake, needs_answer, same
from helpers.course.exercises.attention_mistakes import attention_mistakes, multi_head_mistakes, name_the_nan

# --- the loss of one prediction --------------------------------------------------------------------------------------


def prediction_loss(z, target):
    """The scores z (V,) and the id of the actual next token -> the loss in nats, -ln softmax(z)[target]."""
    powers = z.exp()  # (V,)
    return -(powers[target] / powers.sum()).log()


def _test_loss(attempt):
    """Tries uneven scores, where every mistake gives a different value, and then a uniform guess."""
    z, target = torch.tensor([3.0, 0.5, 1.0, 2.0, 0.25]), 2
    answer = as_floats(attempt(z.clone(), target))
    if answer.numel() != 1:
        raise NotYet(f"The loss of one prediction is a single number; yours has the shape {tuple(answer.shape)}.")
    answer, P = answer.reshape(()), z.softmax(dim=0)
    mistakes = {
        "Check the sign: ln P is negative, because P is below 1. The loss is -ln P.": P[target].log(),
        "That is the probability. The loss is minus its logarithm.": P[target],
        "That is 1 - P. The loss is minus the logarithm of P.": 1 - P[target],
        "That is in bits, with the logarithm to base 2. For nats, use the natural logarithm.": -P[target].log2(),
        "That is the logarithm to base 10. For nats, use torch.log or math.log.": -P[target].log10(),
        "A score is not a probability: softmax comes first, and e^z before the division.": -(z / z.sum())[target].log(),
        "That is minus the score. Softmax turns it into a probability; the loss is minus its logarithm.": -z[target],
        "Only the actual next token counts. You averaged over all tokens.": -P.log().mean(),
        "Only the actual next token counts. You added up all tokens.": -P.log().sum(),
        "This is the loss for a different token, not for `target`. Ids count from 0.": -P[target - 1].log(),
        "This is right for the token after `target`: do not shift the id.": -P[target + 1].log(),
        "That is the loss for the most likely token, not for the actual next one.": -P.max().log(),
    }
    name_the_mistake(answer, mistakes.items())
    if not same(answer, -P[target].log()):
        raise NotYet(f"For z = {z.tolist()} and target {target}, your loss is {answer:.3f}. Write down softmax(z) "
                     "first: which of its elements belongs to the target?")
    uniform = as_floats(attempt(torch.zeros(50), 7)).reshape(())
    if not same(uniform, torch.tensor(math.log(50))):
        raise NotYet(f"This is right for five scores. For 50 equal scores, expected ln 50 = {math.log(50):.3f}; got "
                     f"{uniform:.3f}.")
    return f"With 50 equal scores it gives ln 50 = {math.log(50):.3f}: the loss of a uniform guess is ln V."


# --- an average over a window ----------------------------------------------------------------------------------------


def window_average(T, w):
    """The matrix (T, T) whose row t averages the last w tokens up to t, or all of them where there are fewer."""
    window = torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)  # 1 for the tokens t - w + 1 to t
    return window / window.sum(dim=1, keepdim=True)


def _test_window(attempt):
    """Tries a window that fits into the text and one that is longer than the text."""
    T, w = 6, 3
    answer, right = as_floats(attempt(T, w)), window_average(T, w)
    if tuple(answer.shape) != (T, T):
        raise NotYet(f"For T = {T}, expected a matrix of shape ({T}, {T}); yours has {tuple(answer.shape)}.")
    if answer.triu(1).nan_to_num().any():
        raise NotYet("An entry above the diagonal is not 0, so a token looks at a later one.")
    if not answer.diagonal().nan_to_num().all():
        raise NotYet("An entry on the diagonal is 0. Token t is one of the last w tokens, so its row includes it.")
    if same(answer, (right > 0).float()):
        raise NotYet("The tokens are right, but each has weight 1: that is their sum. Divide each row by its sum.")
    if not same(answer.sum(1), torch.ones(T)):
        wrong_axis, table = same(answer.sum(0), torch.ones(T)), (answer > 0).float()
        if same(answer, table / table.sum(1)):
            raise NotYet("Some rows sum to more than 1: without keepdim=True the sums divide the columns.")
        raise NotYet("Your columns sum to 1, but each row must. Divide by the sum over dim=1." if wrong_axis else
                     "Each row must sum to 1. The first rows have fewer than w tokens to average.")
    for other in (1, T, w + 1, w - 1):
        if same(answer, window_average(T, other)):
            raise NotYet(f"For T = {T} and w = {w}, expected {w} entries above 0 in the last row; yours has {other}.")
    if not same(answer, right) or not same(as_floats(attempt(4, 9)), window_average(4, 9)):
        raise NotYet("Row t has 1 / (number of its tokens) from token max(0, t - w + 1) to token t, and 0 elsewhere.")
    return "Some later models use such a sliding window to limit the cost of long texts."


# --- causal attention by hand ----------------------------------------------------------------------------------------


def causal_attention(q, k, v):
    """q, k, v (..., T, d_k) -> (..., T, d_k)."""
    T, d_k = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (..., T, T)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)  # True above the diagonal
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    return weights @ v



def _swapped(q, k, v):
    """The results of attention when its inputs change places: [(message, result)]."""
    return [
        ("q and k have changed places. Each row of the scores belongs to a query: q @ k.transpose(-2, -1).",
         attention.attention(k, q, v)),
        ("The weights are right, but you multiply them by q. The weighted sum is over the values: weights @ v.",
         attention.attention(q, k, q)),
        ("The weights are right, but you multiply them by k. The weighted sum is over the values: weights @ v.",
         attention.attention(q, k, k)),
    ]


class _Calls(TorchFunctionMode):
    """Records the names of the PyTorch functions that are called inside it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def _test_attention(attempt):
    """Compares with the reference, and with typical mistakes so that it can name them."""
    q, k, v = torch.randn(3, 2, 5, 9, generator=torch.Generator().manual_seed(0))  # each (2, 5, 9)
    with _Calls() as calls:
        result = attempt(q.clone(), k.clone(), v.clone())
    answer, right = as_floats(result), attention.attention(q, k, v)
    if answer.shape == (2, 5, 5):
        raise NotYet("(2, 5, 5) is the shape of the weights. The result is their product with v.")
    if answer.shape != v.shape:
        raise NotYet(f"Expected the shape of v, {tuple(v.shape)}; your result has {tuple(answer.shape)}.")
    name_the_nan(answer)
    if not same(answer, right):
        name_the_mistake(answer, attention_mistakes(q, k, v) + _swapped(q, k, v))
        raise NotYet(f"For random q, k, v of shape {tuple(q.shape)}, the largest difference from the reference is "
                     f"{(answer - right).abs().max():.2g}. Print the weights: are they lower-triangular, and do the "
                     "rows sum to 1?")
    praise = "It equals helpers.attention.attention, for any number of leading dimensions."
    if "scaled_dot_product_attention" in calls.names:
        return f"{praise} You used PyTorch's function; now write it by hand."
    return praise


# --- several heads in PyTorch ----------------------------------------------------------------------------------------


def multi_head(x, w_qkv, b_qkv, w_0, b_0, nh):
    """x (B, T, C), w_qkv (3C, C), b_qkv (3C,), w_0 (C, C), b_0 (C,) -> (B, T, C)."""
    B, T, C = x.shape
    q, k, v = F.linear(x, w_qkv, b_qkv).chunk(3, dim=-1)  # three times (B, T, C)
    q, k, v = (part.view(B, T, nh, C // nh).transpose(1, 2) for part in (q, k, v))  # (B, nh, T, hs)
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
    return F.linear(heads.transpose(1, 2).reshape(B, T, C), w_0, b_0)


def _mistakes_in_the_call(x, w_qkv, b_qkv, w_0, b_0, nh):
    """Mistakes in calling F.scaled_dot_product_attention, which need other messages than those made by hand."""
    q, k, v = (attention.split_heads(part, nh) for part in (x @ w_qkv.T + b_qkv).chunk(3, dim=-1))
    open_ended, twice = F.scaled_dot_product_attention(q, k, v), attention.attention(q / math.sqrt(q.shape[-1]), k, v)
    mistakes = (("Your tokens look at later ones: the mask is missing. PyTorch's function masks with is_causal=True.",
              open_ended),
             ("The scores are divided twice. F.scaled_dot_product_attention divides by sqrt(hs) itself.", twice))
    return [(message, F.linear(attention.merge_heads(heads), w_0, b_0)) for message, heads in mistakes]


def _test_heads(attempt):
    """Random weights and biases, and a T that equals neither nh nor hs, so that every mixed-up shape is noticed."""
    generator = torch.Generator().manual_seed(0)
    B, T, C, nh = 2, 7, 12, 3
    shapes = (B, T, C), (3 * C, C), (3 * C,), (C, C), (C,)
    inputs = [torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) for shape in shapes]
    try:
        with _Calls() as calls:
            result = attempt(*(tensor.clone() for tensor in inputs), nh)
    except RuntimeError as error:
        if f"and {3 * C}x{C})" in str(error):  # the shapes of an impossible matrix product
            raise NotYet("w_qkv is (out, in): x @ w_qkv.T. F.linear transposes it by itself.") from error
        raise
    answer, right = as_floats(result), attention.multi_head_attention(*inputs, nh)
    if answer.shape != right.shape:
        raise NotYet(f"Expected the shape of x, {tuple(right.shape)}; your result has {tuple(answer.shape)}.")
    name_the_nan(answer)
    if not same(answer, right):
        name_the_mistake(answer, _mistakes_in_the_call(*inputs, nh) + multi_head_mistakes(*inputs, nh))
        raise NotYet(f"For B = {B}, T = {T}, C = {C}, nh = {nh}, the largest difference from helpers.attention is "
                     f"{(answer - right).abs().max():.2g}. Print the shape after each step, and compare with the table "
                     "at the beginning of section 5.")
    if "scaled_dot_product_attention" not in calls.names:
        return "You did it all by hand. F.scaled_dot_product_attention(q, k, v, is_causal=True) does most of it."
    return "This is the result of Model 5's own attention, with the same PyTorch call."


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
    result, right = attempt(heads.clone(), w_0.clone()), head_contributions(heads, w_0)
    if isinstance(result, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in result):
        raise NotYet("You return a list of tensors: torch.stack it in dimension 1.")
    answer = as_floats(result)
    if same(answer, right.sum(1)):
        raise NotYet("That is already their sum. Keep one term per head: the shape is (B, nh, T, C).")
    if answer.shape != right.shape:
        raise NotYet(f"Expected the shape (B, nh, T, C) = {tuple(right.shape)}; yours is {tuple(answer.shape)}.")
    rows = torch.stack([heads[:, h] @ w_0[4 * h : 4 * h + 4] for h in range(3)], dim=1)
    strided = torch.stack([heads[:, h] @ w_0[:, h::3].T for h in range(3)], dim=1)
    name_the_mistake(answer, [
        ("w_0 is laid out as in nn.Linear, (out, in): a head owns hs of its columns, not of its rows.", rows),
        ("You give a head every nh-th column. Its columns are adjacent, as its elements are after merging.", strided),
    ])
    if not torch.allclose(answer.sum(1), attention.merge_heads(heads) @ w_0.T, atol=1e-3):
        raise NotYet("Added up over the heads, the contributions do not give merge_heads(heads) @ w_0.T, as they must.")
    if not same(answer, right):
        raise NotYet("The sum is right, but not each head's part. Head h owns the columns h * hs : (h + 1) * hs.")
    return "Their sum is the output, so “concatenate and multiply by W0” means “add up the heads' contributions”."


# --- a head made by hand ---------------------------------------------------------------------------------------------


def offset_head(T, n):
    """q and k, both (T, d_k), of a head in which every token t >= n looks at token t - n."""
    k = torch.eye(T)  # key s points in direction s
    q = 20 * math.sqrt(T) * torch.eye(T).roll(n, dims=0)  # query t points in direction t - n and is long
    q[:n] = 0  # the first n tokens have no token n before them
    return q, k


def _test_offset(attempt):
    """Tries three pairs of length and offset. Any width and any scale that work are accepted."""
    for T, n in ((8, 1), (10, 3), (5, 0)):
        answer = needs_answer(attempt(T, n))
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise NotYet("Return two tensors, the queries and the keys: return q, k.")
        q, k = map(as_floats, answer)
        if q.shape != k.shape or q.ndim != 2 or len(q) != T:
            raise NotYet(f"q and k need {T} rows and the same width; yours are {tuple(q.shape)}, {tuple(k.shape)}.")
        weights = attention.attention_weights(q, k)
        if not torch.isfinite(weights).all():
            raise NotYet("Some weights are not finite. Use long vectors, not infinite ones.")
        largest, target = weights.argmax(-1)[n:], torch.arange(T - n)
        if n and (largest == target + n).all():
            raise NotYet("Your tokens look at themselves. Query t must point where key t - n points.")
        scores = attention.attention_scores(q, k)
        if n and (scores.argmax(-1)[: T - n] == torch.arange(n, T)).all():
            raise NotYet(f"Your queries point {n} forward, where the mask hides the keys. Query t must match key "
                         f"t - {n}.")
        if (largest != target).any():
            t = n + (largest != target).nonzero()[0].item()
            raise NotYet(f"For T = {T} and n = {n}, the largest weight of row {t} is at token {largest[t - n]}, not at "
                         f"token t - n = {t - n}.")
        hits = weights.diagonal(-n)
        if hits.min() < 0.99:
            raise NotYet(f"The right token gets weight {hits.min():.2f} only. Longer queries make softmax sharper.")
    return "Training finds such heads by itself: section 9 shows them."


loss = Exercise(
    "The loss of one prediction", 1, 3,
    (
        "There are two steps, both in the formulas above: softmax turns the target's score into a probability; the "
        "loss is minus its natural logarithm.",
        "z.exp() has the numerators of all tokens, and its sum is the denominator. Divide, take the element of the "
        "target, and return minus its log().",
    ),
    _test_loss, prediction_loss,
)
window = Exercise(
    "An average over a window", 1, 5,
    (
        "Begin with a table of 0 and 1: which tokens s may row t use? You can build it from two triangles.",
        "torch.ones(T, T).tril() is 1 for the past, including token t. torch.ones(T, T).tril(-w) is 1 exactly where a "
        "token is too old.",
        "Subtract the second triangle from the first, then divide each row by its sum (dim=1, keepdim=True).",
    ),
    _test_window, window_average,
)
causal = Exercise(
    "Causal attention by hand", 2, 10,
    (
        "There are four steps: scores, mask, softmax, weighted sum. In which of them do two tokens meet?",
        "The scores are q @ k.transpose(-2, -1), divided by the square root of q.shape[-1]. A table that is True above "
        "the diagonal is torch.ones(T, T).triu(1).bool().",
        "scores.masked_fill(that table, float('-inf')), then softmax over the last dimension, then @ v.",
    ),
    _test_attention, causal_attention,
)
heads = Exercise(
    "Several heads in PyTorch", 2, 10,
    (
        "There are five steps: multiply by the fused matrix and add its bias; separate Q, K, V; split them into heads; "
        "call PyTorch's function; merge, and multiply by the output matrix. Follow the shapes in section 5's table.",
        "F.linear(x, w, b) is x @ w.T + b. chunk(3, dim=-1) makes Q, K, V. Splitting is view(B, T, nh, C // nh) and "
        "transpose(1, 2). PyTorch's function divides by sqrt(hs) itself, but masks only with is_causal=True.",
        "Merging is splitting backwards: transpose(1, 2), then reshape(B, T, C). Last comes F.linear with w_0 and b_0.",
    ),
    _test_heads, multi_head,
)
contributions = Exercise(
    "What each head adds", 2, 10,
    (
        "The merged vector is [head 0, head 1, ...]. In merged @ w_0.T, which columns of w_0 does head h meet?",
        "The columns h * hs to (h + 1) * hs. So head h adds heads[:, h] @ (those columns).T, of shape (B, T, C).",
        "Make a list of these products, one for each h, and torch.stack it in dimension 1.",
    ),
    _test_contributions, head_contributions,
)
offset = Exercise(
    "A head that looks n tokens back", 3, 15,
    (
        "A score is large when query and key point in the same direction. Give each key its own: torch.eye has "
        "one per row. Where must query t point?",
        "Query t is the key of token t - n: torch.eye(T).roll(n, dims=0). So far the scores are 0 and 1 / sqrt(d_k), "
        "too close together for a weight of 0.99.",
        "The gap must be about 10 after the division by sqrt(d_k): multiply the queries by at least "
        "10 * math.sqrt(d_k).",
    ),
    _test_offset, offset_head,
)
