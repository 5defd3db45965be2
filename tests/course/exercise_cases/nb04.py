"""Cases for the exercises of notebook 04."""

import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from helpers.course.exercises import nb04
from tests.course.exercise_cases import Case


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- Conv1D as nn.Linear ---------------------------------------------------------------------------------------------


def shares_the_weights(conv):
    linear = nn.Linear(conv.weight.size(0), conv.weight.size(1))
    linear.weight = nn.Parameter(conv.weight.t())
    linear.bias = conv.bias
    return linear


def by_data(conv):
    linear = nn.Linear(*conv.weight.shape)
    linear.weight.data = conv.weight.data.transpose(0, 1).contiguous()
    linear.bias.data[:] = conv.bias.data
    return linear


def by_state(conv):
    state = {"weight": conv.weight.permute(1, 0), "bias": conv.bias}
    linear = nn.Linear(state["weight"].shape[1], len(state["bias"]))
    linear.load_state_dict(state)
    return linear


def by_numpy(conv):
    linear = nn.Linear(conv.nx, conv.nf)
    linear.weight.data.copy_(torch.from_numpy(conv.weight.detach().numpy().T.copy()))
    linear.bias.data.copy_(torch.from_numpy(conv.bias.detach().numpy().copy()))
    return linear


@torch.no_grad()
def by_its_outputs(conv):
    inputs = conv.weight.shape[0]
    bias = conv(torch.zeros(1, inputs))[0]
    linear = nn.Linear(inputs, len(bias), dtype=torch.float64)
    for i, row in enumerate(torch.eye(inputs)):
        linear.weight[:, i] = conv(row[None])[0] - bias
    linear.bias.copy_(bias)
    return linear


def some_conv(seed):
    conv = Conv1D(4 + seed, 7 + 2 * seed)
    for parameter in conv.parameters():
        nn.init.normal_(parameter, generator=seeded(seed))
    return (conv,)


def weights_of(attempt, conv):
    linear = attempt(conv)
    return type(linear).__name__, linear.weight, linear.bias


# --- temperature and entropy -----------------------------------------------------------------------------------------


def with_special(logits, temperature):
    p = F.softmax(logits[:, -1, :] / temperature, dim=-1).squeeze(0)
    return p, torch.special.entr(p).sum()


def without_zeros(logits, temperature):
    p = torch.softmax(logits[0][-1].double() / temperature, 0)
    positive = p[p > 0]
    return [p, -torch.sum(positive * torch.log(positive))]


def by_log_softmax(logits, temperature):
    log_p = (logits.select(1, -1)[0] / temperature).log_softmax(-1)
    return log_p.exp(), (-log_p.exp() * log_p).sum().item()


def in_plain_python(logits, temperature):
    scores = [z / temperature for z in logits[0, -1].tolist()]
    exps = [math.exp(z - max(scores)) for z in scores]
    p = [e / sum(exps) for e in exps]
    return p, -sum(x * math.log(x) for x in p if x > 0)


def in_numpy(logits, temperature):
    z = logits.numpy()[0, -1] / temperature
    e = np.exp(z - z.max())
    p = e / e.sum()
    return p, -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0))


def with_nan_to_num(logits, temperature):
    p = (logits / temperature).softmax(dim=-1)[0, -1]
    return p, -(p * p.log()).nan_to_num().sum(dim=-1, keepdim=True)


def by_categorical(logits, temperature):
    distribution = torch.distributions.Categorical(logits=logits[0, -1] / temperature)
    return distribution.probs, distribution.entropy()


def in_half(logits, temperature):
    p = (logits[0, -1] / temperature).softmax(-1)
    return p.half(), torch.special.entr(p).sum().half()


def some_logits(seed):
    return 3 * torch.randn(1, seed + 3, 2 * seed + 6, generator=seeded(seed)), 0.02 if seed == 2 else 0.4 + 0.6 * seed


# --- nucleus sampling ------------------------------------------------------------------------------------------------


def in_a_loop(probabilities, p):
    order, total, kept = probabilities.argsort(descending=True).tolist(), 0.0, [0.0] * len(probabilities)
    for token in order:
        if total >= p:
            break
        total += probabilities[token].item()
        kept[token] = probabilities[token].item()
    return [x / total for x in kept]


