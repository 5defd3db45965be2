"""Measuring time and memory honestly, and keeping what was measured on a GPU (notebook 03)."""

import contextlib
import ctypes
import datetime
import gc
import json
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils import benchmark

from helpers import assets, runtime

FOLDER, STATUS = assets.ROOT / "data" / "measurements", Path("/proc/self/status")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, **runtime.DTYPES}


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
    """The Timing of function() on a device, by torch.utils.benchmark, whose clock here waits for the device: over so
    many seconds (0.1; in the size smoke 0.01), and so many readings (two, if they are very long)."""
    at_least = at_least or runtime.by_size(0.01, 0.1, 0.1)

    def clock():
        return runtime.wait_for(device) or time.perf_counter()

    times, threads = [], torch.get_num_threads()
    timer = benchmark.Timer("function()", globals={"function": function}, timer=clock, num_threads=threads)
    while len(times) < 2 or (len(times) < runs and sum(times) < runs):
        times += timer.blocked_autorange(min_run_time=at_least).times  # each call lets a first run pass uncounted
    return Timing(*np.quantile(times, (0.5, 0.25, 0.75)).tolist())


def precisions(device):
    """The names of the precisions worth trying on a device. NVIDIA has tf32 and bf16 from Ampere on; a T4 is older."""
    if torch.device(device).type != "cuda":
        return ["fp32", {"cpu": "bf16"}.get(torch.device(device).type, "fp16")]
    return list(DTYPES) if torch.cuda.get_device_capability(device)[0] >= 8 else ["fp32", "fp16"]


@contextlib.contextmanager
def precision(name, device):
    """A context for matrix products in the precision of that name. tf32 is a setting of the whole process."""
    with runtime.matmul_precision("high" if name == "tf32" else "highest"):
        with torch.autocast(torch.device(device).type, DTYPES[name], enabled="16" in name):
            yield


def peak_memory(function, device="cpu"):
    """The most bytes that function() needed at once, as PyTorch counts on CUDA and Linux on a CPU; else None."""
    gc.collect()  # what is left over from before must not be given back meanwhile
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before, _ = torch.cuda.memory_allocated(device), function()
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # pages that were freed but kept would be used again, and not be seen
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak that Linux remembers starts again from here
        before, _, after = STATUS.read_text("utf-8"), function(), STATUS.read_text("utf-8")
        resident, peak = (int(re.search(rf"{n}:\s+(\d+)", s)[1]) for n, s in (("VmRSS", before), ("VmHWM", after)))
        return 1024 * (peak - resident) if torch.device(device).type == "cpu" else None


def record(rows, device, folder=FOLDER):
    """Writes what was measured on a GPU into a file of its own, and returns its path. rows: (what, result, unit)."""
    name, date, driver = runtime.device_name(device), datetime.date.today().isoformat(), "unknown"
    with contextlib.suppress(OSError, IndexError):
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(ask, capture_output=True, text=True).stdout.split()[0]
    found = {"device": name, "driver": driver, "torch": torch.__version__, "date": date, "rows": rows}
    return write_record("speed", found, folder)


def write_record(kind, found, folder=FOLDER):
    """Writes what was measured, with found["device"], into the file of this kind and device, and returns its path."""
    path = Path(folder) / f"{kind}_{re.sub('[^a-z0-9]+', '_', found['device'].lower()).strip('_')}.json"
    assets.write_atomically(path, lambda to: Path(to).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8"))
    return path


def recorded(folder=FOLDER):
    """What has been recorded: a list of dictionaries of device, driver, torch, date and rows."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("speed_*.json"))]
