"""Severity scores to pseudo-labels, and batches that keep bins together.

Host code in numpy. A bin holds the images whose scores lie in one right-closed
interval (edges[k], edges[k + 1]]; equal scores always share a bin, and
`from_edges(scores, bins.edges)` gives back `bins.labels` exactly.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from gcl_jax.errors import ConfigError, DataError

# Limits of `choose` on the expected same-bin images per anchor. With fewer
# than one the typical anchor has no positive but its own second view, and
# SupCon is SimCLR; with more than a fifth of the batch there are in effect
# fewer than five bins, coarser than the five-step clinical scale (ICDR).
MIN_POSITIVES = 1.0
MAX_POSITIVE_SHARE = 0.2


class Bins(NamedTuple):
  """Pseudo-labels and the rule that gave them.

  Attributes:
    labels: int32[N], 0 is the bin of the lowest scores. Numbers of bins that
      hold no image do not occur.
    edges: float64[K + 1], rising; bin k is (edges[k], edges[k + 1]], and the
      first bin also holds edges[0].
    rule: "equal_width", "equal_count" or "from_edges".
    requested: K, the number of bins asked for.
    reason: a sentence for the report: why this rule and this K.
  """

  labels: np.ndarray
  edges: np.ndarray
  rule: str
  requested: int
  reason: str


def equal_width(scores: np.ndarray, bins: int) -> Bins:
  """K intervals of the same width over [min, max] of the pool.

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
  scores = _fit_scores(scores, bins)
  low, high = scores.min(), scores.max()
  # Multiply before dividing: an edge that is a float comes out as that float,
  # so an integer score on an edge falls in the bin below it.
  edges = low + (high - low) * np.arange(bins + 1) / bins
  edges[-1] = high
  labels = _assign(scores, edges)
  reason = f"{bins} bins of equal width {(high - low) / bins:.4g}, as asked"
  return Bins(labels, edges, "equal_width", bins, reason)


def equal_count(scores: np.ndarray, bins: int) -> Bins:
  """K bins of about N / K images: bin = floor(rank * K / N).

  The rank (0 .. N - 1) is that of a stable sort; tied scores take the rank of
  the first of them, so that they share a bin. Any increasing map of the scores
  leaves the labels as they are. Many ties leave some bins empty.

  Args:
    scores: float[N], the pool the edges are fitted on.
    bins: K >= 2; more than N leave bins empty.

  Raises:
    DataError: a score is not finite, or all are equal.

  Example:
    >>> equal_count(np.array([0.1, 9.0, 0.3, 0.2]), 2).labels
    array([0, 1, 1, 0], dtype=int32)
  """
  scores = _fit_scores(scores, bins)
  ordered = np.sort(scores, kind="stable")
  ranks = np.searchsorted(ordered, scores, side="left")
  labels = (ranks * bins // len(scores)).astype(np.int32)
  # The upper edge of a bin is the largest score in it or in any bin below.
  below = np.searchsorted(np.sort(labels), np.arange(1, bins + 1), side="left")
  edges = np.concatenate([ordered[:1], ordered[below - 1]])
  reason = f"{bins} bins of about {len(scores) / bins:.1f} images, as asked"
  return Bins(labels, edges, "equal_count", bins, reason)


def from_edges(scores: np.ndarray, edges: np.ndarray) -> Bins:
  """Labels of any scores under edges fitted on the pre-training pool.

  Args:
    scores: float[N]; values beyond the edges go to the first or last bin.
    edges: float[K + 1], rising (equal neighbours make an empty bin), K >= 1.

  Raises:
    DataError: a score or an edge is not finite, or the edges fall.

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


def choose(
  scores: np.ndarray,
  *,
  repeatability: np.ndarray | None = None,
  batch_size: int = 64,
  min_positives: float = MIN_POSITIVES,
  max_positive_share: float = MAX_POSITIVE_SHARE,
) -> Bins:
  """Bins whose number follows from the scores alone (no label is looked at).

  The width we want: two scores nearer than the repeatability coefficient
  1.96 * sqrt(2) * s_w (Bland and Altman) cannot be told apart, so narrower bins
  would sort noise; s_w is the within-image standard deviation over models,
  each model's own offset removed. Without `repeatability`, the
  Freedman-Diaconis width 2 * IQR * N^(-1/3), the finest histogram that the
  number of images supports.

  The limits: the expected same-bin images per anchor (`describe`) must lie
  between `min_positives` and `max_positive_share * (batch_size - 1)`. Among the
  equal-width K inside the limits the nearest (in ratio) to range / width is
  taken. When outliers or ties leave none, the same search is made with equal
  counts; when that fails too, the K that misses the limits least.

  Args:
    scores: float[N].
    repeatability: float[R, M], scores of R >= 2 images by M >= 2 models that
      were trained apart (cross-fitted), on the scale of `scores`.
    batch_size: B, images in a SupCon batch (all devices together).
    min_positives: lower limit on expected same-bin images per anchor.
    max_positive_share: upper limit, as a share of the B - 1 others.

  Returns:
    `Bins` with `reason` saying which width was wanted and what moved it.

  Raises:
    DataError: a score is not finite, all are equal, or shapes do not match.
  """
  scores = _fit_scores(scores, 2)
  width, source = _wanted_width(scores, repeatability)
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


def describe(bins: Bins, batch_size: int) -> dict[str, float | int]:
  """What the bins mean for a random batch; to be reported beside each result.

  With n_b images in bin b of a pool of P, an anchor in a batch of B images
  drawn without replacement expects (B - 1) * sum_b n_b (n_b - 1) / (P (P - 1))
  other images of its own bin.

  Args:
    bins: what a rule of this module returned.
    batch_size: B; more than P counts as P.

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
    "expected_positives": _expected_positives(bins.labels, batch_size),
    "anchors_with_positive": _with_positive(counts, total, drawn),
  }


