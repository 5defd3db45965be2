"""python -m helpers: in sound and in broken environments it says what is here and what to do, and never stops."""

import importlib.metadata
import os
import subprocess
import sys
import venv

import pytest
import torch

from helpers import __main__ as environment
from helpers import assets, runtime


@pytest.fixture
def report(monkeypatch, capsys):
    """Runs the report as in a terminal: -> (exit status, what it printed)."""
    monkeypatch.setattr(environment, "IN_NOTEBOOK", False)

    def run():
        status = environment.report()
        return status, capsys.readouterr().out

    return run


def fake_versions(monkeypatch, **versions):
    """Some packages have another version, or are missing (None)."""
    real = importlib.metadata.version

    def version(name):
        if name in versions and versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def run_module(python, folder, **variables):
    return subprocess.run([python, "-m", "helpers"], cwd=assets.ROOT, capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1", "COURSE_CACHE": str(folder), **variables}, timeout=120)


def test_the_command_says_that_the_course_can_run_offline(tmp_path):
    done = run_module(sys.executable, tmp_path / "cache", COURSE_OFFLINE="1", COURSE_ASSETS="", COURSE_SIZE="smoke",
                      HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for said in ("torch           " + torch.__version__, "run size        smoke, since COURSE_SIZE says so",
                 "note  book            stand-in", "note  tokenizer       stand-in", "note  GPT-2 weights   stand-in",
                 "The course can run here."):
        assert said in done.stdout
    assert str(assets.ROOT) + os.sep not in done.stdout, "the course's folder is spelled out"


def test_a_python_without_any_package_gets_advice_and_no_traceback(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = run_module(str(python), tmp_path / "cache")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    for said in ("FIX   packages        not checked: No module named 'pip'", "-m ensurepip",
                 "FIX   machine         not checked: No module named 'torch'", "FIX   assets", "Mend the lines"):
        assert said in done.stdout


def test_missing_packages_are_named_with_one_command(report, monkeypatch, offline):
    fake_versions(monkeypatch, tiktoken=None, seaborn=None)
    status, said = report()
    assert status == 1 and "FIX   packages        tiktoken missing; seaborn missing" in said
    (command,) = [line.strip() for line in said.splitlines() if "-m pip install" in line]
    assert command.endswith('-m pip install "tiktoken>=0.9" "seaborn<0.14,>=0.13" -c constraints.txt')


def test_many_missing_packages_need_the_whole_list(report, monkeypatch, offline):
    fake_versions(monkeypatch, **dict.fromkeys(["torch", "numpy", "transformers", "tiktoken", "pooch", "tqdm"]))
    status, said = report()
    assert status == 1 and "FIX   torch           missing" in said
    assert "-m pip install -r requirements.txt -c constraints.txt" in said


@pytest.mark.parametrize("name, version, status, mark, says", [
    ("torch", "2.4.0", 1, "FIX ", "torch 2.4.0 is too old"),
    ("torch", "2.99.0", 0, "note", "torch 2.99.0 is newer than what was tested"),
    ("jupyter", None, 0, "note", "jupyter missing"),
    ("ipykernel", None, 1, "FIX ", "ipykernel missing"),
])
def test_a_version_outside_the_range_counts_as_much_as_it_matters(report, monkeypatch, offline, name, version, status,
                                                                  mark, says):
    fake_versions(monkeypatch, **{name: version})
    found, said = report()
    assert found == status and f"{mark}  packages        {says}" in said


def test_in_a_notebook_only_what_cells_need_is_looked_at(report, monkeypatch, offline):
    fake_versions(monkeypatch, nbmake=None, jupyter=None, tqdm=None)
    monkeypatch.setattr(environment, "IN_NOTEBOOK", True)
    status, said = report()
    assert status == 1 and "nbmake" not in said and '%pip install "tqdm<5,>=4.66"' in said


def test_a_torch_that_cannot_be_imported_is_told_from_a_missing_one(report, monkeypatch, offline):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, said = report()
    assert status == 1 and "FIX   machine         not checked" in said and "--force-reinstall" in said


def test_a_missing_psutil_stops_nothing(report, monkeypatch, offline):
    monkeypatch.setitem(sys.modules, "psutil", None)
    fake_versions(monkeypatch, psutil=None)
    status, said = report()
    assert status == 0 and "note  memory          not checked" in said


def test_an_old_python_is_named(report, monkeypatch, offline):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    status, said = report()
    assert status == 1 and "FIX   Python          3.10.2" in said


@pytest.mark.parametrize("name, value",
                         [("COURSE_ASSETS", "nowhere"), ("COURSE_SIZE", "huge"), ("COURSE_DEVICE", "tpu")])
def test_a_wrong_setting_is_named(report, monkeypatch, offline, name, value):
    monkeypatch.setenv(name, value)
    status, said = report()
    assert status == 1 and f"{name}={value}" in said and "nset it" in said


def test_a_gpu_is_named_with_its_memory(report, monkeypatch, offline):
    monkeypatch.setattr(runtime, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(runtime, "run_size", lambda: "full")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (14 * 2**30, 15 * 2**30))
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    status, said = report()
    assert "device          NVIDIA T4; 14.0 of 15.0 GiB free" in said
    assert "run size        full, since there is a CUDA GPU" in said


def test_a_damaged_file_is_named_and_never_counted_as_there(report, offline):
    path = assets.cache_folder() / "gulliver" / "829-0.txt"
    assets.write_atomically(path, lambda temporary: temporary.write_bytes(b"half a book"))
    status, said = report()
    assert status == 0 and "DAMAGED" in said and "note  book            stand-in: “The Brass Yard”" in said


def test_what_hosts_can_give_is_announced_and_not_downloaded(report, monkeypatch, offline):
    monkeypatch.setattr(assets, "reachable_hosts", lambda: frozenset({"huggingface.co", "www.gutenberg.org"}))
    monkeypatch.setattr(assets, "_download", lambda *_: pytest.fail("download") if assets.reachable_hosts() else "no")
    monkeypatch.setattr(assets.huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("downloaded"))
    status, said = report()
    assert status == 0 and "book            will be downloaded from www.gutenberg.org (0.6 MB)" in said
    assert "GPT-2 weights   will be downloaded from huggingface.co (548 MB)" in said
    assert "tokenizer       stand-in" in said


def test_the_report_does_not_use_up_the_line_on_a_stand_in(report, offline, capsys):
    report()
    assets.gulliver()
    assert "STAND-IN" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_means_stand_ins(report, monkeypatch, offline):
    (offline / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_CACHE", str(offline / "file" / "cache"))
    monkeypatch.setattr(assets, "reachable_hosts", lambda: pytest.fail("asked for nothing"))
    status, said = report()
    assert status == 0 and "note  cache" in said and "set COURSE_CACHE" in said
    assert "a small GPT-2 (data/gpt2-course), because the cache cannot be written" in said


def test_an_altered_file_of_the_course_is_named_with_its_cure(report, monkeypatch, offline):
    (offline / "data").mkdir()
    (offline / "data" / "SHA256SUMS").write_bytes((assets.DATA / "SHA256SUMS").read_bytes())
    monkeypatch.setattr(assets, "DATA", offline / "data")
    status, said = report()
    assert status == 1 and "FIX   files" in said and "git checkout data/" in said


def test_real_files_are_shown_under_the_name_of_their_folder(report, real_files):
    status, said = report()
    assert status == 0 and str(real_files) not in said
    assert "ok    book            COURSE_ASSETS" in said and "ok    tokenizer       COURSE_ASSETS" in said
    if (real_files / "gpt2-small").is_dir():
        assert "COURSE_ASSETS/gpt2-small has GPT-2's attention weights only" in said
