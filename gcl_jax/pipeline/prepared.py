"""The prepared images of a run, as every stage after `data` reads them."""

from typing import Any

import numpy as np

from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import file_hash, unpack
from gcl_jax.errors import DataError, UserError

_SAMPLED = 500  # images whose pixels give mean and standard deviation


def pixel_statistics(
  pixels: np.ndarray, rows: np.ndarray
) -> dict[str, np.ndarray]:
  """`mean` and `sd` float64[C] of pixels scaled to [0, 1].

  Args:
    pixels: uint8[N, H, W, C].
    rows: int[R], the training images, of which about 500 are looked at.
  """
  rows = rows[:: max(1, len(rows) // _SAMPLED)]
  sample = np.asarray(pixels[rows], np.float32) / 255
  channels = [sample[..., c] for c in range(sample.shape[-1])]
  return {
    "mean": np.array([float(c.mean()) for c in channels]),
    "sd": np.array([float(max(c.std(), 1e-3)) for c in channels]),
  }


def statistics_of(artifact: dict) -> tuple[Any, Any]:
  """The statistics in the artifact of stage data; see `Prepared`."""
  if "preparation" not in artifact:
    raise UserError(
      "the run was made by an older version, which did not keep how images were"
      " prepared: choose another --workdir"
    )
  found = artifact["preparation"]
  mean, sd = (tuple(found[key].tolist()) for key in ("mean", "sd"))
  return (mean[0], sd[0]) if len(mean) == 1 else (mean, sd)


class Prepared:
  """Prepared images, their class maps where there are any, and their table.

  Attributes:
    artifact: what stage `data` left (see `pipeline.prepare`).
    pixels: uint8[N, H, W, C], a memory map.
    masks: uint8[N, H, W], classes 0..n, 0 where an image has no class map;
      None for data without class maps.
    table: one array of length N per column.
    labels: names of the binary label columns.
    meta: names of the further columns.
    classes: names of the classes 1..n.
  """

  def __init__(self, context: Context, stage: str = "data"):
    """Opens what a finished stage left.

    Raises:
      DataError: a file is missing or was changed.
    """
    self.artifact = context.load(stage)
    self.folder = context.workdir / stage
    self.pixels = np.load(self._file("images.npy"), mmap_mode="r")
    self.masks = None
    if "masks_sha256" in self.artifact:
      self.masks = np.load(self._file("masks.npy"), mmap_mode="r")
    self.table = unpack(self.artifact["table"])
    for name in ("labels", "meta", "classes"):
      setattr(self, name, tuple(str(x) for x in self.artifact[name]))

  def _file(self, name):
    path = self.folder / name
    expected = str(self.artifact[f"{path.stem}_sha256"])
    if not path.exists() or file_hash(path) != expected:
      raise DataError(
        f"{path} is missing or not what stage data wrote: delete the folder"
        f" {self.folder} and run again"
      )
    return path

  def __len__(self) -> int:
    return len(self.pixels)

  @property
  def ids(self) -> np.ndarray:
    """str[N]."""
    return self.table["id"]

  @property
  def groups(self) -> np.ndarray:
    """str[N], the patients."""
    return self.table["group"]

  def part(self, name: str) -> np.ndarray:
    """bool[N]: the images of "train", "eval" or "ood"."""
    return self.table["part"] == name

  @property
  def train(self) -> np.ndarray:
    """bool[N]: the training part of the pool."""
    return self.part("train") & self.table["pool"]

  @property
  def evaluation(self) -> np.ndarray:
    """bool[N]: kept for evaluation, seen by no training and no selection."""
    return self.part("eval")

  @property
  def healthy(self) -> np.ndarray:
    """bool[N]: known to be healthy."""
    return self._healthy == 1

  @property
  def diseased(self) -> np.ndarray:
    """bool[N]: known not to be healthy (unknown is neither)."""
    return self._healthy == 0

  @property
  def _healthy(self):
    return self.table.get("healthy", np.full(len(self), np.nan))

  @property
  def labelled(self) -> np.ndarray:
    """bool[N]: images of volumes that have a class map."""
    return self.table["labelled"] > 0

  def pool(self, protocol: str) -> np.ndarray:
    """bool[N]: what pre-training may see under a protocol.

    Args:
      protocol: "strict", the training part; "transductive", evaluation images
        too, without their labels.
    """
    seen = self.part("train")
    if protocol == "transductive":
      seen = ~self.part("ood")
    return self.table["pool"] & seen

  def pixel_statistics(self) -> tuple[Any, Any]:
    """Mean and standard deviation of training pixels scaled to [0, 1].

    A float each for grey images, a tuple of one per channel for colour.
    """
    return statistics_of(self.artifact)

  def volumes(self, part: str) -> dict[str, np.ndarray]:
    """{volume: its rows, first slice first} of the labelled ones of a part."""
    chosen = np.flatnonzero(self.part(part) & self.labelled)
    names = self.table["volume"][chosen]
    found = {}
    for name in dict.fromkeys(names.tolist()):
      rows = chosen[names == name]
      found[name] = rows[np.argsort(self.table["slice"][rows], kind="stable")]
    return found

  def truths(self, rows: np.ndarray) -> list[np.ndarray]:
    """The class maps of evaluation slices on their stored grids, uint8[h, w].

    Raises:
      DataError: a row of the training part, whose map was not kept.
    """
    stored = np.memmap(self._file("truths.bin"), np.uint8, "r")
    found = []
    for row in rows:
      start, shape = int(self.table["truth_at"][row]), self.stored_shape(row)
      if start < 0:
        raise DataError(f"{self.ids[row]}: no class map was kept for testing")
      found.append(stored[start : start + shape[0] * shape[1]].reshape(shape))
    return found

  def stored_shape(self, row: int) -> tuple[int, int]:
    """(h, w) of a slice before it was prepared."""
    return tuple(
      int(self.table[f"stored_{axis}"][row]) for axis in ("rows", "columns")
    )
