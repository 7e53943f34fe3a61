"""What UOPSL is compared with: the same code under other settings."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from gcl_jax.pipeline import arms

OWN = "uopsl"
# No pre-training: fundus images and their labels alone. The second is trained
# for as many steps as pre-training and fine-tuning take together.
SCRATCH, SCRATCH_LONG = UNTRAINED = ("fundus_only", "fundus_long")
TEXT = "text_places"  # what decides: text says where lesions lie, too
# Terms of a pre-training, and those of them that need OCT.
OF_OCT = (
  *("oct_text", "site", "diversity", "across"),
  *("concept_mse", "concept_contrast", "prototype", "pair"),
)
TERMS = ("labelled_text", "rest_text", *OF_OCT)


def _of(**changes: Any) -> Callable[[Any], dict]:
  return lambda pretrain: changes


# Without sites; with OCT that meets fundus in the text space alone.
_NO_SITES = dict(sites="", site=0.0, diversity=0.0)
_FUNDUS = dict.fromkeys(OF_OCT, 0.0) | dict(
  sites="", oct=False, oct_draw="independent"
)
_FROZEN = dict(site=0.0, diversity=0.0)
_BY_CLASS = _NO_SITES | dict(oct_draw="class", pair=0.0)

# Changes of config.pretrain; the first two are not pre-trained at all.
ARMS: arms.Arms = {
  **{name: _of() for name in UNTRAINED},
  "text": _of(**_FUNDUS, places=False),
  TEXT: _of(**_FUNDUS, places=True),
  # Sites that only fundus images train.
  "fundus_sites": _of(**_FUNDUS | dict(sites="fundus", fundus_updates=True)),
  # Text that OCT helps to train.
  "no_sites": _of(**_NO_SITES),
  # What makes sites of this method's own into those of nothing.
  "random": _of(**_FROZEN, sites="random"),
  "shuffled": _of(shuffle_classes=True),
  "means": _of(**_FROZEN, sites="means"),
  # Other readings of the paper.
  "classes": _of(kind="classes"),
  "map": _of(kind="map"),
  "tokens": _of(compete="tokens"),
  "open": _of(fundus_updates=True),
  "average": _of(tie="average", site=0.0),
  "uncentred": _of(centre=False),
  "across": _of(across=0.5),
  # The known ways to let OCT help, written by us.
  "concepts": _of(**_BY_CLASS, concept_mse=0.05, concept_contrast=0.6),
  "prototypes": _of(**_BY_CLASS, prototype=2.0),
  # Knows which OCT scan belongs to which fundus image.
  "paired": _of(**_NO_SITES, oct_draw="pair", pair=1.0),
}
FROM_OWN = ("random", "means")  # arms whose sites are made of this method's
DECIDING = (
  *(SCRATCH, SCRATCH_LONG, "text", TEXT, "no_sites"),
  *("random", "shuffled", "means"),
)


def settings_of(config: ConfigDict, arm: str) -> ConfigDict:
  """`config.pretrain` of an arm; "uopsl" is what is configured."""
  return arms.settings_of(config.pretrain, ARMS, arm)


def names(config: ConfigDict) -> tuple[str, ...]:
  """All arms of a run, this method's own first."""
  return (OWN, *config.arms)


def trained(config: ConfigDict) -> list[str]:
  """The arms that are a stage of pre-training."""
  return [arm for arm in names(config) if arm not in UNTRAINED]


def steps(config: ConfigDict, arm: str) -> int:
  """Steps of the classifier of an arm."""
  more = config.pretrain.steps if arm == SCRATCH_LONG else 0
  return config.fundus.steps + more
