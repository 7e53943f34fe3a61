"""Checks of a file before it is decoded.

Files are not trusted: each must be a regular, non-empty file (a FIFO would
block the reader), and the size declared in its header is checked before memory
of that size is allocated.
"""

import math
import os
import pathlib
import stat
import zipfile
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.quiet import one_error
from gcl_jax.errors import DataError

MAX_PIXELS = 2**26  # of one image: 8192 x 8192
MAX_VOXELS = 2**29  # of one volume: 1024 slices of 724 x 724
MAX_NPZ_BYTES = 2**34  # of all arrays in an npz file: 16 GiB
MAX_IMAGE_BYTES = 2**30  # of an image file: 8192 x 8192 of 16 bytes
MAX_VOLUME_BYTES = 2**33  # of a DICOM or unpacked NIfTI file: 8 GiB
MAX_TABLE_BYTES = 2**28  # of a table, unpacked: 256 MiB

_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a FIFO",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


def existing(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path if it exists, symbolic links followed.

  Raises:
    DataError: the path does not exist, its links form a loop, or permission is
      denied.
  """
  path = pathlib.Path(path)
  try:
    path.stat()
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise DataError(f"{path}: {reason}") from error
  return path


def regular_file(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path if it is a regular file of at least one byte.

  Raises:
    DataError: the path does not exist, is a folder, FIFO, device or loop of
      links, is empty or not readable. Only a regular file is opened.
  """
  path = existing(path)
  found = path.stat()
  if not stat.S_ISREG(found.st_mode):
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a file")
    raise DataError(f"{path}: is {kind}, expected a file")
  if not found.st_size:
    raise DataError(f"{path}: is empty (zero bytes)")
  if not os.access(path, os.R_OK):
    raise DataError(f"{path}: may not be read (permissions)")
  return path


def check_bytes(
  path: str | os.PathLike, count: int, limit: int, what: str = "the file"
) -> None:
  """Refuses more bytes than the limit, before they are read.

  Raises:
    DataError: `count` is above `limit`; the message names file and numbers.
  """
  if count > limit:
    raise DataError(
      f"{path}: {what} has {count} bytes, more than the limit of {limit};"
      " crop, downsample or split it first"
    )


def read_bytes(path: str | os.PathLike, limit: int) -> bytes:
  """Reads a regular file of at most `limit` bytes.

  Raises:
    DataError: as `regular_file` and `check_bytes`, or reading fails.
  """
  path = regular_file(path)
  check_bytes(path, path.stat().st_size, limit)
  try:
    return path.read_bytes()
  except OSError as error:
    raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def folder_of(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path if it is a folder.

  Raises:
    DataError: the path does not exist or is not a folder.
  """
  path = existing(path)
  if not path.is_dir():
    raise DataError(f"{path}: is not a folder")
  return path


def check_size(
  path: str | os.PathLike, shape: tuple[int, ...], limit: int
) -> None:
  """Refuses a declared size that is empty or above the limit, before decoding.

  Args:
    path: for the message.
    shape: declared lengths of the axes.
    limit: the largest number of elements that is accepted.

  Raises:
    DataError: an axis below 1, or more than `limit` elements.
  """
  shape = tuple(int(length) for length in shape)
  text = " x ".join(str(length) for length in shape)
  if min(shape, default=0) < 1:
    raise DataError(f"{path}: the header declares the size {text or 'none'}")
  if math.prod(shape) > limit:
    raise DataError(
      f"{path}: the header declares {text} elements, more than the limit of"
      f" {limit}; crop or downsample it first"
    )


def read_npz(
  path: str | os.PathLike, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads arrays of an npz file; pickled objects are refused.

  Each array's header must match the number of bytes that follow it, so a header
  that declares a huge shape is refused before memory is allocated.

  Args:
    path: the file.
    names: arrays to read, missing ones left out; None for all.

  Raises:
    DataError: not an npz file, an object (pickled) array, a header that does
      not fit its data, an array named twice, more than `MAX_NPZ_BYTES` in
      all, or a damaged file.
  """
  npz_headers(path)
  with one_error(path, "npz file"), np.load(path, allow_pickle=False) as arrays:
    wanted = arrays.files if names is None else names
    return {name: arrays[name] for name in wanted if name in arrays.files}


def npz_headers(
  path: str | os.PathLike,
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
  """Reads shape and dtype of every array of an npz file from the headers.

  Raises:
    DataError: as `read_npz`.
  """
  path = regular_file(path)
  with one_error(path, "npz file"):
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      # Members may share their compressed bytes, so only the sum is a bound.
      total = sum(member.file_size for member in members)
      check_bytes(path, total, MAX_NPZ_BYTES, "the unpacked npz file")
      found = {
        member.filename.removesuffix(".npy"): _header(path, archive, member)
        for member in members
      }
    _check_names(path, [member.filename for member in members])
    return found


def _check_names(path: pathlib.Path, names: list[str]) -> None:
  """Refuses repeated names, of which numpy would silently use one."""
  twice = {name for name in names if names.count(name) > 1}
  if twice:
    raise DataError(f"{path}: holds the array {min(twice)!r} more than once")


def kind_of(dtype: np.dtype) -> str:
  """Describes a dtype; field names of records are free text and left out."""
  return "records" if dtype.names else str(dtype)


def _header(
  path: pathlib.Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype]:
  where = f"{path}, array {member.filename!r}"
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    read = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
      raise DataError(f"{where}: npy format version {version} is not read")
    shape, _, dtype = read(file)
    start = file.tell()
  if dtype.hasobject:
    raise DataError(
      f"{where}: holds pickled Python objects, which are never loaded;"
      " save plain numbers or text"
    )
  declared = math.prod(int(length) for length in shape) * dtype.itemsize
  if min(shape, default=1) < 0 or declared != member.file_size - start:
    raise DataError(
      f"{where}: the header declares {shape} of {kind_of(dtype)}, {declared}"
      f" bytes, but {member.file_size - start} bytes follow"
    )
  return shape, dtype
