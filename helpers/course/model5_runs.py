"""What the runs of Model 5 at its real size say, beside a run of the reader: rows, curves and claim 23 (notebook 07).

A run is a dictionary as helpers.course.full_size records it. An entry describes one run for a figure or a table.
"""

import math
import statistics
import textwrap
from typing import NamedTuple

from helpers import corpus, ngrams
from helpers.course import records, speedrun_results
from helpers.model import GPTConfig
from helpers.parameters import parameter_formula
from helpers.training import TrainConfig

FAST = 0.5  # a fall is fast if more than this share of it comes in the first fifth of the run
FLAT = 0.02  # nats per token; the end is flat if the last fifth of the run changes the test loss by less
RISE = 0.01  # bits per byte; a loss that ends higher above its lowest value is said to rise
SEEDS = 3  # as many complete runs of one recipe settle the claim
LAST_BATCHES = 10  # whose mean is the training loss at the end of a run
LIKE_THE_BOOK = 0.1  # a text is like the book in one respect if it differs by at most this share of the book's value
FORM = ("newlines", "marks per 1,000 characters", "median line", "punctuation overlap", "known words",
        "line-length overlap")
NOTHING = "No run of Model 5 at its real size has been recorded for this copy of the course."

# --- runs ------------------------------------------------------------------------------------------------------------


def as_run(history, config, book, seconds=None):
    """A History of training.train in the form in which full_size records a run. Its losses are those on the validation
    set, although a record calls them test losses. seconds: the time per batch, or None."""
    validation_ids = corpus.split_validation(book.split()[0])[1]
    return {
        "batches": len(history.train_loss), "training": {"steps": config.steps, "batch_size": config.batch_size,
                                                         "context": config.context},
        "test_step": history.validation_step, "test_loss": history.validation_loss, "train_loss": history.train_loss,
        "bits_per_byte": [book.bits_per_byte(loss, validation_ids) for loss in history.validation_loss],
        "seconds": [seconds],
    }


def tested_once(run, loss, bits):
    """The run with a single measurement: at its end, on the test set. loss: nats per token; bits: bits per byte."""
    return {**run, "test_step": [run["batches"]], "test_loss": [loss], "bits_per_byte": [bits]}


def is_complete(run):
    """Whether a run has trained on all batches of its schedule."""
    return run["batches"] == run["training"]["steps"]


def runs_of(record, recipe="course"):
    """The runs of one recipe, "course" or "lectures", that have begun to train: a list, one per seed."""
    runs = record["runs"] if record else {}
    return [runs[name] for name in sorted(runs) if name.startswith(f"{recipe}-") and runs[name]["batches"]]


def longest_runs(record):
    """Those runs of the course's recipe that have trained on the most batches, one per seed. Runs that stopped earlier
    are left out, because their last measurement is not the end of the others'."""
    runs = runs_of(record)
    most = max((run["batches"] for run in runs), default=0)
    return [run for run in runs if run["batches"] == most]


class Fall(NamedTuple):
    """The course of a test loss. Losses are in nats per token."""

    first: int  # batches until a fifth of the run, or the first measurement after it
    early: float  # the share of the whole fall that they bring
    last: int  # batches of the last fifth
    change: float  # how much they change the loss; negative if it falls
    lowest: int  # the batch after which the loss was lowest
    rise: float  # how far the last loss is above the lowest

    @property
    def is_fast(self):
        """Whether most of the fall comes in the first fifth."""
        return self.early > FAST

    @property
    def end(self):
        """How the loss ends: "rising again", "flat" or "still falling"."""
        return "rising again" if self.rise > FLAT else "flat" if abs(self.change) < FLAT else "still falling"


