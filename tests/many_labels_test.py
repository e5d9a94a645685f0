# SPDX-License-Identifier: Apache-2.0
"""Tests of tens of thousands of labels: bounded memory, rows of the best."""

import io
import json
import os
import tracemalloc

import numpy as np
import pytest
import tiny_bert

from multilabel import decisions
from multilabel import metrics
from multilabel import score_curves
from multilabel.features import encoding
from multilabel.features import input_pipeline
from multilabel.inference import predict_files
from multilabel.inference import prediction_writers
from multilabel.training import evaluation
from multilabel.training import pr_curves
import run_multilabel_classifier


RULE = decisions.DecisionRule


def random_arrays(num_examples, num_labels, dtype=np.float32):
  rng = np.random.RandomState(4)
  probabilities = rng.random_sample((num_examples, num_labels)) ** 4
  # Some scores are there many times, 0 and 1 among them.
  probabilities = np.where(rng.random_sample(probabilities.shape) < 0.3,
                           np.round(probabilities, 1), probabilities)
  labels = rng.random_sample(probabilities.shape) < 0.5 * probabilities
  return labels, probabilities.astype(dtype)


def everything(labels, probabilities, decided):
  """All scores of `evaluation.measure`, and the threshold search."""
  scores = evaluation.measure(
      evaluation.Outputs(0.5, labels, probabilities),
      RULE(0.3, top_k=4), ["label %d" % i for i in range(labels.shape[1])])
  scores.update(("given/" + key, value) for key, value in
                metrics.evaluate(
                    labels, probabilities, decided=decided).items())
  scores.update(decisions.find_global_threshold(
      labels, probabilities))
  return scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sorting_by_ranges_changes_no_score(monkeypatch, dtype):
  labels, probabilities = random_arrays(60, 70, dtype)
  decided = probabilities > 0.4
  expected = everything(labels, probabilities, decided.astype(np.float64))
  for cells in (200, 1000):
    monkeypatch.setattr(score_curves, "POOLED_CELLS", cells)
    parts = list(score_curves.sorted_keys(labels, probabilities))
    assert len(parts) > 3
    scores = score_curves.key_scores(np.concatenate(parts))
    assert (scores == np.sort(probabilities.ravel())).all()
    found = everything(labels, probabilities, decided)
    assert list(found) == list(expected)
    for key in expected:
      assert found[key] == pytest.approx(expected[key], rel=1e-12), key


def test_one_score_alone_is_one_part(monkeypatch):
  monkeypatch.setattr(score_curves, "POOLED_CELLS", 10)
  labels = np.eye(8, dtype=bool)
  scores = metrics.evaluate(labels, np.full([8, 8], 0.5))
  assert scores["micro_average_precision"] == 1 / 8.
  assert scores["micro_roc_auc"] == 0.5


def test_metrics_make_no_copy_of_all_cells(monkeypatch):
  """Beside its input a score needs blocks; 2 bytes per cell would be a copy."""
  monkeypatch.setattr(score_curves, "BLOCK_CELLS", 1 << 12)
  monkeypatch.setattr(score_curves, "POOLED_CELLS", 1 << 14)
  labels, probabilities = random_arrays(12, 30000)
  decided = probabilities > 0.4
  for measure in (
      lambda: metrics.threshold_metrics(labels, probabilities),
      lambda: metrics.ranking_metrics(labels, probabilities),
      lambda: metrics._bin_totals(  # pylint: disable=protected-access
          labels, probabilities, 5, True, pooled=True)):
    tracemalloc.start()
    try:
      measure()
      peak = tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()
    # Twelve examples: arrays with a number a label are 240 kB each.
    assert peak < 24 * 30000 * 8
  tracemalloc.start()
  try:
    metrics._decision_metrics(  # pylint: disable=protected-access
        labels, lambda block: decided[block])
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < labels.size * 8


