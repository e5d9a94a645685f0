# SPDX-License-Identifier: Apache-2.0
"""Tests of the session loop: exact resume, stopping, results, options."""

import functools
import glob
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel.features import input_pipeline
from multilabel.features import record_file
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import trained_model
from multilabel.training import loop
from multilabel.training import model_graph
from multilabel.training import progress as training_progress
from multilabel.training import run_setup
from multilabel.training import scoring
import run_multilabel_classifier


def call(*args, **flags):
  return tiny_bert.call(run_multilabel_classifier,
                        tiny_bert.arguments(*args, **flags))


@pytest.fixture(scope="module")
def trained(learned, tmp_path_factory):
  """A copy of the trained directory, which the tests leave as it is."""
  output_dir = str(tmp_path_factory.mktemp("trained") / "copy")
  shutil.copytree(learned.output_dir, output_dir)
  return output_dir


def steps_of(output_dir):
  return sorted(int(path[:-len(".index")].rpartition("-")[2])
                for path in glob.glob(os.path.join(output_dir, "*.index")))


def weights_of(output_dir):
  return tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(str(output_dir)))


def check_equal_bits(first, second):
  assert sorted(first) == sorted(second)
  for name in first:
    assert first[name].dtype == second[name].dtype
    assert first[name].tobytes() == second[name].tobytes(), name


# Killed and started again.


def wait_for_step(process, output_dir, step):
  deadline = time.time() + 600
  while not any(found >= step for found in steps_of(output_dir)):
    assert process.poll() is None, process.communicate()[1].decode("utf-8")
    assert time.time() < deadline
    time.sleep(0.005)


def event_steps(output_dir):
  """{tag: list of steps} as TensorBoard shows them."""
  return {tag: [step for step, _ in points]
          for tag, points in tiny_bert.event_points(output_dir).items()}


