"""Counting: the published totals, formula against measurement, and groups that partition the model."""

import json
from types import SimpleNamespace

import pytest
import torch
import torchinfo
from torch.utils.flop_counter import FlopCounterMode

from helpers.machine import assets
from helpers.model import SIZES, GPTConfig
from helpers.parameters import (
    EXPERTS,
    PUBLISHED,
    architecture,
    costs_per_token,
    count_parameters,
    count_parts,
    group_of,
    meta_model,
    parameter_formula,
    part_of,
)

TOTALS = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
UNTIED = {"gpt2": 163_037_184, "gpt2-medium": 406_286_336, "gpt2-large": 838_359_040, "gpt2-xl": 1_638_022_400}


@pytest.mark.parametrize("name", SIZES)
def test_published_totals(name):
    for expected, tied in ((TOTALS, True), (UNTIED, False)):
        config = GPTConfig.named(name, tie_word_embeddings=tied)
        counts = count_parameters(meta_model(config))
        assert counts["total"] == expected[name] == sum(p.numel() for p in meta_model(config).parameters())
        assert counts == parameter_formula(config)


def test_tensors_biases_and_layernorms_of_gpt2_small():
    model = meta_model(GPTConfig())
    assert len(list(model.named_parameters())) == 148
    assert sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias")) == 102_144
    assert count_parameters(model)["LayerNorm"] == 38_400


def test_a_copied_head_is_counted_and_an_unknown_name_refused():
    model = meta_model(GPTConfig())
    model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight)
    assert count_parameters(model)["total"] == UNTIED["gpt2"]
    with pytest.raises(ValueError, match="no group"):
        group_of("transformer.rotary.weight")
    with pytest.raises(ValueError, match="exactly one"):
        group_of("transformer.h.0.attn.mlp.weight")


@pytest.mark.parametrize("name", PUBLISHED)
def test_later_models_have_their_published_totals(name):
    assert count_parts(architecture(name))["total"] == PUBLISHED[name][1]


@pytest.mark.parametrize("name", SIZES)
def test_gpt2_by_part_equals_gpt2_by_group(name):
    parts, groups = count_parts(architecture(name)), parameter_formula(GPTConfig.named(name))
    assert {parts[k] for k in ("attention", "MLP", "total")} == {groups[k] for k in ("attention", "MLP", "total")}
    assert parts["norms"] == groups["LayerNorm"] and parts["unembedding"] == 0


def test_misleading_names_are_sorted_correctly():
    assert part_of("model.layers.0.post_attention_layernorm.weight") == "norms"
    assert part_of("model.layers.0.self_attn.q_norm.weight") == "norms"
    assert part_of("transformer.h.0.mlp.c_proj.bias") == "MLP"
    assert part_of("model.layers.0.block_sparse_moe.gate.weight") == "MLP", "so Colab's transformers 4.57 names it"
    with pytest.raises(ValueError, match="none of"):
        part_of("model.conv.weight")


@pytest.mark.parametrize("name", ["gpt2", *(name for name in PUBLISHED if name not in EXPERTS)])
def test_flops_equal_torchs_own_count(name):
    model, T = architecture(name), 16
    mask = torch.ones(2, 1, T, T, dtype=torch.bool, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, T, dtype=torch.int64, device="meta"), attention_mask=mask, use_cache=False)
    assert counter.get_total_flops() == 2 * T * costs_per_token(model, T)["flops"]


def test_a_mixture_of_experts_uses_only_some_of_its_parameters():
    mixtral, qwen = (costs_per_token(architecture(name), 0) for name in ("Mixtral 8x7B", "Qwen3 30B-A3B"))
    assert mixtral["active"] // 1e8 == 128 and qwen["active"] // 1e8 == 33  # published: 12.9B and 3.3B
    per_layer = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 2 * 3 * 14336 * 4096 + 8 * 4096  # attention, two experts, router
    assert mixtral["flops"] == 2 * (32 * per_layer + 32000 * 4096)
    assert mixtral["cache"] == 2 * 32 * 8 * 128 * 2 and costs_per_token(architecture("gpt2"), 0)["cache"] == 36_864


def counts_every_module(model, verbose):
    """torchinfo 1.8: a shared tensor counts in every module that has it."""
    total = sum(p.numel() for module in model.modules() for p in module.parameters(recurse=False))
    return SimpleNamespace(total_params=total)


def counts_shared_once(model, verbose):
    """torchinfo after 1.8 (its pull request 397): the total is that of model.parameters()."""
    return SimpleNamespace(total_params=sum(p.numel() for p in model.parameters()))


@pytest.mark.parametrize("version, summary, answer, total", [
    (torchinfo.__version__, torchinfo.summary, None, None),
    ("1.8.0", counts_every_module, "twice", UNTIED),
    ("1.9.0", counts_shared_once, "once", TOTALS),
    ("2.0.0", lambda model, verbose: SimpleNamespace(total_params=7),
     "neither once nor twice", dict.fromkeys(SIZES, 7)),
])
def test_notebook_05_says_what_each_version_of_torchinfo_counts(version, summary, answer, total):
    """The cell runs with versions that count a shared tensor twice and once, and says which of them is installed."""
    text = (assets.ROOT / "notebooks" / "05_counting_parameters.ipynb").read_text(encoding="utf-8")
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(text)["cells"]}
    tables, models = [], {name: meta_model(GPTConfig.named(name)) for name in SIZES}
    exec(cells["torchinfo"], {  # what earlier cells of the notebook have defined
        "models": models, "totals": TOTALS, "parameter_formula": parameter_formula, "GPTConfig": GPTConfig,
        "torchinfo": SimpleNamespace(__version__=version, summary=summary),
        "show_table": lambda rows, *_, **__: tables.append(rows)})
    column, (said,) = f"torchinfo {version}", tables[1][0].values()
    assert {name: row["sum over all modules"] for name, row in tables[0].items()} == UNTIED
    assert said == answer or answer is None and said in ("once", "twice")
    assert total is None or {name: row[column] for name, row in tables[0].items()} == total
    assert "torchinfo 1.8 reports the untied total" in cells["torchinfo-see"] and "pull/397" in cells["torchinfo-see"]
