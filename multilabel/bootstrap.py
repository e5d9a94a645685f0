# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals by resampling texts; the comparison of two runs."""

import collections

import numpy as np

from multilabel import metrics
from multilabel import score_curves


# Resampled weights (examples x resamples) held at once by the bootstrap.
_BOOTSTRAP_CELLS = 1 << 24


def _weighted_average_precision(truth, scores, weights):
  """Average precision of one label for many weightings of the examples.

  Args:
    truth: bool [N], at least one true.
    scores: float [N].
    weights: [N, K] int, times that each example was drawn.

  Returns:
    float64 [K], nan where no positive was drawn.
  """
  order = np.argsort(-scores, kind="stable")
  truth, scores = truth[order], scores[order]
  group = np.append(0, np.cumsum(scores[1:] != scores[:-1]))
  hits = np.flatnonzero(truth)
  groups, first_hit = np.unique(group[hits], return_index=True)
  # Groups of examples without positives need no separate sums.
  ends = np.searchsorted(group, groups, side="right")
  starts = np.append(0, ends[:-1])
  predicted = np.cumsum(
      np.add.reduceat(weights[order[:ends[-1]]], starts, axis=0), axis=0)
  positives = np.add.reduceat(weights[order[hits]], first_hit, axis=0)
  tp = np.cumsum(positives, axis=0)
  return metrics._divide_or_nan(
      (positives * score_curves.divide(tp, predicted)).sum(axis=0), tp[-1])


def _resampled_scores(labels, probabilities, thresholds, weights):
  """Returns micro-F1, macro-F1 and mAP, float64 [3, K], for weights [N, K].

  If a label cannot be scored on a resample, its score on the original data is
  used, so all resamples average over the same labels.
  """
  num_examples, num_labels = labels.shape
  weights = np.concatenate(
      [np.ones((num_examples, 1), weights.dtype), weights], axis=1)
  # Sums of up to 2^24 ones are exact in float32.
  exact = np.float32 if num_examples < 1 << 24 else np.float64
  float_weights = weights.astype(exact)
  micro = np.zeros((2, weights.shape[1]))
  macro, ap_sum = np.zeros((2, weights.shape[1]))
  ap_count = 0
  for block in score_curves.row_blocks(num_labels, num_examples):
    truth = labels[:, block] != 0
    decided = probabilities[:, block] >= thresholds[block]
    tp, predicted, actual = [
        x.T.astype(exact).dot(float_weights).astype(np.float64)  # [C, K]
        for x in (truth & decided, decided, truth)]
    micro += [2 * tp.sum(axis=0), (predicted + actual).sum(axis=0)]
    f1 = score_curves.divide(2 * tp, predicted + actual)
    macro += np.where(predicted + actual, f1, f1[:, :1]).sum(axis=0)
    for i in np.flatnonzero(truth.any(axis=0)):
      values = _weighted_average_precision(
          truth[:, i], probabilities[:, block][:, i], weights)
      ap_sum += np.where(np.isnan(values), values[0], values)
      ap_count += 1
  return np.stack([score_curves.divide(*micro), macro / num_labels,
                   metrics._divide_or_nan(ap_sum, ap_count)])[:, 1:]


