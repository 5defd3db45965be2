"""Notebook 05's exercises: wrong answers that a learner may give, and correct ones that look different."""

import pytest
from torch import nn

from helpers import parameters
from helpers.course.exercises import nb05
from helpers.model import GPTConfig

WORDS = {"embeddings": (".wte.", ".wpe."), "attention": (".attn.",), "MLP": (".mlp.",), "LayerNorm": (".ln_",)}


def formula(**changes):
    """count_total with a first total that is off by multiples of V C, P C, C, L C or L C²."""
    def attempt(model):
        c = model.config
        right, numel = nb05.count_total(model)
        sizes = {"VC": c.vocab_size * c.n_embd, "PC": c.n_positions * c.n_embd, "C": c.n_embd,
                 "LC": c.n_layer * c.n_embd, "LCC": c.n_layer * c.n_embd**2}
        return right + sum(times * sizes[size] for size, times in changes.items()), numel
    return attempt


def numel(count):
    """count_total with another second total."""
    return lambda model: (nb05.count_total(model)[0], count(model))


def one_block(model):
    C = model.config.n_embd
    return (model.config.vocab_size + model.config.n_positions) * C + 12 * C * C + 13 * C + 2 * C, 0


def unique_by_address(model):
    return sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())


def shares(percent_of=lambda model: sum(p.numel() for p in model.parameters()), **words):
    """name_shares with other words, or as shares of another total."""
    words = {group: (words[group],) if isinstance(words.get(group), str) else words.get(group, own)
             for group, own in WORDS.items()}
    return lambda model: {
        group: 100 * sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts))
        / percent_of(model) for group, parts in words.items()}


def of_the_tensors(model):
    names = [name for name, _ in model.named_parameters()]
    return {group: 100 * sum(any(part in name for part in parts) for name in names) / len(names)
            for group, parts in WORDS.items()}


def untied_total(model):
    return sum(p.numel() for p in model.state_dict().values())


def with_fc_alone(name):
    return "MLP" if "fc" in name else nb05.group(name).replace("MLP", "attention")


def attention_first(name):
    return "attention" if "attn" in name or "attention" in name else nb05.group(name)


def inside_attention(name):
    return "attention" if ".self_attn." in name else nb05.group(name)


def ln_alone(name):
    return "norms" if "ln" in name or "layernorm" in name else nb05.group(name.replace("norm.", "."))


def equal_heads(V, C, L, F, heads, kv_heads, hs, tied):
    return nb05.count_llama(V, C, L, F, heads, heads, hs, tied)


def two_matrices(V, C, L, F, *others):
    return nb05.count_llama(V, C, L, F, *others) - L * C * F


def with_betas(V, C, L, *others):
    return nb05.count_llama(V, C, L, *others) + (2 * L + 1) * C


def with_biases(V, C, L, F, heads, kv_heads, hs, tied):
    return nb05.count_llama(V, C, L, F, heads, kv_heads, hs, tied) + L * (heads + 2 * kv_heads) * hs


WRONG = {
    "biases": [
        (lambda C, L: 9 * L * C, "LayerNorm has biases, too"),
        (lambda C, L: 11 * L * C, "after the last block"),
        (lambda C, L: (10 * L + 1) * C, "two LayerNorms"),
        (lambda C, L: (8 * L + 1) * C, "bias of c_fc"),
        (lambda C, L: (13 * L + 2) * C, "also count LayerNorm's weights"),
        (lambda C, L: 12 * C, "one block"),
        (lambda C, L: nb05.count_biases(C, L) + 50257, "no bias"),
        (lambda C, L: 12 * L * C, "one name that ends in bias"),
    ],
    "total": [
        (formula(VC=1), "You count lm_head"),
        (formula(LC=-9), "biases of the four matrices"),
        (formula(LC=-11, C=-1), "including those of LayerNorm"),
        (formula(LC=-13, C=-2), "The matrices are right"),
        (formula(PC=-1), "position embedding"),
        (formula(C=-2), "after the last block"),
        (formula(LC=-4, C=-2), "The LayerNorms are missing"),
        (formula(LCC=-2), "Q, K and V"),
        (one_block, "one block"),
        (formula(C=5), "term by term"),
        (numel(lambda model: sum(p.numel() for p in model.state_dict().values())), "counted twice"),
        (numel(lambda model: sum(p.numel() for module in model.modules() for p in module.parameters(recurse=False))),
         "counted twice"),
        (numel(lambda model: nb05.count_total(model)[1] - model.lm_head.weight.numel()), "not counted at all"),
        (numel(lambda model: len(list(model.parameters()))), "number of tensors"),
        (numel(lambda model: sum(p.numel() for n, p in model.named_parameters() if "bias" not in n)),
         "biases are missing"),
        (numel(unique_by_address), "data_ptr()"),
        (numel(lambda model: parameters.parameter_formula(model.config)["total"]), "second total did not change"),
        (lambda model: (nb05.count_total(model)[1],) * 2, "your first total changed"),
        (lambda model: nb05.count_total(model)[0], "Return 2 numbers: the total by formula, the total by numel"),
    ],
    "shares": [
        (shares(MLP="fc"), "misses mlp.c_proj"),
        (shares(MLP=("fc", "c_proj")), "in attention and in the MLP"),
        (shares(attention="c_attn"), "misses attn.c_proj"),
        (shares(LayerNorm="ln"), "every name contains “ln”"),
        (shares(LayerNorm=(".ln_1.", ".ln_2.")), "ln_f, is missing"),
        (shares(embeddings=".wte."), "wpe, is missing"),
        (shares(untied_total), "You divide by the untied total"),
        (shares(lambda model: 100 * sum(p.numel() for p in model.parameters())), "fraction"),
        (shares(lambda model: 100), "Divide by the total"),
        (of_the_tensors, "share of the tensors"),
        (lambda model: dict.fromkeys(WORDS, float("nan")), "you have nan"),
        (shares(embeddings="nothing"), "add up to 68.35 %"),
        (lambda model: {"attention": 22.781, "MLP": 45.539, "LayerNorm": 0.031}, "with the keys"),
        (lambda model: {**nb05.name_shares(model), "embeddings": None}, "no number yet for embeddings"),
        (lambda model: {**nb05.name_shares(model), "total": 100}, "'LayerNorm', 'total'"),
    ],
    "groups": [
        (with_fc_alone, "mlp.c_proj"),
        (attention_first, "post_attention_layernorm"),
        (inside_attention, "normalises inside attention"),
        (ln_alone, "The last norm has a name"),
        (lambda name: nb05.group(name).replace("unembedding", "embeddings"), "matrix of its own"),
        (lambda name: nb05.group(name).lower(), "not one of the five"),
        (lambda name: "norms" if "norm" in name else None, "returns nothing. None of your conditions is true"),
        (lambda name: nb05.group(name).replace("MLP", "attention") if "h.1." in name else nb05.group(name), "h.1.mlp"),
    ],
    "llama": [
        (equal_heads, "fewer than Q"),
        (two_matrices, "gated"),
        (with_betas, "no beta"),
        (with_biases, "has a bias"),
        (lambda *shape: nb05.count_llama(*shape[:-1], False), "Look at tied"),
        (lambda V, C, *others: nb05.count_llama(V, C, *others) - C, "after the last block"),
        (lambda *shape: nb05.count_llama(*shape) + 1, "term on a line"),
    ],
}


