"""python -m helpers: in sound and in broken environments it reports what it finds and what to do, and never stops."""

import importlib.metadata
import os
import re
import subprocess
import sys
import venv

import pytest
import torch

from helpers.machine import assets, environment, runtime

pytestmark = pytest.mark.offline


@pytest.fixture
def report(monkeypatch, capsys):
    """Runs the report as in a terminal. Returns its exit status and its output."""
    monkeypatch.setattr(environment, "IN_NOTEBOOK", False)

    def run():
        status = environment.report()
        return status, capsys.readouterr().out

    return run


def fake_versions(monkeypatch, **versions):
    """Makes packages report another version, or seem missing (None)."""
    installed = importlib.metadata.version

    def version(name):
        if name in versions and versions[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def run_module(python, folder, **variables):
    return subprocess.run([python, "-m", "helpers"], cwd=assets.ROOT, capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1", "COURSE_CACHE": str(folder), **variables}, timeout=120)


def test_the_command_reports_that_the_course_can_run_offline(tmp_path):
    done = run_module(sys.executable, tmp_path / "cache", COURSE_OFFLINE="1", COURSE_ASSETS="", COURSE_SIZE="smoke",
                      HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    version = importlib.metadata.version("torch")  # without the label that torch.__version__ has: 2.13.0+cu130
    for line in (f"torch           {version}", "run size        smoke, since COURSE_SIZE says so",
                 "note  book            stand-in", "note  tokenizer       stand-in", "note  GPT-2 weights   stand-in",
                 "The course can run here."):
        assert line in done.stdout
    assert str(assets.ROOT) + os.sep not in done.stdout, "paths must be relative to the course's folder"


def test_a_python_without_any_package_gets_advice_and_no_traceback(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = run_module(str(python), tmp_path / "cache")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    for line in ("FIX   packages        not checked: No module named 'pip'", "-m ensurepip",
                 "FIX   machine         not checked: No module named 'torch'", "FIX   assets", "Fix the lines"):
        assert line in done.stdout


def test_missing_packages_are_named_with_one_command(report, monkeypatch, offline):
    fake_versions(monkeypatch, tiktoken=None, seaborn=None)
    status, output = report()
    assert status == 1 and "FIX   packages        tiktoken missing; seaborn missing" in output
    (command,) = [line.strip() for line in output.splitlines() if "-m pip install" in line]
    assert command.endswith('-m pip install "tiktoken>=0.9" "seaborn<0.14,>=0.13" -c constraints.txt')


def test_many_missing_packages_need_the_complete_list(report, monkeypatch, offline):
    fake_versions(monkeypatch, **dict.fromkeys(["torch", "numpy", "transformers", "tiktoken", "pooch", "tqdm"]))
    status, output = report()
    assert status == 1 and "FIX   torch           missing" in output
    assert "-m pip install -r requirements.txt -c constraints.txt" in output


@pytest.mark.parametrize("name, version, expected, mark, problem", [
    ("torch", "2.4.0", 1, "FIX ", "torch 2.4.0 is too old"),
    ("torch", "2.99.0", 0, "note", "torch 2.99.0 is newer than what was tested"),
    ("jupyter", None, 0, "note", "jupyter missing"),
    ("ipykernel", None, 1, "FIX ", "ipykernel missing"),
])
def test_a_version_outside_the_range_is_an_error_only_where_it_matters(report, monkeypatch, offline, name, version,
                                                                       expected, mark, problem):
    fake_versions(monkeypatch, **{name: version})
    status, output = report()
    assert status == expected and f"{mark}  packages        {problem}" in output


def test_in_a_notebook_only_what_cells_need_is_checked(report, monkeypatch, offline):
    fake_versions(monkeypatch, nbmake=None, jupyter=None, latex2mathml=None, tqdm=None)
    monkeypatch.setattr(environment, "IN_NOTEBOOK", True)
    status, output = report()
    assert status == 1 and '%pip install "tqdm<5,>=4.66"' in output
    assert "nbmake" not in output and "latex2mathml" not in output


def test_colab_is_not_told_to_replace_what_it_has(report, monkeypatch, offline):
    """The versions of Colab's runtime of January 2026, in which all notebooks have run."""
    monkeypatch.setattr(environment, "IN_NOTEBOOK", True)
    fake_versions(monkeypatch, torch="2.9.0", numpy="2.0.2", transformers="4.57.6", huggingface_hub="0.36.0",
                  tokenizers="0.22.2", safetensors="0.7.0", tiktoken="0.12.0", pooch="1.8.2", requests="2.32.4",
                  tqdm="4.67.1", matplotlib="3.10.0", pandas="2.2.2", pillow="11.3.0", ipykernel="6.17.1",
                  ipywidgets="7.7.1", docutils="0.21.2", sphinx=None, furo=None,
                  **{"myst-nb": None, "mdit-py-plugins": None})
    status, output = report()
    assert status == 0 and "pip install" not in output, output


def test_a_learner_must_have_only_what_cells_and_helpers_import():
    """A block of requirements.txt that no cell needs must be one of NOT_FOR_CELLS."""
    indirectly = {"jinja2", "safetensors", "tokenizers", "ipykernel"}  # pandas, transformers and Jupyter need them
    folders = [assets.ROOT / "helpers", assets.ROOT / "notebooks"]
    sources = [path.read_text(encoding="utf-8") for folder in folders for suffix in ("py", "ipynb")
               for path in folder.rglob(f"*.{suffix}")]
    imported = {name for text in sources for name in re.findall(r"\b(?:import|from) (\w+)", text)}
    imported |= {"pillow"} if "PIL" in imported else set()
    needed = {requirement.name.replace("-", "_") for requirement, is_needed in environment._requirements() if is_needed}
    assert needed - imported <= indirectly, needed - imported - indirectly


def test_a_torch_that_cannot_be_imported_must_be_reinstalled(report, monkeypatch, offline):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, output = report()
    assert status == 1 and "FIX   machine         not checked" in output and "--force-reinstall" in output


def test_a_missing_psutil_stops_nothing(report, monkeypatch, offline):
    monkeypatch.setitem(sys.modules, "psutil", None)
    fake_versions(monkeypatch, psutil=None)
    status, output = report()
    assert status == 0 and "note  memory          not checked" in output


def test_an_old_python_is_named(report, monkeypatch, offline):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    status, output = report()
    assert status == 1 and "FIX   Python          3.10.2" in output


def test_a_python_newer_than_the_tested_ones_is_named(report, monkeypatch, offline):
    monkeypatch.setattr(sys, "version_info", (3, 15, 1))
    status, output = report()
    assert status == 0 and "note  Python          3.15.1" in output
    assert "-> 3.15.1 is newer than what was tested: if something fails, install Python 3.14" in output


@pytest.mark.parametrize("name, value",
                         [("COURSE_ASSETS", "nowhere"), ("COURSE_SIZE", "huge"), ("COURSE_DEVICE", "tpu")])
def test_a_wrong_setting_is_named(report, monkeypatch, offline, name, value):
    monkeypatch.setenv(name, value)
    status, output = report()
    assert status == 1 and f"{name}={value}" in output and "nset it" in output


def test_a_gpu_is_named_with_its_memory(report, monkeypatch, offline):
    monkeypatch.setattr(runtime, "best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(runtime, "run_size", lambda: "full")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (14 * 2**30, 15 * 2**30))
    monkeypatch.delenv("COURSE_SIZE", raising=False)
    status, output = report()
    assert "device          NVIDIA T4; 14.0 of 15.0 GiB free" in output
    assert "run size        full, since this computer has a CUDA GPU" in output


def test_a_damaged_file_is_named_and_does_not_count(report, offline):
    path = assets.cache_folder() / "gulliver" / "829-0.txt"
    assets.write_atomically(path, lambda temporary: temporary.write_bytes(b"half a book"))
    status, output = report()
    assert status == 0 and "DAMAGED" in output and "note  book            stand-in: “The Brass Yard”" in output


def test_what_hosts_offer_is_announced_and_not_downloaded(report, monkeypatch, offline):
    monkeypatch.setattr(assets, "reachable_hosts", lambda: frozenset({"huggingface.co", "www.gutenberg.org"}))
    monkeypatch.setattr(assets, "_download", lambda *_: pytest.fail("download") if assets.reachable_hosts() else "no")
    monkeypatch.setattr(assets.huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("downloaded"))
    status, output = report()
    assert status == 0 and "book            will be downloaded from www.gutenberg.org (0.6 MB)" in output
    assert "GPT-2 weights   will be downloaded from huggingface.co (548 MB)" in output
    assert "tokenizer       stand-in" in output


def test_after_the_report_a_stand_in_is_still_announced(report, offline, capsys):
    report()
    assets.gulliver()
    assert "Stand-in" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_means_stand_ins(report, monkeypatch, offline):
    (offline / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_CACHE", str(offline / "file" / "cache"))
    monkeypatch.setattr(assets, "reachable_hosts", lambda: pytest.fail("hosts were asked for nothing"))
    status, output = report()
    assert status == 0 and "note  cache" in output and "set COURSE_CACHE" in output
    assert "the course's GPT-2 (data/gpt2-course), because the cache cannot be written" in output


def test_an_altered_file_of_the_course_is_named_with_what_to_do(report, monkeypatch, offline):
    (offline / "data").mkdir()
    (offline / "data" / "SHA256SUMS").write_bytes((assets.DATA / "SHA256SUMS").read_bytes())
    monkeypatch.setattr(assets, "DATA", offline / "data")
    status, output = report()
    assert status == 1 and "FIX   files" in output and "git checkout data/" in output


def test_real_files_are_shown_under_the_name_of_their_folder(report, real_files):
    status, output = report()
    assert status == 0 and str(real_files) not in output
    assert "ok    book            COURSE_ASSETS" in output and "ok    tokenizer       COURSE_ASSETS" in output
    if (real_files / "gpt2-small").is_dir():
        assert "COURSE_ASSETS/gpt2-small has GPT-2's attention weights only" in output


def test_a_misspelt_setting_is_noted(report, monkeypatch, offline):
    monkeypatch.setenv("COURSE_ASSET", "/somewhere")
    status, output = report()
    assert status == 0 and "note  settings        COURSE_ASSET is no setting of the course" in output
    assert "COURSE_ASSETS" in output


@pytest.mark.parametrize("home", ["", "/", None])
def test_a_home_that_is_the_root_or_unknown_garbles_no_path(report, monkeypatch, offline, home):
    """As in containers: None is a user without a home, for whom pathlib raises an error."""
    def unknown(*_):
        raise RuntimeError("Could not determine home directory.")

    if home is None:
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        monkeypatch.setattr(environment.Path, "home", unknown)
    else:
        monkeypatch.setenv("HOME", home)
    status, output = report()
    assert status == 0 and "stand-in: “The Brass Yard” (data/voyage.txt)" in output


def test_the_reason_of_a_stand_in_is_the_one_that_the_notebooks_name(report, offline):
    status, output = report()
    assert status == 0 and output.count("because COURSE_OFFLINE is set") == 3
    assert "For the real files unset COURSE_OFFLINE, or set COURSE_ASSETS" in " ".join(output.split())
