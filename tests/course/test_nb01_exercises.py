"""Notebook 01's exercises: plausible wrong answers get a sentence that helps, right answers the right praise.

tests/course/exercise_cases/nb01.py has right answers of many styles."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers import attention
from helpers.course.exercises import nb01


def without_keepdim(T, w):
    table = torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)
    return table / table.sum(1)


def attention_with(weigh, scale=math.sqrt):
    """An attempt at causal attention. weigh: scores (..., T, T) -> weights; scale: d_k -> the divisor."""
    return lambda q, k, v: weigh(q @ k.transpose(-2, -1) / scale(q.shape[-1])) @ v


def hide(scores, diagonal=1, value=float("-inf")):
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(diagonal).bool(), value)


def masked(scores):
    return hide(scores).softmax(-1)


def every_third(heads, w_0):
    nh = heads.shape[1]
    return torch.stack([heads[:, h] @ w_0[:, h::nh].T for h in range(nh)], dim=1)


def shares_equally(heads, w_0):
    nh = heads.shape[1]
    return (attention.merge_heads(heads) @ w_0.T / nh).unsqueeze(1).expand(-1, nh, -1, -1)


def gradients_with(back=lambda w, dw: w * (dw - (dw * w).sum(1, keepdim=True)), scale=math.sqrt,
                   transpose=(False, True, True), weigh=attention.attention_weights, swap=False):
    """An attempt at the gradients. back: from w and dw to ds; transpose: whether ds for dq, ds for dk, w for dv is;
    swap: whether dq is computed with q, and dk with k."""
    def attempt(q, k, v, dy):
        w = weigh(q, k)
        ds = back(w, dy @ v.T) / scale(q.shape[1])
        by_query, by_key, by_value = (part.T if turn else part for part, turn in zip((ds, ds, w), transpose))
        return by_query @ (q if swap else k), by_key @ (k if swap else q), by_value @ dy
    return attempt


def only(index, attempt):
    """Gradients of which only one, dq (0), dk (1) or dv (2), is the attempt's."""
    def mixed(*arguments):
        right = list(nb01.attention_gradients(*arguments))
        right[index] = attempt(*arguments)[index]
        return right
    return mixed


def short_queries(T, n):
    q, k = nb01.offset_head(T, n)
    return q / 20, k


def forward(T, n):
    return 20 * math.sqrt(T) * torch.eye(T).roll(-n, dims=0), torch.eye(T)


def infinite(T, n):
    q, k = nb01.offset_head(T, n)
    return q * float("inf"), k


