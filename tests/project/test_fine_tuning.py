"""data/recipes/measure_fine_tuning.py at a tiny size: what it chooses, keeps, and continues."""

import json
from dataclasses import replace

import pytest
import torch

from data.recipes import library, measure_fine_tuning
from helpers import corpus, pretrained
from helpers.machine import assets
from tests import small


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The measurement with a tiny model, a short book and a library of one book."""
    tokenizer = corpus.load_tokenizer("library")
    text = "The sea was calm, and the captain of the ship slept below. " * 150
    book = corpus.Corpus("a short book", text, tokenizer.encode(text), tokenizer)
    torch.manual_seed(0)
    model = small.GPT(replace(small.MODEL, vocab_size=tokenizer.vocab_size, dropout=0.0)).eval()
    monkeypatch.setattr(corpus, "load_gulliver", lambda name: book)
    monkeypatch.setattr(pretrained, "load_course_gpt2", lambda: model)
    monkeypatch.setattr(library, "books", lambda: [library.Book(library.VALIDATION_AUTHORS[0], "A", 1860, text)])
    monkeypatch.setattr(measure_fine_tuning, "SEEDS", (0, 1))
    monkeypatch.setattr(measure_fine_tuning, "LIBRARY_SAMPLE", 400)
    monkeypatch.setattr(measure_fine_tuning, "TRAINING", replace(
        measure_fine_tuning.TRAINING, steps=4, batch_size=2, context=16, warmup_steps=1, eval_every=2, eval_tokens=200))
    monkeypatch.setattr(measure_fine_tuning, "RATES", {
        "pretrained": (1e-9, 0.03, 0.9), "from scratch": (0.9, 0.03, 1e-9)})
    return tmp_path / "record.json", model, book


def test_the_rate_is_chosen_by_the_validation_loss_and_runs_with_every_seed(tiny):
    path, model, book = tiny
    before = small.weights(model).clone()
    measure_fine_tuning.record(path)
    record = json.loads(path.read_text("utf-8"))
    done = {(run["start"], run["rate"], run["seed"]) for run in record["runs"]}
    assert done == {(start, rate, seed) for start in ("pretrained", "from scratch")
                    for rate, seed in ((1e-9, 0), (0.03, 0), (0.9, 0), (0.03, 1))}
    assert torch.equal(small.weights(model), before), "the pretrained weights must not change"
    unmoved = next(run for run in record["runs"] if run["start"] == "pretrained" and run["rate"] == 1e-9)
    assert unmoved["validation_bits"][0] == pytest.approx(record["before"]["validation"], abs=2e-3)
    assert unmoved["test_bits"] == pytest.approx(record["before"]["test"], abs=1e-3)
    assert unmoved["after"]["The Brass Yard"] == pytest.approx(record["before"]["The Brass Yard"], abs=1e-3)
    train_ids, validation_ids, test_ids = measure_fine_tuning.splits(book)
    assert torch.equal(torch.cat([train_ids, validation_ids]), book.split()[0])
    assert torch.equal(test_ids, book.split()[1])


def test_it_continues_its_record_but_not_that_of_other_weights(tiny, monkeypatch):
    path, *_ = tiny
    monkeypatch.setattr(measure_fine_tuning, "measured", lambda model, texts, tokenizer: dict.fromkeys(texts, 1.0))
    measure_fine_tuning.record(path)
    record = json.loads(path.read_text("utf-8"))
    record["runs"] = record["runs"][:3]
    path.write_text(json.dumps(record), "utf-8")
    calls, fine_tuned = [], measure_fine_tuning.fine_tuned
    monkeypatch.setattr(measure_fine_tuning, "fine_tuned", lambda *args: calls.append(args) or fine_tuned(*args))
    measure_fine_tuning.record(path)
    assert len(calls) == 5 and len(json.loads(path.read_text("utf-8"))["runs"]) == 8
    monkeypatch.setattr(assets, "sha256", lambda path: "another")
    calls.clear()
    measure_fine_tuning.record(path)
    assert len(calls) == 8


def test_rates_are_added_until_the_best_lies_inside(tiny, monkeypatch):
    path, *_ = tiny
    monkeypatch.setattr(measure_fine_tuning, "RATES", {"pretrained": (1e-9, 0.03)})
    monkeypatch.setattr(measure_fine_tuning, "SEEDS", (0,))
    measure_fine_tuning.record(path)
    rates = [run["rate"] for run in json.loads(path.read_text("utf-8"))["runs"]]
    assert rates == pytest.approx([1e-9, 0.03, 0.09, 0.27])