def fall(run):
    """The Fall of a run, or None if the run has too few measurements to have a beginning and an end."""
    losses = dict(zip(run["test_step"], run["test_loss"]))
    steps, end, fifth = list(losses), run["test_step"][-1], run["training"]["steps"] / 5
    lowest = min(steps, key=losses.get)
    if len(steps) < 3 or losses[0] == losses[lowest]:
        return None
    first = next(step for step in steps[1:] if step >= min(fifth, end))
    last = [step for step in steps[:-1] if step <= end - fifth] or steps[:1]
    return Fall(first, (losses[0] - losses[first]) / (losses[0] - losses[lowest]), end - last[-1],
                losses[end] - losses[last[-1]], lowest, losses[end] - losses[lowest])


def progress(run, baselines):
    """How far a run has come from a uniform guess, ln V, to the losses of models that count, in nats per token.

    baselines: {"uniform"|"unigram"|"bigram": nats}. Returns {"unigram"|"bigram": (share of the way, the first measured
    batch below it, or None)}.
    """
    uniform, loss = baselines["uniform"], run["test_loss"][-1]
    below = {name: [step for step, own in zip(run["test_step"], run["test_loss"]) if own < baselines[name]]
             for name in ("unigram", "bigram")}
    return {name: ((uniform - loss) / (uniform - baselines[name]), min(steps, default=None))
            for name, steps in below.items()}


# --- entries: one figure and one table -------------------------------------------------------------------------------


def live_entry(run, label, tokenizer, training_tokens, parameters, bits):
    """The entry of the run that the reader has just trained. bits: {n-gram: bits per byte}."""
    return {"label": label, "group": label, "run": run, "tokenizer": tokenizer, "training tokens": training_tokens,
            "parameters": parameters, "baselines": bits}


def recorded_entries(record):
    """The entries of the recorded runs, the course's recipe first. Runs of one recipe that stopped before the end of
    their schedule are a group of their own, whose name says so."""
    if not record:
        return []
    config = GPTConfig(**record["model"])
    bits = {name: losses["bits_per_byte"] for name, losses in record["baselines"].items()}
    parameters = parameter_formula(config)["total"]
    head = config.vocab_size * config.n_embd  # with the lectures' recipe a parameter of its own
    entries = []
    for recipe, group, count in (("course", "Model 5, the course's recipe", parameters),
                                 ("lectures", "Model 5, the lectures' recipe", parameters + head)):
        for run in runs_of(record, recipe):
            label = f"{group}, seed {run['training']['seed']}"
            entry = live_entry(run, label, record["tokenizer"], record["training_tokens"], count, bits)
            entries.append({**entry, "group": group if is_complete(run) else f"{group}, {stopped([run])}"})
    return entries


def passes(entry, batches=None):
    """How often a run has read the training set after so many batches, by default all of its own."""
    run = entry["run"]
    batches = run["batches"] if batches is None else batches
    return batches * run["training"]["batch_size"] * run["training"]["context"] / entry["training tokens"]


def curves(entries):
    """{group: [(passes (n,), bits per byte (n,)), one per run]}."""
    groups = {}
    for entry in entries:
        reads = [passes(entry, step) for step in entry["run"]["test_step"]]
        groups.setdefault(entry["group"], []).append((reads, entry["run"]["bits_per_byte"]))
    return groups


def baselines(entries):
    """The losses of the models that count, once for each text and tokenizer: {group: {n-gram: bits per byte}}."""
    first = {round(entry["baselines"]["bigram"], 3): entry for entry in reversed(entries)}
    return {entry["group"]: {name: entry["baselines"][name] for name in ("unigram", "bigram")}
            for entry in first.values()}


def rows(entries):
    """The table of the runs. The difference at the end says how far a run has learned its training set by heart."""
    table = []
    for entry in entries:
        run = entry["run"]
        timed = [seconds for seconds in run["seconds"] if seconds is not None]
        table.append({"run": entry["label"], "parameters": entry["parameters"], "tokenizer": entry["tokenizer"],
                      "batches": f"{run['batches']} of {run['training']['steps']}", "passes": passes(entry),
                      "bits per byte at the end": run["bits_per_byte"][-1],
                      "test minus training loss (nats)":
                          run["test_loss"][-1] - statistics.mean(run["train_loss"][-LAST_BATCHES:]),
                      "seconds per batch": statistics.median(timed) if timed else None})
    return table


