"""Compare Model 5 with Hugging Face's GPT-2 on this machine.

    make bench                                      or: python -m benchmarks.bench
    python -m benchmarks.bench --record             also keep the result in data/measurements/ and in BENCHMARKS.md
    python -m benchmarks.bench --tables             measure nothing; renew BENCHMARKS.md from the recorded results
    python -m benchmarks.bench --arms hf course     less memory: two processes instead of four or five
    python -m benchmarks.bench --size small         a tiny model, which only shows that the program works

Every arm of the comparison is a process of its own (workers.py), because settings such as the precision of matrix
products hold for a whole process. BENCHMARKS.md explains what is compared and how.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import tables
from benchmarks.workers import ANSWER, WORKLOADS
from helpers import pretrained
from helpers.machine import kernels, limits, runtime, timing
from helpers.model import GPT, GPTConfig
from helpers.parameters import meta_model

ROOT = Path(__file__).resolve().parents[1]
ARMS = tables.ARMS
TASKS = ("construct", "forward", "decode", "train")
VARIANTS = ("course_bf16", "course_compiled")  # they differ from "course" in training only


class Arm:
    """A worker process, seen from the outside: starts it without waiting for it. Raises SystemExit with its last words
    if the process ends."""

    def __init__(self, name, setup):
        self.name, self.matmul = name, None
        self.errors = open(Path(setup["folder"]) / f"{name}.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers", name, json.dumps(setup)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors, text=True, encoding="utf-8", cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def wait_until_ready(self):
        """Waits until the process has started. Returns the setting of float32 products that it has chosen."""
        if self.matmul is None:
            self.matmul = self.answer()
        return self.matmul

    def answer(self):
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line[len(ANSWER):])
        self.errors.seek(0)
        last_lines = "\n".join(self.errors.read().strip().splitlines()[-12:])
        raise SystemExit(f"bench: the process {self.name!r} ended. Its last lines:\n{last_lines}")

    def __call__(self, command, *arguments):
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def prepare_weights(size, folder):
    """Saves the weights that all arms share, in both forms: GPT-2's initialisation with every parameter perturbed, so
    that biases and LayerNorms matter, too."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**WORKLOADS[size]["model"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    torch.save(model.state_dict(), folder / "course.pt")
    pretrained.to_huggingface(model).save_pretrained(folder / "hf")


def shapes_for(size, device):
    """The shapes of the tasks: larger ones on a GPU with 60 GB or more, such as an A100, an H100 or an H200."""
    if device == "cuda" and "cuda" in WORKLOADS[size]:
        is_large = torch.cuda.get_device_properties(0).total_memory > 60e9
        return WORKLOADS[size]["cuda" if is_large else "small cuda"]
    return WORKLOADS[size]["cpu"]


def count_work(size, shapes):
    """FLOPs of the matrix products of a forward pass and of a training step (three forward passes), and the number of
    parameters, counted on the meta device."""
    model = meta_model(GPTConfig(**WORKLOADS[size]["model"]))

    def forward(shape):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(shape, dtype=torch.int64, device="meta"))
        return counter.get_total_flops()

    parameters = sum(p.numel() for p in model.parameters())
    return {"forward": forward(shapes["forward"]), "train": 3 * forward(shapes["train"]), "parameters": parameters}


def report(text):
    """Prints a line about the progress."""
    print(text, file=sys.stderr, flush=True)


def bench(size, device, names, tasks, rounds, save):
    """Runs the comparison. Returns what --record writes: the machine, and the readings of each arm in each task.

    save(result) is called after each task, so that a run that is stopped loses one task at most.
    """
    bf16 = "course_bf16" in names or kernels.compute_dtype(device) == kernels.DTYPES["bf16"]
    shapes = shapes_for(size, device)
    work = count_work(size, shapes)
    result = {**timing.origin(device), "transformers": metadata.version("transformers"), "size": size,
              "rounds": rounds, "rows": [], "parameters": work["parameters"], "shapes": shapes}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        prepare_weights(size, Path(folder))
        setup = {"size": size, "device": device, "folder": folder, "bf16": bf16, "shapes": shapes}
        arms = {}
        for name in ("machine", *names):
            report(f"starting {ARMS.get(name, 'the measurement of the machine')}")
            arms[name] = Arm(name, setup)
            stack.callback(arms[name].close)
            if device == "cpu" and size == "gpt2":  # one at a time, because each tries the settings with a clock
                arms[name].wait_until_ready()
        chosen = {name: arm.wait_until_ready() for name, arm in arms.items()}
        result["matmul"] = {name: chosen[name] for name in names}
        arms["machine"]("prepare", None)
        for task in tasks:
            result["rows"] += compare(task, arms, rounds, work, setup)
            save(result)
    return result


