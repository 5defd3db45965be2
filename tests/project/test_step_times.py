"""data/recipes/measure_step_times.py at a tiny size."""

from data.recipes import measure_step_times


def test_the_times_are_ratios_to_the_base_arms():
    ratios = measure_step_times.measured(["base", "shape_2_16"], rounds=3, size="smoke", steps=1)
    assert set(ratios) == {"shape_2_16", "base"}
    assert all(0 < own["low"] <= own["middle"] <= own["high"] for own in ratios.values())
    assert ratios["base"] == {"low": 1, "middle": 1, "high": 1}
