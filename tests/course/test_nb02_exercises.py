"""Notebook 02's exercises: plausible wrong answers get a sentence that helps, other right answers are accepted."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers import attention
from helpers.course import devices
from helpers.course.exercises import model_mistakes, model_parts, nb02
from helpers.model import GPT, Block, GPTConfig


def with_forward(base, forward):
    """A learner's class: a solution with another forward."""
    return type("My" + base.__name__, (base,), {"forward": forward})


# --- LayerNorm


def norm_with(variance=lambda x: x.var(-1, keepdim=True, unbiased=False), finish=None, dims=-1):
    """An attempt at LayerNorm with one of its steps exchanged."""
    def forward(self, x):
        centred = x - x.mean(dims, keepdim=True)
        spread = torch.sqrt(variance(x) + self.eps)
        if finish:
            return finish(self, x, centred, spread)
        return self.weight * centred / spread + self.bias
    return with_forward(model_parts.LayerNorm, forward)


def mean_without_keepdim(self, x):
    return self.weight * (x - x.mean(-1)) / torch.sqrt(x.var(-1) + self.eps) + self.bias


class PlainTensors(model_parts.LayerNorm):
    def __init__(self, width, eps=1e-5):
        super().__init__(width, eps)
        del self.bias
        self.bias = torch.zeros(width)


class StartsAtZero(model_parts.LayerNorm):
    def __init__(self, width, eps=1e-5):
        super().__init__(width, eps)
        nn.init.zeros_(self.weight)


class FixedEps(model_parts.LayerNorm):
    def __init__(self, width, eps=1e-5):
        super().__init__(width)


class OneNumber(model_parts.LayerNorm):
    def __init__(self, width, eps=1e-5):
        super().__init__(width, eps)
        self.weight = nn.Parameter(torch.ones(1))


class EmptyNorm(nn.Module):
    def __init__(self, width, eps=1e-5):
        super().__init__()

    def forward(self, x):
        return None


class OnlyInit(model_parts.LayerNorm):
    def forward(self, x):
        return None


def detached_mean(self, x):
    mean, variance = x.mean(-1, keepdim=True).detach(), x.var(-1, keepdim=True, unbiased=False).detach()
    return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


# --- attention


def attend_with(split=attention.split_heads, attend=attention.attention, merge=attention.merge_heads, project=True):
    """An attempt at attention with one of its steps exchanged."""
    def forward(self, x):
        q, k, v = (split(part, self.n_head) for part in self.c_attn(x).chunk(3, dim=-1))
        merged = merge(attend(q, k, v))
        return self.c_proj(merged) if project else merged
    return with_forward(model_parts.Attention, forward)


def weighing(weigh, divisor=None):
    """Attention with other weights: weigh makes them from the masked scores."""
    def attend(q, k, v):
        scores = q @ k.transpose(-2, -1) / (divisor or math.sqrt(q.shape[-1]))
        return weigh(scores) @ v
    return attend


def masked(scores, diagonal=1):
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(diagonal).bool(), float("-inf"))


def view_alone(x, n_head):
    return x.reshape(x.shape[0], n_head, x.shape[1], -1)


def straight(heads):
    return heads.reshape(2, 7, 24)


def reordered(*order):
    """An attempt at attention that takes c_attn's three parts in another order."""
    def forward(self, x):
        thirds = self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (attention.split_heads(thirds[i], self.n_head) for i in order)
        return self.c_proj(attention.merge_heads(attention.attention(q, k, v)))
    return with_forward(model_parts.Attention, forward)


def attention_by(forward):
    """An attempt at attention whose forward uses the right one's result."""
    return with_forward(model_parts.Attention, lambda self, x: forward(self, x, model_parts.Attention.forward))


def detached_projection(self, x):
    q, k, v = (attention.split_heads(part, self.n_head) for part in self.c_attn(x).chunk(3, dim=-1))
    merged = attention.merge_heads(attention.attention(q, k, v))
    return F.linear(merged, self.c_proj.weight.detach(), self.c_proj.bias)


def mask_on_the_cpu(self, x, right):
    return right(self, x) + 0 * torch.ones(x.shape[1], x.shape[1]).sum(0)[None, :, None]


class FixedHeads(model_parts.Attention):
    def __init__(self, config):
        super().__init__(config)
        self.n_head = 3 if config.n_embd % 3 == 0 else 4


