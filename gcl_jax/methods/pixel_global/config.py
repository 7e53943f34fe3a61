"""Every setting of Pixel-global, with the reason for its default.

`get_config(preset)` returns the whole configuration; any field can be
overridden on the command line (`--config.pretrain.weighting=border`). The
paper's formulas are not public to us: our reading is the default, and what it
leaves open is a named switch here; `methods/pixel_global/README.md` lists them.
"""

from ml_collections import ConfigDict

from gcl_jax.engine.settings import check_each_once, with_preset
from gcl_jax.errors import ConfigError
from gcl_jax.methods.pixel_global import arms
from gcl_jax.pipeline import checks, settings

# Nine draws cost as much as three by three seeds, and are independent.
DRAWS, SEEDS = tuple(range(9)), (0, 1, 2)


def get_config(preset: str = "demo") -> ConfigDict:
  """The configuration of a preset; a ConfigError names the nearest one."""
  config = settings.run("pixel_global")
  config.data = _data()
  config.ood_data = _data()  # another scanner, for testing only
  config.preprocess = ConfigDict(
    dict(
      size=(64, 64),
      spacing=(),  # mm between rows and between columns; () keeps the slices'
    )
  )
  config.unet = settings.unet()
  config.pretrain = _pretrain()
  config.arms = arms.DECIDING  # what it is compared with, see arms.py
  config.uncertainty = ConfigDict(
    dict(
      images=200,  # evaluation slices whose uncertainty is looked at
      pictures=4,  # of two views with weights and matched pairs
    )
  )
  # Names of the classes that look alike and are told apart by what lies round
  # them: their Dice on the pixels of either is `segment/dice/ambiguous`.
  config.segment = settings.segment(alike=())
  config.report = ConfigDict(dict(overlays=6, bootstrap=1000))
  return with_preset(config, preset, PRESETS)


def _data() -> ConfigDict:
  section = settings.volume_data()
  section.organs = ConfigDict(
    dict(
      patients=2000,  # of one slice each
      size=(64, 64),
      # How far from the organs the bar lies that tells them apart: 0 between
      # them, 1 so far that one of two crops lacks it for 45 % of their pixels.
      gap=1.0,
      swapped=0.1,  # share of the pixels with the signal of another place
      shading=0.3,  # amplitude of the smooth field that views see differently
      noise=0.04,  # standard deviation, of pixels in [0, 1]
      seed=0,
    )
  )
  return section


def _pretrain() -> ConfigDict:
  return ConfigDict(
    dict(
      # Term on whole views: byol (the prediction of the teacher's vector),
      # simclr (negatives from the batch), or "" for none.
      global_branch="byol",
      global_weight=1.0,
      # Term on pixels: consistency of matched cells, densecl (cells matched by
      # the similarity of features, negatives from a queue), or "".
      pixel_branch="consistency",
      pixel_weight=1.0,  # lambda; not given
      # What moves the student's cells before they are compared: dropout (the
      # context stabilizer of our reading), deterministic (the same layers
      # without dropout, one pass), propagation (PixPro's), hinge (none, but
      # differences count only above a tolerance predicted from the share of
      # the view outside the other one), or "".
      stabilizer="dropout",
      # S(u) + P(u) in the place of S(u), of dropout and deterministic: near the
      # identity at first, so that the cells fall together (docs/results.md).
      residual=False,
      passes=8,  # T of Monte Carlo dropout
      dropout=0.2,
      gamma=2.0,  # exponent of the similarities of propagation
      context_cells=14,  # rows and columns of the keys of propagation, at most
      # Weights of cells by their uncertainty s: exp (exp(-s / mean s)),
      # variance (learned: exp(-b) d + b), focus (s / mean s: uncertain cells
      # count more), border (by the distance to the view's border alone),
      # shuffled (exp, permuted within the image), or "" for equal weights.
      weighting="exp",
      overlap_only=True,  # cells outside the other view have no pairs
      distance=0.7,  # of a pair, in diagonals of the larger cell
      positives=12,  # pairs of a cell, at most
      reduce="image",  # mean over pairs of an image, then images; or pairs
      # Penalty eta mean max(0, |S(P) - P| - kappa)^2 on what the stabilizer
      # explains; 0 = off.
      gap_weight=0.0,
      gap_tolerance=0.5,  # kappa; of hinge, times the share of the view outside
      stride=4,  # pixels of a view per cell of the pixel branch
      momentum_teacher=0.99,  # at first; 1 at the end, by a cosine
      temperature=0.2,  # of simclr and densecl
      queue=4096,  # of densecl
      head_hidden=256,
      head_out=64,
      batch_size=32,
      steps=1500,
      optimizer="adamw",
      learning_rate=1e-3,
      momentum=0.9,  # of sgd and lars
      weight_decay=1e-4,
      schedule="cosine",
      warmup=0.05,  # share of the steps
      views=_views(),
    )
  )


