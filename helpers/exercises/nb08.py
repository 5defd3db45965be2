"""Exercises of notebook 08: bytes of a ring, parts of unequal size, memory per process, a ring all-reduce."""

import math

import torch

from helpers.exercises import Exercise, NotYet, needs_answer


def close(answer, right, tolerance=1e-6):
    """Whether a learner's number (plain, NumPy's or torch's) is the right one."""
    return math.isclose(float(answer), right, rel_tol=tolerance, abs_tol=1e-12)


# --- bytes of a ring -------------------------------------------------------------------------------------------------


def ring_bytes(numbers, processes):
    """Bytes that each process sends in a ring all-reduce of so many float32 numbers."""
    return 2 * (processes - 1) / processes * 4 * numbers


def _test_bytes(attempt):
    for numbers, processes in ((1_000, 4), (1_000, 2), (124_439_808, 8), (10, 1)):
        answer, right = float(needs_answer(attempt(numbers, processes))), ring_bytes(numbers, processes)
        if close(answer, right):
            continue
        called = f"ring_bytes({numbers}, {processes})"
        if close(answer, right / 4):
            raise NotYet(f"{called} gives {answer:g}: that is how many numbers are sent. A float32 has 4 bytes.")
        if close(answer, right / 2):
            raise NotYet(f"{called} gives {answer:g}: one round of the ring. It goes round twice: to add, to hand out.")
        if close(answer, right * processes):
            raise NotYet(f"{called} gives {answer:g}: what all processes send together. What does one of them send?")
        if close(answer, 8 * numbers):
            raise NotYet(f"{called} gives {answer:g}, the limit for very many. A ring of N has N - 1 steps, not N.")
        raise NotYet(f"{called} gives {answer:g}; {right:g} was expected. How many steps, and how large is a piece?")
    return "It hardly grows with the number of processes: below 2 times the gradient's bytes, however many there are."


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
    def loss_of(weight, x, y):
        return ((x @ weight - y) ** 2).mean()

    generator = torch.Generator().manual_seed(0)
    x, y, start = (torch.randn(*shape, generator=generator) for shape in ((12, 3), (12,), (3,)))
    for sizes in ((6, 6), (8, 3, 1)):
        parts = list(zip(x.split(sizes), y.split(sizes)))
        alone = [torch.autograd.grad(loss_of(w := start.clone().requires_grad_(), *part), w)[0] for part in parts]
        weight = start.clone().requires_grad_()
        answer = torch.as_tensor(needs_answer(attempt(loss_of, weight, parts))).detach()
        right = batch_gradient(loss_of, start.clone().requires_grad_(), parts)
        if answer.shape != right.shape:
            raise NotYet(f"The answer has the shape {tuple(answer.shape)}; a gradient has its weight's, {(3,)}.")
        answer = answer.to(right.dtype)
        if torch.allclose(answer, right, atol=1e-5):
            continue
        shown = f"Parts of {' and '.join(map(str, sizes))} rows:"
        if torch.allclose(answer, sum(alone), atol=1e-5):
            raise NotYet(f"{shown} that is the sum of the parts' gradients. The loss is a mean over all rows.")
        if torch.allclose(answer, sum(alone) / len(alone), atol=1e-5):
            raise NotYet(f"{shown} that is the plain mean over the parts. A part with more rows must count for more.")
        if torch.allclose(answer, alone[-1], atol=1e-5):
            raise NotYet(f"{shown} that is the gradient of the last part alone. The parts before it were forgotten.")
        if torch.allclose(answer, sum(g * len(p[0]) for g, p in zip(alone, parts)), atol=1e-4):
            raise NotYet(f"{shown} that is the gradient of the sum over rows. Divide by the number of all rows.")
        raise NotYet(f"{shown} the gradient is {answer.tolist()}, {right.tolist()} was expected.")
    return "With equal parts all weights are alike. That is why train() insists on a batch that can be cut evenly."


# --- memory per process ----------------------------------------------------------------------------------------------


def bytes_per_process(parameters, processes, divided):
    """Bytes for weights (2 per parameter), gradients (2) and Adam (12). divided: what the processes share out."""
    each = {"weights": 2, "gradients": 2, "Adam": 12}
    return sum(n * parameters / (processes if name in divided else 1) for name, n in each.items())


def memory_parts(parameters, processes, divided):
    """The same by part, for a figure: {"weights": bytes, "gradients": bytes, "Adam": bytes}."""
    each = {"weights": 2, "gradients": 2, "Adam": 12}
    return {name: n * parameters / (processes if name in divided else 1) for name, n in each.items()}


STAGES = {"DDP": (), "ZeRO-1": ("Adam",), "ZeRO-2": ("Adam", "gradients"), "FSDP": ("Adam", "gradients", "weights")}


def _test_memory(attempt):
    for name, divided in STAGES.items():
        for processes in (1, 4):
            answer = float(needs_answer(attempt(1_000, processes, divided)))
            right = bytes_per_process(1_000, processes, divided)
            if close(answer, right):
                continue
            called = f"1,000 parameters, {processes} process(es), {name}, divided={divided}:"
            if processes > 1 and close(answer, 16_000):
                raise NotYet(f"{called} {answer:g} bytes. What is divided must become smaller with more processes.")
            if processes > 1 and close(answer, 16_000 / processes):
                raise NotYet(f"{called} {answer:g} bytes. Only what is in divided is shared out; the rest is a copy.")
            if close(answer, right * processes) and processes > 1:
                raise NotYet(f"{called} {answer:g} bytes are those of all processes together. What has one of them?")
            if processes == 1:
                raise NotYet(f"{called} {answer:g} bytes. A process that is alone holds 2 + 2 + 12 = 16 per parameter.")
            raise NotYet(f"{called} {answer:g} bytes, {right:g} were expected.")
    return "From DDP to FSDP: first Adam, three quarters of the sum, then the gradients, then the weights themselves."


