"""Notebook 03's exercises: wrong answers that a learner may give, and unusual answers that are right."""

import statistics
from contextlib import nullcontext

import pytest
import torch

from helpers.course.exercises import nb03


def readings(model, ids, time, wait, counted=9, clock="perf_counter", uncounted=1, waits=True, keep=False):
    """The readings that time_forward takes, with single mistakes."""
    clock, wait, times = getattr(time, clock), wait if waits else lambda: None, []
    with nullcontext() if keep else torch.no_grad():
        for _ in range(uncounted):
            model(ids)
            wait()
        for _ in range(counted):
            start = clock()
            model(ids)
            wait()
            times.append(clock() - start)
    return times


def timed(summary=lambda times: statistics.quantiles(times, n=4, method="inclusive"), **mistakes):
    return lambda *machine: summary(readings(*machine, **mistakes))


def waits_only_after_the_last(model, ids, time, wait):
    with torch.no_grad():
        model(ids), wait()
        start = time.perf_counter()
        for _ in range(9):
            model(ids)
        wait()
    return [(time.perf_counter() - start) / 9] * 3


def times_all_together(model, ids, time, wait):
    with torch.no_grad():
        model(ids), wait()
        start = time.perf_counter()
        for _ in range(9):
            model(ids), wait()
    return [time.perf_counter() - start] * 3


def forgets_to_wait_for_the_first(model, ids, time, wait):
    with torch.no_grad():
        model(ids)
        return statistics.quantiles(readings(model, ids, time, wait, uncounted=0), n=4, method="inclusive")


def with_its_own_clock(model, ids, time, wait):
    import time
    return statistics.quantiles(readings(model, ids, time, wait), n=4)


def all_heads_full(config, T):
    return nb03.flops_per_token(config, config.n_head * T)


def mean_and_deviation(times):
    mean, deviation = statistics.mean(times), statistics.stdev(times)
    return mean - deviation, mean, mean + deviation


