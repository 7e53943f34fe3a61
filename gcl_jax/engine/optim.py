"""Optimisers and learning-rate schedules by name, and optimisers by part.

The exponential moving average of a momentum encoder or a teacher is
`optax.incremental_update(fast, slow, 1 - momentum)`: momentum * slow +
(1 - momentum) * fast on every leaf, in float32 for integers and, if the
momentum is an array, for bfloat16 too. Average only parameters, and batch
statistics only if a method requires it.
"""

import math
from collections.abc import Callable, Mapping

import jax
import optax

from gcl_jax.errors import ConfigError

OPTIMIZERS = ("sgd", "adam", "adamw", "lars")
SCHEDULES = ("constant", "cosine")


def make_schedule(
  learning_rate: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  schedule: str = "constant",
) -> optax.Schedule:
  """Learning rate of update k = 0, 1, ..., steps - 1.

  Warm-up: learning_rate * (k + 1) / warmup_steps, so the first update is not
  zero. Then constant, or learning_rate * (1 + cos(pi * t)) / 2 with t from 0
  (end of warm-up) to 1 (after the last step); see Loshchilov and Hutter, SGDR
  (ICLR 2017), equation 5 without restarts.

  Args:
    learning_rate: the highest value, above 0.
    steps: total number of updates, at least 1.
    warmup_steps: in [0, steps].
    schedule: "constant" or "cosine".

  Returns:
    The optax schedule, k -> learning rate.

  Raises:
    ConfigError: a value is out of range, or the schedule is unknown.
  """
  if schedule not in SCHEDULES:
    raise ConfigError(f"unknown schedule {schedule!r}: one of {SCHEDULES}")
  if not 0 < learning_rate < math.inf:
    raise ConfigError(f"learning_rate is {learning_rate}: it must be above 0")
  if steps < 1 or not 0 <= warmup_steps <= steps:
    raise ConfigError(
      f"warmup_steps is {warmup_steps} and steps {steps}: needed are"
      " steps >= 1 and 0 <= warmup_steps <= steps"
    )
  after = optax.constant_schedule(learning_rate)
  if schedule == "cosine":
    decay_steps = max(steps - warmup_steps, 1)
    after = optax.cosine_decay_schedule(learning_rate, decay_steps)
  if not warmup_steps:
    return after
  warmup = optax.linear_schedule(
    learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1)
  )
  return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
  name: str,
  learning_rate: float,
  *,
  steps: int,
  warmup_steps: int = 0,
  schedule: str = "constant",
  momentum: float = 0.9,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Optimiser with its schedule.

  Weight decay d acts on every parameter p, biases and norm scales included, as
  in the optimiser's usual implementation:
    sgd, adam: d * p is added to the gradient first (coupled, as in PyTorch and
      in the contrastive papers here);
    adamw: d * p is added to the step, times the learning rate (decoupled);
    lars: d * p is added before the layer's trust ratio (You et al. 2017);
      biases and norm parameters get no trust ratio, as is usual.

  Args:
    name: "sgd" (heavy-ball momentum, no Nesterov), "adam", "adamw" or "lars".
    learning_rate, steps, warmup_steps, schedule: see `make_schedule`.
    momentum: in [0, 1), used by sgd and lars only.
    weight_decay: d, at least 0.

  Raises:
    ConfigError: the name is unknown, or a value is out of range.
  """
  if name not in OPTIMIZERS:
    raise ConfigError(f"unknown optimizer {name!r}: one of {OPTIMIZERS}")
  if not 0 <= momentum < 1 or not 0 <= weight_decay < math.inf:
    raise ConfigError(
      f"momentum is {momentum} and weight_decay {weight_decay}: needed are"
      " 0 <= momentum < 1 and weight_decay >= 0"
    )
  rate = make_schedule(
    learning_rate, steps=steps, warmup_steps=warmup_steps, schedule=schedule
  )
  if name == "adamw":
    return optax.adamw(rate, weight_decay=weight_decay)
  if name == "lars":
    return optax.lars(
      rate,
      weight_decay=weight_decay,
      trust_ratio_mask=_is_matrix,
      momentum=momentum,
    )
  inner = optax.adam(rate) if name == "adam" else optax.sgd(rate, momentum)
  if not weight_decay:
    return inner
  return optax.chain(optax.add_decayed_weights(weight_decay), inner)


def _is_matrix(params):
  return jax.tree.map(lambda p: p.ndim > 1, params)


def by_part(
  parts: Mapping[str, optax.GradientTransformation | float],
  optimizer: Callable[[float], optax.GradientTransformation] | None = None,
) -> optax.GradientTransformation:
  """Optimiser with separate rules for the top-level parts of the parameters.

  Args:
    parts: {name of a part: its optimiser or its learning rate}, with exactly
      the top-level names of the parameters. Rate 0 freezes a part: gradients do
      not change its parameters, and it has no optimiser state.
    optimizer: learning rate -> optimiser, for the rates above 0 in `parts`.

  Raises:
    ValueError: a rate is negative, not finite, or above 0 without `optimizer`;
      from `init` and `update`: a part of the parameters has no optimiser or an
      optimiser has no part.

  >>> import functools
  >>> sgd = functools.partial(make_optimizer, "sgd", steps=100, momentum=0.0)
  >>> rates = by_part({"encoder": 0.1, "sites": 0.0, "head": 1.0}, sgd)
  >>> params = {"encoder": 1.0, "sites": 1.0, "head": 1.0}
  >>> updates, _ = rates.update(params, rates.init(params))
  >>> [round(float(updates[name]), 2) for name in params]
  [-0.1, 0.0, -1.0]
  """
  optimizers = {
    name: _of_part(name, value, optimizer) for name, value in parts.items()
  }

  def labels(params):
    problems = {
      "has no optimiser": set(params) - set(parts),
      "is not among the parameters": set(parts) - set(params),
    }
    for problem, names in problems.items():
      if names:
        raise ValueError(
          f"part {sorted(names)[0]!r} {problem}: there are optimisers for"
          f" {sorted(parts)} and parameters {sorted(params)}"
        )
    return {name: name for name in params}

  return optax.multi_transform(optimizers, labels)


def _of_part(name, value, optimizer):
  if isinstance(value, optax.GradientTransformation):
    return value
  if value == 0:
    return optax.set_to_zero()
  if not 0 < value < math.inf:
    raise ValueError(
      f"the rate of part {name!r} is {value}: it must be at least 0"
    )
  if optimizer is None:
    raise ValueError(
      f"the rate of part {name!r} is {value}: rates above 0 need `optimizer`"
    )
  return optimizer(value)
