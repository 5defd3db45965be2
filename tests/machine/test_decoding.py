"""The recorded decoding step: the numbers of a full pass, and recorded only where that is possible and worth it. A real
GPU records it in test_cuda.py."""

import pytest
import torch

from helpers.generation import KeyValueCache, generate
from helpers.machine.decoding import WORTH_RECORDING, RecordedStep
from tests.plain import SHAPES, assert_close, batch, plain_logits, plain_text
from tests.small import TINY, OnCuda, computed_again


@pytest.fixture
def recorded(monkeypatch):
    """A substitute for a CUDA graph."""
    monkeypatch.setattr(RecordedStep, "record", staticmethod(computed_again))


@pytest.mark.parametrize("rows, length", [(1, 1), (3, 1), (3, 7), (2, TINY.n_positions - 1)])
def test_a_recorded_step_gives_the_logits_of_a_full_pass(tiny, recorded, rows, length):
    tiny.eval()
    ids, cache = batch(rows, TINY.n_positions)[0], KeyValueCache(TINY)
    with torch.inference_mode():
        tiny(ids[:, :length], cache=cache)
        step = RecordedStep(tiny, cache, ids[:, :1])
        for end in range(length + 1, TINY.n_positions + 1):
            assert_close(step(ids[:, end - 1 : end]), plain_logits(tiny, ids[:, :end])[:, -1:])


def test_a_recorded_step_ignores_what_the_unused_memory_contains(tiny, recorded):
    """Attention reads the complete buffers, so what the mask hides must not matter."""
    tiny.eval()
    ids, cache = batch(1, 6)[0], KeyValueCache(TINY)
    with torch.inference_mode():
        tiny(ids[:, :5], cache=cache)
        for buffer in (*cache.keys, *cache.values):
            buffer[:, :, 5:] = 1e4
        assert_close(RecordedStep(tiny, cache, ids[:, :1])(ids[:, 5:6]), plain_logits(tiny, ids)[:, -1:])


@pytest.fixture
def recordings(recorded, monkeypatch):
    """One entry for each step that is recorded."""
    made, make = [], RecordedStep.__init__
    monkeypatch.setattr(RecordedStep, "__init__", lambda self, *arguments: made.append(1) or make(self, *arguments))
    return made


@pytest.mark.parametrize("has_hook", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_generate_records_where_it_may(tiny, recordings, shape, has_hook):
    """A GPU's path, on the CPU. At a full context there is no room for a step, and a hook must see each step."""
    calls = []
    if has_hook:
        tiny.lm_head.register_forward_hook(lambda *_: calls.append(1))
    ids, new = batch(*shape)[0], TINY.n_positions - shape[1] + 6
    text = generate(tiny, ids.as_subclass(OnCuda), new, top_k=1).as_subclass(torch.Tensor)
    assert torch.equal(text, plain_text(tiny, ids, new))
    is_recorded = not has_hook and shape[1] < TINY.n_positions
    assert len(recordings) == is_recorded and len(calls) == (new if has_hook else 0)


def test_a_few_tokens_are_not_worth_a_recording(tiny, recordings):
    ids = batch(1, 3)[0].as_subclass(OnCuda)
    generate(tiny, ids, WORTH_RECORDING - 1, top_k=1)
    assert not recordings
    generate(tiny, ids, WORTH_RECORDING, top_k=1)
    assert recordings
