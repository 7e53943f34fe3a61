"""Splits by patient, and checks for leaks between the parts of a split.

Functions take the group (patient) of every row. Results depend on the names of
the groups and the seed, not on the order of rows. Names with the same canonical
form (see `text`) are one group, and a warning reports them.
"""

import collections
import hashlib
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.source import Dataset
from gcl_jax.data.text import one_form, one_forms
from gcl_jax.errors import ConfigError, DataError


def limited(dataset: Dataset, groups: int) -> Dataset:
  """Keeps the first groups in the order of the SHA-256 of their names.

  A hash, not the file order: neighbouring folders often hold similar patients.
  A smaller limit keeps a subset of a larger one, and the choice depends on the
  names of the groups alone.

  Args:
    dataset: the whole data set.
    groups: number of groups (patients) to keep; 0 keeps all, as does any
      number above theirs.

  Returns:
    The data set of these groups, rows in their own order.

  Raises:
    DataError: a negative number.
  """
  if groups < 0:
    raise DataError(f"limit {groups}: give a number of patients, or 0 for all")
  if not groups:
    return dataset
  names = sorted(set(dataset.groups.tolist()), key=_name_hash)
  return dataset.select(np.isin(dataset.groups, names[:groups]))


def where(dataset: Dataset, conditions: Sequence[str]) -> Dataset:
  """Keeps the rows that fulfil every condition.

  Args:
    dataset: the whole data set.
    conditions: "COLUMN=VALUE" each; numbers are equal as numbers, and a blank
      value keeps rows whose cell is blank.

  Raises:
    ConfigError: a condition of another form.
    DataError: no such column, or no row that fulfils all.
  """
  kept = np.ones(len(dataset), bool)
  for condition in conditions:
    column, sign, value = condition.partition("=")
    if not sign:
      raise ConfigError(f"where {condition!r}: write COLUMN=VALUE")
    kept &= equals(dataset.column(column), value)
  if not kept.any():
    raise DataError(
      f"data set {dataset.name!r}: no row with {' and '.join(conditions)}"
    )
  return dataset if kept.all() else dataset.select(kept)


def equals(values: np.ndarray, text: str) -> np.ndarray:
  """bool[N]: which cells of a column are what is written.

  >>> equals(np.array([1.0, 2.0, np.nan]), "1").tolist()
  [True, False, False]
  """
  if values.dtype.kind not in "fiub":
    return values.astype(str) == one_form(text)
  if not text:
    return np.isnan(values.astype(float))
  try:
    return values.astype(float) == float(text)
  except ValueError:
    return np.zeros(len(values), bool)


def _name_hash(name: object) -> str:
  return hashlib.sha256(str(name).encode()).hexdigest()


def split_by_group(
  groups: np.ndarray,
  fraction: float,
  seed: int,
  stratify: np.ndarray | None = None,
) -> np.ndarray:
  """Draws whole groups for evaluation.

  Args:
    groups: [N], the group of each row.
    fraction: share of the rows to draw, in (0, 1); met as nearly as whole
      groups allow, within each stratum.
    seed: of the draw.
    stratify: [N] class of each row (nan is a class of its own); a group belongs
      to the most frequent class of its rows. Every class with at least two
      groups has one on both sides.

  Returns:
    bool [N], True = evaluation; never all or none of the rows.

  Raises:
    DataError: fraction outside (0, 1), or fewer than two groups.
  """
  _check_fraction(fraction, upper=1, closed=False)
  groups = one_forms(groups, "groups of a split")
  strata = _strata(groups, seed, stratify)
  if sum(len(names) for names, _ in strata) < 2:
    raise DataError("one group only: it cannot be on both sides of a split")
  chosen = []
  for names, sizes in strata:
    chosen += _nearest(names, sizes, fraction)
  # Strata of one group each can leave a side empty.
  chosen = chosen or strata[0][0][:1]
  mask = np.isin(groups, chosen)
  return np.isin(groups, chosen[1:]) if mask.all() else mask


