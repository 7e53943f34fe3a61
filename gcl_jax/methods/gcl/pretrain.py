"""One stage per arm: an encoder pre-trained on the pool without class maps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.engine import feed, parallel, train
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create
from gcl_jax.errors import DataError
from gcl_jax.methods.gcl import arms, rules
from gcl_jax.methods.gcl.branches import SHARED, Contrast, Networks, Pixels
from gcl_jax.methods.gcl.slices import Slices
from gcl_jax.methods.gcl.steps import Step, pretrain_step
from gcl_jax.models import heads
from gcl_jax.models.unet import pixel_projection, unet


def run(context: Any, arm: str) -> dict[str, Any]:
  """Pre-trains the encoder of one arm.

  Returns:
    `encoder`: {"params", "batch_stats"}, each {"encoder": ...}, no heads.
  """
  slices = Slices(context)
  config = context.config
  slices.check_labels(config.segment.labelled)
  settings = arms.settings_of(config, arm)
  contrast = contrast_of(config, settings)
  arrays = {"image": slices.pixels} | {
    rule.text: rules.values_of(rule, slices.table) for rule in contrast.rules
  }
  rows_at = batch_rows(slices, settings, config.protocol, config.seed)
  optimizer = optimizer_of(settings)
  shape = slices.pixels.shape[1:]
  state = parallel.init_replicated(
    initial(contrast, settings, optimizer, shape),
    context.mesh,
    jax.random.key(config.seed),
  )
  views = views_of(settings.views, *slices.pixel_statistics())
  state = train.fit(
    step_of(contrast, settings, optimizer, views),
    state,
    lambda start: feed.batches_from(
      arrays,
      rows_at,
      start=start,
      steps=settings.steps,
      workers=config.workers,
    ),
    steps=settings.steps,
    mesh=context.mesh,
    mode=context.mode,
    name=arm,
    telemetry=context.telemetry,
    checkpoints=context.checkpoints(),
    save_every=max(1, settings.steps // 5),
    steps_per_dispatch=config.steps_per_dispatch,
    max_skipped=config.max_skipped,
    log_every=config.log_every,
    ids=slices.table["id"],
  )
  variables = {
    "params": {"encoder": state.params["encoder"]},
    "batch_stats": {"encoder": state.extra["batch_stats"]},
  }
  return {"encoder": jax.tree.map(np.asarray, variables)}


def contrast_of(config: Any, settings: Any) -> Contrast:
  """Models, meta labels and branches of an arm."""
  network = make_unet(config, 2)  # the decoder is not trained here
  networks = Networks(
    network,
    heads.projection(settings.head_hidden, settings.head_out),
    pixel_projection(network.feature_dim, settings.head_out),
  )
  pixels = None
  if settings.pixel:
    pixels = Pixels(
      settings.pixel,
      settings.pixel_weight,
      int(settings.pixel_start * settings.steps),
      settings.theta,
      settings.rho,
      tuple(settings.pixel_negatives),
    )
  found = tuple(rules.parse(text) for text in settings.labels)
  return Contrast(
    networks, found, settings.temperature, settings.pacing == "hard", pixels
  )


def make_unet(config: Any, classes: int) -> Any:
  """The U-Net of `config.unet`, background among the classes."""
  return unet(tuple(config.unet.widths), classes, config.unet.dtype)


def optimizer_of(settings: Any) -> Any:
  """The optimiser of pre-training."""
  return make_optimizer(
    settings.optimizer,
    settings.learning_rate,
    steps=settings.steps,
    warmup_steps=int(settings.warmup * settings.steps),
    schedule=settings.schedule,
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
  )


def views_of(settings: Any, mean: float, std: float) -> dict[str, Any]:
  """Options of `augment.warp`; mean and sd of the training pixels."""
  plain = {
    name: tuple(value) if isinstance(value, tuple | list) else value
    for name, value in settings.to_dict().items()
  }
  return plain | dict(mean=mean, std=std)


def step_of(
  contrast: Contrast, settings: Any, optimizer: Any, views: dict[str, Any]
) -> Step:
  """The training step of an arm."""
  gamma = None
  if settings.pacing:
    first, last = settings.pacing_range

    def gamma(step):
      return first + (last - first) * jnp.minimum(1.0, step / settings.steps)

  return pretrain_step(
    contrast,
    optimizer,
    views=views,
    mitigator=settings.mitigator,
    level=settings.level,
    norm=settings.norm,
    cagrad_c=settings.cagrad_c,
    gamma=gamma,
  )


def initial(
  contrast: Contrast, settings: Any, optimizer: Any, shape: tuple[int, ...]
) -> Callable[[jax.Array], State]:
  """key -> the state before the first step; the same encoder for every arm."""
  unet, image_head, pixel_head = contrast.networks
  names = (SHARED,)
  if settings.heads == "per_label" and contrast.rules:
    names = tuple(rule.text for rule in contrast.rules)

  def init(key):
    for_encoder, for_heads, for_pixels, for_steps = jax.random.split(key, 4)
    variables = unet.init(for_encoder, shape)
    keys = jax.random.split(for_heads, len(names))
    params = {
      "encoder": variables["params"]["encoder"],
      "head": {
        name: image_head.init(key, (unet.feature_dim,))
        for name, key in zip(names, keys, strict=True)
      },
    }
    if contrast.pixels is not None:
      params["pixel_head"] = pixel_head.init(for_pixels, (unet.feature_dim,))
    extra = {"batch_stats": variables["batch_stats"]["encoder"]}
    return create(params, optimizer, for_steps, extra)

  return init


def batch_rows(
  slices: Slices, settings: Any, protocol: str, seed: int
) -> Callable[[int], np.ndarray]:
  """step -> rows of a batch, a pure function of the seed and the step.

  With `patients_per_batch` P, the slices of P patients, each of them in a row,
  so that slices of one patient meet on one device (the pixel branch needs
  that); otherwise any slices of the pool, each once an epoch.

  Raises:
    DataError: fewer slices or patients than a batch needs.
  """
  pool = np.flatnonzero(slices.pool(protocol))
  size, patients = settings.batch_size, settings.patients_per_batch
  if len(pool) < size:
    raise DataError(
      f"the pre-training pool has {len(pool)} slices, fewer than one batch of"
      f" {size}: lower --config.pretrain.batch_size"
    )
  if not patients:
    epoch = len(pool) // size

    def any_rows(step: int) -> np.ndarray:
      order = np.random.default_rng((seed, step // epoch)).permutation(pool)
      return order[step % epoch * size :][:size]

    return any_rows
  groups = slices.groups[pool]
  names = sorted(set(groups.tolist()))
  if len(names) < patients:
    raise DataError(
      f"the pre-training pool has {len(names)} patients, fewer than the"
      f" {patients} of a batch: lower --config.pretrain.patients_per_batch"
    )
  of_patient = [pool[groups == name] for name in names]
  share = size // patients

  def rows_of_patients(step: int) -> np.ndarray:
    draw = np.random.default_rng((seed, step))
    chosen = draw.choice(len(names), patients, replace=False)
    return np.concatenate(
      [
        draw.choice(of_patient[k], share, replace=len(of_patient[k]) < share)
        for k in chosen
      ]
    )

  return rows_of_patients
