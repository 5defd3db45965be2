"""Notebook 08's exercises: wrong answers that a learner may give. (Correct ones: exercise_cases/nb08.py.)"""

import pytest
import torch

from helpers.course import data_parallel
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


def sends_for_form(tensors, send):
    """Reads the neighbours' pieces directly, although it also sends them."""
    for i in (0, 1):
        for p in range(len(tensors)):
            for piece in tensors[p].chunk(len(tensors))[1:]:
                send(p, (p + 1) % len(tensors), piece)
    return [sum(tensors)] * len(tensors)


def both_ways(tensors, send):
    """Each process sends its whole tensor to both neighbours, which suffices for 2 and for 3 processes."""
    N = len(tensors)
    return [tensors[p] + sum(send(q, p, tensors[q]) for q in {(p - 1) % N, (p + 1) % N}) for p in range(N)]


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
        (sends_for_form, "Use what send() returns"),
        (both_ways, "only to its neighbour"),
    ],
}
# Answers of a wrong type, and the part of the message that describes them.
WRONG_TYPES = {
    "volume": [
        (lambda elements, processes: (elements, processes), "you returned a tuple of 2 numbers"),
        (lambda elements, processes: f"{elements} bytes", "you returned a str: '1000 bytes'"),
        (lambda elements, processes: {"bytes": 8 * elements}, "you returned a dict: {'bytes': 8000}"),
        (lambda elements, processes: torch.zeros(processes), "you returned a tensor of shape (4,)"),
    ],
    "parts": [
        (lambda loss_of, weight, parts: torch.autograd.grad(loss_of(weight, *parts[0]), weight),
         "You returned a tuple of 1 tensor of shape (3,)"),
        (lambda loss_of, weight, parts: [0.0] * len(parts), "You returned a list of 2 numbers"),
        (lambda loss_of, weight, parts: "the gradient", "You returned a str: 'the gradient'"),
        (lambda loss_of, weight, parts: {"weight": weight}, "You returned a dict"),
    ],
    "memory": [
        (lambda parameters, processes, divided: (2 * parameters, 2 * parameters, 12 * parameters),
         "you returned a tuple of 3 numbers"),
        (lambda parameters, processes, divided: [16 * parameters], "you returned a list of 1 number"),
        (lambda parameters, processes, divided: "16 KB", "you returned a str: '16 KB'"),
        (lambda parameters, processes, divided: {"weights": 2000}, "you returned a dict: {'weights': 2000}"),
    ],
    "ring": [
        (lambda tensors, send: tuple(tensors[:1]), "returned a tuple of 1 tensor of shape (8,)"),
        (lambda tensors, send: [tensor[:1] for tensor in tensors], "returned a list of 2 tensors of shapes (1,)"),
        (lambda tensors, send: ["sum"] * len(tensors), "returned a list of 2 strs"),
        (lambda tensors, send: [None] * len(tensors), "returned a list of 2 NoneTypes"),
        (lambda tensors, send: dict(enumerate(tensors)), "returned a dict"),
        (lambda tensors, send: send(0, 1, "a piece"), "the piece is a str: 'a piece'"),
    ],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name):
    for attempt, words in WRONG_TYPES[name]:
        said = getattr(nb08, name).judge(attempt).text
        assert "not yet" in said and words in said, said
        assert "Your code stopped" not in said and "returns None" not in said, said


@pytest.mark.parametrize("name, helper", [
    ("memory", data_parallel.bytes_per_process),
    ("memory", lambda *arguments: sum(data_parallel.memory_parts(*arguments).values())),
    ("ring", lambda tensors, send: torch.stack(ring_all_reduce(tensors, send))),
])
def test_the_course_own_function_is_not_a_solution(name, helper):
    verdict = getattr(nb08, name).judge(helper)
    assert not verdict.solved and "correct, but not by hand" in verdict.text
