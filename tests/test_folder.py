"""Folders of images with a table or with telling names; tables themselves."""

import csv
import os

import ml_collections
import nibabel
import numpy as np
import openpyxl
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.data import splits, table_files
from gcl_jax.data.readers.folder import read as folder
from gcl_jax.errors import ConfigError, DataError


@pytest.fixture
def scans(tmp_path):
  """Six images in a folder, and a table of them that is easy to spoil."""
  root = tmp_path / "scans mit Ümlaut"
  (root / "sub").mkdir(parents=True)
  rows = []
  for i in range(6):
    path = f"sub/s{i}.png" if i % 2 else f"s{i}.png"
    Image.fromarray(np.full((4, 5 + i), 10 * i, np.uint8)).save(root / path)
    rows.append(
      dict(
        id=f"{230 + i}.0",
        path=path,
        group=f"p{i // 2}",
        fluid="" if i == 3 else str(i % 2),
        healthy=str(int(i < 2)),
        CST=f"{250 + i / 2}",
        eye="OD" if i < 3 else "OS",
        part=("train", "val", "", "TEST", "eval", "train")[i],
      )
    )
  return root, rows


def write(rows, path, *, ending="\n", encoding="utf-8", names=None):
  names = names or list(rows[0])
  with open(path, "w", encoding=encoding, newline="") as file:
    writer = csv.writer(file, lineterminator=ending)
    writer.writerow(names)
    writer.writerows([list(row.values()) for row in rows])
  return path


OPTIONS = dict(
  label_columns=("fluid",),
  meta_columns=("CST", "eye"),
  healthy_column="healthy",
)


def test_a_table_and_a_folder(scans, tmp_path):
  root, rows = scans
  table = write(rows, tmp_path / "t.csv")
  found = folder(root, table, split="part", **OPTIONS)
  assert found.labels == ("fluid",) and found.meta == ("CST", "eye")
  assert found.ids.tolist() == [str(230 + i) for i in range(6)]
  assert found.groups.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
  np.testing.assert_array_equal(found.column("fluid"), [0, 1, 0, np.nan, 0, 1])
  np.testing.assert_array_equal(found.column("healthy"), [1, 1, 0, 0, 0, 0])
  np.testing.assert_array_equal(found.column("CST"), 250 + np.arange(6) / 2)
  assert found.column("eye")[5] == "OS"
  assert found.column("split").tolist() == [
    "train", "eval", "", "eval", "eval", "train",
  ]  # fmt: skip
  for i in range(6):
    np.testing.assert_array_equal(found.read(i), np.full((4, 5 + i), 10 * i))
  picked = found.select(np.array([4, 1]))
  assert picked.ids.tolist() == ["234", "231"]
  assert picked.read(0)[0, 0] == 40
  with pytest.raises(DataError, match="did you mean 'fluid'"):
    found.column("fluids")


def test_tables_of_every_dress_say_the_same(scans, tmp_path):
  root, rows = scans
  plain = folder(root, write(rows, tmp_path / "a.csv"), **OPTIONS)
  names = [f" {name} " for name in rows[0]]
  bom = write(
    rows, tmp_path / "b.csv", ending="\r\n", encoding="utf-8-sig", names=names
  )
  mixed = tmp_path / "c.csv"
  lines = (tmp_path / "a.csv").read_bytes().split(b"\n")
  ends = [b"\r\n", b"\n", b"\r\n", b"\n\n"] * 2
  mixed.write_bytes(
    b"".join(a + b for a, b in zip(lines[:7], ends, strict=False))
  )
  semicolon = tmp_path / "d.csv"
  semicolon.write_text((tmp_path / "a.csv").read_text().replace(",", ";"))
  book = openpyxl.Workbook()
  book.active.append(list(rows[0]))
  for row in rows:
    numeric = {k: float(row[k]) for k in ("id", "CST", "healthy")}
    book.active.append([*{**row, **numeric, "fluid": row["fluid"]}.values()])
  book.save(tmp_path / "e.xlsx")
  for table in (bom, mixed, semicolon, tmp_path / "e.xlsx"):
    other = folder(root, table, **OPTIONS)
    assert other.fingerprint() == plain.fingerprint(), table


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(id="231"), "row 5, column 'id': '231' is already in row 3"),
    (dict(id="231.00"), "'231' is already in row 3"),
    (dict(id=""), "row 5, column 'id': is blank"),
    (dict(path="gone.png"), "row 5, column 'path': 'gone.png': no such file"),
    (dict(path="s0.png"), "row 5, column 'path': 's0.png' is already in row 2"),
    (dict(path="../t.csv"), "row 5.*outside the folder"),
    (dict(path="/etc/passwd"), "row 5.*outside the folder"),
    (dict(fluid="2"), "row 5, column 'fluid': '2' is not 0, 1 or blank"),
    (dict(fluid="yes"), "row 5, column 'fluid': 'yes' is not a number"),
    (dict(healthy="-1"), "row 5, column 'healthy'"),
    (dict(part="dev"), "row 5, column 'part': 'dev'"),
    (dict(group=""), "row 5, column 'group': no patient"),
  ],
)
def test_a_wrong_cell_is_refused_by_row_and_column(
  scans, tmp_path, change, message
):
  root, rows = scans
  rows[3].update(change)
  table = write(rows, tmp_path / "t.csv")
  with pytest.raises(DataError, match=message):
    folder(root, table, split="part", **OPTIONS)


