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
import functools
import json
import math
import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from helpers import corpus, training
from helpers.course import recipes, records, text_statistics
from helpers.course.text_statistics import repeated_ngrams
from helpers.generation import generate
from helpers.machine import assets, checkpoints, kernels, runtime, timing
from helpers.model import GPT, GPTConfig

FOLDER = assets.ROOT / "data" / "measurements" / "first_experiments"
SEEDS = (0, 1, 2)
CURVE_POINTS = 25  # points of the training curve that are recorded, each the mean over steps // CURVE_POINTS batches

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

# --- changes to a new Model 5 ----------------------------------------------------------------------------------------


@torch.no_grad()
def wide_init(model):
    """Draws the embeddings from N(0, 1), the default of nn.Embedding. A tied head shares them."""
    for embedding in (model.transformer.wte, model.transformer.wpe):
        embedding.weight.normal_(std=1.0)


def fake_tie(model):
    """Makes the head a copy of the embedding, as nn.Parameter(wte.weight) becomes after model.to("cuda")."""
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())


def scaled_logits(model):
    """Divides the logits by the square root of the width, by dividing the input of the linear head."""
    scale = math.sqrt(model.config.n_embd)
    model.transformer.ln_f.register_forward_hook(lambda module, inputs, output: output / scale)


CHANGES = {change.__name__: change for change in (wide_init, fake_tie, scaled_logits)}

# --- splits into a training set and a test set -----------------------------------------------------------------------


@dataclass
class Split:
    """A training set and a test set: each is ids (N,), or ready-made windows (n, T + 1)."""

    train: torch.Tensor
    test: torch.Tensor
    other: dict = field(default_factory=dict)  # {name: ids (N,)}: further test sets, measured once, after training


def tail(book, context, seed):
    """The base arm: trains on the first nine tenths of the book and tests on the last tenth."""
    return Split(*book.split())


def by_blocks(blocks, is_test):
    """A split that cuts the book into equal blocks and tests on each block i for which is_test(i) is true."""

    def split(book, context, seed):
        pieces = list(enumerate(book.ids.tensor_split(blocks)))
        return Split(torch.cat([piece for i, piece in pieces if not is_test(i)]),
                     torch.cat([piece for i, piece in pieces if is_test(i)]))

    return split


def as_delivered(text):
    """Gives a text Windows line endings, as Project Gutenberg delivers it."""
    return text.replace("\n", "\r\n")


def unwrapped(text):
    """Puts each paragraph on one line."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def rewritten(change, with_licence=False):
    """The base arm's split, with change(text) applied to both texts, and with header and licence put back if asked."""

    def split(book, context, seed):
        train, test = (change(book.tokenizer.decode(ids)) for ids in book.split())
        if with_licence:
            delivered = assets.gulliver().path.read_bytes().decode("utf-8")
            start, end = corpus.START_MARKER.search(delivered), corpus.END_MARKER.search(delivered)
            train = delivered[: start.end() if start else 0] + train
            test += delivered[end.start() if end else len(delivered) :]
        return Split(book.tokenizer.encode(train), book.tokenizer.encode(test), {"clean test set": book.split()[1]})

    return split


