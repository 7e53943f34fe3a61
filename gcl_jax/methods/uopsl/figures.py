"""Figures of the classifiers of all arms, and their paired differences."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.errors import DataError
from gcl_jax.evaluation import by_class, by_label, comparisons, intervals
from gcl_jax.methods.uopsl import arms, draws
from gcl_jax.pipeline import report_comparisons

Table = by_label.Table
FIGURES = ("accuracy", by_class.PAIRS, "macro_auroc")
UNSEEN, EVERY = "zeroshot/accuracy", "zeroshot/accuracy_of_all"


def metrics(
  found: draws.Sources,
  config: ConfigDict,
  names: Sequence[str],
  rows: np.ndarray,
  left: dict[str, Any],
) -> dict[str, dict]:
  """Figures of every arm at every number of labels.

  Args:
    found: both sets of images.
    config: of the run.
    names: the K classes that are learned.
    rows: int[R], the evaluation images of known class.
    left: `probabilities`, `probe` and `zeroshot` of stage `fundus`.

  Returns:
    `fundus/<arm>/<figure>@<labels>` of `by_class`, balanced accuracy among
    them; `fundus/<figure>@<labels>` of this method's own arm; likewise
    `probe/...`; `fundus/accuracy@<labels>_over_<arm>` and
    `fundus/confounded@..._over_<arm>`, paired differences, a family each;
    `fundus/confounded_accuracy` and `fundus/gain_over_text` at the number
    `fundus.headline`, the second undefined without that arm; and
    `zeroshot/<arm>/accuracy`, balanced over the classes that the fundus images
    in training lack, called among those; `zeroshot/<arm>/accuracy_of_all` of
    all images, called among all classes.
  """
  classes, groups = (found.fundus.table[c][rows] for c in ("class", "group"))
  number = {name: k for k, name in enumerate(names)}
  truth = np.array([number.get(c, -1) for c in classes.tolist()], int)
  pairs = [
    (number[a], number[b])
    for a, b in config.fundus.pairs
    if a in number and b in number
  ]
  made, result = {}, {}
  for kind, prefix in (("probabilities", "fundus"), ("probe", "probe")):
    tables = {
      (arm, name): by_class.table(truth, values, groups, pairs)
      for arm, by_count in left[kind].items()
      for name, values in by_count.items()
    }
    made[kind] = tables
    result |= _entries(tables, prefix, names)
    result |= _differences(tables, prefix)
  result |= _headline(config, result, made["probabilities"], groups)
  return result | zero_shot(found, config, names, rows, left["zeroshot"])


def check_pairs(config: ConfigDict, classes: Sequence[str]) -> None:
  """Refuses pairs of classes that neither kind of images has.

  Raises:
    DataError: names the first of them.
  """
  names = [name for pair in config.fundus.pairs for name in pair]
  if odd := [name for name in names if name not in classes]:
    near = difflib.get_close_matches(odd[0], classes, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(
      f"fundus.pairs: no image has class {odd[0]!r}{hint} (classes:"
      f" {', '.join(classes)})"
    )


def zero_shot(found, config, names, rows, by_arm) -> dict[str, dict]:
  """Accuracy by descriptions alone, of unseen classes and of all."""
  every = found.captions.classes
  classes, groups = (found.fundus.table[c][rows] for c in ("class", "group"))
  unseen = [k for k, name in enumerate(every) if name not in names]
  unseen = [k for k in unseen if (classes == every[k]).any()]
  truth = np.array([every.index(c) for c in classes.tolist()], int)
  at, result = draws.name_of(config.fundus.headline), {}
  for arm, by_count in by_arm.items():
    values = by_count[at]
    entries = {
      EVERY: by_class.evaluate(truth, values, groups)["accuracy"],
      UNSEEN: _nothing(groups),
    }
    if len(unseen) > 1:
      here = np.isin(truth, unseen)
      among = np.searchsorted(unseen, truth[here])
      entries[UNSEEN] = by_class.evaluate(
        among, values[here][:, unseen], groups[here]
      )["accuracy"] | {"chance": 1 / len(unseen)}
    for name, entry in entries.items():
      result[name.replace("/", f"/{arm}/")] = entry
      if arm == arms.OWN:
        result[name] = entry
  return result


def lines(config: ConfigDict, found: dict[str, dict]) -> list[str]:
  """The accuracies and what is gained over the other arms, for the log."""
  words = " ".join(
    f"{name} {value:.3f}"
    for name in draws.labelled_counts(config)
    if (value := found[f"fundus/accuracy@{label(name)}"]["value"]) is not None
  )
  at = label(draws.name_of(config.fundus.headline))
  prefix = f"fundus/accuracy@{at}_over_"
  gains = {
    f"gain over {name.removeprefix(prefix)}": entry
    for name, entry in found.items()
    if name.startswith(prefix)
  }
  return [
    f"balanced accuracy: {words}",
    *report_comparisons.lines(gains, f"balanced accuracy at {at} labels"),
  ]


def label(name: str) -> str:
  """A number of labels in the name of a figure.

  >>> label("m20"), label("all")
  ('20', 'all')
  """
  return name.removeprefix("m")


def _entries(tables, prefix, names) -> dict[str, dict]:
  result = {}
  for (arm, name), table in tables.items():
    entries = by_label.entries(table)
    for figure, entry in entries.items():
      if figure.startswith("auroc/"):
        figure = f"auroc/{names[int(figure.removeprefix('auroc/'))]}"
      elif "skipped" in entry:
        entry = entry | {"skipped": [names[int(k)] for k in entry["skipped"]]}
      result[f"{prefix}/{arm}/{figure}@{label(name)}"] = entry
      if arm == arms.OWN:
        result[f"{prefix}/{figure}@{label(name)}"] = entry
  return result


def _differences(tables, prefix) -> dict[str, dict]:
  """Paired differences of this method from every other arm, by figure."""
  result = {}
  for figure in ("accuracy", by_class.PAIRS):
    family = {
      f"{prefix}/{figure}@{label(name)}_over_{arm}": comparisons.difference(
        tables[arms.OWN, name].values[figure] - table.values[figure],
        table.supports[figure],
      )
      for (arm, name), table in tables.items()
      if arm != arms.OWN
    }
    result |= comparisons.family(family)
  return result


def _headline(config, found, tables, groups) -> dict[str, dict]:
  at = label(draws.name_of(config.fundus.headline))
  gain = found.get(f"fundus/accuracy@{at}_over_{arms.TEXT}")
  return {
    "fundus/confounded_accuracy": found[f"fundus/{by_class.PAIRS}@{at}"],
    "fundus/gain_over_text": gain or _nothing(groups, paired=True),
  }


def _nothing(groups, paired: bool = False) -> dict:
  """The entry of a figure that there is not."""
  support = intervals.support_of(groups)
  if paired:
    return comparisons.tested(np.nan, support, np.nan, 1.0)
  return intervals.entry(np.nan, support, "logit", np.nan, 1.0)
