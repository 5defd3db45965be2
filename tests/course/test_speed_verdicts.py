"""The verdicts on claims about speed: with and without a GPU, with and without records, and with a stand-in."""

import inspect

import pytest

from helpers.course import records, speed_verdicts
from helpers.course.claims import Ledger
from helpers.course.speed_verdicts import live
from helpers.machine import timing

HERE = "Model 5; CPU, 2 threads"
UNMEASURED = "unmeasured here"
GPU_HALF, STAND_IN = speed_verdicts.GPU_HALF, speed_verdicts.STAND_IN


def gpu(device="NVIDIA FAKE", rows=(), model="Model 5"):
    return {"device": device, "type": "cuda", "driver": "1.2", "torch": "9.9", "python": "3.12", "date": "2030-01-02",
            "cpu": "FAKE CPU, 4 threads", "model": model, "rows": list(rows)}


def both(cpu, gpu_seconds, device="NVIDIA FAKE"):
    return (gpu(device), cpu, gpu_seconds)


def trained(seconds, kind="cpu", count=60):
    own = {"threads": 2} if kind == "cpu" else {"driver": "1.2"}
    record = {"device": f"FAKE {kind}", "type": kind, **own, "torch": "9.9", "date": "2030-01-02"}
    return record, {"dtype": "float32"}, seconds, count


def verdict(number, row):
    """The row as the ledger keeps it: it accepts every verdict that the functions return."""
    ledger = Ledger("03")
    ledger.add(number, *row)
    return ledger.claims[0].verdict


def test_a_row_is_in_the_order_of_the_ledger():
    arguments = list(inspect.signature(Ledger.add).parameters)
    assert arguments[:2] == ["self", "number"] and tuple(arguments[2:]) == speed_verdicts.Row._fields


# --- claim 7 ---------------------------------------------------------------------------------------------------------


def construction(own, *recorded):
    return speed_verdicts.construction(own, HERE, list(recorded))


def test_construction_needs_a_gpu():
    row = construction(live(HERE, 2.65))
    assert verdict(7, row) == UNMEASURED and row.unmeasured == GPU_HALF
    assert row.measured == "here: CPU 2.65 s" and row.measured_on == HERE


@pytest.mark.parametrize("seconds, result", [(3.0, "holds"), (1.4, "holds"), (9.0, "does not hold")])
def test_construction_is_settled_by_a_gpu_of_this_machine_or_by_a_record(seconds, result):
    assert verdict(7, construction(live(HERE, 2.0, seconds))) == result
    row = construction(live(HERE, 2.65), both(2.0, seconds))
    assert verdict(7, row) == result and "NVIDIA FAKE" in row.measured_on and "2030-01-02" in row.measured_on
    assert HERE in row.measured_on and "FAKE CPU, 4 threads" in row.measured_on and "here: CPU 2.65 s" in row.measured


def test_construction_is_compared_within_one_machine():
    row = construction(live(HERE, 2.0), both(8.0, 8.8))  # 8.8 is far from 2.0, the CPU here
    assert verdict(7, row) == "holds" and "a factor of 1.10" in row.measured
    assert "measured on 1 machine with a GPU" in row.condition and not row.unmeasured


def test_construction_depends_where_gpus_disagree():
    row = construction(None, both(2.0, 2.2), both(2.0, 9.0, "NVIDIA OTHER"))
    assert verdict(7, row) == "depends" and "not on NVIDIA OTHER" in row.condition


def test_a_stand_in_settles_nothing_but_a_record_does():
    where = "a small stand-in for Model 5; CPU, 2 threads"
    for number, row in ((7, speed_verdicts.construction(None, where, [])),
                        (25, speed_verdicts.training_forward(None, where, [], "16 x 256")),
                        (8, speed_verdicts.training_on_cpu(None, where, [], "extrapolated"))):
        assert verdict(number, row) == UNMEASURED and row.unmeasured == STAND_IN
        assert "not measured" in row.measured and row.measured_on == where
    row = speed_verdicts.construction(None, where, [both(2.0, 2.2)])
    assert verdict(7, row) == "holds" and "stand-in" not in row.measured_on


