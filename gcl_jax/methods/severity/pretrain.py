"""Stage `supcon` and its arms: encoders pre-trained on the pool.

supcon: SupCon on the severity bins (or any label sets); simclr: the same with
no labels; moco, pcl: further baselines; random: no training at all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine import feed
from gcl_jax.engine.context import Context
from gcl_jax.errors import ConfigError
from gcl_jax.methods.severity import bin as bins
from gcl_jax.pipeline import clustering, contrast, sampling
from gcl_jax.pipeline.prepared import Prepared


def run(context: Context, name: str = "supcon") -> dict[str, Any]:
  """Pre-trains one encoder; `name` is supcon, simclr, moco, pcl or random.

  Returns:
    `encoder`: its variables (params and batch_stats), without the head.
  """
  images = Prepared(context)
  config = context.config.supcon
  loss, label_names = objective(config, name)
  rows = np.flatnonzero(images.pool(context.config.protocol))
  numbers = contrast.plan(config, len(rows), len(images), "supcon")
  statistics = images.pixel_statistics()
  further = {}
  if loss == "pcl":
    further = dict(
      every=numbers.epoch,
      on_every=clustering.every_epoch(
        context,
        config,
        contrast.networks(config, numbers),
        images.pixels,
        rows,
        statistics,
      ),
    )
  state = context.fit(
    contrast.training(
      config, loss, label_names, images.pixels.shape[1:], numbers, statistics
    ),
    _batches(context, images, rows, label_names, loss, numbers.steps),
    steps=0 if name == "random" else numbers.steps,
    name=name,
    seed=context.config.seed,
    ids=images.ids,
    save_every=max(1, numbers.steps // 5),
    **further,
  )
  return {"encoder": contrast.encoder_of(state)}


def objective(config: ConfigDict, name: str) -> tuple[str, tuple[str, ...]]:
  """The loss and the label sets that a stage of this name trains with."""
  if name in ("simclr", "random"):
    return "supcon", ()
  if name in ("moco", "pcl"):
    return name, ()
  if len(config.labels) != len(config.label_weights):
    raise ConfigError(
      f"supcon.labels has {len(config.labels)} entries and"
      f" supcon.label_weights {len(config.label_weights)}: give one weight"
      " per label set"
    )
  return config.loss, tuple(config.labels) if config.loss == "supcon" else ()


def _batches(context, images, rows, label_names, loss, steps) -> Callable:
  """batches(start): the order is a function of seed and step alone."""
  config, seed = context.config.supcon, context.config.seed
  arrays = {"image": images.pixels, **_labels(context, images, label_names)}
  if loss == "soft":
    arrays["score"] = _standard_scores(context, images)
  rows_at = sampling.shuffled(rows, config.batch_size, seed)
  if config.images_per_bin and label_names:
    labels = arrays[label_names[0]][rows]
    share = config.images_per_bin
    rows_at = sampling.by_label(rows, labels, config.batch_size, share, seed)
  return lambda start: feed.batches_from(
    arrays,
    rows_at,
    start=start,
    steps=steps,
    workers=context.config.workers,
  )


def _labels(context, images, names) -> dict[str, np.ndarray]:
  """int32[N] for each label set: bins of a score, or a column's values."""
  out = {}
  for name in names:
    if bins.is_score_label(name):
      found = context.load("bin")
      bins.check_same_ids(found, images)
      out[name] = found["labels"][name]
    elif name in images.table:
      hidden = np.zeros(len(images), bool)
      if name in (*images.labels, "healthy"):  # truths of evaluation images
        hidden = ~images.part("train")
      out[name] = codes(images.table[name], hidden)
    else:
      raise ConfigError(
        f"supcon.labels names {name!r}, which is neither a bin of a score"
        f" nor a column; columns: {', '.join(images.table)}"
      )
  return out


def codes(column: np.ndarray, hidden: np.ndarray | None = None) -> np.ndarray:
  """A column's values as int32 labels; a missing value is like no other.

  Args:
    column: [N].
    hidden: bool[N], rows whose value counts as missing.
  """
  column = np.asarray(column)
  values, label = np.unique(column, return_inverse=True)
  if column.dtype.kind == "f":
    missing = np.isnan(column)
  else:
    missing = column.astype(str) == ""
  missing = missing if hidden is None else missing | hidden
  label = label.astype(np.int32)
  label[missing] = len(values) + np.arange(missing.sum())
  return label


def _standard_scores(context, images) -> np.ndarray:
  """Severity in standard deviations of the pool."""
  found = context.load("score")
  bins.check_same_ids(found, images)
  score = np.asarray(found["score"], np.float32)
  pool = score[images.pool(context.config.protocol)]
  return ((score - pool.mean()) / max(pool.std(), 1e-12)).astype(np.float32)
