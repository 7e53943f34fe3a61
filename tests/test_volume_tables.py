"""Your own volumes by a table, in NIfTI and npz files."""

import cloudpickle
import numpy as np
import pytest
from volume_cases import (
  LABEL,
  RAS,
  SPACING,
  mr_reference,
  save,
  stored,
)

from gcl_jax.data import intensity, npz_volumes, volume_files
from gcl_jax.data.formats import read_volume
from gcl_jax.data.readers.volumes import read as volume_table
from gcl_jax.errors import ConfigError, DataError

# Your own table


def test_volumes_of_a_table(tmp_path):
  image = save(tmp_path / "x" / "a.nii.gz", RAS)
  save(tmp_path / "x" / "a_seg.nii.gz", LABEL)
  table = tmp_path / "t.csv"
  table.write_text(
    "id,image,label,patient,phase,modality,age\n"
    "one,x/a.nii.gz,x/a_seg.nii.gz,p1,ED,,50\n"
    "two,x\\a.nii.gz,,p2,,ct,\n"
  )
  found = volume_table(
    tmp_path, table, classes=("a", "b"), meta_columns=("age",)
  )
  assert found.groups[[0, -1]].tolist() == ["p1", "p2"]
  assert found.column("phase")[[0, -1]].tolist() == ["ED", ""]
  assert found.column("modality")[[0, -1]].tolist() == ["mr", "ct"]
  assert found.column("age")[0] == 50 and np.isnan(found.column("age")[-1])
  np.testing.assert_allclose(found.column("spacing_z"), 8)
  pixels = read_volume(image)
  np.testing.assert_allclose(found.read(2), mr_reference(pixels)[2], atol=1)
  np.testing.assert_array_equal(found.read(4), intensity.window_ct(pixels)[0])
  expected = LABEL[::-1, ::-1].transpose(2, 1, 0)
  np.testing.assert_array_equal(found.read_mask(1), expected[1])
  table.write_text("id,image,patient\none,x/a.nii.gz,p\n")
  assert volume_table(tmp_path, table, axis="sagittal").read_mask is None


# The slices of volume b alone are 4 to 7.
@pytest.mark.parametrize(
  ("lines", "kept", "patients"),
  [
    ("id,image,patient\na,a.nii.gz,p\nb,a.nii.gz, \nc,no.nii,\n", "ab", "pb"),
    ("id,image\na,a.nii.gz\nb,a.nii.gz\n", "ab", "ab"),
  ],
)
def test_a_volume_of_nobody_is_refused_or_said(
  tmp_path, caplog, lines, kept, patients
):
  save(tmp_path / "a.nii.gz", RAS)
  table = tmp_path / "t.csv"
  table.write_text(lines)
  column = "patient" in lines
  words = "row 3, column 'patient': no patient .2 such rows.; fill it in, or"
  words = words if column else r"no column 'patient' \(columns: id, image\);"
  with pytest.raises(
    DataError, match=f"{words}.*set .*group_unknown=volume if"
  ):
    volume_table(tmp_path, table)
  with pytest.raises(ConfigError, match="'image'; known: refuse, exclude, vol"):
    volume_table(tmp_path, table, group_unknown="image")
  assert not caplog.records
  if column:  # a volume that is left out needs no file
    found = volume_table(tmp_path, table, group_unknown="exclude")
    assert set(found.column("volume")) == {"a"} and set(found.groups) == {"p"}
    assert "t.csv: 2 rows without a patient: left out" in caplog.text
  else:
    with pytest.raises(DataError, match="no column 'patient'"):
      volume_table(tmp_path, table, group_unknown="exclude")
  save(tmp_path / "no.nii", RAS)
  caplog.clear()
  table.write_text(lines.replace("c,no.nii,\n", ""))
  found = volume_table(tmp_path, table, group_unknown="volume")
  assert found.column("volume").tolist() == [v for v in kept for _ in range(4)]
  assert found.groups.tolist() == [p for p in patients for _ in range(4)]
  assert found.column("patient").tolist() == found.groups.tolist()
  rows = 1 if column else 2
  assert f"{rows} rows without a patient: each volume is taken" in caplog.text


@pytest.mark.parametrize("name", ["group", "spacing_y", "position", "labelled"])
def test_a_column_that_would_replace_the_patient_or_the_geometry(
  tmp_path, name
):
  save(tmp_path / "a.nii.gz", RAS)
  table = tmp_path / "t.csv"
  table.write_text(f"id,image,patient,{name}\none,a.nii.gz,p1,3\n")
  with pytest.raises(DataError, match=f"meta column '{name}' .*rename it"):
    volume_table(tmp_path, table, meta_columns=(name,))


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
    volume_table(tmp_path, tmp_path / "t.csv", group_unknown="volume")


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
    "id,image,label,patient\na,i.nii,l.nii,p\nb,both.npz,both.npz,p\n"
    "c,i.nii,l.npz,p\nd,both.npz,l.nii,p\n"
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
    "id,patient,image,label,spacing_1,spacing_2,spacing_3\n"
    "a,p,i.npz,l.npz,0.5,1.5,8\nb,p,i.nii,,,,\n"
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
  (tmp_path / "t.csv").write_text("id,image,patient\na,i.npz,p\n")
  with pytest.raises(DataError, match=f"i.npz: .*{words}|i.npz: {words}") as e:
    volume_table(tmp_path, tmp_path / "t.csv")
  assert "\n" not in str(e.value)


def test_nothing_but_headers_of_npz_is_unpacked_for_the_table(
  tmp_path, monkeypatch
):
  save_npz(tmp_path / "i.npz", RAS, np.eye(4))
  (tmp_path / "t.csv").write_text("id,image,patient\na,i.npz,p\n")
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
