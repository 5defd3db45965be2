"""Attention, one readable step at a time: the reference that Model 5's fast path is tested against (notebooks 01, 02).

Letters as in model.py: B sequences, T tokens, C elements per token, nh heads, hs = C / nh elements per head.
Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
"""

import math

import torch


def split_heads(x, n_head):
    """(B, T, C) -> (B, nh, T, hs): gives each head its own slice of every token's vector."""
    B, T, C = x.shape
    if C % n_head:
        raise ValueError(
            f"A width of {C} cannot be split among {n_head} heads: it must be divisible by their number."
        )
    return x.view(B, T, n_head, C // n_head).transpose(1, 2)


def merge_heads(x):
    """(B, nh, T, hs) -> (B, T, C): concatenates the heads' results again."""
    B, nh, T, hs = x.shape
    return x.transpose(1, 2).reshape(B, T, nh * hs)


def attention_scores(q, k):
    """How well each query fits each key: q, k (..., T, hs) -> (..., T, T), scaled by 1 / sqrt(hs).

    hs is the width of one head. Without the division the scores' spread grows as sqrt(hs) and softmax saturates.
    """
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def apply_causal_mask(scores):
    """scores (..., T, T) -> the same with -inf wherever a token would attend to a later one."""
    T = scores.shape[-1]
    allowed = torch.ones(T, T, dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~allowed, float("-inf"))


def attention_weights(q, k):
    """The attention map: q, k (..., T, hs) -> (..., T, T). Each row is a probability distribution over the past."""
    return torch.softmax(apply_causal_mask(attention_scores(q, k)), dim=-1)


def attention(q, k, v):
    """One weighted average of the values per token: q, k, v (..., T, hs) -> (..., T, hs)."""
    return attention_weights(q, k) @ v


def multi_head_attention(x, w_qkv, b_qkv, w_0, b_0, n_head):
    """All of GPT-2's attention from raw tensors: x (B, T, C) -> (B, T, C).

    w_qkv (3C, C), b_qkv (3C,), w_0 (C, C), b_0 (C,), laid out as in nn.Linear: c_attn and c_proj of Model 5.
    """
    qkv = x @ w_qkv.T + b_qkv  # (B, T, C) -> (B, T, 3C)
    q, k, v = (split_heads(part, n_head) for part in qkv.chunk(3, dim=-1))  # three times (B, nh, T, hs)
    return merge_heads(attention(q, k, v)) @ w_0.T + b_0  # -> (B, T, C)


def attention_maps(model, ids):
    """The attention map of each head of a Model 5: ids (1, T) -> (L, nh, T, T) on the CPU (notebook 04).

    Of a batch (B, T) come (L * B, nh, T, T), layer by layer. The fused kernel never stores a map, so hooks collect each
    block's queries and keys, which are multiplied here.
    """
    collected = []

    def collect(module, inputs, qkv):
        collected.append(qkv.detach().float().cpu())  # (B, T, 3C)

    hooks = [block.attn.c_attn.register_forward_hook(collect) for block in model.transformer.h]
    try:
        model(ids, last_only=True)
    finally:
        for hook in hooks:
            hook.remove()
    q, k, _ = torch.cat(collected).chunk(3, dim=-1)  # three times (L * B, T, C)
    n_head = model.config.n_head
    return attention_weights(split_heads(q, n_head), split_heads(k, n_head))
