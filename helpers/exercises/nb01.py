"""Exercises of notebook 01: the loss of one prediction, an average over a window, causal attention by hand, several
heads in PyTorch, what each head adds, a head made by hand."""

import math

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers import attention
from helpers.exercises import Exercise, NotYet, needs_answer


def numbers(answer):
    """A learner's answer as a tensor of 32-bit numbers: Python numbers, arrays and other precisions count too."""
    return torch.as_tensor(needs_answer(answer)).detach().float()


def same(answer, right):
    """Whether a learner's tensor has the right shape and numbers."""
    return answer.shape == right.shape and torch.allclose(answer, right.detach().float(), rtol=1e-4, atol=1e-4)


def name_the_slip(answer, slips):
    """Raises NotYet with the sentence whose result the answer equals. slips: (sentence, result of that slip) pairs."""
    for sentence, result in slips:
        if same(answer, result):
            raise NotYet(sentence)


# --- the loss of one prediction --------------------------------------------------------------------------------------


def prediction_loss(z, target):
    """The scores z (V,) and the id of the token that came -> the loss in nats, -ln softmax(z)[target]."""
    powers = z.exp()  # (V,)
    return -(powers[target] / powers.sum()).log()


def _test_loss(attempt):
    """Tries uneven scores, where every slip gives another number, and then a uniform guess."""
    z, target = torch.tensor([3.0, 0.5, 1.0, 2.0, 0.25]), 2
    answer = numbers(attempt(z.clone(), target))
    if answer.numel() != 1:
        raise NotYet(f"The loss of one prediction is one number; yours has the shape {tuple(answer.shape)}.")
    answer, P = answer.reshape(()), z.softmax(dim=0)
    slips = {
        "The sign: ln P is negative, because P is below 1. The loss is its opposite.": P[target].log(),
        "That is the probability. The loss is minus its logarithm.": P[target],
        "That is 1 - P. The loss is minus the logarithm of P.": 1 - P[target],
        "That is in bits, with the logarithm to the base 2. A nat has the natural logarithm.": -P[target].log2(),
        "That is the logarithm to the base 10. A nat has the natural one, torch.log or math.log.": -P[target].log10(),
        "A score is not a probability: softmax comes first, and e^z before the division.": -(z / z.sum())[target].log(),
        "That is minus the score. Softmax makes it a probability, and the loss is minus the logarithm.": -z[target],
        "Only the token that came counts. You averaged over all of them.": -P.log().mean(),
        "Only the token that came counts. You added up all of them.": -P.log().sum(),
        "Right for another token than the one with the id `target`. Ids count from 0.": -P[target - 1].log(),
        "Right for the token after `target`: no id is shifted here.": -P[target + 1].log(),
        "That is the loss of the likeliest token, not of the one that came.": -P.max().log(),
    }
    name_the_slip(answer, slips.items())
    if not same(answer, -P[target].log()):
        raise NotYet(f"For z = {z.tolist()} and target {target} your loss is {answer:.3f}. Write down softmax(z) "
                     "first: which of its numbers belongs to the target?")
    uniform = numbers(attempt(torch.zeros(50), 7)).reshape(())
    if not same(uniform, torch.tensor(math.log(50))):
        raise NotYet(f"Right for five scores. For 50 equal scores the loss is ln 50 = {math.log(50):.3f}; yours is "
                     f"{uniform:.3f}.")
    return f"With 50 equal scores it gives ln 50 = {math.log(50):.3f}: a guess that knows nothing costs ln V."


# --- an average over a window ----------------------------------------------------------------------------------------


def window_average(T, w):
    """The matrix (T, T) whose row t averages the last w tokens up to t, or all of them where there are fewer."""
    window = torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)  # 1 for the tokens t - w + 1 to t
    return window / window.sum(dim=1, keepdim=True)


