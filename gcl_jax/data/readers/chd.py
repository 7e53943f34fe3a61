"""CHD: hearts in CT with congenital disease, 68 labelled patients.

Xu et al., MICCAI 2019, "Whole heart and great vessel segmentation in congenital
heart disease using deep neural networks and graph matching"; on Kaggle as
CHD68_segmentation_dataset_miccai19. Files ct_1001_image.nii.gz and
ct_1001_label.nii.gz.

Written without access to the files. Their names, and the rule that label values
above 7 are not part of the heart, follow public code that reads them; the order
of the values 1 to 7 follows the authors' list of structures and code for their
later ImageCHD. According to a third party, all files state a spacing of 1 mm in
every direction and have voxels from 0 to 4095. It is not verified that these
are Hounsfield units, or that the spacing is right: column `spacing_known` is 0,
and there is no surface Dice.
"""

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np

from gcl_jax.data.file_names import pairs_named
from gcl_jax.data.intensity import CT_WINDOW
from gcl_jax.data.source import Dataset
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import Volume, volumes
from gcl_jax.errors import DataError

CODES = {
  1: "left ventricle",
  2: "right ventricle",
  3: "left atrium",
  4: "right atrium",
  5: "myocardium",
  6: "aorta",
  7: "pulmonary artery",
}


def read(
  path: str | os.PathLike,
  *,
  axis: str = "axial",
  ct_window: tuple[float, float] = CT_WINDOW,
) -> Dataset:
  """Reads CHD68 as published.

  Args:
    path: a folder above the files; folders between do not matter.
    axis: one of `volume_files.AXES`.
    ct_window: stored values that become 0 and 255.

  Returns:
    As `volumes.volumes`; patients ct_1001, ...; label values above 7 are
    background.

  Raises:
    DataError: no file of such a name, an image without its class map, or what
      `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis.
  """
  pairs = pairs_named(path, r"ct_\d{4}")
  if not pairs:
    raise DataError(f"{path}: no ct_1001_image.nii.gz or the like below it")

  def entry(name: str) -> Volume:
    image, label = pairs[name]
    if not label:
      raise DataError(f"{image}: no {name}_label.nii.gz below {path}")
    facts = {"codes": CODES, "patient": name, "modality": "ct"}
    facts |= {"columns": {"spacing_known": 0}}
    volume = nifti_volume(name, image, label, axis=axis, **facts)
    read = functools.partial(_heart, volume.label.read)
    label = dataclasses.replace(volume.label, read=read)
    return dataclasses.replace(volume, label=label)

  return volumes("chd", [entry(name) for name in pairs], ct_window=ct_window)


def _heart(read: Callable[[], np.ndarray]) -> np.ndarray:
  """Sets labels outside the heart to background."""
  values = read()
  return np.where(values > max(CODES), 0, values)
