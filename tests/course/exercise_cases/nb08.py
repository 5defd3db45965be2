"""Cases for the exercises of notebook 08."""

from fractions import Fraction

import numpy as np
import torch

from tests.course.exercise_cases import Case

# --- bytes of a ring -------------------------------------------------------------------------------------------------


def step_by_step(elements, processes):
    sent = 0
    for _ in range(2):  # add up, then pass on
        for _ in range(processes - 1):
            sent += 4 * elements // processes
    return sent


def all_but_one_piece_twice(elements, processes):
    piece = elements // processes
    return 2 * 4 * (elements - piece)


def with_fractions(elements, processes):
    return 8 * elements * (1 - Fraction(1, processes))


def from_the_size_of_a_float(elements, processes):
    piece = torch.empty(elements // processes, dtype=torch.float32, device="meta")
    return 2 * (processes - 1) * piece.element_size() * piece.numel()


def as_a_tensor(elements, processes):
    return torch.tensor(8.0) * elements * (processes - 1) / processes


def as_a_numpy_number(elements, processes):
    return np.float64(elements) * 8 * (processes - 1) / processes


def some_rings(seed):
    return 840 * (seed + 3), (5, 6, 7, 10)[seed]


# --- parts of unequal size -------------------------------------------------------------------------------------------


def by_backward(loss_of, weight, parts):
    """backward() adds up in weight.grad."""
    rows = sum(len(x) for x, _ in parts)
    for x, y in parts:
        (loss_of(weight, x, y) * len(x) / rows).backward()
    return weight.grad


def of_one_loss(loss_of, weight, parts):
    R = sum(x.shape[0] for x, y in parts)
    loss = sum(x.shape[0] / R * loss_of(weight, x, y) for x, y in parts)
    return torch.autograd.grad(loss, weight)[0]


def of_the_whole_batch(loss_of, weight, parts):
    xs, ys = zip(*parts)
    loss_of(weight, torch.cat(xs), torch.cat(ys)).backward()
    return weight.grad


def by_averages(loss_of, weight, parts):
    gradients = torch.stack([torch.autograd.grad(loss_of(weight, x, y), weight)[0] for x, y in parts])
    sizes = torch.tensor([len(x) for x, _ in parts], dtype=torch.float32)
    return torch.einsum("p,pn->n", sizes / sizes.sum(), gradients)


def by_torch_func(loss_of, weight, parts):
    gradient = torch.func.grad(loss_of)
    return sum(len(y) * gradient(weight, x, y) for x, y in parts) / sum(len(y) for _, y in parts)


def as_a_list(loss_of, weight, parts):
    return of_one_loss(loss_of, weight, parts).tolist()


def in_numpy(loss_of, weight, parts):
    gradients = [torch.autograd.grad(loss_of(weight, x, y), weight)[0].numpy() for x, y in parts]
    return np.average(gradients, axis=0, weights=[len(x) for x, _ in parts])


def some_loss(weight, x, y):
    return (x @ weight - y).cosh().mean()


def some_parts(seed):
    generator = torch.Generator().manual_seed(100 + seed)
    n, sizes = 2 + 2 * seed, [(3, 1), (2, 5, 4), (1, 1, 6), (7,)][seed]
    parts = [(torch.randn(rows, n, generator=generator), torch.randn(rows, generator=generator)) for rows in sizes]
    return some_loss, torch.randn(n, generator=generator).requires_grad_(), parts


# --- memory per process ----------------------------------------------------------------------------------------------


def with_three_conditions(parameters, processes, divided):
    weights, gradients, adam = 2 * parameters, 2 * parameters, 12 * parameters
    if "weights" in divided:
        weights /= processes
    if "gradients" in divided:
        gradients /= processes
    if "Adam" in divided:
        adam /= processes
    return weights + gradients + adam


def copied_and_divided(parameters, processes, divided):
    shared = sum({"weights": 2, "gradients": 2, "Adam": 12}[name] for name in divided)
    return parameters * (16 - shared + shared / processes)


def row_of_the_table(parameters, processes, divided):
    copied = [16, 4, 2, 0][len(divided)]
    return copied * parameters + (16 - copied) * parameters / processes


def in_a_loop(parameters, processes, divided):
    total = 0.0
    for name, n in zip(("weights", "gradients", "Adam"), (2, 2, 12)):
        total += n * parameters * (1 / processes if name in divided else 1)
    return total


def with_an_array(parameters, processes, divided):
    share = np.array([1 / processes if name in divided else 1 for name in ("Adam", "weights", "gradients")])
    return parameters * (share @ [12, 2, 2])


def with_a_tensor(parameters, processes, divided):
    counts = torch.tensor([processes if name in divided else 1 for name in ("weights", "gradients", "Adam")])
    return (torch.tensor([2, 2, 12]) * parameters / counts).sum()


def some_memory(seed):
    return 700 * (seed + 1), seed + 5, ((), ("Adam",), ("Adam", "gradients"), ("Adam", "gradients", "weights"))[seed]


# --- a ring all-reduce -----------------------------------------------------------------------------------------------


def one_after_the_other(tensors, send):
    """No process waits for the others, because it always sends another piece than the one that arrives."""
    N = len(tensors)
    own = [[piece.clone() for piece in tensor.chunk(N)] for tensor in tensors]
    for step in range(N - 1):
        for p in range(N):
            right, i = (p + 1) % N, (p - step) % N
            own[right][i] = own[right][i] + send(p, right, own[p][i])
    for step in range(N - 1):
        for p in range(N):
            right, i = (p + 1) % N, (p + 1 - step) % N
            own[right][i] = send(p, right, own[p][i])
    return [torch.cat(pieces) for pieces in own]


def piece_by_piece(tensors, send):
    """Each piece travels nearly twice round the ring before the next one starts."""
    N = len(tensors)
    result = [torch.zeros_like(tensor) for tensor in tensors]
    for i in range(N):
        part = slice(i * len(tensors[0]) // N, (i + 1) * len(tensors[0]) // N)
        travelling = tensors[i][part]
        for step in range(N - 1):
            travelling = tensors[(i + step + 1) % N][part] + send((i + step) % N, (i + step + 1) % N, travelling)
        result[(i - 1) % N][part] = travelling
        for step in range(N - 1):
            travelling = send((i - 1 + step) % N, (i + step) % N, travelling)
            result[(i + step) % N][part] = travelling
    return result


def in_one_tensor(tensors, send):
    N = len(tensors)
    table = torch.stack(tensors).view(N, N, -1)  # (process, piece, M / N), a copy
    for s in range(2 * (N - 1)):
        arrived = [(p, (p - s) % N, send(p, (p + 1) % N, table[p, (p - s) % N].clone())) for p in range(N)]
        for p, i, piece in arrived:
            table[(p + 1) % N, i] = piece if s >= N - 1 else table[(p + 1) % N, i] + piece
    return table.flatten(1)


def with_numpy(tensors, send):
    N = len(tensors)
    own = [np.split(tensor.numpy().copy(), N) for tensor in tensors]
    for first, add in ((0, True), (1, False)):
        for step in range(N - 1):
            arrived = [send(p, (p + 1) % N, own[p][(p + first - step) % N]) for p in range(N)]
            for p, piece in enumerate(arrived):
                i = (p + first - step) % N
                own[(p + 1) % N][i] = own[(p + 1) % N][i] + piece if add else piece
    return [np.concatenate(pieces) for pieces in own]


def to_the_left(tensors, send):
    """The ring in the other direction."""
    backwards = one_after_the_other(tensors[::-1], lambda p, q, piece: send(len(tensors) - 1 - p, len(tensors) - 1 - q,
                                                                            piece))
    return backwards[::-1]


def one_element_at_a_time(tensors, send):
    """Each element is sent by itself; the volume is the same."""
    def send_slowly(p, q, piece):
        return torch.stack([send(p, q, element) for element in piece])

    return tuple(one_after_the_other(tensors, send_slowly))


def as_lists(tensors, send):
    return [total.tolist() for total in piece_by_piece(tensors, send)]


def some_tensors(seed):
    N = (3, 4, 2, 6)[seed]
    return (list(torch.randn(N, N * (seed + 1), generator=torch.Generator().manual_seed(seed))),)


def sums_and_sent(attempt, tensors):
    """What each process holds at the end, what became of the arguments, and who has sent how much to whom."""
    sent = {}

    def send(source, target, piece):
        sent[source, target] = sent.get((source, target), 0) + len(piece)
        return piece.clone()

    return attempt(tensors, send), tensors, dict(sorted(sent.items()))


CASES = {
    "volume": Case([step_by_step, all_but_one_piece_twice, with_fractions, from_the_size_of_a_float, as_a_tensor,
                    as_a_numpy_number], some_rings),
    "parts": Case([by_backward, of_one_loss, of_the_whole_batch, by_averages, by_torch_func, as_a_list, in_numpy],
                  some_parts),
    "memory": Case([with_three_conditions, copied_and_divided, row_of_the_table, in_a_loop, with_an_array,
                    with_a_tensor], some_memory),
    "ring": Case([one_after_the_other, piece_by_piece, in_one_tensor, with_numpy, to_the_left, one_element_at_a_time,
                  as_lists], some_tensors, sums_and_sent),
}
