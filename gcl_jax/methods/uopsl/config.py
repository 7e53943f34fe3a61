"""Every setting of UOPSL, with the reason for its default.

`get_config(preset)` returns the whole configuration; any field can be
overridden on the command line (`--config.pretrain.kind=classes`). The paper's
formulas are not public to us: every gap is a named switch, and the comment says
what we read; `methods/uopsl/README.md` lists the gaps.
"""

from ml_collections import ConfigDict

from gcl_jax.engine.settings import check_each_once, with_preset
from gcl_jax.errors import ConfigError
from gcl_jax.methods.uopsl import arms
from gcl_jax.models import sites
from gcl_jax.pipeline import checks, settings

POOLS = ("labelled", "rest", "oct")
# For `tuned` of presets on the eye phantom.
PHANTOM_TUNED = (
  "training: pretrain.arch, pretrain.stem, pretrain.width and"
  " pretrain.learning_rate, out of three settings, by the terms of the training"
  " loss of one seed",
)


def get_config(preset: str = "demo") -> ConfigDict:
  """The configuration of a preset; a ConfigError names the nearest one."""
  config = settings.run("uopsl")
  config.data = _images()  # fundus photographs
  config.oct_data = _images()  # OCT scans, not paired with them
  config.more_oct_data = _images()  # a second set of them, "" = none
  # What the place of lesions says in the phantom's scans: true, shuffled or
  # uniform (nothing).
  config.oct_data.eyes.informative = "true"
  config.preprocess = ConfigDict(
    dict(
      size=(224, 224),  # square
      disc=True,  # crop to the fundus disc
    )
  )
  config.oct_preprocess = ConfigDict(
    dict(size=(128, 256), flatten=False, normalise=False, crop=False)
  )
  config.text = _text()
  config.pretrain = _pretrain()
  config.arms = arms.DECIDING
  config.fundus = _fundus()
  config.report = ConfigDict(
    dict(examples=1, embedding="pca", embedding_points=2000)
  )
  return with_preset(config, preset, PRESETS)


def _images() -> ConfigDict:
  section = settings.image_data()
  section.update(
    # Column of the class of an image, several as "dr+dme"; "" takes the binary
    # label that is 1.
    class_column="",
    # Translations of names, such as ("NO=healthy", "DME=dme"); where there are
    # any, images of other names have no class.
    class_names=(),
  )
  section.eyes = ConfigDict(
    dict(
      patients=1500,
      size=(64, 64),
      healthy_fraction=0.25,
      seed=0,
    )
  )
  return section


def _text() -> ConfigDict:
  return ConfigDict(
    dict(
      # YAML file of descriptions, or those that come with the program: eye (the
      # phantom's classes), retina (diabetic retinopathy, and OCTDL's classes).
      file="eye",
      # bag (of words) or transformer, trained from scratch; frozen: vectors
      # that another encoder made, from an npz file with `texts` and `vectors`.
      encoder="bag",
      vectors="",
      width=64,  # of words
      depth=2,  # of the transformer
      heads=4,
      # Columns whose values are put in front of the texts, such as ("eye",).
      attributes=(),
      # Words that take each other's place when an image is mirrored. Nasal and
      # temporal are sides of the eye: a mirrored image is one of the other eye,
      # in which they stay true. Where all images are turned to one side, add
      # ("nasal", "temporal").
      swapped=(("left", "right"), ("od", "os")),
    )
  )


