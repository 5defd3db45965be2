"""The frame around the lessons: publishing, the setup cell, running and folding, requirements, what is committed."""
import ast
import glob
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts import fold_notebooks, publish, run_notebooks
from scripts.notebooks import ROOT

SETUP_CELL = (ROOT / "scripts" / "setup_cell.py").read_text(encoding="utf-8")
NEW = "https://github.com/me/my-copy"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


# --- publishing ------------------------------------------------------------------------------------------------------

def write_notebook(path, *cells):
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def copy(tmp_path):
    """A small course folder under the placeholder address, with one notebook."""
    for name in ("pyproject.toml", "CITATION.cff", "scripts/setup_cell.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = (ROOT / name).read_text(encoding="utf-8").replace(publish.recorded_address(ROOT), publish.PLACEHOLDER)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "README.md").write_text(
        f"git clone {publish.PLACEHOLDER}\n{publish.PLACEHOLDER}/issues\nhttps://github.com/karpathy/nanoGPT\n"
        "https://colab.research.google.com/github/OWNER/gpt2-from-the-inside/blob/main/notebooks/02_x.ipynb\n")
    (tmp_path / "notebooks").mkdir()
    badge = publish.BADGE.format("OWNER/gpt2-from-the-inside", "02_x")
    setup = nbformat.v4.new_code_cell("old", id="setup")
    write_notebook(tmp_path / "notebooks" / "02_x.ipynb", nbformat.v4.new_markdown_cell(f"[Colab]({badge}) α"), setup)
    publish.main([], root=tmp_path)
    return tmp_path


def test_this_course_agrees_with_its_address(capsys):
    assert publish.main(["--check"]) == 0, capsys.readouterr()


def test_publish_writes_the_address_everywhere(copy, capsys):
    assert publish.main(["--check"], root=copy) == 0
    assert "placeholder" in capsys.readouterr().out
    assert publish.main([NEW + ".git/"], root=copy) == 0
    assert publish.recorded_address(copy) == NEW
    notebook = nbformat.read(copy / "notebooks" / "02_x.ipynb", as_version=4)
    assert notebook.cells[0].source == f"[Colab]({publish.BADGE.format('me/my-copy', '02_x')}) α"
    assert notebook.cells[1].source == SETUP_CELL.strip().replace(publish.PLACEHOLDER, NEW)
    readme = (copy / "README.md").read_text()
    assert f"git clone {NEW}\n{NEW}/issues\nhttps://github.com/karpathy/nanoGPT\n" in readme
    assert f'repository-code: "{NEW}"' in (copy / "CITATION.cff").read_text()
    assert not any("/OWNER/" in (copy / name).read_text(encoding="utf-8") for name in ("README.md", "pyproject.toml"))
    capsys.readouterr()
    assert publish.main(["--check"], root=copy) == 0
    assert "placeholder" not in capsys.readouterr().out


@pytest.mark.parametrize("name, old, new", [
    ("README.md", "github/OWNER/", "github/somebody/"),
    ("README.md", "git clone https://github.com/OWNER", "git clone https://github.com/somebody"),
    ("CITATION.cff", "github.com/OWNER", "github.com/somebody"),
    ("notebooks/02_x.ipynb", "runtime.describe()", "runtime.describe() "),
    ("notebooks/02_x.ipynb", "github/OWNER/", "github/somebody/"),
    ("notebooks/02_x.ipynb", "02_x.ipynb", "03_y.ipynb"),
    ("notebooks/02_x.ipynb", '"id": "setup"', '"id": "other"'),
])
def test_check_notices_what_disagrees(copy, name, old, new):
    text = (copy / name).read_text(encoding="utf-8")
    assert old in text
    (copy / name).write_text(text.replace(old, new), encoding="utf-8")
    assert publish.main(["--check"], root=copy) == 1
    assert (copy / name).read_text(encoding="utf-8") == text.replace(old, new), "--check must not write"


@pytest.mark.parametrize("address", ["gpt2", "https://gitlab.com/me/x", "https://github.com/me", "https://github.com/me/x/tree/y"])
def test_publish_refuses_what_is_no_github_address(copy, address, capsys):
    assert publish.main([address], root=copy) == 1
    assert "expected https://github.com/owner/name" in capsys.readouterr().err
    assert publish.recorded_address(copy) == publish.PLACEHOLDER


