"""Notebook 07's exercises: wrong answers get a helpful message, and correct answers in any form are accepted."""

import copy
import math

import numpy as np
import pytest
import torch

from helpers import corpus
from helpers.course.exercises import byte_pairs, nb07
from tests.course.exercise_cases.nb07 import CASES

LN2 = math.log(2)


def spread_wrong(loss, tokens, text_bytes):
    return loss / tokens * text_bytes / LN2


def batch_with(limit=0, low=0, shift=1, shape=None, own_generator=False):
    """random_windows with one change."""

    def attempt(ids, B, T, generator):
        generator = None if own_generator else generator
        starts = torch.randint(low, len(ids) - T + limit, shape or (B, 1), generator=generator)
        positions = (starts + torch.arange(T)).expand(B, T)
        return ids[positions], ids[positions + shift]

    return attempt


def targets_by_rolling(ids, B, T, generator):
    X, _ = nb07.random_windows(ids, B, T, generator)
    return X, X.roll(-1, dims=1)


def one_target_less(ids, B, T, generator):
    X, _ = nb07.random_windows(ids, B, T, generator)
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
    return nb07.random_windows(ids, B, T, torch.Generator().manual_seed(0))


def windows_side_by_side(ids, B, T, generator):
    starts = torch.randint(len(ids) // T, (B, 1), generator=generator) * T
    positions = starts + torch.arange(T)
    return ids[positions], ids[positions + 1]


def next_number(ids, B, T, generator):
    X, _ = nb07.random_windows(ids, B, T, generator)
    return X, X + 1


def merge_by(mistake):
    return lambda piece, ranks: byte_pairs.merge_with(piece, ranks, mistake)


def the_numbers_of_bytes(piece, ranks):
    return list(piece)


def the_ids(piece, ranks):
    return [ranks[part] for part in nb07.merge_pairs(piece, ranks)]


def the_texts(piece, ranks):
    return [part.decode(errors="replace") for part in nb07.merge_pairs(piece, ranks)]


def loop_with(rate=lambda step: step, is_training=True, first_batch=False, batches=lambda config: config.steps,
              generator=lambda given: given, size=lambda config: config.batch_size, read=lambda loss: loss.item(),
              result=lambda losses: losses):
    """plain_loop with one change."""

    def attempt(model, train_step, ids, config, given):
        model.train(is_training)
        losses, batch = [], None
        for step in range(batches(config)):
            if not (first_batch and batch):
                batch = corpus.random_batch(ids, size(config), config.context, generator(given))
            losses.append(read(train_step(model, *batch, config.learning_rate_at(rate(step)))))
        return result(losses)

    return attempt


def loop_that_trains_a_copy(model, train_step, ids, config, generator):
    return nb07.plain_loop(copy.deepcopy(model), train_step, ids, config, generator)


def loop_with_x_and_y_exchanged(model, train_step, ids, config, generator):
    return nb07.plain_loop(model, lambda model, x, y, rate: train_step(model, y, x, rate), ids, config, generator)


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


def step_with(*mistakes):
    def attempt(model, x, y, *settings):
        parameters = list(model.parameters())
        loss = model(x, y)
        new = [*nb07.stepped(parameters, torch.autograd.grad(loss, parameters), *settings, mistakes)]
        for p, value in zip(parameters, new):
            p.data = value.detach()
        return loss.item()

    return attempt


def step_by_hand(order=("norm", "decay", "step"), norm=lambda norms: norms.norm().item(),
                 decays=lambda p: p.ndim >= 2):
    """A training step with other parts, or in another order."""

    def attempt(model, x, y, rate, decay, limit):
        loss, scale = model(x, y), 1.0
        loss.backward()
        with torch.no_grad():
            for part in order:
                if part == "norm":
                    scale = min(1, limit / norm(torch.stack([p.grad.norm() for p in model.parameters()])))
                for p in model.parameters():
                    if part == "add" and decays(p):
                        p.grad += decay * p
                    if part == "decay" and decays(p):
                        p *= 1 - rate * decay
                    if part == "step":
                        p -= rate * scale * p.grad
        model.zero_grad()
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
        (lambda loss, tokens, text_bytes: (loss, tokens), "a tuple of 2 numbers"),
        (lambda loss, tokens, text_bytes: loss / LN2 * (1 if tokens == text_bytes else 0.25), "2.5, 700, 1900"),
    ],
    "batch": [
        (batch_with(shift=0), "Y equals X"),
        (lambda ids, B, T, generator: nb07.random_windows(ids, B, T, generator)[::-1], "wrong way"),
        (batch_with(limit=1), "run past the end"),
        (slices_past_the_end, "run past the end"),
        (batch_with(limit=-1), "never a target"),
        (batch_with(low=1), "never an input"),
        (batch_with(own_generator=True), "two different batches"),
        (always_the_same_seed, "different seeds gave the same batch"),
        (batch_with(shape=(1, 1)), "same token"),
        (targets_by_rolling, "but the last of each row"),
        (one_target_less, "Y has the shape (600, 2)"),
        (lambda ids, B, T, generator: nb07.random_windows(ids, B, T, generator)[0], "two tensors"),
        (returns_positions, "positions, not tokens"),
        (every_position_on_its_own, "one start per row"),
        (corrected_starts, "equally likely"),
        (windows_side_by_side, "only at multiples of 3"),
        (next_number, "Look the targets up"),
        (lambda ids, B, T, generator: {"X": 1}, "You returned a dict"),
        (lambda ids, B, T, generator: (torch.zeros(600, 3), torch.zeros(600, 3)), "positions, not tokens"),
    ],
    "merges": [
        *((merge_by(mistake), message[:40]) for mistake, message in nb07.MERGE_MISTAKES.items()),
        (the_numbers_of_bytes, "numbers"),
        (the_ids, "numbers"),
        (the_texts, "yours holds str"),
        (lambda piece, ranks: piece, "a list of bytes"),
        (lambda piece, ranks: sorted(nb07.merge_pairs(piece, ranks)), "Put together"),
    ],
    "loop": [
        (loop_with(rate=lambda step: 0), "first learning rates"),
        (loop_with(rate=lambda step: step + 1), "counted from 0"),
        (loop_with(is_training=False), "training mode"),
        (loop_with(first_batch=True), "same batch"),
        (loop_with(batches=lambda config: config.steps + 1), "7; your loop calls train_step 8 times"),
        (loop_with(batches=lambda config: 7), "12; your loop calls train_step 7 times"),
        (loop_with(generator=lambda given: None), "with the generator"),
        (loop_with(size=lambda config: 3), "expected (B, T) = (2, 6)"),
        (loop_with(read=lambda loss: loss), "keep the graph"),
        (loop_with(result=lambda losses: sum(losses) / len(losses)), "losses of all 7 steps"),
        (loop_with(result=lambda losses: losses[-1:]), "losses of all 7 steps"),
        (loop_with(result=lambda losses: losses[::-1]), "but the losses are not"),
        (loop_with(result=lambda losses: "done"), "a str"),
        (loop_that_trains_a_copy, "Train the model that you are given"),
        (loop_with_x_and_y_exchanged, "x before y"),
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
        (lambda train_ids, test_ids, V, alpha, share: bigram_by_numpy(train_ids, test_ids, V, 0.1, share), "0.35"),
        (lambda *arguments: [1.0, 2.0], "a list of 2 numbers"),
    ],
    "step": [
        *((step_with(mistake), message[:40]) for mistake, message in nb07.MISTAKES.items()),
        (step_by_hand(("add", "norm", "step")), "so it changes the clipping"),
        (step_by_hand(("norm", "add", "step")), "You clip the weight decay together with the gradient"),
        (step_by_hand(("norm", "step", "decay")), "comes after the gradient's step"),
        (step_by_hand(norm=lambda norms: norms.sum().item()), "You add up the norms of the tensors"),
        (step_by_hand(("add", "norm", "step"), decays=lambda p: True), "not on biases and LayerNorms"),
        (step_by_hand(("norm", "step", "decay"), norm=lambda norms: norms.sum().item()), "comes after the gradient's"),
        (step_by_hand(("step", "decay"), decays=lambda p: True), "LayerNorms. Your weight decay comes after"),
        (step_with("sum of norms", "decay in gradient"), "You add up the norms of the tensors"),
        (step_by_hand(norm=lambda norms: 2 * norms.norm().item()), "the parameters are wrong by up to"),
        (keeps_the_gradient, "Clear the gradient after each step"),
        (names_new_tensors, "No parameter has changed"),
        (without_no_grad, "torch.no_grad()"),
        (unties, "two matrices"),
        (loss_after, "loss after the step"),
    ],
}


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


