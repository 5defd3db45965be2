"""Exercises of notebook 07: bits per byte, random batches, windows that contain a token, a bigram model, the
learning-rate schedule, a training step by hand."""

import copy
import math

import torch

from helpers import corpus
from helpers.course.checking import Exercise, NotYet, close, needs_answer
from helpers.model import GPT, GPTConfig
from helpers.training import TrainConfig

# --- bits per byte ---------------------------------------------------------------------------------------------------


def bits_per_byte(loss, tokens, text_bytes):
    """Mean loss in nats per token, number of tokens, number of bytes of their text -> bits per byte."""
    return loss * tokens / text_bytes / math.log(2)


def _test_bits(attempt):
    one = needs_answer(attempt(math.log(2), 100, 100))
    if close(one, math.log(2)):
        raise NotYet("One bit per token at one byte per token must give 1. To turn nats into bits, divide by ln 2.")
    if close(one, math.log(2) ** 2):
        raise NotYet("You multiply by ln 2. A bit is less than a nat, so there are more bits than nats: divide.")
    if not close(one, 1):
        raise NotYet(f"bits_per_byte(ln 2, 100, 100) gives {float(one):.4g}; one bit per token and byte is 1.")
    answer = attempt(4.0, 1000, 4000)
    if close(answer, 4.0 / math.log(2)):
        raise NotYet("These are bits per token. Now spread the loss of all 1,000 tokens over their 4,000 bytes.")
    if close(answer, 4.0 * 4 / math.log(2)):
        raise NotYet("Invert the fraction: longer tokens (fewer tokens per byte) must give fewer bits per byte.")
    if not close(answer, bits_per_byte(4.0, 1000, 4000)):
        raise NotYet(f"bits_per_byte(4.0, 1000, 4000) gives {float(answer):.4g}. First, the loss of the whole text.")
    return "A text has the same number of bytes for every tokenizer, so this measure compares them all."


# --- random batches --------------------------------------------------------------------------------------------------


def random_batch(ids, B, T, generator):
    """ids (N,) -> X and Y, both (B, T): windows at random starts, and the same windows shifted by one token."""
    starts = torch.randint(len(ids) - T, (B, 1), generator=generator)  # (B, 1), values 0 ... N - T - 1
    positions = starts + torch.arange(T)  # (B, 1) + (T,) -> (B, T)
    return ids[positions], ids[positions + 1]


def _test_batch(attempt):
    B, T, first = 600, 4, 100
    ids = torch.arange(first, first + T + 3)  # token 100 + i at position i; only the starts 0, 1 and 2 exist

    def draw(seed):
        try:
            return needs_answer(attempt(ids.clone(), B, T, torch.Generator().manual_seed(seed)))
        except (IndexError, RuntimeError) as error:
            if isinstance(error, IndexError) or "stack expects" in str(error):
                raise NotYet(f"With N = {len(ids)} and T = {T} some windows run past the end. The target of the last "
                             "position is the token after the window: the largest start is N - T - 1.") from None
            raise

    batch = draw(0)
    if len(batch) != 2:
        raise NotYet("Return two tensors: X, Y.")
    X, Y = map(torch.as_tensor, batch)
    for name, tensor in (("X", X), ("Y", Y)):
        if tuple(tensor.shape) != (B, T):
            shape = tuple(tensor.shape)
            raise NotYet(f"For B = {B} and T = {T} {name} has the shape {shape}; expected ({B}, {T}).")
    if X.max() < first:
        raise NotYet("X contains positions, not tokens. Look the tokens up: ids[positions].")
    torn = (X[:, 1:] - X[:, :-1] != 1).any(dim=1)  # (B,): rows that are not contiguous in the text
    if torn.any():
        raise NotYet(f"A row of X must be {T} consecutive tokens, such as {ids[:T].tolist()}; yours is "
                     f"{X[torn][0].tolist()}. Draw one start per row, then add 0 ... T - 1.")
    _check_targets(X, Y)
    _check_starts(X[:, 0] - first, len(ids))
    if not torch.equal(X, torch.as_tensor(draw(0)[0])):
        raise NotYet("The same generator seed gave two different batches. Pass the generator to torch.randint.")
    if torch.equal(X, torch.as_tensor(draw(1)[0])):
        raise NotYet("Two generators with different seeds gave the same batch. Use the generator that you are given.")
    return "With the same generator your function returns what corpus.random_batch returns."


