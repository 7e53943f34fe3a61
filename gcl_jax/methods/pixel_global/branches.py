"""Terms of the loss, on both views of every image at once.

Arrays over views have 2 B rows: rows 2 i and 2 i + 1 are the views of image i.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gcl_jax import augment, losses
from gcl_jax.collectives import pmean
from gcl_jax.losses import dense_contrast, pixel_consistency
from gcl_jax.methods.pixel_global.networks import (
  PERMUTATION,
  Networks,
  Seen,
  flat,
  moved,
  swapped,
  view_keys,
)

_KEPT = 0.99  # of the running mean of the uncertainty, a step


def weighed(
  settings: ConfigDict,
  uncertainty: jax.Array,
  mean: jax.Array,
  places: jax.Array,
  keys: jax.Array,
) -> jax.Array:
  """Weights float32[2 B, L] of the cells, of mean 1 in every view.

  Args:
    settings: of the arm.
    uncertainty: float32[2 B, L].
    mean: its running mean, a scalar.
    places: float32[B, 2, h, w, 2].
    keys: keys[B], one per image.
  """
  form = settings.weighting
  if form == "border":
    distance = jnp.ravel(augment.border_distance(places))
    distance = jnp.broadcast_to(distance, uncertainty.shape)
    return pixel_consistency.weights(distance, "focus")
  if form == "shuffled":
    found = pixel_consistency.weights(uncertainty, "exp", mean)
    shuffle = jax.vmap(jax.random.permutation)
    return shuffle(view_keys(keys, PERMUTATION), found)
  form = "" if form == "variance" else form
  return pixel_consistency.weights(uncertainty, form, mean)


def matched(
  settings: ConfigDict, places: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Pairs of the cells of every view with those of the other.

  Args:
    settings: of the arm.
    places: float32[B, 2, h, w, 2].

  Returns:
    index int32[2 B, L, K] and found bool[2 B, L, K] of
    `augment.nearby_cells`; float32[2 B], share of a view outside the other.
  """
  own = places.reshape(-1, *places.shape[2:])
  other = swapped(own)
  index, found = augment.nearby_cells(
    own,
    other,
    count=settings.positives,
    distance=settings.distance,
    overlap_only=settings.overlap_only,
  )
  return index, found, 1 - jnp.mean(augment.inside(own, other), axis=1)


def global_term(
  networks: Networks,
  settings: ConfigDict,
  params: dict[str, Any],
  stats: dict[str, Any],
  student: Seen,
  teacher: Seen | None,
  axis_name: str | None,
) -> tuple[jax.Array, dict[str, Any]]:
  """Loss of whole views, and the batch statistics after it."""
  whole = student.whole
  if settings.global_branch == "simclr":
    z = pixel_consistency.unit(whole).reshape(-1, 2, whole.shape[-1])
    loss = losses.supcon(
      z, temperature=settings.temperature, axis_name=axis_name
    )
    return loss, stats
  variables = {
    "params": params["predictor"],
    "batch_stats": stats["predictor"],
  }
  predicted, after = networks.predictor.apply(
    variables, whole, train=True, axis_name=axis_name
  )
  loss = pixel_consistency.byol(predicted, swapped(teacher.whole))
  return loss, {**stats, "predictor": after}


def consistency_term(
  networks: Networks,
  settings: ConfigDict,
  params: dict[str, Any],
  student: Seen,
  teacher: Seen,
  places: jax.Array,
  keys: jax.Array,
  mean: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
  """Loss of matched cells, gap penalty, new running mean of s, and facts."""
  after = moved(networks, params, student.cells, keys)
  now = pmean(jnp.mean(jax.lax.stop_gradient(after.uncertainty)), axis_name)
  mean = jnp.where(mean > 0, _KEPT * mean + (1 - _KEPT) * now, now)
  weights = weighed(settings, after.uncertainty, mean, places, keys)
  index, found, outside = matched(settings, places)
  more = {}
  if settings.stabilizer == "hinge":
    more["tolerance"] = settings.gap_tolerance * outside
  if networks.variance is not None:
    read = pixel_consistency.log_uncertainty(after.uncertainty)
    more["log_variance"] = networks.variance.apply(params["variance"], read)
    more["log_variance"] = more["log_variance"][..., 0]
  loss, facts = pixel_consistency.pixel_loss(
    after.cells,
    swapped(flat(teacher.cells)),
    index,
    found,
    weights,
    settings.reduce,
    axis_name=axis_name,
    **more,
  )
  penalty, gap = pixel_consistency.gap(
    after.mean, flat(student.cells), settings.gap_tolerance
  )
  facts |= {
    "uncertainty": now,
    "weight_spread": jnp.mean(jnp.std(weights, axis=1)),
    "gap": gap,
  }
  return loss, penalty, mean, facts


def dense_term(
  settings: ConfigDict, student: Seen, teacher: Seen, queue: jax.Array
) -> jax.Array:
  """DenseCL's loss of the cells of both views."""
  return dense_contrast.dense_nce(
    flat(student.maps),
    swapped(flat(teacher.maps)),
    flat(student.cells),
    swapped(flat(teacher.cells)),
    queue,
    temperature=settings.temperature,
  )
