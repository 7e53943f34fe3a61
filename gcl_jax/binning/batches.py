"""Batches that keep images of one bin together."""

import numpy as np

from gcl_jax.errors import ConfigError, DataError


def bin_aware_batch(
  labels: np.ndarray,
  step: int,
  *,
  batch_size: int,
  images_per_bin: int,
  seed: int,
) -> np.ndarray:
  """Rows of one batch in which most anchors have same-bin positives.

  B / K bins are drawn independently, each with probability proportional to its
  size, and K images from each, so that (small bins apart) every image is seen
  equally often. A bin drawn m times gives m * K different images. What a bin
  is short of is filled from the images nearest in bin number, which keep
  their own labels. No row comes twice, and the rows are in random order. The
  batch depends on (seed, step) and `labels` only: a resumed run goes on as the
  unbroken one would have.

  Args:
    labels: int[N] >= 0, bin labels, ordered by severity.
    step: number of the training step.
    batch_size: B <= N, all devices and processes together.
    images_per_bin: K >= 1, divides B.
    seed: of the run.

  Returns:
    int64[B] rows, all different.

  Raises:
    ConfigError: K does not divide B.
    DataError: fewer images than B.
  """
  labels = np.asarray(labels)
  if images_per_bin < 1 or batch_size % images_per_bin:
    raise ConfigError(
      f"images_per_bin={images_per_bin} must divide batch_size={batch_size}"
    )
  if batch_size > len(labels):
    raise DataError(
      f"a batch of {batch_size} needs as many images, the pool has"
      f" {len(labels)}: take a smaller batch_size"
    )
  rng = np.random.default_rng((seed, step))
  counts = np.bincount(labels)
  groups = batch_size // images_per_bin
  draws = rng.multinomial(groups, counts / len(labels)) * images_per_bin
  # Only rows of drawn bins are looked at: a step must not wait for a sort of
  # the whole pool.
  rows = np.flatnonzero((draws > 0)[labels])
  free = np.ones(len(labels), bool)
  for target in np.flatnonzero(draws):
    members = rows[labels[rows] == target]
    take = min(draws[target], counts[target])
    free[rng.choice(members, take, replace=False)] = False
  for target in np.flatnonzero(draws > counts):
    _fill(free, labels, target, draws[target] - counts[target], rng)
  return rng.permutation(np.flatnonzero(~free))


def _fill(free, labels, target, missing, rng) -> None:
  """Takes the `missing` free rows nearest in label, ties at random."""
  rows = rng.permutation(np.flatnonzero(free))
  distance = np.abs(labels[rows].astype(np.int64) - int(target))
  free[rows[np.argsort(distance, kind="stable")[:missing]]] = False
