"""Stage `sites`: what each site is of, and where fundus images attend to it."""

import json
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gcl_jax import augment
from gcl_jax.data.readers import eye_fundus
from gcl_jax.engine.arrays import Rows
from gcl_jax.engine.context import Context
from gcl_jax.evaluation import intervals, metrics
from gcl_jax.methods.uopsl import arms, classify, draws, networks, pretrain
from gcl_jax.models import tokens
from gcl_jax.models.heads import unit_length
from gcl_jax.pipeline import encoders

AUROC = "sites/zone_auroc"
_OF_A_CLASS = 40  # OCT scans, at most, that tell what its sites are
_INSIDE = 0.5  # of the largest probability of a zone: what counts as inside
_PLACES = ("eye", "zone", "fovea_y", "fovea_x")  # columns of the eye phantom


def run(context: Context) -> dict[str, Any]:
  """Looks at the sites of this method's own arm, at the headline's labels.

  Returns:
    `metrics` (JSON); `oct` and `fundus`, each `rows` int[R], `vectors`
    float32[R, D] and, where there are sites, `shares` float32[R, M, L]
    (attention, of fundus from tokens to sites, transposed) and `grid` (rows and
    columns of L); `profile` float64[C, M], how much the scans of a class are
    read from each site, of which the mean over classes is subtracted;
    `descriptions` float32[C, D]. Without OCT no `oct`, without sites that OCT
    reads no `profile`.
  """
  found, config = draws.sources_of(context), context.config
  settings = arms.settings_of(config, arms.OWN)
  stored = context.load(arms.OWN)[draws.name_of(config.fundus.headline)]
  made = pretrain.networks_of(config, settings, found)
  encoder = encoders.make(settings)
  shapes = pretrain.shapes_of(found)
  grids = [np.array(tokens.grid(encoder, shape)) for shape in shapes]
  left = {
    "descriptions": np.asarray(
      classify.describer(config, found)(stored["text"])
    ),
    "fundus": _fundus(context, found, made, stored) | {"grid": grids[0]},
  }
  result = {AUROC: intervals.interval(*_mean(np.zeros(0), np.zeros(0, str)))}
  if made.oct is not None:
    left["oct"] = _oct(context, found, made, stored) | {"grid": grids[1]}
    if "shares" in left["oct"]:
      left["profile"] = profile_of(found, left["oct"])
      result[AUROC] = intervals.interval(*zone_auroc(config, found, left))
  return left | {"metrics": np.array(json.dumps(result))}


def profile_of(found: draws.Sources, oct: dict[str, Any]) -> np.ndarray:
  """How much scans of each class are read from each site, float64[C, M].

  The mean over classes is subtracted; a class without scans has 0.
  """
  classes = found.oct.table["class"][oct["rows"]]
  means = {
    name: oct["alpha"][classes == name].mean(0) for name in np.unique(classes)
  }
  middle = np.mean(list(means.values()), axis=0)
  return np.stack(
    [means.get(name, middle) - middle for name in found.captions.classes]
  ).astype(np.float64)


def attention_maps(
  shares: np.ndarray, profile: np.ndarray, number: np.ndarray
) -> np.ndarray:
  """Attention of tokens to the sites of each image's own class, float64[R, L].

      a_rl = sum_m profile[c_r, m] Bf[r, l, m]

  Args:
    shares: float[R, M, L], attention of fundus tokens to sites, transposed.
    profile: float[C, M].
    number: int[R], the class of each image.
  """
  return np.einsum("rm,rml->rl", profile[number], shares)


