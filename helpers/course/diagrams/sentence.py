"""The six tokens of notebook 01, with its vectors and its heads made by hand: the pictures compute with them."""

import torch

from helpers import attention

WORDS = ["the", "ship", "crew", "was", "old", "so", "it", "sank", "slept"]  # the vocabulary; its order gives the ids
TEXT = ["the", "ship", "was", "old", "so", "it"]
T, C, V, HEADS, HEAD_SIZE = 6, 4, 9, 2, 2
IDS = torch.tensor([WORDS.index(word) for word in TEXT])  # (T,)
TARGETS = torch.tensor([WORDS.index(word) for word in [*TEXT[1:], "sank"]])  # (T,)
WTE = torch.tensor([  # (V, C): the elements are noun, event, ship or crew, position
    [-0.5, -0.25, 0, 0], [1, 0, 1, 0], [1, 0, -1, 0], [0, -0.5, 0, 0], [-0.5, -0.5, 0, 0], [0, 0.5, 0, 0],
    [0, 1, 0, 0], [0, 1.5, 1.5, 0], [0, 1.5, -1.5, 0]])
WPE = torch.tensor([[0, 0, 0, t / 5] for t in range(T)])  # (T, C)
W_Q = torch.tensor([[0.0, 4, 0, 0], [0, 0, 2, 0], [0, 0, 0, 4], [0, 0, 0, 0]])  # (C, C): two rows for each head
W_K = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 3], [0, 0, 0, 0]])
W_V = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
W_0 = torch.tensor([[0.0, 0, 0, -2], [0, 0, 2, -1], [2, 0, 0, 0], [0, 0, 0, 0]])


def vectors(ids=IDS):
    """The vectors of a sentence: ids (T,) -> (T, C)."""
    return WTE[ids] + WPE


def head(ids=IDS):
    """q, k and v of head 0, each (T, hs)."""
    return tuple(vectors(ids) @ w[:HEAD_SIZE].T for w in (W_Q, W_K, W_V))


def logits(ids=IDS):
    """The scores of the next token after attention with both heads: ids (T,) -> (T, V)."""
    q, k, v = (attention.split_heads(vectors(ids)[None] @ w.T, HEADS) for w in (W_Q, W_K, W_V))
    return (attention.merge_heads(attention.attention(q, k, v)) @ W_0.T @ WTE.T)[0]
