"""Views with label maps: exact cases, scipy, statistics, 1 and 8 devices."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import ndimage

from gcl_jax import augment
from gcl_jax.augment import spatial

pytestmark = pytest.mark.compiles

# Compiled in a third of the time without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
KEY = jax.random.key(3)
STILL = {
  "rotation": 0.0,
  "scale": (1.0, 1.0),
  "flip_rows": 0.0,
  "flip_columns": 0.0,
  "shift": 0.0,
  "elastic": (0.0, 0.0),
  "probability": 1.0,
}
INTENSITY = {"brightness": 0.3, "contrast": 0.3, "gamma": 0.3}


def keys(count, step=0):
  return augment.sample_keys(KEY, step, jnp.arange(count))


def pictures(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, shape).astype(np.uint8)


def labels(*shape, seed=1):
  """Blobs of four classes."""
  noise = np.random.default_rng(seed).normal(size=shape)
  noise = ndimage.gaussian_filter(noise, (0, 2, 2))
  return np.digitize(noise, np.quantile(noise, [0.4, 0.6, 0.8])).astype(
    np.uint8
  )


def view(**options):
  return quick_jit(functools.partial(augment.warp, **options))


def still(**options):
  return view(**{**STILL, **options})


def in_units(images, mean=0.0, std=1.0):
  return jax.jit(augment.normalise)(images, mean, std)


def places(count, size, **options):
  run = functools.partial(augment.warp_places, size=size, **options)
  return np.asarray(quick_jit(run)(keys(count)), np.float64)


# -- exact cases ------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 9), (8, 8), (5, 4)])
def test_nothing_asked_nothing_changed(size):
  images, masks = pictures(3, *size, 2), labels(3, *size)
  found, moved = still()(keys(3), images, masks)
  np.testing.assert_array_equal(found, in_units(images))
  np.testing.assert_array_equal(moved, masks)
  assert found.dtype == jnp.float32 and moved.dtype == jnp.uint8
  found, nothing = still(mean=(0.2, 0.4), std=(0.5, 2))(keys(3), images)
  plain = in_units(images, (0.2, 0.4), (0.5, 2))
  np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-6)
  assert nothing is None


@pytest.mark.parametrize("name, axis", [("flip_rows", 1), ("flip_columns", 2)])
def test_a_flip_is_exactly_the_flip(name, axis):
  images, masks = pictures(64, 5, 8, 1), labels(64, 5, 8)
  found, moved = still(**{name: 1.0})(keys(64), images, masks)
  np.testing.assert_array_equal(moved, np.flip(masks, axis))
  np.testing.assert_array_equal(found, in_units(np.flip(images, axis)))
  _, some = still(**{name: 0.5})(keys(64), images, masks)
  turned = [
    np.array_equal(a, np.flip(b, axis - 1))
    for a, b in zip(some, masks, strict=True)
  ]
  same = [np.array_equal(a, b) for a, b in zip(some, masks, strict=True)]
  assert np.all(np.array(turned) | same) and 16 < sum(turned) < 48


def test_a_quarter_turn_is_exact(monkeypatch):
  images, masks = pictures(40, 7, 7, 1), pictures(40, 7, 7, seed=1) % 4
  # Extreme draws: an angle of -90 or +90 degrees.
  uniform = jax.random.uniform
  monkeypatch.setattr(
    jax.random, "uniform", lambda *args: jnp.round(uniform(*args))
  )
  found, moved = still(rotation=90.0, probability=2.0)(keys(40), images, masks)
  ways = []
  for k in range(40):
    turns = [np.array_equal(moved[k], np.rot90(masks[k], r)) for r in range(4)]
    assert sum(turns) == 1 and (turns[1] or turns[3])
    ways.append(int(np.argmax(turns)))
    expected = np.rot90(images[k], ways[-1]) / 255
    np.testing.assert_allclose(found[k], expected, atol=1e-5)
  assert set(ways) == {1, 3}


# -- the resampling ---------------------------------------------------------


def test_images_and_masks_equal_scipy_at_the_coordinates():
  size, count = (17, 24), 6
  images, masks = pictures(count, *size, 2), labels(count, *size)
  found, moved = view()(keys(count), images, masks)
  grid = places(count, size)
  assert (grid < -1).any() and (grid > 24).any()  # the outside is looked at
  for k in range(count):
    where = grid[k].transpose(2, 0, 1)
    for c in range(2):
      expected = ndimage.map_coordinates(
        images[k, ..., c].astype(float), where, order=1, mode="nearest"
      )
      np.testing.assert_allclose(found[k, ..., c] * 255, expected, atol=0.02)
    for i, j in np.ndindex(*size):
      row, column = np.floor(grid[k, i, j] + 0.5).astype(int)
      inside = 0 <= row < size[0] and 0 <= column < size[1]
      label = masks[k, row, column] if inside else 0
      assert moved[k, i, j] == label


def test_masks_follow_images():
  masks = labels(8, 32, 32)
  images = 50 * masks[..., None]
  found, moved = view()(keys(8), images, masks)
  found = np.asarray(found)[..., 0] * 255 / 50
  grid = places(8, (32, 32))
  inside = ((grid >= 0) & (grid <= 31)).all(-1)
  # Where a bilinear value is a whole class, the mask is that class, but where
  # 0 and 2 mix to 1.
  pure = inside & (np.abs(found - np.round(found)) < 1e-3)
  assert pure.mean() > 0.3
  assert (np.abs(found - moved)[pure] < 0.01).mean() > 0.97
  # The image read like the mask is the mask.
  again = spatial.sample_nearest(images[..., 0], jnp.float32(grid))
  np.testing.assert_array_equal(again, 50 * np.asarray(moved))


def test_no_new_classes_and_any_integer_type():
  masks = np.where(labels(8, 20, 20) == 3, 7, 0)
  for dtype in (np.uint8, np.int32):
    _, moved = view()(keys(8), pictures(8, 20, 20, 1), masks.astype(dtype))
    assert moved.dtype == dtype and set(np.unique(moved)) == {0, 7}
  full = np.full((8, 20, 20), 5, np.uint8)
  _, moved = view(elastic=(0, 0))(keys(8), pictures(8, 20, 20, 1), full)
  grid = places(8, (20, 20), elastic=(0, 0))
  outside = ((grid < -0.501) | (grid > 19.501)).any(-1)
  assert outside.any() and not np.asarray(moved)[outside].any()


def test_the_same_images_without_masks():
  images, masks = pictures(4, 16, 16, 1), labels(4, 16, 16)
  with_masks, _ = view(**INTENSITY)(keys(4), images, masks)
  without, _ = view(**INTENSITY)(keys(4), images)
  np.testing.assert_array_equal(with_masks, without)


# -- the distribution of views ----------------------------------------------


def fit(grid):
  """Least squares place = matrix (o - centre) + offset of every view."""
  size = np.array(grid.shape[1:3])
  pixels = np.stack(np.indices(size), -1).reshape(-1, 2)
  design = np.c_[pixels - (size - 1) / 2, np.ones(len(pixels))]
  flat = grid.reshape(len(grid), -1, 2)
  found = [np.linalg.lstsq(design, view, rcond=None)[0] for view in flat]
  rest = [view - design @ s for view, s in zip(flat, found, strict=True)]
  found = np.array(found)
  return found[:, :2].transpose(0, 2, 1), found[:, 2], np.array(rest)


def test_rotation_zoom_flip_and_shift_have_their_ranges():
  size = (12, 20)
  options = {"rotation": 40.0, "scale": (0.75, 3.0), "shift": 0.25}
  grid = places(2000, size, **options, elastic=(0.0, 0.0), probability=0.75)
  matrix, offset, rest = fit(grid)
  assert np.abs(rest).max() < 1e-3
  moved = (offset - (np.array(size) - 1) / 2) / size
  assert np.abs(moved).max() <= 0.25 + 1e-5
  np.testing.assert_allclose(moved.mean(0), 0, atol=0.02)
  np.testing.assert_allclose(moved.std(0), 0.5 / 12**0.5, atol=0.01)
  determinant = np.linalg.det(matrix)
  zoom = np.abs(determinant) ** -0.5
  plain = np.abs(zoom - 1) < 1e-4
  assert 0.2 < plain.mean() < 0.3
  logs = np.log2(zoom[~plain] / 1.5)  # 1.5 is the middle of the two
  assert np.abs(logs).max() < 1.001
  np.testing.assert_allclose([logs.mean(), logs.std()], [0, 3**-0.5], atol=0.05)
  assert 0.45 < (determinant < 0).mean() < 0.55  # one axis is mirrored
  # cos(angle) stands in the corner with its flip's sign.
  flips = np.sign(np.stack([matrix[:, 0, 0], matrix[:, 1, 1]], 1))
  np.testing.assert_allclose((flips < 0).mean(0), 0.5, atol=0.04)
  turn = matrix * flips[:, None, :] * zoom[:, None, None]
  angle = np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))[~plain]
  np.testing.assert_allclose(turn[:, 0, 0], turn[:, 1, 1], atol=1e-4)
  np.testing.assert_allclose(turn[:, 1, 0], -turn[:, 0, 1], atol=1e-4)
  assert np.abs(angle).max() <= 40.01
  np.testing.assert_allclose(
    [angle.mean(), angle.std()], [0, 80 / 12**0.5], atol=1.5
  )
  # Independent of each other.
  table = np.c_[angle, logs, moved[~plain], determinant[~plain] < 0]
  assert np.abs(np.corrcoef(table.T) - np.eye(5)).max() < 0.1


def test_elastic_deformation_has_its_size_and_smoothness():
  size, sigma, share = (30, 40), 0.1, 0.02
  still = {**STILL, "elastic": (share, share), "smoothness": sigma}
  grid = places(1000, size, **still)
  move = grid - np.stack(np.indices(size), -1)
  rms = np.sqrt(np.mean(move**2, axis=0))
  np.testing.assert_allclose(rms, share * 30, rtol=0.1)
  assert abs(np.mean(move[..., 0] * move[..., 1])) < 0.02 * (share * 30) ** 2
  for steps in (2, 5, 9):
    expected = np.exp(-((steps / 30) ** 2) / (4 * sigma**2))
    pairs = (
      (move[:, steps:], move[:, :-steps]),
      (
        move[:, :, steps:],
        move[:, :, :-steps],
      ),
    )
    for a, b in pairs:
      found = np.mean(a * b) / np.mean(move**2)
      np.testing.assert_allclose(found, expected, atol=0.02)
  still["elastic"] = (0.0, share)
  move = places(400, size, **still) - np.stack(np.indices(size), -1)
  each = np.sqrt(np.mean(move**2, axis=(1, 2, 3))) / 30
  assert each.min() < 0.1 * share and 0.4 < each.mean() / share < 0.6
  still["probability"] = 0.0
  assert not np.any(places(4, size, **still) - np.stack(np.indices(size), -1))


@pytest.mark.parametrize("length, side, sigma", [(1, 30, 0.1), (1.4, 7, 0.3)])
def test_knots_give_filtered_noise_up_to_the_borders(length, side, sigma):
  weights = np.asarray(spatial._bumps(length, side, sigma), np.float64)
  place = np.arange(side) / side * length
  expected = np.exp(-(np.subtract.outer(place, place) ** 2) / (4 * sigma**2))
  # One sigma apart, knots leave a ripple of 2 exp(-pi^2).
  np.testing.assert_allclose(weights @ weights.T, expected, atol=3e-4)


def test_default_deformation_is_the_published_one():
  """alpha 100 to 350 and sigma 14 to 17 of 352 px, by scipy's filter."""
  options = inspect.signature(augment.warp_places).parameters
  noise = np.random.default_rng(0).uniform(-1, 1, (1400, 1400))
  sigma = options["smoothness"].default * 352
  assert 14 < sigma < 17
  moved = ndimage.gaussian_filter(noise, sigma)[60:-60, 60:-60].std()
  np.testing.assert_allclose(moved, 1 / (sigma * (12 * np.pi) ** 0.5), rtol=0.1)
  for share, alpha in zip(options["elastic"].default, (100, 350), strict=True):
    np.testing.assert_allclose(share * 352, alpha * moved, rtol=0.15)


