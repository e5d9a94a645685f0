# SPDX-License-Identifier: Apache-2.0
"""Tests of multilabel_losses.py.

The oracle is numpy in float64 (longdouble where digits would be lost), written
from the papers' formulas; its gradients are central differences.
"""

import functools
import math

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from multilabel import losses as multilabel_losses


# More digits than the float64 of the code under test has where it matters.
WIDE = np.longdouble
POS_WEIGHT = [0.25, 1.0, 7.5]

CASES = {
    "sigmoid": {},
    "weighted": {"pos_weight": POS_WEIGHT},
    "focal": {},
    "focal/0.25": {"alpha": 0.25},
    "focal/0.5,0.75": {"gamma": 0.5, "alpha": 0.75},
    "focal/0": {"gamma": 0.0, "alpha": 0.25},
    "focal/5": {"gamma": 5.0},
    "asymmetric": {},
    "asymmetric/no shift": {"clip": 0.0},
    "asymmetric/no focus": {"gamma_neg": 0.0},
    "asymmetric/both": {"gamma_pos": 1.0, "gamma_neg": 2.5, "clip": 0.2},
    "asymmetric/root": {"gamma_pos": 0.5, "gamma_neg": 0.5, "clip": 0.05},
    "asymmetric/small shift": {"gamma_neg": 1.0, "clip": 1e-6},
    "asymmetric/tiny shift": {"gamma_neg": 1.0, "clip": 1e-9},
    "asymmetric/large shift": {"gamma_neg": 2.0, "clip": 0.7},
}


def make(case, **more):
  return multilabel_losses.make_loss(case.split("/")[0],
                                     **dict(CASES[case], **more))


def run(loss, labels, logits, dtype):
  """(losses, gradients of their sum), numpy arrays of `dtype`."""
  with tf.Graph().as_default(), tf.Session() as session:
    x = tf.constant(np.asarray(logits, dtype))
    losses = loss(tf.constant(labels), x)
    assert losses.dtype == x.dtype
    return session.run([losses, tf.gradients(losses, x)[0]])


def reference(case, labels, logits):
  """The formulas of the papers, cell by cell in as many digits as there are."""
  name, options = case.split("/")[0], CASES[case]
  x, y = np.asarray(logits, WIDE), np.asarray(labels, WIDE)
  p, rest = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
  # log(1 / (1 + e^-x)) with the larger exponential taken out.
  log_p = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
  log_rest = np.minimum(-x, 0) - np.log1p(np.exp(-np.abs(x)))
  if name == "sigmoid":
    return -y * log_p - (1 - y) * log_rest
  if name == "weighted":
    return (-y * np.array(options["pos_weight"], WIDE) * log_p -
            (1 - y) * log_rest)
  if name == "focal":
    gamma, alpha = options.get("gamma", 2.0), options.get("alpha")
    a, b = (1, 1) if alpha is None else (WIDE(alpha), 1 - WIDE(alpha))
    return (-y * a * rest ** gamma * log_p -
            (1 - y) * b * p ** gamma * log_rest)
  m = WIDE(options.get("clip", 0.05))
  shifted = np.maximum(p - m, 0)
  if m:
    # p > 1/2: 1 - p_m = (1 - p) + m keeps the digits of 1 - p.
    log_rest = np.where(shifted > 0.5, np.log(rest + m), np.log1p(-shifted))
  gamma_pos = options.get("gamma_pos", 0.0)
  gamma_neg = options.get("gamma_neg", 4.0)
  return (-y * rest ** gamma_pos * log_p -
          (1 - y) * shifted ** gamma_neg * log_rest)


def differences(case, labels, logits, step=1e-4):
  """Central differences, whose error is of order step^4."""
  x = np.asarray(logits, WIDE)
  at = functools.partial(reference, case, labels)
  near = at(x + step) - at(x - step)
  far = at(x + 2 * step) - at(x - 2 * step)
  return (8 * near - far) / (12 * WIDE(step))


