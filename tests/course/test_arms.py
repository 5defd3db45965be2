"""What notebook 09 compares: each arm differs from the base arm as described, in model, training or data."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from helpers import corpus, training
from helpers.course import arms, experiments
from helpers.course.arms import ARMS
from helpers.machine import assets
from helpers.model import GPT, GPTConfig

SHAPE = GPTConfig(vocab_size=101, n_positions=16, n_embd=8, n_layer=2, n_head=2)


@pytest.fixture(scope="module")
def book():
    return corpus.load_text(assets.DATA / "voyage.txt", "course", title="a short book")


@pytest.fixture(scope="module")
def marked(book):
    """The same book with each token's position as its id."""
    return replace(book, ids=torch.arange(len(book.ids)))


def built(name, shape=SHAPE):
    """The model of an arm in a small shape, with the changes of its configuration."""
    return experiments.build(ARMS[name], replace(shape, **ARMS[name].model), shape.vocab_size, 0)


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_arms_cover_each_section_and_have_one_base():
    groups = [arm.group for arm in ARMS.values()]
    sections = {"sampling", "tying", "leakage", "overfitting", "recipe", "cleaning", "pretraining", "budget", "shape",
                "time"}
    assert groups.count("base") == 1 and set(groups) == {"base", *sections}
    assert len({arm.what for arm in ARMS.values()}) == len(ARMS)


@pytest.mark.parametrize("name", ["random", "untied", "tied_wider", "small", "small_no_decay", "wide_init", "fake_tie",
                                  "constant_rate", "adamw", "crlf", "linear_1", "shape_2_8"])
def test_an_arm_differs_from_the_base_arm_in_what_it_names_and_in_nothing_else(name):
    (shape, config), (base_shape, base) = (arms.settings(ARMS[n], "laptop", 5) for n in (name, "base"))
    steps = {"steps": round(ARMS[name].budget * base.steps)} if ARMS[name].budget != 1 else {}
    assert differing(shape, base_shape) == {key: value for key, value in ARMS[name].model.items()
                                            if value != getattr(base_shape, key)}
    changed = differing(config, base)
    changed.pop("eval_every", None)  # how often something is measured trains nothing
    assert changed == {**ARMS[name].training, **steps}


def differing(config, base):
    return {key: value for key, value in asdict(config).items() if value != getattr(base, key)}


def test_the_recipe_arms_change_what_their_names_say():
    configs = {name: arms.settings(arm, "laptop", 0)[1] for name, arm in ARMS.items()}
    assert configs["base"].optimizer == "muon" and configs["adamw"].optimizer == "adamw"
    assert {configs["base"].sampling, configs["random"].sampling} == {"epochs", "random"}
    assert {configs["constant_rate"].learning_rate_at(step) for step in (50, 399)} == {0.02}
    assert {configs["source"].learning_rate_at(step) for step in (0, 100, 399)} == {1e-3}
    assert ARMS["source"].changes == tuple(arms.CHANGES)
    assert (configs["source"].noise, configs["source"].optimizer, configs["source"].sampling) == (0, "adamw", "random")
    assert configs["small_no_decay"].weight_decay == configs["small_no_decay"].embedding_decay == 0 != (
        configs["small"].weight_decay)
    assert arms.settings(ARMS["small_dropout"], "laptop", 0)[0].dropout == 0.1


def test_a_budget_counts_batches_and_its_schedule_ends_with_it():
    base = arms.settings(ARMS["base"], "laptop", 0)[1].steps
    for name, arm in ARMS.items():
        config = arms.settings(arm, "laptop", 0)[1]
        assert config.steps == round(arm.budget * base) and config.warmup_steps <= config.steps // 2, name
        assert not arm.points or config.steps // config.eval_every >= arm.points
        falls = name.split("_")[0] not in ("constant", "source")
        last = config.learning_rate_at(config.steps - 1)
        assert (last < 0.05 * config.learning_rate) == falls, name
    assert arms.settings(replace(ARMS["base"], budget=1e-6), "smoke", 0)[1].steps == 2


