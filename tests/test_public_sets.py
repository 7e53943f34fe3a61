"""Readers of public sets, on small trees laid out as published."""

import csv

import ml_collections
import numpy as np
import openpyxl
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.data import splits
from gcl_jax.data.readers.kermany import read as kermany
from gcl_jax.data.readers.medmnist import read as medmnist
from gcl_jax.data.readers.octdl import read as octdl
from gcl_jax.data.readers.olives import BIOMARKERS, LABELS, clean_path
from gcl_jax.data.readers.olives import read as olives
from gcl_jax.errors import ConfigError, DataError


def save(path, value=0, shape=(4, 5)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full(shape, value, np.uint8)).save(path)


# OLIVES

PATH = "Path (Trial/Arm/Folder/Visit/Eye/Image Name)"
EMPTY = [
  "Drusen (sub-RPE)", "Drusen (RPD)", "GA/MA areas", "PED (fibrovascular)",
]  # fmt: skip
# Folder of an eye and visit, suffix on disk, eye number, patient number.
VISITS = [
  ("Prime_FULL/01-001/W0/OD", "tif", 1, 101),
  ("Prime_FULL/01-001/W52/OD", "png", 1, 101),
  ("Prime_FULL/02-007/W0/OS", "tif", 2, 102),
  ("TREX DME/GILA/0201GOD/V1/OD", "tif", 3, 103),
  ("TREX DME/GILA/0201GOS/V3/OS", "jpg", 4, 103),
  ("TREX DME/Monthly/0204MOD/V1/OD", "tif", 5, 104),
]


def slices(folder):
  if folder.startswith("Prime"):
    return ["0", "1"]
  return ["TREXA_000001", "TREX_DME_000002"]


def scans():
  for folder, suffix, eye, patient in VISITS:
    for number, name in enumerate(slices(folder)):
      yield f"{folder}/{name}", suffix, eye, patient, number


class Tables:
  """A tiny OLIVES with every known irregularity of its tables."""

  def __init__(self, root):
    self.root = root
    self.labels = root / "OLIVES_Dataset_Labels" / "full_labels"
    self.labels.mkdir(parents=True)
    for i, (path, suffix, *_) in enumerate(scans()):
      save(root / f"{path}.{suffix}", 10 * i)
    save(root / "Prime_FULL/01-001/W0/OD/fundus_OD_W0.tif", 255)
    self.clinical()
    self.biomarkers(self.labels / "Biomarker_Clinical_Data_Images.csv")

  def clinical(self, suffix="xlsx"):
    rows = [["File_Path", "BCVA", "CST ", "Eye_ID", "Patient_ID"]]
    for i, (path, _, eye, patient, _) in enumerate(scans()):
      blank = path.startswith("TREX DME/Monthly")
      rows.append(
        [f"/{path}.tif", None if blank else 60.0 + i, None if blank else 300,
         float(eye), float(patient)]
      )  # fmt: skip
    fundus = "/Prime_FULL/01-001/W0/OD/fundus_OD_W0.tif"
    rows.append([fundus, 1, 1, 1, 101])
    book = openpyxl.Workbook()
    for row in rows:
      book.active.append(row)
    book.save(self.labels / f"Clinical_Data_Images.{suffix}")

  def biomarkers(self, file, keep=lambda path: True, wide=False, prefix="/"):
    names = list(BIOMARKERS.values())
    names = names[:8] + EMPTY + names[8:] if wide else names
    with open(file, "w", newline="") as opened:
      writer = csv.writer(opened)
      writer.writerow(
        [PATH, "Scan (n/49)", *names, "Eye_ID", "BCVA", "CST ", "Patient_ID"]
      )
      for path, suffix, eye, _, number in scans():
        if keep(path) and "W52" not in path:
          values = [self.value(name, path) for name in names]
          # Wrong clinical values, as in a published file: not to be used.
          row = [f"{prefix}{path}.{suffix}", number + 1, *values]
          writer.writerow([*row, f"{eye}.0", "", "", "999"])

  @staticmethod
  def value(name, path):
    if name in EMPTY:
      return 0
    if name == BIOMARKERS["VD"] and path.endswith("/0"):
      return ""
    return f"{int((len(name) + len(path)) % 2)}.0"

  def published(self, *eyes_of_test):
    """Train and test files in the 26-column form, machine paths."""
    folders = {f for f, _, eye, _ in VISITS if eye in eyes_of_test}
    for name, wanted in (("train", False), ("test", True)):
      self.biomarkers(
        self.root / f"{name}.csv",
        lambda path, w=wanted: (path.rpartition("/")[0] in folders) == w,
        wide=True,
        prefix="/home/some one/Datasets/",
      )
    return dict(
      train_table=self.root / "train.csv", test_table=self.root / "test.csv"
    )


