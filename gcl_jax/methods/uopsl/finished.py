"""A finished UOPSL run on new photographs: features and diagnoses."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.methods.uopsl import arms, classify, data, draws, networks
from gcl_jax.pipeline import finished


class Run(finished.Finished):
  """A run of method `uopsl`; photographs as stored, [h, w] or [h, w, 3].

  Nothing of OCT is needed or read.
  """

  def prepare(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The images as the networks see them, uint8[S, S, 3] each."""
    return [data.prepared(raw, self.config.preprocess)[0] for raw in images]

  def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Frozen features of the pre-training with most labels, float32[N, D]."""
    stored = self.artifact(arms.OWN)[draws.most(self.config)]["fundus"]
    rate = self.config.fundus.site_rate
    return finished.by_batches(
      self._kind().features, networks.moved(stored, rate), self.prepare(images)
    )

  def predict(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Probability of every class, float64[N], by the network that was
    fine-tuned on the most labels."""
    found = self.artifact("fundus")
    values = finished.by_batches(
      self._kind().predict, found["classifier"], self.prepare(images)
    )
    return {
      str(name): values[:, k].astype(np.float64)
      for k, name in enumerate(found["names"])
    }

  def _kind(self) -> classify.Kind:
    """The programs of the run's own arm."""
    size = tuple(self.config.preprocess.size)
    return classify.kind_of(
      self.config,
      self.config.pretrain,
      (*size, 3),
      len(self.artifact("fundus")["names"]),
      self.statistics,
    )
