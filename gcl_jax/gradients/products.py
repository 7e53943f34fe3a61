"""Norms of per-sample kernel gradients and their products with references.

Two exact algorithms for the pair of maps of a layer: P positions, a small map S
of D channels, a large one L of C, K kernel offsets. Per image:

batched, G = L S, some kernel offsets at a time; or each, G of one image after
the other by a convolution: no patches, 1.5 to 2 times faster on a CPU
  multiply-adds              K C D P
  written and read again     K C D + K C P
ghost, |G|^2 = <L' L, S S'> and <G, R> = <S, conv(L; R)> for M references
  multiply-adds              P P (D + K C) + M K C D P
  written and read again     2 P P + K C P

The product with a reference costs K C D P in both, so forming the gradient
never needs more arithmetic than ghost; ghost is faster for a large gradient and
few positions, because it writes less. `choose` compares the two counts (Bu et
al., NeurIPS 2022, give the rule for norms alone).
"""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.gradients.pairing import Pair

ENGINES = ("batched", "each", "ghost")
# Multiply-adds in the time of moving one value: measured on a CPU (two cores of
# an AMD EPYC, whose caches hold one image's gradient), otherwise the chip's
# peak arithmetic over its peak bandwidth.
_WORTH = {"cpu": 1, "gpu": 150, "tpu": 300}
# Offsets are stacked into one product up to this many rows: thinner matrix
# products do not repay their launch.
_ROWS = 64
_GRAM_ROWS = 512


def square_norm(pair: Pair, engine: str) -> jax.Array:
  """Squared norm of every image's kernel gradient, float32[B]."""
  if engine == "ghost":
    return _gram(pair)
  if engine == "each":
    return _one_by_one(pair, None)[0]
  return sum(jnp.sum(g * g, (1, 2)) for g, _ in _formed(pair))


def norm_and_products(
  pair: Pair, references: jax.Array, engine: str
) -> tuple[jax.Array, jax.Array]:
  """Squared norms and inner products with M references.

  Args:
    pair: the maps of a layer for B images.
    references: float[M, *kernel, C, D], in the order of `pairing.in_order`.
    engine: "batched", "each" or "ghost".

  Returns:
    float32[B] and float32[B, M].
  """
  references = references.astype(jnp.float32)
  if engine == "ghost":
    return _gram(pair), _by_convolution(pair, references)
  if engine == "each":
    return _one_by_one(pair, references)
  squares, products = 0.0, 0.0
  for g, take in _formed(pair):
    squares += jnp.sum(g * g, (1, 2))
    products += jnp.einsum("brd,mrd->bm", g, take(references))
  return squares, products


def choose(pair: Pair, references: int, platform: str) -> str:
  """Faster engine by the counts in the module docstring.

  Args:
    pair: the maps, or objects with their shapes.
    references: M, may be 0.
    platform: "cpu", "gpu" or "tpu".
  """
  worth = _WORTH.get(platform, _WORTH["gpu"])
  positions = pair.positions
  offsets = math.prod(pair.geometry.kernel)
  large, small = pair.large.shape[-1], pair.small.shape[-1]
  gradient = offsets * large * small
  formed = gradient * positions + worth * gradient
  ghost = positions**2 * (small + offsets * large + 2 * worth)
  ghost += references * gradient * positions
  if ghost < formed:
    return "ghost"
  # A loop launches one product per image, which must be large to repay that.
  alone = platform == "cpu" and min(large, small) >= 8 and positions > 4
  return "each" if alone else "batched"


def _one_by_one(pair: Pair, references) -> tuple:
  """Norms and products from the gradients, formed image by image.

  G is the large map convolved by the small one, with channels as the batch. The
  layout is the canonical one: with others XLA's CPU backend is 30 times slower
  inside a loop.
  """
  geometry, rank = pair.geometry, len(pair.geometry.kernel)
  if references is not None:
    references = jnp.moveaxis(references, -2, 1)  # [M, C, *kernel, D]

  def measure(maps):
    small, large = maps
    gradient = lax.conv_general_dilated(
      jnp.moveaxis(large, -1, 0)[..., None],
      small[..., None, :],
      geometry.dilation,
      [(0, 0)] * rank,
      rhs_dilation=geometry.stride,
      dimension_numbers=_numbers(rank),
      preferred_element_type=jnp.float32,
    )
    square = jnp.sum(gradient * gradient)
    if references is None:
      return square, None
    return square, jnp.tensordot(references, gradient, gradient.ndim)

  return lax.map(measure, (pair.small, pair.large))


def _numbers(rank: int) -> tuple[str, str, str]:
  """Dimension numbers of the layers: channels last."""
  axes = "HWZ"[:rank]
  return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def _formed(pair: Pair) -> Iterator[tuple]:
  """Parts of G, float32[B, R, D], and a function for the same rows of R."""
  small = pair.small.reshape(len(pair.small), -1, pair.small.shape[-1])
  for rows, take in _stacked(_views(pair)):
    # Rows lead, positions are contracted last: 3 to 4.5 times faster in XLA's
    # CPU product than the channels-last order.
    yield (
      jnp.einsum(
        "brp,bpd->brd", rows, small, preferred_element_type=jnp.float32
      ),
      take,
    )


