"""A finished CoMCL run on new images: features and diagnoses."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.errors import UserError
from gcl_jax.methods.comcl import data, diagnose, targets
from gcl_jax.methods.comcl.arms import OWN
from gcl_jax.pipeline import finished


class Run(finished.Finished):
  """A run of method `comcl`; images as stored, [h, w] or [h, w, 3]."""

  def prepare(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The images as the networks see them, uint8[S, S, C] each."""
    return [data.prepared(raw, self.config.preprocess)[0] for raw in images]

  def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Frozen features of the run's pre-trained encoder, float32[N, D]."""
    prepared, section = self.prepare(images), self.config.pretrain
    return finished.features(self, section, OWN, prepared)

  def predict(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Probability of every grade or finding, float64[N], by the network that
    was fine-tuned on the run's labels.

    Raises:
      UserError: the run had no labels.
    """
    found = self.artifact("diagnosis")
    if "classifier" not in found:
      raise UserError("the run has no diagnosis: its data set had no labels")
    names = targets.outputs_of(self.config, self.names("labels"))
    network = diagnose.predictor(self.config, len(names), self.statistics)
    values = finished.by_batches(
      network, found["classifier"], self.prepare(images)
    )
    return {
      name: values[:, k].astype(np.float64) for k, name in enumerate(names)
    }
