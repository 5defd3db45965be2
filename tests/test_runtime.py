"""The machine: sizes, devices, precision, and showing a helper's source."""

import pytest
import torch

from helpers import runtime
from helpers.exercises import Exercise, NotYet, needs_answer


def test_run_size_comes_from_the_environment(monkeypatch):
    for size in runtime.RUN_SIZES:
        monkeypatch.setenv("COURSE_SIZE", size)
        assert runtime.run_size() == size == runtime.by_size("smoke", "laptop", "full")
    monkeypatch.delenv("COURSE_SIZE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.run_size() == "laptop"
    monkeypatch.setenv("COURSE_SIZE", "huge")
    with pytest.raises(ValueError, match="smoke, laptop, full"):
        runtime.run_size()


def test_device_can_be_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert runtime.best_device() == torch.device("cpu")
    monkeypatch.setenv("COURSE_DEVICE", "tpu")
    with pytest.raises(ValueError, match="COURSE_DEVICE=tpu: here there is cpu"):
        runtime.best_device()


@pytest.mark.parametrize("gigabytes, device, expected", [(16, "", "full"), (4, "", "laptop"), (16, "cpu", "laptop")])
def test_only_a_large_gpu_in_use_means_full(monkeypatch, gigabytes, device, expected):
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    monkeypatch.setenv("COURSE_DEVICE", device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = type("Properties", (), {"total_memory": gigabytes * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    assert runtime.run_size() == expected


@pytest.mark.parametrize("has_bf16, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_t4_gets_float16_and_newer_gpus_bfloat16(monkeypatch, has_bf16, expected):
    asked = {}

    def is_bf16_supported(including_emulation=True):
        asked["emulation"] = including_emulation
        return has_bf16 or including_emulation  # a T4 says yes by emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert runtime.compute_dtype("cuda") == expected and asked == {"emulation": False}
    assert runtime.compute_dtype("cpu") == torch.float32
    with runtime.autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_whether_torch_compile_works_is_found_out(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert runtime.can_compile("cpu")

    def no_compiler(function):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    assert not runtime.can_compile("cpu")


def test_description_is_one_line(capsys):
    runtime.describe()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "run size" in said and torch.__version__ in said


def test_source_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    runtime.show_source(runtime.by_size, runtime.describe)
    assert shown[0]["text/plain"].startswith("def by_size(") and shown[1]["text/plain"].startswith("def describe(")
    assert "<style" not in shown[0]["text/html"] and "font-family: monospace" in shown[0]["text/html"]


def test_an_exercise_never_stops_run_all(capsys):
    def check(answer):
        if needs_answer(answer)() != 4:
            raise NotYet("Think of two and two.")
        return "Two and two are four."

    exercise = Exercise("Exercise 1", 1, 5, ("Count your fingers.",), check, lambda: 4)
    exercise.check(None)
    exercise.check(lambda: 5)
    exercise.check(lambda: 1 / 0)
    exercise.check(lambda: 4)
    lines = capsys.readouterr().out.splitlines()
    assert ["not yet" in line for line in lines] == [True, True, True, False]
    assert "ZeroDivisionError" in lines[2] and "correct" in lines[3]
