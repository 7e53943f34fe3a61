"""Hippocampus MR of the Medical Segmentation Decathlon (task 4).

Antonelli et al., Nature Communications 13:4128 (2022), CC BY-SA 4.0. Read
from NIfTI files (imagesTr/ and labelsTr/ as shipped, or *_image.nii.gz beside
*_label.nii.gz) or from one npz file: `ids` ("001", ...), and `image_<id>` and
`label_<id>` with axes R, A, S and voxels of 1 mm.

Which volumes are one person's is not published. Known, from the 261 images in a
public copy of the training part (205 of floats, 56 of uint8; the npz file has
156 and 44 of them):

  All float volumes are integers times a step (see `scale_steps`) that differs
  from scan to scan. Volumes 2k - 1 and 2k have the same step in 71 of 71 pairs
  (44 of 44 in the npz file), volumes 2k and 2k + 1 in 0 of 60 (0 of 34). The
  numbers of labelled voxels correlate at 0.91 in the former and at 0.07 in the
  latter. One more step occurs twice, in 245 and in 299 with 300: there are
  394 volumes of 195 people, so two people may have more than two.
  Volumes of uint8 have no step. Volumes 2k - 1 and 2k have the same type in 90
  of 90 pairs; labelled voxels of the 19 pairs of uint8 correlate at 0.93.

Inferred: volumes with one step are of one scan, hence of one person. Volumes
2k - 1 and 2k are the two sides of one brain, also where no step shows it. In
doubt volumes are joined: a person taken for two may be on both sides of a
split, two people taken for one may not.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.file_names import files_named, pairs_named
from gcl_jax.data.files import existing, read_npz
from gcl_jax.data.nifti import nifti_grid
from gcl_jax.data.scale_steps import sharing, step_of
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

  Volumes of the numbers 2k - 1 and 2k are one patient's, and so are those that
  share a scanner step, whatever their numbers: an inference, see above. All
  voxels are read once for the steps, 3 s for 260 NIfTI files and 1 s for the
  npz file. (Headers do not tell: `scl_slope` is nan in all published files.
  Where it is a number, voxels are multiplied by it before the step is found.)

  Args:
    path: the npz file, or the folder.
    axis: one of `volume_files.AXES` ("stored" only for NIfTI files).

  Returns:
    As `volumes.volumes`; `patient` is "hippocampus_003+004" for the volumes of
    these numbers, be both there or one; meta `scale` is the type of the stored
    voxels: of the 200 volumes in the npz file 44 are "uint8" and 156 "float32"
    (values up to 1e6); a model trained on one type can be tested on the other.

  Raises:
    DataError: neither of the two, an image without its class map, a name that
      ends in no number, or what `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis.
  """
  check_axis(axis)
  from_files = existing(path).is_dir()
  entries = _from_files(path, axis) if from_files else _from_npz(path, axis)
  patients = _patients(entries)
  return volumes(
    "hippocampus",
    [
      dataclasses.replace(volume, patient=patient)
      for volume, patient in zip(entries, patients, strict=True)
    ],
  )


def _patients(entries: Sequence[Volume]) -> list[str]:
  """Name of the patient of every volume, by numbers and scanner steps."""
  pairs = [_pair(volume) for volume in entries]
  joined = {pair: {pair} for pair in pairs}
  for same in sharing([_step(volume) for volume in entries]):
    together = set().union(*(joined[pairs[i]] for i in same))
    joined |= dict.fromkeys(together, together)
  names = {
    pair: "+".join(f"{2 * k - 1:03d}+{2 * k:03d}" for k in sorted(together))
    for pair, together in joined.items()
  }
  return [f"hippocampus_{names[pair]}" for pair in pairs]


def _pair(volume: Volume) -> int:
  """k for the volumes 2k - 1 and 2k."""
  number = re.search(r"\d+$", volume.id)
  if not number:
    raise DataError(
      f"{volume.image.where}: the name {volume.id!r} ends in no number, which"
      " tells the patient; read files of other names with data.name=volumes"
    )
  return (int(number[0]) + 1) // 2


def _step(volume: Volume) -> tuple[float, float] | None:
  try:
    return step_of(volume.image.read())
  except DataError:
    return None  # reading its slices raises the reason


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
