"""The first edition of the experiments: arms differ as described, records are complete, a stopped program continues."""

import json
import math
from dataclasses import replace

import pytest
import torch

from helpers import corpus, training
from helpers.course import first_experiments as experiments, recipes
from helpers.course.first_experiments import ARMS
from helpers.machine import checkpoints


@pytest.fixture(scope="module")
def book():
    return corpus.load_text("data/voyage.txt", "course", title="a short book")


@pytest.fixture
def quick(monkeypatch, book):
    """A tiny model, two steps, and a short text instead of the book."""
    recipe = experiments.RECIPES["smoke"]
    config = replace(recipe.training, steps=2, eval_every=1, eval_tokens=64, context=16, batch_size=2)
    monkeypatch.setitem(experiments.RECIPES, "smoke", recipes.Recipe("course", replace(recipe.model, n_embd=8), config))
    monkeypatch.setattr(corpus, "load_gulliver", lambda tokenizer: book)
    monkeypatch.setattr(experiments, "sample_pages", lambda *arguments: None)
    monkeypatch.setattr(experiments, "text_quality", lambda *arguments: {"known words": 0.5})


def test_the_arms_cover_each_group_and_have_one_base():
    groups = [arm.group for arm in ARMS.values()]
    sections = {"recipe", "sampling", "test set", "leakage", "overfitting", "cleaning", "pretraining"}
    assert groups.count("base") == 1 and set(groups) == {"base", *sections}
    assert len({arm.what for arm in ARMS.values()}) == len(ARMS)
    assert ARMS["source"].changes == tuple(experiments.CHANGES) and ARMS["source"].training == experiments.CONSTANT


def test_an_arm_changes_what_its_name_says():
    tied, untied = (experiments.build(ARMS[name], *shape_of(name)) for name in ("base", "untied"))
    assert tied.lm_head.weight is tied.transformer.wte.weight
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert experiments.settings(ARMS["small_dropout"], "laptop", 0)[0].dropout == 0.1
    config = experiments.settings(ARMS["constant_rate"], "laptop", 5)[1]
    assert {config.learning_rate_at(step) for step in (0, 100, 299)} == {1e-3} and config.seed == 5
    assert experiments.settings(ARMS["voyage_longer"], "laptop", 0)[1].steps == 1.2 * 300


def shape_of(name, vocab_size=101):
    return experiments.settings(ARMS[name], "smoke", 0)[0], vocab_size, 0


def test_the_changes_of_the_lectures_recipe_do_what_their_names_say():
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
        split = ARMS[name].split(book, 16, 0)
        both = torch.cat([split.train, split.test])
        assert torch.equal(both.sort().values, book.ids.sort().values), name
        assert 0.07 < len(split.test) / len(book.ids) < 0.13, name
    first_tenth = ARMS["head"].split(book, 16, 0).test
    assert torch.equal(first_tenth, book.ids[: len(first_tenth)])


def test_other_ways_of_cleaning_keep_the_same_words(book):
    train, test = map(book.tokenizer.decode, book.split())
    crlf, unwrapped = (ARMS[name].split(book, 16, 0) for name in ("crlf", "unwrapped"))
    assert book.tokenizer.decode(crlf.test).replace("\r\n", "\n") == test
    assert "\r\n" in book.tokenizer.decode(crlf.train)
    flat = book.tokenizer.decode(unwrapped.train)
    assert flat.split() == train.split() and flat.count("\n") < train.count("\n") / 3
    assert torch.equal(crlf.other["clean test set"], book.split()[1])


def test_the_raw_texts_header_is_trained_on_and_its_licence_is_tested(book, monkeypatch, tmp_path):
    path = tmp_path / "raw.txt"
    path.write_bytes(b"A header\r\n*** START OF THIS EBOOK ***\r\nbook\r\n*** END OF THIS EBOOK ***\r\nA licence\r\n")
    monkeypatch.setattr(experiments.assets, "gulliver", lambda: experiments.assets.Asset(path, "raw"))
    split = ARMS["raw"].split(book, 16, 0)
    train, test = book.tokenizer.decode(split.train), book.tokenizer.decode(split.test)
    assert train.startswith("A header") and "A licence" not in train
    assert test.rstrip().endswith("A licence") and "A header" not in test


def test_sets_split_by_window_share_tokens_and_those_split_by_passage_do_not(book):
    marked = replace(book, ids=torch.arange(len(book.ids)))  # each token's id is its position
    for name, shared in (("few_random", True), ("few_grouped", False), ("many_random", True), ("many_grouped", False)):
        split = ARMS[name].split(marked, 16, 0)
        assert split.train.shape[1] == split.test.shape[1] == 17
        assert 0.15 < len(split.test) / (len(split.test) + len(split.train)) < 0.35
        assert bool(set(split.train.flatten().tolist()) & set(split.test.flatten().tolist())) == shared, name
        assert split.other["new text"].min() > max(split.train.max(), split.test.max())


