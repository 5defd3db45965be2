"""What the runs of Model 5 at its real size say: verdicts and rows from invented records, and the figures of them."""

import copy
import math

import pytest

from helpers.course import figures, records, model5_runs
from helpers.course.claims import Ledger
from helpers.machine import timing
from helpers.machine.checkpoints import History
from helpers.training import TrainConfig

LN_V = math.log(50_257)
FALLS_AND_RISES = (11.0, 6.0, 5.0, 4.9, 5.0, 5.2)
FALLS_AND_STAYS = (11.0, 6.0, 5.0, 4.9, 4.81, 4.80)
FALLS_SLOWLY = (11.0, 9.5, 8.0, 6.9, 6.0, 5.5)
BOOK = {"newlines": 0.016, "median line": 70.0, "marks per 1,000 characters": 27.0, "known words": 1.0,
        "distinct pairs": 0.92, "line-length overlap": 0.96, "punctuation overlap": 0.98}


def text(step, share):
    """The measures of texts that have this share of the book's values."""
    measures = {name: share * value for name, value in BOOK.items()}
    return {"step": step, "text": f"page after {step}", **measures, "median line": 70.0 if step else None}


def run(losses=FALLS_AND_RISES, seed=0, every=100, **changes):
    """A run as it is recorded, measured each time after some batches."""
    steps, batches = [every * i for i in range(len(losses))], every * (len(losses) - 1)
    config = {"steps": 500, "batch_size": 16, "context": 256, "learning_rate": 6e-4, "warmup_steps": 50, "seed": seed}
    return {"batches": batches, "training": {**config, **changes}, "dtype": "bfloat16", "test_step": steps,
            "test_loss": list(losses), "bits_per_byte": [loss / math.e for loss in losses],
            "train_loss": [3.0] * batches, "seconds": [None, *[0.2] * (batches - 1)],
            "texts": [text(step, share) for step, share in zip(steps, (0.1, 0.5, 0.95, 0.8, 0.95, 1.0))]}


