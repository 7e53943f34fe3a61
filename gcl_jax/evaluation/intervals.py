"""Intervals by the jackknife over groups (patients).

Each group is left out once. With theta_-g the figure without group g and G
groups, the variance is (G - 1) / G * sum_g (theta_-g - mean)^2 (Efron and
Stein, Annals of Statistics 9:586, 1981), carried to the scale of the figure by
the delta method. The quantile is Student's t with one degree of freedom less
than the smaller number of positive and negative groups. There are no random
numbers. `benchmarks/coverage.py` measures how often such intervals cover.

Entries are dicts {value, low, high, n, groups}, for two classes also
{positive_groups, negative_groups}: n is the number of rows, and low and high
are None where there is no interval. Host code in numpy, float64.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from gcl_jax.data.text import one_forms
from gcl_jax.errors import DataError

LEVEL = 0.95
FEWEST = 5  # positive or negative groups without which there is no interval
# The threshold of a sensitivity at 90 % specificity is a quantile of the
# negatives, whose jackknife needs more of them: with 14 groups it covers 0.78,
# with 20 or more 0.88 to 0.94 (nominal 0.95).
FEWEST_IN_TAIL = 20
ROUNDING = 1e-12  # errors, differences and distances below are rounding
SCALES = ("logit", "fisher", "plain")
_BLOCK = 2_000_000  # weights held at once

Evaluate = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Support(NamedTuple):
  """What a figure rests on.

  Attributes:
    rows: number of rows.
    groups: number of groups.
    positive: groups with a positive row; None for figures without classes.
    negative: groups with a negative row; None likewise.
    degrees: of freedom, where they are not those of `freedom`.
    needed: negative groups without which there is no interval.
  """

  rows: int
  groups: int
  positive: int | None = None
  negative: int | None = None
  degrees: float | None = None
  needed: int = FEWEST

  @property
  def enough(self) -> bool:
    """Whether there are groups enough for an interval."""
    negative = self.needed if self.negative is None else self.negative
    return self.fewest >= FEWEST and negative >= self.needed

  @property
  def freedom(self) -> float:
    """Degrees of freedom of Student's t: `degrees`, or `fewest` - 1."""
    return self.fewest - 1 if self.degrees is None else self.degrees

  @property
  def fewest(self) -> int:
    """The smallest number of groups that the figure needs."""
    sides = (self.groups, self.positive, self.negative)
    return min(count for count in sides if count is not None)


def support_of(
  groups: np.ndarray,
  labels: np.ndarray | None = None,
  sides: tuple[float, ...] = (1, 0),
  needed: int = FEWEST,
) -> Support:
  """Counts what a figure on these rows rests on.

  Args:
    groups: [N], the group of every row that counts.
    labels: float[N] of 1 and 0, or None for figures without classes.
    sides: the classes that the figure needs: (1,) of a sensitivity, (0,) of a
      specificity.
    needed: as of `Support`.
  """
  groups = one_forms(groups, "groups")
  found = len(groups), len(np.unique(groups))
  if labels is None:
    return Support(*found)
  counts = [
    len(np.unique(groups[np.asarray(labels) == side]))
    if side in sides
    else None
    for side in (1, 0)
  ]
  return Support(*found, *counts, needed=needed)


