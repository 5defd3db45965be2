"""Environment variables as people really write them."""

import re

import pytest

from helpers.course import progress
from helpers.machine import assets, runtime
from helpers.machine.variables import OWN, is_on, setting


@pytest.mark.parametrize("written", ["smoke", "smoke ", " smoke", '"smoke"', "'smoke'", '" smoke "', "Smoke", "SMOKE"])
def test_spaces_quotation_marks_and_capitals_do_not_matter(monkeypatch, written):
    monkeypatch.setenv("COURSE_SIZE", written)
    assert runtime.run_size() == "smoke"
    monkeypatch.setenv("COURSE_DEVICE", written.lower().replace("smoke", "cpu"))
    assert runtime.best_device().type == "cpu"


@pytest.mark.parametrize("empty", ["", " ", '""', "''"])
def test_an_empty_variable_is_one_that_is_not_set(monkeypatch, empty):
    for name in OWN:
        monkeypatch.setenv(name, empty)
    assert assets.assets_folder() is None and assets.cache_folder() == (assets.DATA / "cache").resolve()
    assert runtime.run_size() in runtime.RUN_SIZES and runtime.best_device()
    assert progress.path().name == progress.FILE


def test_folders_in_quotation_marks_are_found(monkeypatch, tmp_path):
    for name in ("COURSE_ASSETS", "COURSE_CACHE", "COURSE_PROGRESS"):
        monkeypatch.setenv(name, f'"{tmp_path}" ')
    assert assets.assets_folder() == assets.cache_folder() == progress.path() == tmp_path


@pytest.mark.parametrize("written, expected", [("1", True), ("true", True), ("yes", True), (" 1", True), ("0", False),
                                               ("false", False), ("OFF", False), ("no", False), ("", False)])
def test_a_switch_is_on_or_off(monkeypatch, written, expected):
    monkeypatch.setenv("COURSE_OFFLINE", written)
    assert is_on("COURSE_OFFLINE") is expected


def test_an_apostrophe_inside_a_value_stays(monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "Ann's cache")
    assert setting("COURSE_CACHE") == "Ann's cache"


def test_the_table_of_variables_is_that_of_the_code():
    """But for COURSE_FIGURE_SCALE, which only `make outputs` sets."""
    text = (assets.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(COURSE_\w+)` \|", text, re.MULTILINE) == list(OWN[:-1])
    sources = [path for folder in ("helpers", "scripts", "notebooks") for path in (assets.ROOT / folder).rglob("*.*")
               if path.suffix in (".py", ".ipynb")]
    used = {name for path in sources for name in re.findall(r"\bCOURSE_[A-Z_]+", path.read_text(encoding="utf-8"))}
    assert used == set(OWN)