def test_a_given_rate_and_seed_are_used():
    config = arms.settings(ARMS["untied"], "laptop", 7, 0.5)[1]
    assert (config.seed, config.learning_rate) == (7, 0.5)
    assert arms.settings(ARMS["untied"], "laptop", 7)[1].learning_rate == 0.02


def test_an_arm_without_a_rate_of_its_own_uses_that_of_an_arm_with_the_same_training():
    for name, arm in ARMS.items():
        if arm.rate_of:
            other = ARMS[arm.rate_of]
            assert other.rate_of is None, name
            assert arm.changes == other.changes and arm.mlp_ratio == other.mlp_ratio and arm.model == other.model, name
            assert arm.group == "leakage" or arm.training == other.training, name
            assert arm.budget != other.budget or arm.split is not other.split, f"{name} repeats {arm.rate_of}"


def test_arms_that_are_measured_on_the_way_have_a_validation_set(book):
    for name, arm in ARMS.items():
        if arm.points:
            split = arm.split(book, 16, 0)
            assert split.validation is not None, name


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_untied_arm_has_a_head_of_its_own():
    base, untied = built("base"), built("untied")
    assert base.lm_head.weight is base.transformer.wte.weight
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert count(untied) - count(base) == 101 * 8


def test_the_changes_of_the_lectures_recipe_do_what_their_names_say():
    ids = torch.arange(24).view(2, 12)
    base, wide, fake, scaled = map(built, ("base", "wide_init", "fake_tie", "scaled_logits"))
    assert 0.9 < wide.transformer.wte.weight.std() < 1.1 and wide.lm_head.weight is wide.transformer.wte.weight
    assert 0.8 < wide.transformer.wpe.weight.std() < 1.2 and base.transformer.wpe.weight.std() < 0.1
    assert torch.equal(fake.lm_head.weight, fake.transformer.wte.weight)
    assert fake.lm_head.weight.data_ptr() != fake.transformer.wte.weight.data_ptr()
    assert torch.allclose(scaled(ids) * math.sqrt(8), base(ids), atol=1e-6)
    expected = torch.nn.functional.cross_entropy(scaled(ids).flatten(0, 1), ids.flatten())
    assert torch.allclose(scaled(ids, ids), expected, rtol=1e-4), "the loss is divided, too"


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("ratio", [1, 2, 8])
def test_the_mlp_ratio_changes_the_mlps_and_nothing_else(ratio):
    torch.manual_seed(0)
    base, model = (GPT(SHAPE) for _ in range(2))
    model.load_state_dict(base.state_dict())
    arms.with_mlp_ratio(model, ratio)
    kept = {name: p for name, p in base.named_parameters() if ".mlp." not in name}
    assert all(torch.equal(dict(model.named_parameters())[name], p) for name, p in kept.items())
    mlps = SHAPE.n_layer * (2 * ratio * 8 * 8 + ratio * 8 + 8)
    assert count(model) == sum(p.numel() for p in kept.values()) + mlps
    assert model(torch.arange(24).view(2, 12)).shape == (2, 12, 101)


def test_mlps_of_another_width_begin_as_gpt_2s_do():
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, n_embd=64))
    arms.with_mlp_ratio(model, 8)
    for block in model.transformer.h:
        assert block.mlp.c_fc.weight.shape == (512, 64) and block.mlp.c_proj.weight.shape == (64, 512)
        assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 2), rel=0.05)
        assert not block.mlp.c_fc.bias.any() and not block.mlp.c_proj.bias.any()


