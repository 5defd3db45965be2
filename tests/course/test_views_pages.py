"""The views as pages: their numbers are those of the model, they need no other file, the stored ones are current."""

import base64
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from helpers import attention
from helpers.corpus import load_tokenizer
from helpers.course import views_pages
from helpers.course.views_pages import __main__ as stored
from helpers.course.views_pages import frames
from helpers.machine import assets

LABELS = ["the", " ship", " was", " old", " so", " it"]
LARGEST = {".svg": 100_000, ".html": 300_000}
LOADS = re.compile(r'(?:src|href)\s*=\s*["\']?(?!data:|#)|@import|url\((?!#)|fetch\(|https?://(?!www\.w3\.org/)')


@pytest.fixture(scope="module")
def qkv():
    return torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def made():
    return stored.pages()


def data_of(page):
    """What the page's script is given."""
    return json.JSONDecoder().raw_decode(page, page.index("const data = ") + 13)[0]


def texts_of(svg, kind):
    """The texts of a panel in groups "frame tN", as {N: texts of this class}."""
    root = ElementTree.fromstring(f"<svg>{svg}</svg>")
    return {int(group.get("class").partition(" t")[2]): [text.text for text in group.iter("text")
                                                         if kind in text.get("class").split()]
            for group in root.iter("g") if (group.get("class") or "").startswith("frame")}


# --- attention step by step ------------------------------------------------------------------------------------------


def test_the_tables_and_the_sums_are_those_of_attention(qkv):
    q, k, v = qkv
    steps = frames.steps_of(q, k, v, LABELS)
    assert torch.equal(steps.weights, attention.attention_weights(q, k))
    _, content = frames.panel(steps, 2, "masked")
    numbers = re.findall(r'class="n">([^<]*)<', content)
    expected = [frames.number(steps.weights[t, s].item(), 2) for t in range(6) for s in range(t + 1)]
    assert numbers == expected
    _, content = frames.panel(steps, 3, "masked")
    sums = attention.attention(q, k, v)[:, :2]
    for t, numbers in texts_of(content, "n").items():
        assert numbers[-2:] == [frames.number(value, 2) for value in sums[t].tolist()]


def test_all_frames_have_their_parts_at_the_same_places(qkv):
    steps = frames.steps_of(*qkv, LABELS)
    content = ElementTree.fromstring(f"<svg>{frames.panel(steps, 3, 'masked')[1]}</svg>")
    places = {tuple((text.get("x"), text.get("y")) for text in group.iter("text"))
              for group in content if (group.get("class") or "").startswith("frame")}
    assert len(places) == 1


def test_later_tokens_are_hatched_and_say_minus_infinity(qkv):
    _, content = frames.panel(frames.steps_of(*qkv, LABELS), 1, "masked")
    assert {t: len(texts) for t, texts in texts_of(content, "n").items()} == {t: 5 - t for t in range(6)}
    assert content.count("url(#masked)") == 15 + 15  # in the table, and among the bars of all tokens


@pytest.mark.parametrize("T, labels, problem", [(3, 2, "one of each"), (13, 13, "1 to 12"), (0, 0, "1 to 12")])
def test_sizes_that_do_not_fit_are_named(T, labels, problem):
    with pytest.raises(ValueError, match=problem):
        frames.steps_of(*torch.zeros(3, T, 2), ["a"] * labels)


def test_the_sentences_name_the_largest_weight():
    q = k = torch.tensor([[1.0, 0], [0, 3], [0, 3]])
    first, _, last = frames.sentences(frames.steps_of(q, k, k, ["a", "b", "c"]))
    assert "only itself" in first
    assert "“c” gives its largest weight, 0.50, to “b”" in last and "no later token" in last


def test_the_animation_has_no_script_and_stands_still_on_request(made):
    svg = made["docs/images/attention_steps.svg"]
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<script" not in svg and "foreignObject" not in svg
    assert "prefers-reduced-motion" in svg and "prefers-color-scheme:dark" in svg
    assert "ship" in svg and "<desc>" in svg


# --- the next token --------------------------------------------------------------------------------------------------


def test_the_page_of_the_next_token_counts_every_token():
    tokenizer = load_tokenizer("course")
    logits = 3 * torch.randn(tokenizer.vocab_size, generator=torch.Generator().manual_seed(2))
    data = data_of(views_pages.next_token(logits, tokenizer, "The <ship> was old"))
    bins = [(logit, 1) for logit in data["logits"]] + [tuple(pair) for pair in data["bins"]]
    assert sum(number for _, number in bins) == tokenizer.vocab_size
    assert [logit for logit, _ in bins] == sorted((logit for logit, _ in bins), reverse=True)
    for tau in (0.5, 1, 10):
        weights = torch.tensor([number * math.exp(logit / tau) for logit, number in bins], dtype=torch.float64)
        exact = (logits.double() / tau).exp()
        assert weights.sum().item() == pytest.approx(exact.sum().item(), rel=2e-3)
    assert data["text"] == "The <ship> was old"
    assert data["tokens"][0] == repr(tokenizer.decode([logits.argmax().item()]))


