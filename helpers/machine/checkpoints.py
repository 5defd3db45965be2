"""Checkpoints: everything that a training run needs to go on as if it had never stopped (notebook 07).

A checkpoint is written whole or not at all. It holds the weights, the optimizer, the gradient scaler, the random
numbers, the history and the settings of a run.
"""

import contextlib
import csv
import hashlib
import os
import signal
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.machine import assets, kernels, runtime
from helpers.machine.checkpoint_files import (
    CHECKPOINT, FORMAT, check_model, continuing, load_checkpoint)

HISTORY = "history.csv"
MAY_CHANGE = ("steps", "accumulate", "eval_every", "eval_tokens", "sample_every", "sample_tokens")  # on resuming


@dataclass
class History:
    """What a run has measured. Losses are in nats per token; validation_loss[i] was measured after validation_step[i]
    steps."""

    train_loss: list = field(default_factory=list)  # one per step
    learning_rate: list = field(default_factory=list)  # one per step
    validation_step: list = field(default_factory=list)
    validation_loss: list = field(default_factory=list)
    samples: list = field(default_factory=list)  # (step, text)
    interrupted: bool = False

    def as_arrays(self):
        """The losses and learning rates as numpy arrays: {name: array}."""
        names = ("train_loss", "learning_rate", "validation_step", "validation_loss")
        return {name: np.array(getattr(self, name)) for name in names}

    def rows(self):
        """The lines of history.csv, its header first."""
        measured = dict(zip(self.validation_step, self.validation_loss))
        yield ["step", "train_loss", "validation_loss", "learning_rate"]
        yield [0, "", measured.get(0, ""), ""]
        for step, (loss, rate) in enumerate(zip(self.train_loss, self.learning_rate), start=1):
            yield [step, loss, measured.get(step, ""), rate]


