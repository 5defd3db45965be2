"""Train the course's GPT-2 on the library and save it in Hugging Face's format in data/gpt2-course.

    COURSE_ASSETS=folder python -m data.recipes.make_gpt2_course

It has GPT-2's architecture at a smaller size. library.py says which books it reads and which are held out. Training
keeps a checkpoint in runs/gpt2_course, every 100 steps: after Ctrl-C the same command continues. The learning rate is
constant at first and falls to zero in the last part of the run, so a longer run can continue from an earlier one:
--steps changes the number of steps at any time before the fall begins. In a part of the run, some passages are written
again and again, so that the model learns to continue a repetition (REPEATED).

On 2 CPU cores it takes several hours. The validation author has decided what had to be decided, except for the
repetitions: they were added when the heads showed that the bar of an induction head would be missed. The test authors
are measured by measure_gpt2_course.py, once, at the end.
"""

import argparse
import hashlib
import json
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from data.recipes import library
from helpers import corpus, pretrained, training
from helpers.machine import assets, checkpoints, kernels, parallel, runtime, timing
from helpers.model import GPT, GPTConfig

MODEL = GPTConfig(vocab_size=8192, n_positions=256, n_embd=256, n_layer=6, n_head=8)
TRAINING = training.TrainConfig(
    steps=6000,
    batch_size=16,
    context=256,
    optimizer="muon",
    learning_rate=0.01,
    warmup_steps=50,
    decay="linear",
    decay_share=0.69,
    final_share=0.0,
    eval_every=100,
    eval_tokens=60_000,
    sample_every=500,
    sample_tokens=60,
    seed=2026,
)
# From which step on how much of the text repeats itself (with_repetitions). Without it, no induction head had formed
# after 3,100 steps (seen once; there was no second run). With a fifth, the loss on other text rises, as the log shows.
REPEATED = ((0, 0.0), (3300, 0.2), (3700, 0.05))
PERIODS = (16, 96)  # the shortest and the longest passage that is repeated, in tokens
RUN = assets.ROOT / "runs" / "gpt2_course"
MODEL_FOLDER = assets.DATA / "gpt2-course"


def library_ids(split, tokenizer):
    """The ids of one split, (N,) int64, kept in runs/ because encoding 180 MB of text takes a minute."""
    books, state = library.split(split), hashlib.sha256()
    for file in (assets.DATA / "library.tiktoken", Path(library.__file__)):
        state.update(assets.sha256(file).encode())
    for book in books:
        state.update(book.text.encode())
    path = RUN / f"{split}_{state.hexdigest()[:12]}.npy"  # a change of the tokenizer, of a text or of its layout: anew
    if not path.is_file():
        texts = [book.training_text() if split == "train" else book.text for book in books]
        ids = library.encoded(texts, tokenizer).numpy().astype(np.uint16)
        assets.write_atomically(path, lambda part: np.save(part.open("wb"), ids))
    return torch.from_numpy(np.load(path).astype(np.int64))


def spread(ids, tokens, pieces=8):
    """A sample of ids of about so many tokens: pieces that are spread evenly over all of ids."""
    length = tokens // pieces
    starts = np.linspace(0, len(ids) - length, pieces).astype(int)
    return torch.cat([ids[start : start + length] for start in starts])


def with_repetitions(ids, share, length=TRAINING.context, periods=PERIODS, seed=TRAINING.seed):
    """The same text, in which a share of the pieces repeats itself: ids (N,) -> (N - N % length,).

    ids are cut into pieces of so many tokens. In a share of them, chosen at random, a passage from the beginning of the
    piece is written again and again until the piece is full. Each has its own length, so that nothing but finding
    the earlier passage helps to predict the later ones.
    """
    generator = torch.Generator().manual_seed(seed)
    pieces = ids[: len(ids) - len(ids) % length].view(-1, length).clone()  # (pieces, length)
    chosen = torch.rand(len(pieces), generator=generator) < share
    period = torch.randint(periods[0], periods[1] + 1, (int(chosen.sum()), 1), generator=generator)
    pieces[chosen] = pieces[chosen].gather(1, torch.arange(length) % period)
    return pieces.flatten()


