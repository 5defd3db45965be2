"""Exercises of notebook 07: bits per byte, byte-pair merges, random batches, windows that contain a token, a bigram
model, a training step by hand, the learning-rate schedule, the training loop."""

import copy
import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from helpers import corpus
from helpers.course.checking import Exercise, NotYet, as_floats, as_number, close, describe, needs_answer
from helpers.course.exercises.byte_pairs import MERGE_MISTAKES, SMALL_CASES, WORDS, merge_pairs, merge_with
from helpers.course.judge import in_words
from helpers.model import GPT, GPTConfig
from helpers.training import TrainConfig

# --- bits per byte ---------------------------------------------------------------------------------------------------


def bits_per_byte(loss, tokens, text_bytes):
    """Mean loss in nats per token, number of tokens, number of bytes of their text -> bits per byte."""
    return loss * tokens / text_bytes / math.log(2)


def _test_bits(attempt):
    one = as_number(attempt(math.log(2), 100, 100), "the bits per byte, one number")
    if close(one, math.log(2)):
        raise NotYet("One bit per token at one byte per token must give 1. To turn nats into bits, divide by ln 2.")
    if close(one, math.log(2) ** 2):
        raise NotYet("You multiply by ln 2. A bit is less than a nat, so there are more bits than nats: divide.")
    if not close(one, 1, 1e-5):
        raise NotYet(f"bits_per_byte(ln 2, 100, 100) gives {one:.4g}; one bit per token and byte is 1.")
    for loss, tokens, text_bytes in ((4.0, 1000, 4000), (2.5, 700, 1900)):
        answer = as_number(attempt(loss, tokens, text_bytes))
        if close(answer, loss / math.log(2), 1e-5):
            raise NotYet(f"These are bits per token. Now spread the loss of all {tokens:,} tokens over their "
                         f"{text_bytes:,} bytes.")
        if close(answer, loss * text_bytes / tokens / math.log(2), 1e-5):
            raise NotYet("Invert the fraction: longer tokens (fewer tokens per byte) must give fewer bits per byte.")
        if not close(answer, bits_per_byte(loss, tokens, text_bytes), 1e-5):
            raise NotYet(f"bits_per_byte({loss}, {tokens}, {text_bytes}) gives {answer:.4g}. First, the loss of the "
                         "whole text.")
    return "A text has the same number of bytes for every tokenizer, so this measure compares them all."


# --- byte-pair merges ------------------------------------------------------------------------------------------------


def _as_pieces(answer, piece):
    """A learner's list of bytes. Raises NotYet if it is no such list, or not a way to cut the piece."""
    needs_answer(answer)
    if not isinstance(answer, (list, tuple)):
        raise NotYet(f"Return a list of bytes. You returned {describe(answer)}.")
    if answer and all(isinstance(part, int) for part in answer):
        raise NotYet("Your list holds numbers. A loop over bytes gives numbers: cut single bytes with piece[i : i + 1]"
                     ", and return the byte pieces, not their ranks.")
    if not all(isinstance(part, (bytes, bytearray)) for part in answer):
        kinds = ", ".join(sorted({type(part).__name__ for part in answer}))
        raise NotYet(f"Return a list of bytes; yours holds {kinds}. Ranks are for bytes, since a character can have "
                     "several.")
    parts = [bytes(part) for part in answer]
    if b"".join(parts) != piece:
        raise NotYet(f"Put together, your pieces {parts} are not the bytes {piece!r} that were given.")
    return parts


def _test_merges(attempt):
    ranks = corpus.load_tokenizer("course").encoding._mergeable_ranks
    cases = [*SMALL_CASES, *((word.encode(), ranks) for word in WORDS)]
    answers = [_as_pieces(attempt(piece, dict(table)), piece) for piece, table in cases]
    for (piece, table), parts in zip(cases, answers):
        right = merge_pairs(piece, table)
        if parts == right:
            continue
        for mistake, message in MERGE_MISTAKES.items():
            if answers == [merge_with(*case, mistake) for case in cases]:
                raise NotYet(f"{message} {piece!r} must give {right}; you return {parts}.")
        known = {token: rank for token, rank in table.items() if len(token) > 1 and token in piece}
        raise NotYet(f"{piece!r} gives {parts}; expected {right}. The ranks of pairs are {known}.")
    return f"tiktoken cuts the {len(WORDS)} words of the check, such as “{WORDS[0].strip()}”, as you do."


# --- random batches --------------------------------------------------------------------------------------------------


