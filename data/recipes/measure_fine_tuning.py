"""Measure a start from pretrained weights: the course's GPT-2 learns Gulliver's Travels, and forgets (notebook 07).

    COURSE_ASSETS=folder python -m data.recipes.measure_fine_tuning    runs what is missing in its record

Two starts see the same batches: the weights of the course's GPT-2, which never read Swift, and fresh weights of that
architecture. A step costs both the same time, so an equal number of steps is an equal number of seconds. The
learning rate of each start is chosen on a validation set with the first seed; the chosen ones run with all seeds. The
test loss plays no part in the choice. The record, data/measurements/fine_tuning.json, is rewritten after each run.
"""

import copy
import json
import time
from dataclasses import asdict, replace

import torch

from data.recipes import library
from data.recipes.make_gpt2_course import spread
from helpers import corpus, ngrams, pretrained, training
from helpers.course import pretraining
from helpers.machine import assets, timing
from helpers.model import GPT

RATES = {"pretrained": (1e-4, 3e-4, 1e-3), "from scratch": (1e-3, 3e-3, 1e-2)}
SEEDS = (0, 1, 2)
TRAINING = training.TrainConfig(steps=120, batch_size=8, context=256, warmup_steps=10, eval_every=20,
                                eval_tokens=100_000, sample_every=120)
LIBRARY_SAMPLE = 20_000  # tokens


def splits(book):
    """A book's ids in three parts: its first eight tenths to train on, the next to choose by, the last to test on."""
    train_ids, test_ids = book.split()
    return *train_ids.split([len(train_ids) * 8 // 9, len(train_ids) - len(train_ids) * 8 // 9]), test_ids


def fresh(model, seed):
    """A model of the same shape with fresh weights."""
    torch.manual_seed(seed)
    return GPT(model.config)


def fine_tuned(start, model, book, rate, seed):
    """Trains from one start and returns the trained model, and its run as it is recorded: losses in bits per byte."""
    train_ids, validation_ids, _ = splits(book)
    own = copy.deepcopy(model) if start == "pretrained" else fresh(model, seed)
    config = replace(TRAINING, learning_rate=rate, seed=seed)
    begin = time.perf_counter()
    history = training.train(own, train_ids, validation_ids, config, progress=False)
    curve = [round(book.bits_per_byte(loss, validation_ids), 4) for loss in history.validation_loss]
    return own, {"start": start, "rate": rate, "seed": seed, "seconds": round(time.perf_counter() - begin, 1),
                 "step": history.validation_step, "validation_bits": curve}


def measured(model, texts, tokenizer):
    """Bits per byte of each text: texts {name: ids (N,)} -> {name: bits}."""
    context = model.config.n_positions
    return {name: round(tokenizer.bits_per_byte(training.evaluate(model, ids, context), ids), 4)
            for name, ids in texts.items()}


def other_texts(tokenizer):
    """What the model may forget: a sample of an author of the library whom it has not read, and the course's voyage."""
    held_out = library.encoded([book.text for book in library.split("validation")], tokenizer)
    return {"a held-out author of the library": spread(held_out, LIBRARY_SAMPLE),
            "The Brass Yard": corpus.load_text(assets.DATA / "voyage.txt", tokenizer).ids}


def record(path=pretraining.FINE_TUNING):
    """Runs what the record at path does not hold yet."""
    book, model = corpus.load_gulliver("library"), pretrained.load_course_gpt2()
    if book.is_stand_in:
        raise SystemExit("This needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    train_ids, validation_ids, test_ids = splits(book)
    others, V = other_texts(book.tokenizer), book.tokenizer.vocab_size
    texts = {"validation": validation_ids, "test": test_ids, **others}
    settings = {key: value for key, value in asdict(TRAINING).items() if key not in ("learning_rate", "seed")}
    results = {**timing.origin("cpu"), "training": settings, "seeds": SEEDS, "training_tokens": len(train_ids),
               "weights": assets.sha256(assets.DATA / "gpt2-course" / "model.safetensors"),
               "before": measured(model, texts, book.tokenizer),
               "trigram": {name: round(book.bits_per_byte(ngrams.trigram_loss(train_ids, ids, V), ids), 4)
                           for name, ids in (("validation", validation_ids), ("test", test_ids))},
               "runs": []}
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        same = all(saved[key] == json.loads(json.dumps(results[key])) for key in ("training", "weights", "device"))
        results["runs"] = saved["runs"] if same else []

    def keep(start, rate, seed):
        if any((run["start"], run["rate"], run["seed"]) == (start, rate, seed) for run in results["runs"]):
            return
        own, run = fine_tuned(start, model, book, rate, seed)
        run["after"] = measured(own, others, book.tokenizer)
        run["test_bits"] = measured(own, {"test": test_ids}, book.tokenizer)["test"]
        results["runs"].append(run)
        timing.write_json(path, results)
        print(start, rate, seed, run["validation_bits"][-1], flush=True)

    for start, rates in RATES.items():
        for rate in rates:
            keep(start, rate, SEEDS[0])
        while (best := pretraining.best_rates(results["runs"])[start]) in (min(rates), max(rates)) and len(rates) < 6:
            rates = (*rates, best * 3 if best == max(rates) else best / 3)  # until the best lies inside of the grid
            keep(start, rates[-1], SEEDS[0])
    for seed in SEEDS[1:]:
        for start, rate in pretraining.best_rates(results["runs"]).items():
            keep(start, rate, seed)


if __name__ == "__main__":
    record()
