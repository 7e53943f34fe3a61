"""One stage per arm: an encoder pre-trained on windows of the training part."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine import feed
from gcl_jax.engine.context import Context
from gcl_jax.engine.state import State, create
from gcl_jax.engine.train import Training, batch_of
from gcl_jax.methods.comcl import arms, levels, pools, steps
from gcl_jax.methods.comcl.boxes import boxes_of, diseased_of
from gcl_jax.methods.comcl.quality import Quality
from gcl_jax.methods.comcl.windows import Views, region_side
from gcl_jax.pipeline import contrast, monitors, sampling
from gcl_jax.pipeline.prepared import Prepared


class Plan(NamedTuple):
  """Numbers of a run of pre-training, the same for every arm.

  Attributes:
    epoch: steps of an epoch.
    steps: of all epochs.
    held: rows of the smallest pool; a queue holds no more keys.
  """

  epoch: int
  steps: int
  held: int = 10_000


def run(context: Context, arm: str) -> dict[str, Any]:
  """Pre-trains the encoder of one arm.

  Returns:
    `encoder`: {"params", "batch_stats"}, without the head; `facts`: JSON of
    the counts of `pools.build`.

  Raises:
    DataError: a pool without windows.
  """
  images, config = Prepared(context), context.config
  section, _ = arms.settings_of(config, arm)
  quality = Quality(context)
  found, facts = pools_of(context, arm, quality.low)
  lesions = facts["windows/lesion_high"] + facts["windows/lesion_low"]
  seen = quality.seen
  if section.loss == "moco":
    rows = np.flatnonzero(images.pool(config.protocol))
    held, ids, arrays = len(rows), images.ids, {"image": seen}
    # As many steps as arms of windows; without any, epochs over the images.
    lesions = lesions or 2 * held
    rows = np.resize(rows, max(held, section.batch_size))
    rows_at = sampling.shuffled(rows, section.batch_size, config.seed)
  else:
    found = pools.grouped(found, section.loss, facts)
    held = min(len(pool.rows) for pool in found.values())
    ids, arrays, rows_at = _pools(config, section, found, images, seen)
  numbers = plan(section, lesions, held)
  statistics = images.pixel_statistics()
  state = context.fit(
    training(config, section, seen.shape[1:], statistics, numbers),
    lambda start: feed.batches_from(
      arrays,
      rows_at,
      start=start,
      steps=numbers.steps,
      workers=config.workers,
    ),
    steps=numbers.steps,
    name=arm,
    seed=config.seed,
    ids=ids,
    save_every=max(1, numbers.steps // 5),
  )
  return {"encoder": contrast.encoder_of(state), "facts": json.dumps(facts)}


def pools_of(
  context: Context,
  arm: str,
  low: np.ndarray,
  part: np.ndarray | None = None,
) -> tuple[dict[str, pools.Pool], dict[str, int]]:
  """The pools of an arm's windows, and counts; see `pools.build`.

  Args:
    context: of a stage that reads the images, their boxes and their quality.
    arm: whose settings count.
    low: bool[N], of low quality.
    part: bool[N], images that windows may come from; None for the training
      part.
  """
  images, config = Prepared(context), context.config
  _, patches = arms.settings_of(config, arm)
  boxes, boxes_row = boxes_of(context)
  return pools.build(
    boxes,
    boxes_row,
    diseased=diseased_of(images, config.diagnosis.grade),
    low=low,
    eligible=images.train if part is None else part,
    size=images.pixels.shape[1],
    rules=config.boxes,
    patches=patches,
    seed=config.seed,
  )


def plan(section: ConfigDict, lesions: int, held: int) -> Plan:
  """The plan of `epochs` epochs over the lesion windows.

  Args:
    section: `epochs` and `batch_size`, of each level.
    lesions: number of lesion windows of both qualities.
    held: rows of the smallest pool.
  """
  epoch = max(1, lesions // (2 * section.batch_size))
  return Plan(epoch, int(section.epochs * epoch), held)


def training(
  config: ConfigDict,
  section: ConfigDict,
  shape: tuple[int, ...],
  statistics: tuple,
  numbers: Plan,
) -> Training:
  """What an arm trains, from settings and shapes alone.

  The first encoder and head are the same for every arm.

  Args:
    config: of the run.
    section: `pretrain` of the arm, from `arms.settings_of`.
    shape: (S, S, C) of the images.
    statistics: mean and standard deviation of training pixels in [0, 1].
    numbers: from `plan`.
  """
  of_contrast = contrast.Plan(
    numbers.held, numbers.held, numbers.epoch, numbers.steps
  )
  if section.loss == "moco":
    return contrast.training(
      section, "moco", (), shape, of_contrast, statistics
    )
  size, side, channels = shape[0], config.patches.size, shape[-1]
  views = Views(
    side,
    size,
    contrast.views_of(section, *statistics),
    section.degrade,
    config.quality.family,
  )
  networks = contrast.networks(section, of_contrast)
  region = region_side(side, size)
  batch = {
    name: batch_of(
      section.batch_size * pools.ROWS[section.loss],
      image=(np.uint8, region, region, channels),
      box=(np.float32, 4),
      corner=(np.float32, 2),
    )
    for name in pools.GROUPS[section.loss]
  }
  if section.loss == "simclr":
    step = steps.simclr_step(networks, views, section.temperature)
    extra = {"rank": monitors.no_ranks({"window": 2})}
    init = initial(networks, (side, side, channels), extra)
    return Training(step, init, batch)
  rules = rules_of(section, numbers)
  extra = {
    "pace": levels.pace(rules),
    "rank": monitors.no_ranks(steps.views_of(rules.pairs)),
  }
  if section.negatives == "queue":
    step = steps.queue_step(networks, rules, views, section.momentum_encoder)
    held = min(section.queue, numbers.held)
    queues = dict.fromkeys((negative for _, negative in rules.pairs), held)
  else:
    step, queues = steps.levels_step(networks, rules, views), {}
  init = initial(networks, (side, side, channels), extra, queues)
  return Training(step, init, batch)


def rules_of(section: ConfigDict, numbers: Plan) -> levels.Rules:
  """The rules of the loss of an arm."""
  return levels.Rules(
    levels.pairs_of(section.loss, section.first_pair),
    numbers.steps,
    numbers.epoch,
    section.temperature,
    section.hard_negatives,
    section.pacing,
    section.fewest_negatives,
    section.hcl_beta,
    section.hcl_tau_plus,
  )


def initial(
  networks: contrast.Networks,
  shape: tuple[int, ...],
  extra: dict[str, Any],
  queues: dict[str, int] | None = None,
) -> Callable[[jax.Array], State]:
  """key -> the state before the first step.

  Args:
    networks: encoder, head and optimiser.
    shape: (P, P, C) of a window.
    extra: further entries of `state.extra`.
    queues: {pool: Q}, keys of its queue, random unit vectors at first; with
      any of them there is a momentum encoder too.
  """

  def init(key):
    for_encoder, for_head, for_steps = jax.random.split(key, 3)
    variables = networks.encoder.init(for_encoder, shape)
    stats = variables["batch_stats"]
    head = networks.head.init(for_head, (networks.encoder.feature_dim,))
    params = {"encoder": variables["params"], "head": head}
    more = {"batch_stats": stats, **extra}
    if queues:
      more["teacher"] = {"params": params, "batch_stats": stats}
      more["queue"] = {
        name: _random_unit(jax.random.fold_in(for_head, k), size, networks)
        for k, (name, size) in enumerate(queues.items())
      }
    return create(params, networks.optimizer, for_steps, more)

  return init


def _random_unit(key, size, networks):
  z = jax.random.normal(key, (size, networks.head.feature_dim))
  return z / jnp.linalg.norm(z, axis=1, keepdims=True)


def _pools(config, section, found, images, seen):
  """Ids, arrays and sampler of the batches of several pools."""
  size = section.batch_size * pools.ROWS[section.loss]
  arrays = {
    name: pools.arrays(pool, seen, config.patches.size, size)
    for name, pool in found.items()
  }
  ids = {name: images.ids[pool["image"].rows] for name, pool in arrays.items()}
  samplers = {
    name: sampling.shuffled(
      np.arange(len(pool["box"])), size, (config.seed * 8 + k) % 2**32
    )
    for k, (name, pool) in enumerate(arrays.items())
  }
  return ids, arrays, sampling.side_by_side(**samplers)
