"""Means over draws of labelled patients and over test patients."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.data.text import one_forms
from gcl_jax.evaluation.comparisons import tested
from gcl_jax.evaluation.fits import two_way
from gcl_jax.evaluation.intervals import (
  FEWEST,
  LEVEL,
  Support,
  entry,
  quantile,
)


def mean_over_fits(
  values: np.ndarray,
  groups: np.ndarray,
  *,
  draws: Sequence | None = None,
  scale: str = "plain",
  paired: bool = False,
  samples: int = 1000,
  seed: int = 0,
) -> dict[str, float | int | list | None]:
  """Mean over fits, volumes and classes, with a 95 % interval.

  Which patients were labelled matters as much as which are tested, so both are
  random: fits of one draw of labelled patients, which are not independent, are
  averaged first. The standard error is the larger of two: that of the two-way
  model of `fits.two_way` (draws by patients; Satterthwaite's degrees of
  freedom), and half the width of the percentile interval of a crossed bootstrap
  (draws and patients resampled, each separately) divided by the quantile of t.
  The interval is then that of Student's t, and as wide as the wider of both; p
  and `smallest` come from the same error and fit to it. With three draws the
  bootstrap alone covers 0.8 of the time, so no interval is given below five.

  Args:
    values: float64[K, F, V] of K classes, F fine-tunes, V volumes; nan if
      undefined. For a gain, the paired differences.
    groups: [V], the patients.
    draws: [F], the draw of labelled patients of each fit; None makes every fit
      a draw of its own.
    scale: of the interval, as for `intervals.interval`.
    paired: values are differences: an entry as from `comparisons.difference`.
    samples, seed: of the bootstrap.

  Returns:
    An entry of `intervals` with `fits` and `draws`, their numbers; `n` and
    `groups` are the volumes and patients for which anything is defined. Below
    five draws or patients low and high are None, and from two draws on `range`
    holds the smallest and largest mean of a draw.

  Raises:
    ValueError: another number of draws than of fits.
  """
  values = np.asarray(values, np.float64)
  fits = values.shape[1]
  draws = range(fits) if draws is None else draws
  if len(draws) != fits:
    raise ValueError(f"{len(draws)} names of draws for {fits} fits")
  values = _by_draw(values, draws)
  defined = ~np.isnan(values).all(axis=(0, 1))
  values = values[:, :, defined]
  names, codes = np.unique(
    one_forms(groups, "groups")[defined], return_inverse=True
  )
  count, volumes = values.shape[1:]
  support = Support(volumes, len(names))
  mean = weighted_mean(values, np.ones((1, count)), np.ones((1, volumes)))[0]
  error, freedom = np.nan, 1.0
  if min(count, len(names)) >= FEWEST:
    error, freedom = two_way(_without_each(values, codes), support)
    half = _bootstrap(values, codes, samples, seed) / 2
    error = max(error, half / quantile(freedom, (1 + LEVEL) / 2))
  if paired:
    found = tested(mean, support, error, freedom)
  else:
    found = entry(mean, support, scale, error, freedom)
  found |= {"fits": fits, "draws": count}
  if found["low"] is None and count > 1 and volumes:
    each = weighted_mean(values, np.eye(count), np.ones((count, volumes)))
    found["range"] = [float(np.nanmin(each)), float(np.nanmax(each))]
  return found


def weighted_mean(
  values: np.ndarray, of_fits: np.ndarray, of_volumes: np.ndarray
) -> np.ndarray:
  """Mean of the defined values, then over the defined classes, float64[S].

  Args:
    values: float64[K, F, V], nan where undefined.
    of_fits: weights [S, F].
    of_volumes: weights [S, V].
  """
  known = ~np.isnan(values)
  filled = np.where(known, values, 0.0)
  add = "kfv,sf,sv->sk"
  total = np.einsum(add, filled, of_fits, of_volumes, optimize=True)
  count = np.einsum(
    add, known.astype(float), of_fits, of_volumes, optimize=True
  )
  means = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
  some = ~np.isnan(means)
  sums = np.where(some, means, 0).sum(axis=1)
  return np.where(
    some.any(axis=1), sums / np.maximum(some.sum(axis=1), 1), np.nan
  )


def _by_draw(values: np.ndarray, draws: Sequence) -> np.ndarray:
  """float64[K, D, V]: the mean of the defined fits of every draw."""
  _, member = np.unique([str(draw) for draw in draws], return_inverse=True)
  member = (member[:, None] == np.arange(member.max() + 1)).astype(np.float64)
  known = ~np.isnan(values)
  total = np.einsum("kfv,fd->kdv", np.where(known, values, 0.0), member)
  count = np.einsum("kfv,fd->kdv", known.astype(float), member)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _without_each(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """What every draw adds to the mean, and without each patient.

  With theta_-d the mean without draw d of D, a draw adds the pseudo-value
  D theta - (D - 1) theta_-d. That is its own mean where all is defined, and is
  defined too where a draw misses a class in every volume.

  Returns:
    float64[D, 1 + G].
  """
  count = values.shape[1]
  without = 1.0 - np.eye(codes.max() + 1)[:, codes]
  of_volumes = np.concatenate([np.ones((1, len(codes))), without])
  of_draws = np.concatenate([np.ones((1, count)), 1.0 - np.eye(count)])
  found = np.stack(
    [
      weighted_mean(values, np.tile(weights, (len(of_volumes), 1)), of_volumes)
      for weights in of_draws
    ]
  )
  return count * found[0] - (count - 1) * found[1:]


def _bootstrap(values, codes, samples, seed) -> float:
  """Width of the percentile interval of the crossed bootstrap."""
  rng = np.random.default_rng(seed)
  of_draws, of_groups = (
    rng.multinomial(count, np.full(count, 1 / count), samples)
    for count in (values.shape[1], codes.max() + 1)
  )
  means = weighted_mean(values, of_draws, of_groups[:, codes])
  low, high = np.nanquantile(means, (0.025, 0.975))
  return float(high - low)
