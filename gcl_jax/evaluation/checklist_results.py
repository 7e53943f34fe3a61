"""What report.json says about the items of the reporting checklist.

Every function takes a `Run` and returns the lines of a cell, none for a blank,
and the place where they stand.
"""

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
from gcl_jax.evaluation.comparisons import POWER, verdict
from gcl_jax.evaluation.intervals import LEVEL

_PARTS = "report.json: data.parts"
_METRICS = "report.json: metrics"
_ORDER = ("train", "outside_pool", "eval", "ood")
_MOST = 20  # lines of one kind in a cell


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
  """How many figures have an interval, and of which kind it is.

  Entries of the jackknife say how many groups they rest on. An older run has
  none that does: its bootstrap has a number of resamples in the settings.
  """
  every = [
    entry
    for name, entry in mapping(run.report, "metrics").items()
    if isinstance(entry, dict) and not name.endswith("/threshold")
  ]
  if not every:
    return [], ""
  has = [entry for entry in every if entry.get("low") is not None]
  lines = [f"{len(has)} of {len(every)} figures have an interval"]
  over = sum("fits" in entry for entry in has)
  known = sum("groups" in entry and "fits" not in entry for entry in has)
  level = f"{100 * LEVEL:g} %"
  for count, words in (
    (known, f"{level}, jackknife over groups, Student's t"),
    (over, f"{level}, over fits (seeds, draws of labels) and groups"),
  ):
    lines += [f"{words}: {count} figures"] if count else []
  ranges = sum(bool(entry.get("range")) for entry in every)
  if ranges:
    lines.append(f"a range over few draws, no interval: {ranges} figures")
  for section in ("probe", "report"):
    draws = at(run.config, f"config.{section}.bootstrap")
    if draws is not None:
      lines.append(f"resamples of a bootstrap: {section}.bootstrap {draws}")
  if known + over < len(has):
    lines.append(f"kind and level of the other intervals: {BLANK}")
  return lines, f"{_METRICS}; config.json: config"


def calibration(run: Run) -> Found:
  """Brier scores, slopes and calibration errors."""
  words = ("brier", "calibration", "slope")

  def wanted(name, _):
    return "@" not in name and any(word in name for word in words)

  return figures(run, wanted), _METRICS


def comparisons(run: Run) -> Found:
  """Paired differences with p, Holm's correction and a verdict."""
  found = {
    name: entry
    for name, entry in mapping(run.report, "metrics").items()
    if isinstance(entry, dict) and ("p" in entry or "gain_over" in name)
  }
  first = sorted(found, key=lambda name: ("@" in name, name))
  lines = [f"{n} {figure(found[n])}{_word(found[n])}" for n in first[:_MOST]]
  if len(first) > _MOST:
    lines.append(f"and {len(first) - _MOST} more")
  if any(at(entry, "p_holm") is not None for entry in found.values()):
    lines.append(
      "p_holm: corrected by Holm's method for the comparisons of a family;"
      " smallest: what these groups would show with a probability of"
      f" {POWER:g}"
    )
  elif lines:
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


def _word(entry: dict) -> str:
  """ ": above", ": below" or ": not told apart"; "" without an interval."""
  ends = (entry.get("low"), entry.get("high"))
  if not all(isinstance(end, int | float) for end in ends):
    return ""
  return f": {verdict(entry)}"


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
  words = ("/ood/", "undefined", "_over_", "threshold", "failure")
  return (
    "@" not in name
    and not any(word in name for word in words)
    and (name.count("/") < 2 or name.endswith("/mean"))
  )


def _is_mean(name: str) -> bool:
  return "@" not in name and name.endswith("/mean")
