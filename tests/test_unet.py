"""The U-Net against a float64 numpy network, and its two halves apart."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.models.unet import pixel_projection, unet

pytestmark = pytest.mark.compiles

# Whole networks compile in a third of the time without LLVM's optimiser.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def normal(*shape, seed=0):
  return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def random_variables(model, image_shape, seed=0):
  """Initial kernels; random scales, biases and statistics."""
  variables = quick_jit(lambda key: model.init(key, image_shape))(
    jax.random.key(seed)
  )
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (
      x if x.ndim > 1 else jnp.float32(random.uniform(0.5, 1.5, x.shape))
    ),
    variables,
  )


def assert_equal(found, expected, rtol=1e-4, atol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
    found,
    expected,
  )


# -- the network against numpy ----------------------------------------------


def np_conv3(x, kernel):
  batch, height, width, _ = x.shape
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  out = np.zeros((batch, height, width, kernel.shape[-1]))
  for i in range(height):
    for j in range(width):
      out[:, i, j] = np.tensordot(padded[:, i : i + 3, j : j + 3], kernel, 3)
  return out


def np_level(x, params, stats, train, seen):
  for k in range(2):
    x = np_conv3(x, params[f"Conv_{k}"]["kernel"])
    norm, running = params[f"BatchNorm_{k}"], stats[f"BatchNorm_{k}"]
    mean, var = running["mean"], running["var"]
    if train:
      mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    seen.append((mean, var))
    x = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
    x = np.where(x > 0, x, 0.01 * x)
  return x


def np_pool(x):
  out = np.zeros((len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3]))
  for i in range(out.shape[1]):
    for j in range(out.shape[2]):
      cell = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
      out[:, i, j] = cell.max((1, 2))
  return out


def np_up(x, kernel):
  """Output (2i + r, 2j + s) reads input (i, j) with the matrix of (r, s)."""
  batch, height, width, channels = x.shape
  phases = kernel.reshape(channels, 2, 2, -1)
  out = np.zeros((batch, 2 * height, 2 * width, phases.shape[-1]))
  for r in range(2):
    for s in range(2):
      out[:, r::2, s::2] = x @ phases[:, r, s]
  return out


def np_unet(variables, x, levels, train):
  """Maps from the bottleneck up, skips, logits, (mean, variance) of norms."""
  params = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)
  stats, params = params["batch_stats"], params["params"]
  skips, seen = [], []
  for k in range(1, levels):
    name = f"level{k}"
    half = params["encoder"][name], stats["encoder"][name]
    skips.append(np_level(x, *half, train, seen))
    x = np_pool(skips[-1])
  for k in (1, 2):
    layer = params["encoder"][f"bottleneck{k}"]
    x = np.maximum(np_conv3(x, layer["kernel"]) + layer["bias"], 0)
  maps = [x]
  for k in range(levels - 1, 0, -1):
    x = np_up(x, params["decoder"][f"up{k}"]["kernel"])
    x = np.concatenate([x, skips[k - 1]], -1)
    half = (params["decoder"][f"level{k}"], stats["decoder"][f"level{k}"])
    x = np_level(x, *half, train, seen)
    maps.append(x)
  output = params["decoder"]["output"]
  return maps, skips, x @ output["kernel"][0, 0] + output["bias"], seen


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("widths", [(3, 5), (3, 4, 6)])
def test_network_equals_numpy(widths, train):
  model, levels = unet(widths, classes=4), len(widths)
  images = normal(3, 8, 12, 2)
  variables = random_variables(model, (8, 12, 2))
  run = quick_jit(functools.partial(model.segment, train=train))
  logits, stats = run(variables, images)
  run = quick_jit(functools.partial(model.encode, train=train))
  (bottleneck, skips), halfway = run(variables, images)
  expected = np_unet(variables, np.asarray(images), levels, train)
  assert_equal(
    [bottleneck, list(skips), logits],
    [expected[0][0], *expected[1:3]],
    2e-4,
    2e-4,
  )
  before = variables["batch_stats"]
  assert_equal(halfway["encoder"], stats["encoder"])
  assert_equal(halfway["decoder"], before["decoder"], 0, 0)
  if not train:
    return assert_equal(stats, before, 0, 0)
  names = [("encoder", k) for k in range(1, levels)]
  names += [("decoder", k) for k in range(levels - 1, 0, -1)]
  for place, (mean, var) in enumerate(expected[3]):
    half, k = names[place // 2]
    norm = f"BatchNorm_{place % 2}"
    old, new = (x[half][f"level{k}"][norm] for x in (before, stats))
    assert_equal(new["mean"], 0.9 * old["mean"] + 0.1 * mean, 1e-4, 1e-4)
    assert_equal(new["var"], 0.9 * old["var"] + 0.1 * var, 1e-4, 1e-4)


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  "widths, size, channels, classes",
  [
    ((48, 96, 192, 384, 768), (352, 352), 1, 4),
    ((32, 64, 128, 256, 512), (256, 512), 1, 8),
    ((16, 32, 64), (32, 64), 3, 2),
    ((4, 3), (2, 2), 1, 1),
  ],
)
def test_shapes_and_parameter_counts(widths, size, channels, classes):
  model = unet(widths, classes)
  image_shape = (*size, channels)
  variables = jax.eval_shape(
    lambda key: model.init(key, image_shape), jax.random.key(0)
  )
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  logits, _ = jax.eval_shape(model.segment, variables, images)
  (bottleneck, skips), _ = jax.eval_shape(model.encode, variables, images)
  stride = 2 ** (len(widths) - 1)
  assert model.stride == stride and model.feature_dim == widths[-1]
  assert logits.shape == (2, *size, classes)
  cells = tuple(side // stride for side in size)
  assert bottleneck.shape == (2, *cells, widths[-1])
  for k, (skip, width) in enumerate(zip(skips, widths[:-1], strict=True)):
    assert skip.shape == (2, size[0] >> k, size[1] >> k, width)
  encoder, decoder, inputs = 0, widths[0] * classes + classes, channels
  for k, width in enumerate(widths[:-1]):
    double = 9 * width**2 + 4 * width  # second convolution, two norms
    encoder += 9 * inputs * width + double
    decoder += 4 * widths[k + 1] * width + 9 * 2 * width**2 + double
    inputs = width
  encoder += 9 * inputs * widths[-1] + 9 * widths[-1] ** 2 + 2 * widths[-1]
  assert count(variables["params"]["encoder"]) == encoder
  assert count(variables["params"]["decoder"]) == decoder
  dtypes = {x.dtype for x in jax.tree.leaves(variables)}
  assert dtypes == {jnp.dtype("float32")}


def test_init_is_he_and_follows_the_key():
  model = unet((48, 96), 4)
  init = quick_jit(lambda key: model.init(key, (8, 8, 1)))
  variables, again, other = (init(jax.random.key(k)) for k in (0, 0, 1))
  assert_equal(variables, again, 0, 0)
  kernels = variables["params"]
  for half, layer, fan_in in (
    ("encoder", kernels["encoder"]["level1"]["Conv_1"], 9 * 48),
    ("encoder", kernels["encoder"]["bottleneck2"], 9 * 96),
    ("decoder", kernels["decoder"]["up1"], 96),
    ("decoder", kernels["decoder"]["level1"]["Conv_0"], 9 * 96),
  ):
    expected = np.sqrt(2 / (1 + 0.01**2) / fan_in)
    np.testing.assert_allclose(np.std(layer["kernel"]), expected, rtol=0.02)
    assert abs(np.mean(layer["kernel"])) < 0.02 * expected, half
  first = kernels["encoder"]["bottleneck1"]
  assert not np.any(first["bias"])
  changed = other["params"]["encoder"]["bottleneck1"]["kernel"]
  assert not np.array_equal(first["kernel"], changed)
  norm = kernels["decoder"]["level1"]["BatchNorm_0"]
  assert np.all(norm["scale"] == 1) and not np.any(norm["bias"])
  stats = variables["batch_stats"]["encoder"]["level1"]["BatchNorm_1"]
  assert np.all(stats["var"] == 1) and not np.any(stats["mean"])


# -- what a U-Net is for ----------------------------------------------------


def test_every_skip_reaches_the_output_at_its_own_resolution():
  model = unet((4, 5, 6), 3)
  variables = random_variables(model, (32, 32, 1))
  run = quick_jit(model.segment)
  images = normal(1, 32, 32, 1)
  plain, _ = run(variables, images)
  for k, width in ((1, 4), (2, 5)):
    cut = jax.tree.map(lambda x: x, variables)
    layer = cut["params"]["decoder"][f"level{k}"]["Conv_0"]
    layer["kernel"] = layer["kernel"].at[:, :, width:].set(0)
    assert np.abs(run(cut, images)[0] - plain).max() > 1e-2
  # With nothing from below, a pixel reaches no further than four convolutions.
  cut = jax.tree.map(lambda x: x, variables)
  up = cut["params"]["decoder"]["up1"]
  up["kernel"] = jnp.zeros_like(up["kernel"])
  bright = images.at[0, 13, 17, 0].add(3)
  change = np.abs(run(cut, bright)[0] - run(cut, images)[0])[0].max(-1)
  rows, columns = np.nonzero(change)
  assert (rows.min(), rows.max()) == (9, 17)
  assert (columns.min(), columns.max()) == (13, 21)
  far = np.abs(run(variables, bright)[0] - plain)[0].max(-1)
  assert np.ptp(np.nonzero(far)[0]) > 16


def test_a_shift_by_whole_cells_shifts_the_logits():
  model = unet((3, 4, 5), 2)
  variables = random_variables(model, (64, 64, 1))
  run = quick_jit(model.segment)
  images = normal(1, 64, 64, 1)
  moved = jnp.roll(images, (4, 8), (1, 2))
  plain, after = run(variables, images)[0], run(variables, moved)[0]
  assert_equal(after[:, 28:40, 32:40], plain[:, 24:36, 24:32], 1e-4, 1e-4)


def test_evaluation_looks_at_one_image_at_a_time():
  model = unet((3, 4), 2)
  variables = random_variables(model, (8, 8, 1))
  images = normal(4, 8, 8, 1)
  run = quick_jit(model.segment)
  assert_equal(run(variables, images[2:3])[0], run(variables, images)[0][2:3])
  train = quick_jit(functools.partial(model.segment, train=True))
  alone = train(variables, images[2:3])[0]
  assert np.abs(alone - train(variables, images)[0][2:3]).max() > 1e-2


# -- maps of the decoder ----------------------------------------------------


def decoded(model, variables, images, levels_up, train=True, axis_name=None):
  """The decoder's map after some up-steps, and the batch statistics."""
  how = dict(train=train, axis_name=axis_name)
  encoded, stats = model.encode(variables, images, **how)
  variables = {**variables, "batch_stats": stats}
  return model.decode(variables, encoded, levels_up=levels_up, **how)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("levels_up", [0, 1, 2])
