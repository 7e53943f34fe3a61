"""Tables of a grid of UOPSL's arms over what OCT says and seeds."""

import types

import numpy as np
import pytest
import uopsl_grid
from uopsl_grid import Fit, Run

from gcl_jax.evaluation import fits, metrics
from gcl_jax.evaluation.intervals import Support, support_of
from gcl_jax.methods.uopsl import sites_seen
from gcl_jax.methods.uopsl.arms import OWN, TEXT

SUPPORT = Support(6, 6)
KEY, TEXTS = ("accuracy", OWN, 20), ("accuracy", TEXT, 20)


def fit(seed):
  values = np.random.default_rng(seed).uniform(0.3, 0.9, 7)
  return Fit(values, SUPPORT)


def run(fits_of_run, classes="abc"):
  return Run(tuple(enumerate(classes)), fits_of_run)


def parsed(monkeypatch, *words):
  monkeypatch.setattr("sys.argv", ["uopsl_grid", "--arms=text,map", *words])
  return uopsl_grid.parse()


def gather(tmp_path, monkeypatch, runs):
  """The grid of these runs: "true/seed0/first" -> Run."""
  for name in runs:
    folder = tmp_path / name / "fundus"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{}")
  monkeypatch.setattr(
    uopsl_grid,
    "read",
    lambda folder: runs[folder.relative_to(tmp_path).as_posix()],
  )
  return uopsl_grid.gathered(tmp_path)


def test_fits_of_all_parts_levels_and_seeds_are_gathered(tmp_path, monkeypatch):
  first, more = {KEY: fit(0)}, {KEY: fit(1), TEXTS: fit(2)}
  runs = {
    "true/seed0/first": run(first),
    "true/seed0/more": run(more),
    "true/seed10/first": run({KEY: fit(3)}),
    "shuffled/seed0/first": run({KEY: fit(4)}),
  }
  (tmp_path / "true" / "seed1" / "first").mkdir(parents=True)  # not finished
  grid = gather(tmp_path, monkeypatch, runs)
  assert list(grid) == ["true", "shuffled"]
  assert {key: list(found) for key, found in grid["true"].items()} == {
    KEY: [0, 10],
    TEXTS: [0],
  }
  assert grid["true"][KEY][0] is first[KEY]
  for classes in ("abd", "ab"):
    other = {"uniform/seed0/first": run({KEY: fit(5)}, classes)}
    with pytest.raises(SystemExit, match="uniform.*other patients"):
      gather(tmp_path, monkeypatch, runs | other)


def test_a_grid_without_a_finished_run_says_so(tmp_path, monkeypatch):
  words = [f"--out={tmp_path}", "--arms=text", "--jobs=0"]
  monkeypatch.setattr("sys.argv", ["uopsl_grid", *words])
  with pytest.raises(SystemExit, match="no finished run, see --jobs"):
    uopsl_grid.main()


def test_a_run_has_the_settings_of_its_level_and_seed(tmp_path, monkeypatch):
  made = {}

  def start(config, folder, settings, cores):
    made[folder.relative_to(tmp_path).as_posix()] = settings

  monkeypatch.setattr(uopsl_grid.launching, "run", start)
  common = {"arms": ("text", "map"), "pretrain.steps": "3"}
  for words, level, own in (
    ("--informative=uniform", "uniform", "uniform"),
    ("--informative=", "data", None),
  ):
    arguments = parsed(
      monkeypatch, "--seeds=0,4", words, "--part=more", "pretrain.steps=3"
    )
    uopsl_grid.run_all(arguments, tmp_path)
    settings = made[f"{level}/seed4/more"]
    assert settings.pop("oct_data.eyes.informative", None) == own
    assert settings == common | {"seed": 4, "fundus.draw": 4}
  assert len(made) == 4


def test_a_level_that_there_is_not_is_refused(monkeypatch, capsys):
  assert parsed(monkeypatch).levels == ["true", "shuffled", "uniform"]
  with pytest.raises(SystemExit):
    parsed(monkeypatch, "--informative=true,false")
  assert "false is none of true, shuffled" in capsys.readouterr().err


