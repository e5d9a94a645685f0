# SPDX-License-Identifier: Apache-2.0
"""Tests of multilabel_thresholds: brute force, hand-computed cases."""

import json

import numpy as np
import pytest

from multilabel import decisions
from multilabel import score_curves


NAN = float("nan")


def _random(seed, num_examples=40, num_labels=5, decimals=None,
            dtype=np.float32):
  rng = np.random.RandomState(seed)
  labels = (rng.rand(num_examples, num_labels) < 0.3).astype(np.int8)
  probabilities = 0.6 * rng.rand(num_examples, num_labels) + 0.4 * labels
  if decimals is not None:
    probabilities = np.round(probabilities, decimals)
  return labels, probabilities.astype(dtype)


CASES = {
    "float32": _random(0),
    "float64": _random(1, dtype=np.float64),
    "ties": _random(2, decimals=1),
    "one_label": _random(3, num_labels=1),
    "one_example": (np.array([[1, 0, 1]]), np.array([[0.2, 0.9, 0.4]])),
    "zeros_and_ones": (np.array([[1, 0], [0, 1], [1, 1]]),
                       np.array([[1., 0.], [0., 0.], [1., 1.]])),
    "all_positive": (np.ones((4, 2), int), np.array(_random(4, 4, 2)[1])),
    "one_score": (_random(5)[0], np.full((40, 5), 0.25)),
}


@pytest.fixture(params=sorted(CASES))
def case(request):
  return CASES[request.param]


@pytest.fixture(params=[7, 1 << 20])
def blocks(request, monkeypatch):
  monkeypatch.setattr(score_curves, "BLOCK_CELLS", request.param)


def _scores_at(labels, probabilities, cut):
  decided = np.asarray(probabilities) >= np.asarray(cut)
  tp = np.sum(decided & (np.asarray(labels) == 1))
  f1 = 2 * tp / (decided.sum() + np.sum(labels))
  return f1, tp / max(1, decided.sum())


def _best_by_brute_force(labels, probabilities, min_precision=0.):
  """Returns (best F1, decisions) over all cuts; highest cut of the best."""
  best = None
  for cut in np.unique(probabilities):
    f1, precision = _scores_at(labels, probabilities, cut)
    if precision >= min_precision and (best is None or f1 >= best[0]):
      best = f1, probabilities >= cut
  return best


def test_global_threshold_equals_brute_force(case, blocks):
  labels, probabilities = case
  out = decisions.find_global_threshold(labels, probabilities)
  f1, decided = _best_by_brute_force(labels, probabilities)
  cut = probabilities.dtype.type(out["threshold"])
  np.testing.assert_array_equal(probabilities >= cut, decided)
  assert out["micro_f1"] == f1
  assert out["micro_precision"] == _scores_at(labels, probabilities, cut)[1]
  assert out["fell_back"] is False
  assert out["precision_reached"] is True


def test_macro_threshold_equals_brute_force(case, blocks):
  labels, probabilities = case
  scores = []
  for cut in np.unique(probabilities):
    found = [_scores_at(labels[:, [column]], probabilities[:, [column]], cut)[0]
             if labels[:, column].any() else 0.0
             for column in range(labels.shape[1])]
    scores.append((round(np.mean(found), 12), cut))
  best, cut = max(scores)  # of equal ones the highest
  result = decisions.find_macro_threshold(labels, probabilities)
  assert result["macro_f1"] == pytest.approx(best, abs=1e-12)
  assert not result["fell_back"]
  np.testing.assert_array_equal(decisions.apply_thresholds(
      probabilities, result["threshold"]), probabilities >= cut)


def test_samples_threshold_equals_brute_force(case, blocks):
  labels, probabilities = case
  scores = []
  for cut in np.unique(probabilities):
    decided = probabilities >= cut
    total = decided.sum(axis=1) + labels.sum(axis=1)
    found = 2.0 * (decided & (labels != 0)).sum(axis=1) / np.maximum(total, 1)
    scores.append((round(found.mean(), 12), cut))
  best, cut = max(scores)  # of equal ones the highest
  result = decisions.find_samples_threshold(labels, probabilities)
  assert result["samples_f1"] == pytest.approx(best, abs=1e-12)
  np.testing.assert_array_equal(decisions.apply_thresholds(
      probabilities, result["threshold"]), probabilities >= cut)


