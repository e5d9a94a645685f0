# SPDX-License-Identifier: Apache-2.0
"""Tests of modeling.py.

`numpy_bert` is the whole encoder once more, in float64; gradients are compared
with its finite differences. Where the original is installed (package
`bert-tensorflow`), outputs and gradients are compared with the original's too.
"""

import inspect
import json
import math
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
from multilabel.storage import checkpoint_restore
import tokenization


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BATCH, LENGTH, WIDTH, HEADS, LAYERS = 3, 5, 12, 3, 2

IDS = np.array([[7, 1, 22, 4, 0], [3, 3, 9, 0, 0], [21, 2, 5, 6, 8]], np.int32)
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
TYPES = np.array([[0, 0, 1, 1, 0], [0, 2, 1, 0, 0], [0, 0, 0, 0, 1]], np.int32)

VARIABLES = [
    ("bert/embeddings/word_embeddings", [23, 12]),
    ("bert/embeddings/token_type_embeddings", [3, 12]),
    ("bert/embeddings/position_embeddings", [16, 12]),
    ("bert/embeddings/LayerNorm/beta", [12]),
    ("bert/embeddings/LayerNorm/gamma", [12]),
    ("bert/encoder/layer_0/attention/self/query/kernel", [12, 12]),
    ("bert/encoder/layer_0/attention/self/query/bias", [12]),
    ("bert/encoder/layer_0/attention/self/key/kernel", [12, 12]),
    ("bert/encoder/layer_0/attention/self/key/bias", [12]),
    ("bert/encoder/layer_0/attention/self/value/kernel", [12, 12]),
    ("bert/encoder/layer_0/attention/self/value/bias", [12]),
    ("bert/encoder/layer_0/attention/output/dense/kernel", [12, 12]),
    ("bert/encoder/layer_0/attention/output/dense/bias", [12]),
    ("bert/encoder/layer_0/attention/output/LayerNorm/beta", [12]),
    ("bert/encoder/layer_0/attention/output/LayerNorm/gamma", [12]),
    ("bert/encoder/layer_0/intermediate/dense/kernel", [12, 20]),
    ("bert/encoder/layer_0/intermediate/dense/bias", [20]),
    ("bert/encoder/layer_0/output/dense/kernel", [20, 12]),
    ("bert/encoder/layer_0/output/dense/bias", [12]),
    ("bert/encoder/layer_0/output/LayerNorm/beta", [12]),
    ("bert/encoder/layer_0/output/LayerNorm/gamma", [12]),
    ("bert/encoder/layer_1/attention/self/query/kernel", [12, 12]),
    ("bert/encoder/layer_1/attention/self/query/bias", [12]),
    ("bert/encoder/layer_1/attention/self/key/kernel", [12, 12]),
    ("bert/encoder/layer_1/attention/self/key/bias", [12]),
    ("bert/encoder/layer_1/attention/self/value/kernel", [12, 12]),
    ("bert/encoder/layer_1/attention/self/value/bias", [12]),
    ("bert/encoder/layer_1/attention/output/dense/kernel", [12, 12]),
    ("bert/encoder/layer_1/attention/output/dense/bias", [12]),
    ("bert/encoder/layer_1/attention/output/LayerNorm/beta", [12]),
    ("bert/encoder/layer_1/attention/output/LayerNorm/gamma", [12]),
    ("bert/encoder/layer_1/intermediate/dense/kernel", [12, 20]),
    ("bert/encoder/layer_1/intermediate/dense/bias", [20]),
    ("bert/encoder/layer_1/output/dense/kernel", [20, 12]),
    ("bert/encoder/layer_1/output/dense/bias", [12]),
    ("bert/encoder/layer_1/output/LayerNorm/beta", [12]),
    ("bert/encoder/layer_1/output/LayerNorm/gamma", [12]),
    ("bert/pooler/dense/kernel", [12, 12]),
    ("bert/pooler/dense/bias", [12]),
]


def make_config(**changes):
  settings = dict(
      vocab_size=23, hidden_size=WIDTH, num_hidden_layers=LAYERS,
      num_attention_heads=HEADS, intermediate_size=20,
      max_position_embeddings=16, type_vocab_size=3)
  settings.update(changes)
  return modeling.BertConfig(**settings)


def random_values(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode("utf-8")))
  offset = 1.0 if name.endswith("gamma") else 0.0
  return (offset + 0.3 * rng.randn(*shape)).astype(np.float32)


def set_variables(session):
  """Gives each global variable the values that belong to its name."""
  feed, initializers = {}, []
  for var in tf.global_variables():
    initializers.append(var.initializer)
    if var.dtype.base_dtype == tf.float32:
      feed[var.initializer.inputs[1]] = random_values(
          var.name[:-2], var.shape.as_list())
  session.run(initializers, feed)


def layer_norm(x, beta, gamma, epsilon=1e-12):
  centered = x - x.mean(axis=-1, keepdims=True)
  variance = (centered ** 2).mean(axis=-1, keepdims=True)
  return centered / np.sqrt(variance + epsilon) * gamma + beta


def gelu(x, approximate):
  if approximate:
    return 0.5 * x * (
        1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x ** 3)))
  return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / np.sqrt(2.0)))


def softmax(x):
  exponents = np.exp(x - x.max(axis=-1, keepdims=True))
  return exponents / exponents.sum(axis=-1, keepdims=True)


def numpy_attention(query, key, value, mask, heads):
  """Attention, a head and a text at a time; mask `[B, F, T]`."""
  batch, _, width = query.shape
  size = width // heads
  context = np.zeros(query.shape)
  for text in range(batch):
    for head in range(heads):
      part = slice(head * size, (head + 1) * size)
      scores = query[text, :, part].dot(key[text, :, part].T) / np.sqrt(size)
      if mask is not None:
        scores = scores - 10000.0 * (1.0 - mask[text])
      context[text, :, part] = softmax(scores).dot(value[text, :, part])
  return context


def numpy_bert(weights, ids, mask, types, approximate=True):
  """(embedding output, list of layers' outputs, pooled output)."""
  def dense(x, name):
    return x.dot(weights[name + "/kernel"]) + weights[name + "/bias"]

  def norm(x, name):
    return layer_norm(x, weights[name + "/LayerNorm/beta"],
                      weights[name + "/LayerNorm/gamma"])

  name = "bert/embeddings"
  x = embedding_output = norm(
      weights[name + "/word_embeddings"][ids]
      + weights[name + "/token_type_embeddings"][types]
      + weights[name + "/position_embeddings"][:ids.shape[1]], name)
  layers = []
  for index in range(LAYERS):
    name = "bert/encoder/layer_%d" % index
    pair_mask = np.repeat(mask[:, np.newaxis, :], ids.shape[1], axis=1)
    attention = numpy_attention(
        dense(x, name + "/attention/self/query"),
        dense(x, name + "/attention/self/key"),
        dense(x, name + "/attention/self/value"), pair_mask, HEADS)
    x = norm(x + dense(attention, name + "/attention/output/dense"),
             name + "/attention/output")
    inner = gelu(dense(x, name + "/intermediate/dense"), approximate)
    x = norm(x + dense(inner, name + "/output/dense"), name + "/output")
    layers.append(x)
  return embedding_output, layers, np.tanh(dense(x[:, 0], "bert/pooler/dense"))


def weights_in_float64():
  return {name: random_values(name, shape).astype(np.float64)
          for name, shape in VARIABLES}


def outputs_of(model):
  return [model.get_embedding_output(), model.get_all_encoder_layers(),
          model.get_pooled_output(), model.get_sequence_output(),
          model.get_embedding_table()]


def run_model(feeds=(IDS, MASK, TYPES), gradients_of=None, config=None,
              use_resource=True, dynamic=False, library=modeling,
              **arguments):
  """Runs a model with the random weights; returns values (and gradients)."""
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=use_resource), tf.Session() as session:
    inputs = [
        None if value is None else tf.placeholder(
            tf.int32, [None, None] if dynamic else value.shape)
        for value in feeds]
    model = library.BertModel(config or make_config(), False, *inputs,
                              **arguments)
    fetches = [outputs_of(model)]
    if gradients_of is not None:
      fetches.append([
          tf.convert_to_tensor(gradient) for gradient in tf.gradients(
              gradients_of(model), tf.trainable_variables())])
    set_variables(session)
    values = session.run(fetches, {
        tensor: value for tensor, value in zip(inputs, feeds)
        if tensor is not None})
  return values[0] if gradients_of is None else values


