"""Rows 21, 29 to 33, 39, 41 and 42 for tables, splits and rows."""

import csv
import pathlib
import types
import zipfile

import numpy as np
import openpyxl
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.data import prepare, splits, table_files
from gcl_jax.data.readers.folder import read as folder
from gcl_jax.data.readers.medmnist import read as medmnist
from gcl_jax.data.source import Dataset
from gcl_jax.engine import feed
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.pipeline import sampling

OPTIONS = dict(label_columns=("fluid",), healthy_column="healthy", split="part")


@pytest.fixture
def scans(tmp_path):
  """Six images, and the rows of a table that describes them."""
  root = tmp_path / "scans"
  root.mkdir()
  rows = []
  for i in range(6):
    name = f"{230 + i}.png"
    Image.fromarray(np.full((4, 5), 10 * i, np.uint8)).save(root / name)
    rows.append(
      dict(
        id=str(230 + i),
        path=name,
        group=f"p{i // 2}",
        fluid=str(i % 2),
        healthy=str(int(i < 2)),
        part="train" if i < 4 else "eval",
      )
    )
  return root, rows


def write(rows: list[dict], path: pathlib.Path, **options) -> pathlib.Path:
  with path.open("w", newline="", encoding=options.get("code", "utf-8")) as f:
    writer = csv.writer(
      f,
      lineterminator=options.get("end", "\n"),
      delimiter=options.get("delimiter", ","),
    )
    writer.writerow(rows[0])
    writer.writerows([row.values() for row in rows])
  return path


# Row 21


def test_row21_nothing_to_read(tmp_path):
  with pytest.raises(DataError, match="no image below this folder"):
    folder(tmp_path)
  path = tmp_path / "a.npz"
  np.savez(
    path,
    train_images=np.zeros((0, 4, 4), np.uint8),
    train_labels=np.zeros((0, 1), int),
  )
  with pytest.raises(DataError, match="empty"):
    medmnist(path)
  nothing = np.array([], str)
  with pytest.raises(DataError, match="data set 'none' is empty"):
    Dataset("none", {"id": nothing, "group": nothing}, lambda row: None)
  (tmp_path / "t.csv").write_text("id,path,group\n\n , ,\n")
  with pytest.raises(DataError, match="no rows below a header"):
    folder(tmp_path, tmp_path / "t.csv")


def test_row21_a_selection_of_nothing(scans):
  root, _ = scans
  found = folder(root, group_unknown="image")
  with pytest.raises(DataError, match="is empty"):
    found.select(np.zeros(6, bool))


@pytest.mark.parametrize("rows", [None, np.array([], int), np.array([3, 4])])
def test_row21_fewer_rows_than_a_batch(rows):
  arrays = {"image": np.zeros((7, 2, 2))}
  with pytest.raises(DataError, match="fewer than one batch of 8"):
    feed.batches(arrays, 8, seed=0, steps=3, rows=rows)
  seven = np.arange(7)
  for make in (
    lambda: sampling.by_label(seven, np.zeros(7, int), 8, 4, 0),
    lambda: sampling.by_group(seven, seven, 8, 2, 0),
    lambda: sampling.shuffled(seven, 8, 0),
  ):
    with pytest.raises(DataError, match="7 rows are fewer than one batch of 8"):
      make()


def test_row21_the_rest_of_an_epoch_is_dropped_or_given(scans):
  arrays = {"image": np.arange(7)}
  sizes = {True: [4, 4], False: [4, 3]}
  for drop, expected in sizes.items():
    found = feed.batches(arrays, 4, seed=0, steps=2, drop_last=drop)
    assert [len(batch["image"]) for batch in found] == expected


def test_row21_one_patient_cannot_be_split():
  with pytest.raises(DataError, match="one group only"):
    splits.split_by_group(np.array(["p", "p"]), 0.5, 0)
  with pytest.raises(DataError, match="2 groups cannot make 3 folds"):
    splits.folds(np.array(["p", "q"]), 3, 0)


