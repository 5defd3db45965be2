"""The numbers of the three run sizes: tokenizer, model, and how it is trained (notebooks 02, 07, 08, 09 and 12)."""

from dataclasses import dataclass, replace

from helpers.model import GPTConfig
from helpers.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """All numbers of one training run: tokenizer, model, hyperparameters."""

    tokenizer: str
    model: GPTConfig
    training: TrainConfig


# Below full size the course's own tokenizer is used: with GPT-2's 50,257 tokens nearly all parameters and most of the
# time of a small model would go into its embedding. Their training is the recipe of the speedrun (speedrun.py): each
# part of it was chosen on the validation set of Gulliver's Travels. At full size it has not been measured.
SPEEDRUN = TrainConfig(
    steps=750, batch_size=16, context=64, optimizer="muon", learning_rate=0.02, warmup_steps=10, decay="linear",
    final_share=0.0, weight_decay=1.0, embedding_decay=0.3, sampling="epochs", noise=0.05, eval_every=150,
    sample_every=150,
)
RECIPES = {
    "smoke": Recipe(
        "course",
        GPTConfig(vocab_size=4096, n_positions=64, n_embd=64, n_layer=2, n_head=2),
        replace(SPEEDRUN, steps=40, batch_size=8, warmup_steps=5, eval_every=20, eval_tokens=4096, sample_every=40,
                sample_tokens=20),
    ),
    "laptop": Recipe(
        "course", GPTConfig(vocab_size=4096, n_positions=64, n_embd=128, n_layer=4, n_head=4), SPEEDRUN,
    ),
    "full": Recipe("gpt2", GPTConfig(), TrainConfig()),
}


def recipe_for(size):
    """The Recipe of a run size: "smoke", "laptop" or "full". A size changes numbers, never the code.

    Raises ValueError for any other word.
    """
    if size not in RECIPES:
        raise ValueError(f"recipe_for({size!r}): expected one of {', '.join(RECIPES)}.")
    return RECIPES[size]
