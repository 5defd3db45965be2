"""Checkpoints: a resumed run continues to the last bit, and a checkpoint that does not fit or is damaged is named."""

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import training
from helpers.machine import assets, checkpoint_files, checkpoints, kernels, locks
from helpers.machine.checkpoints import CHECKPOINT, HISTORY
from helpers.model import GPT, GPTConfig
from tests.small import CONFIG, MODEL, TEST, TRAIN, new_model, train, uninterrupted, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    train(out=folder)
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of the folder of a finished run, with its checkpoint and history."""
    return Path(shutil.copytree(finished, tmp_path / "trained"))


# A run stops and continues


@pytest.mark.parametrize("stop, optimizer", [(1, "adamw"), (4, "adamw"), (7, "adamw"), (7, "muon")])
def test_resumed_losses_equal_an_uninterrupted_run_to_the_last_bit(tmp_path, monkeypatch, stop, optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    expected_model, expected = train(config, out=tmp_path / "uninterrupted")
    steps, train_step = 0, training.train_step

    def step_and_interrupt(*arguments):
        nonlocal steps
        steps += 1
        if steps == stop:
            signal.raise_signal(signal.SIGINT)
        return train_step(*arguments)

    monkeypatch.setattr(training, "train_step", step_and_interrupt)
    _, history = train(config, out=tmp_path / "resumed")
    assert history.interrupted and len(history.train_loss) == stop
    monkeypatch.setattr(training, "train_step", train_step)
    torch.manual_seed(999)  # the state of the new process does not matter
    model, history = train(config, model=GPT(MODEL), out=tmp_path / "resumed", resume=True)
    assert not history.interrupted
    assert history.train_loss == expected.train_loss
    assert history.validation_loss == expected.validation_loss and history.validation_step == expected.validation_step
    assert torch.equal(weights(model), weights(expected_model))
    assert (tmp_path / "resumed" / HISTORY).read_text() == (tmp_path / "uninterrupted" / HISTORY).read_text()


def test_the_first_interrupt_is_remembered_and_the_second_one_acts():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), checkpoints.interrupt_between_steps() as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_cannot_be_interrupted_but_trains():
    results = []
    thread = threading.Thread(target=lambda: results.append(train()[1].train_loss))
    thread.start()
    thread.join()
    assert results == [uninterrupted()[1].train_loss]


def test_a_longer_run_may_resume_but_another_one_may_not(trained):
    before = (trained / CHECKPOINT).read_bytes()
    for wrong, message in (
        ({"config": replace(CONFIG, learning_rate=1e-3)}, "learning_rate"),
        ({"model": GPT(replace(MODEL, n_embd=64))}, "'n_embd': 32.*'n_embd': 64"),
        ({"config": replace(CONFIG, steps=3)}, "12 steps already"),
    ):
        with pytest.raises(ValueError, match=message):
            train(out=trained, resume=True, **wrong)
    with pytest.raises(ValueError, match="another text"):
        training.train(new_model(), TRAIN[:-1], TEST, CONFIG, trained, resume=True, progress=False)
    with pytest.raises(FileExistsError, match="Resume it"):
        train(out=trained)
    assert (trained / CHECKPOINT).read_bytes() == before
    _, history = train(replace(CONFIG, steps=20), out=trained, resume=True)
    assert len(history.train_loss) == 20 and history.validation_step[-1] == 20


def test_a_run_may_continue_in_another_precision(tmp_path, monkeypatch):
    """From a GPU with bf16 to a T4 with fp16, which needs a scaler that the checkpoint does not have, and back."""
    monkeypatch.setattr(kernels, "compute_dtype", lambda device, precision: torch.bfloat16)
    train(out=tmp_path)
    for dtype, steps in ((torch.float16, 16), (torch.float32, 20)):
        monkeypatch.setattr(kernels, "compute_dtype", lambda device, precision, dtype=dtype: dtype)
        _, history = train(replace(CONFIG, steps=steps), out=tmp_path, resume=True)
        assert len(history.train_loss) == steps and np.isfinite(history.train_loss).all()


def test_a_run_continues_with_the_kernels_that_it_began_with(tmp_path, monkeypatch):
    settings, train_step = [], training.train_step

    def step(*arguments):
        settings.append(torch.get_float32_matmul_precision())
        return train_step(*arguments)

    monkeypatch.setattr(kernels, "fastest_matmul", lambda device, config=None: "medium")
    train(out=tmp_path)
    monkeypatch.setattr(kernels, "fastest_matmul", lambda device, config=None: "highest")
    monkeypatch.setattr(training, "train_step", step)
    train(replace(CONFIG, steps=14), out=tmp_path, resume=True)
    assert settings == ["medium", "medium"] and torch.get_float32_matmul_precision() == "highest"


def test_the_settings_of_a_run_are_in_its_checkpoint(trained):
    state = training.load_checkpoint(trained)
    assert state["train_config"] == asdict(CONFIG) and GPTConfig(**state["model_config"]) == MODEL


# Numbers of other libraries


NUMBERS = {
    "learning_rate": np.logspace(-4, -2, 3)[1], "weight_decay": np.float32(0.5), "clip_norm": np.int64(1),
    "warmup_steps": np.int64(2), "seed": np.uint8(7), "final_share": np.float16(0.5), "compile": np.bool_(False),
    "precision": np.str_("auto"), "steps": np.int32(5),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_run_with_numpys_numbers_in_its_settings_can_be_loaded_and_continued(tmp_path, name):
    config = replace(CONFIG, **{name: NUMBERS[name]})
    assert type(getattr(config, name)) in (int, float, bool, str)
    train(config, out=tmp_path)
    torch.load(tmp_path / CHECKPOINT, weights_only=True)  # as any other reader would
    training.load_trained(tmp_path)
    assert len(train(replace(config, steps=14), out=tmp_path, resume=True)[1].train_loss) == 14


def test_a_model_with_numpys_numbers_in_its_configuration_can_be_loaded(tmp_path):
    shape = replace(MODEL, dropout=np.float64(0.1), layer_norm_epsilon=np.float32(1e-5), n_layer=np.int64(1),
                    tie_word_embeddings=np.bool_(True))
    train(model=GPT(shape), out=tmp_path)
    torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert training.load_trained(tmp_path).config == shape


@pytest.mark.parametrize("name", ["learning_rate", "warmup_steps"])
def test_a_checkpoint_that_already_holds_numpys_numbers_is_read(trained, name):
    state = training.load_checkpoint(trained)
    state["train_config"][name] = NUMBERS[name]
    state["model_config"]["dropout"] = np.float64(0.1)
    torch.save(state, trained / CHECKPOINT)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(trained / CHECKPOINT, weights_only=True)
    assert training.load_trained(trained).config == MODEL
    config = replace(CONFIG, steps=14, **{name: NUMBERS[name]})
    assert len(train(config, out=trained, resume=True)[1].train_loss) == 14


# One run at a time


def test_a_second_run_into_the_same_folder_is_refused_and_told_of_the_first(tmp_path):
    with locks.only_run(tmp_path / "runs"):
        with pytest.raises(FileExistsError, match=rf"runs is in use: process {os.getpid()} on .*choose another folder"):
            train(out=tmp_path / "runs")
        (tmp_path / "runs" / locks.HOLDER).unlink()
        with pytest.raises(FileExistsError, match="in use: another process writes"):
            train(out=tmp_path / "runs")
    train(out=tmp_path / "runs")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [CHECKPOINT, HISTORY]


def hold(folder):
    """What a process of the next test does: it trains into a folder, and never ends."""
    with locks.only_run(folder):
        print("training", flush=True)
        time.sleep(600)


def test_a_run_that_was_killed_leaves_its_folder_free(trained):
    code = f"from tests.machine import test_checkpoints; test_checkpoints.hold({str(trained)!r})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=assets.ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "training\n"
            with pytest.raises(FileExistsError, match=f"process {process.pid}"):
                train(replace(CONFIG, steps=14), out=trained, resume=True)
        finally:
            process.kill()
    assert len(train(replace(CONFIG, steps=14), out=trained, resume=True)[1].train_loss) == 14


def test_the_file_itself_can_be_named_and_other_names_are_refused(trained):
    assert torch.equal(weights(training.load_trained(trained / CHECKPOINT)), weights(training.load_trained(trained)))
    for wrong in ("", 5, b"a"):
        with pytest.raises(ValueError, match="out=.*expected the name of a folder"):
            train(out=wrong)
    with pytest.raises(NotADirectoryError, match="history.csv is a file. Give a folder"):
        train(out=trained / HISTORY)


def test_nothing_is_made_where_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match="to resume from"):
        train(out=tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()


# Models that no checkpoint could bring back


def untied(model):
    """The model with the same weights, whose two tied matrices have become two tensors."""
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return model


def renamed(model):
    """The model with a parameter of another name, as torch.nn.utils.parametrizations and pruning make it."""
    torch.nn.utils.parametrizations.weight_norm(model.transformer.h[0].mlp.c_fc)
    return model


def tied_by_hand(model):
    """A model whose configuration does not say that it is tied."""
    model = GPT(replace(MODEL, tie_word_embeddings=False))
    model.lm_head.weight = model.transformer.wte.weight
    return model


@pytest.mark.parametrize("spoil, message", [
    (torch.compile, r"torch.compile's wrapper; expected a GPT itself.*_orig_mod.*TrainConfig\(compile=True\)"),
    (torch.nn.DataParallel, "a DataParallel; expected a GPT itself"),
    (untied, "must be one tensor.* Tie them again: model.lm_head.weight = model.transformer.wte.weight"),
    (renamed, "c_fc.weight is missing"),
    (tied_by_hand, "are one tensor in this model, but two in its configuration"),
], ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("saves", [True, False])
def test_a_model_that_could_not_be_loaded_again_is_refused_before_training(tmp_path, spoil, message, saves):
    model = spoil(new_model())
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        train(model=model, out=tmp_path / "out" if saves else None)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters())) and not (tmp_path / "out").exists()


def test_tied_again_the_model_trains_as_before():
    model = untied(new_model())
    model.lm_head.weight = model.transformer.wte.weight
    assert train(model=model)[1].train_loss == uninterrupted()[1].train_loss


def test_a_model_that_is_untied_while_it_trains_is_not_saved(tmp_path):
    model = new_model()

    def untie(module, inputs, loss):
        if (tmp_path / CHECKPOINT).exists():
            untied(module)

    model.register_forward_hook(untie)
    with pytest.raises(ValueError, match="must be one tensor"):
        train(model=model, out=tmp_path)
    assert len(training.load_checkpoint(tmp_path)["history"]["train_loss"]) == 4


# Writing


def test_a_failed_write_keeps_the_old_checkpoint(trained, monkeypatch):
    before = (trained / CHECKPOINT).read_bytes()

    def write_half(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(OSError, match="disk full"):
        train(replace(CONFIG, steps=20), out=trained, resume=True)
    assert (trained / CHECKPOINT).read_bytes() == before


def test_an_unusable_folder_is_noticed_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train_step", lambda *_: pytest.fail("it trained first"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        train(out=tmp_path / "file")


def test_in_colab_a_folder_that_ends_with_the_session_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    train(out=tmp_path / "runs")
    assert 'drive.mount("/content/drive")' in capsys.readouterr().out
    train(out=tmp_path / "drive" / "MyDrive" / "runs")
    assert capsys.readouterr().out == ""


# Reading: missing, damaged, newer, older, hostile


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*checkpoint.pt to resume from"):
        train(out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="needs out="):
        train(resume=True)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99, 0.99999])
def test_a_truncated_checkpoint_is_named(trained, share):
    os.truncate(trained / CHECKPOINT, int(share * os.path.getsize(trained / CHECKPOINT)))
    for read in (training.load_checkpoint, training.load_trained, lambda out: train(out=out, resume=True)):
        with pytest.raises(ValueError, match=rf"(?s){CHECKPOINT} is damaged .* Delete it and train again"):
            read(trained)


def test_one_altered_byte_and_a_file_of_another_kind_are_noticed(trained):
    content = bytearray((trained / CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    (trained / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        training.load_checkpoint(trained)


OTHER_KINDS = {  # of files that another reader can read
    "other entries": lambda path: torch.save({"weights": torch.ones(2)}, path),
    "a tensor": lambda path: torch.save(torch.ones(2), path),
    "weights alone": lambda path: torch.save(new_model().state_dict(), path),
    "old format": lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
    "text": lambda path: path.write_text("step,loss\n"),
    "packed": lambda path: zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED).writestr("a", b"a" * 99),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_nobody_is_told_to_delete_what_another_reader_can_read(trained, kind):
    (trained / CHECKPOINT).unlink()
    OTHER_KINDS[kind](trained / CHECKPOINT)
    for read in (training.load_checkpoint, training.load_trained, lambda out: train(out=out, resume=True)):
        with pytest.raises(ValueError, match="is not a checkpoint of this course.*Move it away") as refused:
            read(trained)
        assert "Delete" not in str(refused.value)


@pytest.mark.parametrize("where, error, message", [
    ("open", PermissionError(13, "Permission denied"), "cannot be read .Permission denied"),
    ("open", OSError(5, "Input/output error"), "cannot be read .Input/output error"),
    ("load", MemoryError(), "more memory than is free"),
    ("load", RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "more memory"),
])
def test_a_whole_file_that_cannot_be_read_now_is_not_called_damaged(trained, monkeypatch, where, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*((checkpoint_files, "open") if where == "open" else (torch, "load")), fail, raising=False)
    with pytest.raises((OSError, MemoryError), match=message) as refused:
        training.load_checkpoint(trained)
    assert "amaged" not in str(refused.value)


CHANGES = {  # of a checkpoint's configuration; its tensors stay
    "blocks": {"n_layer": 10**6}, "fewer blocks": {"n_layer": 1}, "width": {"n_embd": 2**40, "n_head": 2},
    "vocabulary": {"vocab_size": 2**40}, "context": {"n_positions": 2**40}, "bytes": {"n_embd": 2**61, "n_head": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_far_larger_than_the_stored_tensors_is_refused_before_a_model_is_made(trained, change):
    state = training.load_checkpoint(trained)
    state["model_config"].update(CHANGES[change])
    torch.save(state, trained / CHECKPOINT)
    start = time.process_time()
    for read in (training.load_checkpoint, training.load_trained):
        with pytest.raises(ValueError, match="still be read: .*load_weights"):
            read(trained)
    assert {*checkpoint_files.load_weights(trained)} == {*state["model"]}
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["optimizer", "scaler", "batches", "dropout", "data"])
def test_a_checkpoint_without_what_a_run_needs_can_be_used_but_not_continued(trained, name):
    state = training.load_checkpoint(trained)
    del state[name]
    torch.save(state, trained / CHECKPOINT)
    assert torch.equal(weights(training.load_trained(trained)), weights(uninterrupted()[0]))
    model = new_model()
    with pytest.raises(ValueError, match=rf"cannot be continued: it has no {name}\..* training.load_trained"):
        train(replace(CONFIG, steps=14), model=model, out=trained, resume=True)
    assert torch.equal(weights(model), weights(new_model())), "the model was changed"


def test_an_old_checkpoint_with_a_setting_that_is_refused_today_still_gives_its_weights(trained):
    state = training.load_checkpoint(trained)
    state["train_config"].update(clip_norm=-1.0, learning_rate=np.float64(0.01))
    torch.save(state, trained / CHECKPOINT)
    with pytest.raises(ValueError, match=r"settings are not those of a run. TrainConfig\(clip_norm=.*load_weights"):
        training.load_trained(trained)
    assert torch.equal(checkpoint_files.load_weights(trained)["lm_head.weight"], state["model"]["lm_head.weight"])


def test_an_optimizer_of_another_model_is_named(trained):
    state = training.load_checkpoint(trained)
    other = copy.deepcopy(state["optimizer"])
    other["state"][0]["exp_avg"] = torch.zeros(3, 3)
    for changed, message in ((other, "exp_avg of its optimizer has the shape .3, 3."),
                             ({**other, "param_groups": []}, "different number of parameter groups")):
        torch.save({**state, "optimizer": changed}, trained / CHECKPOINT)
        with pytest.raises(ValueError, match=f"cannot be continued: .*{message}"):
            train(replace(CONFIG, steps=14), out=trained, resume=True)


@pytest.mark.parametrize("change, message", [
    (lambda state: state.update(format=2), "format 2; this one reads format 1"),
    (lambda state: state["train_config"].update(look_ahead=5), "with look_ahead"),
    (lambda state: state["model_config"].update(n_expert=8), "with n_expert"),
])
def test_a_checkpoint_of_a_newer_version_is_named_and_not_called_damaged(trained, change, message):
    state = training.load_checkpoint(trained)
    change(state)
    torch.save(state, trained / CHECKPOINT)
    for read in (training.load_checkpoint, training.load_trained, lambda out: train(out=out, resume=True)):
        with pytest.raises(ValueError, match=rf"newer version of this course .*{message}.* git pull"):
            read(trained)


def test_a_checkpoint_from_before_formats_had_numbers_is_read(trained):
    _, expected = uninterrupted()
    state = training.load_checkpoint(trained)
    del state["format"], state["train_config"]["precision"], state["matmul"]
    torch.save(state, trained / CHECKPOINT)
    assert train(replace(CONFIG, steps=14), out=trained, resume=True)[1].train_loss[:12] == expected.train_loss


def test_a_history_with_the_names_of_older_checkpoints_is_read_and_continued(trained):
    _, expected = uninterrupted()
    state = training.load_checkpoint(trained)
    for old, new in (("test_step", "validation_step"), ("test_loss", "validation_loss")):
        state["history"][old] = state["history"].pop(new)
    torch.save(state, trained / CHECKPOINT)
    assert training.load_checkpoint(trained)["history"]["validation_loss"] == expected.validation_loss
    resumed = train(replace(CONFIG, steps=14), out=trained, resume=True)[1]
    assert resumed.validation_step[: len(expected.validation_step)] == expected.validation_step
    assert resumed.validation_loss[: len(expected.validation_loss)] == expected.validation_loss


class Bomb:
    """An object that writes a file when it is unpickled, as a stranger's code could."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("pack", [
    lambda state, path: torch.save(state, path),
    lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    lambda state, path: path.write_bytes(pickle.dumps(state)),
], ids=["torch.save", "old torch.save", "pickle"])
def test_a_checkpoint_runs_no_code(trained, pack):
    state = {**training.load_checkpoint(trained), "data": Bomb(trained / "exploded")}
    pack(state, trained / CHECKPOINT)
    with pytest.raises(ValueError, match="could be a stranger's code|a file of another kind") as refused:
        train(out=trained, resume=True)
    assert "Delete" not in str(refused.value) and not (trained / "exploded").exists()
    if zipfile.is_zipfile(trained / CHECKPOINT):
        torch.load(trained / CHECKPOINT, weights_only=False)["data"].close()
        assert (trained / "exploded").exists(), "the bomb is a dud: this test shows nothing"