# --- claim 25 --------------------------------------------------------------------------------------------------------


def training_forward(own, *recorded):
    return speed_verdicts.training_forward(own, HERE, list(recorded), "16 x 256 tokens")


def test_a_forward_pass_needs_both_halves():
    row = training_forward(live(HERE, 5.0))
    assert verdict(25, row) == UNMEASURED and row.unmeasured == GPU_HALF
    assert row.condition.startswith("on the processors that were measured: 45 s is 9 times what the CPU takes")
    assert verdict(25, training_forward(None, both(None, 0.2))) == UNMEASURED
    assert verdict(25, training_forward(live(HERE, 5.0), both(None, 0.2))) == "does not hold"  # two machines


@pytest.mark.parametrize("pairs, result", [
    ([(40.0, 0.9)], "holds"), ([(5.0, 0.1)], "does not hold"), ([(40.0, 0.1)], "does not hold"),
    ([(40.0, 0.9), (5.0, 0.1)], "depends"),
])
def test_a_forward_pass_is_settled_by_both_halves(pairs, result):
    recorded = [both(*pair, device=f"NVIDIA {i}") for i, pair in enumerate(pairs)]
    row = training_forward(None, *recorded)
    assert verdict(25, row) == result and "NVIDIA 0" in row.measured_on and "2030-01-02" in row.measured_on
    assert row.condition.startswith("on the processor: ") == (result == "depends") and not row.unmeasured
    assert verdict(25, training_forward(live(HERE, *pairs[0]), *recorded[1:])) == result


# --- claim 6 ---------------------------------------------------------------------------------------------------------


def orders(own, *recorded, claimed=(20, 0.03), operations=11.7e12):
    return speed_verdicts.orders_of_magnitude(claimed, operations, 67e12, own, HERE, list(recorded), 10)


def test_arithmetic_refutes_the_orders_of_magnitude_and_the_gpu_half_stays_open():
    for own, missing in ((None, STAND_IN), (live(HERE, 5.0), GPU_HALF)):
        row = orders(own)
        assert verdict(6, row) == "does not hold" and row.unmeasured == missing
        assert "667, 2.8 orders" in row.measured and "390 TFLOP/s" in row.measured
        assert ("CPU 50 s" in row.measured) == (HERE in row.measured_on) == (own is not None)


def test_the_five_passes_are_given_for_each_gpu():
    row = orders(live(HERE, 5.0), both(8.0, 0.1))
    assert not row.unmeasured and "NVIDIA FAKE, 2030-01-02: CPU 80 s, GPU 1 s, 1.9 orders" in row.measured
    assert "recorded: NVIDIA FAKE" in row.measured_on
    row = orders(live(HERE, 5.0, 0.2))
    assert not row.unmeasured and "here: CPU 50 s, GPU 2 s" in row.measured


def test_each_reason_is_given_only_where_it_is_true():
    assert "H100" not in orders(None, claimed=(20, 1.5)).condition
    assert "less than 4" not in orders(None, claimed=(20000, 0.03)).condition


def test_times_that_arithmetic_does_not_refute_are_compared_with_measured_ones():
    possible = {"claimed": (20000, 1.5)}  # 4.1 orders, and 7.8 TFLOP/s
    assert verdict(6, orders(None, **possible)) == verdict(6, orders(live(HERE, 2000.0), **possible)) == UNMEASURED
    assert verdict(6, orders(live(HERE, 2000.0, 0.15), **possible)) == "holds"
    assert verdict(6, orders(live(HERE, 5.0, 0.2), **possible)) == "does not hold"


# --- claim 8 ---------------------------------------------------------------------------------------------------------


