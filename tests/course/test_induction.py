"""The growth of an induction head: text whose best losses are known, runs that repeat, and records that continue."""

import json
import math
from dataclasses import replace

import pytest
import torch

from helpers.course import induction
from helpers.machine import timing

SMALL = replace(induction.SHAPE, n_embd=16)
SHORT = replace(induction.RECIPE, steps=4, batch_size=2, warmup_steps=1, eval_every=2)


@pytest.fixture(scope="module")
def chain():
    return induction.markov_chain()


@pytest.fixture(scope="module")
def text(chain):
    """Held-out text: ids (200, 64) and the lengths of its passages (200, 1)."""
    return induction.repetitive_text(chain, 200, 64, generator=torch.Generator().manual_seed(3))


# Text


def test_all_tokens_are_equally_frequent_and_equally_hard_to_predict(chain):
    V = len(chain)
    torch.testing.assert_close(chain.sum(0), torch.ones(V, dtype=torch.float64))
    torch.testing.assert_close(chain.sum(1), torch.ones(V, dtype=torch.float64))
    expected = (1 - induction.RATIO) / (1 - induction.RATIO**V) * induction.RATIO ** torch.arange(V)
    assert all(torch.allclose(row.sort(descending=True).values, expected.double()) for row in chain)
    assert len({tuple(row.argsort().tolist()) for row in chain}) == V, "each token has successors of its own"
    assert torch.equal(chain, induction.markov_chain()) and not torch.equal(chain, induction.markov_chain(seed=1))


def test_a_passage_follows_the_chain_and_starts_again(chain):
    ids, period = induction.repetitive_text(chain, 3000, 64, generator=torch.Generator().manual_seed(0))
    assert ids.shape == (3000, 64) and set(period.flatten().tolist()) == set(range(24, 41))
    for row, length in zip(ids[:50], period[:50, 0]):
        assert torch.equal(row[length:], row[:-length])
    assert not any(torch.equal(row[12:24], row[:12]) for row in ids)
    counts = torch.zeros(32, 32).index_put((ids[:, :23].flatten(), ids[:, 1:24].flatten()), torch.ones(()), True)
    assert (counts / counts.sum(1, keepdim=True) - chain).abs().max() < 0.03
    assert ids[:, 0].bincount(minlength=32).min() > 50


def test_parts_are_the_passage_and_its_repetitions_without_their_first_tokens():
    first, repeated = induction.parts(torch.zeros(2, 9, dtype=torch.int64), torch.tensor([[3], [5]]))
    assert first.int().tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]  # about tokens 1 to 8
    assert repeated.int().tolist() == [[0, 0, 0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]


def test_the_known_losses(chain, text):
    known = induction.known_losses(chain, *text)
    entropy = -(chain[0] * chain[0].log()).sum().item()
    assert list(known) == ["no context", "bigram", "one block", "copying"]
    assert known["no context"] == math.log(32) and known["bigram"] == pytest.approx(entropy, abs=0.05)
    assert 0 < known["copying"] < 0.05 < known["one block"] < known["bigram"] - 0.5


def test_the_best_reader_is_bayes_rule_on_a_text_that_is_small_enough_to_enumerate():
    """All texts of six tokens over two letters, whose passages have two or three tokens, with their probabilities."""
    chain, periods = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64), (2, 3)
    texts = torch.cartesian_prod(*[torch.arange(2)] * 6)
    probability = torch.zeros(len(texts), dtype=torch.float64)
    for row, ids in enumerate(texts.tolist()):
        for length in (2, 3):
            chances = [0.5] + [chain[a, b].item() for a, b in zip(ids, ids[1:length])]
            is_repeated = all(ids[t] == ids[t - length] for t in range(length, 6))
            probability[row] += 0.5 * math.prod(chances) * is_repeated
    assert probability.sum().item() == pytest.approx(1)
    possible = texts[probability > 0]
    losses = induction.copying_losses(chain, possible, periods)
    for ids, loss in zip(possible, losses):
        for t in range(1, 6):
            read = probability[(texts[:, :t] == ids[:t]).all(1)].sum()
            and_next = probability[(texts[:, : t + 1] == ids[: t + 1]).all(1)].sum()
            assert loss[t - 1].item() == pytest.approx(-(and_next / read).log().item(), abs=1e-9)


def test_the_reader_of_one_block_weighs_what_may_be_copied_by_what_follows_the_current_token(chain, text):
    ids = text[0][:3]
    losses = induction.one_block_losses(chain, ids, (24, 26))
    for row, loss in zip(ids.tolist(), losses):
        assert loss[:23].tolist() == pytest.approx([-chain[a, b].log().item() for a, b in zip(row[:23], row[1:24])])
        for t in (30, 63):
            candidates = [row[t - length] for length in (24, 25, 26)]
            weights = [chain[row[t - 1], token].item() for token in candidates]
            right = sum(weight for weight, token in zip(weights, candidates) if token == row[t])
            expected = -math.log(right / sum(weights)) if right else math.inf
            assert loss[t - 1].item() == pytest.approx(expected)


