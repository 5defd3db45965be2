"""`make gpu`: the rehearsal on a CPU, time limits, what a step that fails leaves behind, and the folder for a machine
without a network."""

import contextlib
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import bench, tables
from helpers.machine import assets, timing
from scripts import gpu, gpu_folder
from scripts.gpu import Step

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="make gpu is for Linux")

RECORD = {"device": "A GPU", "type": "cuda", "driver": "1", "torch": "2", "python": "3.12", "date": "2026-01-01"}
FINE = Step("fine", "ends well", ["platform"], 20)
FAILS = Step("fails", "ends badly", ["no_such_module"], 20)
SLEEP = ["timeit", "-n", "1", "-r", "1", "-s", "import signal, time", "time.sleep(60)"]
STUBBORN = [*SLEEP[:-1], "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"]


@pytest.mark.slow
def test_the_rehearsal_on_a_cpu_runs_every_step_and_leaves_every_record(tmp_path):
    status = gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    assert status == 0, "\n".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.log"))
    records = {path.stem.partition("_")[0]: json.loads(path.read_text(encoding="utf-8"))
               for path in (tmp_path / "records").glob("*.json")}
    assert set(records) == {"cuda", "bench", "speed", "training"}
    for record in records.values():
        assert {"device", "torch", "python", "date"} <= set(record) and record["type"] == "cpu"
    assert {test["outcome"] for test in records["cuda"]["tests"]} == {"passed"}
    assert any("two devices error" in test for test in records["cuda"]["tests"])
    assert "construct" in [what for device, what, *_ in records["speed"]["rows"] if device == "cpu"]
    assert set(records["training"]["runs"]) == {"course-0", "lectures-0"}
    assert sorted(path.name[:2] for path in (tmp_path / "notebooks").glob("*.ipynb")) == ["02", "03"]
    check_bench(records["bench"])
    for results in (tmp_path, tmp_path / gpu.BUNDLE):
        with pytest.raises(SystemExit, match="is a rehearsal"):
            gpu.main(["--keep", str(results)])


def check_bench(result):
    """The benchmark with a tiny model is complete: every task, in processes of their own that do the same work."""
    rows = {(row["task"], row["arm"]): row for row in result["rows"]}
    assert set(rows) == {(task, arm) for task in bench.TASKS for arm in ("hf", "course")}
    assert result["matmul"]["hf"] == "highest" and result["matmul"]["course"] in ("highest", "medium")
    assert rows["forward", "course"]["difference"] < 1e-4 and rows["decode", "course"]["difference"] == 0
    assert rows["train", "course"]["difference"] < 1e-4  # two steps: the second loss depends on the first update
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 and row["share"] > 0 for row in rows.values())
    assert "Hugging Face, default settings" in tables.tables(result)


@pytest.fixture
def no_questions(monkeypatch):
    """No program is started to ask for the machine: it is the GPU of RECORD."""
    monkeypatch.setattr(gpu, "ask", lambda code, *others: True if code == gpu.GPU else RECORD)


def options(tmp_path, **changes):
    names = ["fine", "fails", "tests"]
    return SimpleNamespace(**{"device": "cpu", "quick": False, "out": tmp_path, "bring": None, "steps": names,
                              "minutes": 5, **changes})


@pytest.mark.parametrize("quick", [False, True])
def test_a_step_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, no_questions, capsys, quick):
    monkeypatch.setattr(gpu, "steps_for", lambda *arguments: [FAILS, FINE])
    assert gpu.measure(options(tmp_path, quick=quick)) == 1
    log, printed = (tmp_path / gpu.SUMMARY).read_text(encoding="utf-8"), capsys.readouterr().out
    assert "fails      FAILED with exit status 1" in printed and "fine       done" in printed and log == printed
    assert "No module named no_such_module" in log
    assert "ends well" in (tmp_path / "fine.log").read_text(encoding="utf-8")