@pytest.mark.parametrize("ratio", [1, 3])
def test_muon_trains_the_matrices_of_every_mlp(ratio):
    config = replace(arms.settings(ARMS["base"], "smoke", 0)[1], batch_size=2, context=8, precision="fp32")
    arm = replace(ARMS["base"], mlp_ratio=ratio)
    model = experiments.build(arm, SHAPE, 101, 0)
    optimizer = training.make_optimizer(model, config)
    muon, adamw = ([p for group in part.param_groups for p in group["params"]] for part in optimizer.optimizers)
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    assert {id(p) for p in muon} == {id(p) for p in matrices} and len(matrices) == 8
    assert {id(p) for p in [*muon, *adamw]} == {id(p) for p in model.parameters()}
    before = [p.clone() for p in matrices]
    experiments.fit(model, torch.arange(101).repeat(2), replace(config, steps=2, warmup_steps=0))
    assert not any(torch.equal(old, new) for old, new in zip(before, matrices))


def counted(name):
    """The parameters of an arm's model at laptop size, on the device that holds no memory."""
    arm, (shape, _) = ARMS[name], arms.settings(ARMS[name], "laptop", 0)
    with torch.device("meta"):
        model = GPT(shape)
        if arm.mlp_ratio != 4:
            arms.with_mlp_ratio(model, arm.mlp_ratio)
    return count(model)


def test_models_of_another_shape_have_as_many_parameters():
    base = counted("base")
    for name in (name for name, arm in ARMS.items() if arm.group == "shape"):
        assert counted(name) == pytest.approx(base, rel=0.031), name
    assert counted("tied_wider") == pytest.approx(counted("untied"), rel=0.02)
    assert counted("untied") > 1.5 * base


def test_the_formula_counts_the_matrices_and_the_rest_is_small():
    for name in ("base", "untied", *(name for name, arm in ARMS.items() if arm.group == "shape")):
        shape = arms.settings(ARMS[name], "laptop", 0)[0]
        formula = arms.parameters_of(shape.n_layer, shape.n_embd, ARMS[name].mlp_ratio,
                                     tied=shape.tie_word_embeddings)
        assert 0 < counted(name) - formula < 0.02 * formula, name


def test_the_shapes_exchange_depth_and_mlp_ratio_for_width():
    shapes = {name: (arms.settings(arm, "laptop", 0)[0], arm.mlp_ratio) for name, arm in ARMS.items()
              if arm.group == "shape"}
    assert all(shape.n_embd % shape.n_head == 0 for shape, _ in shapes.values())
    assert {shape.n_layer for shape, ratio in shapes.values() if ratio == 4} == {1, 4, 8, 16}
    assert {ratio for shape, ratio in shapes.values() if shape.n_layer == 2} == {1, 2, 8, 16}


def test_at_an_equal_time_slow_steps_are_fewer():
    times = arms.step_times()
    for name, ratios in times.items():
        equal_time, equal_size = ARMS[name.replace("shape", "time")], ARMS[name]
        steps = arms.settings(equal_time, "laptop", 0)[1].steps
        assert steps * ratios["middle"] == pytest.approx(arms.settings(ARMS["base"], "laptop", 0)[1].steps, abs=1)
        assert (equal_time.model, equal_time.mlp_ratio) == (equal_size.model, equal_size.mlp_ratio)
    assert set(times) == {name for name, arm in ARMS.items() if arm.group == "shape"}


def test_without_recorded_times_there_are_no_arms_of_equal_time(monkeypatch, tmp_path):
    monkeypatch.setattr(arms, "STEP_TIMES", tmp_path / "none.json")
    assert arms.time_arms(arms.shape_arms()) == {}


# --- splits ----------------------------------------------------------------------------------------------------------


def test_the_base_split_uses_every_token_once(book):
    split = ARMS["base"].split(book, 16, 0)
    assert torch.equal(torch.cat([split.train, split.test]), book.ids) and split.validation is None
    assert len(split.test) / len(book.ids) == pytest.approx(0.1, abs=0.001)


