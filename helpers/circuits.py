"""Circuits: which attention heads do a job together, and how experiments on a trained GPT-2 test it.

The job here is to continue a repetition: a model that has read "A B" and now reads "A" again should expect "B". The
circuit for it has two attention heads in two blocks. A *previous-token head* writes into each position which token
stood before it. An *induction head* in a later block looks for the position whose previous token was the current token,
attends to it, and copies what stands there.

Attention maps and scores suggest which heads belong to the circuit. Ablation removes heads and shows what is lost
without them. Activation patching puts single activations of one run into another and shows what brings the answer back.

Letters as in model.py, and z: a head's weighted average of values, before c_proj mixes the heads.

Sources: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021 (the two heads); Olsson et al.,
"In-context Learning and Induction Heads", 2022; Wang et al., "Interpretability in the Wild", 2022 (mean ablation, logit
difference); Zhang and Nanda, "Towards Best Practices of Activation Patching in Language Models", 2024.
"""

import contextlib
import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F

from helpers import attention

# A head with a score above this counts as one of its kind. It is a convention: the exercises of ARENA use it for
# previous-token heads and for induction heads (C. McDougall, ARENA 2.0, part 1.2, "Intro to Mech Interp", 2023).
THRESHOLD = 0.4

# --- watching --------------------------------------------------------------------------------------------------------


def repeated_tokens(vocab_size, length, batch, generator=None, first=0):
    """Random text that only copying can predict: ids (B, 2 * length), whose second half repeats the first.

    Within a half all ids differ, so each token of the second half has exactly one earlier occurrence. The ids run from
    first to vocab_size - 1. Raises ValueError when there are not enough of them.
    """
    if not 2 <= length <= vocab_size - first:
        raise ValueError(f"repeated_tokens(length={length}): expected 2 to {vocab_size - first}, because each of the "
                         f"ids from {first} to {vocab_size - 1} stands at most once in a half.")
    half = first + torch.rand(batch, vocab_size - first, generator=generator).topk(length).indices  # (B, length)
    return torch.cat([half, half], dim=1)


def attention_maps(model, ids):
    """The attention map of each head: ids (B, T) -> (L, B, nh, T, T) on the CPU. Each row sums to 1."""
    with torch.no_grad():
        maps = attention.attention_maps(model, ids)  # (L * B, nh, T, T)
    return maps.unflatten(0, (model.config.n_layer, len(ids)))


def previous_token_score(maps):
    """How much each head attends to the token before: maps (L, B, nh, T, T) -> (L, nh), means over B and T - 1."""
    return maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(1, 3))


