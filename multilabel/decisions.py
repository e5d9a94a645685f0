# SPDX-License-Identifier: Apache-2.0
"""Thresholds for multi-label classification: search and use, in numpy only.

Legend: N examples, L labels, G groups of equal scores. `labels` is [N, L] of
0 and 1 (bool, int or float), `probabilities` is [N, L] in 0..1.

A prediction is positive when probability >= threshold; a threshold is first
rounded to the type of the probabilities, so a float32 probability that prints
as 0.7 passes the threshold 0.7.

The search is exact: every cut between two distinct scores is tried, and among
equally good ones the highest is used, which predicts least. The threshold of a
cut is the midpoint between the scores on both sides (0 below the lowest score),
rounded to float32, or the upper score itself if the midpoint would round out of
the gap. All thresholds are exact in float32, so a round trip through JSON
changes no prediction. Cuts between float64 scores that no float32 number
separates are not tried.
"""

import collections
import re

import numpy as np

from multilabel import expected_f1
from multilabel import score_curves


# Values of --threshold that find thresholds on dev.
TUNED_THRESHOLDS = ("tune", "tune_macro", "tune_samples", "tune_per_label")

# In place of thresholds: the labels of the highest expected F1 of each text.
EXPECTED_F1 = "expected_f1"


def _best_cuts(curve, lower, min_precision):
  """Finds the best cut of each row of a curve.

  Args:
    curve: `ScoreCurve`.
    lower: float64 [G], the next lower score; below 0 for the lowest.
    min_precision: None or float64 [rows].

  Returns:
    Four arrays [rows]: whether the precision is reached, F1, precision,
    threshold (float32). If no cut reaches the precision, the cut with the
    highest precision.
  """
  upper = curve.score.astype(np.float64)
  below = _round_down(upper)
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
  return (reached, f1[best], precision[best],
          _threshold_between(lower[best], upper[best]))


def _round_down(scores):
  """The nearest float32 that is not above, of float64 scores."""
  below = scores.astype(np.float32)
  return np.where(below > scores, np.nextafter(below, np.float32(0)), below)


def _threshold_between(lower, upper):
  """float32 thresholds of the cuts between float64 scores; see the top."""
  middle = ((np.maximum(lower, 0) + upper) / 2).astype(np.float32)
  inside = (middle > lower) & (middle <= upper)
  return np.where(inside, middle, _round_down(upper))


def _check_min_precision(min_precision, num_labels):
  """Returns None, or the minimum precision per label, [L]."""
  if min_precision is None:
    return None
  array = np.asarray(min_precision, dtype=np.float64)
  if array.shape not in ((), (num_labels,)) or not np.all(
      (array >= 0) & (array <= 1)):
    raise ValueError(
        "min_precision must be one number in 0..1, or one for each of %d labels"
        % num_labels)
  return np.broadcast_to(array, (num_labels,))


