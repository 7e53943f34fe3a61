"""The pre-training step of Pixel-global against slow definitions."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax import augment
from gcl_jax.engine import parallel
from gcl_jax.errors import DataError
from gcl_jax.methods.pixel_global import arms, branches, pretrain, steps
from gcl_jax.methods.pixel_global import networks as nets
from gcl_jax.methods.pixel_global.config import check, get_config
from gcl_jax.methods.pixel_global.networks import Seen

pytestmark = pytest.mark.compiles

B, SIDE, CELLS, D, T = 8, 8, 64, 6, 3
RATE = 0.5
OPTIMIZER = optax.sgd(RATE)
TRAINED = [arm for arm in (arms.OWN, *arms.ARMS) if "scratch" not in arm]
# All that goes over devices in a loss, in one arm that nobody would want.
MIXED = dict(global_branch="simclr", weighting="shuffled", reduce="pairs")
MIXED |= dict(gap_weight=1.5, gap_tolerance=0.1)
MIXED |= dict(global_weight=0.5, pixel_weight=3.0)


# Loops over views are long programs: without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def configured():
  config = get_config("tiny")
  config.preprocess.size = (SIDE, SIDE)
  config.unet.widths = (4, 6)
  config.pretrain.update(stride=1, batch_size=B, head_hidden=7, head_out=D)
  config.pretrain.update(passes=T, queue=24, momentum_teacher=0.6, dropout=0.3)
  config.pretrain.views.update(blur=0.0, noise=0.0)
  check(config)
  return config


def settings_of(arm=arms.OWN, **changes):
  settings = arms.settings_of(configured(), arm)
  settings.update(changes)
  return settings


def batch():
  images = np.random.default_rng(3).integers(0, 255, (B, SIDE, SIDE, 1))
  index = np.arange(B, dtype=np.int32) + 5
  return {"image": images.astype(np.uint8), "index": index}


def parts(settings):
  """Networks, step, and first state as a function of a key."""
  networks = nets.networks_of(configured(), settings)
  step = steps.pretrain_step(
    networks,
    settings,
    OPTIMIZER,
    views=pretrain.views_of(settings.views, 0.4, 0.2),
    cells=pretrain.cells_of(settings, (SIDE, SIDE)),
  )
  init = pretrain.initial(networks, settings, OPTIMIZER, (SIDE, SIDE, 1))
  return networks, step, init


def begun(settings, key=0):
  """A first state whose teacher is not the student, on the host."""
  init = parts(settings)[2]
  state = jax.device_get(jax.jit(init)(jax.random.key(key)))
  if "teacher" in state.extra:
    other = jax.device_get(jax.jit(init)(jax.random.key(key + 1)))
    state.extra["teacher"] = other.extra["teacher"]
  return state


def one_step(arm=arms.OWN, devices=1, mode="jit", **changes):
  return _one_step(arm, devices, mode, tuple(sorted(changes.items())))


@functools.cache
def _one_step(arm, devices, mode, changes):
  """States before and after a step, and its metrics."""
  settings = settings_of(arm, **dict(changes))
  before = begun(settings)
  mesh = parallel.make_mesh(jax.devices()[:devices])
  step = parallel.compile_step(parts(settings)[1], mesh, mode)
  after, metrics = step(
    parallel.replicate(before, mesh), parallel.put_batch(batch(), mesh, mode)
  )
  return before, jax.device_get(after), jax.device_get(metrics)


def gradient_of(before, after):
  return jax.tree.map(lambda a, b: (a - b) / RATE, before.params, after.params)


def close(one, other, tolerance=2e-4):
  scale = max(np.abs(x).max() for x in jax.tree.leaves(other))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * scale),
    one,
    other,
  )


# -- slow definitions -------------------------------------------------------


def unit(x):
  """Of length 1; a constant 0 for a cell whose hidden units are all off."""
  square = (x**2).sum(-1, keepdims=True)
  some = square > 0
  return jnp.where(some, x / jnp.sqrt(jnp.where(some, square, 1)), 0)


def fractional(grid, place):
  """Index of a place in a grid, from three of its corners."""
  basis = np.stack(
    [(grid[-1, 0] - grid[0, 0]) / 7, (grid[0, -1] - grid[0, 0]) / 7], axis=1
  )
  return np.linalg.solve(basis, place - grid[0, 0])


def dense_pairs(first, second, distance=0.7, overlap_only=True):
  """bool[L, L] of two views, cell by cell; which cells lie in the other."""
  squares = [
    ((g[1, 0] - g[0, 0]) ** 2).sum() + ((g[0, 1] - g[0, 0]) ** 2).sum()
    for g in (first, second)
  ]
  limit = distance * np.sqrt(max(squares))
  a, b = first.reshape(-1, 2), second.reshape(-1, 2)
  inside = [
    [(-0.5 <= fractional(g, x)).all() and (fractional(g, x) <= 7.5).all()]
    for g, places in ((second, a), (first, b))
    for x in places
  ]
  mine, other = np.reshape(inside, (2, -1))
  near = np.linalg.norm(a[:, None] - b[None], axis=-1) < limit
  if overlap_only:
    near &= mine[:, None] & other[None]
  return near, mine


def view_keys(keys, purpose):
  """Keys of the views, in the order of their rows."""
  split = [
    jax.random.split(jax.random.fold_in(keys[b], purpose)) for b in range(B)
  ]
  return [both[v] for both in split for v in range(2)]


def slow_passes(params, cells, key, rate, passes):
  """S of one view, float[T, L, D], pass by pass."""
  layers = params["stabilizer"]["params"]
  own = cells.reshape(-1, D)
  share = jnp.maximum(unit(own) @ unit(own).T, 0) ** 2
  values = own @ layers["value"]["kernel"] + layers["value"]["bias"]
  context = share @ values / share.sum(axis=1, keepdims=True)
  both = jnp.concatenate([own, context], axis=1)
  hidden = both @ layers["first"]["kernel"] + layers["first"]["bias"]
  kept = jax.random.bernoulli(key, 1 - rate, (passes, hidden.shape[1]))
  out = []
  for t in range(passes):
    dropped = jnp.maximum(hidden, 0) * kept[t] / (1 - rate)
    out.append(dropped @ layers["second_kernel"] + layers["second_bias"])
  return jnp.stack(out)


def slow_pixels(settings, params, cells, targets, pairs, keys, mean=None):
  """Loss of matched cells, gap penalty and facts, view by view.

  `cells`, `targets`: [2 B, h, w, D]; `pairs`: bool[2 B, L, L] and bool[2 B, L].
  """
  drop, shuffle = view_keys(keys, 2), view_keys(keys, 3)
  count, rate = settings.passes, settings.dropout
  ys, ss, means = [], [], []
  for v, own in enumerate(cells):
    if "stabilizer" in params:
      z = slow_passes(params, own, drop[v], rate, count)
    else:
      z = own.reshape(1, -1, D)
    m = unit(z).mean(axis=0)
    ys.append(unit(m))
    scale = count / (count - 1) if len(z) > 1 else 0.0
    # As 1 - |m|^2, and exact where passes are almost equal.
    spread = ((unit(z) - m) ** 2).sum(-1).mean(0) * scale
    ss.append(jax.lax.stop_gradient(spread))
    means.append(z.mean(axis=0))
  now = jnp.mean(jnp.stack(ss))
  mean = now if mean is None else 0.99 * mean + 0.01 * now
  tops, bottoms, spreads = [], [], []
  for v, (y, s) in enumerate(zip(ys, ss, strict=True)):
    w = jnp.exp(-s / mean)
    if settings.weighting == "focus":
      w = s
    if settings.weighting in ("", "variance"):
      w = jnp.ones_like(s)
    if settings.weighting == "border":
      row, column = np.indices((8, 8)) + 0.5
      w = np.minimum(np.minimum(row, 8 - row), np.minimum(column, 8 - column))
      w = jnp.ravel(w)
    w = w / w.mean()
    if settings.weighting == "shuffled":
      w = jax.random.permutation(shuffle[v], w)
    spreads.append(w.std())
    t = targets[v + 1 - 2 * (v % 2)].reshape(-1, D)
    near, inside = pairs[0][v], pairs[1][v]
    n = near.sum(axis=1)
    d = jnp.where(near, 2 - 2 * y @ t.T, 0).sum(axis=1) / jnp.maximum(n, 1)
    if settings.stabilizer == "hinge":
      d = jnp.maximum(d - settings.gap_tolerance * (1 - inside.mean()), 0)
    if settings.weighting == "variance":
      read = params["variance"]["params"]
      b = jnp.log(jnp.maximum(s, 1e-6)) * read["kernel"][0, 0] + read["bias"][0]
      d = jnp.exp(-b) * d + b
    tops.append((w * n * d).sum())
    bottoms.append((w * n).sum())
  tops, bottoms = jnp.stack(tops), jnp.stack(bottoms)
  loss = jnp.mean(jnp.where(bottoms > 0, tops / jnp.maximum(bottoms, 1e-9), 0))
  if settings.reduce == "pairs":
    loss = tops.sum() / bottoms.sum()
  own = cells.reshape(len(cells), -1, D)
  square = ((jnp.stack(means) - own) ** 2).sum(-1)
  length = jnp.sqrt(jnp.where(square > 0, square, 1e-20))
  penalty = (jnp.maximum(length - settings.gap_tolerance, 0) ** 2).mean()
  facts = {
    "uncertainty": now,
    "weight_spread": jnp.mean(jnp.stack(spreads)),
    "gap": length.mean(),
    "pairs": pairs[0].sum(-1).mean(),
    "unmatched": (pairs[0].sum((1, 2)) == 0).mean(),
  }
  return loss, penalty, mean, facts


def all_pairs(places, overlap_only=True):
  """`dense_pairs` of the views of all images, [2 B, ...]."""
  found = [
    dense_pairs(image[v], image[1 - v], overlap_only=overlap_only)
    for image in np.float64(places)
    for v in range(2)
  ]
  return tuple(np.stack(each) for each in zip(*found, strict=True))


# -- terms on given vectors -------------------------------------------------


@functools.cache
def given():
  """Vectors of student and teacher, places with little overlap, and keys."""
  random = np.random.default_rng(0)
  student, teacher = unit(random.normal(size=(2, 2 * B, 8, 8, D)))
  keys = jax.random.split(jax.random.key(4), B)
  _, places = jax.jit(
    functools.partial(
      augment.two_turned_crops,
      crop_scale=(0.3, 0.5),
      rotation=20.0,
      cells=(8, 8),
    )
  )(keys, batch()["image"])
  places = np.array(places)
  places[2, 1] += 50  # an image whose views do not meet
  return np.float32(student), np.float32(teacher), places, keys


def term(settings, params, mean=0.0):
  """`consistency_term` on what is given."""
  networks = nets.networks_of(configured(), settings)
  student, teacher, places, keys = given()

  @jax.jit
  def run(params, cells, teacher, mean):
    def seen(cells):
      return Seen(None, None, cells, None)

    return branches.consistency_term(
      *(networks, settings, params, seen(cells), seen(teacher)),
      *(places, keys, mean, None),
    )

  return run(params, student, teacher, jnp.float32(mean))


@functools.cache
def first_params(arm, **changes):
  """Random parameters of the pixel branch beside the networks' own."""
  params = begun(settings_of(arm)).params
  random = np.random.default_rng(1)
  return {
    name: jax.tree.map(
      lambda x: np.float32(x + 0.3 * random.normal(size=x.shape)), params[name]
    )
    for name in ("stabilizer", "variance")
    if name in params
  }


