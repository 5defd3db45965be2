"""Clocks that can be trusted, comparisons in turns, and records of what was measured (notebook 03)."""

import contextlib
import datetime
import json
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils import benchmark

from helpers.machine import assets, runtime

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

    at_least: seconds to measure for (default 0.1; 0.01 in smoke size). runs: how many readings are wanted; a very long
    function gets two.
    """
    at_least = at_least or runtime.by_size(0.01, 0.1, 0.1)

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


def times_faster(new, old, device="cpu"):
    """How many times faster new() is than old(), cautiously: the lower quartile of eleven rounds in turns."""
    seconds = in_turns({"new": new, "old": old}, 11, device)
    return quartiles_of_ratios(seconds["old"], seconds["new"])[0]


def record(rows, device, folder=RECORDS):
    """Writes what was measured on a GPU into a file of its own and returns its path. rows: (what, result, unit)."""
    driver = "unknown"
    with contextlib.suppress(OSError, IndexError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True).stdout.split()[0]
    return write_record("speed", {
        "device": runtime.device_name(device), "driver": driver, "torch": torch.__version__,
        "date": datetime.date.today().isoformat(), "rows": rows,
    }, folder)


def write_record(kind, results, folder=RECORDS):
    """Writes results into the file of this kind and of the device results["device"], and returns its path."""
    device = re.sub("[^a-z0-9]+", "_", results["device"].lower()).strip("_")
    path = Path(folder) / f"{kind}_{device}.json"
    text = json.dumps(results, indent=1) + "\n"
    assets.write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
    return path


def recorded(folder=RECORDS):
    """All recorded GPU measurements: a list of dictionaries with device, driver, torch, date and rows."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("speed_*.json"))]