def test_a_killed_run_ends_with_the_same_bits(bert, data, tmp_path):
  flags = dict(train_batch_size=4, num_train_epochs=14, do_eval=True,
               do_predict=True, save_checkpoints_steps=40, log_steps=20,
               keep_checkpoint_max=2)
  calm, stormy = str(tmp_path / "calm"), str(tmp_path / "stormy")
  assert call(bert, data, calm, **flags)[0] == 0

  def start():
    return tiny_bert.start_script(
        "run_multilabel_classifier.py",
        tiny_bert.arguments(bert, data, stormy, **flags))

  process = start()
  wait_for_step(process, stormy, 80)
  process.send_signal(signal.SIGTERM)
  stderr = process.communicate()[1].decode("utf-8")
  assert process.returncode == 143
  stopped = steps_of(stormy)[-1]
  assert 80 <= stopped < 420
  assert stderr.splitlines()[-1] == (
      "run_multilabel_classifier.py: stopped by signal 15; the checkpoint of "
      "step %d of 420 is saved, the same command resumes." % stopped)
  assert "Traceback" not in stderr
  assert not os.path.exists(os.path.join(stormy, "eval_results.txt"))
  # What a kill within the writing of a checkpoint leaves behind.
  torn = [os.path.join(stormy, name) for name in (
      "model.ckpt-40.data-00000-of-00001.tempstate123", "model.ckpt-40_temp",
      "model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001")]
  tiny_bert.write_text(torn[0], u"half")
  os.mkdir(torn[1])
  # ... and one between saving and removing the oldest.
  for path in torn[2:]:
    shutil.copy(path.replace("-1.", "-%d." % stopped), path)

  process = start()
  wait_for_step(process, stormy, (stopped + 80) // 40 * 40)
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not any(map(os.path.exists, torn))

  status, _, stderr, log = call(bert, data, stormy, **flags)
  assert status == 0, stderr
  assert any("resuming from step" in line for line in log)
  assert any("Features of train: found in" in line for line in log)
  check_equal_bits(weights_of(calm), weights_of(stormy))
  for name in ("best_checkpoint.json", "eval_results.txt",
               "test_results.tsv", "test_predictions.jsonl"):
    assert tiny_bert.read_text(os.path.join(calm, name)) == (
        tiny_bert.read_text(os.path.join(stormy, name))), name
  best = json.loads(tiny_bert.read_text(
      os.path.join(calm, "best_checkpoint.json")))
  epochs = list(range(30, 421, 30))
  assert [row["step"] for row in best["evaluations"]] == epochs
  assert steps_of(stormy) == steps_of(calm)
  assert steps_of(calm)[-1] == 420 and best["step"] in steps_of(calm)
  assert len(steps_of(calm)) <= 3  # the two newest, and the best
  expected = list(range(20, 421, 20))
  undisturbed = event_steps(calm)
  for tag in ("loss", "step/learning_rate", "step/grad_norm",
              "step/examples_per_second"):
    assert undisturbed.pop(tag) == expected
  assert "dev/micro_f1" in undisturbed and "pr_curves/all" in undisturbed
  for tag, steps in undisturbed.items():
    assert tag.startswith(("dev/", "more_dev/", "pr_curves/"))
    assert steps == epochs
  assert event_steps(stormy)["loss"] == expected
  assert event_steps(stormy)["dev/micro_f1"] == epochs


@pytest.mark.newest
def test_a_finished_run_does_not_train_again(bert, data, trained):
  before = {name: os.stat(os.path.join(trained, name)).st_mtime_ns
            for name in os.listdir(trained) if "ckpt" in name}
  weights = weights_of(trained)
  results = tiny_bert.read_text(os.path.join(trained, "eval_results.txt"))
  status, _, stderr, log = call(bert, data, trained, do_eval=True,
                                num_train_epochs=12)
  assert (status, stderr) == (0, "")
  assert any("already finished: step 180 of 180" in line for line in log)
  after = {name: os.stat(os.path.join(trained, name)).st_mtime_ns
           for name in os.listdir(trained) if "ckpt" in name}
  assert after == before
  check_equal_bits(weights_of(trained), weights)
  assert tiny_bert.read_text(
      os.path.join(trained, "eval_results.txt")) == results


@pytest.mark.newest
def test_a_signal_in_the_last_step_stops_too(bert, data, tmp_path,
                                             monkeypatch):
  update = training_progress.Progress.update

  def update_and_signal(self, step, values):
    update(self, step, values)
    if step == 3:
      os.kill(os.getpid(), signal.SIGINT)

  monkeypatch.setattr(training_progress.Progress, "update", update_and_signal)
  status, _, stderr, _ = call(bert, data, tmp_path / "o", do_eval=True,
                              max_train_examples=24, num_train_epochs=1)
  assert status == 130
  assert "stopped by signal 2; the checkpoint of step 3 of 3 is saved" in stderr
  assert not (tmp_path / "o" / "eval_results.txt").exists()
  assert steps_of(str(tmp_path / "o")) == [3]
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# What a run writes while it trains.


def test_checkpoints_and_steps(trained):
  # 120 examples, batches of 8, 12 epochs; saved every 50 steps and where an
  # evaluation is the best so far; in the end the best and the newest are kept.
  best = json.loads(tiny_bert.read_text(
      os.path.join(trained, "best_checkpoint.json")))
  evaluated = [row["step"] for row in best["evaluations"]]
  assert evaluated == list(range(15, 181, 15))
  steps = steps_of(trained)
  assert set(steps) == {best["step"], 180}
  weights = weights_of(trained)
  assert weights["global_step"] == 180
  assert weights["output_weights"].shape == (3, 16)
  assert "bert/encoder/layer_0/output/dense/kernel/adam_v" in weights
  assert event_steps(trained)["loss"] == list(range(15, 181, 15))
  assert not glob.glob(os.path.join(trained, "*.meta"))
  assert not glob.glob(os.path.join(trained, "*.tmp"))


@pytest.mark.newest
def test_the_last_smaller_batch_is_used(bert, data, tmp_path, monkeypatch):
  sizes = []
  update = training_progress.Progress.update
  monkeypatch.setattr(
      training_progress.Progress, "update", lambda self, step, values: (
          sizes.append(int(values["shape"][0])), update(self, step, values)))
  status, _, _, log = call(bert, data, tmp_path / "o", max_train_examples=19,
                           num_train_epochs=2)
  assert status == 0
  assert sorted(sizes) == [3, 3, 8, 8, 8, 8]
  assert any("19 examples, 3 labels, batches of 8, 6 steps" in line
             for line in log)
  assert steps_of(str(tmp_path / "o")) == [6]


def test_tensorboard_values(trained):
  values = {}
  path, = glob.glob(os.path.join(trained, "events.*"))
  for event in tf.train.summary_iterator(path):
    for value in event.summary.value:
      values[value.tag, event.step] = value.simple_value
  # Peak 0.015, warmup of 18 steps, 180 in all: the 15th step is number 14.
  assert values["step/learning_rate", 15] == pytest.approx(
      0.015 * 14 / 18, rel=1e-5)
  assert values["step/learning_rate", 30] == pytest.approx(
      0.015 * (1 - 29 / 180.), rel=1e-5)
  assert values["step/learning_rate", 180] == pytest.approx(
      0.015 * (1 - 179 / 180.), rel=1e-5)
  assert 0 < values["step/grad_norm", 15] < 100
  assert values["step/examples_per_second", 30] > 0
  assert 0 < values["loss", 180] < 1


# Divergence.


def test_divergence_stops_before_a_checkpoint(bert, data, tmp_path):
  status, _, stderr, _ = call(bert, data, tmp_path / "o", learning_rate=1e30,
                              warmup_proportion=0, save_checkpoints_steps=1)
  assert status == 1
  assert stderr.startswith(
      "run_multilabel_classifier.py: training diverged at step ")
  assert stderr.count("\n") == 1
  assert ("the last checkpoint is of step" in stderr or
          "no checkpoint is saved" in stderr)
  for prefix in trained_model.list_checkpoints(str(tmp_path / "o")):
    for name, value in tiny_bert.read_weights(prefix).items():
      assert np.all(np.isfinite(value)), name


def poison(source, target, name="bert/pooler/dense/kernel"):
  """Copies a checkpoint with a NaN in one tensor."""
  weights = tiny_bert.read_weights(source)
  weights[name].flat[3] = np.nan
  with tf.Graph().as_default(), tf.Session() as session:
    for key in weights:
      tf.Variable(weights[key], name=key)
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(target), write_meta_graph=False,
                          write_state=False)