def random_windows(ids, B, T, generator):
    """ids (N,) -> X and Y, both (B, T): windows at random starts, and the same windows shifted by one token."""
    starts = torch.randint(len(ids) - T, (B, 1), generator=generator)  # (B, 1), values 0 ... N - T - 1
    positions = starts + torch.arange(T)  # (B, 1) + (T,) -> (B, T)
    return ids[positions], ids[positions + 1]


def _test_batch(attempt):
    shuffled = 200 + torch.randperm(16, generator=torch.Generator().manual_seed(5))
    for B, T, ids in ((600, 3, torch.arange(100, 111)), (750, 5, shuffled)):  # 8 starts, then 11
        X, Y = _drawn(attempt, ids, B, T, 0)
        _check_inputs(X, ids)
        _check_targets(X, Y, ids)
        _check_starts(_positions(X, ids)[:, 0], len(ids), T)
        if not torch.equal(X, _drawn(attempt, ids, B, T, 0)[0]):
            raise NotYet("The same generator seed gave two different batches. Pass the generator to torch.randint.")
        if torch.equal(X, _drawn(attempt, ids, B, T, 1)[0]):
            raise NotYet("Two generators with different seeds gave the same batch. Use the generator that you are "
                         "given.")
    return "In the check every start was about equally likely, and the same seed drew the same batch again."


def _drawn(attempt, ids, B, T, seed):
    """X and Y of an attempt, int64 tensors (B, T). Raises NotYet if they have another form."""
    try:
        batch = needs_answer(attempt(ids.clone(), B, T, torch.Generator().manual_seed(seed)))
    except (IndexError, RuntimeError) as error:
        if isinstance(error, IndexError) or "stack expects" in in_words(error, str):
            raise NotYet(f"With N = {len(ids)} and T = {T} some windows run past the end. The target of the last "
                         "position is the token after the window: the largest start is N - T - 1.") from None
        raise
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise NotYet(f"Return two tensors: X, Y. You returned {describe(batch)}.")
    pair = [as_floats(part).long() for part in batch]
    for name, tensor in zip("XY", pair):
        if tuple(tensor.shape) != (B, T):
            shape = tuple(tensor.shape)
            raise NotYet(f"For B = {B} and T = {T} {name} has the shape {shape}; expected ({B}, {T}).")
    return pair


def _positions(tokens, ids):
    """Where each of the tokens stands in ids, which holds no token twice; -1 for a token that is not there."""
    table = torch.full((int(max(ids.max(), tokens.max())) + 1,), -1)
    table[ids] = torch.arange(len(ids))
    return torch.where(tokens < 0, -1, table[tokens.clamp(min=0)])


def _check_inputs(X, ids):
    """Raises NotYet unless each row of X is a window of the text."""
    at, T = _positions(X, ids), X.shape[1]
    if (at < 0).all() and X.max() < len(ids):
        raise NotYet("X contains positions, not tokens. Look the tokens up: ids[positions].")
    torn = (at < 0).any(dim=1) | (at[:, 1:] - at[:, :-1] != 1).any(dim=1)  # (B,): rows that are not contiguous
    if torn.any():
        raise NotYet(f"A row of X must be {T} consecutive tokens, such as {ids[:T].tolist()}; yours is "
                     f"{X[torn][0].tolist()}. Draw one start per row, then add 0 ... T - 1.")


def _check_targets(X, Y, ids):
    """Raises NotYet with the reason why Y is not X shifted by one token."""
    at, right = _positions(Y, ids), _positions(X, ids) + 1
    if torch.equal(Y, X):
        raise NotYet("Y equals X: a model would only have to copy. Shift Y by one token.")
    if torch.equal(at, right - 2):
        raise NotYet("Y is shifted the wrong way: it contains the token before each token of X, not the next one.")
    if torch.equal(Y[:, :-1], X[:, 1:]) and not torch.equal(at, right):
        raise NotYet(f"All targets are right but the last of each row. After {X[0].tolist()} the text continues with "
                     f"another token; your Y ends with {int(Y[0, -1])}. Look the targets up in ids.")
    if torch.equal(Y, X + 1) and not torch.equal(at, right):
        raise NotYet("Y is X + 1: the next number, not the next token. Look the targets up in ids.")
    if not torch.equal(at, right):
        raise NotYet(f"X[0] = {X[0].tolist()} and Y[0] = {Y[0].tolist()}. Expected the same windows, shifted by one.")