def _views() -> ConfigDict:
  """Crops with known places: `augment.two_turned_crops`."""
  return ConfigDict(
    dict(
      size=(),  # rows and columns of a view; () = those of the slice
      crop_scale=(0.3, 1.0),  # area of a crop, as a share of the slice
      crop_ratio=(3 / 4, 4 / 3),
      rotation=15.0,  # degrees either way
      flip_rows=0.0,
      flip_columns=0.5,
      brightness=0.4,
      contrast=0.4,
      gamma=0.4,
      blur=0.5,  # probabilities of blur and noise
      noise=0.5,
      # Mean and standard deviation of every view become those of the training
      # pixels: what lies in the view then changes the values of its pixels.
      per_view=False,
    )
  )


def _demo(config: ConfigDict) -> None:
  """The organ phantom on two CPU cores in under three minutes."""
  config.data.name = "organs"
  config.data.organs.update(patients=300, size=(48, 48), shading=0.1)
  config.preprocess.size = (48, 48)
  config.unet.widths = (8, 16, 32, 64)
  config.pretrain.update(batch_size=16, steps=250, passes=4)
  config.pretrain.update(head_hidden=64, head_out=32)
  config.segment.update(labelled=(20,), alike=("left", "right"))
  # More than a pixel of 1.33 mm: below it, in volumes of one slice, where every
  # voxel is on a surface, the surface Dice would be the Dice.
  config.segment.tolerance = 1.5
  config.segment.update(batch_size=8, steps=120, learning_rate=4e-3)
  config.segment.update(draws=(0, 1, 2, 3, 4), seeds=(0,))
  config.arms = ("scratch", "pixpro")
  config.report.bootstrap = 500


def _tiny(config: ConfigDict) -> None:
  """The demo in seconds, for tests; its figures mean nothing."""
  _demo(config)
  config.data.organs.update(patients=20, size=(32, 32))
  config.preprocess.size = (32, 32)
  config.unet.widths = (4, 8, 8)
  config.pretrain.update(
    batch_size=8, steps=4, passes=2, head_hidden=8, head_out=8
  )
  config.uncertainty.update(images=6, pictures=1)
  config.segment.update(
    labelled=(4,), batch_size=8, steps=3, draws=(0,), seeds=(0,)
  )
  config.report.update(bootstrap=50, overlays=2)
  config.log_every = 2


def _paper(config: ConfigDict) -> None:
  """PixPro's schedule around our reading, on CT slices of 224 pixels.

  The paper's own data sets, networks and numbers are not public to us: three
  sets of CT, a share of 10 % of the patients with labels.
  """
  config.data.name = "volumes"
  config.preprocess.size = (224, 224)
  config.unet.widths = (32, 64, 128, 256, 512)
  config.pretrain.update(
    batch_size=1024,
    steps=40_000,
    optimizer="lars",
    learning_rate=4.0,  # 1 at 256
    weight_decay=1e-5,
    head_hidden=4096,
    head_out=256,
  )
  config.segment.update(
    labelled=(4, 0),
    draws=(0, 1, 2, 3, 4),
    optimizer="adam",
    learning_rate=5e-4,
    steps=4000,
  )


