# SPDX-License-Identifier: Apache-2.0
"""Tests of multilabel_metrics: hand-computed cases, loops, scikit-learn."""

import collections
import warnings

import numpy as np
import pytest

from multilabel import bootstrap
from multilabel import metrics
from multilabel import score_curves


NAN = float("nan")


def _random(seed, num_examples, num_labels, rate=0.3, decimals=None,
            dtype=np.float64):
  rng = np.random.RandomState(seed)
  labels = (rng.rand(num_examples, num_labels) < rate).astype(np.int64)
  probabilities = rng.rand(num_examples, num_labels)
  probabilities = (0.7 * probabilities + 0.3 * labels).astype(dtype)
  if decimals is not None:
    probabilities = np.round(probabilities, decimals)
  return labels, probabilities


def _cases():
  cases = {
      "random": _random(0, 83, 6),
      "float32": _random(1, 83, 6, dtype=np.float32),
      "ties": _random(2, 83, 6, decimals=1),
      "one_label": _random(3, 50, 1),
      "one_example": _random(4, 1, 7, rate=0.5),
      "many_labels": _random(5, 9, 400, rate=0.02),
      "no_positives": _random(6, 40, 4, rate=-1),
      "all_positives": _random(7, 40, 4, rate=2),
      "one_score": (_random(8, 40, 4)[0], np.full((40, 4), 0.25)),
      "nothing_predicted": (_random(9, 40, 4)[0],
                            _random(9, 40, 4)[1] * 0.4),
      "zeros_and_ones": (_random(10, 40, 4)[0], _random(11, 40, 4)[0] * 1.),
      "one_cell": (np.array([[1]]), np.array([[0.5]])),
  }
  labels, probabilities = _random(12, 60, 5)
  labels[:, 1], labels[:, 3] = 0, 1
  labels[7], labels[8] = 0, 1
  cases["some_labels_one_sided"] = labels, probabilities
  return cases


CASES = _cases()


@pytest.fixture(params=sorted(CASES))
def case(request):
  return CASES[request.param]


@pytest.fixture
def small_blocks(monkeypatch):
  """Makes every loop over blocks take several turns."""
  monkeypatch.setattr(score_curves, "BLOCK_CELLS", 37)


