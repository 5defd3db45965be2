"""The offline promise: what ships in data/ is intact, is our own, and is enough to run the course."""

import hashlib
import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import corpus
from helpers.course import command_line
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


def test_the_small_gpt2_loads_from_its_folder_and_has_learned():
    model = AutoModelForCausalLM.from_pretrained(assets.DATA / "gpt2-course", local_files_only=True)
    tokenizer = corpus.load_tokenizer("course")
    record = json.loads((assets.DATA / "gpt2-course" / "training.json").read_text())
    assert model.config.vocab_size == tokenizer.vocab_size and next(model.parameters()).dtype == torch.float32
    _, test = corpus.load_text(assets.DATA / "voyage.txt", tokenizer).split()
    with torch.no_grad():
        loss = model(test[None, :256], labels=test[None, :256]).loss.item()
    assert loss < 6.5 < math.log(4096)  # on text that it has never seen, far better than guessing
    losses = [loss for _, loss in record["history"]]
    assert min(losses) == pytest.approx(record["test_loss_nats_per_token"], abs=1e-3)
    assert all(loss > min(losses) for loss in losses[-record["patience"] :])  # training followed its stopping rule


def test_the_command_line_trains_on_the_voyage_alone(offline, capsys):
    corpus.load_tokenizer.cache_clear()
    status = command_line.main(["--out", str(offline / "run"), "--size", "smoke", "--steps", "5"])
    printed = capsys.readouterr()
    assert status == 0 and "Stand-in" in printed.out and "bits per byte" in printed.out, printed.err
    corpus.load_tokenizer.cache_clear()
