"""Cases for the exercises of notebook 02."""

import copy
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers.course.exercises import model_parts, nb02
from helpers.model import GPT, GPTConfig
from tests.course.exercise_cases import Case


def configuration(seed, **changes):
    """A small configuration, whose sizes depend on the seed and are not those of the checks."""
    nh = 2 + seed % 3
    return GPTConfig(**{"vocab_size": 21 + 5 * seed, "n_positions": 12 + seed, "n_embd": 6 * nh,
                        "n_layer": 1 + seed % 3,
                        "n_head": nh, "layer_norm_epsilon": 10 ** -(3 + seed % 2), **changes})


def filled(module):
    """The module with parameters that depend on their order and shapes alone."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator) + 0.1)
    return module


def fresh_and_filled(attempt, arguments, *inputs):
    """What an attempt at a part gives: its parameters at the start, and its results once they are filled."""
    torch.manual_seed(3)
    module = attempt(*arguments)
    start = {name: (tuple(p.shape), p.detach().std().item() if p.numel() > 1 else 0) for name, p in
             module.named_parameters(remove_duplicate=False)}
    filled(module)
    return start, [module(*given) for given in inputs]


# --- LayerNorm -------------------------------------------------------------------------------------------------------


class NormBySquares(model_parts.LayerNorm):
    """The variance as the mean of squares minus the square of the mean, in 64 bits."""

    def forward(self, x):
        x = x.double()
        mean = x.mean(2, keepdim=True)
        variance = (x**2).mean(2, keepdim=True) - mean**2
        return ((x - mean) * (variance + self.eps) ** -0.5 * self.weight + self.bias).float()


class NormByNorm(model_parts.LayerNorm):
    """With the length of the centred vector."""

    def forward(self, x):
        centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
        length = centred.pow(2).sum(-1, keepdim=True)
        return torch.addcmul(self.bias, centred / (length / x.shape[-1] + self.eps).sqrt(), self.weight)


class NormByToken(model_parts.LayerNorm):
    """One token at a time."""

    def forward(self, x):
        rows = []
        for vector in x.reshape(-1, x.shape[-1]):
            spread = torch.sqrt(torch.mean((vector - vector.mean()) ** 2) + self.eps)
            rows.append((vector - vector.mean()) / spread * self.weight + self.bias)
        return torch.stack(rows).view(x.shape)


class NormWithMatrix(model_parts.LayerNorm):
    """The mean is removed by a matrix."""

    def forward(self, x):
        C = x.shape[-1]
        centred = x @ (torch.eye(C) - torch.full((C, C), 1 / C))
        return torch.einsum("btc,c->btc", centred * torch.rsqrt(centred.square().mean(-1, True) + self.eps),
                            self.weight) + self.bias


class NormWithOtherInit(nn.Module):
    """Written from the start, with var_mean."""

    def __init__(self, width, eps=0.00001):
        nn.Module.__init__(self)
        self.register_parameter("weight", nn.Parameter(torch.full((width,), 1.0)))
        self.register_parameter("bias", nn.Parameter(0 * self.weight.detach()))
        self.small = eps

    def forward(self, x):
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return (x - mean) / (variance + self.small).sqrt() * self.weight + self.bias


def norm_inputs(seed):
    torch.manual_seed(seed)
    x = torch.randn(1 + seed, 4 + seed, 9 + seed) + 1
    x[:, 0] *= 0.002
    return x, 10 ** -(3 + seed)


def run_norm(attempt, x, eps):
    return (fresh_and_filled(attempt, (x.shape[-1], eps), (x,)), fresh_and_filled(attempt, (x.shape[-1],), (x,)))


# --- embeddings ------------------------------------------------------------------------------------------------------


def by_rows(wte, wpe, ids):
    return wte.weight[ids] + wpe.weight[: ids.shape[1]]


def one_hot(wte, wpe, ids):
    B, T = ids.shape
    which = F.one_hot(ids, wte.num_embeddings).to(wte.weight.dtype)
    return which @ wte.weight + wpe(torch.arange(T, device=ids.device)).expand(B, T, -1)


def with_cumsum(wte, wpe, ids):
    return wpe(torch.ones_like(ids).cumsum(1) - 1).add(wte(ids))


def sequence_by_sequence(wte, wpe, ids):
    positions = torch.arange(ids.size(1)).to(ids.device)
    return torch.stack([wte(row) + wpe(positions) for row in ids])


def functional(wte, wpe, ids):
    B, T = ids.shape
    positions = torch.arange(0, T, dtype=torch.long, device=ids.device).unsqueeze(0).repeat(B, 1)
    return F.embedding(ids, wte.weight) + F.embedding(positions, wpe.weight)


def embedding_inputs(seed):
    torch.manual_seed(seed)
    config = configuration(seed)
    ids = torch.randint(config.vocab_size, (1 + seed, 4 + seed))
    return nn.Embedding(config.vocab_size, config.n_embd), nn.Embedding(config.n_positions, config.n_embd), ids


# --- attention -------------------------------------------------------------------------------------------------------


class HeadByHead(model_parts.Attention):
    """One head at a time, side by side at the end."""

    def forward(self, x):
        qkv, C = self.c_attn(x), x.shape[-1]
        hs, results = C // self.n_head, []
        for head in range(self.n_head):
            columns = slice(head * hs, (head + 1) * hs)
            q, k, v = (qkv[..., i * C : (i + 1) * C][..., columns] for i in range(3))
            scores = torch.einsum("bqd,bkd->bqk", q, k) * hs**-0.5
            scores = scores + torch.full(scores.shape[-2:], -math.inf, device=x.device).triu(1)
            results.append(F.softmax(scores, dim=-1) @ v)
        return self.c_proj(torch.cat(results, dim=-1))


class Einsum(model_parts.Attention):
    """Without a transpose."""

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, -1).unbind(2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q / math.sqrt(C / self.n_head), k)
        keep = torch.arange(T, device=x.device)[:, None] >= torch.arange(T, device=x.device)
        weights = torch.where(keep, scores, torch.tensor(-torch.inf, device=x.device)).softmax(3)
        return self.c_proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


class WithBuffer(nn.Module):
    """Written from the start, with a mask in a buffer and PyTorch's split."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.width = config.n_head, config.n_embd
        self.c_attn = nn.Linear(self.width, self.width * 3)
        self.c_proj = nn.Linear(self.width, self.width)
        size = config.n_positions
        self.register_buffer("mask", torch.tril(torch.ones(size, size)).view(1, 1, size, size))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.width, dim=2)
        k = k.view(B, T, self.heads, C // self.heads).transpose(1, 2)
        q = q.view(B, T, self.heads, C // self.heads).transpose(1, 2)
        v = v.view(B, T, self.heads, C // self.heads).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Exponentials(model_parts.Attention):
    """The softmax from exponentials, whose future ones are set to 0, in 64 bits."""

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.c_attn(x).reshape(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.double()
        scores = q @ k.mT / (C // self.n_head) ** 0.5
        powers = torch.exp(scores - scores.amax(-1, keepdim=True)).tril()
        mixed = (powers / powers.sum(-1, keepdim=True)) @ v
        return self.c_proj(mixed.permute(0, 2, 1, 3).flatten(2).float())


class TokenByToken(model_parts.Attention):
    """Each token attends to a slice: nothing needs a mask."""

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (part.unflatten(-1, (self.n_head, -1)) for part in torch.tensor_split(self.c_attn(x), 3, dim=2))
        rows = []
        for t in range(T):
            scores = (q[:, t, None] * k[:, : t + 1]).sum(-1) / math.sqrt(q.shape[-1])  # (B, t + 1, nh)
            rows.append((scores.softmax(1)[..., None] * v[:, : t + 1]).sum(1).reshape(B, C))
        return self.c_proj(torch.stack(rows, 1))


def part_inputs(seed):
    torch.manual_seed(seed)
    config = configuration(seed)
    return config, torch.randn(1 + seed % 3, 4 + seed, config.n_embd)


def run_part(attempt, config, x):
    return fresh_and_filled(attempt, (config,), (x,))


# --- the MLP ---------------------------------------------------------------------------------------------------------


class FormulaMLP(model_parts.MLP):
    """GELU by its formula."""

    def forward(self, x):
        x = self.c_fc(x)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.c_proj(x)


class ModuleMLP(nn.Module):
    """Written from the start, with a module for GELU."""

    def __init__(self, config):
        super().__init__()
        wide = config.n_embd * 4
        self.c_fc, self.c_proj = nn.Linear(config.n_embd, wide), nn.Linear(wide, config.n_embd)
        self.act = nn.GELU("tanh")

    def forward(self, x):
        return self.c_proj(self.act(self.c_fc(x)))


class LinearMLP(model_parts.MLP):
    """With the products written out."""

    def forward(self, x):
        wide = x @ self.c_fc.weight.T + self.c_fc.bias
        return F.linear(F.gelu(wide, approximate="tanh"), self.c_proj.weight) + self.c_proj.bias


class TokenMLP(model_parts.MLP):
    """One token after the other."""

    def forward(self, x):
        return torch.stack([self.c_proj(F.gelu(self.c_fc(x[:, t]), approximate="tanh")) for t in range(x.shape[1])], 1)


class SigmoidMLP(model_parts.MLP):
    """1 + tanh(z) is 2 sigmoid(2z)."""

    def forward(self, x):
        wide = self.c_fc(x)
        return self.c_proj(wide * torch.sigmoid(2 * 0.7978845608 * (wide + 0.044715 * wide.pow(3))))


# --- the block -------------------------------------------------------------------------------------------------------


class OneLineBlock(model_parts.Block):
    """Overwrites x."""

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class DifferenceBlock(model_parts.Block):
    """Collects what is added."""

    def forward(self, x):
        added = self.attn(self.ln_1(x))
        added = added + self.mlp(self.ln_2(x + added))
        return added + x


class LibraryBlock(nn.Module):
    """PyTorch's LayerNorm, the course's attention and MLP."""

    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = nb02.model5.CausalSelfAttention(config)
        self.mlp = nb02.model5.MLP(config)

    def forward(self, x):
        residual = x
        x = self.attn(self.ln_1(x)) + residual
        residual = x
        return self.mlp(self.ln_2(x)) + residual


class LoopBlock(model_parts.Block):
    """Both sums in one loop."""

    def forward(self, x):
        for norm, part in ((self.ln_1, self.attn), (self.ln_2, self.mlp)):
            x = torch.add(x, part(norm(x)))
        return x


class HelperMethodBlock(model_parts.Block):
    """With a method of its own."""

    def step(self, x, norm, part):
        return part(norm(x)) + x

    def forward(self, x):
        return self.step(self.step(x, self.ln_1, self.attn), self.ln_2, self.mlp)


# --- the whole model -------------------------------------------------------------------------------------------------


class GatherGPT(model_parts.GPT):
    """The loss from the logarithms of probabilities."""

    def forward(self, ids, targets=None):
        x = self.transformer["wte"](ids)
        x = x + self.transformer["wpe"](torch.arange(ids.size(1), device=ids.device))
        for i in range(self.config.n_layer):
            x = self.transformer["h"][i](x)
        logits = self.lm_head(self.transformer["ln_f"](x))
        if targets is not None:
            return -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
        return logits


class MatrixGPT(model_parts.GPT):
    """The unembedding as a product, the loss with its dimensions transposed."""

    def forward(self, ids, targets=None):
        B, T = ids.shape
        x = self.transformer.wte.weight[ids] + self.transformer.wpe.weight[:T]
        for block in self.transformer.h:
            x = block(x)
        logits = torch.einsum("btc,vc->btv", self.transformer.ln_f(x), self.lm_head.weight)
        return logits if targets is None else F.cross_entropy(logits.transpose(1, 2), targets)


class ApplyGPT(nn.Module):
    """Written from the start: a method initialises, as many implementations do."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd),
            wpe=nn.Embedding(config.n_positions, config.n_embd),
            h=nn.ModuleList([nb02.model5.Block(config) for _ in range(config.n_layer)]),
            ln_f=nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self.start)
        for name, parameter in self.named_parameters():
            if "c_proj" in name and "weight" in name:
                parameter.data *= (2 * config.n_layer) ** -0.5
        if config.tie_word_embeddings:
            self.transformer.wte.weight = self.lm_head.weight

    def start(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            torch.nn.init.zeros_(module.bias)

    def forward(self, ids, targets=None):
        t = self.transformer
        x = t.wte(ids) + t.wpe(torch.arange(ids.shape[1], device=ids.device))[None]
        for block in t.h:
            x = block(x)
        logits = self.lm_head(t.ln_f(x))
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


class DoubleLossGPT(model_parts.GPT):
    """The loss in 64 bits, from logsumexp."""

    def forward(self, ids, targets=None):
        logits = super().forward(ids)
        if targets is None:
            return logits
        wide = logits.double()
        right = torch.take_along_dim(wide, targets.unsqueeze(-1), -1).squeeze(-1)
        return (wide.logsumexp(-1) - right).sum() / targets.numel()


class RandnGPT(model_parts.GPT):
    """Fills the parameters with randn."""

    def __init__(self, config):
        super().__init__(config)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                scale = 0.02 / (2 * config.n_layer) ** 0.5 if name.endswith("c_proj.weight") else 0.02
                if parameter.dim() > 1:
                    parameter.copy_(scale * torch.randn(parameter.shape))


def gpt_inputs(seed):
    torch.manual_seed(seed)
    config = configuration(seed, tie_word_embeddings=seed % 2 == 0)
    return config, torch.randint(config.vocab_size, (2, 1 + seed % 3, 4 + seed))


def run_gpt(attempt, config, batch):
    return fresh_and_filled(attempt, (config,), (batch[0],), (batch[0], batch[1]))


# --- tied weights ----------------------------------------------------------------------------------------------------


def tie_with_setattr(model):
    setattr(model.lm_head, "weight", model.get_parameter("transformer.wte.weight"))
    return model, model.config.vocab_size * model.config.n_embd


def tie_by_registering(model):
    head = model.lm_head.weight
    model.lm_head.register_parameter("weight", model.transformer["wte"].weight)
    return model, head.numel()


def tie_in_the_dictionary(model):
    model.lm_head._parameters["weight"] = model.transformer.wte.weight
    return [model, torch.tensor(model.lm_head.weight.nelement())]


def tie_after_deleting(model):
    embedding, head = model.transformer.wte, model.lm_head
    count = len(torch.nn.utils.parameters_to_vector(model.parameters()))
    del head.weight
    head.weight = embedding.weight
    return model, count - len(torch.nn.utils.parameters_to_vector(model.parameters()))


def tie_a_copy(model):
    return model_parts.tie_and_count(copy.deepcopy(model))


def tie_inputs(seed):
    torch.manual_seed(seed)
    return (GPT(configuration(seed, tie_word_embeddings=False)),)


def run_tie(attempt, model):
    tied, saved = attempt(model)
    return tied.lm_head.weight is tied.transformer.wte.weight, saved, [*tied.parameters()]


# --- stray tensors ---------------------------------------------------------------------------------------------------


def with_get(module, device):
    names = []
    for path, part in module.named_modules():
        for attribute in part.__dict__:
            value = getattr(part, attribute)
            if isinstance(value, torch.Tensor):
                value = [value]
            if isinstance(value, list) and any(torch.is_tensor(t) and t.device.type != str(device) for t in value):
                names.append(".".join(filter(None, (path, attribute))))
    return names


def recursive(module, device, path=""):
    names = {path + attribute for attribute, value in vars(module).items()
             if any(isinstance(t, torch.Tensor) and not t.device.type == device
                    for t in (value if isinstance(value, list) else [value]))}
    for name, child in module.named_children():
        names |= recursive(child, device, f"{path}{name}.")
    return names


def as_a_generator(module, device):
    for path, part in module.named_modules():
        for attribute, value in vars(part).items():
            for tensor in value if isinstance(value, list) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.device != torch.device(device):
                    yield f"{path}.{attribute}".lstrip(".")
                    break


def with_a_stack(module, device):
    found, todo = [], [("", module)]
    while todo:
        path, part = todo.pop()
        todo += [(f"{path}{name}.", child) for name, child in part.named_children()]
        for name, value in part.__dict__.items():
            tensors = [t for t in (value if type(value) is list else [value]) if isinstance(t, torch.Tensor)]
            if {t.device.type for t in tensors} - {device}:
                found.append(path + name)
    return tuple(found)


def by_comparison(module, device):
    right = torch.empty(0, device=device).device.type
    return [f"{path}.{name}" if path else name for path, part in module.named_modules()
            for name, value in vars(part).items()
            if [t for t in (value if isinstance(value, (list, tuple)) else (value,))
                if isinstance(t, torch.Tensor) and t.device.type != right]]


def stray_inputs(seed):
    module = nn.Module()
    module.first = nb02.LeakyEmbedding(3 + seed, 4, 5)
    module.extra, module.note = torch.ones(2), [torch.zeros(1)] * (seed % 2)
    module.second = nn.Sequential(nn.Linear(2, 2), nb02.LeakyNorm(3))
    return module.to("meta"), "meta" if seed % 2 else "cpu"


# --- attention with a cache ------------------------------------------------------------------------------------------


def full_then_last(q, k, v, keys, values):
    keys, values = torch.cat((keys, k), 2), torch.cat((values, v), 2)
    return torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, keys) * q.size(-1) ** -0.5, -1) @ values, keys, values


def with_numpy(q, k, v, keys, values):
    keys = np.concatenate([keys.numpy(), k.numpy()], axis=2)
    values = np.concatenate([values.numpy(), v.numpy()], axis=2)
    scores = np.einsum("bhqd,bhkd->bhqk", q.numpy(), keys) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ values, keys, values


def head_by_head(q, k, v, keys, values):
    B, nh, t, hs = keys.shape
    keys, values = torch.cat([keys, k], -2), torch.cat([values, v], -2)
    result = torch.empty(B, nh, 1, values.shape[-1])
    for b in range(B):
        for h in range(nh):
            weights = (keys[b, h] @ q[b, h, 0] / math.sqrt(hs)).softmax(0)
            result[b, h, 0] = weights @ values[b, h]
    return [result, keys, values]


def into_new_memory(q, k, v, keys, values):
    t = keys.shape[-2]
    all_keys, all_values = k.new_empty(*k.shape[:2], t + 1, k.shape[-1]), v.new_empty(*v.shape[:2], t + 1, v.shape[-1])
    all_keys[:, :, :t], all_values[:, :, :t] = keys, values
    all_keys[:, :, t:], all_values[:, :, t:] = k, v
    scores = (q * all_keys).sum(-1) / q.shape[-1] ** 0.5  # (B, nh, t + 1)
    return (scores.softmax(-1)[..., None] * all_values).sum(-2, keepdim=True), all_keys, all_values


def in_64_bits(q, k, v, keys, values):
    keys, values = torch.cat([keys, k], dim=2).double(), torch.cat([values, v], dim=2).double()
    powers = (q.double() @ keys.mT / math.sqrt(keys.shape[3])).exp()
    return powers @ values / powers.sum(-1, keepdim=True), keys, values


def cache_inputs(seed):
    torch.manual_seed(seed)
    B, nh, hs, width, t = 1 + seed % 3, 2 + seed, 3 + seed, 7 - seed, seed * 2
    return (*(2 * torch.randn(B, nh, 1, size) for size in (hs, hs, width)), torch.randn(B, nh, t, hs),
            torch.randn(B, nh, t, width))


CASES = {
    "layer_norm": Case([NormBySquares, NormByNorm, NormByToken, NormWithMatrix, NormWithOtherInit], norm_inputs,
                       run_norm),
    "embeddings": Case([by_rows, one_hot, with_cumsum, sequence_by_sequence, functional], embedding_inputs),
    "attention": Case([HeadByHead, Einsum, WithBuffer, Exponentials, TokenByToken], part_inputs, run_part),
    "mlp": Case([FormulaMLP, ModuleMLP, LinearMLP, TokenMLP, SigmoidMLP], part_inputs, run_part),
    "block": Case([OneLineBlock, DifferenceBlock, LibraryBlock, LoopBlock, HelperMethodBlock], part_inputs, run_part),
    "gpt": Case([GatherGPT, MatrixGPT, ApplyGPT, DoubleLossGPT, RandnGPT], gpt_inputs, run_gpt),
    "tied": Case([tie_with_setattr, tie_by_registering, tie_in_the_dictionary, tie_after_deleting, tie_a_copy],
                 tie_inputs, run_tie),
    "strays": Case([with_get, recursive, as_a_generator, with_a_stack, by_comparison], stray_inputs,
                   lambda attempt, *arguments: sorted(attempt(*arguments))),
    "cache": Case([full_then_last, with_numpy, head_by_head, into_new_memory, in_64_bits], cache_inputs),
}
