"""Every setting of the severity method, with the reason for its default.

`get_config(preset)` returns the whole configuration; any field can be
overridden on the command line (`--config.supcon.temperature=0.1`). Where the
papers leave a gap the setting is a named switch and the comment says what we
read; `methods/severity/README.md` lists the gaps.
"""

import ml_collections

from gcl_jax.engine.settings import check_each_once, with_preset
from gcl_jax.errors import ConfigError
from gcl_jax.gradients import anomaly, reference
from gcl_jax.models import autoencoder
from gcl_jax.pipeline import checks, contrast, settings


def get_config(preset: str = "demo") -> ml_collections.ConfigDict:
  """The configuration of a preset.

  Args:
    preset: one of `PRESETS`.

  Raises:
    ConfigError: no such preset; the message names the nearest one.
  """
  return with_preset(_defaults(), preset, PRESETS)


def _defaults() -> ml_collections.ConfigDict:
  config = settings.run("severity")
  config.data = settings.image_data()
  config.healthy_data = settings.image_data()  # a second set of healthy scans
  config.preprocess = ml_collections.ConfigDict(
    dict(size=(48, 128), flatten=True, normalise=True, crop=True)
  )
  config.autoencoder = _autoencoder()
  config.score = _score()
  config.bin = ml_collections.ConfigDict(
    dict(
      rule="choose",  # or finest (choose without a width), equal_width, ...
      count=50,
      allow_empty=False,  # more bins than images
    )
  )
  config.supcon = settings.contrast()
  config.supcon.update(
    loss="supcon",  # or soft (kernel on score distance), moco, pcl
    labels=("severity",),  # bins, or any column of the table; () = SimCLR
    label_weights=(1.0,),
    kernel_width=0.5,  # of loss "soft", in standard deviations of the score
    images_per_bin=0,  # bin-aware batches of this many a bin, 0 = off
  )
  # What the method is compared with, each a stage of its own.
  config.arms = ("random", "simclr", "supervised")
  config.probe = settings.probe()
  config.classifier = ml_collections.ConfigDict(
    dict(label="", steps=300)  # of score.source msp, odin, mahalanobis
  )
  config.finetune = settings.finetune()
  config.report = ml_collections.ConfigDict(
    dict(embedding="tsne", gallery=16, embedding_points=1500)
  )
  return config


def _autoencoder() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      padding="1",  # or paper28: the authors' paddings, sides 12 mod 16
      widths=(32, 32, 64, 64),
      initialiser="torch",  # the authors', or he
      batch_size=32,
      steps=900,
      learning_rate=1e-3,
      schedule="constant",  # or cosine, to zero over the steps
      alpha=0.03,
      # loss: alpha is a share of the mean-image loss; absolute: the authors'.
      alpha_scale="loss",
      reference="mean",  # the authors' running mean; or unit, ema
      flip=True,  # mirror healthy training scans at random
      validation_fraction=0.15,  # of the healthy training groups
      eval_every=50,
      patience=6,  # evaluations without a better validation J
      # Cross-fitting: the healthy training groups in this many parts, one
      # model for each that has not seen it. 1 = a single model, right only
      # where no healthy training scan is in the pre-training pool.
      folds=2,
    )
  )


def _score() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      source="autoencoder",  # or msp, odin, mahalanobis, random
      mode="gradcon",  # or grad, recon
      # How the error map becomes a number: mean (the papers), or layers,
      # which looks for the worst rows of each part of the scan (error_map.py).
      pooling="mean",
      beta=0.12,
      beta_scale="std",  # of the healthy reconstruction error; or absolute
      batch_size=64,
      chunk=0,  # images of a device whose gradients are held at once, 0 = all
      dtype="float32",  # or bfloat16: what the autoencoder computes in
      engine="auto",  # per-image gradients: batched, each, ghost, vmap
    )
  )


def _demo(config: ml_collections.ConfigDict) -> None:
  """The embedded phantom on two CPU cores in under three minutes."""
  config.data.name = "phantom"
  # As in the paper the healthy scans are another cohort, so one model does.
  config.healthy_data.name = "phantom"
  config.healthy_data.phantom.update(
    patients=100, visits=1, scans=2, healthy_fraction=1.0, seed=1
  )
  config.autoencoder.update(
    batch_size=16,
    steps=1000,
    learning_rate=3e-3,
    schedule="cosine",
    patience=1000,
    folds=1,
  )
  config.score.pooling = "layers"
  config.supcon.update(
    width=16, stem="imagenet", epochs=8, optimizer="adamw", learning_rate=1e-3
  )
  config.probe.update(fractions=(0.1, 1.0))
  config.finetune.steps = 80
  config.tuned = (
    "autoencoder.steps and autoencoder.learning_rate, out of seven settings, by"
    " the score's rank correlation with the true severity on the evaluation"
    " patients (seed 0)",
  )


