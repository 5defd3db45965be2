"""What the records of notebook 09 allow to say: comparisons, their intervals, and the rows of claims 24, 26, 28, 30."""

import math
import statistics

import numpy as np
import pytest

from helpers.course import arms, claims, experiment_results
from helpers.course.experiment_results import Comparison, compare, judged, leaks, runs_of

ZIGZAG = (0.01, -0.01, 0.02, -0.02, 0.0, 0.01, -0.01, 0.02, -0.02, 0.0)  # ten seeds' luck; its mean is 0


def recorded(**arms):
    """Runs as recorded. arms: {name: {key: ten losses, or one that all seeds share}}."""

    def run(values, seed):
        row = {key: value[seed] if isinstance(value, (list, tuple)) else value for key, value in values.items()}
        other = {key.removeprefix("other_"): row.pop(key) for key in list(row) if key.startswith("other_")}
        return {"train": 4.0, **row, "other": {name.replace("_", " "): value for name, value in other.items()}}

    return runs_of({name: {"runs": {str(seed): run(values, seed) for seed in range(10)}}
                    for name, values in arms.items()})


def around(mean, spread=1.0):
    return [mean + spread * luck for luck in ZIGZAG]


def added(number, row):
    """The row as the ledger keeps it: it must accept what the rule returns."""
    ledger = claims.Ledger("09")
    ledger.add(number, *row)
    return ledger.claims[0]


# --- comparisons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difference, half, reading", [
    (0.2, 0.1, "higher"), (0.1, 0.1, "inconclusive"), (0.11, 0.1, "higher"),
    (-0.2, 0.1, "lower"), (-0.1, 0.1, "inconclusive"), (-0.11, 0.1, "lower"),
    (0.0, 0.049, "equal"), (0.02, 0.029, "equal"), (0.0, 0.05, "inconclusive"), (0.02, 0.03, "inconclusive"),
    (0.0, 0.0, "equal"), (0.01, 0.005, "higher"),  # a small effect that is clear is an effect
])
def test_the_reading_of_a_comparison(difference, half, reading):
    comparison = Comparison(difference, half, 10)
    assert comparison.reading == reading
    words = {"equal": "equal within 0.05", "inconclusive": f"inconclusive: {comparison.smallest:.2f} would"}
    assert comparison.row()["reading"].startswith(words.get(reading, reading)) and comparison.row()["pairs"] == 10


def test_the_interval_is_that_of_students_t():
    differences = around(0.3)
    comparison = judged(iter(differences))
    error = statistics.stdev(differences) / math.sqrt(10)
    assert comparison.half == pytest.approx(3.2498 * error, rel=1e-3) and comparison.number == 10
    assert comparison.difference == pytest.approx(0.3) and str(comparison) == "+0.300 ± 0.015"
    for number, t in ((2, 63.657), (3, 9.925), (5, 4.604)):
        few = [0.0, 1.0, 0.5, 0.2, 0.7][:number]
        assert judged(few).half == pytest.approx(t * statistics.stdev(few) / math.sqrt(number), rel=1e-3)
    with pytest.raises(ValueError, match="at least two"):
        judged([0.1])


def simulated(effect, number, experiments=40_000):
    """Means and standard errors of many experiments whose differences are drawn from N(effect, 1)."""
    draws = np.random.default_rng(0).normal(effect, 1, (experiments, number))
    return draws.mean(axis=1), draws.std(axis=1, ddof=1) / math.sqrt(number)


def test_one_of_a_hundred_comparisons_of_equal_arms_excludes_zero():
    comparison = judged([1.0, 2.0, 3.0, 4.0, 5.0])
    factor = comparison.half / statistics.stdev([1, 2, 3, 4, 5]) * math.sqrt(5)
    means, errors = simulated(0, 5)
    assert (abs(means) > factor * errors).mean() == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("number", [5, 10])
def test_four_of_five_experiments_find_the_smallest_effect_that_is_named(number):
    at_one = judged([-1.0, 1.0] * 5)._replace(number=number)
    factor = experiment_results.quantile(0.995, number - 1)
    smallest = at_one._replace(half=factor / math.sqrt(number)).smallest  # of differences with a deviation of 1
    means, errors = simulated(smallest, number)
    assert 0.72 < (means > factor * errors).mean() < 0.85
    means, errors = simulated(smallest / 2, number)
    assert (means > factor * errors).mean() < 0.3, "half of it is usually missed"


