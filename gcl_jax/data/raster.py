"""Decoding of PNG, JPEG, TIFF and BMP by Pillow, without silent losses."""

import io
import os
import re
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from gcl_jax.data.files import MAX_PIXELS, check_size
from gcl_jax.data.quiet import one_error
from gcl_jax.data.tiff import check_directory
from gcl_jax.errors import DataError

# The only decoders Pillow may use.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

# TIFF tags.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_SAMPLES, _PLANES = 277, 284
_TILE_WIDTH, _TILE_HEIGHT = 322, 323

# JPEG markers that end pixel data; FF 00 is an escaped FF, D0 to D7 are
# restart markers.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_END = 0xD9
# Chunk types that a message may quote; any other four letters are free text.
_CHUNKS = frozenset(
  b"IHDR PLTE IDAT IEND acTL bKGD cHRM cICP eXIf fcTL fdAT gAMA hIST iCCP iTXt"
  b" oFFs pCAL pHYs sBIT sCAL sPLT sRGB tEXt tIME tRNS zTXt".split()
)
_KNOWN = {*range(0xC0, 0xD0), *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE}


def decode_image(content: bytes, name: str | os.PathLike) -> np.ndarray:
  """Decodes a PNG, JPEG, TIFF or BMP file held in memory.

  Args:
    content: the bytes of the file.
    name: for messages.

  Returns:
    As `formats.read_image`.

  Raises:
    DataError: as `formats.read_image`.
  """
  # A damaged file makes Pillow raise anything from SyntaxError to
  # struct.error; each means that the image cannot be decoded in full.
  with one_error(name, "image"), _open(content, name) as image:
    check_size(name, image.size[::-1], MAX_PIXELS)
    _check_whole(content, image, name)
    return _pixels(image, name)


def _open(content: bytes, name) -> Image.Image:
  """Opens an image: its header is read and checked, pixels are not decoded."""
  try:
    return Image.open(io.BytesIO(content), formats=_FORMATS)
  except UnidentifiedImageError:
    raise DataError(
      f"{name}: not a PNG, JPEG, TIFF or BMP image, or its header is damaged"
    ) from None
  except Image.DecompressionBombError:
    raise DataError(
      f"{name}: the header declares more pixels than the limit of"
      f" {MAX_PIXELS}; crop or downsample it first"
    ) from None


def _check_whole(content: bytes, image: Image.Image, name) -> None:
  """Refuses what Pillow accepts: missing end markers, more pages, lost bits."""
  if image.format == "PNG":
    _check_chunks(content, name)
  if image.format == "JPEG":
    check_markers(content, name)
  if image.format == "TIFF":
    check_directory(content, name)
    # A tile is decoded as one piece, however small the image is.
    tile = [image.tag_v2.get(tag, 1) for tag in (_TILE_HEIGHT, _TILE_WIDTH)]
    check_size(f"{name}, one tile", tuple(tile), MAX_PIXELS)
  _check_covered(image, name)
  pages = getattr(image, "n_frames", 1)
  if pages > 1:
    raise DataError(
      f"{name}: holds {pages} pages; save each as an image of its own"
    )
  if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
    _check_bits(image, name)


def _check_covered(image: Image.Image, name) -> None:
  """Refuses a file whose strips or tiles do not cover the whole image.

  Pillow leaves uncovered pixels black.
  """
  boxes = {tile[1] for tile in image.tile}
  covered = sum((right - x) * (low - y) for x, y, right, low in boxes)
  if image.format == "TIFF" and image.tag_v2.get(_PLANES) == 2:
    layers = len(image.tile) // max(1, len(boxes))
    raw = image.tile and image.tile[0][0] == "raw"
    # Each colour plane has its own strips; libtiff checks those it decodes.
    covered *= not raw or layers >= image.tag_v2.get(_SAMPLES, 1)
  if covered < image.width * image.height:
    raise DataError(
      f"{name}: is damaged (holds {covered} of the"
      f" {image.width * image.height} pixels that its header declares)"
    )


