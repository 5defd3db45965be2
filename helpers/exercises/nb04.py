"""Exercises of notebook 04: Conv1D as nn.Linear, nucleus sampling, the head that looks at the previous token."""

import torch
import torch.nn as nn
from transformers.pytorch_utils import Conv1D

from helpers.exercises import Exercise, NotYet, needs_answer

# --- Conv1D as nn.Linear ---------------------------------------------------------------------------------------------


def to_linear(conv):
    """A transformers Conv1D -> an nn.Linear that computes the same."""
    inputs, outputs = conv.weight.shape
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.T)
        linear.bias.copy_(conv.bias)
    return linear


def random_conv(outputs, inputs):
    """A Conv1D with random weights and biases, for the check."""
    generator, conv = torch.Generator().manual_seed(0), Conv1D(outputs, inputs)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return conv


def _test_linear(attempt):
    """Compares weights, bias and products for a wide and a square matrix."""
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    for outputs, what in ((18, "c_attn"), (6, "the square c_proj")):
        conv = random_conv(outputs, 6)
        answer = needs_answer(attempt(conv))
        if not isinstance(answer, nn.Linear):
            raise NotYet(f"An nn.Linear was expected; yours is a {type(answer).__name__}.")
        if tuple(answer.weight.shape) != (outputs, 6):
            raise NotYet(f"For {what} the weight must be ({outputs}, 6), outputs first; yours is "
                         f"{tuple(answer.weight.shape)}.")
        if answer.bias is None or not torch.equal(answer.bias, conv.bias):
            raise NotYet("The bias has to be copied too: one number per output, no transposition.")
        if not torch.allclose(answer(x), conv(x), atol=1e-5):
            raise NotYet(f"The shapes fit, but the products differ for {what}. A square matrix does not complain when "
                         "it is not transposed.")
    return "Equal products, also for the square matrix, whose shape cannot tell you that it is transposed."


# --- nucleus sampling ------------------------------------------------------------------------------------------------


def nucleus(probabilities, p):
    """probabilities (V,) -> (V,): only the smallest set of likely tokens that has at least the probability p."""
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(0) - ordered  # the probability of all tokens that are more likely than this one
    kept = torch.zeros_like(probabilities)
    kept[order] = ordered * (before < p)
    return kept / kept.sum()


def _test_nucleus(attempt):
    """Compares with the solution at four values of p."""
    probabilities = torch.tensor([0.1, 0.5, 0.15, 0.25])
    for p in (0.6, 0.4, 0.8, 1.0):
        right, answer = nucleus(probabilities, p), needs_answer(attempt(probabilities.clone(), p))
        if tuple(answer.shape) != (4,):
            raise NotYet(f"Four probabilities go in, four must come out; yours have the shape {tuple(answer.shape)}.")
        if torch.allclose(answer, right, atol=1e-6):
            continue
        if not torch.isclose(answer.sum(), torch.tensor(1.0), atol=1e-5):
            raise NotYet(f"For p = {p} yours add up to {answer.sum():.3g}. Divide by the sum of what is kept.")
        if torch.allclose(answer.sort().values, right.sort().values, atol=1e-6):
            raise NotYet("The right numbers in the wrong places: undo the sorting. Token 1 is the likeliest here.")
        if (kept := (answer > 0).sum()) < (needed := (right > 0).sum()):
            raise NotYet(f"For p = {p} you keep {kept} of [0.1, 0.5, 0.15, 0.25]; {needed} are needed to reach p. "
                         "The token that crosses the line is kept.")
        raise NotYet(f"For p = {p} and [0.1, 0.5, 0.15, 0.25] yours is {answer.tolist()}, not {right.tolist()}.")
    return "The smallest set that reaches p, adding up to 1, in the order of the vocabulary."


# --- the head that looks at the previous token -----------------------------------------------------------------------


def previous_token_head(maps):
    """maps (L, nh, T, T) -> (layer, head) of the head that gives the previous token the most weight on average."""
    weight = maps.diagonal(-1, dim1=-2, dim2=-1).mean(-1)  # (L, nh): row t, column t - 1
    best = weight.argmax().item()
    return best // maps.shape[1], best % maps.shape[1]


def example_maps():
    """Attention maps of 3 layers with 4 heads for 6 tokens: (1, 2) looks back by one, (2, 3) at itself, (0, 1) at
    the first token. Any other rows are spread evenly."""
    past = torch.ones(6, 6).tril()
    maps = (past / past.sum(-1, keepdim=True)).repeat(3, 4, 1, 1)
    back = torch.diag(torch.ones(5), -1)
    back[0, 0] = 1
    maps[1, 2], maps[2, 3], maps[0, 1] = back, torch.eye(6), torch.eye(6)[:1].expand(6, 6)
    return maps


def _test_previous(attempt):
    """Asks for the head of example_maps() that looks back by one."""
    answer = needs_answer(attempt(example_maps()))
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise NotYet(f"A pair (layer, head) was expected, counted from 0; yours is {answer!r}.")
    layer, head = int(answer[0]), int(answer[1])
    known = {(2, 3): "looks at itself: take the diagonal below the main one", (0, 1): "looks at the first token",
             (2, 1): "is the right pair turned round", (2, 2): "looks everywhere; count layers from 0",
             (2, 4): "does not exist; count from 0"}
    if (layer, head) != (1, 2):
        raise NotYet(f"({layer}, {head}) {known.get((layer, head), 'looks everywhere')}. Row t is where token t looks, "
                     "column s what it looks at: you want column t - 1.")
    return "That head gives all its weight to the token before."


linear = Exercise(
    "Conv1D as nn.Linear", 1, 6,
    "conv.weight has the shape (inputs, outputs). Make nn.Linear(inputs, outputs), then copy_ the transposed weight "
    "and the bias under torch.no_grad().",
    _test_linear, to_linear,
)
cut = Exercise(
    "Nucleus sampling", 2, 12,
    "Sort in falling order. cumsum() minus the token's own probability is what all likelier tokens have together. "
    "Keep a token while that is below p. Put the kept ones back with kept[order] = ..., and divide by their sum.",
    _test_nucleus, nucleus,
)
previous = Exercise(
    "The head that looks back by one", 2, 10,
    "maps.diagonal(-1, dim1=-2, dim2=-1) takes row t, column t - 1 of every map. Average, find the argmax of the "
    "(L, nh) table, and turn its number into a pair with // and %.",
    _test_previous, previous_token_head,
)
