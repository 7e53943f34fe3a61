"""Clouds of points: one quantity against another, maps of features."""

from typing import Any

import numpy as np

from gcl_jax.report.canvas import (
  class_colours,
  class_order,
  drawing,
  left_out,
  legend,
  name_classes,
  nothing,
  numbers,
  same_length,
  save,
)
from gcl_jax.report.style import LIGHT, MARKERS

_MANY = 2000  # points from which a cloud becomes pixels inside the SVG


def scatter(
  x: Any, y: Any, xlabel: str, ylabel: str, classes: Any = None
) -> bytes:
  """One quantity against another, a point a row.

  Args:
    x: float [N].
    y: float [N].
    xlabel: what x is.
    ylabel: what y is.
    classes: [N] strings or numbers, or None for one colour.

  Returns:
    SVG bytes.
  """
  x, y = numbers(x), numbers(y)
  names = name_classes(np.zeros(len(x)) if classes is None else classes)
  same_length(x=x, y=y, classes=names)
  good = np.isfinite(x) & np.isfinite(y)
  if not good.any():
    return nothing("no finite point")
  with drawing(400) as (figure, axes):
    _cloud(axes, np.stack((x, y), 1)[good], names[good])
    if classes is not None:
      legend(axes, markerscale=1.5)
    axes.set(xlabel=xlabel + left_out(~good), ylabel=ylabel)
    return save(figure)


def _cloud(axes: Any, points: np.ndarray, names: np.ndarray) -> None:
  """Points [N, 2] with a colour and a marker for each class."""
  order = class_order(names)
  colours = class_colours(order)
  size = 28 if len(points) < 400 else 18
  for i, kind in enumerate(order):
    rows = names == kind
    axes.scatter(
      *points[rows].T,
      s=size,
      color=colours[kind],
      marker=MARKERS[i % 6],
      alpha=0.75,
      linewidths=0,
      rasterized=len(points) > _MANY,
      label=f"{kind} (n = {rows.sum():,})",
    )


def embedding(
  points: Any, values: Any, *, kind: str = "categorical", label: str = ""
) -> bytes:
  """A map of images: points in the plane, coloured by class or by value.

  Args:
    points: float [N, 2], such as from `project_2d`.
    values: [N] classes, or numbers when `kind` is "continuous".
    kind: "categorical" or "continuous".
    label: what the colour is.

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
  """Points coloured by value; those without one are grey and beneath."""
  from matplotlib import colormaps
  from matplotlib.colors import ListedColormap

  # Without its ends viridis is seen on white as well as on near black.
  shades = ListedColormap(colormaps["viridis"](np.linspace(0.2, 0.93, 256)))
  known = np.isfinite(values)
  style = {"s": 28 if len(points) < 400 else 18}
  style |= {"linewidths": 0, "rasterized": len(points) > _MANY}
  axes.scatter(*points[~known].T, color=LIGHT["other"], alpha=0.4, **style)
  if not known.any():
    return
  order = np.argsort(values[known], kind="stable")
  shown = axes.scatter(
    *points[known][order].T, c=values[known][order], cmap=shades, **style
  )
  bar = figure.colorbar(shown, ax=axes, label=label, shrink=0.6, aspect=28)
  bar.outline.set_visible(False)
