"""The training loop: it learns, each step is the optimizer's, it repeats with its seed, and it names what is wrong."""

import csv
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from helpers import corpus, training
from helpers.machine import kernels
from helpers.machine.checkpoints import HISTORY
from helpers.model import GPT
from helpers.training import TrainConfig
from tests.small import CONFIG, MODEL, TEST, TRAIN, new_model, train, uninterrupted, weights

CLIPPED = replace(CONFIG, clip_norm=0.5)


def test_it_learns_and_the_history_is_complete(tmp_path):
    config = replace(CONFIG, steps=120, learning_rate=3e-2)
    model, history = train(config, out=tmp_path)
    assert history.validation_loss[0] == pytest.approx(math.log(64), abs=0.3)
    assert history.validation_loss[-1] < 1.0
    arrays = history.as_arrays()
    assert arrays["train_loss"].shape == (120,) and arrays["validation_step"].tolist() == list(range(0, 121, 4))
    with open(tmp_path / HISTORY, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 121 and [float(row["train_loss"]) for row in rows[1:]] == history.train_loss
    assert {int(row["step"]): float(row["validation_loss"]) for row in rows if row["validation_loss"]} == dict(
        zip(history.validation_step, history.validation_loss)
    )
    assert torch.equal(weights(training.load_trained(tmp_path)), weights(model))


def test_the_same_seed_gives_the_same_run():
    (first_model, first), (second_model, second) = train(), train()
    assert first.train_loss == second.train_loss and torch.equal(weights(first_model), weights(second_model))
    assert train(replace(CONFIG, seed=5))[1].train_loss != first.train_loss


def test_samples_of_text_during_the_run_change_no_loss():
    tokenizer = corpus.load_tokenizer("course")
    shape, ids = replace(MODEL, vocab_size=tokenizer.vocab_size), torch.arange(500)
    losses = []
    for chosen in (None, tokenizer):
        torch.manual_seed(1)
        history = training.train(GPT(shape), ids, ids[:50], CONFIG, tokenizer=chosen, progress=False)
        losses.append(history.train_loss)
    assert losses[0] == losses[1]
    assert [step for step, _ in history.samples] == [0, 4, 8, 12] and all(text for _, text in history.samples)


# One step


def test_the_learning_rate_rises_and_falls():
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_share=0.1)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert np.all(np.diff(rates[10:]) < 0)


def test_the_learning_rate_can_stay_high_and_fall_linearly_at_the_end():
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_share=0.0, decay="linear",
                         decay_share=0.2)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[0] == 0.1 and set(rates[9:81]) == {1.0}
    assert rates[90] == pytest.approx(0.5) and rates[100] == pytest.approx(0)
    longer = replace(config, steps=200)  # a run that is continued has the same rates up to its decay
    assert [longer.learning_rate_at(step) for step in range(81)] == rates[:81]


def test_weight_decay_acts_on_matrices_only_and_the_optimizer_is_fused():
    optimizer = training.make_optimizer(new_model(), CONFIG)
    decayed, plain = optimizer.param_groups
    assert all(p.ndim == 2 for p in decayed["params"]) and all(p.ndim == 1 for p in plain["params"])
    assert (decayed["weight_decay"], plain["weight_decay"]) == (CONFIG.weight_decay, 0.0) and decayed["fused"]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(new_model().parameters()))


def test_one_step_is_adamw_on_the_clipped_gradient():
    model, twin = new_model().eval(), new_model().eval()
    x, y = corpus.random_batch(TRAIN, 4, 16, torch.Generator().manual_seed(0))
    optimizer = training.make_optimizer(model, CONFIG)
    loss = training.train_step(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), x, y, 0.01, CLIPPED)
    expected = twin(x, y)
    expected.backward()
    assert loss == pytest.approx(expected.item())
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    for parameter, other in zip(model.parameters(), twin.parameters()):
        decay = 0.01 * CONFIG.weight_decay if other.ndim == 2 else 0.0
        first_step = 0.01 * other.grad / (other.grad.abs() + 1e-8)  # Adam's first step has the size of the rate
        torch.testing.assert_close(parameter, other * (1 - decay) - first_step, atol=2e-5, rtol=1e-4)
        assert parameter.grad is None


