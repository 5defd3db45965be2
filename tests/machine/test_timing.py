"""Clocks, comparisons in turns, and records of what a machine has measured."""

import json
import subprocess
import time

import pytest
import torch

from helpers.machine import limits, runtime, timing


def test_the_clock_measures_how_long_a_run_takes():
    calls = []
    result = timing.measure(lambda: (calls.append(1), time.sleep(0.02)), at_least=0.01)
    assert 0.019 < result.low <= result.median <= result.high < 0.5 and len(calls) >= 4


def test_the_clock_waits_for_the_device(monkeypatch):
    pending = []

    def wait_for(device):
        time.sleep(0.01 * len(pending))
        pending.clear()

    monkeypatch.setattr(runtime, "wait_for", wait_for)
    assert timing.measure(lambda: pending.append(1), at_least=0.02).median > 0.009


@pytest.mark.parametrize(
    "seconds, text",
    [(2, "2 s (2 to 2)"), (0.0123, "12.3 ms (12.3 to 12.3)"), (4e-6, "4 µs (4 to 4)")],
)
def test_a_timing_has_three_digits_and_a_unit(seconds, text):
    assert str(timing.Timing(seconds, seconds, seconds)) == text


def test_a_timing_near_a_thousand_needs_no_exponent():
    assert str(timing.Timing(0.997, 0.994, 0.9996)) == "997 ms (994 to 1,000)"


def test_a_slope_is_inconclusive_where_the_times_cannot_tell(monkeypatch):
    monkeypatch.setattr(limits, "cpu_quota", lambda: None)

    def curve(*times):  # {size: Timing}; its right end is at the sizes 100 and 200
        return {10: timing.Timing(9, 9, 9), 200: timing.Timing(*times[1]), 100: timing.Timing(*times[0])}

    assert timing.slope(curve((1, 1, 1), (4, 4, 4)), "cpu") == pytest.approx((2, 2, 2))
    assert timing.slope(curve((1, 0.95, 1.05), (2, 1.9, 2.1)), "cpu") == pytest.approx((1, 0.856, 1.144), abs=1e-3)
    assert timing.slope(curve((1, 0.8, 1.2), (2, 1.6, 2.4)), "cpu") is None  # 0.4 to 1.6
    assert timing.slope(curve((8.28, 6.06, 8.34), (7.89, 7.84, 10.9)), "cpu") is None  # measured under a quota
    assert timing.slope(curve((1, 1, 1), (0.9, 0.9, 0.9)), "cpu") is None  # more work cannot take less time
    monkeypatch.setattr(limits, "cpu_quota", lambda: torch.get_num_threads() - 0.5)
    assert timing.slope(curve((1, 1, 1), (4, 4, 4)), "cpu") is None
    assert timing.slope(curve((1, 1, 1), (4, 4, 4)), "cuda") == pytest.approx((2, 2, 2))  # of another machine, recorded
    monkeypatch.setattr(limits, "cpu_quota", lambda: float(torch.get_num_threads()))
    assert timing.slope(curve((1, 1, 1), (4, 4, 4)), "cpu") == pytest.approx((2, 2, 2))


def test_functions_run_in_turns_and_the_first_round_does_not_count(monkeypatch):
    clock, order, waits = [0.0], [], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(runtime, "wait_for", waits.append)

    def working(name, first, usual):
        def run():
            clock[0] += usual if name in order else first
            order.append(name)

        return run

    seconds = timing.in_turns({"a": working("a", 9.0, 1.0), "b": working("b", 7.0, 4.0)}, 3, "cuda")
    assert order == ["a", "b"] * 4 and set(waits) == {"cuda"} and len(waits) == 16
    assert seconds == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert timing.quartiles_of_ratios(seconds["b"], seconds["a"]) == (4.0, 4.0, 4.0)
    assert timing.quartiles_of_ratios([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == (1.5, 2.0, 2.5)
    assert timing.quartiles_of_ratios([6.0], [2.0]) == (3.0, 3.0, 3.0)


def test_the_faster_function_is_found():
    small, large = (torch.randn(n, n) for n in (32, 400))
    assert timing.times_faster(lambda: small @ small, lambda: large @ large) > 3


def test_a_record_is_written_and_read_again(tmp_path):
    assert timing.recorded("speed", tmp_path) == []
    rows = [["cpu", "forward 16 x 256", [0.05, 0.04, 0.06], "s"], ["cpu", "é", 2, ""]]
    results = {**timing.origin("cpu"), "rows": rows}
    path = timing.write_record("speed", results, tmp_path)
    assert path == timing.record_path("speed", results, tmp_path) and path.name.startswith("speed_")
    assert timing.recorded("speed", tmp_path) == [results] and timing.recorded("training", tmp_path) == []
    lines = path.read_text(encoding="utf-8").splitlines()
    assert '["cpu", "é", 2, ""]]}' in lines, "one line for each row"


def test_a_record_names_its_machine(monkeypatch):
    monkeypatch.setattr(runtime, "processor_name", lambda: "A processor")
    record = timing.origin("cpu")
    assert set(record) == {"device", "type", "threads", "torch", "python", "date"}
    assert (record["device"], record["type"], record["torch"]) == ("A processor", "cpu", torch.__version__)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(timing, "driver_version", lambda: "1.2")
    record = timing.origin("cuda")
    assert (record["device"], record["type"], record["driver"]) == ("A GPU", "cuda", "1.2") and "threads" not in record


@pytest.mark.parametrize("outcome, version", [("580.1\n580.1\n", "580.1"), ("", "unknown"), (OSError(), "unknown")])
def test_the_driver_is_unknown_where_nothing_tells_it(monkeypatch, outcome, version):
    def run(command, **settings):
        if isinstance(outcome, OSError):
            raise outcome
        return subprocess.CompletedProcess(command, 0, outcome)

    monkeypatch.setattr(timing.subprocess, "run", run)
    assert timing.driver_version() == version


def test_numbers_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError):
        timing.write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


OF_ANY_DEVICE = {"fine_tuning.json"}  # see test_offline.py


@pytest.mark.parametrize("path", sorted(path for path in timing.RECORDS.glob("*_*.json")
                                        if path.name not in OF_ANY_DEVICE), ids=lambda path: path.name)
def test_the_records_that_ship_are_complete(path):
    """Each names its machine, is stored under its name, and has results."""
    record = json.loads(path.read_text(encoding="utf-8"))
    kind = path.name.partition("_")[0]
    assert {"device", "type", "torch", "date"} <= set(record) and path == timing.record_path(kind, record)
    results = {"bench": "rows", "speed": "rows", "training": "runs", "cuda": "tests", "induction": "runs",
               "peers": "arms"}[kind]
    assert record[results]
