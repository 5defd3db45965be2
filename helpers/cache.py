"""The key/value cache: what a model has read is kept, so a new token needs only its own row (notebook 03).

B sequences, T new tokens, nh heads, hs elements per head.
"""

from helpers.machine.settings import is_whole


class KeyValueCache:
    """The keys and values of all tokens that a model has read, so that a new token needs only its own row.

    length says how many tokens it holds. Its buffers are allocated once, for capacity tokens (default: the whole
    context). GPT-2 adds a learned position to every token, so the cache cannot slide: at its capacity it is full.
    Raises ValueError for a capacity that is not a number of tokens in the context.
    """

    def __init__(self, config, capacity=None):
        capacity = config.n_positions if capacity is None else capacity
        if not is_whole(capacity) or not 1 <= capacity <= config.n_positions:
            raise ValueError(f"capacity={capacity!r}: expected a number of tokens from 1 to {config.n_positions} "
                             "(n_positions), or None for all of them.")
        self.capacity, self.length = int(capacity), 0
        self.keys, self.values = [None] * config.n_layer, [None] * config.n_layer  # each (B, nh, capacity, hs)

    @property
    def position(self):
        """The position of the next token."""
        return self.length

    def layer(self, number):
        """The part of one block, to which its attention appends. Raises ValueError if there is no such block."""
        if number >= len(self.keys):
            raise ValueError(f"This cache is for {len(self.keys)} blocks, and the model has more. Make one for this "
                             "model: KeyValueCache(model.config).")
        return LayerCache(self, number)

    def advance(self, tokens):
        """Counts the tokens that all blocks have appended. A model calls it at the end of a pass, so a pass that is
        interrupted has added nothing."""
        self.length += tokens


class LayerCache:
    """One block's part of a KeyValueCache."""

    def __init__(self, cache, number):
        self.cache, self.number = cache, number

    def append(self, k, v):
        """Stores k, v (B, nh, T, hs) and returns all keys and values so far, each (B, nh, length + T, hs), and no mask.

        Raises ValueError when several tokens come at once to a cache that is not empty (that would need a mask), for
        more tokens than there is room for, and for other sequences than those in the cache.
        """
        cache, number, (B, nh, T, hs) = self.cache, self.number, k.shape
        start, end = cache.length, cache.length + T
        if start and T > 1:
            raise ValueError(f"{T} tokens at once for a cache that holds {start}: "
                             "give the prompt first, then one token at a time.")
        if end > cache.capacity:
            raise ValueError(f"{T} more tokens for a cache that holds {start} and has room for {cache.capacity}. Make "
                             "a larger one, KeyValueCache(config), and read all tokens again.")
        if start == 0:
            cache.keys[number] = k.new_zeros(B, nh, cache.capacity, hs)
            cache.values[number] = v.new_zeros(B, nh, cache.capacity, hs)
        keys, values = cache.keys[number], cache.values[number]
        if (k.dtype, k.device, B, nh, hs) != (keys.dtype, keys.device, len(keys), *keys.shape[1::2]):
            raise ValueError(f"New keys {tuple(k.shape)}, {k.dtype} on {k.device}, for a cache with "
                             f"{tuple(keys[:, :, :start].shape)}, {keys.dtype} on {keys.device}. Continue the same "
                             "sequences with the same model, or begin with a new cache.")
        keys[:, :, start:end], values[:, :, start:end] = k, v
        return keys[:, :, :end], values[:, :, :end], None
