"""The report: pages are well-formed, closed to the outside, and say what the
numbers say; pictures survive every input."""

import base64
import html.parser
import io
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from gcl_jax.report import figures, svg
from gcl_jax.report import html as page
from gcl_jax.report.style import COLOURS

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
  "histogram": lambda: figures.histogram_by_class(SCORES, CLASSES, [0.0, 1.0]),
  "histogram of one": lambda: figures.histogram_by_class(SCORES),
  "gallery": lambda: figures.gallery(IMAGES, list("abcde"), 3),
  "before after": lambda: figures.before_after(
    [(IMAGES[0, ..., 0], IMAGES[1]), (IMAGES[2] * 3.5, IMAGES[3])]
  ),
  "reconstructions": lambda: figures.reconstructions(
    IMAGES, IMAGES // 2, None, list("abcde")
  ),
  "curves": lambda: figures.curves(
    {"loss": ([0, 1, 2], [3, NAN, 1])}, "J", references={"mean": 2.0}
  ),
  "log curves": lambda: figures.curves(
    {"a": ([0, 1], [1, 0]), "b": ([0, 1], [9e-9, 2])}, "loss", log=True
  ),
  "embedding": lambda: figures.embedding(POINTS, CLASSES),
  "map of values": lambda: figures.embedding(
    POINTS, SCORES, kind="continuous", label="score"
  ),
  "roc": lambda: figures.roc({"x": (TRUTH, SCORES), "y": (TRUTH, -SCORES)}),
  "bars": lambda: figures.bars(
    {"x": {"value": 0.8, "low": 0.7, "high": 0.9}, "y": {"value": None}},
    highlight="x",
    reference=("chance", 0.5),
  ),
  "scatter": lambda: figures.scatter(SCORES, SCORES, "x", "y", CLASSES),
  "bins": lambda: figures.bin_sizes([4, 0, 9]),
  "many bins": lambda: figures.bin_sizes(np.arange(500)),
}


@pytest.mark.parametrize("name", NORMAL)
def test_every_picture_is_valid_repeatable_and_fits_a_page(name, tmp_path):
  picture = NORMAL[name]()
  assert not empty(picture)
  assert picture == NORMAL[name](), "not the same bytes twice"
  text, outline = write(tmp_path, page.Figure(picture, "See.", "A picture"))
  drawn = [a for a in outline.all("svg") if a.get("role") == "img"]
  assert len(drawn) == 1 and drawn[0]["aria-label"] == "A picture"
  assert "mathdefault" not in text