WRONG = {
    "loss": [
        (lambda z, target: z.log_softmax(0)[target], "Check the sign"),
        (lambda z, target: z.softmax(0)[target], "is the probability"),
        (lambda z, target: 1 - z.softmax(0)[target].item(), "1 - P"),
        (lambda z, target: -math.log2(z.softmax(0)[target]), "bits"),
        (lambda z, target: -z.softmax(0)[target].log10(), "base 10"),
        (lambda z, target: -(z / z.sum())[target].log(), "A score is not a probability"),
        (lambda z, target: -z[target], "minus the score"),
        (lambda z, target: -z.log_softmax(0).mean(), "averaged over all"),
        (lambda z, target: -z.log_softmax(0).sum(), "added up all"),
        (lambda z, target: -z.log_softmax(0)[target - 1], "a different token"),
        (lambda z, target: -z.log_softmax(0)[target + 1], "do not shift the id"),
        (lambda z, target: -z.log_softmax(0).max(), "most likely token"),
        (lambda z, target: -z.log_softmax(0), "a single number"),
        (lambda z, target: -z.sigmoid()[target].log(), "Write down softmax(z)"),
        (lambda z, target: -(z[target].exp() / z[:7].exp().sum()).log(), "50 equal scores"),
        (lambda z, target: -(z[target].exp() / z.exp().sum()).log(), "too large for a 32-bit"),
        (lambda z, target: -z.log_softmax(0)[2], "target 5"),
        (lambda z, target: "two", "a str: 'two'"),
    ],
    "window": [
        (lambda T, w: (torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)) / w, "fewer than w tokens"),
        (without_keepdim, "without keepdim=True"),
        (lambda T, w: nb01.window_average(T, w).T, "above the diagonal"),
        (lambda T, w: nb01.window_average(T, w + 1), "yours has 4"),
        (lambda T, w: nb01.window_average(T, w - 1), "yours has 2"),
        (lambda T, w: nb01.window_average(T, T), "yours has 6"),
        (lambda T, w: nb01.window_average(T, w).tril(-1), "on the diagonal is 0"),
        (lambda T, w: torch.ones(T, T).tril(-1) - torch.ones(T, T).tril(-w - 1), "on the diagonal is 0"),
        (lambda T, w: (nb01.window_average(T, w) > 0).float(), "that is their sum"),
        (lambda T, w: nb01.window_average(T, w).flip(0, 1).T, "Your columns sum to 1"),
        (lambda T, w: torch.ones(T), "matrix of shape (6, 6)"),
        (lambda T, w: nb01.window_average(T, 3), "not for T = 4 and w = 9"),
        (lambda T, w: F.normalize((torch.eye(T) + torch.eye(T)[0]).clamp(max=1), p=1), "1 / (number of its tokens)"),
    ],
    "causal": [
        (attention_with(lambda scores: scores.softmax(-1)), "later ones"),
        (attention_with(masked, scale=lambda d_k: 1), "not divided by the square root"),
        (attention_with(masked, scale=lambda d_k: d_k), "Divide by its square root"),
        (attention_with(masked, scale=lambda d_k: d_k**-0.5), "You multiply"),
        (attention_with(lambda scores: scores.softmax(-1).tril()), "not after it"),
        (attention_with(lambda scores: scores.tril().softmax(-1)), "must be -inf"),
        (attention_with(lambda scores: hide(scores).softmax(-2)), "over the queries"),
        (attention_with(lambda scores: hide(scores, 0).softmax(-1)), "hides the diagonal"),
        (attention_with(lambda scores: hide(scores, 0, -1e9).softmax(-1)), "hides the diagonal"),
        (attention_with(lambda scores: hide(scores, 2).softmax(-1)), "one step ahead"),
        (attention_with(lambda scores: hide(scores.mT).mT.softmax(-1)), "hides the past"),
        (attention_with(lambda scores: scores.softmax(-1), scale=lambda d_k: 1), "later ones"),
        (attention_with(lambda scores: scores.tril()), "without a softmax"),
        (attention_with(masked, scale=lambda d_k: math.sqrt(5)), "sqrt(T)"),
        (attention_with(lambda scores: scores.softmax(-1), scale=lambda d_k: math.sqrt(5)), "sqrt(T)"),
        (lambda q, k, v: masked(q @ k.mT / math.sqrt(v.shape[-1])) @ v, "square root of the width of the values"),
        (lambda q, k, v: (q @ k.mT / math.sqrt(v.shape[-1])).softmax(-1).tril() @ v, "the width of the values"),
        (lambda q, k, v: masked(q @ k.permute(2, 1, 0) / 3) @ v, ".T reverses all dimensions"),
        (lambda q, k, v: masked(q @ k.t() / 3) @ v, ".T reverses all dimensions"),
        (lambda q, k, v: masked(q @ k.transpose(0, 1) / 3) @ v, "message: The size of tensor a (2)"),
        (lambda q, k, v: masked(q @ k / 3) @ v, "The last two dimensions of k must change places"),
        (lambda q, k, v: attention.attention(k, q, v), "changed places"),
        (lambda q, k, v: attention.attention(q, k, q), "multiply them by q"),
        (lambda q, k, v: attention.attention(q, k, k), "multiply them by k"),
        (attention_with(lambda scores: hide(scores, value=-10).softmax(-1)), "must be -inf"),
        (attention_with(lambda scores: hide(scores, value=-1).softmax(-1)), "must be -inf"),
        (attention_with(lambda scores: scores.masked_fill(torch.ones(5, 5).tril().bool(), -math.inf).softmax(-1)),
         "hides the past and shows the future"),
        (attention_with(lambda scores: (scores + torch.ones(5, 5).triu(1) * float("-inf")).softmax(-1)),
         "0 * inf is nan"),
        (attention_with(lambda scores: hide(scores).softmax(0)), "Over which dimension"),
        (attention_with(lambda scores: hide(scores, value=-1e9).softmax(0)), "largest difference"),
        (lambda q, k, v: attention.attention_weights(q, k), "shape of the weights"),
        (lambda q, k, v: attention.attention(q, k, v)[0], "Expected the shape of v"),
        (lambda q, k, v: attention.attention(q, k, v) if q.ndim == 3 else v, "(3, 2, 7, 4)"),
        (lambda q, k, v: v, "largest difference"),
    ],
    "lookup": [
        (lambda query, keys, values, scale: (scale * keys @ query).softmax(0), "These are the weights"),
        (lambda query, keys, values, scale: (scale * keys @ query).softmax(0)[:, None] * values, "Add up the rows"),
        (lambda query, keys, values, scale: values[(keys @ query).argmax()], "as in a dictionary"),
        (lambda query, keys, values, scale: (keys @ query).softmax(0) @ values, "The scale is missing"),
        (lambda query, keys, values, scale: (keys @ query / scale).softmax(0) @ values, "You divide by the scale"),
        (lambda query, keys, values, scale: scale * (keys @ query).softmax(0) @ values, "belongs inside the softmax"),
        (lambda query, keys, values, scale: scale * keys @ query @ values, "used as weights"),
        (lambda query, keys, values, scale: keys @ query / (keys @ query).sum() @ values, "divided by their sum"),
        (lambda query, keys, values, scale: values.mean(0), "plain mean"),
        (lambda query, keys, values, scale: nb01.soft_lookup(query, keys, values, scale)[:1], "has the shape (1,)"),
        (lambda query, keys, values, scale: nb01.soft_lookup(query, keys, values, 1.5), "the scale 0.7"),
        (lambda query, keys, values, scale: 2 * values[0], "Print the weights"),
        (lambda query, keys, values, scale: {"result": 1}, "a dict"),
    ],
    "split": [
        (lambda x, nh: x.view(x.shape[0], nh, x.shape[1], -1), "head 0 gets the first tokens only"),
        (lambda x, nh: x.view(*x.shape[:2], nh, -1), "the exchange of T and nh"),
        (lambda x, nh: x.view(*x.shape[:2], -1, nh).permute(0, 3, 1, 2), "every nh-th element"),
        (lambda x, nh: torch.stack(x.chunk(nh, -1)), "before the batch"),
        (lambda x, nh: x, "expected the shape (2, 3, 5, 4)"),
        (lambda x, nh: x.chunk(nh, -1)[0], "expected the shape"),
        (lambda x, nh: nb01.split_into_heads(x, nh).flip(1), "not the content"),
        (lambda x, nh: nb01.split_into_heads(x, nh) if nh == 3 else x, "nh = 2, expected the shape"),
    ],
    "merge": [
        (lambda heads: heads.reshape(heads.shape[0], heads.shape[2], -1), "other tokens"),
        (lambda heads: heads.transpose(1, 2), "the last step"),
        (lambda heads: heads.permute(0, 2, 3, 1).flatten(2), "side by side"),
        (lambda heads: heads.sum(1), "the sum of the heads"),
        (lambda heads: heads, "expected the shape (2, 5, 12)"),
        (lambda heads: nb01.merged(heads.flip(1)), "not the content"),
    ],
    "contributions": [
        (lambda heads, w_0: nb01.head_contributions(heads, w_0.T), "not of its rows"),
        (lambda heads, w_0: list(nb01.head_contributions(heads, w_0).unbind(1)), "torch.stack it in dimension 1"),
        (every_third, "every nh-th column"),
        (shares_equally, "not each head's part"),
        (lambda heads, w_0: heads, "(B, nh, T, C)"),
        (lambda heads, w_0: attention.merge_heads(heads) @ w_0.T, "already their sum"),
        (lambda heads, w_0: 2 * nb01.head_contributions(heads, w_0), "Added up"),
    ],
    "offset": [
        (short_queries, "Longer queries"),
        (lambda T, n: (10 * torch.eye(T).roll(n, dims=0), torch.eye(T)), "weight 0.83 only. Longer queries"),
        (lambda T, n: (100 * torch.eye(T), torch.eye(T)), "look at themselves"),
        (forward, "point 1 forward"),
        (infinite, "not finite"),
        (lambda T, n: (torch.zeros(T, T), torch.eye(T)), "not at token"),
        (lambda T, n: nb01.offset_head(T, 1), "not at token t - n = 0"),
        (lambda T, n: nb01.offset_head(T + 1, n), "need 8 rows"),
        (lambda T, n: nb01.offset_head(T, n)[0], "You returned a tensor of shape (8, 8)"),
    ],
    "backward": [
        (gradients_with(lambda w, dw: dw), "The softmax is missing: you use"),
        (gradients_with(lambda w, dw: dw.tril()), "only the mask is there"),
        (gradients_with(lambda w, dw: w * dw), "A weight also falls"),
        (gradients_with(lambda w, dw: w * (1 - w) * dw), "w * (1 - w) is the diagonal of the softmax's derivative"),
        (gradients_with(lambda w, dw: w * (1 - w) * dw, scale=lambda d_k: 1), "is the diagonal of"),
        (gradients_with(lambda w, dw: w * (1 - w) * dw, scale=lambda d_k: 1), "sqrt(d_k) is missing on the way back"),
        (gradients_with(transpose=(True, False, True)), "You use ds transposed"),
        (gradients_with(transpose=(True, False, True), scale=lambda d_k: 1), "You use ds transposed. The division by"),
        (gradients_with(swap=True), "In dq: dq = ds @ k: a score changes with the query by the key. You multiply by q"),
        (gradients_with(swap=True, transpose=(True, False, True)), "dq and dk have changed places"),
        (gradients_with(scale=lambda d_k: 2), "the width of the values"),
        (only(1, gradients_with(scale=lambda d_k: 1)), "dv and dq are right. In dk: The division by sqrt(d_k)"),
        (only(1, gradients_with(swap=True)), "You multiply by k"),
        (only(1, gradients_with(swap=True, transpose=(False, False, True))), "That is dq again"),
        (gradients_with(weigh=lambda q, k: attention.attention_scores(q, k).softmax(-1).tril()), "not after it"),
        (only(0, gradients_with(weigh=lambda q, k: attention.attention_scores(q, k).softmax(-1))), "without the mask"),
        (gradients_with(lambda w, dw: w * (dw - (dw * w).sum(0, keepdim=True))), "runs over the columns"),
        (gradients_with(lambda w, dw: w * (dw - (dw * w).sum(1))), "keepdim=True is missing"),
        (gradients_with(lambda w, dw: w * (dw - dw.sum(1, keepdim=True))), "without its weights"),
        (gradients_with(scale=lambda d_k: 1), "In dq: The division by sqrt(d_k) is missing"),
        (gradients_with(scale=lambda d_k: d_k), "You divide by d_k"),
        (gradients_with(scale=lambda d_k: d_k**-0.5), "You multiply"),
        (gradients_with(transpose=(True, True, True)), "You use ds transposed"),
        (gradients_with(transpose=(False, False, True)), "You use ds itself"),
        (gradients_with(transpose=(False, True, False)), "You use w itself"),
        (gradients_with(weigh=lambda q, k: attention.attention_scores(q, k).softmax(-1)), "without the mask"),
        (gradients_with(weigh=lambda q, k: attention.attention_weights(q * 3**0.5, k)), "lack the division"),
        (lambda q, k, v, dy: (q, k, dy), "That is dy"),
        (lambda q, k, v, dy: (q, k, v), "dv differs"),
        (lambda q, k, v, dy: (q, *nb01.attention_gradients(q, k, v, dy)[1:]), "dv is right. For T = 5"),
        (lambda q, k, v, dy: (nb01.attention_gradients(q, k, v, dy)[0], k, nb01.attention_gradients(q, k, v, dy)[2]),
         "dv and dq are right"),
        (lambda q, k, v, dy: [nb01.attention_gradients(q, k, v, dy)[i] for i in (1, 0, 2)], "changed places"),
        (lambda q, k, v, dy: dy, "Return three tensors"),
        (lambda q, k, v, dy: (q, k), "a tuple of 2 tensors"),
        (lambda q, k, v, dy: (k.T, k, v), "A gradient has the shape"),
        (lambda q, k, v, dy: (q / 0, k, v), "not finite"),
    ],
}


