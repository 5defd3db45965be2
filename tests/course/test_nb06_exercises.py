"""Notebook 06's exercises: the message for each wrong answer. Right answers are in exercise_cases/nb06.py."""

import pytest
import torch

from helpers import weights
from helpers.course.exercises import nb06


def wrong_axis(matrices):
    return [[part.std() for part in x.chunk(3, dim=1)] for x in matrices]


def wrong_axis_of_conv1d(matrices):
    return [[part.std() for part in x.chunk(3, dim=0)] for x in matrices]


def layers_together(matrices):
    return [part.std() for part in torch.stack(matrices).chunk(3, dim=1)]


def layers_together_in_every_row(matrices):
    axis = 0 if matrices[0].shape[0] > matrices[0].shape[1] else 1
    parts = [x.chunk(3, dim=axis) for x in matrices]
    return [[torch.cat(column).std() for column in zip(*parts)] for _ in matrices]


def each_part(matrices, statistic):
    return [[statistic(part) for part in x.chunk(3, dim=0 if x.shape[0] > x.shape[1] else 1)] for x in matrices]


def replaced(model, layer, measure, rows=None, columns=slice(None), make=None, restore=True, other=None):
    """The solution with one mistake: where the noise goes, how it is made, whether Q is restored."""
    fused = model.transformer.h[layer if other is None else other].attn.c_attn.weight.data
    piece = fused[rows or slice(0, model.config.n_embd), columns]
    kept = piece.clone()
    make = make or (lambda x: x.mean() + x.std() * torch.randn_like(x))
    piece.copy_(make(piece))
    loss = measure(model)
    if restore:
        piece.copy_(kept)
    return loss


def with_mistake(**settings):
    return lambda model, layer, measure: replaced(model, layer, measure, **settings)


def keeps_a_view(model, layer, measure):
    Q = model.transformer.h[layer].attn.c_attn.weight.data[: model.config.n_embd]
    kept = Q
    Q.copy_(Q.mean() + Q.std() * torch.randn_like(Q))
    loss = measure(model)
    Q.copy_(kept)
    return loss


def measures_too_late(model, layer, measure):
    replaced(model, layer, lambda model: 0.0)
    return measure(model)


def never_measures(model, layer, measure):
    return replaced(model, layer, lambda model: 0.0)


def returns_the_rise(model, layer, measure):
    return replaced(model, layer, measure) - measure(model)


def noise_in_the_bias_too(model, layer, measure):
    model.transformer.h[layer].attn.c_attn.bias.data.normal_()
    return replaced(model, layer, measure)


