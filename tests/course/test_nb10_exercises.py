"""Notebook 10's exercises: the message for each wrong answer. (Right ones: exercise_cases/nb10.py.)"""

import pytest
import torch

from helpers import circuits
from helpers.course.exercises import nb10


def positions(ids, of):
    """For each position of ids: of(earlier positions of the same token), or None if there are none."""
    earlier = [[s for s in range(t) if ids[s] == token] for t, token in enumerate(ids)]
    return [of(found) if found else None for found in earlier]


def cells(ids, of=max):
    return [(t, s + 1) for t, s in enumerate(positions(ids.tolist(), of)) if s is not None]


def weights(maps, pairs):
    return torch.stack([maps[:, t, s] for t, s in pairs])


def hooked(module, change, run, is_removed=True):
    """run() with a forward pre-hook, which stays registered after an error."""
    hook = module.register_forward_pre_hook(lambda module, inputs: (change(inputs[0].clone()), *inputs[1:]))
    result = run()
    if is_removed:
        hook.remove()
    return result


def c_proj(model, layer):
    return model.transformer.h[layer].attn.c_proj


def set_to_zero(columns):
    def change(z):
        z[..., columns] = 0
        return z
    return change


def own(model, head):
    hs = model.config.n_embd // model.config.n_head
    return slice(head * hs, (head + 1) * hs)


def leaves_the_hook(model, ids, layer, head):
    return hooked(c_proj(model, layer), set_to_zero(own(model, head)), lambda: model(ids), is_removed=False)


def leaves_the_hook_after_an_error(model, ids, layer, head):
    return hooked(c_proj(model, layer), set_to_zero(own(model, head)), lambda: model(ids))


def hides_the_error(model, ids, layer, head):
    try:
        return nb10.run_without_head(model, ids, layer, head)
    except ValueError:
        return torch.zeros(1)


def changes_the_weights(model, ids, layer, head):
    c_proj(model, layer).weight[:, own(model, head)] = 0
    return model(ids)


def returns_nothing_from_the_hook(model, ids, layer, head):
    hook = c_proj(model, layer).register_forward_pre_hook(lambda module, inputs: None)
    logits = model(ids)
    hook.remove()
    return logits


def without(*arguments):
    return circuits.ablated(*arguments, "zero")


def removes(choose):
    """An attempt that removes the heads choose(model, layer, head), by the course's own context manager."""
    def attempt(model, ids, layer, head):
        with without(model, choose(model, layer, head)):
            return model(ids)
    return attempt


def every_nth_element(model, ids, layer, head):
    return hooked(c_proj(model, layer), set_to_zero(slice(head, None, model.config.n_head)), lambda: model(ids))


def share_with(formula):
    """An attempt that returns formula(clean, corrupted, patched, reverse), four logit differences."""
    def attempt(model, clean, corrupted, answer, other, layer, position):
        def difference(ids, source=None):
            with circuits.patched(model, circuits.record(model, ids if source is None else source),
                                  residual=[(layer, position)]):
                return circuits.logit_difference(model(ids), answer, other)
        return formula(difference(clean), difference(corrupted), difference(corrupted, clean),
                       difference(clean, corrupted))
    return attempt


def one_for_each_pair(model, clean, corrupted, answer, other, layer, position):
    return torch.zeros(len(clean))


def share_at(choose):
    """An attempt that computes the right share of another layer: choose(model, layer)."""
    def attempt(model, clean, corrupted, answer, other, layer, position):
        return nb10.patch_share(model, clean, corrupted, answer, other, choose(model, layer), position)
    return attempt


def mean_of_the_pairs(model, clean, corrupted, answer, other, layer, position):
    pairs = ([tensor[i : i + 1] for tensor in (clean, corrupted, answer, other)] for i in range(len(clean)))
    return sum(nb10.patch_share(model, *pair, layer, position) for pair in pairs) / len(clean)


