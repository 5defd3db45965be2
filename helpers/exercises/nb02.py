"""Exercises of notebook 02: positions on the right device, stray tensors, an attention of one's own, tied weights."""

import contextlib
import math
import types

import torch
import torch.nn as nn

from helpers import attention
from helpers.exercises import Exercise, NotYet, needs_answer
from helpers.model import GPT, CausalSelfAttention, GPTConfig

SMALL = GPTConfig(vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=3)

# --- positions -------------------------------------------------------------------------------------------------------


def positions_for(ids):
    """ids (B, T) -> the positions 0 .. T - 1, (T,) int64, on the device of ids."""
    return torch.arange(ids.shape[1], device=ids.device)


def _test_positions(attempt):
    answer = needs_answer(attempt(torch.zeros(2, 5, dtype=torch.int64)))
    if tuple(answer.shape) != (5,):
        raise NotYet(f"For ids of shape (2, 5) the positions have the shape (5,); yours have {tuple(answer.shape)}.")
    if answer.tolist() != [0, 1, 2, 3, 4]:
        raise NotYet(f"The positions of five tokens are 0, 1, 2, 3, 4; yours are {answer.tolist()}.")
    there = attempt(torch.zeros(2, 5, dtype=torch.int64, device="meta"))
    if there.device.type != "meta":
        raise NotYet(f"With ids on the device meta your positions are on {there.device}. Ask ids for its device.")
    return "The ids decide where the positions are, so the same line runs on every machine."


# --- stray tensors ---------------------------------------------------------------------------------------------------