def _pretrain() -> ConfigDict:
  section = settings.contrast()
  for name in (
    *("head_hidden", "head_out", "epochs", "warmup_epochs", "block_size"),
    *("queue", "momentum_encoder", "clusters", "batch_size", "temperature"),
  ):
    del section[name]
  section.update(
    size=64,  # D, length of tokens, sites and texts
    # Images of a batch: fundus with labels, without, and OCT.
    batch=ConfigDict(dict(labelled=16, rest=32, oct=32)),
    steps=1000,
    warmup=0.05,  # share of the steps
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-5,
    # Views. Mirroring is off: see text.swapped.
    crop_scale=(0.64, 1.0),
    flip=0.0,
    flip_oct=0.0,
    brightness=0.2,
    contrast=0.2,
    oct=True,  # whether OCT takes part
    places=True,  # texts of labelled images say where lesions lie
    # Fundus images without a label: without_place (described by the look of
    # their lesions, which tells the class where no two share a look), or ""
    # (they do not take part).
    rest="without_place",
    # Which scans meet which photographs in a step: independent (two shuffles);
    # class (a scan of the class of each labelled photograph: uses labels); pair
    # (of the eye of each photograph without a label, by fundus.pair_columns).
    oct_draw="independent",
    shuffle_classes=False,  # OCT classes permuted among its scans: a control
    # Where S comes from: oct (learned there), fundus (learned from photographs
    # alone), random (frozen, with the singular values of this method's own),
    # means (frozen, mean OCT token of each class), or "" for none.
    sites="oct",
    kind="slots",  # or classes (a block each), map (one place map a class)
    count=16,  # M of slots; sites of each class of classes
    compete="slots",  # who competes for OCT tokens; or tokens
    tie="loss",  # or average: S follows what is found at its sites
    site_momentum=0.99,  # of tie=average
    centre=True,  # cosines of sites after the mean OCT token is subtracted
    centre_momentum=0.99,
    bound=0.5,  # cosine of two sites below which they do not lose
    fundus_updates=False,  # whether photographs give S a gradient
    temperature=0.1,  # of across and concept_contrast; that of texts is learned
    # Weights of the terms; none is stated in the paper.
    labelled_text=1.0,
    rest_text=1.0,
    oct_text=1.0,
    site=1.0,
    diversity=0.1,
    across=0.0,
    concept_mse=0.0,
    concept_contrast=0.0,
    prototype=0.0,
    pair=0.0,
  )
  return section


def _fundus() -> ConfigDict:
  section = settings.finetune()
  del section["folds"]  # of classes there are no thresholds
  views = settings.contrast()
  section.update(
    loss="softmax",
    batch_size=32,
    steps=300,
    learning_rate=1e-3,
    labelled=(20, 50, 200),  # patients with labels; 0 = all
    draw=0,  # which patients
    headline=50,  # number of labels of the figures that stand for the run
    pairs=(),  # of classes that look alike and differ in place
    site_rate=0.0,  # of the sites, as a share of the learning rate; 0 = frozen
    # Columns of both tables, whose values say which scan is of which
    # photograph's eye; for arm paired.
    pair_columns=(),
  )
  for name in (
    *("crop_scale", "brightness", "contrast", "saturation", "hue", "jitter"),
    *("grayscale", "blur", "noise", "flip"),
  ):
    section[name] = views[name]
  section.update(crop_scale=(0.64, 1.0), brightness=0.2, contrast=0.2, flip=0.0)
  return section


def _demo(config: ConfigDict) -> None:
  """The embedded eye phantom on two CPU cores in under three minutes."""
  config.data.update(name="eye_fundus", class_column="disease")
  config.data.eyes.patients = 900
  config.oct_data.update(
    name="eye_oct", class_column="disease", eval_fraction=0.1
  )
  config.oct_data.eyes.update(patients=1200, healthy_fraction=0.3)
  config.preprocess.update(size=(64, 64), disc=False)
  config.oct_preprocess.size = (64, 64)
  config.pretrain.update(arch="resnet8", stem="oct", width=16, steps=300)
  config.pretrain.learning_rate = 3e-3
  config.pretrain.batch.update(labelled=16, rest=24, oct=24)
  config.fundus.update(
    steps=60,
    pairs=(
      ("deposits_fovea", "deposits_disc"),
      ("cysts_fovea", "cysts_temporal"),
    ),
    # No patient of the phantom has both kinds: arm paired is told the disease.
    pair_columns=("disease",),
  )
  config.arms = (arms.SCRATCH, arms.TEXT)
  config.tuned = PHANTOM_TUNED


def _tiny(config: ConfigDict) -> None:
  """The demo in seconds, for tests; its figures mean nothing."""
  _demo(config)
  config.data.eyes.update(patients=360, size=(32, 32))
  config.oct_data.eyes.update(patients=60, size=(32, 32))
  config.preprocess.size = (32, 32)
  config.oct_preprocess.size = (32, 32)
  config.text.width = 8
  config.pretrain.update(width=2, size=8, count=4, steps=2)
  config.pretrain.batch.update(labelled=8, rest=8, oct=8)
  config.fundus.update(batch_size=8, steps=2)
  config.arms = (arms.TEXT,)
  config.log_every = 1


