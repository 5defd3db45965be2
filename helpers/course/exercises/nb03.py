"""Exercises of notebook 03: what a clock reads, counting FLOPs, when memory is the limit, what a lever can achieve, and
timing Model 5."""

import math
import statistics
import time

import numpy as np
import torch

from helpers.course.checking import Exercise, NotYet, as_number, as_numbers, close
from helpers.model import GPT, GPTConfig


def _explain(answer, mistakes, otherwise):
    """Raises NotYet with the message of the mistake that leads to the learner's wrong answer.

    mistakes: (message, what this mistake computes) pairs. otherwise: the message for any other answer.
    """
    raise NotYet(next((message for message, result in mistakes if close(answer, result)), otherwise))


# --- what a clock reads ----------------------------------------------------------------------------------------------


def clock_readings(n, launch, work):
    """The seconds that a clock shows after the last launch, and after waiting for the device."""
    without_wait = n * launch
    with_wait = launch + n * work  # after the first launch the device is never idle
    return without_wait, with_wait


def _mistakes_in_clock(n, launch, work):
    """(message, result) pairs for a wrong reading without a wait, and for one with a wait."""
    ignores_work = "Without a wait, a clock does not include the work. It shows what the CPU does."
    return [
        ("That is the time of one launch. How many are there before the clock is read again?", launch),
        (ignores_work, n * work),
        (ignores_work, n * (launch + work)),
        ("Both numbers are the reading with a wait. Without a wait, the CPU continues right after its last launch.",
         launch + n * work),
    ], [
        ("The CPU and the device work at the same time: while the device is busy with one piece, the CPU launches the "
         "next ones. Draw one timeline for each.", n * (launch + work)),
        ("Nearly. What must happen before the device can begin with the first piece?", n * work),
        ("That would be right if launches took longer than the work. These launches are short, so pieces pile up in "
         "the queue.", n * launch + work),
        ("With a wait, the reading must also include the work.", n * launch),
    ]


def _test_clock(attempt):
    for n, launch, work in ((10, 0.001, 0.050), (3, 0.25, 2.0), (1, 0.02, 0.7)):
        answer = as_numbers(attempt(n, launch, work), ("the reading without a wait", "the reading with a wait"))
        right = clock_readings(n, launch, work)
        if all(map(close, answer, right[::-1])):
            raise NotYet("The other way round: first the reading without a wait.")
        mistakes_of = _mistakes_in_clock(n, launch, work)
        for own, expected, mistakes, which in zip(answer, right, mistakes_of, ("without", "with")):
            if not close(own, expected):
                case = (f"{n} pieces, a launch of {launch:g} s, work of {work:g} s each: {which} a wait, your answer "
                        f"is {own:g} s.")
                _explain(own, [(f"{case} {message}", result) for message, result in mistakes],
                         f"{case} Expected {expected:g} s.")
    return "Right for 10 pieces, for 3 and for 1. Without a wait, the reading does not include the work at all."


# --- counting FLOPs --------------------------------------------------------------------------------------------------


def flops_per_token(config, T):
    """FLOPs of the forward pass per token: 2 per element of a matrix, and attention over T tokens."""
    C, L, V = config.n_embd, config.n_layer, config.vocab_size
    matrices = L * (3 * C * C + C * C + 4 * C * C + 4 * C * C) + V * C  # c_attn, c_proj, c_fc, c_proj; the head
    scores, sums = 2 * T * C, 2 * T * C  # q k' and the weighted sum of v, all heads together
    return 2 * matrices + L * (scores + sums)


def _mistakes_in_flops(config, T):
    """(message, result) pairs for a wrong count of FLOPs."""
    C, L, V, P = config.n_embd, config.n_layer, config.vocab_size, config.n_positions
    right, attention = flops_per_token(config, T), 4 * L * T * C
    return [
        ("That counts multiplications only: each one comes with an addition.", right / 2),
        ("The head is missing: V x C elements. It is tied to the embedding, but it multiplies.", right - 2 * V * C),
        ("Did you count the embedding as well as the head? A look-up multiplies nothing.", right + 2 * V * C),
        ("The position embedding is looked up and added; it multiplies nothing.", right + 2 * P * C),
        ("Attention is missing: queries times keys, and weights times values.", right - attention),
        ("Half of attention is missing: there are two products with T tokens, not one. Do not halve the count for the "
         "mask either: count all T keys.", right - attention / 2),
        ("Attention happens in each of the L blocks.", right - attention + attention / L),
        ("All heads together multiply C elements, so do not divide by n_head.",
         right - attention + attention / config.n_head),
        ("Each head multiplies vectors of C / n_head elements, not of C.", right + (config.n_head - 1) * attention),
        ("A matrix of C x C is missing in each block: attn.c_proj.", right - 2 * L * C * C),
        ("The MLP has two matrices of 4C x C in each block: c_fc and c_proj.", right - 2 * L * 4 * C * C),
        ("The head comes once, after the last block. It is not in every block.", right + 2 * (L - 1) * V * C),
        ("Count the forward pass only: the factor 3 is for training, with a backward pass.", right * 3),
        ("That is the whole sequence. Count one token.", right * T),
        ("Biases and LayerNorm are not counted here: see the table.", right + 2 * (13 * L + 2) * C),
        ("Biases are not counted here: see the table.", right + 2 * 9 * L * C),
    ]


