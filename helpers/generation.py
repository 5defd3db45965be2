"""From scores to text: the next token's distribution, the key/value cache, and generation (notebooks 04 and 07)."""

import contextlib
import functools
from numbers import Real

import torch

from helpers.machine import decoding, kernels
from helpers.model import check_ids


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution from which the next token is drawn: logits (..., V) -> probabilities (..., V).

    temperature divides the logits: below 1 likely tokens become likelier, above 1 unlikely ones do.
    top_k keeps the k most likely tokens. top_p (nucleus sampling, Holtzman et al. 2020) then keeps the smallest set of
    tokens whose probabilities sum to at least p. All others get the probability 0.
    Raises ValueError for a temperature of 0 or below, a top_k below 1 or a top_p outside (0, 1].
    """
    check_sampling(temperature, top_k, top_p)
    logits = (logits.float() - logits.amax(dim=-1, keepdim=True)) / temperature  # the largest is 0: nothing overflows
    if top_k is not None:
        best = logits.topk(min(top_k, logits.shape[-1])).indices
        logits = torch.full_like(logits, float("-inf")).scatter(-1, best, logits.gather(-1, best))
    probabilities = logits.softmax(dim=-1)
    if top_p is not None and top_p < 1:  # at 1, rounding would cut off the rarest tokens
        ordered, order = probabilities.sort(dim=-1, descending=True)
        needed = ordered.cumsum(dim=-1) - ordered < top_p  # the tokens before it do not sum to p yet
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * needed)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def check_sampling(temperature, top_k, top_p):
    """Raises ValueError unless these settings make a distribution."""
    if not (isinstance(temperature, Real) and 1e-30 <= temperature <= 1e30):  # what float32 can divide by
        raise ValueError(f"temperature={temperature!r}: expected a number above 0 (1e-30 to 1e30). "
                         "For the single most likely token use top_k=1.")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k={top_k!r}: expected a whole number of at least 1, or None for all tokens.")
    if top_p is not None and not (isinstance(top_p, Real) and 1e-30 <= top_p <= 1):
        raise ValueError(f"top_p={top_p!r}: expected a probability above 0 and up to 1, or None for all tokens.")


class KeyValueCache:
    """The keys and values of all tokens that a model has read, so that a new token needs only its own row.

    The buffers are allocated once, for capacity tokens (default: the whole context). GPT-2 adds a learned position to
    every token, so the cache cannot slide: once `length` reaches the context it is full.
    """

    def __init__(self, config, capacity=None):
        self.layers = [LayerCache(capacity or config.n_positions) for _ in range(config.n_layer)]

    @property
    def length(self):
        """How many tokens each layer holds."""
        return self.layers[-1].length

    @property
    def position(self):
        """The position of the next token."""
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
            self.keys, self.values = k.new_zeros(B, nh, self.capacity, hs), v.new_zeros(B, nh, self.capacity, hs)
        elif T > 1:
            raise ValueError(f"{T} tokens at once for a cache that holds {self.length}: "
                             "give the prompt first, then one token at a time.")
        start, self.length = self.length, self.length + T
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length], None


def generate(model, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None, use_cache=True):
    """Continues each sequence: ids (B, T) int64 -> (B, T + max_new_tokens), on the same device.

    top_k=1 is greedy decoding. generator: a torch.Generator for repeatable text; one on the CPU also works on a GPU.
    Past the model's context the window slides: the model then sees the last n_positions tokens. All their
    positions change, so the window is computed again. use_cache=False reads everything again for every token.
    The model's train/eval state is restored at the end. Raises ValueError for impossible arguments.
    """
    check_sampling(temperature, top_k, top_p)
    check_generation(model, ids, max_new_tokens, generator)
    context, prompt_length, total_length = model.config.n_positions, ids.shape[1], ids.shape[1] + max_new_tokens
    tokens = torch.cat([ids, ids.new_zeros(len(ids), max_new_tokens)], dim=1)  # (B, T + new), filled below
    cache, read_so_far = KeyValueCache(model.config, min(context, total_length)), 0
    step = functools.partial(model, cache=cache, last_only=True)  # new ids (B, T) -> logits (B, 1, V)
    with evaluation_mode(model), torch.inference_mode(), kernels.fast_decoding(model):
        for length in range(prompt_length, total_length):
            if use_cache and length <= context:
                logits, read_so_far = step(tokens[:, read_so_far:length]), length
                if length == prompt_length:  # from the next token on
                    step = decoding.fastest_step(step, model, cache, tokens[:, :1], max_new_tokens)
            else:
                logits = model(tokens[:, max(0, length - context) : length], last_only=True)
            if top_k == 1:
                tokens[:, length] = logits[:, -1].argmax(dim=-1)  # (B, V) -> (B,)
                continue
            probabilities = next_token_probabilities(logits[:, -1], temperature, top_k, top_p)  # (B, V)
            probabilities = probabilities if generator is None else probabilities.to(generator.device)
            tokens[:, length] = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(ids.device)
    return tokens


def check_generation(model, ids, max_new_tokens, generator):
    """Raises ValueError unless the model can continue these ids."""
    if not isinstance(max_new_tokens, int) or not 0 <= max_new_tokens <= 1_000_000:
        raise ValueError(f"max_new_tokens={max_new_tokens!r}: expected a whole number from 0 to 1,000,000.")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise ValueError(f"generator={generator!r}: expected torch.Generator().manual_seed(...) or None.")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        raise ValueError(f"ids={ids!r}: expected a tensor (B, T). A single sequence becomes a batch of one with "
                         "ids[None].")
    check_ids(ids[:, -model.config.n_positions :], "ids", model.config, device=model.lm_head.weight.device)


@contextlib.contextmanager
def evaluation_mode(model):
    """A context without dropout. At the end each module is in training or evaluation mode again, as it was before."""
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training:
            module.training = training


def sample_text(model, tokenizer, tokens, prompt="\n", seed=0, precision="auto", **sampling):
    """The prompt and the model's continuation of it, as text. sampling: temperature, top_k, top_p for generate()."""
    ids = tokenizer.encode(prompt)[None].to(model.lm_head.weight.device)  # (T,) -> (1, T)
    with kernels.autocast(ids.device, precision):
        ids = generate(model, ids, tokens, generator=torch.Generator().manual_seed(seed), **sampling)
    return tokenizer.decode(ids[0])
