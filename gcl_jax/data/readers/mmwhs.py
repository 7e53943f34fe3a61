"""MMWHS: whole hearts in CT and MR, 20 labelled patients of each.

Zhuang and Shen, Medical Image Analysis 31 (2016); free on registration. Files
ct_train_1001_image.nii.gz and ct_train_1001_label.nii.gz, mr_train_...; the
test volumes (ct_test_2001_image.nii.gz) have no open labels.
"""

import os

from gcl_jax.data.file_names import pairs_named
from gcl_jax.data.intensity import CT_WINDOW
from gcl_jax.data.source import Dataset
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import MODALITIES, Volume, volumes
from gcl_jax.errors import ConfigError, DataError

CODES = {
  500: "left ventricle",
  600: "right ventricle",
  420: "left atrium",
  550: "right atrium",
  205: "myocardium",
  820: "ascending aorta",
  850: "pulmonary artery",
  # An error in one published MR label map; usually read as 420.
  421: "left atrium",
}
_NAME = r"(ct|mr)_(train|test)_\d{4}"


def read(
  path: str | os.PathLike,
  *,
  modality: str = "",
  axis: str = "axial",
  ct_window: tuple[float, float] = CT_WINDOW,
) -> Dataset:
  """Reads MMWHS as published.

  Args:
    path: a folder above the files; folders between do not matter.
    modality: "ct", "mr" or "" for both.
    axis: one of `volume_files.AXES`.
    ct_window: Hounsfield units that become 0 and 255.

  Returns:
    As `volumes.volumes`; patients ct_1001, mr_1001, ... (CT and MR are of
    different people); meta `part` is train (labelled) or test (not).

  Raises:
    DataError: no file of such a name, a training volume without its class map,
      or what `nifti_volume` and `volumes` raise.
    ConfigError: an unknown modality or axis.
  """
  if modality and modality not in MODALITIES:
    raise ConfigError(f"modality {modality!r}; known: {', '.join(MODALITIES)}")
  pairs = pairs_named(path, _NAME)
  names = [name for name in pairs if name.startswith(modality)]
  if not names:
    raise DataError(
      f"{path}: no {modality or 'ct'}_train_1001_image.nii.gz or the like"
      " below it"
    )

  def entry(name: str) -> Volume:
    kind, part, number = name.split("_")
    image, label = pairs[name]
    if part == "train" and not label:
      raise DataError(f"{image}: no {name}_label.nii.gz below {path}")
    return nifti_volume(
      name,
      image,
      label,
      axis=axis,
      codes=CODES,
      patient=f"{kind}_{number}",
      modality=kind,
      columns={"part": part},
    )

  entries = [entry(name) for name in names]
  return volumes("mmwhs", entries, ct_window=ct_window)
