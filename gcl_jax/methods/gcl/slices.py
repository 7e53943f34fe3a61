"""What every later stage reads: prepared slices, class maps and their table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcl_jax.engine.tables import file_hash, unpack
from gcl_jax.errors import DataError

PARTS = ("train", "eval", "ood")


class Slices:
  """The prepared slices of all volumes, in the order of the volumes.

  Attributes:
    pixels: uint8 [N, H, W, 1], a memory map.
    masks: uint8 [N, H, W], classes 0..n, 0 where a slice has no labels.
    table: one array of length N per column; `part` is train, eval or ood.
    classes: names of the classes 1..n.
  """

  def __init__(self, context: Any):
    artifact = context.load("data")
    folder = context.workdir / "data"
    found = {}
    for name in ("images", "masks"):
      path = folder / f"{name}.npy"
      if not path.exists() or file_hash(path) != str(
        artifact[f"{name}_sha256"]
      ):
        raise DataError(
          f"{path} is missing or not what stage data wrote: delete the folder"
          f" {folder} and run again"
        )
      found[name] = np.load(path, mmap_mode="r")
    self.pixels, self.masks = found["images"], found["masks"]
    self.table = unpack(artifact["table"])
    self.classes = tuple(str(name) for name in artifact["classes"])

  def __len__(self) -> int:
    return len(self.pixels)

  @property
  def groups(self) -> np.ndarray:
    return self.table["group"]

  @property
  def labelled(self) -> np.ndarray:
    """bool[N]: slices of volumes that have a class map."""
    return self.table["labelled"] > 0

  def part(self, name: str) -> np.ndarray:
    """bool[N]: the slices of one of `PARTS`."""
    return self.table["part"] == name

  @property
  def labelled_patients(self) -> int:
    """How many patients of the training part have labels."""
    return len(np.unique(self.groups[self.part("train") & self.labelled]))

  def check_labels(self, counts: Sequence[int]) -> None:
    """Refuses to promise more labelled patients than there are to train on.

    Raises:
      DataError: before hours of pre-training, not after.
    """
    if max(counts) > self.labelled_patients:
      raise DataError(
        f"segment.labelled {max(counts)}: the training part has"
        f" {self.labelled_patients} patients with labels; ask for fewer, or 0"
        " for all of them"
      )

  def pool(self, protocol: str) -> np.ndarray:
    """bool[N]: what pre-training may see under this protocol."""
    if protocol == "transductive":
      return ~self.part("ood")
    return self.part("train")

  def pixel_statistics(self) -> tuple[float, float]:
    """Mean and standard deviation of training pixels scaled to [0, 1]."""
    rows = np.flatnonzero(self.part("train"))
    rows = rows[:: max(1, len(rows) // 500)]
    pixels = np.asarray(self.pixels[rows], np.float32) / 255
    return float(pixels.mean()), float(max(pixels.std(), 1e-3))

  def cropped(self, part: str) -> tuple[int, float, int]:
    """Labelled voxels of a part that `preprocess.size` cuts away, their share
    of all labelled ones, and the number of volumes that lose some."""
    here = self.part(part)
    lost, labelled = (
      self.table[f"{kind}_voxels"][here] for kind in ("cropped", "labelled")
    )
    names = self.table["volume"][here][lost > 0]
    share = lost.sum() / max(labelled.sum(), 1)
    return int(lost.sum()), float(share), len(set(names.tolist()))

  def volumes(self, part: str) -> dict[str, np.ndarray]:
    """{volume: its rows, first slice first} of the labelled ones of a part."""
    chosen = np.flatnonzero(self.part(part) & self.labelled)
    names = self.table["volume"][chosen]
    found = {}
    for name in dict.fromkeys(names.tolist()):
      rows = chosen[names == name]
      found[name] = rows[np.argsort(self.table["slice"][rows], kind="stable")]
    return found
