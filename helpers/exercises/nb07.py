"""Exercises of notebook 07: bits per byte, windows through a token, a bigram model, the learning rate's schedule."""

import math

import torch

from helpers import corpus
from helpers.exercises import Exercise, NotYet, needs_answer
from helpers.training import TrainConfig


def close(answer, right, tolerance=1e-6):
    """Whether a learner's number (plain, NumPy's or torch's) is the right one."""
    return math.isclose(float(answer), right, rel_tol=tolerance, abs_tol=1e-12)


# --- bits per byte ---------------------------------------------------------------------------------------------------


def bits_per_byte(loss, tokens, text_bytes):
    """Mean loss in nats per token, number of tokens, number of bytes of their text -> bits per byte."""
    return loss * tokens / text_bytes / math.log(2)


def _test_bits(attempt):
    one = needs_answer(attempt(math.log(2), 100, 100))
    if close(one, math.log(2)):
        raise NotYet("One bit per token at one byte per token must give 1. Nats become bits by a division by ln 2.")
    if not close(one, 1):
        raise NotYet(f"bits_per_byte(ln 2, 100, 100) gives {float(one):.4g}; one bit per token and byte is 1.")
    answer = attempt(4.0, 1000, 4000)
    if close(answer, 4.0 * 4 / math.log(2)):
        raise NotYet("Turn the fraction round: longer tokens (fewer tokens per byte) must give fewer bits per byte.")
    if not close(answer, bits_per_byte(4.0, 1000, 4000)):
        raise NotYet(f"bits_per_byte(4.0, 1000, 4000) gives {float(answer):.4g}. First the loss of the whole text.")
    return "The same text costs the same number of bytes for every tokenizer, so this number compares them all."


# --- windows through a token -----------------------------------------------------------------------------------------


def windows_with(i, N, T):
    """How many of the N - T starts give a window of T tokens that holds token i."""
    first_start = max(0, i - T + 1)
    last_start = min(i, N - T - 1)
    return max(0, last_start - first_start + 1)


def _test_windows(attempt):
    N, T = 20, 5
    if needs_answer(attempt(10, N, T)) != T:
        raise NotYet(f"Token 10 of 20 is far from both ends: {T} windows of {T} tokens hold it.")
    if attempt(0, N, T) != 1:
        raise NotYet("Token 0 is held by one window only, the one that starts at 0.")
    for i in range(N):
        right = sum(start <= i < start + T for start in range(N - T))
        if attempt(i, N, T) != right:
            raise NotYet(
                f"windows_with({i}, {N}, {T}) gives {attempt(i, N, T)}, counting gives {right}. "
                f"The starts run from 0 to N - T - 1 = {N - T - 1}."
            )
    return "Divided by N - T it is the chance that one draw visits the token."


# --- an interpolated bigram ------------------------------------------------------------------------------------------


def bigram_loss(train_ids, test_ids, V, alpha, share):
    """The test loss, in nats per token, of share * bigram + (1 - share) * unigram; of the unigram after a new token."""
    counts = torch.bincount(train_ids, minlength=V).double()  # (V,)
    unigram = (counts + alpha) / (len(train_ids) + alpha * V)
    pairs = torch.zeros(V, V, dtype=torch.float64)  # how often each token followed each
    pairs.index_put_((train_ids[:-1], train_ids[1:]), torch.ones(len(train_ids) - 1).double(), accumulate=True)
    begun = pairs.sum(dim=1)  # (V,): how often anything followed a token
    followed = pairs / begun[:, None].clamp(min=1)  # rows that were never seen stay 0
    before, new = test_ids[:-1], test_ids[1:]
    share = torch.where(begun[before] > 0, share, 0.0)  # after a token never seen, all is left to the unigram
    return -(share * followed[before, new] + (1 - share) * unigram[new]).log().mean()


