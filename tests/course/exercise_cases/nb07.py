"""Cases for the exercises of notebook 07."""

import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from helpers import corpus
from helpers.course.exercises import nb07
from helpers.model import GPT, GPTConfig
from tests.course.exercise_cases import Case

# --- bits per byte ---------------------------------------------------------------------------------------------------


def bits_in_steps(loss, tokens, text_bytes):
    nats_of_the_text = loss * tokens
    return nats_of_the_text / math.log(2) / text_bytes


def bits_with_numpy(loss, tokens, text_bytes):
    return np.float64(loss) * np.log2(np.e) * tokens / text_bytes


def bits_with_torch(loss, tokens, text_bytes):
    return torch.tensor(loss) * tokens / (text_bytes * torch.tensor(2.0).log())


def bits_per_token_first(loss, tokens, text_bytes):
    return loss / 0.6931471805599453 / (text_bytes / tokens)


def bits_by_log2(loss, tokens, text_bytes):
    return math.log2(math.e) * loss * float(Fraction(tokens, text_bytes))


def a_loss(seed):
    generator = random.Random(seed)
    return generator.uniform(1, 9), generator.randrange(10, 10_000), generator.randrange(20, 40_000)


# --- byte-pair merges ------------------------------------------------------------------------------------------------


def merges_in_order(piece, ranks):
    parts = [bytes([byte]) for byte in piece]
    for token in sorted((token for token in ranks if len(token) > 1 and token in piece), key=ranks.get):
        joined = []
        for part in parts:
            if joined and joined[-1] + part == token:
                joined[-1] = token
            else:
                joined.append(part)
        parts = joined
    return parts


def merges_by_recursion(piece, ranks, parts=None):
    parts = list(map(bytes, zip(piece))) if parts is None else parts
    best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], math.inf), default=None)
    if best is None or parts[best] + parts[best + 1] not in ranks:
        return parts
    return merges_by_recursion(piece, ranks, parts[:best] + [parts[best] + parts[best + 1]] + parts[best + 2 :])


def merges_by_cuts(piece, ranks):
    cuts = list(range(len(piece) + 1))
    while len(cuts) > 2:
        costs = [ranks.get(piece[cuts[i - 1] : cuts[i + 1]], 10**9) for i in range(1, len(cuts) - 1)]
        if min(costs) == 10**9:
            break
        del cuts[costs.index(min(costs)) + 1]
    return [piece[a:b] for a, b in zip(cuts, cuts[1:])]


def merges_all_places_at_once(piece, ranks):
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        known = {a + b for a, b in zip(parts, parts[1:])} & ranks.keys()
        if not known:
            return tuple(parts)
        token, i, joined = min(known, key=ranks.get), 0, []
        while i < len(parts):
            is_pair = i + 1 < len(parts) and parts[i] + parts[i + 1] == token
            joined.append(token if is_pair else parts[i])
            i += 2 if is_pair else 1
        parts = joined


def merges_as_bytearrays(piece, ranks):
    parts = [bytearray([byte]) for byte in piece]
    while True:
        lowest, place = None, None
        for i in range(len(parts) - 1):
            rank = ranks.get(bytes(parts[i] + parts[i + 1]))
            if rank is not None and (lowest is None or rank < lowest):
                lowest, place = rank, i
        if place is None:
            return parts
        parts[place].extend(parts.pop(place + 1))


def a_piece(seed):
    if seed % 2:
        ranks = corpus.load_tokenizer("library").encoding._mergeable_ranks
        return " unquestionably circumnavigated Constantinople’s".split(" ")[seed].encode(), ranks
    tokens = [b"x", b"y", b"z", b"yz", b"xx", b"xxyz", b"zx", b"xxx", b"yy", b"zyy"][: 7 + seed]
    ranks = {token: rank for rank, token in enumerate(tokens, start=seed)}
    return bytes(random.Random(seed).choices(b"xyz", k=14 + seed)), ranks


# --- random batches --------------------------------------------------------------------------------------------------


def batch_in_a_loop(ids, B, T, generator):
    starts = [int(torch.randint(0, len(ids) - T, (1,), generator=generator)) for _ in range(B)]
    return [torch.stack([ids[s + move : s + move + T] for s in starts]) for move in (0, 1)]


def batch_of_lists(ids, B, T, generator):
    text, starts = ids.tolist(), torch.randint(len(ids) - T, (B,), generator=generator).tolist()
    return [text[s : s + T] for s in starts], [text[s + 1 : s + 1 + T] for s in starts]


