"""Sections of configuration that methods share.

A section function returns defaults with the reason for each; a method updates
what it wants otherwise.
"""

from typing import Any

from ml_collections import ConfigDict


def run(method: str) -> ConfigDict:
  """What every run has, for the head of a method's configuration."""
  return ConfigDict(
    dict(
      method=method,
      preset="",
      seed=0,
      parallel="shard_map",  # or pmap, jit
      platform="",  # gpu, tpu, cpu: stops where JAX finds something else
      devices=0,  # 0: all; on a CPU one per core, at most 4
      # Processes that read and prepare images and make the batches of
      # pre-training; 0 does it in threads. The results are the same.
      workers=0,
      steps_per_dispatch=1,  # training steps in one program (train.fit)
      strict=False,  # refuse a damaged checkpoint, not take the one before
      log_every=20,  # steps between two lines of a fit in metrics.jsonl
      max_skipped=10,  # consecutive non-finite steps before the run stops
      # What pre-training may see of the groups kept for evaluation. strict:
      # nothing. transductive: their images without labels.
      protocol="strict",
      # Settings that were chosen by looking at data, a sentence each: which, by
      # what, on what. The report warns of every one, but for those that begin
      # with "training: ". No stage depends on it.
      tuned=(),
    )
  )


def _data(**more: Any) -> ConfigDict:
  return ConfigDict(
    dict(
      name="",  # a reader of gcl_jax.data; "" = none
      path="",
      table="",  # a CSV with one row per image (or volume)
      meta_columns=(),  # further columns to keep
      where=(),  # rows to keep: "COLUMN=VALUE" each, all of them
      # Rows whose column has this value are kept apart for testing out of
      # distribution, such as "scale=uint8" of hippocampus. "" = none.
      ood="",
      eval_fraction=0.3,  # of the groups, where the set has no split
      split_seed=0,  # which groups those are, whatever config.seed is
      allow_group_overlap=False,  # written into the report when used
      # Prepared images (or whole volumes) that are the same in two parts:
      # refuse, or drop those that are not kept for testing.
      duplicates="refuse",
      # Compare every evaluation image with every training image and warn of
      # those that look alike: 15 s for 30,000 images, a minute for 60,000.
      near_copies=True,
      max_bad=20,  # unreadable files before the run is refused
      limit=0,  # at most this many groups, in the order of a hash; 0 = all
    )
    | more
  )


def image_data() -> ConfigDict:
  """A data set of single images with labels in a table."""
  return _data(
    split="",  # of OLIVES: 2, 3, 1-clean; of a folder: its split column
    id_column="id",
    path_column="path",
    group_column="group",
    healthy_column="",
    label_columns=(),
    pattern="",  # file-name pattern with (?P<label>..) and (?P<group>..)
    group_unknown="refuse",  # or exclude, or image = each its own group
    train_table="",  # the published split files of OLIVES
    test_table="",
    phantom=ConfigDict(
      dict(
        patients=60,
        visits=2,
        scans=3,
        size=(96, 256),
        healthy_fraction=0.4,
        seed=0,
      )
    ),
  )


def volume_data() -> ConfigDict:
  """A data set of volumes with class maps."""
  return _data(
    axis="",  # axial, coronal, sagittal, stored; "" = the usual one
    classes=(),  # of volumes: names of the label values 1..n
    modality="",  # of mmwhs: mr or ct, "" = both
    cine=False,  # of acdc: all frames of the film, without labels
    ct_window=(-200.0, 800.0),  # Hounsfield units that become 0 and 255
    group_unknown="refuse",  # or exclude, or volume = each its own group
    heart=ConfigDict(
      dict(
        patients=60,
        slices=8,
        phases=2,
        size=(64, 64),
        conflict=1.0,  # strength of what marks a patient
        domain="source",
        seed=0,
      )
    ),
  )