PRESETS = dict(demo=_demo, tiny=_tiny, paper=_paper)
CHOICES = {
  "pretrain.global_branch": ("", "byol", "simclr"),
  "pretrain.pixel_branch": ("", "consistency", "densecl"),
  "pretrain.stabilizer": (
    *("", "dropout", "deterministic", "propagation", "hinge"),
  ),
  "pretrain.weighting": ("", "exp", "variance", "focus", "border", "shuffled"),
  "pretrain.reduce": ("image", "pairs"),
}
POSITIVE = (
  "uncertainty.images",
  *(
    f"pretrain.{name}"
    for name in ("passes", "distance", "positives", "stride", "context_cells")
  ),
)
SHARES = tuple(
  f"pretrain.{name}" for name in ("dropout", "momentum_teacher", "warmup")
)
# Weights that the spread of several passes gives.
BY_UNCERTAINTY = ("exp", "variance", "focus", "shuffled")


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot run before anything does.

  Raises:
    ConfigError: names the setting, what it is and what it may be.
  """
  checks.check(config, CHOICES, POSITIVE, SHARES)
  check_each_once("arms", config.arms, tuple(arms.ARMS))
  check_each_once("segment.keep", config.segment.keep, config.arms)
  for arm in arms.trained(config):
    _check_terms(arm, arms.settings_of(config, arm))
  _check_stride(config)


def _check_terms(arm: str, settings: ConfigDict) -> None:
  """Refuses an arm without a loss, and weights without what they are of."""
  terms = [
    half
    for half in ("global", "pixel")
    if settings[f"{half}_branch"] and settings[f"{half}_weight"]
  ]
  if not terms:
    raise ConfigError(
      f"arm {arm}: pretrain.global_branch and pretrain.pixel_branch are empty"
      " or of weight 0, which leaves nothing to train"
    )
  if settings.dropout >= 1:
    raise ConfigError(f"pretrain.dropout {settings.dropout}: a share below 1")
  if arm == arms.OWN and settings.residual and not _adds(settings):
    raise ConfigError(
      "pretrain.residual adds the cells to the output of pretrain.stabilizer"
      f" dropout or deterministic, which is {settings.stabilizer!r} with"
      f" pretrain.pixel_branch {settings.pixel_branch!r}"
    )
  consistent = settings.pixel_branch == "consistency"
  if arm in arms.OF_PIXELS and not consistent:
    raise ConfigError(
      f"arm {arm} changes the matched cells, of which there are none with"
      f" pretrain.pixel_branch {settings.pixel_branch!r}: leave it out of arms"
    )
  by_passes = consistent and settings.weighting in BY_UNCERTAINTY
  if by_passes and settings.stabilizer != "dropout":
    raise ConfigError(
      f"arm {arm}: pretrain.weighting {settings.weighting} is of the spread of"
      " passes of Monte Carlo dropout: take pretrain.stabilizer=dropout, or"
      " weighting= or border"
    )
  if by_passes and settings.passes < 2:
    raise ConfigError(
      f"pretrain.passes {settings.passes}: 2 or more with pretrain.weighting"
      f" {settings.weighting}"
    )


def _adds(settings: ConfigDict) -> bool:
  """Whether there is a stabilizer that can be residual."""
  layers = settings.stabilizer in ("dropout", "deterministic")
  return layers and settings.pixel_branch == "consistency"


def _check_stride(config: ConfigDict) -> None:
  """Refuses maps that the U-Net does not have."""
  levels, stride = len(config.unet.widths), config.pretrain.stride
  strides = [2**k for k in range(levels)]
  if stride not in strides:
    raise ConfigError(
      f"pretrain.stride {stride}: one of {strides} for a U-Net of {levels}"
      " levels"
    )
  size = tuple(config.pretrain.views.size)
  whole = 2 ** (levels - 1)
  if size and (len(size) != 2 or any(s < whole or s % whole for s in size)):
    raise ConfigError(
      f"pretrain.views.size {size}: (rows, columns), multiples of {whole} for a"
      f" U-Net of {levels} levels, or ()"
    )
  rows, columns = size or tuple(config.preprocess.size)
  if min(rows, columns) < 2 * stride:
    raise ConfigError(
      f"pretrain.stride {stride}: a view of {rows} x {columns} pixels has fewer"
      " than 2 x 2 cells"
    )
