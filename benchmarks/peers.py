"""Compare the course's recipe at laptop size with other recipes and programs: the loss after the same seconds.

    python -m benchmarks.peers                            all arms, three seeds; continues where it was stopped
    python -m benchmarks.peers --record                   the same, recorded in data/measurements/ and BENCHMARKS.md
    python -m benchmarks.peers --arms today course        fewer arms
    python -m benchmarks.peers --seconds 20 --seeds 0     shorter runs, which show less
    python -m benchmarks.peers --quick                    two seconds and one seed: only shows that the program works

All arms train on the same tokens of Gulliver's Travels, and what is compared is the loss on the validation set (the
last tenth of the training set). Every run is a process of its own on all cores of the CPU, and arms take turns. First
short runs measure the seconds per batch of each arm; then each arm gets as many batches as fit into the time that
the earlier recipe of the laptop size takes, and its schedule is stretched to them. Only training counts.

The arms "hf_trainer" and "hf_tuned" need `pip install accelerate`; without it they are left out.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.workers import ANSWER
from helpers import corpus, training
from helpers.course import arms, recipes, speedrun, speedrun_results
from helpers.machine import runtime, timing
from helpers.model import GPT, GPTConfig
from helpers.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
SHAPE, TODAY = (getattr(speedrun.RECIPES["laptop"], name) for name in ("model", "training"))  # before the speedrun
RATES = (1e-3, 2e-3, 4e-3)  # that "hf_tuned" tries
TUNING_SEED = 100
PACE_STEPS, PACE_ROUNDS, PACE_SKIPPED = 60, 3, 5  # the first steps of a process are slower
REPORTING = ("eval_every", "eval_tokens", "sample_every", "sample_tokens", "seed")
NOT_INSTALLED = "not installed: pip install accelerate"


@dataclass(frozen=True)
class Peer:
    """One arm.

    label: its name in the table. model, training: a GPT of the course and its TrainConfig; training is None for
    transformers' Trainer. changes: names in arms.CHANGES. biases: whether biases are trained; if not, they
    stay 0. rates: the learning rates to choose from on the validation set.
    """

    label: str
    model: GPTConfig = SHAPE
    training: TrainConfig | None = None
    changes: tuple = ()
    biases: bool = True
    rates: tuple = ()

    def settings(self):
        """All numbers, as they are recorded. A recorded run is valid only while they stay the same."""
        numbers = {**asdict(self), "tokenizer": speedrun.tokenizer_sum()}
        del numbers["label"]
        if self.training:
            numbers["training"] = {k: v for k, v in numbers["training"].items() if k not in REPORTING}
        return json.loads(json.dumps(numbers))


def peers():
    """All arms, {name: Peer}; the course's own is read from helpers/course/recipes.py."""
    course = recipes.recipe_for("laptop")
    return {
        "course": Peer("the course's recipe", course.model, course.training),
        "today": Peer("the course's earlier recipe", SHAPE, TODAY),
        "nanogpt": Peer(
            "nanoGPT's settings for a laptop", replace(SHAPE, n_positions=64, dropout=0.0),
            replace(TODAY, steps=2000, batch_size=12, context=64, learning_rate=1e-3, warmup_steps=100,
                    beta2=0.99), biases=False),
        "lectures": Peer("the lectures' recipe", SHAPE, replace(TODAY, **arms.CONSTANT),
                         changes=tuple(arms.CHANGES)),
        "hf_trainer": Peer("Hugging Face's Trainer, default settings", SHAPE),
        "hf_tuned": Peer("Hugging Face's Trainer, learning rate tuned", SHAPE, rates=RATES),
    }


def is_installed():
    """Whether the package that transformers.Trainer needs is installed."""
    return importlib.util.find_spec("accelerate") is not None


# --- one run, in a process of its own --------------------------------------------------------------------------------


class Clock:
    """The seconds of training: from a forward pass in training mode, of which `skipped` are left out, to stop()."""

    def __init__(self, model, skipped=0):
        self.start, self.skipped = None, skipped
        self.hook = model.register_forward_pre_hook(self.begin)

    def begin(self, model, inputs):
        if model.training and self.skipped:
            self.skipped -= 1
        elif model.training:
            self.start = time.perf_counter()
            self.hook.remove()

    def stop(self):
        return time.perf_counter() - self.start


def stretched(config, steps):
    """A TrainConfig of so many steps: warm-up and decay keep their shares of them."""
    return replace(config, steps=steps, warmup_steps=round(config.warmup_steps * steps / config.steps),
                   eval_every=steps, eval_tokens=1, sample_every=steps)


