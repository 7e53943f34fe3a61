"""Rows 11 and 24 to 27 for DICOM and NIfTI."""

import gzip
import io
import pathlib
import struct

import fuzz_seeds
import memory
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import encaps, uid

from gcl_jax.data import files, formats, nifti, prepare, preprocess
from gcl_jax.data.readers.folder import read as folder
from gcl_jax.errors import DataError


class Reached(BaseException):
  """Not an Exception, so that no reader treats it as a damaged file."""


def reached(*_):
  """Stand-in for a function that a refused file must not reach."""
  raise Reached


GREY = fuzz_seeds.pattern()
DEEP = fuzz_seeds.pattern("uint16")


def save(path: pathlib.Path, content: bytes) -> pathlib.Path:
  path.write_bytes(content)
  return path


# Row 25


def test_row25_dicom_intensities(tmp_path):
  path = tmp_path / "a.dcm"
  inverted = dict(PhotometricInterpretation="MONOCHROME1")
  cases = [
    (GREY, {}, GREY),
    (DEEP, {}, DEEP),
    (GREY, inverted, 255 - GREY),
    (DEEP, inverted, 65535 - DEEP),
    (DEEP >> 4, dict(BitsStored=12, HighBit=11) | inverted, 4095 - (DEEP >> 4)),
    (DEEP.view(np.int16), {}, DEEP.view(np.int16).astype(np.float32)),
    (
      GREY,
      dict(RescaleSlope="2", RescaleIntercept="-1000") | inverted,
      (255 - GREY.astype(np.float32)) * 2 - 1000,
    ),
  ]
  for pixels, fields, expected in cases:
    save(path, fuzz_seeds.dicom(pixels, **fields))
    read = formats.read_image(path)
    assert read.dtype == expected.dtype, fields
    np.testing.assert_array_equal(read, expected)
  save(path, fuzz_seeds.dicom(DEEP, compress="rle"))
  np.testing.assert_array_equal(formats.read_image(path), DEEP)


# Row 26


@pytest.mark.parametrize(
  "fields",
  [
    dict(Rows=23),
    dict(Rows=25),
    dict(Columns=62),
    dict(Rows=48, Columns=62),
    dict(Rows=65535, Columns=65535),
    dict(Rows=0),
    dict(NumberOfFrames="0.5"),
    dict(NumberOfFrames="2"),
    dict(NumberOfFrames="999999999"),
    dict(NumberOfFrames="-1"),
    dict(SamplesPerPixel=3),
    dict(SamplesPerPixel=2),
    dict(BitsAllocated=16),
    dict(BitsAllocated=7),
    dict(BitsStored=0),
    dict(BitsStored=9, HighBit=8),
    dict(BitsStored=4),
    dict(HighBit=12),
    dict(PhotometricInterpretation="MONOCHROME7"),
    dict(PhotometricInterpretation="PALETTE COLOR"),
    dict(PixelData=b""),
    dict(PixelData=GREY.tobytes()[:-2]),
    dict(PixelData=GREY.tobytes() + b"\0\0"),
    dict(RescaleSlope="0"),
    dict(RescaleSlope="1e39", RescaleIntercept="0"),
  ],
)
@pytest.mark.filterwarnings("ignore")  # of the one who writes such files
def test_row26_dicom_numbers_that_do_not_add_up(tmp_path, fields):
  path = save(tmp_path / "a.dcm", fuzz_seeds.dicom(GREY, **fields))
  for read in (formats.read_image, formats.read_volume):
    with pytest.raises(DataError, match="a.dcm") as found:
      read(path)
    assert "\n" not in str(found.value)


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
  assert content.count(old) == 1 and len(old) == len(new)
  return content.replace(old, new)


@pytest.mark.parametrize(
  "text",
  ["nan   ", "inf   ", "-inf  ", "1e999 ", "one   ", "1,5   ", "1\\2   "],
)
def test_row26_dicom_numbers_that_are_none(tmp_path, text):
  content = fuzz_seeds.dicom(GREY, RescaleSlope="1.2345")
  spoiled = replaced(content, b"1.2345", text.encode()[:6])
  with pytest.raises(DataError, match="a.dcm"):
    formats.read_image(save(tmp_path / "a.dcm", spoiled))


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("length", [0, 2, 742, 2**31, 2**32 - 2, 2**32 - 1])
def test_row26_dicom_element_lengths(tmp_path, length, past):
  content = fuzz_seeds.dicom(GREY)
  place = content.index(struct.pack("<HH", 0x7FE0, 0x10)) + 8
  spoiled = bytearray(content[: None if past else -2])
  spoiled[place : place + 4] = struct.pack("<I", length)
  path = save(tmp_path / "a.dcm", spoiled)
  # A length past the end of a file that ends with the last pixel is no loss.
  if past and 742 < length < 2**32 - 1:
    np.testing.assert_array_equal(formats.read_image(path), GREY)
  else:
    with pytest.raises(DataError, match="a.dcm"):
      formats.read_image(path)


