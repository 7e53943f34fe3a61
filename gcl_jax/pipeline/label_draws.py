"""Few labels: which patients are labelled, and what is tested.

The patients with labels are drawn by seed, the same for every arm, and a draw
of M lies inside every larger one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import splits
from gcl_jax.errors import DataError
from gcl_jax.evaluation.volumes import check_alike
from gcl_jax.pipeline.prepared import Prepared

# Arms that are not pre-trained. The second is fine-tuned for as many steps as
# the method's own arm takes in pre-training and fine-tuning together.
SCRATCH, SCRATCH_LONG = UNTRAINED = ("scratch", "scratch_long")
_NO_TESTS = (
  "no labelled volume is kept for evaluation: raise --config.data.eval_fraction"
  " or label more"
)


class Fit(NamedTuple):
  """One fine-tune: which arm, labelled patients, their draw, and seed."""

  arm: str
  labelled: int
  draw: int
  seed: int

  @property
  def name(self) -> str:
    """Such as gcl-m2-d0-s0."""
    return f"{self.arm}-m{self.labelled}-d{self.draw}-s{self.seed}"


def fits(config: ConfigDict, arms: Sequence[str]) -> list[Fit]:
  """Every fine-tune of a run, arms next to each other.

  Draw i goes with seed i modulo the number of seeds, and the other way round
  where seeds are more: fits of different draws are independent, so nine draws
  say more than three draws by three seeds, at the same cost.

  Args:
    config: `labelled`, `draws` and `seeds` of section `segment`.
    arms: their names.
  """
  draws, seeds = tuple(config.draws), tuple(config.seeds)
  return [
    Fit(arm, labelled, draws[i % len(draws)], seeds[i % len(seeds)])
    for labelled in config.labelled
    for i in range(max(len(draws), len(seeds)))
    for arm in arms
  ]


def draw_names(
  labelled: int, draws: Sequence[int], seeds: Sequence[int]
) -> list[str]:
  """The draw of labelled patients of each fit, as `mean_over_fits` wants it.

  Fits that share one are not independent. Where all patients are labelled
  (0), no patients are drawn, and every fit has a name of its own.
  """
  return [
    f"{draw}, {seed}" if labelled == 0 else str(draw)
    for draw, seed in zip(draws, seeds, strict=True)
  ]


class Test(NamedTuple):
  """The labelled volumes of one part, on their own grids.

  Attributes:
    names: of the volumes.
    rows: of each volume, first slice first.
    truths: label map of each, uint8[S, H, W].
    spacings: of each, (z, y, x) in mm.
    in_mm: bool of each, whether that spacing is known to be right: not where
      the table has a column `spacing_known` with a 0.
  """

  names: list[str]
  rows: list[np.ndarray]
  truths: list[np.ndarray]
  spacings: list[tuple[float, float, float]]
  in_mm: list[bool]


def tests_of(images: Prepared) -> dict[str, Test]:
  """{"eval", "ood"}: the labelled test volumes, class maps as stored.

  Raises:
    DataError: no labelled volume is kept for evaluation.
  """
  found, table = {}, images.table
  known = table.get("spacing_known", np.ones(len(images)))
  for part in ("eval", "ood"):
    if of_part := images.volumes(part):
      rows = list(of_part.values())
      found[part] = Test(
        list(of_part),
        rows,
        [np.stack(images.truths(of_volume)) for of_volume in rows],
        [
          tuple(float(table[f"spacing_{axis}"][r[0]]) for axis in "zyx")
          for r in rows
        ],
        [bool(known[r[0]] != 0) for r in rows],
      )
  if "eval" not in found:
    raise DataError(_NO_TESTS)
  return found


def example_rows(test: Test, count: int) -> np.ndarray:
  """A middle slice of `count` volumes, spread over the part."""
  chosen = np.linspace(0, len(test.rows) - 1, min(count, len(test.rows)))
  return np.array(
    [test.rows[k][len(test.rows[k]) // 2] for k in chosen.astype(int)]
  )


def labelled_patients(images: Prepared) -> int:
  """Number of patients of the training part that have labels."""
  return len(np.unique(images.groups[images.part("train") & images.labelled]))


def check_labels(images: Prepared, config: ConfigDict) -> None:
  """Refuses labels that are not there, before pre-training.

  Args:
    images: the prepared slices.
    config: section `segment`: `labelled`, `select` and, where a method has
      it, `alike`.

  Raises:
    DataError: `alike` names no class of the data, the training part has fewer
      patients with labels, an inner patient cannot be spared, or no labelled
      volume is kept for evaluation.
  """
  check_alike(config.get("alike", ()), images.classes)
  there = labelled_patients(images)
  most, fewest = (
    end(count or there for count in config.labelled) for end in (max, min)
  )
  if most > there or not there:
    raise DataError(
      f"segment.labelled {max(config.labelled)}: the training part has {there}"
      " patients with labels; ask for fewer, or 0 for all of them"
    )
  if config.select == "inner" and fewest < 2:
    raise DataError(
      "segment.select inner leaves one labelled patient out of training, and"
      f" the training part has {there}: take select=last"
    )
  if not images.volumes("eval"):
    raise DataError(_NO_TESTS)


def labelled_rows(images: Prepared, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
  """Rows to train on, and those of the inner patient (none for one patient).

  Raises:
    DataError: fewer labelled patients in the training part than wanted.
  """
  rows = np.flatnonzero(images.part("train") & images.labelled)
  count = fit.labelled or labelled_patients(images)
  rows = rows[splits.label_draw(images.groups[rows], count, fit.draw)]
  if count < 2:
    return rows, rows[:0]
  inner = splits.label_draw(images.groups[rows], 1, fit.draw)
  return rows, rows[inner]
