"""The machine: run size and device, from the environment or by themselves."""

import pytest
import torch

from helpers.machine import limits, runtime


def test_the_run_size_comes_from_the_environment(monkeypatch):
    for size in runtime.RUN_SIZES:
        monkeypatch.setenv("COURSE_SIZE", size)
        assert runtime.run_size() == size == runtime.by_size("smoke", "laptop", "full")
    monkeypatch.delenv("COURSE_SIZE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.run_size() == "laptop"
    monkeypatch.setenv("COURSE_SIZE", "huge")
    with pytest.raises(ValueError, match="COURSE_SIZE=huge: .*smoke, laptop, full"):
        runtime.run_size()


def test_the_device_can_be_chosen(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert runtime.best_device() == torch.device("cpu")
    monkeypatch.setenv("COURSE_DEVICE", "tpu")
    with pytest.raises(ValueError, match="COURSE_DEVICE=tpu: this machine has cpu"):
        runtime.best_device()


@pytest.mark.parametrize("gigabytes, device, expected", [(16, "", "full"), (4, "", "laptop"), (16, "cpu", "laptop")])
def test_only_a_large_gpu_in_use_means_full(monkeypatch, gigabytes, device, expected):
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    monkeypatch.setenv("COURSE_DEVICE", device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = type("Properties", (), {"total_memory": gigabytes * 10**9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    assert runtime.run_size() == expected


def test_the_description_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(limits, "cpu_quota", lambda: None)
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    runtime.describe()
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "run size" in output and torch.__version__ in output


def test_a_device_with_wrong_attention_is_noticed(monkeypatch):
    assert runtime.computes_like_the_cpu("cpu") and runtime.computes_like_the_cpu(runtime.best_device())
    attention, calls = torch.nn.functional.scaled_dot_product_attention, []

    def wrong_on_the_first_device(q, k, v, is_causal):
        calls.append(is_causal)
        return attention(q, k, v, is_causal=is_causal and len(calls) > 1)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong_on_the_first_device)
    assert not runtime.computes_like_the_cpu("cpu") and calls == [True, True]


def test_the_setup_cell_warns_of_such_a_device(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "best_device", lambda: torch.device("mps"))
    monkeypatch.setattr(limits, "cpu_quota", lambda: None)
    for is_right, lines in ((True, 1), (False, 2)):
        monkeypatch.setattr(runtime, "computes_like_the_cpu", lambda device, is_right=is_right: is_right)
        runtime.describe()
        output = capsys.readouterr().out
        assert len(output.splitlines()) == lines
    assert "WRONG NUMBERS" in output and "COURSE_DEVICE=cpu" in output
