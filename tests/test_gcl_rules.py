"""Meta labels: the affinity that a rule gives to two slices."""

import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax import losses
from gcl_jax.errors import ConfigError
from gcl_jax.methods.gcl import rules

pytestmark = pytest.mark.compiles

TABLE = {
  "patient": np.array(["a", "a", "b", "", ""]),
  "position": np.array([0.1, 0.4, 0.45, 1.0, np.nan]),
  "visit": np.array([1, 2, 2, 1, 1]),
}


def weights(text, table=None):
  rule = rules.parse(text)
  values = rules.values_of(rule, table or TABLE)
  return np.asarray(rule.weights(values[:, None], values[None]))


def test_equality_leaves_out_what_is_missing():
  expected = np.eye(5)
  expected[0, 1] = expected[1, 0] = 1
  np.testing.assert_array_equal(weights("patient"), expected)
  assert weights("visit")[1, 2] == 1 and weights("visit")[0, 1] == 0


def test_closer_than_a_threshold():
  found = weights("position<0.1")
  expected = np.eye(5)
  expected[1, 2] = expected[2, 1] = 1
  np.testing.assert_array_equal(found, expected)
  assert weights("position<0.3")[0, 1] == 0  # 0.3 is not below 0.3
  assert weights("position<0.31")[0, 1] == 1


@pytest.mark.parametrize("slices", [10, 20, 30, 40])
def test_a_difference_equal_to_the_threshold_is_not_below_it(slices):
  """Without a margin, float32 rounding puts about half of them below."""
  table = {"position": np.arange(1, slices + 1) / slices}
  found = weights("position<0.1", table)
  apart = slices // 10
  assert not np.diagonal(found, apart).any()
  if apart > 1:
    assert np.diagonal(found, apart - 1).all()


def test_a_kernel():
  found = weights("position~0.2")
  np.testing.assert_allclose(found[0, 1], np.exp(-(1.5**2) / 2), rtol=1e-5)
  assert found[4, 4] == 1 and found[4, 0] == 0


def test_equal_parts_of_the_volume():
  table = {"position": np.array([0.01, 0.25, 0.26, 0.5, 1.0])}
  found = weights("position/4", table)
  assert found[0, 1] == 1 and found[1, 2] == 0 and found[2, 3] == 1
  assert found[3, 4] == 0


@pytest.mark.parametrize(
  "text", ["", "position<", "position<0", "position~-1", "position/1.5", "<3"]
)
def test_what_is_no_rule_is_refused(text):
  with pytest.raises(ConfigError, match="is no rule of a meta label"):
    rules.parse(text)


def test_columns_that_do_not_fit_are_refused():
  with pytest.raises(ConfigError, match="no column 'phase'; there are patient"):
    weights("phase")
  with pytest.raises(ConfigError, match="holds texts, which can only be equal"):
    weights("patient<3")
  with pytest.raises(ConfigError, match="'visit' is empty in every row"):
    weights("visit", {"visit": np.array(["", ""])})


def test_equal_embeddings_are_at_the_floor():
  """log(n - 1) for every rule that has a positive: nothing is learned."""
  z = jnp.ones((4, 2, 3)) / np.sqrt(3)
  table = {"patient": np.array(["a", "a", "b", "b"])}
  rule = rules.parse("patient")
  values = rules.values_of(rule, table)
  found = losses.soft_supcon(z, rule.weights, meta=values, temperature=0.1)
  np.testing.assert_allclose(found, np.log(7), rtol=1e-6)
