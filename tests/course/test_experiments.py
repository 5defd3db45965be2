"""The experiments of notebook 09: training, the choice of the learning rate, records, and the command line."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

from helpers import corpus, training
from helpers.course import arms, experiments, recipes
from helpers.course.arms import ARMS
from helpers.machine import assets, locks
from helpers.model import GPT
from tests import small

SMOKE = ("--size", "smoke")


@pytest.fixture(scope="module")
def book():
    return corpus.load_text(assets.DATA / "voyage.txt", "course", title="a short book")


@pytest.fixture
def quick(monkeypatch, book):
    """A tiny model, four steps, and a short text instead of the book."""
    recipe = arms.RECIPES["smoke"]
    config = replace(recipe.training, steps=4, warmup_steps=1, context=16, batch_size=2, precision="fp32")
    monkeypatch.setitem(arms.RECIPES, "smoke", recipes.Recipe("course", replace(recipe.model, n_embd=8), config))
    monkeypatch.setattr(corpus, "load_gulliver", lambda tokenizer: book)
    monkeypatch.setattr(experiments, "sample_pages", lambda *arguments: None)
    monkeypatch.setattr(experiments, "text_quality", lambda *arguments: {"known words": 0.5})


@pytest.fixture
def faked(quick, monkeypatch):
    """Tuning and training that only return numbers. Returns the calls: ("tune" or "run", arm, seed, rate)."""
    calls = []

    def tune(arm, book, size, rate, device):
        calls.append(("tune", arm.what, None, rate))
        return round(abs(math.log2(rate / 0.01)), 4) if rate < 0.05 else None  # best: 0.01, or its neighbour

    def run(arm, book, size, seed, rate, device):
        calls.append(("run", arm.what, seed, rate))
        return {"test": 4.0 + seed, "seconds": 1.0}

    monkeypatch.setattr(experiments, "tune", tune)
    monkeypatch.setattr(experiments, "run", run)
    return calls


def whats(*names):
    return [ARMS[name].what for name in names]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling, dropout", [*itertools.product(("epochs", "random"), (0.0, 0.1))])
def test_fit_has_exactly_the_losses_of_the_lessons_own_training(sampling, dropout):
    config = replace(small.CONFIG, sampling=sampling, noise=0.05, optimizer="muon")
    torch.manual_seed(1)
    model = GPT(replace(small.MODEL, dropout=dropout))
    same = GPT(replace(small.MODEL, dropout=dropout))
    same.load_state_dict(model.state_dict())
    _, history = small.train(config, same)
    assert experiments.fit(model, small.TRAIN, config) == history.train_loss
    assert torch.equal(small.weights(model), small.weights(same))


def test_measurements_are_made_when_they_are_due_and_change_nothing():
    due, config = [], replace(small.CONFIG, steps=10, eval_every=4)
    measured, unmeasured = small.new_model(), small.new_model()
    losses = experiments.fit(measured, small.TRAIN, config, lambda step: due.append(step) or training.evaluate(
        measured, small.TEST, config.context))
    assert due == [0, 4, 8, 10] and losses == experiments.fit(unmeasured, small.TRAIN, config)


def test_windows_come_in_shuffled_epochs():
    windows = arms.windows_of(torch.arange(13 * 4), 3, 4)  # (13, 4), each with tokens of its own
    drawn = experiments.batches(windows, replace(small.CONFIG, batch_size=2, context=3), 64)
    epochs = [torch.cat([next(drawn)[0][:, 0] for _ in range(6)]) for _ in range(2)]
    assert all(len(epoch.unique()) == 12 for epoch in epochs), "no window comes twice in an epoch"
    assert not torch.equal(*epochs)
    x, y = next(drawn)
    assert x.shape == y.shape == (2, 3) and torch.equal(y, x + 1)


def test_the_loss_on_windows_equals_the_loss_on_their_tokens():
    model = small.new_model()
    ids = small.TRAIN[: 70 * 16 + 1]
    windows = arms.windows_of(ids, 16, 16)
    expected = training.evaluate(model, ids, 16)
    model.train()
    assert experiments.mean_loss(model, windows, small.CONFIG) == pytest.approx(expected, abs=1e-5)
    assert experiments.mean_loss(model, ids, small.CONFIG) == pytest.approx(expected, abs=1e-6) and model.training


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_runs(name, quick, book):
    results = experiments.run(ARMS[name], book, "smoke", 0)
    json.dumps(results, allow_nan=False)
    assert math.isfinite(results["test"]) and math.isfinite(results["train"]) and results["passes"] > 0
    split = ARMS[name].split(book, 16, 0)
    assert set(results["other"]) == set(split.other)
    assert ("curve" in results) == bool(ARMS[name].points)
    assert ("quality" in results) == (split.train.ndim == 1) and ("bits_per_byte" in results) == (split.test.ndim == 1)
    if ARMS[name].points:
        curve = results["curve"]
        assert curve["step"][0] == 0 and len(set(map(len, curve.values()))) == 1
        assert curve["test"][-1] == results["test"] and ("known words" in curve) == ARMS[name].form


def test_runs_differ_by_seed_and_repeat_with_the_same_seed(quick, book):
    runs = [experiments.run(ARMS["base"], book, "smoke", seed, 0.02)["training"] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_the_pretrained_start_reads_the_book_first(quick, monkeypatch, book):
    fitted = []
    monkeypatch.setattr(experiments, "fit", lambda model, data, config, *rest: fitted.append((data, config)) or [])
    experiments.train_arm(ARMS["voyage_pretrained"], book, "smoke", 3, 0.01)
    (before, first), (after, second) = fitted
    assert torch.equal(before, book.split()[0]) and first.steps == 4 and second.steps == 2
    assert (first.seed, first.learning_rate) == (second.seed, second.learning_rate) == (3, 0.01)
    experiments.train_arm(ARMS["voyage_scratch"], book, "smoke", 3, 0.01)
    assert len(fitted) == 3


def test_too_few_windows_for_a_batch_are_refused(quick, book):
    arm = replace(ARMS["window_4"], training={**arms.SHORT, "batch_size": 10_000})
    with pytest.raises(ValueError, match="4 passages, split by window: .* do not fill a batch of 10000"):
        experiments.train_arm(arm, book, "smoke", 0)


def test_curves_are_thinned_to_means():
    assert experiments.thinned([float(i) for i in range(100)])[:2] == [2.0, 7.0]
    assert len(experiments.thinned([0.0] * 1000)) == experiments.CURVE_POINTS
    assert experiments.thinned([2.0, 4.0]) == [2.0, 4.0]


def test_the_machine_is_the_processor_and_its_threads(monkeypatch):
    monkeypatch.setattr(experiments.runtime, "processor_name", lambda: "A processor")
    assert experiments.machine("cpu").startswith("A processor, ")
    monkeypatch.setattr(experiments.runtime, "processor_name", lambda: "")
    assert experiments.machine("cpu").startswith("CPU, ")


def test_quality_of_a_text(book):
    config = replace(arms.settings(ARMS["base"], "smoke", 0)[1], context=24)
    shape = replace(arms.settings(ARMS["base"], "smoke", 0)[0], n_embd=8)
    model = experiments.build(ARMS["base"], shape, book.tokenizer.vocab_size, 0)
    pages = experiments.sample_pages(model, book, config, texts=2)
    assert pages.shape == (2, 24)
    quality = experiments.text_quality(pages, book, book.split()[0])
    shares = ("known words", "distinct pairs", "line-length overlap", "punctuation overlap")
    assert set(quality) == {*shares, "newlines", "longest copy, median", "longest copy, largest"}
    assert all(0 <= quality[name] <= 1 for name in shares)
    windows = corpus.random_batch(book.split()[0], 100, 24, torch.Generator().manual_seed(7))[0]
    of_the_book = experiments.text_quality(windows, book, book.split()[0])
    assert of_the_book["known words"] > 0.95 and of_the_book["longest copy, median"] == 24
    assert 0.7 < of_the_book["newlines"] < 1.4


# --- the choice of the learning rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "small"])
def test_tuning_never_sees_the_test_set_and_does_not_train_on_the_validation_set(name, quick, book, monkeypatch):
    whole = ARMS[name].split(book, 16, 0)
    impossible = replace(whole, test=torch.full_like(whole.test, 10**9))
    hidden = replace(ARMS[name], split=lambda book, context, seed: impossible)
    expected = experiments.tune(ARMS[name], book, "smoke", 0.01)
    assert experiments.tune(hidden, book, "smoke", 0.01) == expected
    with pytest.raises(ValueError, match="this model knows 0 to 4095"):  # the test set of this arm cannot be measured
        experiments.run(hidden, book, "smoke", 0, 0.01)

    fitted = []
    monkeypatch.setattr(experiments, "fit", lambda model, data, config, measure: fitted.append(data) or measure(4))
    assert experiments.tune(ARMS[name], book, "smoke", 0.01) > 0
    validation = corpus.split_validation(book.split()[0])[1]
    assert torch.equal(fitted[0], whole.train[: len(fitted[0])])
    assert len(fitted[0]) <= len(book.split()[0]) - len(validation)


def test_the_lowest_validation_loss_counts_where_losses_are_measured_on_the_way(quick, book, monkeypatch):
    for name, expected in (("small", 3.0), ("base", 5.0)):
        losses = iter([7.0, 3.0, 5.0] if name == "small" else [5.0])
        monkeypatch.setattr(training, "evaluate", lambda *arguments, losses=losses: next(losses))
        monkeypatch.setattr(experiments, "fit", lambda model, data, config, measure: [
            measure(step) for step in (0, 1, config.steps)])
        assert experiments.tune(ARMS[name], book, "smoke", 0.01) == expected


def test_a_rate_that_is_too_high_has_no_loss(quick, book, monkeypatch):
    def fit(*arguments):
        raise FloatingPointError

    monkeypatch.setattr(experiments, "fit", fit)
    assert experiments.tune(ARMS["base"], book, "smoke", 0.01) is None


@pytest.mark.parametrize("losses, expected", [
    ({}, [0.02, 0.01, 0.04]),
    ({0.02: 5.0}, [0.01, 0.04]),
    ({0.02: 5.0, 0.01: 5.1, 0.04: 5.2}, []),
    ({0.02: 5.0, 0.01: 4.9, 0.04: 5.2}, [0.005]),
    ({0.02: 5.0, 0.01: 5.1, 0.04: 4.9}, [0.08]),
    ({0.02: 5.0, 0.01: 4.9, 0.04: 5.2, 0.005: 4.8}, [0.0025]),
    ({0.02: 5.0, 0.01: 5.1, 0.04: None}, []),
    ({0.02: None, 0.01: 5.1, 0.04: None}, [0.005]),
    ({0.02: None}, [0.01, 0.04]),
])
def test_rates_are_tried_until_both_neighbours_of_the_best_are_known(losses, expected):
    assert experiments.untried(losses, 0.02) == expected


def test_the_best_rate_has_the_lowest_loss():
    assert experiments.best_rate({0.02: 5.0, 0.01: 4.9, 0.04: None}) == 0.01
    with pytest.raises(ValueError, match="Training failed with each of the learning rates"):
        experiments.best_rate({0.02: None})


def test_tuning_goes_on_beyond_the_edge_and_past_a_failure(faked, book, tmp_path):
    experiments.tune_all(["base", "epochs_short"], "smoke", 1, tmp_path)  # the second one uses the first one's rate
    assert [rate for *_, rate in faked] == [0.02, 0.01, 0.04, 0.005] and {what for _, what, *_ in faked} == {
        ARMS["base"].what}
    for name in ("base", "epochs_short"):
        assert experiments.rate_of(name, "smoke", book, tmp_path) == 0.01
    assert experiments.rate_of("random_short", "smoke", book, tmp_path) is None, "random is not tuned"
    experiments.tune_all(["source"], "smoke", 1, tmp_path)  # begins with its own rate
    assert [rate for *_, rate in faked[4:]] == [0.001, 0.0005, 0.002, 0.004, 0.008, 0.016]
    experiments.tune_all(["base", "source"], "smoke", 1, tmp_path)
    assert len(faked) == 10, "what is recorded is not tried again"


# --- records ---------------------------------------------------------------------------------------------------------


def test_records_are_resumed(faked, tmp_path, capsys):
    names = ["base", "epochs_short"]
    experiments.record(names, "smoke", 1, folder=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "base, learning rate 0.02: validation loss 1.0" and "test loss 4.000 (1 s)" in lines[-1]
    before = (tmp_path / "smoke" / "base.json").read_text(encoding="utf-8")
    del faked[:]
    experiments.record(names, "smoke", 3, folder=tmp_path)
    assert faked == [("run", what, seed, 0.01) for seed in (1, 2) for what in whats(*names)], "seed by seed"
    assert "4/4 epochs_short, seed 2" in capsys.readouterr().out
    saved = experiments.load_records("smoke", tmp_path)
    assert list(saved) == names and list(saved["base"]["runs"]) == ["0", "1", "2"]
    assert saved["base"]["runs"]["0"] == json.loads(before)["runs"]["0"] == {"rate": 0.01, "test": 4.0, "seconds": 1.0}
    assert saved["base"]["rates"] == {"0.005": 1.0, "0.01": 0.0, "0.02": 1.0, "0.04": 2.0}
    assert saved["epochs_short"]["rates"] == {} and saved["epochs_short"]["group"] == "sampling"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]


def test_each_arm_has_as_many_seeds_as_it_asks_for(faked, tmp_path):
    experiments.record(["shape_2_8", "voyage_scratch"], "smoke", folder=tmp_path)
    runs = {what: [seed for kind, w, seed, _ in faked if kind == "run" and w == what]
            for what in whats("shape_2_8", "voyage_scratch")}
    assert list(runs.values()) == [[0, 1, 2], list(range(10))]


def test_runs_with_another_rate_than_the_chosen_one_do_not_count(faked, book, tmp_path, capsys):
    experiments.record(["base"], "smoke", 2, folder=tmp_path)
    known = experiments.recorded("base", "smoke", book, tmp_path)
    known["rates"][0.005] = -1.0  # now lower than the one that was chosen
    experiments.write_record("base", "smoke", book, known, tmp_path)
    del faked[:]
    listed = list_of(tmp_path, capsys)
    assert "not tuned yet; 0 of 10 seeds" in listed["base"]
    experiments.record(["base"], "smoke", 1, folder=tmp_path)
    assert faked == [("tune", "the course's recipe", None, 0.0025), ("run", "the course's recipe", 0, 0.005)]
    assert set(experiments.recorded("base", "smoke", book, tmp_path)["runs"]) == {0}, "seed 1 had the other rate"
    capsys.readouterr()
    assert "learning rate 0.005; 1 of 10 seeds" in list_of(tmp_path, capsys)["base"]


def list_of(folder, capsys, *arguments):
    """What --list prints: {arm: line}."""
    capsys.readouterr()
    assert experiments.main(["--list", *SMOKE, "--folder", str(folder), *arguments]) == 0
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


@pytest.mark.parametrize("what, is_valid", [
    ({"group": "another section", "what": "other words", "seeds": 3}, True),
    ({"training": {"beta2": 0.9}}, False), ({"model": {"dropout": 0.2}}, False), ({"changes": ("fake_tie",)}, False),
    ({"mlp_ratio": 2}, False), ({"budget": 0.5}, False), ({"before": 1.0}, False), ({"points": 2}, False),
], ids=str)
def test_a_changed_setting_makes_a_record_invalid_and_changed_words_do_not(what, is_valid, faked, book, tmp_path,
                                                                           monkeypatch):
    experiments.record(["base"], "smoke", 1, folder=tmp_path)
    monkeypatch.setitem(ARMS, "base", replace(ARMS["base"], **what))
    known = experiments.recorded("base", "smoke", book, tmp_path)
    assert (len(known["runs"]), len(known["rates"])) == ((1, 4) if is_valid else (0, 0))


def test_another_tokenizer_or_text_makes_a_record_invalid(faked, book, tmp_path, monkeypatch):
    experiments.record(["base"], "smoke", 1, folder=tmp_path)
    assert not experiments.recorded("base", "smoke", replace(book, title="another book"), tmp_path)["runs"]
    monkeypatch.setattr(assets, "sha256", lambda path: "0" * 64)
    assert not experiments.recorded("base", "smoke", book, tmp_path)["runs"]


def test_the_stand_in_never_replaces_the_book(book):
    real, stand_in = (experiments.record_path("base", "smoke", replace(book, is_stand_in=is_stand_in))
                      for is_stand_in in (False, True))
    assert real.parent != stand_in.parent and real.name == stand_in.name


@pytest.mark.parametrize("moment", ["tune", "run"])
def test_an_interrupted_run_is_not_recorded_and_the_finished_ones_are(moment, faked, book, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiments, moment, small.stopped_after(2, getattr(experiments, moment)))
        experiments.record(["base"], "smoke", 5, folder=tmp_path)
    known = experiments.recorded("base", "smoke", book, tmp_path)
    assert (len(known["rates"]), len(known["runs"])) == ((2, 0) if moment == "tune" else (4, 2))
    experiments.record(["base"], "smoke", 5, folder=tmp_path)
    assert len(faked) == len(set(faked)) and len([call for call in faked if call[0] == "run"]) == 5, "nothing twice"


def test_the_record_files_are_small_and_name_known_arms():
    for path in experiments.FOLDER.rglob("*.json"):
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert saved["arm"] in ARMS and saved["what"] == ARMS[saved["arm"]].what and saved["runs"]
        assert saved["group"] == ARMS[saved["arm"]].group
        assert path.stat().st_size < 50_000, path.name


def test_all_arms_are_recorded_with_all_seeds():  # as notebook 09 expects: see `make experiments`
    records = experiments.load_records()
    assert set(records) == set(ARMS)
    for name, record in records.items():
        assert set(record["runs"]) == set(map(str, range(ARMS[name].seeds))), name


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, names", [
    ([], list(ARMS)),
    (["--groups", "tying"], ["base", "untied", "tied_wider"]),
    (["--arms", "untied", "base"], ["untied", "base"]),
])
def test_the_command_line_runs_the_arms_that_it_names(arguments, names, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(experiments, "record", lambda *given: calls.append(given))
    assert experiments.main([*arguments, *SMOKE, "--seeds", "2", "--jobs", "3", "--folder", str(tmp_path)]) == 0
    assert calls == [(names, "smoke", 2, 3, tmp_path)]


def test_at_full_size_only_arms_of_model_5s_width_are_trained(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(experiments, "record", lambda names, *others: calls.append(names))
    assert experiments.main(["--size", "full"]) == 0
    for name in calls[0]:
        shape = arms.settings(ARMS[name], "full", 0)[0]
        assert shape.n_embd == 768 and shape.n_embd % shape.n_head == 0, name
    assert "source" in calls[0] and not {"tied_wider", "shape_1_4"} & set(calls[0])
    with pytest.raises(SystemExit):
        experiments.main(["--size", "full", "--arms", "base", "tied_wider"])
    assert "tied_wider: this width was chosen for the laptop size" in capsys.readouterr().err


def test_the_list_shows_every_arm_and_runs_nothing(faked, tmp_path, capsys):
    listed = list_of(tmp_path, capsys)
    assert list(listed) == list(ARMS) and not faked
    assert "tying" in listed["untied"] and ARMS["untied"].what in listed["untied"] and "not tuned yet; 0 of 10" in (
        listed["untied"])
    assert list(list_of(tmp_path, capsys, "--groups", "tying")) == ["base", "untied", "tied_wider"]


def test_unknown_arms_and_sections_are_refused(capsys):
    for wrong in (["--arms", "nothing"], ["--groups", "nothing"], ["--size", "nothing"]):
        with pytest.raises(SystemExit):
            experiments.main(wrong)
        assert "invalid choice" in capsys.readouterr().err


def test_two_commands_do_not_record_into_one_folder(tmp_path, capsys):
    with locks.only_run(tmp_path), pytest.raises(SystemExit):
        experiments.main(["--size", "smoke", "--seeds", "1", "--folder", str(tmp_path)])
    assert "is in use: process" in capsys.readouterr().err
