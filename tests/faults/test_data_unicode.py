"""Row 51: one patient, image or file in two forms of its letters."""

import csv
import hashlib
import io
import itertools
import os
import unicodedata

import numpy as np
import openpyxl
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from gcl_jax.data import prepare, splits, table_files, text
from gcl_jax.data.file_names import files_named, pairs_named
from gcl_jax.data.readers.folder import read as folder
from gcl_jax.data.readers.olives import BIOMARKERS
from gcl_jax.data.readers.olives import read as olives
from gcl_jax.data.readers.tfds import read as tfds_source
from gcl_jax.data.readers.volumes import read as volume_table
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError
from gcl_jax.evaluation import metrics
from gcl_jax.evaluation.over_draws import mean_over_fits
from gcl_jax.pipeline import sources

NAME = "M\u00fcller \u00c5sa"
APART = unicodedata.normalize("NFD", NAME)
UNSEEN = (
  "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202a\u202c\u2066\u2069"
  "\u061c\u180e\u034f\ufe0f\ufe00\U000e0101\u180b"
)
SPACES = "\u00a0\u2007\u2009\u202f\u3000"
FORMS = [
  NAME,
  APART,
  "M\u00fcller \u212bsa",  # the sign of an angstrom
  "\ufeffM\u00fcller \u00c5sa",
  "M\u00fcl\u00adler \u00c5sa\u200b",
  "Mu\u200b\u0308ller\u00a0\u00c5sa",
  "M\u200du\u034f\u0308ller\u3000A\ufe0f\u030asa\u2069 ",
]
SAID = "written in more than one form"


def picture(path, value=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)


def write(path, rows):
  if path.suffix == ".xlsx":
    book = openpyxl.Workbook()
    for row in rows:
      book.active.append(row)
    book.save(path)
  else:
    with path.open("w", newline="", encoding="utf-8") as file:
      csv.writer(file).writerows(rows)
  return path


def said(caplog):
  return [r.getMessage() for r in caplog.records if SAID in r.getMessage()]


# The form


@pytest.mark.parametrize("written", FORMS)
def test_row51_one_form(written):
  assert table_files.canonical(written) == NAME
  assert text.one_form(written).strip() == NAME


@pytest.mark.parametrize("letter", [*UNSEEN])
def test_row51_what_is_not_seen_does_not_count(letter):
  for written in (f"p{letter}1", f"{letter} p1", f"p1{letter}", f"p1 {letter}"):
    assert table_files.canonical(written) == "p1"
  assert table_files.canonical(letter) == ""
  assert table_files.canonical(f"232{letter}.0") == "232"


@pytest.mark.parametrize("letter", [*SPACES])
def test_row51_every_space_is_a_plain_one(letter):
  assert table_files.canonical(f"p{letter}1{letter}") == "p 1"
  assert table_files.canonical(f"p{letter}{letter}1") == "p  1"


def test_row51_what_is_kept():
  kept = ["m\u00fcller", "M\u00fcller", "Mueller", "Muller", "007", "7", "p 1"]
  kept += ["p  1", "x\u00b2", "x2", "\uff17", "\ufb01", "fi", "\u00df", "ss"]
  kept += ["\u0421\u0410", "CA", "O\u2019Neill", "O'Neill", "1\u20112", "1-2"]
  kept += ["\u0131", "i", "\U0001f441", "x\u0302"]
  assert [table_files.canonical(name) for name in kept] == kept
  assert len({text.one_form(name) for name in kept}) == len(kept)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text())
def test_row51_the_form_of_a_form_is_itself(written):
  once = text.one_form(written)
  assert text.one_form(once) == once
  assert unicodedata.is_normalized("NFC", once)
  for form in ("NFC", "NFD"):
    assert text.one_form(unicodedata.normalize(form, written)) == once
  if written.isascii():
    assert once is written


