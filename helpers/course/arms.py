"""What notebook 09 compares: each arm is the base arm, the recipe of notebook 07 in a smaller model, with one change.

An arm says what it changes in the model, in the training or in the data, and in which section of the notebook it is
judged. experiments.py trains the arms and records the results.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from helpers import corpus
from helpers.course import recipes
from helpers.machine import assets, timing
from helpers.model import GPTConfig

# --- sizes: notebook 07's recipe with half as many blocks and about half as many batches, to afford ten seeds ---------

RECIPES = {
    "smoke": replace(recipes.RECIPES["smoke"], training=replace(
        recipes.RECIPES["smoke"].training, steps=10, batch_size=4, context=32, warmup_steps=2)),
    "laptop": replace(recipes.RECIPES["laptop"], model=replace(recipes.RECIPES["laptop"].model, n_layer=2),
                      training=replace(recipes.RECIPES["laptop"].training, steps=400)),
    "full": recipes.RECIPES["full"],
}

# --- changes to a new model ------------------------------------------------------------------------------------------


@torch.no_grad()
def wide_init(model):
    """Draws the embeddings from N(0, 1), the default of nn.Embedding. A tied head shares them."""
    for embedding in (model.transformer.wte, model.transformer.wpe):
        embedding.weight.normal_(std=1.0)


def fake_tie(model):
    """Makes the head a copy of the embedding, as nn.Parameter(wte.weight) becomes after model.to("cuda"). The model's
    configuration then says the truth, so that a checkpoint can be loaded."""
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())
    model.config = replace(model.config, tie_word_embeddings=False)


def scaled_logits(model):
    """Divides the logits by the square root of the width, by dividing the input of the linear head."""
    scale = math.sqrt(model.config.n_embd)
    model.transformer.ln_f.register_forward_hook(lambda module, inputs, output: output / scale)


def with_mlp_ratio(model, ratio):
    """Replaces the hidden layers of the MLPs, which are 4 times as wide as the residual stream, by ones that are
    `ratio` times as wide. Their weights begin as GPT-2's do."""
    C, L = model.config.n_embd, model.config.n_layer
    for block in model.transformer.h:
        block.mlp.c_fc, block.mlp.c_proj = nn.Linear(C, ratio * C), nn.Linear(ratio * C, C)
        nn.init.normal_(block.mlp.c_fc.weight, std=0.02)
        nn.init.normal_(block.mlp.c_proj.weight, std=0.02 / math.sqrt(2 * L))
        for layer in (block.mlp.c_fc, block.mlp.c_proj):
            nn.init.zeros_(layer.bias)


CHANGES = {change.__name__: change for change in (wide_init, fake_tie, scaled_logits)}

# --- training, validation and test set -------------------------------------------------------------------------------


@dataclass
class Split:
    """A training and a test set: each is ids (N,), or ready-made windows (n, T + 1)."""

    train: torch.Tensor
    test: torch.Tensor
    validation: torch.Tensor | None = None  # ids (N,), measured on the way
    other: dict = field(default_factory=dict)  # {name: ids (N,)}: further test sets, measured once, after training


def tail(book, context, seed):
    """The base arm: trains on the first nine tenths of the book and tests on the last tenth."""
    return Split(*book.split())


def tail_with_validation(book, context, seed):
    """The base arm's split without its validation set, the last tenth of its training set, which is measured on the
    way."""
    train, test = book.split()
    fitted, validation = corpus.split_validation(train)
    return Split(fitted, test, validation)


def small(book, context, seed):
    """A small training set: the first eighth of the base arm's. Validation set and test set stay the same."""
    whole = tail_with_validation(book, context, seed)
    size = len(book.split()[0]) // 8
    return replace(whole, train=whole.train[: max(context + 1, size)])


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
        train, test = map(book.tokenizer.encode, (train, test))
        return Split(train, test, other={"clean test set": book.split()[1]})

    return split


def voyage(book, context, seed):
    """The short text that ships with the course, with the last tenth of its training set as its validation set."""
    train, test = corpus.load_text(assets.DATA / "voyage.txt", book.tokenizer).split()
    fitted, validation = corpus.split_validation(train)
    return Split(fitted, test, validation)


def windows_of(ids, context, stride):
    """Cuts ids (N,) into windows (n, context + 1), each starting `stride` tokens after the one before."""
    return ids.unfold(0, context + 1, stride)


PASSAGE = 256  # tokens


