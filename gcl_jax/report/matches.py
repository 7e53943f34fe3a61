"""Two views of an image beside each other, with lines between their places."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import SERIES, nothing, save
from gcl_jax.report.sheet import note, sheet


def matches(
  pairs: Sequence[tuple[Any, Any]],
  lines: Sequence[np.ndarray],
  captions: Sequence[str] = (),
  names: tuple[str, str] = ("view 1", "view 2"),
) -> bytes:
  """Draws pairs of views and a line from every place to its match.

  Args:
    pairs: (first, second), each [H, W] or [H, W, 1 or 3].
    lines: for each pair float[M, 2, 2], (row, column) in shares of the height
      and width of the first and of the second view, (0, 0) the upper left.
    captions: one line under each pair, or none.
    names: above the two.

  Returns:
    SVG bytes, two pairs in a row.

  Raises:
    ValueError: another number of lines or captions than pairs.
  """
  if len(lines) != len(pairs) or len(captions) not in (0, len(pairs)):
    raise ValueError(
      f"{len(lines)} sets of lines and {len(captions)} captions for"
      f" {len(pairs)} pairs"
    )
  if not pairs:
    return nothing("no image")
  sides = {"": [side for pair in pairs for side in pair]}
  with sheet(sides, captions, 4, top=24, gap=24, span=2) as (figure, tiles):
    for k, of_pair in enumerate(lines):
      left, right = tiles[0][2 * k : 2 * k + 2]
      if k < 2:
        for axes, name in zip((left, right), names, strict=True):
          note(axes, name, (0, 1), (0, 5))
      for m, (first, second) in enumerate(of_pair):
        _line(figure, left, right, first, second, SERIES[m % len(SERIES)])
    return save(figure)


def _line(figure, left, right, first, second, colour) -> None:
  """Joins two places, each in shares from the upper left."""
  from matplotlib.patches import ConnectionPatch

  ends = [(column, 1 - row) for row, column in (first, second)]
  for axes, end in zip((left, right), ends, strict=True):
    axes.plot(*end, "o", color=colour, ms=4, transform=axes.transAxes)
  figure.add_artist(
    ConnectionPatch(
      *ends,
      coordsA="axes fraction",
      coordsB="axes fraction",
      axesA=left,
      axesB=right,
      color=colour,
      linewidth=1,
    )
  )
