"""From scores to text: the next token's distribution, and generation with a key/value cache (notebooks 04 and 07)."""

import re

import torch

from helpers.model import check_ids


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distribution from which the next token is drawn: logits (..., V) -> probabilities (..., V).

    temperature divides the logits: below 1 the likely tokens gain, above 1 the unlikely ones.
    top_k keeps the k most likely tokens. top_p (nucleus sampling, Holtzman et al. 2020) then keeps the smallest set of
    tokens that together have at least the probability p. Everything else becomes exactly 0.
    Raises ValueError for a temperature of 0 or below, a top_k below 1 and a top_p outside (0, 1].
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature={temperature}: a number above 0 was expected. For the single most likely token use top_k=1."
        )
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k={top_k!r}: a whole number of at least 1, or None for all tokens, was expected.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p!r}: a probability above 0 and up to 1, or None for all tokens, was expected.")

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


class LayerCache:
    """One block's keys and values."""

    def __init__(self, capacity):
        self.capacity, self.length = capacity, 0

    def append(self, k, v):
        """Stores k, v (B, nh, T, hs) and returns all keys and values so far, each (B, nh, length, hs).

        Raises ValueError when several tokens come at once to a cache that is not empty (that would need a mask).
        """
        B, nh, T, hs = k.shape
        if self.length == 0:
            self.keys, self.values = (k.new_empty(B, nh, self.capacity, hs) for _ in "kv")
        elif T > 1:
            raise ValueError(
                f"{T} tokens at once for a cache that holds {self.length}: "
                "give the prompt first, then one token at a time."
            )
        start, self.length = self.length, self.length + T
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


def generate(model, ids, max_new_tokens, temperature=1.0, top_k=None, top_p=None, generator=None, use_cache=True):
    """Continues each sequence: ids (B, T) int64 -> (B, T + max_new_tokens), on the same device.

    top_k=1 is greedy decoding. generator: a torch.Generator, for the same text again; on a CPU it also gives the same
    draws for a model on a GPU. Past the model's context the window slides: the model then sees the last n_positions
    tokens, which have new positions, so they are read again. use_cache=False reads everything again for every token.
    The model's train/eval state is what it was before, whatever happens. Raises ValueError for impossible arguments.
    """
    config = model.config
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens!r}: a whole number of at least 0 was expected.")
    check_ids(ids[..., -config.n_positions :], "ids", config)

    prompt = ids.shape[1]
    tokens = torch.cat([ids, ids.new_zeros(len(ids), max_new_tokens)], dim=1)  # (B, T + new), filled below
    cache = KeyValueCache(config, min(config.n_positions, tokens.shape[1]))
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            for end in range(prompt, prompt + max_new_tokens):
                if use_cache and end <= config.n_positions:
                    logits = model(tokens[:, cache.length : end], cache=cache, last_only=True)  # (B, 1, V)
                else:
                    logits = model(tokens[:, max(0, end - config.n_positions) : end], last_only=True)
                probabilities = next_token_probabilities(logits[:, -1], temperature, top_k, top_p)  # (B, V)
                if generator is not None:
                    probabilities = probabilities.to(generator.device)
                tokens[:, end] = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(ids.device)
    finally:
        for module, training in was_training:
            module.training = training
    return tokens


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
