"""Damaged files against every reader: a refusal or a whole array, no third.

  python benchmarks/fuzz_readers.py --files=1000 --seed=0

One JSON object a line for each format: {"format", "files", "refused", "read",
"seconds", "max_s"}. A violation is an exception other than DataError, an array
whose size is not the one that the file's header declares, or a file that takes
longer than --limit seconds. The damaged file is kept, its name is printed, and
the exit code is 1. (A crash of a decoder ends the process and leaves the file
that did it as the last one in the folder that the first line names.)
"""

import argparse
import csv
import gzip
import io
import json
import math
import pathlib
import re
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from gcl_jax.data import files, formats, tables
from gcl_jax.errors import DataError

HEIGHT, WIDTH = 24, 31
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 30_000, 8193)
_WIDE = (*_EXTREMES, 50_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Format(NamedTuple):
  """How files of a format are made, damaged, read and judged.

  Attributes:
    suffix: of the files.
    seeds: makes the bytes of whole files.
    read: path -> what the reader returns.
    declared: content -> shape that the header declares, or None if the
      result says itself whether it is whole.
    damage: (content, rng) -> damaged content.
  """

  suffix: str
  seeds: Callable[[], list[bytes]]
  read: Callable[[pathlib.Path], object]
  declared: Callable[[bytes], tuple[int, ...]]
  damage: Callable


class Violation(NamedTuple):
  """A damaged file that was neither refused nor read whole."""

  file: pathlib.Path
  reason: str


class TooSlow(BaseException):
  """Not an Exception, so that no reader can take it for a damaged file."""


# Damage


def damage(content: bytes, rng: np.random.Generator) -> bytes:
  """The content with one to three injuries of random kinds."""
  kinds = (_flip, _flip, _blow_up, _blow_up, _cut, _insert, _repeat)
  spoiled = bytearray(content)
  for _ in range(rng.integers(1, 4)):
    if spoiled:
      kinds[rng.integers(len(kinds))](spoiled, rng)
  return bytes(spoiled)


def _place(content: bytearray, rng: np.random.Generator) -> int:
  """Half of the time in the first bytes, where headers are."""
  near = min(len(content), 400 if rng.random() < 0.5 else len(content))
  return int(rng.integers(near))


def _flip(content: bytearray, rng: np.random.Generator) -> None:
  for _ in range(rng.integers(1, 9)):
    content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def _blow_up(content: bytearray, rng: np.random.Generator) -> None:
  """Overwrites 2 or 4 bytes by a number at the edge of what they hold."""
  wide = rng.random() < 0.5
  number = int(rng.choice(_WIDE if wide else _EXTREMES))
  order = "<>"[rng.integers(2)]
  place = _place(content, rng)
  new = struct.pack(order + ("I" if wide else "H"), number)
  content[place : place + len(new)] = new


def _cut(content: bytearray, rng: np.random.Generator) -> None:
  del content[_place(content, rng) :]


def _insert(content: bytearray, rng: np.random.Generator) -> None:
  place = _place(content, rng)
  content[place:place] = rng.bytes(int(rng.integers(1, 65)))


def _repeat(content: bytearray, rng: np.random.Generator) -> None:
  """A stretch of the file stands there twice, or not at all."""
  start = _place(content, rng)
  stop = start + int(rng.integers(1, 200))
  again = content[start:stop] * int(rng.integers(0, 3))
  content[start:stop] = again


def _damage_png(content: bytes, rng: np.random.Generator) -> bytes:
  """Half of the time with checksums made right, so that decoders see it."""
  spoiled = damage(content, rng)
  return _with_checksums(spoiled) if rng.random() < 0.5 else spoiled


def _with_checksums(content: bytes) -> bytes:
  fixed, place = bytearray(content), 8
  while place + 12 <= len(fixed):
    length = int.from_bytes(fixed[place : place + 4])
    end = place + 8 + length
    if end + 4 > len(fixed):
      break
    fixed[end : end + 4] = zlib.crc32(fixed[place + 4 : end]).to_bytes(4)
    place = end + 4
  return bytes(fixed)


def _damage_gzip(content: bytes, rng: np.random.Generator) -> bytes:
  """Damages the compressed file or, half of the time, what is inside."""
  if rng.random() < 0.5:
    return damage(content, rng)
  return gzip.compress(damage(gzip.decompress(content), rng), 1, mtime=0)


def _damage_npz(content: bytes, rng: np.random.Generator) -> bytes:
  """Damages the archive or, half of the time, one array in it."""
  if rng.random() < 0.5:
    return damage(content, rng)
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  hit = list(members)[rng.integers(len(members))]
  members[hit] = damage(members[hit], rng)
  made = io.BytesIO()
  with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, member in members.items():
      archive.writestr(name, member)
  return made.getvalue()


# Whole files


def pattern(dtype: str = "uint8", channels: int = 1) -> np.ndarray:
  """[24, 31] or [24, 31, channels]: half gradient, half noise."""
  top = np.iinfo(dtype).max
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
  ramp[HEIGHT // 2 :] = rng.integers(0, top + 1, (HEIGHT // 2, WIDTH))
  planes = [ramp, ramp[::-1], ramp[:, ::-1]][:channels]
  values = np.stack(planes, -1).astype(dtype)
  return values[..., 0] if channels == 1 else values


def _pillow(kind: str, images: list[Image.Image], **options) -> list[bytes]:
  made = []
  for image in images:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    made.append(buffer.getvalue())
  return made


def _images() -> list[Image.Image]:
  grey, colour = pattern(), pattern(channels=3)
  return [
    Image.fromarray(grey),
    Image.fromarray(colour),
    Image.fromarray(colour).quantize(16),
    Image.fromarray(grey > 99),
  ]


def _png_seeds() -> list[bytes]:
  alpha = np.concatenate([pattern(channels=3), pattern()[..., None]], -1)
  deep = Image.fromarray(pattern("uint16"))
  return _pillow("PNG", [*_images(), deep, Image.fromarray(alpha)])


def _jpeg_seeds() -> list[bytes]:
  images = _images()[:2]
  return [
    *_pillow("JPEG", images),
    *_pillow("JPEG", images, progressive=True),
    *_pillow("JPEG", [images[1].convert("CMYK")]),
  ]


def _tiff_seeds() -> list[bytes]:
  images = [*_images(), Image.fromarray(pattern("uint16"))]
  return [
    *_pillow("TIFF", images),
    *_pillow("TIFF", images, compression="tiff_deflate"),
    *_pillow("TIFF", images[:2], compression="tiff_lzw"),
    *_pillow("TIFF", [Image.fromarray(pattern().astype(np.float32))]),
  ]


def _bmp_seeds() -> list[bytes]:
  return _pillow("BMP", _images())


def dicom(pixels: np.ndarray, *, compress: str = "", **fields) -> bytes:
  """A DICOM file: [H, W] or [frames, H, W] grey, or [H, W, 3] colour.

  Args:
    pixels: stored numbers.
    compress: "", "rle" or "jpeg".
    **fields: elements to set or replace, by keyword.
  """
  import pydicom
  from pydicom import encaps, uid
  from pydicom.dataset import FileDataset, FileMetaDataset

  meta = FileMetaDataset()
  meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
  meta.MediaStorageSOPInstanceUID = "1.2.3.4"
  data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
  colour = pixels.shape[-1] == 3
  data.SeriesInstanceUID = "1.2.3"
  data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
  data.SamplesPerPixel = 3 if colour else 1
  data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
  if colour:
    data.PlanarConfiguration = 0
  elif pixels.ndim == 3:
    data.NumberOfFrames = len(pixels)
  data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
  data.HighBit = data.BitsStored - 1
  data.PixelRepresentation = int(pixels.dtype.kind == "i")
  data.PixelData = pixels.tobytes()
  if compress == "rle":
    data.compress(uid.RLELossless, generate_instance_uid=False)
  if compress == "jpeg":
    meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    frames = _pillow("JPEG", [Image.fromarray(pixels)])
    data.PixelData = encaps.encapsulate(frames)
    data["PixelData"].is_undefined_length = True
  for name, value in fields.items():
    setattr(data, name, value)
  buffer = io.BytesIO()
  pydicom.dcmwrite(buffer, data, enforce_file_format=True)
  return buffer.getvalue()


def _dicom_seeds() -> list[bytes]:
  grey, deep = pattern(), pattern("uint16")
  return [
    dicom(grey, RescaleSlope="1", RescaleIntercept="0", NumberOfFrames="1"),
    dicom(deep >> 4, BitsStored=12, HighBit=11, RescaleSlope="2.5"),
    dicom(pattern(channels=3)),
    dicom(grey, PhotometricInterpretation="MONOCHROME1"),
    dicom(np.stack([grey, grey])),
    dicom(deep, compress="rle"),
    dicom(grey, compress="jpeg"),
  ]


def nifti(values: np.ndarray) -> bytes:
  """A NIfTI file of [x, y, z] values."""
  import nibabel

  return nibabel.Nifti1Image(values, np.diag([2.0, 1, 1, 1])).to_bytes()


def _nifti_seeds() -> list[bytes]:
  volume = np.arange(7 * 6 * 5).reshape(7, 6, 5)
  kinds = (np.uint8, np.int16, np.float32, np.uint16)
  return [nifti(volume.astype(kind)) for kind in kinds]


def _gzip_seeds() -> list[bytes]:
  return [gzip.compress(content, 1, mtime=0) for content in _nifti_seeds()]


def _npz_seeds() -> list[bytes]:
  arrays = dict(
    images=np.stack([pattern()] * 4),
    labels=np.arange(4)[:, None],
    names=np.array(["a", "b", "c", "ü"]),
  )
  made = []
  for save in (np.savez, np.savez_compressed):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    made.append(buffer.getvalue())
  return made


def _table_rows() -> list[list]:
  return [
    ["id", "path", "group", "fluid", "CST"],
    *([f"{i}.0", f"s{i}.png", f"p{i // 3}", i % 2, 250.5] for i in range(30)),
  ]


def _csv_seeds() -> list[bytes]:
  made = []
  for delimiter in ",;\t":
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows(_table_rows())
    made.append(buffer.getvalue().encode("utf-8-sig"))
    made.append(made[-1].replace(b'"', b"").replace(b"\r", b""))
  return made


def _xlsx_seeds() -> list[bytes]:
  import openpyxl

  book = openpyxl.Workbook()
  for row in _table_rows():
    book.active.append(row)
  buffer = io.BytesIO()
  book.save(buffer)
  return [buffer.getvalue()]


# What headers declare, read without the decoders under test


def _png_size(content: bytes) -> tuple[int, ...]:
  width, height = struct.unpack(">II", content[16:24])
  return height, width


def _bmp_size(content: bytes) -> tuple[int, ...]:
  if content[14:18] == b"\x0c\0\0\0":
    return struct.unpack("<HH", content[18:22])[::-1]
  width, height = struct.unpack("<ii", content[18:26])
  return abs(height), width


def _jpeg_size(content: bytes) -> tuple[int, ...]:
  """Of the last frame header before the first scan."""
  place, size = 2, (0, 0)
  while place + 4 <= len(content):
    place = content.find(b"\xff", place)
    if place < 0:
      break
    marker = content[place + 1]
    if marker in (0, 1, 0xFF) or 0xD0 <= marker <= 0xD8:
      place += 1
      continue
    if marker in (0xDA, 0xD9):
      break
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      size = struct.unpack(">HH", content[place + 5 : place + 9])
    place += 2 + int.from_bytes(content[place + 2 : place + 4])
  return size


def _tiff_size(content: bytes) -> tuple[int, ...]:
  order = "<" if content[:2] == b"II" else ">"
  (start,) = struct.unpack(order + "I", content[4:8])
  (count,) = struct.unpack(order + "H", content[start : start + 2])
  found = {}
  for i in range(count):
    entry = content[start + 2 + 12 * i : start + 14 + 12 * i]
    if len(entry) == 12:
      tag, kind = struct.unpack(order + "HH", entry[:4])
      code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}.get(kind, "I")
      # Of a tag that stands there twice the first counts, as in libtiff.
      found.setdefault(tag, struct.unpack_from(order + code, entry, 8)[0])
  return found[257], found[256]


def _dicom_size(content: bytes) -> tuple[int, ...]:
  import pydicom

  header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
  frames = int(header.get("NumberOfFrames") or 1)
  size = (int(header.Rows), int(header.Columns))
  return (frames, *size) if frames > 1 else size


def _nifti_size(content: bytes) -> tuple[int, ...]:
  if content[:2] == b"\x1f\x8b":
    content = gzip.open(io.BytesIO(content)).read(600)
  order = "<" if content[:4] in (b"\x5c\1\0\0", b"\x1c\2\0\0") else ">"
  if 540 in struct.unpack("<I", content[:4]) + struct.unpack(">I", content[:4]):
    return struct.unpack(order + "4q", content[16:48])[1:]
  return struct.unpack(order + "4h", content[40:48])[1:]


def _npz_sizes(content: bytes) -> tuple[int, ...]:
  """Number of elements of all arrays, from the text of their headers."""
  total = 0
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    for name in archive.namelist():
      header = archive.open(name).read(200)
      shape = re.search(rb"'shape'\s*:\s*\(([\d, ]*)\)", header)[1]
      total += math.prod(int(n) for n in shape.split(b",") if n.strip())
  return (total,)


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
  table = tables.read_table(path)
  assert len(table) > 0 and (np.diff(table.rows) > 0).all()
  for name, values in table.columns.items():
    assert values.shape == (len(table),), name
    assert values.dtype.kind == "U", name


FORMATS = {
  "png": Format(".png", _png_seeds, _image_shape, _png_size, _damage_png),
  "jpeg": Format(".jpg", _jpeg_seeds, _image_shape, _jpeg_size, damage),
  "tiff": Format(".tif", _tiff_seeds, _image_shape, _tiff_size, damage),
  "bmp": Format(".bmp", _bmp_seeds, _image_shape, _bmp_size, damage),
  "dicom": Format(".dcm", _dicom_seeds, _dicom_shape, _dicom_size, damage),
  "nifti": Format(".nii", _nifti_seeds, _nifti_shape, _nifti_size, damage),
  "nifti_gz": Format(
    ".nii.gz", _gzip_seeds, _nifti_shape, _nifti_size, _damage_gzip
  ),
  "npz": Format(".npz", _npz_seeds, _npz_count, _npz_sizes, _damage_npz),
  "csv": Format(".csv", _csv_seeds, _table_shape, lambda _: None, damage),
  "xlsx": Format(
    ".xlsx", _xlsx_seeds, _table_shape, lambda _: None, _damage_npz
  ),
}


# The run


def damaged(name: str, count: int, seed: int) -> Iterator[bytes]:
  """The damaged files of a format, the same for the same seed."""
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
    seed: of the damage.
    folder: where the files are written; those at fault stay there.
    limit: seconds that one file may take.

  Returns:
    The figures of the format, and what went wrong.
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
  """What is wrong with the result, "" for nothing; DataError passes."""
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
  """Interrupts what takes longer than the limit."""

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
  """Fuzzes the formats asked for; 1 if any file was at fault."""
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
