"""Notebook 07's exercises: typical wrong answers get a sentence that helps."""

import math

import pytest
import torch

from helpers.exercises import nb07


def spread_wrong(loss, tokens, text_bytes):
    return loss / tokens * text_bytes / math.log(2)


def forgets_the_ends(i, N, T):
    return T


def one_start_too_many(i, N, T):
    return min(i, N - T) - max(0, i - T + 1) + 1


def starts_at_zero(step, steps, warmup, highest, final_share):
    return highest * step / warmup if step < warmup else nb07.learning_rate(step, steps, warmup, highest, final_share)


def falls_to_zero(step, steps, warmup, highest, final_share):
    return nb07.learning_rate(step, steps, warmup, highest, 0.0)


def ignores_share(train_ids, test_ids, V, alpha, share):
    return nb07.bigram_loss(train_ids, test_ids, V, alpha, 0.5)


def adds_up(train_ids, test_ids, V, alpha, share):
    return nb07.bigram_loss(train_ids, test_ids, V, alpha, share) * (len(test_ids) - 1)


def divides_by_zero(train_ids, test_ids, V, alpha, share):
    pairs = torch.zeros(V, V).index_put_((train_ids[:-1], train_ids[1:]), torch.tensor(1.0), accumulate=True)
    return -(share * (pairs / pairs.sum(1, keepdim=True))[test_ids[:-1], test_ids[1:]]).log().mean()


@pytest.mark.parametrize(
    "exercise, wrong, says",
    [
        (nb07.bits, lambda loss, tokens, text_bytes: loss * tokens / text_bytes, "ln 2"),
        (nb07.bits, spread_wrong, "Turn the fraction round"),
        (nb07.windows, forgets_the_ends, "starts at 0"),
        (nb07.windows, one_start_too_many, "N - T - 1"),
        (nb07.schedule, starts_at_zero, "counted from 0"),
        (nb07.schedule, falls_to_zero, "half-way between"),
        (nb07.bigram, ignores_share, "only the unigram"),
        (nb07.bigram, adds_up, "mean"),
        (nb07.bigram, divides_by_zero, "divide by 0"),
        (nb07.bigram, lambda *arguments: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_wrong_answers_are_told_what_to_look_at(exercise, wrong, says, capsys):
    exercise.check(wrong)
    printed = capsys.readouterr().out
    assert "not yet" in printed and says in printed


def test_windows_agree_with_counting():
    for N, T in ((30, 1), (30, 7), (12, 11), (9, 5)):
        for i in range(N):
            assert nb07.windows_with(i, N, T) == sum(start <= i < start + T for start in range(N - T))