def _stacked(views) -> Iterator[tuple]:
  """Concatenates neighbouring views up to `_ROWS` rows."""
  views = list(views)
  rows = views[0][0].shape[1]
  size = max(1, _ROWS // rows)
  for start in range(0, len(views), size):
    group = views[start : start + size]
    if len(group) == 1:
      yield group[0]
    else:
      yield (
        jnp.concatenate([view for view, _ in group], 1),
        lambda r, group=group: jnp.concatenate(
          [take(r) for _, take in group], 1
        ),
      )


def _views(pair: Pair) -> Iterator[tuple]:
  """Large map shifted by every kernel offset, float[B, R, P].

  If the stride divides the kernel, all phases of a step are the rows of one
  view (space-to-depth): a 4x4 kernel at stride 2 has four views, not sixteen.
  """
  geometry, large = pair.geometry, pair.large
  counts = pair.small.shape[1:-1]
  phases = [
    stride if dilation == 1 and kernel % stride == 0 else 1
    for kernel, stride, dilation in zip(
      geometry.kernel, geometry.stride, geometry.dilation, strict=True
    )
  ]
  steps = [k // p for k, p in zip(geometry.kernel, phases, strict=True)]
  large = _phases_to_rows(large, phases)
  for step in itertools.product(*map(range, steps)):
    window = [slice(None), slice(None)]
    for axis, t in enumerate(step):
      first = t * geometry.dilation[axis]
      stride = geometry.stride[axis] // phases[axis]
      last = first + stride * (counts[axis] - 1) + 1
      window.append(slice(first, last, stride))
    view = large[tuple(window)]
    yield (
      view.reshape(*view.shape[:2], -1),
      lambda r, step=step: _take(r, step, phases),
    )


def _phases_to_rows(large, phases):
  """Space-to-depth: [B, *L, C] -> [B, phases * C, *(L / phases)]."""
  batch, channels = large.shape[0], large.shape[-1]
  rank = len(phases)
  split = [batch]
  for size, phase in zip(large.shape[1:-1], phases, strict=True):
    split += [size // phase, phase]
  large = large.reshape(*split, channels)
  order = [0, *range(2, 2 * rank + 1, 2), 2 * rank + 1]
  order += range(1, 2 * rank + 1, 2)
  large = large.transpose(order)
  return large.reshape(batch, -1, *large.shape[rank + 2 :])


def _take(references, step, phases):
  """Rows of one view: [M, *kernel, C, D] -> [M, R, D]."""
  window = [slice(None)]
  window += [
    slice(t * p, (t + 1) * p) for t, p in zip(step, phases, strict=True)
  ]
  part = references[tuple(window)]
  return part.reshape(part.shape[0], -1, part.shape[-1])


def _gram(pair: Pair) -> jax.Array:
  """Squared norms from the two Gram matrices, a block of rows at a time."""
  small = pair.small.reshape(len(pair.small), -1, pair.small.shape[-1])
  rows = jnp.concatenate([view for view, _ in _views(pair)], 1)
  size = min(pair.positions, _GRAM_ROWS)
  missing = -pair.positions % size  # padded with zeros
  small = jnp.pad(small, ((0, 0), (0, missing), (0, 0)))
  rows = jnp.pad(rows, ((0, 0), (0, 0), (0, missing)))

  def add(total, start):
    part = lax.dynamic_slice_in_dim(small, start, size, 1)
    a = jnp.einsum(
      "bpd,bqd->bpq", part, small, preferred_element_type=jnp.float32
    )
    part = lax.dynamic_slice_in_dim(rows, start, size, 2)
    b = jnp.einsum(
      "brp,brq->bpq", part, rows, preferred_element_type=jnp.float32
    )
    return total + jnp.sum(a * b, (1, 2)), None

  starts = jnp.arange(0, small.shape[1], size)
  total = lax.scan(add, jnp.zeros(len(small), jnp.float32), starts)[0]
  return jnp.maximum(total, 0)  # rounding can make it negative


def _by_convolution(pair: Pair, references: jax.Array) -> jax.Array:
  """<G, R> from the small map and the large one convolved by R."""
  count, geometry = len(references), pair.geometry
  rank = len(geometry.kernel)
  kernel = jnp.moveaxis(references, 0, -2)  # [*kernel, C, M, D]
  kernel = kernel.reshape(*kernel.shape[:-2], -1).astype(pair.large.dtype)
  seen = lax.conv_general_dilated(
    pair.large,
    kernel,
    geometry.stride,
    [(0, 0)] * rank,
    rhs_dilation=geometry.dilation,
    dimension_numbers=_numbers(rank),
    preferred_element_type=jnp.float32,
  )
  batch, depth = len(pair.small), pair.small.shape[-1]
  return jnp.einsum(
    "bpmd,bpd->bm",
    seen.reshape(batch, -1, count, depth),
    pair.small.reshape(batch, -1, depth),
    preferred_element_type=jnp.float32,
  )
