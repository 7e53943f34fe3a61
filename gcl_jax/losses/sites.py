"""What ties sites to the OCT latent space, and keeps them apart.

    L_site = mean_m (1 - cos(S_m - c, mean_b Zo_bm - c))
    L_div  = mean_{m != m'} max(0, cos(S_m - c, S_m' - c) - 0.5)

c is the mean token of OCT images. Without it all tokens share a large mean:
cosines of any two are then near 1, sites that all are that mean have an L_site
of 0, and L_div works against it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.collectives import pmean
from gcl_jax.losses.pixel_consistency import unit


def site_loss(
  sites: jax.Array,
  gathered: jax.Array,
  centre: jax.Array,
  *,
  owner: jax.Array | None = None,
  classes: jax.Array | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  """1 - the cosine of every site with what is found there, after centring.

  Only the sites get a gradient. A site of a class is tied to the images of that
  class; one without an image in the batch does not count.

  Args:
    sites: float[M, D], S.
    gathered: float[B, M, D], Zo; a constant.
    centre: float[D], c; a constant.
    owner: int[M], the class of every site; None ties them to all images.
    classes: int[B], the classes of the images, with `owner`.
    axis_name: mapped axis over which the images are split, equally many on each
      device; the value is the same on all.

  Returns:
    A scalar from 0 to 2; 0 if no site counts.
  """
  gathered, centre = lax.stop_gradient((gathered, centre))
  mean, there = found_mean(
    gathered, owner=owner, classes=classes, axis_name=axis_name
  )
  cosine = jnp.sum(unit(sites - centre) * unit(mean - centre), axis=-1)
  lost = jnp.where(there, 1 - cosine, 0)
  return jnp.sum(lost) / jnp.maximum(jnp.sum(there), 1)


def found_mean(
  gathered: jax.Array,
  *,
  owner: jax.Array | None = None,
  classes: jax.Array | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """What is found at every site, mean over the images that it is tied to.

  Args:
    gathered, owner, classes, axis_name: as of `site_loss`.

  Returns:
    float[M, D], zeros for a site without an image, and bool[M], those with one.
  """
  count = jnp.ones(gathered.shape[:2])
  if owner is not None:
    count = (classes[:, None] == owner[None]).astype(gathered.dtype)
  total = jnp.mean(count[..., None] * gathered, axis=0)
  total, share = pmean((total, jnp.mean(count, axis=0)), axis_name)
  there = share > 0
  return total / jnp.where(there, share, 1)[:, None], there


def diversity_loss(
  sites: jax.Array, centre: jax.Array, bound: float = 0.5
) -> jax.Array:
  """Mean excess of the cosines of two sites over a bound, after centring.

  Args:
    sites: float[M, D], M at least 2.
    centre: float[D], a constant.
    bound: cosine below which two sites do not lose.

  Returns:
    A scalar from 0 to 1 - bound.
  """
  away = unit(sites - lax.stop_gradient(centre))
  above = jnp.maximum(away @ away.T - bound, 0)
  count = len(sites)
  return jnp.sum(above * (1 - jnp.eye(count))) / (count * (count - 1))
