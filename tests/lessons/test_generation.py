"""Sampling and generation: distributions, the cache, the sliding window, and what generate() leaves unchanged."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.generation import KeyValueCache, generate, next_token_probabilities
from helpers.model import GPT
from helpers.pretrained import to_huggingface
from tests.plain import plain_text
from tests.small import TINY

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def prompt(rows=2, length=4):
    return torch.randint(TINY.vocab_size, (rows, length), generator=torch.Generator().manual_seed(3))


def test_probabilities_are_softmax_by_default():
    torch.testing.assert_close(next_token_probabilities(LOGITS), torch.tensor([0.5, 0.25, 0.15, 0.1]))


def test_temperature_sharpens_and_flattens():
    powers = torch.tensor([0.5, 0.25, 0.15, 0.1]) ** 2
    torch.testing.assert_close(next_token_probabilities(LOGITS, temperature=0.5), powers / powers.sum())
    assert next_token_probabilities(LOGITS, temperature=100.0).max() < 0.26


def test_top_k_and_top_p_keep_the_right_tokens():
    torch.testing.assert_close(next_token_probabilities(LOGITS, top_k=2), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    torch.testing.assert_close(next_token_probabilities(LOGITS, top_p=0.6), torch.tensor([2 / 3, 1 / 3, 0, 0]))
    torch.testing.assert_close(next_token_probabilities(LOGITS, top_p=0.4), torch.tensor([1.0, 0, 0, 0]))
    many = torch.randn(50_257, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(next_token_probabilities(many, top_p=1.0), next_token_probabilities(many))
    torch.testing.assert_close(next_token_probabilities(LOGITS, temperature=1e-30), torch.tensor([1.0, 0, 0, 0]))
    assert (next_token_probabilities(torch.zeros(5), top_k=1) > 0).sum() == 1  # a tie keeps one, not all
    assert (next_token_probabilities(LOGITS, top_k=99) > 0).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"temperature": 0}, "top_k=1"),
        ({"temperature": -1.0}, "above 0"),
        ({"temperature": float("nan")}, "above 0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 2.5}, "top_k=2.5"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_impossible_settings_are_named(tiny, wrong, message):
    with pytest.raises(ValueError, match=message):
        next_token_probabilities(LOGITS, **wrong)
    with pytest.raises(ValueError, match=message):
        generate(tiny, prompt(), 2, **wrong)


@pytest.mark.parametrize("length", [1, 4, 15, 16, 20])
@pytest.mark.parametrize("rows", [1, 3])
def test_text_with_and_without_cache_is_identical_even_past_the_context(tiny, rows, length):
    ids = prompt(rows, length)
    cached = generate(tiny, ids, 30, top_k=1)
    assert cached.shape == (rows, length + 30)
    assert torch.equal(cached[:, :length], ids)
    assert torch.equal(cached, generate(tiny, ids, 30, top_k=1, use_cache=False))
    by_hand = ids
    for _ in range(30):
        best = tiny(by_hand[:, -TINY.n_positions :])[:, -1].argmax(-1, keepdim=True)
        by_hand = torch.cat([by_hand, best], dim=1)
    assert torch.equal(cached, by_hand)


def test_with_the_cache_the_model_reads_each_token_once_and_scores_only_the_last(tiny):
    read, scored = [], []
    tiny.transformer.wte.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].shape[1]))
    tiny.lm_head.register_forward_hook(lambda module, inputs, output: scored.append(tuple(output.shape)))
    generate(tiny, prompt(2, 4), 5)
    assert read == [4, 1, 1, 1, 1] and scored == [(2, 1, TINY.vocab_size)] * 5


def test_cached_logits_equal_a_full_pass(tiny):
    tiny.eval()
    ids, cache = prompt(2, 9), KeyValueCache(TINY)
    first = tiny(ids[:, :5], cache=cache)
    rest = [tiny(ids[:, i : i + 1], cache=cache) for i in range(5, 9)]
    torch.testing.assert_close(torch.cat([first, *rest], dim=1), tiny(ids))
    assert cache.length == 9
    with pytest.raises(ValueError, match="one token at a time"):
        tiny(ids[:, :2], cache=cache)


def test_a_cache_that_is_full_refuses_the_next_token_and_stays_as_it_was(tiny):
    tiny.eval()
    ids, cache = prompt(2, 9), KeyValueCache(TINY, 6)
    tiny(ids[:, :5], cache=cache)
    tiny(ids[:, 5:6], cache=cache)
    for _ in range(2):
        with pytest.raises(ValueError, match="1 more tokens for a cache that holds 6 and has room for 6"):
            tiny(ids[:, 6:7], cache=cache)
        assert cache.length == 6
    whole = KeyValueCache(TINY)
    tiny(prompt(1, TINY.n_positions), cache=whole)
    with pytest.raises(ValueError, match="ids hold 1 more for a cache that holds 16.* Begin a new cache"):
        tiny(ids[:1, :1], cache=whole)
    with pytest.raises(ValueError, match="7 more tokens for a cache that holds 0 and has room for 6"):
        tiny(ids[:, :7], cache=KeyValueCache(TINY, 6))


@pytest.mark.parametrize("capacity", [0, -1, 17, 2.5, "4", True])
def test_a_capacity_that_no_cache_has_is_named(capacity):
    with pytest.raises(ValueError, match="capacity=.*expected a number of tokens from 1 to 16"):
        KeyValueCache(TINY, capacity)


@pytest.mark.parametrize("block", range(TINY.n_layer))
@pytest.mark.parametrize("held", [0, 5])
def test_after_an_interrupted_pass_the_same_pass_gives_the_logits_of_a_whole_one(tiny, block, held):
    tiny.eval()
    ids, cache = prompt(2, 9), KeyValueCache(TINY)
    if held:
        tiny(ids[:, :held], cache=cache)

    def stop(*_):
        raise KeyboardInterrupt

    hook = tiny.transformer.h[block].mlp.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        tiny(ids[:, held : held + 1], cache=cache)
    hook.remove()
    assert cache.length == held
    rest = [tiny(ids[:, i : i + 1], cache=cache) for i in range(held, 9)]
    torch.testing.assert_close(torch.cat(rest, dim=1), tiny(ids)[:, held:])


def test_other_sequences_than_those_in_the_cache_are_refused(tiny):
    tiny.eval()
    ids, cache = prompt(2, 9), KeyValueCache(TINY)
    tiny(ids[:, :5], cache=cache)
    for wrong in (ids[:1, 5:6], ids.repeat(2, 1)[:, 5:6]):
        with pytest.raises(ValueError, match="for a cache with .2, 4, 5, 8.*Continue the same sequences"):
            tiny(wrong, cache=cache)
    with pytest.raises(ValueError, match="torch.float64 on cpu, for a cache with"):
        copy.deepcopy(tiny).double()(ids[:, 5:6], cache=cache)
    torch.testing.assert_close(tiny(ids[:, 5:6], cache=cache), tiny(ids[:, :6])[:, 5:])


def test_a_cache_of_a_model_with_fewer_blocks_is_refused(tiny):
    with pytest.raises(ValueError, match="for 2 blocks, and the model has more"):
        tiny(prompt(), cache=KeyValueCache(replace(TINY, n_layer=2)))


# Prompts of unequal length


LENGTHS = [[1, 4, 9, 4], [9, 9], [2], [3, 1, 2]]


def padded(lengths, seed=0):
    """Prompts of these lengths with random padding on the left, and their mask."""
    ids = torch.randint(TINY.vocab_size, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids, torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("use_cache", [True, False])
def test_padded_prompts_give_the_texts_that_they_give_on_their_own(tiny, lengths, use_cache):
    ids, mask = padded(lengths)
    text = generate(tiny, ids, 20, top_k=1, use_cache=use_cache, attention_mask=mask)
    assert torch.equal(text[:, : ids.shape[1]], ids)
    for row, own, length in zip(text, ids, lengths):
        assert torch.equal(row[-length - 20 :], plain_text(tiny, own[None, -length:], 20)[0])
    assert torch.equal(text, generate(tiny, ids, 20, top_k=1, attention_mask=mask.bool()))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_padded_prompts_give_the_texts_of_transformers(tiny, lengths):
    ids, mask = padded(lengths)
    new = TINY.n_positions - ids.shape[1]  # transformers' window cannot slide
    theirs = to_huggingface(tiny.eval()).generate(ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new,
                                                 do_sample=False, pad_token_id=0)
    assert torch.equal(generate(tiny, ids, new, top_k=1, attention_mask=mask), theirs)


@pytest.mark.parametrize("mask, message", [
    (torch.ones(2, 3), r"expected a tensor of the shape \(2, 4\)"),
    ([[1, 1, 1, 1]] * 2, "expected a tensor"),
    (torch.full((2, 4), 2), "1 for a token and 0 for padding"),
    (torch.full((2, 4), float("nan")), "1 for a token and 0 for padding"),
    (torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), "pad on the left"),
    (torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]), "at least one token"),
    (torch.tensor([[0, 1, 0, 1], [1, 1, 1, 1]]), "zeros for padding on the left"),
])
def test_a_mask_that_does_not_fit_is_named(tiny, mask, message):
    with pytest.raises(ValueError, match=f"attention_mask.*{message}"):
        generate(tiny, prompt(), 2, attention_mask=mask)


def test_numpys_whole_numbers_are_whole_numbers(tiny):
    text = generate(tiny, prompt(), np.int64(3), top_k=np.int32(1), temperature=np.float32(1), top_p=np.float64(0.5))
    assert torch.equal(text, generate(tiny, prompt(), 3, top_k=1))


def test_a_generator_repeats_the_text_and_the_global_one_keeps_its_state(tiny):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    texts = [generate(tiny, prompt(), 12, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_follow_the_distribution(tiny):
    ids = prompt(1, 3).expand(4000, 3)
    drawn = generate(tiny, ids, 1, top_k=3, generator=torch.Generator().manual_seed(0))[:, -1]
    expected = next_token_probabilities(tiny(ids[:1])[:, -1], top_k=3)[0]
    torch.testing.assert_close(drawn.bincount(minlength=TINY.vocab_size) / 4000, expected.detach(), atol=0.03, rtol=0)


def test_training_and_evaluation_modes_are_restored(tiny):
    tiny.train()
    tiny.transformer.h[1].eval()
    before = [module.training for module in tiny.modules()]
    generate(tiny, prompt(), 3)
    assert [module.training for module in tiny.modules()] == before

    def broken(*_, **__):
        raise RuntimeError("broken")

    tiny.lm_head.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="broken"):
        generate(tiny, prompt(), 3)
    assert [module.training for module in tiny.modules()] == before


def test_generated_ids_can_be_trained_on(tiny):
    ids = generate(tiny, prompt(), 5)
    tiny(ids, ids).backward()


def test_bad_arguments_are_named(tiny):
    assert torch.equal(generate(tiny, prompt(), 0), prompt())
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        generate(tiny, prompt(), -1)
    with pytest.raises(ValueError, match=r"ids\[None\]"):
        generate(tiny, prompt()[0], 3)
    with pytest.raises(ValueError, match="0 tokens"):
        generate(tiny, prompt(1, 4)[:, :0], 3)
    with pytest.raises(ValueError, match="this model knows 0 to 100"):
        generate(tiny, torch.tensor([[500]]), 3)


def test_dropout_is_off_while_generating():
    torch.manual_seed(0)
    model = GPT(replace(TINY, dropout=0.5)).train()
    assert torch.equal(generate(model, prompt(), 8, top_k=1), generate(model, prompt(), 8, top_k=1))
