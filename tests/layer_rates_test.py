# SPDX-License-Identifier: Apache-2.0
"""Tests of frozen layers and of layers that learn more slowly."""

import os

import numpy as np
import pytest
import tiny_bert

from multilabel.storage import checkpoint_choice
from multilabel.training import layer_training
import run_multilabel_classifier


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
  return tiny_bert.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (16, 10, 5))


def train(bert, data, output_dir, **flags):
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, **dict(
              {"num_train_epochs": 1, "pooling": "pooler"}, **flags)))
  assert (status, stderr) == (0, "")
  return tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(str(output_dir)))


def start_of(bert):
  return tiny_bert.read_weights(os.path.join(bert, "bert_model.ckpt"))


def test_the_scale_is_electras():
  # configure_finetuning's rates for 12 layers: decay^(n + 2 - depth).
  scale = layer_training.make_scale(12, 0.9, 4.0)
  for name, power in (("bert/embeddings/word_embeddings", 14),
                      ("bert/embeddings/LayerNorm/beta", 14),
                      ("bert/embeddings_project/kernel", 14),
                      ("bert/encoder/layer_0/output/dense/kernel", 13),
                      ("bert/encoder/layer_1/output/dense/kernel", 12),
                      ("bert/encoder/layer_11/output/dense/bias", 2),
                      ("bert/pooler/dense/kernel", 1)):
    assert scale(name) == pytest.approx(0.9 ** power)
  assert scale("output_weights") == scale("output_bias") == 4.0
  assert layer_training.make_scale(12, 0.9)("output_bias") == 1.0
  assert layer_training.make_scale(12) is None


def test_frozen_layers_keep_their_bits_and_have_no_moments(
    bert, data, tmp_path):
  start = start_of(bert)
  weights = train(bert, data, tmp_path / "o", freeze_layers=1)
  moved = set()
  for name, before in start.items():
    if name.startswith("cls/"):
      continue
    frozen = name.startswith(("bert/embeddings/", "bert/encoder/layer_0/"))
    assert (name + "/adam_m" in weights) == (not frozen), name
    assert (name + "/adam_v" in weights) == (not frozen), name
    if frozen:
      assert weights[name].tobytes() == before.tobytes(), name
    elif (weights[name] != before).any():
      moved.add(name.split("/")[2 if "encoder" in name else 1])
  assert moved == {"layer_1", "pooler"}
  assert "output_weights/adam_m" in weights

  # It predicts, and another number of layers is another run.
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, tmp_path / "o", do_train=False, do_eval=True,
          pooling=None))
  assert (status, stderr) == (0, "")
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, tmp_path / "o", num_train_epochs=1, pooling="pooler"))
  assert status == 2 and stderr.count("\n") == 1
  assert "freeze_layers (there 1, here null)" in stderr


def test_lower_layers_move_less(bert, data, tmp_path):
  """One step of Adam with bias correction, by its rate and first moment."""
  start = start_of(bert)
  weights = train(bert, data, tmp_path / "o", train_batch_size=16,
                  layer_decay=0.5, head_learning_rate=0.1, learning_rate=0.01,
                  warmup_proportion=0)
  assert weights["global_step"] == 1
  for name, rate in (("bert/embeddings/LayerNorm/beta", 0.01 * 0.5 ** 4),
                     ("bert/encoder/layer_0/output/dense/bias",
                      0.01 * 0.5 ** 3),
                     ("bert/encoder/layer_1/output/dense/bias",
                      0.01 * 0.5 ** 2),
                     ("bert/pooler/dense/bias", 0.01 * 0.5),
                     ("output_bias", 0.1)):
    gradient = weights[name + "/adam_m"] / 0.1  # beta_1 is 0.9
    # With beta_2 0.999 and epsilon 1e-6.
    step = rate * gradient / (np.abs(gradient) + 1e-6 / np.sqrt(0.001))
    assert np.abs(step).max() > rate / 3
    np.testing.assert_allclose(weights[name], start.get(name, 0) - step,
                               rtol=1e-3, atol=1e-3 * rate, err_msg=name)


@pytest.mark.parametrize("flags,message", [
    ({"freeze_layers": 3},
     "--freeze_layers is 3; it must be from 0 (only the embeddings) to 2, the "
     "number of layers of this model."),
    ({"freeze_layers": -1},
     "--freeze_layers is -1; it must be from 0 (only the embeddings) to 2, the "
     "number of layers of this model."),
    ({"layer_decay": 0.0},
     "--layer_decay is 0.0; it must be above 0 and at most 1."),
    ({"layer_decay": 1.5},
     "--layer_decay is 1.5; it must be above 0 and at most 1."),
    ({"layer_decay": float("nan")},
     "--layer_decay is nan; it must be above 0 and at most 1."),
])
def test_what_cannot_be(bert, data, tmp_path, flags, message):
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier,
      tiny_bert.arguments(bert, data, tmp_path / "o", **flags))
  assert (status, stderr) == (
      2, "run_multilabel_classifier.py: %s\n" % message)
  assert not (tmp_path / "o").exists()
