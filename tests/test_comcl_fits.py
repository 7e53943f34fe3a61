"""What every arm of the diagnosis learns from, and which rows are scored."""

import types

import numpy as np
import pytest

from gcl_jax.evaluation import robustness
from gcl_jax.methods.comcl import arms, diagnose, handmade
from gcl_jax.methods.comcl.config import get_config

COUNT, SIZE = 30, 8
TRAIN = np.arange(COUNT) % 3 > 0
PIXELS = ((0.4, 0.3, 0.2), (0.2, 0.2, 0.2))


def images_of():
  """Images in no order of patients; some without a grade."""
  grade = np.arange(COUNT) * 7 % 5 * 1.0
  grade[[4, 9, 10]] = np.nan
  return types.SimpleNamespace(
    table={"grade": grade},
    groups=np.array([f"p{k * 11 % 13}" for k in range(COUNT)]),
    ids=np.array([f"i{k}" for k in range(COUNT)]),
    labels=(),
    train=TRAIN,
    evaluation=~TRAIN,
    pixel_statistics=lambda: PIXELS,
  )


def quality_of():
  """Image k is k, degraded 100 + k, and 200 + k as training sees it."""
  order = np.arange(COUNT) * 17 % COUNT / COUNT
  plane = np.ones((1, SIZE, SIZE, 3), np.uint8)
  clean, low, seen = (
    (np.arange(COUNT, dtype=np.uint8) + first)[:, None, None, None] * plane
    for first in (0, 100, 200)
  )
  return types.SimpleNamespace(
    clean=clean,
    degraded=low,
    seen=seen,
    condition=lambda share: order < share,
  )


def test_arms_learn_from_training_images_as_they_are_seen(monkeypatch):
  config = get_config("tiny")
  config.arms = tuple(arms.ARMS)
  config.quality.family = "xray"
  context = types.SimpleNamespace(
    config=config, load=lambda name: {"encoder": f"of {name}"}
  )
  images, quality, asked = images_of(), quality_of(), {}

  def fit(context, section, encoder, pixels, targets, rows, **more):
    assert pixels is quality.seen and more["ids"] is images.ids
    assert targets is images.table["grade"] and more["labels"] == 5
    np.testing.assert_array_equal(rows, np.flatnonzero(TRAIN))
    asked[more["name"]] = more["variables"], more["transform"]

  monkeypatch.setattr(diagnose.finetune, "fit", fit)
  for arm in arms.names(config):
    grade = images.table["grade"]
    diagnose._fitted(context, arm, images, quality, grade)
  assert len(asked) == 1 + len(arms.ARMS)
  for arm in arms.names(config):
    start, transform = asked[f"diagnosis/{arm}"]
    wanted = f"of {'comcl' if arm == 'comcl_degraded' else arm}"
    assert start == (None if arm.startswith("supervised") else wanted)
    if arm in ("supervised_degraded", "comcl_degraded"):
      assert transform.keywords == {"family": "xray", "probability": 0.5}
    else:
      assert transform is None


def test_the_ridge_learns_from_the_same_images(monkeypatch):
  images, quality, config = images_of(), quality_of(), get_config("tiny")
  grade, asked = images.table["grade"], []

  def predict(train, grades, groups, tested, count, seed):
    asked.append((train, grades, groups, tested))
    return [np.zeros((len(rows), count)) for rows in tested]

  monkeypatch.setattr(handmade, "features", lambda x: np.array([x[0, 0, 0]]))
  monkeypatch.setattr(handmade, "predict", predict)
  rows = np.flatnonzero(~TRAIN & ~np.isnan(grade))
  diagnose._ridge(images, quality, config, grade, rows)
  ((train, grades, groups, tested),) = asked
  known = np.flatnonzero(TRAIN & ~np.isnan(grade))
  assert train[:, 0].tolist() == (200 + known).tolist()
  np.testing.assert_array_equal(grades, grade[known])
  np.testing.assert_array_equal(groups, images.groups[known])
  assert [x[:, 0].tolist() for x in tested] == [
    rows.tolist(),
    (100 + rows).tolist(),
  ]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_figures_are_of_the_rows_and_their_patients(loss):
  images, quality, config = images_of(), quality_of(), get_config("tiny")
  config.diagnosis.loss = loss
  config.quality.shares = (0.2, 0.6)
  grade = images.table["grade"]
  truth, outputs = np.nan_to_num(grade, nan=-1).astype(int), 5
  if loss == "sigmoid":
    images.labels = ("a", "b")
    labels = [np.where(np.isnan(grade), np.nan, grade > k) for k in (0, 2)]
    images.table = dict(zip(images.labels, labels, strict=True))
    truth, outputs = np.stack(labels, 1), 2
  rows = np.flatnonzero(~np.isnan(grade))[::-1]
  random = np.random.default_rng(0)
  versions = {
    arm: {
      version: random.dirichlet(np.ones(outputs), len(rows))
      for version in ("clean", "low")
    }
    for arm in ("comcl", "supervised_degraded")
  }
  expected = {}
  for arm, each in versions.items():
    for share in (0.2, 0.6):
      low = quality.condition(share)
      mixed = [
        each["low" if low[row] else "clean"][k] for k, row in enumerate(rows)
      ]
      expected.setdefault(arm, {})[share] = np.array(mixed)
  wanted = robustness.evaluate(
    truth[rows], expected, images.groups[rows], images.labels
  )
  found = diagnose.metrics_of(images, quality, config, rows, versions)
  for name, entry in wanted.items():
    assert found[f"diagnosis/{name}"] == entry
  own = wanted["kappa_fall_gain_over_supervised_degraded"]
  assert own["low"] is not None
  assert found["diagnosis/kappa_fall_gain"] == own
  assert found["diagnosis/kappa_fall"] == wanted["comcl/kappa_fall"]
