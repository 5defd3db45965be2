"""What the course's GPT-2 has learned and what its fine-tuning brings, from their records (notebook 07)."""

import json
import statistics

from helpers.course import speedrun_results
from helpers.machine import assets, timing

FOLDER = assets.DATA / "gpt2-course"
FINE_TUNING = timing.RECORDS / "fine_tuning.json"


def training():
    """How the course's GPT-2 was trained: settings, tokens, and a log with the validation loss by step."""
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


def abilities():
    """What the course's GPT-2 is able to do, as data/recipes/measure_gpt2_course.py has measured it: bits per byte of
    held-out authors, texts that it writes, and more."""
    return json.loads((FOLDER / "abilities.json").read_text(encoding="utf-8"))


def curve(record):
    """The log of training(): the tokens read so far, in millions, the hours so far, and the validation loss, in nats
    per token; three lists."""
    per_step = record["training"]["batch_size"] * record["training"]["context"] / 1e6
    hours, total = [], 0.0
    for entry in record["log"]:
        total += entry["seconds"] / 3600
        hours.append(total)
    return [entry["step"] * per_step for entry in record["log"]], hours, [
        entry["validation_loss"] for entry in record["log"]]


def fine_tuning():
    """The record of data/recipes/measure_fine_tuning.py, or None without a complete one for these weights."""
    if not FINE_TUNING.is_file():
        return None
    record = json.loads(FINE_TUNING.read_text(encoding="utf-8"))
    by_start = chosen(record) if record["runs"] else {}
    is_complete = [len(runs) for runs in by_start.values()] == [len(record["seeds"])] * 2
    return record if is_complete and record["weights"] == assets.sha256(FOLDER / "model.safetensors") else None


def best_rates(runs):
    """The learning rate of each start with the lowest validation loss at the end, with the first seed."""
    first = min(run["seed"] for run in runs)
    tried = [run for run in runs if run["seed"] == first]
    return {start: min((run for run in tried if run["start"] == start),
                       key=lambda run: run["validation_bits"][-1])["rate"]
            for start in dict.fromkeys(run["start"] for run in tried)}


def chosen(record):
    """The runs of each start with its best learning rate, one for each seed: {start: [run, ...]}."""
    return {start: [run for run in record["runs"] if (run["start"], run["rate"]) == (start, rate)]
            for start, rate in best_rates(record["runs"]).items()}


def claim_36(record):
    """The row of claim 36: (measured, measured on, verdict, condition, smallest, unmeasured), for Ledger.add.

    One amount of training was measured, on one book and with one model. There a fresh start that is better refutes the
    claim; a pretrained start that is better agrees with it, and does not settle it.
    """
    if record is None:
        return "no recorded run", "", "unmeasured here", "", "", "both starts"
    runs = chosen(record)
    own, others = ([run["test_bits"] for run in runs[start]] for start in ("pretrained", "from scratch"))
    reached = [step for step, bits in zip(runs["pretrained"][0]["step"], _means(runs["pretrained"]))
               if bits <= _means(runs["from scratch"])[-1]]
    catches_up = "it is already better before its first batch" if reached and min(reached) == 0 else (
        f"it is as good as the other's end after {min(reached)} batches" if reached
        else "it reaches the other's end at no measurement")
    measured = (f"bits per byte of the test set after {record['training']['steps']} batches: pretrained "
                f"{statistics.mean(own):.3f} ({min(own):.3f} to {max(own):.3f}), from scratch "
                f"{statistics.mean(others):.3f} ({min(others):.3f} to {max(others):.3f}), trigram "
                f"{record['trigram']['test']:.3f}; before any training on the book, the pretrained model has "
                f"{record['before']['test']:.3f}; on the validation set {catches_up}")
    on = (f"the course's GPT-2, Gulliver's Travels, {len(own)} seeds, learning rates chosen on a validation set, "
          f"{record['device']}, {record['date']}")
    if min(len(own), len(others)) < 2:
        return measured, on, "unmeasured here", "", "", "each start with several seeds"
    difference, half, freedom = speedrun_results.difference_interval(own, others)
    if difference + half < 0:
        return measured, on, "unmeasured here", (
            f"in what was measured, the pretrained start is better by {-difference:.3f} ± {half:.3f} bits per byte"
        ), "", f"longer training than {record['training']['steps']} batches, other texts and other models"
    if difference - half > 0:
        return measured, on, False, "", "", ""
    ratio = speedrun_results.quantile(0.8, freedom) / speedrun_results.quantile(0.975, freedom)
    return measured, on, "inconclusive", "", f"{half * (1 + ratio):.3f} bits per byte", ""


def _means(runs):
    """The mean validation curve of several runs, in bits per byte."""
    return [statistics.mean(values) for values in zip(*(run["validation_bits"] for run in runs))]
