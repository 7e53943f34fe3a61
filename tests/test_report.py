"""Tests of the report: well-formed pages without outside references, correct
numbers, and pictures of every input."""

import base64
import html.parser
import io
import itertools
import os
import re
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

import chex
import numpy as np
import pytest

from gcl_jax.report import (
  canvas,
  charts,
  distributions,
  matches,
  projection,
  reliability,
  render,
  tiles,
)
from gcl_jax.report import html as page
from gcl_jax.report.style import COLOURS
from gcl_jax.report.words import number

VOID = {"meta", "img", "br", "hr", "link", "input"}
NAN = float("nan")


class Outline(html.parser.HTMLParser):
  """Checks that tags close in order; gathers tags, attributes and text."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.open: list[str] = []
    self.seen: list[tuple[str, dict]] = []
    self.words: list[str] = []
    self.feed(text)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    names = [name for name, _ in attrs]
    assert len(names) == len(set(names)), f"attribute twice in <{tag}>"
    self.seen.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.seen.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, f"</{tag}> out of order"

  def handle_data(self, data):
    if not self.open or self.open[-1] != "style":
      self.words.append(data)

  @property
  def text(self) -> str:
    return "".join(self.words)

  def all(self, tag: str) -> list[dict]:
    return [attributes for name, attributes in self.seen if name == tag]


def write(tmp_path, *blocks, **options) -> tuple[str, Outline]:
  sections = [page.Section("Results", list(blocks))]
  arguments = {"title": "A title", "sections": sections} | options
  path = page.write(tmp_path / "deep" / "report.html", **arguments)
  text = path.read_text("utf-8")
  return text, Outline(text)


def pictures(outline: Outline) -> list[bytes]:
  """The SVG documents in the <img> elements of a page."""
  prefix, sources = (
    "data:image/svg+xml,",
    [a["src"] for a in outline.all("img")],
  )
  assert all(source.startswith(prefix) for source in sources)
  return [
    urllib.parse.unquote_to_bytes(source.removeprefix(prefix))
    for source in sources
  ]


def words(picture: bytes) -> str:
  """The text a reader sees in an SVG."""
  return " | ".join("".join(t.itertext()) for t in elements(picture, "text"))


def elements(picture: bytes, tag: str) -> list[ElementTree.Element]:
  root = ElementTree.fromstring(picture)
  assert root.tag == "{http://www.w3.org/2000/svg}svg"
  return list(root.iter("{http://www.w3.org/2000/svg}" + tag))


def empty(picture: bytes) -> bool:
  return "Nothing to show: " in words(picture)


def random(seed: int = 0) -> np.random.Generator:
  return np.random.default_rng(seed)


IMAGES = random().integers(0, 256, (5, 12, 16, 1), np.uint8)
SCORES = random().normal(size=60)
CLASSES = np.repeat(["a", "b", "c"], 20)
POINTS = random().normal(size=(60, 2))
TRUTH = np.tile([0, 1], 30)

NORMAL = {
  "histogram": lambda: distributions.histogram_by_class(
    SCORES, CLASSES, [0.0, 1.0]
  ),
  "histogram of one": lambda: distributions.histogram_by_class(
    SCORES, TRUTH * 0
  ),
  "gallery": lambda: tiles.gallery(IMAGES, list("abcde"), 3),
  "before after": lambda: tiles.before_after(
    [(IMAGES[0, ..., 0], IMAGES[1]), (IMAGES[2] * 3.5, IMAGES[3])]
  ),
  "matches": lambda: matches.matches(
    [(IMAGES[0], IMAGES[1])], [np.full((2, 2, 2), 0.5)], ["a"]
  ),
  "grid": lambda: tiles.grid({"a": IMAGES, "b": IMAGES[::-1]}, list("abcde")),
  "reconstructions": lambda: tiles.reconstructions(
    IMAGES, IMAGES // 2, list("abcde")
  ),
  "colour": lambda: tiles.gallery(np.repeat(IMAGES, 3, -1)),
  "overlays": lambda: tiles.overlays(
    IMAGES, {"truth": IMAGES[..., 0] // 64}, ["x", "y", "z"], list("abcde")
  ),
  "curves": lambda: charts.curves(
    {"loss": ([0, 1, 2], [3, NAN, 1])}, "J", references={"mean": 2.0}
  ),
  "bands": lambda: charts.curves(
    {"a": ([0, 1], [0.6, 0.7]), "b": ([0, 1], [0.5, NAN])},
    "AUROC",
    bands={"a": ([0.5, 0.6], [0.7, 0.8]), "b": ([0.4, NAN], [0.6, NAN])},
    ticks={0: "10 %", 1: "100 %"},
  ),
  "reliability": lambda: reliability.reliability({"x": (TRUTH, SCORES**2)}),
  "log curves": lambda: charts.curves(
    {"a": ([0, 1], [1, 0]), "b": ([0, 1], [9e-9, 2])}, "loss", log=True
  ),
  "embedding": lambda: distributions.embedding(POINTS, CLASSES),
  "map of values": lambda: distributions.embedding(
    POINTS, SCORES, kind="continuous", label="score"
  ),
  "roc": lambda: charts.roc({"x": (TRUTH, SCORES), "y": (TRUTH, -SCORES)}),
  "bars": lambda: charts.bars(
    {"x": {"value": 0.8, "low": 0.7, "high": 0.9}, "y": {"value": None}},
    highlight="x",
    reference=("chance", 0.5),
  ),
  "scatter": lambda: distributions.scatter(SCORES, SCORES, "x", "y", CLASSES),
  "bins": lambda: charts.bin_sizes([4, 0, 9]),
  "many bins": lambda: charts.bin_sizes(np.arange(500)),
}


@pytest.mark.parametrize("name", NORMAL)
def test_every_picture_is_valid_repeatable_and_fits_a_page(name, tmp_path):
  picture = NORMAL[name]()
  assert not empty(picture)
  assert picture == NORMAL[name](), "not the same bytes twice"
  _, outline = write(tmp_path, page.Figure(picture, "See."))
  assert pictures(outline) == [picture.replace(b"\n", b" ")]
  (image,) = outline.all("img")
  box = ElementTree.fromstring(picture).get("viewBox").split()
  assert image["alt"] == "See."
  assert [float(image["width"]), float(image["height"])] == pytest.approx(
    [float(x) for x in box[2:]], abs=1e-2
  )
  assert b"mathdefault" not in picture


EMPTY = {
  "no scores": lambda: distributions.histogram_by_class([], []),
  "scores of NaN": lambda: distributions.histogram_by_class([NAN], ["a"]),
  "no images": lambda: tiles.gallery(IMAGES[:0]),
  "no matches": lambda: matches.matches([], []),
  "no rows": lambda: tiles.grid({"a": []}),
  "no pairs": lambda: tiles.before_after([]),
  "no recons": lambda: tiles.reconstructions(IMAGES[:0], IMAGES[:0]),
  "no slices": lambda: tiles.overlays(IMAGES[:0], {}, ["x"]),
  "no curve": lambda: charts.curves({}, "loss"),
  "empty curve": lambda: charts.curves({"a": ([], [])}, "loss"),
  "no positive": lambda: charts.curves({"a": ([0], [0])}, "loss", log=True),
  "no points": lambda: distributions.embedding(np.zeros((0, 2)), []),
  "no roc": lambda: charts.roc({}),
  "no reliability": lambda: reliability.reliability({}),
  "one class": lambda: charts.roc({"a": ([1, 1], [0.1, 0.2])}),
  "no bars": lambda: charts.bars({}),
  "undefined": lambda: charts.bars({"a": {"value": None}}),
  "no scatter": lambda: distributions.scatter([], [], "x", "y", []),
  "no bins": lambda: charts.bin_sizes([]),
  "empty bins": lambda: charts.bin_sizes([0, 0]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_show_says_why(name, tmp_path):
  _, outline = write(tmp_path, page.Figure(EMPTY[name](), "x"))
  assert re.search(r"Nothing to show: \w", words(*pictures(outline)))


def test_a_match_joins_its_two_places():
  """From the upper left quarter of view 1 to the lower right of view 2."""
  image = np.zeros((16, 16), np.uint8)
  ends = np.array([[[0.25, 0.125], [0.75, 0.625]]])
  picture = matches.matches([(image, image)], [ends])
  shapes = [p.get("d") for p in elements(picture, "path") if p.get("style")]
  (line,) = [d for d in shapes if "Q" in d]
  x0, y0, *_, x1, y1 = map(float, re.findall(r"[\d.]+", line))
  (left, top, side, _), (right, *_) = (
    [float(r.get(key)) for key in ("x", "y", "width", "height")]
    for r in elements(picture, "rect")
  )
  found = (x0 - left, y0 - top, x1 - right, y1 - top)
  expected = np.array([0.125, 0.25, 0.625, 0.75]) * side
  np.testing.assert_allclose(found, expected, atol=0.01)
  with pytest.raises(ValueError, match="0 sets of lines"):
    matches.matches([(image, image)], [])


def test_heat_colours_what_stands_out_alone():
  image = np.full((2, 2, 3), 100, np.uint8)
  places = np.array([[0.0, -5.0], [1.0, 2.0]])
  found = tiles.heated(image, places)
  assert (found[0] == 80).all()  # grey, also below 0
  assert found[1, 1, 0] > found[1, 0, 0] > 80
  assert (tiles.heated(image, np.zeros((2, 2))) == 80).all()
  of_four = tiles.heated(image, places, 4.0)
  np.testing.assert_array_equal(of_four[1, 1], found[1, 0])


DEGENERATE = {
  "one value": lambda: distributions.histogram_by_class([2.0], [1]),
  "constant": lambda: distributions.histogram_by_class([0.0] * 9, [NAN] * 9),
  "one huge": lambda: distributions.histogram_by_class([0, 1e30], ["", None]),
  "flat image": lambda: tiles.gallery(np.full((1, 4, 4), NAN)),
  "same image": lambda: tiles.reconstructions(IMAGES[:1], IMAGES[:1]),
  "infinite": lambda: tiles.reconstructions(
    np.full((2, 4, 4), np.inf), np.stack([np.ones((4, 4)), np.eye(4) * NAN])
  ),
  "one step": lambda: charts.curves({"a": ([5], [1])}, "loss", log=True),
  "one point": lambda: distributions.embedding(
    [[1, 1]], [NAN], kind="continuous"
  ),
  "equal points": lambda: distributions.embedding(
    np.ones((4, 2)), list("aabb")
  ),
  "infinities": lambda: distributions.scatter(
    [1, np.inf], [1, 2], "x", "y", [1, 2]
  ),
  "one defined": lambda: charts.roc(
    {"a": ([1, 1], [0, 1]), "b": ([0, 1], [0, 1])}
  ),
  "equal bars": lambda: charts.bars({"a": {"value": 0.5}}),
  "hostile words": lambda: distributions.scatter(
    [1], [1], "$x_{", "<b>&\x00", ["\ud800 \u9752 $\\frac"]
  ),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_still_gives_a_picture(name, tmp_path):
  picture = DEGENERATE[name]()
  assert not empty(picture)
  write(tmp_path, page.Figure(picture, "x"))


def slow_roc(truth, score) -> tuple[np.ndarray, float]:
  """Points [P, 2] of the ROC curve, and the share of ordered pairs."""
  thresholds = [np.inf, *sorted(set(score), reverse=True)]
  points = [
    [np.mean(score[truth == kind] >= t) for kind in (0, 1)] for t in thresholds
  ]
  points[0] = [0.0, 0.0]
  wins = [
    (high > low) + 0.5 * (high == low)
    for high in score[truth == 1]
    for low in score[truth == 0]
  ]
  return np.array(points), float(np.mean(wins))


@pytest.mark.parametrize("decimals", [9, 1, 0])
def test_roc_equals_a_loop_over_thresholds(decimals):
  r = random(1)
  truth = r.integers(0, 2, 200)
  score = np.round(r.normal(size=200) + truth, decimals)  # ties
  score[:2] = -np.inf, np.inf
  fpr, tpr, area = charts.roc_points(truth, score)
  points, want = slow_roc(truth, score)
  chex.assert_trees_all_close(np.stack((fpr, tpr), 1), points, atol=1e-12)
  assert area == pytest.approx(want, abs=1e-12)
  assert f"x · {want:.3f}" in words(charts.roc({"x": (truth, score)}))


def test_roc_leaves_nan_pairs_out_and_refuses_other_labels():
  plain = charts.roc_points([0, 1, 0, 1], [1, 2, 3, 4])
  holes = charts.roc_points([0, 1, 0, 1, NAN, 1], [1, 2, 3, 4, 9, NAN])
  np.testing.assert_array_equal(plain[1], holes[1])
  assert charts.roc_points([0, 0], [1, 2])[2] is None
  with pytest.raises(ValueError, match="0 or 1"):
    charts.roc_points([0, 2], [1, 2])
  with pytest.raises(ValueError, match="lengths differ"):
    charts.roc_points([0, 1], [1, 2, 3])


def test_bands_and_ticks_are_drawn_where_they_are_given():
  lines = {"a": ([0, 1], [0.6, 0.7]), "b": ([0, 1], [0.5, 0.5])}
  band = {"a": ([0.5, 0.6], [0.7, 0.8])}
  plain, banded = (
    charts.curves(lines, "AUROC", bands=bands, ticks={0: "5 %", 1: "all"})
    for bands in (None, band)
  )
  assert "5 %" in words(plain) and "all" in words(plain)
  count = [len(elements(picture, "path")) for picture in (plain, banded)]
  assert count[1] > count[0]
  with pytest.raises(ValueError, match="lengths differ"):
    charts.curves(lines, "AUROC", bands={"a": ([0.5], [0.7])})


def test_roc_marks_the_undefined():
  seen = words(charts.roc({"a": ([0, 1], [0, 1]), "b": ([1, 1], [0, 1])}))
  assert "a · 1.000" in seen and "b · undefined" in seen


def test_pictures_say_their_numbers():
  seen = words(NORMAL["bars"]())
  assert "0.800 [0.700, 0.900]" in seen and "undefined" in seen
  assert "chance" in seen
  assert "mean" in words(NORMAL["curves"]())
  seen = words(distributions.histogram_by_class([1, 2, 6, NAN], [0, 0, 0, 1]))
  assert "n = 3 · median 2.00" in seen and "1 not finite, left out" in seen
  assert " | 9" in words(charts.bin_sizes([4, 0, 9]))


def test_small_classes_are_gathered_and_missing_ones_named():
  classes = [*range(9), *range(9), 0, NAN, None, ""]
  seen = words(
    distributions.scatter(np.arange(22), np.arange(22), "x", "y", classes)
  )
  assert "0 (n = 3)" in seen and "no class (n = 3)" in seen
  assert "other classes (n = 8)" in seen


def image_of(tile: ElementTree.Element) -> np.ndarray:
  """The pixels of an <image> element."""
  from PIL import Image

  code = tile.get("{http://www.w3.org/1999/xlink}href").partition("base64,")[2]
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))


def corner(tile: ElementTree.Element) -> tuple[float, float]:
  """Left and top of an <image> element in the picture."""
  numbers = re.findall(r"-?[\d.]+(?:e-?\d+)?", tile.get("transform"))
  a, b, c, d, x, y = map(float, numbers)
  assert a > 0 and d > 0 and b == c == 0, "neither flipped nor turned"
  return x, y


def test_gallery_keeps_order_pixels_and_captions():
  picture = tiles.gallery(IMAGES, ["p", "q", "r", "s", "t"], 2)
  seen = words(picture)
  assert seen.startswith("p | q | r | s | t | lowest | highest")
  shown = elements(picture, "image")
  chex.assert_trees_all_equal([image_of(t) for t in shown], [*IMAGES[..., 0]])
  places = [corner(tile) for tile in shown]
  assert sorted(places, key=lambda place: place[::-1]) == places
  assert len({x for x, _ in places}) == 2 and len({y for _, y in places}) == 3
  with pytest.raises(ValueError, match="1 captions for 5 images"):
    tiles.gallery(IMAGES, ["p"])


def test_colours_and_large_images():
  colour = random(5).integers(0, 256, (2, 400, 100, 3), np.uint8)
  small, large = colour[:, :30], colour
  shown = elements(tiles.gallery(small), "image")
  chex.assert_trees_all_equal([image_of(t) for t in shown], [*small])
  assert all("pixelated" in tile.get("style") for tile in shown)
  shown = elements(tiles.gallery(large), "image")
  chex.assert_shape([image_of(t) for t in shown], (320, 80, 3))
  assert not any(tile.get("style") for tile in shown)


def test_before_after_shows_both_sides_of_each_pair():
  pairs = [(IMAGES[i], IMAGES[i] * 0.5) for i in range(3)]
  picture = tiles.before_after(pairs, ["a" * 30, "b", "c"])
  seen = words(picture).split(" | ")
  assert seen.count("as stored") == seen.count("as used") == 2
  assert seen.count("\u2192") == 3 and {"a" * 30, "b", "c"} <= set(seen)
  places = [corner(tile) for tile in elements(picture, "image")]
  for text in elements(picture, "text"):
    if text.text in ("b", "c"):  # at the lower left of its pair
      x, y = places[2 * "abc".index(text.text)]
      assert float(text.get("x")) == pytest.approx(x, abs=1)
      assert y + 100 < float(text.get("y")) < y + 150
  shown = [image_of(tile) for tile in elements(picture, "image")]
  low, high = IMAGES[0].min() * 0.5, IMAGES[0].max() * 0.5
  used = np.round(255 * (IMAGES[0] * 0.5 - low) / (high - low))
  chex.assert_trees_all_equal(shown[0], IMAGES[0, ..., 0])
  chex.assert_trees_all_equal(shown[1], used[..., 0].astype(np.uint8))
  with pytest.raises(ValueError, match="1 captions for 3 pairs"):
    tiles.before_after(pairs, ["a"])


def test_reconstructions_share_one_scale_of_values_and_one_of_errors():
  from matplotlib import colormaps

  recons = IMAGES.astype(float)
  recons[0] += 8
  recons[1] -= 4
  picture = tiles.reconstructions(IMAGES, recons)
  assert words(picture).endswith("0 | 8")
  low, high = recons.min(), recons.max()
  want = [np.round(255 * (x - low) / (high - low)) for x in (IMAGES, recons)]
  hot = [colormaps["inferno"](e)[:3] for e in (1.0, 0.5, 0.0, 0.0, 0.0)]
  shown = [image_of(tile) for tile in elements(picture, "image")]
  got = np.stack(shown[:10]).astype(float)
  chex.assert_trees_all_close(got, np.concatenate(want)[..., 0], atol=1.0)
  for tile, colour in zip(shown[10:15], hot, strict=True):
    flat = np.broadcast_to(np.array(colour) * 255, (12, 16, 3))
    chex.assert_trees_all_close(tile.astype(float), flat, atol=1.0)
  with pytest.raises(ValueError, match="differ"):
    tiles.reconstructions(IMAGES, recons[:2])


def test_many_columns_continue_below():
  images = np.concatenate([IMAGES, IMAGES])
  picture = tiles.reconstructions(images, images)
  shown = elements(picture, "image")[:30]
  places = [corner(tile) for tile in shown]
  assert len({x for x, _ in places}) == 6 and len({y for _, y in places}) == 6
  assert words(picture).count("reconstruction") == 2


def test_overlays_tint_the_classes():
  images = np.full((1, 2, 2, 1), 100, np.uint8)
  maps = {"truth": np.array([[[0, 1], [2, 0]]])}
  picture = tiles.overlays(images, maps, ["liver", "spleen"], ["scan 7"])
  grey, tinted = map(image_of, elements(picture, "image"))
  chex.assert_trees_all_equal(grey, images[0, ..., 0])
  first, second = (
    [round(50 + int(c[i : i + 2], 16) / 2) for i in (1, 3, 5)]
    for c in canvas.SERIES[:2]
  )
  want = np.array([[[100] * 3, first], [second, [100] * 3]], np.uint8)
  chex.assert_trees_all_equal(tinted, want)
  seen = words(picture).split(" | ")
  assert {"slice", "truth", "scan 7", "liver", "spleen"} == set(seen)
  with pytest.raises(ValueError, match="map 'truth' is"):
    tiles.overlays(np.repeat(images, 2, 0), maps, ["liver"])
  with pytest.raises(ValueError, match="2 captions for 1 images"):
    tiles.overlays(images, maps, ["liver"], ["a", "b"])


def test_project_2d_keeps_the_principal_plane_and_says_which_rows():
  r = random(2)
  plane = r.normal(size=(40, 2)) * (5, 2)
  plane -= plane.mean(0)
  basis = np.linalg.qr(r.normal(size=(10, 2)))[0]
  points, rows = projection.project_2d(plane @ basis.T)
  np.testing.assert_array_equal(rows, np.arange(40))
  np.testing.assert_allclose(points @ points.T, plane @ plane.T, atol=1e-3)
  holes = plane @ basis.T
  holes[3, 0] = NAN
  points, rows = projection.project_2d(holes, limit=20, seed=4)
  again = projection.project_2d(holes, limit=20, seed=4)[1]
  assert len(rows) == len(points) == 20 == len(set(rows)) and 3 not in rows
  np.testing.assert_array_equal(rows, again)


def test_tsne_keeps_far_groups_apart():
  r = random(3)
  features = r.normal(size=(60, 60)) + 30 * np.repeat([0, 1], 30)[:, None]
  points, rows = projection.project_2d(features, "tsne", seed=0)
  centres = points[:30].mean(0), points[30:].mean(0)
  nearest = [np.linalg.norm(points - c, axis=1) for c in centres]
  np.testing.assert_array_equal(nearest[0] > nearest[1], rows >= 30)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 4), (9, 0), (5, 1), (9, 4)])
def test_project_2d_survives_small_and_constant_features(method, shape):
  points, rows = projection.project_2d(np.ones(shape), method)
  assert points.shape == (len(rows), 2) and np.isfinite(points).all()
  varied = random().normal(size=shape)
  points, rows = projection.project_2d(varied, method)
  assert points.shape == (len(rows), 2) and np.isfinite(points).all()


def test_project_2d_names_its_methods():
  with pytest.raises(ValueError, match="pca, tsne"):
    projection.project_2d(np.ones((3, 3)), "umap")


# --- the page -------------------------------------------------------------

BAD = "<script>alert('1')</script> & \"q\""


def full(tmp_path, say=lambda text: text) -> tuple[str, Outline]:
  return write(
    tmp_path,
    page.Text(say("Words.")),
    page.Table([say("h"), "n"], [[say("cell"), 1]], say("caption")),
    page.Figure(NORMAL["gallery"](), say("images")),
    page.Figure(NORMAL["embedding"](), say("points")),
    page.Figure(NORMAL["embedding"](), "the same again"),
    page.Details(say("more"), [page.Text("inside")]),
    title=say("Title"),
    subtitle=say("sub"),
    footer=say("foot"),
    warnings=[say("careful"), "again"],
    cards=[page.Card(say("label"), 0.5, (0.25, 0.75), say("note"))],
  )


def closed(outline: ElementTree.Element | list) -> None:
  """Checks that every reference of an SVG stays inside it."""
  for element in outline:
    for name, value in element.attrib.items():
      if name.rpartition("}")[2] == "href":
        assert value.startswith(("#", "data:image/png;base64,")), value
      assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)", value))


def test_the_page_fetches_nothing(tmp_path):
  text, outline = full(tmp_path)
  own = re.sub(r'src="data:image/svg[^"]*"', "", text)
  assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", own)
  for _, attributes in outline.seen:
    for name, value in attributes.items():
      assert not name.startswith("on")
      if name in ("src", "href", "xlink:href", "srcset", "action"):
        assert value.startswith(("#", "data:image/"))
  for picture in pictures(outline):
    closed(ElementTree.fromstring(picture).iter())
  policy = [a for a in outline.all("meta") if "http-equiv" in a][0]
  assert policy["http-equiv"] == "Content-Security-Policy"
  assert set(policy["content"].split("; ")) == {
    "default-src 'none'",
    "img-src data:",
    "style-src 'unsafe-inline'",
    "base-uri 'none'",
    "form-action 'none'",
  }


def test_everything_is_escaped(tmp_path):
  clean = full(tmp_path)[1]
  _, outline = full(tmp_path, lambda _: BAD)
  tags = [[t for t, _ in o.seen if t != "p"] for o in (clean, outline)]
  assert tags[0] == tags[1]
  assert outline.text.count(BAD) >= 12
  alts = [a["alt"] for a in outline.all("img")]
  assert alts == [BAD, BAD, "the same again"]


@pytest.mark.parametrize(
  "inside", ['<script>alert("1")</script>', '"><script>', "&quot;><b>", "#%0A'"]
)
def test_a_picture_cannot_leave_its_element(inside, tmp_path):
  picture = f'<svg viewBox="0 0 4 4">{inside}</svg>'.encode()
  _, outline = write(tmp_path, page.Figure(picture, "x"))
  assert pictures(outline) == [picture]
  (image,) = outline.all("img")
  assert set(image) == {"src", "width", "height", "alt"}
  assert not outline.all("script") and not outline.all("b")


def test_the_same_report_has_the_same_bytes_in_every_process(tmp_path):
  code = """
