"""What GCL is compared with: the same code under other settings."""

from collections.abc import Callable
from typing import Any

import ml_collections

_NO_PIXELS = dict(pixel="", norm=False, pacing="")
# The mean of gradients is the gradient of the mean: one backward pass will do.
_MEAN = dict(mitigator="mean", level="features")
_PARAMETERS = dict(heads="per_label", level="parameters")
_FEATURES = dict(heads="per_label", level="features")


def _of(*settings: dict, **changes: Any) -> Callable[[Any], dict]:
  for more in settings:
    changes = more | changes
  return lambda pretrain: _NO_PIXELS | changes


def _only(column: str) -> Callable[[Any], dict]:
  """The configured rules about one column."""

  def changes(pretrain):
    labels = tuple(r for r in pretrain.labels if r.startswith(column))
    return _NO_PIXELS | _MEAN | dict(labels=labels)

  return changes


# Columns whose rules are an arm by themselves.
COLUMNS = ("position", "patient", "phase", "cycle")
# Changes of config.pretrain; scratch is not pre-trained at all. `heads_mean`,
# the plain sum with a head per label, is the baseline a mitigator must beat.
ARMS: dict[str, Callable[[Any], dict]] = {
  "scratch": _of(),
  "simclr": _of(_MEAN, labels=()),
  **{name: _only(name) for name in COLUMNS},
  "partition": _of(_MEAN, labels=("position/4",)),
  "shared_mean": _of(_MEAN, heads="shared"),
  "heads_mean": _of(_MEAN, heads="per_label"),
  "self_paced": _of(_MEAN, heads="per_label", pacing="soft"),
  "norm_cone": _of(_PARAMETERS, mitigator="cone", norm=True),
  **{
    f"shared_{name}": _of(heads="shared", level="parameters", mitigator=name)
    for name in ("pcgrad", "cone", "cagrad")
  },
  **{
    f"heads_{name}": _of(_PARAMETERS, mitigator=name)
    for name in ("pcgrad", "cone", "cagrad")
  },
  **{
    f"features_{name}": _of(_FEATURES, mitigator=name)
    for name in ("pcgrad", "cone", "cagrad")
  },
  **{
    f"pixel_{variant}": lambda pretrain, variant=variant: dict(pixel=variant)
    for variant in ("F0", "F1", "F2", "F3", "random")
  },
}


def settings_of(config: Any, arm: str) -> ml_collections.ConfigDict:
  """`config.pretrain` of an arm; "gcl" is what is configured."""
  pretrain = ml_collections.ConfigDict(config.pretrain.to_dict())
  if arm != "gcl":
    pretrain.update(ARMS[arm](config.pretrain))
  return pretrain


def names(config: Any) -> tuple[str, ...]:
  """All arms of a run, GCL last."""
  return (*config.arms, "gcl")
