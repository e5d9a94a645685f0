# SPDX-License-Identifier: Apache-2.0
"""Tests of training, evaluation and prediction on several devices.

The devices are parts of the CPU; `gpus_test.py` is for real ones.
"""

import json
import os
import re
import zlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel.features import batch_parts
from multilabel.storage import checkpoint_choice
from multilabel.training import mirrored
from multilabel.training import progress
import run_multilabel_classifier


NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                  num_hidden_layers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  # 101 texts in batches of 8: the last of an epoch has 5.
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (101, 30, 20))


@pytest.fixture(scope="module")
def plain_bert(tmp_path_factory):
  """`bert` without dropout in the encoder."""
  return tiny_bert.make_bert(tmp_path_factory.mktemp("plain"), **NO_DROPOUT)


@pytest.fixture
def values(monkeypatch):
  """The list of what each step of a run fetched."""
  fetched = []
  update = progress.Progress.update
  monkeypatch.setattr(
      progress.Progress, "update", lambda self, step, now: (
          fetched.append(now), update(self, step, now)))
  return fetched


@pytest.fixture
def no_dropout(monkeypatch):
  """Without the dropout of the head, which no configuration switches off."""
  monkeypatch.setattr(modeling, "dropout",
                      lambda tensor, *unused_args, **unused_kwargs: tensor)


def call(*args, **flags):
  num_devices = flags.pop("num_devices", None)
  if num_devices:
    flags.update(distribution="mirrored", num_devices=num_devices)
  return tiny_bert.call(run_multilabel_classifier,
                        tiny_bert.arguments(*args, **flags))


def checked(*args, **flags):
  status, _, stderr, log = call(*args, **flags)
  assert (status, stderr) == (0, "")
  return log


def weights_of(output_dir):
  return tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(str(output_dir)))


def check_close(first, second, tolerance):
  assert sorted(first) == sorted(second)
  for name in first:
    assert first[name].shape == second[name].shape
    assert np.abs(first[name] - second[name]).max() <= tolerance, name


def check_equal_bits(first, second):
  check_close(first, second, 0)


# The same losses as on one device.


def test_the_losses_are_those_of_one_device(
    plain_bert, data, tmp_path, values, no_dropout):
  flags = dict(num_train_epochs=2, do_eval=True, eval_steps=0, do_predict=True,
               learning_rate=0.003)
  runs = {}
  for num_devices in (1, 4):
    del values[:]
    checked(plain_bert, data, tmp_path / str(num_devices),
            num_devices=num_devices, **flags)
    runs[num_devices] = list(values)
  steps = 2 * 13
  assert len(runs[1]) == steps
  assert 5 in [fetched["shape"][0] for fetched in runs[1]]
  assert len(runs[4]) == steps
  for one, many in zip(runs[1], runs[4]):
    assert many["shape"].tolist() == one["shape"].tolist()
    assert many["num_tokens"] == one["num_tokens"]
    assert many["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert many["learning_rate"] == one["learning_rate"]
  one, many = [weights_of(tmp_path / name) for name in "14"]
  assert "bert/encoder/layer_0/output/dense/kernel/adam_v" in many
  check_close(one, many, 1e-4)
  one, many = [np.loadtxt(str(tmp_path / name / "test_results.tsv"))
               for name in "14"]
  assert one.shape == (20, 3)
  assert np.abs(one - many).max() < 1e-4
  one, many = [float(re.search(r"^loss = (.*)", tiny_bert.read_text(
      tmp_path / name / "eval_results.txt"), re.M).group(1)) for name in "14"]
  assert many == pytest.approx(one, abs=1e-5)
  assert runs[1][0]["loss"] - runs[1][-1]["loss"] > 0.02


@pytest.mark.newest
@pytest.mark.parametrize("flags", [
    {"gradient_accumulation_steps": 4, "skip_nonfinite": 1},
    {"recompute_layers": True, "gradient_accumulation_steps": 2,
     "layer_decay": 0.9, "freeze_layers": 0},
], ids=lambda flags: "+".join(sorted(flags)))
def test_what_saves_memory_goes_with_several_devices(
    plain_bert, data, tmp_path, values, no_dropout, flags):
  flags = dict(num_train_epochs=1, learning_rate=0.003, max_train_examples=29,
               **flags)
  checked(plain_bert, data, tmp_path / "one", train_batch_size=8,
          **dict(flags, recompute_layers=False,
                 gradient_accumulation_steps=1))
  one = list(values)
  del values[:]
  checked(plain_bert, data, tmp_path / "two", train_batch_size=8,
          num_devices=2, **flags)
  assert len(one) == len(values) == 4
  assert sorted(found["shape"][0] for found in values) == [5, 8, 8, 8]
  for first, second in zip(one, values):
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)
  check_close(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), 1e-4)


