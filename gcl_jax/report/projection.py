"""Features of many dimensions in the plane."""

import warnings
from typing import Any

import numpy as np

METHODS = ("pca", "tsne")


def project_2d(
  features: Any, method: str = "pca", seed: int = 0, *, limit: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
  """Points in the plane for a picture (distances are only a hint).

  t-SNE [van der Maaten and Hinton, JMLR 2008] sees the first 50 principal
  components. More than `limit` rows are subsampled without replacement; rows
  with a value that is not finite are left out.

  Args:
    features: float [N, D].
    method: "pca" or "tsne".
    seed: of the subsample and of the projection.
    limit: most rows in the result.

  Returns:
    (points float32 [M, 2], rows int [M]): `rows` are the rows of `features`
    the points stand for, ascending. Fewer than 3 usable rows give M = 0;
    features that do not vary give zeros.

  Raises:
    ValueError: another method, or features not [N, D].
  """
  features = np.asarray(features, np.float64)
  if method not in METHODS:
    raise ValueError(f"method is one of {', '.join(METHODS)}, not {method!r}")
  if features.ndim != 2:
    raise ValueError(f"features must be [N, D], got {list(features.shape)}")
  rows = np.flatnonzero(np.isfinite(features).all(1))
  if len(rows) > limit:
    rows = np.random.default_rng(seed).choice(rows, limit, replace=False)
    rows.sort()
  if len(rows) < 3 or features.shape[1] == 0:
    return np.zeros((0, 2), np.float32), rows[:0]
  chosen = features[rows]
  if np.ptp(chosen, axis=0).max() == 0:
    return np.zeros((len(rows), 2), np.float32), rows
  points = _principal(chosen, 2 if method == "pca" else 50, seed)
  if method == "tsne":
    points = _neighbours(points, seed)
  return points.astype(np.float32), rows


def _principal(features: np.ndarray, width: int, seed: int) -> np.ndarray:
  """The first principal components [N, width], at least 2 columns."""
  from sklearn.decomposition import PCA

  width = min(width, *features.shape)
  points = PCA(width, random_state=seed).fit_transform(features)
  return np.pad(points, ((0, 0), (0, max(0, 2 - width))))


def _neighbours(points: np.ndarray, seed: int) -> np.ndarray:
  from sklearn.manifold import TSNE

  perplexity = min(30.0, (len(points) - 1) / 3)
  start = points[:, :2] / (points[:, 0].std() or 1.0) * 1e-4
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    return TSNE(
      perplexity=perplexity, init=start.astype(np.float32), random_state=seed
    ).fit_transform(points)
