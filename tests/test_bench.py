"""The benchmark: it runs, its arms do the same work, and the README shows what was recorded."""

import json

import psutil
import pytest

from benchmarks import bench
from helpers import assets

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
    "date": "2026-01-01", "rounds": 3, "parameters": 10**8, "shapes": bench.SIZES["gpt2"]["cpu"], "rows": ROWS,
}


def test_the_readme_shows_what_was_recorded():
    readme = (assets.ROOT / "README.md").read_text(encoding="utf-8")
    _, begin, rest = readme.partition(bench.BEGIN)
    shown, end, _ = rest.partition(bench.END)
    assert begin and end and shown == bench.readme_block() + "\n"
    assert list(bench.FOLDER.glob("bench_*.json")) and "Model 5" in shown


def test_recording_writes_the_readme(tmp_path):
    folder = tmp_path / "data" / "measurements"
    folder.mkdir(parents=True)
    (folder / "bench_a.json").write_text(json.dumps(RESULT))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{bench.BEGIN}old\n{bench.END}after\n", encoding="utf-8")
    bench.write_readme(tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "A processor" in text
    readme.write_text("no place for it", encoding="utf-8")
    with pytest.raises(SystemExit, match="README.md needs the lines"):
        bench.write_readme(tmp_path)


def test_ratios_are_medians_within_rounds():
    assert bench.ratios(ROWS, ROWS[1]) == ((0.375, 0.5, pytest.approx(0.65)), None)  # of 1/2, 1/4 and 2.4/3
    assert bench.ratios(ROWS, ROWS[3]) == ((0.5, 0.5, 0.5), 0.75)
    assert bench.ratios(ROWS, ROWS[4]) == (None, None)  # nothing to compare with


def test_the_table_says_what_was_measured():
    lines = bench.table(RESULT).splitlines()
    assert lines[0] == "**A processor**, 2 threads; torch 2.13.0, transformers 5.0, 2026-01-01; 3 rounds"
    forward = "| forward pass, 1 x 1024 tokens | Model 5 | 1 s | 0.50 (0.38 to 0.65) | 80% of the fp32 peak | "
    forward += "3e-06 (logits) |"
    train = "| training step, 4 x 256 tokens | Model 5 | 4 s | 0.50 (0.50 to 0.50) | 60% of the bf16 peak | "
    train += "1e-06 nats |"
    assert forward in lines and train in lines
    decoding = "| greedy decoding, 64 new tokens | Model 5 | 32.0 tokens/s |  | 50% of the memory | 0 of the tokens |"
    assert decoding in lines
    memory = [line for line in lines if line.startswith("| peak memory")]
    assert len(memory) == 2 and "3,072 MiB | 0.75 | 2.01 times" in memory[1]


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
    counts = {"forward": 100, "train": 300, "parameters": 2}
    found = bench.share(task, arm, [2.0, 2.0, 2.0], rates, counts, {"new": 4}, device, bf16)
    assert found == (pytest.approx(expected[0]), expected[1])


def test_what_cannot_work_is_said_at_once(monkeypatch, capsys):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 6e9}))
    with pytest.raises(SystemExit, match="3 arms need about 14 GB of free memory, and 6 GB are free.*--arms hf course"):
        bench.check_memory(["hf", "hf_tuned", "course"], "gpt2", "cpu")
    bench.check_memory(["hf", "hf_tuned", "course"], "small", "cpu")
    for wrong in (["--rounds", "0"], ["--record", "--size", "small"], ["--record", "--arms", "course"]):
        with pytest.raises(SystemExit):
            bench.main(wrong)
    assert "at least 1" in capsys.readouterr().err


def test_a_worker_that_dies_is_named(tmp_path):
    setup = {"size": "small", "device": "no such device", "folder": str(tmp_path), "bf16": False, "shapes": {}}
    with pytest.raises(SystemExit, match="process of 'course' ended. It said:[^$]*no such device"):
        bench.Arm("course", setup)


def test_the_arms_do_the_same_work(tmp_path):
    """The whole program on a tiny model: every task, one round, in processes of their own."""
    out = tmp_path / "result" / "bench.json"
    choices = "--size small --rounds 1 --arms hf course --device cpu --out"
    assert bench.main([*choices.split(), str(out)]) == 0
    result = json.loads(out.read_text())
    rows = {(row["task"], row["arm"]): row for row in result["rows"]}
    assert set(rows) == {(task, arm) for task in bench.TASKS for arm in ("hf", "course")}
    assert result["matmul"]["hf"] == "highest" and result["matmul"]["course"] in ("highest", "medium")
    assert rows["forward", "course"]["difference"] < 1e-4
    assert rows["decode", "course"]["difference"] == 0
    assert rows["train", "course"]["difference"] < 1e-4  # two steps: the second loss depends on the first update
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 and row["share"] > 0 for row in rows.values())
    assert "Hugging Face as it comes" in bench.table(result)
