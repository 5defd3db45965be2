"""The experiments of notebook 09: arms differ in what they say, records are whole, and a stopped program goes on."""

import json
import math
from dataclasses import replace

import pytest
import torch

from helpers import corpus, training
from scripts import experiments
from scripts.experiments import ARMS


@pytest.fixture(scope="module")
def book():
    return corpus.load_text("data/voyage.txt", "course", title="a short book")


@pytest.fixture
def quick(monkeypatch, book):
    """A tiny model, two steps, and a short text instead of the book."""
    few = replace(experiments.SIZES["smoke"].training, steps=2, eval_every=1, eval_tokens=64, context=16, batch_size=2)
    shape = replace(experiments.SIZES["smoke"].model, n_embd=8)
    monkeypatch.setitem(experiments.SIZES, "smoke", training.Recipe("course", shape, few))
    monkeypatch.setattr(corpus, "load_gulliver", lambda tokenizer: book)
    monkeypatch.setattr(experiments, "text_quality", lambda *arguments: {"known words": 0.5})


def test_the_table_has_each_group_and_one_base():
    groups = [arm.group for arm in ARMS.values()]
    assert groups.count("base") == 1 and {"a", "b", "c", "d", "e", "f", "leak"} <= set(groups)
    assert len({arm.what for arm in ARMS.values()}) == len(ARMS)
    assert ARMS["source"].changes == tuple(experiments.CHANGES) and ARMS["source"].training == experiments.CONSTANT


def test_an_arm_changes_what_it_says():
    tied, untied = (experiments.build(ARMS[name], *shape_of(name)) for name in ("base", "untied"))
    assert tied.lm_head.weight is tied.transformer.wte.weight
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert experiments.settings(ARMS["small_dropout"], "laptop", 0)[0].dropout == 0.1
    config = experiments.settings(ARMS["constant_rate"], "laptop", 5)[1]
    assert {config.learning_rate_at(step) for step in (0, 100, 299)} == {1e-3} and config.seed == 5
    assert experiments.settings(ARMS["voyage_longer"], "laptop", 0)[1].steps == 1.2 * 300


def shape_of(name, vocab_size=101):
    return experiments.settings(ARMS[name], "smoke", 0)[0], vocab_size, 0


def test_the_sources_changes_do_what_they_are_named_after():
    ids = torch.arange(24).view(2, 12)
    base, wide, fake, scaled = (experiments.build(ARMS[name], *shape_of(name))
                                for name in ("base", "wide_init", "fake_tie", "scaled_logits"))
    assert wide.transformer.wte.weight.std() > 0.9 and wide.lm_head.weight is wide.transformer.wte.weight
    assert torch.equal(fake.lm_head.weight, fake.transformer.wte.weight)
    assert fake.lm_head.weight.data_ptr() != fake.transformer.wte.weight.data_ptr()
    assert torch.allclose(scaled(ids) * math.sqrt(base.config.n_embd), base(ids), atol=1e-6)
    assert torch.allclose(scaled(ids, ids).exp(), torch.nn.functional.cross_entropy(
        scaled(ids).flatten(0, 1), ids.flatten()).exp(), rtol=1e-4)


def test_splits_use_every_token_once(book):
    for name in ("base", "head", "middle", "blocked", "interleaved"):
        parts = ARMS[name].text(book, 16, 0)
        both = torch.cat([parts.train, parts.test])
        assert torch.equal(both.sort().values, book.ids.sort().values), name
        assert 0.07 < len(parts.test) / len(book.ids) < 0.13, name
    assert torch.equal(ARMS["head"].text(book, 16, 0).test, book.ids[: len(ARMS["head"].text(book, 16, 0).test)])


def test_other_cleanings_keep_the_same_words(book):
    train, test = map(book.tokenizer.decode, book.split())
    crlf, unwrapped = (ARMS[name].text(book, 16, 0) for name in ("crlf", "unwrapped"))
    assert book.tokenizer.decode(crlf.test).replace("\r\n", "\n") == test
    assert "\r\n" in book.tokenizer.decode(crlf.train)
    flat = book.tokenizer.decode(unwrapped.train)
    assert flat.split() == train.split() and flat.count("\n") < train.count("\n") / 3
    assert torch.equal(crlf.also["clean test part"], book.split()[1])


