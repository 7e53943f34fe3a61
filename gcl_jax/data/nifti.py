"""NIfTI volumes, by nibabel (extra `medical`).

The header is checked before voxels are read. Any exception of the library
becomes a `DataError`.
"""

import dataclasses
import gzip
import math
import pathlib
import struct

import numpy as np

from gcl_jax.data.dtypes import narrow
from gcl_jax.data.files import (
  MAX_VOLUME_BYTES,
  MAX_VOXELS,
  check_bytes,
  check_size,
)
from gcl_jax.data.optional import extra
from gcl_jax.data.quiet import one_error
from gcl_jax.errors import DataError

# Most bytes that one byte of gzip unpacks to: a small file that declares a
# large size is refused before memory of that size is allocated.
_MOST_GZIP = 1032
_MAX_EXTENSIONS = 2**24  # bytes between a NIfTI header and its voxels
_SPACE_CODES = range(6)  # values of qform_code and sform_code
_MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}


@dataclasses.dataclass(frozen=True)
class Grid:
  """Geometry and type of the voxels by the header, axes as stored.

  Attributes:
    shape: (i, j, k), the lengths of the first three axes.
    spacing: (i, j, k) in mm.
    directions: anatomical direction of each axis by the affine, the closest of
      "L" or "R", "P" or "A", "I" or "S"; () for a file without an affine.
    frames: number of volumes, 1 unless there is a time axis.
    dtype: of the stored voxels.
  """

  shape: tuple[int, int, int]
  spacing: tuple[float, float, float]
  directions: tuple[str, ...]
  frames: int
  dtype: np.dtype


def nifti_grid(path: pathlib.Path, *, film: bool = False) -> Grid:
  """Reads the grid of a NIfTI file from its header.

  Args:
    path: .nii or .nii.gz.
    film: accept a fourth axis, time.

  Raises:
    DataError: not such a file, a spacing that is not positive, or an affine
      that gives two axes the same direction.
  """
  with one_error(path, "NIfTI"):
    volume = _nifti(path, film)
    # The raw header: nibabel replaces a voxel size of 0 by 1.
    header, _ = _nifti_header(path)
    unit = _millimetres(path, header)
    spacing = tuple(float(s) * unit for s in header["pixdim"][1:4])
    if not all(0 < s < math.inf for s in spacing):
      raise DataError(f"{path}: voxels of {spacing} mm, expected above 0")
    directions = directions_of(path, volume.affine)
    shape, frames = volume.shape[:3], math.prod(volume.shape[3:])
    dtype = volume.get_data_dtype()
    return Grid(tuple(shape), spacing, directions, frames, dtype)


def _millimetres(path: pathlib.Path, header) -> float:
  """Millimetres per unit of the header's spacing."""
  try:
    return _MILLIMETRES[header.get_xyzt_units()[0]]
  except KeyError:
    code = int(header["xyzt_units"])
    raise DataError(f"{path}: xyzt_units {code} is not a NIfTI code") from None


def directions_of(path: pathlib.Path, affine: np.ndarray) -> tuple[str, ...]:
  """Computes `Grid.directions`; DataError if two axes share a direction."""
  directions = extra("nibabel").aff2axcodes(affine)
  if None in directions:
    raise DataError(f"{path}: the affine does not tell the three axes apart")
  return directions


def read_nifti(path: pathlib.Path, *, canonical: bool = True) -> np.ndarray:
  """Reads [slices, H, W] from a NIfTI file: axial slices from foot to head.

  With canonical=False the axes are the third, second and first of the file.
  """
  with one_error(path, "NIfTI"):
    return _frames(path, canonical, film=False)[0]


def read_nifti_film(
  path: pathlib.Path, *, canonical: bool = True
) -> np.ndarray:
  """Reads [frames, slices, H, W], each frame as `read_nifti`."""
  with one_error(path, "NIfTI"):
    return _frames(path, canonical, film=True)


