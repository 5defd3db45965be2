"""The machine that the course runs on: device, precision, run size, seeds, and a look at a helper's source."""

import contextlib
import inspect
import os
import platform
import random

import torch

RUN_SIZES = ("smoke", "laptop", "full")


def best_device():
    """The fastest device that is there: CUDA, then Apple's MPS, then the CPU; COURSE_DEVICE overrides (notebook 02)."""
    if chosen := os.environ.get("COURSE_DEVICE"):
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(chosen):
            here = ", ".join(name for name in there if there[name])
            raise ValueError(f"COURSE_DEVICE={chosen}: here there is {here}. Correct it or unset it.")
        return torch.device(chosen)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def run_size():
    """How much work a notebook does: "smoke" (seconds), "laptop" (minutes) or "full" (a GPU, Model 5 at 124M).

    The environment variable COURSE_SIZE decides. Without it, a CUDA GPU with 12 GB or more means full, all else laptop.
    Raises ValueError for another word.
    """
    size = os.environ.get("COURSE_SIZE")
    if not size:
        large = best_device().type == "cuda" and torch.cuda.get_device_properties(0).total_memory > 11e9
        size = "full" if large else "laptop"
    if size not in RUN_SIZES:
        raise ValueError(f"COURSE_SIZE={size}: one of {', '.join(RUN_SIZES)} was expected. Correct or unset it.")
    return size


def by_size(smoke, laptop, full):
    """The one of three values that belongs to this run's size."""
    return {"smoke": smoke, "laptop": laptop, "full": full}[run_size()]


def compute_dtype(device):
    """The type to multiply matrices in: bfloat16 where a GPU has it in hardware, float16 on an older one (a T4), else
    float32."""
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device):
    """A context in which the device's matrix products run in its compute_dtype; parameters stay in float32."""
    dtype = compute_dtype(device)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(torch.device(device).type, dtype)


def seed_everything(seed):
    """Makes random numbers repeat: Python's and torch's, on every device."""
    random.seed(seed)
    torch.manual_seed(seed)


def wait_for(device):
    """Waits until a GPU has finished what it was given. On a CPU nothing is ever left to wait for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.device(device).type == "mps":
        torch.mps.synchronize()


def device_name(device):
    """The device in words, for captions."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'s' * (threads > 1)}"
    return {"mps": "Apple GPU (MPS)", "cpu": cpu}.get(device.type, device.type)


def describe():
    """Prints one line on what this notebook runs on."""
    versions = f"torch {torch.__version__}; Python {platform.python_version()}"
    print(f"Ready: {device_name(best_device())}; run size {run_size()}; {versions}")


def show_source(*things):
    """Shows the source of helpers' functions or classes, so that a notebook never needs a copy of them."""
    from IPython.display import Code, display

    for thing in things:
        display(Code(inspect.getsource(thing).rstrip(), language="python"))
