"""The speedrun: records continue, lapse with their settings, and are judged by Student's t-distribution."""

import json
from dataclasses import replace

import matplotlib.pyplot
import pytest
import torch

from helpers import corpus
from helpers.course import speedrun, speedrun_results
from helpers.machine import locks
from helpers.model import GPT, GPTConfig


@pytest.fixture
def quick(monkeypatch):
    """A short text instead of the book."""
    book = corpus.load_text("data/voyage.txt", "course", title="a short book")
    monkeypatch.setattr(corpus, "load_gulliver", lambda tokenizer: book)
    halves = lambda ids: (ids[: len(ids) // 2], ids[len(ids) // 2 :])  # noqa: E731
    monkeypatch.setattr(corpus, "split_validation", halves, raising=False)


def test_a_stopped_program_continues_and_a_changed_attempt_starts_again(quick, tmp_path, monkeypatch):
    speedrun.record(["today"], "smoke", [0], folder=tmp_path)
    first = speedrun.runs_of("today", "smoke", tmp_path)
    first[0]["loss"] = 123.0  # would be lost if seed 0 ran again
    path = speedrun.path_of("today", "smoke", tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "runs": {"0": first[0]}}))
    speedrun.record(["today"], "smoke", [0, 1], folder=tmp_path)
    runs = speedrun.runs_of("today", "smoke", tmp_path)
    assert runs[0]["loss"] == 123.0 and 5 < runs[1]["loss"] < 10
    changed = replace(speedrun.ATTEMPTS["today"], training={"learning_rate": 1.0})
    monkeypatch.setitem(speedrun.ATTEMPTS, "today", changed)
    assert speedrun.runs_of("today", "smoke", tmp_path) == {}


def test_changes_add_up_along_the_bases():
    config = speedrun.settings("shuffled epochs", "laptop", 3)[1]
    assert (config.optimizer, config.decay, config.final_share, config.sampling, config.steps, config.seed) == (
        "muon", "linear", 0.0, "epochs", speedrun.ATTEMPTS["shuffled epochs"].training["steps"], 3)


def test_the_clock_gives_ratios_to_today(quick, tmp_path, monkeypatch):
    now, cost = [0.0], {"today": 2.0, "muon": 3.0}
    monkeypatch.setattr(speedrun.time, "perf_counter", lambda: now[0])

    def stepper(name, size, train_ids):
        def step():
            now[0] += cost[name]
        return step

    monkeypatch.setattr(speedrun, "stepper", stepper)
    speedrun.clock(["muon"], "smoke", tmp_path, rounds=3, steps=2)
    assert speedrun.time_share("muon", "smoke", tmp_path) == pytest.approx(0.75)
    assert speedrun.time_share("shuffled epochs", "smoke", tmp_path) is None
    cost["shuffled epochs"] = 1.0
    speedrun.clock(["shuffled epochs"], "smoke", tmp_path, rounds=3, steps=2)
    assert speedrun.time_share("shuffled epochs", "smoke", tmp_path) == pytest.approx(0.25)
    assert speedrun.time_share("muon", "smoke", tmp_path) == pytest.approx(0.75)  # kept


