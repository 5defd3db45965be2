"""Cases for the exercises of notebook 12."""

import collections
import itertools
import math
import statistics

import numpy as np
import torch

from tests.course.exercise_cases import Case

# --- all directions with the same length -----------------------------------------------------------------------------


def directions_in_numpy(G):
    U, _, Vh = np.linalg.svd(G.numpy(), full_matrices=False)
    return U @ Vh


def with_v_transposed(G):
    U, _, V = torch.svd(G)
    return U @ V.T


def from_full_matrices(G):
    U, S, Vh = torch.linalg.svd(G)
    return U[:, : len(S)] @ Vh[: len(S)]


def direction_by_direction(G):
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    return sum(torch.outer(U[:, i], Vh[i]) for i in range(len(S)))


def by_the_root_of_the_gram_matrix(G):
    wide = G.double() if G.shape[0] <= G.shape[1] else G.double().T
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    result = vectors @ torch.diag(values**-0.5) @ vectors.T @ wide
    return result if G.shape[0] <= G.shape[1] else result.T


def by_a_cubic_iteration(G):
    x = G.double() / G.norm()
    for _ in range(40):
        x = 1.5 * x - 0.5 * x @ x.T @ x
    return x


def divided_by_its_values(G):
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    return torch.einsum("ik,k,kj->ij", U, S / S, Vh)


def some_gradient(seed):
    rows, columns = ((3, 6), (6, 5), (2, 2), (9, 4))[seed]
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(40 + seed)),)


# --- shuffled epochs -------------------------------------------------------------------------------------------------


def starts_in_torch(T, B, first, order, place):
    return first + T * torch.tensor(order).view(-1, B)[place]


def starts_in_numpy(T, B, first, order, place):
    return np.array(order)[np.arange(B) + place * B] * T + first


def from_a_list_of_starts(T, B, first, order, place):
    starts = [first + i * T for i in range(len(order))]
    return tuple(starts[order[place * B + b]] for b in range(B))


def batch_after_batch(T, B, first, order, place):
    for _ in range(place):
        del order[:B]
    return list(map(lambda window: first + window * T, order[:B]))


def starts_in_a_loop(T, B, first, order, place):
    result = torch.zeros(B, dtype=torch.int64)
    for b in range(B):
        result[b] = first + order[place * B + b] * T
    return result


def with_islice(T, B, first, order, place):
    return [T * window + first for window in itertools.islice(order, place * B, place * B + B)]


def some_epoch(seed):
    B, batches = 5 - seed, 4 + seed
    order = np.random.default_rng(seed).permutation(B * batches).tolist()
    return 6 + 5 * seed, B, 3 + seed, order, seed


# --- embeddings from counts ------------------------------------------------------------------------------------------


def information_by_the_definition(ids, V):
    ids, n = ids.tolist(), collections.Counter()
    for a, b in itertools.pairwise(ids):
        n[a, b] += 1
        n[b, a] += 1
    total = sum(n.values())
    each = [sum(n[a, b] for b in range(V)) for a in range(V)]
    return [[max(0.0, math.log(n[a, b] * total / (each[a] * each[b]))) if n[a, b] else 0.0 for b in range(V)]
            for a in range(V)]


def information_in_numpy(ids, V):
    pairs = np.zeros((V, V))
    np.add.at(pairs, (ids[:-1].numpy(), ids[1:].numpy()), 1)
    pairs += pairs.T.copy()
    each = pairs.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log(pairs * pairs.sum() / np.outer(each, each))
    return np.maximum(0, np.nan_to_num(values, nan=0, neginf=0))


def information_by_bincount(ids, V):
    pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V)
    pairs = pairs + pairs.T
    chance = torch.outer(pairs.sum(1), pairs.sum(0)) / pairs.sum()
    return (pairs / chance.clamp(min=1e-9)).clamp(min=1).log()


def information_of_one_hots(ids, V):
    tokens = torch.nn.functional.one_hot(ids, V).double()
    joint = tokens[:-1].T @ tokens[1:]
    joint = (joint + joint.T) / (joint.sum() * 2)  # probabilities
    alone = joint.sum(1, keepdim=True)
    return (joint / (alone * alone.T)).log().nan_to_num(neginf=0.0).relu()


def information_by_differences_of_logarithms(ids, V):
    both = torch.cat([torch.stack([ids[:-1], ids[1:]]), torch.stack([ids[1:], ids[:-1]])], dim=1)
    pairs = torch.zeros(V, V).index_put_((both[0], both[1]), torch.ones(both.shape[1]), accumulate=True)
    each = pairs.sum(1)
    values = pairs.log() + math.log(both.shape[1]) - each.log()[:, None] - each.log()
    values[pairs == 0] = 0
    return values.clamp(min=0)


