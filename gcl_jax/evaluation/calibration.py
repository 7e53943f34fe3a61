"""Calibration of probabilities, for many weightings of the rows at once.

Functions take `labels` [N] of 1 and 0, `probabilities` [N] and `weights`
float64[S, N] >= 0, and return float64[S], NaN if undefined, as those of
`weighted` do.
"""

import numpy as np
from scipy import special

EDGE = 1e-6  # nearest that a probability comes to 0 and 1 in its logit
_STEPS, _HALVINGS = 100, 30


def brier(labels, probabilities, weights) -> np.ndarray:
  """Mean squared difference of probability and label (Brier 1950)."""
  return _mean((probabilities - labels) ** 2, weights)


def brier_prevalence(labels, probabilities, weights) -> np.ndarray:
  """Brier score p (1 - p) of giving every row the share p of positives."""
  share = _mean(labels, weights)
  return share * (1 - share)


def slope(labels, probabilities, weights) -> np.ndarray:
  """Calibration slope: b of the regression logit P(y = 1) = a + b logit(p).

  1 is right; below 1 the probabilities are too extreme, above 1 too timid
  (Cox, Biometrika 45:562, 1958). By maximum likelihood, without a penalty.
  Undefined where a threshold separates the classes, rows on it aside: the
  likelihood then has no maximum.
  """
  probabilities = np.clip(probabilities, EDGE, 1 - EDGE)
  x = special.logit(probabilities)
  spread = x.std()
  if not spread:
    return np.full(len(weights), np.nan)
  standard = (x - x.mean()) / spread
  mixed = _overlap(labels, x, weights)
  found = _newton(labels, standard, weights * mixed[:, None])
  return np.where(mixed, found / spread, np.nan)


def _overlap(labels, x, weights) -> np.ndarray:
  """bool[S]: whether no threshold separates the classes."""

  def ends(side):
    used = (weights > 0) & (labels == side)
    return (
      np.where(used, x, np.inf).min(1),
      np.where(used, x, -np.inf).max(1),
    )

  (low0, high0), (low1, high1) = ends(0), ends(1)
  return (high0 > low1) & (high1 > low0)


def _newton(labels, x, weights) -> np.ndarray:
  """Slopes float64[S] of weighted logistic regressions on one variable.

  Newton's method; a step that does not lower the loss is halved until it does.
  """
  a, b = np.zeros((2, len(weights)))
  loss = _loss(a, b, labels, x, weights)
  for _ in range(_STEPS):
    mean = special.expit(a[:, None] + b[:, None] * x)
    rest, curve = weights * (labels - mean), weights * mean * (1 - mean)
    g0, g1 = rest.sum(1), rest @ x
    h0, h1, h2 = curve.sum(1), curve @ x, curve @ x**2
    determinant = np.maximum(h0 * h2 - h1**2, 1e-300)
    da = (h2 * g0 - h1 * g1) / determinant
    db = (h0 * g1 - h1 * g0) / determinant
    for _ in range(_HALVINGS):
      changed = _loss(a + da, b + db, labels, x, weights)
      worse = ~(changed <= loss)
      if not worse.any():
        break
      da, db = np.where(worse, da / 2, da), np.where(worse, db / 2, db)
    a, b, loss = a + da, b + db, np.where(worse, loss, changed)
    if np.abs([da, db]).max() < 1e-10:
      break
  return b


def _loss(a, b, labels, x, weights) -> np.ndarray:
  logit = a[:, None] + b[:, None] * x
  return (weights * (np.logaddexp(0, logit) - labels * logit)).sum(1)


def _mean(values, weights) -> np.ndarray:
  total = weights.sum(1)
  defined = total > 0
  return np.where(
    defined, weights @ values / np.where(defined, total, 1), np.nan
  )
