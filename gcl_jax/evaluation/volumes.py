"""Segmentation scores by volume and class: Dice, HD95 and surface Dice.

Slices of a volume share a patient, and small classes occur in few of them, so
the unit is the volume, not the slice or the pooled pixels of a fold.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import overlap

AMBIGUOUS = "dice/ambiguous"  # score of the classes that look alike


def volume_scores(
  truths: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  spacings: Sequence[Sequence[float]],
  names: Sequence[str],
  regions: Mapping[str, Sequence[np.ndarray]] | None = None,
  tolerance: float = 0.0,
  in_mm: Sequence[bool] | None = None,
  alike: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Scores of every volume, by class and as mean over classes.

  Args:
    truths: V label maps int[S, H, W], sizes may differ; 0 is the background.
    predictions: V label maps, each of its truth's shape.
    spacings: V times (slice, row, column) size of a voxel, in mm.
    names: of the foreground classes, labels 1 to len(names).
    regions: name -> V masks bool[S, H, W], each of its truth's shape, for Dice
      on the voxels inside alone, such as those where a model is unsure.
    tolerance: of the surface Dice, in mm; 0 leaves it out.
    in_mm: of each volume, whether its spacing is known to be in mm: where it is
      not, there is no surface Dice. None: all are.
    alike: names of classes that look alike, which a model tells apart by what
      lies round them; () for no such score.

  Returns:
    "dice/<name>" in [0, 1] and "hd95/<name>" in mm, float64[V] each, nan where
    undefined: Dice where truth and prediction are both empty, HD95 where
    either is; with a tolerance also "surface_dice/<name>" in [0, 1], 0 where
    one of the two is empty. "dice/mean" and so on are the means over the
    classes that are defined in that volume. For every region also
    "dice/<name>@<region>" and "dice/mean@<region>", nan where both are empty
    inside the region. With classes that look alike also "dice/ambiguous": the
    mean over them of the Dice on those voxels alone whose true class is one of
    them, nan for a volume without such a voxel.

  Raises:
    DataError: no volume, lists of different length, shapes that differ, labels
      that have no name, spacing that is not three positive numbers, a region
      whose masks do not fit the truths or are not bool, a class of `alike` that
      is not among the names.
  """
  _check(truths, predictions, spacings, names)
  _check_regions(regions or {}, truths)
  pairs = list(zip(truths, predictions, strict=True))
  dice = [_each_class(overlap.dice, *pair, names) for pair in pairs]
  apart = [
    _each_class(overlap.surface_distances, *pair, names, spacing)
    for pair, spacing in zip(pairs, spacings, strict=True)
  ]
  hd95 = [[overlap.hd95_of(d) for d in of_volume] for of_volume in apart]
  scores = _columns("dice/", dice, names) | _columns("hd95/", hd95, names)
  if tolerance:
    known = [True] * len(pairs) if in_mm is None else in_mm
    near = [
      [overlap.surface_dice_of(d, tolerance) if k else None for d in of_volume]
      for of_volume, k in zip(apart, known, strict=True)
    ]
    scores |= _columns("surface_dice/", near, names)
  for region, masks in (regions or {}).items():
    dice = _dice_inside(pairs, masks, names)
    scores |= _columns("dice/", dice, names, f"@{region}")
  if alike:
    scores[AMBIGUOUS] = _ambiguous(pairs, names, alike)
  return scores


def check_alike(alike: Sequence[str], names: Sequence[str]) -> None:
  """Refuses names of classes that do not exist, or that occur twice.

  Args:
    alike: names of classes that look alike, () for none.
    names: of all classes.

  Raises:
    DataError: names the class; or a class is called "ambiguous", which would
      hide the score.
  """
  unknown = [name for name in alike if name not in names]
  if unknown:
    raise DataError(
      f"class {unknown[0]!r} of segment.alike is not in the data, whose classes"
      f" are {', '.join(names)}"
    )
  if len(set(alike)) < len(alike):
    raise DataError(f"segment.alike {tuple(alike)}: each class once")
  if alike and "ambiguous" in names:
    raise DataError(
      "a class is called 'ambiguous', as the score of segment.alike is: give it"
      " another name, or take segment.alike=()"
    )


