"""Programs compiled once for all folds, fractions and encoders that share them.

A fold, a label fraction or a reference encoder makes its own step function, so
JAX compiles it anew although the program is the same to the letter. Here what
is compiled is kept by its text.
"""

import collections
import hashlib
from collections.abc import Callable
from typing import Any

import jax

KEPT = 8  # programs at a time: each holds memory of the devices
_kept: collections.OrderedDict = collections.OrderedDict()


def compile_once(function: Callable, mesh: jax.sharding.Mesh, *args) -> Any:
  """Compiles ahead of time, or finds what was compiled from the same text.

  The text (StableHLO) holds shapes, shardings, donation and every constant.
  A program whose constants are arguments that the text does not show, or that
  calls back into Python, is compiled for itself.

  Args:
    function: with `.lower`: of `jax.jit`, `jax.pmap` or `engine.parallel`.
    mesh: the devices it runs on.
    *args: arguments, by shape and sharding.

  Returns:
    The compiled program.
  """
  lowered = function.lower(*args)
  text = lowered.as_text()
  if "jax.const" in text or "callback" in text:
    return lowered.compile()
  digest = hashlib.sha256(text.encode()).digest()
  devices = tuple(mesh.devices.flat)
  key = digest, devices, lowered.in_tree, lowered.out_tree
  if key not in _kept:
    _kept[key] = lowered.compile()
  _kept.move_to_end(key)
  while len(_kept) > KEPT:
    _kept.popitem(last=False)
  return _kept[key]
