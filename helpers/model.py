"""Model 5: all of GPT-2 in one file that reads from top to bottom. Notebook 02 builds it step by step.

The same letters everywhere: B sequences in a batch, T tokens in a sequence, C = n_embd elements in a token's vector,
V tokens in the vocabulary, nh attention heads, hs = C / nh elements per head.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, and OpenAI's released GPT-2.
The parameter names are GPT-2's own, so they match Hugging Face's one to one.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers.loss import IGNORED, chunked_cross_entropy
from helpers.machine import settings
from helpers.machine.inputs import check_ids

SIZES = {  # OpenAI's four models
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2. The defaults are GPT-2 small, which the course calls Model 5 (notebook 02).

    The names are Hugging Face's. Raises ValueError when no model can have this shape.
    """

    vocab_size: int = 50257  # V, the number of different tokens
    n_positions: int = 1024  # the context: the longest sequence, in tokens
    n_embd: int = 768  # C, the width of the residual stream
    n_layer: int = 12  # the number of blocks
    n_head: int = 12  # nh, the attention heads of each block
    dropout: float = 0.0  # probability of zeroing an activation, in training only
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True  # one matrix embeds the tokens and scores the next one

    def __post_init__(self):
        settings.whole_numbers(self, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        settings.numbers(self, "dropout", low=0, below=1)
        settings.numbers(self, "layer_norm_epsilon", above=0)
        settings.choices(self, "tie_word_embeddings", (True, False))
        if self.n_embd % self.n_head:
            raise ValueError(f"GPTConfig(n_embd={self.n_embd}, n_head={self.n_head}): n_embd must be divisible by "
                             f"n_head. Try n_embd={math.ceil(self.n_embd / self.n_head) * self.n_head}.")

    @classmethod
    def named(cls, name, **changes):
        """The configuration of one of OpenAI's four models: "gpt2", "gpt2-medium", "gpt2-large" or "gpt2-xl".

        changes replace single fields. Raises ValueError for any other name.
        """
        if name not in tuple(SIZES):
            raise ValueError(f"GPTConfig.named({name!r}): there is no such GPT-2. Choose one of {', '.join(SIZES)}.")
        return cls(**{**SIZES[name], **changes})


class CausalSelfAttention(nn.Module):
    """Every token gathers information from itself and from the tokens before it (notebooks 01 and 02)."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # Q, K and V of all heads in one matrix
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)  # W0: mixes the heads' results

    def forward(self, x, cache=None):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, C) -> (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # -> three times (B, nh, T, hs)
        mask = None
        if cache is not None:
            k, v, mask = cache.append(k, v)  # (B, nh, T, hs) -> (B, nh, all tokens so far, hs)
        y = F.scaled_dot_product_attention(  # softmax(q k' / sqrt(hs) + mask) v
            q, k, v, attn_mask=mask,
            is_causal=cache is None or T > 1,  # a single new token may look at everything in the cache
            dropout_p=self.dropout if self.training else 0.0,
        )
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, nh, T, hs) -> (B, T, C)
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    """Processes each token on its own: four times wider, a GELU, and back (notebook 02)."""

    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, C) -> (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """One transformer block: attention, then the MLP. Each reads a normalised input and adds its result to the
    residual stream (notebook 02)."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):
        x_att = x + self.attn(self.ln_1(x), cache)  # (B, T, C)
        x_ff = x_att + self.mlp(self.ln_2(x_att))  # (B, T, C)
        return x_ff


class GPT(nn.Module):
    """GPT-2 (notebook 02). It runs wherever its tensors are: CPU, CUDA, MPS, or `meta` for counting only.

    model(ids)           ids (B, T) int64 -> logits (B, T, V), the score of every token as the next one
    model(ids, targets)  targets (B, T) int64 -> mean cross-entropy in nats, a scalar; a target of -100 does not count
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.n_embd),  # a vector for each token
            "wpe": nn.Embedding(config.n_positions, config.n_embd),  # a vector for each position
            "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            "ln_f": nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
        })
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight  # the same Parameter, not a copy of it

        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("c_proj.weight"):  # two per block add to the residual stream: keep their sum small
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))
            elif parameter.ndim == 2:  # matrices; the weights of the LayerNorms stay at 1
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets=None, cache=None, last_only=False):
        """Scores the next token, or computes the loss when targets are given.

        cache: a helpers.generation.KeyValueCache; ids are then only the tokens that it does not hold yet.
        last_only: logits (B, 1, V) of the last position alone, which is all that generation needs.
        Raises ValueError for ids of a wrong shape, type, length, device or (on a CPU) range.
        """
        start = 0 if cache is None else cache.length
        look = self.lm_head.weight.device.type == "cpu" and not torch.compiler.is_compiling()
        check_ids(ids, "ids", self.config, start, look, self.lm_head.weight.device)
        # (T,), on the ids' own device. cache.position equals start, but is a tensor in a recorded decoding step.
        positions = torch.arange(ids.shape[1], device=ids.device) + (0 if cache is None else cache.position)

        x = self.transformer.wte(ids) + self.transformer.wpe(positions)  # (B, T) and (T,) -> (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.transformer.h):
            x = block(x, None if cache is None else cache.layer(i))  # (B, T, C) -> (B, T, C)
        if cache is not None:
            cache.advance(ids.shape[1])  # only now: a pass that is interrupted has added nothing
        if last_only:
            x = x[:, -1:]  # (B, T, C) -> (B, 1, C)
        x = self.transformer.ln_f(x)

        if targets is None:
            return self.lm_head(x)  # (B, T, C) -> (B, T, V)
        check_ids(targets, "targets", self.config, start, look, ids.device, IGNORED)
        if targets.shape != ids.shape:
            raise ValueError(f"targets {tuple(targets.shape)}, ids {tuple(ids.shape)}: expected one target per id.")
        return chunked_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten())  # (B*T, C) -> ()