import pathlib, sys
import numpy as np
from gcl_jax.report import charts, distributions, html, tiles
points = np.random.default_rng(0).normal(size=(2500, 2))
pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
blocks = [
  html.Figure(charts.curves({"a": ([0, 1], [1, 2])}, "y"), "curve"),
  html.Figure(distributions.embedding(points, points[:, 0] > 0), "clipped"),
  html.Figure(tiles.reconstructions(pixels, pixels // 2), "tiles"),
]
sections = [html.Section("s", blocks)]
html.write(sys.argv[1], title="t", sections=sections)
"""
  found = []
  for seed in ("1", "2"):
    path = tmp_path / f"{seed}.html"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    subprocess.run(
      [sys.executable, "-c", code, str(path)], check=True, env=environment
    )
    found.append(path.read_bytes())
  assert found[0] == found[1]


def test_ids_are_unique_and_every_link_has_its_target(tmp_path):
  sections = [page.Section(t, []) for t in ("Same", "Same", "\u9752", "")]
  sections.append(page.Section("P", [page.Figure(NORMAL["bars"](), "")] * 2))
  _, outline = write(tmp_path, sections=sections)
  ids = [a["id"] for _, a in outline.seen if "id" in a]
  assert len(ids) == len(set(ids))
  used = [a["href"] for _, a in outline.seen if "href" in a]
  assert {u[1:] for u in used if u.startswith("#")} <= set(ids)
  assert len([a for a in outline.all("a") if a["href"][1:3] == "s-"]) == 5
  described = [a["aria-labelledby"] for a in outline.all("section")]
  assert set(described) <= set(ids)


def test_cards_show_value_interval_and_the_undefined(tmp_path):
  cards = [
    page.Card("a", 0.81237, (0.75, 0.875)),
    page.Card("b", None),
    page.Card("c", NAN),
    page.Card("d", 12345.6, (0.1, 2)),
    page.Card("e", np.int64(108309)),
  ]
  text, outline = write(tmp_path, cards=cards)
  assert "0.812" in outline.text and "0.750 to 0.875" in outline.text
  assert outline.text.count("undefined") == 2
  assert "12,346" in outline.text and "108,309" in outline.text
  assert text.count('class="track"') == 1
  assert "left:75.0%;width:12.5%" in text and "left:81.2%" in text


def test_differences_have_a_sign_and_no_scale():
  cards = [
    page.Card("a", 0.04, (0.01, 0.07), signed=True),
    page.Card("b", -0.04, (-0.07, 0.01), signed=True),
  ]
  text = render.render_cards(cards)
  assert 'class="track"' not in text
  assert "+0.040<" in text and "+0.010 to +0.070" in text
  assert "\u22120.040<" in text and "\u22120.070 to +0.010" in text


def test_tables_align_numbers_right_and_share_decimals(tmp_path):
  rows = [
    ["x", 1, 0.5, "0.8 [0.7, 0.9]", None],
    ["y", 20, np.float32(12.25), "", NAN],
  ]
  text, outline = write(tmp_path, page.Table(["n", *"abcd"], rows, "Cap."))
  assert ">0.50<" in text and ">12.25<" in text
  assert text.count('<td class="right">') == 2 * 4
  sides = [a.get("class") for a in outline.all("th") if a["scope"] == "col"]
  assert sides == [None, "right", "right", "right", "right"]
  assert outline.text.count("\u2013") == 2
  _, outline = write(tmp_path, page.Table(["a", "b"], [], align="rl"))
  assert "no rows" in outline.text
  with pytest.raises(ValueError, match="row 0 .* has 1 cells, the headers 2"):
    write(tmp_path, page.Table(["a", "b"], [[1]]))
  with pytest.raises(ValueError, match="l or r for each of the 2"):
    write(tmp_path, page.Table(["a", "b"], [], align="lx"))


@pytest.mark.parametrize(
  ("value", "shown"),
  [
    (0.12345, "0.123"),
    (-3, "-3"),
    (-0.5, "\u22120.500"),
    (123.456, "123.5"),
    (1234.5, "1234"),
    (3.21e-5, "3.21e\u221205"),
    (0.0, "0.000"),
    (20221.0, "20,221"),
    (NAN, "\u2013"),
    (None, "\u2013"),
    (np.inf, "+inf"),
  ],
)
def test_number(value, shown):
  assert number(value) == shown


def test_warnings_appear_only_when_there_are_any(tmp_path):
  _, outline = write(tmp_path, warnings=["left out"])
  assert "1 warning" in outline.text and "left out" in outline.text
  assert "warning" not in write(tmp_path)[1].text


def test_settings_are_flat_folded_and_complete(tmp_path):
  section = page.settings({"a": {"b": {"c": 0.001}, "d": ()}, "e": None})
  _, outline = write(tmp_path, sections=[section])
  assert "All 3 settings" in outline.text and len(outline.all("details")) == 1
  for words_ in ("a.b.c", "0.001", "a.d", "(empty)", "none"):
    assert words_ in outline.text


def test_a_failed_write_leaves_the_old_report_and_no_litter(tmp_path):
  path = tmp_path / "report.html"
  page.write(path, title="old")
  with pytest.raises(ValueError, match="viewBox"):
    sections = [page.Section("s", [page.Figure(b"<svg></svg>", "x")])]
    page.write(path, title="new", sections=sections)
  assert "old" in path.read_text()
  folder = tmp_path / "taken"
  folder.mkdir()
  with pytest.raises(OSError):
    page.write(folder, title="a folder is in the way")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "taken"]


# --- colours --------------------------------------------------------------


def linear(colour: str) -> np.ndarray:
  channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  low = channels <= 0.04045
  return np.where(low, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
  """WCAG 2.2 contrast ratio, 1 to 21."""
  light = sorted(linear(c) @ (0.2126, 0.7152, 0.0722) for c in (a, b))
  return (light[1] + 0.05) / (light[0] + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
  """CIELAB (D65) of linear RGB."""
  matrix = [
    [0.4124, 0.3576, 0.1805],
    [0.2126, 0.7152, 0.0722],
    [0.0193, 0.1192, 0.9505],
  ]
  x, y, z = np.cbrt(np.array(matrix) @ rgb / (0.9505, 1, 1.089))
  return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
  "full": np.eye(3),
  "protan": np.array(
    [
      [0.152286, 1.052583, -0.204868],
      [0.114503, 0.786281, 0.099216],
      [-0.003882, -0.048116, 1.051998],
    ]
  ),
  "deutan": np.array(
    [
      [0.367322, 0.860646, -0.227968],
      [0.280085, 0.672501, 0.047413],
      [-0.011820, 0.042940, 0.968881],
    ]
  ),
  "tritan": np.array(
    [
      [1.255528, -0.076749, -0.178779],
      [-0.078411, 0.930809, 0.147602],
      [0.004733, 0.691367, 0.303900],
    ]
  ),
}


@pytest.mark.parametrize("vision", VISION)
def test_series_differ_with_any_colour_vision(vision):
  series = [VISION[vision] @ linear(colour) for colour in canvas.SERIES]
  seen = [lab(np.clip(colour, 0, 1)) for colour in series]
  pairs = itertools.combinations(seen, 2)
  assert min(np.linalg.norm(a - b) for a, b in pairs) > 12


@pytest.mark.parametrize("shade", [0, 1])
def test_contrast(shade):
  colour = {name: pair[shade] for name, pair in COLOURS.items()}
  for ground in ("page", "surface", "grid"):
    for ink in ("ink", "muted", "accent"):
      assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
  for ink in ("ink", "warn"):
    assert contrast(colour[ink], colour["warn-soft"]) >= 4.5, ink
  for ink in (canvas.INK, canvas.MUTED):
    assert contrast(ink, colour["plate"]) >= 4.5, ink
  for series in (*canvas.SERIES, canvas.GREY):
    assert contrast(series, colour["plate"]) >= 3, series


def test_importing_the_report_imports_no_plotting_library():
  code = (
    "import sys; from gcl_jax.report import charts, distributions, html; "
    "from gcl_jax.report import projection, tiles; "
    "print([m for m in ('matplotlib', 'sklearn', 'PIL') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"


def test_a_grid_names_its_rows_and_refuses_uneven_ones():
  picture = tiles.grid({"clean": IMAGES, "low": IMAGES}, list("abcde"), 3)
  seen = [t.strip() for t in words(picture).split("|")]
  # Two blocks of both rows, a caption under each column.
  assert seen.count("clean") == seen.count("low") == 2
  assert {*"abcde"} <= set(seen)
  with pytest.raises(ValueError, match="rows differ in length"):
    tiles.grid({"clean": IMAGES, "low": IMAGES[:2]})
  with pytest.raises(ValueError, match="1 captions for 5 columns"):
    tiles.grid({"clean": IMAGES}, ["a"])


def test_pairs_are_named_as_asked():
  pair = [(IMAGES[0], IMAGES[1])]
  seen = words(tiles.before_after(pair, names=("clean", "degraded")))
  assert "clean" in seen and "degraded" in seen and "stored" not in seen


def test_no_two_lines_of_a_chart_look_alike():
  styles = [(s["color"], str(s["ls"])) for s in map(charts._line, range(12))]
  assert len(set(styles)) == 12
