"""Stage `segment`: every arm fine-tuned on M labelled patients, and scored.

The patients with labels are drawn by seed, the same for every arm, and a draw
of M lies inside every larger one. Predictions are put back on the grid of the
stored slices and scored by volume.
"""

import functools
import itertools
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np

from gcl_jax import disk
from gcl_jax.data import slice_geometry as grids
from gcl_jax.data import splits
from gcl_jax.engine import distributed
from gcl_jax.engine.tables import pack
from gcl_jax.errors import DataError
from gcl_jax.evaluation import volumes
from gcl_jax.evaluation.segmentation import Segmenter
from gcl_jax.losses.segmentation import inverse_frequency
from gcl_jax.methods.gcl import arms, pretrain, reading
from gcl_jax.methods.gcl.slices import Slices

CHECKS = 10  # looks at the inner patient in a fine-tune


class Fit(NamedTuple):
  """One fine-tune: which arm, labelled patients, their draw, and seed."""

  arm: str
  labelled: int
  draw: int
  seed: int

  @property
  def name(self) -> str:
    """Such as gcl-m2-d0-s0."""
    return f"{self.arm}-m{self.labelled}-d{self.draw}-s{self.seed}"


def fits(config: Any) -> list[Fit]:
  """Every fine-tune of a run, arms next to each other."""
  settings = config.segment
  return [
    Fit(arm, labelled, draw, seed)
    for labelled, draw, seed, arm in itertools.product(
      settings.labelled, settings.draws, settings.seeds, arms.names(config)
    )
  ]


class Test(NamedTuple):
  """The labelled volumes of one part, on their own grids.

  Attributes:
    names: of the volumes.
    rows: of each volume, first slice first.
    truths: label map of each, uint8[S, H, W].
    spacings: of each, (z, y, x) in mm.
  """

  names: list[str]
  rows: list[np.ndarray]
  truths: list[np.ndarray]
  spacings: list[tuple[float, float, float]]


def run(context: Any) -> dict[str, Any]:
  """Trains and scores; what is finished of an interrupted stage is kept.

  Returns:
    `fits`: per fine-tune and part (`eval`, `ood`) {"dice/..", "hd95/.."}
    float64 per volume; `volumes` and `groups` of both parts; `examples`: rows
    of a few slices, and per arm their predicted classes.
  """
  slices = Slices(context)
  config = context.config
  tests = _tests(context, slices)
  segmenter = make_segmenter(context, slices)
  shown = example_rows(tests["eval"], config.report.overlays)
  results, examples = {}, {}
  for fit in fits(config):
    done = context.folder / "done" / f"{fit.name}.json"
    if done.exists():
      found = json.loads(done.read_text())
    else:
      found = _one(context, slices, segmenter, fit, tests, shown)
      # All processes hold the same figures; one of them writes.
      distributed.on_main(
        functools.partial(_write, done, found, _kept(context, fit))
      )
    results[fit.name] = {part: _arrays(found[part]) for part in tests}
    examples.setdefault(fit.arm, np.array(found["examples"], np.uint8))
  return {
    "fits": results,
    "tests": {
      part: {
        "volumes": np.array(test.names),
        "groups": np.array([slices.groups[rows[0]] for rows in test.rows]),
      }
      for part, test in tests.items()
    },
    "examples": {"rows": shown, "predictions": examples},
  }


def make_segmenter(context: Any, slices: Slices) -> Segmenter:
  """The U-Net of this run, to be trained again and again."""
  config, classes = context.config, len(slices.classes) + 1
  return Segmenter(
    pretrain.make_unet(config, classes),
    classes,
    config.segment,
    pretrain.views_of(config.segment.views, *slices.pixel_statistics()),
    context.mesh,
    context.mode,
  )


