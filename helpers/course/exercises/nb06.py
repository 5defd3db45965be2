"""Exercises of notebook 06: MAD by hand, Q, K and V apart, the std of a pool, LayerNorm's gamma and beta folded into
the next matrix, Q replaced by noise."""

import contextlib
import math

import numpy as np
import torch
import torch.nn.functional as F

from helpers import weights
from helpers.course.checking import (
    Exercise, NotYet, as_floats, as_number, describe, name_the_mistake, needs_answer, same,
)
from helpers.model import GPT, GPTConfig

# --- median absolute deviation ---------------------------------------------------------------------------------------


def mad(x):
    """The median distance of the entries of x from their median."""
    return (x - x.median()).abs().median()


def _test_mad(attempt):
    generator = torch.Generator().manual_seed(0)
    for x in (torch.tensor([-6.0, 2.0, 5.0, 9.0, 60.0]), 5 + torch.randn(1001, generator=generator) ** 3,
              torch.tensor([-3.0, 40.0, -2.0, -8.0, 1.5, -2.5, -90.0])):
        answer, right = as_number(attempt(x.clone()), "one number, the MAD"), weights.summarise(x)["mad"]
        mistakes = {
            "You measure from the mean, which the large entries have pulled away. Measure from the median.":
                (x - x.mean()).abs().median(),
            "That is the mean of the distances. One huge entry changes it: take their median.":
                (x - x.median()).abs().mean(),
            "That is the median distance from zero. These entries do not lie around zero.": x.abs().median(),
            "Distances have no sign: take abs() before the second median.": (x - x.median()).median(),
            "That is the median itself. Now measure how far the entries are from it.": x.median(),
        }
        if not math.isclose(answer, right, abs_tol=1e-4):
            reasons = [reason for reason, wrong in mistakes.items() if abs(answer - float(wrong)) < 1e-4]
            raise NotYet(reasons[0] if reasons else
                         f"For {len(x)} entries the MAD is {right:.4f}; yours is {answer:.4f}.")
    return "Your values are right for 5, 7 and 1,001 entries. Half of the entries lie closer to the median than the " \
           "MAD, whatever the largest ones are."


# --- Q, K and V apart -------------------------------------------------------------------------------------------------


def qkv_stds(matrices):
    """The stds of Q, K and V in every layer, (L, 3). matrices: L fused matrices, as stored by nn.Linear or by
    Conv1D."""
    rows = []
    for fused in matrices:
        outputs = 0 if fused.shape[0] > fused.shape[1] else 1  # (3C, C) of nn.Linear, (C, 3C) of Conv1D
        rows.append([part.std().item() for part in fused.chunk(3, dim=outputs)])
    return torch.tensor(rows)


def example_layers(C, stds):
    """Fused matrices (3C, C) whose Q, K and V differ in std and mean, and whose rows differ in mean. stds: (Q, K, V)
    for each layer."""
    generator, layers = torch.Generator().manual_seed(3), []
    for row in stds:
        parts = [mean + std * (torch.randn(C, C, generator=generator) + torch.randn(C, 1, generator=generator))
                 for std, mean in zip(row, (0.05, 0.0, -0.1))]
        layers.append(torch.cat(parts))
    return layers


def _test_split(attempt):
    """Four layers of width 48, then two of width 16, in both layouts."""
    four = example_layers(48, ((0.24, 0.20, 0.06), (0.15, 0.16, 0.10), (0.13, 0.12, 0.13), (0.11, 0.10, 0.16)))
    for layers in (four, example_layers(16, ((0.3, 0.1, 0.5), (0.05, 0.2, 0.1)))):
        _check_stds(attempt, "(3C, C)", layers)
        _check_stds(attempt, "(C, 3C)", [x.T.contiguous() for x in layers])
    return "For four and for two layers, in both layouts: the axis that is 3C long holds Q, K and V, one block after " \
           "the other."


