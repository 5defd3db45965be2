"""The laptop speedrun: which recipe learns most in a given time, on a fixed book, split and tokenizer.

    python -m helpers.course.speedrun --list                            list the attempts and their recorded seeds
    python -m helpers.course.speedrun --attempts today muon --jobs 2    train what is missing, one thread each
    python -m helpers.course.speedrun --clock                           time the attempts' steps, in turns
    python -m helpers.course.speedrun --final                           train on 90 % of the book, measure the test set
    python -m helpers.course.speedrun --table                           only print the table

Each attempt changes its base and is recorded in data/measurements/speedrun/NAME.json after each run, so you can stop
the program at any time; it continues with what is missing. A record is valid while its settings are unchanged.
"""

import argparse
import datetime
import functools
import itertools
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from helpers import corpus, ngrams, training
from helpers.course import experiments, recipes, records, speedrun_results
from helpers.machine import assets, kernels, locks, runtime, timing
from helpers.model import GPT, GPTConfig

FOLDER = assets.ROOT / "data" / "measurements" / "speedrun"
SEEDS = tuple(range(10))
ROUNDS, STEPS_PER_ROUND = 20, 5  # of the clock
GOAL = 5.05  # of a sprint, nats per token on the validation set: a rule, set from the mean of today's ten seeds, 5.042

RECIPES = {  # today's recipe, which stays as it is when the course's default changes
    "smoke": recipes.Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=16, n_embd=8, n_layer=1, n_head=2),
        training.TrainConfig(steps=2, batch_size=2, context=16, learning_rate=3e-3, warmup_steps=1)),
    "live": recipes.Recipe(  # small enough for pairs of runs while a learner waits (notebook 12)
        "course", GPTConfig(vocab_size=4096, n_positions=64, n_embd=64, n_layer=2, n_head=2),
        training.TrainConfig(steps=75, batch_size=16, context=64, learning_rate=3e-3, warmup_steps=8)),
    "laptop": recipes.Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=128, n_embd=128, n_layer=4, n_head=4),
        training.TrainConfig(steps=500, batch_size=16, context=128, learning_rate=3e-3, warmup_steps=50)),
}


@torch.no_grad()
def start_from_counts(model, train_ids):
    """Gives a new model token embeddings that are computed from counts, about as large as random ones.

    Counted is how often each pair of tokens occurs side by side, n(a, b); a pair that occurs more often than by chance
    has a large ln(n(a, b) n / (n(a) n(b))), its pointwise mutual information, of which only the positive part is kept.
    The embeddings are the leading singular vectors of this matrix, times the roots of their singular values: tokens
    with similar neighbours begin with similar vectors. Source: O. Levy and Y. Goldberg, "Neural word embedding as
    implicit matrix factorization", 2014.
    """
    embedding = model.transformer.wte.weight
    pairs = torch.zeros(len(embedding), len(embedding))  # (V, V)
    pairs.index_put_((train_ids[:-1], train_ids[1:]), torch.ones(len(train_ids) - 1), accumulate=True)
    pairs += pairs.T.clone()
    each = pairs.sum(1) + 1
    information = (pairs * pairs.sum() / (each[:, None] * each)).clamp(min=1).log()
    vectors, values, _ = torch.svd_lowrank(information, q=embedding.shape[1], niter=3)
    vectors = vectors * values.sqrt()
    embedding.copy_(vectors * embedding.std() / vectors.std())


STARTS = {"counts": start_from_counts}  # changes to a new model, before training


@dataclass(frozen=True)
class Attempt:
    """A recipe, as its differences from the attempt named base.

    discipline: "sprint" or "distance". kind: "record", or "negative" for an attempt that did not become one. what, why:
    what changed and why it works or was expected to. model, training: fields of GPTConfig and TrainConfig. start: a
    name in STARTS, or None for the base's.
    """

    discipline: str
    what: str
    why: str
    base: str | None = "today"
    kind: str = "record"
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    start: str | None = None