@pytest.fixture
def fixed_dropout(monkeypatch):
  """Factors in place of masks: others in each pass and place, not by row."""
  def multiply(tensor, unused_rate, seed=None):
    if seed is None:  # not in training
      return tensor
    place = zlib.crc32(tf.get_variable_scope().name.encode("ascii")) % 7
    return tensor * (0.8 + 0.05 * place + 0.1 * (seed[0] >> 30))

  monkeypatch.setattr(modeling, "dropout", multiply)


def evaluations_of(output_dir):
  """The losses on dev of the evaluations while training."""
  return [found["loss"] for found in json.loads(tiny_bert.read_text(
      os.path.join(str(output_dir), "best_checkpoint.json")))["evaluations"]]


@pytest.mark.newest
def test_losses_of_several_passes_go_with_several_devices(
    plain_bert, data, tmp_path, values, fixed_dropout):
  """And with parts; the last batch has one text, so a device has none."""
  def run(name, **flags):
    del values[:]
    checked(plain_bert, data, tmp_path / name, learning_rate=0.003,
            max_train_examples=17, num_train_epochs=2, do_eval=True,
            eval_steps=2, **flags)
    return list(values)

  plain = run("plain")
  for flags, parts in (
      ({"r_drop": 5.0}, 1),
      ({"adversarial": "fgm", "multi_sample_dropout": 3, "r_drop": 2.0}, 2)):
    names = ["%s-%d" % (sorted(flags)[0], number) for number in (1, 2)]
    one = run(names[0], **flags)
    two = run(names[1], num_devices=2, gradient_accumulation_steps=parts,
              **flags)
    assert len(one) == len(two) == 6
    assert 1 in [found["shape"][0] for found in two]
    for first, second in zip(one, two):
      assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
      assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)
    assert abs(one[-1]["loss"] - plain[-1]["loss"]) > 1e-4  # they do something
    check_close(*[weights_of(tmp_path / name) for name in names] + [1e-4])
    on_dev = [evaluations_of(tmp_path / name) for name in names]
    assert len(on_dev[0]) == 3
    assert on_dev[1] == pytest.approx(on_dev[0], abs=1e-5)


def test_parts_on_several_devices_have_masks_of_their_own():
  step = 2 ** 31 - 1  # the last one that may be, and the last part
  keys = set()
  for part in (0, 1, 2 ** 21 - 1):
    (_, told), = batch_parts.split([0], 1, step)
    dropout_step = int(told[batch_parts.DROPOUT_STEP]) + (part << 31)
    for replica in (0, 1, 7):
      with tf.Graph().as_default(), tf.Session() as session:
        keys.add(int(session.run(mirrored.replica_dropout_seed(
            (0, tf.constant(dropout_step, tf.int64)), replica)[1])))
  assert len(keys) == 9


# A run that is killed, another number of devices, no devices.