# Tables


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_row51_one_patient_in_a_table(tmp_path, caplog, suffix):
  rows = [["id", "path", "group", "note"]]
  for i, name in enumerate([*FORMS, NAME.lower()]):
    picture(tmp_path / f"{i}.png")
    rows.append([f"{i}", f"{i}.png", name, "\u00e4"])
  found = folder(tmp_path, write(tmp_path / f"t{suffix}", rows))
  assert found.groups.tolist() == [NAME] * len(FORMS) + [NAME.lower()]
  (line,) = said(caplog)
  assert f"t{suffix}, column 'group': 1 texts" in line
  assert line.endswith("the first: rows 2 and 3")
  assert "ller" not in line  # it may be the name of a person
  found.select(np.arange(3))
  assert len(said(caplog)) == 1


def test_row51_a_table_in_one_form_says_nothing(tmp_path, caplog):
  picture(tmp_path / "a.png")
  picture(tmp_path / "b.png")
  rows = [["id", "path", "group"], ["a", "a.png", APART], ["b", "b.png", APART]]
  found = folder(tmp_path, write(tmp_path / "t.csv", rows))
  assert found.groups.tolist() == [NAME, NAME]
  assert not said(caplog)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_row51_two_images_of_one_id_are_refused(tmp_path, suffix):
  rows = [["id", "path", "group"]]
  for i, name in enumerate(["x", NAME, "y", APART]):
    picture(tmp_path / f"{i}.png")
    rows.append([name, f"{i}.png", f"p{i}"])
  table = write(tmp_path / f"t{suffix}", rows)
  with pytest.raises(
    DataError, match="row 5, column 'id'.*already in row 3, in other characters"
  ):
    folder(tmp_path, table)
  with pytest.raises(DataError, match=r"1 ids more than once.*\(rows 0, 2\)"):
    ids = np.array([NAME, "x", APART])
    Dataset("d", {"id": ids, "group": ids}, lambda row: None)


def test_row51_a_cell_of_unseen_characters_is_blank(tmp_path, caplog):
  picture(tmp_path / "a.png")
  rows = [["id", "path", "group"], ["a", "a.png", "\u200b\ufeff"]]
  rows.insert(1, ["\u200b", "", "\u00ad"])
  with pytest.raises(DataError, match="row 3, column 'group': no patient"):
    folder(tmp_path, write(tmp_path / "t.csv", rows))
  rows = [["id", "x"], ["a", ""], ["", "\u00ad"], ["b", "\u200b", "\ufeff"]]
  found = table_files.read_table(write(tmp_path / "u.csv", rows))
  assert found.text("id").tolist() == ["a", "b"]
  assert found.text("x").tolist() == ["", ""]
  assert not said(caplog)


def test_row51_the_names_of_columns(tmp_path):
  header = ["\ufeffid", unicodedata.normalize("NFD", "\u00d6l"), "n\u200b"]
  table = table_files.read_table(
    write(tmp_path / "t.csv", [header, ["1", "1\u200b", "2"]])
  )
  assert list(table.columns) == ["id", "\u00d6l", "n"]
  for form in ("NFC", "NFD"):
    name = unicodedata.normalize(form, "\u00d6l")
    assert table.binary(name).tolist() == [1]
    assert table.as_written(name).tolist() == ["1\u200b"]
  twice = [[*header, "\u00d6l"], ["1", "1", "2", "0"]]
  with pytest.raises(DataError, match="more than one column '\u00d6l'"):
    table_files.read_table(write(tmp_path / "t.csv", twice))


def test_row51_columns_of_patients_in_either_form(tmp_path):
  picture(tmp_path / "a.png")
  header = ["id", "path", unicodedata.normalize("NFD", "Pr\u00e9nom")]
  picture(tmp_path / "b.png")
  rows = [header, ["a", "a.png", "p"], ["b", "b.png", "\u200b"]]
  table = write(tmp_path / "t.csv", rows)
  expected = {"exclude": ["p"], "image": ["p", "b"]}
  for form, unknown in itertools.product(("NFC", "NFD"), expected):
    column = unicodedata.normalize(form, "Pr\u00e9nom")
    found = folder(tmp_path, table, group_column=column, group_unknown=unknown)
    assert found.groups.tolist() == expected[unknown]


