"""An imitation of Colab, in which the setup cell must make the course importable and must change nothing else.

torch and transformers are the installed ones, but they report Colab's versions. A real torch 2.11 would be gigabytes,
and the tests are about what the cell does: it finds the course, and asks pip only for what is missing. ipywidgets 7.7.1
and torchinfo are really installed, from a package registry, if one can be reached.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import torch
import transformers

from helpers.machine import assets
from scripts import publish

pytestmark = pytest.mark.slow
VERSIONS = {"torch": "2.11.0+cpu", "transformers": "5.15.0"}
WIDGETS = ["ipywidgets==7.7.1", "ipython_genutils==0.2.0"]
SITE = Path(torch.__file__).parents[1]
HIDDEN = {"torchinfo", "ipywidgets", "widgetsnbextension", "jupyterlab_widgets", "pip", "__pycache__", *VERSIONS}
FAKE_PIP = '''
import json, os, pathlib, subprocess, sys
arguments, site = sys.argv[1:], pathlib.Path(__file__).parents[1]
with open(os.environ["PIP_CALLS"], "a", encoding="utf-8") as file:
    file.write(json.dumps(arguments) + "\\n")
real = {**os.environ, "PYTHONPATH": os.environ["REAL_PIP"], "PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "5"}
done = subprocess.run([sys.executable, "-m", "pip", *arguments], env=real)
if done.returncode:  # no registry can be reached: link to what is installed in the tests' own environment
    for name in arguments:
        for path in pathlib.Path(os.environ["OUTER_SITE"]).glob(name.replace("-", "_") + "*"):
            (site / path.name).symlink_to(path)
'''
AFTERWARDS = '''
import importlib, importlib.metadata, json, pathlib, sys
import google.colab, helpers, torch, transformers, numpy
root = pathlib.Path(helpers.__file__).resolve().parents[1]
for path in sorted((root / "helpers").rglob("*.py")):
    importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
from helpers import corpus, generation
from helpers.model import GPT, GPTConfig
model = GPT(GPTConfig(vocab_size=4096, n_positions=16, n_embd=8, n_layer=1, n_head=1))
text = corpus.load_tokenizer("course").encode("The Brass Yard")
print(json.dumps({
    "course": str(root),
    "length": generation.generate(model, text[None], 3).shape[1] - len(text),
    "reported": {package.__name__: package.__version__ for package in (torch, transformers, numpy)},
    "recorded": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
}))
'''


def under_version(name, site):
    """Links a package of SITE into `site`, file by file, so that it reports and records another version."""
    package, version = Path(sys.modules[name].__file__).parent, VERSIONS[name]
    version_file = {"torch": "version.py", "transformers": "__init__.py"}[name]
    (site / name).mkdir()
    for path in package.iterdir():
        if path.name not in (version_file, "__pycache__"):
            (site / name / path.name).symlink_to(path)
    text = (package / version_file).read_text(encoding="utf-8")
    text, changes = re.subn(r"(?m)^(__version__ = ).*", rf"\1{version!r}", text)
    assert changes == 1
    (site / name / version_file).write_text(text, encoding="utf-8")
    record = site / f"{name}-{version}.dist-info"
    record.mkdir()
    text = metadata.distribution(name).read_text("METADATA")
    text = re.sub(r"(?m)^Version: .*", f"Version: {version}", text, count=1)
    (record / "METADATA").write_text(text, encoding="utf-8")
    (record / "RECORD").touch()


def make_environment(folder):
    """Colab's Python with its packages, and a pip that records its calls. Returns (its Python, its site-packages)."""
    venv.create(folder / "env", with_pip=False)
    where = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = Path(sysconfig.get_path("purelib", "venv", where))
    try:
        for path in SITE.iterdir():
            if path.name.partition("-")[0] not in HIDDEN and path.suffix != ".pth":
                (site / path.name).symlink_to(path)
        for name in VERSIONS:
            under_version(name, site)
        (folder / "real_pip").mkdir()
        (folder / "real_pip" / "pip").symlink_to(Path(importlib.util.find_spec("pip").origin).parent)
    except (OSError, NotImplementedError) as error:
        pytest.skip(f"this system makes no symbolic links: {error}")
    for name, text in {"pip/__init__.py": "", "pip/__main__.py": FAKE_PIP, "google/colab/__init__.py": ""}.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    python = "python.exe" if sys.platform == "win32" else "python"
    return Path(sysconfig.get_path("scripts", "venv", where), python), site