def _bootstrap(labels, systems, num_resamples, seed):
  """Scores systems on the same resamples.

  Args:
    labels: [N, L].
    systems: list of (probabilities [N, L], thresholds [L]).
    num_resamples: int, K.
    seed: int.

  Returns:
    float64 [systems, 3, 1 + K], the first column on the data itself.
  """
  if num_resamples < 1:
    raise ValueError("num_resamples is %s; give at least 1" % num_resamples)
  num_examples = len(labels)
  rng = np.random.RandomState(seed)
  step = max(1, _BOOTSTRAP_CELLS // max(labels.shape))
  weights = np.ones((num_examples, 1), dtype=np.int32)
  parts, done = [], 0
  while True:
    parts.append([_resampled_scores(labels, probabilities, thresholds, weights)
                  for probabilities, thresholds in systems])
    count = min(step, num_resamples - done)
    if not count:
      return np.concatenate(parts, axis=-1)
    weights = np.empty((num_examples, count), dtype=np.int32)
    for i in range(count):
      weights[:, i] = np.bincount(rng.randint(num_examples, size=num_examples),
                                  minlength=num_examples)
    done += count


_BOOTSTRAPPED = ("micro_f1", "macro_f1", "macro_average_precision")


def _centred(values, value):
  """Moves resampled scores so that their median is the score of the data.

  A text drawn twice ties with itself, which raises average precision: for rare
  labels, this bias exceeds the width of the interval.
  """
  if np.all(np.isnan(values)):
    return values
  return values - (np.nanmedian(values) - value)


def _interval(values, confidence):
  """Returns the percentiles that enclose the middle fraction of the values."""
  if not 0 < confidence < 1:
    raise ValueError("confidence is %s; give a share between 0 and 1" %
                     confidence)
  values = values[~np.isnan(values)]
  if not values.size:
    return float("nan"), float("nan")
  tail = 50 * (1 - confidence)
  low, high = np.percentile(values, [tail, 100 - tail])
  return float(low), float(high)


def bootstrap_intervals(labels, probabilities, thresholds=0.5,
                        num_resamples=1000, seed=0, confidence=0.95):
  """Bootstrap intervals for micro-F1, macro-F1 and mAP.

  Percentile intervals over resamples of the examples with replacement (Efron
  and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13), moved by
  the estimated bias (ch. 10), taken at the median: they contain the value on
  the data. A label without a positive in a resample, or for F1 with neither a
  positive nor a prediction, keeps its score on the data there. Time grows with
  N x L x `num_resamples`.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    thresholds: number or [L].
    num_resamples: int, K.
    seed: int; the same seed gives the same resamples.
    confidence: float between 0 and 1.

  Returns:
    OrderedDict: `micro_f1`, `macro_f1`, `macro_average_precision`, each an
    OrderedDict of the floats `value` (on the data itself), `low`, `high`.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = score_curves.check_arrays(labels, probabilities)
  thresholds = score_curves.check_thresholds(thresholds, labels.shape[1],
                                probabilities.dtype)
  scores = _bootstrap(labels, [(probabilities, thresholds)], num_resamples,
                      seed)[0]
  out = collections.OrderedDict()
  for name, values in zip(_BOOTSTRAPPED, scores):
    low, high = np.clip(_interval(
        _centred(values[1:], values[0]), confidence), 0, 1).tolist()
    out[name] = collections.OrderedDict(
        [("value", float(values[0])), ("low", low), ("high", high)])
  return out


def paired_bootstrap(labels, probabilities_a, probabilities_b,
                     thresholds_a=0.5, thresholds_b=0.5, num_resamples=1000,
                     seed=0, confidence=0.95):
  """Bootstrap intervals for the differences B - A between two predictors.

  Both are scored on the same resamples, and the differences are moved by the
  estimated bias, as in `bootstrap_intervals` (Efron and Tibshirani 1993, ch. 13
  and 16; Berg-Kirkpatrick, Burkett and Klein 2012, "An Empirical
  Investigation of Statistical Significance in NLP"). The p value is twice the
  smaller share of resamples with a difference of at most, or at least, 0; at
  most 1.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities_a: [N, L] in 0..1.
    probabilities_b: [N, L] in 0..1.
    thresholds_a: number or [L].
    thresholds_b: number or [L].
    num_resamples: int, K.
    seed: int; the same seed gives the same resamples.
    confidence: float between 0 and 1.

  Returns:
    OrderedDict: `micro_f1`, `macro_f1`, `macro_average_precision`, each an
    OrderedDict of the floats `a`, `b`, `difference` (on the data itself),
    `low`, `high` (of the difference) and `p_value`; nan when undefined.

  Raises:
    ValueError: invalid input.
  """
  systems = []
  for probabilities, thresholds in [(probabilities_a, thresholds_a),
                                    (probabilities_b, thresholds_b)]:
    labels, probabilities = score_curves.check_arrays(labels, probabilities)
    systems.append((probabilities, score_curves.check_thresholds(
        thresholds, labels.shape[1], probabilities.dtype)))
  scores = _bootstrap(labels, systems, num_resamples, seed)
  out = collections.OrderedDict()
  for name, a, b in zip(_BOOTSTRAPPED, *scores):
    change = _centred((b - a)[1:], (b - a)[0])
    low, high = _interval(change, confidence)
    change = change[~np.isnan(change)]
    p_value = float("nan")
    if change.size:
      p_value = min(1., 2 * min(np.mean(change <= 0), np.mean(change >= 0)))
    out[name] = collections.OrderedDict([
        ("a", float(a[0])), ("b", float(b[0])),
        ("difference", float(b[0] - a[0])), ("low", low), ("high", high),
        ("p_value", float(p_value))])
  return out
