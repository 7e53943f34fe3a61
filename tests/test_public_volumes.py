"""Public volumes in the layout of their owners, made up; and real ones."""

import shutil
import types

import cloudpickle
import nibabel
import numpy as np
import pytest

from gcl_jax import data
from gcl_jax.data import intensity
from gcl_jax.data.readers.acdc import read as acdc
from gcl_jax.data.readers.chd import read as chd
from gcl_jax.data.readers.hvsmr import read as hvsmr
from gcl_jax.data.readers.mmwhs import read as mmwhs
from gcl_jax.errors import ConfigError, DataError

RNG = np.random.default_rng(3)
SHAPE = (7, 6, 4)


def save(path, values, spacing=(1.25, 1.5, 9.0), flipped=False):
  """A NIfTI file; `flipped` stores the same anatomy from the other ends."""
  path.parent.mkdir(parents=True, exist_ok=True)
  affine = np.diag([*spacing, 1.0])
  if flipped:
    values, affine = values[::-1, ::-1], affine @ np.diag([-1, -1, 1, 1])
  nibabel.save(nibabel.Nifti1Image(values, affine), path)
  return path


def image(shape=SHAPE):
  return RNG.normal(200, 60, shape).astype(np.int16)


def labels(values, shape=SHAPE):
  return RNG.choice([0, *values], shape).astype(np.int16)


# ACDC

INFO = "ED: {}\nES: {}\nGroup: DCM\nHeight: 184.0\nNbFrame: 5\nWeight: 95.0\n"


def patient(folder, ed=1, es=4, film=5):
  """One patient's folder; returns the film and the class maps by frame."""
  folder.mkdir(parents=True)
  name = folder.name
  (folder / "Info.cfg").write_text(INFO.format(ed, es))
  frames = image((*SHAPE, film))
  save(folder / f"{name}_4d.nii.gz", frames)
  masks = {frame: labels([1, 2, 3]) for frame in (ed, es)}
  for frame, mask in masks.items():
    stem = folder / f"{name}_frame{frame:02d}"
    save(stem.with_name(f"{stem.name}.nii.gz"), frames[..., frame - 1])
    save(stem.with_name(f"{stem.name}_gt.nii.gz"), mask)
  return frames, masks


def z_scored(values):
  z = (values - values.mean(dtype=float)) / values.std(dtype=float)
  return np.floor(255 * np.clip((z + 3) / 6, 0, 1) + 0.5)


def test_acdc(tmp_path):
  frames, masks = patient(tmp_path / "training" / "patient001")
  patient(tmp_path / "testing" / "patient101", ed=2, es=5)
  found = acdc(tmp_path)
  assert found.classes == ("right ventricle", "myocardium", "left ventricle")
  assert list(dict.fromkeys(found.column("volume").tolist())) == [
    "patient101_frame02",
    "patient101_frame05",
    "patient001_frame01",
    "patient001_frame04",
  ]
  assert list(dict.fromkeys(found.groups.tolist())) == [
    "patient101",
    "patient001",
  ]
  own = found.select(found.groups == "patient001")
  assert own.column("phase").tolist() == ["ED"] * 4 + ["ES"] * 4
  assert own.column("frame").tolist() == [1] * 4 + [4] * 4
  np.testing.assert_allclose(own.column("cycle"), [1 / 5] * 4 + [4 / 5] * 4)
  assert own.column("pathology")[0] == "DCM"
  assert own.column("height")[0] == 184 and own.column("weight")[0] == 95
  assert set(own.column("part")) == {"training"}
  assert set(own.column("split")) == {"train"}
  assert set(found.column("split")[:8]) == {"eval"}
  np.testing.assert_allclose(own.column("spacing_z"), 9)
  np.testing.assert_allclose(own.column("spacing_y"), 1.5)
  np.testing.assert_allclose(own.column("spacing_x"), 1.25)
  for row, (frame, k) in enumerate((f, k) for f in (1, 4) for k in range(4)):
    expected = z_scored(frames[..., frame - 1])[:, :, k].T
    np.testing.assert_allclose(own.read(row), expected, atol=1)
    np.testing.assert_array_equal(own.read_mask(row), masks[frame][:, :, k].T)


