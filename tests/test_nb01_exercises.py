"""Notebook 01's exercises: typical wrong answers get a sentence that helps."""

import math

import pytest
import torch

from helpers import attention
from helpers.exercises import nb01


def divides_by_w(T, w):
    return (torch.ones(T, T).tril() - torch.ones(T, T).tril(-w)) / w


def looks_ahead(T, w):
    return nb01.window_average(T, w).T


def masks_after_softmax(q, k, v):
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1).tril() @ v


def forgets_the_scale(q, k, v):
    return attention.apply_causal_mask(q @ k.transpose(-2, -1)).softmax(-1) @ v


def forgets_the_mask(q, k, v):
    return attention.attention_scores(q, k).softmax(-1) @ v


def takes_rows(heads, w_0):
    return nb01.head_contributions(heads, w_0.T)


def shares_equally(heads, w_0):
    nh = heads.shape[1]
    return (attention.merge_heads(heads) @ w_0.T / nh).unsqueeze(1).expand(-1, nh, -1, -1)


def too_short(T, n):
    q, k = nb01.offset_head(T, n)
    return q / 20, k


def looks_at_itself(T, n):
    return 100 * torch.eye(T), torch.eye(T)


@pytest.mark.parametrize(
    "exercise, wrong, says",
    [
        (nb01.window, divides_by_w, "sum to 1"),
        (nb01.window, looks_ahead, "above the diagonal"),
        (nb01.window, lambda T, w: nb01.window_average(T, w + 1), "there must be w"),
        (nb01.window, lambda T, w: torch.eye(T), "1 / (number of its tokens)"),
        (nb01.causal, forgets_the_mask, "later ones"),
        (nb01.causal, forgets_the_scale, "not divided by sqrt"),
        (nb01.causal, masks_after_softmax, "before the softmax"),
        (nb01.causal, lambda q, k, v: v, "largest difference"),
        (nb01.contributions, takes_rows, "not of its rows"),
        (nb01.contributions, shares_equally, "not each head's part"),
        (nb01.contributions, lambda heads, w_0: heads, "(B, nh, T, C)"),
        (nb01.contributions, lambda heads, w_0: 2 * nb01.head_contributions(heads, w_0), "Added up"),
        (nb01.offset, too_short, "Longer queries"),
        (nb01.offset, looks_at_itself, "look at themselves"),
        (nb01.offset, lambda T, n: (torch.zeros(T, T), torch.eye(T)), "not at token"),
        (nb01.offset, lambda *arguments: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_wrong_answers_are_told_what_to_look_at(exercise, wrong, says, capsys):
    exercise.check(wrong)
    printed = capsys.readouterr().out
    assert "not yet" in printed and says in printed


def test_another_right_offset_head_is_accepted(capsys):
    """Queries may be short where keys are long."""
    nb01.offset.check(lambda T, n: (torch.eye(T).roll(n, dims=0), 50 * math.sqrt(T) * torch.eye(T)))
    assert ": correct." in capsys.readouterr().out
