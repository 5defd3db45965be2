"""From scores to text: the next token's distribution, and generation with a key/value cache (notebooks 04 and 07)."""

import contextlib
import functools
import re
from numbers import Real

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from helpers import runtime
from helpers.model import check_ids


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution from which the next token is drawn: logits (..., V) -> probabilities (..., V).

    temperature divides the logits: below 1 the likely tokens gain, above 1 the unlikely ones.
    top_k keeps the k most likely tokens. top_p (nucleus sampling, Holtzman et al. 2020) then keeps the smallest set of
    tokens that together have at least the probability p. Everything else becomes exactly 0.
    Raises ValueError for a temperature of 0 or below, a top_k below 1 and a top_p outside (0, 1].
    """
    check_sampling(temperature, top_k, top_p)
    logits = (logits.float() - logits.amax(dim=-1, keepdim=True)) / temperature  # the best is 0: nothing overflows
    if top_k is not None:
        best = logits.topk(min(top_k, logits.shape[-1])).indices
        logits = torch.full_like(logits, float("-inf")).scatter(-1, best, logits.gather(-1, best))
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:  # rounding would cut off the rarest tokens at 1
        ordered, order = probabilities.sort(dim=-1, descending=True)
        needed = ordered.cumsum(dim=-1) - ordered < top_p  # the tokens before this one do not reach p yet
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * needed)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def check_sampling(temperature, top_k, top_p):
    """Raises ValueError unless these settings make a distribution."""
    if not (isinstance(temperature, Real) and 1e-30 <= temperature <= 1e30):  # what float32 can divide by
        raise ValueError(f"temperature={temperature!r}: a number above 0 was expected, from 1e-30 to 1e30. "
                         "For the single most likely token use top_k=1.")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k={top_k!r}: a whole number of at least 1, or None for all tokens, was expected.")
    if top_p is not None and not (isinstance(top_p, Real) and 1e-30 <= top_p <= 1):
        raise ValueError(f"top_p={top_p!r}: a probability above 0 and up to 1, or None for all tokens, was expected.")


class KeyValueCache:
    """The keys and values of all tokens that a model has read, so that each new token costs one row of work.

    The buffers are allocated once, for capacity tokens (by default the whole context). GPT-2 adds a learned position
    to every token, so the cache cannot slide: once `length` reaches the context it is full.
    """

    def __init__(self, config, capacity=None):
        self.layers = [LayerCache(capacity or config.n_positions) for _ in range(config.n_layer)]

    @property
    def length(self):
        """How many tokens each layer has stored."""
        return self.layers[-1].length

    @property
    def position(self):
        """Where the next token stands."""
        return self.length


class LayerCache:
    """One block's keys and values."""

    def __init__(self, capacity):
        self.capacity, self.length = capacity, 0

    def append(self, k, v):
        """Stores k, v (B, nh, T, hs) and returns all keys and values so far, each (B, nh, length, hs), and no mask.

        Raises ValueError when several tokens come at once to a cache that is not empty (that would need a mask).
        """
        B, nh, T, hs = k.shape
        if self.length == 0:
            self.keys, self.values = (k.new_zeros(B, nh, self.capacity, hs) for _ in "kv")
        elif T > 1:
            raise ValueError(f"{T} tokens at once for a cache that holds {self.length}: "
                             "give the prompt first, then one token at a time.")
        start, self.length = self.length, self.length + T
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length], None


def generate(model, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None, use_cache=True):
    """Continues each sequence: ids (B, T) int64 -> (B, T + max_new_tokens), on the same device.

    top_k=1 is greedy decoding. generator: a torch.Generator, for the same text again; on a CPU it also gives the same
    draws for a model on a GPU. Past the model's context the window slides: the model then sees the last n_positions
    tokens, which have new positions, so they are read again. use_cache=False reads everything again for every token.
    On a GPU of NVIDIA's a step is recorded once and then replayed (RecordedStep), unless a hook wants to see each one.
    The model's train/eval state is what it was before, whatever happens. Raises ValueError for impossible arguments.
    """
    config = model.config
    if not isinstance(max_new_tokens, int) or not 0 <= max_new_tokens <= 1_000_000:
        raise ValueError(f"max_new_tokens={max_new_tokens!r}: a whole number from 0 to 1,000,000 was expected.")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise ValueError(f"generator={generator!r}: torch.Generator().manual_seed(...) or None was expected.")
    check_sampling(temperature, top_k, top_p)
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        raise ValueError(f"ids={ids!r}: a tensor (B, T) was expected; a single sequence becomes a batch of one with "
                         "ids[None].")
    check_ids(ids[:, -config.n_positions :], "ids", config, device=model.lm_head.weight.device)

    prompt, done = ids.shape[1], 0
    tokens = torch.cat([ids, ids.new_zeros(len(ids), max_new_tokens)], dim=1)  # (B, T + new), filled below
    cache = KeyValueCache(config, min(config.n_positions, tokens.shape[1]))
    read = functools.partial(model, cache=cache, last_only=True)  # new ids (B, T) -> logits (B, 1, V)
    was_training = [(module, module.training) for module in model.modules()]
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    records = ids.is_cuda and max_new_tokens > 4 and not hooked
    model.eval()
    try:
        with torch.inference_mode(), fast_decoding(model):
            for end in range(prompt, prompt + max_new_tokens):
                if use_cache and end <= config.n_positions:
                    logits, done = read(tokens[:, done:end]), end
                    if records and end == prompt < config.n_positions:
                        read = RecordedStep(model, cache, tokens[:, :1])  # from the next token on
                else:
                    logits = model(tokens[:, max(0, end - config.n_positions) : end], last_only=True)
                if top_k == 1:
                    tokens[:, end] = logits[:, -1].argmax(dim=-1)  # (B, V) -> (B,)
                    continue
                probabilities = next_token_probabilities(logits[:, -1], temperature, top_k, top_p)  # (B, V)
                if generator is not None:
                    probabilities = probabilities.to(generator.device)
                tokens[:, end] = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(ids.device)
    finally:
        for module, training in was_training:
            module.training = training
    return tokens


