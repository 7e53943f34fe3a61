"""Reading of images and volumes, complete and with exact intensities.

`read_image` and `read_volume` either return the whole content of a file or
raise `DataError` with one line that names it. They never return a partly
decoded image, a 16-bit image reduced to 8 bits, or the first of several pages.
"""

import functools
import os
import pathlib

import numpy as np

from gcl_jax.data import dicom, nifti
from gcl_jax.data.files import (
  MAX_IMAGE_BYTES,
  existing,
  read_bytes,
  regular_file,
)
from gcl_jax.data.raster import decode_image
from gcl_jax.errors import DataError

# The suffix selects the family of decoders and the content the format: JPEG
# files named .png are common.
PILLOW_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*PILLOW_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads one image.

  PNG, JPEG, TIFF and BMP by Pillow; .dcm, .dicom, or another file with the
  DICOM marker, by pydicom. Palettes are resolved, CMYK and YCbCr are converted
  to RGB, an opaque alpha channel is dropped and any other one is blended over
  black; "white is zero" images are inverted, so that larger is brighter. DICOM:
  rescale slope and intercept applied, MONOCHROME1 inverted.

  Args:
    path: a file.

  Returns:
    [H, W] uint8, uint16 or float32, or [H, W, 3] uint8 (uint16 from DICOM).
    32-bit and signed integers come as float32, 1-bit images as 0 and 255.

  Raises:
    DataError: not a regular file, empty, truncated, damaged (a PNG checksum
      that does not match), of another format, larger than `files.MAX_PIXELS`
      by its header or `files.MAX_IMAGE_BYTES` on disk, with several pages or
      frames, or of a kind that could only be read by losing bits (16-bit
      colour).
  """
  path = regular_file(path)
  if _suffix(path) in PILLOW_SUFFIXES:
    return decode_image(read_bytes(path, MAX_IMAGE_BYTES), path)
  if _is_dicom(path):
    return dicom.read_dicom(path)
  if _suffix(path) in NIFTI_SUFFIXES:
    raise DataError(f"{path}: is a volume, not an image; use read_volume")
  raise DataError(
    f"{path}: unknown kind of image; known: {', '.join(SUFFIXES)}"
  )


def read_volume(path: str | os.PathLike) -> np.ndarray:
  """Reads all slices of a volume, in anatomical order.

  Args:
    path: a NIfTI file (.nii, .nii.gz), a multi-frame DICOM file, or a folder
      with the files of one DICOM series.

  Returns:
    [slices, H, W] uint8, uint16 or float32. A NIfTI volume is brought to
    the closest canonical orientation and cut into axial slices from foot to
    head, drawn as in DICOM: row 0 is anterior, column 0 the patient's right.
    A series is sorted by position along the normal of its slices, or by
    instance number where positions are missing; frames keep their order.

  Raises:
    DataError: none of these, a folder with more than one series, slices of
      different size, or any of the reasons of `read_image`.
  """
  if pathlib.Path(path).is_dir():
    return dicom.read_series(pathlib.Path(path))
  path = regular_file(path)
  if _suffix(path) in NIFTI_SUFFIXES:
    return nifti.read_nifti(path)
  if _is_dicom(path):
    return dicom.read_frames(path)
  raise DataError(
    f"{path}: not a volume; give a NIfTI file, a multi-frame DICOM file or a"
    " folder with one DICOM series"
  )


def count_slices(path: str | os.PathLike) -> int | None:
  """Reads the number of slices from the header; None for an image.

  Raises:
    DataError: as `read_volume`, as far as headers tell.
  """
  if pathlib.Path(path).is_dir():
    return len(dicom.series_files(pathlib.Path(path)))
  path = regular_file(path)
  if _suffix(path) in NIFTI_SUFFIXES:
    return nifti.nifti_slices(path)
  if _suffix(path) not in PILLOW_SUFFIXES and _is_dicom(path):
    frames = dicom.dicom_frames(path)
    return frames if frames > 1 else None
  return None


def read_slice(path: str | os.PathLike, number: int) -> np.ndarray:
  """Reads slice `number` [H, W] of `read_volume(path)`.

  The last two volumes are cached, so slices read in order cost little.
  """
  changed = existing(path).stat().st_mtime_ns
  return _cached_volume(os.fspath(path), changed)[number].copy()


@functools.lru_cache(maxsize=2)
def _cached_volume(path: str, changed: int) -> np.ndarray:
  return read_volume(path)


def without_colour(image: np.ndarray) -> np.ndarray:
  """Returns [H, W] if all channels are equal, else the image unchanged."""
  if image.ndim == 3 and (image == image[..., :1]).all():
    return image[..., 0]
  return image


def to_grey(image: np.ndarray) -> np.ndarray:
  """Computes the luminance (ITU-R 601), rounded as Pillow's `convert("L")`.

  Args:
    image: [H, W], [H, W, 1] or [H, W, 3], uint8, uint16 or float.

  Returns:
    [H, W] of the same dtype; equal channels give exactly their value.

  Raises:
    DataError: any other shape.
  """
  if image.ndim == 2:
    return image
  if image.ndim != 3 or image.shape[-1] not in (1, 3):
    raise DataError(f"an image of shape {image.shape} is neither grey nor RGB")
  if image.shape[-1] == 1:
    return image[..., 0]
  weights = np.array([19595, 38470, 7471])  # sum 65536
  if image.dtype.kind == "f":
    weighted = image.astype(np.float64) @ (weights / 65536)
    return _grey_or_stored(image, weighted.astype(image.dtype))
  total = image.astype(np.uint64) @ weights.astype(np.uint64)
  return ((total + 0x8000) >> 16).astype(image.dtype)


def _grey_or_stored(image: np.ndarray, grey: np.ndarray) -> np.ndarray:
  """`grey`, but the stored value wherever the three channels agree."""
  return np.where((image == image[..., :1]).all(-1), image[..., 0], grey)


def to_uint8(
  image: np.ndarray, value_range: tuple[float, float] | None = None
) -> np.ndarray:
  """Converts an image to 8 bits.

  uint8 is returned unchanged. Otherwise `value_range`, or the 0.5th and 99.5th
  percentile over all pixels and channels, become 0 and 255; values outside are
  clipped, halves rounded up. If the two percentiles are equal (a small object
  on a constant background), minimum and maximum are used; a constant image
  becomes zeros.

  Args:
    image: [H, W] or [H, W, 3], uint8, uint16 or float.
    value_range: declared lowest and highest value, for example (0, 4095).

  Returns:
    uint8, the shape of `image`.

  Raises:
    DataError: NaN or infinite values, no pixels, or an empty range.
  """
  if image.dtype == np.uint8:
    return image
  values = image.astype(np.float64)
  if not values.size or not np.isfinite(values).all():
    raise DataError(
      f"an image of shape {image.shape} has {_bad_count(values)} values that"
      " are NaN or infinite; fill or drop them first"
    )
  if value_range is not None and not value_range[0] < value_range[1]:
    raise DataError(f"value range {value_range}: the first must be smaller")
  low, high = value_range or np.percentile(values, (0.5, 99.5))
  if high <= low:
    low, high = values.min(), values.max()
  if high <= low:
    return np.zeros(image.shape, np.uint8)
  unit = np.clip((values - low) / (high - low), 0, 1)
  return np.floor(255 * unit + 0.5).astype(np.uint8)


def _bad_count(values: np.ndarray) -> int:
  return int(np.sum(~np.isfinite(values)))


def _suffix(path: pathlib.Path) -> str:
  name = path.name.lower()
  return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _is_dicom(path: pathlib.Path) -> bool:
  """Whether the suffix or the marker after the preamble is that of DICOM."""
  if _suffix(path) in DICOM_SUFFIXES:
    return True
  with path.open("rb") as file:
    return file.read(132)[128:] == b"DICM"