@pytest.mark.parametrize(
  "arm",
  [
    *("border", "shuffled", "variance", "focus", "hinge", "pairs"),
    *("no_stabilizer", "no_overlap_test"),
  ],
)
def test_terms_equal_a_loop_over_views(arm):
  settings = settings_of(arm, gap_tolerance=0.1)
  params = first_params(arm)
  mean = 0.5 if arm == "focus" else 0.0
  loss, penalty, kept, facts = term(settings, params, mean)
  student, teacher, places, keys = given()
  pairs = all_pairs(places, settings.overlap_only)
  expected = quick_jit(
    lambda params, student, teacher: slow_pixels(
      settings, params, student, teacher, pairs, keys, mean or None
    )
  )(params, student, teacher)
  np.testing.assert_allclose(loss, expected[0], rtol=1e-4)
  np.testing.assert_allclose(penalty, expected[1], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(kept, expected[2], rtol=1e-3, atol=1e-7)
  for name, value in expected[3].items():
    np.testing.assert_allclose(
      facts[name], value, rtol=1e-3, atol=1e-6, err_msg=name
    )
  assert facts["unmatched"] == pytest.approx(1 / B)


def test_pixpro_moves_cells_by_propagation_alone():
  settings = settings_of("pixpro")
  params = first_params("pixpro")
  loss, _, _, facts = term(settings, params)
  student, teacher, places, _ = given()
  near, _ = all_pairs(places, overlap_only=False)
  expected = []
  layer = params["stabilizer"]["params"]
  for v in range(2 * B):
    own = np.float64(student[v]).reshape(-1, D)
    values = own @ layer["kernel"] + layer["bias"]
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    y = np.maximum(own @ own.T, 0) ** 2 @ values
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    d = 2 - 2 * y @ teacher[v ^ 1].reshape(-1, D).T
    expected.append(d[near[v]].mean() if near[v].any() else 0)
  np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
  np.testing.assert_allclose(facts["pairs"], near.sum(-1).mean(), rtol=1e-5)


def test_without_dropout_passes_and_weights_change_nothing():
  params = first_params(arms.OWN)
  found = [
    term(settings_of(dropout=0.0, passes=passes, weighting=weighting), params)
    for passes, weighting in ((1, ""), (8, ""), (8, "exp"))
  ]
  for loss, _, kept, facts in found:
    assert loss == found[0][0]
    assert kept == 0 == facts["uncertainty"] and facts["weight_spread"] == 0


def identity(arm):
  """Parameters with which the stabilizer of an arm moves nothing."""
  params = jax.tree.map(np.zeros_like, first_params(arm))
  if arm == arms.OWN:  # relu(x) - relu(-x) = x
    layers, eye = params["stabilizer"]["params"], np.eye(D, dtype=np.float32)
    layers["first"]["kernel"][:D] = np.concatenate([eye, -eye], axis=1)
    layers["second_kernel"][:] = np.concatenate([eye, -eye])
  return params


@pytest.mark.parametrize("arm", [arms.OWN, "residual"])
def test_equal_views_of_an_equal_teacher_lose_nothing(arm):
  # Of units of both signs a dropped one would move the cell.
  settings = settings_of(arm, **(dict(dropout=0.0) if arm == arms.OWN else {}))
  networks = nets.networks_of(configured(), settings)
  student, _, _, keys = given()
  cells = np.repeat(student[::2], 2, axis=0)
  places = augment.cell_centres((SIDE, SIDE), (8, 8))
  places = np.broadcast_to(places, (B, 2, 8, 8, 2))
  seen = Seen(None, None, cells, None)
  params = identity(arm)
  loss, penalty, _, facts = jax.jit(
    lambda params: branches.consistency_term(
      *(networks, settings, params, seen, seen),
      *(places, keys, jnp.float32(0), None),
    )
  )(params)
  assert abs(loss) < 1e-5 and penalty == 0
  assert facts["pairs"] == 1 and facts["uncertainty"] == 0
  assert facts["gap"] < 1e-6


def test_weights_are_shuffled_within_their_view_by_its_key():
  settings = settings_of("shuffled")
  _, _, places, keys = given()
  s = jnp.asarray(np.random.default_rng(0).random((2 * B, CELLS)))
  weigh = functools.partial(branches.weighed, settings)
  found = weigh(s, jnp.float32(0.3), places, keys)
  settings.weighting = "exp"
  plain = weigh(s, jnp.float32(0.3), places, keys)
  np.testing.assert_allclose(np.sort(found), np.sort(plain), rtol=1e-5)
  assert np.mean(np.isclose(found, plain), axis=1).max() < 0.2
  order = [np.argsort(np.argsort(each)) for each in np.asarray(found)]
  assert len({tuple(np.asarray(each)) for each in order}) == 2 * B


# -- the whole step ---------------------------------------------------------


@functools.cache
def seen_by_hand(arm=arms.OWN):
  """Loss and gradients of the own arm, the teacher a constant."""
  settings = settings_of(arm)
  networks, _, _ = parts(settings)
  state = begun(settings)
  keys = augment.sample_keys(state.key, 0, batch()["index"])
  views = pretrain.views_of(settings.views, 0.4, 0.2)
  images, places = jax.jit(
    functools.partial(augment.two_turned_crops, cells=(8, 8), **views)
  )(keys, batch()["image"])
  images = images.reshape(2 * B, SIDE, SIDE, 1)
  pairs = all_pairs(places)
  teacher = jax.tree.map(
    lambda slow, quick: 0.6 * slow + 0.4 * quick,
    state.extra["teacher"]["params"],
    {x: state.params[x] for x in ("unet", "pixel_head", "global_head")},
  )

  def look(params, stats):
    variables = {"params": params["unet"], "batch_stats": stats["unet"]}
    (bottom, skips), _ = networks.unet.encode(variables, images, train=True)
    maps, _ = networks.unet.decode(
      variables, (bottom, skips), levels_up=1, train=True
    )
    cells, whole = (
      head.apply(
        {"params": params[name], "batch_stats": stats[name]}, x, train=True
      )[0]
      for head, name, x in (
        (networks.pixel_head, "pixel_head", maps),
        (networks.global_head, "global_head", bottom.mean((1, 2))),
      )
    )
    return cells, whole

  def loss(params):
    cells, whole = look(params, state.extra["batch_stats"])
    targets, aims = look(teacher, state.extra["teacher"]["batch_stats"])
    variables = {
      "params": params["predictor"],
      "batch_stats": state.extra["batch_stats"]["predictor"],
    }
    z = unit(networks.predictor.apply(variables, whole, train=True)[0])
    aims = unit(aims).reshape(B, 2, D)[:, ::-1].reshape(2 * B, D)
    whole_loss = 2 - 2 * (z * aims).sum(-1).mean()
    pixel, _, mean, facts = slow_pixels(
      settings, params, cells, targets, pairs, keys
    )
    named = {"loss/global": whole_loss, "loss/pixel": pixel}
    return whole_loss + pixel, {"kept": mean, **named, **facts}

  return quick_jit(jax.value_and_grad(loss, has_aux=True))(state.params)


def test_the_own_step_equals_its_definition():
  (value, named), gradients = seen_by_hand()
  before, after, metrics = one_step()
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
  np.testing.assert_allclose(
    after.extra["mean_uncertainty"], named.pop("kept"), rtol=1e-3
  )
  for name, expected in named.items():
    np.testing.assert_allclose(
      metrics[name], expected, rtol=1e-3, atol=1e-6, err_msg=name
    )
  close(gradient_of(before, after), gradients, 1e-3)


def test_the_teacher_follows_before_it_teaches_and_has_no_more_than_it_needs():
  before, after, _ = one_step()
  teacher = after.extra["teacher"]
  names = {"unet", "pixel_head", "global_head"}
  assert set(teacher["params"]) == set(teacher["batch_stats"]) == names
  assert {"predictor", "stabilizer"} < set(after.params)
  expected = jax.tree.map(
    lambda slow, quick: 0.6 * slow + 0.4 * quick,
    before.extra["teacher"]["params"],
    {name: before.params[name] for name in names},
  )
  close(teacher["params"], expected, 1e-5)
  own, student = (
    jax.tree.leaves(x["batch_stats"]["unet"]) for x in (teacher, after.extra)
  )
  old = jax.tree.leaves(before.extra["teacher"]["batch_stats"]["unet"])
  for a, b, c in zip(own, student, old, strict=True):
    assert np.abs(a - b).max() > 1e-6 and np.abs(a - c).max() > 1e-6


def test_momentum_of_the_teacher_ends_at_one():
  settings = settings_of(momentum_teacher=0.99, steps=100)
  found = [float(steps.momentum_at(settings, k)) for k in (0, 50, 100, 120)]
  np.testing.assert_allclose(found, [0.99, 0.995, 1, 1], atol=1e-6)


def test_every_parameter_is_trained():
  before, after, _ = one_step()
  still = [
    jax.tree_util.keystr(path)
    for path, x in jax.tree_util.tree_leaves_with_path(
      gradient_of(before, after)
    )
    if not np.abs(x).max() > 1e-7
  ]
  assert not still


@pytest.mark.parametrize("name", ["gap_penalty", "variance", "pixpro"])
def test_named_losses_have_gradients_on_what_they_name(name):
  """Penalty: the stabilizer; learned variance: its read-out; PixPro: V."""
  settings = settings_of(name, gap_tolerance=0.01)
  networks = nets.networks_of(configured(), settings)
  student, teacher, places, keys = given()
  params = begun(settings).params
  part = "variance" if name == "variance" else "stabilizer"

  @jax.jit
  @jax.grad
  def gradient(own):
    loss, penalty, _, _ = branches.consistency_term(
      *(networks, settings, {**params, part: own}),
      *(Seen(None, None, x, None) for x in (student, teacher)),
      *(places, keys, jnp.float32(0), None),
    )
    return penalty if name == "gap_penalty" else loss

  for found in jax.tree.leaves(gradient(params[part])):
    assert np.abs(found).max() > 1e-7


@pytest.mark.parametrize(
  ("arm", "changes", "mode", "devices"),
  [
    (arms.OWN, {}, "shard_map", 8),
    (arms.OWN, {}, "pmap", 8),
    (arms.OWN, MIXED, "shard_map", 8),
    ("densecl", {}, "shard_map", 4),
  ],
)
def test_devices_change_nothing(arm, changes, mode, devices):
  before, one, said = one_step(arm, **changes)
  _, many, heard = one_step(arm, devices, mode, **changes)
  close(gradient_of(before, many), gradient_of(before, one), 2e-3)
  close(many.extra, one.extra, 1e-4)
  for name in said:
    np.testing.assert_allclose(heard[name], said[name], rtol=2e-3, atol=1e-5)


def test_every_term_counts_with_its_weight():
  _, _, metrics = one_step(**MIXED)
  named = {"global": 0.5, "pixel": 3.0, "gap": 1.5}
  expected = sum(w * metrics[f"loss/{name}"] for name, w in named.items())
  assert metrics["loss/gap"] > 1e-3
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_the_queue_of_densecl_takes_the_teacher_s_views():
  before, after, metrics = one_step("densecl")
  old, new = before.extra["queue"], after.extra["queue"]
  assert old.shape == (24, D)
  np.testing.assert_array_equal(new[2 * B :], old[: 24 - 2 * B])
  np.testing.assert_allclose(np.linalg.norm(new, axis=1), 1, rtol=1e-5)
  assert set(after.extra["teacher"]["params"]) == {"unet", "pixel_head"}
  total = metrics["loss/global"] + metrics["loss/pixel"]
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("arm", TRAINED)
def test_every_arm_has_a_step_that_keeps_the_shapes_of_its_state(arm):
  config = configured()
  settings = arms.settings_of(config, arm)
  training = pretrain.training(config, settings, (SIDE, SIDE, 1), (0.4, 0.2))
  state = jax.eval_shape(training.init, jax.random.key(0))
  step = functools.partial(training.step, axis_name=None)
  after, metrics = jax.eval_shape(step, state, training.batch)
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after
  )
  assert all(jax.tree.leaves(same))
  branch = {"global": settings.global_branch, "pixel": settings.pixel_branch}
  wanted = {f"loss/{name}" for name, kind in branch.items() if kind} | {"loss"}
  assert {x for x in metrics if x.startswith("loss")} - {"loss/gap"} == wanted
  assert ("teacher" in state.extra) == (arm != "simclr")


