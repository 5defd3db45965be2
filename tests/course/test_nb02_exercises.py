"""Notebook 02's exercises: plausible wrong answers get a sentence that helps, other right answers are accepted."""

import copy
import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from helpers import attention
from helpers.course import devices
from helpers.course.exercises import nb02
from helpers.model import GPT, GPTConfig

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


# --- your own attention


def attend_with(split=attention.split_heads, attend=attention.attention, merge=attention.merge_heads, project=True):
    """An attempt at the forward pass of attention, with one of its steps exchanged."""
    def attempt(self, x):
        q, k, v = (split(part, self.n_head) for part in self.c_attn(x).chunk(3, dim=-1))
        merged = merge(attend(q, k, v))
        return self.c_proj(merged) if project else merged
    return attempt


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
    """An attempt at the forward pass of attention that takes c_attn's three parts in another order."""
    def attempt(self, x):
        thirds = self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (attention.split_heads(thirds[i], self.n_head) for i in order)
        return self.c_proj(attention.merge_heads(attention.attention(q, k, v)))
    return attempt


def detached_projection(self, x):
    q, k, v = (attention.split_heads(part, self.n_head) for part in self.c_attn(x).chunk(3, dim=-1))
    merged = attention.merge_heads(attention.attention(q, k, v))
    return F.linear(merged, self.c_proj.weight.detach(), self.c_proj.bias)


def mask_on_the_cpu(self, x):
    keep = torch.ones(x.shape[1], x.shape[1])
    return nb02.attention_forward(self, x) + 0 * keep.sum(0)[None, :, None]


# --- the whole model


def model_with(block=nb02.pre_norm, positions=True, norm=True, blocks=lambda h: h, finish=lambda logits: logits):
    """An attempt at the forward pass of a model, with one of its steps exchanged."""
    def attempt(model, ids):
        parts = model.transformer
        x = parts.wte(ids)
        if positions:
            x = x + parts.wpe(torch.arange(ids.shape[1], device=ids.device))
        for part in blocks(parts.h):
            x = block(part, x)
        return finish(model.lm_head(parts.ln_f(x) if norm else x))
    return attempt


def forgets_the_device(model, ids):
    parts = model.transformer
    x = parts.wte(ids) + parts.wpe(torch.arange(ids.shape[1]))
    for block in parts.h:
        x = block(x)
    return model.lm_head(parts.ln_f(x))


def shifts_by_a_matrix(model, ids):
    shift = torch.eye(model.config.n_embd)  # on the CPU, in a product that meta alone would let pass
    return nb02.logits_from_parts(model, ids) + 0 * (model.transformer.wte(ids) @ shift).sum(-1, keepdim=True)


def starts_anew(model, ids):
    parts = model.transformer
    start = parts.wte(ids) + parts.wpe(torch.arange(ids.shape[1], device=ids.device))
    for block in parts.h:
        x = block(start)
    return model.lm_head(parts.ln_f(x))


def through_the_embedding(model, ids):
    parts = model.transformer
    x = parts.wte(ids) + parts.wpe(torch.arange(ids.shape[1], device=ids.device))
    for block in parts.h:
        x = block(x)
    return parts.ln_f(x) @ parts.wte.weight.T


# --- tied weights


def tie_with(what, gives_back=True):
    """An attempt at tying: what computes the head's new weight from the embedding's."""
    def attempt(model):
        model.lm_head.weight = what(model.transformer.wte.weight)
        return model if gives_back else None
    return attempt


def by_data(model):
    model.lm_head.weight.data = model.transformer.wte.weight.data
    return model


def replaced(model):
    model.lm_head = model.transformer.wte
    return model


def copied(model):
    with torch.no_grad():
        model.lm_head.weight.copy_(model.transformer.wte.weight)
    return model


def the_other_way(model):
    model.transformer.wte.weight = model.lm_head.weight
    return model


