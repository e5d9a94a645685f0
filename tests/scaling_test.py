# SPDX-License-Identifier: Apache-2.0
"""The simulation of docs/scaling.md against sums that are done by hand."""

import json
import os

import pytest

from benchmarks import scaling

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# 1 TFLOP/s, 0.1 s a step whatever is in it, 1 GB/s, then 0.1 GB/s.
DEVICE = scaling.Device("test", 1e12, 0.1, 1e9, 1e8, 4, 1.0)
TINY = scaling.Encoder(2, 8, 32, 100)


def test_parameters_are_those_of_bert():
  # As counted in the published checkpoints, with the pooler.
  assert scaling.num_parameters(scaling.BASE) == 109482240
  assert scaling.num_parameters(scaling.LARGE) == 335141888


def test_flops_of_a_step():
  # 2 layers of 4 * 64 + 2 * 256 weights, attention 2 * 10 * 8 a layer.
  assert scaling.step_flops(TINY, 3, 10) == 6 * 2 * (768 + 160) * 30


def test_exchanges():
  assert scaling.ring_seconds(DEVICE, 1e9, 1) == 0
  assert scaling.ring_seconds(DEVICE, 1e9, 4) == pytest.approx(1.5, rel=1e-3)
  assert scaling.ring_seconds(DEVICE, 1e9, 8) == pytest.approx(17.5, rel=1e-3)
  assert scaling.ps_seconds(DEVICE, 1e8, 8) == pytest.approx(16, rel=1e-3)
  assert scaling.ps_seconds(DEVICE, 1e8, 8, 4) == pytest.approx(4, rel=1e-3)


def test_one_device_waits_for_nobody():
  seconds, waits = scaling.simulate(DEVICE, TINY, 4, 16, 1,
                                    scaling.ring_seconds)
  assert waits == 0
  assert seconds == 0.1 + scaling.step_flops(TINY, 4, 16) / 1e12


@pytest.mark.parametrize("ready", [0.0, 1.0])
def test_gradients_leave_while_others_are_computed(ready):
  device = DEVICE._replace(rate=5e5)
  compute = scaling.step_flops(TINY, 4, 16) / 5e5
  exchange = lambda device, num_bytes, count: 0.3
  seconds, _ = scaling.simulate(device, TINY, 4, 16, 2, exchange, ready)
  # Two layers and the embeddings; overlapped, the first layer's is gone when
  # the second is ready, halfway of the backward pass.
  assert compute > 0.9
  assert seconds - device.fixed == pytest.approx(
      compute + (0.9 if not ready else 0.6))


def test_the_one_machine_point_is_the_measured_one():
  with open(os.path.join(ROOT, "docs", "scaling_measured.json")) as reader:
    measured = json.load(reader)
  rows = scaling.check_one_machine(measured)
  assert [fitted for _, _, _, fitted in rows] == [True, True, False]
  for _, said, seen, _ in rows:
    assert said == pytest.approx(seen, rel=0.1)


def test_published_figures_on_one_device_are_met():
  seconds, _ = scaling.simulate(scaling.a100(), scaling.LARGE, 16, 384, 1,
                                scaling.ring_seconds)
  assert 16 / seconds == pytest.approx(scaling.A100_PUBLISHED[1])