def _check_starts(starts, N):
    """Raises NotYet unless the starts 0, 1 and 2 are equally likely. starts: (B,), N: the length of the text."""
    B = len(starts)
    if (starts == starts[0]).all():
        raise NotYet(f"All {B} rows begin at the same token. Each row needs its own start: draw a (B, 1) tensor.")
    shares = torch.bincount(starts, minlength=3) / B
    if shares[2] == 0:
        raise NotYet(f"The last of N = {N} tokens is never a target. torch.randint excludes its upper limit, "
                     "so randint(N - T, ...) gives 0 ... N - T - 1.")
    if shares[0] == 0:
        raise NotYet("No window begins at token 0, so it is never an input. The starts begin at 0.")
    if shares.min() < 0.25:
        raise NotYet(f"The starts 0, 1 and 2 have the shares {shares[0]:.2f}, {shares[1]:.2f} and {shares[2]:.2f}. All "
                     "starts must be equally likely: draw from 0 ... N - T - 1 and do not correct them afterwards.")


def _check_targets(X, Y):
    """Raises NotYet with the reason why Y is not X shifted by one token."""
    if torch.equal(Y, X):
        raise NotYet("Y equals X: a model would only have to copy. Shift Y by one token.")
    if torch.equal(Y, X - 1):
        raise NotYet("Y is shifted the wrong way: it contains the token before each token of X, not the next one.")
    if torch.equal(Y[:, :-1], X[:, 1:]) and not torch.equal(Y, X + 1):
        raise NotYet(f"All targets are right but the last of each row. After {X[0].tolist()} the text continues with "
                     f"another token; your Y ends with {int(Y[0, -1])}. Look the targets up in ids.")
    if not torch.equal(Y, X + 1):
        raise NotYet(f"X[0] = {X[0].tolist()} and Y[0] = {Y[0].tolist()}. Expected the same windows, shifted by one.")


# --- windows that contain a token ------------------------------------------------------------------------------------


def _test_windows(attempt):
    N, T = 20, 5
    if needs_answer(attempt(10, N, T)) != T:
        raise NotYet(f"Token 10 of 20 is far from both ends: {T} windows of {T} tokens contain it. You return "
                     f"{attempt(10, N, T)}.")
    if attempt(0, N, T) != 1:
        raise NotYet(f"Only one window contains token 0, the one that starts at 0. You return {attempt(0, N, T)}.")
    if attempt(N - 1, N, T) != 0:
        raise NotYet(f"The last token is only a target: the last window starts at N - T - 1 and ends before it. For "
                     f"i = {N - 1} you return {attempt(N - 1, N, T)}.")
    for size in (N, 2 * T - 2):  # in the second text no token is T positions away from both ends
        for i in range(size):
            right = sum(start <= i < start + T for start in range(size - T))
            if attempt(i, size, T) != right:
                raise NotYet(f"windows_with({i}, {size}, {T}) gives {attempt(i, size, T)}; counting gives {right}. "
                             f"The starts run from 0 to N - T - 1 = {size - T - 1}.")
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


def _test_bigram(attempt):
    generator = torch.Generator().manual_seed(0)
    ids = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05]), 300, replacement=True, generator=generator)
    ids[1::3] = (ids[0::3] + 1) % 5  # some structure from one token to the next
    train_ids, test_ids, V = ids[:240], torch.cat([ids[240:], torch.tensor([5, 0])]), 7  # 5 and 6 are never trained on
    for share, advice in (
        (0.0, "With share = 0 only the unigram remains: (count + alpha) / (N + alpha * V)."),
        (0.6, "With share = 0.6: count(a, b) / count(a, anything); after an unseen a, lambda is 0."),
    ):
        answer = float(needs_answer(attempt(train_ids.clone(), test_ids.clone(), V, 0.1, share)))
        right = bigram_loss(train_ids, test_ids, V, 0.1, share).item()
        if not math.isfinite(answer):
            raise NotYet(f"The loss is {answer}. {advice} For an unseen token, do not divide by 0.")
        if close(answer, -right, 1e-4):
            raise NotYet("The sign is wrong: a loss is minus the logarithm of a probability, so it is positive.")
        if close(answer, right * (len(test_ids) - 1), 1e-4):
            raise NotYet("That is the sum of the losses. Take the mean over the test tokens.")
        if close(answer, right / math.log(2), 1e-4):
            raise NotYet("These are bits. The loss is in nats: take the natural logarithm.")
        if close(answer, right, 1e-4):
            continue
        for message, wrong in _bigram_mistakes(train_ids, test_ids, V, 0.1, share).items():
            if share and close(answer, wrong, 1e-5):
                raise NotYet(message)
        raise NotYet(f"The loss is {answer:.4f}; expected {right:.4f}. {advice}")
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
        (24, "Half-way down the cosine is 0: the rate is half-way between the highest and the final one."),
        (40, "At the end the rate is final_share of the highest, not 0."),
        (31, "The fall is half a cosine: 0.5 * (1 + cos(pi * progress))."),
    ):
        answer = float(needs_answer(attempt(step, 40, 8, 2e-3, 0.1)))
        if not close(answer, config.learning_rate_at(step)):
            right = config.learning_rate_at(step)
            raise NotYet(f"Step {step}: you return {answer:.3g}; expected {right:.3g}. {advice}")
    return "This is what TrainConfig.learning_rate_at computes."


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


