"""Written from the specification alone: a mask in a buffer, the cache as an attribute of each attention module."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers.course.capstone import Adapter


class MyAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.nh, self.hs = config.n_head, config.n_embd // config.n_head
        self.query, self.key, self.value, self.proj = (nn.Linear(config.n_embd, config.n_embd) for _ in range(4))
        mask = torch.tril(torch.ones(config.n_positions, config.n_positions))
        self.register_buffer("mask", mask, persistent=False)
        self.remembers, self.old = False, None

    def forward(self, x):
        B, T, C = x.size()
        q = self.query(x).view(B, T, self.nh, self.hs).transpose(1, 2)
        k = self.key(x).view(B, T, self.nh, self.hs).transpose(1, 2)
        v = self.value(x).view(B, T, self.nh, self.hs).transpose(1, 2)
        if self.remembers:
            if self.old is not None:
                k = torch.cat((self.old[0], k), dim=2)
                v = torch.cat((self.old[1], v), dim=2)
            self.old = (k, v)
        S = k.size(2)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.hs)
        scores = scores.masked_fill(self.mask[S - T:S, :S] == 0, float("-inf"))
        out = torch.matmul(F.softmax(scores, dim=-1), v)
        return self.proj(out.transpose(1, 2).contiguous().view(B, T, C))


class MyBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.att = MyAttention(config)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.mlp = nn.Sequential(nn.Linear(config.n_embd, 4 * config.n_embd), nn.GELU(approximate="tanh"),
                                 nn.Linear(4 * config.n_embd, config.n_embd))

    def forward(self, x):
        x_att = x + self.att(self.norm1(x))
        return x_att + self.mlp(self.norm2(x_att))


class MyGPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tok = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.Sequential(*[MyBlock(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.head.weight = self.tok.weight
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                torch.nn.init.normal_(module.weight, 0.0, 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        for block in self.blocks:
            torch.nn.init.normal_(block.att.proj.weight, 0.0, 0.02 / math.sqrt(2 * config.n_layer))
            torch.nn.init.normal_(block.mlp[2].weight, 0.0, 0.02 / math.sqrt(2 * config.n_layer))

    def forward(self, ids, first=0):
        assert first + ids.size(1) <= self.config.n_positions, "too long"
        x = self.tok(ids) + self.pos(torch.arange(first, first + ids.size(1)))
        return self.head(self.norm(self.blocks(x)))

    def loss(self, ids, targets):
        logits = self(ids)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))

    def load(self, weights):
        def fill(module, name):
            module.weight.data = weights[name + ".weight"].clone()
            module.bias.data = weights[name + ".bias"].clone()

        self.tok.weight.data = weights["transformer.wte.weight"].clone()
        self.pos.weight.data = weights["transformer.wpe.weight"].clone()
        fill(self.norm, "transformer.ln_f")
        C = self.config.n_embd
        for i, block in enumerate(self.blocks):
            name = f"transformer.h.{i}."
            fill(block.norm1, name + "ln_1")
            fill(block.norm2, name + "ln_2")
            fill(block.att.proj, name + "attn.c_proj")
            fill(block.mlp[0], name + "mlp.c_fc")
            fill(block.mlp[2], name + "mlp.c_proj")
            for j, layer in enumerate((block.att.query, block.att.key, block.att.value)):
                layer.weight.data = weights[name + "attn.c_attn.weight"][j * C:(j + 1) * C].clone()
                layer.bias.data = weights[name + "attn.c_attn.bias"][j * C:(j + 1) * C].clone()

    def generate(self, ids, n, use_cache=True):
        for block in self.blocks:
            block.att.remembers, block.att.old = use_cache, None
        with torch.no_grad():
            for i in range(n):
                first = ids.size(1) - 1 if use_cache and i > 0 else 0
                best = self(ids[:, first:], first)[:, -1, :].argmax(dim=-1, keepdim=True)
                ids = torch.cat((ids, best), dim=1)
        for block in self.blocks:
            block.att.remembers, block.att.old = False, None
        return ids


ADAPTER = Adapter(build=MyGPT)
