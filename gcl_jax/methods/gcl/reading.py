"""Stage `data`: read every slice once, prepare it, and decide who is where.

Leaves uint8 slices of one size and in-plane spacing, their class maps, and a
table that says for each slice its volume, patient, part and meta labels.
Patients kept for evaluation, and those of the out-of-distribution set, are in
no training of any kind under the strict protocol.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from gcl_jax import data
from gcl_jax.data import formats, slice_geometry, splits
from gcl_jax.data.source import Dataset
from gcl_jax.data.text import one_form
from gcl_jax.engine import feed
from gcl_jax.engine.tables import joined, keep_rows, pack
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.gcl import copies


def run(context: Any) -> dict[str, Any]:
  """Reads, prepares and splits; returns the table (the artifact)."""
  config = context.config
  sets = datasets(config, context.dataset)
  _check_classes(sets)
  kept, facts = _read_all(context, [dataset for dataset, _ in sets])
  table = _merged(sets, kept)
  voxels = np.array(facts["voxels"], int).reshape(-1, 2)
  table |= {"labelled_voxels": voxels[:, 0], "cropped_voxels": voxels[:, 1]}
  splits.check_groups(table["group"], table["part"])
  rows, copied = copies.rows_left(
    table, facts["hashes"], config.data.duplicates
  )
  folder = context.workdir / "data"
  return {
    "table": pack({name: values[rows] for name, values in table.items()}),
    "classes": np.array(sets[0][0].classes, str),
    "quarantine": np.array(facts["bad"] + copied, dtype=str),
    "images_sha256": np.array(keep_rows(folder / "images.npy", rows)),
    "masks_sha256": np.array(keep_rows(folder / "masks.npy", rows)),
  }


def datasets(config: Any, dataset: Dataset) -> list[tuple[Dataset, np.ndarray]]:
  """The data sets of a run, and train, eval or ood for each of their slices.

  Raises:
    ConfigError: `data.ood` names no column, or nobody.
    DataError: too few patients to split.
  """
  main = limited(dataset, config.data.limit)
  found = [(main, parts(main, config.data))]
  if config.ood_data.name:
    other = limited(data.load(config.ood_data), config.ood_data.limit)
    table = dict(other.table)
    for name in ("id", "group", "volume"):
      table[name] = np.array([f"ood:{value}" for value in table[name]])
    other = dataclasses.replace(other, table=table)
    found.append((other, np.full(len(other), "ood")))
  return found


def limited(dataset: Dataset, count: int) -> Dataset:
  """The slices of the first `count` patients, or everything for 0."""
  if not count:
    return dataset
  names = list(dict.fromkeys(dataset.groups.tolist()))
  return dataset.select(np.isin(dataset.groups, names[:count]))


def parts(dataset: Dataset, config: Any) -> np.ndarray:
  """train, eval or ood of every slice, whole patients in one part.

  The data set's own split where it has one; otherwise patients with labels are
  drawn for evaluation.
  """
  part = np.full(len(dataset), "train", "U5")
  if config.ood:
    part[_out_of_distribution(dataset, config.ood)] = "ood"
  own = np.asarray(dataset.table.get("split", np.full(len(part), "")))
  odd = sorted(set(own.tolist()) - {"", "train", "eval"})
  if odd:
    raise DataError(
      f"data set {dataset.name!r}: split {odd[0]!r} is neither train nor eval"
    )
  part[(part != "ood") & (own == "eval")] = "eval"
  if not (own != "").any():
    labelled = dataset.table.get("labelled", np.ones(len(part))) > 0
    rest = np.flatnonzero((part == "train") & labelled)
    held_out = splits.split_by_group(
      dataset.groups[rest], config.eval_fraction, config.split_seed
    )
    drawn = np.unique(dataset.groups[rest[held_out]])
    part[(part == "train") & np.isin(dataset.groups, drawn)] = "eval"
  return part


def _out_of_distribution(dataset: Dataset, wanted: str) -> np.ndarray:
  column, _, value = wanted.partition("=")
  found = dataset.column(column).astype(str) == one_form(value)
  if not value or not found.any() or found.all():
    raise ConfigError(
      f"data.ood {wanted!r}: write COLUMN=VALUE so that some slices have the"
      " value and others do not"
    )
  return found


def _check_classes(sets: list) -> None:
  first = sets[0][0]
  for dataset, _ in sets:
    if dataset.read_mask is None:
      raise DataError(
        f"data set {dataset.name!r} has no class maps to segment: choose a set"
        " of volumes with labels (heart, hippocampus, acdc, ...)"
      )
    if set(dataset.classes) != set(first.classes):
      raise DataError(
        f"data sets {first.name!r} and {dataset.name!r} have other classes:"
        f" {first.classes} and {dataset.classes}"
      )


def _read_all(
  context: Any, sets: list[Dataset]
) -> tuple[list, dict[str, list]]:
  """images.npy and masks.npy, which begin with the slices that can be read.

  Returns:
    The rows kept of each set, and facts: `hashes` and `voxels` (labelled, cut
    away) of the slices kept, and `bad`, (id, reason) of the others.
  """
  config = context.config
  size, total = tuple(config.preprocess.size), sum(map(len, sets))
  folder = context.workdir / "data"
  folder.mkdir(parents=True, exist_ok=True)
  images = _file(folder / "images.npy", (total, *size, 1))
  masks = _file(folder / "masks.npy", (total, *size))
  kept, count = [[] for _ in sets], 0
  facts = {"hashes": [], "voxels": [], "bad": []}
  with context.telemetry.progress(total, "data") as bar:
    for number, dataset in enumerate(sets):
      codes = [sets[0].classes.index(name) + 1 for name in dataset.classes]
      read = functools.partial(
        _read, dataset, config.preprocess, np.array([0, *codes], np.uint8)
      )
      for row, found in enumerate(
        feed.mapped(read, len(dataset), config.workers)
      ):
        bar.update(1)
        if isinstance(found, DataError):
          facts["bad"].append((str(dataset.ids[row]), str(found)))
          if len(facts["bad"]) > config.data.max_bad:
            raise DataError(
              f"more than data.max_bad={config.data.max_bad} slices cannot be"
              f" read; the last: {found}"
            )
          continue
        images[count, :, :, 0], masks[count], voxels = found
        facts["voxels"].append(voxels)
        facts["hashes"].append(splits.image_hash(found[0]))
        kept[number].append(row)
        count += 1
  images.flush()
  masks.flush()
  return kept, facts


def _file(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  return np.lib.format.open_memmap(path, "w+", np.uint8, shape)


def _read(dataset: Dataset, config: Any, codes: np.ndarray, row: int):
  """The prepared slice, its class map and its labelled voxels, all and those
  cut away; or what is wrong with it."""
  spacing = spacing_of(dataset.table, row)
  try:
    image = formats.to_uint8(dataset.read(row))
    mask, voxels = None, (0, 0)
    if dataset.table.get("labelled", np.ones(len(dataset)))[row]:
      mask = codes[dataset.read_mask(row)]
      voxels = int((mask > 0).sum()), cropped(mask, spacing, config)
    return *prepared(image, mask, spacing, config), voxels
  except DataError as error:
    return error


def prepared(
  image: np.ndarray,
  mask: np.ndarray | None,
  spacing: tuple[float, float],
  config: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """One slice by `config.preprocess`: uint8 [H, W] and its class map."""
  image, mask = slice_geometry.prepare_slice(
    image,
    mask,
    spacing,
    tuple(config.spacing) or None,
    tuple(config.size),
  )
  return image, np.zeros_like(image) if mask is None else mask


def cropped(mask: np.ndarray, spacing: tuple, config: Any) -> int:
  """Labelled voxels [H, W] of a stored slice that no prediction can reach."""
  reached = slice_geometry.restore(
    np.ones(tuple(config.size), np.uint8),
    mask.shape,
    spacing,
    tuple(config.spacing) or None,
  )
  return int(((mask > 0) & (reached == 0)).sum())


def spacing_of(table: dict[str, np.ndarray], row: int) -> tuple[float, float]:
  """(y, x) of a slice in mm."""
  return float(table["spacing_y"][row]), float(table["spacing_x"][row])


def _merged(sets: list, kept: list) -> dict[str, np.ndarray]:
  """The columns of all sets, of the rows kept; see `tables.joined`."""
  tables = []
  for number, ((dataset, part), rows) in enumerate(
    zip(sets, kept, strict=True)
  ):
    columns = {"labelled": np.ones(len(dataset)), **dataset.table}
    columns |= {"part": part, "row": np.arange(len(dataset))}
    columns["set"] = np.full(len(dataset), number)
    columns.pop("split", None)
    rows = np.array(rows, int)
    tables.append({name: values[rows] for name, values in columns.items()})
  return joined(tables)
