"""Gradients, and loops and solvers in float64, for the tests of mitigation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from gcl_jax.gradients.mitigation import (
  cagrad,
  cone,
  gradvac,
  mean,
  min_norm,
  pcgrad,
)

pull = functools.partial(gradvac, target=0.3)
RULES = {
  "mean": jax.jit(mean),
  "pcgrad": jax.jit(pcgrad),
  "gradvac": jax.jit(pull),
  "cone": jax.jit(cone),
  "cagrad": jax.jit(cagrad),
  "min_norm": jax.jit(min_norm),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def conflicting(draws, number, size, seed=0):
  """float32[draws, K, d]: forced conflicts, log-normal norms."""
  rng = np.random.default_rng(seed)
  g = rng.normal(size=(draws, number, size))
  axis = rng.normal(size=(draws, 1, size))
  axis /= np.linalg.norm(axis, axis=2, keepdims=True)
  side = np.where(np.arange(number) % 2, -1, 1)[:, None]
  length = np.linalg.norm(g, axis=2, keepdims=True)
  g += side * axis * length * rng.uniform(0, 2, (draws, 1, 1))
  g *= np.exp(rng.normal(size=(draws, number, 1)))
  return g.astype(np.float32)


def agreeing(number, size=40, seed=0):
  rng = np.random.default_rng(seed)
  g = np.abs(rng.normal(size=(number, size))) * rng.lognormal(size=(number, 1))
  return jnp.float32(g)


def norm(x):
  return np.linalg.norm(np.asarray(x, np.float64), axis=-1)


def products(v, g):
  """v . g_k / |g_k| in float64."""
  g = np.asarray(g, np.float64)
  return g @ np.asarray(v, np.float64) / np.maximum(norm(g), 1e-300)


@functools.cache
def over_draws(rule):
  """Compiles with optimisation, because these bounds are of rounding."""
  options = {"xla_backend_optimization_level": 3}
  return jax.jit(jax.vmap(rule), compiler_options=options)


def mapped(rule, gradients):
  return np.asarray(over_draws(rule)(gradients), np.float64)


# References.


def loop_gradvac(g, orders, target):
  g = np.asarray(g, np.float64)
  turned = []
  for k, order in enumerate(orders):
    v = g[k].copy()
    for j in order:
      if j == k:
        continue
      cosine = v @ g[j] / (norm(v) * norm(g[j]))
      if cosine < target[k, j]:
        t = target[k, j]
        up = t * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - t**2)
        v += norm(v) * up / (norm(g[j]) * np.sqrt(1 - t**2)) * g[j]
    turned.append(v)
  return turned


def loop_pcgrad(g, orders=None):
  g = np.asarray(g, np.float64)
  turned = []
  for k in range(len(g)):
    v = g[k].copy()
    for j in orders[k] if orders else range(len(g)):
      if j != k and v @ g[j] < 0:
        v -= (v @ g[j]) / (g[j] @ g[j]) * g[j]
    turned.append(v)
  return turned


def scipy_cone(g):
  g = np.asarray(g, np.float64)
  unit = g / norm(g)[:, None]
  size = norm(g.mean(0))
  weights, _ = nnls(unit.T, -g.mean(0) / size, maxiter=1000)
  return g.mean(0) + size * weights @ unit


def scipy_cagrad(g, c):
  """Minimum of F, and v, by scipy."""
  g = np.asarray(g, np.float64)
  number, size = len(g), norm(g).max()
  g = g / size
  gbar = g.mean(0)
  gram, radius = g @ g.T, c * norm(gbar)

  def objective(w):
    return w @ g @ gbar + radius * np.sqrt(max(w @ gram @ w, 0) + 1e-20)

  found = [
    minimize(
      objective,
      start,
      method="SLSQP",
      bounds=[(0, 1)] * number,
      constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
      options={"maxiter": 500, "ftol": 1e-14},
    )
    for start in np.concatenate(
      [np.full((1, number), 1 / number), np.eye(number) * 0.8 + 0.2 / number]
    )
  ]
  best = min(found, key=lambda result: result.fun)
  towards = best.x @ g
  v = gbar + radius * towards / max(norm(towards), 1e-12)
  return best.fun * size**2, v * size, norm(towards) / norm(gbar)