def _ambiguous(pairs, names, alike) -> np.ndarray:
  """float64[V]: mean Dice of the classes that look alike, on their voxels."""
  check_alike(alike, names)
  labels = [list(names).index(name) + 1 for name in alike]
  masks = [np.isin(truth, labels) for truth, _ in pairs]
  table = np.array(_dice_inside(pairs, masks, names), np.float64)
  return np.array([_mean(row[np.array(labels) - 1]) for row in table])


def _dice_inside(pairs, masks, names) -> list[list]:
  """Dice of every volume and class on the voxels of the volume's mask."""
  inside = [
    [np.where(mask, labels, 0) for labels in pair]
    for pair, mask in zip(pairs, masks, strict=True)
  ]
  return [_each_class(overlap.dice, *pair, names) for pair in inside]


def _each_class(metric, truth, prediction, names, *more) -> list:
  """The metric of the masks of every class in one volume."""
  truth, prediction = np.asarray(truth), np.asarray(prediction)
  return [
    metric(truth == label, prediction == label, *more)
    for label in range(1, len(names) + 1)
  ]


def _columns(start, rows, names, end="") -> dict[str, np.ndarray]:
  """{start + class + end: float64[V]} of V rows, None undefined, and their
  means."""
  table = np.array(rows, np.float64)  # None becomes nan
  scores = {f"{start}{n}{end}": table[:, c] for c, n in enumerate(names)}
  means = np.array([_mean(row) for row in table])
  return scores | {f"{start}mean{end}": means}


def _mean(values: np.ndarray) -> float:
  """Mean of the values that are not nan; nan if there is none."""
  defined = values[~np.isnan(values)]
  return defined.mean() if len(defined) else np.nan


def _check(truths, predictions, spacings, names) -> None:
  counts = len(truths), len(predictions), len(spacings)
  if not counts[0] or len(set(counts)) > 1:
    raise DataError(
      "volumes need as many truths as predictions and spacings, at least one,"
      f" got {counts[0]}, {counts[1]} and {counts[2]}"
    )
  if "mean" in names or len(set(names)) < len(names) or not names:
    raise DataError(f"class names must differ and not be 'mean': {names}")
  for v in range(counts[0]):
    shapes = np.shape(truths[v]), np.shape(predictions[v])
    if len(shapes[0]) != 3 or shapes[0] != shapes[1]:
      raise DataError(
        f"volume {v}: truth and prediction must be int[S, H, W] of one shape,"
        f" got {shapes[0]} and {shapes[1]}"
      )
    for labels in (truths[v], predictions[v]):
      odd = np.setdiff1d(labels, np.arange(len(names) + 1))
      if len(odd):
        raise DataError(
          f"volume {v} holds label {odd[0]}, but {len(names)} classes are named"
        )
    spacing = np.asarray(spacings[v], float)
    if spacing.shape != (3,) or not (spacing > 0).all():
      raise DataError(
        f"volume {v}: spacing must be three sizes in mm, got {spacings[v]}"
      )


def _check_regions(regions, truths) -> None:
  for name, masks in regions.items():
    if len(masks) != len(truths):
      raise DataError(
        f"region {name!r}: {len(masks)} masks for {len(truths)} volumes, give"
        " one per volume"
      )
    for v, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
      mask = np.asarray(mask)
      if mask.shape != np.shape(truth) or mask.dtype != bool:
        raise DataError(
          f"region {name!r}, volume {v}: the mask must be bool of shape"
          f" {np.shape(truth)}, got {mask.dtype} of {mask.shape}"
        )
