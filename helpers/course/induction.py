"""Grows an induction head in a small GPT-2, and records how often and when it forms.

    python -m helpers.course.induction                 run what is missing of seeds 0 to 9, with two blocks and with one
    python -m helpers.course.induction --seeds 0 1     run only these seeds
    python -m helpers.course.induction --list          list the runs that are recorded

The text is artificial, so that its best possible losses are known. A fixed Markov chain writes a passage; after a
number of tokens that differs from sequence to sequence, the passage starts again. A model first learns the chain. To go
on, it must find the earlier passage and copy it, which takes an induction head and a previous-token head in an earlier
block (helpers/circuits.py). With one block there is none, so the same recipe with one block is the control.

The record, data/measurements/induction_DEVICE.json, is rewritten after each run, so you can stop the program at any
time; when you start it again, it continues with the runs that are missing.
Sources: Olsson et al., "In-context Learning and Induction Heads", 2022 (the sudden change and the comparison with one
block); Bietti et al., "Birth of a Transformer: A Memory Viewpoint", 2023 (a Markov chain with copying).
"""

import argparse
import datetime
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from helpers import circuits, training
from helpers.course import records
from helpers.machine import runtime, timing
from helpers.model import GPT, GPTConfig

SHAPE = GPTConfig(vocab_size=32, n_positions=64, n_embd=64, n_layer=2, n_head=2)
RECIPE = training.TrainConfig(
    steps=1000, batch_size=16, context=64, learning_rate=2e-2, warmup_steps=20, optimizer="muon", decay="linear",
    decay_share=0.3, final_share=0.05, eval_every=20, precision="fp32",
)
PERIODS = (24, 40)  # the shortest and the longest passage, in tokens
RATIO = 0.8  # each successor of a token is this many times as probable as the one before it
HELD_OUT = 128  # sequences that are measured
SCORED = (24, 32)  # the halves of the repeated random tokens that score the heads, in tokens
IN_A_ROW = 3  # measurements above the threshold that make a head count as formed
SEEDS = tuple(range(10))

# --- text ------------------------------------------------------------------------------------------------------------


def markov_chain(vocab_size=SHAPE.vocab_size, ratio=RATIO, seed=0):
    """The probabilities of each token's successors: (V, V), rows sum to 1.

    All rows have the same values, 1, ratio, ratio^2, ... divided by their sum, in different orders. Columns sum to 1
    too, so over a long text all tokens are equally frequent: the loss without any context is ln V.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(vocab_size, generator=generator) for _ in range(2))
    weights = ratio ** torch.arange(vocab_size, dtype=torch.float64)
    return (weights / weights.sum())[(rows[:, None] + columns) % vocab_size]


def repetitive_text(chain, batch, length, periods=PERIODS, generator=None):
    """Sequences of a passage that starts again: ids (B, length), and the passages' lengths (B, 1)."""
    chances = torch.rand(length, batch, 1, generator=generator, dtype=torch.float64)
    upper = chain.cumsum(dim=1)  # (V, V): token j follows i when a chance lies below upper[i, j], not below j - 1's
    ids = [torch.randint(len(chain), (batch,), generator=generator)]
    for chance in chances[1:]:
        ids.append((upper[ids[-1]] < chance).sum(dim=1).clamp(max=len(chain) - 1))
    period = torch.randint(periods[0], periods[1] + 1, (batch, 1), generator=generator)
    return torch.stack(ids, dim=1).gather(1, torch.arange(length) % period), period


def parts(ids, period):
    """Which predictions belong to the first passage and which to its repetition: two masks (B, T - 1).

    Entry t is about token t + 1. The first token of each repetition belongs to neither, because nothing announces it.
    """
    position = torch.arange(1, ids.shape[1])
    return position < period, (position > period) & (position % period != 0)


def known_losses(chain, ids, period, periods=PERIODS):
    """The mean losses in nats of four readers who know how the text is made, but use only part of what was read.

    "no context": nothing, so ln V. "bigram": the last token. "one block": see one_block_losses(). "copying":
    everything, so no model can be better. The last three are measured on the repetitions in ids (B, T).
    """
    repeated, bigram = parts(ids, period)[1], chain[ids[:, :-1], ids[:, 1:]]  # (B, T - 1) each
    losses = {"bigram": -bigram.log(), "one block": one_block_losses(chain, ids, periods),
              "copying": copying_losses(chain, ids, periods)}
    return {"no context": math.log(len(chain)), **{name: loss[repeated].mean().item() for name, loss in losses.items()}}


