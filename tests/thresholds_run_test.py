# SPDX-License-Identifier: Apache-2.0
"""Tests of thresholds and of --do_test, as the program does them."""

import importlib.util
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import tiny_bert

from multilabel import decisions
from multilabel.export import model_card
import predict_session
import run_multilabel_classifier


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Dev and test are labelled, a third of the texts with another's labels."""
  folder = tiny_bert.make_data(tmp_path_factory.mktemp("data"))
  for part, size in (("dev", 60), ("test", 50)):
    tiny_bert.write_jsonl(os.path.join(folder, part + ".jsonl"),
                          noisy_rows(size, part))
  return folder


def noisy_rows(size, part):
  rows = tiny_bert.make_rows(size, size, part)
  for i in range(0, size - 1, 3):
    rows[i]["labels"] = rows[i + 1]["labels"]
  return rows


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
  """(output_dir, log) of a run that found one threshold on dev."""
  bert = tiny_bert.make_bert(tmp_path_factory.mktemp("bert"),
                             num_hidden_layers=1)
  output_dir = str(tmp_path_factory.mktemp("tuned"))
  status, stdout, stderr, log = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, output_dir, do_eval=True, eval_steps=0, do_test=True,
          do_predict=True, threshold="tune", num_train_epochs=6,
          random_seed=1))
  assert (status, stdout, stderr) == (0, "", "")
  return output_dir, log


@pytest.fixture
def copy(tuned, tmp_path):
  folder = str(tmp_path / "copy")
  shutil.copytree(tuned[0], folder)
  return folder


def call(data, output_dir, **flags):
  return tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list(dict({
          "task_name": "jsonl", "data_dir": data, "output_dir": output_dir,
          "report": False}, **flags)))


def run(*args, **flags):
  """Must succeed: the lines of the log."""
  status, stdout, stderr, log = call(*args, **flags)
  assert (status, stdout, stderr) == (0, "", "")
  return log


def read_settings(output_dir):
  """(threshold, threshold_kind, top_k, always_one_label)."""
  settings = json.loads(tiny_bert.read_text(
      os.path.join(output_dir, "model_settings.json")))
  return tuple(settings[key] for key in (
      "threshold", "threshold_kind", "top_k", "always_one_label"))


def read_results(output_dir, part):
  name = {"dev": "eval_results.txt", "test": "test_eval_results.txt"}[part]
  return dict(line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
      os.path.join(output_dir, name)).splitlines())


def read_predictions(output_dir, part):
  """(true labels, probabilities, predicted labels), each `[texts, labels]`."""
  name = {"dev": "eval_predictions.jsonl",
          "test": "test_predictions.jsonl"}[part]
  rows = [json.loads(line) for line in tiny_bert.read_text(
      os.path.join(output_dir, name)).splitlines()]

  def on(key):
    return np.array([[label in row[key] for label in tiny_bert.LABELS]
                     for row in rows])

  return on("true_labels"), np.array(
      [[row["probabilities"][label] for label in tiny_bert.LABELS]
       for row in rows]), on("labels")


def check(output_dir, part, decide):
  """Checks a part's results and predictions by scikit-learn.

  Args:
    output_dir: str.
    part: "dev" or "test".
    decide: function of probabilities to what was predicted.
  """
  metrics = pytest.importorskip("sklearn.metrics")
  truth, scores, chosen = read_predictions(output_dir, part)
  assert np.array_equal(chosen, decide(scores))
  results = read_results(output_dir, part)
  for suffix, decided in (("", chosen), ("_at_0.5", scores >= 0.5)):
    for average in ("micro", "macro"):
      expected = dict(zip(("precision", "recall", "f1"), (
          metrics.precision_recall_fscore_support(
              truth, decided, average=average, zero_division=0))))
      for name, value in expected.items():
        assert float(results["%s_%s%s" % (average, name, suffix)]) == (
            pytest.approx(value, abs=1e-9))
    for average in ("weighted", "samples"):
      expected = metrics.f1_score(truth, decided, average=average,
                                  zero_division=0)
      assert float(results[average + "_f1" + suffix]) == pytest.approx(
          expected, abs=1e-9)
    assert float(results["subset_accuracy" + suffix]) == pytest.approx(
        metrics.accuracy_score(truth, decided))
    assert float(results["hamming_loss" + suffix]) == pytest.approx(
        metrics.hamming_loss(truth, decided))


