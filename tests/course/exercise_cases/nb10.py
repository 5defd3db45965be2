"""Cases for the exercises of notebook 10."""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from helpers.course.exercises.nb10 import small_model
from tests.course.exercise_cases import Case

# --- where to copy from ----------------------------------------------------------------------------------------------


def searching_backwards(ids):
    sources = []
    for t in range(len(ids)):
        found = None
        for s in range(t - 1, -1, -1):
            if ids[s] == ids[t]:
                found = s + 1
                break
        sources.append(found)
    return sources


def with_a_comprehension(ids):
    return tuple(max((s + 1 for s in range(t) if ids[s] == ids[t]), default=None) for t in range(len(ids)))


def by_overwriting(ids):
    sources = [None] * len(ids)
    for s in range(len(ids)):
        for t in range(s + 1, len(ids)):
            if ids[t] == ids[s]:
                sources[t] = s + 1
    return sources


def from_a_reversed_list(ids):
    return [t - ids[:t][::-1].index(token) if token in ids[:t] else None for t, token in enumerate(ids)]


def sources_in_numpy(ids):
    ids, sources = np.array(ids), []
    for t in range(len(ids)):
        earlier = np.flatnonzero(ids[:t] == ids[t])
        sources.append(earlier[-1] + 1 if earlier.size else None)
    return np.array(sources, dtype=object)


def sources_in_torch(ids):
    ids = torch.tensor(ids)
    places = ((ids[:, None] == ids).tril(-1) * torch.arange(1, len(ids) + 1)).amax(1)
    return [place if place else None for place in places]


def by_remembering_what_follows(ids):
    following, sources = {}, []
    for t, token in enumerate(ids):
        sources.append(following.get(token))
        following[token] = t + 1
    return sources


def some_ids(seed):
    return (torch.randint(4 + seed, (10 + 3 * seed,), generator=torch.Generator().manual_seed(seed)).tolist(),)


# --- an induction score for any text ---------------------------------------------------------------------------------


def by_comparison(maps, ids):
    """From a table of which positions hold equal tokens."""
    earlier = (ids[:, None] == ids).tril(-1)  # (T, T)
    last = (earlier * torch.arange(1, len(ids) + 1)).amax(-1)  # the last earlier position + 1, or 0
    t = last.nonzero()[:, 0]
    return maps[:, t, last[t]].mean(-1)


def head_by_head(maps, ids):
    scores = []
    for head in range(maps.shape[0]):
        found = [maps[head, t, s].item() for t, s in enumerate(searching_backwards(ids.tolist())) if s is not None]
        scores.append(sum(found) / len(found))
    return scores


def with_a_mask(maps, ids):
    mask = torch.zeros_like(maps[0])
    for t, s in enumerate(by_remembering_what_follows(ids.tolist())):
        if s is not None:
            mask[t, s] = 1
    return torch.einsum("hts,ts->h", maps, mask) / mask.sum()


def score_in_numpy(maps, ids):
    pairs = [(t, s) for t, s in enumerate(from_a_reversed_list(ids.tolist())) if s is not None]
    rows, columns = np.array(pairs).T
    return maps.numpy()[:, rows, columns].mean(axis=1)


def adding_up(maps, ids):
    total, count, last_seen = torch.zeros(len(maps), dtype=torch.float64), 0, {}
    for t in range(len(ids)):
        token = int(ids[t])
        if token in last_seen:
            total += maps[:, t, last_seen[token] + 1]
            count += 1
        last_seen[token] = t
    return total / count


def by_gathering(maps, ids):
    sources = by_overwriting(ids.tolist())
    rows = [t for t, s in enumerate(sources) if s is not None]
    index = torch.tensor([sources[t] for t in rows]).expand(len(maps), 1, -1).transpose(1, 2)
    return maps[:, rows].gather(2, index).squeeze(-1).mean(dim=1).bfloat16()


def some_maps(seed):
    generator = torch.Generator().manual_seed(seed)
    T, heads = 11 + seed, 5 + seed
    maps = torch.rand(heads, T, T, generator=generator).tril()
    return maps / maps.sum(-1, keepdim=True), torch.randint(5, (T,), generator=generator)


# --- a run without one head ------------------------------------------------------------------------------------------