def test_a_loss_that_is_nan_stops_before_a_checkpoint(
    bert, data, tmp_path, monkeypatch):
  make_loss = run_setup.make_loss
  monkeypatch.setattr(
      run_setup, "make_loss", lambda *args: (
          lambda labels, logits: np.nan * make_loss(*args)(
              labels=labels, logits=logits)))
  status, _, stderr, _ = call(bert, data, tmp_path / "o")
  assert status == 1
  found = re.match(
      r"run_multilabel_classifier.py: training diverged at step 0: loss nan, "
      r"gradient norm nan, on a batch of 8 examples \(id (.*)\); no checkpoint "
      r"is saved; try a lower --learning_rate\.\n$", stderr)
  # Batches of 8 out of 120, each with an id of its own.
  ids = found.group(1).split(", ")
  assert len(set(ids)) == 8
  assert set(ids) <= set("train-%d" % i for i in range(120))
  assert steps_of(str(tmp_path / "o")) == []


@pytest.mark.parametrize("part", ["do_eval", "do_predict"])
def test_nan_weights_give_no_results(data, trained, tmp_path, part):
  folder = str(tmp_path / "poisoned")
  shutil.copytree(trained, folder)
  for name in glob.glob(os.path.join(folder, "*results*")):
    os.remove(name)
  checkpoint = checkpoint_choice.prediction_checkpoint(folder)
  poison(checkpoint_choice.prediction_checkpoint(trained), checkpoint,
         "bert/encoder/layer_0/output/dense/kernel")
  # As if training had saved it so, which it would not.
  checkpoint_files.finish(
      checkpoint, checkpoint_choice.run_identity(folder).fingerprint, {})
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list({
          "task_name": "jsonl", "data_dir": data, "output_dir": folder,
          part: True}))
  assert status == 1
  assert "NaN or infinite probabilities" in stderr
  assert stderr.count("\n") == 1
  assert not glob.glob(os.path.join(folder, "*results.tsv"))
  assert not glob.glob(os.path.join(folder, "*results.txt"))


# Evaluation and prediction.