def on_cpu(own, *recorded):
    return speed_verdicts.training_on_cpu(own, HERE, list(recorded), "extrapolated from 1 x 256")


def test_recorded_training_settles_whether_a_cpu_can_train():
    row = on_cpu(None, trained(20.0), trained(0.1, "cuda"))
    assert verdict(8, row) == "does not hold" and "60 batches of Model 5's training, FAKE cpu" in row.measured
    assert "20 s per batch (median), so 500 take 2.8 hours" in row.measured and "FAKE cuda" not in row.measured
    assert row.measured_on == "recorded: FAKE cpu, 2 threads, torch 9.9, 2030-01-02"
    assert verdict(8, on_cpu(None, trained(5000.0))) == "holds"


def test_an_extrapolation_is_named_as_one():
    row = on_cpu(23.0)
    assert verdict(8, row) == "does not hold" and "here, extrapolated from 1 x 256: 23 s" in row.measured
    assert "no training of Model 5 on a CPU has been recorded" in row.condition
    assert "no training" not in on_cpu(23.0, trained(20.0)).condition
    assert verdict(8, on_cpu(5000.0, trained(20.0))) == "depends"
    assert "longer than a week" in row.condition


# --- claim 2 ---------------------------------------------------------------------------------------------------------

EXACT = {"whole numbers": 0.0, "random numbers": 1e-5}
FASTER, SAME, SLOWER = (1.05, 1.2, 1.4), (0.95, 1.01, 1.1), (0.7, 0.8, 0.9)


def fused(cpu, own=(), recorded=(), differences=EXACT):
    ratios = {("CPU, 1 thread", 4**i): ratio for i, ratio in enumerate(cpu)}
    ratios |= {("NVIDIA HERE", 4**i): ratio for i, ratio in enumerate(own)}
    noted = [(gpu(), 4**i, [middle, low, high]) for i, (low, middle, high) in enumerate(recorded)]
    return speed_verdicts.fused_qkv(differences, ratios, "NVIDIA HERE" if own else None, noted)


def test_readings_follow_from_the_quartiles():
    results = [speed_verdicts.reading(*ratio) for ratio in (FASTER, SAME, SLOWER)]
    assert results == ["one matrix is faster", "no clear difference", "three are faster"]


def test_fused_qkv_needs_a_gpu():
    for cpu in ([FASTER, FASTER], [FASTER, SAME], [SAME]):
        row = fused(cpu)
        assert verdict(2, row) == UNMEASURED and row.unmeasured == GPU_HALF
        assert ("one matrix is faster: CPU, 1 thread, with 1" in row.condition) == (cpu[0] == FASTER)


def test_the_condition_of_fused_qkv_names_each_case_once_by_machine():
    row = fused([FASTER, SAME, FASTER], recorded=[FASTER, SLOWER, FASTER])
    assert verdict(2, row) == "depends" and row.condition == (
        "the same numbers up to rounding: yes; one matrix is faster: CPU, 1 thread, with 1 and 16 rows of x and NVIDIA "
        "FAKE, 2030-01-02, with 1 and 16 rows of x; no clear difference: CPU, 1 thread, with 4 rows of x; three are "
        "faster: NVIDIA FAKE, 2030-01-02, with 4 rows of x; clear means by more than 2% in three quarters of the turns")
    assert "CPU, 1 thread: 1.20 (1 row), 1.01 (4 rows) and 1.20 (16 rows); NVIDIA FAKE" in row.measured


def test_where_no_difference_is_clear_the_smallest_effect_is_that_of_the_widest_spread():
    assert fused([(1.0, 1.0, 1.0)], recorded=[(1.0, 1.0, 1.0)]).smallest == "2% of the time"
    row = fused([SAME], recorded=[(1.0, 1.0, 1.0)])
    assert verdict(2, row) == "inconclusive" and row.smallest == "11% of the time"  # 1.02 * 1.1 / 1.01
    row = fused([FASTER], recorded=[SAME])  # of the cases without a clear difference
    assert verdict(2, row) == "depends" and row.smallest == "11% of the time"
    assert not fused([FASTER], recorded=[SLOWER]).smallest