def _test_flops(attempt):
    # In the first configuration all values differ (GPT-2 small has as many blocks as heads), so no mistakes coincide.
    small = GPTConfig(n_layer=5, n_embd=96, n_head=6, vocab_size=700, n_positions=64)
    for config, T in ((small, 40), (GPTConfig(), 1024)):
        answer, right = as_number(attempt(config, T), "the FLOPs of one token"), flops_per_token(config, T)
        if not close(answer, right):
            _explain(answer, _mistakes_in_flops(config, T),
                     f"For {config.n_layer} blocks, width {config.n_embd} and T = {T}, your answer is {answer:,.0f} "
                     f"FLOPs per token, expected {right:,}: yours is {answer / right:.4g} times the count. Per block: "
                     "3C^2 + C^2 + 4C^2 + 4C^2 elements, each 2 FLOPs; the head once; forward only.")
    return ("Right for GPT-2 small and for a smaller model. There are two terms: 2N, where N counts the elements of "
            "the matrices, and 4LTC for attention.")


# --- limited by memory -----------------------------------------------------------------------------------------------


def tokens_needed(peak, bandwidth, bytes_per_element):
    """The number of tokens per pass above which a model's matrices are limited by the peak, not by the bandwidth.

    n tokens cost 2 N n FLOPs and read N elements: both take equally long when 2 N n / peak = N bytes / bandwidth.
    """
    return peak * bytes_per_element / (2 * bandwidth)


def _test_tokens(attempt):
    """Compares with the exact number; the whole number below or above it is right, too."""
    for peak, bandwidth, size in ((3.1e11, 4.2e10, 8), (1.2e12, 1.1e11, 4), (9.9e14, 3.35e12, 2)):
        answer = as_number(attempt(peak, bandwidth, size), "the number of tokens")
        right = tokens_needed(peak, bandwidth, size)
        mistakes = [
            ("An addition comes with each multiplication: two FLOPs per element and token.", 2 * right),
            ("That is FLOPs per byte. How many FLOPs does a token do with one element?", peak / bandwidth),
            ("The bandwidth counts bytes, and an element has several.", right / size),
            ("The bytes per element are on the wrong side: larger elements take longer to read.", right / size**2),
            ("That is the reciprocal: a higher peak needs more tokens, a higher bandwidth fewer.", 1 / right),
            ("That is right for 4 bytes per element only: use bytes_per_element.", tokens_needed(peak, bandwidth, 4)),
        ]
        if not close(answer, right) and answer not in (math.floor(right), math.ceil(right)):
            _explain(answer, mistakes, f"For {peak:.3g} FLOP/s, {bandwidth:.3g} byte/s and {size} bytes per element, "
                                       f"expected {right:,.1f} tokens; your answer is {answer:,.1f}.")
    return "Right for elements of 8, 4 and 2 bytes. Below this number, reading takes longer than the arithmetic."


# --- what a lever can achieve ----------------------------------------------------------------------------------------


def whole_speedup(share, factor):
    """How many times faster a program becomes when one part of it, with this share of its time, becomes `factor` times
    faster. Source: Amdahl, 1967."""
    return 1 / ((1 - share) + share / factor)


