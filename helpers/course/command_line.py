"""`python -m helpers.training`: training without a notebook."""

import argparse
import sys
from dataclasses import replace

from helpers import corpus
from helpers.course.recipes import recipe_for
from helpers.machine import assets, kernels, parallel, runtime
from helpers.model import GPT, GPTConfig
from helpers.training import TrainConfig, evaluate, load_checkpoint, train

FIXED_AT_START = ("size", "seed", "precision", "compile")  # a resumed run keeps its own
SETTINGS = ("steps", "seed", "accumulate", "precision", "compile")  # fields of TrainConfig


def parse(arguments):
    """The options of the command line. Ends the program with a message where they contradict each other."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.training",
        description="Trains a GPT on Gulliver's Travels or on your own text. Ctrl-C saves; --resume continues.",
    )
    add = parser.add_argument
    add("--out", default="runs/gulliver", metavar="DIR", help="for checkpoint and history (default: %(default)s)")
    add("--resume", action="store_true", help="continue from the checkpoint in DIR, with its size, seed and steps")
    add("--size", choices=runtime.RUN_SIZES, help="smoke: seconds; laptop: minutes; full: GPT-2 small, for a GPU")
    add("--steps", type=int, help="batches to train on (default: the size's)")
    add("--seed", type=int, help="seed of the weights and of the batches (default: 1337)")
    add("--accumulate", type=int, metavar="PARTS", help="compute each batch in so many parts, to need less memory")
    add("--precision", choices=("auto", *kernels.DTYPES), help="of matrix products (default: auto)")
    add("--compile", action="store_const", const=True, help="use torch.compile: a wait, then often faster steps")
    add("--text", metavar="FILE", help="your own text file instead of Gulliver's Travels")
    options = parser.parse_args(arguments)
    if not options.out:
        parser.error("--out needs the name of a folder")
    fixed = [name for name in FIXED_AT_START if getattr(options, name) is not None]
    if options.resume and fixed:
        parser.error(f"--resume continues with the settings of the run itself: leave out --{' and --'.join(fixed)}")
    return options


def main(arguments=None):
    """The command line. Returns the exit status: 0, 1 after an error, or 130 after Ctrl-C."""
    options = parse(arguments)
    runtime.use_allowed_threads()
    try:
        with parallel.joined() as ranks:
            history, result = train_as_asked(options, ranks)
    except (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped at once; any checkpoint written earlier in {options.out} is complete", file=sys.stderr)
        return 130
    if ranks.rank == 0:
        print(assets.printable(result))
    return 130 if history.interrupted else 0


def train_as_asked(options, ranks):
    """Trains as the options say. Returns the History and two lines about the result."""
    if options.resume:
        saved = load_checkpoint(options.out)
        shape, config = GPTConfig(**saved["model_config"]), TrainConfig(**saved["train_config"])
        tokenizer = corpus.tokenizer_for(shape.vocab_size)
    else:
        recipe = recipe_for(options.size or runtime.run_size())
        shape, config, tokenizer = recipe.model, recipe.training, corpus.load_tokenizer(recipe.tokenizer)
    chosen = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    config = replace(config, **chosen)
    text = corpus.load_text(options.text, tokenizer) if options.text else corpus.load_gulliver(tokenizer)
    train_ids, test_ids = text.split()
    train_ids, validation_ids = corpus.split_validation(train_ids)
    runtime.seed_everything(config.seed)
    model = GPT(replace(shape, vocab_size=tokenizer.vocab_size)).to(runtime.best_device())
    if ranks.rank == 0:
        size = sum(parameter.numel() for parameter in model.parameters())
        tokens = (f"{len(train_ids):,} training, {len(validation_ids):,} validation and {len(test_ids):,} test "
                  "tokens")
        print(assets.printable(f"{text.title}: {tokens}; {size:,} parameters"))
    history = train(model, train_ids, validation_ids, config, options.out, options.resume, tokenizer)
    loss = evaluate(model, test_ids, config.context, config.batch_size, config.precision, ranks)
    bits = text.bits_per_byte(loss, test_ids)
    return history, (f"validation loss after {history.validation_step[-1]} steps: {history.validation_loss[-1]:.3f} "
                     f"nats per token\ntest loss after {len(history.train_loss)} steps: {loss:.3f} nats per token, "
                     f"{bits:.3f} bits per byte; see {options.out}")