def _equal(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


@pytest.fixture
def sklearn_metrics():
  module = pytest.importorskip("sklearn.metrics")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield module


# Literal cases, computed by hand.

# Label:      a  b  c
LABELS = [[1, 0, 0],
          [1, 1, 0],
          [0, 1, 0],
          [0, 0, 0]]
PROBABILITIES = [[0.9, 0.2, 0.1],
                 [0.4, 0.8, 0.5],
                 [0.6, 0.7, 0.3],
                 [0.1, 0.2, 0.2]]


def test_threshold_metrics_by_hand():
  # Decided: row 0 a; row 1 b c; row 2 a b; row 3 none.
  out = metrics.threshold_metrics(LABELS, PROBABILITIES, 0.5)
  assert out["tp"].tolist() == [1, 2, 0]
  assert out["fp"].tolist() == [1, 0, 1]
  assert out["fn"].tolist() == [1, 0, 0]
  assert out["tn"].tolist() == [1, 2, 3]
  assert out["support"].tolist() == [2, 2, 0]
  _equal(out["f1"], [0.5, 1, 0])
  _equal(out["micro_precision"], 3 / 5)
  _equal(out["micro_recall"], 3 / 4)
  _equal(out["micro_f1"], 6 / 9)
  _equal(out["macro_precision"], 0.5)
  _equal(out["macro_recall"], 0.5)
  _equal(out["macro_f1"], 0.5)
  _equal(out["macro_f1_present"], 0.75)
  _equal(out["weighted_f1"], 0.75)
  _equal(out["samples_precision"], (1 + 0.5 + 0.5 + 0) / 4)
  _equal(out["samples_recall"], (1 + 0.5 + 1 + 0) / 4)
  _equal(out["samples_f1"], (1 + 0.5 + 2 / 3 + 0) / 4)
  _equal(out["samples_f1_present"], (1 + 0.5 + 2 / 3) / 3)
  _equal(out["subset_accuracy"], 2 / 4)
  _equal(out["hamming_loss"], 3 / 12)
  assert out["labels_without_positive"] == [2]


def test_threshold_a_label():
  out = metrics.threshold_metrics(LABELS, PROBABILITIES, [0.4, 0.75, 1])
  assert out["tp"].tolist() == [2, 1, 0]
  assert out["fp"].tolist() == [1, 0, 0]
  assert out["fn"].tolist() == [0, 1, 0]


def test_threshold_is_rounded_to_the_type_of_the_probabilities():
  # float32(0.7) is below 0.7.
  probabilities = np.array([[0.7]], dtype=np.float32)
  out = metrics.threshold_metrics([[1]], probabilities, 0.7)
  assert out["tp"].tolist() == [1]
  out = metrics.threshold_metrics([[1]], probabilities, [0.7])
  assert out["tp"].tolist() == [1]


def test_ranking_metrics_by_hand():
  out = metrics.ranking_metrics(LABELS, PROBABILITIES)
  # a: + (.9) - (.6) + (.4) - : precisions 1 and 2/3; b: first two; c: none.
  _equal(out["average_precision"], [5 / 6, 1, NAN])
  _equal(out["roc_auc"], [3 / 4, 1, NAN])
  _equal(out["macro_average_precision"], 11 / 12)
  _equal(out["macro_roc_auc"], 7 / 8)
  # All cells: .9+ .8+ .7+ .6- .5- .4+ and six negatives below.
  _equal(out["micro_average_precision"], (1 + 1 + 1 + 4 / 6) / 4)
  _equal(out["micro_roc_auc"], (8 * 4 - 2) / 32)
  assert out["labels_without_positive"] == [2]
  assert out["labels_without_negative"] == []


def test_ties_by_hand():
  out = metrics.ranking_metrics([[1], [0], [1], [0]],
                                [[0.5], [0.5], [0.5], [0.1]])
  _equal(out["average_precision"], [2 / 3])
  _equal(out["roc_auc"], [(2 * 1 + 2 * 0.5) / 4])


def test_minus_zero_ties_with_zero():
  out = metrics.ranking_metrics([[1], [0]], [[-0.0], [0.0]])
  _equal(out["roc_auc"], [0.5])
  _equal(out["micro_roc_auc"], 0.5)


def test_undefined_ranking_metrics_are_nan():
  out = metrics.ranking_metrics([[0, 1]], [[0.5, 0.5]])
  _equal(out["average_precision"], [NAN, 1])
  _equal(out["roc_auc"], [NAN, NAN])
  _equal(out["macro_roc_auc"], NAN)
  _equal(out["micro_roc_auc"], 0.5)
  assert out["labels_without_positive"] == [0]
  assert out["labels_without_negative"] == [1]
  out = metrics.ranking_metrics([[0, 0]], [[0.5, 0.5]])
  _equal(out["micro_average_precision"], NAN)
  _equal(out["macro_average_precision"], NAN)


def test_example_ranking_metrics_by_hand():
  out = metrics.example_ranking_metrics(LABELS, PROBABILITIES)
  # Row 0: a first. Row 1: b first, c second, a third. Row 2: b first.
  _equal(out["label_ranking_average_precision"],
         (1 + (1 + 2 / 3) / 2 + 1 + 1) / 4)
  _equal(out["coverage_error"], (1 + 3 + 1 + 0) / 4)
  _equal(out["ranking_loss"], (0 + 1 / 2 + 0 + 0) / 4)
  _equal(out["precision_at_1"], 3 / 4)
  _equal(out["recall_at_1"], (1 + 1 / 2 + 1) / 3)
  # There are three labels: k = 5 is the same as k = 3.
  for k in [3, 5]:
    _equal(out["precision_at_%d" % k], (1 / 3 + 2 / 3 + 1 / 3 + 0) / 4)
    _equal(out["recall_at_%d" % k], 1)
  assert out["num_examples_without_positive"] == 1


def test_precision_at_k_with_ties_is_the_expectation():
  # One place is left for two tied labels, one of them positive.
  out = metrics.example_ranking_metrics(
      [[0, 1, 0, 0]], [[0.9, 0.5, 0.5, 0.1]], ks=(1, 2, 3))
  _equal([out["precision_at_%d" % k] for k in (1, 2, 3)], [0, 0.25, 1 / 3])
  _equal([out["recall_at_%d" % k] for k in (1, 2, 3)], [0, 0.5, 1])


def test_recall_at_k_without_any_positive_is_nan():
  out = metrics.example_ranking_metrics([[0, 0]], [[0.1, 0.2]], ks=(1,))
  _equal(out["recall_at_1"], NAN)
  _equal(out["precision_at_1"], 0)


def test_calibration_by_hand():
  out = metrics.calibration_metrics([[1, 0], [0, 0]], [[0.8, 0], [0.4, 0.2]],
                                    num_bins=2)
  _equal(out["label_brier_score"], [(0.04 + 0.16) / 2, 0.04 / 2])
  _equal(out["brier_score"], 0.24 / 4)
  _equal(out["label_log_loss"],
         [-(np.log(0.8) + np.log(0.6)) / 2, -np.log(0.8) / 2])
  _equal(out["log_loss"], -(2 * np.log(0.8) + np.log(0.6)) / 4)
  _equal(out["label_ece_equal_width"], [(0.2 + 0.4) / 2, 0.1])
  # Below and at 0.5: 0.4, 0, 0.2 without a positive; above: 0.8 with one.
  _equal(out["ece_equal_width"], 3 / 4 * 0.2 + 1 / 4 * 0.2)
  # The median of all is 0.3: 0 and 0.2 below, 0.4 and 0.8 above.
  _equal(out["ece_equal_mass"], 1 / 2 * 0.1 + 1 / 2 * abs(0.6 - 0.5))


def test_log_loss_of_a_sure_mistake_is_finite():
  out = metrics.calibration_metrics([[1], [0]], [[0.], [1.]])
  _equal(out["log_loss"], -np.log(np.finfo(np.float64).eps))
  out = metrics.calibration_metrics(
      [[1], [0]], np.array([[0.], [1.]], dtype=np.float32))
  _equal(out["log_loss"], -np.log(float(np.finfo(np.float32).eps)))
  _equal(out["brier_score"], 1)


def test_reliability_curve_by_hand():
  labels = [[0], [1], [0], [1]]
  probabilities = [[0.], [0.5], [0.6], [1.]]
  out = metrics.reliability_curve(labels, probabilities, num_bins=4)
  # Closed above: 0.5 is in (0.25, 0.5].
  assert out["count"].tolist() == [1, 1, 1, 1]
  _equal(out["mean_probability"], [0, 0.5, 0.6, 1])
  _equal(out["positive_rate"], [0, 1, 0, 1])
  out = metrics.reliability_curve(labels, probabilities, num_bins=5)
  assert out["count"].tolist() == [1, 0, 2, 0, 1]
  _equal(out["mean_probability"], [0, NAN, 0.55, NAN, 1])
  assert out["label_count"].tolist() == [[1, 0, 2, 0, 1]]


def test_equal_scores_share_a_bin_of_equal_mass():
  out = metrics.reliability_curve([[0], [1], [0], [1]], np.full((4, 1), 0.5),
                                  num_bins=3, equal_mass=True)
  assert sorted(out["count"].tolist()) == [0, 0, 4]
  _equal(np.nansum(out["positive_rate"]), 0.5)


def test_undefined_labels():
  out = metrics.undefined_labels([[0, 1, 0], [0, 1, 1]], ["a=b", "c", "d"])
  assert list(out.items()) == [
      ("macro_average_precision", ["a=b"]), ("macro_roc_auc", ["a=b", "c"]),
      ("macro_f1", ["a=b"])]
  assert metrics.undefined_labels([[0, 1]])["macro_roc_auc"] == ["0", "1"]


def test_evaluate_by_hand():
  out = metrics.evaluate(LABELS, PROBABILITIES, label_names=["a", "b=1", "c"])
  assert list(out) == [
      "micro_precision", "micro_recall", "micro_f1", "macro_precision",
      "macro_recall", "macro_f1", "weighted_f1", "samples_f1",
      "samples_f1_present", "subset_accuracy", "hamming_loss",
      "micro_average_precision", "micro_roc_auc", "macro_average_precision",
      "macro_roc_auc",
      "num_examples", "f1/a", "f1/b=1", "f1/c"]
  assert out["num_examples"] == 4
  assert {type(v) for k, v in out.items() if k != "num_examples"} == {float}
  assert type(out["num_examples"]) is int
  _equal([out["f1/a"], out["f1/b=1"], out["f1/c"]], [0.5, 1, 0])
  _equal(out["micro_f1"], 2 / 3)
  _equal(out["macro_average_precision"], 11 / 12)
  assert "f1/2" in metrics.evaluate(LABELS, PROBABILITIES)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32, float])
