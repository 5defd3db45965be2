"""Measure whether the last tenth of a book is harder to predict than its other tenths (notebook 09).

    COURSE_ASSETS=folder python -m data.recipes.measure_positions             the trigram model, in five minutes
    COURSE_ASSETS=folder python -m data.recipes.measure_positions --models    and small GPTs on three books

For each book and each of ten positions a model learns nine tenths of the book and is tested on the other tenth. What is
judged is, book by book, the loss of one position minus the mean of the other nine; the unit is the author, because the
books of one author may resemble each other. All books of the library (data/recipes/library.py) with 60,000 to 250,000
words are used. The record, data/measurements/positions.json, is rewritten after each book and each model: a stopped
program continues.
"""

import argparse
import datetime
import json
import random
from dataclasses import replace

import torch

from data.recipes import library
from helpers import corpus, ngrams, training
from helpers.course import arms, experiments, records
from helpers.machine import assets, timing

RECORD = timing.RECORDS / "positions.json"
WORDS = 60_000, 250_000
MODEL_BOOKS, POSITIONS = 3, 10
BUDGET = 0.5  # of a model, as a share of the base arm's batches: notebook 09 compares 30 of them


def chosen_books():
    """The books of similar length, in an order drawn by a fixed seed: [library.Book]."""
    fitting = [book for book in library.books() if WORDS[0] <= len(book.text.split()) <= WORDS[1]]
    random.Random(0).shuffle(fitting)
    return fitting


def tenth(ids, position):
    """A text's ids (N,) without one of its tenths, and this tenth. position: 0 to 9."""
    pieces = list(ids.tensor_split(POSITIONS))
    return torch.cat([*pieces[:position], *pieces[position + 1 :]]), pieces[position]


def trigram_losses(ids, vocab_size):
    """The trigram model's loss on each tenth of a text when it has counted the other nine, in nats per token."""
    return [round(ngrams.trigram_loss(*tenth(ids, position), vocab_size), 4) for position in range(POSITIONS)]


def model_loss(ids, position, rate, vocab_size):
    """The loss of a model of the base arm's shape on one tenth of a text after training on the others."""
    arm = replace(arms.ARMS["base"], budget=BUDGET)
    shape, config = arms.settings(arm, "laptop", position, rate)
    model, (train, test) = experiments.build(arm, shape, vocab_size, position), tenth(ids, position)
    experiments.fit(model, train, config)
    return round(training.evaluate(model, test, config.context), 4)


def settings(tokenizer):
    """What the record was made with, beside the books."""
    return {"tokenizer": tokenizer.name, "tokens": assets.sha256(assets.DATA / "course.tiktoken")[:16],
            "positions": POSITIONS, "words": list(WORDS)}


def load(tokenizer):
    """The valid record: {"books": {title: {...}}, ...}; without books if there is none."""
    saved = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    is_valid = records.same_settings(saved, settings(tokenizer))
    return saved if is_valid else {**settings(tokenizer), "books": {}}


def save(record):
    """Writes the record in one step."""
    timing.write_json(RECORD, {**record, "date": datetime.date.today().isoformat()})


def measure_models(record, texts):
    """Adds to the record what small GPTs reach on each tenth of the first texts, {title: ids}."""
    tokenizer = corpus.load_tokenizer("course")
    rate = experiments.rate_of("base", "laptop", corpus.load_gulliver("course"))
    if rate is None:
        raise SystemExit("measure_positions: the base arm is not tuned yet; run `make experiments` first.")
    now = {"rate": rate, "budget": BUDGET}
    if {key: record.get("model", {}).get(key) for key in now} != now:  # models of another recipe do not count
        for book in record["books"].values():
            book.pop("model", None)
    record["model"] = {**now, "machine": experiments.machine("cpu")}
    for title, ids in texts.items():
        losses = record["books"][title].setdefault("model", [])
        for position in range(len(losses), POSITIONS):
            losses.append(model_loss(ids, position, rate, tokenizer.vocab_size))
            save(record)
            print(f"{title}, position {position + 1}: {losses[-1]}", flush=True)


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="store_true", help=f"also train small GPTs on the first {MODEL_BOOKS} books")
    options = parser.parse_args(arguments)
    tokenizer = corpus.load_tokenizer("course")
    record, texts = load(tokenizer), {}
    for book in chosen_books():
        if book.title in record["books"] and len(texts) >= MODEL_BOOKS:
            continue
        ids = tokenizer.encode(book.text)
        texts |= {book.title: ids} if len(texts) < MODEL_BOOKS else {}
        if book.title not in record["books"]:
            record["books"][book.title] = {"author": book.author, "year": book.year, "tokens": len(ids),
                                           "trigram": trigram_losses(ids, tokenizer.vocab_size)}
            save(record)
            print(book.title, record["books"][book.title]["trigram"], flush=True)
    if options.models:
        measure_models(record, texts)


if __name__ == "__main__":
    main()
