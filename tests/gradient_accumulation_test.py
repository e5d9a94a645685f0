# SPDX-License-Identifier: Apache-2.0
"""Tests of updates in parts: they are those of the whole batch."""

import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel.features import batch_parts
from multilabel.features import encoding
from multilabel.features import input_pipeline
from multilabel.storage import checkpoint_choice
from multilabel.training import loop
from multilabel.training import train_op
import run_multilabel_classifier


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """27 texts: batches of 8 and one of 3 an epoch."""
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (27, 10, 5))


@pytest.fixture(scope="module")
def berts(tmp_path_factory):
  """{whether it has dropout: folder}."""
  folder = tmp_path_factory.mktemp("bert")
  return {True: tiny_bert.make_bert(folder / "dropout", num_hidden_layers=1),
          False: tiny_bert.make_bert(
              folder / "plain", num_hidden_layers=1, hidden_dropout_prob=0.0,
              attention_probs_dropout_prob=0.0)}


def train(bert, data, output_dir, **flags):
  """Two epochs; the weights after them."""
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, **dict(
              {"learning_rate": 1e-3, "log_steps": 1}, **flags)))
  assert (status, stderr) == (0, "")
  return tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(str(output_dir)))


def curves(output_dir):
  """{(tag, step): value} of what training shows."""
  found = {}
  for name in os.listdir(str(output_dir)):
    if name.startswith("events."):
      for event in tf.train.summary_iterator(
          os.path.join(str(output_dir), name)):
        for value in event.summary.value:
          if value.tag in ("loss", "step/learning_rate", "step/grad_norm"):
            found[value.tag, event.step] = value.simple_value
  return found


@pytest.fixture
def without_head_dropout(monkeypatch):
  """Switches off the dropout before the head, which no configuration names."""
  dropout = modeling.dropout
  monkeypatch.setattr(
      modeling, "dropout",
      lambda tensor, rate, seed=None: dropout(
          tensor, 0.0 if tensor.shape.ndims == 2 and
          tf.get_variable_scope().name == "loss" else rate, seed))


@pytest.mark.parametrize("parts,flags", [
    (4, {}), (2, {"head_learning_rate": 5e-3, "adam_bias_correction": False,
                  "skip_nonfinite": 1, "ema_decay": 0.9})])
def test_parts_make_the_update_of_the_whole_batch(
    berts, data, tmp_path, without_head_dropout, parts, flags):
  whole = train(berts[False], data, tmp_path / "whole", **flags)
  seen = curves(tmp_path / "whole")
  start = tiny_bert.read_weights(os.path.join(berts[False], "bert_model.ckpt"))
  name = "bert/encoder/layer_0/output/dense/kernel"
  assert np.abs(whole[name] - start[name]).max() > 1e-3
  assert len(seen) == 3 * 8 and seen["step/grad_norm", 1] > 0
  weights = train(berts[False], data, tmp_path / "parts",
                  gradient_accumulation_steps=parts, **flags)
  assert sorted(weights) == sorted(whole) and weights["global_step"] == 8
  for name in whole:
    np.testing.assert_allclose(weights[name], whole[name], rtol=1e-5,
                               atol=1e-5, err_msg=name)
  values = curves(tmp_path / "parts")
  assert sorted(values) == sorted(seen)
  for key in seen:
    assert values[key] == pytest.approx(seen[key], rel=1e-5), key


@pytest.mark.parametrize("use_resource", [False, True])
def test_an_update_equals_one_gradient_of_all_rows(use_resource):
  """A gather with a row that is there twice, clipping, a part of one row."""
  ids = np.array([[1, 2], [2, 2], [0, 3], [4, 1], [3, 3]])
  targets = np.random.RandomState(5).randn(5, 3).astype(np.float32) * 30
  table = np.random.RandomState(6).randn(6, 3).astype(np.float32)

  def update(cuts):
    with tf.Graph().as_default(), tf.Session() as session, (
        tf.variable_scope("", use_resource=use_resource)):
      rows = tf.get_variable("rows", [6, 3],
                             initializer=tf.constant_initializer(table))
      bias = tf.get_variable("bias", [3], initializer=tf.zeros_initializer())
      tf.get_variable("not_in_the_loss", [2])
      fed, wanted = (tf.placeholder(tf.int32, [None, 2]),
                     tf.placeholder(tf.float32, [None, 3]))
      share = tf.placeholder(tf.float32, [])
      loss = tf.reduce_mean(tf.squared_difference(
          tf.reduce_sum(tf.gather(rows, fed), axis=1) + bias, wanted))
      step = train_op.create_train_op(
          loss, 0.1, 10, 0, share=None if cuts is None else share)
      session.run([tf.global_variables_initializer(),
                   tf.local_variables_initializer()])
      found = []
      loss = loss if cuts is None else step.loss
      for _ in range(2):
        if cuts is not None:
          for start, end in cuts:
            session.run(step.accumulate_op, {
                fed: ids[start:end], wanted: targets[start:end],
                share: (end - start) / 5.})
        feed = {fed: ids, wanted: targets} if cuts is None else {}
        found += session.run(
            [loss, step.grad_norm, step.train_op], feed)[:2]
        found += session.run([rows, bias])
      names = sorted(var.name for var in tf.global_variables())
    return found, names

  whole, names = update(None)
  in_parts, same_names = update([(0, 2), (2, 4), (4, 5)])
  assert same_names == names and whole[1] > 1
  for one, other in zip(whole, in_parts):
    np.testing.assert_allclose(other, one, rtol=2e-6, atol=1e-6)


