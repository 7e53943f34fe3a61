"""DICOM images and series, by pydicom (extra `medical`).

Headers are read and checked before pixels are; anything the library raises or
warns about on a damaged file ends as one `DataError`.
"""

import io
import pathlib

import numpy as np
from PIL import Image

from gcl_jax.data.files import (
  MAX_PIXELS,
  MAX_VOLUME_BYTES,
  MAX_VOXELS,
  check_bytes,
  check_size,
  folder_of,
  regular_file,
)
from gcl_jax.data.medical import extra, narrow, one_error, to_float32
from gcl_jax.errors import DataError

_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
_RLE = "1.2.840.10008.1.2.5"
# What a byte can unpack to, so that a small file with a large size in its
# header is refused before that size is allocated.
_MOST_RLE = 64


def read_dicom(path: pathlib.Path) -> np.ndarray:
  """[H, W] or [H, W, 3] of a DICOM file with one frame."""
  frames = dicom_frames(path)
  if frames > 1:
    raise DataError(f"{path}: holds {frames} frames; use read_volume")
  return _dicom_pixels(path)[0]


def read_frames(path: pathlib.Path) -> np.ndarray:
  """[frames, H, W] of a DICOM file."""
  return _only_grey(path, _dicom_pixels(path))


def dicom_frames(path: pathlib.Path) -> int:
  """Number of frames by the header."""
  with one_error(path, "DICOM"):
    return _frames(_header(path))


def read_series(path: pathlib.Path) -> np.ndarray:
  """[slices, H, W] of a folder that holds one DICOM series."""
  files = series_files(path)
  slices = [_only_grey(file, _dicom_pixels(file))[0] for file in files]
  kinds = {image.dtype for image in slices}
  # Rescaling may differ by slice; float holds every integer kind exactly.
  return np.stack(slices).astype(kinds.pop() if len(kinds) == 1 else np.float32)


def series_files(path: pathlib.Path) -> list[pathlib.Path]:
  """The files of a series in anatomical order, by their headers.

  Raises:
    DataError: no DICOM file, another file among them, several series or
      sizes, or an order that positions and instance numbers leave open.
  """
  with one_error(path, "folder"):
    found = sorted(
      entry
      for entry in folder_of(path).iterdir()
      if not entry.name.startswith(".") and entry.name != "DICOMDIR"
    )
  if not found:
    raise DataError(f"{path}: an empty folder, no DICOM series")
  headers = []
  for file in found:
    with one_error(file, "DICOM"):
      headers.append(_header(regular_file(file)))
  return [found[i] for i in _order(path, found, headers)]


def _order(path: pathlib.Path, files: list, headers: list) -> list[int]:
  """Positions of the slices, sorted along the normal."""
  with one_error(path, "DICOM series"):
    for name in ("SeriesInstanceUID", "Rows", "Columns"):
      _all_equal(path, name, [str(h.get(name)) for h in headers])
    for file, header in zip(files, headers, strict=True):
      if _frames(header) > 1:
        raise DataError(f"{file}: a multi-frame file inside a series folder")
    check_size(
      path,
      (len(headers), int(headers[0].Rows), int(headers[0].Columns)),
      MAX_VOXELS,
    )
    keys = _along_normal(path, headers)
    what = "position"
    if keys is None:
      keys = [float(h.get("InstanceNumber", "nan")) for h in headers]
      what = "instance number"
    if not np.isfinite(keys).all() or len(set(keys)) < len(keys):
      raise DataError(
        f"{path}: the slices have no order (a missing or repeated {what});"
        " is it more than one series?"
      )
    return [int(i) for i in np.argsort(keys)]


def _along_normal(path: pathlib.Path, headers: list) -> list[float] | None:
  """Millimetres along the slice normal, None if any slice has no position."""
  places = [h.get("ImagePositionPatient") for h in headers]
  turns = [h.get("ImageOrientationPatient") for h in headers]
  if any(p is None or len(p) != 3 for p in places):
    return None
  if any(t is None or len(t) != 6 for t in turns):
    return None
  turns = np.array(turns, np.float64)
  if np.abs(turns - turns[0]).max() > 1e-3:
    raise DataError(f"{path}: slices of different orientation in one folder")
  normal = np.cross(turns[0, :3], turns[0, 3:])
  # Rounded, so that the same place written twice is seen as the same.
  return [round(float(np.dot(np.array(p, float), normal)), 4) for p in places]


def _all_equal(path: pathlib.Path, name: str, values: list[str]) -> None:
  different = sorted(set(values))
  if len(different) > 1:
    raise DataError(
      f"{path}: more than one DICOM series: {name} is"
      f" {' and '.join(different[:3])}; give each series its own folder"
    )