def trigram(record):
    """The test loss of the Kneser-Ney trigram that counts the very tokens that Model 5 was trained on, in bits per
    byte. None without a record, or where its book or its tokenizer is not available."""
    if not record:
        return None
    book = corpus.load_gulliver("gpt2")
    train_ids, test_ids = book.split()
    if book.is_stand_in or (book.tokenizer.name, len(train_ids)) != (record["tokenizer"], record["training_tokens"]):
        return None
    losses = ngrams.kneser_ney_losses(train_ids, test_ids, book.tokenizer.vocab_size)
    return book.bits_per_byte(losses["Kneser-Ney trigram"], test_ids)


def summary(entries):
    """The title of the figure: what each kind of run has reached, and whether its loss had been lower before.

    Runs of Model 5 that stopped early are named only where no other run of it is complete.
    """
    ends, whole = {}, {entry["label"].partition(",")[0] for entry in entries if is_complete(entry["run"])}
    for entry in entries:
        if not is_complete(entry["run"]) and entry["label"].partition(",")[0] in whole:
            continue
        ends.setdefault(entry["group"], []).append(entry)
    lines = []
    for group, own in ends.items():
        lowest = [min(entry["run"]["bits_per_byte"]) for entry in own]
        last = [entry["run"]["bits_per_byte"][-1] for entry in own]
        bits, read = between(last, "{:.2f}"), between([passes(entry) for entry in own], "{:.1f}")
        rises = all(end - low > RISE for low, end in zip(lowest, last))
        before = f"lowest {between(lowest, '{:.2f}')}, then " if rises else ""
        lines.append(f"{group}: {before}{bits} bits per byte after {read} passes")
    return "\n".join(lines)


def caption(record):
    """The caption of what was recorded: machine, precision, date, and how much of the schedule has been trained."""
    if not record:
        return NOTHING
    run, lectures = (longest_runs(record) or runs_of(record, "lectures"))[0], runs_of(record, "lectures")
    text = f"Model 5, {record['text']}: {records.origin(record)}, {run['dtype']}, {batches_of([run])} batches"
    if not is_complete(run):
        config = TrainConfig(**run["training"])
        share = config.learning_rate_at(run["batches"] - 1) / config.learning_rate
        text += (f", the beginning of a schedule of {config.steps}; "
                 f"the learning rate of the last batch was {share:.0%} of the highest")
    elif early := [f"the {recipe} recipe, seed {own['training']['seed']}, {stopped([own])}"
                   for name, recipe in (("course", "course's"), ("lectures", "lectures'"))
                   for own in runs_of(record, name) if not is_complete(own)]:
        text += f". Not finished: {'; '.join(early)}"
    if lectures:
        loss, uniform = lectures[0]["test_loss"][0], record["baselines"]["uniform"]["nats"]
        text += f". First test loss of the lectures' recipe: {loss:.2f} nats (ln V: {uniform:.2f})"
    return f"{text}."


# --- the form of the text --------------------------------------------------------------------------------------------


def sample_texts(record, most=6):
    """Some texts of the first run: the first, the last, and those between them at doubling distances. Without a record
    none."""
    texts = next((run["texts"] for run in longest_runs(record)), [])
    return [text for i, text in enumerate(texts) if i in {0, len(texts) - 1, *(2**n for n in range(most - 2))}]


def form(record, measure):
    """One measure of the text of each of the longest_runs, relative to the book's value: [(steps, values)].

    A value is nan where there was nothing to measure, such as the length of lines in a text without a complete line.
    """
    return [([text["step"] for text in run["texts"]],
             [math.nan if text[measure] is None else text[measure] / record["book"][measure] for text in run["texts"]])
            for run in longest_runs(record)]


