"""The experiment at full size, in small: what is recorded, and how a run continues after it was stopped."""

import json
import signal
from dataclasses import replace

import pytest

from helpers import corpus, training
from helpers.course import arms, full_size, recipes
from helpers.machine import checkpoints, kernels, timing


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A tiny model and a short text. Returns arguments for the command line, and where the record will be."""
    book = corpus.load_text("data/voyage.txt", "course", title="a short book")
    recipe = arms.RECIPES["smoke"]
    config = replace(recipe.training, steps=12, context=16, batch_size=2)
    monkeypatch.setitem(arms.RECIPES, "smoke", recipes.Recipe("course", replace(recipe.model, n_embd=8), config))
    monkeypatch.setattr(corpus, "load_gulliver", lambda tokenizer: book)
    monkeypatch.setattr(kernels, "fast_bf16", lambda device: 1.0)
    arguments = ["--size", "smoke", "--device", "cpu", "--every", "4", "--folder", str(tmp_path / "records"),
                 "--checkpoints", str(tmp_path / "checkpoints")]
    return arguments, timing.record_path("training", timing.origin("cpu"), tmp_path / "records")


def losses(path, name="course-0"):
    run = json.loads(path.read_text(encoding="utf-8"))["runs"][name]
    return run["train_loss"], run["test_step"], run["test_loss"]


def test_the_record_holds_losses_texts_times_and_rivals(folders):
    arguments, path = folders
    assert full_size.main([*arguments, "--runs", "course-0", "lectures-0"]) == 0
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["size"] == "smoke" and record["text"] == "a short book" and record["model"]["vocab_size"] == 4096
    assert set(record["baselines"]) == {"uniform", "unigram", "bigram"} and record["book"]["known words"] > 0.5
    assert set(record["runs"]) == {"course-0", "lectures-0"}
    for run in record["runs"].values():
        assert run["batches"] == len(run["train_loss"]) == len(run["seconds"]) == 12
        assert run["test_step"] == [text["step"] for text in run["texts"]] == [0, 4, 8, 12]
        assert len(run["test_loss"]) == len(run["bits_per_byte"]) == 4
        assert [step for step, seconds in enumerate(run["seconds"]) if seconds is None] == [4, 8], "after a checkpoint"
        assert all(text["text"] and 0 <= text["newlines"] <= 1 for text in run["texts"])
    assert record["runs"]["lectures-0"]["training"]["warmup_steps"] == 0


@pytest.fixture
def interrupted_at(monkeypatch):
    """interrupted_at(step): presses Ctrl-C in that step of the next run."""
    step, interrupt = training.train_step, {"at": None}

    def train_step(model, optimizer, scaler, x, y, rate, config, ranks):
        if interrupt["at"] is not None:
            interrupt["at"] -= 1
            if interrupt["at"] == 0:
                signal.raise_signal(signal.SIGINT)
        return step(model, optimizer, scaler, x, y, rate, config, ranks)

    monkeypatch.setattr(training, "train_step", train_step)
    return lambda at: interrupt.update(at=at)


def test_a_run_that_was_stopped_continues_with_the_same_losses(folders, interrupted_at, tmp_path):
    arguments, path = folders
    arguments += ["--runs", "course-0"]
    full_size.main([*arguments, "--checkpoints", str(tmp_path / "others")])
    uninterrupted = losses(path)
    path.unlink()
    assert full_size.main([*arguments, "--stop-after", "4"]) == 0
    assert losses(path)[0] == uninterrupted[0][:4], "the schedule is that of all batches"
    interrupted_at(3)
    assert full_size.main(arguments) == 130
    assert losses(path)[0] == uninterrupted[0][:7]
    assert full_size.main(arguments) == 0 and losses(path) == uninterrupted
    seconds = json.loads(path.read_text(encoding="utf-8"))["runs"]["course-0"]["seconds"]
    assert len(seconds) == 12


def test_a_killed_program_loses_only_what_follows_its_checkpoint(folders, monkeypatch):
    """The record may be one measurement ahead of the checkpoint: the batches are then trained again."""
    arguments, path = folders
    arguments += ["--runs", "course-0"]
    save = checkpoints.Run.save

    def killed(run, out):
        if len(run.history.train_loss) == 8:
            raise MemoryError("killed")
        save(run, out)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(checkpoints.Run, "save", killed)
        full_size.main(arguments)
    assert len(losses(path)[0]) == 8
    assert full_size.main(arguments) == 0
    train_loss, test_step, _ = losses(path)
    assert len(train_loss) == 12 and test_step == [0, 4, 8, 12]


def test_what_is_recorded_is_not_trained_again(folders, monkeypatch):
    arguments, path = folders
    arguments += ["--runs", "course-0"]
    full_size.main(arguments)
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr(full_size, "train", None)  # an error if it is called
    assert full_size.main(arguments) == 0 and path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("change", [{"steps": 16}, {"learning_rate": 1.0}], ids=str)
def test_a_checkpoint_of_another_recipe_is_not_continued(folders, monkeypatch, change):
    arguments, path = folders
    arguments += ["--runs", "course-0"]
    full_size.main(arguments)
    recipe = arms.RECIPES["smoke"]
    monkeypatch.setitem(arms.RECIPES, "smoke", replace(recipe, training=replace(recipe.training, **change)))
    with pytest.raises(SystemExit, match="course-0 holds a run that this record does not know"):
        full_size.main(arguments)


def test_a_record_is_not_replaced_by_less(folders, tmp_path):
    """As in a fresh clone, which has the record and no checkpoint."""
    arguments, path = folders
    arguments += ["--runs", "course-0"]
    full_size.main([*arguments, "--stop-after", "8"])
    before = losses(path)
    fresh = [*arguments, "--checkpoints", str(tmp_path / "fresh")]
    assert full_size.main([*fresh, "--stop-after", "4"]) == 0 and losses(path) == before
    assert full_size.main(fresh) == 0 and len(losses(path)[0]) == 12


@pytest.mark.parametrize("key, value", [("torch", "1.0"), ("threads", 99), ("text", "another book")])
def test_one_record_has_one_origin(folders, key, value):
    arguments, path = folders
    full_size.main([*arguments, "--runs", "course-0", "--stop-after", "4"])
    timing.write_json(path, json.loads(path.read_text(encoding="utf-8")) | {key: value})
    with pytest.raises(SystemExit, match=f"was recorded with another {key}.*--folder"):
        full_size.main([*arguments, "--runs", "course-0"])


def test_a_stand_in_is_not_model_5_on_the_book(folders, monkeypatch):
    with pytest.raises(SystemExit, match="The full size needs Gulliver's Travels and GPT-2's tokenizer"):
        full_size.main([*folders[0], "--size", "full"])


def test_the_processor_decides_the_precision(monkeypatch):
    for gain, expected in ((1.0, "auto"), (3.0, "bf16")):
        monkeypatch.setattr(kernels, "fast_bf16", lambda device: gain)
        assert full_size.fastest_precision("cpu") == expected
    assert full_size.fastest_precision("cuda") == "auto"


def test_a_stop_between_measurements_is_refused(capsys):
    for wrong, message in ((["--stop-after", "50", "--every", "20"], "expected a multiple of --every"),
                           (["--every", "-1"], "expected a multiple of --every"),
                           (["--device", "tpu"], "invalid choice"),
                           (["--stop-after", "0"], "from 1 to 500"), (["--stop-after", "501"], "from 1 to 500")):
        with pytest.raises(SystemExit):
            full_size.main(["--device", "cpu", *wrong])
        assert message in capsys.readouterr().err
    assert full_size.parse(["--size", "smoke", "--device", "cpu"]).every == 10, "a short run is measured at its end"


def test_an_error_is_one_line(folders, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert full_size.main([*folders[0], "--checkpoints", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_runs_are_the_course_s_recipe_and_the_lectures():
    runs = {name: full_size.settings(name, "full", 100, "auto") for name in full_size.RUNS}
    assert [config.seed for _, _, config in runs.values()] == [0, 0, 1, 2]
    assert {(config.steps, config.batch_size, config.context) for _, _, config in runs.values()} == {(500, 16, 256)}
    assert runs["lectures-0"][0] is arms.ARMS["source"]
    assert (runs["course-0"][1].n_layer, runs["course-0"][1].n_embd) == (12, 768)
