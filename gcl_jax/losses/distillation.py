"""Distillation from a teacher of other images, by class.

Images of student and teacher are not paired: what is compared are means over
the images of a class. The teacher's side is a constant, the student's is not.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.collectives import pmean
from gcl_jax.losses.pairs import check_labels


def class_means(
  rows: jax.Array,
  labels: jax.Array,
  classes: int,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Means of the rows of every class, of all devices, and which there are.

  Args:
    rows: float[B, D].
    labels: int[B], 0 to `classes` - 1; others do not count.
    classes: C.
    axis_name: mapped axis over which the rows are split, equally many on each
      device.

  Returns:
    float[C, D], zeros for a class without rows, and bool[C].

  Raises:
    ValueError: labels that are not int[B].
  """
  check_labels(labels, len(rows))
  member = (labels[None] == jnp.arange(classes)[:, None]).astype(rows.dtype)
  total, share = pmean(
    (member @ rows / len(rows), jnp.mean(member, axis=1)), axis_name
  )
  there = share > 0
  return total / jnp.where(there, share, 1)[:, None], there


def prototype_mse(
  student: jax.Array,
  teacher: jax.Array,
  student_labels: jax.Array,
  teacher_labels: jax.Array,
  classes: int,
  axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of class means, a form of MultiEYE's (2024) term.

      mean_c mean_d (s_cd - t_cd)^2

  over the classes c that both have and the D columns, such as similarities to D
  concepts.

  Args:
    student: float[B, D].
    teacher: float[B', D]; a constant.
    student_labels: int[B].
    teacher_labels: int[B'].
    classes: C.
    axis_name: as of `class_means`; the value is the same on all devices.

  Returns:
    A scalar >= 0; 0 if no class is in both.
  """
  means, there = class_means(student, student_labels, classes, axis_name)
  goals, also = class_means(
    lax.stop_gradient(teacher), teacher_labels, classes, axis_name
  )
  square = jnp.mean((means - goals) ** 2, axis=1)
  return _over(square, there & also)


def prototype_kl(
  student: jax.Array,
  teacher: jax.Array,
  student_labels: jax.Array,
  teacher_labels: jax.Array,
  classes: int,
  axis_name: str | None = None,
) -> jax.Array:
  """Divergence of the student's class means from the teacher's, FDDM's form.

      mean_c KL( softmax(t_c) || softmax(s_c) )

  over the classes c that both have, of mean logits t_c and s_c, at a
  temperature of 1 (Wang et al. 2023).

  Args:
    student: float[B, K], logits.
    teacher: float[B', K], logits; a constant.
    student_labels, teacher_labels, classes, axis_name: as of `prototype_mse`.

  Returns:
    A scalar >= 0; 0 if no class is in both.
  """
  means, there = class_means(student, student_labels, classes, axis_name)
  goals, also = class_means(
    lax.stop_gradient(teacher), teacher_labels, classes, axis_name
  )
  goal, reached = (jax.nn.log_softmax(x, axis=1) for x in (goals, means))
  divergence = jnp.sum(jnp.exp(goal) * (goal - reached), axis=1)
  return _over(divergence, there & also)


def _over(values: jax.Array, there: jax.Array) -> jax.Array:
  """Mean of float[C] over the classes that are there."""
  total = jnp.sum(jnp.where(there, values, 0))
  return total / jnp.maximum(jnp.sum(there), 1)
