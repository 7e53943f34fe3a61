"""Fuzzes every reader: a damaged file must be refused or read completely.

  python benchmarks/fuzz_readers.py --files=1000 --seed=0

One JSON line per format: {"format", "files", "refused", "read", "seconds",
"max_s"}. A violation is an exception other than DataError, an array whose size
differs from the one in the file's header, or a file that takes longer than
--limit seconds. The damaged file is kept, its name is printed, and the exit
code is 1. (A crash of a decoder ends the process; the file that caused it is
the last one in the folder named in the first line.)
"""

import argparse
import json
import pathlib
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from fuzz_damage import damage, damage_gzip, damage_npz, damage_png
from fuzz_seeds import (
  bmp_seeds,
  csv_seeds,
  dicom_seeds,
  gzip_seeds,
  jpeg_seeds,
  nifti_seeds,
  npz_seeds,
  png_seeds,
  tiff_seeds,
  xlsx_seeds,
)
from fuzz_sizes import (
  bmp_size,
  dicom_size,
  jpeg_size,
  nifti_size,
  npz_sizes,
  png_size,
  tiff_size,
)

from gcl_jax.data import files, formats, table_files
from gcl_jax.errors import DataError


class Format(NamedTuple):
  """Functions that make, damage, read and check files of one format.

  Attributes:
    suffix: suffix of the files.
    seeds: makes the bytes of undamaged files.
    read: path -> result of the reader.
    declared: content -> shape in the header, or None if the reader checks
      completeness.
    damage: (content, rng) -> damaged content.
  """

  suffix: str
  seeds: Callable[[], list[bytes]]
  read: Callable[[pathlib.Path], object]
  declared: Callable[[bytes], tuple[int, ...]]
  damage: Callable


class Violation(NamedTuple):
  """Damaged file that was neither refused nor read completely."""

  file: pathlib.Path
  reason: str


class TooSlow(BaseException):
  """Timeout; not an Exception, so readers cannot treat it as damage."""


# Readers, each result reduced to a shape


def _image_shape(path: pathlib.Path) -> tuple[int, ...]:
  image = formats.read_image(path)
  assert image.dtype in (np.uint8, np.uint16, np.float32), image.dtype
  assert image.ndim == 2 or image.shape[2:] == (3,), image.shape
  return image.shape[:2]


def _dicom_shape(path: pathlib.Path) -> tuple[int, ...]:
  slices = formats.count_slices(path)
  if slices is None:
    return _image_shape(path)
  volume = formats.read_volume(path)
  assert len(volume) == slices, (volume.shape, slices)
  return volume.shape


def _nifti_shape(path: pathlib.Path) -> tuple[int, ...]:
  slices = formats.count_slices(path)
  volume = formats.read_volume(path)
  assert len(volume) == slices, (volume.shape, slices)
  assert volume.dtype in (np.uint8, np.uint16, np.float32), volume.dtype
  return volume.shape


def _npz_count(path: pathlib.Path) -> tuple[int]:
  arrays = files.read_npz(path)
  assert not any(array.dtype.hasobject for array in arrays.values())
  return (sum(array.size for array in arrays.values()),)


def _table_shape(path: pathlib.Path) -> None:
  table = table_files.read_table(path)
  assert len(table) > 0 and (np.diff(table.rows) > 0).all()
  for name, values in table.columns.items():
    assert values.shape == (len(table),), name
    assert values.dtype.kind == "U", name


FORMATS = {
  "png": Format(".png", png_seeds, _image_shape, png_size, damage_png),
  "jpeg": Format(".jpg", jpeg_seeds, _image_shape, jpeg_size, damage),
  "tiff": Format(".tif", tiff_seeds, _image_shape, tiff_size, damage),
  "bmp": Format(".bmp", bmp_seeds, _image_shape, bmp_size, damage),
  "dicom": Format(".dcm", dicom_seeds, _dicom_shape, dicom_size, damage),
  "nifti": Format(".nii", nifti_seeds, _nifti_shape, nifti_size, damage),
  "nifti_gz": Format(
    ".nii.gz", gzip_seeds, _nifti_shape, nifti_size, damage_gzip
  ),
  "npz": Format(".npz", npz_seeds, _npz_count, npz_sizes, damage_npz),
  "csv": Format(".csv", csv_seeds, _table_shape, lambda _: None, damage),
  "xlsx": Format(".xlsx", xlsx_seeds, _table_shape, lambda _: None, damage_npz),
}


