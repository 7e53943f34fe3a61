"""Settings of Pixel-global reach what they are of, and terms what they read.

Values here differ from every default, so that none of them can stand in.
"""

import types

import jax
import numpy as np
import pytest

from gcl_jax import augment
from gcl_jax.methods.pixel_global import (
  arms,
  branches,
  pretrain,
  report,
  steps,
  uncertainty,
)
from gcl_jax.methods.pixel_global import networks as nets
from gcl_jax.methods.pixel_global.config import get_config
from gcl_jax.methods.pixel_global.networks import Seen
from gcl_jax.models import stabilizer

pytestmark = pytest.mark.compiles

B, SIDE, D = 3, 4, 5
RNG = np.random.default_rng(0)


def configured():
  config = get_config("tiny")
  config.pretrain.update(passes=3, dropout=0.4, gamma=3.0, context_cells=2)
  config.pretrain.update(distance=1.3, positives=5, temperature=0.5, queue=9)
  config.pretrain.update(head_out=D, momentum_teacher=0.6)
  return config


def settings_of(arm):
  return arms.settings_of(configured(), arm)


def units(*shape):
  x = RNG.normal(size=shape)
  return np.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))


def pairs_of(views):
  """The other view of every view, one by one."""
  return np.stack([views[v ^ 1] for v in range(len(views))])


@pytest.mark.parametrize(
  "arm", [arms.OWN, "deterministic", "residual", "pixpro"]
)
def test_the_stabilizer_of_an_arm_has_its_settings(arm):
  found = nets.networks_of(configured(), settings_of(arm)).stabilizer
  where = dict(gamma=3.0, context_cells=2)
  if arm == "pixpro":
    expected = stabilizer.propagation(D, **where)
  else:
    drawn = dict(passes=3, dropout=0.4)
    if arm == "deterministic":
      drawn = dict(passes=1, dropout=0.0)
    drawn["residual"] = arm == "residual"
    expected = stabilizer.stabilizer(D, 2 * D, **drawn, **where)
  variables = expected.init(jax.random.key(0), (D,))
  cells = units(B, SIDE, SIDE, D)
  keys = jax.random.split(jax.random.key(1), B)
  np.testing.assert_array_equal(
    found.apply(variables, cells, keys), expected.apply(variables, cells, keys)
  )


def test_pairs_are_as_far_and_as_many_as_the_settings_say():
  _, places = augment.two_turned_crops(
    jax.random.split(jax.random.key(0), B),
    np.zeros((B, 16, 24, 1), np.uint8),
    cells=(SIDE, SIDE),
  )
  index, found, outside = branches.matched(settings_of(arms.OWN), places)
  views = np.asarray(places).reshape(2 * B, SIDE, SIDE, 2)
  others = pairs_of(views)
  expected = augment.nearby_cells(views, others, count=5, distance=1.3)
  np.testing.assert_array_equal(index, expected[0])
  np.testing.assert_array_equal(found, expected[1])
  inside = np.mean(augment.inside(views, others), axis=1)
  np.testing.assert_allclose(outside, 1 - inside, atol=1e-6)


def test_the_simclr_term_equals_a_loop_over_views():
  """Each view against its partner and all other views."""
  whole = np.float32(RNG.normal(size=(2 * B, D)))
  seen = Seen(None, None, None, whole)
  loss, stats = branches.global_term(
    *(None, settings_of("simclr"), {}, {"kept": 1}, seen, None, None)
  )
  z = np.float64(whole) / np.linalg.norm(whole, axis=1, keepdims=True)
  each = []
  for v in range(2 * B):
    logits = [z[v] @ z[k] / 0.5 for k in range(2 * B) if k != v]
    each.append(np.log(np.sum(np.exp(logits))) - z[v] @ z[v ^ 1] / 0.5)
  assert loss == pytest.approx(np.mean(each), rel=1e-5)
  assert stats == {"kept": 1}


def test_the_densecl_term_equals_a_loop_over_cells():
  """Positives by the features of the teacher's other view, of the same cell
  there the projection; negatives from the queue alone."""
  student, teacher = (
    Seen(
      None,
      np.float32(RNG.normal(size=(2 * B, 2, 2, 7))),
      units(2 * B, 2, 2, D),
      None,
    )
    for _ in range(2)
  )
  queue = units(9, D)
  loss = branches.dense_term(settings_of("densecl"), student, teacher, queue)
  maps, cells = (
    [np.float64(x).reshape(2 * B, 4, -1) for x in (seen.maps, seen.cells)]
    for seen in (student, teacher)
  )
  each = []
  for v, u in np.ndindex(2 * B, 4):
    others = cells[0][v ^ 1]
    lengths = np.linalg.norm(others, axis=1)
    at = np.argmax(others @ maps[0][v, u] / lengths)
    y, positive = maps[1][v, u], cells[1][v ^ 1, at]
    logits = np.append(queue @ y, y @ positive) / 0.5
    each.append(np.log(np.exp(logits).sum()) - y @ positive / 0.5)
  assert loss == pytest.approx(np.mean(each), rel=1e-5)