def _test_window(attempt):
    """Tries a window within the text and one that is longer than it."""
    T, w = 6, 3
    answer, right = numbers(attempt(T, w)), window_average(T, w)
    if tuple(answer.shape) != (T, T):
        raise NotYet(f"For T = {T} the matrix has the shape ({T}, {T}); yours has {tuple(answer.shape)}.")
    if answer.triu(1).nan_to_num().any():
        raise NotYet("A number above the diagonal is not 0: there a token looks at a later one.")
    if not answer.diagonal().nan_to_num().all():
        raise NotYet("A number on the diagonal is 0. Token t is one of the last w tokens, so its row counts it too.")
    if same(answer, (right > 0).float()):
        raise NotYet("The right tokens, but with the weight 1 each: that is their sum. Divide each row by its sum.")
    if not same(answer.sum(1), torch.ones(T)):
        wrong_axis, table = same(answer.sum(0), torch.ones(T)), (answer > 0).float()
        if same(answer, table / table.sum(1)):
            raise NotYet("Rows sum to more than 1: without keepdim=True the sums divide the columns.")
        raise NotYet("Your columns sum to 1. Each row must: divide by the sum over dim=1." if wrong_axis else
                     "Each row must sum to 1. The first rows have fewer than w tokens to average.")
    for other in (1, T, w + 1, w - 1):
        if same(answer, window_average(T, other)):
            raise NotYet(f"For T = {T}, w = {w} the last row has {w} numbers above 0; yours has {other}.")
    if not same(answer, right) or not same(numbers(attempt(4, 9)), window_average(4, 9)):
        raise NotYet("Row t has 1 / (number of its tokens) from token t - w + 1, or 0, to token t, and 0 elsewhere.")
    return "Such a sliding window is how some later models limit the cost of long texts."


# --- causal attention by hand ----------------------------------------------------------------------------------------


def causal_attention(q, k, v):
    """q, k, v (..., T, d_k) -> (..., T, d_k)."""
    T, d_k = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (..., T, T)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)  # True above the diagonal
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    return weights @ v


NOBODY = "A token may look at itself. Your mask hides the diagonal too: begin one above it, with triu(1)."
NOT_DIVIDED = "The scores are not divided by the square root of a query's width."
WRONG_WIDTH = "You divide by sqrt(C). Each query has only hs = C / nh numbers: divide by sqrt(hs)."


def name_the_nan(answer):
    """Raises NotYet if an attention's result (..., T, C) has a nan. Which tokens have one tells where it comes from."""
    nan = answer.isnan().any(-1).flatten(end_dim=-2).any(0)  # (T,)
    if nan.all():
        raise NotYet("Every token gets nan. Does your mask multiply by -inf? 0 * inf is nan. Use masked_fill or "
                     "torch.where instead of multiplying by -inf.")
    if nan[-1] and not nan[:-1].any():
        raise NotYet("Some weights are nan: your mask hides the past and shows the future. Hide what is above the "
                     "diagonal, triu(1).")
    if answer[..., 1:, :].isnan().any():
        raise NotYet("Some numbers are nan, which is what softmax makes of -inf alone. Over which dimension is yours?")
    if answer.isnan().any():
        raise NotYet(f"Token 0 gets nan, which is what softmax makes of -inf alone. {NOBODY}")


def attention_slips(q, k, v):
    """What attention gives with typical slips, alone and in pairs: q, k, v (..., T, hs) -> [(sentence, result)]."""
    T, width = q.shape[-2:]
    ones = torch.ones(T, T)

    def hide(scores, where, value=float("-inf")):
        return scores.masked_fill(where.bool(), value)

    scalings = {
        "": 1 / math.sqrt(width),
        NOT_DIVIDED: 1.0,
        "You divide by a query's width. Divide by its square root.": 1 / width,
        "You multiply by the square root of a query's width. Divide by it.": math.sqrt(width),
        "You divide by sqrt(T). It is not the number of tokens that counts, but a query's width: its square root.":
            1 / math.sqrt(T),
    }
    maskings = {
        "": lambda scores: hide(scores, ones.triu(1)).softmax(-1),
        "Your tokens look at later ones. Put -inf above the diagonal, before the softmax.":
            lambda scores: scores.softmax(-1),
        "Your weights do not sum to 1: the mask comes before the softmax, not after it.":
            lambda scores: scores.softmax(-1).tril(),
        "A masked score must be -inf: softmax gives a score of 0 a weight above 0.":
            lambda scores: scores.tril().softmax(-1),
        "The softmax runs over the queries. It belongs over the keys, the last dimension: each row must sum to 1.":
            lambda scores: hide(scores, ones.triu(1)).softmax(-2),
        "Your tokens look one step ahead. The mask begins one above the diagonal: triu(1).":
            lambda scores: hide(scores, ones.triu(2)).softmax(-1),
        NOBODY: lambda scores: hide(scores, ones.triu(), -1e9).softmax(-1),
        "Your mask hides the past and shows the future. Hide what is above the diagonal, not below it.":
            lambda scores: hide(scores, ones.tril(-1)).softmax(-1),
        "The table of scores goes to the values without a softmax. Its rows must become weights that sum to 1.":
            lambda scores: scores.tril(),
    }
    scores = q @ k.transpose(-2, -1)
    finite = "A masked score must be -inf: a finite one, such as -10, still gets a weight above 0."
    return [
        *((f"{masking} {scaling}".strip(), weigh(scores * factor) @ v)
          for masking, weigh in maskings.items() for scaling, factor in scalings.items() if masking or scaling),
        *((finite, hide(scores / math.sqrt(width), ones.triu(1), value).softmax(-1) @ v) for value in range(-10, 0)),
    ]