# Row 30


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(id="231"), "row 5, column 'id': '231' is already in row 3"),
    (dict(id="231.0"), "row 5, column 'id': '231' is already in row 3"),
    (dict(id=" 231 "), "row 5, column 'id': '231' is already in row 3"),
    (dict(id=" "), "row 5, column 'id': is blank"),
    (dict(path="gone.png"), "row 5, column 'path': 'gone.png': no such file"),
    (dict(path="230.png"), "row 5, column 'path'.*already in row 2"),
    (dict(path="./230.png"), "row 5, column 'path'.*already in row 2"),
    (dict(path="../t.csv"), "row 5, column 'path'.*outside the folder"),
    (dict(path="/dev/zero"), "row 5, column 'path'.*outside the folder"),
    (dict(path="a\0b.png"), "row 5, column 'path'"),
    (dict(fluid="2"), "row 5, column 'fluid': '2' is not 0, 1 or blank"),
    (dict(fluid="-1"), "row 5, column 'fluid'"),
    (dict(fluid="0.5"), "row 5, column 'fluid'"),
    (dict(fluid="yes"), "row 5, column 'fluid': 'yes' is not a number"),
    (dict(fluid="1,0"), "row 5, column 'fluid': '1,0' is not a number"),
    (dict(fluid="inf"), "row 5, column 'fluid': 'inf' is not a number"),
    (dict(fluid="1_0"), "row 5, column 'fluid': '1_0' is not a number"),
    (dict(fluid="1e999"), "row 5, column 'fluid'"),
    (dict(fluid="#N/A"), "row 5, column 'fluid'"),
    (dict(healthy="sick"), "row 5, column 'healthy'"),
    (dict(part="dev"), "row 5, column 'part': 'dev' is not train, eval"),
  ],
)
def test_row30_a_wrong_cell(scans, tmp_path, change, message):
  root, rows = scans
  rows[3].update(change)
  with pytest.raises(DataError, match=message) as found:
    folder(root, write(rows, tmp_path / "t.csv"), **OPTIONS)
  assert "\n" not in str(found.value)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ("id;path\n1;230.png\n", "no column 'group'.*columns: id, path"),
    ("id,path,groups\n1,230.png,p\n", "did you mean 'groups'"),
    ("id,path,group,id\n1,230.png,p,2\n", "more than one column 'id'"),
    ("id,path,group\n1,230.png\n", "row 2: 2 cells, the header has 3"),
    ("id,path,group\n1,230.png,p,q\n", "row 2: 4 cells, the header has 3"),
    ('id,path,group\n1,"230.png,p\n', "not a readable CSV"),
    ("id,path,group\n", "no rows below a header"),
    ("id,path,group\n" + "x" * 200_000 + ",230.png,p\n", "field larger"),
  ],
)
def test_row30_a_wrong_table(scans, tmp_path, lines, message):
  (tmp_path / "t.csv").write_text(lines)
  with pytest.raises(DataError, match=message):
    folder(scans[0], tmp_path / "t.csv")


@pytest.mark.parametrize(
  "content",
  [
    b"",
    "id,path,group\nä,230.png,p\n".encode("latin-1"),
    "id,path,group\n1,230.png,p\n".encode("utf-16"),
    b"\x89PNG\r\n\x1a\n\xff\xfe" + bytes(99),
  ],
)
@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".xls", ".parquet"])
def test_row30_what_is_no_table(tmp_path, content, suffix):
  path = tmp_path / f"t{suffix}"
  path.write_bytes(content)
  with pytest.raises(DataError, match="t[.]"):
    table_files.read_table(path)


DRESSES = {
  "bom": dict(code="utf-8-sig"),
  "windows": dict(end="\r\n"),
  "old mac": dict(end="\r"),
  "semicolons": dict(delimiter=";"),
  "tabs": dict(delimiter="\t", code="utf-8-sig", end="\r\n"),
}


