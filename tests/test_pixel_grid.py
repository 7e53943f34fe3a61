"""Tables of a grid of Pixel-global's arms over gaps and seeds."""

import numpy as np
import pixel_grid
import pytest

from gcl_jax.evaluation import fits
from gcl_jax.evaluation.intervals import Support, support_of
from gcl_jax.methods.pixel_global import measure
from gcl_jax.methods.pixel_global.arms import OWN

SUPPORT = Support(6, 6)


def fit(seed, support=SUPPORT):
  rng = np.random.default_rng(seed)
  values = {name: rng.uniform(0.3, 0.9, 7) for name in pixel_grid.METRICS}
  return pixel_grid.Fit(values, support)


def gather(tmp_path, monkeypatch, runs):
  """The grid of these runs: "gap0.5/seed0/first" -> {(arm, M): Fit}."""
  for name in runs:
    folder = tmp_path / name / "segment"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{}")
  monkeypatch.setattr(
    pixel_grid,
    "read",
    lambda folder: runs[folder.relative_to(tmp_path).as_posix()],
  )
  return pixel_grid.gathered(tmp_path)


def test_fits_of_all_parts_gaps_and_seeds_are_gathered(tmp_path, monkeypatch):
  first, more = {(OWN, 4): fit(0)}, {(OWN, 4): fit(1), ("byol", 4): fit(2)}
  runs = {
    "gap0.5/seed0/first": first,
    "gap0.5/seed0/more": more,
    "gap0.5/seed1/first": {(OWN, 4): fit(3)},
    "gap0/seed0/first": {(OWN, 4): fit(4, Support(6, 5))},
  }
  grid = gather(tmp_path, monkeypatch, runs)
  assert list(grid) == [0.0, 0.5]
  assert {key: list(found) for key, found in grid[0.5].items()} == {
    (OWN, 4): [0, 1],
    ("byol", 4): [0],
  }
  assert grid[0.5][OWN, 4][0] is first[OWN, 4]
  other = {"gap0.5/seed2/first": {(OWN, 4): fit(5, Support(6, 5))}}
  with pytest.raises(SystemExit, match="seed2.*other patients"):
    gather(tmp_path, monkeypatch, runs | other)


def test_a_grid_without_a_finished_run_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(
    "sys.argv",
    ["pixel_grid", f"--out={tmp_path}", "--arms=scratch", "--jobs=0"],
  )
  with pytest.raises(SystemExit, match="no finished run, see --jobs"):
    pixel_grid.main()


def test_dice_is_a_mean_over_classes_and_without_each_patient():
  rng = np.random.default_rng(0)
  groups = np.array(list("abbcd"))
  scores = {f"dice/{k}": rng.uniform(size=5) for k in ("x", "y")}
  scores["dice/y"][1] = np.nan  # not in this volume
  scores |= {"dice/mean": np.full(5, 9.0), "hd95/x": np.full(5, 9.0)}
  scores[pixel_grid.AMBIGUOUS] = rng.uniform(size=5)
  found = pixel_grid.fit_of(scores, groups)
  for k, left in enumerate([None, *"abcd"]):
    keep = groups != left
    expected = np.mean(
      [np.nanmean(scores[f"dice/{kind}"][keep]) for kind in ("x", "y")]
    )
    assert found.values["mean"][k] == pytest.approx(expected)
    ambiguous = scores[pixel_grid.AMBIGUOUS][keep].mean()
    assert found.values["ambiguous"][k] == pytest.approx(ambiguous)
  assert found.support == support_of(groups)
  del scores[pixel_grid.AMBIGUOUS]
  assert set(pixel_grid.fit_of(scores, groups).values) == {"mean"}


def test_gains_and_their_growth_are_of_the_seeds_that_both_have(capsys):
  def arm(start, seeds):
    return {seed: fit(start + seed) for seed in seeds}

  grid = {
    0.0: {(OWN, 4): arm(0, range(3)), ("pixpro", 4): arm(10, range(1, 4))},
    1.0: {(OWN, 4): arm(20, range(3)), ("pixpro", 4): arm(30, range(2))},
  }
  pixel_grid.gain_tables(grid)
  printed = capsys.readouterr().out
  section = printed.partition("ambiguous pixels")[2]

  def gain(start, seed):
    ours, theirs = fit(start + seed), fit(start + 10 + seed)
    return ours.values["ambiguous"] - theirs.values["ambiguous"]

  expected = {
    "gap 0": [gain(0, 1), gain(0, 2)],
    "gap 1": [gain(20, 0), gain(20, 1)],
    # Seed 1 alone has both gaps.
    "more at gap 1 than at 0": [gain(20, 1) - gain(0, 1)],
  }
  for words, values in expected.items():
    entry = fits.over_fits(np.stack(values), SUPPORT, "plain", True)
    assert f"| over pixpro, {words} | {entry['value']:+.3f}" in section


def test_dice_tables_name_what_is_missing(capsys):
  grid = {0.0: {(OWN, 4): {0: fit(0), 1: fit(1)}, ("byol", 0): {0: fit(2)}}}
  pixel_grid.dice_tables(grid)
  printed = capsys.readouterr().out
  assert "| arm | M = 4 | M = all |" in printed
  values = np.stack([fit(k).values["mean"] for k in (0, 1)])
  mean = fits.over_fits(values, SUPPORT, "plain")["value"]
  (row,) = [r for r in printed.splitlines() if r.startswith(f"| {OWN}")][:1]
  assert f"{mean:.3f} [" in row and row.endswith("(2) | - |")


def test_ranks_are_means_over_seeds_by_gap(tmp_path, monkeypatch, capsys):
  each = {}
  for k, name in enumerate(("gap0/seed0", "gap0/seed1", "gap1/seed0")):
    folder = tmp_path / name / "first"
    (folder / "uncertainty").mkdir(parents=True)
    (folder / "uncertainty" / "manifest.json").write_text("{}")
    values = np.random.default_rng(k).uniform(-0.5, 0.5, 7)
    each[folder] = values, Support(6, 6, 5 + k, 6)
  monkeypatch.setattr(
    pixel_grid,
    "ranks",
    lambda folder: {"border_rank": measure.Figure(*each[folder], "fisher")},
  )
  pixel_grid.rank_table(tmp_path)
  printed = capsys.readouterr().out
  two = np.stack([values for values, _ in list(each.values())[:2]])
  entry = fits.over_fits(two, Support(6, 6, 5, 6), "fisher")
  words = f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
  assert f"| 0 | border_rank | {words} | 2 |" in printed
  assert "| 1 | border_rank | " in printed