@pytest.fixture(scope="module")
def pooled_output():
  """A function from ids, mask and types to the pooled output."""
  graph = tf.Graph()
  with graph.as_default():
    inputs = [tf.placeholder(tf.int32, [None, None]) for _ in range(3)]
    model = modeling.BertModel(make_config(), False, *inputs)
  session = tf.Session(graph=graph)
  with graph.as_default():
    set_variables(session)
  yield lambda *values: session.run(
      model.get_pooled_output(), dict(zip(inputs, values)))
  session.close()


def close(actual, expected, tolerance=1e-5):
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "use_resource, dynamic, approximate, one_hot", [
        (True, False, True, True), (False, True, False, False)])
def test_outputs_equal_numpy(use_resource, dynamic, approximate, one_hot):
  config = make_config()
  config.gelu_approximate = approximate
  embedding_output, layers, pooled, sequence, table = run_model(
      config=config, use_resource=use_resource, dynamic=dynamic,
      use_one_hot_embeddings=one_hot)
  weights = weights_in_float64()
  expected = numpy_bert(weights, IDS, MASK, TYPES, approximate)
  close(embedding_output, expected[0])
  assert len(layers) == LAYERS
  for actual, wanted in zip(layers, expected[1]):
    close(actual, wanted)
  close(sequence, expected[1][-1])
  close(pooled, expected[2])
  close(table, weights["bert/embeddings/word_embeddings"], 0)


def test_the_two_forms_of_gelu_differ_in_the_model():
  weights = weights_in_float64()
  pooled = [numpy_bert(weights, IDS, MASK, TYPES, approximate)[2]
            for approximate in (True, False)]
  assert np.abs(pooled[0] - pooled[1]).max() > 5e-5  # so 1e-5 tells them apart


def test_mask_and_types_default_to_ones_and_zeros():
  outputs = run_model((IDS, None, None), dynamic=True)
  expected = numpy_bert(
      weights_in_float64(), IDS, np.ones_like(IDS), np.zeros_like(IDS))
  close(outputs[3], expected[1][-1])
  close(outputs[2], expected[2])


def test_padding_changes_nothing(pooled_output):
  ids, mask, types = [
      np.pad(value, [(0, 0), (0, 4)], "constant") for value in
      (IDS, MASK, TYPES)]
  close(pooled_output(ids + 3 * (1 - mask), mask, types + 1 - mask),
        pooled_output(IDS, MASK, TYPES), 1e-6)


def test_a_text_alone_has_the_output_of_its_batch(pooled_output):
  whole = pooled_output(IDS, MASK, TYPES)
  for row in range(BATCH):
    length = MASK[row].sum()
    close(pooled_output(*[x[row:row + 1, :length]
                          for x in (IDS, MASK, TYPES)]),
          whole[row:row + 1], 1e-6)


def test_int64_inputs(pooled_output):
  with tf.Graph().as_default(), tf.Session() as session:
    model = modeling.BertModel(
        make_config(), False, *[tf.constant(value.astype(np.int64))
                                for value in (IDS, MASK, TYPES)])
    set_variables(session)
    close(session.run(model.get_pooled_output()),
          pooled_output(IDS, MASK, TYPES), 1e-6)


SEQUENCE_WEIGHTS = np.random.RandomState(5).randn(BATCH, LENGTH, WIDTH)
POOLED_WEIGHTS = np.random.RandomState(6).randn(BATCH, WIDTH)


def tensor_loss(model):
  return (tf.reduce_sum(model.get_sequence_output()
                        * SEQUENCE_WEIGHTS.astype(np.float32))
          + tf.reduce_sum(model.get_pooled_output()
                          * POOLED_WEIGHTS.astype(np.float32)))


@pytest.mark.parametrize("use_resource, approximate, one_hot", [
    (True, True, False), (False, False, True)])
def test_gradients_equal_finite_differences(use_resource, approximate,
                                            one_hot):
  config = make_config()
  config.gelu_approximate = approximate
  gradients = run_model(
      gradients_of=tensor_loss, config=config, use_resource=use_resource,
      use_one_hot_embeddings=one_hot)[1]
  weights = weights_in_float64()

  def loss():
    _, layers, pooled = numpy_bert(weights, IDS, MASK, TYPES, approximate)
    return (layers[-1] * SEQUENCE_WEIGHTS).sum() + (
        pooled * POOLED_WEIGHTS).sum()

  rng = np.random.RandomState(1)
  for gradient, (name, shape) in zip(gradients, VARIABLES):
    assert list(gradient.shape) == shape
    flat = weights[name].reshape(-1)
    # The largest, which no mistake can hide in, and two others.
    for place in [np.abs(gradient).argmax()] + list(rng.randint(flat.size,
                                                                size=2)):
      value, losses = flat[place], []
      for step in (1e-5, -1e-5):
        flat[place] = value + step
        losses.append(loss())
      flat[place] = value
      difference = (losses[0] - losses[1]) / 2e-5
      tolerance = 1e-4 * np.abs(gradient).max() + 1e-5
      assert abs(gradient.flat[place] - difference) < tolerance, name


@pytest.mark.parametrize("use_resource", [False, True])
def test_variable_names_shapes_and_order(use_resource):
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=use_resource):
    modeling.BertModel(make_config(), True, tf.constant(IDS),
                       first_token_only=use_resource)
    for variables in (tf.global_variables(), tf.trainable_variables()):
      assert [(var.name, var.shape.as_list()) for var in variables] == [
          (name + ":0", shape) for name, shape in VARIABLES]
      assert {hasattr(var, "handle") for var in variables} == {use_resource}


def test_scope():
  with tf.Graph().as_default():
    for scope in ("other", None):
      modeling.BertModel(make_config(num_hidden_layers=1), False,
                         tf.constant(IDS), scope=scope)
    names = [var.name for var in tf.global_variables()]
  assert names[0] == "other/embeddings/word_embeddings:0"
  assert names[23] == "bert/embeddings/word_embeddings:0"


def test_static_and_dynamic_shapes():
  with tf.Graph().as_default():
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
      static, dynamic, first = [
          modeling.BertModel(make_config(), False, ids, scope="bert",
                             first_token_only=first)
          for ids, first in (
              (tf.constant(IDS), False),
              (tf.placeholder(tf.int32, [None, None]), False),
              (tf.constant(IDS), True))]
    assert static.get_pooled_output().shape.as_list() == [3, 12]
    assert static.get_sequence_output().shape.as_list() == [3, 5, 12]
    assert static.get_embedding_output().shape.as_list() == [3, 5, 12]
    assert static.get_embedding_table().shape.as_list() == [23, 12]
    assert dynamic.get_pooled_output().shape.as_list()[-1] == 12
    for tensor in [dynamic.get_embedding_output(),
                   dynamic.get_sequence_output()
                  ] + dynamic.get_all_encoder_layers():
      assert tensor.shape.ndims == 3 and tensor.shape.as_list()[-1] == 12
    assert [x.shape.as_list() for x in first.get_all_encoder_layers()] == [
        [3, 5, 12], [3, 1, 12]]


@pytest.mark.parametrize("dynamic", [False, True])
def test_longest_sequence(dynamic):
  arguments = dict(dynamic=dynamic, config=make_config(num_hidden_layers=1))
  ids = np.ones([2, 17], np.int32)
  assert run_model((ids[:, :16], None, None), **arguments)[3].shape == (
      2, 16, 12)
  with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
    run_model((ids, None, None), **arguments)