def test_all_arms_begin_with_the_same_network():
  first = {}
  for arm in (arms.OWN, "byol", "densecl"):
    unet = begun(settings_of(arm)).params["unet"]
    first[arm] = unet["encoder"]
    assert ("decoder" in unet) == (arm != "byol")
  for arm in ("byol", "densecl"):
    jax.tree.map(np.testing.assert_array_equal, first[arm], first[arms.OWN])


# -- what a stage leaves ----------------------------------------------------


def test_what_is_left_goes_into_a_fresh_network():
  for arm in (arms.OWN, "byol"):
    networks, _, _ = parts(settings_of(arm))
    left = pretrain.artifact_of(begun(settings_of(arm)), arm == arms.OWN)
    fresh = networks.unet.init(jax.random.key(9), (SIDE, SIDE, 1))
    moved = networks.unet.transfer(fresh, left["encoder"])
    pairs = [
      (moved[kind]["encoder"], left["encoder"][kind]["encoder"])
      for kind in ("params", "batch_stats")
    ]
    if arm == arms.OWN:
      decoder = left["encoder"]["params"]["decoder"]
      assert set(decoder) == {"up1", "level1"}
      pairs.append((moved["params"]["decoder"]["level1"], decoder["level1"]))
    for one, other in pairs:
      jax.tree.map(np.testing.assert_array_equal, one, other)


