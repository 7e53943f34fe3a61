"""Every setting of CoMCL, with the reason for its default.

`get_config(preset)` returns the whole configuration; any field can be
overridden on the command line (`--config.pretrain.pacing=off`). Where the paper
leaves a gap the setting is a named switch and the comment says what we read;
`methods/comcl/README.md` lists the gaps.
"""

from ml_collections import ConfigDict

from gcl_jax.engine.settings import check_each_once, value_of, with_preset
from gcl_jax.errors import ConfigError
from gcl_jax.evaluation.robustness import percent
from gcl_jax.methods.comcl import arms
from gcl_jax.pipeline import checks, settings

# For `tuned` of presets with boxes.source detector.
DETECTOR_TUNED = (
  "training: detector.learning_rate, detector.class_weights, detector.widths"
  " and the evened contrast, out of eight settings, by recall and false boxes"
  " on 7 of 14 IDRiD images after 150 steps on the other 7"
)


def get_config(preset: str = "demo") -> ConfigDict:
  """The configuration of a preset; a ConfigError names the nearest one."""
  config = settings.run("comcl")
  config.data = _images()
  config.lesion_data = _images()  # with class maps, for boxes.source detector
  config.preprocess = ConfigDict(
    dict(
      size=(512, 512),  # square; a round fundus fills it
      channels=3,  # or 1: luminance, for X-rays
      disc=True,  # crop to the fundus disc; off for chest X-rays
    )
  )
  config.boxes = _boxes()
  config.detector = _detector()
  config.quality = _quality()
  config.patches = _patches()
  config.pretrain = _pretrain()
  config.arms = arms.DECIDING
  config.diagnosis = _diagnosis()
  config.report = ConfigDict(dict(pictures=6))  # of a kind
  return with_preset(config, preset, PRESETS)


def _images() -> ConfigDict:
  section = settings.image_data()
  section.fundus = ConfigDict(
    dict(
      patients=160,
      size=128,
      healthy_fraction=0.4,
      # What the noisy detector of the phantom finds: share of the lesions, and
      # mean number of false boxes on look-alike artefacts of an image.
      recall=0.7,
      false_boxes=0.5,
      seed=0,
    )
  )
  section.update(
    quality_table="",  # of chestxray14: a CSV of image and quality
    boxes_path="",  # of chestxray14: BBox_List_2017.csv
  )
  return section


def _boxes() -> ConfigDict:
  return ConfigDict(
    dict(
      # data: what the data set brings (phantom, chestxray14, class maps);
      # table: a CSV or COCO file of any detector; detector: one trained here.
      source="data",
      path="",  # of source table
      confidence=0.5,  # not given in the paper; that of its detector's source
      margin=5,  # pixels of the prepared image between a box and its edge
    )
  )


def _detector() -> ConfigDict:
  """A U-Net on class maps, tuned as `DETECTOR_TUNED` says."""
  section = settings.segment()
  unused = ("labelled", "draws", "seeds", "unit", "tolerance", "keep", "tile")
  for name in unused:
    del section[name]
  section.update(batch_size=8, steps=600, learning_rate=4e-3)
  section.views.update(flip_rows=0.5, flip_columns=0.5)
  section.update(
    widths=(16, 32, 64, 128),
    tile=128,  # side of the training tiles in pixels
    smallest=4,  # pixels of a component that counts as a lesion
    folds=2,  # of images, for recall and false boxes on images left out
  )
  return section


def _quality() -> ConfigDict:
  return ConfigDict(
    dict(
      column="quality",  # of the table, 0 = good; absent: all are degraded here
      shares=(0.33, 0.7, 1.0),  # of low quality among the evaluation images
      train_share=0.33,  # of the training images, where none have low quality
      # P(low | diseased) - P(low | healthy) in training, from 0 (independent)
      # to 1; EyeQ has 0.07. Evaluation images never have such a difference.
      correlation=0.1,
      family="fundus",  # or xray
      seed=0,  # which images are degraded and how, whatever config.seed is
    )
  )


def _patches() -> ConfigDict:
  return ConfigDict(
    dict(
      size=128,  # side of a window in pixels of the prepared image
      # Healthy windows lie where lesion windows lie (matched), anywhere
      # (uniform), or where the detector fired on healthy images and else as
      # matched (false_boxes, the authors' code). lesion_free: windows of
      # diseased images that touch no box, for data without healthy images.
      healthy="matched",
      per_image=4,  # healthy windows of an image
      shuffle_quality=False,  # quality labels permuted before pools are built
    )
  )


