"""The pre-training step of every arm of Pixel-global, on 1 and 8 devices."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax import augment
from gcl_jax.engine import parallel
from gcl_jax.losses import dense_contrast
from gcl_jax.methods.pixel_global import arms, branches, pretrain, steps
from gcl_jax.methods.pixel_global.config import check, get_config
from gcl_jax.pipeline.label_draws import UNTRAINED

pytestmark = pytest.mark.compiles

BATCH, SIZE, RATE = 8, (16, 16), 0.5
OPTIMIZER = optax.sgd(RATE)
TRAINED = tuple(
  name for name in (*arms.ARMS, arms.OWN) if name not in UNTRAINED
)
# Arms of programs that differ; their mapped forms are compared.
MAPPED = (arms.OWN, "pixpro", "densecl", "simclr", "pairs", "variance")


def config_of():
  config = get_config("tiny")
  config.preprocess.size = SIZE
  config.unet.widths = (4, 4, 6)
  config.pretrain.update(head_hidden=16, head_out=5, queue=32)
  config.arms = ()
  check(config)
  return config


def batch():
  draw = np.random.default_rng(3)
  images = draw.integers(0, 255, (BATCH, *SIZE, 1)).astype(np.uint8)
  return {"image": images, "index": np.arange(BATCH, dtype=np.int32)}


def made(arm, **changes):
  """Networks, settings and Training of an arm, updated by plain descent."""
  config = config_of()
  settings = arms.settings_of(config, arm)
  settings.update(changes)
  networks = branches.networks_of(config, settings)
  step = steps.pretrain_step(
    networks,
    settings,
    OPTIMIZER,
    views=pretrain.views_of(settings.views, 0.5, 0.25),
    cells=pretrain.cells_of(settings, (*SIZE, 1)),
  )
  init = pretrain.initial(networks, settings, OPTIMIZER, (*SIZE, 1))
  return networks, settings, step, init


@functools.cache
def after(arm, devices=1, mode="jit", count=1, **changes):
  """State before and after some steps, and the metrics of the last."""
  _, _, step, init = made(arm, **dict(changes))
  mesh = parallel.make_mesh(jax.devices()[:devices])
  state = parallel.init_replicated(init, mesh, jax.random.key(0))
  before = host(state)
  compiled = parallel.compile_step(step, mesh, mode)
  for _ in range(count):
    state, metrics = compiled(state, parallel.put_batch(batch(), mesh, mode))
  return before, host(state), jax.device_get(metrics)


def host(state):
  """Parameters and extra of a state as numpy."""
  return jax.device_get((state.params, state.extra))


@pytest.mark.parametrize("arm", TRAINED)
def test_every_part_of_every_arm_learns(arm):
  """No term is dead: each part's parameters move by a finite gradient."""
  # Two steps: before the first, teacher and student are alike.
  before, later, metrics = after(arm, count=2)
  for name, old in before[0].items():
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), old, later[0][name])
    assert max(jax.tree.leaves(moved)) > 1e-7, (arm, name)
  chex.assert_tree_all_finite((later, metrics))
  networks, settings, *_ = made(arm)
  parts = networks._asdict()
  heads = ("pixel_head", "stabilizer", "variance", "global_head", "predictor")
  wanted = {"unet", *(name for name in heads if parts[name] is not None)}
  assert set(before[0]) == wanted
  if "teacher" in before[1]:
    theirs = {"unet", "pixel_head", "global_head"}
    if settings.global_branch != "byol":
      theirs -= {"global_head"}
    assert set(before[1]["teacher"]["params"]) == wanted & theirs
  for kind in ("global", "pixel"):
    has = bool(settings[f"{kind}_branch"])
    assert (f"loss/{kind}" in metrics) == has


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
@pytest.mark.parametrize("arm", MAPPED)
def test_eight_devices_equal_one(arm, mode, monkeypatch):
  if arm == "densecl":  # rounding decides between cells that are nearly alike
    fixed = lambda own, other: jnp.argmin(own[..., :1] * 0, -1)  # noqa: E731
    monkeypatch.setattr(dense_contrast, "similar_cells", fixed)
    after.cache_clear()
  if mode == "pmap" and arm not in MAPPED[:2]:
    pytest.skip("pmap runs the same function: two arms will do")
  (_, one, metrics), (_, many, mapped) = after(arm), after(arm, 8, mode)
  chex.assert_trees_all_close(many, one, rtol=2e-4, atol=2e-5)
  for name in metrics.keys() - {"weight_spread"}:  # of each device's cells
    np.testing.assert_allclose(
      mapped[name], metrics[name], rtol=1e-3, atol=1e-4, err_msg=name
    )