def test_first_token_only_is_row_0_of_the_whole():
  with tf.Graph().as_default(), tf.Session() as session:
    ids, mask = [tf.placeholder_with_default(x, [None, None])
                 for x in (IDS, MASK)]
    fetches = []
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
      for first_token_only in (False, True):
        model = modeling.BertModel(
            make_config(), False, ids, mask, scope="bert",
            first_token_only=first_token_only)
        first_token = model.get_sequence_output()[:, 0]
        loss = tf.reduce_sum(
            first_token * SEQUENCE_WEIGHTS[:, 0].astype(np.float32)
            + model.get_pooled_output() * POOLED_WEIGHTS.astype(np.float32))
        fetches.append([
            model.get_all_encoder_layers(), first_token,
            model.get_pooled_output(),
            [tf.convert_to_tensor(gradient) for gradient in
             tf.gradients(loss, tf.trainable_variables())]])
    set_variables(session)
    whole, first = session.run(fetches)
  assert first[0][-1].shape == (BATCH, 1, WIDTH)
  close(first[0][-1], whole[0][-1][:, :1], 1e-6)
  for mine, theirs in zip(first[0][:-1], whole[0][:-1]):
    close(mine, theirs, 0)
  close(first[1], whole[1], 1e-6)
  close(first[2], whole[2], 1e-6)
  for mine, theirs in zip(first[3], whole[3]):
    assert np.isfinite(mine).all()
    close(mine, theirs, 1e-5 + 1e-5 * np.abs(theirs).max())


def test_equals_the_original():
  original = pytest.importorskip("bert.modeling")
  ours = run_model(gradients_of=tensor_loss, use_resource=False)
  theirs = run_model(
      gradients_of=tensor_loss, use_resource=False, library=original,
      config=original.BertConfig.from_dict(make_config().to_dict()))
  for mine, wanted in zip(ours[0], theirs[0]):
    close(mine, wanted)
  for mine, wanted in zip(ours[1], theirs[1]):
    close(mine, wanted, 1e-4 * np.abs(wanted).max() + 1e-5)


def test_random_ops_only_while_training():
  def random_ops(is_training, **arguments):
    with tf.Graph().as_default() as graph:
      config = make_config(num_hidden_layers=1)
      modeling.BertModel(config, is_training, tf.constant(IDS), **arguments)
      assert config.hidden_dropout_prob == 0.1  # the caller's is not changed
      assert config.attention_probs_dropout_prob == 0.1
      return [op.type for op in graph.get_operations()
              if "RandomUniform" in op.type]

  assert random_ops(False) == []
  assert random_ops(True) == ["RandomUniform"] * 4
  seeded = random_ops(True, dropout_seed=(1, 0))
  assert len(seeded) == 4
  assert all(name.startswith("StatelessRandomUniform") for name in seeded)


def seeded_masks(seed, steps, threads=2, scope="a"):
  """Values of dropout 0.3 on ones, a row per step."""
  config = tf.ConfigProto(intra_op_parallelism_threads=threads,
                          inter_op_parallelism_threads=threads)
  with tf.Graph().as_default(), tf.Session(config=config) as session:
    step = tf.placeholder(tf.int64, [])
    with tf.variable_scope(scope):
      output = modeling.dropout(tf.ones([300, 200]), 0.3, (seed, step))
    return [session.run(output, {step: value}) for value in steps]


def test_dropout_seed():
  first, second, again = seeded_masks(7, [4, 5, 4])
  assert (first == again).all()
  assert (first == seeded_masks(7, [4], threads=1)[0]).all()
  assert (first == seeded_masks(7, [4], threads=4)[0]).all()
  others = [second, seeded_masks(8, [4])[0], seeded_masks(7, [4], scope="b")[0],
            seeded_masks(2 ** 31 - 1, [2 ** 40])[0]]
  for mask in [first] + others:
    kept = mask[mask != 0]
    close(kept, 1.0 / (1 - 19661 / 65536.0), 1e-6)
    assert abs(len(kept) / 60000.0 - 0.7) < 0.01
  for mask in others:
    # Independent masks agree in 0.3^2 + 0.7^2 of their elements.
    assert abs((mask == first).mean() - 0.58) < 0.01


@pytest.mark.parametrize("rate, dropped", [
    (0.1, 6554 / 65536.0), (1e-9, 0.0), (1 - 1e-9, 65535 / 65536.0)])
def test_seeded_dropout_rounds_its_rate(rate, dropped):
  with tf.Graph().as_default(), tf.Session() as session:
    # An odd number of elements, since two share a random number.
    mask = session.run(modeling.dropout(
        tf.ones([1001, 999]), rate, (7, tf.constant(5, tf.int64))))
    alone = session.run(modeling.dropout(
        tf.ones([1]), rate, (7, tf.constant(5, tf.int64))))
  kept = mask != 0
  np.testing.assert_allclose(mask[kept], 1 / (1 - dropped), rtol=1e-6)
  # Five standard deviations of a binomial distribution.
  spread = 5 * math.sqrt(dropped * (1 - dropped) / mask.size)
  assert abs(kept.mean() - (1 - dropped)) <= spread
  assert alone.shape == (1,) and np.isfinite(alone).all()


def test_seeded_dropout_drops_neighbours_independently():
  with tf.Graph().as_default(), tf.Session() as session:
    dropped = session.run(modeling.dropout(
        tf.ones([1000000]), 0.1, (7, tf.constant(5, tf.int64)))) == 0
  for first, second in ((dropped[0::2], dropped[1::2]),
                        (dropped[:-2], dropped[2:])):
    both = (first & second).mean()
    assert abs(both - 0.01) < 5 * math.sqrt(0.01 / len(first))


def test_dropout_without_seed():
  with tf.Graph().as_default(), tf.Session() as session:
    ones = tf.ones([300, 200])
    assert modeling.dropout(ones, 0.0) is ones
    assert modeling.dropout(ones, None, (1, tf.constant(0))) is ones
    output = modeling.dropout(ones, 0.3)
    first, second = session.run(output), session.run(output)
  assert abs((first != 0).mean() - 0.7) < 0.01
  close(first[first != 0], 1.0 / 0.7, 1e-6)
  assert (first != second).any()


def test_dropout_gradient_is_the_mask():
  with tf.Graph().as_default(), tf.Session() as session:
    ones = tf.ones([20, 20])
    output = modeling.dropout(ones, 0.5, (3, tf.constant(1, tf.int64)))
    values, gradient = session.run(
        [output, tf.gradients(tf.reduce_sum(output), ones)[0]])
  close(gradient, values, 0)
  assert set(values.flat) == {0.0, 2.0}


def test_every_dropout_of_a_model_has_a_mask_of_its_own():
  with tf.Graph().as_default() as graph, tf.Session() as session:
    modeling.BertModel(make_config(), True, tf.constant(IDS),
                       dropout_seed=(1, tf.constant(9, tf.int64)))
    outputs = [op.outputs[0] for op in graph.get_operations()
               if op.type.startswith("StatelessRandomUniform")]
    values = [tuple(value.flat[:8]) for value in session.run(outputs)]
  assert len(set(values)) == len(values) == 7


def test_seeded_training_model_repeats_itself(pooled_output):
  with tf.Graph().as_default(), tf.Session() as session:
    step = tf.placeholder(tf.int64, [])
    model = modeling.BertModel(
        make_config(), True, *[tf.constant(x) for x in (IDS, MASK, TYPES)],
        dropout_seed=(5, step))
    set_variables(session)
    outputs = [session.run(model.get_pooled_output(), {step: value})
               for value in (3, 3, 4)]
  close(outputs[0], outputs[1], 1e-6)
  assert np.abs(outputs[0] - outputs[2]).max() > 0.01
  without = pooled_output(IDS, MASK, TYPES)
  assert np.abs(outputs[0] - without).max() > 0.01


def attention_values(from_value, to_value, mask=None, **arguments):
  with tf.Graph().as_default(), tf.Session() as session:
    output = modeling.attention_layer(
        tf.constant(from_value, tf.float32), tf.constant(to_value, tf.float32),
        None if mask is None else tf.constant(mask), num_attention_heads=2,
        size_per_head=3, **arguments)
    set_variables(session)
    return session.run(output)


