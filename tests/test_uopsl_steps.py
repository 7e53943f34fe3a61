"""The pre-training step of UOPSL against loops, and what reaches what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.collectives import pmean
from gcl_jax.engine import parallel
from gcl_jax.methods.uopsl import arms, captions, networks, pretrain, steps
from gcl_jax.methods.uopsl.config import get_config
from gcl_jax.models import sites, text
from gcl_jax.models.layers import Model

pytestmark = pytest.mark.compiles

SIDE, CELL, D, CLASSES, ROWS = 8, 4, 6, 3, 8
RATE = 0.1
CROP = dict(crop_scale=(0.8, 1.0), mean=0.5, std=0.25)
VIEWS = {"fundus": CROP, "oct": CROP}
WITH = {
  "a": ("left dots at the fovea", "dots in the middle"),
  "b": ("dots round the disc",),
  "c": ("a sheet in a ring",),
}
WITHOUT = {"a": ("dots",), "b": ("dots",), "c": ("a sheet",)}
CAPTIONS = captions.build(WITH, WITHOUT, swapped=(("left", "right"),))


def token_model() -> Model:
  """Cells of an image through a matrix, less their mean over the batch."""

  def cells(images):
    count = SIDE // CELL
    cut = images.reshape(len(images), count, CELL, count, CELL, -1)
    cut = cut.transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(len(images), count * count, -1)

  def init(key, shape):
    size = CELL * CELL * shape[-1]
    weights = jax.random.normal(key, (size, D)) / np.sqrt(size)
    return {
      "params": {"weights": weights},
      "batch_stats": {"mean": jnp.zeros(size)},
    }

  def apply(variables, images, *, train=False, axis_name=None):
    flat, stats = cells(images), variables["batch_stats"]
    if train:
      stats = {"mean": pmean(jnp.mean(flat, (0, 1)), axis_name)}
    out = (flat - stats["mean"]) @ variables["params"]["weights"]
    return jnp.tanh(out) + 0.3, stats

  return Model(init, apply, D)


def made_of(settings):
  image, kind = token_model(), settings.kind
  return networks.Networks(
    image,
    text.bag(len(CAPTIONS.vocabulary) + 1, D, 5),
    image if settings.oct else None,
    sites.sites(
      1 if kind == "map" else 4,
      D,
      kind=kind,
      compete=settings.compete,
      classes=CLASSES,
      positions=(SIDE // CELL) ** 2,
    )
    if settings.sites
    else None,
  )


def settings_of(arm=arms.OWN, **changes):
  config = get_config("tiny")
  config.pretrain.update(size=D, optimizer="sgd", schedule="constant")
  config.pretrain.update(learning_rate=RATE, weight_decay=0.0, warmup=0.0)
  found = arms.settings_of(config, arm)
  found.update(changes)
  return found


@functools.cache
def trained(arm=arms.OWN, **changes):
  settings = settings_of(arm, **changes)
  shape = (SIDE, SIDE, 3), (SIDE, SIDE, 1)
  statistics = [((0.5,) * 3, (0.25,) * 3), (0.5, 0.25)]
  found = pretrain.training(
    get_config("tiny"),
    settings,
    made_of(settings),
    CAPTIONS.table,
    CAPTIONS.of_classes(settings.places),
    shape,
    statistics,
    has_rest=True,
  )
  if arm in arms.FROM_OWN:
    given = np.random.default_rng(5).normal(size=(4, D)).astype(np.float32)
    found = found._replace(arguments=(given,))
  return found


def batch_for(training, seed=0):
  random, found = np.random.default_rng(seed), {}
  for name, shapes in training.batch.items():
    rows = len(shapes["index"].shape) and ROWS
    classes = random.permutation(np.arange(rows) % CLASSES).astype(np.int32)
    names = np.array(CAPTIONS.classes)[classes]
    places = name != "rest"
    shape = shapes["image"].shape[1:]
    found[name] = {
      "image": random.integers(0, 255, (rows, *shape)).astype(np.uint8),
      "caption": CAPTIONS.of_images(names, np.full(rows, ""), places),
      "class": classes if places else np.full(rows, -1, np.int32),
      "index": np.arange(rows, dtype=np.int32) + 3,
    }
    if "pair" in shapes:
      found[name]["pair"] = random.permutation(rows).astype(np.int32)
  return found


def begun(training, key=0):
  """A first state in which no parameter is 0."""
  state = training.init(jax.random.key(key), *training.arguments)
  random = np.random.default_rng(7)

  def some(leaf):
    if jnp.any(leaf != 0) or not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    return jnp.asarray(random.normal(size=leaf.shape) * 0.3, leaf.dtype)

  return state.replace(params=jax.tree.map(some, state.params))


def stepped(arm=arms.OWN, batch=None, **changes):
  training = trained(arm, **changes)
  state = begun(training)
  batch = batch_for(training) if batch is None else batch
  after, metrics = jax.jit(training.step)(state, batch)
  return state, after, metrics


def moved(before, after):
  """Names of parameters, of which some number changed."""
  pairs = jax.tree_util.tree_leaves_with_path(before.params)
  others = jax.tree.leaves(after.params)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for (path, old), new in zip(pairs, others, strict=True)
    if np.abs(np.asarray(old) - np.asarray(new)).max() > 1e-9
  }


# The others differ from these by a flag or a weight.
KINDS = (
  *(arms.OWN, "text", "fundus_sites", "no_sites", "random", "classes", "map"),
  *("tokens", "average", "across", "concepts", "prototypes", "paired"),
)


@pytest.mark.parametrize("arm", KINDS)
def test_every_arm_takes_a_step_that_moves_what_it_has(arm):
  before, after, metrics = stepped(arm)
  assert np.isfinite(float(metrics["loss"]))
  assert moved(before, after) == names_of(before)
  weights = settings_of(arm)
  for name, value in metrics.items():
    if name in arms.TERMS:
      assert weights[name] > 0 and np.isfinite(float(value)), name


def names_of(state):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
  }


# Term -> parameters that it must reach, and those that it must not.
REACHES = {
  "labelled_text": (
    {"fundus", "text", "fusion", "log_scale"},
    {"sites", "oct"},
  ),
  "rest_text": ({"fundus", "text", "fusion", "log_scale"}, {"sites", "oct"}),
  "oct_text": (
    {"oct", "text", "sites", "gather", "read", "log_scale"},
    {"fundus", "fusion"},
  ),
  "site": ({"sites"}, {"fundus", "fusion", "oct", "gather", "text"}),
  "diversity": ({"sites"}, {"fundus", "fusion", "oct", "gather", "text"}),
  "across": ({"fundus", "fusion", "oct"}, {"text"}),
  "concept_mse": ({"fundus", "fusion"}, {"oct", "text", "sites"}),
  "concept_contrast": ({"fundus", "fusion"}, {"oct", "text", "sites"}),
  "prototype": ({"fundus", "fusion", "log_scale"}, {"oct", "text", "sites"}),
  "pair": ({"fundus", "fusion", "oct"}, {"text"}),
}


@pytest.mark.parametrize("term", REACHES)
def test_a_term_has_a_gradient_on_what_it_names_and_on_nothing_else(term):
  changes = dict.fromkeys(arms.TERMS, 0.0) | {term: 1.0}
  if term == "pair":
    changes["oct_draw"] = "pair"
  training = trained(**changes)
  state, batch = begun(training), batch_for(training)
  if term in ("concept_mse", "concept_contrast", "prototype"):
    batch = nearer_oct(batch)
  after, metrics = jax.jit(training.step)(state, batch)
  assert float(metrics[term]) != 0
  found = {name.split("/")[0] for name in moved(state, after)}
  wanted, unwanted = REACHES[term]
  assert wanted <= found and not unwanted & found


def nearer_oct(batch):
  """OCT of one class, which its text tells from nothing else."""
  batch["oct"]["class"][:] = 0
  batch["oct"]["caption"][:] = CAPTIONS.of_classes(True)[0]
  batch["labelled"]["class"][:] = np.arange(ROWS) % CLASSES
  return batch


def test_photographs_move_sites_where_they_may():
  weights = dict.fromkeys(arms.TERMS, 0.0) | {"labelled_text": 1.0}
  before, after, _ = stepped(fundus_updates=True, **weights)
  assert "sites" in moved(before, after)


def test_the_order_of_oct_changes_no_gradient():
  training = trained()
  state, batch = begun(training), batch_for(training)
  order = np.random.default_rng(1).permutation(ROWS)
  other = batch | {"oct": {k: v[order] for k, v in batch["oct"].items()}}
  found = [jax.jit(training.step)(state, b)[0].params for b in (batch, other)]
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_first_batch_sets_the_centre_and_later_ones_move_it():
  training = trained()
  state, batch = begun(training), batch_for(training)
  step = jax.jit(training.step)
  first, _ = step(state, batch)
  second, _ = step(first, batch_for(training, 1))
  means = np.array(second.extra["centre"]) - 0.99 * np.array(
    first.extra["centre"]
  )
  assert np.abs(first.extra["centre"]).max() > 0.05
  assert np.abs(means).max() < 0.02


def test_averaged_sites_follow_what_is_found_there():
  weights = dict.fromkeys(arms.TERMS, 0.0) | {"oct_text": 1.0}
  before, after, _ = stepped("average", **weights)
  training = trained("average", **weights)
  batch = batch_for(training)
  settings = settings_of("average", **weights)
  made = made_of(settings)
  drawn = steps.draw(
    before,
    2,
    "oct",
    batch["oct"],
    CAPTIONS.table,
    steps.Rules({}, None),
    {k: statistics_of(k) for k in ("fundus", "oct")},
  )
  tokens, _ = made.oct.apply(
    {"params": before.params["oct"], "batch_stats": {"mean": None}},
    drawn.images,
    train=True,
  )
  own = {"sites": before.params["sites"], "oct": before.params["gather"]}
  mean = np.mean(np.array(made.sites.gather(own, tokens)[0]), 0)
  wanted = 0.99 * np.array(before.params["sites"]) + 0.01 * mean
  np.testing.assert_allclose(after.params["sites"], wanted, atol=1e-5)


def statistics_of(kind):
  settings = settings_of()
  mean, std = (0.5, 0.25) if kind == "oct" else ((0.5,) * 3, (0.25,) * 3)
  views = pretrain.views_of(settings, mean, std)
  return {k: v for k, v in views.items() if k != "flip"}


def test_a_mirrored_image_gets_the_text_of_mirrored_images():
  training = trained()
  state, batch = begun(training), batch_for(training)
  rules = [steps.Rules({}, None, flip=p) for p in (0.0, 1.0)]
  pool = batch["labelled"]
  view = {"fundus": dict(statistics_of("fundus"), crop_scale=(1.0, 1.0))}
  view["fundus"] |= dict(brightness=0.0, contrast=0.0, crop_ratio=(1.0, 1.0))
  kept, turned = (
    steps.draw(state, 0, "labelled", pool, CAPTIONS.table, r, view)
    for r in rules
  )
  np.testing.assert_allclose(
    kept.images, np.array(turned.images)[:, :, ::-1], atol=1e-5
  )
  for a, b in zip(kept.caption, turned.caption, strict=True):
    before, after = (CAPTIONS.texts[int(k)] for k in (a, b))
    assert after == captions.mirrored(before, [("left", "right")])
  np.testing.assert_array_equal(kept.target, turned.target)
  some = np.array(kept.caption) != np.array(turned.caption)
  assert some.any() and not some.all()


def test_draws_of_texts_depend_on_the_image_and_stay_within_its_caption():
  training = trained()
  state, batch = begun(training), batch_for(training)
  pool = {k: np.concatenate([v] * 8) for k, v in batch["labelled"].items()}
  pool["index"] = np.arange(len(pool["index"]), dtype=np.int32)
  view = {"fundus": statistics_of("fundus")}
  drawn = steps.draw(
    state, 0, "labelled", pool, CAPTIONS.table, steps.Rules({}, None), view
  )
  counts = CAPTIONS.table.there.sum(1)[pool["caption"]]
  assert (np.array(drawn.text) < counts).all()
  assert set(np.array(drawn.text)[counts == 2].tolist()) == {0, 1}


@pytest.mark.parametrize(
  "arm", [arms.OWN, "concepts", "prototypes", "paired", "average", "classes"]
)
@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_devices_take_the_step_of_one(arm, mode):
  training = trained(arm)
  state, batch = begun(training), batch_for(training)
  if arm in ("concepts", "prototypes"):
    batch = nearer_oct(batch)
  expected, metrics = jax.jit(training.step)(state, batch)
  for name, value in metrics.items():
    assert float(value) != 0 or name not in arms.TERMS, name
  mesh = parallel.make_mesh(jax.devices()[:4])
  first = parallel.init_replicated(lambda key: state, mesh, jax.random.key(0))
  compiled = parallel.compile_step(training.step, mesh, mode)
  found, others = compiled(first, parallel.put_batch(batch, mesh, mode))
  for a, b in zip(
    *map(jax.tree.leaves, (expected.params, found.params)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=2e-5)
  for name, value in metrics.items():
    np.testing.assert_allclose(
      np.asarray(others[name]), value, rtol=1e-3, atol=2e-5, err_msg=name
    )


@pytest.mark.parametrize("arm", ["random", "no_sites", "text"])
def test_arms_whose_sites_oct_does_not_teach_have_none_to_average(arm):
  training = trained(arm, tie="average")
  state = jax.eval_shape(training.init, jax.random.key(0), *training.arguments)
  after, _ = jax.eval_shape(training.step, state, batch_for(training))
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_oct_teaches_while_it_is_nearer_to_its_classes_however_many_scans():
  random = np.random.default_rng(3)
  texts = np.linalg.qr(random.normal(size=(D, D)))[0][:CLASSES]
  classes = (np.arange(24) % CLASSES).astype(np.int32)

  def distilled(noise):
    """Of 8 photographs and 24 scans; noise: of each."""
    images, batch = {}, {}
    for name, rows in (("labelled", ROWS), ("oct", 24)):
      drawn = random.normal(size=(rows, D)) * noise[name]
      own = texts[classes[:rows]] + drawn
      own /= np.linalg.norm(own, axis=1, keepdims=True)
      images[name] = jnp.float32(own)
      batch[name] = {"class": classes[:rows]}
    vectors = steps.Vectors(images, {}, jnp.float32(texts))
    rules = steps.Rules({}, None)
    found = steps._distilled(vectors, batch, rules, jnp.float32(14), None)
    return {name: float(value) for name, value in found.items()}

  open_, shut = (
    distilled(dict(labelled=a, oct=b)) for a, b in ((0.1, 0.01), (0.01, 0.1))
  )
  assert all(value > 0 for value in open_.values()), open_
  assert not any(shut.values()), shut


def test_distance_from_classes_is_a_mean_cross_entropy():
  cosines = np.random.default_rng(4).normal(size=(4, CLASSES))
  classes = np.array([0, 2, 1, 2])
  odds = np.exp(3 * cosines)
  wanted = -np.mean(np.log(odds[range(4), classes] / odds.sum(1)))
  found = steps.far_from_classes(jnp.float32(cosines), classes, 3.0)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_pools_are_drawn_by_keys_of_their_own():
  training = trained()
  state, pool = begun(training), batch_for(training)["labelled"]
  views = {"fundus": statistics_of("fundus")}
  first, again, other = (
    steps.draw(
      state, k, "rest", pool, CAPTIONS.table, steps.Rules({}, None), views
    ).images
    for k in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(np.array(first) - other).mean() > 0.05


def test_scans_are_mirrored_by_a_rate_of_their_own():
  training = trained()
  state, batch = begun(training), batch_for(training)
  for of_fundus, of_oct in ((0.0, 1.0), (1.0, 0.0)):
    rules = steps.Rules({}, None, flip=of_fundus, flip_oct=of_oct)
    for k, (name, rate) in enumerate(
      (("labelled", of_fundus), ("oct", of_oct))
    ):
      kind = "oct" if name == "oct" else "fundus"
      found = steps.draw(
        state,
        k,
        name,
        batch[name],
        CAPTIONS.table,
        rules,
        {kind: statistics_of(kind)},
      )
      own = batch[name]["caption"]
      wanted = CAPTIONS.table.mirrored[own] if rate else own
      np.testing.assert_array_equal(found.caption, wanted)


def test_given_sites_are_those_of_the_arm_and_stay():
  training = trained("random")
  (given,) = training.arguments
  state = training.init(jax.random.key(0), given)
  assert "sites" not in state.params
  np.testing.assert_array_equal(state.extra["sites"], given)
  after, _ = jax.jit(training.step)(state, batch_for(training))
  np.testing.assert_array_equal(after.extra["sites"], given)


def test_descriptions_of_classes_are_means_of_the_texts_they_have():
  settings = settings_of("text", places=True)
  made, training = made_of(settings), trained("text", places=True)
  state, batch = begun(training), batch_for(training)
  rules = steps.Rules({}, CAPTIONS.of_classes(True))
  drawn = {
    "labelled": steps.draw(
      state,
      0,
      "labelled",
      batch["labelled"],
      CAPTIONS.table,
      rules,
      {"fundus": statistics_of("fundus")},
    )
  }
  vectors, _ = steps.look(
    made, CAPTIONS.table, rules, state, state.params, drawn, None
  )
  texts = made.text.apply(state.params["text"], *CAPTIONS.table.inputs())
  for k, name in enumerate(CAPTIONS.classes):
    own = np.array(texts[rules.classes[k], : len(WITH[name])]).mean(0)
    np.testing.assert_allclose(
      vectors.classes[k], own / np.linalg.norm(own), atol=1e-5
    )
  for row in range(ROWS):
    own = texts[drawn["labelled"].caption[row], drawn["labelled"].text[row]]
    np.testing.assert_allclose(vectors.texts["labelled"][row], own, atol=1e-6)
