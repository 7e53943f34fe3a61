"""What every chart needs: a figure in the report's style, and its bytes."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from gcl_jax.report.style import LIGHT, SERIES, clean, matplotlib_settings

WIDTH = 760  # pixels: the full width of the page's column
OTHER = "other classes"
MISSING = "no class"


def nothing(reason: str) -> bytes:
  """A small SVG that says why there is no picture.

  Args:
    reason: what is missing, as the end of "Nothing to show: ...".

  Returns:
    SVG bytes, 760 x 84 pixels.
  """
  text = escape(clean(f"Nothing to show: {reason}", 110))
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 84">'
    f'<rect x="1" y="1" width="{WIDTH - 2}" height="82" rx="8" '
    f'style="fill:none;stroke:{LIGHT["rule"]};stroke-dasharray:5 4"/>'
    f'<text x="{WIDTH // 2}" y="47" style="font:14px \'DejaVu Sans\';'
    f'fill:{LIGHT["muted"]};text-anchor:middle">{text}</text></svg>'
  ).encode()


@contextlib.contextmanager
def drawing(height: int, width: int = WIDTH) -> Iterator[tuple[Any, Any]]:
  """An empty figure and its axes with the report's settings in force.

  Args:
    height: pixels.
    width: pixels.

  Yields:
    (figure, axes) of matplotlib, outside pyplot's global state.
  """
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with matplotlib.rc_context(matplotlib_settings()):
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(figure)
    yield figure, figure.add_subplot()


def save(figure: Any) -> bytes:
  """The figure as SVG bytes; equal figures give equal bytes."""
  from matplotlib.text import Text

  for text in figure.findobj(Text):
    text.set_text(clean(text.get_text(), 120))
  file = io.BytesIO()
  nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  with warnings.catch_warnings():
    # The page draws the letters in the reader's own fonts.
    warnings.filterwarnings("ignore", message="Glyph .* missing")
    warnings.filterwarnings("ignore", message="Matplotlib currently does not")
    figure.savefig(file, format="svg", dpi=150, metadata=nobody)
  return re.sub(rb"<!DOCTYPE[^>]*>\s*", b"", file.getvalue())


def legend(axes: Any, columns: int = 4, **options: Any) -> None:
  """A legend in one line above the axes, where it hides nothing."""
  place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.01)}
  axes.legend(
    **{"ncols": columns, "columnspacing": 1.6, "handlelength": 1.8}
    | place
    | options
  )


def numbers(values: Any) -> np.ndarray:
  """Float64 [N] of anything with N numbers; None becomes NaN."""
  array = np.asarray(values)
  if array.dtype == object:
    array = np.asarray([np.nan if v is None else v for v in array.ravel()])
  return array.astype(np.float64).ravel()


def same_length(**arrays: Any) -> None:
  """Raises ValueError, with the sizes, when lengths differ."""
  sizes = {name: len(array) for name, array in arrays.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f"lengths differ: {sizes}")


def name_classes(classes: Any, limit: int = len(SERIES)) -> np.ndarray:
  """A short name for each row's class.

  Numbers that are whole lose their decimals; None, NaN and "" become
  `MISSING`; beyond `limit` classes the smaller ones become `OTHER`.

  Args:
    classes: [N] strings or numbers.
    limit: most classes that keep a name.

  Returns:
    str [N].
  """
  names = np.asarray([_name(v) for v in np.asarray(classes).ravel().tolist()])
  kinds, counts = np.unique(names[names != MISSING], return_counts=True)
  if len(kinds) > limit:
    kept = kinds[np.argsort(-counts, kind="stable")[: limit - 1]]
    known = np.isin(names, [*kept, MISSING])
    names = np.where(known, names, OTHER)
  return names


def class_order(names: np.ndarray) -> list[str]:
  """The classes present: numbers by size, words by letter, the rest last."""
  kinds = [str(k) for k in np.unique(names)]

  def rank(kind: str) -> tuple[int, float, str]:
    if kind in (OTHER, MISSING):
      return 2, float(kind == MISSING), kind
    try:
      return 0, float(kind), kind
    except ValueError:
      return 1, 0.0, kind

  return sorted(kinds, key=rank)


def class_colours(order: Sequence[str]) -> dict[str, str]:
  """One colour per class; the leftovers are grey."""
  return {
    kind: LIGHT["other"] if kind in (OTHER, MISSING) else SERIES[i % 6]
    for i, kind in enumerate(order)
  }


def _name(value: Any) -> str:
  if value is None or value == "" or value != value:
    return MISSING
  if isinstance(value, bool | int | float) and float(value).is_integer():
    return str(int(value))
  return clean(value, 28)


def reference_line(axes: Any, value: float, name: str, way: str) -> None:
  """A labelled dashed line through the axes."""
  style = {"color": LIGHT["muted"], "linewidth": 1.2, "dashes": (4, 3)}
  words = {
    "textcoords": "offset points",
    "color": LIGHT["muted"],
    "fontsize": 11.5,
  }
  if way == "horizontal":
    axes.axhline(value, **style)
    at, words["xytext"], words["ha"] = (1, value), (-2, 5), "right"
    place = axes.get_yaxis_transform()
  else:
    axes.axvline(value, **style)
    at, words["xytext"], words["ha"] = (value, 1), (0, 4), "center"
    place = axes.get_xaxis_transform()
  axes.annotate(clean(name, 40), at, xycoords=place, **words)


def left_out(bad: np.ndarray) -> str:
  """What to add to an axis label when rows had to be dropped."""
  count = int(np.count_nonzero(bad))
  return f" ({count:,} not finite, left out)" if count else ""
