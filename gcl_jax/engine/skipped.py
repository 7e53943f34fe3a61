"""Steps skipped for a loss or parameters that were not finite."""

from typing import Any

import jax
import numpy as np

from gcl_jax.engine import parallel


class Skipped:
  """The number of skipped steps of a run, and the images of each.

  Attributes:
    patience: steps in a row that are too many.
    count: skipped steps so far.
    in_a_row: of them, those at the end.
  """

  def __init__(self, patience: int, ids: Any, mode: str):
    """`ids` is that of `train.fit`; `mode` is that of the batches."""
    self.patience, self._ids, self._mode = patience, ids, mode
    self.count = self.in_a_row = 0

  def look(self, number: int, skipped: bool, index: Any) -> dict | None:
    """The record of a skipped step; counts it.

    Args:
      number: of the step.
      skipped: whether it was skipped.
      index: rows of its batch on the devices, None where it has none; of
        several pools {pool: rows or None}. With several processes all of them
        ask here for the same steps.

    Returns:
      {"step": number, "images": list of ids}, with {pool: list of ids} of
      several pools and no "images" of a batch without rows; None for a step
      that was not skipped.
    """
    self.in_a_row = self.in_a_row + 1 if skipped else 0
    if not skipped:
      return None
    self.count += 1
    record = {"step": number}
    if jax.tree.leaves(index):
      record["images"] = self._images(parallel.global_rows(index, self._mode))
    return record

  def _images(self, rows):
    if not isinstance(rows, dict):
      return _named(rows, self._ids)
    shared = not isinstance(self._ids, dict)
    return {
      pool: _named(own, self._ids if shared else self._ids.get(pool))
      for pool, own in rows.items()
      if own is not None
    }


def _named(rows, ids):
  return (rows if ids is None else np.asarray(ids)[rows]).tolist()