def _check_stds(attempt, layout, layers):
    """Raises NotYet unless the attempt returns the stds of these layers."""
    L, table = len(layers), _rows_of_stds(attempt([x.clone() for x in layers]))
    if tuple(table.shape) != (L, 3):
        together = " If you put the layers together first, their differences are lost."
        raise NotYet(f"For {L} layers, each {layout}, expected {L} rows of three stds, one row for each layer; "
                     f"yours has the shape {tuple(table.shape)}.{together if table.numel() == 3 else ''}")
    right, tolerance = qkv_stds(layers), max(3e-3, table.tolerance)  # with n or with n - 1 in the denominator
    if torch.allclose(table, right, rtol=tolerance):
        return
    if torch.allclose(table.sort(dim=1).values, right.sort(dim=1).values, rtol=tolerance):
        raise NotYet("The three stds are right, but not in the order Q, K, V.")
    for reason, wrong in _mistakes_with_stds(layout, layers).items():
        if torch.allclose(table, torch.tensor(wrong), rtol=tolerance):
            raise NotYet(reason)
    layer = int((table - right).abs().sum(dim=1).argmax())
    shown, wanted = (", ".join(f"{std:.3f}" for std in row[layer].tolist()) for row in (table, right))
    raise NotYet(f"For layer {layer} of {L}, stored as {layout}, Q, K and V have the stds {wanted}; yours are {shown}.")


def _rows_of_stds(answer):
    """A learner's rows as a tensor. They may be in a dictionary, and each may be one."""
    table = np.array(answer) if hasattr(answer, "to_numpy") else needs_answer(answer)  # a table of pandas
    table = list(table.values()) if isinstance(table, dict) else table
    if isinstance(table, (list, tuple)):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            table = [[float(value) for value in (row.values() if isinstance(row, dict) else row)] for row in table]
    try:
        return as_floats(table)
    except NotYet:
        raise NotYet(f"Expected one row of three stds for each layer; you returned {describe(answer)}.") from None


def _mistakes_with_stds(layout, layers):
    """{message: the stds that this mistake leads to}."""
    along = 0 if layout == "(3C, C)" else 1
    parts = [x.chunk(3, dim=along) for x in layers]
    return {
        f"You cut the wrong axis of {layout}. Cut the axis that is 3C long: nn.Linear has its outputs in the rows, "
        "Conv1D in the columns.": [[part.std() for part in x.chunk(3, dim=1 - along)] for x in layers],
        "You take every third row or column. Q, K and V follow one another, each in one block.":
            [[x.movedim(along, 0)[i::3].std() for i in range(3)] for x in layers],
        "That is the mean of the stds of single rows. The entries also differ from row to row: take one std of all "
        "entries.": [[part.std(dim=1).mean() for part in row] for row in parts],
        "That is the mean of the stds of single columns. Take one std of all entries.":
            [[part.std(dim=0).mean() for part in row] for row in parts],
        "Those are variances. The std is the square root.": [[part.var() for part in row] for row in parts],
        "Every layer has the same row: you put the layers together before you took the std.":
            [[torch.cat(column).std() for column in zip(*parts)]] * len(layers),
    }


# --- the std of a pool -----------------------------------------------------------------------------------------------


def pooled_std(counts, means, stds):
    """The std of all entries together. counts, means, stds: (L,), one element for each group."""
    mean = (counts * means).sum() / counts.sum()
    within = counts * stds**2  # squared distances from the group's own mean, summed
    between = counts * (means - mean) ** 2  # squared distances of the groups' means from the mean of all
    return ((within + between).sum() / counts.sum()).sqrt()


