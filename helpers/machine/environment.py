"""Can the course run on this computer? `python -m helpers` reports what it has, and what to do about anything missing.

The exit status is 0 if it can (stand-ins are fine), and 1 if a line begins with FIX. Nothing is downloaded: the report
only asks whether hosts answer. Those who need it most have missing or broken packages. So only Python's standard
library is imported at the top, each check is independent, and none ends in a traceback.
"""

import contextlib
import importlib.metadata
import io
import os
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from unittest import mock

from helpers.machine.variables import OWN, is_on, setting

ROOT = Path(__file__).resolve().parents[2]
IN_NOTEBOOK = "ipykernel" in sys.modules
# Blocks of requirements.txt that no cell needs.
NOT_FOR_CELLS = ("# Notebooks", "# Slides", "# The website", "# The benchmark", "# Tests")


def _pip(*what):
    """The command that installs something with the Python that runs now."""
    if IN_NOTEBOOK:
        return " ".join(("%pip install", *what))
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return " ".join((python, "-m pip install", *what, "-c constraints.txt"))


def _requirements():
    """(requirement, whether a learner must have it) for each line of requirements.txt that is for this computer."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # pip brings a copy of its own
        Requirement = importlib.import_module("pip._vendor.packaging.requirements").Requirement
    for block in (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n\n"):
        for line in filter(None, (line.partition("#")[0].strip() for line in block.splitlines())):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                runs_cells = requirement.name == "ipykernel" and not IN_NOTEBOOK  # in a notebook, one runs already
                yield requirement, not block.startswith(NOT_FOR_CELLS) or runs_cells


def _problem(version, specifier):
    """What is wrong with a package's version, or "" if nothing is."""
    if version is None:
        return "missing"
    if specifier.contains(version, prereleases=True):
        return ""
    lowest = [one for one in specifier if one.operator == ">="]
    is_newer = all(one.contains(version, prereleases=True) for one in lowest)
    return f"{version} is newer than what was tested" if is_newer else f"{version} is too old"


def _python():
    mark, to_do, version = "ok", "", "{}.{}.{}".format(*sys.version_info[:3])
    if sys.version_info < (3, 11):
        mark, to_do = "FIX", "install Python 3.11, 3.12, 3.13 or 3.14"
    elif sys.version_info >= (3, 15):
        mark, to_do = "note", f"{version} is newer than what was tested: if something fails, install Python 3.14"
    yield mark, "Python", f"{version}, in {sys.prefix}", to_do


def _packages():
    installed, wrong, mark = {}, {}, "note"  # wrong: {requirement: what is wrong with it}
    for requirement, needed in _requirements():
        if IN_NOTEBOOK and not needed:  # a kernel runs, so Jupyter works; Colab's own versions of it stay
            continue
        name, version = requirement.name, None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = installed[name] = importlib.metadata.version(name)
        if problem := _problem(version, requirement.specifier):
            mark = "FIX" if needed and "newer" not in problem else mark
            wrong[f'"{name}{requirement.specifier}"'] = f"{name} {problem}"
    for name in ("torch", "transformers"):
        yield "ok" if name in installed else "FIX", name, installed.pop(name, "missing"), ""
    yield "ok", "other packages", ", ".join(map(" ".join, installed.items())) or "none", ""
    if wrong:
        yield mark, "packages", "; ".join(wrong.values()), _pip(*(wrong if len(wrong) < 6 else ["-r requirements.txt"]))


def _settings():
    for name in sorted(name for name in os.environ if name.startswith("COURSE_") and name not in OWN):
        yield "note", "settings", f"{name} is no setting of the course", f"one of {', '.join(OWN[:-1])}?"


def _machine():
    import torch

    from helpers.machine import limits, runtime

    runtime.use_allowed_threads()
    device, memory = runtime.best_device(), ""
    if device.type == "cuda":
        memory = "; {:.1f} of {:.1f} GiB free".format(*(size / 2**30 for size in torch.cuda.mem_get_info()))
    yield "ok", "device", runtime.device_name(device) + memory, ""
    if limit := limits.described():
        yield "note", "processors", f"this process {limit}: times scatter, and training takes longer", ""
    size, asked = runtime.run_size(), setting("COURSE_SIZE")
    gpu = f"this computer has {'a' if size == 'full' else 'no'} CUDA GPU with 12 GB or more"
    why = "COURSE_SIZE says so" if asked else gpu
    yield "ok", "run size", f"{size}, since {why}", ""


def _memory():
    import psutil

    from helpers.machine import limits

    available, total = limits.memory()
    text = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    is_limited = total < psutil.virtual_memory().total
    text += ", which is what this container may use" if is_limited else ""
    to_do = "give the container more memory" if is_limited else "close other programs"
    yield ("ok", "memory", text, "") if available > 4e9 else ("note", "memory", text, to_do)