@pytest.fixture
def tables(tmp_path):
  return Tables(tmp_path)


def test_olives_joins_pool_and_biomarkers(tables):
  found = olives(tables.root, label_columns=("IRF", "VD"))
  assert len(found) == 12 and found.labels == ("IRF", "VD")
  for row, (path, suffix, eye, patient, _) in enumerate(scans()):
    assert found.ids[row] == f"{path}.tif"
    assert found.groups[row] == str(patient)
    assert found.column("Eye_ID")[row] == str(eye)
    assert found.column("visit")[row] == path.split("/")[-3]
    trial = "PRIME" if path.startswith("Prime") else "TREX-DME"
    assert found.column("trial")[row] == trial
    bcva = np.nan if "Monthly" in path else 60 + row
    np.testing.assert_equal(found.column("BCVA")[row], bcva)
    for short in found.labels:
      value = Tables.value(BIOMARKERS[short], path)
      if "W52" in path or value == "":
        assert np.isnan(found.column(short)[row])
      else:
        assert found.column(short)[row] == float(value)
    near = 4 if suffix == "jpg" else 0
    assert abs(int(found.read(row)[0, 0]) - 10 * row) <= near
  assert np.isnan(found.column("CST")).sum() == 2
  assert olives(tables.root).labels == LABELS


def test_olives_reads_both_widths_alike(tables):
  narrow = olives(tables.root)
  wide = tables.root / "wide.csv"
  tables.biomarkers(wide, wide=True, prefix="C:\\data\\Datasets\\")
  other = olives(tables.root, biomarker_table=wide)
  assert narrow.fingerprint() == other.fingerprint()


def test_olives_may_lie_one_folder_deeper(tables):
  outer = tables.root / "download"
  outer.mkdir()
  for name in ("Prime_FULL", "TREX DME"):
    (tables.root / name).rename(tables.root / "download" / name)
  (outer / "inner").mkdir()
  inner = tables.root / "OLIVES"
  outer.rename(inner)
  assert len(olives(tables.root)) == 12
  assert len(olives(inner)) == 12  # label tables beside it


def test_paths_of_every_table_are_cleaned():
  for text in (
    "/Prime_FULL/a/W0/OD/0.tif",
    "Prime_FULL/a/W0/OD/0.tif",
    "/home/x/Desktop/Datasets/Prime_FULL/a/W0/OD/0.tif",
    "/Datasets/Prime_FULL/a/W0/OD/0.tif",
    r"C:\x\Datasets\Prime_FULL\a\W0\OD\0.tif",
  ):
    assert clean_path(text) == "Prime_FULL/a/W0/OD/0.tif"


@pytest.mark.parametrize("split", ["2", "3"])
def test_olives_own_split_is_by_patient(tables, split):
  found = olives(tables.root, split)
  assert set(found.column("split")) == {"train", "eval"}
  assert not splits.check_groups(found.groups, found.column("split"))
  with pytest.raises(DataError, match="needs the published files"):
    olives(tables.root, "1-clean")
  with pytest.raises(ConfigError, match="known: 2, 3, 1-clean, 1-published"):
    olives(tables.root, "4")


