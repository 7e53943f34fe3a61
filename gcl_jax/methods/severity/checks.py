"""Which settings go together, decided before anything runs."""

import ml_collections

from gcl_jax.engine.settings import (
  check_choices,
  check_each_once,
  check_numbers,
)
from gcl_jax.errors import ConfigError

CHOICES = {
  "parallel": ("shard_map", "pmap", "jit"),
  "protocol": ("strict", "transductive"),
  "data.duplicates": ("refuse", "drop"),
  "autoencoder.padding": ("1", "paper28"),
  "autoencoder.initialiser": ("torch", "he"),
  "autoencoder.schedule": ("constant", "cosine"),
  "autoencoder.alpha_scale": ("loss", "absolute"),
  "autoencoder.reference": ("mean", "unit", "ema"),
  "score.source": ("autoencoder", "msp", "odin", "mahalanobis", "random"),
  "score.mode": ("gradcon", "grad", "recon"),
  "score.pooling": ("mean", "layers"),
  "score.beta_scale": ("std", "absolute"),
  "score.dtype": ("float32", "bfloat16"),
  "score.engine": ("auto", "batched", "each", "ghost", "vmap"),
  "bin.rule": ("choose", "finest", "equal_width", "equal_count"),
  "supcon.loss": ("supcon", "soft", "moco", "pcl"),
  "supcon.arch": ("resnet10", "resnet18", "resnet34", "resnet50"),
  "supcon.stem": ("cifar", "imagenet", "oct"),
  "supcon.dtype": ("float32", "bfloat16"),
  "supcon.optimizer": ("sgd", "adam", "adamw", "lars"),
  "supcon.schedule": ("constant", "cosine"),
  "finetune.optimizer": ("sgd", "adam", "adamw", "lars"),
  "probe.solver": ("lbfgs", "sgd"),
  "report.embedding": ("pca", "tsne"),
}
REFERENCES = ("random", "simclr", "supervised", "moco", "pcl")


POSITIVE = (
  "autoencoder.batch_size",
  "autoencoder.steps",
  "autoencoder.eval_every",
  "autoencoder.folds",
  "autoencoder.learning_rate",
  "score.batch_size",
  "bin.count",
  "supcon.width",
  "supcon.batch_size",
  "supcon.epochs",
  "supcon.temperature",
  "supcon.learning_rate",
  "finetune.batch_size",
  "finetune.steps",
  "steps_per_dispatch",
  "max_skipped",
  "log_every",
)
NOT_NEGATIVE = (
  "devices",
  "workers",
  "seed",
  "data.max_bad",
  "data.limit",
  "score.chunk",
  "supcon.block_size",
  "supcon.images_per_bin",
  "supcon.weight_decay",
)


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what cannot run before anything does.

  Raises:
    ConfigError: a word that is none of a setting's choices (the near one is
      named), a number that must be positive and is not, an image side that
      the autoencoder cannot halve four times, a reference that is unknown or
      named twice, settings that exclude others.
  """
  check_numbers(config, POSITIVE, NOT_NEGATIVE)
  check_choices(config, CHOICES)
  check_each_once("references", config.references, REFERENCES)
  _check_size(config)
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