def induction_score(maps):
    """How much each head attends to what followed the last time: maps (L, B, nh, T, T) -> (L, nh).

    maps: of repeated_tokens(). The mean, over the second half, of the attention to the position after the first
    occurrence of the current token, T / 2 - 1 positions back. Raises ValueError for an odd T.
    Source: N. Nanda, "Induction Mosaic", 2022; the "prefix matching" of Olsson et al., 2022.
    """
    T = maps.shape[-1]
    if T % 2:
        raise ValueError(f"These maps have {T} positions; expected an even number, two halves of repeated_tokens().")
    return maps[..., T // 2 :, :].diagonal(offset=1, dim1=-2, dim2=-1).mean(dim=(1, 3))


@torch.no_grad()
def losses_by_position(model, ids):
    """The loss of each prediction: ids (B, T) -> (B, T - 1) in nats. Entry t is about token t + 1."""
    logits = model(ids)[:, :-1]  # (B, T - 1, V)
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


# --- changing a run --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def changed_inputs(changes):
    """Inside `with`, each module computes with change(x) in place of its input x. changes: {module: change}. The hooks
    that do this are removed at the end, also after an error."""
    hooks = [module.register_forward_pre_hook(lambda module, inputs, change=change: (change(inputs[0]), *inputs[1:]))
             for module, change in changes.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def by_layer(places, kind, layers, count):
    """[(layer, place), ...] -> {layer: [place, ...]}. Raises ValueError unless all layers and places exist."""
    grouped = {}
    for pair in places:
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not (is_pair and 0 <= pair[0] < layers and 0 <= pair[1] < count):
            raise ValueError(f"{pair!r} is no (layer, {kind}) here. Expected a list of pairs, such as [(0, 1)], with "
                             f"layers from 0 to {layers - 1} and {kind}s from 0 to {count - 1}.")
        grouped.setdefault(pair[0], []).append(pair[1])
    return grouped


@contextlib.contextmanager
def ablated(model, heads, mode="mean"):
    """Inside `with`, the model runs without these heads: [(layer, head), ...].

    mode: "zero" replaces a head's z by 0. "mean" replaces it by its mean over the batch and all positions of the same
    run: what the head says about single tokens is lost, and its constant part, on which later blocks may rely, is kept.
    That needs a batch of different texts; of a single short text, the mean still says much. It is a simple form of the
    mean ablation of Wang et al., 2022, who average over other texts. Raises ValueError for heads that do not exist and
    for another mode.
    """
    if mode not in ("zero", "mean"):
        raise ValueError(f'ablated(mode={mode!r}): expected "zero" or "mean".')
    L, nh = model.config.n_layer, model.config.n_head

    def without(own, x):
        z = x.unflatten(-1, (nh, -1)).clone()  # (B, T, C) -> (B, T, nh, hs)
        z[:, :, own] = 0 if mode == "zero" else z[:, :, own].mean(dim=(0, 1))
        return z.flatten(-2)  # -> (B, T, C)

    with changed_inputs({model.transformer.h[layer].attn.c_proj: functools.partial(without, own)
                         for layer, own in by_layer(heads, "head", L, nh).items()}):
        yield model


# --- putting parts of one run into another ---------------------------------------------------------------------------


class Recording(NamedTuple):
    """A run: ids (B, T), logits (B, T, V), residual (L, B, T, C), which is the residual stream before each block, and
    each head's z (L, B, T, nh, hs)."""

    ids: torch.Tensor
    logits: torch.Tensor
    residual: torch.Tensor
    z: torch.Tensor


@torch.no_grad()
def record(model, ids):
    """Runs the model on ids (B, T) and keeps what it computes on the way, as a Recording."""
    residual, z = [], []

    def keep(where, x):
        where.append(x.clone())
        return x

    changes = {}
    for block in model.transformer.h:
        changes |= {block: functools.partial(keep, residual), block.attn.c_proj: functools.partial(keep, z)}
    with changed_inputs(changes):
        logits = model(ids)
    return Recording(ids, logits, torch.stack(residual), torch.stack(z).unflatten(-1, (model.config.n_head, -1)))


@contextlib.contextmanager
def patched(model, source, residual=(), heads=()):
    """Inside `with`, some activations of each run are those of source, a Recording of another run.

    residual: [(layer, position), ...], the residual stream before a block, at one position.
    heads: [(layer, head), ...], a head's z at all positions.
    Raises ValueError for places that do not exist, and for ids of another shape than the recorded ones.
    """
    L, _, T, nh, hs = source.z.shape

    def checked(ids):
        if ids.shape != source.ids.shape:
            raise ValueError(f"These ids have the shape {tuple(ids.shape)}, but the recorded run has "
                             f"{tuple(source.ids.shape)}: the two runs must have the same shape.")
        return ids

    def with_residual(layer, positions, x):
        x = x.clone()  # (B, T, C)
        x[:, positions] = source.residual[layer][:, positions]
        return x

    def with_heads(layer, own, x):
        z = x.unflatten(-1, (nh, hs)).clone()  # (B, T, C) -> (B, T, nh, hs)
        z[:, :, own] = source.z[layer][:, :, own]
        return z.flatten(-2)

    changes = {model: checked}
    for layer, positions in by_layer(residual, "position", L, T).items():
        changes[model.transformer.h[layer]] = functools.partial(with_residual, layer, positions)
    for layer, own in by_layer(heads, "head", L, nh).items():
        changes[model.transformer.h[layer].attn.c_proj] = functools.partial(with_heads, layer, own)
    with changed_inputs(changes):
        yield model


def logit_difference(logits, answer, other):
    """How much the last position prefers the answer to another token: logits (B, T, V) -> the mean over B, a number.

    answer, other: a token id, or one for each sequence, (B,).
    """
    last = logits[:, -1]  # (B, V)
    rows = torch.arange(len(last), device=last.device)
    return (last[rows, answer] - last[rows, other]).mean().item()


@torch.no_grad()
def restored_shares(model, clean, corrupted, answer, other, what="heads"):
    """How much of the answer each single activation of the clean run brings back into the corrupted run.

    clean, corrupted: ids (B, T) each; answer, other: as in logit_difference(), which measures both runs and each
    patched one. what: "residual" -> shares (L, T), or "heads" -> shares (L, nh). A share is
    (patched - corrupted) / (clean - corrupted): 0 changes nothing, 1 brings all back; it can also lie outside of these.
    Raises ValueError when clean and corrupted ids give the same logit difference: then there is nothing to restore.
    """
    counts = {"residual": clean.shape[1], "heads": model.config.n_head}
    if what not in counts:
        raise ValueError(f'restored_shares(what={what!r}): expected "residual" or "heads".')
    source = record(model, clean)
    highest = logit_difference(source.logits, answer, other)
    lowest = logit_difference(model(corrupted, last_only=True), answer, other)
    if abs(highest - lowest) < 1e-6:
        raise ValueError(f"The clean and the corrupted ids give the same logit difference, {highest:.6f}. Corrupt what "
                         "the answer depends on.")
    shares = torch.empty(model.config.n_layer, counts[what])
    for layer in range(shares.shape[0]):
        for place in range(shares.shape[1]):
            with patched(model, source, **{what: [(layer, place)]}):
                now = logit_difference(model(corrupted, last_only=True), answer, other)
            shares[layer, place] = (now - lowest) / (highest - lowest)
    return shares
