"""Preparation of OCT B-scans: what it straightens, and what it must not see."""

import doctest

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from gcl_jax.data import preprocess
from gcl_jax.errors import ConfigError, DataError


def _curve(width: int, bend: float = 14.0, tilt: float = 9.0) -> np.ndarray:
  t = np.linspace(-1, 1, width)
  return 40 + bend * t**2 + tilt * t


def _band(height: int = 96, width: int = 256, seed: int = 0, **shape):
  """A bright curved band on a noisy dark ground: [H, W], about 0 to 1."""
  rows = np.arange(height)[:, None] - _curve(width, **shape)
  noise = np.random.default_rng(seed).uniform(0, 0.15, (height, width))
  return 0.8 * np.exp(-((rows / 6) ** 2)) + noise


def _spread(image: np.ndarray) -> float:
  """Standard deviation over columns of the brightest rows' centre."""
  weight = np.clip(image - 0.4, 0, None)
  weight = weight[:, weight.sum(0) > 0]
  rows = np.arange(image.shape[0])
  return float((rows @ weight / weight.sum(0)).std())


def test_flatten_straightens_a_curved_band():
  image = _band()
  assert _spread(image) > 5
  assert _spread(preprocess.flatten(image)) < 0.4


def test_flatten_puts_the_band_on_the_middle_row():
  flat = preprocess.flatten(_band())
  weight = np.clip(flat.mean(1) - 0.3, 0, None)
  assert abs(np.arange(96) @ weight / weight.sum() - 47.5) < 0.5


def test_centre_row_is_fitted_again_without_outliers():
  image = _band()
  image[85:, 100:110] = 1.5
  error = np.abs(preprocess.centre_row(image) - _curve(256))
  clean = np.abs(preprocess.centre_row(_band()) - _curve(256))
  assert clean.max() < 0.6
  assert error.max() < 0.8


def test_centre_row_is_not_moved_by_specks():
  image = _band()
  image.flat[np.random.default_rng(1).choice(image.size, 250)] = 3.0
  error = np.abs(preprocess.centre_row(image) - _curve(256))
  assert error.max() < 3


def test_flatten_against_a_loop_over_pixels():
  image = _band(33, 41, seed=3)
  curve = preprocess.centre_row(image)
  expected = np.full(image.shape, np.percentile(image, 20))
  for c in range(41):
    for r in range(33):
      source = r + curve[c] - 16.0
      if 0 <= source <= 32:
        expected[r, c] = np.interp(source, np.arange(33), image[:, c])
  got = preprocess.flatten(image)
  source = np.arange(33)[:, None] + curve - 16.0
  # Within half a row of the border the outermost row is repeated.
  edge = ((source > -0.5) & (source < 0)) | ((source > 32) & (source < 32.5))
  assert edge.mean() < 0.05
  np.testing.assert_allclose(got[~edge], expected[~edge], atol=1e-12)


def test_normalise_is_two_percentiles_and_a_clip():
  image = np.random.default_rng(0).normal(50, 20, (40, 30))
  low, high = np.percentile(image, 20), np.percentile(image, 99.5)
  expected = np.clip((image - low) / (high - low), 0, 1)
  np.testing.assert_allclose(preprocess.normalise(image), expected, atol=1e-12)


def test_resize_averages_boxes():
  image = np.random.default_rng(1).uniform(size=(12, 20))
  expected = image.reshape(4, 3, 5, 4).mean((1, 3))
  np.testing.assert_allclose(preprocess.resize(image, (4, 5)), expected)
  # 64 rows to 48: each row of the result covers four thirds of a row.
  rows = np.repeat(np.random.default_rng(2).uniform(size=(64, 1)), 2, 1)
  fine = np.repeat(rows, 3, 0).reshape(48, 4, 2).mean(1)
  np.testing.assert_allclose(preprocess.resize(rows, (48, 2)), fine)


def test_resize_keeps_what_it_must():
  ramp = np.arange(8.0)[:, None] * np.ones(3)
  np.testing.assert_array_equal(preprocess.resize(ramp, (8, 3)), ramp)
  grown = preprocess.resize(ramp, (16, 3))[:, 0]
  np.testing.assert_allclose(grown[1:-1], np.arange(1, 15) / 2 - 0.25)


