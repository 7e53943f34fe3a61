"""Readers of fundus photographs, on small trees laid out as published."""

import csv
import logging
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.data.readers import eyeq, folder, idrid
from gcl_jax.errors import DataError

COLOURS = {
  (0, 0, 0): 0,
  (255, 255, 255): 1,
  (255, 0, 0): 2,
  (0, 0, 255): 3,
  (0, 255, 0): 4,
  (255, 255, 0): 5,
}


def save(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def write(path, rows):
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)


# IDRiD, masks merged


def merged(root, count=2):
  for i in range(count):
    name = f"IDRiD_{i + 2:02}"
    save(root / f"{name}.jpg", np.full((20, 30, 3), 90))
    save(root / f"{name}_lesions.png", picture())
  return root


def picture():
  colours = np.zeros((20, 30, 3), np.uint8)
  colours[2:5, 3:9] = (255, 0, 0)
  colours[2:5, 9:12] = (0, 0, 255)  # touches the haemorrhage
  colours[10, 10] = (255, 255, 254)
  colours[14:19, 20:29] = (254, 255, 0)
  colours[0, 29] = (0, 240, 30)
  return colours


def test_idrid_with_merged_masks(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    dataset = idrid.read(merged(tmp_path))
  assert "each image counts as one patient" in caplog.text
  assert dataset.ids.tolist() == ["IDRiD_02", "IDRiD_03"]
  assert dataset.groups.tolist() == dataset.ids.tolist()
  assert dataset.classes == idrid.CLASSES and not dataset.labels
  # Every image is diseased: windows round its boxes are those of lesions.
  assert dataset.table["healthy"].tolist() == [0, 0]
  mask = dataset.read_mask(1)
  assert mask.dtype == np.uint8 and mask.shape == dataset.read(1).shape[:2]
  assert np.bincount(mask.ravel()).tolist()[1:] == [1, 18, 9, 1, 45]
  assert (mask[2:5, 3:9] == 2).all() and (mask[14:19, 20:29] == 5).all()
  # The optic disc is no lesion.
  assert sorted(map(tuple, dataset.read_boxes(1)[:, :4].tolist())) == [
    (0, 29, 1, 30), (2, 3, 5, 9), (2, 9, 5, 12), (10, 10, 11, 11),
  ]  # fmt: skip


def test_colours_count_as_the_nearest(tmp_path):
  save(tmp_path / "a.jpg", np.zeros((16, 16, 3)))
  draw = np.random.default_rng(0)
  colours = draw.integers(0, 256, (16, 16, 3))
  save(tmp_path / "a_lesions.png", colours)
  mask = idrid.read(tmp_path).read_mask(0)
  known = np.array(list(COLOURS))
  for found, colour in zip(mask.ravel(), colours.reshape(-1, 3), strict=True):
    distance = ((known - colour) ** 2).sum(1)
    nearest = known[distance == distance.min()]
    assert found in [COLOURS[tuple(c)] for c in nearest.tolist()]


def test_a_mask_that_was_changed_by_its_user_is_read_again(tmp_path):
  dataset = idrid.read(merged(tmp_path))
  dataset.read_mask(0)[:] = 9
  assert dataset.read_mask(0).max() == 5


def test_idrid_refuses_what_does_not_fit(tmp_path):
  root = merged(tmp_path / "a")
  (root / "IDRiD_03_lesions.png").unlink()
  with pytest.raises(DataError, match="1 files without .* such as 'IDRiD_03'"):
    idrid.read(root)
  save(root / "IDRiD_03_lesions.png", np.zeros((20, 31, 3)))
  with pytest.raises(DataError, match="IDRiD_03_lesions.png.*its image has"):
    idrid.read(root).read_mask(1)
  save(root / "IDRiD_03_lesions.png", np.zeros((20, 30)))
  with pytest.raises(DataError, match="is grey"):
    idrid.read(root).read_boxes(1)
  save(root / "IDRiD_02.png", np.zeros((20, 30, 3)))
  with pytest.raises(DataError, match="has the same name"):
    idrid.read(root)
  (tmp_path / "empty").mkdir()
  with pytest.raises(DataError, match="neither NAME.jpg"):
    idrid.read(tmp_path / "empty")


# IDRiD as published

KINDS = {
  "1. Microaneurysms": "MA",
  "2. Haemorrhages": "HE",
  "3. Hard Exudates": "EX",
  "4. Soft Exudates": "SE",
  "5. Optic Disc": "OD",
}


def published(root):
  """Two training images and one for testing; soft exudates in one alone."""
  top = root / "A. Segmentation"
  parts = {"a. Training Set": ("01", "02"), "b. Testing Set": ("55",)}
  for part, numbers in parts.items():
    for number in numbers:
      name = f"IDRiD_{number}"
      save(top / "1. Original Images" / part / f"{name}.jpg", pixels())
    for row, (kind, ending) in enumerate(KINDS.items()):
      where = top / "2. All Segmentation Groundtruths" / part / kind
      where.mkdir(parents=True)
      for number in numbers:
        if ending != "SE" or number == "55":
          save(where / f"IDRiD_{number}_{ending}.tif", layer(row))
  return top


def pixels():
  return np.full((20, 30, 3), 90)


def layer(row):
  """Red squares on black; each overlaps the one before."""
  mask = np.zeros((20, 30, 3))
  mask[3 * row : 3 * row + 4, 2:8, 0] = 255
  return mask


def test_idrid_as_published(tmp_path):
  published(tmp_path)
  dataset = idrid.read(tmp_path)
  assert dataset.ids.tolist() == ["IDRiD_01", "IDRiD_02", "IDRiD_55"]
  assert dataset.column("split").tolist() == ["train", "train", "eval"]
  wanted = np.zeros((20, 30), np.uint8)
  for value in (5, 4, 2, 3, 1):  # lesions over the disc, small over large
    wanted[3 * value - 3 : 3 * value + 1, 2:8] = value
  np.testing.assert_array_equal(dataset.read_mask(2), wanted)
  assert len(dataset.read_boxes(2)) == 4
  assert 4 not in dataset.read_mask(0) and len(dataset.read_boxes(0)) == 3


def test_idrid_refuses_an_incomplete_download(tmp_path):
  top = published(tmp_path)
  masks = top / "2. All Segmentation Groundtruths" / "a. Training Set"
  save(masks / "2. Haemorrhages" / "IDRiD_09_HE.tif", layer(1))
  with pytest.raises(DataError, match="IDRiD_09_HE.tif: no image of this name"):
    idrid.read(top)
  (masks / "2. Haemorrhages" / "IDRiD_09_HE.tif").unlink()
  for file in masks.rglob("IDRiD_02*"):
    file.unlink()
  with pytest.raises(DataError, match="IDRiD_02.jpg: no mask of any class"):
    idrid.read(top)
  shutil.rmtree(masks / "4. Soft Exudates")
  with pytest.raises(DataError, match="4. Soft Exudates"):
    idrid.read(top)


def test_real_idrid(real_data):
  if not (real_data / "fundus_idrid").is_dir():
    pytest.skip("no fundus_idrid here")
  dataset = idrid.read(real_data / "fundus_idrid")
  assert len(dataset) == len(set(dataset.groups)) == 14
  row = dataset.ids.tolist().index("IDRiD_05")
  mask, boxes = dataset.read_mask(row), dataset.read_boxes(row)
  pixels = np.bincount(mask.ravel(), minlength=6)
  assert pixels.tolist() == [11973881, 3994, 9850, 8286, 0, 216213]
  assert boxes.shape == (37, 5) and (boxes[:, 2:4] > boxes[:, :2]).all()


# EyeQ

LABELS = {
  "train": [("10_left", 0, 0), ("10_right", 1, 2), ("7_left", 2, 4)],
  "test": [("11_right", 1, 0), ("12_left", 0, "")],
}


def labels(root, part, rows):
  table = [["", "image", "quality", "DR_grade"]]
  table += [[i, f"{n}.jpeg", *rest] for i, (n, *rest) in enumerate(rows)]
  write(root / f"Label_EyeQ_{part}.csv", table)


def eyepacs(root):
  for part, rows in LABELS.items():
    labels(root, part, rows)
    for i, (name, *_) in enumerate(rows):
      save(root / "images" / part / f"{name}.jpeg", np.full((4, 5, 3), 40 * i))
  return root


def test_eyeq(tmp_path):
  dataset = eyeq.read(eyepacs(tmp_path) / "images", tmp_path)
  assert dataset.ids.tolist() == [
    "10_left", "10_right", "7_left", "11_right", "12_left",
  ]  # fmt: skip
  assert dataset.groups.tolist() == ["10", "10", "7", "11", "12"]
  assert dataset.column("eye").tolist() == ["L", "R", "L", "R", "L"]
  assert dataset.column("split").tolist() == ["train"] * 3 + ["eval"] * 2
  np.testing.assert_array_equal(dataset.column("grade"), [0, 2, 4, 0, np.nan])
  np.testing.assert_array_equal(dataset.column("quality"), [0, 1, 2, 1, 0])
  np.testing.assert_array_equal(dataset.column("healthy"), [1, 0, 0, 1, np.nan])
  assert dataset.labels == () and dataset.meta == ("grade", "quality", "eye")
  assert abs(int(dataset.read(2)[0, 0, 0]) - 80) <= 2
  one = eyeq.read(tmp_path, tmp_path / "Label_EyeQ_test.csv")
  assert one.column("split").tolist() == ["eval", "eval"]


def test_eyeq_by_its_name_with_labels_beside_the_images(tmp_path):
  config = ml_collections.ConfigDict(
    dict(name="eyeq", path=str(eyepacs(tmp_path)), table="", split="")
  )
  assert len(data.load(config)) == 5


@pytest.mark.parametrize(
  ("part", "rows", "message"),
  [
    ("train", [("10_left", 0, 5)], "row 2, column 'DR_grade': '5' is not 0 to"),
    ("train", [("10_left", 3, 0)], "row 2, column 'quality': '3' is not 0 to"),
    ("train", [("10_middle", 0, 0)], "is not NUMBER_left or _right"),
    ("train", [("10_left", 0, 0)] * 2, "is already in row 2"),
    ("train", [("9_left", 0, 0), ("8_left", 0, 0)], r"'9_left' \(2 of 4 are"),
    ("test", [("7_left", 0, 0)], r"1 patients are in .* list \(7\)"),
  ],
)  # fmt: skip
def test_eyeq_refuses_wrong_tables(tmp_path, part, rows, message):
  eyepacs(tmp_path)
  labels(tmp_path, part, rows)
  with pytest.raises(DataError, match=message):
    eyeq.read(tmp_path)


def test_eyeq_refuses_unclear_files(tmp_path):
  eyepacs(tmp_path)
  save(tmp_path / "images" / "copy" / "7_left.png", np.zeros((4, 5, 3)))
  with pytest.raises(DataError, match="has the same name"):
    eyeq.read(tmp_path)
  shutil.copy(tmp_path / "Label_EyeQ_test.csv", tmp_path / "mine.csv")
  with pytest.raises(DataError, match="neither train nor test, so"):
    eyeq.read(tmp_path, tmp_path / "mine.csv")
  with pytest.raises(DataError, match="neither Label_EyeQ_train.csv nor"):
    eyeq.read(tmp_path, tmp_path / "images")


# A plain table with grade and quality columns: the reader `folder`


def test_a_plain_table_with_grade_and_quality(tmp_path):
  save(tmp_path / "a.png", np.zeros((4, 5, 3)))
  save(tmp_path / "b.png", np.zeros((4, 5, 3)))
  header = ["id", "path", "group", "grade", "quality"]
  rows = [["a", "a.png", "p1", 3, 0], ["b", "b.png", "p2", "", 1]]
  write(tmp_path / "t.csv", [header, *rows])
  dataset = folder.read(
    tmp_path, tmp_path / "t.csv", meta_columns=("grade", "quality")
  )
  np.testing.assert_array_equal(dataset.column("grade"), [3, np.nan])
  np.testing.assert_array_equal(dataset.column("quality"), [0, 1])


def test_real_fundus_dr(real_data):
  root = real_data / "fundus_dr"
  if not root.is_dir():
    pytest.skip("no fundus_dr here")
  dataset = folder.read(
    root,
    root / "labels.csv",
    group_column="patient",
    meta_columns=("grade", "eye"),
  )
  grade = dataset.column("grade")
  assert len(dataset) == 466 and len(set(dataset.groups)) == 233
  assert np.isfinite(grade).sum() == 461
  assert [int((grade == k).sum()) for k in range(5)] == [221, 79, 123, 25, 13]
  assert dataset.read(0).shape == (514, 768, 3)
