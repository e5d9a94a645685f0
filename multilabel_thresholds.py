# SPDX-License-Identifier: Apache-2.0
"""Thresholds of multi-label classification: search and use, in numpy alone.

Legend: N examples, L labels, G groups of equal scores. `labels` is [N, L] of
0 and 1 (bool, int or float), `probabilities` is [N, L] in 0..1.

A prediction is positive when probability >= threshold; a threshold is first
rounded to the type of the probabilities, so a float32 probability that prints
as 0.7 passes the threshold 0.7.

Search is exact: every cut between two distinct scores is tried, and of equally
good ones the highest is taken, which predicts least. The threshold of a cut is
the midpoint between the scores on both sides (0 below the lowest score),
rounded to float32, or the upper score itself where they are so close that the
midpoint rounds out of the gap. All thresholds are exact in float32, so writing
them as JSON and reading them into float32 or float64 moves no prediction.
Cuts between float64 scores that no float32 number separates are not tried.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections

import numpy as np

# Cells handled at once: large enough for numpy, small enough for the memory.
BLOCK_CELLS = 1 << 20

# Cells of all labels together that are sorted at once; more are sorted by
# ranges of their scores, with a pass over the input for each.
POOLED_CELLS = 1 << 25

# What `score_curve` returns, all [G]: groups of equal scores, ascending in a
# row. `tp` and `predicted` count the positives and the cells of the row at or
# above the score; `positives` and `size` those that have just this score.
# `row_starts` [rows] is the first group of each row, `totals` [rows] the
# number of positives of each row.
ScoreCurve = collections.namedtuple(
    "ScoreCurve", ["row", "score", "size", "positives", "tp", "predicted",
                   "row_starts", "totals"])


def _first_bad(array, is_good):
  """Returns the index of the first cell for which `is_good` is false."""
  for block in row_blocks(*array.shape):
    with np.errstate(invalid="ignore"):
      bad = np.argwhere(~is_good(array[block]))
    if bad.size:
      return block.start + int(bad[0, 0]), int(bad[0, 1])
  return None


def check_probabilities(probabilities):
  """Checks probabilities.

  Args:
    probabilities: array-like [N, L] in 0..1, L at least 1.

  Returns:
    The same as float32 or float64 array; copied only for another type.

  Raises:
    ValueError: not two dimensions, no label, not numbers, nan or not in 0..1.
  """
  array = np.asarray(probabilities)
  if array.ndim != 2 or not array.shape[1]:
    raise ValueError(
        "probabilities have shape %s; give one row an example and one column "
        "a label" % (array.shape,))
  if array.dtype.kind not in "fiub":
    raise ValueError("probabilities are of type %s; give numbers in 0..1" %
                     array.dtype)
  if array.dtype == np.float16:
    array = array.astype(np.float32)
  elif array.dtype not in (np.float32, np.float64):
    array = array.astype(np.float64)
  if array.size and not (array.min() >= 0 and array.max() <= 1):
    row, column = _first_bad(array, lambda x: (x >= 0) & (x <= 1))
    raise ValueError(
        "probabilities[%d, %d] is %s; give probabilities in 0..1 (not logits)"
        % (row, column, array[row, column]))
  return array


def check_labels(labels):
  """Checks labels; returns them as array [N, L], in the type they had.

  Raises:
    ValueError: not two dimensions, empty, or a cell that is not 0 or 1.
  """
  array = np.asarray(labels)
  if array.ndim != 2 or not array.size:
    raise ValueError(
        "labels have shape %s; give at least one row (an example) and one "
        "column (a label)" % (array.shape,))
  if array.dtype.kind not in "fiub":
    raise ValueError("labels are of type %s; give numbers 0 and 1" %
                     array.dtype)
  if array.dtype.kind != "b":
    bad = _first_bad(array, lambda x: (x == 0) | (x == 1))
    if bad:
      raise ValueError("labels[%d, %d] is %s; give 0 or 1" %
                       (bad + (array[bad],)))
  return array


def check_arrays(labels, probabilities):
  """Checks both arrays and that they have one shape; returns both.

  Raises:
    ValueError: as `check_labels` and `check_probabilities`, or shapes differ.
  """
  labels = check_labels(labels)
  shape = np.shape(probabilities)
  if shape != labels.shape:
    raise ValueError(
        "labels have shape %s and probabilities %s; give one probability for "
        "each label of each example" % (labels.shape, shape))
  return labels, check_probabilities(probabilities)


def check_thresholds(thresholds, num_labels, dtype):
  """Checks thresholds.

  Args:
    thresholds: number or array-like [L] in 0..1.
    num_labels: int, L.
    dtype: type of the probabilities they are compared with.

  Returns:
    Array [L] of that type.

  Raises:
    ValueError: wrong number of thresholds, nan or not in 0..1.
  """
  array = np.asarray(thresholds, dtype=np.float64)
  if array.shape not in ((), (num_labels,)):
    raise ValueError(
        "thresholds have shape %s for %d labels; give one number, or one for "
        "each label" % (array.shape, num_labels))
  bad = np.atleast_1d(array)[~((array >= 0) & (array <= 1)).reshape(-1)]
  if bad.size:
    raise ValueError("a threshold is %s; give numbers in 0..1" % bad[0])
  return np.broadcast_to(array.astype(dtype), (num_labels,))


def check_label_names(label_names, num_labels):
  """Returns the names as list; the column numbers as text for None.

  Raises:
    ValueError: another count than labels, or a name that is there twice.
  """
  if label_names is None:
    return [str(i) for i in range(num_labels)]
  names = list(label_names)
  if len(names) != num_labels:
    raise ValueError("%d label names for %d labels; give one a column" %
                     (len(names), num_labels))
  if len(set(names)) != num_labels:
    twice = [n for n, c in collections.Counter(names).items() if c > 1][0]
    raise ValueError("label name %r is there twice; give each label its own" %
                     (twice,))
  return names


def row_blocks(num_rows, num_columns):
  """Yields slices of rows with at most about `BLOCK_CELLS` cells each."""
  step = max(1, BLOCK_CELLS // max(1, num_columns))
  for start in range(0, num_rows, step):
    yield slice(start, min(start + step, num_rows))


def divide(numerator, denominator):
  """Returns the float64 quotient, 0 where the denominator is 0."""
  numerator, denominator = np.broadcast_arrays(numerator, denominator)
  return np.divide(numerator, denominator, where=denominator != 0,
                   out=np.zeros(numerator.shape, np.float64))


def _make_keys(labels, probabilities):
  """Returns integers that sort like the scores and carry the label in bit 0.

  The bits of floats in 0..1, read as integers, are in the order of the floats
  and leave the two highest bits free. Sorting such keys needs no index array,
  and half of the memory of one.
  """
  width = np.uint32 if probabilities.dtype == np.float32 else np.uint64
  # Adding 0 makes -0.0 to 0.0, whose bits are those of the lowest score.
  keys = np.add(probabilities, 0, order="C").view(width)
  keys <<= 1
  keys |= labels != 0
  return keys


def score_curve(keys):
  """Groups rows of ascending keys by score.

  Args:
    keys: uint32 or uint64 [rows, n], each row sorted.

  Returns:
    A `ScoreCurve`.
  """
  num_rows, width = keys.shape
  bits = keys >> 1
  is_start = np.ones(keys.shape, dtype=bool)
  np.not_equal(bits[:, 1:], bits[:, :-1], out=is_start[:, 1:])
  starts = np.flatnonzero(is_start)
  row = starts // width
  labels = (keys & 1).astype(np.int8)
  up_to = np.cumsum(labels, axis=1, dtype=np.int64)
  totals = up_to[:, -1].copy()
  tp = totals[row] - up_to.ravel()[starts] + labels.ravel()[starts]
  predicted = width - (starts - row * width)
  row_starts = np.searchsorted(row, np.arange(num_rows))

  def own_share(at_or_above):
    next_above = np.append(at_or_above[1:], 0)
    next_above[row_starts[1:] - 1] = 0
    return at_or_above - next_above

  score = bits.ravel()[starts]
  score = score.view(np.float32 if keys.dtype == np.uint32 else np.float64)
  return ScoreCurve(row, score, own_share(predicted), own_share(tp), tp,
                    predicted, row_starts, totals)


def label_curves(labels, probabilities):
  """Yields (slice of labels, `ScoreCurve` with a row a label), in order."""
  num_examples, num_labels = labels.shape
  for block in row_blocks(num_labels, num_examples):
    keys = _make_keys(labels[:, block].T, probabilities[:, block].T)
    keys.sort(axis=-1)
    yield block, score_curve(keys)


def example_curves(labels, probabilities):
  """Yields (slice of examples, `ScoreCurve` with a row an example)."""
  for block in row_blocks(*labels.shape):
    keys = _make_keys(labels[block], probabilities[block])
    keys.sort(axis=-1)
    yield block, score_curve(keys)


def pooled_curves(labels, probabilities):
  """Yields `ScoreCurve`s of all cells as one row, part after part, ascending.

  `tp` and `predicted` count over all cells; `totals` is [1], over all cells.
  """
  total = sum(int(np.count_nonzero(labels[block]))
              for block in row_blocks(*labels.shape))
  positives_left, cells_left = total, labels.size
  for keys in sorted_keys(labels, probabilities):
    start = 0
    while start < keys.size:
      last = min(start + BLOCK_CELLS, keys.size) - 1
      # A group is never cut: a part ends where the score of `last` ends.
      end = int(np.searchsorted(keys, keys[last] | keys.dtype.type(1),
                                "right"))
      curve = score_curve(keys[start:end].reshape(1, -1))
      positives_left -= int(curve.totals[0])
      cells_left -= end - start
      yield curve._replace(
          tp=curve.tp + positives_left,
          predicted=curve.predicted + cells_left,
          totals=np.array([total]))
      start = end


def sorted_keys(labels, probabilities):
  """Yields all cells' keys (see `key_scores`), sorted, part after part.

  A part has at most about `POOLED_CELLS` cells, unless the upper 16 bits of
  more of them are the same; cells of one score are in one part.
  """
  blocks = list(row_blocks(*labels.shape))
  width = np.uint32 if probabilities.dtype == np.float32 else np.uint64
  shift = width(8 * np.dtype(width).itemsize - 16)
  ranges = [(0, 1 << 16, labels.size)]
  if labels.size > POOLED_CELLS:
    counts = np.zeros(1 << 16, np.int64)
    for block in blocks:
      keys = _make_keys(labels[block], probabilities[block])
      counts += np.bincount((keys >> shift).astype(np.int64).ravel(),
                            minlength=len(counts))
    ranges = _cut(counts)
  for low, high, size in ranges:
    part, filled = np.empty(size, width), 0
    for block in blocks:
      keys = _make_keys(labels[block], probabilities[block]).ravel()
      if len(ranges) > 1:
        upper = keys >> shift
        keys = keys[(upper >= low) & (upper < high)]
      part[filled:filled + keys.size] = keys
      filled += keys.size
    part.sort()
    yield part


def _cut(counts):
  """Ranges (low, high, sum) of the places of counts, none empty."""
  ranges, low, size = [], 0, 0
  for place in np.flatnonzero(counts).tolist():
    count = int(counts[place])
    if size and size + count > POOLED_CELLS:
      ranges.append((low, place, size))
      low, size = place, 0
    size += count
  return ranges + [(low, len(counts), size)]


def key_scores(keys):
  """The scores in keys, which hold a score's bits and below them its label."""
  return (keys >> keys.dtype.type(1)).view(
      np.float32 if keys.dtype == np.uint32 else np.float64)


