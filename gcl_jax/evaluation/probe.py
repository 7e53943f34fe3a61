"""Linear and nearest-neighbour probes on frozen features.

Features float[N, D] come from an encoder in evaluation mode, one row per image,
computed once. Labels are 1, 0 or NaN (missing); unlabelled rows are neither
used in training nor scored. A label with one class in training has no probe:
its probabilities and metrics are None.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special
from threadpoolctl import threadpool_limits

from gcl_jax.errors import ConfigError, DataError
from gcl_jax.evaluation.by_label import check_label
from gcl_jax.evaluation.by_label import evaluate as evaluate

# The paper's linear probe, from its released code.
EPOCHS, BATCH, LEARNING_RATE, MOMENTUM = 25, 64, 0.001, 0.9
INVERSE_PENALTY = 0.1  # C of the logistic regression where none is chosen


class Head(NamedTuple):
  """A linear classifier of one label on standardised features.

      p(x) = sigmoid(((x - mean) / scale) . weights + bias)

  Attributes:
    weights: float64[D].
    bias: float64 scalar.
    mean, scale: float64[D].
  """

  weights: np.ndarray
  bias: np.ndarray
  mean: np.ndarray
  scale: np.ndarray


def fit_linear(
  x: np.ndarray,
  labels: Mapping[str, np.ndarray],
  *,
  solver: str = "lbfgs",
  seed: int = 0,
  penalty: float = INVERSE_PENALTY,
  tolerance: float = 1e-6,
) -> dict[str, Head | None]:
  """Linear classifiers of several binary labels.

  "lbfgs" (default): features standardised on the labelled training rows,
  logistic regression with an L2 penalty and classes weighted to the same total,
  one label at a time (for a linear model the joint problem separates). There
  are no random numbers. `crossfit.linear` chooses the penalty.

  "sgd": the paper's probe. Linear D -> L on the unscaled features with
  sigmoids (one label: D -> 2 with a softmax), cross-entropy averaged over the
  known labels of a batch, SGD with learning rate 0.001 and momentum 0.9,
  batches of 64 in a new order each epoch (the last one smaller), 25 epochs,
  classes not weighted, last epoch kept. The paper augments the training images
  anew in every epoch, which is not possible with frozen features.

  Args:
    x: float[N, D], training features.
    labels: name -> float[N] of 1, 0 or NaN.
    solver: "lbfgs" or "sgd".
    seed: for "sgd": initial weights and order.
    penalty: for "lbfgs": C, the inverse of the strength of the penalty.
    tolerance: for "lbfgs": largest slope of the loss at which it stops.

  Returns:
    name -> `Head`, or None where training holds one class only.

  Raises:
    DataError: features are not finite, or sizes do not match.
    ConfigError: the solver is unknown.
  """
  x = _features(x)
  checked = {name: check_label(name, y, len(x)) for name, y in labels.items()}
  known = {
    name: y for name, y in checked.items() if {0.0, 1.0} <= set(y.tolist())
  }
  if solver == "sgd":
    found = _sgd(x, known, seed) if known else {}
  elif solver == "lbfgs":
    found = {
      name: _lbfgs(x, y, penalty, tolerance) for name, y in known.items()
    }
  else:
    raise ConfigError(f"solver must be lbfgs or sgd, got {solver!r}")
  return {name: found.get(name) for name in checked}


def probability(head: Head, x: np.ndarray) -> np.ndarray:
  """Probabilities float64[M] in [0, 1] of features float[M, D]."""
  standard = (_features(x) - head.mean) / head.scale
  return special.expit(standard @ head.weights + head.bias)


def knn(
  train_x: np.ndarray,
  train_y: np.ndarray,
  test_x: np.ndarray,
  k: int = 20,
  temperature: float = 0.07,
) -> np.ndarray | None:
  """Share of positives among the k nearest, weighted by exp(cosine / 0.07).

  The weighted vote of Wu et al. 2018 (arXiv 1805.01978), with cosine similarity
  between features. No parameter is fitted.

  Args:
    train_x: float[N, D]; a zero row has cosine 0 with all rows.
    train_y: float[N] of 1, 0 or NaN (such rows are not neighbours).
    test_x: float[M, D].
    k: number of neighbours; all rows if there are fewer.
    temperature: temperature of the weights, > 0.

  Returns:
    float64[M] in [0, 1], or None if training holds one class only.
  """
  train_x, test_x = _features(train_x), _features(test_x)
  train_y = check_label("label", train_y, len(train_x))
  if not {0.0, 1.0} <= set(train_y.tolist()):
    return None
  # Imported here: it takes a second, which training does not need.
  from sklearn.neighbors import KNeighborsClassifier

  def weights(distance):
    nearest = distance.min(axis=1, keepdims=True)
    return np.exp((nearest - distance) / temperature)  # at least one is 1

  rows = ~np.isnan(train_y)
  model = KNeighborsClassifier(
    min(k, int(rows.sum())), metric="cosine", weights=weights
  )
  model.fit(train_x[rows], train_y[rows])
  return model.predict_proba(test_x)[:, 1]


def _features(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  if x.ndim != 2:
    raise DataError(f"features must be [images, dimensions], got {x.shape}")
  if not np.isfinite(x).all():
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    raise DataError(f"features of {len(bad)} images are not finite: {bad[:5]}")
  return x


def _lbfgs(train_x, train_y, penalty, tolerance) -> Head:
  # Imported here: it takes a second, which training does not need.
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  rows = ~np.isnan(train_y)
  train_x = train_x[rows]
  mean, spread = train_x.mean(0), train_x.std(0)
  spread = np.where(spread > 0, spread, 1)
  model = LogisticRegression(
    C=penalty, class_weight="balanced", max_iter=2000, tol=tolerance
  )
  # One thread: the products are small, and on a busy machine several threads
  # took thirty times as long.
  with warnings.catch_warnings(), threadpool_limits(1):
    # The penalised problem has one minimum; 2000 steps suffice.
    warnings.simplefilter("ignore", ConvergenceWarning)
    model.fit((train_x - mean) / spread, train_y[rows])
  return Head(model.coef_[0], model.intercept_[0], mean, spread)


def _sgd(train_x, labels, seed) -> dict[str, Head]:
  """Paper's probe by SGD; one label: Linear D -> 2 as its logit difference.

  Two softmax logits enter only by d = z1 - z0, whose weights follow SGD of one
  logistic logit at twice the rate, from the difference of both initial weights.
  """
  names, dimension = list(labels), train_x.shape[1]
  y = np.stack(list(labels.values()), axis=1)
  rows = np.flatnonzero(~np.isnan(y).all(1))
  rng = np.random.default_rng(seed)
  pair = len(names) == 1
  bound = dimension**-0.5  # PyTorch's Linear starts uniform in +-1/sqrt(D)
  start = rng.uniform(-bound, bound, (dimension + 1, 2 if pair else len(names)))
  start = start[:, 1:] - start[:, :1] if pair else start
  index, used = _order(rng, rows)
  weights = _run_sgd(
    jnp.asarray(start, jnp.float32),
    jnp.asarray(_with_one(train_x), jnp.float32),
    jnp.asarray(np.nan_to_num(y), jnp.float32),
    jnp.asarray(~np.isnan(y), jnp.float32),
    index,
    used,
    rate=LEARNING_RATE * (2 if pair else 1),
  )
  as_is = np.zeros(dimension), np.ones(dimension)
  columns = np.asarray(weights, np.float64).T
  return {
    name: Head(column[:-1], column[-1], *as_is)
    for name, column in zip(names, columns, strict=True)
  }


def _order(rng, rows) -> tuple[np.ndarray, np.ndarray]:
  """Rows int[steps, 64], a new order each epoch; `used` is 0 for padding."""
  padding = -len(rows) % BATCH
  used = np.pad(np.ones(len(rows), np.float32), (0, padding))
  epochs = [np.pad(rng.permutation(rows), (0, padding)) for _ in range(EPOCHS)]
  index = np.concatenate(epochs).reshape(-1, BATCH)
  return index, np.tile(used, EPOCHS).reshape(-1, BATCH)


def _with_one(x: np.ndarray) -> np.ndarray:
  return np.concatenate([x, np.ones((len(x), 1))], axis=1)


@partial(jax.jit, static_argnames="rate")
def _run_sgd(weights, x, y, known, index, used, *, rate):
  """Momentum SGD on logistic loss averaged over the known labels of a batch."""
  optimiser = optax.sgd(rate, momentum=MOMENTUM)

  def loss(weights, rows, mask):
    logits = x[rows] @ weights
    each = optax.sigmoid_binary_cross_entropy(logits, y[rows])
    mask = mask[:, None] * known[rows]
    return jnp.sum(each * mask) / jnp.maximum(jnp.sum(mask), 1)

  def step(carry, batch):
    weights, state = carry
    updates, state = optimiser.update(jax.grad(loss)(weights, *batch), state)
    return (optax.apply_updates(weights, updates), state), None

  start = (weights, optimiser.init(weights))
  return jax.lax.scan(step, start, (index, used))[0][0]
