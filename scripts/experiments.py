"""Modifications of the training recipe, measured and recorded: notebook 09 shows what this program has written.

    python scripts/experiments.py                               what is not recorded yet, seeds 0, 1 and 2
    python scripts/experiments.py --arms base untied --seeds 0  only these
    python scripts/experiments.py --list                        the arms, and which seeds of each are recorded
    python scripts/experiments.py --jobs 2                      two arms at a time, with one thread each

An arm is the base arm with one thing changed. Each arm has as many batches as the base arm, unless the table says
otherwise. Its record is data/measurements/experiments/SIZE/ARM.json, written whole after each run, so the program can
be stopped at any time; started again, it goes on with what is missing. All arms are run with the first seed before any
is run with the second. --size full trains Model 5 itself, on a GPU.
"""

import argparse
import contextlib
import datetime
import functools
import json
import math
import multiprocessing
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from helpers import assets, corpus, quality, runtime, training
from helpers.generation import generate, repeated_ngrams
from helpers.model import GPT, GPTConfig

FOLDER = ROOT / "data" / "measurements" / "experiments"
SEEDS = (0, 1, 2)
POINTS = 25  # of the training loss that are kept, each a mean over steps // POINTS batches

# --- sizes -----------------------------------------------------------------------------------------------------------

SIZES = {
    "smoke": training.Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=32, n_embd=32, n_layer=1, n_head=2),
        training.TrainConfig(steps=10, batch_size=4, context=32, learning_rate=3e-3, warmup_steps=2, eval_every=5,
                             eval_tokens=512),
    ),
    "laptop": training.Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=128, n_embd=64, n_layer=2, n_head=2),
        training.TrainConfig(steps=300, batch_size=8, context=128, learning_rate=2e-3, warmup_steps=30,
                             eval_tokens=8192),  # 2e-3: the best of 1e-3, 2e-3 and 3e-3 with one seed
    ),
    "full": training.recipe_for("full"),
}

# --- changes of a fresh Model 5 --------------------------------------------------------------------------------------


@torch.no_grad()
def wide_init(model):
    """Embeddings drawn from N(0, 1), as nn.Embedding does when nobody says otherwise; a tied head gets them too."""
    for embedding in (model.transformer.wte, model.transformer.wpe):
        embedding.weight.normal_(std=1.0)


def fake_tie(model):
    """What model.to("cuda") makes of lm_head.weight = nn.Parameter(wte.weight): a second matrix with the same start."""
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())


def scaled_logits(model):
    """Logits divided by the square root of the width: the last vector is, and the head is linear."""
    scale = math.sqrt(model.config.n_embd)
    model.transformer.ln_f.register_forward_hook(lambda module, given, result: result / scale)


CHANGES = {change.__name__: change for change in (wide_init, fake_tie, scaled_logits)}

# --- texts -----------------------------------------------------------------------------------------------------------


@dataclass
class Parts:
    """What is trained on and what is measured. Each is ids (N,), or windows (n, T + 1) that are drawn as they are."""

    train: torch.Tensor
    test: torch.Tensor
    also: dict = field(default_factory=dict)  # {name: ids (N,)}: measured at the end of a run


def tail(book, context, seed):
    """The first nine tenths for training, the end for testing: the base arm."""
    return Parts(*book.split())


def by_blocks(blocks, chosen):
    """A split that keeps block i of so many equal ones for testing where chosen(i)."""

    def split(book, context, seed):
        pieces = list(book.ids.tensor_split(blocks))
        keep = [piece for i, piece in enumerate(pieces) if not chosen(i)]
        return Parts(torch.cat(keep), torch.cat([piece for i, piece in enumerate(pieces) if chosen(i)]))

    return split


def as_delivered(text):
    """Windows' line ends, as Project Gutenberg delivers them."""
    return text.replace("\n", "\r\n")


def unwrapped(text):
    """Each paragraph on one line."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def written(change, with_licence=False):
    """The base arm's split of a text that was cleaned less, or otherwise."""

    def split(book, context, seed):
        head, end = (change(book.tokenizer.decode(ids)) for ids in book.split())
        if with_licence:
            delivered = assets.gulliver().path.read_bytes().decode("utf-8")
            begun, ended = corpus.START_MARKER.search(delivered), corpus.END_MARKER.search(delivered)
            head = delivered[: begun.end() if begun else 0] + head
            end += delivered[ended.start() if ended else len(delivered) :]
        return Parts(book.tokenizer.encode(head), book.tokenizer.encode(end), {"clean test part": book.split()[1]})

    return split