@pytest.mark.parametrize(
  "name, change, low, high",
  [
    ("brightness", lambda x, f: np.clip(x * f, 0, 1), 0.6, 1.4),
    (
      "contrast",
      lambda x, f: np.clip(x.mean() + f * (x - x.mean()), 0, 1),
      0.6,
      1.4,
    ),
    ("gamma", lambda x, f: x**f, 1 / 1.4, 1.4),
  ],
)
def test_intensities_change_by_one_drawn_number(name, change, low, high):
  image, mask = pictures(1, 6, 6, 1), labels(1, 6, 6)
  images, masks = np.tile(image, (200, 1, 1, 1)), np.tile(mask, (200, 1, 1))
  found, moved = still(**{name: 0.4})(keys(200), images, masks)
  np.testing.assert_array_equal(moved, masks)
  grid = np.linspace(low, high, 801)
  table = np.stack([change(image[0] / 255, f) for f in grid])
  errors = np.abs(table[None] - np.asarray(found)[:, None]).max((2, 3, 4))
  assert errors.min(1).max() < 2e-3
  factors = grid[errors.argmin(1)]
  assert low - 1e-3 < factors.min() < low + 0.03
  assert high - 0.03 < factors.max() < high + 1e-3
  middle = np.log(factors).mean() if name == "gamma" else factors.mean() - 1
  assert abs(middle) < 0.05