@pytest.mark.parametrize("dress", [*DRESSES, "mixed", "floats", "workbook"])
def test_row30_the_same_table_in_another_dress(scans, tmp_path, dress):
  root, rows = scans
  plain = folder(root, write(rows, tmp_path / "a.csv"), **OPTIONS)
  other = tmp_path / "b.csv"
  if dress in DRESSES:
    write(rows, other, **DRESSES[dress])
  elif dress == "mixed":
    lines = (tmp_path / "a.csv").read_bytes().splitlines()
    ends = [b"\r\n", b"\n", b"\r", b"\n\n", b"\r\n\r\n"] * 2
    pairs = zip(lines, ends, strict=False)
    other.write_bytes(b"".join(line + end for line, end in pairs))
  elif dress == "floats":
    write([{**row, "id": f" {row['id']}.00 "} for row in rows], other)
  else:
    other = other.with_suffix(".xlsx")
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
      numeric = {key: float(row[key]) for key in ("id", "fluid", "healthy")}
      book.active.append([*{**row, **numeric}.values()])
    book.save(other)
  found = folder(root, other, **OPTIONS)
  assert found.fingerprint() == plain.fingerprint()
  assert found.ids.tolist() == [str(230 + i) for i in range(6)]


def test_row30_leading_zeros_are_other_people():
  cells = {"007": "007", "7": "7", 7.0: "7", "7.0": "7", "7.5": "7.5"}
  for cell, text in cells.items():
    assert table_files.canonical(cell) == text


def test_row24_a_table_that_unpacks_to_too_much(tmp_path, monkeypatch):
  monkeypatch.setattr(table_files, "MAX_TABLE_BYTES", 2**20)
  path = tmp_path / "t.xlsx"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("xl/sharedStrings.xml", bytes(2**21))
  with pytest.raises(DataError, match="unpacked table has 2097152 bytes"):
    table_files.read_table(path)
  path = tmp_path / "t.csv"
  path.write_bytes(b"id\n" + b"1\n" * 2**20)
  with pytest.raises(DataError, match="limit of 1048576"):
    table_files.read_table(path)


# Rows 31 to 33


def test_row31_one_patient_in_two_parts(scans, tmp_path):
  root, rows = scans
  rows[4]["group"] = "p0"  # the fellow eye of a training patient
  found = folder(root, write(rows, tmp_path / "t.csv"), **OPTIONS)
  with pytest.raises(DataError, match="1 groups .patients.*: p0; split by"):
    splits.check_groups(found.groups, found.column("split"))
  crossing = splits.check_groups(
    found.groups, found.column("split"), allow=True
  )
  assert crossing == ["p0"]


def test_row31_an_id_written_in_two_ways_is_one_patient(scans, tmp_path):
  root, rows = scans
  for row, group in zip(rows, ("7", "8", "9", "9", "7.0", " 7"), strict=True):
    row["group"] = group
  found = folder(root, write(rows, tmp_path / "t.csv"), **OPTIONS)
  with pytest.raises(DataError, match=": 7; split by"):
    splits.check_groups(found.groups, found.column("split"))


@pytest.mark.parametrize("seed", range(5))
def test_row31_drawn_splits_never_cut_a_patient(seed):
  rng = np.random.default_rng(seed)
  groups = rng.integers(0, 9, 60).astype(str)
  held_out = splits.split_by_group(groups, 0.3, seed)
  assert splits.check_groups(groups, np.where(held_out, "eval", "train")) == []
  assert splits.check_groups(groups, splits.folds(groups, 3, seed)) == []


def test_row32_one_image_in_two_parts(scans, tmp_path):
  root, rows = scans
  (root / "235.png").write_bytes((root / "231.png").read_bytes())
  # Other bytes on disk, the same pixels.
  with Image.open(root / "230.png") as image:
    image.save(root / "234.png", compress_level=0)
  found = folder(root, write(rows, tmp_path / "t.csv"), **OPTIONS)
  images = [found.read(row) for row in range(6)]
  parts = found.column("split")
  with pytest.raises(DataError, match="2 images.*: 230 = 234, 231 = 235;"):
    splits.check_duplicates(images, parts, found.ids)
  hashes = [splits.image_hash(image) for image in images]
  assert splits.copies(hashes, parts, found.ids) == {0: "234", 1: "235"}
  images[4] = images[4] + np.uint8(1)
  images[5] = images[5].reshape(5, 4)
  splits.check_duplicates(images, parts, found.ids)


