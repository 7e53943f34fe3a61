"""What GCL is compared with: the same code under other settings."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from gcl_jax.pipeline import arms
from gcl_jax.pipeline.label_draws import SCRATCH, SCRATCH_LONG, UNTRAINED

OWN = "gcl"
# The plain sum with a head per label is the baseline a mitigator must beat.
BASELINES = (SCRATCH, "heads_mean")
# Columns whose rules are an arm by themselves.
COLUMNS = ("position", "patient", "phase", "cycle")

_PLAIN = dict(pixel="", norm=False, pacing="")
# The mean of gradients is the gradient of the mean: one backward pass will do.
_MEAN = _PLAIN | dict(mitigator="mean", level="features")
_PARAMETERS = _PLAIN | dict(heads="per_label", level="parameters")
_FEATURES = _PLAIN | dict(heads="per_label", level="features")


def _of(settings: dict, **changes: Any) -> Callable[[Any], dict]:
  return lambda pretrain: settings | changes


def _only(column: str) -> Callable[[Any], dict]:
  """The configured rules about one column."""

  def changes(pretrain):
    labels = tuple(r for r in pretrain.labels if r.startswith(column))
    return _MEAN | dict(labels=labels)

  return changes


# Changes of config.pretrain; the first two are not pre-trained at all.
ARMS: arms.Arms = {
  **{name: _of({}) for name in UNTRAINED},
  "permuted": _of(dict(permute=True)),
  "simclr": _of(_MEAN, labels=()),
  **{name: _only(name) for name in COLUMNS},
  "partition": _of(_MEAN, labels=("position/4",)),
  "shared_mean": _of(_MEAN, heads="shared"),
  "heads_mean": _of(_MEAN, heads="per_label"),
  "self_paced": _of(_MEAN, heads="per_label", pacing="soft"),
  "norm_cone": _of(_PARAMETERS, mitigator="cone", norm=True),
  **{
    f"{prefix}_{name}": _of(settings, mitigator=name)
    for prefix, settings in (
      ("shared", _PARAMETERS | dict(heads="shared")),
      ("heads", _PARAMETERS),
      ("features", _FEATURES),
    )
    for name in ("pcgrad", "cone", "cagrad")
  },
  **{
    f"pixel_{variant}": _of(dict(pixel=variant))
    for variant in ("F0", "F1", "F2", "F3", "random")
  },
}


def settings_of(config: ConfigDict, arm: str) -> ConfigDict:
  """`config.pretrain` of an arm; "gcl" is what is configured."""
  return arms.settings_of(config.pretrain, ARMS, arm)


def names(config: ConfigDict) -> tuple[str, ...]:
  """All arms of a run, GCL last."""
  return (*config.arms, OWN)


def trained(config: ConfigDict) -> list[str]:
  """The arms that are a stage of pre-training."""
  return [arm for arm in names(config) if arm not in UNTRAINED]


def steps(config: ConfigDict) -> dict[str, int]:
  """Arms whose fine-tunes have another number of steps -> that number."""
  return {SCRATCH_LONG: config.pretrain.steps + config.segment.steps}