# --- the setup cell --------------------------------------------------------------------------------------------------

def make_course(folder):
    (folder / "helpers" / "machine").mkdir(parents=True)
    for name in ("__init__.py", "model.py", "machine/__init__.py"):
        (folder / "helpers" / name).touch()
    (folder / "helpers" / "machine" / "runtime.py").write_text(
        "from pathlib import Path\ndef describe():\n    print('course:', Path(__file__).resolve().parents[2])\n")
    return folder.resolve()


def zip_course(course, archive, top="", more=()):
    """A zip file of a course, with its folder named `top`, and with more (name, content) pairs."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in (course / "helpers").rglob("*.py"):
            file.write(path, top + path.relative_to(course).as_posix())
        for name, content in more:
            file.writestr(name, content)


def run_setup_cell(cwd, content=None, address=publish.PLACEHOLDER, absent=(), pip_status=0, before=""):
    """Run the cell in a fresh Python in `cwd`. `content` stands for /content; `absent` packages look not installed;
    `before` is code that runs first."""
    cwd.mkdir(exist_ok=True)
    prelude = f"""
import importlib.util, subprocess, sys
find_spec, run = importlib.util.find_spec, subprocess.run
importlib.util.find_spec = lambda name, *rest: None if name in {absent!r} else find_spec(name, *rest)
def fake_run(command, **options):
    if "pip" not in command:
        return run(command, **options)
    print("pip:", *command[command.index("pip") + 1:])
    return subprocess.CompletedProcess(command, {pip_status})
