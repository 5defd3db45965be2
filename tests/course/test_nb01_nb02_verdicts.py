"""The verdicts of notebooks 01 and 02: their cells run here, as they are and on a changed number, model or library."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchinfo
from transformers import GPT2Config, GPT2Model

from helpers import attention
from helpers.course.claims import Ledger
from helpers.machine import assets, runtime
from helpers.model import GPT, SIZES, GPTConfig
from helpers.parameters import count_parameters, meta_model
from helpers.training import TrainConfig, make_optimizer


def cells_of(name):
    """{id: source} of a notebook's cells."""
    notebook = nbformat.read(assets.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    return {cell.id: cell.source for cell in notebook.cells}


ATTENTION, MODEL5 = cells_of("01_attention_theory"), cells_of("02_model5_on_the_gpu")


def rows_after(sources, **names):
    """Runs cells with the given names and returns the ledger's rows as {number: claim}."""
    ledger = Ledger("test")
    space = {"torch": torch, "nn": nn, "F": F, "math": math, "copy": copy, "replace": replace, "ledger": ledger,
             "GPT": GPT, "GPTConfig": GPTConfig, "show_table": lambda *args, **options: None, **names}
    for source in sources:
        exec(source, space)
    return {claim.number: claim for claim in ledger.claims}


# --- 1: the width in the attention formula ----------------------------------------------------------------------------


def width_row(functional=F, sizes=SIZES):
    sources = [ATTENTION[name] for name in ("which-width", "ledger-1")]
    return rows_after(sources, runtime=runtime, attention=attention, F=functional, SIZES=sizes)[1]


def test_the_width_of_one_head_divides_the_scores_of_every_gpt2():
    row = width_row()
    assert row.verdict == "does not hold" and "64 in every GPT-2" in row.condition
    assert "one head of full width" in row.condition


def test_the_verdict_on_the_width_follows_the_library_and_the_models():
    def divided_by_root_of_c(q, k, v, is_causal):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=(q.shape[1] * q.shape[-1]) ** -0.5)

    assert width_row(SimpleNamespace(scaled_dot_product_attention=divided_by_root_of_c)).verdict == "holds"
    assert width_row(sizes={name: {**size, "n_head": 1} for name, size in SIZES.items()}).verdict == "holds"


