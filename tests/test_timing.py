"""Clocks, precisions, memory, and the record of what a GPU measured."""

import json
import time

import pytest
import torch

from helpers import runtime, timing


def test_the_clock_reads_what_a_run_takes():
    calls = []
    found = timing.measure(lambda: (calls.append(1), time.sleep(0.02)), at_least=0.01)
    assert 0.019 < found.low <= found.median <= found.high < 0.5 and len(calls) >= 4


def test_the_clock_waits_for_the_device(monkeypatch):
    pending = []

    def wait_for(device):
        time.sleep(0.01 * len(pending))
        pending.clear()

    monkeypatch.setattr(runtime, "wait_for", wait_for)
    assert timing.measure(lambda: pending.append(1), at_least=0.02).median > 0.009


@pytest.mark.parametrize(
    "seconds, words",
    [(2, "2 s (2 to 2)"), (0.0123, "12.3 ms (12.3 to 12.3)"), (4e-6, "4 µs (4 to 4)")],
)
def test_a_timing_reads_well(seconds, words):
    assert str(timing.Timing(seconds, seconds, seconds)) == words


def test_a_timing_near_a_thousand_needs_no_exponent():
    assert str(timing.Timing(0.997, 0.994, 0.9996)) == "997 ms (994 to 1,000)"


def test_precisions_differ_and_the_setting_comes_back():
    torch.manual_seed(0)
    a, before = torch.randn(64, 64), torch.get_float32_matmul_precision()
    results = {}
    for name in timing.precisions("cpu"):
        with timing.precision(name, "cpu"):
            results[name] = a @ a
    assert results["fp32"].dtype == torch.float32 and results["bf16"].dtype == torch.bfloat16
    with timing.precision("tf32", "cpu"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("capability, expected", [((7, 5), ["fp32", "fp16"]), ((9, 0), list(timing.DTYPES))])
def test_a_t4_has_neither_tf32_nor_bf16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert timing.precisions("cuda") == expected


def test_peak_memory_sees_what_is_freed_again():
    found = timing.peak_memory(lambda: torch.ones(50_000_000).sum())
    if found is None:
        pytest.skip("no /proc on this system")
    assert 1.8e8 < found < 4e8


def test_a_record_is_written_and_found_again(tmp_path):
    assert timing.recorded(tmp_path) == []
    rows = [["forward 16 x 256", 0.05, "s"]]
    path = timing.record(rows, "cpu", tmp_path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert timing.recorded(tmp_path) == [found] and found["rows"] == rows and path.name.startswith("speed_cpu")
    assert set(found) == {"device", "driver", "torch", "date", "rows"} and found["torch"] == torch.__version__


def test_what_ships_was_recorded_whole():
    for found in timing.recorded():
        assert found["rows"] and all(len(row) == 3 for row in found["rows"])