def contrast() -> ConfigDict:
  """A ResNet, its views and its contrastive pre-training."""
  return ConfigDict(
    dict(
      arch="resnet18",
      stem="oct",  # the repository's 7x7/2 without max-pool; cifar, imagenet
      width=64,
      dtype="float32",  # or bfloat16; parameters, norms and losses stay float32
      remat=False,  # keep no activations inside residual blocks: less memory
      head_hidden=512,
      head_out=128,
      batch_size=64,
      epochs=25,
      optimizer="sgd",
      learning_rate=0.05,
      momentum=0.9,
      weight_decay=1e-4,
      warmup_epochs=1.0,
      schedule="cosine",
      temperature=0.07,
      block_size=0,  # rows and columns of a loss block, 0 = dense
      queue=4096,  # of moco; shortened to the pool
      momentum_encoder=0.999,  # of moco and pcl
      clusters=(100, 200, 400),  # of pcl
      crop_scale=(0.2, 1.0),
      flip=0.5,
      brightness=0.4,
      contrast=0.4,
      saturation=0.0,  # of colour images: 0.4, hue 0.1 and grayscale 0.2
      hue=0.0,
      jitter=0.8,
      grayscale=0.0,
      blur=0.0,  # probabilities of blur and noise
      noise=0.0,
    )
  )


def probe() -> ConfigDict:
  """Classification with few labels."""
  return ConfigDict(
    dict(
      solver="lbfgs",  # or sgd, the published settings
      fractions=(0.05, 0.1, 1.0),  # of the training groups, nested
      neighbours=20,
      finetune=False,  # also train every encoder on to the labels
    )
  )


def finetune() -> ConfigDict:
  """A classifier trained end to end."""
  return ConfigDict(
    dict(
      batch_size=64,
      steps=200,
      learning_rate=1e-3,
      optimizer="adamw",
      loss="sigmoid",  # of binary labels; softmax or ordinal of grades
      balanced=True,  # both values of a label, or every grade, weigh the same
      # Thresholds of binary labels, as the probes have them: the fit is
      # repeated on all but one of this many parts of its groups. 0 saves the
      # time and cuts at a balanced probability of 0.5.
      folds=2,
    )
  )


def unet() -> ConfigDict:
  """The U-Net of segmentation."""
  return ConfigDict(dict(widths=(16, 32, 64, 128), dtype="float32"))


def warped_views() -> ConfigDict:
  """Options of the warped views of slices and their class maps."""
  return ConfigDict(
    dict(
      rotation=30.0,
      scale=(0.7, 1.4),
      flip_rows=0.0,
      flip_columns=0.0,
      shift=0.1,
      elastic=(0.003, 0.011),
      smoothness=0.044,
      probability=0.67,
      brightness=0.2,
      contrast=0.2,
      gamma=0.2,
      blur=0.0,  # probabilities of blur and noise
      noise=0.0,
    )
  )


def segment(**more: Any) -> ConfigDict:
  """Segmentation with few labelled patients.

  Args:
    **more: fields of a method's own. With `alike`, names of classes that look
      alike, every report holds `segment/dice/ambiguous`.
  """
  section = ConfigDict(
    dict(
      labelled=(2,),  # patients with labels; 0 = all
      # Which patients: a seed each. Draw i goes with seed i, the shorter of the
      # two lists from its start again. Intervals need five draws or more.
      draws=(0,),
      seeds=(0,),  # of decoder, order and views
      # Of HD95: mm, or voxels where the spacing of the data is not known (a
      # step between slices then counts as one within them).
      unit="mm",
      # Of the surface Dice, in mm; below the size of a voxel only surfaces that
      # coincide count. 0 = none.
      tolerance=1.0,
      keep=(),  # arms besides the method's own whose network is kept
      # Rows and columns of tiles, on a grid of half a tile, for slices larger
      # than the network should see: it is trained on tiles, and the class
      # probabilities of all tiles that hold a pixel are averaged. () = whole
      # slices.
      tile=(),
      batch_size=16,
      steps=200,
      optimizer="adamw",
      learning_rate=2e-3,
      encoder_rate=1.0,  # of the encoder, as a share of the learning rate
      weight_decay=1e-4,
      dice_weight=1.0,
      class_weights=False,  # by inverse frequency in the labelled slices
      # last: the model of the last step. inner: the best of ten on one of the
      # labelled patients, left out of training (two or more are needed).
      select="last",
      views=warped_views(),
    )
    | more
  )
  section.views.probability = 0.8
  return section
