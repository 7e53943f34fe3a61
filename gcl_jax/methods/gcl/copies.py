"""Volumes that are in two parts of a split, under two names."""

import hashlib
from collections.abc import Sequence

import numpy as np

from gcl_jax.data import splits


def rows_left(
  table: dict[str, np.ndarray], hashes: Sequence[str], duplicates: str
) -> tuple[np.ndarray, list[tuple[str, str]]]:
  """The slices that stay, once copies of volumes in other parts are out.

  Volumes are copies of each other where all their prepared slices are the
  same in bytes; single slices, blank ones for example, may well be the same.

  Args:
    table: of all slices: `id`, `volume` and `part`.
    hashes: of the prepared slices.
    duplicates: "refuse", or "drop": copies of an evaluation volume, and those
      in training of an out-of-distribution one, are left out.

  Returns:
    The rows that stay, and (id, reason) of the others.

  Raises:
    DataError: copies in two parts, unless they are dropped.
  """
  names, first, volume = np.unique(
    table["volume"], return_index=True, return_inverse=True
  )
  slices = [np.flatnonzero(volume == number) for number in range(len(names))]
  wholes = [
    hashlib.sha256("".join(hashes[row] for row in rows).encode()).hexdigest()
    for rows in slices
  ]
  part, twins = table["part"][first], {}
  names = np.array([f"volume {name}" for name in names])
  if duplicates == "drop":
    tests = np.where(part == "ood", "eval", part)
    twins = splits.copies(wholes, tests, names)
    twins |= splits.copies(wholes, part, names)
  left = np.setdiff1d(np.arange(len(names)), list(twins))
  splits.check_duplicates([wholes[i] for i in left], part[left], names[left])
  out = [
    (str(table["id"][row]), f"same slices as {twin}, kept for testing")
    for number, twin in twins.items()
    for row in slices[number]
  ]
  return np.flatnonzero(np.isin(volume, left)), out
