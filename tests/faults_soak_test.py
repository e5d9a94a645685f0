# SPDX-License-Identifier: Apache-2.0
"""The soak notices what grows; it is not run here."""

import os
import sys

import pytest

from robustness.faults import soak


pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="looks at Linux's /proc")


def samples(kilobytes, threads=(3,) * 20, files=(9,) * 20):
  return [soak.Sample(*values) for values in zip(kilobytes, threads, files)]


def test_what_is_flat_is_good():
  # The first tenth is left out; falling is no growth.
  for kilobytes in ([1000] * 20, [1, 1] + [1000] * 18, [1000] * 10 + [900] * 10,
                    [1000] * 11 + [1029] * 9):
    assert soak.judge(samples(kilobytes))[0], kilobytes
  is_good, line = soak.judge(samples([1024 * 100] * 19 + [1024 * 120]))
  assert is_good and line == (
      "resident MB 100 at first, 120 at last, 120 at most; second half +2.22%; "
      "threads 3 to 3, files 9 to 9")


def test_what_grows_is_not():
  assert not soak.judge(samples([1000] * 11 + [1040] * 9))[0]
  assert not soak.judge(samples(range(1000, 1200, 10)))[0]
  flat = [1000] * 20
  assert not soak.judge(samples(flat, threads=[3] * 19 + [4]))[0]
  assert not soak.judge(samples(flat, files=range(20)))[0]
  with pytest.raises(ValueError, match="3 samples are too few"):
    soak.judge(samples(flat[:3]))


def test_a_program_is_looked_at():
  status, found, last = soak.watch([sys.executable, "-c", (
      "import sys, time\n"
      "for step in range(3):\n"
      "  sys.stderr.write('step %d/3\\nother\\n' % step)\n"
      "  sys.stderr.flush()\n"
      "  time.sleep(0.2)\n"
      "sys.exit('the end')")], r"step \d+/")
  assert (status, last) == (1, "the end")
  assert len(found) == 3 and {one.threads for one in found} == {1}
  assert min(one.kilobytes for one in found) > 1000
