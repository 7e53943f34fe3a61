"""The section of a report about paired differences."""

from collections.abc import Mapping

from gcl_jax.engine import results
from gcl_jax.evaluation.comparisons import verdict
from gcl_jax.report import html

HEADERS = ("comparison", "difference", "p", "p, Holm", "smallest", "verdict")


def table(entries: Mapping[str, dict], of: str) -> html.Table:
  """One family of paired differences.

  Args:
    entries: what is compared, in words -> entry of `comparisons.family`.
    of: the figure that is compared, such as "AUROC".
  """
  rows = [
    [
      name,
      results.interval(entry),
      *(_p(entry[key]) for key in ("p", "p_holm")),
      entry["smallest"],
      verdict(entry),
    ]
    for name, entry in entries.items()
  ]
  tested = max((entry["family"] for entry in entries.values()), default=0)
  caption = (
    f"Differences in {of} on the same evaluation groups, 95 % intervals."
    f" Holm: corrected for the {tested} comparisons of this family. Smallest:"
    " the difference that these groups would show with a probability of 0.8."
  )
  return html.Table(HEADERS, rows, caption, align="lrrrrl")


def lines(entries: Mapping[str, dict], of: str) -> list[str]:
  """The same as lines of text, for the log."""
  return [
    f"{name}, {of}: {results.interval(entry)}, {conclusion(entry)}"
    for name, entry in entries.items()
  ]


def conclusion(entry: dict) -> str:
  """Verdict, p by Holm and the smallest difference, in words."""
  if entry.get("p") is None:
    return verdict(entry)
  words = [verdict(entry)]
  if entry.get("p_holm") is not None:
    words.append(f"p by Holm {_p(entry['p_holm'])}")
  if entry.get("smallest") is not None:
    words.append(f"a difference of {entry['smallest']:.3f} could be shown")
  return ", ".join(words)


def _p(value: float | None) -> str:
  if value is None:
    return "-"
  return "< 0.001" if value < 0.001 else f"{value:.3f}"
