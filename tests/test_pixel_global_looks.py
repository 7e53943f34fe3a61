"""What stage uncertainty keeps of a pass over both views, against loops."""

import jax
import numpy as np
import pytest

from gcl_jax import augment
from gcl_jax.methods.pixel_global import arms, pretrain, uncertainty
from gcl_jax.methods.pixel_global.config import get_config
from gcl_jax.methods.pixel_global.networks import networks_of

pytestmark = pytest.mark.compiles
SHAPE, CELLS = (32, 32, 1), (8, 8)


@pytest.fixture(scope="module")
def looked():
  """The function, an untrained own arm and what it says of four slices."""
  config = get_config("tiny")
  settings = arms.settings_of(config, arms.OWN)
  training = pretrain.training(config, settings, SHAPE, (0.5, 0.25))
  state = jax.jit(training.init)(jax.random.key(0))
  artifact = pretrain.artifact_of(state, True)
  images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
  batch = {"image": images, "row": np.array([3, 8, 9, 11], np.int32)}
  function = uncertainty.looks(config, settings, CELLS, (0.5, 0.25))
  found = jax.jit(function)(artifact, batch)
  return function, artifact, batch, jax.tree.map(np.asarray, found)


def test_a_slice_is_looked_at_alone_and_by_its_row(looked):
  function, artifact, batch, found = looked
  order = [2, 0, 3, 1]
  batch = {name: values[order] for name, values in batch.items()}
  batch["row"][3] = 12  # was 8
  again = jax.tree.map(np.asarray, jax.jit(function)(artifact, batch))
  for name, values in found.items():
    np.testing.assert_allclose(
      again[name][:3], values[order][:3], rtol=1e-4, atol=1e-5, err_msg=name
    )
  assert not np.allclose(again["place"][3], found["place"][1])


def test_error_is_the_mean_distance_of_the_pairs(looked):
  """From the vectors themselves, pair by pair."""
  _, artifact, batch, found = looked
  config = get_config("tiny")
  settings = arms.settings_of(config, arms.OWN)
  places = found["place"].reshape(4, 2, *CELLS, 2)
  keys = augment.sample_keys(jax.random.key(config.seed), 0, batch["row"])
  networks = networks_of(config, settings)
  each = jax.jit(
    lambda *of: pretrain.forward(networks, settings, artifact, *of)
  )(found["views"], places, keys)
  some = 0
  for v, view in enumerate(jax.tree.map(np.asarray, each)):
    for n, cell in np.ndindex(found["matches"].shape[0], CELLS[0] * CELLS[1]):
      pairs = view.index[n, cell][view.found[n, cell]]
      assert found["matches"][n, v, cell] == len(pairs)
      error = found["error"][n, v, cell]
      if not len(pairs):
        assert np.isnan(error)
        continue
      some += 1
      squares = (view.moved[n, cell] - view.targets[n, pairs]) ** 2
      assert error == pytest.approx(squares.sum(-1).mean(), abs=1e-4)
  assert 50 < some < 500
  assert (found["uncertainty"] > 0).mean() > 0.9
  np.testing.assert_allclose(found["weight"].mean(-1), 1, atol=1e-5)
