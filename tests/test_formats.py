"""Reading images and volumes: right intensities or a refusal, never less."""

import os
import struct
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from gcl_jax.data import files, formats
from gcl_jax.errors import DataError


@pytest.fixture
def grey():
  return np.random.default_rng(0).integers(0, 256, (24, 31)).astype("uint8")


@pytest.fixture
def deep():
  return np.random.default_rng(1).integers(0, 65536, (24, 31)).astype("uint16")


def save_dicom(path, frames, **fields):
  """A minimal file; `frames` is [H, W], [H, W, 3] or [N, H, W]."""
  meta = FileMetaDataset()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
  meta.MediaStorageSOPInstanceUID = generate_uid()
  data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
  colour = frames.shape[-1] == 3
  data.Rows, data.Columns = frames.shape[-3:-1] if colour else frames.shape[-2:]
  data.SamplesPerPixel = 3 if colour else 1
  data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
  if colour:
    data.PlanarConfiguration = 0
  data.BitsAllocated = data.BitsStored = frames.dtype.itemsize * 8
  data.HighBit = data.BitsStored - 1
  data.PixelRepresentation = int(frames.dtype.kind == "i")
  if frames.ndim == 3 and not colour:
    data.NumberOfFrames = len(frames)
  data.PixelData = frames.tobytes()
  data.SeriesInstanceUID = "1.2.3"
  data.update({})
  for name, value in fields.items():
    setattr(data, name, value)
  data.save_as(path, enforce_file_format=True)
  return path


# Pillow formats


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_grey_and_colour_come_back(tmp_path, grey, suffix):
  path = tmp_path / f"a.{suffix}"
  Image.fromarray(grey).save(path)
  np.testing.assert_array_equal(formats.read_image(path), grey)
  colour = np.stack([grey, grey[::-1], grey[:, ::-1]], -1)
  Image.fromarray(colour).save(path)
  np.testing.assert_array_equal(formats.read_image(path), colour)


def test_jpeg_is_close(tmp_path):
  smooth = np.add.outer(np.arange(32), 4 * np.arange(40)).astype("uint8")
  Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
  read = formats.read_image(tmp_path / "a.jpg")
  assert read.dtype == np.uint8 and read.shape == smooth.shape
  assert np.abs(read.astype(int) - smooth).max() < 8


def test_a_jpeg_with_the_name_of_a_png_is_read(tmp_path, grey):
  Image.fromarray(grey).save(tmp_path / "a.png", format="JPEG")
  assert formats.read_image(tmp_path / "a.png").shape == grey.shape


def test_16_bits_are_kept(tmp_path, deep):
  Image.fromarray(deep).save(tmp_path / "a.png")
  np.testing.assert_array_equal(formats.read_image(tmp_path / "a.png"), deep)
  for order in "<>":
    for options in ({}, {"compression": "zlib"}):
      tifffile.imwrite(tmp_path / "a.tif", deep, byteorder=order, **options)
      read = formats.read_image(tmp_path / "a.tif")
      assert read.dtype == np.uint16
      np.testing.assert_array_equal(read, deep)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero_is_inverted(tmp_path, deep, dtype):
  stored = deep.astype(dtype)
  tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
  np.testing.assert_array_equal(
    formats.read_image(tmp_path / "a.tif"), np.iinfo(dtype).max - stored
  )


@pytest.mark.parametrize("dtype", ["float32", "int16", "int32", "uint32"])
def test_float_and_wide_tiff_become_float32(tmp_path, dtype):
  stored = np.arange(-300, 300).reshape(20, 30)
  stored = (stored + (2**31 if dtype == "uint32" else 0)).astype(dtype)
  tifffile.imwrite(tmp_path / "a.tif", stored)
  read = formats.read_image(tmp_path / "a.tif")
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, stored.astype(np.float32))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_colour_is_refused_not_clipped(tmp_path, deep, planar):
  stack = np.stack([deep] * 3, 0 if planar == "separate" else -1)
  tifffile.imwrite(
    tmp_path / "a.tif", stack, photometric="rgb", planarconfig=planar
  )
  with pytest.raises(DataError, match="would lose bits"):
    formats.read_image(tmp_path / "a.tif")


