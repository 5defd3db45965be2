"""Trains the arms that notebook 09 compares, and records the results.

    python -m helpers.course.experiments                          tune and run what is missing
    python -m helpers.course.experiments --groups tying --jobs 2  only this section, two runs at a time, one thread each
    python -m helpers.course.experiments --arms base untied       only these arms
    python -m helpers.course.experiments --list                   list the arms with their learning rates and seeds

First each arm's learning rate is tuned: runs on the training set without its last tenth, the validation set, with rates
a factor of two apart, until both neighbours of the best rate are known to be worse. Then the arm is trained with this
rate on the whole training set, seed by seed, and measured on the test set. The record of an arm,
data/measurements/experiments/SIZE/ARM.json, is rewritten after each run, so you can stop the program at any time; when
you start it again, it continues with what is missing. --size full trains Model 5 itself and needs a GPU.
"""

import argparse
import datetime
import itertools
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from helpers import corpus, training
from helpers.course import arms, records, text_statistics
from helpers.course.arms import ARMS
from helpers.course.text_statistics import repeated_ngrams
from helpers.generation import generate
from helpers.machine import assets, kernels, locks, runtime, timing
from helpers.model import GPT

FOLDER = assets.ROOT / "data" / "measurements" / "experiments"
TUNING_SEED = 100  # not one of the seeds that are compared
CURVE_POINTS = 20  # of the recorded training curve, each the mean over a stretch of batches
NOT_RECORDED = ("seed", "learning_rate", "sample_every", "sample_tokens", "eval_every", "eval_tokens")

# --- one run ---------------------------------------------------------------------------------------------------------


def build(arm, shape, vocab_size, seed, device="cpu"):
    """A new Model 5 with the arm's changes."""
    runtime.seed_everything(seed)
    model = GPT(replace(shape, vocab_size=vocab_size))
    if arm.mlp_ratio != 4:
        arms.with_mlp_ratio(model, arm.mlp_ratio)
    for name in arm.changes:
        arms.CHANGES[name](model)
    return model.to(device)


def batches(data, config, vocab_size):
    """Yields training batches without end: (x, y), both (B, T) int64. data: ids (N,), or windows (n, T + 1), which come
    in shuffled epochs."""
    if data.ndim == 1:
        generator = torch.Generator().manual_seed(config.seed)
        for step in itertools.count():
            yield corpus.draw_batch(data, step, config, vocab_size, generator)
    loader = DataLoader(data, config.batch_size, shuffle=True, drop_last=True,
                        generator=torch.Generator().manual_seed(config.seed))
    while True:
        yield from ((rows[:, :-1], rows[:, 1:]) for rows in loader)


def fit(model, data, config, measure=None):
    """Trains a model in place by a TrainConfig, with the training step of notebook 07, and returns its training losses.

    data: ids (N,) or windows (n, T + 1). measure(step) is called before the first step, after every config.eval_every
    steps and at the end.
    """
    device, losses = next(model.parameters()).device, []
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler(device, config)
    runtime.seed_everything(config.seed)
    model.train()
    drawn = batches(data, config, model.config.vocab_size)
    with kernels.matmul_precision(kernels.fastest_matmul(device, model.config)):
        for step in range(config.steps + 1):
            if measure and (step % config.eval_every == 0 or step == config.steps):
                measure(step)
            if step < config.steps:
                x, y = (part.to(device) for part in next(drawn))
                rate = config.learning_rate_at(step)
                losses.append(training.train_step(model, optimizer, scaler, x, y, rate, config))
    return losses


def mean_loss(model, data, config):
    """The mean loss in nats per token on ids (N,), or on windows (n, T + 1), without dropout."""
    if data.ndim == 1:
        return training.evaluate(model, data, config.context)
    total, device = 0.0, next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.inference_mode(), kernels.autocast(device, config.precision):
        for rows in data.to(device).split(64):
            total += model(rows[:, :-1], rows[:, 1:]).item() * len(rows)
    model.train(was_training)
    return total / len(data)


def train_arm(arm, book, size, seed, rate=None, device="cpu", measure=None):
    """Trains one arm with one seed. Returns the model, its training losses, the Split and the TrainConfig.

    measure(model, split, config, step), if given, is called at the arm's points (fit). Raises ValueError if the
    training windows do not fill a batch.
    """
    shape, config = arms.settings(arm, size, seed, rate)
    split = arm.split(book, config.context, seed)
    if split.train.ndim == 2 and len(split.train) < config.batch_size:
        raise ValueError(f"{arm.what}: {len(split.train)} windows do not fill a batch of {config.batch_size}.")
    model = build(arm, shape, book.tokenizer.vocab_size, seed, device)
    if arm.before:
        before = arms.settings(replace(ARMS["base"], budget=arm.before), size, seed, rate)[1]
        fit(model, book.split()[0], before)
    losses = fit(model, split.train, config, measure and (lambda step: measure(model, split, config, step)))
    return model, losses, split, config


