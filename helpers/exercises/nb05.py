"""Exercises of notebook 05: count the biases, the total by formula and by numel, the shares of a model's groups, groups
that partition, a Llama by formula."""

from torch import nn

from helpers import parameters
from helpers.exercises import Exercise, NotYet, needs_answer
from helpers.model import SIZES, GPTConfig

# --- biases ----------------------------------------------------------------------------------------------------------


def count_biases(C, L):
    """The number of parameters in a GPT-2's biases, LayerNorm's betas included. C: width, L: blocks."""
    in_a_block = (3 * C + C) + (4 * C + C) + 2 * C  # c_attn and c_proj, c_fc and c_proj, the two of LayerNorm
    return L * in_a_block + C  # and that of the last LayerNorm


def _test_biases(attempt):
    """Compares a count of biases with the four sizes' models."""
    for name, shape in SIZES.items():
        C, L = shape["n_embd"], shape["n_layer"]
        model = parameters.meta_model(GPTConfig.named(name))
        right = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias"))
        answer = needs_answer(attempt(C, L))
        mistakes = {
            9 * L * C: "You have the four matrices' biases. LayerNorm has biases, too.",
            11 * L * C: "Every block is right. One LayerNorm stands after the last block.",
            (10 * L + 1) * C: "C per block are missing: each block has two LayerNorms.",
            (9 * L + 1) * C: "2C per block are missing. How long is the bias of c_attn, and how many LayerNorms are "
                             "there?",
            (8 * L + 1) * C: "3C per block are missing: look at the bias of c_fc, or of c_attn.",
            11 * C + C: "That is one block. How many are there?",
            right + (2 * L + 1) * C: "LayerNorm's weights are counted as well. Only names that end in bias count here.",
            right + 50257: "The unembedding has no bias: it does not stand in the list.",
        }
        if answer != right:
            raise NotYet(f"{name} has {right:,} numbers in its biases; you count {answer:,}. "
                         + mistakes.get(answer, "Go down the list above, one name that ends in bias after the other."))
    return "All four sizes agree with the model, to the unit."


# --- the total by formula and by numel -------------------------------------------------------------------------------


def count_total(model):
    """GPT-2's number of parameters from its configuration alone, and from its tensors; the model is tied."""
    c = model.config
    V, P, C, L = c.vocab_size, c.n_positions, c.n_embd, c.n_layer
    attention, mlp, norms = (3 * C * C + 3 * C) + (C * C + C), (4 * C * C + 4 * C) + (4 * C * C + C), 2 * 2 * C
    by_formula = V * C + P * C + L * (attention + mlp + norms) + 2 * C
    by_numel = sum(parameter.numel() for parameter in model.parameters())
    return by_formula, by_numel


def _formula_mistakes(V, P, C, L, right):
    """Totals by formula with one typical mistake: {total: what to say}."""
    return {
        right + V * C: "lm_head is counted in. In a tied model it is the token embedding, used again.",
        right - P * C: "The position embedding is missing, P x C numbers.",
        right - 2 * C: "Every block is right. A LayerNorm stands after the last block.",
        right - C: "The last LayerNorm has two vectors of C numbers, not one.",
        right - V * C: "The token embedding is missing. Tied means that one matrix has two tasks, not none.",
        right - 9 * L * C: "The biases of the four matrices are missing.",
        right - (11 * L + 1) * C: "The biases are missing, those of LayerNorm among them.",
        right - (13 * L + 2) * C: "The matrices are right. Biases and LayerNorms are parameters, too.",
        right - 4 * L * C: "The two LayerNorms of each block are missing.",
        right - (4 * L + 2) * C: "The LayerNorms are missing.",
        right - (L - 1) * (12 * C * C + 13 * C): "That is a model with one block. How many are there?",
        right - 2 * L * C * C: "Attention has one matrix more: c_attn makes Q, K and V, each of them C x C.",
        right - 4 * L * C * C: "The MLP has two large matrices, into the wide layer and back.",
    }


def _numel_mistakes(model, right):
    """Totals of tensors with one typical mistake: {total: what to say}."""
    every = dict(model.named_parameters())
    matrix, last, lengths = model.lm_head.weight.numel(), model.transformer.ln_f.bias.numel(), {
        p.numel() for p in every.values()}
    return {
        right + matrix: "The tied matrix is counted twice: you pass it under both of its names.",
        right - matrix: "The tied matrix is not counted at all. It is one tensor, and counts once.",
        len(every): "That is the number of tensors. How many numbers are in each?",
        sum(p.numel() for n, p in every.items() if n.endswith("weight")): "The biases are missing.",
        sum(p.numel() for p in every.values() if p.dim() > 1): "Only matrices are counted, no vectors.",
        sum(lengths): "Tensors of equal size are counted once for all. They are different tensors.",
        **dict.fromkeys((matrix, last), "Only one tensor is left. On the meta device data_ptr() is 0 for all of them."),
    }


