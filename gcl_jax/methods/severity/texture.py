"""Scores without what the device explains: texture, exposure, export size.

The regression needs scores that are like those of the evaluation scans, which
no model has seen. Scans that a model was fitted to have too small an error, and
the less it generalises the smaller: a slope from them is that of the model's
memory, and for a PCA the adjusted AUROC came out too high. Hence:

1. The rows of the fit, the same for every score, are the healthy training scans
   whose score comes from models that were not fitted to them. With
   cross-fitting these are all of them.
2. Where these are fewer than `ENOUGH` for a feature (a single model, whose
   validation scans are few), all healthy training scans are used, and a score
   that models were fitted to must pass a guard: its mean over those left out
   (never evaluation scans) lies within `TOLERANCE` of its mean over those that
   the model was fitted to. Of scores that are logarithms of errors, that is the
   ratio of the geometric means of the errors. A score that fails, or of which
   no scan was left out, is not adjusted.
"""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.evaluation import label_free
from gcl_jax.methods.severity import folds, opponents
from gcl_jax.pipeline.prepared import Prepared

ENOUGH = 10  # left-out scans for a feature, to use no others
FEWEST = 3  # healthy training scans for a feature, to fit at all
TOLERANCE = 0.2
UNFITTED = ("edge", "brightness")  # scores without a model


class Rows(NamedTuple):
  """Rows of the regression.

  Attributes:
    fit: int[F].
    left_out: int[L], of `fit` or all of it, not seen by the models.
    seen: int[S], of `fit`, that the models were fitted to.
  """

  fit: np.ndarray
  left_out: np.ndarray
  seen: np.ndarray


def adjusted(
  images: Prepared,
  scores: dict[str, np.ndarray],
  trained: dict | None,
  config: ConfigDict,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Scores after regressing out the effects of device and exposure.

  Args:
    images: the prepared images.
    scores: float[N] by name.
    trained: artifact of stage `gradcon`, or None.
    config: `config.score`.

  Returns:
    The adjusted scores, float64[N] by name, and for every score without one the
    reason in words.
  """
  table = features(images)
  rows = rows_of(images, trained, ENOUGH * table.shape[1])
  if len(rows.fit) < FEWEST * table.shape[1]:
    reason = (
      f"{len(rows.fit)} healthy training scans are too few for"
      f" {table.shape[1]} features"
    )
    return {}, dict.fromkeys(scores, reason)
  found, reasons = {}, {}
  for name, score in scores.items():
    if not _needs_guard(name, config.source):
      reason = ""
    else:
      reason = refusal(score, rows, _is_log(name, config))
    if reason:
      reasons[name] = reason
    else:
      found[name] = label_free.regress_out(score, table, rows.fit)
  return found, reasons


def features(images: Prepared) -> np.ndarray:
  """Features of the device, float64[N, F]: those of the stored image, and the
  size of the exported file where every image has one."""
  columns = [images.artifact["texture"]]
  for name in ("source_width", "source_height"):
    if name in images.table:
      columns.append(np.asarray(images.table[name], float)[:, None])
  table = np.concatenate(columns, 1)
  # Export sizes may be missing, in the second data set or in single rows.
  return table[:, np.isfinite(table).all(0)]


def rows_of(images: Prepared, trained: dict | None, enough: int) -> Rows:
  """Rows of the regression.

  Args:
    images: the prepared images.
    trained: artifact of stage `gradcon`; None: no model says what it has seen,
      and no scan counts as left out.
    enough: number of left-out scans from which no others are used.
  """
  healthy = images.healthy & images.part("train")
  seen = healthy
  if trained is not None:
    held_out = opponents.validation_rows(trained)
    seen = healthy & folds.seen_by_its_scorer(trained["fold"], held_out)
  left_out = np.flatnonzero(healthy & ~seen)
  if len(left_out) >= enough:
    return Rows(left_out, left_out, np.array([], int))
  return Rows(np.flatnonzero(healthy), left_out, np.flatnonzero(seen))


def refusal(score: np.ndarray, rows: Rows, log: bool) -> str:
  """Why a score of fitted models is not adjusted; empty if it is.

  Args:
    score: float[N].
    rows: of the regression.
    log: whether the score is the logarithm of an error.
  """
  if not len(rows.seen):
    return ""
  if not len(rows.left_out):
    return "no healthy training scan is known to be left out by its models"
  means = score[rows.left_out].mean(), score[rows.seen].mean()
  left_out, seen = (np.exp(means[0] - means[1]), 1.0) if log else means
  if abs(left_out - seen) <= TOLERANCE * abs(seen):
    return ""
  return (
    f"its mean is {means[0]:.3g} over {len(rows.left_out)} healthy scans that"
    f" no model was fitted to and {means[1]:.3g} over {len(rows.seen)} others:"
    f" more than {100 * TOLERANCE:.0f} % apart"
  )


def _needs_guard(name: str, source: str) -> bool:
  fitted = name not in UNFITTED
  return fitted and not (name == "severity" and source == "random")


def _is_log(name: str, config: ConfigDict) -> bool:
  """Whether a score is a logarithm of the error, up to the gradient term."""
  if name == "severity" and config.source == "autoencoder":
    return config.pooling == "layers" and config.mode != "grad"
  return name == "pca_layers"
