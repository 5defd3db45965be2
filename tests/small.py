"""Models and training runs that are small enough for a test: a run of CONFIG takes a fraction of a second."""

import functools

import torch

from helpers import training
from helpers.model import GPT, GPTConfig
from helpers.training import TrainConfig

TINY = GPTConfig(vocab_size=101, n_positions=16, n_embd=32, n_layer=3, n_head=4)

MODEL = GPTConfig(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, dropout=0.1)
CONFIG = TrainConfig(
    steps=12, batch_size=4, context=16, learning_rate=1e-2, warmup_steps=3, eval_every=4, sample_every=4,
    sample_tokens=3,
)
TRAIN = torch.arange(2000) * 7 % 64  # each token determines the next one, so a model can learn the sequence
TEST = torch.arange(301) * 7 % 64


def new_model():
    """A GPT of the shape MODEL, always with the same weights."""
    torch.manual_seed(1)
    return GPT(MODEL)


def train(config=CONFIG, model=None, **settings):
    """Trains on TRAIN. Returns the model and its history."""
    model = new_model() if model is None else model
    return model, training.train(model, TRAIN, TEST, config, progress=False, **settings)


uninterrupted = functools.cache(train)  # uninterrupted(): the model and the history of a complete run, computed once


def stopped_after(calls, function):
    """The function, but a KeyboardInterrupt, as of Ctrl-C, after so many calls."""
    left = [calls]

    def stopped(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return function(*arguments)

    return stopped


class OnCuda(torch.Tensor):
    """A tensor on the CPU that claims to be on a GPU."""

    is_cuda = True


def computed_again(function, device):
    """A substitute for recording a CUDA graph: replaying it computes again, into the memory of the recording."""
    result = function().clone()
    return lambda: result.copy_(function()), result


def weights(model):
    """All parameters of a model in one tensor."""
    return torch.cat([parameter.flatten() for parameter in model.parameters()])
