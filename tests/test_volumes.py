"""Volumes as slices: geometry and the table."""

import time
from concurrent import futures

import cloudpickle
import nibabel
import numpy as np
import pytest
from volume_cases import (
  CODES,
  LABEL,
  RAS,
  RNG,
  SPACING,
  array_volume,
  save,
  stored,
)

from gcl_jax.data import nifti, volume_files
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import Volume, Voxels, volumes
from gcl_jax.errors import DataError

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
      image[:2],
      id="b",
      patient="q",
      modality="ct",
      columns={"scale": "y", "weight": 1.0},
    ),
  ]
  found = volumes("set", entries)
  assert found.ids.tolist() == [f"a_s00{k}" for k in range(4)] + [
    "b_s000",
    "b_s001",
  ]
  assert found.groups.tolist() == ["p"] * 4 + ["q"] * 2
  assert found.column("patient").tolist() == ["p"] * 4 + ["q"] * 2
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


def test_a_volume_without_a_patient_is_refused():
  image = RNG.normal(size=(4, 3, 2))
  known, unknown = (
    array_volume(image, id=name, patient=patient)
    for name, patient in (("a", "p"), ("b", ""))
  )
  with pytest.raises(
    DataError, match="'set': 4 rows have no patient .*first is 'b_s000'"
  ):
    volumes("set", [known, unknown])


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
    "s",
    [nifti_volume(n, image, label, codes=CODES, patient=n) for n in names],
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

  entry = Volume("v", Voxels("f", RAS.shape, slow), (1, 1, 1), patient="p")
  found = volumes("s", [entry])
  with futures.ThreadPoolExecutor(6) as pool:
    slices = list(pool.map(found.read, range(6)))
  assert len(reads) == 1
  np.testing.assert_array_equal(slices, [found.read(k) for k in range(6)])


def test_it_can_be_sent_to_another_process(tmp_path):
  image = save(tmp_path / "i.nii.gz", RAS)
  label = save(tmp_path / "l.nii.gz", LABEL)
  entry = nifti_volume("v", image, label, codes=CODES, patient="p")
  found = volumes("s", [entry])
  found.read(0)
  sent = cloudpickle.loads(cloudpickle.dumps(found.select(np.array([1, 2]))))
  np.testing.assert_array_equal(sent.read(1), found.read(2))
  np.testing.assert_array_equal(sent.read_mask(1), found.read_mask(2))
