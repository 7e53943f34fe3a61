"""Paired differences between arms of segmentation, for page and log."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from gcl_jax.pipeline import gains, report_comparisons
from gcl_jax.pipeline.report import Metrics
from gcl_jax.report import charts, html

_PARTS = {"eval": "test volumes", "ood": "other data"}


def families(
  config: ConfigDict, metrics: Metrics, arms: Sequence[str]
) -> dict[str, dict[str, dict]]:
  """The differences among the metrics of a run, family by family.

  Returns:
    What is compared, such as "Dice (test volumes, M = 2)" -> {"gcl against
    scratch": entry}; HD95 says how many pairs of volume, class and fit are
    undefined in either arm and left out of both.
  """
  found, titles = {}, gains.titles(config.segment)
  for labelled in config.segment.labelled:
    m = gains.label(labelled)
    for part, prefix in gains.PARTS.items():
      for metric, word in gains.DIFFERENCES.items():
        entries = {}
        for arm in reversed(arms):
          for other in arms:
            key = f"segment/{arm}@{m}/{prefix}{word}_over_{other}"
            if key in metrics:
              name = f"{arm} against {other}"
              entries[name + _left_out(metrics, key)] = metrics[key]
        if entries:
          found[f"{titles[metric]} ({_PARTS[part]}, M = {m})"] = entries
  return found


def _left_out(metrics, key) -> str:
  missing = metrics.get(f"{key}/undefined")
  if not missing or not missing["value"]:
    return ""
  return f" ({missing['value']} of {missing['n']} left out)"


def section(
  config: ConfigDict, metrics: Metrics, arms: Sequence[str]
) -> list[html.Section]:
  """A table of each family; no section where nothing is compared.

  Args:
    config: of the run.
    metrics: of the run.
    arms: the method's own last.
  """
  found = families(config, metrics, arms)
  if not found:
    return []
  text = (
    "Every difference is paired by volume, draw and seed. Figures are over test"
    " patients and draws of labelled patients; a lower HD95 is better."
  )
  tables = [report_comparisons.table(found[of], of) for of in found]
  return [html.Section("Against the other arms", [html.Text(text), *tables])]


def lines(
  config: ConfigDict, metrics: Metrics, arms: Sequence[str]
) -> list[str]:
  """The same as lines for the log."""
  found = families(config, metrics, arms)
  return [
    line for of in found for line in report_comparisons.lines(found[of], of)
  ]


def figure(by_arm: Metrics, own: str) -> html.Figure:
  """Gains in Dice over training from scratch, the method's own standing out.

  Args:
    by_arm: name of arm and M -> entry.
    own: name of the method's own arm.
  """
  picture = charts.bars(
    by_arm,
    xlabel="gain in Dice over scratch",
    highlight=[name for name in by_arm if name.startswith(f"{own},")],
    reference=("no gain", 0.0),
  )
  return html.Figure(
    picture,
    "Difference to the same U-Net trained from random weights on the same"
    " labelled patients with the same seeds, paired by volume.",
  )