def test_macro_threshold_by_hand():
  """Micro-F1 is best at 0.6, macro-F1 at 0.3, where the rare label comes in."""
  labels = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 0], [0, 0]])
  probabilities = np.array([[.9, .1], [.8, .1], [.7, .1], [.4, .35], [.36, .1],
                            [.38, .1]], np.float32)
  assert decisions.find_global_threshold(
      labels, probabilities)["threshold"] == pytest.approx(0.55)
  found = decisions.find_macro_threshold(labels, probabilities)
  # Below 0.35: F1 of 6 / (6 + 3) and 1.
  assert found["threshold"] == pytest.approx(0.225)
  assert found["macro_f1"] == pytest.approx((6 / 9 + 1) / 2)


def test_macro_threshold_without_any_positive():
  found = decisions.find_macro_threshold(np.zeros([3, 2]), np.full([3, 2], .4),
                                         default=0.7)
  assert found["fell_back"] and found["threshold"] == pytest.approx(0.7)


def test_macro_threshold_of_float64_scores_no_float32_separates():
  one = 0.5 + 2.0 ** -40
  labels, probabilities = np.array([[1], [0]]), np.array([[one], [0.5]])
  found = decisions.find_macro_threshold(labels, probabilities)
  assert found["macro_f1"] == pytest.approx(2 / 3.0)


def test_label_thresholds_equal_brute_force(case, blocks):
  labels, probabilities = case
  out = decisions.find_label_thresholds(labels, probabilities, shrinkage=0)
  decided = decisions.apply_thresholds(probabilities, out["thresholds"])
  for i in range(labels.shape[1]):
    if labels[:, i].any():
      expected = _best_by_brute_force(labels[:, i], probabilities[:, i])[1]
      np.testing.assert_array_equal(decided[:, i], expected)
    else:
      assert out["thresholds"][i] == out["global_threshold"]


@pytest.mark.parametrize("seed", range(5))
def test_min_precision_equals_brute_force(seed, blocks):
  labels, probabilities = _random(seed, decimals=2)
  out = decisions.find_global_threshold(labels, probabilities, 0.85)
  f1, decided = _best_by_brute_force(labels, probabilities, 0.85)
  assert out["micro_f1"] == f1
  assert out["micro_precision"] >= 0.85
  np.testing.assert_array_equal(
      probabilities >= np.float32(out["threshold"]), decided)
  wanted = np.linspace(0.5, 1, 5)
  out = decisions.find_label_thresholds(
      labels, probabilities, shrinkage=0, min_precision=wanted)
  decided = decisions.apply_thresholds(probabilities, out["thresholds"])
  for i in range(5):
    best = _best_by_brute_force(labels[:, i], probabilities[:, i], wanted[i])
    assert (str(i) in out["precision_not_reached"]) == (best is None)
    if best:
      np.testing.assert_array_equal(decided[:, i], best[1])


def test_midpoint_and_draw():
  labels = [[1], [0], [1], [0], [0], [0]]
  probabilities = [[0.75], [0.5], [0.25], [0.2], [0.1], [0.]]
  # Cutting above 0.5 and above 0.2: F1 2/3 against 4/5.
  out = decisions.find_global_threshold(labels, probabilities)
  assert out["threshold"] == float(np.float32((0.25 + 0.2) / 2))
  assert out["micro_f1"] == 0.8
  # 1/1 and 2/4 positives found: F1 2/3 both, the higher cut is taken.
  out = decisions.find_global_threshold([[1], [0], [0], [1]],
                                         [[0.75], [0.5], [0.4], [0.25]])
  assert out["threshold"] == 0.625


def test_lowest_cut_lies_between_zero_and_the_lowest_score():
  assert decisions.find_global_threshold(
      [[1, 1]], [[0.5, 0.75]])["threshold"] == 0.25
  assert decisions.find_global_threshold(
      [[1, 1]], [[0., 0.75]])["threshold"] == 0


