"""Checks of settings, made before anything runs."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from gcl_jax.engine import optim, parallel
from gcl_jax.engine.manifest import flat
from gcl_jax.engine.settings import (
  check_at_most,
  check_choices,
  check_numbers,
)
from gcl_jax.errors import ConfigError
from gcl_jax.models import resnet

DTYPES = ("float32", "bfloat16")
# Choices of the sections below, by the field's name.
CHOICES = {
  "parallel": parallel.MODES,
  "protocol": ("strict", "transductive"),
  "duplicates": ("refuse", "drop"),
  "group_unknown": ("refuse", "exclude", "image"),  # volumes: see check
  "arch": resnet.ARCHITECTURES,
  "stem": resnet.STEMS,
  "dtype": DTYPES,
  "optimizer": optim.OPTIMIZERS,
  "schedule": optim.SCHEDULES,
  "solver": ("lbfgs", "sgd"),
  "select": ("last", "inner"),
  "unit": ("mm", "voxels"),
  "embedding": ("pca", "tsne"),
}
# Numbers that must be above 0 wherever they occur; others may be 0.
POSITIVE = frozenset(
  (
    *("batch_size", "steps", "epochs", "eval_every", "learning_rate"),
    *("temperature", "width", "head_hidden", "head_out", "folds", "count"),
    *("steps_per_dispatch", "max_skipped", "log_every", "encoder_rate"),
    *("neighbours", "queue", "kernel_width", "patients", "eval_fraction"),
    *("fractions", "widths", "smoothness"),
    *("crop_scale", "crop_ratio", "scale"),  # of views
  )
)
# Two numbers, the lower one first.
RANGES = ("crop_scale", "crop_ratio", "scale", "elastic")
SIGNED = ("ct_window",)  # numbers that may be below 0
SHARES = ("eval_fraction", "validation_fraction", "fractions", "flip")
SHARES += ("jitter", "grayscale", "blur", "noise")  # probabilities
SHARES += ("flip_rows", "flip_columns", "probability", "crop_scale")


def check(
  config: ConfigDict,
  choices: Mapping[str, Sequence[str]],
  positive: Sequence[str] = (),
  shares: Sequence[str] = (),
) -> None:
  """Refuses words and numbers that no run can use.

  Every number must be finite and, but for `SIGNED`, not negative; those named
  in `POSITIVE` or `positive` above 0; shares at most 1; `RANGES` two of them.

  Args:
    config: of the run.
    choices: dotted name -> words, of the method's own fields; those of shared
      sections are known.
    positive: dotted names of the method's own that must be above 0.
    shares: dotted names of the method's own that must be at most 1.

  Raises:
    ConfigError: names the setting, what it is and what it may be.
  """
  found = flat(config.to_dict())
  known = {
    name: CHOICES[name.rsplit(".", 1)[-1]]
    for name in found
    if name.rsplit(".", 1)[-1] in CHOICES
  }
  for name in found:
    section, _, last = name.rpartition(".")
    if last == "axis":  # of a data section of volumes
      unknown = ("refuse", "exclude", "volume")
      known[f"{section}.group_unknown"] = unknown
  if "finetune" in config:  # a method that has grades gives its own
    known["finetune.loss"] = ("sigmoid",)
  check_choices(config, known | dict(choices))
  above = [n for n in found if n.rsplit(".", 1)[-1] in POSITIVE]
  if found.get("finetune.folds") in (0, 1):
    above.remove("finetune.folds")
    if found["finetune.folds"]:
      raise ConfigError("finetune.folds 1: 2 or more parts, or 0 for none")
  numbers = [n for n in found if n.rsplit(".", 1)[-1] not in SIGNED]
  check_numbers(config, [*above, *positive], numbers)
  at_most = [n for n in found if n.rsplit(".", 1)[-1] in SHARES]
  check_at_most(config, [*at_most, *shares], 1)
  for name, value in found.items():
    if name.endswith(".ct_window"):
      _check_window(name, tuple(value))
    if name.rsplit(".", 1)[-1] in RANGES:
      _check_range(name, tuple(value))
  if not found.get("data.name", True):
    raise ConfigError("data.name is empty: which data set is to be read?")
  if "segment" in config:
    _check_fits(config.segment)
  if "spacing" in config.get("preprocess", {}):
    _check_slices(config)


def _check_window(name: str, window: tuple) -> None:
  if len(window) != 2 or not window[0] < window[1]:
    raise ConfigError(
      f"{name} {window}: two Hounsfield units, the lower one first"
    )


def _check_range(name: str, ends: tuple) -> None:
  if len(ends) != 2 or not ends[0] <= ends[1]:
    raise ConfigError(f"{name} {ends}: (least, greatest)")


def _check_fits(segment: ConfigDict) -> None:
  """Lists of what is fine-tuned: not empty, nothing twice or below 0, and
  every draw with as many seeds."""
  for name in ("labelled", "draws", "seeds"):
    values = tuple(segment[name])
    whole = all(isinstance(value, int) for value in values)
    if (
      not (values and whole)
      or min(values) < 0
      or len(set(values)) < len(values)
    ):
      what = "numbers of patients with labels (0 = all)"
      what = what if name == "labelled" else "whole numbers"
      raise ConfigError(
        f"segment.{name} {values}: one or more {what}, 0 or more, each once"
      )
  fewer, more = sorted((len(segment.draws), len(segment.seeds)))
  if more % fewer:
    raise ConfigError(
      f"segment.draws has {len(segment.draws)} entries and segment.seeds"
      f" {len(segment.seeds)}: draw i goes with seed i, the shorter list from"
      " its start again, so one number must be a multiple of the other"
    )
  if segment.select == "inner" and 1 in segment.labelled:
    raise ConfigError(
      "segment.select inner leaves one labelled patient out of training, which"
      " segment.labelled 1 does not have: take select=last"
    )
  if segment.unit == "voxels" and segment.tolerance:
    raise ConfigError(
      f"segment.tolerance {segment.tolerance:g} is in mm, which segment.unit"
      " voxels says are not known: take segment.tolerance=0"
    )


def _check_slices(config: ConfigDict) -> None:
  """Sizes that the U-Net can halve as often as it does, and tiles that fit."""
  size, levels = tuple(config.preprocess.size), len(config.unet.widths)
  if levels < 2:
    raise ConfigError(
      f"unet.widths {tuple(config.unet.widths)}: channels of two or more levels"
    )
  stride = 2 ** (levels - 1)
  if len(size) != 2 or min(size) < stride or any(s % stride for s in size):
    raise ConfigError(
      f"preprocess.size {size}: (rows, columns), multiples of {stride} for a"
      f" U-Net of {levels} levels"
    )
  if len(config.preprocess.spacing) not in (0, 2):
    raise ConfigError(
      f"preprocess.spacing {config.preprocess.spacing}: mm between rows and"
      " between columns, or ()"
    )
  if "segment" in config:
    _check_tile(tuple(config.segment.tile), size, stride)


def _check_tile(tile: tuple, size: tuple, stride: int) -> None:
  """Tiles of the U-Net's whole cells that fit into the slices."""
  whole = all(isinstance(t, int) and t > 0 and t % stride == 0 for t in tile)
  fits = len(tile) == 2 and tile[0] <= size[0] and tile[1] <= size[1]
  if tile and not (whole and fits):
    raise ConfigError(
      f"segment.tile {tile}: (rows, columns), multiples of {stride}, the stride"
      f" of the U-Net, and at most preprocess.size {size}; or () for whole"
      " slices"
    )
