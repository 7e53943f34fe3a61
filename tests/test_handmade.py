"""Hand-made features and the ridge on them."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from gcl_jax.evaluation import metrics
from gcl_jax.methods.comcl import handmade


def disc(size=64, channels=3):
  rows, columns = np.indices((size, size)) - (size - 1) / 2
  inside = rows**2 + columns**2 < (0.48 * size) ** 2
  return np.where(inside[..., None], 120, 0).astype(np.uint8) * np.ones(
    channels, np.uint8
  )


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_finite_and_see_dark_dots(channels):
  plain = disc(channels=channels)
  dotted = plain.copy()
  dotted[30:33, 30:33] = 60
  a, b = handmade.features(plain), handmade.features(dotted)
  assert a.shape == (2 * channels + 26,) and np.isfinite([a, b]).all()
  assert np.abs(a - b).max() > 0.01
  assert not handmade.features(0 * plain).any()


def test_the_black_frame_does_not_count():
  image = disc(channels=3)
  values = handmade.features(image)
  assert values[0] == pytest.approx(120 / 255) and values[3] < 1e-9


def test_ridge_is_that_of_scikit_learn():
  rng = np.random.default_rng(0)
  rows, target = rng.normal(size=(40, 6)), rng.normal(size=40)
  tested = rng.normal(size=(9, 6))
  expected = Ridge(alpha=2.5).fit(rows, target).predict(tested)
  found = handmade._ridge(rows, target, 2.5, tested)
  np.testing.assert_allclose(found, expected, atol=1e-10)


def test_grades_are_predicted_on_other_groups():
  rng = np.random.default_rng(1)
  grades = np.repeat(np.arange(5.0), [80, 30, 40, 20, 10])
  rows = rng.normal(size=(180, 12))
  rows[:, 3] += grades
  groups = np.arange(180) // 2
  train = rng.permutation(90) < 60
  train = train[groups]
  (found,) = handmade.predict(
    rows[train], grades[train], groups[train], [rows[~train]], 5
  )
  assert found.shape == (np.sum(~train), 5) and (found.sum(1) == 1).all()
  kappa = metrics.kappa(grades[~train], found.argmax(1), "quadratic", 5)
  assert kappa > 0.6
  shares = found.mean(0)
  assert shares == pytest.approx(
    np.bincount(grades[~train].astype(int)) / np.sum(~train), abs=0.15
  )


def test_images_of_one_patient_do_not_stop_it():
  rng = np.random.default_rng(2)
  grades = np.repeat(np.arange(3.0), 10)
  rows = rng.normal(size=(30, 4)) + 5 * grades[:, None]
  (found,) = handmade.predict(rows, grades, np.full(30, "a"), [rows], 3)
  assert metrics.kappa(grades, found.argmax(1), "quadratic", 3) > 0.9
