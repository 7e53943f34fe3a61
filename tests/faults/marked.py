"""Whole files of every format whose every text holds a marker, and damage."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import fuzz_damage
import fuzz_seeds
import nibabel
import numpy as np
import pydicom
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pydicom.dataset import Dataset

TEXT = "QZXWVJK9"
DATE = "93711128"  # for dates, times, numbers and UIDs
# Any four letters or six digits in a row: damage may cut a marker.
PARTS = {TEXT[i : i + 4] for i in range(5)} | {
  DATE[i : i + 6] for i in range(3)
}
LONG = (b"OB", b"OW", b"OF", b"SQ", b"UC", b"UN", b"UR", b"UT")
TEXTS = dict(
  ImageType=["ORIGINAL", "PRIMARY", TEXT],
  StudyDate=DATE,
  StudyTime=DATE[4:] + "28." + DATE[:6],
  AcquisitionDateTime=DATE + "113928",
  AccessionNumber=TEXT,
  RetrieveAETitle=TEXT,
  InstitutionName=TEXT,
  InstitutionAddress=TEXT,
  ReferringPhysicianName=f"{TEXT}^X",
  StationName=TEXT,
  LongCodeValue=TEXT,
  URNCodeValue=f"urn:{TEXT}",
  PatientName=f"{TEXT}^{TEXT}",
  PatientID=TEXT,
  PatientBirthDate=DATE,
  PatientAge="093Y",
  PatientWeight=DATE,
  AdditionalPatientHistory=TEXT,
  PatientComments=TEXT,
  StudyInstanceUID=f"1.2.{DATE}",
  SeriesInstanceUID=f"1.3.{DATE}",
  StudyID=TEXT,
  InstanceNumber=DATE,
  ImageComments=TEXT,
  RescaleType=TEXT,
)


def dicom(
  pixels: np.ndarray | None = None, *, compress: str = "", **fields
) -> bytes:
  """A DICOM file with marked elements of every kind of text, some private."""
  pixels = fuzz_seeds.pattern("uint16") if pixels is None else pixels
  rescale = dict(RescaleSlope="2.5", RescaleIntercept="-1024")
  content = fuzz_seeds.dicom(pixels, compress=compress, **rescale)
  data = pydicom.dcmread(io.BytesIO(content))
  data.SpecificCharacterSet = "ISO_IR 100"
  for name, value in (TEXTS | fields).items():
    setattr(data, name, value)
  item = Dataset()
  item.CodeValue = item.CodeMeaning = item.CodingSchemeDesignator = TEXT
  data.ProcedureCodeSequence = [item]
  private = data.private_block(0x29, TEXT, create=True)
  for number, vr in enumerate(("LO", "OB", "UN", "PN", "ST"), 1):
    binary = vr in ("OB", "UN")
    private.add_new(number, vr, TEXT.encode() if binary else TEXT)
  meta = data.file_meta
  meta.SourceApplicationEntityTitle = meta.ImplementationVersionName = TEXT
  meta.PrivateInformationCreatorUID = f"1.2.{DATE}"
  meta.PrivateInformation = TEXT.encode()
  made = io.BytesIO()
  pydicom.dcmwrite(made, data, enforce_file_format=True)
  return made.getvalue()


def dicom_lengths(content: bytes) -> Iterator[tuple[int, int]]:
  """(place, bytes) of the length of every element outside sequences."""
  place = 132
  while place < len(content):
    if content[place + 4 : place + 6] in LONG:
      found, size = place + 8, 4
    else:
      found, size = place + 6, 2
    length = int.from_bytes(content[found : found + size], "little")
    if length == 2**32 - 1:  # packed pixels, the last element
      return
    yield found, size
    place = found + size + length


def damaged_dicom(content: bytes) -> Iterator[bytes]:
  """Every length wrong in six ways, and the file cut at 40 places."""
  for place, size in dicom_lengths(content):
    length = int.from_bytes(content[place : place + size], "little")
    for wrong in {0, 1, length + 2, abs(length - 2), 90, 255} - {length}:
      spoiled = bytearray(content)
      spoiled[place : place + size] = wrong.to_bytes(size, "little")
      yield bytes(spoiled)
  yield from cut(content, 40)


def cut(content: bytes, count: int) -> Iterator[bytes]:
  for end in np.linspace(1, len(content) - 1, count).astype(int):
    yield content[:end]


def nifti() -> bytes:
  """A NIfTI file with marked fields and an extension of marked text."""
  image = nibabel.Nifti1Image(np.arange(60, dtype="i2").reshape(5, 4, 3), None)
  for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
    image.header[name] = TEXT
  said = nibabel.nifti1.Nifti1Extension(6, TEXT.encode() * 2)
  image.header.extensions.append(said)
  return image.to_bytes()


def damaged_nifti(content: bytes) -> Iterator[bytes]:
  """Bytes of the header and of the extension, one after the other."""
  for place in range(0, 380, 2):
    for value in (0x41, 0xFF):
      spoiled = bytearray(content)
      spoiled[place] = value
      yield bytes(spoiled)
  yield content[:344] + TEXT[:4].encode() + content[348:]
  yield from cut(content, 20)


def damaged_gzip(content: bytes) -> Iterator[bytes]:
  packed = gzip.compress(content, mtime=0)
  for place in range(0, len(packed), 3):
    spoiled = bytearray(packed)
    spoiled[place] ^= 0xFF
    yield bytes(spoiled)
  yield from cut(packed, 20)
  yield gzip.compress(content[:360], mtime=0)


def _exif() -> Image.Exif:
  exif = Image.Exif()
  exif.update({270: TEXT, 271: TEXT, 305: TEXT, 315: TEXT, 306: DATE})
  return exif


def png() -> bytes:
  """A PNG with marked text, EXIF and profile."""
  info = PngImagePlugin.PngInfo()
  info.add_text(TEXT, TEXT)
  info.add_text(TEXT, TEXT, zip=True)
  info.add_itxt(TEXT, TEXT, TEXT, TEXT)
  profile = TEXT.encode() + b"\0\0" + zlib.compress(TEXT.encode() * 20)
  info.add(b"iCCP", profile)
  made = io.BytesIO()
  image = Image.fromarray(fuzz_seeds.pattern())
  image.save(made, "PNG", pnginfo=info, exif=_exif())
  return made.getvalue()


def jpeg() -> bytes:
  """A JPEG with a marked comment and EXIF."""
  made = io.BytesIO()
  image = Image.fromarray(fuzz_seeds.pattern())
  image.save(made, "JPEG", comment=TEXT.encode(), exif=_exif())
  return made.getvalue()


def tiff() -> bytes:
  """A TIFF with marked texts, one of them under a private tag."""
  tags = TiffImagePlugin.ImageFileDirectory_v2()
  for tag in (269, 270, 271, 272, 285, 305, 315, 316, 33432, 65000):
    tags.tagtype[tag] = 2
    tags[tag] = TEXT
  made = io.BytesIO()
  Image.fromarray(fuzz_seeds.pattern()).save(made, "TIFF", tiffinfo=tags)
  return made.getvalue()


def damaged_raster(content: bytes, kind: str) -> Iterator[bytes]:
  """The whole file, wrong bytes at many places, cuts, random damage."""
  rng = np.random.default_rng(50)
  spoil = fuzz_damage.damage_png if kind == "png" else fuzz_damage.damage
  yield content
  for place in range(4, len(content), 3):
    spoiled = bytearray(content)
    spoiled[place] ^= 0x0F
    yield bytes(spoiled)
  yield from cut(content, 20)
  for _ in range(100):
    yield spoil(content, rng)


def npz() -> Iterator[bytes]:
  """npz files whose array headers hold a marker where numbers should be."""
  headers = (
    f"{{'descr': '{TEXT}', 'fortran_order': False, 'shape': (2,)}}",
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': '{TEXT}'}}",
    f"{{'descr': '<f8', '{TEXT}': False, 'shape': (2,)}}",
    f"{TEXT} ((",
  )
  for header in headers:
    text = header.encode().ljust(117) + b"\n"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
      start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
      archive.writestr("image.npy", start + text + bytes(16))
      archive.comment = TEXT.encode()
    yield made.getvalue()
    yield from cut(made.getvalue(), 8)


def held(text: str) -> set[str]:
  """The parts of a marker that a text holds."""
  return {part for part in PARTS if part in text}