def nested_fractions(
  groups: np.ndarray,
  fractions: Sequence[float],
  seed: int,
  stratify: np.ndarray | None = None,
) -> dict[float, np.ndarray]:
  """Draws nested training subsets of whole groups.

  Args:
    groups: [N], the group of each row.
    fractions: shares of the rows, in (0, 1]; reached or just passed within
      each stratum.
    seed: of the draw.
    stratify: as in `split_by_group`; every class has a group in every subset.

  Returns:
    fraction -> bool [N].

  Raises:
    DataError: a fraction outside (0, 1].
  """
  groups = one_forms(groups, "groups of a split")
  strata = _strata(groups, seed, stratify)
  masks = {}
  for fraction in fractions:
    _check_fraction(fraction, upper=1, closed=True)
    chosen = []
    for names, sizes in strata:
      # A rounding error of the sum must not add a group.
      goal = fraction * sizes.sum() * (1 - 1e-12)
      count = int(np.searchsorted(np.cumsum(sizes), goal)) + 1
      chosen += names[:count]
    masks[fraction] = np.isin(groups, chosen)
  return masks


def label_draw(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Draws a number of groups whose labels may be used.

  For the same groups and seed, a draw is a subset of every larger one.

  Args:
    groups: [N], the group of each row that may be drawn.
    count: number of groups to draw, 1 to all.
    seed: of the draw.

  Returns:
    bool [N], True = the row's group was drawn.

  Raises:
    DataError: fewer than one group, or more than there are.
  """
  groups = one_forms(groups, "groups of a split")
  ((names, _),) = _strata(groups, seed, None)
  if not 1 <= count <= len(names):
    raise DataError(
      f"cannot draw labels of {count} groups (patients) out of {len(names)}"
    )
  return np.isin(groups, names[:count])


def folds(
  groups: np.ndarray, k: int, seed: int, stratify: np.ndarray | None = None
) -> np.ndarray:
  """Assigns whole groups to k folds with nearly equal numbers of rows.

  Args:
    groups: [N], the group of each row.
    k: number of folds, at least 2.
    seed: of the draw.
    stratify: as in `split_by_group`; the groups of a class are spread over the
      folds, in numbers that differ by one at most.

  Returns:
    int32 [N], the fold of each row, 0 .. k - 1; no fold is empty.

  Raises:
    DataError: fewer groups than folds, or k below 2.
  """
  groups = one_forms(groups, "groups of a split")
  strata = _strata(groups, seed, stratify)
  count = sum(len(names) for names, _ in strata)
  if k < 2 or count < k:
    raise DataError(f"{count} groups cannot make {k} folds")
  loads, fold = np.zeros(k, int), {}
  for names, sizes in strata:
    taken = np.zeros(k, int)
    # Largest first onto the lightest fold; the sort is stable, so groups of
    # one size stay in random order.
    for i in np.argsort(-sizes, kind="stable"):
      fewest = taken == taken.min() if stratify is not None else loads >= 0
      lightest = int(np.flatnonzero(fewest)[np.argmin(loads[fewest])])
      fold[names[i]] = lightest
      loads[lightest] += sizes[i]
      taken[lightest] += 1
  return np.array([fold[name] for name in groups.tolist()], "i4")


def check_groups(
  groups: np.ndarray, parts: np.ndarray, allow: bool = False
) -> list[str]:
  """Refuses a group that has rows in more than one part.

  Args:
    groups: [N], the group of each row.
    parts: [N], the part of each row ("train", "eval" ...); "" is ignored.
    allow: return the groups instead of refusing them.

  Returns:
    The crossing groups, sorted; empty unless `allow`.

  Raises:
    DataError: a group is in two parts; the message lists up to 10.
  """
  groups = one_forms(groups, "groups of a split")
  parts = np.asarray(parts).astype(str)
  pairs = {
    (str(group), part)
    for group, part in zip(groups, parts.tolist(), strict=True)
    if part
  }
  counts = collections.Counter(group for group, _ in pairs)
  crossing = sorted(name for name, count in counts.items() if count > 1)
  if crossing and not allow:
    raise DataError(
      f"{len(crossing)} groups (patients) are in more than one part of the"
      f" split: {_listed(crossing)}; split by patient, or set"
      " allow_group_overlap to accept and report it"
    )
  return crossing


def check_duplicates(
  images: Sequence, parts: np.ndarray, ids: np.ndarray
) -> None:
  """Refuses byte-identical images in different parts.

  Args:
    images: N arrays, or N hashes of them (str or bytes).
    parts: [N], the part of each row; "" is ignored.
    ids: [N], for the message.

  Raises:
    DataError: identical images in two parts; lists up to 10 pairs of ids.
  """
  first: dict[str | bytes, dict[str, str]] = {}
  pairs = []
  rows = zip(images, np.asarray(parts).astype(str), ids, strict=True)
  for image, part, name in rows:
    if not part:
      continue
    seen = first.setdefault(_hashed(image), {})
    pairs += [f"{other} = {name}" for p, other in seen.items() if p != part]
    seen.setdefault(str(part), str(name))
  if pairs:
    raise DataError(
      f"{len(pairs)} images are byte-identical to one in another part of the"
      f" split: {_listed(pairs)}; set data.duplicates=drop to leave out those"
      " outside the evaluation part, or join their groups"
    )


def copies(
  hashes: Sequence[str], parts: np.ndarray, ids: np.ndarray
) -> dict[int, str]:
  """Finds rows outside the evaluation part whose image is also inside it.

  Args:
    hashes: N hashes of the images.
    parts: [N], the part of each row, "eval" for evaluation.
    ids: [N], of the images.

  Returns:
    row -> id of the evaluation image with the same bytes.
  """
  rows = list(zip(hashes, np.asarray(parts).tolist(), ids, strict=True))
  kept = {image: str(name) for image, part, name in rows if part == "eval"}
  return {
    row: kept[image]
    for row, (image, part, _) in enumerate(rows)
    if part != "eval" and image in kept
  }


def image_hash(image: np.ndarray) -> str:
  """SHA-256 of shape, dtype and bytes."""
  image = np.ascontiguousarray(image)
  head = f"{image.shape}{image.dtype.str}".encode()
  return hashlib.sha256(head + image.tobytes()).hexdigest()


def _hashed(image: np.ndarray | str | bytes) -> str | bytes:
  whole = isinstance(image, np.ndarray) and image.ndim
  return image_hash(image) if whole else image


def _strata(
  groups: np.ndarray, seed: int, stratify: np.ndarray | None
) -> list[tuple[list, np.ndarray]]:
  """Per class: the groups in random order, and their numbers of rows."""
  names, of_row, sizes = np.unique(
    groups, return_inverse=True, return_counts=True
  )
  classes = np.zeros(len(names), int)
  if stratify is not None:
    _, of_class = np.unique(stratify, return_inverse=True)
    counts = np.zeros((len(names), of_class.max() + 1), int)
    np.add.at(counts, (of_row, of_class), 1)
    classes = counts.argmax(1)
  order = np.random.default_rng(seed).permutation(len(names))
  return [
    (names[members].tolist(), sizes[members])
    for members in (order[classes[order] == c] for c in np.unique(classes))
  ]


def _nearest(names: list, sizes: np.ndarray, fraction: float) -> list:
  """Takes groups in order while each brings the sum closer to the goal."""
  goal, taken, chosen = fraction * sizes.sum(), 0, []
  for name, size in zip(names, sizes, strict=True):
    if taken + size / 2 <= goal:
      chosen.append(name)
      taken += size
  if len(names) < 2:
    return [] if fraction < 0.5 else chosen
  # Both sides of a class need a group.
  return (chosen or names[:1])[: len(names) - 1]


def _check_fraction(fraction: float, upper: float, closed: bool) -> None:
  inside = 0 < fraction < upper or (closed and fraction == upper)
  if not inside:
    end = "]" if closed else ")"
    raise DataError(f"fraction {fraction} is not in (0, {upper}{end}")


def _listed(names: list[str]) -> str:
  more = f" and {len(names) - 10} more" if len(names) > 10 else ""
  return ", ".join(names[:10]) + more
