"""Exercises of notebook 06: MAD by hand, the std of a pool, LayerNorm's gamma and beta folded into the next matrix."""

import torch
import torch.nn.functional as F

from helpers import weights
from helpers.exercises import Exercise, NotYet, needs_answer

# --- median absolute deviation ---------------------------------------------------------------------------------------


def mad(x):
    """The median distance of the numbers x from their median."""
    return (x - x.median()).abs().median()


def _test_mad(attempt):
    generator = torch.Generator().manual_seed(0)
    for x in (torch.tensor([1.0, 2.0, 5.0, 9.0, 60.0]), 5 + torch.randn(1001, generator=generator) ** 3):
        answer, right = float(needs_answer(attempt(x.clone()))), weights.summarise(x)["mad"]
        mistakes = {
            "You measure from the mean, which the large numbers have pulled away. Measure from the median.":
                (x - x.mean()).abs().median(),
            "That is the mean of the distances. One huge number moves it: take their median.":
                (x - x.median()).abs().mean(),
            "That measures the distance from zero. These numbers do not lie around zero.": x.abs().median(),
            "Distances have no sign: take abs() before the second median.": (x - x.median()).median(),
        }
        if abs(answer - right) > 1e-4:
            close = [reason for reason, wrong in mistakes.items() if abs(answer - float(wrong)) < 1e-4]
            raise NotYet(close[0] if close else f"For {len(x)} numbers the MAD is {right:.4f}; yours is {answer:.4f}.")
    return "Half of the numbers lie closer to the median than this, whatever the largest ones do."


# --- the std of a pool -----------------------------------------------------------------------------------------------


def pooled_std(counts, means, stds):
    """The std of all numbers together. counts, means, stds: (L,), one for each group."""
    mean = (counts * means).sum() / counts.sum()
    within = counts * stds**2  # squares of the distances from the group's own mean
    between = counts * (means - mean) ** 2  # and of the groups' means from the mean of all
    return ((within + between).sum() / counts.sum()).sqrt()


def _test_pooled_std(attempt):
    generator = torch.Generator().manual_seed(1)
    groups = [shift + scale * torch.randn(n, generator=generator).double()
              for n, shift, scale in ((4000, 0.0, 1.0), (1000, 2.0, 0.2), (5000, -1.0, 3.0))]
    sizes, means, stds = (torch.tensor(row, dtype=torch.float64) for row in zip(
        *((len(group), group.mean(), group.std(correction=0)) for group in groups)))
    answer, right = float(needs_answer(attempt(sizes, means, stds))), torch.cat(groups).std().item()
    weighted = (sizes * stds**2).sum() / sizes.sum()
    mistakes = {
        "That is the mean of the stds. Variances can be averaged, stds cannot.": stds.mean(),
        "That is the weighted mean of the stds. Variances can be averaged, stds cannot.":
            (sizes * stds).sum() / sizes.sum(),
        "The groups' means differ, and that widens the pool. Add it.": weighted.sqrt(),
        "A large group counts more than a small one: weight with the counts.": (stds**2).mean().sqrt(),
        "That is the variance. The std is its square root.": right**2,
    }
    if abs(answer - right) > 0.001 * right:
        close = [reason for reason, wrong in mistakes.items() if abs(answer - float(wrong)) < 0.001 * right]
        raise NotYet(close[0] if close else f"The three groups together have the std {right:.4f}; yours: {answer:.4f}.")
    return "From three numbers for each group, without the data: that is all a pool keeps of its groups."


# --- fold LayerNorm into the next matrix -----------------------------------------------------------------------------


def fold(weight, bias, gamma, beta):
    """A matrix (N, C) and bias (N,) that give, without gamma and beta, what weight and bias give behind them."""
    return weight * gamma, bias + weight @ beta  # gamma (C,) stretches the columns; beta adds a constant


def _test_fold(attempt):
    generator = torch.Generator().manual_seed(2)
    C, N = 8, 24
    x, weight, bias, gamma, beta = (torch.randn(*shape, generator=generator) for shape in
                                    ((5, C), (N, C), (N,), (C,), (C,)))
    new_weight, new_bias = needs_answer(attempt(weight.clone(), bias.clone(), gamma.clone(), beta.clone()))
    if new_weight.shape != weight.shape or new_bias.shape != bias.shape:
        raise NotYet(f"Shapes: {tuple(new_weight.shape)} and {tuple(new_bias.shape)}; {(N, C)} and {(N,)} are needed.")
    plain, y = F.layer_norm(x, (C,)), F.linear(F.layer_norm(x, (C,), gamma, beta), weight, bias)
    if not torch.allclose(F.linear(plain, new_weight), F.linear(plain, weight * gamma), atol=1e-4):
        raise NotYet("The weight is not right. gamma belongs to the inputs: to the columns of the matrix.")
    if not torch.allclose(F.linear(plain, new_weight, new_bias), y, atol=1e-4):
        raise NotYet("The weight is right. The bias is not: what does the old matrix make of beta alone?")
    return f"The outputs agree, and gamma and beta are gone. The std of the weight went from {weight.std():.3f} " \
           f"to {new_weight.std():.3f}."


median_distance = Exercise("MAD by hand", 1, 5,
                           "Two medians. First the median of the numbers; then the median of their distances from it.",
                           _test_mad, mad)
pool = Exercise("The std of a pool", 2, 10,
                "The variance of a pool has two parts: the mean variance within the groups, and the variance of the "
                "groups' means. Both are weighted with the counts. Take the square root last.",
                _test_pooled_std, pooled_std)
folding = Exercise("Fold gamma and beta into the next matrix", 3, 15,
                   "Write it out: W (gamma * n + beta) + b, where n is the normalised input. Which part is multiplied "
                   "by n, and which part is constant?",
                   _test_fold, fold)
