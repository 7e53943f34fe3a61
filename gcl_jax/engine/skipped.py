"""Steps whose loss or parameters were not finite, and whose images they saw."""

from typing import Any

import numpy as np

from gcl_jax.engine import parallel


class Skipped:
  """Counts the steps that a run skipped.

  Attributes:
    patience: steps in a row that are too many.
    count: skipped steps so far.
    in_a_row: of them, those at the end.
  """

  def __init__(self, patience: int, ids: np.ndarray | None, mode: str):
    """`ids` names the rows of `index`; `mode` is that of the batches."""
    self.patience, self._ids, self._mode = patience, ids, mode
    self.count = self.in_a_row = 0

  def look(self, number: int, skipped: bool, index: Any) -> dict | None:
    """What to write of a step: None unless it was skipped.

    Args:
      number: of the step.
      skipped: whether it was.
      index: rows of its batch on the devices, None where it has none. With
        several processes all of them ask here for the same steps.
    """
    self.in_a_row = self.in_a_row + 1 if skipped else 0
    if not skipped:
      return None
    self.count += 1
    record = {"step": number}
    if index is not None:
      rows = parallel.global_rows(index, self._mode)
      images = rows if self._ids is None else np.asarray(self._ids)[rows]
      record["images"] = images.tolist()
    return record
