"""Student and teacher: their models, and what they see in views.

Arrays over views have 2 B rows: rows 2 i and 2 i + 1 are the views of image i.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from gcl_jax.losses import pixel_consistency
from gcl_jax.models import heads, stabilizer
from gcl_jax.models.layers import Model
from gcl_jax.models.stabilizer import averaged
from gcl_jax.models.unet import UNet
from gcl_jax.pipeline.segmentation import make_unet

# Views are drawn from the halves of an image's key.
DROPOUT, PERMUTATION = 2, 3


class Networks(NamedTuple):
  """The models of an arm; None for those that it has not.

  Attributes:
    unet: f; without a pixel branch its encoder alone is used.
    levels_up: up-steps of the decoder to the pixel branch's map.
    channels: of that map.
    grid: rows and columns of that map, at most; None for all.
    pixel_head: p.
    stabilizer: S, or PixPro's propagation.
    variance: read-out of the log variance b from log s.
    global_head: g, on the mean of the bottleneck over its positions.
    predictor: q.
  """

  unet: UNet
  levels_up: int = 0
  channels: int = 0
  grid: int | None = None
  pixel_head: Model | None = None
  stabilizer: Model | None = None
  variance: Model | None = None
  global_head: Model | None = None
  predictor: Model | None = None


class Seen(NamedTuple):
  """Views as a network sees them; None for what it has no head for.

  Attributes:
    pooled: float32[N, C], mean of the bottleneck.
    maps: float32[N, h, w, C'], the pixel branch's map.
    cells: float32[N, h, w, D], unit vectors p(map).
    whole: float32[N, D], g(pooled), of any length.
  """

  pooled: jax.Array
  maps: jax.Array | None
  cells: jax.Array | None
  whole: jax.Array | None


class Moved(NamedTuple):
  """The student's cells after the passes of the stabilizer.

  Attributes:
    cells: float32[N, L, D], unit vectors, the mean direction of the passes.
    uncertainty: float32[N, L], s.
    mean: float32[N, L, D], S(P), the mean of the passes, of any length.
  """

  cells: jax.Array
  uncertainty: jax.Array
  mean: jax.Array


def networks_of(config: ConfigDict, settings: ConfigDict) -> Networks:
  """The models of an arm.

  Args:
    config: of the run.
    settings: of the arm, from `arms.settings_of`.
  """
  unet = make_unet(config.unet, 2)  # its output layer is not trained here
  hidden, out = settings.head_hidden, settings.head_out
  found = {}
  if settings.pixel_branch:
    found["levels_up"] = (unet.stride // settings.stride).bit_length() - 1
    found["channels"] = config.unet.widths[-1 - found["levels_up"]]
    found["pixel_head"] = heads.projection(hidden, out, norm=True)
  if settings.pixel_branch == "densecl":
    found["grid"] = settings.context_cells
  if settings.pixel_branch == "consistency":
    found["stabilizer"] = _stabilizer(settings)
    if settings.weighting == "variance":
      found["variance"] = heads.linear(1)
  if settings.global_branch:
    found["global_head"] = heads.projection(hidden, out, norm=True, unit=False)
  if settings.global_branch == "byol":
    found["predictor"] = heads.projection(hidden, out, norm=True, unit=False)
  return Networks(unet, **found)


def _stabilizer(settings: ConfigDict) -> Model | None:
  """The one that is named; as wide as what it reads, [P; C]."""
  size, kind = settings.head_out, settings.stabilizer
  where = dict(gamma=settings.gamma, context_cells=settings.context_cells)
  if kind == "propagation":
    return stabilizer.propagation(size, **where)
  if kind not in ("dropout", "deterministic"):
    return None
  drawn = dict(passes=settings.passes, dropout=settings.dropout)
  if kind == "deterministic":
    drawn = dict(passes=1, dropout=0.0)
  drawn["residual"] = settings.residual
  return stabilizer.stabilizer(size, 2 * size, **drawn, **where)


def look(
  networks: Networks,
  variables: dict[str, Any],
  images: jax.Array,
  *,
  train: bool = False,
  axis_name: str | None = None,
) -> tuple[Seen, dict[str, Any]]:
  """Views through f, p and g, of the student or of the teacher.

  Args:
    networks: of the arm.
    variables: {"params", "batch_stats"}, each with "unet" and, where they are
      to be applied, "pixel_head" and "global_head".
    images: float32[N, H, W, C].
    train: normalise by statistics of the batch.
    axis_name: mapped axis over which statistics are taken.

  Returns:
    What is seen, and the batch statistics of what was applied.
  """
  params, stats = variables["params"], dict(variables["batch_stats"])
  how = dict(train=train, axis_name=axis_name)

  def apply(function, name, *inputs, **more):
    own = {"params": params[name], "batch_stats": stats[name]}
    found, stats[name] = function(own, *inputs, **more, **how)
    return found

  encoded = apply(networks.unet.encode, "unet", images)
  pooled = jnp.mean(encoded[0], axis=(1, 2))
  maps = cells = whole = None
  if "pixel_head" in params:
    up = networks.levels_up
    maps = apply(networks.unet.decode, "unet", encoded, levels_up=up)
    if networks.grid is not None:
      maps = averaged(maps, networks.grid)
    cells = apply(networks.pixel_head.apply, "pixel_head", maps)
  if "global_head" in params:
    whole = apply(networks.global_head.apply, "global_head", pooled)
  return Seen(pooled, maps, cells, whole), stats


def swapped(views: jax.Array) -> jax.Array:
  """[2 B, ...] with the two views of every image exchanged."""
  pairs = views.reshape(-1, 2, *views.shape[1:])
  return pairs[:, ::-1].reshape(views.shape)


def flat(maps: jax.Array) -> jax.Array:
  """[N, h, w, D] -> [N, L, D], cells in row-major order."""
  return maps.reshape(len(maps), -1, maps.shape[-1])


def moved(
  networks: Networks, params: dict[str, Any], cells: jax.Array, keys: jax.Array
) -> Moved:
  """Passes of the stabilizer over the student's cells.

  Args:
    networks: of the arm; without a stabilizer cells stay where they are.
    params: {"stabilizer"} where there is one.
    cells: float32[2 B, h, w, D], unit vectors.
    keys: keys[B], one per image.
  """
  own = flat(cells)
  if networks.stabilizer is None:
    return Moved(own, jnp.zeros(own.shape[:2]), own)
  passes = networks.stabilizer.apply(
    params["stabilizer"], cells, view_keys(keys, DROPOUT)
  )
  passes = passes.reshape(*own.shape[:2], *passes.shape[-2:])
  spread, direction = pixel_consistency.uncertainty(
    pixel_consistency.unit(passes)
  )
  return Moved(direction, spread, jnp.mean(passes, axis=-2))


def view_keys(keys: jax.Array, purpose: int) -> jax.Array:
  """keys[B] of images -> keys[2 B] of their views."""
  split = jax.vmap(
    lambda key: jax.random.split(jax.random.fold_in(key, purpose))
  )
  return split(keys).reshape(-1)
