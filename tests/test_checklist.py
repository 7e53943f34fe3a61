"""A reporting checklist says what the files of a run say, the rest is blank."""

import copy
import importlib
import json
import pathlib
import re
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

import gcl_jax.methods
from gcl_jax.engine import results
from gcl_jax.engine import settings as engine_settings
from gcl_jax.engine import stages as engine_stages
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.evaluation import checklist, comparisons, fits, intervals
from gcl_jax.evaluation.checklist_facts import BLANK
from gcl_jax.evaluation.checklist_items import ITEMS
from gcl_jax.pipeline import report

METHODS = sorted(
  path.parent.name
  for path in pathlib.Path(gcl_jax.methods.__path__[0]).glob("*/stages.py")
)


GROUPS = "groups (patients where known)"


def counted(number, groups):
  return {"images": number, "groups": groups}


LABEL = {
  "positives": counted(5, 4),
  "negatives": counted(20, 12),
  "missing": counted(3, 2),
}
CONFIG = {
  "config": {
    "method": "toy",
    "arms": ["random"],
    "seed": 3,
    "tuned": ["fit.steps by the AUROC of the test scans", "training: fit.rate"],
    "data": {
      "name": "folder",
      "path": "/home/somebody/scans",
      "limit": 0,
      "eval_fraction": 0.3,
      "split_seed": 7,
      "allow_group_overlap": False,
      "duplicates": "refuse",
      "near_copies": True,
      "group_unknown": "exclude",
    },
    "ood_data": {"name": ""},
    "preprocess": {"size": [48, 128], "flatten": True},
    "fit": {
      "widths": [8, 16],
      "initialiser": "he",
      "steps": 40,
      "select": "last",
      "folds": 2,
      "class_weights": False,
      "threshold_rule": "cross-fitted",
      "views": {"blur": 0.5},
    },
    "score": {"batch_size": 8},  # a pass over images, no training
    "probe": {"bootstrap": 500},
  },
  "data": {"fingerprint": "0123456789abcdef"},
  "versions": {"gcl-jax": "0.1.0"},
}
REPORT = {
  "method": "toy",
  "preset": "small",
  "seed": 3,
  "protocol": "strict",
  "data": {
    "parts": {
      "eval": counted(28, 13) | {"labels": {"fluid": LABEL}},
      "train": counted(60, 31) | {"labels": {}},
      "ood": counted(4, 2) | {"labels": {}},
    },
    "quarantine": 6,
    "overlapping_groups": 0,
    "near_copies": 2,
    "own_group": 1,
  },
  "metrics": {
    "toy/auroc": {"value": 0.8125, "low": 0.7, "high": 0.9, "n": 25},
    "toy/brier": {"value": 0.125, "low": None, "high": None, "n": 25},
    "toy/gain_over_random": {"value": 0.1, "low": 0.0, "high": 0.2, "n": 25},
    "toy/failure": {"value": 2, "low": None, "high": None, "n": 25},
    "toy/ood/dice/mean": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4},
    "toy@0.5/auroc": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 25},
  },
  "warnings": ["A | in a warning, and x<0.15."],
}
MANIFEST = {
  "versions": {"jax": "0.10.2"},
  "mesh": {"devices": 2, "kind": "cpu"},
}


def written(folder, config=CONFIG, report_=REPORT, manifest=MANIFEST):
  """The folder of a finished run."""
  (folder / "report").mkdir(exist_ok=True)
  for name, value in (
    ("config.json", config),
    ("report.json", report_),
    ("report/manifest.json", manifest),
  ):
    (folder / name).write_text(json.dumps(value))
  (folder / "predictions.csv").touch()
  return folder


def rows_of(text):
  """{item: (what the run says, where)} of a printed table."""
  lines = [line for line in text.splitlines() if line.startswith("|")]
  cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
  assert {len(row) for row in cells} == {5}  # a cell's own bars are escaped
  stripped = [[cell.strip() for cell in row] for row in cells[2:]]
  return {row[0]: (row[3], row[4]) for row in stripped}


def says(folder):
  return {k: v[0] for k, v in rows_of(checklist.main([str(folder)])).items()}


