"""What the judge of notebook 11 compares with: GPT-2 from raw tensors, and GPT-2 with one typical mistake.

Letters as in model.py: B sequences, T tokens, C elements per token, V tokens in the vocabulary, nh heads, hs = C / nh.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.model import GPT


def weights(config, seed):
    """Random weights {GPT-2's name: tensor}, in nn.Linear's layout, in which nothing is 0 or 1 and everything matters.

    The embeddings are small, so that the eps of the first LayerNorm matters, too.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith(("wte.weight", "wpe.weight")):
            tensors[name] = 0.02 * noise
        elif len(shape) == 2:
            tensors[name] = 2 * noise / math.sqrt(shape[1])
        else:
            tensors[name] = 0.3 * noise + (".ln_" in name and name.endswith("weight"))
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    return tensors


@dataclass(frozen=True)
class Formula:
    """GPT-2's forward pass. Each field that differs from its default is a mistake."""

    gelu: str = "tanh"
    eps: float = 1e-5
    eps_outside: bool = False  # of the square root
    unbiased: bool = False  # divides by C - 1 in the LayerNorms
    scale: str = "hs"  # or "none", "C", "hs without root"
    mask: str = "causal"  # or "none", "after the softmax"
    order: tuple = (0, 1, 2)  # of Q, K and V in c_attn
    interleaved: bool = False  # Q, K and V of head 0, then those of head 1, ...
    is_split: bool = True  # else one reads (B, T, C) as (B, nh, T, hs), without a transpose
    is_merged: bool = True  # else one reads (B, nh, T, hs) as (B, T, C), without a transpose
    first_position: int | None = 0  # None: no positions
    final_norm: bool = True
    norm: str = "before"  # or "after" a sum
    sums: tuple = ("x", "x")  # what attention's and the MLP's result is added to: "x", the "norm" of x, or "none"
    is_parallel: bool = False  # the MLP reads what attention has read
    has_biases: bool = True
    is_transposed: bool = False  # the square matrix after the heads
    # Mistakes in a step with a cache:
    restarts: bool = False  # positions begin at 0 in every step
    hides_cache: bool = False  # the mask lets a single new token see the first key only
    kept: str = "all"  # keys and values in the cache: or those of the "last step" or "first step"
    is_read: bool = True  # the cache, by attention
    ahead: tuple = (False, False)  # new keys, new values are put before those of the cache

    def layer_norm(self, x, gamma, beta):
        """(..., C) -> (..., C)."""
        variance = x.var(-1, keepdim=True, unbiased=self.unbiased)
        spread = variance.sqrt() + self.eps if self.eps_outside else (variance + self.eps).sqrt()
        return (x - x.mean(-1, keepdim=True)) / spread * gamma + beta

    def with_cache(self, k, v, past):
        """Keys and values (B, nh, T, hs) with those of earlier steps -> (B, nh, S, hs) each. Changes past, a list."""
        earlier = past if past and self.is_read else (k[:, :, :0], v[:, :, :0])
        joined = [torch.cat([new, old] if ahead else [old, new], dim=2)
                  for new, old, ahead in zip((k, v), earlier, self.ahead)]
        past[:] = {"all": joined, "last step": (k, v), "first step": past or (k, v)}[self.kept]
        return joined

    def attention(self, x, layer, n_head, past):
        """(B, T, C) -> (B, T, C). layer(name) gives (weight, bias); past is the cache of this block, a list."""
        B, T, C = x.shape
        hs = C // n_head
        qkv = self.linear(x, *layer("attn.c_attn"))  # (B, T, 3C)
        parts = qkv.view(B, T, n_head, 3, hs).unbind(3) if self.interleaved else [
            part.view(B, T, n_head, hs) for part in qkv.split(C, -1)]
        q, k, v = (parts[i].transpose(1, 2) if self.is_split else parts[i].reshape(B, n_head, T, hs)
                   for i in self.order)
        divisor = {"hs": hs**0.5, "none": 1, "C": C**0.5, "hs without root": hs}[self.scale]
        k, v = self.with_cache(k, v, past)
        S = k.shape[2]
        scores = q @ k.transpose(-2, -1) / divisor  # (B, nh, T, S)
        allowed = torch.ones(T, S).tril(0 if self.hides_cache else S - T).bool()
        if self.mask == "causal":
            scores = scores.masked_fill(~allowed, -math.inf)
        rows = scores.softmax(-1) * (allowed if self.mask == "after the softmax" else 1)
        z = (rows @ v).transpose(1, 2) if self.is_merged else rows @ v
        weight, bias = layer("attn.c_proj")
        return self.linear(z.reshape(B, T, C), weight.T if self.is_transposed else weight, bias)

    def linear(self, x, weight, bias):
        """(..., C) -> (..., D)."""
        return x @ weight.T + bias * self.has_biases

    def mlp(self, x, layer):
        """(B, T, C) -> (B, T, C)."""
        h = self.linear(x, *layer("mlp.c_fc"))
        h = F.relu(h) if self.gelu == "relu" else F.gelu(h, approximate=self.gelu)
        return self.linear(h, *layer("mlp.c_proj"))

    def block(self, x, layer, n_head, past):
        """(B, T, C) -> (B, T, C)."""
        if self.norm == "after":
            x = self.layer_norm(x + self.attention(x, layer, n_head, past), *layer("ln_1"))
            return self.layer_norm(x + self.mlp(x, layer), *layer("ln_2"))
        normed = self.layer_norm(x, *layer("ln_1"))
        x_att = {"x": x, "norm": normed, "none": 0}[self.sums[0]] + self.attention(normed, layer, n_head, past)
        normed = self.layer_norm(x if self.is_parallel else x_att, *layer("ln_2"))
        return {"x": x_att, "norm": normed, "none": 0}[self.sums[1]] + self.mlp(normed, layer)


def logits(tensors, config, ids, cache=None, start=0, **mistake):
    """The logits (B, T, V) of these weights; mistake: fields of Formula. cache: a list for each block, which holds the
    keys and values of start earlier tokens and is extended in place."""
    formula, T = Formula(**mistake), ids.shape[1]
    x = tensors["transformer.wte.weight"][ids]  # (B, T) -> (B, T, C)
    if formula.first_position is not None:
        first = formula.first_position + (0 if formula.restarts else start)
        x = x + tensors["transformer.wpe.weight"][first : first + T]

    def pair(name):
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    for i, past in enumerate(cache or [[] for _ in range(config.n_layer)]):
        x = formula.block(x, lambda name, i=i: pair(f"transformer.h.{i}.{name}"), config.n_head, past)
    if formula.final_norm:
        x = formula.layer_norm(x, *pair("transformer.ln_f"))
    return x @ tensors["transformer.wte.weight"].T


def text(tensors, config, ids, n, is_shared=False, by_length=False, **mistake):
    """The greedy continuation (B, T + n) with a cache. is_shared: all blocks read the first block's cache. by_length:
    the position of a new token is the number of keys in the cache, also where these are not all."""
    new, cache = ids, [[] for _ in range(config.n_layer)]
    for _ in range(n):
        given = [list(cache[0]) for _ in cache] if is_shared else cache
        start = cache[0][0].shape[2] if by_length and cache[0] else ids.shape[1] - new.shape[1]
        scores = logits(tensors, config, new, given, start, **mistake)
        new, cache = scores[:, -1:].argmax(-1), given
        ids = torch.cat([ids, new], dim=1)
    return ids


# (message, the mistake). The judge finds a learner's mistake by computing with each of them.
MISTAKES = (
    ("Your GELU is the exact one. GPT-2 uses its approximation by tanh.", {"gelu": "none"}),
    ("You use ReLU where GPT-2 uses GELU, approximated by tanh.", {"gelu": "relu"}),
    ("The last LayerNorm, ln_f, is missing.", {"final_norm": False}),
    ("Your LayerNorms come after the sums (post-norm). In GPT-2 they come before attention and before the MLP.",
     {"norm": "after"}),
    ("The scores are not divided by sqrt(hs).", {"scale": "none"}),
    ("You divide the scores by sqrt(C). Divide by sqrt(hs), the width of one head.", {"scale": "C"}),
    ("You divide the scores by hs. Divide by its square root.", {"scale": "hs without root"}),
    ("No mask: every token sees all tokens.", {"mask": "none"}),
    ("You set weights to 0 after the softmax. The mask belongs before it, as -inf.", {"mask": "after the softmax"}),
    *(("The columns of c_attn are Q, then K, then V. You read them in another order.", {"order": order})
      for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1))),
    ("In c_attn, all heads' Q come first, then all K, then all V. You read Q, K and V of head 0, then those of head 1.",
     {"interleaved": True}),
    ("You split the heads by a view alone. First view (B, T, nh, hs), then exchange T and nh.", {"is_split": False}),
    ("You merge the heads without exchanging nh and T first: (B, nh, T, hs) -> (B, T, nh, hs) -> (B, T, C).",
     {"is_merged": False}),
    ("The position vectors are missing.", {"first_position": None}),
    ("Positions are counted from 0. Yours begin with 1.", {"first_position": 1}),
    ("The sums with the residual stream are missing: x + attention(...), then x + mlp(...).",
     {"sums": ("none", "none")}),
    ("The sum after attention is missing: x + attention(...).", {"sums": ("none", "x")}),
    ("The sum after the MLP is missing: x + mlp(...).", {"sums": ("x", "none")}),
    *((f"{where}you add to the normalised x. The sum takes x itself, as it was before LayerNorm: do not overwrite x "
       "with the result of LayerNorm.", {"sums": sums})
      for where, sums in (("After attention and after the MLP ", ("norm", "norm")), ("After attention ", ("norm", "x")),
                          ("After the MLP ", ("x", "norm")))),
    ("Your MLP reads the block's input. It must read the sum after attention.", {"is_parallel": True}),
    ("All biases of the matrices are left out.", {"has_biases": False}),
    ("The square matrix after the heads is transposed: weights come in nn.Linear's layout, (out, in).",
     {"is_transposed": True}),
    ("Your LayerNorm divides by C - 1. The variance is the mean of the squares: divide by C.", {"unbiased": True}),
    ("In LayerNorm eps is added to the variance, before the root is taken.", {"eps_outside": True}),
    *((f"The eps of your LayerNorms is {eps:g}. In GPT-2 it is 1e-5.", {"eps": eps})
      for eps in (1e-3, 1e-4, 1e-6)),
    ("The eps of your LayerNorms is far smaller than GPT-2's, which is 1e-5.", {"eps": 1e-9}),
)

