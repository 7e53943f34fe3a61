"""Stage `segment`: every arm fine-tuned on M labelled patients, and scored.

The patients with labels are drawn by seed, the same for every arm, and a draw
of M lies inside every larger one. Predictions are put back on the grid of the
stored slices and scored by volume.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import disk
from gcl_jax.data import slice_geometry
from gcl_jax.engine import distributed
from gcl_jax.engine.checkpoint import load_artifact, save_artifact
from gcl_jax.engine.context import Context
from gcl_jax.engine.tables import pack
from gcl_jax.evaluation import volumes
from gcl_jax.losses.segmentation import inverse_frequency
from gcl_jax.pipeline.label_draws import (
  UNTRAINED,
  Test,
  example_rows,
  fits,
  labelled_rows,
  tests_of,
)
from gcl_jax.pipeline.prepared import Prepared
from gcl_jax.pipeline.segmentation import (
  PREDICTED,
  Segmenter,
  pooled,
  views_of,
)

CHECKS = 10  # evaluations on the inner patient in a fine-tune


def run(
  context: Context,
  arms: Sequence[str],
  steps: Mapping[str, int] | None = None,
) -> dict[str, Any]:
  """Trains and scores; what is finished of an interrupted stage is kept.

  Args:
    context: of the stage; sections `segment` and `unet`, `preprocess.spacing`
      and `report.overlays`.
    arms: names; each but those of `label_draws.UNTRAINED` is a stage that left
      `encoder`.
    steps: arm -> steps of its fine-tunes, where not `segment.steps`; arms that
      do not run may be named.

  Returns:
    `fits`: per fine-tune and part (`eval`, `ood`) {"dice/..", "hd95/..",
    "surface_dice/.."} float64 per volume; `tests`: `volumes` and `groups` of
    both parts; `examples`: rows of a few slices, and per arm their predicted
    classes; `features`: float32[N, D] of the own encoder; `networks`: of the
    method's own arm, the last one, and of `segment.keep`, `variables` of the
    first fine-tune and the classes that it gives the test slices, `rows` int[R]
    and `maps` uint8[R, H, W].
  """
  images, config = Prepared(context), context.config
  tests = tests_of(images)
  statistics = images.pixel_statistics()
  segmenters = _segmenters(config, images, statistics, arms, steps or {})
  shown = example_rows(tests["eval"], config.report.overlays)
  results, examples, kept = {}, {}, {}
  for fit in fits(config.segment, arms):
    first = fit.arm not in examples
    keep = first and fit.arm in (arms[-1], *config.segment.keep)
    done = context.folder / "done" / f"{fit.name}.json"
    if not done.exists():
      segmenter = segmenters[fit.arm]
      found, network = _one(context, images, segmenter, fit, tests, shown)
      # All processes hold the same figures; one of them writes.
      distributed.on_main(
        functools.partial(
          _write, done, found, network if keep else None, _fits(context, fit)
        )
      )
    found = json.loads(done.read_text())
    results[fit.name] = {part: _arrays(found[part]) for part in tests}
    if first:
      examples[fit.arm] = np.array(found["examples"], np.uint8)
    if keep:
      kept[fit.arm] = load_artifact(done.with_suffix(""))
  return {
    "fits": results,
    "networks": kept,
    "features": context.map(
      pooled(segmenters[arms[-1]].network, *statistics),
      context.load(arms[-1])["encoder"],
      {"image": images.pixels},
      batch_size=PREDICTED,
      name=f"features/{arms[-1]}",
    ),
    "tests": {
      part: {
        "volumes": np.array(test.names),
        "groups": np.array([images.groups[rows[0]] for rows in test.rows]),
      }
      for part, test in tests.items()
    },
    "examples": {"rows": shown, "predictions": examples},
  }


def _segmenters(config, images, statistics, arms, steps) -> dict:
  """Arm -> its U-Net; arms of as many steps share one, and its programs."""
  views = views_of(config.segment.views, *statistics)
  made, found = {}, {}
  for arm in arms:
    section = ConfigDict(config.segment.to_dict())
    section.steps = steps.get(arm, section.steps)
    if section.steps not in made:
      made[section.steps] = Segmenter(
        section, config.unet, len(images.classes) + 1, views, section.tile
      )
    found[arm] = made[section.steps]
  return found


def _one(context, images, segmenter, fit, tests, shown) -> tuple[dict, dict]:
  """Figures of one fine-tune, as JSON, and its network with predictions."""
  variables = _train(context, images, segmenter, fit)
  each = [np.concatenate(test.rows) for test in tests.values()]
  rows = np.unique(np.concatenate([*each, shown]))
  predicted = segmenter.predict(
    context,
    variables,
    np.asarray(images.pixels[rows]),
    name=f"{fit.name}/predict",
  )
  by_row = dict(zip(rows.tolist(), predicted, strict=True))
  target = tuple(context.config.preprocess.spacing) or None
  section = context.config.segment
  options = dict(tolerance=section.tolerance, unit=section.unit)
  options["alike"] = section.get("alike", ())
  scores = {
    part: score(images, by_row, test, target, **options)
    for part, test in tests.items()
  }
  found = {
    part: {name: values.tolist() for name, values in of_part.items()}
    for part, of_part in scores.items()
  }
  found["examples"] = [by_row[row].tolist() for row in shown.tolist()]
  variables = jax.tree.map(np.asarray, variables)
  return found, {"variables": variables, "rows": rows, "maps": predicted}


def _train(context, images, segmenter, fit) -> dict[str, Any]:
  """Parameters and batch statistics of one fine-tuned U-Net."""
  settings = segmenter.config
  rows, inner = labelled_rows(images, fit)
  checked = {}
  if segmenter.keep_best:
    rows = np.setdiff1d(rows, inner)
    checked = dict(
      every=max(1, settings.steps // CHECKS),
      on_every=keep_best(context, images, segmenter, inner),
    )
  weights = None
  if settings.class_weights:
    weights = inverse_frequency(images.masks[rows], segmenter.classes)
  encoder = None
  if fit.arm not in UNTRAINED:
    encoder = context.load(fit.arm)["encoder"]
  checkpoints = context.checkpoints(f"fits/{fit.name}", keep=1)
  state = segmenter.fit(
    context,
    images,
    rows,
    name=fit.name,
    seed=int(np.random.default_rng((fit.seed, fit.draw)).integers(2**31)),
    encoder=encoder,
    class_weights=weights,
    checkpoints=checkpoints,
    save_every=max(1, settings.steps // 2),
    **checked,
  )
  checkpoints.close()
  best = state.extra["best"] if checked else {}
  stats = best.get("batch_stats", state.extra["batch_stats"])
  return {"params": best.get("params", state.params), "batch_stats": stats}


def keep_best(
  context: Context, images: Prepared, segmenter: Segmenter, rows: np.ndarray
) -> Callable[[Any], tuple]:
  """on_every of a fit: the best mean Dice on the inner patient's rows."""
  pixels, truth = np.asarray(images.pixels[rows]), images.masks[rows]

  def on_every(state):
    now = {"params": state.params, "batch_stats": state.extra["batch_stats"]}
    predicted = segmenter.predict(
      context, now, pixels, name="inner", quiet=True
    )
    scores = volumes.volume_scores(
      [truth], [predicted], [(1.0, 1.0, 1.0)], images.classes
    )
    value = float(np.nan_to_num(scores["dice/mean"][0]))
    best = state.extra["best"]
    if value > float(best["dice"]):
      best = {**now, "dice": jax.numpy.float32(value)}
    state = state.replace(extra={**state.extra, "best": best})
    return state, {"inner/dice": value}, False

  return on_every


