"""Decoding on an NVIDIA GPU with one launch per token: a recorded step over a cache of fixed shape (notebook 03)."""

import functools

import torch

WORTH_RECORDING = 5  # tokens: for fewer, recording takes longer than it saves


def fastest_step(step, model, cache, token, new_tokens):
    """The fastest way to read one more token: a RecordedStep on an NVIDIA GPU, else the given step itself.

    step(token): logits of the token (B, 1) with the cache, which holds the prompt. A hook of the learner's must see
    each step, so a model with hooks is not recorded.
    """
    # There is no public way to ask a module for its hooks.
    has_hooks = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    is_worth_it = new_tokens >= WORTH_RECORDING and cache.length < model.config.n_positions
    return RecordedStep(model, cache, token) if token.is_cuda and is_worth_it and not has_hooks else step


class RecordedStep:
    """Reads one more token on a GPU in one launch instead of hundreds: a CUDA graph (notebook 03).

    step(token) with token (B, 1) int64 -> logits (B, 1, V), which the next call overwrites. cache holds the prompt. A
    graph repeats the same kernels on the same memory: hence a static cache, and a tensor for the position.
    """

    def __init__(self, model, cache, token):
        self.token = token.clone()
        self.position = torch.full((1,), cache.length, device=token.device)
        read = functools.partial(model, cache=StaticCache(cache, self.position), last_only=True)
        self.replay, self.logits = self.record(lambda: read(self.token), token.device)

    @staticmethod
    def record(function, device):
        """Records the GPU's work in function(). Returns a function that repeats it, and the tensor that it fills."""
        stream, before = _recording_stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            function()  # a first run, in which libraries choose their kernels
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result

    def __call__(self, token):
        self.token.copy_(token)
        self.replay()
        self.position += 1
        return self.logits


@functools.cache
def _recording_stream(device):
    return torch.cuda.Stream(device)  # one per GPU: libraries keep memory for every stream that they have seen


class StaticCache:
    """A key/value cache as tensors of fixed shape: attention reads the whole buffers, under a mask."""

    def __init__(self, cache, position):
        self.length, self.position = cache.length, position  # (1,)
        self.layers = [StaticLayer(keys, values, position) for keys, values in zip(cache.keys, cache.values)]

    def layer(self, number):
        """The part of one block."""
        return self.layers[number]

    def advance(self, tokens):
        """Nothing: RecordedStep moves the position on."""


class StaticLayer:
    """One block's part of a StaticCache."""

    def __init__(self, keys, values, position):
        self.keys, self.values, self.position = keys, values, position

    def append(self, k, v):
        """Stores k, v (B, nh, 1, hs). Returns keys and values (B, nh, capacity, hs), and a mask of those in use."""
        self.keys.index_copy_(2, self.position, k)
        self.values.index_copy_(2, self.position, v)
        in_use = torch.arange(self.keys.shape[2], device=k.device) <= self.position  # (capacity,)
        return self.keys, self.values, in_use[None]
