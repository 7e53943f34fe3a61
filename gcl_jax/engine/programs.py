"""Programs compiled once for all folds, fractions and encoders that share them.

A fold, a label fraction or a reference encoder makes its own step function, so
JAX compiles it anew although the program is the same to the letter. Here what
is compiled is kept by its text and what the text does not show.
"""

import collections
import hashlib
from collections.abc import Callable, Hashable
from typing import Any

KEPT = 8  # programs at a time: each holds memory of the devices
_kept: collections.OrderedDict = collections.OrderedDict()


def compile_once(function: Callable, *args: Any) -> Any:
  """Compiles ahead of time, or finds what was compiled of the same program.

  Args:
    function: with `.lower`: of `jax.jit`, `jax.pmap` or `engine.parallel`.
    *args: arguments, by shape and sharding.

  Returns:
    The compiled program.
  """
  lowered = function.lower(*args)
  key = _key(lowered)
  if key is None:
    return lowered.compile()
  if key not in _kept:
    _kept[key] = lowered.compile()
  _kept.move_to_end(key)
  while len(_kept) > KEPT:
    _kept.popitem(last=False)
  return _kept[key]


def _key(lowered: Any) -> Hashable | None:
  """What tells two programs apart, or None where that cannot be known.

  The text (StableHLO) holds operations, shapes, donation and constants. It does
  not hold which arguments JAX dropped because nothing uses them, the devices,
  weak types, the compiler's options, what a callback calls, and constants that
  became arguments. JAX gives those to the compiler only, in private fields:
  where one is missing nothing is shared.
  """
  try:
    private = lowered._lowering
    facts = private.compile_args
    own = private.const_args, facts["host_callbacks"], facts["keepalive"]
    if any(map(len, own)):
      return None
    key = (
      hashlib.sha256(lowered.as_text().encode()).digest(),
      (lowered.in_tree, lowered.out_tree),
      tuple(sorted(facts["kept_var_idx"])),
      tuple(private._device_list),
      tuple(private._compiler_options_kvs),
      *(
        tuple(facts[name])
        for name in (
          "global_in_avals",
          "global_out_avals",
          "in_shardings",
          "out_shardings",
          "in_layouts",
          "out_layouts",
          "ordered_effects",
          "unordered_effects",
        )
      ),
    )
    hash(key)
  except (AttributeError, KeyError, TypeError):
    return None
  return key
