"""Exercises of notebook 01: the loss of one prediction, an average over a window, a soft look-up, causal attention by
hand, splitting into heads and merging them, what each head adds, a head made by hand, attention backwards."""

import math

import torch

from helpers import attention
from helpers.course.checking import Exercise, NotYet, as_floats, describe, name_the_mistake, needs_answer, same
from helpers.course.exercises.attention_mistakes import (
    advice_on_errors, attention_mistakes, finite_masks, gradient_mistakes, name_the_nan, product_errors, swapped_inputs
)


def random_tensors(seed, *shapes):
    """Tensors of these shapes from a standard normal distribution, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


# --- the loss of one prediction --------------------------------------------------------------------------------------


def prediction_loss(z, target):
    """The scores z (V,) and the id of the actual next token -> the loss in nats, -ln softmax(z)[target]."""
    z = z - z.max()  # changes no probability, and no power of e can overflow
    return z.exp().sum().log() - z[target]


def _loss_mistakes(z, target):
    """What typical mistakes give: [(message, a number)]."""
    P = z.softmax(dim=0)
    return [
        ("Check the sign: ln P is negative, because P is below 1. The loss is -ln P.", P[target].log()),
        ("That is the probability. The loss is minus its logarithm.", P[target]),
        ("That is 1 - P. The loss is minus the logarithm of P.", 1 - P[target]),
        ("That is in bits, with the logarithm to base 2. For nats, use the natural logarithm.", -P[target].log2()),
        ("That is the logarithm to base 10. For nats, use torch.log or math.log.", -P[target].log10()),
        ("A score is not a probability: softmax comes first, and e^z before the division.",
         -(z / z.sum())[target].log()),
        ("That is minus the score. Softmax turns it into a probability; the loss is minus its logarithm.", -z[target]),
        ("Only the actual next token counts. You averaged over all tokens.", -P.log().mean()),
        ("Only the actual next token counts. You added up all tokens.", -P.log().sum()),
        ("This is the loss for a different token, not for `target`. Ids count from 0.", -P[target - 1].log()),
        ("This is right for the token after `target`: do not shift the id.", -P[target + 1].log()),
        ("That is the loss for the most likely token, not for the actual next one.", -P.max().log()),
    ]


def _test_loss(attempt):
    """Tries uneven scores, where every mistake gives a different value, then equal scores and very large ones."""
    for z, target in ((torch.tensor([3.0, 0.5, 1.0, 2.0, 0.25]), 2),
                      (torch.tensor([-0.5, 1.5, 0.75, -2.0, 2.5, 1.0, 0.25]), 5)):
        answer = as_floats(attempt(z.clone(), target))
        if answer.numel() != 1:
            raise NotYet(f"The loss of one prediction is a single number; yours has the shape {tuple(answer.shape)}.")
        answer, right = _number(answer), -z.log_softmax(dim=0)[target]
        name_the_mistake(answer, _loss_mistakes(z, target))
        if not same(answer, right):
            raise NotYet(f"For z = {z.tolist()} and target {target}, your loss is {answer:.3f}. Write down softmax(z) "
                         "first: which of its elements belongs to the target?")
    uniform = as_floats(attempt(torch.zeros(50), 7))
    if uniform.numel() != 1 or not same(_number(uniform), torch.tensor(math.log(50))):
        raise NotYet(f"This is right for 5 and for 7 scores. For 50 equal scores, expected ln 50 = {math.log(50):.3f}; "
                     f"got {uniform.tolist()}.")
    large = torch.tensor([120.0, 118.0, 121.0])
    answer = as_floats(attempt(large.clone(), 0))
    if answer.numel() != 1 or not same(_number(answer), -large.log_softmax(dim=0)[0]):
        raise NotYet(f"For the scores {large.tolist()} you return {answer.tolist()}: e^120 is too large for a 32-bit "
                     "number. Subtract the largest score from all of them first. It changes no probability.")
    return f"With 50 equal scores it gives ln 50 = {math.log(50):.3f}, and scores of 120 do not overflow."


def _number(answer):
    """The only element of an answer as a tensor without dimensions, with the answer's tolerance."""
    number = answer.reshape(())
    number.tolerance = answer.tolerance
    return number


# --- an average over a window ----------------------------------------------------------------------------------------


def window_average(T, w):
    """The matrix (T, T) whose row t averages the last w tokens up to t, or all of them where there are fewer."""
    window = torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)  # 1 for the tokens t - w + 1 to t
    return window / window.sum(dim=1, keepdim=True)


