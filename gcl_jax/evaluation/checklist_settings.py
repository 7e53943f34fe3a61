"""What the settings of a run say about the items of the reporting checklist.

Every function takes a `Run` and returns the lines of a cell, none for a blank,
and the place where they stand.
"""

import pathlib
from collections.abc import Callable

from gcl_jax.evaluation.checklist_facts import (
  BLANK,
  Found,
  Run,
  at,
  fields,
  mapping,
  named,
  text,
)

# Readers that draw their images.
SYNTHETIC = (
  *("phantom", "fundus_phantom", "heart", "organs"),
  *("eye_fundus", "eye_oct"),
)
_TRAINING = frozenset(
  (
    *("steps", "epochs", "batch_size", "patients_per_batch", "optimizer"),
    *("learning_rate", "encoder_rate", "momentum", "weight_decay", "schedule"),
    *("warmup", "warmup_epochs", "labelled", "draws", "seeds", "fractions"),
    *("solver", "images_per_bin", "crop_scale", "flip", "brightness"),
    *("contrast", "saturation", "hue", "jitter", "grayscale", "blur", "noise"),
  )
)
_LENGTH = ("steps", "epochs", "solver")
_SELECTION = ("select", "validation_fraction", "eval_every", "patience")
_SEVERAL = ("folds",)
_WEIGHTS = ("class_weights", "balanced")
_FILES = ("weights", "pretrained")  # settings that would name a file
_INITIAL = ("initialiser", *_FILES)
_ELSEWHERE = (*_SELECTION, *_SEVERAL, *_WEIGHTS, *_INITIAL, "bootstrap")


def source(run: Run) -> Found:
  """The data sets: reader, files and fingerprint."""
  lines = []
  for section, values in mapping(run.config, "config").items():
    reader = at(values, "name")
    if not section.endswith("data") or not reader:
      continue
    drawn = " (images drawn by the program)" if reader in SYNTHETIC else ""
    files = [
      f"{key} {pathlib.PurePath(str(values[key])).name}"
      for key in ("path", "table", "train_table", "test_table")
      if values.get(key)
    ]
    lines.append(", ".join([f"{section}: reader {reader}{drawn}", *files]))
  if lines and (print_ := at(run.config, "data.fingerprint")):
    lines.append(f"fingerprint of the table {str(print_)[:12]}")
  return lines, "config.json: config.data, data"


def subsets(run: Run) -> Found:
  """What was taken of the data sets, and what was set apart."""
  names, lines = ("ood", "classes", "modality", "label_columns"), []
  for section, values in mapping(run.config, "config").items():
    if not section.endswith("data") or not at(values, "name"):
      continue
    limit = values.get("limit")
    groups = BLANK if limit is None else f"at most {limit} groups"
    groups = "all groups" if limit == 0 else groups
    kept = [f"{n} {text(values[n])}" for n in names if values.get(n)]
    lines.append(f"{section}: {', '.join([groups, *kept])}")
  return lines, "config.json: config.data"


def preparation(run: Run) -> Found:
  """Settings of the preparation of images."""
  found = mapping(run.config, "config.preprocess")
  lines = [", ".join(f"{n} {text(v)}" for n, v in found.items())]
  return lines if found else [], "config.json: config.preprocess"


def groups_unknown(run: Run) -> Found:
  """What was done with images without a patient."""
  meaning = {
    "refuse": "an image without a patient is refused",
    "exclude": f"images without a patient were left out; how many: {BLANK}",
    "image": "an image without a patient is a group of its own",
    "volume": "a volume without a patient is a group of its own",
  }
  setting, lines, where = at(run.config, "config.data.group_unknown"), [], []
  if setting:
    where.append("config.json: config.data.group_unknown")
    words = meaning.get(str(setting), BLANK)
    lines.append(f"data.group_unknown {setting}: {words}")
  own = at(run.report, "data.own_group")
  if own is not None:
    where.append("report.json: data.own_group")
    lines.append(f"images or volumes whose group is their own id: {own}")
  return lines, "; ".join(where)


def split(run: Run) -> Found:
  """How the parts were made, and what crosses them."""
  data = mapping(run.config, "config.data")
  if not data:
    return [], ""
  drawn = named(data, ("eval_fraction", "split_seed"))
  lines = [
    "by group (patient): a split of the data set is kept where it has one,"
    f" other groups are drawn whole: {drawn or BLANK}",
    *([f"split {text(data['split'])}"] if data.get("split") else []),
    f"allow_group_overlap {text(data.get('allow_group_overlap', BLANK))};"
    f" groups in two parts: {at(run.report, 'data.overlapping_groups', BLANK)}",
    f"copies in two parts (duplicates): {text(data.get('duplicates', BLANK))}",
  ]
  if data.get("near_copies"):
    found = at(run.report, "data.near_copies", BLANK)
    lines.append(f"evaluation images that look like a training image: {found}")
  else:
    found = "not looked for" if "near_copies" in data else BLANK
    lines.append(f"evaluation images that look like a training image: {found}")
  return lines, "config.json: config.data; report.json: data"