def f1(truth, chosen):
  return 2.0 * (truth & chosen).sum() / (truth.sum() + chosen.sum())


def above(threshold):
  """Decides by thresholds; no probability may be as close as rounding."""
  def decide(scores):
    assert np.abs(scores - threshold).min() > 2e-6
    return scores >= threshold
  return decide


# One threshold, found while training.


def test_tune_is_best_on_dev_and_used_on_test(tuned):
  threshold, kind, top_k, always = read_settings(tuned[0])
  assert (kind, top_k, always) == ("tune", None, False)
  truth, scores, chosen = read_predictions(tuned[0], "dev")
  assert f1(truth, chosen) == max(f1(truth, scores >= cut)
                                  for cut in scores.ravel())
  assert f1(truth, chosen) > f1(truth, scores >= 0.5)
  for part in ("dev", "test"):
    check(tuned[0], part, above(threshold))
    assert float(read_results(tuned[0], part)["threshold"]) == threshold
  assert any(line.startswith("***** Predictions on test: ") and
             line.endswith(", threshold %.4g *****" % threshold)
             for line in tuned[1])


def test_predictions_have_the_labels_of_the_test_file(tuned, data):
  truth, _, _ = read_predictions(tuned[0], "test")
  assert truth.tolist() == [
      [label in row["labels"] for label in tiny_bert.LABELS]
      for row in noisy_rows(50, "test")]
  results = read_results(tuned[0], "test")
  assert (results["num_examples"], results["global_step"]) == ("50", "90")
  assert read_results(tuned[0], "dev")["num_examples"] == "60"


def test_the_predictor_uses_it(tuned):
  _, scores, chosen = read_predictions(tuned[0], "test")
  with predict_session.SessionPredictor(tuned[0]) as predictor:
    described = predictor.describe(scores)
  for one, row in zip(described, chosen):
    assert sorted(name for name, _ in one.labels) == sorted(
        label for label, is_on in zip(tiny_bert.LABELS, row) if is_on)


# A trained directory gets another rule.


def test_a_fixed_threshold_is_kept(copy, data):
  run(data, copy, do_eval=True, do_test=True, threshold=0.3)
  assert read_settings(copy) == (0.3, "fixed", None, False)
  log = run(data, copy, do_predict=True)
  assert any(line.endswith(", threshold 0.3 *****") for line in log)
  for part in ("dev", "test"):
    check(copy, part, above(0.3))
    assert read_results(copy, part)["threshold"] == "0.3"
  run(data, copy, do_eval=True, threshold=0.5)
  assert read_settings(copy) == (0.5, "fixed", None, False)
  assert not [key for key in read_results(copy, "dev") if "at_0.5" in key]


def test_a_threshold_a_label(copy, data):
  run(data, copy, do_eval=True, do_test=True, threshold="tune_per_label")
  thresholds, kind, _, _ = read_settings(copy)
  assert kind == "tune_per_label"
  truth, scores, _ = read_predictions(copy, "dev")
  expected = decisions.find_label_thresholds(
      truth, scores.astype(np.float32))["thresholds"]
  assert thresholds == pytest.approx(expected.tolist(), abs=2e-6)
  assert len(set(thresholds)) == 3
  log = run(data, copy, do_predict=True)
  assert any("thresholds per label, %.4g to %.4g" % (
      min(thresholds), max(thresholds)) in line for line in log)
  for part in ("dev", "test"):
    check(copy, part, above(thresholds))
    results = read_results(copy, part)
    assert results["threshold"] == "one per label"
    assert [float(results["threshold/" + label])
            for label in tiny_bert.LABELS] == thresholds


def test_a_least_precision(copy, data):
  log = run(data, copy, do_eval=True, threshold="tune", min_precision=0.9)
  truth, scores, chosen = read_predictions(copy, "dev")
  cuts = [scores >= cut for cut in scores.ravel()]
  reached = [f1(truth, cut) for cut in cuts
             if (truth & cut).sum() >= 0.9 * cut.sum()]
  warned = any("no threshold reaches --min_precision=0.9" in line
               for line in log)
  assert warned == (not reached)
  precision = (truth & chosen).sum() / float(chosen.sum())
  if reached:
    assert precision >= 0.9 and f1(truth, chosen) == max(reached)
  else:
    assert precision == max((truth & cut).sum() / float(cut.sum())
                            for cut in cuts)
  assert float(read_results(copy, "dev")["micro_precision"]) == pytest.approx(
      precision)