RIGHT = [
    ("loss", lambda z, target: -F.log_softmax(z, dim=0)[target], "ln 50"),
    ("window", lambda T, w: nb01.window_average(T, w).double().numpy(), "sliding window"),
    ("lookup", lambda *arguments: nb01.soft_lookup(*arguments).tolist(), "5 values and 4 values"),
    ("causal", lambda q, k, v: nb01.causal_attention(q.double(), k.double(), v.double()), "equals"),
    ("split", lambda x, nh: nb01.split_into_heads(x, nh).contiguous(), "with 3 heads and with 2"),
    ("merge", lambda heads: torch.cat(heads.unbind(1), -1), "with 3 heads and with 2"),
    ("contributions", lambda heads, w_0: nb01.head_contributions(heads, w_0).double(), "Their sum"),
    ("contributions", lambda heads, w_0: nb01.head_contributions(heads, w_0).bfloat16(), "Their sum"),
    ("offset", lambda T, n: (10 * math.sqrt(T) * torch.eye(T).roll(n, dims=0), torch.eye(T)), "by itself"),
    ("backward", lambda *arguments: list(nb01.attention_gradients(*arguments)), "automatic differentiation"),
]


@pytest.mark.parametrize("name, attempt, says", RIGHT)
def test_other_right_answers_are_accepted(name, attempt, says, capsys):
    getattr(nb01, name).check(attempt)
    printed = capsys.readouterr().out
    assert ": correct." in printed and says in printed


