"""Facts of a finished run as short sentences, out of its JSON files.

No function here fails on a missing key or on a value of another kind: what is
not there is left out, or is a `BLANK`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Found = tuple[list[str], str]  # lines of a cell, and where they stand
BLANK = "not in the run: fill in"
_NUMBERS = ("value", "low", "high")  # of a figure, printed first


class Run(NamedTuple):
  """The JSON files of a run.

  Attributes:
    config: of config.json: the configuration under `config`, `versions`, ...
    report: report.json.
    manifests: stage -> its manifest.json.
    files: names of the files beside them.
  """

  config: dict[str, Any]
  report: dict[str, Any]
  manifests: dict[str, dict[str, Any]]
  files: frozenset[str] = frozenset()


def at(tree: Any, dotted: str, default: Any = None) -> Any:
  """The value under a dotted name, `default` where there is none.

  >>> at({"a": {"b": 1}}, "a.b"), at({"a": 2}, "a.b")
  (1, None)
  """
  for name in dotted.split("."):
    if not isinstance(tree, dict) or tree.get(name) is None:
      return default
    tree = tree[name]
  return tree


def mapping(tree: Any, dotted: str) -> dict[str, Any]:
  """The object under a dotted name, {} where there is none."""
  found = at(tree, dotted)
  return found if isinstance(found, dict) else {}


def text(value: Any) -> str:
  """A setting in words, an empty one as "none"."""
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, list):
    return f"({', '.join(map(text, value))})" if value else "none"
  if isinstance(value, float):
    return f"{value:.4g}"
  return str(value) if str(value) else "none"


def named(tree: Any, names: Sequence[str]) -> str:
  """Settings by name, such as "data.limit 0"; "" where none is there."""
  if all(at(tree, name) is None for name in names):
    return ""
  return ", ".join(f"{name} {text(at(tree, name, BLANK))}" for name in names)


def fields(run: Run, wanted: Callable[[str], bool]) -> dict[str, list[str]]:
  """Settings of the methods' own sections by name.

  Sections of data, preparation and report, and single settings, are left out.

  Args:
    run: the run.
    wanted: dotted name within a section, such as "views.blur" -> whether it is
      asked for.

  Returns:
    section -> ["name value", ...]
  """
  found = {}
  for section, values in mapping(run.config, "config").items():
    other = section.endswith("data") or section in ("preprocess", "report")
    if other or not isinstance(values, dict):
      continue
    kept = [f"{n} {text(v)}" for n, v in _flat(values) if wanted(n)]
    if kept:
      found[section] = kept
  return found


def _flat(values: dict, prefix: str = "") -> list[tuple[str, Any]]:
  pairs = []
  for name, value in values.items():
    if isinstance(value, dict):
      pairs += _flat(value, f"{prefix}{name}.")
    else:
      pairs.append((f"{prefix}{name}", value))
  return pairs


def figures(
  run: Run, wanted: Callable[[str, dict], bool], key: str = "metrics"
) -> list[str]:
  """Figures of report.json as "name 0.812 [0.755, 0.861] (n 40)".

  Every further number or word of an entry stands in the brackets.

  Args:
    run: the run.
    wanted: (name, entry) -> whether it is asked for.
    key: of report.json.
  """
  return [
    f"{name} {figure(entry)}"
    for name, entry in mapping(run.report, key).items()
    if isinstance(entry, dict) and wanted(name, entry)
  ]


def figure(entry: dict[str, Any]) -> str:
  """A figure with its interval and all else that its entry holds."""
  value, low, high = (entry.get(name) for name in _NUMBERS)
  shown = "undefined" if value is None else _number(value)
  if low is not None and high is not None:
    shown += f" [{_number(low)}, {_number(high)}]"
  elif isinstance(entry.get("range"), list):
    shown += f" (range {' to '.join(map(_number, entry['range']))})"
  more = [
    f"{name} {text(found)}"
    for name, found in entry.items()
    if name not in _NUMBERS and isinstance(found, int | float | str)
  ]
  return f"{shown} ({', '.join(more)})" if more else shown


def _number(value: Any) -> str:
  return f"{value:.3f}" if isinstance(value, float) else text(value)