def compare(task, arms, rounds, work, setup):
    """Lets the arms take turns in one task. Returns one row for each arm."""
    names = [name for name in arms if name != "machine" and (task == "train" or name not in VARIANTS)]
    outcomes, seconds, rates, rows = {}, {name: [] for name in names}, [], []
    for name in names:
        report(f"{task}: first run of {name}")
        outcomes[name] = arms[name]("prepare", task)
    for turn in range(rounds):
        rates.append(arms["machine"]("measure_rates"))
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(arms[name]("measure"))
        readings = ", ".join(f"{name} {seconds[name][-1]:.3g} s" for name in names)
        report(f"{task}: round {turn + 1} of {rounds}: {readings}")
    for name in names:
        row = {"task": task, "arm": name, "seconds": seconds[name]}
        row["memory"] = arms[name]("memory") if task == "train" else None
        row["difference"] = difference(task, outcomes["hf"], outcomes[name]) if "hf" in outcomes else None
        row["shares"], row["of"] = shares(task, name, seconds[name], rates, work, setup)
        row["share"] = statistics.median(row["shares"])
        rows.append(row)
    return rows


def difference(task, one, other):
    """The largest difference between the results of two arms: of logits or losses, or the number of other tokens."""
    if task == "forward":
        one, other = (torch.load(path, weights_only=True) for path in (one, other))
        return (one - other).abs().max().item()
    if task == "decode":
        return sum(a != b for a, b in zip(one, other, strict=True))
    return max(abs(a - b) for a, b in zip(one, other)) if task == "train" else None


def shares(task, arm, seconds, rates, work, setup):
    """The share of the machine's speed in each round, and the kind of speed: "bytes" or a precision."""
    if task in ("construct", "decode"):
        unit, amount = "bytes", 4 * work["parameters"] * (setup["shapes"]["new"] if task == "decode" else 1)
    else:
        is_mixed = task == "train" and (arm == "course_bf16" or (setup["device"] == "cuda" and arm != "hf"))
        unit, amount = ("bf16" if setup["bf16"] else "fp16") if is_mixed else "fp32", work[task]
    return [amount / s / rate[unit] for s, rate in zip(seconds, rates, strict=True)], unit


def check_memory(arms, size, device):
    """Ends the program if the free memory is not enough for all arms: each trains in a process of its own."""
    needed, free = 4.5e9 * len(arms) if size == "gpt2" else 0, limits.memory()[0]
    if device == "cuda" and size == "gpt2":  # each arm keeps weights and Adam's state; one at a time keeps the rest
        is_large = shapes_for(size, device) is WORKLOADS[size]["cuda"]
        needed, free = 2.5e9 * len(arms) + (45e9 if is_large else 4e9), torch.cuda.mem_get_info()[0]
    if free < needed:
        raise SystemExit(f"bench: {len(arms)} arms need about {needed / 1e9:.0f} GB of free memory, and "
                         f"{free / 1e9:.0f} GB are free. Close other programs, or compare fewer: --arms hf course")


def parse(arguments):
    """The options of the command line. Ends the program with a message where they contradict each other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=WORKLOADS, default="gpt2", help="gpt2: GPT-2 small; small: a tiny model")
    add("--device", choices=("cpu", "cuda", "mps"), help="default: the fastest one available")
    add("--arms", nargs="+", choices=ARMS, help="default: all but course_compiled on a CPU, course_bf16 on a GPU")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS)
    add("--rounds", type=int, default=5, help="how often the arms take turns (default: 5)")
    add("--out", type=Path, default=ROOT / "build" / "bench.json", help="the result (default: build/bench.json)")
    add("--record", action="store_true", help="also write the result into data/measurements/ and BENCHMARKS.md")
    add("--tables", action="store_true", help="measure nothing; renew BENCHMARKS.md from data/measurements/")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: expected at least 1")
    is_complete = options.size == "gpt2" and set(options.tasks) == set(TASKS) and "hf" in (options.arms or ARMS)
    if options.record and not is_complete:
        parser.error("--record needs a complete result: GPT-2 small, all tasks, and the arm hf to compare with")
    return options


def arms_for(device, chosen):
    """The arms that make sense on this machine, out of those chosen, or of the default ones."""
    arms = chosen or [name for name in ARMS if name != ("course_bf16" if device == "cuda" else "course_compiled")]
    if "course_bf16" in arms and not kernels.has_fast_bf16(device):
        report("course_bf16 is skipped: bf16 is not clearly faster on this processor, or a GPU uses 16 bits anyway")
        arms = [name for name in arms if name != "course_bf16"]
    if "course_compiled" in arms and (problem := kernels.compile_problem(device)):
        report(f"course_compiled is skipped: {problem}")
        arms = [name for name in arms if name != "course_compiled"]
    return arms


def main(arguments=None, root=ROOT):
    options = parse(arguments)
    if options.tables:
        tables.write_page(root)
        return 0
    device = options.device or runtime.best_device().type
    arms = arms_for(device, options.arms)
    check_memory(arms, options.size, device)
    result = bench(options.size, device, arms, options.tasks, options.rounds,
                   lambda result: timing.write_json(options.out, result))
    if options.record:
        timing.write_record("bench", result, root / "data" / "measurements")
        tables.write_page(root)
    print("\n" + tables.tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