@dataclass
class Run:
    """A training run in progress: all that its checkpoint holds."""

    model: torch.nn.Module  # with a .config, a dataclass
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    batches: torch.Generator  # draws the batches
    history: History
    config: Any  # a TrainConfig
    data: str  # sha256 of the training tokens
    matmul: str | None  # the setting of float32 matrix products
    first_step: int = 0  # where this part of the run begins

    def save(self, out):
        """Writes checkpoint.pt and history.csv into the folder out. Raises ValueError if no model could load them."""
        check_model(self.model, type(self.model))
        for leftover in Path(out).glob(f".{CHECKPOINT}.*.part"):  # of a process that was killed while it wrote
            leftover.unlink()
        state = {
            "format": FORMAT,
            "model_config": asdict(self.model.config),
            "train_config": asdict(self.config),
            "data": self.data,
            "matmul": self.matmul,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.get_state(),
            "dropout": torch.get_rng_state(),
            "dropout_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            "dtype": str(self.dtype()),
            "history": asdict(self.history),
        }
        assets.write_atomically(Path(out) / CHECKPOINT, lambda path: torch.save(state, path))
        self.save_history(out)

    def save_history(self, out):
        """Writes history.csv: one line per step. Line n is the state after n steps, so line 0 has a validation loss
        only."""

        def write(path):
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self.history.rows())

        assets.write_atomically(Path(out) / HISTORY, write)

    def restore(self, out, device):
        """Continues the run in the folder out. Returns a note if this device computes in another precision, else "".

        Raises ValueError if the run had other settings, another model or text.
        """
        path = Path(out) / CHECKPOINT
        state = load_checkpoint(out, type(self.model), model_config=type(self.model.config),
                                train_config=type(self.config))
        self._check_settings(path, state)
        with continuing(path, state):
            if device.type == "cpu":
                self.matmul = state.get("matmul") or "highest"  # another kernel would round differently
            self.optimizer.load_state_dict(state["optimizer"])
            self._check_optimizer()
            if state["scaler"]:  # empty unless the run has computed in float16
                self.scaler.load_state_dict(state["scaler"])
            self.batches.set_state(state["batches"])
            torch.set_rng_state(state["dropout"])
            if device.type == "cuda" and len(state["dropout_cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["dropout_cuda"])
        self.model.load_state_dict(state["model"])
        for name, value in state["history"].items():
            setattr(self.history, name, value)
        self.first_step = len(self.history.train_loss)
        before, now = (str(dtype).removeprefix("torch.") for dtype in (state.get("dtype", self.dtype()), self.dtype()))
        return "" if before == now else (f"{path} was trained in {before}, and this device continues in {now}. The "
                                         "losses will differ from those of an uninterrupted run in their late digits.")

    def dtype(self):
        """The type in which this run multiplies matrices on its device."""
        return kernels.compute_dtype(next(self.model.parameters()).device, self.config.precision)

    def explain_failure(self, error, out):
        """The message of an error that stopped the run, with the step, and what the folder out still holds."""
        done, every = len(self.history.train_loss), self.config.eval_every
        last = max(self.first_step, done // every * every)
        kept = f" {out / CHECKPOINT} still holds the weights after step {last}." if out and last else ""
        return f"Step {done + 1} of {self.config.steps}: {error}{kept}"

    def _check_optimizer(self):
        """Raises ValueError unless each tensor of the optimizer's state has one number, or as many as its parameter."""
        for parameter, own in self.optimizer.state.items():
            for name, value in own.items():
                if isinstance(value, torch.Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                    raise ValueError(f"{name} of its optimizer has the shape {tuple(value.shape)} for a parameter of "
                                     f"the shape {tuple(parameter.shape)}")

    def _check_settings(self, path, state):
        for name, given in (("model_config", self.model.config), ("train_config", self.config)):
            before, now = asdict(type(given)(**state[name])), asdict(given)
            differing = [key for key in now if before[key] != now[key] and key not in MAY_CHANGE]
            if differing:
                was, is_now = ({key: settings[key] for key in differing} for settings in (before, now))
                raise ValueError(f"{path} was made with {was}, this run has {is_now}. Use the same settings.")
        if state.get("data", self.data) != self.data:
            raise ValueError(f"{path} was trained on another text, split or tokenizer. Use the same.")
        done = len(state["history"]["train_loss"])
        if done > self.config.steps:
            raise ValueError(f"{path} has {done} steps already; steps={self.config.steps} was asked for.")


def begin(model, optimizer, scaler, config, train_ids, out, resume, ranks):
    """A new Run, or with resume the one in the folder out. A new run sets torch's seed to config.seed.

    Raises ValueError or FileNotFoundError where there is nothing to resume, FileExistsError instead of overwriting a
    checkpoint, OSError for a folder that cannot be written to.
    """
    device = next(model.parameters()).device
    batches = torch.Generator().manual_seed(config.seed)
    data = hashlib.sha256(train_ids.numpy().tobytes()).hexdigest()
    matmul = ranks.agree(kernels.fastest_matmul(device, model.config))
    run = Run(model, optimizer, scaler, batches, History(), config, data, matmul)
    if resume:
        if out is None:
            raise ValueError("resume=True needs out=, the folder of the run to continue.")
        if (note := run.restore(out, device)) and ranks.rank == 0:
            tqdm.write(note)
    elif out is not None and (out / CHECKPOINT).exists():
        raise FileExistsError(f"{out / CHECKPOINT} exists already. Resume it, choose another folder, or delete it.")
    else:
        runtime.seed_everything(config.seed)
        if out is not None and ranks.rank == 0:
            run.save_history(out)  # a folder that cannot be written to is noticed now, not an hour later
    if out is not None and "COLAB_RELEASE_TAG" in os.environ and "drive" not in out.resolve().parts:
        tqdm.write(f"Colab deletes {out} with the session. To keep it: from google.colab import drive; "
                   'drive.mount("/content/drive"), and out="/content/drive/MyDrive/runs".')
    return run


@contextlib.contextmanager
def interrupt_between_steps():
    """A context that turns Ctrl-C into an event, which it yields, so that no update of the weights is left half done.
    A second Ctrl-C interrupts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield interrupted
        return

    def remember(signum, frame):
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
