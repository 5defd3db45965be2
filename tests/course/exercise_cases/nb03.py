"""Cases for the exercises of notebook 03."""

import random
import statistics
import timeit

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.course.exercises.nb03 import ToyMachine, ToyModel
from helpers.model import GPT, GPTConfig
from tests.course.exercise_cases import Case

# --- what a clock reads ----------------------------------------------------------------------------------------------


def by_simulation(n, launch, work):
    cpu = device = 0.0
    for _ in range(n):
        cpu += launch
        device = max(device, cpu) + work
    return cpu, device


def with_lists(n, launch, work):
    return [sum([launch] * n), sum([launch, *[work] * n])]


def with_numpy(n, launch, work):
    starts = launch * np.arange(1, n + 1)
    return np.array([starts[-1], starts[0] + n * work])


def with_torch(n, launch, work):
    return torch.stack([torch.tensor(n * launch), torch.tensor(launch) + n * work])


def for_any_launch(n, launch, work):
    without = n * launch
    return without, max(launch + n * work, without + work)


def as_a_generator(n, launch, work):
    yield n * launch
    yield n * work + launch


def pieces(seed):
    return seed + 4, 0.003 * (seed + 1), 0.1 + 0.07 * seed


# --- FLOPs of a token ------------------------------------------------------------------------------------------------


def row_by_row(config, T):
    C, multiplications = config.n_embd, 0
    for _ in range(config.n_layer):
        for rows, columns in ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)):
            multiplications += rows * columns
        for _ in range(config.n_head):
            multiplications += 2 * T * (C // config.n_head)
    return 2 * (multiplications + config.vocab_size * C)


def in_closed_form(config, T):
    C, L, V = config.n_embd, config.n_layer, config.vocab_size
    return 24 * L * C**2 + 2 * V * C + 4 * L * T * C


def from_the_matrices(config, T):
    with torch.device("meta"):
        model = GPT(config)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2) - model.transformer.wpe.weight.numel()
    return 2.0 * matrices + 4.0 * config.n_layer * T * config.n_embd


def counted_by_torch(config, T):
    with torch.device("meta"):
        model, ids = GPT(config), torch.zeros(1, T, dtype=torch.int64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids)
    return counter.get_total_flops() / T


def with_numpy_numbers(config, T):
    sizes = np.array([3, 1, 4, 4], dtype=np.float64) * config.n_embd**2
    return np.float64(2) * (config.n_layer * sizes.sum() + config.vocab_size * config.n_embd
                            + 2 * config.n_layer * T * config.n_embd)


def with_a_float32_tensor(config, T):
    C, L = torch.tensor(float(config.n_embd)), config.n_layer
    return 2 * L * (12 * C**2 + 2 * C * T) + 2 * C * config.vocab_size


def models(seed):
    heads = seed + 3
    return GPTConfig(n_layer=seed + 2, n_head=heads, n_embd=heads * 8, vocab_size=301 + 7 * seed,
                     n_positions=90 + seed), 20 + 9 * seed


# --- how many tokens until the peak is the limit ---------------------------------------------------------------------


def from_two_times(peak, bandwidth, bytes_per_element):
    arithmetic, reading = 2 / peak, bytes_per_element / bandwidth  # of one element: for a token, for a pass
    return reading / arithmetic


def rounded_up(peak, bandwidth, bytes_per_element):
    return int(np.ceil(peak / bandwidth * bytes_per_element / 2))


def rounded_down(peak, bandwidth, bytes_per_element):
    return peak * bytes_per_element // (2 * bandwidth)


def from_elements_per_second(peak, bandwidth, bytes_per_element):
    return torch.tensor(0.5 * peak / (bandwidth / bytes_per_element))


def by_bisection(peak, bandwidth, bytes_per_element):
    low, high = 0.0, 1e9
    for _ in range(200):
        n = (low + high) / 2
        low, high = (n, high) if 2 * n / peak < bytes_per_element / bandwidth else (low, n)
    return low


def by_counting(peak, bandwidth, bytes_per_element):
    tokens = 1
    while 2 * tokens / peak <= bytes_per_element / bandwidth:
        tokens += 1
    return tokens


def limits(seed):
    generator = random.Random(seed)
    return generator.uniform(1e11, 1e15), generator.uniform(1e10, 1e12), (1, 2, 4, 8)[seed]


# --- what a lever can achieve ----------------------------------------------------------------------------------------