def test_any_type_of_label(dtype):
  expected = metrics.evaluate(LABELS, PROBABILITIES)
  actual = metrics.evaluate(np.array(LABELS, dtype), PROBABILITIES)
  assert actual == expected


def test_inputs_are_not_changed():
  labels, probabilities = np.array(LABELS), np.array(PROBABILITIES)
  metrics.evaluate(labels, probabilities)
  metrics.example_ranking_metrics(labels, probabilities)
  metrics.calibration_metrics(labels, probabilities)
  bootstrap.bootstrap_intervals(labels, probabilities, num_resamples=2)
  assert labels.tolist() == LABELS
  assert probabilities.tolist() == PROBABILITIES


# Invalid input.


@pytest.mark.parametrize("labels, probabilities, message", [
    ([[0, 1]], [[0.5]], r"\(1, 2\) and probabilities \(1, 1\)"),
    ([0, 1], [0.5, 0.5], r"labels have shape \(2,\)"),
    (np.zeros((0, 3)), np.zeros((0, 3)), r"labels have shape \(0, 3\)"),
    (np.zeros((3, 0)), np.zeros((3, 0)), r"labels have shape \(3, 0\)"),
    ([[0, 2]], [[0.5, 0.5]], r"labels\[0, 1\] is 2"),
    ([[0, NAN]], [[0.5, 0.5]], r"labels\[0, 1\] is nan"),
    ([["0", "1"]], [[0.5, 0.5]], "labels have type <U1"),
    ([[0, 1], [0, 1]], [[0.5, 0.5], [NAN, 0.5]],
     r"probabilities\[1, 0\] is nan"),
    ([[0, 1]], [[0.5, 1.5]], r"probabilities\[0, 1\] is 1.5"),
    ([[0, 1]], [[-0.5, 0.5]], r"probabilities\[0, 0\] is -0.5"),
    ([[0, 1]], [["a", "b"]], "probabilities have type <U1"),
])
def test_invalid_arrays(labels, probabilities, message):
  for function in [
      metrics.threshold_metrics, metrics.ranking_metrics,
      metrics.example_ranking_metrics, metrics.calibration_metrics,
      metrics.reliability_curve, metrics.evaluate,
      bootstrap.bootstrap_intervals]:
    with pytest.raises(ValueError, match=message) as error:
      function(labels, probabilities)
    assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match=message):
    bootstrap.paired_bootstrap(labels, probabilities, probabilities)