ATTEMPTS = {
    "today": Attempt("sprint", "the recipe before the speedrun", "AdamW, warm-up and cosine decay, as in GPT-3",
                     base=None),
    "muon": Attempt(
        "sprint", "Muon for the blocks' matrices (rate 0.02, no decay of the embeddings), linear decay to 0, a shorter "
        "warm-up",
        "each direction of an update gets the same length, so rare directions are learned as fast as frequent ones",
        training={"optimizer": "muon", "learning_rate": 0.02, "warmup_steps": 10, "decay": "linear",
                  "final_share": 0.0, "steps": 275}),
    "shuffled epochs": Attempt(
        "sprint", "shuffled epochs instead of random windows",
        "random windows leave parts of the book out and repeat others; in an epoch each window comes once",
        base="muon", training={"sampling": "epochs", "steps": 185}),
    "embeddings from counts": Attempt(
        "sprint", "token embeddings that start from counted neighbours",
        "tokens with similar neighbours begin with similar vectors", base="shuffled epochs", start="counts",
        training={"steps": 135}),
    "short windows": Attempt(
        "sprint", "windows of 64 tokens instead of 128, so more steps in the same time",
        "an update costs about half as much, and a model this small may not use more context",
        base="embeddings from counts", model={"n_positions": 64}, training={"context": 64, "steps": 225}),
    "bfloat16": Attempt(
        "sprint", "matrix products in bfloat16, on a processor that has it",
        "half as many bytes a number; a gradient is noisy anyway, and may need no more digits",
        base="short windows", training={"precision": "bf16"}),
    "stopped early": Attempt(
        "distance", "the sprint's recipe in 350 steps, with a schedule of this length",
        "the validation loss falls further than the sprint needs; a run of all the time may learn the book by heart",
        base="short windows", training={"steps": 350}),
    "all its time": Attempt(
        "distance", "Muon, shuffled epochs and windows of 64 for as long as the old recipe",
        "more steps", base="shuffled epochs", kind="negative", model={"n_positions": 64},
        training={"context": 64, "steps": 750}),
    "decay of the matrices": Attempt(
        "distance", "weight decay 1 instead of 0.1 for the blocks' matrices",
        "the model reads the book six times, and should not learn it by heart", base="all its time",
        training={"weight_decay": 1.0}),
    "strong decay": Attempt(
        "distance", "weight decay 0.3 instead of 0 for the embeddings, too",
        "the embedding is the largest matrix of the model", base="decay of the matrices",
        training={"embedding_decay": 0.3}),
    "noise": Attempt(
        "distance", "a twentieth of the input tokens replaced by random ones",
        "the model cannot rely on single tokens; unlike dropout it costs no time", base="strong decay",
        kind="negative", training={"noise": 0.05}),
    "half batches": Attempt(
        "sprint", "batches of 8 windows, twice as many steps", "more updates for the same tokens",
        base="shuffled epochs", kind="negative", training={"batch_size": 8, "steps": 370}),
    "wider and flatter": Attempt(
        "sprint", "2 blocks of width 192 instead of 4 of width 128", "fewer, larger products", base="shuffled epochs",
        kind="negative", model={"n_layer": 2, "n_embd": 192, "n_head": 6}),
    "deeper and narrower": Attempt(
        "sprint", "8 blocks of width 96 instead of 4 of width 128", "more steps of computation for each token",
        base="shuffled epochs", kind="negative", model={"n_layer": 8, "n_embd": 96}),
    "more noise": Attempt(
        "distance", "a fifth of the input tokens replaced", "more of what helped", base="noise", kind="negative",
        training={"noise": 0.2}),
    "dropout": Attempt(
        "distance", "dropout 0.1, and fewer steps, because each takes longer",
        "the usual remedy; on a CPU it also slows attention down",
        base="strong decay", kind="negative", model={"dropout": 0.1}, training={"steps": 650}),
}
FINAL = ("today", "short windows", "noise")  # measured on the test set; "noise" is the recipe of notebook 07


def chain(name):
    """The attempts that lead from today's recipe to this one, in this order."""
    attempt = ATTEMPTS[name]
    return [*(chain(attempt.base) if attempt.base else []), attempt]


