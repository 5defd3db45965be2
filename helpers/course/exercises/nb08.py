"""Exercises of notebook 08: bytes of a ring, parts of unequal size, memory per process, a ring all-reduce."""

import copy
import math

import numpy as np
import torch

from helpers.course import data_parallel
from helpers.course.checking import (
    Exercise, NotYet, as_floats, as_number, close, describe, name_the_mistake, needs_answer, same
)

# --- bytes of a ring -------------------------------------------------------------------------------------------------


def ring_bytes(elements, processes):
    """The bytes that each process sends in a ring all-reduce of a float32 tensor with this many elements."""
    return 2 * (processes - 1) / processes * 4 * elements


def _test_bytes(attempt):
    """Compares a count of bytes for several sizes and numbers of processes."""
    for elements, processes in ((1_000, 4), (1_000, 2), (124_439_808, 8), (10, 1), (6_006, 3)):
        answer = as_number(attempt(elements, processes), "the bytes that one process sends, one number")
        right = ring_bytes(elements, processes)
        if close(answer, right):
            continue
        result = f"For {elements:,} elements and {processes} process(es) your function returns {answer:g}"
        if close(answer, right / 4):
            raise NotYet(f"{result}: that is the number of elements sent. A float32 element has 4 bytes.")
        if close(answer, right / 2):
            raise NotYet(f"{result}: that is one round of the ring. There are two: one to add up, one to pass the sums "
                         "on.")
        if close(answer, right * processes):
            raise NotYet(f"{result}: that is what all processes send together. What does one of them send?")
        if close(answer, 8 * elements):
            raise NotYet(f"{result}: that is the limit for many processes. A ring of N has N - 1 steps, not N.")
        raise NotYet(f"{result}; expected {right:g}. How many steps are there, and how large is a piece?")
    return "The result hardly grows with the number of processes: it stays below 2 times the gradient's bytes."


# --- parts of unequal size -------------------------------------------------------------------------------------------


def batch_gradient(loss_of, weight, parts):
    """The gradient of the mean loss over the rows of all parts. loss_of(weight, x, y) is the mean over one part."""
    rows = sum(len(x) for x, _ in parts)
    total = torch.zeros_like(weight)
    for x, y in parts:
        (gradient,) = torch.autograd.grad(loss_of(weight, x, y), weight)
        total += gradient * len(x) / rows
    return total


def _test_parts(attempt):
    """Compares the gradient of two small regressions, for equal and for unequal parts."""
    def squared(weight, x, y):
        return ((x @ weight - y) ** 2).mean()

    def absolute(weight, x, y):
        return (x @ weight - y).abs().mean()

    for loss_of, sizes, n in ((squared, (6, 6), 3), (squared, (8, 3, 1), 3), (absolute, (1, 4, 2, 2), 5)):
        generator = torch.Generator().manual_seed(n)
        x, y, start = (torch.randn(*shape, generator=generator) for shape in ((sum(sizes), n), (sum(sizes),), (n,)))
        parts = list(zip(x.split(sizes), y.split(sizes)))
        alone = [torch.autograd.grad(loss_of(w := start.clone().requires_grad_(), *part), w)[0] for part in parts]
        right = batch_gradient(loss_of, start.clone().requires_grad_(), parts)
        answer = needs_answer(attempt(loss_of, start.clone().requires_grad_(), parts))
        if (given := as_floats(answer)).shape != right.shape:
            raise NotYet(f"You returned {describe(answer)}; expected one gradient of the weight's shape, ({n},).")
        _explain_gradient(given, right, alone, sizes)
    return "With equal parts, all weights are equal. That is why train() requires a batch that can be cut evenly."


def _explain_gradient(answer, right, alone, sizes):
    """Raises NotYet unless the answer is right. alone: the gradients of the parts, whose numbers of rows are sizes."""
    if same(answer, right):
        return
    case = f"Parts of {' and '.join(map(str, sizes))} rows:"
    mistakes = (
        ("that is the sum of the parts' gradients. The loss is a mean over all rows.", sum(alone)),
        ("that is the plain mean over the parts. A part with more rows must count for more.", sum(alone) / len(alone)),
        ("that is the gradient of the last part alone. Keep those of the parts before it.", alone[-1]),
        ("that is the gradient of the sum over rows. Divide by the number of all rows.", right * sum(sizes)),
    )
    name_the_mistake(answer, [(f"{case} {message}", wrong) for message, wrong in mistakes])
    raise NotYet(f"{case} your gradient is {answer.tolist()}; expected {right.tolist()}.")


