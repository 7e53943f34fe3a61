"""DICOM images and series, by pydicom (extra `medical`).

Headers are checked before pixels are read. Any exception of the library becomes
a `DataError`. Messages give counts and sizes, never the text of an element.
"""

import pathlib

import numpy as np

from gcl_jax.data.dicom_pixels import check_pixels, frame_count, number
from gcl_jax.data.dtypes import narrow, to_float32
from gcl_jax.data.files import (
  MAX_PIXELS,
  MAX_VOLUME_BYTES,
  MAX_VOXELS,
  check_bytes,
  check_size,
  folder_of,
  regular_file,
)
from gcl_jax.data.optional import extra
from gcl_jax.data.quiet import one_error
from gcl_jax.errors import DataError

_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")


def read_dicom(path: pathlib.Path) -> np.ndarray:
  """Reads [H, W] or [H, W, 3] from a DICOM file with one frame."""
  frames = dicom_frames(path)
  if frames > 1:
    raise DataError(f"{path}: holds {frames} frames; use read_volume")
  return _dicom_pixels(path)[0]


def read_frames(path: pathlib.Path) -> np.ndarray:
  """Reads [frames, H, W] from a DICOM file."""
  return _only_grey(path, _dicom_pixels(path))


def dicom_frames(path: pathlib.Path) -> int:
  """Reads the number of frames from the header."""
  with one_error(path, "DICOM"):
    return frame_count(path, _header(path))


def read_series(path: pathlib.Path) -> np.ndarray:
  """Reads [slices, H, W] from a folder with one DICOM series."""
  files = series_files(path)
  slices = [_only_grey(file, _dicom_pixels(file))[0] for file in files]
  kinds = {image.dtype for image in slices}
  # Rescaling may differ by slice; float32 holds 16-bit integers exactly.
  return np.stack(slices).astype(kinds.pop() if len(kinds) == 1 else np.float32)


def series_files(path: pathlib.Path) -> list[pathlib.Path]:
  """Sorts the files of a series in anatomical order by their headers.

  Raises:
    DataError: no DICOM file, a file of another kind, several series or sizes,
      or slices that neither position nor instance number puts in order.
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
  """Indices of the slices, sorted along the normal."""
  with one_error(path, "DICOM series"):
    for name in ("SeriesInstanceUID", "Rows", "Columns"):
      _all_equal(path, name, {str(h.get(name)) for h in headers})
    for file, header in zip(files, headers, strict=True):
      if frame_count(file, header) > 1:
        raise DataError(f"{file}: a multi-frame file inside a series folder")
    check_size(
      path,
      (len(headers), *_size(files[0], headers[0])),
      MAX_VOXELS,
    )
    keys = _along_normal(path, headers)
    what = "position"
    if keys is None:
      keys = [
        number(file, header, "InstanceNumber", np.nan, float)
        for file, header in zip(files, headers, strict=True)
      ]
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
  # Rounded, so that a repeated position is recognised.
  return [round(float(np.dot(np.array(p, float), normal)), 4) for p in places]


def _all_equal(path: pathlib.Path, name: str, values: set[str]) -> None:
  if len(values) > 1:
    raise DataError(
      f"{path}: more than one DICOM series: {len(values)} different {name};"
      " give each series its own folder"
    )


def _header(path: pathlib.Path):
  """Reads the data set without pixels and checks its declared size."""
  pydicom = extra("pydicom")
  with path.open("rb") as file:
    if file.read(132)[128:] != b"DICM":
      raise DataError(f"{path}: not a DICOM file (no DICM mark)")
  check_bytes(path, path.stat().st_size, MAX_VOLUME_BYTES)
  meta = pydicom.filereader.read_file_meta_info(path)
  # Deflated files unpack while parsing, before a size could be checked.
  if str(meta.get("TransferSyntaxUID", "")) in _DEFLATED:
    raise DataError(f"{path}: deflated DICOM is not read; re-save it plain")
  header = pydicom.dcmread(path, stop_before_pixels=True)
  if "Rows" not in header or "Columns" not in header:
    raise DataError(f"{path}: a DICOM file without an image")
  size = _size(path, header)
  check_size(path, size, MAX_PIXELS)
  check_size(path, (frame_count(path, header), *size), MAX_VOXELS)
  return header


def _size(path: pathlib.Path, header) -> tuple[int, int]:
  return number(path, header, "Rows"), number(path, header, "Columns")


def _dicom_pixels(path: pathlib.Path) -> np.ndarray:
  """[frames, H, W] or [frames, H, W, 3], inverted and rescaled as declared."""
  with one_error(path, "DICOM"):
    pydicom = extra("pydicom")
    header = _header(regular_file(path))
    dataset = pydicom.dcmread(path)
    _check_kind(path, dataset)
    check_pixels(path, dataset)
    with one_error(path, f"{dataset.file_meta.TransferSyntaxUID.name} image"):
      stored = extra("pydicom.pixels").pixel_array(dataset)
    colour = (3,) if number(path, dataset, "SamplesPerPixel", 1) == 3 else ()
    shape = (frame_count(path, header), *_size(path, header), *colour)
    if stored.size != np.prod(shape):
      raise DataError(
        f"{path}: decoded to {stored.shape}, the header declares {shape}"
      )
    return _intensities(path, dataset, stored.reshape(shape))


def _check_kind(path: pathlib.Path, dataset) -> None:
  """Refuses an unknown photometric interpretation without quoting it."""
  words = extra("pydicom.pixels.common").PhotometricInterpretation
  kind = str(dataset.get("PhotometricInterpretation"))
  if kind not in {word.value for word in words}:
    raise DataError(
      f"{path}: PhotometricInterpretation is missing or no kind that is known"
    )


def _intensities(path, dataset, stored: np.ndarray) -> np.ndarray:
  """Converts stored values to intensities in the declared unit."""
  pixels = extra("pydicom.pixels")
  kind = str(dataset.get("PhotometricInterpretation"))
  if kind == "PALETTE COLOR":
    return narrow(path, pixels.apply_color_lut(stored, dataset))
  bits, last = (number(path, dataset, n) for n in ("BitsStored", "HighBit"))
  if last != bits - 1:
    raise DataError(f"{path}: {bits} bits up to bit {last}")
  signed = number(path, dataset, "PixelRepresentation")
  low = -(2 ** (bits - 1)) if signed else 0
  high = low + 2**bits - 1
  if stored.min() < low or stored.max() > high:
    raise DataError(
      f"{path}: pixels outside the {bits} bits that the header declares"
    )
  if kind == "MONOCHROME1":
    stored = (high + low - stored.astype(np.int64)).astype(stored.dtype)
  elif kind != "MONOCHROME2" and stored.ndim != 4:
    raise DataError(f"{path}: pixels of kind {kind} are not read")
  slope = number(
    path, dataset, "RescaleSlope", float("RescaleSlope" not in dataset), float
  )
  intercept = number(path, dataset, "RescaleIntercept", 0, float)
  if not np.isfinite([slope, intercept]).all() or slope == 0:
    raise DataError(
      f"{path}: RescaleSlope is 0, or it or RescaleIntercept is not finite"
    )
  if "ModalityLUTSequence" not in dataset and (slope, intercept) == (1, 0):
    return narrow(path, stored)
  return to_float32(path, pixels.apply_modality_lut(stored, dataset))


def _only_grey(path: pathlib.Path, volume: np.ndarray) -> np.ndarray:
  if volume.ndim != 3:
    raise DataError(f"{path}: a volume in colour is not read")
  return volume
