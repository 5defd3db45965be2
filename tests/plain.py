"""GPT-2 from raw tensors, with nothing fused, cached or compiled. Every faster path is compared with it."""

import math

import torch

from helpers import attention
from tests.small import TINY

SHAPES = [(1, 1), (3, 1), (1, 7), (3, 7), (2, TINY.n_positions)]  # (B, T)


def batch(rows, length):
    """Random inputs and targets, each (rows, length), always the same."""
    ids = torch.randint(TINY.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(7))
    return ids[:, :-1], ids[:, 1:]


def plain_norm(x, norm):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def plain_logits(model, ids):
    """(B, T) -> (B, T, V)."""
    x = model.transformer.wte.weight[ids] + model.transformer.wpe.weight[: ids.shape[1]]
    for block in model.transformer.h:
        c_attn, c_proj = block.attn.c_attn, block.attn.c_proj
        weights = c_attn.weight, c_attn.bias, c_proj.weight, c_proj.bias
        x = x + attention.multi_head_attention(plain_norm(x, block.ln_1), *weights, block.attn.n_head)
        h = plain_norm(x, block.ln_2) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias
    return plain_norm(x, model.transformer.ln_f) @ model.transformer.wte.weight.T


def plain_loss(model, ids, targets):
    log_p = torch.log_softmax(plain_logits(model, ids), dim=-1)
    return -log_p.gather(-1, targets[..., None]).mean()


def plain_text(model, ids, new):
    """The most likely continuation: (B, T) -> (B, T + new)."""
    for _ in range(new):
        best = plain_logits(model, ids[:, -model.config.n_positions :])[:, -1].argmax(dim=-1)
        ids = torch.cat([ids, best[:, None]], dim=1)
    return ids


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=2e-5)