def _paper(config: ConfigDict) -> None:
  """28 classes, 224 pixels, ResNet-50, as far as the paper is known to us.

  Its data sets, networks and numbers are not public to us; the rest is FLAIR's:
  AdamW, 1e-4, weight decay 1e-5, D = 512, a frozen biomedical text encoder.
  """
  for section in (config.data, config.oct_data):
    section.update(name="folder", class_column="class", meta_columns=("class",))
  config.text.encoder = "frozen"
  config.pretrain.update(
    arch="resnet50",
    stem="imagenet",
    size=512,
    count=64,
    steps=20_000,
    learning_rate=1e-4,
    rest="",
  )
  config.pretrain.batch.update(labelled=128, rest=128, oct=128)
  config.fundus.update(labelled=(0,), headline=0, learning_rate=1e-4)


PRESETS = dict(demo=_demo, tiny=_tiny, paper=_paper)
CHOICES = {
  "text.encoder": ("bag", "transformer", "frozen"),
  "pretrain.rest": ("", "without_place"),
  "pretrain.oct_draw": ("independent", "class", "pair"),
  "pretrain.sites": ("", "oct", "fundus", "random", "means"),
  "pretrain.kind": sites.KINDS,
  "pretrain.compete": sites.COMPETE,
  "pretrain.tie": ("loss", "average"),
  "fundus.loss": ("softmax",),
}
POSITIVE = (
  *("pretrain.size", "pretrain.count", "oct_preprocess.size"),
  *("text.width", "text.depth", "text.heads"),
  # 0 would be no average at all: pretrain.centre and tie say so.
  *("pretrain.site_momentum", "pretrain.centre_momentum"),
  *(f"pretrain.batch.{name}" for name in POOLS),
)
SHARES = (
  *("pretrain.site_momentum", "pretrain.centre_momentum", "pretrain.bound"),
  *("pretrain.flip_oct", "pretrain.warmup", "fundus.site_rate"),
)


def check(config: ConfigDict) -> None:
  """Refuses settings that cannot run before anything does.

  Raises:
    ConfigError: names the setting, what it is and what it may be.
  """
  checks.check(config, CHOICES, POSITIVE, SHARES)
  check_each_once("arms", config.arms, tuple(arms.ARMS))
  _check_images(config)
  _check_text(config.text)
  _check_fundus(config.fundus)
  own = config.pretrain.sites
  if own in ("random", "means"):
    raise ConfigError(
      f"pretrain.sites {own}: such sites are made of those of pretrain.sites"
      f" oct; leave it and add {own!r} to arms"
    )
  for arm in arms.trained(config):
    _check_arm(arm, arms.settings_of(config, arm), config.fundus)
  if used := [a for a in config.arms if a in arms.FROM_OWN and own != "oct"]:
    raise ConfigError(
      f"arm {used[0]} takes the place of sites of OCT, and pretrain.sites is"
      f" {own!r}"
    )


def _check_images(config: ConfigDict) -> None:
  """Refuses sizes and names of classes of another form."""
  if not config.oct_data.name:
    raise ConfigError("oct_data.name is empty: which OCT data set is it?")
  size = tuple(config.preprocess.size)
  if len(size) != 2 or size[0] != size[1]:
    raise ConfigError(f"preprocess.size {size}: two equal numbers")
  size = tuple(config.oct_preprocess.size)
  if len(size) != 2:
    raise ConfigError(f"oct_preprocess.size {size}: rows and columns")
  if config.protocol != "strict":
    raise ConfigError(
      f"protocol {config.protocol}: photographs without a label are described"
      " by the look of their class, which nothing may know of those kept for"
      " evaluation; take strict"
    )
  for section in ("data", "oct_data", "more_oct_data"):
    names = [name.partition("=") for name in config[section].class_names]
    first = [name for name, _, _ in names]
    if not all(sign for _, sign, _ in names) or len({*first}) < len(first):
      raise ConfigError(
        f"{section}.class_names: NAME=CLASS each, every name once, got"
        f" {tuple(config[section].class_names)}"
      )