@pytest.mark.parametrize("thresholds, message", [
    ([0.5, 0.5], r"thresholds have shape \(2,\) for 3 labels"),
    (NAN, "a threshold is nan"),
    ([0.5, 1.5, 0.5], "a threshold is 1.5"),
])
def test_invalid_thresholds(thresholds, message):
  for function in [metrics.threshold_metrics, metrics.evaluate,
                   bootstrap.bootstrap_intervals]:
    with pytest.raises(ValueError, match=message):
      function(LABELS, PROBABILITIES, thresholds)


def test_other_invalid_arguments():
  with pytest.raises(ValueError, match="2 label names for 3 labels"):
    metrics.evaluate(LABELS, PROBABILITIES, label_names=["a", "b"])
  with pytest.raises(ValueError, match="'a' appears twice"):
    metrics.evaluate(LABELS, PROBABILITIES, label_names=["a", "b", "a"])
  with pytest.raises(ValueError, match="num_bins is 0"):
    metrics.reliability_curve(LABELS, PROBABILITIES, num_bins=0)
  with pytest.raises(ValueError, match=r"k is \[0\]"):
    metrics.example_ranking_metrics(LABELS, PROBABILITIES, ks=[0])
  with pytest.raises(ValueError, match="num_resamples is 0"):
    bootstrap.bootstrap_intervals(LABELS, PROBABILITIES, num_resamples=0)
  with pytest.raises(ValueError, match="confidence is 95"):
    bootstrap.bootstrap_intervals(LABELS, PROBABILITIES, num_resamples=1,
                                confidence=95)


