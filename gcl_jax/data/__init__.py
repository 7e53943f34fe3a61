"""Data sets: `load` makes one of a configuration."""

import difflib
from typing import Any

from gcl_jax.data.files import existing
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError

NAMES = ("phantom", "octdl", "folder", "olives", "kermany", "medmnist", "tfds")


def load(config: Any) -> Dataset:
  """The data set that `config.data` describes.

  Args:
    config: with the field `name` (one of `NAMES`) and, where the data set
      uses them: `path`, `table` (folder: the CSV; olives: the clinical table;
      tfds: the builder), `split` (folder: the column; olives: the published
      split), `id_column`, `path_column`, `group_column`, `healthy_column`
      (medmnist: the healthy class), `label_columns`, `meta_columns`,
      `pattern`, `group_unknown`, `train_table`, `test_table`, `phantom`.

  Returns:
    The data set; nothing but headers has been read of files on disk.

  Raises:
    ConfigError: an unknown name; the message gives the nearest one.
    DataError: the path is not there, or what its reader raises.
  """
  if config.name not in NAMES:
    near = difflib.get_close_matches(str(config.name), NAMES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
      f"no data set {config.name!r}{hint} (known: {', '.join(NAMES)})"
    )
  if config.name == "phantom":
    from gcl_jax.data.phantoms.oct import oct_phantom

    return oct_phantom(**config.phantom)
  path = _field(config, "path")
  if not path:
    raise DataError(
      f"data set {config.name!r} needs a path: --config.data.path=... (or"
      " --config.healthy_data.path=... of the second set)"
    )
  existing(path)
  return _LOADERS[config.name](path, config)


def _octdl(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.octdl import octdl

  return octdl(path)


def _folder(path: str, config: Any) -> Dataset:
  from gcl_jax.data.folder import folder

  columns = ("id_column", "path_column", "group_column")
  named = {c: getattr(config, c) for c in columns if _field(config, c)}
  return folder(
    path,
    _field(config, "table"),
    label_columns=tuple(_field(config, "label_columns", ())),
    meta_columns=tuple(_field(config, "meta_columns", ())),
    healthy_column=_field(config, "healthy_column"),
    split_column=_field(config, "split"),
    pattern=_field(config, "pattern"),
    group_unknown=_field(config, "group_unknown") or "refuse",
    **named,
  )


def _olives(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.olives import LABELS, olives

  return olives(
    path,
    _field(config, "split") or "2",
    tuple(_field(config, "label_columns", ())) or LABELS,
    clinical_table=_field(config, "table"),
    train_table=_field(config, "train_table"),
    test_table=_field(config, "test_table"),
  )


def _kermany(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.kermany import kermany

  return kermany(path)


def _medmnist(path: str, config: Any) -> Dataset:
  from gcl_jax.data.medmnist import medmnist

  return medmnist(path, healthy_class=_field(config, "healthy_column"))


def _tfds(path: str, config: Any) -> Dataset:
  from gcl_jax.data.tfds_source import tfds_source

  columns = ("id_column", "group_column")
  named = {c: getattr(config, c) for c in columns if _field(config, c)}
  return tfds_source(
    path,
    _field(config, "table"),
    label_columns=tuple(_field(config, "label_columns", ())),
    meta_columns=tuple(_field(config, "meta_columns", ())),
    healthy_column=_field(config, "healthy_column"),
    group_unknown=_field(config, "group_unknown") or "refuse",
    **named,
  )


def _field(config: Any, name: str, default: Any = "") -> Any:
  """A field, or the default where the configuration has no such field."""
  return getattr(config, name, default)


_LOADERS = {
  "octdl": _octdl,
  "folder": _folder,
  "olives": _olives,
  "kermany": _kermany,
  "medmnist": _medmnist,
  "tfds": _tfds,
}
