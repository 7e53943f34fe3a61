"""Anomaly scores of a biomarker classifier, the paper's other severity labels.

The paper compares GradCON bins with bins of three out-of-distribution scores of
a network trained with cross-entropy on one biomarker: MSP (arXiv 1610.02136),
ODIN (arXiv 1706.02690) and Mahalanobis (arXiv 1807.03888). Larger is always
more anomalous: scores of normality are negated, which only reverses the order
of bins.

`apply(params, images float32[B, H, W, C]) -> (logits float32[B, K], [features
float32[B, D_l] of stage l, averaged over space])` is the network in evaluation
mode, without coupling between images. Images are normalised as in training and
`epsilon` is in those units. All scores are pure functions of whole batches.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from gcl_jax.errors import DataError

Apply = Callable[..., tuple[jax.Array, Sequence[jax.Array]]]


class Gaussians(NamedTuple):
  """One Gaussian per class with a shared covariance, for one network stage.

  Attributes:
    means: float32[K, D].
    whiten: float32[D, R] with whiten @ whiten.T = inverse covariance.
  """

  means: jax.Array
  whiten: jax.Array


def msp(logits: jax.Array) -> jax.Array:
  """1 - maximum softmax probability, float32[B] in [0, 1 - 1/K].

  Summed over the other classes: 1 - p would round to 0 at high confidence.

  Args:
    logits: float32[B, K].
  """
  others = jnp.exp(_below_top(logits))
  total = jnp.sum(others, -1)
  rest = jnp.sum(jnp.where(_is_top(logits), 0.0, others), -1)
  return rest / total


def odin(
  apply: Apply,
  params,
  images: jax.Array,
  *,
  temperature: float = 1000.0,
  epsilon: float = 0.0014,
) -> jax.Array:
  """1/K - maximum softmax of logits / T at the perturbed image x'.

  x' = x + epsilon * sign(d log softmax_max(x; T) / dx). At T = 1000 every
  probability is within a thousandth of 1/K and float32 would keep few digits of
  it, so the distance to 1/K is computed, which gives the same bins.

  Args:
    apply: see the module docstring.
    params: parameters of the network.
    images: float32[B, H, W, C].
    temperature: T > 0.
    epsilon: step size, in units of the images.

  Returns:
    float32[B] in [1/K - 1, 0].
  """

  def confidence(x):
    logits = apply(params, x)[0] / temperature
    return jnp.sum(jnp.max(jax.nn.log_softmax(logits), -1))

  pushed = images + epsilon * jnp.sign(jax.grad(confidence)(images))
  below = _below_top(apply(params, pushed)[0] / temperature)
  classes = below.shape[-1]
  return jnp.sum(jnp.expm1(below), -1) / (classes * jnp.sum(jnp.exp(below), -1))


def mahalanobis_fit(
  features: Sequence[np.ndarray], labels: np.ndarray
) -> list[Gaussians]:
  """Class means and tied empirical covariance of each stage.

  The covariance divides by N; directions with a variance below 1e-7 of the
  largest are left out, as in a pseudo-inverse.

  Args:
    features: per stage float[N, D_l], of the training images.
    labels: int[N] class numbers, without missing values.

  Returns:
    A `Gaussians` for each stage (computed in float64, stored in float32).

  Raises:
    DataError: there is one class only, or a feature is not finite.
  """
  labels = np.asarray(labels)
  classes = np.unique(labels)
  if len(classes) < 2:
    raise DataError("Mahalanobis scores need 2 classes in training, found 1")
  return [_gaussians(np.asarray(f, np.float64), labels) for f in features]


def mahalanobis(
  apply: Apply,
  params,
  gaussians: Sequence[Gaussians],
  images: jax.Array,
  *,
  epsilon: float = 0.0014,
  scale: float = 0.2023,
) -> jax.Array:
  """Half the squared Mahalanobis distance to the nearest class, per stage.

  For each stage separately, x' = x - (epsilon / scale) * sign(d M(x) / dx) with
  M(x) = min over classes of |whiten.T (f(x) - mean)|^2 / 2, then M(x').

  Args:
    apply: see the module docstring.
    params: parameters of the network.
    gaussians: from `mahalanobis_fit`.
    images: float32[B, H, W, C].
    epsilon: step size.
    scale: divisor of the step in the released code, the standard deviation of
      CIFAR images.

  Returns:
    float32[B, stages] >= 0; `combine` turns them into one score.
  """

  def distance(x, stage):
    features = apply(params, x)[1][stage]
    centred = features[:, None] - gaussians[stage].means
    # Differences per class before whitening: large squares do not cancel.
    white = jnp.einsum("bkd,dr->bkr", centred, gaussians[stage].whiten)
    return 0.5 * jnp.min(jnp.sum(white**2, -1), -1)

  scores = []
  for stage in range(len(gaussians)):
    gradient = jax.grad(lambda x, s=stage: jnp.sum(distance(x, s)))(images)
    pushed = images - epsilon / scale * jnp.sign(gradient)
    scores.append(distance(pushed, stage))
  return jnp.stack(scores, axis=1)


def combine_fit(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Weights of the stages by cross-validated logistic regression.

  As in the released code: fitted on the classifier's training images and its
  own biomarker, so the combined score increases towards label 1 of any meaning.

  Args:
    distances: float[N, stages], `mahalanobis` of the training images.
    labels: int[N] of 1 and 0, at least 5 of each.

  Returns:
    float64[stages].
  """
  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import GridSearchCV

  if np.bincount(np.asarray(labels, int), minlength=2).min() < 5:
    raise DataError("stage weights need 5 training images of either class")
  search = GridSearchCV(
    LogisticRegression(max_iter=2000), {"C": np.logspace(-4, 4, 10)}, cv=5
  )
  with threadpool_limits(1):  # fifty tiny fits: threads do not pay
    search.fit(np.asarray(distances, np.float64), labels)
  return search.best_estimator_.coef_[0]


def combine(distances: jax.Array, weights: jax.Array) -> jax.Array:
  """Weighted sum of distances float32[B, stages]: one score, float32[B]."""
  return jnp.asarray(distances) @ jnp.asarray(weights, jnp.float32)


def _gaussians(features: np.ndarray, labels: np.ndarray) -> Gaussians:
  if not np.isfinite(features).all():
    raise DataError("features for Mahalanobis scores are not finite")
  classes, member = np.unique(labels, return_inverse=True)
  means = np.stack([features[labels == c].mean(0) for c in classes])
  centred = features - means[member]
  values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
  keep = values > 1e-7 * values[-1]
  whiten = vectors[:, keep] / np.sqrt(values[keep])
  return Gaussians(jnp.float32(means), jnp.float32(whiten))


def _below_top(logits: jax.Array) -> jax.Array:
  """Logits minus the largest, in float32, <= 0."""
  logits = jnp.asarray(logits, jnp.float32)
  return logits - jnp.max(logits, -1, keepdims=True)


def _is_top(logits: jax.Array) -> jax.Array:
  """Mask with one True per row, at the first of the largest logits."""
  top = jnp.argmax(logits, -1, keepdims=True)
  return jnp.arange(logits.shape[-1]) == top
