"""Distributions of images by class: histograms, scatter plots, feature maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import (
  GREY,
  MUTED,
  SERIES,
  drawing,
  left_out,
  legend,
  nothing,
  numbers,
  same_length,
  save,
)
from gcl_jax.report.words import clean

OTHER = "other classes"
MISSING = "no class"
MARKERS = ("o", "s", "^", "D", "v", "P")

_MANY = 2000  # points from which a cloud becomes pixels inside the SVG


def histogram_by_class(
  scores: Any, classes: Any, edges: Any = None, *, xlabel: str = "score"
) -> bytes:
  """Draws the scores of each class, one row a class over a common scale.

  Heights are shares of the class, so that a rare class can be read.

  Args:
    scores: float [N]; values that are not finite are left out and counted.
    classes: [N] strings or numbers, NaN or "" for none.
    edges: float [K], drawn as lines across all rows (bin edges), or None.
    xlabel: name of the score.

  Returns:
    SVG bytes.

  Raises:
    ValueError: scores and classes differ in length.
  """
  scores, names = numbers(scores), name_classes(classes)
  same_length(scores=scores, classes=names)
  good = np.isfinite(scores)
  if not good.any():
    return nothing("no finite score")
  order = class_order(names[good])
  colours, cells = class_colours(order), _cells(scores[good])
  groups = [scores[good & (names == kind)] for kind in order]
  shares = [np.histogram(group, cells)[0] / len(group) for group in groups]
  with drawing(90 + 84 * len(order) + 60 * (len(order) == 1)) as (figure, _):
    figure.clear()
    rows = figure.subplots(len(order), sharex=True, sharey=True, squeeze=False)
    for axes, kind, values, share in zip(
      rows[:, 0], order, groups, shares, strict=True
    ):
      _histogram(axes, share, cells, np.median(values), colours[kind])
      _edge_lines(axes, edges)
      _row_title(axes, kind, len(values), np.median(values))
    axes.set_ylim(0, 1.15 * np.max(shares))
    figure.supylabel("share of the class", fontsize=12, color=MUTED)
    axes.set_xlabel(xlabel + left_out(~good))
    return save(figure)


def _cells(values: np.ndarray) -> np.ndarray:
  """Histogram edges: 12 to 50 cells over the values."""
  low, high = values.min(), values.max()
  if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
    pad = abs(low) * 0.05 or 0.5
    return np.linspace(low - pad, low + pad, 22)
  count = (
    len(np.histogram_bin_edges(values, "fd")) - 1 if len(values) > 1 else 1
  )
  return np.linspace(low, high, int(np.clip(count, 12, 50)) + 1)


def _histogram(axes: Any, share, cells, median: float, colour: str) -> None:
  axes.stairs(share, cells, fill=True, color=colour, alpha=0.25)
  axes.stairs(share, cells, color=colour, linewidth=1.6)
  axes.axvline(median, color=colour, linewidth=1.6, ymax=0.9)


def _edge_lines(axes: Any, edges: Any) -> None:
  for edge in [] if edges is None else numbers(edges):
    if np.isfinite(edge):
      axes.axvline(edge, color=MUTED, linewidth=1, dashes=(3, 3))


def _row_title(axes: Any, kind: str, count: int, median: float) -> None:
  from matplotlib.ticker import MaxNLocator, PercentFormatter

  axes.grid(axis="x", visible=False)
  axes.yaxis.set_major_locator(MaxNLocator(2))
  axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
  axes.set_title(kind, pad=4)
  text = f"n = {count:,} · median {median:#.3g}"
  axes.set_title(text, loc="right", pad=4, color=MUTED, weight="normal")


def scatter(x: Any, y: Any, xlabel: str, ylabel: str, classes: Any) -> bytes:
  """Draws one quantity against another, one point a row.

  Args:
    x: float [N].
    y: float [N].
    xlabel: name of x.
    ylabel: name of y.
    classes: [N] strings or numbers, NaN or "" for none.

  Returns:
    SVG bytes.

  Raises:
    ValueError: lengths differ.
  """
  x, y, names = numbers(x), numbers(y), name_classes(classes)
  same_length(x=x, y=y, classes=names)
  good = np.isfinite(x) & np.isfinite(y)
  if not good.any():
    return nothing("no finite point")
  with drawing(400) as (figure, axes):
    _cloud(axes, np.stack((x, y), 1)[good], names[good])
    legend(axes, markerscale=1.5)
    axes.set(xlabel=xlabel + left_out(~good), ylabel=ylabel)
    return save(figure)


def _style(points: np.ndarray) -> dict[str, Any]:
  """Size of the markers; many points become pixels inside the SVG."""
  count = len(points)
  size = 28 if count < 400 else 18
  return {"s": size, "linewidths": 0, "rasterized": count > _MANY}


def _cloud(axes: Any, points: np.ndarray, names: np.ndarray) -> None:
  """Draws points [N, 2] with a colour and a marker for each class."""
  order, style = class_order(names), _style(points)
  colours = class_colours(order)
  for i, kind in enumerate(order):
    rows = names == kind
    axes.scatter(
      *points[rows].T,
      color=colours[kind],
      marker=MARKERS[i % len(MARKERS)],
      alpha=0.75,
      label=f"{kind} (n = {rows.sum():,})",
      **style,
    )


def embedding(
  points: Any, values: Any, *, kind: str = "categorical", label: str = ""
) -> bytes:
  """Draws a map of images: points in the plane, coloured by class or value.

  Args:
    points: float [N, 2], such as from `projection.project_2d`.
    values: [N] classes, or numbers when `kind` is "continuous".
    kind: "categorical" or "continuous".
    label: name of the classes or values.

  Returns:
    SVG bytes.

  Raises:
    ValueError: another kind, lengths that differ, points not [N, 2].
  """
  points = np.asarray(points, np.float64)
  if points.ndim != 2 or points.shape[1] != 2:
    raise ValueError(f"points must be [N, 2], got {list(points.shape)}")
  if kind not in ("categorical", "continuous"):
    raise ValueError(f"kind is categorical or continuous, not {kind!r}")
  colours = name_classes(values) if kind == "categorical" else numbers(values)
  same_length(points=points, values=colours)
  good = np.isfinite(points).all(1)
  if not good.any():
    return nothing("no point in the plane")
  points, colours = points[good], colours[good]
  wide, tall = np.maximum(np.ptp(points, axis=0), 1e-12)
  height = int(np.clip(580 * tall / wide + 30, 280, 520))
  with drawing(height) as (figure, axes):
    if kind == "continuous":
      _shaded(figure, axes, points, colours, label)
    else:
      _cloud(axes, points, colours)
      words = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
      legend(axes, 1, title=label, alignment="left", markerscale=1.5, **words)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set(visible=True)
    return save(figure)


def _shaded(figure: Any, axes: Any, points, values, label: str) -> None:
  """Draws points coloured by value above those without one, in grey."""
  from matplotlib import colormaps
  from matplotlib.colors import ListedColormap

  # The palest yellow of viridis is too faint on the light plate.
  shades = ListedColormap(colormaps["viridis"](np.linspace(0, 0.93, 256)))
  known, style = np.isfinite(values), _style(points)
  axes.scatter(*points[~known].T, color=GREY, alpha=0.4, **style)
  if not known.any():
    return
  order = np.argsort(values[known], kind="stable")
  shown = axes.scatter(
    *points[known][order].T, c=values[known][order], cmap=shades, **style
  )
  bar = figure.colorbar(shown, ax=axes, label=label, shrink=0.6, aspect=28)
  bar.outline.set_visible(False)


def name_classes(classes: Any) -> np.ndarray:
  """Converts the class of each row to a short name.

  Whole numbers lose their decimals; None, NaN and "" become `MISSING`. Of
  more classes than there are colours, the smaller ones become `OTHER`.

  Args:
    classes: [N] strings or numbers.

  Returns:
    str [N].
  """
  names = np.asarray([_name(v) for v in np.asarray(classes).ravel().tolist()])
  kinds, counts = np.unique(names[names != MISSING], return_counts=True)
  if len(kinds) > len(SERIES):
    kept = kinds[np.argsort(-counts, kind="stable")[: len(SERIES) - 1]]
    names = np.where(np.isin(names, [*kept, MISSING]), names, OTHER)
  return names


def _name(value: Any) -> str:
  if value is None or value == "" or value != value:
    return MISSING
  if isinstance(value, bool | int | float) and float(value).is_integer():
    return str(int(value))
  return clean(value, 28)


def class_order(names: np.ndarray) -> list[str]:
  """Sorts the classes present: numbers, words, `OTHER`, `MISSING`."""

  def rank(kind: str) -> tuple[int, float, str]:
    if kind in (OTHER, MISSING):
      return 2, float(kind == MISSING), kind
    try:
      return 0, float(kind), kind
    except ValueError:
      return 1, 0.0, kind

  return sorted(map(str, np.unique(names)), key=rank)


def class_colours(order: Sequence[str]) -> dict[str, str]:
  """One colour for each class; `OTHER` and `MISSING` are grey."""
  return {
    kind: GREY if kind in (OTHER, MISSING) else SERIES[i % len(SERIES)]
    for i, kind in enumerate(order)
  }