WRONG = {
    "median_distance": [
        (lambda x: (x - x.mean()).abs().median(), "from the median"),
        (lambda x: (x - x.median()).abs().mean(), "take their median"),
        (lambda x: x.abs().median(), "around zero"),
        (lambda x: (x - x.median()).median(), "have no sign"),
        (lambda x: x.std(), "the MAD is"),
        (lambda x: x.median(), "the median itself"),
        (lambda x: float("nan"), "yours is nan"),
    ],
    "split": [
        (wrong_axis, "wrong axis of (3C, C)"),
        (wrong_axis_of_conv1d, "wrong axis of (C, 3C)"),
        (layers_together, "their differences are lost"),
        (lambda m: [[part.std() for part in x.split(x.shape[1])] for x in m], "each (C, 3C), expected 4 rows"),
        (layers_together_in_every_row, "put the layers together"),
        (lambda m: torch.tensor(each_part(m, torch.std)).T, "4 rows of three"),
        (lambda m: [row[::-1] for row in each_part(m, torch.std)], "the order Q, K, V"),
        (lambda m: each_part(m, torch.var), "variances"),
        (lambda m: each_part(m, lambda part: part.std(dim=0).mean()), "single columns"),
        (lambda m: each_part(m, lambda part: part.std(dim=1).mean()), "single rows"),
        (lambda m: [[x[i::3].std() for i in range(3)] for x in m], "every third"),
        (lambda m: each_part(m, lambda part: part.abs().mean()), "have the stds"),
    ],
    "pool": [
        (lambda n, m, s: s.mean(), "stds cannot"),
        (lambda n, m, s: (n * s).sum() / n.sum(), "stds cannot"),
        (lambda n, m, s: ((n * s**2).sum() / n.sum()).sqrt(), "means differ"),
        (lambda n, m, s: (s**2).mean().sqrt(), "weight by the counts"),
        (lambda n, m, s: nb06.pooled_std(n, m, s) ** 2, "square root"),
        (lambda n, m, s: ((n * s**2).sum() / n.sum() - 99).sqrt(), "yours is nan"),
    ],
    "folding": [
        (lambda w, b, gamma, beta: (w.T * beta[:1], b), "have the shapes"),
        (lambda w, b, gamma, beta: (w / gamma, b + w @ beta), "columns"),
        (lambda w, b, gamma, beta: (w * gamma[:1], b + w @ beta), "weight is not right"),
        (lambda w, b, gamma, beta: (w * gamma, b), "beta alone"),
        (lambda w, b, gamma, beta: (w * gamma, b + (w * gamma) @ beta), "beta alone"),
    ],
    "noise": [
        (with_mistake(rows=slice(96, 192)), "You replaced K"),
        (with_mistake(rows=slice(192, 288)), "You replaced V"),
        (with_mistake(rows=slice(None), columns=slice(0, 96)), "Not only Q"),
        (with_mistake(rows=slice(None), columns=slice(0, 32)), "Not only Q"),
        (with_mistake(columns=slice(0, 32)), "Only 33% of Q's entries"),
        (with_mistake(other=0), "Only Q of layer 1"),
        (noise_in_the_bias_too, "c_attn.bias had changed"),
        (with_mistake(restore=False), "restore Q"),
        (keeps_a_view, "clone()"),
        (with_mistake(make=torch.randn_like), "torch.randn itself"),
        (with_mistake(make=torch.rand_like), "torch.rand, whose"),
        (with_mistake(make=lambda x: x.std() * torch.randn_like(x)), "shift it"),
        (with_mistake(make=lambda x: x.mean() + x.var() * torch.randn_like(x)), "Q's variance"),
        (with_mistake(make=lambda x: x + x.std() * torch.randn_like(x)), "Q is still inside"),
        (with_mistake(make=weights.REPLACEMENTS["shuffled"]), "another order"),
        (with_mistake(make=lambda x: x.mean().expand_as(x)), "your noise 0.000"),
        (lambda model, layer, measure: replaced(
            model, layer, measure, make=lambda x: x.mean() + torch.randn_like(x)
            * model.transformer.h[layer].attn.c_attn.weight.data.std()), "whole c_attn"),
        (measures_too_late, "the model was unchanged"),
        (never_measures, "never called measure"),
        (returns_the_rise, "Return that"),
    ],
}