def test_teacher_is_the_average_updated_before_its_targets():
  """After one step from momentum m the teacher is that of the step's start."""
  (params, extra), (new, later), _ = after(arms.OWN)
  chex.assert_trees_all_close(
    later["teacher"]["params"], extra["teacher"]["params"], atol=1e-7
  )
  (_, _), (_, second), metrics = after(arms.OWN, count=2)
  settings = made(arms.OWN)[1]
  m = (
    1
    - (1 - settings.momentum_teacher)
    * (math.cos(math.pi / settings.steps) + 1)
    / 2
  )
  expected = jax.tree.map(
    lambda t, p: m * t + (1 - m) * p,
    extra["teacher"]["params"],
    {name: new[name] for name in extra["teacher"]["params"]},
  )
  chex.assert_trees_all_close(
    second["teacher"]["params"], expected, rtol=1e-5, atol=1e-6
  )

  def kinds(extra):
    return extra["batch_stats"]["unet"], extra["teacher"]["batch_stats"]["unet"]

  # Its statistics are its own: not those of the student, but at the first step.
  chex.assert_trees_all_close(*kinds(later), atol=1e-6)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(*kinds(second), atol=1e-6)


def test_momentum_ends_at_one():
  settings = made(arms.OWN)[1]
  at = [float(steps.momentum_at(settings, k)) for k in range(6)]
  assert at[0] == pytest.approx(settings.momentum_teacher)
  assert at[settings.steps] == 1.0 == at[5]
  assert sorted(at) == at


def looked_at(arm, **changes):
  """The views of one batch by the first weights of an arm."""
  networks, settings, _, init = made(arm, **changes)
  state = init(jax.random.key(0))
  tree = pretrain.artifact_of(state, True)
  tree["branch"]["mean_uncertainty"] = jnp.float32(0.05)
  data = batch()
  keys = augment.sample_keys(state.key, 0, data["index"])
  options = pretrain.views_of(settings.views, 0.5, 0.25)
  cells = pretrain.cells_of(settings, (*SIZE, 1))
  images, places = augment.two_turned_crops(
    keys, data["image"], cells=cells, **options
  )

  @jax.jit
  def look(images, places, keys):
    return pretrain.forward(networks, settings, tree, images, places, keys)

  return look(images, places, keys), settings


def test_no_dropout_is_no_uncertainty_and_equal_weights():
  views, _ = looked_at(arms.OWN, dropout=0.0)
  for view in views:
    assert float(jnp.abs(view.uncertainty).max()) == 0
    np.testing.assert_allclose(view.weights, 1)
  one = after(arms.OWN, dropout=0.0, passes=1)
  eight = after(arms.OWN, dropout=0.0, passes=8)
  np.testing.assert_allclose(one[2]["loss"], eight[2]["loss"], rtol=1e-5)


def test_weights_of_every_form():
  (view, _), _ = looked_at(arms.OWN)
  s = np.asarray(view.uncertainty, np.float64)
  assert (
    (s >= 0).all() and s.mean() > 0 and (s <= 2).all()
  )  # T / (T - 1) at most
  slow = np.exp(-s / 0.05)
  slow /= slow.mean(axis=1, keepdims=True)
  np.testing.assert_allclose(view.weights, slow, rtol=1e-4)
  shuffled = looked_at("shuffled")[0][0].weights
  np.testing.assert_allclose(np.sort(shuffled), np.sort(slow), rtol=1e-4)
  assert np.abs(np.asarray(shuffled) - slow).max() > 1e-3
  focus = looked_at("focus")[0][0].weights
  np.testing.assert_allclose(focus, s / s.mean(1, keepdims=True), rtol=1e-4)
  for arm in ("no_weighting", "variance", "pixpro"):
    np.testing.assert_allclose(looked_at(arm)[0][0].weights, 1)
  border = np.asarray(looked_at("border")[0][0].weights)[0].reshape(4, 4)
  # Of 16 cells the outer ring lies 1/8 of the side from the border, the middle
  # 3/8: on average 3/16.
  np.testing.assert_allclose(border[0], 2 / 3, rtol=1e-5)
  np.testing.assert_allclose(border[1:3, 1:3], 2, rtol=1e-5)