def find_global_threshold(labels, probabilities, min_precision=None,
                          default=0.5):
  """Finds the one threshold that maximizes micro-F1.

  F1 at the best cut of the pooled list (Lipton, Elkan and Naryanaswamy 2014,
  "Optimal Thresholding of Classifiers to Maximize F1 Measure").

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    min_precision: float in 0..1 or None; cuts with a lower micro precision are
      not used. If none reaches it, the cut with the highest precision is.
    default: float, the threshold if there are no positives.

  Returns:
    OrderedDict: floats `threshold`, `micro_f1`, `micro_precision`; bools
    `fell_back` (no positive, `default` taken) and `precision_reached`.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = score_curves.check_arrays(labels, probabilities)
  score_curves.check_thresholds(default, 1, np.float64)
  if np.ndim(min_precision):
    raise ValueError("min_precision has shape %s; give one number for the one "
                     "threshold" % (np.shape(min_precision),))
  wanted = _check_min_precision(min_precision, 1)
  best, lowest = None, -1.
  for curve in score_curves.pooled_curves(labels, probabilities):
    if not curve.totals[0]:
      return collections.OrderedDict([
          ("threshold", float(np.float32(default))), ("micro_f1", 0.),
          ("micro_precision", 0.), ("fell_back", True),
          ("precision_reached", wanted is None or not wanted.any())])
    lower = np.append(lowest, curve.score[:-1].astype(np.float64))
    reached, f1, precision, threshold = [
        x[0] for x in _best_cuts(curve, lower, wanted)]
    lowest = float(curve.score[-1])
    # Parts come in ascending order, so the higher cut wins a tie.
    key = (bool(reached), f1 if reached else precision)
    if best is None or key >= best[0]:
      best = key, threshold, f1, precision
  key, threshold, f1, precision = best
  return collections.OrderedDict([
      ("threshold", float(threshold)), ("micro_f1", float(f1)),
      ("micro_precision", float(precision)), ("fell_back", False),
      ("precision_reached", key[0])])


def find_macro_threshold(labels, probabilities, default=0.5):
  """Finds the one threshold for all labels that maximizes macro-F1.

  Every cut between two scores of any label is tried. Labels without positives
  have F1 0 at each of them. Takes about 40 bytes of memory per cell.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    default: float, as in `find_global_threshold`.

  Returns:
    OrderedDict: floats `threshold`, `macro_f1`; bool `fell_back`.

  Raises:
    ValueError: invalid input.
  """
  return _find_mean_threshold("macro_f1", score_curves.label_curves, 1, labels,
                              probabilities, default)


def find_samples_threshold(labels, probabilities, default=0.5):
  """Finds the one threshold that maximizes samples-F1, the mean F1 per text.

  As `find_macro_threshold`, with texts in place of labels.

  Returns:
    OrderedDict: floats `threshold`, `samples_f1`; bool `fell_back`.
  """
  return _find_mean_threshold("samples_f1", score_curves.example_curves, 0,
                              labels, probabilities, default)


def _find_mean_threshold(name, make_curves, axis, labels, probabilities,
                         default):
  """The threshold of the best mean F1 over the rows of some curves."""
  labels, probabilities = score_curves.check_arrays(labels, probabilities)
  score_curves.check_thresholds(default, 1, np.float64)
  lowest, scores, changes = 0.0, [], []
  for _, curve in make_curves(labels, probabilities):
    f1 = 2 * curve.tp / (curve.predicted + curve.totals[curve.row])
    lowest += f1[curve.row_starts].sum()
    # What a row's F1 becomes when the threshold passes a score of its.
    after = np.append(f1[1:], 0.0)
    after[curve.row_starts[1:] - 1] = 0.0
    scores.append(curve.score.astype(np.float64))
    changes.append(after - f1)
  score, place = np.unique(np.concatenate(scores), return_inverse=True)
  passed = np.cumsum(np.bincount(place.ravel(), np.concatenate(changes)))
  mean_f1 = (lowest + np.append(0.0, passed[:-1])) / labels.shape[axis]
  lower = np.append(-1.0, score[:-1])
  mean_f1 = np.where(_round_down(score) > lower, mean_f1, -1)
  if not labels.any():
    return collections.OrderedDict([
        ("threshold", float(np.float32(default))), (name, 0.),
        ("fell_back", True)])
  # Sums of the same numbers in another order differ in their last digits.
  best = np.flatnonzero(mean_f1 >= mean_f1.max() - 1e-12)[-1]
  return collections.OrderedDict([
      ("threshold", float(_threshold_between(lower[best], score[best]))),
      (name, float(mean_f1[best])), ("fell_back", False)])


def _precision_at(labels, probabilities, thresholds):
  """Returns the precision of each label [L], 0 without a prediction."""
  decided = probabilities >= thresholds
  return score_curves.divide((decided & (labels != 0)).sum(axis=0),
                             decided.sum(axis=0))


def find_label_thresholds(labels, probabilities, shrinkage=10.,
                          min_precision=None, label_names=None, default=0.5):
  """Finds a threshold for each label that maximizes its F1.

  The best cut of a label with few positives is mostly chance, so it is shrunk
  towards the global threshold: (n own + s global) / (n + s) with n positives of
  the label and s = `shrinkage`, the posterior mean of a normal mean whose prior
  weighs s observations (Efron and Morris 1975, "Data Analysis Using Stein's
  Estimator and Its Generalizations"). If that would bring a label below its
  minimum precision but its own cut would not, its own cut is kept.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    shrinkage: float, weight of the global threshold, in positives; 0 for none.
    min_precision: None, float in 0..1 or [L]; as in `find_global_threshold`.
    label_names: None or L names, for the two lists in the result.
    default: float, as in `find_global_threshold`.

  Returns:
    OrderedDict: `thresholds` and `own_thresholds` (before shrinkage), float64
    [L]; `global_threshold`, float; `fallback_labels`, names of those without a
    positive, which take it; `precision_not_reached`, names of the others where
    no cut has the minimum precision.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = score_curves.check_arrays(labels, probabilities)
  names = score_curves.check_label_names(label_names, labels.shape[1])
  wanted = _check_min_precision(min_precision, labels.shape[1])
  if not 0 <= shrinkage < np.inf:
    raise ValueError("shrinkage is %s; it must be 0 or more" % shrinkage)
  middle = find_global_threshold(labels, probabilities,
                                 default=default)["threshold"]
  own = np.full(labels.shape[1], middle, dtype=np.float32)
  shrunk = own.copy()
  positives = np.zeros(len(own), dtype=np.int64)
  reached = np.ones(len(own), dtype=bool)
  for block, curve in score_curves.label_curves(labels, probabilities):
    lower = np.append(-1., curve.score[:-1].astype(np.float64))
    lower[curve.row_starts] = -1.
    some = curve.totals > 0
    positives[block] = curve.totals
    reached[block], _, _, cuts = _best_cuts(
        curve, lower, None if wanted is None else wanted[block])
    own[block] = np.where(some, cuts, middle)
    weight = score_curves.divide(curve.totals, curve.totals + shrinkage)
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
  probabilities = score_curves.check_probabilities(probabilities)
  num_labels = probabilities.shape[1]
  thresholds = score_curves.check_thresholds(thresholds, num_labels,
                                             probabilities.dtype)
  if top_k is not None and top_k < 1:
    raise ValueError("top_k is %s; it must be above 0" % top_k)
  decided = probabilities >= thresholds
  for block in score_curves.row_blocks(*probabilities.shape):
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
  """How probabilities become labels: the arguments of `apply_thresholds`.

  `thresholds` may also be `EXPECTED_F1`; see `expected_f1.choose`.
  """

  __slots__ = ()

  def __new__(cls, thresholds=0.5, top_k=None, always_one_label=False):
    return super(DecisionRule, cls).__new__(
        cls, thresholds, top_k, always_one_label)

  def apply(self, probabilities):
    """Returns bool [N, L]: which labels each example has."""
    if self.is_by_text:
      return expected_f1.choose(probabilities, self.top_k,
                                self.always_one_label)
    return apply_thresholds(probabilities, self.thresholds, self.top_k,
                            self.always_one_label)

  @property
  def is_by_text(self):
    """Whether each text's labels are chosen together, without thresholds."""
    return isinstance(self.thresholds, str)

  def threshold_of_each(self, num_labels):
    """float64 [L], the threshold of each label; NaN if there are none."""
    return np.broadcast_to(
        np.asarray(np.nan if self.is_by_text else self.thresholds, np.float64),
        (num_labels,))

  def describe(self):
    """Returns the rule in words, for one line of output."""
    if self.is_by_text:
      words = "the highest expected F1 per text"
    elif np.ndim(self.thresholds) == 0:
      words = "threshold %.4g" % self.thresholds
    else:
      words = "thresholds per label, %.4g to %.4g" % (
          min(self.thresholds), max(self.thresholds))
    if self.top_k is not None:
      words += ", at most %d labels" % self.top_k
    if self.always_one_label:
      words += ", at least one label"
    return words


ORIGINAL_RULE = DecisionRule(0.5)


THRESHOLD_HELP = ("Minimum probability of a label (0 to 1), or expected_f1: "
                  "the labels with the highest expected F1 for each text; "
                  "default: the model's decision rule.")


def parse_threshold(text):
  """A float in 0..1, `EXPECTED_F1`, or None of None, of --threshold.

  Raises:
    ValueError: it is neither.
  """
  if text is None or text == EXPECTED_F1:
    return text
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1:
    raise ValueError("--threshold is %s; it must be from 0 to 1, or %s." % (
        text, EXPECTED_F1))
  return value


ALL = "all"


LABELS = "labels"


# By default, an HTTP response has the probabilities of all labels up to this
# many, otherwise only the highest few.
MAX_ANSWERED = 1000


MANY_ANSWERED = 100


HELP = ("Probabilities to write to JSON lines: all, labels (those of the "
        "predicted labels), or a number N (the N highest).")


def parse(text):
  """Parses the flag: `ALL`, `LABELS` or an int above 0, else ValueError."""
  if text in (ALL, LABELS):
    return text
  if re.match("[0-9]{1,9}$", text) and int(text):
    return int(text)
  raise ValueError("--probabilities is %s; it must be all, labels, or a number "
                   "above 0." % text)


def default_answer(num_labels):
  """Which probabilities a response contains by default."""
  return ALL if num_labels <= MAX_ANSWERED else MANY_ANSWERED


def columns(row, chosen, which):
  """The columns to write, in the order to write them.

  Args:
    row: float `[num_labels]`, a text's probabilities.
    chosen: bool `[num_labels]`, the predicted labels.
    which: what `parse` returned.

  Returns:
    k ints: all in order; or the predicted labels, or the `which` most probable
    ones, most probable first and ties by column.
  """
  if which == ALL:
    return range(len(row))
  if which == LABELS:
    found = np.flatnonzero(chosen)
  elif which >= len(row):
    found = np.arange(len(row))
  else:
    # Linear in the labels; only candidates for the highest are sorted.
    found = np.flatnonzero(row >= np.partition(row, -which)[-which])
  order = found[np.argsort(-row[found], kind="mergesort")]
  return (order if which == LABELS else order[:which]).tolist()
