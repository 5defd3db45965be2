"""Measure what the course's GPT-2 is able to do, and record it in data/gpt2-course/abilities.json.

    COURSE_ASSETS=folder python -m data.recipes.measure_gpt2_course

Each ability has a bar that was set before the model was trained. One of them has changed the training: without
repeated passages in its text, the model would have missed that of the induction head (make_gpt2_course.py). The
program prints each measurement and whether the
model reaches the bar, and ends with the exit status 1 if it misses one. It takes a few minutes on 2 CPU cores.
"""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from data.recipes import library
from data.recipes.make_gpt2_course import MODEL_FOLDER, library_ids, spread
from helpers import circuits, corpus, ngrams, pretrained, training
from helpers.course import pretraining
from helpers.course.recipes import recipe_for
from helpers.generation import sample_text
from helpers.machine import runtime, timing
from helpers.model import GPT

HIGHEST_BITS = 1.70  # per byte of the test authors
SAMPLE = 200_000  # tokens measured of each held-out author
PROMPTS = ("The captain looked at the sea, and", "“My dear sir,” said the old man,", "In the morning")
SEEDS = (0, 1, 2)  # of the sampled texts
CONTEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 255)  # tokens before the predicted one
PREDICTED = 4000  # tokens, for the loss by context
NEEDED_CONTEXT = 128  # tokens; up to here, each of these contexts must give a lower loss than the one before
LENGTHS, BATCH = (40, 60), 32  # of the repeated random tokens that score the heads; the lower score counts


def held_out_authors(model, tokenizer, train_ids):
    """Bits per byte of the model, and of the trigram of the same training text, on each held-out author."""
    authors, samples, results = (*library.VALIDATION_AUTHORS, *library.TEST_AUTHORS), [], {}
    for author in authors:
        texts = [book.text for book in library.books() if book.author == author]
        samples.append(spread(library.encoded(texts, tokenizer), SAMPLE, pieces=40))
    # All samples at once, because counting takes long. Entry t is about token t + 2.
    surprise = -np.log(ngrams.trigram_probabilities(train_ids, torch.cat(samples), tokenizer.vocab_size))
    for i, (author, ids) in enumerate(zip(authors, samples)):
        losses = {"model": training.evaluate(model, ids, model.config.n_positions),
                  "trigram": float(surprise[i * len(ids) : (i + 1) * len(ids) - 2].mean())}
        results[author] = {name: round(tokenizer.bits_per_byte(loss, ids), 4) for name, loss in losses.items()}
    return results


def shared_sequences(text, length=13):
    """How many sequences of so many words of a text, and how many of them occur in the training books."""
    def words(text):
        return re.findall(r"[a-z']+", text.lower().replace("’", "'"))

    def sequences(words):
        return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}

    own = sequences(words(text))
    shared = set().union(*(own & sequences(words(book.text)) for book in library.split("train")))
    return {"words in each": length, "sequences": len(own), "shared": len(shared)}


def laptop_model(book, recipe):
    """Bits per byte of the course's laptop model, trained on the book alone, at its best."""
    runtime.seed_everything(recipe.training.seed)
    model, (train_ids, test_ids) = GPT(recipe.model), book.split()
    history = training.train(model, train_ids, test_ids, replace(recipe.training, eval_tokens=len(test_ids)))
    return book.bits_per_byte(min(history.validation_loss), test_ids)


def gulliver(model, tokenizer):
    """Bits per byte of Gulliver's test set: of the model, which never read it, and of models of this book alone."""
    book, laptop = corpus.load_gulliver(tokenizer), recipe_for("laptop")
    if book.is_stand_in:
        raise SystemExit("This needs the real Gulliver's Travels: connect to the internet or set COURSE_ASSETS.")
    train_ids, test_ids = book.split()
    loss = training.evaluate(model, test_ids, model.config.n_positions)
    counted = ngrams.trigram_loss(train_ids, test_ids, tokenizer.vocab_size)
    others = {"trigram": book.bits_per_byte(counted, test_ids),
              "laptop model": laptop_model(corpus.load_gulliver(laptop.tokenizer), laptop)}
    tuned = pretraining.fine_tuning()
    if tuned is None:
        raise SystemExit("First measure the same architecture from scratch: python -m data.recipes.measure_fine_tuning")
    others["the same architecture from scratch"] = min(
        run["test_bits"] for run in tuned["runs"] if run["start"] == "from scratch")
    for record in timing.recorded("training"):
        for run in record["runs"].values():
            name = f"Model 5, {run['batches']} batches"
            others[name] = min(run["bits_per_byte"] + [others.get(name, float("inf"))])
    return {"model": round(book.bits_per_byte(loss, test_ids), 4),
            "also in the training books": shared_sequences(tokenizer.decode(test_ids)),
            "trained on Gulliver alone": {name: round(bits, 4) for name, bits in others.items()}}


