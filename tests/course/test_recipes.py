"""The recipes of the three run sizes."""

import math
from dataclasses import replace

import pytest
import torch

from helpers import training
from helpers.course import recipes
from helpers.machine import runtime
from helpers.model import GPT, GPTConfig
from helpers.training import TrainConfig


def test_recipes_fit_together():
    for size in runtime.RUN_SIZES:
        recipe = recipes.recipe_for(size)
        assert recipe.training.context <= recipe.model.n_positions
    full = recipes.recipe_for("full")
    assert full.model == GPTConfig() and full.training == TrainConfig()
    default = TrainConfig()
    assert (default.steps, default.batch_size, default.context, default.eval_every) == (500, 16, 256, 100)


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="smoke, laptop, full"):
        recipes.recipe_for("huge")


@pytest.mark.slow
def test_full_size_can_be_built_and_takes_a_step():
    torch.manual_seed(0)
    recipe = recipes.recipe_for("full")
    model, ids = GPT(recipe.model), torch.randint(50257, (200,))
    config = replace(recipe.training, steps=1, batch_size=1, context=32)
    before = model.transformer.h[11].mlp.c_proj.weight.clone()
    history = training.train(model, ids, ids[:33], config, progress=False)
    assert history.train_loss[0] == pytest.approx(math.log(50257), abs=0.5)
    assert not torch.equal(model.transformer.h[11].mlp.c_proj.weight, before)
