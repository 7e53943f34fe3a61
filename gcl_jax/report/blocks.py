"""What a report is made of; `html.write` puts it on a page."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Text:
  """Plain words. A string: paragraphs, parted by an empty line. A list: one
  bullet for each entry."""

  text: str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture (what `figures` returns, any SVG or PNG), numbered in the page.

  `caption` says what to see; `alt` says it to those who do not see the
  picture (empty: the caption).
  """

  image: bytes | str
  caption: str = ""
  alt: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under headers, numbered in the page.

  Cells are words, numbers or None (shown as a dash, like NaN); the floats
  of a column share their decimals. `align` is one of l, c, r per column;
  None puts columns of numbers to the right.
  """

  headers: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ""
  align: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Notice:
  """A tinted box. `kind` is info, warning or error; a list makes bullets."""

  kind: str
  text: str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Details:
  """Blocks folded under one line until the reader opens them (or prints)."""

  summary: str
  blocks: Sequence["Block"]


Block = Text | Figure | Table | Notice | Details


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading with an entry in the navigation, and its blocks."""

  title: str
  blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Card:
  """A headline number.

  `value` is a number, words, or None (shown as undefined); `interval` is
  (low, high) or words; say in `note`
  which interval it is. Three numbers in [0, 1] also get a small scale that
  runs from 0 to 1.
  """

  label: str
  value: float | str | None
  interval: tuple[float | None, float | None] | str | None = None
  note: str = ""


def settings(values: Mapping[str, Any], title: str = "Settings") -> Section:
  """A folded section with one row for each leaf of a nested mapping.

  Args:
    values: names to values or to further mappings; nested names are joined
      with dots.
    title: the section's heading.

  Returns:
    The section.
  """
  rows = [(name, _plain(value)) for name, value in _leaves(values, "")]
  table = Table(("setting", "value"), rows, align="ll")
  return Section(title, [Details(f"All {len(rows)} settings", [table])])


def _plain(value: Any) -> str:
  """A setting as it would be typed."""
  if isinstance(value, list | tuple):
    return ", ".join(_plain(entry) for entry in value) or "(empty)"
  if value == "":
    return "(empty)"
  return "none" if value is None else str(value)


def _leaves(values: Mapping[str, Any], prefix: str):
  for name, value in values.items():
    if isinstance(value, Mapping) and value:
      yield from _leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value