def make_repository(folder):
    """A git repository with what the setup cell needs of the course."""
    for name in ("helpers", "data"):
        shutil.copytree(assets.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache"))
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "course"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def write_cell(folder, address):
    """The setup cell with another address of the course, as cell.py, and with AFTERWARDS as cell_and_more.py."""
    first = sorted((assets.ROOT / "notebooks").glob("01_*.ipynb"))[0]
    (cell,) = [cell.source for cell in nbformat.read(first, 4).cells if cell.get("id") == "setup"]
    cell = cell.replace(publish.recorded_address(assets.ROOT), address)
    assert address in cell
    (folder / "cell.py").write_text(cell, encoding="utf-8")
    (folder / "cell_and_more.py").write_text(cell + AFTERWARDS, encoding="utf-8")


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """Colab with its folder content/ and a repository of the course: (folder, site-packages, run, calls of pip)."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("colab")
    python, site = make_environment(folder)
    write_cell(folder, make_repository(folder / "origin").as_uri())
    (folder / "content").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COURSE_"))}
    environment |= {"PIP_CALLS": str(folder / "calls"), "REAL_PIP": str(folder / "real_pip"), "OUTER_SITE": str(SITE),
                    "COLAB_RELEASE_TAG": "release-colab", "OMP_NUM_THREADS": "1",
                    "COURSE_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command):
        options = {"cwd": folder / "content", "env": environment, "capture_output": True, "text": True}
        return subprocess.run([python, *command], **options)

    def calls():
        path = folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return folder, site, run, calls


def contents(site):
    """{path: time of its last change} of every file and link."""
    times = {}
    for folder, below, files in os.walk(site):
        below[:] = set(below) - {"__pycache__"}
        paths = [Path(folder, name) for name in (*files, *below)]
        times |= {path.relative_to(site).as_posix(): path.lstat().st_mtime_ns for path in paths
                  if path.is_symlink() or path.is_file()}
    return times


def test_the_setup_cell_makes_the_course_importable_and_leaves_colab_as_it_was(colab):
    folder, site, run, calls = colab
    before = contents(site)
    done = run(str(folder / "cell_and_more.py"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"Ready: .*torch 2\.11\.0\+cpu", done.stdout)
    results = json.loads(done.stdout.splitlines()[-1])
    assert Path(results["course"]) == (folder / "content" / "course").resolve() and results["length"] == 3
    numpy = metadata.version("numpy")
    assert results["reported"] == {**VERSIONS, "numpy": numpy} == results["recorded"]

    assert calls() == [["install", "--quiet", "torchinfo"]], "the cell must ask only for what is missing"
    after = contents(site)
    assert after.items() >= before.items(), "something that Colab had was changed"
    assert all(name.startswith("torchinfo") for name in after.keys() - before.keys())
    assert transformers.__version__ == metadata.version("transformers") != VERSIONS["transformers"]

    again = run(str(folder / "cell.py"))
    assert again.returncode == 0 and len(calls()) == 1 and contents(site) == after, "a second run changes nothing"


def test_progress_bars_work_with_colabs_widgets(colab):
    """tqdm.auto draws with ipywidgets in a notebook. The course itself needs none."""
    folder, site, run, _ = colab
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "widgets")]
    environment = {**os.environ, "PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "5"}
    done = subprocess.run([*command, *WIDGETS], env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package registry can be reached: {done.stderr.strip().splitlines()[-1]}")
    for path in (folder / "widgets").iterdir():
        shutil.move(path, site / path.name)
    code = ("import ipywidgets, tqdm.auto, tqdm.notebook; print(ipywidgets.__version__)\n"
            "for bar in (tqdm.auto.tqdm, tqdm.notebook.tqdm): print(list(bar(range(3))))")
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7.7.1") and done.stdout.count("[0, 1, 2]") == 2
