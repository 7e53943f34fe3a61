"""One stage per arm: a U-Net pre-trained on the pool without class maps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax.engine.context import Context
from gcl_jax.engine.state import State, create
from gcl_jax.engine.train import Training, batch_of
from gcl_jax.losses.pixel_consistency import unit
from gcl_jax.methods.pixel_global import arms, branches, steps
from gcl_jax.methods.pixel_global import networks as nets
from gcl_jax.methods.pixel_global.networks import Networks, networks_of
from gcl_jax.pipeline import label_draws, monitors, sampling
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.segmentation import views_of
from gcl_jax.pipeline.slice_pretraining import fit, optimizer_of, pool_of


class View(NamedTuple):
  """One view of every image as the own arm sees it.

  Attributes:
    projected: float32[B, L, D], P(u), unit vectors.
    moved: float32[B, L, D], the mean direction of S(P), unit vectors.
    gap: float32[B, L], |S(P) - P| with the mean S(P) of the passes.
    uncertainty: float32[B, L], s.
    weights: float32[B, L], of mean 1.
    index: int32[B, L, K], cells of the other view.
    found: bool[B, L, K], which of them are pairs.
    targets: float32[B, L, D], unit vectors of the teacher at the cells of the
      other view.
  """

  projected: jax.Array
  moved: jax.Array
  gap: jax.Array
  uncertainty: jax.Array
  weights: jax.Array
  index: jax.Array
  found: jax.Array
  targets: jax.Array


def run(context: Context, arm: str) -> dict[str, Any]:
  """Pre-trains the U-Net of one arm.

  Returns:
    `encoder`: {"params", "batch_stats"} of the encoder and, with a pixel
    branch, of the decoder stages up to its map, no heads. Of the own arm with
    matched cells also `branch`, what `forward` needs beside it.

  Raises:
    DataError: the pool has fewer slices than a batch.
  """
  images, config = Prepared(context), context.config
  label_draws.check_labels(images, config.segment)
  settings = arms.settings_of(config, arm)
  pool = pool_of(images, settings, config.protocol)
  rows_at = sampling.shuffled(pool, settings.batch_size, config.seed)
  arrays, size = {"image": images.pixels}, images.pixels.shape[1:]
  trained = training(config, settings, size, images.pixel_statistics())
  state = fit(context, trained, images, arrays, rows_at, settings.steps, arm)
  with_branch = arm == arms.OWN and settings.pixel_branch == "consistency"
  return jax.tree.map(np.asarray, artifact_of(state, with_branch))


def artifact_of(state: State, with_branch: bool) -> dict[str, Any]:
  """`encoder` of a trained state, and `branch` where it is asked for."""
  stats = state.extra["batch_stats"]
  encoder = {"params": state.params["unet"], "batch_stats": stats["unet"]}
  if not with_branch:
    return {"encoder": encoder}
  teacher = {
    kind: {name: tree[name] for name in ("unet", "pixel_head")}
    for kind, tree in state.extra["teacher"].items()
  }
  names = ("pixel_head", "stabilizer")
  branch = {
    "params": {x: state.params[x] for x in names if x in state.params},
    "batch_stats": {"pixel_head": stats["pixel_head"]},
    "teacher": teacher,
    "mean_uncertainty": state.extra["mean_uncertainty"],
  }
  return {"encoder": encoder, "branch": branch}


def forward(
  networks: Networks,
  settings: ConfigDict,
  artifact: dict[str, Any],
  images: jax.Array,
  places: jax.Array,
  keys: jax.Array,
) -> tuple[View, View]:
  """Both views through the trained student and teacher, dropout on.

  Layers normalise by their running statistics, so that an image does not depend
  on those beside it.

  Args:
    networks: from `networks_of`.
    settings: of the own arm, with `pixel_branch` "consistency".
    artifact: what `run` left.
    images: float32[B, 2, H, W, C], from `augment.two_turned_crops`.
    places: float32[B, 2, h, w, 2], of the cells.
    keys: keys[B], one per image.
  """
  encoder, branch = artifact["encoder"], artifact["branch"]
  student = {
    kind: {"unet": encoder[kind], **branch[kind]}
    for kind in ("params", "batch_stats")
  }
  rows = images.reshape(-1, *images.shape[2:])
  seen, _ = nets.look(networks, student, rows)
  taught, _ = nets.look(networks, branch["teacher"], rows)
  after = nets.moved(networks, student["params"], seen.cells, keys)
  weights = branches.weighed(
    settings, after.uncertainty, branch["mean_uncertainty"], places, keys
  )
  index, found, _ = branches.matched(settings, places)
  cells = nets.flat(seen.cells)
  every = View(
    cells,
    after.cells,
    jnp.linalg.norm(after.mean - cells, axis=-1),
    after.uncertainty,
    weights,
    index,
    found,
    nets.swapped(nets.flat(taught.cells)),
  )
  return tuple(jax.tree.map(lambda x, v=v: x[v::2], every) for v in range(2))


def training(
  config: ConfigDict,
  settings: ConfigDict,
  shape: tuple[int, ...],
  statistics: tuple,
) -> Training:
  """What an arm trains; the same first U-Net for every arm.

  Args:
    config: of the run.
    settings: of the arm, from `arms.settings_of`.
    shape: (H, W, C) of the slices.
    statistics: mean and standard deviation of training pixels in [0, 1].
  """
  networks = networks_of(config, settings)
  optimizer = optimizer_of(settings)
  step = steps.pretrain_step(
    networks,
    settings,
    optimizer,
    views=views_of(settings.views, *statistics),
    cells=cells_of(settings, shape),
  )
  size = (*_view_size(settings, shape), shape[-1])
  return Training(
    step,
    initial(networks, settings, optimizer, size),
    batch_of(settings.batch_size, image=(np.uint8, *shape)),
  )


def cells_of(settings: ConfigDict, shape: tuple[int, ...]) -> tuple[int, int]:
  """(h, w) of the pixel branch's map.

  Args:
    settings: of an arm.
    shape: (H, W, ...) of the slices.
  """
  rows, columns = _view_size(settings, shape)
  return rows // settings.stride, columns // settings.stride


def _view_size(settings, shape):
  return tuple(settings.views.size) or tuple(shape[:2])


def initial(
  networks: Networks, settings: ConfigDict, optimizer: Any, shape: tuple
) -> Callable[[jax.Array], State]:
  """key -> the state before the first step; the same U-Net for every arm.

  Args:
    networks: of the arm.
    settings: of the arm.
    optimizer: an optax transformation.
    shape: (rows, columns, C) of a view.
  """

  def init(key):
    for_unet, for_heads, for_queue, for_steps = jax.random.split(key, 4)
    params, stats = _first_variables(networks, for_unet, for_heads, shape)
    extra = {"batch_stats": stats}
    if steps.taught(settings):
      extra["teacher"] = {
        "params": steps.teacher_of(settings, params),
        "batch_stats": steps.teacher_of(settings, stats),
      }
    names = ["pooled", "pixel"] if settings.pixel_branch else ["pooled"]
    extra["rank"] = monitors.no_ranks(names)
    if settings.pixel_branch == "consistency":
      extra["mean_uncertainty"] = jnp.zeros(())
    if settings.pixel_branch == "densecl":
      size = settings.queue, settings.head_out
      extra["queue"] = unit(jax.random.normal(for_queue, size))
    return create(params, optimizer, for_steps, extra)

  return init


def _first_variables(networks, for_unet, for_heads, shape):
  """Parameters and batch statistics of all that an arm trains, by name."""
  unet = networks.unet
  params, stats = {}, {}
  used = unet.subset(unet.init(for_unet, shape), networks.levels_up)
  for kind, tree in (("params", params), ("batch_stats", stats)):
    # Without decoder stages there is no empty entry for them.
    tree["unet"] = {half: x for half, x in used[kind].items() if x}
  out = networks.global_head or networks.pixel_head
  sizes = {
    "global_head": unet.feature_dim,
    "predictor": out.feature_dim,
    "pixel_head": networks.channels,
    "stabilizer": out.feature_dim,
    "variance": 1,
  }
  keys = jax.random.split(for_heads, len(sizes))
  for key, (name, size) in zip(keys, sizes.items(), strict=True):
    if (model := getattr(networks, name)) is None:
      continue
    variables = model.init(key, (size,))
    if "batch_stats" in variables:
      stats[name] = variables.pop("batch_stats")
      variables = variables["params"]
    params[name] = variables
  if networks.variance is not None:  # equal weights at first
    params["variance"] = jax.tree.map(jnp.zeros_like, params["variance"])
  return params, stats
