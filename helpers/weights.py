"""Distributions of trained weights: histograms, robust statistics beside others, and the loss with replaced weights
(notebook 06)."""

import json

import torch

from helpers.machine import assets

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


def summarise(values):
    """Statistics of a tensor's entries as a dictionary. values: any shape; computed in float64.

    count, mean, std; mad, the median distance from the median, which a few huge values do not change; kurtosis (excess,
    0 for a normal distribution); within_0.05, the share of values closer than 0.05 to zero; median_abs; min, max;
    quantiles.
    Raises ValueError for fewer than two values, or any that is not finite.
    """
    x = values.detach().flatten().cpu().double()  # MPS has no float64
    if len(x) < 2 or not torch.isfinite(x).all():
        raise ValueError(f"summarise() got {len(x)} values; expected at least two, all finite.")
    ordered = x.sort().values
    centred, median = x - x.mean(), _quantile(ordered, 0.5)
    variance = centred.square().mean()
    return {
        "count": len(x),
        "mean": x.mean().item(),
        "std": x.std().item(),
        "mad": _median((x - median).abs()),
        "kurtosis": (centred.pow(4).mean() / variance**2 - 3).item() if variance > 0 else 0.0,
        "within_0.05": (x.abs() < 0.05).double().mean().item(),
        "median_abs": _median(x.abs()),
        "min": ordered[0].item(),
        "max": ordered[-1].item(),
        "quantiles": {str(q): _quantile(ordered, q) for q in QUANTILES},
    }


def _quantile(ordered, q):
    """The q-quantile of sorted values, interpolated (torch.quantile refuses more than 16 million values)."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return (ordered[low] + (position - low) * (ordered[high] - ordered[low])).item()


def _median(x):
    """The median, without sorting, in a fraction of the time."""
    return ((x.kthvalue((len(x) + 1) // 2).values + x.kthvalue(len(x) // 2 + 1).values) / 2).item()


def histogram(values, low=-1.0, high=1.0, bins=200):
    """Counts of values in equal bins from low to high, and how many lie outside: {"low", "high", "counts",
    "outside"}."""
    x = values.detach().flatten().cpu().double()  # in float32 a bin stops counting at 16,777,216
    counts = torch.histc(x, bins, low, high).long()
    return {"low": low, "high": high, "counts": counts.tolist(), "outside": len(x) - int(counts.sum())}


def split_qkv(c_attn_weight):
    """GPT-2's fused matrix as nn.Linear stores it, (3C, C) -> {"Q": (C, C), "K": (C, C), "V": (C, C)}."""
    return dict(zip("QKV", c_attn_weight.chunk(3, dim=0)))


def tensor_statistics(name, tensor):
    """{name: summary and "histogram"} of one tensor as nn.Linear stores it; the fused c_attn also as Q, K and V.

    Names are GPT-2's without "transformer.". An embedding also gets "std_by_dimension", one std for each column.
    """
    name, spread, statistics = name.removeprefix("transformer."), 0.5 if tensor.ndim == 2 else 2.0, {}
    parts = split_qkv(tensor) if ".c_attn." in name else {}
    for key, part in {name: tensor, **{name.replace("c_attn", f"c_attn.{x}"): parts[x] for x in parts}}.items():
        statistics[key] = {**summarise(part), "histogram": histogram(part, -spread, spread, 100)}
    if name in ("wte.weight", "wpe.weight"):
        statistics[name]["std_by_dimension"] = tensor.detach().cpu().double().std(dim=0).tolist()
    return statistics


def recorded_gpt2_statistics():
    """Statistics of the real GPT-2 small that ship with the course: data/gpt2_weight_stats.json, made by its recipe."""
    return json.loads((assets.DATA / "gpt2_weight_stats.json").read_text(encoding="utf-8"))


def statistics(model=None):
    """{tensor name: summary and "histogram"} of a GPT; without one, the recorded ones of the real GPT-2 small.

    Both have the same form (tensor_statistics). The record lacks the token embedding and the MLP matrices.
    """
    if model is None:
        return recorded_gpt2_statistics()["tensors"]
    by_name = {}
    for name, parameter in model.named_parameters():  # lists a tied tensor once
        by_name |= tensor_statistics(name, parameter)
    return by_name


def by_layer(statistics, part, key):
    """One number for each layer: statistics["h.0." + part][key], ... key: a statistic, or a quantile such as "0.95"."""
    layers = [statistics[name] for i in range(len(statistics)) if (name := f"h.{i}.{part}") in statistics]
    return [layer["quantiles"][key] if key in layer["quantiles"] else layer[key] for layer in layers]


def pooled(summaries):
    """What the union of several sets of numbers looks like, exactly, from their summaries: count, mean, std,
    within_0.05 and, where all have the same bins, histogram."""
    counts = torch.tensor([part["count"] for part in summaries], dtype=torch.float64)
    means, stds, within = (torch.tensor([part[key] for part in summaries], dtype=torch.float64)
                           for key in ("mean", "std", "within_0.05"))
    total, mean = counts.sum(), (counts * means).sum() / counts.sum()
    squares = ((counts - 1) * stds**2 + counts * (means - mean) ** 2).sum()  # within the sets, and between them
    bars = [part["histogram"] for part in summaries]
    return {
        "count": int(total), "mean": mean.item(), "std": (squares / (total - 1)).sqrt().item(),
        "within_0.05": ((counts * within).sum() / total).item(),
        "histogram": {**bars[0], "counts": [sum(column) for column in zip(*(bar["counts"] for bar in bars))],
                      "outside": sum(bar["outside"] for bar in bars)},
    }


def rank_correlation(values):
    """Spearman's correlation of values with their positions 0, 1, ...: 1 if they only rise, -1 if they only fall."""
    ranks = torch.tensor(values, dtype=torch.float64).argsort().argsort().double()
    return torch.corrcoef(torch.stack([torch.arange(len(values)).double(), ranks]))[0, 1].item()


REPLACEMENTS = {
    "noise": lambda x: x.mean() + x.std() * torch.randn_like(x),
    "shuffled": lambda x: x.flatten()[torch.randperm(x.numel()).to(x.device)].view_as(x),
    "zeros": torch.zeros_like,
}


@torch.no_grad()
def loss_with(model, layers, part, how, measure):
    """measure(model) while one matrix of each of these layers is replaced. The model is restored afterwards.

    part: "Q", "K", "V" or "W0". how: "noise" of the matrix's own mean and std, its own entries "shuffled", or "zeros".
    """
    attentions = [model.transformer.h[layer].attn for layer in layers]
    pieces = [attn.c_proj.weight if part == "W0" else split_qkv(attn.c_attn.weight)[part]
              for attn in attentions]  # views
    kept = [piece.clone() for piece in pieces]
    try:
        for piece in pieces:
            piece.copy_(REPLACEMENTS[how](piece))
        return measure(model)
    finally:
        for piece, old in zip(pieces, kept):
            piece.copy_(old)
