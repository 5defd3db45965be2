"""Exercises of notebook 05: count the biases, the total by formula and by numel, the shares of a model's groups, groups
that form a partition, a Llama by formula."""

import copy
import functools

from torch import nn

from helpers import parameters
from helpers.course.checking import Exercise, NotYet, as_number, as_numbers, describe, needs_answer
from helpers.model import SIZES, GPTConfig

_built = functools.cache(parameters.meta_model)


def _model(config):
    """A model without contents. It is a copy, because a learner's code may change it; a copy is made quickly."""
    return copy.deepcopy(_built(config))


# --- biases ----------------------------------------------------------------------------------------------------------


def count_biases(C, L):
    """The number of parameters in a GPT-2's biases, including LayerNorm's betas. C: width, L: blocks."""
    in_a_block = (3 * C + C) + (4 * C + C) + 2 * C  # c_attn and c_proj, c_fc and c_proj, the two of LayerNorm
    return L * in_a_block + C  # and that of the last LayerNorm


@functools.cache
def _biases_of(name):
    """The number of elements of all biases in one of OpenAI's four models."""
    tensors = parameters.meta_model(GPTConfig.named(name)).named_parameters()
    return sum(p.numel() for n, p in tensors if n.endswith("bias"))


def _test_biases(attempt):
    """Compares a count of biases with the models of all four sizes."""
    for name, shape in SIZES.items():
        C, L, right = shape["n_embd"], shape["n_layer"], _biases_of(name)
        answer = as_number(attempt(C, L), "the number of elements")
        mistakes = {
            9 * L * C: "You have the biases of the four matrices. LayerNorm has biases, too.",
            11 * L * C: "Every block is right. There is one more LayerNorm after the last block.",
            (10 * L + 1) * C: "C per block are missing: each block has two LayerNorms.",
            (9 * L + 1) * C: "2C per block are missing. How long is the bias of c_attn, and how many LayerNorms are "
                             "there?",
            (8 * L + 1) * C: "3C per block are missing: look at the bias of c_fc, or of c_attn.",
            11 * C + C: "That is one block. How many are there?",
            right + (2 * L + 1) * C: "You also count LayerNorm's weights. Only names that end in bias count here.",
            right + 50257: "The unembedding has no bias: the table does not list one.",
        }
        if answer != right:
            raise NotYet(f"The biases of {name} have {right:,} elements; you count {answer:,.15g}. "
                         + mistakes.get(answer, "Go down the table above, one name that ends in bias after the other."))
    return "Your counts are exactly those of GPT-2's four sizes."


# --- the total by formula and by numel -------------------------------------------------------------------------------


def count_total(model):
    """A tied GPT-2's number of parameters, from its configuration alone and from its tensors."""
    c = model.config
    V, P, C, L = c.vocab_size, c.n_positions, c.n_embd, c.n_layer
    attention, mlp, norms = (3 * C * C + 3 * C) + (C * C + C), (4 * C * C + 4 * C) + (4 * C * C + C), 2 * 2 * C
    by_formula = V * C + P * C + L * (attention + mlp + norms) + 2 * C
    by_numel = sum(parameter.numel() for parameter in model.parameters())
    return by_formula, by_numel


def _formula_mistakes(V, P, C, L, right):
    """The totals by formula that typical mistakes give: {total: message}."""
    return {
        right + V * C: "You count lm_head. In a tied model it is the token embedding, used again.",
        right - P * C: "The position embedding is missing, P x C parameters.",
        right - 2 * C: "Every block is right. There is one more LayerNorm after the last block.",
        right - C: "The last LayerNorm has two vectors of C elements, not one.",
        right - V * C: "The token embedding is missing. Tied means that one matrix has two jobs, not none.",
        right - 9 * L * C: "The biases of the four matrices are missing.",
        right - (11 * L + 1) * C: "The biases are missing, including those of LayerNorm.",
        right - (13 * L + 2) * C: "The matrices are right. Biases and LayerNorms are parameters, too.",
        right - 4 * L * C: "The two LayerNorms of each block are missing.",
        right - (4 * L + 2) * C: "The LayerNorms are missing.",
        right - (L - 1) * (12 * C * C + 13 * C): "That is a model with one block. How many are there?",
        right - 2 * L * C * C: "Attention has more matrices: c_attn makes Q, K and V, each of them C x C.",
        right - 4 * L * C * C: "The MLP has two large matrices, into the wide layer and back.",
    }


