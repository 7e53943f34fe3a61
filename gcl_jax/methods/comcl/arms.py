"""What CoMCL is compared with: the same code under other settings."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

OWN = "comcl"


class Arm(NamedTuple):
  """An arm as changes of settings.

  Attributes:
    pretrain, patches: changes of these sections, given the configured one.
    encoder: the stage whose encoder is fine-tuned; "" trains from random
      weights, None that of the arm itself.
    degrade: whether the fine-tune degrades images at random.
  """

  pretrain: dict[str, Any] = {}
  patches: dict[str, Any] = {}
  encoder: str | None = None
  degrade: bool = False


_SIMCLR = dict(loss="simclr", pacing="off", hard_negatives="off")
_HEALTHY = dict(loss="lesions", pacing="off", hard_negatives="off")

ARMS: dict[str, Arm] = {
  "supervised": Arm(encoder=""),
  "supervised_degraded": Arm(encoder="", degrade=True),
  # The encoder of this method, fine-tuned with degradations.
  "comcl_degraded": Arm(encoder=OWN, degrade=True),
  "simclr": Arm(_SIMCLR),
  "simclr_degraded": Arm(_SIMCLR | dict(degrade=0.5)),
  "authors_code": Arm(
    _HEALTHY | dict(negatives="queue"), dict(healthy="false_boxes")
  ),
  "authors_chest": Arm(
    dict(loss="moco", pacing="off", hard_negatives="off", negatives="queue")
  ),
  "two_levels": Arm(dict(loss="lesions")),
  "no_pacing": Arm(dict(pacing="off")),
  "literal": Arm(dict(pacing="literal")),
  "hcl": Arm(dict(hard_negatives="hcl")),
  "all_negatives": Arm(dict(hard_negatives="off")),
  "shuffled_quality": Arm(patches=dict(shuffle_quality=True)),
  "uniform": Arm(patches=dict(healthy="uniform")),
  "low_high": Arm(dict(first_pair="low_high")),
  "high_healthy_low": Arm(dict(first_pair="high_healthy_low")),
  "no_first_pair": Arm(dict(first_pair="none")),
}
# The cheap explanations of the paper's claim, which decide.
DECIDING = (
  *("supervised", "supervised_degraded", "comcl_degraded"),
  *("simclr", "simclr_degraded", "shuffled_quality"),
)


def settings_of(config: ConfigDict, arm: str) -> tuple[ConfigDict, ConfigDict]:
  """Sections `pretrain` and `patches` of an arm; "comcl" is as configured."""
  found = ARMS.get(arm, Arm())
  sections = []
  for name, changes in (
    ("pretrain", found.pretrain),
    ("patches", found.patches),
  ):
    section = ConfigDict(config[name].to_dict())
    section.update(changes)
    sections.append(section)
  return tuple(sections)


def names(config: ConfigDict) -> tuple[str, ...]:
  """All arms of a run, this method's own first."""
  return (OWN, *config.arms)


def trained(config: ConfigDict) -> list[str]:
  """The arms that are a stage of pre-training."""
  return [arm for arm in names(config) if ARMS.get(arm, Arm()).encoder is None]


def encoder_of(arm: str) -> str:
  """The stage whose encoder an arm fine-tunes; "" without one."""
  found = ARMS.get(arm, Arm())
  return arm if found.encoder is None else found.encoder


def degrades(arm: str) -> bool:
  """Whether an arm's fine-tune degrades images at random."""
  return ARMS.get(arm, Arm()).degrade
