"""Diseases of the eye phantom: a look of the lesions and a zone they prefer.

Diseases of one look are a confounded group: their lesions look alike in either
modality and only the zone tells them apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gcl_jax.data.phantoms import eye_zones as zones

LOOKS = ("deposits", "cysts", "membrane")
HEALTHY = "healthy"
INFORMATIVE = ("true", "shuffled", "uniform")


class Disease(NamedTuple):
  """What defines a disease, and how often it is met.

  Attributes:
    name: of the class.
    look: one of `LOOKS`.
    zone: one of `eye_zones.ZONES`.
    held_out: "none", "fundus": no fundus photograph of it is for training, or
      "both": nor is there an OCT scan of it.
    fundus, oct: shares among the diseased patients of a modality.
  """

  name: str
  look: str
  zone: str
  held_out: str
  fundus: float
  oct: float


DISEASES = (
  Disease("deposits_fovea", "deposits", "fovea", "none", 0.22, 0.10),
  Disease("deposits_disc", "deposits", "disc", "none", 0.12, 0.20),
  Disease("cysts_fovea", "cysts", "fovea", "none", 0.12, 0.17),
  Disease("cysts_temporal", "cysts", "temporal", "none", 0.18, 0.11),
  Disease("membrane_parafovea", "membrane", "parafovea", "none", 0.12, 0.18),
  Disease("deposits_temporal", "deposits", "temporal", "fundus", 0.08, 0.12),
  Disease("cysts_disc", "cysts", "disc", "fundus", 0.08, 0.12),
  Disease("deposits_parafovea", "deposits", "parafovea", "both", 0.08, 0.0),
)
CLASSES = (HEALTHY, *(disease.name for disease in DISEASES))
# Classes that share the look, of which both modalities have training images.
PAIRS = (
  ("deposits_fovea", "deposits_disc"),
  ("cysts_fovea", "cysts_temporal"),
)


def draw_disease(
  rng: np.random.Generator, shares: Sequence[float], healthy: float
) -> Disease | None:
  """Draws a patient's disease, None for a healthy one.

  Args:
    rng: of this patient.
    shares: of the `DISEASES` among diseased patients, with sum 1.
    healthy: share of healthy patients, 0 to 1.
  """
  ill = rng.random() >= healthy
  number = int(rng.choice(len(DISEASES), p=shares))
  return DISEASES[number] if ill else None


def columns(disease: Disease | None) -> dict[str, str | float]:
  """What the table of either modality says of a patient's disease."""
  return {
    "disease": disease.name if disease else HEALTHY,
    "look": disease.look if disease else "none",
    "zone": disease.zone if disease else "none",
    "held_out": disease.held_out if disease else "none",
    "healthy": float(disease is None),
  }


def zones_of(informative: str, rng: np.random.Generator) -> dict[str, str]:
  """The zone in which lesions are drawn, by the name of each disease.

  Args:
    informative: "true": that of the disease; "shuffled": zones are permuted
      between the diseases that OCT has, so that none keeps its own and those of
      one look still differ; "uniform": `eye_zones.ANYWHERE`.
    rng: of the permutation.
  """
  seen = [disease for disease in DISEASES if disease.oct]
  own = np.array([disease.zone for disease in seen])
  drawn = own
  if informative == "uniform":
    drawn = np.full(len(seen), zones.ANYWHERE)
  while informative == "shuffled" and not _mixed(seen, own, drawn):
    drawn = rng.permutation(own)
  return {d.name: str(z) for d, z in zip(seen, drawn, strict=True)}


def _mixed(seen, own, drawn) -> bool:
  """Whether no zone is its own and no two diseases are alike."""
  alike = {(d.look, z) for d, z in zip(seen, drawn, strict=True)}
  return (own != drawn).all() and len(alike) == len(seen)