def test_one_label_a_text(copy, data):
  run(data, copy, do_test=True, do_eval=True, threshold=0.5, top_k=1,
      always_one_label=True)
  assert read_settings(copy) == (0.5, "fixed", 1, True)

  def top(scores):
    return np.eye(3, dtype=bool)[scores.argmax(axis=1)]

  log = run(data, copy, do_predict=True)
  assert any(line.endswith(", threshold 0.5, at most 1 labels, at least one "
                           "label *****") for line in log)
  for part in ("dev", "test"):
    check(copy, part, top)
    results = read_results(copy, part)
    assert (results["top_k"], results["always_one_label"]) == ("1", "True")
  # Tuning leaves what no flag speaks of.
  run(data, copy, do_eval=True, threshold="tune")
  assert read_settings(copy)[1:] == ("tune", 1, True)
  run(data, copy, do_eval=True, top_k=0, always_one_label=False)
  assert read_settings(copy)[1:] == ("tune", None, False)


def test_prediction_alone_can_set_a_rule(copy, data):
  run(data, copy, do_predict=True, threshold=0.9, top_k=2)
  assert read_settings(copy) == (0.9, "fixed", 2, False)
  _, scores, chosen = read_predictions(copy, "test")
  assert np.array_equal(chosen & (scores >= 0.9), chosen)
  assert chosen.sum(axis=1).max() <= 2


def test_labels_without_positives_on_dev(copy, data, tmp_path):
  folder = str(tmp_path / "d")
  shutil.copytree(data, folder)
  rows = noisy_rows(60, "dev")
  for row in rows:
    row["labels"] = [label for label in row["labels"] if label != "fruit"]
  tiny_bert.write_jsonl(os.path.join(folder, "dev.jsonl"), rows)
  run(folder, copy, do_eval=True, threshold="tune")
  middle = read_settings(copy)[0]
  log = run(folder, copy, do_eval=True, threshold="tune_per_label")
  line, = [line for line in log if "no positive on dev" in line]
  assert line.endswith("%.4g: fruit" % middle)
  thresholds = read_settings(copy)[0]
  assert thresholds[tiny_bert.LABELS.index("fruit")] == middle
  assert len(set(thresholds)) > 1
  assert read_results(copy, "dev")["left_out_of_macro_roc_auc"] == "fruit"


# The labelled test file.


def test_an_unlabelled_test_file_is_refused(copy, data, tmp_path):
  folder = str(tmp_path / "d")
  shutil.copytree(data, folder)
  rows = noisy_rows(50, "test")
  for row in rows:
    del row["labels"]
  tiny_bert.write_jsonl(os.path.join(folder, "test.jsonl"), rows)
  before = tiny_bert.read_text(os.path.join(copy, "test_eval_results.txt"))
  status, stdout, stderr, _ = call(folder, copy, do_test=True)
  assert (status, stdout) == (2, "") and stderr.count("\n") == 1
  assert "--do_predict" in stderr and "has no labels" in stderr
  assert tiny_bert.read_text(
      os.path.join(copy, "test_eval_results.txt")) == before
  # It can be predicted all the same.
  run(folder, copy, do_predict=True)
  found = [json.loads(line) for line in tiny_bert.read_text(os.path.join(
      copy, "test_predictions.jsonl")).splitlines()]
  assert len(found) == 50
  assert not [row for row in found if "true_labels" in row]


@pytest.mark.parametrize("average", ["macro", "samples"])
def test_a_threshold_for_another_mean_is_found_and_kept(copy, data, average):
  """Of all cuts between dev's scores none has a higher F1."""
  metrics = pytest.importorskip("sklearn.metrics")
  run(data, copy, do_eval=True, threshold="tune_" + average)
  threshold, kind, _, _ = read_settings(copy)
  assert kind == "tune_" + average
  truth, scores, chosen = read_predictions(copy, "dev")
  best = max(metrics.f1_score(truth, scores >= cut, average=average,
                              zero_division=0) for cut in np.unique(scores))
  assert float(read_results(copy, "dev")[average + "_f1"]) == (
      pytest.approx(best))
  assert np.array_equal(chosen, above(threshold)(scores))
  status, _, stderr, _ = call(data, copy, do_eval=True,
                              threshold="tune_" + average, min_precision=0.5)
  assert status == 2 and "--min_precision needs --threshold=tune or" in stderr


