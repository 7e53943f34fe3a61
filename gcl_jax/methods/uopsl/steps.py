"""The pure step of pre-training on two unpaired sources and their texts.

A batch is {pool: {"image", "caption", "class", "index"}} of three pools, each
of its own size and order: "labelled" and "rest", fundus images whose class is
known or not, and "oct". `caption` is a row of the table of texts; `class` is
-1 where no term may know it. With `pair`, "rest" and "oct" hold it too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gcl_jax import augment, losses
from gcl_jax.collectives import gather, pmean
from gcl_jax.engine.state import State, update
from gcl_jax.engine.train import Step
from gcl_jax.losses import alignment, distillation
from gcl_jax.losses import sites as of_sites
from gcl_jax.methods.uopsl.captions import Table
from gcl_jax.methods.uopsl.networks import Networks, gathered, pooled
from gcl_jax.models.heads import unit_length
from gcl_jax.pipeline import monitors

FUNDUS = ("labelled", "rest")
POOLS = (*FUNDUS, "oct")
MOST = 100.0  # of the scale, as in CLIP


class Rules(NamedTuple):
  """What the step is made of besides networks.

  Attributes:
    weights: term -> its weight; a term of weight 0 is left out.
    classes: int[C], rows of the table that describe the classes.
    fundus_updates: whether the fundus path gives S a gradient.
    average: momentum of S as a running mean of what is found at its sites; 0
      where the optimiser moves it.
    centre: momentum of the running mean of OCT tokens; 0: no centring.
    bound: cosine of two sites below which they do not lose.
    flip: probability that a fundus image is mirrored, with its text.
    flip_oct: of an OCT scan.
    temperature: of the terms that have none of their own to learn.
  """

  weights: dict[str, float]
  classes: Any
  fundus_updates: bool = False
  average: float = 0.0
  centre: float = 0.99
  bound: float = 0.5
  flip: float = 0.0
  flip_oct: float = 0.0
  temperature: float = 0.1


class Drawn(NamedTuple):
  """Views and texts of a pool: images float32[B, H, W, C], the row and the
  number of the text of each int[B], and its meaning int[B]."""

  images: jax.Array
  caption: jax.Array
  text: jax.Array
  target: jax.Array


class Vectors(NamedTuple):
  """What the networks make of a batch, by pool.

  Attributes:
    images: pool -> float32[B, D], unit vectors.
    texts: pool -> float32[B, D], unit vectors of the drawn texts.
    classes: float32[C, D], unit vectors of the classes' descriptions.
    found: float32[B, M, D], Zo; None without sites of OCT.
    shares: float32[B, M, Lo], Bo.
    centre: float32[D], mean OCT token of the batch; None without OCT.
  """

  images: dict[str, jax.Array]
  texts: dict[str, jax.Array]
  classes: jax.Array
  found: jax.Array | None = None
  shares: jax.Array | None = None
  centre: jax.Array | None = None


def alignment_step(
  networks: Networks,
  table: Table,
  rules: Rules,
  views: dict[str, dict[str, Any]],
  optimizer: optax.GradientTransformation,
) -> Step:
  """One step on all pools of a batch.

  Args:
    networks: of the arm.
    table: of the texts.
    rules: terms and switches.
    views: {"fundus", "oct"}: keywords of `augment.crop`, without `flip`.
    optimizer: of all parameters.

  Returns:
    step(state, batch, *, axis_name) -> (state, metrics): `loss`, every term,
    `scale`, and variance and effective rank of images by pool. `state.params`
    has "fundus", "text" and "log_scale"; "oct"; "fusion", "gather", "read" and
    "sites" where there are such; S that is not trained is in `state.extra`.
  """

  def step(state, batch, *, axis_name=None):
    drawn = {
      name: draw(state, k, name, batch[name], table, rules, views)
      for k, name in enumerate(POOLS)
      if name in batch
    }
    centre = state.extra.get("centre")

    def objective(params):
      vectors, stats = look(
        networks, table, rules, state, params, drawn, axis_name
      )
      middle = _middle(rules, state, vectors.centre, axis_name)
      found = terms(
        networks, rules, params, vectors, batch, drawn, middle, axis_name
      )
      value = sum(rules.weights[name] * term for name, term in found.items())
      return value, (stats, found, vectors, middle)

    (value, (stats, found, vectors, middle)), gradients = jax.value_and_grad(
      objective, has_aux=True
    )(state.params)
    value, found, gradients = pmean((value, found, gradients), axis_name)
    extra = {**state.extra, "batch_stats": stats}
    if centre is not None:
      extra["centre"] = middle
    after = update(state, gradients, optimizer, extra)
    if rules.average:
      after = _averaged(networks, rules, after, vectors, batch, axis_name)
    metrics = {"loss": value, **found, "scale": _scale(state.params)}
    return _monitored(networks, after, vectors, metrics, axis_name)

  return step


def draw(
  state: State,
  number: int,
  name: str,
  pool: dict[str, jax.Array],
  table: Table,
  rules: Rules,
  views: dict[str, dict[str, Any]],
) -> Drawn:
  """A view and a text of every image of a pool, from a key of its own.

  A mirrored image gets the text of mirrored images.
  """
  key = jax.random.fold_in(state.key, number)
  keys = augment.sample_keys(key, state.step, pool["index"])
  # The view takes the children 0 to 3 of a key.
  of_text, of_flip = (
    jax.vmap(lambda k, child=child: jax.random.fold_in(k, child))(keys)
    for child in (4, 5)
  )
  kind = "oct" if name == "oct" else "fundus"
  flip = rules.flip_oct if kind == "oct" else rules.flip
  turned = jax.vmap(lambda k: jax.random.bernoulli(k, flip))(of_flip)
  images = jnp.where(
    turned[:, None, None, None], pool["image"][:, :, ::-1], pool["image"]
  )
  caption = jnp.where(
    turned, jnp.asarray(table.mirrored)[pool["caption"]], pool["caption"]
  )
  odds = jnp.log(jnp.asarray(table.there, jnp.float32))[caption]
  return Drawn(
    augment.crop(keys, images, flip=0.0, **views[kind]),
    caption,
    jax.vmap(jax.random.categorical)(of_text, odds),
    jnp.asarray(table.target)[caption],
  )


def look(
  networks: Networks,
  table: Table,
  rules: Rules,
  state: State,
  params: dict,
  drawn: dict[str, Drawn],
  axis_name: str | None,
) -> tuple[Vectors, dict]:
  """Images and texts through the networks; new batch statistics."""
  stats = dict(state.extra["batch_stats"])
  texts = networks.text.apply(params["text"], *table.inputs())
  sites = params.get("sites", state.extra.get("sites"))
  if rules.average:
    sites = lax.stop_gradient(sites)
  names = [name for name in FUNDUS if name in drawn]
  tokens, stats["fundus"] = networks.fundus.apply(
    {"params": params["fundus"], "batch_stats": stats["fundus"]},
    jnp.concatenate([drawn[name].images for name in names]),
    train=True,
    axis_name=axis_name,
  )
  if networks.sites is not None:
    matrix = sites if rules.fundus_updates else lax.stop_gradient(sites)
    own = {"sites": matrix, "fundus": params["fusion"]}
    tokens, _ = networks.sites.lend(own, tokens)
  rows = unit_length(pooled(tokens))
  ends = [0]
  for name in names:
    ends.append(ends[-1] + len(drawn[name].images))
  images = {
    name: rows[start:stop]
    for name, start, stop in zip(names, ends, ends[1:], strict=False)
  }
  more = {}
  if networks.oct is not None:
    images["oct"], stats["oct"], more = _look_at_oct(
      networks, params, sites, stats["oct"], drawn["oct"].images, axis_name
    )
  return Vectors(
    images,
    {name: texts[d.caption, d.text] for name, d in drawn.items()},
    alignment.prototypes(texts[rules.classes], table.there[rules.classes]),
    **more,
  ), stats


def _look_at_oct(networks, params, sites, stats, images, axis_name):
  """Unit vectors of OCT scans, new statistics, and what the sites found."""
  tokens, stats = networks.oct.apply(
    {"params": params["oct"], "batch_stats": stats},
    images,
    train=True,
    axis_name=axis_name,
  )
  more = {"centre": lax.stop_gradient(jnp.mean(tokens, (0, 1)))}
  if networks.sites is None:
    return unit_length(pooled(tokens)), stats, more
  own = {"sites": sites, "oct": params["gather"]}
  found, shares = networks.sites.gather(own, tokens)
  more |= {"found": found, "shares": shares}
  return gathered(params["read"], found), stats, more


def terms(
  networks: Networks,
  rules: Rules,
  params: dict,
  vectors: Vectors,
  batch: dict,
  drawn: dict[str, Drawn],
  centre: jax.Array | None,
  axis_name: str | None,
) -> dict[str, jax.Array]:
  """Every term of the loss whose weight is not 0, on this device.

  `labelled_text`, `rest_text`, `oct_text`: `losses.alignment.soft_clip` of a
  pool with its texts; `site`, `diversity`: `losses.sites`; `across`: contrast
  of fundus and OCT by class; `concept_mse`, `concept_contrast`, `prototype`:
  distillation from OCT by class; `pair`: contrast of a fundus image with its
  own OCT scan.
  """
  scale = _scale(params)
  found = {
    f"{name}_text": alignment.soft_clip(
      vectors.images[name],
      vectors.texts[name],
      each.target,
      each.target,
      scale,
      axis_name=axis_name,
    )
    for name, each in drawn.items()
  }
  wanted = {name for name, weight in rules.weights.items() if weight}
  if wanted & {"site", "diversity"}:
    owner = networks.sites.owner
    matrix = params["sites"]
    found["site"] = of_sites.site_loss(
      matrix,
      vectors.found,
      centre,
      owner=owner,
      classes=batch["oct"]["class"],
      axis_name=axis_name,
    )
    found["diversity"] = of_sites.diversity_loss(matrix, centre, rules.bound)
  if "across" in wanted:
    found["across"] = _across(vectors, batch, rules.temperature, axis_name)
  if wanted & {"concept_mse", "concept_contrast", "prototype"}:
    found |= _distilled(vectors, batch, rules, scale, axis_name)
  if "pair" in wanted:
    found["pair"] = alignment.soft_clip(
      vectors.images["rest"],
      vectors.images["oct"],
      batch["rest"]["pair"],
      batch["oct"]["pair"],
      scale,
      axis_name=axis_name,
    )
  return {name: term for name, term in found.items() if name in wanted}


def _across(vectors, batch, temperature, axis_name, rows=None):
  """Supervised contrast of labelled fundus images and OCT scans together."""
  rows = rows or vectors.images
  both = jnp.concatenate([rows["labelled"], rows["oct"]])
  labels = jnp.concatenate([batch[n]["class"] for n in ("labelled", "oct")])
  return losses.supcon(
    both[:, None], labels, temperature=temperature, axis_name=axis_name
  )


def _distilled(vectors, batch, rules, scale, axis_name):
  """Terms of distillation from OCT, while OCT is nearer to its classes."""
  concepts = lax.stop_gradient(vectors.classes)
  rows = {n: vectors.images[n] @ concepts.T for n in ("labelled", "oct")}
  ours, theirs = (
    far_from_classes(rows[name], batch[name]["class"], scale, axis_name)
    for name in ("labelled", "oct")
  )
  gate = lax.stop_gradient((theirs < ours).astype(jnp.float32))
  sides = (
    *(rows["labelled"], rows["oct"]),
    *(batch["labelled"]["class"], batch["oct"]["class"]),
  )
  count = len(concepts)
  unit = {"labelled": unit_length(rows["labelled"])}
  unit["oct"] = lax.stop_gradient(unit_length(rows["oct"]))
  return {
    "concept_mse": gate * distillation.prototype_mse(*sides, count, axis_name),
    "concept_contrast": gate
    * _across(vectors, batch, rules.temperature, axis_name, unit),
    "prototype": gate
    * distillation.prototype_kl(
      scale * sides[0], scale * sides[1], *sides[2:], count, axis_name
    ),
  }


def far_from_classes(
  cosines: jax.Array,
  classes: jax.Array,
  scale: jax.Array,
  axis_name: str | None = None,
) -> jax.Array:
  """Mean cross-entropy of images called by the descriptions of all classes.

  Unlike a contrast within a batch it does not grow with the number of images.

  Args:
    cosines: float[B, C], of images with descriptions.
    classes: int[B].
    scale: s.
    axis_name: mapped axis over which the images are split.
  """
  log_share = jax.nn.log_softmax(scale * cosines, axis=1)
  own = jnp.take_along_axis(log_share, classes[:, None], axis=1)
  return pmean(-jnp.mean(own), axis_name)


def _scale(params) -> jax.Array:
  """s = 1 / temperature, learned, at most 100."""
  return jnp.minimum(jnp.exp(params["log_scale"]), MOST)


def _middle(rules, state, mean, axis_name):
  """The running mean OCT token after this batch; the first batch sets it."""
  if "centre" not in state.extra:
    return None
  old = state.extra["centre"]
  if not rules.centre:
    return old
  mean = pmean(mean, axis_name)
  moved = rules.centre * old + (1 - rules.centre) * mean
  return jnp.where(state.step == 0, mean, moved)


def _averaged(networks, rules, state, vectors, batch, axis_name):
  """The state after an update, its sites moved on towards what is found."""
  mean, there = of_sites.found_mean(
    lax.stop_gradient(vectors.found),
    owner=networks.sites.owner,
    classes=batch["oct"]["class"],
    axis_name=axis_name,
  )
  old = state.params["sites"]
  moved = rules.average * old + (1 - rules.average) * mean
  sites = jnp.where(there[:, None], moved, old)
  return state.replace(params={**state.params, "sites": sites})


def _monitored(networks, state, vectors, metrics, axis_name):
  """Adds what tells a collapse of images or of sites."""
  state, spread, rank = monitors.watched(state, vectors.images, axis_name)
  for name in vectors.images:
    metrics[f"variance/{name}"] = spread[name]
    metrics[f"rank/{name}"] = rank[name]
  if vectors.shares is not None:
    matrix = state.params.get("sites", state.extra.get("sites"))
    metrics["sites/cosine"] = most_alike(matrix, state.extra["centre"])
    shares = gather(vectors.shares, axis_name)
    metrics["sites/entropy"] = entropy_of_tokens(shares)
  return state, metrics


def most_alike(sites: jax.Array, centre: jax.Array) -> jax.Array:
  """The largest cosine of two sites after centring, a scalar."""
  away = unit_length(sites - centre)
  cosines = away @ away.T - 2 * jnp.eye(len(sites))
  return jnp.max(cosines)


def entropy_of_tokens(shares: jax.Array) -> jax.Array:
  """Mean entropy over sites of what a token gives, in shares of log M.

  0: every token goes to one site; 1: to all alike.

  Args:
    shares: float[B, M, L], rows over tokens sum to 1.
  """
  given = shares / jnp.maximum(jnp.sum(shares, axis=1, keepdims=True), 1e-12)
  log = jnp.log(jnp.maximum(given, 1e-12))
  entropy = -jnp.sum(given * log, axis=1)
  return jnp.mean(entropy) / jnp.log(jnp.float32(shares.shape[1]))
