"""What uncertainty goes along with, against slow references; warnings."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from gcl_jax.data.slice_geometry import prepare_slice
from gcl_jax.evaluation import intervals, weighted
from gcl_jax.methods.pixel_global import (
  measure,
  places,
  report_warnings,
  uncertainty,
)

ALIKE = (1, 2)


def residual_correlation(first, second, controls):
  """Partial rank correlation by least squares on the ranks."""
  ranks = [stats.rankdata(x) for x in (first, second, *controls)]
  design = np.stack([np.ones(len(first)), *ranks[2:]], axis=1)
  left = [
    r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]
  ]
  return np.corrcoef(*left)[0, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_partial_rank_correlation_equals_least_squares(count):
  rng = np.random.default_rng(count)
  controls = rng.integers(0, 7, (count, 60)).astype(float)
  first = controls.sum(0) + rng.integers(0, 9, 60)
  second = (first + rng.normal(0, 5, 60) > 5).astype(float)
  weights = np.concatenate([np.ones((1, 60)), rng.integers(0, 2, (4, 60))])
  found = weighted.partial_spearman(first, second, controls, weights)
  expected = [
    residual_correlation(first[w > 0], second[w > 0], controls[:, w > 0])
    for w in weights
  ]
  np.testing.assert_allclose(found, expected, atol=1e-9)


def test_partial_rank_correlation_at_its_ends():
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, 40))
  ones, every = np.ones(40), np.ones((1, 40))
  plain = weighted.spearman(first, second, every)
  for controls in ([ones], [ones, ones]):  # nothing to hold fixed
    found = weighted.partial_spearman(first, second, controls, every)
    np.testing.assert_allclose(found, plain, atol=1e-12)
  twice = [second**3, 1 - second]  # one explains it, and both say the same
  assert np.isnan(weighted.partial_spearman(first, second, twice, every))
  assert np.isnan(weighted.partial_spearman(first, ones, [second], every))


def views(box, flipped=False, cells=(4, 6)):
  """Places float[h, w, 2] of the cells of a crop, box (top, left, ...)."""
  rows, columns = (
    first + (np.arange(n) + 0.5) * (last - first) / n - 0.5
    for first, last, n in zip(box[:2], box[2:], cells, strict=True)
  )
  columns = columns[::-1] if flipped else columns
  return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


def turned(angle, centre, cells, step):
  """Places of a view turned about its centre."""
  index = np.moveaxis(np.indices(cells), 0, -1)
  index = (index - (np.array(cells) - 1) / 2) * step
  c, s = np.cos(angle), np.sin(angle)
  return index @ np.array([[c, -s], [s, c]]).T + centre


def test_share_of_a_marker_inside_a_view():
  # Edges of pixels 0..15: a view of the whole covers -0.5 to 15.5.
  each = [(0, 0, 16, 16), (0, 0, 16, 8), (0, 8, 16, 16), (8, 0, 16, 16)]
  box = np.array([[-0.5, 5.5, 7.5, 9.5], [np.nan] * 4])
  for flipped in (False, True):
    grids = np.stack([views(crop, flipped) for crop in each])
    found = places.share_inside(np.stack([grids, grids]), box)
    np.testing.assert_allclose(found[0], [1, 0.5, 0.5, 0])
    assert np.isnan(found[1]).all()


def test_share_inside_a_turned_view_equals_counting_points():
  grid = turned(0.4, (9.0, 7.0), (5, 7), 2.0)
  box = np.array([1.0, 3.0, 13.0, 9.0])
  points = np.random.default_rng(0).uniform(box[:2], box[2:], (20_000, 2))
  c, s = np.cos(0.4), np.sin(0.4)
  back = (points - (9.0, 7.0)) @ np.array([[c, -s], [s, c]])  # turned back
  inside = (np.abs(back) <= np.array([5.0, 7.0])).all(-1).mean()
  assert 0.2 < inside < 0.9
  found = places.share_inside(grid[None, None], box[None])
  assert found[0, 0] == pytest.approx(inside, abs=0.04)


def test_classes_at_places_and_outside():
  rng = np.random.default_rng(1)
  masks = rng.integers(0, 4, (3, 6, 9), np.uint8)
  where = rng.uniform(-2, 10, (3, 2, 20, 2))
  found = places.classes_at(masks, where)
  for n, v, k in np.ndindex(found.shape):
    row, column = (int(np.floor(x + 0.5)) for x in where[n, v, k])
    inside = 0 <= row < 6 and 0 <= column < 9
    assert found[n, v, k] == (masks[n, row, column] if inside else -1)
  assert (found == -1).any() and (found >= 0).any()


def test_markers_are_edges_in_the_prepared_slice():
  """A box of 6 x 4 pixels drawn into a slice that is padded by 3 and 5."""
  table = {
    "marker_top": np.array([2.0, np.nan]),
    "marker_left": np.array([9.0, np.nan]),
    "marker_bottom": np.array([8.0, np.nan]),
    "marker_right": np.array([13.0, np.nan]),
    "spacing_y": np.ones(2),
    "spacing_x": np.ones(2),
  }
  stored = np.zeros((20, 20), np.uint8)
  stored[2:8, 9:13] = 200
  config = ConfigDict({"preprocess": {"size": (26, 30), "spacing": ()}})
  images = types.SimpleNamespace(table=table, stored_shape=lambda r: (20, 20))
  found = uncertainty.markers(images, np.arange(2), config)
  prepared, _ = prepare_slice(stored, None, (1, 1), None, (26, 30))
  where = np.argwhere(prepared > 0)
  expected = [*(where.min(0) - 0.5), *(where.max(0) + 0.5)]
  np.testing.assert_allclose(found[0], expected)
  assert np.isnan(found[1]).all()
  images.table = {}
  assert np.isnan(uncertainty.markers(images, np.arange(2), config)).all()


def test_rows_are_spread_over_patients():
  groups = np.array(list("aaaaaaaabbc"))
  rows = np.arange(11)
  every = places.spread_rows(groups, rows, 99)
  np.testing.assert_array_equal(every, rows)
  np.testing.assert_array_equal(places.spread_rows(groups, rows, 3), [4, 9, 10])
  found = places.spread_rows(groups, rows, 4)
  assert [str(groups[r]) for r in found] == list("aabc")
  found = places.spread_rows(groups, rows, 7)
  assert [str(groups[r]) for r in found] == list("aaaabbc")
  assert len(set(found.tolist())) == 7 and found[0] > 0  # not the first four
  assert [str(groups[r]) for r in places.spread_rows(groups, rows, 2)] == [
    "a",
    "c",
  ]


def cells_of(seed=0, patients=8, marker=True):
  """An artifact of stage uncertainty with two slices a patient."""
  rng = np.random.default_rng(seed)
  count, shape = 2 * patients, (2 * patients, 2, 12)
  seen = rng.choice([0.0, 0.4, 0.6, 1.0], (count, 2))
  found = {
    "ids": np.array([f"s{k}" for k in range(count)]),
    "groups": np.repeat([f"p{k}" for k in range(patients)], 2),
    "border": rng.uniform(0, 0.5, (3, 4)),
    "matches": rng.integers(0, 4, shape),
    "classes": rng.integers(-1, 4, shape),
    "marker": seen if marker else np.full((count, 2), np.nan),
    "uncertainty": rng.uniform(0, 0.6, shape) + 0.3 * (1 - seen[..., None]),
    "weight": rng.uniform(0.5, 1.5, shape),
    "gap": rng.uniform(0, 1, shape),
    "error": rng.uniform(0, 4, shape),
    "collapse": {
      "spread": np.float32(0.7),
      "effective_rank": np.float32(5),
      "deviation": np.full(16, 0.2),
    },
  }
  found["error"][found["matches"] == 0] = np.nan
  return found


def without(found, group):
  """The same without a patient, whose images are removed."""
  keep = found["groups"] != group
  each = ("border", "collapse")
  return {k: v if k in each else v[keep] for k, v in found.items()}


def slow(found):
  """Every figure by scipy and loops over cells."""
  rows = []
  for n, v, k in np.ndindex(found["uncertainty"].shape):
    at = (n, v, k)
    border = found["border"][k // 4, k % 4]
    names = ("uncertainty", "matches", "classes", "gap", "error")
    row = [found[name][at] for name in names]
    rows.append([*row, border, found["marker"][n, v]])
  s, matches, kinds, gap, error, border, marker = np.array(rows).T
  doubtful = (kinds == 1) | (kinds == 2)
  outside = (marker < 0.5).astype(float)
  controls = [border[doubtful], matches[doubtful]]
  first, second = s[doubtful], outside[doubtful]
  of_views = [
    all(m == 0 for m in found["matches"][n, v])
    for n, v in np.ndindex(found["marker"].shape)
  ]
  return {
    "uncertainty_rank": stats.spearmanr(first, second)[0],
    "uncertainty_rank_partial": residual_correlation(first, second, controls),
    "border_rank": stats.spearmanr(s, border)[0],
    "error_rank": stats.spearmanr(s[matches > 0], error[matches > 0])[0],
    "gap": gap.mean(),
    "weight_spread": np.sqrt(np.mean((found["weight"] - 1) ** 2)),
    "unmatched": np.mean(of_views),
  }


def test_figures_equal_slow_ones_with_and_without_each_patient(monkeypatch):
  monkeypatch.setattr(measure, "_BLOCK", 1000)  # in several blocks
  found = cells_of()
  found["matches"][0, 1] = 0  # a view without pairs
  found["error"][0, 1] = np.nan
  figures = measure.figures(found, ALIKE)
  assert set(figures) == set(measure.NAMES)
  versions = [found, *(without(found, g) for g in np.unique(found["groups"]))]
  for k, version in enumerate(versions):
    for name, value in slow(version).items():
      np.testing.assert_allclose(
        figures[name].values[k], value, atol=1e-9, err_msg=name
      )
  entry = measure.metrics(found, ALIKE)["pixel/uncertainty_rank"]
  values = figures["uncertainty_rank"].values
  error = np.sqrt(7 / 8 * np.sum((values[1:] - values[1:].mean()) ** 2))
  fewest = min(entry["positive_groups"], entry["negative_groups"])
  half = stats.t.ppf(0.975, fewest - 1) * error / (1 - values[0] ** 2)
  expected = np.tanh(np.arctanh(values[0]) + np.array([-half, half]))
  np.testing.assert_allclose([entry["low"], entry["high"]], expected)
  assert entry["groups"] == 8 and entry["low"] > 0


def test_a_patient_without_ambiguous_cells_keeps_its_place():
  """Runs of several seeds are averaged patient by patient."""
  found = cells_of()
  found["classes"][found["groups"] == "p3"] = 0
  figure = measure.figures(found, ALIKE)["uncertainty_rank"]
  assert len(figure.values) == 1 + 8
  assert figure.values[1 + 3] == figure.values[0]
  assert figure.support.groups == 7


def test_what_the_data_cannot_tell_is_none():
  for found, alike in (
    (cells_of(marker=False), ALIKE),
    (cells_of(), ()),
    ({"ids": np.array([], str)}, ALIKE),
  ):
    metrics = measure.metrics(found, alike)
    for name in ("uncertainty_rank", "uncertainty_rank_partial"):
      entry = metrics[f"pixel/{name}"]
      assert entry["value"] is None and entry["n"] == 0
  assert metrics["pixel/gap"]["value"] is None
  found = cells_of()
  found["uncertainty"][:] = 0.0  # no dropout: all passes agree
  metrics = measure.metrics(found, ALIKE)
  assert metrics["pixel/border_rank"]["value"] is None
  assert metrics["pixel/gap"]["value"] is not None


def metric(value, low=None, high=None, **more):
  return dict(value=value, low=low, high=high, n=9, groups=9) | more


def notes_of(found=None, weighting="exp", **changes):
  """Warnings on stage uncertainty with some metrics replaced."""
  found = cells_of() if found is None else found
  metrics = measure.metrics(found, ALIKE)
  metrics |= {f"pixel/{name}": entry for name, entry in changes.items()}
  return report_warnings.of_uncertainty(found, metrics, weighting)


SOUND = dict(
  uncertainty_rank=metric(0.5, 0.4, 0.6),
  uncertainty_rank_partial=metric(0.4, 0.3, 0.5),
  border_rank=metric(-0.3, -0.4, -0.2),
)


def test_warnings_on_an_uncertainty_that_misses_the_marker():
  assert notes_of(**SOUND) == []
  for partial, words in (
    (metric(0.02, -0.1, 0.14), "not seen to be higher"),
    (metric(-0.2, -0.3, -0.1), "lower, not higher,"),
    (metric(0.4), "too few patients"),
  ):
    (note,) = notes_of(**SOUND | {"uncertainty_rank_partial": partial})
    assert words in note and "0.500 [0.400, 0.600], given" in note
    assert f"{partial['value']:.3f}" in note
  none = dict.fromkeys(("uncertainty_rank", "uncertainty_rank_partial"))
  none = {name: metric(None) for name in none}
  assert notes_of(**SOUND | none) == []
  (note,) = notes_of(**SOUND | {"border_rank": metric(-0.8, -0.9, -0.7)})
  assert "mirrors" in note and "-0.80" in note


def test_warnings_on_equal_weights_and_collapse():
  equal = SOUND | {"weight_spread": metric(0.01)}
  (note,) = notes_of(**equal)
  assert "nearly equal" in note
  # Where all are meant to be equal, or the learned variance weighs instead.
  assert notes_of(weighting="", **equal) == []
  assert notes_of(weighting="variance", **equal) == []
  found = cells_of()
  found["collapse"]["deviation"] = np.full(16, 0.024)  # bound 0.1 / 4
  (note,) = notes_of(found, **SOUND)
  assert "16 of 16" in note and "0.025" in note
  found["collapse"]["deviation"] = np.repeat([0.024, 0.026], [8, 8])
  assert len(notes_of(found, **SOUND)) == 1
  found["collapse"]["deviation"] = np.repeat([0.024, 0.026], [7, 9])
  assert notes_of(found, **SOUND) == []
  assert report_warnings.of_uncertainty({"ids": np.array([])}, {}, "exp") == []


def test_warnings_on_pretraining():
  steps = np.arange(6)
  logged = {
    "spread/pixel": (steps, [0.5, 0.5, 0.5, 0.009, 0.008, 0.007]),
    "spread/pooled": (steps, [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]),
    "unmatched": (steps, [0.0, 0.0, 0.3, 0.0, 0.0, 0.03]),
  }
  first, second = report_warnings.of_history("byol", logged)
  assert "byol: pixel embeddings fell together" in first and "0.008" in first
  assert "5.5 % of the images had no pair" in second
  logged["unmatched"] = (steps, [0.0] * 6)
  logged["spread/pixel"] = (steps, [0.0, 0.0, 0.0, 0.2, 0.2, 0.2])
  logged["spread/pooled"] = (steps, [0.005] * 6)
  assert report_warnings.of_history("byol", logged) == []
  logged["spread/pooled"] = (steps, [0.0005] * 6)
  (note,) = report_warnings.of_history("byol", logged)
  assert "pooled embeddings fell together" in note


def test_warnings_on_gains():
  def gain(low, high):
    value = (low + high) / 2
    return metric(value, low, high, p=0.5, p_holm=0.5 if low < 0 else 0.01)

  metrics = {
    "segment/gain_over_border": gain(-0.01, 0.02),
    "segment/gain_over_shuffled": gain(0.01, 0.02),
    "segment/gain_over_pixpro": gain(-0.01, 0.02),
  }
  (note,) = report_warnings.of_gains(metrics)
  assert "arm border" in note and "not told apart" in note
  assert "+0.005 [-0.010, +0.020]" in note


def test_intervals_need_patients_on_both_sides():
  found = cells_of()
  found["marker"][:] = 1.0
  found["marker"][:8] = 0.0  # four patients alone without the marker
  entry = measure.metrics(found, ALIKE)["pixel/uncertainty_rank"]
  assert entry["positive_groups"] == 4 < intervals.FEWEST
  assert entry["value"] is not None and entry["low"] is None
