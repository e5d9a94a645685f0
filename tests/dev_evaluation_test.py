# SPDX-License-Identifier: Apache-2.0
"""Tests of evaluation on dev while training, as the program does it."""

import glob
import json
import os
import shutil
import signal

import numpy as np
import pytest
import tiny_bert
import tiny_model

from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.training import dev_evaluation
from multilabel.training import evaluation
from multilabel.training import loop
from multilabel.training import scoring
import predict_session
import run_multilabel_classifier


# 40 texts in batches of 8: 5 steps an epoch, 25 in all.
FLAGS = dict(num_train_epochs=5, do_eval=True, do_predict=True, log_steps=3,
             save_checkpoints_steps=7, keep_checkpoint_max=1)
RESULTS = ("best_checkpoint.json", "eval_results.txt",
           "eval_predictions.jsonl", "test_predictions.jsonl",
           "test_results.tsv", "model_settings.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tiny_bert.make_data(tmp_path_factory.mktemp("data"),
                               sizes=(40, 20, 10))
  # Some labels of dev are those of another text, so that its loss is lowest
  # before train is known by heart.
  rows = tiny_bert.make_rows(20, 1002, "dev")
  for i in range(0, 18, 3):
    rows[i]["labels"] = rows[i + 1]["labels"]
  tiny_bert.write_jsonl(os.path.join(folder, "dev.jsonl"), rows)
  return folder


def call(*args, **flags):
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      *args, **dict(FLAGS, **flags)))


def run(*args, **flags):
  """Must succeed: the lines of the log."""
  status, stdout, stderr, log = call(*args, **flags)
  assert (status, stdout, stderr) == (0, "", "")
  return log


@pytest.fixture(scope="module")
def calm(bert, data, tmp_path_factory):
  """(output_dir, log) of a run that nothing disturbed."""
  output_dir = str(tmp_path_factory.mktemp("calm"))
  return output_dir, run(bert, data, output_dir, metric_for_best="loss",
                         eval_train_sample=16)


@pytest.fixture
def copy(calm, tmp_path):
  folder = str(tmp_path / "copy")
  shutil.copytree(calm[0], folder)
  return folder


def read_best(output_dir):
  return json.loads(tiny_bert.read_text(
      os.path.join(str(output_dir), "best_checkpoint.json")))


def read_results(output_dir):
  return dict(line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
      os.path.join(str(output_dir), "eval_results.txt")).splitlines())


def steps_of(output_dir):
  return sorted(checkpoint_files.checkpoint_step(path[:-len(".index")])
                for path in glob.glob(os.path.join(str(output_dir),
                                                   "*.index")))


# What an undisturbed run leaves.


def test_once_an_epoch(calm):
  best = read_best(calm[0])
  losses = {row["step"]: row["loss"] for row in best["evaluations"]}
  assert sorted(losses) == [5, 10, 15, 20, 25]
  assert best["metric"] == "loss"
  assert best["value"] == min(losses.values()) == losses[best["step"]]
  assert best["checkpoint"] == "model.ckpt-%d" % best["step"]
  lines = [line for line in calm[1] if line.startswith("dev at step ")]
  assert [line.split(":")[0] for line in lines] == [
      "dev at step %d" % step for step in sorted(losses)]
  lowest = float("inf")
  for line, step in zip(lines, sorted(losses)):
    assert "loss %.4f  micro_f1 " % losses[step] in line
    assert line.endswith("(best so far)") == (losses[step] < lowest)
    lowest = min(lowest, losses[step])


def test_evaluation_on_the_way_has_the_scores_of_the_one_at_the_end(calm):
  best = read_best(calm[0])
  chosen, = [row for row in best["evaluations"]
             if row["step"] == best["step"]]
  results = read_results(calm[0])
  assert results["global_step"] == str(best["step"])
  names = evaluation.metric_names()
  assert sorted(chosen) == sorted(
      ["step"] + names + ["train_" + name for name in names])
  for name in names:
    assert float(results[name]) == chosen[name], name


