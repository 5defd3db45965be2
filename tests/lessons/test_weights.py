"""Statistics of weights: against numpy on known distributions, and the recorded ones of GPT-2 small."""

import numpy as np
import pytest
import torch

from helpers import weights
from helpers.model import GPT, GPTConfig


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


def test_constant_short_and_infinite_inputs():
    assert weights.summarise(torch.ones(5, 2))["kurtosis"] == 0
    with pytest.raises(ValueError, match="got 1 values"):
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


def test_measured_and_recorded_statistics_have_the_same_form():
    config = GPTConfig(vocab_size=50, n_positions=20, n_embd=12, n_layer=2, n_head=2)
    model = GPT(config)
    measured, recorded = weights.statistics(model), weights.statistics()
    two_layers = {name for name in recorded if not name.startswith("h.") or name.split(".")[1] in ("0", "1")}
    matrices = {f"h.{i}.mlp.{part}.weight" for i in (0, 1) for part in ("c_fc", "c_proj")}
    assert set(measured) - two_layers == {"wte.weight", *matrices} and two_layers <= set(measured)
    for name in two_layers:
        assert set(measured[name]) == set(recorded[name]), name
        assert set(measured[name]["histogram"]) == set(recorded[name]["histogram"])
    third = model.transformer.h[1].attn.c_attn.weight[24:]
    assert measured["h.1.attn.c_attn.V.weight"]["std"] == pytest.approx(third.std().item())
    columns = model.transformer.wpe.weight.detach().numpy().std(axis=0, ddof=1)
    assert measured["wpe.weight"]["std_by_dimension"] == pytest.approx(columns, rel=1e-5)


def test_by_layer_reads_statistics_and_quantiles():
    recorded = weights.statistics()
    assert weights.by_layer(recorded, "attn.c_attn.V.weight", "std") == [
        recorded[f"h.{i}.attn.c_attn.V.weight"]["std"] for i in range(12)
    ]
    assert weights.by_layer(recorded, "ln_1.weight", "0.95")[3] == recorded["h.3.ln_1.weight"]["quantiles"]["0.95"]
    assert weights.by_layer(recorded, "mlp.c_fc.weight", "std") == []


def test_pooled_is_exact():
    groups = [torch.tensor(np.random.default_rng(i).normal(0.1 * i, 0.05 * (i + 1), 1000 * i + 10)) for i in range(3)]
    pooled = weights.pooled([next(iter(weights.tensor_statistics("x", group).values())) for group in groups])
    expected = next(iter(weights.tensor_statistics("x", torch.cat(groups)).values()))
    assert pooled["histogram"] == expected["histogram"]
    for key in ("count", "mean", "std", "within_0.05"):
        assert pooled[key] == pytest.approx(expected[key]), key


def test_rank_correlation():
    assert weights.rank_correlation([0.1, 0.2, 5.0]) == pytest.approx(1)
    assert weights.rank_correlation([3.0, 2.0, -7.0]) == pytest.approx(-1)
    values = np.random.default_rng(0).normal(size=12)
    moved = np.argsort(np.argsort(values)) - np.arange(12)
    assert weights.rank_correlation(values.tolist()) == pytest.approx(1 - 6 * (moved**2).sum() / (12**3 - 12))


def test_standard_deviations_can_change_while_the_function_stays_the_same():
    """Notebook 06, section 9: V times a and W0 over a, Q times a and K over a, K's bias at zero: the same logits."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, n_positions=20, n_embd=12, n_layer=2, n_head=2)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ids = torch.randint(50, (2, 20))
    with torch.no_grad():
        before = model(ids)
        for block, a in zip(model.transformer.h, (3.0, 0.2)):
            q, k, v = block.attn.c_attn.weight.chunk(3)
            q_bias, k_bias, v_bias = block.attn.c_attn.bias.chunk(3)
            v.mul_(a), v_bias.mul_(a), block.attn.c_proj.weight.div_(a)
            q.mul_(a), q_bias.mul_(a), k.div_(a), k_bias.zero_()
        torch.testing.assert_close(model(ids), before)
        block.attn.c_proj.weight.mul_(2)
        assert (model(ids) - before).abs().max() > 0.01