def old_by_new(share, factor):
    old = 1.0
    new = (old - share) + share / factor
    return old / new


def over_the_factor(share, factor):
    return factor / (factor * (1 - share) + share)


def by_what_is_saved(share, factor):
    return (1 - share * (1 - 1 / factor)) ** -1


def of_a_hundred_seconds(share, factor):
    times = np.array([100 * share, 100 * (1 - share)])
    return times.sum() / (times / [factor, 1]).sum()


def with_tensors(share, factor):
    share, factor = torch.tensor(share), torch.tensor(factor)
    return torch.reciprocal(1 - share + share / factor)


def parts(seed):
    return 0.15 + 0.2 * seed, 1.7 * (seed + 1)


# --- timing Model 5 --------------------------------------------------------------------------------------------------


def with_numpy_percentiles(model, ids, time, wait):
    times = []
    with torch.inference_mode():
        for i in range(21):
            begin = time.monotonic()
            model.forward(ids)
            wait()
            if i > 2:
                times.append(time.monotonic() - begin)
    return np.percentile(times, [25, 50, 75])


@torch.no_grad()
def with_a_decorator(model, ids, time, wait):
    def once():
        wait()
        start = time.time()
        model(ids)
        wait()
        return time.time() - start

    times = sorted([once() for _ in range(8)][1:])
    return times[1], times[3], times[5]


def with_timeit(model, ids, time, wait):
    def once():
        model(ids)
        wait()

    with torch.no_grad():
        first, *times = timeit.repeat(once, timer=time.perf_counter, number=1, repeat=16)
    return statistics.quantiles(times)


def without_gradients_of_parameters(model, ids, time, wait):
    model.requires_grad_(False)
    model(ids), wait()
    ticks = [time.perf_counter_ns()]
    for _ in range(30):
        model(ids), wait()
        ticks.append(time.perf_counter_ns())
    return torch.tensor(ticks).diff().double().quantile(torch.tensor([0.25, 0.5, 0.75]).double()) * 1e-9


def by_halves(model, ids, time, wait):
    with torch.no_grad():
        model(ids)
        wait()
        times = []
        for _ in range(12):
            start = time.perf_counter()
            model(ids)
            wait()
            times = sorted(times + [time.perf_counter() - start])
    return [statistics.median(half) for half in (times[:6], times, times[6:])]


def with_a_warm_up_of_half_a_second(model, ids, time, wait):
    times, begin = [], time.perf_counter()
    with torch.set_grad_enabled(False):
        while len(times) < 15:
            start = time.perf_counter()
            model(ids)
            wait()
            end = time.perf_counter()
            if start - begin > 0.5:
                times.append(end - start)
    return tuple(np.quantile(times, share) for share in (0.25, 0.5, 0.75))


def first_run(seed):
    return (0.3 + 0.1 * seed,)


def time_on_a_toy_machine(attempt, first):
    """How far the answers are from the quartiles of all readings after the first, by the nearest of Python's two
    methods; whether they are in seconds of wall time, and the device idle and gradients off."""
    machine = ToyMachine(first=first)
    ids = torch.ones(1, 12, dtype=torch.int64)
    answer = torch.tensor([float(number) for number in attempt(ToyModel(machine), ids, machine, machine.wait)])
    rights = [torch.tensor(statistics.quantiles(machine.readings(1), n=4, method=method))
              for method in ("inclusive", "exclusive")]
    off = min((answer - right).abs().max().item() for right in rights) if len(answer) == 3 else answer
    return off, machine.kept_gradients, machine.read_too_early, sorted(machine.read)


CASES = {
    "clock": Case([by_simulation, with_lists, with_numpy, with_torch, for_any_launch, as_a_generator], pieces),
    "flops": Case([row_by_row, in_closed_form, from_the_matrices, counted_by_torch, with_numpy_numbers,
                   with_a_float32_tensor], models),
    "tokens": Case([from_two_times, rounded_up, rounded_down, from_elements_per_second, by_bisection, by_counting],
                   limits),
    "lever": Case([old_by_new, over_the_factor, by_what_is_saved, of_a_hundred_seconds, with_tensors], parts),
    "model5": Case([with_numpy_percentiles, with_a_decorator, with_timeit, without_gradients_of_parameters, by_halves,
                    with_a_warm_up_of_half_a_second], first_run, time_on_a_toy_machine),
}