@pytest.fixture(scope="module")
def run(trained):
  """A `Run` for inference over the trained directory."""
  model = trained_model.read(trained)
  model_fn = run_multilabel_classifier.model_fn_builder(
      model.bert_config, 3, None, 1e-3, 0, 0, False, False,
      model_graph.GraphSettings(pooling="mean"))
  with loop.Run(model_fn, trained) as one:
    yield one


@pytest.fixture(scope="module")
def records(trained):
  one = record_file.RecordFile(os.path.join(trained, "dev.tf_record"))
  yield one
  one.close()


def test_evaluation_does_not_depend_on_the_batch_size(run, records, data):
  loss, labels, probabilities = scoring.evaluate(run, records, 30, 3)
  rows = tiny_bert.make_rows(30, 1002, "dev")  # those of make_data
  assert labels.tolist() == [
      [name in row["labels"] for name in tiny_bert.LABELS] for row in rows]
  assert labels.dtype == np.bool_ and probabilities.dtype == np.float32
  exact = probabilities.astype(np.float64)
  oracle = -np.mean(np.where(labels, np.log(exact), np.log(1 - exact)))
  assert loss == pytest.approx(oracle, rel=1e-5)
  assert np.std(probabilities, axis=0).min() > 0.01
  for batch_size in (1, 3, 8, 1000):
    other = scoring.evaluate(run, records, batch_size, 3)
    assert other[0] == pytest.approx(loss, abs=1e-6)
    assert np.array_equal(other[1], labels)
    assert np.abs(other[2] - probabilities).max() < 1e-5


def test_prediction_is_in_order_whatever_batch_and_window(
    run, records, monkeypatch):
  expected = scoring.evaluate(run, records, 8, 3)[2]
  for batch_size, window in ((1, 4096), (3, 7), (1000, 4096), (1000, 1)):
    monkeypatch.setattr(
        input_pipeline, "predict_windows", functools.partial(
            PREDICT_WINDOWS, window=window))
    found = list(scoring.predict(run, records, batch_size, 3))
    assert len(found) == -(-30 // window)
    assert np.abs(np.concatenate(found) - expected).max() < 1e-5


PREDICT_WINDOWS = input_pipeline.predict_windows


@pytest.mark.newest
def test_each_prediction_stands_beside_its_text(trained, data, monkeypatch):
  # 20 texts in windows of 6: the rows of both files must not drift apart.
  monkeypatch.setattr(input_pipeline, "predict_windows", functools.partial(
      PREDICT_WINDOWS, window=6))
  path = os.path.join(trained, "test_predictions.jsonl")
  expected = tiny_bert.read_text(path)
  os.remove(path)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list({
          "task_name": "jsonl", "data_dir": data, "output_dir": trained,
          "do_predict": True, "predict_batch_size": 5}))
  assert (status, stderr) == (0, "")
  rows = [json.loads(line) for line in tiny_bert.read_text(path).splitlines()]
  before = [json.loads(line) for line in expected.splitlines()]
  assert [row["id"] for row in rows] == ["test-%d" % i for i in range(20)]
  assert [row["text"] for row in rows] == [row["text"] for row in before]
  for row, old in zip(rows, before):
    for label in tiny_bert.LABELS:
      assert row["probabilities"][label] == pytest.approx(
          old["probabilities"][label], abs=3e-6)


def test_no_checkpoint_and_nothing_to_train(tmp_path):
  with pytest.raises(ValueError, match="has no checkpoint; train first"):
    loop.Run(lambda *args: None, str(tmp_path))


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
  config = modeling.BertConfig.from_dict(dict(
      trained_model.read(trained).bert_config.to_dict(), intermediate_size=64))
  model_fn = run_multilabel_classifier.model_fn_builder(
      config, 3, None, 1e-3, 0, 0, False, False,
      model_graph.GraphSettings(pooling="mean"))
  with pytest.raises(ValueError, match=(
      r"does not fit this model: bert/encoder/layer_0/intermediate/dense/"
      r"kernel has shape \[16, 32\] in the checkpoint but \[16, 64\] in")):
    loop.Run(model_fn, trained)


