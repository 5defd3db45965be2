"""data/recipes/measure_positions.py: tenths, the choice of the books, and a record that continues after a stop."""

import json
from types import SimpleNamespace

import pytest
import torch

from data.recipes import library, measure_positions
from helpers import corpus
from helpers.course import experiment_results, experiments
from helpers.machine import timing
from tests import small

TITLES = ("One", "Two", "Three", "Four", "Five", "Six")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A library of six short books that fit and two that do not, a record of its own, and no training.
    Returns what was trained: (title's length, position)."""
    monkeypatch.setattr(measure_positions, "WORDS", (10, 20))
    monkeypatch.setattr(measure_positions, "MODEL_BOOKS", 3)
    monkeypatch.setattr(measure_positions, "RECORD", tmp_path / "positions.json")
    books = [library.Book(f"Author {i}", title, 1800 + i, "word " * (12 + i)) for i, title in enumerate(TITLES)]
    others = [library.Book("A", "Too short", 1800, "word " * 9), library.Book("A", "Too long", 1800, "word " * 21)]
    monkeypatch.setattr(library, "books", lambda: [*books, *others])
    tokenizer = SimpleNamespace(name="a tokenizer", vocab_size=50, encode=lambda text: torch.arange(len(text.split())))
    monkeypatch.setattr(corpus, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(corpus, "load_gulliver", lambda name: None)
    trained = []
    monkeypatch.setattr(measure_positions, "trigram_losses", lambda ids, V: [float(len(ids))] * 10)
    monkeypatch.setattr(measure_positions, "model_loss", lambda ids, position, rate, V: (
        trained.append((len(ids), position)) or rate))
    monkeypatch.setattr(experiments, "rate_of", lambda *arguments: 0.02)
    return trained


def saved():
    return json.loads(measure_positions.RECORD.read_text(encoding="utf-8"))


def test_the_tenths_partition_the_text():
    ids = torch.arange(103)
    tenths = [measure_positions.tenth(ids, position) for position in range(10)]
    assert torch.equal(torch.cat([test for _, test in tenths]), ids)
    for position, (train, test) in enumerate(tenths):
        assert torch.equal(torch.cat([train, test]).sort().values, ids) and len(test) in (10, 11)
        assert train.tolist() == sorted(train.tolist()), position
    assert tenths[0][1][0] == 0 and tenths[9][1][-1] == 102


def test_the_trigram_is_counted_without_the_tenth_on_which_it_is_tested(monkeypatch):
    asked = []
    monkeypatch.setattr(measure_positions.ngrams, "trigram_loss", lambda train, test, V: asked.append(
        (train, test)) or 1.23456)
    ids = torch.arange(200)
    assert measure_positions.trigram_losses(ids, 300) == [1.2346] * 10
    assert all(not set(train.tolist()) & set(test.tolist()) for train, test in asked)
    assert [int(test[0]) for _, test in asked] == list(range(0, 200, 20))


def test_books_of_the_range_are_chosen_in_a_fixed_order(fake):
    first, second = measure_positions.chosen_books(), measure_positions.chosen_books()
    assert first == second and {book.title for book in first} == set(TITLES)
    assert [book.title for book in first] != list(TITLES), "not the order of the library, in which authors follow"


def test_a_model_learns_the_other_tenths_with_the_base_arms_recipe(monkeypatch):
    fitted = {}
    monkeypatch.setattr(experiments, "fit", lambda model, data, config: fitted.update(data=data, config=config))
    monkeypatch.setattr(measure_positions.training, "evaluate", lambda model, ids, context: float(len(ids)))
    assert measure_positions.model_loss(torch.arange(50), 3, 0.5, 64) == 5.0
    assert 15 not in fitted["data"] and len(fitted["data"]) == 45
    config = fitted["config"]
    assert (config.learning_rate, config.seed, config.steps, config.optimizer) == (0.5, 3, 200, "muon")


def test_the_record_holds_every_book_and_a_second_run_measures_nothing(fake, monkeypatch):
    measure_positions.main([])
    record = saved()
    assert set(record["books"]) == set(TITLES) and not fake and "date" in record
    assert record["books"]["Three"] == {"author": "Author 2", "year": 1802, "tokens": 14, "trigram": [14.0] * 10}
    monkeypatch.setattr(measure_positions, "trigram_losses", None)  # an error if it is called
    measure_positions.main([])
    assert saved()["books"] == record["books"]


def test_a_stopped_run_continues_with_the_books_and_the_models_that_are_missing(fake, monkeypatch):
    for function, calls, arguments, books in (("trigram_losses", 4, [], 4), ("model_loss", 13, ["--models"], 6)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(measure_positions, function,
                          small.stopped_after(calls, getattr(measure_positions, function)))
            measure_positions.main(arguments)
        assert len(saved()["books"]) == books
    assert len(fake) == 13
    measure_positions.main(["--models"])
    assert len(fake) == 30 == len(set(fake)), "nothing is trained twice"
    modelled = [title for title, book in saved()["books"].items() if book.get("model") == [0.02] * 10]
    assert modelled == [book.title for book in measure_positions.chosen_books()[:3]]
    assert saved()["model"]["rate"] == 0.02


@pytest.mark.parametrize("name, value", [("WORDS", (10, 30)), ("POSITIONS", 5)])
def test_a_record_with_other_settings_is_begun_anew(name, value, fake, monkeypatch):
    measure_positions.main([])
    monkeypatch.setattr(measure_positions, name, value)
    assert measure_positions.load(corpus.load_tokenizer("course"))["books"] == {}


def test_models_of_another_learning_rate_do_not_count(fake, monkeypatch):
    measure_positions.main(["--models"])
    monkeypatch.setattr(experiments, "rate_of", lambda *arguments: 0.01)
    measure_positions.main(["--models"])
    assert len(fake) == 60 and saved()["model"]["rate"] == 0.01
    assert {loss for book in saved()["books"].values() for loss in book.get("model", [])} == {0.01}


def test_without_a_tuned_base_arm_the_models_are_refused(fake, monkeypatch):
    monkeypatch.setattr(experiments, "rate_of", lambda *arguments: None)
    with pytest.raises(SystemExit, match="make experiments"):
        measure_positions.main(["--models"])


def test_the_record_that_ships_is_complete_and_belongs_to_the_library():
    record = experiment_results.positions()
    assert measure_positions.RECORD == experiment_results.POSITIONS == timing.RECORDS / "positions.json"
    assert record and record["words"] == list(measure_positions.WORDS)
    authors = {row["title"]: row["author"] for row in library.listed()
               if measure_positions.WORDS[0] * 0.9 < int(row["words"]) < measure_positions.WORDS[1] * 1.1}
    assert len(record["books"]) > 100
    for title, book in record["books"].items():
        assert book["author"] == authors[title] and len(book["trigram"]) == 10, title
        assert all(2 < loss < 7 for loss in book["trigram"]) and len(book.get("model", [0] * 10)) == 10, title
    assert sum("model" in book for book in record["books"].values()) == measure_positions.MODEL_BOOKS