def _files():
    from helpers.machine import assets

    names = [line.split()[1] for line in (assets.DATA / "SHA256SUMS").read_text(encoding="ascii").splitlines()]
    yield "ok", "course's files", f"{len([assets.bundled(name) for name in names])} in data/, all intact", ""


def _assets():
    from helpers.machine import assets, hosts

    cache, closed, stand_ins = assets.cache_folder(), "", False
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
        free = shutil.disk_usage(cache).free
        mark, to_do = ("ok", "") if free > 2e9 else ("note", "make room: GPT-2's weights are 0.55 GB")
        yield mark, "cache", f"{cache} can be written; {free / 2**30:.1f} GiB of disk free", to_do
    except OSError as error:
        closed = f"the cache cannot be written ({error.strerror})"
        yield "note", "cache", f"{cache}: {closed}", "set COURSE_CACHE to a folder that you can write to"
    for label, find, sources, size, instead in (
        ("book", assets.gulliver, hosts.HOSTS[:2], "0.6 MB", "“The Brass Yard” (data/voyage.txt)"),
        ("tokenizer", assets.gpt2_encoding_folder, hosts.HOSTS[2:3], "1.5 MB", "the course's (data/course.tiktoken)"),
        ("GPT-2 weights", assets.gpt2_weights, hosts.HOSTS[3:], "548 MB", "the course's GPT-2 (data/gpt2-course)"),
    ):
        path, damaged = _search(find)
        yield from (("note", label, line, "") for line in damaged)
        if path:
            yield "ok", label, path, ""
        elif not closed and (answering := [host for host in sources if host in assets.reachable_hosts()]):
            yield "ok", label, f"will be downloaded from {answering[0]} ({size}) when a notebook first needs it", ""
        else:
            stand_ins = True
            yield "note", label, f"stand-in: {instead}, because {closed or assets.why_not(sources[0])}", ""
    if (own_folder := assets.assets_folder()) and any(own_folder.glob("gpt2-small/attention*")):
        yield "", "", "COURSE_ASSETS/gpt2-small has GPT-2's attention weights only: no notebook can run them.", ""
    if stand_ins:
        connect = "unset COURSE_OFFLINE" if is_on("COURSE_OFFLINE") else "connect to the internet"
        yield "", "", (f"With a stand-in everything runs, but results differ. For the real files {connect}, "
                       "or set COURSE_ASSETS to a folder that has them (data/README.md)."), ""


def _search(find):
    """Where the course finds an asset (or ""), and the lines that it prints about damage. Nothing is downloaded."""
    from helpers.machine import assets

    printed = io.StringIO()  # of the course's own search and checks while no host answers
    silence = mock.patch.multiple(assets, reachable_hosts=frozenset, why_not=str, _say_once=str)
    with silence, contextlib.redirect_stdout(printed):
        try:
            asset = find()
        except assets.AssetUnavailable:
            asset = ""
    path = "" if getattr(asset, "is_stand_in", False) else str(getattr(asset, "path", asset))
    own_folder = str(assets.assets_folder() or "COURSE_ASSETS")
    path, *damaged = (line.replace(own_folder, "COURSE_ASSETS") for line in (path, *printed.getvalue().splitlines()))
    return path, damaged


def _rows():
    """(mark, label, text, what to do or "") for each line of the report."""
    broken = False
    for check in (_python, _packages, _settings, _machine, _memory, _files, _assets):
        name = check.__name__[1:]
        try:
            for row in check():
                broken = broken or row[0] == "FIX"
                yield row
        except ImportError as error:
            to_do = "" if broken or check is _memory else _pip("--force-reinstall", "-r requirements.txt")
            if error.name == "pip":  # nothing can be compared with requirements.txt, and nothing can be installed
                to_do = f"{sys.executable} -m ensurepip"
            yield "note" if check is _memory else "FIX", name, f"not checked: {error}", to_do
        except Exception as error:  # anything that a broken installation raises; the course's own errors say what to do
            yield "FIX", name, str(error) or type(error).__name__, ""


def report():
    """Prints the report. Returns the exit status: 0 when the course can run here, else 1 (notebook 00)."""
    status, home = 0, os.path.expanduser("~")  # "~" itself where no home is known, as in some containers
    for mark, label, *lines in _rows():
        status = 1 if mark == "FIX" else status
        text, to_do = (line.replace(f"{ROOT}{os.sep}", "").replace(f"{home}{os.sep}", f"~{os.sep}") for line in lines)
        print(textwrap.fill(text, 118, initial_indent=f"{mark:6}{label:16}", subsequent_indent=" " * 22,
                            break_long_words=False, break_on_hyphens=False))
        if to_do:
            print(f"{' ' * 22}-> {to_do}")
    print("Fix the lines that begin with FIX, from the top down, and run this again." if status else
          "The course can run here.")
    return status