def _swapped(q, k, v):
    """What attention gives when its three inputs change places: [(sentence, result)]."""
    return [
        ("q and k have changed places. Each row of the scores belongs to a query: q @ k.transpose(-2, -1).",
         attention.attention(k, q, v)),
        ("The weights are right, but you multiply them by q. The weighted sum is over the values: weights @ v.",
         attention.attention(q, k, q)),
        ("The weights are right, but you multiply them by k. The weighted sum is over the values: weights @ v.",
         attention.attention(q, k, k)),
    ]


class _Calls(TorchFunctionMode):
    """Writes down the names of the PyTorch functions that are called inside it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def _test_attention(attempt):
    """Compares with the reference, and with typical slips so that it can name them."""
    q, k, v = torch.randn(3, 2, 5, 9, generator=torch.Generator().manual_seed(0))  # each (2, 5, 9)
    with _Calls() as calls:
        result = attempt(q.clone(), k.clone(), v.clone())
    answer, right = numbers(result), attention.attention(q, k, v)
    if answer.shape == (2, 5, 5):
        raise NotYet("(2, 5, 5) is the shape of the weights. The result is their product with v.")
    if answer.shape != v.shape:
        raise NotYet(f"v has the shape {tuple(v.shape)}, and so must the result; yours has {tuple(answer.shape)}.")
    name_the_nan(answer)
    if not same(answer, right):
        name_the_slip(answer, attention_slips(q, k, v) + _swapped(q, k, v))
        raise NotYet(f"For random q, k, v of shape {tuple(q.shape)} the largest difference from the reference is "
                     f"{(answer - right).abs().max():.2g}. Print the table of weights: is it a triangle, and do its "
                     "rows sum to 1?")
    praise = "It equals helpers.attention.attention, for any number of leading dimensions."
    if "scaled_dot_product_attention" in calls.names:
        return f"{praise} PyTorch's function did it; now write it by hand."
    return praise


# --- several heads in PyTorch ----------------------------------------------------------------------------------------


def multi_head(x, w_qkv, b_qkv, w_0, b_0, nh):
    """x (B, T, C), w_qkv (3C, C), b_qkv (3C,), w_0 (C, C), b_0 (C,) -> (B, T, C)."""
    B, T, C = x.shape
    q, k, v = F.linear(x, w_qkv, b_qkv).chunk(3, dim=-1)  # three times (B, T, C)
    q, k, v = (part.view(B, T, nh, C // nh).transpose(1, 2) for part in (q, k, v))  # (B, nh, T, hs)
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, nh, T, hs)
    return F.linear(heads.transpose(1, 2).reshape(B, T, C), w_0, b_0)


def multi_head_slips(x, w_qkv, b_qkv, w_0, b_0, nh):
    """What several heads give with typical slips: [(sentence, (B, T, C))]. Arguments as in multi_head."""
    B, T, C = x.shape
    parts = (x @ w_qkv.T + b_qkv).chunk(3, dim=-1)  # three times (B, T, C)
    q, k, v = (attention.split_heads(part, nh) for part in parts)  # (B, nh, T, hs)
    by_view = [part.reshape(B, nh, T, C // nh) for part in parts]  # the right shape, the wrong content
    in_tokens = [part.reshape(B, T, nh, C // nh) for part in parts]  # without the transpose
    unbiased = [attention.split_heads(part, nh) for part in (x @ w_qkv.T).chunk(3, dim=-1)]
    among_heads = (in_tokens[0] @ in_tokens[1].transpose(-2, -1) / math.sqrt(C // nh)).softmax(-1) @ in_tokens[2]
    heads = attention.attention(q, k, v)

    def finish(heads):
        return attention.merge_heads(heads) @ w_0.T + b_0

    def straight(heads):  # merged without a transpose
        return heads.reshape(B, T, C) @ w_0.T + b_0

    def turned(heads):  # merged with a transpose, but there was none in the splitting
        return straight(heads.transpose(1, 2))

    splitting = "Splitting: view(B, nh, T, hs) gives head 0 the first tokens only. Ask for (B, T, nh, hs) first."
    dimensions = ("Attention runs over the last but one dimension. That must be T, not the heads. Each head must stand "
                  "in front of T: transpose(1, 2) after view.")
    return [
        *((sentence, finish(result)) for sentence, result in attention_slips(q, k, v)),
        (WRONG_WIDTH, finish(attention.attention(q / math.sqrt(nh), k, v))),
        (splitting, straight(attention.attention(*by_view))),
        (splitting, finish(attention.attention(*by_view))),
        ("Merging: the heads' numbers end up in other tokens. transpose(1, 2) comes before reshape(B, T, C).",
         straight(heads)),
        (dimensions, straight(attention.attention(*in_tokens))),
        (dimensions, straight(among_heads)),
        (dimensions, turned(attention.attention(*in_tokens))),
        (dimensions, turned(among_heads)),
        ("That is one head of full width. Split Q, K and V into heads first.",
         attention.attention(*parts) @ w_0.T + b_0),
        ("The heads are right. What is missing is the last matrix, W0 (c_proj), which mixes what they found.",
         attention.merge_heads(heads)),
        ("The last matrix is laid out as in nn.Linear, (out, in): multiply by its transpose.",
         attention.merge_heads(heads) @ w_0 + b_0),
        ("The bias of the last matrix is missing.", finish(heads) - b_0),
        ("The bias of the fused matrix is missing.", finish(attention.attention(*unbiased))),
        ("Q and K have changed places. The order in the fused matrix is Q, K, V.",
         finish(attention.attention(k, q, v))),
        ("V comes last: the order in the fused matrix is Q, K, V.", finish(attention.attention(k, v, q))),
        ("Right, but for one thing: x itself is added outside of attention, in the block (notebook 02).",
         finish(heads) + x),
    ]


def _slips_of_the_call(x, w_qkv, b_qkv, w_0, b_0, nh):
    """Slips in calling F.scaled_dot_product_attention, which by hand would have other names."""
    q, k, v = (attention.split_heads(part, nh) for part in (x @ w_qkv.T + b_qkv).chunk(3, dim=-1))
    open_ended, twice = F.scaled_dot_product_attention(q, k, v), attention.attention(q / math.sqrt(q.shape[-1]), k, v)
    slips = (("Your tokens look at later ones: the mask is missing. In PyTorch's function it is is_causal=True.",
              open_ended),
             ("The scores are divided twice. F.scaled_dot_product_attention divides by sqrt(hs) itself.", twice))
    return [(sentence, F.linear(attention.merge_heads(heads), w_0, b_0)) for sentence, heads in slips]


def _test_heads(attempt):
    """Random weights and biases, and a T that is neither nh nor hs, so that no mixed-up shape goes unseen."""
    generator = torch.Generator().manual_seed(0)
    B, T, C, nh = 2, 7, 12, 3
    shapes = (B, T, C), (3 * C, C), (3 * C,), (C, C), (C,)
    inputs = [torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) for shape in shapes]
    try:
        with _Calls() as calls:
            result = attempt(*(tensor.clone() for tensor in inputs), nh)
    except RuntimeError as error:
        if f"and {3 * C}x{C})" in str(error):  # the shapes of a matrix product that cannot be
            raise NotYet("w_qkv is (out, in): x @ w_qkv.T. F.linear transposes it by itself.") from error
        raise
    answer, right = numbers(result), attention.multi_head_attention(*inputs, nh)
    if answer.shape != right.shape:
        raise NotYet(f"x has the shape {tuple(right.shape)}, and so must the result; yours has {tuple(answer.shape)}.")
    name_the_nan(answer)
    if not same(answer, right):
        name_the_slip(answer, _slips_of_the_call(*inputs, nh) + multi_head_slips(*inputs, nh))
        raise NotYet(f"For B = {B}, T = {T}, C = {C}, nh = {nh} the largest difference from helpers.attention is "
                     f"{(answer - right).abs().max():.2g}. Print the shape after each step, and compare with the table "
                     "at the beginning of section 5.")
    if "scaled_dot_product_attention" not in calls.names:
        return "And all by hand. F.scaled_dot_product_attention(q, k, v, is_causal=True) does its middle in one call."
    return "These are the numbers of Model 5's own attention, by the call that it uses."


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
        raise NotYet("A list of tensors: torch.stack it in dimension 1.")
    answer = numbers(result)
    if same(answer, right.sum(1)):
        raise NotYet("That is already their sum. Keep one term per head: the shape is (B, nh, T, C).")
    if answer.shape != right.shape:
        raise NotYet(f"Expected the shape (B, nh, T, C) = {tuple(right.shape)}; yours is {tuple(answer.shape)}.")
    rows = torch.stack([heads[:, h] @ w_0[4 * h : 4 * h + 4] for h in range(3)], dim=1)
    strided = torch.stack([heads[:, h] @ w_0[:, h::3].T for h in range(3)], dim=1)
    name_the_slip(answer, [
        ("w_0 is laid out as in nn.Linear, (out, in): a head owns hs of its columns, not of its rows.", rows),
        ("You give a head every nh-th column. Its columns lie side by side, as its numbers do when merged.", strided),
    ])
    if not torch.allclose(answer.sum(1), attention.merge_heads(heads) @ w_0.T, atol=1e-3):
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
        answer = needs_answer(attempt(T, n))
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise NotYet("Return two tensors, the queries and the keys: return q, k.")
        q, k = map(numbers, answer)
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
            raise NotYet(f"Your queries point {n} forward, where the mask hides the keys. Query t matches key t - {n}.")
        if (largest != target).any():
            t = n + (largest != target).nonzero()[0].item()
            raise NotYet(f"For T = {T}, n = {n} the largest weight of row {t} is at token {largest[t - n]}, not at "
                         f"token t - n = {t - n}.")
        hits = weights.diagonal(-n)
        if hits.min() < 0.99:
            raise NotYet(f"The right token, but with weight {hits.min():.2f}. Longer queries make softmax sharper.")
    return "A trained model finds such heads by itself: section 9 shows them."


loss = Exercise(
    "The loss of one prediction", 1, 3,
    (
        "Two steps, both in the formulas above: softmax makes a probability of the target's score; the loss is minus "
        "its natural logarithm.",
        "z.exp() has the numerators of all tokens, and its sum is the denominator. Index the target in the quotient. "
        "Then log(), with a minus.",
    ),
    _test_loss, prediction_loss,
)
window = Exercise(
    "An average over a window", 1, 5,
    (
        "Begin with a table of 0 and 1: which tokens s may row t use? Two triangles are enough to make it.",
        "torch.ones(T, T).tril() has the past, token t included. torch.ones(T, T).tril(-w) is 1 exactly where a token "
        "is too old.",
        "Take the second triangle away from the first, then divide each row by its sum (dim=1, keepdim=True).",
    ),
    _test_window, window_average,
)
causal = Exercise(
    "Causal attention by hand", 2, 10,
    (
        "Four steps: scores, mask, softmax, weighted sum. In which of them do two tokens meet?",
        "The scores are q @ k.transpose(-2, -1), divided by the square root of q.shape[-1]. A table that is True above "
        "the diagonal is torch.ones(T, T).triu(1).bool().",
        "scores.masked_fill(that table, float('-inf')), then softmax over the last dimension, then @ v.",
    ),
    _test_attention, causal_attention,
)
heads = Exercise(
    "Several heads in PyTorch", 2, 10,
    (
        "Five steps: the fused matrix and its bias; cut into Q, K, V; split into heads; call PyTorch's function; "
        "merge, and the output matrix. Follow the shapes of the table at the beginning of section 5.",
        "F.linear(x, w, b) is x @ w.T + b. chunk(3, dim=-1) makes Q, K, V. Splitting is view(B, T, nh, C // nh) and "
        "transpose(1, 2). PyTorch's function divides by sqrt(hs) itself, but masks only if it is told: is_causal=True.",
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
        "A score is large when query and key point the same way. Give each key a direction of its own: torch.eye has "
        "one per row. Where must query t point?",
        "Query t is the key of token t - n: torch.eye(T).roll(n, dims=0). So far the scores are 0 and 1 / sqrt(d_k), "
        "too close together for a weight of 0.99.",
        "The gap must be about 10 after the division by sqrt(d_k): multiply the queries by 10 * math.sqrt(d_k) or "
        "more.",
    ),
    _test_offset, offset_head,
)
