"""What every later stage reads: prepared images and their table, by id."""

from typing import Any

import numpy as np

from gcl_jax.engine.tables import file_hash, unpack
from gcl_jax.errors import DataError


class Images:
  """The prepared images and their table, as every later stage reads them.

  Attributes:
    pixels: uint8 [N, H, W, 1], a memory map.
    table: one array of length N per column.
    labels: names of the binary label columns.
  """

  def __init__(self, context: Any):
    artifact = context.load("data")
    path = context.workdir / "data" / "images.npy"
    if not path.exists() or file_hash(path) != str(artifact["images_sha256"]):
      raise DataError(
        f"{path} is missing or not what stage data wrote: delete the folder"
        f" {path.parent} and run again"
      )
    self.pixels = np.load(path, mmap_mode="r")
    self.table = unpack(artifact["table"])
    self.labels = tuple(str(name) for name in artifact["labels"])
    self.meta = tuple(str(name) for name in artifact["meta"])
    self.texture = artifact["texture"]

  def __len__(self) -> int:
    return len(self.pixels)

  @property
  def groups(self) -> np.ndarray:
    return self.table["group"]

  @property
  def train(self) -> np.ndarray:
    """bool[N]: the training part of the pool."""
    return (self.table["part"] == "train") & self.table["pool"]

  @property
  def evaluation(self) -> np.ndarray:
    """bool[N]: kept for evaluation, seen by no training and no selection."""
    return self.table["part"] == "eval"

  @property
  def healthy(self) -> np.ndarray:
    return self.table["healthy"] == 1

  @property
  def diseased(self) -> np.ndarray:
    """bool[N]: known not to be healthy (unknown is neither)."""
    return self.table["healthy"] == 0

  def pixel_statistics(self) -> tuple[float, float]:
    """Mean and standard deviation of training pixels scaled to [0, 1]."""
    rows = np.flatnonzero(self.train)
    rows = rows[:: max(1, len(rows) // 500)]
    pixels = np.asarray(self.pixels[rows], np.float32) / 255
    return float(pixels.mean()), float(max(pixels.std(), 1e-3))

  def pool(self, protocol: str) -> np.ndarray:
    """bool[N]: what pre-training may see under this protocol."""
    return self.table["pool"] & (self.train | (protocol == "transductive"))