def _test_window(attempt):
    """Tries two windows that fit into the text and one that is longer than the text."""
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
    if not same(answer.sum(1), torch.ones(T), answer.tolerance):
        wrong_axis, table = same(answer.sum(0), torch.ones(T), answer.tolerance), (answer > 0).float()
        if same(answer, table / table.sum(1)):
            raise NotYet("Some rows sum to more than 1: without keepdim=True the sums divide the columns.")
        raise NotYet("Your columns sum to 1, but each row must. Divide by the sum over dim=1." if wrong_axis else
                     "Each row must sum to 1. The first rows have fewer than w tokens to average.")
    for other in (1, T, w + 1, w - 1):
        if same(answer, window_average(T, other)):
            raise NotYet(f"For T = {T} and w = {w}, expected {w} entries above 0 in the last row; yours has {other}.")
    if not same(answer, right):
        raise NotYet("Row t has 1 / (number of its tokens) from token max(0, t - w + 1) to token t, and 0 elsewhere.")
    for T, w in ((4, 9), (9, 2)):
        if not same(as_floats(attempt(T, w)), window_average(T, w)):
            raise NotYet(f"This is right for T = 6 and w = 3, but not for T = {T} and w = {w}. Row t has 1 / (number "
                         "of its tokens) from token max(0, t - w + 1) to token t, and 0 elsewhere.")
    return "Some later models use such a sliding window to limit the cost of long texts."


# --- a soft look-up --------------------------------------------------------------------------------------------------


def soft_lookup(query, keys, values, scale):
    """query (d,), keys (N, d), values (N, m), scale: a number -> the mix of the values, (m,)."""
    weights = (scale * keys @ query).softmax(dim=0)  # (N, d) @ (d,) -> (N,), sums to 1
    return weights @ values  # (N,) @ (N, m) -> (m,)


def _lookup_mistakes(query, keys, values, scale):
    """What a soft look-up returns after typical mistakes: [(message, result)]."""
    similarity = keys @ query
    weights = (scale * similarity).softmax(dim=0)
    return [
        ("These are the weights. The result is the weighted sum of the values: weights @ values.", weights),
        ("These are the weighted values, one row for each key. Add up the rows.", weights[:, None] * values),
        ("That is the value of the best key alone, as in a dictionary. Mix all values, with the weights of a softmax.",
         values[similarity.argmax()]),
        ("The scale is missing: multiply the similarities by it before the softmax.", similarity.softmax(0) @ values),
        ("You divide by the scale. Multiply: a large scale makes the weights sharper.",
         (similarity / scale).softmax(0) @ values),
        ("The scale belongs inside the softmax. You multiply the result by it.",
         scale * similarity.softmax(0) @ values),
        ("The similarities are used as weights. Softmax makes weights of them: positive, with the sum 1.",
         scale * similarity @ values),
        ("The similarities are divided by their sum. Softmax takes e to their powers first.",
         similarity / similarity.sum() @ values),
        ("That is the plain mean of the values. Weight them by the similarity of query and key.", values.mean(dim=0)),
    ]


def _test_lookup(attempt):
    """Two dictionaries of different sizes, whose values are not as wide as their keys."""
    for seed, (N, d, m), scale in ((0, (5, 3, 2), 1.5), (1, (4, 2, 6), 0.7)):
        query, keys, values = random_tensors(seed, (d,), (N, d), (N, m))
        answer = as_floats(attempt(query.clone(), keys.clone(), values.clone(), scale))
        right = soft_lookup(query, keys, values, scale)
        name_the_mistake(answer, _lookup_mistakes(query, keys, values, scale))
        if answer.shape != right.shape:
            raise NotYet(f"{N} values of {m} elements are mixed into one of {m} elements; your result has the shape "
                         f"{tuple(answer.shape)}.")
        if not same(answer, right):
            raise NotYet(f"For {N} keys of {d} elements and the scale {scale}, the largest difference is "
                         f"{(answer - right).abs().max():.2g}. Print the weights: one for each key, with the sum 1?")
    return "It mixes 5 values and 4 values as it should. Attention does this for every token at once."


# --- causal attention by hand ----------------------------------------------------------------------------------------


def causal_attention(q, k, v):
    """q, k (..., T, d_k), v (..., T, d_v) -> (..., T, d_v)."""
    T, d_k = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (..., T, T)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)  # True above the diagonal
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    return weights @ v


