"""Choice of the number of bins from the scores."""

import numpy as np

from gcl_jax.binning.rules import (
  Bins,
  equal_count,
  equal_width,
  expected_positives,
  fit_scores,
)
from gcl_jax.errors import DataError

# Limits of `choose` on the expected same-bin images per anchor. Below one the
# typical anchor has no positive except its second view, and SupCon is SimCLR;
# above a fifth of the batch there are in effect fewer than five bins, coarser
# than the five-step clinical scale (ICDR).
MIN_POSITIVES = 1.0
MAX_POSITIVE_SHARE = 0.2


def choose(
  scores: np.ndarray,
  *,
  repeatability: np.ndarray | None = None,
  averaged: int = 1,
  batch_size: int = 64,
  min_positives: float = MIN_POSITIVES,
  max_positive_share: float = MAX_POSITIVE_SHARE,
  finest: bool = False,
) -> Bins:
  """Bins whose number follows from the scores alone, without labels.

  Target width: two scores closer than the repeatability coefficient
  1.96 * sqrt(2) * s (Bland and Altman) are indistinguishable, so narrower
  bins would sort noise. s is the within-image standard deviation of what is
  binned: s_w over models, after removing each model's offset, and s_w / sqrt(M)
  of a mean over M of them. Without `repeatability`, the Freedman-Diaconis width
  2 * IQR * N^(-1/3), the finest histogram that the number of images supports.

  Limits: the expected same-bin images per anchor (`describe`) must lie between
  `min_positives` and `max_positive_share * (batch_size - 1)`. Of the
  equal-width K inside the limits the one nearest (in ratio) to range / width is
  taken. If outliers or ties leave none, equal counts are searched in the same
  way; if that fails too, the K that misses the limits least is taken.

  Args:
    scores: float[N].
    repeatability: float[R, M], scores of R >= 2 images by M >= 2 models that
      were trained apart (cross-fitted), on the scale of `scores`.
    averaged: number of such models whose mean `scores` are, 1 for the scores of
      one.
    batch_size: B, images in a SupCon batch (all devices together).
    min_positives: lower limit on expected same-bin images per anchor.
    max_positive_share: upper limit, as a share of the B - 1 others.
    finest: ignores the width and takes the most bins inside the limits, so that
      the typical anchor has just one positive besides its second view.

  Returns:
    `Bins`, whose `reason` states the target width and the limits that applied.

  Raises:
    DataError: a score is not finite, all are equal, or shapes do not match.
    ValueError: `averaged` is less than 1.
  """
  if averaged < 1:
    raise ValueError(f"averaged must be 1 or more: {averaged}")
  scores = fit_scores(scores, 2)
  if finest:
    wanted, source = float(len(scores)), "the finest rule"
  else:
    width, source = _wanted_width(scores, repeatability, averaged)
    wanted = float(np.clip(np.ptp(scores) / width, 2, len(scores)))
  others = min(batch_size, len(scores)) - 1
  limits = (min_positives, max(min_positives, max_positive_share * others))
  found, miss = _search(equal_width, scores, wanted, batch_size, limits)
  if miss:
    other, other_miss = _search(equal_count, scores, wanted, batch_size, limits)
    if other_miss < miss:
      found, miss = other, other_miss
  return found._replace(
    reason=_reason(found, source, wanted, batch_size, limits, miss)
  )


def _wanted_width(scores, repeatability, averaged) -> tuple[float, str]:
  if repeatability is not None:
    spread, models = _within_image_sd(repeatability)
    if spread > 0:
      width = 1.96 * np.sqrt(2) * spread / np.sqrt(averaged)
      mean = f", for a mean of {averaged}" if averaged > 1 else ""
      return width, (
        f"repeatability coefficient {width:.3g} (within-image sd {spread:.3g}"
        f" over {models} models{mean})"
      )
  # If half of the images are tied, the IQR is 0: use the sd instead.
  quartiles = np.subtract(*np.quantile(scores, [0.75, 0.25]))
  spread = quartiles if quartiles > 0 else 1.349 * scores.std()
  width = 2 * spread * len(scores) ** (-1 / 3)
  return width, f"Freedman-Diaconis width {width:.3g}"


def _within_image_sd(repeated: np.ndarray) -> tuple[float, int]:
  """Residual sd of the two-way (image, model) analysis of variance."""
  repeated = np.asarray(repeated, np.float64)
  if repeated.ndim != 2 or min(repeated.shape) < 2:
    raise DataError(
      "repeatability must be [2 or more images, 2 or more models],"
      f" got {repeated.shape}"
    )
  if not np.isfinite(repeated).all():
    raise DataError("repeatability holds NaN or infinite scores")
  image = repeated.mean(1, keepdims=True)
  model = repeated.mean(0, keepdims=True)
  residual = repeated - image - model + repeated.mean()
  freedom = (len(repeated) - 1) * (repeated.shape[1] - 1)
  return float(np.sqrt(np.sum(residual**2) / freedom)), repeated.shape[1]


def _search(rule, scores, wanted, batch_size, limits) -> tuple[Bins, float]:
  """K with the least violation of the limits, then nearest to `wanted`."""
  grid = np.unique(np.geomspace(2, len(scores), 80).round().astype(int))
  grid = np.union1d(grid, [int(np.ceil(wanted))])
  best = None
  for bins in grid:
    found = rule(scores, int(bins))
    expected = expected_positives(found.labels, batch_size)
    over = max(limits[0] - expected, expected - limits[1], 0.0)
    key = (over, abs(np.log(bins / wanted)))
    if best is None or key < best[0]:
      best = key, found
  return best[1], best[0][0]


def _reason(bins, source, wanted, batch_size, limits, miss) -> str:
  expected = expected_positives(bins.labels, batch_size)
  name = bins.rule.replace("_", "-")
  text = (
    f"{bins.requested} {name} bins: {source} asks for {np.ceil(wanted):.0f};"
    f" {expected:.2f} same-bin images expected per anchor in a batch of"
    f" {batch_size} (limits {limits[0]:.3g} to {limits[1]:.3g})"
  )
  if miss:
    return f"{text}; no number of bins meets the limits"
  if bins.rule == "equal_count":
    return f"{text}; no number of equal-width bins meets the limits"
  if bins.requested != int(np.ceil(wanted)):
    return f"{text}, which moved the number of bins"
  return text
