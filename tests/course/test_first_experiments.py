"""The first edition of the experiments: every arm runs, records are complete, a stopped program continues."""

import json
import math
from dataclasses import replace

import pytest

from helpers import corpus, training
from helpers.course import first_experiments as experiments, recipes
from helpers.course.first_experiments import ARMS
from helpers.machine import checkpoints


@pytest.fixture(scope="module")
def book():
    return corpus.load_text("data/voyage.txt", "course", title="a short book")


@pytest.fixture
def quick(monkeypatch, book):
    """A tiny model, two steps, and a short text instead of the book."""
    recipe = experiments.RECIPES["smoke"]
    config = replace(recipe.training, steps=2, eval_every=1, eval_tokens=64, context=16, batch_size=2)
    monkeypatch.setitem(experiments.RECIPES, "smoke", recipes.Recipe("course", replace(recipe.model, n_embd=8), config))
    monkeypatch.setattr(corpus, "load_gulliver", lambda tokenizer: book)
    monkeypatch.setattr(experiments, "sample_pages", lambda *arguments: None)
    monkeypatch.setattr(experiments, "text_quality", lambda *arguments: {"known words": 0.5})


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_runs(name, quick, book):
    results = experiments.run(ARMS[name], book, "smoke", 0)
    json.dumps(results)
    assert math.isfinite(results["final"]) and len(results["test_step"]) == len(results["test_loss"]) >= 2
    assert results["passes"] > 0 and ("quality" in results) == ("train_tokens" in results)


def test_records_are_resumed_and_outdated_settings_do_not_count(quick, tmp_path, monkeypatch, capsys):
    names = ["base", "untied"]
    experiments.record(names, "smoke", (0,), folder=tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 2
    before = (tmp_path / "smoke" / "base.json").read_text()
    experiments.record(names, "smoke", (0, 1), folder=tmp_path)
    output = capsys.readouterr().out
    assert "1/2 base, seed 1" in output and "2/2 untied, seed 1" in output
    records = experiments.load_records("smoke", tmp_path)
    assert list(records) == names and list(records["base"]["runs"]) == ["0", "1"]
    assert records["base"]["runs"]["0"] == json.loads(before)["runs"]["0"] != records["base"]["runs"]["1"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]

    monkeypatch.setitem(ARMS, "base", replace(ARMS["base"], training={"learning_rate": 1e-4}))
    assert experiments.main(["--list", "--arms", *names, "--size", "smoke", "--folder", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "recorded: none" in listed[0] and "recorded: 0, 1" in listed[1]


def test_the_stand_in_never_replaces_the_book(book):
    real, stand_in = (experiments.record_path("base", "smoke", replace(book, is_stand_in=is_stand_in))
                      for is_stand_in in (False, True))
    assert real.parent != stand_in.parent and real.name == stand_in.name


def test_an_interrupted_run_is_not_recorded(quick, book, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *arguments, **options: checkpoints.History(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        experiments.run(ARMS["base"], book, "smoke", 0)


def test_the_record_files_are_small_and_complete():
    for path in experiments.FOLDER.rglob("*.json"):
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert saved["arm"] in ARMS and saved["what"] == ARMS[saved["arm"]].what and saved["runs"]
        assert path.stat().st_size < 20_000


def test_every_arm_is_recorded_with_all_seeds():  # as notebook 09 expects; run `make experiments` after adding an arm
    records = experiments.load_records()
    assert list(records) == list(ARMS)
    assert all(set(record["runs"]) >= set(map(str, experiments.SEEDS)) for record in records.values())


