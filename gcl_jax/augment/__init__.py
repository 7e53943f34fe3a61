"""Random views of images, drawn on the device with one key per image.

`crop` is SimCLR's view: a random resized crop, a flip and colour jitter.
`warp` is a rotation, zoom, shift and elastic deformation that moves a label
map along with the image. `two_crops` and `two_warps` draw two independent
views of every image. A view depends on the seed, the step and the index of its
image only: it is the same on any number of devices and in any batch.

Images have any number of channels. Saturation, hue and grayscale act on three.
"""

from gcl_jax.augment.colour import normalise
from gcl_jax.augment.crops import crop, two_crops
from gcl_jax.augment.keys import sample_keys
from gcl_jax.augment.spatial import warp_places
from gcl_jax.augment.warps import two_warps, warp

__all__ = [
  "crop",
  "normalise",
  "sample_keys",
  "two_crops",
  "two_warps",
  "warp",
  "warp_places",
]
