"""The data sets of a run, and the part of the split that each row is in."""

import dataclasses
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import splits
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError

PARTS = ("train", "eval", "ood")
OURS = ("part", "pool", "row", "set", "hash")  # columns that stage data adds


class Source(NamedTuple):
  """A data set of a run.

  Attributes:
    dataset: its images and their table.
    part: str[N], one of `PARTS` for each row.
    pool: whether pre-training may see it.
  """

  dataset: Dataset
  part: np.ndarray
  pool: bool = True


def parts(dataset: Dataset, config: ConfigDict) -> np.ndarray:
  """The part of every row, str[N], whole groups in train or eval.

  Rows that `config.ood` names are "ood". The others follow the data set's own
  split where they have one. A row without one follows its group if that is in
  one part only. The remaining groups are drawn, those with class maps where
  some have none, stratified by the healthy column where there is one.

  Args:
    dataset: with the columns `group` and, where known, `split`, `healthy` and
      `labelled`.
    config: a data section: `ood`, `eval_fraction`, `split_seed`.

  Raises:
    ConfigError: `ood` names no column or splits nothing off.
    DataError: a split that is neither train nor eval, or one group only.
  """
  part = _own_split(dataset)
  if config.get("ood"):
    part[_out_of_distribution(dataset, config.ood)] = "ood"
  groups = dataset.groups
  for name, other in (("train", "eval"), ("eval", "train")):
    inside, outside = (groups[part == side] for side in (name, other))
    alone = np.isin(groups, inside) & ~np.isin(groups, outside)
    part[(part == "") & alone] = name
  labelled = np.ones(len(dataset), bool)
  if dataset.read_mask is not None and "labelled" in dataset.table:
    labelled = dataset.table["labelled"] > 0
  rest = np.flatnonzero((part == "") & labelled)
  one_group = len(set(groups[rest].tolist())) == 1 and len(rest) < len(part)
  if len(rest) and not one_group:
    healthy = dataset.table.get("healthy")
    held_out = splits.split_by_group(
      groups[rest],
      config.eval_fraction,
      config.split_seed,
      stratify=None if healthy is None else np.asarray(healthy)[rest],
    )
    drawn = np.unique(groups[rest[held_out]])
    part[(part == "") & np.isin(groups, drawn)] = "eval"
  part[part == ""] = "train"
  return part


def apart(dataset: Dataset, prefix: str) -> Dataset:
  """The same rows with ids, groups and volumes that no other set can have."""
  table = dict(dataset.table)
  for name in {"id", "group", "volume"} & set(table):
    table[name] = np.array([f"{prefix}:{value}" for value in table[name]])
  return dataclasses.replace(dataset, table=table)


def renamed(dataset: Dataset) -> Dataset:
  """A column with the name of one of `OURS` becomes `<name>_in_table`."""

  def new(name):
    return f"{name}_in_table" if name in OURS else name

  return dataclasses.replace(
    dataset,
    table={new(name): values for name, values in dataset.table.items()},
    labels=tuple(map(new, dataset.labels)),
    meta=tuple(map(new, dataset.meta)),
  )


def _own_split(dataset: Dataset) -> np.ndarray:
  """train, eval or "" by the data set's own column."""
  count = len(dataset)
  own = np.asarray(dataset.table.get("split", np.full(count, "")))
  if own.dtype.kind == "f":  # a column of blanks reads as numbers
    own = np.where(np.isnan(own), "", own.astype(str))
  odd = sorted(set(own.tolist()) - {"", "train", "eval"})
  if odd:
    raise DataError(
      f"data set {dataset.name!r}: split {odd[0]!r} is neither train nor eval"
    )
  return own.astype("U5")


def _out_of_distribution(dataset: Dataset, wanted: str) -> np.ndarray:
  column, _, value = wanted.partition("=")
  found = splits.equals(dataset.column(column), value)
  if not value or not found.any() or found.all():
    raise ConfigError(
      f"data.ood {wanted!r}: write COLUMN=VALUE so that some rows have the"
      " value and others do not"
    )
  return found