def test_a_stopped_run_goes_on_with_the_same_bits(bert, data, tmp_path,
                                                  monkeypatch):
  # At an epoch's end a batch of 1: one device has no row, and no second part.
  flags = dict(num_devices=2, train_batch_size=4, max_train_examples=9,
               gradient_accumulation_steps=2, num_train_epochs=2,
               do_predict=True)
  calm, stormy = str(tmp_path / "calm"), str(tmp_path / "stormy")
  checked(bert, data, calm, **flags)
  update = progress.Progress.update

  def update_and_stop(self, step, values):
    update(self, step, values)
    if step == 5:
      raise KeyboardInterrupt

  with monkeypatch.context() as context:
    context.setattr(progress.Progress, "update", update_and_stop)
    assert call(bert, data, stormy, save_checkpoints_steps=3, **flags)[0] == 130
  log = checked(bert, data, stormy, save_checkpoints_steps=3, **flags)
  assert any("resuming from step 3 of 6" in line for line in log)
  assert not any("started with" in line for line in log)
  weights = weights_of(calm)
  check_equal_bits(weights, weights_of(stormy))
  assert weights["global_step"] == 6
  assert all(np.isfinite(value).all() for value in weights.values())
  # Named and shaped as those of one device, which goes on with them.
  before = tiny_bert.read_text(os.path.join(calm, "test_results.tsv"))
  log = checked(bert, data, calm, resume="force", **dict(
      flags, num_devices=None, num_train_epochs=3))
  assert any(
      "started with 2 devices and continues with 1" in line for line in log)
  assert any("resuming from step 6 of 9" in line for line in log)
  assert sorted(weights_of(calm)) == sorted(weights)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list({
          "task_name": "jsonl", "data_dir": data, "output_dir": stormy,
          "do_predict": True}))
  assert (status, stderr) == (0, "")
  after = tiny_bert.read_text(os.path.join(stormy, "test_results.tsv"))
  assert np.abs(np.loadtxt(before.splitlines()) -
                np.loadtxt(after.splitlines())).max() < 1e-5
  settings = json.loads(tiny_bert.read_text(
      os.path.join(stormy, "model_settings.json")))
  assert settings["run"]["num_devices"] == 2


@pytest.mark.newest
@pytest.mark.parametrize("flags, message", [
    (dict(num_devices=2), "--num_devices needs --distribution=mirrored"),
    (dict(distribution="mirrored"), "--distribution=mirrored found no GPU"),
    (dict(distribution="mirrored", num_devices=0), "--num_devices is 0"),
    (dict(distribution="mirrored", num_devices=3),
     "--train_batch_size is 8, which is not divisible by 3 devices; use 6 or "
     "9."),
    (dict(distribution="mirrored", num_devices=2, train_batch_size=2,
          gradient_accumulation_steps=2),
     "--train_batch_size is 2, which is not divisible by 2 devices times "
     "--gradient_accumulation_steps=2; use 4."),
])
def test_flags_that_cannot_be(bert, data, tmp_path, monkeypatch, flags,
                              message):
  monkeypatch.setattr(mirrored, "_num_gpus", lambda: 0)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier,
      tiny_bert.arguments(bert, data, tmp_path / "o", **flags))
  assert status == 2
  assert message in stderr
  assert stderr.count("\n") == 1
  assert not (tmp_path / "o").exists()


@pytest.mark.newest
def test_more_gpus_than_there_are(bert, data, tmp_path, monkeypatch):
  monkeypatch.setattr(mirrored, "_num_gpus", lambda: 2)
  status, _, stderr, _ = call(bert, data, tmp_path / "o", num_devices=3)
  assert status == 2
  assert "--num_devices is 3, but this machine has 2 GPUs." in stderr


# The parts.


@pytest.mark.parametrize("rows, expected", [
    (8, [3, 3, 2]), (5, [2, 2, 1]), (2, [1, 1, 0]), (1, [1, 0, 0])])
def test_rows_are_dealt_out(rows, expected):
  with tf.Graph().as_default(), tf.Session() as session:
    features = {"input_ids": tf.constant(np.arange(2 * rows).reshape(rows, 2)),
                "label_ids": tf.constant(np.arange(rows))}
    parts = session.run([mirrored.rows_of_replica(features, replica, 3)
                         for replica in range(3)])
  assert sorted(len(part["label_ids"]) for part in parts) == sorted(expected)
  for key, full in (("label_ids", np.arange(rows)),
                    ("input_ids", np.arange(2 * rows).reshape(rows, 2))):
    assert np.array_equal(np.concatenate([part[key] for part in parts]), full)


def test_each_replica_has_masks_of_its_own():
  with tf.Graph().as_default(), tf.Session() as session:
    def mask(replica, step):
      return modeling.dropout(
          tf.ones([8, 8]), 0.5, mirrored.replica_dropout_seed(
              (7, tf.constant(step, tf.int64)), replica))

    masks = session.run([mask(0, 3), mask(1, 3), mask(2, 3), mask(1, 4),
                         modeling.dropout(
                             tf.ones([8, 8]), 0.5,
                             (7, tf.constant(3, tf.int64)))])
  assert np.array_equal(masks[0], masks[4])  # one device's
  for number, one in enumerate(masks[:4]):
    for other in masks[:number]:
      assert not np.array_equal(one, other)