def passages(number, by_passage):
    """A split of overlapping windows, cut from `number` passages of the book, a quarter of a context apart. Each seed
    draws its own passages, which do not overlap, from the training set without the validation set.

    by_passage: a quarter of the passages becomes the test set; otherwise a quarter of the windows does, drawn at random
    from all passages. The base arm's test set is measured as "new text".
    """

    def split(book, context, seed):
        train, new_text = book.split()
        ids, validation = corpus.split_validation(train)
        generator, length = torch.Generator().manual_seed(seed), min(PASSAGE, len(ids) // number)
        places = torch.randperm(len(ids) // length, generator=generator)[:number]
        windows = [windows_of(ids[place * length :][:length], context, max(1, context // 4)) for place in places]
        owner = torch.cat([torch.full((len(rows),), i) for i, rows in enumerate(windows)])  # each window's passage
        windows = torch.cat(windows)
        if by_passage:
            is_test = torch.isin(owner, torch.randperm(number, generator=generator)[: number // 4])
        else:
            is_test = torch.randperm(len(windows), generator=generator) < len(windows) // 4
        return Split(windows[~is_test], windows[is_test], validation, {"new text": new_text})

    return split


# --- arms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """The base arm with something changed.

    group: the section of notebook 09 that judges the arm. what: the arm in words. model, training: fields of GPTConfig
    and TrainConfig that differ from the base arm's. changes: names in CHANGES, applied to the new model. mlp_ratio: the
    width of the MLPs' hidden layers, as a multiple of the model's. split(book, context, seed): makes the Split.
    budget: batches, as a multiple of the base arm's. before: batches on the whole book before that, likewise. rate_of:
    the arm whose learning rate is used; None: the arm's own rate is tuned on the validation set. seeds: how many seeds
    are trained. points: how many times the losses are measured on the way. form: whether samples are measured there.
    """

    group: str
    what: str
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    changes: tuple = ()
    mlp_ratio: int = 4
    split: Callable = tail
    budget: float = 1.0
    before: float = 0.0
    rate_of: str | None = None
    seeds: int = 10
    points: int = 0
    form: bool = False

    def fits(self, size):
        """Whether the arm can be trained at this run size: a width of its own was chosen for the smaller ones."""
        return size != "full" or "n_embd" not in self.model


PASSAGES = (4, 12, 40, 100, 200)
UNTIED = {"tie_word_embeddings": False}
RANDOM = {"sampling": "random"}
# Short windows in ready-made sets. Noise would hide part of what is memorised.
SHORT = {"context": 32, "batch_size": 32, "noise": 0.0, "sampling": "random", "learning_rate": 0.005}
ADAMW = {"optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1}
CONSTANT = {"learning_rate": 1e-3, "warmup_steps": 0, "final_share": 1.0}  # of the lectures
LECTURES = {**ADAMW, **RANDOM, **CONSTANT, "noise": 0.0}
NO_DECAY = {"weight_decay": 0.0, "embedding_decay": 0.0}
SCHEDULES = {"linear": {}, "cosine": {"decay": "cosine"}, "constant": {"final_share": 1.0}}
BUDGETS = (0.5, 1, 2)  # times the base arm's
SHAPES = ((1, 4), (4, 4), (8, 4), (16, 4), (2, 1), (2, 2), (2, 8), (2, 16))  # (depth, MLP ratio): the width follows
STEP_TIMES = timing.RECORDS / "shapes.json"  # of data/recipes/measure_step_times.py


def parameters_of(depth, width, ratio=4, vocab_size=4096, context=64, tied=True):
    """The number of parameters of a model of this shape, without the biases and LayerNorms: they are below 2 %."""
    return ((1 if tied else 2) * vocab_size + context) * width + depth * (4 + 2 * ratio) * width**2


def equal_width(depth, ratio, parameters, tied=True):
    """The width, a multiple of 4, with which a model of this depth and MLP ratio has about so many parameters."""
    return min(range(16, 513, 4), key=lambda width: abs(parameters_of(depth, width, ratio, tied=tied) - parameters))


def model5_arms():
    """Notebook 07's model in three budgets and three schedules."""
    layers = {"n_layer": recipes.RECIPES["laptop"].model.n_layer}
    return {f"{schedule}_{budget:g}": Arm(
        "budget", f"{schedule} learning rate, {budget:g} x the batches", model=layers, training=training, budget=budget,
        split=tail_with_validation, rate_of=None if budget == 1 else f"{schedule}_1", seeds=5, points=10,
        form=schedule == "linear") for schedule, training in SCHEDULES.items() for budget in BUDGETS}


def shape_arms():
    """Models with as many parameters as the base arm's: depth against width, and MLP ratio against width."""
    base = RECIPES["laptop"].model
    parameters = parameters_of(base.n_layer, base.n_embd)
    widths = {(depth, ratio): equal_width(depth, ratio, parameters) for depth, ratio in SHAPES}
    return {f"shape_{depth}_{ratio}": Arm(
        "shape", f"{depth} block{'s' * (depth > 1)} of width {width}, MLP ratio {ratio}", mlp_ratio=ratio,
        model={"n_layer": depth, "n_embd": width}, seeds=3) for (depth, ratio), width in widths.items()}


def step_times():
    """The recorded times of a training step as multiples of the base arm's: {arm: {"low", "middle", "high"}}."""
    return json.loads(STEP_TIMES.read_text(encoding="utf-8"))["times"] if STEP_TIMES.is_file() else {}


def time_arms(shapes):
    """The arms of shape_arms() with so many batches that training takes as long as the base arm's."""
    times = step_times()
    return {name.replace("shape", "time"): replace(
        arm, group="time", what=f"{arm.what}, equal time", budget=1 / times[name]["middle"], rate_of=name)
        for name, arm in shapes.items() if name in times}


def passage_arms():
    """Few and many passages, split by window and by passage."""
    return {f"{kind}_{number}": Arm(
        "leakage", f"{number} passages, split by {kind}", training=SHORT, budget=0.25, points=10,
        split=passages(number, kind == "passage"), rate_of=None if kind == "passage" else f"passage_{number}")
        for number in PASSAGES for kind in ("passage", "window")}


BASE = RECIPES["laptop"].model
AS_LARGE = equal_width(BASE.n_layer, 4, parameters_of(BASE.n_layer, BASE.n_embd, tied=False))
ARMS = {
    "base": Arm("base", "the course's recipe"),
    "random": Arm("sampling", "random windows", training=RANDOM),
    "epochs_short": Arm("sampling", "shuffled epochs, a quarter of the batches", budget=0.25, rate_of="base"),
    "random_short": Arm("sampling", "random windows, a quarter of the batches", training=RANDOM, budget=0.25,
                        rate_of="random"),
    "untied": Arm("tying", "untied head, as wide", model=UNTIED),
    "tied_wider": Arm("tying", "tied head, as many parameters as untied", model={"n_embd": AS_LARGE}),
    **passage_arms(),
    "small": Arm("overfitting", "an eighth of the book", split=small, budget=0.75, points=15),
    "small_untied": Arm("overfitting", "an eighth, untied head", model=UNTIED, split=small, budget=0.75, points=15),
    "small_dropout": Arm("overfitting", "an eighth, dropout 0.1", model={"dropout": 0.1}, split=small, budget=0.75,
                         points=15),
    "small_no_decay": Arm("overfitting", "an eighth, no weight decay", training=NO_DECAY, split=small, budget=0.75,
                          points=15),
    "small_no_noise": Arm("overfitting", "an eighth, no noise", training={"noise": 0.0}, split=small, budget=0.75,
                          points=15),
    "wide_init": Arm("recipe", "embeddings from N(0, 1)", changes=("wide_init",)),
    "scaled_logits": Arm("recipe", "logits divided by the square root of the width", changes=("scaled_logits",)),
    "wide_init_scaled": Arm("recipe", "N(0, 1) and divided logits together", changes=("wide_init", "scaled_logits")),
    "fake_tie": Arm("recipe", "fake tie: the head starts as a copy", changes=("fake_tie",)),
    "constant_rate": Arm("recipe", "constant learning rate", training=SCHEDULES["constant"]),
    "adamw": Arm("recipe", "AdamW instead of Muon", training=ADAMW),
    "source": Arm("recipe", "the lectures' recipe: all of its settings", training=LECTURES, changes=tuple(CHANGES)),
    "raw": Arm("cleaning", "header, licence and Windows line endings kept", split=rewritten(as_delivered, True),
               rate_of="base"),
    "crlf": Arm("cleaning", "Windows line endings kept", split=rewritten(as_delivered), rate_of="base"),
    "unwrapped": Arm("cleaning", "each paragraph on one line", split=rewritten(unwrapped), rate_of="base"),
    "voyage_scratch": Arm("pretraining", "the short text, from scratch", split=voyage, budget=0.25, points=10),
    "voyage_longer": Arm("pretraining", "the short text, from scratch, five times as many batches", split=voyage,
                         budget=1.25, points=10),
    "voyage_pretrained": Arm("pretraining", "the short text, after the book", split=voyage, budget=0.25, before=1.0,
                             rate_of="base", points=10),
    **model5_arms(),
    **(SHAPED := shape_arms()),
    **time_arms(SHAPED),
}


def settings(arm, size, seed, rate=None):
    """The GPTConfig and TrainConfig of one run. rate: the learning rate, if it is not the arm's own starting value."""
    recipe, changed = RECIPES[size], dict(arm.training)
    if "context" in changed:  # at most what this size's model can read
        changed["context"] = min(changed["context"], recipe.training.context)
    config = replace(recipe.training, **{**changed, "seed": seed})
    steps = max(2, round(arm.budget * config.steps))
    every = max(1, steps // arm.points) if arm.points else steps
    shape = GPTConfig(**{**vars(recipe.model), **arm.model})
    return shape, replace(config, steps=steps, warmup_steps=min(config.warmup_steps, steps // 2), eval_every=every,
                          learning_rate=rate or config.learning_rate)
