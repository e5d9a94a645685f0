# SPDX-License-Identifier: Apache-2.0
"""Metrics of multi-label classification, in numpy only.

Legend: N examples, L labels, B bins, K resamples, C labels of a block.
`labels` is [N, L] of 0 and 1 (bool, int or float), `probabilities` is [N, L]
in 0..1. A prediction is positive when probability >= threshold, the threshold
rounded to the type of the probabilities (see multilabel_thresholds.py).

Undefined cases. A ratio with denominator 0 (precision without a prediction,
recall and F1 without a positive) is 0, as in scikit-learn with
`zero_division=0`. Average precision of a label without a positive, and ROC AUC
of a label without a positive or without a negative, are nan and excluded from
the macro average, and the labels are listed in the result. An average of
nothing is nan.

Invalid input (shapes that differ, nothing to measure, nan, labels other than
0 and 1, probabilities outside 0..1) raises `ValueError`.

Apart from the input, memory does not grow with N x L: sortable keys of at most
about `score_curves.POOLED_CELLS` cells (4 bytes each for float32) for the micro
averages, and about a hundred megabytes for a block.
"""

import collections

import numpy as np

from multilabel import score_curves
from multilabel.score_curves import check_arrays
from multilabel.score_curves import check_label_names
from multilabel.score_curves import check_labels
from multilabel.score_curves import check_thresholds
from multilabel.score_curves import divide
from multilabel.score_curves import example_curves
from multilabel.score_curves import key_scores
from multilabel.score_curves import label_curves
from multilabel.score_curves import pooled_curves
from multilabel.score_curves import row_blocks
from multilabel.score_curves import sorted_keys


def _mean_defined(values):
  """Returns the mean of all values except nan; nan if there are none."""
  values = values[~np.isnan(values)]
  return float(np.mean(values)) if values.size else float("nan")


def _precision_sums(curve):
  """Returns [rows]: sum over positives of the precision at their score."""
  return np.bincount(
      curve.row, weights=curve.positives * (curve.tp / curve.predicted),
      minlength=len(curve.totals))


def _ordered_pairs(curve):
  """Returns [rows]: pairs with the positive above; a tie counts 1/2."""
  twice = (curve.size - curve.positives) * (2 * curve.tp - curve.positives)
  return np.bincount(curve.row, weights=twice,
                     minlength=len(curve.totals)) / 2


def _divide_or_nan(numerator, denominator):
  return np.where(np.equal(denominator, 0), np.nan,
                  divide(numerator, denominator))


def _f1_triples(tp, predicted, actual):
  """Returns precision, recall and F1 for counts of one shape."""
  return (divide(tp, predicted), divide(tp, actual),
          divide(2 * np.asarray(tp), np.add(predicted, actual)))


