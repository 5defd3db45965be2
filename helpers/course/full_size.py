"""The source's experiment at its real size: Model 5 learns Gulliver's Travels, and a record is kept (notebook 07).

    python -m helpers.course.full_size                                  all runs, 500 batches each; needs a GPU
    python -m helpers.course.full_size --runs course-0 --stop-after 60  the first 60 batches of one run, for a CPU

The record, data/measurements/training_DEVICE.json, is rewritten at each measurement, and a checkpoint is saved. A
program that was stopped or killed continues from there when you start it again.
"""

import argparse
import datetime
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from helpers import corpus, training
from helpers.course import arms, experiments, records, text_statistics
from helpers.machine import assets, checkpoints, kernels, locks, parallel, runtime, timing
from helpers.model import GPTConfig

RUNS = {  # name: the arm of arms.ARMS and the seed, the most valuable first
    "course-0": ("base", 0),
    "lectures-0": ("source", 0),
    "course-1": ("base", 1),
    "course-2": ("base", 2),
}
CHECKPOINTS = assets.ROOT / "runs" / "full_size"


def fastest_precision(device):
    """The precision in which this machine trains fastest: TrainConfig's "auto", or "bf16" on a CPU made for it."""
    return "bf16" if kernels.has_fast_bf16(device) else "auto"


def settings(name, size, every, precision):
    """The arm, the GPTConfig and the TrainConfig of a run."""
    arm, seed = RUNS[name]
    shape, config = arms.settings(arms.ARMS[arm], size, seed)
    return arms.ARMS[arm], shape, replace(config, eval_every=every, precision=precision)


class Recorder(training.Report):
    """The Report of a run that also measures each batch's time and, when a measurement is due, the text. It passes
    all that is known to write(results). What it measures on the way is the test set: nothing is chosen by it."""

    def __init__(self, run, book, test_ids, before, write):
        super().__init__(run, test_ids, None, True, parallel.current())
        self.book, self.write = book, write
        done = len(run.history.train_loss)
        self.seconds = (before.get("seconds", []) + [None] * done)[:done]
        self.texts = [text for text in before.get("texts", []) if text["step"] <= done]
        self.start = None  # a batch that follows a saved checkpoint is not timed

    def __call__(self, step):
        now = time.perf_counter()
        if step > len(self.seconds):
            self.seconds.append(None if self.start is None else round(now - self.start, 5))
        super().__call__(step)
        is_due = step in self.run.history.validation_step
        if is_due and step not in [text["step"] for text in self.texts]:
            ids = experiments.sample_pages(self.run.model, self.book, self.run.config)
            self.texts.append({"step": step, **describe_texts(ids, self.book)})
        if is_due:
            self.write(self.results())
        self.start = None if is_due and step else time.perf_counter()

    def results(self):
        """The run so far, as it is recorded. Losses are in nats per token, seconds those of each batch."""
        config, history, test_ids = self.run.config, self.run.history, self.book.split()[1]
        device = next(self.run.model.parameters()).device
        bits = [self.book.bits_per_byte(loss, test_ids) for loss in history.validation_loss]
        return {
            "batches": len(history.train_loss), "date": datetime.date.today().isoformat(), "training": asdict(config),
            "dtype": str(kernels.compute_dtype(device, config.precision)).removeprefix("torch."),
            "test_step": history.validation_step, "test_loss": experiments.rounded(history.validation_loss),
            "bits_per_byte": experiments.rounded(bits), "train_loss": experiments.rounded(history.train_loss),
            "seconds": self.seconds, "texts": self.texts,
        }


def describe_texts(ids, book):
    """The first of these texts, ids (texts, T), and what all of them look like."""
    train_ids = book.split()[0]
    quality = experiments.text_quality(ids, book, train_ids)
    pages = list(map(book.tokenizer.decode, ids))
    layout = text_statistics.layout(pages, set())
    return {"text": pages[0], "newlines": round(layout["newlines"], 5),
            "median line": float(np.median(layout["lines"])) if layout["lines"] else None,
            "marks per 1,000 characters": round(sum(layout["marks"].values()), 2),
            **{key: round(value, 4) for key, value in quality.items()}}


def describe_book(book, shape, config):
    """What all runs have in common: the text, the model, the n-gram baselines, and what the book looks like."""
    train_ids, test_ids = book.split()
    V = book.tokenizer.vocab_size
    losses = {"uniform": math.log(V), **corpus.ngram_losses(train_ids, test_ids, V)}
    windows = corpus.random_batch(train_ids, 200, config.context, torch.Generator().manual_seed(1))[0]
    return {
        "text": book.title, "tokenizer": book.tokenizer.name, "training_tokens": len(train_ids),
        "model": asdict(replace(shape, vocab_size=V)),
        "baselines": {name: {"nats": round(loss, 4), "bits_per_byte": round(book.bits_per_byte(loss, test_ids), 4)}
                      for name, loss in losses.items()},
        "book": {key: value for key, value in describe_texts(windows, book).items() if "copy" not in key},
    }


def train(name, book, options, before, write):
    """Trains one run up to options.stop_after batches, or continues it from its checkpoint.

    before: what is recorded of the run already. write(results): keeps what is known so far.
    Raises KeyboardInterrupt after Ctrl-C, once the checkpoint is saved.
    """
    folder = options.checkpoints / options.size / torch.device(options.device).type / name
    with locks.only_run(folder):
        train_alone(name, book, options, before, write, folder)


