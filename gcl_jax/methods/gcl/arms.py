"""What GCL is compared with: the same code under other settings."""

from collections.abc import Callable
from typing import Any

import ml_collections

_NO_PIXELS = dict(pixel="", level="parameters", norm=False, pacing="")


def _of(**changes: Any) -> Callable[[Any], dict]:
  return lambda pretrain: _NO_PIXELS | changes


def _only(column: str) -> Callable[[Any], dict]:
  """The configured rules about one column."""

  def changes(pretrain):
    labels = tuple(r for r in pretrain.labels if r.startswith(column))
    return _NO_PIXELS | dict(labels=labels, mitigator="mean")

  return changes


# Changes of config.pretrain; scratch is not pre-trained at all. `heads_mean`,
# the plain sum with a head per label, is the baseline a mitigator must beat.
ARMS: dict[str, Callable[[Any], dict]] = {
  "scratch": _of(),
  "simclr": _of(labels=()),
  "position": _only("position"),
  "patient": _only("patient"),
  "phase": _only("phase"),
  "partition": _of(labels=("position/4",), mitigator="mean"),
  "shared_mean": _of(heads="shared", mitigator="mean"),
  "heads_mean": _of(heads="per_label", mitigator="mean"),
  "self_paced": _of(heads="per_label", mitigator="mean", pacing="soft"),
  "shared_pcgrad": _of(heads="shared", mitigator="pcgrad"),
  "shared_cone": _of(heads="shared", mitigator="cone"),
  "shared_cagrad": _of(heads="shared", mitigator="cagrad"),
  "heads_pcgrad": _of(heads="per_label", mitigator="pcgrad"),
  "heads_cone": _of(heads="per_label", mitigator="cone"),
  "heads_cagrad": _of(heads="per_label", mitigator="cagrad"),
  "features_cone": _of(mitigator="cone", level="features"),
  "norm_cone": _of(mitigator="cone", norm=True),
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
