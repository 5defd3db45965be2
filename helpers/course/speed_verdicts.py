"""The verdicts of notebook 03 on claims about speed (2, 6, 7, 8 and 25), from what was measured on this machine and in
the records of other machines; and those of notebook 08 on training in several processes and on memory (31 to 35).

Each function returns a Row, for ledger.add(number, *row). A claim about a CPU and a GPU is settled by both halves only,
and never by a small stand-in for Model 5: then the notebook passes None for what it has measured itself.
"""

import math
from typing import NamedTuple

from helpers.course import records

UNMEASURED = "unmeasured here"  # a verdict
ABOUT, NEAR = "about as long means within a factor of", 2
WEEK = 7 * 24  # hours
CLEAR = 1.02  # a version is clearly faster if three quarters of the turns show a difference of more than 2 %
NOT_REAL = "not measured at Model 5's real size"
# Parts of a claim that were not measured.
GPU_HALF, CPU_HALF = "the half about a GPU", "the half about a CPU"
STAND_IN = "Model 5 itself, for which a small stand-in was measured"
QKV = "QKV forward and backward, three / one, {} rows"  # how notebook 03 records it
QKV_ROWS = (1, 64, 512, 4096)
SAME_LOSS = 1e-3  # nats: losses that differ by less are called equal up to rounding
SAME_WEIGHTS = 1e-3  # so are weights that differ by less than this share of the way that training has moved them
TWICE = 1.8  # a ratio from which something is called twice as large


class Row(NamedTuple):
    """What ledger.add needs besides the claim's number, in its order."""

    measured: str
    measured_on: str
    verdict: object  # one of claims.VERDICTS, or a bool
    condition: str = ""
    smallest: str = ""  # the smallest effect that would have been seen
    unmeasured: str = ""  # the part of the claim that was not measured


class Pair(NamedTuple):
    """Seconds for the same work on a CPU and on the GPU of the same machine. None: not measured."""

    name: str  # such as "here", or the GPU and the date
    where: str  # for the column "On"
    cpu: float | None
    gpu: float | None = None

    def __str__(self):
        halves = {"CPU": self.cpu, "GPU": self.gpu}
        return f"{self.name}: " + ", ".join(f"{kind} {value:.3g} s" for kind, value in halves.items() if value)

    def factor(self):
        """The GPU's time divided by the CPU's; None if one of them was not measured."""
        return self.gpu / self.cpu if self.cpu and self.gpu else None


def live(where, cpu, gpu=None):
    """What was measured on this machine, as a Pair."""
    return Pair("here", where, cpu, gpu)


def _pairs(own, recorded):
    """All pairs: this machine's (or None), and the recorded ones, as records.on_both() returns them."""
    return [*filter(None, [own]), *(Pair(records.label(record), f"{_recorded(record)}, with the CPU {record['cpu']}",
                                         cpu, gpu) for record, cpu, gpu in recorded)]


def _recorded(record):
    return f"recorded: {records.origin(record)}"


def _joined(texts):
    return "; ".join(map(str, texts))


# --- claims 6, 7 and 25: a CPU and a GPU -----------------------------------------------------------------------------


def construction(own, where, recorded):
    """Claim 7: a CPU and a GPU take about as long to construct the model.

    own: live(...), or None for a stand-in. where: the model and the devices of this machine. recorded:
    records.on_both("construct"). Only the CPU and the GPU of one machine are compared.
    """
    pairs = _pairs(own, recorded)
    factors = {pair.name: pair.factor() for pair in pairs if pair.factor()}
    texts = [f"{pair}" + (f", a factor of {pair.factor():.2f}" if pair.factor() else "") for pair in pairs]
    if not factors:
        return Row(_joined(texts) or NOT_REAL, where, UNMEASURED, unmeasured=GPU_HALF if own else STAND_IN)
    near = [name for name, factor in factors.items() if 1 / NEAR < factor < NEAR]
    far = [name for name in factors if name not in near]
    verdict = "depends" if near and far else not far
    meaning = f"{ABOUT} {NEAR}; measured on {_machines(len(factors))}"
    condition = f"{meaning}; so on {_joined(near)}, but not on {_joined(far)}" if near and far else meaning
    return Row(_joined(texts), _joined(pair.where for pair in pairs), verdict, condition)


def _machines(number):
    return f"{number} machine{'s' * (number > 1)} with a GPU"