EMPTY = {
  "no scores": lambda: figures.histogram_by_class([], []),
  "scores of NaN": lambda: figures.histogram_by_class([NAN], ["a"]),
  "no images": lambda: figures.gallery(IMAGES[:0]),
  "no pairs": lambda: figures.before_after([]),
  "no recons": lambda: figures.reconstructions(IMAGES[:0], IMAGES[:0]),
  "no curve": lambda: figures.curves({}, "loss"),
  "empty curve": lambda: figures.curves({"a": ([], [])}, "loss"),
  "no positive": lambda: figures.curves({"a": ([0], [0])}, "loss", log=True),
  "no points": lambda: figures.embedding(np.zeros((0, 2)), []),
  "no roc": lambda: figures.roc({}),
  "one class": lambda: figures.roc({"a": ([1, 1], [0.1, 0.2])}),
  "no bars": lambda: figures.bars({}),
  "undefined": lambda: figures.bars({"a": {"value": None}}),
  "no scatter": lambda: figures.scatter([], [], "x", "y"),
  "no bins": lambda: figures.bin_sizes([]),
  "empty bins": lambda: figures.bin_sizes([0, 0]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_show_says_why(name, tmp_path):
  _, outline = write(tmp_path, page.Figure(EMPTY[name]()))
  assert re.search(r"Nothing to show: \w", outline.text)


DEGENERATE = {
  "one value": lambda: figures.histogram_by_class([2.0], [1]),
  "constant": lambda: figures.histogram_by_class([0.0] * 9, [NAN] * 9),
  "one huge": lambda: figures.histogram_by_class([0, 1e30], ["", None]),
  "flat image": lambda: figures.gallery(np.full((1, 4, 4), NAN)),
  "same image": lambda: figures.reconstructions(IMAGES[:1], IMAGES[:1]),
  "infinite": lambda: figures.reconstructions(
    np.full((1, 4, 4), np.inf), np.full((1, 4, 4), 1.0), np.full((1, 4, 4), NAN)
  ),
  "one step": lambda: figures.curves({"a": ([5], [1])}, "loss", log=True),
  "one point": lambda: figures.embedding([[1, 1]], [NAN], kind="continuous"),
  "equal points": lambda: figures.embedding(np.ones((4, 2)), list("aabb")),
  "infinities": lambda: figures.scatter([1, np.inf], [1, 2], "x", "y", [1, 2]),
  "one defined": lambda: figures.roc(
    {"a": ([1, 1], [0, 1]), "b": ([0, 1], [0, 1])}
  ),
  "equal bars": lambda: figures.bars({"a": {"value": 0.5}}),
  "hostile words": lambda: figures.scatter(
    [1], [1], "$x_{", "<b>&\x00", ["\ud800 \u9752 $\\frac"]
  ),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_still_gives_a_picture(name, tmp_path):
  picture = DEGENERATE[name]()
  assert not empty(picture)
  write(tmp_path, page.Figure(picture))


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_roc_equals_scikit_learn(decimals):
  r = random(1)
  truth = r.integers(0, 2, 200)
  score = r.normal(size=200) + truth
  if decimals is not None:
    score = np.round(score, decimals)  # ties
  fpr, tpr, area = figures.roc_points(truth, score)
  want = roc_curve(truth, score, drop_intermediate=False)
  np.testing.assert_allclose(fpr, want[0], atol=1e-12)
  np.testing.assert_allclose(tpr, want[1], atol=1e-12)
  np.testing.assert_allclose(area, roc_auc_score(truth, score), atol=1e-12)
  assert f"x · {roc_auc_score(truth, score):.3f}" in words(
    figures.roc({"x": (truth, score)})
  )


def test_roc_leaves_nan_pairs_out_and_refuses_other_labels():
  plain = figures.roc_points([0, 1, 0, 1], [1, 2, 3, 4])
  holes = figures.roc_points([0, 1, 0, 1, NAN, 1], [1, 2, 3, 4, 9, NAN])
  np.testing.assert_array_equal(plain[1], holes[1])
  assert figures.roc_points([0, 0], [1, 2])[2] is None
  with pytest.raises(ValueError, match="0 or 1"):
    figures.roc_points([0, 2], [1, 2])
  with pytest.raises(ValueError, match="lengths differ"):
    figures.roc_points([0, 1], [1, 2, 3])


def test_roc_takes_words_and_marks_the_undefined():
  seen = words(
    figures.roc(
      {"a": ([0, 1], [0, 1]), "b": ([1, 1], [0, 1])}, {"a": "1.00 [0.9, 1]"}
    )
  )
  assert "a · 1.00 [0.9, 1]" in seen and "b · undefined" in seen


def test_pictures_say_their_numbers():
  seen = words(NORMAL["bars"]())
  assert "0.800 [0.700, 0.900]" in seen and "undefined" in seen
  assert "chance" in seen
  assert "mean" in words(NORMAL["curves"]())
  seen = words(figures.histogram_by_class([1, 2, 6, NAN], [0, 0, 0, 1]))
  assert "n = 3 · median 2.00" in seen and "1 not finite, left out" in seen
  assert " | 9" in words(figures.bin_sizes([4, 0, 9]))


def test_small_classes_are_gathered_and_missing_ones_named():
  classes = [*range(9), *range(9), 0, NAN, None, ""]
  seen = words(figures.scatter(np.arange(22), np.arange(22), "x", "y", classes))
  assert "0 (n = 3)" in seen and "no class (n = 3)" in seen
  assert "other classes (n = 8)" in seen


def test_gallery_keeps_order_pixels_and_captions():
  from PIL import Image

  picture = figures.gallery(IMAGES, ["p", "q", "r", "s", "t"], 2)
  seen = words(picture)
  assert seen.startswith("lowest | highest") and seen.endswith("s | t")
  tiles = elements(picture, "image")
  assert len(tiles) == 5
  for tile, image in zip(tiles, IMAGES, strict=True):
    data = tile.get("href").partition("base64,")[2]
    file = io.BytesIO(base64.b64decode(data))
    np.testing.assert_array_equal(Image.open(file), image[..., 0])
  assert float(tiles[1].get("x")) > float(tiles[0].get("x"))
  assert float(tiles[2].get("y")) > float(tiles[1].get("y"))
  with pytest.raises(ValueError, match="1 captions for 5 images"):
    figures.gallery(IMAGES, ["p"])


def test_errors_share_one_scale():
  recons = IMAGES.astype(float)
  recons[0] += 8
  recons[1] += 4
  seen = words(figures.reconstructions(IMAGES, recons))
  assert seen.endswith("0 | 8")
  with pytest.raises(ValueError, match="differ"):
    figures.reconstructions(IMAGES, recons[:2])


def test_project_2d_keeps_the_principal_plane_and_says_which_rows():
  r = random(2)
  plane = r.normal(size=(40, 2)) * (5, 2)
  plane -= plane.mean(0)
  basis = np.linalg.qr(r.normal(size=(10, 2)))[0]
  points, rows = figures.project_2d(plane @ basis.T)
  np.testing.assert_array_equal(rows, np.arange(40))
  np.testing.assert_allclose(points @ points.T, plane @ plane.T, atol=1e-3)
  holes = plane @ basis.T
  holes[3, 0] = NAN
  points, rows = figures.project_2d(holes, limit=20, seed=4)
  again = figures.project_2d(holes, limit=20, seed=4)[1]
  assert len(rows) == len(points) == 20 == len(set(rows)) and 3 not in rows
  np.testing.assert_array_equal(rows, again)


def test_tsne_keeps_far_groups_apart():
  r = random(3)
  features = r.normal(size=(60, 60)) + 30 * np.repeat([0, 1], 30)[:, None]
  points, rows = figures.project_2d(features, "tsne", seed=0)
  centres = points[:30].mean(0), points[30:].mean(0)
  nearest = [np.linalg.norm(points - c, axis=1) for c in centres]
  np.testing.assert_array_equal(nearest[0] > nearest[1], rows >= 30)


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 4), (9, 0), (5, 1), (9, 4)])
def test_project_2d_survives_small_and_constant_features(method, shape):
  points, rows = figures.project_2d(np.ones(shape), method)
  assert points.shape == (len(rows), 2) and np.isfinite(points).all()
  varied = random().normal(size=shape)
  points, rows = figures.project_2d(varied, method)
  assert points.shape == (len(rows), 2) and np.isfinite(points).all()


