"""Model 5: the complete GPT-2 in one file that reads from top to bottom. Notebook 02 builds it step by step.

One set of letters everywhere: B sequences in the batch, T tokens in a sequence, C = n_embd numbers per token,
V tokens in the vocabulary, nh attention heads, hs = C / nh numbers per head.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, and OpenAI's released GPT-2.
The parameter names are GPT-2's own, so they line up with Hugging Face's one to one.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

ROWS_AT_ONCE = {"cuda": 2048, "other": 256}  # logits that the loss makes at once: more keep a GPU busy
SIZES = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2. The defaults are GPT-2 small, which the course calls Model 5 (notebook 02).

    The names are Hugging Face's. Raises ValueError when the numbers cannot make a model.
    """

    vocab_size: int = 50257  # V, the number of different tokens
    n_positions: int = 1024  # the context: the longest sequence, in tokens
    n_embd: int = 768  # C, the width of the residual stream
    n_layer: int = 12  # the number of blocks
    n_head: int = 12  # nh, the attention heads of each block
    dropout: float = 0.0  # probability of zeroing a number, in training only (GPT-2 was trained with 0.1)
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True  # one matrix embeds the tokens and scores the next one

    def __post_init__(self):
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"GPTConfig({name}={value!r}): a whole number of at least 1 was expected.")
        if self.n_embd % self.n_head:
            best = -(-self.n_embd // self.n_head) * self.n_head
            raise ValueError(f"GPTConfig(n_embd={self.n_embd}, n_head={self.n_head}): all heads are equally wide, so "
                             f"n_embd must be divisible by n_head. Try n_embd={best}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GPTConfig(dropout={self.dropout!r}): a probability from 0 up to, not including, 1 "
                             "was expected.")

    @classmethod
    def named(cls, name, **changes):
        """The configuration of one of OpenAI's four models: "gpt2", "gpt2-medium", "gpt2-large" or "gpt2-xl".

        changes replace single fields. Raises ValueError for another name.
        """
        if name not in SIZES:
            raise ValueError(f"GPTConfig.named({name!r}): there is no such GPT-2. Choose one of {', '.join(SIZES)}.")
        return cls(**{**SIZES[name], **changes})


class CausalSelfAttention(nn.Module):
    """Every token gathers information from itself and from the tokens before it (notebooks 01 and 02)."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # Q, K and V of all heads in one matrix
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)  # W0: mixes what the heads have found

    def forward(self, x, cache=None):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, C) -> (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # -> three times (B, nh, T, hs)
        mask = None
        if cache is not None:
            k, v, mask = cache.append(k, v)  # (B, nh, T, hs) -> (B, nh, all tokens so far, hs)
        y = F.scaled_dot_product_attention(  # softmax(q k' / sqrt(hs) + mask) v
            q, k, v, attn_mask=mask,
            is_causal=cache is None or T > 1,  # one new token may look at everything that is in the cache
            dropout_p=self.dropout if self.training else 0.0,
        )
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, nh, T, hs) -> (B, T, C)
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    """Each token is processed on its own: four times wider, a GELU, and back (notebook 02)."""

    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, C) -> (B, T, 4C)
        return F.dropout(self.c_proj(x), self.dropout, self.training)  # (B, T, 4C) -> (B, T, C)


class Block(nn.Module):
    """One transformer block: attention, then MLP, each normalised before and added to what came in (notebook 02)."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):
        x_att = x + self.attn(self.ln_1(x), cache)  # (B, T, C)
        x_ff = x_att + self.mlp(self.ln_2(x_att))  # (B, T, C)
        return x_ff


class GPT(nn.Module):
    """GPT-2 (notebook 02). It runs wherever its tensors are: CPU, CUDA, MPS, or `meta` for counting only.

    model(ids)           ids (B, T) int64 -> logits (B, T, V), the score of every token as the next one
    model(ids, targets)  targets (B, T) int64 -> mean cross-entropy in nats, a scalar
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        with torch.device("meta"):  # shapes only: _initialise draws the numbers, each of them once
            self.transformer = nn.ModuleDict({
                "wte": _embedding(config.vocab_size, config.n_embd),  # what each token is
                "wpe": _embedding(config.n_positions, config.n_embd),  # where it stands
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon),
            })
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        (self.transformer if config.tie_word_embeddings else self).to_empty(device=torch.get_default_device())
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight  # the same Parameter, not a copy of it
        self._initialise()

    @torch.no_grad()
    def _initialise(self):
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:  # LayerNorm
                parameter.fill_(1.0)
            elif name.endswith("c_proj.weight"):  # two projections per block add to the residual stream
                parameter.normal_(std=0.02 / math.sqrt(2 * self.config.n_layer))
            else:
                parameter.normal_(std=0.02)

    def forward(self, ids, targets=None, cache=None, last_only=False):
        """Scores the next token, or measures the loss when targets are given.

        cache: a helpers.generation.KeyValueCache; ids are then only the tokens that it has not seen yet.
        last_only: logits (B, 1, V) of the last position alone, which is all that generation needs.
        Raises ValueError for ids of a wrong shape, type, length, device or (on a CPU) range.
        """
        start = 0 if cache is None else cache.length
        look = ids.device.type == "cpu" and not torch.compiler.is_compiling()
        check_ids(ids, "ids", self.config, start, look, self.lm_head.weight.device)
        # (T,), on the ids' own device. A cache's position is the same as start, but a tensor in a recorded step.
        positions = torch.arange(ids.shape[1], device=ids.device) + (0 if cache is None else cache.position)

        x = self.transformer.wte(ids) + self.transformer.wpe(positions)  # (B, T) and (T,) -> (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.transformer.h):
            x = block(x, None if cache is None else cache.layers[i])  # (B, T, C) -> (B, T, C)
        if last_only:
            x = x[:, -1:]  # (B, T, C) -> (B, 1, C)
        x = self.transformer.ln_f(x)

        if targets is None:
            return self.lm_head(x)  # (B, T, C) -> (B, T, V)
        check_ids(targets, "targets", self.config, start, look, ids.device)
        if targets.shape != ids.shape:
            raise ValueError(f"targets have the shape {tuple(targets.shape)}, but ids {tuple(ids.shape)}: "
                             "give one target per id.")
        return chunked_cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten())  # (B*T, C) -> ()


def _embedding(rows, width):
    """An nn.Embedding (rows, width) without numbers. Its own constructor would draw some, and on "meta" that alone
    imports the machinery of torch.compile, which takes seconds."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


def check_ids(ids, name, config, start=0, look=True, device=None):
    """Raises ValueError unless ids are (B, T) whole numbers that a model, on a device, can read after `start` others.

    look: also look at the values. On a GPU that would make the CPU wait, so forward() looks only on a CPU; train() and
    generate() look once, before they start.
    """
    if ids.ndim != 2 or ids.dtype != torch.int64:
        raise ValueError(
            f"{name} have the shape {tuple(ids.shape)} and the type {ids.dtype}; (B, T) of torch.int64 was expected. "
            f"A single sequence becomes a batch of one with {name}[None]."
        )
    if device is not None and ids.device != device:
        raise ValueError(
            f"{name} are on {ids.device}, the model is on {device}. Give it {name}.to(device), or move it with "
            "model.to(device): all must be on the same device."
        )
    if not 1 <= ids.shape[1] <= config.n_positions - start:
        raise ValueError(
            f"{name} hold {start + ids.shape[1]} tokens per sequence; this model reads 1 to {config.n_positions} "
            f"(n_positions). Keep the last ones: {name}[:, -{config.n_positions}:]."
        )
    if look and ids.numel():
        low, high = ids.min().item(), ids.max().item()
        if low < 0 or high >= config.vocab_size:
            raise ValueError(
                f"{name} run from {low} to {high}; this model knows 0 to {config.vocab_size - 1} "
                f"(vocab_size {config.vocab_size}). Was the text encoded with another tokenizer?"
            )


def chunked_cross_entropy(x, weight, targets, rows=None):
    """Mean cross-entropy of the logits x @ weight.T, a few rows at a time (notebooks 03 and 07).

    x (N, C), weight (V, C), targets (N,) int64 -> a scalar in nats. The N x V logits are the largest tensor of a
    training step. Here at most `rows` of them exist at once (default: ROWS_AT_ONCE), and nothing is computed twice:
    each piece's share of the gradient is taken at once, since that of a cross-entropy is known in advance.
    F.linear_cross_entropy of torch 2.13 follows the same idea. The loss can be differentiated once, not twice.
    """
    return _ChunkedCrossEntropy.apply(x, weight, targets, rows, torch.is_grad_enabled())


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient for a row of logits is softmax(logits), minus 1 at the target; from it, one product gives that of x
    and one that of the weight."""

    @staticmethod
    def forward(ctx, x, weight, targets, rows, with_gradient):
        dtype = (x[:0] @ weight[:0].T).dtype  # what products come out in: 16 bits under autocast
        # Fewer rows in float16, because the sum over many rows in weight_grad can overflow.
        rows = rows or ROWS_AT_ONCE["cuda" if x.is_cuda and dtype != torch.float16 else "other"]
        matrix, loss = weight.to(dtype), x.new_zeros((), dtype=torch.float32)
        x_grad, weight_grad = (torch.zeros_like(x), torch.zeros_like(weight)) if with_gradient else (x, None)
        for piece, target, piece_grad in zip(x.to(dtype).split(rows), targets[:, None].split(rows), x_grad.split(rows)):
            log_p = (piece @ matrix.T).log_softmax(dim=-1, dtype=torch.float32)  # (rows, C) -> (rows, V)
            loss -= log_p.gather(-1, target).sum()
            if with_gradient:
                grad = log_p.exp_().scatter_add_(-1, target, log_p.new_full(target.shape, -1.0)).to(dtype)
                piece_grad.copy_(grad @ matrix)  # (rows, V) -> (rows, C)
                if dtype == weight_grad.dtype:
                    torch.addmm(weight_grad, grad.T, piece, out=weight_grad)  # (V, rows) and (rows, C) -> (V, C)
                else:  # many products in 16 bits, added up in 32
                    weight_grad += grad.T @ piece
                del log_p, grad  # before the next piece is made
        if with_gradient:
            ctx.save_for_backward(x_grad.div_(len(x)), weight_grad.div_(len(x)))
        return loss / len(x)

    @staticmethod
    @once_differentiable  # the gradients are plain numbers by now: a second derivative would silently be wrong
    def backward(ctx, scale):
        x_grad, weight_grad = ctx.saved_tensors
        if scale.device.type == "cpu" and not torch.compiler.is_compiling() and scale == 1:
            return x_grad, weight_grad, None, None, None  # saves a copy as large as the vocabulary's matrix
        return x_grad * scale, weight_grad * scale, None, None, None
