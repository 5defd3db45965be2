"""Modules with a fused QKV matrix, other names, PyTorch's own attention, and the cache as a list that is changed."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers.course.capstone import Adapter


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_b = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, memory):
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm_a(x)).reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if memory is not None:
            memory.append((k, v))
            k, v = (torch.cat(parts, dim=2) for parts in zip(*memory))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        x = x + self.mix(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_b(x)), approximate="tanh"))


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.words, self.places = nn.Embedding(config.vocab_size, C), nn.Embedding(config.n_positions, C)
        self.layers = nn.ModuleList([Layer(C, config.n_head) for _ in range(config.n_layer)])
        self.last = nn.LayerNorm(C, eps=1e-5)
        self.apply(self.start)
        for layer in self.layers:
            for linear in (layer.mix, layer.down):
                linear.weight.data.normal_(0, 0.02 * (2 * config.n_layer) ** -0.5)

    @staticmethod
    def start(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0, 0.02)
        if isinstance(module, nn.Linear):
            module.bias.data.zero_()

    def forward(self, ids, targets=None, memories=None, start=0):
        x = self.words(ids) + self.places(torch.arange(start, start + ids.shape[1]))
        for i, layer in enumerate(self.layers):
            x = layer(x, None if memories is None else memories[i])
        scores = self.last(x) @ self.words.weight.T
        return scores if targets is None else F.cross_entropy(scores.transpose(1, 2), targets)


NAMES = {"norm_a": "ln_1", "qkv": "attn.c_attn", "mix": "attn.c_proj", "norm_b": "ln_2", "up": "mlp.c_fc",
         "down": "mlp.c_proj"}


def load(net, weights):
    own = {"words.weight": weights["transformer.wte.weight"], "places.weight": weights["transformer.wpe.weight"]}
    for kind in ("weight", "bias"):
        own[f"last.{kind}"] = weights[f"transformer.ln_f.{kind}"]
        for i in range(len(net.layers)):
            for mine, theirs in NAMES.items():
                own[f"layers.{i}.{mine}.{kind}"] = weights[f"transformer.h.{i}.{theirs}.{kind}"]
    net.load_state_dict(own)


@torch.inference_mode()
def generate(net, ids, n, use_cache=True):
    memories = [[] for _ in net.layers]
    for step in range(n):
        if not use_cache:
            scores = net(ids)
        elif step == 0:
            scores = net(ids, memories=memories)
        else:
            scores = net(ids[:, -1:], memories=memories, start=ids.shape[1] - 1)
        ids = torch.cat((ids, scores[:, -1].argmax(-1)[:, None]), dim=1)
    return ids


ADAPTER = Adapter(build=Net, loss=lambda net, ids, targets: net(ids, targets), load=load, generate=generate)
