"""Checkpoints: a resumed run continues to the last bit, and a checkpoint that does not fit or is damaged is named."""

import os
import pickle
import shutil
import signal
import threading
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import training
from helpers.machine import checkpoints, kernels
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
    torch.save({"weights": torch.ones(2)}, trained / CHECKPOINT)
    with pytest.raises(ValueError, match="not a checkpoint of this course"):
        training.load_checkpoint(trained)


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
    with pytest.raises(ValueError, match="is damaged"):
        train(out=trained, resume=True)
    assert not (trained / "exploded").exists()
    if zipfile.is_zipfile(trained / CHECKPOINT):
        torch.load(trained / CHECKPOINT, weights_only=False)["data"].close()
        assert (trained / "exploded").exists(), "the bomb is a dud: this test shows nothing"
