"""Memory: what a function needs, whose errors reach the caller, and the advice to somebody who has too little."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import training
from helpers.machine import memory
from helpers.model import GPT
from tests.small import CONFIG, MODEL, new_model, train, uninterrupted

# The peak of a function


def test_the_peak_includes_what_was_freed_again():
    peak = memory.peak_memory(lambda: torch.ones(50_000_000).sum())
    if peak is None:
        pytest.skip("this system reports no peak")
    assert 1.8e8 < peak < 4e8


def as_it_is(monkeypatch):
    """This system."""


def no_access_to_proc(monkeypatch):
    """/proc cannot be written to, as in some containers."""
    write_text = Path.write_text

    def refuse(path, *arguments, **settings):
        if str(path).startswith("/proc"):
            raise PermissionError(13, "Permission denied")
        return write_text(path, *arguments, **settings)

    monkeypatch.setattr(Path, "write_text", refuse)


def no_malloc_trim(monkeypatch):
    """As on macOS, whose C library lacks it."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())


def no_c_library(monkeypatch):
    """As on Windows, where CDLL(None) raises a TypeError."""

    def refuse(name):
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(memory.ctypes, "CDLL", refuse)


@pytest.mark.parametrize("system", [as_it_is, no_access_to_proc, no_malloc_trim, no_c_library])
def test_the_function_runs_exactly_once_and_an_unmeasured_peak_is_none(monkeypatch, system):
    system(monkeypatch)
    calls = []
    peak = memory.peak_memory(lambda: calls.append(1))
    assert calls == [1]
    assert peak is None or system is as_it_is


def test_on_a_device_without_a_counter_the_function_runs_once_too():
    calls = []
    assert memory.peak_memory(lambda: calls.append(1), "mps") is None and calls == [1]


@pytest.mark.parametrize("system, error", [
    (as_it_is, TypeError), (as_it_is, OSError), (as_it_is, AttributeError),
    (no_access_to_proc, OSError), (no_malloc_trim, AttributeError), (no_c_library, TypeError),
])
def test_an_error_of_the_function_reaches_the_caller(monkeypatch, system, error):
    """peak_memory itself catches errors of these kinds where a system cannot be measured."""
    system(monkeypatch)
    calls = []

    def fail():
        calls.append(1)
        raise error("the learner's own mistake")

    with pytest.raises(error, match="the learner's own mistake"):
        memory.peak_memory(fail)
    assert calls == [1]


# Too little memory for a training step


def memory_for(model, rows):
    """Makes the model raise CUDA's own error when a batch has more rows."""

    def raise_if_large(module, inputs):
        if inputs[0].shape[0] > rows and module.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity "
                                         "of 14.74 GiB of which 812.06 MiB is free.")

    model.register_forward_pre_hook(raise_if_large)
    return model


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "MPS backend out of memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
    ],
)
def test_too_little_memory_gives_advice(message):
    model = new_model()

    def fail(module, inputs):
        raise RuntimeError(message)

    model.transformer.h[0].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="does not have enough memory for 4 x 16 tokens at once. Use a shorter"):
        train(CONFIG, model)


@pytest.mark.parametrize("rows, batch, advice, works", [
    (2, 4, r"2 x 16 fits \(this was just tried\): use accumulate=2", {"accumulate": 2}),
    (5, 12, r"4 x 16 fits \(this was just tried\): use accumulate=3", {"accumulate": 3}),
    (1, 7, r"1 x 16 fits \(this was just tried\): use accumulate=7.* or batch_size=1", {"batch_size": 1}),
])
def test_a_full_gpu_gets_the_batch_that_fits_as_advice(rows, batch, advice, works):
    config = replace(CONFIG, batch_size=batch)
    model = memory_for(new_model(), rows)
    with pytest.raises(RuntimeError, match=f"not have enough memory for {batch} x 16 tokens at once. {advice}"):
        train(config, model)
    assert all(parameter.grad is None for parameter in model.parameters()), "the trial keeps memory"
    _, history = train(replace(config, **works), memory_for(new_model(), rows))
    assert len(history.train_loss) == 12


def test_a_gpu_that_fills_up_later_keeps_the_checkpoint_and_the_run_continues_in_parts(tmp_path, monkeypatch):
    _, expected = uninterrupted()
    model, train_step, steps = new_model(), training.train_step, iter(range(1, 99))

    def step(model, *arguments):
        return train_step(memory_for(model, 2) if next(steps) == 7 else model, *arguments)

    monkeypatch.setattr(training, "train_step", step)
    with pytest.raises(RuntimeError, match="use accumulate=2, .* Any checkpoint written earlier is complete"):
        train(model=model, out=tmp_path)
    monkeypatch.setattr(training, "train_step", train_step)
    _, history = train(replace(CONFIG, accumulate=2), memory_for(GPT(MODEL), 2), out=tmp_path, resume=True)
    assert history.train_loss[:4] == expected.train_loss[:4] and len(history.train_loss) == 12
