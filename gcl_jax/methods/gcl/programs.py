"""Every step and sweep of the method as shapes, to be compiled elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp

from gcl_jax.engine.ahead import Program
from gcl_jax.evaluation import segmentation
from gcl_jax.methods.gcl import arms, pretrain

CLASSES = 4  # what only the data would say, background included


def programs(config: Any) -> list[Program]:
  """What a run of this configuration compiles.

  The number of classes is not known without the data: 4 stands for it (only
  the last layer depends on it).
  """
  shape = (*config.preprocess.size, 1)
  trained = [arm for arm in arms.names(config) if arm != "scratch"]
  return [
    *(_pretraining(config, shape, arm) for arm in trained),
    *_segmentation(config, shape),
  ]


def _batch(size: int, shape: tuple, **more: Any) -> dict[str, Any]:
  batch = {
    "image": jax.ShapeDtypeStruct((size, *shape), jnp.uint8),
    "index": jax.ShapeDtypeStruct((size,), jnp.int32),
  }
  return batch | {
    name: jax.ShapeDtypeStruct((size, *rest), dtype)
    for name, (dtype, *rest) in more.items()
  }


def _key() -> Any:
  return jax.eval_shape(lambda: jax.random.key(0))


def _pretraining(config, shape, arm) -> Program:
  settings = arms.settings_of(config, arm)
  contrast = pretrain.contrast_of(config, settings)
  optimizer = pretrain.optimizer_of(settings)
  init = pretrain.initial(contrast, settings, optimizer, shape)
  views = pretrain.views_of(settings.views, 0.5, 0.25)
  labels = {rule.text: (jnp.float32, 2) for rule in contrast.rules}
  return Program(
    arm,
    "step",
    pretrain.step_of(contrast, settings, optimizer, views),
    jax.eval_shape(init, _key()),
    _batch(settings.batch_size, shape, **labels),
  )


def _segmentation(config, shape) -> list[Program]:
  settings = config.segment
  network = pretrain.make_unet(config, CLASSES)
  optimizer = segmentation.optimizer_of(settings)
  init = segmentation.initial(
    network, optimizer, shape, settings.select == "inner"
  )
  weights = jax.ShapeDtypeStruct((CLASSES,), jnp.float32)
  state = jax.eval_shape(init, _key(), weights)
  views = pretrain.views_of(settings.views, 0.5, 0.25)
  step = segmentation.segment_step(
    network, optimizer, views=views, dice_weight=settings.dice_weight
  )
  variables = {
    "params": state.params,
    "batch_stats": state.extra["batch_stats"],
  }
  return [
    Program(
      "segment",
      "step",
      step,
      state,
      _batch(settings.batch_size, shape, mask=(jnp.uint8, *shape[:2])),
    ),
    Program(
      "predict",
      "map",
      segmentation.predictor(network, 0.5, 0.25),
      variables,
      _batch(segmentation.PREDICTED, shape),
    ),
  ]
