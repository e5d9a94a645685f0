# SPDX-License-Identifier: Apache-2.0
"""Tests of gradients whose activations are built again: they are the same."""

import functools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel import head
from multilabel.storage import checkpoint_choice
from multilabel.training import layer_training
import run_multilabel_classifier


IDS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0], [1, 1, 2, 0, 0]])
LABELS = np.array([[1, 0], [0, 1], [1, 1]], np.float32)


def config():
  return modeling.BertConfig.from_dict(dict(
      tiny_bert.CONFIG, vocab_size=11, num_hidden_layers=3))


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("pooling,freeze_layers", [
    ("pooler", None), ("mean", 0), ("cls", 2), ("mean", 3)])
def test_gradients_are_the_same_with_dropout(use_resource, pooling,
                                             freeze_layers):
  layers = []
  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(3)
    with tf.variable_scope("", use_resource=use_resource):
      ids = tf.placeholder(tf.int32, [None, None])
      loss = head.create_model(
          config(), True, ids, tf.cast(ids > 0, tf.int32),
          tf.zeros_like(ids), tf.constant(LABELS), 2, False, pooling=pooling,
          dropout_seed=(5, tf.constant(7, tf.int64)),
          recorded_layers=layers)[0]
    variables = layer_training.trained_variables(3, freeze_layers)
    num_variables = len(tf.global_variables())
    expected = tf.gradients(loss, variables)
    found = layer_training.recomputed_gradients(loss, variables, layers)
    assert len(tf.global_variables()) == num_variables
    assert len(layers) == 3
    session.run(tf.global_variables_initializer())
    assert [one is None for one in expected] == [one is None for one in found]
    pairs = [(tf.convert_to_tensor(one), tf.convert_to_tensor(other))
             for one, other in zip(expected, found) if one is not None]
    assert len(pairs) >= (2 if freeze_layers == 3 else 16)
    for one, other in session.run(pairs, {ids: IDS}):
      assert np.abs(one).max() > 0
      np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-8)


def test_a_layer_is_built_after_the_gradient_of_its_output():
  """What begins a layer again waits for the layers above; nothing else could
  keep the activations of one layer alone in memory."""
  layers = []
  with tf.Graph().as_default() as graph:
    ids = tf.constant(IDS, tf.int32)
    loss = head.create_model(
        config(), True, ids, tf.ones_like(ids), tf.zeros_like(ids),
        tf.constant(LABELS), 2, False,
        dropout_seed=(5, tf.constant(7, tf.int64)), recorded_layers=layers)[0]
    before = len(graph.get_operations())
    kinds = [op.type for op in graph.get_operations()]
    layer_training.recomputed_gradients(loss, tf.trainable_variables(), layers)
    added = graph.get_operations()[before:]
  # Each layer's masks are drawn again, and only after a gradient is there.
  drawn = [op for op in added if op.type.startswith("StatelessRandomUniform")]
  masks_before = sum(kind.startswith("StatelessRandomUniform")
                     for kind in kinds)
  assert len(drawn) == masks_before - 2 == 9  # not embeddings, not the head
  new = set(added)

  @functools.lru_cache(maxsize=None)
  def waits(op):
    """Whether all that is computed anew before an operation waits, too."""
    return bool(op.control_inputs) or any(
        waits(one.op) for one in op.inputs if one.op in new)

  assert all(waits(op) for op in drawn)
  # No activation of the first time is read again, but for the layers' inputs.
  kept = set(layer.input.name for layer in layers) | set([
      layers[-1].output.name])
  inner = set()
  for op in graph.get_operations()[:before]:
    if op.name.startswith("bert/encoder/layer_") and op.type in (
        "MatMul", "BatchMatMul", "BatchMatMulV2", "Softmax", "Tanh",
        "BiasAdd", "StatelessRandomUniform", "StatelessRandomUniformV2"):
      inner.update(one.name for one in op.outputs)
  assert len(inner) > 30
  read = set(one.name for op in added for one in op.inputs)
  assert not (read & inner) - kept


@pytest.mark.newest
def test_a_run_makes_the_same_weights(tmp_path):
  bert = tiny_bert.make_bert(tmp_path / "bert")
  data = tiny_bert.make_data(tmp_path / "data", (19, 10, 5))
  weights = []
  for name, flags in (("plain", {}), ("again", {"recompute_layers": True})):
    status, _, stderr, _ = tiny_bert.call(
        run_multilabel_classifier, tiny_bert.arguments(
            bert, data, tmp_path / name, learning_rate=1e-3,
            gradient_accumulation_steps=2, **flags))
    assert (status, stderr) == (0, "")
    weights.append(tiny_bert.read_weights(
        checkpoint_choice.latest_checkpoint(str(tmp_path / name))))
  assert sorted(weights[0]) == sorted(weights[1])
  for name in weights[0]:
    np.testing.assert_allclose(weights[1][name], weights[0][name], rtol=1e-4,
                               atol=1e-5, err_msg=name)