NAMES, EVERY = ("a", "b", "c"), ("a", "b", "c", "d", "e")


def stage():
  """What stage `fundus` leaves, with classes and patients of its rows."""
  rng = np.random.default_rng(0)
  classes = np.array(list("aabbccaabbccddee") * 2)
  groups = np.array([f"p{k}" for k in rng.integers(0, 8, len(classes))])

  def values(count):
    return {
      OWN: {"m20": rng.uniform(size=(len(classes), count))},
      TEXT: {"all": rng.uniform(size=(len(classes), count))},
    }

  left = {"names": np.array(NAMES), "rows": np.arange(len(classes))}
  left |= {"probabilities": values(3), "probe": values(3)}
  return left | {"zeroshot": values(5)}, classes, groups


def right(values, classes, names, columns):
  """Mean over classes of the share that is called right among `names`."""
  among = values[:, [columns.index(n) for n in names]].argmax(1)
  called = np.array(names)[among]
  return np.mean([np.mean(called[classes == n] == n) for n in names])


def test_figures_are_of_all_patients_and_without_each():
  left, classes, groups = stage()
  found = uopsl_grid.figures_of(left, classes, groups, EVERY, [["b", "c"]])
  asked = {
    "accuracy": ("probabilities", NAMES, NAMES, "abc"),
    "pairs": ("probabilities", ("b", "c"), NAMES, "bc"),
    "probe": ("probe", NAMES, NAMES, "abc"),
    "unseen": ("zeroshot", ("d", "e"), EVERY, "de"),
  }
  assert len(found) == 8
  for figure, (kind, names, columns, rows) in asked.items():
    here = np.isin(classes, list(rows))
    for arm, labelled, name in ((OWN, 20, "m20"), (TEXT, 0, "all")):
      each = found[figure, arm, labelled]
      assert each.support == support_of(groups[here])
      values = left[kind][arm][name]
      scored = np.unique(groups[here if figure == "unseen" else classes < "d"])
      for k, gone in enumerate([None, *scored]):
        kept = here & (groups != gone)
        expected = right(values[kept], classes[kept], names, columns)
        assert each.values[k] == pytest.approx(expected)


def test_without_two_unseen_classes_there_is_no_figure_of_them():
  left, classes, groups = stage()
  classes = np.where(classes == "e", "d", classes)
  found = uopsl_grid.figures_of(left, classes, groups, EVERY, ())
  assert {figure for figure, *_ in found} == {"accuracy", "pairs", "probe"}
  assert np.isnan(found["pairs", OWN, 20].values).all()


def opened(tmp_path, monkeypatch, sites):
  """What is read of a run that has left this of its sites."""
  left, classes, groups = stage()
  ids = np.array([f"i{k}" for k in range(len(classes))])
  table = {"id": ids, "class": classes, "group": groups}
  fundus = types.SimpleNamespace(table=table, groups=groups, masks=None)
  found = types.SimpleNamespace(
    fundus=fundus, captions=types.SimpleNamespace(classes=EVERY)
  )
  section = types.SimpleNamespace(pairs=(), headline=50)
  of_run = types.SimpleNamespace(
    config=types.SimpleNamespace(fundus=section),
    folder=tmp_path,
    artifact={"fundus": left, "sites": sites}.__getitem__,
  )
  monkeypatch.setattr(uopsl_grid, "Finished", lambda folder: of_run)
  monkeypatch.setattr(uopsl_grid.draws, "sources_of", lambda context: found)
  monkeypatch.setattr(
    sites_seen, "zone_auroc", lambda *asked: (np.full(3, 0.7), SUPPORT)
  )
  return uopsl_grid.read(tmp_path)


def test_a_run_is_read_with_what_it_has(tmp_path, monkeypatch):
  found = opened(tmp_path, monkeypatch, {"profile": 0})
  assert found.tested[:3] == (("i0", "a"), ("i1", "a"), ("i2", "b"))
  # No pairs are defined, and stage `sites` is not finished.
  kinds = {figure for figure, *_ in found.fits}
  assert kinds == {"accuracy", "probe", "unseen"}
  (tmp_path / "sites").mkdir()
  (tmp_path / "sites" / "manifest.json").write_text("{}")
  assert opened(tmp_path, monkeypatch, {}).fits.keys() == found.fits.keys()
  found = opened(tmp_path, monkeypatch, {"profile": 0})
  assert found.fits["zone", OWN, 50].values[0] == 0.7


