"""Stages `data` and `oct`: two sets of images that are not paired."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.data import descriptions, disc, formats, preprocess, splits
from gcl_jax.data.source import Dataset
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import captions
from gcl_jax.pipeline import prepare, sources
from gcl_jax.pipeline.prepared import Prepared

OCT = "oct"  # stage and pool
OCT_SECTIONS = ("oct_data", "more_oct_data")
# Descriptions that come with the program.
WORDS = {
  "eye": descriptions.EYE_WORDS,
  "retina": pathlib.Path(__file__).with_name("retina_words.yaml"),
}


def run(context: Context) -> dict[str, Any]:
  """Reads, prepares and splits the fundus images (see `pipeline.prepare`).

  Returns:
    The artifact; `class` str[N] among it, "" where it is not known.
  """
  config = context.config
  found = splits.limited(context.datasets["data"], config.data.limit)
  found = with_class(found, config.data)
  read = functools.partial(_read, config.preprocess)
  source = sources.Source(found, sources.parts(found, config.data))
  shape = (*config.preprocess.size, 3)
  return prepare.run(context, [source], read, shape, samples=prepare.SAMPLES)


def run_oct(context: Context) -> dict[str, Any]:
  """Reads, prepares and splits the OCT scans, and describes all classes.

  Scans of patients whose fundus images are kept for evaluation are kept for it
  too; patients are the same where their names are.

  Returns:
    The artifact; `classes` (JSON): the names of all classes, and their texts
    with and without places.
  """
  fundus, found = Prepared(context), []
  for section in OCT_SECTIONS:
    if section in context.datasets:
      found.append(_source_of_oct(context, section, fundus, len(found)))
  read = functools.partial(_read_oct, context.config.oct_preprocess)
  shape = (*context.config.oct_preprocess.size, 1)
  artifact = prepare.run(context, found, read, shape)
  return artifact | {"classes_json": np.array(json.dumps(_described(context)))}


def _source_of_oct(context, section, fundus, number) -> sources.Source:
  """One set of scans and the parts that they are in."""
  config = context.config[section]
  found = splits.limited(context.datasets[section], config.limit)
  found = with_class(found, config)
  part = sources.parts(found, config)
  kept_back = np.isin(found.groups, fundus.groups[fundus.evaluation])
  part[kept_back] = "eval"
  if moved := len(set(found.groups[kept_back].tolist())):
    context.telemetry.say(
      f"{section}: scans of {moved} patients whose fundus images are kept for"
      " evaluation are kept for it too"
    )
  if number:
    found = sources.apart(found, section)
  return sources.Source(found, part)


def with_class(dataset: Dataset, config: ConfigDict) -> Dataset:
  """The data set with a column `class`.

  It is `class_column` of the table (several as "dr+dme", whose values are
  joined by "+"; none where all of them are blank), or the one binary label that
  is 1 and "healthy" where the set says so; `class_names` translates
  ("NO=healthy", "NPDR+1=npdr_oedema") and, where it is given, leaves every
  other name out.

  Args:
    dataset: any.
    config: a data section.

  Raises:
    DataError: no such column, or a row of two labels.
  """
  if config.class_column:
    columns = [
      map(as_name, dataset.column(name).tolist())
      for name in config.class_column.split("+")
    ]
    found = ["+".join(each) for each in zip(*columns, strict=True)]
  else:
    found = _from_labels(dataset)
  if names := dict(pair.split("=", 1) for pair in config.class_names):
    found = [names.get(name, "") for name in found]
  else:
    found = [name if name.strip("+") else "" for name in found]
  if not any(found):
    raise DataError(
      f"data set {dataset.name!r}: no image has a class; name its column with"
      " class_column, or translate its names with class_names"
    )
  table = {**dataset.table, "class": np.array(found, str)}
  return dataclasses.replace(dataset, table=table)


def as_name(value: Any) -> str:
  """The name of a class in a table, "" where it is blank.

  >>> as_name(2.0), as_name("NPDR"), as_name(float("nan")), as_name(1234567.0)
  ('2', 'NPDR', '', '1234567')
  """
  if isinstance(value, float):
    return "" if np.isnan(value) else repr(value).removesuffix(".0")
  return str(value).strip()


def captions_of(context: Context) -> captions.Captions:
  """The captions of all classes, as stage `oct` found them described."""
  config = context.config
  found = json.loads(str(context.load(OCT)["classes_json"]))
  attributes = all_attributes(
    [Prepared(context, stage) for stage in ("data", OCT)], config.text
  )
  vectors = None
  if config.text.encoder == "frozen":
    vectors = dict(zip(found["vector_texts"], found["vectors"], strict=True))
  return captions.build(
    {name: tuple(texts) for name, texts in found["with_place"].items()},
    {name: tuple(texts) for name, texts in found["without_place"].items()},
    attributes,
    config.text.swapped,
    vectors,
  )


def all_attributes(both: Sequence[Prepared], config: ConfigDict) -> list[str]:
  """What is put in front of texts of any image of both sets, in order.

  Raises:
    DataError: a column that neither set has.
  """
  for name in config.attributes:
    if not any(name in images.table for images in both):
      raise DataError(
        f"text.attributes: neither set of images has a column {name!r}; keep it"
        " with meta_columns"
      )
  found = [attributes_of(images, config).tolist() for images in both]
  return sorted({value for values in found for value in values})


def attributes_of(images: Prepared, config: ConfigDict) -> np.ndarray:
  """str[N], what is put in front of the texts of each image."""
  columns = [c for c in config.attributes if c in images.table]
  if not columns:
    return np.full(len(images), "")
  values = [map(as_name, images.table[c].tolist()) for c in columns]
  return np.array([" ".join(each) for each in zip(*values, strict=True)])


def _described(context: Context) -> dict[str, Any]:
  """Texts of the classes of all sets, and precomputed vectors of texts."""
  config = context.config
  seen = {
    str(name)
    for section in ("data", *OCT_SECTIONS)
    if section in context.datasets
    for name in with_class(context.datasets[section], config[section]).table[
      "class"
    ]
  }
  classes = sorted(seen - {""})
  path = WORDS.get(config.text.file, config.text.file)
  found = {
    kind: descriptions.read(path, classes, places=places)
    for kind, places in (("with_place", True), ("without_place", False))
  }
  if config.text.encoder == "frozen":
    texts, vectors = captions.read_vectors(config.text.vectors)
    found |= {"vector_texts": texts, "vectors": vectors.tolist()}
  return found


def _from_labels(dataset: Dataset) -> list[str]:
  """The one label that is 1, or "healthy"."""
  count = len(dataset)
  healthy = np.asarray(dataset.table.get("healthy", np.full(count, np.nan)))
  found = ["healthy" if value == 1 else "" for value in healthy]
  for label in dataset.labels:
    for row in np.flatnonzero(np.asarray(dataset.table[label]) == 1):
      if label == "diseased":
        continue
      if found[row]:
        raise DataError(
          f"data set {dataset.name!r}, {dataset.ids[row]}: is both"
          f" {found[row]!r} and {label!r}; name a column of one class each with"
          " class_column"
        )
      found[row] = label
  return found


def prepared(
  raw: np.ndarray, config: ConfigDict, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
  """One stored photograph as the networks see it, and its class map.

  Args:
    raw: [h, w] or [h, w, 3], as stored.
    config: section `preprocess`.
    mask: uint8[h, w].

  Returns:
    uint8[S, S, 3] and uint8[S, S] (None without a map).
  """
  image = formats.to_uint8(raw)
  if image.ndim == 2:
    image = np.repeat(image[..., None], 3, axis=2)
  crop = disc.crop_to_disc if config.disc else disc.square
  pixels, _, mask = crop(image, None, mask, size=config.size[0])
  return pixels, mask


def prepared_oct(raw: np.ndarray, config: ConfigDict) -> np.ndarray:
  """One stored scan -> uint8[H, W] by section `oct_preprocess`."""
  if not config.normalise:
    raw = formats.to_uint8(raw)
  return preprocess.prepare(
    raw,
    size=tuple(config.size),
    flatten=config.flatten,
    normalise=config.normalise,
    crop=config.crop,
  )


def _read(config: ConfigDict, dataset: Dataset, row: int) -> prepare.Row:
  mask = None
  if dataset.read_mask is not None:
    labelled = dataset.table.get("labelled", np.ones(len(dataset)))
    mask = dataset.read_mask(row) if labelled[row] > 0 else None
  return prepare.Row(*prepared(dataset.read(row), config, mask))


def _read_oct(config: ConfigDict, dataset: Dataset, row: int) -> prepare.Row:
  return prepare.Row(prepared_oct(dataset.read(row), config))