def _test_pooled_std(attempt):
    """Three groups, then five others."""
    three = ((4000, 0.0, 1.0), (1000, 2.0, 0.2), (5000, -1.0, 3.0))
    five = ((2000, 5.0, 0.5), (1500, 4.0, 1.5), (6000, 7.0, 1.0), (3000, 5.5, 0.1), (1200, 9.0, 2.0))
    for number, groups in (("three", three), ("five", five)):
        generator = torch.Generator().manual_seed(1)
        data = [shift + scale * torch.randn(n, generator=generator).double() for n, shift, scale in groups]
        sizes, means, stds = (torch.tensor(row, dtype=torch.float64) for row in zip(
            *((len(group), group.mean(), group.std(correction=0)) for group in data)))
        answer = as_number(attempt(sizes.clone(), means.clone(), stds.clone()), "one number, the std of all entries")
        right, weighted = torch.cat(data).std().item(), (sizes * stds**2).sum() / sizes.sum()
        mistakes = {
            "That is the mean of the stds. Variances can be averaged, stds cannot.": stds.mean(),
            "That is the weighted mean of the stds. Variances can be averaged, stds cannot.":
                (sizes * stds).sum() / sizes.sum(),
            "The groups' means differ, and that widens the pool. Add the variance of the means.": weighted.sqrt(),
            "A large group counts more than a small one: weight by the counts.": (stds**2).mean().sqrt(),
            "That is the variance. The std is its square root.": right**2,
        }
        if not math.isclose(answer, right, rel_tol=0.001):
            reasons = [reason for reason, wrong in mistakes.items() if abs(answer - float(wrong)) < 0.001 * right]
            raise NotYet(reasons[0] if reasons else
                         f"The std of the {number} groups together is {right:.4f}; yours is {answer:.4f}.")
    return "Right for three and for five groups. The count, mean and std of each group are enough: you do not need " \
           "the data."


# --- fold LayerNorm into the next matrix -----------------------------------------------------------------------------


def fold(weight, bias, gamma, beta):
    """A weight (N, C) and a bias (N,) that give, after a LayerNorm without gamma and beta, what the old ones give after
    one with them."""
    return weight * gamma, bias + weight @ beta  # gamma (C,) scales the columns; beta adds a constant


def _test_fold(attempt):
    """Compares the outputs for a wide, a square and a narrow matrix."""
    for N, C, seed in ((24, 8, 2), (6, 6, 3), (3, 16, 4)):
        generator = torch.Generator().manual_seed(seed)
        x, weight, bias, gamma, beta = (torch.randn(*shape, generator=generator) for shape in
                                        ((5, C), (N, C), (N,), (C,), (C,)))
        new_weight, new_bias = _weight_and_bias(attempt(weight.clone(), bias.clone(), gamma.clone(), beta.clone()))
        if new_weight.shape != weight.shape or new_bias.shape != bias.shape:
            raise NotYet(f"Your results have the shapes {tuple(new_weight.shape)} and {tuple(new_bias.shape)}; "
                         f"expected {(N, C)} and {(N,)}.")
        plain, y = F.layer_norm(x, (C,)), F.linear(F.layer_norm(x, (C,), gamma, beta), weight, bias)
        precision = 4 * max(new_weight.tolerance, new_bias.tolerance)  # rounding adds up over C products
        if not same(F.linear(plain, new_weight), F.linear(plain, weight * gamma), precision):
            name_the_mistake(new_weight, [("You divide by gamma. LayerNorm multiplies by it, so the matrix must, too. "
                                           "gamma scales the columns.", weight / gamma)])
            raise NotYet("The weight is not right. gamma scales the inputs, and so the columns of the matrix.")
        if not same(F.linear(plain, new_weight, new_bias), y, precision):
            raise NotYet("The weight is right, but the bias is not: what does the old matrix turn beta alone into?")
    return "The outputs agree for a wide, a square and a narrow matrix, and gamma and beta are gone. The std of the " \
           f"weight changed from {weight.std():.3f} to {new_weight.std():.3f} in the last one."


def _weight_and_bias(answer):
    """A learner's answer as two tensors."""
    needs_answer(answer)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or any(part is None for part in answer):
        raise NotYet(f"Expected two results: return new_weight, new_bias. You returned {describe(answer)}.")
    return as_floats(answer[0]), as_floats(answer[1])


# --- Q replaced by noise ---------------------------------------------------------------------------------------------


@torch.no_grad()
def loss_with_noise(model, layer, measure):
    """measure(model) while noise with the same mean and std replaces one layer's Q."""
    fused = model.transformer.h[layer].attn.c_attn.weight  # (3C, C): the rows of Q, of K, of V
    Q = fused[: fused.shape[1]]  # (C, C), a view: writing into it changes the model
    kept = Q.clone()
    try:
        Q.copy_(kept.mean() + kept.std() * torch.randn_like(kept))
        return measure(model)
    finally:
        Q.copy_(kept)  # even if measure() stops with an error


