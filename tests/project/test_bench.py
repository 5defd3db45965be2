"""The benchmark: it runs, its arms do the same work, and BENCHMARKS.md shows what was recorded."""

import json

import pytest
import torch

from benchmarks import bench, tables, workers
from helpers.machine import limits

ROWS = [
    dict(zip(("task", "arm", "seconds", "memory", "difference", "share", "of"), row))
    for row in (
        ("forward", "hf", [2.0, 4.0, 3.0], None, 0.0, 0.4, "fp32"),
        ("forward", "course", [1.0, 1.0, 2.4], None, 3e-6, 0.8, "fp32"),
        ("train", "hf", [8.0], 4 * 2**30, 0.0, 0.3, "fp32"),
        ("train", "course", [4.0], 3 * 2**30, 1e-6, 0.6, "bf16"),
        ("decode", "course", [2.0], None, 0, 0.5, "bytes"),
    )
]
RESULT = {
    "device": "A processor", "type": "cpu", "threads": 2, "torch": "2.13.0", "transformers": "5.0",
    "date": "2026-01-01", "rounds": 3, "parameters": 10**8, "shapes": bench.WORKLOADS["gpt2"]["cpu"], "rows": ROWS,
}


def test_the_page_shows_what_was_recorded():
    records = bench.ROOT / "data" / "measurements"
    assert (bench.ROOT / "BENCHMARKS.md").read_text(encoding="utf-8") == tables.page(records)
    assert list(records.glob("bench_*.json")) and "| Model 5 |" in tables.page(records)