def test_16_bit_colour_png_is_refused(tmp_path):
  header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
  body = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(2)))
  (tmp_path / "a.png").write_bytes(png(header, body))
  with pytest.raises(DataError, match="16-bit colour"):
    formats.read_image(tmp_path / "a.png")


def test_signed_8_bit_is_refused_not_wrapped(tmp_path):
  tifffile.imwrite(tmp_path / "a.tif", np.full((8, 9), -3, np.int8))
  with pytest.raises(DataError, match="signed"):
    formats.read_image(tmp_path / "a.tif")


def test_palette_is_looked_up(tmp_path):
  image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L")
  image.putpalette([10, 20, 30, 40, 50, 60, 250, 240, 230] + [0] * 759)
  image.save(tmp_path / "a.png")
  colours = np.array([[10, 20, 30], [40, 50, 60], [250, 240, 230]])
  np.testing.assert_array_equal(
    formats.read_image(tmp_path / "a.png"), colours[[[0, 1], [2, 1]]]
  )


def test_alpha(tmp_path, grey):
  colour = np.stack([grey, grey // 2, 255 - grey], -1)
  opaque = np.full_like(grey, 255)
  half = np.full_like(grey, 128)
  for alpha in (opaque, half):
    stored = np.concatenate([colour, alpha[..., None]], -1)
    Image.fromarray(stored).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
      formats.read_image(tmp_path / "a.png"),
      np.floor(colour * (alpha[0, 0] / 255) + 0.5),
    )
  Image.fromarray(np.stack([grey, opaque], -1), "LA").save(tmp_path / "b.png")
  np.testing.assert_array_equal(formats.read_image(tmp_path / "b.png"), grey)


def test_cmyk_ink_is_dark(tmp_path):
  ink = np.zeros((16, 16, 4), np.uint8)
  ink[:8, :, 3] = 255  # black ink above, paper below
  for suffix in ("tif", "jpg"):
    Image.fromarray(ink, "CMYK").save(tmp_path / f"a.{suffix}")
    read = formats.read_image(tmp_path / f"a.{suffix}")
    assert read.shape == (16, 16, 3)
    assert read[:4].max() < 10 and read[12:].min() > 245


def test_one_bit_is_0_and_255(tmp_path, grey):
  Image.fromarray(grey > 100).save(tmp_path / "a.png")
  np.testing.assert_array_equal(
    formats.read_image(tmp_path / "a.png"), np.where(grey > 100, 255, 0)
  )


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "zip.tif", "bmp"])
def test_a_truncated_file_is_refused_or_whole(tmp_path, grey, suffix):
  path = tmp_path / f"a.{suffix}"
  if suffix == "zip.tif":
    tifffile.imwrite(path, grey, compression="zlib", rowsperstrip=4)
  else:
    Image.fromarray(np.kron(grey, np.ones((3, 3), "uint8"))).save(path)
  whole, content = formats.read_image(path), path.read_bytes()
  refused = 0
  for cut in np.linspace(0, len(content) - 1, 50).astype(int):
    path.write_bytes(content[:cut])
    try:
      # Metadata after the last pixel may be cut; a pixel may not.
      np.testing.assert_array_equal(formats.read_image(path), whole)
    except DataError as error:
      assert "\n" not in str(error) and "a." in str(error)
      refused += 1
  assert refused >= 45
  if suffix in ("png", "jpg"):
    assert refused == 50


def png(header, body):
  def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return (
      struct.pack(">I", len(content))
      + kind
      + content
      + struct.pack(">I", checksum)
    )

  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", body)
    + chunk(b"IEND", b"")
  )


@pytest.mark.parametrize("side", [9000, 11000, 50_000])
def test_a_bomb_is_refused_by_its_header(tmp_path, side, monkeypatch):
  header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
  (tmp_path / "a.png").write_bytes(png(header, zlib.compress(b"")))

  def decoded(*_):
    raise AssertionError("was decoded")

  monkeypatch.setattr(Image.Image, "load", decoded)
  with pytest.raises(DataError, match="limit|exceeds"):
    formats.read_image(tmp_path / "a.png")