def test_attention_layer_equals_numpy():
  rng = np.random.RandomState(2)
  from_value, to_value = rng.randn(2, 3, 4), rng.randn(2, 5, 7)
  mask = rng.randint(2, size=[2, 3, 5])
  mask[:, :, 0] = 1

  def project(x, name, width):
    return x.dot(random_values(name + "/kernel", [width, 6])) + random_values(
        name + "/bias", [6])

  query, key, value = (project(from_value, "query", 4),
                       project(to_value, "key", 7),
                       project(to_value, "value", 7))
  expected = numpy_attention(query, key, value, mask, 2)
  close(attention_values(from_value, to_value, mask), expected)
  close(attention_values(from_value, to_value),
        numpy_attention(query, key, value, None, 2))
  close(attention_values(from_value, to_value, mask, do_return_2d_tensor=True),
        expected.reshape(6, 6))
  close(attention_values(
      from_value.reshape(6, 4), to_value.reshape(10, 7), mask, batch_size=2,
      from_seq_length=3, to_seq_length=5), expected)
  close(attention_values(
      from_value, to_value, mask, query_act=tf.nn.relu, key_act=tf.tanh,
      value_act=tf.negative),
        numpy_attention(np.maximum(query, 0), np.tanh(key), -value, mask, 2))


def test_attention_layer_errors():
  with pytest.raises(ValueError) as error:
    attention_values(np.ones([2, 3, 4]), np.ones([6, 4]))
  assert str(error.value) == (
      "from_tensor has rank 3, to_tensor has rank 2; they must be the same.")
  with pytest.raises(ValueError) as error:
    attention_values(np.ones([6, 4]), np.ones([6, 4]), batch_size=2,
                     from_seq_length=3)
  assert str(error.value) == (
      "batch_size, from_seq_length and to_seq_length must be given for inputs "
      "of rank 2.")


def test_transformer_model():
  with tf.Graph().as_default():
    tensor = tf.zeros([2, 4, 12])
    arguments = dict(hidden_size=12, num_hidden_layers=2,
                     num_attention_heads=3, intermediate_size=7)
    with tf.variable_scope("last"):
      output = modeling.transformer_model(tensor, **arguments)
    assert output.shape.as_list() == [2, 4, 12]
    with tf.variable_scope("all"):
      outputs = modeling.transformer_model(
          tensor, do_return_all_layers=True, **arguments)
    assert [x.shape.as_list() for x in outputs] == [[2, 4, 12]] * 2
    with pytest.raises(ValueError) as error:
      modeling.transformer_model(tensor, hidden_size=12, num_attention_heads=5)
    assert str(error.value) == (
        "hidden_size 12 is not a multiple of num_attention_heads 5.")
    with pytest.raises(ValueError) as error:
      modeling.transformer_model(tensor, hidden_size=24)
    assert str(error.value) == (
        "input_tensor is 12 wide, but hidden_size is 24; the residual sum "
        "needs them equal.")


def test_first_token_only_takes_the_first_row_of_any_mask():
  value = np.random.RandomState(8).randn(2, 4, 6)
  mask = np.ones([2, 4, 4], np.int32)
  mask[:, 0, 1] = mask[1, 0, 3] = mask[:, 2, 2] = 0
  with tf.Graph().as_default(), tf.Session() as session:
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
      outputs = [
          modeling.transformer_model(
              tf.constant(value, tf.float32), tf.constant(mask), 6, 1, 2, 5,
              hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
              first_token_only=first_token_only)
          for first_token_only in (False, True)]
    set_variables(session)
    whole, first = session.run(outputs)
  close(first, whole[:, :1], 1e-6)


def test_model_errors():
  with tf.Graph().as_default():
    with pytest.raises(ValueError) as error:
      modeling.BertModel(make_config(), False, tf.constant([1, 2]))
    assert str(error.value) == (
        "tensor input_ids in scope `` has rank 1 (shape (2,)); expected rank "
        "2.")
  with tf.Graph().as_default(), pytest.raises(ValueError) as error:
    modeling.BertModel(make_config(num_attention_heads=5), False,
                       tf.constant(IDS))
  assert "hidden_size 12 is not a multiple" in str(error.value)


@pytest.mark.parametrize("one_hot", [False, True])
def test_embedding_lookup(one_hot):
  ids = np.array([[[1, 0], [4, 2]]])
  table = random_values("words", [5, 3])
  with tf.Graph().as_default(), tf.Session() as session:
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
      output, variable = modeling.embedding_lookup(
          tf.constant(ids), 5, 3, word_embedding_name="words",
          use_one_hot_embeddings=one_hot)
      flat, _ = modeling.embedding_lookup(
          tf.constant(ids[0]), 5, 3, word_embedding_name="words",
          use_one_hot_embeddings=one_hot)
    assert variable.name == "words:0"
    set_variables(session)
    close(session.run(output), [[np.concatenate([table[1], table[0]]),
                                 np.concatenate([table[4], table[2]])]], 1e-7)
    close(session.run(flat), table[ids[0]], 1e-7)


def test_embedding_postprocessor():
  words = np.random.RandomState(3).randn(2, 3, 4)
  types = np.array([[0, 1, 1], [1, 0, 0]])
  type_table = random_values("types", [2, 4])
  positions = random_values("places", [6, 4])
  beta = random_values("LayerNorm/beta", [4])
  gamma = random_values("LayerNorm/gamma", [4])
  for use_types, use_positions in [(True, True), (False, True), (True, False),
                                   (False, False)]:
    with tf.Graph().as_default(), tf.Session() as session:
      output = modeling.embedding_postprocessor(
          tf.constant(words, tf.float32), use_types, tf.constant(types), 2,
          "types", use_positions, "places", max_position_embeddings=6,
          dropout_prob=0.0)
      names = [var.name for var in tf.global_variables()]
      set_variables(session)
      expected = (words + use_types * type_table[types]
                  + use_positions * positions[:3])
      close(session.run(output), layer_norm(expected, beta, gamma))
    assert names == ["types:0"] * use_types + ["places:0"] * use_positions + [
        "LayerNorm/beta:0", "LayerNorm/gamma:0"]
  with tf.Graph().as_default(), pytest.raises(ValueError) as error:
    modeling.embedding_postprocessor(tf.zeros([2, 3, 4]), use_token_type=True)
  assert str(error.value) == (
      "token_type_ids is required when use_token_type is True.")


def test_attention_mask_from_input_mask():
  with tf.Graph().as_default(), tf.Session() as session:
    mask = modeling.create_attention_mask_from_input_mask(
        tf.zeros([2, 2, 5]), tf.constant([[1, 1, 0], [1, 0, 0]]))
    assert mask.dtype == tf.float32
    assert session.run(mask).tolist() == [
        [[1, 1, 0], [1, 1, 0]], [[1, 0, 0], [1, 0, 0]]]


def slopes(function, value, weights):
  """Gradient of sum(weights * function(value)) by finite differences."""
  found = np.zeros_like(value)
  for place in np.ndindex(*value.shape):
    step = np.zeros_like(value)
    step[place] = 1e-5
    found[place] = np.sum(weights * (
        function(value + step) - function(value - step))) / 2e-5
  return found


def test_short_gradient_of_layer_norm():
  rng = np.random.RandomState(5)
  value, weights = rng.randn(2, 3, 7) * 3 + 1, rng.randn(2, 3, 7)
  beta, gamma = rng.randn(7), rng.randn(7)
  with tf.Graph().as_default(), tf.Session() as session:
    tensor = tf.constant(value, tf.float32)
    output = modeling.layer_norm(tensor, epsilon=0.3, short_gradients=True)
    variables = tf.global_variables()
    assert [var.name for var in variables] == [
        "LayerNorm/beta:0", "LayerNorm/gamma:0"]
    gradients = tf.gradients(output, [tensor] + variables,
                             tf.constant(weights, tf.float32))
    session.run([var.assign(array) for var, array in zip(
        variables, (beta.astype(np.float32), gamma.astype(np.float32)))])
    found, gradients = session.run([output, gradients])
  close(found, layer_norm(value, beta, gamma, 0.3), 1e-5)
  close(gradients[0], slopes(
      lambda x: layer_norm(x, beta, gamma, 0.3), value, weights), 1e-4)
  close(gradients[1], weights.sum((0, 1)), 1e-4)
  close(gradients[2], slopes(
      lambda x: layer_norm(value, beta, x, 0.3), gamma, weights), 1e-4)