def test_project_2d_names_its_methods():
  with pytest.raises(ValueError, match="pca, tsne"):
    figures.project_2d(np.ones((3, 3)), "umap")


# --- the page -------------------------------------------------------------

BAD = "<script>alert('1')</script> & \"q\""


def png() -> bytes:
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(IMAGES[0, ..., 0]).save(file, "PNG")
  return file.getvalue()


def full(tmp_path, say=lambda text: text) -> tuple[str, Outline]:
  return write(
    tmp_path,
    page.Text(say("Words.\n\nMore.")),
    page.Text([say("one"), "two"]),
    page.Notice("error", say("broken")),
    page.Table([say("h"), "n"], [[say("cell"), 1]], say("caption")),
    page.Figure(png(), say("a png"), say("alt")),
    page.Figure(NORMAL["embedding"](), say("points"), say("alt")),
    page.Figure(NORMAL["embedding"](), "the same again"),
    page.Details(say("more"), [page.Text("inside")]),
    title=say("Title"),
    subtitle=say("sub"),
    footer=say("foot"),
    warnings=[say("careful"), "again"],
    cards=[
      page.Card(say("label"), 0.5, (0.25, 0.75), say("note")),
      page.Card("words", say("value"), say("interval")),
    ],
  )


def test_the_page_fetches_nothing(tmp_path):
  text, outline = full(tmp_path)
  assert not re.search(r"https?:|//[a-z]|@import|<script|<link", text)
  for _, attributes in outline.seen:
    for name, value in attributes.items():
      assert not name.startswith("on")
      if name in ("src", "href", "xlink:href", "srcset", "action"):
        assert value.startswith(("#", "data:image/"))
  assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", text))
  policy = [a for a in outline.all("meta") if "http-equiv" in a][0]
  assert "default-src 'none'" in policy["content"]


def test_everything_is_escaped(tmp_path):
  clean = full(tmp_path)[1]
  _, outline = full(tmp_path, lambda _: BAD)
  tags = [[t for t, _ in o.seen if t != "p"] for o in (clean, outline)]
  assert tags[0] == tags[1]
  assert outline.text.count(BAD) >= 14
  images = [a["alt"] for a in outline.all("img")]
  labels = [a.get("aria-label") for a in outline.all("svg")]
  assert images == [BAD] and BAD in labels