flops = nb03.flops_per_token
WRONG = {
    "clock": [
        (lambda n, launch, work: (n * launch, n * (launch + work)), "at the same time"),
        (lambda n, launch, work: (n * launch, n * work), "before the device can begin"),
        (lambda n, launch, work: (n * launch, n * launch + work), "pieces pile up"),
        (lambda n, launch, work: (n * launch, n * launch), "must also include the work"),
        (lambda n, launch, work: (n * work, launch + n * work), "does not include the work"),
        (lambda n, launch, work: (launch + n * work,) * 2, "Both numbers"),
        (lambda n, launch, work: (launch, launch + n * work), "How many are there"),
        (lambda n, launch, work: (launch + n * work, n * launch), "other way round"),
        (lambda n, launch, work: (n * launch, 1.0), "Expected 0.501 s"),
        (lambda n, launch, work: n * launch, "Return 2 numbers"),
    ],
    "flops": [
        (lambda c, T: flops(c, T) - 2 * c.vocab_size * c.n_embd, "head is missing"),
        (lambda c, T: flops(c, T) + 2 * c.vocab_size * c.n_embd, "A look-up multiplies nothing"),
        (lambda c, T: flops(c, T) + 2 * c.n_positions * c.n_embd, "position embedding"),
        (lambda c, T: flops(c, 0), "Attention is missing"),
        (lambda c, T: flops(c, T // 2), "Half of attention"),
        (lambda c, T: flops(c, T / 2), "Do not halve the count for the mask"),
        (lambda c, T: flops(c, T / c.n_head), "do not divide by n_head"),
        (lambda c, T: flops(c, T) - 2 * c.n_layer * c.n_embd**2, "missing in each block: attn.c_proj"),
        (lambda c, T: flops(c, T) - 8 * c.n_layer * c.n_embd**2, "The MLP has two matrices"),
        (lambda c, T: flops(c, T) + 2 * (c.n_layer - 1) * c.vocab_size * c.n_embd, "not in every block"),
        (lambda c, T: 3 * flops(c, T), "Count the forward pass only: the factor 3"),
        (lambda c, T: 2.5 * flops(c, T), "2.5 times the count. Per block: 3C^2 + C^2 + 4C^2 + 4C^2 elements"),
        (lambda c, T: flops(c, 0) + 4 * T * c.n_embd, "each of the L blocks"),
        (all_heads_full, "C / n_head"),
        (lambda c, T: flops(c, T) / 2, "addition"),
        (lambda c, T: flops(c, T) * T, "whole sequence"),
        (lambda c, T: flops(c, T) + 2 * (13 * c.n_layer + 2) * c.n_embd, "Biases and LayerNorm are not counted"),
        (lambda c, T: flops(c, T) + 2 * 9 * c.n_layer * c.n_embd, "Biases are not counted here"),
        (lambda c, T: 2 * 124_439_808, "the count"),
    ],
    "tokens": [
        (lambda peak, bandwidth, size: peak / bandwidth, "FLOPs per byte"),
        (lambda peak, bandwidth, size: peak * size / bandwidth, "two FLOPs"),
        (lambda peak, bandwidth, size: peak / (2 * bandwidth), "counts bytes"),
        (lambda peak, bandwidth, size: peak / (2 * size * bandwidth), "wrong side"),
        (lambda peak, bandwidth, size: 2 * bandwidth / (peak * size), "the reciprocal"),
        (lambda peak, bandwidth, size: peak * 4 / (2 * bandwidth), "4 bytes per element only"),
        (lambda peak, bandwidth, size: 17.0, "expected 29.5 tokens; your answer is 17.0"),
    ],
    "lever": [
        (lambda share, factor: 1 - share + share / factor, "new time"),
        (lambda share, factor: share * factor, "Add up times"),
        (lambda share, factor: 1 - share + share * factor, "a part that is faster takes less time"),
        (lambda share, factor: factor, "How long does the rest take?"),
        (lambda share, factor: 1 / (1 - share) if share < 1 else 2.0, "still takes"),
        (lambda share, factor: nb03.whole_speedup(share / 100, factor), "is a fraction"),
        (lambda share, factor: 1 / (1 - share + share * factor), "not share * factor"),
        (lambda share, factor: factor / share, "two parts"),
        (lambda share, factor: 1 / (1 - share / factor), "two parts"),
        (lambda share, factor: nb03.whole_speedup(share, max(factor, 1)), "becomes 0.5 times as fast"),
        (lambda share, factor: 1.0, "for the whole program; your answer is 1.000"),
    ],
    "model5": [
        (timed(clock="process_time"), "process_time counts"),
        (timed(waits=False), "must have finished"),
        (timed(uncounted=0), "first run, 501 ms"),
        (forgets_to_wait_for_the_first, "still busy"),
        (timed(lambda times: [statistics.mean(times)] * 3), "is the mean"),
        (timed(mean_and_deviation), "is the mean"),
        (waits_only_after_the_last, "in the middle. Read the clock before and after each pass."),
        (times_all_together, "How long does one take? Read the clock before and after each pass."),
        (timed(lambda times: [min(times)] * 3), "a lucky one"),
        (timed(lambda times: [sum(times)] * 3), "all runs together"),
        (timed(lambda times: (min(times), statistics.median(times), max(times))), "not the quartiles"),
        (timed(lambda times: [statistics.median(times)] * 3), "The quartiles are not"),
        (timed(lambda times: [statistics.quantiles(times, n=4)[i] for i in (1, 0, 2)]), "in this order"),
        (timed(lambda times: [1e3 * x for x in statistics.quantiles(times, n=4)]), "These are milliseconds"),
        (timed(clock="perf_counter_ns"), "nanoseconds. Return seconds."),
        (timed(lambda times: statistics.median(times)), "Return 3 numbers"),
        (timed(counted=1, summary=lambda times: times * 3), "2 times"),
        (timed(keep=True), "keep what a backward pass needs"),
        (with_its_own_clock, "You read no clock"),
        (timed(lambda times: (1.0, 2.0, 3.0)), "Your median is"),
    ],
}


WRONG_TYPES = [
    ("clock", (1, 2, 3), "Return 2 numbers: the reading without a wait, the reading with a wait. You returned a tuple "
                         "of 3 numbers"),
    ("clock", ["a", "b"], "You returned a list of 2 strs"),
    ("clock", {"without": 1.0}, "You returned a dict"),
    ("flops", (1, 2), "Return the FLOPs of one token; you returned a tuple of 2 numbers"),
    ("flops", "many", "you returned a str: 'many'"),
    ("flops", {"matrices": 1, "attention": 2}, "you returned a dict"),
    ("tokens", [295.5], "Return the number of tokens; you returned a list of 1 number"),
    ("tokens", torch.ones(2), "you returned a tensor of shape (2,)"),
    ("lever", (0.75, 1.33), "Return the speed-up; you returned a tuple of 2 numbers"),
    ("lever", "1.33 times", "you returned a str: '1.33 times'"),
    ("lever", max, "you returned a builtin_function_or_method"),
    ("model5", 0.02, "Return 3 numbers: the lower quartile, the median, the upper quartile. You returned a float"),
    ("model5", "20 ms", "You returned a str: '20 ms'"),
    ("model5", {"median": 0.02}, "You returned a dict"),
    ("model5", (0.02, None, 0.03), "You returned a tuple of 3 items"),
]


@pytest.mark.parametrize("name, answer, words", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name, answer, words):
    verdict = getattr(nb03, name).judge(lambda *arguments: answer)
    assert not verdict.solved and words in verdict.text, verdict.text
    assert "Your code stopped" not in verdict.text and "The check cannot use" not in verdict.text, verdict.text


def in_nanoseconds(model, ids, time, wait):
    return torch.tensor(readings(model, ids, time, wait, clock="perf_counter_ns")).double().quantile(
        torch.tensor([0.25, 0.5, 0.75]).double()) / 1e9


def warms_up_by_discarding(counted):
    def quartiles(model, ids, time, wait):
        with torch.inference_mode():
            times = sorted(readings(model, ids, time, wait, counted=counted, uncounted=0, keep=True)[1:])
        return times[len(times) // 4], times[len(times) // 2], times[3 * len(times) // 4]
    return quartiles


def times_for_a_second(model, ids, time, wait):
    times, stop = [], time.monotonic() + 1
    while time.monotonic() < stop:
        times += readings(model, ids, time, wait, counted=1, uncounted=1 - bool(times))
    return statistics.quantiles(times, n=4)


@pytest.mark.parametrize("attempt", [
    in_nanoseconds, warms_up_by_discarding(12), warms_up_by_discarding(9), times_for_a_second,
    timed(clock="time", uncounted=3)])
def test_other_ways_to_time_a_pass_are_right(attempt, capsys):
    nb03.model5.check(attempt)
    assert ": correct." in capsys.readouterr().out


@pytest.mark.parametrize("rule", nb03.RULES.values(), ids=nb03.RULES)
def test_the_quartiles_pass_by_any_rule_unless_the_first_run_is_among_them(rule):
    for runs in (6, 7, 8, 9, 10, 11, 14, 21):
        machines = nb03.ToyMachine(), nb03.ToyMachine(first=0.005)
        for machine in machines * runs:
            machine.run()
        for uncounted in (0, *machines[0].uncounted()):
            answers = [[rule(machine.readings(uncounted), share) for share in nb03.QUARTILES] for machine in machines]
            assert nb03._are_right(answers, machines) == (uncounted > 0), (runs, uncounted)


def test_the_toy_machine_reads_what_the_exercise_on_clocks_computes():
    machine, n = nb03.ToyMachine(), 12
    for _ in range(n):
        machine.run()
    launched = machine.perf_counter()
    machine.wait()
    assert launched == pytest.approx(n * machine.launch)
    assert machine.perf_counter() == pytest.approx(machine.launch + sum(machine.work))


def test_numbers_of_other_types_are_right(capsys):
    nb03.clock.check(lambda n, launch, work: torch.tensor([n * launch, launch + n * work]))
    nb03.flops.check(lambda config, T: float(nb03.flops_per_token(config, T)))
    nb03.tokens.check(lambda *numbers: torch.tensor(nb03.tokens_needed(*numbers)))
    nb03.lever.check(lambda share, factor: torch.tensor(nb03.whole_speedup(share, factor)))
    assert capsys.readouterr().out.count(": correct.") == 4
