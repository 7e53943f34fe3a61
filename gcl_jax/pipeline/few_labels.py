"""Encoders judged by classification with few labels.

Frozen features and a linear probe or nearest neighbours, or a fine-tune, on
nested fractions of the labelled training groups; metrics on the evaluation
groups with intervals by group, and differences that are paired by group.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.evaluation import by_label, comparisons
from gcl_jax.pipeline import report_comparisons
from gcl_jax.pipeline.judge import Judge, labelled
from gcl_jax.pipeline.prepared import Prepared

SUPERVISED = "supervised"  # the arm that is trained end to end
FINETUNED = "+finetune"  # behind the name of an encoder: trained on


def run_supervised(
  context: Context, section: ConfigDict, batch_size: int
) -> dict[str, Any]:
  """A stage: the same network from random weights on each label fraction.

  Args:
    context: of the stage; `config.finetune` and `config.probe.fractions`.
    section: settings of the encoder and of its views.
    batch_size: images predicted at a time.

  Returns:
    `probabilities` {fraction: float32[R, K]} and `chosen` {fraction: fields of
    `crossfit.Choice`, float64[K]}, `rows` int[R], the labelled evaluation
    images, and `classifiers`, the trained networks by name.
  """
  judge = Judge(context, section, batch_size)
  probabilities, chosen = {}, {}
  if not nothing_to_probe(judge.images):
    for fraction, rows in judge.fractions().items():
      key = f"{fraction:g}"
      found = judge.finetuned(rows, f"{SUPERVISED}@{key}")
      probabilities[key], chosen[key] = found
  return {
    "probabilities": probabilities,
    "chosen": chosen,
    "rows": judge.rows,
    "classifiers": judge.classifiers,
  }


def run(
  context: Context,
  section: ConfigDict,
  stages: Mapping[str, str],
  batch_size: int,
) -> dict[str, Any]:
  """A stage: probes of every encoder at every label fraction.

  Args:
    context: of the stage; `config.probe` and `config.finetune`.
    section: settings of the encoders and of their views.
    stages: name of an encoder in the tables -> stage that left it, this
      method's own first.
    batch_size: images at a time.

  Returns:
    `metrics` (JSON), `features` float32[N, D] of this method's encoder, `rows`
    int[R], the labelled evaluation images, by encoder and fraction
    `probabilities` float[R, K], `chosen` (fields of `crossfit.Choice`,
    float64[K]) and `heads` (fields of `probe.Head` by label), and
    `classifiers` (networks of the fine-tunes by name). Without labels no
    metrics, and `rows` of all evaluation images.
  """
  judge = Judge(context, section, batch_size)
  ours = next(iter(stages))
  if missing := nothing_to_probe(judge.images):
    context.telemetry.say(f"no probe: {missing}")
    return {
      "metrics": np.array("{}"),
      "features": judge.features(ours, stages[ours]),
      "rows": np.flatnonzero(judge.images.evaluation),
      "probabilities": {},
      "chosen": {},
      "heads": {},
      "classifiers": {},
    }
  parts, kept = judge.fractions(), None
  for name, stage in stages.items():
    if name == SUPERVISED:
      _record_supervised(judge, context.load(stage))
      continue
    features = judge.features(name, stage)
    kept = features if name == ours else kept
    judge.linear(features, parts, name)
    if context.config.probe.finetune:
      variables = context.load(stage)["encoder"]
      judge.finetune(variables, parts, name + FINETUNED)
  judge.metrics.update(differences(judge.tables, tuple(stages), parts))
  _bare_names(judge.metrics, f"probe/{ours}@{max(parts):g}/")
  main = main_family(judge.metrics, tuple(stages), parts)
  known = {
    name: entry for name, entry in main.items() if entry["p"] is not None
  }
  for line in report_comparisons.lines(known, "macro AUROC"):
    context.telemetry.say(line)
  return {
    "metrics": np.array(json.dumps(judge.metrics)),
    "features": kept,
    "rows": judge.rows,
    "probabilities": judge.probabilities,
    "chosen": judge.chosen,
    "heads": judge.heads,
    "classifiers": judge.classifiers,
    "train_sizes": np.array([len(r) for r in parts.values()]),
    "fractions": np.array(list(parts)),
  }


def _record_supervised(judge: Judge, artifact: dict) -> None:
  for fraction, values in artifact["probabilities"].items():
    chosen = artifact["chosen"][fraction]
    judge.record(SUPERVISED, float(fraction), values, chosen)


def nothing_to_probe(images: Prepared) -> str:
  """Why there can be no probe, in words; "" if there can."""
  if not images.labels:
    return "the data set has no label column (--config.data.label_columns)"
  for part, name in ((images.train, "training"), (images.evaluation, "eval")):
    if (labelled(images) & part).sum() < 2:
      return f"fewer than two images of the {name} part have a label"
  return ""


def opponents(names: Sequence[str]) -> list[tuple[str, str]]:
  """(ours, theirs): the own encoder and each arm, both as they are compared.

  Args:
    names: of the encoders, the method's own first. Fine-tunes are compared
      with fine-tunes and with the network trained end to end.
  """
  ours, *arms = names
  tuned = [arm if arm == SUPERVISED else arm + FINETUNED for arm in arms]
  return [(ours, arm) for arm in arms] + [
    (ours + FINETUNED, arm) for arm in tuned
  ]


def differences(
  tables: Mapping[str, by_label.Table],
  names: Sequence[str],
  fractions: Sequence[float],
) -> dict[str, dict]:
  """Paired differences of the own encoder from every arm at every fraction.

  There are three families, over all arms and fractions: the macro AUROC, the
  macro F1, and the AUROC of every label.

  Args:
    tables: "<encoder>@<fraction>" -> its figures; pairs of which one is absent
      are left out.
    names: of the encoders, the method's own first.
    fractions: of the labelled training groups.

  Returns:
    probe/<ours>@<fraction>/<figure>_over_<theirs> -> entry of
    `comparisons.family`.
  """
  families = {"macro_auroc": {}, "macro_f1": {}, "auroc": {}}
  for ours, theirs in opponents(names):
    for fraction in fractions:
      pair = [tables.get(f"{name}@{fraction:g}") for name in (ours, theirs)]
      if None in pair:
        continue
      for figure, entry in by_label.differences(*pair).items():
        family = families.get(figure.rsplit("/", 1)[-1])
        if family is not None:
          family[f"probe/{ours}@{fraction:g}/{figure}_over_{theirs}"] = entry
  return {
    name: entry
    for family in families.values()
    for name, entry in comparisons.family(family).items()
  }


def main_family(
  metrics: Mapping[str, dict],
  names: Sequence[str],
  fractions: Sequence[float],
  figure: str = "macro_auroc",
) -> dict[str, dict]:
  """Differences of a mean over labels, by what is compared, in words.

  Args:
    metrics: of the run, with those of `differences`.
    names, fractions: as for `differences`.
    figure: "macro_auroc" or "macro_f1".
  """
  return {
    f"{ours} over {theirs}, {100 * fraction:g} % of groups": metrics[key]
    for ours, theirs in opponents(names)
    for fraction in sorted(fractions, reverse=True)
    if (key := f"probe/{ours}@{fraction:g}/{figure}_over_{theirs}") in metrics
  }


def _bare_names(metrics: dict, prefix: str) -> None:
  """probe/<label>/auroc: this method's encoder, frozen, all labels."""
  for name in [n for n in metrics if n.startswith(prefix)]:
    metrics["probe/" + name.removeprefix(prefix)] = metrics[name]
