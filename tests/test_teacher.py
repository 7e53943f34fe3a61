"""The moving average that a teacher's parameters are."""

import chex
import jax
import numpy as np
import pytest

from gcl_jax.engine.state import follow

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