def _check_text(config: ConfigDict) -> None:
  """Refuses encoders without what they need, and words that are no pairs."""
  if config.encoder == "frozen" and not config.vectors:
    raise ConfigError(
      "text.encoder frozen: name the file of its vectors with"
      " --config.text.vectors"
    )
  if config.encoder == "transformer" and config.width % config.heads:
    raise ConfigError(
      f"text.width {config.width}: a multiple of text.heads {config.heads}"
    )
  words = [word for pair in config.swapped for word in pair]
  if (
    not all(len(pair) == 2 for pair in config.swapped)
    or not all(isinstance(word, str) and word for word in words)
    or any(word != word.lower() for word in words)
    or len({*words}) < len(words)
  ):
    raise ConfigError(
      f"text.swapped {tuple(config.swapped)}: pairs of words in small letters,"
      " each once"
    )


def _check_fundus(config: ConfigDict) -> None:
  """Refuses numbers of labels and pairs of another form."""
  counts = tuple(config.labelled)
  if (
    not counts
    or len(set(counts)) < len(counts)
    or not all(isinstance(n, int) for n in counts)
  ):
    raise ConfigError(
      f"fundus.labelled {counts}: one or more numbers of patients with labels"
      " (0 = all), each once"
    )
  if config.headline not in counts:
    raise ConfigError(
      f"fundus.headline {config.headline}: one of fundus.labelled, {counts}"
    )
  pairs = [tuple(pair) for pair in config.pairs]
  if any(len(pair) != 2 or len({*pair}) != 2 for pair in pairs):
    raise ConfigError(f"fundus.pairs {(*pairs,)}: two classes each")


def _check_arm(arm: str, settings: ConfigDict, fundus: ConfigDict) -> None:
  """Refuses terms without what they are of."""
  if not any(settings[name] for name in arms.TERMS):
    raise ConfigError(f"arm {arm}: the weights of all terms are 0")
  if not settings.oct:
    _check_without_oct(arm, settings)
  alone = not settings.oct and settings.fundus_updates
  if settings.sites == "fundus" and not alone:
    raise ConfigError(
      f"arm {arm}: pretrain.sites fundus is learned from photographs alone and"
      " needs pretrain.oct=False and pretrain.fundus_updates=True"
    )
  learned = settings.sites == "oct"
  if terms := [n for n in ("site", "diversity") if settings[n] and not learned]:
    raise ConfigError(
      f"arm {arm}: pretrain.{terms[0]} is of sites that OCT teaches, and"
      f" pretrain.sites is {settings.sites!r}"
    )
  if learned and settings.kind == "slots" and settings.count < 2:
    raise ConfigError("pretrain.count: 2 sites or more")
  if settings.pair and settings.oct_draw != "pair":
    raise ConfigError("pretrain.pair needs pretrain.oct_draw=pair")
  if settings.oct_draw == "pair":
    _check_pair(arm, settings, fundus)


def _check_pair(arm: str, settings: ConfigDict, fundus: ConfigDict) -> None:
  if not fundus.pair_columns:
    raise ConfigError(
      f"arm {arm}: name the columns that pair the images of both tables with"
      " --config.fundus.pair_columns"
    )
  if not settings.rest:
    raise ConfigError(
      "pretrain.oct_draw pair needs pretrain.rest=without_place"
    )
  if 0 in fundus.labelled:
    raise ConfigError(
      f"arm {arm}: scans are drawn for photographs without a label, and with"
      " fundus.labelled 0 (all) there are none"
    )


def _check_without_oct(arm: str, settings: ConfigDict) -> None:
  if terms := [name for name in arms.OF_OCT if settings[name]]:
    raise ConfigError(
      f"arm {arm}: pretrain.{terms[0]} needs OCT, and pretrain.oct is False"
    )
  if settings.sites == "oct":
    raise ConfigError(f"arm {arm}: pretrain.sites oct without pretrain.oct")
  if settings.oct_draw != "independent":
    raise ConfigError(
      f"arm {arm}: pretrain.oct_draw {settings.oct_draw} without pretrain.oct"
    )