def _near(pairs, claimed):
    """Compares claimed seconds on a CPU and on a GPU with measured ones: (verdict, comparisons in words, the half that
    was not measured). Both halves are needed."""
    halves = [{pair.name: seconds / value for pair in pairs if (value := getattr(pair, kind))}
              for kind, seconds in zip(("cpu", "gpu"), claimed)]
    texts = [f"{seconds} s is {factor:.3g} times what the {kind} takes ({name})"
             for kind, seconds, half in zip(("CPU", "GPU"), claimed, halves) for name, factor in half.items()]
    near = [[1 / NEAR < factor < NEAR for factor in half.values()] for half in halves]
    if not all(halves):
        return UNMEASURED, texts, GPU_HALF if halves[0] else CPU_HALF if halves[1] else STAND_IN
    return "depends" if all(map(any, near)) and not all(map(all, near)) else all(map(all, near)), texts, ""


def training_forward(own, where, recorded, batch, claimed=(45, 1)):
    """Claim 25: a forward pass of training size takes 45 s on a CPU and 1 s on a GPU.

    own, where, recorded: as for construction(). batch: its size in words. claimed: the two times in seconds.
    """
    pairs = _pairs(own, recorded)
    verdict, texts, missing = _near(pairs, claimed)
    if not pairs:
        return Row(NOT_REAL, where, verdict, unmeasured=missing)
    first = "on the processor" if verdict == "depends" else "on the processors that were measured"
    condition = f"{first}: {_joined(texts)}" + ("" if missing else f"; {ABOUT} {NEAR}")
    return Row(f"{batch}, {_joined(pairs)}", _joined(pair.where for pair in pairs), verdict, condition,
               unmeasured=missing)


def orders_of_magnitude(claimed, operations, fastest, own, where, recorded, times):
    """Claim 6: five forward passes take 20 s on a CPU and 0.03 s on a GPU, 4 orders of magnitude.

    Arithmetic refutes it; if it does not, the measured times decide. claimed: the two times in seconds. operations: the
    FLOPs of the five passes. fastest: the published fp32 peak of an H100, in FLOP/s. own, where, recorded: as for
    construction(), for one training batch, of which the five passes are `times` as many tokens.
    """
    ratio, needed = claimed[0] / claimed[1], operations / claimed[1]
    pairs = [pair._replace(cpu=pair.cpu and times * pair.cpu, gpu=pair.gpu and times * pair.gpu)
             for pair in _pairs(own, recorded)]
    measured = [f"{claimed[0]} s / {claimed[1]} s is {ratio:.0f}, {math.log10(ratio):.1f} orders",
                f"five passes of 8 x 1024 tokens are {operations / 1e12:.1f} TFLOP, which in {claimed[1]} s needs "
                f"{needed / 1e12:.0f} TFLOP/s"]
    texts = [f"{pair}" + (f", {-math.log10(pair.factor()):.1f} orders" if pair.factor() else "") for pair in pairs]
    measured += [f"the five passes at the tokens per second of a training batch: {_joined(texts)}"] if pairs else []
    verdict, compared, missing = _near(pairs, claimed)
    reasons = ["the two times are less than 4 orders apart"] if math.log10(ratio) < 4 else []
    reasons += [f"in fp32 not even an H100 could do the work in {claimed[1]} s",
                "a possible explanation: the clock did not wait for the GPU"] if needed > fastest else []
    on = ["arithmetic; FLOPs counted on the meta device", *(pair.where for pair in pairs)]
    return Row(_joined(measured), _joined(on), False if reasons else verdict, _joined(reasons or compared),
               unmeasured=missing)


# --- claim 8: training on a CPU --------------------------------------------------------------------------------------