def test_row33_a_patient_that_is_not_known(scans, tmp_path, caplog):
  root, rows = scans
  rows[3]["group"] = rows[5]["group"] = " "
  table = write(rows, tmp_path / "t.csv")
  with pytest.raises(DataError, match="row 5, column 'group': no patient .2 "):
    folder(root, table)
  found = folder(root, table, group_unknown="exclude")
  assert found.ids.tolist() == ["230", "231", "232", "234"]
  assert "t.csv: 2 rows without a patient: left out" in caplog.text
  alone = folder(root, table, group_unknown="image")
  assert alone.groups.tolist() == ["p0", "p0", "p1", "233", "p2", "235"]
  assert "t.csv: 2 rows without a patient: each image is taken" in caplog.text
  for row in rows:
    row["group"] = ""
  with pytest.raises(DataError, match="no row has a patient"):
    folder(root, write(rows, table), group_unknown="exclude")
  with pytest.raises(DataError, match="no patient for '230.png' .6 such"):
    folder(root)
  caplog.clear()
  assert len(folder(root, group_unknown="image")) == 6
  assert "6 rows without a patient: each image is taken" in caplog.text


@pytest.mark.parametrize(
  "groups", [["p", "", " \u200b"], [1.0, np.nan, np.nan]]
)
def test_row33_no_reader_can_leave_a_patient_out(groups):
  table = {"id": np.array(["a", "b", "c"]), "group": np.array(groups)}
  with pytest.raises(DataError, match="'mine': . rows have no pat.*is 'b'"):
    Dataset("mine", table, lambda row: None)


# Rows 39 and 42, as far as the data are concerned


def test_row39_images_keep_their_rows(scans):
  images = np.arange(12)[:, None] * np.ones((1, 3), int)
  seen = []
  for batch in feed.batches({"image": images}, 5, seed=3, steps=4):
    np.testing.assert_array_equal(batch["image"], images[batch["index"]])
    seen.append(tuple(batch["index"]))
  assert len(set(seen)) == 4
  found = folder(scans[0], group_unknown="image")
  order = np.array([4, 0, 5, 2])
  picked = found.select(order).select(np.array([True, False, True, True]))
  assert picked.ids.tolist() == ["234.png", "235.png", "232.png"]
  assert [int(picked.read(row)[0, 0]) for row in range(3)] == [40, 50, 20]


def test_row42_settings_that_do_not_exist(scans, tmp_path):
  root, rows = scans
  with pytest.raises(ConfigError, match="did you mean 'folder'"):
    data.load(types.SimpleNamespace(name="folders", path=str(root)))
  with pytest.raises(DataError, match="needs a path"):
    data.load(types.SimpleNamespace(name="folder", path=""))
  with pytest.raises(ConfigError, match="refuse, exclude, image"):
    folder(root, group_unknown="drop")
  for size in ("0x4", "-3x4", "4", "4x", "axb", "4x4x4"):
    flags = [f"--source={root}", f"--out={tmp_path / 'o'}", f"--size={size}"]
    with pytest.raises(ConfigError, match="expected HxW"):
      prepare.main([*flags, "--group_unknown=image"])
  found = folder(root, write(rows, tmp_path / "t.csv"), **OPTIONS)
  with pytest.raises(DataError, match="did you mean 'fluid'"):
    found.column("fluids")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_row41_decimal_commas_are_refused_by_row(scans, tmp_path, delimiter):
  root, rows = scans
  for row in rows:
    row["CST"] = "250.5"
  rows[3]["CST"] = "250,5"
  table = write(rows, tmp_path / "t.csv", delimiter=delimiter)
  with pytest.raises(DataError, match="row 5, column 'CST': '250,5' is not a"):
    table_files.read_table(table).numbers("CST")


def test_row41_names_of_every_script(tmp_path):
  root = tmp_path / "Ordner mit Umläuten"
  (root / "左眼").mkdir(parents=True)
  image = np.full((4, 5), 9, np.uint8)
  Image.fromarray(image).save(root / "左眼" / "Größe 1.png")
  table = tmp_path / "Tabelle für Ähm.csv"
  table.write_text(
    "id,path,group,Öl\nå,左眼\\Größe 1.png,Müller,1\n", encoding="utf-8"
  )
  found = folder(root, table, label_columns=("Öl",))
  np.testing.assert_array_equal(found.read(0), image)
  assert found.groups.tolist() == ["Müller"]