def test_the_clock_counts_what_is_computed_before_the_training(quick, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speedrun.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(speedrun, "stepper", lambda *given: lambda: now.__setitem__(0, now[0] + 1.0))
    monkeypatch.setitem(speedrun.STARTS, "counts", lambda *given: now.__setitem__(0, now[0] + 5.0))
    names = ["shuffled epochs", "embeddings from counts"]
    speedrun.clock(names, "smoke", tmp_path, rounds=3, steps=2)
    plain, counted = (speedrun.time_share(name, "smoke", tmp_path) for name in names)
    steps = [speedrun.settings(name, "smoke", 0)[1].steps for name in ("today", *names)]
    assert plain == pytest.approx(steps[1] / steps[0])
    assert counted == pytest.approx(steps[2] / steps[0] + 5.0 / (steps[0] * 1.0))


def test_a_step_of_the_clock_trains(quick):
    torch.manual_seed(0)
    ids = corpus.load_gulliver("course").split()[0]
    speedrun.stepper("muon", "smoke", ids)()


def test_the_statistics_agree_with_students_tables():
    assert speedrun_results.quantile(0.975, 9) == pytest.approx(2.262157, abs=1e-4)
    assert speedrun_results.quantile(0.999, 9) == pytest.approx(4.296806, abs=1e-4)
    assert speedrun_results.tail(1.0, 1) == pytest.approx(0.25, abs=1e-6)
    assert speedrun_results.tail(-1.0, 1) == pytest.approx(0.75, abs=1e-6)
    assert speedrun_results.p_below([1, 2, 3], 2) == pytest.approx(0.5)
    difference, error, freedom = speedrun_results.welch([1, 2, 3], [2, 4, 6])
    assert (difference, error) == pytest.approx((-2, (5 / 3) ** 0.5)) and freedom == pytest.approx(50 / 17)


def test_the_three_verdicts():
    assert speedrun_results.judge_pairs([0.1, 0.11, 0.12]) == "worse"
    assert speedrun_results.judge_pairs([-0.1, -0.11, -0.12]) == "better"
    assert speedrun_results.judge_pairs([-0.1, 0.0, 0.1]) == (
        "inconclusive: about 0.310 nats would have been found by 4 of 5 such experiments")
    assert speedrun_results.judge_pairs([0.0, 0.0]).startswith("identical")
    with pytest.raises(ValueError, match="1 value: expected at least two seeds"):
        speedrun_results.judge_pairs([0.1])


def test_runs_with_other_seeds_are_not_judged(quick, tmp_path):
    speedrun.record(["today"], "smoke", [0, 1, 100], folder=tmp_path)
    assert len(speedrun.runs_of("today", "smoke", tmp_path)) == 3
    assert len(speedrun.losses_of("today", "smoke", tmp_path)) == 2


def test_the_clock_of_another_machine_does_not_count(quick, tmp_path, monkeypatch):
    speedrun.clock(["muon"], "smoke", tmp_path, rounds=2, steps=1)
    elsewhere = {**speedrun.timing.origin("cpu"), "device": "another CPU"}
    monkeypatch.setattr(speedrun.timing, "origin", lambda device: elsewhere)
    speedrun.clock(["noise"], "smoke", tmp_path, rounds=2, steps=1)
    assert set(speedrun.clocked("smoke", tmp_path)["attempts"]) == {"today", "noise"}


def test_final_runs_are_read_apart(quick, tmp_path):
    speedrun.record(["today"], "smoke", [0, 1], folder=tmp_path, on_test_set=True)
    assert speedrun.rows("smoke", tmp_path) == []
    assert [row["seeds"] for row in speedrun.rows("smoke", tmp_path, "final_")] == [2]


def judged(monkeypatch, losses, times):
    """Recorded losses and time quartiles from dictionaries instead of files."""
    monkeypatch.setattr(speedrun, "losses_of", lambda name, *where: losses[name])
    monkeypatch.setattr(speedrun, "time_quartiles", lambda name, *where: times[name])


@pytest.mark.parametrize("gain, share, expected", [(0.2, 1.0, True), (0.0, 1.0, False), (0.2, 1.1, False)])
def test_a_distance_record_is_better_in_no_more_time(monkeypatch, gain, share, expected):
    monkeypatch.setitem(speedrun.ATTEMPTS, "muon", replace(speedrun.ATTEMPTS["muon"], discipline="distance"))
    monkeypatch.setattr(speedrun, "before", lambda name: "today")
    today = [speedrun.GOAL - 0.01 * (seed % 3) for seed in range(10)]
    judged(monkeypatch, {"today": today, "muon": [loss - gain for loss in today]},
           {"today": [1.0, 1.0, 1.0], "muon": [share, share, share]})
    assert speedrun.is_record("muon") is expected


@pytest.mark.parametrize("gain, share, expected", [(0.1, 0.5, True), (-0.1, 0.5, False), (0.1, 1.0, False)])
def test_a_sprint_record_reaches_the_goal_sooner(monkeypatch, gain, share, expected):
    monkeypatch.setattr(speedrun, "before", lambda name: "today")
    today = [speedrun.GOAL - 0.01 * (seed % 3) for seed in range(10)]
    judged(monkeypatch, {"today": today, "muon": [loss - gain for loss in today]},
           {"today": [1.0, 0.98, 1.02], "muon": [share, share - 0.01, share + 0.01]})
    assert speedrun.is_record("muon") is expected


def test_embeddings_from_counts_are_as_large_as_random_ones_and_alike_for_like_neighbours():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=30, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    before = model.transformer.wte.weight.std().item()
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 10, (20_000,), generator=generator)
    second = torch.randint(10, 30, (20_000,), generator=generator)
    second[first < 2] = 10 + second[first < 2] % 3  # after tokens 0 and 1 come others than after the rest
    speedrun.start_from_counts(model, torch.stack([first, second], dim=1).flatten())
    vectors = torch.nn.functional.normalize(model.transformer.wte.weight.detach(), dim=1)
    assert model.transformer.wte.weight.std().item() == pytest.approx(before, rel=1e-4)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[5]
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_record_must_beat_the_one_before_it_in_its_own_discipline():
    assert speedrun.before("muon") == speedrun.before("stopped early") == "today"
    assert speedrun.before("decay of the matrices") == "stopped early"  # its base is a negative result
    assert speedrun.before("noise") == "strong decay" and speedrun.before("shuffled epochs") == "muon"


