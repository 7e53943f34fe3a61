"""A finished severity run on new scans: features, scores, probabilities."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.errors import DataError, UserError
from gcl_jax.methods.severity import classifier, data, folds, score
from gcl_jax.methods.severity.config import OWN
from gcl_jax.methods.severity.gradcon import make_model, models_of
from gcl_jax.pipeline import finished


class Run(finished.Finished):
  """A run of method `severity`; images are scans as stored, [h, w]."""

  def prepare(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The scans as the networks see them, uint8[H, W, 1] each.

    Raises:
      DataError: no scans, or one that cannot be prepared.
    """
    if not len(images):
      raise DataError("no images were given")
    config = self.config.preprocess
    return [data.prepared(raw, config)[..., None] for raw in images]

  def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Frozen features of the run's encoder, float32[N, D]."""
    section, prepared = self.config.supcon, self.prepare(images)
    return finished.features(self, section, "supcon", prepared)

  def severity(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Severity scores, float32[N], on the scale of the run's scores.

    A new scan is scored by all autoencoders, as an evaluation scan is.

    Raises:
      UserError: the scores of the run are random.
    """
    source, found = self.config.score.source, self.artifact("score")
    if source == "random":
      raise UserError("score.source random: the run has no score of an image")
    prepared = self.prepare(images)
    if source in classifier.SOURCES:
      scorer = classifier.scorer(self.config, self.statistics)
      tree = {k: found[k] for k in ("network", "stages") if k in found}
      values = finished.by_batches(scorer, tree, prepared)
      return classifier.combined(found, values).astype(np.float32)
    model = make_model(self.config.autoencoder, prepared[0].shape[-1])
    scorer = score.scorer(self.config.score, model)
    each = [
      finished.by_batches(scorer, score.tree_of(model), prepared)
      for model in models_of(self.artifact("gradcon"))
    ]
    error = np.stack([e["error"] for e in each], 1)
    grad = -np.stack([e["cos"] for e in each], 1).mean(-1)
    levels = found["levels"]
    modes = score.mode_scores(error, grad, levels["beta"])
    values = modes[self.config.score.mode]
    levels = levels["mean"], levels["sd"]
    return folds.levelled(values, levels).mean(1).astype(np.float32)

  def predict(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Probability of every label, float64[N], by the run's linear probe."""
    return finished.probabilities(self, OWN, self.embed(images))