class LeakyNorm(nn.Module):
    """Part of LeakyEmbedding."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = torch.zeros(width)  # a plain tensor


class LeakyEmbedding(nn.Module):
    """A module with mistakes, for the exercise: not every tensor of it follows .to()."""

    def __init__(self, vocabulary, context, width):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.register_buffer("positions", torch.arange(context))
        self.scale = torch.ones(width)
        self.masks = [torch.ones(T, T).tril() for T in (4, 8)]
        self.norm = LeakyNorm(width)


def stray_tensors(module, device):
    """The dotted names of the attributes of a module and its submodules that hold a tensor on another device."""
    found = []
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            tensors = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(tensor, torch.Tensor) and tensor.device.type != device for tensor in tensors):
                found.append(f"{name}.{attribute}" if name else attribute)
    return found


def _test_strays(attempt):
    expected = set(stray_tensors(LeakyEmbedding(20, 8, 6).to("meta"), "meta"))
    answer = set(needs_answer(attempt(LeakyEmbedding(20, 8, 6).to("meta"), "meta")))
    if innocent := answer & {"wte.weight", "positions", "norm.gamma", "wte", "norm"}:
        raise NotYet(f"{sorted(innocent)} followed .to(): parameters, buffers and submodules do.")
    if strange := answer - expected:
        raise NotYet(f"There is no stray attribute {sorted(strange)}. Give dotted names, such as 'part.attribute'.")
    if missing := expected - answer:
        where = "in a submodule" if "norm.beta" in missing else "in a list" if "masks" in missing else "a plain one"
        raise NotYet(f"{len(missing)} of {len(expected)} stray attributes are not in your answer, one of them {where}.")
    if attempt(nn.Linear(2, 2), "cpu"):
        raise NotYet("nn.Linear(2, 2) on the CPU has no stray tensor, but your function finds one.")
    return "Registering them with register_buffer(name, tensor), each under a name of its own, makes them follow."


# --- an attention of one's own ---------------------------------------------------------------------------------------


def attention_forward(self, x):
    """x (B, T, C) -> (B, T, C), with self.c_attn, self.c_proj and self.n_head."""
    B, T, C = x.shape
    hs = C // self.n_head
    q, k, v = self.c_attn(x).chunk(3, dim=-1)  # three times (B, T, C)
    q, k, v = (part.view(B, T, self.n_head, hs).transpose(1, 2) for part in (q, k, v))  # (B, nh, T, hs)
    scores = q @ k.transpose(-2, -1) / math.sqrt(hs)  # (B, nh, T, T)
    later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)  # True above the diagonal
    weights = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    merged = (weights @ v).transpose(1, 2).reshape(B, T, C)
    return self.c_proj(merged)


def mistaken_attention(module, x, masked=True, divide_by=None, project=True):
    """What an attention with one typical mistake gives, so that the check can name the mistake."""
    q, k, v = (attention.split_heads(part, module.n_head) for part in module.c_attn(x).chunk(3, dim=-1))
    scores = q @ k.transpose(-2, -1) / (divide_by or math.sqrt(q.shape[-1]))
    merged = attention.merge_heads((attention.apply_causal_mask(scores) if masked else scores).softmax(-1) @ v)
    return module.c_proj(merged) if project else merged


def _test_attention(attempt):
    torch.manual_seed(0)
    module = CausalSelfAttention(SMALL)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 7, SMALL.n_embd, requires_grad=True)
    answer, right = needs_answer(attempt(module, x)), module(x)
    if answer.shape != x.shape:
        raise NotYet(f"x has the shape {tuple(x.shape)}, and so must the result; yours has {tuple(answer.shape)}.")
    mistakes = {
        "Your tokens look at later ones. Put -inf above the diagonal, before the softmax.": {"masked": False},
        "The scores are not divided by sqrt(hs), so the softmax is too sharp.": {"divide_by": 1.0},
        "You divide by sqrt(C). Each head has only hs = C / nh numbers: divide by sqrt(hs).": {
            "divide_by": math.sqrt(SMALL.n_embd)
        },
        "The heads are right. Now mix what they found: self.c_proj comes last.": {"project": False},
    }
    for message, changes in mistakes.items():
        if torch.allclose(answer, mistaken_attention(module, x, **changes), atol=1e-4):
            raise NotYet(message)
    if not torch.allclose(answer, right, atol=1e-4):
        raise NotYet(
            f"The largest difference from the reference is {(answer - right).abs().max():.2g}. Print the shape "
            "after each step: view(B, T, nh, hs) comes before transpose(1, 2); merging undoes both in reverse order."
        )
    if not answer.requires_grad:
        raise NotYet("The numbers are right, but no gradient flows back. Stay with torch operations, without detach.")
    try:
        attempt(CausalSelfAttention(SMALL).to("meta"), torch.zeros(1, 3, SMALL.n_embd, device="meta"))
    except Exception as error:
        raise NotYet(
            f"The numbers are right on the CPU. On a second device it stops: {error} "
            "Create the mask with device=x.device."
        ) from None
    return "It equals the helper's, lets gradients through, and runs wherever x is."


@contextlib.contextmanager
def own_attention(model, forward):
    """Inside the context every block of a model uses the learner's forward(self, x), if it passes the check.

    Yields whose forward runs, in words. Generation with a key/value cache keeps the helper's forward.
    """
    try:
        _test_attention(forward)
        own = True
    except Exception:  # whatever a learner's code may raise
        own = False
    layers = [block.attn for block in model.transformer.h] if own else []
    for layer in layers:
        helper = layer.forward

        def patched(self, x, cache=None, helper=helper):
            return forward(self, x) if cache is None else helper(x, cache)

        layer.forward = types.MethodType(patched, layer)
    try:
        yield "your own forward" if own else "the helper's forward (yours does not pass its check yet)"
    finally:
        for layer in layers:
            del layer.forward  # the class's forward is visible again


# --- tied weights ----------------------------------------------------------------------------------------------------


def tie(model):
    """Makes the unembedding of a GPT the same Parameter as its token embedding, and returns the model."""
    model.lm_head.weight = model.transformer.wte.weight
    return model


def _test_tie(attempt):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**vars(SMALL), "tie_word_embeddings": False}))
    before = sum(p.numel() for p in model.parameters())
    model = needs_answer(attempt(model))
    embedding, head = model.transformer.wte.weight, model.lm_head.weight
    saved = SMALL.vocab_size * SMALL.n_embd
    if embedding is not head:
        if not torch.equal(embedding, head):
            raise NotYet("The two weights do not even hold the same numbers.")
        what = "share their memory" if embedding.data_ptr() == head.data_ptr() else "hold the same numbers for now"
        raise NotYet(f"The two weights {what}, but they are two Parameters. Assign the Parameter itself.")
    if sum(p.numel() for p in model.parameters()) != before - saved:
        raise NotYet(f"The number of parameters should fall by {saved}, one matrix of vocabulary x width.")
    model(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)).backward()
    if embedding.grad is None:
        raise NotYet("The shared matrix gets no gradient. Assign the Parameter, not a tensor computed from it.")
    return f"One Parameter under two names: {saved:,} numbers fewer in this small model."


positions = Exercise("Positions on the right device", 1, 3, "torch.arange takes device=; the ids know theirs.",
                     _test_positions, positions_for)
strays = Exercise(
    "Find the stray tensors", 2, 10,
    "Loop over module.named_modules(), and for each part over vars(part).items(). An attribute can be a tensor, or a "
    "list of tensors. Compare tensor.device.type with device. The module itself has the name ''.",
    _test_strays, stray_tensors,
)
attend = Exercise(
    "Your own CausalSelfAttention.forward", 3, 20,
    "Section 2 has every step. Take B, T, C from x.shape; self.c_attn(x) replaces x @ W + b; split it in three, then "
    "into heads; scores, mask (made with device=x.device), softmax, times v; merge the heads; self.c_proj.",
    _test_attention, attention_forward,
)
tied = Exercise("Tie the weights", 1, 3, "A module's weight is an attribute: one assignment, nothing is copied.",
                _test_tie, tie)
