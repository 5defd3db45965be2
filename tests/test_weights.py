"""Statistics of weights: against numpy on known distributions, and the recorded ones against the brief's facts."""

import numpy as np
import pytest
import torch

from helpers import weights


@pytest.mark.parametrize("draw", ["normal", "uniform", "laplace"])
def test_summary_against_numpy(draw):
    x = getattr(np.random.default_rng(0), draw)(size=100_001)
    summary = weights.summarise(torch.tensor(x))
    assert summary["std"] == pytest.approx(x.std(ddof=1))
    assert summary["mad"] == pytest.approx(np.median(np.abs(x - np.median(x))))
    assert summary["kurtosis"] == pytest.approx(((x - x.mean()) ** 4).mean() / x.var() ** 2 - 3)
    assert summary["kurtosis"] == pytest.approx({"normal": 0, "uniform": -1.2, "laplace": 3}[draw], abs=0.3)
    assert summary["within_0.05"] == pytest.approx((np.abs(x) < 0.05).mean())
    for q, value in summary["quantiles"].items():
        assert value == pytest.approx(np.quantile(x, float(q)))


def test_odd_inputs():
    assert weights.summarise(torch.ones(5, 2))["kurtosis"] == 0
    with pytest.raises(ValueError, match="1 numbers"):
        weights.summarise(torch.ones(1))
    with pytest.raises(ValueError, match="finite"):
        weights.summarise(torch.tensor([1.0, float("nan")]))


def test_histogram_counts_everything():
    bars = weights.histogram(torch.tensor([-3.0, -0.9, 0.05, 0.05, 0.95, 7.0]), -1, 1, 10)
    assert bars["outside"] == 2 and sum(bars["counts"]) == 4 and bars["counts"][5] == 2


def test_recorded_statistics_of_gpt2_small():
    recorded = weights.recorded_gpt2_statistics()
    tensors = recorded["tensors"]
    assert "histogram" in tensors["wpe.weight"] and len(recorded["sha256"]) == 64
    assert tensors["wpe.weight"]["std"] == pytest.approx(0.123, abs=1e-3)
    assert tensors["wpe.weight"]["within_0.05"] == pytest.approx(0.91, abs=0.005)
    ends = {"c_attn.Q": (0.2387, 0.1098), "c_attn.K": (0.2433, 0.1055), "c_attn.V": (0.0581, 0.1623)}
    for part, expected in {**ends, "c_proj": (0.1475, 0.1819)}.items():
        assert tuple(round(tensors[f"h.{i}.attn.{part}.weight"]["std"], 4) for i in (0, 11)) == expected, part
