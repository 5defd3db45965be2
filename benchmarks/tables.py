"""The benchmark's results as Markdown: the tables of one machine, and BENCHMARKS.md with those of all machines."""

import json
import statistics
from pathlib import Path

from benchmarks import peers
from helpers.machine import timing
from scripts import generated_pages

ARMS = {
    "hf": "Hugging Face, default settings",
    "hf_tuned": "Hugging Face, our settings",
    "course": "Model 5",
    "course_bf16": "Model 5, bf16",
    "course_compiled": "Model 5, compiled",
}
UNITS = {"forward": "(logits)", "decode": "of the tokens", "train": "nats"}
HEAD = ["| program | median | relative to Hugging Face | share of the machine's limit | difference |",
        "|---|---|---|---|---|"]
MEMORY_HEAD = ["| program | peak memory | relative to Hugging Face | relative to weights, gradients and Adam's state |",
               "|---|---|---|---|"]

INTRODUCTION = """\
Model 5 is the course's GPT-2 small: one file that you can read in one sitting. The helpers around it use what PyTorch
offers: fused attention, a loss that never stores all logits at once, fused AdamW, a key/value cache, and on each
machine the matrix kernels that prove clearly faster there. Notebook [03](notebooks/03_cpu_versus_gpu.ipynb) adds these
one at a time and shows the effect of each. This page compares the result with Hugging Face's GPT-2.

## Run it on your machine

```sh
make bench                             # or: .venv/bin/python -m benchmarks.bench
make bench ARGS="--arms hf course"     # two programs only: less time and memory
```

A run takes about ten minutes and 4.5 GB of free memory for each program. It prints its tables and writes
`build/bench.json`. To record them, so that they appear on this page:

```sh
make bench ARGS="--record --arms hf hf_tuned course course_compiled"    # on a CPU
make gpu                                                                # on an NVIDIA GPU (see CONTRIBUTING.md)
```

## How to read the tables

- **Each row is one program in a process of its own.** All have the same weights and inputs, and they take turns. When
  the machine changes its speed, it changes for all of them.
- **Default settings** means fp32 and nothing else set. **Our settings** are fused AdamW, inference mode, our choice of
  the kernel that multiplies matrices, and 16 bits on a GPU. Model 5 also trains in 16 bits on a GPU; compare it with
  that row.
- **Relative to Hugging Face** is the median ratio of the times in each round, with the quartiles in parentheses. Below
  1 is faster. If the range contains 1, there is no clear difference. Where “construct the model” was measured, both
  Hugging Face rows run the same code, so their distance shows the noise: a smaller difference is not clear either.
- **Share of the machine's limit** compares the speed with one large matrix product (the peak), or with reading one
  large tensor (the memory), on the same machine in the same rounds: the median of the rounds, and where all were
  recorded, the quartiles in parentheses. On a CPU the fp32 peak is that of the setting that is faster there. A program
  at 80 % of the peak cannot become twice as fast without fewer bits or another machine. For “construct the model” the
  share counts the bytes written, although drawing the random numbers takes the time, not writing them.
- **Difference** is the largest difference from Hugging Face with default settings: in the logits, in the loss, or in
  the tokens written.

Ratios vary between processors, because the kernel that is faster on one can be slower on another. That is why, on a
CPU, `helpers` tries PyTorch's setting “medium” against “highest” in each process, on the products that the model
computes. It takes “medium” only if they are at least 1.4 times as fast and nearly as exact.
"""


def ratios(rows, row):
    """A row's time relative to Hugging Face's default settings (quartile, median, quartile), and its memory.

    None for what cannot be compared.
    """
    base = next((other for other in rows if other["task"] == row["task"] and other["arm"] == "hf"), None)
    if base is None:
        return None, None
    memory = row["memory"] / base["memory"] if row["memory"] else None
    return timing.quartiles_of_ratios(row["seconds"], base["seconds"]), memory


def time_row(result, row):
    """The table row of one program in one task."""
    median, (ratio, _) = statistics.median(row["seconds"]), ratios(result["rows"], row)
    relative = "" if ratio is None else "1" if row["arm"] == "hf" else "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratio)
    took = f"{result['shapes']['new'] / median:.1f} tokens/s" if row["task"] == "decode" else f"{median:.3g} s"
    limit = "memory" if row["of"] == "bytes" else f"{row['of']} peak"
    has_difference = row["difference"] is not None and row["arm"] != "hf"
    difference = f"{row['difference']:.1g} {UNITS[row['task']]}" if has_difference else ""
    share = f"{row['share']:.0%}"
    if len(row.get("shares", [])) > 1:  # older records have the median only
        low, _, high = statistics.quantiles(row["shares"], n=4, method="inclusive")
        share += f" ({low:.0%} to {high:.0%})"
    return f"| {ARMS[row['arm']]} | {took} | {relative} | {share} of the {limit} | {difference} |"


def memory_row(result, row):
    """The table row of one program's peak memory in training."""
    _, ratio = ratios(result["rows"], row)
    relative = "" if ratio is None else f"{ratio:.2f}"
    states = row["memory"] / (16 * result["parameters"])  # 4 bytes for each weight and each gradient, 8 for Adam
    return f"| {ARMS[row['arm']]} | {row['memory'] / 2**20:,.0f} MiB | {relative} | {states:.2f} |"


def tables(result):
    """The result of one machine: a heading, the versions, and one table for each task."""
    shapes, rows = result["shapes"], result["rows"]
    titles = {
        "construct": "Construct the model",
        "forward": "Forward pass, {} x {} tokens".format(*shapes["forward"]),
        "decode": f"Greedy decoding, {shapes['new']} new tokens",
        "train": "Training step, {} x {} tokens".format(*shapes["train"]),
    }
    threads = f"{result['threads']} threads, " if result["type"] == "cpu" else ""
    parts = [f"## {result['device']}\n\n{threads}torch {result['torch']}, transformers {result['transformers']}; "
             f"{result['rounds']} rounds; measured on {result['date']}.\n"]
    for task, title in titles.items():
        if own := [time_row(result, row) for row in rows if row["task"] == task]:
            parts.append("\n".join([f"**{title}**\n", *HEAD, *own, ""]))
    if memory := [memory_row(result, row) for row in rows if row["memory"]]:
        parts.append("\n".join(["**Peak memory of training**\n", *MEMORY_HEAD, *memory, ""]))
    return "\n".join(parts)


def page(folder):
    """The text of BENCHMARKS.md: how to read the tables, and those of each recorded machine."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("bench_*.json"))]
    body = "\n".join([INTRODUCTION, *map(tables, results), peers.section(folder)])
    return generated_pages.with_note("Benchmarks: Model 5 and Hugging Face's GPT-2",
                                     "python -m benchmarks.bench --tables", body)


def write_page(root):
    """Renews BENCHMARKS.md from the recorded results, without measuring anything."""
    return generated_pages.renew(root / "BENCHMARKS.md", page(root / "data" / "measurements"))
