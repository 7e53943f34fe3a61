"""Shared parts of all pictures: style, figure, SVG bytes, clean arrays."""

import base64
import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from gcl_jax.report.style import LIGHT
from gcl_jax.report.words import clean

WIDTH = 760  # pixels: the full width of the page's column

# Distinguishable with every kind of colour vision (CIELAB distance over 12)
# and with a contrast of 3:1 or more on the plate; tests/test_report.py
# computes both.
SERIES = ("#0b62a8", "#d96a0b", "#058c6a", "#a83c78", "#3d98d6", "#7a4a12")
GREY = "#858d96"
INK, MUTED = LIGHT["ink"], LIGHT["muted"]


def settings() -> dict[str, Any]:
  """The rcParams of every picture; one unit of length is one CSS pixel.

  Letters stay text (`svg.fonttype`): the file is small, and the fonts after
  the first, no wider than it, stand in where it is missing. Dollar signs are
  no mathematics. The salt makes equal input give equal bytes.
  """
  rule = LIGHT["rule"]
  return {
    "figure.dpi": 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": rule,
    "ytick.color": rule,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.edgecolor": rule,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 1,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 1,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
  }


@contextlib.contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[tuple[Any, Any]]:
  """Opens an empty figure with the report's settings in force.

  Args:
    height: pixels.
    width: pixels.

  Yields:
    (figure, axes) of matplotlib, outside pyplot's global state.
  """
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  with matplotlib.rc_context(settings()):
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(figure)
    yield figure, figure.add_subplot()


def save(figure: Any) -> bytes:
  """Returns the figure as SVG bytes; equal figures give equal bytes."""
  from matplotlib.text import Text

  for text in figure.findobj(Text):
    text.set_text(clean(text.get_text(), 120))
  file = io.BytesIO()
  without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  with warnings.catch_warnings():
    # The browser finds a font for letters that DejaVu Sans lacks.
    warnings.filterwarnings("ignore", message="Glyph .* missing")
    warnings.filterwarnings("ignore", message="Matplotlib currently does not")
    figure.savefig(file, format="svg", dpi=150, metadata=without)
  svg = re.sub(rb"<!DOCTYPE[^>]*>\s*", b"", file.getvalue())
  return re.sub(rb"<image [^>]*>", _smaller, svg)


def _smaller(match: re.Match[bytes]) -> bytes:
  """An <image> element with a smaller PNG, scaled smoothly unless tiny.

  matplotlib stores every image as RGBA and scales it to blocks of pixels.
  """
  from PIL import Image

  head, code, tail = re.split(rb'base64,\s*([^"]*)', match[0])
  pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
  if pixels[..., 3].min() == 255:
    pixels = pixels[..., :3]
    if (pixels == pixels[..., :1]).all():
      pixels = pixels[..., 0]
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG", optimize=True)
  element = head + b"base64," + base64.b64encode(file.getvalue()) + tail
  if min(pixels.shape[:2]) >= 64:
    element = re.sub(rb"image-rendering:[^;\"]*;?", b"", element)
  return element


def nothing(reason: str) -> bytes:
  """Draws the reason why there is no picture.

  Args:
    reason: end of the sentence "Nothing to show: ...".

  Returns:
    SVG bytes, 760 x 84 pixels.
  """
  with drawing(84) as (figure, axes):
    axes.set_axis_off()
    place = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, f"Nothing to show: {reason}", color=MUTED, **place)
    return save(figure)


def legend(axes: Any, columns: int = 4, **options: Any) -> None:
  """Adds a legend above the axes, outside the data."""
  place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.01)}
  axes.legend(
    **{"ncols": columns, "columnspacing": 1.6, "handlelength": 1.8}
    | place
    | options
  )


def numbers(values: Any) -> np.ndarray:
  """Converts N numbers of any type to float64 [N]; None becomes NaN."""
  array = np.asarray(values)
  if array.dtype == object:
    array = np.asarray([np.nan if v is None else v for v in array.ravel()])
  return array.astype(np.float64).ravel()


def same_length(**arrays: Any) -> None:
  """Raises ValueError, with the sizes, when lengths differ."""
  sizes = {name: len(array) for name, array in arrays.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f"lengths differ: {sizes}")


def of_classes(truth: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
  """Truth of 0 and 1 with a number each, pairs with a NaN left out.

  Raises:
    ValueError: lengths differ, or truth holds other values than 0 and 1.
  """
  truth, values = numbers(truth), numbers(values)
  same_length(truth=truth, values=values)
  good = ~(np.isnan(truth) | np.isnan(values))
  truth, values = truth[good], values[good]
  if not np.isin(truth, (0, 1)).all():
    raise ValueError("truth must be 0 or 1")
  return truth, values


def left_out(bad: np.ndarray) -> str:
  """Suffix of an axis label with the number of rows left out, or nothing."""
  count = int(np.count_nonzero(bad))
  return f" ({count:,} not finite, left out)" if count else ""
