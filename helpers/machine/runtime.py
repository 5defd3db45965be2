"""The machine that the course runs on: device, run size, random seeds."""

import os
import platform
import random
import sys
from pathlib import Path

import torch

from helpers.machine import limits
from helpers.machine.variables import setting

RUN_SIZES = ("smoke", "laptop", "full")
IN_NOTEBOOKS = ("inline", "notebook", "nbagg", "widget", "ipympl")  # backends of matplotlib


def best_device():
    """The fastest device available: CUDA, then Apple's MPS, then the CPU. COURSE_DEVICE overrides (notebook 02).

    Raises ValueError if COURSE_DEVICE names a device that this machine does not have.
    """
    if chosen := setting("COURSE_DEVICE").lower():
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available.get(chosen):
            names = ", ".join(name for name in available if available[name])
            raise ValueError(f"COURSE_DEVICE={chosen}: this machine has {names}. Correct it or unset it.")
        return torch.device(chosen)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def run_size():
    """How much work a notebook does: "smoke" (seconds), "laptop" (minutes) or "full" (a GPU, Model 5 at 124M).

    The environment variable COURSE_SIZE decides. Without it, a CUDA GPU with 12 GB or more means full, anything else
    laptop. Raises ValueError for any other word.
    """
    size = setting("COURSE_SIZE").lower()
    if not size:
        large = best_device().type == "cuda" and torch.cuda.get_device_properties(0).total_memory > 11e9
        size = "full" if large else "laptop"
    if size not in RUN_SIZES:
        raise ValueError(f"COURSE_SIZE={size}: expected one of {', '.join(RUN_SIZES)}. Correct it or unset it.")
    return size


def by_size(smoke, laptop, full):
    """Picks the value for this run's size out of three."""
    return {"smoke": smoke, "laptop": laptop, "full": full}[run_size()]


def seed_everything(seed):
    """Makes random numbers repeat: Python's and torch's, on every device."""
    random.seed(seed)
    torch.manual_seed(seed)


def wait_for(device):
    """Waits until a GPU has finished all work given to it. A CPU has always finished already."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.device(device).type == "mps":
        torch.mps.synchronize()


def use_allowed_threads():
    """Lets PyTorch use no more threads than this process may use processors, and at least one. With more threads than a
    quota allows, the system stops all of them for a part of each tenth of a second."""
    allowed = max(1, int(limits.processors()))
    if torch.get_num_threads() > allowed:
        torch.set_num_threads(allowed)


def device_name(device):
    """The device in words, for captions. Of a CPU they say if a quota stops it from time to time."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'s' * (threads > 1)}"
    if quota := limits.pausing_quota(threads):
        cpu += f" (a quota allows {quota:.3g} processors)"
    return {"mps": "Apple GPU (MPS)", "cpu": cpu}.get(device.type, device.type)


def processor_name():
    """The name of this machine's CPU, or "" where the operating system does not tell."""
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def computes_like_the_cpu(device):
    """Whether attention and its gradient agree with the CPU's on this device, up to rounding.

    On Apple's GPUs some versions of PyTorch gave wrong results without an error, so this is tested and not assumed.
    """

    def compute(where):
        x = torch.randn(64 * 192, generator=torch.Generator().manual_seed(0)).to(where).requires_grad_()
        q, k, v = x.view(1, 64, 3, 2, 32).permute(2, 0, 3, 1, 4)  # (B, nh, T, hs) each, split as in Model 5
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.cat([y.flatten(), torch.autograd.grad(y.square().sum(), x)[0]]).cpu()

    return torch.allclose(compute(device), compute("cpu"), rtol=0.02, atol=0.02)  # tf32 rounds far less than this


def draw_into_the_notebook():
    """Servers often set MPLBACKEND to draw into files (agg). A notebook would then show no figure, without a word, so
    a kernel takes its own backend, unless another one that draws into notebooks was chosen."""
    chosen = setting("MPLBACKEND").lower()
    if "ipykernel" in sys.modules and not chosen.startswith("module://") and chosen not in IN_NOTEBOOKS:
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


def describe():
    """Chooses the number of threads, prints one line about the device and versions of this notebook, and more if the
    device or its times cannot be trusted. Called before the first figure is drawn."""
    use_allowed_threads()
    draw_into_the_notebook()
    versions, device = f"torch {torch.__version__}; Python {platform.python_version()}", best_device()
    limit = f"; {words}" if (words := limits.described()) else ""
    print(f"Ready: {device_name(device)}{limit}; run size {run_size()}; {versions}")
    if device.type != "cpu" and not computes_like_the_cpu(device):
        print(f"WRONG NUMBERS: attention on {device_name(device)} differs from the CPU's. Update PyTorch, or set "
              "COURSE_DEVICE=cpu and restart the kernel.")
    if limits.pausing_quota(torch.get_num_threads()):
        print("UNEVEN TIMES: a quota stops this CPU from time to time, so times that a notebook measures contain "
              "pauses. Do not compare them.")
