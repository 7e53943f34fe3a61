"""Meta labels: a column of the table and a rule for agreement of two slices.

A rule is one word of a configuration:

    patient         equal values
    position<0.35   values that differ by less than 0.35
    position~0.1    a weight exp(-(difference / 0.1)^2 / 2)
    position/4      values in the same of 4 equal parts of (0, 1]

A missing value (nan, or an empty string) agrees with no other slice, as in
`losses.affinities`; two views of one slice always agree.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.errors import ConfigError
from gcl_jax.losses import affinities

_ROUNDING = 1e-5  # of float32 differences, relative to the threshold
_PATTERN = re.compile(r"([^<~/]+)(?:([<~/])(.+))?")


class Rule(NamedTuple):
  """Parsed rule of one meta label.

  Attributes:
    text: as written; names the losses and the head of the rule.
    column: of the table.
    kind: "=", "<", "~" or "/".
    width: threshold, kernel width or number of parts; 0 for "=".
  """

  text: str
  column: str
  kind: str
  width: float

  def weights(self, a: jax.Array, b: jax.Array) -> jax.Array:
    """Affinity of two sets of values from `values_of`, [R, 1, 2] and [1, C, 2].

    The second entry of a value is the number of the slice.
    """
    alike = _affinity(self)(a[..., 0], b[..., 0])
    return jnp.where(a[..., 1] == b[..., 1], 1.0, alike)


def _affinity(rule: Rule) -> affinities.Affinity:
  if rule.kind == "~":
    return affinities.kernel(rule.width)
  if rule.kind == "<":
    # Below the threshold by more than rounding: otherwise, of 20 slices, half
    # of the pairs 2 slices apart would differ by less than 0.1.
    return affinities.threshold(rule.width * (1 - _ROUNDING))
  return affinities.threshold(0.0)


def parse(text: str) -> Rule:
  """Parses one word of the configuration as a rule.

  Raises:
    ConfigError: the word is not a rule, or its number is not above 0.
  """
  found = _PATTERN.fullmatch(text.strip())
  column, kind, number = found.groups() if found else ("", None, None)
  if kind is None and column:
    return Rule(text, column, "=", 0.0)
  try:
    width = float(number)
  except (TypeError, ValueError):
    width = 0.0
  if not column or not 0 < width < np.inf or (kind == "/" and width % 1):
    raise ConfigError(
      f"{text!r} is no rule of a meta label: write patient (equal values),"
      " position<0.35 (closer than), position~0.1 (kernel) or position/4"
      " (parts)"
    )
  return Rule(text, column, kind, width)


def values_of(rule: Rule, table: dict[str, np.ndarray]) -> np.ndarray:
  """Values for `Rule.weights`, float32[N, 2]: column value and row number.

  Raises:
    ConfigError: the column does not exist, is empty throughout, or holds text
      where numbers are needed.
  """
  if rule.column not in table:
    raise ConfigError(
      f"meta label {rule.text!r}: no column {rule.column!r}; there are"
      f" {', '.join(table)}"
    )
  column = np.asarray(table[rule.column])
  if rule.kind == "=":
    values = _codes(column)
  elif column.dtype.kind in "fiub":
    values = column.astype(np.float64)
    if rule.kind == "/":
      values = np.ceil(values * rule.width)
  else:
    raise ConfigError(
      f"meta label {rule.text!r}: column {rule.column!r} holds texts, which"
      " can only be equal"
    )
  if np.isnan(values).all():
    raise ConfigError(
      f"meta label {rule.text!r}: column {rule.column!r} is empty in every row"
    )
  return np.stack([values, np.arange(len(column))], 1).astype(np.float32)


def _codes(column: np.ndarray) -> np.ndarray:
  """Numbers the distinct values; nan where a value is missing."""
  _, codes = np.unique(column, return_inverse=True)
  codes = codes.astype(np.float64)
  missing = (
    np.isnan(column) if column.dtype.kind == "f" else column.astype(str) == ""
  )
  codes[missing] = np.nan
  return codes
