# SPDX-License-Identifier: Apache-2.0
"""The labels of a text that maximise its expected F1, in numpy alone.

Legend: N texts, L labels, p_i probability of the i-th most probable label, S
number of true labels, S_i number of those other than i, k labels given.

F1 of a text is 2 hits / (given + true), and 1 where both are none (Dembczynski
et al. 2011, "An Exact Algorithm for F-Measure Maximization"). Its expectation
is taken over the true labels, which are independent of each other. Then the
best k labels are the k most probable ones (Lewis 1995, "Evaluating and
Optimizing Autonomous Text Classification Systems"), and their expected F1 is

  2 sum over i <= k of p_i sum over s of P(S_i = s) / (k + 1 + s)

and P(S = 0) for k = 0. All k together take O(L M) steps, M the most true labels
that matter: more than M have a probability below `_LEFT_OUT`. This is at most
the O(L^2) of Ye et al. 2012, "Optimizing F-Measures: A Tale of Two Approaches".
"""

import math

import numpy as np

from multilabel import score_curves


# The probability, of all outcomes together, that may be left out.
_LEFT_OUT = 1e-14

# Expectations that differ by less are the same, and fewer labels are given.
_SAME = 1e-12


def choose(probabilities, top_k=None, always_one_label=False):
  """Chooses the labels of each text.

  Args:
    probabilities: [N, L] in 0..1; N may be 0.
    top_k: None, or int above 0: the best of the sets with at most so many
      labels is taken.
    always_one_label: bool, the best of the sets with at least one label is
      taken.

  Returns:
    bool array [N, L]. Of equally good sets the smallest is taken, and of
    equally probable labels the first columns.

  Raises:
    ValueError: invalid input.
  """
  probabilities = score_curves.check_probabilities(probabilities)
  num_labels = probabilities.shape[1]
  if top_k is not None and top_k < 1:
    raise ValueError("top_k is %s; it must be above 0" % top_k)
  least, most = int(always_one_label), min(top_k or num_labels, num_labels)
  decided = np.zeros(probabilities.shape, dtype=bool)
  for block in score_curves.row_blocks(*probabilities.shape):
    order = np.argsort(-probabilities[block], axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities[block], order, axis=1)
    values = expectations(ranked.astype(np.float64))[:, least:most + 1]
    is_best = values >= values.max(axis=1, keepdims=True) - _SAME
    given = least + is_best.argmax(axis=1)
    np.put_along_axis(decided[block], order,
                      np.arange(num_labels) < given[:, np.newaxis], axis=1)
  return decided


def expectations(ranked):
  """Expected F1 of the most probable labels of each text.

  Args:
    ranked: float64 [N, L] in 0..1, descending in each row.

  Returns:
    float64 [N, L + 1], of 0 to L labels given; exact to about 1e-13.
  """
  num_labels = ranked.shape[1]
  size = _num_counts(float(ranked.sum(axis=1).max()), num_labels)
  counts = _count_probabilities(ranked, size)
  values = np.zeros([len(ranked), num_labels + 1])
  values[:, 0] = counts[:, 0]
  given = np.arange(1.0, num_labels + 1)
  # P(S = s) = (1 - p_i) P(S_i = s) + p_i P(S_i = s - 1) gives P(S_i) of P(S).
  # Rounding errors do not grow from the low end if p_i <= 0.5, and from the
  # high end if it is above.
  low = np.where(ranked <= 0.5, ranked, 0.0)
  others = np.zeros_like(low)
  for s in range(size):
    others = (counts[:, s:s + 1] - low * others) / (1 - low)
    values[:, 1:] += 2 * np.cumsum(low * others, axis=1) / (given + 1 + s)
  num_high = int((ranked > 0.5).sum(axis=1).max())
  if num_high:
    is_high = ranked[:, :num_high] > 0.5
    high = np.where(is_high, ranked[:, :num_high], 1.0)
    others = np.zeros_like(high)
    for s in reversed(range(size)):
      above = counts[:, s + 1:s + 2] if s + 1 < size else 0.0
      others = (above - (1 - high) * others) / high
      sums = 2 * np.cumsum(high * others * is_high, axis=1)
      values[:, 1:num_high + 1] += sums / (given[:num_high] + 1 + s)
      values[:, num_high + 1:] += sums[:, -1:] / (given[num_high:] + 1 + s)
  return values


def _num_counts(mean, num_labels):
  """Counts of true labels that matter: 0 to this, exclusive.

  P(S >= s) <= exp(s - mean - s log(s / mean)) for s above the mean (Chernoff
  1952).
  """
  mean = max(mean, 1e-9)
  s = int(mean) + 1
  while s <= num_labels and (s - mean - s * math.log(s / mean) >
                             math.log(_LEFT_OUT)):
    s += 1
  return min(s, num_labels + 1)


def _count_probabilities(probabilities, size):
  """P(S = s) for s below `size`: float64 [N, size].

  The distributions of two halves are convolved, from single labels up.
  """
  parts = np.stack([1 - probabilities, probabilities], axis=-1)
  parts = parts[..., :size]
  while parts.shape[1] > 1:
    if parts.shape[1] % 2:
      none = np.zeros_like(parts[:, :1])
      none[..., 0] = 1
      parts = np.concatenate([parts, none], axis=1)
    left, right = parts[:, ::2], parts[:, 1::2]
    width = min(left.shape[-1] + right.shape[-1] - 1, size)
    parts = np.zeros(left.shape[:2] + (width,))
    for s in range(right.shape[-1]):
      more = min(left.shape[-1], width - s)
      parts[..., s:s + more] += left[..., :more] * right[..., s:s + 1]
  return np.pad(parts[:, 0], [(0, 0), (0, size - parts.shape[-1])],
                mode="constant")