def numpy_probabilities(checkpoint, path):
  """float64 probabilities of a file's texts."""
  rows = [json.loads(line) for line in tiny_bert.read_text(path).splitlines()]
  return tiny_model.probabilities(
      tiny_bert.read_weights(checkpoint),
      [tiny_model.encode(row["text"]) for row in rows]), rows


def test_a_sample_of_train_is_its_first_texts(calm, data):
  scores, rows = numpy_probabilities(
      checkpoint_choice.latest_checkpoint(calm[0]),
      os.path.join(data, "train.jsonl"))
  truth = np.array([[label in row["labels"] for label in tiny_bert.LABELS]
                    for row in rows])[:16]
  scores = scores[:16]
  loss = -np.mean(np.where(truth, np.log(scores), np.log(1 - scores)))
  last = read_best(calm[0])["evaluations"][-1]
  assert last["step"] == 25
  assert last["train_loss"] == pytest.approx(loss, rel=1e-4)
  assert last["train_loss"] < last["loss"]
  hits = (truth & (scores >= 0.5)).sum()
  assert last["train_micro_f1"] == pytest.approx(
      2.0 * hits / (truth.sum() + (scores >= 0.5).sum()))


def points(folder):
  """`tiny_bert.event_points` without what depends on the clock."""
  found = tiny_bert.event_points(folder)
  found.pop("step/examples_per_second", None)
  return found


def test_curves_for_tensorboard(calm):
  found = points(calm[0])
  names = evaluation.metric_names()
  curves = ["pr_curves/all"] + [
      "pr_curves/label/" + label for label in tiny_bert.LABELS]
  assert sorted(found) == sorted(
      ["loss", "step/learning_rate", "step/grad_norm"] + curves +
      [evaluation.scalar_tag(name) for name in names] +
      ["train/" + name for name in names])
  # TensorBoard shows them in this order.
  assert sorted(tag for tag in found if "pr_curves" not in tag)[:5] == [
      "dev/loss", "dev/macro_average_precision", "dev/macro_f1",
      "dev/micro_f1", "loss"]
  for row in read_best(calm[0])["evaluations"]:
    for name in names:
      for key, tag in ((name, evaluation.scalar_tag(name)),
                       ("train_" + name, "train/" + name)):
        value, = [value for step, value in found[tag]
                  if step == row["step"]]
        assert value == np.float32(row[key])
  assert [step for step, _ in found["loss"]] == [3, 6, 9, 12, 15, 18, 21, 24,
                                                 25]
  truth = [json.loads(line)["true_labels"] for line in tiny_bert.read_text(
      os.path.join(calm[0], "eval_predictions.jsonl")).splitlines()]
  positives = [sum(label in row for row in truth)
               for label in tiny_bert.LABELS]
  for name, count in zip(curves, [sum(positives)] + positives):
    assert [step for step, _ in found[name]] == [5, 10, 15, 20, 25]
    for _, curve in found[name]:
      assert np.shape(curve) == (6, 201)
      # At threshold 0 all are predicted.
      assert (curve[0][0], curve[3][0]) == (count, 0)


def test_tensorboard_reads_them(calm):
  accumulator = pytest.importorskip(
      "tensorboard.backend.event_processing.event_accumulator")
  reader = accumulator.EventAccumulator(calm[0])
  reader.Reload()
  assert [event.step for event in reader.Scalars("dev/micro_f1")] == [
      5, 10, 15, 20, 25]
  assert sorted(reader.summary_metadata[
      tag].display_name for tag in reader.PluginTagToContent(
          "pr_curves")) == sorted(("all labels",) + tiny_bert.LABELS)
  assert sorted(reader.PluginTagToContent("pr_curves")) == sorted(
      ["pr_curves/all"] + ["pr_curves/label/" + label
                           for label in tiny_bert.LABELS])


@pytest.mark.parametrize("eval_steps,expected", [
    (2, [2, 4, 5]), (9, [5]), (0, None)])
def test_eval_steps(bert, data, tmp_path, eval_steps, expected):
  run(bert, data, tmp_path / "o", eval_steps=eval_steps, num_train_epochs=1,
      do_predict=False)
  if expected is None:
    assert not (tmp_path / "o" / "best_checkpoint.json").exists()
    assert steps_of(tmp_path / "o") == [5]
    assert not [tag for tag in points(str(tmp_path / "o")) if "dev" in tag]
  else:
    assert [row["step"] for row in read_best(
        tmp_path / "o")["evaluations"]] == expected
  assert (tmp_path / "o" / "eval_results.txt").exists()


