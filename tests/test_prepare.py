"""Writing array_record: exact round trip, bad files set aside, never halved."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gcl_jax.data import prepare as preparing
from gcl_jax.data.prepare import main, prepare
from gcl_jax.data.readers.tfds import read as tfds_source
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError


def example(images, **table):
  count = len(images)
  rng = np.random.default_rng(0)
  columns = {
    "id": np.array([f"scän/{i} {'x' * i}" for i in range(count)]),
    "group": np.array([f"00{i // 2}" for i in range(count)]),
    "split": np.array(["train", "eval", ""] * count)[:count],
    "healthy": np.array([1.0, 0.0, np.nan] * count)[:count],
    "Fluid (IRF)": np.array([0.0, np.nan, 1.0] * count)[:count],
    "CST": rng.normal(300, 1e-9, count) / 3,
    "eye": np.array(["OD", "", "OS"] * count)[:count],
    **table,
  }
  columns["CST"][1] = np.nan

  def read(row):
    if isinstance(images[row], Exception):
      raise images[row]
    return images[row]

  return Dataset("Mixed set", columns, read, ("Fluid (IRF)",), ("CST", "eye"))


def shots(dtype, colour=(), count=7):
  rng = np.random.default_rng(1)
  top = np.iinfo(dtype).max
  return [
    rng.integers(0, top, (6 + i, 9, *colour), dtype, endpoint=True)
    for i in range(count)
  ]


@pytest.mark.parametrize(
  ("dtype", "colour"), [("uint8", ()), ("uint16", ()), ("uint8", (3,))]
)
def test_everything_comes_back_exactly(tmp_path, dtype, colour):
  dataset = example(shots(dtype, colour))
  target, bad = prepare(dataset, tmp_path / "o", name="My set!")
  assert target == tmp_path / "o" / "my_set" / "1.0.0" and not bad
  assert not (tmp_path / "o" / "quarantine.csv").exists()
  for path in (target, tmp_path / "o"):
    back = tfds_source(path)
    assert back.name == "my_set"
    assert back.labels == dataset.labels and back.meta == dataset.meta
    assert set(back.table) == set(dataset.table)
    for column, values in dataset.table.items():
      np.testing.assert_array_equal(back.column(column), values, column)
    assert back.fingerprint() == dataset.fingerprint()
    for row in range(len(dataset)):
      image = back.read(row)
      assert image.dtype == dtype
      np.testing.assert_array_equal(image, dataset.read(row))


def test_bad_images_are_listed_and_left_out(tmp_path):
  images = shots("uint8")
  images[0] = DataError("first.png: is truncated")
  images[4] = DataError("fifth.png: is empty")
  images[5] = np.full((4, 4), np.nan)
  dataset = example(images)
  target, bad = prepare(dataset, tmp_path, max_bad=3)
  back = tfds_source(target)
  good = [1, 2, 3, 6]
  assert back.ids.tolist() == dataset.ids[good].tolist()
  for row, source in enumerate(good):
    np.testing.assert_array_equal(back.read(row), images[source])
  with open(tmp_path / "quarantine.csv", encoding="utf-8") as file:
    listed = list(csv.DictReader(file))
  assert [r["id"] for r in listed] == dataset.ids[[0, 4, 5]].tolist()
  assert listed[0]["reason"] == "first.png: is truncated"
  assert "NaN" in listed[2]["reason"]
  assert [reason for _, reason in bad] == [r["reason"] for r in listed]


@pytest.mark.parametrize("where", [(0, 1), (3, 4)])
def test_too_many_bad_images_stop_it_and_leave_nothing(tmp_path, where):
  images = shots("uint8")
  for row in where:
    images[row] = DataError(f"{row}.png: broken")
  with pytest.raises(DataError, match=r"max_bad=1 .*\d.png: broken"):
    prepare(example(images), tmp_path, max_bad=1)
  files = [path for path in tmp_path.rglob("*") if path.is_file()]
  assert files == [tmp_path / "quarantine.csv"]
  with open(tmp_path / "quarantine.csv", encoding="utf-8") as file:
    assert len(list(csv.DictReader(file))) == 2
  with pytest.raises(DataError, match="no prepared data set"):
    tfds_source(tmp_path)


def test_mixed_kinds(tmp_path):
  images = shots("uint8", (3,))
  images[2] = images[2][..., 0]  # grey fits into colour without loss
  images[3] = images[3].astype(np.uint16)[..., 0]  # 16 bits do not
  target, bad = prepare(example(images), tmp_path)
  assert len(bad) == 1 and "first image has 3 of uint8" in bad[0][1]
  back = tfds_source(target)
  np.testing.assert_array_equal(back.read(2), np.stack([images[2]] * 3, -1))
  target, bad = prepare(
    example(images[:3] + images[4:]), tmp_path / "g", grey=True
  )
  assert not bad and tfds_source(target).read(0).ndim == 2


def test_resizing_averages(tmp_path):
  image = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
  target, _ = prepare(example([image] * 3), tmp_path, size=(4, 2))
  expected = image.reshape(4, 2, 2, 4).mean((1, 3))
  np.testing.assert_array_equal(tfds_source(target).read(0), np.rint(expected))


def test_it_never_writes_over_a_data_set(tmp_path):
  prepare(example(shots("uint8")), tmp_path)
  with pytest.raises(DataError, match="already there"):
    prepare(example(shots("uint8")), tmp_path)
  (tmp_path / "file").write_text("x")
  with pytest.raises(DataError, match="cannot be written"):
    prepare(example(shots("uint8")), tmp_path / "file" / "deeper")


def test_columns_that_clash_are_refused(tmp_path):
  dataset = example(shots("uint8"), Fluid__IRF_=np.zeros(7))
  clash = {**dataset.table, "Fluid |IRF|": np.zeros(7)}
  with pytest.raises(DataError, match="clashes"):
    prepare(Dataset("a", clash, dataset.read), tmp_path)


@pytest.fixture
def folder_with_faults(tmp_path):
  root = tmp_path / "my scans"
  root.mkdir()
  lines = ["id,path,group,fluid"]
  for i, image in enumerate(shots("uint8", count=6)):
    Image.fromarray(image).save(root / f"s{i}.png")
    lines.append(f"{i},s{i}.png,p{i},{i % 2}")
  content = (root / "s2.png").read_bytes()
  (root / "s2.png").write_bytes(content[: len(content) // 2])
  (root / "s4.png").unlink()
  os.mkfifo(root / "s4.png")
  (tmp_path / "t.csv").write_text("\n".join(lines))
  return root


def test_the_command(folder_with_faults, tmp_path):
  out = tmp_path / "out"
  command = [
    sys.executable, "-W", "error", "-m", "gcl_jax.data.prepare",
    f"--source={folder_with_faults}", f"--table={tmp_path / 't.csv'}",
    "--label_columns=fluid", f"--out={out}", "--max_bad=2",
  ]  # fmt: skip
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  target = out / "my_scans" / "1.0.0"
  assert done.stdout.splitlines() == [done.stdout.strip()]
  assert f"wrote 4 of 6 images (2 in {out}/quarantine.csv)" in done.stdout
  assert f"--config.data.path={target}" in done.stdout
  assert "100%" in done.stderr
  back = tfds_source(target)
  assert back.ids.tolist() == ["0", "1", "3", "5"]
  assert back.labels == ("fluid",)
  again = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert again.returncode == 2 and "Traceback" not in again.stderr
  assert again.stderr.startswith("error: ") and "already" in again.stderr


def test_mistakes_on_the_command_line(folder_with_faults, tmp_path):
  flags = [f"--source={folder_with_faults}", f"--out={tmp_path / 'o'}"]
  table = f"--table={tmp_path / 't.csv'}"
  with pytest.raises(ValueError, match="expected HxW"):
    main([*flags, table, "--size=96"])
  with pytest.raises(ValueError, match="max_bad=1"):
    main([*flags, table, "--max_bad=1"])
  with pytest.raises(ValueError, match="no data set 'folders'"):
    main([*flags, "--reader=folders"])


def test_it_knows_every_reader():
  names = "phantom, tfds, volumes"
  assert names in preparing._flags().format_help().replace("\n", " ")
  assert preparing._flags().get_default("reader") == "folder"