def test_pages_are_not_dropped(tmp_path, grey):
  tifffile.imwrite(tmp_path / "a.tif", np.stack([grey] * 3), photometric=0)
  with pytest.raises(DataError, match="3 pages"):
    formats.read_image(tmp_path / "a.tif")


def test_odd_files_are_refused_at_once(tmp_path):
  (tmp_path / "empty.png").touch()
  (tmp_path / "text.png").write_text("no image")
  (tmp_path / "folder.png").mkdir()
  os.mkfifo(tmp_path / "fifo.png")
  (tmp_path / "loop.png").symlink_to("loop.png")
  (tmp_path / "a.xyz").write_text("?")
  for name, reason in {
    "empty.png": "zero bytes",
    "text.png": "not a PNG",
    "folder.png": "a folder",
    "fifo.png": "a FIFO",
    "loop.png": "symbolic links",
    "a.xyz": "unknown kind",
    "gone.png": "No such file",
    "nul\0.png": "null",
  }.items():
    with pytest.raises(DataError, match=reason):
      formats.read_image(tmp_path / name)


# Arrays


def test_grey_is_what_pillow_calls_grey():
  rng = np.random.default_rng(2)
  colour = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
  np.testing.assert_array_equal(
    formats.to_grey(colour), np.asarray(Image.fromarray(colour).convert("L"))
  )
  for values in (colour, colour.astype("uint16") * 257, colour / 255):
    same = np.repeat(values[..., :1], 3, -1)
    np.testing.assert_array_equal(formats.to_grey(same), values[..., 0])
  assert formats.to_grey(colour[..., 0]) is not None
  with pytest.raises(DataError, match="neither grey nor RGB"):
    formats.to_grey(np.zeros((4, 4, 4), np.uint8))


def test_to_uint8():
  eight = np.arange(200, dtype=np.uint8).reshape(10, 20)
  assert formats.to_uint8(eight) is eight
  ramp = np.arange(1001, dtype=np.float32).reshape(7, 143)
  expected = np.clip((ramp - 5) / 990, 0, 1) * 255
  np.testing.assert_array_equal(
    formats.to_uint8(ramp), np.floor(expected + 0.5)
  )
  np.testing.assert_array_equal(
    formats.to_uint8((ramp * 4).astype(np.uint16), (0, 4000)),
    np.floor(ramp * 0.255 + 0.5),
  )
  assert not formats.to_uint8(np.full((5, 5), 7.0)).any()
  speck = np.zeros((100, 100), np.float32)
  speck[3, 4] = 9
  assert formats.to_uint8(speck)[3, 4] == 255
  for bad in (np.nan, np.inf):
    with pytest.raises(DataError, match="1 values that are NaN"):
      formats.to_uint8(np.array([[1.0, bad]]))


# npz


def test_npz_never_unpickles_and_never_trusts_a_shape(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, x=np.arange(6).reshape(2, 3), names=np.array(["a", "ü"]))
  read = files.read_npz(path)
  np.testing.assert_array_equal(read["x"], [[0, 1, 2], [3, 4, 5]])
  np.savez(path, x=np.array([{}], object))
  with pytest.raises(DataError, match="pickled"):
    files.read_npz(path)
  import zipfile

  with zipfile.ZipFile(path, "w") as archive:
    header = b"{'descr':'<f8','fortran_order':False,'shape':(10**6,10**6)}"
    header = header.replace(b"10**6", b"1000000").ljust(118) + b"\n"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    archive.writestr("x.npy", magic + header + bytes(80))
  with pytest.raises(DataError, match="80 bytes follow"):
    files.read_npz(path)
  path.write_bytes(b"PK not a zip")
  with pytest.raises(DataError, match="npz"):
    files.read_npz(path)


# DICOM


