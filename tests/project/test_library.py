"""data/recipes: the library's splits and layout, and the recipe of the course's GPT-2 at a tiny size."""

import hashlib
import json
import lzma
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.recipes import library, make_gpt2_course
from helpers import corpus, pretrained, training
from helpers.machine import assets

TEXT = """He said: "It's the captain's ship." She laughed! 'Tis late, and """ + "the wind was high; " * 12 + "\n\nEND"


def test_no_author_is_in_two_splits_and_swift_is_in_none():
    rows = library.listed()
    authors = {row["author"] for row in rows}
    assert len(rows) == 400 and not any("Swift" in author for author in authors)
    held_out = {*library.VALIDATION_AUTHORS, *library.TEST_AUTHORS}
    assert held_out <= authors and len(held_out) == len(library.VALIDATION_AUTHORS) + len(library.TEST_AUTHORS)
    splits = {author: library.Book(author, "", 0, "").split for author in authors}
    assert {author for author, split in splits.items() if split != "train"} == held_out
    assert all(re.fullmatch(r"\d*", row["gutenberg"]) and len(row["sha256"]) == 64 for row in rows)


@pytest.mark.parametrize("double_space", [False, True])
def test_a_text_in_lines_has_short_lines_curly_quotes_and_the_same_words(double_space):
    lines = library.in_lines(TEXT, width=70, double_space=double_space)
    assert max(map(len, lines.split("\n"))) <= 70 and lines.count("\n") > TEXT.count("\n")
    assert "“It’s the captain’s ship.”" in lines and "‘Tis late" in lines
    assert ("”  She laughed! ‘Tis" in lines) == double_space
    straight = re.sub("[“”]", '"', re.sub("[‘’]", "'", lines))
    assert straight.split() == TEXT.split()


def test_the_same_books_are_always_set_in_lines_about_a_third():
    books = [library.Book(row["author"], row["title"], 0, TEXT) for row in library.listed()]
    in_lines = [book.training_text() != TEXT for book in books]
    assert sum(in_lines) == 152
    assert sum(differs for differs, book in zip(in_lines, books) if book.split == "train") == 146


def test_without_the_folder_the_numbered_books_come_from_gutenberg(monkeypatch, tmp_path):
    downloaded = []

    def gutenberg(number):
        downloaded.append(number)
        path = tmp_path / f"{number}.txt"
        path.write_text("*** START OF THE BOOK ***\nOne line\nof a book.\n\nAnother.\n*** END OF THE BOOK ***\n")
        return assets.Asset(path, "a book")

    monkeypatch.setattr(assets, "gutenberg", gutenberg)
    monkeypatch.setattr(library, "PAUSE", 0)
    books = library.from_gutenberg()
    numbers = {int(row["gutenberg"]) for row in library.listed() if row["gutenberg"]}
    assert downloaded == sorted(numbers) and len(books) == len(numbers) > 300
    assert {book.text for book in books} == {"One line of a book.\n\nAnother."}


def test_a_library_with_other_texts_is_refused(monkeypatch, tmp_path):
    (tmp_path / "library").mkdir()
    rows = [{"author": "A", "title": "One", "year": 1800, "text": "the sea"}]
    with lzma.open(tmp_path / "library" / "library.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    listed = [{"title": "One", "sha256": hashlib.sha256(b"the sea").hexdigest()}]
    monkeypatch.setattr(assets, "assets_folder", lambda: tmp_path)
    monkeypatch.setattr(library, "listed", lambda: listed)
    assert [book.text for book in library.books.__wrapped__()] == ["the sea"]
    for wrong in ([], [{**listed[0], "sha256": "0"}], [*listed, {"title": "Two", "sha256": "1"}]):
        monkeypatch.setattr(library, "listed", lambda wrong=wrong: wrong)
        with pytest.raises(ValueError, match="1 books are not those of library.tsv"):
            library.books.__wrapped__()


@pytest.fixture
def small_recipe(monkeypatch, tmp_path):
    """The recipe of the course's GPT-2, with a tiny model, two books and folders of its own."""
    books = [library.Book("Somebody", "A Voyage", 1700, "The sea was calm and the captain slept. " * 150),
             library.Book(library.VALIDATION_AUTHORS[0], "Held out", 1860, "The captain slept by the sea. " * 100)]
    monkeypatch.setattr(library, "books", lambda: books)
    monkeypatch.setattr(make_gpt2_course, "RUN", tmp_path / "run")
    monkeypatch.setattr(make_gpt2_course, "MODEL_FOLDER", tmp_path / "model")
    monkeypatch.setattr(make_gpt2_course, "MODEL", replace(
        make_gpt2_course.MODEL, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    monkeypatch.setattr(make_gpt2_course, "TRAINING", replace(
        make_gpt2_course.TRAINING, context=16, batch_size=4, steps=6, warmup_steps=1, eval_every=2, eval_tokens=160,
        sample_every=6, sample_tokens=3))
    return tmp_path


def test_the_recipe_stops_continues_and_saves_a_model_that_both_libraries_load(small_recipe, capsys):
    make_gpt2_course.main(["--stop-after", "2"])
    assert not (small_recipe / "model").exists()
    make_gpt2_course.main([])
    record = json.loads((small_recipe / "model" / "training.json").read_text("utf-8"))
    assert [entry["step"] for entry in record["log"]] == [0, 2, 4, 6] and record["read"] == 6 * 4 * 16
    assert record["log"][-1]["validation_loss"] < record["log"][0]["validation_loss"]
    theirs = AutoModelForCausalLM.from_pretrained(small_recipe / "model")
    assert next(theirs.parameters()).dtype == torch.float32
    ours, ids = pretrained.from_huggingface(theirs), corpus.load_tokenizer("library").encode("The captain slept")[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_a_share_of_the_pieces_repeats_a_passage_of_its_own_length_and_the_others_stay_as_they_are():
    ids = torch.arange(200 * 32 + 5)
    repeated = make_gpt2_course.with_repetitions(ids, 0.25, length=32, periods=(4, 12)).view(200, 32)
    pieces, lengths = ids[: 200 * 32].view(200, 32), []
    for piece, original in zip(repeated, pieces):
        if not piece.equal(original):
            lengths.append(int((piece[1:] == piece[0]).nonzero()[0]) + 1)
            assert piece.equal(original[torch.arange(32) % lengths[-1]])
    assert 30 < len(lengths) < 70 and set(lengths) == set(range(4, 13))


def test_the_recipe_changes_to_repeating_text_at_the_steps_that_it_names(small_recipe, monkeypatch):
    shares = []
    monkeypatch.setattr(make_gpt2_course, "REPEATED", ((0, 0.0), (2, 0.2), (4, 0.05)))
    monkeypatch.setattr(make_gpt2_course, "with_repetitions", lambda ids, share: shares.append(share) or ids)
    make_gpt2_course.main(["--stop-after", "3"])
    assert shares == [0.2]
    make_gpt2_course.main([])
    assert shares == [0.2, 0.2, 0.05]
    assert [step for step, _ in training.load_checkpoint(small_recipe / "run")["history"]["samples"]][-1] == 6


def test_a_spread_sample_comes_from_all_parts():
    sample = make_gpt2_course.spread(torch.arange(1000), 80, pieces=8)
    assert len(sample) == 80 and sample[0] == 0 and sample[-1] == 999
    assert sample.view(8, 10).diff(dim=1).eq(1).all()
