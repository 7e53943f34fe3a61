"""Pre-training of every arm: from shapes alone, and as a stage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax import augment
from gcl_jax.engine import feed, parallel
from gcl_jax.engine.context import Context, Stage
from gcl_jax.methods.comcl import arms, pools, pretrain
from gcl_jax.methods.comcl.config import get_config
from gcl_jax.models import heads
from gcl_jax.models.layers import Model
from gcl_jax.pipeline import contrast, sampling

pytestmark = pytest.mark.compiles

PIXELS = (0.5,) * 3, (0.25,) * 3  # mean and standard deviation
TRAINED = ("comcl", "simclr_degraded", "authors_code", "authors_chest")
TRAINED += ("two_levels", "literal", "hcl", "no_first_pair")


def linear_networks(*_) -> contrast.Networks:
  """Mean colours instead of a ResNet, quick to trace."""

  def init(key, shape):
    return {"params": jnp.eye(3), "batch_stats": jnp.zeros(3)}

  def apply(variables, images, **_):
    colours = images.mean(axis=(1, 2)) @ variables["params"]
    return colours, variables["batch_stats"]

  model = Model(init, apply, 3)
  return contrast.Networks(model, heads.projection(16, 8), optax.sgd(0.01))


def training_of(arm, **changes):
  config = get_config("tiny")
  config.pretrain.update(changes)
  section, _ = arms.settings_of(config, arm)
  shape = (*config.preprocess.size, 3)
  return pretrain.training(
    config, section, shape, PIXELS, pretrain.Plan(2, 4, 30)
  )


@pytest.mark.parametrize("arm", TRAINED)
def test_every_arm_is_described_by_shapes(arm, monkeypatch):
  """The state keeps its shapes, and the network sees 6 x 4 windows."""
  sizes, crop = [], augment.crop

  def counted(keys, images, **options):
    sizes.append(images.shape)
    return crop(keys, images, **options)

  monkeypatch.setattr(augment, "crop", counted)
  monkeypatch.setattr(contrast, "networks", linear_networks)
  training = training_of(arm)
  state = jax.eval_shape(training.init, jax.random.key(0))
  after, metrics = jax.eval_shape(
    functools.partial(training.step, axis_name=None), state, training.batch
  )
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)  # noqa: E731
  assert jax.tree.all(jax.tree.map(same, state, after))
  assert all(value.shape == () for value in metrics.values())
  if arm != "authors_chest":  # whole images
    assert sizes == [(24, 16, 16, 3)]
  if arm == "authors_code":  # no more keys than windows
    assert {k: x.shape for k, x in state.extra["queue"].items()} == {
      "healthy": (30, 8)
    }


def test_every_arm_begins_with_the_same_weights():
  first, *others = (
    jax.device_get(jax.jit(training_of(arm).init)(jax.random.key(1)).params)
    for arm in ("comcl", "simclr", "authors_chest")
  )
  for other in others:
    jax.tree.map(np.testing.assert_array_equal, first, other)


def test_numbers_of_a_run():
  section = get_config("tiny").pretrain
  assert pretrain.plan(section, 41, 9) == pretrain.Plan(5, 5, 9)
  assert pretrain.plan(section, 3, 9) == pretrain.Plan(1, 1, 9)
  section.epochs = 7
  assert pretrain.plan(section, 41, 9).steps == 35


# -- the stage ------------------------------------------------------------


class Images:
  """The parts of `Prepared` that pre-training reads."""

  def __init__(self, *_):
    random = np.random.default_rng(0)
    self.pixels = random.integers(0, 255, (24, 64, 64, 3), np.uint8)
    self.ids = np.array([f"image {k}" for k in range(24)])
    self.train = np.arange(24) < 20
    self.table, self.labels = {"grade": np.arange(24) % 3.0}, ()

  def pool(self, _):
    return self.train

  def pixel_statistics(self):
    return PIXELS

  def __len__(self):
    return 24


class Quality:
  """Those of `Quality`."""

  def __init__(self, *_):
    self.seen, self.low = Images().pixels, np.arange(24) % 5 < 2


def boxes_of(_):
  rows = np.arange(24).repeat(2)
  first = np.random.default_rng(1).uniform(4, 44, (48, 2))
  boxes = np.concatenate([first, first + 6, np.ones((48, 1))], axis=1)
  return np.float32(boxes), rows


def test_the_stage_reads_training_images_alone(monkeypatch, tmp_path):
  """A whole fit; every window that it sees is of a diseased image of its
  level, or a healthy one, in the training part."""
  monkeypatch.setattr(contrast, "networks", linear_networks)
  monkeypatch.setattr(pretrain, "Prepared", Images)
  monkeypatch.setattr(pretrain, "Quality", Quality)
  monkeypatch.setattr(pretrain, "boxes_of", boxes_of)
  mesh = parallel.make_mesh(jax.devices()[:2])
  context = Context(get_config("tiny"), tmp_path, mesh)
  context.stage = Stage("comcl", None)
  seen, original = [], feed.batches_from

  def watched(arrays, rows_at, **more):
    for batch in original(arrays, rows_at, **more):
      seen.append(
        {
          name: arrays[name]["image"].rows[pool["index"]]
          for name, pool in batch.items()
        }
      )
      shapes = jax.tree.map(lambda x: x.shape, batch)
      expected = training_of("comcl").batch
      assert shapes == jax.tree.map(lambda x: x.shape, expected)
      yield batch

  monkeypatch.setattr(feed, "batches_from", watched)
  found = pretrain.run(context, "comcl")
  assert set(found) == {"encoder", "facts"}
  assert set(found["encoder"]) == {"params", "batch_stats"}
  assert '"windows/lesion_high"' in found["facts"]
  low = np.arange(24) % 5 < 2
  assert len(seen) == 3  # 26 lesion windows, 2 x 4 a step, one epoch
  for batch in seen:
    for name, rows in batch.items():
      kind, quality = name.split("_")
      assert np.all(rows < 20) and np.all(low[rows] == (quality == "low"))
      assert np.all((rows % 3 > 0) == (kind == "lesion"))


@pytest.mark.parametrize("boxes", [0, 48])
def test_whole_images_without_boxes_have_epochs_of_images(
  boxes, monkeypatch, tmp_path
):
  """10 steps of 2 of 20 images, not one; beside windows, as many as theirs."""
  every = boxes_of(None)
  given = tuple(part[:boxes] for part in every)
  monkeypatch.setattr(pretrain, "Prepared", Images)
  monkeypatch.setattr(pretrain, "Quality", Quality)
  monkeypatch.setattr(pretrain, "boxes_of", lambda _: given)
  asked = []

  def fit(self, training, batches, *, steps, **more):
    asked.append(steps)
    raise InterruptedError

  monkeypatch.setattr(Context, "fit", fit)
  config = get_config("tiny")
  config.pretrain.update(batch_size=2, epochs=3)
  config.arms = ("authors_chest", "no_pacing")
  context = Context(config, tmp_path, parallel.make_mesh(jax.devices()[:1]))
  for arm in config.arms if boxes else config.arms[:1]:
    with pytest.raises(InterruptedError):
      pretrain.run(context, arm)
  assert len(set(asked)) == 1
  assert boxes or asked == [3 * 20 // 2]


def test_small_pools_fill_a_batch():
  images = Images()
  pool = pools.Pool(np.array([3, 5]), np.float32([[1, 1, 5, 5]] * 2))
  arrays = pools.arrays(pool, images.pixels, 16, 7)
  assert arrays["image"].rows.tolist() == [3, 5, 3, 5, 3, 5, 3]
  rows_at = sampling.shuffled(np.arange(7), 7, 0)
  assert sorted(rows_at(0)) == list(range(7))  # each row has keys of its own