def test_acdc_films(tmp_path):
  frames, masks = patient(tmp_path / "patient007", ed=2, es=4)
  found = acdc(tmp_path / "patient007", cine=True)
  assert len(found) == 5 * 4 and "split" not in found.table
  assert found.column("part")[0] == ""
  assert found.column("frame").tolist() == np.repeat(range(1, 6), 4).tolist()
  # The film counts where it is read, whatever Info.cfg says.
  file = tmp_path / "patient007" / "Info.cfg"
  file.write_text(file.read_text().replace("NbFrame: 5", "NbFrame: 30"))
  cycle = acdc(tmp_path, cine=True).column("cycle")
  np.testing.assert_allclose(cycle, np.repeat([0.2, 0.4, 0.6, 0.8, 1.0], 4))
  np.testing.assert_allclose(acdc(tmp_path).column("cycle")[-1], 4 / 30)
  phases = np.repeat(["", "ED", "", "ES", ""], 4).tolist()
  assert found.column("phase").tolist() == phases
  assert found.column("labelled").tolist() == [float(p != "") for p in phases]
  for frame in range(1, 6):
    row = 4 * (frame - 1) + 2
    expected = z_scored(frames[..., frame - 1])[:, :, 2].T
    np.testing.assert_allclose(found.read(row), expected, atol=1)
  np.testing.assert_array_equal(found.read_mask(6), masks[2][:, :, 2].T)
  with pytest.raises(DataError, match="patient007_frame01.* no label map"):
    found.read_mask(0)


@pytest.mark.parametrize(
  ("file", "text", "words"),
  [
    ("patient001_frame04_gt.nii.gz", None, "the class map of ES is missing"),
    ("patient001_frame01.nii.gz", None, "Info.cfg says ED is frame 1"),
    ("patient001_4d.nii.gz", None, "cine=True needs the film"),
    ("Info.cfg", None, "Info.cfg: No such file"),
    ("Info.cfg", "ED: 1\nGroup: NOR\n", "ES is '', expected a frame number"),
    ("Info.cfg", INFO.format("one", 4), "ED is 'one', expected"),
    ("Info.cfg", INFO.format(4, 4), "ED and ES are the same frame"),
    ("Info.cfg", INFO.format(1, 4) + "Weight: x\n", "Weight is 'x', expected"),
    ("Info.cfg", INFO.format(1, 9), "ES is frame 9 of a film of 5"),
  ],
)
def test_acdc_refuses(tmp_path, file, text, words):
  patient(tmp_path / "patient001")
  if text is None:
    (tmp_path / "patient001" / file).unlink()
  else:
    (tmp_path / "patient001" / file).write_text(text)
  with pytest.raises(DataError, match=words) as caught:
    acdc(tmp_path, cine=True)
  assert "\n" not in str(caught.value)


def test_acdc_without_optional_facts_and_patients(tmp_path):
  with pytest.raises(DataError, match="no folder patient001"):
    acdc(tmp_path)
  patient(tmp_path / "patient001")
  (tmp_path / "patient001" / "Info.cfg").write_text("ED: 1\nES: 4\n")
  found = acdc(tmp_path)
  assert found.column("pathology")[0] == ""
  for column in ("height", "cycle"):
    assert np.isnan(found.column(column)).all()
  (tmp_path / "patient001" / "Info.cfg").write_text("ED: 1\nES: 4\nNbFrame: 3")
  with pytest.raises(DataError, match="ES is frame 4 of a film of 3"):
    acdc(tmp_path)


def test_acdc_label_values(tmp_path):
  patient(tmp_path / "patient001")
  file = tmp_path / "patient001" / "patient001_frame01_gt.nii.gz"
  save(file, labels([1, 2, 4]))
  with pytest.raises(DataError, match="frame01_gt.nii.gz: label values 4 are"):
    acdc(tmp_path).read_mask(0)


# HVSMR


def hvsmr_tree(root):
  pixels, masks = {}, {}
  for k in (0, 2):
    name = f"training_axial_crop_pat{k}"
    pixels[k], masks[k] = image(), labels([1, 2])
    flipped = k == 2
    places = root / "Training dataset", root / "Ground truth"
    save(places[0] / f"{name}.nii.gz", pixels[k], flipped=flipped)
    save(places[1] / f"{name}-label.nii.gz", masks[k], flipped=flipped)
    (places[0] / f"._{name}.nii.gz").write_bytes(b"x")
  save(root / "Test dataset" / "testing_axial_crop_pat10.nii.gz", image())
  save(root / "training_axial_full_pat0.nii.gz", image())
  return pixels, masks


