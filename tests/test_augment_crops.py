"""Random views against scipy, by their statistics, and on 1 and 8 devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from gcl_jax import augment
from gcl_jax.augment import crops

pytestmark = pytest.mark.compiles

KEY = jax.random.key(7)


def images(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.13, 0.3, 0.51, 0.62)])
def test_resample_equals_scipy(box, channels, flipped):
  image = images(9, 14, channels)
  centre = [
    box[k] * n + (np.arange(n) + 0.5) * box[2 + k] - 0.5
    for k, n in enumerate((9, 14))
  ]
  centre[1] = centre[1][::-1] if flipped else centre[1]
  grid = np.meshgrid(*centre, indexing="ij")
  expected = np.stack(
    [
      ndimage.map_coordinates(
        image[..., c].astype(float), grid, order=1, mode="nearest"
      )
      for c in range(channels)
    ],
    axis=-1,
  )
  found = jax.jit(crops.resized_crop)(image, jnp.float32(box), flipped)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_boxes_are_torchvisions():
  scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
  keys = jax.random.split(KEY, 4000)
  boxes = jax.jit(jax.vmap(lambda key: crops.sample_box(key, scale, ratio)))(
    keys
  )
  top, left, height, width = np.asarray(boxes, np.float64).T
  area, aspect = height * width, width / height
  tiny = 1e-6
  assert area.min() > 0.2 - tiny and area.max() > 0.95
  assert aspect.min() > 0.75 - tiny and aspect.max() < 4 / 3 + tiny
  assert min(top.min(), left.min()) >= 0
  assert max((top + height).max(), (left + width).max()) < 1 + tiny
  # The same rejection sampling in numpy: mean area and its spread.
  random = np.random.default_rng(0)
  areas = random.uniform(0.2, 1, 20000)
  aspects = np.exp(random.uniform(*np.log(ratio), 20000))
  fits = (areas * aspects <= 1) & (areas / aspects <= 1)
  np.testing.assert_allclose(area.mean(), areas[fits].mean(), atol=0.02)
  np.testing.assert_allclose(area.std(), areas[fits].std(), atol=0.01)
  # Positions fill the room there is.
  room = height < 0.8
  share = (top / (1 - height))[room]
  np.testing.assert_allclose(
    [share.mean(), share.std()], [0.5, 12**-0.5], atol=0.02
  )


def test_a_crop_that_never_fits_is_the_whole_image():
  box = crops.sample_box(KEY, (1.0, 1.0), (2.0, 2.0))
  np.testing.assert_array_equal(box, [0, 0, 1, 1])


def still(**options):
  """crop that changes nothing but what `options` say; pixels in [0, 1]."""
  plain = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "jitter": 0.0,
    "mean": 0.0,
    "std": 1.0,
  }
  return jax.jit(functools.partial(augment.crop, **{**plain, **options}))


def test_nothing_asked_nothing_changed():
  batch = images(3, 6, 8, 1)
  keys = augment.sample_keys(KEY, 0, jnp.arange(3))
  np.testing.assert_allclose(still()(keys, batch), batch / 255, atol=1e-6)
  found = still(mean=0.25, std=0.5)(keys, batch)
  np.testing.assert_allclose(found, (batch / 255 - 0.25) / 0.5, atol=1e-5)
  plain = augment.normalise(jnp.asarray(batch), 0.25, 0.5)
  np.testing.assert_allclose(found, plain, atol=1e-5)
  colour = augment.normalise(images(2, 4, 4, 3), (0.1, 0.2, 0.3), (1, 2, 4))
  assert colour.dtype == jnp.float32
  expected = (images(2, 4, 4, 3) / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
  np.testing.assert_allclose(colour, expected, atol=1e-6)


def test_flips_half_of_the_images():
  batch = np.tile(images(1, 4, 6, 1), (400, 1, 1, 1))
  keys = augment.sample_keys(KEY, 0, jnp.arange(400))
  found = np.asarray(still(flip=0.5)(keys, batch))
  straight = np.isclose(found, batch / 255, atol=1e-5).all((1, 2, 3))
  mirrored = np.isclose(found, batch[:, :, ::-1] / 255, atol=1e-5).all(
    (1, 2, 3)
  )
  assert np.all(straight ^ mirrored)
  assert 0.4 < mirrored.mean() < 0.6


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_brightness_and_contrast_in_either_order(channels):
  batch = np.tile(images(1, 5, 5, channels), (600, 1, 1, 1))
  pixels = batch[0] / 255
  keys = augment.sample_keys(KEY, 1, jnp.arange(600))
  found = np.asarray(still(jitter=0.8)(keys, batch), np.float64)
  changed = ~np.isclose(found, batch / 255, atol=1e-5).all((1, 2, 3))
  assert 0.75 < changed.mean() < 0.85
  assert found.min() >= 0 and found.max() <= 1
  grey = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.ones(1)

  def stretch(x, f):
    return np.clip((x @ grey).mean() * (1 - f) + f * x, 0, 1)

  # With one of the two switched off, the factor can be read back exactly.
  for name, change in (
    ("brightness", lambda x, f: np.clip(x * f, 0, 1)),
    ("contrast", stretch),
  ):
    off = {"brightness": 0.0, "contrast": 0.0, "jitter": 1.0, name: 0.4}
    run = still(**off)
    found = np.asarray(run(keys[:100], batch[:100]), np.float64)
    grid = np.linspace(0.59, 1.41, 1000)
    table = np.stack([change(pixels, f) for f in grid])
    errors = np.abs(table[None] - found[:, None]).max((2, 3, 4))
    assert errors.min(axis=1).max() < 2e-3
    factors = grid[errors.argmin(axis=1)]
    assert 0.599 < min(factors) < 0.66 and 1.34 < max(factors) < 1.401
    np.testing.assert_allclose(np.mean(factors), 1, atol=0.07)


def test_both_orders_occur():
  # Evenly spaced pixels stay so unless the first of the two changes clips.
  pixels = np.array([0.2, 0.6, 1.0])
  batch = np.tile(np.uint8([[[51], [153], [255]]]), (200, 1, 1, 1))
  keys = augment.sample_keys(KEY, 2, jnp.arange(200))
  found = np.asarray(still(jitter=1.0)(keys, batch))[:, 0, :, 0]

  def brighten(x, f):
    return np.clip(x * f, 0, 1)

  def stretch(x, f):
    return np.clip(x.mean() + f * (x - x.mean()), 0, 1)

  grid = np.linspace(0.6, 1.4, 81)
  tables = np.array(
    [
      [
        (stretch(brighten(pixels, f), s), brighten(stretch(pixels, s), f))
        for s in grid
      ]
      for f in grid
    ]
  )
  near = np.abs(tables[None] - found[:, None, None, None]).max(-1).min((1, 2))
  assert np.all(near.min(1) < 0.01)
  only_first = (near[:, 0] < 0.008) & (near[:, 1] > 0.02)
  only_second = (near[:, 1] < 0.008) & (near[:, 0] > 0.02)
  assert only_first.sum() > 15 and only_second.sum() > 15


# -- randomness -------------------------------------------------------------


def test_views_depend_on_seed_step_and_index_only():
  batch = images(8, 12, 16, 1)
  run = jax.jit(augment.two_crops)
  index = jnp.arange(8) + 30
  views = run(augment.sample_keys(KEY, 5, index), batch)
  assert views.shape == (8, 2, 12, 16, 1) and views.dtype == jnp.float32
  order = np.random.default_rng(0).permutation(8)
  shuffled = run(augment.sample_keys(KEY, 5, index[order]), batch[order])
  np.testing.assert_allclose(shuffled, views[order], atol=1e-6)
  for key, step in ((KEY, 6), (jax.random.key(8), 5)):
    other = run(augment.sample_keys(key, step, index), batch)
    assert np.all(np.abs(other - views).max((2, 3, 4)) > 0.1)
  apart = np.abs(views[:, 0] - views[:, 1]).max((1, 2, 3))
  assert np.all(apart > 0.1)


def test_the_same_views_on_eight_devices_and_under_vmap():
  batch, index = images(16, 8, 10, 1), jnp.arange(16)
  run = lambda index, images: augment.two_crops(  # noqa: E731
    augment.sample_keys(KEY, 2, index), images
  )
  expected = jax.jit(run)(index, batch)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  spread = jax.device_put((index, batch), NamedSharding(mesh, P("data")))
  mapped = jax.shard_map(
    run, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
  )
  np.testing.assert_allclose(jax.jit(mapped)(*spread), expected, atol=1e-6)
  split = (x.reshape(4, 4, *x.shape[1:]) for x in (index, batch))
  found = jax.jit(jax.vmap(run))(*split)
  np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-6)