def threshold_metrics(labels, probabilities, thresholds=0.5):
  """Metrics of the predictions probability >= threshold.

  Precision tp / (tp + fp), recall tp / (tp + fn), F1 2 tp / (2 tp + fp + fn)
  (van Rijsbergen 1979, "Information Retrieval", ch. 7). micro: of the counts
  summed over labels; macro: mean over labels; weighted: mean over labels
  weighted by their positives; samples: mean over examples (Yang 1999, "An
  Evaluation of Statistical Approaches to Text Categorization"; Tsoumakas,
  Katakis and Vlahavas 2010, "Mining Multi-label Data", sec. 7, also for subset
  accuracy and Hamming loss). `macro_f1` counts a label without a positive as 0,
  `macro_f1_present` leaves it out; `samples_f1` counts an example without true
  or predicted labels as 0, as scikit-learn does, and `samples_f1_present`
  leaves it out. Without any positive, the weighted averages are 0.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    thresholds: number or [L].

  Returns:
    OrderedDict: floats `{micro,macro,weighted,samples}_{precision,recall,f1}`,
    `macro_f1_present`, `samples_f1_present` (nan when no example is left),
    `subset_accuracy`, `hamming_loss`; arrays [L]
    `precision`, `recall`, `f1`, and the counts `tp`, `fp`, `fn`, `tn`,
    `support`; `labels_without_positive`, list of column numbers.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  thresholds = check_thresholds(thresholds, labels.shape[1],
                                probabilities.dtype)
  return _decision_metrics(
      labels, lambda block: probabilities[block] >= thresholds)


def _decision_metrics(labels, decide):
  """`threshold_metrics` of checked labels, and a function from a slice of rows
  to their decisions, bool."""
  num_examples, num_labels = labels.shape
  tp, predicted, actual = np.zeros((3, num_labels), dtype=np.int64)
  samples, exact, present = np.zeros(3), 0, 0
  for block in row_blocks(*labels.shape):
    truth = labels[block] != 0
    decided = decide(block)
    hits = truth & decided
    tp += hits.sum(axis=0)
    predicted += decided.sum(axis=0)
    actual += truth.sum(axis=0)
    samples += [x.sum() for x in _f1_triples(
        hits.sum(axis=1), decided.sum(axis=1), truth.sum(axis=1))]
    exact += int((truth == decided).all(axis=1).sum())
    present += int((truth | decided).any(axis=1).sum())

  each = _f1_triples(tp, predicted, actual)
  micro = _f1_triples(tp.sum(), predicted.sum(), actual.sum())
  fp, fn = predicted - tp, actual - tp
  out = collections.OrderedDict()
  for i, name in enumerate(["precision", "recall", "f1"]):
    out["micro_" + name] = float(micro[i])
    out["macro_" + name] = float(each[i].mean())
    out["weighted_" + name] = float(divide(each[i].dot(actual), actual.sum()))
    out["samples_" + name] = float(samples[i] / num_examples)
  out["macro_f1_present"] = _mean_defined(np.where(actual, each[2], np.nan))
  out["samples_f1_present"] = float(_divide_or_nan(samples[2], present))
  out["subset_accuracy"] = exact / num_examples
  out["hamming_loss"] = int(fp.sum() + fn.sum()) / labels.size
  out["precision"], out["recall"], out["f1"] = each
  out["tp"], out["fp"], out["fn"], out["support"] = tp, fp, fn, actual
  out["tn"] = num_examples - tp - fp - fn
  out["labels_without_positive"] = np.flatnonzero(actual == 0).tolist()
  return out


def ranking_metrics(labels, probabilities):
  """Average precision and ROC AUC: how each label ranks the examples.

  Average precision is the sum over distinct scores of (rise of recall) x
  precision, without interpolation (Manning, Raghavan and Schuetze 2008,
  "Introduction to Information Retrieval", sec. 8.4; the sum of scikit-learn's
  `average_precision_score`). ROC AUC is the probability that a positive scores
  above a negative, a tie counting 1/2 (Hanley and McNeil 1982, "The Meaning and
  Use of the Area under a ROC Curve"). micro: all cells as one list; macro: mean
  over the labels where it is defined.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.

  Returns:
    OrderedDict: floats `micro_average_precision`, `macro_average_precision`,
    `micro_roc_auc`, `macro_roc_auc` (nan when undefined); arrays [L]
    `average_precision` and `roc_auc` (nan where undefined);
    `labels_without_positive` and `labels_without_negative`, column numbers.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  num_examples, num_labels = labels.shape
  precision_sums, pairs, positives = np.zeros((3, num_labels))
  for block, curve in label_curves(labels, probabilities):
    precision_sums[block] = _precision_sums(curve)
    pairs[block] = _ordered_pairs(curve)
    positives[block] = curve.totals
  average_precision = _divide_or_nan(precision_sums, positives)
  roc_auc = _divide_or_nan(pairs, positives * (num_examples - positives))

  pooled_precision, pooled_pairs, total = 0., 0., positives.sum()
  for curve in pooled_curves(labels, probabilities):
    pooled_precision += _precision_sums(curve)[0]
    pooled_pairs += _ordered_pairs(curve)[0]
  return collections.OrderedDict([
      ("micro_average_precision",
       float(_divide_or_nan(pooled_precision, total))),
      ("macro_average_precision", _mean_defined(average_precision)),
      ("micro_roc_auc",
       float(_divide_or_nan(pooled_pairs, total * (labels.size - total)))),
      ("macro_roc_auc", _mean_defined(roc_auc)),
      ("average_precision", average_precision),
      ("roc_auc", roc_auc),
      ("labels_without_positive", np.flatnonzero(positives == 0).tolist()),
      ("labels_without_negative",
       np.flatnonzero(positives == num_examples).tolist()),
  ])


def _hits_at(k, curve):
  """Returns [rows]: expected positives among the k highest cells."""
  taken = np.clip(k - curve.predicted + curve.size, 0, curve.size)
  return np.bincount(curve.row, minlength=len(curve.totals),
                     weights=curve.positives * (taken / curve.size))


def example_ranking_metrics(labels, probabilities, ks=(1, 3, 5)):
  """How each example ranks the labels.

  Label ranking average precision, coverage error and ranking loss as in
  Tsoumakas, Katakis and Vlahavas 2010, "Mining Multi-label Data", sec. 7, and
  in scikit-learn: an example whose labels are all or none positive has average
  precision 1 and ranking loss 0; coverage is 0 without a positive; a tie counts
  against the ranking. precision@k and recall@k (Manning et al. 2008, sec. 8.4)
  divide the positives among the k most probable labels by k (by L where k is
  more) and by the example's positives; if the k-th place is tied, the
  expectation over the orders of the tied labels is used (McSherry and Najork
  2008, "Computing Information Retrieval Performance Measures Efficiently in the
  Presence of Tied Scores"). Without a positive, precision@k is 0 and recall@k
  leaves the example out (nan if none is left).

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    ks: ints above 0.

  Returns:
    OrderedDict: floats `label_ranking_average_precision`, `coverage_error`,
    `ranking_loss`, `precision_at_<k>` and `recall_at_<k>`; int
    `num_examples_without_positive`.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  num_examples, num_labels = labels.shape
  if any(k < 1 for k in ks):
    raise ValueError("k is %s; it must be above 0" % (list(ks),))
  ranked, coverage, loss, with_positive = 0., 0., 0., 0
  precision, recall = np.zeros(len(ks)), np.zeros(len(ks))
  for _, curve in example_curves(labels, probabilities):
    totals = curve.totals
    mixed = (totals > 0) & (totals < num_labels)
    ranked += np.where(mixed, divide(_precision_sums(curve), totals), 1).sum()
    coverage += np.maximum.reduceat(
        np.where(curve.positives > 0, curve.predicted, 0),
        curve.row_starts).sum()
    wrong = np.bincount(
        curve.row, minlength=len(totals),
        weights=((curve.size - curve.positives) *
                 (totals[curve.row] - curve.tp + curve.positives)))
    loss += divide(wrong, totals * (num_labels - totals)).sum()
    with_positive += int(np.count_nonzero(totals))
    for i, k in enumerate(ks):
      k = min(k, num_labels)
      hits = _hits_at(k, curve)
      precision[i] += hits.sum() / k
      recall[i] += divide(hits, totals).sum()
  out = collections.OrderedDict([
      ("label_ranking_average_precision", float(ranked / num_examples)),
      ("coverage_error", float(coverage / num_examples)),
      ("ranking_loss", float(loss / num_examples)),
  ])
  for i, k in enumerate(ks):
    out["precision_at_%d" % k] = float(precision[i] / num_examples)
    out["recall_at_%d" % k] = float(_divide_or_nan(recall[i], with_positive))
  out["num_examples_without_positive"] = num_examples - with_positive
  return out


def _equal_mass_edges(rows, num_bins):
  """Returns the inner quantiles, float64 [R, B - 1], of rows [R, n]."""
  low, high, share = _quantile_places(rows.shape[1], num_bins)
  part = np.partition(rows, np.unique([low, high]), axis=-1)
  base = part[:, low].astype(np.float64)
  return base + (part[:, high] - base) * share


def _quantile_places(size, num_bins):
  """Sorted places around each inner quantile: low, high, weight."""
  places = np.arange(1, num_bins) * (size - 1)
  low = places // num_bins
  return low, np.minimum(low + 1, size - 1), places % num_bins / num_bins


def _pooled_edges(labels, probabilities, num_bins):
  """`_equal_mass_edges` of all cells as one row, float64 [1, B - 1]."""
  if labels.size <= score_curves.POOLED_CELLS:
    return _equal_mass_edges(probabilities.reshape(1, -1), num_bins)
  low, high, share = _quantile_places(labels.size, num_bins)
  places, start = np.stack([low, high]), 0
  values = np.zeros(places.shape, probabilities.dtype)
  for keys in sorted_keys(labels, probabilities):
    here = (places >= start) & (places < start + keys.size)
    values[here] = key_scores(keys[places[here] - start])
    start += keys.size
  base = values[0].astype(np.float64)
  return (base + (values[1] - base) * share)[np.newaxis]


def _bin_totals(labels, probabilities, num_bins, equal_mass, pooled):
  """Returns count, sum of probabilities and positives, float64 [3, L, B]."""
  if equal_mass and pooled:
    edges = _pooled_edges(labels, probabilities, num_bins)
  else:
    edges = np.linspace(0, 1, num_bins + 1)[np.newaxis, 1:-1]
  totals = np.zeros((3,) + (labels.shape[1], num_bins))
  for block in row_blocks(*labels.shape[::-1]):
    scores = probabilities[:, block].T.astype(np.float64, order="C")
    if equal_mass and not pooled:
      edges = _equal_mass_edges(scores, num_bins)
    place = np.zeros(scores.shape, dtype=np.int64)
    for edge in edges.T:
      place += scores > edge[:, np.newaxis]
    place += num_bins * np.arange(len(scores))[:, np.newaxis]
    truth = (labels[:, block].T != 0).astype(np.float64, order="C")
    for i, weights in enumerate([None, scores.ravel(), truth.ravel()]):
      totals[i, block] = np.bincount(
          place.ravel(), weights, minlength=len(scores) * num_bins).reshape(
              len(scores), num_bins)
  return totals


def reliability_curve(labels, probabilities, num_bins=15, equal_mass=False):
  """Points of the reliability diagram.

  (DeGroot and Fienberg 1983, "The Comparison and Evaluation of Forecasters";
  Niculescu-Mizil and Caruana 2005, "Predicting Good Probabilities with
  Supervised Learning".) Bins of equal width are closed above: (0, 1/B] also has
  the zeros. Bins of equal mass are cut at the quantiles j/B (interpolated
  linearly) and closed above, so equal scores share a bin, and bins are empty
  where scores are tied.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    num_bins: int, B.
    equal_mass: bool, bins of equal mass instead of equal width.

  Returns:
    OrderedDict of arrays: `count`, `mean_probability` and `positive_rate`
    [B], over all cells; `label_count`, `label_mean_probability` and
    `label_positive_rate` [L, B]. Means of an empty bin are nan.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  if num_bins < 1:
    raise ValueError("num_bins is %s; give at least 1" % num_bins)
  each = _bin_totals(labels, probabilities, num_bins, equal_mass, pooled=False)
  every = each
  if equal_mass:
    every = _bin_totals(labels, probabilities, num_bins, True, pooled=True)
  out = collections.OrderedDict()
  for prefix, totals in [("", every.sum(axis=1)), ("label_", each)]:
    out[prefix + "count"] = totals[0].astype(np.int64)
    out[prefix + "mean_probability"] = _divide_or_nan(totals[1], totals[0])
    out[prefix + "positive_rate"] = _divide_or_nan(totals[2], totals[0])
  return out


def calibration_metrics(labels, probabilities, num_bins=15):
  """How well the probabilities are calibrated.

  Brier score, mean of (p - y)^2 (Brier 1950, "Verification of Forecasts
  Expressed in Terms of Probability"). Log loss, mean of -log of the probability
  of the truth (Good 1952, "Rational Decisions"), p first clipped to [eps, 1 -
  eps] with eps of the probabilities' own type, as scikit-learn does since 1.3.
  Expected calibration error, sum over bins of (fraction of the cells) x
  |mean p - positive rate| (Naeini, Cooper and Hauskrecht 2015, "Obtaining Well
  Calibrated Probabilities Using Bayesian Binning"; bins of equal mass: Nguyen
  and O'Connor 2015, "Posterior Calibration and Exploratory Analysis"), with the
  bins of `reliability_curve`. All are defined for any labels.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    num_bins: int, B.

  Returns:
    OrderedDict: floats `brier_score`, `log_loss` (mean per cell),
    `ece_equal_width`, `ece_equal_mass`, over all cells; arrays [L]
    `label_brier_score`, `label_log_loss`, `label_ece_equal_width`,
    `label_ece_equal_mass`.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  num_labels = labels.shape[1]
  eps = float(np.finfo(probabilities.dtype).eps)
  brier, log_loss = np.zeros((2, num_labels))
  for block in row_blocks(*labels.shape[::-1]):
    truth = labels[:, block].T != 0
    scores = probabilities[:, block].T.astype(np.float64, order="C")
    brier[block] = np.square(scores - truth).mean(axis=1)
    scores = np.clip(scores, eps, 1 - eps)
    log_loss[block] = -np.log(
        np.where(truth, scores, 1 - scores)).mean(axis=1)
  out = collections.OrderedDict([
      ("brier_score", float(brier.mean())),
      ("log_loss", float(log_loss.mean())),
  ])
  errors = collections.OrderedDict()
  for name, equal_mass in [("equal_width", False), ("equal_mass", True)]:
    curve = reliability_curve(labels, probabilities, num_bins, equal_mass)
    for prefix in ["", "label_"]:
      gap = np.abs(curve[prefix + "mean_probability"] -
                   curve[prefix + "positive_rate"])
      count = curve[prefix + "count"]
      errors[prefix + "ece_" + name] = (
          np.where(count, gap, 0) * count).sum(-1) / count.sum(-1)
    out["ece_" + name] = float(errors.pop("ece_" + name))
  out["label_brier_score"], out["label_log_loss"] = brier, log_loss
  out.update(errors)
  return out


def undefined_labels(labels, label_names=None):
  """Names the labels that an average excludes or counts as 0.

  Args:
    labels: [N, L] of 0 and 1.
    label_names: None (column numbers as text) or L names.

  Returns:
    OrderedDict, key of an average -> list of names: excluded from
    `macro_average_precision` (no positive) and of `macro_roc_auc` (no positive
    or no negative); counted as 0 in `macro_f1` (no positive).

  Raises:
    ValueError: invalid input.
  """
  labels = check_labels(labels)
  names = check_label_names(label_names, labels.shape[1])
  positives = sum(np.count_nonzero(labels[block], axis=0)
                  for block in row_blocks(*labels.shape))
  none = [names[i] for i in np.flatnonzero(positives == 0)]
  one_sided = [names[i] for i in np.flatnonzero(
      (positives == 0) | (positives == len(labels)))]
  return collections.OrderedDict([
      ("macro_average_precision", none),
      ("macro_roc_auc", one_sided),
      ("macro_f1", list(none)),
  ])


def evaluate(labels, probabilities, thresholds=0.5, label_names=None,
             decided=None):
  """Computes the headline scores.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    thresholds: number or [L].
    label_names: None (column numbers as text) or L names.
    decided: bool [N, L] or None: the predicted labels, if not decided by
      thresholds alone.

  Returns:
    OrderedDict of floats: `{micro,macro,weighted,samples}_f1`,
    `samples_f1_present` (of examples with a true or predicted label),
    `{micro,macro}_{precision,recall}`, `subset_accuracy`, `hamming_loss`,
    `{micro,macro}_average_precision` and `{micro,macro}_roc_auc` (nan when
    undefined; `undefined_labels` says which labels the macro ones leave out),
    `f1/<label name>` in label order; and the int `num_examples`.

  Raises:
    ValueError: invalid input.
  """
  labels, probabilities = check_arrays(labels, probabilities)
  names = check_label_names(label_names, labels.shape[1])
  if decided is None:
    decisions = threshold_metrics(labels, probabilities, thresholds)
  elif getattr(decided, "dtype", None) == bool and (
      decided.shape == labels.shape):
    # Unconverted: compared with a threshold they would become float64.
    decisions = _decision_metrics(labels, lambda block: decided[block])
  else:
    decisions = threshold_metrics(labels, decided)
  ranking = ranking_metrics(labels, probabilities)
  out = collections.OrderedDict()
  for average in ["micro", "macro"]:
    for measure in ["precision", "recall", "f1"]:
      key = average + "_" + measure
      out[key] = decisions[key]
  for key in ["weighted_f1", "samples_f1", "samples_f1_present",
              "subset_accuracy", "hamming_loss"]:
    out[key] = decisions[key]
  for average in ["micro", "macro"]:
    for measure in ["average_precision", "roc_auc"]:
      key = average + "_" + measure
      out[key] = ranking[key]
  out["num_examples"] = len(labels)
  for name, f1 in zip(names, decisions["f1"]):
    out["f1/%s" % name] = float(f1)
  return out