def _check_starts(starts, N, T):
    """Raises NotYet unless the starts 0 ... N - T - 1 are about equally likely. starts: (B,)."""
    B, number = len(starts), N - T
    shares = torch.bincount(starts, minlength=number) / B
    if (starts == starts[0]).all():
        raise NotYet(f"All {B} rows begin at the same token. Each row needs its own start: draw a (B, 1) tensor.")
    if (starts % T == 0).all():
        raise NotYet(f"With T = {T} your windows begin only at multiples of {T}, so they never overlap. All starts "
                     f"from 0 to N - T - 1 = {number - 1} must be possible.")
    if shares[-1] == 0:
        raise NotYet(f"The last of N = {N} tokens is never a target. torch.randint excludes its upper limit, "
                     "so randint(N - T, ...) gives 0 ... N - T - 1.")
    if shares[0] == 0:
        raise NotYet("No window begins at token 0, so it is never an input. The starts begin at 0.")
    if shares.min() < 0.4 / number or shares.max() > 1.8 / number:
        raise NotYet(f"The {number} starts have shares from {shares.min():.2f} to {shares.max():.2f}. All starts must "
                     "be equally likely: draw from 0 ... N - T - 1 and do not correct them afterwards.")


# --- windows that contain a token ------------------------------------------------------------------------------------


def windows_with(i, N, T):
    """How many of the N - T possible windows of T tokens contain token i."""
    first_start = max(0, i - T + 1)
    last_start = min(i, N - T - 1)
    return max(0, last_start - first_start + 1)


def _test_windows(attempt):
    N, T = 20, 5

    def count(*arguments):
        return as_number(attempt(*arguments), "the number of windows, one whole number")

    if count(10, N, T) != T:
        raise NotYet(f"Token 10 of 20 is far from both ends: {T} windows of {T} tokens contain it. You return "
                     f"{count(10, N, T):g}.")
    if count(0, N, T) != 1:
        raise NotYet(f"Only one window contains token 0, the one that starts at 0. You return {count(0, N, T):g}.")
    if count(N - 1, N, T) != 0:
        raise NotYet(f"The last token is only a target: the last window starts at N - T - 1 and ends before it. For "
                     f"i = {N - 1} you return {count(N - 1, N, T):g}.")
    for size, width in ((N, T), (2 * T - 2, T), (17, 3), (9, 1)):  # in the second no token is T away from both ends
        for i in range(size):
            right = sum(start <= i < start + width for start in range(size - width))
            if count(i, size, width) != right:
                raise NotYet(f"windows_with({i}, {size}, {width}) gives {count(i, size, width):g}; counting gives "
                             f"{right}. The starts run from 0 to N - T - 1 = {size - width - 1}.")
    return "Divide it by N - T to get the probability that one draw visits the token."


# --- an interpolated bigram ------------------------------------------------------------------------------------------


def bigram_loss(train_ids, test_ids, V, alpha, share):
    """The test loss in nats per token of share * bigram + (1 - share) * unigram; share is 0 after an unseen token."""
    counts = torch.bincount(train_ids, minlength=V).double()  # (V,)
    unigram = (counts + alpha) / (len(train_ids) + alpha * V)
    pairs = torch.zeros(V, V, dtype=torch.float64)  # row a, column b: how often b followed a
    pairs.index_put_((train_ids[:-1], train_ids[1:]), torch.ones(len(train_ids) - 1).double(), accumulate=True)
    begun = pairs.sum(dim=1)  # (V,): how often each token was followed by anything
    followed = pairs / begun[:, None].clamp(min=1)  # rows of unseen tokens stay 0
    before, new = test_ids[:-1], test_ids[1:]
    share = torch.where(begun[before] > 0, share, 0.0)  # after an unseen token only the unigram counts
    return -(share * followed[before, new] + (1 - share) * unigram[new]).log().mean()


def _bigram_mistakes(train_ids, test_ids, V, alpha, share):
    """The results of typical mistakes, in nats per token: {message to the learner: loss}."""
    counts = torch.bincount(train_ids, minlength=V).double()
    unigram = (counts + alpha) / (len(train_ids) + alpha * V)
    pairs = torch.bincount(train_ids[:-1] * V + train_ids[1:], minlength=V * V).view(V, V).double()
    before, new = test_ids[:-1], test_ids[1:]

    def loss(followed, kept=share):
        return -(kept * followed + (1 - kept) * unigram[new]).log().mean().item()

    rows, columns = pairs.sum(1, keepdim=True).clamp(min=1), pairs.sum(0, keepdim=True).clamp(min=1)
    with_share = torch.where(pairs.sum(1)[before] > 0, share, 0.0)
    return {
        "After a token that was never seen in training, lambda must be 0: otherwise the probabilities add up to less "
        "than 1.": loss((pairs / rows)[before, new]),
        "Your pairs are the wrong way round: row a of the table counts what followed a, and a is the previous token.":
            loss((pairs / rows)[new, before], with_share),
        "You divide by how often the second token of a pair occurs. Divide by how often the first one was followed by "
        "anything.": loss((pairs / columns)[before, new], with_share),
        "Divide by how often a was followed by anything. The last token of the training set was followed by nothing.":
            loss((pairs / counts[:, None].clamp(min=1))[before, new], with_share),
    }


