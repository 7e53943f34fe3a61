"""Rows 22 to 25, 29 and 41 for images: whole and right, or refused."""

import errno
import io
import os
import pathlib
import signal
import struct
import subprocess
import sys
import textwrap
import zlib

import memory
import numpy as np
import pytest
import tifffile
from PIL import Image

from gcl_jax.data import files, formats, prepare, preprocess, tiff
from gcl_jax.data.readers.folder import read as folder
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

HEIGHT, WIDTH = 40, 53


class Reached(BaseException):
  """Not an Exception, so that no reader treats it as a damaged file."""


@pytest.fixture(autouse=True)
def no_hang():
  """Ends a test that waits for ever."""

  def stop(*_):
    raise Reached

  signal.signal(signal.SIGALRM, stop)
  signal.alarm(60)
  yield
  signal.alarm(0)


@pytest.fixture
def grey():
  return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, **options)
  return buffer.getvalue()


def thumbnailed(image: np.ndarray) -> bytes:
  """A JPEG whose first bytes hold a whole JPEG of their own."""
  inside = b"Exif\0\0" + encoded(image[:8, :8], "JPEG")
  segment = b"\xff\xe1" + struct.pack(">H", len(inside) + 2) + inside
  content = encoded(image, "JPEG")
  return content[:2] + segment + content[2:]


TRUNCATED = {
  "png": (".png", lambda image: encoded(image, "PNG")),
  "jpeg": (".jpg", lambda image: encoded(image, "JPEG")),
  "progressive": (
    ".jpg",
    lambda image: encoded(image, "JPEG", progressive=True),
  ),
  "thumbnail": (".jpg", thumbnailed),
  "tiff": (".tif", lambda image: encoded(image, "TIFF")),
  "deflated": (
    ".tif",
    lambda image: encoded(image, "TIFF", compression="tiff_deflate"),
  ),
  "bmp": (".bmp", lambda image: encoded(image, "BMP")),
}


@pytest.mark.parametrize("end", [b"", b"IEND\xaeB`\x82"])
@pytest.mark.parametrize("kind", TRUNCATED)
def test_row22_truncated_images(tmp_path, grey, kind, end):
  suffix, make = TRUNCATED[kind]
  if suffix in (".tif", ".bmp"):
    end = b""  # without checksums, bytes in place of others are pixels
  content, path = make(grey), tmp_path / f"a{suffix}"
  path.write_bytes(content)
  whole, refused = formats.read_image(path), 0
  for cut in np.linspace(1, len(content) - 1, 50).astype(int):
    path.write_bytes(content[:cut] + end)
    try:
      read = formats.read_image(path)
    except DataError as error:
      assert path.name in str(error) and "\n" not in str(error)
      refused += 1
    else:
      np.testing.assert_array_equal(read, whole, err_msg=f"cut at {cut}")
  # What may be cut is a directory or text after the last pixel.
  assert refused == 50 if suffix in (".png", ".jpg") else refused >= 45


def test_row22_truncated_images_are_counted_and_bounded(tmp_path, grey):
  for i in range(4):
    content = encoded(grey, "PNG")
    (tmp_path / f"{i}.png").write_bytes(content[: -100 if i < 2 else None])
  found = folder(tmp_path, group_unknown="image")
  with pytest.raises(DataError, match="--max_bad=1 "):
    prepare.prepare(found, tmp_path / "few", max_bad=1)
  _, bad = prepare.prepare(found, tmp_path / "out", max_bad=2)
  assert [name for name, _ in bad] == ["0.png", "1.png"]


@pytest.mark.parametrize("kind", ["png", "deflated"])
def test_row22_a_flipped_byte_is_not_an_image(tmp_path, grey, kind):
  suffix, make = TRUNCATED[kind]
  content, path = make(grey), tmp_path / f"a{suffix}"
  middle = len(content) // 2
  for place in range(middle, middle + 200, 10):
    spoiled = bytearray(content)
    spoiled[place] ^= 0x10
    path.write_bytes(spoiled)
    if suffix == ".png":
      with pytest.raises(DataError, match="checksum"):
        formats.read_image(path)
    else:
      shape_or_refused(path)


def shape_or_refused(path: pathlib.Path) -> None:
  try:
    assert formats.read_image(path).shape == (HEIGHT, WIDTH)
  except DataError:
    pass