def test_all_changes_together_stay_in_range():
  found, _ = still(**INTENSITY)(keys(50), pictures(50, 6, 6, 1))
  assert found.min() >= 0 and found.max() <= 1


# -- randomness -------------------------------------------------------------


def test_views_depend_on_the_key_only():
  images, masks = pictures(8, 12, 16, 1), labels(8, 12, 16)
  run = view(**INTENSITY)
  found, moved = run(keys(8), images, masks)
  order = np.random.default_rng(0).permutation(8)
  shuffled = run(keys(8)[order], images[order], masks[order])
  np.testing.assert_allclose(shuffled[0], found[order], atol=1e-6)
  np.testing.assert_array_equal(shuffled[1], moved[order])
  other, _ = run(keys(8, step=1), images, masks)
  assert np.all(np.abs(other - found).max((1, 2, 3)) > 0.1)
  one = np.tile(images[:1], (8, 1, 1, 1))
  apart, _ = run(keys(8), one)
  assert (
    np.abs(apart[:, None] - apart[None])
    .max((2, 3, 4))[~np.eye(8, dtype=bool)]
    .min()
    > 0.1
  )


def test_two_warps_are_warps_of_folded_keys():
  images = pictures(3, 8, 9, 1)
  run = functools.partial(augment.two_warps, **INTENSITY)
  found = quick_jit(run)(keys(3), images)
  assert found.shape == (3, 2, 8, 9, 1)
  for v in range(2):
    of_view = jnp.stack([jax.random.fold_in(key, v) for key in keys(3)])
    expected, _ = view(**INTENSITY)(of_view, images)
    chex.assert_trees_all_close(found[:, v], expected, atol=1e-6)