def test_windows_are_smaller_with_many_outputs(monkeypatch):
  records = input_pipeline._FeatureList([  # pylint: disable=protected-access
      encoding.InputFeatures([i], [1], [0], [i % 3]) for i in range(10)])
  monkeypatch.setattr(input_pipeline, "PREDICT_WINDOW_CELLS", 12)

  def sizes(num_outputs):
    windows = list(input_pipeline.predict_windows(
        records, 2, num_outputs=num_outputs))
    rows = [number + window.start for window in windows
            for numbers, _ in window.batches for number in numbers]
    assert sorted(rows) == list(range(10))
    return [window.size for window in windows]

  assert sizes(1) == [10]
  assert sizes(3) == [4, 4, 2]
  assert sizes(13) == [1] * 10
  assert 4096 * 28 < 1 << 25  # usual numbers of labels have windows as before


def test_columns_to_write():
  row = np.array([0.1, 0.7, 0.3, 0.7, 0.9, 0.0], np.float32)
  chosen = row > 0.2
  columns = decisions.columns
  assert list(columns(row, chosen, "all")) == [0, 1, 2, 3, 4, 5]
  assert columns(row, chosen, "labels") == [4, 1, 3, 2]
  assert columns(row, ~chosen, "labels") == [0, 5]
  assert columns(row, chosen, 1) == [4]
  assert columns(row, chosen, 2) == [4, 1]  # of equal ones the first
  assert columns(row, chosen, 3) == [4, 1, 3]
  assert columns(row, chosen, 6) == columns(row, chosen, 9) == [
      4, 1, 3, 2, 0, 5]


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "some", u"\u0663",
                                  "9" * 30])
def test_what_is_no_choice_of_probabilities(text):
  with pytest.raises(ValueError, match="must be all, labels, or a number"):
    decisions.parse(text)


def test_choices_of_probabilities():
  assert [decisions.parse(text)
          for text in ("all", "labels", "1", "010")] == ["all", "labels", 1, 10]


def lines_of(path):
  return [json.loads(line) for line in tiny_bert.read_text(path).splitlines()]


def test_a_run_writes_the_best_alone(tmp_path):
  bert = tiny_bert.make_bert(tmp_path / "bert", num_hidden_layers=1)
  data = tiny_bert.make_data(tmp_path / "data", (8, 6, 5))
  folder = str(tmp_path / "o")

  def run(**flags):
    return tiny_bert.call(
        run_multilabel_classifier, tiny_bert.arguments(
            bert, data, folder, num_train_epochs=1, do_eval=True,
            do_predict=True, eval_steps=0, **flags))

  assert run()[0] == 0
  paths = [os.path.join(folder, name) for name in (
      "eval_predictions.jsonl", "test_predictions.jsonl")]
  full = [lines_of(path) for path in paths]
  table = os.path.join(folder, "test_results.tsv")
  assert len(tiny_bert.read_text(table).splitlines()) == 5
  status, _, _, log = run(probabilities=2)
  assert status == 0
  assert any(table + " is not written" in line for line in log)
  assert not os.path.exists(table)
  for path, before in zip(paths, full):
    for line, other in zip(lines_of(path), before):
      best = sorted(other["probabilities"].items(), key=lambda item: -item[1])
      assert list(line["probabilities"].items()) == best[:2]
      assert dict(line, probabilities=0) == dict(other, probabilities=0)

  status, _, stderr, _ = run(probabilities="few")
  assert (status, stderr) == (
      2, "run_multilabel_classifier.py: --probabilities is few; it must be "
      "all, labels, or a number above 0.\n")


def test_a_predictor_writes_the_best_alone():
  class Predictor(object):
    labels = ["a", "b", "c"]

    def predict(self, texts):
      return np.array([[0.2, 0.9, 0.6]] * len(texts), np.float32)

    def decision_for(self, *unused_args):
      return RULE(0.5)

  import predict_session  # pylint: disable=g-import-not-at-top
  Predictor.describe = predict_session.SessionPredictor.describe
  for which, expected in (("all", ["a", "b", "c"]), ("labels", ["b", "c"]),
                          (1, ["b"])):
    stream = io.BytesIO()
    predict_files.predict_file(
        Predictor(), [("1", "x", None)], prediction_writers.json_writer(stream),
        RULE(0.5), which)
    line = json.loads(stream.getvalue().decode("utf-8"))
    assert list(line["probabilities"]) == expected
    assert line["labels"] == ["b", "c"]


