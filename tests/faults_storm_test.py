# SPDX-License-Identifier: Apache-2.0
"""A short storm: a training is killed, fails, loses power, and goes on."""

import errno
import re

import pytest

from robustness.faults import file_layer
from robustness.faults import storm as storm_module
from robustness.faults import zygote


pytestmark = pytest.mark.skipif(
    file_layer.missing() is not None, reason=str(file_layer.missing()))


@pytest.fixture(scope="module")
def one_storm(tmp_path_factory):
  with storm_module.Storm(str(tmp_path_factory.mktemp("storm")), seed=5) as one:
    yield one


@pytest.fixture
def storm(one_storm):
  one_storm.counts = storm_module.Counts()
  return one_storm


def operation(storm, kind, name, last=False):
  found = [op for op in storm.operations[storm_module.TRAIN]
           if op.kind == kind and name in op.name]
  return found[-1 if last else 0]


def test_what_a_run_writes(storm):
  train = [op.name for op in storm.operations[storm_module.TRAIN]]
  assert any(re.match(r"out/\.train\.tf_record\.\w+\.tmp$", name)
             for name in train)
  for name in ("out/model.ckpt-10.index",
               "out/checkpoint", "out/best_checkpoint.json",
               "out/eval_results.txt", "out/test_results.tsv"):
    assert name in train, name
  assert any("events.out" in name for name in train)
  assert "exports/1" in [
      op.name for op in storm.operations[storm_module.EXPORT]
  ]


def test_kills_end_with_the_same_bytes(storm):
  for number in (1, 5):  # 5 is an export
    storm.kill_round(number)
  assert storm.counts.kills >= 2 and storm.counts.restarts >= 1
  assert storm.counts.is_clean, storm.counts.findings


@pytest.mark.parametrize("kind, name, fault", [
    ("fwrite", "model.ckpt-10.data", ("ENOSPC", "fail", errno.ENOSPC)),
    ("rename", "out/checkpoint", ("failing rename", "fail", errno.EIO)),
])
def test_a_call_fails(storm, kind, name, fault):
  storm.fault_round(storm_module.TRAIN, operation(storm, kind, name), *fault)
  assert storm.counts.faults == {fault[0]: 1}
  assert storm.counts.is_clean, storm.counts.findings


def test_a_full_disk(storm):
  storm.fault_round(storm_module.TRAIN,
                    operation(storm, "open", "model.ckpt-10.data"),
                    "ENOSPC",
                    "fail",
                    errno.ENOSPC,
                    lasting=True)
  assert storm.counts.faults == {"full disk": 1} and not storm.counts.passed
  assert storm.counts.is_clean, storm.counts.findings


def test_lost_power(storm):
  storm.power_round(1)
  assert storm.counts.power_cuts >= 1
  assert storm.counts.is_clean, storm.counts.findings


def test_what_is_wrong_is_counted(storm):
  ended = zygote.Ended(0, 0.0, "", "")
  storm._begin("kill", 5)  # a folder with a trained model
  storm._judge(storm_module.TRAIN, ended, ["as it was"])
  assert storm.counts.is_clean
  for path in ("eval_results.txt", "model.ckpt-12.data-00000-of-00001"):
    with open("%s/out/%s" % (storm.layer.root, path), "rb+") as both:
      first = bytearray(both.read(1))
      both.seek(0)
      both.write(bytes([first[0] ^ 1]))
  storm._judge(storm_module.TRAIN, ended, ["changed"])
  assert storm.counts.differing_bytes == 2
  storm._judge(storm_module.TRAIN, ended._replace(status=2), ["refused"])
  storm._note(ended._replace(status=1, stderr="Traceback (most"), [], "failed")
  assert (storm.counts.stuck, storm.counts.tracebacks) == (1, 1)
  assert len(storm.counts.findings) == 3 and not storm.counts.is_clean