# Against scikit-learn.


def test_threshold_metrics_equal_scikit_learn(case, sklearn_metrics,
                                              small_blocks):
  labels, probabilities = case
  num_labels = labels.shape[1]
  thresholds = np.linspace(0.3, 0.8, num_labels).astype(probabilities.dtype)
  decided = (probabilities >= thresholds).astype(int)
  out = metrics.threshold_metrics(labels, probabilities, thresholds)
  _equal(out["subset_accuracy"],
         sklearn_metrics.accuracy_score(labels, decided))
  _equal(out["hamming_loss"], sklearn_metrics.hamming_loss(labels, decided))
  names = ["precision", "recall", "f1"]
  for i in range(num_labels):
    counts = sklearn_metrics.confusion_matrix(labels[:, i], decided[:, i],
                                              labels=[0, 1])
    assert [out[k][i] for k in ["tn", "fp", "fn", "tp"]] == list(counts.ravel())
  # scikit-learn reads one column as two classes; a second, empty one helps.
  one = num_labels == 1
  if one:
    labels, decided = [np.hstack([x, 0 * x]) for x in (labels, decided)]
  for average in ["micro", "macro", "weighted", "samples"]:
    expected = sklearn_metrics.precision_recall_fscore_support(
        labels, decided, average=average, zero_division=0)[:3]
    if one and average == "macro":
      expected = 2 * np.array(expected)
    _equal([out[average + "_" + name] for name in names], expected)
  expected = sklearn_metrics.precision_recall_fscore_support(
      labels, decided, average=None, zero_division=0)
  for name, values in zip(names + ["support"], expected):
    _equal(out[name], values[:num_labels])


