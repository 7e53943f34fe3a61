"""Checks of the TIFF directory entries that define the pixels.

Pillow ignores an entry that it cannot read, sometimes without a warning, and
uses the default instead: floats are read as integers, 8 bits as one, black as
white.
"""

import os
import struct

from gcl_jax.errors import DataError

# Tag -> name of the entries with a single value.
_ONE = {
  256: "ImageWidth",
  257: "ImageLength",
  259: "Compression",
  262: "PhotometricInterpretation",
  266: "FillOrder",
  277: "SamplesPerPixel",
  278: "RowsPerStrip",
  284: "PlanarConfiguration",
  317: "Predictor",
  322: "TileWidth",
  323: "TileLength",
}
_TAGS = _ONE | {
  258: "BitsPerSample",
  273: "StripOffsets",
  279: "StripByteCounts",
  320: "ColorMap",
  324: "TileOffsets",
  325: "TileByteCounts",
  338: "ExtraSamples",
  339: "SampleFormat",
}
_EXTRA_SAMPLES = 338  # may be empty: no extra samples
# Integer types -> bytes of one value.
_TYPES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 13: 4, 16: 8}


def check_directory(content: bytes, name: str | os.PathLike) -> None:
  """Refuses a file with an unreadable pixel entry in its first directory.

  Args:
    content: the bytes of the file.
    name: for messages.

  Raises:
    DataError: the directory is truncated, or a pixel entry has a wrong type, a
      wrong number of values, or values outside the file.
  """
  order = "<" if content[:2] == b"II" else ">"
  big = 43 in content[2:4]
  start, count, entry = ("QQ", "Q", "HHQ8s") if big else ("xxL", "H", "HHL4s")
  place = struct.unpack_from(order + start, content, 0 if big else 2)[-1]
  (entries,) = struct.unpack_from(order + count, content, place)
  place += struct.calcsize("=" + count)
  size = struct.calcsize("=" + entry)
  if place + entries * size > len(content):
    raise DataError(f"{name}: is truncated (its TIFF directory is cut off)")
  for i in range(entries):
    tag, *rest = struct.unpack_from(order + entry, content, place + i * size)
    if tag in _TAGS and not _is_sound(tag, *rest, order, len(content)):
      raise DataError(
        f"{name}: is damaged (the entry {_TAGS[tag]} of its TIFF directory"
        " cannot be read)"
      )


def _is_sound(
  tag: int, kind: int, count: int, value: bytes, order: str, end: int
) -> bool:
  """Whether an entry has integers, as many as allowed, inside the file."""
  if not count and tag == _EXTRA_SAMPLES:
    return True
  size = count * _TYPES.get(kind, 0)
  if not size or (tag in _ONE and count != 1):
    return False
  if size <= len(value):
    return True
  code = "Q" if len(value) == 8 else "L"
  return struct.unpack(order + code, value)[0] + size <= end