def train_course(peer, train_ids, validation_ids, steps, seed, skipped=0):
    """Trains a GPT by the course's loop. Returns it and the seconds, without those of the first `skipped` steps."""
    runtime.seed_everything(seed)
    model = GPT(peer.model)
    for name in peer.changes:
        arms.CHANGES[name](model)
    if not peer.biases:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.endswith("bias"))

    clock = Clock(model, skipped)
    config = replace(stretched(peer.training, steps), seed=seed)
    training.train(model, train_ids, validation_ids, config, progress=False)
    return model, clock.stop()


class Windows(torch.utils.data.Dataset):
    """All windows of T tokens of ids (N,). The Trainer draws them in random order; the model shifts the labels."""

    def __init__(self, ids, context):
        self.ids, self.context = ids, context

    def __len__(self):
        return len(self.ids) - self.context + 1

    def __getitem__(self, start):
        window = self.ids[start : start + self.context]
        return {"input_ids": window, "labels": window}


class Scored(nn.Module):
    """A model of transformers with the signature of a GPT of the course: model(ids, targets) -> the mean loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, targets):
        return F.cross_entropy(self.model(ids).logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,) -> ()


def train_trainer(peer, train_ids, steps, seed, rate=None, skipped=0):
    """Trains transformers' GPT-2 by its Trainer with its default settings, except a rate if given. Returns it and the
    seconds, without those of the first `skipped` steps."""
    import transformers

    runtime.seed_everything(seed)
    shape = {name: getattr(peer.model, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    last = peer.model.vocab_size - 1
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=last, eos_token_id=last))
    clock = Clock(model, skipped)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=steps, seed=seed, use_cpu=True, report_to="none", save_strategy="no",
            disable_tqdm=True, logging_strategy="no", **({"learning_rate": rate} if rate else {}))
        transformers.Trainer(model, arguments, train_dataset=Windows(train_ids, peer.model.n_positions)).train()
        seconds = clock.stop()
    return Scored(model), seconds


def run(name, steps, seed, rate=None, measure=True, skipped=0):
    """One run of an arm: {"steps", "seed", "seconds", "wall"} and, if measure, the validation "loss"."""
    began, peer = time.perf_counter(), peers()[name]
    book = corpus.load_gulliver("course")
    train_ids, validation_ids = corpus.split_validation(book.split()[0])
    if peer.training:
        model, seconds = train_course(peer, train_ids, validation_ids, steps, seed, skipped)
    else:
        model, seconds = train_trainer(peer, train_ids, steps, seed, rate, skipped)
    loss = training.evaluate(model, validation_ids, peer.model.n_positions) if measure else None
    wall = time.perf_counter() - began
    return {"steps": steps, "seed": seed, "seconds": round(seconds, 3), "wall": round(wall, 3), "loss": loss,
            "rate": rate, "text": book.title}


def run_apart(name, **arguments):
    """run() in a process of its own. Raises SystemExit with its last words if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--worker", json.dumps({"name": name, **arguments})], cwd=ROOT,
        capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COURSE_DEVICE": "cpu", "TOKENIZERS_PARALLELISM": "false"})
    for line in done.stdout.splitlines():
        if line.startswith(ANSWER):
            return json.loads(line[len(ANSWER):])
    last_lines = "\n".join(done.stderr.strip().splitlines()[-12:])
    raise SystemExit(f"peers: the run of {name!r} failed. Its last lines:\n{last_lines}")


# --- the comparison --------------------------------------------------------------------------------------------------


def report(text):
    """Prints a line about the progress."""
    print(text, file=sys.stderr, flush=True)


def resumed(path, names, seconds):
    """A recorded result of the same seconds, without what is no longer valid; or a new one."""
    origin, old = timing.origin("cpu"), {}
    with contextlib.suppress(OSError, ValueError):
        old = json.loads(Path(path).read_text(encoding="utf-8"))
    now = {**origin, "transformers": metadata.version("transformers"), "budget": seconds}
    if any(old.get(key) != now[key] for key in ("budget", "device", "threads", "torch", "transformers")):
        old = {}
    arms = {}
    for name, peer in peers().items():
        arm = old.get("arms", {}).get(name, {})
        if arm.get("settings") == peer.settings():
            arms[name] = arm
        elif name in names:
            arms[name] = {"settings": peer.settings(), "steps": None, "pace": [], "rate": None, "tuning": [],
                          "runs": []}
    return {**now, "arms": arms, "missing": {}}