WRONG_TYPES = [
    ("biases", (9, 2), "Return the number of elements; you returned a tuple of 2 numbers"),
    ("biases", "11 L C + C", "you returned a str: '11 L C + C'"),
    ("biases", {"bias": 1}, "you returned a dict"),
    ("total", (1, 2, 3), "You returned a tuple of 3 numbers"),
    ("total", {"formula": 1}, "You returned a dict: {'formula': 1}"),
    ("total", [None, 2], "You returned a list of 2 items"),
    ("shares", (31.6, 22.8, 45.5, 0.03), "you returned a tuple of 4 numbers"),
    ("shares", {}, "the keys of yours are none"),
    ("shares", {"embeddings": "31 %", "attention": 1, "MLP": 2, "LayerNorm": 3}, "Return a number for 'embeddings'"),
    ("groups", ["norms"], "returns a list of 1 str. It is not one of the five groups"),
    ("groups", 3, " int: 3. It is not one of the five groups"),
    ("groups", {"norms": 1}, "returns a dict"),
    ("llama", (1, 2), "Return the number of parameters; you returned a tuple of 2 numbers"),
    ("llama", "8 B", "you returned a str: '8 B'"),
    ("llama", parameters.PUBLISHED["Llama 3.1 8B"], "you returned a tuple of 4 items"),
]


@pytest.mark.parametrize("name, answer, words", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name, answer, words):
    verdict = getattr(nb05, name).judge(lambda *arguments: answer)
    assert not verdict.solved and words in verdict.text, verdict.text
    assert "Your code stopped" not in verdict.text and "The check cannot use" not in verdict.text, verdict.text


def test_a_formula_for_square_matrices_is_told_where_it_ends():
    def square(V, C, L, F, heads, kv_heads, hs, tied):
        return nb05.count_llama(V, C, L, F, heads, kv_heads, hs, tied) + 2 * L * C * (C - heads * hs)

    assert "They all have heads * hs = C" in (said := nb05.llama.judge(square)).text and said.solved
    assert "in which heads * hs is not C" in nb05.llama.judge(nb05.count_llama).text


def unique_by_object(model):
    return nb05.count_total(model)[0], sum(p.numel() for p in set(model.state_dict(keep_vars=True).values()))


def factored(model):
    c = model.config
    C = c.n_embd
    count = sum(parameter.numel() for name, parameter in model.named_parameters())
    return [C * (c.vocab_size + c.n_positions + 2 + c.n_layer * (12 * C + 13)), float(count)]


@pytest.mark.parametrize("name, attempt", [("total", unique_by_object), ("total", factored)])
def test_other_correct_answers_pass(name, attempt, capsys):
    getattr(nb05, name).check(attempt)
    assert ": correct." in capsys.readouterr().out


def test_shares_by_elimination_pass_with_names_of_their_own(capsys):
    def by_last_parts(model):
        found = dict.fromkeys(WORDS, 0)
        for name, parameter in model.named_parameters():
            parts = name.split(".")
            group = ("attention" if "attn" in parts else "MLP" if "mlp" in parts
                     else "LayerNorm" if parts[-2].startswith("ln_") else "embeddings")
            found[group] += parameter.numel()
        total = sum(found.values())
        return {group: round(100 * count / total, 6) for group, count in found.items()}

    nb05.shares.check(by_last_parts)
    assert ": correct." in capsys.readouterr().out


def test_the_shares_partition_the_model():
    for model in (parameters.meta_model(GPTConfig()), nn.ModuleDict({"any": parameters.meta_model(GPTConfig())})):
        assert sum(nb05.name_shares(model).values()) == pytest.approx(100, abs=1e-9)
