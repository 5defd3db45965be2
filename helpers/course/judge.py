"""Runs a learner's code inside a check: in limited time, with its prints captured and every setting of the process
restored, and sees which functions it calls."""

import _thread
import builtins
import contextlib
import functools
import io
import math
import os
import random
import signal
import sys
import sysconfig
import tempfile
import threading
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from IPython import get_ipython

from helpers.machine import kernels

HELPERS = str(Path(__file__).resolve().parents[1])
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
USUAL_RECURSION = 1000  # Python's own limit
LONGEST_PRINT, MOST_LINES = 2000, 20  # what is shown of a learner's prints: characters, lines


class OutOfTime(Exception):
    """Raised by limited_time when the code inside it has not ended in time."""


def is_learners(filename):
    """Whether code from this file was written by the learner: not by the course, by Python or by a package."""
    return not filename.startswith((HELPERS, "<frozen", "<string>", *LIBRARIES))  # <string>: made by a dataclass


def in_words(value, function=repr):
    """repr(value), or str(value), or the value's type where that fails."""
    try:
        return function(value)
    except Exception:
        return f"an object of the type {type(value).__name__}"


def is_stub(attempt):
    """Whether a function only returns None, as a notebook's stub does. A class and anything else counts as one, too."""
    code = getattr(inner(attempt), "__code__", None)
    return code is None or code.co_code == _stub.__code__.co_code


def _stub():
    return None


def learners_line(error):
    """The last line of the learner's own code that led to an error: "line 3: `q @ k`", or "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_learners(frame.filename):
            return f"line {frame.lineno}: `{frame.line}`" if frame.line else f"line {frame.lineno}"
    return ""


def hidden_function(attempt):
    """The name of a function of Python that an attempt calls and that a variable of the notebook hides, as list does
    after list = [1, 2]; or ""."""
    function = inner(attempt)
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    variables = getattr(function, "__globals__", {})
    return next((name for name in names if callable(getattr(builtins, name, None)) and name in variables
                 and not callable(variables[name])), "")


# --- time ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited_time(seconds):
    """Raises OutOfTime when the code inside has not ended after so many seconds. It interrupts as Ctrl-C does, again
    and again until the code ends. Only the main thread can be interrupted: in any other there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(seconds)
    before = signal.signal(signal.SIGINT, watch.interrupt)
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        try:
            yield
        finally:
            watch.active = False
    except KeyboardInterrupt:  # of the watch, or of the learner, who pressed the stop button
        watch.active = False
        if not watch.expired:
            raise
    except Exception:  # raised by code that has caught the interrupt, or by a check
        if not watch.expired:
            raise
    finally:
        watch.end()
        signal.signal(signal.SIGINT, before)
    if watch.expired:
        raise OutOfTime(seconds)


class _Watch:
    """Interrupts the main thread after some seconds, and then every 50 ms until end() is called."""

    def __init__(self, seconds):
        self.seconds, self.active, self.expired = seconds, True, False
        self.lock, self.ended = threading.Lock(), threading.Event()

    def run(self):
        """The watch's own thread."""
        wait = self.seconds
        while not self.ended.wait(wait):
            with self.lock:
                if not self.ended.is_set():
                    self.expired = True
                    _interrupt_main()
            wait = 0.05

    def interrupt(self, number, frame):
        """The handler of SIGINT meanwhile. A late signal of the watch does nothing."""
        if self.active or not self.expired:
            raise KeyboardInterrupt

    def end(self):
        """No signal is sent from now on."""
        self.active = False
        with self.lock:
            self.ended.set()