def score(
  images: Prepared,
  predicted: dict[int, np.ndarray],
  test: Test,
  spacing: tuple[float, float] | None,
  tolerance: float = 0.0,
  unit: str = "mm",
  alike: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Scores of every volume of a part, on the grids of the stored slices.

  Args:
    images: the prepared slices.
    predicted: row -> uint8[H, W], the predicted classes.
    test: the part.
    spacing: (y, x) in mm that the slices were prepared to; None kept theirs.
    tolerance: of the surface Dice in mm, 0 for none.
    unit: of HD95, "mm" or "voxels".
    alike: classes of "dice/ambiguous".

  Returns:
    "dice/..", "hd95/.." and "surface_dice/.." float64[V], as
    `volumes.volume_scores`.
  """
  restored = [
    np.stack(
      [
        slice_geometry.restore(
          predicted[row],
          truth.shape[1:],
          slice_geometry.spacing_of(images.table, row),
          spacing,
        )
        for row in rows.tolist()
      ]
    )
    for rows, truth in zip(test.rows, test.truths, strict=True)
  ]
  voxels = [(1.0, 1.0, 1.0)] * len(restored)
  return volumes.volume_scores(
    test.truths,
    restored,
    voxels if unit == "voxels" else test.spacings,
    images.classes,
    tolerance=tolerance,
    in_mm=test.in_mm,
    alike=alike,
  )


def _fits(context, fit) -> pathlib.Path:
  """Folder of the checkpoints of a fine-tune, while it is not done."""
  return context.folder / "fits" / fit.name


def _write(path, found, network, checkpoints) -> None:
  """Figures of a fine-tune, and its network to keep, in place of its
  checkpoints."""
  path.parent.mkdir(exist_ok=True)
  if network is not None:
    save_artifact(path.with_suffix(""), network)
  disk.write_text(path, json.dumps(found))
  shutil.rmtree(checkpoints, ignore_errors=True)


def _arrays(found: dict[str, list]) -> dict[str, np.ndarray]:
  """Scores as arrays, names without a slash."""
  return pack({k: np.array(v, np.float64) for k, v in found.items()})
