# SPDX-License-Identifier: Apache-2.0
"""Calibration after training, in numpy only: a linear function of each logit.

Legend: N texts, L labels, x logit. The calibrated probability of a label is

  sigmoid(scale * x + shift)

  temperature  one scale for all labels, no shift (Guo et al. 2017, "On
               Calibration of Modern Neural Networks", section 4.2; their
               temperature is 1 / scale)
  platt        a scale and a shift for each label (Platt 1999, "Probabilistic
               Outputs for Support Vector Machines")

Both minimize the sum of cross entropies on labelled texts the model was not
trained on, plus half the squared distance from a starting point: (1, 0) for the
temperature, and (its scale, 0) for the labels. That is a normal prior of
deviation 1. It has little effect if there are enough positives, and keeps a
label with few of them near the temperature. The sum is strictly convex, so
there is one minimum, which Newton's method finds.

A scale is at least `LEAST_SCALE`: the order of a label's texts never changes.
"""

import collections

import numpy as np

from multilabel import score_curves


KINDS = ("temperature", "platt")

LEAST_SCALE = 0.01

_MOST_ITERATIONS = 100


class Calibration(collections.namedtuple(
    "Calibration", ["kind", "scale", "shift"])):
  """How logits are calibrated.

  Fields:
    kind: str, one of `KINDS`.
    scale: float, or list of L floats.
    shift: float, or list of L floats.
  """

  __slots__ = ()

  def apply(self, logits):
    """Returns float32 `[N, L]`, the calibrated logits of float32 ones."""
    scale, shift = self.arrays(logits.shape[1])
    return logits * scale + shift

  def arrays(self, num_labels):
    """Returns (scale, shift), float32 `[L]` each."""
    return tuple(np.full([num_labels], value, np.float32)
                 for value in (self.scale, self.shift))

  def to_json(self):
    """A dict that JSON can hold; see `from_json`."""
    return dict(self._asdict())


def from_json(value, num_labels):
  """`Calibration` of what `to_json` returned; None of None.

  Raises:
    ValueError: it is not a calibration of that many labels; says which part.
  """
  if value is None:
    return None
  if not isinstance(value, dict) or set(value) != set(Calibration._fields):
    raise ValueError("calibration must have %s." % ", ".join(
        Calibration._fields))
  if value["kind"] not in KINDS:
    raise ValueError("the kind of calibration is %s; it must be one of %s." % (
        value["kind"], ", ".join(KINDS)))
  for name in ("scale", "shift"):
    numbers = value[name] if isinstance(value[name], list) else [value[name]]
    if isinstance(value[name], list) and len(numbers) != num_labels:
      raise ValueError("%s of the calibration has %d numbers for %d labels." % (
          name, len(numbers), num_labels))
    for number in numbers:
      if isinstance(number, bool) or not isinstance(
          number, (int, float)) or not np.isfinite(number) or (
              name == "scale" and number <= 0):
        raise ValueError("%s of the calibration is %s; it must be a finite "
                         "number%s." % (name, number,
                                        " above 0" * (name == "scale")))
  return Calibration(**value)


def fit(kind, labels, logits):
  """Finds a calibration on labelled texts.

  Args:
    kind: str, one of `KINDS`.
    labels: [N, L] of 0 and 1.
    logits: float [N, L], finite.

  Returns:
    `Calibration`, its numbers exact in float32.

  Raises:
    ValueError: unknown kind, or the shapes differ.
  """
  if kind not in KINDS:
    raise ValueError("calibration is %s; it must be one of %s." % (
        kind, ", ".join(KINDS)))
  labels, logits = np.asarray(labels), np.asarray(logits)
  if labels.shape != logits.shape or labels.ndim != 2:
    raise ValueError("labels have shape %s and logits %s; give one logit for "
                     "each label of each text." % (labels.shape, logits.shape))
  prior = np.array([[1.0], [0.0]])

  def pooled(line):
    cost, gradient, hessian = _measure(labels, logits, line, prior, True)
    # There is no shift to fit.
    gradient[1], hessian[1], hessian[2] = 0.0, 0.0, 1.0
    return cost, gradient, hessian

  scale = max(float(_minimise(pooled, prior)[0, 0]), LEAST_SCALE)
  if kind == "temperature":
    return Calibration(kind, _float32(scale), 0.0)
  prior = np.array([[scale], [0.0]]) * np.ones([1, logits.shape[1]])
  line = _minimise(
      lambda line: _measure(labels, logits, line, prior, False), prior)
  # If texts with the label score lower than those without, no line helps.
  useful = line[0] >= LEAST_SCALE
  line = np.where(useful, line, prior)
  return Calibration(kind, [_float32(value) for value in line[0]],
                     [_float32(value) for value in line[1]])


def _float32(value):
  return float(np.float32(value))


def _measure(labels, logits, line, prior, is_pooled):
  """The objective and its derivatives.

  Args:
    labels: [N, L].
    logits: [N, L].
    line: float64 [2, L], scale and shift; [2, 1] for all labels.
    prior: like `line`.
    is_pooled: bool, whether the labels are summed up.

  Returns:
    (cost [L], gradient [2, L], Hessian [3, L]: scale-scale, scale-shift,
    shift-shift), float64, of one column if pooled.
  """
  total = np.zeros([6, logits.shape[1]])
  for block in score_curves.row_blocks(*logits.shape):
    x, y = logits[block].astype(np.float64), labels[block].astype(np.float64)
    z = line[0] * x + line[1]
    p = 0.5 * (1 + np.tanh(z / 2))
    error, weight = p - y, p * (1 - p)
    total += [part.sum(axis=0) for part in (
        np.logaddexp(0, z) - y * z, error * x, error, weight * x * x,
        weight * x, weight)]
  if is_pooled:
    total = total.sum(axis=1, keepdims=True)
  distance = line - prior
  return (total[0] + 0.5 * np.sum(distance ** 2, axis=0), total[1:3] + distance,
          total[3:] + [[1.0], [0.0], [1.0]])


def _minimise(measure, start):
  """Newton's method, one problem per column; a step is halved until it helps.

  Args:
    measure: function of [2, n] to what `_measure` returns, strictly convex.
    start: float64 [2, n].

  Returns:
    float64 [2, n].
  """
  point = start.copy()
  cost, gradient, hessian = measure(point)
  for _ in range(_MOST_ITERATIONS):
    determinant = hessian[0] * hessian[2] - hessian[1] ** 2
    step = -np.stack([
        hessian[2] * gradient[0] - hessian[1] * gradient[1],
        hessian[0] * gradient[1] - hessian[1] * gradient[0]]) / determinant
    if np.all(np.abs(step) <= 1e-9 * (1 + np.abs(point))):
      break
    share = np.ones_like(cost)
    for _ in range(50):
      tried = measure(point + share * step)
      worse = tried[0] > cost + 1e-12 * np.abs(cost)
      if not worse.any():
        break
      share = np.where(worse, share / 2, share)
    point = point + share * step
    cost, gradient, hessian = tried
  return point
