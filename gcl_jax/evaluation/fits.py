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

  Two-way random effects: the variance of the mean is V_fits + V_groups -
  V_both, from the fits' figures, from the jackknife of their mean, and from
  the pseudo-values G theta - (G - 1) theta_-g less both effects; never below
  the larger of the first two. The degrees of freedom are Satterthwaite's.

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
  fits, count = len(values), values.shape[1] - 1
  mean = values.mean(0)
  error, freedom = np.nan, 1.0
  if fits > 1 and count > 1:
    of_groups = standard_error(mean) ** 2
    of_fits = values[:, 0].var(ddof=1) / fits
    pseudo = count * values[:, :1] - (count - 1) * values[:, 1:]
    rest = pseudo - pseudo.mean(0) - pseudo.mean(1)[:, None] + pseudo.mean()
    both = np.sum(rest**2) / ((fits - 1) * (count - 1)) / (fits * count)
    total = max(of_fits + of_groups - both, of_fits, of_groups)
    terms = of_fits**2 / (fits - 1)
    terms += of_groups**2 / max(support.freedom, 1)
    freedom = total**2 / terms if terms > 0 else 1.0
    error = np.sqrt(total)
  if paired:
    return tested(mean[0], support, error, freedom) | {"fits": fits}
  return entry(mean[0], support, scale, error, freedom) | {"fits": fits}
