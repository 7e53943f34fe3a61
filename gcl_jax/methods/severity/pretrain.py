"""Stage `supcon` and its references: encoders pre-trained on the pool.

supcon: SupCon on the severity bins (or any label sets); simclr: the same with
no labels; moco, pcl: further baselines; random: no training at all. All share
encoder, initial weights, views, batch size, optimiser and number of steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax import binning
from gcl_jax.engine import feed, parallel, train
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.evaluation import encoders
from gcl_jax.methods.severity import clustering, pseudo_labels, steps
from gcl_jax.methods.severity.images import Images
from gcl_jax.models import heads


def make_encoder(config: Any) -> Any:
  """The encoder of `config.supcon`."""
  return encoders.make(config)


def run(context: Any, name: str = "supcon") -> dict[str, Any]:
  """Pre-trains one encoder; `name` is supcon, simclr, moco, pcl or random.

  Returns:
    `encoder`: its variables (params and batch_stats), without the head.
  """
  images = Images(context)
  config = context.config.supcon
  loss, label_names = objective(config, name)
  rows = np.flatnonzero(images.pool(context.config.protocol))
  size = config.batch_size
  if len(rows) < size:
    raise DataError(
      f"the pre-training pool has {len(rows)} images, fewer than one batch of"
      f" {size}: lower --config.supcon.batch_size"
    )
  total = int(config.epochs * (len(rows) // size))
  networks = Networks(config, total, len(rows) // size)
  init = initial(
    config, networks, loss, images.pixels.shape[1:], len(rows), len(images)
  )
  key = jax.random.key(context.config.seed)
  state = parallel.init_replicated(init, context.mesh, key)
  if name != "random":
    views = views_of(config, *images.pixel_statistics())
    state = train.fit(
      step_of(config, networks, loss, label_names, views),
      state,
      _batches(context, images, rows, label_names, loss, total),
      steps=total,
      mesh=context.mesh,
      mode=context.mode,
      name=name,
      telemetry=context.telemetry,
      checkpoints=context.checkpoints(),
      save_every=max(1, total // 5),
      every=len(rows) // size if loss == "pcl" else 0,
      on_every=clustering.every_epoch(
        context, images, rows, networks.encoder, networks.head, loss
      ),
      steps_per_dispatch=context.config.steps_per_dispatch,
      max_skipped=context.config.max_skipped,
      log_every=context.config.log_every,
      ids=images.table["id"],
    )
  variables = {
    "params": state.params["encoder"],
    "batch_stats": state.extra["batch_stats"],
  }
  return {"encoder": jax.tree.map(np.asarray, variables)}


class Networks:
  """Encoder, projection head and optimiser of `config.supcon`."""

  def __init__(self, config: Any, total: int, epoch: int):
    """Made for `total` steps, `epoch` of them an epoch."""
    self.encoder = make_encoder(config)
    self.head = heads.projection(config.head_hidden, config.head_out)
    self.optimizer = make_optimizer(
      config.optimizer,
      config.learning_rate,
      steps=total,
      warmup_steps=min(int(config.warmup_epochs * epoch), max(total - 1, 0)),
      schedule=config.schedule,
      momentum=config.momentum,
      weight_decay=config.weight_decay,
    )


def objective(config: Any, name: str) -> tuple[str, tuple[str, ...]]:
  """The loss and the label sets that a stage of this name trains with."""
  if name in ("simclr", "random"):
    return "supcon", ()
  if name in ("moco", "pcl"):
    return name, ()
  if len(config.labels) != len(config.label_weights):
    raise ConfigError(
      f"supcon.labels has {len(config.labels)} entries and"
      f" supcon.label_weights {len(config.label_weights)}: give one weight"
      " per label set"
    )
  return config.loss, tuple(config.labels) if config.loss == "supcon" else ()


def views_of(config: Any, mean: float, std: float) -> dict[str, Any]:
  """Keywords of `augment.two_crops`; mean and sd of the pool's pixels."""
  return dict(
    crop_scale=tuple(config.crop_scale),
    flip=config.flip,
    brightness=config.brightness,
    contrast=config.contrast,
    jitter=config.jitter,
    mean=mean,
    std=std,
  )


