"""Random views of images, drawn on the device with one key per image.

`crop` is SimCLR's view: a random resized crop, a flip and colour jitter.
`warp` is a rotation, zoom, shift and elastic deformation that moves a label
map along with the image. `two_crops` and `two_warps` draw two independent
views of every image. `two_turned_crops` draws two resized crops that are
turned and flipped, with the photometric changes of `warp`. A view depends on
the seed, the step and the index of its image only: it is the same on any number
of devices and in any batch.

With the option `cells` each of the five also returns the places of feature
cells in the original image. `matching_cells` gives every cell of one view the
nearest cell of the other, and `nearby_cells` all that are near to it, in memory
linear in the cells. `inside` tells which cells of a view lie in the other, and
`border_distance` how far they are from the border of their own.

`augment.degradations` makes images of low quality: blur, spots, illumination
and haze of fundus photographs, and a family for radiographs.

Images have any number of channels. Saturation, hue and grayscale act on three.
"""

from gcl_jax.augment.colour import normalise
from gcl_jax.augment.crops import crop, two_crops
from gcl_jax.augment.keys import sample_keys
from gcl_jax.augment.matching import inside, matching_cells, nearby_cells
from gcl_jax.augment.places import border_distance, cell_centres
from gcl_jax.augment.spatial import sample_bilinear, warp_places
from gcl_jax.augment.turned_crops import two_turned_crops
from gcl_jax.augment.warps import two_warps, warp

__all__ = [
  "border_distance",
  "cell_centres",
  "crop",
  "inside",
  "matching_cells",
  "nearby_cells",
  "normalise",
  "sample_bilinear",
  "sample_keys",
  "two_crops",
  "two_turned_crops",
  "two_warps",
  "warp",
  "warp_places",
]