# The best checkpoint.


def play(monkeypatch, values, metric="micro_f1", fixed_ties=False):
  """Lets the evaluations on the way have these values of a metric."""
  values = iter(values)
  dev_scores = evaluation.dev_scores

  def scores(*args):
    made = dev_scores(*args)
    made.values[metric] = next(values)
    if metric != "macro_average_precision" and fixed_ties:
      made.values["macro_average_precision"] = 0.5
    return made

  monkeypatch.setattr(evaluation, "dev_scores", scores)


def test_the_best_checkpoint_predicts(bert, data, tmp_path, monkeypatch):
  nan = float("nan")
  play(monkeypatch, [nan, 0.8, 0.7, nan, 0.75])
  output_dir = str(tmp_path / "o")
  run(bert, data, output_dir)
  best = read_best(output_dir)
  assert (best["checkpoint"], best["value"]) == ("model.ckpt-10", 0.8)
  assert [row["micro_f1"] for row in best["evaluations"]] == [
      None, 0.8, 0.7, None, 0.75]
  # Kept beside the one checkpoint that --keep_checkpoint_max allows.
  assert steps_of(output_dir) == [10, 25]
  chosen = os.path.join(output_dir, "model.ckpt-10")
  assert checkpoint_choice.prediction_checkpoint(output_dir) == chosen
  assert read_results(output_dir)["global_step"] == "10"

  test_file = os.path.join(data, "test.jsonl")
  expected, rows = numpy_probabilities(chosen, test_file)
  last, _ = numpy_probabilities(checkpoint_choice.latest_checkpoint(output_dir),
                                test_file)
  assert np.abs(expected - last).max() > 0.05
  table = os.path.join(output_dir, "test_results.tsv")
  np.testing.assert_allclose(np.loadtxt(table), expected, atol=1e-4)

  written = tiny_bert.read_text(table)
  os.remove(table)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list({
          "task_name": "jsonl", "data_dir": data, "output_dir": output_dir,
          "do_predict": True}))
  assert (status, stderr) == (0, "")
  assert tiny_bert.read_text(table) == written
  with predict_session.SessionPredictor(output_dir) as predictor:
    np.testing.assert_allclose(
        predictor.predict([row["text"] for row in rows]), expected, atol=1e-4)


def test_tuned_thresholds_hold_on_the_way(bert, data, tmp_path):
  """Early F1 at 0.5 is lower; the best is chosen by what will be in force."""
  log = run(bert, data, tmp_path / "o", threshold="tune", learning_rate=1e-5,
            early_stopping_patience=1, do_predict=False)
  best = read_best(tmp_path / "o")
  assert best["rule"]["threshold"] == "tune"
  chosen, = [row for row in best["evaluations"]
             if row["step"] == best["step"]]
  results = read_results(tmp_path / "o")
  assert results["threshold"] != "0.5"
  for name in ("micro_f1", "macro_f1", "subset_accuracy"):
    assert chosen[name] == float(results[name]) > 0, name
  assert float(results["micro_f1_at_0.5"]) < chosen["micro_f1"]
  assert not [line for line in log if "No probability on dev" in line]


def test_what_a_threshold_too_high_is_told(bert, data, tmp_path):
  log = run(bert, data, tmp_path / "o", threshold=0.999, do_predict=False,
            num_train_epochs=2)
  rows = read_best(tmp_path / "o")["evaluations"]
  assert [row["micro_f1"] for row in rows] == [0, 0]
  lines = [line for line in log
           if "No probability on dev is high enough" in line]
  assert len(lines) == 2  # once on the way, and once at the end
  assert all("--threshold=tune" in line for line in lines)


