"""Sites against slow references, and the losses that tie them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.losses.sites import diversity_loss, site_loss
from gcl_jax.models.sites import matched_random, sites

pytestmark = pytest.mark.compiles

B, M, D, L = 3, 4, 6, 5
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(B, L, D)).astype(np.float32)
KINDS = {
  "slots": dict(),
  "tokens": dict(compete="tokens"),
  "classes": dict(kind="classes", classes=3),
  "map": dict(kind="map", classes=3, positions=L),
}


def made(**settings):
  """Sites and parameters, all of them random."""
  found = sites(M, D, **settings)
  return found, jax.tree.map(
    lambda x: x + 0.5 * RNG.normal(size=x.shape).astype(np.float32),
    found.init(jax.random.key(0)),
  )


def softmax(values):
  raw = np.exp(values - values.max())
  return raw / raw.sum()


def slow_gather(params, tokens, compete):
  """Zo and Bo of one image, site by site, float64."""
  query = params["sites"] @ params["oct"]["query"]
  keys = tokens @ params["oct"]["key"]
  logits = np.array([[q @ k for k in keys] for q in query]) / np.sqrt(D)
  if compete == "tokens":
    shares = np.array([softmax(row) for row in logits])
  else:
    shares = np.array([softmax(column) for column in logits.T]).T
    shares = np.array([row / row.sum() for row in shares])
  values = [sum(s * t for s, t in zip(row, tokens)) for row in shares]  # noqa: B905
  return np.array(values), shares


@pytest.mark.parametrize("compete", ["slots", "tokens"])
def test_what_oct_gives_equals_a_loop(compete):
  module, params = made(compete=compete)
  values, shares = jax.jit(module.gather)(params, TOKENS)
  exact = jax.tree.map(np.float64, params)
  for b in range(B):
    expected = slow_gather(exact, np.float64(TOKENS[b]), compete)
    np.testing.assert_allclose(values[b], expected[0], atol=1e-5)
    np.testing.assert_allclose(shares[b], expected[1], atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_shares_are_shares_and_fundus_equals_a_loop(kind):
  module, params = made(**KINDS[kind])
  rows = 12 if kind == "classes" else 3 if kind == "map" else M
  values, shares = jax.jit(module.gather)(params, TOKENS)
  chex.assert_shape((values, shares), ((B, rows, D), (B, rows, L)))
  assert (np.asarray(shares) >= 0).all()
  np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
  found, attention = jax.jit(module.lend)(params, TOKENS)
  np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)
  exact = jax.tree.map(np.float64, params)
  own = exact["fundus"]
  for b, u in np.ndindex(B, L):
    token = np.float64(TOKENS[b, u])
    keys = exact["sites"] @ own["key"]
    share = softmax(keys @ (token @ own["query"]) / np.sqrt(D))
    expected = token + share @ (exact["sites"] @ own["value"])
    np.testing.assert_allclose(found[b, u], expected, atol=1e-5)


def test_fusion_begins_as_nothing_bit_for_bit():
  module = sites(M, D)
  found, _ = module.lend(module.init(jax.random.key(3)), TOKENS)
  np.testing.assert_array_equal(found, TOKENS)


def test_fundus_reads_no_parameter_of_oct():
  module, params = made()
  without = {name: params[name] for name in ("sites", "fundus")}
  found, _ = module.lend(without, TOKENS)
  np.testing.assert_array_equal(found, module.lend(params, TOKENS)[0])


def test_the_order_of_sites_does_not_count():
  module, params = made()
  turned = {**params, "sites": params["sites"][::-1]}
  for ours, theirs in (
    (module.lend(params, TOKENS)[0], module.lend(turned, TOKENS)[0]),
    (
      module.gather(params, TOKENS)[0][:, ::-1],
      module.gather(turned, TOKENS)[0],
    ),
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_slots_compete_for_tokens():
  """Equal sites share every token; with tokens they all are the mean alike, and
  a site that claims a token takes it from the others in slots alone."""
  for compete, falls in (("slots", True), ("tokens", False)):
    module, params = made(compete=compete)
    eye = jnp.eye(D)
    params["oct"] = dict(query=eye, key=eye)
    tokens = jnp.eye(D)[None, :L] * 4
    weak = jnp.zeros((M, D))
    strong = weak.at[0, 0].set(4.0)
    before, after = (
      module.gather({**params, "sites": s}, tokens)[1] for s in (weak, strong)
    )
    assert after[0, 0, 0] > before[0, 0, 0]
    assert (after[0, 1, 0] < before[0, 1, 0] - 0.1) == falls


def test_a_random_matrix_of_the_same_spectrum():
  matrix = RNG.normal(size=(M, D)) * np.array([3, 1, 1, 1, 0.1, 0.1])
  found = np.asarray(matched_random(jax.random.key(0), jnp.float32(matrix)))
  values = [np.linalg.svd(x, compute_uv=False) for x in (found, matrix)]
  np.testing.assert_allclose(*values, rtol=1e-4)
  assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(matrix), 1e-4)
  assert np.abs(np.corrcoef(found.ravel(), matrix.ravel())[0, 1]) < 0.7


@pytest.mark.parametrize(
  "wrong",
  [
    dict(kind="spots"),
    dict(compete="all"),
    dict(kind="classes"),
    dict(kind="map", classes=2),
  ],
)
def test_unknown_or_incomplete_kinds_are_refused(wrong):
  with pytest.raises(ValueError, match=r"kind"):
    sites(M, D, **wrong)


# -- losses -------------------------------------------------------------------

OWNER = np.array([0, 0, 1, 2])
CLASSES = np.array([0, 1, 1, 0, 0, 1, 0, 0])  # no image of class 2
GATHERED = RNG.normal(size=(8, M, D)).astype(np.float32)
S = RNG.normal(size=(M, D)).astype(np.float32)
CENTRE = RNG.normal(size=D).astype(np.float32)


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def slow_site(owner):
  found = []
  for m in range(M):
    rows = range(8) if owner is None else np.flatnonzero(CLASSES == owner[m])
    if len(rows):
      mean = np.mean([np.float64(GATHERED[b, m]) for b in rows], axis=0)
      found.append(1 - cosine(np.float64(S[m]) - CENTRE, mean - CENTRE))
  return np.mean(found)


@pytest.mark.parametrize("owner", [None, OWNER])
def test_the_tie_equals_a_loop_alone_and_on_eight_devices(owner):
  def step(matrix, gathered, classes, axis_name=None):
    def loss(matrix):
      return site_loss(
        matrix,
        gathered,
        CENTRE,
        owner=owner,
        classes=classes,
        axis_name=axis_name,
      )

    result = jax.value_and_grad(loss)(matrix)
    return jax.lax.pmean(result, axis_name) if axis_name else result

  expected = jax.jit(step)(S, GATHERED, CLASSES)
  assert float(expected[0]) == pytest.approx(slow_site(owner), rel=1e-5)
  local = functools.partial(step, axis_name="data")
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(P(), P("data"), P("data")),
    out_specs=P(),
    check_vma=False,
  )
  found = jax.jit(mapped)(S, GATHERED, CLASSES)
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_tie_moves_sites_alone():
  gradients = jax.grad(site_loss, argnums=(0, 1, 2))(S, GATHERED, CENTRE)
  assert np.abs(gradients[0]).max() > 0
  assert (gradients[1] == 0).all() and (gradients[2] == 0).all()


def test_a_batch_without_the_classes_of_any_site_loses_nothing():
  none = np.full(8, 7)
  value, gradient = jax.value_and_grad(site_loss)(
    S, GATHERED, CENTRE, owner=OWNER, classes=none
  )
  assert value == 0 and (gradient == 0).all()


def test_diversity_equals_a_loop_and_the_centre_matters():
  pairs = [
    max(0, cosine(S[i] - CENTRE, S[j] - CENTRE) - 0.5)
    for i in range(M)
    for j in range(M)
    if i != j
  ]
  found = diversity_loss(S, CENTRE)
  assert float(found) == pytest.approx(np.mean(pairs), rel=1e-5)
  # Sites about a large common mean: alike without it, apart with it.
  away = 0.1 * np.eye(M, D, dtype=np.float32) + 5
  middle = away.mean(0)
  assert diversity_loss(away, np.zeros(D, np.float32)) > 0.49
  assert diversity_loss(away, middle) == 0