def test_a_wrong_table_is_refused(scans, tmp_path):
  root, rows = scans
  table = tmp_path / "t.csv"
  with pytest.raises(DataError, match="no column 'patient'.*columns: id"):
    folder(root, write(rows, table), group_column="patient")
  with pytest.raises(DataError, match="did you mean 'healthy'"):
    folder(root, table, healthy_column="helthy")
  with pytest.raises(DataError, match="more than one column 'id'"):
    folder(root, write(rows, table, names=["id", "id ", *list(rows[0])[2:]]))
  table.write_text("id,path,group\na,s0.png,p\nb,s1.png\n")
  with pytest.raises(DataError, match="row 3: 2 cells, the header has 3"):
    folder(root, table)
  table.write_text("id,path,group\n")
  with pytest.raises(DataError, match="no rows"):
    folder(root, table)
  table.write_bytes("id,path,group\nä,s0.png,p\n".encode("latin-1"))
  with pytest.raises(DataError, match="not UTF-8"):
    folder(root, table)
  (tmp_path / "t.xlsx").write_text("no workbook")
  with pytest.raises(DataError, match="not a readable workbook"):
    folder(root, tmp_path / "t.xlsx")
  with pytest.raises(DataError, match="gone.csv"):
    folder(root, tmp_path / "gone.csv")


def test_patients_that_are_not_known(scans, tmp_path):
  root, rows = scans
  rows[3]["group"] = rows[4]["group"] = ""
  table = write(rows, tmp_path / "t.csv")
  found = folder(root, table, group_unknown="exclude")
  assert found.ids.tolist() == ["230", "231", "232", "235"]
  assert found.read(3)[0, 0] == 50
  alone = folder(root, table, group_unknown="image")
  assert alone.groups[3] == "233" and alone.groups[0] == "p0"
  with pytest.raises(ConfigError, match="refuse, exclude, image"):
    folder(root, table, group_unknown="drop")


def test_a_patient_in_both_parts_can_be_found(scans, tmp_path):
  root, rows = scans
  found = folder(root, write(rows, tmp_path / "t.csv"), split="part")
  with pytest.raises(DataError, match="p0, p2"):
    splits.check_groups(found.groups, found.column("split"))


def test_canonical_text():
  cells = {
    232.0: "232", "232.0 ": "232", " 232": "232", "007": "007", None: "",
    "1.50": "1.50", True: "1", "-3.": "-3", "01-002": "01-002",
  }  # fmt: skip
  for cell, text in cells.items():
    assert table_files.canonical(cell) == text


# Names instead of a table


@pytest.fixture
def classes(tmp_path):
  for name in (
    "cnv/11_1",
    "cnv/12_1",
    "dme/13_1",
    "normal/14_1",
    "normal/14_2",
  ):
    path = tmp_path / "c" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 3), len(name), np.uint8)).save(path)
  (tmp_path / "c" / "cnv" / "notes.txt").write_text("passed over")
  (tmp_path / "c" / "cnv" / ".hidden.png").write_text("passed over")
  return tmp_path / "c"


def test_sub_folders_are_classes(classes):
  found = folder(classes, pattern=r"/(?P<group>\d+)_", healthy_column="normal")
  assert found.ids.tolist()[0] == "cnv/11_1.png"
  assert found.groups.tolist() == ["11", "12", "13", "14", "14"]
  assert found.labels == ("cnv", "dme", "diseased")
  np.testing.assert_array_equal(found.column("healthy"), [0, 0, 0, 1, 1])
  np.testing.assert_array_equal(found.column("cnv"), [1, 1, 0, 0, 0])
  np.testing.assert_array_equal(found.column("diseased"), [1, 1, 1, 0, 0])
  few = folder(classes, pattern=r"/(?P<group>\d+)_", label_columns=("dme",))
  assert few.labels == ("dme",) and "healthy" not in few.table
  with pytest.raises(DataError, match="no class 'healthy'.*cnv, dme, normal"):
    folder(classes, pattern=r"/(?P<group>\d+)_", healthy_column="healthy")


