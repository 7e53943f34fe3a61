"""Random damage of files: flipped bits, extreme numbers, cuts, insertions."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 30_000, 8193)
_WIDE = (*_EXTREMES, 50_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def damage(content: bytes, rng: np.random.Generator) -> bytes:
  """Damages the content in one to three random ways."""
  kinds = (_flip, _flip, _blow_up, _blow_up, _cut, _insert, _repeat)
  spoiled = bytearray(content)
  for _ in range(rng.integers(1, 4)):
    if spoiled:
      kinds[rng.integers(len(kinds))](spoiled, rng)
  return bytes(spoiled)


def _place(content: bytearray, rng: np.random.Generator) -> int:
  """Random position, half of the time in the first bytes (the header)."""
  near = min(len(content), 400 if rng.random() < 0.5 else len(content))
  return int(rng.integers(near))


def _flip(content: bytearray, rng: np.random.Generator) -> None:
  for _ in range(rng.integers(1, 9)):
    content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def _blow_up(content: bytearray, rng: np.random.Generator) -> None:
  """Overwrites 2 or 4 bytes by a number at the limit of their range."""
  wide = rng.random() < 0.5
  number = int(rng.choice(_WIDE if wide else _EXTREMES))
  order = "<>"[rng.integers(2)]
  place = _place(content, rng)
  new = struct.pack(order + ("I" if wide else "H"), number)
  content[place : place + len(new)] = new


def _cut(content: bytearray, rng: np.random.Generator) -> None:
  del content[_place(content, rng) :]


def _insert(content: bytearray, rng: np.random.Generator) -> None:
  place = _place(content, rng)
  content[place:place] = rng.bytes(int(rng.integers(1, 65)))


def _repeat(content: bytearray, rng: np.random.Generator) -> None:
  """Repeats or removes a section of the file."""
  start = _place(content, rng)
  stop = start + int(rng.integers(1, 200))
  again = content[start:stop] * int(rng.integers(0, 3))
  content[start:stop] = again


def damage_png(content: bytes, rng: np.random.Generator) -> bytes:
  """Damages a PNG, half of the time with valid checksums to reach decoders."""
  spoiled = damage(content, rng)
  return _with_checksums(spoiled) if rng.random() < 0.5 else spoiled


def _with_checksums(content: bytes) -> bytes:
  fixed, place = bytearray(content), 8
  while place + 12 <= len(fixed):
    length = int.from_bytes(fixed[place : place + 4])
    end = place + 8 + length
    if end + 4 > len(fixed):
      break
    fixed[end : end + 4] = zlib.crc32(fixed[place + 4 : end]).to_bytes(4)
    place = end + 4
  return bytes(fixed)


def damage_gzip(content: bytes, rng: np.random.Generator) -> bytes:
  """Damages the compressed file or, half of the time, its contents."""
  if rng.random() < 0.5:
    return damage(content, rng)
  return gzip.compress(damage(gzip.decompress(content), rng), 1, mtime=0)


def damage_npz(content: bytes, rng: np.random.Generator) -> bytes:
  """Damages the archive or, half of the time, one array in it."""
  if rng.random() < 0.5:
    return damage(content, rng)
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  hit = list(members)[rng.integers(len(members))]
  members[hit] = damage(members[hit], rng)
  made = io.BytesIO()
  with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, member in members.items():
      archive.writestr(name, member)
  return made.getvalue()
