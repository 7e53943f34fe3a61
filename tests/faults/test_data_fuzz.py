"""Rows 11, 22, 26 and 30: random damage ends in a refusal or a whole array.

The same damage as `benchmarks/fuzz_readers.py`, with fewer files.
"""

import fuzz_readers
import numpy as np
import pytest

from gcl_jax.errors import DataError

ROWS = {
  "png": 22, "jpeg": 22, "tiff": 22, "bmp": 22, "dicom": 26, "nifti": 11,
  "nifti_gz": 11, "npz": 11, "csv": 30, "xlsx": 30,
}  # fmt: skip
FILES = 60


@pytest.mark.parametrize(
  "name", ROWS, ids=[f"row{row}-{name}" for name, row in ROWS.items()]
)
def test_damaged_files_are_refused_or_read_whole(tmp_path, name):
  figures, violations = fuzz_readers.fuzz(name, FILES, 7, tmp_path, limit=5)
  assert not violations, violations
  # All refused, or all read, would show that the damage misses the reader.
  assert figures["refused"] >= 10 and figures["read"] >= 1, figures
  assert not list(tmp_path.iterdir())


def test_row26_every_format_is_fuzzed_and_read_when_whole(tmp_path):
  assert set(ROWS) == set(fuzz_readers.FORMATS)
  for name, kind in fuzz_readers.FORMATS.items():
    for i, content in enumerate(kind.seeds()):
      path = tmp_path / f"{name}{i}{kind.suffix}"
      path.write_bytes(content)
      assert fuzz_readers._judge(kind, path, content, 5) == "", path.name


def test_row26_the_same_seed_gives_the_same_damage():
  first, again = (list(fuzz_readers.damaged("png", 5, 3)) for _ in range(2))
  assert first == again
  assert first != list(fuzz_readers.damaged("png", 5, 4))


def test_row26_the_fuzzer_sees_what_a_reader_must_not_do(tmp_path):
  def read(mistake):
    def reader(path):
      if mistake == "raises":
        raise KeyError("no DataError")
      if mistake == "hangs":
        while True:
          try:
            pass
          except Exception:
            continue
      if mistake == "two lines":
        raise DataError(f"{path}:\nread the manual")
      return (1, 2)

    return reader

  sound = fuzz_readers.FORMATS["bmp"]
  for mistake in ("raises", "hangs", "two lines", "wrong size"):
    broken = sound._replace(read=read(mistake))
    fuzz_readers.FORMATS["broken"] = broken
    try:
      _, found = fuzz_readers.fuzz("broken", 1, 0, tmp_path, limit=0.2)
    finally:
      del fuzz_readers.FORMATS["broken"]
    assert len(found) == 1 and found[0].file.is_file(), mistake


def test_row26_damage_is_real():
  for name, kind in fuzz_readers.FORMATS.items():
    whole = kind.seeds()
    spoiled = list(fuzz_readers.damaged(name, 40, 1))
    same = sum(content in whole for content in spoiled)
    assert same <= 4, (name, same)
  assert np.ptp([len(content) for content in spoiled]) > 0