def test_an_error_without_advice_stays_as_it_is():
    said = nb01.causal.judge(lambda q, k, v: masked(q @ k.mT / 3) @ v[..., :4, :]).text
    assert "Your code stopped with RuntimeError: Expected size" in said and ".T reverses" not in said


def by_autograd(q, k, v, dy):
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    return torch.autograd.grad(F.scaled_dot_product_attention(*inputs, is_causal=True), inputs, dy)


def by_backward(q, k, v, dy):
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    attention.attention(*inputs).backward(dy)
    return [tensor.grad for tensor in inputs]


@pytest.mark.parametrize("name, attempt, taken", [
    ("causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), "scaled_dot_product_attention"),
    ("causal", lambda q, k, v: attention.attention_weights(q, k) @ v, "helpers.attention"),
    ("loss", lambda z, target: F.cross_entropy(z[None], torch.tensor([target])), "F.cross_entropy"),
    ("lookup", lambda q, k, v, scale: F.scaled_dot_product_attention(q[None], k, v, scale=scale)[0],
     "F.scaled_dot_product_attention"),
    ("split", lambda x, nh: attention.split_heads(x, nh), "split_heads"),
    ("merge", lambda heads: attention.merge_heads(heads), "merge_heads"),
    ("backward", by_autograd, "grad"), ("backward", by_backward, "backward"),
    ("backward", lambda q, k, v, dy: torch.func.vjp(attention.attention, q, k, v)[1](dy), "Your code uses torch."),
])
def test_a_function_that_does_the_work_is_praised_less(name, attempt, taken):
    verdict = getattr(nb01, name).judge(attempt)
    assert not verdict.solved and "correct, but not by hand" in verdict.text and taken in verdict.text
