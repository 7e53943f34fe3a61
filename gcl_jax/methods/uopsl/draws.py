"""Which fundus images are labelled, and what each image is described by."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import data
from gcl_jax.methods.uopsl.captions import Captions
from gcl_jax.pipeline.prepared import Prepared


class Sources(NamedTuple):
  """Both sets of images of a run, and their captions."""

  fundus: Prepared
  oct: Prepared
  captions: Captions


def sources_of(context: Context) -> Sources:
  """The sets that stages `data` and `oct` left."""
  return Sources(
    Prepared(context),
    Prepared(context, data.OCT),
    data.captions_of(context),
  )


def known(images: Prepared) -> np.ndarray:
  """bool[N]: training images whose class is known."""
  return images.train & (images.table["class"] != "")


def labelled_counts(config: ConfigDict) -> dict[str, int]:
  """Name -> number of patients with labels, 0 for all: one fit each."""
  return {name_of(count): count for count in config.fundus.labelled}


def name_of(count: int) -> str:
  """Such as m20, or all."""
  return f"m{count}" if count else "all"


def most(config: ConfigDict) -> str:
  """The name of the largest number of labels, wherever it stands.

  >>> most(ConfigDict({"fundus": {"labelled": (200, 20)}}))
  'm200'
  """
  counts = tuple(config.fundus.labelled)
  return name_of(0 if 0 in counts else max(counts))


def labelled(images: Prepared, count: int, draw: int) -> np.ndarray:
  """bool[N]: the training images with labels.

  Patients are drawn one of every class first, then at random; a draw lies
  inside every larger one.

  Args:
    images: fundus.
    count: number of patients; 0 for all.
    draw: its seed.

  Raises:
    DataError: fewer patients than wanted.
  """
  rows = known(images)
  order = covering_order(images.groups[rows], images.table["class"][rows], draw)
  if count > len(order) or not order:
    raise DataError(
      f"fundus.labelled {count}: the training part has {len(order)} patients"
      " whose class is known; ask for fewer, or 0 for all of them"
    )
  chosen = order[:count] if count else order
  return rows & np.isin(images.groups, chosen)


def covering_order(
  groups: np.ndarray, classes: np.ndarray, seed: int
) -> list[str]:
  """The groups in random order, but one of every class first.

  Args:
    groups: str[N], patients.
    classes: str[N], of their images.
    seed: of the order.
  """
  names = np.random.default_rng(seed).permutation(np.unique(groups))
  place = {name: k for k, name in enumerate(names.tolist())}
  order = np.argsort([place[g] for g in groups.tolist()], kind="stable")
  seen, first = set(), []
  for row in order:
    if classes[row] not in seen:
      seen.add(classes[row])
      first.append(groups[row])
  return list(dict.fromkeys([*map(str, first), *names.tolist()]))


def columns_of(
  images: Prepared,
  captions: Captions,
  config: ConfigDict,
  *,
  places: bool,
  hidden: bool = False,
) -> dict[str, np.ndarray]:
  """Columns of a batch: `image`, `caption` and `class` of every image.

  Args:
    images: of either kind.
    captions: of all classes.
    config: of the run.
    places: whether the texts say where lesions lie.
    hidden: whether the class is for the text alone: `class` is then -1.
  """
  classes = images.table["class"]
  number = {name: k for k, name in enumerate(captions.classes)}
  of_image = np.array([number.get(c, -1) for c in classes.tolist()], np.int32)
  attributes = data.attributes_of(images, config.text)
  return {
    "image": images.pixels,
    "caption": captions.of_images(classes, attributes, places),
    "class": np.full_like(of_image, -1) if hidden else of_image,
  }


def partners(
  values: np.ndarray, others: np.ndarray, rows: np.ndarray, pool: np.ndarray
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
  """Rows that have a partner of the other kind, and all partners by value.

  Args:
    values: int[N] of fundus, such as the eye that an image is of; -1 = unknown.
    others: int[M] of OCT.
    rows: int[R], fundus images that may be drawn.
    pool: int[P], OCT scans that may be drawn.

  Returns:
    The rows with a partner, and value -> rows of the pool.
  """
  by_value = {
    value: pool[others[pool] == value]
    for value in np.unique(others[pool]).tolist()
    if value >= 0
  }
  return rows[np.isin(values[rows], list(by_value))], by_value
