"""Hippocampus MR: the files, and whose volumes they are."""

import dataclasses
import types

import nibabel
import numpy as np
import pytest
from volume_cases import save, stored

from gcl_jax import data
from gcl_jax.data.formats import read_volume
from gcl_jax.data.readers.hippocampus import read as hippocampus
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.gcl.config import get_config
from gcl_jax.pipeline import sources

RNG = np.random.default_rng(3)
SHAPE = (7, 6, 4)


def image():
  return RNG.normal(200, 60, SHAPE)


def labels():
  return RNG.integers(0, 3, SHAPE).astype(np.uint8)


def test_hippocampus_in_the_layout_of_the_decathlon(tmp_path):
  pixels = [image().astype(np.float32), image().astype(np.uint8)]
  masks = [labels() for _ in pixels]
  for k, (values, mask) in enumerate(zip(pixels, masks, strict=True)):
    name = f"hippocampus_{k + 1:03d}.nii.gz"
    order = ("ras", "lps")[k]
    save(tmp_path / "imagesTr" / name, *stored(values, order))
    save(tmp_path / "labelsTr" / name, *stored(mask, order))
    (tmp_path / "imagesTr" / f"._{name}").write_bytes(b"x")
  found = hippocampus(tmp_path, axis="sagittal")
  assert found.classes == ("anterior", "posterior")
  assert found.column("scale").tolist() == ["float32"] * 7 + ["uint8"] * 7
  assert found.ids[0] == "hippocampus_001_s000"
  assert set(found.groups) == {"hippocampus_001+002"}
  for row in range(14):
    mask = masks[row // 7][6 - row % 7, ::-1, ::-1].T
    np.testing.assert_array_equal(found.read_mask(row), mask)
  (tmp_path / "labelsTr" / "hippocampus_001.nii.gz").unlink()
  with pytest.raises(DataError, match="hippocampus_001.nii.gz: has no class"):
    hippocampus(tmp_path)


def hippocampi(path, images):
  """An npz file of these images, number -> voxels."""
  arrays = {f"image_{k:03d}": values for k, values in images.items()}
  arrays |= {f"label_{k:03d}": labels() for k in images}
  np.savez(path, ids=[f"{k:03d}" for k in images], **arrays)
  return path


def patients_of(found):
  """number -> the numbers of the patient's volumes, as in the group's name."""
  assert found.groups.tolist() == found.column("patient").tolist()
  return {
    int(volume[-3:]): group.removeprefix("hippocampus_")
    for volume, group in zip(
      found.column("volume").tolist(), found.groups.tolist(), strict=True
    )
  }


def test_hippocampus_joins_volumes_by_number_and_by_step(tmp_path):
  grid = RNG.integers(-400, 400, (13, *SHAPE))
  steps = (7.5, 5.95897, 5.95897, 6.25201, 8.021, 8.021, 6.25201, 7.5, 7.5)
  steps += (9.00977, 9.61612, 9.00977, 9.61612)
  numbers = (20, 3, 4, 5, 7, 8, 16, 30, 31, 51, 52, 61, 71)
  images = {
    number: (counts * step).astype(np.float32)
    for number, counts, step in zip(numbers, grid, steps, strict=True)
  }
  images |= {number: image().astype(np.uint8) for number in (11, 14, 15, 40)}
  expected = {
    # Two sides; one of them alone; no step at all.
    **dict.fromkeys((3, 4), "003+004"),
    **dict.fromkeys((7, 8), "007+008"),
    **{11: "011+012", 14: "013+014", 40: "039+040"},
    # One step in volumes of other numbers: one patient, and so is the other
    # side of each, here 15 of 16.
    **dict.fromkeys((5, 15, 16), "005+006+015+016"),
    **dict.fromkeys((20, 30, 31), "019+020+029+030+031+032"),
    # Sides of two steps, each found elsewhere: joined all the same.
    **dict.fromkeys((51, 52, 61, 71), "051+052+061+062+071+072"),
  }
  names = list(images)
  for order in (names, names[::-1], sorted(names)):
    path = hippocampi(tmp_path / "h.npz", {k: images[k] for k in order})
    assert patients_of(hippocampus(path)) == expected


def test_hippocampus_finds_the_step_of_files_that_state_it(tmp_path):
  """Integers with a slope in the header, and the same scan in floats."""
  for number in (1, 9):
    values = RNG.integers(0, 400, SHAPE) * np.float32(7.10379)
    stated = nibabel.Nifti1Image(values, np.eye(4))
    if number == 1:
      stated.header.set_data_dtype(np.int16)
      stated.header.set_slope_inter(7.10379, 0)
    name = f"hippocampus_{number:03d}"
    nibabel.save(stated, tmp_path / f"{name}_image.nii.gz")
    save(tmp_path / f"{name}_label.nii.gz", labels(), np.eye(4))
  stored_as = nibabel.load(tmp_path / "hippocampus_001_image.nii.gz").dataobj
  assert np.float32(stored_as.slope) == np.float32(7.10379)
  found = hippocampus(tmp_path)
  assert set(found.column("scale")) == {"int16", "float64"}
  assert set(found.groups) == {"hippocampus_001+002+009+010"}


def test_hippocampus_leaves_a_damaged_volume_to_its_slices(tmp_path):
  for number in (1, 2, 5):
    name = f"hippocampus_{number:03d}"
    save(tmp_path / f"{name}_image.nii.gz", image().astype(np.float32))
    save(tmp_path / f"{name}_label.nii.gz", labels())
  bad = tmp_path / "hippocampus_002_image.nii.gz"
  bad.write_bytes(bad.read_bytes()[:-60])
  found = hippocampus(tmp_path)
  assert patients_of(found) == {1: "001+002", 2: "001+002", 5: "005+006"}
  found.read(0)
  with pytest.raises(DataError, match="hippocampus_002_image.nii.gz"):
    found.read(list(found.column("volume")).index("hippocampus_002"))


def test_hippocampus_refuses(tmp_path):
  with pytest.raises(DataError, match="neither imagesTr"):
    hippocampus(tmp_path)
  with pytest.raises(ConfigError, match="axis 'up'"):
    hippocampus(tmp_path, axis="up")
  path, volume = tmp_path / "h.npz", np.zeros((2, 3, 4), np.uint8)
  for arrays, words in (
    ({"x": volume}, "no array 'ids'"),
    ({"ids": ["1"], "image_1": volume}, "no array 'label_1'"),
    (
      {"ids": ["left"], "image_left": volume, "label_left": volume},
      "'hippocampus_left' ends in no number, which tells the patient",
    ),
    ({"ids": ["1"], "image_1": volume[0]}, r"image_1 \(3, 4\) of uint8"),
    (
      {"ids": ["1"], "image_1": volume, "label_1": volume[1:]},
      r"label_1: \(4, 3, 1\) voxels, but .*image_1 has \(4, 3, 2\)",
    ),
  ):
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words):
      hippocampus(path)
  with pytest.raises(ConfigError, match="axis 'stored' of an npz file"):
    hippocampus(path, axis="stored")


