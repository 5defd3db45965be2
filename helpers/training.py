"""One training loop for a laptop and a GPU, with checkpoints (notebook 07).

python -m helpers.training --out runs/gulliver            train on Gulliver's Travels
python -m helpers.training --out runs/gulliver --resume   go on after Ctrl-C, with the losses of an uninterrupted run
torchrun --standalone --nproc-per-node 2 -m helpers.training --out runs/gulliver    in two processes (notebook 08)
"""

import argparse
import contextlib
import csv
import hashlib
import math
import os
import signal
import sys
import threading
import zipfile
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from helpers import assets, corpus, parallel, runtime
from helpers.generation import generate
from helpers.model import GPT, GPTConfig

CHECKPOINT, HISTORY = "checkpoint.pt", "history.csv"
FORMAT = 1  # of a checkpoint: raise it when an older course could not read a new one


@dataclass(frozen=True)
class TrainConfig:
    """What a training run does. The defaults are the course's full run: 500 batches of 16 x 256 tokens.

    Optimizer and schedule follow GPT-3's paper (Brown et al. 2020, appendix B): AdamW, warm-up, cosine decay, clipping.
    """

    steps: int = 500  # batches, each followed by one update of the weights
    batch_size: int = 16  # B, sequences per batch, over all processes
    accumulate: int = 1  # parts of a batch that a process computes one after the other, to need less memory
    context: int = 256  # T, tokens per sequence
    learning_rate: float = 6e-4  # its highest value, reached after the warm-up
    warmup_steps: int = 50  # the learning rate rises linearly
    final_share: float = 0.1  # and then falls, as half a cosine, to this share of its highest value
    weight_decay: float = 0.1  # for matrices only, not for biases and LayerNorms
    clip_norm: float = 1.0  # the gradient is never longer than this
    eval_every: int = 100  # steps between two measurements of the test loss (and two checkpoints)
    eval_tokens: int = 50_000  # at most so many test tokens are measured
    sample_every: int = 100  # steps between two samples of text
    sample_tokens: int = 40
    seed: int = 1337
    precision: str = "auto"  # of matrix products: "fp32", "bf16", "fp16", or what suits the device (runtime.py)
    compile: bool = False  # torch.compile: faster steps, after a wait of up to a minute; needs a C++ compiler

    def __post_init__(self):
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"TrainConfig(seed={self.seed!r}): a whole number from 0 to 2**63 - 1 was expected.")
        reported = ("eval_every", "eval_tokens", "sample_every", "sample_tokens")
        for name in ("steps", "batch_size", "accumulate", "context", *reported):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"TrainConfig({name}={value!r}): a whole number of at least 1 was expected.")
        if self.precision not in ("auto", *runtime.DTYPES):
            allowed = ", ".join(runtime.DTYPES)
            raise ValueError(f"TrainConfig(precision={self.precision!r}): one of auto, {allowed} was expected.")
        if not self.learning_rate > 0:
            raise ValueError(
                f"TrainConfig(learning_rate={self.learning_rate!r}): a number above 0 was expected, such as 6e-4."
            )

    def learning_rate_at(self, step):
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        share = self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * share


@dataclass(frozen=True)
class Recipe:
    """All numbers of one run size: which tokenizer, which model, how it is trained."""

    tokenizer: str
    model: GPTConfig
    training: TrainConfig


def recipe_for(size):
    """The Recipe of a run size ("smoke", "laptop" or "full"). The sizes differ in numbers only; the code is the same.

    Below full size the course's own tokenizer is used: with GPT-2's 50,257 tokens nearly all parameters and
    most of the time of a small model would go into its embedding.
    """
    recipes = {
        "smoke": Recipe(
            "course",
            GPTConfig(vocab_size=4096, n_positions=64, n_embd=64, n_layer=2, n_head=2),
            TrainConfig(
                steps=40, batch_size=8, context=64, learning_rate=4e-3, warmup_steps=5, eval_every=20, eval_tokens=4096,
                sample_every=40, sample_tokens=20,
            ),
        ),
        "laptop": Recipe(
            "course",
            GPTConfig(vocab_size=4096, n_positions=128, n_embd=128, n_layer=4, n_head=4),
            TrainConfig(context=128, learning_rate=3e-3),
        ),
        "full": Recipe("gpt2", GPTConfig(), TrainConfig()),
    }
    if size not in recipes:
        raise ValueError(f"recipe_for({size!r}): one of {', '.join(recipes)} was expected.")
    return recipes[size]


