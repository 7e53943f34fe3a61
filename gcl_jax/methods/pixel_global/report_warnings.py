"""What a reader must know before trusting a figure of Pixel-global."""

from collections.abc import Mapping

import numpy as np

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.evaluation import comparisons
from gcl_jax.methods.pixel_global.report_pretraining import histories

# Variance of unit vectors below which they are one. Pooled maps behind a ReLU
# are alike from the start: 0.01 to 0.02 on the phantom before training.
SPREAD = {"pixel": 0.01, "pooled": 0.001}
SHARE = 0.1  # of 1 / sqrt(D), below which a dimension counts as dead
DEAD = 0.5  # share of dead dimensions from which embeddings collapsed
MIRROR = 0.7  # rank correlation from which s is the border distance
EQUAL = 0.05  # standard deviation of weights below which they are one weight
UNMATCHED = 0.05  # share of images without a pair
_LAST = 3  # logged values at the end of a pre-training
# Arms whose weights are not the uncertainty, and what they take instead.
DECIDING = {
  "border": "weights by the border distance alone",
  "shuffled": "the same weights on other cells of the view",
  "deterministic": "a stabilizer of as many parameters without dropout",
}


def of_gains(metrics: Mapping[str, dict]) -> list[str]:
  """Arms without uncertainty that do as well in Dice."""
  notes = []
  for arm, words in DECIDING.items():
    found = metrics.get(f"segment/gain_over_{arm}")
    if found and not comparisons.verdict(found).startswith("above"):
      notes.append(
        f"Against arm {arm} ({words}): {results.interval(found)} in Dice,"
        f" {comparisons.verdict(found)}. This run does not show that"
        " uncertainty is worth anything."
      )
  return notes


def of_uncertainty(
  cells: Mapping, metrics: Mapping[str, dict], weighting: str
) -> list[str]:
  """Collapsed embeddings, equal weights, and an uncertainty that tells nothing
  but the place in the crop.

  Args:
    cells: the artifact of stage `uncertainty`.
    metrics: of the run.
    weighting: `pretrain.weighting`.
  """
  if not len(cells["ids"]):
    return []
  notes = collapsed(np.asarray(cells["collapse"]["deviation"]))
  spread = metrics["pixel/weight_spread"]["value"]
  if weighting not in ("", "variance") and (spread or 0) < EQUAL:
    notes.append(
      f"The weights of cells are nearly equal (standard deviation {spread:.3g}"
      " about 1): the weighting does nothing."
    )
  notes += _of_marker(metrics)
  border = metrics["pixel/border_rank"]["value"]
  if border is not None and abs(border) > MIRROR:
    notes.append(
      "Uncertainty mirrors the distance to the border of the view: their rank"
      f" correlation is {border:.2f}."
    )
  return notes


def _of_marker(metrics) -> list[str]:
  """Whether uncertainty is higher where the marker is outside, beyond what the
  crop explains; nothing without a marker."""
  partial = metrics["pixel/uncertainty_rank_partial"]
  if partial["value"] is None:
    return []
  low, high = partial["low"], partial["high"]
  if low is not None and low > 0:
    return []
  word = "is not seen to be higher"
  if high is not None and high < 0:
    word = "is lower, not higher,"
  why = "" if low is not None else "; too few patients for an interval"
  return [
    f"Uncertainty {word} where the marker is outside the view: rank correlation"
    f" {results.interval(metrics['pixel/uncertainty_rank'])}, given border"
    f" distance and number of matches {results.interval(partial)}{why}."
  ]


def collapsed(deviation: np.ndarray) -> list[str]:
  """A warning where most dimensions of pixel embeddings hardly vary.

  Args:
    deviation: float[D], standard deviations of the dimensions of unit vectors.
  """
  bound = SHARE / np.sqrt(len(deviation))
  dead = int((deviation < bound).sum())
  if dead < DEAD * len(deviation):
    return []
  return [
    f"Pixel embeddings collapsed: {dead} of {len(deviation)} dimensions have a"
    f" standard deviation below {SHARE:g} / sqrt({len(deviation)}) ="
    f" {bound:.3g}."
  ]


def of_pretraining(context: Context) -> list[str]:
  """Arms whose embeddings fell together, and images without pairs."""
  notes = []
  for arm, logged in histories(context).items():
    notes += of_history(arm, logged)
  return notes


def of_history(arm: str, logged: Mapping[str, tuple]) -> list[str]:
  """Warnings on what one arm logged.

  Args:
    arm: its name.
    logged: name -> (steps, values).
  """
  notes = []
  for kind, bound in SPREAD.items():
    if f"spread/{kind}" in logged:
      value = float(np.mean(logged[f"spread/{kind}"][1][-_LAST:]))
      if value < bound:
        notes.append(
          f"Arm {arm}: {kind} embeddings fell together, their variance is"
          f" {value:.3g} at the end."
        )
  if "unmatched" in logged:
    share = float(np.mean(logged["unmatched"][1]))
    if share > UNMATCHED:
      notes.append(
        f"Arm {arm}: {100 * share:.1f} % of the images had no pair of cells,"
        " and gave the pixel branch nothing: raise pretrain.views.crop_scale."
      )
  return notes
