# SPDX-License-Identifier: Apache-2.0
"""Tests of training on real GPUs; skipped where there are none.

  python3 -m pytest tests/gpus_test.py
"""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel.storage import checkpoint_choice
import run_multilabel_classifier


NUM_GPUS = len(tf.config.experimental.list_physical_devices("GPU"))

pytestmark = pytest.mark.skipif(not NUM_GPUS, reason="no GPU on this machine")


def train(folder, output_dir, **flags):
  bert = tiny_bert.make_bert(
      folder / "bert", hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0)
  data = tiny_bert.make_data(folder / "data")
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, do_predict=True, learning_rate=1e-3, **flags))
  assert (status, stderr) == (0, "")
  return (tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(str(output_dir))),
          np.loadtxt(str(output_dir / "test_results.tsv")))


@pytest.mark.parametrize("num_devices", sorted(set([1, min(2, NUM_GPUS),
                                                    max(1, NUM_GPUS)])))
def test_gpus_agree_with_one(tmp_path, num_devices, monkeypatch):
  # The head's dropout, which is another on each device.
  monkeypatch.setattr(modeling, "dropout",
                      lambda tensor, *unused_args, **unused_kwargs: tensor)
  size = 4 * num_devices
  one, expected = train(tmp_path, tmp_path / "one", train_batch_size=size)
  many, found = train(tmp_path, tmp_path / "many", distribution="mirrored",
                      num_devices=num_devices, train_batch_size=size)
  assert sorted(one) == sorted(many)
  assert np.abs(expected - found).max() < 1e-3


def test_half_precision_learns_nearly_the_same(tmp_path):
  _, expected = train(tmp_path, tmp_path / "plain")
  weights, found = train(tmp_path, tmp_path / "amp", amp=True)
  assert weights["loss_scale/value"] >= 1
  assert weights["bert/encoder/layer_0/output/dense/kernel"].dtype == np.float32
  assert np.abs(expected - found).max() < 0.05


def test_compiled_learns_the_same(tmp_path, monkeypatch):
  # Its masks are other ones.
  monkeypatch.setattr(modeling, "dropout",
                      lambda tensor, *unused_args, **unused_kwargs: tensor)
  _, expected = train(tmp_path, tmp_path / "plain")
  _, found = train(tmp_path, tmp_path / "xla", xla=True)
  assert np.abs(expected - found).max() < 1e-3