def _test_total(attempt):
    """Compares both numbers, at last on a model that lacks a block of its configuration, so that neither can be taken
    for the other."""
    cut = GPTConfig(vocab_size=101, n_positions=17, n_embd=12, n_layer=3, n_head=2)
    for config in (GPTConfig(), GPTConfig.named("gpt2-medium"), cut):
        model = parameters.meta_model(config)
        if config is cut:
            del model.transformer.h[-1]
        answer = needs_answer(attempt(model))
        if not isinstance(answer, (tuple, list)) or len(answer) != 2 or None in answer:
            raise NotYet("Return two numbers: by formula, by numel.")
        right = parameters.parameter_formula(config)["total"], sum(p.numel() for p in model.parameters())
        shape = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
        which = f"V, P, C, L = {', '.join(f'{number:,}' for number in shape)}"
        if answer[0] == right[1] != right[0]:
            raise NotYet("A block was taken out of a model, and your first number noticed. Use model.config only.")
        if answer[0] != right[0]:
            why = _formula_mistakes(*shape, right[0]).get(answer[0], "Compare term by term with the list above.")
            raise NotYet(f"By formula, {which}: {right[0]:,}; you have {answer[0]:,}. {why}")
        if answer[1] == right[0] != right[1]:
            raise NotYet("A block was taken out of a model, and your second number did not notice. Count its tensors.")
        if answer[1] != right[1]:
            why = _numel_mistakes(model, right[1]).get(answer[1], "Which tensors do you pass, and how often?")
            raise NotYet(f"By numel, {which}: {right[1]:,}; you have {answer[1]:,}. {why}")
    return "Two independent counts agree, and the check took a block away to see that they are independent."


# --- shares by name --------------------------------------------------------------------------------------------------

def name_shares(model):
    """The percentages of a GPT-2's parameters in four groups that partition it."""
    words = {"embeddings": (".wte.", ".wpe."), "attention": (".attn.",), "MLP": (".mlp.",), "LayerNorm": (".ln_",)}
    total = sum(p.numel() for p in model.parameters())
    return {group: 100 * sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts))
            / total for group, parts in words.items()}


def _wrapped(config):
    """A model whose parameters' names all begin with a word of its own, as a wrapper makes them."""
    return nn.ModuleDict({"modelnew": parameters.meta_model(config)})


def _share_mistakes(model, group, right):
    """[(percentage as one typical slip gives it, what to say)] for a group whose percentage is right."""
    every = dict(model.named_parameters())
    total, names = sum(p.numel() for p in every.values()), [parameters.part_of(name) for name in every]

    def found(*words):
        return 100 * sum(p.numel() for name, p in every.items() if any(word in name for word in words)) / total

    mistakes = {
        "attention": [(found("c_attn"), "“c_attn” misses attn.c_proj."),
                      (found("attn", "c_proj"), "“c_proj” is in attention and in the MLP.")],
        "MLP": [(found("fc"), "“fc” finds c_fc and misses mlp.c_proj."),
                (found("fc", "c_proj"), "“c_proj” is in attention and in the MLP.")],
        "LayerNorm": [(found(".ln_1.", ".ln_2."), "The last LayerNorm, ln_f, is missing."),
                      (found("ln"), "In this model every name contains “ln”: modelnew. Two letters are too few.")],
        "embeddings": [(found(".wte."), "The position embedding, wpe, is missing."),
                       (found(".wpe."), "The token embedding, wte, is missing."),
                       (right + found(".wte."), "The tied matrix is counted twice.")],
    }
    part = {"LayerNorm": "norms"}.get(group, group)
    return [*mistakes[group],
            (100 * right / (100 + found(".wte.")), "You divide by the untied total: the shared matrix is in it twice."),
            (100 * names.count(part) / len(names), "That is the share of the tensors. Count their numbers."),
            (right / 100, "That is a fraction. A percentage is 100 times as large."),
            (right * total / 100, "That is a number of parameters. Divide by the total.")]


def _test_shares(attempt):
    """Compares the shares of two models, the second of them wrapped."""
    for title, model in (("gpt2", parameters.meta_model(GPTConfig())),
                         ("gpt2-medium in a wrapper", _wrapped(GPTConfig.named("gpt2-medium")))):
        answer = needs_answer(attempt(model))
        if not isinstance(answer, dict) or set(answer) != set(right := name_shares(model)) or None in answer.values():
            raise NotYet(f"Return a dictionary of percentages with the keys {', '.join(name_shares(model))}.")
        for group in right:
            if abs(answer[group] - right[group]) > 1e-4:
                near = (text for slip, text in _share_mistakes(model, group, right[group])
                        if abs(answer[group] - slip) < 1e-4)
                why = next(near, f"Your four add up to {sum(answer.values()):.2f} %. Which names does a filter find?")
                raise NotYet(f"{title}, {group}: {right[group]:.3f} %; you have {answer[group]:.3f}. {why}")
    return "The four add up to 100 %: every parameter is in one group, even with a word before all names."


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


