"""Charts over an axis: spreads, curves, bin sizes."""

from collections.abc import Mapping
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
  reference_line,
  same_length,
  save,
)
from gcl_jax.report.style import DASHES, LIGHT, SERIES, clean


def histogram_by_class(
  scores: Any,
  classes: Any = None,
  edges: Any = None,
  *,
  xlabel: str = "score",
) -> bytes:
  """How scores spread in each class: one row a class over a common scale.

  Heights are shares of the class, so that a rare class can be read.

  Args:
    scores: float [N]; not finite ones are left out and counted.
    classes: [N] strings or numbers, NaN or "" for none; None: one class.
    edges: float [K], drawn as lines across all rows (bin edges).
    xlabel: what a score is.

  Returns:
    SVG bytes.
  """
  scores = numbers(scores)
  plain = classes is None
  names = name_classes(np.zeros(len(scores)) if plain else classes)
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
      axes.stairs(share, cells, fill=True, color=colours[kind], alpha=0.25)
      axes.stairs(share, cells, color=colours[kind], linewidth=1.6)
      median = np.median(values)
      axes.axvline(median, color=colours[kind], linewidth=1.6, ymax=0.9)
      _edge_lines(axes, edges)
      _row_title(axes, "all images" if plain else kind, len(values), median)
    axes.set_ylim(0, 1.15 * np.max(shares))
    figure.supylabel("share of the class", fontsize=12, color=LIGHT["muted"])
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


def _edge_lines(axes: Any, edges: Any) -> None:
  for edge in [] if edges is None else numbers(edges):
    if np.isfinite(edge):
      axes.axvline(edge, color=LIGHT["muted"], linewidth=1, dashes=(3, 3))


def _row_title(axes: Any, kind: str, count: int, median: float) -> None:
  axes.grid(axis="x", visible=False)
  axes.yaxis.set_major_locator(_ticks(2))
  axes.yaxis.set_major_formatter(_percent())
  axes.set_title(kind, pad=4)
  text = f"n = {count:,} · median {median:#.3g}"
  axes.set_title(
    text, loc="right", pad=4, color=LIGHT["muted"], weight="normal"
  )


def _ticks(count: int) -> Any:
  from matplotlib.ticker import MaxNLocator

  return MaxNLocator(count)


def _percent() -> Any:
  from matplotlib.ticker import PercentFormatter

  return PercentFormatter(1, decimals=0)


def curves(
  series: Mapping[str, tuple[Any, Any]],
  ylabel: str,
  *,
  xlabel: str = "step",
  log: bool = False,
  references: Mapping[str, float] | None = None,
) -> bytes:
  """Lines over a common x, such as losses over steps.

  Args:
    series: name -> (x [N], y [N]); a y that is not finite makes a gap.
    ylabel: what y is, with its unit.
    xlabel: what x is.
    log: logarithmic y; values of 0 or less make a gap.
    references: name -> y of a dashed line across, such as the loss of a
      constant guess.

  Returns:
    SVG bytes.
  """
  lines = {}
  for name, (x, y) in series.items():
    x, y = numbers(x), numbers(y)
    same_length(x=x, y=y)
    good = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not log))
    if good.any():
      lines[name] = x, np.where(good, y, np.nan)
  if not lines:
    return nothing("no finite point" + " above zero" * log)
  with drawing(340) as (figure, axes):
    for i, (name, (x, y)) in enumerate(lines.items()):
      lone = "o" if np.isfinite(y).sum() < 3 else ""
      dash = DASHES[i % 6]
      axes.plot(
        x, y, color=SERIES[i % 6], ls=dash, marker=lone, label=clean(name, 40)
      )
    if log:
      _log_scale(axes)
    for name, value in (references or {}).items():
      if np.isfinite(value) and (value > 0 or not log):
        reference_line(axes, value, name, "horizontal")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(x=0.02)
    if len(lines) > 1 or ylabel not in lines:
      legend(axes)
    return save(figure)


def _log_scale(axes: Any) -> None:
  """Powers of ten written out, with 2 and 5 when there are few decades."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

  axes.set_yscale("log")
  low, high = axes.get_ylim()
  between = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
  axes.yaxis.set_major_locator(LogLocator(subs=between, numticks=12))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
  axes.yaxis.set_minor_locator(NullLocator())


def bin_sizes(counts: Any, *, xlabel: str = "bin") -> bytes:
  """How many images each bin holds.

  Args:
    counts: int [K], images in bin 0, 1, ...
    xlabel: what the bins are.

  Returns:
    SVG bytes.
  """
  counts = numbers(counts)
  if not np.nansum(counts) > 0:
    return nothing("no image in any bin")
  index = np.arange(len(counts))
  with drawing(280) as (figure, axes):
    steps = np.arange(len(counts) + 1) - 0.5
    if len(counts) > 60:
      axes.stairs(counts, steps, fill=True, color=SERIES[0], alpha=0.8)
    else:
      drawn = axes.bar(index, counts, width=0.72, color=SERIES[0])
      if len(counts) <= 24:
        words = {"color": LIGHT["muted"], "fontsize": 11}
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, **words)
    axes.xaxis.set_major_locator(_whole(12))
    axes.yaxis.set_major_locator(_whole(5))
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01, y=0.1)
    axes.set(xlabel=xlabel, ylabel="images")
    return save(figure)


def _whole(count: int) -> Any:
  from matplotlib.ticker import MaxNLocator

  return MaxNLocator(count, integer=True)
