"""Segmentation scores by volume and class: Dice and HD95 in mm.

Slices of a volume share a patient, and small classes occur in few of them, so
the unit is the volume, not the slice or the pooled pixels of a fold.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gcl_jax.data.text import one_forms
from gcl_jax.errors import DataError
from gcl_jax.evaluation import overlap


def volume_scores(
  truths: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  spacings: Sequence[Sequence[float]],
  names: Sequence[str],
  regions: Mapping[str, Sequence[np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
  """Dice and HD95 of every volume, by class and as mean over classes.

  Args:
    truths: V label maps int[S, H, W], sizes may differ; 0 is the background.
    predictions: V label maps, each of its truth's shape.
    spacings: V times (slice, row, column) size of a voxel, in mm.
    names: of the foreground classes, labels 1 to len(names).
    regions: name -> V masks bool[S, H, W], each of its truth's shape, for Dice
      on the voxels inside alone, such as those where a model is unsure.

  Returns:
    "dice/<name>" in [0, 1] and "hd95/<name>" in mm, float64[V] each, nan where
    undefined: Dice where truth and prediction are both empty, HD95 where
    either is. "dice/mean" and "hd95/mean" are the means over the classes that
    are defined in that volume. For every region also "dice/<name>@<region>"
    and "dice/mean@<region>", nan where both are empty inside the region.

  Raises:
    DataError: no volume, lists of different length, shapes that differ, labels
      that have no name, spacing that is not three positive numbers, a region
      whose masks do not fit the truths or are not bool.
  """
  _check(truths, predictions, spacings, names)
  _check_regions(regions or {}, truths)
  pairs = list(zip(truths, predictions, strict=True))
  dice = [_each_class(overlap.dice, *pair, names) for pair in pairs]
  hd95 = [
    _each_class(partial(overlap.hd95, spacing=spacing), *pair, names)
    for pair, spacing in zip(pairs, spacings, strict=True)
  ]
  scores = _columns("dice/", dice, names) | _columns("hd95/", hd95, names)
  for region, masks in (regions or {}).items():
    inside = [
      [np.where(mask, labels, 0) for labels in pair]
      for pair, mask in zip(pairs, masks, strict=True)
    ]
    dice = [_each_class(overlap.dice, *pair, names) for pair in inside]
    scores |= _columns("dice/", dice, names, f"@{region}")
  return scores


def mean_over_fits(
  values: np.ndarray,
  groups: np.ndarray,
  *,
  draws: int | None = None,
  samples: int = 1000,
  seed: int = 0,
) -> dict[str, float | int | None]:
  """Mean over fits, volumes and classes, with a 95 % interval.

  The labelled patients and the seed contribute as much variance as the test
  patients, so each bootstrap sample resamples the draws of labelled patients,
  the seeds and the test patients, each separately: fits of one draw are not
  independent. Few draws or seeds make the intervals too narrow.

  Args:
    values: float64[K, F, V] of K classes, F fine-tunes, V volumes; nan if
      undefined. For a gain, the paired differences.
    groups: [V], the patients.
    draws: number D of draws; fits are then in order of draw and seed, F / D
      seeds each. None treats every fit as a separate draw.
    samples, seed: of the bootstrap.

  Returns:
    {value, low, high, n}: n is the number of volumes; low and high are None for
    a single fine-tune or patient.

  Raises:
    ValueError: F is not a multiple of `draws`.
  """
  _, fits, volumes = values.shape
  draws = fits if draws is None else draws
  if fits % draws:
    raise ValueError(f"{fits} fits are not {draws} draws times some seeds")
  groups = one_forms(groups, "groups")
  names, codes = np.unique(groups, return_inverse=True)
  result = {
    "value": _weighted(values, np.ones((1, fits)), np.ones((1, volumes)))[0],
    "low": None,
    "high": None,
    "n": volumes,
  }
  if not np.isfinite(result["value"]):
    return result | {"value": None}
  if fits > 1 and len(names) > 1:
    rng = np.random.default_rng(seed)
    of_draws, of_seeds, of_groups = (
      rng.multinomial(count, np.full(count, 1 / count), samples)
      for count in (draws, fits // draws, len(names))
    )
    of_fits = of_draws[:, :, None] * of_seeds[:, None, :]
    of_fits = of_fits.reshape(samples, fits)
    means = _weighted(values, of_fits, of_groups[:, codes])
    low, high = np.nanquantile(means, (0.025, 0.975))
    result |= {"low": float(low), "high": float(high)}
  return result | {"value": float(result["value"])}


def _each_class(metric, truth, prediction, names) -> list[float]:
  """The metric of the masks of every class in one volume, nan if undefined."""
  truth, prediction = np.asarray(truth), np.asarray(prediction)
  values = [
    metric(truth == label, prediction == label)
    for label in range(1, len(names) + 1)
  ]
  return [np.nan if value is None else value for value in values]


def _columns(start, rows, names, end="") -> dict[str, np.ndarray]:
  """{start + class + end: float64[V]} of V rows, and their means."""
  table = np.array(rows, np.float64)
  scores = {f"{start}{n}{end}": table[:, c] for c, n in enumerate(names)}
  means = np.array([_mean(row) for row in table])
  return scores | {f"{start}mean{end}": means}


def _weighted(values, of_fits, of_volumes) -> np.ndarray:
  """Mean of the defined values by weights [S, F] and [S, V], then over the
  defined classes, [S]."""
  known = ~np.isnan(values)
  filled = np.where(known, values, 0.0)
  add = "kfv,sf,sv->sk"
  total = np.einsum(add, filled, of_fits, of_volumes, optimize=True)
  count = np.einsum(
    add, known.astype(float), of_fits, of_volumes, optimize=True
  )
  means = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
  some = ~np.isnan(means)
  sums = np.where(some, means, 0).sum(axis=1)
  return np.where(
    some.any(axis=1), sums / np.maximum(some.sum(axis=1), 1), np.nan
  )


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
