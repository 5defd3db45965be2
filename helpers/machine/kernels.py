"""Which routines multiply the matrices, and in which precision: choices that this machine measures (notebook 03)."""

import contextlib
import functools
import os
import re
import sys
import sysconfig
import tempfile
import traceback
import warnings

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers.machine.timing import in_turns, quartiles_of_ratios, times_faster

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLEARLY_FASTER = 1.4  # a faster path is taken only if it is this many times as fast
GPT2_SMALL, TRIAL_ROWS = (12, 768, 50257), 256  # blocks, C and V; rows of the products tried, as in the loss
BF16_PAYS = 1.2  # training in bfloat16 on a CPU pays if its products are this many times as fast

# Precision


def compute_dtype(device, precision="auto"):
    """The type in which to multiply matrices. "auto": bfloat16 where a GPU has it in hardware, float16 on an older one
    (a T4), else float32. "fp32", "bf16" and "fp16" choose it themselves. Raises ValueError for any other word."""
    if precision not in ("auto", *DTYPES):
        raise ValueError(f"precision={precision!r}: expected one of auto, {', '.join(DTYPES)}.")
    if precision != "auto":
        return DTYPES[precision]
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device, precision="auto"):
    """A context in which the device's matrix products run in its compute_dtype; parameters stay in float32."""
    dtype = compute_dtype(device, precision)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(torch.device(device).type, dtype)


def precisions(device):
    """The names of the precisions worth trying on a device. NVIDIA has tf32 and bf16 from Ampere on; a T4 is older."""
    if torch.device(device).type != "cuda":
        return ["fp32", {"cpu": "bf16"}.get(torch.device(device).type, "fp16")]
    is_recent = torch.cuda.get_device_capability(device)[0] >= 8
    return ["fp32", "tf32", "bf16", "fp16"] if is_recent else ["fp32", "fp16"]


def dtype_of(name):
    """The type of tensors in one of precisions(): tf32 is another way to multiply float32."""
    return torch.float32 if name == "tf32" else DTYPES[name]


@contextlib.contextmanager
def precision(name, device):
    """A context for matrix products in the precision of that name. tf32 is a setting of the whole process."""
    with matmul_precision("high" if name == "tf32" else "highest"):
        with torch.autocast(torch.device(device).type, dtype_of(name), enabled="16" in name):
            yield


