"""Exercises of notebook 03: what a clock reads, counting FLOPs, when memory is the limit, what a lever can give, and
timing Model 5."""

import statistics
import time

import numpy as np
import torch

from helpers.exercises import Exercise, NotYet, needs_answer
from helpers.model import GPT, GPTConfig


def _floats(answer, names):
    """A learner's answer as so many floats; names say what they are."""
    try:
        found = [float(number) for number in answer]
    except TypeError:  # a single number, or a None inside
        found = []
    if len(found) != len(names):
        raise NotYet(f"Return {len(names)} numbers: {', '.join(names)}.")
    return found


def _near(number, other):
    return abs(number - other) <= 1e-6 * abs(other)


# --- what a clock reads ----------------------------------------------------------------------------------------------


def clock_readings(n, launch, work):
    """What a clock reads that does not wait, and one that does."""
    without = n * launch
    waiting = launch + n * work  # the first launch; from then on the device is never idle
    return without, waiting


def _test_clock(attempt):
    for n, launch, work in ((10, 0.001, 0.050), (3, 0.25, 2.0)):
        answer = needs_answer(attempt(n, launch, work))
        found, right = _floats(answer, ("without a wait", "with one")), clock_readings(n, launch, work)
        if all(map(_near, found, right[::-1])):
            raise NotYet("The other way round: first the clock that does not wait.")
        without = {
            launch: "One launch takes that. How many are there before the clock is read again?",
            n * work: "Without a wait, a clock does not see the work. It sees what the CPU does.",
            n * (launch + work): "Without a wait, a clock does not see the work. It sees what the CPU does.",
            right[1]: "Both numbers are the one with a wait. Without it, the CPU goes on after its last launch.",
        }
        waiting = {
            n * (launch + work): "The CPU and the device work at the same time: while one piece is done, the next "
                                 "launches go on. Draw both on a line of time.",
            n * work: "Nearly. What must happen before the device can begin with the first piece?",
            n * launch + work: "So it is when launches take longer than the work. Here they are short: pieces pile up.",
            n * launch: "With a wait, the clock must also see the work.",
        }
        for found, right, mistakes, which in zip(found, right, (without, waiting), ("without", "with")):
            if not _near(found, right):
                near = (text for value, text in mistakes.items() if _near(found, value))
                raise NotYet(f"{n} pieces, a launch of {launch:g} s, work of {work:g} s each: {which} a wait you say "
                             f"{found:g} s. " + next(near, f"It is {right:g} s."))
    return "Without a wait the reading does not contain the work at all, whatever the work is."


# --- counting FLOPs --------------------------------------------------------------------------------------------------


def flops_per_token(config, T):
    """FLOPs of the forward pass per token: 2 per number in a matrix, and attention over T tokens."""
    C, L, V = config.n_embd, config.n_layer, config.vocab_size
    matrices = L * (3 * C * C + C * C + 4 * C * C + 4 * C * C) + V * C  # c_attn, c_proj, c_fc, c_proj; the head
    scores, sums = 2 * T * C, 2 * T * C  # q k' and the weighted sum of v, all heads together
    return 2 * matrices + L * (scores + sums)