def measure_pace(result, names, save, rounds=PACE_ROUNDS, steps=PACE_STEPS, execute=run_apart):
    """Measures, in turns with "today", the arms whose steps are not known yet, and fixes their steps.

    An arm's pace holds, for each round, its seconds per batch and those of "today" in the same round.
    """
    arms, unknown = result["arms"], [name for name in names if result["arms"][name]["steps"] is None]
    for name in unknown:
        arms[name]["pace"] = []
    for turn in range(rounds if unknown else 0):
        order = list(dict.fromkeys(["today", *unknown]))
        first = turn % len(order)
        order = order[first:] + order[:first]
        seconds = {name: execute(name, steps=steps + PACE_SKIPPED, seed=turn, measure=False,
                                 skipped=PACE_SKIPPED)["seconds"] / steps for name in order}
        for name in unknown:
            arms[name]["pace"].append([seconds[name], seconds["today"]])
        report(f"pace, round {turn + 1} of {rounds}: "
               + ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in seconds.items()))
    for name in unknown:
        arms[name]["steps"] = steps_of(arms[name]["pace"], result["budget"])
    save(result)


def steps_of(pace, budget):
    """How many batches fit into the seconds of today's recipe: its 500 batches, or `budget` seconds if given."""
    today = statistics.median(pair[1] for pair in pace)
    batches = TODAY.steps if budget is None else budget / today
    return max(2, round(batches * statistics.median(theirs / own for own, theirs in pace)))


def tune(result, names, save, execute=run_apart):
    """Chooses the learning rate of the arms that have rates to choose from: the lowest validation loss of one seed."""
    for name in names:
        arm = result["arms"][name]
        for rate in arm["settings"]["rates"]:
            if rate not in [tried["rate"] for tried in arm["tuning"]]:
                arm["tuning"].append(execute(name, steps=arm["steps"], seed=TUNING_SEED, rate=rate))
                report(f"{name}, learning rate {rate}: validation loss {arm['tuning'][-1]['loss']:.3f}")
                save(result)
        if arm["tuning"]:
            arm["rate"] = min(arm["tuning"], key=lambda tried: tried["loss"])["rate"]


def compare(result, names, seeds, save, execute=run_apart):
    """Lets the arms take turns: one complete run of each, seed after seed. Recorded runs are not repeated."""
    for turn, seed in enumerate(seeds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            arm = result["arms"][name]
            if seed in [done["seed"] for done in arm["runs"]]:
                continue
            arm["runs"].append(execute(name, steps=arm["steps"], seed=seed, rate=arm["rate"]))
            save(result)
            done = arm["runs"][-1]
            report(f"seed {seed}, {name}: {done['steps']} batches in {done['seconds']:.1f} s, validation loss "
                   f"{done['loss']:.3f}")


# --- the table -------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
## Other recipes on the same work

What has a model learned after the same seconds? Every row trains a GPT-2 from scratch on the same tokens of {text},
with the same tokenizer (4,096 tokens), on a CPU. A row is a program in a process of its own on all cores, and the rows
take turns. Short runs in turns measure the seconds per batch first. Then each row gets as many batches as fit into
the time of the earlier recipe, and its schedule is stretched to them. Only training counts. The loss is that on the
validation set, the last tenth of the training set.

```sh
python -m benchmarks.peers             # about {minutes} minutes; stop it at any time, it continues
python -m benchmarks.peers --record    # also record the result, so that it appears here
```
"""
NOTE = """\
- **Loss** is the mean over the seeds, ± their standard deviation. **Difference** is from the course's recipe, ± half
  its 95 % interval (Welch).
- **The course's recipe** was chosen on this validation set, and so was the learning rate of the row “tuned”, the best
  of {rates}. The other rows have the settings of their source.
- The **seconds** are those of the complete runs. They differ by as much as a program's pace then differed from its pace
  in the short runs, so read a small difference in loss together with them.
- Each model is measured in windows of its own context. Windows of 64 tokens (the course's recipe, nanoGPT's settings)
  show each prediction less text than the others' windows of 128.
- **nanoGPT's settings** are those that its README gives for a laptop (`config/train_shakespeare_char.py` with 4
  blocks, 4 heads, a width of 128, 12 x 64 tokens, no dropout), in the course's loop: learning rate 1e-3 to
  1e-4, warm-up over 5 % of the batches, AdamW with betas 0.9 and 0.99, no biases. They were made for single
  characters, not for 4,096 tokens.
- **The lectures' recipe** is embeddings from N(0, 1), a head that starts as a copy of them, logits divided by the
  square root of the width, and a constant learning rate of 1e-3 (notebook 09), at the laptop's model size.
- **Hugging Face's Trainer** trains `GPT2LMHeadModel` of the laptop's size with the defaults of both: batches of 8,
  AdamW at 5e-5 with linear decay, dropout 0.1. It needs `pip install accelerate`.
