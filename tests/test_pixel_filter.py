"""The Gradient Filter against slow loops in float64, one pixel at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from pixel_cases import (
  CHANNELS,
  HARDEST,
  HEIGHT,
  PIXELS,
  TEMPERATURE,
  WEIGHTS,
  WIDTH,
  exact_ceil,
  head,
  jit,
  keys_for,
  make,
  same,
  slow,
  slow_image,
)

from gcl_jax.gradients import pixel_filter
from gcl_jax.losses import pixel_nce

pytestmark = pytest.mark.compiles

# More negatives than there are, so that all are taken and no draw matters.
SETTINGS = {"outside": 100, "hardest": HARDEST}
LABELS = np.array([0, 1, 0, 1, 2])  # nobody is like the last image


def plain(keys, maps, embeddings, positives, theta, temperature, variant, rho):
  return pixel_filter.select(
    keys,
    head,
    maps,
    embeddings,
    positives,
    theta=theta,
    temperature=temperature,
    variant=variant,
    rho=rho,
    **SETTINGS,
  )


compiled = jit(plain, static_argnames=("variant", "rho"))


def select(
  variant="F1",
  keys=None,
  images=None,
  labels=LABELS,
  theta=0.1,
  rho=0.4,
  temperature=TEMPERATURE,
):
  """`pixel_filter.select` compiled once per variant, share and type."""
  maps, embeddings = images or (jnp.float32(x) for x in make(5))
  keys = keys_for(5) if keys is None else keys
  positives = same(labels)
  return jax.device_get(
    compiled(
      keys, maps, embeddings, positives, theta, temperature, variant, rho
    )
  )


def loss_of(embeddings, pairs, axis_name=None):
  return pixel_nce(
    *pixel_filter.take(embeddings, pairs),
    pairs.weights,
    TEMPERATURE,
    used=pairs.used,
    axis_name=axis_name,
  )


loss_and_slope = jit(jax.value_and_grad(loss_of))


def kept_pairs(pairs, i):
  kept = np.asarray(pairs.weights[i]) == 1
  anchor, positive = (np.asarray(x[i]) for x in (pairs.anchor, pairs.positive))
  return list(zip(anchor[kept].tolist(), positive[kept].tolist(), strict=True))


@pytest.mark.parametrize("variant", ["F0", "F1", "F2", "F3"])
def test_selection_and_loss_match_the_slow_loop(variant):
  maps, embeddings = make(5)
  expected, total, gradient = slow(maps, embeddings, LABELS, variant, 0.1, 0.4)
  pairs = select(variant)
  for i in range(5):
    wanted = [(u, v) for _, u, v, _ in expected[i]]
    assert kept_pairs(pairs, i) == wanted
    for place, (_, _, _, negatives) in enumerate(expected[i]):
      used = pairs.used[i, place]
      image = pairs.negative_image[i][used].tolist()
      position = pairs.negative_position[i][used].tolist()
      assert sorted(zip(image, position, strict=True)) == sorted(negatives)
  assert not expected[4] and sum(map(len, expected)) > 8
  if variant == "F1":  # or the magnitude would go untested
    relevant = slow(maps, embeddings, LABELS, "F3", 0.1, 0.4)[0]
    wanted, others = (
      {pair[1:3] for pair in x[0]} for x in (expected, relevant)
    )
    assert wanted != others
  count = sum(map(len, expected))
  value, slope = loss_and_slope(jnp.float32(embeddings), pairs)
  np.testing.assert_allclose(value, total / count, rtol=1e-5)
  np.testing.assert_allclose(slope, gradient / count, rtol=1e-4, atol=1e-5)


def test_f1_without_threshold_and_share_keeps_what_f0_keeps():
  unfiltered, filtered = select("F0"), select("F1", theta=0.0, rho=1.0)
  for i in range(5):
    assert sorted(kept_pairs(filtered, i)) == kept_pairs(unfiltered, i)
  assert len(kept_pairs(unfiltered, 0)) > 5
  np.testing.assert_array_equal(filtered.candidates, unfiltered.candidates)


def test_random_keeps_as_many_as_f1_of_what_f0_keeps():
  unfiltered, filtered = select("F0"), select("F1")
  drawn = [select("random", keys_for(5, seed)) for seed in range(3)]
  for pairs in drawn:
    np.testing.assert_array_equal(pairs.candidates, filtered.candidates)
    np.testing.assert_array_equal(pairs.weights, filtered.weights)
    kept = pairs.weights.astype(bool)
    assert np.all(pairs.used.sum(axis=-1)[kept] == HARDEST)
    for i in range(5):
      assert set(kept_pairs(pairs, i)) <= set(kept_pairs(unfiltered, i))
  assert len({str(kept_pairs(pairs, 0)) for pairs in drawn}) > 1
  assert not np.array_equal(drawn[0].used, drawn[1].used)
  assert set(kept_pairs(drawn[0], 0)) != set(kept_pairs(filtered, 0))
  # Some of the 90 pixels outside are harder than some that are used.
  anchors, _, negatives = pixel_filter.take(make(5)[1], drawn[0])
  similarity, used = negatives[0] @ anchors[0, 0], drawn[0].used[0, 0]
  assert similarity[used].min() < similarity[:90][~used[:90]].max()


def test_random_cannot_keep_more_than_f0_has():
  """The first pixel of each image is nearest to all, but not relevant."""
  kinds = np.eye(5, 6)
  common = np.eye(6)[5:]
  partner = 0.4 * kinds - np.roll(kinds, -1, axis=0)
  maps = [np.concatenate([common, common + x]) for x in (kinds, partner)]
  maps = jnp.float32(maps).reshape(2, 2, 3, 6)

  def angle_of_kinds(pooled):
    # A quarter turn between the images: only the five kinds draw them closer.
    angle = pooled[:, :5].sum(axis=1) * (3 * np.pi / 2) / (8 / 6)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)

  pairs = jit(
    lambda keys: pixel_filter.select(
      keys, angle_of_kinds, maps, maps, same([0, 0]), variant="random", rho=1
    )
  )(keys_for(2))
  np.testing.assert_array_equal(pairs.candidates, [5, 5])
  assert kept_pairs(pairs, 0) == kept_pairs(pairs, 1) == [(0, 0)]


@pytest.mark.parametrize("rho", [0.07, 0.25, 0.3, 0.7, 1.0])
def test_the_number_kept_is_the_exact_ceiling(rho):
  counts = pixel_filter._kept_counts(rho, 1024)
  expected = [exact_ceil(rho, count) for count in range(1025)]
  np.testing.assert_array_equal(counts, expected)


def test_the_smallest_share_keeps_one():
  np.testing.assert_array_equal(pixel_filter._kept_counts(1e-12, 2), [0, 1, 1])


def test_the_number_kept_follows_the_candidates():
  seen = set()
  for theta in (0.05, 0.1, 0.2, 0.5, 1.0):
    pairs = select("F3", theta=theta)
    expected = [exact_ceil(0.4, int(count)) for count in pairs.candidates]
    np.testing.assert_array_equal(pairs.weights.sum(axis=1), expected)
    seen |= set(expected)
  assert len(seen) > 3


def test_vmap_over_meta_labels_and_keys_per_image():
  maps, embeddings = (jnp.float32(x) for x in make(5))
  labels = np.array([LABELS, [0, 0, 0, 1, 1]])
  keys = keys_for(5)
  arguments = 0.1, TEMPERATURE, "F1", 0.4
  every = jit(
    jax.vmap(lambda mask: plain(keys, maps, embeddings, mask, *arguments))
  )(jax.vmap(same)(labels))
  for k in range(2):
    one = select(labels=labels[k])
    found = jax.tree.map(lambda x, k=k: np.asarray(x[k]), every)
    assert [kept_pairs(found, i) for i in range(5)] == [
      kept_pairs(one, i) for i in range(5)
    ]
    kept = one.weights == 1
    np.testing.assert_array_equal(found.used[kept], one.used[kept])
  other = select(keys=keys.at[0].set(jax.random.key(77)), labels=labels[1])
  for x, y in zip(one, other, strict=True):
    np.testing.assert_array_equal(x[1:], y[1:])
  assert not np.array_equal(
    one.negative_position[0], other.negative_position[0]
  )


def test_bfloat16_maps_and_embeddings():
  images = tuple(jnp.bfloat16(x) for x in make(5))
  pairs = select(images=images)
  expected = select(images=tuple(x.astype(jnp.float32) for x in images))
  for i in range(5):
    assert kept_pairs(pairs, i) == kept_pairs(expected, i)


def test_nobody_alike_is_a_loss_of_zero():
  alone = select(labels=np.arange(5))
  embeddings = jnp.asarray(make(5)[1], jnp.bfloat16)
  value, gradient = loss_and_slope(embeddings, alone)
  assert value == 0 and value.dtype == jnp.float32 and not np.any(gradient)
  np.testing.assert_array_equal(alone.partner, np.arange(5))
  np.testing.assert_array_equal(alone.candidates, np.zeros(5))


def test_images_without_relevance_have_no_candidates():
  maps, embeddings = (jnp.float32(x) for x in make(5))
  pairs = select(images=(maps.at[::2].set(0), embeddings))
  assert not np.any(pairs.candidates[::2]) and np.all(pairs.candidates[1:4:2])
  assert not np.any(pairs.weights[::2])


def test_pairs_that_are_won_are_still_told_apart():
  maps, embeddings = make(5)
  far = np.array([1, 0, 2.3, 0, 0])[:, None, None, None]
  embeddings = np.append(0.5 * embeddings, far + 0 * maps[..., :1], axis=-1)
  images = jnp.float32(maps), jnp.float32(embeddings)
  pairs = select("F2", images=images, temperature=0.01)
  pixels = embeddings.reshape(5, PIXELS, -1)
  expected = slow_image(maps, pixels, LABELS, 0, "F2", 0, 0.4, 0.01)
  assert kept_pairs(pairs, 0) == [pair[1:3] for pair in expected]
  # The loss is 1 - p here, and a float32 ends at 1e-38.
  assert sum(pair[0] < 1e-38 for pair in expected) > 1


def test_one_pixel_and_two_images():
  """Without negatives a candidate of magnitude 0 is still a candidate."""
  maps = jnp.ones((2, 1, 1, CHANNELS))
  select = functools.partial(pixel_filter.select, variant="F2")
  pairs = jit(select, static_argnums=1)(
    keys_for(2), head, maps, maps, same([0, 0])
  )
  assert kept_pairs(pairs, 0) == kept_pairs(pairs, 1) == [(0, 0)]
  assert not np.any(pairs.used)


def test_selection_carries_no_gradient():
  images, labels = (jnp.float32(x) for x in make(3)), same([0, 0, 1])

  def loss(maps, weights, fixed):
    embeddings = fixed + maps[..., :4]
    pairs = pixel_filter.select(
      keys_for(3),
      functools.partial(head, weights=weights),
      maps,
      embeddings,
      labels,
      **SETTINGS,
    )
    return loss_of(embeddings, pairs) + pairs.weights.sum()

  maps, embeddings = images
  to_maps, to_head, to_fixed = jit(jax.grad(loss, argnums=(0, 1, 2)))(
    maps, jnp.float32(WEIGHTS), embeddings
  )
  # The maps are felt through the embeddings only, like the constant added.
  assert np.any(to_fixed) and not np.any(to_head)
  np.testing.assert_array_equal(to_maps[..., :4], to_fixed)
  assert not np.any(to_maps[..., 4:])


# --- memory and devices -----------------------------------------------------


def test_memory_grows_with_pixels_not_with_their_square():
  def loss(matrix, keys, maps, positives):
    embeddings = maps @ matrix
    pairs = pixel_filter.select(keys, head, maps, embeddings, positives)
    return pixel_nce(
      *pixel_filter.take(embeddings, pairs), pairs.weights, used=pairs.used
    )

  def temporary(side):
    maps = jax.ShapeDtypeStruct((4, side, side, CHANNELS), jnp.float32)
    matrix = jnp.ones((CHANNELS, 4))
    step = jit(jax.value_and_grad(loss))
    compiled = step.lower(matrix, keys_for(4), maps, same([0, 0, 1, 1]))
    return compiled.compile().memory_analysis().temp_size_in_bytes

  small, large = temporary(24), temporary(48)
  assert small > 0 and large < 4.5 * small


def test_devices_form_pairs_among_their_own_images():
  """Loss and gradient equal loops within each shard; shards differ in pairs."""
  maps, pixels = make(32, seed=6)
  labels = np.tile([0, 1, 0, 1], 8).reshape(8, 4)
  labels[2] = [0, 1, 2, 3]  # no pairs at all
  labels[5] = [0, 1, 0, 3]
  labels = labels.ravel()
  matrix = np.random.default_rng(0).normal(size=(4, 4))

  total, count, expected = 0.0, 0, np.zeros((4, 4))
  for shard in np.split(np.arange(32), 8):
    embeddings = pixels[shard] @ matrix
    pairs, loss, gradient = slow(maps[shard], embeddings, labels[shard], "F1")
    total, count = total + loss, count + sum(map(len, pairs))
    expected += np.einsum("nhwc,nhwd->cd", pixels[shard], gradient)

  def step(matrix, maps, pixels, labels, keys):
    def loss(matrix):
      embeddings = pixels @ matrix
      pairs = pixel_filter.select(
        keys,
        head,
        maps,
        embeddings,
        same(labels),
        temperature=TEMPERATURE,
        **SETTINGS,
      )
      return loss_of(embeddings, pairs, "data")

    return jax.lax.pmean(jax.value_and_grad(loss)(matrix), "data")

  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  step = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(P(), *[P("data")] * 4),
    out_specs=P(),
    check_vma=False,
  )
  images = jnp.float32(maps), jnp.float32(pixels), labels, keys_for(32)
  value, gradient = jit(step)(jnp.float32(matrix), *images)
  np.testing.assert_allclose(value, total / count, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected / count, rtol=1e-4, atol=2e-5)


# --- mistakes ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"variant": "F4"}, "unknown variant 'F4': one of F0, F1"),
    ({"embeddings": np.ones((2, 5, 4, 4))}, "maps and embeddings must be"),
    ({"maps": np.ones((2, 30, 4))}, "maps and embeddings must be"),
    ({"positives": np.ones((2, 2))}, r"bool\[2, 2\], got float64\[2, 2\]"),
    ({"positives": np.ones((3, 2), bool)}, r"got bool\[3, 2\]"),
    ({"keys": jax.random.key(0)}, "keys must have 2 entries"),
    ({"sources": np.arange(3)}, "sources must have 2 entries"),
    ({"rho": 0.0}, r"rho must be in \(0, 1\], got 0.0"),
    ({"rho": 1.5}, "rho must be"),
    ({"theta": -0.1}, r"theta must be in \[0, 1\], got -0.1"),
    ({"theta": 30}, "theta must be"),
    ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ({"block_size": 0}, "block_size must be at least 1, got 0"),
  ],
)
def test_mistakes_are_named(change, message):
  maps = np.ones((2, HEIGHT, WIDTH, CHANNELS))
  arguments = {
    "keys": keys_for(2),
    "head": head,
    "maps": maps,
    "embeddings": maps,
    "positives": np.ones((2, 2), bool),
  }
  with pytest.raises(ValueError, match=message):
    pixel_filter.select(**{**arguments, **change})
