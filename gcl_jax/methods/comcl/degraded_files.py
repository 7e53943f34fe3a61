"""Files of a degraded data set: images, table, pictures, what was left out."""

import csv
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from gcl_jax.augment import degradations
from gcl_jax.data import formats
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError
from gcl_jax.methods.comcl import quality
from gcl_jax.report import tiles

_OURS = ("path", "quality", "degradation", "drawn")
_SHOWN = 2  # pictures of each kind


class Files:
  """The images written so far, and what is known of each."""

  def __init__(
    self,
    dataset: Dataset,
    folder: pathlib.Path,
    settings: ConfigDict,
    max_bad: int,
  ):
    """Nothing is written yet; arguments as of `degrade_set`.

    Raises:
      DataError: a column has the name of one of ours.
    """
    self.dataset, self.folder, self.settings = dataset, folder, settings
    self.max_bad, self.bad = max_bad, []
    self.columns = [name for name in dataset.table if name != settings.column]
    clash = sorted(set(self.columns) & set(_OURS))
    if clash:
      raise DataError(
        f"column {clash[0]!r} of data set {dataset.name!r} has the name of one"
        " that is written: leave it out, or rename it"
      )
    self.native = quality.native_of(dataset, settings.column)
    self.rows, self.pictures = [], {}
    self.paths: set[str] = set()

  def write(self, share: float) -> None:
    """Writes everything, a share of the images of low quality.

    Raises:
      DataError: too many unreadable images, or no readable one.
    """
    ids = [str(name) for name in self.dataset.ids]
    draws = [quality.uniform(name, self.settings.seed) for name in ids]
    place = quality.place(np.array(draws), self.native)
    degrade = ~self.native & (place < share)
    for row, name in enumerate(tqdm(ids, unit="image", desc="degrade")):
      try:
        image = _stored(self.dataset.read(row))
      except DataError as error:
        self._leave_out(name, error)
        continue
      self._write(row, image, degrade[row])
    if not self.rows:
      raise DataError(f"no readable image in data set {self.dataset.name!r}")
    self._table()
    if self.bad:
      _csv(self.folder / "quarantine.csv", ("id", "reason"), self.bad)
    kinds = degradations.KINDS[self.settings.family]
    shown = [(k, pair) for k in kinds for pair in self.pictures.get(k, [])]
    svg = tiles.before_after([p for _, p in shown], [k for k, _ in shown])
    (self.folder / "pictures.svg").write_bytes(svg)

  def _leave_out(self, name, error):
    self.bad.append((name, str(error)))
    if len(self.bad) > self.max_bad:
      raise DataError(
        f"{len(self.bad)} unreadable images in {self.dataset.name!r}, more than"
        f" data.max_bad = {self.max_bad}; the last: {error}"
      ) from error

  def _write(self, row, image, degrade):
    name, facts = str(self.dataset.ids[row]), {}
    kept = image
    if degrade:
      kept, facts = degraded(name, image, self.settings)
      pairs = self.pictures.setdefault(facts["degradation"], [])
      if len(pairs) < _SHOWN:
        pairs.append((image, kept))
    path = self._path(name)
    Image.fromarray(kept).save(self.folder / path, "PNG")
    low = int(degrade or self.native[row])
    columns = {c: _cell(self.dataset.table[c][row]) for c in self.columns}
    self.rows.append(columns | {"path": path, "quality": low} | facts)

  def _path(self, name):
    """A file name that is safe and, in any letter case, not yet in use."""
    stem = re.sub(r"[^\w.-]+", "_", name)
    path, count = f"images/{stem}.png", 1
    while path.lower() in self.paths:
      count += 1
      path = f"images/{stem}-{count}.png"
    self.paths.add(path.lower())
    return path

  def _table(self):
    names = (*self.columns, *_OURS)
    rows = [[row.get(name, "") for name in names] for row in self.rows]
    _csv(self.folder / "table.csv", names, rows)

  def lines(self, out: pathlib.Path, share: float) -> str:
    """What was left out, how much is of low quality, how to read it."""
    low = sum(row["quality"] for row in self.rows)
    mine = sum("degradation" in row for row in self.rows)
    lines = [f"left out {name}: {reason}" for name, reason in self.bad]
    before = low - mine
    lines.append(
      f"wrote {len(self.rows)} of {len(self.dataset)} images to {out}: {low} of"
      f" low quality ({low / len(self.rows):.1%}, asked for {share:.1%}),"
      f" {mine} of them degraded here and {before} before"
    )
    lines.append(f"read them with: {self._flags(out)}")
    return "\n".join(lines)

  def _flags(self, out):
    found, dataset = {"name": "folder", "path": out}, self.dataset
    found["table"] = f"{out}/table.csv"
    if dataset.labels:
      found["label_columns"] = _tuple(dataset.labels)
    meta = [name for name in dataset.meta if name in self.columns]
    found["meta_columns"] = _tuple((*meta, "quality"))
    found |= {
      flag: column
      for flag, column in (("healthy_column", "healthy"), ("split", "split"))
      if column in self.columns
    }
    flags = [f"--config.data.{name}={value}" for name, value in found.items()]
    return " ".join((*flags, "--config.quality.column=quality"))


def degraded(
  name: str, image: np.ndarray, settings: ConfigDict
) -> tuple[np.ndarray, dict[str, Any]]:
  """One image degraded as a run with these settings would, and what was drawn.

  Args:
    name: id of the image; with the seed it decides what is drawn.
    image: uint8[h, w] or [h, w, 3].
    settings: section `quality`: family, seed.

  Returns:
    The degraded image, as `image`, and the cells `degradation` and `drawn`.
  """
  key = jax.random.key(settings.seed)
  key = jax.random.fold_in(key, jnp.uint32(quality.code_of(name)))
  drawn = _draw(key[None], settings.family)
  pixels = image.reshape(1, *image.shape[:2], -1)
  found = np.asarray(_apply(pixels, drawn))
  found = np.clip(np.round(found), 0, 255).astype(np.uint8)
  kind, parts = degradations.facts(drawn, 0)
  text = json.dumps(parts, sort_keys=True)
  return found.reshape(image.shape), {"degradation": kind, "drawn": text}


_draw = jax.jit(degradations.draw, static_argnums=1)
_apply = jax.jit(degradations.apply)


def _stored(image: np.ndarray) -> np.ndarray:
  """Grey or RGB of 8 bits."""
  if not image.size or (image.ndim != 2 and image.shape[2:] != (3,)):
    raise DataError(f"an image of shape {image.shape} is neither grey nor RGB")
  return formats.to_uint8(image)


def _cell(value: Any) -> str:
  """A cell of the table: whole numbers without a point, unknown ones blank."""
  if isinstance(value, float | np.floating):
    return "" if np.isnan(value) else f"{float(value):.12g}"
  return str(int(value) if isinstance(value, bool | np.bool_) else value)


def _csv(path: pathlib.Path, names: Sequence[str], rows: Sequence) -> None:
  with path.open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([names, *rows])


def _tuple(names: Sequence[str]) -> str:
  return '"(' + "".join(f"'{name}'," for name in names) + ')"'
