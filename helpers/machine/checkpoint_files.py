"""Reading a run's checkpoint: what is in the file, whether it is whole, and whether it fits the model (notebook 07).

A message advises deleting a file only if no other reader could read it.
"""

import contextlib
import errno
import re
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from helpers.machine import memory

CHECKPOINT = "checkpoint.pt"
FORMAT = 1  # of a checkpoint: increase it if older versions of the course could not read a new one
OLD_NAMES = {"test_step": "validation_step", "test_loss": "validation_loss"}  # of a History, in older checkpoints
HISTORY = ("train_loss", "learning_rate", "validation_step", "validation_loss")  # lists of numbers
STATE = {"optimizer": dict, "scaler": dict, "batches": torch.Tensor, "dropout": torch.Tensor, "dropout_cuda": list,
         "data": str}  # what a run needs to continue, beyond its model, settings and history
MATMUL = (None, "highest", "high", "medium")
# Checkpoints of older versions of the course may hold NumPy's numbers in their settings.
NUMPY = [np._core.multiarray.scalar, np.dtype, *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd")]


def load_checkpoint(out, kind, **settings):
    """The checkpoint in the folder out as a dictionary, on the CPU.

    kind: the class of its model. settings: {name of an entry: its dataclass}.
    Raises FileNotFoundError, OSError for a file that cannot be read, MemoryError, and ValueError for a file that is
    damaged, of another kind, from a newer version of the course, or with weights that its configuration cannot have.
    """
    path = checkpoint_path(out)
    state = read_archive(path)
    check_entries(path, state, settings)
    state["history"] = {OLD_NAMES.get(name, name): value for name, value in state["history"].items()}
    check_history(path, state["history"])
    check_tensors(path, state["model"], kind, settings["model_config"](**state["model_config"]))
    return state


def read_archive(path):
    """What torch.save has written into a file, on the CPU: weights, settings and numbers only."""
    check_archive(path)
    try:
        with torch.serialization.safe_globals(NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        if isinstance(error, MemoryError) or memory.is_out_of_memory(error):
            raise MemoryError(f"{path} needs more memory than is free. Close other programs and notebooks.") from error
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if type(error).__name__ != "UnpicklingError":  # which weights_only raises for anything but data
            raise ValueError(f"{path} is damaged ({reason}). Delete it and train again.") from error
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"{path} is whole, but it was not read: it holds more than weights, settings and numbers"
                         f"{f' ({refused[1]})' if refused else ''}, which could be a stranger's code. Move it away, or "
                         "choose another folder.") from error


def checkpoint_path(out):
    """The checkpoint in the folder out. Raises FileNotFoundError if there is none."""
    path = Path(out) if Path(out).is_file() else Path(out) / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path} to resume from or to load. Give the folder of a run; without one, "
                                "train without resume first.")
    return path


def load_weights(out):
    """The weights in a run's checkpoint, {name: tensor}, whatever its settings and its model are. Raises what
    load_checkpoint() raises for a file that cannot be read."""
    path = checkpoint_path(out)
    state = read_archive(path)
    check_entries(path, state, {})
    return state["model"]


