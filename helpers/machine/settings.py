"""Checks of a configuration's fields, for the dataclasses GPTConfig and TrainConfig.

Each function reads fields of a configuration, raises ValueError if a value does not fit, and stores the value as
Python's own int, float, bool or str. NumPy's numbers look the same, but a checkpoint with them is harder to read.
"""

import math
from numbers import Integral, Real

import numpy as np


def is_whole(value):
    """Whether a value is a whole number: Python's or NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_numbers(config, *names, low=1, high=2**63 - 1):
    """The fields must be whole numbers from low to high."""
    expected = f"a whole number of at least {low}" if high == 2**63 - 1 else f"a whole number from {low} to {high}"
    for name in names:
        value = getattr(config, name)
        if not is_whole(value) or not low <= value <= high:
            _refuse(config, name, expected)
        _store(config, name, int(value))


def numbers(config, *names, low=-math.inf, above=-math.inf, high=math.inf, below=math.inf, infinite=False):
    """The fields must be numbers: at least low, greater than above, at most high, less than below, and finite."""
    bounds = ((low, "at least {:g}"), (above, "above {:g}"), (high, "at most {:g}"), (below, "below {:g}"))
    words = " and ".join(text.format(bound) for bound, text in bounds if math.isfinite(bound))
    for name in names:
        value = getattr(config, name)
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
        except OverflowError:  # a whole number that is too large for a float
            number = math.nan
        is_inside = low <= number <= high and number > above and (number < below or infinite)
        if not is_inside or not (infinite or math.isfinite(number)):
            _refuse(config, name, f"a finite number, {words}" if not infinite else f"a number, {words}")
        _store(config, name, number)


def choices(config, name, allowed):
    """The field must be one of the allowed strings, or one of True and False."""
    value = getattr(config, name)
    value = bool(value) if isinstance(value, np.bool_) else value
    if not isinstance(value, type(allowed[0])) or value not in allowed:
        _refuse(config, name, f"one of {', '.join(map(str, allowed))}")
    _store(config, name, type(allowed[0])(value))


def _refuse(config, name, expected):
    raise ValueError(f"{type(config).__name__}({name}={getattr(config, name)!r}): expected {expected}.")


def _store(config, name, value):
    object.__setattr__(config, name, value)  # the dataclasses are frozen
