# SPDX-License-Identifier: Apache-2.0
"""Tests of optimization.py.

`numpy_adamw` is the optimizer's step in float64. Where the original is
installed (package `bert-tensorflow`), ten steps are compared with its own,
given the same gradients: in the original the learning rate may be read before
or after the global step moves, so it is a constant here.
"""

import inspect

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from multilabel.training import train_op as train_op_module
import optimization


NO_DECAY = ["LayerNorm", "layer_norm", "bias"]


def numpy_adamw(weight, m, v, gradient, learning_rate, weight_decay=0.0,
                beta_1=0.9, beta_2=0.999, epsilon=1e-6):
  """(weight, m, v) after one step."""
  m = beta_1 * m + (1.0 - beta_1) * gradient
  v = beta_2 * v + (1.0 - beta_2) * gradient ** 2
  update = m / (np.sqrt(v) + epsilon) + weight_decay * weight
  return weight - learning_rate * update, m, v


def start_value(shape, seed):
  return np.asarray(np.random.RandomState(seed).randn(*shape), np.float32)


def get_variable(name, value):
  return tf.get_variable(
      name, value.shape, initializer=tf.constant_initializer(value))


SHAPES = [("layer/kernel", [4, 3]), ("layer/bias", [3]),
          ("LayerNorm/gamma", [3]), ("embeddings", [6, 2]), ("scalar", [])]


def run_optimizer(optimizer, steps, use_resource, optimizer_scope=True):
  """Feeds random gradients; returns starts, gradients, values by name.

  Rows 1 (twice) and 4 of `embeddings` get an `IndexedSlices` gradient.
  """
  rng = np.random.RandomState(11)
  starts = {name: start_value(shape, index)
            for index, (name, shape) in enumerate(SHAPES)}
  history = []
  with tf.Graph().as_default(), tf.Session() as session:
    with tf.variable_scope("", use_resource=use_resource):
      tvars = [get_variable(name, starts[name]) for name, _ in SHAPES]
      untouched = get_variable("untouched", np.ones([2], np.float32))
    fed = [tf.placeholder(tf.float32, [3, 2] if name == "embeddings" else shape)
           for name, shape in SHAPES]
    grads = list(fed)
    grads[3] = tf.IndexedSlices(fed[3], tf.constant([1, 4, 1]),
                                tf.constant([6, 2]))
    pairs = list(zip(grads, tvars)) + [(None, untouched), (fed[0], None)]
    with tf.variable_scope(
        "", use_resource=use_resource if optimizer_scope else None):
      train_op = optimizer(pairs)
    session.run(tf.global_variables_initializer())
    for _ in range(steps):
      # Gradients of very different sizes, and some that are zero.
      values = [rng.randn(*x.shape.as_list()) * 10.0 ** rng.randint(-4, 3)
                for x in fed]
      values[1] = values[1] * 0
      session.run(train_op, dict(zip(fed, values)))
      dense = np.zeros([6, 2])
      np.add.at(dense, [1, 4, 1], values[3])
      history.append(values[:3] + [dense] + values[4:])
    names = [var.name for var in tf.global_variables()]
    trainable = [var.name for var in tf.trainable_variables()]
    result = session.run({var.name[:-2]: var for var in tf.global_variables()})
  assert trainable == [name + ":0" for name, _ in SHAPES] + ["untouched:0"]
  assert names == trainable + [name + slot + ":0" for name, _ in SHAPES
                               for slot in ("/adam_m", "/adam_v")]
  assert (result["untouched"] == 1).all()
  return starts, history, result


def check_steps(starts, history, result, decays, learning_rate, **settings):
  for index, (name, _) in enumerate(SHAPES):
    weight, m, v = starts[name].astype(np.float64), 0.0, 0.0
    for gradients in history:
      weight, m, v = numpy_adamw(
          weight, m, v, gradients[index], learning_rate(name),
          settings.get("weight_decay", 0.0) * decays[name],
          settings.get("beta_1", 0.9), settings.get("beta_2", 0.999),
          settings.get("epsilon", 1e-6))
    moved = np.abs(weight - starts[name]).max()
    # float32 holds 1 - 0.999 to 5e-5.
    np.testing.assert_allclose(result[name], weight, rtol=1e-6,
                               atol=1e-7 + 1e-4 * moved, err_msg=name)
    np.testing.assert_allclose(result[name + "/adam_m"], m, rtol=1e-5,
                               atol=1e-6 * np.abs(m).max(), err_msg=name)
    np.testing.assert_allclose(result[name + "/adam_v"], v, rtol=1e-4,
                               atol=1e-12, err_msg=name)


