"""ACDC: short-axis cine MR of the heart, 150 patients, in the published layout.

Bernard et al., IEEE Trans. Med. Imaging 37 (2018), doi
10.1109/TMI.2018.2837502; free on registration. Folders training/ and testing/
hold one folder a patient: Info.cfg, patient001_4d.nii.gz (the time series),
patient001_frame01.nii.gz and _gt.nii.gz for end diastole and end systole.
"""

import dataclasses
import os
import pathlib
import re

import numpy as np

from gcl_jax.data.files import MAX_TABLE_BYTES, folder_of, read_bytes
from gcl_jax.data.nifti import nifti_grid
from gcl_jax.data.source import Dataset
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import Volume, volumes
from gcl_jax.errors import DataError

CODES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
PHASES = ("ED", "ES")
_PARTS = {"training": "train", "testing": "eval"}
_PATIENT = re.compile(r"patient\d{3}")


def read(
  path: str | os.PathLike, *, cine: bool = False, axis: str = "stored"
) -> Dataset:
  """Reads ACDC as published.

  Volumes are z-scored without clipping to percentiles first. Slices are those
  that were acquired, in the order of the file.

  Args:
    path: the folder that holds training/ or testing/, or one above or below
      it; every folder patient### below it is read.
    cine: read all other frames of the time series too, without labels.
    axis: one of `volume_files.AXES`.

  Returns:
    As `volumes.volumes`, one volume per frame: `phase` "ED", "ES" or "" (the
    other frames), `frame` from 1, `cycle` = frame / number of frames, in (0, 1]
    (nan if `cine` is off and Info.cfg has no NbFrame), `part` (training,
    testing or ""), `pathology` ("NOR", "DCM", ...), `height` in cm and `weight`
    in kg (nan where Info.cfg has none). `split` is "train" for training and
    "eval" for testing if both are there.

  Raises:
    DataError: no patient; ED or ES beyond the last frame; a patient without
      Info.cfg, the frames that it names, their class maps or (cine) the time
      series; or what `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis.
  """
  root = folder_of(path)
  found = [root, *root.rglob("patient*")]
  folders = sorted(
    f for f in found if _PATIENT.fullmatch(f.name) and f.is_dir()
  )
  entries = [v for f in folders for v in _patient(f, cine, axis)]
  if not entries:
    raise DataError(f"{root}: no folder patient001, patient002, ... in here")
  dataset = volumes("acdc", entries, mr_percentiles=(0.0, 100.0))
  parts = dataset.column("part").tolist()
  if not set(_PARTS) <= set(parts):
    return dataset
  split = np.array([_PARTS.get(part, "") for part in parts])
  return dataclasses.replace(dataset, table={**dataset.table, "split": split})


def _patient(folder: pathlib.Path, cine: bool, axis: str) -> list[Volume]:
  """Volumes of end diastole and systole, or with `cine` of every frame."""
  info = _info(folder / "Info.cfg")
  phases = {_number(folder, info, phase): phase for phase in PHASES}
  if len(phases) < 2:
    raise DataError(f"{folder / 'Info.cfg'}: ED and ES are the same frame")
  film = folder / f"{folder.name}_4d.nii.gz"
  frames = sorted(phases)
  if cine:
    _present(film, folder, "cine=True needs the film")
    last = nifti_grid(film, film=True).frames
    frames = sorted({*range(1, last + 1), *phases})
  else:
    last = _measure(folder, info, "NbFrame")
  if frames[-1] > last:
    raise DataError(
      f"{folder / 'Info.cfg'}: {phases[frames[-1]]} is frame {frames[-1]} of a"
      f" film of {last:g}"
    )
  part = folder.parent.name
  facts = {
    "part": part if part in _PARTS else "",
    "pathology": info.get("Group", ""),
    "height": _measure(folder, info, "Height"),
    "weight": _measure(folder, info, "Weight"),
  }
  return [
    _frame(
      folder,
      film,
      number,
      phases.get(number, ""),
      axis,
      {"cycle": number / last, **facts},
    )
    for number in frames
  ]


def _frame(
  folder: pathlib.Path,
  film: pathlib.Path,
  number: int,
  phase: str,
  axis: str,
  facts: dict,
) -> Volume:
  name = f"{folder.name}_frame{number:02d}"
  columns = {"frame": number, **facts}
  common = {"axis": axis, "patient": folder.name, "columns": columns}
  if not phase:
    return nifti_volume(name, film, frame=number - 1, **common)
  image, label = folder / f"{name}.nii.gz", folder / f"{name}_gt.nii.gz"
  _present(image, folder, f"Info.cfg says {phase} is frame {number}")
  _present(label, folder, f"the class map of {phase} is missing")
  return nifti_volume(name, image, label, phase=phase, codes=CODES, **common)


def _present(file: pathlib.Path, folder: pathlib.Path, why: str) -> None:
  if not file.is_file():
    raise DataError(f"{folder}: no {file.name}; {why}")


def _info(path: pathlib.Path) -> dict[str, str]:
  """The lines "name: value" of Info.cfg."""
  text = read_bytes(path, MAX_TABLE_BYTES).decode("utf-8", "replace")
  pairs = (line.partition(":") for line in text.splitlines())
  return {name.strip(): value.strip() for name, _, value in pairs}


def _number(folder: pathlib.Path, info: dict[str, str], phase: str) -> int:
  text = info.get(phase, "")
  if not re.fullmatch(r"[1-9]\d{0,3}", text):
    raise DataError(
      f"{folder / 'Info.cfg'}: {phase} is {text!r}, expected a frame number"
    )
  return int(text)


def _measure(folder: pathlib.Path, info: dict[str, str], name: str) -> float:
  try:
    return float(info.get(name) or "nan")
  except ValueError as error:
    raise DataError(
      f"{folder / 'Info.cfg'}: {name} is {info[name]!r}, expected a number"
    ) from error