def test_attention_for_the_zone_is_a_mean_without_each_patient():
  rng = np.random.default_rng(0)
  masks = np.zeros((5, 4, 4), np.uint8)
  masks[:3, :2, :2] = masks[4, 2:, 2:] = 1  # the fourth has no lesion
  fundus = types.SimpleNamespace(
    table={"class": np.array(list("ababa"))},
    groups=np.array(list("pqqrs")),
    masks=masks,
  )
  captions = types.SimpleNamespace(classes=("a", "b"))
  found = types.SimpleNamespace(fundus=fundus, captions=captions)
  shares, profile = rng.uniform(size=(4, 3, 4)), rng.normal(size=(2, 3))
  rows = np.array([0, 2, 3, 4])
  seen = {"rows": rows, "shares": shares, "grid": np.array([2, 2])}
  values, support = sites_seen.zone_auroc(
    None, found, {"fundus": seen, "profile": profile}
  )
  each = []
  for k, cell in ((0, 0), (1, 0), (3, 3)):  # all of class a
    inside = np.arange(4) == cell
    each.append(metrics.auroc(inside * 1.0, profile[0] @ shares[k]))
  expected = [np.mean(each), *((sum(each) - one) / 2 for one in each)]
  np.testing.assert_allclose(values, expected)
  assert support == support_of(np.array(list("pqs")))


def test_gains_are_of_the_seeds_that_both_have_and_follow_the_level(capsys):
  def arm(start, seeds):
    return {seed: fit(start + seed) for seed in seeds}

  grid = {
    "true": {KEY: arm(0, range(3)), TEXTS: arm(10, range(1, 4))},
    "shuffled": {KEY: arm(20, range(3)), TEXTS: arm(30, range(2))},
    "uniform": {KEY: arm(40, range(3))},
  }
  uopsl_grid.gain_tables(grid)
  gains = capsys.readouterr().out
  uopsl_grid.following_tables(grid)
  follows = capsys.readouterr().out

  def gain(start, seed):
    return fit(start + seed).values - fit(start + 10 + seed).values

  expected = {
    "over text_places, informative true": [gain(0, 1), gain(0, 2)],
    "over text_places, informative shuffled": [gain(20, 0), gain(20, 1)],
  }
  for words, values in expected.items():
    entry = fits.over_fits(np.stack(values), SUPPORT, paired=True)
    assert f"| {words} | {entry['value']:+.3f}" in gains
  assert "the 2 comparisons of this family" in gains
  assert "uniform" not in gains + follows
  # Seed 1 alone has both levels.
  words = "M = 20, more at true than at shuffled"
  assert f"| {words} | {gain(0, 1)[0] - gain(20, 1)[0]:+.3f}" in follows


def test_figure_tables_name_what_is_missing(capsys):
  grid = {
    "data": {
      ("accuracy", TEXT, 0): {0: fit(2)},
      KEY: {0: fit(0), 1: fit(1)},
      ("zone", OWN, 20): {0: fit(3)},
    }
  }
  uopsl_grid.figure_tables(grid)
  printed = capsys.readouterr().out.splitlines()
  assert "Balanced accuracy (in brackets: seeds)" in printed
  assert "| arm | M = 20 | M = all |" in printed
  both = np.stack([fit(0).values, fit(1).values])
  mean = fits.over_fits(both, SUPPORT)["value"]
  rows = [line for line in printed if line.startswith(("| uopsl", "| text"))]
  assert rows[0].startswith(f"| {OWN} | {mean:.3f} [")
  assert rows[0].endswith("] (2) | - |")
  assert rows[1] == f"| {TEXT} | - | {fit(2).values[0]:.3f} (1) |"
  assert rows[2] == f"| {OWN} | {fit(3).values[0]:.3f} (1) |"