def test_row26_dicom_frames_of_another_size_are_not_decoded(
  tmp_path, monkeypatch
):
  path = save(tmp_path / "a.dcm", fuzz_seeds.dicom(GREY, compress="jpeg"))
  assert formats.read_image(path).shape == GREY.shape
  other = io.BytesIO()
  Image.fromarray(GREY[:16, :16]).save(other, "JPEG")
  small, two = other.getvalue(), [other.getvalue()] * 2
  made = {
    "16 x 16": (GREY, [small], {}),
    "declares": (GREY[:16, :16], two, {"NumberOfFrames": "3"}),
  }
  for reason, (pixels, frames, fields) in made.items():
    data = pydicom.dcmread(
      io.BytesIO(fuzz_seeds.dicom(pixels, compress="jpeg", **fields))
    )
    data.PixelData = encaps.encapsulate(frames)
    data.save_as(path)
    with monkeypatch.context() as patched:
      patched.setattr(pydicom.pixels, "pixel_array", reached)
      with pytest.raises(DataError, match=reason):
        formats.read_volume(path)


def encapsulated(path: pathlib.Path, frames: list[bytes], **fields) -> None:
  """Writes a grey file whose compressed frames are these."""
  data = pydicom.dcmread(io.BytesIO(fuzz_seeds.dicom(GREY, compress="jpeg")))
  data.file_meta.TransferSyntaxUID = fields.pop("syntax", uid.JPEGBaseline8Bit)
  for name, value in fields.items():
    setattr(data, name, value)
  data.PixelData = encaps.encapsulate(frames)
  data.save_as(path)