# The run


def damaged(name: str, count: int, seed: int) -> Iterator[bytes]:
  """Damaged files of a format, reproducible by the seed."""
  kind = FORMATS[name]
  seeds = kind.seeds()
  rng = np.random.default_rng((seed, *name.encode()))
  for i in range(count):
    yield kind.damage(seeds[i % len(seeds)], rng)


def fuzz(
  name: str,
  count: int,
  seed: int,
  folder: pathlib.Path,
  limit: float = 10.0,
) -> tuple[dict, list[Violation]]:
  """Reads `count` damaged files of a format.

  Args:
    name: a key of `FORMATS`.
    count: number of files.
    seed: seed of the damage.
    folder: folder of the files; those with violations are kept.
    limit: seconds allowed per file.

  Returns:
    The figures of the format, and the violations.
  """
  kind, refused, slowest, violations = FORMATS[name], 0, 0.0, []
  started = time.perf_counter()
  for i, content in enumerate(damaged(name, count, seed)):
    file = folder / f"{name}-{seed}-{i}{kind.suffix}"
    file.write_bytes(content)
    start = time.perf_counter()
    try:
      reason = _judge(kind, file, content, limit)
    except DataError as error:
      refused += 1
      reason = "" if _is_one_line(error, file) else f"message: {error!r}"
    slowest = max(slowest, time.perf_counter() - start)
    if reason:
      violations.append(Violation(file, reason))
    else:
      file.unlink()
  figures = {
    "format": name,
    "files": count,
    "refused": refused,
    "read": count - refused - len(violations),
    "seconds": round(time.perf_counter() - started, 2),
    "max_s": round(slowest, 3),
  }
  return figures, violations


def _judge(kind: Format, file: pathlib.Path, content: bytes, limit) -> str:
  """Description of a violation, or ""; DataError is no violation."""
  try:
    with _time_limit(limit):
      shape = kind.read(file)
  except DataError:
    raise
  except TooSlow:
    return f"not done after {limit} s"
  except Exception as error:
    return f"{type(error).__name__}: {error}"
  if shape is None:
    return ""
  try:
    declared = kind.declared(content)
  except Exception as error:
    return f"read as {shape}, but no header was found ({error})"
  # Orientation may permute the axes of a volume.
  if sorted(shape) != sorted(declared):
    return f"read as {shape}, the header declares {declared}"
  return ""


def _is_one_line(error: DataError, file: pathlib.Path) -> bool:
  text = str(error)
  return file.name in text and "\n" not in text and len(text) < 2000


class _time_limit:
  """Context manager that raises TooSlow after the limit."""

  def __init__(self, seconds: float):
    self.seconds = seconds

  def __enter__(self):
    signal.signal(signal.SIGALRM, self._stop)
    signal.setitimer(signal.ITIMER_REAL, self.seconds)

  def __exit__(self, *_):
    signal.setitimer(signal.ITIMER_REAL, 0)

  @staticmethod
  def _stop(*_):
    raise TooSlow


def main() -> int:
  """Fuzzes the requested formats; returns 1 after any violation."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
  parser.add_argument("--files", type=int, default=1000, help="per format")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--formats", default=",".join(FORMATS))
  parser.add_argument("--limit", type=float, default=10.0, help="s per file")
  arguments = parser.parse_args()
  # Users see warnings; the verdict must not hang on them.
  warnings.simplefilter("ignore")
  folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz_readers_"))
  print(f"damaged files in {folder}", file=sys.stderr)
  faults = 0
  for name in arguments.formats.split(","):
    figures, violations = fuzz(
      name, arguments.files, arguments.seed, folder, arguments.limit
    )
    print(json.dumps(figures), flush=True)
    for violation in violations:
      print(f"{violation.file}: {violation.reason}", file=sys.stderr)
    faults += len(violations)
  if not faults:
    folder.rmdir()
  return int(faults > 0)


if __name__ == "__main__":
  sys.exit(main())