def example_model(config=GPTConfig(11, 4, 96, 3, 4)):
    """A GPT of three layers, 96 wide, or of another size, whose Q, K and V differ in mean and std."""
    model, generator = GPT(config), torch.Generator().manual_seed(90_210_377)  # no seed that a learner would take
    with torch.no_grad():
        for block in model.transformer.h:
            for piece, mean, std in zip(block.attn.c_attn.weight.chunk(3), (0.3, 0.0, -0.2), (0.5, 0.2, 0.8)):
                piece.copy_(mean + std * torch.randn(piece.shape, generator=generator))
    return model


def _check_what_changed(before, now, layer, C):
    """Raises NotYet unless Q of this layer, all of it, and nothing else differs. Returns the old and the new Q."""
    own, changed = f"transformer.h.{layer}.attn.c_attn.weight", [key for key in now if not now[key].equal(before[key])]
    if others := [key.removeprefix("transformer.") for key in changed if key != own]:
        raise NotYet(f"While you measured, {', '.join(others[:3])} had changed. Only Q of layer {layer} may change.")
    old, new = (weights.split_qkv(state[own]) for state in (before, now))
    moved = {name: (old[name] != new[name]).double().mean().item() for name in "QKV"}  # shares of the entries
    if moved["Q"] and (moved["K"] or moved["V"]):
        raise NotYet(f"Not only Q has changed. nn.Linear stores c_attn as (3C, C) = {tuple(now[own].shape)}: Q is its "
                     f"first {C} rows, with all their columns.")
    if not moved["Q"]:
        raise NotYet(f"You replaced {'K' if moved['K'] else 'V'}. The thirds are in the order Q, K, V.")
    if moved["Q"] < 0.99:
        raise NotYet(f"Only {moved['Q']:.0%} of Q's entries have changed. Q is all of the first {C} rows.")
    return old["Q"], new["Q"]


def _check_noise(old, new, fused):
    """Raises NotYet unless new holds new values with the mean and the std of old."""
    if old.flatten().sort().values.allclose(new.flatten().sort().values):
        raise NotYet("These are Q's own entries in another order. That is a good control, but the task is noise.")
    if torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1] > 0.2:
        raise NotYet("Q is still inside: you added noise to it. Replace it by the noise.")
    mean, std = new.mean().item(), new.std().item()
    mistakes = {
        "That is the std of torch.randn itself: multiply by Q's std.": 1.0,
        "That is the std of torch.rand, whose values lie between 0 and 1: use torch.randn, and Q's std.": 12**-0.5,
        "That is Q's variance. Multiply by the std.": old.var().item(),
        "That is the std of the whole c_attn. Use that of Q alone.": fused.std().item(),
    }
    if not math.isclose(std, old.std().item(), rel_tol=0.04):
        reasons = [reason for reason, wrong in mistakes.items() if math.isclose(std, wrong, rel_tol=0.04)]
        raise NotYet(f"Q has the std {old.std():.3f}, your noise {std:.3f}. {reasons[0] if reasons else ''}".rstrip())
    if not math.isclose(mean, old.mean().item(), abs_tol=0.05 * old.std().item()):
        raise NotYet(f"The std is right. Q has the mean {old.mean():.3f}, your noise {mean:.3f}: shift it.")


def _test_noise(attempt):
    """Replaces Q of layer 1 of 3, 96 wide, then of layer 0 of 2, 144 wide."""
    torch.manual_seed(0)  # the same answer gets the same verdict each time
    _check_replacement(attempt, example_model(), 1, 1.25)
    _check_replacement(attempt, example_model(GPTConfig(7, 3, 144, 2, 6)), 0, 3.5)
    return "In models of two sizes, noise with Q's mean and std is in the place of its entries, and afterwards the " \
           "model is restored."