def test_a_cut_checkpoint_is_refused(trained, data, tmp_path):
  folder = str(tmp_path / "cut")
  shutil.copytree(trained, folder)
  path = checkpoint_choice.prediction_checkpoint(
      folder) + ".data-00000-of-00001"
  with open(path, "rb+") as writer:
    writer.truncate(os.path.getsize(path) // 2)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list({
          "task_name": "jsonl", "data_dir": data, "output_dir": folder,
          "do_predict": True}))
  assert status == 2 and stderr.count("\n") == 1
  assert os.path.basename(
      checkpoint_choice.prediction_checkpoint(trained)) in stderr
  # What is wrong with the file, not where in the graph it was noticed.
  assert "cannot be restored" in stderr
  assert "Graph execution error" not in stderr


def test_checkpoint_step():
  assert checkpoint_files.checkpoint_step(None) == 0
  assert checkpoint_files.checkpoint_step("/x/model.ckpt-0012") == 12
  with pytest.raises(ValueError, match="not named"):
    checkpoint_files.checkpoint_step("/x-1/model.ckpt")


# Options of the head.


def one_step(bert, data, output_dir, **flags):
  """Weights after one step of 8 examples, and those before it."""
  settings = dict(max_train_examples=8, num_train_epochs=1)
  settings.update(flags)
  status, _, stderr, _ = call(bert, data, output_dir, **settings)
  assert status == 0, stderr
  return weights_of(output_dir), tiny_bert.read_weights(
      os.path.join(bert, "bert_model.ckpt"))


@pytest.mark.newest
def test_init_bias_from_prior(bert, data, tmp_path):
  after, _ = one_step(bert, data, tmp_path / "o", learning_rate=1e-9,
                      max_train_examples=120, train_batch_size=120,
                      init_bias_from_prior=True)
  rows = tiny_bert.make_rows(120, 2)  # those of make_data
  share = np.array([np.mean([label in row["labels"] for row in rows])
                    for label in tiny_bert.LABELS])
  assert after["output_bias"] == pytest.approx(
      np.log(share / (1 - share)), abs=1e-5)


# From 0, Adam first moves by its rate, or without bias correction by
# 0.1 / sqrt(0.001) rates.
@pytest.mark.newest
@pytest.mark.parametrize("correction,moves", [(True, 1), (False, 3.1623)])
def test_head_learning_rate(bert, data, tmp_path, correction, moves):
  after, before = one_step(bert, data, tmp_path / "o", learning_rate=1e-6,
                           head_learning_rate=0.01,
                           adam_bias_correction=correction)
  moved = np.abs(after["output_bias"])
  assert moved == pytest.approx(np.full(3, 0.01 * moves), rel=1e-2)
  for name in before:
    if name.startswith("bert/"):
      assert np.abs(after[name] - before[name]).max() < 1e-5, name


# The line that shows progress.


def test_progress_line(monkeypatch):
  now = [1000.0]
  monkeypatch.setattr(loop.time, "time", lambda: now[0])
  progress = training_progress.Progress(10, 30, 5, 4)
  lines = []
  monkeypatch.setattr(loop.logging, "info",
                      lambda form, line: lines.append(form % line))
  for step in range(11, 31):
    now[0] += 2
    progress.update(step, {"loss": 0.25, "learning_rate": 0.001,
                           "shape": (4, 9), "num_tokens": 30,
                           "grad_norm": 1.0})
  assert lines[0] == ("step 15/30  0:10, 0:30 left  loss 0.2500  lr 1.0e-03  "
                      "2 examples/s  15 tokens/s")
  assert [line.split()[1] for line in lines] == [
      "15/30", "20/30", "25/30", "30/30"]
  assert lines[-1].startswith("step 30/30  0:40, 0:00 left  ")


def test_evaluation_is_no_part_of_the_rates(monkeypatch):
  now = [1000.0]
  monkeypatch.setattr(loop.time, "time", lambda: now[0])
  monkeypatch.setattr(loop.logging, "info", lambda *unused_args: None)
  progress = training_progress.Progress(0, 20, 5, 4)
  rates = []
  for step in range(1, 21):
    now[0] += 2
    progress.update(step, {"loss": 0.25, "learning_rate": 0.001,
                           "shape": (4, 9), "num_tokens": 30,
                           "grad_norm": 1.0})
    rates.append(progress.scalars()["step/examples_per_second"])
    if step in (5, 8):
      now[0] += 60
      progress.leave_out(60)
  assert rates[4::5] == [2.0, 2.0, 2.0, 2.0]