def test_loss_of_cells_is_the_double_loop():
  networks, settings, _, init = made(arms.OWN)
  state = init(jax.random.key(0))
  data = batch()
  keys = augment.sample_keys(state.key, 0, data["index"])
  options = pretrain.views_of(settings.views, 0.5, 0.25)
  images, places = augment.two_turned_crops(
    keys, data["image"], cells=(4, 4), **options
  )
  variables = {
    "params": state.params,
    "batch_stats": state.extra["batch_stats"],
  }
  seen, _ = branches.look(networks, variables, images.reshape(-1, *SIZE, 1))
  value, _, mean, facts = branches.consistency_term(
    *(networks, settings, state.params, seen, seen),
    *(places, keys, jnp.float32(0), None),
  )
  after = branches.moved(networks, state.params, seen.cells, keys)
  s = np.asarray(after.uncertainty, np.float64)
  assert float(mean) == pytest.approx(s.mean(), rel=1e-5)
  w = np.exp(-s / s.mean())
  y, t = (
    np.asarray(a, np.float64) for a in (after.cells, branches.flat(seen.cells))
  )
  each, pairs = [], 0
  for row in range(2 * BATCH):
    image, v = divmod(row, 2)
    index, found = augment.nearby_cells(
      places[image, v][None], places[image, 1 - v][None]
    )
    above = total = 0.0
    for u, k in np.argwhere(np.asarray(found[0])):
      target = t[row + 1 - 2 * v, int(index[0, u, k])]
      above += w[row, u] * (2 - 2 * y[row, u] @ target)
      total += w[row, u]
      pairs += 1
    each.append(above / total if total else 0.0)
  assert float(value) == pytest.approx(np.mean(each), rel=1e-4)
  assert float(facts["pairs"]) == pytest.approx(pairs / s.size)


def test_targets_are_those_of_the_other_view():
  """A cell's target is the teacher's cell in the other view, not its own."""
  (first, second), _ = looked_at("no_stabilizer")
  # Student and teacher are alike here, so that P of one view is t of the other.
  np.testing.assert_allclose(first.targets, second.projected, atol=1e-5)
  np.testing.assert_allclose(second.targets, first.projected, atol=1e-5)


def test_views_are_predicted_from_one_another():
  networks, settings, _, init = made("byol")
  state = init(jax.random.key(0))
  draw = np.random.default_rng(1)
  whole, target = draw.normal(size=(2, 6, 5)).astype(np.float32)
  student, teacher = (
    branches.Seen(None, None, None, jnp.asarray(z)) for z in (whole, target)
  )
  stats = state.extra["batch_stats"]
  value, new = branches.global_term(
    networks, settings, state.params, stats, student, teacher, None
  )
  variables = {
    "params": state.params["predictor"],
    "batch_stats": stats["predictor"],
  }
  predicted, _ = networks.predictor.apply(variables, whole, train=True)
  cosines = [
    np.dot(p, t) / np.linalg.norm(p) / np.linalg.norm(t)
    for p, t in zip(predicted, target[[1, 0, 3, 2, 5, 4]], strict=True)
  ]
  assert float(value) == pytest.approx(2 - 2 * np.mean(cosines), rel=1e-5)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(new["predictor"], stats["predictor"])


def test_hinge_tolerates_what_the_other_view_lacks():
  """The farther apart the views, the more of a difference does not count."""
  plain, hinged = after("no_stabilizer")[2], after("hinge")[2]
  assert 0 <= hinged["loss/pixel"] < plain["loss/pixel"]
  wide = after("hinge", gap_tolerance=0.0)[2]
  np.testing.assert_allclose(wide["loss/pixel"], plain["loss/pixel"], rtol=1e-5)


def test_queue_moves_by_the_views_of_all_devices():
  before, later, _ = after("densecl")
  old, new = before[1]["queue"], later[1]["queue"]
  np.testing.assert_allclose(new[2 * BATCH :], old[: -2 * BATCH], atol=1e-6)
  assert np.abs(new[: 2 * BATCH] - old[: 2 * BATCH]).max() > 1e-3
  np.testing.assert_allclose(np.linalg.norm(new, axis=1), 1, rtol=1e-5)