def settings(name, size, seed):
    """The GPTConfig, the TrainConfig and the name of the start of an attempt."""
    shape, config, start = RECIPES[size].model, RECIPES[size].training, None
    for attempt in chain(name):
        changes = dict(attempt.training)
        if "steps" in changes:  # those of the laptop's size; a rehearsal takes the same share of its own
            share = changes["steps"] / RECIPES["laptop"].training.steps
            changes["steps"] = max(1, round(share * RECIPES[size].training.steps))
        shape, config = replace(shape, **attempt.model), replace(config, **changes)
        start = attempt.start or start
    return shape, replace(config, seed=seed, eval_every=config.steps, eval_tokens=1), start


def new_model(shape, start, seed, train_ids):
    """A GPT before training. shape: a GPTConfig; start: a name in STARTS or None; train_ids (N,) int64."""
    runtime.seed_everything(seed)
    model = GPT(shape)
    if start:
        STARTS[start](model, train_ids)
    return model


def measured(model, config, train_ids, measured_ids):
    """Trains a model by a TrainConfig and measures it once, in float32. train_ids, measured_ids: (N,) int64. Returns
    the loss on measured_ids in nats per token, and the History."""
    history = training.train(model, train_ids, train_ids[-2:], config, progress=False)
    if history.interrupted:
        raise KeyboardInterrupt
    return training.evaluate(model, measured_ids, config.context), history


def trained(name, size, seed, train_ids, measured_ids):
    """Trains an attempt and measures it once. Returns the run as it is recorded."""
    shape, config, start = settings(name, size, seed)
    loss, history = measured(new_model(shape, start, seed, train_ids), config, train_ids, measured_ids)
    return {
        "loss": round(loss, 4),
        "train_loss": round(statistics.mean(history.train_loss[-10:]), 4),
        "date": datetime.date.today().isoformat(),
        "machine": f"{experiments.machine('cpu')}, torch {torch.__version__}",
    }


def the_book(size, may_stand_in=False):
    """The track's book. Raises ValueError for the stand-in text, whose losses would mean something else, unless it
    may stand in, as it may where two recipes are compared and nothing is recorded."""
    book = corpus.load_gulliver(RECIPES[size].tokenizer)
    if book.is_stand_in and not may_stand_in:
        raise ValueError("The speedrun needs Gulliver's Travels, which could not be downloaded: connect and try again.")
    return book


def run(name, size, seed, on_test_set=False, threads=None):
    """Trains one attempt with one seed and measures it on the whole validation set, or (final) on the test set."""
    if threads:
        torch.set_num_threads(threads)
    train_ids, test_ids = the_book(size).split()
    sets = (train_ids, test_ids) if on_test_set else corpus.split_validation(train_ids)
    return trained(name, size, seed, *sets)


# --- records ---------------------------------------------------------------------------------------------------------


@functools.cache
def tokenizer_sum():
    """The beginning of the checksum of the course's tokenizer: losses per token of another one cannot be compared."""
    return assets.sha256(assets.ROOT / "data" / "course.tiktoken")[:16]


def describe(name, size):
    """An attempt's settings, without the seed. A record is valid only while its description equals this one."""
    shape, config, start = settings(name, size, 0)
    unused = ("seed", "eval_every", "eval_tokens", "sample_every", "sample_tokens")
    return {"attempt": name, "size": size, "tokenizer": tokenizer_sum(), "start": start, "model": asdict(shape),
            "training": {key: value for key, value in asdict(config).items() if key not in unused}}


def path_of(name, size, folder=FOLDER, prefix=""):
    """The file of an attempt's record."""
    return Path(folder) / f"{prefix}{name.replace(' ', '_')}{'' if size == 'laptop' else '_' + size}.json"


def runs_of(name, size="laptop", folder=FOLDER, prefix=""):
    """The valid recorded runs of an attempt, {seed: run}. prefix: "final_" for those on the test set."""
    path = path_of(name, size, folder, prefix)
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    is_valid = records.same_settings(saved, describe(name, size))
    return {int(seed): run for seed, run in saved.get("runs", {}).items()} if is_valid else {}


