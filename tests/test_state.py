"""One update of a state by an objective, and the average that a teacher is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gcl_jax.collectives import pmean
from gcl_jax.engine import parallel
from gcl_jax.engine.state import create, descend, follow

pytestmark = pytest.mark.compiles


class Follow(chex.TestCase):
  @chex.all_variants(with_pmap=False)
  def test_many_updates_are_the_weighted_sum(self):
    """m^n t_0 + (1 - m) sum_k m^(n - 1 - k) p_k, in float64."""
    draw = np.random.default_rng(0)
    momentum, steps = 0.9, 7
    start = draw.normal(size=(3, 2))
    students = draw.normal(size=(steps, 3, 2))
    teacher = {"w": start.astype(np.float32)}
    update = self.variant(lambda t, p: follow(t, p, momentum))
    for student in students:
      teacher = update(teacher, {"w": student.astype(np.float32)})
    weights = (1 - momentum) * momentum ** np.arange(steps)[::-1]
    expected = momentum**steps * start + np.tensordot(weights, students, 1)
    chex.assert_trees_all_close(
      teacher, {"w": expected.astype(np.float32)}, rtol=1e-5
    )

  def test_the_teacher_gives_no_gradient_to_itself_where_it_is_not_followed(
    self,
  ):
    gradient = jax.grad(lambda p: follow({"w": 1.0}, {"w": p}, 1.0)["w"])(3.0)
    assert gradient == 0


RATE, ROWS = 0.1, 8
DRAW = np.random.default_rng(1)
BATCH = {
  "x": DRAW.normal(size=(ROWS, 3)).astype(np.float32),
  "y": DRAW.normal(size=ROWS).astype(np.float32),
}
OPTIMIZER = optax.sgd(RATE)


def step(state, batch, *, axis_name=None):
  """Least squares; the statistics are the mean of the inputs."""

  def objective(params):
    error = batch["x"] @ params["w"] - batch["y"]
    stats = pmean(batch["x"].mean(0), axis_name)
    return jnp.mean(error**2), stats

  state, value = descend(
    state, objective, OPTIMIZER, axis_name, seen=state.step
  )
  return state, {"loss": value}


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_one_update_is_that_of_the_whole_batch(mode, count):
  """In float64 by hand, however the batch is shared out."""
  mesh = parallel.make_mesh(jax.devices()[:count])
  x, y = (BATCH[name].astype(np.float64) for name in "xy")
  w = np.array([0.5, -1.0, 2.0])

  def init(key):
    extra = {"batch_stats": jnp.zeros(3), "seen": jnp.int32(-1), "kept": 7}
    return create({"w": jnp.float32(w)}, OPTIMIZER, key, extra)

  state = parallel.init_replicated(init, mesh, jax.random.key(0))
  compiled = parallel.compile_step(step, mesh, mode)
  state, metrics = compiled(state, parallel.put_batch(BATCH, mesh, mode))
  error = x @ w - y
  np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)
  expected = w - RATE * 2 * x.T @ error / ROWS
  for leaf in state.params["w"].addressable_shards:  # on every device
    np.testing.assert_allclose(leaf.data, expected, rtol=1e-5)
  np.testing.assert_allclose(
    state.extra["batch_stats"], x.mean(0), rtol=1e-4, atol=1e-6
  )
  assert int(state.step) == 1
  assert int(state.extra["seen"]) == 0 and int(state.extra["kept"]) == 7