def keeps_another_forward(model, ids, layer, head):
    part, module = own(model, head), c_proj(model, layer)
    module.forward = lambda z: torch.nn.functional.linear(set_to_zero(part)(z.clone()), module.weight, module.bias)
    return model(ids)


def share_that_leaves_a_hook(model, *arguments):
    model.register_forward_pre_hook(lambda module, inputs: None)
    return nb10.patch_share(model, *arguments)


WRONG = {
    "sources": [
        (lambda ids: positions(ids, max), "one position further"),
        (lambda ids: positions(ids, lambda found: found[0] + 1), "Take the last one"),
        (lambda ids: [t + 1 for t in range(len(ids))], "Each token finds itself"),
        (lambda ids: [s or 0 for s in nb10.copy_sources(ids)], "0 is a position"),
        (lambda ids: nb10.copy_sources(ids)[:-1], "one entry for each"),
        (lambda ids: [None] * len(ids), "Expected 1, but yours is None"),
        (lambda ids: [s if s is None or t - s > 1 else None for t, s in enumerate(nb10.copy_sources(ids))],
         "In [4, 4, 6, 4, 6]"),
    ],
    "score": [
        (lambda maps, ids: weights(maps, [(t, s - 1) for t, s in cells(ids)]).mean(0), "one position further"),
        (lambda maps, ids: weights(maps.mT, cells(ids)).mean(0), "exchanged"),
        (lambda maps, ids: weights(maps, cells(ids)).sum(0) / len(ids), "belong to the mean"),
        (lambda maps, ids: weights(maps, cells(ids)).sum(0), "Take the mean"),
        (lambda maps, ids: weights(maps, cells(ids, min)).mean(0), "Use the last"),
        (lambda maps, ids: weights(maps, cells(ids)).mean(), "one score for each"),
        (lambda maps, ids: maps[:, -1, 0], "the scores should be"),
    ],
    "ablate": [
        (leaves_the_hook, "still registered: every later run"),
        (leaves_the_hook_after_an_error, "finally block"),
        (hides_the_error, "without except"),
        (changes_the_weights, "changes the model's weights"),
        (keeps_another_forward, "something in the model is still replaced"),
        (returns_nothing_from_the_hook, "return the changed input"),
        (removes(lambda model, layer, head: [(layer, i) for i in range(model.config.n_head)]), "You remove all"),
        (removes(lambda model, layer, head: [((layer + 1) % model.config.n_layer, head)]), "another layer"),
        (removes(lambda model, layer, head: [(layer, (head + 1) % model.config.n_head)]), "another head"),
        (every_nth_element, "side by side"),
        (lambda model, ids, layer, head: nb10.run_without_head(model, ids, layer, head)[:, -1], "with the shape"),
    ],
    "share": [
        (share_with(lambda clean, corrupted, patched, reverse: patched), "difference itself"),
        (share_with(lambda clean, corrupted, patched, reverse: patched - corrupted), "Divide it by"),
        (share_with(lambda clean, corrupted, patched, reverse: (patched - corrupted) / clean),
         "You divide by the clean"),
        (share_with(lambda clean, corrupted, patched, reverse: (reverse - corrupted) / (clean - corrupted)),
         "into the corrupted run"),
        (share_with(lambda clean, corrupted, patched, reverse: (clean - patched) / (clean - corrupted)),
         "does not restore"),
        (share_with(lambda clean, corrupted, patched, reverse: 1.0), "all positions"),
        (share_at(lambda model, layer: layer - 1), "one block too early"),
        (share_at(lambda model, layer: 1), "one block too early"),
        (mean_of_the_pairs, "one share"),
        (share_with(lambda clean, corrupted, patched, reverse: 17.0), "so the share is"),
        (one_for_each_pair, "one number"),
        (share_that_leaves_a_hook, "still registered"),
    ],
}