def batch_by_unfold(ids, B, T, generator):
    windows = ids.unfold(0, T + 1, 1)  # (N - T, T + 1)
    chosen = windows[torch.randint(len(windows), (B,), generator=generator)]
    return chosen[:, :-1], chosen[:, 1:]


def batch_with_numpy(ids, B, T, generator):
    starts = torch.randint(len(ids) - T, (B,), generator=generator).numpy()
    positions = starts[:, None] + np.arange(T + 1)[None]
    windows = ids.numpy()[positions]
    return windows[:, :T], windows[:, 1:]


def batch_by_rand(ids, B, T, generator):
    last = len(ids) - T - 1
    starts = (torch.rand(B, generator=generator, dtype=torch.float64) * (last + 1)).long()
    positions = torch.arange(T).repeat(B, 1) + starts.unsqueeze(1)
    return ids.take(positions), ids.take(positions + 1)


def a_text(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(50, (30 + 7 * seed,), generator=generator), 4 + seed, 2 + 2 * seed, generator


# --- windows that contain a token ------------------------------------------------------------------------------------


def windows_counted(i, N, T):
    return torch.tensor(sum(i in range(start, start + T) for start in range(N - T)))


def windows_by_sets(i, N, T):
    return len(set(range(i - T + 1, i + 1)) & set(range(N - T)))


def windows_by_minima(i, N, T):
    return max(0, min(i + 1, T, N - T, N - 1 - i))


def windows_by_cases(i, N, T):
    earliest = i - T + 1 if i >= T else 0
    latest = N - T - 1 if i > N - T - 1 else i
    return latest - earliest + 1 if latest >= earliest else 0


def windows_with_numpy(i, N, T):
    starts = np.arange(N - T)
    return np.count_nonzero((starts <= i) & (i < starts + T))


def a_token(seed):
    return (3, 25, 29, 11)[seed], (30, 28, 31, 16)[seed], (7, 6, 2, 9)[seed]


# --- an interpolated bigram ------------------------------------------------------------------------------------------


def bigram_in_a_loop(train_ids, test_ids, V, alpha, share):
    train, test, total = train_ids.tolist(), test_ids.tolist(), 0.0
    counts, pairs, begun = Counter(train), Counter(zip(train, train[1:])), Counter(train[:-1])
    for a, b in zip(test, test[1:]):
        unigram = (counts[b] + alpha) / (len(train) + alpha * V)
        total -= math.log(share * pairs[a, b] / begun[a] + (1 - share) * unigram if begun[a] else unigram)
    return total / (len(test) - 1)


def bigram_with_numpy(train_ids, test_ids, V, alpha, share):
    train, test = train_ids.numpy(), test_ids.numpy()
    counts, pairs = np.bincount(train, minlength=V), np.zeros((V, V))
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    unigram = (counts + alpha) / (len(train) + alpha * V)
    begun = pairs.sum(1, keepdims=True)
    mixed = np.where(begun > 0, share * pairs / np.maximum(begun, 1) + (1 - share) * unigram, unigram)
    return -np.log(mixed[test[:-1], test[1:]]).mean()


def bigram_by_one_hot(train_ids, test_ids, V, alpha, share):
    hot = nn.functional.one_hot(train_ids, V).double()
    pairs = hot[:-1].T @ hot[1:]
    unigram = (hot.sum(0) + alpha) / (len(hot) + alpha * V)
    begun = pairs.sum(1)
    weight = share * (begun > 0).double()
    table = weight[:, None] * pairs / begun.clamp(min=1)[:, None] + (1 - weight)[:, None] * unigram
    return nn.functional.nll_loss(table.log()[test_ids[:-1]], test_ids[1:])


def bigram_by_bincount(train_ids, test_ids, V, alpha, share):
    pairs = torch.bincount(train_ids[:-1] * V + train_ids[1:], minlength=V * V).view(V, V)
    unigram = (torch.bincount(train_ids, minlength=V) + alpha) / (len(train_ids) + alpha * V)
    rows = pairs[test_ids[:-1]]
    follows = torch.nan_to_num(rows / rows.sum(1, keepdim=True))
    share = share * (rows.sum(1) > 0)
    p = share * follows.gather(1, test_ids[1:, None])[:, 0] + (1 - share) * unigram[test_ids[1:]]
    return -torch.log(p).mean().item()


def bigram_by_masks(train_ids, test_ids, V, alpha, share):
    losses = []
    for a, b in zip(test_ids[:-1], test_ids[1:]):
        after = train_ids[1:][train_ids[:-1] == a]
        p = ((train_ids == b).sum() + alpha) / (len(train_ids) + alpha * V)
        if len(after):
            p = share * (after == b).double().mean() + (1 - share) * p
        losses.append(-p.double().log())
    return sum(losses) / len(losses)


def two_texts(seed):
    train_ids, test_ids = nb07._text_of_pairs(6 + seed, 130 + 40 * seed, seed + 10)
    return train_ids, test_ids, 6 + seed, 0.05 + 0.2 * seed, (0.8, 0.25, 0.5, 0.7)[seed]


# --- a training step by hand -----------------------------------------------------------------------------------------


def step_with_lists(model, x, y, rate, decay, limit):
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = model(x, y)
    gradients = torch.autograd.grad(loss, parameters)
    norm = math.sqrt(sum(g.pow(2).sum().item() for g in gradients))
    factor = limit / norm if norm > limit else 1
    for p, g in zip(parameters, gradients):
        shrink = 1 - rate * decay if p.dim() > 1 else 1
        p.data = p.data * shrink - rate * factor * g
    return loss.item()


def step_with_one_vector(model, x, y, rate, decay, limit):
    model.zero_grad()
    loss = model(x, y)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    for p in model.parameters():
        p.grad.mul_(torch.clamp(limit / norm, max=1.0))
    with torch.no_grad():
        for p in model.parameters():
            pull = decay * p if p.ndim >= 2 else 0
            p -= rate * (p.grad + pull)
    model.zero_grad(set_to_none=False)
    return loss


def step_by_norms_of_norms(model, x, y, rate, decay, limit):
    for p in model.parameters():
        p.grad = None
    loss = model(x, y)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(p.grad, alpha=-rate * min(1.0, limit / norm))
            if len(p.shape) > 1:
                p.add_(p.grad * rate * min(1.0, limit / norm) + p, alpha=-rate * decay)
            p.grad = None
    return loss.detach().numpy()


def step_by_copies(model, x, y, rate, decay, limit):
    loss = model(x, y)
    loss.backward()
    everything = list(model.parameters())
    norm = torch.nn.utils.parameters_to_vector([p.grad for p in everything]).square().sum().sqrt()
    new = [p * (1 - rate * decay * (p.ndim > 1)) - rate * min(1, float(limit / norm)) * p.grad for p in everything]
    with torch.no_grad():
        for p, value in zip(everything, new):
            p.copy_(value)
            p.grad.zero_()
    return loss.item()


@torch.no_grad()
def step_without_gradients_recorded(model, x, y, rate, decay, limit):
    with torch.enable_grad():
        loss = model(x, y)
    loss.backward()
    total = 0.0
    for p in model.parameters():
        total += torch.dot(p.grad.view(-1), p.grad.view(-1)).item()
    shorten = min(1.0, limit / total**0.5)
    for p in model.parameters():
        if p.ndim != 1:
            p *= 1 - rate * decay
        p -= rate * shorten * p.grad
    model.zero_grad()
    return torch.as_tensor(loss)


def a_model(seed):
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=7 + seed, n_positions=6, n_embd=6 + 2 * seed, n_layer=1 + seed % 2, n_head=2))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.3)
    x, y = torch.randint(7 + seed, (2, 2 + seed, 3 + seed))
    return model, x, y, 0.1 + 0.1 * seed, 0.3, (50.0, 0.2, 0.7, 0.05)[seed]


