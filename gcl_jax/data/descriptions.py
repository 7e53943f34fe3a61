"""Descriptions of classes in words, from a YAML file.

    druse:                      # the name of a class
      with_place:               # texts that say where its lesions lie
        - yellow deposits at the fovea
      without_place:            # texts that do not
        - yellow deposits

Both lists are needed, whichever is read, so that a file serves both.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from gcl_jax.data.files import read_bytes
from gcl_jax.data.quiet import one_error
from gcl_jax.data.text import one_form
from gcl_jax.errors import DataError

LISTS = ("with_place", "without_place")
EYE_WORDS = pathlib.Path(__file__).with_name("phantoms") / "eye_words.yaml"
_MAX_BYTES = 2**20


def read(
  path: str | os.PathLike, classes: Sequence[str], *, places: bool = True
) -> dict[str, tuple[str, ...]]:
  """Reads the descriptions of classes, in the order of `classes`.

  Args:
    path: the file; `EYE_WORDS` is that of the eye phantom.
    classes: names; the file may have more.
    places: whether the texts say where lesions lie.

  Returns:
    Class -> its texts, one or more.

  Raises:
    DataError: the file cannot be read or is no such YAML, a class is not in it
      or named twice, or its texts are no list, none, or no texts.
  """
  found = _parsed(path)
  if not isinstance(found, dict):
    raise DataError(f"{path}: needs a class, a colon and its lists at the top")
  chosen = LISTS[0] if places else LISTS[1]
  return {name: _texts(path, found, name)[chosen] for name in classes}


def _parsed(path: str | os.PathLike) -> Any:
  """What the file says; refuses a class that is named twice."""
  content = read_bytes(path, _MAX_BYTES)
  with one_error(path, "YAML file"):
    try:
      top = yaml.compose(content, yaml.SafeLoader)
      found = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
      line = error.problem_mark.line + 1
      raise DataError(f"{path}, line {line}: is not YAML") from None
  pairs = top.value if isinstance(top, yaml.MappingNode) else []
  names = [key.value for key, _ in pairs]
  twice = [name for name in names if names.count(name) > 1]
  if twice:
    raise DataError(f"{path}: describes the class {twice[0]!r} more than once")
  return found


def _texts(path, found: dict, name: str) -> dict[str, tuple[str, ...]]:
  """Both lists of a class, checked."""
  if name not in found:
    raise DataError(f"{path}: has no class {name!r}")
  lists = found[name]
  if not isinstance(lists, dict) or set(lists) != set(LISTS):
    raise DataError(
      f"{path}: class {name!r} needs the lists {' and '.join(LISTS)}, no others"
    )
  for title, texts in lists.items():
    where = f"{path}: {title} of class {name!r}"
    if not isinstance(texts, list):
      raise DataError(f"{where} is not a list")
    if not texts:
      raise DataError(f"{where} is empty")
    if not all(isinstance(text, str) and text.strip() for text in texts):
      raise DataError(f"{where} has an entry that is no text, or a blank one")
  return {title: tuple(map(one_form, texts)) for title, texts in lists.items()}