def test_ids_are_unique_and_every_link_has_its_target(tmp_path):
  sections = [page.Section(t, []) for t in ("Same", "Same", "\u9752", "")]
  sections.append(page.Section("P", [page.Figure(NORMAL["bars"]())] * 2))
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
    page.Card("b", None, (None, None)),
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
  _, outline = write(tmp_path, page.Table(["a", "b"], [], align="rc"))
  assert "no rows" in outline.text
  with pytest.raises(ValueError, match="row 0 .* has 1 cells, the headers 2"):
    write(tmp_path, page.Table(["a", "b"], [[1]]))
  with pytest.raises(ValueError, match="one of l, c, r"):
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
  assert page.number(value) == shown


def test_warnings_appear_only_when_there_are_any(tmp_path):
  _, outline = write(tmp_path, warnings=["left out"])
  assert "1 warning" in outline.text and "left out" in outline.text
  assert "warning" not in write(tmp_path)[1].text
  with pytest.raises(ValueError, match="info, warning, error"):
    write(tmp_path, page.Notice("loud", "x"))


def test_settings_are_flat_folded_and_complete(tmp_path):
  section = page.settings({"a": {"b": {"c": 0.001}, "d": ()}, "e": None})
  _, outline = write(tmp_path, sections=[section])
  assert "All 3 settings" in outline.text and len(outline.all("details")) == 1
  for words_ in ("a.b.c", "0.001", "a.d", "(empty)", "none"):
    assert words_ in outline.text


def test_a_failed_write_leaves_the_old_report_and_no_litter(tmp_path):
  path = tmp_path / "report.html"
  page.write(path, title="old")
  with pytest.raises(ValueError, match="script"):
    bad = '<svg viewBox="0 0 1 1"><script/></svg>'
    sections = [page.Section("s", [page.Figure(bad)])]
    page.write(path, title="new", sections=sections)
  assert "old" in path.read_text()
  folder = tmp_path / "taken"
  folder.mkdir()
  with pytest.raises(OSError):
    page.write(folder, title="a folder is in the way")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "taken"]


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4">{}</svg>'


@pytest.mark.parametrize(
  "inside",
  [
    "<script>1</script>",
    '<rect onclick="x"/>',
    '<image href="https://example.org/x.png"/>',
    '<image href="data:text/html,x"/>',
    '<rect style="fill:url(//example.org/x)"/>',
    "<foreignObject/>",
    "<rect>",
  ],
)
def test_a_picture_may_not_reach_outside_itself(inside):
  with pytest.raises(ValueError, match="picture"):
    svg.inline(SVG.format(inside), "p-", "x")


def test_a_picture_takes_the_pages_colours_and_its_own_ids():
  inside = (
    '<style>*{fill:red}</style><g id="a" style="fill:#1c2127"/>'
    '<use href="#a" style="clip-path:url(#a);fill:#123456"/>'
  )
  text, width, height = svg.inline(SVG.format(inside), "p7-", "x")
  assert (width, height) == (4, 4) and "style>" not in text
  assert 'id="p7-a"' in text and 'href="#p7-a"' in text
  assert "url(#p7-a)" in text and "var(--ink)" in text and "#123456" in text


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


@pytest.mark.parametrize("shade", [0, 1])
@pytest.mark.parametrize("vision", VISION)
def test_series_differ_with_any_colour_vision(shade, vision):
  series = [COLOURS[f"series-{i}"][shade] for i in range(6)]
  seen = [lab(np.clip(VISION[vision] @ linear(c), 0, 1)) for c in series]
  pairs = itertools.combinations(seen, 2)
  assert min(np.linalg.norm(a - b) for a, b in pairs) > 12


@pytest.mark.parametrize("shade", [0, 1])
def test_contrast(shade):
  colour = {name: pair[shade] for name, pair in COLOURS.items()}
  for ground in ("page", "surface", "grid"):
    for ink in ("ink", "muted", "accent"):
      assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
  for kind in ("accent", "warn", "bad"):
    for ink in ("ink", kind):
      assert contrast(colour[ink], colour[f"{kind}-soft"]) >= 4.5, kind
  for name in [f"series-{i}" for i in range(6)] + ["other"]:
    assert contrast(colour[name], colour["surface"]) >= 3, name


def test_colours_are_distinct_so_that_pictures_can_be_recoloured():
  light = [pair[0] for pair in COLOURS.values()]
  assert len(set(light)) == len(light)


def test_importing_the_report_imports_no_plotting_library():
  code = (
    "import sys; from gcl_jax.report import figures, html; "
    "print([m for m in ('matplotlib', 'sklearn', 'PIL') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"
