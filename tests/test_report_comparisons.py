"""Words, lines and the table of paired differences."""

import pytest

from gcl_jax.pipeline import report, report_comparisons

FOUND = {
  "value": 0.04,
  "low": 0.01,
  "high": 0.07,
  "p": 0.0004,
  "p_holm": 0.0008,
  "smallest": 0.0312,
  "family": 2,
  "n": 30,
}
NONE = FOUND | dict.fromkeys(("low", "high", "p", "p_holm", "smallest"))


@pytest.mark.parametrize(
  "entry, words",
  [
    (FOUND, "above, p by Holm < 0.001, a difference of 0.031 could be shown"),
    (NONE, "not told apart"),
    (
      FOUND | {"low": -0.01, "p_holm": 0.25},
      "not told apart, p by Holm 0.250, a difference of 0.031 could be shown",
    ),
    (FOUND | {"low": None, "high": None, "p": 1.0, "smallest": None}, None),
  ],
)
def test_a_conclusion_says_verdict_p_and_what_could_be_shown(entry, words):
  words = words or "not told apart, p by Holm < 0.001"
  assert report_comparisons.conclusion(entry) == words
  (line,) = report_comparisons.lines({"a over b": entry}, "AUROC")
  assert line.startswith("a over b, AUROC: +0.040") and line.endswith(words)
  card = report._card(entry, "A", "paired")
  assert card.signed
  assert (card.note == f"paired: {words}") == (entry["p"] is not None)


def test_the_table_has_a_row_for_each_comparison_and_names_the_family():
  table = report_comparisons.table({"a": FOUND, "b": NONE}, "Dice")
  assert len(table.headers) == len(table.rows[0]) == len(table.align)
  assert table.rows[0][1:] == [
    *("+0.040 [+0.010, +0.070]", "< 0.001", "< 0.001", 0.0312, "above")
  ]
  assert table.rows[1][1:] == ["+0.040", "-", "-", None, "not told apart"]
  assert "2 comparisons" in table.caption and "Dice" in table.caption


def test_cards_of_few_draws_say_the_range():
  entry = {"value": 0.8, "low": None, "high": None, "range": [0.7, 0.9]}
  card = report._card(entry, "Dice", "mean")
  assert card.note == "mean; range over draws 0.700 to 0.900"
  assert card.interval is None and not card.signed
