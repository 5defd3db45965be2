"""Counting a GPT-2's parameters, by formula and by measurement (notebooks 02 and 05)."""

import torch

from helpers.model import GPT

# Which group a parameter belongs to, by a part of its name. Every name matches exactly one (tested).
GROUPS = {
    "token embedding": "transformer.wte.",
    "position embedding": "transformer.wpe.",
    "attention": ".attn.",
    "MLP": ".mlp.",
    "LayerNorm": ".ln_",
    "unembedding": "lm_head.",
}


def group_of(name):
    """The group that a parameter's name belongs to. Raises ValueError unless exactly one fits."""
    fitting = [group for group, part in GROUPS.items() if part in name]
    if len(fitting) != 1:
        raise ValueError(
            f"The parameter {name!r} fits {fitting or 'no group'}; exactly one of {list(GROUPS)} was expected."
        )
    return fitting[0]


def count_parameters(model):
    """The number of unique parameters by group, and their "total": {group: count}.

    A tensor that two modules share is counted once, where it appears first. The groups partition the model.
    """
    counts = dict.fromkeys(GROUPS, 0)
    for name, parameter in model.named_parameters():  # lists a shared tensor once
        counts[group_of(name)] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def parameter_formula(config):
    """The same numbers from the configuration alone, term by term. V, P, C, L: vocabulary, positions, width, layers."""
    V, P, C, L = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
    counts = {
        "token embedding": V * C,
        "position embedding": P * C,
        "attention": L * ((3 * C * C + 3 * C) + (C * C + C)),  # c_attn and c_proj, with their biases
        "MLP": L * ((4 * C * C + 4 * C) + (4 * C * C + C)),  # c_fc and c_proj
        "LayerNorm": (2 * L + 1) * 2 * C,  # two per block and a last one, each a gamma and a beta
        "unembedding": 0 if config.tie_word_embeddings else V * C,
    }
    return {**counts, "total": sum(counts.values())}


def meta_model(config):
    """A GPT whose tensors have shapes and no numbers: any size can be counted in no memory."""
    with torch.device("meta"):
        return GPT(config)