"""
HEAD = ["| recipe | batches | seconds | validation loss | difference |", "|---|---|---|---|---|"]


def row(result, name, label):
    """The table row of one arm."""
    if name in result["missing"]:
        return f"| {label} | | | {result['missing'][name]} | |"
    arm = result["arms"][name]
    losses = [done["loss"] for done in arm["runs"]]
    spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
    seconds = statistics.median(done["seconds"] for done in arm["runs"])
    course = [done["loss"] for done in result["arms"].get("course", {"runs": []})["runs"]]
    difference = ""
    if name != "course" and min(len(losses), len(course)) > 1:
        change, half, _ = speedrun_results.difference_interval(losses, course)
        difference = f"{change:+.3f} ± {half:.3f}"
    if arm["rate"]:
        label = f"{label} ({arm['rate']:g})"
    return f"| {label} | {arm['steps']:,} | {seconds:.1f} | {statistics.mean(losses):.3f}{spread} | {difference} |"


def table(result):
    """The result of one machine: a heading, the versions, and the table."""
    arms = result["arms"]
    shown = [(name, peer.label) for name, peer in peers().items()
             if name in result["missing"] or arms.get(name, {}).get("runs")]
    seeds = max((len(arms[name]["runs"]) for name, _ in shown if name in arms), default=0)
    return "\n".join([f"## {result['device']}, recipes\n",
                      f"{result['threads']} threads, torch {result['torch']}, transformers {result['transformers']}; "
                      f"{seeds} seed{'s' * (seeds != 1)}; measured on {result['date']}.\n",
                      *HEAD, *(row(result, name, label) for name, label in shown), ""])


def minutes_of(result):
    """How long the measurement took, in minutes, with the start and the evaluation of its runs."""
    runs = [done for arm in result["arms"].values() for done in [*arm["runs"], *arm["tuning"]]]
    pace = PACE_STEPS * sum(own for arm in result["arms"].values() for own, _ in arm["pace"])
    return (pace + sum(done["wall"] for done in runs)) / 60


def section(folder):
    """The peers' part of BENCHMARKS.md, from the records in a folder; "" without any."""
    results = timing.recorded("peers", folder)
    if not results:
        return ""
    first = next(iter(results[0]["arms"].values()))["runs"]
    text = first[0]["text"] if first else "Gulliver's Travels"
    minutes = max(1, round(minutes_of(results[0])))
    return "\n".join([INTRODUCTION.format(text=text, minutes=minutes),
                      *(table(result).replace("## ", "### ", 1) for result in results),
                      NOTE.format(rates=", ".join(f"{rate:g}" for rate in RATES))])


# --- the command line ------------------------------------------------------------------------------------------------


def parse(arguments):
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--arms", nargs="+", choices=peers(), default=list(peers()), help="default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    add("--seconds", type=float, help="the seconds of a run (default: those of the earlier recipe's 500 batches)")
    add("--quick", action="store_true", help="two seconds and one seed: only shows that the program works")
    add("--record", action="store_true", help="keep the result in data/measurements/ and in BENCHMARKS.md")
    add("--out", type=Path, default=ROOT / "build" / "peers.json", help="the result (default: build/peers.json)")
    add("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.record and (options.quick or options.seconds):
        parser.error("--record needs complete runs: leave out --quick and --seconds")
    if options.quick:
        options.seconds, options.seeds = 2, options.seeds[:1]
        options.out = options.out.with_name(f"{options.out.stem}_quick.json")
    return options


def main(arguments=None, root=ROOT, execute=run_apart):
    options = parse(arguments)
    if options.worker:
        print(ANSWER + json.dumps(run(**json.loads(options.worker))), flush=True)
        return 0
    if options.record and corpus.load_gulliver("course").is_stand_in:
        raise SystemExit("peers: --record needs Gulliver's Travels, but only the stand-in text is available.")
    records = root / "data" / "measurements"
    path = timing.record_path("peers", timing.origin("cpu"), records) if options.record else options.out
    result = resumed(path, options.arms, options.seconds)
    if not is_installed():
        result["missing"] = {name: NOT_INSTALLED for name in options.arms if not peers()[name].training
                             and not result["arms"].get(name, {}).get("runs")}
    names = [name for name in options.arms if name not in result["missing"]]
    for name in result["missing"]:
        report(f"{name} is left out: {NOT_INSTALLED}")
        result["arms"].pop(name, None)

    def save(result):
        timing.write_json(path, result)

    rounds, steps = (1, 5) if options.quick else (PACE_ROUNDS, PACE_STEPS)
    measure_pace(result, names, save, rounds, steps, execute)
    tune(result, names, save, execute)
    compare(result, names, options.seeds, save, execute)
    if options.record:
        from benchmarks import tables  # which imports this module

        tables.write_page(root)
    print("\n" + table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
