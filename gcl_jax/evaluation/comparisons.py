"""Paired differences: their intervals, p-values and families."""

from collections.abc import Mapping

import numpy as np
from scipy import special

from gcl_jax.evaluation.intervals import (
  LEVEL,
  ROUNDING,
  Support,
  entry,
  quantile,
  standard_error,
)

POWER = 0.8  # with which `smallest` would be found


def difference(values: np.ndarray, support: Support) -> dict[str, float | None]:
  """Paired difference of two figures on the same rows.

  Args:
    values: float64[1 + G], the difference of two figures, from the same calls
      of `intervals.leave_one_out`.
    support: what both rest on.

  Returns:
    An entry with `p`, that of the t-test of no difference, and `smallest`: the
    difference that would be found with a probability of 0.8, (t_0.975 +
    t_0.8) times the standard error; None where there is no interval.
  """
  return tested(values[0], support, standard_error(values), support.freedom)


def holm(p: Mapping[str, float | None]) -> dict[str, float | None]:
  """p-values adjusted by Holm's method for a family of comparisons.

  The k-th smallest of m is multiplied by m - k + 1, made to rise, and at most
  1 (Holm, Scandinavian Journal of Statistics 6:65, 1979). Undefined ones do
  not count.
  """
  known = sorted(
    (value, name) for name, value in p.items() if value is not None
  )
  adjusted, largest = dict.fromkeys(p), 0.0
  for k, (value, name) in enumerate(known):
    largest = max(largest, min(1.0, value * (len(known) - k)))
    adjusted[name] = largest
  return adjusted


def family(entries: Mapping[str, dict]) -> dict[str, dict]:
  """The entries of one family of comparisons, each with `p_holm` and, under
  `family`, how many were made."""
  adjusted = holm({name: entry["p"] for name, entry in entries.items()})
  tested = sum(value is not None for value in adjusted.values())
  return {
    name: entry | {"p_holm": adjusted[name], "family": tested}
    for name, entry in entries.items()
  }


def verdict(found: Mapping[str, float | None]) -> str:
  """A word on a difference by its interval: "above", "below" or "not told
  apart"; with `p_holm` above 0.05 it adds that the difference does not survive
  the correction."""
  low, high, p = found.get("low"), found.get("high"), found.get("p_holm")
  if low is None or low <= 0 <= high:
    return "not told apart"
  word = "above" if low > 0 else "below"
  lost = p is not None and p > 1 - LEVEL
  return f"{word}, but not after Holm's correction" if lost else word


def tested(
  value: float, support: Support, error: float, freedom: float
) -> dict[str, float | int | None]:
  """Entry of a difference with a standard error, as from `difference`.

  Args:
    value: the difference.
    support: what both figures rest on.
    error: its standard error, nan where there is none.
    freedom: degrees of freedom of Student's t.

  Returns:
    As from `difference`. Where no group changes the difference there is no
    interval, and p is 1 if it is 0.
  """
  found = entry(value, support, "plain", error, freedom)
  found |= {"p": None, "smallest": None}
  if found["low"] is None:
    same = support.enough and error < ROUNDING and abs(value) < ROUNDING
    return found | ({"p": 1.0} if same else {})
  reach = quantile(freedom, (1 + LEVEL) / 2) + quantile(freedom, POWER)
  p = 2 * special.stdtr(freedom, -abs(value) / error)
  return found | {"p": float(p), "smallest": float(reach * error)}