def information_in_loops(ids, V):
    pairs, result = torch.zeros(V, V), torch.zeros(V, V)
    for i in range(1, len(ids)):
        pairs[ids[i - 1], ids[i]] += 1
        pairs[ids[i], ids[i - 1]] += 1
    for a in range(V):
        for b in range(V):
            if pairs[a, b] > 0:
                ratio = pairs[a, b] * pairs.sum() / (pairs[a].sum() * pairs[b].sum())
                result[a, b] = max(0.0, math.log(ratio))
    return result


def some_tokens(seed):
    generator = torch.Generator().manual_seed(60 + seed)
    used = torch.randint(4 + seed, (30 + 9 * seed,), generator=generator) * torch.randint(
        2, (30 + 9 * seed,), generator=generator)
    return used, 6 + 2 * seed


# --- noise in the inputs ---------------------------------------------------------------------------------------------


def noise_on_a_copy(x, random_ids, u, share):
    result = x.clone()
    result[u < share] = random_ids[u < share]
    return result


def noise_by_arithmetic(x, random_ids, u, share):
    mask = (u < share).long()
    return mask * random_ids + (1 - mask) * x


def noise_in_loops(x, random_ids, u, share):
    return torch.tensor([[int(random_ids[b, t]) if u[b, t] < share else int(x[b, t]) for t in range(x.shape[1])]
                         for b in range(x.shape[0])])


def noise_in_numpy(x, random_ids, u, share):
    return np.where(u.numpy() < share, random_ids.numpy(), x.numpy())


def noise_by_masked_scatter(x, random_ids, u, share):
    mask = u < share
    return x.masked_scatter(mask, random_ids[mask])


def noise_the_other_way_round(x, random_ids, u, share):
    return x.where(u >= share, random_ids)


def some_noise(seed):
    generator, shape = torch.Generator().manual_seed(80 + seed), (2 + seed, 8 - seed)
    x, random_ids = torch.randint(30, shape, generator=generator), torch.randint(30, shape, generator=generator)
    return x, random_ids, torch.randint(4, shape, generator=generator) / 4, (0.25, 0.5, 0.75, 0.5)[seed]


# --- is it a record? -------------------------------------------------------------------------------------------------


def t_with_statistics(losses, target):
    return (target - statistics.mean(losses)) / (statistics.stdev(losses) / math.sqrt(len(losses)))


def t_in_torch(losses, target):
    losses = torch.tensor(losses)
    return (target - losses.mean()) / (losses.std() / len(losses) ** 0.5)


def t_in_numpy(losses, target):
    return (target - np.mean(losses)) * np.sqrt(len(losses)) / np.std(losses, ddof=1)


def t_in_loops(losses, target):
    total = squares = 0.0
    for loss in losses:
        total += loss
    for loss in losses:
        squares += (loss - total / len(losses)) ** 2
    return (target - total / len(losses)) / (squares / (len(losses) - 1) / len(losses)) ** 0.5


def t_of_the_gains(losses, target):
    gains = target - np.array(losses)
    return gains.mean() / math.sqrt(gains.var(ddof=1) / len(gains))


def t_by_the_mean_of_squares(losses, target):
    n, mean = len(losses), statistics.fmean(losses)
    variance = statistics.fmean([loss * loss for loss in losses]) - mean**2  # with n
    return (target - mean) / math.sqrt(variance / (n - 1))


def some_seeds(seed):
    generator = np.random.default_rng(seed)
    return (4 + 0.3 * generator.normal(size=5 + 2 * seed)).tolist(), (4.4, 3.8, 4.1, 4.6)[seed]


CASES = {
    "directions": Case([directions_in_numpy, with_v_transposed, from_full_matrices, direction_by_direction,
                        by_the_root_of_the_gram_matrix, by_a_cubic_iteration, divided_by_its_values], some_gradient),
    "epoch": Case([starts_in_torch, starts_in_numpy, from_a_list_of_starts, batch_after_batch, starts_in_a_loop,
                   with_islice], some_epoch),
    "information": Case([information_by_the_definition, information_in_numpy, information_by_bincount,
                         information_of_one_hots, information_by_differences_of_logarithms, information_in_loops],
                        some_tokens),
    "noise": Case([noise_on_a_copy, noise_by_arithmetic, noise_in_loops, noise_in_numpy, noise_by_masked_scatter,
                   noise_the_other_way_round], some_noise),
    "target": Case([t_with_statistics, t_in_torch, t_in_numpy, t_in_loops, t_of_the_gains, t_by_the_mean_of_squares],
                   some_seeds),
}