def record(**runs):
    """A GPU's record with these runs; course_0 stands for "course-0"."""
    shape = {"vocab_size": 50_257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
    losses = {"uniform": LN_V, "unigram": 6.6, "bigram": 5.3}
    return {"device": "Imagined GPU", "type": "cuda", "driver": "1.2", "torch": "2.0", "date": "2026-01-02",
            "size": "full", "text": "Gulliver's Travels", "tokenizer": "GPT-2's tokenizer",
            "training_tokens": 130_443, "model": shape,
            "baselines": {name: {"nats": nats, "bits_per_byte": nats / math.e} for name, nats in losses.items()},
            "book": {**BOOK, "text": "the book"}, "runs": {name.replace("_", "-"): own for name, own in runs.items()}}


def three_seeds(*losses, **more):
    """A record of three complete runs of the course's recipe."""
    losses = losses if len(losses) == 3 else losses * 3
    return record(**{f"course_{seed}": run(own, seed) for seed, own in enumerate(losses)}, **more)


SMALL = run((8.3, 6.0, 5.2, 5.0, 4.95, 4.94))
CPU_PART = record(course_0=run((11.0, 7.3, 6.4, 5.9), every=20)) | {"device": "Imagined CPU", "type": "cpu",
                                                                    "threads": 2}
del CPU_PART["driver"]


def claim(own, live=SMALL):
    return model5_runs.claim_23(live, "4 blocks, 128 wide, Gulliver's Travels", own)


# Claim 23


@pytest.mark.parametrize("own", [None, CPU_PART, record(course_0=run()), record(course_0=run(), course_1=run(seed=1)),
                                 record(lectures_0=run())])
def test_less_than_three_complete_runs_of_model_5_settle_nothing(own):
    measured, on, verdict, condition, smallest, unmeasured = claim(own)
    assert (verdict, condition, smallest) == ("unmeasured here", "", "")
    assert unmeasured.startswith("Model 5"), "the row says what is missing"
    assert "4 blocks, 128 wide" in on, "the reader's run is named"


def test_a_small_model_alone_settles_nothing_even_if_its_curve_is_perfect():
    measured, on, verdict, *_ = claim(None, run(FALLS_AND_STAYS))
    assert verdict == "unmeasured here" and "single run" in measured and on.startswith("4 blocks")
    assert "81% of the fall in the first 100 of 500 batches" in measured


def test_the_beginning_of_a_run_is_reported_as_what_it_is():
    measured, on, *_ = claim(CPU_PART)
    assert "in the first 60 of 500 batches the test loss falls to 5.90 nats" in measured
    assert "below the unigram by batch 40" in measured and "0.60 nats above the bigram" in measured
    assert "of the fall in" not in measured.split(". 4 blocks")[0], "the whole fall of Model 5 is unknown"
    assert "Imagined CPU, 2 threads" in on and "2026-01-02" in on and "1 seed" in on


@pytest.mark.parametrize("losses, verdict, words", [
    (FALLS_AND_STAYS, "holds", "fast, flat at the end"),
    (FALLS_AND_RISES, "does not hold", "fast, rising again at the end"),
    (FALLS_SLOWLY, "does not hold", "not fast, still falling at the end"),
])
def test_three_complete_runs_settle_the_claim(losses, verdict, words):
    measured, on, own_verdict, condition, *_ = claim(three_seeds(losses))
    assert own_verdict == verdict and condition.endswith(words)
    assert "Imagined GPU, driver 1.2" in on and "2026-01-02" in on and "3 seeds" in on and "4 blocks" not in on
    assert "4 blocks" not in measured


def test_seeds_that_disagree_leave_the_claim_open():
    _, _, verdict, condition, smallest, _ = claim(three_seeds(FALLS_AND_STAYS, FALLS_AND_STAYS, FALLS_AND_RISES))
    assert verdict == "inconclusive" and "flat with 2 of 3 seeds, rising again with 1 of 3 seeds" in condition
    assert float(smallest.split()[0]) > 0.2 and "nats" in smallest, "as these seeds scatter, only more would be seen"


def test_it_depends_on_the_recipe_only_if_each_has_enough_seeds():
    lectures = {f"lectures_{seed}": run(FALLS_SLOWLY, final_share=1.0) for seed in range(3)}
    measured, on, verdict, condition, *_ = claim(three_seeds(FALLS_AND_STAYS, lectures_0=lectures["lectures_0"]))
    assert verdict == "holds" and "the lectures' recipe (constant learning rate, 1 seed): not fast, still" in condition
    assert "the lectures' recipe: 1 seed" in on and "Model 5, the lectures' recipe: 27% of the fall" in measured
    assert claim(three_seeds(FALLS_AND_STAYS, **lectures))[2] == "depends"


def test_a_lectures_run_that_was_stopped_does_not_count():
    _, on, verdict, condition, *_ = claim(three_seeds(FALLS_AND_STAYS, lectures_0=run(FALLS_SLOWLY[:3])))
    assert verdict == "holds" and "lectures" not in condition + on


def test_ranges_over_the_seeds_are_reported():
    measured = claim(three_seeds(FALLS_AND_RISES, FALLS_AND_RISES, (11.0, 6.1, 5.0, 4.8, 4.9, 5.3)))[0]
    assert "79% to 82% of the fall" in measured and "+0.200 to +0.400 nats" in measured
    assert "after batch 300 and ends 0.300 to 0.500 nats above that" in measured


@pytest.mark.parametrize("own", [None, CPU_PART, three_seeds(FALLS_AND_STAYS), three_seeds(FALLS_AND_RISES)])
@pytest.mark.parametrize("live", [SMALL, run((8.3, 6.0)), run((8.3,))])
def test_every_row_fits_the_ledger(own, live):
    ledger = Ledger("07")
    ledger.add(23, *claim(own, live))
    assert ledger.claims[0].verdict == claim(own)[2]


@pytest.mark.parametrize("mutant, verdict", [
    (lambda own: own["runs"].pop("course-2"), "unmeasured here"),  # a seed is missing
    (lambda own: own["runs"]["course-1"].update(batches=400), "unmeasured here"),  # a run stopped before its end
    (lambda own: own["runs"]["course-0"]["test_loss"].__setitem__(-1, 5.2), "inconclusive"),  # one seed rises again
    (lambda own: [own["runs"][name]["test_loss"].__setitem__(1, 9.0) for name in own["runs"]], "does not hold"),
])
def test_a_changed_record_changes_the_verdict(mutant, verdict):
    own = three_seeds(FALLS_AND_STAYS)
    assert claim(own)[2] == "holds"
    mutant(own)
    assert claim(own)[2] == verdict


# Single runs


def test_the_parts_of_a_fall():
    own = model5_runs.fall(run())
    assert (own.first, own.last, own.lowest) == (100, 100, 300)
    assert (own.early, own.change, own.rise) == pytest.approx((5 / 6.1, 0.2, 0.3))
    assert own.is_fast and own.end == "rising again"


def test_a_run_measured_twice_has_no_beginning_and_end():
    assert model5_runs.fall(run((11.0, 6.0))) is None
    assert model5_runs.fall(run((5.0, 6.0, 7.0))) is None, "it never falls"


def test_a_fifth_need_not_be_measured_exactly():
    own = model5_runs.fall(run((8.0, 7.0, 6.5), every=20, steps=40))
    assert (own.first, own.last) == (20, 20)


def test_progress_towards_models_that_count():
    own = model5_runs.progress(run((11.0, 7.0, 6.0)), {"uniform": 11.0, "unigram": 7.0, "bigram": 5.0})
    assert own == {"unigram": (pytest.approx(5 / 4), 200), "bigram": (pytest.approx(5 / 6), None)}


class Book:
    """A book whose bytes are half as many as its nats."""

    def split(self):
        return [1, 2], [3]

    def bits_per_byte(self, loss, ids):
        assert ids == [2]
        return loss / 2


def test_a_history_becomes_a_run():
    history = History(train_loss=[8.0, 7.0], validation_step=[0, 2], validation_loss=[8.0, 6.0])
    own = model5_runs.as_run(history, TrainConfig(steps=4, batch_size=2, context=8), Book(), 0.5)
    assert own["batches"] == 2 and own["bits_per_byte"] == [4.0, 3.0] and not model5_runs.is_complete(own)
    assert model5_runs.batches_of([own]) == "2 of 4"
    tested = model5_runs.tested_once(own, 5.0, 2.5)
    assert (tested["test_step"], tested["test_loss"], tested["bits_per_byte"]) == ([2], [5.0], [2.5])
    assert own["test_step"] == [0, 2] and tested["batches"] == 2


# Entries


def live_entry():
    return model5_runs.live_entry(SMALL, "this run", "the course's", 100_000, 1_300_000,
                                        {"uniform": 3.3, "unigram": 2.5, "bigram": 2.0})


def test_the_table_has_a_row_for_each_run():
    own = three_seeds(FALLS_AND_RISES, lectures_0=run())
    table = model5_runs.rows([live_entry(), *model5_runs.recorded_entries(own)])
    assert [row["parameters"] for row in table] == [1_300_000, *[124_439_808] * 3, 163_037_184]
    assert table[1]["run"] == "Model 5, the course's recipe, seed 0"
    assert table[1]["batches"] == "500 of 500" and table[1]["passes"] == pytest.approx(15.7, abs=0.01)
    assert table[1]["test minus training loss (nats)"] == pytest.approx(5.2 - 3.0)
    assert table[1]["seconds per batch"] == 0.2 and table[1]["bits per byte at the end"] == 5.2 / math.e


def test_without_a_record_there_is_only_the_run_of_the_reader():
    assert model5_runs.recorded_entries(None) == [] == model5_runs.sample_texts(None)
    assert model5_runs.form_rows(None) == {}
    assert model5_runs.caption(None) == model5_runs.NOTHING


def test_runs_that_stopped_early_are_a_group_whose_name_says_so():
    own = record(course_0=run(), course_1=run(seed=1), course_2=run(FALLS_AND_RISES[:2], seed=2),
                 lectures_0=run(FALLS_SLOWLY[:2]))
    groups = model5_runs.curves(model5_runs.recorded_entries(own))
    assert {name: len(runs) for name, runs in groups.items()} == {
        "Model 5, the course's recipe": 2, "Model 5, the course's recipe, stopped after 100 of 500 batches": 1,
        "Model 5, the lectures' recipe, stopped after 100 of 500 batches": 1}
    caption = model5_runs.caption(own)
    assert ("500 batches. Not finished: the course's recipe, seed 2, stopped after 100 of 500 batches; "
            "the lectures' recipe, seed 0, stopped after 100 of 500 batches. First test loss") in caption
    assert claim(own)[2] == "unmeasured here" and "(2 seeds)" in claim(own)[1]
    assert claim(own)[5] == "Model 5 with 3 seeds (2 complete so far)"


def test_the_title_says_whether_a_loss_rose_again():
    lines = model5_runs.summary([live_entry(), *model5_runs.recorded_entries(three_seeds(FALLS_AND_RISES))]).split("\n")
    assert lines[0] == "this run: 1.82 bits per byte after 20.5 passes"
    assert lines[1] == "Model 5, the course's recipe: lowest 1.80, then 1.91 bits per byte after 15.7 passes"


def test_the_trigram_counts_the_tokens_of_model_5_or_is_none(monkeypatch):
    ids, asked = list(range(50)) * 4, []

    class Counted(Book):
        is_stand_in = False
        tokenizer = type("Tokenizer", (), {"name": "GPT-2's tokenizer", "vocab_size": 50})

        def split(self):
            return ids, ids[:20]

        def bits_per_byte(self, loss, ids):
            asked.append(loss)
            return loss / 2

    monkeypatch.setattr(model5_runs.corpus, "load_gulliver", lambda name: Counted())
    assert model5_runs.trigram(None) is None
    assert model5_runs.trigram(record(course_0=run())) is None, "another number of training tokens"
    own = {**record(course_0=run()), "training_tokens": 200}
    losses = model5_runs.ngrams.kneser_ney_losses(ids, ids[:20], 50)
    assert model5_runs.trigram(own) == losses["Kneser-Ney trigram"] / 2 and asked == [losses["Kneser-Ney trigram"]]
    assert model5_runs.trigram({**own, "tokenizer": "another"}) is None
    Counted.is_stand_in = True
    assert model5_runs.trigram(own) is None


def test_models_that_count_are_given_once_for_each_tokenizer():
    entries = [live_entry(), *model5_runs.recorded_entries(three_seeds(FALLS_AND_RISES, lectures_0=run()))]
    counted = model5_runs.baselines(entries)
    assert counted["this run"] == {"unigram": 2.5, "bigram": 2.0}
    assert set(counted) == {"this run", "Model 5, the course's recipe"}


def test_the_caption_names_the_origin_and_how_much_was_trained():
    caption = model5_runs.caption(CPU_PART)
    for part in ("Imagined CPU, 2 threads", "2026-01-02", "bfloat16", "60 of 500 batches", "100% of the highest"):
        assert part in caption, part
    caption = model5_runs.caption(three_seeds(FALLS_AND_RISES, lectures_0=run((12.34, *FALLS_SLOWLY[1:]))))
    assert ", 500 batches. First test loss of the lectures' recipe: 12.34 nats (ln V: 10.82)." in caption
    assert "schedule" not in caption


# The form of the text


def test_the_first_texts_are_near_each_other():
    own = run((11.0,) * 13, every=50)
    own["texts"] = [text(50 * i, 1.0) for i in range(11)]
    assert [one["step"] for one in model5_runs.sample_texts(record(course_0=own))] == [0, 50, 100, 200, 400, 500]


def test_like_the_book_means_until_the_end_and_more_than_once():
    own = three_seeds(FALLS_AND_RISES)
    assert model5_runs.like_the_book(own, "newlines") == 400, "0.95, then 0.8, then 0.95 and 1"
    late = copy.deepcopy(own)
    late["runs"]["course-2"]["texts"][4]["newlines"] = 0.0
    assert model5_runs.like_the_book(late, "newlines") is None, "one measurement is not enough"
    assert model5_runs.like_the_book(own, "median line") == 100, "nothing to measure is not like the book"


def test_a_run_that_stopped_early_does_not_say_what_the_end_of_a_run_is_like():
    own = record(course_0=run(FALLS_AND_RISES[:2], seed=0), course_1=run(seed=1))
    assert model5_runs.longest_runs(own) == [own["runs"]["course-1"]]
    assert model5_runs.like_the_book(own, "newlines") == 400 and len(model5_runs.form(own, "newlines")) == 1
    assert "after 500 batches" in model5_runs.form_rows(own)["newlines"]
    assert "newlines" in model5_runs.form_title(own).partition("(from batch 400")[0]
    assert model5_runs.sample_texts(own)[-1]["step"] == 500


def test_the_table_and_the_title_say_what_became_like_the_book():
    own = three_seeds(FALLS_AND_RISES)
    for one in own["runs"].values():
        one["texts"][-1]["known words"] = 0.5
    table, title = model5_runs.form_rows(own), model5_runs.form_title(own)
    assert list(table) == list(model5_runs.FORM)
    since = {measure: row["like the book to the end"] for measure, row in table.items()}
    assert table["known words"]["after 500 batches"] == 0.5 and since["known words"] == "not yet"
    assert table["median line"]["untrained"] is None and since["newlines"] == "from batch 400 on"
    assert "Not, or not to the end, by batch 500: known words" in title and "median line (from batch 100 on)" in title


# Which record


@pytest.fixture
def found(monkeypatch):
    """Sets what has been recorded."""
    return lambda *own: monkeypatch.setattr(timing, "recorded", lambda kind: list(own) if kind == "training" else [])


def test_the_record_with_the_most_batches_is_read(found):
    gpu, short = three_seeds(FALLS_AND_RISES), record(course_0=run(every=10))
    found(CPU_PART, gpu, short)
    assert records.full_size() is gpu
    on_cpu = {**three_seeds(FALLS_AND_RISES), "type": "cpu"}
    found(on_cpu, gpu)
    assert records.full_size() is gpu, "with as many batches the GPU's"


def test_records_of_other_texts_sizes_and_models_are_not_read(found):
    other = three_seeds(FALLS_AND_RISES)
    found({**other, "text": "The Brass Yard"}, {**other, "size": "smoke"}, record(course_0=run((11.0,))),
          {**other, "model": {**other["model"], "vocab_size": 4096}})
    assert records.full_size() is None
    found()
    assert records.full_size() is None


# Figures


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setattr(figures.plt, "show", lambda: None)
    yield
    figures.plt.close("all")


@pytest.mark.parametrize("own", [None, CPU_PART, three_seeds(FALLS_AND_RISES, lectures_0=run(FALLS_SLOWLY))])
def test_test_losses_are_points_over_passes(own):
    entries = [live_entry(), *model5_runs.recorded_entries(own)]
    groups = model5_runs.curves(entries)
    axes = figures.plot_bits_per_byte(groups, model5_runs.baselines(entries),
                                      model5_runs.summary(entries), 1 / model5_runs.passes(entries[-1], 1))
    assert [line.get_linewidth() for line in axes.lines if line.get_alpha()] == [1] * len(entries)
    points = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    assert len(points) == len(entries) and all(line.get_linestyle() == "None" for line in points)
    reads = [entry["run"]["batches"] * 4096 / entry["training tokens"] for entry in entries]
    assert [line.get_xdata()[-1] for line in points] == pytest.approx(reads)
    assert axes.get_xlabel() == "passes over the training set" and "bits per byte" in axes.get_ylabel()


@pytest.mark.parametrize("own", [CPU_PART, three_seeds(FALLS_AND_RISES)])
def test_the_form_is_drawn_relative_to_the_book(own):
    measures = {name: model5_runs.form(own, name) for name in model5_runs.FORM}
    names = list(measures)
    left, right = figures.plot_form([{name: measures[name] for name in half} for half in (names[:3], names[3:])],
                                    model5_runs.form_title(own))
    labels = [item.get_text() for item in left.get_legend().get_texts() + right.get_legend().get_texts()]
    assert labels == [*names[:3], "the book", *names[3:], "the book"]
    known = next(line for line in right.lines if line.get_label() == "known words")
    assert known.get_ydata()[:3] == pytest.approx([0.1, 0.5, 0.95])