def like_the_book(record, measure):
    """The batch from which on all texts of the longest_runs, at least two of each, are like the book in this respect,
    or None."""
    settled = []
    for steps, values in form(record, measure):
        unlike = [step for step, value in zip(steps, values) if not abs(value - 1) <= LIKE_THE_BOOK]  # or nan
        settled.append(min((step for step in steps[:-1] if step > max(unlike, default=-1)), default=None))
    return None if None in settled or not settled else max(settled)


def form_rows(record):
    """The table of all measures: the book, the untrained model, the last texts (medians over the runs), and when they
    became alike. Without a record it is empty."""
    runs, table = longest_runs(record), {}
    for measure in FORM if runs else ():
        untrained, trained = ([text for run in runs if (text := run["texts"][i][measure]) is not None] for i in (0, -1))
        since = like_the_book(record, measure)
        table[measure] = {"book": record["book"][measure],
                          "untrained": statistics.median(untrained) if untrained else None,
                          f"after {batches_of(runs)} batches": statistics.median(trained) if trained else None,
                          "like the book to the end": "not yet" if since is None else f"from batch {since:,} on"}
    return table


def form_title(record):
    """The title of the figure: which measures have become like the book's, by when, and which have not."""
    reached, last = {}, longest_runs(record)[0]["batches"]
    for measure in FORM:
        reached.setdefault(like_the_book(record, measure), []).append(measure)
    yet = reached.pop(None, [])
    parts = [f"{', '.join(reached[step])} (from batch {step} on)" for step in sorted(reached)]
    sentences = [f"Within {100 * LIKE_THE_BOOK:.0f} % of the book to the end: {'; '.join(parts) or 'nothing'}"]
    if yet:
        sentences.append(f"Not, or not to the end, by batch {last}: {', '.join(yet)}")
    return "\n".join(textwrap.fill(sentence, 98, break_on_hyphens=False) for sentence in sentences)


# --- claim 23 --------------------------------------------------------------------------------------------------------


