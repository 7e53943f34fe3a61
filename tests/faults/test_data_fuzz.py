"""Rows 11, 22, 26 and 30: random damage ends in a refusal or a whole array.

The same damage as `benchmarks/fuzz_readers.py`, with fewer files.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

from gcl_jax.errors import DataError

_SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "fuzz_readers.py"
_SPEC = importlib.util.spec_from_file_location("fuzz_readers", _SCRIPT)
fuzz_readers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz_readers)

# Users see warnings, not errors; the verdict must be that of their run.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = {
  "png": 22, "jpeg": 22, "tiff": 22, "bmp": 22, "dicom": 26, "nifti": 11,
  "nifti_gz": 11, "npz": 11, "csv": 30, "xlsx": 30,
}  # fmt: skip
FILES = 60


def check(name: str, folder: pathlib.Path) -> None:
  figures, violations = fuzz_readers.fuzz(name, FILES, 7, folder, limit=5)
  assert not violations, violations
  # All refused, or all read, would show that the damage misses the reader.
  assert figures["refused"] >= 10 and figures["read"] >= 1, figures
  assert not list(folder.iterdir())


def formats_of(row: int) -> list[str]:
  return [name for name in ROWS if ROWS[name] == row]


@pytest.mark.parametrize("name", formats_of(22))
def test_row22_fuzzed_images(tmp_path, name):
  check(name, tmp_path)


@pytest.mark.parametrize("name", formats_of(26))
def test_row26_fuzzed_dicom(tmp_path, name):
  check(name, tmp_path)


@pytest.mark.parametrize("name", formats_of(11))
def test_row11_fuzzed_headers(tmp_path, name):
  check(name, tmp_path)


@pytest.mark.parametrize("name", formats_of(30))
def test_row30_fuzzed_tables(tmp_path, name):
  check(name, tmp_path)


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
