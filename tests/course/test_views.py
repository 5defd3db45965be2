"""The views of notebooks 01 and 04: what they draw, that their controls work, and that notebooks run without them."""

import math
import sys

import IPython.display
import pytest
import torch

from helpers import attention
from helpers.corpus import load_tokenizer
from helpers.course import figures, views
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
def drawn(monkeypatch):
    """The calls of functions in figures, as (name, arguments), instead of their figures."""
    calls = []
    for name in ("plot_attention_steps", "plot_next_tokens", "plot_head_grid", "plot_matrices"):
        monkeypatch.setattr(figures, name, lambda *arguments, name=name: calls.append((name, arguments)))
    return calls


@pytest.fixture
def displayed(monkeypatch):
    """Everything that is displayed, instead of displaying it."""
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    return shown


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


def test_a_learners_text_that_cannot_be_used_is_explained(model, tokenizer):
    for text in ("", "word " * 40):
        with pytest.raises(ValueError, match="between 1 and 16"):
            views.draw_next_tokens(model, tokenizer, text)
        with pytest.raises(ValueError, match="between 1 and 16"):
            views.draw_heads(model, tokenizer, text)


def controls(box):
    return {widget.description: widget for widget in box.children if hasattr(widget, "description")}


def test_the_view_of_the_next_token_follows_its_controls(model, tokenizer, drawn, displayed):
    views.next_token(model, tokenizer, TEXT)
    (box,) = displayed
    assert "course-view" in box._dom_classes and len(drawn) == 1
    own = controls(box)
    own["temperature"].value = 5.0
    own["top-k (0: all)"].value = 3
    own["top-p"].value = 0.5
    own["text"].value = "The sea"
    panels = [arguments[0] for _, arguments in drawn]
    assert len(panels) == 5
    assert "temperature 5, top-k off, top-p 1" in list(panels[1])[0]
    assert "temperature 5, top-k 3, top-p 0.5" in list(panels[3])[0]
    assert sum(probability > 0 for probability in list(panels[2].values())[0]) == 3
    assert "The sea" in drawn[-1][1][2]


def test_the_view_of_the_heads_follows_its_controls(model, tokenizer, drawn, displayed, capsys):
    views.heads(model, tokenizer, TEXT)
    own = controls(displayed[0])
    assert (own["layer"].max, own["head"].max) == (1, 2)
    own["layer"].value, own["head"].value = 1, 2
    maps = attention.attention_maps(model, tokenizer.encode(TEXT)[None])
    ((heading, drawn_map),) = drawn[-1][1][0].items()
    assert heading == "layer 1, head 2" and torch.equal(drawn_map, maps[1, 2])
    before = len(drawn)
    own["sentence"].value = ""
    assert len(drawn) == before and "between 1 and 16" in capsys.readouterr().out


def test_the_view_of_the_steps_follows_its_controls(drawn, displayed):
    q, k, v = torch.randn(3, 4, 5)
    views.attention_steps(q, k, v, list("abcd"))
    own = controls(displayed[0])
    own["token that looks"].value, own["step"].value = 2, 4
    assert [arguments[-2:] for _, arguments in drawn] == [([3], 1), ([2], 1), ([2], 4)]


def test_without_ipywidgets_a_line_replaces_the_view_but_the_grids_work(model, tokenizer, drawn, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    views.next_token(model, tokenizer, TEXT)
    assert "next figure shows the same" in capsys.readouterr().out and not drawn
    views.draw_next_tokens(model, tokenizer, TEXT)
    views.draw_heads(model, tokenizer, TEXT)
    assert [name for name, _ in drawn] == ["plot_next_tokens", "plot_head_grid"]
    assert len(drawn[0][1][0]) == len(views.SETTINGS)


def test_the_drawn_steps_show_the_weights_and_sums_of_attention(monkeypatch):
    monkeypatch.setattr(figures.plt, "show", lambda: None)
    q, k, v = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    weights = attention.attention_weights(q, k)
    grid = figures.plot_attention_steps(q, k, v, list("abcd"), [0, 2])
    bars = [bar.get_width() for bar in grid[1][2].patches]
    assert bars == pytest.approx(weights[2].tolist(), abs=1e-6)
    total = grid[1][3].collections[0].get_array().reshape(5, 5)[-1]
    assert total.tolist() == pytest.approx(attention.attention(q, k, v)[2].tolist(), abs=1e-5)
    assert not figures.plot_attention_steps(q, k, v, list("abcd"), [1], 2)[0][2].get_visible()
    figures.plt.close("all")