def training_on_cpu(own, where, recorded, how):
    """Claim 8: backpropagation is practically impossible on a CPU.

    own: seconds for one training batch on this machine's CPU, or None for a stand-in. how: how they were measured.
    recorded: records.batch_times(...); the runs on CPUs are used.
    """
    runs = [run for run in recorded if run[0]["type"] == "cpu"]
    hours = {f"{count} batches of Model 5's training, {records.label(record)}: {seconds:.3g} s per batch (median)":
             500 * seconds / 3600 for record, _, seconds, count in runs}
    hours |= {f"here, {how}: {own:.3g} s per batch": 500 * own / 3600} if own else {}
    if not hours:
        return Row(NOT_REAL, where, UNMEASURED, unmeasured=STAND_IN)
    longer = [value > WEEK for value in hours.values()]
    verdict = all(longer) if all(longer) or not any(longer) else "depends"
    condition = "on the CPU: " if verdict == "depends" else ""
    condition += "we call it practically impossible if 500 batches of 16 x 256 tokens take longer than a week"
    condition += "" if runs else "; no training of Model 5 on a CPU has been recorded"
    texts = [f"{text}, so 500 take {value:.2g} hours" for text, value in hours.items()]
    on = [*(_recorded(record) for record, *_ in runs), *([where] if own else [])]
    return Row(_joined(texts), _joined(on), verdict, condition)


# --- claim 2: one matrix or three ------------------------------------------------------------------------------------


def reading(low, middle, high):
    """What the quartiles of the ratio "time of three matrices / time of one" say."""
    return "one matrix is faster" if low > CLEAR else "three are faster" if high < 2 - CLEAR else "no clear difference"


def fused_qkv(differences, ratios, gpu, recorded):
    """Claim 2: one fused QKV matrix gives the same numbers as three separate ones, and is faster.

    differences: {"whole numbers": largest difference, "random numbers": ...}. ratios: {(device, rows of x): quartiles
    of the time of three / time of one}, forward and backward, measured here; empty for a stand-in. gpu: which of the
    devices is a GPU, or None. recorded: [(record, rows, [median, lower quartile, upper quartile])], the same ratios in
    records of other machines.
    """
    equal = differences["whole numbers"] == 0 and differences["random numbers"] < 1e-3
    cases = dict(ratios) | {(records.label(record), rows): (low, middle, high)
                            for record, rows, (middle, low, high) in recorded}
    readings = {case: reading(*quartiles) for case, quartiles in cases.items()}
    by_result = {result: _by_place({case: str(case[1]) for case in cases if readings[case] == result})
                 for result in ("one matrix is faster", "no clear difference", "three are faster")}
    has_gpu = bool(recorded) or any(place == gpu for place, _ in ratios)
    unclear = [_smallest_clear(*cases[case]) for case in cases if readings[case] == "no clear difference"]
    verdict = False if not equal else _faster(readings.values()) if has_gpu else UNMEASURED
    smallest = f"{max(unclear):.0%} of the time" if unclear else ""
    medians = _by_place({case: f"{middle:.2f} ({_rows(case[1])})" for case, (_, middle, _) in cases.items()})
    medians = _joined(f"{place}: {values}" for place, values in medians.items())
    conditions = [f"the same numbers up to rounding: {'yes' if equal else 'no'}"]
    conditions += [f"{result}: " + " and ".join(f"{place}, with {rows} rows of x" for place, rows in places.items())
                   for result, places in by_result.items() if places]
    conditions += [f"clear means by more than {CLEAR - 1:.0%} in three quarters of the turns"] if cases else []
    on = [*dict.fromkeys(place for place, _ in ratios), "width 768, forward and backward"] if ratios else []
    on += [f"{text}, forward and backward" for text in dict.fromkeys(_recorded(record) for record, *_ in recorded)]
    return Row(f"largest difference {differences['whole numbers']:.0f} on whole numbers (CPU); time of three / time of "
               f"one for these products alone, medians: {medians or NOT_REAL}",
               _joined(on) or "a small stand-in for Model 5", verdict, _joined(conditions), smallest,
               "" if has_gpu else GPU_HALF if cases else STAND_IN)


def _faster(readings):
    """What the readings of all cases say about "one matrix is faster"."""
    found = set(readings)
    if found == {"no clear difference"}:
        return "inconclusive"
    return "depends" if "one matrix is faster" in found and len(found) > 1 else found == {"one matrix is faster"}


def _smallest_clear(low, middle, high):
    """The smallest difference, as a share of the time, that reading() would call clear with this spread."""
    return CLEAR * max(middle / low, high / middle) - 1


def _by_place(texts):
    """{(place, rows): text} -> {place: "text, text and text"}."""
    places = {}
    for (place, _), text in texts.items():
        places.setdefault(place, []).append(text)
    return {place: _listed(own) for place, own in places.items()}


def _listed(texts):
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def _rows(number):
    return f"{number} row{'s' * (number > 1)}"