def _test_flops(attempt):
    # The first has no two numbers alike (GPT-2 small has as many blocks as heads), so each slip has its own value.
    small = GPTConfig(n_layer=5, n_embd=96, n_head=6, vocab_size=700, n_positions=64)
    for config, T in ((small, 40), (GPTConfig(), 1024)):
        answer, right = needs_answer(attempt(config, T)), flops_per_token(config, T)
        C, L, V, P = config.n_embd, config.n_layer, config.vocab_size, config.n_positions
        attention = 4 * L * T * C
        mistakes = {
            right / 2: "That counts multiplications only: each one comes with an addition.",
            right - 2 * V * C: "The head is missing: V x C numbers. It is tied, but it multiplies.",
            right + 2 * V * C: "Is the embedding counted as well as the head? A look-up multiplies nothing.",
            right + 2 * P * C: "The position embedding is looked up and added; it multiplies nothing.",
            right - attention: "Attention is missing: queries times keys, and weights times values.",
            right - attention / 2: "Half of attention is missing: there are two products with T tokens, not one. "
                                   "And no half for the mask: count all T keys.",
            right - attention + attention / L: "Attention happens in each of the L blocks.",
            right - attention + attention / config.n_head: "All heads together multiply C numbers, so do not divide by "
                                                           "n_head.",
            right + (config.n_head - 1) * attention: "Each head multiplies vectors of C / n_head numbers, not of C.",
            right - 2 * L * C * C: "A matrix of C x C is missing in each block: attn.c_proj.",
            right - 2 * L * 4 * C * C: "The MLP has two matrices of 4C x C in each block: c_fc and c_proj.",
            right + 2 * (L - 1) * V * C: "The head comes once, after the last block. It is not in every block.",
            right * 3: "Forward only: the factor 3 is for training, with a backward pass.",
            right * T: "That is the whole sequence. One token is asked for.",
        }
        if not abs(answer - right) < 0.5:
            near = (text for value, text in mistakes.items() if abs(answer - value) < 0.5)
            raise NotYet(next(near, f"Yours is {answer:,.0f}, the count {right:,} FLOPs per token for {L} blocks, "
                                    f"width {C}, T = {T}: {answer / right:.4g} times the count. Per block: 3C^2 + C^2 "
                                    "+ 4C^2 + 4C^2 numbers, each 2 FLOPs; the head once; forward only."))
    return "Two terms: 2N with N the matrices, and 4LTC for attention."


# --- limited by memory -----------------------------------------------------------------------------------------------


def tokens_needed(peak, bandwidth, bytes_per_number):
    """Tokens per pass from which on the matrices of a model are limited by the peak and no longer by the bandwidth.

    n tokens cost 2 N n FLOPs and read N numbers: both take equally long when 2 N n / peak = N bytes / bandwidth.
    """
    return peak * bytes_per_number / (2 * bandwidth)


def _test_tokens(attempt):
    for peak, bandwidth, size in ((1e12, 1e11, 8), (1e12, 1e11, 4), (4e14, 2e12, 2)):
        answer, right = needs_answer(attempt(peak, bandwidth, size)), tokens_needed(peak, bandwidth, size)
        mistakes = {
            2 * right: "An addition comes with each multiplication: two FLOPs per number and token.",
            peak / bandwidth: "That is FLOPs per byte. How many FLOPs does a token do with one number?",
            right / size: "The bandwidth counts bytes, and a number has several.",
            right / size**2: "The bytes per number went to the wrong side: larger numbers take longer to read.",
            1 / right: "Turned over: more peak needs more tokens, more bandwidth fewer.",
            tokens_needed(peak, bandwidth, 4): "Right for 4 bytes per number only: use bytes_per_number.",
        }
        if not _near(answer, right):
            near = (text for value, text in mistakes.items() if _near(answer, value))
            raise NotYet(next(near, f"For {peak:.0e} FLOP/s, {bandwidth:.0e} byte/s and {size} bytes per number it "
                                    f"is {right:,.0f} tokens; yours is {answer:,.1f}."))
    return "Below it, reading the weights takes longer than multiplying: the tokens that you add are nearly free."


# --- what a lever can give -------------------------------------------------------------------------------------------


def whole_speedup(share, factor):
    """How many times faster a program becomes when one part of it, with this share of its time, becomes `factor` times
    faster. Source: Amdahl, 1967."""
    return 1 / ((1 - share) + share / factor)


