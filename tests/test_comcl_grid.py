"""Tables of a grid of CoMCL's arms over seeds."""

import comcl_grid
import launching
import numpy as np
import pytest

from gcl_jax.evaluation import fits
from gcl_jax.evaluation.intervals import Support

SUPPORT = Support(12, 6)


def figures(seed, support=SUPPORT):
  kappa = np.random.default_rng(seed).uniform(0.3, 0.8, (3, 7))
  return comcl_grid.Figures(kappa, (0.33, 0.7, 1.0), support)


def grid(tmp_path, monkeypatch, runs):
  """A grid with these runs: "seed0/first" -> {arm: Figures}."""
  for name in runs:
    folder = tmp_path / name / "diagnosis"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
  monkeypatch.setattr(
    comcl_grid,
    "read",
    lambda folder: runs[folder.relative_to(tmp_path).as_posix()],
  )
  return comcl_grid.gathered(tmp_path)


def test_arms_of_all_parts_and_seeds_are_gathered(tmp_path, monkeypatch):
  first = {"comcl": figures(0), "supervised": figures(1)}
  more = {"comcl": figures(2), "hcl": figures(3)}
  other = {"comcl": figures(4), "supervised": figures(5)}
  runs = {"seed0/first": first, "seed0/more": more, "seed1/first": other}
  found = grid(tmp_path, monkeypatch, runs)
  assert {arm: list(by_seed) for arm, by_seed in found.items()} == {
    "comcl": ["seed0", "seed1"],
    "supervised": ["seed0", "seed1"],
    "hcl": ["seed0"],
  }
  assert found["comcl"]["seed0"] is first["comcl"]


def test_other_patients_are_refused(tmp_path, monkeypatch):
  runs = {
    "seed0/first": {"comcl": figures(0)},
    "seed1/first": {"comcl": figures(1, Support(12, 5))},
  }
  with pytest.raises(SystemExit, match="other patients"):
    grid(tmp_path, monkeypatch, runs)


def test_a_gain_is_of_the_seeds_that_both_have(capsys):
  ours = {f"seed{k}": figures(k) for k in range(3)}
  theirs = {f"seed{k}": figures(10 + k) for k in range(1, 4)}
  comcl_grid.tables({"comcl": ours, "supervised_degraded": theirs})
  printed = capsys.readouterr().out
  gains = []
  for k in (1, 2):
    a, b = figures(k).kappa, figures(10 + k).kappa
    gains.append((b[0] - b[-1]) - (a[0] - a[-1]))
  expected = fits.over_fits(np.stack(gains), SUPPORT, paired=True)
  section = printed.partition("gain of the fall over supervised_degraded")[2]
  assert f"| comcl | {expected['value']:+.3f}" in section


def test_a_part_takes_over_what_is_alike(tmp_path):
  for stage in ("data", "comcl", "diagnosis"):
    (tmp_path / "first" / stage).mkdir(parents=True)
    (tmp_path / "first" / stage / "manifest.json").write_text(stage)
  (tmp_path / "first" / "quality").mkdir()  # not finished
  launching.share(tmp_path / "more", comcl_grid.SHARED)
  found = {path.name for path in (tmp_path / "more").iterdir()}
  assert found == {"data", "comcl"}