def test_patience_stops_and_stays_stopped(bert, data, tmp_path, monkeypatch):
  play(monkeypatch, [0.5, 0.6, 0.6, 0.5], fixed_ties=True)
  output_dir = str(tmp_path / "o")
  log = run(bert, data, output_dir, early_stopping_patience=2)
  assert ("Stopped early at step 20 of 25: micro_f1 has not been better since "
          "step 10; the best checkpoint is that of step 15.") in log
  assert steps_of(output_dir) == [15, 20]
  assert checkpoint_choice.latest_checkpoint(output_dir).endswith("-20")
  assert read_best(output_dir)["step"] == 15  # of equal ones the latest
  before = {name: tiny_bert.read_text(os.path.join(output_dir, name))
            for name in RESULTS}
  times = {name: os.stat(os.path.join(output_dir, name)).st_mtime_ns
           for name in os.listdir(output_dir)
           if name.startswith(("model.ckpt", "events", "best"))}
  # Nothing is evaluated on the way: the values are used up.
  log = run(bert, data, output_dir, early_stopping_patience=2)
  assert any("already finished: step 20 of 25" in line for line in log)
  assert not [line for line in log if line.startswith("step ")]
  assert before == {name: tiny_bert.read_text(os.path.join(output_dir, name))
                    for name in RESULTS}
  assert times == {name: os.stat(os.path.join(output_dir, name)).st_mtime_ns
                   for name in os.listdir(output_dir)
                   if name.startswith(("model.ckpt", "events", "best"))}


# Killed and started again.


class Killed(BaseException):
  """Stands for SIGKILL: nothing that the program catches."""


def kill(*unused_args, **unused_flags):
  raise Killed()


def after(function):
  """Kills when the function has done its work."""
  def do_and_kill(*args):
    function(*args)
    kill()
  return do_and_kill


def kill_in_rename(temporary, path):
  if path.endswith("best_checkpoint.json"):
    kill()
  os.replace(temporary, path)


def at_second_batch(action):
  """Does something within an evaluation."""
  feed_dict = scoring.feed_dict
  batches = []

  def feed(inference, batch):
    batches.append(batch)
    if len(batches) == 2:
      action()
    return feed_dict(inference, batch)

  return feed


def send_sigterm():
  os.kill(os.getpid(), signal.SIGTERM)


# What goes wrong, in the order of the starts: (object, name, replacement,
# steps of the checkpoints after it).
DISASTERS = [
    (dev_evaluation.DevEvaluation, "evaluate", kill, []),
    (loop.Run, "save", kill, []),
    (dev_evaluation.DevEvaluation, "commit", kill, [5]),
    (atomic_files, "replace_file", kill_in_rename, [5]),
    (dev_evaluation.DevEvaluation, "commit",
     after(dev_evaluation.DevEvaluation.commit), [5]),
    (scoring, "feed_dict", lambda: at_second_batch(kill), [5, 7]),
    (scoring, "feed_dict", lambda: at_second_batch(send_sigterm), [5, 10]),
    (loop.Run, "use_best_checkpoint", kill, None),
    (evaluation, "write_results", kill, None),
    (evaluation.PredictionWriter, "write", kill, None),
]


def test_a_stormy_run_ends_as_a_calm_one(calm, bert, data, tmp_path):
  stormy = str(tmp_path / "stormy")
  flags = dict(metric_for_best="loss", eval_train_sample=16)
  for number, (target, name, replacement, expected) in enumerate(DISASTERS):
    if name == "feed_dict":
      replacement = replacement()
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(target, name, replacement)
      try:
        status, _, stderr, _ = call(bert, data, stormy, **flags)
      except Killed:
        pass
      else:
        assert status == 143, (number, stderr)
        assert ("stopped by signal 15; the checkpoint of step 10 of 25 is "
                "saved") in stderr
        assert [row["step"] for row in read_best(stormy)["evaluations"]] == [5]
    if expected is not None:
      assert steps_of(stormy) == expected, number
  run(bert, data, stormy, **flags)
  first = tiny_bert.read_weights(checkpoint_choice.latest_checkpoint(calm[0]))
  second = tiny_bert.read_weights(checkpoint_choice.latest_checkpoint(stormy))
  assert sorted(first) == sorted(second)
  for name in first:
    assert first[name].tobytes() == second[name].tobytes(), name
  for name in RESULTS[:-1]:
    assert tiny_bert.read_text(os.path.join(stormy, name)) == (
        tiny_bert.read_text(os.path.join(calm[0], name))), name
  assert steps_of(stormy) == steps_of(calm[0])
  # No point is missing, and none is there twice.
  assert points(stormy) == points(calm[0])