WRONG = {
    "positions": [
        (lambda ids: torch.arange(ids.shape[1]), "Use the device of ids"),
        (lambda ids: torch.arange(ids.shape[0], device=ids.device), "counted the B sequences"),
        (lambda ids: torch.arange(ids.numel(), device=ids.device), "expected positions of shape (5,)"),
        (lambda ids: torch.arange(1, ids.shape[1] + 1, device=ids.device), "first position is 0"),
        (lambda ids: torch.arange(float(ids.shape[1]), device=ids.device), "whole numbers"),
        (lambda ids: list(range(ids.shape[1])), "as a tensor"),
        (lambda ids: ids[0], "yours are [7, 7, 7, 7, 7]"),
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
        (lambda module, device: len(plain(module, device)), "Return a list of names."),
    ],
    "attend": [
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
        (lambda self, x: nb02.attention_forward(self, x) + x, "added outside"),
        (lambda self, x: nb02.attention_forward(self, x)[:, -1], "Expected the shape of x"),
        (lambda self, x: self.c_proj(x), "largest difference"),
        (lambda self, x: nb02.attention_forward(self, x).detach(), "no gradient"),
        (mask_on_the_cpu, "device=x.device"),
        (attend_with(merge=lambda heads: attention.merge_heads(heads).detach()), "c_attn gets no gradient, or not"),
        (attend_with(attend=weighing(lambda scores: masked(scores).softmax(-1).detach())), "was detached on the way"),
        (attend_with(attend=lambda q, k, v: attention.attention(q, k, v.detach())), "c_attn gets no gradient"),
        (lambda self, x: nb02.attention_forward(self, x.detach()), "but x gets no gradient"),
        (detached_projection, "c_proj gets no gradient"),
        (lambda self, x: nb02.attention_forward(self, x) + x, "in the block (section 2)"),
        *((attend_with(split=lambda x, nh: x, merge=lambda x: x,
                       attend=weighing(lambda scores: masked(scores).softmax(-1), divisor=divisor)),
           "one head of full width") for divisor in (None, 1, math.sqrt(8))),
        *((reordered(*order), "The order is Q, K, V.") for order in ((0, 2, 1), (2, 0, 1), (2, 1, 0))),
        *((reordered(*order), "order in the fused matrix is Q, K, V.") for order in ((1, 0, 2), (1, 2, 0))),
    ],
    "parts": [
        *((model_with(block=mistake), message) for message, mistake in nb02.block_mistakes().items()),
        (model_with(positions=False), "positions are missing"),
        (model_with(norm=False), "ln_f, is missing"),
        (model_with(blocks=lambda h: []), "never goes through the blocks"),
        (model_with(blocks=lambda h: h[:1]), "Only the first block"),
        (model_with(blocks=lambda h: reversed(h)), "from the last to the first"),
        (model_with(finish=lambda logits: logits.softmax(-1)), "Those are probabilities"),
        (model_with(finish=lambda logits: logits.log_softmax(-1)), "logarithms of probabilities"),
        (model_with(finish=lambda logits: logits / math.sqrt(24)), "divide the logits"),
        (model_with(finish=lambda logits: logits[:, -1]), "of shape (B, T, V)"),
        (lambda model, ids: model.transformer.wte(ids), "the shape of vectors"),
        (model_with(block=lambda block, x: 2 * block(x)), "largest difference"),
        (starts_anew, "only the last one counts"),
        (through_the_embedding, "Another model may be untied"),
        (forgets_the_device, "embedding got tensors on two devices"),
        (shifts_by_a_matrix, "Exercise 1"),
        (lambda model, ids: model(ids), "you have not opened the blocks"),
        (model_with(block=lambda block, x: block(x)), "Call block.attn and block.mlp"),
        (model_with(block=lambda block, x: block.forward(x)), "you have not opened the blocks"),
    ],
    "tied": [
        (tie_with(nn.Parameter), "share their memory"),
        (by_data, "share their memory"),
        (tie_with(lambda weight: nn.Parameter(weight.detach().clone())), "This is a copy"),
        (copied, "This is a copy"),
        (replaced, "You replaced the module"),
        (lambda model: model, "the same values."),
        (lambda model: GPT(nb02.SMALL), "values are lost"),
        (the_other_way, "values are lost"),
        (tie_with(lambda weight: weight, gives_back=False), "return the model"),
        (tie_with(lambda weight: weight.requires_grad_(False)), "no gradient"),
    ],
}