DECAYS = {"layer/kernel": 1, "layer/bias": 0, "LayerNorm/gamma": 0,
          "embeddings": 1, "scalar": 1}


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("learning_rate", [5e-5, 3e-3, 0.2])
def test_steps_equal_numpy(use_resource, learning_rate):
  optimizer = optimization.AdamWeightDecayOptimizer(
      learning_rate, weight_decay_rate=0.01, exclude_from_weight_decay=NO_DECAY)
  starts, history, result = run_optimizer(
      optimizer.apply_gradients, 10, use_resource)
  check_steps(starts, history, result, DECAYS, lambda name: learning_rate,
              weight_decay=0.01)
  assert (result["layer/bias"] == starts["layer/bias"]).all()


def test_strong_decay_counts_from_the_old_weight():
  optimizer = optimization.AdamWeightDecayOptimizer(
      0.1, weight_decay_rate=5.0, exclude_from_weight_decay=NO_DECAY)
  starts, history, result = run_optimizer(optimizer.apply_gradients, 3, True)
  check_steps(starts, history, result, DECAYS, lambda name: 0.1,
              weight_decay=5.0)


def test_other_settings_equal_numpy():
  optimizer = optimization.AdamWeightDecayOptimizer(
      0.01, beta_1=0.5, beta_2=0.75, epsilon=0.1)
  starts, history, result = run_optimizer(optimizer.apply_gradients, 5, True)
  check_steps(starts, history, result, DECAYS, lambda name: 0.01, beta_1=0.5,
              beta_2=0.75, epsilon=0.1)


def test_decay_without_exclusions():
  optimizer = optimization.AdamWeightDecayOptimizer(0.01, weight_decay_rate=0.5)
  starts, history, result = run_optimizer(optimizer.apply_gradients, 2, True)
  check_steps(starts, history, result, dict.fromkeys(DECAYS, 1),
              lambda name: 0.01, weight_decay=0.5)


@pytest.mark.parametrize("use_resource", [False, True])
def test_slots_are_of_the_variable_s_kind(use_resource):
  """Whatever kind the scope of the optimizer would give."""
  optimizer = optimization.AdamWeightDecayOptimizer(0.01)
  starts, history, result = run_optimizer(
      optimizer.apply_gradients, 2, use_resource, optimizer_scope=False)
  check_steps(starts, history, result, DECAYS, lambda name: 0.01)


def test_learning_rate_tensor_and_scale():
  seen = []

  def scale(name):
    seen.append(name)
    return 20.0 if name.startswith("layer/") else 1.0

  def apply_gradients(pairs):
    return optimization.AdamWeightDecayOptimizer(
        tf.constant(0.002), weight_decay_rate=0.01,
        exclude_from_weight_decay=NO_DECAY,
        learning_rate_scale=scale).apply_gradients(pairs)

  starts, history, result = run_optimizer(apply_gradients, 4, False)
  assert seen == [name for name, _ in SHAPES]
  check_steps(starts, history, result, DECAYS,
              lambda name: 0.04 if name.startswith("layer/") else 0.002,
              weight_decay=0.01)


def test_apply_gradients_leaves_the_global_step_alone():
  with tf.Graph().as_default(), tf.Session() as session:
    var = get_variable("w", np.ones([2], np.float32))
    step = tf.train.get_or_create_global_step()
    train_op = optimization.AdamWeightDecayOptimizer(0.1).apply_gradients(
        [(tf.ones([2]), var)], global_step=step, name="update")
    assert train_op.name == "update"
    session.run(tf.global_variables_initializer())
    session.run(train_op)
    assert session.run(step) == 0