@pytest.mark.parametrize(("rows", "kept"), [(96, 64), (3, 2), (1, 1), (7, 5)])
def test_crop_band_keeps_the_centre(rows, kept):
  image = np.arange(rows)[:, None] * np.ones(4)
  band = preprocess.crop_band(image)
  assert band.shape == (kept, 4)
  assert abs(band.mean() - (rows - 1) / 2) <= 0.5


def test_prepare_runs_the_steps_in_the_order_of_the_study():
  image = (255 * np.clip(_band(), 0, 1)).astype(np.uint8)
  scan = preprocess.normalise(preprocess.flatten(image / 255))[16:80]
  scan = preprocess.resize(scan, (48, 128))
  expected = np.round(255 * scan)
  got = preprocess.prepare(image, size=(48, 128))
  assert np.abs(got.astype(float) - expected).max() <= 1
  raw = preprocess.prepare(image, flatten=False, normalise=False, crop=False)
  box = image.reshape(48, 2, 128, 2).mean((1, 3))
  assert np.abs(raw - box).max() <= 0.5 + 1e-9


def test_prepare_straightens_at_any_stored_size():
  image = _band(150, 300, bend=40.0)
  before = preprocess.prepare(image, flatten=False, crop=False) / 255
  after = preprocess.prepare(image, crop=False) / 255
  assert _spread(before) > 3
  assert _spread(after) < 0.4


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 9))
def test_prepare_ignores_the_intensity_scale(gain, offset, seed):
  image = _band(48, 80, seed=seed)
  one = preprocess.prepare(image, size=(16, 32)).astype(int)
  other = preprocess.prepare(gain * image + offset, size=(16, 32))
  assert np.abs(one - other).max() <= 1


def test_prepare_reads_grey_and_colour_and_every_dtype_alike():
  image = np.clip(_band(), 0, 1)
  one = preprocess.prepare(image).astype(int)
  bits8 = np.round(image * 255).astype(np.uint8)
  bits16 = np.round(image * 65535).astype(np.uint16)
  for other in (bits8, bits16, image.astype(np.float32)):
    for stored in (other, np.stack([other] * 3, -1), other[..., None]):
      assert np.abs(one - preprocess.prepare(stored)).max() <= 3


def test_prepare_leaves_its_input_alone():
  image = _band()
  before = image.copy()
  preprocess.prepare(image)
  np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("shape", [(1, 1), (96, 256), (5, 1), (1, 9, 3)])
def test_prepare_of_a_constant_scan_is_black(value, shape):
  got = preprocess.prepare(np.full(shape, value, np.uint8), size=(16, 16))
  assert got.shape == (16, 16) and not got.any()


_SIDES = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(st.data(), _SIDES, _SIDES, st.sampled_from(["u1", "u2", "f4", "?"]))
def test_prepare_never_fails(data, height, width, dtype):
  values = st.floats(-1e6, 1e6, width=32) if dtype == "f4" else None
  image = data.draw(arrays.arrays(dtype, (height, width), elements=values))
  got = preprocess.prepare(image, size=(16, 32))
  assert got.shape == (16, 32) and got.dtype == np.uint8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), _SIDES, _SIDES)
def test_prepare_never_fails_on_noise(seed, height, width):
  image = np.random.default_rng(seed).normal(size=(height, width))
  got = preprocess.prepare(image, size=(16, 32))
  assert got.shape == (16, 32) and got.dtype == np.uint8
  flat = preprocess.flatten(image)
  assert image.min() <= flat.min() and flat.max() <= image.max()


@pytest.mark.parametrize(
  "image",
  [np.zeros((0, 4)), np.zeros(5), np.zeros((2, 2, 2, 2))],
)
def test_prepare_names_a_shape_it_cannot_use(image):
  with pytest.raises(DataError, match="shape"):
    preprocess.prepare(image)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_prepare_refuses_values_that_are_not_finite(bad):
  image = _band()
  image[3, 3] = bad
  with pytest.raises(DataError, match="NaN or infinite"):
    preprocess.prepare(image)