class RecordedStep:
    """Reading one more token on a GPU, as one launch instead of hundreds: a CUDA graph (notebook 03).

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
        """Records what function() gives to the GPU. Returns what repeats it, and the tensor that it fills."""
        stream, before = _recording_stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            function()  # a first run, in which libraries choose their kernels
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = function()
        return graph.replay, result

    def __call__(self, token):
        self.token.copy_(token)
        self.replay()
        self.position += 1
        return self.logits


@functools.cache
def _recording_stream(device):
    return torch.cuda.Stream(device)  # one for each GPU: libraries keep memory for every stream that they have seen


class StaticCache:
    """A KeyValueCache seen as tensors of fixed shape: attention reads the whole buffers, under a mask."""

    def __init__(self, cache, position):
        self.length, self.position = cache.length, position  # (1,)
        self.layers = [StaticLayer(layer, position) for layer in cache.layers]


class StaticLayer:
    """One block's part of a StaticCache."""

    def __init__(self, layer, position):
        self.keys, self.values, self.position = layer.keys, layer.values, position

    def append(self, k, v):
        """Stores k, v (B, nh, 1, hs). Returns keys and values (B, nh, capacity, hs) and which of them may be seen."""
        self.keys.index_copy_(2, self.position, k)
        self.values.index_copy_(2, self.position, v)
        seen = torch.arange(self.keys.shape[2], device=k.device) <= self.position  # (capacity,)
        return self.keys, self.values, seen[None]


@contextlib.contextmanager
def fast_decoding(model):
    """A context for reading one token at a time with the kernels that are fastest on this machine (notebook 03)."""
    weight, threads = model.lm_head.weight, torch.get_num_threads()
    fp32 = weight.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    splits = fp32 and threads > 1 and splitting_helps(*weight.shape, threads)
    precision = runtime.matmul_precision(runtime.fastest_matmul(weight.device))
    with precision, SplitOneRow() if splits else contextlib.nullcontext():
        yield


@functools.cache
def splitting_helps(rows, width, threads):
    """Whether split_linear is clearly faster than F.linear on this CPU, tried out once for each size."""
    weight, x = torch.ones(min(rows, 16384), width), torch.ones(1, width)
    return runtime.times_faster(lambda: split_linear(x, weight), lambda: F.linear(x, weight)) > 1.4


class SplitOneRow(TorchFunctionMode):
    """While it is on, F.linear of a single row is computed by split_linear."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and args[0].numel() == args[0].shape[-1]:
            function = split_linear
        return function(*args, **(kwargs or {}))


def split_linear(x, weight, bias=None):
    """F.linear of a single row: x (..., 1, I), weight (O, I), bias (O,) -> (..., 1, O), on all threads of the CPU.

    Some libraries multiply one row by a matrix on a single core. As a batch of several smaller products, cut from the
    weight without a copy, it keeps all of them busy (notebook 03).
    """
    parts, (outputs, inputs) = torch.get_num_threads(), weight.shape
    whole = outputs - outputs % parts
    pieces = weight[:whole].view(parts, whole // parts, inputs)
    rows = x.reshape(1, 1, inputs).expand(parts, 1, inputs)  # the same row for each piece
    y = torch.bmm(rows, pieces.transpose(1, 2)).view(whole)  # (parts, 1, I) and (parts, I, O / parts) -> (O,)
    if whole < outputs:
        y = torch.cat([y, weight[whole:] @ x.reshape(inputs)])
    return (y if bias is None else y + bias).view(*x.shape[:-1], outputs)


def entropy(probabilities):
    """How undecided a distribution is, in nats: probabilities (..., V) -> (...). 0: one token is certain; ln V: all are
    alike (notebook 04)."""
    return torch.special.entr(probabilities).sum(dim=-1)


def repeated_ngrams(ids, n=4):
    """The share of a sequence's n-grams that have occurred in it before: ids (T,) -> 0 to 1 (notebook 04)."""
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    ngrams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    if not ngrams:
        raise ValueError(f"{len(ids)} tokens hold no {n}-gram: at least {n} were expected.")
    return 1 - len(set(ngrams)) / len(ngrams)


def distinct_words(text):
    """The share of different words among a text's words, upper and lower case alike: 0 to 1; a text without words: 0.

    It falls as a text gets longer, so compare texts of equal length only (notebook 04).
    """
    words = re.findall(r"[^\W\d_]+", text.lower())
    return len(set(words)) / max(1, len(words))