def _test_attention(attempt):
    """Compares with the reference in two, three and four dimensions, and with typical mistakes so that it can name
    them. The last case is longer, and its scores are larger, so that a mask of -12 shows."""
    for seed, leading, T, d_k, d_v, scale in ((0, (2,), 5, 9, 6, 1), (1, (3, 2), 7, 4, 8, 1), (2, (), 40, 12, 3, 3)):
        q, k, v = random_tensors(seed, (*leading, T, d_k), (*leading, T, d_k), (*leading, T, d_v))
        q = scale * q
        with advice_on_errors(product_errors(q)):
            result = attempt(q.clone(), k.clone(), v.clone())
        answer = as_floats(result)
        right, weights = attention.attention(q, k, v), (*leading, T, T)
        if answer.shape == weights:
            raise NotYet(f"{weights} is the shape of the weights. The result is their product with v.")
        name_the_mistake(answer, swapped_inputs(q, k, v))
        if answer.shape != v.shape:
            raise NotYet(f"Expected the shape of v, {tuple(v.shape)}; your result has {tuple(answer.shape)}.")
        name_the_nan(answer)
        if not same(answer, right):
            name_the_mistake(answer, attention_mistakes(q, k, v) + finite_masks(q, k, v))
            raise NotYet(f"For random q and k of shape {tuple(q.shape)}, the largest difference from the reference is "
                         f"{(answer - right).abs().max():.2g}. Print the weights: are they 0 above the diagonal, and "
                         "do the rows sum to 1? If so, look at the number by which you divide the scores.")
    return "It equals helpers.attention.attention, for tensors of two, three and four dimensions."


# --- splitting into heads and merging them ---------------------------------------------------------------------------


