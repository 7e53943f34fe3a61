"""Curves of pre-training: losses of every arm, and monitors over the arms."""

from collections.abc import Mapping

from gcl_jax.engine import results
from gcl_jax.engine.context import Context
from gcl_jax.methods.pixel_global import arms
from gcl_jax.report import charts, html

LOSSES = ("loss", "loss/global", "loss/pixel")
# Logged name -> label of the axis, and what to look for.
MONITORS = {
  "uncertainty": (
    "mean uncertainty s",
    "0: all passes of Monte Carlo dropout agree.",
  ),
  "weight_spread": (
    "standard deviation of the weights",
    "Their mean is 1: near 0 the weighting does nothing.",
  ),
  "gap": (
    "mean |S(P) - P|",
    "What the stabilizer moves; where it grows while the loss falls, it and"
    " not the network explains the other view.",
  ),
  "pairs": ("pairs of a cell", "Matched cells in the other view."),
  "unmatched": ("share without a pair", "Images whose views share no cell."),
  "spread/pixel": (
    "variance of pixel embeddings",
    "Of unit vectors: 0 where all cells are alike (collapse), at most 1.",
  ),
  "spread/pooled": (
    "variance of pooled embeddings",
    "Of unit vectors: 0 where all images are alike (collapse), at most 1.",
  ),
  "effective_rank/pixel": (
    "effective rank of pixel embeddings",
    "Directions that embeddings take; 1 where all are alike.",
  ),
  "effective_rank/pooled": (
    "effective rank of pooled embeddings",
    "Directions that embeddings take; 1 where all are alike.",
  ),
}


def histories(context: Context) -> dict[str, dict[str, tuple]]:
  """Arm -> logged name -> (steps, values), of every arm that is pre-trained."""
  return {
    arm: results.history(context, arm, arm)
    for arm in arms.trained(context.config)
  }


def sections(context: Context) -> list[html.Section]:
  """Losses arm by arm, and one chart for every monitor."""
  found = histories(context)
  losses = [figure for arm in found if (figure := _losses(arm, found[arm]))]
  monitors = [figure for name in MONITORS if (figure := _monitor(name, found))]
  sections = [("Pre-training", losses), ("Collapse and weights", monitors)]
  return [html.Section(*section) for section in sections if section[1]]


def _losses(arm: str, history: Mapping[str, tuple]) -> html.Figure | None:
  logged = {name: history[name] for name in LOSSES if name in history}
  if not logged:
    return None
  return html.Figure(
    charts.curves(logged, "loss"),
    f"Arm {arm}: the loss and its terms. Losses of arms are not on one scale.",
  )


def _monitor(name: str, found: Mapping[str, Mapping]) -> html.Figure | None:
  """One logged figure of all arms that have it."""
  lines = {arm: logged[name] for arm, logged in found.items() if name in logged}
  if not lines:
    return None
  label, caption = MONITORS[name]
  return html.Figure(charts.curves(lines, label), caption)