def test_every_cell_of_a_run_by_hand(tmp_path):
  found = says(written(tmp_path))
  expected = {
    "Source of the data and reader": (
      "data: reader folder, path scans<br>fingerprint of the table 0123456789ab"
    ),
    "Subsets of the data": "data: all groups",
    "Preparation of the images, which are the input": (
      "size (48, 128), flatten yes"
    ),
    "Patients and images in each part": (
      f"train: 31 {GROUPS}, 60 images<br>eval: 13 {GROUPS}, 28 images<br>ood: 2"
      f" {GROUPS}, 4 images"
    ),
    "Positives by part and label": (
      "eval, fluid: positive 5 images of 4 groups, negative 20 images of 12"
      " groups"
    ),
    "Initial weights": (
      "no setting names a file of weights: random, seed 3<br>fit: initialiser"
      " he"
    ),
    "Training": "seed 3<br>fit: steps 40, views.blur 0.5",
    "Imbalance of classes: weights": "fit: class_weights no",
    "Several models: folds": "fit: folds 2",
    "Which state of a training is kept": "fit: select last",
    "What was tuned on which data": (
      "on evaluation data: fit.steps by the AUROC of the test scans<br>on"
      " training data: fit.rate"
    ),
    "Software and devices": "jax 0.10.2<br>mesh: devices 2, kind cpu",
    "Output and thresholds": "fit: threshold_rule cross-fitted",
    "Calibration": "toy/brier 0.125 (n 25)",
    "Failures": "toy/failure 2 (n 25)",
    "What pre-training may see": "strict: nothing of the evaluation part",
    "Predictions of single cases": "predictions.csv, by id",
    "Limitations that the run warns of": (
      rf"A \| in a warning, and x\<0.15.<br>others: {BLANK}"
    ),
  }
  assert {name: found[name] for name in expected} == expected
  assert found["Images left out"].startswith("6 (unreadable")
  assert found["Missing labels"].startswith("eval, fluid: 3 images of 2 groups")
  assert f"how many: {BLANK}" in found["Images without a patient"]
  for words in (
    "eval_fraction 0.3, split_seed 7",
    "in two parts: 0",
    "image: 2",
  ):
    assert words in found["How the parts were made"]
  figures = found["Figures with intervals"].split("<br>")
  assert figures[0] == "toy/auroc 0.812 [0.700, 0.900] (n 25)"
  assert not any("@" in line or "/ood/" in line for line in figures)
  assert "4 of 6 figures have an interval" in found["Method of the intervals"]
  gains = found["Comparisons, corrected for their number"]
  assert gains.startswith("toy/gain_over_random 0.100 [0.000, 0.200]")
  assert BLANK in gains  # nothing was corrected
  tests = found["Internal, external and out-of-distribution test"]
  assert "part ood, 2 groups" in tests and "toy/ood/dice/mean 0.500" in tests
  assert "somebody" not in str(found)  # a path can name a person


def test_thresholds_and_balanced_losses_of_a_run_are_said(tmp_path):
  """Names and entries as `pipeline.judge` and `settings.finetune` have them."""
  changed, config = copy.deepcopy(REPORT), copy.deepcopy(CONFIG)
  before = says(written(tmp_path, report_=changed))["Method of the intervals"]
  entry = {"value": 0.375, "low": None, "high": None, "n": 25, "folds": 5}
  changed["metrics"]["probe/fluid/threshold"] = entry
  changed["metrics"]["probe/toy@0.1/fluid/threshold"] = entry
  config["config"]["finetune"] = {"steps": 3, "balanced": True}
  found = says(written(tmp_path, config, changed))
  lines = found["Output and thresholds"].split("<br>")
  assert lines[0] == "probe/fluid/threshold 0.375 (n 25, folds 5)"
  assert len(lines) == 2  # and the rule among the settings
  weights = found["Imbalance of classes: weights"].split("<br>")
  assert "finetune: balanced yes" in weights
  # A threshold is no figure that could have an interval.
  assert found["Method of the intervals"] == before


