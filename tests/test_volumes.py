"""Volumes as slices: geometry, intensities, class maps and refusals."""

import time
from concurrent import futures

import cloudpickle
import nibabel
import numpy as np
import pytest
from scipy import ndimage

from gcl_jax.data import nifti, npz_volumes, volume_files, windows
from gcl_jax.data.formats import read_volume
from gcl_jax.data.slices import prepare_slice, restore
from gcl_jax.data.splits import label_draw
from gcl_jax.data.volume_files import nifti_volume, volume_table
from gcl_jax.data.volumes import Volume, Voxels, volumes
from gcl_jax.errors import ConfigError, DataError

RNG = np.random.default_rng(7)
RAS = RNG.normal(50, 20, (6, 5, 4)).astype(np.float32)  # R, A, S
LABEL = RNG.integers(0, 3, (6, 5, 4)).astype(np.uint8)
SPACING = (0.5, 1.5, 8.0)  # of R, A, S
CODES = {1: "one", 2: "two"}


def save(path, values, affine=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  affine = np.diag([*SPACING, 1]) if affine is None else affine
  nibabel.save(nibabel.Nifti1Image(values, affine), path)
  return path


def stored(values, order):
  """The same anatomy stored another way: flipped, or with turned axes."""
  affine = np.diag([*SPACING, 1.0])
  if order == "lps":
    affine[:2] *= -1
    return values[::-1, ::-1], affine
  if order == "sar":
    return values.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
  return values, affine


def array_volume(image, label=None, **facts):
  def voxels(name, values):
    return Voxels(name, values.shape, lambda: values)

  facts = {"id": "v", "spacing": (1, 1, 1), **facts}
  masks = None if label is None else voxels("the_label", label)
  return Volume(image=voxels("the_image", image), label=masks, **facts)


def mr_reference(volume, percentiles=(1, 99)):
  values = volume.astype(np.float64)
  low, high = np.percentile(values, percentiles)
  values = np.minimum(np.maximum(values, low), high)
  z = (values - values.mean()) / values.std()
  return np.floor(255 * np.clip((z + 3) / 6, 0, 1) + 0.5)


# Geometry


@pytest.mark.parametrize("order", ["ras", "lps", "sar"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_follow_the_anatomy_not_the_storage(tmp_path, order, axis):
  image = save(tmp_path / "i.nii.gz", *stored(RAS, order))
  label = save(tmp_path / "l.nii.gz", *stored(LABEL, order))
  volume = nifti_volume("v", image, label, axis=axis, codes=CODES)
  r, a, s = RAS.shape
  # Explicit loops over what the table in volume_files promises.
  shape, spacing, place = {
    "axial": ((s, a, r), (8, 1.5, 0.5), lambda k, y, x: (-1 - x, -1 - y, k)),
    "coronal": (
      (a, s, r),
      (1.5, 8, 0.5),
      lambda k, y, x: (-1 - x, -1 - k, -1 - y),
    ),
    "sagittal": (
      (r, s, a),
      (0.5, 8, 1.5),
      lambda k, y, x: (-1 - k, -1 - x, -1 - y),
    ),
  }[axis]
  assert volume.image.shape == volume.label.shape == shape
  np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-6)
  pixels, classes = volume.image.read(), volume.label.read()
  assert pixels.shape == shape
  for index in np.ndindex(shape):
    assert pixels[index] == RAS[place(*index)]
    assert classes[index] == LABEL[place(*index)]


def test_stored_slices_are_those_of_the_file(tmp_path):
  values, affine = stored(RAS, "sar")
  affine[:, 0] *= -1  # no look at the affine
  image = save(tmp_path / "i.nii.gz", values, affine)
  volume = nifti_volume("v", image, axis="stored")
  np.testing.assert_array_equal(volume.image.read(), values.transpose(2, 1, 0))
  np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-6)
  assert volume.image.shape == values.shape[::-1]


def test_a_tilted_grid_goes_to_the_nearest_axes(tmp_path):
  turn = np.deg2rad(20)
  affine = np.diag([*SPACING, 1.0])
  tilt = np.eye(4)
  tilt[1:3, 1:3] = [
    [np.cos(turn), -np.sin(turn)],
    [np.sin(turn), np.cos(turn)],
  ]
  image = save(tmp_path / "i.nii.gz", RAS, tilt @ affine)
  volume = nifti_volume("v", image)
  np.testing.assert_allclose(volume.spacing, SPACING[::-1], rtol=1e-5)
  assert volume.image.shape == RAS.shape[::-1]


def test_a_frame_of_a_film(tmp_path):
  film = RNG.normal(size=(6, 5, 4, 3)).astype(np.float32)
  path = save(tmp_path / "f.nii.gz", film)
  for frame in range(3):
    alone = save(tmp_path / f"{frame}.nii.gz", film[..., frame])
    for axis in volume_files.AXES:
      volume = nifti_volume("v", path, axis=axis, frame=frame)
      single = nifti_volume("v", alone, axis=axis)
      assert volume.image.shape == single.image.shape
      np.testing.assert_array_equal(volume.image.read(), single.image.read())
  with pytest.raises(DataError, match="no frame 4, there are 3"):
    nifti_volume("v", path, frame=3)
  with pytest.raises(DataError, match="expected 3"):
    nifti_volume("v", path)


def test_the_unit_of_the_header_counts(tmp_path):
  image = nibabel.Nifti1Image(RAS, np.diag([0.5e-3, 1.5e-3, 8e-3, 1]))
  image.header.set_xyzt_units("meter")
  nibabel.save(image, tmp_path / "m.nii.gz")
  found = nifti.nifti_grid(tmp_path / "m.nii.gz")
  np.testing.assert_allclose(found.spacing, SPACING, rtol=1e-6)
  assert found.directions == ("R", "A", "S") and found.frames == 1
  assert found.shape == RAS.shape and found.dtype == np.float32


# Table


def test_columns_positions_and_groups():
  image = RNG.normal(size=(4, 3, 2))
  entries = [
    array_volume(
      image,
      np.zeros((4, 3, 2), int),
      id="a",
      patient="p",
      phase="ED",
      spacing=(8, 2, 1),
      codes=CODES,
      columns={"scale": "x", "weight": 70.0},
    ),
    array_volume(
      image[:2], id="b", modality="ct", columns={"scale": "y", "weight": 1.0}
    ),
  ]
  found = volumes("set", entries)
  assert found.ids.tolist() == [f"a_s00{k}" for k in range(4)] + [
    "b_s000",
    "b_s001",
  ]
  assert found.groups.tolist() == ["p"] * 4 + ["b"] * 2
  assert found.column("patient").tolist() == ["p"] * 4 + [""] * 2
  assert found.column("volume").tolist() == ["a"] * 4 + ["b"] * 2
  expected = [1 / 4, 2 / 4, 3 / 4, 1, 1 / 2, 1]
  np.testing.assert_allclose(found.column("position"), expected)
  assert found.column("slice").tolist() == [0, 1, 2, 3, 0, 1]
  assert found.column("phase").tolist() == ["ED"] * 4 + [""] * 2
  assert found.column("modality").tolist() == ["mr"] * 4 + ["ct"] * 2
  assert found.column("labelled").tolist() == [1] * 4 + [0] * 2
  assert found.column("spacing_z")[[0, 5]].tolist() == [8, 1]
  assert found.column("spacing_y")[[0, 5]].tolist() == [2, 1]
  assert found.column("spacing_x")[[0, 5]].tolist() == [1, 1]
  assert found.column("scale").tolist() == ["x"] * 4 + ["y"] * 2
  assert found.classes == ("one", "two")
  assert set(found.meta) <= set(found.table) and "weight" in found.meta
  with pytest.raises(DataError, match="'b' has no label map"):
    found.read_mask(4)


def test_select_takes_the_masks_along():
  label = np.repeat([0, 1, 1, 2], 6).reshape(4, 3, 2)
  found = volumes(
    "s", [array_volume(RNG.normal(size=(4, 3, 2)), label, codes=CODES)]
  )
  part = found.select(np.array([2, 3])).select(np.array([False, True]))
  assert part.ids.tolist() == ["v_s003"]
  np.testing.assert_array_equal(part.read(0), found.read(3))
  np.testing.assert_array_equal(part.read_mask(0), label[3])
  assert part.classes == ("one", "two")
  bare = volumes("s", [array_volume(RNG.normal(size=(4, 3, 2)))])
  assert bare.read_mask is None and bare.classes == ()
  assert bare.select(np.array([1])).read_mask is None


def test_nothing_but_headers_is_read_for_the_table(tmp_path, monkeypatch):
  image = save(tmp_path / "i.nii.gz", RAS)
  label = save(tmp_path / "l.nii.gz", LABEL)
  reads = []

  def counted(path, **options):
    reads.append(path.name)
    return nifti.read_nifti(path, **options)

  monkeypatch.setattr(volume_files, "read_nifti", counted)
  names = [f"v{k}" for k in range(3)]
  found = volumes(
    "s", [nifti_volume(n, image, label, codes=CODES) for n in names]
  )
  assert len(found) == 3 * 4 and found.column("position")[3] == 1
  assert not reads
  for row in range(8):
    found.read(row)
  assert reads == ["i.nii.gz"] * 2  # once a volume
  found.read_mask(0)
  assert reads[2:] == ["l.nii.gz"]
  found.read(0)[:] = 0  # what a caller does to a slice stays with the caller
  assert found.read(0).any() and len(reads) == 3


def test_threads_read_a_volume_once():
  reads = []

  def slow():
    reads.append(1)
    time.sleep(0.05)
    return RAS

  entry = Volume("v", Voxels("f", RAS.shape, slow), (1, 1, 1))
  found = volumes("s", [entry])
  with futures.ThreadPoolExecutor(6) as pool:
    slices = list(pool.map(found.read, range(6)))
  assert len(reads) == 1
  np.testing.assert_array_equal(slices, [found.read(k) for k in range(6)])


def test_it_can_be_sent_to_another_process(tmp_path):
  image = save(tmp_path / "i.nii.gz", RAS)
  label = save(tmp_path / "l.nii.gz", LABEL)
  found = volumes("s", [nifti_volume("v", image, label, codes=CODES)])
  found.read(0)
  sent = cloudpickle.loads(cloudpickle.dumps(found.select(np.array([1, 2]))))
  np.testing.assert_array_equal(sent.read(1), found.read(2))
  np.testing.assert_array_equal(sent.read_mask(1), found.read_mask(2))


# Intensities


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("percentiles", [(1.0, 99.0), (0.0, 100.0)])
def test_mr_against_float64(kind, percentiles):
  volume = (RNG.gamma(1.0, 25, (5, 24, 20))).astype(kind)
  found = windows.window_mr(volume, percentiles)
  assert found.dtype == np.uint8
  expected = mr_reference(volume, percentiles)
  assert (expected == 255).any()  # some voxel lies beyond z = 3
  assert np.mean(found != expected) < 1e-3
  assert np.abs(found - expected).max() <= 1
  again = windows.window_mr(volume.astype(np.float64) * 3e4 + 7, percentiles)
  assert np.abs(found.astype(int) - again).max() <= 1


def test_a_large_offset_does_not_spoil_the_spread():
  volume = (1e6 + RNG.normal(size=(40, 40, 40))).astype(np.float32)
  expected = mr_reference(volume)
  assert np.abs(windows.window_mr(volume) - expected).max() <= 1


def test_ct_against_the_formula():
  hu = np.linspace(-1024, 3000, 4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
  found = windows.window_ct(hu, (-160, 240))
  expected = [
    min(255, max(0, int((float(v) + 160) / 400 * 255 + 0.5 // 1)))
    if v > -160
    else 0
    for v in hu.ravel().tolist()
  ]
  assert np.abs(found.ravel().astype(int) - expected).max() <= 1
  edges = np.array([-161, -160, 40, 240, 241]).reshape(1, 1, 5)
  assert windows.window_ct(edges, (-160, 240)).ravel().tolist() == [
    *(0, 0, 128, 255, 255)
  ]
  assert windows.CT_WINDOW == (-200, 800)
  with pytest.raises(DataError, match="first must be smaller"):
    windows.window_ct(hu, (5, 5))


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
    windows.window_mr(speck)
  assert windows.window_mr(speck, (0, 100)).max() == 255


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
  changed = Volume("v", Voxels("f", (1, 2, 3), lambda: image), (1, 1, 1))
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


# Your own table


def test_volumes_of_a_table(tmp_path):
  image = save(tmp_path / "x" / "a.nii.gz", RAS)
  save(tmp_path / "x" / "a_seg.nii.gz", LABEL)
  table = tmp_path / "t.csv"
  table.write_text(
    "id,image,label,patient,phase,modality,age\n"
    "one,x/a.nii.gz,x/a_seg.nii.gz,p1,ED,,50\n"
    "two,x\\a.nii.gz,,,,ct,\n"
  )
  found = volume_table(
    tmp_path, table, classes=("a", "b"), meta_columns=("age",)
  )
  assert found.groups[[0, -1]].tolist() == ["p1", "two"]
  assert found.column("phase")[[0, -1]].tolist() == ["ED", ""]
  assert found.column("modality")[[0, -1]].tolist() == ["mr", "ct"]
  assert found.column("age")[0] == 50 and np.isnan(found.column("age")[-1])
  np.testing.assert_allclose(found.column("spacing_z"), 8)
  pixels = read_volume(image)
  np.testing.assert_allclose(found.read(2), mr_reference(pixels)[2], atol=1)
  np.testing.assert_array_equal(found.read(4), windows.window_ct(pixels)[0])
  expected = LABEL[::-1, ::-1].transpose(2, 1, 0)
  np.testing.assert_array_equal(found.read_mask(1), expected[1])
  table.write_text("id,image\none,x/a.nii.gz\n")
  assert volume_table(tmp_path, table, axis="sagittal").read_mask is None


@pytest.mark.parametrize(
  ("row", "words"),
  [
    ("one,no.nii.gz,", "row 2, column 'image': 'no.nii.gz': no such file"),
    ("one,a.nii.gz,no.nii", "row 2, column 'label': 'no.nii': no such file"),
    ("one,../a.nii.gz,", "outside the folder"),
    ("one,,", "column 'image': is blank"),
    (",a.nii.gz,", "column 'id': is blank"),
    ("one,a.nii.gz,a.nii.gz", "declare the classes"),
  ],
)
def test_a_wrong_table_is_refused(tmp_path, row, words):
  save(tmp_path / "a.nii.gz", RAS)
  (tmp_path / "t.csv").write_text(f"id,image,label\n{row}\n")
  with pytest.raises(DataError, match=words):
    volume_table(tmp_path, tmp_path / "t.csv")


# npz


def save_npz(path, values, affine, kind="image", **arrays):
  np.savez(
    path, **{kind: values, "spacing": SPACING, "affine": affine} | arrays
  )


@pytest.mark.parametrize("order", ["ras", "lps", "sar"])
@pytest.mark.parametrize("axis", volume_files.AXES)
def test_a_volume_in_npz_is_the_one_in_nifti(tmp_path, order, axis):
  values, affine = stored(RAS, order)
  mask, _ = stored(LABEL, order)
  spacing = SPACING[::-1] if order == "sar" else SPACING
  save(tmp_path / "i.nii", values, affine)
  save(tmp_path / "l.nii", mask, affine)
  save_npz(tmp_path / "both.npz", values, affine, label=mask, spacing=spacing)
  save_npz(tmp_path / "l.npz", mask, affine, "label", spacing=spacing)
  (tmp_path / "t.csv").write_text(
    "id,image,label\na,i.nii,l.nii\nb,both.npz,both.npz\nc,i.nii,l.npz\n"
    "d,both.npz,l.nii\n"
  )
  found = volume_table(
    tmp_path, tmp_path / "t.csv", axis=axis, classes=("a", "b")
  )
  count = len(found) // 4
  for row in range(count):
    for other in range(row + count, 4 * count, count):
      np.testing.assert_array_equal(found.read(other), found.read(row))
      np.testing.assert_array_equal(
        found.read_mask(other), found.read_mask(row)
      )
      for side in "zyx":
        column = found.column(f"spacing_{side}")
        assert column[other] == pytest.approx(column[row])


def test_an_npz_volume_may_take_its_spacing_from_the_table(tmp_path):
  np.savez(tmp_path / "i.npz", image=RAS)
  np.savez(tmp_path / "l.npz", label=LABEL > 0)  # neither spacing nor affine
  save(tmp_path / "i.nii", RAS)
  table = tmp_path / "t.csv"
  table.write_text(
    "id,image,label,spacing_1,spacing_2,spacing_3\n"
    "a,i.npz,l.npz,0.5,1.5,8\nb,i.nii,,,,\n"
  )
  found = volume_table(tmp_path, table, axis="stored", classes=("a",))
  for side, wanted in zip("xyz", SPACING, strict=True):
    np.testing.assert_allclose(found.column(f"spacing_{side}"), wanted)
  np.testing.assert_array_equal(found.read_mask(2), (LABEL > 0)[:, :, 2].T)
  np.testing.assert_array_equal(found.read(2), found.read(6))
  with pytest.raises(DataError, match="i.npz: no array 'affine', so which axi"):
    volume_table(tmp_path, table, classes=("a",))


@pytest.mark.parametrize(
  ("arrays", "words"),
  [
    ({"spacing": None}, "no array 'spacing': store it, .* or give the table s"),
    ({"image": None}, "no array 'image'; there is spacing, affine"),
    ({"image": RAS[0]}, r"image \(5, 4\) of float32; expected three axes"),
    ({"image": RAS.astype(str)}, "expected three axes of numbers"),
    ({"image": RAS[:0]}, "the header declares the size 0 x 5 x 4"),
    ({"spacing": (1, 0, 1)}, r"spacing \[1.0, 0.0, 1.0\] mm, expected above 0"),
    ({"spacing": (1, 1)}, r"spacing is not \(3,\) finite numbers"),
    ({"affine": np.eye(3)}, r"affine is not \(4, 4\) finite numbers"),
    ({"affine": np.full((4, 4), np.nan)}, "affine is not"),
    ({"affine": np.zeros((4, 4))}, "does not tell the three axes apart"),
  ],
)
def test_an_npz_volume_that_says_too_little_is_refused(tmp_path, arrays, words):
  arrays = {"image": RAS, "spacing": SPACING, "affine": np.eye(4)} | arrays
  kept = {name: v for name, v in arrays.items() if v is not None}
  np.savez(tmp_path / "i.npz", **kept)
  (tmp_path / "t.csv").write_text("id,image\na,i.npz\n")
  with pytest.raises(DataError, match=f"i.npz: .*{words}|i.npz: {words}") as e:
    volume_table(tmp_path, tmp_path / "t.csv")
  assert "\n" not in str(e.value)


def test_nothing_but_headers_of_npz_is_unpacked_for_the_table(
  tmp_path, monkeypatch
):
  save_npz(tmp_path / "i.npz", RAS, np.eye(4))
  (tmp_path / "t.csv").write_text("id,image\na,i.npz\n")
  reads = []
  read_npz = npz_volumes.read_npz

  def counted(path, names):
    reads.append(names)
    return read_npz(path, names)

  monkeypatch.setattr(npz_volumes, "read_npz", counted)
  found = volume_table(tmp_path, tmp_path / "t.csv")
  assert len(found) == 4 and "image" not in sum(reads, ())
  sent = cloudpickle.loads(cloudpickle.dumps(found))
  np.testing.assert_array_equal(sent.read(1), found.read(1))
