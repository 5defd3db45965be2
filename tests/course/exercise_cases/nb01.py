"""Correct attempts at the exercises of notebook 01, and arguments that their checks do not use."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from helpers import attention
from tests.course.exercise_cases import Case


def random_tensors(seed, *shapes):
    generator = torch.Generator().manual_seed(100 + seed)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


# --- the loss of one prediction --------------------------------------------------------------------------------------


def loss_with_python(z, target):
    scores = z.tolist()
    return math.log(sum(math.exp(score - scores[target]) for score in scores))


def loss_with_numpy(z, target):
    powers = np.exp(z.double().numpy() - z.max().item())
    return -np.log(powers[target] / powers.sum())


def loss_of_the_rest(z, target):
    others = z - z[target]
    return torch.logsumexp(others, dim=0)


LOSS = [
    lambda z, target: -F.log_softmax(z, dim=0).gather(0, torch.tensor(target)),
    lambda z, target: -z.log_softmax(0)[target],
    lambda z, target: [-F.log_softmax(z.double(), dim=-1)[target].item()],
    lambda z, target: -z.softmax(0)[target].log(),
    loss_with_python, loss_with_numpy, loss_of_the_rest,
]


def loss_inputs(seed):
    return random_tensors(seed, (6 + 2 * seed,))[0], 3 + seed


# --- an average over a window ----------------------------------------------------------------------------------------


def window_by_loops(T, w):
    rows = [[0.0] * T for _ in range(T)]
    for t in range(T):
        for s in range(max(0, t - w + 1), t + 1):
            rows[t][s] = 1 / min(w, t + 1)
    return rows


def window_by_distance(T, w):
    t, s = torch.arange(T)[:, None], torch.arange(T)[None]
    inside = ((t - s >= 0) & (t - s < w)).double()
    return inside / inside.sum(1, keepdim=True)


def window_by_softmax(T, w):
    position = torch.arange(T)
    back = position[:, None] - position
    return torch.zeros(T, T).masked_fill((back < 0) | (back >= w), float("-inf")).softmax(-1)


def window_by_rows(T, w):
    rows = []
    for t in range(T):
        row = torch.zeros(T)
        row[max(0, t - w + 1) : t + 1] = 1
        rows.append(row / row.sum())
    return rows


def window_with_numpy(T, w):
    table = np.tri(T) - np.tri(T, k=-w)
    return table / table.sum(axis=1)[:, None]


def window_with_triangles(T, w):
    return F.normalize(torch.ones(T, T).tril().triu(1 - w), p=1, dim=1).half()


WINDOW = [window_by_loops, window_by_distance, window_by_softmax, window_by_rows, window_with_numpy,
          window_with_triangles]


# --- a soft look-up --------------------------------------------------------------------------------------------------


def lookup_by_loops(query, keys, values, scale):
    powers = [math.exp(scale * float(sum(a * b for a, b in zip(query, key)))) for key in keys]
    return sum(power / sum(powers) * value for power, value in zip(powers, values))


def lookup_with_einsum(query, keys, values, scale):
    weights = torch.softmax(torch.einsum("d,nd->n", query, keys) * scale, dim=-1)
    return torch.einsum("n,nm->m", weights, values)


def lookup_with_numpy(query, keys, values, scale):
    query, keys, values = (tensor.numpy().astype(np.float64) for tensor in (query, keys, values))
    powers = np.exp(scale * (keys @ query))
    return list(powers @ values / powers.sum())


def lookup_with_columns(query, keys, values, scale):
    weights = F.softmax(keys @ (query[:, None] * scale), dim=0)
    return (weights * values).sum(dim=0)


LOOKUP = [lookup_by_loops, lookup_with_einsum, lookup_with_numpy, lookup_with_columns,
          lambda query, keys, values, scale: (keys.double() @ query.double() * scale).softmax(0) @ values.double()]


def lookup_inputs(seed):
    N, d, m = 3 + seed, 4 + seed, 2 + seed
    return *random_tensors(seed, (d,), (N, d), (N, m)), 0.5 + seed


# --- causal attention by hand ----------------------------------------------------------------------------------------


def causal_by_loops(q, k, v):
    if q.ndim > 2:
        return torch.stack([causal_by_loops(*parts) for parts in zip(q, k, v)])
    rows = []
    for t in range(len(q)):
        scores = k[: t + 1] @ q[t] / math.sqrt(q.shape[1])
        rows.append((scores.softmax(0)[:, None] * v[: t + 1]).sum(0))
    return torch.stack(rows)


def causal_with_einsum(q, k, v):
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.size(-1) ** -0.5
    future = torch.full(scores.shape[-2:], float("-inf")).triu(1)
    return torch.einsum("...ts,...sd->...td", torch.softmax(scores + future, -1), v)


def causal_with_numpy(q, k, v):
    q, k, v = (tensor.numpy().astype(np.float64) for tensor in (q, k, v))
    powers = np.exp(q @ np.swapaxes(k, -2, -1) / np.sqrt(q.shape[-1])) * np.tri(q.shape[-2])
    return powers / powers.sum(-1, keepdims=True) @ v


def causal_with_renormalised_weights(q, k, v):
    weights = (q / math.sqrt(q.shape[-1]) @ k.mT).softmax(-1).tril()
    return F.normalize(weights, p=1, dim=-1) @ v


def causal_in_bfloat16(q, k, v):
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    visible = torch.ones(q.shape[-2], q.shape[-2]).tril().bool()
    scores = torch.where(visible, q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5, torch.tensor(-1e9).bfloat16())
    return scores.softmax(dim=-1) @ v


def causal_changing_its_inputs(q, k, v):
    q /= math.sqrt(q.shape[-1])
    scores = q @ k.transpose(-2, -1)
    scores.masked_fill_(~torch.ones(scores.shape[-2:]).tril().bool(), -1e9)
    return scores.exp_().div_(scores.sum(-1, keepdim=True)) @ v


CAUSAL = [causal_by_loops, causal_with_einsum, causal_with_numpy, causal_with_renormalised_weights, causal_in_bfloat16,
          causal_changing_its_inputs, lambda q, k, v: causal_with_einsum(q.double(), k.double(), v.double()).tolist()]


def causal_inputs(seed):
    T, d_k, d_v = 3 + seed, 5 + seed, 2 + seed
    return random_tensors(seed, (4, T, d_k), (4, T, d_k), (4, T, d_v))


# --- splitting into heads and merging them ---------------------------------------------------------------------------


def split_by_slices(x, nh):
    hs = x.shape[-1] // nh
    return torch.stack([x[..., h * hs : (h + 1) * hs] for h in range(nh)], dim=1)


def split_with_numpy(x, nh):
    B, T, C = x.shape
    return np.ascontiguousarray(x.numpy().reshape(B, T, nh, C // nh).transpose(0, 2, 1, 3))


SPLIT = [
    split_by_slices, split_with_numpy,
    lambda x, nh: torch.stack(x.chunk(nh, dim=-1), 1),
    lambda x, nh: x.unflatten(-1, (nh, -1)).permute(0, 2, 1, 3),
    lambda x, nh: torch.stack(x.tensor_split(nh, dim=2)).transpose(0, 1),
    lambda x, nh: x.view(*x.shape[:2], nh, -1).swapaxes(1, 2).double(),
]


def split_inputs(seed):
    B, T, nh, hs = 1 + seed, 6 + seed, 2 + seed, 3 + seed
    return random_tensors(seed, (B, T, nh * hs))[0], nh


def merge_by_tokens(heads):
    B, nh, T, hs = heads.shape
    return torch.stack([heads[:, :, t].reshape(B, nh * hs) for t in range(T)], dim=1)


def merge_with_numpy(heads):
    return np.concatenate(list(heads.numpy().swapaxes(0, 1)), axis=-1)


MERGE = [
    merge_by_tokens, merge_with_numpy,
    lambda heads: torch.cat(heads.unbind(1), dim=-1),
    lambda heads: heads.permute(0, 2, 1, 3).flatten(2),
    lambda heads: torch.cat([heads[:, h] for h in range(heads.shape[1])], dim=2).double(),
    lambda heads: heads.transpose(1, 2).contiguous().view(heads.shape[0], heads.shape[2], -1),
]


def merge_inputs(seed):
    return random_tensors(seed, (1 + seed, 2 + seed, 6 + seed, 3 + seed))


# --- what each head adds ---------------------------------------------------------------------------------------------


def contributions_with_einsum(heads, w_0):
    nh, hs = heads.shape[1], heads.shape[3]
    return torch.einsum("bhts,chs->bhtc", heads, w_0.view(-1, nh, hs))


def contributions_with_padding(heads, w_0):
    parts = []
    for h in range(heads.shape[1]):
        alone = torch.zeros_like(heads)
        alone[:, h] = heads[:, h]
        parts.append(attention.merge_heads(alone) @ w_0.T)
    return torch.stack(parts, 1)


def contributions_with_matmul(heads, w_0):
    nh, hs = heads.shape[1], heads.shape[3]
    return heads @ w_0.T.reshape(nh, hs, -1)


def contributions_by_chunks(heads, w_0):
    pairs = zip(heads.unbind(1), w_0.chunk(heads.shape[1], dim=1))
    return torch.stack([F.linear(head, own) for head, own in pairs], dim=1).double()


def contributions_with_numpy(heads, w_0):
    heads, w_0, hs = heads.numpy(), w_0.numpy(), heads.shape[3]
    own = [w_0[:, h * hs : (h + 1) * hs].T for h in range(heads.shape[1])]
    return np.stack([heads[:, h] @ own[h] for h in range(heads.shape[1])], axis=1)


CONTRIBUTIONS = [contributions_with_einsum, contributions_with_padding, contributions_with_matmul,
                 contributions_by_chunks, contributions_with_numpy]


def contributions_inputs(seed):
    B, nh, T, hs = 1 + seed, 2 + seed, 6 + seed, 3 + seed
    return random_tensors(seed, (B, nh, T, hs), (nh * hs, nh * hs))


# --- a head made by hand ---------------------------------------------------------------------------------------------


def offset_on_a_circle(T, n):
    """Positions as points on a circle: two elements are enough."""
    angle = 2 * math.pi * torch.arange(T, dtype=torch.float64) / 16
    k = torch.stack([angle.cos(), angle.sin()], dim=1)
    back = angle - 2 * math.pi * n / 16
    return 200 * torch.stack([back.cos(), back.sin()], dim=1), k


def offset_by_loops(T, n):
    q, k = torch.zeros(T, T), torch.zeros(T, T)
    for t in range(T):
        k[t, t] = 100.0
        if t >= n:
            q[t, t - n] = 1.0
    return q, k


def offset_with_one_hot(T, n):
    position = torch.arange(T)
    k = F.one_hot(position, T + 2).float()
    return [100 * F.one_hot((position - n).clamp(min=0), T + 2).float(), k]


OFFSET = [
    offset_on_a_circle, offset_by_loops, offset_with_one_hot,
    lambda T, n: (10 * math.sqrt(T) * torch.eye(T).roll(n, dims=0), torch.eye(T)),
    lambda T, n: (torch.eye(T).roll(n, dims=0), 50 * math.sqrt(T) * torch.eye(T)),
    lambda T, n: (100 * np.eye(T, k=-n), np.eye(T)),
]


def offset_inputs(seed):
    return 7 + 2 * seed, 2 * seed


def hits(attempt, T, n):
    """What the exercise asks for: whether each token t >= n puts 0.99 of its weight on token t - n."""
    q, k = attempt(T, n)
    return (attention.attention_weights(q, k).diagonal(-n) > 0.99).double()


# --- attention backwards ---------------------------------------------------------------------------------------------


def backward_with_einsum(q, k, v, dy):
    w = attention.attention_weights(q, k)
    dw = torch.einsum("te,se->ts", dy, v)
    ds = (w * dw - w * torch.einsum("ts,ts->t", w, dw)[:, None]) * q.shape[1] ** -0.5
    return torch.einsum("ts,sd->td", ds, k), torch.einsum("ts,td->sd", ds, q), torch.einsum("ts,te->se", w, dy)


def backward_by_rows(q, k, v, dy):
    dq, dk, dv, root = (*map(torch.zeros_like, (q, k, v)), math.sqrt(q.shape[1]))
    for t in range(len(q)):
        w = (k[: t + 1] @ q[t] / root).softmax(0)
        dw = v[: t + 1] @ dy[t]
        ds = w * (dw - w @ dw) / root
        dv[: t + 1] += w[:, None] * dy[t]
        dk[: t + 1] += ds[:, None] * q[t]
        dq[t] = ds @ k[: t + 1]
    return dq, dk, dv


def backward_with_jacobians(q, k, v, dy):
    T, d_k = q.shape
    scores = (q @ k.T / math.sqrt(d_k)).masked_fill(torch.ones(T, T).triu(1) > 0, -1e9)
    w = scores.softmax(1)
    jacobians = torch.diag_embed(w) - w[:, :, None] * w[:, None, :]  # (T, T, T)
    ds = ((dy @ v.T)[:, None, :] @ jacobians)[:, 0] / math.sqrt(d_k)
    return [ds @ k, ds.T @ q, w.T @ dy]


def backward_with_numpy(q, k, v, dy):
    q, k, v, dy = (tensor.numpy().astype(np.float64) for tensor in (q, k, v, dy))
    w = np.exp(q @ k.T / np.sqrt(q.shape[1])) * np.tri(len(q))
    w /= w.sum(1, keepdims=True)
    dw = dy @ v.T
    ds = w * (dw - (w * dw).sum(1, keepdims=True)) / np.sqrt(q.shape[1])
    return ds @ k, ds.T @ q, w.T @ dy


def backward_with_the_output(q, k, v, dy):
    """The sum of dw * w in row t is the dot product of dy and y in row t."""
    w = attention.attention_weights(q, k)
    total = ((w @ v) * dy).sum(-1, keepdim=True)
    ds = w * (dy @ v.T - total) / math.sqrt(q.shape[-1])
    return torch.matmul(ds, k).double(), torch.matmul(ds.T, q).double(), torch.matmul(w.T, dy).double()


BACKWARD = [backward_with_einsum, backward_by_rows, backward_with_jacobians, backward_with_numpy,
            backward_with_the_output]


def backward_inputs(seed):
    T, d_k, d_v = 4 + seed, 2 + seed, 5 + seed
    return random_tensors(seed, (T, d_k), (T, d_k), (T, d_v), (T, d_v))


CASES = {
    "loss": Case(LOSS, loss_inputs),
    "window": Case(WINDOW, lambda seed: (5 + 2 * seed, 2 + seed)),
    "lookup": Case(LOOKUP, lookup_inputs),
    "causal": Case(CAUSAL, causal_inputs),
    "split": Case(SPLIT, split_inputs),
    "merge": Case(MERGE, merge_inputs),
    "contributions": Case(CONTRIBUTIONS, contributions_inputs),
    "offset": Case(OFFSET, offset_inputs, hits),
    "backward": Case(BACKWARD, backward_inputs),
}