def test_a_file_is_named_in_small_pieces(monkeypatch):
  """A list of all labels of 1,024 texts would be gigabytes."""
  monkeypatch.setattr(predict_files, "FILE_WINDOW_CELLS", 12)
  assert [predict_files.window_size(n) for n in (3, 5, 12, 13)] == [4, 2, 1, 1]
  assert predict_files.window_size(1) == 12
  sizes = []

  class Predictor(object):
    labels = ["a", "b", "c", "d", "e"]

    def predict(self, texts):
      sizes.append(len(texts))
      return np.zeros([len(texts), 5], np.float32)

    def describe(self, rows, *unused_rule, **unused_options):
      return [None] * len(rows)

  written = []
  predict_files.predict_file(
      Predictor(), ((str(i), "x", None) for i in range(7)),
      lambda row, described: written.append(row[0]), RULE(0.5))
  assert written == [str(i) for i in range(7)] and sizes == [2, 2, 2, 1]


def test_usual_numbers_of_labels_have_full_windows():
  assert predict_files.window_size(2048) == predict_files.FILE_WINDOW == 1024
  assert predict_files.window_size(30000) == 69


def log_of(monkeypatch):
  lines = []
  for name in ("info", "warning"):
    monkeypatch.setattr(evaluation.logging, name, lambda text, *values: (
        lines.append(text % values)))
  return lines


def test_the_log_has_no_line_for_each_label(monkeypatch, tmp_path):
  labels, probabilities = random_arrays(9, 51)
  labels[:, 7] = False
  names = ["topic %d" % i for i in range(51)]
  result = evaluation.results(
      evaluation.Outputs(0.5, labels, probabilities), RULE([0.5] * 51), names)
  lines = log_of(monkeypatch)
  evaluation.write_results("dev", result, 3, str(tmp_path))
  evaluation.log_table({"dev": result})
  in_file = tiny_bert.read_text(tmp_path / "eval_results.txt").splitlines()
  of_labels = [line for line in in_file if "/" in line.partition(" = ")[0]]
  assert len(of_labels) == 2 * 51  # f1 and threshold
  assert len(lines) == 11 and not [line for line in lines if "topic" in line]


def test_long_lists_of_labels_are_cut_in_the_log(monkeypatch, tmp_path):
  num_labels = 300
  labels, probabilities = random_arrays(5, num_labels)
  labels[:] = False
  names = ["topic %d" % i for i in range(num_labels)]
  outputs = evaluation.Outputs(0.5, labels, probabilities)
  lines = log_of(monkeypatch)
  evaluation.tune(outputs, RULE(0.5), "tune_per_label", names)
  assert lines[-1].startswith("Labels with no positive on dev;")
  assert lines[-1].endswith("topic 48, topic 49, and 250 more")
  result = evaluation.results(outputs, RULE(0.5), names)
  evaluation.write_results("dev", result, 3, str(tmp_path))
  evaluation.log_table({"dev": result})
  assert max(map(len, lines[1:])) <= 200 + len(str(tmp_path))
  assert "left_out_of_macro_roc_auc = " + ", ".join(names) in (
      tiny_bert.read_text(tmp_path / "eval_results.txt"))


def test_pr_curves_of_all_cells_are_counted_in_blocks(monkeypatch):
  labels, probabilities = random_arrays(30, 400)
  labels, probabilities = labels.ravel(), probabilities.ravel()
  whole = pr_curves.pr_curve_summary("x", labels, probabilities)
  monkeypatch.setattr(pr_curves, "_BLOCK", 1000)
  tracemalloc.start()
  try:
    blocks = pr_curves.pr_curve_summary("x", labels, probabilities)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert blocks == whole
  # What is held beside the blocks: the checks, a byte per cell each.
  assert peak < 4 * labels.size + 100000