def _best_cuts(curve, lower, min_precision):
  """Finds the best cut of each row of a curve.

  Args:
    curve: `ScoreCurve`.
    lower: float64 [G], the next lower score; below 0 for the lowest.
    min_precision: None or float64 [rows].

  Returns:
    Four arrays [rows]: whether the precision is reached, F1, precision,
    threshold (float32). Where no cut reaches the precision, the cut of the
    highest precision.
  """
  upper = curve.score.astype(np.float64)
  below = upper.astype(np.float32)
  below = np.where(below > upper, np.nextafter(below, np.float32(0)), below)
  can_cut = below > lower
  f1 = 2 * curve.tp / (curve.predicted + curve.totals[curve.row])
  f1 = np.where(can_cut, f1, -1)
  precision = np.where(can_cut, curve.tp / curve.predicted, -1)
  good = can_cut
  if min_precision is not None:
    good = can_cut & (precision >= min_precision[curve.row])
  reached = np.logical_or.reduceat(good, curve.row_starts)
  rank = np.where(reached[curve.row], np.where(good, f1, -1), precision)
  is_best = rank == np.maximum.reduceat(rank, curve.row_starts)[curve.row]
  place = np.where(is_best, np.arange(len(rank)), -1)
  best = np.maximum.reduceat(place, curve.row_starts)
  middle = ((np.maximum(lower, 0) + upper)[best] / 2).astype(np.float32)
  inside = (middle > lower[best]) & (middle <= upper[best])
  return (reached, f1[best], precision[best],
          np.where(inside, middle, below[best]))


