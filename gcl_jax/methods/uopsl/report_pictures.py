"""Pictures of the report: sites, the shared space, confounded pairs."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gcl_jax.methods.uopsl import draws
from gcl_jax.report import distributions, html, projection, tiles

_SITES = 6  # shown at most, those that tell classes apart best


def sites(
  found: draws.Sources, config: ConfigDict, seen: dict[str, Any]
) -> list[html.Section]:
  """Attention of each site over OCT and fundus, and its profile by class.

  Args:
    found: both sets of images.
    config: of the run.
    seen: the artifact of stage `sites`.
  """
  if "profile" not in seen:
    return []
  profile = seen["profile"]
  chosen = np.argsort(-np.ptp(profile, axis=0), kind="stable")[:_SITES]
  blocks: list[Any] = [_profile(found, profile, chosen)]
  for kind, images, word in (
    ("oct", found.oct, "OCT scans"),
    ("fundus", found.fundus, "photographs"),
  ):
    rows = _one_of_each(images.table["class"], seen[kind]["rows"])
    at = np.searchsorted(seen[kind]["rows"], rows)
    shares = np.asarray(seen[kind]["shares"])[at]
    pictures = {"image": [_grey3(images.pixels[int(k)]) for k in rows]} | {
      f"site {m}": [
        tiles.heated(
          _grey3(images.pixels[int(row)]),
          _enlarged(of_row[m], seen[kind]["grid"], images.pixels.shape[1:3]),
        )
        for row, of_row in zip(rows, shares, strict=True)
      ]
      for m in chosen
    }
    names = [str(images.table["class"][k]) for k in rows]
    caption = (
      f"Attention of sites over {word}, an evaluation image of each class (OCT:"
      " a training one); each picture is scaled to its own largest value."
    )
    blocks.append(html.Figure(tiles.grid(pictures, names, len(rows)), caption))
  return [html.Section("Sites", blocks)]


def _profile(found, profile, chosen) -> html.Table:
  rows = [
    [name, *(f"{profile[k, m]:+.3f}" for m in chosen)]
    for k, name in enumerate(found.captions.classes)
  ]
  caption = (
    "How much more the OCT scans of a class are read from a site than those of"
    " all classes, on average: the sites that differ most between classes."
  )
  headers = ("class", *(f"site {m}" for m in chosen))
  return html.Table(headers, rows, caption, align="l" + "r" * len(chosen))


def plane(
  found: draws.Sources, config: ConfigDict, seen: dict[str, Any]
) -> html.Section:
  """Text, OCT and fundus in one plane, by class and by kind."""
  classes = [found.fundus.table["class"][seen["fundus"]["rows"]]]
  vectors, kinds = [seen["fundus"]["vectors"]], ["fundus"]
  if "oct" in seen:
    classes.append(found.oct.table["class"][seen["oct"]["rows"]])
    vectors.append(seen["oct"]["vectors"])
    kinds.append("OCT")
  classes.append(np.array(found.captions.classes))
  vectors.append(seen["descriptions"])
  kinds.append("text")
  of_kind = np.repeat(kinds, [len(v) for v in vectors])
  points, kept = projection.project_2d(
    np.concatenate(vectors),
    config.report.embedding,
    config.seed,
    limit=config.report.embedding_points,
  )
  names = np.concatenate(classes)[kept]
  by_kind = distributions.embedding(points, of_kind[kept], label="kind")
  by_class = distributions.embedding(points, names, label="class")
  return html.Section(
    "One space",
    [
      html.Figure(
        by_kind,
        "Unit vectors of evaluation photographs, OCT scans and descriptions:"
        " the first two meet in the third alone.",
      ),
      html.Figure(by_class, "The same by class."),
    ],
  )


def pairs(
  found: draws.Sources, config: ConfigDict, tested: dict[str, Any]
) -> list[html.Section]:
  """Photographs of classes that look alike, and what each arm calls them."""
  names = [str(name) for name in tested["names"]]
  called = {
    arm: by_count[draws.most(config)].argmax(1)
    for arm, by_count in tested["probabilities"].items()
  }
  rows, classes = tested["rows"], found.fundus.table["class"]
  blocks = []
  for pair in config.fundus.pairs:
    if not all(name in names for name in pair):
      continue
    at = [np.flatnonzero(classes[rows] == name)[:3] for name in pair]
    at = np.concatenate(at)
    if not len(at):
      continue
    pictures = {"photograph": [found.fundus.pixels[int(rows[k])] for k in at]}
    lines = [f"{classes[rows[k]]}" for k in at]
    blocks.append(
      html.Figure(
        tiles.grid(pictures, lines, len(at)),
        f"{pair[0]} and {pair[1]}: one look, two places.",
      )
    )
    table = [
      [arm, *(names[values[k]] for k in at)] for arm, values in called.items()
    ]
    headers = ("called by", *lines)
    blocks.append(html.Table(headers, table))
  return [html.Section("Confounded pairs", blocks)] if blocks else []


def _one_of_each(classes: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """The first of the rows of each class, in order of rows."""
  _, first = np.unique(classes[rows], return_index=True)
  return np.sort(rows[first])


def _grey3(image: np.ndarray) -> np.ndarray:
  return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _enlarged(
  shares: np.ndarray, grid: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
  """float[L] of a grid's cells as float[H, W], less the smallest."""
  cells = (shares - shares.min()).reshape(tuple(int(n) for n in grid))
  rows = np.arange(shape[0]) * cells.shape[0] // shape[0]
  columns = np.arange(shape[1]) * cells.shape[1] // shape[1]
  return cells[rows][:, columns]