def between(values, form):
    """The range of some values: "2 to 3", or "2" if they look the same."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def batches_of(runs):
    """How much of their schedule runs have trained: "500" if all of it, else "120 of 500"."""
    steps = runs[0]["training"]["steps"]
    done = between([run["batches"] for run in runs], "{}")
    return done if done == str(steps) else f"{done} of {steps}"


def stopped(runs):
    """What the name of runs says that have not trained on all batches of their schedule."""
    return f"stopped after {batches_of(runs)} batches"


def seeds(runs):
    """ "1 seed", "3 seeds"."""
    return f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"


def describe_complete(runs, measured="test"):
    """What complete runs have measured, as a range over their seeds. measured: on which set, "test" or "validation"."""
    falls = [fall(run) for run in runs]
    batches, rises = [own.lowest for own in falls], [own.rise for own in falls]
    lowest = f"after batch {between(batches, '{}')} and ends {between(rises, '{:.3f}')} nats above that"
    lowest = lowest if any(rises) else "at the end"
    return (f"{between([own.early for own in falls], '{:.0%}')} of the fall in the first {falls[0].first} of "
            f"{batches_of(runs)} batches; the last {falls[0].last} change the {measured} loss by "
            f"{between([own.change for own in falls], '{:+.3f}')} nats; it is lowest {lowest}")


def describe_part(run, baselines):
    """What the beginning of a run has measured. baselines: {n-gram: nats}."""
    parts = []
    for name, (share, step) in progress(run, baselines).items():
        parts.append(f"below the {name} by batch {step}" if share > 1 else
                     f"{run['test_loss'][-1] - baselines[name]:.2f} nats above the {name}")
    loss = run["test_loss"][-1]
    return f"in the first {batches_of([run])} batches the test loss falls to {loss:.2f} nats: {'; '.join(parts)}"


def agreement(runs):
    """Whether runs fall fast and how they end, in words."""
    falls = [fall(run) for run in runs]
    fast, ends = sum(own.is_fast for own in falls), [own.end for own in falls]
    words = {len(falls): "fast", 0: "not fast"}.get(fast, f"fast with {fast} of {len(falls)} seeds")
    counted = {end: ends.count(end) for end in dict.fromkeys(ends)}
    if len(counted) == 1:
        return f"{words}, {ends[0]} at the end"
    return f"{words}, at the end " + ", ".join(f"{end} with {n} of {len(ends)} seeds" for end, n in counted.items())


def claim_23(live, label, record, smaller=""):
    """The row of claim 23: (measured, measured on, verdict, condition, smallest, unmeasured), for Ledger.add.

    live: the reader's run, of whatever model, with its validation losses (as_run); label: its model and its text.
    record: records.full_size(), or None. smaller: what a smaller model says (experiment_results.convergence_words).
    Complete runs of Model 5 with SEEDS seeds settle the claim. Fewer, shorter runs or a smaller model do not.
    """
    course = runs_of(record)
    complete = complete_runs(record, "course")
    if len(complete) >= SEEDS:
        return settled(record)
    own = f"only {batches_of([live])} batches"
    if is_complete(live) and fall(live):
        own = describe_complete([live], "validation")
    own = "; ".join(filter(None, [f"{own} (a single run)", smaller]))
    if not course:
        return own, label, "unmeasured here", "", "", "Model 5, of which no run is recorded"
    nats = {name: losses["nats"] for name, losses in record["baselines"].items()}
    real = describe_complete(complete) if complete else describe_part(course[0], nats)
    on = f"Model 5, {record['text']}: {records.origin(record)} ({seeds(complete or course)}); {label}: this machine"
    missing = f"Model 5 with {SEEDS} seeds ({len(complete)} complete so far)"
    return f"Model 5: {real}. {label}: {own}", on, "unmeasured here", "", "", missing


def complete_runs(record, recipe):
    """The runs of one recipe that have trained on all their batches."""
    return [run for run in runs_of(record, recipe) if is_complete(run) and fall(run)]


def settled(record):
    """The row of claim 23 if the record settles it. A recipe counts if SEEDS seeds were trained with it; others are
    described. Seeds that disagree leave the claim inconclusive, and recipes that disagree are a condition."""
    smallest = ""
    runs = {f"the {recipe} recipe": complete_runs(record, name)
            for recipe, name in (("course's", "course"), ("lectures'", "lectures"))}
    runs = {recipe: own for recipe, own in runs.items() if own}
    answers = {recipe: {fall(run).is_fast and fall(run).end == "flat" for run in own}
               for recipe, own in runs.items() if len(own) >= SEEDS}
    if any(len(own) > 1 for own in answers.values()):
        verdict, smallest = "inconclusive", f"{max(map(detectable, runs.values())):.3f} nats in the last fifth of a run"
    else:
        holds = set().union(*answers.values())
        verdict = "depends" if len(holds) > 1 else "holds" if holds.pop() else "does not hold"
    measured = ". ".join(f"Model 5, {recipe}: {describe_complete(own)}" for recipe, own in runs.items())
    counted = ", ".join(f"{recipe}: {seeds(own)}" for recipe, own in runs.items())
    rates = {"the course's recipe": "falling", "the lectures' recipe": "constant"}
    condition = "; ".join(f"{recipe} ({rates[recipe]} learning rate, {seeds(own)}): {agreement(own)}"
                          for recipe, own in runs.items())
    on = f"Model 5, {record['text']}: {records.origin(record)} ({counted})"
    return measured, on, verdict, condition, smallest, ""


def detectable(runs):
    """The smallest change of the loss in the last fifth of a run, in nats, that about four of five such experiments
    would have told from a flat end. 0 for a single run, whose spread is unknown."""
    changes = [fall(run).change for run in runs]
    if len(changes) < 2:
        return 0.0
    half, freedom = speedrun_results.mean_interval(changes)[1], len(changes) - 1
    quantiles = [speedrun_results.quantile(probability, freedom) for probability in (0.8, 0.975)]
    return FLAT + half * (1 + quantiles[0] / quantiles[1])