def test_forward_sees_what_the_terms_are_made_of():
  settings = settings_of()
  networks, _, _ = parts(settings)
  _, after, _ = one_step()
  left = pretrain.artifact_of(after, True)
  _, _, places, keys = given()
  images = np.random.default_rng(2).normal(size=(B, 2, SIDE, SIDE, 1))
  images = np.float32(images)
  run = jax.jit(functools.partial(pretrain.forward, networks, settings))
  found = jax.device_get(run(left, images, places, keys))
  near, _ = all_pairs(places)
  mean = float(left["branch"]["mean_uncertainty"])
  for v, view in enumerate(found):
    drop = view_keys(keys, 2)[v::2]
    for b in (0, 5):
      cells = view.projected[b]
      np.testing.assert_allclose(np.linalg.norm(cells, axis=1), 1, rtol=1e-4)
      z = slow_passes(after.params, cells, drop[b], 0.3, T)
      m = unit(z).mean(axis=0)
      np.testing.assert_allclose(view.moved[b], unit(m), atol=1e-4)
      s = (1 - (m**2).sum(-1)) * T / (T - 1)
      np.testing.assert_allclose(view.uncertainty[b], s, atol=1e-4)
      w = np.exp(-np.float64(view.uncertainty[b]) / mean)
      np.testing.assert_allclose(view.weights[b], w / w.mean(), rtol=1e-3)
      listed = np.zeros((CELLS, CELLS), bool)
      for u, k in np.argwhere(view.found[b]):
        listed[u, view.index[b, u, k]] = True
      np.testing.assert_array_equal(listed, near[2 * b + v])
  # Targets are the teacher's, of the other view: with the student in its place
  # and nothing moved, they are the other view's own cells.
  same = {**left["branch"], "teacher": _as_teacher(left)}
  one, two = run({**left, "branch": same}, images, places, keys)
  np.testing.assert_allclose(one.targets, two.projected, atol=1e-5)
  np.testing.assert_allclose(two.targets, one.projected, atol=1e-5)
  assert np.abs(found[0].targets - found[1].projected).max() > 1e-2
  # An image does not depend on those beside it.
  images[1:] = 0
  alone = run(left, images, places, keys)
  np.testing.assert_allclose(
    alone[0].uncertainty[0], found[0].uncertainty[0], atol=1e-6
  )