@pytest.mark.parametrize("cpu, other, result", [
    ([FASTER, FASTER], [FASTER], "holds"), ([FASTER], [SAME], "depends"), ([SLOWER], [FASTER], "depends"),
    ([FASTER, SAME], [FASTER], "depends"), ([SAME], [SLOWER], "does not hold"),
    ([SAME], [SAME], "inconclusive"),
])
def test_fused_qkv_is_settled_by_a_gpu_of_this_machine_or_by_a_record(cpu, other, result):
    assert verdict(2, fused(cpu, own=other)) == result
    row = fused(cpu, recorded=other)
    assert verdict(2, row) == result and "NVIDIA FAKE" in row.measured_on and "2030-01-02" in row.measured_on
    assert row.measured_on.endswith("forward and backward") and "NVIDIA FAKE, 2030-01-02: " in row.measured


def test_other_numbers_refute_fused_qkv_without_a_gpu():
    for differences in ({"whole numbers": 1.0, "random numbers": 1e-5}, {"whole numbers": 0.0, "random numbers": 0.01}):
        for recorded in ([], [FASTER]):
            assert verdict(2, fused([FASTER], recorded=recorded, differences=differences)) == "does not hold"


def test_a_stand_in_says_nothing_about_the_speed_of_fused_qkv():
    row = fused([])
    assert verdict(2, row) == UNMEASURED and "not measured at Model 5's real size" in row.measured
    assert "stand-in" in row.measured_on and "faster" not in row.condition and row.unmeasured == STAND_IN
    assert verdict(2, fused([], recorded=[FASTER])) == "holds"


# --- claims 31 to 35 -------------------------------------------------------------------------------------------------

WHERE = "the laptop model, CPU"


@pytest.mark.parametrize("ratio", [0.9, 1.07, 1.48, 2.0, 2.5])
def test_no_ratio_on_one_cpu_settles_what_two_gpus_do(ratio):
    row = speed_verdicts.two_processes({"one with 1 thread": ratio, "one with 2 threads": 1.0}, WHERE)
    assert verdict(31, row) == UNMEASURED and row.unmeasured == "two processes with a GPU each"
    assert f"{ratio:.2f} times as fast as one with 1 thread" in row.measured


@pytest.mark.parametrize("losses, weights, control, result", [
    (1e-6, 1e-5, 0.5, "holds"), (0.5, 1e-5, 0.5, "does not hold"), (1e-6, 0.8, 0.5, "does not hold"),
    (float("nan"), 1e-5, 0.5, "does not hold"), (1e-6, 1e-5, 1e-6, "inconclusive"),
])
def test_two_processes_train_the_same_model_only_if_another_run_looks_different(losses, weights, control, result):
    row = speed_verdicts.same_training(losses, weights, control, 40, WHERE)
    assert verdict(32, row) == result and "in 40 steps" in row.measured
    assert result != "holds" or "in the first 40 steps" in row.condition
    assert result != "inconclusive" or row.smallest == "0.001 nats"


@pytest.mark.parametrize("moved, result", [
    ({2: 1.0, 3: 1.34, 4: 1.5}, "does not hold"),
    ({2: 1.0}, UNMEASURED), ({2: 1.0, 3: 1.34}, UNMEASURED),  # no number and its double
    ({2: 1.0, 4: None}, UNMEASURED),
    ({2: 1.0, 4: 2.0}, "holds"),
])
def test_the_bytes_need_a_number_of_processes_and_its_double(moved, result):
    row = speed_verdicts.bytes_sent(moved, "gloo")
    assert verdict(33, row) == result and bool(row.unmeasured) == (result == UNMEASURED)
    assert result == UNMEASURED or f"from 2 to 4 processes {moved[4]:.2f} times as much" in row.condition


