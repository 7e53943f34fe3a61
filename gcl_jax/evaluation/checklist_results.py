"""What report.json says about the items of the reporting checklist.

Every function takes a `Run` and returns the lines of a cell, none for a blank,
and the place where they stand.
"""

import collections

from gcl_jax.evaluation.checklist_facts import (
  BLANK,
  Found,
  Run,
  at,
  fields,
  figure,
  figures,
  mapping,
)

_PARTS = "report.json: data.parts"
_METRICS = "report.json: metrics"
_ORDER = ("train", "outside_pool", "eval", "ood")
_MOST = 20  # warnings of one kind in a cell


def counts(run: Run) -> Found:
  """Groups and images (or volumes and slices) of each part."""
  lines = []
  for part, entry in _parts(run).items():
    kinds = [
      f"{entry[name]} {word}"
      for name, word in _UNITS.items()
      if entry.get(name) is not None
    ]
    more = " (a second set, in training only)" if part == "outside_pool" else ""
    lines.append(f"{part}{more}: {', '.join(kinds) or BLANK}")
  return lines, _PARTS


_UNITS = {
  "groups": "groups (patients where known)",
  "volumes": "volumes",
  "slices": "slices",
  "images": "images",
}


def positives(run: Run) -> Found:
  """Positive and negative images (or volumes) and groups of each label."""
  lines = []
  for part, entry in _parts(run).items():
    for label, found in mapping(entry, "labels").items():
      yes, no = (_count(found, answer) for answer in ("positives", "negatives"))
      lines.append(f"{part}, {label}: positive {yes}, negative {no}")
  return lines, _PARTS


def missing(run: Run) -> Found:
  """Images (or volumes) without an answer, by part and label."""
  lines, seen = [], False
  for part, entry in _parts(run).items():
    for label, found in mapping(entry, "labels").items():
      seen = True
      counted = mapping(found, "missing")
      if any(counted.values()) or not counted:
        lines.append(f"{part}, {label}: {_count(found, 'missing')}")
  if lines:
    lines.append(
      "they are neither trained on nor scored for that label, and not imputed"
    )
  elif seen:
    lines = ["none"]
  return lines, _PARTS


def left_out(run: Run) -> Found:
  """Number of images that stage data left out."""
  found = at(run.report, "data.quarantine")
  if found is None:
    return [], ""
  reasons = "; the reason of each is listed in report.html" if found else ""
  where = "report.json: data.quarantine"
  return [f"{found} (unreadable, or copies of a test image){reasons}"], where


def thresholds(run: Run) -> Found:
  """Thresholds among figures and settings."""
  lines = figures(run, lambda name, _: "threshold" in name and "@" not in name)
  for section, values in fields(run, lambda n: "threshold" in n).items():
    lines.append(f"{section}: {', '.join(values)}")
  return lines, f"{_METRICS}; config.json: config"


def main_figures(run: Run) -> Found:
  """Figures of the method itself with their intervals, means before labels."""
  lines = figures(run, _is_main)
  more = len(mapping(run.report, "metrics")) - len(lines)
  if lines and more:
    lines.append(f"and {more} more, by label, class, arm or amount of labels")
  return lines, _METRICS


def intervals(run: Run) -> Found:
  """How intervals were made, by the entries themselves or the settings."""
  metrics = mapping(run.report, "metrics")
  has = [
    n for n in metrics if at(metrics, n) and at(metrics[n], "low") is not None
  ]
  if not metrics:
    return [], ""
  lines = [f"{len(has)} of {len(metrics)} figures have an interval"]
  methods = collections.Counter(
    found
    for name in has
    for key in ("method", "interval")
    if isinstance(found := at(metrics[name], key), str)
  )
  lines += [f"{method}: {count} figures" for method, count in methods.items()]
  for section in ("probe", "report"):
    draws = at(run.config, f"config.{section}.bootstrap")
    if draws is not None:
      lines.append(f"resamples of a bootstrap: {section}.bootstrap {draws}")
  if not methods:
    lines.append(f"kind and level of the interval: {BLANK}")
  return lines, f"{_METRICS}; config.json: config"


def calibration(run: Run) -> Found:
  """Brier scores, slopes and calibration errors."""
  words = ("brier", "calibration", "slope")

  def wanted(name, _):
    return "@" not in name and any(word in name for word in words)

  return figures(run, wanted), _METRICS


def comparisons(run: Run) -> Found:
  """Paired differences, with corrected p where the run has them."""
  lines = figures(run, lambda *_: True, "comparisons")
  listed = at(run.report, "comparisons")
  for entry in listed if isinstance(listed, list) else ():
    if isinstance(entry, dict):
      lines.append(f"{entry.get('name', '')} {figure(entry)}".strip())
  if lines:
    return lines, "report.json: comparisons"
  lines = figures(run, lambda name, _: "gain_over" in name and "@" not in name)
  if lines:
    lines.append(f"p and correction for the number of comparisons: {BLANK}")
  return lines, _METRICS


def failures(run: Run) -> Found:
  """Cases that failed, as counted by the run."""

  def wanted(name, _):
    return "@" not in name and ("failure" in name or "undefined" in name)

  return figures(run, wanted), _METRICS


def tests(run: Run) -> Found:
  """Parts that the run was tested on, and figures out of distribution."""
  names = {
    "eval": "internal: part eval",
    "ood": "out of distribution: part ood",
  }
  lines = [
    f"{words}, {at(_parts(run)[part], 'groups', BLANK)} groups"
    for part, words in names.items()
    if part in _parts(run)
  ]
  if not lines:
    return [], _PARTS
  lines += figures(run, lambda name, _: "/ood/" in name and _is_mean(name))
  lines.append(f"external test, of another centre: {BLANK}")
  return lines, f"{_PARTS}; {_METRICS}"


def predictions(run: Run) -> Found:
  """The tables that stage report leaves."""
  tables = ("predictions.csv", "scores.csv")
  lines = [name for name in tables if name in run.files]
  return [f"{', '.join(lines)}, by id"] if lines else [], ", ".join(lines)


def warnings(run: Run) -> Found:
  """The warnings of the report."""
  found = at(run.report, "warnings")
  if not isinstance(found, list):
    return [], ""
  lines = [str(line) for line in found[:_MOST]]
  if len(found) > _MOST:
    lines.append(f"and {len(found) - _MOST} more")
  others = f"others: {BLANK}" if lines else f"the run has none; others: {BLANK}"
  return [*lines, others], "report.json: warnings"


def _parts(run: Run) -> dict[str, dict]:
  found = mapping(run.report, "data.parts")
  order = [name for name in _ORDER if name in found]
  order += [name for name in found if name not in _ORDER]
  return {name: found[name] for name in order if isinstance(found[name], dict)}


def _count(found: dict, answer: str) -> str:
  """Such as "12 images of 9 groups"."""
  counted = mapping(found, answer)
  kind = "volumes" if "volumes" in counted else "images"
  if kind not in counted:
    return BLANK
  return f"{counted[kind]} {kind} of {counted.get('groups', BLANK)} groups"


def _is_main(name: str, _) -> bool:
  words = ("/ood/", "undefined", "gain_over", "threshold")
  return (
    "@" not in name
    and not any(word in name for word in words)
    and (name.count("/") < 2 or name.endswith("/mean"))
  )


def _is_mean(name: str) -> bool:
  return "@" not in name and name.endswith(("/mean", "gain_over_scratch"))
