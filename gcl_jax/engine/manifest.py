"""Manifests of stages: array hashes, atomic JSON files, settings compared."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from gcl_jax import disk
from gcl_jax.errors import UserError

SCHEMA = 1
NAMES = ("begun.json", "manifest.json")  # mark the folder of a stage
PyTree = Any


def array_hashes(tree: PyTree) -> dict[str, dict[str, Any]]:
  """{path: {shape, dtype, sha256}} of every leaf, paths joined by "/".

  Numeric arrays are hashed as little-endian bytes in C order, string arrays
  (dtype "str") as their JSON list in UTF-8, typed PRNG keys by their key data.
  """
  return {path: _describe(leaf) for path, leaf in flatten(tree).items()}


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes JSON atomically: a crash leaves the complete old or new file."""
  disk.write_text(path, json.dumps(value, indent=1) + "\n")


def write_manifest(folder: str | pathlib.Path, manifest: dict) -> None:
  """Marks the stage in `folder` as finished; must be its last write."""
  write_json(pathlib.Path(folder) / "manifest.json", manifest)


def read_manifest(folder: str | pathlib.Path) -> dict | None:
  """Manifest of a finished stage, None if the stage is not finished.

  Raises:
    UserError: the file is not a manifest of a known format.
  """
  path = pathlib.Path(folder) / "manifest.json"
  if not path.exists():
    return None
  try:
    manifest = json.loads(path.read_text())
    schema = int(manifest["schema"])
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise UserError(
      f"{path} is damaged ({error}): delete {path.parent} and run again"
    ) from None
  if schema > SCHEMA:
    raise UserError(
      f"{path} has format {schema}, this program reads up to {SCHEMA}:"
      " install a newer version"
    )
  return manifest


def read_begun(folder: str | pathlib.Path) -> dict | None:
  """Settings a stage was begun with, None if there are none yet.

  Raises:
    UserError: the file cannot be read.
  """
  path = pathlib.Path(folder) / "begun.json"
  if not path.exists():
    return None
  try:
    found = json.loads(path.read_text())
    return found if "config" in found else None
  except (ValueError, TypeError, OSError) as error:
    raise UserError(
      f"{path} is damaged ({error}): delete {path.parent} and run again"
    ) from None


def refuse_other(
  found: dict, expected: dict, folder: pathlib.Path, state: str
) -> None:
  """Refuses a stage that was begun or finished with other settings.

  Args:
    found: the stage's manifest, or the settings it was begun with.
    expected: the same for this run.
    folder: the folder of the stage.
    state: "begun" or "finished", for the message.

  Raises:
    UserError: names the differences, in one line.
  """
  differences = []
  for part in ("method", "config", "inputs", "data"):
    old = flat(found.get(part), "" if part == "config" else part)
    new = flat(expected[part], "" if part == "config" else part)
    for key in differing(old, new):
      was, now = (_short(side.get(key, "absent")) for side in (old, new))
      differences.append(f"{key} {was} -> {now}")
  if differences:
    more = f" and {len(differences) - 8} more" if len(differences) > 8 else ""
    shown = ", ".join(differences[:8]) + more
    raise UserError(
      f"stage {folder.name} was {state} with other settings: {shown};"
      f" choose another --workdir, or delete {folder} to run it again"
    )


def manifest_sha256(folder: str | pathlib.Path) -> str:
  """SHA-256 of a stage's manifest.json, recorded by later stages."""
  data = (pathlib.Path(folder) / "manifest.json").read_bytes()
  return hashlib.sha256(data).hexdigest()


def flatten(tree: PyTree) -> dict[str, Any]:
  """{path: leaf}, paths joined by "/"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def is_key(leaf: Any) -> bool:
  """Whether a leaf is a typed PRNG key."""
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def to_plain(value: Any) -> Any:
  """A ConfigDict, dict or tuple as JSON would give it back."""
  if hasattr(value, "to_dict"):
    value = value.to_dict()
  return json.loads(json.dumps(value, default=str))


def _describe(leaf):
  name = str(leaf.dtype) if is_key(leaf) else None
  values = np.asarray(jax.random.key_data(leaf) if name else leaf)
  if values.dtype.kind == "U":
    name = "str"
    data = json.dumps(values.tolist(), ensure_ascii=False).encode()
  else:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    data = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
  return {
    "shape": list(values.shape),
    "dtype": name or values.dtype.name,
    "sha256": hashlib.sha256(data).hexdigest(),
  }


def differing(old: dict, new: dict) -> list[str]:
  """Keys whose values differ, those of `old` first."""
  paths = [*old, *(path for path in new if path not in old)]
  return [path for path in paths if old.get(path) != new.get(path)]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
  """{dotted name: leaf} of nested dicts.

  >>> flat({"a": {"b": 1}, "c": 2})
  {'a.b': 1, 'c': 2}
  """
  if not isinstance(value, dict):
    return {prefix: value}
  found = {}
  for key, inner in value.items():
    found |= flat(inner, f"{prefix}.{key}" if prefix else key)
  return found


def _short(value):
  text = value if isinstance(value, str) else json.dumps(value)
  # Twelve digits distinguish hashes and fingerprints.
  return f"{text[:12]}..." if len(text) == 64 else text