# --- a ring all-reduce -----------------------------------------------------------------------------------------------


def ring_all_reduce(tensors, send):
    """Gives each of N processes the sum of all N tensors, (M,) each, M divisible by N. They are lists by process.

    send(source, target, piece) hands a piece over and returns it as it arrives.
    """
    N = len(tensors)
    pieces = [list(tensor.clone().chunk(N)) for tensor in tensors]  # [process][piece]
    for step in range(N - 1):  # add up: after the last step process p holds the whole sum of piece p + 1
        arrived = [send(p, (p + 1) % N, pieces[p][(p - step) % N]) for p in range(N)]
        for p in range(N):
            pieces[(p + 1) % N][(p - step) % N] = pieces[(p + 1) % N][(p - step) % N] + arrived[p]
    for step in range(N - 1):  # hand the finished sums on
        arrived = [send(p, (p + 1) % N, pieces[p][(p + 1 - step) % N]) for p in range(N)]
        for p in range(N):
            pieces[(p + 1) % N][(p + 1 - step) % N] = arrived[p]
    return [torch.cat(own) for own in pieces]


def _test_ring(attempt):
    for N in (2, 3, 5):
        generator = torch.Generator().manual_seed(N)
        tensors = [torch.randint(1, 100, (4 * N,), generator=generator).float() for _ in range(N)]
        before, sent = [tensor.clone() for tensor in tensors], []

        def send(source, target, piece):
            sent.append((int(source), int(target), len(piece)))
            return piece.clone()

        answer = needs_answer(attempt(tensors, send))
        total = sum(before)
        if len(answer) != N or any(torch.as_tensor(own).shape != total.shape for own in answer):
            raise NotYet(f"{N} processes: return a list of {N} tensors of {4 * N} numbers, one for each process.")
        wrong = [p for p, own in enumerate(answer) if not torch.allclose(torch.as_tensor(own).float(), total)]
        far = [(source, target) for source, target, _ in sent if target != (source + 1) % N]
        each = [sum(size for source, _, size in sent if source == p) for p in range(N)]
        if not sent:
            raise NotYet("Nothing was sent. A process knows only its own tensor: all else must come through send().")
        if far:
            raise NotYet(f"{N} processes: process {far[0][0]} has sent to {far[0][1]}. In the ring it sends only to "
                         f"its neighbour, {(far[0][0] + 1) % N}.")
        if wrong and all(torch.allclose(torch.as_tensor(own).float(), total / N) for own in answer):
            raise NotYet("These are the means. An all-reduce gives the sum here; dividing comes after it.")
        if max(each) == 4 * (N - 1) and wrong:
            raise NotYet(f"{N} processes: each has sent {N - 1} pieces, so only one piece in each is a whole sum. "
                         "Send the finished pieces round the ring once more.")
        if wrong:
            raise NotYet(f"{N} processes: process {wrong[0]} does not hold the sum of all {N} tensors. Which piece "
                         "does each send in the first step, and which has just arrived when the next step begins?")
        if max(each) > 8 * (N - 1):
            raise NotYet(f"{N} processes: the sums are right, but a process sends {max(each)} numbers. Cut the tensor "
                         f"into {N} pieces and send one per step: {8 * (N - 1)} are enough.")
        if any(not torch.equal(a, b) for a, b in zip(tensors, before)):
            raise NotYet("The sums are right, but the tensors that were given have changed: work on a copy.")
    return "Each process sends 2 (N - 1) pieces of 1/N of the tensor, always to the same neighbour."


volume = Exercise(
    "Bytes of a ring", 1, 4,
    (
        "A piece is one N-th of all numbers. How many pieces does a process send until all sums are known to all?",
        "N - 1 steps to add up and N - 1 to hand out, one piece each time. A float32 number has 4 bytes.",
        "Multiply: 2 (N - 1) steps, numbers / N per piece, 4 bytes per number.",
    ),
    _test_bytes, ring_bytes,
)
parts = Exercise(
    "Parts of unequal size", 2, 10,
    (
        "loss_of gives the mean over a part's rows. What must you do to each mean to get the mean over all rows?",
        "A part with n of R rows counts n / R. The gradient of a weighted sum is the weighted sum of the gradients.",
        "torch.autograd.grad(loss_of(weight, x, y), weight)[0] is one part's gradient. Times len(x) / R, added up.",
    ),
    _test_parts, batch_gradient,
)
memory = Exercise(
    "Memory per process", 2, 10,
    (
        "Write down the three amounts for one process that is alone. Which of them do the processes share out?",
        "Each amount is its bytes per parameter times the parameters. Divide by the number of processes if its name is "
        "in divided, else keep all of it.",
        'Loop over {"weights": 2, "gradients": 2, "Adam": 12} and add up n * parameters / (processes or 1).',
    ),
    _test_memory, bytes_per_process,
)
ring = Exercise(
    "A ring all-reduce", 3, 20,
    (
        "Draw three processes and three pieces. In the first step process p sends piece p to the right. Which piece "
        "has it just received, and which should it therefore send next?",
        "In step s of the first round process p sends piece (p - s) % N, and its neighbour adds it to its own. All "
        "must send before anybody adds: collect what arrives in a list first.",
        "After N - 1 steps process p holds the whole sum of piece (p + 1) % N. In step s of the second round it sends "
        "piece (p + 1 - s) % N, and its neighbour replaces its own by it.",
    ),
    _test_ring, ring_all_reduce,
)
