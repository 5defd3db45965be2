"""Notebook 07's exercises: wrong answers get a helpful message, and correct answers in any form are accepted."""

import math

import numpy as np
import pytest
import torch

from helpers import corpus
from helpers.course.exercises import nb07

LN2 = math.log(2)


def spread_wrong(loss, tokens, text_bytes):
    return loss / tokens * text_bytes / LN2


def batch_with(limit=0, low=0, shift=1, shape=None, own_generator=False):
    """random_batch with one change."""

    def attempt(ids, B, T, generator):
        generator = None if own_generator else generator
        starts = torch.randint(low, len(ids) - T + limit, shape or (B, 1), generator=generator)
        positions = (starts + torch.arange(T)).expand(B, T)
        return ids[positions], ids[positions + shift]

    return attempt


def targets_by_rolling(ids, B, T, generator):
    X, _ = nb07.random_batch(ids, B, T, generator)
    return X, X.roll(-1, dims=1)


def one_target_less(ids, B, T, generator):
    X, _ = nb07.random_batch(ids, B, T, generator)
    return X, X[:, 1:]


def returns_positions(ids, B, T, generator):
    positions = torch.randint(len(ids) - T, (B, 1), generator=generator) + torch.arange(T)
    return positions, positions + 1


def every_position_on_its_own(ids, B, T, generator):
    positions = torch.randint(len(ids) - T, (B, T), generator=generator)
    return ids[positions], ids[positions + 1]


def corrected_starts(ids, B, T, generator):
    starts = torch.randint(len(ids), (B, 1), generator=generator).clamp(max=len(ids) - T - 1)
    positions = starts + torch.arange(T)
    return ids[positions], ids[positions + 1]


def slices_past_the_end(ids, B, T, generator):
    starts = torch.randint(len(ids) - T + 1, (B,), generator=generator).tolist()
    return torch.stack([ids[s : s + T] for s in starts]), torch.stack([ids[s + 1 : s + T + 1] for s in starts])


def always_the_same_seed(ids, B, T, generator):
    return nb07.random_batch(ids, B, T, torch.Generator().manual_seed(0))


def forgets_the_ends(i, N, T):
    return T


def forgets_the_right_end(i, N, T):
    return min(i + 1, T)


def one_start_too_many(i, N, T):
    return min(i, N - T) - max(0, i - T + 1) + 1


def one_too_few(i, N, T):
    return min(i, N - T - 1) - max(0, i - T + 1)


def starts_at_zero(step, steps, warmup, highest, final_share):
    return highest * step / warmup if step < warmup else nb07.learning_rate(step, steps, warmup, highest, final_share)


def falls_to_zero(step, steps, warmup, highest, final_share):
    return nb07.learning_rate(step, steps, warmup, highest, 0.0)


def a_straight_fall(step, steps, warmup, highest, final_share):
    progress = (step - warmup) / (steps - warmup)
    return highest * ((step + 1) / warmup if step < warmup else 1 - (1 - final_share) * progress)


def forgets_the_warm_up(step, steps, warmup, highest, final_share):
    fall = 0.5 * (1 + math.cos(math.pi * step / steps))
    return highest * ((step + 1) / warmup if step < warmup else final_share + (1 - final_share) * fall)


def ignores_share(train_ids, test_ids, V, alpha, share):
    return nb07.bigram_loss(train_ids, test_ids, V, alpha, 0.5)


def adds_up(train_ids, test_ids, V, alpha, share):
    return nb07.bigram_loss(train_ids, test_ids, V, alpha, share) * (len(test_ids) - 1)


def divides_by_zero(train_ids, test_ids, V, alpha, share):
    pairs = torch.zeros(V, V).index_put_((train_ids[:-1], train_ids[1:]), torch.tensor(1.0), accumulate=True)
    return -(share * (pairs / pairs.sum(1, keepdim=True))[test_ids[:-1], test_ids[1:]]).log().mean()


def bigram_by_numpy(train_ids, test_ids, V, alpha, share, turned=False, by_count=False, by_column=False, unseen=0.0):
    """The interpolated bigram computed in another way, with one change if asked."""
    train, test = train_ids.numpy(), test_ids.numpy()
    counts, pairs = np.bincount(train, minlength=V), np.zeros((V, V))
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    begun = counts if by_count else pairs.sum(1)
    total = 0.0
    for a, b in zip(test[:-1], test[1:]):
        part = share if pairs[a].sum() else unseen * share
        row, column = (b, a) if turned else (a, b)
        ratio = pairs[row, column] / max(1, pairs[:, b].sum() if by_column else begun[row])
        total -= math.log(part * ratio + (1 - part) * (counts[b] + alpha) / (len(train) + alpha * V))
    return total / (len(test) - 1)


def bigram_with(**changes):
    return lambda *arguments: bigram_by_numpy(*arguments, **changes)


def step_with(mistake):
    def attempt(model, x, y, *settings):
        loss = model(x, y).item()
        nb07._step_with(model, x, y, *settings, mistake)
        return loss

    return attempt


def keeps_the_gradient(model, x, y, rate, decay, limit):
    loss = model(x, y)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 - rate * decay * (p.ndim > 1)).sub_(rate * min(1, limit / norm) * p.grad)
    return loss.item()