@pytest.mark.parametrize("below_one", [True, False])
def test_neighbours_in_float32_are_told_apart(below_one):
  if below_one:
    high = np.float32(1)
    low = np.nextafter(high, np.float32(0))
  else:
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
  probabilities = np.array([[low], [high]], dtype=np.float32)
  for kind in [np.float32, np.float64]:
    out = decisions.find_global_threshold([[0], [1]],
                                           probabilities.astype(kind))
    assert out["threshold"] == float(high)
    assert out["micro_f1"] == 1


def test_float64_scores_no_float32_separates():
  # The three upper scores round to the same float32 number, 0.5.
  probabilities = np.array([[0.1], [0.5], [0.5 + 1e-12], [0.5 + 2e-12]])
  labels = [[0], [0], [0], [1]]
  out = decisions.find_global_threshold(labels, probabilities)
  assert out["threshold"] == float(np.float32(0.3))
  assert out["micro_f1"] == 0.5
  out = decisions.find_label_thresholds(labels, probabilities, shrinkage=0)
  assert out["thresholds"].tolist() == [float(np.float32(0.3))]


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_survive_json_and_float32(seed):
  rng = np.random.RandomState(seed)
  # Scores a few float32 steps apart, so that careless rounding moves some.
  probabilities = (np.float32(0.9) + np.float32(2e-7) * rng.randint(
      5, size=(30, 3))).astype(np.float32)
  labels = rng.randint(2, size=(30, 3))
  out = decisions.find_label_thresholds(labels, probabilities)
  stored = json.loads(json.dumps(out["thresholds"].tolist()))
  short = json.loads(json.dumps(
      [float(str(np.float32(t))) for t in out["thresholds"]]))
  for read in [stored, np.array(stored, np.float32), short]:
    for kind in [np.float32, np.float64]:
      if read is short and kind is np.float64:
        continue
      np.testing.assert_array_equal(
          decisions.apply_thresholds(probabilities.astype(kind), read),
          probabilities >= out["thresholds"].astype(np.float32))


def test_shrinkage_by_hand():
  # Label 0: one positive, own cut (0.6 + 0.8) / 2. Global: all above 0.3.
  labels = [[0, 1], [1, 1], [0, 1], [0, 1]]
  probabilities = np.array([[0.6, 0.7], [0.8, 0.9], [0.2, 0.65], [0.1, 0.4]])
  middle = decisions.find_global_threshold(labels, probabilities)["threshold"]
  assert middle == pytest.approx(0.3)
  out = decisions.find_label_thresholds(labels, probabilities, shrinkage=3)
  assert out["global_threshold"] == middle
  assert out["own_thresholds"] == pytest.approx([0.7, 0.2])
  assert out["thresholds"] == pytest.approx(
      [(1 * 0.7 + 3 * 0.3) / 4, (4 * 0.2 + 3 * 0.3) / 7])
  huge = decisions.find_label_thresholds(labels, probabilities, 1e12)
  assert huge["thresholds"] == pytest.approx([0.3, 0.3])
  # Shrunk to 0.4, label 0 would take the negative at 0.6 as well.
  out = decisions.find_label_thresholds(labels, probabilities, shrinkage=3,
                                         min_precision=0.9)
  assert out["thresholds"] == pytest.approx([0.7, (4 * 0.2 + 3 * 0.3) / 7])


def test_labels_without_positive_fall_back():
  labels = [[1, 0], [0, 0], [1, 0]]
  probabilities = [[0.8, 0.9], [0.2, 0.1], [0.6, 0.3]]
  out = decisions.find_label_thresholds(labels, probabilities,
                                         label_names=["seen", "un=seen"])
  assert out["fallback_labels"] == ["un=seen"]
  assert out["thresholds"][1] == out["global_threshold"]
  assert out["precision_not_reached"] == []


def test_no_positive_at_all_takes_the_default():
  out = decisions.find_global_threshold([[0, 0]], [[0.2, 0.3]], default=0.25)
  assert out["threshold"] == 0.25
  assert out["fell_back"] is True
  out = decisions.find_label_thresholds([[0, 0]], [[0.2, 0.3]])
  assert out["thresholds"].tolist() == [0.5, 0.5]
  assert out["fallback_labels"] == ["0", "1"]


