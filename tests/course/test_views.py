"""The views of notebooks 01 and 04: what they show, their field for other texts, and that they run without it."""

import math
import sys

import IPython.display
import matplotlib
import pytest
import torch

from helpers import attention
from helpers.corpus import load_tokenizer
from helpers.course import figures, views, views_pages
from helpers.generation import next_token_probabilities
from helpers.model import GPT, GPTConfig

TEXT = "The ship was old"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("course")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=12, n_layer=2, n_head=3)).eval()


@pytest.fixture
def shown(monkeypatch):
    """The pages that are shown, as (page, kind, what draws its figure, alternative text), and the widgets."""
    found = []
    monkeypatch.setattr(views_pages, "show", lambda *arguments: found.append(arguments))
    monkeypatch.setattr(IPython.display, "display", found.append)
    return found


@pytest.fixture
def no_windows(monkeypatch):
    monkeypatch.setattr(figures.plt, "show", lambda: None)
    yield
    figures.plt.close("all")


def test_the_panels_show_the_distributions(model, tokenizer):
    settings = {"plain": {}, "one": {"top_k": 1}, "cold": {"temperature": 0.01}}
    tokens, panels = views.next_token_panels(model, tokenizer, TEXT, settings, count=5)
    logits = model(tokenizer.encode(TEXT)[None])[0, -1].detach()
    best = logits.topk(5)
    assert tokens == [repr(tokenizer.decode([token])) for token in best.indices.tolist()]
    plain, one, cold = panels.values()
    assert plain == pytest.approx(next_token_probabilities(logits)[best.indices].tolist())
    assert one == [1, 0, 0, 0, 0] and cold[0] > plain[0]
    assert [heading.partition("\n")[0] for heading in panels] == list(settings)
    assert "0.00 nats = 1.0 tokens" in list(panels)[1]
    assert f"{math.log(tokenizer.vocab_size):.1f}" in list(panels)[0], "the entropy of a fresh model is almost ln V"


def test_a_text_that_cannot_be_used_is_explained(model, tokenizer, shown):
    for text in ("", "word " * 40):
        for view in (views.next_token, views.heads, views.draw_next_tokens, views.draw_heads):
            with pytest.raises(ValueError, match="between 1 and 16"):
                view(model, tokenizer, text)
    assert not shown


@pytest.mark.parametrize("view, kind", [(views.next_token, "next-token"), (views.heads, "heads")])
def test_a_text_of_ones_own_is_shown_below_the_field(model, tokenizer, shown, capsys, view, kind):
    view(model, tokenizer, TEXT)
    (page, own, _, alt), box = shown
    assert own == kind and TEXT in alt and "ship" in page
    field = box.children[0]
    assert not field.continuous_update, "every letter would run the model"
    field.value = "The sea is wide"
    assert len(shown) == 3 and "sea" in shown[2][0] and shown[2][1] == kind
    field.value = "word " * 40
    assert len(shown) == 3 and "between 1 and 16" in capsys.readouterr().out
    field.value = ""
    assert len(shown) == 3 and "expected" not in capsys.readouterr().out


def test_without_ipywidgets_the_views_work_but_have_no_field(model, tokenizer, shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    views.next_token(model, tokenizer, TEXT)
    views.heads(model, tokenizer, TEXT)
    views.attention_steps(*torch.randn(3, 4, 5), list("abcd"))
    assert [kind for _, kind, _, _ in shown] == ["next-token", "heads", "steps"]


def test_the_figures_that_stand_for_the_views_can_be_drawn(model, tokenizer, shown, no_windows):
    views.next_token(model, tokenizer, TEXT)
    views.heads(model, tokenizer, TEXT)
    views.attention_steps(*torch.randn(3, 4, 5), list("abcd"))
    for _, _, draw, _ in (arguments for arguments in shown if isinstance(arguments, tuple)):
        assert views_pages.as_png(draw).startswith(b"\x89PNG")
    assert not matplotlib.pyplot.get_fignums()


def test_the_drawn_steps_show_the_weights_and_sums_of_attention(no_windows):
    q, k, v = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    weights = attention.attention_weights(q, k)
    grid = figures.plot_attention_steps(q, k, v, list("abcd"), [0, 2])
    bars = [bar.get_width() for bar in grid[1][2].patches]
    assert bars == pytest.approx(weights[2].tolist(), abs=1e-6)
    total = grid[1][3].collections[0].get_array().reshape(5, 5)[-1]
    assert total.tolist() == pytest.approx(attention.attention(q, k, v)[2].tolist(), abs=1e-5)