@pytest.mark.parametrize("difference, kept, result", [
    (1e-6, (70, 10), "holds"), (0.1, (70, 10), "does not hold"), (1e-6, (70, 60), "does not hold"),
])
def test_accumulation_needs_equal_losses_and_less_memory(difference, kept, result):
    for peaks, shown in (((100, 25), True), ((None, None), False)):
        row = speed_verdicts.accumulation(8, difference, kept, peaks, 6, WHERE)
        assert verdict(34, row) == result and ("4.0 times less at the peak" in row.measured) == shown
        assert "weights and Adam does not" in row.condition and row.measured_on == WHERE


@pytest.mark.parametrize("adam, result", [(8, "holds"), (4, "does not hold"), (12, "does not hold")])
def test_sixteen_bytes_are_counted_after_the_first_step(adam, result):
    before = {"weights": 400, "gradients": 0, "Adam": 0}
    row = speed_verdicts.adam_bytes(before, before | {"gradients": 400, "Adam": 100 * adam}, 100, WHERE)
    assert verdict(35, row) == result and "before the first step 4.000" in row.measured


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch):
    kinds = {"speed": [], "training": []}
    monkeypatch.setattr(timing, "recorded", lambda kind: kinds[kind])
    return kinds


def test_only_real_gpus_and_model_5_are_read(kept):
    rows = [["cuda", "construct", [3.0, 2.9, 3.1], "s"], ["cpu", "construct", [2.0, 1.9, 2.1], "s"]]
    kept["speed"] = [gpu(rows=rows), gpu("NVIDIA SMALL", rows, "a small stand-in for Model 5"),
                     gpu("A CPU", rows) | {"type": "cpu"}]
    (record, value), = records.speeds("construct")
    assert record["device"] == "NVIDIA FAKE" and records.middle(value) == 3.0
    assert records.on_both("construct") == [(record, 2.0, 3.0)]
    assert records.gpu_speeds() == {"NVIDIA FAKE, 2030-01-02": {"construct": ([3.0, 2.9, 3.1], "s")}}
    kept["speed"] = [gpu(rows=rows[:1])]
    assert [cpu for _, cpu, _ in records.on_both("construct")] == [None]


def test_a_cpu_is_put_beside_a_gpu():
    here = {"construct": (timing.Timing(2.0, 1.9, 2.1), "s"), "peak": (0.2, "TFLOP/s"), "one / three": (1.5, "ratio")}
    fast = {"construct": ([4.0, 3.9, 4.1], "s"), "peak": (20.0, "TFLOP/s"), "one / three": ([1.1, 1.0, 1.2], "ratio"),
            "memory": (None, "GB"), "compiled": (0.1, "s")}
    rows = records.beside(here, fast, [*fast, "nobody measured this"])
    assert [row["measured"] for row in rows] == ["construct", "peak", "one / three", "compiled"]
    assert [row["this CPU"] for row in rows] == [2.0, 0.2, 1.5, None]
    assert [row["the GPU"] for row in rows] == [4.0, 20.0, 1.1, 0.1]
    assert [row["GPU, times as fast"] for row in rows] == [0.5, pytest.approx(100), None, None]


def test_batches_that_were_not_timed_do_not_count(kept):
    def record(seconds, size="full"):
        return {"size": size, "text": "Gulliver's Travels", "model": {"vocab_size": 50_257},
                "runs": {"course-0": {"batches": len(seconds), "seconds": seconds}}}

    kept["training"] = [record([None, 3.0, 1.0, 2.0]), record([9.0], "smoke"), record([None]), record([])]
    (_, run, seconds, count), = records.batch_times("course-0")
    assert (run["batches"], seconds, count) == (4, 2.0, 3) and records.batch_times("lectures-0") == []