def step_of(
  config: Any,
  networks: Networks,
  loss: str,
  label_names: tuple[str, ...],
  views: dict[str, Any],
) -> steps.Step:
  """The training step of a loss."""
  if loss in ("moco", "pcl"):
    return steps.moco_step(
      networks.encoder,
      networks.head,
      networks.optimizer,
      temperature=config.temperature,
      momentum=config.momentum_encoder,
      prototypes=loss == "pcl",
      views=views,
    )
  return steps.supcon_step(
    networks.encoder,
    networks.head,
    networks.optimizer,
    label_names=label_names,
    label_weights=tuple(config.label_weights) if label_names else (),
    temperature=config.temperature,
    block_size=config.block_size or None,
    soft_width=config.kernel_width if loss == "soft" else 0.0,
    views=views,
  )


def initial(
  config: Any,
  networks: Networks,
  loss: str,
  shape: tuple[int, ...],
  pool: int,
  total: int,
) -> Callable[[jax.Array], State]:
  """key -> the state before the first step, the same weights for every loss.

  Args:
    config: `config.supcon`.
    networks: made for it.
    loss: of `objective`.
    shape: (H, W, C) of the images.
    pool: images that pre-training sees.
    total: images of the data set.
  """
  encoder, head = networks.encoder, networks.head

  def init(key):
    for_encoder, for_head, for_steps = jax.random.split(key, 3)
    variables = encoder.init(for_encoder, shape)
    params = {
      "encoder": variables["params"],
      "head": head.init(for_head, (encoder.feature_dim,)),
    }
    extra = {"batch_stats": variables["batch_stats"]}
    if loss in ("moco", "pcl"):
      queue = jax.random.normal(
        for_head, (min(config.queue, pool), config.head_out)
      )
      queue /= jnp.linalg.norm(queue, axis=1, keepdims=True)
      extra |= dict(
        slow=params, slow_stats=variables["batch_stats"], queue=queue
      )
    if loss == "pcl":
      extra["clusters"] = clustering.none_yet(config, pool, total)
    return create(params, networks.optimizer, for_steps, extra)

  return init


def _batches(context, images, rows, label_names, loss, total):
  """batches(start): the order is a function of seed and step alone."""
  config, seed = context.config.supcon, context.config.seed
  workers = context.config.workers
  arrays = {"image": images.pixels, **_labels(context, images, label_names)}
  if loss == "soft":
    arrays["score"] = _standard_scores(context, images)
  if not config.images_per_bin or not label_names:
    return lambda start: feed.batches(
      arrays,
      config.batch_size,
      seed=seed,
      start=start,
      steps=total,
      rows=rows,
      workers=workers,
    )
  labels = arrays[label_names[0]][rows]

  def rows_at(step: int) -> np.ndarray:
    return rows[
      binning.bin_aware_batch(
        labels,
        step,
        batch_size=config.batch_size,
        images_per_bin=config.images_per_bin,
        seed=seed,
      )
    ]

  return lambda start: feed.batches_from(
    arrays, rows_at, start=start, steps=total, workers=workers
  )


def _labels(context, images, names) -> dict[str, np.ndarray]:
  """int32[N] for each label set: bins of a score, or a column's values."""
  out = {}
  for name in names:
    if pseudo_labels.is_score_label(name):
      bins = context.load("bin")
      pseudo_labels.check_same_ids(bins, images)
      out[name] = bins["labels"][name]
    elif name in images.table:
      out[name] = codes(images.table[name])
    else:
      raise ConfigError(
        f"supcon.labels names {name!r}, which is neither a bin of a score"
        f" nor a column; columns: {', '.join(images.table)}"
      )
  return out


def codes(column: np.ndarray) -> np.ndarray:
  """A column's values as int32 labels; a missing value is like no other."""
  column = np.asarray(column)
  values, label = np.unique(column, return_inverse=True)
  if column.dtype.kind == "f":
    missing = np.isnan(column)
  else:
    missing = column.astype(str) == ""
  label = label.astype(np.int32)
  label[missing] = len(values) + np.arange(missing.sum())
  return label


def _standard_scores(context, images) -> np.ndarray:
  """Severity in standard deviations of the pool."""
  found = context.load("score")
  pseudo_labels.check_same_ids(found, images)
  score = np.asarray(found["score"], np.float32)
  pool = score[images.pool(context.config.protocol)]
  return ((score - pool.mean()) / max(pool.std(), 1e-12)).astype(np.float32)