STYLES = [(name, style) for name, case in CASES.items() for style in case.styles]


@pytest.mark.parametrize("name, right", STYLES, ids=[f"{name}-{style.__name__}" for name, style in STYLES])
def test_correct_answers_in_other_forms_are_accepted(name, right, capsys):
    getattr(nb07, name).check(right)
    assert ": correct. " in capsys.readouterr().out


@pytest.mark.parametrize("name, attempt, used", [
    ("step", step_by_pytorch, "clip_grad"),
    ("windows", lambda i, N, T: corpus.windows_with(i, N, T), "windows_with"),
    ("batch", lambda ids, B, T, generator: corpus.random_batch(ids, B, T, generator), "random_batch"),
])
def test_the_package_is_noticed_where_the_learner_should_write(name, attempt, used, capsys):
    getattr(nb07, name).check(attempt)
    said = capsys.readouterr().out
    assert "not by hand" in said and used in said


def test_merging_agrees_with_tiktoken():
    tokenizer = corpus.load_tokenizer("course")
    ranks = tokenizer.encoding._mergeable_ranks
    for word in (*byte_pairs.WORDS, " unfortunately", "’s", " 1726", "Lilliputians"):
        ids = [ranks[part] for part in nb07.merge_pairs(word.encode(), ranks)]
        assert ids == tokenizer.encode(word).tolist(), word


def test_windows_agree_with_counting():
    for N, T in ((30, 1), (30, 7), (12, 11), (9, 5)):
        for i in range(N):
            counted = sum(start <= i < start + T for start in range(N - T))
            assert corpus.windows_with(i, N, T) == nb07.windows_with(i, N, T) == counted
