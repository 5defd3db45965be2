"""Judges the speedrun: Student's t-distribution, one-sided tests, intervals and verdicts (course/speedrun.py)."""

import math
import statistics

import matplotlib.pyplot as plt
import numpy as np

from helpers.course import figures

LEVEL = 0.001  # a record's p-value lies below this


def tail(t, freedom):
    """P(T > t) for Student's t-distribution. With t = sqrt(freedom) tan(a), its density is a power of the cosine."""
    angles = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 20_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return float(scale * np.trapezoid(np.clip(np.cos(angles), 0, None) ** (freedom - 1), angles))


def quantile(probability, freedom):
    """The t with P(T <= t) = probability, found by halving an interval. probability: from 0.5 to 0.9999."""
    low, high = 0.0, 1e5
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > 1 - probability else (low, middle)
    return high


def mean_interval(values):
    """The mean of two or more values and half the width of its 95 % interval."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), quantile(0.975, len(values) - 1) * error


def p_below(values, target):
    """One-sided t-test: the p-value of "their mean is not below the target". target: a number."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return tail((target - statistics.mean(values)) / error, len(values) - 1)


def welch(first, second):
    """The difference mean(first) - mean(second), its standard error and Welch's degrees of freedom."""
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second)))
    return statistics.mean(first) - statistics.mean(second), math.sqrt(sum(parts)), freedom


def p_lower(first, second):
    """One-sided Welch test: the p-value of "the mean of first is not below the mean of second"."""
    difference, error, freedom = welch(first, second)
    return tail(-difference / error, freedom)


def difference_interval(first, second):
    """The difference of two means in nats and half the width of its 95 % interval (Welch)."""
    difference, error, freedom = welch(first, second)
    return difference, quantile(0.975, freedom) * error


def verdict(difference, half_width):
    """What a difference of losses (changed - base, nats) and half its 95 % interval allow to say.

    An interval that contains 0 is inconclusive. The smallest effect named then is the one that four of five such
    experiments would have found: half an interval is 1.96 standard errors, and 0.84 more make it four of five.
    """
    if difference - half_width > 0:
        return "worse"
    if difference + half_width < 0:
        return "better"
    return f"inconclusive: {half_width * (1.96 + 0.84) / 1.96:.3f} nats would have been seen in 4 of 5 experiments"


def judge_pairs(differences):
    """The verdict on paired seeds. differences: loss of the changed recipe - loss of its base, in nats, one a seed."""
    return verdict(*mean_interval(differences))


def plot_staircase(rows, title):
    """The records (rows of speedrun.rows) as two staircases that begin at today's recipe: the sprint's share of today's
    time, and the distance's validation loss with its 95 % interval. title: what they show. Returns both axes."""
    today = [row for row in rows if row["attempt"] == "today"]
    panels = figures.new_figure(columns=2, width=14, height=5.6)
    for axes, discipline in zip(panels, ("sprint", "distance")):
        steps = today + [row for row in rows if (row["kind"], row["discipline"]) == ("record", discipline)
                         and row not in today]
        if discipline == "sprint":  # an attempt whose steps were not timed has no height
            steps = [row for row in steps if row["time share"] is not None]
            heights, spread = [100 * row["time share"] for row in steps], None
        else:
            heights, spread = [row["loss"] for row in steps], [row["interval"] for row in steps]
        axes.step(range(len(steps)), heights, where="mid", color=figures.GREY, linewidth=2)
        axes.errorbar(range(len(steps)), heights, spread, fmt="o", color=figures.BLUE, markersize=9, capsize=5)
        axes.set_xticks(range(len(steps)), [row["attempt"] for row in steps], rotation=30, ha="right")
        axes.set_ylim(0 if discipline == "sprint" else None)
        unit = "time to the target (% of today's)" if discipline == "sprint" else "validation loss (nats per token)"
        figures.finish(axes, discipline.capitalize(), None, unit)
    figures.headline(panels[0].figure, title)
    plt.show()
    return panels