@dataclass
class History:
    """What a run has measured. Losses are in nats per token; test_loss[i] was measured after test_step[i] steps."""

    train_loss: list = field(default_factory=list)  # one per step
    learning_rate: list = field(default_factory=list)  # one per step
    test_step: list = field(default_factory=list)
    test_loss: list = field(default_factory=list)
    samples: list = field(default_factory=list)  # (step, text)
    interrupted: bool = False

    def as_arrays(self):
        """The losses and learning rates as numpy arrays: {name: array}."""
        names = ("train_loss", "learning_rate", "test_step", "test_loss")
        return {name: np.array(getattr(self, name)) for name in names}

    def save_csv(self, path):
        """Writes one line per step. Line n is the state after n steps, so line 0 has a test loss only."""
        test = dict(zip(self.test_step, self.test_loss))

        def write(temporary):
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                rows.writerow(["step", "train_loss", "test_loss", "learning_rate"])
                rows.writerow([0, "", test.get(0, ""), ""])
                for step, (loss, rate) in enumerate(zip(self.train_loss, self.learning_rate), start=1):
                    rows.writerow([step, loss, test.get(step, ""), rate])

        assets.write_atomically(path, write)


def make_optimizer(model, config):
    """AdamW in one fused kernel; weight decay pulls on matrices, not on biases and LayerNorms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def make_scaler(device, config):
    """Scales the loss up while the matrices are float16, in which small gradients would become 0; else does nothing."""
    half = runtime.compute_dtype(device, config.precision) == torch.float16
    return torch.amp.GradScaler(torch.device(device).type, enabled=half)


def evaluate(model, ids, context, batch_size=16, precision="auto", ranks=parallel.Ranks()):
    """The mean loss in nats per token over all of ids, (N,) int64, in windows of `context` tokens laid end to end.

    With several ranks each measures its share of the windows, and all get the mean.
    """
    corpus.check_length(ids, 1)
    device = next(model.parameters()).device
    whole = (len(ids) - 1) // context * context
    inputs, targets = (part.view(-1, context).split(batch_size) for part in (ids[:whole], ids[1 : whole + 1]))
    windows = list(zip(inputs, targets)) if whole else []
    if whole < len(ids) - 1:
        windows.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    was_training = model.training
    model.eval()
    with torch.inference_mode(), runtime.autocast(device, precision):
        own = windows[ranks.rank :: ranks.size]
        total = sum(model(x.to(device), y.to(device)).item() * x.numel() for x, y in own)
    model.train(was_training)
    return ranks.total(total) / (len(ids) - 1)


@parallel.joined()
def train(model, train_ids, test_ids, config, out=None, resume=False, tokenizer=None, progress=True):
    """Trains a GPT in place, on the device where it is, and returns its History.

    train_ids, test_ids: (N,) int64. tokenizer: to show samples of text on the way.
    out: a folder for checkpoint.pt and history.csv, written whole at every test and at the end.
    resume: go on from out's checkpoint. With the same config the losses are those of an uninterrupted run; only steps
    and what is reported may differ. A new run sets torch's seed to config.seed.
    Interrupting (Ctrl-C, the stop button) ends the run after the current step and writes the checkpoint; a second
    interrupt stops at once.
    Under torchrun every process calls it alike and computes its share of each batch; rank 0 writes and reports.
    Raises ValueError for data or a checkpoint that does not fit, FileExistsError instead of overwriting a checkpoint,
    FloatingPointError when the loss is not finite, RuntimeError with advice when the device's memory is not enough.
    """
    ranks = parallel.current()
    _check_data(model, train_ids, test_ids, config, ranks)
    device = next(model.parameters()).device
    out = None if out is None else Path(out)
    history, progress = History(), progress and ranks.rank == 0
    optimizer = make_optimizer(model, config)
    scaler = make_scaler(device, config)
    batches = torch.Generator().manual_seed(config.seed)
    data = hashlib.sha256(train_ids.numpy().tobytes()).hexdigest()
    run = _Run(model, optimizer, scaler, batches, history, config, data, ranks.agree(runtime.fastest_matmul(device)))
    if resume:
        run.load(out, device)
    elif out is not None and (out / CHECKPOINT).exists():
        raise FileExistsError(f"{out / CHECKPOINT} exists already. Resume it, choose another folder, or delete it.")
    else:
        runtime.seed_everything(config.seed)
        if out is not None and ranks.rank == 0:
            history.save_csv(out / HISTORY)  # a folder that cannot be written to is noticed now, not an hour later

    measured = test_ids[: config.eval_tokens + 1]

    def due(step, every, done):
        return (step % every == 0 or step == config.steps) and step not in done

    def report(step):
        if due(step, config.eval_every, history.test_step):
            loss = evaluate(model, measured, config.context, config.batch_size, config.precision, ranks)
            history.test_loss.append(loss)
            history.test_step.append(step)
        if ranks.rank == 0 and tokenizer is not None and due(step, config.sample_every, dict(history.samples)):
            text = sample_text(model, tokenizer, config.sample_tokens, seed=config.seed, precision=config.precision)
            history.samples.append((step, text))
            if progress:
                tqdm.write(assets.printable(f"after {step} steps: {history.samples[-1][1]!r}"))

    if out is not None and "COLAB_RELEASE_TAG" in os.environ and "drive" not in out.resolve().parts:
        tqdm.write(f"Colab deletes {out} with the session. To keep it: from google.colab import drive; "
                   'drive.mount("/content/drive"), and out="/content/drive/MyDrive/runs".')
    model.train()
    too_large = False
    trained = ranks.replicate(torch.compile(model) if config.compile else model)  # the same parameters
    first = len(history.train_loss)
    bar = tqdm(total=config.steps, initial=first, desc="training", disable=not progress or None, mininterval=0.5)
    with bar, runtime.matmul_precision(run.matmul), _finish_step_when_interrupted() as interrupted:
        try:
            report(first)
            for step in range(first, config.steps):
                rate = config.learning_rate_at(step)
                batch = corpus.random_batch(train_ids, config.batch_size, config.context, batches)
                x, y = (ranks.share(rows).to(device) for rows in batch)  # (B, T) -> (B / processes, T)
                if ranks.rank:  # other dropout than rank 0's, whose random numbers the checkpoint holds
                    torch.manual_seed(hash((config.seed, step, ranks.rank)) % 2**63)
                history.train_loss.append(update(trained, optimizer, scaler, x, y, rate, config, ranks))
                history.learning_rate.append(rate)
                report(step + 1)
                bar.update()
                losses = {"train": f"{history.train_loss[-1]:.3f}", "test": f"{history.test_loss[-1]:.3f}"}
                bar.set_postfix(losses, refresh=False)
                if ranks.total(interrupted.is_set()) or step + 1 == config.steps:  # in the same step everywhere
                    break
                if out is not None and ranks.rank == 0 and (step + 1) % config.eval_every == 0:
                    run.save(out)
        except FloatingPointError as error:
            done = len(history.train_loss)
            last = max(first, done // config.eval_every * config.eval_every)
            kept = f"{out / CHECKPOINT} still holds the weights after step {last}." if out and last else ""
            raise FloatingPointError(f"Step {done + 1} of {config.steps}: {error} {kept}") from None
        except RuntimeError as error:
            if config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                said = str(error).strip().splitlines()[0]
                raise RuntimeError(
                    "torch.compile did not succeed here; it needs a C++ compiler (on Linux: install g++), on a GPU "
                    f"also Triton. Install it, or train with compile=False. It said: {said}"
                ) from error
            if not _out_of_memory(error):
                raise
            too_large = True  # more is said after this block: until its end the error keeps the step's tensors alive
    if too_large:
        raise RuntimeError(_memory_advice(model, optimizer, config, device, ranks.size))
    history.interrupted = len(history.train_loss) < config.steps
    if out is not None and ranks.rank == 0:
        run.save(out)
    if history.interrupted and ranks.rank == 0:
        advice = f"Saved in {out}; go on with resume=True (on the command line: --resume)."
        advice = advice if out else "Nothing was saved: no folder was given."
        tqdm.write(f"Stopped after {len(history.train_loss)} of {config.steps} steps. {advice}")
    return history


def update(model, optimizer, scaler, x, y, rate, config, ranks=parallel.Ranks()):
    """One step: loss, gradient, clipping, update. Returns the loss before the update, in nats per token.

    x, y: this process's share of the batch, of which config.accumulate parts are computed one after the other.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss, parts = 0.0, list(zip(x.chunk(config.accumulate), y.chunk(config.accumulate)))
    for number, (inputs, targets) in enumerate(parts, start=1):
        add_up = ranks.size > 1 and number < len(parts)  # the sum over the parts is exchanged once, after the last
        with model.no_sync() if add_up else contextlib.nullcontext():
            with runtime.autocast(x.device, config.precision):
                part = model(inputs, targets) / len(parts)  # equal parts: the mean of their means is the batch's mean
            scaler.scale(part).backward()  # the scaler does nothing unless the matrices are float16
        loss += part.detach()
    scaler.unscale_(optimizer)
    length = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    value, length = torch.stack([loss, length]).tolist()  # waits for a GPU, which has all but the update by now
    value = ranks.total(value) / ranks.size
    if not (math.isfinite(value) and (math.isfinite(length) or scaler.is_enabled())):  # a scaler leaves such steps out
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(
            f"the loss became {value}, the length of its gradient {length}, at a learning rate of {rate:.2g}. Lower it."
        )
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return value


