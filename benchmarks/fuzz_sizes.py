"""Sizes declared in file headers, read without the decoders under test."""

import gzip
import io
import math
import re
import struct
import zipfile


def png_size(content: bytes) -> tuple[int, ...]:
  width, height = struct.unpack(">II", content[16:24])
  return height, width


def bmp_size(content: bytes) -> tuple[int, ...]:
  if content[14:18] == b"\x0c\0\0\0":
    return struct.unpack("<HH", content[18:22])[::-1]
  width, height = struct.unpack("<ii", content[18:26])
  return abs(height), width


def jpeg_size(content: bytes) -> tuple[int, ...]:
  """Size in the last frame header before the first scan."""
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


def tiff_size(content: bytes) -> tuple[int, ...]:
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


def dicom_size(content: bytes) -> tuple[int, ...]:
  import pydicom

  header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
  frames = int(header.get("NumberOfFrames") or 1)
  size = (int(header.Rows), int(header.Columns))
  return (frames, *size) if frames > 1 else size


def nifti_size(content: bytes) -> tuple[int, ...]:
  if content[:2] == b"\x1f\x8b":
    content = gzip.open(io.BytesIO(content)).read(600)
  order = "<" if content[:4] in (b"\x5c\1\0\0", b"\x1c\2\0\0") else ">"
  if 540 in struct.unpack("<I", content[:4]) + struct.unpack(">I", content[:4]):
    return struct.unpack(order + "4q", content[16:48])[1:]
  return struct.unpack(order + "4h", content[40:48])[1:]


def npz_sizes(content: bytes) -> tuple[int, ...]:
  """Total number of elements of all arrays, from their text headers."""
  total = 0
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    for name in archive.namelist():
      header = archive.open(name).read(200)
      shape = re.search(rb"'shape'\s*:\s*\(([\d, ]*)\)", header)[1]
      total += math.prod(int(n) for n in shape.split(b",") if n.strip())
  return (total,)
