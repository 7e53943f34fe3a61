"""Distillation by class means against loops, and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from gcl_jax.losses import distillation

pytestmark = pytest.mark.compiles

C, K = 4, 5


def rows(seed=0, count=16):
  rng = np.random.default_rng(seed)
  # Class 3 is missing in the student, class 0 in the teacher; -1 counts not.
  student = rng.choice([-1, 0, 1, 2], count).astype(np.int32)
  teacher = rng.choice([1, 2, 3], count).astype(np.int32)
  values = rng.normal(size=(2, count, K)).astype(np.float32)
  return values[0], values[1], student, teacher


def means(values, labels, k):
  return np.mean([v for v, y in zip(values, labels, strict=True) if y == k], 0)


def test_class_means_are_means_over_members():
  student, _, labels, _ = rows()
  found, there = distillation.class_means(student, labels, C)
  assert there.tolist() == [True, True, True, False]
  for k in range(3):
    np.testing.assert_allclose(found[k], means(student, labels, k), rtol=1e-5)
  assert not np.any(found[3])


def test_terms_are_means_over_the_classes_of_both():
  student, teacher, ours, theirs = rows()
  arguments = (student, teacher, ours, theirs, C)
  square, divergence = [], []
  for k in (1, 2):
    s, t = means(student, ours, k), means(teacher, theirs, k)
    square.append(np.mean((s - t) ** 2))
    p, q = (np.exp(x) / np.exp(x).sum() for x in (t, s))
    divergence.append(np.sum(p * np.log(p / q)))
  found = distillation.prototype_mse(*arguments)
  np.testing.assert_allclose(found, np.mean(square), rtol=1e-5)
  found = distillation.prototype_kl(*arguments)
  np.testing.assert_allclose(found, np.mean(divergence), rtol=1e-4)


@pytest.mark.parametrize(
  "loss", [distillation.prototype_mse, distillation.prototype_kl]
)
def test_the_student_alone_has_a_gradient(loss):
  student, teacher, ours, theirs = rows()
  gradients = jax.grad(
    lambda s, t: loss(s, t, ours, theirs, C), argnums=(0, 1)
  )(student, teacher)
  assert np.abs(gradients[0]).max() > 1e-3
  assert not np.any(gradients[1])
  none = loss(student, teacher, np.full_like(ours, 3), np.zeros_like(ours), C)
  assert float(none) == 0


@pytest.mark.parametrize(
  "loss", [distillation.prototype_mse, distillation.prototype_kl]
)
def test_devices_agree_with_one(loss):
  arguments = rows()
  mesh = Mesh(np.array(jax.devices()), ("d",))
  spec = PartitionSpec("d")

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(spec,) * 4, out_specs=PartitionSpec()
  )
  def everywhere(*parts):
    value = loss(*parts, C, "d")
    return jax.lax.pmean(value, "d")

  expected = loss(*map(jnp.asarray, arguments), C)
  np.testing.assert_allclose(
    jax.jit(everywhere)(*arguments), expected, rtol=1e-5
  )