def test_hvsmr(tmp_path):
  pixels, masks = hvsmr_tree(tmp_path)
  found = hvsmr(tmp_path)
  assert found.classes == ("myocardium", "blood pool")
  assert list(dict.fromkeys(found.groups.tolist())) == ["pat10", "pat0", "pat2"]
  assert set(found.column("part")[:4]) == {"testing"}
  assert found.column("labelled").tolist() == [0] * 4 + [1] * 8
  np.testing.assert_allclose(found.column("spacing_x"), 1.25)
  for row, (patient_, k) in enumerate(
    ((p, k) for p in (0, 2) for k in range(4)), 4
  ):
    expected = intensity.window_mr(pixels[patient_])[::-1, ::-1, k].T
    np.testing.assert_allclose(found.read(row), expected.astype(int), atol=1)
    mask = masks[patient_][::-1, ::-1, k].T
    np.testing.assert_array_equal(found.read_mask(row), mask)
  assert len(hvsmr(tmp_path, axis="coronal")) == 3 * 6


def test_hvsmr_refuses(tmp_path):
  with pytest.raises(DataError, match="no training_axial_crop"):
    hvsmr(tmp_path)
  hvsmr_tree(tmp_path)
  label = tmp_path / "Ground truth" / "training_axial_crop_pat0-label.nii.gz"
  shutil.copy(label, tmp_path / label.name)
  with pytest.raises(DataError, match="has the same name; remove one"):
    hvsmr(tmp_path)
  (tmp_path / label.name).unlink()
  label.unlink()
  with pytest.raises(DataError, match="pat0.nii.gz: no .*pat0-label.nii.gz"):
    hvsmr(tmp_path)


# MMWHS

VALUES = (500, 600, 420, 550, 205, 820, 850)


def mmwhs_tree(root):
  pixels, masks = {}, {}
  for name in ("ct_train_1001", "mr_train_1001"):
    pixels[name] = image()
    masks[name] = labels(VALUES)
    masks[name].ravel()[:7] = VALUES
    save(root / name[:8] / f"{name}_image.nii.gz", pixels[name])
    save(root / name[:8] / f"{name}_label.nii.gz", masks[name])
  save(root / "ct_test_2001_image.nii.gz", image())
  return pixels, masks


def test_mmwhs(tmp_path):
  pixels, masks = mmwhs_tree(tmp_path)
  masks["mr_train_1001"][0, 0, 0] = 421
  file = tmp_path / "mr_train" / "mr_train_1001_label.nii.gz"
  save(file, masks["mr_train_1001"])
  found = mmwhs(tmp_path)
  assert len(found.classes) == 7 and found.classes[2] == "left atrium"
  groups = list(dict.fromkeys(found.groups.tolist()))
  assert groups == ["ct_2001", "ct_1001", "mr_1001"]
  assert found.column("modality").tolist() == ["ct"] * 8 + ["mr"] * 4
  assert found.column("labelled").tolist() == [0] * 4 + [1] * 8
  number = {0: 0, 421: 3} | {v: i for i, v in enumerate(VALUES, 1)}
  for row, (name, k) in enumerate(
    ((n, k) for n in pixels for k in range(4)), 4
  ):
    expected = np.vectorize(number.get)(masks[name])[::-1, ::-1, k].T
    np.testing.assert_array_equal(found.read_mask(row), expected)
  hu = pixels["ct_train_1001"][::-1, ::-1, 0].T
  expected = np.floor(255 * np.clip((hu + 200) / 1000, 0, 1) + 0.5)
  np.testing.assert_array_equal(found.read(4), expected)
  expected = intensity.window_mr(pixels["mr_train_1001"])[::-1, ::-1, 0].T
  np.testing.assert_allclose(found.read(8), expected.astype(int), atol=1)
  only = mmwhs(tmp_path, modality="mr")
  assert set(only.column("modality")) == {"mr"}


def test_mmwhs_refuses(tmp_path):
  mmwhs_tree(tmp_path)
  with pytest.raises(ConfigError, match="modality 'pet'; known: mr, ct"):
    mmwhs(tmp_path, modality="pet")
  (tmp_path / "ct_train" / "ct_train_1001_label.nii.gz").unlink()
  with pytest.raises(DataError, match="1001_image.nii.gz: no ct_train_1001_la"):
    mmwhs(tmp_path)
  shutil.rmtree(tmp_path / "mr_train")
  with pytest.raises(DataError, match="no mr_train_1001_image.nii.gz or the"):
    mmwhs(tmp_path, modality="mr")


