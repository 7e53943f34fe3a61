"""Every step and sweep of the method as shapes, to be compiled elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp

from gcl_jax.engine.ahead import Program
from gcl_jax.evaluation import encoders, finetune
from gcl_jax.gradients import gradcon
from gcl_jax.methods.severity import healthy, pretrain, scoring, steps
from gcl_jax.models import heads

# What only the data would say: images of the pool and labels to fine-tune on.
POOL, LABELS = 10_000, 8


def programs(config: Any) -> list[Program]:
  """What a run of this configuration compiles, largest batches as configured.

  The number of images and of label columns is not known without the data:
  10,000 and 8 stand for them (only PCL's clusters and the last layer of a
  fine-tuned encoder depend on it).
  """
  shape = (*config.preprocess.size, 1)
  found = []
  if config.score.source == "autoencoder":
    found += _autoencoder(config, shape)
  for name in ("supcon", *config.references):
    if name not in ("random", "supervised"):
      found.append(_pretraining(config, shape, name))
  return [*found, _features(config, shape), _finetuning(config, shape)]


def _key() -> Any:
  return jax.eval_shape(lambda: jax.random.key(0))


def _batch(size: int, shape: tuple, **more: Any) -> dict[str, Any]:
  batch = {
    "image": jax.ShapeDtypeStruct((size, *shape), jnp.uint8),
    "index": jax.ShapeDtypeStruct((size,), jnp.int32),
  }
  for name, (dtype, *rest) in more.items():
    batch[name] = jax.ShapeDtypeStruct((size, *rest), dtype)
  return batch


def _autoencoder(config, shape) -> list[Program]:
  auto = config.autoencoder
  model, optimizer = healthy.make_model(auto, shape[-1]), healthy.adam(auto)
  state = jax.eval_shape(
    lambda key: healthy.initial(model, optimizer, key, shape, jnp.float32(0)),
    _key(),
  )
  step = steps.gradcon_step(
    model,
    optimizer,
    alpha=None if auto.alpha else 0.0,
    rule=auto.reference,
    flip=auto.flip,
  )
  tree = {
    "params": state.params,
    "reference": jax.eval_shape(
      lambda p: gradcon.start(model.decoder_weights(p)).mean, state.params
    ),
  }
  return [
    Program("gradcon", "step", step, state, _batch(auto.batch_size, shape)),
    Program(
      "score",
      "map",
      scoring.scorer(config.score, model),
      tree,
      _batch(config.score.batch_size, shape),
    ),
  ]


def _pretraining(config, shape, name) -> Program:
  supcon = config.supcon
  loss, labels = pretrain.objective(supcon, name)
  networks = pretrain.Networks(supcon, 1000, 100)
  init = pretrain.initial(supcon, networks, loss, shape, POOL, POOL)
  more = {label: (jnp.int32,) for label in labels}
  if loss == "soft":
    more["score"] = (jnp.float32,)
  return Program(
    name,
    "step",
    pretrain.step_of(supcon, networks, loss, labels, _views(supcon)),
    jax.eval_shape(init, _key()),
    _batch(supcon.batch_size, shape, **more),
  )


def _views(supcon) -> dict[str, Any]:
  return pretrain.views_of(supcon, 0.5, 0.25)


def _features(config, shape) -> Program:
  encoder = pretrain.make_encoder(config.supcon)
  return Program(
    "features",
    "map",
    encoders.pooled(encoder, 0.5, 0.25),
    jax.eval_shape(lambda key: encoder.init(key, shape), _key()),
    _batch(config.score.batch_size, shape),
  )


def _finetuning(config, shape) -> Program:
  encoder, head = pretrain.make_encoder(config.supcon), heads.linear(LABELS)
  optimizer = finetune.optimizer_of(config.finetune)
  init = finetune.initial(encoder, head, optimizer, shape)
  return Program(
    "supervised",
    "step",
    finetune.classify_step(
      encoder, head, optimizer, views=_views(config.supcon)
    ),
    jax.eval_shape(init, _key()),
    _batch(config.finetune.batch_size, shape, target=(jnp.float32, LABELS)),
  )
