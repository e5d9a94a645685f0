# SPDX-License-Identifier: Apache-2.0
"""Checks arrays of probabilities and labels, and computes curves from them."""

import collections

import numpy as np


# Cells processed at once: large enough for numpy, small enough for memory.
BLOCK_CELLS = 1 << 20


# Cells of all labels together that are sorted at once; more are sorted by
# ranges of scores, with one pass over the input per range.
POOLED_CELLS = 1 << 25


# What `score_curve` returns, all [G]: groups of equal scores, ascending in a
# row. `tp` and `predicted` count the positives and the cells of the row at or
# above the score; `positives` and `size` those with exactly this score.
# `row_starts` [rows] is the first group of each row, `totals` [rows] the number
# of positives of each row.
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
        "probabilities have shape %s; give one row per example and one column "
        "per label" % (array.shape,))
  if array.dtype.kind not in "fiub":
    raise ValueError("probabilities have type %s; give numbers in 0..1" %
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
  """Checks labels; returns them as array [N, L], with their type.

  Raises:
    ValueError: not two dimensions, empty, or a cell that is not 0 or 1.
  """
  array = np.asarray(labels)
  if array.ndim != 2 or not array.size:
    raise ValueError(
        "labels have shape %s; give at least one row (an example) and one "
        "column (a label)" % (array.shape,))
  if array.dtype.kind not in "fiub":
    raise ValueError("labels have type %s; give the numbers 0 and 1" %
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
    ValueError: the number differs from that of the labels, or a duplicate name.
  """
  if label_names is None:
    return [str(i) for i in range(num_labels)]
  names = list(label_names)
  if len(names) != num_labels:
    raise ValueError("%d label names for %d labels; give one per column" %
                     (len(names), num_labels))
  if len(set(names)) != num_labels:
    twice = [n for n, c in collections.Counter(names).items() if c > 1][0]
    raise ValueError("label name %r appears twice; names must be unique" %
                     (twice,))
  return names


def row_blocks(num_rows, num_columns):
  """Yields slices of rows with at most about `BLOCK_CELLS` cells each."""
  step = max(1, BLOCK_CELLS // max(1, num_columns))
  for start in range(0, num_rows, step):
    yield slice(start, min(start + step, num_rows))


def divide(numerator, denominator):
  """Returns the float64 quotient, 0 if the denominator is 0."""
  numerator, denominator = np.broadcast_arrays(numerator, denominator)
  return np.divide(numerator, denominator, where=denominator != 0,
                   out=np.zeros(numerator.shape, np.float64))


def _make_keys(labels, probabilities):
  """Returns integers that sort like the scores and carry the label in bit 0.

  The bits of floats in 0..1, read as integers, are in the order of the floats
  and leave the two highest bits free. Sorting such keys needs no index array,
  and half the memory of one.
  """
  width = np.uint32 if probabilities.dtype == np.float32 else np.uint64
  # Adding 0 turns -0.0 into 0.0, whose bits are those of the lowest score.
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
  """Yields (slice of labels, `ScoreCurve` with a row per label), in order."""
  num_examples, num_labels = labels.shape
  for block in row_blocks(num_labels, num_examples):
    keys = _make_keys(labels[:, block].T, probabilities[:, block].T)
    keys.sort(axis=-1)
    yield block, score_curve(keys)


def example_curves(labels, probabilities):
  """Yields (slice of examples, `ScoreCurve` with a row per example)."""
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
      # Groups are never split: a part ends where the score of `last` ends.
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
