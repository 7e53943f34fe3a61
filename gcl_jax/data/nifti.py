"""NIfTI volumes, by nibabel (extra `medical`).

The header is read and checked before voxels are; anything the library raises
on a damaged file ends as one `DataError`.
"""

import gzip
import math
import pathlib
import struct

import numpy as np

from gcl_jax.data.files import (
  MAX_VOLUME_BYTES,
  MAX_VOXELS,
  check_bytes,
  check_size,
)
from gcl_jax.data.medical import extra, narrow, one_error
from gcl_jax.errors import DataError

# What a byte can unpack to, so that a small file with a large size in its
# header is refused before that size is allocated.
_MOST_GZIP = 1032
_MAX_EXTENSIONS = 2**24  # bytes between a NIfTI header and its voxels
_SPACE_CODES = range(6)  # values of qform_code and sform_code


def read_nifti(path: pathlib.Path) -> np.ndarray:
  """[slices, H, W] of a NIfTI file, axial, foot to head."""
  with one_error(path, "NIfTI"):
    volume = _nifti(path)
    if _is_gzip(path):
      _check_gzip(path)
    volume = extra("nibabel").as_closest_canonical(volume)
    values = np.asarray(volume.dataobj)
    values = values.reshape(values.shape[:3])
    # [R, A, S] -> [S, P, L]: anterior row first, the patient's right first.
    return np.ascontiguousarray(
      narrow(path, values.transpose(2, 1, 0)[:, ::-1, ::-1])
    )


def nifti_slices(path: pathlib.Path) -> int:
  """Number of axial slices by the header."""
  with one_error(path, "NIfTI"):
    volume = _nifti(path)
    axes = extra("nibabel").io_orientation(volume.affine)[:, 0]
    return int(volume.shape[axes.tolist().index(2)])


def _nifti(path: pathlib.Path):
  """The volume as stored, its header checked, its voxels not yet read."""
  header, kind = _nifti_header(path)
  shape = header.get_data_shape()
  axes = int(header["dim"][0])
  if not 3 <= axes <= 7 or any(length != 1 for length in shape[3:]):
    raise DataError(f"{path}: {axes} axes of size {shape}, expected 3")
  check_size(path, shape[:3], MAX_VOXELS)
  dtype = header.get_data_dtype()
  if dtype.kind not in "iuf":
    raise DataError(f"{path}: voxels of type {dtype}")
  for code in ("qform_code", "sform_code"):
    if int(header[code]) not in _SPACE_CODES:
      raise DataError(f"{path}: {code} {header[code]} is not a NIfTI code")
  _check_room(path, float(header["vox_offset"]), shape, dtype.itemsize)
  return kind.from_filename(path)


def _nifti_header(path: pathlib.Path):
  """The header alone, and the class for the rest (what follows may be huge)."""
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
  """The file must have room for the voxels that its header declares."""
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
  """Unpacks to the end, where the checksum is; nibabel stops at the voxels."""
  total = 0
  with gzip.open(path) as file:
    while block := file.read(2**20):
      total += len(block)
      check_bytes(path, total, MAX_VOLUME_BYTES, "the unpacked volume")