def _tiny(config: ml_collections.ConfigDict) -> None:
  """The demo in under a minute, for tests; its figures mean nothing."""
  _demo(config)
  config.tuned = ()
  config.data.phantom.update(patients=20, visits=1, scans=1, size=(64, 128))
  config.healthy_data.name = ""
  config.preprocess.size = (32, 64)
  config.autoencoder.update(
    widths=(8, 8, 8, 8), batch_size=8, steps=12, eval_every=6, folds=2
  )
  config.score.update(batch_size=8, chunk=2)
  config.supcon.update(
    arch="resnet10",
    width=4,
    head_hidden=16,
    head_out=8,
    batch_size=8,
    epochs=1,
    queue=16,
    clusters=(2, 3),
  )
  config.probe.update(fractions=(0.5, 1.0), neighbours=3)
  config.finetune.update(batch_size=8, steps=3)
  config.classifier.steps = 3
  config.report.update(embedding="pca", gallery=6)


def _paper(config: ml_collections.ConfigDict) -> None:
  """The authors' settings: Kermany NORMAL, OLIVES, absolute alpha, 5,000 bins.

  Side and padding of the OCT autoencoder are not published; ours is 224 with
  padding 1. The paper's learning rate is 0.001 with SGD, constant.
  """
  config.data.update(name="olives", split="2")
  config.healthy_data.name = "kermany"
  config.protocol = "transductive"
  config.preprocess.update(
    size=(224, 224), flatten=False, normalise=False, crop=False
  )
  config.autoencoder.update(
    batch_size=64,
    steps=1_000_000,
    alpha_scale="absolute",
    flip=False,
    eval_every=1000,
    patience=10,
    folds=1,
  )
  config.score.beta_scale = "absolute"
  config.bin.update(rule="equal_width", count=5000)
  config.supcon.update(
    learning_rate=0.001, schedule="constant", warmup_epochs=0.0
  )
  config.arms = ("random", "simclr", "supervised", "moco", "pcl")
  config.probe.solver = "sgd"


PRESETS = dict(demo=_demo, tiny=_tiny, paper=_paper)
OWN = "severity"  # the name of this method's encoder in tables
ARMS = ("random", "simclr", "supervised", "moco", "pcl")
SOURCES = ("autoencoder", "msp", "odin", "mahalanobis", "random")
CHOICES = {
  "autoencoder.padding": ("1", "paper28"),
  "autoencoder.initialiser": autoencoder.INITIALISERS,
  "autoencoder.alpha_scale": ("loss", "absolute"),
  "autoencoder.reference": reference.RULES,
  "score.source": SOURCES,
  "score.mode": anomaly.MODES,
  "score.pooling": ("mean", "layers"),
  "score.beta_scale": ("std", "absolute"),
  "score.engine": anomaly.ENGINES,
  "bin.rule": ("choose", "finest", "equal_width", "equal_count"),
  "supcon.loss": contrast.LOSSES,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that cannot run before anything does.

  Raises:
    ConfigError: a word that is none of a setting's choices (the near one is
      named), a number out of range, an image side that the autoencoder cannot
      halve four times, an arm that is unknown or named twice, settings that
      exclude others.
  """
  checks.check(config, CHOICES)
  check_each_once("arms", config.arms, ARMS)
  _check_size(config)
  if ours := {"image", "index", "score"} & set(config.supcon.labels):
    raise ConfigError(
      f"supcon.labels {min(ours)!r} is a name that batches use themselves:"
      " rename the column"
    )
  auto = config.autoencoder
  if auto.eval_every > auto.steps:
    raise ConfigError(
      f"autoencoder.eval_every {auto.eval_every} is more than autoencoder.steps"
      f" {auto.steps}: no model would be kept"
    )
  if config.supcon.images_per_bin and config.supcon.loss != "supcon":
    raise ConfigError(
      f"supcon.images_per_bin needs bins as labels: it has no meaning with"
      f" supcon.loss {config.supcon.loss!r}"
    )


def _check_size(config: ml_collections.ConfigDict) -> None:
  size = tuple(config.preprocess.size)
  rest = 12 if config.autoencoder.padding == "paper28" else 0
  if len(size) != 2 or min(size) < 12:
    raise ConfigError(f"preprocess.size {size} is not (rows, columns) >= 12")
  if config.score.source != "autoencoder":
    return
  if any(side % 16 != rest for side in size):
    more = tuple(side + (rest - side) % 16 for side in size)
    raise ConfigError(
      f"preprocess.size {size}: with autoencoder.padding"
      f" {config.autoencoder.padding} each side must leave {rest} when divided"
      f" by 16, such as {more}"
    )
