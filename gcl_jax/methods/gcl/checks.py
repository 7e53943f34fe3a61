"""Which settings go together, decided before anything runs."""

from typing import Any

from gcl_jax.engine.settings import (
  check_at_most,
  check_choices,
  check_each_once,
  check_numbers,
)
from gcl_jax.errors import ConfigError
from gcl_jax.gradients.mitigation.quadratic import LARGEST
from gcl_jax.gradients.pixel_filter import VARIANTS
from gcl_jax.methods.gcl import arms, rules
from gcl_jax.methods.gcl.steps import MITIGATORS

CHOICES = {
  "parallel": ("shard_map", "pmap", "jit"),
  "data.duplicates": ("refuse", "drop"),
  "protocol": ("strict", "transductive"),
  "unet.dtype": ("float32", "bfloat16"),
  "pretrain.heads": ("per_label", "shared"),
  "pretrain.mitigator": tuple(MITIGATORS),
  "pretrain.level": ("parameters", "features"),
  "pretrain.pacing": ("", "soft", "hard"),
  "pretrain.pixel": ("", *VARIANTS),
  "pretrain.optimizer": ("sgd", "adam", "adamw", "lars"),
  "pretrain.schedule": ("constant", "cosine"),
  "segment.optimizer": ("sgd", "adam", "adamw", "lars"),
  "segment.select": ("last", "inner"),
}
SMALL = ("cone", "cagrad", "min_norm")  # they try all sets of labels
POSITIVE = (
  "pretrain.batch_size",
  "pretrain.steps",
  "pretrain.learning_rate",
  "pretrain.temperature",
  "pretrain.head_hidden",
  "pretrain.head_out",
  "pretrain.rho",
  "segment.batch_size",
  "segment.steps",
  "segment.learning_rate",
  "segment.encoder_rate",
  "steps_per_dispatch",
  "max_skipped",
  "log_every",
)
NOT_NEGATIVE = (
  "devices",
  "workers",
  "seed",
  "data.limit",
  "data.max_bad",
  "pretrain.pixel_weight",
  "pretrain.pixel_start",
  "pretrain.patients_per_batch",
  "pretrain.theta",
  "pretrain.warmup",
  "pretrain.cagrad_c",
  "pretrain.weight_decay",
  "segment.dice_weight",
  "segment.weight_decay",
)
# Shares: greatest value.
AT_MOST_ONE = (
  "pretrain.rho",
  "pretrain.theta",
  "pretrain.warmup",
  "pretrain.pixel_start",
  "data.eval_fraction",
)


def check(config: Any) -> None:
  """Refuses what cannot run before anything does.

  Raises:
    ConfigError: a word that is none of a setting's choices, a number out of
      range, a meta label that is no rule, an unknown arm, a side that the
      U-Net cannot halve, settings that exclude others.
  """
  check_numbers(config, POSITIVE, NOT_NEGATIVE)
  check_at_most(config, AT_MOST_ONE, 1)
  check_choices(config, CHOICES)
  check_each_once("arms", config.arms, tuple(arms.ARMS))
  for arm in arms.names(config):
    settings = arms.settings_of(config, arm)
    found = [rules.parse(text) for text in settings.labels]
    if arm not in ("scratch", "simclr") and not found:
      raise ConfigError(
        f"arm {arm}: no meta label of pretrain.labels {config.pretrain.labels}"
        " belongs to it"
      )
    check_each_once("pretrain.labels", settings.labels, settings.labels)
    if len(found) > LARGEST and settings.mitigator in SMALL:
      raise ConfigError(
        f"pretrain.mitigator {settings.mitigator} takes at most {LARGEST} meta"
        f" labels, got {len(found)}: take mean or pcgrad"
      )
  _check_sizes(config)
  _check_batches(config.pretrain)
  _check_fits(config.segment)
  first, last = config.pretrain.pacing_range
  if not 0 < first <= last:
    raise ConfigError(
      f"pretrain.pacing_range {(first, last)}: two losses above 0, the first"
      " not the larger"
    )
  if config.segment.select == "inner" and 1 in config.segment.labelled:
    raise ConfigError(
      "segment.select inner leaves one labelled patient out of training, which"
      " segment.labelled 1 does not have: take select=last"
    )


def _check_fits(segment: Any) -> None:
  """Lists of what is fine-tuned: not empty, nothing twice or below 0."""
  for name in ("labelled", "draws", "seeds"):
    values = tuple(segment[name])
    if not values or min(values) < 0 or len(set(values)) < len(values):
      what = "numbers of patients with labels (0 = all)"
      what = what if name == "labelled" else "whole numbers"
      raise ConfigError(
        f"segment.{name} {values}: one or more {what}, 0 or more, each once"
      )


def _check_sizes(config: Any) -> None:
  size, stride = (
    tuple(config.preprocess.size),
    2 ** (len(config.unet.widths) - 1),
  )
  if len(size) != 2 or min(size) < stride or any(s % stride for s in size):
    raise ConfigError(
      f"preprocess.size {size}: (rows, columns), multiples of {stride} for a"
      f" U-Net of {len(config.unet.widths)} levels"
    )
  if len(config.preprocess.spacing) not in (0, 2):
    raise ConfigError(
      f"preprocess.spacing {config.preprocess.spacing}: mm between rows and"
      " between columns, or ()"
    )


def _check_batches(pretrain: Any) -> None:
  patients = pretrain.patients_per_batch
  if patients and pretrain.batch_size % patients:
    raise ConfigError(
      f"pretrain.batch_size {pretrain.batch_size} is not a multiple of"
      f" pretrain.patients_per_batch {patients}"
    )