def _check_chunks(content: bytes, name) -> None:
  """Refuses a chunk with a wrong checksum; Pillow skips those of pixels."""
  place, kind, view = 8, b"", memoryview(content)
  while kind != b"IEND":
    end = place + 8 + int.from_bytes(content[place : place + 4])
    if end + 4 > len(content):
      raise DataError(f"{name}: is truncated (its end mark is missing)")
    kind = content[place + 4 : place + 8]
    checksum = int.from_bytes(content[end : end + 4])
    if zlib.crc32(view[place + 4 : end]) != checksum:
      which = f" {kind.decode()}" if kind in _CHUNKS else "n unknown"
      raise DataError(
        f"{name}: is damaged (wrong checksum of a{which} chunk); copy or export"
        " it again"
      )
    place = end + 4


def check_markers(content: bytes, name: str | os.PathLike) -> None:
  """Refuses a JPEG without an end marker.

  At an unknown marker the decoder stops and leaves the remaining pixels grey.
  The end marker of an embedded thumbnail lies in a segment and is skipped.

  Args:
    content: the bytes of the image.
    name: for messages.

  Raises:
    DataError: no end marker, or an unknown marker in the pixel data.
  """
  place = 2
  while found := _MARKER.search(content, place):
    marker = content[found.start() + 1]
    if marker == _END:
      return
    if marker not in _KNOWN:
      raise DataError(f"{name}: is damaged (marker {marker:02x} in its pixels)")
    length = content[found.end() : found.end() + 2]
    place = found.end() + max(2, int.from_bytes(length))
  raise DataError(f"{name}: is truncated (its end mark is missing)")


def _check_bits(image: Image.Image, name) -> None:
  """Refuses pixels that Pillow would silently reduce to 8 bits or misread."""
  deep = any(";16" in str(tile[3]) for tile in image.tile)
  signed = False
  if image.format == "TIFF":
    bits = image.tag_v2.get(_BITS, (1,))
    deep |= max(bits if isinstance(bits, tuple) else (bits,)) > 8
    signed = 2 in tuple(image.tag_v2.get(_SAMPLE_FORMAT, (1,)))
  if deep or signed:
    kind = "signed 8-bit" if signed else "16-bit colour"
    raise DataError(
      f"{name}: {kind} pixels would lose bits; save it as 16-bit grey or"
      " 8-bit colour"
    )


def _pixels(image: Image.Image, name) -> np.ndarray:
  """Decodes to one of the arrays that `formats.read_image` documents."""
  mode = image.mode
  if mode in ("L", "RGB"):
    return np.array(image)
  if mode == "1":
    return np.array(image.convert("L"))
  if mode.startswith("I;16"):
    return _grey16(image)
  if mode in ("I", "F"):
    return _grey32(image)
  if mode == "LA":
    return _over_black(np.array(image.convert("RGBA")))[..., 0]
  if mode in ("PA", "RGBA", "RGBa") or "transparency" in image.info:
    return _over_black(np.array(image.convert("RGBA")))
  if mode in ("P", "CMYK", "YCbCr", "RGBX"):
    return np.array(image.convert("RGB"))
  raise DataError(f"{name}: pixels of kind {mode!r} are not read")


def _grey16(image: Image.Image) -> np.ndarray:
  pixels = np.array(image).astype(np.uint16)
  # Pillow inverts "white is zero" only up to 8 bits.
  white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
  return np.invert(pixels) if white_is_zero else pixels


def _grey32(image: Image.Image) -> np.ndarray:
  pixels = np.array(image)
  if image.format == "TIFF" and image.mode == "I":
    if tuple(image.tag_v2.get(_SAMPLE_FORMAT, (1,))) == (1,):
      pixels = pixels.view(np.uint32)
  return pixels.astype(np.float32)


def _over_black(pixels: np.ndarray) -> np.ndarray:
  """Blends [H, W, 4] over black: colour times alpha, rounded, [H, W, 3]."""
  colour = pixels[..., :3] * pixels[..., 3:].astype(np.uint32)
  return ((colour + 127) // 255).astype(np.uint8)