def test_olives_published_patient_split(tables):
  files = tables.published(3, 4)  # both eyes of patient 103
  found = olives(tables.root, "2", **files)
  held_out = found.column("split") == "eval"
  assert set(found.groups[held_out]) == {"103"} and held_out.sum() == 4
  assert len(found) == 12
  files = tables.published(3)  # one eye of 103: not a patient-wise split
  with pytest.raises(DataError, match="103"):
    olives(tables.root, "2", **files)


def test_olives_split_1_with_its_fellow_eyes(tables):
  files = tables.published(3, 1)  # eye 4 is the fellow of eye 3
  published = olives(tables.root, "1-published", **files)
  parts = published.column("split")
  assert len(published) == 12
  assert set(published.column("Eye_ID")[parts == "eval"]) == {"1", "3"}
  with pytest.raises(DataError, match="103"):
    splits.check_groups(published.groups, parts)
  assert splits.check_groups(published.groups, parts, allow=True) == ["103"]
  clean = olives(tables.root, "1-clean", **files)
  assert not splits.check_groups(clean.groups, clean.column("split"))
  assert set(clean.column("Eye_ID")) == {"1", "2", "3", "5"}
  for row, name in enumerate(clean.ids.tolist()):  # rows stay joined
    original = published.ids.tolist().index(name)
    np.testing.assert_array_equal(clean.read(row), published.read(original))


def test_olives_names_what_is_missing(tables):
  (tables.root / "Prime_FULL/02-007/W0/OS/1.tif").unlink()
  with pytest.raises(
    DataError, match=r"row 7, .*02-007/W0/OS/1.tif.*\(1 of 12 are missing"
  ):
    olives(tables.root)
  save(tables.root / "Prime_FULL/02-007/W0/OS/1.jpg")
  assert len(olives(tables.root)) == 12
  with pytest.raises(ConfigError, match="no biomarker 'fluid'"):
    olives(tables.root, label_columns=("fluid",))
  path = tables.labels / "Biomarker_Clinical_Data_Images.csv"
  text = path.read_text()
  path.write_text(text.replace("Fluid (IRF)", "Fluid(IRF)"))
  with pytest.raises(DataError, match="did you mean 'Fluid"):
    olives(tables.root)
  path.write_text(text.replace("01-001", "01-009"))
  with pytest.raises(DataError, match="row 2.*01-009.*not in the clinical"):
    olives(tables.root)
  path.unlink()
  with pytest.raises(DataError, match="no Biomarker_Clinical"):
    olives(tables.root)
  with pytest.raises(DataError, match="neither Prime_FULL"):
    olives(tables.labels)


def test_olives_by_configuration(tables):
  files = {k: str(v) for k, v in tables.published(3, 1).items()}
  config = ml_collections.ConfigDict(
    dict(name="olives", path=str(tables.root), split="1-clean", **files)
  )
  assert len(data.load(config)) == 10


# Kermany


def kermany_tree(root, part_of):
  for part, name in part_of:
    save(root / part / name.partition("-")[0] / f"{name}.jpeg", 50)


FILES = [
  ("train", "CNV-11-1"), ("train", "CNV-11-2"), ("train", "NORMAL-12-1"),
  ("train", "DME-13-7"), ("train", "DRUSEN-14-1"), ("test", "CNV-15-1"),
  ("test", "NORMAL-12-2"),
]  # fmt: skip


@pytest.mark.parametrize("layout", ["OCT2017", "CellData/OCT", "."])
def test_kermany_layouts(tmp_path, layout):
  kermany_tree(tmp_path / layout, FILES + [("val", "DME-16-1")])
  (tmp_path / layout / "train" / "CNV" / "._CNV-11-1.jpeg").write_text("x")
  for path in {tmp_path, tmp_path / layout}:
    found = kermany(path)
    assert found.labels == ("CNV", "DME", "DRUSEN")
    rows = dict(zip(found.ids.tolist(), range(len(found)), strict=True))
    # Patient 12 is in test, so its training image is dropped.
    assert len(found) == 7 and "train/NORMAL/NORMAL-12-1.jpeg" not in rows
    test = rows["test/NORMAL/NORMAL-12-2.jpeg"]
    assert found.groups[test] == "12" and found.column("healthy")[test] == 1
    assert found.column("split")[test] == "eval"
    assert found.column("part")[rows["val/DME/DME-16-1.jpeg"]] == "val"
    first = rows["train/CNV/CNV-11-2.jpeg"]
    assert [found.column(c)[first] for c in found.labels] == [1, 0, 0]
    assert found.column("healthy")[first] == 0
    assert found.read(first).shape == (4, 5)
    assert not splits.check_groups(found.groups, found.column("split"))


