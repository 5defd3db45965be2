"""Notebook 04's exercises: the message for each wrong answer. Right answers are in exercise_cases/nb04.py."""

import pytest
import torch
import torch.nn as nn

from helpers.course.exercises import nb04
from helpers.course.text_statistics import entropy
from helpers.generation import generate, next_token_probabilities
from helpers.model import GPT, GPTConfig


def not_transposed(conv):
    linear = nn.Linear(*conv.weight.shape)
    linear.weight, linear.bias = conv.weight, conv.bias
    return linear


def transposed_only_if_it_must(conv):
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs)
    linear.weight = nn.Parameter(conv.weight if inputs == outputs else conv.weight.T)
    linear.bias = conv.bias
    return linear


def forgets_the_bias(conv):
    linear = nn.Linear(*conv.weight.shape, bias=False)
    linear.weight = nn.Parameter(conv.weight.T)
    return linear


def a_tensor(conv):
    return conv.weight.T


def drops_the_crossing_token(probabilities, p):
    ordered, order = probabilities.sort(descending=True)
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (ordered.cumsum(0) <= p)
    return kept / kept.sum() if kept.sum() else ordered * 0 + torch.tensor([0.0, 1, 0, 0])


def does_not_divide(probabilities, p):
    ordered, order = probabilities.sort(descending=True)
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (ordered.cumsum(0) - ordered < p)
    return kept


def stays_sorted(probabilities, p):
    ordered = probabilities.sort(descending=True).values
    kept = ordered * (ordered.cumsum(0) - ordered < p)
    return kept / kept.sum()


def returns_a_number(maps):
    return maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1).argmax().item()


def head_of(maps, table):
    return divmod(table.argmax().item(), maps.shape[1])


def steps_back(maps):
    positions = torch.arange(maps.shape[-1])
    return positions[:, None] - positions


def turned_round(maps):
    return nb04.farthest_head(maps)[::-1]


def keeps_the_rarest(probabilities, p):
    ordered, order = probabilities.sort()
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (ordered.cumsum(0) - ordered < p)
    return kept / kept.sum()


def distribution(scores):
    p = scores.softmax(-1)
    return p, torch.special.entr(p).sum()


def divides_probabilities(logits, tau):
    p = logits[0, -1].softmax(-1) / tau
    return p, torch.special.entr(p).sum()


def divides_probabilities_and_scales(logits, tau):
    p = logits[0, -1].softmax(-1) / tau
    return p / p.sum(), torch.special.entr(p / p.sum()).sum()


def softmax_over_positions(logits, tau):
    p = (logits / tau).softmax(1)[0, -1]
    return p, torch.special.entr(p).sum()


def overflows(logits, tau):
    p = (logits[0, -1] / tau).exp() / (logits[0, -1] / tau).exp().sum()
    return p, torch.special.entr(p).sum()


def entropy_with(formula):
    def attempt(logits, tau):
        p = (logits[0, -1] / tau).softmax(-1)
        return p, formula(p)
    return attempt


def written(model, ids, new, tau, top_k, read=lambda logits: logits[:, -1], scores=lambda logits, tau: logits / tau,
            cut=True, look_up=True, append=True, crop=True, axis=-1):
    """A loop with one mistake."""
    text = ids
    for _ in range(new):
        seen = text if append else ids
        logits = read(model(seen[:, -model.config.n_positions:] if crop else seen))
        best = logits.topk(top_k if cut else logits.shape[-1], dim=-1)
        index = torch.multinomial(scores(best.values, tau).softmax(axis), 1)
        text = torch.cat([text, best.indices.gather(1, index) if look_up else index], dim=1)
    return text


def with_mistake(**settings):
    return lambda *arguments: written(*arguments, **settings)


def ignores_the_cut_unless_greedy(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k if top_k == 1 else 7)


def uses_indices_as_ids_unless_greedy(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k, look_up=top_k == 1)


def always_the_likeliest(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, 1)


def one_draw_for_all(model, ids, new, tau, top_k):
    for _ in range(new):
        best = model(ids[:, -model.config.n_positions:])[:, -1].topk(top_k)
        index = torch.multinomial((best.values[0] / tau).softmax(-1), 1)
        ids = torch.cat([ids, best.indices[:, index]], dim=1)
    return ids


def new_tokens_alone(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k)[:, ids.shape[1]:]


def one_token(model, ids, new, tau, top_k):
    return written(model, ids, 1, tau, top_k)


def forgets_the_old_text(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k)[:, -model.config.n_positions:]


def sees_the_last_token(model, ids, new, tau, top_k):
    for _ in range(new):
        ids = torch.cat([ids, written(model, ids[:, -1:], 1, tau, top_k)[:, -1:]], dim=1)
    return ids


