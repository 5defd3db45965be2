"""Several processes, simulated in one: the memory that each of them needs, and an all-reduce that passes pieces round a
ring (notebook 08)."""

import torch

BYTES = {"weights": 2, "gradients": 2, "Adam": 12}  # per parameter, in mixed precision
# What the processes divide among themselves, by method.
STAGES = {"DDP": (), "ZeRO-1": ("Adam",), "ZeRO-2": ("Adam", "gradients"), "FSDP": ("Adam", "gradients", "weights")}


def memory_parts(parameters, processes, divided):
    """The bytes that one process holds, by part: {"weights": bytes, "gradients": bytes, "Adam": bytes}.

    parameters: the model's number of parameters. divided: the parts that the processes divide among themselves; of all
    other parts each process holds a copy. Source: Rajbhandari et al. 2020, arXiv:1910.02054.
    """
    return {part: each * parameters / (processes if part in divided else 1) for part, each in BYTES.items()}


def bytes_per_process(parameters, processes, divided):
    """The bytes that one process holds in total. Arguments as in memory_parts."""
    return sum(memory_parts(parameters, processes, divided).values())


def ring_all_reduce(tensors, send):
    """The sum of N tensors (M,) for each of the N processes that hold them. Returns a list with one sum per process.

    send(source, target, piece) passes a piece from one process to another and returns it as it arrives. N must divide
    M. Source: Patarasuk and Yuan 2009.
    """
    N = len(tensors)
    pieces = [list(tensor.clone().chunk(N)) for tensor in tensors]  # [process][piece], (M / N,) each
    for step in range(N - 1):  # reduce-scatter: after the last step process p holds the complete sum of piece p + 1
        arrived = [send(p, (p + 1) % N, pieces[p][(p - step) % N]) for p in range(N)]
        for p in range(N):
            pieces[(p + 1) % N][(p - step) % N] += arrived[p]
    for step in range(N - 1):  # all-gather: pass the complete sums on
        arrived = [send(p, (p + 1) % N, pieces[p][(p + 1 - step) % N]) for p in range(N)]
        for p in range(N):
            pieces[(p + 1) % N][(p + 1 - step) % N] = arrived[p]
    return [torch.cat(own) for own in pieces]
