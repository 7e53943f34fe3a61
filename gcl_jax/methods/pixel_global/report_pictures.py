"""Pictures of the report: weights, matched pairs, uncertainty by border."""

from collections.abc import Mapping

import numpy as np

from gcl_jax.methods.pixel_global.measure import VISIBLE
from gcl_jax.report import charts, html, matches, tiles
from gcl_jax.report.sheet import extremes, stretch

LINES = 12  # matched pairs drawn for an image
RINGS = 12  # distances to the border that the chart tells apart


def weights(found: Mapping) -> html.Figure:
  """The weights of cells over both views of a few slices.

  Args:
    found: the artifact of stage `uncertainty`.
  """
  pictured, of = found["pictures"]["views"], found["pictures"]["at"]
  each = found["weight"][of]
  top, rows = float(each.max(initial=0)), {}
  for v in (0, 1):
    grey = [_grey(views[v]) for views in pictured]
    rows[f"view {v + 1}"] = grey
    rows[f"weights {v + 1}"] = [
      tiles.heated(image, _over(image, weight[v], found["border"].shape), top)
      for image, weight in zip(grey, each, strict=True)
    ]
  picture = tiles.grid(rows, _names(found))
  return html.Figure(
    picture,
    "Two views of evaluation slices and the weights of their cells; full orange"
    f" is the largest weight in the picture, {top:.2f}. The mean of each view"
    " is 1: cells of equal weight are equally orange.",
  )


def matched(found: Mapping) -> html.Figure:
  """Matched pairs of cells, drawn between both views of a few slices."""
  lines, pictured = [], found["pictures"]
  for index, known in zip(pictured["index"], pictured["found"], strict=True):
    own = np.flatnonzero(known[0, :, 0])
    own = own[np.linspace(0, len(own) - 1, min(LINES, len(own))).astype(int)]
    ends = np.stack([own, index[0, own, 0]], axis=1)
    cells = np.stack(np.unravel_index(ends, found["border"].shape), axis=-1)
    lines.append((cells + 0.5) / found["border"].shape)
  pairs = [tuple(map(_grey, views)) for views in pictured["views"]]
  return html.Figure(
    matches.matches(pairs, lines, _names(found)),
    f"Cells of the first view and the nearest of their pairs in the second, at"
    f" most {LINES} spread over the overlap. The same tissue lies at both ends"
    " of a line.",
  )


def by_border(found: Mapping, alike: tuple[int, ...]) -> html.Figure:
  """Uncertainty of cells by their distance to the border of their view.

  Args:
    found: the artifact.
    alike: numbers of the classes that look alike; where the marker that tells
      them apart is known, their cells are drawn with it inside and outside the
      view.
  """
  s, shape = found["uncertainty"], found["uncertainty"].shape
  border = np.broadcast_to(found["border"].reshape(-1), shape)
  kinds = {"all cells": np.ones(shape, bool)}
  marker = np.broadcast_to(found["marker"][..., None], shape)
  doubtful = np.isin(found["classes"], alike)
  kinds["look-alike classes, marker inside"] = doubtful & (marker >= VISIBLE)
  kinds["look-alike classes, marker outside"] = doubtful & (marker < VISIBLE)
  edges = np.linspace(0, border.max() * (1 + 1e-6), RINGS + 1)
  series, bands = {}, {}
  for name, cells in kinds.items():
    if cells.any():
      x, middle, low, high = _quartiles(border[cells], s[cells], edges)
      series[name], bands[name] = (x, middle), (low, high)
  picture = charts.curves(
    series,
    "uncertainty s",
    xlabel="distance to the border of the view, as a share of its side",
    bands=bands,
  )
  return html.Figure(
    picture,
    "Median and quartiles of the uncertainty of cells by their distance to the"
    " border of their own view. An uncertainty that only mirrors the crop"
    " falls with the distance, whatever the cell shows.",
  )


def _quartiles(x, y, edges) -> tuple[np.ndarray, ...]:
  """Middle of each interval of x with a value, and quartiles of y there."""
  member = np.digitize(x, edges) - 1
  rows = []
  for k in np.unique(member):
    inside = y[member == k]
    low, middle, high = np.quantile(inside, (0.25, 0.5, 0.75))
    rows.append((edges[k : k + 2].mean(), middle, low, high))
  return tuple(np.array(rows).T)


def _grey(view: np.ndarray) -> np.ndarray:
  """A standardised view as uint8[H, W, C]."""
  return stretch(view, *extremes(view))


def _over(image, weight, cells) -> np.ndarray:
  """float[H, W]: each pixel with the weight of its cell."""
  rows, columns = (
    np.arange(side) * count // side
    for side, count in zip(image.shape[:2], cells, strict=True)
  )
  return weight.reshape(cells)[rows[:, None], columns]


def _names(found) -> list[str]:
  return [str(found["ids"][k]) for k in found["pictures"]["at"]]
