"""What was measured on other machines, for the lessons: each value with its machine and its date (notebooks 01 to 07).

`make gpu` writes these records into data/measurements, and `python -m helpers.course.full_size` those of training.
"""

import statistics
from dataclasses import asdict

from helpers.machine import timing
from helpers.model import GPTConfig
from helpers.training import TrainConfig

QUOTED_FROM = "https://github.com/HKUDS/LightRAG/issues/249"
QUOTED_ERROR = ("Expected all tensors to be on the same device, but found at least two devices, cpu and cuda:0! (when "
                "checking argument for argument index in method wrapper_CUDA__index_select)")


def same_settings(saved, now):
    """Whether what was recorded was made with the settings of now: a dictionary, in which "model" and "training" are
    fields of a GPTConfig and a TrainConfig.

    A field that did not exist yet when the record was made counts as its default, which changes nothing.
    """
    defaults = {"model": asdict(GPTConfig()), "training": asdict(TrainConfig())}

    def completed(name, value):
        known = saved.get(name)
        if name not in defaults or not isinstance(known, dict):
            return known
        return {key: known.get(key, defaults[name][key]) for key in {**value, **known}}

    return all(completed(name, value) == value for name, value in now.items())


def origin(record):
    """Where and when a record was made, in words for a caption."""
    own = [f"driver {record['driver']}"] if "driver" in record else []
    own += [f"{record['threads']} threads"] if "threads" in record else []  # an Apple GPU has neither
    return ", ".join([record["device"], *own, f"torch {record['torch']}", record["date"]])


def label(record):
    """The device and the date, in words for a table or a legend."""
    return f"{record['device']}, {record['date']}"


def of_gpus(kind):
    """The records of a kind ("speed", "training", "cuda" or "bench") that were made on NVIDIA GPUs."""
    return [record for record in timing.recorded(kind) if record["type"] == "cuda"]


def speeds(what, on="cuda"):
    """What notebook 03 has measured of Model 5 under this name on machines with a GPU: [(record, value)].

    on: "cuda" for the GPU, "cpu" for that machine's CPU. A value is a number, or [median, lower quartile, upper
    quartile], or {x: value} for a curve.
    """
    return [(record, value) for record in _of_model5() for device, name, value, _ in record["rows"]
            if (device, name) == (on, what)]


def _of_model5():
    """The records of speed on GPUs, without those of a rehearsal with a small stand-in model."""
    return [record for record in of_gpus("speed") if record["model"] == "Model 5"]


def on_both(what):
    """What notebook 03 has measured under this name on the GPU and on the CPU of one machine: [(record, median on the
    CPU, median on the GPU)]. The CPU's is None if it was not measured."""
    of_cpu = {label(record): middle(value) for record, value in speeds(what, on="cpu")}
    return [(record, of_cpu.get(label(record)), middle(value)) for record, value in speeds(what)]


def gpu_speeds():
    """All that notebook 03 has measured of Model 5 on the recorded GPUs: {label(record): {what: (value, unit)}}."""
    return {label(record): {what: (value, unit) for device, what, value, unit in record["rows"] if device == "cuda"}
            for record in _of_model5()}


def beside(here, gpu, names):
    """The rows of a table that compares this machine's CPU with a GPU.

    here, gpu: {what: (value, unit)}. names: what to compare; what the GPU lacks is skipped, and what this CPU lacks is
    None. The last column says how many times as fast the GPU is, and is None for a ratio.
    """
    rows = []
    for what in names:
        value, unit = gpu.get(what, (None, ""))
        if value is not None:
            cpu, value = middle(here.get(what, (None, unit))[0]), middle(value)
            factor = None if cpu is None or unit == "ratio" else cpu / value if unit == "s" else value / cpu
            rows.append({"measured": what, "unit": unit, "this CPU": cpu, "the GPU": value,
                         "GPU, times as fast": factor})
    return rows


def middle(value):
    """The median of a value of speeds()."""
    return value[0] if isinstance(value, (list, tuple)) else value


def gpu_findings(name):
    """What the tests on a GPU have noted under this name, such as the text of an error: [(record, value)]."""
    return [(record, test[name]) for record in of_gpus("cuda") for test in record["tests"] if name in test]


def same_device_error():
    """CUDA's message when an embedding on the GPU gets positions on the CPU, and where it comes from: (text, origin).

    It is taken from the newest record of the tests on a GPU. While there is none, it is quoted from a bug report.
    """
    findings = gpu_findings("same device error")
    if not findings:
        return QUOTED_ERROR, f"quoted from a public bug report of 2024, {QUOTED_FROM}; not recorded by this course"
    record, message = max(findings, key=lambda finding: finding[0]["date"])
    return message, f"recorded on another machine: {origin(record)}"


def trainings():
    """The records of Model 5 at its real size on Gulliver's Travels."""
    return [record for record in timing.recorded("training")
            if (record["size"], record["text"]) == ("full", "Gulliver's Travels")
            and record["model"]["vocab_size"] == 50_257]


def training_runs(name):
    """The recorded runs of this name (full_size.RUNS): [(record, run)], those with the most batches first."""
    runs = [(record, record["runs"][name]) for record in trainings() if name in record["runs"]]
    return sorted(runs, key=lambda run: -run[1]["batches"])


def full_size():
    """The one of trainings() with the most batches, a GPU's before a CPU's, or None (notebook 07)."""

    def batches(record):
        return sum(run["batches"] for run in record["runs"].values())

    return max(filter(batches, trainings()), key=lambda record: (batches(record), record["type"] == "cuda"),
               default=None)


def batch_times(name):
    """How long a batch took in the recorded runs of this name: [(record, run, median seconds, batches timed)]. A run of
    which no batch was timed is skipped."""
    timed = [(record, run, [seconds for seconds in run["seconds"] if seconds is not None])
             for record, run in training_runs(name)]
    return [(record, run, statistics.median(seconds), len(seconds)) for record, run, seconds in timed if seconds]
