"""The inputs of a model: token ids of the right kind, shape, length, device and range."""

import torch


def check_ids(ids, name, config, start=0, look=True, device=None, ignored=None):
    """Raises ValueError unless ids are (B, T) int64, on the device, and fit into the context after `start` tokens.

    look: also check the values, of which one may be `ignored`. On a GPU the CPU would have to wait for that.
    """
    check_kind(ids, name)
    if device is not None and ids.device != device:
        raise ValueError(f"{name} are on {ids.device}, the model is on {device}. Give it {name}.to(device), or move "
                         "it with model.to(device): all must be on the same device.")
    T, longest = ids.shape[1], config.n_positions
    if T < 1:
        raise ValueError(f"{name} hold 0 tokens per sequence: give at least one, such as tokenizer.end_of_text.")
    if start and start + T > longest:
        raise ValueError(f"{name} hold {T} more for a cache that holds {start}; this model reads at most {longest} "
                         "tokens (n_positions). Begin a new cache with the last ones; generate() does this by itself.")
    if T > longest:
        raise ValueError(f"{name} hold {T} tokens per sequence; this model reads 1 to {longest} (n_positions). Keep "
                         f"the last ones: {name}[:, -{longest}:].")
    seen = ids[ids != ignored] if look and ignored is not None else ids
    if look and seen.numel():
        low, high = seen.min().item(), seen.max().item()
        if low < 0 or high >= config.vocab_size:
            hint = f"A target that shall not count is {ignored}." if low < 0 and ignored is not None else (
                "Was the text encoded with another tokenizer?")
            raise ValueError(f"{name} run from {low} to {high}; this model knows 0 to {config.vocab_size - 1} "
                             f"(vocab_size {config.vocab_size}). {hint}")


def check_kind(ids, name):
    """Raises ValueError unless ids are a tensor (B, T) int64."""
    if not isinstance(ids, torch.Tensor):
        remedy = "tokenizer.encode(text)[None] makes one" if isinstance(ids, str) else (
            f"torch.tensor({name}, dtype=torch.int64) makes one of a list or an array")
        raise ValueError(f"{name} are a {type(ids).__name__}; expected a tensor (B, T) of token ids: {remedy}.")
    if ids.dtype != torch.int64:
        raise ValueError(f"{name} have the shape {tuple(ids.shape)} and the type {ids.dtype}; expected (B, T) and "
                         f"torch.int64: {name}.long() converts whole numbers.")
    if ids.ndim != 2:
        raise ValueError(f"{name} have the shape {tuple(ids.shape)}; expected (B, T). A single sequence becomes a "
                         f"batch of one with {name}[None].")
