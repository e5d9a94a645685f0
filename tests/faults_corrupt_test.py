# SPDX-License-Identifier: Apache-2.0
"""Some corruptions of a trained directory: none gives a wrong result."""

import os
import random

import pytest

from robustness.faults import corrupt
from robustness.faults import zygote


pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="runs are forked; there is no fork here.")


@pytest.fixture(scope="module")
def corrupter(tmp_path_factory):
  with corrupt.Corrupter(str(tmp_path_factory.mktemp("corrupt")), 2,
                         (corrupt.PREDICT, corrupt.RUN)) as one:
    yield one


def test_no_corruption_gives_a_wrong_result(corrupter):
  found = [corrupter.corrupt(number) for number in range(20)]
  bad = [corrupt.describe(one) for one in found
         if one.outcome in (corrupt.WRONG, corrupt.CRASH)]
  assert not bad
  # It is no use if none of them was noticed.
  assert sum(one.outcome == corrupt.ERROR for one in found) >= 3
  assert {one.stage for one in found} == {corrupt.PREDICT, corrupt.RUN}


def test_what_is_wrong_is_seen(corrupter):
  ended, result = corrupter._ask(corrupt.PREDICT)
  assert corrupter._judge(corrupt.PREDICT, ended, result) == (
      corrupt.UNCHANGED, False)
  result["probabilities"][0][0] += 1e-7
  assert corrupter._judge(corrupt.PREDICT, ended, result)[0] == corrupt.WRONG
  for status, stderr, expected in (
      (2, "x.py: vocab.txt is broken.", (corrupt.ERROR, True)),
      (2, "x.py: it is broken.", (corrupt.ERROR, False)),
      (1, "Traceback (most recent", (corrupt.CRASH, False)),
      (-11, "", (corrupt.CRASH, False)), (None, "", (corrupt.CRASH, False))):
    assert corrupter._judge(corrupt.PREDICT, zygote.Ended(
        status, 0.0, "", stderr), None) == expected


def test_a_damage_is_described():
  rng = random.Random(1)
  before = bytes(range(1, 201))
  for _ in range(20):
    after, what = corrupt._damage("bits", before, rng)
    changed = sum(bin(a ^ b).count("1") for a, b in zip(before, after))
    assert len(after) == 200 and changed == what.count(".")
    after, what = corrupt._damage("cut", before, rng)
    assert before.startswith(after) and after != before
    assert what == "cut to %d of 200 bytes" % len(after)
    after, what = corrupt._damage("zeros", before, rng)
    assert len(after) == 200 and after.count(0) >= 1
    after, what = corrupt._damage("append", before, rng)
    assert after.startswith(before) and len(after) > 200