# Names of files


def forms(name):
  return unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)


@pytest.mark.parametrize("pattern_form", ["NFC", "NFD"])
def test_row51_one_patient_in_file_names(tmp_path, caplog, pattern_form):
  for kind, patient in itertools.product((0, 1), range(3)):
    for visit, name in enumerate(forms(f"\u00d6l_\uac01{patient}")):
      unseen = "\u200b" * kind
      picture(tmp_path / f"{name}{unseen}_{kind}{visit}.png")
  pattern = "(?P<label>\u00d6l)_(?P<group>[^_]+)_"
  found = folder(
    tmp_path,
    pattern=unicodedata.normalize(pattern_form, pattern),
    label_columns=(unicodedata.normalize(pattern_form, "\u00d6l"),),
  )
  assert sorted(set(found.groups)) == ["\uac010", "\uac011", "\uac012"]
  assert found.labels == ("\u00d6l",) and found.column("\u00d6l").all()
  assert len(set(found.ids)) == 12
  lines = said(caplog)
  assert any("patients in the names: 3 texts" in line for line in lines)
  assert any("classes in the names: 1 texts" in line for line in lines)
  assert [found.read(row).shape for row in range(12)] == [(4, 5)] * 12


def test_row51_one_class_of_two_folders(tmp_path):
  for i, name in enumerate(forms("gesund-\u00e4")):
    picture(tmp_path / name / f"{i}.png")
  picture(tmp_path / "amd" / "2.png")
  for healthy in forms("gesund-\u00e4"):
    found = folder(tmp_path, healthy_column=healthy, group_unknown="image")
    assert sorted(found.column("healthy")) == [0, 1, 1]
    assert found.labels == ("amd", "diseased")


def test_row51_two_files_of_one_name_are_refused(tmp_path):
  for name in forms("\u00e4"):
    picture(tmp_path / f"{name}.png")
  with pytest.raises(DataError, match=r"'a\\u0308.png' and '\\xe4.png' look"):
    folder(tmp_path, group_unknown="image")


def test_row51_an_image_and_its_class_map(tmp_path):
  composed, apart = forms("M\u00fcller")
  (tmp_path / f"{composed}_image.nii.gz").write_bytes(b"1")
  (tmp_path / f"{apart}_label.nii.gz").write_bytes(b"1")
  ((name, (image, label)),) = pairs_named(tmp_path, ".+").items()
  assert name == composed
  assert image.name == f"{composed}_image.nii.gz"
  assert label.name == f"{apart}_label.nii.gz"
  (tmp_path / f"{apart}_image.nii.gz").write_bytes(b"1")
  with pytest.raises(DataError, match="same name; remove one"):
    files_named(tmp_path, ".+_image")


# Files that a table names


@pytest.mark.parametrize("listed", ["path", "stem", "stem below"])
@pytest.mark.parametrize("stored", [0, 1])
@pytest.mark.parametrize("written", FORMS)
def test_row51_a_file_is_found_in_either_form(
  tmp_path, stored, written, listed
):
  name = (NAME, APART)[stored]
  picture(tmp_path / f"in {name}" / f"{name}.png", 7)
  path = {
    "path": f"in {written.strip()}/{written.strip()}.png",
    "stem": written,
    "stem below": f"in {written.strip()}\\{written}",
  }[listed]
  rows = [["id", "path", "group"], ["a", path, "p"]]
  found = folder(tmp_path, write(tmp_path / "t.csv", rows))
  assert found.read(0)[0, 0] == 7


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_row51_of_two_files_the_exact_one_is_taken(tmp_path, suffix):
  for value, name in enumerate(forms("\u00e4")):
    picture(tmp_path / f"{name}.png", value)
  names = [f"{name}{suffix}" for name in forms("\u00e4")]
  rows = [["id", "path", "group"], ["a", names[0], "p"], ["b", names[1], "p"]]
  found = folder(tmp_path, write(tmp_path / "t.csv", rows))
  assert [found.read(row)[0, 0] for row in (0, 1)] == [0, 1]
  rows[2][1] = f"\u200b{names[1]}"  # neither
  with pytest.raises(
    DataError,
    match="row 3, column 'path'.*2 such files, alike but for the form",
  ):
    folder(tmp_path, write(tmp_path / "t.csv", rows))
  rows[2][1] = names[0]
  with pytest.raises(DataError, match="row 3, column 'path'.*already in row 2"):
    folder(tmp_path, write(tmp_path / "t.csv", rows))