def _text_of_pairs(V, length, seed):
    """A training and a test text in which the tokens V - 2 and V - 1 are never trained on, and V - 3 only once."""
    common, generator = V - 3, torch.Generator().manual_seed(seed)
    ids = torch.multinomial(torch.arange(common, 0.0, -1), length, replacement=True, generator=generator)
    ids[1::3] = (ids[0::3][: len(ids[1::3])] + 1) % common  # some structure from one token to the next
    cut, once = length * 4 // 5, torch.tensor([V - 3, 0])
    return torch.cat([ids[:10], once, ids[10:cut]]), torch.cat([ids[cut:], once, torch.tensor([V - 2, 0])])


def _test_bigram(attempt):
    text = _text_of_pairs(7, 300, 0)
    cases = ((text, 7, 0.1, 0.0), (text, 7, 0.1, 0.6), (_text_of_pairs(9, 170, 1), 9, 0.4, 0.35))
    for (train_ids, test_ids), V, alpha, share in cases:
        advice = f"With share = {share}: count(a, b) / count(a, anything); after an unseen a, lambda is 0."
        if not share:
            advice = "With share = 0 only the unigram remains: (count + alpha) / (N + alpha * V)."
        answer = as_number(attempt(train_ids.clone(), test_ids.clone(), V, alpha, share), "the loss, one number")
        right = bigram_loss(train_ids, test_ids, V, alpha, share).item()
        if close(answer, right, 1e-5):
            continue
        if not math.isfinite(answer):
            raise NotYet(f"The loss is {answer}. {advice} For an unseen token, do not divide by 0.")
        if close(answer, -right, 1e-4):
            raise NotYet("The sign is wrong: a loss is minus the logarithm of a probability, so it is positive.")
        if close(answer, right * (len(test_ids) - 1), 1e-4):
            raise NotYet("That is the sum of the losses. Take the mean over the test tokens.")
        if close(answer, right / math.log(2), 1e-4):
            raise NotYet("These are bits. The loss is in nats: take the natural logarithm.")
        for message, wrong in _bigram_mistakes(train_ids, test_ids, V, alpha, share).items():
            if share and close(answer, wrong, 1e-5):
                raise NotYet(message)
        raise NotYet(f"The loss is {answer:.4f}; expected {right:.4f}. {advice}")
    best = corpus.ngram_losses(*text, 7)["bigram"]
    return f"corpus.ngram_losses also chooses alpha and share, and gets {best:.4f} on the check's first text."


# --- the learning rate -----------------------------------------------------------------------------------------------


def learning_rate(step, steps, warmup, highest, final_share):
    """The learning rate of a step, counted from 0: a linear rise, then half a cosine."""
    if step < warmup:
        return highest * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)  # 0 right after the warm-up, 1 at the end
    half_cosine = 0.5 * (1 + math.cos(math.pi * progress))  # from 1 down to 0
    return highest * (final_share + (1 - final_share) * half_cosine)