def sample_pages(model, book, config, texts=16):
    """Texts that a model samples at temperature 1, each of T tokens and begun by a new line: ids (texts, T)."""
    device = next(model.parameters()).device
    prompt = book.tokenizer.encode("\n").repeat(texts, 1).to(device)
    with kernels.autocast(device, config.precision):
        generator = torch.Generator().manual_seed(config.seed)
        return generate(model, prompt, config.context - prompt.shape[1], generator=generator).cpu()


def text_quality(ids, book, train_ids):
    """Measures of texts, ids (texts, T), compared with windows of the training set, train_ids (N,) (notebook 09)."""
    known_words = set(text_statistics.words_of(book.tokenizer.decode(train_ids)))
    windows = corpus.random_batch(train_ids, 200, ids.shape[1], torch.Generator().manual_seed(0))[0]
    model_layout, book_layout = (text_statistics.layout(list(map(book.tokenizer.decode, rows)), known_words)
                                 for rows in (ids, windows))
    marks = [list(layout["marks"].values()) for layout in (model_layout, book_layout)]
    training_letters = text_statistics.letters(train_ids)
    copies = sorted(text_statistics.longest_copy(row, training_letters)[0] for row in ids)
    return {
        "known words": model_layout["known"],
        "distinct pairs": 1 - sum(repeated_ngrams(row, 2) for row in ids) / len(ids),
        "newlines": model_layout["newlines"] / max(1e-9, book_layout["newlines"]),
        "line-length overlap": text_statistics.line_overlap(model_layout["lines"], book_layout["lines"]),
        "punctuation overlap": text_statistics.overlap(*marks),
        "longest copy, median": copies[len(ids) // 2],
        "longest copy, largest": copies[-1],
    }


class Curve:
    """The losses of a run on the way, and, if wanted, what its samples are like: called by train_arm."""

    def __init__(self, arm, book):
        self.arm, self.book, self.points = arm, book, {"step": []}

    def __call__(self, model, split, config, step):
        if not self.arm.points:
            return
        self.points["step"].append(step)
        for name, ids in {"validation": split.validation, "test": split.test, **split.other}.items():
            self.points.setdefault(name, []).append(round(mean_loss(model, ids, config), 4))
        if self.arm.form:
            quality = text_quality(sample_pages(model, self.book, config), self.book, split.train)
            for name, value in quality.items():
                self.points.setdefault(name, []).append(round(value, 4))


def run(arm, book, size, seed, rate=None, device="cpu"):
    """Trains and measures one arm with one seed. Returns a dictionary, as it is recorded: losses in nats per token."""
    start, curve = time.perf_counter(), Curve(arm, book)
    model, losses, split, config = train_arm(arm, book, size, seed, rate, device, curve)
    windows_per_pass = len(split.train) / (1 if split.train.ndim == 2 else config.context)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine(device)}, torch {torch.__version__}",
        "seconds": round(time.perf_counter() - start, 1),
        "passes": round(config.steps * config.batch_size / windows_per_pass, 4),
        "training": thinned(losses),
        "test": round(mean_loss(model, split.test, config), 4),
        "train": round(mean_loss(model, split.train[: len(split.test)], config), 4),  # measured as the test set is
        "other": {name: round(mean_loss(model, ids, config), 4) for name, ids in split.other.items()},
    }
    if arm.points:
        results["curve"] = curve.points
    if split.test.ndim == 1:
        results["bits_per_byte"] = round(book.bits_per_byte(results["test"], split.test), 4)
    if split.train.ndim == 1:
        quality = text_quality(sample_pages(model, book, config), book, split.train)
        results["quality"] = {name: round(value, 4) for name, value in quality.items()}
    return results


def tune(arm, book, size, rate, device="cpu"):
    """One run of an arm with a learning rate, which never sees the test set: the lowest measured validation loss."""
    shape, config = arms.settings(arm, size, TUNING_SEED, rate)
    split = arm.split(book, config.context, TUNING_SEED)
    fitted, validation = (split.train, split.validation) if split.validation is not None else (
        corpus.split_validation(split.train))
    model, losses = build(arm, shape, book.tokenizer.vocab_size, TUNING_SEED, device), []

    def measured(step):
        if arm.points or step == config.steps:
            losses.append(training.evaluate(model, validation, config.context))

    try:
        fit(model, fitted, config, measured)
    except FloatingPointError:  # this rate is too high
        return None
    return round(min(losses), 4)


def rounded(values):
    """Values rounded to four decimal places: runs with different seeds differ by far more."""
    return [round(value, 4) for value in values]


