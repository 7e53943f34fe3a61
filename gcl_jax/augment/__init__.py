"""Random views of images, drawn on the device with one key per image.

`crop` is SimCLR's view: a random resized crop, a flip and colour jitter.
`warp` is a rotation, zoom, shift and elastic deformation that moves a label
map along with the image. `two_crops` and `two_warps` draw two independent
views of every image. A view depends on the seed, the step and the index of its
image only: it is the same on any number of devices and in any batch.

With the option `cells` each of the four also returns the places of feature
cells in the original image, and `matching_cells` pairs the cells of two views.

`augment.degradations` makes images of low quality: blur, spots, illumination
and haze of fundus photographs, and a family for radiographs.

Images have any number of channels. Saturation, hue and grayscale act on three.
"""

from gcl_jax.augment.colour import normalise
from gcl_jax.augment.crops import crop, two_crops
from gcl_jax.augment.keys import sample_keys
from gcl_jax.augment.places import cell_centres, matching_cells
from gcl_jax.augment.spatial import sample_bilinear, warp_places
from gcl_jax.augment.warps import two_warps, warp

__all__ = [
  "cell_centres",
  "crop",
  "matching_cells",
  "normalise",
  "sample_bilinear",
  "sample_keys",
  "two_crops",
  "two_warps",
  "warp",
  "warp_places",
]
