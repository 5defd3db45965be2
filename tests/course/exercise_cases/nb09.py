"""Cases for the exercises of notebook 09."""

import itertools
import math
import statistics

import numpy as np
import torch

from tests.course.exercise_cases import Case

# --- an equal budget -------------------------------------------------------------------------------------------------


def rounded_down(steps, batch_size, context, new_batch_size, new_context):
    return math.floor(steps * batch_size * context / (new_batch_size * new_context))


def token_by_token(steps, batch_size, context, new_batch_size, new_context):
    left, count = steps * batch_size * context, 0
    while left >= new_batch_size * new_context:
        left -= new_batch_size * new_context
        count += 1
    return count


def by_division_with_rest(steps, batch_size, context, new_batch_size, new_context):
    whole, _ = divmod(steps * batch_size * context, new_batch_size * new_context)
    return whole


def budget_in_torch(steps, batch_size, context, new_batch_size, new_context):
    return torch.tensor(steps * batch_size * context) // (new_batch_size * new_context)


def budget_in_numpy(steps, batch_size, context, new_batch_size, new_context):
    return np.floor(np.prod([steps, batch_size, context]) / np.prod([new_batch_size, new_context]))


def one_after_another(steps, batch_size, context, new_batch_size, new_context):
    return int(steps * batch_size * context // new_batch_size // new_context)


def some_budget(seed):
    return 70 + 11 * seed, 3 + seed, 9 + 2 * seed, 5 - seed, 4 + 3 * seed


# --- paired differences ----------------------------------------------------------------------------------------------


def difference_in_torch(losses, base_losses):
    differences = torch.tensor(losses) - torch.tensor(base_losses)
    return differences.mean(), differences.std() / math.sqrt(len(losses))


def difference_in_numpy(losses, base_losses):
    d = np.array(losses) - np.array(base_losses)
    return [d.mean(), d.std(ddof=1) / len(d) ** 0.5]


def with_statistics(losses, base_losses):
    d = [a - b for a, b in zip(losses, base_losses)]
    return statistics.mean(d), statistics.stdev(d) / math.sqrt(len(d))


def with_loops(losses, base_losses):
    n, total, squares = len(losses), 0.0, 0.0
    for i in range(n):
        total += losses[i] - base_losses[i]
    for i in range(n):
        squares += (losses[i] - base_losses[i] - total / n) ** 2
    return total / n, (squares / (n * (n - 1))) ** 0.5


def by_squares_of_the_mean(losses, base_losses):
    d = np.subtract(losses, base_losses)
    n = len(d)
    variance = (np.sum(d**2) - n * d.mean() ** 2) / (n - 1)
    return np.array([d.mean(), np.sqrt(variance / n)])


def as_one_tensor(losses, base_losses):
    d = torch.tensor([losses, base_losses], dtype=torch.float64).diff(dim=0).neg()[0]
    return torch.stack([d.mean(), (d.var() / d.numel()).sqrt()])


def some_losses(seed):
    generator = np.random.default_rng(seed)
    return tuple((5 + generator.normal(size=(2, seed + 5))).tolist())


# --- how much of a text is sampled -----------------------------------------------------------------------------------


def by_counting(N, T, draws):
    windows = [sum(start <= i < start + T for start in range(N - T)) for i in range(N)]
    return np.mean([1 - (1 - w / (N - T)) ** draws for w in windows])


def by_adding_windows(N, T, draws):
    windows = torch.zeros(N)
    for start in range(N - T):
        windows[start : start + T] += 1
    return (1 - (1 - windows / (N - T)) ** draws).mean()


def by_the_hint(N, T, draws):
    total = 0
    for i in range(N):
        windows = max(0, min(i, N - T - 1) - max(0, i - T + 1) + 1)
        total += 1 - (1 - windows / (N - T)) ** draws
    return total / N


def by_convolution(N, T, draws):
    windows = np.convolve(np.ones(N - T), np.ones(T))  # N - 1 tokens; the last one is never an input
    return np.append(1 - (1 - windows / (N - T)) ** draws, 0).mean()


def by_a_table(N, T, draws):
    starts, tokens = torch.arange(N - T)[:, None], torch.arange(N)
    is_inside = (tokens >= starts) & (tokens < starts + T)  # (starts, tokens)
    missed = (~is_inside).double().mean(0) ** draws
    return 1 - missed.mean().item()


def from_both_edges(N, T, draws):
    i = np.arange(N)
    windows = np.minimum.reduce([i + 1, np.full(N, T), np.full(N, N - T), N - 1 - i])
    return 1 - np.mean((1 - windows / (N - T)) ** draws)


def some_text(seed):
    return 37 + 6 * seed, (5, 20, 3, 9)[seed], 3 + 4 * seed


# --- the best checkpoint ---------------------------------------------------------------------------------------------


def with_a_counter(losses, patience):
    best, kept, worse = float("inf"), 0, 0
    for i, loss in enumerate(losses):
        if loss < best:
            best, kept, worse = loss, i, 0
        else:
            worse += 1
            if worse == patience:
                break
    return kept, i


def by_the_text(losses, patience):
    """Literally: the last `patience` measurements are all no better than the best one before them."""
    for i in range(patience, len(losses)):
        before, last = losses[: i - patience + 1], losses[i - patience + 1 : i + 1]
        if min(last) >= min(before):
            return before.index(min(before)), i
    return losses.index(min(losses)), len(losses) - 1


def by_the_lowest_so_far(losses, patience):
    lowest = np.minimum.accumulate(losses)
    place = [int(np.argmin(losses[: i + 1])) for i in range(len(lowest))]
    stops = [i for i in range(len(lowest)) if i - place[i] >= patience]
    stop = stops[0] if stops else len(lowest) - 1
    return np.array([place[stop], stop])


def with_a_while_loop(losses, patience):
    i = best = 0
    while i + 1 < len(losses) and i - best < patience:
        i += 1
        if losses[i] < losses[best]:
            best = i
    return [best, i]


def checkpoint_in_torch(losses, patience):
    losses = torch.tensor(losses)
    for stop in range(len(losses)):
        best = int((losses[: stop + 1] == losses[: stop + 1].min()).nonzero()[0])
        if stop - best == patience:
            break
    return torch.tensor([best, stop])


def with_generators(losses, patience):
    places = list(itertools.accumulate(range(len(losses)), lambda *pair: min(pair, key=losses.__getitem__)))
    stop = next((i for i, place in enumerate(places) if i - place >= patience), len(losses) - 1)
    return places[stop], stop


def some_curve(seed):
    generator = np.random.default_rng(seed)
    falling = np.linspace(8, 6, 12 + 3 * seed) + 0.5 * generator.normal(size=12 + 3 * seed)
    return falling.round(1).tolist(), seed + 1


# --- a split without leakage -----------------------------------------------------------------------------------------


def split_by_sets(starts, T, first, last):
    held = [set(range(start, start + T + 1)) for start in starts.tolist()]
    region = set(range(first, last))
    return [not tokens & region for tokens in held], np.array([tokens <= region for tokens in held])


def by_the_tokens(starts, T, first, last):
    tokens = starts[:, None] + torch.arange(T + 1)  # (n, T + 1)
    is_test = (tokens >= first) & (tokens < last)
    return ~is_test.any(1), is_test.all(1)


def by_the_last_token(starts, T, first, last):
    final = starts + T
    return torch.logical_or(final < first, starts > last - 1), torch.logical_and(starts >= first, final <= last - 1)


def split_in_a_loop(starts, T, first, last):
    train, test = torch.zeros(len(starts), dtype=torch.bool), torch.zeros(len(starts), dtype=torch.bool)
    for i, start in enumerate(starts):
        train[i] = start + T < first or start >= last
        test[i] = start >= first and start + T < last
    return [train, test]


def split_in_numpy(starts, T, first, last):
    starts = starts.numpy()
    overlaps = (starts < last) & (starts + T >= first)
    return ~overlaps, (starts >= first) & (starts + T < last)


def as_a_stack(starts, T, first, last):
    overlap = torch.minimum(starts + T + 1, torch.tensor(last)) - starts.clamp(min=first)  # shared tokens
    return torch.stack([overlap <= 0, overlap == T + 1])


def some_windows(seed):
    starts = torch.randint(50 + 10 * seed, (40 + seed,), generator=torch.Generator().manual_seed(seed))
    return starts, 3 + seed, 14 + seed, 30 + 4 * seed


CASES = {
    "budget": Case([rounded_down, token_by_token, by_division_with_rest, budget_in_torch, budget_in_numpy,
                    one_after_another], some_budget),
    "difference": Case([difference_in_torch, difference_in_numpy, with_statistics, with_loops, by_squares_of_the_mean,
                        as_one_tensor], some_losses),
    "coverage": Case([by_counting, by_adding_windows, by_the_hint, by_convolution, by_a_table, from_both_edges],
                     some_text),
    "checkpoint": Case([with_a_counter, by_the_text, by_the_lowest_so_far, with_a_while_loop, checkpoint_in_torch,
                        with_generators], some_curve),
    "split": Case([split_by_sets, by_the_tokens, by_the_last_token, split_in_a_loop, split_in_numpy, as_a_stack],
                  some_windows),
}
