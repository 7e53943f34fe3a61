"""Text encoders: what a description's vector depends on, and what not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcl_jax.models import text

pytestmark = pytest.mark.compiles

IDS = np.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [5, 3, 5, 8, 0]])
THERE = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
KINDS = {
  "bag": text.bag(9, out=6, width=8),
  "transformer": text.transformer(9, out=6, width=8, heads=2, longest=7),
}


@pytest.fixture(scope="module", params=list(KINDS))
def encoder(request):
  model = KINDS[request.param]
  variables = model.init(jax.random.key(0), (5,))
  drawn = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: x + 0.3 * drawn.normal(size=x.shape), variables
  )
  return request.param, jax.jit(lambda *words: model.apply(variables, *words))


def test_vectors_have_length_one(encoder):
  _, apply = encoder
  found = apply(IDS, THERE)
  assert found.shape == (3, 6)
  np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
  tables = apply(np.stack([IDS, IDS[::-1]]), np.stack([THERE, THERE[::-1]]))
  np.testing.assert_allclose(tables[1][::-1], found, atol=1e-6)


def test_a_vector_depends_neither_on_padding_nor_on_its_batch(encoder):
  _, apply = encoder
  found = np.asarray(apply(IDS, THERE))
  for ids, there, own in zip(IDS, THERE, found, strict=True):
    alone = apply(ids[None][:, : there.sum()], there[None][:, : there.sum()])
    np.testing.assert_allclose(alone[0], own, atol=2e-6)
  other = np.where(THERE, IDS, 7)  # what stands behind the end
  np.testing.assert_array_equal(apply(other, THERE), found)


def test_word_order_counts_in_the_transformer_alone(encoder):
  kind, apply = encoder
  turned = apply(IDS[:1, ::-1], THERE[:1])
  change = np.abs(turned - apply(IDS[:1], THERE[:1])).max()
  assert change < 1e-6 if kind == "bag" else change > 1e-2


def test_the_bag_is_a_linear_layer_on_a_mean():
  model = KINDS["bag"]
  variables = model.init(jax.random.key(1), (5,))
  layers = jax.tree.map(np.float64, variables["params"])
  for ids, there in zip(IDS, THERE, strict=True):
    mean = layers["words"]["embedding"][ids[there]].mean(0)
    expected = mean @ layers["out"]["kernel"] + layers["out"]["bias"]
    found = model.apply(variables, ids, there)
    np.testing.assert_allclose(
      found, expected / np.linalg.norm(expected), rtol=1e-4
    )


def test_every_parameter_has_a_gradient():
  for model in KINDS.values():
    variables = model.init(jax.random.key(2), (5,))
    found = jax.grad(lambda v, m=model: m.apply(v, IDS, THERE)[..., 0].sum())(
      variables
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
      # A bias of keys moves all logits of a softmax alike.
      name = jax.tree_util.keystr(path)
      if "key']['bias" not in name:
        assert np.abs(leaf).max() > 0, name


def test_descriptions_that_are_too_long_are_refused():
  with pytest.raises(ValueError, match="8 words, more than longest 7"):
    KINDS["transformer"].init(jax.random.key(0), (8,))


def test_precomputed_vectors_are_projected():
  model = text.frozen(out=3)
  variables = model.init(jax.random.key(0), (4,))
  vectors = np.random.default_rng(1).normal(size=(2, 5, 4))
  found = model.apply(variables, jnp.asarray(vectors))
  expected = vectors @ np.float64(variables["params"]["kernel"])
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_mean_over_no_words_is_zero():
  vectors, none = jnp.ones((2, 3)), jnp.zeros(2, bool)
  assert (text.masked_mean(vectors, none) == 0).all()
  gradient = jax.grad(lambda v: text.masked_mean(v, none).sum())(vectors)
  assert (gradient == 0).all()
