"""Classifiers trained end to end: binary labels, grades, missing ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.engine import parallel
from gcl_jax.engine.context import Context, Stage
from gcl_jax.errors import DataError
from gcl_jax.pipeline import (
  contrast,
  encoders,
  finetune,
  finetune_steps,
  settings,
)

pytestmark = pytest.mark.compiles

GRADES = 3


def section():
  config = settings.contrast()
  config.update(arch="resnet10", width=4, stem="cifar", flip=0.0, jitter=0.0)
  config.crop_scale = (1.0, 1.0)
  return config


def context_of(workdir, kind):
  config = ConfigDict({**settings.run("toy").to_dict(), "finetune": {}})
  config.finetune = settings.finetune()
  config.finetune.update(batch_size=16, steps=60, learning_rate=1e-2, loss=kind)
  mesh = parallel.make_mesh(jax.devices()[:2])
  return Context(config, workdir, mesh, stage=Stage("toy", None))


def images():
  """Colour images whose brightness is their grade, and the grades."""
  draw = np.random.default_rng(0)
  grades = np.arange(60) % GRADES
  pixels = (
    draw.integers(0, 40, (60, 8, 8, 3)) + 80 * grades[:, None, None, None]
  )
  return pixels.astype(np.uint8), grades.astype(float)


@pytest.mark.parametrize("kind", ["softmax", "ordinal", "sigmoid"])
def test_grades_are_learned_from_the_known_ones(tmp_path, kind):
  pixels, grades = images()
  targets = grades.copy()
  targets[40:] = np.nan  # unknown: not trained on
  if kind == "sigmoid":
    targets = np.stack([targets == k for k in range(GRADES)], 1).astype(float)
    targets[40:] = np.nan
  context, encoder = context_of(tmp_path, kind), encoders.make(section())
  statistics = ((0.4,) * 3, (0.3,) * 3)  # one per channel
  trained = finetune.fit(
    context,
    context.config.finetune,
    encoder,
    pixels,
    targets,
    np.arange(60),
    views=contrast.views_of(section(), *statistics),
    ids=np.arange(60).astype(str),
    name="toy",
    labels=GRADES,
    class_weights=np.ones(GRADES),
  )
  found = context.map(
    finetune.predictor(encoder, GRADES, statistics, kind),
    trained,
    {"image": pixels},
    batch_size=16,
    name="toy/predict",
  )
  assert found.shape == (60, GRADES)
  if kind != "sigmoid":
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
  assert (found.argmax(1) == grades)[40:].mean() > 0.8
  assert trained["head"]["params"]["bias"].shape == (
    GRADES - (kind == "ordinal"),
  )


class Noted(Exception):
  """Ends a fit with what it was given."""


def fitted(tmp_path, monkeypatch, kind="sigmoid", rows=None, **options):
  """The `Training` of a fit and the batches that it would draw."""
  context = context_of(tmp_path, kind)
  context.config.finetune.update(options.pop("settings", {}))

  def note(training, batches, **_):
    raise Noted(training, batches)

  monkeypatch.setattr(context, "fit", note)
  targets = options.pop("targets")
  with pytest.raises(Noted) as noted:
    finetune.fit(
      context,
      context.config.finetune,
      encoders.make(section()),
      np.zeros((len(targets), 8, 8, 1), np.uint8),
      targets,
      np.arange(len(targets)) if rows is None else rows,
      views={},
      ids=np.arange(len(targets)).astype(str),
      name="toy",
      **options,
    )
  return noted.value.args


def test_labels_of_the_rows_are_balanced_by_default(tmp_path, monkeypatch):
  draw = np.random.default_rng(0)
  targets = (draw.random((40, 3)) < [0.1, 0.5, 0.8]) * 1.0
  targets[draw.random((40, 3)) < 0.2] = np.nan
  targets[:, 2] = np.where(targets[:, 2] == 1, 1, np.nan)  # one class
  rows = np.arange(5, 40)  # others do not count
  training, _ = fitted(tmp_path, monkeypatch, targets=targets, rows=rows)
  weights = training.arguments[0]
  for k in range(2):
    y = targets[rows, k]
    totals = [
      sum(weights[k, value] for label in y if label == value)
      for value in (0, 1)
    ]
    known = int((~np.isnan(y)).sum())
    assert totals == pytest.approx([known / 2, known / 2], rel=1e-6)
  assert weights[2].tolist() == [1, 1]
  plain, _ = fitted(
    tmp_path, monkeypatch, targets=targets, settings={"balanced": False}
  )
  assert (plain.arguments[0] == 1).all()
  given, _ = fitted(
    tmp_path, monkeypatch, targets=targets, class_weights=np.arange(3)
  )
  assert given.arguments[0].tolist() == [0, 1, 2]


def test_grades_are_balanced_by_default(tmp_path, monkeypatch):
  grades = np.array([0.0, 0, 0, 1, 1, 2, np.nan, -1])
  training, _ = fitted(
    tmp_path, monkeypatch, "ordinal", targets=grades, labels=GRADES
  )
  np.testing.assert_allclose(training.arguments[0], [2 / 3, 1, 2], rtol=1e-6)


def test_few_rows_fill_the_batch_of_many(tmp_path, monkeypatch):
  """The fits of the folds then share the program of the whole fit."""
  targets = np.tile([[0.0], [1.0]], (20, 1))
  whole, _ = fitted(tmp_path, monkeypatch, targets=targets)
  rows = np.arange(10, 16)
  fold, batches = fitted(
    tmp_path, monkeypatch, targets=targets, rows=rows, batch_rows=40
  )
  assert whole.batch == fold.batch and fold.batch["image"].shape[0] == 16
  drawn = next(batches(0))["index"]
  assert drawn.shape == (16,) and set(drawn) == set(rows)


@pytest.mark.parametrize(
  ("grades", "labels", "message"),
  [
    ([1.0, 2, 3, 3], 3, "row 2 has grade 3, not one of 0 to 2"),
    ([0.0, 1.5, 1, 0], 3, "row 1 has grade 1.5"),
    ([-1.0, -1, np.nan, -1], 3, "0 labelled images are too few"),
    ([0.0, 1, 1, 0], None, "None grades"),
    ([0.0, 0, 0, 0], 1, "1 grades"),
  ],
)
def test_grades_off_the_scale_are_refused(tmp_path, grades, labels, message):
  context = context_of(tmp_path, "ordinal")
  with pytest.raises(DataError, match=message):
    finetune.fit(
      context,
      context.config.finetune,
      encoders.make(section()),
      np.zeros((4, 8, 8, 3), np.uint8),
      np.array(grades),
      np.arange(4),
      views={},
      ids=np.arange(4).astype(str),
      name="toy",
      labels=labels,
    )


def test_images_are_transformed_before_their_views():
  """With keys of their own, one per image and step."""
  encoder, draw = encoders.make(section()), np.random.default_rng(0)
  pixels = draw.integers(0, 256, (4, 8, 8, 3), np.uint8)
  config = settings.finetune()
  config.update(batch_size=4, steps=8)
  views = dict(crop_scale=(0.5, 1.0), mean=0.5, std=0.25)

  def transform(keys, images):
    draws = jax.vmap(lambda key: jax.random.uniform(key, (8, 8, 3)))(keys)
    return 255 * draws + 0 * images

  def stepped(images, **options):
    fit = finetune_steps.training(
      config, encoder, (8, 8, 3), 2, views, **options
    )
    state = jax.jit(fit.init)(jax.random.key(0), *fit.arguments)
    batch = {
      "index": jnp.array([7, 3, 5, 1]),
      "image": images,
      "target": jnp.array([[0.0, 1], [1, 0], [1, 1], [0, 0]]),
    }
    return state, jax.jit(fit.step)(state, batch)

  state, (found, metrics) = stepped(pixels, transform=transform)
  keys = augment.sample_keys(state.key, state.step, jnp.array([7, 3, 5, 1]))
  own = jax.vmap(lambda key: jax.random.fold_in(key, 4))(keys)
  drawn = jax.random.key_data(own)
  for child in range(4):  # a view draws of these
    others = jax.vmap(lambda key, k=child: jax.random.fold_in(key, k))(keys)
    assert not (jax.random.key_data(others) == drawn).all(-1).any()
  expected = jax.jit(transform)(own, jnp.zeros((4, 8, 8, 3)))
  _, (plain, other) = stepped(expected)
  assert float(metrics["loss"]) == pytest.approx(float(other["loss"]), rel=1e-5)
  chex.assert_trees_all_close(found.params, plain.params, rtol=1e-4, atol=1e-6)
  _, (_, without) = stepped(pixels)
  assert float(without["loss"]) != pytest.approx(float(metrics["loss"]))