# CHD


def chd_tree(root):
  pixels, masks = {}, {}
  for number, where in (("1001", "."), ("1128", "more")):
    name, mask = f"ct_{number}", labels(range(1, 8))
    mask.ravel()[:9] = range(9)  # 8: not of the heart
    pixels[name], masks[name] = image(), mask
    save(root / where / f"{name}_image.nii.gz", pixels[name])
    save(root / where / f"{name}_label.nii.gz", mask)
    (root / where / f"._{name}_image.nii.gz").write_bytes(b"x")
  return pixels, masks


def test_chd(tmp_path):
  pixels, masks = chd_tree(tmp_path)
  found = chd(tmp_path)
  assert found.classes[0] == "left ventricle" and len(found.classes) == 7
  assert found.classes[4:] == ("myocardium", "aorta", "pulmonary artery")
  assert found.groups.tolist() == ["ct_1001"] * 4 + ["ct_1128"] * 4
  assert set(found.column("modality")) == {"ct"}
  assert set(found.column("labelled")) == {1}
  assert set(found.column("spacing_known")) == {0}  # no surface Dice
  for row, (name, k) in enumerate((n, k) for n in pixels for k in range(4)):
    mask = masks[name][::-1, ::-1, k].T
    np.testing.assert_array_equal(
      found.read_mask(row), np.where(mask > 7, 0, mask)
    )
    hu = pixels[name][::-1, ::-1, k].T
    expected = np.floor(255 * np.clip((hu + 200) / 1000, 0, 1) + 0.5)
    np.testing.assert_array_equal(found.read(row), expected)
  narrow = data.load(
    config("chd", tmp_path, ct_window=(0, 1e6), axis="coronal")
  )
  assert narrow.read(0).max() < 2 and len(narrow) == 2 * 6
  cloudpickle.loads(cloudpickle.dumps(found)).read_mask(0)


def test_chd_refuses(tmp_path):
  with pytest.raises(DataError, match="no ct_1001_image.nii.gz or the like"):
    chd(tmp_path)
  chd_tree(tmp_path)
  file = tmp_path / "ct_1001_label.nii.gz"
  save(file, labels([-1]))
  with pytest.raises(DataError, match="label values -1 are not declared"):
    chd(tmp_path).read_mask(0)
  file.unlink()
  with pytest.raises(DataError, match="1001_image.nii.gz: no ct_1001_label"):
    chd(tmp_path)


# By configuration


def config(name, path, **fields):
  return types.SimpleNamespace(name=name, path=str(path), **fields)


def test_load_knows_them(tmp_path):
  heart = {"patients": 2, "slices": 3, "phases": 2}
  found = data.load(types.SimpleNamespace(name="heart", heart=heart))
  assert len(found) == 2 * 3 * 2 and found.read_mask and found.classes
  patient(tmp_path / "a" / "patient001")
  assert len(data.load(config("acdc", tmp_path / "a"))) == 8
  found = config("acdc", tmp_path / "a", cine=True, axis="axial")
  assert len(data.load(found)) == 20
  mmwhs_tree(tmp_path / "m")
  found = data.load(config("mmwhs", tmp_path / "m", modality="mr", axis=""))
  assert set(found.column("modality")) == {"mr"}
  wide = config("mmwhs", tmp_path / "m", modality="ct", ct_window=(0, 1e6))
  assert data.load(wide).read(0).max() < 2
  hvsmr_tree(tmp_path / "h")
  found = data.load(config("hvsmr", tmp_path / "h", axis="sagittal"))
  assert len(found) == 3 * 7
  table = tmp_path / "t.csv"
  table.write_text(
    "id,image,label,age\nx,ct_train/ct_train_1001_image.nii.gz,,3\n"
  )
  with pytest.raises(DataError, match="'volumes' needs a table"):
    data.load(config("volumes", tmp_path / "m"))
  found = data.load(
    config(
      "volumes",
      tmp_path / "m",
      table=str(table),
      meta_columns=("age",),
      axis="coronal",
      classes=(),
      group_unknown="volume",
    )
  )
  assert len(found) == 6 and found.column("age")[0] == 3