def _pretrain() -> ConfigDict:
  section = settings.contrast()
  section.update(
    arch="resnet50",
    stem="imagenet",
    head_hidden=2048,
    batch_size=100,  # windows of each level; the paper's 400 are of four levels
    epochs=800,
    optimizer="adam",
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup_epochs=0.0,
    schedule="constant",  # not stated
    temperature=0.07,
    queue=7200,  # keys of a level, with negatives=queue
    # Views of a window, not stated in the paper; those of its patches' source.
    crop_scale=(0.64, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale=0.2,
  )
  section.update(
    # levels: equation 1 between the four levels; lesions: lesions of both
    # qualities against healthy patches of both; simclr; moco: whole images.
    loss="levels",
    # Pair of levels of the first loss, whose tilde is lost in the paper:
    # high_low (lesions of good against those of low quality), low_high,
    # high_healthy_low, or none.
    first_pair="high_low",
    # Of levels and lesions: batch, or queue (a queue of keys for every level).
    # simclr takes those of the batch, moco always a queue.
    negatives="batch",
    hard_negatives="topk",  # or off (all), hcl (weighted by importance)
    fewest_negatives=0.05,  # of all: K never falls below (literal: to 0)
    pacing="scaled",  # or off, literal
    hcl_beta=1.0,
    hcl_tau_plus=0.1,
    degrade=0.0,  # probability that a view is degraded anew
  )
  return section


def _diagnosis() -> ConfigDict:
  section = settings.finetune()
  section.update(
    loss="softmax",  # or ordinal, of one grade; sigmoid of several findings
    steps=2000,
    batch_size=32,
    learning_rate=1e-4,
  )
  del section["folds"]  # findings are cut at a balanced probability of 0.5
  section.update(
    grade="grade",  # column of the table, with loss softmax or ordinal
    grades=5,
    crop_scale=(0.75, 1.0),
    flip=0.5,
    brightness=0.2,
    contrast=0.2,
    degrade=0.5,  # probability of a degradation in arms that train with them
    handmade=True,  # grades also by a ridge on hand-made features
  )
  return section


def small(config: ConfigDict) -> None:
  """A pre-training that CPU cores can do."""
  config.pretrain.update(
    arch="resnet18",
    width=16,
    head_hidden=256,
    head_out=128,
    batch_size=32,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="cosine",
  )


def _demo(config: ConfigDict) -> None:
  """The embedded phantom on two CPU cores in under three minutes."""
  config.data.name = "fundus_phantom"
  config.preprocess.update(size=(128, 128), disc=False)
  config.patches.size = 32
  config.boxes.margin = 1
  small(config)
  config.pretrain.update(arch="resnet10", head_hidden=128, head_out=64)
  config.pretrain.epochs = 40
  config.diagnosis.update(steps=200, learning_rate=1e-3)
  config.arms = ("supervised", "supervised_degraded", "simclr")


def _tiny(config: ConfigDict) -> None:
  """The demo in seconds, for tests; its figures mean nothing."""
  _demo(config)
  config.data.fundus.update(patients=24, size=64)
  config.preprocess.size = (64, 64)
  config.patches.size = 16
  config.pretrain.update(
    width=4, head_hidden=16, head_out=8, batch_size=4, epochs=1
  )
  config.diagnosis.update(batch_size=8, steps=3)
  config.report.pictures = 2
  config.arms = ("supervised_degraded", "simclr")


def _paper(config: ConfigDict) -> None:
  """The paper's settings on EyeQ: ResNet-50, 128 px windows, 800 epochs."""
  config.data.name = "eyeq"
  config.lesion_data.name = "idrid"
  config.boxes.source = "detector"
  config.tuned = (DETECTOR_TUNED,)


PRESETS = dict(demo=_demo, tiny=_tiny, paper=_paper)
CHOICES = {
  "boxes.source": ("data", "table", "detector"),
  "detector.select": ("last",),
  "quality.family": ("fundus", "xray"),
  "patches.healthy": ("matched", "uniform", "false_boxes", "lesion_free"),
  "pretrain.loss": ("levels", "lesions", "simclr", "moco"),
  "pretrain.first_pair": (
    *("high_low", "low_high", "high_healthy_low", "none"),
  ),
  "pretrain.negatives": ("batch", "queue"),
  "pretrain.hard_negatives": ("off", "topk", "hcl"),
  "pretrain.pacing": ("off", "literal", "scaled"),
  "diagnosis.loss": ("softmax", "ordinal", "sigmoid"),
}
POSITIVE = ("patches.size", "patches.per_image", "detector.tile")
SHARES = (
  *("boxes.confidence", "quality.shares", "quality.train_share"),
  *("quality.correlation", "pretrain.fewest_negatives"),
  *("pretrain.degrade", "pretrain.hcl_tau_plus", "diagnosis.degrade"),
)


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot run before anything does.

  Raises:
    ConfigError: names the setting, what it is and what it may be.
  """
  checks.check(config, CHOICES, POSITIVE, SHARES)
  check_each_once("arms", config.arms, tuple(arms.ARMS))
  size, side = tuple(config.preprocess.size), config.patches.size
  if len(size) != 2 or size[0] != size[1] or size[0] < side:
    raise ConfigError(
      f"preprocess.size {size}: two equal numbers, at least patches.size {side}"
    )
  shares = tuple(config.quality.shares)
  names = {percent(share) for share in shares}
  if len(names) < max(2, len(shares)) or list(shares) != sorted(shares):
    raise ConfigError(
      f"quality.shares {shares}: two or more, each larger than the one before"
    )
  if (channels := config.preprocess.channels) not in (1, 3):
    raise ConfigError(f"preprocess.channels {channels}: 1 or 3")
  _check_boxes(config)
  for name in ("diagnosis.grades", "detector.folds"):
    if value_of(config, name) < 2:
      raise ConfigError(f"{name} {value_of(config, name)}: 2 or more")
  if (config.pretrain.loss, config.pretrain.negatives) == ("simclr", "queue"):
    raise ConfigError(
      "pretrain.negatives queue: pretrain.loss simclr takes its negatives from"
      " the batch; leave it at batch"
    )
  if config.pretrain.hcl_tau_plus == 1:
    raise ConfigError("pretrain.hcl_tau_plus 1: a share below 1")


def _check_boxes(config: ConfigDict) -> None:
  """Refuses a source of boxes without what it reads."""
  if config.boxes.source == "table" and not config.boxes.path:
    raise ConfigError(
      "boxes.source table: name a CSV or COCO file with --config.boxes.path"
    )
  if config.boxes.source == "detector" and not config.lesion_data.name:
    raise ConfigError(
      "boxes.source detector trains one on class maps of lesions: name a data"
      " set of them with --config.lesion_data.name"
    )