def test_float16_clips_the_gradient_itself_and_not_its_scaled_copy(monkeypatch):
    monkeypatch.setattr(kernels, "compute_dtype", lambda device, precision: torch.float16)
    norms = []
    clip_grad_norm = torch.nn.utils.clip_grad_norm_

    def clip(parameters, limit):
        norms.append(clip_grad_norm(parameters, limit))
        return norms[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    model, twin = new_model().eval(), new_model().eval()
    x, y = corpus.random_batch(TRAIN, 4, 16, torch.Generator().manual_seed(0))
    training.train_step(model, training.make_optimizer(model, CONFIG), torch.amp.GradScaler("cpu"), x, y, 0.01, CLIPPED)
    twin(x, y).backward()
    assert norms[0].item() == pytest.approx(clip_grad_norm(twin.parameters(), 9e9).item(), rel=0.02)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5])
@pytest.mark.parametrize("ignored", ["none", "some", "a whole row", "all but one"])
def test_a_batch_in_uneven_parts_gives_the_step_of_the_whole_batch(accumulate, ignored):
    """Five rows in two or three parts are uneven, and so are parts with different numbers of targets that count."""
    x, y = corpus.random_batch(TRAIN, 5, 16, torch.Generator().manual_seed(0))
    if ignored == "some":
        y[torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.7] = -100
    elif ignored == "a whole row":
        y[4] = -100
    elif ignored == "all but one":
        y.flatten()[1:] = -100
    model, twin = new_model().eval(), new_model().eval()
    optimizer, scaler = training.make_optimizer(model, CONFIG), torch.amp.GradScaler("cpu", enabled=False)
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def record_norm(parameters, limit):
        norms.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        return clip(parameters, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", record_norm)
        loss = training.train_step(model, optimizer, scaler, x, y, 0.01, replace(CONFIG, accumulate=accumulate))
    expected = torch.nn.functional.cross_entropy(twin(x).flatten(0, 1), y.flatten())
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in twin.parameters()])
    torch.testing.assert_close(norms[0], gradient, atol=1e-6, rtol=1e-4)


def test_a_batch_without_any_target_that_counts_is_refused_and_leaves_the_weights():
    model, x = new_model(), torch.zeros(4, 16, dtype=torch.int64)
    optimizer, scaler = training.make_optimizer(model, CONFIG), torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(FloatingPointError, match="the loss became nan"):
        training.train_step(model, optimizer, scaler, x, torch.full_like(x, -100), 0.01, CONFIG)
    assert torch.equal(weights(model), weights(new_model()))


def test_clipping_can_be_off():
    free, zero = train(replace(CONFIG, clip_norm=math.inf))[1], train(replace(CONFIG, clip_norm=0))[1]
    assert zero.train_loss == free.train_loss != uninterrupted()[1].train_loss


# Evaluation


@pytest.mark.parametrize("length", [2, 16, 17, 18, 200])
def test_evaluation_covers_every_token_once(length):
    model = GPT(replace(MODEL, n_positions=300)).eval()
    ids = TEST[:length]
    starts = range(0, length - 1, 16)
    windows = [(ids[None, i : i + 16][:, : length - 1 - i], ids[None, i + 1 : i + 17]) for i in starts]
    total = sum(model(x, y).item() * y.numel() for x, y in windows)
    model.train()
    assert training.evaluate(model, ids, 16, 3) == pytest.approx(total / (length - 1), rel=1e-5)
    assert model.training


def test_evaluation_uses_the_devices_precision(monkeypatch):
    model, dtypes = new_model(), []
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    monkeypatch.setattr(kernels, "compute_dtype", lambda device, precision: torch.bfloat16)
    training.evaluate(model, TEST, 16)
    assert set(dtypes) == {torch.bfloat16}


# Precision and torch.compile


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_learns_samples_and_resumes(tmp_path, monkeypatch, dtype):
    """What a GPU does, on the CPU: matrices in 16 bits, parameters in 32, and a scaled loss for float16 (a T4)."""
    monkeypatch.setattr(kernels, "compute_dtype", lambda device, precision: dtype)
    tokenizer = corpus.load_tokenizer("course")
    torch.manual_seed(1)
    model = GPT(replace(MODEL, vocab_size=tokenizer.vocab_size))
    config = replace(CONFIG, steps=20, sample_every=10)
    history = training.train(model, TRAIN, TEST, config, tmp_path, tokenizer=tokenizer, progress=False)
    assert history.validation_loss[-1] < history.validation_loss[0] - 2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert len(history.samples) == 3
    checkpoint = training.load_checkpoint(tmp_path)
    assert (checkpoint["scaler"].get("scale", 0) > 1) == (dtype == torch.float16)
    longer = training.train(model, TRAIN, TEST, replace(config, steps=24), tmp_path, resume=True, progress=False)
    assert longer.train_loss[:20] == history.train_loss and len(longer.train_loss) == 24