def record(names, size="laptop", seeds=SEEDS, jobs=1, folder=FOLDER, on_test_set=False):
    """Runs what is not recorded yet, seed by seed, and writes each run as soon as it is done."""
    prefix = "final_" if on_test_set else ""
    runs = {name: runs_of(name, size, folder, prefix) for name in names}
    missing = [(name, seed) for seed in seeds for name in names if seed not in runs[name]]
    results = experiments.in_processes(run, [(name, size, seed, on_test_set) for name, seed in missing], jobs)
    for number, ((name, seed), result) in enumerate(zip(missing, results), start=1):
        runs[name][seed] = result
        ordered = {str(key): runs[name][key] for key in sorted(runs[name])}
        timing.write_json(path_of(name, size, folder, prefix), {**describe(name, size), "runs": ordered})
        print(f"{number}/{len(missing)} {name}, seed {seed}: {result['loss']:.3f}", flush=True)


def clock(names, size="laptop", folder=FOLDER, rounds=ROUNDS, steps=STEPS_PER_ROUND):
    """Times the attempts' steps in turns and records the ratios to today's recipe: quartiles over the rounds.

    A program beside it slows all attempts of a round, so the ratios' medians suffer little. Results of another machine,
    another PyTorch or another recipe of today are discarded.
    """
    names = ["today", *(name for name in names if name != "today")]
    train_ids = corpus.split_validation(the_book(size).split()[0])[0]
    steppers = {name: stepper(name, size, train_ids) for name in names}
    seconds = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names):] + names[: turn % len(names)]:
            start = time.perf_counter()
            for _ in range(steps):
                steppers[name]()
            seconds[name].append((time.perf_counter() - start) / steps)
    origin = {**timing.origin("cpu"), "today": describe("today", size)}
    results = clocked(size, folder)
    if any(results.get(key) != origin[key] for key in ("device", "threads", "torch", "today")):
        results = {"attempts": {}}
    for name in names:
        ratios = [own / today for own, today in zip(seconds[name][1:], seconds["today"][1:])]  # without the warm-up
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        results["attempts"][name] = {**describe(name, size), "ratio": median, "quartiles": [low, high],
                                     "seconds": statistics.median(seconds[name][1:]), "rounds": rounds,
                                     "start_seconds": start_seconds(name, size, train_ids),
                                     "today_seconds": statistics.median(seconds["today"][1:])}
    timing.write_json(path_of("clock", size, folder), {**results, **origin})


def start_seconds(name, size, train_ids):
    """What an attempt's start takes before the first step, in seconds: the median of three; 0 without one."""
    shape, _, start = settings(name, size, 0)
    readings = []
    for _ in range(3 if start else 0):
        model, began = GPT(shape), time.perf_counter()
        STARTS[start](model, train_ids)
        readings.append(time.perf_counter() - began)
    return statistics.median(readings) if readings else 0.0


def stepper(name, size, train_ids):
    """A function that makes one training step of a new model of an attempt, as training.train does."""
    shape, config, start = settings(name, size, 0)
    model, steps = new_model(shape, start, 0, train_ids), itertools.count()
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler("cpu", config)
    generator = torch.Generator().manual_seed(0)
    matmul = kernels.fastest_matmul(torch.device("cpu"), shape)

    def step():
        x, y = corpus.draw_batch(train_ids, next(steps), config, model.config.vocab_size, generator)
        with kernels.matmul_precision(matmul):
            training.train_step(model, optimizer, scaler, x, y, config.learning_rate, config)

    return step


# --- reading the records ---------------------------------------------------------------------------------------------


def clocked(size="laptop", folder=FOLDER):
    """What the clock has recorded: the machine, and its readings for each attempt."""
    path = path_of("clock", size, folder)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"attempts": {}}