def test_dicom_rescale_and_inversion(tmp_path, grey, deep):
  path = tmp_path / "a.dcm"
  np.testing.assert_array_equal(
    formats.read_image(save_dicom(path, grey)), grey
  )
  np.testing.assert_array_equal(
    formats.read_image(save_dicom(path, deep)), deep
  )
  inverted = save_dicom(path, grey, PhotometricInterpretation="MONOCHROME1")
  np.testing.assert_array_equal(formats.read_image(inverted), 255 - grey)
  twelve = save_dicom(
    path, deep >> 4, BitsStored=12, HighBit=11,
    PhotometricInterpretation="MONOCHROME1",
    RescaleSlope="2.5", RescaleIntercept="-1024",
  )  # fmt: skip
  read = formats.read_image(twelve)
  assert read.dtype == np.float32
  np.testing.assert_allclose(read, (4095.0 - (deep >> 4)) * 2.5 - 1024)
  # An overlay in the unused high bits is not brightness.
  overlaid = save_dicom(path, (deep >> 4) | 0x8000, BitsStored=12, HighBit=11)
  np.testing.assert_array_equal(formats.read_image(overlaid), deep >> 4)
  signed = save_dicom(path, deep.view(np.int16))
  np.testing.assert_array_equal(formats.read_image(signed), deep.view(np.int16))
  colour = np.stack([grey, 255 - grey, grey // 2], -1)
  np.testing.assert_array_equal(
    formats.read_image(save_dicom(path, colour)), colour
  )


def test_dicom_without_suffix_is_known_by_its_mark(tmp_path, grey):
  save_dicom(tmp_path / "IM0001", grey)
  np.testing.assert_array_equal(formats.read_image(tmp_path / "IM0001"), grey)


# pydicom only warns about some of these; the refusal must be ours.
def test_dicom_that_does_not_add_up_is_refused(tmp_path, grey):
  path = tmp_path / "a.dcm"
  for fields in (
    {"PixelData": grey.tobytes()[:-20]},
    {"PixelData": grey.tobytes() + bytes(20)},
    {"Rows": 60000, "Columns": 60000},
    {"Rows": 0},
    {"BitsStored": 4, "HighBit": 7},
    {"RescaleSlope": "0", "RescaleIntercept": "0"},
  ):
    with pytest.raises(DataError):
      formats.read_image(save_dicom(path, grey, **fields))
  path.write_bytes(b"\0" * 400)
  with pytest.raises(DataError, match="not a DICOM file"):
    formats.read_image(path)
  save_dicom(path, np.stack([grey] * 4))
  with pytest.raises(DataError, match="4 frames; use read_volume"):
    formats.read_image(path)
  np.testing.assert_array_equal(formats.read_volume(path), [grey] * 4)
  assert formats.count_slices(path) == 4


def test_dicom_fuzz(tmp_path, grey):
  content = save_dicom(
    tmp_path / "a.dcm", grey, RescaleSlope="1", RescaleIntercept="0",
    NumberOfFrames="1",
  ).read_bytes()  # fmt: skip
  rng = np.random.default_rng(3)
  head = len(content) - grey.size
  refused = 0
  for _ in range(1000):
    damaged = bytearray(content)
    for place in rng.integers(128, head, rng.integers(1, 4)):
      damaged[place] = rng.integers(256)
    path = tmp_path / "b.dcm"
    path.write_bytes(damaged)
    try:
      read = formats.read_image(path)
    except DataError as error:
      assert "\n" not in str(error)
      refused += 1
    else:
      assert read.size == grey.size and read.ndim == 2
  assert 100 < refused < 1000


def series(folder, volume, order, **fields):
  folder.mkdir()
  for name, k in enumerate(order):
    save_dicom(
      folder / f"{name}.dcm",
      volume[k],
      InstanceNumber=name + 1,
      ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
      ImagePositionPatient=[0, 0, 2.5 * k],
      **fields,
    )
  return folder


def test_series_is_sorted_by_position(tmp_path, deep):
  volume = np.stack([deep + k for k in range(5)])
  folder = series(tmp_path / "s", volume, [3, 0, 4, 1, 2])
  np.testing.assert_array_equal(formats.read_volume(folder), volume)
  np.testing.assert_array_equal(formats.read_slice(folder, 3), volume[3])
  assert formats.count_slices(folder) == 5


def test_series_without_positions_goes_by_instance_number(tmp_path, grey):
  folder = tmp_path / "s"
  folder.mkdir()
  for k in range(11):  # "10.dcm" comes before "2.dcm" by name
    save_dicom(folder / f"{k}.dcm", grey // 2 + k, InstanceNumber=k)
  read = formats.read_volume(folder)
  np.testing.assert_array_equal(read, [grey // 2 + k for k in range(11)])
  save_dicom(folder / "again.dcm", grey, InstanceNumber=3)
  with pytest.raises(DataError, match="repeated instance number"):
    formats.read_volume(folder)


def test_mixed_series_are_refused(tmp_path, deep):
  volume = np.stack([deep] * 3)
  folder = series(tmp_path / "a", volume, [0, 1, 2])
  save_dicom(folder / "x.dcm", deep, SeriesInstanceUID="9.9", InstanceNumber=9)
  with pytest.raises(DataError, match="more than one DICOM series"):
    formats.read_volume(folder)
  folder = series(tmp_path / "b", volume, [0, 1, 1])
  with pytest.raises(DataError, match="repeated position"):
    formats.read_volume(folder)
  (tmp_path / "c").mkdir()
  with pytest.raises(DataError, match="empty folder"):
    formats.read_volume(tmp_path / "c")
  folder = series(tmp_path / "d", volume, [0, 1, 2])
  (folder / "notes.txt").write_text("not an image")
  with pytest.raises(DataError, match="not a DICOM file"):
    formats.read_volume(folder)


# NIfTI


def test_nifti_orientation_does_not_depend_on_storage(tmp_path):
  rng = np.random.default_rng(4)
  ras = rng.integers(0, 200, (4, 5, 6)).astype(np.uint8)
  expected = [ras[:, :, k].T[::-1, ::-1] for k in range(6)]
  stored = {
    "ras": (ras, np.eye(4)),
    "lps": (ras[::-1, ::-1], np.diag([-1, -1, 1, 1])),
    "sar": (ras.transpose(2, 1, 0), np.eye(4)[[2, 1, 0, 3]]),
  }
  for name, (values, affine) in stored.items():
    path = tmp_path / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine.astype(float)), path)
    read = formats.read_volume(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)
    assert formats.count_slices(path) == 6
  with pytest.raises(DataError, match="use read_volume"):
    formats.read_image(path)


def test_nifti_and_dicom_draw_the_same_volume_the_same_way(tmp_path):
  volume = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)  # [z, y, x], LPS
  folder = series(tmp_path / "s", volume, [2, 0, 1])
  nibabel.save(
    nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1, -1, 1, 1.0])),
    tmp_path / "v.nii",
  )
  np.testing.assert_array_equal(
    formats.read_volume(folder), formats.read_volume(tmp_path / "v.nii")
  )


