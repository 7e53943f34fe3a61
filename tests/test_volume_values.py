"""What becomes of voxels and class maps; resampling; draws of labels."""

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from volume_cases import (
  CODES,
  LABEL,
  RAS,
  RNG,
  SPACING,
  array_volume,
  mr_reference,
  save,
  stored,
)

from gcl_jax.data import intensity, nifti
from gcl_jax.data.slice_geometry import moved, prepare_slice, restore
from gcl_jax.data.splits import label_draw
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import Volume, Voxels, volumes
from gcl_jax.errors import ConfigError, DataError

# Intensities


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("percentiles", [(1.0, 99.0), (0.0, 100.0)])
def test_mr_against_float64(kind, percentiles):
  volume = (RNG.gamma(1.0, 25, (5, 24, 20))).astype(kind)
  found = intensity.window_mr(volume, percentiles)
  assert found.dtype == np.uint8
  expected = mr_reference(volume, percentiles)
  assert (expected == 255).any()  # some voxel lies beyond z = 3
  assert np.mean(found != expected) < 1e-3
  assert np.abs(found - expected).max() <= 1
  again = intensity.window_mr(volume.astype(np.float64) * 3e4 + 7, percentiles)
  assert np.abs(found.astype(int) - again).max() <= 1


def test_a_large_offset_does_not_spoil_the_spread():
  volume = (1e6 + RNG.normal(size=(40, 40, 40))).astype(np.float32)
  expected = mr_reference(volume)
  assert np.abs(intensity.window_mr(volume) - expected).max() <= 1