@pytest.mark.parametrize("approximate", [True, False])
def test_short_gradient_of_gelu(approximate):
  config = make_config()
  config.gelu_approximate = approximate
  points = np.concatenate([np.linspace(-12, 12, 401), [0.0]])
  with tf.Graph().as_default(), tf.Session() as session:
    tensor = tf.constant(points, tf.float32)
    # pylint: disable=protected-access
    activation = modeling._config_activation(config, short_gradients=True)
    assert activation is not modeling._config_activation(config)
    output = activation(tensor)
    found, gradient = session.run([output, tf.gradients(output, tensor)[0]])
  close(found, gelu(points, approximate), 1e-6)
  close(gradient, slopes(lambda x: gelu(x, approximate), points, 1.0), 1e-5)


def test_layer_norm_and_dropout():
  value = np.random.RandomState(4).randn(2, 3, 4) * 50
  with tf.Graph().as_default(), tf.Session() as session:
    tensor = tf.constant(value, tf.float32)
    outputs = [modeling.layer_norm(tensor), modeling.layer_norm(tensor),
               modeling.layer_norm(tensor, "own"),
               modeling.layer_norm_and_dropout(tensor, 0.0),
               modeling.layer_norm_and_dropout(
                   tensor, 0.5, "last", (1, tf.constant(2, tf.int64)))]
    assert [var.name for var in tf.global_variables()] == [
        scope + part for scope in
        ("LayerNorm", "LayerNorm_1", "own", "LayerNorm_2", "last")
        for part in ("/beta:0", "/gamma:0")]
    session.run(tf.global_variables_initializer())
    values = session.run(outputs)
  expected = layer_norm(value, np.zeros(4), np.ones(4))
  for actual in values[:4]:
    close(actual, expected)
  kept = values[4] != 0
  assert 0 < kept.sum() < kept.size
  close(values[4][kept], 2.0 * expected[kept])


def test_activations():
  points = np.array([-5.0, -1.0, -0.1, 0.0, 0.5, 3.0])
  with tf.Graph().as_default(), tf.Session() as session:
    tensor = tf.constant(points, tf.float32)
    close(session.run(modeling.gelu(tensor)), gelu(points, True), 1e-6)
    close(session.run(modeling.exact_gelu(tensor)), gelu(points, False), 1e-6)
  assert modeling.get_activation("gelu") is modeling.gelu
  assert modeling.get_activation("GeLU") is modeling.gelu
  assert modeling.get_activation("relu") is tf.nn.relu
  assert modeling.get_activation("tanh") is tf.tanh
  for linear in ("linear", "", None):
    assert modeling.get_activation(linear) is None
  assert modeling.get_activation(math.sin) is math.sin
  with pytest.raises(ValueError) as error:
    modeling.get_activation("Swish")
  assert str(error.value).startswith("Unsupported activation: swish")


def test_initializers():
  with tf.Graph().as_default(), tf.Session() as session:
    modeling.BertModel(make_config(vocab_size=2000, initializer_range=0.5),
                       False, tf.constant(IDS))
    wide = tf.get_variable("wide", [9999],
                           initializer=modeling.create_initializer())
    session.run(tf.global_variables_initializer())
    values = {var.name[:-2]: value for var, value in zip(
        tf.global_variables(), session.run(tf.global_variables()))}
    assert abs(session.run(wide).std() / (0.02 * 0.8796) - 1) < 0.05
  for name, value in values.items():
    if name.endswith(("bias", "beta")):
      assert (value == 0).all()
    elif name.endswith("gamma"):
      assert (value == 1).all()
  words = values["bert/embeddings/word_embeddings"]
  assert np.abs(words).max() <= 1.0  # cut at two standard deviations
  assert abs(words.std() / (0.5 * 0.8796) - 1) < 0.05


def test_get_shape_list():
  with tf.Graph().as_default(), tf.Session() as session:
    assert modeling.get_shape_list(tf.zeros([2, 3])) == [2, 3]
    dynamic = tf.placeholder(tf.float32, [None, 4, None], "fed")
    shape = modeling.get_shape_list(dynamic, expected_rank=[2, 3])
    assert shape[1] == 4
    assert session.run([shape[0], shape[2]],
                       {dynamic: np.zeros([6, 4, 5])}) == [6, 5]
    with tf.variable_scope("inside"), pytest.raises(ValueError) as error:
      modeling.get_shape_list(dynamic, expected_rank=2)
    assert str(error.value).startswith(
        "tensor fed:0 in scope `inside` has rank 3 (shape (")
    assert str(error.value).endswith("); expected rank 2.")


def test_assert_rank():
  with tf.Graph().as_default():
    tensor = tf.zeros([2, 3], name="pair")
    assert modeling.assert_rank(tensor, 2) is None
    assert modeling.assert_rank(tensor, [2, 3]) is None
    with pytest.raises(ValueError) as error:
      modeling.assert_rank(tensor, [1, 3], name="mine")
    assert str(error.value) == (
        "tensor mine in scope `` has rank 2 (shape (2, 3)); expected rank 1 or "
        "3.")
    with pytest.raises(ValueError) as error:
      modeling.assert_rank(tf.placeholder(tf.float32, name="any"), 2)
    assert str(error.value) == (
        "tensor any:0 in scope `` has rank None (shape <unknown>); expected "
        "rank 2.")


def test_reshape_to_and_from_matrix():
  with tf.Graph().as_default(), tf.Session() as session:
    value = np.arange(24).reshape(2, 3, 4)
    tensor = tf.constant(value)
    matrix = modeling.reshape_to_matrix(tensor)
    assert session.run(matrix).tolist() == value.reshape(6, 4).tolist()
    assert modeling.reshape_to_matrix(matrix) is matrix
    assert modeling.reshape_from_matrix(matrix, [6, 4]) is matrix
    back = modeling.reshape_from_matrix(matrix, [2, tf.constant(3), 4])
    assert session.run(back).tolist() == value.tolist()
    with pytest.raises(ValueError) as error:
      modeling.reshape_to_matrix(tf.zeros([3]))
    assert str(error.value) == (
        "the tensor must have rank 2 or more, but its shape is (3,).")


def write_config(directory, content):
  path = os.path.join(str(directory), "bert_config.json")
  with open(path, "w") as writer:
    writer.write(content if isinstance(content, str) else json.dumps(content))
  return path


def test_config_defaults_and_round_trip(tmp_path):
  defaults = {
      "vocab_size": 99, "hidden_size": 768, "num_hidden_layers": 12,
      "num_attention_heads": 12, "intermediate_size": 3072,
      "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
      "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
      "type_vocab_size": 16, "initializer_range": 0.02}
  config = modeling.BertConfig(99)
  assert config.to_dict() == defaults
  assert config.gelu_approximate is True
  text = config.to_json_string()
  assert text == json.dumps(defaults, indent=2, sort_keys=True) + "\n"
  read = modeling.BertConfig.from_json_file(write_config(tmp_path, text))
  assert read.to_dict() == defaults
  config.to_dict()["vocab_size"] = 1
  assert config.vocab_size == 99
  loose = modeling.BertConfig.from_dict({"vocab_size": 5, "own": [1]})
  assert (loose.vocab_size, loose.hidden_size, loose.own) == (5, 768, [1])


def test_config_with_keys_of_real_files(tmp_path, monkeypatch):
  lines = []
  monkeypatch.setattr(modeling.logging, "info",
                      lambda text, *values: lines.append(text % values))
  config = modeling.BertConfig.from_json_file(write_config(tmp_path, {
      "vocab_size": 30, "hidden_size": 8, "num_attention_heads": 2,
      "gelu_approximate": False, "directionality": "bidi", "model_type": "bert",
      "pooler_fc_size": 768, "_name_or_path": "x", "layer_norm_eps": 1e-5,
      "is_encoder_decoder": False, "ln_type": "postln",
      "position_embedding_type": "absolute", "pad_token_id": 0}))
  assert lines == ["bert_config_file: keys not used here: _name_or_path, "
                   "directionality, is_encoder_decoder, ln_type, model_type, "
                   "pad_token_id, pooler_fc_size, position_embedding_type"]
  assert (config.hidden_size, config.gelu_approximate) == (8, False)
  assert config.layer_norm_eps == 1e-5


