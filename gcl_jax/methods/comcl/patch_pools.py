"""Windows of probes that lie where those of pre-training lie."""

from typing import Any

import numpy as np

from gcl_jax.engine.arrays import Regions
from gcl_jax.engine.context import Context
from gcl_jax.evaluation import crossfit, metrics, probe
from gcl_jax.methods.comcl import pools, pretrain
from gcl_jax.methods.comcl.arms import OWN
from gcl_jax.methods.comcl.artefacts import MOST, Windows
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.pipeline.prepared import Prepared

LESIONS = pools.LEVELS[:2]
BLACK = 10  # pixels up to here, of 255, count as border
_MOST = 2000  # windows of a kind that `position_auroc` looks at


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
    of, _ = pretrain.pools_of(context, OWN, quality.low, part & ~quality.native)
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
    `position_auroc`, and the groups of the windows, str[W].
  """
  low = np.asarray(context.load("quality")["low"])
  found, _ = pretrain.pools_of(context, OWN, low)
  side, seed = context.config.patches.size, context.config.seed
  value = position_auroc(found, images.pixels, side, seed)
  rows = np.concatenate([pool.rows for pool in found.values()])
  return value, images.groups[rows]


def position_auroc(
  levels: dict[str, pools.Pool], images: Any, side: int, seed: int = 0
) -> float | None:
  """How well the place of a window tells lesion from healthy.

  A logistic regression on row, column, their squares and product, and the
  share of black pixels of a random window round each box, fitted without the
  image that it is applied to. 0.5 where the place tells nothing.

  Args:
    levels: the pools of all `LEVELS`.
    images: array-like uint8[N, S, S, C].
    side: P, of a window.
    seed: of the windows and folds.

  Returns:
    The AUROC out of fold; None where one kind is of fewer than two images.
  """
  random, size = np.random.default_rng(seed), images.shape[1]
  parts = []
  for names in pools.GROUPS["lesions"].values():
    every = pools.joined([levels[name] for name in names])
    some = random.permutation(len(every.rows))[:_MOST]
    parts.append(pools.taken(every, some))
  rows, boxes = pools.joined(parts)
  if not len(rows):
    return None
  corners = pools.corners_of(random, boxes, side, size)
  cut = Regions(images, rows, corners, side)
  black = np.array(
    [np.mean((cut[[k]] <= BLACK).all(-1)) for k in range(len(rows))]
  )
  y, x = (corners + side / 2).T / size - 0.5
  features = np.stack([y, x, y * y, x * x, y * x, black], axis=1)
  lesion = np.repeat([1.0, 0.0], [len(part.rows) for part in parts])

  def fit(labels):
    head = probe.fit_linear(features, {"lesion": labels}, penalty=1.0)
    return probe.probability(head["lesion"], features)

  fold = crossfit.folds_of(lesion, rows.astype(str), seed)
  if fold is None:
    return None
  return metrics.auroc(lesion, crossfit.out_of_fold(fit, lesion, fold))
