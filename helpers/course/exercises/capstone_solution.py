"""A solution of the capstone (notebook 11): GPT-2 with a cache, from a blank file. It is not the course's own model."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    """(B, T, C) -> (B, T, C); every token sees itself and earlier ones."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, past=None):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=-1))
        if past:  # keys and values of earlier tokens, (B, nh, before, hs) each
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, nh, T, before + T)
        allowed = torch.ones(T, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - T)
        z = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1) @ v  # (B, nh, T, hs)
        return self.c_proj(z.transpose(1, 2).reshape(B, T, C)), (k, v)


class Block(nn.Module):
    """(B, T, C) -> (B, T, C): attention and the MLP, each added to the residual stream."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(C), Attention(config), nn.LayerNorm(C)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(C, 4 * C), "c_proj": nn.Linear(4 * C, C)})

    def forward(self, x, past=None):
        z, present = self.attn(self.ln_1(x), past)
        x = x + z
        h = F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh")  # (B, T, 4C)
        return x + self.mlp.c_proj(h), present


class GPT2(nn.Module):
    """GPT-2 with the names that the adapter expects."""

    def __init__(self, config):
        super().__init__()
        self.n_positions, C = config.n_positions, config.n_embd
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, C), "wpe": nn.Embedding(config.n_positions, C),
            "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)), "ln_f": nn.LayerNorm(C)})
        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight  # one tensor with two jobs
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                adds_to_stream = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer) if adds_to_stream else 0.02)

    def run(self, ids, cache=None):
        """ids (B, T) after those that the cache holds -> logits (B, T, V), and the cache with these ids."""
        start = cache[0][0].shape[2] if cache else 0
        if start + ids.shape[1] > self.n_positions:
            raise ValueError(f"{start + ids.shape[1]} tokens do not fit into {self.n_positions} positions.")
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x, presents = self.transformer.wte(ids) + self.transformer.wpe(positions), []  # (B, T) -> (B, T, C)
        for i, block in enumerate(self.transformer.h):
            x, present = block(x, cache[i] if cache else None)
            presents.append(present)
        return self.lm_head(self.transformer.ln_f(x)), presents

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, V)."""
        return self.run(ids)[0]

    def loss(self, ids, targets):
        """The mean cross-entropy in nats."""
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    def load(self, weights):
        """Copies GPT-2's weights: the names are the same."""
        self.load_state_dict(weights)

    def generate(self, ids, n, use_cache=True):
        """The most likely continuation: (B, T) -> (B, T + n)."""
        new, cache = ids, None
        with torch.no_grad():
            for _ in range(n):
                logits, cache = self.run(new, cache) if use_cache else (self(ids), None)
                new = logits[:, -1:].argmax(dim=-1)  # (B, 1)
                ids = torch.cat([ids, new], dim=1)
        return ids
