"""Data sets: `load` makes one of a configuration."""

import difflib
from typing import Any

from gcl_jax.data.files import existing
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError

NAMES = ("phantom", "octdl", "folder", "olives", "kermany", "medmnist", "tfds")
NAMES += ("heart", "acdc", "hvsmr", "mmwhs", "chd", "hippocampus")
NAMES += ("volumes",)


def load(config: Any) -> Dataset:
  """The data set that `config.data` describes.

  Args:
    config: with the field `name` (one of `NAMES`) and, where the data set
      uses them: `path`, `table` (folder, volumes: the CSV; olives: the
      clinical table; tfds: the builder), `split` (folder: the column; olives:
      the published split), `id_column`, `path_column`, `group_column`,
      `healthy_column` (medmnist: the healthy class), `label_columns`,
      `meta_columns`, `pattern`, `group_unknown`, `train_table`, `test_table`,
      `phantom`, `heart` (settings of the two phantoms). Volumes: `axis`
      ("" = the usual one), `cine` (acdc), `modality` (mmwhs: "ct", "mr" or ""
      = both), `classes` (volumes), `ct_window` (mmwhs, chd, volumes; () =
      usual).

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
  if config.name == "heart":
    return _heart("", config)
  path = _field(config, "path")
  if not path:
    raise DataError(
      f"data set {config.name!r} needs a path: --config.data.path=... (or"
      " --config.healthy_data.path=... of the second set)"
    )
  existing(path)
  return _LOADERS[config.name](path, config)


def _heart(_: str, config: Any) -> Dataset:
  from gcl_jax.data.phantoms.heart import heart_phantom

  return heart_phantom(**config.heart)


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


def _acdc(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.acdc import acdc

  cine = bool(_field(config, "cine", False))
  return acdc(path, cine=cine, **_given(config, "axis"))


def _hvsmr(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.hvsmr import hvsmr

  return hvsmr(path, **_given(config, "axis"))


def _mmwhs(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.mmwhs import mmwhs

  return mmwhs(path, **_given(config, "axis", "modality", "ct_window"))


def _chd(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.chd import chd

  return chd(path, **_given(config, "axis", "ct_window"))


def _hippocampus(path: str, config: Any) -> Dataset:
  from gcl_jax.data.public.hippocampus import hippocampus

  return hippocampus(path, **_given(config, "axis"))


def _volumes(path: str, config: Any) -> Dataset:
  from gcl_jax.data.volume_files import volume_table

  table = _field(config, "table")
  if not table:
    raise DataError(
      "data set 'volumes' needs a table: --config.data.table=... with the"
      " columns id, image, label, patient, phase"
    )
  named = _given(config, "axis", "classes", "meta_columns", "ct_window")
  return volume_table(path, table, **named)


def _given(config: Any, *names: str) -> dict[str, Any]:
  """The fields that are there and not blank; the reader has the defaults."""
  return {name: getattr(config, name) for name in names if _field(config, name)}


def _field(config: Any, name: str, default: Any = "") -> Any:
  """A field, or the default where the configuration has no such field."""
  return getattr(config, name, default)


_LOADERS = {
  "heart": _heart,
  "acdc": _acdc,
  "hvsmr": _hvsmr,
  "mmwhs": _mmwhs,
  "chd": _chd,
  "hippocampus": _hippocampus,
  "volumes": _volumes,
  "octdl": _octdl,
  "folder": _folder,
  "olives": _olives,
  "kermany": _kermany,
  "medmnist": _medmnist,
  "tfds": _tfds,
}