def numpy_search(probabilities, p):
    values = probabilities.numpy().astype(np.float64)
    order = np.argsort(-values)
    last = np.searchsorted(np.cumsum(values[order]), p)
    kept = np.zeros_like(values)
    kept[order[: last + 1]] = values[order[: last + 1]]
    return kept / kept.sum()


def scattered(probabilities, p):
    ordered, order = torch.sort(probabilities, dim=-1, descending=True)
    remove = ordered.cumsum(-1) >= p
    remove[1:] = remove[:-1].clone()
    remove[0] = False
    mask = torch.zeros_like(remove).scatter(0, order, remove)
    probabilities = probabilities.masked_fill(mask, 0.0)
    return probabilities / probabilities.sum()


def by_a_threshold(probabilities, p):
    ordered = probabilities.sort(descending=True).values
    needed = int((ordered.cumsum(0) < p).sum())
    least = ordered[min(needed, len(ordered) - 1)]
    return F.normalize(torch.where(probabilities >= least, probabilities, 0), p=1, dim=0)


def by_the_mass_before(probabilities, p):
    likelier = probabilities[None, :] > probabilities[:, None]
    kept = probabilities * ((likelier * probabilities).sum(1) < p)
    return (kept / kept.sum()).double()


def ever_larger_k(probabilities, p):
    for k in range(1, len(probabilities) + 1):
        best = probabilities.topk(k)
        if best.values.sum() >= p or k == len(probabilities):
            return torch.zeros_like(probabilities).scatter(0, best.indices, best.values / best.values.sum())


def by_log_softmax_again(probabilities, p):
    ordered, order = probabilities.double().sort(descending=True)
    too_many = (ordered.cumsum(0) - ordered) >= p
    logits = probabilities.log().index_fill(0, order[too_many], float("-inf"))
    return logits.softmax(0).bfloat16()


def some_probabilities(seed):
    return (1.5 * torch.randn(5 + 3 * seed, generator=seeded(seed))).softmax(0), (0.55, 0.9, 0.3, 0.75)[seed]


# --- a loop that writes text -----------------------------------------------------------------------------------------


def with_a_threshold(model, ids, new, temperature, top_k):
    """A draw without multinomial, with a threshold instead of a list of the k best."""
    for _ in range(new):
        logits = model(ids[:, -model.config.n_positions:], last_only=True)[:, -1]
        least = logits.sort(descending=True).values[:, top_k - 1 : top_k]
        scores = (logits / temperature).masked_fill(logits < least, float("-inf"))
        best = (scores - torch.empty_like(scores).exponential_().log()).argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


@torch.no_grad()
def row_by_row(model, ids, new, temperature, top_k):
    model.eval()
    context, texts = model.config.n_positions, ids.tolist()
    for _ in range(new):
        scores = model(torch.tensor([text[-context:] for text in texts]))[:, -1].double() / temperature
        for text, row in zip(texts, scores.tolist()):
            best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:top_k]
            weights = [math.exp(row[token]) for token in best]
            text.append(random.choices(best, weights)[0])
    return texts


def crops_when_it_must(model, ids, new, temperature, top_k):
    B, T = ids.shape
    text = ids.new_zeros(B, T + new)
    text[:, :T] = ids
    for t in range(T, T + new):
        start = max(0, t - model.config.n_positions)
        logits = model(text[:, start:t])[:, -1, :] / temperature
        values, _ = logits.topk(top_k)
        logits[logits < values[:, -1:]] = -torch.inf
        text[:, t] = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1).squeeze(1)
    return text


def by_categorical_draw(model, ids, new, temperature, top_k):
    while new > 0:
        seen = ids if ids.shape[1] <= model.config.n_positions else ids[:, -model.config.n_positions:]
        values, indices = torch.topk(model(seen)[:, -1], top_k)
        drawn = torch.distributions.Categorical(logits=values / temperature).sample()
        ids = torch.hstack([ids, indices[torch.arange(len(ids)), drawn].unsqueeze(1)])
        new -= 1
    return ids


