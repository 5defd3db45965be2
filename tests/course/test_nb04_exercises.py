"""Notebook 04's exercises: the message for each wrong answer, and other right answers that are accepted."""

import torch
import torch.nn as nn

from helpers.course.exercises import nb04


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


def new_tokens_alone(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k)[:, ids.shape[1]:]


def one_token(model, ids, new, tau, top_k):
    return written(model, ids, 1, tau, top_k)


def forgets_the_old_text(model, ids, new, tau, top_k):
    return written(model, ids, new, tau, top_k)[:, -model.config.n_positions:]


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
        (lambda logits, tau: distribution(logits / tau), "only one position predicts"),
        (lambda logits, tau: distribution(logits[0, -1] / tau)[0], "Expected two results"),
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
        (lambda probabilities, p: torch.tensor([0.5, 0.25]), "four must come out"),
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
        (always_the_likeliest, "instead of taking the most likely"),
        (with_mistake(scores=lambda logits, tau: (logits.softmax(-1) / tau).log()), "temperature changes nothing"),
        (with_mistake(scores=lambda logits, tau: logits), "temperature changes nothing"),
        (with_mistake(scores=lambda logits, tau: logits * tau), "multiply by the temperature"),
        (with_mistake(scores=lambda logits, tau: logits.softmax(-1) / tau), "second softmax"),
        (with_mistake(axis=0), "Over which axis"),
        (ignores_the_cut_unless_greedy, "top_k changes nothing"),
        (uses_indices_as_ids_unless_greedy, "index among the k best"),
        (with_mistake(crop=False), "has positions for 6"),
        (forgets_the_old_text, "not the text that you return"),
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


def gumbel(model, ids, new, tau, top_k):
    """A draw without multinomial, with a threshold instead of a list of the k best."""
    for _ in range(new):
        logits = model(ids[:, -6:], last_only=True)[:, -1]
        least = logits.sort(descending=True).values[:, top_k - 1 : top_k]
        scores = (logits / tau).masked_fill(logits < least, float("-inf"))
        best = (scores - torch.empty_like(scores).exponential_().log()).argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


def test_other_right_answers_are_accepted(capsys):
    nb04.loop.check(gumbel)
    nb04.temperature.check(lambda logits, tau: distribution(logits[0, -1].double() / tau))
    nb04.temperature.check(lambda logits, tau: [x.tolist() for x in distribution(logits[0, -1] / tau)])
    nb04.farthest.check(lambda maps: list(nb04.farthest_head(maps)))
    assert capsys.readouterr().out.count(": correct.") == 4


def test_the_loop_agrees_with_the_helper():
    from helpers.generation import generate
    from helpers.model import GPT, GPTConfig

    torch.manual_seed(0)
    model, ids = GPT(GPTConfig(17, 8, 12, 2, 3)).eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert nb04.write(model, ids, 12, 0.7, 1).equal(generate(model, ids, 12, 0.7, top_k=1))


def test_temperature_agrees_with_the_helpers():
    from helpers.course.text_statistics import entropy
    from helpers.generation import next_token_probabilities

    logits = torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(6))
    for tau in (0.05, 0.7, 3.0):
        p, H = nb04.next_token(logits, tau)
        torch.testing.assert_close(p, next_token_probabilities(logits[0, -1], tau))
        torch.testing.assert_close(H, entropy(p))


def test_nucleus_agrees_with_the_helper():
    from helpers.generation import next_token_probabilities

    logits = torch.randn(30, generator=torch.Generator().manual_seed(2))
    for p in (0.1, 0.5, 0.9, 1.0):
        torch.testing.assert_close(nb04.nucleus(logits.softmax(-1), p), next_token_probabilities(logits, top_p=p))