def _step_with(model, x, y, rate, decay, limit, mistake):
    """training_step with one typical mistake, so that the check can recognise it."""
    model(x, y).backward()
    parameters = list(model.parameters())
    if mistake == "decay in gradient":
        for p in parameters:
            if p.ndim >= 2:
                p.grad += decay * p.detach()
    norm = sum((p.grad**2).sum() for p in parameters).sqrt().item()
    with torch.no_grad():
        for p in parameters:
            scale = min(1.0, limit / norm)
            if mistake == "each tensor":
                scale = min(1.0, limit / p.grad.norm().item())
            if mistake in ("always", "never"):
                scale = limit / norm if mistake == "always" else 1.0
            if mistake == "squares":  # the square root forgotten
                scale = min(1.0, limit / norm**2)
            step = p.grad.clamp(-limit, limit) if mistake == "values" else scale * p.grad
            pulled = mistake not in ("decay in gradient", "no decay") and (p.ndim >= 2 or mistake == "all")
            pull = (1.0 if mistake == "decay without rate" else rate) * decay * pulled
            twice = 2 if mistake == "tied twice" and p is model.lm_head.weight else 1
            for _ in range(twice):
                p.copy_(p * (1 - pull) - rate * step * (-1 if mistake == "uphill" else 1))
    model.zero_grad()


MISTAKES = {
    "uphill": "Your step goes uphill. The gradient points to where the loss rises: subtract it.",
    "never": "The gradient was not clipped: with a low limit the step must be shorter.",
    "always": "You scale the gradient to the limit even where its norm is smaller. Clipping only ever shortens.",
    "each tensor": "You clip each tensor by its own norm. The gradient of the whole model is one long vector with one "
                   "norm; clipping by it keeps the direction.",
    "values": "You clip each element by itself. That changes the direction of the gradient; clipping by the norm only "
              "shortens it.",
    "squares": "The norm is the square root of the sum of the squares: take the root.",
    "all": "Weight decay acts only on tensors with at least 2 dimensions, not on biases and LayerNorms.",
    "no decay": "Weight decay is missing: each matrix must also shrink by rate * decay times itself.",
    "decay without rate": "Weight decay shrinks by rate * decay, so that it follows the learning-rate schedule.",
    "decay in gradient": "Your weight decay is part of the gradient, so it changes the clipping. Decoupled decay acts "
                         "directly on the weights, separately from the gradient.",
    "tied twice": "The tied matrix was updated twice. model.parameters() lists it once; state_dict() lists it twice.",
}


def _same_parameters(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=2e-6) for a, b in pairs)