def _out_of_memory(error):
    return any(said in str(error) for said in ("out of memory", "not enough memory", "allocate memory"))


def _memory_advice(model, optimizer, config, device, processes):
    """What to say when a step did not fit into the memory: which part of a batch does is found by trying."""
    rows = config.batch_size // processes

    def fits(rows):
        try:
            adam = [torch.empty_like(p) for p in model.parameters() for _ in "mv" if not optimizer.state]
            ids = torch.zeros(rows, config.context, dtype=torch.int64, device=device)
            with runtime.autocast(device, config.precision):
                loss = model(ids, ids)
            loss.backward()
            del adam  # it stood for AdamW's memory, which comes with the first step
            return True
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            return False
        finally:
            optimizer.zero_grad(set_to_none=True)

    optimizer.zero_grad(set_to_none=True)
    smaller = [parts for parts in range(config.accumulate + 1, rows + 1) if rows % parts == 0]
    # Several processes wait for each other in a backward pass, so one alone cannot try.
    parts = next((n for n in smaller if fits(rows // n)), None) if processes == 1 else min(smaller, default=None)
    advice = "Use a shorter context or a smaller model."
    if parts:
        tried = " fits, as was just tried" if processes == 1 else " may fit"
        advice = (f"{rows // parts} x {config.context}{tried}: use accumulate={parts}, which computes the same "
                  f"batches in {parts} parts, or batch_size={rows // parts * processes}.")
    free = ""
    if device.type == "cuda":
        free = " ({:.1f} of {:.1f} GiB are free)".format(*(n / 2**30 for n in torch.cuda.mem_get_info(device)))
    return (f"{runtime.device_name(device)}{free} does not have enough memory for {rows // config.accumulate} x "
            f"{config.context} tokens at once. {advice} A checkpoint written earlier is whole.")


def _check_data(model, train_ids, test_ids, config, ranks):
    parts = ranks.size * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be cut into {ranks.size} (processes) x {config.accumulate} "
            f"(accumulate) equal parts. Use a multiple of {parts}."
        )
    for name, ids, context in (("train_ids", train_ids, config.context), ("test_ids", test_ids, 1)):
        if ids.ndim != 1 or ids.dtype != torch.int64 or ids.device.type != "cpu":
            raise ValueError(
                f"{name}: {tuple(ids.shape)}, {ids.dtype}, on {ids.device}; "
                "one sequence (N,) of torch.int64 on the CPU was expected."
            )
        corpus.check_length(ids, context)
        if ids.min() < 0 or ids.max() >= model.config.vocab_size:
            raise ValueError(
                f"{name} run from {ids.min()} to {ids.max()}; the model knows 0 to {model.config.vocab_size - 1}. "
                "Give GPTConfig the tokenizer's vocab_size."
            )
    if config.context > model.config.n_positions:
        raise ValueError(f"context={config.context}: the model reads at most {model.config.n_positions} (n_positions).")


def sample_text(model, tokenizer, tokens, prompt="\n", seed=0, precision="auto", **sampling):
    """The prompt and what the model makes of it, as text. sampling: temperature, top_k, top_p for generate()."""
    device = next(model.parameters()).device
    ids = tokenizer.encode(prompt)[None].to(device)  # (T,) -> (1, T)
    with runtime.autocast(device, precision):
        ids = generate(model, ids, tokens, generator=torch.Generator().manual_seed(seed), **sampling)
    return tokenizer.decode(ids[0])


@contextlib.contextmanager
def _finish_step_when_interrupted():
    """Yields an event that Ctrl-C sets, so that no update of the weights is left half done."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield interrupted
        return

    def remember(signum, frame):
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class _Run:
    """Everything that a checkpoint holds."""

    model: GPT
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    batches: torch.Generator
    history: History
    config: TrainConfig
    data: str  # sha256 of the training tokens
    matmul: str | None  # the setting of float32 matrix products

    def save(self, out):
        for left in Path(out).glob(f".{CHECKPOINT}.*.part"):  # by a process that was killed while it wrote
            left.unlink()
        state = {
            "format": FORMAT,
            "model_config": asdict(self.model.config),
            "train_config": asdict(self.config),
            "data": self.data,
            "matmul": self.matmul,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batches": self.batches.get_state(),
            "dropout": torch.get_rng_state(),
            "dropout_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": asdict(self.history),
        }
        assets.write_atomically(Path(out) / CHECKPOINT, lambda path: torch.save(state, path))
        self.history.save_csv(Path(out) / HISTORY)

    def load(self, out, device):
        if out is None:
            raise ValueError("resume=True needs out=, the folder of the run that goes on.")
        state = load_checkpoint(out)
        changeable = ("steps", "accumulate", "eval_every", "eval_tokens", "sample_every", "sample_tokens")
        then, now = TrainConfig(**state["train_config"]), self.config
        then = replace(then, **{name: getattr(now, name) for name in changeable})
        for before, given in ((GPTConfig(**state["model_config"]), self.model.config), (then, now)):
            differing = [f.name for f in fields(given) if getattr(before, f.name) != getattr(given, f.name)]
            if differing:
                was, is_now = ({name: getattr(c, name) for name in differing} for c in (before, given))
                raise ValueError(f"{out / CHECKPOINT} was made with {was}, this run has {is_now}. Use the same.")
        if state["data"] != self.data:
            raise ValueError(f"{out / CHECKPOINT} was trained on another text, split or tokenizer. Use the same.")
        if len(state["history"]["train_loss"]) > now.steps:
            done = len(state["history"]["train_loss"])
            raise ValueError(f"{out / CHECKPOINT} has {done} steps already; steps={now.steps} was asked for.")
        if device.type == "cpu":
            self.matmul = state.get("matmul") or "highest"  # another kernel would round differently
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the run did not compute in float16 so far
            self.scaler.load_state_dict(state["scaler"])
        self.batches.set_state(state["batches"])
        torch.set_rng_state(state["dropout"])
        if device.type == "cuda" and len(state["dropout_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["dropout_cuda"])
        for name, value in state["history"].items():
            setattr(self.history, name, value)


def load_checkpoint(out):
    """A run's checkpoint as a dictionary, on the CPU. Raises FileNotFoundError, or ValueError for a damaged file or one
    that a newer version of the course has written."""
    path = Path(out) / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path} to resume from. Train without resume first.")
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                raise ValueError("a checksum is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"model_config", "train_config", "model", "history"} <= set(state):
            raise ValueError("it is not a checkpoint of this course")
    except Exception as error:  # zipfile and torch.load raise many kinds for a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}). Delete it and train again.") from error
    unknown = [name for kind, settings in ((GPTConfig, state["model_config"]), (TrainConfig, state["train_config"]))
               for name in settings if name not in {field.name for field in fields(kind)}]
    if state.get("format", 1) > FORMAT or unknown:
        found = f"format {state.get('format', 1)}" + ", with " * bool(unknown) + ", ".join(unknown)
        raise ValueError(f"{path} was written by a newer version of this course ({found}; this one reads format "
                         f"{FORMAT}). Fetch the newer version: git pull.")
    return state


def load_trained(out):
    """The GPT of a run's checkpoint, in evaluation mode."""
    state = load_checkpoint(out)
    model = GPT(GPTConfig(**state["model_config"]))
    model.load_state_dict(state["model"])
    return model.eval()


def main(arguments=None):
    """The command line. Returns the exit status: 0, 1 after an error, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.training",
        description="Trains a GPT on Gulliver's Travels or on a text of yours. Ctrl-C saves; --resume goes on.",
    )
    add = parser.add_argument
    add("--out", default="runs/gulliver", metavar="DIR", help="for checkpoint and history (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the checkpoint in DIR, with its size, seed and steps")
    add("--size", choices=runtime.RUN_SIZES, help="smoke: seconds; laptop: minutes; full: GPT-2 small, for a GPU")
    add("--steps", type=int, help="batches to train on (default: the size's)")
    add("--seed", type=int, help="seed of the weights and of the batches (default: 1337)")
    add("--accumulate", type=int, metavar="PARTS", help="compute each batch in so many parts, to need less memory")
    add("--precision", choices=("auto", *runtime.DTYPES), help="of matrix products (default: auto)")
    add("--compile", action="store_const", const=True, help="use torch.compile: a wait, then often faster steps")
    add("--text", metavar="FILE", help="a text file of your own instead of Gulliver's Travels")
    given = parser.parse_args(arguments)
    if not given.out:
        parser.error("--out needs the name of a folder")
    own = [name for name in ("size", "seed", "precision", "compile") if getattr(given, name) is not None]
    if given.resume and own:
        parser.error(f"--resume goes on with the settings of the run itself: leave out --{' and --'.join(own)}")
    settings = {name: getattr(given, name) for name in ("steps", "seed", "accumulate", "precision", "compile")}
    chosen = {name: value for name, value in settings.items() if value is not None}

    try:
        with parallel.joined() as ranks:
            if given.resume:
                saved = load_checkpoint(given.out)
                shape, config = GPTConfig(**saved["model_config"]), TrainConfig(**saved["train_config"])
                tokenizer = corpus.tokenizer_for(shape.vocab_size)
            else:
                recipe = recipe_for(given.size or runtime.run_size())
                shape, config, tokenizer = recipe.model, recipe.training, corpus.load_tokenizer(recipe.tokenizer)
            config = replace(config, **chosen)
            text = corpus.load_text(given.text, tokenizer) if given.text else corpus.load_gulliver(tokenizer)
            train_ids, test_ids = text.split()
            runtime.seed_everything(config.seed)
            model = GPT(replace(shape, vocab_size=tokenizer.vocab_size)).to(runtime.best_device())
            size = sum(parameter.numel() for parameter in model.parameters())
            if ranks.rank == 0:
                tokens = f"{len(train_ids):,} training and {len(test_ids):,} test tokens"
                print(assets.printable(f"{text.title}: {tokens}; {size:,} parameters"))
            history = train(model, train_ids, test_ids, config, given.out, given.resume, tokenizer)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped at once; a checkpoint written earlier in {given.out} is whole", file=sys.stderr)
        return 130
    step, loss = history.test_step[-1], history.test_loss[-1]
    bits = text.bits_per_byte(loss, test_ids)
    if ranks.rank == 0:
        found = f"test loss after {step} steps: {loss:.3f} nats per token, {bits:.3f} bits per byte"
        print(assets.printable(f"{found}; see {given.out}"))
    return 130 if history.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