# Growing


def test_a_run_measures_what_it_says_and_repeats():
    seen = [(list(growth.step), len(growth.train_loss)) for growth in induction.growing(5, SMALL, SHORT)]
    assert seen == [([0], 0), ([0, 2], 2), ([0, 2, 4], 4)]
    growth, same, other = (induction.grow(seed, SMALL, SHORT) for seed in (5, 5, 6))
    assert growth.train_loss == same.train_loss != other.train_loss and growth.known == other.known
    assert growth.repeated == same.repeated != other.repeated and growth.seconds > 0
    assert [torch.tensor(scores).shape for scores in (growth.induction, growth.previous_token)] == [(3, 2, 2)] * 2


def test_the_first_steps_learn_the_chain_and_nothing_else():
    """After 40 steps the losses are much nearer to a bigram reader's than to ln V, on repetitions too."""
    growth = induction.grow(0, recipe=replace(induction.RECIPE, steps=40))
    for losses in (growth.first, growth.repeated):
        assert losses[0] == pytest.approx(growth.known["no context"], abs=0.05)
        assert growth.known["bigram"] < losses[-1] < growth.known["bigram"] + 0.3
    assert induction.formed(growth.step, growth.induction) is None and torch.tensor(growth.induction).max() < 0.1


@pytest.mark.parametrize("scores, expected", [
    ([0.1, 0.5, 0.5, 0.5, 0.5], 20), ([0.5, 0.1, 0.5, 0.1, 0.5], None), ([0.1, 0.1, 0.1, 0.5, 0.5], None),
    ([0.4, 0.4, 0.4, 0.4, 0.4], None), ([0.5, 0.5, 0.1, 0.1, 0.1], None), ([0.5, 0.5, 0.5, 0.1, 0.1], 0)])
def test_a_head_has_formed_when_three_measurements_in_a_row_say_so(scores, expected):
    of_heads = [[[0.0, 0.1], [score, 0.2]] for score in scores]
    assert induction.formed([0, 20, 40, 60, 80], of_heads) == expected
    assert induction.formed([0, 20], of_heads[:2]) is None


def test_two_heads_that_take_turns_are_not_a_head_that_has_formed():
    turns = [[[0.5, 0.1]], [[0.1, 0.5]]] * 4
    assert induction.formed(list(range(8)), turns) is None
    assert induction.formed(list(range(8)), [[[0.5, 0.5]]] * 8) == 0


# Records


def test_a_record_is_complete_and_continues(tmp_path, capsys):
    def record(*seeds, **settings):
        path = induction.record(seeds, folder=tmp_path, shape=SMALL, **{"recipe": SHORT, **settings})
        return json.loads(path.read_text(encoding="utf-8")), capsys.readouterr().out.splitlines()

    first, printed = record(1)
    assert list(first["runs"]) == ["2 blocks, seed 1", "1 block, seed 1"] and len(printed) == 2
    assert {**timing.origin("cpu"), "date": first["date"]} == {key: first[key] for key in timing.origin("cpu")}
    run = first["runs"]["2 blocks, seed 1"]
    assert run["step"] == [0, 2, 4] and len(run["train_loss"]) == 2 and len(run["first"]) == len(run["repeated"]) == 3
    growth = induction.grow(1, SMALL, SHORT)
    assert run["repeated"] == pytest.approx(growth.repeated, abs=1e-4)
    assert run["train_loss"][1] == pytest.approx(sum(growth.train_loss[2:]) / 2, abs=1e-4)
    assert torch.tensor(run["induction"]).shape == (3, 2, 2) and run["induction_formed"] is None
    assert torch.tensor(first["runs"]["1 block, seed 1"]["induction"]).shape == (3, 1, 2)
    assert first["known"]["bigram"] == pytest.approx(growth.known["bigram"], abs=1e-4)
    second, printed = record(0, 1, blocks=[2])
    assert [line.partition(":")[0] for line in printed] == ["2 blocks, seed 0"]
    assert list(second["runs"]) == ["2 blocks, seed 0", "2 blocks, seed 1", "1 block, seed 1"]
    assert second["runs"]["2 blocks, seed 1"] == run
    changed, printed = record(1, blocks=[1], recipe=replace(SHORT, learning_rate=1e-3))
    assert list(changed["runs"]) == ["1 block, seed 1"], "runs of other settings are not mixed"


def test_the_command_runs_and_lists(tmp_path, capsys, monkeypatch):
    grow = induction.grow
    monkeypatch.setattr(induction, "grow", lambda seed, shape, recipe: grow(seed, replace(SMALL, n_layer=1), SHORT))
    assert induction.main(["--seeds", "3", "--blocks", "1", "--folder", str(tmp_path)]) == 0
    assert "1 block, seed 3: an induction head after None steps" in capsys.readouterr().out
    assert induction.main(["--list", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("1 block, seed 3: an induction head after None steps (")