def test_precision_that_no_cut_reaches():
  labels = [[0], [1], [0], [1], [1]]
  probabilities = [[0.9], [0.7], [0.5], [0.3], [0.2]]
  # Precisions from the top: 0, 1/2, 1/3, 2/4, 3/5.
  out = decisions.find_global_threshold(labels, probabilities, 0.8)
  assert out["precision_reached"] is False
  assert out["micro_precision"] == 0.6
  assert out["threshold"] == float(np.float32(0.1))
  out = decisions.find_label_thresholds(labels, probabilities, 0, 0.8, ["x"])
  assert out["precision_not_reached"] == ["x"]
  assert out["thresholds"].tolist() == [float(np.float32(0.1))]


def test_apply_thresholds_by_hand():
  probabilities = [[0.9, 0.5, 0.7], [0.1, 0.3, 0.2], [0.6, 0.6, 0.6]]
  def apply(*args, **kwargs):
    return decisions.apply_thresholds(
        probabilities, *args, **kwargs).astype(int).tolist()
  assert apply(0.5) == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
  assert apply([0.95, 0.5, 0.7]) == [[0, 1, 1], [0, 0, 0], [0, 1, 0]]
  assert apply(0.5, top_k=2) == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]
  assert apply(0.5, top_k=3) == apply(0.5)
  # Only labels that pass their threshold are counted.
  assert apply([0.95, 0.5, 0.7], top_k=1) == [
      [0, 0, 1], [0, 0, 0], [0, 1, 0]]
  assert apply(0.5, top_k=1, always_one_label=True) == [
      [1, 0, 0], [0, 1, 0], [1, 0, 0]]
  assert apply(1, always_one_label=True) == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_apply_thresholds_to_no_example():
  out = decisions.apply_thresholds(np.zeros((0, 3)), 0.5, 1, True)
  assert out.shape == (0, 3)
  assert out.dtype == bool


def test_apply_thresholds_in_blocks(blocks):
  _, probabilities = _random(9, 60, 6)
  out = decisions.apply_thresholds(probabilities, 0.5, top_k=2,
                                    always_one_label=True)
  for row, decided in zip(probabilities, out):
    order = [i for i in np.argsort(-row) if row[i] >= 0.5][:2]
    assert sorted(order or [np.argmax(row)]) == np.flatnonzero(
        decided).tolist()


@pytest.mark.parametrize("arguments, message", [
    (dict(shrinkage=-1), "shrinkage is -1"),
    (dict(shrinkage=NAN), "shrinkage is nan"),
    (dict(min_precision=1.5), "min_precision must be one number in 0..1"),
    (dict(min_precision=[0.5]), "each of 2 labels"),
    (dict(label_names=["a"]), "1 label names for 2 labels"),
    (dict(default=2), "a threshold is 2"),
])
def test_invalid_arguments(arguments, message):
  with pytest.raises(ValueError, match=message) as error:
    decisions.find_label_thresholds([[0, 1]], [[0.5, 0.5]], **arguments)
  assert "\n" not in str(error.value)


def test_invalid_arrays():
  for function in [decisions.find_global_threshold,
                   decisions.find_label_thresholds]:
    with pytest.raises(ValueError, match=r"labels\[0, 0\] is 3"):
      function([[3]], [[0.5]])
    with pytest.raises(ValueError, match=r"probabilities\[0, 0\] is nan"):
      function([[1]], [[NAN]])
    with pytest.raises(ValueError, match="labels have shape"):
      function([[1]], [[0.5, 0.5]])
  with pytest.raises(ValueError, match=r"min_precision has shape \(1,\)"):
    decisions.find_global_threshold([[1]], [[0.5]], [0.5])


def test_invalid_arguments_of_apply():
  for arguments, message in [
      (([[0.5, 2]], 0.5), r"probabilities\[0, 1\] is 2.0"),
      (([0.5], 0.5), r"probabilities have shape \(1,\)"),
      ((np.zeros((2, 0)), 0.5), r"probabilities have shape \(2, 0\)"),
      (([[0.5, 0.5]], [0.5]), r"thresholds have shape \(1,\) for 2 labels"),
      (([[0.5, 0.5]], 0.5, 0), "top_k is 0")]:
    with pytest.raises(ValueError, match=message):
      decisions.apply_thresholds(*arguments)
