"""The first edition of the experiments of notebook 09: modifications of the training recipe, and their records.

    python -m helpers.course.first_experiments                        run what is missing for seeds 0, 1 and 2
    python -m helpers.course.first_experiments --arms base --seeds 0  run only these arms and seeds
    python -m helpers.course.first_experiments --list                 list the arms and the seeds recorded for each
    python -m helpers.course.first_experiments --jobs 2               run two arms at a time, with one thread each

An arm is the base arm with one thing changed. Each arm trains on as many batches as the base arm, unless ARMS says
otherwise. Its record, data/measurements/first_experiments/SIZE/ARM.json, is rewritten after each run, so you can stop
the program at any time; when you start it again, it continues with the runs that are missing. All arms run with the
first seed before any arm runs with the second. --size full trains Model 5 itself and needs a GPU.
"""

import argparse
import datetime
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from helpers import corpus, training
from helpers.course import recipes, records
from helpers.course.arms import CHANGES, CONSTANT, UNTIED, Arm, Split, as_delivered, rewritten, unwrapped, voyage
from helpers.course.experiments import (
    build, in_processes, machine, mean_loss, rounded, sample_pages, text_quality, thinned,
)
from helpers.machine import assets, runtime, timing
from helpers.model import GPTConfig

FOLDER = assets.ROOT / "data" / "measurements" / "first_experiments"
SEEDS = (0, 1, 2)

# --- sizes -----------------------------------------------------------------------------------------------------------

RECIPES = {
    "smoke": recipes.Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=32, n_embd=32, n_layer=1, n_head=2),
        training.TrainConfig(steps=10, batch_size=4, context=32, learning_rate=3e-3, warmup_steps=2, eval_every=5,
                             eval_tokens=512),
    ),
    "laptop": recipes.Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=128, n_embd=64, n_layer=2, n_head=2),
        training.TrainConfig(steps=300, batch_size=8, context=128, learning_rate=2e-3, warmup_steps=30,
                             eval_tokens=8192),  # 2e-3 was the best of 1e-3, 2e-3 and 3e-3, tried with one seed
    ),
    "full": recipes.recipe_for("full"),
}

# --- arms ------------------------------------------------------------------------------------------------------------


