"""Folder of a prepared TFDS data set, and a check of the classes it names.

tensorflow-datasets imports the module of every class that a data set names, and
searches for a data set of a given name in its own code, in registries and on
the network. The folder is therefore located here, and its files are checked
before tensorflow-datasets reads them.
"""

import json
import pathlib
import re
from typing import Any

from gcl_jax.data.files import read_bytes
from gcl_jax.errors import DataError

INFO, FEATURES = "dataset_info.json", "features.json"
MAX_BYTES = 2**26  # of either file: 64 MiB

_NAME = re.compile(
  r"(?P<name>[a-zA-Z]\w*)(?:/(?P<config>\w[\w+.-]*))?"
  r"(?::(?P<version>(?:\d+|\*)(?:\.(?:\d+|\*)){2}))?",
  re.ASCII,
)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
# A name without a dot (the "type" of a statistic) is never imported.
_CLASS = re.compile(
  r"[^.]*|tensorflow_datasets\.core\.features(?:\.[a-zA-Z]\w*)+", re.ASCII
)
# str.format would access attributes and pad a name to any length.
_TEMPLATE = re.compile(r"(?:\{[A-Z_]+\}|[^{}])*")
_RULES = {
  "pythonClassName": _CLASS,
  "python_class_name": _CLASS,  # the same field for protobuf's JSON parser
  "type": _CLASS,  # the same in old data sets
  "filepathTemplate": _TEMPLATE,
  "filepath_template": _TEMPLATE,
}
_JSON = ("json", "content")  # fields that hold JSON as text


def prepared_folder(path: pathlib.Path, name: str = "") -> pathlib.Path:
  """Finds the data set in a folder and checks its files.

  Args:
    path: the folder with dataset_info.json or up to three levels above it;
      with `name` the `data_dir` of tensorflow-datasets.
    name: NAME or NAME/CONFIG, either followed by :VERSION, in which "*" stands
      for any number. Of several versions the newest is taken, of several
      configurations none.

  Returns:
    The absolute path of the folder with dataset_info.json; a relative one could
    be read as a home folder or as a bucket of a cloud.

  Raises:
    DataError: no data set, or several; or as `check_names`.
  """
  found = _named(path, name) if name else _only(path)
  check_names(found)
  return found.absolute()


def check_names(folder: pathlib.Path) -> None:
  """Refuses a data set whose files name classes other than TFDS features.

  Raises:
    DataError: dataset_info.json or features.json is missing, too large, not
      JSON, or names another class or not a plain file name.
  """
  for file in (folder / INFO, folder / FEATURES):
    try:
      # The encoding is fixed: json would guess it from the bytes.
      text = read_bytes(file, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
      raise DataError(f"{file}: is not UTF-8 ({error.reason})") from error
    _check(file, _parsed(file, text))


def _parsed(file: pathlib.Path, text: str) -> Any:
  try:
    return json.loads(text, object_pairs_hook=_once)
  except (ValueError, RecursionError) as error:
    raise DataError(f"{file}: is not readable JSON ({error})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Refuses a repeated key, of which parsers may use either value."""
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError("a key is there twice")
  return found


def _check(file: pathlib.Path, value: Any) -> None:
  """Checks every text of the file, at any depth."""
  left = [value]
  while left:
    value = left.pop()
    if isinstance(value, list):
      left += value
    elif isinstance(value, dict):
      left += value.values()
      for key, text in value.items():
        if isinstance(text, str):
          _check_text(file, key, text)
          left += [_parsed(file, text)] if key in _JSON else []


def _check_text(file: pathlib.Path, key: str, text: str) -> None:
  if key in _RULES and not _RULES[key].fullmatch(text):
    what = (
      "a plain file name"
      if _RULES[key] is _TEMPLATE
      else "a class of tensorflow_datasets.core.features"
    )
    raise DataError(
      f"{file}: {key} is {text[:100]!r}, expected {what}; no data set may name"
      " other code"
    )


def _only(path: pathlib.Path) -> pathlib.Path:
  """The one folder with dataset_info.json at or up to three levels below."""
  levels = ("", "*/", "*/*/", "*/*/*/")
  found = [
    file.parent for level in levels for file in path.glob(f"{level}{INFO}")
  ]
  if len(found) == 1:
    return found[0]
  what = "no prepared data set" if not found else f"{len(found)} data sets"
  raise DataError(f"{path}: {what} here; name the folder with {INFO}")


def _named(path: pathlib.Path, name: str) -> pathlib.Path:
  """The folder path/NAME/VERSION or path/NAME/CONFIG/VERSION of a name."""
  asked = _NAME.fullmatch(name)
  if not asked:
    raise DataError(
      f"{path}: {name!r} does not name a data set; expected NAME or"
      " NAME/CONFIG, either with :VERSION, such as mnist:3.0.1"
    )
  home = path / asked["name"]
  plain = _versions(home)
  configs = {f.name: v for f in home.glob("*/") if (v := _versions(f))}
  if not asked["config"] and not plain and len(configs) > 1:
    raise DataError(
      f"{path}: {name!r} has {len(configs)} configurations; name one of"
      f" {', '.join(asked['name'] + '/' + c for c in sorted(configs))}"
    )
  config = asked["config"] or ("" if plain else "".join(configs))
  versions = configs.get(config, []) if config else plain
  return home / config / _newest(path, name, asked["version"], versions)


def _versions(home: pathlib.Path) -> list[str]:
  """Versions of the data sets directly below a folder, oldest first."""
  found = [file.parent.name for file in home.glob(f"*/{INFO}")]
  found = [version for version in found if _VERSION.fullmatch(version)]
  return sorted(found, key=lambda version: [*map(int, version.split("."))])


def _newest(
  path: pathlib.Path, name: str, asked: str | None, versions: list[str]
) -> str:
  wanted = (asked or "*.*.*").split(".")
  for version in reversed(versions):
    parts = zip(wanted, version.split("."), strict=True)
    if all(want in ("*", part) for want, part in parts):
      return version
  there = f"; its versions are {', '.join(versions)}" if versions else ""
  raise DataError(f"{path}: no data set {name!r} here{there}")
