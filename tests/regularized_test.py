# SPDX-License-Identifier: Apache-2.0
"""Tests of --multi_sample_dropout, --r_drop and --adversarial=fgm."""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel import head
from multilabel.training import model_graph
from multilabel.training import regularized
import run_multilabel_classifier


CONFIG = modeling.BertConfig.from_dict(dict(
    tiny_bert.CONFIG, vocab_size=len(tiny_bert.vocabulary()),
    num_hidden_layers=1))
PLAIN = modeling.BertConfig.from_dict(dict(
    CONFIG.to_dict(), hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0))
FEATURES = {
    "input_ids": np.array([[2, 7, 9, 3], [2, 8, 3, 0], [2, 6, 5, 3]]),
    "input_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
    "segment_ids": np.zeros([3, 4], np.int64),
    "label_ids": np.array([[1, 0], [0, 0], [1, 1]], np.float32)}


def cross_entropy(labels, logits):
  """A number per text, in float64."""
  x = np.asarray(logits, np.float64)
  return np.mean(np.logaddexp(0, x) - labels * x, axis=-1)


@pytest.fixture
def plain_head(monkeypatch):
  """No dropout before the label head either."""
  monkeypatch.setattr(modeling, "dropout",
                      lambda tensor, rate, seed=None: tensor)


def constants():
  return {name: tf.constant(value) for name, value in FEATURES.items()}


def build_tower(config=PLAIN, **settings):
  return model_graph.make_tower(config, 2, False, model_graph.GraphSettings(
      pooling="mean", random_seed=1, **settings))(
          constants(), (1, tf.constant(5, tf.int64)))


def test_divergence_is_the_mean_of_both_kullback_leibler_divergences():
  rng = np.random.RandomState(0)
  x, z = rng.normal(0, 3, [20, 4]), rng.normal(0, 3, [20, 4])
  p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-z))

  def kl(a, b):
    return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))

  with tf.Graph().as_default(), tf.Session() as session:
    found = session.run(regularized.divergence(tf.constant(x), tf.constant(z)))
  np.testing.assert_allclose(found, ((kl(p, q) + kl(q, p)) / 2).mean(axis=1))


def test_adversarial_move_by_hand():
  """Of sum (w * x): the gradient is w; lengths of 3-4-5; tiny and zero ones."""
  weights = np.zeros([3, 2, 2], np.float32)
  weights[0, 0, 0], weights[0, 1, 1] = 3, -4
  weights[1, 0] = 3e-30, 4e-30  # whose square is 0 in float32
  with tf.Graph().as_default(), tf.Session() as session:
    x = tf.ones([3, 2, 2])
    move = regularized.adversarial_move(
        tf.reduce_sum(weights * x, axis=[1, 2]), x, 10.0)
    found = session.run(move)
  expected = np.zeros([3, 2, 2])
  expected[0, 0, 0], expected[0, 1, 1] = 6, -8
  expected[1, 0] = 6, 8
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fgm_equals_two_graphs(plain_head):
  """The move made in numpy from one graph's gradient, fed to another."""
  def model(change=None):
    return head.create_model(
        PLAIN, True, *[tf.constant(FEATURES[name]) for name in (
            "input_ids", "input_mask", "segment_ids", "label_ids")] + [
                2, False], pooling="mean", change_word_embeddings=change)

  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(3)
    words = []
    _, losses, gradients = build_tower(fgm_epsilon=0.7)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      _, first, _, _ = model(lambda x: words.append(x) or x)
      fed = tf.placeholder(tf.float32, [3, 4, PLAIN.hidden_size])
      _, second, _, _ = model(lambda x: x + fed)
    kernel = [var for var in tf.trainable_variables()
              if var.op.name == "output_weights"]
    slope, = gradients(tf.reduce_mean(losses), kernel)
    plain_slope, = tf.gradients(
        (tf.reduce_mean(first) + tf.reduce_mean(second)) / 2, kernel)
    word_slope, = tf.gradients(first, [words[0]])
    session.run(tf.global_variables_initializer())
    g = session.run(word_slope).astype(np.float64)
    move = 0.7 * g / np.sqrt((g ** 2).sum(axis=(1, 2), keepdims=True))
    found, a, b, found_slope, expected_slope = session.run(
        [losses, first, second, slope, plain_slope], {fed: move})
  assert (b > a).all()  # each text became harder
  np.testing.assert_allclose(found, (a + b) / 2, rtol=1e-5)
  np.testing.assert_allclose(found_slope, expected_slope, rtol=1e-4, atol=1e-6)