def test_the_same_views_on_eight_devices_and_under_vmap():
  images, masks = pictures(16, 8, 10, 1), labels(16, 8, 10)

  def run(index, images, masks):
    keys = augment.sample_keys(KEY, 2, index)
    return augment.warp(keys, images, masks, **INTENSITY)

  batch = jnp.arange(16), images, masks
  expected = quick_jit(run)(*batch)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    run, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
  )
  found = quick_jit(mapped)(*batch)
  split = (x.reshape(4, 4, *x.shape[1:]) for x in batch)
  stacked = quick_jit(jax.vmap(run))(*split)
  for a, b, c in zip(expected, found, stacked, strict=True):
    np.testing.assert_allclose(b, a, atol=1e-6)
    np.testing.assert_allclose(c.reshape(a.shape), a, atol=1e-6)


def test_what_does_not_fit_is_refused():
  images, masks = pictures(2, 4, 4, 1), labels(2, 4, 4)
  run = augment.warp
  for bad, message in (
    ((images / 255, masks), "images must be uint8"),
    ((images[0], masks), "images must be uint8"),
    ((images, masks[:, :3]), "masks must be int"),
    ((images, masks / 2), "masks must be int"),
  ):
    with pytest.raises(ValueError, match=message):
      run(keys(2), *bad)
  for options, message in (
    ({"scale": (0.0, 1.0)}, "scale must be"),
    ({"scale": (2.0, 1.0)}, "scale must be"),
    ({"elastic": (0.2, 0.1)}, "elastic must be"),
    ({"smoothness": 0.0}, "smoothness must be"),
  ):
    with pytest.raises(ValueError, match=message):
      run(keys(2), images, masks, **options)
