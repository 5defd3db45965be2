"""data/recipes/measure_gpt2_course.py: its measures on known input, and a bar that is missed for each reason."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from data.recipes import library, make_gpt2_course, measure_gpt2_course
from helpers import corpus, ngrams
from helpers.machine import assets
from tests import small

REACHED = {
    "authors": {author: {"model": 1.6, "trigram": 1.8} for author in library.TEST_AUTHORS},
    "gulliver": {"model": 1.7, "trained on Gulliver alone": {"trigram": 1.9, "laptop model": 2.0},
                 "also in the training books": {"words in each": 13, "sequences": 10, "shared": 0}},
    "context": [{"context": 1, "loss": 6.0}]
    + [{"context": length, "loss": 5.0, "fall": 0.1, "standard error": 0.02} for length in (2, 4, 64, 128)]
    + [{"context": 255, "loss": 5.0, "fall": 0.0, "standard error": 0.02}],
    "heads": {kind: {"score": 0.5} for kind in ("induction", "previous token")},
}


def test_what_reaches_every_bar_is_judged_so():
    rows = measure_gpt2_course.judged(REACHED)
    assert len(rows) == 7 and all(reached for _, _, reached in rows)


@pytest.mark.parametrize("change, bar", [
    (lambda r: r["authors"][library.TEST_AUTHORS[1]].update(model=1.71), library.TEST_AUTHORS[1]),
    (lambda r: r["gulliver"].update(model=1.9), "Gulliver's test set, below"),
    (lambda r: r["gulliver"]["also in the training books"].update(shared=1), "no sequence of 13 words"),
    (lambda r: r["context"][4].update(fall=0.04), "128 tokens"),
    (lambda r: r["heads"]["induction"].update(score=0.4), "induction score"),
    (lambda r: r["heads"]["previous token"].update(score=0.1), "previous token score"),
])
def test_each_bar_can_be_missed_alone(change, bar):
    results = copy.deepcopy(REACHED)
    change(results)
    missed = [name for name, _, reached in measure_gpt2_course.judged(results) if not reached]
    assert len(missed) == 1 and bar in missed[0]


def test_shared_sequences_ignore_case_and_the_kind_of_apostrophe(monkeypatch):
    books = [library.Book("Somebody", "A", 1800, "It's the captain's own ship. Nothing else."),
             library.Book(library.TEST_AUTHORS[0], "B", 1850, "we all saw the sea")]
    monkeypatch.setattr(library, "books", lambda: books)
    found = measure_gpt2_course.shared_sequences("Yes, IT’S the Captain’s own: we all saw the sea", length=4)
    assert found == {"words in each": 4, "sequences": 7, "shared": 1}  # the test author's book does not count


def test_each_author_has_the_trigram_loss_of_his_own_text(monkeypatch):
    authors = (*library.VALIDATION_AUTHORS, *library.TEST_AUTHORS)
    books = [library.Book(author, "A", 1850, f"{word} sea and the {word} wind were calm. " * 40)
             for author, word in zip(authors, ("The", "One", "No"))]
    monkeypatch.setattr(library, "books", lambda: books)
    monkeypatch.setattr(measure_gpt2_course, "SAMPLE", 200)
    monkeypatch.setattr(measure_gpt2_course.training, "evaluate", lambda model, ids, context: 1.0)
    tokenizer = corpus.load_tokenizer("library")
    train_ids = tokenizer.encode("The sea was calm, and the wind was cold. " * 30)
    model = small.GPT(small.MODEL)
    results = measure_gpt2_course.held_out_authors(model, tokenizer, train_ids)
    for book in books:
        ids = make_gpt2_course.spread(library.encoded([book.text], tokenizer), 200, pieces=40)
        loss = ngrams.trigram_loss(train_ids, ids, tokenizer.vocab_size)
        assert results[book.author]["trigram"] == pytest.approx(tokenizer.bits_per_byte(loss, ids), abs=1e-4)
    assert len({row["trigram"] for row in results.values()}) == 3


def test_the_loss_by_context_compares_the_same_tokens(monkeypatch):
    """A model that knows the next token for sure where it sees three tokens or more, and nothing otherwise."""
    monkeypatch.setattr(measure_gpt2_course, "CONTEXTS", (1, 2, 4))
    monkeypatch.setattr(measure_gpt2_course, "PREDICTED", 30)
    ids = torch.arange(200) % 7

    def model(rows, last_only):
        certainty = 50.0 if rows.shape[1] > 2 else 0.0
        return certainty * F.one_hot((rows[:, -1:] + 1) % 7, 7).float()  # (B, 1, 7)

    rows = measure_gpt2_course.loss_by_context(model, ids)
    assert [row["context"] for row in rows] == [1, 2, 4]
    assert [row["loss"] for row in rows] == pytest.approx([math.log(7), math.log(7), 0], abs=1e-4)
    assert [row["fall"] for row in rows[1:]] == pytest.approx([0, math.log(7)], abs=1e-4)
    assert [row["standard error"] for row in rows[1:]] == [0, 0]


def test_encoded_splits_are_made_anew_when_the_tokenizer_or_the_library_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(make_gpt2_course, "RUN", tmp_path)
    texts = iter(("The sea was calm.", "The wind rose."))
    monkeypatch.setattr(library, "books", lambda: [library.Book("Somebody", "A", 1800, text)])
    tokenizer = corpus.load_tokenizer("library")
    text = next(texts)
    first = make_gpt2_course.library_ids("train", tokenizer)
    assert tokenizer.decode(first[1:]) == text and first[0] == tokenizer.end_of_text
    text = next(texts)
    assert tokenizer.decode(make_gpt2_course.library_ids("train", tokenizer)[1:]) == text  # another text
    monkeypatch.setattr(library, "encoded", lambda texts, tokenizer: first)
    assert tokenizer.decode(make_gpt2_course.library_ids("train", tokenizer)[1:]) == text, "kept"
    monkeypatch.setattr(assets, "sha256", lambda path: f"another {path.name}")
    assert torch.equal(make_gpt2_course.library_ids("train", tokenizer), first), "made anew"
