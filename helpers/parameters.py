"""Counting parameters, of GPT-2 by formula and by measurement, and of today's models (notebooks 02 and 05)."""

import torch

from helpers.model import GPT, SIZES

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
            f"The parameter {name!r} fits {fitting or 'no group'}; expected exactly one of {list(GROUPS)}."
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
    """The same counts from the configuration alone, term by term. V, P, C, L: vocabulary, positions, width, layers."""
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
    """A GPT whose tensors have shapes but no contents: any size can be counted without memory."""
    with torch.device("meta"):
        return GPT(config)


# Beyond GPT-2 (notebook 05). Configurations as in config.json at huggingface.co/<repository>, and the total number of
# parameters that the same page states. Mixtral: Jiang et al. 2024, arXiv:2401.04088. Qwen3: arXiv:2505.09388.
FIELDS = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads",
          "num_key_value_heads", "head_dim", "tie_word_embeddings")
PUBLISHED = {  # name: repository, its total, kind of model, FIELDS
    "Phi-3 mini": ("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552, "phi3",
        (32064, 3072, 32, 8192, 32, 32, 96, False)),
    "SmolLM2 135M": ("HuggingFaceTB/SmolLM2-135M", 134_515_008, "llama", (49152, 576, 30, 1536, 9, 3, 64, True)),
    "Llama 3.2 1B": ("meta-llama/Llama-3.2-1B", 1_235_814_400, "llama", (128256, 2048, 16, 8192, 32, 8, 64, True)),
    "Gemma 2 2B": ("google/gemma-2-2b", 2_614_341_888, "gemma2", (256000, 2304, 26, 9216, 8, 4, 256, True)),
    "Mistral 7B v0.1": ("mistralai/Mistral-7B-v0.1", 7_241_732_096, "mistral",
        (32000, 4096, 32, 14336, 32, 8, 128, False)),
    "Qwen2.5 7B": ("Qwen/Qwen2.5-7B", 7_615_616_512, "qwen2", (152064, 3584, 28, 18944, 28, 4, 128, False)),
    "Llama 3.1 8B": ("meta-llama/Llama-3.1-8B", 8_030_261_248, "llama", (128256, 4096, 32, 14336, 32, 8, 128, False)),
    "Qwen3 8B": ("Qwen/Qwen3-8B", 8_190_735_360, "qwen3", (151936, 4096, 36, 12288, 32, 8, 128, False)),
    "Qwen3 30B-A3B": ("Qwen/Qwen3-30B-A3B", 30_532_122_624, "qwen3_moe", (151936, 2048, 48, 6144, 32, 4, 128, False)),
    "Mixtral 8x7B": ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, "mixtral",
        (32000, 4096, 32, 14336, 32, 8, 128, False)),
}
EXPERTS = {"Qwen3 30B-A3B": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
           "Mixtral 8x7B": {"num_local_experts": 8, "num_experts_per_tok": 2}}
PARTS = {  # in this order: Qwen3's self_attn.q_norm is a norm, and so is Llama's post_attention_layernorm
    "norms": ("norm.", ".ln_"),
    "embeddings": (".embed_tokens.", ".wte.", ".wpe."),
    "attention": (".self_attn.", ".attn."),
    "MLP": (".mlp.", ".block_sparse_moe."),  # Mixtral's, in transformers 4
    "unembedding": ("lm_head.",),
}


def architecture(name, **changes):
    """A transformers model on the meta device: one of PUBLISHED or of SIZES. changes replace fields of its config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if name in SIZES:
        config = AutoConfig.for_model("gpt2", **{**SIZES[name], **changes})
    else:
        _, _, kind, values = PUBLISHED[name]
        config = AutoConfig.for_model(kind, **{**dict(zip(FIELDS, values)), **EXPERTS.get(name, {}), **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # early versions of transformers 5 leave them untied on the meta device
    return model


def part_of(name):
    """The part of a model that a parameter's name belongs to, in all of these families. ValueError if none fits."""
    for part, pieces in PARTS.items():
        if any(piece in name for piece in pieces):
            return part
    raise ValueError(f"The parameter {name!r} fits none of {list(PARTS)}.")


def count_parts(model):
    """The number of unique parameters by part, and their "total": {part: count}. Norms inside attention are norms."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def costs_per_token(model, context, cache_bytes=2):
    """What one token costs a transformers model that attends to context tokens: {"active", "flops", "cache"}.

    active: parameters in use (in a mixture of experts, only the chosen experts). flops: of the forward pass, 2 for each
    entry of a matrix, and 4 for each element of a query, in each layer and for each token attended to. cache: bytes of
    the keys and values, with cache_bytes for each element.
    """
    config, active, multiplied = model.config, 0, 0
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", 1)
    for name, parameter in model.named_parameters():
        used = parameter.numel()
        if ".experts." in name:
            used = used * config.num_experts_per_tok // experts
        looked_up = ".wpe." in name or (part_of(name) == "embeddings" and not config.tie_word_embeddings)
        active += used
        multiplied += used if parameter.dim() > 1 and not looked_up else 0  # a tied embedding is also the last matrix
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return {"active": active, "flops": 2 * multiplied + 4 * layers * heads * size * context,
            "cache": 2 * layers * shared * size * cache_bytes}