def test_kermany_refusals(tmp_path):
  kermany_tree(tmp_path, FILES)
  with pytest.raises(DataError, match="1 patients .*12"):
    kermany(tmp_path, overlap="refuse")
  save(tmp_path / "train" / "CNV" / "DME-17-1.jpeg")
  with pytest.raises(DataError, match="CNV/DME-17-1.jpeg: expected"):
    kermany(tmp_path)
  with pytest.raises(DataError, match="no folder train/"):
    kermany(tmp_path / "train")


# OCTDL


def octdl_file(path, **changes):
  arrays = dict(
    images=np.arange(3 * 2 * 264, dtype=np.uint32).reshape(3, 2, 264) % 251,
    labels=np.array([0, 3, 6], np.uint8),
    group=np.array([7, 8, 8]),
    names=np.array(["no_7_1.jpg", "erm_8_1.jpg", "vid_8_2.jpg"]),
    is_val=np.array([False, True, True]),
    overlay=np.array([False, False, True]),
    source_width_height=np.array([[800, 300], [801, 301], [802, 302]]),
  )
  arrays["images"] = arrays["images"].astype(np.uint8)
  arrays.update(changes)
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return arrays


def test_octdl_file(tmp_path):
  arrays = octdl_file(tmp_path / "o.npz")
  found = octdl(tmp_path / "o.npz")
  assert found.labels == ("AMD", "DME", "ERM", "RAO", "RVO", "VID", "diseased")
  table = np.array([found.column(c) for c in (*found.labels, "healthy")])
  np.testing.assert_array_equal(
    table.T,
    [[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 1, 0],
     [0, 0, 0, 0, 0, 1, 1, 0]],
  )  # fmt: skip
  np.testing.assert_array_equal(found.read(1), arrays["images"][1, :, 4:260])
  assert found.groups.tolist() == ["7", "8", "8"]
  assert found.column("split").tolist() == ["train", "eval", "eval"]
  assert found.column("source_height").tolist() == [300, 301, 302]
  assert found.column("overlay").tolist() == [0, 0, 1]


def test_octdl_refusals(tmp_path):
  path = tmp_path / "o.npz"
  octdl_file(path, overlay=None)
  with pytest.raises(DataError, match="no array 'overlay'"):
    octdl(path)
  octdl_file(path, names=np.array([None, {}, 1], object))
  with pytest.raises(DataError, match="pickled"):
    octdl(path)
  octdl_file(path, labels=np.array([0, 1, 7]))
  with pytest.raises(DataError, match="classes up to 7"):
    octdl(path)


def test_octdl_files_by_configuration(tmp_path):
  for name in ("no_1_1", "rvo_2_1", "rvo_2_2"):
    save(tmp_path / f"{name}.jpg")
  found = data.load(
    ml_collections.ConfigDict(dict(name="octdl", path=str(tmp_path)))
  )
  assert found.groups.tolist() == ["1", "2", "2"]
  np.testing.assert_array_equal(found.column("RVO"), [0, 1, 1])
  np.testing.assert_array_equal(found.column("healthy"), [1, 0, 0])
  save(tmp_path / "other_3.jpg")
  with pytest.raises(DataError, match="no patient for 'other_3.jpg'"):
    octdl(tmp_path)