# Colour

COLOUR = dict(flatten=False, normalise=False, channels=3)


def _fundus(height: int, width: int, seed: int = 0) -> np.ndarray:
  """A bright orange disc with green and blue noise: uint8 [H, W, 3]."""
  y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
  disc = (np.hypot(y, x) < 0.9)[..., None]
  noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
  return (disc * ([190, 90, 20] + noise)).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 4, 10])
def test_colour_is_resized_as_pillow_does(factor):
  image = _fundus(24 * factor, 32 * factor)
  got = preprocess.prepare(image, size=(24, 32), crop=False, **COLOUR)
  chex.assert_shape(got, (24, 32, 3))
  assert got.dtype == np.uint8
  expected = Image.fromarray(image).resize((32, 24), Image.Resampling.BOX)
  chex.assert_trees_all_close(
    got.astype(float), np.asarray(expected, float), atol=1
  )


def test_colour_is_cropped_as_pillow_does():
  image = _fundus(96, 128)
  got = preprocess.prepare(image, size=(48, 64), **COLOUR)
  band = Image.fromarray(image).crop((0, 16, 128, 80))
  # 64 rows to 48: exact on rows that are repeated three times.
  fine = band.resize((128, 192), Image.Resampling.NEAREST)
  expected = fine.resize((64, 48), Image.Resampling.BOX)
  chex.assert_trees_all_close(
    got.astype(float), np.asarray(expected, float), atol=1
  )


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool"])
def test_every_channel_is_prepared_like_a_grey_image(dtype, crop):
  image = _fundus(37, 71, seed=3) / 255
  image = (image * {"uint8": 255, "uint16": 65535}.get(dtype, 1)).astype(dtype)
  steps = dict(flatten=False, normalise=False, crop=crop, size=(20, 90))
  got = preprocess.prepare(image, channels=3, **steps)
  for c in range(3):
    alone = preprocess.prepare(np.ascontiguousarray(image[..., c]), **steps)
    chex.assert_trees_all_equal(got[..., c], alone)


def test_a_grey_image_among_colour_ones_is_repeated():
  image = _fundus(40, 50)[..., 0]
  for stored in (image, image[..., None], np.stack([image] * 3, -1)):
    got = preprocess.prepare(stored, size=(16, 24), crop=False, **COLOUR)
    alone = preprocess.prepare(
      image, size=(16, 24), crop=False, flatten=False, normalise=False
    )
    chex.assert_trees_all_equal(got, np.stack([alone] * 3, -1))


def test_colour_leaves_its_input_alone():
  image = _fundus(30, 40)
  before = image.copy()
  preprocess.prepare(image, size=(8, 8), **COLOUR)
  chex.assert_trees_all_equal(image, before)


@pytest.mark.parametrize("step", ["flatten", "normalise"])
def test_steps_of_grey_scans_are_refused_for_colour(step):
  with pytest.raises(ConfigError, match=f"{step}=True.*channels=3.*False, or"):
    preprocess.prepare(_fundus(9, 9), **{**COLOUR, step: True})


def test_other_numbers_of_channels_are_refused():
  for channels in (0, 2, 4):
    with pytest.raises(ConfigError, match=r"give 1 \(grey\) or 3"):
      preprocess.prepare(_fundus(9, 9), **{**COLOUR, "channels": channels})
  for channels in (2, 4):
    with pytest.raises(DataError, match="neither grey nor RGB"):
      preprocess.prepare(np.zeros((5, 5, channels), np.uint8), **COLOUR)
  image = _fundus(9, 9) / 255
  image[2, 2, 1] = np.nan
  with pytest.raises(DataError, match="NaN or infinite"):
    preprocess.prepare(image, **COLOUR)
  assert preprocess.prepare(np.zeros((5, 5, 4), np.uint8)).ndim == 2


def test_the_example_of_the_docstring():
  found = doctest.DocTestFinder().find(
    preprocess.prepare, globs={"np": np, "prepare": preprocess.prepare}
  )
  assert sum(len(test.examples) for test in found) == 2
  for test in found:
    assert not doctest.DocTestRunner().run(test).failed
