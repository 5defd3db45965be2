"""Distributions of trained weights: histograms, and statistics that survive outliers beside those that do not
(notebook 06)."""

import json

import torch

from helpers import assets

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


def summarise(values):
    """What a set of numbers looks like, as a dictionary. values: a tensor of any shape; computed in float64.

    count, mean, std; mad, the median distance from the median, which a few huge values cannot move; kurtosis (excess:
    0 for
    a normal distribution); within_0.05, the share of values closer than 0.05 to zero; median_abs; min, max; quantiles.
    Raises ValueError for fewer than two numbers or any that is not finite.
    """
    x = values.detach().flatten().double().cpu()
    if len(x) < 2 or not torch.isfinite(x).all():
        raise ValueError(f"summarise() got {len(x)} numbers; at least two, all finite, were expected.")
    ordered = x.sort().values
    centred, median = x - x.mean(), _quantile(ordered, 0.5)
    variance = centred.square().mean()
    return {
        "count": len(x),
        "mean": x.mean().item(),
        "std": x.std().item(),
        "mad": _quantile((x - median).abs().sort().values, 0.5),
        "kurtosis": (centred.pow(4).mean() / variance**2 - 3).item() if variance > 0 else 0.0,
        "within_0.05": (x.abs() < 0.05).double().mean().item(),
        "median_abs": _quantile(x.abs().sort().values, 0.5),
        "min": ordered[0].item(),
        "max": ordered[-1].item(),
        "quantiles": {str(q): _quantile(ordered, q) for q in QUANTILES},
    }


def _quantile(ordered, q):
    """The q-quantile of sorted numbers, interpolated (torch.quantile refuses more than 16 million numbers)."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return (ordered[low] + (position - low) * (ordered[high] - ordered[low])).item()


def histogram(values, low=-1.0, high=1.0, bins=200):
    """Counts of values in equal bins from low to high, and how many lie outside: {"low", "high", "counts",
    "outside"}."""
    x = values.detach().flatten().float().cpu()
    counts = torch.histc(x, bins, low, high).long()
    return {"low": low, "high": high, "counts": counts.tolist(), "outside": len(x) - int(counts.sum())}


def split_qkv(c_attn_weight):
    """GPT-2's fused matrix as nn.Linear stores it, (3C, C) -> {"Q": (C, C), "K": (C, C), "V": (C, C)}."""
    return dict(zip("QKV", c_attn_weight.chunk(3, dim=0)))


def recorded_gpt2_statistics():
    """Statistics of the real GPT-2 small that ship with the course: data/gpt2_weight_stats.json, made by its recipe."""
    return json.loads((assets.DATA / "gpt2_weight_stats.json").read_text(encoding="utf-8"))