class Timed(training.Report):
    """The Report of a run that also keeps the time: log.json has one entry per measurement of the validation loss, with
    the seconds of the steps before it, in this process."""

    def __init__(self, run, validation_ids, tokenizer):
        super().__init__(run, validation_ids, tokenizer, True, parallel.current())
        self.path = RUN / "log.json"
        done = len(run.history.train_loss)
        log = json.loads(self.path.read_text("utf-8")) if self.path.is_file() and done else []
        self.log = [entry for entry in log if entry["step"] <= done]
        self.start = time.perf_counter()

    def __call__(self, step):
        history, since = self.run.history, self.log[-1]["step"] if self.log else -1
        elapsed = time.perf_counter() - self.start
        super().__call__(step)
        if step in history.validation_step and step > since:
            recent = history.train_loss[max(since, 0) : step]
            self.log.append({"step": step, "seconds": round(elapsed, 1), "rate": history.learning_rate[-1:],
                             "train_loss": round(sum(recent) / len(recent), 4) if recent else None,
                             "validation_loss": round(history.validation_loss[-1], 4)})
            timing.write_json(self.path, self.log)
            self.start = time.perf_counter()


def train(steps, stop_after):
    """Trains the model, or continues its training, up to stop_after of so many steps. Returns the run, its log and the
    sizes of the two splits in tokens."""
    device, tokenizer = runtime.best_device(), corpus.load_tokenizer("library")
    train_ids, validation_ids = (library_ids(name, tokenizer) for name in ("train", "validation"))
    config = replace(TRAINING, steps=steps)
    runtime.seed_everything(config.seed)
    model = GPT(MODEL).to(device)
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler(device, config)
    resume = (RUN / checkpoints.CHECKPOINT).is_file()
    run = checkpoints.begin(model, optimizer, scaler, config, train_ids, RUN, resume, parallel.current())
    report = Timed(run, spread(validation_ids, config.eval_tokens), tokenizer)
    with kernels.matmul_precision(run.matmul), checkpoints.interrupt_between_steps() as interrupted, report.bar:
        for (_, share), (end, _) in pairwise([*REPEATED, (stop_after, None)]):
            end = min(end, stop_after)
            if len(run.history.train_loss) < end and not interrupted.is_set():
                ids = with_repetitions(train_ids, share) if share else train_ids
                training.training_loop(run, ids, RUN, report, lambda end=end: (
                    interrupted.is_set() or len(run.history.train_loss) >= end), report.ranks)
    return run, report.log, {"training": len(train_ids), "validation": len(validation_ids)}


def save(model, folder):
    """Saves the model in Hugging Face's format: stored in 16 bits, to be used in 32."""
    pretrained.to_huggingface(model.cpu().eval()).half().save_pretrained(folder)
    config_file = folder / "config.json"
    settings = json.loads(config_file.read_text("utf-8"))
    settings["dtype"] = "float32"
    config_file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=TRAINING.steps, help="of the whole run (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, help="pause after so many steps, with the same learning rates")
    options = parser.parse_args(arguments)
    run, log, tokens = train(options.steps, options.stop_after or options.steps)
    if run.history.interrupted:
        return
    MODEL_FOLDER.mkdir(exist_ok=True)
    save(run.model, MODEL_FOLDER)
    timing.write_json(MODEL_FOLDER / "training.json", {
        **timing.origin(next(run.model.parameters()).device),
        "training": asdict(run.config), "tokens": tokens,
        "repeated": REPEATED,
        "read": run.config.steps * run.config.batch_size * run.config.context,
        "coverage": round(corpus.expected_coverage(tokens["training"], run.config.context,
                                                   run.config.steps * run.config.batch_size), 4),
        "hours": round(sum(entry["seconds"] for entry in log) / 3600, 2), "log": log,
    })


if __name__ == "__main__":
    main()