def test_no_step_begins_when_the_time_is_over(tmp_path, monkeypatch, no_questions, capsys):
    monkeypatch.setattr(gpu, "steps_for", lambda *arguments: [FINE])
    assert gpu.measure(options(tmp_path, minutes=0.01)) == 1
    assert "LEFT OUT: the time is over" in capsys.readouterr().out and not (tmp_path / "fine.log").exists()


def run(command, limit, folder):
    """Runs a step for at most so many seconds. Returns how it ended, and what it has printed."""
    step = Step("step", "does what a test needs", command, 60)
    outcome = gpu.finish(step, gpu.start(step, {}, folder), time.monotonic(), limit, folder, RECORD)
    return outcome, (folder / "step.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [SLEEP, STUBBORN], ids=["asleep", "ignores the interrupt"])
def test_a_step_ends_at_its_limit(tmp_path, monkeypatch, command):
    monkeypatch.setattr(gpu, "PATIENCE", 1)
    begin = time.monotonic()
    outcome, _ = run(command, 1.5, tmp_path)
    assert outcome.startswith("STOPPED at its limit") and time.monotonic() - begin < 20


def test_nothing_that_a_step_has_started_survives_it(tmp_path):
    child = ("import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('I live', flush=True); "
             "time.sleep(60)")
    start_it = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    outcome, printed = run([*SLEEP[:-2], start_it, "time.sleep(60)"], 3, tmp_path)
    assert outcome.startswith("STOPPED") and "I live" in printed
    deadline = time.monotonic() + 10
    while alive(b"print('I live'") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(b"print('I live'")


def alive(code):
    """Whether a Python runs that was started with this code."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            lines.append(path.read_bytes())
    return any(line.split(b"\0")[1:2] == [b"-c"] and line.split(b"\0")[2].startswith(b"import signal") and code in line
               for line in lines)


@pytest.mark.parametrize("quick", [False, True])
def test_an_interrupted_step_still_leaves_its_results(tmp_path, monkeypatch, no_questions, quick):
    def interrupted():
        (tmp_path / "records" / "bench.json").write_text("{}", encoding="utf-8")
        raise KeyboardInterrupt

    def start(*arguments):
        process = begin(*arguments)
        monkeypatch.setattr(process, "wait", lambda limit=None:
                            wait(process) if limit in (None, gpu.PATIENCE) else interrupted())
        started.append(process)
        return process

    begin, wait, started = gpu.start, subprocess.Popen.wait, []
    monkeypatch.setattr(gpu, "steps_for", lambda *arguments: [replace(FINE, limit=33)])
    monkeypatch.setattr(gpu, "start", start)
    with pytest.raises(KeyboardInterrupt):
        gpu.measure(options(tmp_path, quick=quick))
    with zipfile.ZipFile(tmp_path / gpu.BUNDLE) as file:
        assert file.namelist() == ["fine.log", "records/bench.json", "summary.log"]
        assert b"fine       INTERRUPTED" in file.read("summary.log")
    assert [process.returncode is not None for process in started] == [True]


def test_an_earlier_record_is_replaced_only_by_a_new_one(tmp_path, monkeypatch, no_questions):
    records = tmp_path / "records"
    records.mkdir()
    for name in ("bench.json", "speed_a.json", "cuda.json"):
        (records / name).write_text("old", encoding="utf-8")
    (tmp_path / "tests.xml").write_text("<testsuites/>", encoding="utf-8")  # of an earlier run: it is not read
    writes = ["timeit", "-n", "1", "-r", "1", f"open({str(records / 'speed_b.json')!r}, 'w').write('new')"]
    monkeypatch.setattr(gpu, "steps_for", lambda *arguments: [
        replace(FAILS, replaces="bench.json"), replace(FAILS, name="tests", replaces="cuda.json"),
        replace(FINE, command=writes, replaces="speed_*.json")])
    assert gpu.measure(options(tmp_path)) == 1
    assert {path.name: path.read_text(encoding="utf-8") for path in records.iterdir()} == {
        "bench.json": "old", "cuda.json": "old", "speed_b.json": "new"}


def test_a_rehearsal_deletes_no_results(tmp_path, no_questions):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "bench.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit, match="holds records already. Choose another folder"):
        gpu.measure(options(tmp_path, quick=True))


def test_mistakes_are_named_without_a_traceback(tmp_path, capsys):
    (tmp_path / "text.zip").write_text("no archive", encoding="utf-8")
    for wrong in ("nowhere", "nowhere.zip", "text.zip"):
        with pytest.raises(SystemExit, match=f"{wrong} (holds no records|cannot be read).*Expected the folder"):
            gpu.main(["--keep", str(tmp_path / wrong)])
    for minutes in ("0", "-3", "nan"):
        with pytest.raises(SystemExit):
            gpu.main(["--minutes", minutes])
        assert "expected a number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="gpu: .*text.zip"):
        gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "text.zip" / "folder")])


def test_an_interrupt_ends_with_a_message(tmp_path, monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "measure", interrupted)
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path)]) == 130
    assert "interrupted. What was measured until now is in" in capsys.readouterr().err


def test_the_record_of_the_tests_keeps_what_they_have_noted(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "tests.xml").write_text("""<testsuites><testsuite>
        <testcase name="test_a[cuda]" time="1.5"><properties><property name="error" value="on cpu"/></properties>
        </testcase><testcase name="test_b" time="0.1"><failure message="x">x</failure></testcase>
        <testcase name="test_c" time="0"><skipped/></testcase></testsuite></testsuites>""", encoding="utf-8")
    gpu.tests_record(tmp_path, RECORD)
    record = json.loads((tmp_path / "records" / "cuda.json").read_text(encoding="utf-8"))
    assert record["device"] == "A GPU"
    assert [test["outcome"] for test in record["tests"]] == ["passed", "failure", "skipped"]
    assert record["tests"][0] == {"test": "test_a[cuda]", "outcome": "passed", "seconds": 1.5, "error": "on cpu"}


def test_a_gpu_gets_the_real_size_and_a_rehearsal_the_small_one(tmp_path):
    full = gpu.steps_for("cuda", False, tmp_path)
    assert [step.name for step in full] == ["tests", "bench", "speed", "training", "notebooks"]
    assert full[0].command[2:4] == ["-m", "cuda"] and "hf_tuned" in full[1].command and "small" not in full[1].command
    assert full[2].environment == {"COURSE_SIZE": "full", "COURSE_RECORD": str(tmp_path / "records")}
    assert gpu.steps_for("cpu", True, tmp_path)[2].environment["COURSE_SIZE"] == "smoke"


def test_a_python_without_the_packages_is_named():
    with pytest.raises(SystemExit, match="cannot run the course .*No module named 'no_such_module'.*requirements.txt"):
        gpu.ask("import no_such_module", None)


def test_a_machine_without_a_gpu_is_told_of_the_rehearsal(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ask", lambda *arguments: False)
    with pytest.raises(SystemExit, match="no NVIDIA GPU.*--device cpu --quick"):
        gpu.measure(options(tmp_path, device="cuda"))


def test_records_of_a_gpu_are_kept_under_its_name(tmp_path, capsys):
    folder, target = tmp_path / "records", tmp_path / "kept"
    for name, record in {"cuda": RECORD | {"tests": []}, "speed_x": RECORD | {"model": "Model 5", "rows": []},
                         "training_x": RECORD | {"size": "full", "runs": {}}}.items():
        timing.write_json(folder / f"{name}.json", record)
    assert gpu.keep(tmp_path, target) == 0
    assert sorted(path.name for path in target.iterdir()) == ["cuda_a_gpu.json", "speed_a_gpu.json",
                                                              "training_a_gpu.json"]
    timing.write_json(folder / "speed_x.json", RECORD | {"model": "a small stand-in", "rows": []})
    with pytest.raises(SystemExit, match="speed_x.json is a rehearsal"):
        gpu.keep(tmp_path, target)
    with pytest.raises(SystemExit, match="holds no records"):
        gpu.keep(tmp_path / "empty", target)


def test_a_record_is_not_replaced_by_one_that_holds_less(tmp_path):
    for batches, folder in ((500, "kept"), (300, "records")):
        record = RECORD | {"size": "full", "runs": {"course-0": {"batches": batches}}}
        timing.write_json(tmp_path / folder / "training_a_gpu.json", record)
    with pytest.raises(SystemExit, match="holds 500 results, and training_a_gpu.json only 300"):
        gpu.keep(tmp_path, tmp_path / "kept")


# --- the folder for a machine without a network ----------------------------------------------------------------------


def test_the_other_machine_gets_what_it_lacks():
    everything = [pin.partition("==")[0] for pin in gpu_folder.missing("3.12.3", set())]
    assert {"transformers", "tokenizers", "nbclient", "pooch", "traitlets"} <= set(everything)
    assert not {"torch", "sympy"} & set(everything), "the other machine has torch, and what torch needs"
    assert not {"jupyterlab", "selenium"} & set(everything), "no step uses them"
    few = [pin.partition("==")[0] for pin in gpu_folder.missing("3.12.3", {"transformers", "pandas"})]
    assert set(few) < set(everything) and not {"transformers", "tokenizers", "pandas"} & set(few) and "pooch" in few


def test_names_are_read_from_what_pip_prints():
    pip_list = "Package    Version\n---------- -------\nhuggingface_hub 1.3\nPyYAML 6\n"
    assert gpu_folder.listed(pip_list) == {"huggingface-hub", "pyyaml"}
    assert gpu_folder.listed("tqdm==4.7\nnumpy==2.0\n") == gpu_folder.listed("tqdm, numpy") == {"tqdm", "numpy"}


def test_the_folder_is_packed_and_installed_without_a_network(tmp_path, monkeypatch, real_files, capsys):
    folder, installed = tmp_path / "folder", tmp_path / "installed.txt"
    installed.write_text("transformers, pandas", encoding="utf-8")

    def download(command):
        target = command[command.index("-d") + 1]
        with zipfile.ZipFile(f"{target}/brought-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("brought.py", "ANSWER = 42")
            wheel.writestr("brought-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
            tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            wheel.writestr("brought-1.dist-info/WHEEL", tags)
            wheel.writestr("brought-1.dist-info/RECORD", "")
        return subprocess.CompletedProcess(command, 0)

    with monkeypatch.context() as patch:
        patch.setattr(gpu_folder.subprocess, "run", download)
        assert gpu.main(["--pack", str(folder), "--installed", str(installed)]) == 0
    assert "MiB" in capsys.readouterr().out
    environment = gpu.environment_for("cpu", tmp_path / "results", folder)
    assert gpu.ask("import brought; print(brought.ANSWER)", environment) == 42
    code = "import json; from helpers.machine import assets; print(json.dumps(assets.gulliver().title))"
    assert gpu.ask(code, environment) == "Gulliver's Travels"


def test_a_folder_that_is_incomplete_is_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no assets/"):
        gpu_folder.install(tmp_path, tmp_path / "site")
    monkeypatch.setattr(assets, "gulliver", lambda: assets.Asset(tmp_path, "a stand-in", is_stand_in=True))
    with pytest.raises(SystemExit, match="Gulliver's Travels could not be fetched"):
        gpu_folder.pack(tmp_path, "3.12.3", None)


def test_the_program_needs_only_the_standard_library_to_start():
    code = f"import sys; sys.path.insert(0, {str(gpu.ROOT)!r}); from scripts import gpu; print(gpu.parse([]).device)"
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert answer.stdout == "cuda\n", answer.stderr
