"""One stage per arm: a fundus network pre-trained beside OCT and texts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.engine import feed
from gcl_jax.engine.arrays import Rows
from gcl_jax.engine.context import Context
from gcl_jax.engine.state import State, create
from gcl_jax.engine.train import Training, batch_of
from gcl_jax.errors import DataError
from gcl_jax.methods.uopsl import arms, data, draws, networks, steps
from gcl_jax.methods.uopsl.captions import Table
from gcl_jax.models import text
from gcl_jax.models.sites import matched_random
from gcl_jax.pipeline import monitors, sampling, slice_pretraining
from gcl_jax.pipeline.contrast import views_of
from gcl_jax.pipeline.prepared import Prepared

SCALE = 1 / 0.07  # at first, as in CLIP


def run(context: Context, arm: str) -> dict[str, Any]:
  """Pre-trains an arm, anew for every number of labelled patients.

  Returns:
    m20, m50 ... -> `fundus` (variables of `networks.fundus_encoder`), `text`,
    `log_scale`, and with OCT `oct` (variables of its tokens), `centre`, and
    where sites read it `gather` and `read`.

  Raises:
    DataError: fewer images than a batch, or patients than are to be labelled.
  """
  found, config = draws.sources_of(context), context.config
  settings = arms.settings_of(config, arm)
  made = networks_of(config, settings, found)
  own = context.load(arms.OWN) if arm in arms.FROM_OWN else {}
  statistics = [s.pixel_statistics() for s in (found.fundus, found.oct)]
  trained, left, counts = {}, {}, draws.labelled_counts(config)
  for count in counts.values():  # too many are refused before the first fit
    draws.labelled(found.fundus, count, config.fundus.draw)
  for name, count in counts.items():
    columns, rows_at = pools_of(config, settings, found, count)
    has_rest = "rest" in columns  # not where all patients have labels
    arguments = ()
    if arm in arms.FROM_OWN:
      arguments = (frozen_sites(context, arm, found, made, own[name]),)
    if has_rest not in trained:
      trained[has_rest] = training(
        config,
        settings,
        made,
        found.captions.table,
        found.captions.of_classes(settings.places),
        shapes_of(found),
        statistics,
        has_rest,
      )
    state = context.fit(
      trained[has_rest]._replace(arguments=arguments),
      lambda start, columns=columns, rows_at=rows_at: feed.batches_from(
        columns,
        rows_at,
        start=start,
        steps=settings.steps,
        workers=config.workers,
      ),
      steps=settings.steps,
      name=f"{arm}/{name}",
      seed=config.seed,
      ids={
        pool: (found.oct if pool == "oct" else found.fundus).ids
        for pool in columns
      },
      checkpoints=context.checkpoints(f"checkpoints-{name}"),
      save_every=max(1, settings.steps // 4),
    )
    left[name] = jax.tree.map(np.asarray, artifact_of(made, state))
  return left


def networks_of(
  config: ConfigDict, settings: ConfigDict, found: draws.Sources
) -> networks.Networks:
  """The networks of an arm.

  Raises:
    DataError: a description that the text encoder cannot hold.
  """
  longest = found.captions.table.ids.shape[2]
  if config.text.encoder == "transformer" and longest > text.LONGEST:
    raise DataError(
      f"a description has {longest} words, more than the {text.LONGEST} of"
      " text.encoder transformer: shorten it or take bag"
    )
  return networks.make(
    settings,
    config.text,
    found.oct.pixels.shape[1:],
    len(found.captions.classes),
    len(found.captions.vocabulary) + 1,
  )


def shapes_of(found: draws.Sources) -> tuple[tuple, tuple]:
  """(H, W, C) of fundus images and of OCT scans."""
  return found.fundus.pixels.shape[1:], found.oct.pixels.shape[1:]


def pools_of(
  config: ConfigDict, settings: ConfigDict, found: draws.Sources, count: int
) -> tuple[dict[str, dict], Callable[[int], dict[str, np.ndarray]]]:
  """Columns and sampler of the pools of an arm.

  Args:
    config: of the run.
    settings: section `pretrain` of the arm.
    found: both sets.
    count: patients with labels.

  Raises:
    DataError: no images for a pool.
  """
  fundus, scans, captions = found
  with_labels = draws.labelled(fundus, count, config.fundus.draw)
  rest = fundus.pool(config.protocol) & ~with_labels
  columns = {
    "labelled": draws.columns_of(
      fundus, captions, config, places=settings.places
    )
  }
  rows = {"labelled": np.flatnonzero(with_labels)}
  described = rest & (fundus.table["class"] != "")
  if settings.rest == "without_place" and described.any():
    columns["rest"] = draws.columns_of(
      fundus, captions, config, places=False, hidden=True
    )
    rows["rest"] = np.flatnonzero(described)
  if settings.oct:
    columns["oct"] = _columns_of_oct(config, settings, scans, captions)
    rows["oct"] = np.flatnonzero(draws.known(scans))
  for name, of_pool in rows.items():
    if not len(of_pool):
      raise DataError(f"no image of pool {name} has a known class")
  samplers = {
    name: sampling.shuffled(
      np.resize(of_pool, max(len(of_pool), settings.batch[name])),
      settings.batch[name],
      (config.seed * 8 + k) % 2**32,
    )
    for k, (name, of_pool) in enumerate(rows.items())
  }
  if settings.oct_draw == "class":
    _drawn_with(samplers, "labelled", columns, "class", rows, settings, config)
  if settings.oct_draw == "pair":
    _pair(columns, found, config)
    _drawn_with(samplers, "rest", columns, "pair", rows, settings, config)
  return columns, sampling.side_by_side(**samplers)


def training(
  config: ConfigDict,
  settings: ConfigDict,
  made: networks.Networks,
  table: Table,
  classes: np.ndarray,
  shapes: tuple[tuple, tuple],
  statistics: list[tuple],
  has_rest: bool,
) -> Training:
  """What an arm trains, from settings and shapes alone.

  `init` of arms whose sites are given takes them as its argument. The first
  networks of fundus, text and OCT are the same for every arm.

  Args:
    config: of the run.
    settings: section `pretrain` of the arm.
    made: from `networks_of`.
    table: of the texts.
    classes: int[C], rows of the table that describe the classes.
    shapes: (H, W, C) of fundus images and of OCT scans.
    statistics: mean and standard deviation of pixels in [0, 1] of both.
    has_rest: whether there are fundus images described without labels.
  """
  pools = ["labelled", *(["rest"] if has_rest else [])]
  pools += ["oct"] if settings.oct else []
  absent = {f"{name}_text" for name in steps.POOLS if name not in pools}
  averaged = settings.tie == "average" and settings.sites == "oct"
  weights = {n: 0.0 if n in absent else settings[n] for n in arms.TERMS}
  rules = steps.Rules(
    weights,
    classes,
    settings.fundus_updates,
    settings.site_momentum if averaged else 0.0,
    settings.centre_momentum if settings.centre else 0.0,
    settings.bound,
    settings.flip,
    settings.flip_oct,
    settings.temperature,
  )
  optimizer = slice_pretraining.optimizer_of(settings)
  views = {
    kind: {k: v for k, v in views_of(settings, *of_kind).items() if k != "flip"}
    for kind, of_kind in zip(("fundus", "oct"), statistics, strict=True)
  }
  fundus_shape, oct_shape = shapes
  pair = {"pair": (np.int32,)} if settings.pair else {}
  batch = {
    name: batch_of(
      settings.batch[name],
      image=(np.uint8, *(oct_shape if name == "oct" else fundus_shape)),
      caption=(np.int32,),
      **{"class": (np.int32,)},
      **(pair if name != "labelled" else {}),
    )
    for name in pools
  }
  return Training(
    steps.alignment_step(made, table, rules, views, optimizer),
    _initial(settings, made, table, shapes, pools, optimizer),
    batch,
  )


def _initial(settings, made, table, shapes, pools, optimizer) -> Callable:
  """(key, sites of an arm that is given them) -> the first state."""
  fundus_shape, oct_shape = shapes

  def init(key, given=None):
    keys = jax.random.split(key, 5)
    fundus = made.fundus.init(keys[0], fundus_shape)
    first = table.inputs()[0]
    params = {
      "fundus": fundus["params"],
      "text": made.text.init(keys[1], first.shape[2:]),
      "log_scale": jnp.log(jnp.float32(SCALE)),
    }
    stats = {"fundus": fundus["batch_stats"]}
    extra = {"rank": monitors.no_ranks(pools)}
    if made.oct is not None:
      scan = made.oct.init(keys[2], oct_shape)
      params["oct"], stats["oct"] = scan["params"], scan["batch_stats"]
      extra["centre"] = jnp.zeros(settings.size)
    if made.sites is not None:
      drawn = made.sites.init(keys[3])
      params["fusion"] = drawn["fundus"]
      if made.oct is not None:
        params["gather"] = drawn["oct"]
        params["read"] = jnp.zeros(settings.size)
      if given is None:
        params["sites"] = drawn["sites"]
      else:
        extra["sites"] = given
    return create(params, optimizer, keys[4], extra | {"batch_stats": stats})

  return init


def artifact_of(made: networks.Networks, state: State) -> dict[str, Any]:
  """What later stages read of a pre-training; see `run`."""
  params, extra = state.params, state.extra
  stats = extra["batch_stats"]
  sites = params.get("sites", extra.get("sites"))
  found = {
    "fundus": networks.for_fundus(made, params, stats, sites),
    "text": params["text"],
    "log_scale": params["log_scale"],
  }
  if made.oct is not None:
    variables = {"params": params["oct"], "batch_stats": stats["oct"]}
    found |= {"oct": variables, "centre": extra["centre"]}
    found |= {k: params[k] for k in ("gather", "read") if k in params}
  return found


def frozen_sites(
  context: Context,
  arm: str,
  found: draws.Sources,
  made: networks.Networks,
  own: dict[str, Any],
) -> np.ndarray:
  """S of an arm whose sites are made of those of this method's own.

  "random": of the same singular values; "means": the mean OCT token of every
  class, nothing learned.

  Returns:
    float32[M, D].
  """
  config, matrix = context.config, own["fundus"]["batch_stats"]["sites"]
  if arm == "random":
    drawn = jax.jit(matched_random)(jax.random.key(config.seed), matrix)
    return np.asarray(drawn)
  rows = np.flatnonzero(draws.known(found.oct))
  means = mean_tokens(context, found, made, own["oct"], rows)
  classes = found.oct.table["class"][rows]
  centre = means.mean(0)
  return np.stack(
    [
      means[classes == name].mean(0) if (classes == name).any() else centre
      for name in found.captions.classes
    ]
  )


def mean_tokens(
  context: Context,
  found: draws.Sources,
  made: networks.Networks,
  variables: Any,
  rows: np.ndarray,
) -> np.ndarray:
  """The mean token of OCT scans, float32[R, D]."""
  statistics = found.oct.pixel_statistics()

  def means(tree, batch):
    images = augment.normalise(batch["image"], *statistics)
    return networks.pooled(made.oct.apply(tree, images)[0])

  return context.map(
    means,
    variables,
    {"image": Rows(found.oct.pixels, rows)},
    batch_size=context.config.fundus.batch_size,
    name="oct/means",
    quiet=True,
  )


def _columns_of_oct(config, settings, scans, captions) -> dict[str, np.ndarray]:
  """Columns of OCT; those of a control have classes that are permuted."""
  columns = draws.columns_of(scans, captions, config, places=settings.places)
  if settings.shuffle_classes:
    rows = np.flatnonzero(draws.known(scans))
    order = np.random.default_rng(config.seed).permutation(rows)
    for name in ("caption", "class"):
      columns[name] = columns[name].copy()
      columns[name][rows] = columns[name][order]
  return columns


def _pair(columns, found, config) -> None:
  """Adds column `pair` to fundus images and OCT scans; -1 = not known."""
  if "rest" not in columns:
    raise DataError(
      "scans are drawn for photographs without a label, and all have one: leave"
      " out the numbers of fundus.labelled that label every patient"
    )
  both = [
    paired_values(images, config.fundus.pair_columns)
    for images in (found.fundus, found.oct)
  ]
  codes = {value: k for k, value in enumerate(np.unique(np.concatenate(both)))}
  codes[""] = -1
  for pool, values in zip(("rest", "oct"), both, strict=True):
    columns[pool]["pair"] = np.array([codes[v] for v in values], np.int32)


def paired_values(images: Prepared, columns: tuple[str, ...]) -> np.ndarray:
  """str[N], equal for images of one eye, "" where a column is blank.

  Raises:
    DataError: an unknown column.
  """
  if missing := [name for name in columns if name not in images.table]:
    raise DataError(
      f"fundus.pair_columns: no column {missing[0]!r} in {images.folder.name}"
    )
  values = [map(data.as_name, images.table[name].tolist()) for name in columns]
  rows = zip(*values, strict=True)
  return np.array(["+".join(each) if all(each) else "" for each in rows])


def _drawn_with(
  samplers, pool, columns, column, rows, settings, config
) -> None:
  """Draws OCT scans that have the value of the fundus images of the step."""
  values, others = columns[pool][column], columns["oct"][column]
  kept, by_value = draws.partners(values, others, rows[pool], rows["oct"])
  if not len(kept):
    raise DataError(f"no fundus image has an OCT scan of its {column}")
  size = settings.batch[pool]
  seed = (config.seed * 8 + 7) % 2**32
  samplers[pool] = sampling.shuffled(
    np.resize(kept, max(len(kept), size)), size, seed
  )
  ours = samplers[pool]

  def theirs(step: int) -> np.ndarray:
    rng = np.random.default_rng((seed, step))
    photographs = np.resize(ours(step), settings.batch["oct"])
    return np.array([rng.choice(by_value[values[k]]) for k in photographs])

  samplers["oct"] = theirs
