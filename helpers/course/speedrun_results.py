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


def standard_error(values):
    """The standard error of the mean of two or more values. ValueError for fewer."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} value: expected at least two seeds, whose spread says what chance does.")
    return statistics.stdev(values) / math.sqrt(len(values))


def mean_interval(values):
    """The mean of two or more values and half the width of its 95 % interval."""
    error = standard_error(values)
    return statistics.mean(values), quantile(0.975, len(values) - 1) * error


def p_below(values, target):
    """One-sided t-test: the p-value of "their mean is not below the target". values, target: in the same unit."""
    return tail((target - statistics.mean(values)) / standard_error(values), len(values) - 1)


def welch(first, second):
    """The difference mean(first) - mean(second), its standard error and Welch's degrees of freedom."""
    parts = [standard_error(values) ** 2 for values in (first, second)]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second)))
    return statistics.mean(first) - statistics.mean(second), math.sqrt(sum(parts)), freedom


def p_lower(first, second):
    """One-sided Welch test: the p-value of "the mean of first is not below the mean of second"."""
    difference, error, freedom = welch(first, second)
    return tail(-difference / error, freedom)


def difference_interval(first, second):
    """The difference of two means in nats, half the width of its 95 % interval (Welch), and the degrees of freedom."""
    difference, error, freedom = welch(first, second)
    return difference, quantile(0.975, freedom) * error, freedom


def verdict(difference, half_width, freedom):
    """What a difference of losses (changed - base, nats) and half its 95 % interval allow to say.

    An interval that contains 0 is inconclusive. The smallest effect named then is one that about four of five such
    experiments would have found: so many standard errors above the edge of the interval that chance falls below it in
    one of five. freedom: the degrees of freedom.
    """
    if difference == half_width == 0:
        return "identical: nothing has changed in these runs"
    if difference - half_width > 0:
        return "worse"
    if difference + half_width < 0:
        return "better"
    seen = half_width * (1 + quantile(0.8, freedom) / quantile(0.975, freedom))
    return f"inconclusive: about {seen:.3f} nats would have been found by 4 of 5 such experiments"


def judge_pairs(differences):
    """The verdict on paired seeds. differences: loss of the changed recipe - loss of its base, in nats, one a seed."""
    return verdict(*mean_interval(differences), len(differences) - 1)


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
        unit = "time to the goal (% of today's)" if discipline == "sprint" else "validation loss (nats per token)"
        figures.finish(axes, discipline.capitalize(), None, unit)
    figures.headline(panels[0].figure, title)
    plt.show()
    return panels


def plot_gains(rows, title):
    """One row for each attempt (rows of speedrun.rows): the difference of its loss from that of its base, with its 95 %
    interval. A dashed line marks no difference. title: what they show. Returns the axes."""
    axes, rows = figures.new_figure(width=12, height=1.8 + 0.6 * len(rows)), rows[::-1]
    axes.axvline(0, color=figures.ORANGE, linewidth=2, linestyle="dashed")
    differences, halves = [-row["gain"] for row in rows], [row["gain interval"] for row in rows]
    axes.errorbar(differences, range(len(rows)), xerr=halves, fmt="o", color=figures.BLUE, markersize=10, capsize=6,
                  linewidth=2.5)
    axes.set_yticks(range(len(rows)), [row["attempt"] for row in rows])
    axes.margins(y=0.6 / len(rows))
    figures.finish(axes, None, "difference from its base (nats per token): right of the line is worse")
    figures.headline(axes.figure, title)
    plt.show()
    return axes