def test_ranking_metrics_equal_scikit_learn(case, sklearn_metrics,
                                            small_blocks):
  labels, probabilities = case
  out = metrics.ranking_metrics(labels, probabilities)
  columns = [(labels[:, i], probabilities[:, i])
             for i in range(labels.shape[1])]
  columns.append((labels.ravel(), probabilities.ravel()))
  for key, function, undefined in [
      ("average_precision", sklearn_metrics.average_precision_score, {0}),
      ("roc_auc", sklearn_metrics.roc_auc_score, {0, 1})]:
    expected = [NAN if set(y) <= undefined and len(set(y)) == 1
                else function(y, p) for y, p in columns]
    _equal(out[key], expected[:-1])
    _equal(out["micro_" + key], expected[-1])
    defined = [x for x in expected[:-1] if not np.isnan(x)]
    _equal(out["macro_" + key], np.mean(defined) if defined else NAN)
  assert out["labels_without_positive"] == [
      i for i, (y, _) in enumerate(columns[:-1]) if not y.any()]
  assert out["labels_without_negative"] == [
      i for i, (y, _) in enumerate(columns[:-1]) if y.all()]


def test_example_ranking_equals_scikit_learn(case, sklearn_metrics,
                                             small_blocks):
  labels, probabilities = case
  if labels.shape[1] == 1:
    pytest.skip("scikit-learn does not take one column")
  out = metrics.example_ranking_metrics(labels, probabilities)
  _equal(out["label_ranking_average_precision"],
         sklearn_metrics.label_ranking_average_precision_score(
             labels, probabilities))
  _equal(out["coverage_error"],
         sklearn_metrics.coverage_error(labels, probabilities))
  _equal(out["ranking_loss"],
         sklearn_metrics.label_ranking_loss(labels, probabilities))


def test_one_label_ranks_nothing():
  out = metrics.example_ranking_metrics(*CASES["one_label"])
  positives = CASES["one_label"][0].mean()
  assert out["label_ranking_average_precision"] == 1
  assert out["ranking_loss"] == 0
  _equal(out["coverage_error"], positives)
  _equal(out["precision_at_3"], positives)
  assert out["recall_at_1"] == 1


def test_belief_equals_scikit_learn(case, sklearn_metrics, small_blocks):
  labels, probabilities = case
  # scikit-learn's versions differ in how they clip 0 and 1.
  probabilities = np.clip(probabilities, 0.001, 0.999)
  out = metrics.calibration_metrics(labels, probabilities)
  # Some versions of scikit-learn sum in float32.
  exact = probabilities.astype(np.float64)
  each = [(labels[:, i], exact[:, i]) for i in range(labels.shape[1])]
  each.append((labels.ravel(), exact.ravel()))
  brier = [sklearn_metrics.brier_score_loss(y, p, pos_label=1)
           for y, p in each]
  log_loss = [sklearn_metrics.log_loss(y, p, labels=[0, 1]) for y, p in each]
  _equal(out["label_brier_score"], brier[:-1])
  _equal(out["brier_score"], brier[-1])
  _equal(out["label_log_loss"], log_loss[:-1])
  _equal(out["log_loss"], log_loss[-1])


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_reliability_equals_scikit_learn(strategy, small_blocks):
  calibration = pytest.importorskip("sklearn.calibration")
  labels, probabilities = _random(20, 300, 3)
  out = metrics.reliability_curve(labels, probabilities, 15,
                                  strategy == "quantile")
  for i in range(4):
    y, p = labels.ravel(), probabilities.ravel()
    x, z = out["mean_probability"], out["positive_rate"]
    if i < 3:
      y, p = labels[:, i], probabilities[:, i]
      x, z = out["label_mean_probability"][i], out["label_positive_rate"][i]
    rate, mean = calibration.calibration_curve(y, p, n_bins=15,
                                               strategy=strategy)
    _equal(x[~np.isnan(x)], mean)
    _equal(z[~np.isnan(z)], rate)


# Against loops written from the definitions.


def _ece(labels, probabilities, edges):
  total = 0.
  for low, high in zip(np.append(-1, edges), np.append(edges, 2)):
    inside = (probabilities > low) & (probabilities <= high)
    if inside.any():
      total += inside.mean() * abs(
          probabilities[inside].mean() - labels[inside].mean())
  return total


