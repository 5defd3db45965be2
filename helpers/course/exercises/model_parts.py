"""Solutions of notebook 02: GPT-2 part by part, with nothing hidden in a library's function that the exercise asks for.

The parameter names are GPT-2's own, so that the weights of helpers.model.GPT fit. Dropout is left out.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class LayerNorm(nn.Module):
    """Gives each token's vector mean 0 and variance 1, then scales by gamma (weight) and shifts by beta (bias)."""

    def __init__(self, width, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)  # (B, T, 1): one for each token
        variance = x.var(-1, keepdim=True, unbiased=False)  # divided by C, not by C - 1
        return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


def embeddings(wte, wpe, ids):
    """ids (B, T) -> the sum of the tokens' and the positions' vectors, (B, T, C), on the device of the ids."""
    positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
    return wte(ids) + wpe(positions)  # (B, T, C) and (T, C) -> (B, T, C)


class Attention(nn.Module):
    """Causal self-attention: x (B, T, C) -> (B, T, C)."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x):
        B, T, C = x.shape
        hs = C // self.n_head
        q, k, v = self.c_attn(x).chunk(3, dim=-1)  # three times (B, T, C)
        q, k, v = (part.view(B, T, self.n_head, hs).transpose(1, 2) for part in (q, k, v))  # (B, nh, T, hs)
        scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, nh, T, T)
        later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # True above the diagonal
        weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
        merged = (weights @ v).transpose(1, 2).reshape(B, T, C)
        return self.c_proj(merged)


class MLP(nn.Module):
    """Four times wider, a GELU, and back: x (B, T, C) -> (B, T, C), each token on its own."""

    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then the MLP. Each reads a normalised input and adds its result to the residual stream."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x):
        x_att = x + self.attn(self.ln_1(x))
        x_ff = x_att + self.mlp(self.ln_2(x_att))
        return x_ff


class GPT(nn.Module):
    """ids (B, T) -> logits (B, T, V); with targets (B, T) -> the mean cross-entropy in nats."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            "wpe": nn.Embedding(config.n_positions, config.n_embd),
            "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
            "ln_f": LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
        })
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layer))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids, targets=None):
        x = embeddings(self.transformer.wte, self.transformer.wpe, ids)
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def attend_with_cache(q, k, v, keys, values):
    """Attention of one new token. q, k, v (B, nh, 1, ...) are its own; keys, values (B, nh, t, ...) those before it.

    Returns the result (B, nh, 1, ...) and the keys and values with the new token's, (B, nh, t + 1, ...).
    """
    keys = torch.cat([keys, k], dim=-2)
    values = torch.cat([values, v], dim=-2)
    scores = q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, nh, 1, t + 1): nothing lies in the future
    return scores.softmax(dim=-1) @ values, keys, values


def tie_and_count(model):
    """Makes the unembedding of a GPT the same Parameter as its token embedding. Returns the model, and how many
    parameters fewer it has now."""
    before = sum(parameter.numel() for parameter in model.parameters())
    model.lm_head.weight = model.transformer.wte.weight
    after = sum(parameter.numel() for parameter in model.parameters())
    return model, before - after
