"""Image files below a folder; kind, class and patient by their names.

Names are compared in canonical form (see `text`) and opened as stored.
"""

import collections
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from gcl_jax.data import formats
from gcl_jax.data.files import folder_of
from gcl_jax.data.text import one_form, warn_of_meetings
from gcl_jax.data.unknown_patients import log_unknown
from gcl_jax.errors import ConfigError, DataError


def scan(root: pathlib.Path) -> list[pathlib.Path]:
  """Lists everything below the root with the suffix of an image, sorted.

  Hidden entries are skipped. A folder with such a suffix is listed too and
  fails when it is read, so that it is reported rather than skipped.
  """
  found = []
  for where, folders, names in os.walk(root):
    like_images = [name for name in folders if known_suffix(name)]
    folders[:] = [
      name
      for name in folders
      if name not in like_images and not name.startswith(".")
    ]
    found += [
      pathlib.Path(where, name)
      for name in (*names, *like_images)
      if known_suffix(name) and not name.startswith(".")
    ]
  return sorted(found)


def files_named(
  folder: str | os.PathLike, pattern: str
) -> dict[str, pathlib.Path]:
  """Finds NIfTI files whose name without suffix matches a pattern in full.

  Hidden files are skipped: archives packed on macOS hold a second file "._NAME"
  for each file.

  Args:
    folder: where to look, at any depth.
    pattern: regular expression for the name without .nii or .nii.gz.

  Returns:
    name in canonical form -> file, sorted.

  Raises:
    DataError: not a folder, or two files of one name.
  """
  found: dict[str, pathlib.Path] = {}
  for file in scan(folder_of(folder)):
    whole = one_form(file.name)
    name = re.sub(r"(?i)\.nii(\.gz)?$", "", whole)
    if name == whole or not re.fullmatch(pattern, name):
      continue
    if name in found:
      raise DataError(f"{file}: {found[name]} has the same name; remove one")
    found[name] = file
  return dict(sorted(found.items()))


def pairs_named(
  folder: str | os.PathLike, pattern: str
) -> dict[str, tuple[pathlib.Path, pathlib.Path | None]]:
  """Maps names to their NAME_image and NAME_label (None if missing)."""
  images = files_named(folder, f"{pattern}_image")
  labels = files_named(folder, f"{pattern}_label")
  return {
    name.removesuffix("_image"): (
      file,
      labels.get(f"{name.removesuffix('_image')}_label"),
    )
    for name, file in images.items()
  }


def files_by_stem(
  folder: str | os.PathLike, names: Sequence[str]
) -> list[pathlib.Path]:
  """Finds one image for every name, at any depth and with any known suffix.

  Args:
    folder: where to look.
    names: str [N], file names without suffix.

  Returns:
    The file of each name.

  Raises:
    DataError: images that are not there, with their number, or a name that two
      files have.
  """
  found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
  for file in scan(folder_of(folder)):
    name = one_form(file.name)
    found[name[: -len(known_suffix(name))]].append(file)
  wanted = [one_form(str(name)) for name in names]
  missing = [name for name in wanted if name not in found]
  if missing:
    raise DataError(
      f"{folder}: no image {missing[0]!r} ({len(missing)} of {len(wanted)} are"
      " missing); add them, or cut the table to the images that are there"
    )
  twice = [name for name in wanted if len(found[name]) > 1]
  if twice:
    first, second = found[twice[0]][:2]
    raise DataError(
      f"{first}: {second} has the same name ({len(twice)} such images); remove"
      " one"
    )
  return [found[name][0] for name in wanted]


def known_suffix(name: str) -> str:
  """Returns the suffix of an image or volume, "" for any other name."""
  name = name.lower()
  return max(
    (s for s in formats.SUFFIXES if name.endswith(s)), key=len, default=""
  )


