# SPDX-License-Identifier: Apache-2.0
"""What keeps the program fast, as counts, which no busy machine can change.

Operations of each mode's graph as a function of the layers, floating-point
operations of a prediction as the graph does them, variables, what must not be
on the path, and the size of what scores of many labels need.
"""

import collections
import functools
import tracemalloc

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model

from benchmarks import growth
import modeling
from multilabel import head
from multilabel import losses
from multilabel import metrics
from multilabel.features import feature_rows
from multilabel.features import input_pipeline
from multilabel.training import loop
from multilabel.training import model_graph
from multilabel.training import train_op
import predict_session
import run_multilabel_classifier


LABELS = 5
PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")

# They run Python inside the graph, print, or stop it: none is on a path that
# is run for every batch. (The iterator's own function is in tf.data's.)
FORBIDDEN = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2",
             "CheckNumerics", "CheckNumericsV2", "Assert")


def config(layers):
  return modeling.BertConfig(
      vocab_size=50, hidden_size=16, num_hidden_layers=layers,
      num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
      type_vocab_size=2)


def needed(*tensors):
  """The operations that a run of these tensors or operations needs."""
  found, waiting = set(), [getattr(tensor, "op", tensor)
                           for tensor in tensors]
  while waiting:
    operation = waiting.pop()
    if operation not in found:
      found.add(operation)
      waiting += [tensor.op for tensor in operation.inputs]
      waiting += operation.control_inputs
  return found


def count(operations):
  """{type: number}, all kinds of matrix products with their own names."""
  counts = collections.Counter(operation.type for operation in operations)
  counts["products of batches"] = sum(
      counts[kind] for kind in PRODUCTS[1:])
  return counts


@functools.lru_cache(maxsize=None)
def predict_counts(layers, pooling):
  with tf.Graph().as_default():
    inference = head.create_inference_graph(
        config(layers), LABELS, pooling)
    return count(needed(inference.probabilities))


def eval_counts(layers, pooling):
  with tf.Graph().as_default():
    inference = head.create_inference_graph(
        config(layers), LABELS, pooling, with_labels=True)
    return count(needed(inference.per_example_loss, inference.probabilities))


@functools.lru_cache(maxsize=None)
def train_tower(layers):
  """(graph, operations of a training step with the loss beside it)."""
  graph = tf.Graph()
  with graph.as_default():
    ids = tf.placeholder(tf.int32, [None, None])
    features = {"input_ids": ids, "input_mask": ids, "segment_ids": ids,
                "label_ids": tf.placeholder(tf.float32, [None, LABELS])}
    model_fn = run_multilabel_classifier.model_fn_builder(
        config(layers), LABELS, None, 1e-3, 10, 1, False, False,
        model_graph.GraphSettings(random_seed=1, adam_bias_correction=True))
    spec = model_fn(features, loop.TRAIN, {})
    return graph, needed(spec.train_op, spec.loss, spec.grad_norm)


def train_counts(layers):
  return count(train_tower(layers)[1])


@pytest.mark.parametrize("counts, pooling, beside_layers", [
    (predict_counts, "pooler", 3),  # segments, pooler, head
    (predict_counts, "mean", 2), (eval_counts, "cls", 2)])
def test_products_of_a_prediction(counts, pooling, beside_layers):
  for layers in (1, 2):
    found = counts(layers, pooling)
    # Query, key, value, attention output, two of the feed-forward.
    assert found["MatMul"] <= 6 * layers + beside_layers
    assert found["products of batches"] == 2 * layers
    # Heads of query, key and value, and back; TensorFlow may need none.
    assert found["Transpose"] <= 4 * layers


def test_products_of_a_training_step():
  for layers in (1, 2):
    found = train_counts(layers)
    # Forward, and the gradients of both factors; that of the one-hot segment
    # ids, which nobody learns, is not made.
    assert found["MatMul"] <= 3 * (6 * layers + 3) - 1
    assert found["products of batches"] == 3 * 2 * layers
    assert found["Transpose"] <= 2 * 4 * layers


def test_each_layer_adds_the_same():
  one, two, three = [predict_counts(layers, "mean") for layers in (1, 2, 3)]
  assert {kind: three[kind] - two[kind] for kind in three} == {
      kind: two[kind] - one[kind] for kind in three}
  # A layer's norms, mask and residuals, in all: what would creep up unseen.
  assert sum(two.values()) - sum(one.values()) <= 190


def static_flops(operations):
  """Floating-point operations of all products, by the graph's own shapes."""
  total = 0
  for operation in operations:
    if operation.type in PRODUCTS:
      left = operation.inputs[0].shape.as_list()
      transposed = "transpose_a" if operation.type == "MatMul" else "adj_x"
      inner = left[-2] if operation.get_attr(transposed) else left[-1]
      total += 2 * inner * int(np.prod(operation.outputs[0].shape.as_list()))
  return total


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_flops_of_a_prediction_are_those_that_are_read(pooling):
  batch, tokens, width, inner, layers = 3, 7, 16, 32, 2
  with tf.Graph().as_default():
    ids = tf.zeros([batch, tokens], tf.int32)
    _, _, _, probabilities = head.create_model(
        config(layers), False, ids, ids, ids, None, LABELS, False,
        pooling=pooling)
    found = static_flops(needed(probabilities))
  rows = batch * tokens
  dense = 2 * (4 * width * width + 2 * width * inner)
  attention = 4 * tokens * width
  whole = rows * (dense + attention)
  # Of the last layer only keys and values are of all tokens.
  first_only = (rows * 2 * 2 * width * width + batch * (
      dense - 2 * 2 * width * width + attention))
  expected = ((layers - 1) * whole + (whole if pooling == "mean"
                                      else first_only))
  expected += rows * 2 * 2 * width  # segment ids, two of them
  expected += batch * 2 * width * LABELS
  expected += batch * 2 * width * width if pooling == "pooler" else 0
  assert found == expected