def _interrupt_main():
    """Interrupts the main thread, also while it waits in the operating system, where that is possible."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


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
    """Begins with the usual settings, whatever the notebook has changed, and restores afterwards what code can change
    for the whole process: settings of torch, NumPy and Python, the random states, the folder, the functions of torch
    and NumPy."""
    with contextlib.ExitStack() as stack:
        for keep in (_keep_functions, _keep_python, _keep_folder, _keep_warnings, torch_kept, _usual_torch,
                     _keep_matmul, _keep_random_states):
            stack.enter_context(keep())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(np.printoptions())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def _set_device(device):
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)


def _deterministic():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(enabled, only_warns):
    if _deterministic() != (enabled, only_warns):  # the call alone would load torch's compiler
        torch.use_deterministic_algorithms(enabled, warn_only=only_warns)


@contextlib.contextmanager
def _usual_torch():
    """torch's default dtype and device are float32 and the CPU, it looks for no nan, and it runs every function."""
    torch.set_default_dtype(torch.float32)
    _set_device(torch.device("cpu"))
    torch.set_anomaly_enabled(False)
    _set_deterministic(False, False)
    surrounded = torch.get_default_device().type != "cpu"  # the check runs inside "with torch.device(...)"
    with torch.device("cpu") if surrounded else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def torch_kept():
    """Restores torch's gradient mode, default dtype and device, autocast and other settings after the code inside."""
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    grad, anomaly = torch.is_grad_enabled(), (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
    deterministic, autocast = _deterministic(), {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        _set_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.set_anomaly_enabled(*anomaly)
        _set_deterministic(*deterministic)
        for kind, is_enabled in autocast.items():
            torch.set_autocast_enabled(kind, is_enabled)


@contextlib.contextmanager
def _keep_matmul():
    """Products of float32 matrices are exact to float32 inside, by either of torch's two kinds of setting."""
    before = kernels.matmul_setting()
    if before is None:  # the notebook has used the newer settings
        backends = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
        newer = [backend.fp32_precision for backend in backends]
        set_all = functools.partial(map, lambda backend, value: setattr(backend, "fp32_precision", value), backends)
        begin, end = lambda: list(set_all(["ieee"] * 2)), lambda: list(set_all(newer))
    else:
        begin, end = (functools.partial(torch.set_float32_matmul_precision, each) for each in ("highest", before))
    begin()
    try:
        yield
    finally:
        end()


@contextlib.contextmanager
def _keep_random_states():
    """The random states of torch, NumPy and Python."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for restore, state in zip((torch.set_rng_state, np.random.set_state, random.setstate), states):
            restore(state)
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)


@contextlib.contextmanager
def _keep_python():
    """The environment, the recursion limit, and the kernel: inside, exit() and quit() raise SystemExit."""
    environment, limit, shell = dict(os.environ), sys.getrecursionlimit(), get_ipython()

    def ask_exit():
        raise SystemExit

    if shell is not None:
        shell.ask_exit = ask_exit  # in a kernel exit() raises nothing: it only asks the kernel to end
    sys.setrecursionlimit(max(limit, USUAL_RECURSION))
    try:
        yield
    finally:
        if shell is not None:
            del shell.ask_exit  # the method of the class is visible again
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.setrecursionlimit(limit)


@contextlib.contextmanager
def _keep_folder():
    """The current folder. Where it has been removed, an existing one takes its place."""
    try:
        before = os.getcwd()
    except OSError:
        before = tempfile.gettempdir()
        os.chdir(before)
    with contextlib.chdir(before):
        yield


@contextlib.contextmanager
def _keep_warnings():
    """The filters of warnings. Inside, no warning is an error."""
    with warnings.catch_warnings():
        if any(action == "error" for action, *_ in warnings.filters):
            warnings.simplefilter("default")
        yield


def _functions(module):
    """What a module calls its functions: {name: function}."""
    return {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}


USUAL_FUNCTIONS = [(module, _functions(module)) for module in (builtins, math, np, torch, torch.nn.functional)]


@contextlib.contextmanager
def _keep_functions():
    """Python, NumPy and torch have their own functions inside, and torch.softmax = ... is undone. What the notebook has
    changed before comes back."""
    changed = []
    for module, usual in USUAL_FUNCTIONS:
        now = vars(module)
        changed.append({name: now[name] for name, value in usual.items() if now.get(name, value) is not value})
        now.update({name: usual[name] for name in changed[-1]})
    try:
        yield
    finally:
        for (module, usual), before in zip(USUAL_FUNCTIONS, changed):
            now = vars(module)
            now.update({name: value for name, value in (usual | before).items() if now.get(name) is not value})


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
                found.setdefault(name.replace("torch._C._nn.", "F.").replace("torch.nn.functional.", "F."))
                return
            caller = caller.f_back

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
