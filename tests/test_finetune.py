"""Classifiers trained end to end: binary labels, grades, missing ones."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from gcl_jax.engine import parallel
from gcl_jax.engine.context import Context, Stage
from gcl_jax.errors import DataError
from gcl_jax.pipeline import contrast, encoders, finetune, settings

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
  found = finetune.predict(
    context,
    encoder,
    trained,
    pixels,
    labels=GRADES,
    statistics=statistics,
    batch_size=16,
    name="toy/predict",
    kind=kind,
  )
  assert found.shape == (60, GRADES)
  if kind != "sigmoid":
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
  assert (found.argmax(1) == grades)[40:].mean() > 0.8
  assert trained["head"]["params"]["bias"].shape == (
    GRADES - (kind == "ordinal"),
  )


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