def zones(
  found: draws.Sources, config: ConfigDict, rows: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Which tokens lie where lesions of each image's class are to be expected.

  Of the eye phantom they are those of at least half the largest probability of
  the class's zone; of images with class maps, and of the phantom's where they
  are cropped to the disc, those with a lesion.

  Args:
    found: both sets.
    config: of the run.
    rows: int[R], fundus images.
    grid: rows and columns of the tokens.

  Returns:
    int[S], the rows that have such tokens and others, and bool[S, L].
  """
  table, inside = found.fundus.table, []
  known = all(name in table for name in _PLACES) and not config.preprocess.disc
  for row in rows:
    if known:
      of_row = {name: table[name][row] for name in _PLACES}
      inside.append(_zone(of_row, config, grid))
    elif found.fundus.masks is not None:
      inside.append(_cells(found.fundus.masks[row] > 0, grid) > 0)
    else:
      inside.append(np.zeros(tuple(grid), bool))
  flat = np.reshape(inside, (len(rows), -1))
  some = flat.any(1) & ~flat.all(1)
  return rows[some], flat[some]


def _zone(of_row, config, grid) -> np.ndarray:
  """bool[grid]: of the phantom's photographs, prepared to another size."""
  if of_row["zone"] == "none":
    return np.zeros(tuple(grid), bool)
  size = config.preprocess.size[0]
  for name in ("fovea_y", "fovea_x"):
    of_row[name] = of_row[name] * size / config.data.eyes.size[0]
  found = _cells(eye_fundus.zone_map(of_row, of_row["zone"], size), grid)
  return found >= _INSIDE * found.max()


def _cells(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
  """Means of float[H, W] over the cells of a grid, up to a pixel alike."""
  rows, columns = (int(n) for n in grid)
  bands = np.array_split(np.asarray(values, float), rows)
  cut = [np.array_split(band, columns, axis=1) for band in bands]
  return np.array([[cell.mean() for cell in band] for band in cut])


def zone_auroc(
  config: ConfigDict, found: draws.Sources, left: dict[str, Any]
) -> tuple[np.ndarray, intervals.Support]:
  """Mean over evaluation images of the AUROC of their attention for a zone.

  Args:
    config: of the run.
    found: both sets.
    left: `fundus`, with `shares`, and `profile` of this stage.

  Returns:
    float64[1 + G] from `intervals.leave_one_out`, nan without zones, and what
    it rests on.
  """
  fundus, profile = left["fundus"], left["profile"]
  rows, inside = zones(found, config, fundus["rows"], fundus["grid"])
  at = np.searchsorted(fundus["rows"], rows)
  names = found.captions.classes
  classes = found.fundus.table["class"][rows]
  number = np.array([names.index(c) for c in classes.tolist()], int)
  maps = attention_maps(fundus["shares"][at], profile, number)
  each = [
    metrics.auroc(of_row.astype(float), values)
    for of_row, values in zip(inside, maps, strict=True)
  ]
  return _mean(np.array(each, float), found.fundus.groups[rows])


def _mean(values: np.ndarray, groups: np.ndarray) -> tuple:
  """Mean, whole and without each patient; nan without values."""

  def mean(weights):
    total = weights.sum(1)
    some = np.where(total > 0, total, 1)
    return {"mean": np.where(total > 0, weights @ values / some, np.nan)}

  found = intervals.leave_one_out(mean, len(values), groups)
  return found["mean"], intervals.support_of(groups)


def _fundus(context, found, made, stored) -> dict[str, Any]:
  """Vectors and attention of the evaluation images of known class."""
  images, config = found.fundus, context.config
  encoder = networks.fundus_encoder(made)
  statistics = images.pixel_statistics()
  rows = np.flatnonzero(images.evaluation & (images.table["class"] != ""))

  def seen(tree, batch):
    views = augment.normalise(batch["image"], *statistics)
    features, _, shares = encoder.apply(tree, views, looks=True)
    left = {"vectors": unit_length(features)}
    return left if shares is None else left | {"shares": shares.mT}

  return {"rows": rows} | context.map(
    seen,
    stored["fundus"],
    {"image": Rows(images.pixels, rows)},
    batch_size=config.fundus.batch_size,
    name="sites/fundus",
    quiet=True,
  )


def _oct(context, found, made, stored) -> dict[str, Any]:
  """Vectors, attention and reading weights of scans of every class."""
  images, config = found.oct, context.config
  statistics = images.pixel_statistics()
  rows = _some_of_each(images.table["class"], images.part("train"))
  tree = {"tokens": stored["oct"]} | {
    key: stored[key] for key in ("gather", "read") if key in stored
  }
  if made.sites is not None:
    tree["sites"] = stored["fundus"]["batch_stats"]["sites"]

  def seen(tree, batch):
    views = augment.normalise(batch["image"], *statistics)
    of_scan, _ = made.oct.apply(tree["tokens"], views)
    if made.sites is None:
      return {"vectors": unit_length(networks.pooled(of_scan))}
    own = {"sites": tree["sites"], "oct": tree["gather"]}
    at_sites, shares = made.sites.gather(own, of_scan)
    return {
      "vectors": networks.gathered(tree["read"], at_sites),
      "shares": shares,
      "alpha": jax.nn.softmax(at_sites @ tree["read"], axis=-1),
    }

  return {"rows": rows} | context.map(
    seen,
    tree,
    {"image": Rows(images.pixels, rows)},
    batch_size=config.fundus.batch_size,
    name="sites/oct",
    quiet=True,
  )


def _some_of_each(classes: np.ndarray, part: np.ndarray) -> np.ndarray:
  """Rows of the part, at most `_OF_A_CLASS` of a class, in order."""
  kept = [
    np.flatnonzero(part & (classes == name))[:_OF_A_CLASS]
    for name in np.unique(classes)
    if name
  ]
  return np.sort(np.concatenate(kept))