# --- claims 31 to 35: several processes, and memory ------------------------------------------------------------------


def two_processes(ratios, where):
    """Claim 31: two processes train twice as fast as one.

    ratios: {what two processes on the cores of one CPU are compared with: how many times as fast they are}. Such
    processes share one processor and its memory. They are no test of two GPUs, so the claim stays unmeasured.
    """
    compared = ", ".join(f"{ratio:.2f} times as fast as {what}" for what, ratio in ratios.items())
    return Row(f"two processes on the cores of one CPU are {compared}", where, UNMEASURED,
               "processes that share one CPU do not test it", unmeasured="two processes with a GPU each")


def same_training(losses, weights, control, steps, where):
    """Claim 32: processes that share each batch train the same model as one process.

    losses: the largest difference of a training loss in nats, between two processes and one. weights: the distance
    between the final weights, as a share of the way that training has moved them. control: the largest difference of
    a loss in a run that differs on purpose (half the batch). Where even that is not seen, nothing is settled.
    """
    measured = (f"largest differences in {steps} steps: training loss {losses:.0e} nats, weights {weights:.0e} of the "
                f"way that they have moved; training loss of one process with half the batch {control:.0e} nats")
    if control < SAME_LOSS:
        return Row(measured, where, "inconclusive", smallest=f"{SAME_LOSS} nats")
    return Row(measured, where, bool(losses < SAME_LOSS and weights < SAME_WEIGHTS),
               f"up to rounding, in the first {steps} steps, with the same batches and seed; longer runs were not "
               "compared")


def bytes_sent(moved, where):
    """Claim 33: with twice as many processes, each has twice as much to send.

    moved: {number of processes N: what each sends in an all-reduce, as a multiple of the tensor's bytes, or None where
    the system does not count it}. Needs some N and its double.
    """
    if not all(moved.values()):
        return Row("the bytes are not counted on this system", where, UNMEASURED, unmeasured="the bytes")
    off = max(abs(share / (2 * (N - 1) / N) - 1) for N, share in moved.items())
    growth = {N: moved[2 * N] / share for N, share in moved.items() if 2 * N in moved}
    shares = ", ".join(f"{share:.3f} ({N} processes)" for N, share in moved.items())
    measured = (f"on average, times the tensor's bytes: {shares}"
                f"; formula 2(N-1)/N, off by at most {off:.1%}; limit 2")
    if not growth:
        return Row(measured, where, UNMEASURED, unmeasured="twice as many processes")
    doubled = ", ".join(f"from {N} to {2 * N} processes {ratio:.2f} times as much" for N, ratio in growth.items())
    return Row(measured, where, all(ratio > TWICE for ratio in growth.values()),
               f"{doubled}, with the all-reduce of gloo")


def accumulation(parts, difference, kept, peaks, steps, where):
    """Claim 34: gradient accumulation trains as the large batch does, in less memory.

    parts: into how many the batch was cut. difference: the largest difference of a training loss in nats. kept, peaks:
    bytes (in one part, in parts), kept for the backward pass and needed beyond weights and Adam; peaks may be None.
    """
    measured = f"{parts} parts, {steps} steps: largest difference of a loss {difference:.0e} nats, "
    measured += f"{kept[0] / kept[1]:.1f} times less kept for the backward pass"
    measured += f", {peaks[0] / peaks[1]:.1f} times less at the peak of a step beyond weights and Adam" if all(peaks) \
        else ""
    return Row(measured, where, bool(difference < SAME_LOSS and kept[1] < kept[0] / 2),
               f"up to rounding, in {steps} steps; the memory for the backward pass falls, that for weights and Adam "
               "does not")


def adam_bytes(before, after, parameters, where):
    """Claim 35: training with Adam needs 16 bytes per parameter, not counting activations.

    before, after: {"weights": bytes, "gradients": bytes, "Adam": bytes} before the first step and after it.
    """
    each = {part: size / parameters for part, size in after.items()}
    created = sum(before.values()) / parameters
    measured = f"{sum(each.values()):.4f} bytes per parameter: " + ", ".join(f"{k} {v:.3f}" for k, v in each.items())
    return Row(f"{measured}; before the first step {created:.3f}", where, abs(sum(each.values()) - 16) < 0.01,
               "without activations and temporary copies; gradients and Adam's two means exist from the first step on")