def small(book, context, seed):
    """A small training set: the first eighth of the base arm's. The test set stays the same."""
    train, test = book.split()
    return Split(train[: max(context + 1, len(train) // 8)], test)


def voyage(book, context, seed):
    """The short text that ships with the course."""
    return Split(*corpus.load_text(assets.DATA / "voyage.txt", book.tokenizer).split())


def windows_of(ids, context, stride):
    """Cuts ids (N,) into windows (n, context + 1), each starting `stride` tokens after the one before."""
    return ids.unfold(0, context + 1, stride)


def overlapping(groups, length, stride, by_group):
    """A split of overlapping windows, cut from `groups` passages of the base arm's training set.

    length: tokens per passage, or None for as many as possible. stride: the distance between two windows as a share of
    the context. by_group: a quarter of the passages becomes the test set; otherwise a quarter of the windows does,
    drawn at random from all passages. The base arm's test set is measured as "new text".
    """

    def split(book, context, seed):
        ids, new_text = book.split()
        passages = [passage[:length] for passage in ids.tensor_split(groups)]
        windows = [windows_of(passage, context, max(1, int(stride * context))) for passage in passages]
        owner = torch.cat([torch.full((len(rows),), i) for i, rows in enumerate(windows)])  # each window's passage
        generator, windows = torch.Generator().manual_seed(seed), torch.cat(windows)
        if by_group:
            is_test = torch.isin(owner, torch.randperm(groups, generator=generator)[: groups // 4])
        else:
            is_test = torch.randperm(len(windows), generator=generator) < len(windows) // 4
        return Split(windows[~is_test], windows[is_test], {"new text": new_text})

    return split


def epochs(book, context, seed):
    """Training windows laid end to end, for shuffled epochs in which no token is an input twice."""
    train, test = book.split()
    return Split(windows_of(train, context, context), test)


# --- arms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """The base arm with something changed.

    group: the question that the arm belongs to. what: the arm in words. model, training: fields of GPTConfig and
    TrainConfig that differ from the base arm's. changes: names in CHANGES, applied before training. split(book,
    context, seed): makes the Split. budget: batches, as a multiple of the base arm's. before: batches on the whole
    book before that, as a multiple of the base arm's.
    """

    group: str
    what: str
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    changes: tuple = ()
    split: Callable = tail
    budget: float = 1.0
    before: float = 0.0


CONSTANT = {"learning_rate": 1e-3, "warmup_steps": 0, "final_share": 1.0}
SHORT = {"context": 32, "batch_size": 32}
UNTIED = {"tie_word_embeddings": False}
ARMS = {
    "base": Arm("base", "the course's recipe"),
    "source": Arm("recipe", "the lectures' recipe: all four changes", training=CONSTANT, changes=tuple(CHANGES)),
    "wide_init": Arm("recipe", "embeddings from N(0, 1)", changes=("wide_init",)),
    "fake_tie": Arm("recipe", "fake tie: the head starts as a copy", changes=("fake_tie",)),
    "scaled_logits": Arm("recipe", "logits divided by the square root of the width", changes=("scaled_logits",)),
    "constant_rate": Arm("recipe", "constant learning rate of 1e-3", training=CONSTANT),
    "wide_init_scaled": Arm("recipe", "N(0, 1) and divided logits together", changes=("wide_init", "scaled_logits")),
    "epochs": Arm("sampling", "shuffled epochs of windows laid end to end", split=epochs),
    "head": Arm("test set", "test set: the first tenth", split=by_blocks(10, lambda i: i == 0)),
    "middle": Arm("test set", "test set: the sixth tenth", split=by_blocks(10, lambda i: i == 5)),
    "blocked": Arm("test set", "test set: 4 of 40 blocks", split=by_blocks(40, lambda i: i % 10 == 5)),
    "interleaved": Arm("test set", "test set: 30 of 300 blocks", split=by_blocks(300, lambda i: i % 10 == 5)),
    "few_random": Arm("leakage", "12 short passages, split by window", training=SHORT, budget=0.2,
                      split=overlapping(12, 256, 0.25, by_group=False)),
    "few_grouped": Arm("leakage", "12 short passages, split by passage", training=SHORT, budget=0.2,
                       split=overlapping(12, 256, 0.25, by_group=True)),
    "many_random": Arm("leakage", "the whole book, split by window", split=overlapping(40, None, 0.25, False)),
    "many_grouped": Arm("leakage", "the whole book, split by passage", split=overlapping(40, None, 0.25, True)),
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
    recipe, short = RECIPES[size], {}
    if "context" in arm.training:  # at most what this size's model can read
        short = {"context": min(arm.training["context"], recipe.training.context)}
    config = replace(recipe.training, **{**arm.training, **short, "seed": seed})
    steps = max(2, round(arm.budget * config.steps))
    return replace(recipe.model, **arm.model), replace(
        config, steps=steps, warmup_steps=min(config.warmup_steps, steps // 2), eval_every=max(1, steps // 10))


def build(arm, shape, vocab_size, seed, device="cpu"):
    """A new Model 5 with the arm's changes."""
    runtime.seed_everything(seed)
    model = GPT(replace(shape, vocab_size=vocab_size))
    for name in arm.changes:
        CHANGES[name](model)
    return model.to(device)


def mean_loss(model, data, config):
    """The mean loss in nats per token on ids (N,), or on windows (n, T + 1)."""
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


def train_by_epochs(model, windows, test, config):
    """Trains like training.train, but on windows (n, T + 1) in shuffled epochs of a DataLoader. Returns a History."""
    device, history = next(model.parameters()).device, checkpoints.History()
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler(device, config)
    loader = DataLoader(windows, config.batch_size, shuffle=True, drop_last=True,
                        generator=torch.Generator().manual_seed(config.seed))
    runtime.seed_everything(config.seed)
    batches = (rows for _ in range(config.steps) for rows in loader)  # enough epochs for all steps
    measured = test[: config.eval_tokens + 1 if test.ndim == 1 else max(1, config.eval_tokens // config.context)]
    model.train()
    for step in range(config.steps + 1):
        if step % config.eval_every == 0 or step == config.steps:
            history.validation_step.append(step)
            history.validation_loss.append(mean_loss(model, measured, config))
        if step < config.steps:
            rows, rate = next(batches).to(device), config.learning_rate_at(step)
            loss = training.train_step(model, optimizer, scaler, rows[:, :-1], rows[:, 1:], rate, config)
            history.train_loss.append(loss)
            history.learning_rate.append(rate)
    return history


def train_arm(arm, book, size, seed, device="cpu"):
    """Trains one arm with one seed. Returns the model, its History, the Split and the TrainConfig."""
    shape, config = settings(arm, size, seed)
    split = arm.split(book, config.context, seed)
    if split.train.ndim == 2 and len(split.train) < config.batch_size:
        raise ValueError(f"{arm.what}: {len(split.train)} windows do not fill a batch of {config.batch_size}.")
    model = build(arm, shape, book.tokenizer.vocab_size, seed, device)
    if arm.before:
        recipe = RECIPES[size].training
        steps = max(2, round(arm.before * recipe.steps))
        first = replace(recipe, seed=seed, steps=steps, eval_every=steps)
        training.train(model, *book.split(), first, progress=False)
    train = functools.partial(training.train, progress=False) if split.train.ndim == 1 else train_by_epochs
    history = train(model, split.train, split.test, config)
    if history.interrupted:  # after Ctrl-C train() returns normally, but an incomplete run must not be recorded
        raise KeyboardInterrupt
    return model, history, split, config


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
        "line-length overlap": text_statistics.line_overlap(model_layout["lines"], book_layout["lines"]),
        "punctuation overlap": text_statistics.overlap(*marks),
        "longest copy, median": copies[len(ids) // 2],
        "longest copy, largest": copies[-1],
    }


def run(arm, book, size, seed, device="cpu"):
    """Trains and measures one arm with one seed. Returns a dictionary, as it is recorded."""
    start = time.perf_counter()
    model, history, split, config = train_arm(arm, book, size, seed, device)
    seconds, has_windows = time.perf_counter() - start, split.train.ndim == 2
    windows_drawn = config.steps * config.batch_size
    windows_per_pass = len(split.train) / (1 if has_windows else config.context)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine(device)}, torch {torch.__version__}",
        "seconds": round(seconds, 1),
        "train_windows" if has_windows else "train_tokens": len(split.train),
        "passes": round(windows_drawn / windows_per_pass, 4),
        "train_loss": thinned(history.train_loss),
        "test_step": history.validation_step,
        "test_loss": rounded(history.validation_loss),
        "final": round(mean_loss(model, split.test, config), 4),  # on the complete test set
        "other_losses": {name: round(mean_loss(model, ids, config), 4) for name, ids in split.other.items()},
    }
    if split.test.ndim == 1:
        results["bits_per_byte"] = round(book.bits_per_byte(results["final"], split.test), 4)
    if not has_windows:
        baselines = corpus.ngram_losses(split.train, split.test, book.tokenizer.vocab_size)
        quality = text_quality(sample_pages(model, book, config), book, split.train)
        results["baselines"] = {name: round(loss, 4) for name, loss in baselines.items()}
        results["quality"] = {name: round(value, 4) for name, value in quality.items()}
    return results


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


# --- reading the records ---------------------------------------------------------------------------------------------


def best_checkpoint(test_losses, patience):
    """Early stopping: the index of the checkpoint to keep and that of the measurement after which training stops."""
    best = 0
    for i, loss in enumerate(test_losses):
        if loss < test_losses[best]:
            best = i
        if i - best >= patience:  # this many measurements in a row have brought no new best
            return best, i
    return best, len(test_losses) - 1


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