subprocess.run = fake_run
"""
    assert SETUP_CELL.count('Path("/content")') == SETUP_CELL.count('Path("/content/drive/MyDrive")') == 1
    content = content or cwd / "no_such_folder"
    cell = SETUP_CELL.replace(publish.PLACEHOLDER, address)
    cell = cell.replace('Path("/content")', f"Path({str(content)!r})")
    cell = cell.replace('Path("/content/drive/MyDrive")', f"Path({str(content / 'drive' / 'MyDrive')!r})")
    command = [sys.executable, "-c", before + prelude + cell]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def assert_found(result, course):
    assert result.returncode == 0, result.stderr
    assert f"course: {course}" in result.stdout


def assert_says(result, *sentences):
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for sentence in sentences:
        assert sentence in result.stderr


def test_setup_works_in_the_course_and_in_its_notebooks(tmp_path):
    course = make_course(tmp_path / "course")
    assert_found(run_setup_cell(course), course)
    assert_found(run_setup_cell(course / "notebooks"), course)


@pytest.mark.parametrize("place", ["gpt2", "gpt2/gpt2-main", "drive/MyDrive/gpt2", "drive/MyDrive/lessons/gpt2"])
def test_setup_finds_an_uploaded_folder_and_a_mounted_drive(tmp_path, place):
    course = make_course(tmp_path / "content" / place)
    assert_found(run_setup_cell(tmp_path / "elsewhere", content=tmp_path / "content"), course)


@pytest.mark.parametrize("top", ["", "gpt2-main/"])
@pytest.mark.parametrize("place", ["cwd", "content"])
def test_setup_unpacks_an_uploaded_zip_once(tmp_path, place, top):
    course = make_course(tmp_path / "source")
    (tmp_path / place).mkdir()
    zip_course(course, tmp_path / place / "upload.zip", top)
    with zipfile.ZipFile(tmp_path / place / "another.zip", "w") as archive:
        archive.writestr("notes.txt", "no course")
    unpacked = (tmp_path / place / "upload" / top).resolve()
    assert_found(run_setup_cell(tmp_path / "cwd", content=tmp_path / "content"), unpacked)
    (unpacked / "helpers" / "mine.py").touch()
    (tmp_path / place / "upload.zip").unlink()
    assert_found(run_setup_cell(tmp_path / "cwd", content=tmp_path / "content"), unpacked)
    assert not (tmp_path / place / "another").exists()


def test_setup_says_what_to_do_when_nothing_is_there(tmp_path):
    (tmp_path / "half.zip").write_bytes(b"PK\x03\x04 an upload that broke off")
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w") as archive:
        archive.writestr("helpers/machine/runtime.py", "model = 5")
    content = (tmp_path / "damaged.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(content.replace(b"model = 5", b"model = 6"))
    result = run_setup_cell(tmp_path)
    assert_says(result, "has not been published yet", "Upload the course's folder, or a zip file")
    assert f"{tmp_path / 'half.zip'} is not used: File is not a zip file" in result.stdout
    assert f"{tmp_path / 'damaged.zip'} is not used: Bad CRC-32" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"half.zip", "damaged.zip"}


def make_strangers_project(folder):
    """What other projects have, too: helpers/model.py, data/ and scripts/."""
    for name in ("helpers/__init__.py", "helpers/model.py", "data/README.md", "scripts/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_setup_is_not_misled_by_another_projects_helpers(tmp_path):
    content = make_strangers_project(tmp_path / "content")
    make_strangers_project(content / "another")
    make_strangers_project(tmp_path / "around")
    course = make_course(content / "course")
    for cwd in (tmp_path / "around", tmp_path / "around" / "below"):
        assert_found(run_setup_cell(cwd, content=content), course)


def test_setup_leaves_another_projects_zip_alone_and_takes_the_next(tmp_path):
    content = make_strangers_project(tmp_path / "content")
    zip_course(content, content / "another.zip")
    zip_course(make_course(tmp_path / "source"), content / "course.zip")
    for newest in ("course.zip", "another.zip"):
        os.utime(content / newest)
    assert_found(run_setup_cell(tmp_path / "cwd", content=content), (content / "course").resolve())
    assert not (content / "another").exists()


def test_setup_refuses_a_zip_bomb_unread_and_takes_the_next(tmp_path):
    course = make_course(tmp_path / "source")
    zip_course(course, tmp_path / "cwd.zip")
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd.zip").rename(tmp_path / "cwd" / "course.zip")
    with zipfile.ZipFile(tmp_path / "cwd" / "bomb.zip", "w") as archive:
        archive.writestr("helpers/machine/runtime.py", "")
        archive.writestr("helpers/bomb", "0")
        archive.infolist()[-1].file_size = 3_000_000_000
    result = run_setup_cell(tmp_path / "cwd")
    assert_found(result, tmp_path.resolve() / "cwd" / "course")
    assert "bomb.zip is not used: It unpacks to more than 2 GB. Zip the course without" in result.stdout
    assert {path.name for path in (tmp_path / "cwd").iterdir()} == {"bomb.zip", "course.zip", "course"}


def test_setup_unpacks_nothing_outside_and_overwrites_nothing(tmp_path):
    course, cwd = make_course(tmp_path / "source"), tmp_path / "cwd"
    (cwd / "course").mkdir(parents=True)
    (cwd / "course" / "mine.txt").write_text("mine")
    more = [(name, "evil") for name in ("../mine.txt", "../../evil.txt", "/evil.txt", "course/mine.txt")]
    zip_course(course, cwd / "course.zip", more=more)
    assert_found(run_setup_cell(cwd), cwd.resolve() / "course.course")
    assert (cwd / "course" / "mine.txt").read_text() == "mine"
    evil = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.txt") if path.read_text() == "evil"}
    assert evil == {("cwd", "course.course")} and not os.path.exists("/evil.txt")


def test_setup_takes_the_newest_of_several_copies(tmp_path):
    copies = [make_course(tmp_path / "content" / name) for name in ("a", "b", "c")]
    for time, copy in enumerate((copies[0], copies[2], copies[1])):
        os.utime(copy / "helpers" / "machine" / "runtime.py", (time, time))
    assert_found(run_setup_cell(tmp_path / "cwd", content=tmp_path / "content"), copies[1])


@pytest.mark.parametrize("name", ["helpers.py", "helpers/__init__.py", "helpers/machine/__init__.py"])
def test_setup_replaces_another_package_of_that_name_that_is_loaded(tmp_path, name):
    other = tmp_path / "other" / name
    other.parent.mkdir(parents=True)
    other.touch()
    modules = "helpers.machine" if "machine" in name else "helpers"
    before = f"import sys; sys.path.insert(0, {str(tmp_path / 'other')!r}); import {modules}\n"
    course = make_course(tmp_path / "course")
    assert_found(run_setup_cell(course, before=before), course)


@needs_git
def test_setup_clones_a_published_course(tmp_path):
    source = make_course(tmp_path / "origin")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "course"]):
        subprocess.run(["git", *command], cwd=source, check=True)
    assert_found(run_setup_cell(tmp_path / "cwd", address=source.as_uri()), tmp_path.resolve() / "cwd" / "course")


@needs_git
def test_setup_says_what_to_do_when_the_clone_fails(tmp_path):
    result = run_setup_cell(tmp_path, address="https://127.0.0.1:9/me/my-copy")
    assert_says(result, "Is there an internet connection?", "Upload the course's folder, or a zip file of it")


def test_setup_installs_only_what_is_missing(tmp_path):
    course = make_course(tmp_path / "course")
    result = run_setup_cell(course, absent=("torchinfo", "pooch"))
    assert_found(result, course)
    assert "pip: install --quiet torchinfo pooch\n" in result.stdout
    assert "pip:" not in run_setup_cell(course).stdout
    offline = run_setup_cell(course, absent=("torchinfo",), pip_status=1)
    assert_found(offline, course)  # most cells need no torchinfo
    assert "pip could not install torchinfo. Cells that need it will stop" in offline.stdout


@pytest.mark.parametrize("package", ["torch", "numpy", "transformers"])
def test_setup_never_installs_the_large_packages(tmp_path, package):
    result = run_setup_cell(make_course(tmp_path / "course"), absent=(package, "torchinfo"))
    assert_says(result, f"Not installed: {package}", "pip install -r requirements.txt -c constraints.txt")
    assert "pip:" not in result.stdout


# --- running notebooks -----------------------------------------------------------------------------------------------

def test_run_notebooks_goes_on_after_a_failure(tmp_path, capsys):
    code = nbformat.v4.new_code_cell
    bad = write_notebook(tmp_path / "01_bad.ipynb", code("print('before')"), code("1 / 0"), code("print('after')"))
    good = write_notebook(tmp_path / "02_good.ipynb", code("import sys; print(sys.prefix)"))
    sources = bad.read_bytes(), good.read_bytes()
    assert run_notebooks.main([str(bad), str(good), "--build", str(tmp_path / "build")]) == 1
    assert (bad.read_bytes(), good.read_bytes()) == sources
    printed = capsys.readouterr().out
    assert "cell 2: ZeroDivisionError: division by zero" in printed
    assert re.search(r"01_bad\.ipynb +\d+ s  FAILED\n02_good\.ipynb +\d+ s  ok", printed)
    partial = nbformat.read(tmp_path / "build" / "01_bad.ipynb", as_version=4)
    assert partial.cells[0].outputs[0].text == "before\n" and not partial.cells[2].outputs
    executed = nbformat.read(tmp_path / "build" / "02_good.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == sys.prefix + "\n"
    assert sys.prefix in (tmp_path / "build" / "02_good.html").read_text(encoding="utf-8")


def test_run_notebooks_uses_this_python_whatever_the_user_has_installed(tmp_path):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    kernel.joinpath("kernel.json").write_text(json.dumps(
        {"argv": [sys.executable, "-c", "raise SystemExit(1)"], "display_name": "x", "language": "python"}))
    path = write_notebook(tmp_path / "01_x.ipynb", nbformat.v4.new_code_cell("print('ran')"))
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "0", "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}
    environment.pop("JUPYTER_PATH", None)
    command = [sys.executable, "-m", "scripts.run_notebooks", str(path), "--in-place"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout


def test_run_notebooks_names_a_kernel_that_does_not_start(tmp_path, monkeypatch, capsys):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    kernel.joinpath("kernel.json").write_text(json.dumps(
        {"argv": [sys.executable, "-c", "import time; time.sleep(30)"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setattr(run_notebooks, "STARTUP", 1)
    path = write_notebook(tmp_path / "01_x.ipynb", nbformat.v4.new_code_cell("1"))
    assert run_notebooks.main([str(path), "--build", str(tmp_path / "build")]) == 1
    assert "FAILED in the first cell: no kernel: Kernel didn't respond in 1 seconds" in capsys.readouterr().out


def test_run_in_place_twice_gives_the_same_bytes(tmp_path):
    code = nbformat.v4.new_code_cell
    path = write_notebook(
        tmp_path / "01_x.ipynb", code("import sys, time\nfrom tqdm import tqdm\nfrom tqdm.auto import tqdm as auto"),
        code("for _ in tqdm(range(3)):\n    time.sleep(0.1); print('step', flush=True)\nfor _ in auto(range(3)): pass\n"
             "print('a warning', file=sys.stderr)"))
    identity = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    assert run_notebooks.main([str(path), "--in-place"]) == 0
    first = path.read_bytes()
    assert run_notebooks.main([str(path), "--in-place"]) == 0
    assert path.read_bytes() == first
    notebook = nbformat.read(path, as_version=4)
    assert [cell.id for cell in notebook.cells] == identity
    outputs = {output.name: output.text for output in notebook.cells[1].outputs}
    assert outputs == {"stdout": "step\n" * 3, "stderr": "a warning\n"}
    assert not {"widgets", "execution"} & {*notebook.metadata, *notebook.cells[1].metadata}
    assert notebook.metadata.kernelspec.name == "python3"


def test_a_failure_in_place_leaves_the_notebook_as_it_was(tmp_path):
    path = write_notebook(tmp_path / "01_bad.ipynb", nbformat.v4.new_code_cell("print('x'); 1 / 0"))
    source = path.read_bytes()
    assert run_notebooks.main([str(path), "--in-place", "--build", str(tmp_path / "build")]) == 1
    assert path.read_bytes() == source and (tmp_path / "build" / "01_bad.ipynb").exists()


# --- folding ----------------------------------------------------------------------------------------------------------

def test_folding_marks_hidden_code_and_the_answers_to_a_prediction():
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    output = [nbformat.v4.new_output("stream", text="7")]
    notebook = nbformat.v4.new_notebook(cells=[
        code("", id="setup", outputs=output), text("| **Predict first.** | Stop and think. |", id="conventions"),
        code("", id="table", outputs=output), text("Words.\n\n**Predict first.** How many?", id="question"),
        code("", id="prepare"), code("", id="count", outputs=output, metadata={"tags": ["hide-input"]}),
        code("", id="draw", outputs=output), text("**What you should see.**", id="see"),
        code("", id="after", outputs=output, metadata={"jupyter": {"outputs_hidden": True}, "tags": ["hide-input"]}),
        text("And now **Predict first:** more or less?", id="again"), code("", id="more", outputs=output)])
    fold_notebooks.fold(notebook)
    nbformat.validate(notebook)
    assert {cell.id: cell.metadata["jupyter"] for cell in notebook.cells if "jupyter" in cell.metadata} == {
        "setup": {"source_hidden": True}, "count": {"outputs_hidden": True}, "draw": {"outputs_hidden": True},
        "after": {"source_hidden": True}, "more": {"outputs_hidden": True}}


def test_the_command_folds_without_running(tmp_path, capsys):
    hidden = nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["hide-input"]})
    path = write_notebook(tmp_path / "01_x.ipynb", hidden)
    assert fold_notebooks.main([str(path)]) == 0 and "01_x.ipynb" in capsys.readouterr().out
    assert nbformat.read(path, as_version=4).cells[0].metadata.jupyter == {"source_hidden": True}
    assert fold_notebooks.main([str(path)]) == 0 and not capsys.readouterr().out


# --- requirements and commands ---------------------------------------------------------------------------------------

def read_requirements(name):
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line]
    return {re.sub(r"[-_.]+", "-", requirement.name).lower(): requirement for requirement in found}


def imported_packages(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_every_import_is_required():
    required, distributions = read_requirements("requirements.txt"), importlib.metadata.packages_distributions()
    own = {"benchmarks", "data", "helpers", "scripts", "tests", "conftest"} | set(sys.stdlib_module_names)
    absent = {}
    folders = ("benchmarks", "helpers", "scripts", "tests")
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for package in set(imported_packages(path.read_text(encoding="utf-8"))) - own:
            names = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions.get(package, [package])}
            if not names & set(required):
                absent[package] = path.name
    assert not absent, f"add to requirements.txt: {absent}"


def test_every_requirement_is_pinned_within_its_range():
    required, pinned = read_requirements("requirements.txt"), read_requirements("constraints.txt")
    for name, requirement in required.items():
        assert name in pinned, f"constraints.txt lacks {name}"
        (pin,) = pinned[name].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), (str(requirement), str(pin))
    assert not any(Version(pin.version).local for requirement in pinned.values() for pin in requirement.specifier)


def test_torch_is_capped_right_after_the_tested_version():
    cap = [spec.version for spec in read_requirements("requirements.txt")["torch"].specifier if spec.operator == "<"]
    (pin,) = read_requirements("constraints.txt")["torch"].specifier
    tested = Version(pin.version)
    assert cap == [f"{tested.major}.{tested.minor + 1}"]


def test_every_place_names_the_same_versions_of_python():
    """pyproject.toml's range is the one that is promised, checked, tested and reported."""
    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in (
        "pyproject.toml", "Makefile", "README.md", "CONTRIBUTING.md", "docs/questions.md", "constraints.txt",
        "helpers/machine/environment.py", ".github/workflows/test.yml", ".github/workflows/weekly.yml")}
    (first, cap), = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text["pyproject.toml"])
    *others, last = [f"3.{minor}" for minor in range(int(first), int(cap))]
    all_of_them = f"Python {', '.join(others)} or {last}"
    for name in ("README.md", "CONTRIBUTING.md", "docs/questions.md", "Makefile", "helpers/machine/environment.py"):
        assert all_of_them in text[name], f"{name} must name {all_of_them}"
    assert f"(3, {first}) <= sys.version_info < (3, {cap})" in text["Makefile"]
    assert f"version_info < (3, {first})" in text["helpers/machine/environment.py"]
    assert f"version_info >= (3, {cap})" in text["helpers/machine/environment.py"]
    assert f"install Python {last}" in text["helpers/machine/environment.py"]
    assert f'python: ["{others[0]}", "{last}"]' in text[".github/workflows/test.yml"]
    assert f"wheels for Python {others[0]} and {last}" in text["constraints.txt"]
    pinned = re.findall(r'name: ([\d.]+)-pinned, python: "([\d.]+)"', text[".github/workflows/weekly.yml"])
    assert pinned == [(version, version) for version in (*others, last)]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_which_python_it_needs(tmp_path):
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 15, 0)\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(["make", "install", f"PYTHON={sys.executable}"], cwd=tmp_path, env=environment,
                            capture_output=True, text=True, timeout=60)
    assert result.returncode and not (tmp_path / ".venv").exists()
    assert "This is Python 3.15. The course needs Python 3.11" in result.stderr and "make PYTHON=" in result.stderr