def test_the_validation_set_is_cut_from_the_training_set_alone(book):
    split, base = ARMS["linear_1"].split(book, 16, 0), ARMS["base"].split(book, 16, 0)
    assert torch.equal(torch.cat([split.train, split.validation]), base.train) and torch.equal(split.test, base.test)
    assert len(split.validation) / len(base.train) == pytest.approx(0.1, abs=0.001)


def test_the_small_training_set_is_an_eighth_and_its_other_sets_stay(book):
    split, whole = ARMS["small"].split(book, 16, 0), ARMS["linear_1"].split(book, 16, 0)
    assert len(split.train) == len(book.split()[0]) // 8 and torch.equal(split.train, book.ids[: len(split.train)])
    assert torch.equal(split.validation, whole.validation) and torch.equal(split.test, whole.test)


def test_the_short_text_is_the_one_that_ships(book):
    split = ARMS["voyage_pretrained"].split(replace(book, ids=book.ids[:50]), 16, 0)
    assert torch.equal(torch.cat([split.train, split.validation, split.test]), book.ids)


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
    monkeypatch.setattr(assets, "gulliver", lambda: assets.Asset(path, "raw"))
    split = ARMS["raw"].split(book, 16, 0)
    train, test = book.tokenizer.decode(split.train), book.tokenizer.decode(split.test)
    assert train.startswith("A header") and "A licence" not in train
    assert test.rstrip().endswith("A licence") and "A header" not in test


# --- windows and passages --------------------------------------------------------------------------------------------


def test_windows_start_a_stride_apart():
    windows = arms.windows_of(torch.arange(20), 4, 3)
    assert windows[:, 0].tolist() == [0, 3, 6, 9, 12, 15] and windows.shape == (6, 5)
    assert torch.equal(windows, windows[:, :1] + torch.arange(5))


def tokens(windows):
    return set(windows.flatten().tolist())


@pytest.mark.parametrize("number", [4, 12, 40])
def test_both_splits_of_one_seed_have_the_same_passages_which_do_not_overlap(marked, number):
    by_window, by_passage = (ARMS[f"{kind}_{number}"].split(marked, 16, 3) for kind in ("window", "passage"))
    both = [torch.cat([split.train, split.test]) for split in (by_window, by_passage)]
    assert torch.equal(*(windows[windows[:, 0].argsort()] for windows in both)), "the same windows"
    starts = both[0][:, 0]
    assert len(starts.unique()) == len(starts), "passages that overlap would repeat a window"
    length = min(arms.PASSAGE, len(marked.split()[0]) // number)
    assert len(tokens(both[0])) == number * ((length - 17) // 4 * 4 + 17), "what fills no window is left out"
    assert {int(start) // length for start in by_passage.test[:, 0]} == {t // length for t in tokens(by_passage.test)}
    assert len({t // length for t in tokens(by_passage.test)}) == number // 4
    another = ARMS[f"window_{number}"].split(marked, 16, 4)
    assert tokens(torch.cat([another.train, another.test])) != tokens(both[0]), "each seed draws its own"


@pytest.mark.parametrize("number", [4, 12, 40])
def test_sets_split_by_window_share_tokens_and_those_split_by_passage_do_not(marked, number):
    for kind, shared in (("window", True), ("passage", False)):
        split = ARMS[f"{kind}_{number}"].split(marked, 16, 0)
        assert split.train.shape[1] == split.test.shape[1] == 17
        assert 0.2 < len(split.test) / (len(split.test) + len(split.train)) < 0.3
        assert bool(tokens(split.train) & tokens(split.test)) == shared
        assert torch.equal(split.other["new text"], marked.split()[1])
        assert torch.equal(split.validation, corpus.split_validation(marked.split()[0])[1])
        assert not tokens(split.validation) & (tokens(split.train) | tokens(split.test))
        assert not tokens(split.other["new text"]) & (tokens(split.train) | tokens(split.test))