def _frames(path: pathlib.Path, canonical: bool, film: bool) -> np.ndarray:
  volume = _nifti(path, film)
  if _is_gzip(path):
    _check_gzip(path)
  if canonical:
    volume = extra("nibabel").as_closest_canonical(volume)
  values = np.asarray(volume.dataobj)
  values = values.reshape(*values.shape[:3], -1)
  return as_slices(path, values, canonical)


def as_slices(
  path: pathlib.Path, values: np.ndarray, canonical: bool
) -> np.ndarray:
  """Reverses the order of the axes of [i, j, k] or [i, j, k, frames].

  A canonical volume [R, A, S] becomes [S, P, L]: anterior row first, the
  patient's right first.
  """
  values = values.T
  if canonical:
    values = values[..., ::-1, ::-1]
  return np.ascontiguousarray(narrow(path, values))


def nifti_slices(path: pathlib.Path) -> int:
  """Reads the number of axial slices from the header."""
  with one_error(path, "NIfTI"):
    volume = _nifti(path)
    axes = extra("nibabel").io_orientation(volume.affine)[:, 0]
    return int(volume.shape[axes.tolist().index(2)])


def _nifti(path: pathlib.Path, film: bool = False):
  """Opens a volume: its header is checked, its voxels are not read."""
  header, kind = _nifti_header(path)
  shape = header.get_data_shape()
  axes = int(header["dim"][0])
  extra_axes = shape[4 if film else 3 :]
  if not 3 <= axes <= 7 or any(length != 1 for length in extra_axes):
    raise DataError(
      f"{path}: {axes} axes of size {shape}, expected {'3 or 4' if film else 3}"
    )
  check_size(path, shape[:4] if film else shape[:3], MAX_VOXELS)
  dtype = header.get_data_dtype()
  if dtype.kind not in "iuf":
    raise DataError(f"{path}: voxels of type {dtype}")
  for code in ("qform_code", "sform_code"):
    if int(header[code]) not in _SPACE_CODES:
      raise DataError(f"{path}: {code} {header[code]} is not a NIfTI code")
  _check_room(path, float(header["vox_offset"]), shape, dtype.itemsize)
  return kind.from_filename(path)


def _nifti_header(path: pathlib.Path):
  """Reads the header alone (extensions may be huge) and its nibabel class."""
  nibabel = extra("nibabel")
  with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
    block = file.read(540)
  for order in "<>":
    kind = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}.get(
      struct.unpack(order + "i", block[:4])[0]
    )
    if kind:
      header = kind.header_class
      size = header.sizeof_hdr
      return header(block[:size], endianness=order, check=False), kind
  raise DataError(f"{path}: not a NIfTI file (neither version 1 nor 2)")


def _check_room(
  path: pathlib.Path, offset: float, shape: tuple[int, ...], itemsize: int
) -> None:
  """Refuses a file too small for the voxels that its header declares."""
  if not 0 <= offset <= _MAX_EXTENSIONS:
    raise DataError(f"{path}: the header puts the voxels at byte {offset:.6g}")
  declared = int(offset) + math.prod(shape) * itemsize
  check_bytes(path, declared, MAX_VOLUME_BYTES, "the unpacked volume")
  found = path.stat().st_size
  if declared > found * (_MOST_GZIP if _is_gzip(path) else 1):
    raise DataError(
      f"{path}: the header declares {declared} bytes, more than a file of"
      f" {found} bytes can hold; is it truncated?"
    )


def _is_gzip(path: pathlib.Path) -> bool:
  return path.name.lower().endswith(".gz")


def _check_gzip(path: pathlib.Path) -> None:
  """Verifies the checksum at the end; nibabel stops after the voxels."""
  total = 0
  with gzip.open(path) as file:
    while block := file.read(2**20):
      total += len(block)
      check_bytes(path, total, MAX_VOLUME_BYTES, "the unpacked volume")
