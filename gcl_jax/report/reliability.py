"""Reliability curves: what share is positive where a probability is given."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.report.canvas import (
  MUTED,
  SERIES,
  drawing,
  legend,
  nothing,
  of_classes,
  save,
)
from gcl_jax.report.words import clean

BINS, FEWEST = 10, 10  # bins at most, and rows of a bin at least


def reliability(series: Mapping[str, tuple[Any, Any]]) -> bytes:
  """Draws the share of positives over the mean probability, bin by bin.

  Args:
    series: name -> (truth, probability), as `reliability_points` takes them;
      those without a point are left out.

  Returns:
    SVG bytes, 460 pixels wide.

  Raises:
    ValueError: lengths differ, or truth holds other values than 0 and 1.
  """
  found = {name: reliability_points(*pair) for name, pair in series.items()}
  found = {name: points for name, points in found.items() if len(points[0])}
  if not found:
    return nothing("no row with a probability")
  with drawing(440 + 20 * len(found), 460) as (figure, axes):
    axes.plot((0, 1), (0, 1), color=MUTED, lw=1.2, dashes=(4, 3))
    for i, (name, (given, share)) in enumerate(found.items()):
      colour, label = SERIES[i % len(SERIES)], clean(name, 30)
      axes.plot(given, share, "o-", ms=5, color=colour, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="mean probability", ylabel="share of positives")
    legend(axes, 2)
    return save(figure)


def reliability_points(truth: Any, probability: Any) -> tuple[Any, Any]:
  """Mean probability and share of positives of bins of equally many rows.

  Rows are sorted by probability and cut into bins whose sizes differ by one at
  most: 10, or as many as leave 10 rows to each, or a single one. Rows of one
  probability may fall into two bins.

  Args:
    truth: 0 or 1 [N].
    probability: float [N]; pairs with a NaN are left out.

  Returns:
    (mean probability [B], share of positives [B]); empty without rows.

  Raises:
    ValueError: lengths differ, or truth holds other values than 0 and 1.
  """
  truth, probability = of_classes(truth, probability)
  if not len(truth):
    return np.zeros(0), np.zeros(0)
  order = np.argsort(probability, kind="stable")
  count = max(1, min(BINS, len(truth) // FEWEST))
  parts = np.array_split(order, count)
  return (
    np.array([probability[part].mean() for part in parts]),
    np.array([truth[part].mean() for part in parts]),
  )