def test_flops_of_training_are_three_times_a_prediction():
  found = {}
  for is_training in (False, True):
    with tf.Graph().as_default():
      ids = tf.zeros([3, 7], tf.int32)
      loss, _, _, _ = head.create_model(
          config(1), is_training, ids, ids, ids, tf.zeros([3, LABELS]),
          LABELS, False, dropout_seed=(1, tf.constant(0, tf.int64)))
      fetched = [loss]
      if is_training:
        fetched.append(train_op.create_train_op(loss, 1e-3, 10, 1).train_op)
      found[is_training] = static_flops(needed(*fetched))
  segments = 3 * 7 * 2 * 2 * 16
  assert found[True] == 3 * found[False] - segments


def test_variables_are_there_once_and_slots_twice():
  shapes = len(tiny_bert.variable_shapes(50, dict(
      tiny_bert.CONFIG, num_hidden_layers=2))) - 1 + 2  # no LM head; ours
  with tf.Graph().as_default():
    head.create_inference_graph(config(2), LABELS, "pooler")
    assert len(tf.global_variables()) == shapes
  with train_tower(2)[0].as_default():
    # Evaluation while training shares them.
    before = len(tf.global_variables())
    with tf.variable_scope("", reuse=True):
      head.create_inference_graph(config(2), LABELS, "pooler")
    assert len(tf.global_variables()) == before
    assert len(tf.trainable_variables()) == shapes
    # Two moments of each, and the step.
    assert before == 3 * shapes + 1


def test_large_tables_are_passed_over_once():
  """Clipping, decay, Adam: no more operations on the word table than that."""
  rows = [operation.type for operation in train_tower(1)[1]
          for tensor in operation.outputs
          if tensor.shape.ndims == 2 and tensor.shape.as_list() == [50, 16]
          and operation.type not in (
              "VariableV2", "VarHandleOp", "ReadVariableOp", "Identity",
              "Const", "Reshape")]
  # The gather's gradient becomes dense; all else is done inside the kernels.
  assert [kind for kind in rows if not kind.startswith((
      "Apply", "ResourceApply"))] == ["UnsortedSegmentSum"]


def test_nothing_on_the_path_prints_or_calls_python():
  found = [operation for operation in train_tower(1)[1]
           if operation.type in FORBIDDEN]
  for pooling in ("pooler", "mean"):
    found += [kind for kind in FORBIDDEN if kind != "Assert" and
              predict_counts(1, pooling)[kind]]
  # Positions beyond their table are the one thing that is looked at.
  assert [operation.type for operation in found] == ["Assert"]
  assert "assert_less_equal" in found[0].name


def test_predictions_add_nothing_to_the_graph(tmp_path):
  tiny_model.make(tmp_path / "model")
  with predict_session.SessionPredictor(str(tmp_path / "model")) as predictor:
    predictor.predict([u"the apple"])
    graph = predictor._engine.model.graph
    before = len(graph.get_operations())
    for _ in range(3):
      predictor.predict([u"the apple", u"a dog and the plum"] * 3)
    predictor.predict([(u"the apple", u"a pear")])
    assert len(graph.get_operations()) == before
    assert graph.finalized


def test_texts_of_many_lengths_make_few_batches_with_little_padding():
  rng = np.random.RandomState(1)
  lengths = np.clip(rng.lognormal(2.86, 0.41, 1000).round(), 4, 64).astype(int)
  batches = feature_rows.cut_batches(lengths.tolist(), 32, 64)
  padded = sum(len(batch) * feature_rows.round_up(int(max(lengths[batch])), 64)
               for batch in batches)
  assert sum(map(len, batches)) == 1000
  assert len(batches) <= 45
  assert padded <= 1.06 * lengths.sum()


def test_training_batches_have_little_padding():
  rng = np.random.RandomState(1)
  lengths = np.clip(rng.lognormal(2.86, 0.41, 3200).round(), 4, 64).astype(int)
  batches = input_pipeline.epoch_batches(lengths, 32, 1, 0)
  assert len(batches) == 100
  assert sum(len(batch) * max(lengths[batch]) for batch in batches) <= (
      1.06 * lengths.sum())


def test_exponent_of_growth():
  sizes = [1, 2, 4, 8, 16, 32]
  assert growth.exponent(sizes, [3 * n ** 2 for n in sizes]) == pytest.approx(2)
  # What small works cost anyway does not count.
  assert growth.exponent(sizes, [8, 8, 8, 8, 16, 32]) == pytest.approx(1)
  assert growth.exponent([10], [1.0]) is None


def traced_bytes(work):
  """The most that Python and numpy held while `work` ran."""
  tracemalloc.start()
  try:
    work()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def test_metrics_of_30000_labels_make_no_wide_copies():
  texts, labels = 64, 30000
  rng = np.random.RandomState(1)
  truth = rng.uniform(size=(texts, labels)) < 1e-3
  values = rng.uniform(size=(texts, labels)).astype(np.float32)
  peak = traced_bytes(
      lambda: metrics.threshold_metrics(truth, values, 0.5))
  # One [N, L] of float64 would be 8 bytes per cell.
  assert peak < 8 * texts * labels


def test_losses_of_30000_labels_are_a_few_operations():
  counts = []
  for labels in (3, 30000):
    with tf.Graph().as_default():
      shape = [None, labels]
      loss = losses.make_loss("asymmetric")(
          labels=tf.placeholder(tf.float32, shape),
          logits=tf.placeholder(tf.float32, shape))
      counts.append(len(needed(loss)))
  assert counts[0] == counts[1] <= 60
