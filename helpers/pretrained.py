"""Hugging Face's GPT-2 to Model 5 and back: the same names and weights, checked tensor by tensor (notebook 04)."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from helpers.machine import assets
from helpers.model import GPT, GPTConfig

# Hugging Face stores these four as Conv1D, (inputs, outputs); nn.Linear stores (outputs, inputs).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# GPT-2's values in Hugging Face's configuration. With another value the model is not Model 5.
EXPECTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}

DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")  # Hugging Face's three probabilities; Model 5 has one for all


def from_huggingface(hf_model):
    """transformers' GPT2LMHeadModel -> GPT with the same weights, on the same device and in the same type.

    The dropout comes along: it acts in training only. Hugging Face's configuration of GPT-2 has 0.1; whether OpenAI
    trained GPT-2 with dropout was not published. Raises TypeError for another kind of model, and ValueError that names
    every tensor that is missing, left over or of another shape (both shapes are given), or a setting that Model 5 does
    not have.
    """
    if not isinstance(hf_model, GPT2LMHeadModel):
        raise TypeError(
            f"from_huggingface got a {type(hf_model).__name__}; expected a transformers GPT2LMHeadModel."
        )
    hf = hf_model.config
    for field, allowed in EXPECTED.items():
        if getattr(hf, field) not in allowed:
            raise ValueError(
                f"{field}={getattr(hf, field)!r}: Model 5 is GPT-2, which has {' or '.join(map(repr, allowed))}."
            )
    if hf.n_inner not in (None, 4 * hf.n_embd):
        raise ValueError(f"n_inner={hf.n_inner}: Model 5's MLP is 4 * n_embd = {4 * hf.n_embd} wide.")
    if len({getattr(hf, field) for field in DROPOUTS}) > 1:
        given = ", ".join(f"{field}={getattr(hf, field)}" for field in DROPOUTS)
        raise ValueError(f"{given}: Model 5 has one dropout for all three. Make them equal in the model's config.")
    fields = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon", "tie_word_embeddings")
    with torch.device("meta"):
        model = GPT(GPTConfig(dropout=hf.resid_pdrop, **{field: getattr(hf, field) for field in fields}))
    weight = hf_model.transformer.wte.weight
    model = model.to_empty(device=weight.device).to(weight.dtype)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.transformer.wte.weight  # to_empty() has separated them
    copy_weights(hf_model.state_dict(), model)
    return model.train(hf_model.training)


def copy_weights(state, model):
    """Copies a Hugging Face state dictionary into a GPT, after checking every name and shape both ways."""
    own = model.state_dict()
    # Old checkpoints also carry the causal mask as a buffer, which is not a weight.
    state = {name: tensor for name, tensor in state.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
    state = {name: tensor.T if name.endswith(TRANSPOSED) else tensor for name, tensor in state.items()}
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} has no place in Model 5" for name in state if name not in own]
    problems += [
        f"{name} has the shape {tuple(state[name].shape)}, Model 5's has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"These weights do not fit Model 5 with {model.config}: {shown}.")
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)  # own's tensors share their memory with the model's parameters


def to_huggingface(model):
    """GPT -> transformers' GPT2LMHeadModel with the same weights, for example to save with save_pretrained()."""
    config = model.config
    hf_model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.n_positions, n_embd=config.n_embd, n_layer=config.n_layer,
            n_head=config.n_head, layer_norm_epsilon=config.layer_norm_epsilon,
            tie_word_embeddings=config.tie_word_embeddings,
            **dict.fromkeys(DROPOUTS, config.dropout),
            bos_token_id=config.vocab_size - 1, eos_token_id=config.vocab_size - 1,
        )
    )
    state = {name: tensor.T if name.endswith(TRANSPOSED) else tensor for name, tensor in model.state_dict().items()}
    hf_model.load_state_dict(state)
    return hf_model.train(model.training)


def load_huggingface_gpt2(**settings):
    """transformers' own GPT-2 small from the course's files, or the course's GPT-2, announced by a line.

    settings go to from_pretrained, such as attn_implementation="eager".
    """
    files = {"local_files_only": True, "use_safetensors": True}  # never a pickle
    return AutoModelForCausalLM.from_pretrained(assets.gpt2_weights().path, **files, **settings)


def load_course_gpt2():
    """Model 5 with the weights of the course's GPT-2, in evaluation mode, whether or not OpenAI's are available."""
    theirs = AutoModelForCausalLM.from_pretrained(assets.DATA / "gpt2-course", local_files_only=True)
    return from_huggingface(theirs).eval()


def load_huggingface_tokenizer():
    """transformers' tokenizer of the model that load_huggingface_gpt2 returns."""
    weights = assets.gpt2_weights()
    if weights.is_stand_in:
        return AutoTokenizer.from_pretrained(weights.path, local_files_only=True)
    folder = assets.gpt2_encoding_folder()
    paths = {original: str(folder / name) for name, (original, _) in assets.TIKTOKEN_FILES.items()}
    return GPT2Tokenizer(vocab=paths["encoder.json"], merges=paths["vocab.bpe"])


def load_gpt2():
    """Model 5 with OpenAI's weights, in evaluation mode. Where they are not available, it is the course's GPT-2, and a
    visible line says so."""
    return from_huggingface(load_huggingface_gpt2()).eval()
