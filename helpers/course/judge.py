"""Runs a learner's code inside a check: in limited time, with its prints captured and every setting of the process
restored, and sees which functions it calls."""

import _thread
import contextlib
import functools
import io
import random
import sys
import sysconfig
import threading
import traceback
from pathlib import Path

import numpy as np
import torch

HELPERS = str(Path(__file__).resolve().parents[1])
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
LONGEST_PRINT, MOST_LINES = 2000, 20  # what is shown of a learner's prints: characters, lines


class OutOfTime(Exception):
    """Raised by limited_time when the code inside it has not ended in time."""


def is_learners(filename):
    """Whether code from this file was written by the learner: not by the course, by Python or by a package."""
    return not filename.startswith((HELPERS, "<frozen", "<string>", *LIBRARIES))  # <string>: made by a dataclass


def learners_line(error):
    """The last line of the learner's own code that led to an error: "line 3: `q @ k`", or "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_learners(frame.filename):
            return f"line {frame.lineno}: `{frame.line}`" if frame.line else f"line {frame.lineno}"
    return ""


# --- time ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited_time(seconds):
    """Raises OutOfTime when the code inside has not ended after so many seconds. It interrupts as Ctrl-C does, again
    and again until the code ends. Only the main thread can be interrupted: in any other there is no limit."""
    ended, lock, expired = threading.Event(), threading.Lock(), threading.Event()

    def watch():
        wait = seconds
        while not ended.wait(wait):
            with lock:
                if not ended.is_set():
                    expired.set()
                    _thread.interrupt_main()
            wait = 0.05

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            yield
        finally:
            with lock:
                ended.set()
    except KeyboardInterrupt:  # of the watch, or of the learner, who pressed the stop button
        if not expired.is_set():
            raise
    except Exception:  # raised by code that has caught the interrupt, or by a check
        if not expired.is_set():
            raise
    if expired.is_set():
        raise OutOfTime(seconds)


# --- prints ----------------------------------------------------------------------------------------------------------


class Prints(io.TextIOBase):
    """Stands for sys.stdout, and keeps only the beginning of what is printed."""

    def __init__(self):
        self.kept, self.lines = "", 0

    def writable(self):
        """Always."""
        return True

    def write(self, text):
        """Keeps the text while there is room, and counts its lines."""
        self.lines += text.count("\n")
        self.kept += text[: max(0, LONGEST_PRINT - len(self.kept))]
        return len(text)

    def shown(self):
        """The first lines, and how many more there were."""
        lines = self.kept.rstrip("\n").splitlines()[:MOST_LINES]
        left_out = self.lines - len(lines)
        return "\n".join(lines + ([f"... ({left_out:,} more lines of your output)"] if left_out > 0 else []))


# --- settings --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def settings_restored():
    """Restores afterwards what code can change for the whole process: torch's default dtype and device, its threads,
    the gradient mode, the precision of matrix products, and the random state of torch, NumPy and Python."""
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    grad, precision = torch.is_grad_enabled(), torch.get_float32_matmul_precision()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.set_float32_matmul_precision(precision)
        for restore, state in zip((torch.set_rng_state, np.random.set_state, random.setstate), states):
            restore(state)
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


# --- calls -----------------------------------------------------------------------------------------------------------


def library_name(attempt):
    """The dotted name of an attempt that is itself a function of a library or of the course, or "" for one's own."""
    function = inner(attempt)
    code = getattr(function, "__code__", None)
    if code is None and isinstance(function, type):
        file = getattr(sys.modules.get(function.__module__), "__file__", None) or ""  # a notebook has no file
        return "" if is_learners(file) else f"{function.__module__}.{function.__qualname__}"
    if code is not None and is_learners(code.co_filename):
        return ""
    return f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', type(function).__name__)}"


def inner(attempt):
    """The function inside functools.partial and functools.wraps."""
    while isinstance(attempt, functools.partial) or hasattr(attempt, "__wrapped__"):
        attempt = attempt.func if isinstance(attempt, functools.partial) else attempt.__wrapped__
    return attempt


def is_called(name, pattern):
    """Whether a dotted name contains the parts of a pattern: torch.optim is in torch.optim.sgd.SGD.step."""
    return f".{pattern.strip('.')}." in f".{name}."


@contextlib.contextmanager
def calls_watched(patterns):
    """Yields a dictionary whose keys become the names of the functions that fit a pattern and that the learner's code
    calls, directly or not, in the order of the calls. The course's own reference may call them."""
    found, known, fitting = {}, {}, functools.cache(lambda name: any(is_called(name, each) for each in patterns))
    if not patterns:
        yield found
        return
    outermost = sys._getframe(2)  # the function that contains the with statement

    def note(frame, event, argument):
        if event == "call":
            code = frame.f_code
            if code not in known:
                name = f"{frame.f_globals.get('__name__')}.{code.co_qualname}"
                known[code] = "" if is_learners(code.co_filename) or not fitting(name) else name
            name, caller = known[code], frame.f_back
        elif event == "c_call":
            name = f"{argument.__module__}.{argument.__qualname__}".replace("_VariableFunctionsClass.", "")  # torch.mul
            name, caller = name if fitting(name) else "", frame
        else:
            return
        while name and caller is not None and caller is not outermost:
            if is_learners(caller.f_code.co_filename):
                found.setdefault(name)
                return
            caller = caller.f_back

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
