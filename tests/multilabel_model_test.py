# SPDX-License-Identifier: Apache-2.0
"""Tests of multilabel_model.py.

The oracle is numpy in float64 on top of the encoder's outputs, which
`modeling_test.py` compares with numpy.
"""

import inspect
import math
import zlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling
from multilabel import head


WIDTH, NUM_LABELS = 8, 4
IDS = np.array([[5, 1, 9, 4], [3, 3, 0, 0], [2, 7, 6, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], np.int32)
TYPES = np.array([[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], np.int32)
LABELS = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)


def make_config(dropout=0.1):
  return modeling.BertConfig(
      vocab_size=11, hidden_size=WIDTH, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=12, max_position_embeddings=9,
      type_vocab_size=2, hidden_dropout_prob=dropout,
      attention_probs_dropout_prob=dropout)


def values_of(name, shape):
  rng = np.random.RandomState(zlib.crc32(name.encode("utf-8")))
  offset = 1.0 if name.endswith("gamma") else 0.0
  return (offset + 0.5 * rng.randn(*shape)).astype(np.float32)


def set_variables(session, changes=None):
  feed, initializers = {}, []
  for var in tf.global_variables():
    name = var.name[:-2]
    initializers.append(var.initializer)
    feed[var.initializer.inputs[1]] = (changes or {}).get(
        name, values_of(name, var.shape.as_list()))
  session.run(initializers, feed)


def create(is_training=False, labels=LABELS, mask=MASK, config=None,
           one_hot=False, **options):
  return head.create_model(
      config or make_config(), is_training, tf.constant(IDS),
      tf.constant(mask), tf.constant(TYPES),
      None if labels is None else tf.constant(labels), NUM_LABELS, one_hot,
      **options)


def run(changes=None, **arguments):
  with tf.Graph().as_default(), tf.Session() as session:
    outputs = create(**arguments)
    set_variables(session, changes)
    return session.run(list(outputs))


@pytest.fixture(scope="module")
def encoder():
  """(sequence output, pooled output) in float64."""
  with tf.Graph().as_default(), tf.Session() as session:
    model = modeling.BertModel(
        make_config(), False, *[tf.constant(x) for x in (IDS, MASK, TYPES)])
    set_variables(session)
    return [x.astype(np.float64) for x in session.run(
        [model.get_sequence_output(), model.get_pooled_output()])]


def numpy_head(vectors, bias=None):
  """(loss, per-example loss, logits, probabilities)."""
  weights = values_of("output_weights", [NUM_LABELS, WIDTH])
  if bias is None:
    bias = values_of("output_bias", [NUM_LABELS])
  logits = vectors.dot(weights.astype(np.float64).T) + bias
  losses = np.zeros(logits.shape)
  for place, x in np.ndenumerate(logits):
    # -log(sigmoid(x)) where the label is on, -log(1 - sigmoid(x)) where not.
    x = -x if LABELS[place] else x
    losses[place] = max(x, 0.0) + math.log1p(math.exp(-abs(x)))
  per_example = np.array([row.sum() / NUM_LABELS for row in losses])
  return (per_example.sum() / len(losses), per_example, logits,
          1.0 / (1.0 + np.exp(-logits)))


def mean_over_tokens(sequence):
  return np.array([row[:mask.sum()].mean(axis=0)
                   for row, mask in zip(sequence, MASK)])


def check(actual, expected, tolerance=1e-5):
  assert [np.shape(x) for x in actual] == [(), (3,), (3, 4), (3, 4)]
  for mine, wanted in zip(actual, expected):
    assert mine.dtype == np.float32
    np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("one_hot", [False, True])
def test_default_pooling_equals_numpy(encoder, one_hot):
  check(run(one_hot=one_hot), numpy_head(encoder[1]))
  check(run(pooling="pooler"), numpy_head(encoder[1]))


def test_poolings_equal_numpy(encoder):
  check(run(pooling="cls"), numpy_head(encoder[0][:, 0]))
  check(run(pooling="mean"), numpy_head(mean_over_tokens(encoder[0])))


def test_loss_of_extreme_logits(encoder):
  bias = np.array([200.0, -200.0, 60.0, 0.0], np.float32)
  outputs = run(changes={"output_bias": bias})
  check(outputs, numpy_head(encoder[1], bias.astype(np.float64)), 1e-4)
  assert outputs[0] > 40


def test_loss_is_the_mean_over_labels_then_over_the_batch():
  """Logits of 0 cost ln 2 a label; one label of logit ln 3 costs ln 4/3."""
  outputs = run(changes={
      "output_weights": np.zeros([NUM_LABELS, WIDTH]),
      "output_bias": np.array([0.0, 0.0, 0.0, math.log(3.0)])})
  on, off, half = math.log(4.0 / 3.0), math.log(4.0), math.log(2.0)
  expected = [(3 * half + on) / 4, (3 * half + off) / 4, (3 * half + on) / 4]
  np.testing.assert_allclose(outputs[1], expected, rtol=1e-6)
  np.testing.assert_allclose(outputs[0], sum(expected) / 3, rtol=1e-6)
  np.testing.assert_allclose(outputs[3], [[0.5, 0.5, 0.5, 0.75]] * 3,
                             rtol=1e-6)


def loss_of_numbers(labels, logits):
  """A loss of each cell that no other one is."""
  return 3.0 * labels + logits * [0.0, 1.0, 10.0, 100.0]


def test_another_loss(encoder):
  vectors = mean_over_tokens(encoder[0])
  _, _, logits, probabilities = numpy_head(vectors)
  per_example = (3.0 * LABELS + logits * [0, 1, 10, 100]).sum(axis=1) / 4
  expected = (per_example.sum() / 3, per_example, logits, probabilities)
  check(run(pooling="mean", loss_fn=loss_of_numbers), expected, 1e-4)
  with tf.Graph().as_default(), tf.Session() as session:
    graph = head.create_inference_graph(
        make_config(), NUM_LABELS, "mean", with_labels=True,
        loss_fn=loss_of_numbers)
    set_variables(session)
    np.testing.assert_allclose(
        session.run(graph.per_example_loss, {
            graph.input_ids: IDS, graph.input_mask: MASK,
            graph.segment_ids: TYPES, graph.labels: LABELS}),
        per_example, rtol=1e-5)


def test_logits_that_are_fed_are_what_the_rest_is_made_of():
  """How the pooled logits of windows become probabilities and a loss."""
  logits = np.array([[0.0, math.log(3.0), -200.0, 200.0]], np.float32)
  with tf.Graph().as_default(), tf.Session() as session:
    graph = head.create_inference_graph(
        make_config(), NUM_LABELS, "mean", with_labels=True)
    probabilities, losses = session.run(
        [graph.probabilities, graph.per_example_loss],
        {graph.logits: logits, graph.labels: LABELS[:1]})
  np.testing.assert_allclose(probabilities, [[0.5, 0.75, 0.0, 1.0]], rtol=1e-6)
  np.testing.assert_allclose(losses, [(math.log(2) + math.log(4)) / 4],
                             rtol=1e-6)


def test_gradient_of_the_logits():
  """(probability - label) / labels / batch, by calculus."""
  with tf.Graph().as_default(), tf.Session() as session:
    loss, _, logits, probabilities = create()
    gradient = tf.gradients(loss, logits)[0]
    set_variables(session)
    actual, values = session.run([gradient, probabilities])
  np.testing.assert_allclose(
      actual, (values.astype(np.float64) - LABELS) / 4 / 3, rtol=1e-5,
      atol=1e-8)


def test_text_without_any_token_stays_finite():
  mask = MASK * [[1], [0], [1]]
  for pooling in head.POOLINGS:
    assert all(np.isfinite(x).all() for x in run(
        mask=mask.astype(np.int32), pooling=pooling))


def test_without_labels():
  with tf.Graph().as_default():
    outputs = create(labels=None)
    assert outputs[:2] == (None, None)
    assert [x.shape.as_list() for x in outputs[2:]] == [[3, 4], [3, 4]]
    assert [x.dtype for x in outputs[2:]] == [tf.float32, tf.float32]


@pytest.mark.parametrize("use_resource", [False, True])
def test_variables(use_resource):
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=use_resource), tf.Session() as session:
    create(pooling="mean")
    tvars = tf.trainable_variables()
    assert tf.global_variables() == tvars
    names = [var.name for var in tvars]
    session.run(tf.global_variables_initializer())
    weights, bias = session.run(tvars[-2:])
  assert names[0] == "bert/embeddings/word_embeddings:0"
  assert len(names) == 25
  assert all(name.startswith("bert/") for name in names[:-2])
  assert names[-4:] == ["bert/pooler/dense/kernel:0",
                        "bert/pooler/dense/bias:0", "output_weights:0",
                        "output_bias:0"]
  assert weights.shape == (NUM_LABELS, WIDTH)
  assert 0.005 < weights.std() and np.abs(weights).max() <= 0.04
  assert bias.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("changes", [
    {}, {"num_hidden_layers": 3, "intermediate_size": 7, "type_vocab_size": 5},
    {"embedding_size": 6}])
