"""Samplers: functions `step -> int64[B]` that choose the rows of a batch.

A sampler is a function of the seed and the number of the step alone, so a
resumed run goes on as the unbroken one would have. `feed.batches_from` reads
the rows.
"""

from collections.abc import Callable

import grain
import numpy as np

from gcl_jax.errors import ConfigError, DataError

Sampler = Callable[[int], np.ndarray]


def shuffled(rows: np.ndarray, batch_size: int, seed: int) -> Sampler:
  """A sampler of every row once an epoch, in a new order every epoch.

  Args:
    rows: int[M], to draw from.
    batch_size: B <= M; what fills no batch at the end of an epoch is dropped.
    seed: of the order, from 0 to 2**32 - 1.

  Raises:
    DataError: fewer rows than a batch.
  """
  _check_enough(len(rows), batch_size)
  order = grain.MapDataset.source(rows).seed(seed).shuffle()
  order = order.batch(batch_size, drop_remainder=True).repeat()
  return lambda step: order[step]


def by_group(
  rows: np.ndarray, groups: np.ndarray, batch_size: int, count: int, seed: int
) -> Sampler:
  """A sampler of equally many rows of each of `count` groups, group by group.

  Rows of one group then meet on one device where the devices divide `count`.

  Args:
    rows: int[M], to draw from.
    groups: [M], the group (patient) of each.
    batch_size: B, a multiple of `count`.
    count: groups of a batch; a group of too few rows gives some twice.
    seed: of the draws.

  Raises:
    DataError: fewer rows than a batch, or fewer groups than `count`.
  """
  _check_enough(len(rows), batch_size)
  names = sorted(set(groups.tolist()))
  if len(names) < count:
    raise DataError(
      f"{len(names)} groups are fewer than the {count} of a batch: choose fewer"
      " or provide more data"
    )
  members = [rows[groups == name] for name in names]
  share = batch_size // count

  def rows_at(step: int) -> np.ndarray:
    draw = np.random.default_rng((seed, step))
    chosen = draw.choice(len(names), count, replace=False)
    return np.concatenate(
      [
        draw.choice(members[k], share, replace=len(members[k]) < share)
        for k in chosen
      ]
    )

  return rows_at


def by_label(
  rows: np.ndarray, labels: np.ndarray, batch_size: int, count: int, seed: int
) -> Sampler:
  """A sampler of `count` images a label, so that most anchors have positives.

  B / K labels are drawn independently, each with probability proportional to
  its images, and K images from each, so that (small labels apart) every image
  is seen equally often. A label drawn m times gives m * K different images.
  What a label is short of is filled from the images nearest in label number,
  which keep their own labels. No row comes twice in a batch, and the rows are
  in random order.

  Args:
    rows: int[M], to draw from.
    labels: int[M] >= 0, of the rows, ordered by severity.
    batch_size: B <= M, over all devices and processes.
    count: K >= 1, divides B.
    seed: of the draws.

  Raises:
    ConfigError: K does not divide B.
    DataError: fewer rows than a batch.
  """
  labels, counts = np.asarray(labels), np.bincount(labels)
  if count < 1 or batch_size % count:
    raise ConfigError(
      f"images_per_bin={count} must divide batch_size={batch_size}"
    )
  _check_enough(len(rows), batch_size)

  def rows_at(step: int) -> np.ndarray:
    rng = np.random.default_rng((seed, step))
    share = counts / len(labels)
    draws = rng.multinomial(batch_size // count, share) * count
    # Only rows of drawn labels are looked at: a step must not wait for a sort
    # of the whole pool.
    near = np.flatnonzero((draws > 0)[labels])
    free = np.ones(len(labels), bool)
    for target in np.flatnonzero(draws):
      members = near[labels[near] == target]
      take = min(draws[target], counts[target])
      free[rng.choice(members, take, replace=False)] = False
    for target in np.flatnonzero(draws > counts):
      _fill(free, labels, target, draws[target] - counts[target], rng)
    return rows[rng.permutation(np.flatnonzero(~free))]

  return rows_at


def side_by_side(**samplers: Sampler) -> Callable[[int], dict[str, np.ndarray]]:
  """A sampler of several pools, each drawn by a sampler of its own.

  Pools of one size and one seed would be drawn in the same order: give each
  its own seed, unless the rows belong together.

  >>> rows_at = side_by_side(oct=lambda step: [step], fundus=lambda step: [9])
  >>> rows_at(7)
  {'oct': [7], 'fundus': [9]}

  Args:
    **samplers: name of the pool -> its sampler, step -> int[B of the pool].

  Returns:
    step -> {name: rows}, as `feed.batches_from` takes it with arrays {name:
    {...}}.
  """
  return lambda step: {name: rows(step) for name, rows in samplers.items()}


def _fill(free, labels, target, missing, rng) -> None:
  """Takes the `missing` free rows nearest in label, ties at random."""
  rows = rng.permutation(np.flatnonzero(free))
  distance = np.abs(labels[rows].astype(np.int64) - int(target))
  free[rows[np.argsort(distance, kind="stable")[:missing]]] = False


def _check_enough(rows: int, batch_size: int) -> None:
  if rows < batch_size:
    raise DataError(
      f"{rows} rows are fewer than one batch of {batch_size}: choose a smaller"
      " batch size or provide more data"
    )