def test_real_hippocampus(real_data):
  path = real_data / "mr_hippocampus.npz"
  found = data.load(types.SimpleNamespace(name="hippocampus", path=path))
  assert len(found) == 7139
  names = found.column("volume")
  scales = dict(zip(names.tolist(), found.column("scale"), strict=True))
  assert list(scales.values()).count("uint8") == 44 and len(scales) == 200
  # Every volume, on whatever scale, comes out on the same one.
  arrays = np.load(path)
  for name in list(scales)[::40]:
    rows = np.flatnonzero(names == name)
    pixels = np.stack([found.read(row) for row in rows])
    masks = np.stack([found.read_mask(row) for row in rows])
    short = name.removeprefix("hippocampus_")
    raw = arrays[f"image_{short}"].transpose(2, 1, 0)[:, ::-1, ::-1]
    values = np.clip(raw.astype(float), *np.percentile(raw, (1, 99)))
    z = (values - values.mean()) / values.std()
    expected = np.floor(255 * np.clip((z + 3) / 6, 0, 1) + 0.5)
    assert np.abs(pixels - expected).max() <= 1
    assert set(np.unique(masks)) == {0, 1, 2}
    assert found.column("position")[rows[-1]] == 1
    # Anterior lies in front: smaller rows, as row 0 is anterior.
    front, back = (np.nonzero(masks == c)[1].mean() for c in (1, 2))
    assert front < back
  counts = {
    axis: len(hippocampus(path, axis=axis)) for axis in ("coronal", "sagittal")
  }
  assert counts == {"coronal": 9993, "sagittal": 7077}