def possible_copies(ids, periods):
    """For each length that the passage may have: what stands one passage before each next token, (B, T - 1), and where
    that makes sense, (T - 1,)."""
    position = torch.arange(1, ids.shape[1])
    for length in range(periods[0], periods[1] + 1):
        yield ids[:, :-1].roll(length - 1, dims=1), position >= length


def one_block_losses(chain, ids, periods):
    """The losses (B, T - 1) of a reader who sees what may be copied, but not what stands before it.

    This is much what one head of the first block can do: look at all positions that may be one passage back, and prefer
    tokens that often follow the current one. It is a mark to compare with, not a bound: several heads and an MLP could
    do better.
    """
    current, target = ids[:, :-1], ids[:, 1:]
    bigram, of_target, of_all = chain[current, target], 0, 0
    for candidate, is_repeated in possible_copies(ids, periods):
        weight = chain[current, candidate]  # columns sum to 1: how probably the current token stands before this one
        of_target = of_target + torch.where(is_repeated, weight * (candidate == target), bigram / len(chain))
        of_all = of_all + torch.where(is_repeated, weight, 1 / len(chain))
    return (of_all / of_target).log()


def copying_losses(chain, ids, periods):
    """The losses (B, T - 1) of the best possible reader, who weighs all lengths of the passage by Bayes' rule."""
    bigram = chain[ids[:, :-1], ids[:, 1:]]
    next_token = torch.stack([torch.where(is_repeated, (candidate == ids[:, 1:]).double(), bigram).log()
                              for candidate, is_repeated in possible_copies(ids, periods)])  # (lengths, B, T - 1)
    read = next_token.cumsum(dim=-1).roll(1, dims=-1)  # log probability of all that was read, for each length
    read[..., 0] = 0
    return read.logsumexp(dim=0) - (read + next_token).logsumexp(dim=0)


# --- growing ---------------------------------------------------------------------------------------------------------


@dataclass
class Growth:
    """The course of a training run.

    train_loss has one entry per step; all other lists have one per measurement, which `step` counts. first, repeated:
    the losses on the passages and on their repetitions, of held-out text. previous_token, induction: the scores of all
    heads, (L, nh) as lists. known: known_losses() of the held-out text.
    """

    seed: int
    model: GPT = field(repr=False)
    known: dict
    train_loss: list = field(default_factory=list)
    step: list = field(default_factory=list)
    first: list = field(default_factory=list)
    repeated: list = field(default_factory=list)
    previous_token: list = field(default_factory=list)
    induction: list = field(default_factory=list)
    seconds: float = 0.0

    def measure(self, ids, period, random):
        """Appends a measurement: the losses on ids (B, T), and the scores on repeated random tokens of several lengths,
        of which the lowest counts: a head that always looks equally far back gets a low score at one of them."""
        losses = circuits.losses_by_position(self.model, ids)
        first, repeated = (losses[mask].mean().item() for mask in parts(ids, period))
        maps = [circuits.attention_maps(self.model, sequences) for sequences in random]
        self.step.append(len(self.train_loss))
        self.first.append(first)
        self.repeated.append(repeated)
        for scores, score in ((self.previous_token, circuits.previous_token_score),
                              (self.induction, circuits.induction_score)):
            scores.append(torch.stack([score(own) for own in maps]).amin(0).tolist())


