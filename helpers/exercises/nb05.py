"""Exercises of notebook 05: count the biases, name groups that partition, count a Llama by formula."""

from helpers import parameters
from helpers.exercises import Exercise, NotYet, needs_answer
from helpers.model import SIZES, GPTConfig

# --- biases ----------------------------------------------------------------------------------------------------------


def count_biases(C, L):
    """The number of parameters in a GPT-2's biases, LayerNorm's betas included. C: width, L: blocks."""
    in_a_block = (3 * C + C) + (4 * C + C) + 2 * C  # c_attn and c_proj, c_fc and c_proj, two betas
    return L * in_a_block + C  # and the beta of the last LayerNorm


def _test_biases(attempt):
    """Compares a count of biases with the four sizes' models."""
    for name, shape in SIZES.items():
        C, L = shape["n_embd"], shape["n_layer"]
        model = parameters.meta_model(GPTConfig.named(name))
        right = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias"))
        answer = needs_answer(attempt(C, L))
        mistakes = {
            9 * L * C: "You have the four matrices' biases. LayerNorm's betas are missing.",
            11 * L * C: "Every block is right. One LayerNorm stands after the last block.",
            (11 * L + 1) * C - 2 * L * C: "Each block has two LayerNorms, so two betas.",
            (11 * L + 1) * C + 50257: "The unembedding has no bias.",
        }
        if answer != right:
            raise NotYet(mistakes.get(answer, f"{name} has {right:,} numbers in its biases; you count {answer:,}."))
    return "All four sizes agree with the model, to the unit."


# --- groups ----------------------------------------------------------------------------------------------------------


def group(name):
    """One of "embeddings", "attention", "MLP", "norms" and "unembedding", for a parameter's name."""
    if "norm." in name or ".ln_" in name:  # first: Llama has a post_attention_layernorm
        return "norms"
    if "attn" in name:
        return "attention"
    if "mlp" in name:
        return "MLP"
    return "unembedding" if "lm_head" in name else "embeddings"


def _test_group(attempt):
    """Compares a rule with part_of on the names of four families."""
    for model_name in ("gpt2", "Llama 3.1 8B", "Gemma 2 2B", "Qwen3 8B"):
        for name, parameter in parameters.architecture(model_name, num_hidden_layers=1).named_parameters():
            answer, right = attempt(name), parameters.part_of(name)
            if answer is None and model_name == "gpt2" and "wte" in name:
                needs_answer(answer)
            if answer != right:
                raise NotYet(f"{model_name}: {name}, shape {tuple(parameter.shape)}, belongs to {right!r}; "
                             f"your function says {answer!r}.")
    return "Every parameter of four families has exactly one group, so the groups add up to the total."


# --- a Llama by formula ----------------------------------------------------------------------------------------------


def count_llama(V, C, L, F, heads, kv_heads, hs, tied):
    """A Llama's parameters from its configuration."""
    attention = C * heads * hs + 2 * C * kv_heads * hs + heads * hs * C  # Q; K and V; the output projection
    mlp = 3 * C * F  # gate, up, down
    norms = (2 * L + 1) * C  # RMSNorm has a gamma and no beta
    return V * C + L * (attention + mlp) + norms + (0 if tied else V * C)


def llama_mistakes(V, C, L, F, heads, kv_heads, hs, tied):
    """Totals with one typical mistake: {total: what to say}."""
    right = count_llama(V, C, L, F, heads, kv_heads, hs, tied)
    return {
        count_llama(V, C, L, F, heads, heads, hs, tied): "K and V have kv_heads heads, fewer than Q has.",
        right - L * C * F: "The MLP is gated: three matrices of C x F, not two.",
        right + (2 * L + 1) * C: "RMSNorm has a gamma and no beta.",
        right - C: "One norm stands after the last block.",
        count_llama(V, C, L, F, heads, kv_heads, hs, not tied): "Look at tied: when does the unembedding count?",
        right - L * C * heads * hs: "Attention has four matrices. Is one of Q and the output projection missing?",
    }


def _test_llama(attempt):
    """Compares a formula with four published totals."""
    for name in ("Llama 3.1 8B", "Llama 3.2 1B", "SmolLM2 135M", "Mistral 7B v0.1"):
        _, total, _, (V, C, L, F, heads, kv_heads, hs, tied) = parameters.PUBLISHED[name]
        shape = (V, C, L, F, heads, kv_heads, hs, tied)
        answer = needs_answer(attempt(*shape))
        if answer != total:
            reason = llama_mistakes(*shape).get(answer, "Write each term on a line of its own and print it.")
            raise NotYet(f"{name} has {total:,} parameters; you count {answer:,}. {reason}")
    return "Four published models, to the unit, from eight numbers each."


biases = Exercise("Count the biases", 1, 5,
                  "Each matrix has one bias per output number: list the outputs of c_attn, c_proj, c_fc and the second "
                  "c_proj. Then the betas: two LayerNorms in each block and one at the end.",
                  _test_biases, count_biases)
groups = Exercise("Groups that partition", 2, 10,
                  "Print the names of architecture('Llama 3.1 8B', num_hidden_layers=1). Which names contain two of "
                  "your key words? The order of your questions decides there: ask for the norms first.",
                  _test_group, group)
llama = Exercise("A Llama by formula", 3, 15,
                 "Q maps C numbers to heads * hs, K and V each to kv_heads * hs, and the output maps heads * hs back "
                 "to C. The MLP has three matrices of C x F. Nothing has a bias. Norms: 2 L + 1 gammas.",
                 _test_llama, count_llama)
