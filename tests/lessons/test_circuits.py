"""Circuits: maps as transformers has them, scores of maps that are known, and interventions that change what they say
and nothing else."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers import circuits, pretrained
from helpers.model import GPT, GPTConfig
from tests.small import TINY

L, NH, HS = TINY.n_layer, TINY.n_head, TINY.n_embd // TINY.n_head


@pytest.fixture
def model(tiny):
    return tiny.eval()


@pytest.fixture
def ids():
    return circuits.repeated_tokens(TINY.vocab_size, 5, 3, torch.Generator().manual_seed(1))


def has_hooks(model):
    return any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def known_maps(*offsets, length=4, batch=2):
    """Maps (1, B, nh, T, T) whose heads attend only so many positions back, and to position 0 where that is too far."""
    t = torch.arange(2 * length)
    return torch.stack([F.one_hot((t - offset).clamp(min=0), 2 * length).float() for offset in offsets]).repeat(
        1, batch, 1, 1, 1)


@torch.no_grad()
def induction_model(vocab_size=8, positions=16):
    """A model with two blocks of one head, whose weights are set by hand: an induction circuit and nothing else.

    The residual stream has five parts: the token, the token before it (written by block 0), the prediction (written by
    block 1 and read by the head), the position, and a rest that makes the other parts' mean 0. The LayerNorms scale all
    vectors of a kind alike, and the large queries turn attention into a choice of one position.
    """
    V, P = vocab_size, positions
    width = 3 * V + 2 * P
    model = GPT(GPTConfig(V, P, 2 * width, n_layer=2, n_head=1, tie_word_embeddings=False))
    for parameter in model.parameters():
        parameter.zero_()
    for norm in [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]:
        norm.weight.fill_(1)
    token, before, prediction = (slice(i * V, (i + 1) * V) for i in range(3))
    place, next_place = slice(3 * V, 3 * V + P), slice(3 * V + P, width)
    model.transformer.wte.weight[:, token] = torch.eye(V)
    model.transformer.wpe.weight[:, place] = torch.eye(P)
    model.transformer.wpe.weight[:-1, next_place] = torch.eye(P)[1:]
    for embedding in (model.transformer.wte, model.transformer.wpe):
        embedding.weight[:, width:] = -embedding.weight[:, :width]  # each vector has the mean 0
    first, second = (block.attn for block in model.transformer.h)
    width *= 2
    first.c_attn.weight[place, place] = 100 * torch.eye(P)  # Q: where am I? K: where is the next position?
    first.c_attn.weight[width:, :][place, next_place] = 100 * torch.eye(P)
    second.c_attn.weight[token, token] = 100 * torch.eye(V)  # Q: which token am I? K: which token was before me?
    second.c_attn.weight[width:, :][token, before] = 100 * torch.eye(V)
    for attn, target in ((first, before), (second, prediction)):
        attn.c_attn.weight[2 * width :, :][token, token] = torch.eye(V)  # V: the token
        attn.c_proj.weight[target, token] = torch.eye(V)
    model.lm_head.weight[:, prediction] = 10 * torch.eye(V)
    return model.eval()


# Watching


def test_repeated_tokens_repeat_and_have_one_earlier_occurrence():
    ids = circuits.repeated_tokens(50, 20, 6, torch.Generator().manual_seed(0), first=10)
    assert ids.shape == (6, 40) and torch.equal(ids[:, :20], ids[:, 20:])
    assert all(len(set(row)) == 20 for row in ids.tolist()) and ids.min() >= 10 and ids.max() < 50
    assert torch.equal(ids, circuits.repeated_tokens(50, 20, 6, torch.Generator().manual_seed(0), first=10))
    assert len({tuple(row) for row in ids.tolist()}) == 6
    with pytest.raises(ValueError, match="expected 2 to 40, "):
        circuits.repeated_tokens(50, 41, 1, first=10)


def test_attention_maps_are_those_of_transformers(model, ids):
    theirs = pretrained.to_huggingface(model)
    theirs.set_attn_implementation("eager")
    maps = circuits.attention_maps(model, ids)
    assert maps.shape == (L, 3, NH, 10, 10) and not maps.requires_grad
    torch.testing.assert_close(maps, torch.stack(theirs(ids, output_attentions=True).attentions), atol=1e-5, rtol=1e-4)
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 0.01 and (maps[0] - maps[1]).abs().max() > 0.01


def test_scores_of_known_maps():
    maps = known_maps(1, 3, 4, 0)  # of two halves of four tokens
    torch.testing.assert_close(circuits.previous_token_score(maps), torch.tensor([[1, 1 / 7, 1 / 7, 0]]))
    assert circuits.induction_score(maps).tolist() == [[0, 1, 0, 0]]
    even = torch.ones(8, 8).tril() / torch.arange(1, 9)[:, None]
    expected = sum(1 / t for t in range(5, 9)) / 4
    assert circuits.induction_score(even.expand(2, 3, 1, 8, 8)).flatten().tolist() == pytest.approx([expected] * 2)
    with pytest.raises(ValueError, match="7 positions; expected an even number"):
        circuits.induction_score(maps[..., :7, :7])


def test_losses_by_position_have_the_models_mean_loss(model, ids):
    losses = circuits.losses_by_position(model, ids)
    assert losses.shape == (3, 9)
    assert losses.mean().item() == pytest.approx(model(ids[:, :-1], ids[:, 1:]).item(), rel=1e-5)
    row = torch.log_softmax(model(ids)[2, 4], dim=-1)
    assert losses[2, 4].item() == pytest.approx(-row[ids[2, 5]].item(), rel=1e-4)


def test_a_circuit_that_was_built_by_hand_is_found_and_proved():
    model = induction_model()
    ids = circuits.repeated_tokens(8, 6, 4, torch.Generator().manual_seed(2))
    maps = circuits.attention_maps(model, ids)
    assert circuits.previous_token_score(maps)[0, 0].item() == pytest.approx(1, abs=1e-3)
    # Nothing stands before position 0, so it names itself, and the first of the six tokens is found in two places.
    assert circuits.induction_score(maps)[1, 0].item() == pytest.approx(11 / 12, abs=1e-3)
    assert circuits.previous_token_score(maps)[1, 0] < 0.2 and circuits.induction_score(maps)[0, 0] < 0.01
    chance = math.log(8)
    assert circuits.losses_by_position(model, ids)[:, 7:].max() < 0.1 * chance
    for heads in ([(0, 0)], [(1, 0)]):  # without either there is no circuit
        with circuits.ablated(model, heads, "zero"):
            assert circuits.losses_by_position(model, ids)[:, 6:].mean() > 0.9 * chance
    with circuits.ablated(model, [(0, 0)]):
        assert circuits.induction_score(circuits.attention_maps(model, ids))[1, 0] < 0.3
    corrupted = ids.clone()
    corrupted[:, 3] = ids[:, 1]  # the token after the first occurrence of token 2, which is asked for last
    shares = circuits.restored_shares(model, ids[:, :9], corrupted[:, :9], ids[:, 3], ids[:, 1], "residual")
    assert shares[0].argmax() == 3 and shares[0, 3].item() == pytest.approx(1, abs=0.01)
    assert shares[0].abs().topk(2).values[1] < 0.01 and shares[1].argmax() == 3
    shares = circuits.restored_shares(model, ids[:, :9], corrupted[:, :9], ids[:, 3], ids[:, 1], "heads")
    assert shares[1, 0].item() == pytest.approx(1, abs=0.01) and shares[0, 0].abs() < 0.01


# Ablation


def test_ablating_no_head_changes_nothing(model, ids):
    expected = model(ids)
    with circuits.ablated(model, []) as same:
        assert same is model and not has_hooks(model) and torch.equal(model(ids), expected)


def test_zero_ablation_is_a_c_proj_without_the_heads_columns(model, ids):
    heads = [(0, 1), (2, 0), (2, 3)]
    with circuits.ablated(model, heads, "zero"):
        logits = model(ids)
    without = GPT(TINY).eval()
    without.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer, head in heads:
            without.transformer.h[layer].attn.c_proj.weight[:, head * HS : (head + 1) * HS] = 0
    torch.testing.assert_close(logits, without(ids), atol=1e-5, rtol=1e-5)
    assert (logits - model(ids)).abs().max() > 0.01


def test_mean_ablation_puts_the_mean_of_the_run_in_its_place(model, ids):
    clean, own = circuits.record(model, ids), slice(2 * HS, 3 * HS)
    with circuits.ablated(model, [(1, 2)]):
        run = circuits.record(model, ids)
    mean = clean.z[1, :, :, 2].mean(dim=(0, 1))
    changed = clean.z[1].flatten(-2).clone()
    changed[..., own] = mean
    attn = model.transformer.h[1].attn
    before, after = (F.linear(z, attn.c_proj.weight, attn.c_proj.bias) for z in (clean.z[1].flatten(-2), changed))
    block, x = model.transformer.h[1], clean.residual[1]
    middle = x + after
    torch.testing.assert_close(run.residual[2], middle + block.mlp(block.ln_2(middle)), atol=1e-5, rtol=1e-5)
    assert (before - after).abs().max() > 0.001
    assert torch.equal(run.residual[1], clean.residual[1]), "earlier blocks do not change"


def test_hooks_are_gone_after_the_end_and_after_an_error(model, ids):
    expected, source = model(ids), circuits.record(model, ids)
    assert not has_hooks(model)
    for change in (lambda: circuits.ablated(model, [(0, 0), (1, 1)], "zero"),
                   lambda: circuits.patched(model, source, residual=[(0, 0)], heads=[(1, 1)])):
        with pytest.raises(RuntimeError, match="interrupted"), change():
            assert has_hooks(model)
            raise RuntimeError("interrupted")
        assert not has_hooks(model) and torch.equal(model(ids), expected)


@pytest.mark.parametrize("heads, given", [([(3, 0)], r"\(3, 0\)"), ([(0, 4)], r"\(0, 4\)"), ([(0, -1)], r"\(0, -1\)"),
                                          ((0, 1), "0"), ([(0, 1, 2)], r"\(0, 1, 2\)")])
def test_heads_that_do_not_exist_are_refused(model, ids, heads, given):
    expected = rf"{given} is no \(layer, head\) here.* layers from 0 to 2 and heads from 0 to 3"
    with pytest.raises(ValueError, match=expected), circuits.ablated(model, heads):
        pass
    with pytest.raises(ValueError, match=expected), circuits.patched(model, circuits.record(model, ids), heads=heads):
        pass
    assert not has_hooks(model)


def test_other_mistakes_are_named(model, ids):
    with pytest.raises(ValueError, match='mode=\'median\'.*"zero" or "mean"'), circuits.ablated(model, [], "median"):
        pass
    source = circuits.record(model, ids)
    with pytest.raises(ValueError, match="positions from 0 to 9"), circuits.patched(model, source, [(0, 10)]):
        pass
    with circuits.patched(model, source, [(0, 0)]), pytest.raises(ValueError, match=r"shape \(1, 10\).*\(3, 10\)"):
        model(ids[:1])
    with pytest.raises(ValueError, match="the same logit difference"):
        circuits.restored_shares(model, ids, ids, 1, 2)
    with pytest.raises(ValueError, match='"residual" or "heads"'):
        circuits.restored_shares(model, ids, ids.flip(1), 1, 2, "mlp")


# Patching


def test_a_recording_holds_what_the_model_computes(model, ids):
    run = circuits.record(model, ids)
    assert torch.equal(run.logits, model(ids)) and torch.equal(run.ids, ids) and not run.logits.requires_grad
    assert run.residual.shape == (L, 3, 10, TINY.n_embd) and run.z.shape == (L, 3, 10, NH, HS)
    start = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(10))
    assert torch.equal(run.residual[0], start) and torch.equal(run.residual[1], model.transformer.h[0](start))
    values = model.transformer.h[0].attn.c_attn(model.transformer.h[0].ln_1(start)).chunk(3, -1)[2]
    values = values.unflatten(-1, (NH, HS)).transpose(1, 2)  # (B, nh, T, hs)
    expected = (circuits.attention_maps(model, ids)[0] @ values).transpose(1, 2)
    torch.testing.assert_close(run.z[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", range(L))
def test_patching_every_position_gives_the_clean_run_and_patching_nothing_the_corrupted_one(model, ids, layer):
    source, corrupted = circuits.record(model, ids), ids.flip(1)
    with circuits.patched(model, source, residual=[(layer, t) for t in range(10)]):
        assert torch.equal(model(corrupted), source.logits)
    expected = model(corrupted)
    with circuits.patched(model, source):
        assert torch.equal(model(corrupted), expected)
    assert not torch.equal(expected, source.logits)


def test_patched_heads_are_those_of_the_source_and_no_other(model, ids):
    source, corrupted = circuits.record(model, ids), ids.flip(1)
    expected = circuits.record(model, corrupted)
    with circuits.patched(model, source, heads=[(1, 0), (1, 3)]):
        seen = []
        handle = model.transformer.h[1].attn.c_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(corrupted)
        handle.remove()
    z = seen[0].unflatten(-1, (NH, HS))
    assert torch.equal(z[:, :, [0, 3]], source.z[1][:, :, [0, 3]])
    assert torch.equal(z[:, :, [1, 2]], expected.z[1][:, :, [1, 2]])


def test_shares_are_those_of_single_patched_runs(model, ids):
    corrupted, answer, other = ids.flip(1), ids[:, 1], ids[:, 2]

    def difference(logits):
        return sum((row[-1, a] - row[-1, b]).item() for row, a, b in zip(logits, answer, other)) / len(logits)

    source = circuits.record(model, ids)
    low, high = difference(model(corrupted)), difference(source.logits)
    assert circuits.logit_difference(source.logits, answer, other) == pytest.approx(high, rel=1e-4)
    assert circuits.logit_difference(source.logits, 4, 4) == 0
    for what, shape, place in (("residual", (L, 10), (2, 9)), ("heads", (L, NH), (1, 2))):
        shares = circuits.restored_shares(model, ids, corrupted, answer, other, what)
        with circuits.patched(model, source, **{what: [place]}):
            expected = (difference(model(corrupted)) - low) / (high - low)
        assert shares.shape == shape and shares[place].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    last = ids.clone()
    last[:, -1] = corrupted[:, -1]  # only the last token differs: its position alone brings everything back
    shares = circuits.restored_shares(model, ids, last, answer, other, "residual")
    torch.testing.assert_close(shares[:, -1], torch.ones(L), atol=1e-4, rtol=0)
    assert shares[:, :-1].abs().max() < 1e-6
