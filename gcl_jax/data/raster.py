"""PNG, JPEG, TIFF and BMP by Pillow, without its silent losses."""

import io
import os

import numpy as np
from PIL import Image

from gcl_jax.data.files import MAX_PIXELS, check_size
from gcl_jax.errors import DataError

# The only decoders Pillow may use.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

# TIFF tags.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339


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
  try:
    # Pillow reads and checks the header here, and no pixel yet.
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
      check_size(name, image.size[::-1], MAX_PIXELS)
      _check_whole(content, image, name)
      return _pixels(image, name)
  except DataError:
    raise
  # A damaged file makes Pillow raise anything from SyntaxError to
  # struct.error; all of them mean that the image cannot be had in full.
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    if "cannot identify" in reason:
      reason = "not a PNG, JPEG, TIFF or BMP image, or its header is damaged"
    raise DataError(f"{name}: {reason}") from error


def _check_whole(content: bytes, image: Image.Image, name) -> None:
  """What Pillow lets pass: missing end marks, further pages, lost bits."""
  marks = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
  mark = marks.get(image.format)
  if mark and mark not in content[-65536:]:
    raise DataError(f"{name}: is truncated (its end mark is missing)")
  pages = getattr(image, "n_frames", 1)
  if pages > 1:
    raise DataError(
      f"{name}: holds {pages} pages; save each as an image of its own"
    )
  if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
    _check_bits(image, name)


def _check_bits(image: Image.Image, name) -> None:
  """Refuses what Pillow would silently decode to 8 bits or misread."""
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
  """Decodes to one of the promised arrays."""
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
  """[H, W, 4] -> [H, W, 3]: each colour times alpha, rounded."""
  colour = pixels[..., :3] * pixels[..., 3:].astype(np.uint32)
  return ((colour + 127) // 255).astype(np.uint8)