def test_row51_two_folders_that_look_alike(tmp_path):
  for value, name in enumerate(forms("\u00e4")):
    picture(tmp_path / name / f"{value}.png", value)
  rows = [["id", "path", "group"]]
  rows += [[f"{i}", f"\u00e4/{i}.png", "p"] for i in (0, 1)]
  found = folder(tmp_path, write(tmp_path / "t.csv", rows))
  assert [found.read(row)[0, 0] for row in (0, 1)] == [0, 1]


def test_row51_a_file_by_its_very_name_comes_before_a_folder(tmp_path):
  composed, apart = forms("\u00e4")
  picture(tmp_path / apart / f"{composed}.png", 3)
  picture(tmp_path / apart / "b.png", 4)
  rows = [["id", "path", "group"], ["a", composed, "p"]]
  found = folder(tmp_path, write(tmp_path / "t.csv", rows))
  assert found.read(0)[0, 0] == 3


@pytest.mark.parametrize(
  "path", [".\u200b./o.png", "\u200b/etc/hosts", "\u200b../o.png"]
)
def test_row51_no_unseen_way_out_of_the_folder(tmp_path, path):
  picture(tmp_path / "o.png")
  picture(tmp_path / "in" / "a.png")
  table = write(tmp_path / "t.csv", [["id", "path", "group"], ["a", path, "p"]])
  with pytest.raises(DataError, match="row 2, column 'path'.*outside"):
    folder(tmp_path / "in", table)
  write(table, [["id", "image", "patient"], ["a", path, "p"]])
  with pytest.raises(DataError, match="row 2, column 'image'.*outside"):
    volume_table(tmp_path / "in", table)


def test_row51_a_folder_is_listed_once(tmp_path, monkeypatch):
  rows = [["id", "path", "group"]]
  for i in range(20):
    picture(tmp_path / "sc\u00e4ns" / f"{i}.png", i)
    rows.append([f"{i}", f"sca\u0308ns/{i}.png", "p"])
  calls, entries = [], type(tmp_path).iterdir
  monkeypatch.setattr(
    type(tmp_path), "iterdir", lambda path: calls.append(path) or entries(path)
  )
  found = folder(tmp_path, write(tmp_path / "t.csv", rows))
  assert [found.read(row)[0, 0] for row in range(20)] == list(range(20))
  assert len(calls) == 2


# Volumes

PHASES = [*forms("\u00e9d"), *"sssss"]


