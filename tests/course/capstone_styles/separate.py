"""Separate Q, K and V for each head, einsum, an own LayerNorm, and a cache in buffers of a fixed size."""

import torch
from torch import einsum, nn
from torch.nn.functional import nll_loss

from helpers.course.capstone import Adapter


def normal(*shape, std=0.02):
    return nn.Parameter(torch.randn(*shape) * std)


class Norm(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(C)), nn.Parameter(torch.zeros(C))

    def forward(self, x):
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.gamma + self.beta


class Heads(nn.Module):
    def __init__(self, C, nh, P, std):
        super().__init__()
        self.P, hs = P, C // nh
        self.q, self.k, self.v = normal(nh, C, hs), normal(nh, C, hs), normal(nh, C, hs)
        self.b_q, self.b_k, self.b_v = (nn.Parameter(torch.zeros(nh, hs)) for _ in range(3))
        self.out, self.b_out = normal(nh, hs, C, std=std), nn.Parameter(torch.zeros(C))

    def forward(self, x, cache=None, start=0):
        q = einsum("btc,hcd->bthd", x, self.q) + self.b_q
        k = einsum("btc,hcd->bthd", x, self.k) + self.b_k
        v = einsum("btc,hcd->bthd", x, self.v) + self.b_v
        end = start + x.shape[1]
        if cache is not None:
            if not cache:
                cache["k"], cache["v"] = (k.new_zeros(len(k), self.P, *k.shape[2:]) for _ in range(2))
            cache["k"][:, start:end], cache["v"][:, start:end] = k, v
            k, v = cache["k"][:, :end], cache["v"][:, :end]
        scores = einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        future = torch.arange(end)[None, :] > torch.arange(start, end)[:, None]
        weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        return einsum("bhts,bshd,hdc->btc", weights, v, self.out) + self.b_out


class Feed(nn.Module):
    def __init__(self, C, std):
        super().__init__()
        self.wide, self.b_wide = normal(C, 4 * C), nn.Parameter(torch.zeros(4 * C))
        self.back, self.b_back = normal(4 * C, C, std=std), nn.Parameter(torch.zeros(C))
        self.gelu = nn.GELU(approximate="tanh")

    def forward(self, x):
        return self.gelu(x @ self.wide + self.b_wide) @ self.back + self.b_back


class Transformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, L = config.n_embd, config.n_layer
        std = 0.02 / (2 * L) ** 0.5
        self.E, self.P = normal(config.vocab_size, C), normal(config.n_positions, C)
        self.norms = nn.ModuleList(Norm(C) for _ in range(2 * L + 1))
        self.heads = nn.ModuleList(Heads(C, config.n_head, config.n_positions, std) for _ in range(L))
        self.feeds = nn.ModuleList(Feed(C, std) for _ in range(L))

    def forward(self, ids, caches=None, start=0):
        x = self.E[ids] + self.P[torch.arange(start, start + ids.shape[1])]
        for i, (heads, feed) in enumerate(zip(self.heads, self.feeds)):
            x = x + heads(self.norms[2 * i](x), caches[i] if caches else None, start)
            x = x + feed(self.norms[2 * i + 1](x))
        return einsum("btc,vc->btv", self.norms[-1](x), self.E)

    def loss(self, ids, targets):
        return nll_loss(self(ids).log_softmax(-1).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load(self, weights):
        w = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
        pairs = [(self.E, w["wte.weight"]), (self.P, w["wpe.weight"])]
        names = [f"h.{i}.ln_{j}" for i in range(len(self.heads)) for j in (1, 2)] + ["ln_f"]
        for norm, name in zip(self.norms, names):
            pairs += [(norm.gamma, w[name + ".weight"]), (norm.beta, w[name + ".bias"])]
        for i, (heads, feed) in enumerate(zip(self.heads, self.feeds)):
            nh, C, hs = heads.q.shape
            for part, matrix, bias in zip("qkv", w[f"h.{i}.attn.c_attn.weight"].split(C),
                                          w[f"h.{i}.attn.c_attn.bias"].split(C)):
                pairs.append((getattr(heads, part), matrix.reshape(nh, hs, C).transpose(1, 2)))
                pairs.append((getattr(heads, f"b_{part}"), bias.reshape(nh, hs)))
            pairs.append((heads.out, w[f"h.{i}.attn.c_proj.weight"].T.reshape(nh, hs, C)))
            pairs.append((heads.b_out, w[f"h.{i}.attn.c_proj.bias"]))
            pairs += [(feed.wide, w[f"h.{i}.mlp.c_fc.weight"].T), (feed.b_wide, w[f"h.{i}.mlp.c_fc.bias"]),
                      (feed.back, w[f"h.{i}.mlp.c_proj.weight"].T), (feed.b_back, w[f"h.{i}.mlp.c_proj.bias"])]
        for own, tensor in pairs:
            own.copy_(tensor)

    @torch.no_grad()
    def generate(self, ids, n, use_cache):
        caches, read = [{} for _ in self.heads] if use_cache else None, 0
        for _ in range(n):
            scores = self(ids[:, read:], caches, read)
            read = ids.shape[1] if use_cache else 0
            ids = torch.cat([ids, torch.argmax(scores[:, -1:], dim=2)], dim=1)
        return ids


ADAPTER = Adapter(build=Transformer)