def _check_replacement(attempt, model, layer, loss):
    """Raises NotYet unless the attempt measures this loss with noise in this layer's Q, and restores the model."""
    seen, C = [], model.config.n_embd
    copies = lambda of: {key: value.detach().clone() for key, value in of.named_parameters()}  # noqa: E731
    before = copies(model)

    def measure(measured):
        if not isinstance(measured, torch.nn.Module):
            raise NotYet(f"measure() takes a model; you gave it {describe(measured)}.")
        seen.append(copies(measured))
        return loss if any(not seen[-1][key].equal(before[key]) for key in before) else loss - 1

    answer = needs_answer(attempt(model, layer, measure))
    if not seen:
        raise NotYet("You never called measure(model). It is a function that returns the model's loss.")
    changed = [state for state in seen if any(not state[key].equal(before[key]) for key in before)]
    if not changed:
        raise NotYet("When you measured, the model was unchanged. Write the noise first, then call measure(model), "
                     "then restore Q. (To write into the model, use copy_ or [...] = on a slice of the weight itself.)")
    old, new = _check_what_changed(before, changed[0], layer, C)
    _check_noise(old, new, before[f"transformer.h.{layer}.attn.c_attn.weight"])
    if any(not value.equal(before[key]) for key, value in copies(model).items()):
        raise NotYet("The noise is right, but it is still in the model: restore Q. A slice is a view and changes with "
                     "the model, so keep a clone() of it before you write.")
    answer = as_number(answer, "the loss, one number")
    if not math.isclose(answer, loss, rel_tol=1e-6):
        raise NotYet(f"You return {answer:.3g}; with the noise inside, measure(model) gave {loss}. Return that.")


median_distance = Exercise(
    "MAD by hand", 1, 5,
    ("You need two medians, one after the other.",
     "First take the median of the entries, x.median(); then the median of their distances from it. Distances have no "
     "sign."),
    _test_mad, mad, by_hand=("helpers.weights.summarise", "median_abs_deviation"),
)
split = Exercise(
    "Q, K and V apart", 2, 10,
    ("Which axis holds the outputs? It is the one that is three times as long as the other: look at x.shape.",
     "tensor.chunk(3, dim=...) cuts an axis into three blocks. Take .std() of each block, without a dim.",
     "For every matrix: axis = 0 if x.shape[0] > x.shape[1] else 1, then [part.std() for part in x.chunk(3, axis)]."),
    _test_split, qkv_stds, by_hand=tuple(f"helpers.weights.{name}" for name in (
        "split_qkv", "summarise", "tensor_statistics", "statistics")),
)
pool = Exercise(
    "The std of a pool", 2, 10,
    ("The variance of a pool has two parts: the mean variance within the groups, and the variance of their means.",
     "Both parts are weighted by the counts: (counts * ...).sum() / counts.sum(). You need the mean of all first.",
     "mean = (counts * means).sum() / counts.sum(). Average stds**2 + (means - mean)**2 in the same way, and take the "
     "square root last."),
    _test_pooled_std, pooled_std, by_hand=("helpers.weights.pooled",),
)
folding = Exercise(
    "Fold gamma and beta into the next matrix", 3, 15,
    ("Write it out: W (gamma * n + beta) + b, where n is the normalised input. Which part is multiplied by n, and "
     "which part is constant?",
     "The constant part is the new bias: W applied to beta, plus b. The other part is W with its columns changed.",
     "W (gamma * n) = (W with column i times gamma_i) n. A tensor (N, C) times a tensor (C,) scales the columns. "
     "The constant part is weight @ beta + bias."),
    _test_fold, fold,
)
noise = Exercise(
    "Noise in the place of Q", 3, 20,
    ("There are four steps: keep a copy of Q, write noise into the model, measure, write the copy back. Where is Q in "
     "c_attn.weight, and how many rows does it have?",
     "Q = model.transformer.h[layer].attn.c_attn.weight[:C] is a view: Q.copy_(...) changes the model, and kept = "
     "Q.clone() does not change with it. C is the width, model.config.n_embd.",
     "The noise is kept.mean() + kept.std() * torch.randn_like(kept). Store loss = measure(model) before you call "
     "Q.copy_(kept), and return loss."),
    _test_noise, loss_with_noise, by_hand=("helpers.weights.loss_with",),
)
