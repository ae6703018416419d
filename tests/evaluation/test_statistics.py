"""Intervals and tests of means: hand-computed cases, SciPy's results, and what holds for every sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.errors import OptionError
from raggym_env.evaluation.statistics import bootstrap, holm, mcnemar, paired_bootstrap, permutation_test, wilson

VALUES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


@given(VALUES)
def test_a_bootstrap_interval_holds_the_mean_and_is_the_same_each_time(values: list[float]) -> None:
    estimate = bootstrap(values)
    assert estimate.mean == pytest.approx(sum(values) / len(values))
    assert 0 <= estimate.low <= estimate.mean + 1e-12
    assert estimate.mean - 1e-12 <= estimate.high <= 1
    assert bootstrap(values) == estimate


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.6576), (1.0, 0.3424, 1.0)])
def test_two_questions_with_one_result_leave_a_wide_interval(value: float, low: float, high: float) -> None:
    assert bootstrap([value, value]) == pytest.approx((value, low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0.0, -0.6576, 0.6576), (1.0, 0.3424, 1.0), (-1.0, -1.0, -0.3424), (0.25, 0.25, 0.25)]
)
def test_two_equal_differences_leave_a_wide_interval(value: float, low: float, high: float) -> None:
    assert paired_bootstrap([value, value]) == pytest.approx((value, low, high), abs=1e-4)


def test_resamples_of_differences_keep_the_pairs() -> None:
    scores = np.random.default_rng(1).random(500)
    # A constant gain on scores that vary widely: unpaired, the interval would be ten times as wide.
    _, low, high = paired_bootstrap(scores + 0.1 + 0.01 * np.sin(np.arange(500)) - scores)
    assert 0.098 < low < high < 0.102


def test_an_interval_of_a_large_sample_is_computed_in_blocks() -> None:
    values = np.random.default_rng(0).random(300_000)
    mean, low, high = bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(len(values)), rel=0.1)
    assert low < mean < high


@given(st.integers(1, 200).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_wilson_intervals_are_those_of_scipy(counts: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((counts[0] / counts[1], expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test_of_the_flips(wins: int, losses: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected)


def test_mcnemar_takes_counts_that_no_float_could_hold() -> None:
    assert mcnemar(5_000, 5_000) == 1.0
    assert 0 <= mcnemar(10_000, 2_000) < 1e-300


@pytest.mark.parametrize("differences", [[1.0] * 6, [1.0, 1.0, 1.0, -1.0, 0.5, 0.0, 0.25], [0.1, -0.1], [0.3]])
def test_the_permutation_test_agrees_with_all_sign_flips_of_a_small_sample(differences: list[float]) -> None:
    sample = np.array(differences)
    signs = 1 - 2 * ((np.arange(2 ** len(sample))[:, None] >> np.arange(len(sample))) & 1)
    exact = float((np.abs(signs @ sample) >= abs(sample.sum()) - 1e-9).mean())
    assert permutation_test(differences) == pytest.approx(exact, abs=0.02)


@given(VALUES, VALUES)
def test_the_permutation_test_is_symmetric_and_never_zero(a: list[float], b: list[float]) -> None:
    differences = np.array([x - y for x, y in zip(a, b, strict=False)])
    p_value = permutation_test(differences)
    assert 0 < p_value <= 1
    assert permutation_test(-differences) == p_value


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_corrects_no_value_downwards(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    by_size = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [corrected[index] for index in by_size] == sorted(corrected)
    if p_values:
        assert min(corrected) == pytest.approx(min(1, min(p_values) * len(p_values)))


def test_an_empty_sample_is_refused() -> None:
    for function in (bootstrap, paired_bootstrap, permutation_test):
        with pytest.raises(OptionError, match="at least one value"):
            function([])
    with pytest.raises(OptionError, match="successes"):
        wilson(3, 2)
