"""Checks of DICOM pixel data before decoding.

pydicom only warns if number or size of the pixels differ from the header, and
its warnings are suppressed (see `quiet`).
"""

import io
import pathlib
from collections.abc import Callable

from PIL import Image

from gcl_jax.data.optional import extra
from gcl_jax.data.raster import check_markers
from gcl_jax.errors import DataError

_RLE = "1.2.840.10008.1.2.5"
# Most bytes that one byte of RLE unpacks to: a small file that declares a large
# size is refused before memory of that size is allocated.
_MOST_RLE = 64
# Frame headers of JPEG; C4, C8 and CC are tables and an extension.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def number(
  path: pathlib.Path,
  dataset,
  name: str,
  default: float | None = None,
  kind: Callable = int,
) -> float:
  """Reads a number from the header.

  Args:
    path: the file.
    dataset: the pydicom data set.
    name: keyword of the element.
    default: if the element is missing or blank; None refuses both.
    kind: int or float.

  Raises:
    DataError: the message names the element, never its content.
  """
  try:
    value = dataset.get(name)
    if value is None or value == "":
      value = default
    if value is not None:
      return kind(value)
  # pydicom parses elements lazily and raises many kinds of exceptions.
  except Exception:
    words = "a whole number" if kind is int else "a number"
    raise DataError(f"{path}: {name} is not {words}") from None
  raise DataError(f"{path}: the header has no {name}")


def frame_count(path: pathlib.Path, dataset) -> int:
  """Reads the number of frames; missing, blank and 0 count as 1."""
  return number(path, dataset, "NumberOfFrames", 1) or 1


def check_pixels(path: pathlib.Path, dataset) -> None:
  """Refuses pixel data that do not match the header.

  Args:
    path: the file.
    dataset: the complete pydicom data set.

  Raises:
    DataError: no pixels, no decoder for them, another number of bytes or
      frames than declared, or compressed frames of another size.
  """
  if not dataset.get("PixelData"):
    raise DataError(f"{path}: a DICOM file without pixel data")
  syntax = dataset.file_meta.get("TransferSyntaxUID")
  if not syntax:
    raise DataError(f"{path}: the header has no TransferSyntaxUID")
  _check_decoder(path, dataset, syntax)
  expected = extra("pydicom.pixels.utils").get_expected_length(dataset)
  if syntax.is_encapsulated:
    _check_frames(path, dataset, syntax, expected)
    return
  length = len(dataset.PixelData)
  if length not in (expected, expected + expected % 2):
    raise DataError(
      f"{path}: {length} bytes of pixels, the header declares {expected}"
    )


def _check_decoder(path: pathlib.Path, dataset, syntax) -> None:
  """Refuses pixels without a decoder and names the package to install."""
  uid = extra("pydicom.uid")
  try:
    decoder = extra("pydicom.pixels").get_decoder(syntax)
  except NotImplementedError:
    # A name equal to the UID may be any text.
    name = syntax.name if syntax.name != str(syntax) else "an unknown one"
    raise DataError(
      f"{path}: pydicom does not decode its transfer syntax ({name}); convert"
      " it to Explicit VR Little Endian"
    ) from None
  plugins = set(decoder.available_plugins)
  if syntax == uid.JPEGExtended12Bit:
    deep = number(path, dataset, "BitsStored") != 8
    plugins -= {"pillow"} if deep else set()
  if syntax.is_encapsulated and not plugins:
    raise DataError(
      f"{path}: compressed as {syntax.name}, which needs another decoder:"
      f" pip install {_packages(syntax)}"
    )


def _packages(syntax) -> str:
  """Names the packages that decode a transfer syntax."""
  uid = extra("pydicom.uid")
  if syntax in uid.JPEGLSTransferSyntaxes:
    return "pyjpegls"
  if syntax in uid.JPEGTransferSyntaxes:
    return "pylibjpeg pylibjpeg-libjpeg"
  return "pylibjpeg pylibjpeg-openjpeg"


def _check_frames(path: pathlib.Path, dataset, syntax, expected: int) -> None:
  """Refuses compressed frames whose number or size differs from the header."""
  if syntax == _RLE and expected > _MOST_RLE * len(dataset.PixelData):
    raise DataError(
      f"{path}: the header declares {expected} bytes, more than"
      f" {len(dataset.PixelData)} bytes of RLE can hold"
    )
  uid, frames = extra("pydicom.uid"), frame_count(path, dataset)
  pictures = (*uid.JPEGTransferSyntaxes, *uid.JPEG2000TransferSyntaxes)
  if syntax != _RLE and syntax not in pictures:
    return
  check = _check_rle if syntax == _RLE else _check_picture
  size = (number(path, dataset, "Rows"), number(path, dataset, "Columns"))
  found = extra("pydicom.encaps").generate_frames(
    dataset.PixelData, number_of_frames=frames
  )
  count = 0
  for count, frame in enumerate(found, 1):
    check(f"{path}: frame {count}", frame, size)
  if count != frames:
    raise DataError(f"{path}: {count} frames, the header declares {frames}")


def _check_picture(where: str, frame: bytes, size: tuple[int, int]) -> None:
  """Refuses a JPEG or JPEG 2000 frame that is truncated or of another size."""
  if frame.startswith(b"\xff\xd8"):
    found = _jpeg_size(frame)
  else:
    with Image.open(io.BytesIO(frame), formats=("JPEG2000",)) as image:
      found = image.size[::-1]
  if found != size:
    raise DataError(
      f"{where} is {found[0]} x {found[1]}, the header declares"
      f" {size[0]} x {size[1]}"
    )
  if frame.startswith(b"\xff\xd8"):
    check_markers(frame, where)


def _jpeg_size(frame: bytes) -> tuple[int, int]:
  """Reads (rows, columns) from the frame header; Pillow opens 8 bits only."""
  place = 2
  while frame[place : place + 1] == b"\xff" and place + 9 <= len(frame):
    marker, length = frame[place + 1], frame[place + 2 : place + 4]
    if marker in _JPEG_FRAMES:
      size = frame[place + 5 : place + 9]
      return int.from_bytes(size[:2]), int.from_bytes(size[2:])
    place += 1 if marker == 0xFF else 2 + int.from_bytes(length)
  return 0, 0


def _check_rle(where: str, frame: bytes, size: tuple[int, int]) -> None:
  """Refuses planes that unpack to more bytes than the image has pixels.

  The rest would be cut off. One byte more is accepted: some encoders add it.
  """
  pixels, words = size[0] * size[1], frame[:64]
  starts = [
    int.from_bytes(words[i : i + 4], "little")
    for i in range(4, 4 + 4 * min(15, words[0]), 4)
  ]
  for start, stop in zip(starts, [*starts[1:], len(frame)], strict=True):
    found = _unpacked(frame[start:stop])
    if found > pixels + 1:
      raise DataError(
        f"{where} is damaged (a plane of {found} bytes, the header declares"
        f" {pixels})"
      )


def _unpacked(segment: bytes) -> int:
  """Counts the bytes that an RLE segment unpacks to."""
  total = place = 0
  while place + 1 < len(segment):
    code = segment[place]
    if code < 128:
      total += min(code + 1, len(segment) - place - 1)
      place += code + 2
    else:
      total += (257 - code) * (code > 128)
      place += 1 + (code > 128)
  return total