def test_row51_volumes_of_one_patient(tmp_path, caplog):
  rng = np.random.default_rng(0)
  rows = [["id", "image", "label", "patient", "phase", "age"]]
  for i, name in enumerate(FORMS):
    np.savez(
      tmp_path / f"{APART}{i}.npz",
      image=rng.normal(size=(4, 5, 2)),
      label=np.ones((4, 5, 2), np.uint8),
      spacing=np.ones(3),
    )
    file = f"{NAME}{i}.npz"
    rows.append([f"v{i}", file, file, name, PHASES[i], i])
  made = volume_table(
    tmp_path,
    write(tmp_path / "t.csv", rows),
    classes=("LV",),
    axis="stored",
    meta_columns=("age",),
  )
  assert set(made.groups) == set(made.column("patient")) == {NAME}
  assert set(made.column("phase")) == {"\u00e9d", "s"}
  assert made.read_mask(0).all() and made.read(0).shape == (5, 4)
  assert len(said(caplog)) == 2  # patient and phase
  for form in ("NFC", "NFD"):
    config = {"ood": "phase=" + unicodedata.normalize(form, "\u00e9d")}
    config = ConfigDict({"eval_fraction": 0.5, "split_seed": 0, **config})
    made.table["split"] = np.full(len(made), "train")
    part = sources.parts(made, config)
    assert ((part == "ood") == (made.column("phase") == "\u00e9d")).all()
  rows[2][0] = "v0\u200b"
  with pytest.raises(DataError, match="row 3, column 'id'.*already in row 2"):
    volume_table(tmp_path, write(tmp_path / "t.csv", rows), axis="stored")


def test_row51_a_volume_in_two_files_that_look_alike(tmp_path):
  for value, name in enumerate(forms("\u00e4")):
    np.savez(
      tmp_path / f"{name}.npz",
      image=np.arange(40.0).reshape(4, 5, 2) ** (value + 1),
      spacing=np.ones(3) + value,
    )
  names = zip("xy", forms("\u00e4"), strict=True)
  rows = [[one, f"{name}.npz", "p"] for one, name in names]
  rows.insert(0, ["id", "image", "patient"])
  made = volume_table(tmp_path, write(tmp_path / "t.csv", rows), axis="stored")
  assert made.column("spacing_x").tolist() == [1, 1, 2, 2]
  rows[1][1] = "\u00e4\u200b.npz"
  with pytest.raises(
    DataError, match="row 2, column 'image'.*2 such files, al"
  ):
    volume_table(tmp_path, write(tmp_path / "t.csv", rows), axis="stored")


# Prepared and foreign data sets


def test_row51_a_prepared_data_set_keeps_the_form(tmp_path):
  made = []
  for form in (0, 1):
    rows = [["id", "path", "group", "eye"]]
    for i in range(3):
      name = forms(f"\u00e4{i}")[form]
      stored = forms(f"\u00e4{i}")[1 - form]
      picture(tmp_path / f"{form}" / f"{stored}.png", i)
      rows.append([name, f"{name}.png", f"{name}p", name])
    table = write(tmp_path / f"{form}.csv", rows)
    made.append(folder(tmp_path / f"{form}", table, meta_columns=("eye",)))
  assert made[0].fingerprint() == made[1].fingerprint()
  target, bad = prepare.prepare(made[1], tmp_path / "out", name="scans")
  read = tfds_source(target)
  assert not bad and read.fingerprint() == made[0].fingerprint()
  assert read.ids.tolist() == ["\u00e40", "\u00e41", "\u00e42"]