def from_names(
  root: pathlib.Path,
  pattern: str,
  wanted: Sequence[str],
  healthy: str,
  unknown: str,
) -> tuple[dict, list[pathlib.Path], tuple[str, ...]]:
  """Reads columns, files and labels of a folder from its file names."""
  files = scan(root)
  if not files:
    raise DataError(
      f"{root}: no image below this folder;"
      f" known: {', '.join(formats.SUFFIXES)}"
    )
  stored = [file.relative_to(root).as_posix() for file in files]
  ids = [one_form(name) for name in stored]
  _check_forms(root, stored, ids)
  pattern, healthy = one_form(pattern), one_form(healthy)
  classes, groups = _matched(ids, pattern)
  if ids != stored:
    written = _matched(stored, pattern)
    warn_of_meetings(written[0], classes, f"{root}, classes in the names")
    warn_of_meetings(written[1], groups, f"{root}, patients in the names")
  groups = np.array(groups)
  blank = groups == ""
  if blank.any() and unknown == "refuse":
    raise DataError(
      f"{root}: no patient for {ids[int(blank.argmax())]!r} ({blank.sum()} such"
      " files); give data.pattern with (?P<group>...), or a table, or"
      " group_unknown=image if every image is of another patient"
    )
  if unknown == "image":
    groups = np.where(blank, ids, groups)
  keep = groups != ""
  if keep.any() and blank.any():
    log_unknown(str(root), int(blank.sum()), unknown)
  if not keep.any():
    raise DataError(f"{root}: the pattern {pattern!r} finds no patient at all")
  wanted = [one_form(name) for name in wanted]
  columns, labels = class_columns(np.array(classes)[keep], wanted, healthy)
  columns = {"id": np.array(ids)[keep], "group": groups[keep], **columns}
  return columns, [files[i] for i in np.flatnonzero(keep)], labels


def _check_forms(root: pathlib.Path, stored: list[str], ids: list[str]) -> None:
  """Refuses two files whose names have the same canonical form."""
  first: dict[str, str] = {}
  for name, text in zip(stored, ids, strict=True):
    other = first.setdefault(text, name)
    if other != name:
      raise DataError(
        f"{root}: {ascii(other)} and {ascii(name)} look alike and count as one"
        " name; rename or remove one"
      )


def _matched(ids: list[str], pattern: str) -> tuple[list[str], list[str]]:
  """Reads class and patient of each file, "" where its name has none."""
  try:
    found = [re.search(pattern, name) for name in ids]
    known = re.compile(pattern).groupindex
  except re.error as error:
    raise ConfigError(f"pattern {pattern!r}: {error}") from error
  strange = set(known) - {"label", "group"}
  if strange or (pattern and not known):
    raise ConfigError(
      f"pattern {pattern!r}: name its groups (?P<label>...) and (?P<group>...)"
    )
  parents = [pathlib.PurePosixPath(name).parent.name for name in ids]
  groups = [m.groupdict().get("group") or "" if m else "" for m in found]
  if "label" not in known:
    return parents, groups
  return [m["label"] or "" if m else "" for m in found], groups


def class_columns(
  classes: np.ndarray, wanted: Sequence[str] = (), healthy: str = ""
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Makes one-against-the-rest columns of the class name of each image.

  Args:
    classes: str [N]; "" is an unknown class, nan in every column.
    wanted: classes to make columns of; () means all but the healthy one.
    healthy: the class that is healthy, "" for none.

  Returns:
    name -> float64 [N] of 1, 0, nan (with `healthy` and `diseased` if there
    is a healthy class), and the names that are labels.

  Raises:
    DataError: `wanted` or `healthy` is not a class, or a class has the name of
      another column.
  """
  names = sorted(set(classes.tolist()) - {""})
  for name in (*wanted, *([healthy] if healthy else [])):
    if name not in names:
      raise DataError(f"no class {name!r}; classes: {', '.join(names)}")
  taken = {"id", "group", "split"}.intersection(names)
  if taken:
    raise DataError(f"a class may not be named {taken.pop()!r}; rename it")
  labels = tuple(wanted or (n for n in names if n != healthy))
  unknown = classes == ""
  columns = {
    label: np.where(unknown, np.nan, classes == label) for label in labels
  }
  if healthy:
    columns["healthy"] = np.where(unknown, np.nan, classes == healthy)
    if "diseased" not in names:
      columns["diseased"] = 1 - columns["healthy"]
      labels = labels if wanted else (*labels, "diseased")
  return columns, labels