def thinned(losses):
    """A curve of at most CURVE_POINTS points, each the mean of a stretch of steps."""
    pieces = torch.tensor(losses).tensor_split(min(CURVE_POINTS, len(losses)))
    return rounded(piece.mean().item() for piece in pieces)


def machine(device):
    """The processor and the number of threads in use, or the GPU."""
    name = runtime.device_name(device)
    is_cpu = torch.device(device).type == "cpu"
    return name.replace("CPU", runtime.processor_name() or "CPU") if is_cpu else name


# --- records ---------------------------------------------------------------------------------------------------------


def describe(name, size, book):
    """An arm and its settings, without seed and learning rate. A record is valid only while its description is equal to
    this one."""
    arm, (shape, config) = ARMS[name], arms.settings(ARMS[name], size, 0)
    return {
        "arm": name, "size": size, "text": book.title,
        "tokenizer": book.tokenizer.name, "tokens": assets.sha256(assets.DATA / "course.tiktoken")[:16],
        "changes": list(arm.changes), "mlp_ratio": arm.mlp_ratio, "before": arm.before, "points": arm.points,
        "model": asdict(replace(shape, vocab_size=book.tokenizer.vocab_size)),
        "training": {key: value for key, value in asdict(config).items() if key not in NOT_RECORDED},
    }


def record_path(name, size, book, folder=FOLDER):
    """The file of an arm's record. Runs on the stand-in text have a folder of their own."""
    return Path(folder) / (size + "_stand_in" * book.is_stand_in) / f"{name}.json"


def recorded(name, size, book, folder=FOLDER):
    """What is recorded of an arm and still valid: {"rates": {rate: validation loss}, "runs": {seed: run}}."""
    path = record_path(name, size, book, folder)
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not records.same_settings(saved, describe(name, size, book)):
        return {"rates": {}, "runs": {}}
    return {"rates": {float(rate): loss for rate, loss in saved["rates"].items()},
            "runs": {int(seed): run for seed, run in saved["runs"].items()}}


def write_record(name, size, book, known, folder=FOLDER):
    """Replaces the record of an arm in one step. known: as recorded() returns it."""
    rates = {str(rate): known["rates"][rate] for rate in sorted(known["rates"])}
    runs = {str(seed): known["runs"][seed] for seed in sorted(known["runs"])}
    words = {"group": ARMS[name].group, "what": ARMS[name].what}  # which may change without a new run
    record = {**describe(name, size, book), **words, "rates": rates, "runs": runs}
    timing.write_json(record_path(name, size, book, folder), record)


