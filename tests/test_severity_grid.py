"""The grid's figures: over seeds and patients, paired by seed."""

import numpy as np
import pytest
import severity_grid as grid

from gcl_jax.evaluation import fits
from gcl_jax.evaluation.intervals import Support

SUPPORT = Support(60, 12, 7, 8)


def figure(seeds, shift=0.0, draw=0):
  rng = np.random.default_rng(draw)
  values = {
    s: 0.8 + shift + 0.01 * rng.normal(size=13) + 0.002 * k
    for k, s in enumerate(seeds)
  }
  return grid.Figure(values, SUPPORT)


def test_differences_are_paired_by_the_seeds_that_both_have():
  ours, theirs = figure(("seed0", "seed1", "seed2")), figure(("seed2", "seed1"))
  found = grid.difference_of(ours, theirs)
  rows = [ours.values[s] - theirs.values[s] for s in ("seed1", "seed2")]
  assert found == fits.over_fits(np.stack(rows), SUPPORT, paired=True)
  assert found["fits"] == 2
  assert grid.difference_of(ours, figure(("seed9",))) is None


def run_of(values):
  return {("macro_auroc", "random", 0.1): (values, SUPPORT, ())}


def gathered(tmp_path, monkeypatch, read):
  for seed in (0, 1):
    for name in ("base", "supcon_our_rule"):
      folder = tmp_path / f"seed{seed}" / name
      folder.mkdir(parents=True)
      (folder / "report.json").touch()
  (tmp_path / "seed1" / "supcon_10_bins").mkdir()  # not finished
  monkeypatch.setattr(grid, "read", read)
  return grid.gathered(tmp_path)


def test_finished_conditions_are_gathered_by_seed(tmp_path, monkeypatch):
  asked = []

  def read(folder, name):
    asked.append((folder.parent.name, name))
    return run_of(np.full(13, float(folder.parent.name[-1])))

  found = gathered(tmp_path, monkeypatch, read)
  assert asked == [(f"seed{k}", "supcon, our rule") for k in (0, 1)]
  (only,) = found.values()
  assert {s: v[0] for s, v in only.values.items()} == {"seed0": 0, "seed1": 1}


def test_seeds_with_other_patients_are_refused(tmp_path, monkeypatch):
  def read(folder, name):
    rows = 60 + int(folder.parent.name[-1])
    return {
      ("macro_auroc", name, 1.0): (np.zeros(13), Support(rows, 12, 7, 8), ())
    }

  with pytest.raises(SystemExit, match="data.split_seed"):
    gathered(tmp_path, monkeypatch, read)


def test_seeds_whose_means_are_over_other_labels_are_refused(
  tmp_path, monkeypatch
):
  def read(folder, name):
    skipped = ("rao",) if folder.parent.name == "seed1" else ()
    return {("macro_auroc", name, 0.05): (np.zeros(13), SUPPORT, skipped)}

  with pytest.raises(SystemExit, match="at 0.05 leave out .'rao'"):
    gathered(tmp_path, monkeypatch, read)


def test_a_mean_has_the_fewest_degrees_of_freedom_of_its_seeds(
  tmp_path, monkeypatch
):
  def read(folder, name):
    degrees = {"seed0": 9.0, "seed1": 6.5}[folder.parent.name]
    support = SUPPORT._replace(degrees=degrees)
    return {("macro_auroc", name, 1.0): (np.zeros(13), support, ())}

  (only,) = gathered(tmp_path, monkeypatch, read).values()
  assert only.support == SUPPORT._replace(degrees=6.5)


def test_tables_and_curves_come_from_the_same_entries(tmp_path, capsys):
  figures = {
    (figure_, name, fraction): figure(("seed0", "seed1"), shift, draw)
    for draw, (name, shift) in enumerate(
      [("simclr", 0), ("supcon, our rule", 0.1), ("random", -0.1)]
    )
    for fraction in (0.1, 1.0)
    for figure_ in grid.FIGURES
  }
  grid.tables(figures)
  said = capsys.readouterr().out
  assert "| simclr | 0.1 | 2 | 0.8" in said
  assert "random over supcon, our rule, 10 % of groups | -0.2" in said
  assert "Holm: corrected for the 4 comparisons" in said
  path = tmp_path / "curves.svg"
  grid.draw(figures, list(grid.CONDITIONS), path)
  picture = path.read_text()
  assert picture.startswith("<?xml") and "simclr" in picture
  grid.draw(figures, ["supcon, 10 bins"], path)
  assert "supcon, our rule" not in path.read_text()
