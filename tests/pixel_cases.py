"""Maps, a head and slow definitions for the tests of the Gradient Filter."""

import fractions
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

# Wider than high: a test must notice when the two are confused.
HEIGHT, WIDTH, CHANNELS = 5, 6, 6
PIXELS = HEIGHT * WIDTH
TEMPERATURE, HARDEST = 0.2, 7
WEIGHTS = np.random.default_rng(9).normal(size=(2, CHANNELS, CHANNELS))

# Compiling is most of the time of these tests: half of it without optimiser.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def make(images, seed=7):
  """Maps with similar embeddings: some pairs are easy, others hard."""
  random = np.random.default_rng(seed)
  maps = random.normal(size=(images, HEIGHT, WIDTH, CHANNELS)) + 0.2
  noise = random.normal(size=(images, HEIGHT, WIDTH, 4))
  return maps, 0.5 * maps[..., :4] + 0.08 * noise


def same(labels):
  return jnp.asarray(labels)[:, None] == jnp.asarray(labels)


def keys_for(images, seed=0):
  return jax.random.split(jax.random.key(seed), images)


def head(pooled, weights=WEIGHTS, xp=jnp):
  hidden = xp.tanh(pooled @ xp.asarray(weights[0], pooled.dtype) + 0.1)
  projected = hidden @ xp.asarray(weights[1], pooled.dtype)
  return projected / xp.sqrt((projected**2).sum(-1, keepdims=True))


def slow_relevance(maps, i, j, step=1e-6):
  """r_i(u) from finite differences of z_i . z_j in the pooled features."""
  first, second = (maps[k].mean(axis=(0, 1)) for k in (i, j))
  weights = np.zeros(CHANNELS)
  for c in range(CHANNELS):
    ends = []
    for sign in (1, -1):
      moved = first.copy()
      moved[c] += sign * step
      ends.append(head(moved, xp=np) @ head(second, xp=np))
    weights[c] = (ends[0] - ends[1]) / (2 * step)
  scores = np.zeros(PIXELS)
  for u, vector in enumerate(maps[i].reshape(PIXELS, -1)):
    scores[u] = max(0, weights @ vector)
  return scores / scores.max()


def slow_candidates(first, second, own, other):
  """Mutual nearest neighbours {u: v} of two maps, pair by pair."""
  first, second = (x.reshape(-1, x.shape[-1]) for x in (first, second))

  def nearest(vector, others, allowed):
    best, answer = -np.inf, None
    for k, candidate in enumerate(others):
      length = np.linalg.norm(vector) * np.linalg.norm(candidate)
      if allowed[k] and vector @ candidate / length > best:
        best, answer = vector @ candidate / length, k
    return answer

  found = {}
  for u in np.flatnonzero(own):
    v = nearest(first[u], second, other)
    if v is not None and nearest(second[v], first, own) == u:
      found[int(u)] = v
  return found


def slow_negatives(labels, i, candidates, u):
  """Image and position of all negatives."""
  found = []
  for a in range(len(labels)):
    if labels[a] != labels[i]:
      found += [(a, position) for position in range(PIXELS)]
  for position in range(PIXELS):
    down = abs(position // WIDTH - u // WIDTH)
    across = abs(position % WIDTH - u % WIDTH)
    if position not in candidates and max(down, across) > 2:
      found.append((i, position))
  return found


def slow_image(maps, pixels, labels, i, variant, theta, rho, temperature):
  """[(loss, u, v, negatives)] of one anchor image, best first."""
  partners = [j for j in np.flatnonzero(labels == labels[i]) if j != i]
  if not partners:
    return []
  (j,) = partners
  own, other = np.ones(PIXELS), np.ones(PIXELS)
  if variant in ("F1", "F3"):
    own, other = slow_relevance(maps, i, j), slow_relevance(maps, j, i)
  else:
    theta = 0
  found = slow_candidates(maps[i], maps[j], own >= theta, other >= theta)
  ranked = []
  for u, v in found.items():
    negatives = slow_negatives(labels, i, found, u)
    logit = {n: pixels[i, u] @ pixels[n] / temperature for n in negatives}
    positive = np.exp(pixels[i, u] @ pixels[j, v] / temperature)
    total = sum(np.exp(x) for x in logit.values())
    score = own[u] * other[v] if variant in ("F1", "F3") else 1.0
    if variant in ("F1", "F2"):
      score *= total / (positive + total) / temperature
      negatives = sorted(negatives, key=logit.get, reverse=True)[:HARDEST]
    total = sum(np.exp(logit[n]) for n in negatives)
    loss = np.log1p(total / positive)
    ranked.append((score, loss, u, v, negatives))
  if variant == "F0":
    return [pair[1:] for pair in ranked]
  ranked.sort(key=lambda pair: -pair[0])
  return [pair[1:] for pair in ranked[: exact_ceil(rho, len(ranked))]]


def exact_ceil(rho, count):
  return math.ceil(fractions.Fraction(str(rho)) * count)


def slow(maps, embeddings, labels, variant, theta=0.3, rho=0.25):
  """Pairs of each image, sum of the losses and its gradient in Y."""
  pixels = embeddings.reshape(len(maps), PIXELS, -1)
  gradient = np.zeros_like(pixels)
  pairs, total = [], 0.0
  for i in range(len(maps)):
    pairs.append(
      slow_image(maps, pixels, labels, i, variant, theta, rho, TEMPERATURE)
    )
    for loss, u, v, negatives in pairs[-1]:
      total += loss
      j = next(j for j in range(len(maps)) if labels[j] == labels[i] and j != i)
      share = np.exp(-loss)
      positive = np.exp(pixels[i, u] @ pixels[j, v] / TEMPERATURE)
      terms = [((j, v), share - 1)]
      for n in negatives:
        term = np.exp(pixels[i, u] @ pixels[n] / TEMPERATURE)
        terms.append((n, share * term / positive))
      for place, slope in terms:
        gradient[i, u] += slope / TEMPERATURE * pixels[place]
        gradient[place] += slope / TEMPERATURE * pixels[i, u]
  return pairs, total, gradient.reshape(embeddings.shape)
