"""The training loop: it learns, it resumes to the last bit, it stops cleanly, and says what is wrong."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from helpers import assets, corpus, runtime, training
from helpers.model import GPT, GPTConfig
from helpers.training import CHECKPOINT, HISTORY, TrainConfig

MODEL = GPTConfig(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, dropout=0.1)
CONFIG = TrainConfig(
    steps=12, batch_size=4, context=16, learning_rate=1e-2, warmup_steps=3, eval_every=4, sample_every=4,
    sample_tokens=3,
)
CLIPPED = replace(CONFIG, clip_norm=0.5)
TRAIN = torch.arange(2000) * 7 % 64
TEST = torch.arange(301) * 7 % 64


def new_model():
    torch.manual_seed(1)
    return GPT(MODEL)


def train(config=CONFIG, model=None, **settings):
    model = model or new_model()
    return model, training.train(model, TRAIN, TEST, config, progress=False, **settings)


def weights(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_it_learns_and_history_is_complete(tmp_path):
    config = replace(CONFIG, steps=120, learning_rate=3e-2)
    model, history = train(config, out=tmp_path)
    assert history.test_loss[0] == pytest.approx(math.log(64), abs=0.3)
    assert history.test_loss[-1] < 1.0  # the sequence is a rule: it can be learned
    arrays = history.as_arrays()
    assert arrays["train_loss"].shape == (120,) and arrays["test_step"].tolist() == list(range(0, 121, 4))
    with open(tmp_path / HISTORY, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 121 and [float(row["train_loss"]) for row in rows[1:]] == history.train_loss
    assert {int(row["step"]): float(row["test_loss"]) for row in rows if row["test_loss"]} == dict(
        zip(history.test_step, history.test_loss)
    )
    assert torch.equal(weights(training.load_trained(tmp_path)), weights(model))


def test_the_same_seed_gives_the_same_run():
    (a, first), (b, second) = train(), train()
    assert first.train_loss == second.train_loss and torch.equal(weights(a), weights(b))
    assert train(replace(CONFIG, seed=5))[1].train_loss != first.train_loss


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resumed_losses_equal_an_uninterrupted_run_to_the_last_bit(tmp_path, monkeypatch, stop):
    whole_model, whole = train(out=tmp_path / "whole")
    steps, real = 0, training.update

    def interrupted_update(*arguments):
        nonlocal steps
        steps += 1
        if steps == stop:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "update", interrupted_update)
    _, part = train(out=tmp_path / "part")
    assert part.interrupted and len(part.train_loss) == stop
    monkeypatch.setattr(training, "update", real)
    torch.manual_seed(999)  # the state of the new process does not matter
    model, history = train(model=GPT(MODEL), out=tmp_path / "part", resume=True)
    assert not history.interrupted
    assert history.train_loss == whole.train_loss
    assert history.test_loss == whole.test_loss and history.test_step == whole.test_step
    assert torch.equal(weights(model), weights(whole_model))
    assert (tmp_path / "part" / HISTORY).read_text() == (tmp_path / "whole" / HISTORY).read_text()


def test_sampling_text_on_the_way_changes_no_loss():
    tokenizer = corpus.load_tokenizer("course")
    model, ids = replace(MODEL, vocab_size=tokenizer.vocab_size), torch.arange(500)
    losses = []
    for shown in (None, tokenizer):
        torch.manual_seed(1)
        history = training.train(GPT(model), ids, ids[:50], CONFIG, tokenizer=shown, progress=False)
        losses.append(history.train_loss)
    assert losses[0] == losses[1]
    assert [step for step, _ in history.samples] == [0, 4, 8, 12] and all(text for _, text in history.samples)


def test_a_longer_run_may_resume_but_another_one_may_not(tmp_path):
    train(out=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    for wrong, said in (
        ({"config": replace(CONFIG, learning_rate=1e-3)}, "learning_rate"),
        ({"model": GPT(replace(MODEL, n_embd=64))}, "'n_embd': 32.*'n_embd': 64"),
        ({"config": replace(CONFIG, steps=3)}, "12 steps already"),
    ):
        with pytest.raises(ValueError, match=said):
            train(out=tmp_path, resume=True, **wrong)
    with pytest.raises(ValueError, match="another text"):
        training.train(new_model(), TRAIN[:-1], TEST, CONFIG, tmp_path, resume=True, progress=False)
    with pytest.raises(FileExistsError, match="Resume it"):
        train(out=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    _, history = train(replace(CONFIG, steps=20), out=tmp_path, resume=True)
    assert len(history.train_loss) == 20 and history.test_step[-1] == 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_learns_samples_and_resumes(tmp_path, monkeypatch, dtype):
    """The path of a GPU, on the CPU: matrices in 16 bits, parameters in 32, and a scaled loss for float16 (a T4)."""
    monkeypatch.setattr(runtime, "compute_dtype", lambda device, precision: dtype)
    tokenizer = corpus.load_tokenizer("course")
    torch.manual_seed(1)
    model = GPT(replace(MODEL, vocab_size=tokenizer.vocab_size))
    config = replace(CONFIG, steps=40)
    history = training.train(model, TRAIN, TEST, config, tmp_path, tokenizer=tokenizer, progress=False)
    assert history.test_loss[-1] < history.test_loss[0] - 2
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert len(history.samples) == 11
    saved = training.load_checkpoint(tmp_path)
    assert (saved["scaler"].get("scale", 0) > 1) == (dtype == torch.float16)
    longer = training.train(model, TRAIN, TEST, replace(config, steps=44), tmp_path, resume=True, progress=False)
    assert longer.train_loss[:40] == history.train_loss and len(longer.train_loss) == 44


def test_no_checkpoint_and_a_damaged_one_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*checkpoint.pt to resume from"):
        train(out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="needs out="):
        train(resume=True)
    train(out=tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="damaged"):
        train(out=tmp_path, resume=True)


def test_one_altered_byte_and_a_file_of_another_kind_are_noticed(tmp_path):
    train(out=tmp_path)
    path = tmp_path / CHECKPOINT
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged"):
        training.load_checkpoint(tmp_path)
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="not a checkpoint of this course"):
        training.load_checkpoint(tmp_path)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    train(out=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def half(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(training.torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        train(replace(CONFIG, steps=20), out=tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_learning_rate_rises_and_falls():
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_share=0.1)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert np.all(np.diff(rates[10:]) < 0)


def test_weight_decay_is_for_matrices_and_the_kernel_is_fused():
    optimizer = training.make_optimizer(new_model(), CONFIG)
    decayed, plain = optimizer.param_groups
    assert all(p.ndim == 2 for p in decayed["params"]) and all(p.ndim == 1 for p in plain["params"])
    assert (decayed["weight_decay"], plain["weight_decay"]) == (CONFIG.weight_decay, 0.0) and decayed["fused"]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(new_model().parameters()))


def test_one_step_is_adamw_on_the_clipped_gradient():
    model, twin = new_model().eval(), new_model().eval()
    x, y = corpus.random_batch(TRAIN, 4, 16, torch.Generator().manual_seed(0))
    optimizer = training.make_optimizer(model, CONFIG)
    loss = training.update(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), x, y, 0.01, CLIPPED)
    expected = twin(x, y)
    expected.backward()
    assert loss == pytest.approx(expected.item())
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    for mine, other in zip(model.parameters(), twin.parameters()):
        decay = 0.01 * CONFIG.weight_decay if other.ndim == 2 else 0.0
        first_step = 0.01 * other.grad / (other.grad.abs() + 1e-8)  # Adam's first step has the size of the rate
        torch.testing.assert_close(mine, other * (1 - decay) - first_step, atol=2e-5, rtol=1e-4)
        assert mine.grad is None


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


@pytest.mark.parametrize(
    "train_ids, said",
    [
        (TRAIN[:10], "has 10 tokens; sequences of 16"),
        (TRAIN[:0], "has 0 tokens"),
        (TRAIN + 1, "run from 1 to 64; the model knows 0 to 63"),
        (TRAIN.float(), "torch.float32"),
        (TRAIN[None], r"\(1, 2000\)"),
    ],
)
def test_data_that_does_not_fit_is_named(train_ids, said):
    with pytest.raises(ValueError, match=said):
        training.train(new_model(), train_ids, TEST, CONFIG, progress=False)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="context=32"):
        train(replace(CONFIG, context=32))
    with pytest.raises(ValueError, match="steps=0"):
        replace(CONFIG, steps=0)
    with pytest.raises(ValueError, match="seed=-1"):
        replace(CONFIG, seed=-1)
    with pytest.raises(ValueError, match="learning_rate=-1"):
        replace(CONFIG, learning_rate=-1)
    with pytest.raises(ValueError, match="smoke, laptop, full"):
        training.recipe_for("huge")


def test_a_loss_that_explodes_is_reported_before_it_spoils_the_weights():
    model, calls = new_model(), []

    def spoil(module, inputs, loss):
        if module.training:
            calls.append(1)
            return loss * (float("nan") if len(calls) == 3 else 1)

    model.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match="learning rate of"):
        train(model=model)
    assert len(calls) == 3 and all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "MPS backend out of memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
    ],
)
def test_too_little_memory_gives_advice(message):
    model = new_model()

    def full(module, inputs):
        raise RuntimeError(message)

    model.transformer.h[0].mlp.register_forward_pre_hook(full)
    with pytest.raises(RuntimeError, match="does not have enough memory for 4 x 16 tokens at once. Use a shorter"):
        train(replace(CONFIG, eval_every=4), model=model)


def test_float16_clips_the_gradient_itself_and_not_its_scaled_copy(monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", lambda device, precision: torch.float16)
    clipped = []
    real = torch.nn.utils.clip_grad_norm_

    def clip(parameters, limit):
        clipped.append(real(parameters, limit))
        return clipped[-1]

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    model, twin = new_model().eval(), new_model().eval()
    x, y = corpus.random_batch(TRAIN, 4, 16, torch.Generator().manual_seed(0))
    training.update(model, training.make_optimizer(model, CONFIG), torch.amp.GradScaler("cpu"), x, y, 0.01, CLIPPED)
    twin(x, y).backward()
    assert clipped[0].item() == pytest.approx(real(twin.parameters(), 9e9).item(), rel=0.02)


def test_precision_can_be_chosen():
    seen, model = set(), new_model()
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    train(replace(CONFIG, precision="bf16"), model=model)
    assert seen == {torch.bfloat16}
    with pytest.raises(ValueError, match="precision='half'.*auto, fp32, bf16, fp16"):
        replace(CONFIG, precision="half")


def test_compiled_training_has_the_same_losses_and_checkpoint(tmp_path, monkeypatch):
    """torch.compile without its last stage, which needs a C++ compiler: no dropout, so that the numbers agree."""
    real, shape = torch.compile, replace(MODEL, dropout=0.0)
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="aot_eager"))
    losses = []
    for compiles in (False, True):
        torch.manual_seed(3)
        config = replace(CONFIG, compile=compiles)
        losses.append(train(config, model=GPT(shape), out=tmp_path if compiles else None)[1].train_loss)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    names = list(training.load_checkpoint(tmp_path)["model"])
    assert names == list(GPT(shape).state_dict())  # no name of the compiled wrapper is in it
    training.load_trained(tmp_path)


def test_a_run_may_go_on_in_another_precision(tmp_path, monkeypatch):
    """From a GPU with bf16 to a T4 with fp16, which needs a scaler that the checkpoint does not have; and back."""
    monkeypatch.setattr(runtime, "compute_dtype", lambda device, precision: torch.bfloat16)
    train(out=tmp_path)
    for dtype, steps in ((torch.float16, 16), (torch.float32, 20)):
        monkeypatch.setattr(runtime, "compute_dtype", lambda device, precision, dtype=dtype: dtype)
        _, history = train(replace(CONFIG, steps=steps), out=tmp_path, resume=True)
        assert len(history.train_loss) == steps and np.isfinite(history.train_loss).all()


def test_a_missing_compiler_is_named(monkeypatch):
    error = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def fails(*_):
        raise error("InvalidCxxCompiler: no working C++ compiler found")

    monkeypatch.setattr(training, "update", fails)
    with pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler .*compile=False. It said: InvalidCxxCompiler"):
        train(replace(CONFIG, compile=True))


def test_a_run_goes_on_with_the_kernels_that_it_began_with(tmp_path, monkeypatch):
    used, real = [], training.update
    monkeypatch.setattr(runtime, "fastest_matmul", lambda device: "medium")
    train(out=tmp_path)
    monkeypatch.setattr(runtime, "fastest_matmul", lambda device: "highest")
    monkeypatch.setattr(training, "update", lambda *a: used.append(torch.get_float32_matmul_precision()) or real(*a))
    train(replace(CONFIG, steps=14), out=tmp_path, resume=True)
    assert used == ["medium", "medium"] and torch.get_float32_matmul_precision() == "highest"


def test_evaluation_uses_the_devices_precision(monkeypatch):
    model, seen = new_model(), []
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    monkeypatch.setattr(runtime, "compute_dtype", lambda device, precision: torch.bfloat16)
    training.evaluate(model, TEST, 16)
    assert set(seen) == {torch.bfloat16}


def test_an_unusable_folder_is_noticed_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "update", lambda *_: pytest.fail("it trained first"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        train(out=tmp_path / "file")


def test_recipes_fit_together():
    for size in runtime.RUN_SIZES:
        recipe = training.recipe_for(size)
        assert recipe.training.context <= recipe.model.n_positions
    full = training.recipe_for("full")
    assert full.model == GPTConfig() and full.training == TrainConfig()
    default = TrainConfig()
    assert (default.steps, default.batch_size, default.context, default.eval_every) == (500, 16, 256, 100)


def test_full_size_constructs_and_takes_a_step():
    torch.manual_seed(0)
    model = GPT(training.recipe_for("full").model)
    ids = torch.randint(50257, (200,))
    config = replace(training.recipe_for("full").training, steps=1, batch_size=1, context=32)
    before = model.transformer.h[11].mlp.c_proj.weight.clone()
    history = training.train(model, ids, ids[:33], config, progress=False)
    assert history.train_loss[0] == pytest.approx(math.log(50257), abs=0.5)
    assert not torch.equal(model.transformer.h[11].mlp.c_proj.weight, before)


def run(*arguments):
    command = [sys.executable, "-m", "helpers.training", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=assets.ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to another process")
def test_command_line_stops_at_ctrl_c_and_resumes(tmp_path):
    text = assets.DATA / "voyage.txt"
    running = run("--out", tmp_path, "--size", "smoke", "--steps", 3000, "--text", text)
    while not (tmp_path / CHECKPOINT).exists() and running.poll() is None:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, out + err
    assert "go on with" in out + err and "--resume" in out + err
    done = len(training.load_checkpoint(tmp_path)["history"]["train_loss"])
    out, err = run("--out", tmp_path, "--resume", "--steps", done + 5, "--text", text).communicate(timeout=60)
    assert "bits per byte" in out, out + err
    history = training.load_checkpoint(tmp_path)["history"]
    assert len(history["train_loss"]) == done + 5


def test_command_line_errors_are_one_line(tmp_path, capsys):
    assert training.main(["--out", str(tmp_path), "--resume"]) == 1
    assert "to resume from" in capsys.readouterr().err
    assert training.main(["--out", str(tmp_path), "--size", "smoke", "--text", str(tmp_path / "none.txt")]) == 1
    assert "none.txt" in capsys.readouterr().err
    for setting in (["--seed", "3"], ["--compile"], ["--precision", "fp32"]):
        with pytest.raises(SystemExit):
            training.main(["--resume", *setting])
        assert f"leave out {setting[0]}" in capsys.readouterr().err


def test_configurations_survive_a_checkpoint(tmp_path):
    train(out=tmp_path)
    state = training.load_checkpoint(tmp_path)
    assert state["train_config"] == asdict(CONFIG) and GPTConfig(**state["model_config"]) == MODEL