def _test_lever(attempt):
    two_parts = "The new time has two parts: the rest, 1 - share, and the part, share / factor."
    for share, factor in ((0.25, 8.0), (0.6, 3.0), (1.0, 2.0), (0.3, 0.5)):
        answer, right = needs_answer(attempt(share, factor)), whole_speedup(share, factor)
        mistakes = {
            1 / right: "That is the new time, as a share of the old. How many times faster is it?",
            share * factor: "Add up times, not speeds: what is left of the old time, and what does the part take now?",
            share * factor + 1 - share: "Add up times, not speeds: a part that is faster takes a smaller time.",
            factor: "All of the program would have to become faster for that. What does the rest do meanwhile?",
            whole_speedup(share / 100, factor): "The share is a fraction: 25 % comes as 0.25.",
            1 / (1 - share + 1e-12): "The part that became faster still takes some time.",
            1 / (1 - share + share * factor): "A part that is factor times as fast takes share / factor, not share * "
                                              "factor.",
            factor / share: two_parts,
            1 / (1 - share / factor): two_parts,
        }
        if abs(answer - right) > 1e-6:
            near = (text for value, text in mistakes.items() if abs(answer - value) < 1e-6)
            raise NotYet(next(near, f"A part with {share:.0%} of the time, made {factor:g} times as fast: the whole "
                                    f"is {right:.3f} times as fast; yours is {answer:.3f}."))
    limit = whole_speedup(0.25, 1e12)
    return f"A part with 25% of the time, however fast it becomes, makes the whole {limit:.2f} times faster at most."


# --- timing Model 5 --------------------------------------------------------------------------------------------------


def time_forward(model, ids, time, wait):
    """The lower quartile, the median and the upper quartile of the seconds of a forward pass; time: Python's module."""
    with torch.no_grad():
        model(ids)  # the first run does not count
        wait()
        times = []
        for _ in range(11):
            start = time.perf_counter()
            model(ids)
            wait()
            times.append(time.perf_counter() - start)
    return statistics.quantiles(times, n=4, method="inclusive")


class ToyMachine:
    """A CPU with a GPU whose time is only counted. It has the clocks of the module time, a queue, and a wait for it.

    The first run takes its own time, usually a long one. Later a run takes about 20 ms, each fourth is disturbed, and
    now and then one is quick.
    """

    launch, threads = 0.001, 2

    def __init__(self, first=0.500):
        self.first, self.now, self.processor, self.ready = first, 0.0, 0.0, 0.0
        self.work, self.read, self.kept_gradients, self.read_too_early = [], set(), False, False
        self.looks = 0  # how often a clock was read

    def run(self):
        """Launches one run: it costs the CPU a millisecond, and the device works later."""
        i = len(self.work)
        usual = 0.100 if i % 4 == 3 else 0.012 if i % 7 == 5 else 0.020
        self.work.append(self.first if i == 0 else usual + 1e-5 * (i * 37 % 101))  # no two are equal
        self.now += self.launch
        self.processor += self.threads * self.launch
        self.ready = max(self.ready, self.now) + self.work[i]
        self.kept_gradients |= torch.is_grad_enabled()

    def wait(self):
        """Returns when the queue is empty."""
        self.now = max(self.now, self.ready)

    def sleep(self, seconds):
        """As time.sleep."""
        self.now += seconds

    def perf_counter(self):
        """Wall time in seconds."""
        self.read.add("wall")
        self.looks += 1
        self.read_too_early |= self.ready > self.now
        return self.now

    def perf_counter_ns(self):
        """Wall time in nanoseconds."""
        return round(1e9 * self.perf_counter())

    def process_time(self):
        """Processor time in seconds, of all threads."""
        self.read.add("processor")
        self.looks += 1
        return self.processor

    time, monotonic, monotonic_ns, time_ns = perf_counter, perf_counter, perf_counter_ns, perf_counter_ns
    thread_time = process_time

    def uncounted(self):
        """How many runs may have been left out, if five or more are to count."""
        return range(1, min(len(self.work) - 4, 21))

    def readings(self, uncounted):
        """The seconds of every run after so many, each with a wait of its own."""
        return [self.launch + work for work in self.work[uncounted:]]


