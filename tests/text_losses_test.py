# SPDX-License-Identifier: Apache-2.0
"""Tests of zlpr and of the losses that weigh labels by how rare they are.

The oracle is numpy in longdouble, text by text, from the papers' formulas.
"""

import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

from multilabel import losses
import run_multilabel_classifier


COUNTS, NUM_EXAMPLES = [700, 40, 0, 1000], 1000

OPTIONS = {
    "zlpr": {},
    "class_balanced": {"label_counts": COUNTS, "beta": 0.99},
    "distribution_balanced": {
        "label_counts": COUNTS, "num_examples": NUM_EXAMPLES, "mu": 0.2,
        "negative_scale": 2.0, "kappa": 0.1},
}


def one_text(name, y, x):
  """The loss of a text: a number, or one per label."""
  y, x = np.asarray(y, np.longdouble), np.asarray(x, np.longdouble)
  counts = [max(n, 1) for n in COUNTS]
  if name == "zlpr":
    return (np.log(1 + np.sum(y * np.exp(-x))) +
            np.log(1 + np.sum((1 - y) * np.exp(x))))
  if name == "class_balanced":
    raw = [(1 - 0.99) / (1 - 0.99 ** n) for n in counts]
    return np.array([w / sum(raw) * 4 for w in raw]) * (
        y * np.log1p(np.exp(-x)) + (1 - y) * np.log1p(np.exp(x)))
  total = sum(on / n for on, n in zip(y, counts))
  result = []
  for n, on, logit in zip(counts, y, x):
    ratio = (1 / n) / total if total else np.inf
    weight = 0.1 + 1 / (1 + np.exp(-10 * (ratio - 0.2)))
    moved = logit - 0.1 * np.log(NUM_EXAMPLES / min(n, 999.5) - 1)
    result.append(weight * (on * np.log1p(np.exp(-moved)) + (
        1 - on) / 2 * np.log1p(np.exp(2 * moved))))
  return np.array(result)


def run(name, labels, logits, dtype, **more):
  with tf.Graph().as_default(), tf.Session() as session:
    x = tf.constant(np.asarray(logits, dtype))
    values = losses.make_loss(name, **dict(OPTIONS[name], **more))(
        tf.constant(labels), x)
    return session.run([values, tf.gradients(values, x)[0]])


def cells(scale=3.0):
  rng = np.random.RandomState(4)
  labels = (rng.uniform(size=[60, 4]) < 0.4).astype(np.float32)
  labels[0], labels[1] = 0, 1
  return labels, scale * rng.randn(60, 4)


@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_and_gradients(name, dtype):
  labels, logits = cells()
  logits = logits.astype(dtype)
  values, gradients = run(name, labels, logits, dtype)
  assert values.dtype == dtype
  assert values.shape == ((60,) if name == "zlpr" else (60, 4))
  tolerance = {np.float16: 2e-3, np.float32: 3e-6, np.float64: 1e-11}[dtype]
  for row in range(60):
    np.testing.assert_allclose(
        values[row], one_text(name, labels[row], logits[row]).astype(float),
        rtol=tolerance, atol=tolerance)
    for column in range(4):
      step = np.zeros(4)
      step[column] = 1e-5
      x = logits[row].astype(np.float64)
      slope = np.sum(one_text(name, labels[row], x + step) -
                     one_text(name, labels[row], x - step)) / 2e-5
      assert gradients[row, column] == pytest.approx(
          float(slope), rel=max(tolerance, 1e-8), abs=max(tolerance, 1e-8))


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_extreme_logits_are_finite(name):
  labels, _ = cells()
  for size in (100, 1e4, 1e30):
    logits = size * np.sign(np.random.RandomState(1).randn(60, 4))
    values, gradients = run(name, labels, logits, np.float32)
    assert np.isfinite(values).all() and np.isfinite(gradients).all()
    assert values.min() >= 0


def test_zlpr_by_hand():
  """Logits of 0: log(1 + positives) + log(1 + negatives)."""
  values, gradients = run("zlpr", [[1., 0., 0., 0.]], np.zeros([1, 4]),
                          np.float64)
  assert values[0] == pytest.approx(np.log(2) + np.log(4))
  np.testing.assert_allclose(gradients[0], [-0.5, 0.25, 0.25, 0.25])


def test_zlpr_of_labels_between():
  """A label of 0.9 weighs so much on both sides."""
  labels = [[0.9, 0.05, 0.05, 0.05]]
  values, _ = run("zlpr", np.array(labels), [[1., 2., -1., 0.]], np.float64)
  assert values[0] == pytest.approx(float(one_text(
      "zlpr", labels[0], [1., 2., -1., 0.])))


def test_class_balanced_weights():
  """Equal counts and beta 0 weigh alike; near 1 by 1 / n."""
  assert losses.class_balanced_weights([5, 5], 0.9) == pytest.approx([1, 1])
  assert losses.class_balanced_weights([5, 900], 0.0) == pytest.approx([1, 1])
  few, many = losses.class_balanced_weights([10, 20], 1 - 1e-9)
  assert few / many == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("name, options, words", [
    ("class_balanced", {"beta": 1.0, "label_counts": [1]}, "beta is 1"),
    ("class_balanced", {}, "label_counts is missing"),
    ("distribution_balanced", {"label_counts": [5], "num_examples": 4},
     "num_examples is 4"),
    ("distribution_balanced", {"label_counts": [5], "num_examples": 9,
                               "negative_scale": 0}, "negative_scale is 0"),
    ("distribution_balanced", {"label_counts": [5], "num_examples": 9,
                               "kappa": -1}, "kappa is -1"),
    ("distribution_balanced", {"label_counts": [5], "num_examples": 9,
                               "label_smoothing": 0.1},
     "label_smoothing cannot be combined with"),
])
def test_what_cannot_be(name, options, words):
  with pytest.raises(ValueError) as error:
    losses.make_loss(name, **options)
  assert words in str(error.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (40, 20, 20))


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_run(name, data, tmp_path):
  """Learns; in two parts as in one; the loss told is that of the formula."""
  bert = tiny_bert.make_bert(tmp_path, num_hidden_layers=1)
  found = []
  for parts in (1, 2):
    output_dir = str(tmp_path / ("out%d" % parts))
    status, _, stderr, _ = tiny_bert.call(
        run_multilabel_classifier, tiny_bert.arguments(
            bert, data, output_dir, do_eval=True, loss=name, report=False,
            eval_steps=0, num_train_epochs=12,
            gradient_accumulation_steps=parts))
    assert (status, stderr) == (0, "")
    results = dict(line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
        os.path.join(output_dir, "eval_results.txt")).splitlines())
    assert float(results["micro_f1"]) > 0.7
    found.append(float(results["loss"]))
  # Parts have other dropout masks.
  assert found[0] == pytest.approx(found[1], rel=0.2)
  parameters = json.loads(tiny_bert.read_text(os.path.join(
      output_dir, "model_settings.json")))["run"]["loss_parameters"]
  rows = [json.loads(line) for line in tiny_bert.read_text(os.path.join(
      output_dir, "eval_predictions.jsonl")).splitlines()]
  labels = np.array([[label in row["true_labels"] for label in row[
      "probabilities"]] for row in rows], np.float64)
  p = np.array([list(row["probabilities"].values()) for row in rows])
  with tf.Graph().as_default(), tf.Session() as session:
    expected = session.run(tf.reduce_mean(losses.make_loss(name, **parameters)(
        labels, tf.constant(np.log(p / (1 - p))))))
  assert found[1] == pytest.approx(expected, rel=1e-3)
