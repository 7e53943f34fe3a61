"""Results of a finished run: report.json and the logged metrics."""

import json
from typing import Any

import numpy as np

from gcl_jax import disk
from gcl_jax.engine.context import Context
from gcl_jax.engine.telemetry import read_metrics


def write(
  context: Context, metrics: dict, notes: list[str], data: dict
) -> None:
  """Writes report.json of a run.

  Args:
    context: context of the stage `report`, whose inputs are listed as stages.
    metrics: flat name -> {value, low, high, n}.
    notes: warnings about the reliability of the metrics.
    data: what was counted of the data set.
  """
  config = context.config
  report = {
    "method": config.method,
    "preset": config.preset,
    "seed": config.seed,
    "protocol": config.protocol,
    "data": data,
    "metrics": metrics,
    "throughput": throughput(context),
    "stages": {
      name: context.manifest(name)["wall_s"] for name in context.stage.inputs
    },
    "warnings": notes,
  }
  text = json.dumps(json.loads(dumps(report)), indent=1, sort_keys=True)
  disk.write_text(context.workdir / "report.json", text + "\n")


def throughput(context: Context) -> dict[str, dict]:
  """Images/s, data wait, memory and compile time of each fit or map by name."""
  entries = {}
  for stage in context.stage.inputs:
    entries |= context.manifest(stage)["throughput"]
  return entries


def history(context: Context, stage: str, fit: str) -> dict[str, tuple]:
  """Metrics logged by a fit of a stage: name -> (steps, values)."""
  series: dict[str, tuple[list, list]] = {}
  for record in read_metrics(context.workdir / stage):
    if record["name"] != fit:
      continue
    for name, value in record.items():
      if name not in ("name", "step", "time") and value is not None:
        steps, values = series.setdefault(name, ([], []))
        steps.append(record["step"])
        values.append(value)
  return series


def interval(metric: dict | None) -> str:
  """Metric as text: 0.812 [0.755, 0.861], "undefined", differences with their
  sign, and a range over few draws as 0.812 (range 0.790 to 0.830)."""
  if not metric or metric["value"] is None:
    return "undefined"
  form = "{:+.3f}" if "p" in metric else "{:.3f}"
  text = form.format(metric["value"])
  if metric.get("range"):
    low, high = map(form.format, metric["range"])
    return f"{text} (range {low} to {high})"
  if metric["low"] is None:
    return text
  low, high = form.format(metric["low"]), form.format(metric["high"])
  return f"{text} [{low}, {high}]"


def dumps(value: Any) -> str:
  """JSON with numpy scalars and arrays turned into plain numbers."""
  return json.dumps(value, default=lambda x: np.asarray(x).tolist())
