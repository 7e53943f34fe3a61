"""A finished run of segmentation on new slices: features and class maps."""

from collections.abc import Sequence

import numpy as np

from gcl_jax.data import slice_geometry
from gcl_jax.errors import DataError, UserError
from gcl_jax.pipeline import finished, segmentation, tiles


class Run(finished.Finished):
  """A run that ends in a segmentation; images are slices as stored, [h, w].

  The arm of the method itself has the method's name.

  Wherever `spacing` is asked for: (y, x) of the slices in mm. It may be left
  out where the run kept the slices' own (`preprocess.spacing` empty).
  """

  def prepare(
    self, images: Sequence[np.ndarray], spacing: tuple | None = None
  ) -> list[np.ndarray]:
    """The slices as the networks see them, uint8[H, W, 1] each.

    Args:
      images: uint8[h, w] each, as the run's reader gives them: intensities of
        a volume are scaled together, which a slice alone does not tell.
      spacing: (y, x) of the slices in mm.

    Raises:
      DataError: slices of another type or shape, or no spacing where the run
        resampled its slices.
    """
    target = self._target(spacing)
    size = tuple(self.config.preprocess.size)
    found = []
    for image in map(np.asarray, images):
      if image.dtype != np.uint8 or image.ndim != 2:
        raise DataError(
          "slices must be uint8[h, w] as the run's reader gives them (a"
          " volume's intensities are scaled together), got"
          f" {image.dtype} of shape {image.shape}"
        )
      image, _ = slice_geometry.prepare_slice(
        image, None, self._own(spacing), target, size
      )
      found.append(image[..., None])
    return found

  def embed(
    self, images: Sequence[np.ndarray], spacing: tuple | None = None
  ) -> np.ndarray:
    """Pooled features of the pre-trained encoder, float32[N, D]."""
    network = segmentation.make_unet(self.config.unet, 2)
    return finished.by_batches(
      segmentation.pooled(network, *self.statistics),
      self.artifact(self.config.method)["encoder"],
      self.prepare(images, spacing),
    )

  def segment(
    self,
    images: Sequence[np.ndarray],
    spacing: tuple | None = None,
    arm: str | None = None,
  ) -> list[np.ndarray]:
    """Class of every pixel on the grid of each slice, uint8[h, w].

    0 is the background, k the k-th of `names("classes")`. The network is the
    first fine-tune of the arm (None: the method's own), fewest draws and seeds
    first in the settings.

    Raises:
      UserError: the network of this arm was not kept.
    """
    arm, kept = arm or self.config.method, self.artifact("segment")["networks"]
    if arm not in kept:
      raise UserError(
        f"the network of arm {arm!r} was not kept (there are:"
        f" {', '.join(kept)}): run again with --config.segment.keep"
      )
    classes = len(self.names("classes")) + 1
    network = segmentation.make_unet(self.config.unet, classes)
    maps = finished.by_batches(
      tiles.predictor(network, *self.statistics, self._tile),
      kept[arm]["variables"],
      self.prepare(images, spacing),
    )
    target, own = self._target(spacing), self._own(spacing)
    return [
      slice_geometry.restore(found, np.shape(image)[:2], own, target)
      for found, image in zip(maps, images, strict=True)
    ]

  @property
  def _tile(self):
    return tuple(self.config.segment.get("tile", ()))

  def _own(self, spacing):
    return (1.0, 1.0) if spacing is None else tuple(map(float, spacing))

  def _target(self, spacing):
    target = tuple(self.config.preprocess.spacing) or None
    if spacing is not None and np.shape(spacing) != (2,):
      raise DataError(f"spacing must be (y, x) in mm, got {spacing!r}")
    if target and spacing is None:
      raise DataError(
        f"the run resampled its slices to {target} mm: give the spacing (y, x)"
        " of these slices in mm"
      )
    return target
