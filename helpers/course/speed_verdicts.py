"""The verdicts on claims about speed (2, 6, 7, 8 and 25; notebook 03), from what was measured on this machine and from
the records of other machines.

Each function returns a Row, for ledger.add(number, *row). A claim about a CPU and a GPU is settled by both halves only,
and never by a small stand-in for Model 5: then the notebook passes None for what it has measured itself.
"""

import math
from typing import NamedTuple

from helpers.course import records

ABOUT, NEAR = "about as long means within a factor of", 2
WEEK = 7 * 24  # hours
CLEAR = 1.02  # a version is clearly faster if three quarters of the turns show a difference of more than 2 %
NO_GPU = "the GPU half is unmeasured here"
NOT_REAL = "not measured at Model 5's real size"
QKV = "QKV forward and backward, three / one, {} rows"  # how notebook 03 records it
QKV_ROWS = (1, 64, 512, 4096)


class Row(NamedTuple):
    """What ledger.add needs besides the claim's number."""

    measured: str
    measured_on: str
    verdict: object  # one of claims.VERDICTS, or a bool
    condition: str = ""


class Pair(NamedTuple):
    """Seconds for the same work on a CPU and on the GPU of the same machine. None: not measured."""

    name: str  # such as "here", or the GPU and the date
    where: str  # for the column "On"
    cpu: float | None
    gpu: float | None = None

    def __str__(self):
        halves = {"CPU": self.cpu, "GPU": self.gpu}
        return f"{self.name}: " + ", ".join(f"{kind} {value:.3g} s" for kind, value in halves.items() if value)


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
    factors = {pair: pair.gpu / pair.cpu for pair in pairs if pair.cpu and pair.gpu}
    texts = [f"{pair}" + (f", a factor of {factors[pair]:.2f}" if pair in factors else "") for pair in pairs]
    if not factors:
        return Row(_joined(texts) or NOT_REAL, where, "unmeasured here", NO_GPU if own else "the model is a stand-in")
    near = [pair.name for pair, factor in factors.items() if 1 / NEAR < factor < NEAR]
    far = [pair.name for pair in factors if pair.name not in near]
    verdict = "depends" if near and far else not far
    meaning = f"{ABOUT} {NEAR}"
    condition = f"{meaning}; so on {_joined(near)}, but not on {_joined(far)}" if near and far else meaning
    return Row(_joined(texts), _joined(pair.where for pair in pairs), verdict, condition)


def training_forward(own, where, recorded, batch, claimed=(45, 1)):
    """Claim 25: a forward pass of training size takes 45 s on a CPU and 1 s on a GPU.

    own, where, recorded: as for construction(). batch: its size in words. claimed: the two times in seconds.
    """
    pairs = _pairs(own, recorded)
    if not pairs:
        return Row(NOT_REAL, where, "unmeasured here", "the model is a stand-in")
    halves = [{pair.name: seconds / value for pair in pairs if (value := getattr(pair, kind))}
              for kind, seconds in zip(("cpu", "gpu"), claimed)]
    compared = [f"{seconds} s is {factor:.3g} times what the {kind} takes ({name})"
                for kind, seconds, half in zip(("CPU", "GPU"), claimed, halves) for name, factor in half.items()]
    near = [[1 / NEAR < factor < NEAR for factor in half.values()] for half in halves]
    if not all(halves):
        verdict, missing = "unmeasured here", [NO_GPU if halves[0] else "the CPU half is unmeasured here"]
    else:
        verdict, missing = "depends" if all(map(any, near)) and not all(map(all, near)) else all(map(all, near)), []
    condition = _joined([*missing, *compared, *([] if missing else [f"{ABOUT} {NEAR}"])])
    return Row(f"{batch}, {_joined(pairs)}", _joined(pair.where for pair in pairs),
               verdict, f"on the processor: {condition}" if verdict == "depends" else condition)


def orders_of_magnitude(claimed, operations, fastest, own, where, recorded, times):
    """Claim 6: five forward passes take 20 s on a CPU and 0.03 s on a GPU, 4 orders of magnitude.

    Arithmetic settles it. claimed: the two times in seconds. operations: the FLOPs of the five passes. fastest: the
    published fp32 peak of an H100, in FLOP/s. own, where, recorded: as for construction(), for one training batch, of
    which the five passes are `times` as many tokens.
    """
    ratio, needed = claimed[0] / claimed[1], operations / claimed[1]
    pairs = [pair._replace(cpu=pair.cpu and times * pair.cpu, gpu=pair.gpu and times * pair.gpu)
             for pair in _pairs(own, recorded)]
    measured = [f"{claimed[0]} s / {claimed[1]} s is {ratio:.0f}, {math.log10(ratio):.1f} orders",
                f"five passes of 8 x 1024 tokens are {operations / 1e12:.1f} TFLOP, which in {claimed[1]} s needs "
                f"{needed / 1e12:.0f} TFLOP/s"]
    measured += [f"the five passes at the tokens per second of a training batch: {_joined(pairs)}"] if pairs else []
    too_few, too_fast = math.log10(ratio) < 4, needed > fastest
    reasons = ["the two times are less than 4 orders apart"] if too_few else []
    reasons += [f"not even an H100 could do the work in {claimed[1]} s in fp32",
                "the clock probably did not wait"] if too_fast else []
    gpu_half = [] if any(pair.gpu for pair in pairs) else [NO_GPU]
    on = ["arithmetic; FLOPs counted on the meta device", *(pair.where for pair in pairs)]
    return Row(_joined(measured), _joined(on), not reasons, _joined([*reasons, *gpu_half]))


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
        return Row(NOT_REAL, where, "unmeasured here", "the model is a stand-in")
    longer = [value > WEEK for value in hours.values()]
    verdict = all(longer) if all(longer) or not any(longer) else "depends"
    condition = "" if verdict != "depends" else "on the CPU: "
    condition += "we call it impossible if 500 batches take longer than a week"
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
    cases = {f"{place}, {_rows(rows)}": (place == gpu, *quartiles) for (place, rows), quartiles in ratios.items()}
    cases |= {f"{records.label(record)}, {_rows(rows)}": (True, low, middle, high)
              for record, rows, (middle, low, high) in recorded}
    readings = {name: reading(*quartiles) for name, (_, *quartiles) in cases.items()}
    faster = [name for name, result in readings.items() if result == "one matrix is faster"]
    if not equal:
        verdict = False
    elif not any(is_gpu for is_gpu, *_ in cases.values()):
        verdict = "unmeasured here"
    elif set(readings.values()) == {"no clear difference"}:
        verdict = "inconclusive"
    else:
        verdict = len(faster) == len(cases) or ("depends" if faster else False)
    medians = ", ".join(f"{middle:.2f} ({name})" for name, (_, _, middle, _) in cases.items())
    conditions = [f"the same numbers: {'yes' if equal else 'no'}"]
    conditions += [f"faster by more than {CLEAR - 1:.0%}: {_joined(faster) or 'nowhere'}"] if cases else []
    on = [*dict.fromkeys(place for place, _ in ratios), "width 768, forward and backward"] if ratios else []
    on += [f"{text}, forward and backward" for text in dict.fromkeys(_recorded(record) for record, *_ in recorded)]
    return Row(f"largest difference {differences['whole numbers']:.0f} on whole numbers; time of three / time of one, "
               f"medians: {medians or NOT_REAL}", _joined(on) or "a small stand-in for Model 5", verdict,
               _joined([NO_GPU, *conditions] if verdict == "unmeasured here" else conditions))


def _rows(number):
    return f"{number} row{'s' * (number > 1)}"