def test_maps_equal_numpy_and_run_no_later_stage(levels_up, train):
  model = unet((3, 4, 6), classes=2)
  images = normal(3, 8, 12, 2)
  variables = random_variables(model, (8, 12, 2))
  run = quick_jit(
    functools.partial(decoded, model, levels_up=levels_up, train=train)
  )
  found, stats = run(variables, images)
  maps, *_ = np_unet(variables, np.asarray(images), 3, train)
  cells = 2 ** (2 - levels_up)
  chex.assert_shape(found, (3, 8 // cells, 12 // cells, (6, 4, 3)[levels_up]))
  chex.assert_trees_all_close(
    found, np.float32(maps[levels_up]), rtol=2e-4, atol=2e-4
  )
  # Statistics: as segment leaves those that ran, and the others as they were.
  _, full = quick_jit(functools.partial(model.segment, train=train))(
    variables, images
  )
  chex.assert_trees_all_close(stats["encoder"], full["encoder"], rtol=1e-5)
  chex.assert_trees_all_equal_structs(stats, variables["batch_stats"])
  for k in (1, 2):
    name, ran = f"level{k}", k > 2 - levels_up
    expected = (full if ran else variables["batch_stats"])["decoder"][name]
    chex.assert_trees_all_close(stats["decoder"][name], expected, rtol=1e-5)
  # What `subset` leaves is enough.
  again, _ = run(model.subset(variables, levels_up), images)
  chex.assert_trees_all_equal(again, found)


@pytest.mark.parametrize("levels_up", [0, 1])
def test_gradients_of_maps_are_finite_differences(levels_up):
  model = unet((3, 4, 6), classes=2)
  images = normal(2, 8, 8, 1)
  variables = random_variables(model, (8, 8, 1))
  target = normal(*((2, 2, 2, 6), (2, 4, 4, 4))[levels_up], seed=1)

  def loss(params):
    state = {**variables, "params": params}
    found, _ = decoded(model, state, images, levels_up)
    return jnp.sum(found * target)

  gradient = quick_jit(jax.grad(loss))(variables["params"])
  random = np.random.default_rng(2)
  direction = jax.tree.map(
    lambda x: random.normal(size=x.shape), variables["params"]
  )

  def np_loss(step):
    moved = jax.tree.map(
      lambda x, d: np.float64(x) + step * d, variables["params"], direction
    )
    state = {**variables, "params": moved}
    maps, *_ = np_unet(state, np.asarray(images), 3, train=True)
    return np.sum(maps[levels_up] * np.asarray(target))

  expected = (np_loss(1e-6) - np_loss(-1e-6)) / 2e-6
  products = jax.tree.map(np.vdot, gradient, direction)
  assert sum(jax.tree.leaves(products)) == pytest.approx(expected, rel=1e-3)
  ran = model.subset({"params": gradient}, levels_up)["params"]
  for name, stage in gradient["decoder"].items():
    large = max(np.abs(leaf).max() for leaf in jax.tree.leaves(stage))
    assert (large > 0) == (name in ran["decoder"]), name


def test_subset_holds_the_stages_that_run():
  model = unet((3, 4, 5), 2)
  variables = random_variables(model, (8, 8, 1))
  stages = ([], ["level2", "up2"], ["level1", "level2", "up1", "up2"])
  for levels_up, names in enumerate(stages):
    part = model.subset(variables, levels_up)
    assert sorted(part["params"]["decoder"]) == names
    norms = [name for name in names if name.startswith("level")]
    assert sorted(part["batch_stats"]["decoder"]) == norms
    for kind, halves in part.items():
      assert halves["encoder"] is variables[kind]["encoder"]
      for name, stage in halves["decoder"].items():
        assert stage is variables[kind]["decoder"][name]


@pytest.mark.parametrize("levels_up", [-1, 3])
def test_levels_that_a_unet_has_not_are_refused(levels_up):
  model = unet((3, 4, 5), 2)
  message = f"levels_up must be 0 to 2 for a U-Net of 3 levels, got {levels_up}"
  with pytest.raises(ValueError, match=message):
    model.decode({}, (jnp.zeros((1, 2, 2, 5)), ()), levels_up=levels_up)
  with pytest.raises(ValueError, match=message):
    model.subset({}, levels_up)


# -- across devices ---------------------------------------------------------


@pytest.mark.parametrize("output", ["segment", "decode"])
def test_batch_statistics_are_of_all_devices(output):
  widths = (2, 3) if output == "segment" else (2, 3, 3)
  model = unet(widths, 2)
  run = {
    "segment": model.segment,
    "decode": functools.partial(decoded, model, levels_up=1),
  }[output]
  # Shards of different brightness, whose own statistics differ a lot.
  images = normal(8, 4, 4, 1) + jnp.arange(8.0)[:, None, None, None]
  target = normal(8, *((4, 4, 2) if output == "segment" else (2, 2, 3)), seed=1)
  variables = random_variables(model, (4, 4, 1))

  def step(params, images, target, axis_name=None):
    def loss(params):
      state = {"params": params, "batch_stats": variables["batch_stats"]}
      outputs, stats = run(state, images, train=True, axis_name=axis_name)
      return jnp.mean(outputs * target), stats

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    if axis_name:
      value, gradient = lax.pmean((value, gradient), axis_name)
    return value, stats, gradient

  params = variables["params"]
  expected = quick_jit(step)(params, images, target)
  local = functools.partial(step, axis_name="data")
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(P(), P("data"), P("data")),
    out_specs=P(),
    check_vma=False,
  )
  chex.assert_trees_all_close(
    quick_jit(mapped)(params, images, target), expected, rtol=1e-3, atol=1e-5
  )
  split = [x.reshape(4, 2, *x.shape[1:]) for x in (images, target)]
  batched = jax.vmap(local, (None, 0, 0), axis_name="data")
  by_device = jax.pmap(
    local, "data", in_axes=(None, 0, 0), devices=jax.devices()[:4]
  )
  for each in (quick_jit(batched), by_device):
    found = jax.tree.map(lambda x: x[1], each(params, *split))
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-5)


