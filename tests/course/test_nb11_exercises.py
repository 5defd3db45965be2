"""Notebook 11's exercises: the message for each wrong answer. The capstone itself is tested in test_capstone.py."""

import nbformat
import torch

from helpers.course import capstone
from helpers.course.capstone import Adapter
from helpers.course.exercises import nb11
from helpers.machine import assets
from helpers.model import GPT
from tests.course.test_capstone import WRONG as CAPSTONE
from tests.course.test_capstone import variant


def shapes_but(**changes):
    """The right shapes, except for some: changes[key](B, T, C, nh, V)."""
    def attempt(config, B, T):
        sizes = B, T, config.n_embd, config.n_head, config.vocab_size
        changed = {key.replace("_", " "): change(*sizes) for key, change in changes.items()}
        return {**nb11.shapes_on_the_way(config, B, T), **changed}
    return attempt


def fixed_shapes(config, B, T):
    return {"x": (2, 7, 24), "qkv": (2, 7, 72), "q": (2, 3, 7, 8), "scores": (2, 3, 7, 7), "merged": (2, 7, 24),
            "hidden": (2, 7, 96), "logits": (2, 7, 29), "new scores": (2, 3, 1, 8)}


def first_of(attempt):
    return lambda *arguments: attempt(*arguments)[0]


def leaks_by(find):
    """find(t, s, changed rows (T, V) -> bool): an attempt that changes each token and asks about each row."""
    def attempt(logits, V, T):
        ids = torch.zeros(1, T, dtype=torch.long)
        before, found = logits(ids)[0], []
        for s in range(T):
            changed = ids.clone()
            changed[0, s] = 1
            difference = (logits(changed)[0] - before).abs()
            found += [(t, s) for t in range(T) if find(t, s, difference)]
        return found
    return attempt


def last_token_only(logits, V, T):
    ids = torch.zeros(1, T, dtype=torch.long)
    changed = ids.clone()
    changed[0, -1] = 1
    differs = (logits(ids) - logits(changed)).abs()[0].amax(-1) > 1e-6
    return [(t, T - 1) for t in range(T - 1) if differs[t]]


def other_ids_each_time(logits, V, T):
    found = []
    for s in range(T):
        a, b = torch.randint(V, (1, T)), torch.randint(V, (1, T))
        differs = (logits(a) - logits(b))[0].abs().amax(-1) > 1e-6
        found += [(t, s) for t in range(s) if differs[t]]
    return found


