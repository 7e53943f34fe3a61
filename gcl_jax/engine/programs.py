"""Cache of compiled programs shared by folds, label fractions and encoders.

Every fold, label fraction or reference encoder builds a new step function, so
JAX would compile it again although the program is identical. Compiled programs
are cached here by their text and the properties that the text does not show.
"""

import collections
import hashlib
from collections.abc import Callable, Hashable
from typing import Any

KEPT = 8  # programs at a time: each holds memory of the devices
_kept: collections.OrderedDict = collections.OrderedDict()


def compile_once(function: Callable, *args: Any) -> Any:
  """Compiles ahead of time, or returns the cached result of the same program.

  Args:
    function: has `.lower`: from `jax.jit`, `jax.pmap` or `engine.parallel`.
    *args: arguments, of which only shape and sharding are used.

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
  """Cache key of a program, or None if it cannot be determined.

  The text (StableHLO) holds operations, shapes, donation and constants. It does
  not hold the unused arguments that JAX dropped, devices, weak types, compiler
  options, callback functions, and constants that became arguments. JAX passes
  those to the compiler in private fields: if one is missing, nothing is shared.
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