# --- memory per process ----------------------------------------------------------------------------------------------


def bytes_per_process(parameters, processes, divided):
    """The bytes for weights (2 per parameter), gradients (2) and Adam (12). divided: what the processes divide."""
    each = {"weights": 2, "gradients": 2, "Adam": 12}
    return sum(n * parameters / (processes if name in divided else 1) for name, n in each.items())


def _test_memory(attempt):
    """Compares the memory of each stage, for one process and for several."""
    for name, divided in data_parallel.STAGES.items():
        for parameters, processes in ((1_000, 1), (1_000, 4), (2_400, 3)):
            answer = as_number(attempt(parameters, processes, divided), "the bytes of one process, one number")
            right = data_parallel.bytes_per_process(parameters, processes, divided)
            if close(answer, right):
                continue
            case = f"{parameters:,} parameters, {processes} process(es), {name}, divided={divided}: {answer:g} bytes"
            if processes > 1 and close(answer, 16 * parameters):
                raise NotYet(f"{case}. What is divided must become smaller with more processes.")
            if processes > 1 and close(answer, 16 * parameters / processes):
                raise NotYet(f"{case}. Only what is named in divided is divided; of all else each process has a copy.")
            if close(answer, right * processes) and processes > 1:
                raise NotYet(f"{case} are those of all processes together. How many does one of them hold?")
            if processes == 1:
                raise NotYet(f"{case}. A single process holds 2 + 2 + 12 = 16 per parameter.")
            raise NotYet(f"{case}; expected {right:g}.")
    return "From DDP to FSDP, the processes divide Adam (three quarters of the sum), then gradients, then weights."


# --- a ring all-reduce -----------------------------------------------------------------------------------------------


def _test_ring(attempt):
    """Checks the sums of a ring all-reduce of 2, 3 and 5 processes, what each process sends to whom, and that nothing
    but what arrives is used: in a second run, all that arrives is lost."""
    for N, size in ((2, 4), (3, 4), (5, 2)):
        before = list(torch.randint(1, 100, (N, size * N), generator=torch.Generator().manual_seed(N)).float())
        tensors, sent = [tensor.clone() for tensor in before], []
        answer = _sums(attempt, tensors, _sender(sent, copy.deepcopy))
        _check_ring(answer, sum(before), sent)
        if any(not torch.equal(a, b) for a, b in zip(tensors, before)):
            raise NotYet("The sums are right, but your function has changed the tensors it was given: work on a copy.")
        lost = _sums(attempt, [tensor.clone() for tensor in before], _sender([], lambda piece: piece * math.nan))
        if not all(own.isnan().all() for own in lost):
            raise NotYet("The check has also made send() return other numbers, and some of your sums did not change. "
                         "Use what send() returns; what another process holds cannot be read directly.")
    return ("With 2, 3 and 5 processes, each has sent 2 (N - 1) / N of its tensor at most, always to the same "
            "neighbour.")


def _sender(sent, transport):
    """send(source, target, piece), which notes (source, target, elements) in sent, and returns transport(piece)."""
    def send(source, target, piece):
        if not isinstance(piece, (torch.Tensor, np.ndarray)):
            raise NotYet(f"send(source, target, piece) passes a tensor; the piece is {describe(piece)}.")
        sent.append((int(source), int(target), math.prod(piece.shape)))
        return transport(piece.detach() if isinstance(piece, torch.Tensor) else piece)

    return send


def _sums(attempt, tensors, send):
    """The answer of an attempt: a list with one tensor for each process, all of one shape."""
    N, shape = len(tensors), tensors[0].shape
    answer = needs_answer(attempt(tensors, send))
    try:
        if isinstance(answer, (list, tuple, torch.Tensor, np.ndarray)) and len(answer) == N:
            return [as_floats(tensor, shape) for tensor in answer]
    except NotYet:  # what one of the processes holds is no tensor of this shape
        pass
    raise NotYet(f"{N} processes: return a list of {N} tensors of {shape[0]} elements, one for each process. You "
                 f"returned {describe(answer)}.")