def test_an_epoch_visits_every_window_once(quick, book):
    shape, config = experiments.settings(ARMS["epochs"], "smoke", 0)
    split = ARMS["epochs"].split(book, config.context, 0)
    assert torch.equal(split.train[:, :-1].flatten(), book.split()[0][: split.train[:, :-1].numel()])
    seen = []
    model = experiments.build(ARMS["epochs"], shape, book.tokenizer.vocab_size, 0)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    windows, steps = split.train[:13], 13 // config.batch_size
    config = replace(config, steps=steps, eval_every=steps)
    history = experiments.train_by_epochs(model, windows, split.test[:65], config)
    rows = torch.cat(seen)
    assert len(rows) == steps * config.batch_size == len({tuple(row) for row in rows.tolist()})
    assert len(history.train_loss) == steps and history.validation_step == [0, steps]


def test_the_loss_on_windows_equals_the_loss_on_their_tokens(book):
    model = experiments.build(ARMS["base"], *shape_of("base", book.tokenizer.vocab_size))
    _, config = experiments.settings(ARMS["base"], "smoke", 0)
    ids = book.ids[: 5 * config.context + 1]
    windows = experiments.windows_of(ids, config.context, config.context)
    expected = training.evaluate(model, ids, config.context)
    assert experiments.mean_loss(model, windows, config) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_runs(name, quick, book):
    results = experiments.run(ARMS[name], book, "smoke", 0)
    json.dumps(results)
    assert math.isfinite(results["final"]) and len(results["test_step"]) == len(results["test_loss"]) >= 2
    assert results["passes"] > 0 and ("quality" in results) == ("train_tokens" in results)


def test_records_are_resumed_and_outdated_settings_do_not_count(quick, tmp_path, monkeypatch, capsys):
    names = ["base", "few_random"]
    experiments.record(names, "smoke", (0,), folder=tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 2
    before = (tmp_path / "smoke" / "base.json").read_text()
    experiments.record(names, "smoke", (0, 1), folder=tmp_path)
    output = capsys.readouterr().out
    assert "1/2 base, seed 1" in output and "2/2 few_random, seed 1" in output
    records = experiments.load_records("smoke", tmp_path)
    assert list(records) == names and list(records["base"]["runs"]) == ["0", "1"]
    assert records["base"]["runs"]["0"] == json.loads(before)["runs"]["0"] != records["base"]["runs"]["1"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]

    monkeypatch.setitem(ARMS, "base", replace(ARMS["base"], training={"learning_rate": 1e-4}))
    assert experiments.main(["--list", "--arms", *names, "--size", "smoke", "--folder", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "recorded: none" in listed[0] and "recorded: 0, 1" in listed[1]


def test_the_stand_in_never_replaces_the_book(book):
    real, stand_in = (experiments.record_path("base", "smoke", replace(book, is_stand_in=is_stand_in))
                      for is_stand_in in (False, True))
    assert real.parent != stand_in.parent and real.name == stand_in.name


def test_an_interrupted_run_is_not_recorded(quick, book, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *arguments, **options: checkpoints.History(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        experiments.run(ARMS["base"], book, "smoke", 0)


def test_curves_are_thinned_to_means():
    assert experiments.thinned([float(i) for i in range(100)])[:2] == [1.5, 5.5]
    assert len(experiments.thinned([0.0] * 1000)) == experiments.CURVE_POINTS
    assert experiments.thinned([2.0, 4.0]) == [2.0, 4.0]


def test_the_record_files_are_small_and_complete():
    for path in experiments.FOLDER.rglob("*.json"):
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert saved["arm"] in ARMS and saved["what"] == ARMS[saved["arm"]].what and saved["runs"]
        assert path.stat().st_size < 20_000


def test_every_arm_is_recorded_with_all_seeds():  # as notebook 09 expects; run `make experiments` after adding an arm
    records = experiments.load_records()
    assert list(records) == list(ARMS)
    assert all(set(record["runs"]) >= set(map(str, experiments.SEEDS)) for record in records.values())


def test_the_machine_is_the_processor_and_its_threads(monkeypatch):
    monkeypatch.setattr(experiments.runtime, "processor_name", lambda: "A processor")
    assert experiments.machine("cpu").startswith("A processor, ")
    monkeypatch.setattr(experiments.runtime, "processor_name", lambda: "")
    assert experiments.machine("cpu").startswith("CPU, ")


def test_quality_of_a_text(book):
    model = experiments.build(ARMS["base"], *shape_of("base", book.tokenizer.vocab_size))
    _, config = experiments.settings(ARMS["base"], "smoke", 0)
    pages = experiments.sample_pages(model, book, config, texts=2)
    assert pages.shape == (2, config.context)
    quality = experiments.text_quality(pages, book, book.split()[0])
    shares = ("known words", "distinct pairs", "line-length overlap", "punctuation overlap")
    assert set(quality) == {*shares, "longest copy, median", "longest copy, largest"}
    assert all(0 <= quality[name] <= 1 for name in shares)
