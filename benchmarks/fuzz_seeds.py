"""Small undamaged files of every format for fuzzing."""

import csv
import gzip
import io

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 31


def pattern(dtype: str = "uint8", channels: int = 1) -> np.ndarray:
  """Image [24, 31] or [24, 31, channels], half gradient, half noise."""
  top = np.iinfo(dtype).max
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
  ramp[HEIGHT // 2 :] = rng.integers(0, top + 1, (HEIGHT // 2, WIDTH))
  planes = [ramp, ramp[::-1], ramp[:, ::-1]][:channels]
  values = np.stack(planes, -1).astype(dtype)
  return values[..., 0] if channels == 1 else values


def _pillow(kind: str, images: list[Image.Image], **options) -> list[bytes]:
  made = []
  for image in images:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    made.append(buffer.getvalue())
  return made


def _images() -> list[Image.Image]:
  grey, colour = pattern(), pattern(channels=3)
  return [
    Image.fromarray(grey),
    Image.fromarray(colour),
    Image.fromarray(colour).quantize(16),
    Image.fromarray(grey > 99),
  ]


def png_seeds() -> list[bytes]:
  alpha = np.concatenate([pattern(channels=3), pattern()[..., None]], -1)
  deep = Image.fromarray(pattern("uint16"))
  return _pillow("PNG", [*_images(), deep, Image.fromarray(alpha)])


def jpeg_seeds() -> list[bytes]:
  images = _images()[:2]
  return [
    *_pillow("JPEG", images),
    *_pillow("JPEG", images, progressive=True),
    *_pillow("JPEG", [images[1].convert("CMYK")]),
  ]


def tiff_seeds() -> list[bytes]:
  images = [*_images(), Image.fromarray(pattern("uint16"))]
  return [
    *_pillow("TIFF", images),
    *_pillow("TIFF", images, compression="tiff_deflate"),
    *_pillow("TIFF", images[:2], compression="tiff_lzw"),
    *_pillow("TIFF", [Image.fromarray(pattern().astype(np.float32))]),
  ]


def bmp_seeds() -> list[bytes]:
  return _pillow("BMP", _images())


def dicom(pixels: np.ndarray, *, compress: str = "", **fields) -> bytes:
  """DICOM file: [H, W] or [frames, H, W] grey, or [H, W, 3] colour.

  Args:
    pixels: stored values.
    compress: "", "rle" or "jpeg".
    **fields: elements to set or replace, by keyword.
  """
  import pydicom
  from pydicom import encaps, uid
  from pydicom.dataset import FileDataset, FileMetaDataset

  meta = FileMetaDataset()
  meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
  meta.MediaStorageSOPInstanceUID = "1.2.3.4"
  data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
  colour = pixels.shape[-1] == 3
  data.SeriesInstanceUID = "1.2.3"
  data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
  data.SamplesPerPixel = 3 if colour else 1
  data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
  if colour:
    data.PlanarConfiguration = 0
  elif pixels.ndim == 3:
    data.NumberOfFrames = len(pixels)
  data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
  data.HighBit = data.BitsStored - 1
  data.PixelRepresentation = int(pixels.dtype.kind == "i")
  data.PixelData = pixels.tobytes()
  if compress == "rle":
    data.compress(uid.RLELossless, generate_instance_uid=False)
  if compress == "jpeg":
    meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    frames = _pillow("JPEG", [Image.fromarray(pixels)])
    data.PixelData = encaps.encapsulate(frames)
    data["PixelData"].is_undefined_length = True
  for name, value in fields.items():
    setattr(data, name, value)
  buffer = io.BytesIO()
  pydicom.dcmwrite(buffer, data, enforce_file_format=True)
  return buffer.getvalue()


def dicom_seeds() -> list[bytes]:
  grey, deep = pattern(), pattern("uint16")
  return [
    dicom(grey, RescaleSlope="1", RescaleIntercept="0", NumberOfFrames="1"),
    dicom(deep >> 4, BitsStored=12, HighBit=11, RescaleSlope="2.5"),
    dicom(pattern(channels=3)),
    dicom(grey, PhotometricInterpretation="MONOCHROME1"),
    dicom(np.stack([grey, grey])),
    dicom(deep, compress="rle"),
    dicom(grey, compress="jpeg"),
  ]


def nifti(values: np.ndarray) -> bytes:
  """NIfTI file of [x, y, z] values."""
  import nibabel

  return nibabel.Nifti1Image(values, np.diag([2.0, 1, 1, 1])).to_bytes()


def nifti_seeds() -> list[bytes]:
  volume = np.arange(7 * 6 * 5).reshape(7, 6, 5)
  kinds = (np.uint8, np.int16, np.float32, np.uint16)
  return [nifti(volume.astype(kind)) for kind in kinds]


def gzip_seeds() -> list[bytes]:
  return [gzip.compress(content, 1, mtime=0) for content in nifti_seeds()]


def npz_seeds() -> list[bytes]:
  arrays = dict(
    images=np.stack([pattern()] * 4),
    labels=np.arange(4)[:, None],
    names=np.array(["a", "b", "c", "ü"]),
  )
  made = []
  for save in (np.savez, np.savez_compressed):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    made.append(buffer.getvalue())
  return made


def _table_rows() -> list[list]:
  return [
    ["id", "path", "group", "fluid", "CST"],
    *([f"{i}.0", f"s{i}.png", f"p{i // 3}", i % 2, 250.5] for i in range(30)),
  ]


def csv_seeds() -> list[bytes]:
  made = []
  for delimiter in ",;\t":
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows(_table_rows())
    made.append(buffer.getvalue().encode("utf-8-sig"))
    made.append(made[-1].replace(b'"', b"").replace(b"\r", b""))
  return made


def xlsx_seeds() -> list[bytes]:
  import openpyxl

  book = openpyxl.Workbook()
  for row in _table_rows():
    book.active.append(row)
  buffer = io.BytesIO()
  book.save(buffer)
  return [buffer.getvalue()]
