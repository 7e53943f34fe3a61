"""Volumes in any storage order for the tests of volumes."""

import nibabel
import numpy as np

from gcl_jax.data.volumes import Volume, Voxels

RNG = np.random.default_rng(7)
RAS = RNG.normal(50, 20, (6, 5, 4)).astype(np.float32)  # R, A, S
LABEL = RNG.integers(0, 3, (6, 5, 4)).astype(np.uint8)
SPACING = (0.5, 1.5, 8.0)  # of R, A, S
CODES = {1: "one", 2: "two"}


def save(path, values, affine=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  affine = np.diag([*SPACING, 1]) if affine is None else affine
  nibabel.save(nibabel.Nifti1Image(values, affine), path)
  return path


def stored(values, order):
  """Stores the same anatomy flipped, or with permuted axes."""
  affine = np.diag([*SPACING, 1.0])
  if order == "lps":
    affine[:2] *= -1
    return values[::-1, ::-1], affine
  if order == "sar":
    return values.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
  return values, affine


def array_volume(image, label=None, **facts):
  def voxels(name, values):
    return Voxels(name, values.shape, lambda: values)

  facts = {"id": "v", "patient": "p", "spacing": (1, 1, 1), **facts}
  masks = None if label is None else voxels("the_label", label)
  return Volume(image=voxels("the_image", image), label=masks, **facts)


def mr_reference(volume, percentiles=(1, 99)):
  values = volume.astype(np.float64)
  low, high = np.percentile(values, percentiles)
  values = np.minimum(np.maximum(values, low), high)
  z = (values - values.mean()) / values.std()
  return np.floor(255 * np.clip((z + 3) / 6, 0, 1) + 0.5)