def _numel_mistakes(model, right):
    """The totals of tensors that typical mistakes give: {total: message}."""
    tensors = dict(model.named_parameters())
    matrix, last, lengths = model.lm_head.weight.numel(), model.transformer.ln_f.bias.numel(), {
        p.numel() for p in tensors.values()}
    return {
        right + matrix: "The tied matrix is counted twice, once under each of its names.",
        right - matrix: "The tied matrix is not counted at all. It is one tensor, and counts once.",
        len(tensors): "That is the number of tensors. How many elements does each of them have?",
        sum(p.numel() for n, p in tensors.items() if n.endswith("weight")): "The biases are missing.",
        sum(p.numel() for p in tensors.values() if p.dim() > 1): "You count only matrices, no vectors.",
        sum(lengths): "Tensors of equal size are counted only once. They are different tensors.",
        **dict.fromkeys((matrix, last), "You count only one tensor. On meta, data_ptr() is 0 for all of them."),
    }


def _test_total(attempt):
    """Checks both counts. The last model lacks one block of its configuration, so that its two counts differ."""
    narrow = GPTConfig(vocab_size=700, n_positions=40, n_embd=20, n_layer=2, n_head=5)
    cut = GPTConfig(vocab_size=101, n_positions=17, n_embd=12, n_layer=3, n_head=2)
    for config in (GPTConfig(), narrow, cut):
        model = _model(config)
        if config is cut:
            del model.transformer.h[-1]
        right = parameters.parameter_formula(config)["total"], sum(p.numel() for p in model.parameters())
        answer = as_numbers(attempt(model), ("the total by formula", "the total by numel"))
        shape = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
        letters = f"V, P, C, L = {', '.join(f'{size:,}' for size in shape)}"
        if answer[0] == right[1] != right[0]:
            raise NotYet("The check removed a block from a model, and your first total changed. Use model.config only.")
        if answer[0] != right[0]:
            why = _formula_mistakes(*shape, right[0]).get(answer[0], "Compare term by term with the table above.")
            raise NotYet(f"By formula, {letters}: {right[0]:,}; you have {answer[0]:,.15g}. {why}")
        if answer[1] == right[0] != right[1]:
            raise NotYet("The check removed a block from a model, and your second total did not change. Count its "
                         "tensors.")
        if answer[1] != right[1]:
            why = _numel_mistakes(model, right[1]).get(answer[1], "Which tensors do you count, and how often?")
            raise NotYet(f"By numel, {letters}: {right[1]:,}; you have {answer[1]:,.15g}. {why}")
    return ("Your two counts agree for GPT-2 small and for a smaller model. They are independent: when the check "
            "removed a block from a third model, only the second one changed.")


# --- shares by name --------------------------------------------------------------------------------------------------

def name_shares(model):
    """The percentages of a GPT-2's parameters in four groups that form a partition."""
    words = {"embeddings": (".wte.", ".wpe."), "attention": (".attn.",), "MLP": (".mlp.",), "LayerNorm": (".ln_",)}
    total = sum(p.numel() for p in model.parameters())
    return {group: 100 * sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts))
            / total for group, parts in words.items()}


def _wrapped(config):
    """A model with a prefix before all its parameters' names, as a wrapper adds one."""
    return nn.ModuleDict({"modelnew": _model(config)})


def _share_mistakes(model, group, right):
    """[(percentage that a typical mistake gives, message)] for a group whose true percentage is right."""
    tensors = dict(model.named_parameters())
    total, names = sum(p.numel() for p in tensors.values()), [parameters.part_of(name) for name in tensors]

    def found(*words):
        return 100 * sum(p.numel() for name, p in tensors.items() if any(word in name for word in words)) / total

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
            (100 * right / (100 + found(".wte.")), "You divide by the untied total, which counts the shared matrix "
                                                   "twice."),
            (100 * names.count(part) / len(names), "That is the share of the tensors. Count their elements."),
            (right / 100, "That is a fraction. A percentage is 100 times as large."),
            (right * total / 100, "That is a number of parameters. Divide by the total.")]


def _percentages(answer, groups):
    """A learner's dictionary of numbers, as {group: float}. Raises NotYet for anything else."""
    expected = f"Return a dictionary of percentages with the keys {', '.join(groups)}"
    if not hasattr(needs_answer(answer), "keys"):
        raise NotYet(f"{expected}; you returned {describe(answer)}.")
    if set(found := dict(answer)) != set(groups):
        raise NotYet(f"{expected}; the keys of yours are {', '.join(map(repr, found)) or 'none'}.")
    if unknown := [group for group in groups if found[group] is None]:
        raise NotYet(f"{expected}; yours has no number yet for {', '.join(unknown)}.")
    return {group: as_number(found[group], f"a number for {group!r}") for group in groups}