WRONG_TYPES = {
    "median_distance": [((1, 2), "a tuple of 2 numbers"), ("abc", "a str: 'abc'"), ({"mad": 1}, "a dict"),
                        (torch.ones(5), "a tensor of shape (5,)"), ([], "a list of 0 items")],
    "split": [("abc", "a str: 'abc'"), (["abc"], "a list of 1 str"), ([[1, 2, 3], [1, 2]], "a list of 2 lists"),
              ({"Q": "large"}, "a dict"), ([{"Q": "large"}], "a list of 1 dict")],
    "pool": [((1, 2), "a tuple of 2 numbers"), ("abc", "a str: 'abc'"), ({"std": 1}, "a dict"),
             (torch.ones(3), "a tensor of shape (3,)")],
    "folding": [(torch.ones(24, 8), "a tensor of shape (24, 8)"), ("ab", "a str: 'ab'"), ({}, "a dict: {}"),
                ((torch.ones(24, 8), torch.ones(24), 3), "a tuple of 3 items"), (torch.nn.Linear(8, 24), "a Linear"),
                ((torch.ones(24, 8), "b"), "a str: 'b'"), ((torch.ones(24, 8), None), "a tuple of 2 items")],
    "noise": [((1.25, 2), "a tuple of 2 numbers"), ("abc", "a str: 'abc'"), ({"loss": 1}, "a dict"),
              (torch.ones(2), "a tensor of shape (2,)")],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_an_answer_of_the_wrong_type_is_described(name):
    for answer, words in WRONG_TYPES[name]:
        def attempt(*arguments):
            if name == "noise":
                replaced(*arguments)
            return answer
        text = getattr(nb06, name).judge(attempt).text
        assert "ou returned " + words in text and "not yet" in text, text
        assert "Your code stopped" not in text and "cannot use" not in text, text


def test_what_measure_gets_is_described():
    assert "measure() takes a model; you gave it a dict" in nb06.noise.judge(lambda model, i, measure: measure({})).text


def test_the_helpers_answer_is_right_but_not_by_hand():
    def pooled(counts, means, stds):
        parts = [{"count": n, "mean": mean, "std": std, "within_0.05": 0.0, "histogram": {"counts": [], "outside": 0}}
                 for n, mean, std in zip(counts.tolist(), means.tolist(), stds.tolist())]
        return weights.pooled(parts)["std"]

    def split(matrices):
        parts = [weights.split_qkv(x if len(x) > len(x[0]) else x.T) for x in matrices]
        return [[row[name].std() for name in "QKV"] for row in parts]

    for exercise, attempt, name in (
            (nb06.median_distance, lambda x: weights.summarise(x)["mad"], "summarise"),
            (nb06.split, split, "split_qkv"),
            (nb06.pool, pooled, "pooled"),
            (nb06.noise, lambda model, i, measure: weights.loss_with(model, [i], "Q", "noise", measure), "loss_with")):
        verdict = exercise.judge(attempt)
        assert not verdict.solved and "correct, but not by hand" in verdict.text and name in verdict.text, verdict.text


def test_uniform_noise_of_the_right_mean_and_std_is_accepted():
    uniform = with_mistake(make=lambda x: x.mean() + x.std() * 12**0.5 * (torch.rand_like(x) - 0.5))
    assert nb06.noise.judge(uniform).solved


def test_sizes_of_the_first_case_do_not_pass():
    """Answers with the width, the layer or the number of layers of the first case."""
    for exercise, attempt in (
            (nb06.split, lambda m: [[part.std() for part in x.split(48, 0 if len(x) > 48 else 1)] for x in m]),
            (nb06.split, lambda m: [[part.std() for part in x.chunk(3, 0 if len(x) == 144 else 1)] for x in m]),
            (nb06.noise, with_mistake(rows=slice(0, 96))), (nb06.noise, with_mistake(other=1)),
            (nb06.pool, lambda n, m, s: nb06.pooled_std(n[:3], m[:3], s[:3]))):
        assert not exercise.judge(attempt).solved


def test_fold_does_not_change_its_inputs():
    weight, bias, gamma, beta = torch.ones(2, 3), torch.ones(2), torch.ones(3) * 2, torch.ones(3)
    nb06.fold(weight, bias, gamma, beta)
    assert weight.eq(1).all() and bias.eq(1).all()


def loss_of(model):
    ids = torch.tensor([[1, 2, 3, 4]])
    return model(ids, ids.roll(1)).item()


@pytest.mark.parametrize("part", ["Q", "K", "V", "W0"])
@pytest.mark.parametrize("how", list(weights.REPLACEMENTS))
def test_one_matrix_is_replaced_and_restored(part, how):
    model, seen = nb06.example_model(), {}
    before = {name: weight.clone() for name, weight in model.named_parameters()}

    def measure(measured):
        seen.update({name: weight.clone() for name, weight in measured.named_parameters()})
        return loss_of(measured)

    assert weights.loss_with(model, [0, 2], part, how, measure) != loss_of(model)
    changed = [name for name in before if not torch.equal(before[name], seen[name])]
    which = "c_proj" if part == "W0" else "c_attn"
    assert changed == [f"transformer.h.{i}.attn.{which}.weight" for i in (0, 2)]
    for name in changed:
        third = slice(None) if part == "W0" else slice(96 * "QKV".index(part), 96 * "QKV".index(part) + 96)
        old, new = before[name][third], seen[name][third]
        rows = (before[name] != seen[name]).any(dim=1)
        assert rows.sum() == 96 and (old != new).double().mean() > 0.99
        if how == "shuffled":
            assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
        if how == "noise":
            assert abs(new.std() / old.std() - 1) < 0.05 and abs(new.mean() - old.mean()) < 0.05 * old.std()
        if how == "zeros":
            assert new.eq(0).all()
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_the_model_is_restored_when_measuring_fails():
    model = nb06.example_model()
    before = model.transformer.h[1].attn.c_attn.weight.clone()

    def fails(model):
        raise KeyboardInterrupt

    for call, arguments in ((nb06.loss_with_noise, (1,)), (weights.loss_with, ([1], "Q", "noise"))):
        with pytest.raises(KeyboardInterrupt):
            call(model, *arguments, fails)
        assert torch.equal(before, model.transformer.h[1].attn.c_attn.weight)


def test_the_solution_and_the_measurement_agree():
    model = nb06.example_model()
    torch.manual_seed(5)
    one = nb06.loss_with_noise(model, 1, loss_of)
    torch.manual_seed(5)
    assert weights.loss_with(model, [1], "Q", "noise", loss_of) == one
