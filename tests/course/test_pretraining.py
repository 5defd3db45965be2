"""helpers/course/pretraining.py: the records of the course's GPT-2 and of its fine-tuning, with invented records."""

import json

import pytest

from helpers.course import pretraining
from helpers.course.claims import Ledger
from helpers.machine import assets


def run(start, rate, seed, curve, test):
    return {"start": start, "rate": rate, "seed": seed, "step": [0, 50, 100], "validation_bits": curve,
            "test_bits": test}


RECORD = {
    "device": "a processor", "date": "2026-01-02", "training": {"steps": 100}, "weights": "abc", "seeds": [0, 1],
    "before": {"test": 1.9}, "trigram": {"test": 2.1},
    "runs": [run("pretrained", 1e-4, 0, [2.0, 1.9, 1.80], 1.81), run("pretrained", 1e-3, 0, [2.0, 1.8, 1.70], 1.71),
             run("from scratch", 1e-3, 0, [3.3, 2.4, 2.20], 2.21), run("from scratch", 1e-2, 0, [3.3, 2.3, 1.95], 1.96),
             run("pretrained", 1e-3, 1, [2.0, 1.8, 1.72], 1.73), run("from scratch", 1e-2, 1, [3.3, 2.3, 1.91], 1.94)],
}


def test_the_best_rate_is_that_of_the_first_seed_and_all_its_runs_are_chosen():
    assert pretraining.best_rates(RECORD["runs"]) == {"pretrained": 1e-3, "from scratch": 1e-2}
    chosen = pretraining.chosen(RECORD)
    assert {start: [run["seed"] for run in runs] for start, runs in chosen.items()} == {
        "pretrained": [0, 1], "from scratch": [0, 1]}
    misleading = [*RECORD["runs"], run("pretrained", 1e-4, 1, [2.0, 1.0, 0.5], 0.5)]  # of another seed
    assert pretraining.best_rates(misleading)["pretrained"] == 1e-3


def test_claim_36_compares_the_test_losses_of_all_seeds():
    measured, on, verdict, condition, smallest, unmeasured = pretraining.claim_36(RECORD)
    assert (verdict, smallest) == ("unmeasured here", ""), "one amount of training does not settle the claim"
    assert condition.startswith("in what was measured, the pretrained start is better by 0.230 ±")
    assert unmeasured == "longer training than 100 batches, other texts and other models"
    assert "pretrained 1.720 (1.710 to 1.730), from scratch 1.950 (1.940 to 1.960)" in measured
    assert "as good as the other's end after 50 batches" in measured
    assert "2 seeds" in on and "a processor, 2026-01-02" in on
    overlapping = {**RECORD, "runs": [*RECORD["runs"][:5], {**RECORD["runs"][5], "test_bits": 1.72}]}
    assert pretraining.claim_36(overlapping)[2] == "inconclusive"
    assert float(pretraining.claim_36(overlapping)[4].removesuffix(" bits per byte")) > 0.3
    reversed_starts = {"pretrained": "from scratch", "from scratch": "pretrained"}
    swapped = {**RECORD, "runs": [{**r, "start": reversed_starts[r["start"]]} for r in RECORD["runs"]]}
    assert pretraining.claim_36(swapped)[2] is False
    assert pretraining.claim_36(None)[2] == "unmeasured here"
    for own in (RECORD, overlapping, swapped, None):
        ledger = Ledger("07")
        ledger.add(36, *pretraining.claim_36(own))


def test_the_curve_counts_tokens_and_hours():
    record = {"training": {"batch_size": 10, "context": 100},
              "log": [{"step": 0, "seconds": 0.0, "validation_loss": 9.0},
                      {"step": 1000, "seconds": 1800.0, "validation_loss": 5.0},
                      {"step": 2000, "seconds": 3600.0, "validation_loss": 4.0}]}
    assert pretraining.curve(record) == ([0, 1, 2], [0, 0.5, 1.5], [9.0, 5.0, 4.0])


def test_a_record_of_other_weights_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setattr(pretraining, "FINE_TUNING", tmp_path / "record.json")
    assert pretraining.fine_tuning() is None
    (tmp_path / "record.json").write_text(json.dumps(RECORD), "utf-8")
    monkeypatch.setattr(assets, "sha256", lambda path: "another")
    assert pretraining.fine_tuning() is None
    monkeypatch.setattr(assets, "sha256", lambda path: "abc")
    assert pretraining.fine_tuning() == RECORD


@pytest.mark.parametrize("runs", [RECORD["runs"][:5], RECORD["runs"][:2], RECORD["runs"][:-1], []])
def test_an_unfinished_record_does_not_count(monkeypatch, tmp_path, runs):
    monkeypatch.setattr(pretraining, "FINE_TUNING", tmp_path / "record.json")
    monkeypatch.setattr(assets, "sha256", lambda path: "abc")
    (tmp_path / "record.json").write_text(json.dumps({**RECORD, "runs": runs}), "utf-8")
    assert pretraining.fine_tuning() is None


def test_a_pretrained_start_that_never_catches_up_is_named():
    better = {**RECORD, "runs": [{**r, "validation_bits": [3.3, 2.3, 1.5]} if r["start"] == "from scratch" else r
                                 for r in RECORD["runs"]]}
    assert "at no measurement" in pretraining.claim_36(better)[0]


def test_a_pretrained_start_that_is_better_at_once_is_named():
    worse = {**RECORD, "runs": [{**r, "validation_bits": [3.3, 2.9, 2.5]} if r["start"] == "from scratch" else r
                                for r in RECORD["runs"]]}
    assert "it is already better before its first batch" in pretraining.claim_36(worse)[0]