def _test_step(attempt):
    """Makes steps with a limit that is not reached and with one that is; then a second step, which reveals a gradient
    that was not cleared. A wrong result is compared with those of typical mistakes."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(11, (2, 3, 8), generator=generator)
    start = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    with torch.no_grad():
        for p in start.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    for limit in (100.0, 0.1):
        arguments = (x, y, 0.4, 0.2, limit)
        mine, right = copy.deepcopy(start), copy.deepcopy(start)
        first = right(x, y).item()
        answer = needs_answer(_run_step(attempt, mine, arguments))
        training_step(right, *arguments)
        if mine.lm_head.weight is not mine.transformer.wte.weight:
            raise NotYet("The tied matrix has become two matrices. Change each in place: p.sub_(...), not p = ...")
        if _same_parameters(mine, start):
            raise NotYet("No parameter has changed. In a loop, p = p - ... only makes a new tensor: change p in place.")
        if not _same_parameters(mine, right):
            for mistake, message in MISTAKES.items():
                other = copy.deepcopy(start)
                _step_with(other, *arguments, mistake)
                if _same_parameters(mine, other):
                    raise NotYet(message)
            furthest = max((a - b).abs().max().item() for a, b in zip(mine.parameters(), right.parameters()))
            raise NotYet(f"With limit = {limit} the parameters are wrong by up to {furthest:.2g} after one step.")
        _check_loss(answer, first, mine(x, y).item())
        _run_step(attempt, mine, arguments)
        training_step(right, *arguments)
        if not _same_parameters(mine, right):
            raise NotYet("The first step is right, the second is not: the second gradient was probably added to the "
                         "first. Clear the gradient after each step.")
    return "training.train_step does the same, with AdamW's update instead of the plain gradient."


def _run_step(attempt, model, arguments):
    try:
        return attempt(model, *arguments)
    except RuntimeError as error:
        if "leaf Variable" in str(error):
            raise NotYet("Autograd would record the change of a parameter. Make the update inside torch.no_grad().") \
                from None
        raise


def _check_loss(answer, first, after):
    answer = torch.as_tensor(answer).item()
    if math.isclose(answer, first, abs_tol=1e-4):
        return
    if math.isclose(answer, after, abs_tol=1e-4):
        raise NotYet("You return the loss after the step. Return the one that you computed before it.")
    raise NotYet(f"The parameters are right. The loss before the step is {first:.4f}; you return {answer:.4f}.")


bits = Exercise(
    "Bits per byte", 1, 5,
    ("loss * tokens is the loss of the whole text, in nats. What is it per byte?",
     "Divide by the bytes, then turn nats into bits: 1 bit is ln 2 nats, so divide by math.log(2)."),
    _test_bits, bits_per_byte,
)
batch = Exercise(
    "A random batch", 2, 10,
    ("Use one start per row, as a column, and the offsets 0 ... T - 1 as a row. Their sum is a table of positions.",
     "torch.randint(n, (B, 1), generator=generator) draws from 0 ... n - 1. Which is the last start whose window still "
     "has a target for its last token?",
     "starts = torch.randint(len(ids) - T, (B, 1), generator=generator); positions = starts + torch.arange(T); the "
     "inputs are ids[positions]. The targets are one position later."),
    _test_batch, random_batch,
)
windows = Exercise(
    "Windows that contain a token", 2, 10,
    ("Which starts have token i in their window? Take a token in the middle first, then ask which of these starts "
     "exist.",
     "A window that contains token i starts at i at the latest, and at i - T + 1 at the earliest. The starts run from "
     "0 to N - T - 1: cut the range with max and min, and count the starts that remain (at least 0)."),
    _test_windows, corpus.windows_with,
)
schedule = Exercise(
    "The learning rate of a step", 2, 10,
    ("There are two cases: step < warmup, and the rest. Steps are counted from 0.",
     "Warm-up: highest * (step + 1) / warmup. After it, progress = (step - warmup) / (steps - warmup), from 0 to 1.",
     "0.5 * (1 + math.cos(math.pi * progress)) falls from 1 to 0. Use it to go from highest to final_share * highest."),
    _test_schedule, learning_rate,
)
bigram = Exercise(
    "An interpolated bigram model", 3, 20,
    ("torch.bincount counts tokens. For pairs fill a (V, V) table: row a, column b says how often b followed a.",
     "Fill it with index_put_(..., accumulate=True), or with bincount of a * V + b. Divide each row by its sum, or by "
     "1 if the row is empty.",
     "before, new = test_ids[:-1], test_ids[1:]; look up followed[before, new] and unigram[new]; where the row of "
     "`before` is empty the share is 0. Mix, take -log, then the mean."),
    _test_bigram, bigram_loss,
)
step = Exercise(
    "A training step by hand", 3, 20,
    ("loss.backward() fills p.grad of every p in model.parameters(). The norm of the whole gradient is the square root "
     "of the sum of all squares.",
     "scale = min(1, limit / norm) is the same for all parameters. Change them in place, inside torch.no_grad().",
     "For each p: if p.ndim >= 2: p.mul_(1 - rate * decay); then p.sub_(rate * scale * p.grad). After the loop, call "
     "model.zero_grad(). Return the loss from before the step."),
    _test_step, training_step,
)
