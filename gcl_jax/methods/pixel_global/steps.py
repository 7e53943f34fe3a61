"""Pure pre-training step: a student, and a teacher that follows it.

The student has everything in `state.params`; the teacher, in
`state.extra["teacher"]`, the U-Net and the two projectors, no predictor and no
stabilizer, and batch statistics of its own. It moves towards the student before
it gives the targets of the step, and gets no gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.collectives import gather, pmean
from gcl_jax.engine.state import State, follow, update
from gcl_jax.losses.pixel_consistency import unit
from gcl_jax.methods.pixel_global import branches
from gcl_jax.methods.pixel_global import networks as nets
from gcl_jax.methods.pixel_global.networks import Networks, Seen
from gcl_jax.pipeline import monitors

Step = Callable[..., tuple[State, dict[str, jax.Array]]]
_WATCHED = 4  # cells of a view whose embeddings are monitored


def pretrain_step(
  networks: Networks,
  settings: ConfigDict,
  optimizer: optax.GradientTransformation,
  *,
  views: dict[str, Any],
  cells: tuple[int, int],
) -> Step:
  """Builds the pre-training step of an arm.

  The batch holds `image` uint8[B, H, W, C] and `index` int32[B]. `state.extra`
  holds `batch_stats`, `rank` and, where the arm uses them, `teacher`,
  `mean_uncertainty` and `queue` float32[Q, D].

      loss = global_weight L_glob + pixel_weight L_pix + gap_weight L_gap

  Args:
    networks: from `networks.networks_of`.
    settings: of the arm.
    optimizer: an optax transformation.
    views: options of `augment.two_turned_crops`.
    cells: (h, w) of the pixel branch's map.

  Returns:
    step(state, batch, *, axis_name) -> (state, metrics): `loss`, and of the
    branches there are `loss/global`, `loss/pixel`; of consistency also
    `loss/gap`, `uncertainty` (mean s), `weight_spread` (standard deviation of
    the weights in a view), `gap` (mean |S(P) - P|), `pairs` of a cell and
    `unmatched` (share of views without a pair); `spread/<kind>` and
    `effective_rank/<kind>` of "pooled" and "pixel" embeddings.
  """

  def step(state, batch, *, axis_name=None):
    keys = augment.sample_keys(state.key, state.step, batch["index"])
    images, places = augment.two_turned_crops(
      keys, batch["image"], cells=cells, **views
    )
    images = images.reshape(-1, *images.shape[2:])
    targets, extra = _teach(networks, settings, state, images, axis_name)

    def objective(params):
      return _losses(
        *(networks, settings, state.extra, params, targets),
        *(images, places, keys, axis_name),
      )

    found = jax.value_and_grad(objective, has_aux=True)(state.params)
    (value, (new, metrics, vectors)), gradients = found
    value, metrics, gradients = pmean((value, metrics, gradients), axis_name)
    extra = {**state.extra, **extra, **new}
    state = update(state, gradients, optimizer, extra)
    state, spread, rank = monitors.watched(state, vectors, axis_name)
    for name in spread:
      metrics[f"spread/{name}"] = spread[name]
      metrics[f"effective_rank/{name}"] = rank[name]
    return state, {"loss": value, **metrics}

  return step


def taught(settings: ConfigDict) -> bool:
  """Whether an arm has a teacher."""
  return settings.global_branch == "byol" or bool(settings.pixel_branch)


def teacher_of(settings: ConfigDict, tree: dict[str, Any]) -> dict[str, Any]:
  """What a teacher has of a student's parameters or batch statistics."""
  names = ["unet", "pixel_head"]
  if settings.global_branch == "byol":
    names.append("global_head")
  return {name: tree[name] for name in names if name in tree}


def momentum_at(settings: ConfigDict, step: jax.Array) -> jax.Array:
  """Of the teacher: from `momentum_teacher` to 1 along a cosine (BYOL)."""
  share = jnp.minimum(step / settings.steps, 1.0)
  first = 1 - settings.momentum_teacher
  return 1 - first * (jnp.cos(jnp.pi * share) + 1) / 2


def _teach(
  networks: Networks,
  settings: ConfigDict,
  state: State,
  images: jax.Array,
  axis_name: str | None,
) -> tuple[Seen | None, dict[str, Any]]:
  """What the teacher sees after its update, and the new `teacher`, `queue`."""
  if not taught(settings):
    return None, {}
  teacher = state.extra["teacher"]
  params = follow(
    teacher["params"],
    teacher_of(settings, state.params),
    momentum_at(settings, state.step),
  )
  variables = {"params": params, "batch_stats": teacher["batch_stats"]}
  seen, stats = nets.look(
    networks, variables, images, train=True, axis_name=axis_name
  )
  extra = {"teacher": {"params": params, "batch_stats": stats}}
  if settings.pixel_branch == "densecl":
    old = state.extra["queue"]
    new = unit(jnp.mean(nets.flat(seen.cells), axis=1))
    pushed = jnp.concatenate([gather(new, axis_name), old])
    extra["queue"] = pushed[: len(old)]
  return seen, extra


def _losses(
  networks: Networks,
  settings: ConfigDict,
  extra: dict[str, Any],
  params: dict[str, Any],
  targets: Seen | None,
  images: jax.Array,
  places: jax.Array,
  keys: jax.Array,
  axis_name: str | None,
) -> tuple[jax.Array, tuple[dict, dict, dict]]:
  """The loss; what is new in `extra`, the metrics, the vectors to watch."""
  variables = {"params": params, "batch_stats": extra["batch_stats"]}
  seen, stats = nets.look(
    networks, variables, images, train=True, axis_name=axis_name
  )
  total, new, metrics = jnp.zeros(()), {}, {}
  if settings.global_branch:
    value, stats = branches.global_term(
      networks, settings, params, stats, seen, targets, axis_name
    )
    total += settings.global_weight * value
    metrics["loss/global"] = value
  if settings.pixel_branch == "densecl":
    value = branches.dense_term(settings, seen, targets, extra["queue"])
    total += settings.pixel_weight * value
    metrics["loss/pixel"] = value
  elif settings.pixel_branch:
    value, penalty, new["mean_uncertainty"], facts = branches.consistency_term(
      *(networks, settings, params, seen, targets),
      *(places, keys, extra["mean_uncertainty"], axis_name),
    )
    total += settings.pixel_weight * value + settings.gap_weight * penalty
    metrics |= {"loss/pixel": value, "loss/gap": penalty, **facts}
  return total, ({"batch_stats": stats, **new}, metrics, _watched(seen))


def _watched(seen: Seen) -> dict[str, jax.Array]:
  """Unit vectors of whole views and of some cells."""
  found = {"pooled": unit(seen.pooled)}
  if seen.cells is not None:
    cells = nets.flat(seen.cells)
    at = np.linspace(0, cells.shape[1] - 1, _WATCHED).astype(int)
    found["pixel"] = cells[:, at].reshape(-1, cells.shape[-1])
  return found
