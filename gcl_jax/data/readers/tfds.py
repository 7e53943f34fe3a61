"""Data sets of tensorflow-datasets, stored as array_record.

Records are read through `as_data_source`, which needs no TensorFlow. Images are
decoded by `raster`: the decoder of tensorflow-datasets needs OpenCV for 16
bits.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.files import folder_of
from gcl_jax.data.quiet import one_error
from gcl_jax.data.raster import decode_image
from gcl_jax.data.source import Dataset
from gcl_jax.data.table_files import canonical_column
from gcl_jax.data.tfds_folder import prepared_folder
from gcl_jax.data.unknown_patients import log_unknown
from gcl_jax.errors import DataError

METADATA = "gcl_jax"  # key under which `prepare` describes its columns
_TRAIN = ("train", "images")


def read(
  path: str | os.PathLike,
  table: str = "",
  *,
  id_column: str = "id",
  group_column: str = "group",
  label_columns: Sequence[str] = (),
  meta_columns: Sequence[str] = (),
  healthy_column: str = "",
  group_unknown: str = "refuse",
) -> Dataset:
  """Reads a data set on disk, written by `prepare` or by any TFDS builder.

  Data written by `prepare` describe themselves and need none of the columns.
  For any other data set the columns are names of its features; all its splits
  are read, "train" as train and every other one as eval.

  Args:
    path: the folder with dataset_info.json, one above it, or with `table`
      the `data_dir` of tensorflow-datasets.
    table: name, config and version ("mnist:3.0.1"), as for
      `tfds_folder.prepared_folder`; "" to find it.
    id_column: feature with a unique name; absent: `split/row`.
    group_column: feature with the patient.
    label_columns: binary features, or class labels (one column per class).
    meta_columns: further scalar features.
    healthy_column: binary feature.
    group_unknown: "refuse" data without patients, or take each "image" for a
      patient of its own.

  Returns:
    The data set, rows in stored order.

  Raises:
    DataError: no prepared data set, a file format other than array_record, a
      missing feature, or a file that names classes other than TFDS features.
  """
  found = _builder(folder_of(path), table)
  image = _image_feature(found)
  with one_error(found.data_path, "data set"):
    parts = [(name, _stored(found, name, image)) for name in found.info.splits]
    rows = [
      (name, source, i) for name, source in parts for i in range(len(source))
    ]
    columns = _columns(parts, image)

  def image_of(row: int) -> np.ndarray:
    name, source, i = rows[row]
    return _image(source[i][image], f"{found.data_path}, {name} {i}")

  described = (found.info.metadata or {}).get(METADATA)
  if described:
    return _described(described, columns, image_of, tuple(label_columns))
  mapped, labels = _mapped(
    found, columns, label_columns, meta_columns, healthy_column
  )
  names = np.array([name for name, *_ in rows])
  default = [f"{name}/{i}" for name, _, i in rows]
  ids = columns.get(id_column, default)
  mapped["id"] = _names(found, id_column, ids)
  mapped["group"] = _groups(found, columns, group_column, group_unknown, mapped)
  mapped["split"] = np.where(np.isin(names, _TRAIN), "train", "eval")
  return Dataset(found.name, mapped, image_of, labels, tuple(meta_columns))


def _builder(path: pathlib.Path, name: str):
  """Opens a prepared data set; downloads nothing, imports no builder code."""
  import tensorflow_datasets as tfds

  folder = prepared_folder(path, name)
  wanted = "array_record" if name else None
  with one_error(folder, "data set"):
    found = tfds.builder_from_directory(folder, file_format=wanted)
    ready = found.info.splits
  if not ready:
    raise DataError(f"{path}: data set {name!r} is not prepared here")
  if found.info.file_format.value != "array_record":
    raise DataError(
      f"{path}: stored as {found.info.file_format.value}; only array_record"
      " gives random access without TensorFlow"
    )
  return found


def _image_feature(builder) -> str:
  import tensorflow_datasets as tfds

  images = [
    name
    for name, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  ]
  if "image" in builder.info.features:
    return "image"
  if len(images) != 1:
    raise DataError(
      f"{builder.data_path}: {len(images)} image features, expected one, or"
      " one named 'image'"
    )
  return images[0]


def _stored(builder, split: str, image: str):
  """Random access to the rows of a split, images left encoded."""
  import tensorflow_datasets as tfds

  feature = builder.info.features[image]
  encoded = isinstance(feature, tfds.features.Image)
  decoders = {image: tfds.decode.SkipDecoding()} if encoded else None
  return builder.as_data_source(split, decoders=decoders)


def _image(value, where: str) -> np.ndarray:
  if isinstance(value, bytes):
    return decode_image(value, where)
  array = np.asarray(value)
  return array[..., 0] if array.shape[-1] == 1 else array


def _columns(parts: list, image: str) -> dict[str, list]:
  """Reads every scalar feature of every row in one pass over the records."""
  columns: dict[str, list] = {}
  for _, source in parts:
    for i in range(len(source)):
      for name, value in source[i].items():
        if name != image and np.ndim(value) == 0:
          columns.setdefault(name, []).append(value)
  return columns


def _text(value) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _described(
  described: dict, columns: dict[str, list], read, wanted: tuple[str, ...]
) -> Dataset:
  """Restores the data set that `prepare` wrote."""
  table = {}
  for feature, (column, kind) in described["columns"].items():
    values = columns[feature]
    if kind != "binary":
      values = [_text(value) for value in values]
    table[column] = np.array(values, None if kind == "text" else np.float64)
  labels = wanted or tuple(described["labels"])
  return Dataset(
    described["name"], table, read, labels, tuple(described["meta"])
  )


def _mapped(
  builder,
  columns: dict,
  labels: Sequence[str],
  meta: Sequence[str],
  healthy: str,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Table columns and label names of the requested features."""
  for name in (*labels, *meta, *([healthy] if healthy else [])):
    if name not in columns:
      raise DataError(
        f"{builder.data_path}: no scalar feature {name!r} (features:"
        f" {', '.join(columns)})"
      )
  table = {}
  for name in meta:
    values = columns[name]
    text = isinstance(values[0], bytes)
    table[name] = np.array([_text(v) for v in values] if text else values)
  if healthy:
    table["healthy"] = _binary(builder, healthy, columns[healthy])
  made: dict[str, np.ndarray] = {}
  for name in labels:
    classes = getattr(builder.info.features[name], "names", None) or []
    if len(classes) > 2:
      numbers = np.array(columns[name])
      made |= {c: (numbers == k) * 1.0 for k, c in enumerate(classes)}
    else:
      made[name] = _binary(builder, name, columns[name])
  return {**table, **made}, tuple(made)


def _binary(builder, name: str, values: list) -> np.ndarray:
  try:
    numbers = np.array(values, np.float64)
  except ValueError:
    numbers = np.array([2.0])
  if not (np.isin(numbers, (0, 1)) | np.isnan(numbers)).all():
    raise DataError(f"{builder.data_path}: feature {name!r} is not 0 or 1")
  return numbers


def _names(builder, feature: str, values: list) -> np.ndarray:
  """Ids or patients as canonical text."""
  where = f"{builder.data_path}, feature {feature!r}"
  return canonical_column(map(_text, values), where)


def _groups(builder, columns: dict, name: str, unknown: str, table: dict):
  if name in columns:
    groups = _names(builder, name, columns[name])
  else:
    groups = np.full(len(table["id"]), "")
  blank = groups == ""
  if blank.any() and unknown != "image":
    raise DataError(
      f"{builder.data_path}: {blank.sum()} rows without a patient in feature"
      f" {name!r}; name it with group_column, or set group_unknown=image if"
      " every image is of another patient"
    )
  if blank.any():
    log_unknown(str(builder.data_path), int(blank.sum()), unknown)
  return np.where(blank, table["id"], groups)