def split_into_heads(x, nh):
    """x (B, T, C) -> (B, nh, T, hs), with hs = C / nh."""
    B, T, C = x.shape
    return x.reshape(B, T, nh, C // nh).transpose(1, 2)


def merged(heads):
    """heads (B, nh, T, hs) -> (B, T, C), with C = nh * hs."""
    B, nh, T, hs = heads.shape
    return heads.transpose(1, 2).reshape(B, T, nh * hs)


SIZES_OF_HEADS = ((2, 5, 3, 4), (3, 4, 2, 5))  # B, T, nh, hs


def _test_split(attempt):
    """Compares with the reference for two sets of sizes, and with the ways in which view goes wrong."""
    for B, T, nh, hs in SIZES_OF_HEADS:
        x = torch.arange(B * T * nh * hs).float().view(B, T, nh * hs)  # every element is different
        answer, right = as_floats(attempt(x.clone(), nh)), attention.split_heads(x, nh)
        name_the_mistake(answer, [
            ("The shape is right but the content is not: head 0 gets the first tokens only. Cut C into nh parts first, "
             "(B, T, nh, hs), and then exchange two dimensions.", x.view(B, nh, T, hs)),
            ("The cut is right. What is missing is the exchange of T and nh, so that the heads come before T: "
             "transpose(1, 2).", x.view(B, T, nh, hs)),
            ("You give a head every nh-th element. Its elements are adjacent: head 0 has the first hs.",
             x.view(B, T, hs, nh).permute(0, 3, 1, 2)),
            ("The heads come before the batch. Put them in dimension 1.", right.transpose(0, 1)),
        ])
        if answer.shape != right.shape:
            raise NotYet(f"For B = {B}, T = {T}, C = {nh * hs}, nh = {nh}, expected the shape {tuple(right.shape)}; "
                         f"yours is {tuple(answer.shape)}.")
        if not same(answer, right):
            raise NotYet("The shape is right, but not the content. Head h gets the elements h * hs to (h + 1) * hs of "
                         "every token.")
    return "Head h has the elements h * hs to (h + 1) * hs of every token, with 3 heads and with 2."


def _test_merge(attempt):
    """Compares with the reference for two sets of sizes, and with the ways in which reshape goes wrong."""
    for B, T, nh, hs in SIZES_OF_HEADS:
        heads = torch.arange(B * nh * T * hs).float().view(B, nh, T, hs)
        answer, right = as_floats(attempt(heads.clone())), attention.merge_heads(heads)
        name_the_mistake(answer, [
            ("The shape is right but the content is not: the heads' results end up in other tokens. Exchange nh and T "
             "before you reshape.", heads.reshape(B, T, nh * hs)),
            ("T is in front of nh now. What is missing is the last step: make one dimension of nh and hs.",
             heads.transpose(1, 2)),
            ("You mix the elements of the heads. Each head's hs elements stay side by side.",
             heads.permute(0, 2, 3, 1).reshape(B, T, nh * hs)),
            ("That is the sum of the heads. Put them side by side.", heads.sum(1)),
        ])
        if answer.shape != right.shape:
            raise NotYet(f"For B = {B}, nh = {nh}, T = {T}, hs = {hs}, expected the shape {tuple(right.shape)}; yours "
                         f"is {tuple(answer.shape)}.")
        if not same(answer, right):
            raise NotYet("The shape is right, but not the content. Token t's vector is head 0's row t, then head 1's "
                         "row t, and so on.")
    return "Each token has its heads' results side by side again, with 3 heads and with 2."


# --- what each head adds ---------------------------------------------------------------------------------------------


def head_contributions(heads, w_0):
    """heads (B, nh, T, hs), w_0 (C, C) as in nn.Linear -> (B, nh, T, C): what each head adds to the output."""
    B, nh, T, hs = heads.shape
    slices = w_0.view(-1, nh, hs)  # (C, C) -> (C, nh, hs): the columns that belong to each head
    return torch.stack([heads[:, h] @ slices[:, h].T for h in range(nh)], dim=1)


def _test_contributions(attempt):
    """Checks the sum over the heads first, then each head's part."""
    for seed, (B, nh, T, hs) in ((0, (2, 3, 5, 4)), (1, (3, 2, 4, 5))):
        C = nh * hs
        heads, w_0 = random_tensors(seed, (B, nh, T, hs), (C, C))
        result, right = attempt(heads.clone(), w_0.clone()), head_contributions(heads, w_0)
        if isinstance(result, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in result):
            raise NotYet("You return a list of tensors: torch.stack it in dimension 1.")
        answer = as_floats(result)
        if same(answer, right.sum(1)):
            raise NotYet("That is already their sum. Keep one term per head: the shape is (B, nh, T, C).")
        if answer.shape != right.shape:
            raise NotYet(f"Expected the shape (B, nh, T, C) = {tuple(right.shape)}; yours is {tuple(answer.shape)}.")
        rows = torch.stack([heads[:, h] @ w_0[hs * h : hs * h + hs] for h in range(nh)], dim=1)
        strided = torch.stack([heads[:, h] @ w_0[:, h::nh].T for h in range(nh)], dim=1)
        name_the_mistake(answer, [
            ("w_0 is laid out as in nn.Linear, (out, in): a head owns hs of its columns, not of its rows.", rows),
            ("You give a head every nh-th column. Its columns are adjacent, as its elements are after merging.",
             strided),
        ])
        if not torch.allclose(answer.sum(1), right.sum(1), atol=1e-3 if answer.tolerance < 1e-3 else 0.5):
            raise NotYet("Added up over the heads, the contributions do not give the merged heads @ w_0.T, as they "
                         "must.")
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
            raise NotYet("Return two tensors, the queries and the keys: return q, k. You returned "
                         f"{describe(answer)}.")
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
    return "Training finds such heads by itself: section 10 shows them."


# --- attention backwards ---------------------------------------------------------------------------------------------


def attention_gradients(q, k, v, dy):
    """q, k (T, d_k), v (T, d_v), dy (T, d_v): the loss's gradient with respect to the result y of causal attention ->
    its gradients with respect to q, k and v, of their shapes."""
    T, d_k = q.shape
    scores = q @ k.T / math.sqrt(d_k)
    w = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf).softmax(dim=-1)  # (T, T), 0 above the diagonal
    dv = w.T @ dy  # y = w @ v, so value s is in row t with the weight w[t, s]
    dw = dy @ v.T  # (T, T)
    ds = w * (dw - (dw * w).sum(dim=-1, keepdim=True))  # backwards through the softmax; 0 where w is 0
    return ds @ k / math.sqrt(d_k), ds.T @ q / math.sqrt(d_k), dv


NAMES_OF_GRADIENTS = ("q", "k", "v")


def _three_gradients(result, inputs):
    """A learner's three gradients as tensors. Raises NotYet for anything else, and for wrong shapes."""
    needs_answer(result)
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise NotYet(f"Return three tensors: return dq, dk, dv. You returned {describe(result)}.")
    gradients = [as_floats(gradient) for gradient in result]
    for name, gradient, own in zip(NAMES_OF_GRADIENTS, gradients, inputs):
        if gradient.shape != own.shape:
            raise NotYet(f"A gradient has the shape of what it belongs to: d{name} has {tuple(gradient.shape)}, "
                         f"{name} has {tuple(own.shape)}.")
        if not gradient.isfinite().all():
            raise NotYet(f"d{name} has an entry that is not finite. Compute the gradient of the scores from the "
                         "weights, which are 0 where the mask is: -inf itself is not needed backwards.")
    return gradients