def matmul_setting():
    """What torch.get_float32_matmul_precision() returns; None where the caller has chosen by PyTorch's newer settings,
    which cannot be combined with this one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch 2.9 complains of the question
            return torch.get_float32_matmul_precision()
    except RuntimeError:  # "mix of the legacy and new APIs"
        return None


@contextlib.contextmanager
def matmul_precision(setting):
    """A context with torch.set_float32_matmul_precision(setting), which holds for the whole process and is restored at
    the end. None changes nothing, and nor does any setting where matmul_setting() is None."""
    before = matmul_setting()
    if setting is None or before is None:
        yield
        return
    torch.set_float32_matmul_precision(setting)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fastest_matmul(device, config=None):
    """The fastest safe setting of float32 matrix products on a CPU: "medium" or "highest" (notebook 03).

    config: the GPTConfig of the model that will multiply (default: GPT-2 small). For its products together "medium"
    must be clearly faster, and for each of them its largest error below four times that of float32. None on other
    devices, and where matmul_setting() is None.
    """
    if torch.device(device).type != "cpu" or matmul_setting() is None:
        return None
    shape = GPT2_SMALL if config is None else (config.n_layer, config.n_embd, config.vocab_size)
    threads = torch.get_num_threads()
    trial = try_matmul(threads) if shape == GPT2_SMALL else try_matmul(threads, shape)
    is_faster, is_safe = trial["times faster"] > CLEARLY_FASTER, trial["medium"] < 4 * trial["highest"]
    return "medium" if is_faster and is_safe else "highest"


@functools.cache
def try_matmul(threads, shape=GPT2_SMALL):
    """Tries the float32 products of a GPT on this CPU, once for each number of threads: {"times faster", "medium",
    "highest"}. shape: its number of blocks, C and V.

    How many times faster they are together with "medium" than with "highest" (the lower quartile of the rounds, or
    their best readings if these differ less, each product as often as a forward pass computes it); and the largest
    error of each setting, for the product where "medium" compares worst. "medium" allows PyTorch to round to bfloat16.
    On some processors it instead opens the way to another library's float32 kernel, which can be faster for some
    shapes (AMD) or slower (Intel). So it is measured and not assumed.
    """
    blocks, C, V = shape
    counts = {(3 * C, C): blocks, (C, C): blocks, (4 * C, C): blocks, (C, 4 * C): blocks, (V, C): 1}
    work = sum(2 * TRIAL_ROWS * outputs * inputs for outputs, inputs in counts)  # FLOPs
    rounds = 11 if work < 2e9 else 4  # enough for the noise of short products
    seconds, errors = {"medium": [0.0] * rounds, "highest": [0.0] * rounds}, []
    least = dict.fromkeys(seconds, 0.0)  # from the best round of each product: other programs disturb it least
    for (outputs, inputs), count in counts.items():
        product, error = trial_product(outputs, inputs)
        errors.append({setting: error(setting) for setting in seconds})
        turns = in_turns({setting: functools.partial(product, setting) for setting in seconds}, rounds)
        for setting, readings in turns.items():
            seconds[setting] = [total + count * own for total, own in zip(seconds[setting], readings)]
            least[setting] += count * min(readings)
    worst = max(errors, key=lambda own: own["medium"] / max(own["highest"], 1e-30))
    low = quartiles_of_ratios(seconds["highest"], seconds["medium"])[0]
    return {"times faster": min(low, least["highest"] / least["medium"]), **worst}


def trial_product(outputs, inputs):
    """Two functions of a setting: one multiplies x (TRIAL_ROWS, inputs) by the transpose of a matrix (outputs, inputs),
    the other returns the largest error of that product, in a part of it."""
    generator = torch.Generator().manual_seed(0)
    part = min(outputs, 4096)
    x, w = (torch.randn(rows, inputs, generator=generator) for rows in (TRIAL_ROWS, part))
    exact = x[:32].double() @ w.double().T
    w = w.repeat(-(-outputs // part), 1)[:outputs]  # to draw all of a vocabulary's matrix would take long

    def product(setting):
        with matmul_precision(setting):
            return x @ w.T

    return product, lambda setting: (product(setting)[:32, :part] - exact).abs().max().item()


def has_fast_bf16(device):
    """Whether this is a CPU on which training in bfloat16 pays. A GPU trains in 16 bits anyway."""
    return torch.device(device).type == "cpu" and fast_bf16(device) > BF16_PAYS


def fast_bf16(device):
    """How many times faster this device multiplies matrices in bfloat16 than in float32 (notebook 03)."""
    x = torch.randn(1024, 1024, device=device)
    low = x.bfloat16()
    return times_faster(lambda: low @ low, lambda: x @ x, device)


# torch.compile

COMPILER = {"darwin": "Apple's command line tools (xcode-select --install)",
            "win32": "Microsoft's C++ Build Tools, and start the course from their Developer Command Prompt",
            }.get(sys.platform, "g++ (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++)")
FOLDER = "Set the environment variable TORCHINDUCTOR_CACHE_DIR to another folder"
MISSING = (  # a sign in the error, and what to do about it; the first that is found counts
    (r"xcrun|xcode-select|No working C\+\+ compiler|find C compiler|Compiler: .* is not found|cc1plus",
     f"It needs a C++ compiler: install {COMPILER}."),
    (r"No space left|not enough space", f"Its disk is full. {FOLDER}, or free some space."),
    (r"Read-only|Permission denied|Access is denied|File exists|failed to map segment|Fail to create path",
     f"It cannot use its folder for compiled code. {FOLDER}."),
    (r"too old to be supported", "Triton, with which it compiles, does not support this GPU."),
    (r"Cannot find a working triton|No module named 'triton|ptxas",
     "Triton is missing or damaged. Install PyTorch's CUDA build again (https://pytorch.org/get-started/locally)."),
    (r"Python\.h", "The header files of Python are missing: install python3-dev (Debian, Ubuntu) or python3-devel "
                   "(Fedora), for the version of Python that runs the course."),
    (r"CalledProcessError", "The C compiler has failed, and its own lines stand above. Often the header files of "
                            "Python are missing: python3-dev (Debian, Ubuntu) or python3-devel (Fedora)."),
    (r"omp\.h|libi?g?omp|-lg?omp",
     f"The compiler lacks OpenMP. On macOS: brew install libomp. Elsewhere install {COMPILER}."),
    (r"std=c\+\+|std:c\+\+", f"The compiler does not know C++20: install a newer version of {COMPILER}."),
)


def can_compile(device):
    """Whether torch.compile works on a device of this machine: it needs a compiler, and on a GPU also Triton."""
    return not compile_problem(device)


def compile_problem(device):
    """Why torch.compile does not work on a device of this machine, and what to do about it; "" where it works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(4, device=device))
    except Exception as error:  # each missing part raises an error of its own kind
        return compile_advice(error)
    return ""


