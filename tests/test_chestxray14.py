"""Reader of NIH ChestX-ray14, on a small tree laid out as published."""

import csv

import ml_collections
import numpy as np
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.data.readers import chestxray14
from gcl_jax.errors import ConfigError, DataError

HEADER = (
  "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"
  ",View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
).split(",")
ROWS = [
  ("00000001_000.png", "Cardiomegaly|Mass", 1),
  ("00000001_001.png", "No Finding", 1),
  ("00000002_000.png", "Hernia|Infiltration", 2),
  ("00000003_000.png", "No Finding", 3),
]
BOXES = (
  "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
  "00000001_000.png,Mass,225.08,547.02,86.78,79.19,,,\n"
  "00000002_000.png,Infiltrate,10,20,30,40,,,\n"
  "00000001_000.png,Cardiomegaly,0,0,5,6,,,\n"
)


def table(root, rows, name="Data_Entry_2017.csv"):
  with (root / name).open("w", newline="") as file:
    lines = [
      [image, findings, 0, patient, "058Y", "M", "PA", 2682, 2749, 0.1, 0.1, ""]
      for image, findings, patient in rows
    ]
    csv.writer(file).writerows([HEADER, *lines])
  return root / name


def lists(root, train, test):
  (root / "train_val_list.txt").write_text("\n".join(train) + "\n")
  (root / "test_list.txt").write_text("\r\n".join(test))


@pytest.fixture
def nih(tmp_path):
  table(tmp_path, ROWS)
  for i, (name, *_) in enumerate(ROWS):
    folder = tmp_path / f"images_00{1 + i // 2}" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    image = np.full((1024, 1024), 50 + i, np.uint8)
    if i == 1:  # some images are stored with four equal channels
      image = np.dstack([image] * 3 + [np.full_like(image, 255)])
    Image.fromarray(image).save(folder / name, compress_level=1)
  lists(tmp_path, [n for n, *_ in ROWS[:2]], [n for n, *_ in ROWS[2:]])
  (tmp_path / "BBox_List_2017.csv").write_text(BOXES)
  qualities = [f"{name},{i % 2}" for i, (name, *_) in enumerate(ROWS)]
  (tmp_path / "quality.csv").write_text(
    "\n".join(["image,quality", *qualities])
  )
  return tmp_path


def test_chestxray14(nih):
  dataset = chestxray14.read(nih)
  assert dataset.ids.tolist() == [name for name, *_ in ROWS]
  assert dataset.groups.tolist() == ["1", "1", "2", "3"]
  assert dataset.labels == chestxray14.FINDINGS and dataset.meta == ()
  assert dataset.column("split").tolist() == ["train"] * 2 + ["eval"] * 2
  np.testing.assert_array_equal(dataset.column("healthy"), [0, 1, 0, 1])
  for name in dataset.labels:
    wanted = [float(name in findings.split("|")) for _, findings, _ in ROWS]
    np.testing.assert_array_equal(dataset.column(name), wanted)
  assert dataset.read_boxes is None
  for row in range(4):
    assert (dataset.read(row) == 50 + row).all()
    assert dataset.read(row).shape == (1024, 1024)


def test_boxes_quality_and_chosen_labels_by_settings(nih):
  config = ml_collections.ConfigDict(
    dict(
      name="chestxray14",
      path=str(nih),
      table="",
      label_columns=("Hernia",),
      boxes_path=str(nih / "BBox_List_2017.csv"),
      quality_table=str(nih / "quality.csv"),
    )
  )
  dataset = data.load(config)
  assert dataset.labels == ("Hernia",) and dataset.meta == ("quality",)
  np.testing.assert_array_equal(dataset.column("Hernia"), [0, 0, 1, 0])
  np.testing.assert_array_equal(dataset.column("quality"), [0, 1, 0, 1])
  np.testing.assert_allclose(
    dataset.read_boxes(0),
    [[547.02, 225.08, 626.21, 311.86, 1], [0, 0, 6, 5, 1]],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(dataset.read_boxes(2), [[20, 10, 60, 40, 1]])
  assert dataset.read_boxes(3).shape == (0, 5)


def test_boxes_of_images_of_another_size_are_refused(nih):
  name = nih / "images_001" / "images" / ROWS[0][0]
  Image.fromarray(np.zeros((512, 512), np.uint8)).save(name)
  dataset = chestxray14.read(nih, boxes_path=nih / "BBox_List_2017.csv")
  with pytest.raises(DataError, match="512 x 512 pixels, but boxes"):
    dataset.read_boxes(0)


def test_a_part_of_the_images_by_a_table_of_them(nih):
  part = table(nih, ROWS[2:], "part.csv")
  (nih / "images_001" / "images" / ROWS[0][0]).unlink()
  dataset = chestxray14.read(nih, part, boxes_path=nih / "BBox_List_2017.csv")
  assert len(dataset) == 2 and len(dataset.read_boxes(0)) == 1
  with pytest.raises(DataError, match="'00000001_000' .1 of 4 are missing"):
    chestxray14.read(nih)


def test_the_newer_table_is_preferred(nih):
  table(nih, ROWS[:1], "Data_Entry_2017_v2020.csv")
  assert len(chestxray14.read(nih)) == 1


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([(ROWS[0][0], "Nodul", 1)], "row 2, column 'Finding Labels': no finding"),
    ([(ROWS[0][0], "No Finding|Mass", 1)], "contradicts itself"),
    ([ROWS[0], ROWS[0]], "is already in row 2"),
    ([(ROWS[0][0], "Mass", "")], "column 'Patient ID': is blank"),
    ([(n, f, 5) for n, f, _ in ROWS], r"1 patients are in .* list \(5\)"),
    ([*ROWS, ("00000009_000.png", "Mass", 9)], "in neither list .1 such"),
  ],
)
def test_wrong_tables_are_refused(nih, rows, message):
  table(nih, rows)
  with pytest.raises(DataError, match=message):
    chestxray14.read(nih)


def test_wrong_files_are_refused(nih):
  quality = nih / "quality.csv"
  quality.write_text(f"image,quality\n{ROWS[0][0]},1\n{ROWS[1][0]},\n")
  with pytest.raises(DataError, match=r"no quality of '00000001_001' \(3 of 4"):
    chestxray14.read(nih, quality_table=quality)
  lists(nih, [ROWS[0][0]], [name for name, *_ in ROWS])
  with pytest.raises(DataError, match="'00000001_000.png' is in both lists"):
    chestxray14.read(nih)
  (nih / "test_list.txt").unlink()
  with pytest.raises(DataError, match="one is missing"):
    chestxray14.read(nih)
  (nih / "train_val_list.txt").unlink()
  assert "split" not in chestxray14.read(nih).table
  (nih / "Data_Entry_2017.csv").unlink()
  with pytest.raises(DataError, match="neither Data_Entry_2017_v2020.csv nor"):
    chestxray14.read(nih)


def test_unknown_labels_are_refused(nih):
  with pytest.raises(ConfigError, match="no finding 'Hernie'; known: Atelect"):
    chestxray14.read(nih, label_columns=("Mass", "Hernie"))