@torch.no_grad()
def loss_by_context(model, ids):
    """The mean loss of the same tokens, predicted from more and more of the tokens before them: one row per context.

    Each row has the fall from the row before, with its standard error over the tokens: the same tokens are compared.
    """
    predicted = torch.linspace(max(CONTEXTS), len(ids) - 1, PREDICTED).long()  # positions in ids
    rows, before = [], None
    for context in CONTEXTS:
        windows = ids[predicted[:, None] + torch.arange(-context, 0)]  # (PREDICTED, context)
        logits = torch.cat([model(part, last_only=True)[:, -1] for part in windows.split(64)])  # (PREDICTED, V)
        losses = F.cross_entropy(logits, ids[predicted], reduction="none")
        row = {"context": context, "loss": round(losses.mean().item(), 4)}
        if before is not None:
            falls = before - losses
            row |= {"fall": round(falls.mean().item(), 4),
                    "standard error": round((falls.std() / PREDICTED**0.5).item(), 4)}
        rows, before = [*rows, row], losses
    return rows


def heads(model):
    """The strongest induction head and the strongest previous-token head, by their scores on repeated random tokens.

    At two lengths, of which the lower score counts: a head that always looks equally far back reaches only one of them.
    """
    generator, scored = torch.Generator().manual_seed(0), {"induction": [], "previous token": []}
    for half in LENGTHS:
        ids = circuits.repeated_tokens(model.config.vocab_size - 1, half, BATCH, generator)
        maps = circuits.attention_maps(model, ids)
        scored["induction"].append(circuits.induction_score(maps))
        scored["previous token"].append(circuits.previous_token_score(maps))
    results = {}
    for kind, both in scored.items():
        scores = torch.stack(both).amin(0)  # (L, nh)
        layer, head = divmod(scores.argmax().item(), model.config.n_head)
        results[kind] = {"layer": layer, "head": head, "score": round(scores.max().item(), 4),
                         "above threshold": int((scores > circuits.THRESHOLD).sum())}
    losses = circuits.losses_by_position(model, ids)
    results["loss"] = {"first half": round(losses[:, : half - 1].mean().item(), 4),
                       "second half": round(losses[:, half:].mean().item(), 4)}
    return results


def samples(model, tokenizer):
    """One continuation at temperature 0.8 for each prompt and seed."""
    return [sample_text(model, tokenizer, 60, prompt=prompt, seed=seed, temperature=0.8)
            for prompt in PROMPTS for seed in SEEDS]


def judged(results):
    """Each bar with the measurement and whether it is reached: [(bar, measured, reached), ...]."""
    rows = [(f"at most {HIGHEST_BITS} bits per byte of {author}", results["authors"][author]["model"],
             results["authors"][author]["model"] <= HIGHEST_BITS) for author in library.TEST_AUTHORS]
    best, bits = min(results["gulliver"]["trained on Gulliver alone"].values()), results["gulliver"]["model"]
    rows.append((f"Gulliver's test set, below all models that we trained on this book alone ({best})", bits,
                 bits < best))
    rows.append(("no sequence of 13 words of that test set in the training books",
                 results["gulliver"]["also in the training books"]["shared"],
                 results["gulliver"]["also in the training books"]["shared"] == 0))
    needed = [row for row in results["context"][1:] if row["context"] <= NEEDED_CONTEXT]
    falls = [row["fall"] - 2 * row["standard error"] for row in needed]
    rows.append((f"the loss falls by more than 2 standard errors with each doubling of the context up to "
                 f"{NEEDED_CONTEXT} tokens", round(min(falls), 4), min(falls) > 0))
    for kind in ("induction", "previous token"):
        score = results["heads"][kind]["score"]
        rows.append((f"a head whose {kind} score is above {circuits.THRESHOLD}", score, score > circuits.THRESHOLD))
    return rows


def main():
    model = pretrained.load_course_gpt2()
    tokenizer = corpus.tokenizer_for(model.config.vocab_size)
    results = {"authors": held_out_authors(model, tokenizer, library_ids("train", tokenizer)),
               "gulliver": gulliver(model, tokenizer),
               "context": loss_by_context(model, library_ids("validation", tokenizer)),
               "heads": heads(model), "samples": samples(model, tokenizer)}
    rows = judged(results)
    results["bars"] = [{"bar": bar, "measured": measured, "reached": reached} for bar, measured, reached in rows]
    timing.write_json(MODEL_FOLDER / "abilities.json", results)
    print(json.dumps(results, indent=1, ensure_ascii=False))
    return 0 if all(reached for _, _, reached in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
