"""The step of float volumes, and which volumes share one."""

import numpy as np
import pytest

from gcl_jax.data.scale_steps import sharing, step_of

RNG = np.random.default_rng(11)


def scan(step, most=400, shape=(7, 6, 5)):
  """Integers of a scanner times its factor, and the integers."""
  counts = RNG.integers(0, most, shape)
  return (counts * np.float64(step)).astype(np.float32), counts


def slow_step(values):
  """The largest step by one division after the other, in exact integers."""
  sizes = sorted({abs(float(v)) for v in values.ravel().tolist()} - {0.0})
  for multiple in range(1, 200):
    step = sizes[0] / multiple
    errors = [abs(v - round(v / step) * step) / v for v in sizes]
    if max(errors) < 2e-7:
      return step
  return None


@pytest.mark.parametrize("step", [5.95897, 8.021, 3112.5886, 0.104695, 1 / 3])
@pytest.mark.parametrize("most", [30, 400, 2**16])
def test_the_step_of_a_scan(step, most):
  values, counts = scan(step, most)
  assert np.gcd.reduce(counts.ravel()) == 1
  low, high = step_of(values)
  assert low <= step * (1 + 1e-15) and step <= high * (1 + 1e-15)
  assert high / low - 1 < 1.3e-7
  # Order, shape, sign and multiples without the smaller ones change nothing.
  shuffled = RNG.permutation(values.ravel()).reshape(values.shape[::-1])
  assert step_of(shuffled) == (low, high)
  signs = RNG.choice([-1, 1], values.shape).astype(np.float32)
  assert step_of(values * signs) == (low, high)
  assert step_of(values.astype(np.float64)) == (low, high)
  far = values[counts > most // 4]
  assert step_of(far)[0] <= step * (1 + 1e-15) <= step_of(far)[1] * (1 + 2e-15)
  if most < 500:
    assert low <= slow_step(values) * (1 + 1e-7) <= high * (1 + 3e-7)


def test_a_factor_in_float32_is_found():
  counts = RNG.integers(-900, 900, 500).astype(np.float32)
  factor = np.float32(6.33065)
  low, high = step_of(counts * factor)
  assert low <= factor <= high


@pytest.mark.parametrize(
  "values",
  [
    scan(5.95897)[1].astype(np.uint8),
    scan(5.95897)[1].astype(np.int16),
    scan(1)[0],  # integers that are stored as floats
    scan(16)[0],
    np.full((4, 4), 5.95897, np.float32),
    np.zeros((4, 4), np.float32),
    np.zeros((0, 4), np.float32),
    np.arange(8, dtype=np.float32) * 5.95897,  # seven values beside 0
    RNG.normal(size=500).astype(np.float32),
    RNG.uniform(100, 130, 500).astype(np.float32),
    scan(5.95897)[0] + np.float32(1.2345),  # a grid that does not go through 0
    np.append(scan(5.95897)[0].ravel(), np.float32(17.5)),
    np.append(scan(5.95897)[0].ravel(), np.float32(np.nan)),
    np.append(scan(5.95897)[0].ravel(), np.float32(np.inf)),
    np.float32(1e-40) * np.arange(1, 40, dtype=np.float32) ** 2 + 1,
    scan(5.95897)[0].astype(complex),
  ],
)
def test_what_has_no_step(values):
  assert step_of(values) is None


def test_eight_values_are_enough():
  assert step_of(np.arange(9, dtype=np.float32) * np.float32(5.95897))


def test_volumes_share_a_step_if_their_bounds_meet():
  values = [scan(step)[0] for step in (7.5, 5.95897, 6.5, 5.95897, 5.95898)]
  steps = [step_of(v) for v in (*values, values[1].astype(np.uint8))]
  assert steps[-1] is None
  assert sharing(steps) == [[1, 3], [4], [2], [0]]
  assert sharing([(3, 4), (1, 9), None, (8, 10), (10.5, 11), (2, 2)]) == [
    [1, 5, 0, 3],
    [4],
  ]
  assert sharing([None, None]) == [] == sharing([])
