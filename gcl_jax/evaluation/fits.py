"""Means over fits (seeds, draws of labels) and over groups (patients)."""

import numpy as np

from gcl_jax.evaluation.comparisons import tested
from gcl_jax.evaluation.intervals import Support, entry, standard_error


def over_fits(
  values: np.ndarray,
  support: Support,
  scale: str = "logit",
  paired: bool = False,
) -> dict[str, float | int | None]:
  """Mean over fits, with an interval over fits and groups.

  The standard error and its degrees of freedom are those of `two_way`.

  Args:
    values: float64[F, 1 + G], a row from `intervals.leave_one_out` for each
      of F fits (seeds, draws of labels), or differences of such rows.
    support: what the figures rest on.
    scale: as for `intervals.interval`.
    paired: values are differences: an entry as from `comparisons.difference`.

  Returns:
    An entry with `fits`; without an interval for a single fit.
  """
  values = np.asarray(values, np.float64)
  fits, mean = len(values), values[:, 0].mean()
  error, freedom = two_way(values, support)
  if paired:
    return tested(mean, support, error, freedom) | {"fits": fits}
  return entry(mean, support, scale, error, freedom) | {"fits": fits}


def two_way(values: np.ndarray, support: Support) -> tuple[float, float]:
  """Standard error of a mean over fits, and its degrees of freedom.

  Two-way random effects: the variance of the mean is V_fits + V_groups -
  V_both, from the fits' figures, from the jackknife of their mean, and from
  the pseudo-values G theta - (G - 1) theta_-g less both effects; never below
  the larger of the first two. The degrees of freedom are Satterthwaite's.

  Args:
    values, support: as for `over_fits`.

  Returns:
    (error, freedom); the error is nan for a single fit or group, and where a
    figure is not finite.
  """
  fits, count = len(values), values.shape[1] - 1
  if fits < 2 or count < 2:
    return np.nan, 1.0
  of_groups = standard_error(values.mean(0)) ** 2
  of_fits = values[:, 0].var(ddof=1) / fits
  pseudo = count * values[:, :1] - (count - 1) * values[:, 1:]
  rest = pseudo - pseudo.mean(0) - pseudo.mean(1)[:, None] + pseudo.mean()
  both = np.sum(rest**2) / ((fits - 1) * (count - 1)) / (fits * count)
  total = max(of_fits + of_groups - both, of_fits, of_groups)
  terms = of_fits**2 / (fits - 1)
  terms += of_groups**2 / max(support.freedom, 1)
  freedom = total**2 / terms if terms > 0 else 1.0
  return float(np.sqrt(total)), float(freedom)
