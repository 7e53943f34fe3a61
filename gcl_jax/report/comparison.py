"""Charts that set classifiers side by side: ROC curves, intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcl_jax.report.canvas import (
  drawing,
  legend,
  nothing,
  numbers,
  reference_line,
  same_length,
  save,
)
from gcl_jax.report.style import DASHES, LIGHT, SERIES, clean


def roc_points(
  truth: Any, score: Any
) -> tuple[np.ndarray, np.ndarray, float | None]:
  """The exact ROC curve; tied scores make one slanted step.

  Args:
    truth: 0 or 1 [N].
    score: float [N], larger for class 1; pairs with a NaN are left out.

  Returns:
    (false positive rate [P], true positive rate [P], area). With a single
    class the rates are empty and the area is None.

  Raises:
    ValueError: lengths differ, or truth holds other values than 0 and 1.
  """
  truth, score = numbers(truth), numbers(score)
  same_length(truth=truth, score=score)
  good = ~(np.isnan(truth) | np.isnan(score))
  truth, score = truth[good], score[good]
  if not np.isin(truth, (0, 1)).all():
    raise ValueError("truth must be 0 or 1")
  positives = truth.sum()
  if positives in (0, len(truth)):
    return np.empty(0), np.empty(0), None
  order = np.argsort(-score, kind="stable")
  truth, score = truth[order], score[order]
  last = np.append(np.diff(score) != 0, True)  # the end of each tie
  hits = np.append(0, np.cumsum(truth)[last])
  alarms = np.append(0, np.cumsum(1 - truth)[last])
  tpr, fpr = hits / positives, alarms / (len(truth) - positives)
  return fpr, tpr, float(np.trapezoid(tpr, fpr))


def roc(
  series: Mapping[str, tuple[Any, Any]],
  values: Mapping[str, str] | None = None,
) -> bytes:
  """ROC curves with the area under each in the legend.

  Args:
    series: name -> (truth 0/1 [N], score [N]).
    values: name -> words shown in place of the area computed here, such as
      one with its interval.

  Returns:
    SVG bytes, square.
  """
  found = {name: roc_points(*pair) for name, pair in series.items()}
  if all(area is None for _, _, area in found.values()):
    return nothing("a ROC curve needs both classes")
  words = {
    n: "undefined" if f[2] is None else f"{f[2]:.3f}" for n, f in found.items()
  }
  words |= {n: v for n, v in (values or {}).items() if n in found}
  with drawing(440 + 20 * len(found), 460) as (figure, axes):
    axes.plot((0, 1), (0, 1), color=LIGHT["muted"], lw=1.2, dashes=(4, 3))
    for i, (name, (fpr, tpr, _)) in enumerate(found.items()):
      axes.plot(
        fpr,
        tpr,
        color=SERIES[i % 6],
        ls=DASHES[i % 6],
        label=f"{clean(name, 30)} · {clean(words[name], 30)}",
        clip_on=False,
        zorder=3,
      )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    legend(axes, 1)
    return save(figure)


def bars(
  values: Mapping[str, Mapping[str, Any]],
  *,
  xlabel: str = "",
  highlight: str | Sequence[str] = (),
  reference: tuple[str, float] | None = None,
) -> bytes:
  """Values with their intervals, one row each, in the order given.

  A dot with a line for the interval, not a bar from zero: the scale need
  not start at zero.

  Args:
    values: name -> {"value", "low", "high"}, each a number or None; low and
      high may be absent.
    xlabel: what the values are.
    highlight: the name or names drawn in colour; without, all are.
    reference: (name, x) of a dashed line, such as chance.

  Returns:
    SVG bytes.
  """
  names = list(values)
  table = np.asarray(
    [
      [_number(values[n].get(k)) for k in ("low", "value", "high")]
      for n in names
    ]
  ).reshape(-1, 3)
  if not np.isfinite(table[:, 1]).any():
    return nothing("no defined value")
  chosen = {highlight} if isinstance(highlight, str) else set(highlight)
  with drawing(84 + 32 * len(names)) as (figure, axes):
    for i, (low, value, high) in enumerate(table):
      strong = not chosen or names[i] in chosen
      colour = SERIES[0] if strong else LIGHT["other"]
      if np.isfinite(low) and np.isfinite(high):
        axes.plot((low, high), (i, i), color=colour, lw=3, alpha=0.45)
      axes.plot(value, i, "o", color=colour, ms=8)
      _row_value(axes, i, low, value, high, strong and bool(chosen))
    if reference is not None:
      reference_line(axes, reference[1], reference[0], "vertical")
    axes.set_yticks(range(len(names)), [clean(n, 44) for n in names])
    axes.tick_params("y", length=0, labelcolor=LIGHT["ink"], pad=8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=xlabel)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.04)
    return save(figure)


def _number(value: Any) -> float:
  return float("nan") if value is None else float(value)


def _row_value(axes: Any, i: int, low, value, high, strong: bool) -> None:
  """The numbers of one row, right of the axes."""
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
    color=LIGHT["ink"] if np.isfinite(value) else LIGHT["muted"],
  )