def test_decay_is_by_regular_expression():
  optimizer = optimization.AdamWeightDecayOptimizer(
      0.1, 0.01, exclude_from_weight_decay=["LayerNorm", "bias$"])
  decays = optimizer._do_use_weight_decay  # pylint: disable=protected-access
  assert [decays(name) for name in (
      "a/kernel", "a/LayerNorm/gamma", "a/bias", "bias/kernel")] == [
          True, False, False, True]
  optimizer.weight_decay_rate = 0.0
  assert not decays("a/kernel")


def as_written():
  """Session settings that keep TensorFlow from rearranging float32 sums."""
  config = tf.ConfigProto()
  config.graph_options.optimizer_options.opt_level = (
      tf.OptimizerOptions.L0)
  config.graph_options.rewrite_options.disable_meta_optimizer = True
  return config


def learning_rates(init_lr, num_train_steps, num_warmup_steps, steps,
                   config=None):
  with tf.Graph().as_default(), tf.Session(config=config) as session:
    step = tf.placeholder(tf.int64, [])
    rate = optimization.create_learning_rate(
        init_lr, num_train_steps, num_warmup_steps, step)
    assert rate.dtype == tf.float32 and rate.shape.as_list() == []
    return [session.run(rate, {step: value}) for value in steps]


def test_learning_rate_literal():
  np.testing.assert_allclose(
      learning_rates(1e-3, 10, 4, range(13)),
      [0, 0.25e-3, 0.5e-3, 0.75e-3, 0.6e-3, 0.5e-3, 0.4e-3, 0.3e-3, 0.2e-3,
       0.1e-3, 0, 0, 0], rtol=2e-6, atol=0)
  np.testing.assert_allclose(
      learning_rates(2e-5, 4, None, range(6)),
      [2e-5, 1.5e-5, 1e-5, 0.5e-5, 0, 0], rtol=2e-6, atol=0)
  assert learning_rates(2e-5, 4, 0, [0]) == learning_rates(2e-5, 4, None, [0])


@pytest.mark.parametrize("init_lr, num_train_steps, num_warmup_steps", [
    (5e-5, 307, 30), (3e-4, 250, 0), (2e-5, 97, 96), (1e-3, 10, 40)])
def test_learning_rate_is_exact_at_every_step(init_lr, num_train_steps,
                                              num_warmup_steps):
  """In float32: the decay is TensorFlow's own, the warmup numpy's."""
  steps = range(num_train_steps + 3)
  warmup = [np.float32(init_lr) * (np.float32(x) / np.float32(num_warmup_steps))
            for x in steps[:num_warmup_steps]]
  for config in (as_written(), None):
    actual = learning_rates(init_lr, num_train_steps, num_warmup_steps, steps,
                            config)
    with tf.Graph().as_default(), tf.Session(config=config) as session:
      step = tf.placeholder(tf.int64, [])
      decayed = tf.train.polynomial_decay(
          init_lr, step, num_train_steps, end_learning_rate=0.0)
      if callable(decayed):
        decayed = decayed()
      expected = [session.run(decayed, {step: x}) for x in steps]
    assert actual[num_warmup_steps:] == expected[num_warmup_steps:]
    # Optimized graphs multiply by a reciprocal, the original's too.
    tolerance = 0 if config is not None else 3e-7
    np.testing.assert_allclose(actual[:num_warmup_steps], warmup,
                               rtol=tolerance, atol=0)


@pytest.mark.parametrize("num_warmup_steps", [0, 7])
def test_learning_rate_is_the_original_s(monkeypatch, num_warmup_steps):
  original = pytest.importorskip("bert.optimization")
  rates = []

  class Optimizer(object):

    def __init__(self, learning_rate, **_):
      rates.append(learning_rate)

    def apply_gradients(self, grads_and_vars, global_step):
      del grads_and_vars, global_step
      return tf.no_op()

  for library in (original, optimization):
    monkeypatch.setattr(library, "AdamWeightDecayOptimizer", Optimizer)
  with tf.Graph().as_default(), tf.Session() as session:
    loss = tf.reduce_sum(get_variable("w", BIAS))
    for library in (original, optimization):
      library.create_optimizer(loss, 5e-5, 50, num_warmup_steps, False)
    session.run(tf.global_variables_initializer())
    step = tf.train.get_global_step()
    for value in range(53):
      session.run(tf.assign(step, value))
      theirs, ours = session.run(rates)
      assert ours == theirs, value