def test_the_page_is_renewed_from_the_records_without_measuring(tmp_path, monkeypatch):
    records = tmp_path / "data" / "measurements"
    records.mkdir(parents=True)
    for name in "ab":
        (records / f"bench_{name}.json").write_text(json.dumps(RESULT | {"device": f"processor {name}"}))
    (tmp_path / "BENCHMARKS.md").write_text("an old page", encoding="utf-8")
    monkeypatch.setattr(bench, "bench", None)  # an error if it is called
    assert bench.main(["--tables"], tmp_path) == 0
    text = (tmp_path / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert text == tables.page(records) and "an old page" not in text
    assert text.index("## How to read") < text.index("## processor a") < text.index("## processor b")


def test_ratios_are_medians_within_rounds():
    assert tables.ratios(ROWS, ROWS[1]) == ((0.375, 0.5, pytest.approx(0.65)), None)  # of 1/2, 1/4 and 2.4/3
    assert tables.ratios(ROWS, ROWS[3]) == ((0.5, 0.5, 0.5), 0.75)
    assert tables.ratios(ROWS, ROWS[4]) == (None, None)  # nothing to compare with


def test_the_tables_say_what_was_measured():
    lines = tables.tables(RESULT).splitlines()
    assert lines[0] == "## A processor"
    assert "2 threads, torch 2.13.0, transformers 5.0; 3 rounds; measured on 2026-01-01." in lines
    forward = lines[lines.index("**Forward pass, 1 x 1024 tokens**"):]
    assert forward[5] == "| Model 5 | 1 s | 0.50 (0.38 to 0.65) | 80% of the fp32 peak | 3e-06 (logits) |"
    decoding = lines[lines.index("**Greedy decoding, 64 new tokens**"):]
    assert decoding[4] == "| Model 5 | 32.0 tokens/s |  | 50% of the memory | 0 of the tokens |"
    training = lines[lines.index("**Training step, 4 x 256 tokens**"):]
    assert training[5] == "| Model 5 | 4 s | 0.50 (0.50 to 0.50) | 60% of the bf16 peak | 1e-06 nats |"
    memory = lines[lines.index("**Peak memory of training**"):]
    assert memory[5] == "| Model 5 | 3,072 MiB | 0.75 | 2.01 |"
    assert not any("Construct" in line for line in lines)  # this result has no such task


@pytest.mark.parametrize("task, arm, device, bf16, expected", [
    ("forward", "course", "cpu", True, (0.5, "fp32")),
    ("train", "course", "cpu", True, (1.5, "fp32")),
    ("train", "course_bf16", "cpu", True, (0.75, "bf16")),
    ("train", "hf", "cuda", True, (1.5, "fp32")),
    ("train", "course", "cuda", True, (0.75, "bf16")),
    ("train", "course", "cuda", False, (0.375, "fp16")),
    ("construct", "hf", "cpu", False, (0.2, "bytes")),
    ("decode", "hf", "cpu", False, (0.8, "bytes")),
])
def test_shares_compare_with_the_right_limit(task, arm, device, bf16, expected):
    rates = [{"fp32": 100.0, "bf16": 200.0, "fp16": 400.0, "bytes": 20.0}] * 3
    work = {"forward": 100, "train": 300, "parameters": 2}
    setup = {"shapes": {"new": 4}, "device": device, "bf16": bf16}
    result = bench.shares(task, arm, [2.0, 2.0, 2.0], rates, work, setup)
    assert result == (pytest.approx([expected[0]] * 3), expected[1])


def test_a_share_compares_with_the_peak_of_its_own_round():
    rates = [{"fp32": 100.0}, {"fp32": 50.0}, {"fp32": 25.0}]  # the machine slows down, and the program with it
    result, unit = bench.shares("forward", "course", [2.0, 4.0, 8.0], rates, {"forward": 100}, {"device": "cpu"})
    assert (result, unit) == (pytest.approx([0.5, 0.5, 0.5]), "fp32")


def test_a_share_is_shown_with_its_quartiles_where_all_rounds_were_recorded():
    row = ROWS[1] | {"shares": [0.5, 0.7, 0.8, 0.9, 1.0]}
    assert "| 80% (70% to 90%) of the fp32 peak |" in tables.time_row(RESULT, row)


@pytest.mark.parametrize("faster", ["highest", "medium"])
def test_the_peak_is_that_of_the_faster_setting(monkeypatch, faster):
    machine = workers.Machine("machine", {"device": "cpu", "shapes": {}, "folder": ".", "bf16": True})
    machine.squares = {name: torch.ones(10, 10) for name in ("fp32", "bf16")}
    machine.large, machine.vector = torch.ones(25, 4), torch.ones(4)

    def best_of_three(function):
        return 1.0 if torch.get_float32_matmul_precision() == faster else 2.0

    monkeypatch.setattr(machine, "best_of_three", best_of_three)
    rates = machine.measure_rates()
    assert rates["fp32"] == 2000 and torch.get_float32_matmul_precision() == "highest"
    assert rates["bf16"] == (2000 if faster == "highest" else 1000)  # fp32's setting does not concern it


def test_what_cannot_work_is_reported_at_once(monkeypatch, capsys):
    monkeypatch.setattr(limits, "memory", lambda: (6e9, 32e9))
    with pytest.raises(SystemExit, match="3 arms need about 14 GB of free memory, and 6 GB are free.*--arms hf course"):
        bench.check_memory(["hf", "hf_tuned", "course"], "gpt2", "cpu")
    bench.check_memory(["hf", "hf_tuned", "course"], "small", "cpu")
    for wrong in (["--rounds", "0"], ["--record", "--size", "small"], ["--record", "--arms", "course"]):
        with pytest.raises(SystemExit):
            bench.main(wrong)
    assert "expected at least 1" in capsys.readouterr().err


def test_arms_that_would_show_nothing_are_skipped(monkeypatch, capsys):
    monkeypatch.setattr(bench.kernels, "has_fast_bf16", lambda device: False)
    monkeypatch.setattr(bench.kernels, "compile_problem", lambda device: "" if device == "cuda" else "no compiler")
    assert bench.arms_for("cpu", None) == ["hf", "hf_tuned", "course"]
    assert bench.arms_for("cuda", None) == ["hf", "hf_tuned", "course", "course_compiled"]
    assert bench.arms_for("cpu", ["hf", "course_compiled"]) == ["hf"]
    printed = capsys.readouterr().err
    assert "course_bf16 is skipped" in printed and "course_compiled is skipped: no compiler" in printed


def test_a_worker_that_dies_is_named(tmp_path):
    setup = {"size": "small", "device": "no such device", "folder": str(tmp_path), "bf16": False, "shapes": {}}
    with pytest.raises(SystemExit, match="process 'course' ended. Its last lines:[^$]*no such device"):
        bench.Arm("course", setup).wait_until_ready()