def test_what_only_the_authors_know_is_blank(tmp_path):
  found = rows_of(checklist.main([str(written(tmp_path))]))
  blank = {item.text for item in ITEMS if item.found is None}
  assert len(blank) > 8
  for item in blank:
    assert found[item] == (BLANK, "-")


def test_intervals_and_comparisons_say_of_which_kind_they_are(tmp_path):
  """Entries as `intervals`, `fits` and `comparisons` make them."""
  changed = copy.deepcopy(REPORT)
  metrics = changed["metrics"]
  values = np.random.default_rng(0).normal(0.2, 0.01, (9, 13))
  support = intervals.Support(40, 12)
  pair = comparisons.family({"x": comparisons.difference(-values[0], support)})
  metrics["toy/auroc_over_pca"] = pair["x"]
  metrics["toy/auroc"] = intervals.interval(values[0], support)
  metrics["toy/dice/mean"] = fits.over_fits(values, support, "plain")
  few = {"value": 0.5, "low": None, "high": None, "n": 3}
  metrics["toy/hd95/mean"] = few | {"range": [0.25, 0.75]}
  found = says(written(tmp_path, report_=json.loads(results.dumps(changed))))
  figures = found["Figures with intervals"].split("<br>")
  assert any(f.endswith("(n 40, groups 12)") for f in figures)
  assert "toy/hd95/mean 0.500 (range 0.250 to 0.750) (n 3)" in figures
  assert not any("_over_" in f for f in figures)
  kinds = found["Method of the intervals"].split("<br>")
  assert kinds[:3] == [
    "6 of 9 figures have an interval",
    "95 %, jackknife over groups, Student's t: 2 figures",
    "95 %, over fits (seeds, draws of labels) and groups: 1 figures",
  ]
  assert "a range over few draws, no interval: 1 figures" in kinds
  assert f"kind and level of the other intervals: {BLANK}" in kinds
  lines = found["Comparisons, corrected for their number"].split("<br>")
  line = next(line for line in lines if "auroc_over_pca" in line)
  assert line.endswith(": below")
  assert "p_holm" in line and "family 1" in line and "smallest" in line
  assert "Holm's method" in lines[-1] and BLANK not in lines[-1]


@pytest.mark.parametrize(
  ("file", "key", "item"),
  [
    (0, "data.fingerprint", None),
    (0, "config.tuned", "What was tuned on which data"),
    (0, "config.data", "How the parts were made"),
    (0, "config.data.name", "Source of the data and reader"),
    (0, "config.preprocess", "Preparation of the images, which are the input"),
    (0, "config.fit", "Which state of a training is kept"),
    (0, "versions", "Code, weights and data"),
    (1, "protocol", "What pre-training may see"),
    (1, "data", "Patients and images in each part"),
    (1, "data.parts", "Positives by part and label"),
    (1, "data.quarantine", "Images left out"),
    (1, "data.parts.eval.labels", "Missing labels"),
    (1, "metrics", "Figures with intervals"),
    (1, "metrics.toy/brier", "Calibration"),
    (1, "metrics.toy/failure", "Failures"),
    (1, "warnings", "Limitations that the run warns of"),
    (2, "versions", None),
  ],
)
def test_a_missing_key_is_a_blank(tmp_path, file, key, item):
  files = [copy.deepcopy(value) for value in (CONFIG, REPORT, MANIFEST)]
  *above, last = key.split(".")
  inner = files[file]
  for name in above:
    inner = inner[name]
  del inner[last]
  before, found = says(written(tmp_path)), says(written(tmp_path, *files))
  assert before.keys() == found.keys() and before != found
  if item:
    assert found[item] == BLANK and before[item] != BLANK


def test_an_answer_that_was_not_counted_is_a_blank(tmp_path):
  changed = copy.deepcopy(REPORT)
  label = changed["data"]["parts"]["eval"]["labels"]["fluid"]
  del label["missing"], label["negatives"]
  found = says(written(tmp_path, report_=changed))
  assert found["Missing labels"].startswith(f"eval, fluid: {BLANK}")
  positives = found["Positives by part and label"]
  assert positives.endswith(f"of 4 groups, negative {BLANK}")


