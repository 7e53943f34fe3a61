"""What several sections of the report say in the same words."""

from typing import Any

import numpy as np

from gcl_jax.engine.telemetry import read_metrics
from gcl_jax.methods.severity.images import Images


def throughput(context: Any) -> dict[str, dict]:
  """Name of each fit or sweep -> images/s, data wait, memory, compile time."""
  found = {}
  for stage in context.stage.inputs:
    found |= context.manifest(stage)["throughput"]
  return found


def history(context: Any, stage: str, fit: str) -> dict[str, tuple]:
  """Metric -> (steps, values) that a fit of a stage logged."""
  series: dict[str, tuple[list, list]] = {}
  for record in read_metrics(context.workdir / stage):
    if record["name"] != fit:
      continue
    for name, value in record.items():
      if name not in ("name", "step", "time") and value is not None:
        steps_, values = series.setdefault(name, ([], []))
        steps_.append(record["step"])
        values.append(value)
  return series


def classes_of(images: Images) -> np.ndarray:
  """A word per image: healthy, its labels, or unknown."""
  words = []
  for row in range(len(images)):
    labels = [n for n in images.labels if images.table[n][row] == 1]
    specific = [n for n in labels if n != "diseased"]
    if images.healthy[row]:
      words.append("healthy")
    elif len(specific) == 1:
      words.append(specific[0])
    elif len(specific) > 1:
      words.append("several")
    else:
      words.append("diseased" if images.diseased[row] else "unknown")
  return np.array(words)


def interval(metric: dict | None) -> str:
  """A metric in words, as 0.812 [0.755, 0.861]; or undefined."""
  if not metric or metric["value"] is None:
    return "undefined"
  if metric["low"] is None:
    return f"{metric['value']:.3f}"
  return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