def test_nifti_that_lies_is_refused(tmp_path):
  path = tmp_path / "a.nii"
  image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
  nibabel.save(image, path)
  content = path.read_bytes()
  path.write_bytes(content[:-40])
  with pytest.raises(DataError):
    formats.read_volume(path)
  huge = bytearray(content)
  huge[42:48] = struct.pack("<3h", 30000, 30000, 30000)
  path.write_bytes(huge)
  with pytest.raises(DataError, match="limit"):
    formats.read_volume(path)
  nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2)), np.eye(4)), path)
  with pytest.raises(DataError, match="4 axes"):
    formats.read_volume(path)


def test_real_nifti(real_data):
  path = real_data / "mr_hippocampus_nifti" / "hippocampus_001_image.nii.gz"
  with np.load(real_data / "mr_hippocampus.npz") as archive:
    ras = archive["image_001"]
  read = formats.read_volume(path)
  np.testing.assert_array_equal(read, ras.transpose(2, 1, 0)[:, ::-1, ::-1])


def test_a_missing_extra_says_how_to_install_it(tmp_path, grey, monkeypatch):
  from gcl_jax.data import optional

  save_dicom(tmp_path / "a.dcm", grey)

  def absent(name):
    raise ImportError(name)

  monkeypatch.setattr(optional.importlib, "import_module", absent)
  with pytest.raises(DataError, match=r"pip install 'gcl-jax\[medical\]'"):
    formats.read_image(tmp_path / "a.dcm")
