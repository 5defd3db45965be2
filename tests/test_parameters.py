"""Counting: the published totals, formula against measurement, and groups that partition the model."""

import pytest
import torch

from helpers.model import SIZES, GPTConfig
from helpers.parameters import count_parameters, group_of, meta_model, parameter_formula

TOTALS = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
UNTIED = {"gpt2": 163_037_184, "gpt2-medium": 406_286_336, "gpt2-large": 838_359_040, "gpt2-xl": 1_638_022_400}


@pytest.mark.parametrize("name", SIZES)
def test_published_totals(name):
    for expected, tied in ((TOTALS, True), (UNTIED, False)):
        config = GPTConfig.named(name, tie_word_embeddings=tied)
        counts = count_parameters(meta_model(config))
        assert counts["total"] == expected[name] == sum(p.numel() for p in meta_model(config).parameters())
        assert counts == parameter_formula(config)


def test_small_facts():
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