def _test_schedule(attempt):
    for config in (TrainConfig(steps=40, warmup_steps=8, learning_rate=2e-3, final_share=0.1),
                   TrainConfig(steps=75, warmup_steps=15, learning_rate=6e-4, final_share=0.25)):
        S, w = config.steps, config.warmup_steps
        for step, advice in (
            (0, "Steps are counted from 0: the first step already has 1 / warmup of the highest rate, not 0."),
            (w - 1, "The last step of the warm-up has the highest rate."),
            (w, "Right after the warm-up progress is 0, the cosine is 1, and the rate is still the highest."),
            ((S + w) // 2, "Half-way down the cosine is 0: the rate is half-way between the highest and the final."),
            (S, "At the end the rate is final_share of the highest, not 0."),
            (S - 9, "The fall is half a cosine: 0.5 * (1 + cos(pi * progress))."),
        ):
            answer = as_number(attempt(step, S, w, config.learning_rate, config.final_share), "the rate, one number")
            right = config.learning_rate_at(step)
            if not close(answer, right, 1e-5):
                raise NotYet(f"Step {step} of {S}: you return {answer:.3g}; expected {right:.3g}. {advice}")
    return "TrainConfig.learning_rate_at gives the same rates in both schedules of the check."


# --- a training step by hand -----------------------------------------------------------------------------------------


def training_step(model, x, y, rate, decay, limit):
    """One step of gradient descent with a clipped gradient and decoupled weight decay. Returns the loss before it."""
    loss = model(x, y)
    loss.backward()
    parameters = list(model.parameters())  # a tied matrix is in this list once
    norm = sum((p.grad**2).sum() for p in parameters).sqrt()  # of all gradients as one long vector
    scale = min(1.0, limit / norm.item())
    with torch.no_grad():
        for p in parameters:
            if p.ndim >= 2:  # only matrices decay, independently of the gradient
                p.mul_(1 - rate * decay)
            p.sub_(rate * scale * p.grad)
    model.zero_grad()
    return loss.item()


def stepped(parameters, gradients, rate, decay, limit, mistakes):
    """Yields the parameters after training_step with some typical mistakes, so that the check can recognise them. The
    first parameter is the tied matrix."""
    pull = (decay if "decay without rate" in mistakes else rate * decay) * ("no decay" not in mistakes)
    pulls = [pull if p.ndim >= 2 or "all" in mistakes else 0.0 for p in parameters]
    in_gradient = {"decay in gradient", "decay clipped"}.intersection(mistakes)
    pulled = [g + p * pull / rate for p, g, pull in zip(parameters, gradients, pulls)] if in_gradient else gradients
    measured = gradients if "decay clipped" in mistakes else pulled  # before or after the decay was added
    norms = _norms(measured)
    for index, (p, g) in enumerate(zip(parameters, pulled)):
        step = rate * _clipped(g, norms, limit, mistakes) * (-1 if "uphill" in mistakes else 1)
        pull = 0.0 if in_gradient else pulls[index]
        for _ in range(2 if "tied twice" in mistakes and index == 0 else 1):
            p = (p - step) * (1 - pull) if "decay after" in mistakes else p * (1 - pull) - step
        yield p


def _norms(tensors):
    return torch.stack([tensor.norm() for tensor in tensors])


def _clipped(gradient, norms, limit, mistakes):
    """One tensor's gradient after clipping with some typical mistakes. norms: those of all tensors."""
    norm, scales = norms.norm().item(), {
        "never": lambda norm: 1.0,
        "always": lambda norm: limit / norm,
        "each tensor": lambda norm: limit / gradient.norm().item(),
        "sum of norms": lambda norm: limit / norms.sum().item(),
        "squares": lambda norm: limit / norm**2,
    }
    if "values" in mistakes:
        return gradient.clamp(-limit, limit)
    scale = next((scales[mistake] for mistake in mistakes if mistake in scales), lambda norm: limit / norm)(norm)
    return gradient * (scale if "always" in mistakes else min(1.0, scale))


CLIPPING_MISTAKES = {
    "never": "The gradient was not clipped: with a low limit the step must be shorter.",
    "always": "You scale the gradient to the limit even where its norm is smaller. Clipping only ever shortens.",
    "each tensor": "You clip each tensor by its own norm. The gradient of the whole model is one long vector with one "
                   "norm; clipping by it keeps the direction.",
    "sum of norms": "You add up the norms of the tensors. The norm of one long vector is the square root of the sum of "
                    "all squares.",
    "values": "You clip each element by itself. That changes the direction of the gradient; clipping by the norm only "
              "shortens it.",
    "squares": "The norm is the square root of the sum of the squares: take the root.",
}
DECAY_MISTAKES = {
    "all": "Weight decay acts only on tensors with at least 2 dimensions, not on biases and LayerNorms.",
    "no decay": "Weight decay is missing: each matrix must also shrink by rate * decay times itself.",
    "decay without rate": "Weight decay shrinks by rate * decay, so that it follows the learning-rate schedule.",
    "decay in gradient": "Your weight decay is part of the gradient, so it changes the clipping. Decoupled decay acts "
                         "directly on the weights, separately from the gradient.",
    "decay clipped": "You clip the weight decay together with the gradient. Only the gradient is multiplied by "
                     "limit / norm; decoupled decay acts directly on the weights.",
    "decay after": "Your weight decay comes after the gradient's step, so it also shrinks this step. The order is: "
                   "multiply p by 1 - rate * decay, then subtract the step.",
}
OTHER_MISTAKES = {
    "uphill": "Your step goes uphill. The gradient points to where the loss rises: subtract it.",
    "tied twice": "The tied matrix was updated twice. model.parameters() lists it once; state_dict() lists it twice.",
}
MISTAKES = {**OTHER_MISTAKES, **CLIPPING_MISTAKES, **DECAY_MISTAKES}
PAIRS = [pair for group, other in itertools.combinations((OTHER_MISTAKES, CLIPPING_MISTAKES, DECAY_MISTAKES), 2)
         for pair in itertools.product(group, other)] + [
    ("all", "decay in gradient"), ("all", "decay clipped"), ("all", "decay after"), ("all", "decay without rate")]


def _same_parameters(model, other):
    return _are_close(model.parameters(), other.parameters())


def _are_close(tensors, others):
    return all(torch.allclose(a, b, atol=2e-6) for a, b in zip(tensors, others, strict=True))


def _small_gpt(V, T, C, blocks, heads, B, seed):
    """A small GPT with large random weights, and a batch for it: (model, x, y)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randint(V, (2, B, T), generator=generator)
    model = GPT(GPTConfig(vocab_size=V, n_positions=T, n_embd=C, n_layer=blocks, n_head=heads))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model, x, y


def _test_step(attempt):
    """Makes steps with a limit that is not reached and with one that is; then a second step, which reveals a gradient
    that was not cleared."""
    small, larger = _small_gpt(11, 8, 8, 1, 2, 3, seed=0), _small_gpt(13, 5, 12, 2, 3, 2, seed=1)
    for (start, x, y), settings in ((small, (0.4, 0.2, 100.0)), (small, (0.4, 0.2, 0.1)), (larger, (0.25, 0.5, 0.3))):
        mine, right = copy.deepcopy(start), copy.deepcopy(start)
        first = right(x, y).item()
        answer = needs_answer(_run_step(attempt, mine, (x, y, *settings)))
        training_step(right, x, y, *settings)
        _check_step(start, mine, right, (x, y, *settings))
        _check_loss(answer, first, mine(x, y).item())
        _run_step(attempt, mine, (x, y, *settings))
        training_step(right, x, y, *settings)
        if not _same_parameters(mine, right):
            raise NotYet("The first step is right, the second is not: the second gradient was probably added to the "
                         "first. Clear the gradient after each step.")
    return "training.train_step has the same five parts, with AdamW's update instead of the plain gradient."


def _check_step(start, mine, right, arguments):
    """Raises NotYet unless a step has turned the model start into right. A wrong result is compared with those of
    typical mistakes."""
    if mine.lm_head.weight is not mine.transformer.wte.weight:
        raise NotYet("The tied matrix has become two matrices. Change each in place: p.sub_(...), not p = ...")
    if _same_parameters(mine, start):
        raise NotYet("No parameter has changed. In a loop, p = p - ... only makes a new tensor: change p in place.")
    if _same_parameters(mine, right):
        return
    x, y, *settings = arguments
    begun = list(start.parameters())
    gradients = torch.autograd.grad(start(x, y), begun)
    with torch.no_grad():
        for mistakes in [*((name,) for name in MISTAKES), *PAIRS]:
            if _are_close(mine.parameters(), stepped(begun, gradients, *settings, mistakes)):
                raise NotYet(" ".join(MISTAKES[name] for name in mistakes))
    names = [name for name, _ in right.named_parameters()]
    gaps = [(a - b).abs().max().item() for a, b in zip(mine.parameters(), right.parameters())]
    gap, name = max(zip(gaps, names))
    raise NotYet(f"With limit = {settings[-1]} the parameters are wrong by up to {gap:.2g} after one step, most of all "
                 f"{name}.")


def _run_step(attempt, model, arguments):
    try:
        return attempt(model, *arguments)
    except RuntimeError as error:
        if "leaf Variable" in in_words(error, str):
            raise NotYet("Autograd would record the change of a parameter. Make the update inside torch.no_grad().") \
                from None
        raise


def _check_loss(answer, first, after):
    answer = as_number(getattr(answer, "detach", lambda: answer)(), "the loss before the step, one number")
    if math.isclose(answer, first, abs_tol=1e-4):
        return
    if math.isclose(answer, after, abs_tol=1e-4):
        raise NotYet("You return the loss after the step. Return the one that you computed before it.")
    raise NotYet(f"The parameters are right. The loss before the step is {first:.4f}; you return {answer:.4f}.")


# --- the training loop ------------------------------------------------------------------------------------------------


def plain_loop(model, train_step, ids, config, generator):
    """config.steps training steps, each on a new random batch. Returns the losses, a list of floats."""
    model.train()
    losses = []
    for step in range(config.steps):
        x, y = corpus.random_batch(ids, config.batch_size, config.context, generator)  # (B, T) each
        rate = config.learning_rate_at(step)
        loss = train_step(model, x, y, rate)
        losses.append(loss.item())
    return losses


class PairTable(nn.Module):
    """The smallest model that the check can train: a table (V, V) of logits of the next token, for each token."""

    def __init__(self, V):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(V, V))

    def forward(self, x, y):
        """x, y (B, T) -> the mean cross-entropy."""
        return F.cross_entropy(self.table[x].flatten(0, 1), y.flatten())


def plain_step(model, x, y, rate):
    """One step of gradient descent. Returns the loss before it, a tensor () that still has its graph."""
    loss = model(x, y)
    gradient, = torch.autograd.grad(loss, [model.table])
    with torch.no_grad():
        model.table.sub_(rate * gradient)
    return loss


def loop_case(V, N, seed, **settings):
    """What a training loop needs: (model in evaluation mode, ids, config, generator)."""
    ids = torch.randint(V, (N,), generator=torch.Generator().manual_seed(seed))
    return PairTable(V).eval(), ids, TrainConfig(**settings), torch.Generator().manual_seed(seed + 1)


def _run_loop(attempt, case):
    """What an attempt returns, and what its calls of train_step were: (model, x, y, rate, whether it trains)."""
    model, ids, config, generator = case
    calls = []

    def train_step(model, x, y, rate):
        calls.append((model, x.clone(), y.clone(), as_number(rate, "a learning rate"), model.training))
        return plain_step(model, x, y, rate)

    return needs_answer(attempt(model, train_step, ids.clone(), config, generator)), calls


def _test_loop(attempt):
    small = dict(V=6, N=40, seed=0, steps=7, batch_size=3, context=4, warmup_steps=2, learning_rate=0.9)
    larger = dict(V=9, N=71, seed=4, steps=12, batch_size=2, context=6, warmup_steps=5, learning_rate=0.4)
    for settings in (small, larger):
        case = loop_case(**settings)
        answer, calls = _run_loop(attempt, case)
        right, expected = _run_loop(plain_loop, loop_case(**settings))
        _check_calls(calls, expected, case[0])
        _check_losses(answer, right)
    return "Your loop draws the same batches as the course's, and its losses are the same, in both runs of the check."


def _check_calls(calls, expected, model):
    """Raises NotYet with the first thing in which the calls of train_step are not those of a training loop."""
    if len(calls) != len(expected):
        raise NotYet(f"config.steps is {len(expected)}; your loop calls train_step {len(calls)} times.")
    if any(own is not model for own, *_ in calls):
        raise NotYet("Train the model that you are given: pass it to train_step.")
    if not all(call[-1] for call in calls):
        raise NotYet("The model is not in training mode, so dropout would do nothing. Call model.train() before the "
                     "loop.")
    batches, right = ([torch.stack([x, y]) for _, x, y, *_ in made] for made in (calls, expected))
    if any(own.shape != batch.shape for own, batch in zip(batches, right)):
        raise NotYet(f"A batch has the shape {tuple(batches[0][0].shape)}; expected (B, T) = "
                     f"{tuple(right[0][0].shape)}: config.batch_size and config.context.")
    if all(torch.equal(own, batches[0]) for own in batches):
        raise NotYet("All steps see the same batch. Draw a new one in each step, inside the loop.")
    if not all(torch.equal(own, batch) for own, batch in zip(batches, right)):
        raise NotYet("The batches are not those that corpus.random_batch(ids, B, T, generator) draws: one per step, x "
                     "before y, with the generator that you are given.")
    rates, wanted = ([call[3] for call in made] for made in (calls, expected))
    if not all(close(rate, other) for rate, other in zip(rates, wanted)):
        shown = ", ".join(f"{rate:.3g}" for rate in rates[:4])
        raise NotYet(f"The first learning rates are {shown}; expected {', '.join(f'{r:.3g}' for r in wanted[:4])}. "
                     "Ask for config.learning_rate_at(step) in each step, counted from 0.")


def _check_losses(answer, right):
    """Raises NotYet unless the answer is the list of losses, without their graphs."""
    if isinstance(answer, (list, tuple)) and any(getattr(loss, "requires_grad", False) for loss in answer):
        raise NotYet("Your list holds tensors that keep the graph of each step in memory. Store numbers: loss.item().")
    losses = as_floats(answer)
    if losses.shape != (len(right),):
        raise NotYet(f"Return the losses of all {len(right)} steps, a list of floats. You returned {describe(answer)}.")
    if not all(close(own, loss, 1e-5) for own, loss in zip(losses.tolist(), right)):
        raise NotYet(f"The steps are right, but the losses are not: yours begin with {losses[:3].tolist()}, those that "
                     f"train_step returned with {right[:3]}.")


bits = Exercise(
    "Bits per byte", 1, 5,
    ("loss * tokens is the loss of the whole text, in nats. What is it per byte?",
     "Divide by the bytes, then turn nats into bits: 1 bit is ln 2 nats, so divide by math.log(2)."),
    _test_bits, bits_per_byte, by_hand=("helpers.corpus",),
)
merges = Exercise(
    "Byte-pair merges", 2, 15,
    ("Begin with a list of single bytes: [piece[i : i + 1] for i in range(len(piece))]. Then repeat: find the pair to "
     "merge, and merge it.",
     "zip(parts, parts[1:]) gives all neighbours. left + right is what they would become; it can be merged if it is a "
     "key of ranks. Of all these take the lowest rank. When there is none, you are done.",
     "Collect (ranks[left + right], i) for all i where left + right is in ranks. min() of this list gives the lowest "
     "rank and its place i. Then parts[i : i + 2] = [parts[i] + parts[i + 1]]. Stop when the list is empty."),
    _test_merges, merge_pairs, by_hand=("tiktoken",),
)
batch = Exercise(
    "A random batch", 2, 10,
    ("Use one start per row, as a column, and the offsets 0 ... T - 1 as a row. Their sum is a table of positions.",
     "torch.randint(n, (B, 1), generator=generator) draws from 0 ... n - 1. Which is the last start whose window still "
     "has a target for its last token?",
     "starts = torch.randint(len(ids) - T, (B, 1), generator=generator); positions = starts + torch.arange(T); the "
     "inputs are ids[positions]. The targets are one position later."),
    _test_batch, random_windows, by_hand=("helpers.corpus.random_batch",),
)
windows = Exercise(
    "Windows that contain a token", 2, 10,
    ("Which starts have token i in their window? Take a token in the middle first, then ask which of these starts "
     "exist.",
     "A window that contains token i starts at i at the latest, and at i - T + 1 at the earliest. The starts run from "
     "0 to N - T - 1: cut the range with max and min, and count the starts that remain (at least 0)."),
    _test_windows, windows_with, by_hand=("helpers.corpus.windows_with",),
)
schedule = Exercise(
    "The learning rate of a step", 2, 10,
    ("There are two cases: step < warmup, and the rest. Steps are counted from 0.",
     "Warm-up: highest * (step + 1) / warmup. After it, progress = (step - warmup) / (steps - warmup), from 0 to 1.",
     "0.5 * (1 + math.cos(math.pi * progress)) falls from 1 to 0. Use it to go from highest to final_share * highest."),
    _test_schedule, learning_rate,
    by_hand=("helpers.training.TrainConfig.learning_rate_at", "torch.optim.lr_scheduler"),
)
bigram = Exercise(
    "An interpolated bigram model", 3, 20,
    ("torch.bincount counts tokens. For pairs fill a (V, V) table: row a, column b says how often b followed a.",
     "Fill it with index_put_(..., accumulate=True), or with bincount of a * V + b. Divide each row by its sum, or by "
     "1 if the row is empty.",
     "before, new = test_ids[:-1], test_ids[1:]; look up followed[before, new] and unigram[new]; where the row of "
     "`before` is empty the share is 0. Mix, take -log, then the mean."),
    _test_bigram, bigram_loss, by_hand=("helpers.corpus", "helpers.ngrams"),
)
step = Exercise(
    "A training step by hand", 3, 20,
    ("loss.backward() fills p.grad of every p in model.parameters(). The norm of the whole gradient is the square root "
     "of the sum of all squares.",
     "scale = min(1, limit / norm) is the same for all parameters. Change them in place, inside torch.no_grad().",
     "For each p: if p.ndim >= 2: p.mul_(1 - rate * decay); then p.sub_(rate * scale * p.grad). After the loop, call "
     "model.zero_grad(). Return the loss from before the step."),
    _test_step, training_step,
    by_hand=("torch.optim", "clip_grad_norm_", "clip_grad_value_", "helpers.training.train_step"),
)
loop = Exercise(
    "The training loop", 2, 10,
    ("Four things happen in each step: a batch, a learning rate, a training step, and a note of its loss.",
     "for step in range(config.steps): corpus.random_batch(ids, config.batch_size, config.context, generator) gives x "
     "and y, config.learning_rate_at(step) the rate. What must be done once, before the loop?",
     "Call model.train() first. In the loop append train_step(model, x, y, rate).item() to a list, and return the list "
     "after it."),
    _test_loop, plain_loop, by_hand=("helpers.training.train", "helpers.training.training_loop"),
)
