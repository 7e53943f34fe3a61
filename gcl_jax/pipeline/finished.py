"""A finished run, opened from its folder alone, and used on new images."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import read_stage
from gcl_jax.engine.manifest import flat, read_manifest
from gcl_jax.engine.tables import as_key
from gcl_jax.errors import DataError, UserError
from gcl_jax.evaluation import probe
from gcl_jax.pipeline import encoders
from gcl_jax.pipeline.prepared import statistics_of

BATCH = 32  # images at a time


class Finished:
  """What every method's finished run has.

  Attributes:
    folder: of the run.
    config: its whole configuration, a ConfigDict.
    statistics: mean and standard deviation of training pixels in [0, 1].
  """

  def __init__(self, folder: str | pathlib.Path):
    """Opens a run.

    Raises:
      UserError: the folder holds no finished run.
    """
    self.folder, self._artifacts = pathlib.Path(folder).absolute(), {}
    self.config = _settings(self.folder)
    data = self.artifact("data")
    self.statistics = statistics_of(data)
    prepared = json.loads(str(data["preparation"]["settings"]))
    self.config.preprocess.update(prepared)

  def artifact(self, stage: str) -> dict[str, Any]:
    """What a stage left, checked against its manifest.

    Raises:
      UserError: the stage is not finished, or its files were changed.
    """
    if stage not in self._artifacts:
      self._artifacts[stage] = read_stage(self.folder, stage)
    return self._artifacts[stage]

  def names(self, kind: str) -> tuple[str, ...]:
    """Names of the run's "labels" or "classes"."""
    return tuple(str(name) for name in self.artifact("data")[kind])


def _settings(folder: pathlib.Path) -> ConfigDict:
  """The configuration that the finished stages were made with.

  config.json is that of the last command, which may have run one stage only.
  """
  config = ConfigDict(_record(folder)["config"])
  for path in sorted(folder.glob("*/manifest.json")):
    manifest = read_manifest(path.parent)
    config.update_from_flattened_dict(flat(manifest["config"]))
  return config


def method_of(folder: str | pathlib.Path) -> str:
  """The method of the run in a folder; UserError where there is none."""
  return str(_record(pathlib.Path(folder))["config"]["method"])


def by_batches(
  function: Callable, tree: Any, images: Sequence[np.ndarray]
) -> Any:
  """Applies a function of `Context.map` to prepared images on this machine.

  Args:
    function: (tree, {"image": uint8[B, H, W, C]}) -> rows.
    tree: its parameters.
    images: prepared, uint8[H, W, C] each.

  Returns:
    Pytree of numpy arrays [N, ...].

  Raises:
    DataError: no images.
  """
  if not len(images):
    raise DataError("no images were given")
  pixels, compiled = np.stack(images), jax.jit(function)
  size = min(BATCH, len(pixels))
  found = []
  for start in range(0, len(pixels), size):
    rows = pixels[start : start + size]
    missing = size - len(rows)
    padded = np.concatenate([rows, rows[-1:].repeat(missing, axis=0)])
    found.append(compiled(tree, {"image": padded}))
  return jax.tree.map(
    lambda *parts: np.concatenate(parts)[: len(pixels)], *found
  )


def features(
  run: Finished, section: ConfigDict, stage: str, images: Sequence[np.ndarray]
) -> np.ndarray:
  """Frozen features float32[N, D] of the ResNet that a stage left.

  Args:
    run: the finished run.
    section: settings of the encoder, as of `encoders.make`.
    stage: its name.
    images: prepared, uint8[H, W, C] each.
  """
  network = encoders.pooled(encoders.make(section), *run.statistics)
  return by_batches(network, run.artifact(stage)["encoder"], images)


def probabilities(
  run: Finished, encoder: str, features: np.ndarray
) -> dict[str, np.ndarray]:
  """Probability of every label, float64[N], by a linear probe of the run.

  The probe is that of the largest label fraction; labels of one training class
  have none and are left out.

  Args:
    run: the finished run, with a stage `probe`.
    encoder: its name in the tables.
    features: float32[N, D] of this encoder.
  """
  heads = run.artifact("probe")["heads"].get(encoder)
  if not heads:
    raise UserError(
      f"the run has no linear probe of {encoder}: its data set had no labels to"
      " train one on"
    )
  chosen = heads[max(heads, key=float)]
  return {
    name: probe.probability(probe.Head(**chosen[key]), features)
    for name in run.names("labels")
    if (key := as_key(name)) in chosen
  }


def _record(folder: pathlib.Path) -> dict:
  path = folder / "config.json"
  if not path.is_file():
    raise UserError(f"{folder} holds no run of gcl_jax: no config.json in it")
  try:
    record = json.loads(path.read_text())
    record["config"]["method"]
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged ({error!r})") from None
  return record
