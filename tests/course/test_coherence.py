"""Coherence at several distances: what the measures see, what the rules decide, and the record that ships."""

import copy
import itertools

import numpy as np
import pytest

from data.recipes import measure_coherence
from helpers.course import coherence
from helpers.course.speedrun_results import mean_interval
from helpers.machine import assets

FAR = "control: the book in pieces of 16 words"
NEXT = "control: the passage that follows"
BOOKS = 8


def texts_of(subject, words=200, seed=0):
    """Words that go round in a fixed order, of which every tenth belongs to a subject."""
    order = np.random.default_rng(seed).integers(10, size=words // 10)
    return [word for i in order for word in (*"abcdefghi", f"{subject}{i % 3}")]


def record(near, far_fit, far_words, noise=0.0, is_openai=True):
    """A record whose model keeps these shares: neighbours' fit, the fit far apart, and the rare words far apart."""
    generator = np.random.default_rng(0)
    real = np.ones((BOOKS, len(coherence.DISTANCES)))
    fit, words = real.copy(), real.copy()
    fit[:, 0], fit[:, -1], words[:, -1] = near, far_fit, far_words
    rows = [(values + noise * generator.standard_normal(values.shape)).tolist() for values in (fit, words)]
    measures = {name: {coherence.REAL: real.tolist(), "temperature 1": own} for name, own in zip(coherence.NEAR, rows)}
    books = [{"author": f"author {i % 2}", "title": str(i), "texts": 4} for i in range(BOOKS)]
    return {"model": "a model", "is_openai": is_openai, "tokens": 224, "texts": 4 * BOOKS, "books": books,
            "measures": measures}


def test_words_fit_in_their_order_and_not_in_another():
    ranks = {letter: i for i, letter in enumerate("abcdefghi")}
    tables = coherence.fit_tables([texts_of("x", 2000)], ranks)
    assert tables.shape == (len(coherence.DISTANCES), 9, 9) and tables[0, 0, 1] > 1 > 0 > tables[0, 2, 1]
    ordered = [texts_of("x", seed=i) for i in range(6)]
    shuffled = [list(np.random.default_rng(i).permutation(words)) for i, words in enumerate(ordered)]
    groups = list(range(6))
    in_order, mixed = (coherence.fit(texts, groups, tables, ranks)[:, 0].mean() for texts in (ordered, shuffled))
    assert in_order > 1 and abs(mixed) < 0.2


def test_rare_words_return_in_a_text_with_a_subject_only():
    groups, frequent = [0, 0, 1, 1, 2, 2], set("abcdefghi")
    own = [texts_of(f"subject{i}", seed=i) for i in range(6)]
    mixed = [[word if word in frequent else words[i] for i, word in enumerate(own[0])]
             for words in itertools.islice(itertools.cycle([texts_of("s", seed=9)]), 6)]
    for distances in (coherence.DISTANCES, ((16, 64),)):
        values = coherence.recurrence(own, groups, frequent, distances)
        assert values.shape == (6, len(distances)) and values[:, -1].min() > 20
    assert abs(coherence.recurrence(mixed, groups, frequent)[:, -1].mean()) < 5
    assert coherence.recurrence([["a"] * 50] * 2, [0, 1], frequent).tolist() == [[0] * len(coherence.DISTANCES)] * 2


def test_pieces_keep_the_neighbours_and_lose_the_rest():
    texts = [[f"{name}{i}" for i in range(60)] for name in "abcdefgh"]
    for words, original in zip(coherence.in_pieces(texts, 16), texts):
        assert len(words) == len(original)
        same = [a[0] == b[0] and int(b[1:]) == int(a[1:]) + 1 for a, b in zip(words, words[1:])]
        assert sum(same) >= 56 and all(words[i][0] != words[i + 16][0] for i in range(0, 40))


def test_the_interval_of_a_mean_is_students():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    interval, (mean, half) = coherence.jackknifed(lambda x: x, values), mean_interval(values.tolist())
    assert (interval.value, interval.high - interval.value) == (pytest.approx(mean), pytest.approx(half))
    assert interval.seen > half and str(interval).startswith("3.50 (")


@pytest.mark.parametrize("shares, noise, expected", [
    ((0.97, 0.5, 0.3), 0.01, "holds"), ((0.5, 0.5, 0.3), 0.01, "does not hold"), ((0.97, 1, 1), 0.01, "does not hold"),
    ((0.97, 1.0, 0.3), 0.01, "depends"), ((0.97, 0.5, 1.0), 0.01, "depends"), ((0.97, 0.8, 0.3), 0.3, "inconclusive"),
])
def test_the_verdict_follows_the_shares(shares, noise, expected):
    rows = coherence.judged(record(*shares, noise), "temperature 1")
    verdict, condition, smallest = coherence.verdict(rows)
    assert verdict == expected and bool(smallest) == (verdict == "inconclusive")
    assert bool(condition) == (verdict in ("holds", "depends"))
    if verdict == "depends":
        lost, kept = ("rare words come back", "words fit together")[:: 1 if shares[1] == 1 else -1]
        assert f"loses that {lost}, not that {kept}" in condition


def test_only_openais_gpt2_settles_the_claim():
    ours, theirs = (coherence.claim_27(record(0.97, 0.5, 0.3, 0.01, is_openai)) for is_openai in (False, True))
    assert theirs[2] == "holds" and ours[2:] == ("unmeasured here", "", "")
    assert ours[0].startswith("a model shows (holds") and ours[0].endswith(theirs[0])
    assert "8 books by 2 authors" in theirs[1] and coherence.claim_27(None)[2] == "unmeasured here"


def test_the_record_that_ships_is_complete_and_its_controls_come_out_right():
    shipped = coherence.recorded()
    assert shipped["weights"] == assets.sha256(assets.DATA / "gpt2-course" / "model.safetensors")
    assert shipped["texts"] == sum(book["texts"] for book in shipped["books"]) >= 400
    assert [tuple(pair) for pair in shipped["distances"]] == list(coherence.DISTANCES)
    assert {book["author"] for book in shipped["books"]} == set(measure_coherence.library.TEST_AUTHORS)
    for rows in shipped["measures"].values():
        assert all(np.array(values).shape == (len(shipped["books"]), 5) for values in rows.values())
    following, pieces = ([row["holds"] for row in coherence.judged(shipped, name)] for name in (NEXT, FAR))
    assert following[0] is True and True not in following[1:], "a true text loses nothing"
    assert pieces == [True, True, True], "pieces are locally real, and lose the rest"
    assert coherence.recorded(is_openai=True) is None, "if it was measured, notebook 04 needs a new run"


def test_another_text_changes_what_the_record_shows():
    """Mutants of claim 27: with a true text or one in pieces in the model's place, the finding is another one."""
    shipped = coherence.recorded()
    found = {}
    for name in ("temperature 1", NEXT, FAR):
        changed = copy.deepcopy(shipped)
        for rows in changed["measures"].values():
            rows["temperature 1"] = rows[name]
        found[name] = coherence.claim_27(changed)[0].split(" shows ")[1].partition(":")[0]
    assert found[NEXT] not in (found["temperature 1"], found[FAR]) and found[FAR].startswith("(holds")


def test_authors_are_compared_without_intervals():
    shares = coherence.by_author(record(0.97, 0.5, 0.3), "fit", "temperature 1", -1)
    assert shares == {"author 0": pytest.approx(0.5), "author 1": pytest.approx(0.5)}
    assert coherence.label((1, 2)) == "1" and coherence.label((64, 128)) == "64–127"