def sees_one_too_few(model, ids, new, tau, top_k):
    for _ in range(new):
        ids = torch.cat([ids, written(model, ids[:, 1 - model.config.n_positions:], 1, tau, top_k)[:, -1:]], dim=1)
    return ids


def in_front(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k).roll(new, dims=1)


WRONG = {
    "linear": [
        (not_transposed, "outputs first"),
        (transposed_only_if_it_must, "square"),
        (forgets_the_bias, "bias"),
        (a_tensor, "Expected an nn.Linear"),
    ],
    "temperature": [
        (lambda logits, tau: distribution(logits[0, 0] / tau), "last position"),
        (divides_probabilities, "Divide the logits"),
        (divides_probabilities_and_scales, "that changes nothing"),
        (lambda logits, tau: distribution(logits[0, -1].softmax(-1) / tau), "softmax twice"),
        (lambda logits, tau: distribution(logits[0, -1] * tau), "multiply by the temperature"),
        (softmax_over_positions, "runs over the positions"),
        (lambda logits, tau: (logits[0, -1] / tau, 1.0), "not probabilities"),
        (lambda logits, tau: ((logits[0, -1] / tau).log_softmax(-1), 1.0), "take exp()"),
        (lambda logits, tau: distribution(logits / tau), "only one position predicts"),
        (lambda logits, tau: distribution(logits[0, -1] / tau)[0], "Expected two results"),
        (overflows, "exp() of a large number"),
        (entropy_with(lambda p: -(p * p.log()).sum()), "nan in PyTorch"),
        (entropy_with(lambda p: -torch.special.entr(p).sum()), "never negative"),
        (entropy_with(lambda p: torch.special.entr(p).sum() / 0.6931471805599453), "in bits"),
        (entropy_with(lambda p: torch.special.entr(p).mean()), "Their entropy is"),
        (entropy_with(torch.special.entr), "one number"),
    ],
    "cut": [
        (drops_the_crossing_token, "crosses the line"),
        (does_not_divide, "Divide by the sum"),
        (stays_sorted, "undo the sorting"),
        (keeps_the_rarest, "begin with the most likely"),
        (lambda probabilities, p: probabilities, "are enough to reach p"),
        (lambda probabilities, p: torch.tensor([0.5, 0.25]), "4 must come out"),
    ],
    "loop": [
        (with_mistake(read=lambda logits: logits[:, 0]), "last position"),
        (with_mistake(append=False), "appended"),
        (with_mistake(look_up=False), "Every new id is 0"),
        (with_mistake(read=lambda logits: logits[:1, -1].expand(len(logits), -1)), "its own logits"),
        (new_tokens_alone, "only the new tokens"),
        (one_token, "append one id"),
        (in_front, "at the beginning"),
        (with_mistake(cut=False, scores=lambda logits, tau: -1e3 * logits), "must continue with [3, 6, 1, 4]"),
        (one_draw_for_all, "a draw of its own"),
        (always_the_likeliest, "instead of taking the most likely"),
        (with_mistake(scores=lambda logits, tau: (logits.softmax(-1) / tau).log()), "temperature changes nothing"),
        (with_mistake(scores=lambda logits, tau: logits), "temperature changes nothing"),
        (with_mistake(scores=lambda logits, tau: logits * tau), "multiply by the temperature"),
        (with_mistake(scores=lambda logits, tau: logits.softmax(-1) / tau), "second softmax"),
        (with_mistake(axis=0), "Over which axis"),
        (ignores_the_cut_unless_greedy, "top_k changes nothing"),
        (uses_indices_as_ids_unless_greedy, "index among the k best"),
        (with_mistake(crop=False), "has positions for 6"),
        (lambda model, *arguments: generate(model, *arguments), "course's generate needs more"),
        (forgets_the_old_text, "not the text that you return"),
        (sees_the_last_token, "only the last token"),
        (sees_one_too_few, "as its context holds"),
    ],
    "farthest": [
        (returns_a_number, "pair"),
        (lambda maps: head_of(maps, (steps_back(maps) * -maps).sum(-1).mean(-1)), "t - s, or s - t"),
        (lambda maps: head_of(maps, maps.sum(-1).mean(-1)), "before you add"),
        (lambda maps: head_of(maps, (steps_back(maps) * maps).sum(-1).amax(-1)), "last token only"),
        (lambda maps: head_of(maps, maps[..., 0].mean(-1)), "its own distance"),
        (lambda maps: head_of(maps, (torch.arange(6) - maps.argmax(-1)).float().mean(-1)), "spreads its weight evenly"),
        (lambda maps: head_of(maps, maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1)), "looks back by one"),
        (turned_round, "wrong order"),
        (lambda maps: divmod((steps_back(maps) * maps).sum(-1).mean(-1).argmax().item(), len(maps)), "four heads"),
        (lambda maps: (nb04.farthest_head(maps)[0] + 1, nb04.farthest_head(maps)[1]), "from 0"),
    ],
}