def growing(seed, shape=SHAPE, recipe=RECIPE):
    """Trains a new GPT of this shape and yields its Growth, always the same object, after each measurement.

    A notebook draws the Growth inside the loop and may leave the loop at any time. The chain and what is measured are
    the same for all seeds; the weights and the training text differ.
    """
    chain, held_out = markov_chain(shape.vocab_size), torch.Generator().manual_seed(2**32)  # no run has this seed
    ids, period = repetitive_text(chain, HELD_OUT, recipe.context, generator=held_out)
    random = [circuits.repeated_tokens(shape.vocab_size, length, HELD_OUT // 8, held_out) for length in SCORED]
    runtime.seed_everything(seed)
    growth, generator = Growth(seed, GPT(shape), known_losses(chain, ids, period)), torch.Generator().manual_seed(seed)
    optimizer, scaler = training.make_optimizer(growth.model, recipe), training.make_scaler("cpu", recipe)
    start = time.perf_counter()
    for step in range(recipe.steps + 1):
        if step % recipe.eval_every == 0 or step == recipe.steps:
            growth.measure(ids, period, random)
            growth.seconds = time.perf_counter() - start
            yield growth
        if step < recipe.steps:
            text, _ = repetitive_text(chain, recipe.batch_size, recipe.context + 1, generator=generator)
            x, y, rate = text[:, :-1], text[:, 1:], recipe.learning_rate_at(step)
            growth.train_loss.append(training.train_step(growth.model, optimizer, scaler, x, y, rate, recipe))


def grow(seed, shape=SHAPE, recipe=RECIPE):
    """Trains a new GPT to the end and returns its Growth."""
    for growth in growing(seed, shape, recipe):
        pass
    return growth


def formed(steps, scores, threshold=circuits.THRESHOLD, in_a_row=IN_A_ROW):
    """The step at which a head has formed, or None: from there on, so many measurements in a row of one and the same
    head exceed the threshold. steps, scores: Growth.step, and Growth.induction or Growth.previous_token.
    """
    above = (torch.tensor(scores) > threshold).flatten(1)  # (measurements, heads)
    if len(above) < in_a_row:
        return None
    starts = above.unfold(0, in_a_row, 1).all(dim=-1).any(dim=1)  # (measurements - in_a_row + 1,)
    return steps[starts.int().argmax()] if starts.any() else None


# --- records ---------------------------------------------------------------------------------------------------------


def describe(shape=SHAPE, recipe=RECIPE):
    """The settings of the runs, apart from seed and number of blocks. A run is valid only while they stay equal."""
    unused = ("seed", "eval_tokens", "sample_every", "sample_tokens", "compile", "accumulate")
    return {
        "model": {key: value for key, value in asdict(shape).items() if key != "n_layer"},
        "training": {key: value for key, value in asdict(recipe).items() if key not in unused},
        "text": {"passage": list(PERIODS), "ratio": RATIO, "held_out": HELD_OUT, "scored": list(SCORED)},
        "formed": {"threshold": circuits.THRESHOLD, "in_a_row": IN_A_ROW},
    }


def as_recorded(growth):
    """A Growth as a run of the record. train_loss is averaged over the steps between two measurements."""
    def rounded(values, digits=4):
        return [rounded(value, digits) if isinstance(value, list) else round(value, digits) for value in values]

    between = zip(growth.step, growth.step[1:])
    return {
        "blocks": growth.model.config.n_layer, "seed": growth.seed, "date": datetime.date.today().isoformat(),
        "seconds": round(growth.seconds, 1),
        "induction_formed": formed(growth.step, growth.induction),
        "previous_token_formed": formed(growth.step, growth.previous_token),
        "step": growth.step, "train_loss": rounded([statistics.fmean(growth.train_loss[a:b]) for a, b in between]),
        "first": rounded(growth.first), "repeated": rounded(growth.repeated),
        "previous_token": rounded(growth.previous_token, 3), "induction": rounded(growth.induction, 3),
    }


def recorded_runs(path, settings):
    """The runs in a record that were made with these settings: {name: run}. A missing file holds none."""
    saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return saved["runs"] if saved and records.same_settings(saved["settings"], settings) else {}


def record(seeds=SEEDS, blocks=(2, 1), again=False, folder=timing.RECORDS, shape=SHAPE, recipe=RECIPE):
    """Makes the runs that are not recorded yet, and writes each as soon as it is done. Returns the record's path."""
    origin, settings = timing.origin("cpu"), describe(shape, recipe)
    path = timing.record_path("induction", origin, folder)
    runs = {} if again else recorded_runs(path, settings)
    names = {f"{count} block{'s' * (count > 1)}, seed {seed}": (count, seed) for seed in seeds for count in blocks}
    for name, (count, seed) in names.items():
        if name in runs:
            continue
        growth = grow(seed, replace(shape, n_layer=count), recipe)
        runs[name] = run = as_recorded(growth)
        known = {reader: round(loss, 4) for reader, loss in growth.known.items()}
        ordered = dict(sorted(runs.items(), key=lambda item: (-item[1]["blocks"], item[1]["seed"])))
        timing.write_record("induction", {**origin, "settings": settings, "known": known, "runs": ordered}, folder)
        print(f"{name}: an induction head after {run['induction_formed']} steps; loss on repetitions "
              f"{run['repeated'][-1]:.3f} ({run['seconds']:.0f} s)", flush=True)
    return path


def main(arguments=None):
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="the seeds to run (default: 0 to 9)")
    add("--blocks", nargs="+", type=int, default=[2, 1], help="the numbers of blocks to run (default: 2 1)")
    add("--again", action="store_true", help="forget the recorded runs and start anew")
    add("--list", action="store_true", help="list the recorded runs, and run nothing")
    add("--folder", type=Path, default=timing.RECORDS, help="the folder of the record (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.list:
        path = timing.record_path("induction", timing.origin("cpu"), options.folder)
        for name, run in recorded_runs(path, describe()).items():
            print(f"{name}: an induction head after {run['induction_formed']} steps ({run['seconds']:.0f} s)")
        return 0
    print(record(options.seeds, options.blocks, options.again, options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