def time_quartiles(name, size="laptop", folder=FOLDER):
    """An attempt's time as a share of today's, steps x seconds per step and what its start takes: median, lower and
    upper quartile over the clock's rounds. None unless its clock is recorded."""
    saved = clocked(size, folder)["attempts"].get(name, {})
    if not records.same_settings(saved, describe(name, size)):
        return None
    today = settings("today", size, 0)[1].steps
    start = saved["start_seconds"] / (today * saved["today_seconds"])
    return [saved["training"]["steps"] / today * ratio + start for ratio in (saved["ratio"], *saved["quartiles"])]


def time_share(name, size="laptop", folder=FOLDER):
    """The median of time_quartiles, or None."""
    quartiles = time_quartiles(name, size, folder)
    return quartiles and quartiles[0]


def losses_of(name, size="laptop", folder=FOLDER, prefix=""):
    """The recorded losses of an attempt, one for each of SEEDS, in nats per token. Runs with other seeds serve to
    choose settings, and are never judged."""
    return [run["loss"] for seed, run in runs_of(name, size, folder, prefix).items() if seed in SEEDS]


def p_record(name, size="laptop", folder=FOLDER):
    """The p-value of a one-sided test: of a sprint, that its mean loss is not below GOAL; of a distance, that it is not
    below the mean of the record before it. None with fewer than two seeds on a side."""
    losses, old = (losses_of(each, size, folder) for each in (name, before(name)))
    is_sprint = ATTEMPTS[name].discipline == "sprint"
    if min(len(losses), 2 if is_sprint else len(old)) < 2:
        return None
    return speedrun_results.p_below(losses, GOAL) if is_sprint else speedrun_results.p_lower(losses, old)


def is_record(name, size="laptop", folder=FOLDER):
    """Whether an attempt beats the record before it: all of SEEDS are recorded on both sides, and p_record < 0.001.

    In a sprint, its time's upper quartile must also lie below the lower one of the record before it; in a distance, its
    time's upper quartile must not exceed today's time.
    """
    seeds = [len(losses_of(each, size, folder)) for each in (name, before(name))]
    times, old_times = (time_quartiles(each, size, folder) for each in (name, before(name)))
    if min(seeds) < len(SEEDS) or not (times and old_times) or p_record(name, size, folder) >= speedrun_results.LEVEL:
        return False
    return times[2] < old_times[1] if ATTEMPTS[name].discipline == "sprint" else times[2] <= 1.0


def short_runs(base="today", model=None, changes=None, start=None, seeds=range(5), size="live"):
    """Trains a variant of an attempt in short runs of a small model. Returns the validation losses, one a seed.

    model, changes: fields of GPTConfig and TrainConfig that differ from those of the attempt named base. start: a name
    in STARTS, or None for the base's. seeds: runs with the same seed begin with the same random numbers, so two
    variants can be compared pair by pair. Without the book, the stand-in text is used. Raises ValueError for an unknown
    base, start or field.
    """
    if base not in ATTEMPTS or start not in (None, *STARTS):
        raise ValueError(f"short_runs(base={base!r}, start={start!r}): expected a base of {', '.join(ATTEMPTS)} and a "
                         f"start of None, {', '.join(STARTS)}.")
    known = {"model": (GPTConfig, model or {}), "changes": (training.TrainConfig, changes or {})}
    for argument, (kind, given) in known.items():
        if unknown := set(given) - {entry.name for entry in fields(kind)}:
            raise ValueError(f"short_runs({argument}={given!r}): {kind.__name__} has no {', '.join(sorted(unknown))}; "
                             f"expected some of {', '.join(entry.name for entry in fields(kind))}.")
    train_ids, validation_ids = corpus.split_validation(the_book(size, may_stand_in=True).split()[0])
    losses = []
    for seed in seeds:
        shape, config, own_start = settings(base, size, seed)
        own = new_model(replace(shape, **(model or {})), start or own_start, seed, train_ids)
        config = replace(config, **(changes or {}))
        losses.append(measured(own, replace(config, eval_every=config.steps), train_ids, validation_ids)[0])
    return losses


