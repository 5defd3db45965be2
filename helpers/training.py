"""Training: one step, and the loop around it, for a laptop and a GPU (notebook 07).

python -m helpers.training --out runs/gulliver            train on Gulliver's Travels
python -m helpers.training --out runs/gulliver --resume   continue after Ctrl-C, with the losses of an uninterrupted run
torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 -m helpers.training --out runs/two   two processes (08)
"""

import math
import sys
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from helpers import corpus, muon
from helpers.generation import sample_text
from helpers.loss import IGNORED
from helpers.machine import assets, checkpoint_files, checkpoints, kernels, locks, memory, parallel, settings
from helpers.model import GPT, GPTConfig


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of a training run. The defaults are the course's full run: 500 batches of 16 x 256 tokens.

    Optimizer and schedule follow GPT-3's paper (Brown et al. 2020, appendix B): AdamW, warm-up, cosine decay, clipping.
    Raises ValueError for a value outside its field's range.
    """

    steps: int = 500  # batches, each followed by one update of the weights
    batch_size: int = 16  # B, sequences per batch, over all processes
    accumulate: int = 1  # parts of a batch that a process computes one after the other, to need less memory
    context: int = 256  # T, tokens per sequence
    learning_rate: float = 6e-4  # its highest value, reached after the warm-up
    warmup_steps: int = 50  # the learning rate rises linearly
    final_share: float = 0.1  # and then falls to this share of its highest value
    decay: str = "cosine"  # how it falls: as half a "cosine", or "linear"
    decay_share: float = 1.0  # in which last share of the steps it falls; before that it stays at its highest value
    weight_decay: float = 0.1  # for matrices, not for biases and LayerNorms; with Muon for the blocks' matrices
    embedding_decay: float = 0.0  # with Muon: the weight decay of the embeddings
    optimizer: str = "adamw"  # or "muon" for the blocks' matrices and AdamW for the rest (helpers/muon.py)
    sampling: str = "random"  # how batches are drawn: "random" windows, or "epochs", in which each window comes once
    noise: float = 0.0  # the share of the input tokens that random tokens replace; the targets stay as they are
    beta2: float = 0.95  # of AdamW: the share that its running mean of squared gradients keeps in each step
    clip_norm: float = 1.0  # the largest gradient norm; a larger gradient is scaled down. 0: it is never scaled down
    eval_every: int = 100  # steps between two measurements of the validation loss (and two checkpoints)
    eval_tokens: int = 50_000  # how many validation tokens are measured at most
    sample_every: int = 100  # steps between two samples of text
    sample_tokens: int = 40
    seed: int = 1337
    precision: str = "auto"  # of matrix products: "fp32", "bf16", "fp16", or what suits the device
    compile: bool = False  # torch.compile: faster steps, after a wait of up to a minute; needs a C++ compiler

    def __post_init__(self):
        settings.whole_numbers(self, "steps", "batch_size", "accumulate", "context")
        settings.whole_numbers(self, "eval_every", "eval_tokens", "sample_every", "sample_tokens")
        settings.whole_numbers(self, "warmup_steps", "seed", low=0)
        settings.numbers(self, "learning_rate", above=0)
        settings.numbers(self, "final_share", "decay_share", low=0, high=1)
        settings.numbers(self, "noise", "beta2", low=0, below=1)
        settings.numbers(self, "weight_decay", "embedding_decay", low=0)
        settings.numbers(self, "clip_norm", low=0, infinite=True)
        settings.choices(self, "optimizer", ("adamw", "muon"))
        settings.choices(self, "decay", ("cosine", "linear"))
        settings.choices(self, "sampling", ("random", "epochs"))
        settings.choices(self, "precision", ("auto", *kernels.DTYPES))
        settings.choices(self, "compile", (True, False))

    def learning_rate_at(self, step):
        """The learning-rate schedule: the rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        start = max(self.warmup_steps, round((1 - self.decay_share) * self.steps))  # of the decay
        progress = max(0, step - start) / max(1, self.steps - start)
        height = 1 - progress if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * (self.final_share + (1 - self.final_share) * height)


