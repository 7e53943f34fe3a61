"""Bins of scores by fixed rules, and statistics of bins in a batch."""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from gcl_jax.errors import ConfigError, DataError

# Beyond this, range * number of bins overflows float64.
_LARGEST = 1e300


class Bins(NamedTuple):
  """Pseudo-labels and their rule.

  Attributes:
    labels: int32[N], 0 is the bin of the lowest scores. Numbers of empty bins
      do not occur.
    edges: float64[K + 1], rising; bin k is (edges[k], edges[k + 1]], and the
      first bin also holds edges[0].
    rule: "equal_width", "equal_count" or "from_edges".
    requested: K, the number of bins asked for.
    reason: a sentence for the report on this rule and this K.
  """

  labels: np.ndarray
  edges: np.ndarray
  rule: str
  requested: int
  reason: str


def equal_width(scores: np.ndarray, bins: int) -> Bins:
  """K intervals of equal width over [min, max] of the pool.

  With w = (max - min) / K, bin(x) = max(0, ceil((x - min) / w) - 1), the rule
  of the authors' released tables. One far outlier can squeeze all other images
  into one bin: see `describe`.

  Args:
    scores: float[N], the pool the edges are fitted on.
    bins: K >= 2; more than N leave bins empty.

  Raises:
    DataError: a score is not finite, or all are equal.

  Example:
    >>> equal_width(np.array([0.0, 1.0, 2.0, 4.0]), 2).labels
    array([0, 0, 0, 1], dtype=int32)
  """
  scores = fit_scores(scores, bins)
  low, high = scores.min(), scores.max()
  # Multiplying before dividing makes representable edges exact, so that an
  # integer score on an edge falls in the bin below it.
  edges = low + (high - low) * np.arange(bins + 1) / bins
  edges[-1] = high
  labels = _assign(scores, edges)
  reason = f"{bins} bins of equal width {(high - low) / bins:.4g}, as asked"
  return Bins(labels, edges, "equal_width", bins, reason)