def train_alone(name, book, options, before, write, folder):
    """The same, while no other process trains into the folder."""
    device, resume = torch.device(options.device), (folder / checkpoints.CHECKPOINT).is_file()
    if resume and not before:
        raise SystemExit(f"{folder} holds a run that this record does not know: of another text, recipe or machine. "
                         "Move the folder away, or choose another one with --checkpoints.")
    precision = before["training"]["precision"] if resume else fastest_precision(device)
    arm, shape, config = settings(name, options.size, options.every, precision)
    model = experiments.build(arm, shape, book.tokenizer.vocab_size, config.seed, device)
    train_ids, test_ids = book.split()
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler(device, config)
    run = checkpoints.begin(model, optimizer, scaler, config, train_ids, folder, resume, parallel.current())
    recorder, losses = Recorder(run, book, test_ids, before if resume else {}, write), run.history.train_loss
    with kernels.matmul_precision(run.matmul), checkpoints.interrupt_between_steps() as interrupted, recorder.bar:
        if len(losses) < options.stop_after:
            training.training_loop(run, train_ids, folder, recorder,
                                   lambda: interrupted.is_set() or len(losses) >= options.stop_after, recorder.ranks)
    write(recorder.results())
    if interrupted.is_set():
        raise KeyboardInterrupt


# --- records ---------------------------------------------------------------------------------------------------------


def still_valid(runs, size):
    """Those of the recorded runs that were trained by today's recipe: {name: results}."""

    def described(training):
        ignored = {*checkpoints.MAY_CHANGE, "precision", "compile"} - {"steps"}
        return {"training": {key: value for key, value in training.items() if key not in ignored}}

    return {name: run for name, run in runs.items() if name in RUNS and records.same_settings(
        described(run["training"]), described(asdict(settings(name, size, 1, "auto")[2])))}


def begin_or_continue(results, path, size):
    """Adds to new results the runs that the record at `path` holds already, and that are still valid.

    Raises SystemExit if it was made with other software, another text or another model: one record, one origin.
    """
    if not path.is_file():
        return {**results, "runs": {}}
    saved, same = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(results))
    differing = [key for key in same if key != "date" and saved.get(key) != same[key]]
    if differing:
        raise SystemExit(f"{path} was recorded with another {', '.join(differing)}. Move it away to begin anew, or "
                         "choose another folder with --folder.")
    return {**results, "runs": still_valid(saved["runs"], size)}


def record(options):
    """Trains the runs that are not recorded yet, and rewrites the record at each measurement. Returns its path."""
    book = corpus.load_gulliver(arms.RECIPES[options.size].tokenizer)
    if options.size == "full" and (book.is_stand_in or book.tokenizer.vocab_size != GPTConfig().vocab_size):
        raise SystemExit("The full size needs Gulliver's Travels and GPT-2's tokenizer: connect to the internet, or "
                         "set COURSE_ASSETS.")
    _, shape, config = settings("course-0", options.size, options.every, "auto")
    results = {**timing.origin(options.device), "size": options.size, **describe_book(book, shape, config)}
    path = timing.record_path("training", results, options.folder)
    results = begin_or_continue(results, path, options.size)
    for name in options.runs:
        before = results["runs"].get(name, {})
        if before.get("batches", 0) >= options.stop_after:
            continue

        def write(run):
            if run["batches"] < before.get("batches", 0):
                return  # trained again from an earlier checkpoint, or from none: the record stays until there is more
            results["runs"][name] = run
            timing.write_json(path, results)
            step, loss, bits = (run[key][-1] for key in ("test_step", "test_loss", "bits_per_byte"))
            print(f"{name}: {run['batches']} of {options.stop_after} batches; after {step} the test loss is {loss:.3f} "
                  f"nats per token, {bits:.3f} bits per byte", flush=True)

        train(name, book, options, before, write)
    return path


def parse(arguments):
    """The options of the command line. Ends the program with a message where they contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="recipe and seed (default: all, in this order)")
    add("--size", choices=arms.RECIPES, default="full", help="full: GPT-2 small; smoke: to try the program")
    add("--device", choices=("cpu", "cuda", "mps"), help="default: the fastest one")
    add("--stop-after", type=int, metavar="BATCHES", help="stop early; the learning-rate schedule stays the same")
    add("--every", type=int, help="batches between two measurements (default: 50; on a CPU 20)")
    add("--folder", type=Path, default=timing.RECORDS, help="for the record (default: %(default)s)")
    add("--checkpoints", type=Path, default=CHECKPOINTS, help="for the checkpoints (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.device = options.device or runtime.best_device().type
    steps = arms.RECIPES[options.size].training.steps
    options.every = min(20 if options.device == "cpu" else 50, steps) if options.every is None else options.every
    options.stop_after = steps if options.stop_after is None else options.stop_after
    if not 1 <= options.stop_after <= steps:
        parser.error(f"--stop-after {options.stop_after}: expected a number of batches from 1 to {steps}")
    if options.every < 1 or options.stop_after % options.every:
        parser.error(f"--stop-after {options.stop_after}: expected a multiple of --every {options.every}, so that the "
                     "last batch is followed by a measurement")
    return options


def main(arguments=None):
    """The command line. Returns its exit status."""
    try:
        print(f"recorded in {record(parse(arguments))}")
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError, AssertionError) as error:  # torch raises the last for a missing GPU
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