def best_sets(scores):
  """The set of the highest expected F1 of each row, of those not empty."""
  sets = np.array(list(itertools.product([0, 1], repeat=scores.shape[1])))
  total = sets.sum(axis=1)[:, np.newaxis] + sets.sum(axis=1)
  f1_of = np.where(total, 2.0 * sets.dot(sets.T) / np.maximum(total, 1), 1.0)
  chance = np.where(sets, scores[:, np.newaxis], 1 - scores[:, np.newaxis])
  expected = chance.prod(axis=-1).dot(f1_of)
  return sets[1 + expected[:, 1:].argmax(axis=1)].astype(bool)


def test_expected_f1_is_the_rule_of_everything(copy, data):
  """Evaluation, predictions, predictor, card and report, with no --do_eval."""
  log = run(data, copy, do_predict=True, threshold="expected_f1",
            always_one_label=True)
  assert read_settings(copy) == ("expected_f1", "fixed", None, True)
  assert any(line.endswith(", the highest expected F1 per text, at least one "
                           "label *****") for line in log)
  run(data, copy, do_eval=True, do_test=True,
      report=importlib.util.find_spec("matplotlib") is not None)
  for part in ("dev", "test"):
    check(copy, part, best_sets)
    results = read_results(copy, part)
    assert results["threshold"] == "expected_f1"
    assert (float(results["micro_f1_low"]) < float(results["micro_f1"]) <
            float(results["micro_f1_high"]))
  _, scores, chosen = read_predictions(copy, "test")
  assert not np.array_equal(chosen, scores >= 0.5)
  with predict_session.SessionPredictor(copy) as predictor:
    assert predictor.threshold == "expected_f1"
    described = predictor.describe(scores)
    half = predictor.describe(scores, 0.5, always_one_label=False)
  for found, wanted in ((described, chosen), (half, scores >= 0.5)):
    assert [{name for name, _ in one.labels} for one in found] == [
        {label for label, is_on in zip(tiny_bert.LABELS, row) if is_on}
        for row in wanted]
  card = tiny_bert.read_text(os.path.join(copy, model_card.CARD_FILE))
  assert "Labels are chosen by the highest expected F1 per text, at " in card
  assert "| label | F1 on" in card
  page = os.path.join(copy, "report.html")
  if os.path.exists(page):
    assert "gives each text the labels of the highest" in tiny_bert.read_text(
        page)
  # What it needs is no threshold, so a calibration leaves it in force.
  run(data, copy, do_eval=True, calibrate="temperature")
  assert read_settings(copy)[0] == "expected_f1"
  check(copy, "dev", best_sets)


def test_expected_f1_while_training(data, tmp_path):
  bert = tiny_bert.make_bert(tmp_path / "bert", num_hidden_layers=1)
  status, stdout, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, data, str(tmp_path / "o"), do_eval=True, eval_steps=5,
          threshold="expected_f1", metric_for_best="samples_f1",
          always_one_label=True, num_train_epochs=2))
  assert (status, stdout, stderr) == (0, "", "")
  best = json.loads(tiny_bert.read_text(
      str(tmp_path / "o" / "best_checkpoint.json")))
  assert best["rule"]["threshold"] == "expected_f1"
  assert best["value"] == pytest.approx(
      float(read_results(str(tmp_path / "o"), "dev")["samples_f1"]))
  _, _, chosen = read_predictions(str(tmp_path / "o"), "dev")
  assert chosen.any(axis=1).all()


def test_a_program_that_knows_no_such_rule_refuses_the_directory(copy, data):
  run(data, copy, do_predict=True, threshold="expected_f1")
  path = os.path.join(copy, "model_settings.json")
  assert json.loads(tiny_bert.read_text(path))["format_version"] == 5
  run(data, copy, do_predict=True, threshold=0.5)
  assert json.loads(tiny_bert.read_text(path))["format_version"] == 3