WHOLE = "; it must be a positive integer."
PROBABILITY = "; it must be at least 0 and below 1."


@pytest.mark.parametrize("content, message", [
    ({"vocab_size": 5, "hiden_size": 8},
     "unknown key \"hiden_size\"; did you mean hidden_size?"),
    ({"vocab_size": 5, "num_layers": 8, "zzz": 1},
     "unknown key \"num_layers\"; did you mean num_hidden_layers?"),
    ({"vocab_size": 5, "zz\nz": 8},
     "unknown key \"zz\\nz\"; a BERT configuration has no such key; remove it "
     "if it is not needed."),
    ({"vocab_size": 5, "validate": 8},
     "unknown key \"validate\"; a BERT configuration has no such key; remove "
     "it if it is not needed."),
    ({}, "vocab_size is missing."),
    ({"vocab_size": None}, "vocab_size is missing."),
    ({"vocab_size": 0}, "vocab_size is 0" + WHOLE),
    ({"vocab_size": True}, "vocab_size is true" + WHOLE),
    ({"vocab_size": "5"}, "vocab_size is \"5\"" + WHOLE),
    ({"vocab_size": 5.0}, "vocab_size is 5.0" + WHOLE),
    ({"vocab_size": 5, "hidden_size": [8]}, "hidden_size is [8]" + WHOLE),
    ({"vocab_size": 5, "num_hidden_layers": 0},
     "num_hidden_layers is 0" + WHOLE),
    ({"vocab_size": 5, "num_attention_heads": -1},
     "num_attention_heads is -1" + WHOLE),
    ({"vocab_size": 5, "intermediate_size": None},
     "intermediate_size is null" + WHOLE),
    ({"vocab_size": 5, "max_position_embeddings": 1.5},
     "max_position_embeddings is 1.5" + WHOLE),
    ({"vocab_size": 5, "type_vocab_size": {}}, "type_vocab_size is {}" + WHOLE),
    ({"vocab_size": 5, "hidden_dropout_prob": 1},
     "hidden_dropout_prob is 1" + PROBABILITY),
    ({"vocab_size": 5, "hidden_dropout_prob": float("nan")},
     "hidden_dropout_prob is NaN" + PROBABILITY),
    ({"vocab_size": 5, "attention_probs_dropout_prob": "0.1"},
     "attention_probs_dropout_prob is \"0.1\"" + PROBABILITY),
    ({"vocab_size": 5, "initializer_range": 0},
     "initializer_range is 0; it must be above 0."),
    ({"vocab_size": 5, "initializer_range": float("nan")},
     "initializer_range is NaN; it must be above 0."),
    ({"vocab_size": 5, "hidden_size": 10, "num_attention_heads": 4},
     "hidden_size 10 is not a multiple of num_attention_heads 4."),
    ({"vocab_size": 5, "gelu_approximate": 1},
     "gelu_approximate is 1; it must be true or false."),
    ({"vocab_size": 5, "hidden_act": "swish"},
     "Unsupported activation: swish (known: gelu, relu, tanh, linear)."),
    ({"vocab_size": 5, "hidden_act": 3},
     "hidden_act is 3; it must be gelu, relu, tanh or linear."),
    ({"vocab_size": 5, "model_type": "roberta"},
     "model_type is \"roberta\"; only bert is supported."),
    ({"vocab_size": 5, "position_embedding_type": "relative_key"},
     "position_embedding_type is \"relative_key\"; this BERT only supports "
     "absolute."),
    ({"vocab_size": 5, "layer_norm_eps": 0},
     "layer_norm_eps is 0; it must be above 0 and below 1."),
    ({"vocab_size": 5, "layer_norm_eps": "1e-12"},
     "layer_norm_eps is \"1e-12\"; it must be above 0 and below 1."),
    ({"vocab_size": 5, "is_decoder": True},
     "is_decoder is true; this BERT only supports false."),
    ({"vocab_size": 5, "is_encoder_decoder": True},
     "is_encoder_decoder is true; this BERT only supports false."),
    ({"vocab_size": 5, "add_cross_attention": True},
     "add_cross_attention is true; this BERT only supports false."),
    ({"vocab_size": 5, "pruned_heads": {"0": [1]}},
     "pruned_heads is {\"0\": [1]}; this BERT only supports {}."),
    ({"vocab_size": 5, "ln_type": "preln"},
     "ln_type is \"preln\"; this BERT only supports postln."),
    ({"vocab_size": 5, "hidden_size": 8, "embedding_size": 4},
     "embedding_size 4 with hidden_size 8 looks like an ALBERT, whose layers "
     "share their weights; give the configuration of a BERT, or, for an "
     "ELECTRA, add \"model_type\": \"electra\"."),
    ({"vocab_size": 5, "embedding_size": 128, "num_hidden_groups": 1},
     "num_hidden_groups marks this as the configuration of an ALBERT, whose "
     "layers share their weights; give that of a BERT."),
    ({"vocab_size": 5, "model_type": "albert"},
     "model_type marks this as the configuration of an ALBERT, whose layers "
     "share their weights; give that of a BERT."),
    ({"vocab_size": 5, "model_type": "electra", "embedding_size": 0},
     "embedding_size is 0; it must be a positive integer."),
])
def test_config_errors(tmp_path, content, message):
  path = write_config(tmp_path, content)
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_json_file(path)
  assert str(error.value) == "bert_config_file %s: %s" % (path, message)


def test_config_files_that_are_none(tmp_path):
  for path, words in ((os.path.join(str(tmp_path), "none.json"),
                       "cannot be read; is the path right?"),
                      (str(tmp_path), "is not a file.")):
    with pytest.raises(ValueError) as error:
      modeling.BertConfig.from_json_file(path)
    assert str(error.value) == "bert_config_file %s %s" % (path, words)
  for content, kind in (("[1]", "list"), ("3", "int"), ("\"a\"", "str"),
                        ("null", "NoneType")):
    path = write_config(tmp_path, content)
    with pytest.raises(ValueError) as error:
      modeling.BertConfig.from_json_file(path)
    assert str(error.value) == (
        "bert_config_file %s must hold a JSON object, not a %s." % (path, kind))
  for content in ("", "{\"vocab_size\": 5,\n}", "vocab_size = 5"):
    path = write_config(tmp_path, content)
    with pytest.raises(ValueError) as error:
      modeling.BertConfig.from_json_file(path)
    assert str(error.value).startswith(
        "bert_config_file %s is not JSON: " % path)
    assert "\n" not in str(error.value)
  with open(path, "wb") as writer:
    writer.write(b"{\"vocab_size\": \"\xff\xfe\"}")
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_json_file(path)
  assert str(error.value).startswith("bert_config_file %s is not JSON: " % path)


# Some of the model's, so that most tests have little to build.
SOME = [VARIABLES[place] for place in (0, 1, 2, 3, 17, 37, 38)]


def write_checkpoint(directory, left_out=(), changed=None, extra=(),
                     variables=tuple(SOME)):
  """Writes a checkpoint of the random weights, as pre-training leaves one."""
  prefix = os.path.join(str(directory), "bert_model.ckpt")
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=False), tf.Session() as session:
    for name, shape in list(variables) + list(extra):
      if not name.startswith(tuple(left_out)):
        tf.get_variable(name, (changed or {}).get(name, shape),
                        initializer=tf.zeros_initializer())
    tf.train.create_global_step()
    set_variables(session)
    tf.train.Saver().save(session, prefix, write_meta_graph=False)
  return prefix


def load_checkpoint(prefix, **arguments):
  """Initializes some of the model's variables, and a head, from it."""
  with tf.Graph().as_default():
    tvars = [tf.get_variable(name, shape, initializer=tf.zeros_initializer())
             for name, shape in SOME + [("output_bias", [4])]]
    return checkpoint_restore.initialize_from_checkpoint(
        tvars, prefix, **arguments)