def protocol(run: Run) -> Found:
  """What pre-training may see of the evaluation part."""
  words = {
    "strict": "nothing of the evaluation part",
    "transductive": "its images without their labels",
  }
  found = at(run.report, "protocol")
  lines = [f"{found}: {words.get(str(found), BLANK)}"] if found else []
  return lines, "report.json: protocol"


def model(run: Run) -> Found:
  """Settings of the model and of the method, section by section."""

  def wanted(name):
    last = name.rsplit(".", 1)[-1]
    augmented = name.startswith("views.")
    return not augmented and last not in {*_TRAINING, *_ELSEWHERE}

  head = [
    f"{name} {text(found)}"
    for name in ("method", "arms")
    if (found := at(run.config, f"config.{name}"))
  ]
  lines = ([", ".join(head)] if head else []) + _sections(run, wanted)
  if lines:
    lines.append("settings that other settings leave unused are listed as well")
  return lines, "config.json: config"


def initial_weights(run: Run) -> Found:
  """Where training starts."""
  lines = _sections(run, _last_in(_INITIAL))
  seed = at(run.config, "config.seed")
  if seed is not None and not fields(run, _last_in(_FILES)):
    lines.insert(0, f"no setting names a file of weights: random, seed {seed}")
  return lines, "config.json: config"


def training(run: Run) -> Found:
  """Steps, optimiser, views, seeds and draws."""

  def wanted(name):
    return name.startswith("views.") or _last_in(_TRAINING)(name)

  fits = fields(run, _last_in(_LENGTH))  # a pass over images has none
  lines = [
    f"{section}: {', '.join(values)}"
    for section, values in fields(run, wanted).items()
    if section in fits
  ]
  seed = at(run.config, "config.seed")
  if seed is not None:
    lines.insert(0, f"seed {seed}")
  return lines, "config.json: config"


def several(run: Run) -> Found:
  """Models that are averaged or take turns, not those that set a threshold."""
  found = fields(run, _last_in(_SEVERAL))
  lines = [
    f"{name}: {', '.join(values)}"
    for name, values in found.items()
    if name != "finetune"
  ]
  return lines, "config.json: config"


def class_weights(run: Run) -> Found:
  """Weights of classes and labels in a loss."""
  return _sections(run, _last_in(_WEIGHTS)), "config.json: config"


def selection(run: Run) -> Found:
  """Which state of a training is kept."""
  return _sections(run, _last_in(_SELECTION)), "config.json: config"


def tuned(run: Run) -> Found:
  """Settings that were chosen by looking at data."""
  found, where = at(run.config, "config.tuned"), "config.json: config.tuned"
  if not isinstance(found, list):
    return [], where
  lines = []
  if any(n.endswith("/threshold") for n in mapping(run.report, "metrics")):
    lines.append(
      "on training data: penalty, intercept and threshold of every classifier,"
      " by cross-fitting inside the labelled rows"
    )
  if not found:
    unsaid = f"nothing else is declared; if something was tuned: {BLANK}"
    return [*lines, unsaid.replace("else ", "") if not lines else unsaid], where
  for sentence in map(str, found):
    training_only = sentence.startswith("training: ")
    place = "training" if training_only else "evaluation"
    lines.append(f"on {place} data: {sentence.removeprefix('training: ')}")
  return lines, where


def software(run: Run) -> Found:
  """Versions and devices of all stages."""
  versions, devices = {}, {}
  for stage, manifest in run.manifests.items():
    for name, version in mapping(manifest, "versions").items():
      versions.setdefault(name, {}).setdefault(str(version), []).append(stage)
    mesh = mapping(manifest, "mesh")
    if mesh:
      words = ", ".join(f"{n} {text(v)}" for n, v in mesh.items())
      devices.setdefault(words, []).append(stage)
  lines = [", ".join(_by_stage(name, v) for name, v in versions.items())]
  lines = lines if versions else []
  lines += [_by_stage("mesh:", devices)] if devices else []
  return lines, "<stage>/manifest.json: versions, mesh"


def availability(run: Run) -> Found:
  """The program's version; the rest only the authors know."""
  version = at(run.config, "versions.gcl-jax")
  if version is None:
    return [], ""
  lines = [f"program: gcl-jax {version}", f"weights and data: {BLANK}"]
  return lines, "config.json: versions"


def _by_stage(name: str, found: dict[str, list[str]]) -> str:
  """ "jax 0.10", and the stages of each where they differ."""
  if len(found) == 1:
    return f"{name} {next(iter(found))}"
  each = [f"{value} ({', '.join(stages)})" for value, stages in found.items()]
  return f"{name} {' or '.join(each)}"


def _last_in(names) -> Callable[[str], bool]:
  return lambda name: name.rsplit(".", 1)[-1] in names


def _sections(run: Run, wanted: Callable[[str], bool]) -> list[str]:
  found = fields(run, wanted)
  return [f"{name}: {', '.join(values)}" for name, values in found.items()]