def _check_ring(answer, total, sent):
    """Raises NotYet unless all N tensors in answer are total, and sent, a list of (source, target, elements), is a
    ring's: each process sends to its right-hand neighbour, or each to its left-hand one."""
    if not sent:
        raise NotYet("Nothing was sent. A process knows only its own tensor: all else must come through send().")
    N, enough = len(answer), 2 * (len(answer) - 1) * len(total) // len(answer)
    wrong = [p for p, own in enumerate(answer) if not torch.allclose(own, total)]
    most = max(sum(size for source, _, size in sent if source == p) for p in range(N))
    if not any(all(target == (source + way) % N for source, target, _ in sent) for way in (1, -1)):
        source, target = next((source, target) for source, target, _ in sent if target != (source + 1) % N)
        raise NotYet(f"{N} processes: process {source} has sent to {target}. In the ring it sends only to its "
                     f"neighbour, {(source + 1) % N}.")
    if wrong and all(torch.allclose(own, total / N) for own in answer):
        raise NotYet("These are the means. The all-reduce of this exercise gives the sum; dividing comes after it.")
    if most == enough // 2 and wrong:
        raise NotYet(f"{N} processes: each has sent {N - 1} pieces, so it holds only one piece of the complete sum. "
                     "Send the finished pieces round the ring once more.")
    if wrong:
        raise NotYet(f"{N} processes: process {wrong[0]} does not hold the sum of all {N} tensors. Which piece "
                     "does each send in the first step, and which has just arrived when the next step begins?")
    if most > enough:
        raise NotYet(f"{N} processes: the sums are right, but a process sends {most} elements. Cut the tensor "
                     f"into {N} pieces and send one per step: {enough} elements are enough.")


volume = Exercise(
    "Bytes of a ring", 1, 4,
    (
        "A piece is one N-th of all elements. How many pieces does a process send until all processes have all sums?",
        "There are N - 1 steps to add up and N - 1 to pass the sums on, with one piece each. A float32 element has 4 "
        "bytes.",
        "Multiply: 2 (N - 1) steps, elements / N per piece, 4 bytes per element.",
    ),
    _test_bytes, ring_bytes,
)
parts = Exercise(
    "Parts of unequal size", 2, 10,
    (
        "loss_of gives the mean over a part's rows. What must you do to each mean to get the mean over all rows?",
        "A part with n of R rows has the weight n / R. The gradient of a weighted sum is the weighted sum of the "
        "gradients.",
        "torch.autograd.grad(loss_of(weight, x, y), weight)[0] is one part's gradient. Multiply it by len(x) / R and "
        "add up.",
    ),
    _test_parts, batch_gradient,
)
memory = Exercise(
    "Memory per process", 2, 10,
    (
        "Write down the three amounts for a single process. Which of them do the processes divide?",
        "Each amount is its bytes per parameter times the number of parameters. Divide it by the number of processes "
        "if its name is in divided, or else keep all of it.",
        'Loop over {"weights": 2, "gradients": 2, "Adam": 12} and add up n * parameters / (processes or 1).',
    ),
    _test_memory, bytes_per_process, by_hand=("data_parallel.bytes_per_process", "data_parallel.memory_parts"),
)
ring = Exercise(
    "A ring all-reduce", 3, 20,
    (
        "Draw three processes and three pieces. In the first step process p sends piece p to the right. Which piece "
        "has it just received, and which should it therefore send next?",
        "In step s of the first round process p sends piece (p - s) % N, and its neighbour adds it to its own. All "
        "must send before anyone adds: first collect what arrives in a list.",
        "After N - 1 steps process p holds the complete sum of piece (p + 1) % N. In step s of the second round it "
        "sends piece (p + 1 - s) % N, and its neighbour replaces its own piece by it.",
    ),
    _test_ring, data_parallel.ring_all_reduce, by_hand=("data_parallel.ring_all_reduce", "torch.distributed"),
)
