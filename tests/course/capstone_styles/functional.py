"""No nn.Module: a dictionary of tensors in (in, out) layout, functions, and a training loop by gradients."""

import math
from types import SimpleNamespace

import torch

from helpers.course.capstone import Adapter

MATRICES = {"w_q": ("C", "C"), "w_k": ("C", "C"), "w_v": ("C", "C"), "w_o": ("C", "C"), "w_1": ("C", "D"),
            "w_2": ("D", "C")}


def build(config):
    C, L = config.n_embd, config.n_layer
    size, p = {"C": C, "D": 4 * C}, {}
    p["wte"] = 0.02 * torch.randn(config.vocab_size, C)
    p["wpe"] = 0.02 * torch.randn(config.n_positions, C)
    for i in range(L):
        for name, (rows, columns) in MATRICES.items():
            std = 0.02 / math.sqrt(2 * L) if name in ("w_o", "w_2") else 0.02
            p[f"{i}.{name}"] = std * torch.randn(size[rows], size[columns])
            p[f"{i}.b{name[1:]}"] = torch.zeros(size[columns])
        for name in ("g_1", "g_2"):
            p[f"{i}.{name}"], p[f"{i}.beta{name[1:]}"] = torch.ones(C), torch.zeros(C)
    p["g"], p["beta"] = torch.ones(C), torch.zeros(C)
    for tensor in p.values():
        tensor.requires_grad_()
    return SimpleNamespace(p=p, L=L, nh=config.n_head, hs=C // config.n_head)


def norm(x, gamma, beta):
    mean = x.mean(-1, keepdim=True)
    return gamma * (x - mean) * torch.rsqrt((x - mean).square().mean(-1, keepdim=True) + 1e-5) + beta


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(m, i, x, past):
    B, T, C = x.shape
    q, k, v = ((x @ m.p[f"{i}.w_{c}"] + m.p[f"{i}.b_{c}"]).view(B, T, m.nh, m.hs).transpose(1, 2) for c in "qkv")
    if past is not None and i in past:
        k, v = torch.cat([past[i][0], k], 2), torch.cat([past[i][1], v], 2)
    if past is not None:
        past[i] = k, v
    rows, columns = torch.arange(k.shape[2] - T, k.shape[2])[:, None], torch.arange(k.shape[2])
    scores = torch.where(columns <= rows, q @ k.mT / math.sqrt(m.hs), torch.tensor(-torch.inf))
    z = torch.exp(scores - scores.amax(-1, keepdim=True))
    z = (z / z.sum(-1, keepdim=True)) @ v
    return z.transpose(1, 2).reshape(B, T, C) @ m.p[f"{i}.w_o"] + m.p[f"{i}.b_o"]


def logits(m, ids, past=None):
    start = past[0][0].shape[2] if past else 0
    if start + ids.shape[1] > len(m.p["wpe"]):
        raise ValueError("too long")
    x = m.p["wte"][ids] + m.p["wpe"][start : start + ids.shape[1]]
    for i in range(m.L):
        x = x + attend(m, i, norm(x, m.p[f"{i}.g_1"], m.p[f"{i}.beta_1"]), past)
        h = gelu(norm(x, m.p[f"{i}.g_2"], m.p[f"{i}.beta_2"]) @ m.p[f"{i}.w_1"] + m.p[f"{i}.b_1"])
        x = x + h @ m.p[f"{i}.w_2"] + m.p[f"{i}.b_2"]
    return norm(x, m.p["g"], m.p["beta"]) @ m.p["wte"].T


def loss(m, ids, targets):
    scores = logits(m, ids)
    return (scores.logsumexp(-1) - scores.gather(-1, targets[..., None])[..., 0]).mean()


def train(m, ids, targets, steps, rate):
    """Gradient descent with the squared gradients' mean in the denominator, by hand."""
    squares = {name: torch.zeros_like(tensor) for name, tensor in m.p.items()}
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(m, ids, targets), list(m.p.values()))
        with torch.no_grad():
            for (name, tensor), gradient in zip(m.p.items(), gradients):
                squares[name].mul_(0.9).add_(0.1 * gradient**2)
                tensor -= rate * gradient / (squares[name].sqrt() + 1e-8)
    return loss(m, ids, targets).item()


def load(m, weights):
    def put(name, tensor):
        m.p[name].data.copy_(tensor)

    put("wte", weights["transformer.wte.weight"]), put("wpe", weights["transformer.wpe.weight"])
    put("g", weights["transformer.ln_f.weight"]), put("beta", weights["transformer.ln_f.bias"])
    for i in range(m.L):
        theirs = f"transformer.h.{i}."
        for kind, mine in (("weight", "w"), ("bias", "b")):
            for c, part in zip("qkv", weights[f"{theirs}attn.c_attn.{kind}"].chunk(3)):
                put(f"{i}.{mine}_{c}", part.T if kind == "weight" else part)
            for name, c in (("attn.c_proj", "o"), ("mlp.c_fc", "1"), ("mlp.c_proj", "2")):
                tensor = weights[f"{theirs}{name}.{kind}"]
                put(f"{i}.{mine}_{c}", tensor.T if kind == "weight" else tensor)
        for c in "12":
            put(f"{i}.g_{c}", weights[f"{theirs}ln_{c}.weight"]), put(f"{i}.beta_{c}", weights[f"{theirs}ln_{c}.bias"])


def generate(m, ids, n, use_cache=True):
    past = {} if use_cache else None
    with torch.no_grad():
        for _ in range(n):
            new = ids[:, past[0][0].shape[2] :] if past else ids
            ids = torch.cat([ids, logits(m, new, past)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


ADAPTER = Adapter(build, parameters=lambda m: list(m.p.values()), logits=logits, loss=loss, load=load,
                  generate=generate)