def make_optimizer(model, config):
    """AdamW in one fused kernel. Weight decay acts on matrices, not on biases and LayerNorms. Or Muon (muon.py)."""
    if config.optimizer == "muon":
        return muon.muon_and_adamw(model, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def make_scaler(device, config):
    """Scales the loss up while matrices are float16, in which small gradients would become 0; else does nothing."""
    is_half = kernels.compute_dtype(device, config.precision) == torch.float16
    return torch.amp.GradScaler(torch.device(device).type, enabled=is_half)


def train_step(model, optimizer, scaler, x, y, rate, config, ranks=parallel.Ranks()):
    """One step: accumulate the gradient, clip it, update the weights. Returns the loss before the update, in nats.

    x, y (B, T): this process's share of the batch, of which config.accumulate parts are computed one after the other.
    Targets of -100 do not count; with several ranks each of them needs as many that do.
    Raises FloatingPointError, and leaves the weights as they were, when the loss or its gradient is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss, parts = 0.0, list(zip(x.chunk(config.accumulate), y.chunk(config.accumulate)))
    for number, (inputs, targets) in enumerate(parts, start=1):
        share = (targets != IGNORED).sum() / (y != IGNORED).sum()  # of the batch's targets that are in this part
        with ranks.exchange(model, is_last=number == len(parts)):
            with kernels.autocast(x.device, config.precision):
                part_loss = torch.where(share == 0, 0, share * model(inputs, targets))  # they sum to the batch's mean
            scaler.scale(part_loss).backward()  # the scaler does nothing unless the matrices are float16
        loss += part_loss.detach()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf)
    loss, norm = torch.stack([loss, norm]).tolist()  # waits for the GPU, which has all but the update by now
    loss = ranks.total(loss) / ranks.size
    if not (math.isfinite(loss) and (math.isfinite(norm) or scaler.is_enabled())):  # a scaler skips such steps
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"the loss became {loss}, its gradient norm {norm}, at a learning rate of {rate:.2g}. "
                                 "Lower it.")
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss


def evaluate(model, ids, context, batch_size=16, precision="auto", ranks=parallel.Ranks()):
    """The mean loss in nats per token over all of ids, (N,) int64, in windows of `context` tokens laid end to end.

    With several ranks each measures its share of the windows, and all get the mean.
    """
    corpus.check_length(ids, 1)
    corpus.check_counts(context=context, batch_size=batch_size)
    device = next(model.parameters()).device
    whole = (len(ids) - 1) // context * context
    inputs, targets = (part.view(-1, context).split(batch_size) for part in (ids[:whole], ids[1 : whole + 1]))
    windows = list(zip(inputs, targets)) if whole else []
    if whole < len(ids) - 1:
        windows.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    was_training = model.training
    model.eval()
    with torch.inference_mode(), kernels.autocast(device, precision):
        own = windows[ranks.rank :: ranks.size]
        total = sum(model(x.to(device), y.to(device)).item() * x.numel() for x, y in own)
    model.train(was_training)
    return ranks.total(total) / (len(ids) - 1)


@parallel.joined()
def train(model, train_ids, validation_ids, config, out=None, resume=False, tokenizer=None, progress=True):
    """Trains a GPT in place, on the device where it is, and returns its checkpoints.History.

    train_ids, validation_ids: (N,) int64; the loss on the second is measured on the way, and nothing is learned from
    it. tokenizer: to print samples of text on the way.
    out: a folder for checkpoint.pt and history.csv, written whole at every measurement and at the end.
    resume: continue from out's checkpoint. On the same device the losses are those of an uninterrupted run; of config,
    only the number of steps and what is reported may differ. A new run sets torch's seed to config.seed.
    An interrupt (Ctrl-C, the stop button) ends the run after the current step and writes the checkpoint.
    Under torchrun every process makes the same call and computes its share of each batch; rank 0 writes and reports.
    Raises ValueError for a model, data or a checkpoint that does not fit, FileExistsError instead of overwriting a
    checkpoint and while another run trains into out, FloatingPointError when the loss is not finite, RuntimeError with
    advice when the device's memory is not enough.
    """
    ranks, out = parallel.current(), locks.results_folder(out)
    checkpoint_files.check_model(model, GPT)
    corpus.check_training_data(train_ids, validation_ids, model.config, config, ranks.size)
    if resume and out is not None:
        checkpoint_files.checkpoint_path(out)  # nothing is made where there is nothing to resume
    with locks.only_run(out if ranks.rank == 0 else None):
        optimizer, scaler = make_optimizer(model, config), make_scaler(next(model.parameters()).device, config)
        run = checkpoints.begin(model, optimizer, scaler, config, train_ids, out, resume, ranks)
        report = Report(run, validation_ids, tokenizer, progress and ranks.rank == 0, ranks)
        supervised_loop(run, train_ids, out, report, ranks)
        return run.history


def supervised_loop(run, train_ids, out, report, ranks):
    """The training loop, interrupted between steps only, and with errors that say what to do."""
    config, has_memory = run.config, True
    try:
        with kernels.matmul_precision(run.matmul), checkpoints.interrupt_between_steps() as interrupted, report.bar:
            training_loop(run, train_ids, out, report, interrupted.is_set, ranks)
    except FloatingPointError as error:
        raise FloatingPointError(run.explain_failure(error, out)) from None
    except (RuntimeError, OSError) as error:
        has_memory = not memory.is_out_of_memory(error)
        if has_memory and config.compile and kernels.is_compile_error(error):
            raise RuntimeError(kernels.compile_advice(error)) from error
        if has_memory:  # else the advice comes after this block, because the error keeps the step's tensors alive
            raise
    if not has_memory:
        device = next(run.model.parameters()).device
        raise RuntimeError(memory.advice(run.model, run.optimizer, config, device, ranks.size))


def training_loop(run, train_ids, out, report, is_interrupted, ranks):
    """The loop of notebook 07: a random batch, a step, a report, and now and then a checkpoint."""
    model, config, history = run.model, run.config, run.history
    device = next(model.parameters()).device
    replica = ranks.replicate(torch.compile(model) if config.compile else model)  # the same parameters
    model.train()
    report(len(history.train_loss))
    for step in range(len(history.train_loss), config.steps):
        x, y = corpus.draw_batch(train_ids, step, config, model.config.vocab_size, run.batches)  # (B, T) each
        x, y = ranks.share(x).to(device), ranks.share(y).to(device)  # (B, T) -> (B / processes, T)
        ranks.seed_dropout(config.seed, step)
        rate = config.learning_rate_at(step)
        history.train_loss.append(train_step(replica, run.optimizer, run.scaler, x, y, rate, config, ranks))
        history.learning_rate.append(rate)
        report(step + 1)
        if ranks.total(is_interrupted()):  # in the same step in all processes
            break
        if out and ranks.rank == 0 and (step + 1) % config.eval_every == 0 and step + 1 < config.steps:
            run.save(out)
    history.interrupted = len(history.train_loss) < config.steps
    if out and ranks.rank == 0:
        run.save(out)
    if history.interrupted and ranks.rank == 0:
        saved = f"Saved in {out}; continue with resume=True (on the command line: --resume)."
        tqdm.write(f"Stopped after {len(history.train_loss)} of {config.steps} steps. "
                   f"{saved if out else 'Nothing was saved: no folder was given.'}")


class Report:
    """What a run shows on its way: the validation loss, samples of text, a progress bar."""

    def __init__(self, run, validation_ids, tokenizer, progress, ranks):
        if isinstance(tokenizer, str):
            raise ValueError(f"tokenizer={tokenizer!r}: expected a Tokenizer, load_tokenizer({tokenizer!r}).")
        config, self.run, self.tokenizer, self.progress, self.ranks = run.config, run, tokenizer, progress, ranks
        if progress and config.warmup_steps >= config.steps:
            tqdm.write(f"The warm-up of {config.warmup_steps} steps is no shorter than the run: the learning rate ends "
                       f"at {config.learning_rate_at(config.steps - 1):.2g}.")
        self.measured = validation_ids[: run.config.eval_tokens + 1]
        self.bar = tqdm(total=run.config.steps, initial=len(run.history.train_loss), desc="training",
                        disable=not progress or None, mininterval=0.5)

    def __call__(self, step):
        """Measures and shows what is due after so many steps."""
        config, history, model = self.run.config, self.run.history, self.run.model

        def is_due(every, done):
            return (step % every == 0 or step == config.steps) and step not in done

        if is_due(config.eval_every, history.validation_step):
            rows = config.batch_size // (config.accumulate * self.ranks.size)  # as many at once as in training
            loss = evaluate(model, self.measured, config.context, rows, config.precision, self.ranks)
            history.validation_loss.append(loss)
            history.validation_step.append(step)
        if self.ranks.rank == 0 and self.tokenizer and is_due(config.sample_every, dict(history.samples)):
            text = sample_text(model, self.tokenizer, config.sample_tokens, seed=config.seed,
                               precision=config.precision)
            history.samples.append((step, text))
            if self.progress:
                tqdm.write(assets.printable(f"after {step} steps: {text!r}"))
        if step > self.bar.n:
            losses = {"train": f"{history.train_loss[-1]:.3f}", "validation": f"{history.validation_loss[-1]:.3f}"}
            self.bar.set_postfix(losses, refresh=False)
            self.bar.update()


def load_checkpoint(out):
    """A run's checkpoint as a dictionary, on the CPU. Raises what checkpoint_files.load_checkpoint() raises."""
    return checkpoint_files.load_checkpoint(out, GPT, model_config=GPTConfig, train_config=TrainConfig)


def load_trained(out):
    """The GPT of a run's checkpoint, in evaluation mode."""
    state = load_checkpoint(out)
    model = GPT(GPTConfig(**state["model_config"]))
    model.load_state_dict(state["model"])
    return model.eval()


if __name__ == "__main__":
    from helpers.course import command_line

    sys.exit(command_line.main())