def is_compile_error(error):
    """Whether an error comes from torch.compile. An OSError does if it was raised inside (a folder cannot be used)."""
    parts = "torch._dynamo", "torch._inductor"
    if isinstance(error, OSError):
        frames = traceback.walk_tb(error.__traceback__)
        return any(frame.f_globals.get("__name__", "").startswith(parts) for frame, _ in frames)
    return type(error).__module__.startswith(parts)


def compile_advice(error):
    """What to tell somebody whose torch.compile has failed: what is missing, and the line that says so."""
    text = str(error).strip() or type(error).__name__
    lines = text.partition("\nOutput:\n")[2].strip().splitlines() or text.splitlines()  # of the compiler, or the first
    line = next((line for line in lines if re.search("error|cannot find", line)), lines[0]).strip()
    missing = next((remedy for sign, remedy in MISSING if re.search(sign, line)), None)
    if "\nOutput:\n" in text and (path := path_with_a_space()) and "cc1plus" not in line:
        missing = (f"It passes paths to the compiler that must not contain a space: {path!r}. Use folders without one: "
                   "for the course and its .venv, and in TMPDIR (Windows: TEMP) and TORCHINDUCTOR_CACHE_DIR.")
    missing = missing or f"It needs a C++ compiler ({COMPILER}), and on a GPU also Triton."
    return f"torch.compile did not succeed. {missing} Or train with compile=False. The error was: {line}"


def path_with_a_space():
    """The first of the folders of which torch.compile tells the compiler that has a space in its path, or None."""
    folders = (os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""), tempfile.gettempdir(), os.path.dirname(torch.__file__),
               sysconfig.get_path("include"))
    return next((folder for folder in folders if " " in folder), None)


# One row at a time, as decoding multiplies


@contextlib.contextmanager
def fast_decoding(model):
    """A context for reading one token at a time with the kernels that are fastest on this machine (notebook 03)."""
    weight, threads = model.lm_head.weight, torch.get_num_threads()
    is_fp32 = weight.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    splits = is_fp32 and threads > 1 and splitting_helps(*weight.shape, threads)
    with (matmul_precision(fastest_matmul(weight.device, model.config)),
          SplitOneRow() if splits else contextlib.nullcontext()):
        yield


@functools.cache
def splitting_helps(rows, width, threads):
    """Whether split_linear is clearly faster than F.linear on this CPU, measured once for each size."""
    weight, x = torch.ones(min(rows, 16384), width), torch.ones(1, width)
    return times_faster(lambda: split_linear(x, weight), lambda: F.linear(x, weight)) > CLEARLY_FASTER


class SplitOneRow(TorchFunctionMode):
    """While it is active, split_linear computes each F.linear of a single row."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and args[0].numel() == args[0].shape[-1]:
            function = split_linear
        return function(*args, **(kwargs or {}))


def split_linear(x, weight, bias=None):
    """F.linear of a single row: x (..., 1, I), weight (O, I), bias (O,) -> (..., 1, O), on all threads of the CPU.

    Some libraries multiply one row by a matrix on a single core. As a batch of several smaller products, views of the
    weight without a copy, it keeps all of them busy (notebook 03).
    """
    parts, (outputs, inputs) = torch.get_num_threads(), weight.shape
    whole = outputs - outputs % parts
    pieces = weight[:whole].view(parts, whole // parts, inputs)
    rows = x.reshape(1, 1, inputs).expand(parts, 1, inputs)  # the same row for each piece
    y = torch.bmm(rows, pieces.transpose(1, 2)).view(whole)  # (parts, 1, I) and (parts, I, O / parts) -> (O,)
    if whole < outputs:
        y = torch.cat([y, weight[whole:] @ x.reshape(inputs)])
    return (y if bias is None else y + bias).view(*x.shape[:-1], outputs)