def record_counting(size="laptop", folder=FOLDER):
    """Records the test losses of the models that only count, on the tokens that the final recipes are trained on."""
    book = the_book(size)
    losses = ngrams.kneser_ney_losses(*book.split(), book.tokenizer.vocab_size)
    timing.write_json(path_of("counting", size, folder, "final_"),
                      {"text": book.title, "tokenizer": tokenizer_sum(), "losses": losses})


def counting(size="laptop", folder=FOLDER):
    """The recorded test losses of the models that only count, {name: nats per token}; {} without a valid record."""
    path = path_of("counting", size, folder, "final_")
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return saved["losses"] if saved.get("tokenizer") == tokenizer_sum() else {}


def before(name):
    """The record that an attempt must beat: the one listed before it in its discipline, or else today's recipe."""
    names = list(ATTEMPTS)
    earlier = [other for other in names[1:names.index(name)] if
               (ATTEMPTS[other].kind, ATTEMPTS[other].discipline) == ("record", ATTEMPTS[name].discipline)]
    return earlier[-1] if earlier else "today"


def rows(size="laptop", folder=FOLDER, prefix=""):
    """One dictionary for each attempt with two or more recorded seeds: what, why, steps, mean loss, half its 95 %
    interval, share of today's time, p_record; against its base (with a prefix: today's recipe): gain in nats, half its
    95 % interval and verdict."""
    table = []
    for name, attempt in ATTEMPTS.items():
        base = attempt.base and ("today" if prefix else attempt.base)
        losses, old = (losses_of(each, size, folder, prefix) if each else [] for each in (name, base))
        if len(losses) < 2:
            continue
        mean, half = speedrun_results.mean_interval(losses)
        row = {"attempt": name, "discipline": attempt.discipline, "kind": attempt.kind, "what": attempt.what,
               "why": attempt.why, "steps": settings(name, size, 0)[1].steps, "seeds": len(losses), "loss": mean,
               "interval": half, "time share": time_share(name, size, folder)}
        if attempt.base and not prefix:
            row["p"] = p_record(name, size, folder)
        if len(old) >= 2:
            difference, width, freedom = speedrun_results.difference_interval(losses, old)
            row |= {"gain": -difference, "gain interval": width,
                    "verdict": speedrun_results.verdict(difference, width, freedom)}
        table.append(row)
    return table


def measure(options):
    """Records what the options of the command line ask for."""
    size, folder = options.size, options.folder
    if options.clock:
        clock(options.attempts, size, folder)
    elif options.final:
        record(FINAL, size, options.seeds, options.jobs, folder, on_test_set=True)
        record_counting(size, folder)
    else:
        record(options.attempts, size, options.seeds, options.jobs, folder)
        if untimed := [name for name in options.attempts if time_share(name, size, folder) is None]:
            clock(untimed, size, folder)


def main(arguments=None):
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--attempts", nargs="+", choices=ATTEMPTS, default=list(ATTEMPTS), metavar="NAME", help="default: all")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="the seeds to run (default: 0 to 9)")
    add("--size", choices=RECIPES, default="laptop", help="smoke only rehearses (default: laptop)")
    add("--jobs", type=int, default=1, help="runs at a time; with more than one, each uses one thread (default: 1)")
    for option, text in (("list", "list the attempts"), ("clock", "time the steps in turns"),
                         ("final", "measure FINAL on the test set"), ("table", "only print the table")):
        add(f"--{option}", action="store_true", help=text)
    add("--folder", type=Path, default=FOLDER, help="the folder of the records (default: %(default)s)")
    options = parser.parse_args(arguments)
    size, folder = options.size, options.folder
    if options.list:
        for name in options.attempts:
            print(f"{name:28} {ATTEMPTS[name].what} (seeds recorded: {sorted(runs_of(name, size, folder))})")
        return 0
    if not options.table:
        try:
            with locks.only_run(folder):
                measure(options)
        except FileExistsError as error:
            parser.error(str(error))
    for row in rows(size, folder, "final_" if options.final else ""):
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items() if key not in ("what", "why")))
    if options.final:
        print(counting(size, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