def test_the_raw_text_has_header_and_licence_in_different_parts(book, monkeypatch, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_bytes(b"A header\r\n*** START OF THIS EBOOK ***\r\nbook\r\n*** END OF THIS EBOOK ***\r\nA licence\r\n")
    monkeypatch.setattr(experiments.assets, "gulliver", lambda: experiments.assets.Asset(path, "raw"))
    parts = ARMS["raw"].text(book, 16, 0)
    train, test = book.tokenizer.decode(parts.train), book.tokenizer.decode(parts.test)
    assert train.startswith("A header") and "A licence" not in train
    assert test.rstrip().endswith("A licence") and "A header" not in test


def test_windows_split_at_random_share_tokens_and_grouped_ones_do_not(book):
    marked = replace(book, ids=torch.arange(len(book.ids)))  # every token is its own place
    for name, shared in (("few_random", True), ("few_grouped", False), ("many_random", True), ("many_grouped", False)):
        parts = ARMS[name].text(marked, 16, 0)
        assert parts.train.shape[1] == parts.test.shape[1] == 17
        assert 0.15 < len(parts.test) / (len(parts.test) + len(parts.train)) < 0.35
        assert bool(set(parts.train.flatten().tolist()) & set(parts.test.flatten().tolist())) == shared, name
        assert parts.also["new text"].min() > max(parts.train.max(), parts.test.max())


def test_an_epoch_visits_every_window_once(quick, book):
    shape, config = experiments.settings(ARMS["epochs"], "smoke", 0)
    parts = ARMS["epochs"].text(book, config.context, 0)
    assert torch.equal(parts.train[:, :-1].flatten(), book.split()[0][: parts.train[:, :-1].numel()])
    seen = []
    model = experiments.build(ARMS["epochs"], shape, book.tokenizer.vocab_size, 0)
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]) if module.training else None)
    windows, steps = parts.train[:13], 13 // config.batch_size
    config = replace(config, steps=steps, eval_every=steps)
    history = experiments.train_by_epochs(model, windows, parts.test[:65], config)
    rows = torch.cat(seen)
    assert len(rows) == steps * config.batch_size == len({tuple(row) for row in rows.tolist()})
    assert len(history.train_loss) == steps and history.test_step == [0, steps]


def test_the_loss_of_windows_is_that_of_their_tokens(book):
    model = experiments.build(ARMS["base"], *shape_of("base", book.tokenizer.vocab_size))
    _, config = experiments.settings(ARMS["base"], "smoke", 0)
    ids = book.ids[: 5 * config.context + 1]
    windows = experiments.windows_of(ids, config.context, config.context)
    expected = training.evaluate(model, ids, config.context)
    assert experiments.mean_loss(model, windows, config) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_runs(name, quick, book):
    found = experiments.run(ARMS[name], book, "smoke", 0)
    json.dumps(found)
    assert math.isfinite(found["final"]) and len(found["test_step"]) == len(found["test_loss"]) >= 2
    assert found["passes"] > 0 and ("quality" in found) == ("train_tokens" in found)


def test_records_are_resumed_and_an_old_setting_does_not_count(quick, tmp_path, monkeypatch, capsys):
    names = ["base", "few_random"]
    experiments.record(names, "smoke", (0,), folder=tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 2
    before = (tmp_path / "smoke" / "base.json").read_text()
    experiments.record(names, "smoke", (0, 1), folder=tmp_path)
    said = capsys.readouterr().out
    assert "1/2 base, seed 1" in said and "2/2 few_random, seed 1" in said
    found = experiments.load("smoke", tmp_path)
    assert list(found) == names and list(found["base"]["runs"]) == ["0", "1"]
    assert found["base"]["runs"]["0"] == json.loads(before)["runs"]["0"] != found["base"]["runs"]["1"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]

    monkeypatch.setitem(ARMS, "base", replace(ARMS["base"], training={"learning_rate": 1e-4}))
    assert experiments.main(["--list", "--arms", *names, "--size", "smoke", "--folder", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "recorded: none" in listed[0] and "recorded: 0, 1" in listed[1]


def test_the_stand_in_never_replaces_the_book(book):
    real, other = (experiments.place("base", "smoke", replace(book, is_stand_in=yes)) for yes in (False, True))
    assert real.parent != other.parent and real.name == other.name


def test_half_a_run_is_not_recorded(quick, book, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *arguments, **options: training.History(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        experiments.run(ARMS["base"], book, "smoke", 0)


def test_curves_are_thinned_to_means():
    assert experiments.thinned([float(i) for i in range(100)])[:2] == [1.5, 5.5]
    assert len(experiments.thinned([0.0] * 1000)) == experiments.POINTS
    assert experiments.thinned([2.0, 4.0]) == [2.0, 4.0]


def test_the_recorded_files_are_small_and_whole():
    for path in experiments.FOLDER.rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["arm"] in ARMS and found["what"] == ARMS[found["arm"]].what and found["runs"]
        assert path.stat().st_size < 20_000


def test_quality_of_a_text(book):
    model = experiments.build(ARMS["base"], *shape_of("base", book.tokenizer.vocab_size))
    _, config = experiments.settings(ARMS["base"], "smoke", 0)
    found = experiments.text_quality(model, book, book.split()[0], config, texts=2)
    assert set(found) >= {"known words", "distinct pairs", "longest copy, largest"}
    assert all(0 <= found[name] <= 1 for name in ("known words", "distinct pairs", "line lengths in common"))