def raw_tensors(model, ids):
    """The forward pass with functions in place of modules."""
    w = dict(model.named_parameters())
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]]
    for i, block in enumerate(model.transformer.h):
        p = {name: tensor for name, tensor in block.named_parameters()}
        normed = F.layer_norm(x, x.shape[-1:], p["ln_1.weight"], p["ln_1.bias"])
        x = x + attention.multi_head_attention(normed, p["attn.c_attn.weight"], p["attn.c_attn.bias"],
                                               p["attn.c_proj.weight"], p["attn.c_proj.bias"], model.config.n_head)
        normed = F.layer_norm(x, x.shape[-1:], p["ln_2.weight"], p["ln_2.bias"])
        wide = F.gelu(F.linear(normed, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"]), approximate="tanh")
        x = x + F.linear(wide, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
    x = F.layer_norm(x, x.shape[-1:], w["transformer.ln_f.weight"], w["transformer.ln_f.bias"])
    return x @ model.lm_head.weight.T


RIGHT = [
    ("positions", lambda ids: (ids[0] == ids[0]).cumsum(0) - 1),
    ("positions", lambda ids: torch.arange(ids.shape[1]).to(ids.device)),
    ("strays", lambda module, device: set(plain(module, torch.device(device).type))),
    ("strays", lambda module, device: (name for name in plain(module, device))),
    ("attend", attend_with(attend=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))),
    ("attend", attend_with()),
    ("parts", model_with()),
    ("parts", model_with(finish=lambda logits: logits.double())),
    ("parts", raw_tensors),
    ("tied", lambda model: nb02.tie(copy.deepcopy(model))),
]


@pytest.mark.parametrize("name, attempt", RIGHT)
def test_other_right_answers_are_accepted(name, attempt, capsys):
    getattr(nb02, name).check(attempt)
    printed = capsys.readouterr().out
    assert ": correct." in printed, printed


def test_the_stray_tensors_are_those_that_do_not_follow():
    module = nb02.LeakyEmbedding(20, 8, 6)
    assert set(devices.stray_tensors(module.to("meta"), "meta")) == {"scale", "masks", "norm.beta"}
    assert devices.stray_tensors(GPT(GPTConfig(vocab_size=9, n_embd=4, n_layer=1, n_head=1)).to("meta"), "meta") == []


def test_pytorchs_own_attention_gets_a_remark(capsys):
    nb02.attend.check(attend_with(attend=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)))
    assert "correct" in (message := capsys.readouterr().out) and "Now write what it does" in message
    nb02.attend.check(nb02.attend.solution)
    assert "Now write" not in capsys.readouterr().out


def test_one_device_stops_what_a_gpu_would_stop():
    ghost, ids = nb02.tie(GPT(nb02.SMALL).to("meta")), torch.zeros(1, 3, dtype=torch.int64, device="meta")
    with devices.OneDevice():
        assert ghost(ids).device.type == "meta" and (ghost.lm_head.weight * torch.tensor(2.0)).is_meta
        assert ghost.transformer.wpe.weight[torch.arange(3)].is_meta
        with pytest.raises(RuntimeError, match="embedding got tensors on two devices, cpu and meta"):
            ghost.transformer.wpe(torch.arange(3))


def test_own_attention_runs_inside_the_context_only(capsys):
    torch.manual_seed(0)
    model, ids, calls = GPT(nb02.SMALL), torch.arange(6)[None], []

    def counted(self, x):
        calls.append(x.shape)
        return nb02.attention_forward(self, x)

    expected = model(ids)
    with nb02.own_attention(model, counted) as whose:
        calls.clear()
        torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-5)
    assert whose == "your own forward" and len(calls) == nb02.SMALL.n_layer
    model(ids)
    assert len(calls) == nb02.SMALL.n_layer


def test_a_wrong_attention_is_not_used():
    model, ids = GPT(nb02.SMALL), torch.arange(6)[None]
    expected = model(ids)
    with nb02.own_attention(model, attend_with(attend=weighing(lambda scores: scores.softmax(-1)))) as whose:
        assert torch.equal(model(ids), expected)
    assert "the helper's" in whose