EXTRA = [("cls/predictions/output_bias", [23]), ("strange", [2]),
         ("bert/pooler/dense/bias/adam_m", [12]),
         ("bert/pooler/dense/bias/adam_v", [12])]


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory):
  return write_checkpoint(tmp_path_factory.mktemp("whole"), extra=EXTRA,
                          variables=VARIABLES)


@pytest.mark.parametrize("use_resource", [False, True])
def test_initialize_from_checkpoint(whole_checkpoint, use_resource):
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=use_resource), tf.Session() as session:
    modeling.BertModel(make_config(), False, tf.constant(IDS))
    tf.get_variable("output_bias", [4], initializer=tf.zeros_initializer())
    report = checkpoint_restore.initialize_from_checkpoint(
        tf.trainable_variables(), whole_checkpoint)
    session.run(tf.global_variables_initializer())
    values = session.run({var.name: var for var in tf.global_variables()})
  assert report.restored == sorted(name for name, _ in VARIABLES)
  assert report.initialized == ["output_bias"]
  assert report.unused == [
      "bert/pooler/dense/bias/adam_m", "bert/pooler/dense/bias/adam_v",
      "cls/predictions/output_bias", "global_step", "strange"]
  for name, shape in VARIABLES:
    close(values[name + ":0"], random_values(name, shape), 0)
  assert (values["output_bias:0"] == 0).all()
  assert checkpoint_restore.format_checkpoint_report(
      report, "some/model.ckpt") == (
          "Variables and the checkpoint some/model.ckpt:\n"
          "    39 from the checkpoint\n"
          "     1 newly initialized: output_bias\n"
          "     5 tensors of the checkpoint not used: 3 optimizer slots; 1 "
          "pre-training heads (cls/*); 1 other: strange")


def test_a_folder_stands_for_its_latest_checkpoint(tmp_path):
  prefix = write_checkpoint(tmp_path)
  assert load_checkpoint(str(tmp_path)) == load_checkpoint(prefix)


def test_format_checkpoint_report_of_nothing_and_of_much():
  report = checkpoint_restore.CheckpointReport(
      ["a"], [], ["x%d" % number for number in range(8)])
  assert checkpoint_restore.format_checkpoint_report(
      report, "c"
  ).split("\n")[1:] == [
      "     1 from the checkpoint", "     0 newly initialized",
      "     8 tensors of the checkpoint not used: 8 other: x0, x1, x2, x3, x4, "
      "x5, and 2 more"
  ]
  report = checkpoint_restore.CheckpointReport(["a"], [], [])
  assert checkpoint_restore.format_checkpoint_report(report, "c").endswith(
      "     0 tensors of the checkpoint not used")


def test_checkpoint_without_an_encoder_variable(tmp_path):
  name = "bert/encoder/layer_0/output/dense/kernel"
  prefix = write_checkpoint(tmp_path, left_out=[name])
  with pytest.raises(ValueError) as error:
    load_checkpoint(prefix)
  assert str(error.value) == (
      "init_checkpoint %s lacks %s, shape [20, 12] (1 of the model's 8 "
      "variables are not in it)." % (prefix, name))


def write_renamed(directory, rename):
  """Copies a checkpoint of the variables with other names."""
  values = [(rename(name), random_values(name, shape)) for name, shape in SOME]
  prefix = os.path.join(str(directory), "renamed.ckpt")
  with tf.Graph().as_default(), tf.Session() as session:
    session.run(tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=[name for name, _ in values],
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(np.float32(value)) for _, value in values]))
  return prefix


@pytest.mark.parametrize("prefix", ["", "module/bert/", "model/", "electra/"])
def test_names_that_begin_in_another_way(tmp_path, prefix):
  path = write_renamed(tmp_path, lambda name: prefix + name[len("bert/"):])
  with tf.Graph().as_default(), tf.Session() as session:
    tvars = [tf.get_variable(name, shape, initializer=tf.zeros_initializer())
             for name, shape in SOME]
    report = checkpoint_restore.initialize_from_checkpoint(tvars, path)
    session.run(tf.global_variables_initializer())
    values = session.run(tvars)
  assert report.restored == sorted(name for name, _ in SOME)
  assert report.unused == report.initialized == []
  for (name, shape), value in zip(SOME, values):
    close(value, random_values(name, shape), 0)


@pytest.mark.parametrize("rename, words", [
    (lambda name: "teacher/" + name,
        "has none of the model's variables (bert/embeddings/LayerNorm/beta, "
        "...): the names of its 7 tensors start with teacher/bert/ (7)."),
    (lambda name: name.replace("/", ".") + "/.ATTRIBUTES/VARIABLE_VALUE",
     "it is an object-based TensorFlow 2 checkpoint"),
    (lambda name: name.replace("bert", "bert/encoder/group_0/inner_group_0", 1),
     "it is an ALBERT, whose layers share their weights."),
])
def test_names_that_are_not_the_models(tmp_path, rename, words):
  with pytest.raises(ValueError) as error:
    load_checkpoint(write_renamed(tmp_path, rename))
  assert words in str(error.value) and "\n" not in str(error.value)


def test_checkpoint_without_pooler(tmp_path):
  prefix = write_checkpoint(tmp_path, left_out=["bert/pooler/"])
  with pytest.raises(ValueError) as error:
    load_checkpoint(prefix)
  assert str(error.value) == (
      "init_checkpoint %s lacks bert/pooler/dense/bias, shape [12] (2 of the "
      "model's 8 variables are not in it); it has no pooler: choose another "
      "--pooling (mean or cls)." % prefix)
  report = load_checkpoint(prefix, not_needed=("bert/pooler/",))
  assert report.initialized == [
      "bert/pooler/dense/bias", "bert/pooler/dense/kernel", "output_bias"]


@pytest.mark.parametrize("name, shape, model_shape, hint", [
    ("bert/embeddings/word_embeddings", [24, 12], [23, 12],
     "vocab_file, and vocab_size and hidden_size of bert_config_file, must "
     "match the checkpoint"),
    ("bert/embeddings/position_embeddings", [8, 12], [16, 12],
     "max_position_embeddings and hidden_size of bert_config_file must match "
     "the checkpoint"),
    ("bert/embeddings/token_type_embeddings", [2, 12], [3, 12],
     "type_vocab_size and hidden_size of bert_config_file must match the "
     "checkpoint"),
    ("bert/encoder/layer_0/output/dense/kernel", [21, 12], [20, 12],
     "bert_config_file must match the checkpoint"),
    ("output_bias", [3], [4],
     "the checkpoint was trained with a different number of labels"),
])
def test_checkpoint_of_another_shape(tmp_path, name, shape, model_shape, hint):
  prefix = write_checkpoint(tmp_path, changed={name: shape},
                            extra=[("output_bias", [4])])
  with pytest.raises(ValueError) as error:
    load_checkpoint(prefix)
  assert str(error.value) == (
      "init_checkpoint %s has %s with shape %s, but the model needs %s with "
      "shape %s (%s)." % (prefix, name, shape, name, model_shape, hint))


def test_what_is_no_checkpoint(tmp_path):
  prefix = write_checkpoint(tmp_path)
  for suffix in (".index", ".data-00000-of-00001", ".meta"):
    with pytest.raises(ValueError) as error:
      load_checkpoint(prefix + suffix)
    assert str(error.value) == (
        "%s%s is one of the files of a checkpoint; give their common prefix: "
        "%s" % (prefix, suffix, prefix))
  missing = os.path.join(str(tmp_path), "none.ckpt")
  with pytest.raises(ValueError) as error:
    load_checkpoint(missing)
  assert str(error.value) == (
      "there is no checkpoint %s (looked for %s.index)." % (missing, missing))
  text = tmp_path / "notes.txt"
  text.write_text(u"no checkpoint\n" * 20)
  folder = tmp_path / "folder"
  folder.mkdir()
  for path, words in (
      (str(text), "%s cannot be read as a TensorFlow checkpoint: "),
      (str(folder), "%s is a folder, not a checkpoint prefix; use ")):
    with pytest.raises(ValueError) as error:
      load_checkpoint(path)
    assert str(error.value).startswith(words % path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["short", "changed", "gone"])