WORDS = start_value([5, 2], 20)
KERNEL = start_value([2, 3], 21)
BIAS = start_value([3], 22)
# Row 2 is read twice: its gradient comes as two slices of the same row.
IDS = [2, 0, 2]
TARGET = 3.0 * start_value([3, 3], 23)


def numpy_loss_gradients(words, kernel, bias):
  """Gradients of sum((words[IDS] kernel bias - TARGET)^2) / 2, slices first."""
  rows = words[IDS]
  error = rows.dot(kernel) * bias - TARGET
  slices = (error * bias).dot(kernel.T)
  dense = np.zeros_like(words)
  np.add.at(dense, IDS, slices)
  return slices, [dense, rows.T.dot(error * bias),
                  (error * rows.dot(kernel)).sum(axis=0)]


def numpy_training(steps, rates, scale, bias_correction=False):
  values = [x.astype(np.float64) for x in (WORDS, KERNEL, BIAS)]
  slots = [(0.0, 0.0)] * 3
  norms = []
  for step in range(steps):
    slices, gradients = numpy_loss_gradients(*values)
    norm = np.sqrt(sum((x ** 2).sum() for x in [slices] + gradients[1:]))
    norms.append(norm)
    # Epsilon is not corrected (Kingma and Ba 2014, end of section 2).
    correction = 1.0 if not bias_correction else np.sqrt(
        1.0 - 0.999 ** (step + 1)) / (1.0 - 0.9 ** (step + 1))
    for index, gradient in enumerate(gradients):
      rate = rates[step] * scale[index]
      decay = 0.01 if index < 2 else 0.0
      old = values[index]
      values[index], m, v = numpy_adamw(
          old, slots[index][0], slots[index][1],
          gradient * min(1.0, 1.0 / norm), rate * correction)
      values[index] = values[index] - rate * decay * old
      slots[index] = (m, v)
  return values, norms


@pytest.mark.parametrize("use_resource, bias_correction", [
    (False, False), (True, False), (False, True), (True, True)])
def test_create_train_op_equals_numpy(use_resource, bias_correction):
  """Clipping, decay, the rate of the very step, the weights of one moment."""
  rates = [0.03 * step / 4 if step < 4 else 0.03 * (1 - step / 40.0)
           for step in range(40)] + [0.0] * 2
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=use_resource), tf.Session() as session:
    tvars = [get_variable(name, value) for name, value in
             (("words", WORDS), ("kernel", KERNEL), ("bias", BIAS))]
    unused = get_variable("unused", BIAS)
    error = tf.matmul(
        tf.gather(tvars[0], IDS), tvars[1]) * tvars[2] - TARGET
    loss = tf.reduce_sum(error ** 2) / 2
    step = train_op_module.create_train_op(
        loss, 0.03, 40, 4,
        learning_rate_scale=lambda name: 3.0 if name == "kernel" else 1.0,
        bias_correction=bias_correction)
    global_step = tf.train.get_global_step()
    assert global_step.dtype.base_dtype == tf.int64
    session.run(tf.global_variables_initializer())
    results = []
    for _ in range(42):
      results.append(session.run(step)[1:])
    values, count, kept = session.run([tvars, global_step, unused])
    names = [var.name for var in tf.global_variables()]
  expected, norms = numpy_training(42, rates, [1.0, 3.0, 1.0],
                                   bias_correction)
  assert max(norms) > 2
  np.testing.assert_allclose([x[0] for x in results], rates, rtol=1e-6,
                             atol=1e-9)
  np.testing.assert_allclose([x[1] for x in results], norms, rtol=2e-3)
  for value, wanted in zip(values, expected):
    np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-3)
  assert count == 42
  assert (kept == BIAS).all()
  assert sorted(names) == sorted(
      ["words:0", "kernel:0", "bias:0", "unused:0", "global_step:0"]
      + [name + slot for name in ("words", "kernel", "bias")
         for slot in ("/adam_m:0", "/adam_v:0")])