def test_densecl_reads_maps_of_few_cells():
  assert nets.networks_of(configured(), settings_of("densecl")).grid == 2
  assert nets.networks_of(configured(), settings_of(arms.OWN)).grid is None


def test_the_queue_takes_the_mean_cell_of_the_teacher_s_views(monkeypatch):
  given = {"unet": np.float32([1.0]), "pixel_head": np.float32([2.0])}
  student = {"unet": np.float32([3.0]), "pixel_head": np.float32([0.0])}
  cells, looked = units(2 * B, 2, 2, D), []

  def look(networks, variables, images, *, train, axis_name):
    looked.append((variables, train))
    return Seen(None, None, cells, None), {"new": 1}

  monkeypatch.setattr(steps.nets, "look", look)
  queue = units(9, D)
  state = types.SimpleNamespace(
    step=0,
    params=student | {"predictor": np.float32([9.0])},
    extra={"teacher": {"params": given, "batch_stats": {"old": 1}}},
  )
  state.extra["queue"] = queue
  _, extra = steps._teach(None, settings_of("densecl"), state, None, None)
  ((variables, train),) = looked  # moved before it looks, by its own statistics
  assert train and variables["batch_stats"] == {"old": 1}
  np.testing.assert_allclose(variables["params"]["unet"], [0.6 + 0.4 * 3])
  np.testing.assert_allclose(variables["params"]["pixel_head"], [0.6 * 2])
  assert extra["teacher"] == {**variables, "batch_stats": {"new": 1}}
  means = cells.reshape(2 * B, 4, D).mean(axis=1)
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  np.testing.assert_allclose(extra["queue"][: 2 * B], means, atol=1e-6)
  np.testing.assert_array_equal(extra["queue"][2 * B :], queue[: 9 - 2 * B])


class Enough(Exception):
  """Raised once what was looked for has been seen."""


def test_every_step_draws_other_views_of_an_image(monkeypatch):
  seen = []

  def drawn(*arguments):
    seen.append(arguments)
    raise Enough

  monkeypatch.setattr(steps.augment, "sample_keys", drawn)
  step = steps.pretrain_step(
    None, settings_of(arms.OWN), None, views={}, cells=(2, 2)
  )
  state = types.SimpleNamespace(key="key", step=7)
  with pytest.raises(Enough):
    step(state, {"index": "rows", "image": None})
  assert seen == [("key", 7, "rows")]


def test_the_running_mean_of_the_uncertainty_is_kept():
  tree = {"unet": 1, "pixel_head": 2, "stabilizer": 3, "predictor": 4}
  state = types.SimpleNamespace(
    params=tree,
    extra={
      "batch_stats": {"unet": 5, "pixel_head": 6},
      "teacher": {"params": tree, "batch_stats": tree},
      "mean_uncertainty": 0.375,
    },
  )
  branch = pretrain.artifact_of(state, True)["branch"]
  assert branch["mean_uncertainty"] == 0.375
  assert branch["params"] == {"pixel_head": 2, "stabilizer": 3}
  assert "branch" not in pretrain.artifact_of(state, False)


def test_uncertainty_is_looked_at_on_evaluation_slices_alone(monkeypatch):
  config = configured()
  config.uncertainty.images = 4
  count = 12
  evaluation = np.arange(count) % 3 == 2
  images = types.SimpleNamespace(
    pixels=np.arange(count, dtype=np.uint8)[:, None, None, None]
    * np.ones((1, 32, 32, 1), np.uint8),
    groups=np.array([f"p{k}" for k in range(count)]),
    evaluation=evaluation,
    pixel_statistics=lambda: (0.5, 0.25),
  )
  seen = []

  def mapped(function, tree, arrays, **more):
    seen.append(arrays)
    raise Enough

  monkeypatch.setattr(uncertainty, "Prepared", lambda context: images)
  context = types.SimpleNamespace(
    config=config, map=mapped, load=lambda name: None
  )
  with pytest.raises(Enough):
    uncertainty.run(context)
  ((rows, pixels),) = ((x["row"], x["image"]) for x in seen)
  np.testing.assert_array_equal(rows, np.flatnonzero(evaluation))
  np.testing.assert_array_equal(pixels[:, 0, 0, 0], rows)


def test_numbers_of_the_classes_that_look_alike():
  names = ("liver", "left", "right")
  assert report.codes(names, ("right", "left")) == (3, 2)
  assert report.codes(names, ()) == ()
