"""A U-Net trained on few class maps, and what it then predicts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gcl_jax import augment
from gcl_jax.collectives import pmean
from gcl_jax.engine import feed, parallel, sweep, train
from gcl_jax.engine.dispatch import Dispatch
from gcl_jax.engine.optim import make_optimizer
from gcl_jax.engine.state import State, create, update
from gcl_jax.errors import DataError
from gcl_jax.losses.segmentation import cross_entropy_dice

PREDICTED = 64  # slices predicted at once


def segment_step(
  network: Any,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
  dice_weight: float = 1.0,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
  """One step of cross-entropy and soft Dice on augmented slices.

  The batch holds `image` uint8[B, H, W, C], `mask` uint8[B, H, W] and `index`;
  state.extra holds `batch_stats` and `class_weights` float32[K].

  Args:
    network: `models.unet.unet`.
    optimizer: an optax transformation.
    views: options of `augment.warp`.
    dice_weight: of `cross_entropy_dice`.
  """

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images, masks = augment.warp(keys, batch["image"], batch["mask"], **views)

    def objective(params):
      logits, stats = network.segment(
        {"params": params, "batch_stats": state.extra["batch_stats"]},
        images,
        train=True,
        axis_name=axis_name,
      )
      value = cross_entropy_dice(
        logits,
        masks,
        dice_weight=dice_weight,
        class_weights=state.extra["class_weights"],
        axis_name=axis_name,
      )
      return value, stats

    (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    value, grads = pmean((value, grads), axis_name)
    extra = {**state.extra, "batch_stats": stats}
    return update(state, grads, optimizer, extra), {"loss": value}

  return step


def optimizer_of(config: Any) -> optax.GradientTransformation:
  """A short warm-up, then cosine; the encoder at its share of the rate.

  Args:
    config: `optimizer`, `learning_rate`, `encoder_rate`, `steps`,
      `weight_decay`.
  """

  def at(rate):
    return make_optimizer(
      config.optimizer,
      rate,
      steps=config.steps,
      warmup_steps=config.steps // 20,
      schedule="cosine",
      weight_decay=config.weight_decay,
    )

  if config.encoder_rate == 1.0:
    return at(config.learning_rate)
  rates = {
    "encoder": at(config.learning_rate * config.encoder_rate),
    "decoder": at(config.learning_rate),
  }
  return optax.multi_transform(
    rates, lambda params: {half: half for half in params}
  )


def initial(
  network: Any,
  optimizer: Any,
  shape: tuple[int, ...],
  keep_best: bool = False,
) -> Callable[..., State]:
  """(key, class_weights, encoder or None) -> the state before the first step.

  Args:
    network: `models.unet.unet`.
    optimizer: an optax transformation.
    shape: (H, W, C) of the slices.
    keep_best: make room for the best parameters so far in state.extra.
  """

  def init(key, class_weights, encoder=None):
    for_weights, for_steps = jax.random.split(key)
    variables = network.init(for_weights, shape)
    if encoder is not None:
      variables = network.transfer(variables, encoder)
    extra = {
      "batch_stats": variables["batch_stats"],
      "class_weights": class_weights,
    }
    if keep_best:
      extra["best"] = {**variables, "dice": jnp.float32(-1)}
    return create(variables["params"], optimizer, for_steps, extra)

  return init


def predictor(
  network: Any, mean: float, std: float
) -> Callable[[Any, dict], jax.Array]:
  """fn(variables, batch) for a sweep: the class of every pixel, uint8[B, H, W].

  Args:
    network: `models.unet.unet`.
    mean, std: of the training pixels in [0, 1].
  """

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    logits, _ = network.segment(tree, images)
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)

  return one_batch


class Segmenter:
  """Trains the same U-Net again and again: one program for all its fits."""

  def __init__(
    self,
    network: Any,
    classes: int,
    config: Any,
    views: dict[str, Any],
    mesh: Any,
    mode: str,
  ):
    """Makes the step.

    Args:
      network: `models.unet.unet` with so many `classes`, background included.
      classes: K.
      config: as `optimizer_of`, and `batch_size`, `dice_weight`.
      views: options of `augment.warp`, `mean` and `std` among them.
      mesh, mode: see `gcl_jax.engine.parallel`.
    """
    self.network, self.classes, self.config = network, classes, config
    self.mesh, self.mode = mesh, mode
    self.optimizer = optimizer_of(config)
    self.step = segment_step(
      network, self.optimizer, views=views, dice_weight=config.dice_weight
    )
    self.predictor = predictor(network, views["mean"], views["std"])
    self.dispatch, self.programs = Dispatch(self.step, mesh, mode), {}

  def fit(
    self,
    pixels: np.ndarray,
    masks: np.ndarray,
    rows: np.ndarray,
    *,
    encoder: Any = None,
    class_weights: np.ndarray | None = None,
    seed: int = 0,
    name: str = "segment",
    keep_best: bool = False,
    **settings: Any,
  ) -> Any:
    """Trains on the labelled rows; every batch has `batch_size` of them.

    Args:
      pixels: uint8[N, H, W, C].
      masks: uint8[N, H, W].
      rows: positions of the labelled slices; drawn again where they are fewer
        than a batch.
      encoder: pre-trained variables; None trains from random weights.
      class_weights: float[K] of the cross-entropy; None weighs all the same.
      seed: of decoder, order and views.
      keep_best: as in `initial`, for an `on_every` that uses it.
      name, **settings: as in `train.fit`.

    Returns:
      The last state.

    Raises:
      DataError: no rows.
    """
    if not len(rows):
      raise DataError(f"{name}: no labelled slices to train on")
    weights = np.ones(self.classes) if class_weights is None else class_weights
    init = initial(self.network, self.optimizer, pixels.shape[1:], keep_best)
    arguments = [jax.random.key(seed), np.asarray(weights, np.float32)]
    if encoder is not None:
      arguments.append(encoder)
    size = self.config.batch_size
    copies = -(-size // len(rows))
    arrays = {"image": pixels, "mask": masks}
    return train.fit(
      self.step,
      parallel.init_replicated(init, self.mesh, *arguments),
      lambda start: feed.batches(
        arrays,
        size,
        seed=seed,
        start=start,
        steps=self.config.steps,
        rows=np.tile(rows, copies),
      ),
      steps=self.config.steps,
      mesh=self.mesh,
      mode=self.mode,
      name=name,
      dispatch=self.dispatch,
      **settings,
    )

  def predict(
    self,
    params: Any,
    batch_stats: Any,
    pixels: np.ndarray,
    *,
    name: str = "predict",
    telemetry: Any = None,
  ) -> np.ndarray:
    """Class of every pixel, uint8[N, H, W], in evaluation mode."""
    return sweep.map_examples(
      self.predictor,
      {"params": params, "batch_stats": batch_stats},
      {"image": pixels},
      mesh=self.mesh,
      mode=self.mode,
      batch_size=PREDICTED,
      name=name,
      telemetry=telemetry,
      compiled=self.programs,
    )
