"""What several sections of the report say in the same words."""

import numpy as np

from gcl_jax.methods.severity.images import Images


def classes_of(images: Images) -> np.ndarray:
  """A word per image: healthy, its labels, or unknown."""
  words = []
  for row in range(len(images)):
    labels = [n for n in images.labels if images.table[n][row] == 1]
    specific = [n for n in labels if n != "diseased"]
    if images.healthy[row]:
      words.append("healthy")
    elif len(specific) == 1:
      words.append(specific[0])
    elif len(specific) > 1:
      words.append("several")
    else:
      words.append("diseased" if images.diseased[row] else "unknown")
  return np.array(words)
