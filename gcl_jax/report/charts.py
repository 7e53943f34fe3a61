"""Charts over an axis: curves, intervals, ROC curves, bin sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import (
  GREY,
  INK,
  MUTED,
  SERIES,
  drawing,
  legend,
  nothing,
  numbers,
  of_classes,
  same_length,
  save,
)
from gcl_jax.report.words import clean

DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)), "-", (0, (4, 2)))


def curves(
  series: Mapping[str, tuple[Any, Any]],
  ylabel: str,
  *,
  xlabel: str = "step",
  log: bool = False,
  references: Mapping[str, float] | None = None,
  bands: Mapping[str, tuple[Any, Any]] | None = None,
  ticks: Mapping[float, str] | None = None,
) -> bytes:
  """Draws lines over a common x, such as losses over steps.

  Args:
    series: name -> (x [N], y [N]); a y that is not finite makes a gap.
    bands: name -> (low [N], high [N]) of a shaded area about a line, such as
      its intervals; a gap where one is not finite.
    ticks: x -> words below it, instead of numbers; points are then marked.
    ylabel: name of y, with its unit.
    xlabel: name of x.
    log: logarithmic y; values of 0 or less make a gap.
    references: name -> y of a dashed line across, such as the loss of a
      constant guess.

  Returns:
    SVG bytes.

  Raises:
    ValueError: an x and its y or band differ in length.
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
      marker = "o" if ticks or np.isfinite(y).sum() < 3 else ""
      axes.plot(x, y, marker=marker, label=clean(name, 40), **_line(i))
      if name in (bands or {}):
        _band(axes, x, bands[name], _line(i)["color"])
    if log:
      _log_scale(axes)
    for name, value in (references or {}).items():
      if np.isfinite(value) and (value > 0 or not log):
        _reference_line(axes, value, name, "horizontal")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(x=0.02)
    if ticks:
      axes.set_xticks(list(ticks), [clean(w, 20) for w in ticks.values()])
    if len(lines) > 1 or ylabel not in lines:
      legend(axes)
    return save(figure)


def _band(axes: Any, x: np.ndarray, band: tuple, colour: str) -> None:
  """Shades between low and high, with a bar where a point is alone."""
  low, high = map(numbers, band)
  same_length(x=x, low=low, high=high)
  axes.fill_between(x, low, high, color=colour, alpha=0.07, linewidth=0)
  axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.7)