def test_arms_are_compared_seed_by_seed():
    luck = [0.0, 3.0, -2.0, 1.0, 0.5, -1.0, 2.0, -3.0, 0.7, 0.1]  # shared by both arms: the interval is narrow
    runs = recorded(base={"test": [5 + x for x in luck]}, other={"test": [5.1 + x for x in luck]})
    comparison = compare(runs, "other", "base")
    assert comparison.difference == pytest.approx(0.1) and comparison.half < 1e-9
    assert compare(runs, "other", "base", "gap").difference == pytest.approx(0.1)
    assert compare(runs.drop(("other", 3)), "other", "base").number == 9


def test_the_table_of_runs_has_the_gap_and_nested_values():
    runs = runs_of({"a": {"runs": {"2": {"test": 5.0, "train": 4.5, "other": {"new text": 6.0},
                                         "quality": {"known words": 0.9},
                                         "curve": {"step": [0, 1], "validation": [5.0, 4.0]}}}}})
    row = runs.loc[("a", 2)]
    assert row["gap"] == 0.5 and row["other.new text"] == 6.0 and row["quality.known words"] == 0.9
    assert row["curve.step"] == [0, 1] and (row["kept.step"], row["kept.validation"]) == (1, 4.0)


# --- claim 24 --------------------------------------------------------------------------------------------------------


PASSES = {("base", "random"): 2.9, ("epochs_short", "random_short"): 0.72}


def claim_24(after_three=0.08, after_one=0.0, spread=1.0, coverage=0.632, first_token=1 / 64):
    runs = recorded(base={"test": 4.7}, random={"test": around(4.7 + after_three, spread)},
                    epochs_short={"test": 5.3}, random_short={"test": around(5.3 + after_one, spread)})
    return added(24, experiment_results.claim_24(runs, PASSES, coverage, 4e-5, first_token, "here"))


def test_claim_24_is_settled_by_counting_and_names_what_it_costs():
    row = claim_24()
    assert row.verdict == "holds" and "after 2.9 passes random windows end higher" in row.condition
    assert "after 0.7 passes the loss is equal within 0.05 nats" in row.condition
    assert "one pass misses 37% of the tokens, ten passes 0.00%" in row.measured and "+0.080 ±" in row.measured
    assert "random windows end lower" in claim_24(after_three=-0.08).condition
    assert "no clear difference" in claim_24(spread=10).condition


@pytest.mark.parametrize("mutant", [{"coverage": 0.95}, {"first_token": 0.9}], ids=str)
def test_claim_24_falls_if_windows_were_even(mutant):
    assert claim_24(**mutant).verdict == "does not hold"


# --- claim 28 --------------------------------------------------------------------------------------------------------


def claim_28(wide_gap, wide_test, large_gap, large_test, noise=1.0, noise_large=None):
    """noise: of both comparisons with a tied model of the same width; noise_large: of the others."""
    noise_large = noise if noise_large is None else noise_large
    wide = {"test": around(5 - wide_test, noise), "train": [test - (1 - wide_gap) for test in around(5 - wide_test)]}
    large = {"test": around(5 - large_test, noise_large),
             "train": [test - (1 - large_gap) for test in around(5 - large_test)]}
    runs = recorded(untied={"test": 5.0, "train": 4.0}, base=wide, tied_wider=large)
    return added(28, experiment_results.claim_28(runs, "here"))


def test_claim_28_holds_if_gap_and_loss_are_smaller_with_tied_weights_in_both_comparisons():
    row = claim_28(0.2, 0.2, 0.2, 0.2)
    assert row.verdict == "holds" and row.condition.count("smaller with tied weights") == 4
    assert "test loss, same width +0.200 ±" in row.measured


