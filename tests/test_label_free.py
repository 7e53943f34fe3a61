"""Label-free baselines against scikit-learn, loops and hand-made images."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from gcl_jax.errors import DataError
from gcl_jax.evaluation import label_free


def pictures(count, seed=0, side=12):
  rng = np.random.default_rng(seed)
  base = rng.uniform(0, 255, (5, side, side))
  mix = rng.dirichlet(np.ones(5), count)
  noise = rng.normal(0, 5, (count, side, side))
  images = np.tensordot(mix, base, 1) + noise
  return np.clip(images, 0, 255).astype(np.uint8)[..., None]


@pytest.mark.parametrize("components", [1, 4, 60])
def test_pca_error_equals_scikit_learn(components):
  train, test = pictures(40), pictures(15, seed=1)
  flat = [x.reshape(len(x), -1) / 255 for x in (train, test)]
  model = PCA(min(components, 39), svd_solver="full").fit(flat[0])
  rebuilt = model.inverse_transform(model.transform(flat[1]))
  expected = np.mean((rebuilt - flat[1]) ** 2, axis=1)
  found = label_free.pca_error(train, test, components)
  assert found == pytest.approx(expected, rel=1e-3)


def test_pca_error_in_blocks_and_with_equal_images(monkeypatch):
  train, test = pictures(20), pictures(11, seed=1)
  whole = label_free.pca_error(train, test, 5)
  monkeypatch.setattr(label_free, "_BLOCK", 3)
  assert label_free.pca_error(train, test, 5) == pytest.approx(whole, rel=1e-5)
  same = np.repeat(train[:1], 4, axis=0)
  assert label_free.pca_error(same, same, 5) == pytest.approx(np.zeros(4))
  few = label_free.pca_error(train, test, 5, max_train=6)
  assert (few != whole).any() and (few < 1).all()


def test_the_error_maps_of_a_pca_are_pooled_in_blocks(monkeypatch):
  train, test = pictures(30), pictures(11, seed=1)
  flat = [x.reshape(len(x), -1) / 255 for x in (train, test)]
  model = PCA(4, svd_solver="full").fit(flat[0])
  maps = flat[1] - model.inverse_transform(model.transform(flat[1]))
  maps = maps.reshape(test.shape)
  blocks = []

  def pool(residual):
    blocks.append(residual.shape)
    return np.stack([residual[:, 3].mean((1, 2)), residual.max((1, 2, 3))], 1)

  monkeypatch.setattr(label_free, "_BLOCK", 4)
  found = label_free.pca_error(train, test, 4, pool=pool)
  expected = np.stack([maps[:, 3].mean((1, 2)), maps.max((1, 2, 3))], 1)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert blocks == [(4, 12, 12, 1), (4, 12, 12, 1), (3, 12, 12, 1)]
  assert found.dtype == np.float64


def test_pca_refuses_what_it_cannot_fit():
  with pytest.raises(DataError, match="2 healthy"):
    label_free.pca_error(pictures(1), pictures(3))
  with pytest.raises(DataError, match="sizes"):
    label_free.pca_error(pictures(5), pictures(3, side=10))


def test_edge_energy_sees_bumps_not_layers():
  rows, columns = np.mgrid[:40, :60]
  flat = np.where(rows < 20, 200, 50)
  bumpy = np.where(rows < 20 + 6 * np.sin(columns / 5), 200, 50)
  images = np.stack([flat, bumpy]).astype(np.uint8)[..., None]
  energy = label_free.edge_energy(images)
  assert energy[0] == pytest.approx(0, abs=1e-6) and energy[1] > 0.005
  # A linear ramp along the rows: its slope, but for the smoothed borders.
  ramp = np.broadcast_to(np.arange(200), (10, 200)).astype(np.uint8)
  assert label_free.edge_energy(ramp[None, ..., None])[0] == pytest.approx(
    1 / 255, rel=0.02
  )


def test_brightness_and_texture_by_hand():
  image = np.zeros((10, 10), np.uint8)
  image[4, 5] = 255
  assert label_free.brightness(image[None, ..., None]) == pytest.approx([0.01])
  mean, sd, background, p99, sharpness = label_free.texture_features([image])[0]
  assert (mean, background) == (pytest.approx(0.01), 0)
  assert sd == pytest.approx(np.sqrt(0.01 * 0.99))
  assert p99 == pytest.approx(np.quantile(image / 255, 0.99))
  laplacian = np.zeros((10, 10))
  laplacian[4, 5] = -4
  laplacian[[3, 5, 4, 4], [5, 5, 4, 6]] = 1
  assert sharpness == pytest.approx(np.log(laplacian.var()))


def test_texture_reads_every_stored_kind_alike():
  grey = pictures(1)[0, ..., 0]
  kinds = [
    grey,
    grey[..., None],
    np.repeat(grey[..., None], 3, axis=-1),
    grey.astype(np.uint16) * 257,
    grey / 255,
  ]
  table = label_free.texture_features(kinds)
  assert table.shape == (5, len(label_free.TEXTURE))
  assert table == pytest.approx(np.repeat(table[:1], 5, axis=0), rel=1e-4)
  flat = label_free.texture_features([np.zeros((8, 9))], sizes=[[496, 512]])
  assert np.isfinite(flat).all()
  assert np.exp(flat[0, 5:]) == pytest.approx([496, 512])
  with pytest.raises(DataError):
    label_free.texture_features([grey], sizes=[[0, 3]])


def test_regress_out_equals_a_linear_model():
  rng = np.random.default_rng(0)
  table = rng.normal(size=(80, 3)) * [1, 100, 0.01] + 5
  healthy = rng.random(80) < 0.6
  scores = table @ [1, 0.02, 30] + rng.normal(size=80)
  model = LinearRegression().fit(table[healthy], scores[healthy])
  expected = scores - model.predict(table)
  found = label_free.regress_out(scores, table, healthy)
  assert found == pytest.approx(expected, abs=1e-9)
  assert found[healthy].mean() == pytest.approx(0, abs=1e-12)
  rows = np.flatnonzero(healthy)
  assert (label_free.regress_out(scores, table, rows) == found).all()


def test_regress_out_removes_brightness_and_keeps_disease():
  rng = np.random.default_rng(1)
  light, sick = rng.normal(size=400), np.arange(400) >= 200
  scores = 3 * light + sick + 0.1 * rng.normal(size=400)
  left = label_free.regress_out(scores, light[:, None], ~sick)
  assert abs(np.corrcoef(left[~sick], light[~sick])[0, 1]) < 1e-9
  assert left[sick].mean() == pytest.approx(1, abs=0.1)


def test_regress_out_refuses_bad_rows():
  scores, table = np.arange(9.0), np.ones((9, 3))
  with pytest.raises(DataError, match="cannot fit"):
    label_free.regress_out(scores, table, np.arange(4))
  with pytest.raises(DataError, match="finite"):
    label_free.regress_out(scores * np.nan, table, np.arange(9))
  with pytest.raises(DataError):
    label_free.regress_out(scores, table[:5], np.arange(9))
  constant = label_free.regress_out(scores, table, np.arange(9))
  assert constant == pytest.approx(scores - 4)
