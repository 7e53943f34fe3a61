"""Metrics of many weightings of the same rows at once.

A bootstrap draw is a count per row, so one call serves all draws and sorts
once. Every function takes `labels` [N], `scores` or `predictions` [N] and
`weights` float64[S, N] >= 0, and returns float64[S], NaN if undefined. Inputs
are checked in `metrics`.
"""

import numpy as np


def auroc(labels, scores, weights) -> np.ndarray:
  """P(positive scores above negative) + P(tie) / 2, by average ranks."""
  positive, negative = _by_threshold(labels, scores, weights)
  below = np.cumsum(negative, 1) - 0.5 * negative
  pairs = positive.sum(1) * negative.sum(1)
  return _ratio((positive * below).sum(1), pairs)


def average_precision(labels, scores, weights) -> np.ndarray:
  """Sum over falling thresholds of (increase of recall) * precision."""
  positive, negative = _by_threshold(labels, scores, weights)
  positive, negative = positive[:, ::-1], negative[:, ::-1]
  hits = np.cumsum(positive, 1)
  called = hits + np.cumsum(negative, 1)
  precision = hits / np.where(called > 0, called, 1)
  return _ratio((positive * precision).sum(1), hits[:, -1])


def sensitivity_at_specificity(
  labels, scores, weights, specificity=0.9
) -> np.ndarray:
  """Largest sensitivity of a threshold with at least this specificity."""
  positive, negative = _by_threshold(labels, scores, weights)
  hits, total = positive.sum(1), negative.sum(1)
  below = np.cumsum(negative, 1) - negative
  enough = below >= specificity * total[:, None] * (1 - 1e-12)
  called = np.cumsum(positive[:, ::-1], 1)[:, ::-1]
  best = np.where(enough, called, 0).max(1)
  return np.where(total > 0, _ratio(best, hits), np.nan)


def accuracy(labels, predictions, weights) -> np.ndarray:
  """Share of the weight on rows whose prediction is the label."""
  same = (labels == predictions).astype(np.float64)
  return _ratio(weights @ same, weights.sum(1))


def sensitivity(labels, predictions, weights) -> np.ndarray:
  """TP / (TP + FN)."""
  tp, _, fn, _ = _counts(labels, predictions, weights)
  return _ratio(tp, tp + fn)


def specificity(labels, predictions, weights) -> np.ndarray:
  """TN / (TN + FP)."""
  _, fp, _, tn = _counts(labels, predictions, weights)
  return _ratio(tn, tn + fp)


def f1(labels, predictions, weights) -> np.ndarray:
  """2 TP / (2 TP + FP + FN), from pooled counts."""
  tp, fp, fn, _ = _counts(labels, predictions, weights)
  return _ratio(2 * tp, 2 * tp + fp + fn)


def f1_constant(labels, weights) -> np.ndarray:
  """F1 of calling every row positive, 2 p / (1 + p) with p the share of 1."""
  share = _ratio(weights @ labels, weights.sum(1))
  return 2 * share / (1 + share)


def kappa(labels, predictions, weights, penalty=None) -> np.ndarray:
  """1 - sum(v * observed) / sum(v * expected), v = cost of a disagreement, by
  the distance of the values."""
  both = np.concatenate([labels, predictions]).astype(np.float64)
  values, codes = np.unique(both, return_inverse=True)
  size, rows = len(values), len(labels)
  first, second = np.eye(size)[codes[:rows]], np.eye(size)[codes[rows:]]
  distance = np.abs(np.subtract.outer(values, values))
  cost = {None: distance > 0, "linear": distance, "quadratic": distance**2}
  cost = cost[penalty].astype(np.float64)
  observed = weights @ cost[codes[:rows], codes[rows:]]
  left, right = weights @ first, weights @ second
  expected = np.einsum("si,ij,sj->s", left, cost, right)
  return 1 - _ratio(observed * weights.sum(1), expected)


def majority(labels, weights) -> np.ndarray:
  """Share of weight of the most frequent label."""
  counts = weights @ (labels[:, None] == np.unique(labels))
  return _ratio(counts.max(1), counts.sum(1))


def spearman(first, second, weights) -> np.ndarray:
  """Pearson correlation of average ranks, each row repeated by its weight."""
  a, b = _ranks(first, weights), _ranks(second, weights)
  total = np.maximum(weights.sum(1, keepdims=True), 1e-300)
  a = a - (weights * a).sum(1, keepdims=True) / total
  b = b - (weights * b).sum(1, keepdims=True) / total
  covariance = (weights * a * b).sum(1)
  variances = (weights * a**2).sum(1) * (weights * b**2).sum(1)
  return np.clip(_ratio(covariance, np.sqrt(variances)), -1, 1)


def partial_spearman(first, second, controls, weights) -> np.ndarray:
  """Spearman's correlation of what the controls leave unexplained.

  The average ranks of both are regressed on those of the controls [C, N]; the
  result is the Pearson correlation of the residuals. It is NaN where the
  controls explain one of the two wholly.
  """
  ranks = [_ranks(values, weights) for values in (first, second, *controls)]
  ranks = np.stack(ranks, axis=1)
  total = np.maximum(weights.sum(1), 1e-300)[:, None, None]
  ranks -= (weights[:, None] * ranks).sum(2, keepdims=True) / total
  products = (weights[:, None] * ranks) @ ranks.transpose(0, 2, 1)
  scale = np.sqrt(np.einsum("sii->si", products))
  products = _ratio(products, scale[:, :, None] * scale[:, None, :])
  products = np.nan_to_num(products)  # of a constant: it explains nothing
  across, within = products[:, :2, 2:], products[:, 2:, 2:]
  inverse = np.linalg.pinv(within, rcond=1e-9, hermitian=True)
  left = products[:, :2, :2] - across @ inverse @ across.transpose(0, 2, 1)
  variances = np.clip(np.einsum("sii->si", left), 0, None)
  variances = np.where(variances > 1e-9, variances, 0)
  return np.clip(_ratio(left[:, 0, 1], np.sqrt(variances.prod(1))), -1, 1)


def _by_threshold(labels, scores, weights):
  """Weights of positives and negatives at each distinct score, ascending."""
  order, starts = _ties(scores)
  weights = weights[:, order]
  positive = np.add.reduceat(weights * labels[order], starts, axis=1)
  return positive, np.add.reduceat(weights, starts, axis=1) - positive


def _ranks(values, weights) -> np.ndarray:
  order, starts = _ties(values)
  tied = np.add.reduceat(weights[:, order], starts, axis=1)
  rank = np.cumsum(tied, 1) - 0.5 * tied
  member = np.zeros(len(order), np.int64)
  member[starts[1:]] = 1
  result = np.empty_like(weights)
  result[:, order] = rank[:, np.cumsum(member)]
  return result


def _ties(values):
  order = np.argsort(values, kind="stable")
  ordered = values[order]
  starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
  return order, starts


def _counts(labels, predictions, weights):
  """True positives, false positives, false negatives, true negatives."""
  pairs = (
    labels * predictions,
    (1 - labels) * predictions,
    labels * (1 - predictions),
    (1 - labels) * (1 - predictions),
  )
  table = weights @ np.stack(pairs, axis=1)
  return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _ratio(top, bottom) -> np.ndarray:
  defined = bottom > 0
  return np.where(defined, top / np.where(defined, bottom, 1), np.nan)