def own(model, head):
    hs = model.config.n_embd // model.config.n_head
    return slice(head * hs, (head + 1) * hs)


def with_a_mask_of_ones(model, ids, layer, head):
    kept = torch.ones(model.config.n_embd)
    kept[own(model, head)] = 0
    hook = model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(lambda _, inputs: inputs[0] * kept)
    try:
        logits = model(ids)
    finally:
        hook.remove()
    return logits


def head_by_head_in_z(model, ids, layer, head):
    def change(module, inputs):
        B, T, C = inputs[0].shape
        z = inputs[0].view(B, T, model.config.n_head, -1).clone()
        z[:, :, head] = 0.0
        return z.view(B, T, C)

    with model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(change):  # a handle removes itself
        return model(ids)


def in_a_copy_of_the_model(model, ids, layer, head):
    other = copy.deepcopy(model)
    weight = other.transformer.h[layer].attn.c_proj.weight  # (C, C), nn.Linear: columns belong to z
    weight.data[:, own(model, head)] = 0
    return other(ids)


def on_the_output(model, ids, layer, head):
    """Subtracts what the head adds to the output of c_proj, instead of changing its input."""
    part, module = own(model, head), model.transformer.h[layer].attn.c_proj
    hook = module.register_forward_hook(lambda module, inputs, y: y - inputs[0][..., part] @ module.weight[:, part].T)
    try:
        return model(ids)
    finally:
        hook.remove()


def instead_of_the_module(model, ids, layer, head):
    """Replaces forward for one run."""
    module, part = model.transformer.h[layer].attn.c_proj, own(model, head)
    kept = [c for c in range(model.config.n_embd) if c not in range(part.start, part.stop)]
    module.forward = lambda z: F.linear(z[..., kept], module.weight[:, kept], module.bias)
    try:
        return model(ids).numpy()
    finally:
        del module.forward


def for_all_linear_inputs(model, ids, layer, head):
    """A hook with its own error handling, which passes the error on."""
    def change(module, inputs):
        parts = list(inputs[0].chunk(model.config.n_head, dim=-1))
        parts[head] = torch.zeros_like(parts[head])
        return torch.cat(parts, dim=-1)

    handle = model.transformer.h[layer].attn.c_proj.register_forward_pre_hook(change)
    try:
        logits = model(ids)
    except Exception:
        handle.remove()
        raise
    handle.remove()
    return logits.double()


def some_head(seed):
    nh, layers = (3, 2, 4, 1)[seed], 2 + seed % 3
    model = small_model((layers, nh, 4 * nh + 2 * nh * (seed % 2)), 50 + seed, vocab_size=9 + seed)
    ids = torch.randint(9, (2 + seed, 4 + seed), generator=torch.Generator().manual_seed(seed))
    return model, ids, seed % layers, (seed + 1) % nh


@torch.no_grad()
def logits_and_hooks(attempt, model, ids, layer, head):
    """The logits, those of a plain run afterwards, and those of a plain run after one that fails."""
    results = [attempt(model, ids, layer, head), model(ids)]
    try:
        attempt(model, torch.zeros(1, 9, dtype=torch.int64), layer, head)
    except ValueError:
        results.append(model(ids))
    return results


# --- the restored share of a patch -----------------------------------------------------------------------------------


def with_one_hook(model, clean, corrupted, answer, other, layer, position):
    """One hook for all three runs: it keeps in the first, changes nothing in the second, and patches in the third."""
    runs, kept = iter(("keep", "none", "patch")), []

    def change(module, inputs):
        run, x = next(runs), inputs[0].clone()
        if run == "keep":
            kept.append(x)
        if run == "patch":
            x[:, position, :] = kept[0][:, position, :]
        return (x, *inputs[1:])

    rows, hook = torch.arange(len(clean)), model.transformer.h[layer].register_forward_pre_hook(change)
    try:
        logits = [model(ids)[:, -1] for ids in (clean, corrupted, corrupted)]
    finally:
        hook.remove()
    high, low, patched = ((last[rows, answer] - last[rows, other]).mean() for last in logits)
    return (patched - low) / (high - low)


def difference(logits, answer, other):
    last = logits[:, -1].double()
    return (F.one_hot(answer, last.shape[-1]) - F.one_hot(other, last.shape[-1])).mul(last).sum(1).mean()