def test_the_precision_can_be_chosen():
    dtypes, model = set(), new_model()
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    train(replace(CONFIG, precision="bf16"), model=model)
    assert dtypes == {torch.bfloat16}
    with pytest.raises(ValueError, match="precision='half'.*one of auto, fp32, bf16, fp16"):
        replace(CONFIG, precision="half")


@pytest.mark.slow
def test_compiled_training_has_the_same_losses_and_checkpoint(tmp_path, monkeypatch):
    """torch.compile without its last stage, which needs a C++ compiler. Without dropout both give the same losses."""
    compile_model, shape = torch.compile, replace(MODEL, dropout=0.0, n_layer=1)
    monkeypatch.setattr(torch, "compile", lambda model: compile_model(model, backend="aot_eager"))
    losses = []
    for compiles in (False, True):
        torch.manual_seed(3)
        config = replace(CONFIG, compile=compiles)
        losses.append(train(config, model=GPT(shape), out=tmp_path if compiles else None)[1].train_loss)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    names = list(training.load_checkpoint(tmp_path)["model"])
    assert names == list(GPT(shape).state_dict()), "the compiled wrapper has changed the names"
    training.load_trained(tmp_path)


def test_a_missing_compiler_is_named(monkeypatch):
    error = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def fails(*_):
        raise error("InvalidCxxCompiler: no working C++ compiler found")

    monkeypatch.setattr(training, "train_step", fails)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler .*compile=False.*: InvalidCxxCompiler"):
        train(replace(CONFIG, compile=True))


# What does not fit


@pytest.mark.parametrize(
    "train_ids, message",
    [
        (TRAIN[:10], "has 10 tokens; sequences of 16"),
        (TRAIN[:0], "has 0 tokens"),
        (TRAIN + 1, "run from 1 to 64; the model knows 0 to 63"),
        (TRAIN.float(), "torch.float32"),
        (TRAIN[None], r"\(1, 2000\)"),
    ],
)
def test_data_that_does_not_fit_is_named(train_ids, message):
    with pytest.raises(ValueError, match=message):
        training.train(new_model(), train_ids, TEST, CONFIG, progress=False)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="context=32"):
        train(replace(CONFIG, context=32))
    with pytest.raises(ValueError, match="multiple of 3"):
        train(replace(CONFIG, accumulate=3))


