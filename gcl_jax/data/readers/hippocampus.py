"""Hippocampus MR of the Medical Segmentation Decathlon (task 4).

Antonelli et al., Nature Communications 13:4128 (2022), CC BY-SA 4.0. Read
from NIfTI files (imagesTr/ and labelsTr/ as shipped, or *_image.nii.gz beside
*_label.nii.gz) or from one npz file: `ids` ("001", ...), and `image_<id>` and
`label_<id>` with axes R, A, S and voxels of 1 mm.
"""

import functools
import os

import numpy as np

from gcl_jax.data.file_names import files_named, pairs_named
from gcl_jax.data.files import existing, read_npz
from gcl_jax.data.nifti import nifti_grid
from gcl_jax.data.source import Dataset
from gcl_jax.data.volume_files import (
  AXES,
  check_axis,
  cut,
  nifti_volume,
)
from gcl_jax.data.volumes import Volume, Voxels, volumes
from gcl_jax.errors import ConfigError, DataError

CODES = {1: "anterior", 2: "posterior"}


def read(path: str | os.PathLike, *, axis: str = "axial") -> Dataset:
  """Reads volumes cropped to one hippocampus, from a folder or an npz file.

  It is not published which two volumes belong to one person, so every volume is
  a group of its own.

  Args:
    path: the npz file, or the folder.
    axis: one of `volume_files.AXES` ("stored" only for NIfTI files).

  Returns:
    As `volumes.volumes`; meta `scale` is the type of the stored voxels: of the
    200 volumes in the npz file 44 are "uint8" and 156 "float32" (values up to
    1e6); a model trained on one type can be tested on the other.

  Raises:
    DataError: neither of the two, an image without its class map, or what
      `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis.
  """
  check_axis(axis)
  from_files = existing(path).is_dir()
  entries = _from_files(path, axis) if from_files else _from_npz(path, axis)
  return volumes("hippocampus", entries)


def _from_files(path: str | os.PathLike, axis: str) -> list[Volume]:
  root = existing(path)
  if (root / "imagesTr").is_dir():
    images = files_named(root / "imagesTr", r".+")
    labels = files_named(root / "labelsTr", r".+")
  else:
    found = pairs_named(root, r".+")
    images = {name: image for name, (image, _) in found.items()}
    labels = {name: label for name, (_, label) in found.items() if label}
  if not images:
    raise DataError(f"{root}: neither imagesTr/*.nii.gz nor *_image.nii.gz")
  missing = [name for name in images if name not in labels]
  if missing:
    raise DataError(f"{images[missing[0]]}: has no class map of this name")
  return [
    nifti_volume(
      name,
      image,
      labels[name],
      axis=axis,
      codes=CODES,
      columns={"scale": str(nifti_grid(image).dtype.newbyteorder("="))},
    )
    for name, image in images.items()
  ]


def _from_npz(path: str | os.PathLike, axis: str) -> list[Volume]:
  if axis == "stored":
    known = ", ".join(AXES[:-1])
    raise ConfigError(f"axis 'stored' of an npz file; known: {known}")
  arrays = read_npz(path)
  if "ids" not in arrays:
    raise DataError(f"{path}: no array 'ids'; is it the hippocampus file?")
  return [_entry(path, arrays, str(name), axis) for name in arrays["ids"]]


def _entry(
  path: str | os.PathLike, arrays: dict, name: str, axis: str
) -> Volume:
  image, label = (
    _voxels(path, arrays, f"{kind}_{name}", axis) for kind in ("image", "label")
  )
  return Volume(
    id=f"hippocampus_{name}",  # as the files are named
    image=image,
    label=label,
    spacing=(1.0, 1.0, 1.0),
    codes=CODES,
    columns={"scale": str(arrays[f"image_{name}"].dtype)},
  )


def _voxels(
  path: str | os.PathLike, arrays: dict, name: str, axis: str
) -> Voxels:
  if name not in arrays:
    raise DataError(f"{path}: no array {name!r}, which ids asks for")
  values = arrays[name]
  if values.ndim != 3 or not values.size or values.dtype.kind not in "iuf":
    raise DataError(
      f"{path}: {name} {values.shape} of {values.dtype}; expected a volume"
    )
  # [R, A, S] -> [S, P, L], the canonical order of every reader here.
  values = cut(values.transpose(2, 1, 0)[:, ::-1, ::-1], axis)
  read = functools.partial(np.asarray, values)
  return Voxels(f"{path}, {name}", values.shape, read)
