"""Clocks that can be trusted, comparisons in turns, and records of what was measured (notebook 03)."""

import contextlib
import datetime
import json
import math
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils import benchmark

from helpers.machine import assets, limits, runtime

RECORDS = assets.ROOT / "data" / "measurements"


class Timing(NamedTuple):
    """Seconds for one run: median and quartiles of several."""
    median: float
    low: float
    high: float

    def __str__(self):
        unit, factor = next((p for p in (("s", 1), ("ms", 1e3)) if self.median * p[1] >= 0.9995), ("µs", 1e6))
        middle, low, high = (f"{x:,.0f}" if x >= 999.5 else f"{x:.3g}" for x in (factor * t for t in self))
        return f"{middle} {unit} ({low} to {high})"


def measure(function, device="cpu", at_least=None, runs=3):
    """The Timing of function() on a device, by torch.utils.benchmark with a clock that waits for the device.

    at_least: seconds to measure for (default 0.1; 0.01 in smoke size, 0.02 in full size, because the clock that waits
    for a GPU is slow, and the timer runs a short function many times for each reading). runs: how many readings are
    wanted; a very long function gets two.
    """
    at_least = at_least or runtime.by_size(0.01, 0.1, 0.02)

    def clock():
        return runtime.wait_for(device) or time.perf_counter()

    times, threads = [], torch.get_num_threads()
    timer = benchmark.Timer("function()", globals={"function": function}, timer=clock, num_threads=threads)
    while len(times) < 2 or (len(times) < runs and sum(times) < runs):
        times += timer.blocked_autorange(min_run_time=at_least).times  # each call begins with a warm-up run
    return Timing(*np.quantile(times, (0.5, 0.25, 0.75)).tolist())


def in_turns(functions, rounds, device="cpu"):
    """Times several functions in turns, so that a machine whose speed changes meanwhile changes it for all of them.

    functions: {name: function} -> {name: seconds of each round}, after a warm-up round (notebook 03).
    """

    def seconds(function):
        runtime.wait_for(device)
        start = time.perf_counter()
        function()
        runtime.wait_for(device)
        return time.perf_counter() - start

    turns = [[seconds(function) for function in functions.values()] for _ in range(rounds + 1)]
    return dict(zip(functions, map(list, zip(*turns[1:]))))


def quartiles_of_ratios(seconds, others):
    """The ratios seconds / others, round by round: (lower quartile, median, upper quartile)."""
    ratios = [own / other for own, other in zip(seconds, others, strict=True)]
    return tuple(statistics.quantiles(ratios * 2 if len(ratios) == 1 else ratios, n=4, method="inclusive"))


def slope(times, device):
    """How a time grows between the two largest sizes of {size: Timing}: the slope on logarithmic axes, which is 1 for
    proportional and 2 for quadratic.

    Returns (median, lowest, highest), by the quartiles of both times. None where they cannot tell: the lowest and the
    highest are more than 0.5 apart, more work seems to take less time, or a quota stops this CPU (notebook 03).
    """
    small, large = sorted(times)[-2:]
    median, low, high = (math.log(after / before) / math.log(large / small) for before, after in
                         zip((times[small].median, times[small].high, times[small].low), times[large]))
    is_stopped = torch.device(device).type == "cpu" and limits.pausing_quota(torch.get_num_threads())
    return None if is_stopped or high - low > 0.5 or median < 0 else (median, low, high)


def times_faster(new, old, device="cpu"):
    """How many times faster new() is than old(), cautiously: the lower quartile of eleven rounds in turns."""
    seconds = in_turns({"new": new, "old": old}, 11, device)
    return quartiles_of_ratios(seconds["old"], seconds["new"])[0]


def origin(device):
    """Where and when a measurement was made: {"device", "type", "threads" or "driver", "torch", "python", "date"}, and
    "quota", in processors, if the CPU has one that is too small for its threads."""
    device = torch.device(device)
    if device.type == "cpu":
        name, own = runtime.processor_name() or platform.machine(), {"threads": torch.get_num_threads()}
        own |= {"quota": quota} if (quota := limits.pausing_quota(own["threads"])) else {}
    else:
        name, own = runtime.device_name(device), {"driver": driver_version()} if device.type == "cuda" else {}
    return {"device": name, "type": device.type, **own, "torch": torch.__version__,
            "python": platform.python_version(), "date": datetime.date.today().isoformat()}


def driver_version():
    """The version of NVIDIA's driver, or "unknown"."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError, IndexError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    return "unknown"


def write_record(kind, results, folder=RECORDS):
    """Writes results into the file of this kind and of the device results["device"], and returns its path."""
    path = record_path(kind, results, folder)
    write_json(path, results)
    return path


def record_path(kind, results, folder=RECORDS):
    """The file of the records of this kind and of the device results["device"]."""
    device = re.sub("[^a-z0-9]+", "_", results["device"].lower()).strip("_")
    return Path(folder) / f"{kind}_{device}.json"


def write_json(path, results):
    """Writes a JSON file in one step, whole or not at all, with one line for each entry of its two upper levels."""
    text = _lines(results, levels=2) + "\n"
    assets.write_atomically(Path(path), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _lines(value, levels):
    if not (levels and value and isinstance(value, (dict, list))):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, list):
        return "[\n" + ",\n".join(_lines(item, levels - 1) for item in value) + "]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_lines(item, levels - 1)}" for key, item in value.items()) + "}"


def recorded(kind, folder=None):
    """All records of a kind, such as "speed" or "training", in a folder (default: RECORDS): one dictionary for each
    device, with its origin()."""
    paths = sorted(Path(folder or RECORDS).glob(f"{kind}_*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
