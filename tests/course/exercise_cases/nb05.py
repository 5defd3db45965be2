"""Cases for the exercises of notebook 05."""

import math
import re
from collections import Counter

import numpy as np
import pandas as pd
import torch

from helpers import parameters
from helpers.model import GPTConfig
from tests.course.exercise_cases import Case

# --- biases ----------------------------------------------------------------------------------------------------------


def in_closed_form(C, L):
    return 11 * L * C + C


def one_by_one(C, L):
    total = 0
    for _ in range(L):
        for length in (C, 3 * C, C, C, 4 * C, C):
            total += length
    return total + C


def with_numpy(C, L):
    return np.sum([L, 3 * L, L, L, 4 * L, L, 1]) * C


def with_an_integer_tensor(C, L):
    return torch.tensor([3, 1, 4, 1, 1, 1]).mul(C).sum() * L + C


def with_floats(C, L):
    return C * (11.0 * L + 1.0)


def with_a_dictionary(C, L):
    in_a_block = {"ln_1": C, "c_attn": 3 * C, "attn.c_proj": C, "ln_2": C, "c_fc": 4 * C, "mlp.c_proj": C}
    return sum(in_a_block.values()) * L + {"ln_f": C}["ln_f"]


def widths(seed):
    return 36 * (seed + 1), 5 + 2 * seed


# --- the total by formula and by numel -------------------------------------------------------------------------------


def formula(config):
    C, layer = config.n_embd, lambda rows, columns: rows * columns + columns
    block = layer(C, 3 * C) + layer(C, C) + layer(C, 4 * C) + layer(4 * C, C) + 4 * C
    return (config.vocab_size + config.n_positions) * C + config.n_layer * block + 2 * C


def by_products_of_shapes(model):
    return formula(model.config), sum(math.prod(p.shape) for p in model.parameters())