class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """One patient in every form."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = dict(
      image=tfds.features.Image(shape=(None, None, 1)),
      name=tfds.features.Text(),
      patient=tfds.features.Text(),
      site=tfds.features.Text(),
    )
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i, name in enumerate(FORMS):
      image = io.BytesIO()
      Image.fromarray(np.full((4, 5), i, np.uint8)).save(image, "PNG")
      image.seek(0)
      yield (
        i,
        dict(image=image, name=f"{name}7.0", patient=name, site=f"{i}{name}"),
      )


def test_row51_one_patient_in_a_foreign_data_set(tmp_path, caplog):
  tfds.disable_progress_bar()
  Foreign(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  found = tfds_source(tmp_path, group_column="patient", meta_columns=("site",))
  assert found.groups.tolist() == [NAME] * len(FORMS)
  assert {site[1:].strip() for site in found.column("site")} == {NAME}
  (line,) = said(caplog)
  assert "feature 'patient': 1 texts" in line
  with pytest.raises(DataError, match="ids more than once"):
    tfds_source(tmp_path, id_column="name", group_column="patient")


# OLIVES, whose tables and folders are joined by path


@pytest.mark.parametrize("stored", [0, 1])
def test_row51_paths_of_olives(tmp_path, stored):
  path = "Prime_FULL/01-\u00e4/W0/OD/\u00f61"
  picture(tmp_path / f"{forms(path)[stored]}.png", 9)
  labels = tmp_path / "OLIVES_Dataset_Labels" / "full_labels"
  labels.mkdir(parents=True)
  header = ["File_Path", "BCVA", "CST", "Eye_ID", "Patient_ID"]
  row = [f"{forms(path)[1 - stored]}.tif", 1, 1, 1, 1]
  write(labels / "Clinical_Data_Images.csv", [header, row])
  header = ["Path (Trial)", *BIOMARKERS.values()]
  row = [f"{forms(path)[stored]}.tif", *[1] * len(BIOMARKERS)]
  write(labels / "Biomarker_Clinical_Data_Images.csv", [header, row])
  published = write(tmp_path / "test.csv", [header, row])
  found = olives(tmp_path, test_table=published)
  assert found.column("IRF").tolist() == [1]
  assert found.column("split").tolist() == ["eval"]
  assert found.read(0)[0, 0] == 9
  picture(tmp_path / f"{forms(path)[1 - stored]}.png", 9)
  with pytest.raises(DataError, match="row 2, column 'path'.*2 such files"):
    olives(tmp_path)


# Data sets and splits of plain arrays


@pytest.mark.parametrize("kind", ["U", "O", "T"])
def test_row51_a_data_set_of_ones_own(caplog, kind):
  dtype = {"U": None, "O": object, "T": np.dtypes.StringDType()}[kind]
  ids = np.array([f"{i}{name}" for i, name in enumerate(FORMS)], dtype)
  groups = np.array([name.strip() for name in FORMS], dtype)
  number = np.arange(len(FORMS))
  table = {"id": ids, "group": groups, "eye": groups, "n": number}
  found = Dataset("own", table, lambda row: None, meta=("eye", "n"))
  assert set(found.groups) == set(found.column("eye")) == {NAME}
  assert found.groups.dtype.kind == kind
  assert found.column("n") is number
  assert table["group"] is groups  # the caller's stays
  lines = said(caplog)
  assert len(lines) == 2 and lines[0].endswith("rows 0 and 1 (from 0)")
  assert "'own', column 'group': 1 texts" in lines[0]


def test_row51_fingerprints_of_ascii_stay_what_they_were():
  table = {
    "id": np.array(["a 1", "a  2", " b", "007", "7.0"]),
    "group": np.array(["p", "P", "p ", "q\t", "7"], object),
    "x": np.array([1.0, 0.0, np.nan, 1.0, 0.0]),
  }
  found = Dataset("d", table, lambda row: None, ("x",))
  assert all(found.table[name] is values for name, values in table.items())
  digest = hashlib.sha256()
  for name in ("group", "id", "x"):
    digest.update(name.encode())
    digest.update("\n".join(str(v) for v in table[name]).encode())
  assert found.fingerprint() == digest.hexdigest()


def mixed(kind):
  """60 rows of 12 people in all forms, and the same in one form."""
  rng = np.random.default_rng(0)
  people = [f"{person}{k}" for k in range(4) for person in ("\u00e4", "b", "o")]
  plain = [people[k] for k in rng.integers(0, 12, 60)]
  ways = [
    lambda name: name,
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: f"{name[0]}\u200b{name[1:]}",
  ]
  written = [ways[k % 3](name) for k, name in enumerate(plain)]
  if kind == "bytes":
    plain, written = ([n.encode() for n in names] for names in (plain, written))
  if kind in ("list", "bytes"):
    return written, np.array(plain)
  return np.array(written, kind), np.array(plain, kind)


@pytest.mark.parametrize("kind", ["U9", "O", "list", "bytes"])
def test_row51_splits_of_plain_arrays(caplog, kind):
  written, plain = mixed(kind)
  healthy = np.arange(60) % 2
  np.testing.assert_array_equal(
    splits.split_by_group(written, 0.3, 1, healthy),
    splits.split_by_group(plain, 0.3, 1, healthy),
  )
  assert len(said(caplog)) == 1 and "12 texts" in said(caplog)[0]
  subsets = splits.nested_fractions(written, (0.2, 1.0), 2, healthy)
  expected = splits.nested_fractions(plain, (0.2, 1.0), 2, healthy)
  for fraction, mask in expected.items():
    np.testing.assert_array_equal(subsets[fraction], mask)
  np.testing.assert_array_equal(
    splits.folds(written, 5, 3), splits.folds(plain, 5, 3)
  )
  np.testing.assert_array_equal(
    splits.label_draw(written, 4, 4), splits.label_draw(plain, 4, 4)
  )
  assert len(said(caplog)) == 4
  parts = np.where(np.arange(60) % 2, "train", "eval")
  crossing = splits.check_groups(written, parts, allow=True)
  assert len(crossing) == 12
  assert crossing == splits.check_groups(plain, parts, allow=True)


def test_row51_the_groups_of_an_interval():
  written, plain = mixed("U9")
  rng = np.random.default_rng(0)
  labels, scores = rng.integers(0, 2, 60), rng.normal(size=60)
  assert metrics.bootstrap(
    metrics.auroc, labels, scores, groups=written
  ) == metrics.bootstrap(metrics.auroc, labels, scores, groups=plain)
  values = rng.random((2, 6, 60))
  found = mean_over_fits(values, written)
  assert found == mean_over_fits(values, plain)
  assert found["low"] is not None and found["groups"] < 60


LETTERS = "abA07 -._\u00e4\u00c5\u1e69\u01d5\uac01\u0928\u3070\u0301\u0323"
DISGUISE = st.lists(
  st.sampled_from(["NFC", "NFD", *UNSEEN]), min_size=8, max_size=8
)


def disguised(name, moves):
  for place, move in enumerate(moves):
    if len(move) == 3:
      name = unicodedata.normalize(move, name)
    else:
      at = place * 7 % (len(name) + 1)
      name = f"{name[:at]}{move}{name[at:]}"
  return name


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
  people=st.lists(
    st.text(LETTERS, min_size=1, max_size=6),
    min_size=4,
    max_size=8,
    unique_by=text.one_form,
  ),
  moves=st.lists(DISGUISE, min_size=3, max_size=3),
  seed=st.integers(0, 99),
)
def test_row51_nobody_is_on_both_sides(people, moves, seed):
  person = np.repeat(np.arange(len(people)), len(moves))
  groups = np.array([disguised(n, m) for n in people for m in moves], object)
  parts = [splits.split_by_group(groups, 0.4, seed)]
  parts += splits.nested_fractions(groups, (0.2, 0.6, 1.0), seed).values()
  parts += [splits.folds(groups, 3, seed)]
  parts += [splits.label_draw(groups, 2, seed)]
  for part in parts:
    assert len(set(zip(person, part, strict=True))) == len(people)


def test_row51_names_that_are_no_unicode(tmp_path):
  """A file name of another code, which Python keeps by surrogates."""
  name = os.fsdecode(b"\xe4_1.png")
  try:
    picture(tmp_path / name, 5)
  except OSError:
    pytest.skip("this file system holds Unicode names only")
  found = folder(tmp_path, pattern=r"_(?P<group>\d)")
  assert found.groups.tolist() == ["1"] and found.read(0)[0, 0] == 5
  odd = np.array([b"\xe4", b"a\xcc\x88", b"\xc3\xa4"])
  formed = text.one_forms(odd, "bytes").tolist()
  assert formed == [b"\xe4", b"\xc3\xa4", b"\xc3\xa4"]
