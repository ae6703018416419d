"""Intervals and tests for means over questions, single and paired. Arrays in, numbers out; reads no records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raggym_env.errors import OptionError, check_option

__all__ = ["Estimate", "bootstrap", "holm", "mcnemar", "paired_bootstrap", "permutation_test", "wilson"]

_RESAMPLES = 2_000  # the interval then moves by about .001 between seeds on 1,000 questions
_PERMUTATIONS = 10_000  # the smallest p-value is then .0001
_BLOCK = 2_000_000  # random numbers held at a time: all resamples of a large set at once would take gigabytes
_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


class Estimate(NamedTuple):
    """A mean over questions with its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of scores in [0, 1] and its 95 % percentile-bootstrap interval (Efron, 1979).

    There are 2,000 resamples. Where every score is 0, or every score is 1, they are all equal, and the interval is
    Wilson's instead.

    >>> bootstrap([0.5, 0.5])
    Estimate(mean=0.5, low=0.5, high=0.5)

    Raises:
        OptionError: There are no values.
    """
    sample = _sample(values)
    if np.all(sample == sample[0]) and sample[0] in (0.0, 1.0):
        return wilson(int(sample.sum()), len(sample))
    return _resampled(sample, seed)


def paired_bootstrap(differences: ArrayLike, seed: int = 0) -> Estimate:
    """Return the mean of paired differences in [-1, 1] and its 95 % percentile-bootstrap interval.

    Where every pair is a tie, all resamples are equal. The bounds are then what Wilson's interval still allows as the
    share of pairs that differ, in either direction.

    >>> paired_bootstrap([0.5, 0.5])
    Estimate(mean=0.5, low=0.5, high=0.5)

    Raises:
        OptionError: There are no differences.
    """
    sample = _sample(differences)
    if not sample.any():
        bound = wilson(0, len(sample)).high
        return Estimate(0.0, -bound, bound)
    if np.all(sample == sample[0]) and abs(sample[0]) == 1.0:
        low = wilson(len(sample), len(sample)).low
        return Estimate(1.0, low, 1.0) if sample[0] > 0 else Estimate(-1.0, -1.0, -low)
    return _resampled(sample, seed)


def _resampled(sample: NDArray[np.float64], seed: int) -> Estimate:
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(sample))
    means = np.concatenate(
        [
            sample[rng.integers(len(sample), size=(min(block, _RESAMPLES - start), len(sample)))].mean(axis=1)
            for start in range(0, _RESAMPLES, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high))


def wilson(successes: int, trials: int) -> Estimate:
    """Return a proportion and its 95 % score interval (Wilson, 1927), which is never empty.

    >>> [round(bound, 3) for bound in wilson(0, 2)]
    [0.0, 0.0, 0.658]
    """
    check_option("trials", trials, trials >= 1, "at least 1")
    check_option("successes", successes, 0 <= successes <= trials, f"from 0 to {trials}")
    share, spread = successes / trials, _Z**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # At 0 and at n, rounding could put a bound just beyond the share itself.
    return Estimate(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))


def permutation_test(differences: ArrayLike, seed: int = 0) -> float:
    """Return the two-sided p-value of the hypothesis that paired differences have a mean of 0.

    Each pair's sign is drawn anew 10,000 times (Fisher, 1935). The p-value counts the sample itself as one draw, so it
    is never 0 (Phipson and Smyth, 2010).

    >>> permutation_test([0.0, 0.0])
    1.0
    """
    sample = _sample(differences)
    # Pairs without a difference change no sum.
    sample = sample[sample != 0.0]
    if not len(sample):
        return 1.0
    rng = np.random.default_rng(seed)
    # Flipping signs moves the sum by twice the flipped differences. float32 halves the time; sums in another order
    # differ in their last bits, and must still count as equal.
    total, doubled = float(sample.sum()), (2.0 * sample).astype(np.float32)
    bound = abs(total) - 1e-5 * float(np.abs(sample).sum())
    block = max(1, _BLOCK // len(sample))
    extreme = 0
    for start in range(0, _PERMUTATIONS, block):
        draws = min(block, _PERMUTATIONS - start)
        bits = np.unpackbits(
            np.frombuffer(rng.bytes(-(-draws * len(sample) // 8)), np.uint8), count=draws * len(sample)
        )
        flipped = bits.reshape(draws, len(sample)).astype(np.float32) @ doubled
        extreme += int((np.abs(total - flipped) >= bound).sum())
    return (extreme + 1) / (_PERMUTATIONS + 1)


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) for paired right and wrong answers.

    Args:
        wins: Pairs in which only the first answer is right.
        losses: Pairs in which only the second one is.

    >>> mcnemar(0, 5)
    0.0625
    """
    flips, fewer = wins + losses, min(wins, losses)
    # Integers until the last step: a float holds no binomial coefficient of a thousand questions.
    tail = sum(math.comb(flips, count) for count in range(fewer + 1))
    return min(1.0, float(Fraction(2 * tail, 2**flips)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of tests (Holm, 1979), in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        # A test may not be more significant than one with a smaller p-value.
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, np.float64)
    if not len(sample):
        raise OptionError("A mean needs at least one value, got none.")
    return sample