def test_the_rows_have_the_p_value_of_their_discipline(quick, tmp_path, monkeypatch):
    names = ["today", "shuffled epochs", "decay of the matrices", "strong decay"]
    speedrun.record(names, "smoke", [0, 1], folder=tmp_path)
    rows = {row["attempt"]: row for row in speedrun.rows("smoke", tmp_path)}
    losses = {name: speedrun.losses_of(name, "smoke", tmp_path) for name in rows}
    against_goal = speedrun_results.p_below(losses["shuffled epochs"], speedrun.GOAL)
    assert rows["shuffled epochs"]["p"] == against_goal and "gain" not in rows["shuffled epochs"]  # without its base
    assert rows["strong decay"]["p"] == speedrun_results.p_lower(*(losses[name] for name in ("strong decay", names[2])))
    assert rows[names[2]]["p"] is None and "p" not in rows["today"]  # what it must beat is not recorded
    assert rows["strong decay"]["gain"] == pytest.approx(rows[names[2]]["loss"] - rows["strong decay"]["loss"])
    monkeypatch.setattr(matplotlib.pyplot, "show", lambda: None)  # no windows
    axes = speedrun_results.plot_staircase(list(rows.values()), "two staircases")
    labels = [[label.get_text() for label in panel.get_xticklabels()] for panel in axes]
    matplotlib.pyplot.close("all")
    assert labels == [[], ["today", "decay of the matrices", "strong decay"]]  # the sprint was not timed


def test_short_runs_with_the_same_seeds_differ_only_by_the_change(quick):
    def runs(**changed):
        return speedrun.short_runs(seeds=range(2), size="smoke", **changed)

    base = runs()
    assert runs() == base
    for changed in ({"changes": {"learning_rate": 0.1}}, {"start": "counts"}, {"model": {"n_embd": 16}},
                    {"base": "shuffled epochs"}):
        assert not set(runs(**changed)) & set(base), changed


@pytest.mark.parametrize("wrong, message", [
    ({"base": "tomorrow"}, "base='tomorrow'.*expected a base of today"),
    ({"start": "warm"}, "start='warm'.*counts"),
    ({"model": {"width": 9}}, "GPTConfig has no width; expected some of vocab_size"),
    ({"changes": {"lr": 9}}, "TrainConfig has no lr; expected some of steps"),
])
def test_short_runs_say_what_they_do_not_know(wrong, message):
    with pytest.raises(ValueError, match=message):
        speedrun.short_runs(**wrong)


def test_two_commands_do_not_record_into_one_folder(tmp_path, capsys):
    with locks.only_run(tmp_path), pytest.raises(SystemExit):
        speedrun.main(["--size", "smoke", "--seeds", "1", "--folder", str(tmp_path)])
    assert "is in use: process" in capsys.readouterr().err
