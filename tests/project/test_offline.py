"""The offline promise: what ships in data/ is intact, is our own, and is enough to run the course."""

import hashlib
import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.recipes import measure_gpt2_course
from helpers import circuits, corpus, pretrained
from helpers.course import command_line, pretraining
from helpers.machine import assets

pytestmark = pytest.mark.offline
LISTED = [line.split(maxsplit=1) for line in (assets.DATA / "SHA256SUMS").read_text().splitlines()]


@pytest.mark.parametrize("expected, name", LISTED)
def test_bundled_files_have_their_listed_hashes(expected, name):
    assert hashlib.sha256((assets.DATA / name).read_bytes()).hexdigest() == expected


def test_every_bundled_file_is_listed_and_described():
    files = [p.relative_to(assets.DATA) for p in assets.DATA.rglob("*") if p.is_file()]
    bundled = {path.as_posix() for path in files if not path.name.startswith(".")}
    own = {name for name in bundled if not name.startswith(("cache/", "recipes/", "measurements/"))}
    assert own - {"README.md", "SHA256SUMS"} == {name for _, name in LISTED}
    described = (assets.DATA / "README.md").read_text(encoding="utf-8")
    for name in {name.split("/")[0] for _, name in LISTED}:
        assert f"`{name}" in described, name


def test_the_voyage_is_long_and_copies_nothing_from_swift(real_files):
    def runs(text, length=9):
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}

    voyage = corpus.read_text(assets.DATA / "voyage.txt")
    assert len(voyage.split()) >= 8_000 and voyage.count("CHAPTER") >= 10 and voyage.count("“") > 50
    assert not runs(voyage) & runs(corpus.load_gulliver().text)


@pytest.fixture(scope="module")
def course_gpt2():
    folder = assets.DATA / "gpt2-course"
    theirs = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    records = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("training.json", "abilities.json"))
    return theirs, pretrained.from_huggingface(theirs).eval(), *records


def test_the_courses_gpt2_has_learned_text_that_it_never_saw(course_gpt2):
    theirs, model, training, _ = course_gpt2
    tokenizer = corpus.load_tokenizer("library")
    assert theirs.config.vocab_size == tokenizer.vocab_size and next(theirs.parameters()).dtype == torch.float32
    voyage = corpus.load_text(assets.DATA / "voyage.txt", tokenizer).ids[:2049]
    with torch.no_grad():
        loss = model(voyage[:-1].view(8, 256), voyage[1:].view(8, 256)).item()
    assert tokenizer.bits_per_byte(loss, voyage) < 1.7
    losses = [entry["validation_loss"] for entry in training["log"]]
    assert training["log"][-1]["step"] == training["training"]["steps"] and losses[-1] == min(losses)


def test_the_record_of_its_fine_tuning_belongs_to_these_weights_and_is_complete():
    record = pretraining.fine_tuning()
    assert record and {"device", "type", "torch", "date"} <= set(record)


def test_its_tokenizer_is_the_same_in_both_libraries():
    tokenizer = corpus.load_tokenizer("library")
    theirs = AutoTokenizer.from_pretrained(assets.DATA / "gpt2-course", local_files_only=True)
    text = corpus.read_text(assets.DATA / "voyage.txt") + " 1,726 naïve — “Ægir”\u3000\n\n  \tend"
    assert theirs.encode(text) == tokenizer.encode(text).tolist() and theirs.decode(theirs.encode(text)) == text
    assert len(theirs) == tokenizer.vocab_size and theirs.eos_token_id == tokenizer.end_of_text


def test_it_has_the_heads_that_are_recorded(course_gpt2):
    _, model, _, abilities = course_gpt2
    measured = measure_gpt2_course.heads(model)
    for kind in ("induction", "previous token"):
        assert measured[kind]["score"] == pytest.approx(abilities["heads"][kind]["score"], abs=0.01)
        assert measured[kind]["score"] > circuits.THRESHOLD
        assert [measured[kind][key] for key in ("layer", "head")] == [
            abilities["heads"][kind][key] for key in ("layer", "head")]


def test_its_recorded_bars_are_those_of_the_program_and_all_are_reached(course_gpt2):
    abilities = course_gpt2[-1]
    rows = measure_gpt2_course.judged(abilities)
    assert [[bar["bar"], bar["measured"], bar["reached"]] for bar in abilities["bars"]] == [list(row) for row in rows]
    assert all(reached for _, _, reached in rows) and len(abilities["samples"]) == 9


def test_the_command_line_trains_on_the_voyage_alone(offline, capsys):
    corpus.load_tokenizer.cache_clear()
    status = command_line.main(["--out", str(offline / "run"), "--size", "smoke", "--steps", "5"])
    printed = capsys.readouterr()
    assert status == 0 and "Stand-in" in printed.out and "bits per byte" in printed.out, printed.err
    corpus.load_tokenizer.cache_clear()