def _test_lever(attempt):
    add_times = "Add up times, not speeds:"
    two_parts = "The new time has two parts: the rest, 1 - share, and the part, share / factor."
    for share, factor in ((0.25, 8.0), (0.6, 3.0), (1.0, 2.0), (0.3, 0.5)):
        answer, right = as_number(attempt(share, factor), "the speed-up"), whole_speedup(share, factor)
        mistakes = [
            ("That is the new time, as a share of the old. How many times faster is the program?", 1 / right),
            (f"{add_times} what remains of the old time, and how long does the part take now?", share * factor),
            (f"{add_times} a part that is faster takes less time.", share * factor + 1 - share),
            ("That would be right if all of the program became faster. How long does the rest take?", factor),
            ("The share is a fraction: 25 % is passed as 0.25.", whole_speedup(share / 100, factor)),
            ("The part that became faster still takes some time.", 1 / (1 - share + 1e-12)),
            ("A part that is factor times as fast takes share / factor, not share * factor.",
             1 / (1 - share + share * factor)),
            (two_parts, factor / share),
            (two_parts, 1 / (1 - share / factor)),
        ]
        if not close(answer, right):
            _explain(answer, mistakes,
                     f"A part with {share:.0%} of the time becomes {factor:g} times as fast: expected {right:.3f} for "
                     f"the whole program; your answer is {answer:.3f}.")
    limit = whole_speedup(0.25, 1e12)
    return (f"Right for four parts, one of them slower than before. If a part takes 25 % of the time, speeding it up "
            f"makes the whole at most {limit:.2f} times faster.")


# --- timing Model 5 --------------------------------------------------------------------------------------------------


def time_forward(model, ids, time, wait):
    """The lower quartile, the median and the upper quartile of the seconds of a forward pass; time: Python's module."""
    with torch.no_grad():
        model(ids)  # the warm-up run is not counted
        wait()
        times = []
        for _ in range(11):
            start = time.perf_counter()
            model(ids)
            wait()
            times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=4, method="inclusive")


class ToyMachine:
    """A simulated CPU with a GPU: its time is counted and never spent. It has the clocks of the module time, a queue,
    and a function that waits until the queue is empty.

    first: the seconds of the first run. Later runs take about 20 ms; every fourth is disturbed, and a few are quick.
    """

    launch, threads = 0.001, 2

    def __init__(self, first=0.500):
        self.first, self.now, self.processor, self.ready = first, 0.0, 0.0, 0.0
        self.work, self.read, self.kept_gradients, self.read_too_early = [], set(), False, False
        self.readings_taken = 0  # how often a clock was read

    def run(self):
        """Launches one run: this costs the CPU a millisecond, and the device works later."""
        i = len(self.work)
        usual = 0.100 if i % 4 == 3 else 0.012 if i % 7 == 5 else 0.020
        self.work.append(self.first if i == 0 else usual + 1e-5 * (i * 37 % 101))  # no two runs are equal
        self.now += self.launch
        self.processor += self.threads * self.launch
        self.ready = max(self.ready, self.now) + self.work[i]

    def wait(self):
        """Moves the time to the moment when the queue is empty."""
        self.now = max(self.now, self.ready)

    def sleep(self, seconds):
        """Replaces time.sleep."""
        self.now += seconds

    def perf_counter(self):
        """Wall time in seconds."""
        self.read.add("wall")
        self.readings_taken += 1
        self.read_too_early |= self.ready > self.now
        return self.now

    def perf_counter_ns(self):
        """Wall time in nanoseconds."""
        return round(1e9 * self.perf_counter())

    def process_time(self):
        """Processor time in seconds, summed over all threads."""
        self.read.add("processor")
        self.readings_taken += 1
        return self.processor

    def process_time_ns(self):
        """Processor time in nanoseconds."""
        return round(1e9 * self.process_time())

    time, monotonic, monotonic_ns, time_ns = perf_counter, perf_counter, perf_counter_ns, perf_counter_ns
    thread_time, thread_time_ns = process_time, process_time_ns

    def uncounted(self):
        """The possible numbers of warm-up runs, if at least five runs are counted."""
        return range(1, min(len(self.work) - 4, 61))

    def readings(self, uncounted):
        """The seconds of every run after the uncounted ones, each run followed by its own wait."""
        return [self.launch + work for work in self.work[uncounted:]]


