# SPDX-License-Identifier: Apache-2.0
"""Tests of steps whose loss or gradient is no number: an end, or skipped."""

import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.training import run_setup
from multilabel.training import train_op
import run_multilabel_classifier


def call(*args, **flags):
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      *args, **dict(dict(num_train_epochs=3, save_checkpoints_steps=1,
                         keep_checkpoint_max=0), **flags)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """24 texts: 3 steps an epoch, 9 in all."""
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"),
                             sizes=(24, 10, 5))


def spoil(monkeypatch, steps, value=float("nan")):
  """Multiplies the loss of some steps by a number."""
  make_loss = run_setup.make_loss

  def make(*args):
    loss_fn = make_loss(*args)

    def spoiled(labels, logits):
      step = tf.train.get_or_create_global_step()
      return loss_fn(labels=labels, logits=logits) * tf.where_v2(
          tf.reduce_any([tf.equal(step, one) for one in steps]), value, 1.0)
    return spoiled

  monkeypatch.setattr(run_setup, "make_loss", make)


def weights_of(folder, step):
  return tiny_bert.read_weights(os.path.join(
      str(folder), "model.ckpt-%d" % step))


def check_equal(first, second, but=()):
  assert sorted(first) == sorted(second)
  for name in first:
    if name not in but:
      assert first[name].tobytes() == second[name].tobytes(), name


def test_without_such_a_step_no_bit_is_another(bert, data, tmp_path):
  for name, flags in (("plain", {}), ("ready", {"skip_nonfinite": 3})):
    status, _, stderr, _ = call(
        bert, data, tmp_path / name, head_learning_rate=0.02, **flags)
    assert (status, stderr) == (0, "")
  check_equal(weights_of(tmp_path / "plain", 9),
              weights_of(tmp_path / "ready", 9))


@pytest.mark.newest
def test_such_steps_are_skipped_and_counted(bert, data, tmp_path, monkeypatch):
  spoil(monkeypatch, [2, 5, 7])
  folder = tmp_path / "o"
  status, _, stderr, _ = call(bert, data, folder)
  assert status == 1 and stderr.count("\n") == 1
  found = re.search(
      r"training diverged at step 2: loss nan, gradient norm nan, on a batch "
      r"of 8 examples \(id (.*)\); the last checkpoint is of step 2; try a "
      r"lower", stderr)
  assert len(set(found.group(1).split(", "))) == 8

  # The same run goes on with them, and counts over all its processes.
  status, _, stderr, log = call(bert, data, folder, skip_nonfinite=2)
  assert status == 1
  assert ("training diverged at step 7: loss nan, gradient norm nan, on a "
          "batch of 8 examples") in stderr
  assert "2 steps were already skipped" in stderr
  skipped = [line for line in log if line.startswith("Skipped")]
  assert [line.split(":")[0] for line in skipped] == [
      "Skipped (1 of at most 2) step 2", "Skipped (2 of at most 2) step 5"]
  for step in (2, 5):
    # Adam's moments among them.
    check_equal(weights_of(folder, step), weights_of(folder, step + 1),
                but=["global_step"])
    assert weights_of(folder, step + 1)["global_step"] == step + 1
  assert np.any(weights_of(folder, 3)["output_weights"] !=
                weights_of(folder, 4)["output_weights"])
  status, _, _, log = call(bert, data, folder, skip_nonfinite=2)
  assert status == 1 and not any("Skipped" in line for line in log)
  status, _, stderr, log = call(bert, data, folder, skip_nonfinite=3)
  assert (status, stderr) == (0, "")
  assert any("Skipped (3 of at most 3) step 7" in line for line in log)
  newest = checkpoint_choice.latest_checkpoint(str(folder))
  assert newest.endswith("-9")
  assert checkpoint_files.read_run_state(newest)["skipped_steps"] == 3
  assert checkpoint_files.find_problem(
      newest, checkpoint_choice.run_identity(str(folder)), True) is None


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_update_that_stands_still(value, use_resource):
  """Kinds of variables and of gradients; a dense and a sparse one."""
  with tf.Graph().as_default(), tf.Session() as session:
    table = tf.get_variable("table", initializer=tf.ones([4, 2]) * 0.3,
                            use_resource=use_resource)
    weight = tf.get_variable("weight", initializer=tf.ones([2, 2]) * 0.7,
                             use_resource=use_resource)
    factor = tf.placeholder(tf.float32, [])
    loss = tf.reduce_sum(tf.matmul(tf.gather(table, [1, 1, 2]), weight) ** 2
                         ) * factor
    step = train_op.create_train_op(loss, 0.1, 10, 0, bias_correction=True,
                                        skip_nonfinite=True)
    session.run(tf.global_variables_initializer())
    values = [session.run(tf.global_variables())]
    for number in (1.0, value, 1.0):
      norm, _ = session.run([step.grad_norm, step.train_op], {factor: number})
      values.append(session.run(tf.global_variables()))
      assert np.isfinite(norm) == (number == 1.0)
    names = [variable.op.name for variable in tf.global_variables()]
  assert "weight/adam_v" in names and "table/adam_m" in names
  for name, first, second, third, fourth in zip(names, *values):
    if name == "global_step":
      assert (first, second, third, fourth) == (0, 1, 2, 3)
    else:
      assert second.tobytes() == third.tobytes(), name
      assert np.any(first != second) and np.any(third != fourth), name
