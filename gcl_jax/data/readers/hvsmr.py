"""HVSMR 2016: cardiovascular MR of congenital heart disease, 10 + 10 patients.

Pace et al., MICCAI 2015, and the challenge of 2016; free on registration. The
axial, cropped volumes: "Training dataset/training_axial_crop_pat0.nii.gz" with
"Ground truth/training_axial_crop_pat0-label.nii.gz", and
testing_axial_crop_pat10.nii.gz without labels.
"""

import os

from gcl_jax.data.file_names import files_named
from gcl_jax.data.source import Dataset
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import Volume, volumes
from gcl_jax.errors import DataError

CODES = {1: "myocardium", 2: "blood pool"}
_NAME = r"(training|testing)_axial_crop_pat\d+"


def read(path: str | os.PathLike, *, axis: str = "axial") -> Dataset:
  """Reads the axial, cropped volumes of HVSMR 2016 as published.

  Args:
    path: a folder above the files, at any depth; an image and its class map may
      lie in different folders.
    axis: one of `volume_files.AXES`.

  Returns:
    As `volumes.volumes`; patients pat0, pat1, ...; meta `part` is training
    (labelled) or testing (not).

  Raises:
    DataError: no file of such a name, a training volume without its class map,
      or what `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis.
  """
  images = files_named(path, _NAME)
  labels = files_named(path, f"{_NAME}-label")
  if not images:
    raise DataError(f"{path}: no training_axial_crop_pat*.nii.gz below it")
  for name in images:
    if name.startswith("training") and f"{name}-label" not in labels:
      raise DataError(f"{images[name]}: no {name}-label.nii.gz below {path}")

  def entry(name: str) -> Volume:
    part, *_, patient = name.split("_")
    label = labels.get(f"{name}-label")
    return nifti_volume(
      name,
      images[name],
      label,
      axis=axis,
      codes=CODES,
      patient=patient,
      columns={"part": part},
    )

  return volumes("hvsmr", [entry(name) for name in images])
