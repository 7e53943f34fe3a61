"""Every setting of the GCL method, with the reason for its default.

`get_config(preset)` returns the whole configuration; any field can be
overridden on the command line (`--config.pretrain.mitigator=pcgrad`). The
paper's formulas are not public to us: what it leaves open is a named switch
here, and `methods/gcl/README.md` lists the gaps.
"""

from typing import Any

import ml_collections

from gcl_jax.engine.settings import check_each_once, with_preset
from gcl_jax.errors import ConfigError
from gcl_jax.gradients.mitigation.quadratic import LARGEST
from gcl_jax.gradients.pixel_filter import VARIANTS
from gcl_jax.methods.gcl import arms, rules
from gcl_jax.methods.gcl.steps import MITIGATORS
from gcl_jax.pipeline import checks, settings
from gcl_jax.pipeline.label_draws import UNTRAINED

# Of presets: nine draws cost as much as three by three seeds, and are
# independent. An interval over three draws would be far too narrow.
DRAWS, SEEDS = tuple(range(9)), (0, 1, 2)


def get_config(preset: str = "demo") -> ml_collections.ConfigDict:
  """The configuration of a preset.

  Args:
    preset: one of `PRESETS`.

  Raises:
    ConfigError: no such preset; the message names the nearest one.
  """
  return with_preset(_defaults(), preset, PRESETS)


def _defaults() -> ml_collections.ConfigDict:
  config = settings.run("gcl")
  config.data = settings.volume_data()
  # Another scanner, for testing only.
  config.ood_data = settings.volume_data()
  config.preprocess = ml_collections.ConfigDict(
    dict(
      size=(64, 64),
      spacing=(),  # mm between rows and between columns; () keeps the slices'
    )
  )
  config.unet = settings.unet()  # the paper: 48, 96, 192, 384, 768
  config.pretrain = _pretrain()
  # What GCL is compared with, see arms.py: each is a stage of its own.
  config.arms = ("scratch",)
  config.segment = settings.segment()
  config.report = ml_collections.ConfigDict(dict(overlays=6, bootstrap=1000))
  return config


def _pretrain() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      labels=("position<0.15", "patient", "phase"),  # rules.py
      # Each slice takes the meta labels of another one, by the seed: what is
      # left of a gain is not owed to them.
      permute=False,
      # One head per label removes the conflict in the embedding; the paper's
      # figure shows a single one (dossier of the toy measurement, README).
      heads="per_label",  # or shared
      mitigator="cone",  # or mean, pcgrad, cagrad, min_norm
      cagrad_c=0.5,  # of cagrad: how far from the mean gradient, 0 = the mean
      level="parameters",  # or features: one backward pass instead of K
      norm=False,  # scale the K gradients to their mean norm first
      pacing="",  # or soft, hard: self-paced weights of pairs
      pacing_range=(1.0, 8.0),  # loss of a pair that still counts: first, last
      pixel="",  # or F0, F1, F2, F3, random: the pixel branch and its filter
      pixel_weight=0.5,
      pixel_start=0.15,  # share of the steps before relevance means anything
      theta=0.3,  # least relevance of a pixel
      rho=0.25,  # share of the candidate pairs that are kept
      pixel_negatives=(256, 64),  # of other images, of the same one
      temperature=0.1,
      head_hidden=128,
      head_out=128,
      batch_size=32,
      patients_per_batch=8,  # each with as many slices; 0 = any slices
      steps=400,
      # SGD 0.1 as in the paper's relatives wants hundreds of epochs: after 150
      # steps it left the demo worse than no pre-training at all.
      optimizer="adamw",
      learning_rate=2e-3,
      momentum=0.9,  # of sgd and lars
      weight_decay=1e-5,
      schedule="cosine",
      warmup=0.05,  # share of the steps
      views=settings.warped_views(),
    )
  )


def _demo(config: ml_collections.ConfigDict) -> None:
  """The heart phantom on two fast CPU cores in 4 min 14 s, more than
  half of it for 18 fine-tunes."""
  config.data.name = "heart"
  config.ood_data.name = "heart"
  config.ood_data.heart.update(patients=12, domain="other", seed=1)
  config.unet.widths = (8, 16, 32, 64)
  config.pretrain.update(steps=300)
  config.segment.update(draws=DRAWS, seeds=SEEDS, steps=150)
  config.report.bootstrap = 500
  config.tuned = (
    "pretrain.optimizer, pretrain.steps, segment.steps and both learning rates,"
    " by the Dice of the evaluation patients (seed 0)",
    "pretrain.level, by the Dice of the evaluation patients",
  )


