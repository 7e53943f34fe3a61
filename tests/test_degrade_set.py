"""A data set degraded to a share: who, how, and what is written."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from gcl_jax import data
from gcl_jax.augment import degradations
from gcl_jax.data import formats
from gcl_jax.errors import ConfigError, DataError
from gcl_jax.methods.comcl import config as settings
from gcl_jax.methods.comcl import degrade_set, quality

pytestmark = [
  pytest.mark.compiles,
  # ml_collections loads the configuration's file in the old way.
  pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]
COUNT = 20
draw = jax.jit(degradations.draw, static_argnums=1)
apply = jax.jit(degradations.apply)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  """Small eyes of 10 patients with a grade, a finding and a quality."""
  folder = tmp_path_factory.mktemp("stored")
  random = np.random.default_rng(0)
  rows, columns = np.indices((24, 30))
  inside = (rows - 12) ** 2 + (columns - 15) ** 2 < 120
  lines = ["id,path,group,grade,dark,quality"]
  for k in range(COUNT):
    image = random.integers(80, 220, (24, 30, 3)) * inside[..., None]
    Image.fromarray(image.astype(np.uint8)).save(folder / f"{k}.png")
    grade = "" if k == 3 else k % 5
    lines.append(f"eye/{k},{k}.png,p{k // 2},{grade},{k % 2},{2 * (k < 4)}")
  (folder / "table.csv").write_text("\n".join(lines) + "\n")
  return folder


def words(stored, out, share, *more, meta="'grade','quality',"):
  return [
    *("--config=comcl:tiny", "--config.data.name=folder"),
    f"--config.data.path={stored}",
    f"--config.data.table={stored / 'table.csv'}",
    "--config.data.label_columns=('dark',)",
    f"--config.data.meta_columns=({meta})",
    *(f"--share={share}", f"--out={out}", *more),
  ]


def table(out):
  with (out / "table.csv").open(encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file))


def degraded_here(out):
  return {row["id"] for row in table(out) if row["degradation"]}


@pytest.fixture(scope="module")
def both(stored, tmp_path_factory):
  """Folders with 33 % and 70 % of low quality, and what was printed."""
  folder, said = tmp_path_factory.mktemp("out"), {}
  for share in (0.33, 0.7):
    said[share] = degrade_set.main(words(stored, folder / str(share), share))
  return folder, said


def test_shares_are_met_and_nested(both):
  folder, said = both
  # 4 of 20 are low by the table and count: 2.6 and 10 more are needed.
  assert len(degraded_here(folder / "0.33")) == 3
  assert len(degraded_here(folder / "0.7")) == 10
  assert degraded_here(folder / "0.33") < degraded_here(folder / "0.7")
  names = [f"eye/{k}" for k in range(4, COUNT)]
  first = sorted(names, key=lambda name: quality.uniform(name, 0))[:10]
  assert degraded_here(folder / "0.7") == set(first)
  assert "14 of low quality (70.0%, asked for 70.0%)" in said[0.7]
  assert "10 of them degraded here and 4 before" in said[0.7]
  few, more = (
    {row["id"]: row for row in table(folder / share)}
    for share in ("0.33", "0.7")
  )
  for name in degraded_here(folder / "0.33"):
    assert few[name] == more[name]
    paths = [folder / s / few[name]["path"] for s in ("0.33", "0.7")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_images_are_the_stored_ones_or_degraded_by_the_key_of_their_id(
  both, stored
):
  out = both[0] / "0.7"
  rows = table(out)
  assert [row["id"] for row in rows] == [f"eye/{k}" for k in range(COUNT)]
  for k, row in enumerate(rows):
    clean = formats.read_image(stored / f"{k}.png")
    written = formats.read_image(out / row["path"])
    assert row["quality"] == str(int(k < 4 or bool(row["degradation"])))
    if not row["degradation"]:
      np.testing.assert_array_equal(written, clean)
      assert row["drawn"] == ""
      continue
    key = jax.random.fold_in(jax.random.key(0), quality.code_of(row["id"]))
    drawn = draw(key[None], "fundus")
    expected = np.asarray(apply(clean[None], drawn))[0]
    np.testing.assert_allclose(written, expected, atol=0.51)
    assert np.abs(written - expected).mean() < 0.3
    kind, facts = degradations.facts(drawn, 0)
    assert row["degradation"] == kind
    assert json.loads(row["drawn"]) == facts


def test_the_written_set_is_read_as_the_message_says(both, stored):
  folder, said = both
  flags = said[0.7].partition("read them with: ")[2]
  config = settings.get_config("tiny")
  for word in flags.split(" --"):
    name, _, value = word.removeprefix("--").partition("=")
    if name.startswith("config.data."):
      value = value.strip('"')
      value = eval(value) if value.startswith("(") else value
      config.data[name.removeprefix("config.data.")] = value
  found, was = data.load(config.data), table(folder / "0.7")
  assert found.labels == ("dark",) and found.meta == ("grade", "quality")
  assert found.groups.tolist() == [f"p{k // 2}" for k in range(COUNT)]
  np.testing.assert_array_equal(found.table["dark"], np.arange(COUNT) % 2)
  grades = [np.nan if k == 3 else k % 5 for k in range(COUNT)]
  np.testing.assert_array_equal(found.table["grade"], grades)
  low = quality.native_of(found, config.quality.column)
  assert low.sum() == 14 and found.read(0).shape == (24, 30, 3)
  assert [row["quality"] == "1" for row in was] == low.tolist()


def test_pictures_show_the_kinds_that_were_drawn(both):
  svg = (both[0] / "0.7" / "pictures.svg").read_bytes()
  assert svg.count(b"<image") >= 4 and b"NaN" not in svg
  names = sorted(path.name for path in (both[0] / "0.7").iterdir())
  assert names == ["images", "pictures.svg", "table.csv"]


def test_another_seed_chooses_others(both, stored, tmp_path):
  out = tmp_path / "seed"
  degrade_set.main(words(stored, out, 0.7, "--config.quality.seed=1"))
  assert degraded_here(out) != degraded_here(both[0] / "0.7")


def test_shares_that_are_reached_already_and_without_a_column(stored, tmp_path):
  said = degrade_set.main(words(stored, tmp_path / "a", 0.1))
  assert "4 of low quality (20.0%, asked for 10.0%), 0 of them" in said
  assert not degraded_here(tmp_path / "a")
  degrade_set.main(words(stored, tmp_path / "b", 1.0, meta="'grade',"))
  assert len(degraded_here(tmp_path / "b")) == COUNT


def test_the_working_folder_can_be_written_to(stored, tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  said = degrade_set.main(words(stored, ".", 0.5))
  assert f"wrote {COUNT} of {COUNT} images to .: " in said
  assert len(table(tmp_path / "here")) == COUNT


def test_an_unreadable_image_is_named_and_left_out(stored, tmp_path):
  copy = tmp_path / "copy"
  copy.mkdir()
  for path in stored.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  (copy / "7.png").write_bytes(b"no image")
  said = degrade_set.main(words(copy, tmp_path / "out", 0.5))
  assert said.startswith("left out eye/7: ") and "wrote 19 of 20" in said
  assert "eye/7" not in {row["id"] for row in table(tmp_path / "out")}
  assert "eye/7" in (tmp_path / "out" / "quarantine.csv").read_text()
  with pytest.raises(DataError, match="more than data.max_bad = 0"):
    degrade_set.main(
      words(copy, tmp_path / "none", 0.5, "--config.data.max_bad=0")
    )
  assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "out"]


@pytest.mark.parametrize(
  "change, error, message",
  [
    (["--share=1.2"], ConfigError, "share from 0 to 1"),
    (["--config=comcl:nowhere"], ConfigError, "no preset 'nowhere'"),
    (["--config.quality.familly=x"], ConfigError, "familly"),
    (["--config.quality.family=mri"], ConfigError, "'mri' is not one of"),
    (["more"], ConfigError, "not understood: more"),
    (["--config.data.path=/nowhere"], DataError, "/nowhere"),
  ],
)
def test_mistakes_get_one_line(stored, tmp_path, change, error, message):
  out = tmp_path / "out"
  with pytest.raises(error, match=message) as found:
    degrade_set.main([*words(stored, out, 0.5), *change])
  assert "\n" not in str(found.value)
  assert not list(tmp_path.iterdir())


def test_the_configuration_of_another_method_is_refused():
  with pytest.raises(ConfigError, match="configuration of comcl"):
    degrade_set.main(["--config=severity:tiny", "--share=1", "--out=x"])


def test_a_folder_in_use_and_a_clash_of_columns_are_refused(stored, tmp_path):
  (tmp_path / "mine.txt").write_text("kept")
  with pytest.raises(DataError, match="already there"):
    degrade_set.main(words(stored, tmp_path, 0.5))
  assert (tmp_path / "mine.txt").read_text() == "kept"
  with pytest.raises(DataError, match="column 'path'"):
    degrade_set.main(words(stored, tmp_path / "out", 0.5, meta="'path',"))


def test_names_stay_below_the_folder_and_differ(stored, tmp_path):
  lines = ["id,path,group", "../a,0.png,p", "a_b,1.png,p", "A b,2.png,p"]
  names = tmp_path / "names.csv"
  names.write_text("\n".join(lines))
  degrade_set.main(
    [
      *("--config=comcl:tiny", "--config.data.name=folder", "--share=0"),
      f"--config.data.path={stored}",
      f"--config.data.table={names}",
      f"--out={tmp_path / 'out'}",
    ]
  )
  paths = [row["path"] for row in table(tmp_path / "out")]
  assert paths == ["images/.._a.png", "images/a_b.png", "images/A_b-2.png"]