def test_shapes_of_the_variables_are_known_without_the_graph(changes):
  config = make_config()
  for key, value in changes.items():
    setattr(config, key, value)
  with tf.Graph().as_default():
    create(config=config)
    built = {var.op.name: var.shape.as_list() for var in tf.global_variables()}
  assert head.variable_shapes(config, NUM_LABELS) == built


def test_output_bias_initializer():
  prior = head.log_odds([1, 2, 3, 4], 8)
  with tf.Graph().as_default(), tf.Session() as session:
    create(output_bias_initializer=tf.constant_initializer(prior))
    session.run(tf.global_variables_initializer())
    bias = session.run(tf.global_variables()[-1])
  np.testing.assert_allclose(
      1 / (1 + np.exp(-bias.astype(np.float64))),
      [0.125, 0.25, 0.375, 0.5], rtol=1e-6)


@pytest.mark.parametrize("pooling, has_gradient", [
    ("pooler", True), ("cls", False), ("mean", False)])
def test_pooler_learns_only_where_it_is_used(pooling, has_gradient):
  with tf.Graph().as_default():
    loss = create(pooling=pooling)[0]
    tvars = tf.trainable_variables()
    learning = [var.name for var, gradient in zip(
        tvars, tf.gradients(loss, tvars)) if gradient is not None]
  assert len(learning) == (25 if has_gradient else 23)
  assert ("bert/pooler/dense/kernel:0" in learning) == has_gradient


