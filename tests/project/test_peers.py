"""The comparison with other recipes: arms take turns, a stopped run continues, the table is right."""

import json

import pytest
import torch

from benchmarks import peers, tables

SECONDS = {"course": 0.2, "today": 0.2, "nanogpt": 0.05, "lectures": 0.2, "hf_trainer": 0.1, "hf_tuned": 0.1}


class FakeRuns:
    """Runs whose clock and losses are made up."""

    def __init__(self, fail_after=None):
        self.calls, self.fail_after = [], fail_after

    def __call__(self, name, steps, seed, rate=None, measure=True, skipped=0):
        if len(self.calls) == self.fail_after:
            raise KeyboardInterrupt
        self.calls.append((name, steps, seed, rate))
        loss = (4.5 if name == "course" else 5.0) + 0.1 * seed + (abs(rate - 2e-3) if rate else 0)
        seconds = SECONDS[name] * (steps - skipped)
        return {"steps": steps, "seed": seed, "seconds": seconds, "wall": seconds + 3, "rate": rate, "text": "A book",
                "loss": loss if measure else None}


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(peers, "is_installed", lambda: True)


def test_arms_take_turns_for_the_same_seconds_and_a_stopped_run_continues(tmp_path, installed, capsys):
    options = ["--arms", "course", "today", "nanogpt", "--seeds", "0", "1", "--out", str(tmp_path / "peers.json")]
    first = FakeRuns(fail_after=13)
    with pytest.raises(KeyboardInterrupt):
        peers.main(options, tmp_path, first)
    paces, runs = first.calls[:9], first.calls[9:]
    assert [name for name, *_ in paces] == ["today", "course", "nanogpt", "course", "nanogpt", "today", "nanogpt",
                                            "today", "course"]
    assert runs == [("course", 500, 0, None), ("today", 500, 0, None), ("nanogpt", 2000, 0, None),
                    ("today", 500, 1, None)]
    second = FakeRuns()
    assert peers.main(options, tmp_path, second) == 0
    assert second.calls == [("nanogpt", 2000, 1, None), ("course", 500, 1, None)]
    printed = capsys.readouterr().out
    assert "| nanoGPT's settings for a laptop | 2,000 | 100.0 | 5.050 ± 0.071 | +0.500 ± 0.304 |" in printed


def test_runs_of_another_recipe_are_repeated(tmp_path, installed, monkeypatch):
    options = ["--arms", "today", "lectures", "--seeds", "0", "--out", str(tmp_path / "peers.json")]
    peers.main(options, tmp_path, FakeRuns())
    before = peers.peers()
    monkeypatch.setattr(peers, "peers", lambda: {**before, "lectures": peers.replace(before["lectures"], changes=())})
    again = FakeRuns()
    peers.main(options, tmp_path, again)
    longest_pace = peers.PACE_STEPS + peers.PACE_SKIPPED
    assert [call for call in again.calls if call[1] > longest_pace] == [("lectures", 500, 0, None)]


def test_the_learning_rate_is_chosen_by_the_validation_loss(tmp_path, installed):
    path = tmp_path / "peers.json"
    runs = FakeRuns()
    peers.main(["--arms", "hf_tuned", "--seeds", "0", "--out", str(path)], tmp_path, runs)
    tried = [rate for _, steps, seed, rate in runs.calls if seed == peers.TUNING_SEED]
    assert tuple(tried) == peers.RATES and runs.calls[-1] == ("hf_tuned", 1000, 0, 2e-3)
    assert json.loads(path.read_text(encoding="utf-8"))["arms"]["hf_tuned"]["rate"] == 2e-3


def test_a_missing_package_is_named_and_the_rest_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "is_installed", lambda: False)
    runs = FakeRuns()
    peers.main(["--arms", "course", "hf_trainer", "--seeds", "0", "--out", str(tmp_path / "p.json")], tmp_path, runs)
    assert {name for name, *_ in runs.calls} == {"today", "course"}
    assert "| Hugging Face's Trainer, default settings | | | not installed: pip install accelerate | |" in (
        capsys.readouterr().out)


def test_the_section_is_empty_without_a_record_and_shows_one(tmp_path, installed):
    assert peers.section(tmp_path) == ""
    peers.main(["--seeds", "0", "1", "2", "--out", str(tmp_path / "peers_a.json")], tmp_path, FakeRuns())
    text = peers.section(tmp_path)
    assert text.startswith("## Other recipes") and "| the course's recipe | 500 | 100.0 | 4.600 ± 0.100 |  |" in text
    assert "learning rate tuned (0.002) |" in text and "the best\n  of 0.001, 0.002, 0.004" in text
    assert "; 3 seeds;" in text


def test_a_short_recording_is_refused():
    with pytest.raises(SystemExit):
        peers.main(["--record", "--quick"])


def test_a_schedule_keeps_its_shares_when_it_is_stretched():
    config = peers.stretched(peers.TODAY, 1000)
    assert (config.steps, config.warmup_steps) == (1000, 100)
    assert config.learning_rate_at(549) == pytest.approx(peers.TODAY.learning_rate_at(274), rel=0.01)


def test_the_clock_leaves_the_first_steps_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(peers.time, "perf_counter", lambda: now[0])
    model = torch.nn.Linear(1, 1)
    clock = peers.Clock(model, skipped=2)
    for _ in range(5):
        model(torch.ones(1, 1))
        now[0] += 1.0
    assert clock.stop() == 3.0


def test_nanogpts_settings_train_without_biases():
    ids = torch.arange(2000) % 4096
    peer = peers.peers()["nanogpt"]
    model, seconds = peers.train_course(peer, ids[:1500], ids[1500:], 2, seed=0)
    assert seconds > 0 and all(p.abs().max() == 0 for name, p in model.named_parameters() if name.endswith("bias"))


def test_the_trainer_trains_and_is_measured_like_the_course():
    pytest.importorskip("accelerate")
    ids = torch.arange(2000) % 4096
    model, seconds = peers.train_trainer(peers.peers()["hf_trainer"], ids, 2, seed=0)
    assert seconds > 0 and 7 < peers.training.evaluate(model, ids[:600], 128) < 9


def test_a_window_is_both_inputs_and_labels():
    windows = peers.Windows(torch.arange(10), 4)
    assert len(windows) == 7 and windows[6]["input_ids"].tolist() == windows[6]["labels"].tolist() == [6, 7, 8, 9]


def test_the_page_has_the_section_when_there_is_a_record(tmp_path, installed):
    peers.main(["--seeds", "0", "--out", str(tmp_path / "peers_a.json")], tmp_path, FakeRuns())
    assert peers.section(tmp_path).strip() in tables.page(tmp_path)