def _test_shares(attempt):
    """Compares the shares for two models, the second of them wrapped."""
    small = GPTConfig(vocab_size=900, n_positions=60, n_embd=40, n_layer=3, n_head=4)
    for title, model in (("gpt2", _model(GPTConfig())), ("a small GPT-2 in a wrapper", _wrapped(small))):
        right = name_shares(model)
        answer = _percentages(attempt(model), tuple(right))
        for group in right:
            if not abs(answer[group] - right[group]) <= 1e-4:  # NaN, too
                messages = (message for wrong, message in _share_mistakes(model, group, right[group])
                            if abs(answer[group] - wrong) < 1e-4)
                why = next(messages, f"Your four add up to {sum(answer.values()):.2f} %. Which names does each filter "
                                     "find?")
                raise NotYet(f"{title}, {group}: {right[group]:.3f} %; you have {answer[group]:.3f}. {why}")
    return ("Right for GPT-2 small, and for a smaller model with a word before all names. The four add up to 100 %: "
            "every parameter is in one group.")


# --- groups ----------------------------------------------------------------------------------------------------------


def group(name):
    """One of "embeddings", "attention", "MLP", "norms" and "unembedding", for a parameter's name."""
    if "norm." in name or ".ln_" in name:  # first, because Llama has a post_attention_layernorm
        return "norms"
    if "attn" in name:
        return "attention"
    if "mlp" in name:
        return "MLP"
    return "unembedding" if "lm_head" in name else "embeddings"


GROUP_MISTAKES = {  # (part of the name, wrong answer): message
    ("attention_layernorm", "attention"): "Two of your words are in it. Which one do you test first?",
    ("feedforward_layernorm", "MLP"): "Two of your words are in it. Which one do you test first?",
    ("q_norm", "attention"): "It normalises inside attention, and is a norm. Which group do you test first?",
    ("k_norm", "attention"): "It normalises inside attention, and is a norm. Which group do you test first?",
    ("mlp.c_proj", "attention"): "One of your words is in the names of attention and of the MLP.",
    ("attn.c_proj", "MLP"): "One of your words is in the names of attention and of the MLP.",
    ("model.norm", "embeddings"): "The last norm has a name without “ln” and without “layernorm”.",
    ("lm_head", "embeddings"): "In an untied model the unembedding is a matrix of its own.",
    ("embed_tokens", "unembedding"): "Newer models have another name for wte.",
}


@functools.cache
def _named_shapes():
    """(model's name, parameter's name, its shape) for models of four families, cut to two blocks."""
    return [(model, name, tuple(parameter.shape)) for model in ("gpt2", "Llama 3.1 8B", "Gemma 2 2B", "Qwen3 8B")
            for name, parameter in parameters.architecture(model, num_hidden_layers=2).named_parameters()]


def _test_group(attempt):
    """Compares a function with part_of on the names of four model families."""
    answers = [attempt(name) for _, name, _ in _named_shapes()]
    if all(answer is None for answer in answers):
        needs_answer(None)
    for answer, (model, name, shape) in zip(answers, _named_shapes()):
        right, is_text = parameters.part_of(name), isinstance(answer, str)
        if not is_text or answer != right:
            messages = (message for (part, wrong), message in GROUP_MISTAKES.items()
                        if is_text and part in name and wrong == answer)
            if answer is None:
                messages = iter(["None of your conditions is true for it."])
            elif not is_text or answer not in parameters.PARTS:
                messages = iter([f"It is not one of the five groups {', '.join(parameters.PARTS)}."])
            why = next(messages, "Which of your words is in the name, and which is not?")
            given = "nothing" if answer is None else repr(answer) if is_text else describe(answer)
            raise NotYet(f"{model}: {name}, shape {shape}, belongs to {right!r}; your function returns {given}. {why}")
    return "Every parameter of four families is in its group, so the groups of each model add up to its total."


# --- a Llama by formula ----------------------------------------------------------------------------------------------


def count_llama(V, C, L, F, heads, kv_heads, hs, tied):
    """A Llama's number of parameters from its configuration."""
    attention = C * heads * hs + 2 * C * kv_heads * hs + heads * hs * C  # Q; K and V; the output projection
    mlp = 3 * C * F  # gate, up, down
    norms = (2 * L + 1) * C  # RMSNorm has a gamma and no beta
    return V * C + L * (attention + mlp) + norms + (0 if tied else V * C)


