"""Negatives of GCL's pixel pairs: random draws, gradients, the hardest ones.

Negatives come from the images given to `draw_negatives`, under shard_map or
pmap those of one device.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Minimum distance (Chebyshev, exclusive) of negatives in the anchor's image.
_DISTANCE = 2
_NEAR = (2 * _DISTANCE + 1) ** 2


def draw_negatives(
  keys: jax.Array,
  positives: jax.Array,
  candidate: jax.Array,
  sources: jax.Array | None,
  width: int,
  outside: int = 256,
  own: int = 64,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
  """Draws negatives of each image i at random and masks them by anchor.

  The first `outside` are distinct pixels of other images, neither of P(i) nor
  views of i, with equal probabilities and spread evenly over these images. The
  others are `own` + 25 pixels of i in no candidate pair; 25 is the largest
  number of pixels too near to an anchor, so each anchor can use `own` of them
  if there are that many.

  Args:
    keys: keys[N].
    positives: bool[N, N], row i is P(i), the positives of image i.
    candidate: bool[N, h w], as `correspondence.candidates` returns it.
    sources: int[N], number of the image of which each row is a view. None: no
      two rows are views of one image.
    width: w of the maps.
    outside: number of negatives from other images.
    own: number of negatives from the same image.

  Returns:
    (image int[N, P], position int[N, P]) with P = outside +
    min(own + 25, h w), and bool[N, h w, P], True where an anchor at that
    position may use a negative.
  """
  images, pixels = candidate.shape
  itself = jnp.arange(images)
  sources = itself if sources is None else sources
  allowed = ~positives & (sources[:, None] != sources)

  def draw(key, allowed, candidate, itself):
    outside_key, own_key = jax.random.split(key)
    image, position, exists = _outside(outside_key, allowed, pixels, outside)
    inside, usable = _inside(own_key, candidate, width, own)
    exists = jnp.broadcast_to(exists, (pixels, outside))
    return (
      jnp.append(image, jnp.full_like(inside, itself)),
      jnp.append(position, inside),
      jnp.append(exists, usable, axis=1),
    )

  *negatives, usable = jax.vmap(draw)(keys, allowed, candidate, itself)
  return tuple(negatives), usable


def log_magnitude(
  positive: jax.Array,
  negatives: jax.Array,
  used: jax.Array,
  temperature: float,
) -> tuple[jax.Array, jax.Array]:
  """Log of tau |dL/ds| of an anchor's InfoNCE loss L for each similarity s.

      |dL/ds+| = (1 - p+) / tau,   |dL/ds-| = p- / tau,   p = softmax(s / tau)

  Computed in logarithms: 1 - p+ underflows float32 when p+ is close to 1.

  Args:
    positive: float[...], s+.
    negatives: float[..., P], s-, P > 0.
    used: bool[..., P], True for the negatives that enter the loss.
    temperature: tau > 0.

  Returns:
    float[...] of s+ and float[..., P] of s-, each at most 0; -inf for an unused
    negative, and for s+ of an anchor without negatives.
  """
  positive = positive / temperature
  negatives = jnp.where(used, negatives / temperature, -jnp.inf)
  others = jax.nn.logsumexp(negatives, axis=-1)
  every = jnp.logaddexp(positive, others)
  # log(1 - p+) without cancellation, for p+ near 1 and near 0.
  pull = -jax.nn.softplus(positive - others)
  return pull, negatives - every[..., None]


def hardest_of(
  hardness: jax.Array, usable: jax.Array, count: int | jax.Array
) -> jax.Array:
  """Mask of the `count` hardest usable negatives of each row.

  Ties go to the first negatives.

  Example:
    >>> import jax.numpy as jnp
    >>> hardness, usable = jnp.float32([3, 7, 5]), jnp.array([True, True, True])
    >>> hardest_of(hardness, usable, 2).tolist()
    [False, True, True]

  Args:
    hardness: float[..., P].
    usable: bool[..., P]; if fewer than `count` are usable, all are taken.
    count: an int, or int[...] with one value per row (any shape that broadcasts
      to the rows), which may be traced. 0 or less takes none. A Python int is
      fastest: only that many negatives are sorted.

  Returns:
    bool[..., P].
  """
  lowest = jnp.finfo(hardness.dtype).min  # ranks usable ones above the others
  hardness = jnp.where(usable, jnp.maximum(hardness, lowest), -jnp.inf)
  pool = hardness.shape[-1]
  longest = min(max(count, 0), pool) if isinstance(count, int) else pool
  _, order = lax.top_k(hardness, longest)
  taken = jnp.arange(longest) < jnp.asarray(count)[..., None]
  taken = jnp.broadcast_to(taken, order.shape)
  hardest = jnp.zeros(hardness.shape, bool)
  hardest = jnp.put_along_axis(hardest, order, taken, axis=-1, inplace=False)
  return hardest & usable


def _outside(key, allowed, pixels, count):
  """Draws `count` distinct pixels of the allowed images, one per stratum.

  The T allowed pixels form a ring, cut into `count` strata whose sizes differ
  by at most 1. With T < count there are T strata of one pixel.

  Returns:
    Image int[count], position int[count], and bool[count], False beyond T.
  """
  order = jnp.argsort(~allowed)
  total = jnp.sum(allowed) * pixels
  runs = jnp.clip(total, 1, count)
  run = jnp.arange(count + 1)
  edges = run * (total // runs) + run * (total % runs) // runs
  exists = run[:-1] < jnp.minimum(total, count)
  noise = jax.random.uniform(key, (count + 1,))
  drawn = edges[:-1] + (noise[:-1] * jnp.diff(edges)).astype(int)
  # Pixels of small strata are more probable: a random rotation of the ring
  # makes all pixels equally probable.
  ring = jnp.maximum(total, 1)
  drawn = (drawn + (noise[-1] * ring).astype(int)) % ring
  drawn = jnp.where(exists, drawn, 0)
  return order[drawn // pixels], drawn % pixels, exists


def _inside(key, candidate, width, count):
  """Draws pixels int[Q] in no candidate pair, with a mask bool[h w, Q]."""
  pixels = len(candidate)
  score = jnp.where(candidate, -1, jax.random.uniform(key, (pixels,)))
  score, position = lax.top_k(score, min(count + _NEAR, pixels))
  usable = (score >= 0) & _far_apart(pixels, position, width)
  return position, usable & (jnp.cumsum(usable, axis=1) <= count)


def _far_apart(pixels, positions, width):
  """Mask of pixels farther than _DISTANCE from a position, bool[pixels, P]."""
  anchors = jnp.arange(pixels)[:, None]
  down = jnp.abs(anchors // width - positions // width)
  across = jnp.abs(anchors % width - positions % width)
  return jnp.maximum(down, across) > _DISTANCE