def test_row22_a_marker_among_the_pixels_of_a_jpeg(tmp_path, grey):
  content = bytearray(encoded(grey, "JPEG", quality=95))
  stuffed = content.index(b"\xff\x00", len(content) // 3)
  content[stuffed + 1] = 0x02  # the decoder would leave the rest grey
  (tmp_path / "a.jpg").write_bytes(content)
  with pytest.raises(DataError, match="marker 02 in its pixels"):
    formats.read_image(tmp_path / "a.jpg")


def test_row22_a_tiff_with_strips_for_half_of_its_rows(tmp_path, grey):
  tifffile.imwrite(tmp_path / "a.tif", grey, rowsperstrip=HEIGHT // 2)
  np.testing.assert_array_equal(formats.read_image(tmp_path / "a.tif"), grey)
  tall = tiff_header(20, 30, (259, 1), (273, 8), (278, 10), (279, 200))
  (tmp_path / "a.tif").write_bytes(tall)
  with pytest.raises(DataError, match="holds 200 of the 600 pixels"):
    formats.read_image(tmp_path / "a.tif")


def directory_entry(content: bytes, tag: int) -> int:
  """Where the entry of a tag begins in a little-endian TIFF."""
  start = int.from_bytes(content[4:8], "little")
  count = int.from_bytes(content[start : start + 2], "little")
  places = range(start + 2, start + 2 + 12 * count, 12)
  tags = [int.from_bytes(content[p : p + 2], "little") for p in places]
  return places[tags.index(tag)]


def test_row22_a_tiff_that_says_it_has_no_extra_samples(grey):
  whole = bytearray(encoded(np.stack([grey] * 4, -1), "TIFF"))
  place = directory_entry(bytes(whole), 338)
  struct.pack_into("<I", whole, place + 4, 0)
  tiff.check_directory(bytes(whole), "a.tif")
  struct.pack_into("<H", whole, place + 2, 99)
  struct.pack_into("<I", whole, place + 4, 1)
  with pytest.raises(DataError, match="the entry ExtraSamples of its TIFF"):
    tiff.check_directory(bytes(whole), "a.tif")


@pytest.mark.parametrize(
  ("tag", "name"),
  [
    (258, "BitsPerSample"),
    (262, "PhotometricInterpretation"),
    (339, "SampleFormat"),
  ],
)
def test_row22_a_tiff_entry_that_cannot_be_read(tmp_path, grey, tag, name):
  """Pillow ignores it and assumes the default value."""
  whole = encoded(grey.astype(np.float32) if tag == 339 else grey, "TIFF")
  place, path = directory_entry(whole, tag), tmp_path / "a.tif"
  # No value, values outside the file, a type that there is not.
  for where, value in ((4, 0), (4, 10**6), (2, 99 | 1 << 16)):
    spoiled = bytearray(whole)
    struct.pack_into("<I", spoiled, place + where, value)
    path.write_bytes(spoiled)
    with pytest.raises(DataError, match=f"entry {name} of its TIFF directory"):
      formats.read_image(path)


def test_row22_a_tiff_directory_that_is_cut_off(tmp_path, grey):
  values = grey.astype(np.float32) / 7
  whole = encoded(values, "TIFF")
  last = directory_entry(whole, 339)
  moved = whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + whole[8:last]
  (tmp_path / "a.tif").write_bytes(moved)  # the type of the floats is gone
  with pytest.raises(DataError, match="its TIFF directory is cut off"):
    formats.read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("order", "big"), ["<0", ">0", "<1"])
def test_row25_every_order_of_a_tiff_directory(tmp_path, grey, order, big):
  for values in (grey, grey.astype(np.float32) / 7):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, byteorder=order, bigtiff=big == "1")
    np.testing.assert_array_equal(formats.read_image(path), values)