@pytest.mark.parametrize("target, clipped", [(100.0, 1.0), (0.5, 0.5)])
def test_clipping(target, clipped):
  """The first moment after a step is a tenth of the clipped gradient."""
  with tf.Graph().as_default(), tf.Session() as session:
    var = get_variable("w", np.zeros([1], np.float32))
    train_op, _, norm = train_op_module.create_train_op(
        tf.reduce_sum(tf.square(var - target)) / 2, 0.1, 10, None)
    session.run(tf.global_variables_initializer())
    assert session.run([norm, train_op])[0] == target
    moment = [x for x in tf.global_variables() if x.name == "w/adam_m:0"][0]
    np.testing.assert_allclose(session.run(moment), [-0.1 * clipped], rtol=1e-6)


@pytest.mark.parametrize("use_resource", [False, True])
def test_create_optimizer(use_resource):
  with tf.Graph().as_default(), tf.variable_scope(
      "", use_resource=use_resource), tf.Session() as session:
    var = get_variable("w", np.array([4.0, -1.0], np.float32))
    train_op = optimization.create_optimizer(
        tf.reduce_sum(tf.abs(var)) / 4, 0.5, 5, None, False)
    assert isinstance(train_op, tf.Operation)
    session.run(tf.global_variables_initializer())
    steps, values = [], []
    for _ in range(3):
      session.run(train_op)
      steps.append(session.run(tf.train.get_global_step()))
      values.append(session.run(var))
  weight, m, v = np.array([4.0, -1.0]), 0.0, 0.0
  for index, rate in enumerate([0.5, 0.4, 0.3]):
    weight, m, v = numpy_adamw(weight, m, v, np.sign(weight) / 4, rate, 0.01)
    np.testing.assert_allclose(values[index], weight, atol=2e-4)
  assert steps == [1, 2, 3]


def test_create_optimizer_goes_on_from_the_global_step():
  with tf.Graph().as_default(), tf.Session() as session:
    var = get_variable("w", np.ones([2], np.float32))
    step = train_op_module.create_train_op(tf.reduce_sum(var), 0.5, 10, 2)
    global_step = tf.train.get_global_step()
    session.run(tf.global_variables_initializer())
    session.run(tf.assign(global_step, 6))
    _, rate, norm = session.run(step)
    np.testing.assert_allclose([rate, norm], [0.2, 2 ** 0.5], rtol=1e-6)
    assert session.run(global_step) == 7


def test_tpu_is_refused():
  with tf.Graph().as_default(), pytest.raises(ValueError) as error:
    var = get_variable("w", np.ones([2], np.float32))
    optimization.create_optimizer(tf.reduce_sum(var), 0.1, 10, 1, True)
  assert str(error.value) == "TPUs are not supported; use_tpu must be False."


@pytest.mark.parametrize("learning_rate, tolerance", [(5e-5, 1e-6),
                                                      (3e-3, 1e-4)])
def test_ten_steps_equal_the_original(learning_rate, tolerance):
  original = pytest.importorskip("bert.optimization")
  results = []
  for library in (original, optimization):
    optimizer = library.AdamWeightDecayOptimizer(
        learning_rate, weight_decay_rate=0.01,
        exclude_from_weight_decay=NO_DECAY)
    results.append(run_optimizer(optimizer.apply_gradients, 10, False)[2])
  assert set(results[0]) == set(results[1])
  for name, _ in SHAPES:
    np.testing.assert_allclose(results[1][name], results[0][name], rtol=0,
                               atol=tolerance)


# Arguments of google-research/bert eedf571, "name=default".
SIGNATURES = {
    "create_optimizer": (
        "loss init_lr num_train_steps num_warmup_steps use_tpu"),
    "AdamWeightDecayOptimizer.__init__": (
        "self learning_rate weight_decay_rate=0.0 beta_1=0.9 beta_2=0.999 "
        "epsilon=1e-06 exclude_from_weight_decay=None "
        "name='AdamWeightDecayOptimizer'"),
    "AdamWeightDecayOptimizer.apply_gradients": (
        "self grads_and_vars global_step=None name=None"),
}


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_names_arguments_and_defaults(name):
  function = optimization
  for part in name.split("."):
    function = getattr(function, part)
  actual = [str(parameter).replace(" ", "") for parameter in
            inspect.signature(function).parameters.values()]
  expected = SIGNATURES[name].split()
  assert actual[:len(expected)] == expected
  assert all(added.endswith("=None") for added in actual[len(expected):])