# -- transfer ---------------------------------------------------------------


def test_transfer_moves_the_encoder_and_the_stages_given():
  model = unet((3, 4, 5), 4)
  fresh = random_variables(model, (8, 8, 1), seed=0)
  other = random_variables(unet((3, 4, 5), 2), (8, 8, 1), seed=1)
  encoder = {kind: {"encoder": other[kind]["encoder"]} for kind in other}
  for pretrained, moved in (
    (encoder, []),
    (model.subset(other, 0), []),
    (model.subset(other, 1), ["level2", "up2"]),
    (model.subset(other, 2), ["level1", "level2", "up1", "up2"]),
  ):
    expected = jax.tree.map(lambda x: x, fresh)
    for kind in expected:
      expected[kind]["encoder"] = other[kind]["encoder"]
      for name in moved:
        if name in other[kind]["decoder"]:
          expected[kind]["decoder"][name] = other[kind]["decoder"][name]
    mixed = model.transfer(fresh, pretrained)
    chex.assert_trees_all_equal(mixed, expected)
    chex.assert_trees_all_equal(
      quick_jit(model.transfer)(fresh, pretrained), expected
    )
  whole = random_variables(model, (8, 8, 1), seed=2)
  chex.assert_trees_all_equal(model.transfer(fresh, whole), whole)
  # The encoder runs alone, without a decoder's variables.
  images = normal(2, 8, 8, 1)
  run = quick_jit(functools.partial(model.encode, train=True))
  found, _ = run(mixed, images)
  expected, stats = run(encoder, images)
  chex.assert_trees_all_equal(found, expected)
  assert set(stats) == {"encoder"}


