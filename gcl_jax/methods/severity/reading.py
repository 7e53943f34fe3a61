"""Stage `data`: read every image once, prepare it, and decide who is where.

Leaves uint8 images of one size, and a table that says for each image its id,
its group, its part (train or eval), whether it belongs to the pre-training
pool, and its labels. Everything after this stage joins by image id.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from gcl_jax import data
from gcl_jax.data import formats, near_copies, preprocess, splits
from gcl_jax.data.source import Dataset
from gcl_jax.engine import feed
from gcl_jax.engine.tables import joined, keep_rows, pack
from gcl_jax.errors import DataError
from gcl_jax.evaluation import baselines

OURS = ("part", "pool")  # columns that this stage adds
SAMPLES = 6  # scans whose way through the preparation the report shows


def run(context: Any) -> dict[str, Any]:
  """Reads, prepares and splits; returns the table (the artifact)."""
  config = context.config
  pool = _renamed(limited(context.dataset, config.data.limit))
  part = parts(pool, config.data, config.seed)
  sets = [(pool, part, np.ones(len(pool), bool))]
  if config.healthy_data.name:
    healthy = _renamed(_only_healthy(data.load(config.healthy_data)))
    healthy = _apart(healthy)
    healthy = limited(healthy, config.healthy_data.limit)
    sets.append(
      (healthy, np.full(len(healthy), "train"), np.zeros(len(healthy), bool))
    )
  overlap = splits.check_groups(
    pool.groups, part, allow=config.data.allow_group_overlap
  )
  images, kept, facts = _read_all(context, sets)
  if not kept[0]:
    raise DataError(f"no image could be read; the first: {facts['bad'][0][1]}")
  table = _merge(sets, kept)
  if config.data.duplicates == "drop":
    table, images = _without_copies(context, table, facts)
  splits.check_duplicates(facts["hashes"], table["part"], table["id"])
  if config.score.source == "autoencoder":
    _check_healthy(table)
  return {
    "table": pack(table),
    "labels": np.array(pool.labels, str),
    "meta": np.array(pool.meta, str),
    "texture": np.stack(facts["texture"]),
    "raw_samples": facts["raw"],
    "sample_rows": np.array(facts["rows"]),
    "quarantine": np.array(facts["bad"], dtype=str),
    "near_copies": np.array(_near_copies(context, table), dtype=str),
    "overlapping_groups": np.array(overlap or [], dtype=str),
    "images_sha256": np.array(images),
    "fingerprint": np.array(pool.fingerprint()),
  }


def limited(dataset: Dataset, groups: int) -> Dataset:
  """The first `groups` groups in the order of a hash, or everything for 0.

  A hash and not the file order: neighbours in a folder are often alike.
  """
  if not groups:
    return dataset
  names = sorted(set(dataset.groups.tolist()), key=_stable_hash)
  return dataset.select(np.isin(dataset.groups, names[:groups]))


def _stable_hash(name: Any) -> str:
  return hashlib.sha256(str(name).encode()).hexdigest()


def parts(dataset: Dataset, config: Any, seed: int) -> np.ndarray:
  """ "train" or "eval" for every row, whole groups in one part.

  The data set's own split where a row has one. A row without follows its
  group where that is in one part only; the other groups are drawn at random,
  stratified by the healthy column where there is one.
  """
  named = np.asarray(dataset.table.get("split", np.full(len(dataset), "")))
  part, groups = np.array(named, "U5"), dataset.groups
  for name, other in (("train", "eval"), ("eval", "train")):
    mine, theirs = groups[named == name], groups[named == other]
    part[(part == "") & np.isin(groups, mine) & ~np.isin(groups, theirs)] = name
  open_ = np.flatnonzero(part == "")
  if len(set(groups[open_].tolist())) == 1 and len(open_) < len(part):
    part[open_] = "train"
  elif len(open_):
    healthy = dataset.table.get("healthy")
    held_out = splits.split_by_group(
      groups[open_],
      config.eval_fraction,
      seed,
      stratify=None if healthy is None else np.asarray(healthy)[open_],
    )
    part[open_] = np.where(held_out, "eval", "train")
  return part


def _only_healthy(dataset: Dataset) -> Dataset:
  """Its healthy scans, those of a published evaluation part left alone."""
  if "healthy" not in dataset.table:
    raise DataError(
      f"healthy_data {dataset.name!r} does not say which scans are healthy:"
      " name the column (or class) with --config.healthy_data.healthy_column"
    )
  chosen = np.asarray(dataset.table["healthy"]) == 1
  if "split" in dataset.table:
    chosen &= np.asarray(dataset.table["split"]) != "eval"
  return dataset.select(chosen)


def _apart(dataset: Dataset) -> Dataset:
  """Ids and groups that cannot be those of the pool by accident."""
  table = dict(dataset.table)
  for name in ("id", "group"):
    table[name] = np.array([f"healthy_data:{v}" for v in table[name]])
  return dataclasses.replace(dataset, table=table)


def _check_healthy(table: dict[str, np.ndarray]) -> None:
  if not np.any((table["healthy"] == 1) & (table["part"] == "train")):
    raise DataError(
      "no healthy image in the training part: the autoencoder needs some;"
      " name the column with --config.data.healthy_column or give a second"
      " data set with --config.healthy_data.name"
    )


def _without_copies(context: Any, table: dict, facts: dict) -> tuple:
  """Leaves out training images that are evaluation images too.

  Returns:
    The table and the SHA-256 of the images that are left; `facts` follows.
  """
  copies = splits.copies(facts["hashes"], table["part"], table["id"])
  left = np.setdiff1d(np.arange(len(table["id"])), list(copies))
  for row, twin in copies.items():
    reason = f"same bytes as {twin} of the evaluation part"
    facts["bad"].append((str(table["id"][row]), reason))
  for name in ("hashes", "texture"):
    facts[name] = [facts[name][row] for row in left]
  samples = [
    (np.searchsorted(left, row), facts["raw"][f"{number}"])
    for number, row in enumerate(facts["rows"])
    if row not in copies
  ]
  facts["rows"] = [row for row, _ in samples]
  facts["raw"] = {f"{i}": raw for i, (_, raw) in enumerate(samples)}
  sha256 = keep_rows(context.workdir / "data" / "images.npy", left)
  return {name: values[left] for name, values in table.items()}, sha256


def _read_all(context: Any, sets: list) -> tuple[str, list, dict[str, Any]]:
  """Reads and prepares every image into images.npy, one pass, bad ones out.

  Returns:
    The SHA-256 of the images, the rows kept of each set, and the facts that
    only the stored image shows: hashes, texture, samples, bad files.
  """
  config = context.config
  size = tuple(config.preprocess.size)
  total = sum(len(dataset) for dataset, *_ in sets)
  path = context.workdir / "data" / "images.npy"
  path.parent.mkdir(parents=True, exist_ok=True)
  images = np.lib.format.open_memmap(path, "w+", np.uint8, (total, *size, 1))
  facts = {"hashes": [], "texture": [], "bad": [], "raw": {}, "rows": []}
  # Samples are spread over the first set.
  chosen = set(np.linspace(0, len(sets[0][0]) - 1, SAMPLES).astype(int))
  kept, count = [[] for _ in sets], 0
  with context.telemetry.progress(total, "data") as bar:
    for number, (dataset, *_) in enumerate(sets):
      read = functools.partial(_read, dataset, config)
      for row, found in enumerate(
        feed.mapped(read, len(dataset), config.workers)
      ):
        bar.update(1)
        if isinstance(found, DataError):
          _note_bad(dataset, row, found, facts["bad"], config)
          continue
        raw, images[count, :, :, 0], sha256, texture = found
        facts["hashes"].append(sha256)
        facts["texture"].append(texture)
        if number == 0 and row in chosen:
          facts["raw"][f"{len(facts['rows'])}"] = raw
          facts["rows"].append(count)
        kept[number].append(row)
        count += 1
  images.flush()
  del images
  return keep_rows(path, np.arange(count)), kept, facts


def _near_copies(context: Any, table: dict) -> list[tuple]:
  """Evaluation images that look like a training image, to be warned of."""
  if not context.config.data.near_copies:
    return []
  path = context.workdir / "data" / "images.npy"
  images = np.load(path, mmap_mode="r")
  found = near_copies.near_copies(images, table["part"], table["id"])
  if found:
    first = found[0]
    context.telemetry.say(
      f"data: {len(found)} evaluation images look like a training image"
      f" ({first.evaluation} and {first.training} for one); see the report"
    )
  return [(a, b, f"{value:.3f}") for a, b, value in found]


def _texture(raw: np.ndarray) -> np.ndarray:
  return baselines.texture_features([raw], [raw.shape[:2]])[0]


def prepared(raw: np.ndarray, config: Any) -> np.ndarray:
  """One stored image -> uint8 [H, W] by `config.preprocess`."""
  if not config.normalise:
    raw = formats.to_uint8(raw)  # 16 bits and floats have no common scale
  return preprocess.prepare(
    raw,
    size=tuple(config.size),
    flatten=config.flatten,
    normalise=config.normalise,
    crop=config.crop,
  )


def _read(dataset: Dataset, config: Any, row: int):
  """The image as stored and as used, its hash and texture; or what is wrong
  with it. Called from several threads or processes."""
  try:
    raw = dataset.read(row)
    used = prepared(raw, config.preprocess)
  except DataError as error:
    return error
  return raw, used, hashlib.sha256(raw.tobytes()).hexdigest(), _texture(raw)


def _note_bad(dataset, row: int, error: DataError, bad: list, config: Any):
  bad.append((str(dataset.ids[row]), str(error)))
  if len(bad) > config.data.max_bad:
    raise DataError(
      f"{len(bad)} unreadable images in {dataset.name!r}, more than"
      f" data.max_bad = {config.data.max_bad}; the last: {error}"
    ) from error


def _merge(sets: list, kept: list) -> dict[str, np.ndarray]:
  """One table over the data sets; a column missing in one is nan or ""."""
  tables = []
  for (dataset, part, pool), rows in zip(sets, kept, strict=True):
    columns = {"healthy": np.full(len(dataset), np.nan), **dataset.table}
    columns |= {"part": part, "pool": pool}
    columns.pop("split", None)
    tables.append({name: v[rows] for name, v in sorted(columns.items())})
  merged = joined(tables)
  ids, counts = np.unique(merged["id"], return_counts=True)
  if counts.max() > 1:
    raise DataError(
      f"the two data sets share {np.sum(counts > 1)} image ids, such as"
      f" {ids[counts > 1][0]!r}"
    )
  return merged


def _renamed(dataset: Dataset) -> Dataset:
  """A column with the name of one of `OURS` becomes `<name>_in_table`."""

  def new(name):
    return f"{name}_in_table" if name in OURS else name

  return dataclasses.replace(
    dataset,
    table={new(name): values for name, values in dataset.table.items()},
    labels=tuple(map(new, dataset.labels)),
    meta=tuple(map(new, dataset.meta)),
  )