def test_real_octdl(real_data):
  found = octdl(real_data / "oct_octdl_96x264.npz")
  assert len(found) == 1590 and found.read(0).shape == (96, 256)
  counts = [int(found.column(c).sum()) for c in found.labels]
  assert counts == [972, 118, 119, 20, 75, 54, 1358]
  assert found.column("healthy").sum() == 232
  assert (found.column("split") == "eval").sum() == 303
  assert found.column("overlay").sum() == 86
  assert len(set(found.groups)) == 568
  assert not splits.check_groups(found.groups, found.column("split"))
  hashes = [splits.image_hash(found.read(i)) for i in range(len(found))]
  splits.check_duplicates(hashes, found.column("split"), found.ids)


def test_real_octdl_files(real_data):
  found = octdl(real_data / "oct_octdl_raw")
  assert len(found) == 67 and len(set(found.groups)) == 67
  assert [found.column(c).sum() for c in ("RAO", "healthy")] == [7, 10]
  assert found.read(0).ndim == 3


# MedMNIST


def mnist(path, **changes):
  rng = np.random.default_rng(0)
  arrays = {}
  for part, count in (("train", 6), ("val", 2), ("test", 3)):
    arrays[f"{part}_images"] = rng.integers(0, 255, (count, 8, 8), np.uint8)
    arrays[f"{part}_labels"] = (np.arange(count) % 3)[:, None]
  arrays.update(changes)
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return arrays


def test_medmnist_classes(tmp_path):
  arrays = mnist(tmp_path / "m.npz")
  found = medmnist(tmp_path / "m.npz", healthy_column="0")
  assert found.labels == ("class_1", "class_2") and len(found) == 11
  assert (found.groups == found.ids).all()
  parts = found.column("part").tolist()
  assert parts == ["train"] * 6 + ["val"] * 2 + ["test"] * 3
  assert (found.column("split") == "eval").tolist() == [
    p == "test" for p in parts
  ]
  np.testing.assert_array_equal(found.column("class_2")[:6], [0, 0, 1] * 2)
  np.testing.assert_array_equal(found.column("healthy")[8:], [1, 0, 0])
  np.testing.assert_array_equal(found.read(9), arrays["test_images"][1])


def test_medmnist_many_labels_and_no_test_part(tmp_path):
  many = dict(train_labels=np.eye(6, 4, dtype=int))
  mnist(
    tmp_path / "m.npz",
    val_labels=np.ones((2, 4), int),
    test_images=None,
    test_labels=None,
    **many,
  )
  found = medmnist(tmp_path / "m.npz")
  assert found.labels == tuple(f"label_{k}" for k in range(4))
  assert (found.column("split") == "eval").sum() == 2
  np.testing.assert_array_equal(
    found.column("label_1"), [0, 1, 0, 0, 0, 0, 1, 1]
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(train_labels=np.array([[{}]] * 6, object)), "pickled"),
    (dict(train_images=np.array([[{}]] * 6, object)), "pickled"),
    (dict(val_labels=None), "val_labels missing"),
    (dict(val_labels=np.zeros((3, 1), int)), "for 2 images"),
    (dict(train_images=np.zeros((6, 4, 4, 4), np.uint8)), "not 2-D"),
    (dict(train_images=np.zeros((6, 4, 4))), "float64, not uint8"),
    (dict(train_labels=np.zeros((6, 1))), "not integers"),
  ],
)
def test_medmnist_refusals(tmp_path, changes, message):
  mnist(tmp_path / "m.npz", **changes)
  with pytest.raises(DataError, match=message):
    medmnist(tmp_path / "m.npz")


def test_real_medmnist(real_data):
  found = data.load(
    ml_collections.ConfigDict(
      dict(
        name="medmnist",
        path=str(real_data / "cxr_pneumoniamnist_28.npz"),
        healthy_column="0",
      )
    )
  )
  assert len(found) == 4406 and found.labels == ("class_1",)
  held_out = found.column("split") == "eval"
  assert found.column("healthy")[~held_out].sum() == 388
  assert found.column("class_1")[held_out].sum() == 389