class ToyModel(GPT):
    """A small GPT-2 that computes like any other, and each time launches a run on a toy machine."""

    def __init__(self, machine):
        super().__init__(GPTConfig(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
        self.machine = machine

    def forward(self, *inputs, **options):
        self.machine.run()
        output = super().forward(*inputs, **options)
        self.machine.kept_gradients |= output.requires_grad
        return output


RULES = {"by position": lambda times, share: sorted(times)[int(share * len(times))]} | {
    rule: lambda times, share, rule=rule: np.quantile(times, share, method=rule)
    for rule in ("linear", "lower", "higher", "midpoint", "nearest", "weibull", "hazen", "median_unbiased")}
QUARTILES = 0.25, 0.5, 0.75
TOO_EARLY = ("You read a clock while the device was still busy. Has the warm-up run finished before the first reading "
             "starts? Wait for it, too.")


def _rules(number, share, times):
    """The names of the rules by which a number is this quantile of the times. Rules differ between two readings."""
    return {name for name, rule in RULES.items() if abs(number - rule(times, share)) < 1e-8}


def _are_quartiles(numbers, times):
    return all(_rules(number, share, times) for number, share in zip(numbers, QUARTILES))


def _are_right(answers, machines):
    """Whether the answers are the quartiles on all machines, by the same rules, with the same number of runs uncounted
    or (if a time limit ends the warm-up) counted.

    The first run is slow on one machine and quick on the other, so no rule can hide it on both.
    """
    def fit(uncounted):
        return all(set.intersection(*(_rules(answer[i], share, machine.readings(number))
                                      for answer, machine, number in zip(answers, machines, uncounted)))
                   for i, share in enumerate(QUARTILES))

    first, possible = machines[0], [set(machine.uncounted()) for machine in machines]
    return any(
        fit(uncounted) for number in first.uncounted()
        for uncounted in {(number,) * len(machines),
                          tuple(number + len(machine.work) - len(first.work) for machine in machines)}
        if all(map(set.__contains__, possible, uncounted)))


def _first_run_counts(answers, machines):
    rules = (_rules(answer[1], 0.5, machine.readings(0)) for answer, machine in zip(answers, machines))
    return bool(set.intersection(*rules))


def _name_the_mistake(answer, machine):
    """The message about three numbers that are not the quartiles of a toy machine's readings."""
    median, counts, ms = answer[1], machine.uncounted(), f"{1e3 * answer[1]:.0f} ms"
    each = " Read the clock before and after each pass." if machine.readings_taken < 6 else ""  # five readings need six
    if median <= machine.threads * machine.launch + 1e-8:
        launches = f"{ms}, whatever the work: that is the time that the CPU needs for a launch. "
        if "processor" in machine.read:
            return launches + "Section 2 explains what process_time counts. Which clock shows how long you wait?"
        return launches + "The device must have finished before you read the clock again."
    if machine.read_too_early:
        return TOO_EARLY
    if any(_are_quartiles(sorted(answer), machine.readings(n)) and answer != sorted(answer) for n in counts):
        return "The numbers are right. Return them in this order: lower quartile, median, upper quartile."
    if any(_are_quartiles([x / 1e3 for x in answer], machine.readings(n)) for n in counts):
        return "These are milliseconds. Return seconds."
    if median > 1e7:  # far more than any time of these runs in seconds or milliseconds
        return "These are nanoseconds. Return seconds."
    return _wrong_summary(median, machine, ms, each) or _wrong_quartiles(answer, machine, each)


def _wrong_summary(median, machine, ms, each):
    """The message about a mean, a sum or a minimum in place of the median, or None."""
    readings = [machine.readings(n) for n in (0, *machine.uncounted())]
    if any(abs(median - np.mean(times)) <= machine.launch for times in readings):
        return f"{ms} is the mean, which a few disturbed runs pull up. Take the value in the middle.{each}"
    if any(abs(median - np.sum(times)) <= len(machine.work) * machine.launch for times in readings):
        return f"That is the time of all runs together. How long does one take?{each}"
    if abs(median - min(machine.readings(1))) < 1e-8:
        return "That is the smallest reading, a lucky one. Take the value in the middle."
    return None


def _wrong_quartiles(answer, machine, each):
    """The message about quartiles or a median of no known kind."""
    right = [n for n in machine.uncounted() if _rules(answer[1], 0.5, machine.readings(n))]
    if any(close(answer[0], min(machine.readings(n))) for n in right):
        return "The median is right. The smallest and largest readings are not the quartiles: one disturbed run " \
               "decides them."
    if right:
        return "The median is right. The quartiles are not: a quarter of the readings lies below the lower quartile."
    return (f"Your median is {1e3 * answer[1]:.1f} ms; that of the {len(machine.work) - 1} runs after the first is "
            f"{1e3 * np.median(machine.readings(1)):.1f} ms.{each}")


NAMES = "the lower quartile", "the median", "the upper quartile"


def _toy_answer(attempt, machine, shape):
    """The three numbers of an attempt that has used a toy machine as it should."""
    ids = torch.zeros(shape, dtype=torch.int64)
    answer = as_numbers(attempt(ToyModel(machine), ids, machine, machine.wait), NAMES)
    if len(machine.work) < 6:
        times = "once" if len(machine.work) == 1 else f"{len(machine.work)} times"
        raise NotYet(f"You ran the model {times}. Do one warm-up run that is not counted, then take at least five "
                     "readings.")
    if not machine.read:
        raise NotYet("You read no clock of the check's machine. Use the argument `time`: time.perf_counter().")
    if machine.kept_gradients:
        raise NotYet("These passes keep what a backward pass needs. How did section 3 switch that off?")
    return answer


def _test_model5(attempt):
    """Times a small model on two toy machines first, and then on the real one."""
    machines, shapes = (ToyMachine(), ToyMachine(first=0.005)), ((2, 8), (3, 5))
    answers = [_toy_answer(attempt, machine, shape) for machine, shape in zip(machines, shapes)]
    if not _are_right(answers, machines):
        if _first_run_counts(answers, machines):
            raise NotYet(f"The first run, {1e3 * machines[0].readings(0)[0]:.0f} ms, is among your readings. Do not "
                         "count it: it is the warm-up.")
        wrong = next((i for i in (0, 1) if not _are_right(answers[i : i + 1], machines[i : i + 1])), 1)
        raise NotYet(_name_the_mistake(answers[wrong], machines[wrong]))
    if machines[0].read_too_early:
        raise NotYet(TOO_EARLY)
    start = time.perf_counter()
    _, real, _ = as_numbers(attempt(ToyModel(ToyMachine()), torch.zeros(2, 8, dtype=torch.int64), time, lambda: None),
                            NAMES)
    if not 0 < real <= time.perf_counter() - start:
        raise NotYet("Your function is right on the toy machine, but with Python's own module `time` its median is "
                     f"{real:g} s.")
    return (f"Right on two toy machines. On the first, the median is {1e3 * answers[0][1]:.1f} ms, although the first "
            f"run takes {1e3 * machines[0].first:.0f} ms and every fourth run is disturbed.")


clock = Exercise(
    "What a clock reads", 1, 5,
    ("Draw two timelines, one for the CPU and one for the device. Mark three launches and three pieces of work.",
     "Without a wait, the clock is read after the last launch. With a wait, it is read when the device has finished "
     "the last piece.",
     "The device begins after the first launch. From then on it is always busy, so it needs another n times work."),
    _test_clock, clock_readings,
)
flops = Exercise(
    "FLOPs of a token", 2, 12,
    ("Go through the table row by row. A matrix with n elements costs 2n FLOPs for each token: one multiplication and "
     "one addition per element.",
     "Add up the four matrices of a block, times L, and the head once. Then add attention: in each block, each token's "
     "query meets T keys, and the T weights meet T values.",
     "A query and a key of C elements (all heads together) cost 2C. T keys cost 2TC, the weighted sum of T values "
     "costs another 2TC, and both happen in L blocks."),
    _test_flops, flops_per_token,
)
tokens = Exercise(
    "How many tokens until the peak is the limit", 2, 8,
    ("Write down two times for a pass of n tokens: one for the arithmetic, one for reading the weights.",
     "The arithmetic takes 2 N n / peak seconds. Reading N elements of several bytes each takes N * bytes / bandwidth.",
     "Set 2 N n / peak = N * bytes / bandwidth, and solve for n. N cancels."),
    _test_tokens, tokens_needed,
)
lever = Exercise(
    "What a lever can achieve", 1, 5,
    ("Let the whole program take the time 1. Which part of it stays as it is?",
     "The rest still takes 1 - share. How long does the part take now? The speed-up is the old time divided by the new "
     "time.",
     "The part now takes share / factor. Divide 1 by the sum of the two."),
    _test_lever, whole_speedup,
)
model5 = Exercise(
    "Time Model 5", 3, 20,
    ("You need five things: nothing kept for a backward pass; a warm-up run that is not counted; the right clock; a "
     "wait before each reading of the clock; at least five readings.",
     "with torch.no_grad(): first call model(ids) and wait(), without counting them. Then for each reading: start = "
     "time.perf_counter(), model(ids), wait(), and the difference. Collect the differences in a list.",
     "statistics.quantiles(times, n=4, method='inclusive') returns the three numbers in the right order; so does "
     "torch.tensor(times).quantile(torch.tensor([0.25, 0.5, 0.75]))."),
    _test_model5, time_forward,
)
