"""Cases for the exercises of notebook 06."""

import copy
import math
import statistics

import numpy as np
import pandas as pd
import torch
from torch import nn

from helpers.course.exercises import nb06
from helpers.model import GPT, GPTConfig
from tests.course.exercise_cases import Case


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- median absolute deviation ---------------------------------------------------------------------------------------


def in_plain_python(x):
    middle = sorted(x.tolist())[len(x) // 2]
    return sorted(abs(value - middle) for value in x.tolist())[len(x) // 2]


def in_numpy(x):
    values = x.numpy()
    return np.median(np.abs(values - np.median(values)))


def with_torch_functions(x):
    return torch.median(torch.abs(torch.sub(x, torch.median(x))))


def by_quantiles(x):
    x = x.double()
    return (x - x.quantile(0.5)).abs().quantile(0.5)


def with_statistics(x):
    middle = statistics.median(x.tolist())
    return statistics.median([math.fabs(value - middle) for value in x.tolist()])


def by_sorting(x):
    n = x.numel()
    center = x.sort().values[(n - 1) // 2]
    return (x - center).square().sqrt().sort()[0][(n - 1) // 2].reshape(1)


def some_entries(seed):
    return (3 - seed + (1 + seed) * torch.randn(9 + 4 * seed, generator=seeded(seed)) ** 3,)


# --- Q, K and V apart ------------------------------------------------------------------------------------------------


def by_slices(matrices):
    table = []
    for x in matrices:
        C = min(x.shape)
        if x.shape[0] == C:
            x = x.T
        table.append((x[:C].std(), x[C : 2 * C].std(), x[2 * C :].std()))
    return table


def all_at_once(matrices):
    stacked = torch.stack([x if x.shape[0] > x.shape[1] else x.T for x in matrices])
    L, _, C = stacked.shape
    return stacked.view(L, 3, C * C).std(dim=-1)


def as_arrays(matrices):
    rows = np.zeros((len(matrices), 3))
    for i, x in enumerate(matrices):
        parts = np.split(x.numpy(), 3, axis=int(np.argmax(x.shape)))
        rows[i] = [np.std(part) for part in parts]
    return rows


def by_name(matrices):
    return [{name: part.double().std().item() for name, part in zip("QKV", x.chunk(3, dim=x.shape.index(max(x.shape))))}
            for x in matrices]


def by_definition(matrices):
    rows = []
    for x in matrices:
        Q, K, V = x.tensor_split(3, dim=int(x.shape[1] == 3 * x.shape[0]))
        rows.append(torch.stack([(part - part.mean()).square().mean().sqrt() for part in (Q, K, V)]))
    return rows


def as_a_table(matrices):
    rows = [[part.std().item() for part in x.split(min(x.shape), 0 if x.shape[0] > x.shape[1] else 1)]
            for x in matrices]
    return pd.DataFrame(rows, columns=["Q", "K", "V"])


def some_matrices(seed):
    C, generator = 18 + 5 * seed, seeded(seed)
    scale = torch.rand(3, generator=generator).add(0.1).repeat_interleave(C)[:, None]
    layers = [scale * (torch.randn(3 * C, C, generator=generator) + i) for i in range(3 + seed)]
    return ([x.T.contiguous() for x in layers] if seed % 2 else layers,)


# --- the std of a pool -----------------------------------------------------------------------------------------------


def by_second_moments(counts, means, stds):
    weights = counts / counts.sum()
    return ((weights * (stds**2 + means**2)).sum() - (weights * means).sum() ** 2) ** 0.5


def in_a_loop(counts, means, stds):
    total, first, second = 0.0, 0.0, 0.0
    for n, mean, std in zip(counts.tolist(), means.tolist(), stds.tolist()):
        total, first, second = total + n, first + n * mean, second + n * (std**2 + mean**2)
    return math.sqrt(second / total - (first / total) ** 2)


def with_numpy_averages(counts, means, stds):
    counts, means, stds = counts.numpy(), means.numpy(), stds.numpy()
    center = np.average(means, weights=counts)
    return np.sqrt(np.average(stds**2 + (means - center) ** 2, weights=counts))


def by_dot_products(counts, means, stds):
    n, m, s = counts.float(), means.float(), stds.float()
    center = n @ m / n.sum()
    return torch.sqrt((n @ s.square() + n @ (m - center).square()) / n.sum()).reshape(1)


def without_bias(counts, means, stds):
    total = counts.sum()
    center = (counts * means).sum() / total
    return torch.sqrt((((counts - 1) * stds**2).sum() + (counts * (means - center) ** 2).sum()) / (total - 1)).item()


def two_at_a_time(counts, means, stds):
    n, m, v = counts[0], means[0], stds[0] ** 2
    for count, mean, std in zip(counts[1:], means[1:], stds[1:]):
        share = count / (n + count)
        v = (1 - share) * v + share * std**2 + share * (1 - share) * (mean - m) ** 2
        n, m = n + count, m + share * (mean - m)
    return v.sqrt()


def some_groups(seed):
    generator, L = seeded(seed), 2 + 2 * seed
    counts = torch.randint(1000, 9000, (L,), generator=generator).double()
    return counts, 4 * torch.randn(L, generator=generator).double(), 0.5 + torch.rand(L, generator=generator).double()


# --- fold LayerNorm into the next matrix -----------------------------------------------------------------------------


def by_a_diagonal(weight, bias, gamma, beta):
    return weight @ torch.diag(gamma), torch.matmul(weight, beta) + bias


def with_einsum(weight, bias, gamma, beta):
    return torch.einsum("nc,c->nc", weight, gamma), bias + torch.einsum("nc,c->n", weight, beta)


def through_the_layer(weight, bias, gamma, beta):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        new_bias = layer(beta)
        layer.weight *= gamma
    return layer.weight, new_bias


def row_by_row(weight, bias, gamma, beta):
    rows, constants = [], []
    for w, b in zip(weight.tolist(), bias.tolist()):
        rows.append([x * g for x, g in zip(w, gamma.tolist())])
        constants.append(b + sum(x * y for x, y in zip(w, beta.tolist())))
    return [rows, constants]


def in_numpy_arrays(weight, bias, gamma, beta):
    w, b, g, h = (x.numpy().astype(np.float64) for x in (weight, bias, gamma, beta))
    return w * g[None, :], b + w.dot(h)


def centred(weight, bias, gamma, beta):
    new = (gamma[:, None] * weight.T).T
    return new - new.mean(dim=1, keepdim=True), (weight * beta).sum(-1) + bias  # n sums to 0: the mean has no effect


def in_bfloat16(weight, bias, gamma, beta):
    return (weight * gamma).bfloat16(), nn.functional.linear(beta, weight, bias).bfloat16()


def some_layer(seed):
    N, C = 4 + 3 * seed, 11 - 2 * seed
    return tuple(torch.randn(*shape, generator=seeded(seed + i)) for i, shape in enumerate(((N, C), (N,), (C,), (C,))))


# --- Q replaced by noise ---------------------------------------------------------------------------------------------


@torch.no_grad()
def by_assignment(model, layer, measure):
    C = model.config.n_embd
    weight = model.transformer.h[layer].attn.c_attn.weight
    saved = weight[:C].clone()
    weight[:C] = torch.normal(saved.mean().item(), saved.std().item(), (C, C))
    loss = measure(model)
    weight[:C] = saved
    return loss


def through_data(model, layer, measure):
    data = model.transformer.h[layer].attn.c_attn.weight.data
    before = data.clone()
    Q, _, _ = data.chunk(3)
    Q.normal_(Q.mean().item(), Q.std().item())
    loss = measure(model)
    data.copy_(before)
    return torch.tensor(loss)


def on_a_copy(model, layer, measure):
    other = copy.deepcopy(model)
    with torch.no_grad():
        weight = other.transformer.h[layer].attn.c_attn.weight
        Q = weight[: len(weight) // 3]
        noise = torch.randn(Q.shape)
        Q.copy_((noise - noise.mean()) / noise.std() * Q.std() + Q.mean())
        return measure(other)


def by_state(model, layer, measure):
    name, kept = f"transformer.h.{layer}.attn.c_attn.weight", copy.deepcopy(model.state_dict())
    changed = copy.deepcopy(kept)
    Q, K, V = changed[name].split(model.config.n_embd)
    changed[name] = torch.cat([torch.randn_like(Q) * Q.std(correction=0) + Q.mean(), K, V])
    model.load_state_dict(changed)
    try:
        return float(measure(model))
    finally:
        model.load_state_dict(kept)


def another_parameter(model, layer, measure):
    attention = model.transformer.h[layer].attn
    original = attention.c_attn.weight
    weight = original.detach().clone()
    C = weight.shape[1]
    values = np.random.default_rng(3).normal(weight[:C].mean(), weight[:C].std(), (C, C))
    weight[:C] = torch.from_numpy(values)
    attention.c_attn.weight = nn.Parameter(weight)
    loss = measure(model)
    attention.c_attn.weight = original
    return loss


@torch.no_grad()
def from_the_parameters(model, layer, measure):
    parameter = dict(model.named_parameters())[f"transformer.h.{layer}.attn.c_attn.weight"]
    C = parameter.size(0) // 3
    kept, whole = parameter.narrow(0, 0, C).clone(), measure(model)
    parameter.narrow(0, 0, C).normal_().mul_(kept.std()).add_(kept.mean())
    loss = measure(model)
    parameter.narrow(0, 0, C).copy_(kept)
    assert measure(model) == whole
    return loss


def some_model(seed):
    model = nb06.example_model(GPTConfig(5 + seed, 3 + seed, 64 + 16 * seed, 2 + seed, 4))
    return model, seed % (2 + seed)


def what_it_does(attempt, model, layer):
    """The loss, all weights while it is measured, and all weights afterwards. Noise may have either sign: of the fused
    matrices the distances from the mean of Q are compared."""
    seen, middles = [], [block.attn.c_attn.weight[: model.config.n_embd].mean() for block in model.transformer.h]

    def measure(measured):
        assert isinstance(measured, GPT)
        fused = [block.attn.c_attn.weight for block in measured.transformer.h]
        others = [weight.clone() for name, weight in measured.named_parameters() if "c_attn.weight" not in name]
        seen.append(([(weight - middle).abs() for weight, middle in zip(fused, middles)], others))
        return 1.0 + len(seen)

    return attempt(model, layer, measure), seen, list(model.parameters())


CASES = {
    "median_distance": Case([in_plain_python, in_numpy, with_torch_functions, by_quantiles, with_statistics,
                             by_sorting], some_entries),
    "split": Case([by_slices, all_at_once, as_arrays, by_name, by_definition, as_a_table], some_matrices),
    "pool": Case([by_second_moments, in_a_loop, with_numpy_averages, by_dot_products, without_bias, two_at_a_time],
                 some_groups),
    "folding": Case([by_a_diagonal, with_einsum, through_the_layer, row_by_row, in_numpy_arrays, centred,
                     in_bfloat16], some_layer),
    "noise": Case([by_assignment, through_data, on_a_copy, by_state, another_parameter, from_the_parameters],
                  some_model, what_it_does),
}
