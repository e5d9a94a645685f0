# SPDX-License-Identifier: Apache-2.0
"""Tests of the comparison of two commits, and of growth's arithmetic."""

import sys

import pytest

from benchmarks import compare


def test_interval_of_the_median():
  # All rounds alike: nothing is uncertain.
  assert compare.median_interval([1.5] * 7) == (1.5, 1.5, 1.5)
  ratio, low, high = compare.median_interval(
      [0.8, 0.9, 1.0, 1.1, 1.2, 1.0, 1.0])
  assert ratio == 1.0
  assert 0.8 <= low < 1.0 < high <= 1.2
  # The same every time.
  assert compare.median_interval([1, 2, 3]) == compare.median_interval(
      [1, 2, 3])


@pytest.mark.parametrize("low, high, said", [
    (0.90, 0.95, "faster"),
    (0.95, 1.05, "no difference found"),
    (1.01, 1.05, "within the limit"),
    (1.03, 1.05, "slower"),
])
def test_verdict(low, high, said):
  assert compare.verdict(low, high, 0.02) == said


def results(head_seconds, **changes):
  head = dict({"seconds": head_seconds}, **changes)
  return {"items": {"a": {"title": "short texts", "peers": {
      "ours": {"seconds": [0.010, 0.020, 0.010]}, "head": head}}}}


def test_ratios_are_of_the_same_round():
  # The second round was slow for both: twice the time, the same ratio.
  text, slower = compare.format_comparison(
      results([0.011, 0.022, 0.011]), 0.02)
  assert "1.100  1.100-1.100" in text
  assert slower and text.rstrip().endswith("slower")
  text, slower = compare.format_comparison(
      results([0.008, 0.016, 0.008]), 0.02)
  assert not slower and text.rstrip().endswith("faster")


def test_what_was_not_timed_says_why():
  text, slower = compare.format_comparison(
      results([], why="outputs differ from ours by 1"), 0.02)
  assert "outputs differ from ours by 1" in text
  assert not slower


def test_a_commit_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match="git has no commit no-such-commit"):
    compare.unpack("no-such-commit", str(tmp_path))
  assert compare.main(["no-such-commit", "no-such-commit", "--tiny",
                       "--python_ours=" + sys.executable]) == 2