def smallest_gap(values):
  """The step of a real float volume, read off its smallest difference."""
  gaps = np.diff(np.unique(values.astype(float)))
  counts = np.round(values / gaps.min())  # the gap is coarse, so refine
  return np.median(values[counts > 0] / counts[counts > 0])


def test_real_hippocampus_has_no_patient_on_both_sides(real_data):
  path = real_data / "mr_hippocampus.npz"
  arrays = np.load(path)
  steps = {
    int(name): smallest_gap(arrays[f"image_{name}"])
    for name in arrays["ids"].tolist()
    if arrays[f"image_{name}"].dtype == np.float32
  }
  assert len(steps) == 156
  size = {
    int(name): np.count_nonzero(arrays[f"label_{name}"])
    for name in arrays["ids"].tolist()
  }
  # What the docstring of the reader says of these 200 volumes.
  pairs = [(k, k + 1) for k in steps if k + 1 in steps]
  same = [(a, b) for a, b in pairs if abs(steps[a] / steps[b] - 1) < 1e-6]
  assert len(pairs) == 78 and len(same) == 44
  assert {a % 2 for a, _ in same} == {1}
  assert {a % 2 for a, b in pairs if (a, b) not in same} == {0}
  others = sorted(steps.values())
  assert np.sum(np.diff(others) / others[1:] < 1e-6) == 44
  both = np.array([(size[a], size[b]) for a, b in same])
  assert np.corrcoef(both.T)[0, 1] == pytest.approx(0.889, abs=1e-3)
  found = hippocampus(path, axis="coronal")
  patients = patients_of(found)
  assert len(set(patients.values())) == 143
  assert all(patients[a] == patients[b] for a, b in same)
  assert len({patients[k] for k in steps}) == 156 - 44
  settings = get_config("hippocampus").data
  part = sources.parts(found, settings)
  side = dict(zip(found.column("volume").tolist(), part.tolist(), strict=True))
  side = {int(name[-3:]): where for name, where in side.items()}
  assert all(side[a] == side[b] for a, b in same)
  assert all(side[k] == side[k + 1] for k in side if k % 2 and k + 1 in side)
  assert sorted(side.values()) == 47 * ["eval"] + 44 * ["ood"] + 109 * ["train"]
  # Every volume by itself, as before: the other side of 20 in training.
  alone = dataclasses.replace(
    found, table={**found.table, "group": found.column("volume")}
  )
  part = sources.parts(alone, settings)
  old = dict(zip(found.column("volume").tolist(), part.tolist(), strict=True))
  old = {int(name[-3:]): where for name, where in old.items()}
  crossing = [a for a, b in same if {old[a], old[b]} == {"train", "eval"}]
  assert len(crossing) == 20


def test_real_hippocampus_files_are_those_of_the_archive(real_data):
  files = hippocampus(real_data / "mr_hippocampus_nifti")
  archive = hippocampus(real_data / "mr_hippocampus.npz")
  row_of = {name: row for row, name in enumerate(archive.ids.tolist())}
  assert patients_of(files) == {1: "001+002", 3: "003+004", 4: "003+004"}
  for row, name in enumerate(files.ids.tolist()):
    other = row_of[name]
    for column in ("scale", "position", "spacing_z", "patient"):
      assert files.column(column)[row] == archive.column(column)[other]
    np.testing.assert_array_equal(files.read(row), archive.read(other))
    np.testing.assert_array_equal(
      files.read_mask(row), archive.read_mask(other)
    )
  folder = real_data / "mr_hippocampus_nifti"
  whole = read_volume(folder / "hippocampus_003_image.nii.gz")
  assert archive.column("slice")[row_of["hippocampus_003_s034"]] == 34
  assert len(whole) == 35