WRONG_SETTINGS = {
    "steps": (0, 1.5, True, "9"), "seed": (-1, 2**63, 0.5), "accumulate": (0,), "warmup_steps": (-1, 2.5, None),
    "learning_rate": (-1, 0, math.nan, math.inf, "1e-3", 10**400), "final_share": (-0.1, 1.1, math.nan),
    "decay_share": (-1, 2, None), "weight_decay": (-0.1, math.inf, "0"), "embedding_decay": (-1, math.nan),
    "noise": (1, -0.1), "beta2": (1, -0.1, math.nan), "clip_norm": (-1, math.nan, None, "1", -math.inf),
    "optimizer": ("sgd", None, ["adamw"]), "decay": ("square", 1), "sampling": ("all", np.ones(2)),
    "precision": ("half", torch.float16), "compile": (1, "yes", None), "eval_every": (0,), "sample_tokens": (-3,),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_every_setting_outside_its_range_is_named(name):
    for value in WRONG_SETTINGS[name]:
        with pytest.raises(ValueError, match=rf"(?s)TrainConfig\({name}=.*\): expected .*"):
            replace(CONFIG, **{name: value})


def test_every_setting_has_a_range():
    assert set(WRONG_SETTINGS) >= {field.name for field in fields(TrainConfig)} - {
        "batch_size", "context", "eval_tokens", "sample_every"}, "these four are like the others named with them"


def test_a_model_with_a_larger_vocabulary_than_the_tokenizer_shows_samples():
    """Some pad the vocabulary to a multiple of 64. What the tokenizer does not know is shown as U+FFFD."""
    tokenizer = corpus.load_tokenizer("course")
    torch.manual_seed(0)
    model = GPT(replace(MODEL, vocab_size=2 * tokenizer.vocab_size))
    history = training.train(model, TRAIN, TEST, replace(CONFIG, sample_tokens=9), tokenizer=tokenizer, progress=False)
    assert [step for step, _ in history.samples] == [0, 4, 8, 12] and "\ufffd" in history.samples[0][1]
    with pytest.raises(ValueError, match="knows 0 to"):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(ValueError, match="knows 0 to"):
        tokenizer.decode([-1], unknown="?")
    assert tokenizer.decode([*tokenizer.encode("Gulliver é"), 10**6], unknown="?") == "Gulliver é?"


def test_an_exploding_loss_is_reported_before_it_spoils_the_weights():
    model, calls = new_model(), []

    def spoil(module, inputs, loss):
        if module.training:
            calls.append(1)
            return loss * (float("nan") if len(calls) == 3 else 1)

    model.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match="learning rate of"):
        train(model=model)
    assert len(calls) == 3 and all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_names_its_step_and_never_reaches_a_checkpoint(tmp_path, spoil):
    """In step 8, after which a checkpoint is due. A bad gradient would spoil the weights one step before the loss."""
    model, steps = new_model(), iter(range(1, 99))

    def forward(module, inputs, loss):
        if module.training and next(steps) == 8:
            if spoil == "loss":
                return loss * float("nan")
            model.transformer.ln_f.bias.register_hook(lambda grad: grad * float("inf"))

    model.register_forward_hook(forward)
    with pytest.raises(FloatingPointError, match="Step 8 of 12: .*learning rate of .* holds the weights after step 4"):
        train(model=model, out=tmp_path)
    checkpoint = training.load_checkpoint(tmp_path)
    assert len(checkpoint["history"]["train_loss"]) == 4
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint["model"].values())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    _, expected = uninterrupted()
    assert train(model=GPT(MODEL), out=tmp_path, resume=True)[1].train_loss == expected.train_loss


def test_without_a_folder_the_message_promises_no_checkpoint():
    model = new_model()
    model.register_forward_hook(lambda module, inputs, loss: loss * float("nan") if module.training else None)
    with pytest.raises(FloatingPointError, match="Step 1 of 12: the loss became nan") as error:
        train(model=model)
    assert "holds" not in str(error.value)


@pytest.mark.parametrize("sampling", ["random", "epochs"])
def test_a_noisy_run_that_was_stopped_goes_on_with_the_losses_of_a_whole_one(tmp_path, sampling, monkeypatch):
    config = replace(CONFIG, sampling=sampling, noise=0.3, optimizer="muon", embedding_decay=0.1)
    whole = train(config)[1]
    clean = train(replace(config, noise=0.0))[1]
    assert whole.train_loss[0] != clean.train_loss[0]
    monkeypatch.setattr(TrainConfig, "learning_rate_at", lambda self, step: 0.01)  # whatever the number of steps
    constant = train(config)[1]
    train(replace(config, steps=5), out=tmp_path)
    assert train(config, out=tmp_path, resume=True)[1].train_loss == constant.train_loss


def test_noise_changes_inputs_and_not_targets_and_depends_on_seed_and_step_alone():
    ids, config = torch.arange(500) % 50, replace(CONFIG, noise=0.5)

    def draw(step, **changes):
        return corpus.draw_batch(ids, step, replace(config, **changes), 50, torch.Generator().manual_seed(0))

    (x, y), (clean_x, clean_y) = draw(0), draw(0, noise=0.0)
    assert torch.equal(y, clean_y) and 0.3 < (x != clean_x).float().mean() < 0.7
    assert torch.equal(draw(3)[0], draw(3)[0])
    assert not torch.equal(draw(3)[0], draw(4)[0]) and not torch.equal(draw(3)[0], draw(3, seed=99)[0])


def test_a_share_of_noise_that_makes_no_sense_is_named():
    with pytest.raises(ValueError, match="noise=1"):
        replace(CONFIG, noise=1)


def test_a_warm_up_that_never_ends_is_named(capsys):
    training.train(new_model(), TRAIN, TEST, replace(CONFIG, steps=2, warmup_steps=8))
    assert "The warm-up of 8 steps is no shorter than the run" in capsys.readouterr().out


def test_the_name_of_a_tokenizer_is_no_tokenizer():
    with pytest.raises(ValueError, match=r"tokenizer='gpt2': expected a Tokenizer, load_tokenizer\('gpt2'\)"):
        train(tokenizer="gpt2")