def test_networks_that_do_not_fit_are_named():
  model = unet((3, 4, 5), 4)
  fresh = random_variables(model, (8, 8, 1))
  wider = random_variables(unet((3, 4, 6), 4), (8, 8, 1))
  colour = random_variables(model, (8, 8, 3))
  two = random_variables(unet((3, 4, 5), 2), (8, 8, 1))
  deep = random_variables(unet((3, 4, 5, 6), 4), (8, 8, 1))
  half = {kind: {"encoder": dict(two[kind]["encoder"])} for kind in two}
  del half["params"]["encoder"]["level2"]
  stage = {
    "params": model.subset(two, 1)["params"],
    "batch_stats": {"encoder": two["batch_stats"]["encoder"]},
  }
  for pretrained, message in (
    (
      wider,
      r"params/decoder/up2/kernel is \(1, 1, 6, 16\) there and"
      r" \(1, 1, 5, 16\) here",
    ),
    (colour, "encoder/level1/Conv_0/kernel is .*3, 3, 3, 3.* there"),
    (two, r"decoder/output/bias is \(2,\) there and \(4,\) here"),
    (deep, "decoder/level3/BatchNorm_0/mean is .* there and absent here"),
    (half, "encoder/level2/BatchNorm_0/bias is absent there"),
    (stage, "batch_stats/decoder/level2/BatchNorm_0/mean is absent there"),
    ({"params": two["params"]}, "batch_stats/.* is absent there"),
  ):
    with pytest.raises(ValueError, match=message):
      model.transfer(fresh, pretrained)