@pytest.mark.parametrize("size", ["gpt2", "gpt2-xl"])
def test_hugging_faces_gpt2_divides_by_the_root_of_one_heads_width(size):
    torch.manual_seed(0)
    width, n_head = SIZES[size]["n_embd"], SIZES[size]["n_head"]
    config = GPT2Config(n_layer=1, n_head=n_head, n_embd=width, vocab_size=32, n_positions=8, initializer_range=0.1)
    model = GPT2Model._from_config(config, attn_implementation="eager").eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        found = model(ids, output_attentions=True).attentions[0]  # (1, nh, T, T)
        block = model.h[0]
        qkv = block.attn.c_attn(block.ln_1(model.wte(ids) + model.wpe(ids)))
        q, k, _ = (attention.split_heads(part, n_head) for part in qkv.chunk(3, dim=-1))
        by_head, by_model = (attention.apply_causal_mask(q @ k.transpose(-2, -1) / math.sqrt(number)).softmax(-1)
                             for number in (width // n_head, width))
    torch.testing.assert_close(found, by_head, atol=1e-4, rtol=1e-4)
    assert (found - by_model).abs().max() > 0.1


# --- 3 and 4: what torchinfo and named_parameters() count -------------------------------------------------------------


def counting_rows(library=torchinfo, config_class=GPTConfig):
    sources = [MODEL5[name] for name in ("counting-three", "counting-ledger")]
    return rows_after(sources, torchinfo=library, meta_model=meta_model, count_parameters=count_parameters,
                      GPTConfig=config_class)


def counts_with(total, version="9.9"):
    """A torchinfo whose summary reports total(model) parameters."""
    return SimpleNamespace(__version__=version, summary=lambda model, **options: SimpleNamespace(
        total_params=total(model)))


def by_module(model):
    return sum(p.numel() for module in model.modules() for p in module.parameters(recurse=False))


def each_once(model):
    return sum(p.numel() for p in model.parameters())


def test_claim_3_holds_with_a_torchinfo_that_counts_every_module():
    row = counting_rows(counts_with(by_module, "1.8.0"))[3]
    assert row.verdict == "holds" and "a version that counts a shared tensor once reports 124,439,808" in row.condition
    assert "163,037,184, minus 38,597,376" in row.measured and "= 124,439,808" in row.measured


def test_claim_3_does_not_hold_with_a_torchinfo_that_counts_a_shared_tensor_once():
    row = counting_rows(counts_with(each_once))[3]
    assert row.verdict == "does not hold"
    assert "only a version that counts every module reports 163,037,184" in row.condition
    assert "torchinfo 9.9: 124,439,808; it counts the shared matrix once" in row.measured
    assert "every module 163,037,184, minus 38,597,376" in row.measured  # the sum does not need torchinfo


def test_claim_3_follows_the_installed_torchinfo():
    reported = torchinfo.summary(meta_model(GPTConfig()), depth=1, verbose=0).total_params
    row = counting_rows()[3]
    assert row.verdict == ("holds" if reported == 163_037_184 else "does not hold")
    assert counting_rows(counts_with(lambda model: 150_000_000))[3].verdict == "does not hold"


def test_claims_3_and_4_change_their_verdicts_for_an_untied_model():
    rows = counting_rows(counts_with(by_module), lambda: GPTConfig(tie_word_embeddings=False))
    assert rows[3].verdict == "does not hold" and rows[4].verdict == "holds"
    assert counting_rows()[4].verdict == "does not hold"


# --- 5: tying ---------------------------------------------------------------------------------------------------------


def tying_row(changed=lambda source: source):
    sources = [changed(MODEL5[name]) for name in ("tying-make", "tying-gradients", "tying-convert", "tying-ledger")]
    trio = MODEL5["tying-trio"].split("\nrows = ")[0]  # the function that tells what is shared
    small = GPTConfig(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    return rows_after([sources[0], trio, *sources[1:]], config=small, short=TrainConfig(steps=2, warmup_steps=0),
                      make_optimizer=make_optimizer, meta_model=meta_model, device="cpu", named_total=124_439_808,
                      print=lambda *args: None)[5]


def test_a_second_parameter_does_not_tie_and_the_same_parameter_does():
    row = tying_row()
    assert row.verdict == "does not hold" and "until the first copy" in row.condition
    assert "163,037,184 instead of 124,439,808" in row.measured and "one gradient for both uses: no" in row.measured
    right = tying_row(lambda source: source.replace("nn.Parameter(model.transformer.wte.weight)",
                                                    "model.transformer.wte.weight")
                      .replace("nn.Parameter(real_fake.transformer.wte.weight)", "real_fake.transformer.wte.weight")
                      .replace('sent["second Parameter, embedding"]', 'sent["tied"]')
                      .replace('sent["second Parameter, head"]', "0"))
    assert right.verdict == "holds" and not right.condition


# --- 22: what an untrained model repeats ------------------------------------------------------------------------------

NAMES = ("Hugging Face's GPT-2", "OpenAI's code", "N(0, 1) embeddings")


def repeating_row(narrow=0.7, sizes=(128, 768), normal=1.0, greedy=0.8, sampled=0.0, seed=None):
    """The row for given shares. seed: another value of the second seed, for each of them."""
    def runs(value):
        return [value, value if seed is None else seed, value]

    low, high = ((12, width) for width in sizes)
    shares = {name: {low: runs(narrow), high: runs(0.01)} for name in NAMES[:2]} | {
        NAMES[2]: {low: runs(1.0), high: runs(normal)}}
    repeats = {(name, way): runs(value) for name in NAMES for way, value in
               (("greedy", greedy), ("sampled", sampled))}
    return rows_after([MODEL5["untrained-ledger"]], INITIALISATIONS=dict.fromkeys(NAMES), shares=shares, V=50_257,
                      repeats=repeats, depths=(1, 12), widths=sizes, largest=high, seeds=range(3))[22]


def test_what_an_untrained_model_repeats_depends_on_what_was_measured_on_both_sides():
    row = repeating_row()
    assert row.verdict == "depends"
    assert row.condition == (
        "on the initialisation and the width (Hugging Face's GPT-2) and greedy or sampled text (Hugging Face's GPT-2)")
    assert repeating_row(narrow=0.3).condition == (
        "on the initialisation and greedy or sampled text (Hugging Face's GPT-2)")
    assert repeating_row(normal=0.2, greedy=0.2).condition == "on the width (Hugging Face's GPT-2)"
    assert repeating_row(seed=0.55, sampled=0.0).verdict == "does not hold"  # one seed contradicts all three
    assert repeating_row(sampled=0.9, narrow=0.0, normal=0.0).verdict == "holds"
    assert repeating_row(sizes=(64, 256)).verdict == "unmeasured here"  # not GPT-2's size


def test_the_three_starts_differ_in_what_their_names_say():
    space = {"torch": torch, "math": math, "copy": copy, "GPT": GPT, "GPTConfig": GPTConfig, "device": "cpu"}
    exec(MODEL5["untrained-function"], space)
    assert tuple(space["INITIALISATIONS"]) == NAMES
    fresh = space["fresh_model"](2, 128, seed=0)
    expected = {NAMES[0]: (0.02, 0.02, 0.01), NAMES[1]: (0.02, 0.01, 0.02), NAMES[2]: (1, 1, 0.01)}
    for name, stds in expected.items():
        model = space["start_as"](fresh, name)
        parts = (model.transformer.wte, model.transformer.wpe, model.transformer.h[1].mlp.c_proj)
        assert [part.weight.std().item() for part in parts] == pytest.approx(stds, rel=0.05)
        assert model.lm_head.weight is model.transformer.wte.weight
        assert model.transformer.h[0].attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