def test_ct_against_the_formula():
  hu = np.linspace(-1024, 3000, 4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
  found = intensity.window_ct(hu, (-160, 240))
  expected = [
    min(255, max(0, int((float(v) + 160) / 400 * 255 + 0.5 // 1)))
    if v > -160
    else 0
    for v in hu.ravel().tolist()
  ]
  assert np.abs(found.ravel().astype(int) - expected).max() <= 1
  edges = np.array([-161, -160, 40, 240, 241]).reshape(1, 1, 5)
  assert intensity.window_ct(edges, (-160, 240)).ravel().tolist() == [
    *(0, 0, 128, 255, 255)
  ]
  assert intensity.CT_WINDOW == (-200, 800)
  with pytest.raises(DataError, match="first must be smaller"):
    intensity.window_ct(hu, (5, 5))


def test_a_slice_is_scaled_by_its_volume():
  image = RNG.normal(0, 1, (3, 8, 8))
  image[2] += 5
  found = volumes("s", [array_volume(image)])
  expected = mr_reference(image)
  for row in range(3):
    assert found.read(row).dtype == np.uint8
    np.testing.assert_allclose(found.read(row), expected[row], atol=1)
  hu = np.array([-500.0, 300.0, 900.0, -200.0]).reshape(1, 2, 2)
  found = volumes("s", [array_volume(hu, modality="ct")])
  assert found.read(0).ravel().tolist() == [0, 128, 255, 0]
  found = volumes("s", [array_volume(hu, modality="ct")], ct_window=(300, 900))
  assert found.read(0).ravel().tolist() == [0, 0, 255, 0]
  found = volumes("s", [array_volume(image)], mr_percentiles=(0, 100))
  np.testing.assert_allclose(
    found.read(1), mr_reference(image, (0, 100))[1], atol=1
  )


@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_constant_and_nan_volumes_are_refused(modality):
  flat = np.full((2, 3, 4), 7.0)
  broken = RNG.normal(size=(2, 3, 4))
  broken[1, 0, 0] = np.nan
  for image, words in (
    (flat, "all voxels are 7"),
    (broken, "1 voxels are NaN"),
  ):
    found = volumes("s", [array_volume(image, modality=modality)])
    with pytest.raises(DataError, match=f"^the_image: .*{words}"):
      found.read(0)


def test_a_volume_that_is_flat_but_for_specks_is_refused():
  speck = np.zeros((10, 20, 20))
  speck[0, 0, 0] = 1
  with pytest.raises(DataError, match="constant between its percentiles"):
    intensity.window_mr(speck)
  assert intensity.window_mr(speck, (0, 100)).max() == 255


# Class maps


def test_label_values_become_classes():
  stored_values = RNG.choice([0, 500, 205, 421, 420], (3, 4, 5))
  codes = {500: "LV", 420: "LA", 205: "myo", 421: "LA"}
  for kind in (np.int16, np.float32):
    entry = array_volume(
      RNG.normal(size=(3, 4, 5)), stored_values.astype(kind), codes=codes
    )
    found = volumes("s", [entry])
    assert found.classes == ("LV", "LA", "myo")
    number = {0: 0, 500: 1, 420: 2, 421: 2, 205: 3}
    for row in range(3):
      mask = found.read_mask(row)
      assert mask.dtype == np.uint8
      expected = np.vectorize(number.get)(stored_values[row])
      np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("value", [3, -1, 0.5, np.nan])
def test_undeclared_label_values_are_refused(value):
  label = np.zeros((2, 3, 4))
  label[1, 2, 3] = value
  entry = array_volume(RNG.normal(size=(2, 3, 4)), label, codes=CODES)
  with pytest.raises(DataError, match=rf"^the_label: .* {value:g} are not dec"):
    volumes("s", [entry]).read_mask(0)


def test_volumes_that_do_not_fit_are_refused(tmp_path):
  image = RNG.normal(size=(2, 3, 4))
  label = np.zeros((2, 3, 4), int)
  with pytest.raises(
    DataError, match=r"the_label: \(2, 4, 3\) voxels, but the_"
  ):
    array_volume(image, label.transpose(0, 2, 1), codes=CODES)
  with pytest.raises(DataError, match="declare the classes"):
    array_volume(image, label)
  with pytest.raises(DataError, match="modality 'us'; known: mr, ct"):
    array_volume(image, modality="us")
  with pytest.raises(DataError, match="expected above 0"):
    array_volume(image, spacing=(1, 0, 1))
  one = array_volume(image, label, id="a", codes=CODES)
  two = array_volume(image, label, id="b", codes={1: "one"})
  with pytest.raises(DataError, match="mixes classes: .* in 'a', .* in 'b'"):
    volumes("s", [one, two])
  with pytest.raises(DataError, match="ids more than once"):
    volumes("s", [one, one])
  with pytest.raises(DataError, match="holds no volume"):
    volumes("s", [])
  more = array_volume(image, id="c", columns={"x": 1})
  with pytest.raises(DataError, match="'c' .* has the columns"):
    volumes("s", [one, more])
  with pytest.raises(ConfigError, match="axis 'oblique'"):
    nifti_volume("v", save(tmp_path / "i.nii", RAS), axis="oblique")
  voxels = Voxels("f", (1, 2, 3), lambda: image)
  changed = Volume("v", voxels, (1, 1, 1), patient="p")
  with pytest.raises(DataError, match="did the file change"):
    volumes("s", [changed]).read(0)


def test_files_that_do_not_fit_are_refused(tmp_path):
  image = save(tmp_path / "i.nii.gz", RAS)
  turned = save(tmp_path / "t.nii.gz", *stored(LABEL, "lps"))
  with pytest.raises(DataError, match="t.nii.gz: axes run to LPS"):
    nifti_volume("v", image, turned, codes=CODES)
  small = save(tmp_path / "s.nii.gz", LABEL[:-1])
  with pytest.raises(
    DataError, match=r"s.nii.gz: \(4, 5, 5\) voxels, but .*i.n"
  ):
    nifti_volume("v", image, small, codes=CODES)
  with pytest.raises(DataError, match="none.nii: No such file"):
    nifti_volume("v", image, tmp_path / "none.nii", codes=CODES)
  whole = nibabel.Nifti1Image(RAS, np.diag([*SPACING, 1])).to_bytes()
  for size in (0, -1, np.nan, np.inf):
    header = bytearray(whole)
    header[84:88] = np.float32(size).tobytes()  # pixdim[2]
    (tmp_path / "z.nii").write_bytes(header)
    with pytest.raises(DataError, match="z.nii: voxels of .* mm"):
      nifti.nifti_grid(tmp_path / "z.nii")


# Resampling


def test_prepare_slice_against_scipy():
  image = RNG.normal(size=(13, 18))
  mask = RNG.integers(0, 4, (13, 18)).astype(np.uint8)
  spacing, target = (1.0, 0.8), (1.7, 0.5)
  shape = (8, 29)  # round(13 / 1.7), round(18 * 0.8 / 0.5)
  grid = [
    (n - 1) / 2 + (np.arange(m) - (m - 1) / 2) * t / s
    for n, m, t, s in zip(image.shape, shape, target, spacing, strict=True)
  ]
  where = np.meshgrid(*grid, indexing="ij")
  linear = ndimage.map_coordinates(image, where, order=1, mode="nearest")
  nearest = ndimage.map_coordinates(mask, where, order=0, mode="nearest")
  found, classes = prepare_slice(image, mask, spacing, target, shape)
  np.testing.assert_allclose(found, linear, atol=1e-12)
  np.testing.assert_array_equal(classes, nearest)
  # Cropped rows, padded columns: 8 -> 5 drops 1 and 2, 29 -> 32 adds 1 and 2.
  found, classes = prepare_slice(image, mask, spacing, target, (5, 32))
  np.testing.assert_allclose(found[:, 1:30], linear[1:6], atol=1e-12)
  np.testing.assert_array_equal(classes[:, 1:30], nearest[1:6])
  assert (found[:, 0] == image.min()).all()
  assert (found[:, 30:] == image.min()).all()
  assert not classes[:, 0].any() and not classes[:, 30:].any()


def test_prepare_slice_keeps_type_and_may_have_no_mask():
  image = RNG.integers(0, 256, (9, 9)).astype(np.uint8)
  found, mask = prepare_slice(image, None, (1, 1), (0.7, 0.7), (16, 16))
  assert mask is None and found.dtype == np.uint8 and found.shape == (16, 16)
  exact, _ = prepare_slice(
    image.astype(float), None, (1, 1), (0.7, 0.7), (13, 13)
  )
  np.testing.assert_array_equal(found[1:14, 1:14], np.floor(exact + 0.5))


@pytest.mark.parametrize("shape", [(7, 8), (8, 7)])
@pytest.mark.parametrize("size", [(9, 9), (10, 12), (8, 8), (6, 5), (5, 11)])
@pytest.mark.parametrize("spacing", [None, (1.3, 0.9)])
def test_restore_is_exact_where_the_spacing_is_kept(shape, size, spacing):
  mask = RNG.integers(1, 4, shape).astype(np.uint8)
  _, made = prepare_slice(mask, mask, (1.3, 0.9), spacing, size)
  back = restore(made, shape, (1.3, 0.9), spacing)
  kept = [min(n, m) for n, m in zip(shape, size, strict=True)]
  assert (back > 0).sum() == kept[0] * kept[1]
  np.testing.assert_array_equal(back[back > 0], mask[back > 0])
  rows = np.flatnonzero(back.any(1))
  assert abs(rows[0] - (shape[0] - 1 - rows[-1])) <= 1  # about the centre


@pytest.mark.parametrize("target", [(0.5, 0.5), (0.7, 0.6), (1.2, 1.4)])
def test_restore_after_resampling_keeps_a_disc(target):
  y, x = np.mgrid[:60, :52]
  disc = ((y - 33) ** 2 + (x - 22) ** 2 < 15**2).astype(np.uint8)
  image, made = prepare_slice(disc, disc, (1.0, 1.0), target, (128, 128))
  back = restore(made, disc.shape, (1.0, 1.0), target)
  assert back.dtype == np.uint8 and back.shape == disc.shape
  dice = 2 * (back & disc).sum() / (back.sum() + disc.sum())
  assert dice == 1 if max(target) < 1 else dice > 0.96
  centre = [np.average(axis, weights=back) for axis in (y, x)]
  np.testing.assert_allclose(centre, [33, 22], atol=0.4)


@pytest.mark.parametrize("size", [(40, 33), (11, 64), (12, 17)])
@pytest.mark.parametrize("target", [None, (0.5, 0.8), (1.7, 1.0)])
def test_a_place_is_moved_with_its_slice(size, target):
  """Linear ramps of row and column, resampled and cropped or padded."""
  shape, spacing = (23, 30), (1.0, 1.2)
  places = np.array([[9.0, 12.0], [11.5, 14.25], [13.0, 17.0]])
  found = moved(places, shape, spacing, target, size)
  ramps = np.indices(shape).astype(np.float64)
  prepared = [
    prepare_slice(ramp, None, spacing, target, size)[0] for ramp in ramps
  ]
  inside = ((found >= 0) & (found <= np.array(size) - 1)).all(-1)
  assert inside.any()
  for place, at in zip(places[inside], found[inside], strict=True):
    read = [
      ndimage.map_coordinates(ramp, at[:, None], order=1)[0]
      for ramp in prepared
    ]
    np.testing.assert_allclose(read, place, atol=1e-9)


def test_prepare_slice_refuses():
  image = np.zeros((4, 5), np.uint8)
  with pytest.raises(DataError, match=r"mask \(5, 4\) for an image \(4, 5\)"):
    prepare_slice(image, image.T, (1, 1), None, (4, 4))
  for spacing, target, size in (
    ((0, 1), None, (4, 4)),
    ((1, 1), (1, -1), (4, 4)),
    ((1, 1), None, (4, 0)),
    ((1, np.nan), None, (4, 4)),
  ):
    with pytest.raises(DataError, match="all must be above 0"):
      prepare_slice(image, None, spacing, target, size)


# Draws


def test_label_draws_are_nested_whole_groups():
  groups = np.repeat([f"p{k}" for k in range(9)], np.arange(1, 10))
  for seed in range(5):
    last = np.zeros(len(groups), bool)
    for count in range(1, 10):
      drawn = label_draw(groups, count, seed)
      assert len(set(groups[drawn])) == count
      assert set(groups[drawn]).isdisjoint(groups[~drawn])
      assert (drawn | ~last).all()
      last = drawn
  order = RNG.permutation(len(groups))
  np.testing.assert_array_equal(
    label_draw(groups[order], 3, 1), label_draw(groups, 3, 1)[order]
  )
  draws = {tuple(label_draw(groups, 2, seed)) for seed in range(10)}
  assert len(draws) > 3
  for count in (0, 10):
    with pytest.raises(DataError, match=f"labels of {count} groups"):
      label_draw(groups, count, 0)
