"""Building blocks of a report; `html.write` renders them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Text:
  """One paragraph of plain text."""

  text: str


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture, numbered in the page.

  Args:
    image: bytes of an SVG with a `viewBox`, as every function of `charts`,
      `distributions` and `tiles` returns them.
    caption: what the picture shows; also its text alternative.
  """

  image: bytes
  caption: str


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under headers; with a caption it is numbered in the page.

  Args:
    headers: one title for each column.
    rows: cells are text, numbers or None (shown as a dash, like NaN); the
      floats of a column share their number of decimals.
    caption: one or two sentences above the table, or none.
    align: one letter for each column, l (left) or r (right); None aligns
      columns of numbers to the right.
  """

  headers: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ""
  align: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Details:
  """Blocks folded under one line until the reader opens or prints them."""

  summary: str
  blocks: Sequence["Block"]


Block = Text | Figure | Table | Details


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading with an entry in the navigation, and its blocks."""

  title: str
  blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Card:
  """A headline number.

  Args:
    label: name of the number.
    value: the number; None and NaN are shown as "undefined".
    interval: (low, high), or None. When value, low and high all lie in
      [0, 1], the card also draws them on a scale from 0 to 1.
    note: a short explanation under the number.
    signed: for differences: the numbers have a sign, and there is no scale.
  """

  label: str
  value: float | None
  interval: tuple[float, float] | None = None
  note: str = ""
  signed: bool = False


def settings(values: Mapping[str, Any]) -> Section:
  """Builds a folded section with one row for each leaf of a nested mapping.

  Args:
    values: names to values or to further mappings; nested names are joined
      with dots.

  Returns:
    The section "Settings".
  """
  rows = [(name, _plain(value)) for name, value in _leaves(values, "")]
  table = Table(("setting", "value"), rows, align="ll")
  return Section("Settings", [Details(f"All {len(rows)} settings", [table])])


def _plain(value: Any) -> str:
  """Formats a setting as it would be typed."""
  if isinstance(value, list | tuple):
    return ", ".join(_plain(entry) for entry in value) or "(empty)"
  if value == "":
    return "(empty)"
  return "none" if value is None else str(value)


def _leaves(values: Mapping[str, Any], prefix: str):
  """Yields (dotted name, value) of every leaf."""
  for name, value in values.items():
    if isinstance(value, Mapping) and value:
      yield from _leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value