def test_a_vocabulary_that_is_smaller_than_a_page_has_no_bins():
    tokenizer = SimpleNamespace(decode=lambda ids: f"token {ids[0]}")
    data = data_of(views_pages.next_token(torch.randn(9), tokenizer, "a"))
    assert len(data["logits"]) == 9 and data["bins"] == [] and len(data["tokens"]) == 9


# --- the heads -------------------------------------------------------------------------------------------------------


def test_the_page_of_the_heads_holds_all_maps_to_a_hundredth(qkv):
    q, k, _ = qkv
    maps = attention.attention_weights(q, k).expand(2, 3, 6, 6) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    data = data_of(views_pages.heads(maps, LABELS, 1, 2))
    weights = torch.tensor(list(base64.b64decode(data["maps"]))) / 100
    triangle = torch.tril_indices(6, 6)
    assert (weights.view(2, 3, 21) - maps[..., triangle[0], triangle[1]]).abs().max() < 0.005 + 1e-6
    assert (data["layer"], data["head"], data["labels"][1]) == (1, 2, "ship")
    with pytest.raises(ValueError, match="1 to 40"):
        views_pages.heads(torch.zeros(1, 1, 41, 41), ["a"] * 41)


# --- in a notebook and in docs ---------------------------------------------------------------------------------------


def test_a_notebook_gets_the_page_and_a_picture_that_only_viewers_without_styles_show(monkeypatch):
    shown = []
    monkeypatch.setattr(views_pages, "display", lambda data, raw: shown.append(data))
    figure = Figure()
    axes = figure.subplots()
    views_pages.show("<!doctype html><p title='a'>1 & 2 < 3</p>", "heads", lambda: axes, "what “it” sees")
    html = shown[0]["text/html"]
    assert "srcdoc='<!doctype html><p title=&#39;a&#39;>1 &amp; 2 < 3</p>'" in html
    assert "img{display:none!important}" in html and 'alt="what “it” sees"' in html
    assert shown[0]["text/plain"] == "what “it” sees"


def test_a_figure_becomes_a_small_picture():
    figure = Figure(figsize=(4, 2))
    axes = figure.subplots()
    axes.plot([1, 2])
    with Image.open(views_pages.io.BytesIO(views_pages.as_png(lambda: axes, dots=50))) as image:
        assert image.size == (200, 100) and image.mode == "P"


def test_the_stored_pages_are_current_small_and_need_no_other_file(made):
    for name, text in made.items():
        path = assets.ROOT / name
        assert len(text.encode()) < LARGEST[path.suffix], name
        assert not LOADS.search(text), f"{name} loads something"
        kept, again = path.read_text(encoding="utf-8"), "python -m helpers.course.views_pages"
        # Other processors round the last digit differently: all that is not a number must be equal.
        assert re.sub(r"[-−\d.]+|[A-Za-z0-9+/]{40,}=*", "#", kept) == re.sub(
            r"[-−\d.]+|[A-Za-z0-9+/]{40,}=*", "#", text), f"{name} is outdated: run {again}"


def test_what_is_stored_is_the_head_that_its_title_promises(made):
    """In the course's GPT-2, this head of "it" looks back at the noun."""
    data = data_of(made["docs/views/attention_steps.html"])
    assert data["labels"][-1] == "it" and "to “ship”" in data["said"][-1]


def test_the_rules_of_the_animation_hold_only_inside_of_it():
    rules = "text,.b{y:z}@keyframes k{0%{o:1}9.5%{o:0}}@media (prefers-reduced-motion:reduce){*{a:b}}"
    assert frames.scoped(rules, "a").strip() == (
        "#a text, #a .b{y:z}@keyframes k{0%{o:1}9.5%{o:0}}@media (prefers-reduced-motion:reduce){#a *{a:b}}")
    style = re.search(r"<style>(.*?)</style>", stored.pages()["docs/images/attention_steps.svg"], re.S)[1]
    selectors = re.findall(r"(?<=[{}\n])([^{}@%;]+)\{", style)
    assert len(selectors) > 20 and all(selector.strip().startswith("#attention-steps") for selector in selectors)