def test_checkpoint_whose_data_are_damaged(tmp_path, damage):
  prefix = write_checkpoint(tmp_path)
  path = prefix + ".data-00000-of-00001"
  with open(path, "rb") as reader:
    content = bytearray(reader.read())
  if damage == "gone":
    os.remove(path)
  else:
    content[700] ^= 1
    with open(path, "wb") as writer:
      writer.write(content[:1000] if damage == "short" else content)
  with pytest.raises(ValueError) as error:
    load_checkpoint(prefix)
  assert str(error.value).startswith("init_checkpoint %s: bert/" % prefix)
  assert " cannot be read; are its data files complete? (" in str(
      error.value)
  assert "\n" not in str(error.value)


def test_checkpoint_whose_index_is_short(tmp_path):
  prefix = write_checkpoint(tmp_path)
  with open(prefix + ".index", "rb") as reader:
    content = reader.read()
  for size in (0, 20, len(content) - 1):
    with open(prefix + ".index", "wb") as writer:
      writer.write(content[:size])
    with pytest.raises(ValueError) as error:
      load_checkpoint(prefix)
    assert str(error.value).startswith(
        "%s cannot be read as a TensorFlow checkpoint: " % prefix)


def test_checkpoint_of_another_type(tmp_path):
  prefix = os.path.join(str(tmp_path), "half.ckpt")
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable("bert/w", [2], tf.float16, tf.zeros_initializer())
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, prefix)
  with tf.Graph().as_default():
    var = tf.get_variable("bert/w", [2])
    with pytest.raises(ValueError) as error:
      checkpoint_restore.initialize_from_checkpoint([var], prefix)
  assert str(error.value) == (
      "init_checkpoint %s has bert/w as float16, but the model needs float32." %
      prefix)


def test_get_assignment_map_from_checkpoint(tmp_path):
  prefix = write_checkpoint(tmp_path, extra=[("other", [2])])
  with tf.Graph().as_default():
    tvars = [tf.get_variable(name, shape) for name, shape in (
        ("bert/pooler/dense/bias", [12]), ("mine", [2]),
        ("bert/embeddings/word_embeddings", [23, 12]))]
    mapping, names = modeling.get_assignment_map_from_checkpoint(tvars, prefix)
  assert list(mapping.items()) == [
      ("bert/embeddings/word_embeddings", "bert/embeddings/word_embeddings"),
      ("bert/pooler/dense/bias", "bert/pooler/dense/bias")]
  assert names == {
      "bert/embeddings/word_embeddings": 1,
      "bert/embeddings/word_embeddings:0": 1,
      "bert/pooler/dense/bias": 1, "bert/pooler/dense/bias:0": 1}


# Arguments of google-research/bert eedf571, "name=default".
MODELING = {
    "BertConfig.__init__": (
        "self vocab_size hidden_size=768 num_hidden_layers=12 "
        "num_attention_heads=12 intermediate_size=3072 hidden_act='gelu' "
        "hidden_dropout_prob=0.1 attention_probs_dropout_prob=0.1 "
        "max_position_embeddings=512 type_vocab_size=16 "
        "initializer_range=0.02"),
    "BertConfig.from_dict": "json_object",
    "BertConfig.from_json_file": "json_file",
    "BertConfig.to_dict": "self",
    "BertConfig.to_json_string": "self",
    "BertModel.__init__": (
        "self config is_training input_ids input_mask=None "
        "token_type_ids=None use_one_hot_embeddings=False scope=None"),
    "BertModel.get_pooled_output": "self",
    "BertModel.get_sequence_output": "self",
    "BertModel.get_all_encoder_layers": "self",
    "BertModel.get_embedding_output": "self",
    "BertModel.get_embedding_table": "self",
    "gelu": "x",
    "get_activation": "activation_string",
    "get_assignment_map_from_checkpoint": "tvars init_checkpoint",
    "dropout": "input_tensor dropout_prob",
    "layer_norm": "input_tensor name=None",
    "layer_norm_and_dropout": "input_tensor dropout_prob name=None",
    "create_initializer": "initializer_range=0.02",
    "embedding_lookup": (
        "input_ids vocab_size embedding_size=128 initializer_range=0.02 "
        "word_embedding_name='word_embeddings' use_one_hot_embeddings=False"),
    "embedding_postprocessor": (
        "input_tensor use_token_type=False token_type_ids=None "
        "token_type_vocab_size=16 "
        "token_type_embedding_name='token_type_embeddings' "
        "use_position_embeddings=True "
        "position_embedding_name='position_embeddings' "
        "initializer_range=0.02 max_position_embeddings=512 "
        "dropout_prob=0.1"),
    "create_attention_mask_from_input_mask": "from_tensor to_mask",
    "attention_layer": (
        "from_tensor to_tensor attention_mask=None num_attention_heads=1 "
        "size_per_head=512 query_act=None key_act=None value_act=None "
        "attention_probs_dropout_prob=0.0 initializer_range=0.02 "
        "do_return_2d_tensor=False batch_size=None from_seq_length=None "
        "to_seq_length=None"),
    "transformer_model": (
        "input_tensor attention_mask=None hidden_size=768 "
        "num_hidden_layers=12 num_attention_heads=12 intermediate_size=3072 "
        "intermediate_act_fn=gelu hidden_dropout_prob=0.1 "
        "attention_probs_dropout_prob=0.1 initializer_range=0.02 "
        "do_return_all_layers=False"),
    "get_shape_list": "tensor expected_rank=None name=None",
    "reshape_to_matrix": "input_tensor",
    "reshape_from_matrix": "output_tensor orig_shape_list",
    "assert_rank": "tensor expected_rank name=None",
}

TOKENIZATION = {
    "validate_case_matches_checkpoint": "do_lower_case init_checkpoint",
    "convert_to_unicode": "text",
    "printable_text": "text",
    "load_vocab": "vocab_file",
    "convert_by_vocab": "vocab items",
    "convert_tokens_to_ids": "vocab tokens",
    "convert_ids_to_tokens": "inv_vocab ids",
    "whitespace_tokenize": "text",
    "FullTokenizer.__init__": "self vocab_file do_lower_case=True",
    "FullTokenizer.tokenize": "self text",
    "FullTokenizer.convert_tokens_to_ids": "self tokens",
    "FullTokenizer.convert_ids_to_tokens": "self ids",
    "BasicTokenizer.__init__": "self do_lower_case=True",
    "BasicTokenizer.tokenize": "self text",
    "WordpieceTokenizer.__init__": (
        "self vocab unk_token='[UNK]' max_input_chars_per_word=200"),
    "WordpieceTokenizer.tokenize": "self text",
}


def check_signatures(module, expected):
  """The original's arguments come first; what we add has a default."""
  for name, arguments in sorted(expected.items()):
    function = module
    for part in name.split("."):
      function = getattr(function, part)
    actual = [
        parameter.name if parameter.default is parameter.empty else
        "%s=%s" % (parameter.name, getattr(parameter.default, "__name__",
                                           repr(parameter.default)))
        for parameter in inspect.signature(function).parameters.values()]
    arguments = arguments.split()
    assert actual[:len(arguments)] == arguments, name
    for added in actual[len(arguments):]:
      assert added.endswith(("=None", "=False", "=1e-12")), name


def test_public_names_arguments_and_defaults():
  check_signatures(modeling, MODELING)
  check_signatures(tokenization, TOKENIZATION)


@pytest.mark.newest
def test_import_does_nothing_else():
  program = """
import tensorflow.compat.v1 as tf
from absl import flags
known, eager = set(flags.FLAGS), tf.executing_eagerly()
resource = tf.resource_variables_enabled()
import modeling, optimization
from multilabel import head
assert set(flags.FLAGS) == known, set(flags.FLAGS) - known
assert tf.executing_eagerly() == eager
assert tf.resource_variables_enabled() == resource
graph = tf.Graph() if eager else tf.get_default_graph()
assert not graph.get_operations()
assert not tf.get_default_graph().get_operations()
"""
  subprocess.check_output([sys.executable, "-c", program], cwd=ROOT,
                          stderr=subprocess.STDOUT)