def llama_mistakes(V, C, L, F, heads, kv_heads, hs, tied):
    """The totals that typical mistakes give: {total: message}."""
    right = count_llama(V, C, L, F, heads, kv_heads, hs, tied)
    return {
        count_llama(V, C, L, F, heads, heads, hs, tied): "K and V have kv_heads heads, fewer than Q has.",
        right - L * C * F: "The MLP is gated: three matrices of C x F, not two.",
        right + (2 * L + 1) * C: "RMSNorm has a gamma and no beta.",
        right - C: "There is one more norm after the last block.",
        right - (2 * L + 1) * C: "The norms are missing.",
        right - L * C: "Each block has two norms.",
        count_llama(V, C, L, F, heads, kv_heads, hs, not tied): "Look at tied: when does the unembedding count?",
        right - L * C * heads * hs: "Attention has four matrices. Is one of Q and the output projection missing?",
        right - L * C * kv_heads * hs: "K and V are two matrices.",
        right + L * (2 * heads * hs + 2 * kv_heads * hs): "Nothing in a Llama has a bias.",
        right + L * (heads + 2 * kv_heads) * hs: "Nothing in a Llama has a bias.",
    }


def _test_llama(attempt):
    """Compares a formula with four published totals, and with that of an invented model."""
    published = {name: parameters.PUBLISHED[name] for name in
                 ("Llama 3.1 8B", "Llama 3.2 1B", "SmolLM2 135M", "Mistral 7B v0.1")}
    for name, (_, total, _, shape) in published.items():
        answer = as_number(attempt(*shape), "the number of parameters")
        if answer != total:
            reason = llama_mistakes(*shape).get(answer, "Write each term on a line of its own and print it.")
            raise NotYet(f"{name} has {total:,} parameters; you count {answer:,.15g}. {reason}")
    V, C, L, F, heads, kv_heads, hs, tied = invented = 500, 72, 7, 90, 6, 3, 16, False
    total, answer = count_llama(*invented), as_number(attempt(*invented), "the number of parameters")
    praise = "Your formula gives the exact totals of four published models"
    if answer == total:
        return f"{praise}, and of one in which heads * hs is not C."
    if answer in {total + times * L * C * (C - heads * hs) for times in (1, 2, 3)}:
        return f"{praise}. They all have heads * hs = C, and your formula relies on it. Not every model has this."
    raise NotYet(f"A model with V, C, L, F, heads, kv_heads, hs, tied = {invented} has {total:,} parameters; you count "
                 f"{answer:,.15g}. {llama_mistakes(*invented).get(answer, 'Does each term use the arguments?')}")


biases = Exercise(
    "Count the biases", 1, 5,
    ("Which names in the table end in bias, and what is the size of each as a multiple of C?",
     "In a block: c_attn 3C, c_proj C, c_fc 4C, the other c_proj C, and two LayerNorms of C each.",
     "Add up the six of a block and multiply by L. Then add one more LayerNorm, ln_f."),
    _test_biases, count_biases)
total = Exercise(
    "The total, by formula and by numel", 2, 12,
    ("Write one term for each row of the table: outside the blocks, and inside, times L. Why is lm_head not listed?",
     "A matrix from m to n elements has m n weights and n biases. Outside the blocks: V C + P C. In a block: C x 3C, "
     "C x C, C x 4C and 4C x C with their biases, and two LayerNorms of 2C. After the blocks: another LayerNorm.",
     "The second total is sum(p.numel() for p in model.parameters()). parameters() lists a shared tensor once; "
     "state_dict() lists it under each of its names."),
    _test_total, count_total)
shares = Exercise(
    "Shares by name", 2, 10,
    ("The total is that of model.parameters(). For each group, add up the elements of the tensors whose names match.",
     "Include the dots: “.mlp.” is a complete part of a name, “mlp” could be a piece of any word. Print the names that "
     "a filter finds.",
     "Embeddings: .wte. or .wpe.; attention: .attn.; MLP: .mlp.; LayerNorm: .ln_ (ln_1, ln_2 and ln_f). Multiply by "
     "100 and divide by the total."),
    _test_shares, name_shares)
groups = Exercise(
    "Groups that form a partition", 2, 10,
    ("Print the names of architecture('Llama 3.1 8B', num_hidden_layers=1), and the same for 'gpt2' and 'Gemma 2 2B'. "
     "Which names contain two of your key words?",
     "Where two words match, the order of your tests decides: test for the norms first.",
     "“norm.” and “.ln_” find all norms; then “attn”, then “mlp”, then “lm_head”. The rest are embeddings."),
    _test_group, group, seconds=60)  # the first check may have to import transformers
llama = Exercise(
    "A Llama by formula", 3, 15,
    ("Begin with the table of section 2. Which rows are gone, which have another size, and which row is new?",
     "Q maps C elements to heads * hs, K and V each map C to kv_heads * hs, and the output maps heads * hs back to C. "
     "The MLP has three matrices of C x F.",
     "Nothing has a bias. Norms: 2 L + 1 gammas of C. The embedding is V C; add a second V C only if the model is not "
     "tied."),
    _test_llama, count_llama)
