"""Measure over which distances a generated text holds together, beside the true text (claim 27, notebook 04).

    COURSE_ASSETS=folder python -m data.recipes.measure_coherence           the course's GPT-2: six minutes of one core
    COURSE_ASSETS=folder python -m data.recipes.measure_coherence --gpt2    OpenAI's GPT-2 small: longer

The passages come from the library's ten test books, which the course's GPT-2 has not read. The model reads the
beginning of each and continues it up to 256 tokens, the context of the course's GPT-2. Two controls show that the rules
can fail: texts put together from short pieces of the books are locally real but hold together nowhere else, and the
passages that follow the true continuations must keep all. The distances, the rules and all settings were fixed on books
by Wilkie Collins, the library's author for choices, who is not measured here.

A first sample of 24 passages of each book, with seed 0, was too small for one rule: at temperature 1, words 64 to 127
words apart kept 0.72 of the book's fit, but the interval went from 0.50 to 0.94. The record is a second sample, of
twice as many passages at other places. It is judged by the same rules, and without the first. The rule stays open in
it, too.
"""

import sys
from collections import Counter

import numpy as np
import torch

from data.recipes import library
from helpers import corpus, pretrained
from helpers.course import coherence
from helpers.course.text_statistics import words_of
from helpers.generation import generate
from helpers.machine import assets, runtime, timing

TEXTS = 48  # of each book
PROMPT, LENGTH = 32, 256  # tokens
MARGIN = 1000  # tokens at both ends of a book that are not used: title pages, last words
SEED = 1
SETTINGS = {"temperature 1": {}, "top-p 0.9": {"top_p": 0.9}}


def passages(books, tokenizer):
    """Prompts (N, PROMPT), their true continuations, what follows those, each (N, LENGTH - PROMPT); book of each."""
    rows, groups = [], []
    for number, text in enumerate(books):
        ids = tokenizer.encode(text)
        starts = MARGIN + ((torch.arange(TEXTS) + 0.5) / TEXTS * (len(ids) - 2 * MARGIN)).long()
        rows.append(ids[starts[:, None] + torch.arange(2 * LENGTH - PROMPT)])
        groups += [number] * TEXTS
    return *torch.cat(rows).split([PROMPT, LENGTH - PROMPT, LENGTH - PROMPT], dim=1), groups


def continued(model, prompts, settings):
    """The model's continuations of the prompts: (N, PROMPT) -> (N, LENGTH - PROMPT)."""
    generator = torch.Generator().manual_seed(SEED)
    device = model.lm_head.weight.device
    parts = [generate(model, part.to(device), LENGTH - PROMPT, generator=generator, **settings).cpu()
             for part in prompts.split(80)]
    return torch.cat(parts)[:, PROMPT:]


def training_words():
    """The words of each training book; the number of each frequent one; and the most frequent ones."""
    books = [words_of(book.text) for book in library.split("train")]
    counts = Counter()
    for words in books:
        counts.update(words)
    common = [word for word, _ in counts.most_common(coherence.FITTING)]
    return books, {word: i for i, word in enumerate(common)}, set(common[: coherence.FREQUENT])


def measured(sources, groups):
    """Both measures of each source: {"measures": {measure: {source: means of the books, (books, distances)}}, and
    "running in a circle": {source: texts whose words return more often than in any true one, at the last distance}}."""
    books, ranks, frequent = training_words()
    tables = coherence.fit_tables(books, ranks)
    values = {"fit": {name: coherence.fit(texts, groups, tables, ranks) for name, texts in sources.items()},
              "recurrence": {name: coherence.recurrence(texts, groups, frequent) for name, texts in sources.items()}}
    highest = values["recurrence"][coherence.REAL].max(0)  # (distances,)
    results = {}
    for measure, of_source in values.items():
        for name, rows in of_source.items():  # rows (texts, distances)
            # A text that runs in a circle would outweigh many others: it counts like the highest true text at most.
            rows = np.minimum(rows, highest) if measure == "recurrence" else rows
            means = rows.reshape(-1, TEXTS, rows.shape[1]).mean(1)  # (books, distances)
            results.setdefault(measure, {})[name] = np.round(means, 5).tolist()
    circles = {name: int((rows[:, -1] > highest[-1]).sum()) for name, rows in values["recurrence"].items()}
    return {"measures": results, "running in a circle": circles}


def main(is_openai=False):
    if is_openai and assets.gpt2_weights().is_stand_in:
        raise SystemExit("GPT-2's weights are not available.")
    device = runtime.best_device() if is_openai else torch.device("cpu")
    model = (pretrained.load_gpt2() if is_openai else pretrained.load_course_gpt2()).to(device)
    tokenizer = corpus.tokenizer_for(model.config.vocab_size)
    books = library.split("test")
    prompts, true, following, groups = passages([book.text for book in books], tokenizer)
    rows = {coherence.REAL: true, **{name: continued(model, prompts, settings) for name, settings in SETTINGS.items()},
            "control: the passage that follows": following}
    sources = {name: [words_of(tokenizer.decode(row)) for row in own] for name, own in rows.items()}
    sources["control: the book in pieces of 16 words"] = coherence.in_pieces(sources[coherence.REAL])
    results = {**timing.origin(device), "model": "GPT-2 small" if is_openai else "the course's GPT-2",
               "is_openai": is_openai, "prompt": PROMPT, "tokens": LENGTH - PROMPT, "texts": len(prompts),
               "seed": SEED, "books": [{"author": book.author, "title": book.title, "texts": TEXTS} for book in books],
               "distances": coherence.DISTANCES, **measured(sources, groups),
               "examples": {name: " ".join(tokenizer.decode(own[0]).split()) for name, own in rows.items()}}
    if not is_openai:
        results["weights"] = assets.sha256(assets.DATA / "gpt2-course" / "model.safetensors")
    timing.write_json(coherence.path_of(is_openai), results)
    for source in SETTINGS:
        for row in coherence.judged(results, source):
            print(source, "|", row["rule"], "|", row["estimate"], row["holds"], flush=True)


if __name__ == "__main__":
    main("--gpt2" in sys.argv[1:])
