"""Notebook 08's exercises: wrong answers that a learner may give, and correct ones that look different."""

import pytest
import torch

from helpers.course.data_parallel import ring_all_reduce
from helpers.course.exercises import nb08


def bytes_times(factor):
    """ring_bytes off by a factor that may depend on the number of processes."""
    return lambda elements, processes: nb08.ring_bytes(elements, processes) * factor(processes)


def weighted(weight_of):
    """batch_gradient with each part's gradient times weight_of(rows of the part, all rows, number of parts)."""
    def attempt(loss_of, weight, parts):
        rows = sum(len(x) for x, _ in parts)
        gradients = [torch.autograd.grad(loss_of(weight, x, y), weight)[0] for x, y in parts]
        return sum(g * weight_of(len(x), rows, len(parts)) for g, (x, _) in zip(gradients, parts))
    return attempt


def last_part_only(loss_of, weight, parts):
    for x, y in parts:
        weight.grad = None  # zero_grad() inside the loop
        loss_of(weight, x, y).backward()
    return weight.grad


def in_place(loss_of, weight, parts):
    """A different correct answer: backward() adds up in weight.grad."""
    rows = sum(len(x) for x, _ in parts)
    for x, y in parts:
        (loss_of(weight, x, y) * len(x) / rows).backward()
    return weight.grad


def straight_to_all(tensors, send):
    N = len(tensors)
    return [sum([tensors[p], *(send(q, p, tensors[q]) for q in range(N) if q != p)]) for p in range(N)]


def whole_tensors_round_the_ring(tensors, send):
    N, sums = len(tensors), [tensor.clone() for tensor in tensors]
    carried = [tensor.clone() for tensor in tensors]
    for _ in range(N - 1):
        arrived = [send(p, (p + 1) % N, carried[p]) for p in range(N)]
        carried = [arrived[p - 1] for p in range(N)]
        sums = [own + new for own, new in zip(sums, carried)]
    return sums


def first_round_only(tensors, send):
    N = len(tensors)
    pieces = [list(tensor.clone().chunk(N)) for tensor in tensors]
    for step in range(N - 1):
        arrived = [send(p, (p + 1) % N, pieces[p][(p - step) % N]) for p in range(N)]
        for p in range(N):
            pieces[(p + 1) % N][(p - step) % N] += arrived[p]
    return [torch.cat(own) for own in pieces]


def wrong_piece(tensors, send):
    N = len(tensors)
    pieces = [list(tensor.clone().chunk(N)) for tensor in tensors]
    for replace in (False, True):
        for step in range(N - 1):
            for p in range(N):  # always the same piece
                arrived = send(p, (p + 1) % N, pieces[p][p])
                pieces[(p + 1) % N][p] = arrived if replace else pieces[(p + 1) % N][p] + arrived
    return [torch.cat(own) for own in pieces]


def changes_its_input(tensors, send):
    for tensor, total in zip(tensors, ring_all_reduce(tensors, send)):
        tensor.copy_(total)
    return tensors


WRONG = {
    "volume": [
        (bytes_times(lambda N: 1 / 4), "has 4 bytes"),
        (bytes_times(lambda N: 1 / 2), "one round of the ring"),
        (bytes_times(lambda N: N), "all processes send together"),
        (lambda elements, processes: 8 * elements, "N - 1 steps"),
        (lambda elements, processes: 4 * elements * (processes + 1), "How many steps"),
    ],
    "parts": [
        (weighted(lambda n, rows, parts: 1), "that is the sum"),
        (weighted(lambda n, rows, parts: 1 / parts), "plain mean"),
        (last_part_only, "last part alone"),
        (weighted(lambda n, rows, parts: n), "sum over rows"),
        (lambda loss_of, weight, parts: loss_of(weight, *parts[0]), "shape"),
    ],
    "memory": [
        (lambda parameters, processes, divided: 16 * parameters, "must become smaller"),
        (lambda parameters, processes, divided: 16 * parameters / processes, "has a copy"),
        (lambda *arguments: arguments[1] * nb08.bytes_per_process(*arguments), "all processes together"),
        (lambda parameters, processes, divided: 8 * parameters, "2 + 2 + 12"),
    ],
    "ring": [
        (straight_to_all, "only to its neighbour"),
        (whole_tensors_round_the_ring, "into 3 pieces"),
        (first_round_only, "once more"),
        (wrong_piece, "which has just arrived"),
        (lambda tensors, send: [sum(tensors)] * len(tensors), "Nothing was sent"),
        (lambda tensors, send: [t / len(tensors) for t in ring_all_reduce(tensors, send)], "means"),
        (changes_its_input, "work on a copy"),
        (lambda tensors, send: ring_all_reduce(tensors, send)[0], "one for each process"),
    ],
}


@pytest.mark.parametrize("exercise, right", [
    (nb08.volume, lambda elements, processes: torch.tensor(8.0) * elements * (processes - 1) / processes),
    (nb08.parts, in_place),
    (nb08.parts, lambda *arguments: nb08.batch_gradient(*arguments).double()),
    (nb08.memory, lambda p, n, divided: p * (16 - sum({"Adam": 12}.get(d, 2) * (1 - 1 / n) for d in divided))),
    (nb08.ring, lambda tensors, send: torch.stack(ring_all_reduce(tensors, send))),
])
def test_other_correct_answers_are_accepted(exercise, right, capsys):
    exercise.check(right)
    assert ": correct." in capsys.readouterr().out
