"""A U-Net trained on few class maps, and what it then predicts."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.engine import feed
from gcl_jax.engine.compile_ahead import Program, step_of
from gcl_jax.engine.context import Context
from gcl_jax.engine.optim import by_part, make_optimizer
from gcl_jax.engine.state import State, create, descend
from gcl_jax.engine.train import Step, Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.losses.segmentation import cross_entropy_dice
from gcl_jax.models.unet import unet
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.tiles import predictor, tiles_of

PREDICTED = 64  # slices predicted at once


def segment_step(
  network: Any,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
  dice_weight: float = 1.0,
) -> Step:
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

    state, value = descend(state, objective, optimizer, axis_name)
    return state, {"loss": value}

  return step


class Segmenter:
  """One U-Net trained again and again: one program for all its fits."""

  def __init__(
    self,
    config: ConfigDict,
    unet: Any,
    classes: int,
    views: dict[str, Any],
    tile: Sequence[int] = (),
  ):
    """Makes network, optimiser and step.

    Args:
      config: `batch_size`, `steps`, `optimizer`, `learning_rate`,
        `encoder_rate`, `weight_decay`, `dice_weight`, `select`.
      unet: settings of the network, `widths` and `dtype`.
      classes: K, background included.
      views: options of `augment.warp`, `mean` and `std` among them.
      tile: (h, w) of the tiles that it is trained on and predicts by; () for
        whole slices.
    """
    self.config, self.classes, self.tile = config, classes, tuple(tile)
    self.network = make_unet(unet, classes)
    self.optimizer = _optimizer(config)
    self.step = segment_step(
      self.network, self.optimizer, views=views, dice_weight=config.dice_weight
    )
    self.predictor = predictor(
      self.network, views["mean"], views["std"], self.tile
    )
    self.keep_best = config.select == "inner"

  def training(
    self,
    shape: tuple[int, ...],
    encoder: Any = None,
    class_weights: np.ndarray | None = None,
  ) -> Training:
    """What one fine-tune trains.

    Args:
      shape: (H, W, C) of the slices, or of their tiles.
      encoder: pre-trained variables; None trains from random weights.
      class_weights: float[K] of the cross-entropy; None weighs all the same.
    """
    weights = np.ones(self.classes) if class_weights is None else class_weights
    arguments = [np.asarray(weights, np.float32)]
    if encoder is not None:
      arguments.append(encoder)
    batch = batch_of(
      self.config.batch_size,
      image=(np.uint8, *shape),
      mask=(np.uint8, *shape[:2]),
    )
    init = functools.partial(self._initial, shape)
    return Training(self.step, init, batch, tuple(arguments))

  def _initial(self, shape, key, class_weights, encoder=None) -> State:
    for_weights, for_steps = jax.random.split(key)
    variables = self.network.init(for_weights, shape)
    if encoder is not None:
      variables = self.network.transfer(variables, encoder)
    extra = {
      "batch_stats": variables["batch_stats"],
      "class_weights": class_weights,
    }
    if self.keep_best:  # room for the best parameters so far
      extra["best"] = {**variables, "dice": jnp.float32(-1)}
    return create(variables["params"], self.optimizer, for_steps, extra)

  def fit(
    self,
    context: Context,
    images: Prepared,
    rows: np.ndarray,
    *,
    name: str,
    seed: int,
    encoder: Any = None,
    class_weights: np.ndarray | None = None,
    **more: Any,
  ) -> State:
    """Trains on the labelled rows; every batch has `batch_size` of them, or of
    their tiles.

    Args:
      context: of the stage.
      images: the prepared slices and class maps.
      rows: int[R], the labelled slices; drawn again where they are fewer than
        a batch.
      name: of the fit.
      seed: of decoder, order and views.
      encoder, class_weights: as in `training`.
      **more: as in `Context.fit`.

    Returns:
      The last state.

    Raises:
      DataError: no rows.
    """
    if not len(rows):
      raise DataError(f"{name}: no labelled slices to train on")
    if self.tile:
      whole = images.pixels, images.masks
      images = tiles_of(*whole, rows, images.ids, self.tile)
      rows = np.arange(len(images.ids))
    size, steps = self.config.batch_size, self.config.steps
    arrays = {"image": images.pixels, "mask": images.masks}
    drawn = np.tile(rows, -(-size // len(rows)))
    return context.fit(
      self.training(images.pixels.shape[1:], encoder, class_weights),
      lambda start: feed.batches(
        arrays, size, seed=seed, start=start, steps=steps, rows=drawn
      ),
      steps=steps,
      name=name,
      seed=seed,
      ids=images.ids,
      **more,
    )

  def predict(
    self,
    context: Context,
    variables: Any,
    pixels: np.ndarray,
    *,
    name: str,
    quiet: bool = False,
  ) -> np.ndarray:
    """Class of every pixel in evaluation mode, uint8[N, H, W].

    Args:
      context: of the stage.
      variables: params and batch_stats.
      pixels: uint8[N, H, W, C].
      name, quiet: as in `Context.map`.
    """
    return context.map(
      self.predictor,
      variables,
      {"image": pixels},
      batch_size=PREDICTED,
      name=name,
      quiet=quiet,
    )


def programs(
  config: ConfigDict,
  unet: Any,
  classes: int,
  views: dict[str, Any],
  shape: tuple[int, ...],
) -> list[Program]:
  """The programs "segment" and "predict" of fine-tuning, from shapes alone.

  An arm of more steps runs the same program with a longer schedule.
  """
  segmenter = Segmenter(config, unet, classes, views, config.tile)
  seen = (*(segmenter.tile or shape[:2]), shape[2])
  fit = step_of("segment", segmenter.training(seen))
  variables = {
    "params": fit.tree.params,
    "batch_stats": fit.tree.extra["batch_stats"],
  }
  batch = batch_of(PREDICTED, image=(np.uint8, *shape))
  predict = Program("predict", "map", segmenter.predictor, variables, batch)
  return [fit, predict]


def make_unet(config: ConfigDict, classes: int) -> Any:
  """The U-Net of `widths` and `dtype`, background among the classes."""
  return unet(tuple(config.widths), classes, config.dtype)


def views_of(config: ConfigDict, mean: float, std: float) -> dict[str, Any]:
  """Options of `augment.warp`; mean and sd of the training pixels."""
  plain = {
    name: tuple(value) if isinstance(value, tuple | list) else value
    for name, value in config.to_dict().items()
  }
  return plain | dict(mean=mean, std=std)


def pooled(network: Any, mean: Any, std: Any) -> Callable:
  """fn(encoder, batch) for a map: the pooled bottleneck, float32[B, D].

  Args:
    network: from `make_unet`.
    mean, std: of the training pixels in [0, 1].
  """

  def one_batch(tree, batch):
    images = augment.normalise(batch["image"], mean, std)
    (maps, _), _ = network.encode(tree, images)
    return maps.mean(axis=(1, 2))

  return one_batch


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
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

  rate = config.learning_rate
  if config.encoder_rate == 1.0:
    return at(rate)
  return by_part({"encoder": rate * config.encoder_rate, "decoder": rate}, at)