def _tiny(config: ml_collections.ConfigDict) -> None:
  """The demo in under a minute, for tests; its figures mean nothing."""
  _demo(config)
  config.tuned = ()
  config.data.heart.update(patients=8, slices=4, size=(32, 32))
  config.ood_data.heart.update(patients=2, slices=4, size=(32, 32))
  config.preprocess.size = (32, 32)
  config.unet.widths = (4, 8)
  config.pretrain.update(
    labels=("position<0.15", "phase"),
    batch_size=8,
    patients_per_batch=4,
    steps=6,
    head_hidden=8,
    head_out=8,
    pixel="F1",
  )
  config.pretrain.pixel_negatives = (16, 8)
  config.segment.update(batch_size=8, steps=4, draws=(0,), seeds=(0,))
  config.report.update(bootstrap=50, overlays=2)
  config.log_every = 2


def _paper(config: ml_collections.ConfigDict) -> None:
  """The paper's relatives' settings (PCL) around our reading of GCL, on ACDC.

  Its own are not public: U-Net of width 48, slices of 352 pixels of 1.25 mm,
  batch 32, SGD 0.1 for 300 epochs, fine-tuning with Adam and cross-entropy
  alone on the same views, pre-training on all patients. Fine-tuning has a
  number of steps, 100 epochs of 6 patients, where PCL has epochs; its batch of
  10 is shared by 2 devices at most.
  """
  config.data.update(name="acdc", cine=True)
  config.preprocess.spacing = (1.25, 1.25)
  config.pretrain.labels = ("position<0.35", "patient", "cycle<0.1")
  config.pretrain.update(pixel="F1", optimizer="sgd", learning_rate=0.1)
  config.segment.update(draws=DRAWS, seeds=SEEDS)
  config.protocol = "transductive"
  config.preprocess.size = (352, 352)
  config.unet.widths = (48, 96, 192, 384, 768)
  config.pretrain.update(
    heads="shared", head_hidden=768, head_out=512, steps=180_000
  )
  config.pretrain.views.update(
    rotation=180.0,
    scale=(0.7, 1.3),
    flip_rows=0.5,
    flip_columns=0.5,
    brightness=0.0,
    contrast=0.0,
    gamma=0.0,
  )
  config.segment.update(
    labelled=(2, 6),
    batch_size=10,
    optimizer="adam",
    learning_rate=5e-4,
    weight_decay=1e-5,
    steps=1100,
    dice_weight=0.0,
  )
  config.segment.views.update(config.pretrain.views.to_dict())


PRESETS = dict(demo=_demo, tiny=_tiny, paper=_paper)
CHOICES = {
  "pretrain.heads": ("per_label", "shared"),
  "pretrain.mitigator": tuple(MITIGATORS),
  "pretrain.level": ("parameters", "features"),
  "pretrain.pacing": ("", "soft", "hard"),
  "pretrain.pixel": ("", *VARIANTS),
}
SMALL = ("cone", "cagrad", "min_norm")  # they try all sets of labels
SHARES = tuple(
  f"pretrain.{name}" for name in ("rho", "theta", "warmup", "pixel_start")
)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that cannot run before anything does.

  Raises:
    ConfigError: a word that is none of a setting's choices, a number out of
      range, a meta label that is no rule, an unknown arm, a side that the
      U-Net cannot halve, settings that exclude others.
  """
  checks.check(config, CHOICES, ["pretrain.rho"], SHARES)
  check_each_once("arms", config.arms, tuple(arms.ARMS))
  check_each_once("segment.keep", config.segment.keep, config.arms)
  for arm in arms.names(config):
    _check_labels(config, arm)
  _check_batches(config.pretrain)
  first, last = config.pretrain.pacing_range
  if not 0 < first <= last:
    raise ConfigError(
      f"pretrain.pacing_range {(first, last)}: two losses above 0, the first"
      " not the larger"
    )


def _check_labels(config: ml_collections.ConfigDict, arm: str) -> None:
  section = arms.settings_of(config, arm)
  found = [rules.parse(text) for text in section.labels]
  if arm not in (*UNTRAINED, "simclr") and not found:
    raise ConfigError(
      f"arm {arm}: no meta label of pretrain.labels {config.pretrain.labels}"
      " belongs to it"
    )
  check_each_once("pretrain.labels", section.labels, section.labels)
  if len(found) > LARGEST and section.mitigator in SMALL:
    raise ConfigError(
      f"pretrain.mitigator {section.mitigator} takes at most {LARGEST} meta"
      f" labels, got {len(found)}: take mean or pcgrad"
    )


def _check_batches(pretrain: Any) -> None:
  patients = pretrain.patients_per_batch
  if patients and pretrain.batch_size % patients:
    raise ConfigError(
      f"pretrain.batch_size {pretrain.batch_size} is not a multiple of"
      f" pretrain.patients_per_batch {patients}"
    )
