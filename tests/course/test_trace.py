"""The way of the data through a GPT-2: order, shapes, parameters and FLOPs, and the picture of it."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.course import trace as traces
from helpers.course.diagrams.svg import problems
from helpers.course.trace import draw_trace, trace
from helpers.model import GPT, GPTConfig
from helpers.parameters import architecture, count_parameters, meta_model
from helpers.pretrained import to_huggingface

SMALL = GPTConfig(vocab_size=97, n_positions=16, n_embd=24, n_layer=3, n_head=2)
MODELS = {"Model 5": lambda: meta_model(GPTConfig()), "GPT-2 small": lambda: architecture("gpt2"),
          "its transformer": lambda: architecture("gpt2").transformer}


def ids_of(B, T, device="meta"):
    return torch.zeros(B, T, dtype=torch.int64, device=device)


@pytest.mark.parametrize("name", MODELS)
def test_all_parameters_and_flops_are_counted_once(name):
    model, ids = MODELS[name](), ids_of(2, 8)
    steps = trace(model, ids)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    assert steps.total() == (sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops())


@pytest.mark.parametrize("convert", [lambda model: model, to_huggingface])
def test_a_model_on_a_cpu_has_the_same_steps_as_on_the_meta_device(convert):
    model = convert(GPT(SMALL))
    shapes_only = convert(GPT(SMALL)).to("meta").apply(_tie)
    assert list(trace(model, ids_of(2, 7, "cpu"))) == list(trace(shapes_only, ids_of(2, 7)))


def _tie(module):
    """Moving to the meta device separates tied weights."""
    if hasattr(module, "lm_head"):
        module.lm_head.weight = module.transformer.wte.weight


def test_the_steps_follow_the_data():
    steps = [step for step in trace(GPT(SMALL), ids_of(2, 7, "cpu")) if not step.name.startswith("transformer.h.1")]
    names = [step.name.removeprefix("transformer.") for step in steps]
    assert names[:7] == ["", "wte", "wpe", "h.0", "h.0.ln_1", "h.0.attn", "h.0.attn.c_attn"]
    assert names[-2:] == ["ln_f", "lm_head"]
    by_name = dict(zip(names, steps))
    assert by_name["h.0.attn.c_attn"].shape == (2, 7, 72) and by_name["h.0.attn.c_attn"].parameters == 24 * 72 + 72
    assert by_name["h.0.attn.c_attn"].flops == 2 * 2 * 7 * 24 * 72
    assert by_name["h.0.attn"].flops == 2 * 2 * 7 * 7 * 24 * 2  # scores, and weights times values
    assert by_name["lm_head"].tied_to == "transformer.wte" and by_name["lm_head"].parameters == 0
    assert by_name["wpe"].shape == (7, 24) and by_name["h.0"].parameters == 0 and by_name["h.0.mlp.c_fc"].depth == 5


def test_the_sums_of_modules_agree_with_the_counts_by_group():
    model = GPT(SMALL)
    steps, counts = trace(model, ids_of(1, 4, "cpu")), count_parameters(model)
    assert steps.total("transformer.wte")[0] == counts["token embedding"]
    assert sum(steps.total(f"transformer.h.{i}.attn")[0] for i in range(3)) == counts["attention"]
    assert sum(steps.total(f"transformer.h.{i}")[1] for i in range(3)) + steps.total("lm_head")[1] == steps.total()[1]


def test_rows_are_a_table_with_shapes_in_letters():
    rows = {row["module"].removeprefix("transformer."): row for row in trace(GPT(SMALL), ids_of(2, 7, "cpu")).rows()}
    assert rows["h.2.mlp.c_fc"]["output"] == "(B, T, 4C)" and rows["h.2.mlp.c_fc"]["shape"] == "(2, 7, 96)"
    assert rows["lm_head"]["output"] == "(B, T, V)" and rows["wpe"]["output"] == "(T, C)"
    assert "h.2.mlp" not in rows and rows["h.2.attn"]["parameters"] == 0


def test_the_model_is_left_as_it_was():
    model = GPT(SMALL).train()
    state = torch.get_rng_state()
    trace(model, ids_of(1, 3, "cpu"))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("model, ids, error, words", [
    (nn.Linear(2, 2), ids_of(1, 2, "cpu"), TypeError, "this is a Linear"),
    ("gpt2", ids_of(1, 2, "cpu"), TypeError, "this is a str"),
    (GPT(SMALL), [[1, 2]], TypeError, "list"),
    (GPT(SMALL), torch.zeros(3, dtype=torch.int64), ValueError, r"\(B, T\)"),
    (GPT(SMALL), torch.zeros(1, 3), ValueError, "int64"),
    (GPT(SMALL), ids_of(0, 3, "cpu"), ValueError, "at least one id"),
    (GPT(SMALL), ids_of(1, 17, "cpu"), ValueError, "1 to 16"),
    (GPT(SMALL), ids_of(1, 3, "cpu") + 97, ValueError, "0 to 96"),
])
def test_wrong_input_is_named(model, ids, error, words):
    with pytest.raises(error, match=words):
        trace(model, ids)


@pytest.mark.parametrize("name", MODELS)
def test_the_picture_can_be_read_and_shows_one_block(name):
    drawing = draw_trace(trace(MODELS[name](), ids_of(1, 64)))
    assert problems(drawing) == []
    ElementTree.fromstring(drawing.svg())
    texts = [part.label for part in drawing.parts if part.kind == "text"]
    assert texts.count("attn.c_attn") == 1 and "1 of 12 blocks" in texts and "all 12 blocks" in texts
    assert "(B, T, 3C)" in texts and "85,054,464" in texts and "(B, nh, T, hs)" in texts
    assert ("0: tied to wte" in texts) == (name != "its transformer")
    assert "attn.c_attn gives (B, T, 3C): 1,771,776 parameters" in drawing.description


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {"n_layer": 1}, {"vocab_size": 3, "n_embd": 2}])
def test_small_models_have_a_picture_that_can_be_read(changes):
    config = GPTConfig(**{"vocab_size": 97, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 2, **changes})
    assert problems(draw_trace(trace(GPT(config), ids_of(1, 4, "cpu")))) == []


def test_blocks_that_differ_have_rows_of_their_own():
    model = GPT(SMALL)
    model.transformer.h[0].mlp.c_fc.bias = None
    texts = [part.label for part in draw_trace(trace(model, ids_of(1, 4, "cpu"))).parts if part.kind == "text"]
    assert "block 0" in texts and "1 of 2 blocks" in texts and "blocks 1–2" in texts


def test_it_is_shown_with_alternative_text(monkeypatch):
    shown = []
    monkeypatch.setattr(traces, "display", shown.append)
    assert traces.plot_trace(trace(GPT(SMALL), ids_of(1, 4, "cpu"))) is None
    (data, metadata), = (drawing._repr_mimebundle_() for drawing in shown)
    assert data["image/svg+xml"].startswith("<svg") and json.dumps(metadata)
    assert metadata["image/svg+xml"]["alt"] in data["text/plain"]
