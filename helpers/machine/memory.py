"""How much memory something needs, and what to do when there is not enough (notebooks 03 and 07)."""

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import torch

from helpers.machine import kernels, runtime

STATUS = Path("/proc/self/status")


def peak_memory(function, device="cpu"):
    """The most bytes that function() needed at once: PyTorch counts them on CUDA, Linux on a CPU. Elsewhere None.

    function() runs once in any case, and its errors reach the caller.
    """
    gc.collect()  # what is left over from before must not be returned meanwhile
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.init()  # the counters exist from then on
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident_and_peak() if device.type == "cpu" and _restart_peak() else None
    function()
    return _resident_and_peak()[1] - before[0] if before else None


def _restart_peak():
    """Resets Linux's counter of the peak memory of this process. Returns False on other systems."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # pages that were freed but kept would be used again without being counted
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        return True
    return False


def _resident_and_peak():
    """The memory that this process holds now, and the most that it has held since _restart_peak(), in bytes. None where
    the system does not tell."""
    status = STATUS.read_text("utf-8")
    sizes = [re.search(rf"{name}:\s+(\d+)", status) for name in ("VmRSS", "VmHWM")]
    return [1024 * int(size[1]) for size in sizes] if all(sizes) else None


def is_out_of_memory(error):
    """Whether a RuntimeError of PyTorch's says that memory was not enough."""
    messages = "out of memory", "not enough memory", "allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"
    return any(message in str(error) for message in messages)


def advice(model, optimizer, config, device, processes):
    """What to tell somebody whose training step did not fit into memory: smaller parts of a
    batch are tried until one fits.

    config: a TrainConfig, of which batch_size, accumulate, context and precision are used.
    """
    optimizer.zero_grad(set_to_none=True)
    rows = config.batch_size // processes
    smaller = [parts for parts in range(config.accumulate + 1, rows + 1) if rows % parts == 0]
    if processes == 1:
        parts = next((n for n in smaller if _fits(rows // n, model, optimizer, config, device)), None)
    else:  # several processes wait for each other in a backward pass, so one alone cannot try
        parts = min(smaller, default=None)
    what_to_do = "Use a shorter context or a smaller model."
    if parts:
        tried = "fits (this was just tried)" if processes == 1 else "may fit"
        what_to_do = (f"{rows // parts} x {config.context} {tried}: use accumulate={parts}, which computes the same "
                      f"batches in {parts} parts, or batch_size={rows // parts * processes}.")
    free = ""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch has freed but kept would not count as free
        free = " ({:.1f} of {:.1f} GiB are free)".format(*(n / 2**30 for n in torch.cuda.mem_get_info(device)))
    return (f"{runtime.device_name(device)}{free} does not have enough memory for {rows // config.accumulate} x "
            f"{config.context} tokens at once. {what_to_do} Any checkpoint written earlier is complete.")


def _fits(rows, model, optimizer, config, device):
    """Whether a forward and a backward pass of so many rows fit into memory."""
    try:
        # These stand for AdamW's two tensors per parameter, which are allocated in the first step.
        adam = [(torch.empty_like(p), torch.empty_like(p)) for p in model.parameters()
                if "exp_avg_sq" not in optimizer.state.get(p, {})]
        ids = torch.zeros(rows, config.context, dtype=torch.int64, device=device)
        with kernels.autocast(device, config.precision):
            loss = model(ids, ids)
        loss.backward()
        del adam
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        optimizer.zero_grad(set_to_none=True)