def _header(path: pathlib.Path):
  """The data set without pixels, its declared size checked."""
  pydicom = extra("pydicom")
  with path.open("rb") as file:
    if file.read(132)[128:] != b"DICM":
      raise DataError(f"{path}: not a DICOM file (no DICM mark)")
  check_bytes(path, path.stat().st_size, MAX_VOLUME_BYTES)
  meta = pydicom.filereader.read_file_meta_info(path)
  # Inflating happens while parsing, so the size could not be checked first.
  if str(meta.get("TransferSyntaxUID", "")) in _DEFLATED:
    raise DataError(f"{path}: deflated DICOM is not read; re-save it plain")
  header = pydicom.dcmread(path, stop_before_pixels=True)
  if "Rows" not in header or "Columns" not in header:
    raise DataError(f"{path}: a DICOM file without an image")
  check_size(path, (int(header.Rows), int(header.Columns)), MAX_PIXELS)
  shape = (_frames(header), int(header.Rows), int(header.Columns))
  check_size(path, shape, MAX_VOXELS)
  return header


def _frames(header) -> int:
  return int(header.get("NumberOfFrames") or 1)


def _dicom_pixels(path: pathlib.Path) -> np.ndarray:
  """[frames, H, W] or [frames, H, W, 3], inverted and rescaled as declared."""
  with one_error(path, "DICOM"):
    pydicom = extra("pydicom")
    pixels = extra("pydicom.pixels")
    header = _header(regular_file(path))
    dataset = pydicom.dcmread(path)
    _check_length(path, dataset)
    stored = pixels.pixel_array(dataset)
    frames, rows, columns = _frames(header), int(header.Rows), header.Columns
    colour = (3,) if int(dataset.get("SamplesPerPixel", 1)) == 3 else ()
    shape = (frames, rows, int(columns), *colour)
    if stored.size != np.prod(shape):
      raise DataError(
        f"{path}: decoded to {stored.shape}, the header declares {shape}"
      )
    return _intensities(path, dataset, stored.reshape(shape))


def _check_length(path: pathlib.Path, dataset) -> None:
  """Uncompressed pixels must have exactly the declared number of bytes."""
  if not dataset.get("PixelData"):
    raise DataError(f"{path}: a DICOM file without pixel data")
  expected = extra("pydicom.pixels.utils").get_expected_length(dataset)
  if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
    _check_frames(path, dataset, expected)
    return
  length = len(dataset.PixelData)
  if length not in (expected, expected + expected % 2):
    raise DataError(
      f"{path}: {length} bytes of pixels, the header declares {expected}"
    )


def _check_frames(path: pathlib.Path, dataset, expected: int) -> None:
  """Compressed frames must be as many and as large as the header declares."""
  syntax = dataset.file_meta.TransferSyntaxUID
  if syntax == _RLE and expected > _MOST_RLE * len(dataset.PixelData):
    raise DataError(
      f"{path}: the header declares {expected} bytes, more than"
      f" {len(dataset.PixelData)} bytes of RLE can hold"
    )
  uid, frames = extra("pydicom.uid"), _frames(dataset)
  if syntax not in (*uid.JPEGTransferSyntaxes, *uid.JPEG2000TransferSyntaxes):
    return
  size = (int(dataset.Columns), int(dataset.Rows))
  found = extra("pydicom.encaps").generate_frames(
    dataset.PixelData, number_of_frames=frames
  )
  count = 0
  for count, frame in enumerate(found, 1):
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
      if image.size != size:
        raise DataError(
          f"{path}: frame {count} is {image.size[1]} x {image.size[0]}, the"
          f" header declares {size[1]} x {size[0]}"
        )
  if count != frames:
    raise DataError(f"{path}: {count} frames, the header declares {frames}")


def _intensities(path, dataset, stored: np.ndarray) -> np.ndarray:
  """Stored numbers to brightness in the declared unit."""
  pixels = extra("pydicom.pixels")
  kind = str(dataset.PhotometricInterpretation)
  if kind == "PALETTE COLOR":
    return narrow(path, pixels.apply_color_lut(stored, dataset))
  bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
  if int(dataset.HighBit) != bits - 1:
    raise DataError(f"{path}: {bits} bits up to bit {dataset.HighBit}")
  low = -(2 ** (bits - 1)) if signed else 0
  high = low + 2**bits - 1
  if stored.min() < low or stored.max() > high:
    raise DataError(
      f"{path}: pixels outside the {bits} bits that the header declares"
    )
  if kind == "MONOCHROME1":
    stored = (high + low - stored.astype(np.int64)).astype(stored.dtype)
  elif kind != "MONOCHROME2" and stored.ndim != 4:
    raise DataError(f"{path}: pixels of kind {kind!r} are not read")
  slope = float(dataset.get("RescaleSlope", 1) or 0)
  intercept = float(dataset.get("RescaleIntercept", 0) or 0)
  if not np.isfinite([slope, intercept]).all() or slope == 0:
    raise DataError(f"{path}: rescale slope {slope}, intercept {intercept}")
  if "ModalityLUTSequence" not in dataset and (slope, intercept) == (1, 0):
    return narrow(path, stored)
  return to_float32(path, pixels.apply_modality_lut(stored, dataset))


def _only_grey(path: pathlib.Path, volume: np.ndarray) -> np.ndarray:
  if volume.ndim != 3:
    raise DataError(f"{path}: a volume in colour is not read")
  return volume