def test_names_without_a_patient_are_refused(classes):
  with pytest.raises(DataError, match="no patient for 'cnv/11_1.png' .5 such"):
    folder(classes)
  alone = folder(classes, group_unknown="image")
  assert (alone.groups == alone.ids).all()
  some = folder(classes, pattern=r"(?P<group>14)_", group_unknown="exclude")
  assert some.ids.tolist() == ["normal/14_1.png", "normal/14_2.png"]
  with pytest.raises(ConfigError, match="pattern"):
    folder(classes, pattern="(")
  with pytest.raises(ConfigError, match="name its groups"):
    folder(classes, pattern=r"(\d+)_")


def test_an_empty_folder_and_no_folder(tmp_path):
  with pytest.raises(DataError, match="no image below"):
    folder(tmp_path)
  with pytest.raises(DataError, match="No such file"):
    folder(tmp_path / "gone")
  (tmp_path / "file").write_text("x")
  with pytest.raises(DataError, match="not a folder"):
    folder(tmp_path / "file")


def test_a_volume_is_one_image_per_slice(tmp_path):
  volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
  nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii.gz")
  Image.fromarray(np.full((3, 3), 7, np.uint8)).save(tmp_path / "i.png")
  (tmp_path / "bad.nii").write_text("no volume")
  table = tmp_path / "t.csv"
  table.write_text(
    "id,path,group,dr\nA,v.nii.gz,p1,1\nB,i.png,p2,0\nC,bad.nii,p3,\n"
  )
  found = folder(tmp_path, table, label_columns=("dr",))
  assert found.ids.tolist() == ["A#0", "A#1", "A#2", "A#3", "B", "C"]
  assert found.groups.tolist() == ["p1"] * 4 + ["p2", "p3"]
  np.testing.assert_array_equal(found.column("dr"), [1, 1, 1, 1, 0, np.nan])
  for k in range(4):
    expected = volume[:, :, k].T[::-1, ::-1]
    np.testing.assert_array_equal(found.read(k), expected)
  found.read(0)[:] = 0  # a caller's change must not reach the next reader
  assert found.read(0).any()
  assert found.read(4)[0, 0] == 7
  with pytest.raises(DataError, match="bad.nii"):
    found.read(5)


def test_bad_files_do_not_stop_the_others(classes):
  os.mkfifo(classes / "cnv" / "15_1.png")
  (classes / "cnv" / "16_1.png").mkdir()
  (classes / "cnv" / "17_1.png").symlink_to("17_1.png")
  found = folder(classes, pattern=r"/(?P<group>\d+)_")
  assert len(found) == 8
  refused = 0
  for row in range(8):
    try:
      found.read(row)
    except DataError:
      refused += 1
  assert refused == 3


# data.load


def config(**fields):
  return ml_collections.ConfigDict(
    dict(name="folder", path="", table="", label_columns=()) | fields
  )


def test_load_reads_a_folder(scans, tmp_path):
  root, rows = scans
  table = write(rows, tmp_path / "t.csv")
  options = {**OPTIONS, "path": str(root), "table": str(table)}
  found = data.load(config(**options, split="part"))
  direct = folder(root, table, split="part", **OPTIONS)
  assert found.fingerprint() == direct.fingerprint()


def test_load_makes_the_phantom():
  made = data.load(
    config(name="phantom", phantom=dict(patients=2, visits=1, scans=1))
  )
  assert len(made) == 4 and made.read(0).dtype == np.uint8


def test_load_refuses_in_one_line(tmp_path):
  with pytest.raises(ConfigError, match="did you mean 'octdl'"):
    data.load(config(name="octld"))
  with pytest.raises(DataError, match="needs a path"):
    data.load(config())
  with pytest.raises(DataError, match="gone: No such file"):
    data.load(config(path=str(tmp_path / "gone")))


def test_real_radiographs(real_data):
  root = real_data / "cxr_hannover"
  found = folder(
    root,
    root / "data.csv",
    id_column="image_id",
    path_column="image_id",
    group_column="patient_id",
    meta_columns=("projection", "crp_val"),
  )
  assert len(found) == 112 and len(set(found.groups)) == 51
  assert np.isfinite(found.column("crp_val")).sum() == 81
  assert set(found.column("projection")) == {"ap", "pa"}
  assert found.read(111).shape[1] == 640