def small(book, context, seed):
    """A small training set: the first eighth of the base arm's. The test set stays the same."""
    train, test = book.split()
    return Split(train[: max(context + 1, len(train) // 8)], test)


ARMS = {
    "base": Arm("base", "the course's recipe"),
    "source": Arm("recipe", "the lectures' recipe: all four changes", training=CONSTANT, changes=tuple(CHANGES)),
    "wide_init": Arm("recipe", "embeddings from N(0, 1)", changes=("wide_init",)),
    "fake_tie": Arm("recipe", "fake tie: the head starts as a copy", changes=("fake_tie",)),
    "scaled_logits": Arm("recipe", "logits divided by the square root of the width", changes=("scaled_logits",)),
    "constant_rate": Arm("recipe", "constant learning rate of 1e-3", training=CONSTANT),
    "wide_init_scaled": Arm("recipe", "N(0, 1) and divided logits together", changes=("wide_init", "scaled_logits")),
    "untied": Arm("overfitting", "the whole book, untied head", model=UNTIED),
    "small": Arm("overfitting", "an eighth of the book", split=small, budget=2),
    "small_untied": Arm("overfitting", "an eighth, untied head", model=UNTIED, split=small, budget=2),
    "small_dropout": Arm("overfitting", "an eighth, dropout 0.1", model={"dropout": 0.1}, split=small, budget=2),
    "small_more_dropout": Arm("overfitting", "an eighth, dropout 0.3", model={"dropout": 0.3}, split=small, budget=2),
    "small_no_decay": Arm("overfitting", "an eighth, no weight decay", training={"weight_decay": 0.0}, split=small,
                          budget=2),
    "small_more_decay": Arm("overfitting", "an eighth, weight decay 1", training={"weight_decay": 1.0}, split=small,
                            budget=2),
    "raw": Arm("cleaning", "header, licence and Windows line endings kept", split=rewritten(as_delivered, True)),
    "crlf": Arm("cleaning", "Windows line endings kept", split=rewritten(as_delivered)),
    "unwrapped": Arm("cleaning", "each paragraph on one line", split=rewritten(unwrapped)),
    "voyage_scratch": Arm("pretraining", "the short text, from scratch", split=voyage, budget=0.2),
    "voyage_longer": Arm("pretraining", "the short text, from scratch, six times as many batches", split=voyage,
                         budget=1.2),
    "voyage_pretrained": Arm("pretraining", "the short text, after the book", split=voyage, budget=0.2, before=1.0),
}

# --- one run ---------------------------------------------------------------------------------------------------------


def settings(arm, size, seed):
    """The GPTConfig and TrainConfig of one run."""
    recipe = RECIPES[size]
    config = replace(recipe.training, **{**arm.training, "seed": seed})
    steps = max(2, round(arm.budget * config.steps))
    return replace(recipe.model, **arm.model), replace(
        config, steps=steps, warmup_steps=min(config.warmup_steps, steps // 2), eval_every=max(1, steps // 10))


def train_arm(arm, book, size, seed, device="cpu"):
    """Trains one arm with one seed. Returns the model, its History, the Split and the TrainConfig."""
    shape, config = settings(arm, size, seed)
    split = arm.split(book, config.context, seed)
    model = build(arm, shape, book.tokenizer.vocab_size, seed, device)
    if arm.before:
        recipe = RECIPES[size].training
        steps = max(2, round(arm.before * recipe.steps))
        first = replace(recipe, seed=seed, steps=steps, eval_every=steps)
        training.train(model, *book.split(), first, progress=False)
    history = training.train(model, split.train, split.test, config, progress=False)
    if history.interrupted:  # after Ctrl-C train() returns normally, but an incomplete run must not be recorded
        raise KeyboardInterrupt
    return model, history, split, config


def run(arm, book, size, seed, device="cpu"):
    """Trains and measures one arm with one seed. Returns a dictionary, as it is recorded."""
    start = time.perf_counter()
    model, history, split, config = train_arm(arm, book, size, seed, device)
    seconds = time.perf_counter() - start
    baselines = corpus.ngram_losses(split.train, split.test, book.tokenizer.vocab_size)
    quality = text_quality(sample_pages(model, book, config), book, split.train)
    final = round(mean_loss(model, split.test, config), 4)  # on the complete test set
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine(device)}, torch {torch.__version__}",
        "seconds": round(seconds, 1),
        "train_tokens": len(split.train),
        "passes": round(config.steps * config.batch_size * config.context / len(split.train), 4),
        "train_loss": thinned(history.train_loss),
        "test_step": history.validation_step,
        "test_loss": rounded(history.validation_loss),
        "final": final,
        "other_losses": {name: round(mean_loss(model, ids, config), 4) for name, ids in split.other.items()},
        "bits_per_byte": round(book.bits_per_byte(final, split.test), 4),
        "baselines": {name: round(loss, 4) for name, loss in baselines.items()},
        "quality": {name: round(value, 4) for name, value in quality.items()},
    }


# --- records ---------------------------------------------------------------------------------------------------------


def describe(name, size, book):
    """An arm and its settings, without the seed. A record is valid only while its description equals this one."""
    arm, (shape, config) = ARMS[name], settings(ARMS[name], size, 0)
    unused = ("seed", "sample_every", "sample_tokens")
    return {
        "arm": name, "group": arm.group, "what": arm.what, "size": size, "text": book.title,
        "tokenizer": book.tokenizer.name, "changes": list(arm.changes), "before": arm.before,
        "model": asdict(replace(shape, vocab_size=book.tokenizer.vocab_size)),
        "training": {key: value for key, value in asdict(config).items() if key not in unused},
    }


def record_path(name, size, book, folder=FOLDER):
    """The file of an arm's record. Runs on the stand-in text have a folder of their own."""
    return Path(folder) / (size + "_stand_in" * book.is_stand_in) / f"{name}.json"


def recorded_runs(name, size, book, folder=FOLDER):
    """The recorded runs of an arm that are still valid: {seed: run}."""
    path = record_path(name, size, book, folder)
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    is_valid = records.same_settings(saved, describe(name, size, book))
    return {int(seed): run for seed, run in saved.get("runs", {}).items()} if is_valid else {}


def write_record(name, size, book, runs, folder=FOLDER):
    """Replaces the record of an arm in one step."""
    results = {**describe(name, size, book), "runs": {str(seed): runs[seed] for seed in sorted(runs)}}
    timing.write_json(record_path(name, size, book, folder), results)


def load_records(size="laptop", folder=FOLDER):
    """All records of a size, {arm: record}, in the order of ARMS. Arms without a record are not in it."""
    paths = {name: Path(folder) / size / f"{name}.json" for name in ARMS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def run_named(name, size, seed, threads=None):
    """run() for an arm given by its name, so that it can be called in a process of its own."""
    if threads:
        torch.set_num_threads(threads)
    return run(ARMS[name], corpus.load_gulliver(RECIPES[size].tokenizer), size, seed, runtime.best_device())


def record(names, size="laptop", seeds=SEEDS, jobs=1, again=False, folder=FOLDER):
    """Runs the arms and seeds that are not recorded yet, seed by seed, and writes each run as soon as it is done."""
    book = corpus.load_gulliver(RECIPES[size].tokenizer)
    runs = {name: {} if again else recorded_runs(name, size, book, folder) for name in names}
    missing = [(name, seed) for seed in seeds for name in names if seed not in runs[name]]
    results = in_processes(run_named, [(name, size, seed) for name, seed in missing], jobs)
    for number, ((name, seed), result) in enumerate(zip(missing, results), start=1):
        runs[name][seed] = result
        write_record(name, size, book, runs[name], folder)
        loss, seconds = result["final"], result["seconds"]
        print(f"{number}/{len(missing)} {name}, seed {seed}: test loss {loss:.3f} ({seconds:.0f} s)", flush=True)


# --- the command line ------------------------------------------------------------------------------------------------


def main(arguments=None):
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM",
        help="the arms to run; --list shows them (default: all)")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="the seeds to run (default: 0 1 2)")
    add("--size", choices=RECIPES, default="laptop", help="the run size; full needs a GPU (default: laptop)")
    add("--jobs", type=int, default=1, help="runs at a time; with more than one, each uses one thread (default: 1)")
    add("--again", action="store_true", help="also repeat runs that are recorded already")
    add("--list", action="store_true", help="list the arms and their recorded seeds, and run nothing")
    add("--folder", type=Path, default=FOLDER, help="the folder of the records (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not options.list:
        record(options.arms, options.size, options.seeds, options.jobs, options.again, options.folder)
        return 0
    book = corpus.load_gulliver(RECIPES[options.size].tokenizer)
    for name in options.arms:
        seeds = ", ".join(map(str, recorded_runs(name, options.size, book, options.folder))) or "none"
        print(f"{name:18} {ARMS[name].group:11} {ARMS[name].what} (seeds recorded: {seeds})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