def test_r_drop_equals_two_passes():
  """With masks of two seeds; the logits of each are what the formula takes."""
  def logits_of(seed):
    return head.create_model(
        CONFIG, True, *[tf.constant(FEATURES[name]) for name in (
            "input_ids", "input_mask", "segment_ids", "label_ids")] + [
                2, False], pooling="mean", dropout_seed=(
                    seed, tf.constant(5, tf.int64)))[2]

  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(3)
    _, losses, _ = build_tower(CONFIG, r_drop=3.0)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      logits = [logits_of(1), logits_of(1 ^ (1 << 30))]
    session.run(tf.global_variables_initializer())
    found, x, z = session.run([losses] + logits)
  assert np.abs(x - z).max() > 1e-4
  x, z = x.astype(np.float64), z.astype(np.float64)
  distance = 0.5 * np.mean(
      (1 / (1 + np.exp(-x)) - 1 / (1 + np.exp(-z))) * (x - z), axis=1)
  labels = FEATURES["label_ids"]
  np.testing.assert_allclose(found, (
      cross_entropy(labels, x) + cross_entropy(labels, z)) / 2 +
                             1.5 * distance, rtol=1e-5)


def test_multi_sample_dropout_averages_losses(monkeypatch):
  """Dropout number n multiplies by n: then the logits are n times the first."""
  calls = []

  def multiply(tensor, rate, seed=None):
    del seed
    if rate != 0.1:
      return tensor
    calls.append(tf.get_variable_scope().name)
    return tensor * len(calls)

  monkeypatch.setattr(modeling, "dropout", multiply)
  with tf.Graph().as_default(), tf.Session() as session:
    outputs = head.create_model(
        PLAIN, True, *[tf.constant(FEATURES[name]) for name in (
            "input_ids", "input_mask", "segment_ids", "label_ids")] + [
                2, False], pooling="mean", dropout_samples=3)
    session.run(tf.global_variables_initializer())
    _, losses, logits, _ = session.run(outputs)
  assert len(set(calls)) == 3 and calls[0] == "loss"
  np.testing.assert_allclose(losses, np.mean([
      cross_entropy(FEATURES["label_ids"], n * logits) for n in (1, 2, 3)],
                                             axis=0), rtol=1e-5)


# The run.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (40, 20, 12))


def call(bert, data, output_dir, **flags):
  return tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, str(output_dir), **dict({
              "save_checkpoints_steps": 3, "random_seed": 3}, **flags)))


def train(*args, **flags):
  status, _, stderr, _ = call(*args, **flags)
  assert (status, stderr) == (0, "")
  return tiny_bert.read_weights(os.path.join(str(args[-1]), "model.ckpt-10"))


@pytest.fixture(scope="module")
def plain(bert, data, tmp_path_factory):
  return train(bert, data, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("flags", [
    {"multi_sample_dropout": 4}, {"r_drop": 1.0}, {"adversarial": "fgm"}])
def test_each_changes_the_weights(flags, bert, data, plain, tmp_path):
  found = train(bert, data, tmp_path / "out", **flags)
  assert found["output_weights"].tobytes() != plain["output_weights"].tobytes()


def test_a_killed_run_goes_on_to_equal_bits(bert, data, tmp_path):
  flags = {"adversarial": "fgm", "r_drop": 0.5, "multi_sample_dropout": 2,
           "ema_decay": 0.9, "loss": "zlpr", "gradient_accumulation_steps": 2}
  tiny_bert.check_goes_on_to_equal_bits(
      lambda folder: call(bert, data, folder, **flags)[0], tmp_path)


@pytest.mark.parametrize("flags, words", [
    ({"multi_sample_dropout": 0}, "--multi_sample_dropout is 0"),
    ({"r_drop": -1}, "--r_drop is -1"),
    ({"adversarial": "fgm", "fgm_epsilon": "nan"}, "--fgm_epsilon is nan"),
    ({"fgm_epsilon": 0.5}, "--fgm_epsilon needs --adversarial=fgm"),
    ({"adversarial": "fgm", "recompute_layers": True},
     "--adversarial=fgm cannot be combined with --recompute_layers")])
def test_what_is_refused(flags, words, bert, data, tmp_path):
  status, _, stderr, _ = call(bert, data, tmp_path / "out", **flags)
  assert status == 2 and words in stderr and stderr.count("\n") == 1
