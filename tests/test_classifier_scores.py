"""Classifier scores against numpy loops with gradients worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.covariance import EmpiricalCovariance

from gcl_jax.errors import DataError
from gcl_jax.gradients import classifier_scores as scores

pytestmark = pytest.mark.compiles

# Compiled once for each shape: the settings are traced.
odin = jax.jit(scores.odin, static_argnums=0)
mahalanobis = jax.jit(scores.mahalanobis, static_argnums=0)

RNG = np.random.default_rng(0)
PARAMS = {
  "first": RNG.normal(size=(12, 5)),
  "second": RNG.normal(size=(5, 4)),
  "head": RNG.normal(size=(4, 3)),
}
IMAGES = RNG.normal(size=(7, 3, 4, 1))


def apply(params, images):
  first = jnp.tanh(images.reshape(len(images), -1) @ params["first"])
  second = jnp.tanh(first @ params["second"])
  return second @ params["head"], [first, second]


def slow(flat):
  """Logits, both features and their gradients by the chain rule, one image."""
  first = np.tanh(flat @ PARAMS["first"])
  second = np.tanh(first @ PARAMS["second"])
  d_first = PARAMS["first"] * (1 - first**2)
  d_second = d_first @ (PARAMS["second"] * (1 - second**2))
  logits, d_logits = second @ PARAMS["head"], d_second @ PARAMS["head"]
  return logits, d_logits, (first, second), (d_first, d_second)


def in_float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def test_msp_equals_softmax_and_keeps_digits_when_sure():
  logits = RNG.normal(size=(20, 4)) * 3
  expected = 1 - softmax(logits, axis=1).max(1)
  assert scores.msp(logits) == pytest.approx(expected, abs=1e-6)
  sure = scores.msp(jnp.array([[30.0, 0.0], [0.0, 0.0]]))
  assert sure == pytest.approx([np.exp(-30), 0.5], rel=1e-5)


def test_odin_equals_a_slow_loop():
  expected = []
  for image in IMAGES.reshape(7, -1):
    logits, slope, _, _ = slow(image)
    share = softmax(logits / 1000)
    top = np.argmax(logits)
    gradient = slope[:, top] - slope @ share  # of log softmax, times T
    pushed = slow(image + 0.05 * np.sign(gradient))[0] / 1000
    expected.append(1 / 3 - softmax(pushed).max())
  found = odin(apply, in_float32(PARAMS), in_float32(IMAGES), epsilon=0.05)
  # The spread over images is of order 1e-4: relative digits must survive.
  assert found == pytest.approx(np.array(expected), rel=1e-4)
  still = odin(apply, in_float32(PARAMS), in_float32(IMAGES), epsilon=0)
  assert (found < still).all()


def fitted(rows=60):
  images = RNG.normal(size=(rows, 12))
  features = [np.stack([slow(x)[2][s] for x in images]) for s in (0, 1)]
  labels = (images[:, 0] > 0).astype(int)
  return features, labels


def test_covariance_is_tied_and_empirical():
  features, labels = fitted()
  for feature, gaussian in zip(
    features, scores.mahalanobis_fit(features, labels), strict=True
  ):
    means = np.stack([feature[labels == c].mean(0) for c in (0, 1)])
    model = EmpiricalCovariance().fit(feature - means[labels])
    precision = np.asarray(gaussian.whiten) @ np.asarray(gaussian.whiten).T
    assert gaussian.means == pytest.approx(means, abs=1e-6)
    assert precision == pytest.approx(model.precision_, rel=1e-4, abs=1e-4)


def test_constant_features_are_left_out():
  features, labels = fitted()
  padded = np.c_[features[0], np.full(60, 2.0), features[0][:, 0]]
  gaussian = scores.mahalanobis_fit([padded], labels)[0]
  assert gaussian.whiten.shape == (7, 5)
  assert np.isfinite(gaussian.whiten).all()


def test_mahalanobis_equals_a_slow_loop():
  features, labels = fitted()
  gaussians = scores.mahalanobis_fit(features, labels)
  expected = np.zeros((7, 2))
  for row, image in enumerate(IMAGES.reshape(7, -1)):
    for stage in (0, 1):
      means, precision = [], np.asarray(gaussians[stage].whiten, np.float64)
      means = np.asarray(gaussians[stage].means, np.float64)
      precision = precision @ precision.T

      def distances(x, stage=stage, means=means, precision=precision):
        away = slow(x)[2][stage] - means
        return 0.5 * np.einsum("kd,de,ke->k", away, precision, away)

      near = np.argmin(distances(image))
      _, _, feature, slope = slow(image)
      gradient = slope[stage] @ precision @ (feature[stage] - means[near])
      step = 0.004 / 0.2
      expected[row, stage] = min(distances(image - step * np.sign(gradient)))
  args = (apply, in_float32(PARAMS), gaussians, in_float32(IMAGES))
  found = mahalanobis(*args, epsilon=0.004, scale=0.2)
  assert found == pytest.approx(expected, rel=1e-3)
  assert (found < mahalanobis(*args, epsilon=0.0)).all()


def test_scores_of_a_batch_are_those_of_single_images():
  features, labels = fitted()
  gaussians = scores.mahalanobis_fit(features, labels)
  params, images = in_float32(PARAMS), in_float32(IMAGES)
  whole = mahalanobis(apply, params, gaussians, images)
  ones = [mahalanobis(apply, params, gaussians, x[None])[0] for x in images]
  assert whole == pytest.approx(np.stack(ones), rel=1e-5)
  whole = odin(apply, params, images)
  ones = [odin(apply, params, x[None])[0] for x in images]
  assert whole == pytest.approx(np.stack(ones), rel=1e-4)


def test_far_images_score_higher():
  features, labels = fitted()
  gaussians = scores.mahalanobis_fit([10 * f for f in features], labels)

  def linear(params, images):
    flat = images.reshape(len(images), -1)
    return flat[:, :3], [flat[:, :5], flat[:, :4]]

  near = mahalanobis(linear, {}, gaussians, jnp.zeros((2, 3, 4, 1)))
  far = mahalanobis(linear, {}, gaussians, 50 * jnp.ones((2, 3, 4, 1)))
  assert (far > near).all()


def test_combined_stages_rise_towards_label_one():
  labels = RNG.integers(0, 2, 80)
  noise = RNG.normal(size=(80, 3))
  distances = noise + np.outer(labels, [3, 0, 0])
  weights = scores.combine_fit(distances, labels)
  combined = scores.combine(distances, weights)
  assert weights.shape == (3,) and weights[0] > 2 * abs(weights[1:]).max()
  assert combined[labels == 1].mean() > combined[labels == 0].mean()
  assert combined == pytest.approx(distances @ weights, abs=1e-5)


def test_one_class_is_refused():
  with pytest.raises(DataError, match="2 classes"):
    scores.mahalanobis_fit([np.ones((4, 2))], np.zeros(4))
  with pytest.raises(DataError, match="finite"):
    scores.mahalanobis_fit([np.full((2, 2), np.nan)], np.arange(2))
  with pytest.raises(DataError, match="5 training"):
    scores.combine_fit(np.ones((9, 2)), np.array([1] * 8 + [0]))