def test_make_and_the_workflow_run_the_same_tests():
    command = "-m pytest tests notebooks --nbmake -n logical"
    assert command in (ROOT / "Makefile").read_text() and command in (ROOT / ".github/workflows/test.yml").read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no sockets that are files")
def test_kernels_of_notebooks_under_test_open_no_ports():
    """Of eight kernels that start together, two have chosen the same port in 5 of 100 cases, and one of them dies."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "from ipykernel.kernelapp import IPKernelApp\napp = IPKernelApp.instance()\nprint(app.transport, app.ip)")])
    assert run_notebooks.execute(notebook, ROOT) is None
    transport, address = notebook.cells[0].outputs[0].text.split()
    assert transport == "ipc" and os.path.isabs(address)
    assert not glob.glob(f"{address}-*"), "the files must go with the kernel"


# --- what is committed -----------------------------------------------------------------------------------------------

# In pieces, so that this file does not contain what it looks for.
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "download." + "pytorch.org"]
PATHS = [r"/(?:work|root|home|Users)/" + r"[\w.-]+", r"C:\\{1,2}" + "Users", "ipykernel_" + r"\d"]


def leaks(text):
    """Package registries' hosts and paths of somebody's machine in `text`."""
    return re.findall("|".join(f"(?:{pattern})" for pattern in [re.escape(host) for host in HOSTS] + PATHS), text)


def test_leaks_are_seen():
    assert leaks("see https://" + HOSTS[0] + "/simple") and leaks("File /ro" + "ot/course/x.py")
    assert not leaks("at home/work, in /content/drive and https://pytorch.org/get-started/locally")


@needs_git
def test_no_registry_host_and_no_machine_path_is_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.split("\0")
    assert "tests/project/test_frame.py" in listed
    found = {}
    for name in filter(None, listed):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content and (seen := leaks(content.decode("utf-8", errors="replace"))):
            found[name] = sorted(set(seen))
    assert not found
