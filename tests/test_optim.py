"""Optimisers against PyTorch's rules written out in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax.engine import optim
from gcl_jax.errors import ConfigError

pytestmark = pytest.mark.compiles

KERNEL = np.array([[0.5, -1.0], [2.0, 0.25]])
BIAS = np.array([0.3, -0.7])


def gradient_at(step, parameter):
  return np.cos(np.arange(parameter.size).reshape(parameter.shape) + step)


def train(optimizer, steps=4):
  params = {"kernel": jnp.float32(KERNEL), "bias": jnp.float32(BIAS)}
  state = optimizer.init(params)
  for step in range(steps):
    gradients = {
      name: jnp.float32(gradient_at(step, np.asarray(value)))
      for name, value in params.items()
    }
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params


def sgd(parameter, decay, rates, momentum=0.9):
  velocity = np.zeros_like(parameter)
  for step, rate in enumerate(rates):
    gradient = gradient_at(step, parameter) + decay * parameter
    velocity = momentum * velocity + gradient
    parameter = parameter - rate * velocity
  return parameter


def adam(parameter, decay, rates, decoupled):
  mean = square = np.zeros_like(parameter)
  for step, rate in enumerate(rates):
    gradient = gradient_at(step, parameter)
    gradient = gradient + (0 if decoupled else decay) * parameter
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    corrected = square / (1 - 0.999 ** (step + 1))
    move = mean / (1 - 0.9 ** (step + 1)) / (np.sqrt(corrected) + 1e-8)
    move = move + (decay if decoupled else 0) * parameter
    parameter = parameter - rate * move
  return parameter


def test_sgd_decays_every_parameter():
  found = train(optim.make_optimizer("sgd", 0.1, steps=4, weight_decay=0.2))
  for name, start in (("kernel", KERNEL), ("bias", BIAS)):
    expected = sgd(start, 0.2, [0.1] * 4)
    np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_couples_its_decay_and_adamw_does_not(name):
  optimizer = optim.make_optimizer(name, 0.1, steps=4, weight_decay=0.2)
  expected = adam(KERNEL, 0.2, [0.1] * 4, decoupled=name == "adamw")
  np.testing.assert_allclose(train(optimizer)["kernel"], expected, rtol=1e-5)


def test_lars_scales_each_kernel_by_its_trust_ratio():
  optimizer = optim.make_optimizer(
    "lars", 0.1, steps=1, weight_decay=0.2, momentum=0.0
  )
  found = train(optimizer, steps=1)
  gradient = gradient_at(0, KERNEL) + 0.2 * KERNEL
  norms = np.linalg.norm(KERNEL), np.linalg.norm(gradient)
  expected = KERNEL - 0.1 * 0.001 * norms[0] / norms[1] * gradient
  np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5)
  plain = BIAS - 0.1 * (gradient_at(0, BIAS) + 0.2 * BIAS)
  np.testing.assert_allclose(found["bias"], plain, rtol=1e-5)


@pytest.mark.parametrize(
  "steps, warmup", [(10, 4), (10, 0), (7, 1), (5, 5), (2, 1), (1, 1), (1, 0)]
)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_schedules_are_their_formulas(schedule, steps, warmup):
  rate = optim.make_schedule(
    2.0, steps=steps, warmup_steps=warmup, schedule=schedule
  )
  expected = []
  for k in range(steps + 1):  # one past the last update too
    cosine = 1 + np.cos(np.pi * (k - warmup) / max(steps - warmup, 1))
    after = cosine if schedule == "cosine" else 2.0
    expected.append(2.0 * (k + 1) / warmup if k < warmup else after)
  eager = [float(rate(k)) for k in range(steps + 1)]
  np.testing.assert_allclose(eager, expected, atol=1e-6)
  counts = jnp.arange(steps + 1, dtype=jnp.int32)
  rates = jax.jit(jax.vmap(lambda k: jnp.float32(rate(k))))(counts)
  np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_the_optimizer_follows_its_schedule():
  optimizer = optim.make_optimizer(
    "sgd", 0.1, steps=4, warmup_steps=2, schedule="cosine"
  )
  rates = [0.05, 0.1, 0.1, 0.05]
  expected = sgd(KERNEL, 0.0, rates)
  np.testing.assert_allclose(train(optimizer)["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"name": "sdg"}, "unknown optimizer 'sdg'"),
    ({"schedule": "step"}, "unknown schedule 'step'"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"warmup_steps": 6}, "warmup_steps is 6 and steps 5"),
    ({"steps": 0}, "steps 0"),
    ({"momentum": 1.0}, "momentum is 1.0"),
    ({"weight_decay": -0.1}, "weight_decay -0.1"),
  ],
)
def test_bad_settings_are_refused(settings, message):
  settings = {"name": "sgd", "learning_rate": 0.1, "steps": 5} | settings
  with pytest.raises(ConfigError, match=message):
    optim.make_optimizer(**settings)


# -- parts ------------------------------------------------------------------

PARTS = {
  "encoder": {"kernel": KERNEL, "bias": BIAS},
  "decoder": {"kernel": 2 * KERNEL},
  "sites": {"matrix": KERNEL[:1]},
}


def train_parts(optimizer, steps=4, frozen_gradient=1.0):
  params = jax.tree.map(jnp.float32, PARTS)
  state = optimizer.init(params)

  @jax.jit
  def move(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  for step in range(steps):
    gradients = jax.tree.map(
      lambda x, step=step: jnp.float32(gradient_at(step, np.asarray(x))), params
    )
    gradients["sites"]["matrix"] *= frozen_gradient
    params, state = move(params, state, gradients)
  return params, state


def make(rate, name="sgd"):
  return optim.make_optimizer(
    name, rate, steps=4, warmup_steps=2, schedule="cosine", weight_decay=0.2
  )


def test_every_part_follows_its_own_rate():
  rates = {"encoder": 0.01, "decoder": 0.1, "sites": 0.0}
  params, state = train_parts(
    optim.by_part(rates, make), frozen_gradient=np.nan
  )
  for part, leaves in PARTS.items():
    schedule = [rates[part] * factor for factor in (0.5, 1.0, 1.0, 0.5)]
    for name, start in leaves.items():
      expected = sgd(start, 0.2, schedule)
      np.testing.assert_allclose(params[part][name], expected, rtol=1e-5)
  np.testing.assert_array_equal(
    params["sites"]["matrix"], np.float32(PARTS["sites"]["matrix"])
  )
  assert not jax.tree.leaves(state.inner_states["sites"])


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_parts_equal_optimisers_of_their_own(name):
  optimizers = {
    "encoder": make(0.01, name),
    "decoder": make(0.1, name),
    "sites": 0.0,
  }
  params, _ = train_parts(optim.by_part(optimizers))
  for part in ("encoder", "decoder"):
    alone, _ = train_parts(
      optim.by_part(dict.fromkeys(PARTS, 0.0) | {part: optimizers[part]})
    )
    whole, _ = train_parts(optimizers[part])
    chex.assert_trees_all_close(params[part], whole[part], rtol=1e-6)
    chex.assert_trees_all_equal(params[part], alone[part])
    assert not np.array_equal(params[part]["kernel"], PARTS[part]["kernel"])


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    ({"encoder": 0.0}, "part 'decoder' has no optimiser: .*'sites'"),
    (
      dict.fromkeys((*PARTS, "head"), 0.0),
      "part 'head' is not among the parameters: .*'sites'",
    ),
  ],
)
def test_parts_that_do_not_match_are_named(parts, message):
  optimizer = optim.by_part(parts)
  with pytest.raises(ValueError, match=message):
    optimizer.init(PARTS)
  state = optim.by_part(dict.fromkeys(PARTS, 0.0)).init(PARTS)
  with pytest.raises(ValueError, match=message):
    optimizer.update(PARTS, state, PARTS)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), 0.1])
def test_rates_of_parts_out_of_range_are_refused(rate):
  message = "need `optimizer`" if rate == 0.1 else "must be at least 0"
  with pytest.raises(ValueError, match=f"part 'head' is {rate}: .*{message}"):
    optim.by_part({"head": rate})


# -- moving averages --------------------------------------------------------


def test_incremental_update_is_a_momentum_encoder():
  """The formula, and the two leaves that change their type."""
  momentum = 0.99
  slow = {"kernel": jnp.float32(KERNEL), "mean": jnp.float32(BIAS)}
  fast = jax.tree.map(lambda x: jnp.cos(x) + 1, slow)
  expected = jax.tree.map(
    lambda s, f: np.float32(momentum * np.float64(s) + 0.01 * np.float64(f)),
    slow,
    fast,
  )
  run = jax.jit(optax.incremental_update)
  for step in (1 - momentum, jnp.float32(1 - momentum)):
    chex.assert_trees_all_close(run(fast, slow, step), expected, rtol=1e-6)
    chex.assert_trees_all_close(
      optax.incremental_update(fast, slow, step), expected, rtol=1e-6
    )
  chex.assert_trees_all_equal(run(fast, slow, 0.0), slow)
  chex.assert_trees_all_equal(run(fast, slow, 1.0), fast)
  count = optax.incremental_update(jnp.int32(8), jnp.int32(4), 0.25)
  assert count.dtype == jnp.float32 and count == 5
  half = jnp.bfloat16(1.0)
  assert optax.incremental_update(half, half, 0.5).dtype == jnp.bfloat16
  step = jnp.float32(0.5)
  assert optax.incremental_update(half, half, step).dtype == jnp.float32