def cut(order=(0, 1, 2, 3), bias_first=True, which=(0, 1, 2), bias_which=(0, 1, 2)):
    """An attempt that cuts the weight into (3, nh, hs, C) and permutes these axes."""
    def attempt(weight, bias, n_head):
        C = weight.shape[1]
        w = weight.view(3, n_head, C // n_head, C)[list(which)].permute(order)
        b = bias.view(3, n_head, -1)[list(bias_which)]
        return w, b if bias_first else b.transpose(0, 1)
    return attempt


def interleaved(weight, bias, n_head):
    C = weight.shape[1]
    return weight.view(n_head, 3, C // n_head, C).permute(1, 0, 3, 2), bias.view(3, n_head, -1)


def reshaped(weight, bias, n_head):
    C = weight.shape[1]
    return weight.reshape(3, n_head, C, C // n_head), bias.view(3, n_head, -1)


def bias_interleaved(weight, bias, n_head):
    return nb11.unfuse(weight, bias, n_head)[0], bias.view(n_head, 3, -1).transpose(0, 1)


def columns_split(weight, bias, n_head):
    C = weight.shape[1]
    parts = [part.view(C, n_head, C // n_head).permute(1, 0, 2) for part in weight.chunk(3)]
    return torch.stack(parts), bias.view(3, n_head, -1)


WRONG = {
    "shapes": [
        (shapes_but(q=lambda B, T, C, nh, V: (B, T, nh, C // nh)), "The heads come before the tokens"),
        (shapes_but(q=lambda B, T, C, nh, V: (B, nh, T, C)), "a slice of hs"),
        (shapes_but(scores=lambda B, T, C, nh, V: (B, T, T)), "Every head has its own scores"),
        (shapes_but(new_scores=lambda B, T, C, nh, V: (B, nh, 1, T)), "also attends to itself"),
        (shapes_but(new_scores=lambda B, T, C, nh, V: (B, nh, T + 1, T + 1)), "only the new token has a query"),
        (shapes_but(hidden=lambda B, T, C, nh, V: (B, T, C)), "four times wider"),
        (shapes_but(logits=lambda B, T, C, nh, V: (B, V)), "Every position predicts"),
        (shapes_but(x=lambda B, T, C, nh, V: None), "no shape yet for x"),
        (shapes_but(merged=lambda B, T, C, nh, V: 7), "Which axes does it have"),
        (shapes_but(q=lambda B, T, C, nh, V: (B, nh, T, C / nh)), "contains 8.0. Sizes are whole numbers: divide with"),
        (fixed_shapes, "x: with B, T, C, nh, V = 3, 11"),
        (lambda config, B, T: (B, T, config.n_embd), "you returned a tuple of 3 numbers"),
    ],
    "leaks": [
        (leaks_by(lambda t, s, d: d[t].max() > 1e-6), "is no leak, because row 0 may depend on token 0"),
        (leaks_by(lambda t, s, d: t > s and d[t].max() > 1e-6), "row 1 may depend on token 0"),
        (leaks_by(lambda t, s, d: t < s and d[t].max() > 0.5), "is not in your list"),
        (leaks_by(lambda t, s, d: t == s - 1 and d[t].max() > 1e-6), "is not in your list"),
        (leaks_by(lambda t, s, d: t < s), "does not depend on"),
        (last_token_only, "is not in your list"),
        (other_ids_each_time, "Change one token at a time"),
        (lambda logits, V, T: [], "is not in your list"),
        (lambda logits, V, T: False, "you returned a bool"),
    ],
    "split": [
        (cut(), "exchange the last two axes"),
        (interleaved, "the axis of 3 comes before that of the heads"),
        (reshaped, "reshape where you should exchange"),
        (columns_split, "the heads share the rows"),
        (cut((0, 1, 3, 2), which=(0, 2, 1)), "K is in another place"),
        (cut((0, 1, 3, 2), which=(1, 0, 2)), "Q is in another place"),
        (cut((0, 1, 3, 2), bias_first=False), "in b the axis of 3"),
        (cut((0, 1, 3, 2), bias_which=(0, 2, 1)), "w is right. b[0, 1]"),
        (bias_interleaved, "in b the axis of 3"),
        (first_of(nb11.unfuse), "you returned a tensor of shape"),
    ],
    "gpt2": [
        (variant(*CAPSTONE[name][0]), CAPSTONE[name][2])
        for name in ("last position only", "no mask", "untied", "residual projections like all", "no scale", "bits",
                     "cache ignored")
    ] + [(17, "Hand over the class"), (Adapter(lambda config: object()), "no method")],
}


def cell(name):
    """The text of a cell of notebook 11."""
    path = assets.ROOT / "notebooks" / "11_from_a_blank_file.ipynb"
    return next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.id == name)


def test_the_notebooks_adapter_of_a_forward_with_targets_has_the_right_loss():
    code = cell("s2").split("```python\n")[1].split("```")[0]
    adapter = eval(code, {"capstone": capstone, "MyGPT": GPT})
    capstone.stage_overfit(capstone.Subject(adapter))


def test_the_leak_test_works_on_ones_own_gpt():
    assert "my_leaks(model, V, T)" in cell("s4") and "Try it on your GPT" in nb11._test_leaks(nb11.find_leaks)
    config = capstone.SMALL
    V, T = config.vocab_size, config.n_positions
    assert nb11.find_leaks(nb11.GPT2(config), V, T) == []
    assert len(nb11.find_leaks(variant(*CAPSTONE["no mask"][0])(config), V, T)) == T * (T - 1) // 2


def test_the_help_says_what_the_judge_says():
    text = cell("gpt2-help")
    for words in ("One row too many per block", "If `lm_head.weight` is unexpected, leave it out: it is `wte`",
                  "split or merged by `view` alone", "A whole number of blocks"):
        assert words in text