@pytest.mark.newest
def test_a_run_in_parts_goes_on_as_if_never_stopped(berts, data, tmp_path,
                                                    monkeypatch):
  flags = dict(gradient_accumulation_steps=4, save_checkpoints_steps=3,
               keep_checkpoint_max=0)
  calm = train(berts[True], data, tmp_path / "calm", **flags)

  run_update, calls = train_op.run_update, []

  def lost_in_the_middle(session, accumulate_fetches, update_fetches):
    calls.append(1)
    if len(calls) == 6:
      session.run(accumulate_fetches)
      raise MemoryError("lost in the middle")
    return run_update(session, accumulate_fetches, update_fetches)

  monkeypatch.setattr(train_op, "run_update", lost_in_the_middle)
  with pytest.raises(AssertionError, match="he middle"):
    train(berts[True], data, tmp_path / "stormy", **flags)
  assert checkpoint_choice.latest_checkpoint(
      str(tmp_path / "stormy")).endswith("model.ckpt-3")
  monkeypatch.undo()
  stormy = train(berts[True], data, tmp_path / "stormy", **flags)
  assert sorted(calm) == sorted(stormy)
  for name in calm:
    assert calm[name].tobytes() == stormy[name].tobytes(), name

  # Other parts have other masks, so it would be another run.
  settings = json.loads(tiny_bert.read_text(
      str(tmp_path / "stormy" / "model_settings.json")))
  assert settings["run"]["gradient_accumulation_steps"] == 4
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          berts[True], data, tmp_path / "stormy", learning_rate=1e-3,
          gradient_accumulation_steps=2))
  assert status == 2 and stderr.count("\n") == 1
  assert "gradient_accumulation_steps (there 4, here 2)" in stderr


@pytest.mark.newest
def test_one_part_is_held_at_a_time(berts, data, tmp_path, monkeypatch):
  shapes, updates = [], []
  run_update = train_op.run_update

  class Watched(object):
    def __init__(self, session):
      self._session = session

    def run(self, fetches):
      values = self._session.run(fetches)
      if "shape" in fetches:
        shapes.append(list(values["shape"]))
      return values

  monkeypatch.setattr(
      train_op, "run_update", lambda session, parts, update: (
          updates.append(run_update(Watched(session), parts, update)),
          updates[-1])[1])
  train(berts[True], data, tmp_path / "o", gradient_accumulation_steps=2)
  # Each epoch three batches of 8 in parts of 4, and one of 3 in one part.
  assert sorted(rows for rows, _ in shapes) == [3] * 2 + [4] * 12
  assert sorted(one["shape"][0] for one in updates) == [3] * 2 + [8] * 6
  assert len(set(longest for _, longest in shapes)) > 1


def test_parts_hold_each_example_once_and_have_masks_of_their_own():
  parts = batch_parts.split(np.arange(10, 17), 3, 5)
  assert [list(numbers) for numbers, _ in parts] == [
      [10, 11, 12], [13, 14, 15], [16]]
  assert [bool(place["is_last_part"]) for _, place in parts] == [
      False, False, True]
  np.testing.assert_allclose([place["share"] for _, place in parts],
                             [3 / 7., 3 / 7., 1 / 7.], rtol=1e-6)
  assert [int(place["dropout_step"]) for _, place in parts] == [
      5, 5 + 2 ** 31, 5 + 2 ** 32]


def test_train_batches_in_parts_are_the_same_batches():
  records = input_pipeline._FeatureList([  # pylint: disable=protected-access
      encoding.InputFeatures([i] * (1 + i % 3), [1] * (1 + i % 3),
                                   [0] * (1 + i % 3), [0])
      for i in range(1, 12)])
  whole = list(input_pipeline.train_batches(records, 4, 1, 1, 5, 2))
  parts = list(input_pipeline.train_batches(records, 4, 1, 1, 5, 2,
                                            num_parts=2))
  assert len(parts) == 8 and "share" not in whole[0]
  joined, rows = [], []
  for part in parts:
    rows.extend(part["input_ids"][:, 0])
    if part["is_last_part"]:
      joined.append(rows)
      rows = []
  assert joined == [list(batch["input_ids"][:, 0]) for batch in whole]


@pytest.mark.newest
@pytest.mark.parametrize("flags,message", [
    ({"gradient_accumulation_steps": 0},
     "--gradient_accumulation_steps is 0; it must be 1 or more."),
    ({"gradient_accumulation_steps": 3},
     "--train_batch_size is 8, which is not divisible by "
     "--gradient_accumulation_steps=3; use 6 or 9 examples per update, or "
     "another number of parts."),
    ({"gradient_accumulation_steps": 16},
     "--train_batch_size is 8, which is not divisible by "
     "--gradient_accumulation_steps=16; use 16 examples per update, or another "
     "number of parts."),
])
def test_a_batch_that_cannot_be_divided(berts, data, tmp_path, flags, message):
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier,
      tiny_bert.arguments(berts[True], data, tmp_path / "o", **flags))
  assert status == 2
  assert stderr == "run_multilabel_classifier.py: %s\n" % message
  assert not (tmp_path / "o").exists()


def test_a_whole_batch_needs_no_sums(berts):
  """Without parts the graph has no local variable, and one run is a step."""
  with tf.Graph().as_default():
    loss = tf.square(tf.get_variable("w", []))
    step = train_op.create_train_op(loss, 0.1, 10, 0)
    assert not hasattr(step, "accumulate_op")
    assert not tf.local_variables()
  assert loop.ModelSpec(*[None] * 6).accumulate_op is None
