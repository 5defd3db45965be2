"""The simulated processes of notebook 08: their memory, and what a ring all-reduce sends."""

import pytest
import torch

from helpers.course import data_parallel
from helpers.course.exercises import nb08


@pytest.mark.parametrize("stage, bytes_per_parameter", [
    ("DDP", 16), ("ZeRO-1", 4 + 12 / 8), ("ZeRO-2", 2 + 14 / 8), ("FSDP", 16 / 8),
])
def test_each_stage_divides_more_of_the_memory(stage, bytes_per_parameter):
    divided = data_parallel.STAGES[stage]
    assert data_parallel.bytes_per_process(1_000, 8, divided) == pytest.approx(1_000 * bytes_per_parameter)
    assert data_parallel.bytes_per_process(1_000, 1, divided) == 16_000  # a single process has nobody to share with
    parts = data_parallel.memory_parts(1_000, 8, divided)
    assert {part for part, held in parts.items() if held < data_parallel.BYTES[part] * 1_000} == set(divided)


@pytest.mark.parametrize("N", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("copies", [True, False])
def test_a_ring_all_reduce_sums_and_sends_what_the_formula_says(N, copies):
    sent = [0] * N

    def send(source, target, piece):
        assert target == (source + 1) % N  # only to the neighbour
        sent[source] += piece.nbytes
        return piece.clone() if copies else piece

    tensors = [torch.randn(16 * N) for _ in range(N)]
    before = [tensor.clone() for tensor in tensors]
    results = data_parallel.ring_all_reduce(tensors, send)
    assert len(results) == N
    for result in results:
        torch.testing.assert_close(result, sum(before))
    assert sent == [nb08.ring_bytes(16 * N, N)] * N
    assert all(map(torch.equal, tensors, before))  # the inputs are unchanged