def check_archive(path):
    """Raises ValueError unless a file is a whole archive as torch.save writes one, and OSError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            is_archive = file.read(2) in (b"PK", b"")  # an empty file is what is left of one
        is_packed = False
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
                if not is_packed and archive.testzip() is not None:
                    raise zipfile.BadZipFile("a checksum is wrong")
    except Exception as error:  # zipfile raises many kinds for a damaged file
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            remedy = "Ask its owner for permission" if isinstance(error, PermissionError) else "Copy it to another disk"
            raise OSError(f"{path} cannot be read ({error.strerror}). {remedy}.") from error
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}). Delete it and train again.") from error
    if is_packed or not is_archive:
        raise ValueError(f"{path} is not a checkpoint of this course: it is a file of another kind. Move it away, or "
                         "choose another folder.")


def check_entries(path, state, settings):
    """Raises ValueError unless a checkpoint has the entries of this version of the course, of the right kinds."""
    kinds = {"model": dict, "history": dict, **dict.fromkeys(settings, dict)}
    entries = state if isinstance(state, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(entries.get(name), kind)]
    if not wrong and not all(isinstance(tensor, torch.Tensor) for tensor in state["model"].values()):
        wrong = ["model"]
    if wrong:
        raise ValueError(f"{path} is not a checkpoint of this course: its {' and '.join(wrong)} cannot be used. "
                         "Move it away, or choose another folder.")
    unknown = [str(key) for name, kind in settings.items() for key in state[name]
               if key not in {known.name for known in fields(kind)}]
    if state.get("format", 1) not in range(1, FORMAT + 1) or unknown:
        written = f"format {state.get('format', 1)}"
        if unknown:
            written += f", with {', '.join(unknown)}"
        raise ValueError(f"{path} was written by a newer version of this course ({written}; this one reads format "
                         f"{FORMAT}). Fetch the newer version: git pull.")
    for name, kind in settings.items():
        try:
            kind(**state[name])
        except ValueError as error:
            raise ValueError(f"{path}: its settings are not those of a run. {error} {read_weights(path)}") from error


def read_weights(path):
    """The advice for a checkpoint that does not fit: how to read its weights all the same."""
    return f"Its weights can still be read: helpers.machine.checkpoint_files.load_weights({str(path.parent)!r})."


def check_history(path, history):
    """Raises ValueError unless a history has the measurements of a run: losses and rates by step, and samples."""
    lists = [history.get(name, []) for name in HISTORY]
    numbers = all(isinstance(one, list) and all(type(value) in (int, float) for value in one) for one in lists)
    samples = history.get("samples", [])
    pairs = isinstance(samples, list) and all(
        isinstance(one, tuple) and list(map(type, one)) == [int, str] for one in samples)
    known = {*HISTORY, "samples", "interrupted"}
    is_whole = numbers and len(lists[0]) == len(lists[1]) and len(lists[2]) == len(lists[3])
    if not (is_whole and pairs and set(history) <= known and isinstance(history.get("interrupted", False), bool)):
        raise ValueError(f"{path}: its history is not that of a run. {read_weights(path)}")


def blank(kind, config):
    """A model of a class without memory, on the device "meta": the names and shapes of its parameters."""
    with torch.device("meta"):
        return kind(config)


def check_tensors(path, tensors, kind, config):
    """Raises ValueError unless stored tensors have the names and shapes of a model, without making the model."""
    read_them = read_weights(path)
    stored = sum(name.endswith(".ln_1.weight") for name in tensors)
    if config.n_layer != stored:  # a million blocks would take all memory even without their weights
        raise ValueError(f"{path}: its configuration has n_layer={config.n_layer}, but the weights of {stored} blocks "
                         f"are stored. {read_them}")
    try:
        problems = differences(tensors, blank(kind, config).state_dict())
    except RuntimeError as error:  # a tensor of more bytes than there are numbers for
        problems = str(error)
    if problems:
        raise ValueError(f"{path}: its weights do not fit its configuration: {problems}. {read_them}")


def check_model(model, kind):
    """Raises ValueError unless a model can be loaded again from a checkpoint of its parameters: it must be of the class
    itself, with the names and shapes of parameters that its configuration describes, and with the same of them tied."""
    if not isinstance(model, kind):
        if hasattr(model, "_orig_mod"):
            raise ValueError(f"The model is torch.compile's wrapper; expected a {kind.__name__} itself. Give the model "
                             "that you compiled (model._orig_mod); TrainConfig(compile=True) compiles it.")
        raise ValueError(f"The model is a {type(model).__name__}; expected a {kind.__name__} itself. torchrun trains "
                         "it in several processes.")
    expected = blank(kind, model.config)
    if problems := differences(model.state_dict(), expected.state_dict()):
        raise ValueError(f"The model's parameters are not those of its configuration: {problems}. Give a "
                         f"{kind.__name__} that is made from its configuration.")
    for name, other in tied(expected) - tied(model):
        raise ValueError(f"{name} and {other} must be one tensor, as the configuration says, but in this model they "
                         "are two (load_state_dict with assign=True and to_empty() separate them). Tie them again: "
                         f"model.{other} = model.{name}")
    for name, other in tied(model) - tied(expected):
        raise ValueError(f"{name} and {other} are one tensor in this model, but two in its configuration. Separate "
                         "them, or make the model with tie_word_embeddings=True.")


def differences(tensors, expected):
    """The first differences between the names and shapes of two dictionaries of tensors, as one string."""
    found = [f"{name} is missing" for name in expected if name not in tensors]
    found += [f"{name} is not known" for name in tensors if name not in expected]
    found += [f"{name} has the shape {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
              for name, tensor in expected.items() if name in tensors and tensors[name].shape != tensor.shape]
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def tied(model):
    """The pairs of names that are the same Parameter of a model."""
    first, pairs = {}, set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            pairs.add((first[id(parameter)], name))
    return pairs


@contextlib.contextmanager
def continuing(path, state):
    """A context for restoring what a run needs to continue. What is missing or does not fit is named: ValueError."""
    try:
        if missing := [name for name, kind in STATE.items() if not isinstance(state.get(name), kind)]:
            raise ValueError(f"it has no {' and no '.join(missing)}")
        if state.get("matmul") not in MATMUL:
            raise ValueError(f"its setting of matrix products is {state['matmul']!r}, expected one of {MATMUL}")
        yield
    except Exception as error:  # torch's optimizers and generators raise many kinds
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} cannot be continued: {reason}. Its model can still be used: "
                         f"training.load_trained({str(path.parent)!r}).") from error
