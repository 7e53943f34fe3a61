"""A procedural phantom of organs that only their context tells apart.

Organs lie on both sides of a bar with a bright and a dark face. They are alike
in texture, shape and place; those beside the bright face are of class "left",
those beside the dark one of class "right". A crop without the bar cannot tell.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gcl_jax.data.phantoms import organ_picture as pictures
from gcl_jax.data.phantoms import organ_scene as scenes
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

MARKER = ("marker_top", "marker_left", "marker_bottom", "marker_right")
META = (
  *("volume", "slice", "position", "spacing_z", "spacing_y", "spacing_x"),
  *MARKER,
  "gap",
)
# Independent random streams: draws from one do not change another.
_LAYOUT, _FACE, _DISCS, _TEXTURE, _SWAPS, _SHADING, _NOISE = range(7)


def organ_phantom(
  patients: int = 2000,
  size: tuple[int, int] = (64, 64),
  gap: float = 1.0,
  swapped: float = 0.1,
  shading: float = 0.3,
  noise: float = 0.04,
  seed: int = 0,
) -> Dataset:
  """Slices with organs on both sides of a bar, and masks of three classes.

  `read(row)` makes the image, uint8[H, W], and `read_mask(row)` the classes of
  its pixels, uint8[H, W] (0 background, 1 left, 2 right, 3 bar), when asked
  for: the same ones every time, from the seed and the row alone (about 1 ms at
  64 x 64). Masks depend neither on `swapped`, `shading` and `noise`, nor, for
  the organs, on `gap`; on `size` only in their resolution: the same field of
  view is sampled.

  Every image has one or two organs on each side of an axis, and a bar on this
  axis. A fair coin, independent of all else, decides which face of the bar is
  bright, and with it the classes of all organs: "left" lie on the side of the
  bright face. Turned upside down, left of the bar is right in the image, as in
  a patient who lies on the belly, so that a place in the image says nothing
  about the class (AUROC of the organs' centres by logistic regression 0.51),
  and mirrored images keep their classes. The class "bar" is easy to see: where
  it is found and left and right are not told apart, the network sees the bar
  and does not relate it to the organs. A bright and a dark disc without a
  meaning lie anywhere. About 9 % of the pixels are organs, 2.4 % bar.

  Columns: `id` ("p0003_s0"); `group` and `volume` ("p0003"); `slice` 0;
  `position` 1; `spacing_z`, `spacing_y`, `spacing_x` in mm; `marker_top`,
  `marker_left`, `marker_bottom`, `marker_right`, the box of the bar in pixels
  (bottom and right excluded); `gap`.

  Args:
    patients: number of patients, with one slice each.
    size: (height, width) in pixels, each at least 32.
    gap: 0 to 1, how far along the axis the bar lies from the organs: between
      them, or at the upper or lower border. Of the organ pixels in both of two
      random crops of area 0.3 to 1, 1, 20 and 45 % have the bar (half of its
      box or more) in exactly one of them at gap 0, 0.5 and 1, and 0, 2 and 11 %
      in neither.
    swapped: 0 to 1, share of the pixels, in blobs of a few pixels, that show
      the signal of another place of the image. Two crops of an image show the
      same blobs.
    shading: 0 to 1, amplitude of a smooth field that multiplies the signal:
      the mean and deviation of a crop depend on where it lies.
    noise: 0 to 1, standard deviation of the pixels' noise, in units of the grey
      scale.
    seed: not negative.

  Raises:
    DataError: if an argument is out of range.
  """
  cohort = _Cohort(patients, tuple(size), gap, swapped, shading, noise, seed)
  return Dataset(
    "organ_phantom",
    cohort.table(),
    cohort.image,
    meta=META,
    read_mask=cohort.mask,
    classes=scenes.CLASSES,
  )


def read(*, organs: Mapping[str, Any] | None = None) -> Dataset:
  """The phantom; `organs` are arguments of `organ_phantom`, None: defaults."""
  return organ_phantom(**(organs or {}))


@dataclasses.dataclass(frozen=True)
class _Cohort:
  """All slices of the phantom; arguments as in `organ_phantom`."""

  patients: int
  size: tuple[int, int]
  gap: float
  swapped: float
  shading: float
  noise: float
  seed: int

  def __post_init__(self):
    if self.patients < 1 or self.seed < 0:
      raise DataError(
        "the organ phantom needs patients of at least 1 and a seed of at least"
        f" 0, got {self.patients} and {self.seed}"
      )
    if len(self.size) != 2 or min(self.size) < 32:
      raise DataError(
        "the organ phantom needs a size of (height, width), each at least 32,"
        f" got {self.size}"
      )
    for name in ("gap", "swapped", "shading", "noise"):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise DataError(
          f"the organ phantom needs a {name} between 0 and 1, got {value}"
        )

  def table(self) -> dict[str, np.ndarray]:
    records = [self._record(row) for row in range(self.patients)]
    return {k: np.array([r[k] for r in records]) for k in records[0]}

  def image(self, row: int) -> np.ndarray:
    """The slice, uint8[H, W]."""
    contours = scenes.distances(self._scene(row), self.size)
    picture = pictures.paint(contours, self._rng(_TEXTURE, row))
    picture = pictures.swap(picture, self.swapped, self._rng(_SWAPS, row))
    return pictures.expose(
      picture,
      self.shading,
      self.noise,
      self._rng(_SHADING, row),
      self._rng(_NOISE, row),
    )

  def mask(self, row: int) -> np.ndarray:
    """Class of every pixel, uint8[H, W]."""
    return scenes.class_mask(scenes.distances(self._scene(row), self.size))

  def _record(self, row: int) -> dict[str, str | float | int]:
    group = f"p{row:04d}"
    box = scenes.bar_box(self._scene(row), self.size)
    return {
      "id": f"{group}_s0",
      "group": group,
      "volume": group,
      "slice": 0,
      "position": 1.0,
      "spacing_z": 1.0,
      "spacing_y": 64 / self.size[0],
      "spacing_x": 64 / self.size[1],
      **dict(zip(MARKER, box, strict=True)),
      "gap": float(self.gap),
    }

  def _scene(self, row: int) -> scenes.Scene:
    streams = (self._rng(s, row) for s in (_LAYOUT, _FACE, _DISCS))
    return scenes.draw_scene(*streams, self.gap)

  def _rng(self, *stream: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, *stream])