def test_row26_a_marker_among_the_pixels_of_a_jpeg_frame(tmp_path):
  made, path = io.BytesIO(), tmp_path / "a.dcm"
  Image.fromarray(GREY).save(made, "JPEG", quality=95)
  content = bytearray(made.getvalue())
  encapsulated(path, [bytes(content)])
  assert formats.read_image(path).shape == GREY.shape
  stuffed = content.index(b"\xff\x00", len(content) // 2)
  content[stuffed + 1] = 0x02  # the decoder would leave the rest grey
  encapsulated(path, [bytes(content)])
  with pytest.raises(DataError, match="frame 1: is damaged .marker 02"):
    formats.read_image(path)
  encapsulated(path, [bytes(content[: len(content) // 2])])
  with pytest.raises(DataError, match="frame 1: is truncated"):
    formats.read_image(path)


def rle(surplus: int) -> bytes:
  """One frame of GREY as runs of literals, and some bytes more."""
  stored = GREY.tobytes() + bytes(surplus)
  runs = [stored[i : i + 128] for i in range(0, len(stored), 128)]
  packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
  return struct.pack("<16L", 1, 64, *[0] * 14) + packed + bytes(len(packed) % 2)


def test_row26_rle_planes_that_unpack_to_too_much(tmp_path):
  path = tmp_path / "a.dcm"
  for surplus in (0, 1):  # one byte more is what some encoders add
    encapsulated(path, [rle(surplus)], syntax=uid.RLELossless)
    np.testing.assert_array_equal(formats.read_image(path), GREY)
  for surplus in (2, 500):
    encapsulated(path, [rle(surplus)], syntax=uid.RLELossless)
    with pytest.raises(DataError, match=f"plane of {744 + surplus} bytes"):
      formats.read_image(path)
  # A run that is twice as long pushes the rest along; pydicom cuts the end.
  spoiled = bytearray(rle(0))
  spoiled[64 + 129] = 0x80 + 0x7F - 90
  encapsulated(path, [bytes(spoiled)], syntax=uid.RLELossless)
  with pytest.raises(DataError, match="a.dcm"):
    formats.read_image(path)


@pytest.mark.parametrize(
  ("syntax", "said"),
  [
    (uid.JPEGLSLossless, "JPEG-LS Lossless .* pip install pyjpegls"),
    (uid.JPEGLosslessSV1, "JPEG Lossless.* install pylibjpeg pylibjpeg-l"),
    (
      uid.JPEGExtended12Bit,
      "JPEG Extended.* install pylibjpeg pylibjpeg-l",
    ),
    (
      uid.HTJ2K,
      "High-Throughput JPEG.* install pylibjpeg pylibjpeg-o",
    ),
    (uid.MPEG2MPML, "MPEG2 .*; convert it to Explicit VR Little Endian"),
    (uid.UID("1.2.3.4"), r"syntax .an unknown one.; convert it to Explicit VR"),
  ],
)
def test_row26_a_decoder_that_is_not_there(tmp_path, monkeypatch, syntax, said):
  from pydicom.pixels.decoders.base import Decoder

  path = tmp_path / "a.dcm"
  deep = dict(BitsAllocated=16, BitsStored=12, HighBit=11)
  encapsulated(path, [b"\xff\xd8" + bytes(98)], syntax=syntax, **deep)
  few = ("pillow",) if syntax == uid.JPEGExtended12Bit else ()
  monkeypatch.setattr(Decoder, "available_plugins", few)
  with pytest.raises(DataError, match=said):
    formats.read_image(path)


def test_row26_twelve_bits_of_jpeg_reach_a_decoder_that_can(
  tmp_path, monkeypatch
):
  """Pillow opens 8 bits only, but the size is in the frame header."""
  from pydicom.pixels.decoders.base import Decoder

  path, (rows, columns) = tmp_path / "a.dcm", GREY.shape
  monkeypatch.setattr(Decoder, "available_plugins", ("pylibjpeg",))
  monkeypatch.setattr(pydicom.pixels, "pixel_array", reached)
  deep = dict(BitsAllocated=16, BitsStored=12, HighBit=11)
  for height, expected in ((rows, Reached), (rows + 1, DataError)):
    header = struct.pack(">HBHHB", 11, 12, height, columns, 1) + b"\1\x11\0"
    frame = b"\xff\xd8\xff\xc1" + header + b"\xff\xd9"
    encapsulated(path, [frame], syntax=uid.JPEGExtended12Bit, **deep)
    with pytest.raises(expected):
      formats.read_image(path)


def test_row26_rle_that_claims_too_much_is_not_decoded(tmp_path, monkeypatch):
  fields = dict(Rows=8192, Columns=8192, NumberOfFrames="8")
  path = tmp_path / "a.dcm"
  save(path, fuzz_seeds.dicom(DEEP, compress="rle", **fields))
  monkeypatch.setattr(pydicom.pixels, "pixel_array", reached)
  with pytest.raises(DataError, match="bytes of RLE can hold"):
    formats.read_volume(path)


def test_row26_deflated_dicom_is_refused_before_it_unpacks(tmp_path):
  data = pydicom.dcmread(io.BytesIO(fuzz_seeds.dicom(GREY)))
  data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
  data.save_as(tmp_path / "a.dcm")
  with pytest.raises(DataError, match="deflated"):
    formats.read_image(tmp_path / "a.dcm")


def test_row26_a_series_with_a_damaged_slice_is_refused(tmp_path):
  root = tmp_path / "s"
  root.mkdir()
  for k in range(3):
    content = fuzz_seeds.dicom(GREY, InstanceNumber=k)
    save(root / f"{k}.dcm", content[: -100 if k == 1 else None])
  with pytest.raises(DataError, match="1.dcm"):
    formats.read_volume(root)


# Row 27


def test_row27_nan_in_a_nifti_is_flagged(tmp_path):
  values = np.ones((8, 9, 3), np.float32)
  values[2, 3, 1] = np.nan
  values[4, 4, 2] = np.inf
  save(tmp_path / "v.nii", fuzz_seeds.nifti(values))
  found = folder(tmp_path, group_unknown="image")
  _, bad = prepare.prepare(found, tmp_path / "out")
  assert [name for name, _ in bad] == ["v.nii#1", "v.nii#2"]
  assert all("1 values that are NaN or infinite" in why for _, why in bad)
  with pytest.raises(DataError, match="NaN or infinite"):
    preprocess.prepare(found.read(1))


def test_row27_numbers_too_large_for_float32_are_flagged(tmp_path):
  values = np.ones((8, 9, 3))
  values[2, 3, 1] = 1e39
  save(tmp_path / "v.nii", fuzz_seeds.nifti(values))
  with pytest.raises(DataError, match="1 values are too large for 32 bits"):
    formats.read_volume(tmp_path / "v.nii")


@pytest.mark.parametrize("value", [0, 1, 255, 65535, -1000.5, 3e38])
@pytest.mark.parametrize("options", [{}, dict(flatten=False), dict(crop=False)])
def test_row27_constant_pixels_do_not_divide_by_zero(tmp_path, value, options):
  image = np.full((24, 31), value, np.min_scalar_type(value))
  if image.dtype == np.float16 or image.dtype.kind == "f":
    image = image.astype(np.float32)
  with np.errstate(all="raise"):
    assert not preprocess.prepare(image, size=(12, 16), **options).any()
    eight = formats.to_uint8(image)
  assert eight.dtype == np.uint8 and len(np.unique(eight)) == 1
  if image.dtype.kind == "f":
    stored = np.repeat(image[..., None], 3, -1)
    save(tmp_path / "v.nii", fuzz_seeds.nifti(stored))
    read = formats.read_volume(tmp_path / "v.nii")
  elif image.dtype.kind == "u":
    save(tmp_path / "v.dcm", fuzz_seeds.dicom(image))
    read = formats.read_image(tmp_path / "v.dcm")
  assert (read == np.float32(value)).all()


def test_row27_one_speck_on_a_flat_ground_is_kept():
  image = np.zeros((24, 31), np.uint16)
  image[12, 15] = 65535
  with np.errstate(all="raise"):
    assert formats.to_uint8(image).max() == 255
    assert np.isfinite(preprocess.prepare(image)).all()


# Rows 11 and 24 for NIfTI

VOLUME = np.arange(7 * 6 * 5, dtype=np.int16).reshape(7, 6, 5)


def with_field(place: int, code: str, *values) -> bytes:
  content = bytearray(fuzz_seeds.nifti(VOLUME))
  struct.pack_into("<" + code, content, place, *values)
  return bytes(content)


@pytest.mark.parametrize(
  "content",
  [
    with_field(0, "i", 349),
    with_field(40, "8h", 3, 30_000, 30_000, 30_000, 1, 1, 1, 1),
    with_field(40, "8h", 3, 700, 700, 700, 1, 1, 1, 1),
    with_field(40, "8h", 3, -7, -6, 5, 1, 1, 1, 1),
    with_field(40, "8h", 3, 0, 6, 5, 1, 1, 1, 1),
    with_field(40, "8h", 7, 7, 6, 5, 9, 9, 9, 9),
    with_field(40, "8h", 9, 7, 6, 5, 1, 1, 1, 1),
    with_field(40, "8h", 0, 7, 6, 5, 1, 1, 1, 1),
    with_field(40, "8h", 2, 7, 30, 1, 1, 1, 1, 1),
    with_field(70, "h", 128),  # RGB
    with_field(70, "h", 32),  # complex
    with_field(70, "h", 999),
    with_field(108, "f", 1e9),
    with_field(108, "f", -352),
    with_field(108, "f", np.nan),
    with_field(254, "h", 77),
  ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_row11_nifti_headers_that_lie(tmp_path, content, suffix, monkeypatch):
  packed = gzip.compress(content) if suffix == ".nii.gz" else content
  path = save(tmp_path / f"a{suffix}", packed)
  monkeypatch.setattr(nibabel.Nifti1Image, "from_filename", reached)
  for read in (formats.count_slices, formats.read_volume):
    with pytest.raises(DataError, match="a.nii"):
      read(path)


def test_row22_truncated_nifti(tmp_path):
  content = fuzz_seeds.nifti(VOLUME)
  packed = gzip.compress(content)
  for suffix, whole in ((".nii", content), (".nii.gz", packed)):
    path = save(tmp_path / f"a{suffix}", whole)
    assert formats.read_volume(path).shape == (5, 6, 7)
    for cut in np.linspace(1, len(whole) - 1, 50).astype(int):
      with pytest.raises(DataError, match="a.nii"):
        formats.read_volume(save(path, whole[:cut]))


def test_row22_a_flipped_byte_in_a_packed_nifti(tmp_path):
  content = bytearray(gzip.compress(fuzz_seeds.nifti(VOLUME), 0))
  content[len(content) - 100] ^= 1  # a voxel; only the checksum knows
  with pytest.raises(DataError, match="CRC"):
    formats.read_volume(save(tmp_path / "a.nii.gz", bytes(content)))


def test_row24_packed_nifti_bombs_take_little_memory(tmp_path):
  claims = with_field(40, "8h", 3, 800, 800, 800, 1, 1, 1, 1)
  extension = bytearray(with_field(108, "f", 2**27))
  extension[348:352] = b"\1\0\0\0"
  extension[352:360] = struct.pack("<ii", 2**27 - 352, 6)
  made = {
    "claims.nii.gz": gzip.compress(claims),
    "extension.nii.gz": gzip.compress(bytes(extension) + bytes(2**27), 9),
  }
  paths = [save(tmp_path / n, content) for n, content in made.items()]
  lines, grown = memory.reading("read_volume", paths)
  assert [line.startswith("refused") for line in lines] == [True] * 2, lines
  assert grown < 100_000, lines


def test_row24_what_follows_the_voxels_is_bounded(tmp_path, monkeypatch):
  content = gzip.compress(fuzz_seeds.nifti(VOLUME) + bytes(2**22), 9)
  path = save(tmp_path / "a.nii.gz", content)
  assert formats.read_volume(path).shape == (5, 6, 7)
  for module in (files, nifti):
    monkeypatch.setattr(module, "MAX_VOLUME_BYTES", 2**21)
  with pytest.raises(DataError, match="unpacked volume has"):
    formats.read_volume(path)
