"""Stage `data`: the scans of the pool, and healthy scans of a second set."""

import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import formats, preprocess, splits
from gcl_jax.data.source import Dataset
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.evaluation import label_free
from gcl_jax.pipeline import prepare, sources
from gcl_jax.pipeline.sources import Source


def run(context: Context) -> dict[str, Any]:
  """Reads, prepares and splits the scans (see `pipeline.prepare`).

  Returns:
    The artifact; `texture` float[N, 5] among it, what brightness, sharpness
    and size of the stored scan say.
  """
  config = context.config
  pool = splits.limited(context.datasets["data"], config.data.limit)
  found = [Source(pool, sources.parts(pool, config.data))]
  if "healthy_data" in context.datasets:
    healthy = _only_healthy(context.datasets["healthy_data"])
    healthy = sources.apart(healthy, "healthy_data")
    healthy = splits.limited(healthy, config.healthy_data.limit)
    found.append(Source(healthy, np.full(len(healthy), "train"), pool=False))
  if config.score.source == "autoencoder":
    _check_healthy(found)
  return prepare.run(
    context,
    found,
    functools.partial(read, config.preprocess),
    (*config.preprocess.size, 1),
    samples=prepare.SAMPLES,
  )


def read(config: ConfigDict, dataset: Dataset, row: int) -> prepare.Row:
  """One scan by `config.preprocess`, and the texture of the stored one."""
  raw = dataset.read(row)
  texture = label_free.texture_features([raw], [raw.shape[:2]])[0]
  return prepare.Row(prepared(raw, config), columns={"texture": texture})


def prepared(raw: np.ndarray, config: ConfigDict) -> np.ndarray:
  """One stored scan -> uint8[H, W] by `config.preprocess`."""
  if not config.normalise:
    raw = formats.to_uint8(raw)  # 16 bits and floats have no common scale
  return preprocess.prepare(
    raw,
    size=tuple(config.size),
    flatten=config.flatten,
    normalise=config.normalise,
    crop=config.crop,
  )


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


def _check_healthy(found: list[Source]) -> None:
  for dataset, part, _ in found:
    healthy = np.asarray(dataset.table.get("healthy", np.zeros(len(dataset))))
    if np.any((healthy == 1) & (part == "train")):
      return
  raise DataError(
    "no healthy image in the training part: the autoencoder needs some;"
    " name the column with --config.data.healthy_column or give a second"
    " data set with --config.healthy_data.name"
  )
