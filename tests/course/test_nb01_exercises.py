"""Notebook 01's exercises: plausible wrong answers get a sentence that helps, other right answers are accepted."""

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


def heads_with(split=attention.split_heads, attend=attention.attention, merge=attention.merge_heads, order=(0, 1, 2),
               project=F.linear):
    """An attempt at attention with several heads, with one of its steps exchanged."""
    def attempt(x, w_qkv, b_qkv, w_0, b_0, nh):
        parts = F.linear(x, w_qkv, b_qkv).chunk(3, dim=-1)
        return project(merge(attend(*(split(parts[i], nh) for i in order))), w_0, b_0)
    return attempt


def view_alone(x, nh):
    return x.reshape(x.shape[0], nh, x.shape[1], -1)


def without_transpose(x, nh):
    return x.reshape(*x.shape[:2], nh, -1)


def turned(heads):
    return heads.transpose(1, 2).reshape(2, 7, 12)


def straight(heads):
    return heads.reshape(2, 7, 12)


def torch_call(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def unbiased(x, w_qkv, b_qkv, w_0, b_0, nh):
    return nb01.multi_head(x, w_qkv, torch.zeros_like(b_qkv), w_0, b_0, nh)


def interleaved(x, w_qkv, b_qkv, w_0, b_0, nh):
    q, k, v = F.linear(x, w_qkv, b_qkv).view(*x.shape[:2], nh, 3, -1).permute(3, 0, 2, 1, 4)
    return F.linear(attention.merge_heads(attention.attention(q, k, v)), w_0, b_0)


def every_third(heads, w_0):
    nh = heads.shape[1]
    return torch.stack([heads[:, h] @ w_0[:, h::nh].T for h in range(nh)], dim=1)


def shares_equally(heads, w_0):
    nh = heads.shape[1]
    return (attention.merge_heads(heads) @ w_0.T / nh).unsqueeze(1).expand(-1, nh, -1, -1)


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
        (lambda z, target: -(z[target].exp() / z[:5].exp().sum()).log(), "50 equal scores"),
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
        (lambda q, k, v: v, "largest difference"),
    ],
    "heads": [
        (heads_with(attend=torch_call()), "is_causal=True"),
        (heads_with(attend=torch_call(is_causal=True, scale=12**-0.5)), "divide by sqrt(hs)"),
        (heads_with(attend=torch_call(is_causal=True, scale=1)), "not divided"),
        (heads_with(attend=lambda q, k, v: attention.attention(q / 2, k, v)), "divided twice"),
        (heads_with(split=view_alone), "Splitting"),
        (heads_with(split=view_alone, merge=straight), "Splitting"),
        (heads_with(merge=straight), "Merging"),
        (heads_with(split=without_transpose, merge=straight), "not the heads"),
        (heads_with(split=without_transpose, attend=torch_call(), merge=straight), "not the heads"),
        (heads_with(split=without_transpose, attend=torch_call(is_causal=True), merge=turned), "transpose(1, 2) after"),
        (heads_with(split=without_transpose, attend=torch_call(), merge=turned), "transpose(1, 2) after"),
        (lambda x, w_qkv, *others: x @ w_qkv, "w_qkv is (out, in): x @ w_qkv.T."),
        (lambda x, w_qkv, *others: nb01.multi_head(x, w_qkv.T, *others), "w_qkv is (out, in): x @ w_qkv.T."),
        (heads_with(split=lambda x, nh: x, merge=lambda x: x), "one head of full width"),
        (heads_with(project=lambda x, w_0, b_0: x), "W0 (c_proj)"),
        (heads_with(project=lambda x, w_0, b_0: x @ w_0 + b_0), "by its transpose"),
        (heads_with(project=lambda x, w_0, b_0: x @ w_0.T), "bias of the last matrix"),
        (unbiased, "bias of the fused matrix"),
        (heads_with(order=(1, 0, 2)), "Q and K have changed places"),
        (heads_with(order=(1, 2, 0)), "V comes last"),
        (lambda x, *others: x + nb01.multi_head(x, *others), "added outside"),
        (heads_with(attend=lambda q, k, v: hide(q @ k.mT / 2, 0).softmax(-1) @ v), "hides the diagonal"),
        (heads_with(merge=lambda x: attention.merge_heads(x)[:, -1]), "Expected the shape of x"),
        (interleaved, "largest difference"),
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
        (lambda T, n: nb01.offset_head(T, n)[0], "two tensors"),
    ],
}


def by_position(T, n):
    """Positions as points on a circle: two elements are enough."""
    angle = 2 * math.pi * torch.arange(T, dtype=torch.float64) / 16
    k = torch.stack([angle.cos(), angle.sin()], dim=1)
    back = angle - 2 * math.pi * n / 16
    return 200 * torch.stack([back.cos(), back.sin()], dim=1), k


def window_by_loops(T, w):
    rows = [[0.0] * T for _ in range(T)]
    for t in range(T):
        for s in range(max(0, t - w + 1), t + 1):
            rows[t][s] = 1 / min(w, t + 1)
    return rows


def changes_its_inputs(q, k, v):
    q /= math.sqrt(q.shape[-1])
    scores = (q @ k.transpose(-2, -1)).masked_fill_(~torch.ones(5, 5).tril().bool(), -1e9)
    return scores.exp_().div_(scores.sum(-1, keepdim=True)) @ v


RIGHT = [
    ("loss", lambda z, target: F.cross_entropy(z[None], torch.tensor([target])), "ln 50"),
    ("loss", lambda z, target: math.log(sum(math.exp(s) for s in z)) - z[target].item(), "ln 50"),
    ("loss", lambda z, target: -z.double().log_softmax(0)[[target]], "ln 50"),
    ("window", window_by_loops, "sliding window"),
    ("window", lambda T, w: nb01.window_average(T, w).double().numpy(), "sliding window"),
    ("causal", attention_with(lambda scores: F.normalize(scores.softmax(-1).tril(), p=1, dim=-1)), "equals"),
    ("causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), "write it by hand"),
    ("causal", lambda q, k, v: attention.attention(q.double(), k.double(), v.double()), "equals"),
    ("causal", changes_its_inputs, "equals"),
    ("heads", heads_with(), "all by hand"),
    ("heads", heads_with(attend=torch_call(is_causal=True)), "the same PyTorch call"),
    ("contributions", lambda heads, w_0: torch.einsum("bhts,chs->bhtc", heads, w_0.view(12, 3, 4)), "Their sum"),
    ("offset", by_position, "by itself"),
    ("offset", lambda T, n: (10 * math.sqrt(T) * torch.eye(T).roll(n, dims=0), torch.eye(T)), "by itself"),
    ("offset", lambda T, n: (torch.eye(T).roll(n, dims=0), 50 * math.sqrt(T) * torch.eye(T)), "by itself"),
]


@pytest.mark.parametrize("name, attempt, says", RIGHT)
def test_other_right_answers_are_accepted(name, attempt, says, capsys):
    getattr(nb01, name).check(attempt)
    printed = capsys.readouterr().out
    assert ": correct." in printed and says in printed
