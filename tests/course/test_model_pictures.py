"""The pictures of the model and of the course: their numbers are those of the code that they show."""

import re

import pytest

from helpers.course import diagrams
from helpers.course.diagrams import course_pictures, model_pictures, svg
from helpers.machine import assets
from helpers.model import GPTConfig
from helpers.parameters import count_parameters, meta_model


def texts(drawing):
    return [part.label for part in drawing.parts if part.kind == "text"]


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_the_picture_of_gpt2_has_the_counts_of_the_model(name):
    config = GPTConfig.named(name)
    model, drawing = meta_model(config), model_pictures.gpt2(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    block = model.transformer.h[0]
    shown = texts(drawing)
    assert f"{total:,} parameters" in shown and f"{config.n_layer} blocks" in shown
    assert f"{config.n_layer} × {sum(p.numel() for p in block.parameters()):,}" in shown
    for part in (block.attn, block.mlp, block.ln_1, model.transformer.ln_f):
        count = f"{sum(p.numel() for p in part.parameters()):,}"
        assert any(text.endswith(count) for text in shown)
    assert svg.problems(drawing) == []


def test_the_picture_without_options_is_model_5():
    assert f"{count_parameters(meta_model(GPTConfig()))['total']:,} parameters" in texts(model_pictures.gpt2())


def test_the_cache_computes_each_key_once():
    shown = texts(model_pictures.key_value_cache(4, 3))
    assert "without a cache: 15 keys, 15 values" in shown  # 4 + 5 + 6
    assert "with a cache: 6 keys, 6 values" in shown  # 4 + 1 + 1
    assert shown.count("new") == 2 * 6 and shown.count("again") == 15 - 6 == shown.count("kept")


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_the_ring_leaves_every_sum_with_every_process(n):
    before, middle, after = course_pictures.ring_states(n)
    total = sum(10**p for p in range(n))
    assert before == [[10**p] * n for p in range(n)] and after == [[total] * n] * n
    assert [row.count(total) for row in middle] == [1] * n
    assert {row.index(total) for row in middle} == set(range(n)), "each process holds another finished piece"


def test_the_map_has_every_notebook_and_its_arrows_are_the_notebooks_own_needs():
    notebooks = {path.name[:2]: path.read_text(encoding="utf-8")
                 for path in (assets.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert set(course_pictures.MAP) == set(notebooks)
    for start, end in course_pictures.NEEDS:
        (needs,) = re.findall(r"\*\*You need\*\*([^\n]*)", notebooks[end])[:1]
        assert start in needs or start == "00", (start, end, needs)
    for name in course_pictures.MAP:
        drawing = diagrams.draw("course-map", here=name)
        assert svg.problems(drawing) == [] and f"You are in notebook {name}." in drawing.description
    with pytest.raises(ValueError, match="no notebook '13'"):
        diagrams.draw("course-map", here="13")


def test_an_unknown_picture_is_named():
    with pytest.raises(ValueError, match="no diagram 'gpt3'.*gpt2"):
        diagrams.draw("gpt3")
