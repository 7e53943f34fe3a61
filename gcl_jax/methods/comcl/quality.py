"""Stage `quality`: every image degraded once, and who is of low quality.

WORKDIR/quality/degraded.npy   uint8[N, H, W, C], the degraded images
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.augment import degradations
from gcl_jax.data.source import Dataset
from gcl_jax.engine import distributed
from gcl_jax.engine.arrays import Mixed
from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import file_hash
from gcl_jax.errors import DataError
from gcl_jax.methods.comcl.boxes import check_absent, diseased_of
from gcl_jax.pipeline.prepared import Prepared

_HELD = 2048  # degraded images held in memory at once


def run(context: Context) -> dict[str, Any]:
  """Degrades every image and chooses those of low quality.

  Images that the table's quality column calls low stay as they are in every
  condition. Where no training image is low by the table, `train_share` of them
  are degraded, more of the diseased ones by `correlation`. Evaluation images
  are degraded until each share is reached, in one order: those of 33 % are
  among those of 70 %, degraded in the same way.

  Returns:
    `low` bool[N], low quality in training and in the first condition; `order`
    float[N], place of an evaluation image in the order of degradation, 0 to 1
    (below 0: low by the table; 2: not for evaluation); `native` bool[N];
    `degraded_sha256`.
  """
  images, config = Prepared(context), context.config.quality
  native = native_of(images, config.column)
  low, order = native.copy(), np.full(len(images), 2.0)
  draws = np.array([uniform(name, config.seed) for name in images.ids])
  train = np.flatnonzero(images.train)
  if not native[train].any():
    diseased = diseased_of(images, context.config.diagnosis.grade)[train]
    low[train] = chosen(
      draws[train], diseased, config.train_share, config.correlation
    )
  tested = np.flatnonzero(~images.part("train"))
  order[tested] = place(draws[tested], native[tested])
  low[tested] = order[tested] < config.shares[0]
  _degrade(context, images, native)
  path = context.folder / "degraded.npy"
  sha256 = file_hash(path) if distributed.is_main() else ""
  context.telemetry.say(
    f"quality: {low[train].sum()} of {len(train)} training images are of low"
    f" quality, {native.sum()} of all by the table"
  )
  return {
    "low": low,
    "order": order,
    "native": native,
    "degraded_sha256": np.array(sha256),
  }


def chosen(
  draws: np.ndarray, diseased: np.ndarray, share: float, correlation: float
) -> np.ndarray:
  """Training images to degrade: a share of all, more of the diseased ones.

  With f the diseased share of the known images, share + correlation (1 - f) of
  the diseased and share - correlation f of the healthy ones, both cut to
  [0, 1]: the difference of the two is `correlation`.

  Args:
    draws: float[N] in [0, 1); the smallest of a kind are chosen.
    diseased: float[N] of 1, 0 and nan = unknown.
    share: of all images.
    correlation: P(low | diseased) - P(low | healthy).

  Returns:
    bool[N].
  """
  known = ~np.isnan(diseased)
  ill = float(np.mean(diseased[known])) if known.any() else 0.0
  found = np.zeros(len(draws), bool)
  for value, wanted in (
    (1, share + correlation * (1 - ill)),
    (0, share - correlation * ill),
    (np.nan, share),
  ):
    rows = np.flatnonzero(
      np.isnan(diseased) if np.isnan(value) else diseased == value
    )
    count = round(float(np.clip(wanted, 0, 1)) * len(rows))
    found[rows[np.argsort(draws[rows], kind="stable")[:count]]] = True
  return found


def place(draws: np.ndarray, native: np.ndarray) -> np.ndarray:
  """Places 0 to 1 in the order of degradation, images of low quality first.

  The images with a place below s are the share s of all, rounded.

  Args:
    draws: float[N] in [0, 1).
    native: bool[N], low by the table.

  Returns:
    float[N], -1 where `native` is set, else rank / N + 1 / (2 N).
  """
  order = np.lexsort((draws, ~native))
  found = np.empty(len(draws))
  found[order] = (np.arange(len(draws)) + 0.5) / max(len(draws), 1)
  return np.where(native, -1.0, found)


class Quality:
  """Clean and degraded images of a run.

  Attributes:
    clean, degraded: uint8[N, H, W, C], memory maps.
    low, order, native: as the stage left them.
    seen: the images as training sees them, array-like uint8[N, H, W, C].
  """

  def __init__(self, context: Context):
    """Opens what the stage left; DataError where the file was changed."""
    found = context.load("quality")
    path = context.workdir / "quality" / "degraded.npy"
    if not path.exists() or file_hash(path) != str(found["degraded_sha256"]):
      raise DataError(
        f"{path} is missing or not what stage quality wrote: delete the folder"
        f" {path.parent} and run again"
      )
    self.clean = Prepared(context).pixels
    self.degraded = np.load(path, mmap_mode="r")
    self.low, self.order, self.native = (
      np.asarray(found[name]) for name in ("low", "order", "native")
    )
    self.seen = Mixed(self.clean, self.degraded, self.low)

  def condition(self, share: float) -> np.ndarray:
    """bool[N]: images of low quality where `share` of the evaluation are."""
    return self.order < share


def degraded(seed: int, family: str):
  """fn(tree, batch) for `Context.map`: uint8 images, one degradation per id.

  Args:
    seed: of all degradations.
    family: of `augment.degradations`.
  """

  def one_batch(tree, batch):
    key = jax.random.key(seed)
    keys = jax.vmap(lambda code: jax.random.fold_in(key, code))(batch["code"])
    found = degradations.degrade(keys, batch["image"], family=family)
    found = jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8)
    return jnp.where(
      batch["native"][:, None, None, None], batch["image"], found
    )

  return one_batch


def code_of(name: str) -> int:
  """A number of 32 bits for an id: the start of its SHA-256."""
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def _degrade(context: Context, images: Prepared, native: np.ndarray) -> None:
  """Writes degraded.npy, some thousand images at a time."""
  config = context.config.quality
  function = degraded(config.seed, config.family)
  codes = np.array([code_of(str(name)) for name in images.ids], np.uint32)
  file, path = None, context.folder / "degraded.npy"
  if distributed.is_main():
    file = np.lib.format.open_memmap(path, "w+", np.uint8, images.pixels.shape)
  for start in range(0, len(images), _HELD):
    rows = slice(start, start + _HELD)
    found = context.map(
      function,
      {},
      {
        "image": images.pixels[rows],
        "code": codes[rows],
        "native": native[rows],
      },
      batch_size=context.config.diagnosis.batch_size,
      name="quality/degraded",
    )
    if file is not None:
      file[rows] = found
  if file is not None:
    file.flush()


def native_of(images: Prepared | Dataset, column: str) -> np.ndarray:
  """bool[N]: low quality by the table's column; unknown counts as good.

  Raises:
    DataError: the column holds text, or is not there though it is none of the
      defaults.
  """
  if column not in images.table:
    check_absent(images, "quality.column", column)
    return np.zeros(len(images), bool)
  values = np.asarray(images.table[column])
  if values.dtype.kind not in "fiub":
    raise DataError(
      f"quality.column {column!r} holds text such as {values[0]!r}: 0 is good"
      " quality, any larger number low"
    )
  return np.nan_to_num(np.asarray(values, float)) > 0


def uniform(name: str, seed: int) -> float:
  """A number in [0, 1) that depends on id and seed alone."""
  digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
  return int.from_bytes(digest[:7], "little") / 2**56
