# SPDX-License-Identifier: Apache-2.0
"""Tests of the labels of the highest expected F1, by brute force."""

import itertools

import numpy as np
import pytest

from multilabel import decisions
from multilabel import expected_f1


RULE = decisions.DecisionRule(decisions.EXPECTED_F1)


def f1(given, true):
  """F1 of sets as 0 and 1, [..., L]; 1 where both are empty."""
  hits = (given * true).sum(-1)
  total = given.sum(-1) + true.sum(-1)
  return np.where(total, 2.0 * hits / np.maximum(total, 1), 1.0)


def expectation_of_all_sets(probabilities):
  """(sets [2 ** L, L], expected F1 [N, 2 ** L]), outcome by outcome."""
  sets = np.array(list(itertools.product(
      [0, 1], repeat=probabilities.shape[1])))
  chance = np.where(sets, probabilities[:, np.newaxis],
                    1 - probabilities[:, np.newaxis]).prod(-1)
  return sets, chance.dot(f1(sets[:, np.newaxis], sets[np.newaxis]).T)


def random_probabilities(num_labels):
  """Spread and skewed ones, ties, 0, 0.5 and 1."""
  rng = np.random.RandomState(num_labels)
  rows = rng.uniform(size=[120, num_labels])
  rows[:40] **= 5
  rows[40:60] **= 0.2
  rows[60:90] = rng.choice([0, 0.25, 0.5, 0.75, 1], [30, num_labels])
  return rows


@pytest.mark.parametrize("num_labels", range(1, 9))
@pytest.mark.parametrize("top_k, always_one_label", [
    (None, False), (None, True), (2, False), (1, True)])
def test_no_set_of_labels_has_a_higher_expectation(
    num_labels, top_k, always_one_label):
  probabilities = random_probabilities(num_labels)
  chosen = RULE._replace(top_k=top_k, always_one_label=always_one_label).apply(
      probabilities)
  sets, expected = expectation_of_all_sets(probabilities)
  size = sets.sum(axis=1)
  allowed = (size >= always_one_label) & (size <= (top_k or num_labels))
  best = expected[:, allowed].max(axis=1)
  column = chosen.dot(1 << np.arange(num_labels)[::-1])
  assert allowed[column].all()
  np.testing.assert_allclose(
      expected[np.arange(len(best)), column], best, rtol=0, atol=1e-12)
  # Of equally good sets none is smaller.
  good = allowed & (expected >= best[:, np.newaxis] - 1e-13)
  assert (chosen.sum(axis=1) <= np.where(good, size, 99).min(axis=1)).all()


def test_of_equal_labels_the_first_are_taken():
  chosen = RULE.apply(np.array([[0.3, 0.9, 0.3, 0.9, 0.9]]))
  assert chosen.tolist() == [[False, True, False, True, True]]
  only = RULE._replace(top_k=1).apply(np.full([1, 4], 0.6))
  assert only.tolist() == [[True, False, False, False]]
  one = RULE._replace(always_one_label=True).apply(np.zeros([1, 3]))
  assert one.tolist() == [[True, False, False]]
  assert RULE.apply(np.zeros([0, 3], np.float32)).shape == (0, 3)


def count_distribution(probabilities, size):
  """P(count = s) for s < size, label by label."""
  found = np.zeros(size)
  found[0] = 1
  for p in probabilities:
    found[1:] = found[1:] * (1 - p) + found[:-1] * p
    found[0] *= 1 - p
  return found


@pytest.mark.parametrize("num_labels, mean", [
    (400, 3), (400, 250), (30000, 6)])
def test_many_labels_are_exact(num_labels, mean):
  """The expectation of each k from the hits and misses, to 1e-9."""
  rng = np.random.RandomState(0)
  ranked = np.minimum(np.sort(rng.dirichlet(
      np.full(num_labels, 0.05 if mean < 100 else 5)) * mean)[::-1], 0.999)
  size = 401 if num_labels == 400 else 120
  found = expected_f1.expectations(ranked[np.newaxis])[0]
  for k in (0, 1, 2, 3, 5, 10, 30, 90):
    hits = count_distribution(ranked[:k], k + 1)
    missed = count_distribution(ranked[k:], size)
    h, m = np.arange(k + 1)[:, np.newaxis], np.arange(size)
    want = np.where(k + h + m, 2.0 * h / np.maximum(k + h + m, 1), 1.0)
    assert abs(found[k] - hits.dot(want).dot(missed)) < 1e-9
  chosen = RULE.apply(ranked[np.newaxis])[0]
  assert chosen.sum() == found.argmax() and chosen[:found.argmax()].all()


def test_it_beats_every_threshold_on_labels_drawn_from_the_probabilities():
  rng = np.random.RandomState(1)
  probabilities = rng.uniform(size=[4000, 10]) ** rng.choice([1, 3, 9],
                                                             [4000, 1])
  true = rng.uniform(size=probabilities.shape) < probabilities
  ours = f1(RULE.apply(probabilities), true).mean()
  cuts = [f1(probabilities >= cut, true).mean()
          for cut in np.linspace(0.02, 0.98, 49)]
  assert ours > max(cuts) + 0.002


@pytest.mark.parametrize("call", [
    lambda: RULE.apply([[0.2, 1.5]]), lambda: RULE.apply([0.2]),
    lambda: RULE._replace(top_k=0).apply([[0.5]])])
def test_invalid_input(call):
  with pytest.raises(ValueError):
    call()


def test_the_rule_in_words():
  assert RULE.describe() == "the highest expected F1 per text"
  assert RULE._replace(top_k=3, always_one_label=True).describe() == (
      "the highest expected F1 per text, at most 3 labels, at least one label")
  assert np.isnan(RULE.threshold_of_each(3)).tolist() == [True] * 3
  assert decisions.parse_threshold("expected_f1") == "expected_f1"
  assert decisions.parse_threshold("0.25") == 0.25
  for text in ("1.01", "nan", "f1", ""):
    with pytest.raises(ValueError, match="0 to 1, or expected_f1"):
      decisions.parse_threshold(text)