GROUP_SLIPS = {  # part of a name, what was said of it: the likely slip
    ("attention_layernorm", "attention"): "Two of your words are in it. Which question do you ask first?",
    ("feedforward_layernorm", "MLP"): "Two of your words are in it. Which question do you ask first?",
    ("q_norm", "attention"): "It normalises inside attention, and is a norm. Which question do you ask first?",
    ("k_norm", "attention"): "It normalises inside attention, and is a norm. Which question do you ask first?",
    ("mlp.c_proj", "attention"): "A word of yours is in attention's and in the MLP's names.",
    ("attn.c_proj", "MLP"): "A word of yours is in attention's and in the MLP's names.",
    ("model.norm", "embeddings"): "The last norm has a name without “ln” and without “layernorm”.",
    ("lm_head", "embeddings"): "In an untied model the unembedding is a matrix of its own.",
    ("embed_tokens", "unembedding"): "Newer models have another name for wte.",
}


def _test_group(attempt):
    """Compares a rule with part_of on the names of four families."""
    for model_name in ("gpt2", "Llama 3.1 8B", "Gemma 2 2B", "Qwen3 8B"):
        for name, parameter in parameters.architecture(model_name, num_hidden_layers=1).named_parameters():
            answer, right = attempt(name), parameters.part_of(name)
            if answer is None and model_name == "gpt2" and "wte" in name:
                needs_answer(answer)
            if answer != right:
                slips = (text for (part, said), text in GROUP_SLIPS.items() if part in name and said == answer)
                if answer not in parameters.PARTS:
                    slips = iter([f"It is not one of the five groups {', '.join(parameters.PARTS)}."])
                why = next(slips, "Which of your words is in the name, and which is not?")
                raise NotYet(f"{model_name}: {name}, shape {tuple(parameter.shape)}, belongs to {right!r}; your "
                             f"function says {answer!r}. {why}")
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
        right - (2 * L + 1) * C: "The norms are missing.",
        right - L * C: "Each block has two norms.",
        count_llama(V, C, L, F, heads, kv_heads, hs, not tied): "Look at tied: when does the unembedding count?",
        right - L * C * heads * hs: "Attention has four matrices. Is one of Q and the output projection missing?",
        right - L * C * kv_heads * hs: "K and V are two matrices.",
        right + L * (2 * heads * hs + 2 * kv_heads * hs): "Nothing in a Llama has a bias.",
        right + L * (heads + 2 * kv_heads) * hs: "Nothing in a Llama has a bias.",
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


biases = Exercise(
    "Count the biases", 1, 5,
    ("Which names in the list end in bias, and what is the size of each as a multiple of C?",
     "In a block: c_attn 3C, c_proj C, c_fc 4C, the other c_proj C, and two LayerNorms of C each.",
     "Add up the six of a block, times L. Then one more LayerNorm, ln_f."),
    _test_biases, count_biases)
total = Exercise(
    "The total, by formula and by numel", 2, 12,
    ("Write one term for each row of the list: outside the blocks, and inside, times L. Why is lm_head not in it?",
     "A matrix from m to n numbers has m n weights and n biases. V C + P C outside; in a block C x 3C, C x C, C x 4C "
     "and 4C x C with their biases, and two LayerNorms of 2C; after the blocks another one.",
     "Second number: sum(p.numel() for p in model.parameters()). parameters() passes a shared tensor once; "
     "state_dict() passes it under each of its names."),
    _test_total, count_total)
shares = Exercise(
    "Shares by name", 2, 10,
    ("The total is that of model.parameters(). Then for each group the numbers of the tensors whose names fit.",
     "Take the points along: “.mlp.” is a part of a name, “mlp” could be a piece of any word. Print the names that a "
     "filter finds.",
     "Embeddings: .wte. or .wpe.; attention: .attn.; MLP: .mlp.; LayerNorm: .ln_ (ln_1, ln_2 and ln_f). Times 100, "
     "divided by the total."),
    _test_shares, name_shares)
groups = Exercise(
    "Groups that partition", 2, 10,
    ("Print the names of architecture('Llama 3.1 8B', num_hidden_layers=1), and the same for 'gpt2' and 'Gemma 2 2B'. "
     "Which names contain two of your key words?",
     "The order of your questions decides where two words fit: ask for the norms first.",
     "“norm.” and “.ln_” find all norms; then “attn”, then “mlp”, then “lm_head”. What is left are embeddings."),
    _test_group, group)
llama = Exercise(
    "A Llama by formula", 3, 15,
    ("Begin with section 2's table. Which rows are gone, which have another size, and which row is new?",
     "Q maps C numbers to heads * hs, K and V each to kv_heads * hs, and the output maps heads * hs back to C. The MLP "
     "has three matrices of C x F.",
     "Nothing has a bias. Norms: 2 L + 1 gammas of C. The embedding is V C; a second V C is added only if the model is "
     "not tied."),
    _test_llama, count_llama)
