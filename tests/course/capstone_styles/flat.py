"""All parameters in one flat vector, of which the functions take views; the arithmetic is in float64."""

import itertools
import math

import torch
import torch.nn.functional as F

from helpers.course.capstone import Adapter


class Flat:
    def __init__(self, config):
        V, P, C, L = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
        self.L, self.nh, self.shapes = L, config.n_head, {"wte.weight": (V, C), "wpe.weight": (P, C)}
        for i, (name, shape) in itertools.product(range(L), {
                "ln_1": (C,), "attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "ln_2": (C,), "mlp.c_fc": (4 * C, C),
                "mlp.c_proj": (C, 4 * C)}.items()):
            self.shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[:1]}
        self.shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
        self.vector = torch.zeros(sum(map(math.prod, self.shapes.values())))
        for name, part in self.parts().items():
            if part.ndim == 2:
                part.normal_(0, 0.02 / math.sqrt(2 * L) if "c_proj" in name else 0.02)
            elif name.endswith("weight"):
                part.fill_(1)
        self.vector.requires_grad_()

    def parts(self):
        pieces = self.vector.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces)}

    def forward(self, ids, cache=None):
        p = {name: part.double() for name, part in self.parts().items()}
        before = cache[0].shape[-2] if cache else 0
        x = p["wte.weight"][ids] + p["wpe.weight"][before:][: ids.shape[1]]
        kept = []
        for i in range(self.L):
            def use(name, x, i=i):
                weight, bias = p[f"h.{i}.{name}.weight"], p[f"h.{i}.{name}.bias"]
                return F.layer_norm(x, bias.shape, weight, bias) if "ln" in name else F.linear(x, weight, bias)

            q, k, v = use("attn.c_attn", use("ln_1", x)).unflatten(-1, (3, self.nh, -1)).permute(2, 0, 3, 1, 4)
            kv = torch.stack((k, v)) if not cache else torch.cat((cache[i], torch.stack((k, v))), dim=-2)
            kept.append(kv)
            bias = torch.full((q.shape[-2], kv.shape[-2]), -math.inf).triu(1 + before)
            heads = torch.softmax(q @ kv[0].mT * q.shape[-1] ** -0.5 + bias, -1) @ kv[1]
            x = x + use("attn.c_proj", heads.permute(0, 2, 1, 3).flatten(-2))
            x = x + use("mlp.c_proj", F.gelu(use("mlp.c_fc", use("ln_2", x)), approximate="tanh"))
        x = F.layer_norm(x, x.shape[-1:], p["ln_f.weight"], p["ln_f.bias"])
        return x @ p["wte.weight"].T, kept


def loss(model, ids, targets):
    return F.cross_entropy(model.forward(ids)[0].reshape(-1, model.shapes["wte.weight"][0]), targets.reshape(-1))


def load(model, weights):
    with torch.no_grad():
        for name, part in model.parts().items():
            part.copy_(weights["transformer." + name])


@torch.no_grad()
def generate(model, ids, n, use_cache):
    text, cache = [ids], None
    for _ in range(n):
        scores, cache = model.forward(text[-1] if use_cache else torch.cat(text, 1), cache if use_cache else None)
        text.append(scores[:, -1:].argmax(-1))
    return torch.cat(text, 1)


ADAPTER = Adapter(build=Flat, parameters=lambda model: [model.vector],
                  logits=lambda model, ids: model.forward(ids)[0], loss=loss, load=load, generate=generate)