def recursive(model, ids, new, temperature, top_k):
    if new == 0:
        return ids
    p = (model(ids[:, -model.config.n_positions:])[:, -1] / temperature).softmax(-1)
    rest = p.argsort(descending=True)[:, top_k:]
    p = p.scatter(1, rest, 0.0)
    longer = torch.cat((ids, torch.multinomial(p / p.sum(1, keepdim=True), 1)), 1)
    return recursive(model, longer, new - 1, temperature, top_k)


def in_numpy_draws(model, ids, new, temperature, top_k):
    text = ids.numpy()
    for _ in range(new):
        z = model(torch.from_numpy(text[:, -model.config.n_positions:]))[:, -1].numpy() / temperature
        z = np.where(z >= np.sort(z, axis=1)[:, -top_k][:, None], z, -np.inf)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        steps = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
        drawn = (np.random.rand(len(text), 1) >= steps).sum(axis=1, keepdims=True)
        text = np.concatenate([text, np.minimum(drawn, z.shape[1] - 1)], axis=1)
    return text


def some_text(seed):
    """A model whose logits depend on all that it sees, ids, and how to draw: greedily for seed 1."""
    V, context = 8 + seed, 5 + seed
    following = torch.randperm(V, generator=seeded(seed)).tolist()
    ids = torch.randint(V, (9 + seed, 3 + seed), generator=seeded(seed))
    model = nb04.TableModel(following, context, whole=True)
    return model, ids, 5 + seed, 0.6 + 0.5 * seed, (3, 1, 5, 4)[seed]


# --- the head that looks back farthest -------------------------------------------------------------------------------


def with_loops(maps):
    L, nh, T, _ = maps.shape
    best, where = -1.0, None
    for layer in range(L):
        for head in range(nh):
            total = 0.0
            for t in range(T):
                for s in range(t + 1):
                    total += float(maps[layer, head, t, s]) * (t - s)
            if total / T > best:
                best, where = total / T, (layer, head)
    return where


def with_einsum(maps):
    t = torch.arange(maps.size(-1)).float()
    mean = torch.einsum("lhts,ts->lh", maps, t[:, None] - t[None, :]) / maps.size(-1)
    return torch.unravel_index(mean.argmax(), mean.shape)


def by_expected_position(maps):
    s = torch.arange(maps.shape[-1], dtype=maps.dtype)
    return list(np.unravel_index(int((s - maps @ s).mean(-1).argmax()), maps.shape[:2]))


def from_a_table(maps):
    maps = maps.double().numpy()
    rows, columns = np.indices(maps.shape[-2:])
    table = (maps * (rows - columns)).sum(axis=(2, 3))
    return np.argwhere(table == table.max())[0]


def by_maxima(maps):
    T = maps.shape[-1]
    back = torch.tensor([[max(t - s, 0) for s in range(T)] for t in range(T)])
    table = (maps * back).sum((-1, -2)) / T
    layer = table.max(dim=1).values.argmax()
    return torch.stack([layer, table[layer].argmax()])


def by_diagonals(maps):
    table = sum(d * maps.diagonal(-d, dim1=-2, dim2=-1).sum(-1) for d in range(1, maps.shape[-1]))
    index = table.flatten().argmax().item()
    return {"layer": index // maps.shape[1], "head": index % maps.shape[1]}.values()


def some_maps(seed):
    layers, heads, tokens = 2 + seed, 6 - seed, 5 + seed
    scores = 2 * torch.randn(layers, heads, tokens, tokens, generator=seeded(seed + 20))
    return (scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1),)


CASES = {
    "linear": Case([shares_the_weights, by_data, by_state, by_numpy, by_its_outputs], some_conv, weights_of),
    "temperature": Case([with_special, without_zeros, by_log_softmax, in_plain_python, in_numpy, with_nan_to_num,
                         by_categorical, in_half], some_logits),
    "cut": Case([in_a_loop, numpy_search, scattered, by_a_threshold, by_the_mass_before, ever_larger_k,
                 by_log_softmax_again], some_probabilities),
    "loop": Case([with_a_threshold, row_by_row, crops_when_it_must, by_categorical_draw, recursive, in_numpy_draws],
                 some_text),
    "farthest": Case([with_loops, with_einsum, by_expected_position, from_a_table, by_maxima, by_diagonals], some_maps),
}