def _test_backward(attempt):
    """Compares with automatic differentiation, dv first, and names the step that goes wrong."""
    for seed, T, d_k, d_v in ((0, 5, 3, 4), (1, 7, 6, 2)):
        q, k, v, dy = random_tensors(seed, (T, d_k), (T, d_k), (T, d_v), (T, d_v))
        with torch.enable_grad():
            inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
            right = torch.autograd.grad(attention.attention(*inputs), inputs, dy)
        answer = _three_gradients(attempt(q.clone(), k.clone(), v.clone(), dy.clone()), (q, k, v))
        for index, name in ((2, "v"), (0, "q"), (1, "k")):
            if same(answer[index], right[index]):
                continue
            name_the_mistake(answer[index], gradient_mistakes(q, k, v, dy)[name])
            done = {"v": "", "q": "dv is right. ", "k": "dv and dq are right. "}[name]
            raise NotYet(f"{done}For T = {T}, d_k = {d_k} and {d_v} elements per value, d{name} differs by up to "
                         f"{(answer[index] - right[index]).abs().max():.2g}.")
    return "All three gradients equal those of automatic differentiation, for T = 5 and for T = 7."


loss = Exercise(
    "The loss of one prediction", 1, 4,
    (
        "There are two steps, both in the formulas above: softmax turns the target's score into a probability; the "
        "loss is minus its natural logarithm.",
        "z.exp() has the numerators of all tokens, and its sum is the denominator. Divide, take the element of the "
        "target, and return minus its log().",
        "Scores of 120 overflow in exp(). Subtract z.max() from all scores first: numerator and denominator shrink by "
        "the same factor.",
    ),
    _test_loss, prediction_loss, by_hand=("cross_entropy", "nll_loss"),
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
lookup = Exercise(
    "A soft look-up", 1, 4,
    (
        "There are three steps: the similarity of the query with each key, softmax, and a weighted sum of the values.",
        "keys @ query has one dot product for each key. Multiply them by the scale, then softmax(dim=0).",
        "A weighted sum of the rows of values is weights @ values.",
    ),
    _test_lookup, soft_lookup, by_hand=("scaled_dot_product_attention",),
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
    by_hand=("scaled_dot_product_attention", "MultiheadAttention", "multi_head_attention_forward", "helpers.attention"),
)
split = Exercise(
    "Split into heads", 2, 4,
    (
        "A token's C elements must be cut into nh parts of C // nh. Which shape do you ask for, if B and T are to stay "
        "as they are?",
        "x.reshape(B, T, nh, C // nh) cuts each token's vector. Then T and nh are in the wrong order.",
        "transpose(1, 2) exchanges dimension 1 and dimension 2.",
    ),
    _test_split, split_into_heads, by_hand=("helpers.attention",),
)
merge = Exercise(
    "Merge the heads", 1, 3,
    (
        "Merging is splitting backwards: the last step of splitting is undone first.",
        "transpose(1, 2) brings T in front of nh. Then nh and hs become one dimension: reshape(B, T, nh * hs).",
    ),
    _test_merge, merged, by_hand=("helpers.attention",),
)
contributions = Exercise(
    "What each head adds", 2, 7,
    (
        "The merged vector is [head 0, head 1, ...]. In merged @ w_0.T, which columns of w_0 does head h meet?",
        "The columns h * hs to (h + 1) * hs. So head h adds heads[:, h] @ (those columns).T, of shape (B, T, C).",
        "Make a list of these products, one for each h, and torch.stack it in dimension 1.",
    ),
    _test_contributions, head_contributions,
)
offset = Exercise(
    "A head that looks n tokens back", 2, 8,
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
backward = Exercise(
    "Attention backwards", 3, 25,
    (
        "Go through the forward steps in reverse: y = w @ v, the softmax, the mask, the division, q @ k.T. You need "
        "the weights w, so compute them first, as forward. Which gradient needs the weights and dy only?",
        "For a product y = w @ v: dv = w.T @ dy and dw = dy @ v.T. Check the shapes: dw is (T, T), as w is.",
        "Backwards through the softmax, row by row: ds = w * (dw - (dw * w).sum(dim=-1, keepdim=True)). Masked scores "
        "need no step of their own: their w is 0, so their ds is 0.",
        "The scores are q @ k.T / sqrt(d_k), again a product: dq = ds @ k / sqrt(d_k) and dk = ds.T @ q / sqrt(d_k).",
    ),
    _test_backward, attention_gradients,
    by_hand=("Tensor.backward", "autograd.backward", "autograd.grad", "autograd.functional", "_functorch"),
)