def two_steps(attempt, model, *arguments):
    """Both losses and the parameters after two steps."""
    losses = [attempt(model, *arguments) for _ in range(2)]
    return [torch.as_tensor(loss).item() for loss in losses], [p.detach() for p in model.parameters()]


# --- the learning rate -----------------------------------------------------------------------------------------------


def rate_with_torch(step, steps, warmup, highest, final_share):
    return torch.tensor(nb07.learning_rate(step, steps, warmup, highest, final_share))


def rate_by_numpy(step, steps, warmup, highest, final_share):
    rise = highest * (step + 1) / warmup
    angle = np.pi * (step - warmup) / (steps - warmup)
    return np.where(step < warmup, rise, highest * (final_share + (1 - final_share) * (1 + np.cos(angle)) / 2))


def rate_from_low_to_high(step, steps, warmup, highest, final_share):
    lowest = highest * final_share
    if step >= warmup:
        return lowest + (highest - lowest) * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup)) ** 2
    return (step + 1) * highest / warmup


def rate_as_one_product(step, steps, warmup, highest, final_share):
    progress = max(0, step - warmup) / (steps - warmup)
    fall = final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1, (step + 1) / warmup) * highest * fall


def rate_by_sine(step, steps, warmup, highest, final_share):
    share = (step + 1) / warmup
    if not step < warmup:
        middle, half = (1 + final_share) / 2, (1 - final_share) / 2
        share = middle + half * math.sin(math.pi / 2 - math.pi * (step - warmup) / (steps - warmup))
    return np.float32(share) * highest