def _as_teacher(left):
  return {
    kind: {
      "unet": left["encoder"][kind],
      "pixel_head": left["branch"][kind]["pixel_head"],
    }
    for kind in ("params", "batch_stats")
  }


def test_the_length_of_a_projection_does_not_matter():
  networks, _, _ = parts(settings_of())
  params = begun(settings_of()).params["pixel_head"]
  stats = begun(settings_of()).extra["batch_stats"]["pixel_head"]
  maps = np.random.default_rng(0).normal(size=(2, 8, 8, 4))

  def cells(scale):
    last = jax.tree.map(lambda x: scale * x, params["Dense_1"])
    own = {"params": {**params, "Dense_1": last}, "batch_stats": stats}
    return networks.pixel_head.apply(own, maps, train=True)[0]

  np.testing.assert_allclose(cells(7.0), cells(1.0), atol=1e-5)


def test_a_pool_smaller_than_a_batch_is_refused(monkeypatch):
  images = types.SimpleNamespace(pool=lambda protocol: np.arange(20) < B - 1)
  monkeypatch.setattr(pretrain, "Prepared", lambda context: images)
  monkeypatch.setattr(pretrain.label_draws, "check_labels", lambda *_: None)
  context = types.SimpleNamespace(config=configured())
  with pytest.raises(
    DataError, match="has 7 slices, fewer than one batch of 8"
  ):
    pretrain.run(context, arms.OWN)


def test_cells_of_views_of_another_size():
  settings = settings_of()
  assert pretrain.cells_of(settings, (32, 48, 1)) == (32, 48)
  settings.update(stride=4)
  assert pretrain.cells_of(settings, (32, 48, 1)) == (8, 12)
  settings.views.size = (16, 24)
  assert pretrain.cells_of(settings, (32, 48, 1)) == (4, 6)
