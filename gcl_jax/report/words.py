"""Words and numbers as they appear on the page."""

import html as markup
import math
import re
from collections.abc import Sequence
from typing import Any

_CONTROL = re.compile(
  r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]"
)


def clean(text: Any, limit: int | None = None) -> str:
  """Turns anything into text that XML can hold, cut to `limit` characters.

  Args:
    text: any value; `str` is applied to it.
    limit: longest result; a longer text keeps its start and ends in an
      ellipsis. None keeps everything.

  Returns:
    The text without control characters and lone surrogates.
  """
  text = _CONTROL.sub("\ufffd", str(text))
  if limit is not None and len(text) > limit:
    return text[: limit - 1].rstrip() + "\u2026"
  return text


def number(value: float | None) -> str:
  """A number for people: 3 decimals under 10, fewer above.

  Below 0.0005 and from ten million three significant digits; whole numbers
  in full; a dash for None and NaN.
  """
  return "\u2013" if value is None else _decimals([value])(value)


_NUMERIC = re.compile(
  r"[\s\d.,:%±+\-\u2212\u2013\u2014()\[\]/eE×x]*\d[^a-zA-Z]*"
)


def escape(value: Any) -> str:
  """Anything as text that HTML reads as nothing but text."""
  return markup.escape(clean(value), quote=True)


def is_number(value: Any) -> bool:
  """Whether it is one number, of Python or of numpy; not True or False."""
  return hasattr(value, "__float__") and not isinstance(value, bool)


def is_numeric(column: list[Any]) -> bool:
  """Whether numbers fill it; strings count when they read as a number."""
  filled = [cell for cell in column if cell is not None and cell != ""]
  return bool(filled) and all(
    _NUMERIC.fullmatch(cell) if isinstance(cell, str) else is_number(cell)
    for cell in filled
  )


def column_cells(column: list[Any]) -> list[str]:
  """The cells of one column as HTML; its floats share their decimals."""
  show = _decimals([x for x in column if is_number(x)])
  return [_cell(value, show) for value in column]


def _cell(value: Any, show) -> str:
  text = show(value) if is_number(value) else clean(value)
  if value is None or text == "\u2013":
    return '<span class="absent" aria-label="undefined">\u2013</span>'
  return escape(text)


def _decimals(values: Sequence[float]):
  """A formatter that gives all finite `values` the same decimals."""
  sizes = [abs(float(v)) for v in values if math.isfinite(float(v))]
  largest = max(sizes, default=0.0)
  smallest = min((s for s in sizes if s > 0), default=1.0)
  comma = "," if largest >= 10_000 else ""
  places = 3 - sum(largest >= limit for limit in (10, 100, 1000))

  def show(value: float) -> str:
    if not math.isfinite(float(value)):
      return "\u2013" if math.isnan(float(value)) else f"{float(value):+.0f}"
    if hasattr(value, "__index__"):
      return f"{int(value):{comma}d}"
    if smallest < 5e-4 or largest >= 1e7:
      return f"{float(value):.3g}".replace("-", "\u2212")
    return f"{float(value):{comma}.{places}f}".replace("-", "\u2212")

  return show