WRONG_TYPES = {
    "linear": [((1, 2), "a tuple of 2 numbers"), ("abc", "a str: 'abc'"), (nn.Linear, "a type"),
               ({"weight": torch.ones(2)}, "a dict"), (torch.ones(18, 6), "a tensor of shape (18, 6)")],
    "temperature": [("abc", "a str: 'abc'"), ({"p": 1}, "a dict: {'p': 1}"), ([1.0, 2.0, 3.0], "a list of 3 numbers"),
                    (("p", "H"), "a str: 'p'"), (torch.ones(5), "a tensor of shape (5,)"),
                    ((torch.ones(5) / 5, None), "a tuple of 2 items")],
    "cut": [("abc", "a str: 'abc'"), ({0: 0.5}, "a dict: {0: 0.5}"), ([[0.5], [0.25, 0.25]], "a list of 2 lists"),
            ((torch.ones(4), torch.ones(2)), "a tuple of 2 tensors of shapes (4,) and (2,)")],
    "loop": [("abc", "a str: 'abc'"), ({}, "a dict: {}"), ([[5, 0], [2, 4, 2]], "a list of 2 lists"),
             ((torch.ones(2, 6), torch.ones(2)), "a tuple of 2 tensors of shapes (2, 6) and (2,)")],
    "farthest": [(6.0, "a float: 6.0"), ("abc", "a str: 'abc'"), ((1, 2, 3), "a tuple of 3 numbers"),
                 (torch.ones(3, 4), "a tensor of shape (3, 4)"), ({"layer": 1, "head": 2}, "a dict")],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_an_answer_of_the_wrong_type_is_described(name):
    for answer, words in WRONG_TYPES[name]:
        text = getattr(nb04, name).judge(lambda *arguments: answer).text
        assert "ou returned " + words in text and "not yet" in text, text
        assert "Your code stopped" not in text and "cannot use" not in text, text


def test_the_helpers_answer_is_right_but_not_by_hand():
    def temperature(logits, tau):
        p = (logits[0, -1] / tau).softmax(-1)
        return p, entropy(p)

    def by_helper(model, ids, new, tau, top_k):
        for _ in range(new):
            p = next_token_probabilities(model(ids[:, -model.config.n_positions:])[:, -1], tau, top_k)
            ids = torch.cat([ids, torch.multinomial(p, 1)], dim=1)
        return ids

    for exercise, attempt, name in (
            (nb04.temperature, temperature, "entropy"),
            (nb04.cut, lambda p, least: next_token_probabilities(p.log(), top_p=least), "next_token_probabilities"),
            (nb04.loop, by_helper, "next_token_probabilities")):
        verdict = exercise.judge(attempt)
        assert not verdict.solved and "correct, but not by hand" in verdict.text and name in verdict.text, verdict.text


def test_a_set_that_reaches_p_exactly_is_large_enough():
    def one_too_many(probabilities, p):
        ordered, order = probabilities.sort(descending=True)
        kept = torch.zeros_like(probabilities)
        kept[order] = ordered * (ordered.cumsum(0) - ordered <= p)
        return kept / kept.sum()

    assert "reaches p exactly" in nb04.cut.judge(one_too_many).text


def test_sizes_of_the_first_case_do_not_pass():
    """Answers with the vocabulary, the context, the number of heads or the shape of the first case."""
    for exercise, attempt in (
            (nb04.linear, lambda conv: nb04.to_linear(nb04.random_conv(18, 6))),
            (nb04.temperature, entropy_with(lambda p: torch.special.entr(p[:5]).sum())),
            (nb04.farthest, lambda maps: (1, 2)),
            (nb04.farthest, lambda maps: divmod((steps_back(maps) * maps).sum(-1).mean(-1).argmax().item(), 4))):
        assert not exercise.judge(attempt).solved


def test_the_loop_agrees_with_the_helper():
    torch.manual_seed(0)
    model, ids = GPT(GPTConfig(17, 8, 12, 2, 3)).eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert nb04.write(model, ids, 12, 0.7, 1).equal(generate(model, ids, 12, 0.7, top_k=1))


def test_temperature_agrees_with_the_helpers():
    logits = torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(6))
    for tau in (0.05, 0.7, 3.0):
        p, H = nb04.next_token(logits, tau)
        torch.testing.assert_close(p, next_token_probabilities(logits[0, -1], tau))
        torch.testing.assert_close(H, entropy(p))


def test_nucleus_agrees_with_the_helper():
    logits = torch.randn(30, generator=torch.Generator().manual_seed(2))
    for p in (0.1, 0.5, 0.9, 1.0):
        torch.testing.assert_close(nb04.nucleus(logits.softmax(-1), p), next_token_probabilities(logits, top_p=p))