def paths_of(value, prefix=()):
  """Every place in nested objects and lists."""
  if prefix:
    yield prefix
  if isinstance(value, dict):
    for name, inner in value.items():
      yield from paths_of(inner, (*prefix, name))


@pytest.mark.parametrize("other", [None, [], {}, "x", 3, [1], {"a": {"b": 1}}])
def test_no_value_of_another_kind_is_a_traceback(other):
  files = (CONFIG, REPORT, MANIFEST)
  for number, file in enumerate(files):
    for path in paths_of(file):
      changed = [copy.deepcopy(value) for value in files]
      inner = changed[number]
      for name in path[:-1]:
        inner = inner[name]
      inner[path[-1]] = other
      run = checklist.Run(changed[0], changed[1], {"report": changed[2]})
      assert len(rows_of(checklist.table(run))) == len(ITEMS), path


def test_every_number_of_both_guidelines_has_a_row():
  claim = {number for item in ITEMS for number in item.claim}
  tripod = {int(re.match(r"\d+", n)[0]) for item in ITEMS for n in item.tripod}
  assert claim == set(range(1, 45)) and tripod == set(range(1, 28))
  assert len({item.text for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize(
  ("name", "text", "words"),
  [
    ("report.json", None, "report.json is missing"),
    ("config.json", None, "config.json is missing"),
    ("report/manifest.json", None, "not the folder of a finished run"),
    ("report.json", "{", "cannot be read"),
    ("config.json", "[1]", "no JSON object"),
  ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(
  tmp_path, monkeypatch, capsys, name, text, words
):
  path = written(tmp_path) / name
  path.unlink() if text is None else path.write_text(text)
  monkeypatch.setattr(sys, "argv", ["checklist", str(tmp_path)])
  with pytest.raises(SystemExit) as stopped:
    checklist.entry()
  out, error = capsys.readouterr()
  assert stopped.value.code == 2 and not out
  assert error.count("\n") == 1 and words in error
  with pytest.raises(DataError, match="finished run"):
    checklist.read(tmp_path / "nowhere")


def test_the_table_is_written_to_a_file(tmp_path):
  folder, out = written(tmp_path), tmp_path / "table.md"
  assert str(out) in checklist.main([str(folder), f"--out={out}"])
  assert out.read_text() == checklist.main([str(folder)]) + "\n"


# config.tuned


def presets_of(method):
  module = importlib.import_module(f"gcl_jax.methods.{method}.config")
  for name in engine_settings.preset_names(method, module.PRESETS):
    yield module.get_config(name)


def stages_of(config):
  name = f"gcl_jax.methods.{config.method}.stages"
  return importlib.import_module(name).stages(config)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_preset_says_was_tuned_are_settings_that_it_has(method):
  found = 0
  for config in presets_of(method):
    assert isinstance(config.tuned, tuple)
    for sentence in config.tuned:
      names = re.findall(r"\b[a-z_]+\.[a-z_]+\b", sentence)
      found += len(names)
      assert names, sentence
      for name in names:
        engine_settings.value_of(config, name)
  assert found > 3


@pytest.mark.parametrize("method", METHODS)
def test_no_finished_stage_depends_on_what_was_tuned(method):
  config = next(iter(presets_of(method)))
  before = Context(config, pathlib.Path("."), None)
  other = copy.deepcopy(config)
  other.tuned = ("a", "b", "c")
  after = Context(other, pathlib.Path("."), None)
  for stage in stages_of(config):
    expected = engine_stages._settings(stage, before)
    assert engine_stages._settings(stage, after) == expected, stage.name


def test_the_command_line_can_say_what_was_tuned(monkeypatch):
  line = ["x", "--config.tuned=('a', 'training: b')"]
  monkeypatch.setattr(sys, "argv", line)  # absl looks there for the names
  values = flags.FlagValues()
  config = next(iter(presets_of(METHODS[0])))
  config_flags.DEFINE_config_dict("config", config, flag_values=values)
  values(line)
  assert values.config.tuned == ("a", "training: b")
  assert report.chosen(values.config.tuned) == ["Chosen on evaluation data: a."]
