"""What the uncertainty of cells goes along with: figures of stage uncertainty.

The question of the method is whether uncertainty s marks cells whose context
is missing. On the phantom that is known: two organs look alike, and a marker
(the bar) tells them apart. A useful s is large where the marker lies outside
the view, and stays so at equal distance from the view's border and equal
number of matches, which an s that only mirrors the crop does not.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gcl_jax.evaluation import intervals, weighted
from gcl_jax.pipeline.gains import count

_BLOCK = 2_000_000  # weights held at once
VISIBLE = 0.5  # share of the marker inside a view from which it is seen
NAMES = (
  *("uncertainty_rank", "uncertainty_rank_partial", "border_rank"),
  *("error_rank", "gap", "weight_spread", "unmatched"),
)


class Figure(NamedTuple):
  """A figure on all evaluation patients and without each of them.

  Attributes:
    values: float64[1 + G], the first of all.
    support: what it rests on.
    scale: of its interval, as for `intervals.interval`.
  """

  values: np.ndarray
  support: intervals.Support
  scale: str


def metrics(found: Mapping, alike: tuple[int, ...]) -> dict[str, dict]:
  """`pixel/...` -> entry; its value is None where the data cannot tell.

  Args:
    found: the artifact of stage `uncertainty`.
    alike: numbers of the classes that look alike.
  """
  made = figures(found, alike)
  entries = {
    name: intervals.interval(*made[name]) if name in made else count(None, 0)
    for name in NAMES
  }
  for name, value in found.get("collapse", {}).items():
    entries[name] = count(float(np.mean(value)), len(found["ids"]))
  return {f"pixel/{name}": entry for name, entry in entries.items()}


def figures(found: Mapping, alike: tuple[int, ...]) -> dict[str, Figure]:
  """The figures that these cells allow, by name.

  Args:
    found, alike: as for `metrics`.

  Returns:
    uncertainty_rank: Spearman's correlation of s with the marker being outside
      the view, over the cells of look-alike classes.
    uncertainty_rank_partial: the same, the border distance and the number of
      matches held fixed (`weighted.partial_spearman`).
    border_rank: of s with the distance to the view's border, all cells.
    error_rank: of s with the distance d of matched pairs, matched cells.
    gap: mean |S(P) - P|; weight_spread: standard deviation of the weights,
      whose mean in a view is 1; unmatched: share of views without any pair.
  """
  if not len(found["ids"]):
    return {}
  s, shape = found["uncertainty"], found["uncertainty"].shape
  border = np.broadcast_to(found["border"].reshape(-1), shape)
  every, matched = np.ones(shape, bool), found["matches"] > 0
  marker = np.broadcast_to(found["marker"][..., None], shape)
  doubtful = np.isin(found["classes"], alike) & np.isfinite(marker)
  outside = (marker < VISIBLE).astype(float)
  made = {
    "border_rank": _rank(found, every, s, border),
    "error_rank": _rank(found, matched, s, found["error"]),
    "gap": _mean(found, found["gap"].mean(-1)),
    "weight_spread": _deviation(found, found["weight"]),
    "unmatched": _mean(found, (~matched).all(-1).astype(float), "logit"),
  }
  if doubtful.any():
    made["uncertainty_rank"] = _rank(found, doubtful, s, outside, sides=True)
    made["uncertainty_rank_partial"] = _rank(
      found, doubtful, s, outside, border, found["matches"], sides=True
    )
  return {
    name: figure for name, figure in made.items() if figure.support.rows > 0
  }


def _rank(found, cells, first, second, *controls, sides=False) -> Figure:
  """Rank correlation over some cells; `sides`: the second is of 1 and 0."""
  first, second, *controls = (
    np.asarray(values, np.float64)[cells]
    for values in (first, second, *controls)
  )

  def correlation(weights):
    if controls:
      return weighted.partial_spearman(first, second, controls, weights)
    return weighted.spearman(first, second, weights)

  image = np.nonzero(cells)[0]
  support = _support(found, image, second if sides else None)
  return Figure(_left_out(found, image, correlation), support, "fisher")


def _mean(found, values, scale="plain") -> Figure:
  """Mean over views of values float[n, 2]."""
  image, flat = np.nonzero(np.ones(values.shape))[0], values.ravel()

  def mean(weights):
    with np.errstate(invalid="ignore"):  # 0 / 0 without the only patient
      return weights @ flat / weights.sum(1)

  return Figure(_left_out(found, image, mean), _support(found, image), scale)


def _deviation(found, values) -> Figure:
  """Root of the mean squared distance to 1 of values float[n, 2, L]."""
  mean = _mean(found, ((values - 1.0) ** 2).mean(-1))
  return mean._replace(values=np.sqrt(mean.values))


def _support(found, image, labels=None) -> intervals.Support:
  """What rows of these images rest on."""
  return intervals.support_of(np.asarray(found["groups"])[image], labels)


def _left_out(found, image: np.ndarray, value: Callable) -> np.ndarray:
  """float64[1 + G]: a figure on all rows and without each patient of the stage,
  whether it has such rows or not.

  Args:
    found: the artifact.
    image: int[R], the image of every row.
    value: weights float64[S, R] -> float64[S].
  """
  if not len(image):
    return np.full(1, np.nan)
  size = max(1, _BLOCK // len(image))

  def of_images(weights):
    starts = range(0, len(weights), size)
    parts = [value(weights[k : k + size][:, image]) for k in starts]
    return {"": np.concatenate(parts)}

  groups = np.asarray(found["groups"])
  return intervals.leave_one_out(of_images, len(groups), groups)[""]