class ToyModel(GPT):
    """A small GPT-2 that computes as any other, and keeps a toy machine busy meanwhile."""

    def __init__(self, machine):
        super().__init__(GPTConfig(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
        self.machine = machine

    def forward(self, *inputs, **options):
        self.machine.run()
        return super().forward(*inputs, **options)


RULES = {"by position": lambda times, share: sorted(times)[int(share * len(times))]} | {
    rule: lambda times, share, rule=rule: np.quantile(times, share, method=rule)
    for rule in ("linear", "lower", "higher", "midpoint", "nearest", "weibull", "hazen", "median_unbiased")}
QUARTILES = 0.25, 0.5, 0.75
EARLY = ("You read a clock while the device was still busy. Is the uncounted run over before the first reading starts? "
         "Wait for it, too.")


def _rules(number, share, times):
    """The rules by which a number is this quantile of the times: they differ in values in between."""
    return {name for name, rule in RULES.items() if abs(number - rule(times, share)) < 1e-8}


def _are_quartiles(numbers, times):
    return all(_rules(number, share, times) for number, share in zip(numbers, QUARTILES))


def _are_right(answers, machines):
    """Whether the answers are the quartiles on all machines, with the same runs left out and by the same rules.

    A first run that is slow on one machine and quick on the other cannot hide behind another rule on both.
    """
    return any(
        all(set.intersection(*(_rules(found[i], share, machine.readings(uncounted))
                               for found, machine in zip(answers, machines))) for i, share in enumerate(QUARTILES))
        for uncounted in set.intersection(*(set(machine.uncounted()) for machine in machines)))


def _first_run_counts(answers, machines):
    rules = (_rules(found[1], 0.5, machine.readings(0)) for found, machine in zip(answers, machines))
    return bool(set.intersection(*rules))


def _slip(found, machine):
    """What to say about three numbers that are not the quartiles."""
    middle, after, ms = found[1], machine.uncounted(), f"{1e3 * found[1]:.0f} ms"
    each = " Read the clock before and after each pass." if machine.looks < 6 else ""  # five readings need six
    if middle <= machine.threads * machine.launch + 1e-8:
        launches = f"{ms}, whatever the work is: that is what the CPU needs to launch it. "
        if "processor" in machine.read:
            return launches + "Section 2 says what process_time counts. Which clock tells how long you wait?"
        return launches + "The device must have finished before you read the clock again."
    if machine.read_too_early:
        return EARLY
    if any(_are_quartiles(sorted(found), machine.readings(w)) and found != sorted(found) for w in after):
        return "The numbers are right. Give them in this order: lower quartile, median, upper quartile."
    if any(_are_quartiles([x / 1e3 for x in found], machine.readings(w)) for w in after):
        return "These are milliseconds. Give seconds."
    if middle > 1e7:  # far more than any time of these runs in seconds or milliseconds
        return "Nanoseconds: give seconds."
    if any(abs(middle - np.mean(machine.readings(w))) <= machine.launch for w in (0, *after)):
        return f"{ms} is the mean: a few disturbed runs pull it up. Take the value in the middle.{each}"
    if any(abs(middle - np.sum(machine.readings(w))) <= len(machine.work) * machine.launch for w in (0, *after)):
        return f"That is the time of all runs together. How long does one take?{each}"
    if abs(middle - min(machine.readings(1))) < 1e-8:
        return "That is the smallest reading, a lucky one. Take the value in the middle."
    right = [w for w in after if _rules(middle, 0.5, machine.readings(w))]
    if right and any(_near(found[0], min(machine.readings(w))) for w in right):
        return "The median is right. Smallest and largest are not the quartiles: one disturbed run decides them."
    if right:
        return "The median is right. The quartiles are not: a quarter of the readings is below the lower one."
    return (f"Your median is {1e3 * middle:.1f} ms; that of the {len(machine.work) - 1} runs after the first is "
            f"{1e3 * np.median(machine.readings(1)):.1f} ms.{each}")


def _toy_answer(attempt, machine):
    """The three numbers of an attempt that has used a toy machine as it should."""
    ids = torch.zeros(2, 8, dtype=torch.int64)
    found = _floats(needs_answer(attempt(ToyModel(machine), ids, machine, machine.wait)),
                    ("lower quartile", "median", "upper quartile"))
    if len(machine.work) < 6:
        raise NotYet(f"You ran the model {len(machine.work)} times. Let one run pass uncounted, then take at least "
                     "five readings.")
    if not machine.read:
        raise NotYet("You read no clock of the check's machine. Read a clock of the argument: time.perf_counter().")
    if machine.kept_gradients:
        raise NotYet("These passes keep what a backward pass needs. How did section 3 switch that off?")
    return found


def _test_model5(attempt):
    """Times a small model on two toy machines first, and then on this one."""
    machines = ToyMachine(), ToyMachine(first=0.005)
    answers = [_toy_answer(attempt, machine) for machine in machines]
    if not _are_right(answers, machines):
        if _first_run_counts(answers, machines):
            raise NotYet(f"The first run, {1e3 * machines[0].readings(0)[0]:.0f} ms, is among your readings. Let it "
                         "pass uncounted.")
        wrong = next((i for i in (0, 1) if not _are_right(answers[i : i + 1], machines[i : i + 1])), 1)
        raise NotYet(_slip(answers[wrong], machines[wrong]))
    if machines[0].read_too_early:
        raise NotYet(EARLY)
    start = time.perf_counter()
    _, real, _ = attempt(ToyModel(ToyMachine()), torch.zeros(2, 8, dtype=torch.int64), time, lambda: None)
    if not 0 < real <= time.perf_counter() - start:
        raise NotYet(f"On the toy machine it is right, but with Python's own module time you read {float(real):g} s.")
    return (f"{1e3 * answers[0][1]:.1f} ms, although the first run takes {1e3 * machines[0].first:.0f} ms and each "
            "fourth one is disturbed.")


clock = Exercise(
    "What a clock reads", 1, 5,
    ("Draw two lines of time, one for the CPU and one for the device. Put three launches and three pieces of work on "
     "them.",
     "Without a wait, the clock is read after the last launch. With a wait, it is read when the device has finished "
     "the last piece.",
     "The device begins after the first launch. From then on it has always something to do, so it needs n times work "
     "from there."),
    _test_clock, clock_readings,
)
flops = Exercise(
    "FLOPs of a token", 2, 12,
    ("Go down the table. A matrix with n numbers costs 2n for each token: one multiplication and one addition per "
     "number.",
     "Add up the four matrices of a block, times L, and the head once. Then attention: each token's query meets T "
     "keys, in each block, and the T weights meet T values.",
     "A query and a key of C numbers (all heads together) cost 2C. T keys make it 2TC, the weighted sum of T values "
     "another 2TC, and both happen in L blocks."),
    _test_flops, flops_per_token,
)
tokens = Exercise(
    "How many tokens until it computes", 2, 8,
    ("Write down two times for a pass of n tokens: one for multiplying, one for reading.",
     "Multiplying takes 2 N n / peak seconds. Reading takes N numbers, each of some bytes, divided by the bandwidth.",
     "Set 2 N n / peak = N * bytes / bandwidth, and solve for n. N cancels."),
    _test_tokens, tokens_needed,
)
lever = Exercise(
    "What a lever can give", 1, 5,
    ("Let the whole program take the time 1. Which part of it stays as it is?",
     "The rest takes 1 - share, as before. What does the part take now? The speed-up is the old time divided by the "
     "new one.",
     "The part takes share / factor now. Divide 1 by the sum of both."),
    _test_lever, whole_speedup,
)
model5 = Exercise(
    "Time Model 5", 3, 20,
    ("Five things: nothing kept for a backward pass; one run that does not count; the right clock; a wait before each "
     "reading of the clock; at least five readings.",
     "with torch.no_grad(): first model(ids) and wait(), not counted. Then for each reading: start = "
     "time.perf_counter(), model(ids), wait(), and the difference. Collect the differences in a list.",
     "statistics.quantiles(times, n=4, method='inclusive') gives the three numbers in the right order; so does "
     "torch.tensor(times).quantile(torch.tensor([0.25, 0.5, 0.75]))."),
    _test_model5, time_forward,
)
