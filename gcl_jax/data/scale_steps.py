"""The factor by which a scanner scaled the integers of a volume.

Scanners store integers and a factor for each scan; software that applies the
factor leaves a volume of floats, all of them multiples of it. Two volumes cut
out of one scan then have the same factor, called the step here.
"""

import math
from collections.abc import Sequence

import numpy as np

_MOST = 2**16  # integers of up to 16 bits: no voxel is more steps than this
# Two or three values always have a common step within rounding; eight that are
# on no grid fit one of the 2^16 candidates less than once in 10^7.
_LEAST = 8
_ROUNDING = 2.0**-24  # of a float32, as a share of its value


def step_of(values: np.ndarray) -> tuple[float, float] | None:
  """Bounds of the largest number that every voxel is an integer multiple of.

  Each voxel v gives bounds for the step s: v (1 - 2^-24) <= k s <= v (1 +
  2^-24) with a whole number k < 2^16, as v was rounded to float32.

  Args:
    values: the voxels, any shape and order; negative ones and 0 may occur.

  Returns:
    The least and the largest step that all voxels allow. None where there is no
    step: voxels that are not floats or not finite, fewer than eight different
    values beside 0, values that are not on such a grid, and whole steps, since
    integers that were merely stored as floats are multiples of 1.
  """
  if values.dtype.kind != "f" or not np.isfinite(values).all():
    return None
  sizes = np.unique(np.abs(values)).astype(np.float64)
  sizes = sizes[sizes > 0]
  if len(sizes) < _LEAST:
    return None
  # The smallest voxel is this many steps: few steps are the larger step.
  most = int(_MOST * (sizes[0] / sizes[-1]))
  multiples = np.arange(1, most + 1)
  few = sizes[np.linspace(0, len(sizes) - 1, _LEAST).astype(int)]
  low, high = _bounds(few, multiples)
  for multiple in multiples[low <= high]:
    low, high = _bounds(sizes, multiple)
    if low <= high:
      return None if math.floor(high) >= low else (float(low), float(high))
  return None


def _bounds(sizes: np.ndarray, multiple: np.ndarray | int) -> tuple:
  """Least and largest step if the first of `sizes` is `multiple` steps."""
  counts = np.round(np.multiply.outer(multiple, sizes / sizes[0]))
  steps = sizes / counts
  return steps.max(-1) * (1 - _ROUNDING), steps.min(-1) * (1 + _ROUNDING)


def sharing(
  steps: Sequence[tuple[float, float] | None],
) -> list[list[int]]:
  """Positions of the volumes that have one step, those without one left out.

  Two volumes share a step if their bounds overlap; where a third one overlaps
  both, all three do.
  """
  known = sorted((step, i) for i, step in enumerate(steps) if step)
  groups, reach = [], -math.inf
  for (low, high), i in known:
    if low > reach:
      groups.append([])
    groups[-1].append(i)
    reach = max(reach, high)
  return groups