def both_texts_in_one_batch(model, clean, corrupted, answer, other, layer, position):
    B = len(clean)

    def change(module, inputs):
        x = inputs[0].clone()  # clean, corrupted, and corrupted to be patched
        x[2 * B :, position] = x[:B, position]
        return (x, *inputs[1:])

    with model.transformer.h[layer].register_forward_pre_hook(change):
        logits = model(torch.cat([clean, corrupted, corrupted]))
    high, low, patched = (difference(part, answer, other) for part in logits.split(B))
    return ((patched - low) / (high - low)).item()


def with_where(model, clean, corrupted, answer, other, layer, position):
    block, kept = model.transformer.h[layer], {}
    with block.register_forward_pre_hook(lambda _, inputs: kept.update(x=inputs[0].clone())):
        high = difference(model(clean), answer, other)
    low = difference(model(corrupted), answer, other)
    here = (torch.arange(clean.shape[1]) == position)[:, None]
    with block.register_forward_pre_hook(lambda _, inputs: (torch.where(here, kept["x"], inputs[0]), *inputs[1:])):
        patched = difference(model(corrupted), answer, other)
    return np.array([float((patched - low) / (high - low))])


def with_another_forward(model, clean, corrupted, answer, other, layer, position):
    """Replaces the block's forward instead of using hooks."""
    block, kept = model.transformer.h[layer], []
    forward = block.forward

    def keep(x, *rest, **options):
        kept.append(x)
        return forward(x, *rest, **options)

    def patch(x, *rest, **options):
        x = torch.cat([x[:, :position], kept[0][:, position : position + 1], x[:, position + 1 :]], dim=1)
        return forward(x, *rest, **options)

    try:
        low = difference(model(corrupted), answer, other)
        block.forward = keep
        high = difference(model(clean), answer, other)
        block.forward = patch
        patched = difference(model(corrupted), answer, other)
    finally:
        block.__dict__.pop("forward", None)
    return 1 - (high - patched) / (high - low)


def sums_over_the_batch(model, clean, corrupted, answer, other, layer, position):
    """The numbers of pairs cancel, so sums do as well as means; the answer is given in half precision."""
    def total(ids, change=lambda module, inputs: None):
        with model.transformer.h[layer].register_forward_pre_hook(change):
            last = model(ids)[:, -1]
        return sum(last[b, answer[b]] - last[b, other[b]] for b in range(len(ids)))

    kept = []
    high = total(clean, lambda module, inputs: kept.extend(inputs[0]))

    def patch(module, inputs):
        x = inputs[0].clone()
        for b in range(len(x)):
            x[b, position] = kept[b][position]
        return x, *inputs[1:]

    low = total(corrupted)
    return ((total(corrupted, patch) - low) / (high - low)).half()


def some_patch(seed):
    generator = torch.Generator().manual_seed(seed)
    layers, nh, V, B, T = 2 + seed % 3, 1 + seed, 9 + seed, 5 + seed, 4 + seed
    model = small_model((layers, nh, 4 * nh), 70 + seed, 1.0, V)
    clean, corrupted = (torch.randint(V, (B, T), generator=generator) for _ in range(2))
    answer = torch.randint(V, (B,), generator=generator)
    return model, clean, corrupted, answer, (answer + 1 + seed) % V, seed % layers, (seed + 2) % T


@torch.no_grad()
def share_and_model(attempt, model, *arguments):
    """The share, and the logits of a plain run afterwards."""
    return attempt(model, *arguments), model(arguments[0])


CASES = {
    "sources": Case([searching_backwards, with_a_comprehension, by_overwriting, from_a_reversed_list, sources_in_numpy,
                     sources_in_torch, by_remembering_what_follows], some_ids),
    "score": Case([by_comparison, head_by_head, with_a_mask, score_in_numpy, adding_up, by_gathering], some_maps),
    "ablate": Case([with_a_mask_of_ones, head_by_head_in_z, in_a_copy_of_the_model, on_the_output,
                    instead_of_the_module, for_all_linear_inputs], some_head, logits_and_hooks),
    "share": Case([with_one_hook, both_texts_in_one_batch, with_where, with_another_forward,
                   sums_over_the_batch], some_patch, share_and_model),
}