class TooNarrow(model_parts.Attention):
    def __init__(self, config):
        super().__init__(config)
        self.c_attn = nn.Linear(config.n_embd, config.n_embd)


class OtherNames(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.qkv, self.out = nn.Linear(config.n_embd, 3 * config.n_embd), nn.Linear(config.n_embd, config.n_embd)


class OneMore(model_parts.Attention):
    def __init__(self, config):
        super().__init__(config)
        self.extra = nn.Linear(2, 2)


# --- the MLP


def mlp_with(compute):
    """An attempt at the MLP: compute(x, c_fc, c_proj)."""
    return with_forward(model_parts.MLP, lambda self, x: compute(x, self.c_fc, self.c_proj))


def gelu(x):
    return F.gelu(x, approximate="tanh")


class Narrow(model_parts.MLP):
    def __init__(self, config):
        super().__init__(config)
        self.c_fc = nn.Linear(config.n_embd, 3 * config.n_embd)


# --- the block


def block_with(mistake):
    return with_forward(model_parts.Block, lambda self, x: mistake(self, x))


class BlockWithoutNames(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(config.n_embd), model_parts.Attention(config)


class BlockWithWrongEps(model_parts.Block):
    def __init__(self, config):
        super().__init__(config)
        self.ln_1 = nn.LayerNorm(config.n_embd)


class BlockWithOneNorm(model_parts.Block):
    def __init__(self, config):
        super().__init__(config)
        self.ln_2 = nn.LayerNorm(2 * config.n_embd, eps=config.layer_norm_epsilon)


# --- the whole model


def gpt_with(embed=model_parts.embeddings, through=None, norm=True, finish=lambda logits: logits, loss=F.cross_entropy):
    """An attempt at GPT with one of its steps exchanged."""
    def forward(self, ids, targets=None):
        parts = self.transformer
        x = embed(parts.wte, parts.wpe, ids)
        if through:
            x = through(parts.h, x)
        else:
            for block in parts.h:
                x = block(x)
        logits = finish(self.lm_head(parts.ln_f(x) if norm else x))
        return logits if targets is None else loss(logits.flatten(0, 1), targets.flatten())
    return with_forward(model_parts.GPT, forward)


def changed(change, tied=True):
    """An attempt at GPT whose __init__ ends with one more statement."""
    def init(self, config):
        model_parts.GPT.__init__(self, config)
        with torch.no_grad():
            change(self, config)
    return type("MyGPT", (model_parts.GPT,), {"__init__": init})


def draw(ending, std):
    """Draws all parameters whose names end so, again, with std(config)."""
    def change(model, config):
        for name, parameter in model.named_parameters():
            if name.endswith(ending):
                nn.init.normal_(parameter, std=std(config))
    return changed(change)


def second_parameter(model, config):
    model.lm_head.weight = nn.Parameter(model.transformer.wte.weight)


def only_blocks(h, x):
    for block in h:
        result = block(x)
    return result


def doubled(h, x):
    for block in h:
        x = x + block(x)
    return x


class PlainList(model_parts.GPT):
    def __init__(self, config):
        super().__init__(config)
        del self.transformer["h"]
        self.transformer.h = [model_parts.Block(config) for _ in range(config.n_layer)]


class Flat(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)


class EmptyBlocks(model_parts.GPT):
    def __init__(self, config):
        super().__init__(config)
        self.transformer["h"] = nn.ModuleList(EmptyNorm(4) for _ in range(config.n_layer))


class AlwaysTied(model_parts.GPT):
    def __init__(self, config):
        super().__init__(GPTConfig(**{**vars(config), "tie_word_embeddings": True}))


class NoTargets(model_parts.GPT):
    def forward(self, ids):
        return super().forward(ids)


class BothResults(model_parts.GPT):
    def forward(self, ids, targets=None):
        return super().forward(ids) if targets is None else (super().forward(ids), super().forward(ids, targets))


class LogitsOnly(model_parts.GPT):
    def forward(self, ids, targets=None):
        return super().forward(ids)


class UnflattenedLoss(model_parts.GPT):
    def forward(self, ids, targets=None):
        logits = super().forward(ids)
        return logits if targets is None else F.cross_entropy(logits, targets)


class DetachedLoss(model_parts.GPT):
    def forward(self, ids, targets=None):
        return super().forward(ids) if targets is None else torch.tensor(super().forward(ids, targets).item())


# --- stray tensors


def plain(module, device, wanted=lambda tensor, device: tensor.device.type != device, path=True, lists=True):
    """A search for stray tensors, with one of its steps exchanged."""
    names = []
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            for tensor in value if lists and isinstance(value, list) else [value]:
                if isinstance(tensor, torch.Tensor) and wanted(tensor, device):
                    names.append(f"{name}.{attribute}" if path and name else attribute)
    return names


def registered(module, device):
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if tensor.device.type != device]


def one_level(module, device):
    return [name for name in plain(module, device) if name.count(".") < 2]


# --- tied weights


def tie_with(what, saved=lambda model: model.lm_head.weight.numel(), gives_back=True):
    """An attempt at tying: what computes the head's new weight from the embedding's."""
    def attempt(model):
        model.lm_head.weight = what(model.transformer.wte.weight)
        return (model, saved(model)) if gives_back else None
    return attempt


def by_data(model):
    model.lm_head.weight.data = model.transformer.wte.weight.data
    return model, 0


def replaced(model):
    model.lm_head = model.transformer.wte
    return model, 0


def copied(model):
    with torch.no_grad():
        model.lm_head.weight.copy_(model.transformer.wte.weight)
    return model, 0


def the_other_way(model):
    model.transformer.wte.weight = model.lm_head.weight
    return model, 0


# --- attention with a cache


def cached(scale=None, append=True, weigh=lambda scores: scores.softmax(-1), gives=lambda *three: three):
    """An attempt at attention with a cache, with one of its steps exchanged."""
    def attempt(q, k, v, keys, values):
        if append:
            keys, values = torch.cat([keys, k], -2), torch.cat([values, v], -2)
        scores = q @ keys.transpose(-2, -1) / (scale(q, v, keys) if scale else math.sqrt(q.shape[-1]))
        return gives(weigh(scores) @ values, keys, values)
    return attempt


def looks_at_others_only(q, k, v, keys, values):
    weights = (q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    result = weights @ values if keys.shape[-2] else v
    return result, torch.cat([keys, k], -2), torch.cat([values, v], -2)


def prepends(q, k, v, keys, values):
    keys, values = torch.cat([k, keys], -2), torch.cat([v, values], -2)
    return (q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ values, keys, values


WRONG = {
    "layer_norm": [
        (norm_with(variance=lambda x: x.var(-1, keepdim=True)), "Bessel's correction"),
        (norm_with(finish=lambda self, x, c, s: self.weight * c / (x.std(-1, keepdim=True) + self.eps) + self.bias),
         "divided by C - 1, and eps"),
        (norm_with(finish=lambda self, x, c, s: self.weight * c / s), "beta, the bias, is missing"),
        (norm_with(finish=lambda self, x, c, s: c / s + self.bias), "gamma, the weight, is missing"),
        (norm_with(finish=lambda self, x, c, s: c / s), "gamma and beta are missing"),
        (norm_with(finish=lambda self, x, c, s: self.weight * (c / s + self.bias)), "Scale first, then shift"),
        (norm_with(finish=lambda self, x, c, s: self.weight * c / s**2 + self.bias), "Divide by its square root"),
        (norm_with(finish=lambda self, x, c, s: self.weight * c + self.bias), "only subtract the mean"),
        (norm_with(finish=lambda self, x, c, s: self.weight * x / s + self.bias), "mean is not subtracted"),
        (norm_with(finish=lambda self, x, c, s: self.weight * x / (x.square().mean(-1, True) + self.eps).sqrt()
                   + self.bias), "RMSNorm"),
        (norm_with(lambda x: x.var(-1, keepdim=True, unbiased=False) - 1e-5), "eps is missing"),
        (norm_with(lambda x: x.var((1, 2), keepdim=True, unbiased=False), dims=(1, 2)), "over the last dimension"),
        (norm_with(lambda x: x.var(1, keepdim=True, unbiased=False), dims=1), "over the last dimension"),
        (norm_with(lambda x: 2 * x.var(-1, keepdim=True, unbiased=False)), "largest difference"),
        (with_forward(model_parts.LayerNorm, mean_without_keepdim), "x.mean(-1, keepdim=True) has the shape (B, T, 1)"),
        (norm_with(lambda x: x.var(-1, unbiased=False)), "PyTorch's message: The size of tensor a (24)"),
        (with_forward(model_parts.LayerNorm, detached_mean), "x gets no gradient, or not the same"),
        (with_forward(model_parts.LayerNorm, lambda self, x: 3), "int: 3"),
        (PlainTensors, "wrap it in nn.Parameter"),
        (StartsAtZero, "At the start gamma (weight) is 1"),
        (FixedEps, "ignores the eps"),
        (OneNumber, "weight has the shape (1,), expected (24,)"),
        (EmptyNorm, "EmptyNorm is still empty"),
        (OnlyInit, "Now write forward"),
        (model_parts.LayerNorm(24), "Give the class itself"),
        (lambda width, eps=1e-5: [1, 2], "a list of 2 numbers"),
    ],
    "embeddings": [
        (lambda wte, wpe, ids: wte(ids), "The positions are missing"),
        (lambda wte, wpe, ids: wte(ids) + wpe(torch.arange(ids.shape[1])), "device=ids.device"),
        (lambda wte, wpe, ids: wte(ids) + wpe(torch.zeros_like(ids)), "position 0"),
        (lambda wte, wpe, ids: wte(ids) + wpe(torch.arange(1, ids.shape[1] + 1)), "The first position is 0"),
        (lambda wte, wpe, ids: wte(ids) + wpe(ids % wpe.num_embeddings), "You look up the ids in wpe"),
        (lambda wte, wpe, ids: wte(ids) * wpe(torch.arange(ids.shape[1])), "added, not multiplied"),
        (lambda wte, wpe, ids: torch.cat([wte(ids), wpe(torch.arange(ids.shape[1])).expand(len(ids), -1, -1)], -1),
         "not placed side by side"),
        (lambda wte, wpe, ids: wpe(torch.arange(ids.shape[1])), "You returned a tensor of shape (7, 24)"),
        (lambda wte, wpe, ids: (wte(ids), wpe(torch.arange(ids.shape[1]))), "You returned a tuple of 2 tensors"),
        (lambda wte, wpe, ids: (wte(ids) + wpe(torch.arange(ids.shape[1]))).detach(), "no gradient flows back"),
        (lambda wte, wpe, ids: 2 * wte(ids), "Add wte(ids)"),
    ],
    "attention": [
        (attend_with(attend=weighing(lambda scores: scores.softmax(-1))), "later ones"),
        (attend_with(attend=weighing(lambda scores: masked(scores).softmax(-1), divisor=1)), "not divided"),
        (attend_with(attend=weighing(lambda scores: masked(scores).softmax(-1), divisor=math.sqrt(24))),
         "divide by sqrt(hs)"),
        (attend_with(attend=weighing(lambda scores: scores.softmax(-1).tril())), "not after it"),
        (attend_with(attend=weighing(lambda scores: masked(scores, 0).softmax(-1))), "hides the diagonal"),
        (attend_with(attend=weighing(lambda scores: masked(scores).softmax(-2))), "over the queries"),
        (attend_with(attend=weighing(lambda scores: masked(scores).softmax(1))), "Over which dimension"),
        (attend_with(project=False), "c_proj"),
        (attend_with(split=view_alone, merge=straight), "Splitting"),
        (attend_with(merge=straight), "Merging"),
        (attend_with(split=lambda x, nh: x, merge=lambda x: x), "one head of full width"),
        (attention_by(lambda self, x, right: right(self, x) + x), "in the block (section 6)"),
        (attention_by(lambda self, x, right: right(self, x)[:, -1]), "expected a tensor of shape (2, 7, 24)"),
        (attention_by(lambda self, x, right: {"y": 1}), "You returned a dict"),
        (attention_by(lambda self, x, right: self.c_proj(x)), "largest difference"),
        (attention_by(lambda self, x, right: right(self, x).detach()), "no gradient"),
        (attention_by(mask_on_the_cpu), "device=x.device"),
        (attend_with(merge=lambda heads: attention.merge_heads(heads).detach()), "gets no gradient, or not"),
        (attend_with(attend=weighing(lambda scores: masked(scores).softmax(-1).detach())), "was detached on the way"),
        (attend_with(attend=lambda q, k, v: attention.attention(q, k, v.detach())), "gets no gradient"),
        (attention_by(lambda self, x, right: right(self, x.detach())), "x gets no gradient"),
        (with_forward(model_parts.Attention, detached_projection), "c_proj.weight gets no gradient"),
        *((attend_with(split=lambda x, nh: x, merge=lambda x: x,
                       attend=weighing(lambda scores: masked(scores).softmax(-1), divisor=divisor)),
           "one head of full width") for divisor in (None, 1, math.sqrt(8))),
        *((reordered(*order), "The order is Q, K, V.") for order in ((0, 2, 1), (2, 0, 1), (2, 1, 0))),
        *((reordered(*order), "order in the fused matrix is Q, K, V.") for order in ((1, 0, 2), (1, 2, 0))),
        (FixedHeads, "largest difference"),
        (TooNarrow, "c_attn.weight has the shape (24, 24), expected (72, 24)"),
        (OtherNames, "no parameter c_attn.weight, of shape (72, 24). Its parameters are qkv.weight"),
        (OneMore, "a parameter that GPT-2's does not have: extra.weight"),
    ],
    "mlp": [
        (mlp_with(lambda x, c_fc, c_proj: c_proj(F.gelu(c_fc(x)))), "the exact GELU"),
        (mlp_with(lambda x, c_fc, c_proj: c_proj(c_fc(x).relu())), "That is ReLU"),
        (mlp_with(lambda x, c_fc, c_proj: c_proj(c_fc(x))), "There is no activation"),
        (mlp_with(lambda x, c_fc, c_proj: gelu(c_proj(c_fc(x)))), "between the two layers, not after them"),
        (mlp_with(lambda x, c_fc, c_proj: gelu(c_proj(gelu(c_fc(x))))), "not after the second one"),
        (mlp_with(lambda x, c_fc, c_proj: x + c_proj(gelu(c_fc(x)))), "added outside of the MLP"),
        (mlp_with(lambda x, c_fc, c_proj: c_proj(F.silu(c_fc(x)))), "SiLU"),
        (mlp_with(lambda x, c_fc, c_proj: c_fc(x)), "expected a tensor of shape (2, 7, 24)"),
        (mlp_with(lambda x, c_fc, c_proj: 2 * c_proj(gelu(c_fc(x)))), "largest difference"),
        (mlp_with(lambda x, c_fc, c_proj: None), "Now write forward"),
        (Narrow, "c_fc.weight has the shape (72, 24), expected (96, 24)"),
    ],
    "block": [
        *((block_with(mistake), message) for message, mistake in model_mistakes.block_mistakes().items()),
        (block_with(lambda block, x: 2 * model_mistakes.pre_norm(block, x)), "There are two sums"),
        (block_with(lambda block, x: None), "Now write forward"),
        (block_with(lambda block, x: (x, x)), "expected a tensor of shape (2, 7, 24)"),
        (BlockWithoutNames, "needs a part ln_1, which is a module. Its parts are: norm1, attn"),
        (BlockWithWrongEps, "Give it eps=config.layer_norm_epsilon"),
        (BlockWithOneNorm, "ln_2: weight has the shape (48,), expected (24,)"),
    ],
    "gpt": [
        (gpt_with(embed=lambda wte, wpe, ids: wte(ids)), "positions are missing"),
        (gpt_with(embed=lambda wte, wpe, ids: wte(ids) + wpe(torch.arange(ids.shape[1]))), "got tensors on two"),
        (gpt_with(norm=False), "ln_f, is missing"),
        (gpt_with(through=lambda h, x: x), "never goes through the blocks"),
        (gpt_with(through=lambda h, x: h[0](x)), "Only the first block"),
        (gpt_with(through=only_blocks), "only the last one counts"),
        (gpt_with(through=doubled), "The block already does that inside"),
        (gpt_with(finish=lambda logits: logits.softmax(-1)), "Those are probabilities"),
        (gpt_with(finish=lambda logits: logits.log_softmax(-1)), "logarithms of probabilities"),
        (gpt_with(finish=lambda logits: logits / math.sqrt(24)), "divide the logits"),
        (gpt_with(finish=lambda logits: logits[:, -1:]), "expected a tensor of shape (2, 7, 50)"),
        (gpt_with(finish=lambda logits: logits[..., :24]), "the shape of vectors"),
        (gpt_with(finish=lambda logits: 2 * logits), "Three stages"),
        (gpt_with(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")), "yours is their sum"),
        (gpt_with(loss=lambda z, y: F.cross_entropy(z.softmax(-1), y)), "not probabilities"),
        (gpt_with(loss=lambda z, y: 2 * F.cross_entropy(z, y)), "expected a loss of"),
        (UnflattenedLoss, "use logits.flatten(0, 1) and targets.flatten()"),
        (UnflattenedLoss, "PyTorch's message: Expected target size [2, 50], got [2, 7]"),
        (NoTargets, "forward must also take targets"),
        (BothResults, "return the loss alone; you returned a tuple of 2 tensors"),
        (LogitsOnly, "You returned logits"),
        (DetachedLoss, "no gradient flows back"),
        (draw("wte.weight", lambda config: 1), "default of nn.Embedding"),
        (draw("wpe.weight", lambda config: 0.01), "expected a std of 0.0200 for wpe.weight"),
        (draw("c_fc.weight", lambda config: 0.1), "for c_fc.weight"),
        (draw("c_proj.weight", lambda config: 0.02), "begin smaller"),
        (draw("c_proj.weight", lambda config: 0.02 / math.sqrt(config.n_layer)), "adds twice"),
        (draw("c_fc.bias", lambda config: 0.02), "is not 0 at the start"),
        (draw("ln_1.weight", lambda config: 0.02), "weights of a LayerNorm begin at 1"),
        (changed(lambda model, config: nn.init.uniform_(model.transformer.wpe.weight, -0.0346, 0.0346)),
         "from a normal distribution"),
        (changed(lambda model, config: model.transformer.wte.weight.add_(0.02)), "from a normal distribution"),
        (changed(second_parameter), "They share memory, but are two Parameters"),
        (AlwaysTied, "You tie the weights always"),
        (PlainList, "transformer.h is missing"),
        (Flat, "needs self.transformer"),
        (EmptyBlocks, "an unsolved MyBlock"),
    ],
    "strays": [
        (lambda module, device: [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)],
         "in a submodule"),
        (lambda module, device: plain(module, device, lists=False), "in a list"),
        (lambda module, device: [name for name, _ in module.named_parameters()], "followed .to()"),
        (lambda module, device: plain(module, device, path=False), "path to its submodule"),
        (lambda module, device: plain(module, device, wanted=lambda tensor, device: tensor.device != device),
         "A torch.device never equals a string"),
        (lambda module, device: plain(module, device, wanted=lambda tensor, device: True), "has no stray tensor"),
        (lambda module, device: [*plain(module, device), "masks.0"], "There is no stray attribute"),
        (lambda module, device: [module.scale, *module.masks], "not the tensors"),
        (lambda module, device: ["norm.beta", "masks"], "a plain tensor"),
        (registered, "(parameters and buffers do follow the model; look among the plain attributes)"),
        (lambda module, device: [name for name, _ in module.named_buffers()], "do. Look among the plain attributes."),
        (lambda module, device: len(plain(module, device)), "Return a list of names; you returned"),
        (lambda module, device: {name: 1 for name in plain(module, device)}, "you returned a dict"),
        (one_level, "expected ['parts.0.history', 'parts.1.0.beta', 'shift']"),
    ],
    "tied": [
        (tie_with(nn.Parameter), "share their memory"),
        (by_data, "share their memory"),
        (tie_with(lambda weight: nn.Parameter(weight.detach().clone())), "This is a copy"),
        (copied, "This is a copy"),
        (replaced, "You replaced the module"),
        (lambda model: (model, 0), "the same values."),
        (lambda model: model, "You returned the model alone"),
        (lambda model: (GPT(nb02.SMALL), 0), "values are lost"),
        (the_other_way, "values are lost"),
        (tie_with(lambda weight: weight, gives_back=False), "return the model and the number"),
        (tie_with(lambda weight: weight, lambda model: model.config.n_embd), "are not what it saves"),
        (tie_with(lambda weight: weight, lambda model: "many"), "the number of parameters saved as the second item"),
        (tie_with(lambda weight: weight.requires_grad_(False)), "no gradient"),
    ],
    "cache": [
        (cached(scale=lambda q, v, keys: 1), "not divided by sqrt(hs)"),
        (cached(scale=lambda q, v, keys: math.sqrt(keys.shape[-2])), "number of tokens"),
        (cached(scale=lambda q, v, keys: math.sqrt(v.shape[-1])), "by the wrong number"),
        (cached(weigh=lambda scores: scores), "The softmax is missing"),
        (cached(weigh=lambda scores: scores.softmax(-2)), "over the queries"),
        (cached(weigh=lambda scores: masked(scores).softmax(-1)), "hides all tokens but the first"),
        (cached(gives=lambda y, keys, values: y), "Return three tensors"),
        (cached(gives=lambda y, keys, values: (y, values, keys)), "keys have the right shape but not"),
        (cached(gives=lambda y, keys, values: (y[..., 0, :], keys, values)), "one row for each head"),
        (cached(append=False), "The new token's belongs to it"),
        (lambda q, k, v, keys, values: (v, torch.cat([keys, k], -2), torch.cat([values, v], -2)), "own value"),
        (lambda q, k, v, keys, values: (v, torch.cat([keys, keys], 1), values), "belongs to it"),
        (lambda q, k, v, keys, values: (v, keys.repeat(1, 2, 2, 1), values), "Join along"),
        (lambda q, k, v, keys, values: torch.cat([keys, k]), "torch.cat([keys, k], dim=-2)"),
        (lambda q, k, v, keys, values: torch.cat([values, v], -1), "Join along the dimension of the tokens"),
        (lambda q, k, v, keys, values: torch.stack([keys, k]), "PyTorch's message: stack expects"),
        (looks_at_others_only, "does not look at itself"),
        (prepends, "first those of the cache"),
    ],
}


@pytest.mark.parametrize("name", ["layer_norm", "attention", "mlp", "block", "gpt"])
def test_an_unsolved_skeleton_is_not_begun(name):
    class MyPart(nn.Module):
        def __init__(self, *arguments):
            super().__init__()

        def forward(self, *arguments):
            return None

    verdict = getattr(nb02, name).judge(MyPart)
    assert not verdict.begun and "MyPart is still empty" in verdict.text


def test_pytorchs_own_functions_are_correct_but_not_by_hand():
    own = attend_with(attend=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    assert "not by hand" in nb02.attention.judge(own).text
    library = norm_with(finish=lambda self, x, c, s: F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps))
    assert "not by hand" in nb02.layer_norm.judge(library).text
    assert "not by hand" in nb02.layer_norm.judge(nn.LayerNorm).text
    assert "not by hand" in nb02.gpt.judge(GPT).text


def test_a_later_part_does_not_need_an_earlier_one():
    class Unsolved(nn.Module):
        def __init__(self, *arguments, **options):
            super().__init__()

        def forward(self, x):
            return None

    class MyBlock(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.ln_1, self.attn, self.ln_2, self.mlp = (Unsolved() for _ in range(4))

        forward = model_mistakes.pre_norm

    assert nb02.block.judge(MyBlock).solved
    assert nb02.own_or_reference("Block", MyBlock) is Block  # right, but its parts are not


def test_later_cells_run_the_learners_class_only_if_it_is_right():
    right = type("MyGPT", (model_parts.GPT,), {})
    wrong = type("MyGPT", (gpt_with(norm=False),), {})
    raising = type("MyGPT", (GPT,), {"forward": lambda self, ids: 1 / 0})
    assert [nb02.own_or_reference("Model", each) for each in (right, wrong, raising, None)] == [right, GPT, GPT, GPT]


def test_blocks_that_are_wrong_inside_are_named():
    class MyGPT(model_parts.GPT):
        def __init__(self, config):
            super().__init__(config)
            for block in self.transformer.h:
                block.forward = lambda x: x

    verdict = nb02.gpt.judge(MyGPT)
    assert verdict.solved and "with the blocks inside, the logits differ" in verdict.text
    assert nb02.own_or_reference("Model", MyGPT) is GPT


def test_the_stray_tensors_are_those_that_do_not_follow():
    module = nb02.LeakyEmbedding(20, 8, 6)
    assert set(devices.stray_tensors(module.to("meta"), "meta")) == {"scale", "masks", "norm.beta"}
    assert devices.stray_tensors(GPT(GPTConfig(vocab_size=9, n_embd=4, n_layer=1, n_head=1)).to("meta"), "meta") == []


def test_one_device_stops_what_a_gpu_would_stop():
    ghost, ids = nb02.tie(GPT(nb02.SMALL).to("meta")), torch.zeros(1, 3, dtype=torch.int64, device="meta")
    with devices.OneDevice():
        assert ghost(ids).device.type == "meta" and (ghost.lm_head.weight * torch.tensor(2.0)).is_meta
        assert ghost.transformer.wpe.weight[torch.arange(3)].is_meta
        with pytest.raises(RuntimeError, match="embedding got tensors on two devices, cpu and meta"):
            ghost.transformer.wpe(torch.arange(3))
