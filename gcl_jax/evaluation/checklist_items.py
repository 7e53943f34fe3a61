"""Items of the reporting checklist: a row each, in the order of an article."""

from collections.abc import Callable
from typing import NamedTuple

from gcl_jax.evaluation import checklist_results as results
from gcl_jax.evaluation import checklist_settings as settings
from gcl_jax.evaluation.checklist_facts import Found, Run


class Item(NamedTuple):
  """A row of the checklist.

  Attributes:
    text: what is asked, in our words.
    claim: numbers in CLAIM 2024.
    tripod: numbers in TRIPOD+AI.
    found: what the run says; None where only the authors can.
  """

  text: str
  claim: tuple[int, ...]
  tripod: tuple[str, ...]
  found: Callable[[Run], Found] | None = None


_ONLY_AUTHORS = (
  Item(
    "Title, summary, background, intended use, health inequalities",
    (1, 2, 3),
    ("1", "2", "3"),
  ),
  Item("Aim and design, prospective or not", (4, 5, 6), ("4",)),
  Item("Setting, dates, eligibility, treatments", (8,), ("5b", "6")),
  Item("Acquisition of the images; how they were made anonymous", (11, 13), ()),
  Item(
    "Reference standard: definition, reason, readers, blinding, agreement",
    (14, 15, 16, 17, 18),
    ("8",),
  ),
)
ITEMS = (
  *_ONLY_AUTHORS,
  Item("Source of the data and reader", (7,), ("5a",), settings.source),
  Item("Subsets of the data", (10,), ("20a",), settings.subsets),
  Item(
    "Preparation of the images, which are the input",
    (9,),
    ("7", "9"),
    settings.preparation,
  ),
  Item(
    "Patients and images in each part", (35,), ("20a", "21"), results.counts
  ),
  Item(
    "Positives by part and label", (35, 38), ("20b", "21"), results.positives
  ),
  Item("Images left out", (35,), ("20a",), results.left_out),
  Item("Missing labels", (12,), ("11",), results.missing),
  Item("Images without a patient", (12, 20), ("11",), settings.groups_unknown),
  Item("Age, sex, device and the like by part", (36,), ("16", "20b", "20c")),
  Item("Intended sample size", (21,), ("10",)),
  Item("How the parts were made", (19, 20), ("12a",), settings.split),
  Item("What pre-training may see", (20,), ("12a",), settings.protocol),
  Item(
    "Model and settings of the method",
    (22,),
    ("12b", "12c", "22"),
    settings.model,
  ),
  Item("Initial weights", (24,), ("12c",), settings.initial_weights),
  Item("Training", (25,), ("12c",), settings.training),
  Item("Imbalance of classes: weights", (25,), ("13",), settings.class_weights),
  Item("Several models: folds", (27,), ("12c",), settings.several),
  Item(
    "Which state of a training is kept", (26,), ("12c",), settings.selection
  ),
  Item("What was tuned on which data", (26,), ("12c",), settings.tuned),
  Item("Software and devices", (23,), ("12c",), settings.software),
  Item("Output and thresholds", (28,), ("15",), results.thresholds),
  Item(
    "Figures with intervals",
    (28, 37, 38),
    ("12e", "23a"),
    results.main_figures,
  ),
  Item("Method of the intervals", (29,), ("12e",), results.intervals),
  Item("Calibration", (37,), ("12e", "23a"), results.calibration),
  Item(
    "Comparisons, corrected for their number",
    (29,),
    ("12e",),
    results.comparisons,
  ),
  Item("Sensitivity to settings, seeds, centres", (30,), ("12d", "23b")),
  Item("Explanations of single results", (31,), ()),
  Item("Subgroups and fairness", (30,), ("14", "23a")),
  Item("Failures", (39,), ("23a",), results.failures),
  Item(
    "Internal, external and out-of-distribution test",
    (32, 33),
    ("16", "23b"),
    results.tests,
  ),
  Item("Predictions of single cases", (22,), ("12g",), results.predictions),
  Item("Updating of a model", (), ("12f", "24")),
  Item("Limitations that the run warns of", (40,), ("26",), results.warnings),
  Item("Meaning for practice; poor input; next steps", (41,), ("25", "27")),
  Item(
    "Protocol, registration, ethics, involvement of patients, funding,"
    " interests",
    (34, 42, 44),
    ("17", "18a", "18b", "18c", "18d", "19"),
  ),
  Item("Code, weights and data", (43,), ("18e", "18f"), settings.availability),
)
