"""The report's curves: pre-training of every arm, and fine-tuning."""

from typing import Any

from gcl_jax.engine import results
from gcl_jax.methods.gcl import arms, figures
from gcl_jax.report import charts, html

COMPARED = {
  "parameters": "the encoder's parameters",
  "features": "the encoder's map of each slice (their mean over slices)",
}


def sections(context: Any) -> list[html.Section]:
  """Pre-training, where an arm has any, and fine-tuning."""
  blocks = [
    block
    for arm in arms.names(context.config)
    if arm != "scratch"
    for block in _of_arm(context, arm)
  ]
  found = [html.Section("Pre-training", blocks)] if blocks else []
  return [*found, html.Section("Fine-tuning", [_fine_tuning(context)])]


def _of_arm(context, arm) -> list[html.Figure]:
  """Losses of one arm's meta labels, and how their gradients conflict."""
  history = results.history(context, arm, arm)
  blocks = []
  for prefix, branch in (("", ""), ("pixel_", " of pixels")):
    losses = _named(history, f"{prefix}loss/")
    if losses:
      blocks.append(_losses(context, arm, losses, prefix, branch))
    cosines = _named(history, f"{prefix}cos/")
    if cosines:
      share = {"share below 0": history[f"{prefix}conflict_rate"]}
      blocks.append(_cosines(context, arm, cosines | share, branch))
  return blocks


def _losses(context, arm, losses, prefix, branch) -> html.Figure:
  if prefix:
    return html.Figure(
      charts.curves(losses, "loss"),
      f"Arm {arm}: the contrast{branch} by each meta label.",
    )
  bound = figures.floor(context.config)
  return html.Figure(
    charts.curves(losses, "loss", references={"equal embeddings": bound}),
    f"Arm {arm}: the loss of each meta label. At log(n - 1) = {bound:.2f} all"
    " embeddings are equal and the label is not learned.",
  )


def _cosines(context, arm, curves, branch) -> html.Figure:
  level = arms.settings_of(context.config, arm).level
  return html.Figure(
    charts.curves(curves, "cosine", references={"no conflict": 0.0}),
    f"Arm {arm}: cosines of the meta labels' gradients{branch} by"
    f" {COMPARED[level]} before mitigation; below 0 they contradict each"
    " other. Beside them the share of the pairs that do.",
  )


def _fine_tuning(context) -> html.Figure:
  """The loss of the first fine-tune of GCL and of its baselines."""
  config = context.config
  compared = [arm for arm in figures.BASELINES if arm in config.arms]
  curves = {}
  for arm in (*compared, "gcl"):
    fit = figures.first_fit(config, arm)
    logged = results.history(context, "segment", fit.name)
    if "loss" in logged:
      curves[arm] = logged["loss"]
  first = figures.first_fit(config, "gcl")
  return html.Figure(
    charts.curves(curves, "loss"),
    "Cross-entropy and soft Dice of augmented slices:"
    f" {first.labelled or 'all'}"
    f" labelled patients, draw {first.draw}, seed {first.seed}.",
  )


def _named(history, prefix) -> dict:
  """The logged series under a prefix, without it."""
  return {
    name.removeprefix(prefix): series
    for name, series in history.items()
    if name.startswith(prefix)
  }
