"""Lists of training and evaluation images as their publisher gives them."""

import os

import numpy as np

from gcl_jax.data.splits import check_groups
from gcl_jax.errors import DataError


def check_lists(
  where: str | os.PathLike, groups: np.ndarray, parts: np.ndarray
) -> None:
  """Refuses lists that have a patient in both parts.

  Args:
    where: for the message.
    groups: [N], the patient of each image.
    parts: [N], "train", "eval" or "" (in neither list).

  Raises:
    DataError: naming up to three of the patients.
  """
  crossing = check_groups(groups, parts, allow=True)
  if crossing:
    raise DataError(
      f"{where}: {len(crossing)} patients are in the training and in the"
      f" evaluation list ({', '.join(crossing[:3])}); remove them from one"
    )