def random_cells(seed, count=400, scale=4.0):
  rng = np.random.RandomState(seed)
  logits = scale * rng.randn(count, 3)
  labels = rng.choice([0.0, 1.0, 0.05, 0.3, 0.95], size=logits.shape)
  return labels, logits


@pytest.mark.parametrize("case", sorted(CASES))
def test_losses_equal_numpy(case):
  labels, logits = random_cells(1)
  for dtype, tolerance in [(np.float64, 1e-12), (np.float32, 2e-6)]:
    rounded = logits.astype(dtype)
    actual, _ = run(make(case), labels.astype(dtype), rounded, dtype)
    expected = reference(case, labels.astype(dtype), rounded)
    assert actual.shape == (400, 3)
    assert expected.std() > 0.01
    np.testing.assert_allclose(actual, expected.astype(np.float64),
                               rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", sorted(CASES))
def test_gradients_equal_central_differences(case):
  labels, logits = random_cells(2)
  options = CASES[case]
  if case.startswith("asymmetric") and options.get("clip", 0.05):
    # At the kink p = clip no difference is a derivative.
    kink = math.log(options.get("clip", 0.05) / (1 - options.get("clip", .05)))
    logits = np.where(np.abs(logits - kink) < 0.1, 0.5, logits)
  expected = differences(case, labels, logits).astype(np.float64)
  for dtype, tolerance in [(np.float64, 1e-9), (np.float32, 1e-5)]:
    _, actual = run(make(case), labels.astype(dtype), logits, dtype)
    np.testing.assert_allclose(actual, expected, rtol=tolerance,
                               atol=tolerance)


EXTREME = [-1e4, -1e3, -110.0, -89.0, -40.0, -20.0, -17.0, -10.0, 0.0, 10.0,
           17.0, 20.0, 40.0, 89.0, 110.0, 1e3, 1e4]


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_logits(case, dtype):
  """Finite and right, at labels of 0, 1 and between."""
  values = [0.0, 1.0, 0.05, 0.5]
  logits = np.repeat(np.array(EXTREME, dtype), len(values))
  labels = np.tile(np.array(values, dtype), len(EXTREME))
  logits, labels = [np.stack([x] * 3, axis=1) for x in (logits, labels)]
  losses, gradients = run(make(case), labels, logits, dtype)
  assert losses.dtype == gradients.dtype == dtype
  assert np.isfinite(losses).all()
  assert np.isfinite(gradients).all()
  largest = np.finfo(dtype).max
  expected = reference(case, labels, logits).astype(np.float64)
  slopes = differences(case, labels, logits).astype(np.float64)
  # TensorFlow 1.15 has float32 exponentials to 3e-8, here times 7.5.
  relative = {np.float16: 1e-3, np.float32: 2e-6, np.float64: 1e-12}[dtype]
  absolute = {np.float16: 5e-7, np.float32: 5e-7, np.float64: 1e-12}[dtype]
  np.testing.assert_allclose(
      losses.astype(np.float64), np.minimum(expected, largest),
      rtol=relative, atol=absolute)
  np.testing.assert_allclose(gradients.astype(np.float64), slopes,
                             rtol=max(relative, 1e-9),
                             atol=max(absolute, 1e-9))


def test_a_loss_too_large_for_the_type_keeps_its_gradient():
  """7.5 * 1e4 is more than float16 has."""
  losses, gradients = run(make("weighted"), np.ones([1, 3], np.float16),
                          [[-1e4] * 3], np.float16)
  assert losses.tolist() == [[2500.0, 10000.0, 65504.0]]
  assert gradients.tolist() == [[-0.25, -1.0, -7.5]]


def test_gradient_at_the_edge_of_the_shift():
  """p = clip and its neighbours, where a power of 0 would give NaN."""
  kink = math.log(0.05 / 0.95)
  for dtype in (np.float32, np.float64):
    near = [dtype(kink)]
    for _ in range(3):
      near = ([np.nextafter(near[0], dtype(-9))] + near +
              [np.nextafter(near[-1], dtype(0))])
    for gamma in (0.0, 0.5, 1.0, 4.0):
      loss = multilabel_losses.make_loss("asymmetric", gamma_neg=gamma)
      losses, gradients = run(loss, np.zeros([7, 1], dtype),
                              np.array(near)[:, np.newaxis], dtype)
      assert np.isfinite(gradients).all()
      assert (losses >= 0).all() and losses.max() < 1e-6
      # The slope on the right of the kink: p (1 - p) / (1 - p_m).
      slope = 0.05 * 0.95 if gamma == 0 else 2e-4
      assert gradients.min() >= 0 and gradients.max() <= slope * 1.001


def test_values_computed_by_hand():
  third = math.log(3.0)  # p = 3/4
  ln = math.log
  rows = [
      ("sigmoid", {}, ln(4 / 3.0), ln(4)),
      ("weighted", {"pos_weight": [6.0]}, 6 * ln(4 / 3.0), ln(4)),
      ("focal", {}, ln(4 / 3.0) / 16, 9 * ln(4) / 16),
      ("focal", {"gamma": 1.0, "alpha": 0.25}, ln(4 / 3.0) / 16,
       9 * ln(4) / 16),
      # p_m = 0.75 - 0.05 = 0.7.
      ("asymmetric", {}, ln(4 / 3.0), 0.2401 * -ln(0.3)),
      ("asymmetric", {"gamma_pos": 1.0, "gamma_neg": 1.0, "clip": 0.25},
       ln(4 / 3.0) / 4, ln(2) / 2),
      ("asymmetric", {"clip": 0.75}, ln(4 / 3.0), 0.0),
  ]
  for name, options, positive, negative in rows:
    loss = multilabel_losses.make_loss(name, **options)
    actual, _ = run(loss, np.array([[1.0], [0.0], [0.25]]), [[third]] * 3,
                    np.float64)
    np.testing.assert_allclose(
        actual[:, 0], [positive, negative, positive / 4 + 3 * negative / 4],
        rtol=1e-12, atol=1e-15, err_msg=name)


def test_gradients_computed_by_hand():
  """At x = 0: p = 1/2, dp/dx = 1/4."""
  rows = [
      ("sigmoid", {}, -0.5, 0.5),
      ("weighted", {"pos_weight": [6.0]}, -3.0, 0.5),
      # d/dx of (1 - p)^2 (-log p).
      ("focal", {}, -0.25 * math.log(2) - 0.125, 0.25 * math.log(2) + 0.125),
      # d/dx of -log(1 - (p - 1/4)).
      ("asymmetric", {"gamma_neg": 0.0, "clip": 0.25}, -0.5, 1 / 3.0),
      ("asymmetric", {"gamma_neg": 4.0, "clip": 0.75}, -0.5, 0.0),
  ]
  for name, options, positive, negative in rows:
    loss = multilabel_losses.make_loss(name, **options)
    for dtype in (np.float16, np.float32, np.float64):
      _, actual = run(loss, np.array([[1.0], [0.0]], dtype), [[0.0]] * 2,
                      dtype)
      np.testing.assert_allclose(actual[:, 0], [positive, negative],
                                 rtol=1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("name, options", [
    ("weighted", {"pos_weight": [1.0, 1.0, 1.0]}),
    ("focal", {"gamma": 0.0}),
    ("asymmetric", {"gamma_neg": 0.0, "clip": 0.0}),
])
def test_reduces_to_sigmoid(name, options):
  labels, logits = random_cells(3)
  loss = multilabel_losses.make_loss(name, **options)
  for actual, expected in zip(run(loss, labels, logits, np.float64),
                              run(make("sigmoid"), labels, logits,
                                  np.float64)):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


def test_asymmetric_without_shift_is_focal():
  labels, logits = random_cells(4)
  loss = multilabel_losses.make_loss("asymmetric", gamma_pos=2.0,
                                     gamma_neg=2.0, clip=0.0)
  np.testing.assert_allclose(run(loss, labels, logits, np.float64),
                             run(make("focal"), labels, logits, np.float64),
                             rtol=1e-12)


def test_sigmoid_is_tensorflow_s():
  labels, logits = random_cells(5)
  def theirs(labels, logits):
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels,
                                                   logits=logits)
  for mine, other in zip(
      run(make("sigmoid"), labels.astype(np.float32), logits, np.float32),
      run(theirs, labels.astype(np.float32), logits, np.float32)):
    assert mine.tobytes() == other.tobytes()


def test_smooth_labels():
  with tf.Graph().as_default(), tf.Session() as session:
    for labels in (np.array([[0.0, 1.0, 0.5]], np.float32), [[0, 1, 0.5]]):
      smooth = multilabel_losses.smooth_labels(labels, 0.1)
      assert smooth.dtype == tf.float32
      np.testing.assert_allclose(session.run(smooth), [[0.05, 0.95, 0.5]],
                                 rtol=1e-6)
    for labels in ([[0, 1]], [[False, True]]):
      smooth = multilabel_losses.smooth_labels(labels, 0.2)
      np.testing.assert_allclose(session.run(smooth), [[0.1, 0.9]], rtol=1e-6)


@pytest.mark.parametrize("case", ["sigmoid", "weighted", "focal",
                                  "asymmetric"])
def test_label_smoothing_in_every_loss(case):
  labels = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
  logits = np.array([[0.5, -2.0, 3.0], [1.0, 4.0, -1.0]])
  actual, _ = run(make(case, label_smoothing=0.1), labels, logits, np.float64)
  np.testing.assert_allclose(
      actual, reference(case, 0.9 * labels + 0.05, logits).astype(np.float64),
      rtol=1e-12)


@pytest.mark.parametrize("case", ["sigmoid", "weighted", "focal",
                                  "asymmetric"])
def test_types_and_placeholders(case):
  """Integer and bool labels; shapes that are not known before the run."""
  labels = np.array([[0, 1, 0], [1, 1, 0]])
  logits = np.array([[0.5, -2.0, 3.0], [1.0, 4.0, -1.0]], np.float32)
  expected = reference(case, labels, logits).astype(np.float64)
  with tf.Graph().as_default(), tf.Session() as session:
    for dtype in (np.int32, np.bool_, np.uint8):
      actual = make(case)(tf.constant(labels.astype(dtype)), logits)
      np.testing.assert_allclose(session.run(actual), expected, rtol=2e-6)
    x = tf.placeholder(tf.float32, [None, 3])
    y = tf.placeholder(tf.int64, [None, 3])
    losses = make(case)(y, x)
    assert losses.shape.as_list() == [None, 3]
    np.testing.assert_allclose(
        session.run(losses, {x: logits, y: labels}), expected, rtol=2e-6)
    assert session.run(losses, {x: logits[:0], y: labels[:0]}).shape == (0, 3)


def test_bfloat16():
  with tf.Graph().as_default(), tf.Session() as session:
    x = tf.cast(tf.constant([[-1e4, 0.0, 1e4]]), tf.bfloat16)
    losses = make("weighted")(tf.ones([1, 3]), x)
    assert losses.dtype == tf.bfloat16
    gradient = tf.gradients(losses, x)[0]
    values = session.run([tf.cast(losses, tf.float32),
                          tf.cast(gradient, tf.float32)])
  np.testing.assert_allclose(values[0], [[2500, math.log(2), 0]], rtol=4e-3)
  np.testing.assert_allclose(values[1], [[-0.25, -0.5, 0]], rtol=4e-3)


def error_of(function, *arguments, **options):
  with tf.Graph().as_default():
    with pytest.raises(ValueError) as error:
      function(*arguments, **options)
  return str(error.value)


@pytest.mark.parametrize("name, options, message", [
    ("hinge", {}, "loss is hinge; it must be one of sigmoid, weighted, focal, "
                  "asymmetric, zlpr, class_balanced, distribution_balanced."),
    ("weighted", {}, "loss weighted needs a pos_weight for every label."),
    ("focal", {"pos_weight": [1.0]},
     "pos_weight only applies to the loss weighted, not to focal."),
    ("weighted", {"pos_weight": [1.0, 0.0]},
     "a pos_weight is 0.0; it must be a finite number above 0."),
    ("weighted", {"pos_weight": [float("nan")]},
     "a pos_weight is nan; it must be a finite number above 0."),
    ("sigmoid", {"label_smoothing": 1.0},
     "label_smoothing is 1.0; it must be in the range 0 <= value < 1."),
    ("sigmoid", {"label_smoothing": -0.1},
     "label_smoothing is -0.1; it must be in the range 0 <= value < 1."),
    ("focal", {"gamma": -1.0},
     "gamma is -1.0; it must be in the range 0 <= value."),
    ("focal", {"gamma": float("inf")},
     "gamma is inf; it must be in the range 0 <= value."),
    ("focal", {"alpha": 1.5},
     "alpha is 1.5; it must be in the range 0 <= value <= 1."),
    ("asymmetric", {"gamma_pos": float("nan")},
     "gamma_pos is nan; it must be in the range 0 <= value."),
    ("asymmetric", {"gamma_neg": -2},
     "gamma_neg is -2; it must be in the range 0 <= value."),
    ("asymmetric", {"clip": 1.0},
     "clip is 1.0; it must be in the range 0 <= value < 1."),
])
def test_refused_settings(name, options, message):
  assert error_of(multilabel_losses.make_loss, name, **options) == message


def test_refused_arrays():
  zeros = np.zeros([2, 3], np.float32)
  for case in ("sigmoid", "weighted", "focal", "asymmetric"):
    assert error_of(make(case), zeros[:, :1], zeros) == (
        "labels have shape (2, 1) and logits (2, 3); give one logit for each "
        "label.")
    assert error_of(make(case), zeros, zeros.astype(np.int32)) == (
        "logits have type int32; they must be floating-point.")
  for weights in ([2.0], [2.0] * 4):
    assert error_of(multilabel_losses.weighted, zeros, zeros, weights) == (
        "pos_weight has shape (%d,) for logits of shape (2, 3); give one "
        "weight per label." % len(weights))


def test_alpha_of_1_is_allowed():
  loss = multilabel_losses.make_loss("focal", alpha=1.0)
  actual, _ = run(loss, np.array([[0.0, 1.0]]), [[2.0, 0.0]], np.float64)
  np.testing.assert_allclose(actual, [[0, math.log(2) / 4]], rtol=1e-12)


def test_losses_names_them_all():
  assert multilabel_losses.LOSSES == (
      "sigmoid", "weighted", "focal", "asymmetric", "zlpr", "class_balanced",
      "distribution_balanced")


def test_pos_weight_from_counts():
  make_weights = multilabel_losses.pos_weight_from_counts
  counts = np.array([0, 1, 20, 25, 50, 80, 99, 100])
  weights = make_weights(counts, 100)
  assert weights == [10.0, 10.0, 4.0, 3.0, 1.0, 0.25, 0.1, 0.1]
  assert all(type(weight) is float for weight in weights)
  assert make_weights([0, 1, 25, 100], 100, cap=99.0) == [99, 99, 3, 1 / 99.0]
  assert make_weights([0, 30, 60], 60, cap=1) == [1.0, 1.0, 1.0]


def test_pos_weight_from_counts_refuses():
  make_weights = multilabel_losses.pos_weight_from_counts
  for cap in (0.5, float("nan"), float("inf")):
    assert error_of(make_weights, [1], 2, cap=cap) == (
        "the cap of pos_weight is %s; it must be a finite number of at least "
        "1." % cap)
  assert error_of(make_weights, [1, 3], 2) == (
      "label 1 occurs in 3 of 2 examples; counts must be in 0..2.")
  assert error_of(make_weights, [-1], 2) == (
      "label 0 occurs in -1 of 2 examples; counts must be in 0..2.")


def write(tmp_path, text):
  path = tmp_path / "weights"
  path.write_bytes(text.encode("utf-8"))
  return str(path)


LABELS = [u"\u6076\u610f", "a b", "c\td"]


@pytest.mark.parametrize("text", [
    u'{"a b": 2, "c\\td": 1e-3, "\u6076\u610f": 0.5}',
    u'\ufeff\n {"c\\td": 0.001,\n "\u6076\u610f": 0.5,\n "a b": 2.0}\n',
    u"a b\t2\nc\td\t.001\n\u6076\u610f\t0.5\n",
    u" a b \t 2 \r\n\r\n\u6076\u610f\t5e-1\r\nc\td\t1e-3",
])
def test_read_pos_weight_file(tmp_path, text):
  assert multilabel_losses.read_pos_weight_file(
      write(tmp_path, text), LABELS) == [0.5, 2.0, 0.001]


@pytest.mark.parametrize("text, message", [
    ('{"x": 1}', "{path}: there is no weight for 'y'; give a weight for every "
                 "label."),
    ("y\t1\n", "{path}: there is no weight for 'x'; give a weight for every "
               "label."),
    ("", "{path}: there is no weight for 'x', 'y'; give a weight for every "
         "label."),
    ("{}", "{path}: there is no weight for 'x', 'y'; give a weight for every "
           "label."),
    ('{"x": 1, "z": 1, "y": 1}',
     "{path}: label 'z' is not among the labels of the data ('x', 'y')."),
    ("x\t1\ny\t1\nz\t1\n",
     "{path}:3: label 'z' is not among the labels of the data ('x', 'y')."),
    ("label\tweight\nx\t1\ny\t1\n",
     "{path}:1: label 'label' is not among the labels of the data ('x', "
     "'y')."),
    ('{"x": 1, "y": 2, "x": 1}', "{path}: label 'x' appears twice."),
    ("x\t1\ny\t2\n\nx\t1\n", "{path}:4: label 'x' appears twice."),
    ('{"x": "1", "y": 2}', "{path}: the weight of label 'x' is not a number."),
    ('{"x": true, "y": 2}',
     "{path}: the weight of label 'x' is not a number."),
    ('{"x": null, "y": 2}',
     "{path}: the weight of label 'x' is not a number."),
    ('{"x": {"y": 2}}', "{path}: the weight of label 'x' is not a number."),
    ("x\tmany\ny\t1\n", "{path}:1: the weight of label 'x' is not a number."),
    ("x\t1_0\ny\t1\n", "{path}:1: the weight of label 'x' is not a number."),
    ("x\t\ny\t1\n", "{path}:1: the weight of label 'x' is not a number."),
    ("x 1\ny 1\n", "{path}:1: there is no label before the tab; write "
                   "\"label<TAB>weight\"."),
    ("x\t0\ny\t1\n", "{path}:1: the weight of label 'x' is 0.0; it must be a "
                     "finite number above 0."),
    ('{"x": 1, "y": -2}', "{path}: the weight of label 'y' is -2.0; it must "
                          "be a finite number above 0."),
    ("x\t1\ny\tnan\n", "{path}:2: the weight of label 'y' is nan; it must be "
                       "a finite number above 0."),
    ("x\t1\ny\tinf\n", "{path}:2: the weight of label 'y' is inf; it must be "
                       "a finite number above 0."),
    ('{"x": NaN, "y": 1}', "{path}: the weight of label 'x' is nan; it must "
                           "be a finite number above 0."),
    ('{"x": 1, "y": 1' + 400 * "0" + "}",
     "{path}: the weight of label 'y' is inf; it must be a finite number "
     "above 0."),
    ('{"x": 1,\n "y" 2}', "{path}:2: broken JSON (Expecting ':' delimiter)."),
    ('{"x": 1, "y": 2}\n{"z": 1}', "{path}:2: broken JSON (Extra data)."),
    ('{"x":' + 100000 * "[", "{path}: JSON is nested too deeply."),
])
def test_broken_pos_weight_files(tmp_path, text, message):
  path = write(tmp_path, text)
  assert error_of(multilabel_losses.read_pos_weight_file, path, ["x", "y"]) == (
      message.replace("{path}", path))


def test_pos_weight_file_that_is_not_there(tmp_path):
  path = str(tmp_path / "none")
  assert error_of(multilabel_losses.read_pos_weight_file, path, ["x"]) == (
      "%s: cannot be read (No such file or directory)." % path)