def by_names_without_the_head(model):
    tensors = {name: tensor.numel() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    return [formula(model.config), sum(tensors.values())]


def as_integer_tensors(model):
    counted = torch.tensor([p.nelement() for _, p in model.named_parameters()]).sum()
    return torch.stack([torch.tensor(formula(model.config)), counted])


def as_a_numpy_array(model):
    return np.array([formula(model.config), sum(np.prod(p.shape) for p in model.parameters())])


def by_modules(model):
    seen = {id(p): p.numel() for module in model.modules() for p in module.parameters(recurse=False)}
    return formula(model.config), sum(seen.values())


def in_one_polynomial(model):
    C, c, count = model.config.n_embd, model.config, 0
    for parameter in model.parameters():
        count += parameter.numel()
    return float(C * (c.vocab_size + c.n_positions + 2) + c.n_layer * (12 * C**2 + 13 * C)), float(count)


def some_model(seed):
    heads = seed + 2
    return (parameters.meta_model(GPTConfig(vocab_size=211 + seed, n_positions=23 + 5 * seed, n_embd=6 * heads,
                                            n_layer=4 + seed, n_head=heads)),)


# --- shares by name --------------------------------------------------------------------------------------------------


def by_parts_of_the_name(model):
    found = dict.fromkeys(("embeddings", "attention", "MLP", "LayerNorm"), 0)
    for name, parameter in model.named_parameters():
        parts = set(name.split("."))
        if parts & {"wte", "wpe"}:
            found["embeddings"] += parameter.numel()
        elif "attn" in parts:
            found["attention"] += parameter.numel()
        else:
            found["MLP" if "mlp" in parts else "LayerNorm"] += parameter.numel()
    return {group: count / sum(found.values()) * 100 for group, count in found.items()}


def by_regular_expressions(model):
    rules = {"LayerNorm": r"\bln_", "MLP": r"\bmlp\b", "attention": r"\battn\b", "embeddings": r"\bw[tp]e\b"}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return {group: 100 * sum(n for name, n in sizes.items() if re.search(rule, name)) / sum(sizes.values())
            for group, rule in rules.items()}


def as_a_series(model):
    table = pd.DataFrame([(name, p.numel()) for name, p in model.named_parameters()], columns=["name", "count"])
    found = {group: table["count"][table["name"].str.contains(part, regex=False)].sum()
             for group, part in (("attention", ".attn."), ("MLP", ".mlp."), ("LayerNorm", ".ln_"))}
    found["embeddings"] = table["count"].sum() - sum(found.values())
    return pd.Series(found) * 100 / table["count"].sum()


def as_tensors(model):
    sizes = {name: torch.tensor(tensor.numel()) for name, tensor in model.named_parameters()}

    def share(*parts):
        found = [size for name, size in sizes.items() if set(parts) & set(name.split("."))]
        return 100 * sum(found) / sum(sizes.values())

    return {"embeddings": share("wte", "wpe"), "attention": share("attn"), "MLP": share("mlp"),
            "LayerNorm": share("ln_1", "ln_2", "ln_f")}


def with_a_counter(model):
    short = {"wte": "embeddings", "wpe": "embeddings", "attn": "attention", "mlp": "MLP", "ln_1": "LayerNorm",
             "ln_2": "LayerNorm", "ln_f": "LayerNorm"}
    found, total = Counter(), 0
    for name, tensor in model.named_parameters():
        found[next(short[part] for part in name.split(".") if part in short)] += tensor.numel()
        total += tensor.numel()
    return Counter({group: 100 / total * count for group, count in found.items()})


# --- groups that form a partition ------------------------------------------------------------------------------------


def by_splitting(name):
    parts = name.split(".")
    if "norm" in parts[-2] or parts[-2].startswith("ln_"):
        return "norms"
    if "self_attn" in parts or "attn" in parts:
        return "attention"
    if "mlp" in parts:
        return "MLP"
    return "unembedding" if parts[0] == "lm_head" else "embeddings"


def by_a_table(name):
    for word, found in (("norm", "norms"), ("ln_", "norms"), ("embed", "embeddings"), ("wte", "embeddings"),
                        ("wpe", "embeddings"), ("attn", "attention"), ("mlp", "MLP"), ("head", "unembedding")):
        if word in name:
            return found


def by_matching(name):
    match name.split("."):
        case ["lm_head", *_]:
            return "unembedding"
        case [*_, "wte" | "wpe" | "embed_tokens", _]:
            return "embeddings"
        case [*_, layer, _] if "norm" in layer or layer in ("ln_1", "ln_2", "ln_f"):
            return "norms"
        case [*_, "mlp", _, _]:
            return "MLP"
    return "attention"


def by_one_expression(name):
    found = re.search(r"(norm|ln_\w)\.|(attn)|(mlp)|(lm_head)|(embed|wte|wpe)", name.replace("self_attn.q_norm", "norm")
                      .replace("self_attn.k_norm", "norm"))
    return ("norms", "attention", "MLP", "unembedding", "embeddings")[found.lastindex - 1]


def by_all_matches(name):
    words = {"norms": ["norm", "ln_1", "ln_2", "ln_f"], "attention": ["attn"], "MLP": ["mlp"],
             "unembedding": ["lm_head"], "embeddings": ["wte", "wpe", "embed_tokens"]}
    fitting = [group for group, own in words.items() if any(word in name for word in own)]
    return np.array(fitting)[0]


FAMILY = """model.embed_tokens.weight model.layers.{i}.self_attn.q_proj.weight model.layers.{i}.self_attn.k_norm.weight
model.layers.{i}.self_attn.o_proj.bias model.layers.{i}.mlp.gate_proj.weight model.layers.{i}.input_layernorm.weight
model.layers.{i}.post_attention_layernorm.weight model.norm.weight lm_head.weight transformer.wte.weight
transformer.wpe.weight transformer.h.{i}.ln_1.bias transformer.h.{i}.attn.c_proj.weight
transformer.h.{i}.mlp.c_proj.bias transformer.ln_f.weight"""


def names(seed):
    return (FAMILY.format(i=seed + 4).split(),)


def group_all(attempt, given):
    return [str(attempt(name)) for name in given]


# --- a Llama by formula ----------------------------------------------------------------------------------------------


def with_a_list_of_shapes(V, C, L, F, heads, kv_heads, hs, tied):
    attention = [(C, heads * hs), (C, kv_heads * hs), (C, kv_heads * hs), (heads * hs, C)]
    block = [*attention, (C, F), (C, F), (F, C), (C,), (C,)]
    outside = [(V, C), (C,)] + [(V, C)] * (not tied)
    return sum(math.prod(shape) for shape in block * L + outside)


def llama_in_closed_form(V, C, L, F, heads, kv_heads, hs, tied):
    return C * ((2 - tied) * V + 1 + L * (2 + 3 * F + 2 * hs * (heads + kv_heads)))


def step_by_step(V, C, L, F, heads, kv_heads, hs, tied):
    total = V * C
    for _ in range(L):
        total += C  # before attention
        total += C * hs * heads
        total += C * hs * kv_heads * 2
        total += hs * heads * C
        total += C  # before the MLP
        for _ in range(3):
            total += C * F
    total += C
    if not tied:
        total += V * C
    return total


def with_numpy_integers(V, C, L, F, heads, kv_heads, hs, tied):
    matrices = np.array([C * heads * hs, C * kv_heads * hs, C * F], dtype=np.int64) @ np.array([2, 2, 3])
    return np.int64(V) * C * (1 if tied else 2) + L * matrices + (L + L + 1) * C


def from_meta_tensors(V, C, L, F, heads, kv_heads, hs, tied):
    def empty(*shape):
        return torch.empty(shape, device="meta").numel()

    attention = 2 * empty(C, heads, hs) + empty(2, C, kv_heads, hs)
    return float(empty(V, C) * (1 + (not tied)) + empty(L, 3, C, F) + empty(2 * L + 1, C) + L * attention)


def with_square_matrices(V, C, L, F, heads, kv_heads, hs, tied):
    attention = 2 * C * C + 2 * C * kv_heads * hs  # right where heads * hs is C, as in these four published models
    return V * C * (2 - tied) + L * (attention + 3 * C * F + 2 * C) + C


def with_shared_heads_as_a_ratio(V, C, L, F, heads, kv_heads, hs, tied):
    ratio = kv_heads / heads
    return round(V * C * (2 - tied) + L * (C * C * (2 + 2 * ratio) + 3 * C * F + 2 * C) + C)


def llamas(seed):
    return 300 + seed, 40 + 24 * seed, 3 + seed, 100 + 7 * seed, 8 - seed, 1 + seed // 2, 5 + 3 * seed, seed % 2 == 0


CASES = {
    "biases": Case([in_closed_form, one_by_one, with_numpy, with_an_integer_tensor, with_floats, with_a_dictionary],
                   widths),
    "total": Case([by_products_of_shapes, by_names_without_the_head, as_integer_tensors, as_a_numpy_array, by_modules,
                   in_one_polynomial], some_model),
    "shares": Case([by_parts_of_the_name, by_regular_expressions, as_a_series, as_tensors, with_a_counter], some_model),
    "groups": Case([by_splitting, by_a_table, by_matching, by_one_expression, by_all_matches], names, group_all),
    "llama": Case([with_a_list_of_shapes, llama_in_closed_form, step_by_step, with_numpy_integers, from_meta_tensors,
                   with_square_matrices, with_shared_heads_as_a_ratio], llamas),
}