def names_new_tensors(model, x, y, rate, decay, limit):
    loss = model(x, y)
    loss.backward()
    for p in model.parameters():
        p = p - rate * p.grad
    return loss.item()


def without_no_grad(model, x, y, rate, decay, limit):
    loss = model(x, y)
    loss.backward()
    for p in model.parameters():
        p -= rate * p.grad
    return loss.item()


def unties(model, x, y, rate, decay, limit):
    loss = nb07.training_step(model, x, y, rate, decay, limit)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return loss


def loss_after(model, x, y, *settings):
    nb07.training_step(model, x, y, *settings)
    return model(x, y)


WRONG = {
    "bits": [
        (lambda loss, tokens, text_bytes: loss * tokens / text_bytes, "divide by ln 2"),
        (lambda loss, tokens, text_bytes: loss * tokens / text_bytes * LN2, "You multiply by ln 2"),
        (lambda loss, tokens, text_bytes: loss / LN2, "bits per token"),
        (spread_wrong, "Invert the fraction"),
    ],
    "batch": [
        (batch_with(shift=0), "Y equals X"),
        (lambda ids, B, T, generator: nb07.random_batch(ids, B, T, generator)[::-1], "wrong way"),
        (batch_with(limit=1), "run past the end"),
        (slices_past_the_end, "run past the end"),
        (batch_with(limit=-1), "never a target"),
        (batch_with(low=1), "never an input"),
        (batch_with(own_generator=True), "two different batches"),
        (always_the_same_seed, "different seeds gave the same batch"),
        (batch_with(shape=(1, 1)), "same token"),
        (targets_by_rolling, "but the last of each row"),
        (one_target_less, "Y has the shape (600, 3)"),
        (lambda ids, B, T, generator: nb07.random_batch(ids, B, T, generator)[0], "two tensors"),
        (returns_positions, "positions, not tokens"),
        (every_position_on_its_own, "one start per row"),
        (corrected_starts, "equally likely"),
    ],
    "windows": [
        (lambda i, N, T: T + 1, "far from both ends"),
        (forgets_the_ends, "starts at 0"),
        (forgets_the_right_end, "only a target"),
        (one_start_too_many, "only a target"),
        (one_too_few, "far from both ends"),
        (lambda i, N, T: min(i + 1, T, N - 1 - i), "counting gives"),
    ],
    "schedule": [
        (starts_at_zero, "counted from 0"),
        (falls_to_zero, "half-way between"),
        (a_straight_fall, "half a cosine"),
        (forgets_the_warm_up, "still the highest"),
    ],
    "bigram": [
        (ignores_share, "only the unigram"),
        (adds_up, "mean over the test tokens"),
        (lambda *arguments: -nb07.bigram_loss(*arguments), "sign is wrong"),
        (lambda *arguments: nb07.bigram_loss(*arguments) / LN2, "natural logarithm"),
        (divides_by_zero, "divide by 0"),
        (bigram_with(unseen=1.0), "lambda must be 0"),
        (bigram_with(turned=True), "wrong way round"),
        (bigram_with(by_column=True), "second token of a pair"),
        (bigram_with(by_count=True), "followed by nothing"),
    ],
    "step": [
        *((step_with(mistake), message[:40]) for mistake, message in nb07.MISTAKES.items()),
        (keeps_the_gradient, "Clear the gradient after each step"),
        (names_new_tensors, "No parameter has changed"),
        (without_no_grad, "torch.no_grad()"),
        (unties, "two matrices"),
        (loss_after, "loss after the step"),
    ],
}


def loop_batch(ids, B, T, generator):
    starts = [int(torch.randint(0, len(ids) - T, (1,), generator=generator)) for _ in range(B)]
    return [torch.stack([ids[s + move : s + move + T] for s in starts]) for move in (0, 1)]


def counted_windows(i, N, T):
    return torch.tensor(sum(i in range(start, start + T) for start in range(N - T)))


def step_by_pytorch(model, x, y, rate, decay, limit):
    groups = [{"params": [p for p in model.parameters() if p.ndim >= 2]},
              {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    model.zero_grad()
    loss = model(x, y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    for group in groups:
        for p in group["params"]:
            p.data = p.data - rate * (p.grad + group.get("weight_decay", decay) * p.data)
    return loss


@pytest.mark.parametrize("exercise, right", [
    (nb07.bits, lambda loss, tokens, text_bytes: np.float64(loss) * np.log2(np.e) * tokens / text_bytes),
    (nb07.batch, loop_batch),
    (nb07.windows, counted_windows),
    (nb07.schedule, lambda step, *rest: torch.tensor(nb07.learning_rate(step, *rest))),
    (nb07.bigram, bigram_by_numpy),
    (nb07.step, step_by_pytorch),
])
def test_correct_answers_in_other_forms_are_accepted(exercise, right, capsys):
    exercise.check(right)
    assert ": correct." in capsys.readouterr().out


def test_windows_agree_with_counting():
    for N, T in ((30, 1), (30, 7), (12, 11), (9, 5)):
        for i in range(N):
            assert corpus.windows_with(i, N, T) == sum(start <= i < start + T for start in range(N - T))