def _test_bigram(attempt):
    generator = torch.Generator().manual_seed(0)
    ids = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05]), 300, replacement=True, generator=generator)
    ids[1::3] = (ids[0::3] + 1) % 5  # some structure from one token to the next
    train_ids, test_ids, V = ids[:240], torch.cat([ids[240:], torch.tensor([5, 0])]), 7  # 5 and 6 are never trained on
    for share, advice in (
        (0.0, "With share = 0 only the unigram is left: (count + alpha) / (N + alpha * V)."),
        (0.6, "With share = 0.6: count(a, b) / count(a, anything); after an a never seen, lambda is 0."),
    ):
        answer = float(needs_answer(attempt(train_ids, test_ids, V, 0.1, share)))
        right = bigram_loss(train_ids, test_ids, V, 0.1, share).item()
        if not math.isfinite(answer):
            raise NotYet(f"The loss is {answer}. {advice} A token that was never seen must not divide by 0.")
        if close(answer, right * (len(test_ids) - 1), 1e-4):
            raise NotYet("That is the sum of the losses. Take the mean over the test tokens.")
        if not close(answer, right, 1e-4):
            raise NotYet(f"The loss is {answer:.4f}, {right:.4f} was expected. {advice}")
    best = corpus.ngram_losses(train_ids, test_ids, V)["bigram"]
    return f"corpus.ngram_losses also chooses alpha and share, and gets {best:.4f} on the check's text."


# --- the learning rate -----------------------------------------------------------------------------------------------


def learning_rate(step, steps, warmup, highest, final_share):
    """The learning rate of a step, counted from 0: a linear rise, then half a cosine."""
    if step < warmup:
        return highest * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)  # 0 right after the warm-up, 1 at the end
    half_cosine = 0.5 * (1 + math.cos(math.pi * progress))  # from 1 down to 0
    return highest * (final_share + (1 - final_share) * half_cosine)


def _test_schedule(attempt):
    config = TrainConfig(steps=40, warmup_steps=8, learning_rate=2e-3, final_share=0.1)
    for step, advice in (
        (0, "Steps are counted from 0: the first step already has 1 / warmup of the highest rate, not 0."),
        (7, "The last step of the warm-up has the highest rate."),
        (8, "Right after the warm-up progress is 0, the cosine is 1, and the rate is still the highest."),
        (24, "Half-way down the cosine is 0: the rate lies half-way between the highest and the final one."),
        (40, "At the end the rate is final_share of the highest, not 0."),
        (31, "The fall is half a cosine: 0.5 * (1 + cos(pi * progress))."),
    ):
        answer = float(needs_answer(attempt(step, 40, 8, 2e-3, 0.1)))
        if not close(answer, config.learning_rate_at(step)):
            raise NotYet(f"Step {step} has {answer:.3g}, {config.learning_rate_at(step):.3g} was expected. {advice}")
    return "This is TrainConfig.learning_rate_at."


bits = Exercise(
    "Bits per byte", 1, 5,
    "loss * tokens is the loss of the whole text in nats. Spread it over the bytes, then turn nats into bits: "
    "1 bit is ln 2 nats.",
    _test_bits, bits_per_byte,
)
windows = Exercise(
    "Windows through a token", 2, 10,
    "A window that holds token i starts at i at the latest, and at i - T + 1 at the earliest. Which of these starts "
    "exist? They run from 0 to N - T - 1.",
    _test_windows, windows_with,
)
schedule = Exercise(
    "The learning rate of a step", 2, 10,
    "Two cases. Warm-up: highest * (step + 1) / warmup. After it: progress = (step - warmup) / (steps - warmup), "
    "then mix highest and final_share * highest with 0.5 * (1 + cos(pi * progress)).",
    _test_schedule, learning_rate,
)
bigram = Exercise(
    "An interpolated bigram model", 3, 20,
    "torch.bincount counts tokens. For pairs fill a (V, V) table by index_put_(..., accumulate=True). "
    "Divide each row by its sum, but by at least 1. Look up the row of the token before.",
    _test_bigram, bigram_loss,
)
