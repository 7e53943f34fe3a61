"""Layout of images in rows and columns, with names and captions."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import INK, MUTED, WIDTH, drawing
from gcl_jax.report.words import clean

NAMES = 104  # pixels for the names of the rows

_GAP = 10  # pixels between columns
_BETWEEN = 6  # pixels between rows
_LARGEST = 320  # pixels: an image is stored no larger than this
_LETTER = 6.4  # pixels: mean width of a letter


@contextlib.contextmanager
def sheet(
  rows: Mapping[str, Sequence[Any]],
  captions: Sequence[str],
  columns: int,
  *,
  top: float = 0,
  bottom: float = 0,
  gap: float = _GAP,
  span: int = 1,
) -> Iterator[tuple[Any, list[list[Any]]]]:
  """Lays out rows of images with a caption under each column.

  More images than `columns` continue in another block of all rows below.

  Args:
    rows: name (empty: none) -> N images.
    captions: N / span lines, or none.
    columns: images beside each other.
    top: free pixels above the images.
    bottom: free pixels below them.
    gap: pixels between columns.
    span: columns that share a caption.

  Yields:
    The figure and its axes [rows][N].
  """
  count = len(next(iter(rows.values())))
  columns = min(columns, max(count, 3))
  left = NAMES if any(rows) else 0
  width = (WIDTH - left - (columns - 1) * gap) / columns
  tall = width * max(_ratio(image) for row in rows.values() for image in row)
  inner = len(rows) * (tall + _BETWEEN) - _BETWEEN
  block = inner + (28 if captions else _GAP)
  total = top + -(-count // columns) * block + bottom
  spaces = {"wspace": gap / width, "hspace": _BETWEEN / tall}
  tiles: list[list[Any]] = [[] for _ in rows]
  with drawing(total) as (figure, _):
    figure.clear()
    figure.set_layout_engine("none")
    for first in range(0, count, columns):
      start = top + first // columns * block
      box = {"left": left / WIDTH, "right": 1, "top": 1 - start / total}
      box["bottom"] = 1 - (start + inner) / total
      grid = figure.add_gridspec(len(rows), columns, **box, **spaces)
      for j, (name, images) in enumerate(rows.items()):
        for i, image in enumerate(images[first : first + columns]):
          tiles[j].append(_tile(figure.add_subplot(grid[j, i]), image))
        words = {"va": "center", "color": INK}
        note(tiles[j][first], clean(name, 14), (0, 0.5), (-left, 0), **words)
    for axes, caption in zip(tiles[-1][::span], captions, strict=False):
      short = clean(caption, max(4, int(span * width / _LETTER)))
      note(axes, short, (0, 0), (0, -5), va="top")
    yield figure, tiles


def _ratio(image: Any) -> float:
  """Height by width, 1.6 at most."""
  height, width = np.shape(image)[:2]
  return min(height / width, 1.6)


def _tile(axes: Any, image: Any) -> Any:
  """Draws one image without frame and ticks; returns the axes."""
  from PIL import Image

  pixels = np.asarray(image)
  if pixels.ndim == 3 and pixels.shape[2] == 1:
    pixels = pixels[..., 0]
  picture = Image.fromarray(stretch(pixels, *extremes(pixels)))
  picture.thumbnail((_LARGEST, _LARGEST))
  axes.imshow(np.asarray(picture.convert("RGB")), interpolation="none")
  axes.set_axis_off()
  axes.set_anchor("SW")
  return axes


def note(axes: Any, text: str, at, offset, *, color=MUTED, **options) -> None:
  """Writes text beside an image, `offset` pixels from a corner or edge."""
  axes.annotate(
    text,
    at,
    xycoords="axes fraction",
    xytext=offset,
    textcoords="offset points",
    color=color,
    **options,
  )


def extremes(values: np.ndarray) -> tuple[float, float]:
  """Black and white: 0 and 255 for bytes, else the finite extremes."""
  if values.dtype == np.uint8:
    return 0.0, 255.0
  finite = values[np.isfinite(values)]
  if not finite.size:
    return 0.0, 1.0
  return float(finite.min()), float(finite.max())


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
  """uint8 of values between low and high; what is not finite is black."""
  values = np.nan_to_num(values.astype(np.float64), nan=low)
  scaled = (np.clip(values, low, high) - low) / (high - low or 1.0)
  return np.round(255 * scaled).astype(np.uint8)
