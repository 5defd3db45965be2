"""Cases for the exercises of notebook 11."""

import itertools

import numpy as np
import torch

from helpers.course import capstone
from helpers.course.exercises import capstone_reference, nb11
from helpers.model import GPTConfig
from tests.course.capstone_styles import STYLES
from tests.course.exercise_cases import Case

# --- shapes ----------------------------------------------------------------------------------------------------------


def shapes_by_formula(config, B, T):
    C, V, nh = config.n_embd, config.vocab_size, config.n_head
    x = [B, T, C]
    return {"x": x, "merged": x, "qkv": [B, T, C + C + C], "hidden": [B, T, 4 * C], "logits": [B, T, V],
            "q": [B, nh, T, C // nh], "scores": [B, nh, T, T], "new scores": [B, nh, 1, T + 1]}


def shapes_of_tensors(config, B, T):
    x = torch.empty(B, T, config.n_embd, device="meta")
    q = x.view(B, T, config.n_head, -1).transpose(1, 2)
    keys = torch.cat([q, q[:, :, :1]], dim=2)
    return {"x": x.shape, "qkv": torch.cat([x, x, x], -1).shape, "q": q.shape, "scores": (q @ q.mT).shape,
            "merged": q.transpose(1, 2).reshape(x.shape).shape, "hidden": torch.cat(4 * [x], -1).shape,
            "logits": (B, T, config.vocab_size), "new scores": (q[:, :, :1] @ keys.mT).shape}


def shapes_one_by_one(config, B, T):
    found = dict.fromkeys(("x", "merged"), (B, T, config.n_embd))
    found["qkv"] = (B, T, 3 * config.n_embd)
    found["hidden"] = (B, T, config.n_embd * 4)
    found["logits"] = (B, T, config.vocab_size)
    hs = config.n_embd // config.n_head
    found["q"] = B, config.n_head, T, hs
    found["scores"] = found["q"][:3] + (T,)
    found["new scores"] = (B, config.n_head, 1, 1 + T)
    return found


def shapes_with_numpy(config, B, T):
    x = np.empty((B, T, config.n_embd))
    q = x.reshape(B, T, config.n_head, -1).swapaxes(1, 2)
    return {"x": x.shape, "qkv": np.concatenate([x] * 3, -1).shape, "q": q.shape,
            "scores": (q @ q.swapaxes(2, 3)).shape, "merged": x.shape, "hidden": np.tile(x, 4).shape,
            "logits": x.shape[:2] + (config.vocab_size,), "new scores": (B, config.n_head, 1, T + 1)}


def shapes_and_more(config, B, T):
    return {**shapes_by_formula(config, B, T), "ids": (B, T), "k": (B, config.n_head, T, 1)}


def a_config(seed):
    return GPTConfig(vocab_size=67 + seed, n_positions=19 + seed, n_embd=(6 + seed) * (5 + seed), n_layer=2 + seed,
                     n_head=5 + seed)


def inputs_shapes(seed):
    return a_config(seed), 4 + seed, 9 + 2 * seed


# --- leaks -----------------------------------------------------------------------------------------------------------


def leaks_all_at_once(logits, V, T):
    ids = torch.zeros(1, T, dtype=torch.long)
    before = logits(ids)
    after = torch.cat([logits((ids + torch.eye(T, dtype=torch.long)[s])) for s in range(T)])  # (s, t, V)
    return (after != before).any(-1).T.triu(1).nonzero().tolist()


def leaks_as_a_set(logits, V, T):
    found = set()
    ids = torch.arange(T)[None] % V
    for t, s in itertools.combinations(range(T), 2):
        other = ids.clone()
        other[:, s] += 1
        if not torch.allclose(logits(ids)[:, t], logits(other % V)[:, t], atol=1e-6, rtol=0):
            found.add((t, s))
    return found


def leaks_by_sums(logits, V, T):
    pairs, ids = [], torch.full((1, T), V - 1)
    for s in reversed(range(T)):
        changed = torch.where(torch.arange(T) == s, 0, ids)
        distance = (logits(ids) - logits(changed)).square().sum(2).sqrt()[0]
        pairs.extend([t, s] for t, d in enumerate(distance.tolist()) if t < s and d > 1e-6)
    return pairs


def leaks_with_numpy(logits, V, T):
    def rows(ids):
        return logits(torch.from_numpy(ids))[0].numpy()

    ids = np.random.default_rng(0).integers(V, size=(1, T))
    pairs = []
    for s in range(1, T):
        changed = ids.copy()
        changed[0, s] = V - 1 - ids[0, s] if V - 1 != 2 * ids[0, s] else 0
        for t in range(s):
            if np.abs(rows(changed)[t] - rows(ids)[t]).max() > 1e-6:
                pairs.append((t, s))
    return np.array(pairs)


def leaks_of_many_tries(logits, V, T):
    pairs = set()
    for s in range(T):
        for new in range(3):
            ids = torch.randint(V, (1, T))
            changed = ids.clone()
            changed[0, s] = (ids[0, s] + 1 + new) % V
            rows = (logits(ids) != logits(changed)).any(-1)[0]
            pairs |= {(t, s) for t in torch.where(rows)[0].tolist() if t < s}
    return sorted(pairs)


def inputs_leaks(seed):
    T, V = 4 + seed, 9 + seed
    mix = torch.rand(T, T, generator=torch.Generator().manual_seed(seed)).round() + torch.eye(T)
    return nb11.mixing_model(V, mix, seed), V, T


# --- split -----------------------------------------------------------------------------------------------------------


def split_by_chunks(weight, bias, n_head):
    w = torch.stack([torch.stack([head.T for head in part.chunk(n_head)]) for part in weight.chunk(3)])
    b = torch.stack([torch.stack(part.chunk(n_head)) for part in bias.chunk(3)])
    return w, b


def split_by_slices(weight, bias, n_head):
    C = weight.shape[1]
    hs = C // n_head
    w, b = torch.empty(3, n_head, C, hs), torch.empty(3, n_head, hs)
    for j in range(3):
        for i in range(n_head):
            start = j * C + i * hs
            w[j, i] = weight[start : start + hs].T
            b[j, i] = bias[start : start + hs]
    return [w, b]


def split_by_einsum(weight, bias, n_head):
    parts = weight.unflatten(0, (3, n_head, -1))
    return torch.einsum("jhdc->jhcd", parts), bias.unflatten(0, (3, n_head, -1))


def split_with_numpy(weight, bias, n_head):
    C = weight.shape[1]
    return (weight.numpy().reshape(3, n_head, C // n_head, C).swapaxes(2, 3), bias.numpy().reshape(3, n_head, -1))


def split_from_the_transposed(weight, bias, n_head):
    C = len(weight.T)
    return (weight.T.reshape(C, 3, n_head, C // n_head).permute(1, 2, 0, 3).double(),
            bias.double().view(3, n_head, C // n_head))


def inputs_split(seed):
    nh, hs = 2 + seed, 3 + seed
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(3 * nh * hs, nh * hs, generator=generator), torch.randn(3 * nh * hs, generator=generator), nh)


# --- GPT-2 -----------------------------------------------------------------------------------------------------------


def inputs_gpt2(seed):
    return (a_config(seed),)


def run_gpt2(attempt, config):
    """What a model does: its fresh weights in figures, its logits, loss, gradient and text with GPT-2's weights."""
    adapter = capstone.as_adapter(attempt)
    model, subject = adapter.build(config), capstone.Subject(adapter)
    fresh = torch.cat([tensor.detach().flatten() for tensor in subject.memory(model)])
    start = [fresh.numel(), round(fresh.std().item(), 3), (fresh == 0).sum().item(), (fresh == 1).sum().item()]
    adapter.load(model, capstone_reference.weights(config, seed=0))
    ids = torch.randint(config.vocab_size, (2, config.n_positions // 2), generator=torch.Generator().manual_seed(1))
    try:
        too_long = tuple(adapter.logits(model, ids.repeat(1, 3)).shape)
    except Exception:
        too_long = "refused"
    texts = [adapter.generate(model, ids, 4, use_cache) for use_cache in (False, True)]
    return start, adapter.logits(model, ids), adapter.loss(model, ids, ids.flip(0)), too_long, texts


CASES = {
    "shapes": Case([shapes_by_formula, shapes_of_tensors, shapes_one_by_one, shapes_with_numpy, shapes_and_more],
                   inputs_shapes, lambda attempt, *arguments: {key: tuple(shape) for key, shape in
                                                               sorted(attempt(*arguments).items())}),
    "leaks": Case([leaks_all_at_once, leaks_as_a_set, leaks_by_sums, leaks_with_numpy, leaks_of_many_tries],
                  inputs_leaks, lambda attempt, *arguments: sorted(map(tuple, attempt(*arguments)))),
    "split": Case([split_by_chunks, split_by_slices, split_by_einsum, split_with_numpy, split_from_the_transposed],
                  inputs_split),
    "gpt2": Case([*STYLES.values()], inputs_gpt2, run_gpt2, most=20),  # test_capstone.py tries many more
}
