"""The machine that the course runs on: device, precision, run size, seeds, and a look at a helper's source."""

import contextlib
import functools
import inspect
import os
import platform
import random
import statistics
import time

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


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compute_dtype(device, precision="auto"):
    """The type to multiply matrices in. "auto": bfloat16 where a GPU has it in hardware, float16 on an older one (a
    T4), else float32; "fp32", "bf16" and "fp16" say it themselves."""
    if precision != "auto":
        return DTYPES[precision]
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device, precision="auto"):
    """A context in which the device's matrix products run in its compute_dtype; parameters stay in float32."""
    dtype = compute_dtype(device, precision)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(torch.device(device).type, dtype)


def in_turns(functions, rounds, device="cpu"):
    """Seconds of each function in each round, {name: [...]} for {name: function()}, after a run that does not count.

    They take turns, so that a machine that changes its speed meanwhile changes it for all of them (notebook 03).
    """

    def seconds(function):
        wait_for(device)
        start = time.perf_counter()
        function()
        wait_for(device)
        return time.perf_counter() - start

    turns = [[seconds(function) for function in functions.values()] for _ in range(rounds + 1)]
    return dict(zip(functions, map(list, zip(*turns[1:]))))


def quartiles_of_ratios(seconds, others):
    """The ratios of the rounds of two functions, seconds / others: (lower quartile, median, upper quartile)."""
    ratios = [own / other for own, other in zip(seconds, others, strict=True)]
    return tuple(statistics.quantiles(ratios * 2 if len(ratios) == 1 else ratios, n=4, method="inclusive"))


def times_faster(new, old, device="cpu"):
    """How many times faster new() is than old(), said with care: the lower quartile of eleven readings in turn."""
    found = in_turns({"new": new, "old": old}, 11, device)
    return quartiles_of_ratios(found["old"], found["new"])[0]


@contextlib.contextmanager
def matmul_precision(precision):
    """A context for float32 matrix products with torch.set_float32_matmul_precision, which is a setting of the whole
    process: at the end it is what it was before. None changes nothing."""
    with contextlib.ExitStack() as at_the_end:
        if precision is not None:
            at_the_end.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision(precision)
        yield


def fastest_matmul(device):
    """The setting of float32 matrix products to use on a CPU: "medium" or "highest" (notebook 03). Elsewhere None.

    "medium" must be 1.4 times as fast, and its largest error below four times that of float32. None also where the
    caller has chosen by PyTorch's newer settings, which do not mix with this one.
    """
    if torch.device(device).type != "cpu":
        return None
    try:
        torch.get_float32_matmul_precision()
    except RuntimeError:  # "mix of the legacy and new APIs"
        return None
    trial = try_matmul(torch.get_num_threads())
    return "medium" if trial["times faster"] > 1.4 and trial["medium"] < 4 * trial["highest"] else "highest"


@functools.cache
def try_matmul(threads):
    """Tries float32 products on this CPU, once for each number of threads: {"times faster", "medium", "highest"}, how
    many times faster "medium" is than "highest", and the largest error of each.

    "medium" allows PyTorch to round to bfloat16. On some processors it instead opens the way to another library's
    float32 kernel, which can be twice as fast (AMD) or slower (Intel). So it is tried and not assumed.
    """
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(512, 768, generator=generator) for _ in "xw")

    def product(precision):
        with matmul_precision(precision):
            return x @ w.T

    exact = x.double() @ w.double().T
    errors = {precision: (product(precision) - exact).abs().max().item() for precision in ("medium", "highest")}
    return {"times faster": times_faster(lambda: product("medium"), lambda: product("highest")), **errors}


def fast_bf16(device):
    """How many times faster this device multiplies matrices in bfloat16 than in float32 (notebook 03)."""
    x = torch.randn(1024, 1024, device=device)
    low = x.bfloat16()
    return times_faster(lambda: low @ low, lambda: x @ x, device)


def can_compile(device):
    """Whether torch.compile works on a device here: it needs a compiler, and on a GPU Triton."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(4, device=device))
    except Exception:  # each missing part raises an error of its own kind
        return False
    return True


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


def computes_like_the_cpu(device):
    """Whether attention and its gradient come out on a device as they do on the CPU, up to rounding.

    On Apple's GPUs some versions of PyTorch gave other numbers without a word; so this is tried and not assumed.
    """

    def computed(where):
        x = torch.randn(64 * 192, generator=torch.Generator().manual_seed(0)).to(where).requires_grad_()
        q, k, v = x.view(1, 64, 3, 2, 32).permute(2, 0, 3, 1, 4)  # (B, nh, T, hs) each, as Model 5 cuts them
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.cat([y.flatten(), torch.autograd.grad(y.square().sum(), x)[0]]).cpu()

    return torch.allclose(computed(device), computed("cpu"), rtol=0.02, atol=0.02)  # far more than tf32 rounds


def describe():
    """Prints one line on what this notebook runs on, and another if this device cannot be trusted."""
    versions, device = f"torch {torch.__version__}; Python {platform.python_version()}", best_device()
    print(f"Ready: {device_name(device)}; run size {run_size()}; {versions}")
    if device.type != "cpu" and not computes_like_the_cpu(device):
        print(f"WRONG NUMBERS: attention on {device_name(device)} differs from the CPU's. Update PyTorch, or set "
              "COURSE_DEVICE=cpu and restart the kernel.")


def show_source(*things):
    """Shows the source of helpers' functions or classes, so that a notebook never needs a copy of them.

    The colours stand in the HTML itself, because GitHub and exported pages keep no style sheet of an output.
    """
    from IPython.display import display
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    colours = HtmlFormatter(noclasses=True, cssstyles="color: #222", prestyles="font-family: monospace")
    for thing in things:
        source = inspect.getsource(thing).rstrip()
        display({"text/html": highlight(source, PythonLexer(), colours), "text/plain": source}, raw=True)