# The same for the text with a cache: (message, options of text).
CACHE_MISTAKES = (
    ("The positions of new tokens begin at 0 again. They continue after the tokens in the cache.", {"restarts": True}),
    ("Your mask ignores the cache: a new token sees the first key only. Row t of the new ones sees all keys of the "
     "cache and the new ones up to t: tril(all - new). (is_causal=True is meant for as many queries as keys.)",
     {"hides_cache": True}),
    ("You put new keys before those of the cache, but new values after them. Both come after.",
     {"ahead": (True, False)}),
    ("You put new values before those of the cache, but new keys after them. Both come after.",
     {"ahead": (False, True)}),
    *((message, {"kept": kept, "by_length": by_length}) for by_length in (False, True) for message, kept in (
        ("Your cache holds only the keys and values of the last step. Keep all of them.", "last step"),
        ("Your cache holds only the keys and values of the prompt. Add those of each new token.", "first step"))),
    *(("A new token sees no earlier one. Either the cache does not reach attention, or you put new keys and values "
       "before those of the cache (they come after), and the mask hides the rest.",
       {"is_read": False, "kept": "last step", "by_length": by_length}) for by_length in (False, True)),
    ("A new token sees no earlier one and begins at position 0: the cache does not reach the model.",
     {"is_read": False, "restarts": True}),
    ("All blocks read the cache of the first block. Each block needs its own.", {"is_shared": True}),
)
