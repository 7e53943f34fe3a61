"""Checks made before any decoder sees a file.

Nothing here trusts a file: it must be a regular file with content (no FIFO
can block the reader), and the size that its header declares must be
acceptable before anything of that size is allocated.
"""

import math
import os
import pathlib
import stat
import zipfile

import numpy as np

from gcl_jax.errors import DataError

MAX_PIXELS = 2**26  # of one image: 8192 x 8192
MAX_VOXELS = 2**29  # of one volume: 1024 slices of 724 x 724
MAX_NPZ_BYTES = 2**34  # of one array in an npz file: 16 GiB

_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a FIFO",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


def existing(path: str | os.PathLike) -> pathlib.Path:
  """The path, if something is there (after following symbolic links).

  Raises:
    DataError: nothing there, a loop of links, or no permission to look.
  """
  path = pathlib.Path(path)
  try:
    path.stat()
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise DataError(f"{path}: {reason}") from error
  return path


def regular_file(path: str | os.PathLike) -> pathlib.Path:
  """The path, if it is a regular file with at least one byte.

  Raises:
    DataError: nothing there, a folder, FIFO, device or loop of links, zero
      bytes, or not readable. The file is not opened unless it is regular.
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


def folder_of(path: str | os.PathLike) -> pathlib.Path:
  """The path, if it is a folder.

  Raises:
    DataError: nothing there, or not a folder.
  """
  path = existing(path)
  if not path.is_dir():
    raise DataError(f"{path}: is not a folder")
  return path


def check_size(
  path: str | os.PathLike, shape: tuple[int, ...], limit: int
) -> None:
  """Refuses the size a header declares, before anything is decoded.

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


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of an npz file, without unpickling anything.

  Each array's header must agree with the bytes that follow it, so a header
  that declares a huge shape is refused before allocation.

  Raises:
    DataError: not an npz file, an object (pickled) array, a header that does
      not fit its data, more than `MAX_NPZ_BYTES`, or a damaged file.
  """
  path = regular_file(path)
  try:
    with zipfile.ZipFile(path) as archive:
      for member in archive.infolist():
        _check_member(path, archive, member)
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except DataError:
    raise
  # Zip, codec and header errors come as a dozen types; all mean one thing.
  except Exception as error:
    raise DataError(f"{path}: not a readable npz file ({error})") from error


def _check_member(
  path: pathlib.Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> None:
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
      f"{where}: the header declares {shape} of {dtype}, {declared} bytes,"
      f" but {member.file_size - start} bytes follow"
    )
  if declared > MAX_NPZ_BYTES:
    raise DataError(f"{where}: {declared} bytes, more than {MAX_NPZ_BYTES}")