def _line(i: int) -> dict[str, Any]:
  """Colour and dashes of line number i."""
  dashes = (i + i // len(SERIES)) % len(DASHES)
  return {"color": SERIES[i % len(SERIES)], "ls": DASHES[dashes]}


def _log_scale(axes: Any) -> None:
  """Writes powers of ten out, with 2 and 5 when there are few decades."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

  axes.set_yscale("log")
  low, high = axes.get_ylim()
  between = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
  axes.yaxis.set_major_locator(LogLocator(subs=between, numticks=12))
  axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
  axes.yaxis.set_minor_locator(NullLocator())


def _reference_line(axes: Any, value: float, name: str, way: str) -> None:
  """Draws a labelled dashed line through the axes."""
  style = {"color": MUTED, "linewidth": 1.2, "dashes": (4, 3)}
  words = {"textcoords": "offset points", "color": MUTED, "fontsize": 11.5}
  if way == "horizontal":
    axes.axhline(value, **style)
    at, words["xytext"], words["ha"] = (1, value), (-2, 5), "right"
    place = axes.get_yaxis_transform()
  else:
    axes.axvline(value, **style)
    at, words["xytext"], words["ha"] = (value, 1), (0, 4), "center"
    place = axes.get_xaxis_transform()
  axes.annotate(clean(name, 40), at, xycoords=place, **words)


def bars(
  values: Mapping[str, Mapping[str, Any]],
  *,
  xlabel: str = "",
  highlight: str | Sequence[str] = (),
  reference: tuple[str, float] | None = None,
) -> bytes:
  """Draws values with their intervals, one row each, in the order given.

  A dot with a line for the interval instead of a bar from zero: the scale
  need not start at zero.

  Args:
    values: name -> {"value", "low", "high"}, each a number or None; low and
      high may be absent.
    xlabel: name of the values.
    highlight: the name or names drawn in colour; without, all are.
    reference: (name, x) of a dashed line, such as chance.

  Returns:
    SVG bytes.
  """
  names = list(values)
  keys = ("low", "value", "high")
  table = numbers([[values[n].get(k) for k in keys] for n in names])
  table = table.reshape(-1, 3)
  if not np.isfinite(table[:, 1]).any():
    return nothing("no defined value")
  chosen = {highlight} if isinstance(highlight, str) else set(highlight)
  with drawing(84 + 32 * len(names)) as (figure, axes):
    for i, (low, value, high) in enumerate(table):
      strong = not chosen or names[i] in chosen
      colour = SERIES[0] if strong else GREY
      axes.plot((low, high), (i, i), color=colour, lw=3, alpha=0.45)
      axes.plot(value, i, "o", color=colour, ms=8)
      _row_value(axes, i, low, value, high, strong and bool(chosen))
    if reference is not None:
      _reference_line(axes, reference[1], reference[0], "vertical")
    axes.set_yticks(range(len(names)), [clean(n, 44) for n in names])
    axes.tick_params("y", length=0, labelcolor=INK, pad=8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=xlabel)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.04)
    return save(figure)


def _row_value(axes: Any, i: int, low, value, high, strong: bool) -> None:
  """Writes the numbers of one row to the right of the axes."""
  text = f"{value:.3f}" if np.isfinite(value) else "undefined"
  if np.isfinite(low) and np.isfinite(high):
    text += f" [{low:.3f}, {high:.3f}]"
  axes.annotate(
    text,
    (1, i),
    xycoords=axes.get_yaxis_transform(),
    xytext=(14, 0),
    textcoords="offset points",
    va="center_baseline",
    weight="bold" if strong else "normal",
    color=INK if np.isfinite(value) else MUTED,
  )


def roc(series: Mapping[str, tuple[Any, Any]]) -> bytes:
  """Draws ROC curves with the area under each in the legend.

  Args:
    series: name -> (truth, score), as `roc_points` takes them; a curve with
      a single class is undefined.

  Returns:
    SVG bytes, 460 pixels wide.

  Raises:
    ValueError: lengths differ, or truth holds other values than 0 and 1.
  """
  found = {name: roc_points(*pair) for name, pair in series.items()}
  if all(area is None for _, _, area in found.values()):
    return nothing("a ROC curve needs both classes")
  with drawing(440 + 20 * len(found), 460) as (figure, axes):
    axes.plot((0, 1), (0, 1), color=MUTED, lw=1.2, dashes=(4, 3))
    for i, (name, (fpr, tpr, area)) in enumerate(found.items()):
      value = "undefined" if area is None else f"{area:.3f}"
      label = f"{clean(name, 30)} · {value}"
      axes.plot(fpr, tpr, label=label, clip_on=False, zorder=3, **_line(i))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    legend(axes, 1)
    return save(figure)


def roc_points(truth: Any, score: Any) -> tuple[Any, Any, float | None]:
  """Computes the exact ROC curve; tied scores make one slanted step.

  Args:
    truth: 0 or 1 [N].
    score: float [N], larger for class 1; pairs with a NaN are left out.

  Returns:
    (false positive rate [P], true positive rate [P], area). With a single
    class the rates are empty and the area is None.

  Raises:
    ValueError: lengths differ, or truth holds other values than 0 and 1.
  """
  from sklearn.metrics import auc, roc_curve

  truth, score = of_classes(truth, score)
  if len(np.unique(truth)) < 2:
    return (), (), None
  rank = np.unique(score, return_inverse=True)[1]  # admits infinite scores
  fpr, tpr, _ = roc_curve(truth, rank, drop_intermediate=False)
  return fpr, tpr, float(auc(fpr, tpr))


def bin_sizes(counts: Any) -> bytes:
  """Draws the number of images in each bin.

  Args:
    counts: int [K], images in bin 0, 1, ...

  Returns:
    SVG bytes.
  """
  from matplotlib.ticker import MaxNLocator

  counts = numbers(counts)
  if not np.nansum(counts) > 0:
    return nothing("no image in any bin")
  with drawing(280) as (figure, axes):
    if len(counts) > 60:
      steps = np.arange(len(counts) + 1) - 0.5
      axes.stairs(counts, steps, fill=True, color=SERIES[0], alpha=0.8)
    else:
      drawn = axes.bar(range(len(counts)), counts, width=0.72, color=SERIES[0])
      if len(counts) <= 24:
        words = {"color": MUTED, "fontsize": 11}
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, **words)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.01, y=0.1)
    axes.set(xlabel="bin", ylabel="images")
    return save(figure)