def test_row22_a_tiff_without_two_of_its_colours(tmp_path, grey):
  planes = np.stack([grey, 255 - grey, grey // 2])
  path = tmp_path / "a.tif"
  tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
  np.testing.assert_array_equal(
    formats.read_image(path), np.moveaxis(planes, 0, -1)
  )
  more = dict([(258, 8), (259, 1), (262, 2), (277, 3), (284, 2)])
  path.write_bytes(tiff_header(20, 10, *more.items()))
  with pytest.raises(DataError, match="holds 0 of the 200 pixels"):
    formats.read_image(path)


# Row 23


def make_odd(path: pathlib.Path, kind: str) -> None:
  """Makes files and folders with image names that are no images."""
  {
    "empty": path.touch,
    "text": lambda: path.write_text("id,label\n1,0\n" * 50),
    "folder": path.mkdir,
    "fifo": lambda: os.mkfifo(path),
    "loop": lambda: path.symlink_to(path.name),
    "dangling": lambda: path.symlink_to("gone"),
    "device": lambda: path.symlink_to("/dev/zero"),
    "tty": lambda: path.symlink_to("/dev/ptmx"),
    "gone": lambda: None,
  }[kind]()


ODD = (
  "empty", "text", "folder", "fifo", "loop", "dangling", "device", "tty",
  "gone",
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dcm", ".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ODD)
def test_row23_what_is_no_image(tmp_path, kind, suffix):
  path = tmp_path / f"x{suffix}"
  make_odd(path, kind)
  reasons = {
    "empty": "zero bytes", "folder": "folder", "fifo": "is a FIFO",
    "loop": "symbolic links", "device": "is a device", "tty": "is a device",
    "dangling": "No such file", "gone": "No such file",
  }  # fmt: skip
  for read in (formats.read_image, formats.read_volume):
    with pytest.raises(DataError, match=reasons.get(kind, "x")) as found:
      read(path)
    assert path.name in str(found.value)


def test_row23_odd_files_do_not_hold_up_the_others(tmp_path, grey):
  root = tmp_path / "scans"
  root.mkdir()
  for kind in ODD[:-1]:
    make_odd(root / f"{kind}.png", kind)
  (root / "zgood.png").write_bytes(encoded(grey, "PNG"))
  (root / "self").symlink_to(".", target_is_directory=True)
  found = folder(root, group_unknown="image")
  assert len(found) == len(ODD)
  target, bad = prepare.prepare(found, tmp_path / "out")
  assert target.is_dir()
  assert {name for name, _ in bad} == {f"{kind}.png" for kind in ODD[:-1]}


def test_row23_a_disk_that_fails_names_the_file(tmp_path, grey, monkeypatch):
  path = tmp_path / "a.png"
  path.write_bytes(encoded(grey, "PNG"))

  def fail(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
  with pytest.raises(DataError, match="a.png: cannot be read: Input/output"):
    formats.read_image(path)


# Row 24


def png(width: int, height: int, body: bytes, bits=8, colour=0) -> bytes:
  def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum

  header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", body)
    + chunk(b"IEND", b"")
  )


def bombs() -> dict[str, bytes]:
  """Small files that unpack to gigabytes, or declare such sizes."""
  zeros = zlib.compress(bytes(2**26), 9)
  huge_tile = bytearray(encoded_tile())
  return {
    "square.png": png(50_000, 50_000, zeros),
    "line.png": png(2**31 - 1, 1, zeros),
    "colour.png": png(8193, 8193, zeros, 16, 6),
    "page.bmp": b"BM"
    + struct.pack(
      "<IIIIiiHHIIIIII", 99, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6
    ),
    "lines.tif": tiff_header(50_000, 50_000),
    "tile.tif": bytes(huge_tile),
    "frame.jpg": big_jpeg(),
  }


def tiff_header(width: int, height: int, *more) -> bytes:
  """A grey TIFF that is all header; `more` are (tag, value)."""
  tags = {
    256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, **dict(more),
  }  # fmt: skip
  if not tags.keys() & {273, 324}:
    tags |= {273: 8, 278: height, 279: 100}
  entries = b"".join(
    struct.pack("<HHII", tag, 4, 1, value)
    for tag, value in sorted(tags.items())
  )
  start = struct.pack("<2sHI", b"II", 42, 8)
  return start + struct.pack("<H", len(tags)) + entries + bytes(200)


def encoded_tile() -> bytes:
  """A 16 x 16 image in one tile of 60,000 x 60,000."""
  return tiff_header(16, 16, (322, 60_000), (323, 60_000), (324, 8), (325, 99))


def big_jpeg() -> bytes:
  content = bytearray(encoded(np.zeros((16, 16), np.uint8), "JPEG"))
  place = content.index(b"\xff\xc0") + 5
  content[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
  return bytes(content)


def test_row24_bombs_are_refused_in_little_memory(tmp_path):
  for name, content in bombs().items():
    (tmp_path / name).write_bytes(content)
  sparse = tmp_path / "sparse.png"
  sparse.write_bytes(png(8, 8, b""))
  os.truncate(sparse, 2**36)
  names = sorted(str(path) for path in tmp_path.iterdir())
  lines, grown = memory.reading("read_image", names)
  assert sum(line.startswith("refused") for line in lines) == len(names)
  for name in names:
    assert any(name in line for line in lines), name
  assert grown < 200_000, lines


def test_row24_no_pixel_of_a_bomb_is_decoded(tmp_path, monkeypatch):
  def decoded(*_):
    raise Reached("was decoded")

  made = bombs()
  monkeypatch.setattr(Image.Image, "load", decoded)
  for name, content in made.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="limit|exceeds|declares"):
      formats.read_image(tmp_path / name)


def test_row24_the_limit_itself_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr("gcl_jax.data.raster.MAX_PIXELS", 64)
  path = tmp_path / "a.png"
  path.write_bytes(encoded(np.zeros((8, 8), np.uint8), "PNG"))
  assert formats.read_image(path).shape == (8, 8)
  path.write_bytes(encoded(np.zeros((5, 13), np.uint8), "PNG"))
  with pytest.raises(DataError, match="5 x 13 elements, more than the limit"):
    formats.read_image(path)
  monkeypatch.setattr(formats, "MAX_IMAGE_BYTES", 60)
  with pytest.raises(DataError, match="limit of 60"):
    formats.read_image(path)


# Row 25


def kinds_of_pixels(ramp: np.ndarray) -> dict[str, tuple]:
  """Name -> (writer, what must be read)."""
  deep = ramp.astype(np.uint16) * 257
  ink = np.zeros((*ramp.shape, 4), np.uint8)
  ink[..., 3] = ramp
  colours = np.stack([ramp, 255 - ramp, ramp // 2], -1)
  palette = Image.fromarray(ramp)
  palette.putpalette(bytes(colours.reshape(-1, 3)[:256].tobytes()))
  half = np.concatenate([colours, np.full_like(ramp, 51)[..., None]], -1)
  bw = ramp > 99
  pil = Image.fromarray
  return {
    "16.png": (pil(deep).save, deep),
    "16.tif": (lambda p: tifffile.imwrite(p, deep), deep),
    "16white.tif": (
      lambda p: tifffile.imwrite(p, deep, photometric="miniswhite"),
      65535 - deep,
    ),
    "8white.tif": (
      lambda p: tifffile.imwrite(p, ramp, photometric="miniswhite"),
      255 - ramp,
    ),
    "float.tif": (
      lambda p: tifffile.imwrite(p, deep / np.float32(7)),
      deep / np.float32(7),
    ),
    "signed.tif": (
      lambda p: tifffile.imwrite(p, (deep >> 1).astype("i2") - 9),
      (deep >> 1).astype(np.float32) - 9,
    ),
    "cmyk.tif": (
      Image.fromarray(ink, "CMYK").save,
      np.repeat(255 - ramp[..., None], 3, -1),
    ),
    "palette.png": (palette.save, colours),
    "alpha.png": (
      pil(half).save,
      np.floor(colours * 0.2 + 0.5).astype(np.uint8),
    ),
    "1bit.png": (pil(bw).save, np.where(bw, 255, 0).astype(np.uint8)),
  }


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("name", kinds_of_pixels(RAMP))
def test_row25_intensities(tmp_path, name):
  write, expected = kinds_of_pixels(RAMP)[name]
  write(tmp_path / name)
  read = formats.read_image(tmp_path / name)
  assert read.dtype == expected.dtype
  np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
  ("dtype", "options"),
  [
    ("uint16", dict(photometric="rgb")),
    ("uint16", dict(photometric="rgb", planarconfig="separate")),
    ("int8", dict()),
    ("float64", dict()),
    ("uint64", dict()),
    ("complex64", dict()),
  ],
)
def test_row25_what_would_lose_bits_is_refused(tmp_path, dtype, options):
  values = RAMP.astype(dtype)
  if options:
    axis = 0 if "planarconfig" in options else -1
    values = np.stack([values] * 3, axis)
  tifffile.imwrite(tmp_path / "a.tif", values, **options)
  with pytest.raises(DataError, match="a.tif"):
    formats.read_image(tmp_path / "a.tif")


# Rows 29 and 41


@pytest.mark.parametrize(
  "shape",
  [(), (5,), (4, 4, 2), (4, 4, 4), (2, 4, 4, 3), (0, 4), (4, 0, 3), (0,) * 3],
)
def test_row29_a_shape_that_is_no_image(tmp_path, shape):
  image = np.zeros(shape, np.uint8)
  if image.ndim not in (2, 3) or not image.size:
    with pytest.raises(DataError, match="shape"):
      preprocess.prepare(image)
  if image.ndim != 2 and image.shape[-1:] != (3,):
    with pytest.raises(DataError, match="neither grey nor RGB"):
      formats.to_grey(image)
  table = {"id": np.array(["odd"]), "group": np.array(["p"])}
  found = Dataset("odd", table, lambda _: image)
  for grey in (False, True):
    with pytest.raises(DataError, match="no readable image"):
      prepare.prepare(found, tmp_path, grey=grey)
  assert not list(tmp_path.rglob("*.array_record*"))


def test_row29_mixed_sizes_and_channels(tmp_path, grey):
  root = tmp_path / "in"
  root.mkdir()
  (root / "0.png").write_bytes(encoded(grey, "PNG"))
  (root / "1.png").write_bytes(encoded(grey[:-3], "PNG"))
  colour = np.stack([grey, 255 - grey, grey], -1)
  (root / "2.png").write_bytes(encoded(colour, "PNG"))
  (root / "3.png").write_bytes(encoded(grey.astype(np.uint16), "PNG"))
  found = folder(root, group_unknown="image")
  _, bad = prepare.prepare(found, tmp_path / "a")
  assert [name for name, _ in bad] == ["2.png", "3.png"]
  assert "3 channels of uint8, but the first image has 1" in bad[0][1]
  _, bad = prepare.prepare(found, tmp_path / "b", grey=True, size=(8, 9))
  assert [name for name, _ in bad] == ["3.png"]


PLACES = {
  "umlaut": "Übersicht/Müller_左眼_глаз.png",
  "spaces": "my scans  2024/left eye (1).png",
  "signs": "a'b\"c;d,e/%s{}[x]#1&.png",
  "newline": "a\nb/scan\n1.png",
  "long": "/".join(["d" * 50] * 4) + "/" + "n" * 240 + ".png",
}


@pytest.mark.parametrize("place", PLACES)
def test_row41_paths(tmp_path, grey, place):
  path = tmp_path / PLACES[place]
  path.parent.mkdir(parents=True)
  path.write_bytes(encoded(grey, "PNG"))
  np.testing.assert_array_equal(formats.read_image(path), grey)
  found = folder(tmp_path, group_unknown="image")
  assert found.ids.tolist() == [PLACES[place]]
  np.testing.assert_array_equal(found.read(0), grey)
  path.write_bytes(b"no image")
  with pytest.raises(DataError):
    found.read(0)


def test_row41_a_name_that_is_too_long_is_refused(tmp_path):
  with pytest.raises(DataError, match="name too long"):
    formats.read_image(tmp_path / f"{'n' * 300}.png")
  with pytest.raises(DataError, match="null"):
    files.regular_file(tmp_path / "a\0.png")


LOCALE = """
  import locale, sys
  from gcl_jax.data import formats, table_files
  table = table_files.read_table(sys.argv[1])
  print(table.numbers("CST").tolist(), table.text("id").tolist())
  print(formats.read_image(sys.argv[2]).sum())
"""


@pytest.mark.parametrize("name", ["C", "de_DE.UTF-8"])
def test_row41_locale_and_time_zone(tmp_path, grey, name):
  table, image = tmp_path / "Tabelle ü.csv", tmp_path / "Bild ü.png"
  table.write_text("id;CST\nMüller;250.5\n232.0;\n", encoding="utf-8")
  image.write_bytes(encoded(grey, "PNG"))
  # A locale that is not installed falls back to C: ASCII, without UTF-8 mode.
  surroundings = {
    "LC_ALL": name,
    "TZ": "Asia/Kathmandu",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "utf-8",
  }
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(LOCALE), str(table), str(image)],
    capture_output=True,
    encoding="utf-8",
    env={**os.environ, **surroundings},
    timeout=60,
    check=True,
  )
  first, second = done.stdout.splitlines()
  assert first == "[250.5, nan] ['Müller', '232']"
  assert int(second) == int(grey.sum())