# Answers of a wrong type, and the part of the message that describes them.
WRONG_TYPES = {
    "sources": [
        (lambda ids: "1, 2, 3", "returned a str: '1, 2, 3'"), (lambda ids: dict(enumerate(ids)), "returned a dict"),
        (lambda ids: [None, 1], "returned a list of 2 items"),
        (lambda ids: torch.zeros(len(ids), 2), "entry 0 is a tensor of shape (2,)"),
        (lambda ids: [[] for _ in ids], "entry 0 is a list of 0 items"),
        (lambda ids: ["new"] * len(ids), "entry 0 is a str: 'new'"),
    ],
    "score": [
        (lambda maps, ids: (maps[:, 0, 0], maps), "returned a tuple of 2 tensors of shapes (3,) and (3, 7, 7)"),
        (lambda maps, ids: [0.5] * len(ids), "returned a list of 7 numbers"),
        (lambda maps, ids: "0.5", "returned a str: '0.5'"), (lambda maps, ids: {0: 0.5}, "returned a dict: {0: 0.5}"),
        (lambda maps, ids: maps[:, 0], "returned a tensor of shape (3, 7)"),
    ],
    "ablate": [
        (lambda model, ids, *place: (model(ids), ids), "returned a tuple of 2 tensors of shapes (2, 6, 13) and (2, 6)"),
        (lambda model, ids, *place: [0.0, 1.0], "returned a list of 2 numbers"),
        (lambda model, *rest: model, "returned a GPT"), (lambda *arguments: "logits", "returned a str: 'logits'"),
        (lambda model, ids, *place: {"logits": model(ids)}, "returned a dict"),
    ],
    "share": [
        (lambda *arguments: (0.1, 0.2, 0.3), "returned a tuple of 3 numbers"),
        (lambda *arguments: [], "returned a list of 0 items"), (lambda *arguments: "10 %", "returned a str: '10 %'"),
        (lambda *arguments: {"share": 0.1}, "returned a dict: {'share': 0.1}"),
        (lambda model, clean, *rest: model(clean), "returned a tensor of shape (3, 6, 13)"),
    ],
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_an_answer_of_a_wrong_type_is_described(name):
    for attempt, words in WRONG_TYPES[name]:
        said = getattr(nb10, name).judge(attempt).text
        assert "not yet" in said and words in said, said
        assert "Your code stopped" not in said and "returns None" not in said, said


def share_of(clean, corrupted, patched, reverse):
    return (patched - corrupted) / (clean - corrupted)


@pytest.mark.parametrize("name, helped", [
    ("ablate", removes(lambda model, layer, head: [(layer, head)])), ("share", share_with(share_of)),
    ("share", lambda *arguments: circuits.restored_shares(*arguments[:5], "residual")[arguments[5:]]),
])
def test_the_course_own_function_is_not_a_solution(name, helped):
    verdict = getattr(nb10, name).judge(helped)
    assert not verdict.solved and "correct, but not by hand" in verdict.text


def test_the_score_agrees_with_the_helper_on_repeated_tokens():
    ids = circuits.repeated_tokens(30, 6, 1, torch.Generator().manual_seed(0))
    maps = torch.rand(2, 1, 3, 12, 12, generator=torch.Generator().manual_seed(1)).tril().softmax(-1)
    own = torch.stack([nb10.score_on_text(layer[0], ids[0]) for layer in maps])
    torch.testing.assert_close(own, circuits.induction_score(maps))


def test_the_share_agrees_with_the_helper():
    model, generator = nb10.small_model((3, 2, 8), 0), torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(13, (2, 5), generator=generator) for _ in range(2))
    answer, other = torch.tensor([1, 2]), torch.tensor([3, 4])
    shares = circuits.restored_shares(model, clean, corrupted, answer, other, "residual")
    own = [[nb10.patch_share(model, clean, corrupted, answer, other, layer, t) for t in range(5)] for layer in range(3)]
    torch.testing.assert_close(torch.tensor(own), shares, atol=1e-4, rtol=1e-4)