@pytest.mark.parametrize("effects, verdict", [
    ((-0.2, -0.2, -0.2, -0.2), "does not hold"),  # larger
    ((0, 0, 0, 0), "does not hold"),  # equal
    ((-0.2, 0, 0, -0.2), "does not hold"),
    ((0.2, 0.2, 0, 0), "depends"),
    ((0.2, -0.2, 0.2, 0.2), "depends"),
], ids=str)
def test_claim_28_falls_or_depends_where_tied_weights_do_not_help(effects, verdict):
    assert claim_28(*effects).verdict == verdict


def test_claim_28_is_inconclusive_while_what_is_clear_does_not_contradict_itself():
    row = claim_28(0, 0, 0, 0, noise=10)
    assert row.verdict == "inconclusive" and 0.15 < float(row.smallest.removesuffix(" nats")) < 0.3
    for effects in ((0.3, 0.3, 0, 0), (-0.3, -0.3, 0, 0)):
        row = claim_28(*effects, noise_large=10)
        assert row.verdict == "inconclusive" and row.smallest, "the unclear cases might agree or differ"
    assert claim_28(0.3, -0.3, 0, 0, noise_large=10).verdict == "depends"


# --- claim 26 --------------------------------------------------------------------------------------------------------


def books(last, spread=0.02, authors=12, per_author=1, within=0.0, seed=0):
    """A record of positions: the last tenth's loss is `last` nats above the others', with spread between authors and
    within the books of one author."""
    random = np.random.default_rng(seed)
    found = {}
    for author in range(authors):
        own = last + random.normal(0, spread)
        for number in range(per_author):
            losses = [4.0] * 9 + [4.0 + own + random.normal(0, within)]
            found[f"book {number} of {author}"] = {"author": f"author {author}", "trigram": losses}
    return {"tokenizer": "a tokenizer", "books": found}


def claim_26(*arguments, **settings):
    return added(26, experiment_results.claim_26(books(*arguments, **settings)))


def test_contrasts_compare_each_tenth_with_the_mean_of_the_others_and_sum_to_zero():
    losses = list(np.random.default_rng(1).normal(4, 1, 10))
    found = experiment_results.contrasts(losses)
    assert found[3] == pytest.approx(losses[3] - np.mean(losses[:3] + losses[4:])) and sum(found) == pytest.approx(0)


def test_the_books_of_one_author_count_once():
    record = books(0.1, authors=3)
    record["books"]["another"] = {"author": "author 0", "trigram": [4.0] * 9 + [5.0]}
    record["books"]["unmeasured"] = {"author": "author 9"}
    each = experiment_results.by_author(record)
    assert each.shape == (3, 10)
    own = experiment_results.contrasts(record["books"]["book 0 of 0"]["trigram"])[-1]
    assert each[0, -1] == pytest.approx((own + 1.0) / 2)


def test_claim_26_holds_if_the_last_tenth_is_harder_or_easier_on_average():
    row = claim_26(0.1)
    assert row.verdict == "holds" and "the last tenth is harder on average" in row.condition
    assert "12 books of 12 authors: +0.093 ±" in row.measured
    assert "easier on average" in claim_26(-0.1).condition and claim_26(-0.1).verdict == "holds"


def test_claim_26_falls_if_the_last_tenth_is_like_the_others():
    row = claim_26(0.0)
    assert row.verdict == "does not hold" and "as hard as the others, within 0.05 nats" in row.condition


def test_claim_26_is_blocked_by_scatter_and_by_missing_books():
    row = claim_26(0.05, spread=0.3)
    assert row.verdict == "inconclusive" and float(row.smallest.removesuffix(" nats")) > 0.2
    assert "in a single book it may lie 0." in row.condition
    assert added(26, experiment_results.claim_26(None)).verdict == "unmeasured here"


def test_many_books_of_few_authors_are_not_many_observations():
    """A hundred books that scatter little within their author, but authors that differ."""
    few_authors = books(0.15, spread=0.2, authors=4, per_author=25, within=0.01, seed=2)
    by_book = judged([experiment_results.contrasts(book["trigram"])[-1] for book in few_authors["books"].values()])
    assert by_book.reading in ("higher", "lower")
    assert added(26, experiment_results.claim_26(few_authors)).verdict == "inconclusive"