def test_unknown_pooling():
  with tf.Graph().as_default():
    with pytest.raises(ValueError) as error:
      create(pooling="max")
    assert tf.global_variables() == []
  assert str(error.value) == (
      "pooling is max; it must be one of pooler, cls, mean.")


def random_ops(**arguments):
  with tf.Graph().as_default() as graph:
    create(**arguments)
    return [op.name for op in graph.get_operations()
            if "RandomUniform" in op.type]


def test_dropout_is_on_while_training_only():
  assert random_ops() == []
  assert len(random_ops(is_training=True)) == 5  # 4 of the encoder, the head's
  names = random_ops(is_training=True, config=make_config(dropout=0.0))
  assert len(names) == 1 and names[0].startswith("loss/")


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_dropout_of_the_head(encoder, pooling):
  """The encoder's is off here, so the head's mask can be made again."""
  seed = (3, 17)
  with tf.Graph().as_default(), tf.Session() as session:
    with tf.variable_scope("loss"):
      mask = session.run(modeling.dropout(tf.ones([3, WIDTH]), 0.1, seed))
  kept = mask[mask != 0]
  assert 0 < len(kept) < mask.size
  # The rate is a multiple of 2 ** -16.
  np.testing.assert_allclose(kept, 1 / 0.9, rtol=1e-5)
  vectors = {"pooler": encoder[1], "cls": encoder[0][:, 0],
             "mean": mean_over_tokens(encoder[0])}[pooling]
  check(run(is_training=True, config=make_config(dropout=0.0),
            pooling=pooling, dropout_seed=seed), numpy_head(vectors * mask))


def test_dropout_without_seed_differs_from_run_to_run(encoder):
  with tf.Graph().as_default(), tf.Session() as session:
    logits = create(is_training=True, config=make_config(dropout=0.0))[2]
    set_variables(session)
    values = [session.run(logits) for _ in range(200)]
  # Two masks of 24 cells may be the same, by chance.
  assert np.std(values, axis=0).min() > 1e-3
  # Scaled so that the mean stays.
  np.testing.assert_allclose(np.mean(values, axis=0), numpy_head(encoder[1])[2],
                             atol=0.2)


@pytest.mark.parametrize("with_labels", [False, True])
def test_create_inference_graph(encoder, with_labels):
  with tf.Graph().as_default(), tf.Session() as session:
    graph = head.create_inference_graph(
        make_config(), NUM_LABELS, "mean", with_labels=with_labels)
    set_variables(session)
    feed = {graph.input_ids: IDS, graph.input_mask: MASK,
            graph.segment_ids: TYPES}
    for tensor, name in zip(graph[:3], ("input_ids", "input_mask",
                                        "segment_ids")):
      assert (tensor.name, tensor.dtype) == (name + ":0", tf.int32)
      assert tensor.shape.as_list() == [None, None]
    expected = numpy_head(mean_over_tokens(encoder[0]))
    np.testing.assert_allclose(session.run(graph.logits, feed), expected[2],
                               atol=1e-5)
    np.testing.assert_allclose(session.run(graph.probabilities, feed),
                               expected[3], atol=1e-5)
    if not with_labels:
      assert graph.labels is None and graph.per_example_loss is None
      return
    assert (graph.labels.name, graph.labels.dtype) == ("labels:0", tf.float32)
    assert graph.labels.shape.as_list() == [None, NUM_LABELS]
    feed[graph.labels] = LABELS
    np.testing.assert_allclose(session.run(graph.per_example_loss, feed),
                               expected[1], atol=1e-5)


def test_log_odds():
  odds = head.log_odds(np.array([5, 0, 10, 1]), 10)
  assert isinstance(odds, list) and {type(x) for x in odds} == {float}
  np.testing.assert_allclose(
      odds, [0.0, math.log(0.5 / 9.5), math.log(9.5 / 0.5),
             math.log(1.0 / 9.0)], rtol=1e-12)
  assert head.log_odds([0, 1], 1) == [0.0, 0.0]


def test_arguments():
  parameters = [str(x).replace(" ", "") for x in inspect.signature(
      head.create_model).parameters.values()]
  assert parameters[:8] == [
      "bert_config", "is_training", "input_ids", "input_mask", "segment_ids",
      "labels", "num_labels", "use_one_hot_embeddings"]
  assert parameters[8:11] == [
      "pooling='pooler'", "dropout_seed=None", "output_bias_initializer=None"]
  assert [x.partition("=")[0] for x in parameters[11:]] == [
      "loss_fn", "recorded_layers", "output_weights_initializer",
      "calibration", "dropout_samples", "change_word_embeddings"]