def test_a_lost_best_checkpoint_file(copy, bert, data):
  """As if a kill came between the last checkpoint and its evaluation."""
  calm_best = tiny_bert.read_text(os.path.join(copy, "best_checkpoint.json"))
  best = json.loads(calm_best)
  del best["evaluations"][-1]
  assert best["step"] < 25
  atomic_files.write_sealed(os.path.join(copy, "best_checkpoint.json"), best)
  prefix = os.path.join(copy, "model.ckpt-25")
  identity = checkpoint_files.read_identity(prefix)
  checkpoint_files.write_identity(prefix, identity["fingerprint"], dict(
      identity["run_state"], last_evaluation=best["evaluations"][-1]["step"]))
  log = run(bert, data, copy, metric_for_best="loss", eval_train_sample=16)
  assert [line.split(":")[0] for line in log if line.startswith("dev at")] == [
      "dev at step 25"]
  assert tiny_bert.read_text(
      os.path.join(copy, "best_checkpoint.json")) == calm_best


# Going on with other settings.


@pytest.mark.parametrize("flags,words", [
    ({"metric_for_best": "micro_f1"}, '"metric_for_best": "loss"'),
    ({"eval_steps": 3}, '"eval_steps": 3'),
    ({"early_stopping_patience": 2}, '"early_stopping_patience": 2'),
    ({"eval_steps": 0}, "here null"),
    ({"do_eval": None}, "here null"),
])
def test_other_evaluations_are_refused_by_name(copy, bert, data, flags, words):
  status, _, stderr, _ = call(
      bert, data, copy, **dict({"metric_for_best": "loss"}, **flags))
  assert status == 2 and stderr.count("\n") == 1
  assert "has a run with other settings: dev_evaluation (there {" in stderr
  assert words in stderr and "--resume=force" in stderr


def test_a_metric_is_the_same_by_its_short_name(bert, data, tmp_path):
  for name in ("map", "macro_average_precision"):
    assert tiny_bert.prepare(tiny_bert.arguments(
        bert, data, tmp_path / "o", metric_for_best=name,
        **FLAGS))[0] == 0
  settings = json.loads(tiny_bert.read_text(
      tmp_path / "o" / "model_settings.json"))
  assert settings["run"]["dev_evaluation"]["metric_for_best"] == (
      "macro_average_precision")
  assert tiny_bert.prepare(tiny_bert.arguments(
      bert, data, tmp_path / "o", metric_for_best="lrap", **FLAGS))[0] == 2


def test_without_evaluation_from_now_on_the_newest_predicts(copy, bert, data):
  best_step = read_best(copy)["step"]
  assert steps_of(copy) == [best_step, 25] and best_step != 25
  log = run(bert, data, copy, eval_steps=0, num_train_epochs=5.5,
            resume="force")
  assert any("is from other evaluations on dev and is removed" in line
             for line in log)
  assert not os.path.exists(os.path.join(copy, "best_checkpoint.json"))
  assert steps_of(copy) == [27]
  assert read_results(copy)["global_step"] == "27"


def test_another_metric_starts_anew_and_more_patience_does_not(
    copy, bert, data):
  before = read_best(copy)
  run(bert, data, copy, metric_for_best="loss", early_stopping_patience=9,
      num_train_epochs=5.5, resume="force", do_predict=False)
  after_more = read_best(copy)
  assert after_more["step"] == before["step"]
  assert after_more["evaluations"][:5] == before["evaluations"]
  assert [row["step"] for row in after_more["evaluations"][5:]] == [27]
  run(bert, data, copy, metric_for_best="hamming_loss", num_train_epochs=5.5,
      resume="force", do_predict=False)
  # Only the newest checkpoint can be evaluated now.
  best = read_best(copy)
  assert (best["metric"], best["step"]) == ("hamming_loss", 27)
  assert [row["step"] for row in best["evaluations"]] == [27]
  assert read_results(copy)["global_step"] == "27"