def _check_min_precision(min_precision, num_labels):
  """Returns None, or the least precision a label, [L]."""
  if min_precision is None:
    return None
  array = np.asarray(min_precision, dtype=np.float64)
  if array.shape not in ((), (num_labels,)) or not np.all(
      (array >= 0) & (array <= 1)):
    raise ValueError(
        "min_precision is not one number in 0..1, or one for each of %d labels"
        % num_labels)
  return np.broadcast_to(array, (num_labels,))


def find_global_threshold(labels, probabilities, min_precision=None,
                          default=0.5):
  """Finds the one threshold that maximises micro-F1.

  F1 at the best cut of the pooled list (Lipton, Elkan and Naryanaswamy 2014,
  "Optimal Thresholding of Classifiers to Maximize F1 Measure").

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    min_precision: float in 0..1 or None; cuts of a lower micro precision are
      not taken. When none reaches it, the cut of the highest precision is.
    default: float, the threshold when there is no positive at all.

  Returns:
    OrderedDict: floats `threshold`, `micro_f1`, `micro_precision`; bools
    `fell_back` (no positive, `default` taken) and `precision_reached`.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  check_thresholds(default, 1, np.float64)
  if np.ndim(min_precision):
    raise ValueError("min_precision has shape %s; give one number for the one "
                     "threshold" % (np.shape(min_precision),))
  wanted = _check_min_precision(min_precision, 1)
  best, lowest = None, -1.
  for curve in pooled_curves(labels, probabilities):
    if not curve.totals[0]:
      return collections.OrderedDict([
          ("threshold", float(np.float32(default))), ("micro_f1", 0.),
          ("micro_precision", 0.), ("fell_back", True),
          ("precision_reached", wanted is None or not wanted.any())])
    lower = np.append(lowest, curve.score[:-1].astype(np.float64))
    reached, f1, precision, threshold = [
        x[0] for x in _best_cuts(curve, lower, wanted)]
    lowest = float(curve.score[-1])
    # Parts come in ascending order, so the higher cut wins a draw.
    key = (bool(reached), f1 if reached else precision)
    if best is None or key >= best[0]:
      best = key, threshold, f1, precision
  key, threshold, f1, precision = best
  return collections.OrderedDict([
      ("threshold", float(threshold)), ("micro_f1", float(f1)),
      ("micro_precision", float(precision)), ("fell_back", False),
      ("precision_reached", key[0])])


def _precision_at(labels, probabilities, thresholds):
  """Returns the precision of each label [L], 0 without a prediction."""
  decided = probabilities >= thresholds
  return divide((decided & (labels != 0)).sum(axis=0), decided.sum(axis=0))


def find_label_thresholds(labels, probabilities, shrinkage=10.,
                          min_precision=None, label_names=None, default=0.5):
  """Finds a threshold for each label that maximises its F1.

  The best cut of a label with few positives is mostly chance, so it is drawn
  to the global threshold: (n own + s global) / (n + s) with n positives of
  the label and s = `shrinkage`, the posterior mean of a normal mean whose
  prior weighs s observations (Efron and Morris 1975, "Data Analysis Using
  Stein's Estimator and Its Generalizations"). Where that would bring a label
  below its least precision and its own cut would not, its own stays.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    shrinkage: float, positives that the global threshold weighs; 0 for none.
    min_precision: None, float in 0..1 or [L]; as in `find_global_threshold`.
    label_names: None or L names, for the two lists in the result.
    default: float, as in `find_global_threshold`.

  Returns:
    OrderedDict: `thresholds` and `own_thresholds` (before shrinkage), float64
    [L]; `global_threshold`, float; `fallback_labels`, names of those without
    a positive, which take it; `precision_not_reached`, names of the others
    where no cut has the least precision.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  names = check_label_names(label_names, labels.shape[1])
  wanted = _check_min_precision(min_precision, labels.shape[1])
  if not 0 <= shrinkage < np.inf:
    raise ValueError("shrinkage is %s; give 0 or more positives" % shrinkage)
  middle = find_global_threshold(labels, probabilities,
                                 default=default)["threshold"]
  own = np.full(labels.shape[1], middle, dtype=np.float32)
  shrunk = own.copy()
  positives = np.zeros(len(own), dtype=np.int64)
  reached = np.ones(len(own), dtype=bool)
  for block, curve in label_curves(labels, probabilities):
    lower = np.append(-1., curve.score[:-1].astype(np.float64))
    lower[curve.row_starts] = -1.
    some = curve.totals > 0
    positives[block] = curve.totals
    reached[block], _, _, cuts = _best_cuts(
        curve, lower, None if wanted is None else wanted[block])
    own[block] = np.where(some, cuts, middle)
    weight = divide(curve.totals, curve.totals + shrinkage)
    shrunk[block] = weight * own[block] + (1 - weight) * middle
    if wanted is not None:
      precision = _precision_at(labels[:, block], probabilities[:, block],
                                shrunk[block])
      low = precision < wanted[block]
      shrunk[block] = np.where(low, own[block], shrunk[block])
  return collections.OrderedDict([
      ("thresholds", shrunk.astype(np.float64)),
      ("own_thresholds", own.astype(np.float64)),
      ("global_threshold", middle),
      ("fallback_labels", [names[i] for i in np.flatnonzero(positives == 0)]),
      ("precision_not_reached",
       [names[i] for i in np.flatnonzero((positives > 0) & ~reached)]),
  ])


def apply_thresholds(probabilities, thresholds, top_k=None,
                     always_one_label=False):
  """Decides which labels each example has.

  Args:
    probabilities: [N, L] in 0..1; N may be 0.
    thresholds: number or [L]; positive is probability >= threshold.
    top_k: None, or int above 0: of the labels at or above their threshold
      the `top_k` most probable are kept (of equal ones the first columns).
    always_one_label: bool, give an example without any label its most
      probable one (of equal ones the first column).

  Returns:
    bool array [N, L].

  Raises:
    ValueError: invalid input.
  """
  probabilities = check_probabilities(probabilities)
  num_labels = probabilities.shape[1]
  thresholds = check_thresholds(thresholds, num_labels, probabilities.dtype)
  if top_k is not None and top_k < 1:
    raise ValueError("top_k is %s; give a number of labels above 0" % top_k)
  decided = probabilities >= thresholds
  for block in row_blocks(*probabilities.shape):
    scores = probabilities[block]
    if top_k is not None and top_k < num_labels:
      passing = np.where(decided[block], scores, -1)
      order = np.argsort(-passing, axis=1, kind="stable")
      np.put_along_axis(decided[block], order[:, top_k:], False, axis=1)
    if always_one_label:
      none = np.flatnonzero(~decided[block].any(axis=1))
      decided[block.start + none, scores[none].argmax(axis=1)] = True
  return decided


class DecisionRule(collections.namedtuple(
    "DecisionRule", ["thresholds", "top_k", "always_one_label"])):
  """How probabilities become labels: the arguments of `apply_thresholds`."""

  __slots__ = ()

  def __new__(cls, thresholds=0.5, top_k=None, always_one_label=False):
    return super(DecisionRule, cls).__new__(
        cls, thresholds, top_k, always_one_label)

  def apply(self, probabilities):
    """Returns bool [N, L]: which labels each example has."""
    return apply_thresholds(probabilities, self.thresholds, self.top_k,
                            self.always_one_label)

  def describe(self):
    """Returns the rule in words, for one line of output."""
    values = np.atleast_1d(np.asarray(self.thresholds, np.float64))
    words = ("threshold %.4g" % values[0] if np.ndim(self.thresholds) == 0 else
             "thresholds a label, %.4g to %.4g" % (values.min(), values.max()))
    if self.top_k is not None:
      words += ", at most %d labels" % self.top_k
    if self.always_one_label:
      words += ", at least one label"
    return words


ORIGINAL_RULE = DecisionRule(0.5)
