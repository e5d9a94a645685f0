# SPDX-License-Identifier: Apache-2.0
"""The numbers in the report: curves, counts, mistakes.

Legend: N texts, L labels, C chosen labels, T thresholds. `true` and `decided`
are bool [N, L], `probabilities` is float32 [N, L]. Numpy only.
"""

import collections

import numpy as np

from multilabel import bootstrap
from multilabel.score_curves import divide
from multilabel.score_curves import label_curves
from multilabel.score_curves import pooled_curves
from multilabel.score_curves import row_blocks


NUM_THRESHOLDS = 201
NUM_BINS = 15

# Limit of cells x resamples for the intervals, a few seconds.
_MAX_RESAMPLED_CELLS = 3e8
_MIN_RESAMPLES, _MAX_RESAMPLES = 100, 1000

ThresholdCurve = collections.namedtuple(
    "ThresholdCurve", ["thresholds", "precision", "recall", "f1"])

# Rows of a matrix of [N, L], most informative first.
Mistakes = collections.namedtuple("Mistakes", ["false", "missed"])


def num_resamples(num_cells):
  """Number of resamples for that many cells; 0: too many cells."""
  affordable = int(_MAX_RESAMPLED_CELLS // max(1, num_cells))
  if affordable < _MIN_RESAMPLES:
    return 0
  return min(affordable, _MAX_RESAMPLES)


def intervals(true, scores):
  """95% bootstrap intervals, if time allows.

  Args:
    true: bool [N, L].
    scores: float32 [N, L], probabilities, cut at 0.5; or decisions, 0 and 1.

  Returns:
    {`micro_f1`, `macro_f1`, `macro_average_precision`: (low, high)}, the last
    only meaningful for probabilities; {} if there are too many cells.
  """
  count = num_resamples(true.size)
  if not count:
    return {}
  found = bootstrap.bootstrap_intervals(true, scores, 0.5, count)
  return {name: (interval["low"], interval["high"])
          for name, interval in found.items()}


def threshold_curve(true, probabilities):
  """Micro precision, recall and F1 of one threshold for all labels.

  Returns:
    `ThresholdCurve` of float64 [T]; precision is nan where nothing passes.
  """
  thresholds = np.linspace(0, 1, NUM_THRESHOLDS)
  rounded = thresholds.astype(probabilities.dtype)
  at_or_above = np.zeros((2, NUM_THRESHOLDS))
  for block in row_blocks(*true.shape):
    places = np.searchsorted(rounded, probabilities[block], side="right") - 1
    for i, chosen in enumerate([places[true[block]], places.ravel()]):
      at_or_above[i] += np.bincount(chosen, minlength=NUM_THRESHOLDS)
  tp, predicted = np.cumsum(at_or_above[:, ::-1], axis=1)[:, ::-1]
  return ThresholdCurve(
      thresholds, np.where(predicted, divide(tp, predicted), np.nan),
      divide(tp, tp[0]), divide(2 * tp, predicted + tp[0]))


def _sampled_points(recall, precision, most):
  """Keeps `most` points of a curve, evenly spaced in recall, with its ends."""
  if len(recall) > most:
    places = np.searchsorted(recall, np.linspace(recall[0], recall[-1], most))
    kept = np.unique(np.minimum(places, len(recall) - 1))
    recall, precision = recall[kept], precision[kept]
  return recall, precision


def label_pr_points(true, probabilities, columns, most=80):
  """Points of the precision-recall curve of each chosen label.

  Args:
    true: bool [N, L].
    probabilities: float32 [N, L].
    columns: list of C int.
    most: int, points per curve.

  Returns:
    list of C (recall, precision), float64 arrays, recall ascending; None for
    a label without a positive.
  """
  found = []
  for block, curve in label_curves(true[:, columns], probabilities[:, columns]):
    ends = np.append(curve.row_starts[1:], len(curve.row))
    for row in range(block.stop - block.start):
      part = slice(curve.row_starts[row], ends[row])
      total = curve.totals[row]
      found.append(_sampled_points(
          curve.tp[part][::-1] / total,
          curve.tp[part][::-1] / curve.predicted[part][::-1],
          most) if total else None)
  return found


def pooled_pr_points(true, probabilities, most=300):
  """Likewise for all cells of [N, L] as one list; None without a positive."""
  recall, precision = [], []
  for curve in pooled_curves(true, probabilities):
    if not curve.totals[0]:
      return None
    points = _sampled_points(curve.tp[::-1] / curve.totals[0],
                             (curve.tp / curve.predicted)[::-1], most)
    # Parts come with ascending scores, so with descending recall.
    recall.insert(0, points[0])
    precision.insert(0, points[1])
  return _sampled_points(np.concatenate(recall), np.concatenate(precision),
                         most)


def co_occurrence(true, columns):
  """How often labels occur together: int64 [C, C], counts of texts."""
  chosen = true[:, columns].astype(np.float64)
  return chosen.T.dot(chosen).astype(np.int64)


def confusion(true, decided, columns):
  """Which label is predicted where another one is missed.

  Args:
    true: bool [N, L].
    decided: bool [N, L].
    columns: list of C int.

  Returns:
    int64 [C + 1, C + 1], texts in which the label of the row is missed (true,
    not predicted) and the label of the column is false (predicted, not true).
    The last column counts texts where the row's label is missed and none of all
    L labels is false; the last row those where the column's label is false and
    none is missed.
  """
  missed, false = true & ~decided, decided & ~true
  padded = []
  for own, other in ((missed, false), (false, missed)):
    alone = ~other.any(axis=1)
    padded.append((own[:, columns].astype(np.float64), alone))
  (missed, none_false), (false, none_missed) = padded
  size = len(columns) + 1
  counts = np.zeros((size, size))
  counts[:-1, :-1] = missed.T.dot(false)
  counts[:-1, -1] = missed[none_false].sum(axis=0)
  counts[-1, :-1] = false[none_missed].sum(axis=0)
  return counts.astype(np.int64)


def mistakes(true, decided, probabilities, column, most):
  """The most confident mistakes for a label.

  Args:
    true: bool [N, L].
    decided: bool [N, L].
    probabilities: float32 [N, L].
    column: int, the label.
    most: int, mistakes of each kind.

  Returns:
    `Mistakes` of row numbers: false ones (predicted, not true) with the highest
    probability first, missed ones (true, not predicted) with the lowest first;
    ties by row.
  """
  true, decided = true[:, column], decided[:, column]
  scores = probabilities[:, column]
  found = []
  for rows, sign in ((np.flatnonzero(decided & ~true), -1),
                     (np.flatnonzero(true & ~decided), 1)):
    order = np.argsort(sign * scores[rows], kind="stable")[:most]
    found.append(rows[order].tolist())
  return Mistakes(*found)