def equal_count(scores: np.ndarray, bins: int) -> Bins:
  """K bins of about N / K images: bin = floor(rank * K / N).

  The rank (0 .. N - 1) is that of a stable sort; tied scores take the rank of
  the first of them, so that they share a bin. An increasing map of the scores
  does not change the labels. Many ties leave some bins empty.

  Args:
    scores: float[N], the pool the edges are fitted on.
    bins: K >= 2; more than N leave bins empty.

  Raises:
    DataError: a score is not finite, or all are equal.

  Example:
    >>> equal_count(np.array([0.1, 9.0, 0.3, 0.2]), 2).labels
    array([0, 1, 1, 0], dtype=int32)
  """
  scores = fit_scores(scores, bins)
  ordered = np.sort(scores, kind="stable")
  ranks = np.searchsorted(ordered, scores, side="left")
  labels = (ranks * bins // len(scores)).astype(np.int32)
  # The upper edge of a bin is the largest score in it or in any bin below.
  below = np.searchsorted(np.sort(labels), np.arange(1, bins + 1), side="left")
  edges = np.concatenate([ordered[:1], ordered[below - 1]])
  reason = f"{bins} bins of about {len(scores) / bins:.1f} images, as asked"
  return Bins(labels, edges, "equal_count", bins, reason)


def from_edges(scores: np.ndarray, edges: np.ndarray) -> Bins:
  """Labels of scores by edges fitted on the pre-training pool.

  Args:
    scores: float[N]; values beyond the edges go to the first or last bin.
    edges: float[K + 1], rising (equal neighbours make an empty bin), K >= 1.

  Raises:
    DataError: a score or an edge is not finite, or an edge is below the one
      before.

  Example:
    >>> from_edges(np.array([-5.0, 1.5, 99.0]), np.array([0.0, 1, 2])).labels
    array([0, 1, 1], dtype=int32)
  """
  scores = _finite_scores(scores)
  edges = np.asarray(edges, np.float64)
  if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all():
    raise DataError(
      f"bin edges must be two or more finite numbers, got shape {edges.shape}"
    )
  if (np.diff(edges) < 0).any():
    raise DataError("bin edges must rise from first to last")
  bins = len(edges) - 1
  reason = f"{bins} bins with edges fitted on another pool"
  return Bins(_assign(scores, edges), edges, "from_edges", bins, reason)


def describe(bins: Bins, batch_size: int) -> dict[str, float | int]:
  """Statistics of the bins in a random batch, to be reported with each result.

  With n_b images in bin b of a pool of P, an anchor in a batch of B images
  drawn without replacement expects (B - 1) * sum_b n_b (n_b - 1) / (P (P - 1))
  other images of its own bin.

  Args:
    bins: the result of a rule of this module.
    batch_size: B, at most P is used.

  Returns:
    `images` P, `requested` and `occupied` bins, `largest` (images in the
    largest bin) and `largest_share` in (0, 1], `expected_positives` as above,
    `anchors_with_positive` in [0, 1]: share of anchors with at least one.
  """
  counts = np.bincount(bins.labels)
  counts = counts[counts > 0]
  total, drawn = len(bins.labels), min(batch_size, len(bins.labels)) - 1
  return {
    "images": total,
    "requested": bins.requested,
    "occupied": len(counts),
    "largest": int(counts.max()),
    "largest_share": float(counts.max() / total),
    "expected_positives": expected_positives(bins.labels, batch_size),
    "anchors_with_positive": _with_positive(counts, total, drawn),
  }


def expected_positives(labels: np.ndarray, batch_size: int) -> float:
  """Expected same-bin images per anchor for int labels [P], see `describe`."""
  counts, total = np.bincount(labels).astype(np.float64), len(labels)
  if total < 2:
    return 0.0
  pairs = np.sum(counts * (counts - 1)) / (total * (total - 1.0))
  return float((min(batch_size, total) - 1) * pairs)


def _with_positive(counts: np.ndarray, total: int, drawn: int) -> float:
  """Mean over anchors of 1 - C(P - n_b, B - 1) / C(P - 1, B - 1)."""
  others = (total - counts).astype(np.float64)  # images of other bins
  possible = others >= drawn
  rest = np.where(possible, others - drawn, 0)
  log_none = gammaln(others + 1) - gammaln(rest + 1)
  log_none -= gammaln(total) - gammaln(total - drawn)
  none = np.where(possible, np.exp(np.minimum(log_none, 0)), 0)
  return float(1 - np.sum(counts * none) / total)


def _finite_scores(scores: np.ndarray) -> np.ndarray:
  """Scores as a float64 vector; raises DataError if one is not finite."""
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 1 or not len(scores):
    raise DataError(f"scores must be a non-empty vector, got {scores.shape}")
  bad = np.flatnonzero(~np.isfinite(scores))
  if len(bad):
    rows = ", ".join(map(str, bad[:5]))
    raise DataError(
      f"{len(bad)} of {len(scores)} scores are NaN or infinite (rows {rows}"
      f"{', ...' if len(bad) > 5 else ''}): drop these images before binning"
    )
  return scores


def fit_scores(scores: np.ndarray, bins: int) -> np.ndarray:
  """Scores in float64, checked for fitting edges.

  Raises:
    DataError: a score is not finite or beyond 1e300, or all are equal.
    ConfigError: there are fewer than 2 bins.
  """
  scores = _finite_scores(scores)
  if bins < 2:
    raise ConfigError(f"the number of bins must be 2 or more, got {bins}")
  if scores.min() == scores.max():
    raise DataError(
      f"1 distinct value for {bins} bins: all {len(scores)} scores are"
      f" {scores[0]:.6g}; look at the score stage"
    )
  if np.abs(scores).max() > _LARGEST:
    raise DataError(
      f"scores from {scores.min():.6g} to {scores.max():.6g} are too large to"
      " bin; look at the score stage"
    )
  return scores


def _assign(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
  labels = np.searchsorted(edges, scores, side="left") - 1
  return np.clip(labels, 0, len(edges) - 2).astype(np.int32)
