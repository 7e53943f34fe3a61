"""ResNets and their layers against linen's own and a numpy network."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gcl_jax.engine import flops
from gcl_jax.models import convolution
from gcl_jax.models.convolution import Conv, conv
from gcl_jax.models.layers import max_pool
from gcl_jax.models.resnet import resnet

pytestmark = pytest.mark.compiles

# At level 0, with which tests compile, XLA for a CPU (jaxlib 0.10.2) gave
# gradients of the stem under shard_map that were off by their own size, the
# same every time; at 1 and above, as users compile, they are right.
level_1 = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 1}
)


def normal(*shape, seed=0):
  return jnp.float32(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture(params=[0, 16], ids=["groups", "narrow"])
def each_form(request, monkeypatch):
  """Small layers by groups too, which is for those with more outputs."""
  monkeypatch.setattr(convolution, "_NARROW", request.param)


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize(
  "image, kernel, strides, padding",
  [
    ((2, 4), (3, 3), 1, 1),  # one product on a CPU
    ((3, 8), (3, 3), 2, 1),  # the same, strided
    ((5, 7), (7, 7), 2, 3),
    ((4, 3), (2, 3), 1, 0),
    ((5, 8), (1, 1), 1, 0),
    ((5, 8), (1, 1), 2, 0),
    ((5, 5), (3, 3), 1, 1),  # native, one image at a time
    ((9, 6), (3, 3), 1, 1),  # by groups of two, the divisor of 6 and 8
    ((14, 19), (7, 7), 2, 3),
    ((10, 11), (3, 2), 3, 0),  # rows that no output reads
    ((16, 17), (3, 3), 1, 1),  # by groups of two
  ],
)
def test_conv_equals_linen(image, kernel, strides, padding):
  inputs = normal(6, *image, 5)
  options = {"use_bias": True, "padding": padding}
  ours = Conv(4, kernel, strides, **options)
  theirs = nn.Conv(4, kernel, strides, **options)
  variables = theirs.init(jax.random.key(0), inputs)
  shapes = jax.eval_shape(ours.init, jax.random.key(0), inputs)
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)
  target = normal(*theirs.apply(variables, inputs).shape, seed=1)

  def pull(module):
    def loss(variables, inputs):
      outputs = module.apply(variables, inputs)
      return jnp.sum(outputs * target), outputs

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(run)(variables, inputs)

  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=3e-5),
    pull(ours),
    pull(theirs),
  )


def lowered(step, shapes):
  """{platform: program} for three that need not be here."""
  return {
    name: step.trace(*shapes).lower(lowering_platforms=(name,)).as_text()
    for name in ("cpu", "tpu", "cuda")
  }


def test_small_maps_are_products_on_a_cpu_only():
  step = jax.jit(functools.partial(conv, padding=1))
  shapes = [
    jax.ShapeDtypeStruct(s, jnp.float32) for s in [(2, 2, 4, 8), (3, 3, 8, 8)]
  ]
  for platform, text in lowered(step, shapes).items():
    assert ("stablehlo.convolution" in text) == (platform != "cpu")
    assert ("dot_general" in text) == (platform == "cpu")


def test_kernel_gradients_by_groups_on_a_cpu_only():
  def loss(inputs, kernel):
    return jnp.sum(conv(inputs, kernel, 1, 1) ** 2)

  step = jax.jit(jax.grad(loss, argnums=1))
  for features in (17, 16):  # narrow layers stay with XLA's own form
    shapes = [
      jax.ShapeDtypeStruct(s, jnp.float32)
      for s in [(4, 16, 16, 3), (3, 3, 3, features)]
    ]
    for platform, text in lowered(step, shapes).items():
      grouped = platform == "cpu" and features > 16
      assert ("stablehlo.while" in text) == grouped


@pytest.mark.usefixtures("each_form")
def test_second_derivatives_of_conv():
  inputs, kernel = normal(4, 7, 7, 3), normal(3, 3, 3, 2, seed=1)

  def penalty(form):
    def loss(inputs, kernel):
      return jnp.sum(jnp.sin(form(inputs, kernel)))

    def squares(inputs, kernel):
      gradients = jax.grad(loss, argnums=(0, 1))(inputs, kernel)
      return sum(jnp.sum(g**2) for g in gradients)

    return jax.jit(jax.grad(squares, argnums=(0, 1)))(inputs, kernel)

  ours = penalty(lambda x, k: conv(x, k, 2, 1))
  options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
  theirs = penalty(
    lambda x, k: lax.conv_general_dilated(
      x, k, (2, 2), ((1, 1), (1, 1)), **options
    )
  )
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("each_form")
def test_bfloat16_kernel_gradients_add_up_in_float32():
  """400 equal parts: a bfloat16 sum stops growing at 256."""
  inputs = jnp.ones((800, 16, 16, 1), jnp.bfloat16)
  kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16)
  gradient = jax.grad(lambda k: jnp.sum(conv(inputs, k, 1, 1)))(kernel)
  middle = float(gradient[1, 1, 0, 0])
  assert middle == pytest.approx(800 * 256, rel=0.01)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4)])
def test_max_pool_equals_linen(size):
  images = normal(2, *size, 3)
  pools = (
    max_pool,
    lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
  )
  target = normal(*pools[1](images).shape, seed=1)
  (ours, ours_back), (theirs, theirs_back) = (
    jax.jit(lambda x, pool=pool: (pool(x), jax.vjp(pool, x)[1](target)[0]))(
      images
    )
    for pool in pools
  )
  np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_allclose(ours_back, theirs_back, rtol=1e-6)


# -- the network against numpy ----------------------------------------------


def np_conv(x, kernel, stride, padding):
  h, w = kernel.shape[:2]
  x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  rows = range(0, x.shape[1] - h + 1, stride)
  columns = range(0, x.shape[2] - w + 1, stride)
  out = [
    [np.tensordot(x[:, i : i + h, j : j + w], kernel, 3) for j in columns]
    for i in rows
  ]
  return np.stack([np.stack(r, 1) for r in out], 1)


def np_pool(x):
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  out = [
    [
      x[:, i : i + 3, j : j + 3].max((1, 2))
      for j in range(0, x.shape[2] - 2, 2)
    ]
    for i in range(0, x.shape[1] - 2, 2)
  ]
  return np.stack([np.stack(r, 1) for r in out], 1)


def np_resnet(variables, x, blocks, bottleneck, stem, train):
  """The network of the paper, written out; returns the maps of the stages."""

  def layer(x, names, stride, padding):
    conv_name, norm_name = names
    params, stats = variables["params"], variables["batch_stats"]
    for name in norm_name[:-1]:
      params, stats = params[name], stats[name]
    x = np_conv(x, np.asarray(params[conv_name]["kernel"]), stride, padding)
    norm, seen = params[norm_name[-1]], stats[norm_name[-1]]
    mean, var = seen["mean"], seen["var"]
    if train:
      mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]

  stride, padding = (1, 1) if stem == "cifar" else (2, 3)
  x = np.maximum(layer(x, ("stem", ["stem_norm"]), stride, padding), 0)
  x = np_pool(x) if stem == "imagenet" else x
  maps = [x]
  for stage, count in enumerate(blocks):
    for index in range(count):
      stride = 2 if stage and not index else 1
      name = f"stage{stage + 1}_block{index + 1}"
      # Stride and padding of each convolution of the block.
      plan = [(1, 0), (stride, 1), (1, 0)] if bottleneck else [
        (stride, 1), (1, 1)
      ]  # fmt: skip
      hidden = x
      for k, (s, p) in enumerate(plan):
        names = (f"Conv_{k}", [name, f"BatchNorm_{k}"])
        hidden = layer(hidden, names, s, p)
        hidden = np.maximum(hidden, 0) if k < len(plan) - 1 else hidden
      if "shortcut" in variables["params"][name]:
        names = ("shortcut", [name, "shortcut_norm"])
        x = layer(x, names, stride, 0)
      x = np.maximum(hidden + x, 0)
    maps.append(x)
  return maps


def random_variables(model, image_shape):
  """Initial kernels; random scales, biases and statistics."""
  variables = jax.jit(lambda key: model.init(key, image_shape))(
    jax.random.key(0)
  )
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: (
      x if x.ndim > 1 else jnp.float32(random.uniform(0.5, 1.5, x.shape))
    ),
    variables,
  )


@pytest.mark.parametrize(
  "arch, stem, channels, train",
  [
    ("resnet18", "cifar", 3, True),
    ("resnet10", "imagenet", 1, False),
    ("resnet34", "oct", 3, False),
    ("resnet50", "imagenet", 1, True),
  ],
)
def test_network_equals_numpy(arch, stem, channels, train):
  model = resnet(arch, stem, width=4)
  images = normal(3, 17, 22, channels)
  variables = random_variables(model, (17, 22, channels))
  run = functools.partial(model.apply, train=train, taps=True, maps=True)
  features, stats, means, maps = jax.jit(run)(variables, images)
  each = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2)}
  blocks = each.get(arch, (3, 4, 6, 3))
  expected = np_resnet(
    jax.tree.map(np.asarray, variables),
    np.asarray(images, np.float64),
    blocks,
    arch == "resnet50",
    stem,
    train,
  )
  assert features.shape == (3, model.feature_dim)
  np.testing.assert_array_equal(features, means[-1])
  assert len(expected) == 5
  for ours, theirs in (
    (means, [x.mean((1, 2)) for x in expected]),
    (maps, expected),
  ):
    theirs = [np.float32(x) for x in theirs]
    chex.assert_trees_all_close(ours, theirs, rtol=2e-3, atol=2e-3)
  same = jax.tree.map(np.array_equal, stats, variables["batch_stats"])
  assert any(jax.tree.leaves(same)) != train


@pytest.mark.parametrize(
  "arch, count",
  [("resnet18", 11176512), ("resnet34", 21284672), ("resnet50", 23508032)],
)
def test_published_sizes(arch, count):
  # torchvision's counts less the 1000-class layer.
  init = functools.partial(
    resnet(arch, "imagenet").init, image_shape=(64, 64, 3)
  )
  params = jax.eval_shape(init, jax.random.key(0))["params"]
  assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_init_is_kaiming_and_follows_the_key():
  model = resnet("resnet18", width=16)
  init = jax.jit(lambda key: model.init(key, (16, 16, 3)))
  variables, again, other = (init(jax.random.key(k)) for k in (0, 0, 1))
  first = variables["params"]["stage4_block1"]["Conv_1"]["kernel"]
  second = variables["params"]["stage4_block2"]["Conv_0"]["kernel"]
  assert first.shape == second.shape == (3, 3, 128, 128)
  np.testing.assert_allclose(np.std(first), np.sqrt(2 / (9 * 128)), rtol=0.02)
  assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
  jax.tree.map(np.testing.assert_array_equal, variables, again)
  kernel = other["params"]["stage4_block1"]["Conv_1"]["kernel"]
  assert not np.array_equal(kernel, first)
  norm = variables["params"]["stem_norm"]
  assert np.all(norm["scale"] == 1) and not np.any(norm["bias"])
  stats = variables["batch_stats"]["stem_norm"]
  assert np.all(stats["var"] == 1) and not np.any(stats["mean"])


def test_batch_statistics_are_of_all_devices():
  model = resnet("resnet18", "imagenet", width=2)
  images, target = normal(8, 32, 32, 1), normal(8, 16, seed=1)
  variables = random_variables(model, (32, 32, 1))

  def step(params, images, target, axis_name=None):
    def loss(params):
      features, stats, maps = model.apply(
        {"params": params, "batch_stats": variables["batch_stats"]},
        images,
        train=True,
        axis_name=axis_name,
        maps=True,
      )
      features = (features + jnp.mean(maps[-1], (1, 2))) / 2  # the same twice
      return jnp.mean(jnp.sum(features * target, axis=1)), stats

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    if axis_name:
      value, gradient = jax.lax.pmean((value, gradient), axis_name)
    return value, stats, gradient

  params = variables["params"]
  expected = level_1(step)(params, images, target)
  local = functools.partial(step, axis_name="data")
  split = (x.reshape(2, 4, *x.shape[1:]) for x in (images, target))
  run = jax.vmap(local, (None, 0, 0), axis_name="data")
  named = jax.tree.map(lambda x: x[1], level_1(run)(params, *split))
  mesh = jax.make_mesh(
    (2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2]
  )
  run = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(P(), P("data"), P("data")),
    out_specs=P(),
    check_vma=False,
  )
  for found in (named, level_1(run)(params, images, target)):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4),
      found,
      expected,
    )


def test_maps_and_taps_are_appended_where_asked():
  model = resnet("resnet18", "oct", width=2, dtype="bfloat16")
  variables = random_variables(model, (32, 16, 3))
  images = normal(2, 32, 16, 3)
  run = jax.jit(model.apply, static_argnames=("taps", "maps"))
  full = run(variables, images, taps=True, maps=True)
  chex.assert_trees_all_equal(run(variables, images), full[:2])
  chex.assert_trees_all_equal(run(variables, images, taps=True), full[:3])
  features, _, maps = run(variables, images, maps=True)
  chex.assert_trees_all_equal(maps, full[3])
  sizes = [(16, 8, 2), (16, 8, 2), (8, 4, 4), (4, 2, 8), (2, 1, 16)]
  chex.assert_shape(maps, [(2, *size) for size in sizes])
  chex.assert_type([features, *maps], jnp.float32)
  np.testing.assert_allclose(
    features, np.mean(maps[-1], (1, 2)), rtol=1e-5, atol=1e-6
  )


def test_evaluation_looks_at_one_image_at_a_time():
  model = resnet("resnet18", "oct", width=2)
  variables = random_variables(model, (16, 16, 1))
  images = normal(4, 16, 16, 1)
  run = jax.jit(model.apply)
  together, stats = run(variables, images)
  alone, _ = run(variables, images[2:3])
  np.testing.assert_allclose(together[2:3], alone, rtol=1e-4, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_remat_computes_the_blocks_again_and_the_same():
  """Memory is not looked at: XLA's CPU backend merges the two again."""
  images = jax.random.normal(jax.random.key(1), (16, 64, 64, 1))

  def compiled(remat):
    model = resnet("resnet18", "oct", width=4, remat=remat)

    def loss(params, stats):
      variables = {"params": params, "batch_stats": stats}
      features, stats = model.apply(variables, images, train=True)
      return jnp.sum(jnp.sin(features)), stats

    variables = model.init(jax.random.key(0), images.shape[1:])
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    arguments = variables["params"], variables["batch_stats"]
    arithmetic = flops.count(step, *arguments)
    return arithmetic, step.lower(*arguments).compile(), variables

  arithmetic, plain, variables = compiled(False)
  more, spare, same = compiled(True)
  assert 1.25 < more / arithmetic < 1.4  # four passes in place of three
  assert jax.tree.structure(variables) == jax.tree.structure(same)
  for a, b in zip(
    jax.tree.leaves(plain(variables["params"], variables["batch_stats"])),
    jax.tree.leaves(spare(variables["params"], variables["batch_stats"])),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def test_bfloat16_keeps_parameters_statistics_and_features_in_float32():
  exact = resnet("resnet18", "oct", width=4)
  rough = resnet("resnet18", "oct", width=4, dtype="bfloat16")
  variables = jax.jit(lambda key: exact.init(key, (16, 16, 1)))(
    jax.random.key(0)
  )
  shapes = jax.eval_shape(
    lambda key: rough.init(key, (16, 16, 1)), jax.random.key(0)
  )
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  run = functools.partial(rough.apply, train=True)
  images = normal(4, 16, 16, 1)
  features, stats = jax.jit(run)(variables, images)
  assert features.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
  assert "bf16" in jax.jit(run).lower(variables, images).as_text()
  expected, _ = jax.jit(functools.partial(exact.apply, train=True))(
    variables, images
  )
  error = np.linalg.norm(features - expected) / np.linalg.norm(expected)
  assert 1e-4 < error < 0.2


@pytest.mark.parametrize(
  "options", [{"arch": "resnet7"}, {"stem": "x"}, {"dtype": "float16"}]
)
def test_unknown_names_are_refused(options):
  with pytest.raises(ValueError, match="must be one of"):
    resnet(**options)