def leave_one_out(
  evaluate: Evaluate, rows: int, groups: np.ndarray | None
) -> dict[str, np.ndarray]:
  """Figures on all rows and without each group.

  Args:
    evaluate: weights float64[S, rows], 1 for a row that counts and else 0, ->
      {name: float64[S]}, nan where undefined.
    rows: number of rows.
    groups: [rows]; None makes every row its own group.

  Returns:
    {name: float64[1 + G]}, the first of all rows.

  Raises:
    DataError: as many groups as rows are not given.
  """
  groups = np.arange(rows) if groups is None else one_forms(groups, "groups")
  if len(groups) != rows:
    raise DataError(f"{len(groups)} groups for {rows} rows")
  names, member = np.unique(groups, return_inverse=True)
  size = max(1, _BLOCK // max(rows, 1))
  found = [evaluate(np.ones((1, rows)))]
  for start in range(0, len(names), size):
    left_out = np.arange(start, min(start + size, len(names)))
    found.append(evaluate((member != left_out[:, None]).astype(np.float64)))
  return {name: np.concatenate([f[name] for f in found]) for name in found[0]}


def interval(
  values: np.ndarray, support: Support, scale: str = "logit"
) -> dict[str, float | int | None]:
  """Figure with its interval.

  Args:
    values: float64[1 + G] from `leave_one_out`.
    support: what the figure rests on.
    scale: "logit" of shares in [0, 1], "fisher" (artanh) of correlations in
      [-1, 1], "plain" of anything else. At the ends of the first two, where
      the jackknife sees no spread, the interval is that of Wilson for
      `support.fewest` equal outcomes.

  Returns:
    An entry; without an interval for fewer than 5 positive or negative groups
    and where the figure is undefined without one of the groups.
  """
  error = standard_error(values)
  return entry(values[0], support, scale, error, support.freedom)


def wilson(value: float, count: int, level: float = LEVEL) -> tuple:
  """Wilson's score interval of a share of `count` outcomes, (low, high)."""
  z2 = special.ndtri((1 + level) / 2) ** 2
  centre = (value + z2 / (2 * count)) / (1 + z2 / count)
  half = value * (1 - value) / count + z2 / (4 * count**2)
  half = np.sqrt(z2 * half) / (1 + z2 / count)
  return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def standard_error(values: np.ndarray) -> float:
  """Jackknife standard error of values[0] from values[1:], float64[1 + G].

  It is nan for fewer than two groups, and where a value is not finite.
  """
  others = values[1:]
  if len(others) < 2 or not np.isfinite(others).all():
    return np.nan
  scale = (len(others) - 1) / len(others)
  return float(np.sqrt(scale * np.sum((others - others.mean()) ** 2)))


def entry(
  value: float, support: Support, scale: str, error: float, freedom: float
) -> dict[str, float | int | None]:
  """Entry of a figure with a standard error (nan: no interval).

  Args:
    value: the figure, nan where undefined.
    support, scale: as for `interval`.
    error: its standard error on the plain scale.
    freedom: degrees of freedom of Student's t.

  Raises:
    ValueError: an unknown scale.
  """
  if scale not in SCALES:
    raise ValueError(f"scale must be one of {', '.join(SCALES)}: {scale!r}")
  found = _without(value, support)
  enough = support.enough and np.isfinite(error)
  if found["value"] is None or not enough:
    return found
  if error < ROUNDING and not _at_end(value, scale):
    return found  # no group changes the figure: nothing to judge it by
  low, high = _ends(float(value), support, scale, error, freedom)
  return found | {"low": float(low), "high": float(high)}


def quantile(freedom: float, p: float) -> float:
  """Quantile of Student's t."""
  return float(special.stdtrit(freedom, p))


def _at_end(value: float, scale: str) -> bool:
  """Whether a share is 0 or 1, or a correlation -1 or 1."""
  ends = {"logit": (0, 1), "fisher": (-1, 1), "plain": ()}[scale]
  return any(abs(value - end) < ROUNDING for end in ends)


def _ends(value, support, scale, error, freedom) -> tuple[float, float]:
  if scale == "plain":
    half = quantile(freedom, (1 + LEVEL) / 2) * error
    return value - half, value + half
  # A correlation r in [-1, 1] is the share (r + 1) / 2, and artanh(r) is half
  # of its logit: one rule serves both.
  share = (value + 1) / 2 if scale == "fisher" else value
  error = error / 2 if scale == "fisher" else error
  if _at_end(value, scale):
    low, high = wilson(round(share), support.fewest)
  else:
    half = quantile(freedom, (1 + LEVEL) / 2) * error / (share * (1 - share))
    centre = special.logit(share)
    low, high = special.expit(centre - half), special.expit(centre + half)
  return (2 * low - 1, 2 * high - 1) if scale == "fisher" else (low, high)


def _without(value, support) -> dict:
  """An entry without an interval."""
  found = {
    "value": float(value) if np.isfinite(value) else None,
    "low": None,
    "high": None,
    "n": support.rows,
    "groups": support.groups,
  }
  sides = {
    "positive_groups": support.positive,
    "negative_groups": support.negative,
  }
  return found | {k: v for k, v in sides.items() if v is not None}
