"""The offline promise: what ships in data/ is whole, is ours, and is enough."""

import hashlib
import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import assets, corpus, training

LISTED = [line.split(maxsplit=1) for line in (assets.DATA / "SHA256SUMS").read_text().splitlines()]


@pytest.mark.parametrize("expected, name", LISTED)
def test_bundled_files_are_the_ones_listed(expected, name):
    assert hashlib.sha256((assets.DATA / name).read_bytes()).hexdigest() == expected


def test_every_bundled_file_is_listed_and_described():
    files = [p.relative_to(assets.DATA) for p in assets.DATA.rglob("*") if p.is_file()]
    bundled = {path.as_posix() for path in files if not path.name.startswith(".")}
    own = {name for name in bundled if not name.startswith(("cache/", "recipes/", "measurements/"))}
    assert own - {"README.md", "SHA256SUMS"} == {name for _, name in LISTED}
    described = (assets.DATA / "README.md").read_text(encoding="utf-8")
    for name in {name.split("/")[0] for _, name in LISTED}:
        assert f"`{name}" in described, name


def test_the_voyage_is_long_and_none_of_it_is_swifts(real_files):
    def runs(text, length=9):
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}

    voyage = corpus.read_text(assets.DATA / "voyage.txt")
    assert len(voyage.split()) >= 8_000 and voyage.count("CHAPTER") >= 10 and voyage.count("“") > 50
    assert not runs(voyage) & runs(corpus.load_gulliver().text)


def test_the_small_gpt2_loads_by_its_path_and_has_learned():
    model = AutoModelForCausalLM.from_pretrained(assets.DATA / "gpt2-course", local_files_only=True)
    tokenizer = corpus.load_tokenizer("course")
    record = json.loads((assets.DATA / "gpt2-course" / "training.json").read_text())
    assert model.config.vocab_size == tokenizer.vocab_size and next(model.parameters()).dtype == torch.float32
    _, test = corpus.load_text(assets.DATA / "voyage.txt", tokenizer).split()
    with torch.no_grad():
        loss = model(test[None, :256], labels=test[None, :256]).loss.item()
    assert loss < 6.5 < math.log(4096)  # what it has never seen, far better than a guess
    losses = [loss for _, loss in record["history"]]
    assert min(losses) == pytest.approx(record["test_loss_nats_per_token"], abs=1e-3)
    assert all(loss > min(losses) for loss in losses[-record["patience"] :])  # the stopping rule was kept


def test_laptop_size_trains_on_the_voyage_alone(offline, capsys):
    corpus.load_tokenizer.cache_clear()
    status = training.main(["--out", str(offline / "run"), "--size", "smoke", "--steps", "5"])
    said = capsys.readouterr()
    assert status == 0 and "STAND-IN" in said.out and "bits per byte" in said.out, said.err
    corpus.load_tokenizer.cache_clear()