def _quantiles(values, num_bins):
  values, n = np.sort(values), len(values) - 1
  out = []
  for j in range(1, num_bins):
    low, rest = divmod(j * n, num_bins)
    high = values[min(low + 1, n)]
    out.append(values[low] + (high - values[low]) * (rest / num_bins))
  return np.array(out)


def test_expected_calibration_error_equals_loop(case, small_blocks):
  labels, probabilities = case[0], case[1].astype(np.float64)
  out = metrics.calibration_metrics(labels, probabilities)
  width = np.linspace(0, 1, 16)[1:-1]
  y, p = labels.ravel(), probabilities.ravel()
  _equal(out["ece_equal_width"], _ece(y, p, width))
  _equal(out["ece_equal_mass"], _ece(y, p, _quantiles(p, 15)))
  _equal(out["label_ece_equal_width"],
         [_ece(y, p, width) for y, p in zip(labels.T, probabilities.T)])
  _equal(out["label_ece_equal_mass"],
         [_ece(y, p, _quantiles(p, 15))
          for y, p in zip(labels.T, probabilities.T)])


def test_precision_at_k_equals_loop():
  labels, probabilities = _random(30, 40, 8)
  out = metrics.example_ranking_metrics(labels, probabilities)
  for k in [1, 3, 5]:
    hits = np.array([labels[i, np.argsort(-probabilities[i])[:k]].sum()
                     for i in range(len(labels))])
    some = labels.any(axis=1)
    _equal(out["precision_at_%d" % k], np.mean(hits / k))
    _equal(out["recall_at_%d" % k],
           np.mean(hits[some] / labels[some].sum(axis=1)))


# Bootstrap.


@pytest.mark.parametrize("name", [
    "random", "ties", "float32", "some_labels_one_sided", "one_label",
    "no_positives"])
def test_bootstrap_equals_scoring_the_drawn_rows(name, monkeypatch):
  labels, probabilities = CASES[name]
  # Three resamples at once, to go through the loop several times.
  monkeypatch.setattr(bootstrap, "_BOOTSTRAP_CELLS", 3 * len(labels))
  out = bootstrap.bootstrap_intervals(labels, probabilities, 0.4,
                                    num_resamples=10, seed=5, confidence=0.8)
  rng = np.random.RandomState(5)
  whole = metrics.evaluate(labels, probabilities, 0.4)
  whole_f1 = metrics.threshold_metrics(labels, probabilities, 0.4)["f1"]
  whole_ap = metrics.ranking_metrics(labels,
                                     probabilities)["average_precision"]
  scores = collections.defaultdict(list)
  for _ in range(10):
    rows = rng.randint(len(labels), size=len(labels))
    cut = metrics.threshold_metrics(labels[rows], probabilities[rows], 0.4)
    ap = metrics.ranking_metrics(labels[rows],
                                 probabilities[rows])["average_precision"]
    is_empty = cut["tp"] + cut["fp"] + cut["fn"] == 0
    scores["micro_f1"].append(cut["micro_f1"])
    scores["macro_f1"].append(
        np.mean(np.where(is_empty, whole_f1, cut["f1"])))
    ap = np.where(np.isnan(ap), whole_ap, ap)
    scores["macro_average_precision"].append(
        np.mean(ap[~np.isnan(ap)]) if np.isfinite(ap).any() else np.nan)
  for key, values in scores.items():
    _equal(out[key]["value"], whole[key])
    _equal([out[key]["low"], out[key]["high"]],
           np.clip(np.percentile(values, [10, 90]) - np.median(values) +
                   whole[key], 0, 1))


def test_intervals_of_rare_labels_contain_their_scores():
  """One positive per label: a third of the resamples have none of it."""
  rng = np.random.RandomState(3)
  for _ in range(20):
    labels = np.zeros((20, 60))
    labels[rng.randint(20, size=60), np.arange(60)] = 1
    for value in bootstrap.bootstrap_intervals(
        labels, rng.rand(20, 60), 0.7, num_resamples=60).values():
      assert value["low"] <= value["value"] <= value["high"]
      assert value["low"] < value["high"]
    # All right on the data is all right in every resample.
    for value in bootstrap.bootstrap_intervals(
        labels, labels, num_resamples=30).values():
      assert (value["low"], value["value"], value["high"]) == (1, 1, 1)