def test_claim_26_shows_what_small_models_say():
    record = books(0.1)
    record["books"]["book 0 of 0"]["model"] = [5.0] * 9 + [5.25]
    assert "small GPTs on 1 of the books: +0.25" in experiment_results.claim_26(record)[0]


# --- claim 30 --------------------------------------------------------------------------------------------------------


def split_runs(hidden, harder=0.0, spread=1.0):
    """Runs of both splits. hidden: {number of passages: nats that a split by window hides}; harder: how much more
    difficult the new text is than the passages. The losses at the end, after overfitting, do not count."""
    arms = {}
    for number, nats in hidden.items():
        for name, own in ((f"window_{number}", around(5.0 - nats, spread)), (f"passage_{number}", [5.0] * 10)):
            curves = [{"step": [0, 10, 20], "validation": [8.0, 5.0, 9.0], "test": [8.0, loss, 0.1],
                       "new text": [8.0, 5.0 + harder, 9.0]} for loss in own]
            arms[name] = {"test": 0.1, "curve": curves}
    return recorded(**arms)


def claim_30(hidden, **settings):
    return added(30, experiment_results.claim_30(leaks(split_runs(hidden, **settings), list(hidden)), 0.0, "here"))


def test_leaks_subtract_what_new_text_and_passages_differ_by():
    for harder in (0.0, 0.7):
        found = leaks(split_runs({4: 1.0, 200: 0.1}, harder=harder), (4, 200))
        assert found[4].difference == pytest.approx(1.0) and found[200].difference == pytest.approx(0.1)
        assert found[4].half == pytest.approx(judged(around(1.0)).half)


def test_claim_30_falls_by_a_clear_leak_on_text():
    row = claim_30({4: 1.0, 12: 0.3, 200: 0.0})
    assert row.verdict == "does not hold" and row.unmeasured == "biomedical data"
    assert "clearly with 4 and 12 passages" in row.condition and "shares 0% of the test tokens" in row.condition
    assert "4 passages +1.000 ±" in row.measured and "200 passages" in row.measured


@pytest.mark.parametrize("hidden, settings", [
    ({4: 0.0, 12: 0.0}, {}), ({4: -0.5, 12: -0.5}, {}), ({4: 0.05, 12: 0.05}, {"spread": 10}),
    ({4: 0.0, 12: 0.0}, {"harder": 0.8}),  # as much harder for both splits: no leak
], ids=str)
def test_claim_30_is_not_settled_without_a_leak(hidden, settings):
    row = claim_30(hidden, **settings)
    assert row.verdict == "unmeasured here" and "no clear leak" in row.condition and row.smallest.endswith(" nats")


def test_numbers_are_listed_in_words():
    assert [experiment_results._listed(numbers) for numbers in ([4], [4, 12], [4, 12, 40])] == [
        "4", "4 and 12", "4, 12 and 40"]


# --- counting --------------------------------------------------------------------------------------------------------


def test_an_arm_is_compared_with_counting_on_the_same_split(monkeypatch):
    class Book:
        tokenizer = type("Tokenizer", (), {"vocab_size": 7})

        def split(self):
            return "train", "test"

    def losses(train, test, vocab_size):
        assert (train, test, vocab_size) == ("train", "test", 7)
        return {"Kneser-Ney bigram": 9.0, "Kneser-Ney trigram": 5.0}

    monkeypatch.setattr(experiment_results.ngrams, "kneser_ney_losses", losses)
    comparison, trigram = experiment_results.below_counting(recorded(base={"test": around(4.8)}), Book())
    assert trigram == 5.0 and comparison.difference == pytest.approx(-0.2) and comparison.reading == "lower"


# --- how long to train, and when a text looks right ------------------------------------------------------------------


def with_curves(*test_losses, steps=100):
    """A record of an arm whose runs were measured six times."""
    every = [0, 20, 40, 60, 80, 100]
    return {"training": {"steps": steps}, "runs": {str(seed): {"curve": {"step": every, "test": losses}}
                                                   for seed, losses in enumerate(test_losses)}}