def a_schedule(seed):
    return (3, 17, 30, 49)[seed], (20, 33, 58, 50)[seed], (5, 9, 6, 11)[seed], 0.5 + seed, 0.05 + 0.1 * seed


# --- the training loop -----------------------------------------------------------------------------------------------


def loop_as_a_comprehension(model, train_step, ids, config, generator):
    def one(step):
        batch = corpus.random_batch(ids, config.batch_size, config.context, generator)
        return float(train_step(model, *batch, config.learning_rate_at(step)))

    return [one(step) for step in range(config.steps)] if model.train() else []


def loop_with_while(model, train_step, ids, config, generator):
    model.train(True)
    losses, step = [], 0
    while len(losses) < config.steps:
        X, Y = corpus.random_batch(ids, batch_size=config.batch_size, context=config.context, generator=generator)
        losses += [train_step(model, X, Y, config.learning_rate_at(step)).detach().item()]
        step += 1
    return losses


def loop_with_own_batches(model, train_step, ids, config, generator):
    T, losses = config.context, np.zeros(config.steps)
    for step in range(config.steps):
        model.train()
        positions = torch.randint(len(ids) - T, (config.batch_size, 1), generator=generator) + torch.arange(T)
        losses[step] = train_step(model, ids[positions], ids[positions + 1], config.learning_rate_at(step)).item()
    return losses


def loop_with_batches_drawn_first(model, train_step, ids, config, generator):
    batches = [corpus.random_batch(ids, config.batch_size, config.context, generator) for _ in range(config.steps)]
    model.train()
    losses = []
    for step, (x, y) in enumerate(batches):
        losses.append(train_step(model, x, y, config.learning_rate_at(step)).detach())
    return losses


def loop_into_a_tensor(model, train_step, ids, config, generator):
    model.training = True
    losses = torch.empty(config.steps)
    rates = map(config.learning_rate_at, range(config.steps))
    for step, rate in enumerate(rates):
        x, y = corpus.random_batch(ids, config.batch_size, config.context, generator)
        with torch.no_grad():
            losses[step] = _with_gradient(train_step, model, x, y, rate)
    return losses


@torch.enable_grad()
def _with_gradient(train_step, *arguments):
    return train_step(*arguments)


def a_run(seed):
    return nb07.loop_case(V=5 + 2 * seed, N=33 + 9 * seed, seed=20 + seed, steps=4 + 3 * seed, batch_size=2 + 3 * seed,
                          context=3 + 2 * seed, warmup_steps=1 + 2 * seed, learning_rate=0.6)


def losses_and_model(attempt, model, ids, config, generator):
    """The losses, the model's parameters after the loop, and its mode."""
    losses = attempt(model, nb07.plain_step, ids, config, generator)
    return losses, model.table.detach(), model.training


CASES = {
    "bits": Case([bits_in_steps, bits_with_numpy, bits_with_torch, bits_per_token_first, bits_by_log2], a_loss),
    "merges": Case([merges_in_order, merges_by_recursion, merges_by_cuts, merges_all_places_at_once,
                    merges_as_bytearrays], a_piece),
    "batch": Case([batch_in_a_loop, batch_of_lists, batch_by_unfold, batch_with_numpy, batch_by_rand], a_text),
    "windows": Case([windows_counted, windows_by_sets, windows_by_minima, windows_by_cases, windows_with_numpy],
                    a_token),
    "bigram": Case([bigram_in_a_loop, bigram_with_numpy, bigram_by_one_hot, bigram_by_bincount, bigram_by_masks],
                   two_texts),
    "step": Case([step_with_lists, step_with_one_vector, step_by_norms_of_norms, step_by_copies,
                  step_without_gradients_recorded], a_model, two_steps),
    "schedule": Case([rate_by_numpy, rate_with_torch, rate_from_low_to_high, rate_as_one_product, rate_by_sine],
                     a_schedule),
    "loop": Case([loop_as_a_comprehension, loop_with_while, loop_with_own_batches, loop_with_batches_drawn_first,
                  loop_into_a_tensor], a_run, losses_and_model),
}