def test_bootstrap_is_seeded():
  labels, probabilities = CASES["random"]
  one, two, other = [
      bootstrap.bootstrap_intervals(labels, probabilities, num_resamples=20,
                                  seed=seed) for seed in (1, 1, 2)]
  assert one == two
  assert one["micro_f1"]["low"] != other["micro_f1"]["low"]
  for value in one.values():
    assert value["low"] < value["value"] < value["high"]


def test_interval_covers_the_truth():
  # F1 of labels drawn with precision 0.5 and recall 1 is 2/3.
  rng = np.random.RandomState(0)
  covered = 0
  for seed in range(60):
    labels = rng.randint(2, size=(100, 1))
    out = bootstrap.bootstrap_intervals(labels, np.ones((100, 1)),
                                      num_resamples=100, seed=seed)["micro_f1"]
    covered += out["low"] <= 2 / 3 <= out["high"]
  assert covered >= 50


def test_paired_bootstrap():
  labels, good = _random(40, 200, 4)
  bad = np.random.RandomState(41).rand(200, 4)
  out = bootstrap.paired_bootstrap(labels, bad, good, 0.5, 0.6,
                                 num_resamples=50)
  for key, value in out.items():
    _equal(value["a"], metrics.evaluate(labels, bad, 0.5)[key])
    _equal(value["b"], metrics.evaluate(labels, good, 0.6)[key])
    _equal(value["difference"], value["b"] - value["a"])
    assert 0 < value["low"] < value["difference"] < value["high"]
    assert value["p_value"] == 0
  turned = bootstrap.paired_bootstrap(labels, good, bad, 0.6, 0.5,
                                    num_resamples=50)
  for key, value in turned.items():
    _equal([value["low"], value["high"]], [-out[key]["high"],
                                           -out[key]["low"]])


def test_paired_bootstrap_of_the_same_is_no_difference():
  labels, probabilities = CASES["random"]
  out = bootstrap.paired_bootstrap(labels, probabilities, probabilities,
                                 num_resamples=10)
  for value in out.values():
    assert value["difference"] == value["low"] == value["high"] == 0
    assert value["p_value"] == 1


def test_paired_bootstrap_without_positive():
  out = bootstrap.paired_bootstrap([[0], [0]], [[0.1], [0.2]], [[0.3], [0.1]],
                                 num_resamples=5)
  assert np.isnan(out["macro_average_precision"]["p_value"])
  assert np.isnan(out["macro_average_precision"]["low"])
  assert out["micro_f1"]["difference"] == 0


def test_many_examples_are_exact():
  # Several blocks of the real size, and scores that span them.
  rng = np.random.RandomState(0)
  probabilities = np.round(rng.rand(300000, 8), 3).astype(np.float32)
  labels = rng.rand(300000, 8) < probabilities
  out = metrics.ranking_metrics(labels, probabilities)
  positives = np.bincount(np.rint(probabilities[labels] * 1000).astype(int),
                          minlength=1001)[::-1]
  every = np.bincount(np.rint(probabilities.ravel() * 1000).astype(int),
                      minlength=1001)[::-1]
  tp, predicted = np.cumsum(positives), np.cumsum(every)
  _equal(out["micro_average_precision"],
         np.sum(positives * tp / predicted) / tp[-1])
  below = (tp[-1] - tp) + positives / 2
  _equal(1 - out["micro_roc_auc"], 1 - np.sum(
      (every - positives) * (tp[-1] - below)) / (
          tp[-1] * (predicted[-1] - tp[-1])))