# -- numbers and refusals ---------------------------------------------------


def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32():
  exact, rough = unet((4, 8), 3), unet((4, 8), 3, dtype="bfloat16")
  variables = random_variables(exact, (8, 8, 1))
  shapes = jax.eval_shape(
    lambda key: rough.init(key, (8, 8, 1)), jax.random.key(0)
  )
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  images = normal(4, 8, 8, 1)
  run = quick_jit(functools.partial(rough.segment, train=True))
  logits, stats = run(variables, images)
  assert {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
  (bottleneck, skips), _ = quick_jit(rough.encode)(variables, images)
  assert logits.dtype == bottleneck.dtype == jnp.float32
  assert skips[0].dtype == jnp.bfloat16
  expected, _ = quick_jit(functools.partial(exact.segment, train=True))(
    variables, images
  )
  error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
  assert 1e-4 < error < 0.1


def test_sizes_and_options_that_do_not_fit_are_refused():
  model = unet((2, 3, 4, 5, 6))
  for size, message in (
    ((352, 50, 1), "width 50 is not a multiple of 16.*48 or 64"),
    ((8, 32, 1), "height 8 is not a multiple of 16.*crop it to 16$"),
  ):
    with pytest.raises(ValueError, match=message):
      model.init(jax.random.key(0), size)
    with pytest.raises(ValueError, match=message):
      model.encode({}, jnp.zeros((1, *size)))
    with pytest.raises(ValueError, match=message):
      model.segment({}, jnp.zeros((1, *size)))
  with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
    model.encode({}, jnp.zeros((32, 32, 1)))
  for options in ({"widths": (8,)}, {"widths": (0, 4)}, {"classes": 0}):
    with pytest.raises(ValueError, match="at least two widths"):
      unet(**options)
  with pytest.raises(ValueError, match="dtype must be"):
    unet(dtype="float16")


def test_pixel_projection_equals_two_convolutions():
  model = pixel_projection(6, out=4)
  variables = model.init(jax.random.key(0), (6,))
  maps = normal(2, 3, 5, 6)
  found = model.apply(variables, maps)
  first, second = variables["params"].values()
  assert first["kernel"].shape == (6, 6) and model.feature_dim == 4
  numbers = ("NHWC", "HWIO", "NHWC")

  def one_by_one(x, layer):
    kernel = layer["kernel"][None, None]
    y = lax.conv_general_dilated(
      x, kernel, (1, 1), "VALID", dimension_numbers=numbers
    )
    return y + layer["bias"]

  expected = one_by_one(jax.nn.relu(one_by_one(maps, first)), second)
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  assert_equal(found, expected)
  np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