def load_records(size="laptop", folder=FOLDER):
    """All records of a size, {arm: record}, in the order of ARMS. Arms without a record are not in it."""
    paths = {name: Path(folder) / size / f"{name}.json" for name in ARMS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def best_rate(losses):
    """The learning rate with the lowest validation loss. losses: {rate: loss, or None where training failed}.

    Raises ValueError if training failed with every rate.
    """
    trained = [rate for rate in losses if losses[rate] is not None]
    if not trained:
        raise ValueError(f"Training failed with each of the learning rates {sorted(losses)}: begin with a lower one.")
    return min(trained, key=losses.get)


def untried(losses, start):
    """The learning rates to try next, [] if the best one's two neighbours, half and double, are known.

    losses: {rate: validation loss or None}; start: the rate to begin with.
    """
    center = best_rate(losses) if any(loss is not None for loss in losses.values()) else start
    return [rate for rate in (center, center / 2, center * 2) if rate not in losses]


def rate_of(name, size, book, folder=FOLDER):
    """The learning rate of an arm: the best one of its tuning, or of the arm whose rate it uses. None if untuned."""
    losses = recorded(ARMS[name].rate_of or name, size, book, folder)["rates"]
    start = arms.settings(ARMS[ARMS[name].rate_of or name], size, 0)[1].learning_rate
    return None if untried(losses, start) else best_rate(losses)


def counting(runs, rate):
    """The runs, {seed: run}, with this learning rate. One that was chosen before more rates were tried does not
    count."""
    return {seed: run for seed, run in runs.items() if run["rate"] == rate}


# --- many runs -------------------------------------------------------------------------------------------------------


def run_named(kind, name, size, seed, rate, threads=None):
    """run() or tune() for an arm given by its name, so that it can be called in a process of its own."""
    if threads:
        torch.set_num_threads(threads)
    book, device = corpus.load_gulliver(arms.RECIPES[size].tokenizer), runtime.best_device()
    if kind == "tune":
        return tune(ARMS[name], book, size, rate, device)
    return run(ARMS[name], book, size, seed, rate, device)


def in_processes(function, calls, jobs):
    """The results of function(*arguments) for each of calls, one after the other, as they are ready. With more than one
    job so many run at a time, in processes of their own, and each is told threads=1."""
    if jobs == 1 or not calls:
        yield from (function(*arguments) for arguments in calls)
        return
    # "spawn", because torch's threads do not survive a fork
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting = [pool.submit(function, *arguments, threads=1) for arguments in calls]
        yield from (job.result() for job in waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def tune_all(names, size, jobs, folder):
    """Tunes the learning rate of each arm that has one of its own, until every best rate's neighbours are known."""
    book = corpus.load_gulliver(arms.RECIPES[size].tokenizer)
    tuned = dict.fromkeys(ARMS[name].rate_of or name for name in names)
    while True:
        known = {name: recorded(name, size, book, folder) for name in tuned}
        calls = [("tune", name, size, TUNING_SEED, rate) for name in tuned for rate in
                 untried(known[name]["rates"], arms.settings(ARMS[name], size, 0)[1].learning_rate)]
        if not calls:
            return
        for (_, name, *_, rate), loss in zip(calls, in_processes(run_named, calls, jobs)):
            known[name]["rates"][rate] = loss
            write_record(name, size, book, known[name], folder)
            print(f"{name}, learning rate {rate:g}: validation loss {loss}", flush=True)


def record(names, size="laptop", seeds=None, jobs=1, folder=FOLDER):
    """Tunes the arms, then trains the seeds that are not recorded yet, seed by seed, and writes each run as soon as it
    is done. seeds: how many, if not as many as each arm asks for."""
    tune_all(names, size, jobs, folder)
    book = corpus.load_gulliver(arms.RECIPES[size].tokenizer)
    known = {name: recorded(name, size, book, folder) for name in names}
    rates = {name: rate_of(name, size, book, folder) for name in names}
    for name in names:
        known[name]["runs"] = counting(known[name]["runs"], rates[name])
    calls = [("run", name, size, seed, rates[name]) for seed in range(max(seeds or ARMS[name].seeds for name in names))
             for name in names if seed < (seeds or ARMS[name].seeds) and seed not in known[name]["runs"]]
    for number, ((_, name, _, seed, rate), result) in enumerate(zip(calls, in_processes(run_named, calls, jobs)), 1):
        known[name]["runs"][seed] = {"rate": rate, **result}
        write_record(name, size, book, known[name], folder)
        print(f"{number}/{len(calls)} {name}, seed {seed}: test loss {result['test']:.3f} ({result['seconds']:.0f} s)",
              flush=True)


# --- reading the records ---------------------------------------------------------------------------------------------


def best_checkpoint(validation_losses, patience):
    """Early stopping: the index of the checkpoint to keep and that of the measurement after which training stops."""
    best = 0
    for i, loss in enumerate(validation_losses):
        if loss < validation_losses[best]:
            best = i
        if i - best >= patience:  # this many measurements in a row have brought no new best
            return best, i
    return best, len(validation_losses) - 1


# --- the command line ------------------------------------------------------------------------------------------------


def main(arguments=None):
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, groups = parser.add_argument, list(dict.fromkeys(arm.group for arm in ARMS.values()))
    add("--arms", nargs="+", choices=ARMS, metavar="ARM", help="the arms to run; --list shows them (default: all)")
    add("--groups", nargs="+", choices=groups, help="run the arms of these sections, and the base arm")
    add("--seeds", type=int, help="how many seeds to run (default: as many as the arm asks for)")
    add("--size", choices=arms.RECIPES, default="laptop", help="the run size; full needs a GPU (default: laptop)")
    add("--jobs", type=int, default=1, help="runs at a time; with more than one, each uses one thread (default: 1)")
    add("--list", action="store_true", help="list the arms and what is recorded of them, and run nothing")
    add("--folder", type=Path, default=FOLDER, help="the folder of the records (default: %(default)s)")
    options = parser.parse_args(arguments)
    fitting = [name for name, arm in ARMS.items() if arm.fits(options.size)]
    if unfit := [name for name in options.arms or () if name not in fitting]:
        parser.error(f"{', '.join(unfit)}: this width was chosen for the laptop size; --size full keeps Model 5's.")
    names = options.arms or [name for name in fitting if ARMS[name].group in ["base", *(options.groups or groups)]]
    if not options.list:
        try:
            with locks.only_run(options.folder):
                record(names, options.size, options.seeds, options.jobs, options.folder)
        except FileExistsError as error:
            parser.error(str(error))
        return 0
    book = corpus.load_gulliver(arms.RECIPES[options.size].tokenizer)
    for name in names:
        rate = rate_of(name, options.size, book, options.folder)
        runs = counting(recorded(name, options.size, book, options.folder)["runs"], rate)
        print(f"{name:18} {ARMS[name].group:11} {ARMS[name].what} (learning rate {rate or 'not tuned yet'}; "
              f"{len(runs)} of {ARMS[name].seeds} seeds recorded)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
