"""Measure how long a training step of each shape takes, as a multiple of the base arm's (notebook 09).

    python -m data.recipes.measure_step_times     on a machine that does nothing else; two minutes

Notebook 09 compares shapes of a model at an equal number of parameters, and again at an equal time: there each shape
reads as many batches as fit into the time of the base arm's (helpers/course/arms.py, time_arms). The shapes are timed
in turns, on one thread, as experiments.py trains them with several jobs. The record is
data/measurements/shapes.json. New times change the arms, so their runs have to be made again.
"""

import torch

from helpers import training
from helpers.course import arms, experiments
from helpers.machine import kernels, timing

ROUNDS, STEPS = 11, 3


def trainer(name, size="laptop", steps=STEPS):
    """A function that trains a new model of this arm for a few steps on random tokens."""
    shape, config = arms.settings(arms.ARMS[name], size, 0)
    vocab_size = 4096
    model = experiments.build(arms.ARMS[name], shape, vocab_size, 0)
    optimizer, scaler = training.make_optimizer(model, config), training.make_scaler("cpu", config)
    x, y = torch.randint(vocab_size, (2, config.batch_size, config.context), generator=torch.Generator().manual_seed(0))

    def train():
        with kernels.matmul_precision(kernels.fastest_matmul("cpu", model.config)):
            for _ in range(steps):
                training.train_step(model, optimizer, scaler, x, y, config.learning_rate, config)

    return train


def measured(names, rounds=ROUNDS, size="laptop", steps=STEPS):
    """{arm: {"low", "middle", "high"}}: the quartiles of its step time divided by the base arm's, round by round."""
    seconds = timing.in_turns({name: trainer(name, size, steps) for name in ("base", *names)}, rounds)
    return {name: dict(zip(("low", "middle", "high"),
                           (round(ratio, 4) for ratio in timing.quartiles_of_ratios(seconds[name], seconds["base"]))))
            for name in names}


if __name__ == "__main__":
    torch.set_num_threads(1)
    times = measured([name for name, arm in arms.ARMS.items() if arm.group == "shape"])
    timing.write_json(arms.STEP_TIMES, {**timing.origin("cpu"), "rounds": ROUNDS, "steps": STEPS, "times": times})
    for name, ratios in times.items():
        print(name, ratios)