def example_rows(test: Test, count: int) -> np.ndarray:
  """A middle slice of `count` volumes, spread over the part."""
  chosen = np.linspace(0, len(test.rows) - 1, min(count, len(test.rows)))
  return np.array(
    [test.rows[k][len(test.rows[k]) // 2] for k in chosen.astype(int)]
  )


def labelled_rows(slices: Slices, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
  """Rows to train on, and those of the inner patient (none for one patient).

  Raises:
    DataError: fewer labelled patients in the training part than wanted.
  """
  rows = np.flatnonzero(slices.part("train") & slices.labelled)
  groups = slices.groups[rows]
  count = fit.labelled or slices.labelled_patients
  rows = rows[splits.label_draw(groups, count, fit.draw)]
  if count < 2:
    return rows, rows[:0]
  inner = splits.label_draw(slices.groups[rows], 1, fit.draw)
  return rows, rows[inner]


def _one(context, slices, segmenter, fit, tests, shown) -> dict[str, Any]:
  """Figures of one fine-tune, as JSON."""
  params, stats = _train(context, slices, segmenter, fit)
  predict = functools.partial(
    segmenter.predict, params, stats, name=f"predict {fit.name}"
  )
  found = {
    part: _score(context, slices, predict, test) for part, test in tests.items()
  }
  found["examples"] = predict(np.asarray(slices.pixels[shown])).tolist()
  return found


def _train(context, slices, segmenter, fit) -> tuple[Any, Any]:
  """Parameters and batch statistics of one fine-tuned U-Net."""
  settings = context.config.segment
  rows, inner = labelled_rows(slices, fit)
  checked = {}
  if settings.select == "inner":
    rows = np.setdiff1d(rows, inner)
    checked = dict(
      every=max(1, settings.steps // CHECKS),
      on_every=_keep_best(slices, segmenter, inner),
    )
  weights = None
  if settings.class_weights:
    weights = inverse_frequency(slices.masks[rows], segmenter.classes)
  encoder = None
  if fit.arm != "scratch":
    encoder = context.load(fit.arm)["encoder"]
  checkpoints = context.checkpoints(_kept(context, fit), keep=1)
  state = segmenter.fit(
    slices.pixels,
    slices.masks,
    rows,
    encoder=encoder,
    class_weights=weights,
    seed=int(np.random.default_rng((fit.seed, fit.draw)).integers(2**31)),
    name=fit.name,
    telemetry=context.telemetry,
    checkpoints=checkpoints,
    save_every=max(1, settings.steps // 2),
    log_every=context.config.log_every,
    max_skipped=context.config.max_skipped,
    ids=slices.table["id"],
    keep_best=bool(checked),
    **checked,
  )
  checkpoints.close()
  best = state.extra["best"] if checked else {}
  params = best.get("params", state.params)
  return params, best.get("batch_stats", state.extra["batch_stats"])


def _keep_best(slices, segmenter, rows):
  """on_every of `train.fit`: the best mean Dice on the inner patient."""
  pixels, truth = np.asarray(slices.pixels[rows]), slices.masks[rows]

  def on_every(state):
    stats = state.extra["batch_stats"]
    predicted = segmenter.predict(state.params, stats, pixels)
    scores = volumes.volume_scores(
      [truth], [predicted], [(1.0, 1.0, 1.0)], slices.classes
    )
    value = float(np.nan_to_num(scores["dice/mean"][0]))
    best = state.extra["best"]
    if value > float(best["dice"]):
      best = {
        "params": state.params,
        "batch_stats": stats,
        "dice": jax.numpy.float32(value),
      }
    state = state.replace(extra={**state.extra, "best": best})
    return state, {"inner/dice": value}, False

  return on_every


def _tests(context: Any, slices: Slices) -> dict[str, Test]:
  """The labelled test volumes, with the label maps as stored."""
  sets = [
    dataset for dataset, _ in reading.datasets(context.config, context.dataset)
  ]
  found = {}
  for part in ("eval", "ood"):
    of_part = slices.volumes(part)
    if of_part:
      found[part] = _test(slices, sets, of_part)
  if "eval" not in found:
    raise DataError(
      "no labelled volume is kept for evaluation: raise"
      " --config.data.eval_fraction or label more"
    )
  return found


def _test(slices, sets, of_part) -> Test:
  table = slices.table
  codes = [
    np.array(
      [0, *(slices.classes.index(name) + 1 for name in dataset.classes)],
      np.uint8,
    )
    for dataset in sets
  ]

  def stored(row):
    number = table["set"][row]
    return codes[number][sets[number].read_mask(int(table["row"][row]))]

  return Test(
    list(of_part),
    list(of_part.values()),
    [np.stack([stored(row) for row in rows]) for rows in of_part.values()],
    [
      tuple(float(table[f"spacing_{axis}"][rows[0]]) for axis in "zyx")
      for rows in of_part.values()
    ],
  )


def _score(context, slices, predict, test: Test) -> dict[str, list]:
  """Scores of every volume of a part, on the grids of the stored slices."""
  rows = np.concatenate(test.rows)
  predicted = dict(
    zip(rows.tolist(), predict(np.asarray(slices.pixels[rows])), strict=True)
  )
  target = tuple(context.config.preprocess.spacing) or None
  restored = [
    np.stack(
      [
        grids.restore(
          predicted[row],
          truth.shape[1:],
          reading.spacing_of(slices.table, row),
          target,
        )
        for row in of_volume.tolist()
      ]
    )
    for of_volume, truth in zip(test.rows, test.truths, strict=True)
  ]
  scores = volumes.volume_scores(
    test.truths, restored, test.spacings, slices.classes
  )
  return {name: values.tolist() for name, values in scores.items()}


def _kept(context, fit) -> pathlib.Path:
  """Folder of the checkpoints of a fine-tune, while it is not done."""
  return context.folder / "fits" / fit.name


def _write(path, found, checkpoints) -> None:
  """Figures of a fine-tune, in place of its checkpoints."""
  path.parent.mkdir(exist_ok=True)
  disk.write_text(path, json.dumps(found))
  shutil.rmtree(checkpoints, ignore_errors=True)


def _arrays(found: dict[str, list]) -> dict[str, np.ndarray]:
  """Scores as arrays, names without a slash."""
  return pack({k: np.array(v, np.float64) for k, v in found.items()})