def bin_aware_batch(
  labels: np.ndarray,
  step: int,
  *,
  batch_size: int,
  images_per_bin: int,
  seed: int,
) -> np.ndarray:
  """Rows of one batch in which most anchors have same-bin positives.

  B / K bins are drawn independently, each with probability proportional to its
  size, and K images from each, so that (small bins apart) every image is seen
  equally often. A bin drawn m times gives m * K different images. What a bin
  is short of is filled from the images nearest in bin number, which keep
  their own labels. No row comes twice, and the rows are in random order. The
  batch depends on (seed, step) and `labels` only: a resumed run goes on as the
  unbroken one would have.

  Args:
    labels: int[N] >= 0, bin labels, ordered by severity.
    step: number of the training step.
    batch_size: B <= N, all devices and processes together.
    images_per_bin: K >= 1, divides B.
    seed: of the run.

  Returns:
    int64[B] rows, all different.

  Raises:
    ConfigError: K does not divide B.
    DataError: fewer images than B.
  """
  labels = np.asarray(labels)
  if images_per_bin < 1 or batch_size % images_per_bin:
    raise ConfigError(
      f"images_per_bin={images_per_bin} must divide batch_size={batch_size}"
    )
  if batch_size > len(labels):
    raise DataError(
      f"a batch of {batch_size} needs as many images, the pool has"
      f" {len(labels)}: take a smaller batch_size"
    )
  rng = np.random.default_rng((seed, step))
  counts = np.bincount(labels)
  groups = batch_size // images_per_bin
  draws = rng.multinomial(groups, counts / len(labels)) * images_per_bin
  # Only rows of drawn bins are looked at: a step must not wait for a sort of
  # the whole pool.
  rows = np.flatnonzero((draws > 0)[labels])
  free = np.ones(len(labels), bool)
  for target in np.flatnonzero(draws):
    members = rows[labels[rows] == target]
    take = min(draws[target], counts[target])
    free[rng.choice(members, take, replace=False)] = False
  for target in np.flatnonzero(draws > counts):
    _fill(free, labels, target, draws[target] - counts[target], rng)
  return rng.permutation(np.flatnonzero(~free))


def _fill(free, labels, target, missing, rng) -> None:
  """Takes the `missing` free rows nearest in label, ties at random."""
  rows = rng.permutation(np.flatnonzero(free))
  distance = np.abs(labels[rows].astype(np.int64) - int(target))
  free[rows[np.argsort(distance, kind="stable")[:missing]]] = False


def _finite_scores(scores: np.ndarray) -> np.ndarray:
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


def _fit_scores(scores: np.ndarray, bins: int) -> np.ndarray:
  scores = _finite_scores(scores)
  if bins < 2:
    raise ConfigError(f"the number of bins must be 2 or more, got {bins}")
  if scores.min() == scores.max():
    raise DataError(
      f"1 distinct value for {bins} bins: all {len(scores)} scores are"
      f" {scores[0]:.6g}; look at the score stage"
    )
  return scores


def _assign(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
  labels = np.searchsorted(edges, scores, side="left") - 1
  return np.clip(labels, 0, len(edges) - 2).astype(np.int32)


def _expected_positives(labels: np.ndarray, batch_size: int) -> float:
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


def _wanted_width(scores, repeatability) -> tuple[float, str]:
  if repeatability is not None:
    spread, models = _within_image_sd(repeatability)
    if spread > 0:
      width = 1.96 * np.sqrt(2) * spread
      return width, (
        f"repeatability coefficient {width:.3g} (within-image sd {spread:.3g}"
        f" over {models} models)"
      )
  # Half of the images tied leaves no quartile distance: use the sd instead.
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
  """The K with least miss of the limits, then nearest to `wanted` in ratio."""
  grid = np.unique(np.geomspace(2, len(scores), 80).round().astype(int))
  grid = np.union1d(grid, [int(np.ceil(wanted))])
  best = None
  for bins in grid:
    found = rule(scores, int(bins))
    expected = _expected_positives(found.labels, batch_size)
    over = max(limits[0] - expected, expected - limits[1], 0.0)
    key = (over, abs(np.log(bins / wanted)))
    if best is None or key < best[0]:
      best = key, found
  return best[1], best[0][0]


def _reason(bins, source, wanted, batch_size, limits, miss) -> str:
  expected = _expected_positives(bins.labels, batch_size)
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
