"""Windows of probes that lie where those of pre-training lie."""

import numpy as np

from gcl_jax.engine.arrays import Regions
from gcl_jax.engine.context import Context
from gcl_jax.methods.comcl import pools, pretrain
from gcl_jax.methods.comcl.arms import OWN
from gcl_jax.methods.comcl.artefacts import MOST, Windows
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.pipeline.prepared import Prepared

LESIONS = pools.LEVELS[:2]


def clean_and_degraded(context: Context, images: Prepared) -> Windows:
  """Lesion windows as they are (negative) and degraded (positive).

  Of images that the table does not call low. The two windows of a pair differ
  in nothing but the degradation; there are no windows where no box of a lesion
  keeps the rules.

  Args:
    context: of the stage.
    images: of the run.
  """
  quality, seed = Quality(context), context.config.seed
  side, size = context.config.patches.size, images.pixels.shape[1]
  random, rows, found = np.random.default_rng((seed, 8)), [], []
  for part in (images.train, images.evaluation):
    of, _ = pretrain.pools_of(context, OWN, part & ~quality.native)
    both = [np.concatenate(x) for x in zip(*map(of.get, LESIONS), strict=True)]
    order = random.permutation(len(both[0]))[:MOST]
    rows.append(both[0][order])
    found.append(both[1][order])
  rows, found = np.concatenate(rows), np.concatenate(found)
  corners = pools.corners_of(random, found, side, size)
  cut = [
    Regions(source, rows, corners, side)[:]
    for source in (quality.clean, quality.degraded)
  ]
  twice = np.tile(rows, 2)
  return Windows(
    np.concatenate(cut),
    np.repeat([0.0, 1.0], len(rows)),
    images.groups[twice],
    images.evaluation[twice],
    np.tile((corners + side / 2) / size, (2, 1)),
  )


def position(
  context: Context, images: Prepared
) -> tuple[float | None, np.ndarray]:
  """How well the place tells lesion windows from healthy ones in training.

  Returns:
    `pools.position_auroc`, and the groups of the windows, str[W].
  """
  found, _ = pretrain.pools_of(context, OWN)
  side, seed = context.config.patches.size, context.config.seed
  value = pools.position_auroc(found, images.pixels, side, seed)
  rows = np.concatenate([pool.rows for pool in found.values()])
  return value, images.groups[rows]
