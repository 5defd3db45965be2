"""What the notebooks say where a library counts by other rules than the installed one, or where the times of this
machine cannot be compared: their cells run on, and name what they found."""

import math
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pytest
import torch
import torch.nn.functional as F
import torchinfo
from torch.utils.flop_counter import FlopCounterMode
from torchinfo import model_statistics

from helpers.course.claims import Ledger
from helpers.machine import assets, limits, runtime, timing
from helpers.model import GPT, SIZES, GPTConfig
from helpers.parameters import architecture, costs_per_token, count_parameters, meta_model, parameter_formula
from tests.small import TINY


def run(notebook, names, **space):
    """Runs cells of a notebook. Returns (what they defined, their tables as lists of rows, the source of all cells)."""
    path, = (assets.ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    tables = []
    space = {"torch": torch, "math": math, "F": F, "replace": replace, "runtime": runtime, "timing": timing,
              "torchinfo": torchinfo, "FlopCounterMode": FlopCounterMode, "GPT": GPT, "GPTConfig": GPTConfig,
              "meta_model": meta_model, "count_parameters": count_parameters, "parameter_formula": parameter_formula,
              "show_table": lambda rows, *_, **__: tables.append(list(rows.values()) if type(rows) is dict else rows),
             **space}
    for name in names:
        exec(cells[name], space)
    return space, tables, cells


@pytest.fixture
def shared_once(monkeypatch):
    """The installed torchinfo, changed so that it counts a shared tensor once, as its pull request 397 does."""
    usual = model_statistics.ModelStatistics.__init__

    def changed(self, layers, *args, **options):
        usual(self, layers, *args, **options)
        each = {id(p): p for layer in layers for p in layer.module.parameters()}.values()
        self.total_params = sum(p.numel() for p in each)
        self.trainable_params = sum(p.numel() for p in each if p.requires_grad)
        self.total_param_bytes = sum(p.nbytes for p in each)

    monkeypatch.setattr(model_statistics.ModelStatistics, "__init__", changed)
    monkeypatch.setattr(torchinfo, "__version__", "1.9.0")
    model = meta_model(GPTConfig())
    assert torchinfo.summary(model, verbose=0).total_params == sum(p.numel() for p in model.parameters())


def test_notebook_02_with_a_torchinfo_that_counts_a_shared_tensor_once(shared_once):
    ledger = Ledger("test")
    names = ("counting-flow", "counting-three", "counting-ledger", "saves-memory")
    _, tables, cells = run("02", names, ledger=ledger)
    assert tables[1][0]["torchinfo 1.9.0 counts the shared matrix"] == "once"
    row = {claim.number: claim for claim in ledger.claims}[3]
    assert row.verdict == "does not hold" and "torchinfo 1.9.0: 124,439,808" in row.measured
    untied, tied, saved = tables[2]
    assert (untied["parameters"], tied["parameters"]) == (163_037_184, 124_439_808)
    assert saved["share"] == pytest.approx(0.237, abs=5e-4), "tying saves as much, whatever torchinfo counts"
    assert "torchinfo 1.8.0 counts it in both lines" in cells["counting-flow-read"]


def test_notebook_05_with_a_torchinfo_that_counts_a_shared_tensor_once(shared_once):
    models = {name: meta_model(GPTConfig.named(name)) for name in SIZES}
    totals = {name: count_parameters(model)["total"] for name, model in models.items()}
    _, tables, cells = run("05", ("torchinfo",), models=models, totals=totals)
    assert [row["torchinfo 1.9.0"] for row in tables[0]] == list(totals.values())
    assert tables[1] == [{"torchinfo 1.9.0 counts the shared matrix": "once"}]


class CountsTwice(FlopCounterMode):
    """A counter with other rules than the installed one's."""

    def get_total_flops(self):
        return 2 * super().get_total_flops()


@pytest.mark.parametrize("counter, equal", [(FlopCounterMode, True), (CountsTwice, False)])
def test_a_counter_of_operations_with_other_rules_is_named(counter, equal):
    _, tables, _ = run("03", ("flops-formula", "flops-counted"), MODEL5=GPTConfig(), FlopCounterMode=counter)
    assert [row["equal"] for row in tables[1]] == [equal] * len(tables[1])
    assert [row["backward / forward"] for row in tables[1]] == pytest.approx([2] * len(tables[1]))
    model = architecture("gpt2")
    _, tables, _ = run("05", ("flops",), FlopCounterMode=counter, costs_per_token=costs_per_token,
                       models={"gpt2": meta_model(GPTConfig())}, modern={"gpt2": model},
                       totals=count_parameters(meta_model(GPTConfig())) | {"gpt2": 124_439_808})
    assert tables[0][0]["equal"] == equal


def test_tensors_that_autograd_keeps_are_counted_and_not_asserted():
    model = GPT(replace(TINY, n_positions=32))
    space = {"model": model, "config": model.config,
             "random_ids": lambda B, T, device: torch.zeros(B, T, dtype=torch.int64)}
    _, tables, _ = run("03", ("activations", "activations-check"), **space)
    assert [row["rest"] for row in tables[0]] == [row["ids and positions"] for row in tables[0]]


SCALING = ("scaling-T", "scaling-B-measure", "scaling-B", "slopes")


@pytest.fixture
def scaled(monkeypatch):
    """scaled(clock, quota): the titles and tables of notebook 03's cells about scaling, with this clock."""

    def make(measure, quota=None):
        monkeypatch.setattr(timing, "measure", measure)
        monkeypatch.setattr(limits, "cpu_quota", lambda: quota)
        titles = []
        figures = SimpleNamespace(plot_scaling=lambda *panels: titles.extend(panel["title"] for panel in panels))
        space, tables, _ = run(
            "03", SCALING, config=TINY, is_real=False, devices=[torch.device("cpu")], models={"cpu": GPT(TINY)},
            note=lambda what, device, value, unit="s": value, figures=figures)
        return [panel["title"] for panel in space["panels"]] + titles, tables

    return make


def tokens_of(function):
    """How many tokens a part of the model gets that notebook 03 measures."""
    return math.prod(function.__globals__["x"].shape[:2])


def proportional(function, device):
    """A clock by which the time is in proportion to the tokens."""
    return timing.Timing(*[1e-3 * tokens_of(function)] * 3)


def shrinking(function, device):
    """A clock by which more work takes less time, as it may seem under a quota."""
    return timing.Timing(*[1 / tokens_of(function)] * 3)


def test_slopes_of_steady_times_are_shown(scaled):
    titles, (slopes, gains) = scaled(proportional)
    assert [row["slope"] for row in slopes] == pytest.approx([1, 1, 1])
    assert "attention takes 2.0 times as long, the MLP 2.0" in titles[0] and "1 times the tokens" in titles[1]
    assert gains[0]["tokens per second, relative to B = 1"] == pytest.approx(1)


@pytest.mark.parametrize("clock, quota", [(shrinking, None), (proportional, 0.5)])
def test_slopes_of_times_that_cannot_be_compared_are_inconclusive(scaled, clock, quota):
    titles, (slopes, gains) = scaled(clock, quota)
    assert [row["slope"] for row in slopes] == ["inconclusive"] * 3
    assert gains[0]["tokens per second, relative to B = 1"] == "inconclusive"
    assert all("inconclusive" in title for title in titles)