def small(book, context, seed):
    """A small book: the first eighth of the training part. The test part stays the same."""
    train, test = book.split()
    return Parts(train[: max(context + 1, len(train) // 8)], test)


def voyage(book, context, seed):
    """The course's own short text."""
    return Parts(*corpus.load_text(assets.DATA / "voyage.txt", book.tokenizer).split())


def windows_of(ids, context, stride):
    """Overlapping windows: ids (N,) -> (n, context + 1), each beginning `stride` tokens after the one before."""
    return ids.unfold(0, context + 1, stride)


def overlapping(groups, length, stride, by_group):
    """Overlapping windows of `groups` passages of the training part, split after they were cut.

    length: tokens of a passage, or None for all of them. by_group: whole passages are kept for testing; else windows
    are, drawn at random from all passages. A quarter of either is kept. stride: a share of the context.
    """

    def split(book, context, seed):
        train, new = book.split()
        passages = [piece[:length] for piece in train.tensor_split(groups)]
        cut = [windows_of(passage, context, max(1, int(stride * context))) for passage in passages]
        owner = torch.cat([torch.full((len(windows),), i) for i, windows in enumerate(cut)])
        generator, windows = torch.Generator().manual_seed(seed), torch.cat(cut)
        if by_group:
            tested = torch.isin(owner, torch.randperm(groups, generator=generator)[: groups // 4])
        else:
            tested = torch.randperm(len(windows), generator=generator) < len(windows) // 4
        return Parts(windows[~tested], windows[tested], {"new text": new})

    return split


def epochs(book, context, seed):
    """Windows laid end to end, for shuffled epochs: no token twice in an epoch."""
    train, test = book.split()
    return Parts(windows_of(train, context, context), test)


# --- arms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """The base arm with something changed. model, training: fields of GPTConfig and TrainConfig. changes: names in
    CHANGES, applied before training. text: makes the Parts. budget: batches, as a share of the base arm's. before:
    batches on the whole book before that, as a share of them."""

    group: str
    what: str
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    changes: tuple = ()
    text: object = tail
    budget: float = 1.0
    before: float = 0.0


CONSTANT = {"learning_rate": 1e-3, "warmup_steps": 0, "final_share": 1.0}
SHORT = {"context": 32, "batch_size": 32}
ARMS = {
    "base": Arm("base", "the course's recipe"),
    "source": Arm("a", "the lectures' recipe: all four changes below", training=CONSTANT, changes=tuple(CHANGES)),
    "wide_init": Arm("a", "embeddings from N(0, 1)", changes=("wide_init",)),
    "fake_tie": Arm("a", "head a second parameter with the same start", changes=("fake_tie",)),
    "scaled_logits": Arm("a", "logits over the square root of the width", changes=("scaled_logits",)),
    "constant_rate": Arm("a", "learning rate constant at 1e-3", training=CONSTANT),
    "wide_init_scaled": Arm("a", "N(0, 1) and scaled logits together", changes=("wide_init", "scaled_logits")),
    "epochs": Arm("b", "shuffled epochs of a DataLoader, windows end to end", text=epochs),
    "head": Arm("c", "test part: the first tenth", text=by_blocks(10, lambda i: i == 0)),
    "middle": Arm("c", "test part: the sixth tenth", text=by_blocks(10, lambda i: i == 5)),
    "blocked": Arm("c", "test part: 4 of 40 blocks", text=by_blocks(40, lambda i: i % 10 == 5)),
    "interleaved": Arm("c", "test part: 30 of 300 blocks", text=by_blocks(300, lambda i: i % 10 == 5)),
    "raw": Arm("d", "header, licence and Windows' line ends kept", text=written(as_delivered, with_licence=True)),
    "crlf": Arm("d", "Windows' line ends kept", text=written(as_delivered)),
    "unwrapped": Arm("d", "each paragraph on one line", text=written(unwrapped)),
    "voyage_scratch": Arm("e", "the short text, from scratch", text=voyage, budget=0.2),
    "voyage_longer": Arm("e", "the short text, from scratch, six times as many batches", text=voyage, budget=1.2),
    "voyage_pretrained": Arm("e", "the short text, after the book", text=voyage, budget=0.2, before=1.0),
    "untied": Arm("f", "untied head, the whole book", model={"tie_word_embeddings": False}),
    "small": Arm("f", "an eighth of the book", text=small, budget=2),
    "small_untied": Arm("f", "an eighth, untied head", model={"tie_word_embeddings": False}, text=small, budget=2),
    "small_dropout": Arm("f", "an eighth, dropout 0.1", model={"dropout": 0.1}, text=small, budget=2),
    "small_more_dropout": Arm("f", "an eighth, dropout 0.3", model={"dropout": 0.3}, text=small, budget=2),
    "small_no_decay": Arm("f", "an eighth, no weight decay", training={"weight_decay": 0.0}, text=small, budget=2),
    "small_more_decay": Arm("f", "an eighth, weight decay 1", training={"weight_decay": 1.0}, text=small, budget=2),
    "few_random": Arm("leak", "12 short passages, windows split at random", training=SHORT, budget=0.2,
                      text=overlapping(12, 256, 0.25, by_group=False)),
    "few_grouped": Arm("leak", "12 short passages, whole passages split", training=SHORT, budget=0.2,
                       text=overlapping(12, 256, 0.25, by_group=True)),
    "many_random": Arm("leak", "the whole book, windows split at random", text=overlapping(40, None, 0.25, False)),
    "many_grouped": Arm("leak", "the whole book, whole passages split", text=overlapping(40, None, 0.25, True)),
}

# --- one run ---------------------------------------------------------------------------------------------------------


def settings(arm, size, seed):
    """The GPTConfig and TrainConfig of one run."""
    recipe, short = SIZES[size], {}
    if "context" in arm.training:  # never longer than this size's model can read
        short = {"context": min(arm.training["context"], recipe.training.context)}
    config = replace(recipe.training, **{**arm.training, **short, "seed": seed})
    steps = max(2, round(arm.budget * config.steps))
    return replace(recipe.model, **arm.model), replace(
        config, steps=steps, warmup_steps=min(config.warmup_steps, steps // 2), eval_every=max(1, steps // 10))


def build(arm, shape, vocab_size, seed, device="cpu"):
    """A fresh Model 5 with the arm's changes."""
    runtime.seed_everything(seed)
    model = GPT(replace(shape, vocab_size=vocab_size))
    for name in arm.changes:
        CHANGES[name](model)
    return model.to(device)


def mean_loss(model, measured, config):
    """Nats per token of ids (N,), or of windows (n, T + 1)."""
    if measured.ndim == 1:
        return training.evaluate(model, measured, config.context)
    total, device = 0.0, next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.inference_mode(), runtime.autocast(device, config.precision):
        for rows in measured.to(device).split(64):
            total += model(rows[:, :-1], rows[:, 1:]).item() * len(rows)
    model.train(was_training)
    return total / len(measured)


def train_by_epochs(model, windows, test, config):
    """training.train for windows (n, T + 1) in shuffled epochs, by PyTorch's DataLoader. Returns a History."""
    device, history = next(model.parameters()).device, training.History()
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler(device, config)
    loader = DataLoader(windows, config.batch_size, shuffle=True, drop_last=True,
                        generator=torch.Generator().manual_seed(config.seed))
    runtime.seed_everything(config.seed)
    batches = (rows for _ in range(config.steps) for rows in loader)  # more epochs than will be needed
    most = config.eval_tokens + 1 if test.ndim == 1 else max(1, config.eval_tokens // config.context)
    model.train()
    for step in range(config.steps + 1):
        if step % config.eval_every == 0 or step == config.steps:
            history.test_step.append(step)
            history.test_loss.append(mean_loss(model, test[:most], config))
        if step < config.steps:
            rows, rate = next(batches).to(device), config.learning_rate_at(step)
            loss = training.update(model, optimizer, scaler, rows[:, :-1], rows[:, 1:], rate, config)
            history.train_loss.append(loss)
            history.learning_rate.append(rate)
    return history


def train_arm(arm, book, size, seed, device="cpu"):
    """Trains one arm with one seed: (model, History, Parts, TrainConfig)."""
    shape, config = settings(arm, size, seed)
    parts = arm.text(book, config.context, seed)
    if parts.train.ndim == 2 and len(parts.train) < config.batch_size:
        raise ValueError(f"{arm.what}: {len(parts.train)} windows are fewer than a batch of {config.batch_size}.")
    model = build(arm, shape, book.tokenizer.vocab_size, seed, device)
    if arm.before:
        first = replace(SIZES[size].training, seed=seed, steps=max(2, round(arm.before * SIZES[size].training.steps)))
        training.train(model, *book.split(), replace(first, eval_every=first.steps), progress=False)
    train = functools.partial(training.train, progress=False) if parts.train.ndim == 1 else train_by_epochs
    history = train(model, parts.train, parts.test, config)
    if history.interrupted:  # train() ends in peace after Ctrl-C, but half a run must not be recorded
        raise KeyboardInterrupt
    return model, history, parts, config


def text_quality(model, book, train_ids, config, texts=16):
    """What a model writes, measured beyond its loss (notebook 09). train_ids (N,): the text that it was trained on."""
    device, T = next(model.parameters()).device, config.context
    prompt = book.tokenizer.encode("\n").repeat(texts, 1).to(device)
    with runtime.autocast(device, config.precision):
        generator = torch.Generator().manual_seed(config.seed)
        ids = generate(model, prompt, T - prompt.shape[1], generator=generator).cpu()
    known, trained = set(quality.words_of(book.tokenizer.decode(train_ids))), quality.letters(train_ids)
    windows = corpus.random_batch(train_ids, 200, T, torch.Generator().manual_seed(0))[0]
    ours, theirs = (quality.layout(list(map(book.tokenizer.decode, rows)), known) for rows in (ids, windows))
    copies = sorted(quality.longest_copy(row, trained)[0] for row in ids)
    return {
        "known words": ours["known"],
        "distinct pairs": 1 - sum(repeated_ngrams(row, 2) for row in ids) / texts,
        "line lengths in common": quality.line_overlap(ours["lines"], theirs["lines"]),
        "punctuation in common": quality.overlap(list(ours["marks"].values()), list(theirs["marks"].values())),
        "longest copy, median": copies[texts // 2],
        "longest copy, largest": copies[-1],
    }


def run(arm, book, size, seed, device="cpu"):
    """One run of an arm, as it is recorded: a dictionary."""
    start = time.perf_counter()
    model, history, parts, config = train_arm(arm, book, size, seed, device)
    seconds, in_windows = time.perf_counter() - start, parts.train.ndim == 2
    drawn, there = config.steps * config.batch_size, len(parts.train) / (1 if in_windows else config.context)
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine(device)}, torch {torch.__version__}",
        "seconds": round(seconds, 1),
        "train_windows" if in_windows else "train_tokens": len(parts.train),
        "passes": round(drawn / there, 4),  # over the training part, or over its windows
        "train_loss": thinned(history.train_loss),
        "test_step": history.test_step,
        "test_loss": rounded(history.test_loss),
        "final": round(mean_loss(model, parts.test, config), 4),  # of the whole test part
        "also": {name: round(mean_loss(model, ids, config), 4) for name, ids in parts.also.items()},
    }
    if parts.test.ndim == 1:
        found["bits_per_byte"] = round(book.bits_per_byte(found["final"], parts.test), 4)
    if not in_windows:
        counted = corpus.ngram_losses(parts.train, parts.test, book.tokenizer.vocab_size)
        written = text_quality(model, book, parts.train, config)
        found["baselines"] = {name: round(loss, 4) for name, loss in counted.items()}
        found["quality"] = {name: round(value, 4) for name, value in written.items()}
    return found


def rounded(values):
    """Four digits are more than the seeds agree on."""
    return [round(value, 4) for value in values]


def thinned(losses):
    """A curve of at most POINTS points: the mean of each stretch of steps."""
    return rounded(piece.mean().item() for piece in torch.tensor(losses).tensor_split(min(POINTS, len(losses))))


def machine(device):
    """The processor and how many threads are used, or the GPU."""
    name, file = runtime.device_name(device), Path("/proc/cpuinfo")
    if torch.device(device).type == "cpu" and file.is_file():
        found = re.search(r"model name\s*:\s*(.+)", file.read_text(encoding="utf-8"))
        name = name.replace("CPU", found[1]) if found else name
    return name


# --- records ---------------------------------------------------------------------------------------------------------


def describe(name, size, book):
    """What must be equal for a record to be still valid: the arm and its settings, without the seed."""
    arm, (shape, config) = ARMS[name], settings(ARMS[name], size, 0)
    unused = ("seed", "sample_every", "sample_tokens")
    return {
        "arm": name, "group": arm.group, "what": arm.what, "size": size, "text": book.title,
        "tokenizer": book.tokenizer.name, "changes": list(arm.changes), "before": arm.before,
        "model": asdict(replace(shape, vocab_size=book.tokenizer.vocab_size)),
        "training": {key: value for key, value in asdict(config).items() if key not in unused},
    }


def place(name, size, book, folder=FOLDER):
    """The file of an arm. What was measured on the stand-in text never replaces what was measured on the book."""
    return Path(folder) / (size + "_stand_in" * book.is_stand_in) / f"{name}.json"


def recorded_runs(name, size, book, folder=FOLDER):
    """The runs of an arm that are recorded and still valid: {seed: run}."""
    path = place(name, size, book, folder)
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    same = all(found.get(key) == value for key, value in describe(name, size, book).items())
    return {int(seed): row for seed, row in found.get("runs", {}).items()} if same else {}


def write(name, size, book, runs, folder=FOLDER):
    """Writes the record of an arm, whole or not at all: one line for each setting and for each run."""
    settings_lines = [f'"{key}": {json.dumps(value)}' for key, value in describe(name, size, book).items()]
    run_lines = [f'"{seed}": {json.dumps(runs[seed])}' for seed in sorted(runs)]
    text = "{" + ",\n".join([*settings_lines, '"runs": {\n' + ",\n".join(run_lines) + "}"]) + "}\n"
    assets.write_atomically(place(name, size, book, folder), lambda to: to.write_text(text, encoding="utf-8"))


def load(size="laptop", folder=FOLDER):
    """All records of a size: {arm: record}, in the order of ARMS. An arm that nobody has recorded is not in it."""
    paths = {name: Path(folder) / size / f"{name}.json" for name in ARMS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def run_named(name, size, seed, threads=None):
    """run() for a process of its own."""
    if threads:
        torch.set_num_threads(threads)
    return run(ARMS[name], corpus.load_gulliver(SIZES[size].tokenizer), size, seed, runtime.best_device())


def record(names, size="laptop", seeds=SEEDS, jobs=1, again=False, folder=FOLDER):
    """Runs what is not recorded yet, all arms with the first seed first, and writes each run when it is there."""
    book = corpus.load_gulliver(SIZES[size].tokenizer)
    runs = {name: {} if again else recorded_runs(name, size, book, folder) for name in names}
    missing = [(name, seed) for seed in seeds for name in names if seed not in runs[name]]
    with contextlib.ExitStack() as at_the_end:
        if jobs > 1:  # "spawn", since torch's threads do not survive a fork
            pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
            at_the_end.callback(pool.shutdown, cancel_futures=True)
            found = (job.result for job in [pool.submit(run_named, name, size, seed, 1) for name, seed in missing])
        else:
            found = (functools.partial(run_named, name, size, seed) for name, seed in missing)
        for number, ((name, seed), result) in enumerate(zip(missing, found), start=1):
            runs[name][seed] = result()
            write(name, size, book, runs[name], folder)
            loss, seconds = runs[name][seed]["final"], runs[name][seed]["seconds"]
            print(f"{number}/{len(missing)} {name}, seed {seed}: {loss:.3f} ({seconds:.0f} s)", flush=True)


def main(arguments=None):
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="default: all; --list shows them")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="default: 0 1 2")
    add("--size", choices=SIZES, default="laptop", help="default: laptop; full needs a GPU")
    add("--jobs", type=int, default=1, help="runs at a time; more than one: one thread each (default: 1)")
    add("--again", action="store_true", help="run also what is recorded already")
    add("--list", action="store_true", help="show the arms and what is recorded, and run nothing")
    add("--folder", type=Path, default=FOLDER, help="where the records are (default: %(default)s)")
    given = parser.parse_args(arguments)
    if not given.list:
        record(given.arms, given.size, given.seeds, given.jobs, given.again, given.folder)
        return 0
    book = corpus.load_gulliver(SIZES[given.size].tokenizer)
    for name in given.arms:
        seeds = ", ".join(map(str, recorded_runs(name, given.size, book, given.folder))) or "none"
        print(f"{name:18} {ARMS[name].group:5} {ARMS[name].what} (seeds recorded: {seeds})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