@pytest.mark.parametrize("last, words", [(4.0, "flat"), (3.8, "still falling"), (4.2, "rising"), (3.98, "not clear")])
def test_the_end_of_a_curve_is_judged_over_the_seeds(last, words):
    luck = (0.0, 0.002, -0.002, 0.001, -0.001)
    record = with_curves(*([8, 5, 4.5, 4.2, 4.0, last + own] for own in luck))
    row = experiment_results.convergence_row(record)
    assert row["end"] == words and row["batches"] == 100 and row["test loss"] == pytest.approx(last)
    lowest = min(4.0, last)
    assert row["first fifth brings"] == pytest.approx(3 / (8 - lowest), rel=0.01)


def test_a_flat_mean_of_seeds_that_differ_widely_is_not_flat():
    record = with_curves(*([8, 5, 4.5, 4.2, 4.0, 4.0 + own] for own in (0.1, -0.1, 0.05, -0.05, 0.0)))
    assert experiment_results.convergence_row(record)["end"] == "not clear"


def test_what_longer_runs_bring_is_said_in_words():
    records = {}
    for kind in arms.SCHEDULES:
        for number in arms.BUDGETS:
            end = 5.0 - 0.3 * number if kind == "linear" else 5.0 - 0.2 * number
            record = with_curves(*([8, 5.5, 5.2, 5.1, 5.0, end + own] for own in (0, 0.01)), steps=round(100 * number))
            for run in record["runs"].values():
                run |= {"test": run["curve"]["test"][-1], "train": 1.0}
                run["curve"]["validation"] = run["curve"]["test"]
            records[f"{kind}_{number:g}"] = record
    words = experiment_results.convergence_words(records)
    assert words.startswith("in notebook 09 (50 to 200 batches, 3 schedules, 2 seeds) 76% to 82% of the fall")
    assert words.endswith("twice as many batches end 0.10 to 0.30 nats lower")


def test_a_measure_has_arrived_when_it_stays_beyond_most_of_its_way():
    curve = {"step": [0, 10, 20, 30, 40], "early": [0, 0.95, 1, 1, 1], "late": [0, 0.1, 0.2, 0.95, 1],
             "back": [0, 0.95, 0.5, 0.95, 1], "falling": [9, 4, 1.5, 1.05, 1], "constant at last": [0, 0, 0, 0, 1]}
    runs = runs_of({"arm": {"runs": {"0": {"test": 1.0, "train": 1.0, "curve": {**curve, "validation": [0] * 5}}}}})
    found = experiment_results.arrivals(runs, "arm", list(curve)[1:])
    assert found == {"early": 10, "late": 30, "back": 30, "falling": 20, "constant at last": 40}


def test_two_groups_are_compared_by_students_t():
    runs = runs_of({name: {"runs": {str(seed): {"test": loss, "train": 1.0} for seed, loss in enumerate(losses)}}
                    for name, losses in {"few": [1.0, 2.0, 3.0], "many": [2.0, 4.0, 6.0, 8.0]}.items()})
    comparison = experiment_results.compare_groups(runs, "few", "many")
    assert comparison.difference == pytest.approx(-3.0) and comparison.number == 6
    assert comparison.half == pytest.approx(4.0321 * math.sqrt(4.4 * (1 / 3 + 1 / 4)), rel=1e-3)
    assert experiment_results.compare_groups(runs, "many", "few").difference == pytest.approx(3.0)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_shapes_are_compared_over_the_seeds_that_all_of_them_have():
    runs = recorded(base={"test": around(5.0)}, shape_1_4={"test": around(5.2)}, shape_8_4={"test": around(4.9)},
                    time_8_4={"test": around(6.0)}, shape_2_1={"test": around(5.5)})
    runs = runs.drop([("shape_8_4", seed) for seed in range(3, 10)])
    curve = experiment_results.shape_curve(runs, "shape", [(8, 4), (1, 4)], 2, axis=0)
    assert list(curve) == [1, 2, 8] and curve[8] == pytest.approx((4.9 + 0.02 / 3, 4.89, 4.92))
    assert curve[2] == pytest.approx((5.0 + 0.02 / 3, 4.99, 5.02)), "the first three seeds only"
    assert experiment_results.shape_curve(runs, "shape", [(2, 1)], 4, axis=1)[1][0] == pytest.approx(5.5)
