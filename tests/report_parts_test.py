# SPDX-License-Identifier: Apache-2.0
"""Tests of what the report reads and counts: run_files, events, analysis."""

import os
import shlex

import numpy as np
import pytest
from tiny_run import LINES
from tiny_run import write_events
from tiny_run import write_lines

from multilabel.reporting import analysis
from multilabel.reporting import run_files
from multilabel.reporting import run_sections
from multilabel.storage import event_files


@pytest.mark.parametrize("change, message", [
    ({"probabilities": {"a": 0.5}}, 'jsonl:2: "b" has no probability'),
    ({"probabilities": {"a": 0.5, "b": 0.5, "c": 0.5}},
     "jsonl:2: 3 probabilities for 2 labels"),
    ({"probabilities": {"a": 0.5, "b": 1.5}}, "jsonl:2: a probability is not"),
    ({"probabilities": {"a": 0.5, "b": float("nan")}},
     "jsonl:2: a probability is not"),
    ({"probabilities": {"a": 0.5, "b": "x"}},
        "jsonl:2: not a valid prediction"),
    ({"true_labels": ["c"]}, 'jsonl:2: "c" is not a label of the run'),
    ({"labels": ["c"]}, 'jsonl:2: "c" is not a label of the run'),
])
def test_a_broken_prediction_is_named_with_its_line(tmp_path, change, message):
  path = tmp_path / "p.jsonl"
  write_lines(path, [LINES[0], dict(LINES[1], **change)])
  with pytest.raises(ValueError, match=message) as error:
    run_files.read_predictions(str(path))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_directory_of_no_run_is_refused(tmp_path, make):
  folder = tmp_path / "empty"
  make(folder)
  with pytest.raises(ValueError, match="output_dir of a run"):
    run_files.read(str(folder))


def test_predictions_keep_the_order_of_the_labels(tmp_path):
  path = tmp_path / "p.jsonl"
  write_lines(path, LINES)
  read = run_files.read_predictions(str(path), ["b", "a"])
  assert read.labels == ["b", "a"]
  np.testing.assert_array_equal(
      read.true, [[0, 1], [1, 0], [1, 0], [0, 1]])
  np.testing.assert_array_equal(
      read.decided, [[0, 1], [1, 1], [0, 0], [0, 1]])
  np.testing.assert_array_equal(read.probabilities[2],
                                np.array([0.4, 0.1], np.float32))
  assert read.texts == ["first", "second", "third", "fourth"]


def test_results_of_labels_with_equal_signs(tmp_path):
  path = tmp_path / "eval_results.txt"
  path.write_text(u"f1/a = b = 0.5\nleft_out_of_x = c = d, e\n"
                  u"threshold/a = b = 0.25\n", encoding="utf-8")
  assert run_files.read_results(str(path)) == {
      "f1/a = b": "0.5", "left_out_of_x": "c = d, e", "threshold/a = b": "0.25"}


def test_scalars_of_a_resumed_run(tmp_path):
  # Killed after step 40, gone on from the checkpoint of step 20.
  write_events(tmp_path, [(1, [(10, 1.0), (20, 2.0), (30, 3.0), (40, 4.0)]),
                          (21, [(30, 5.0)])])
  found = event_files.read_scalars(str(tmp_path), ("loss", "absent"))
  assert found.values == {"loss": [(10, 1.0), (20, 2.0), (30, 5.0)]}
  assert found.first_time == 1e9 + 10


def test_scalars_of_a_file_that_was_cut_off(tmp_path):
  write_events(tmp_path, [(1, [(10, 1.0), (20, 2.0)])])
  path, = event_files.event_paths(str(tmp_path))
  with open(path, "rb+") as writer:
    writer.truncate(os.path.getsize(path) - 7)
  assert event_files.read_scalars(str(tmp_path), ("loss",)).values == {
      "loss": [(10, 1.0)]}


def test_event_files_are_read_in_the_order_of_their_time(tmp_path):
  for name in ("events.out.tfevents.10.b", "events.out.tfevents.9.c", "other"):
    (tmp_path / name).write_text(u"")
  assert [os.path.basename(path) for path in
          event_files.event_paths(str(tmp_path))] == [
              "events.out.tfevents.9.c", "events.out.tfevents.10.b"]


def test_threshold_curve_equals_brute_force():
  rng = np.random.RandomState(0)
  true = rng.rand(50, 4) < 0.3
  probabilities = np.round(rng.rand(50, 4), 2).astype(np.float32)
  curve = analysis.threshold_curve(true, probabilities)
  for i, threshold in enumerate(np.linspace(0, 1, 201)):
    decided = probabilities >= np.float32(threshold)
    tp = np.sum(decided & true)
    assert curve.recall[i] == tp / true.sum()
    assert curve.f1[i] == 2 * tp / (decided.sum() + true.sum())
    if decided.any():
      assert curve.precision[i] == tp / decided.sum()
    else:
      assert np.isnan(curve.precision[i])


def test_pr_points_by_hand():
  true = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
  probabilities = np.array([[.9, .1], [.8, .2], [.7, .3], [.7, .4]], np.float32)
  (recall, precision), nothing = analysis.label_pr_points(
      true, probabilities, [0, 1])
  np.testing.assert_allclose(recall, [0.5, 0.5, 1])
  np.testing.assert_allclose(precision, [1, 0.5, 0.5])
  assert nothing is None


def test_pr_points_are_few_and_lie_on_the_curve():
  rng = np.random.RandomState(0)
  true = rng.rand(5000, 3) < 0.3
  probabilities = rng.rand(5000, 3).astype(np.float32)
  recall, precision = analysis.pooled_pr_points(true, probabilities, 50)
  assert len(recall) <= 50
  assert recall[-1] == 1 and np.all(np.diff(recall) >= 0)
  assert precision[-1] == pytest.approx(true.mean(), abs=1e-3)
  for some_recall, some_precision in analysis.label_pr_points(
      true, probabilities, [2, 0], 20):
    assert len(some_recall) <= 20 and some_recall[-1] == 1
    assert np.all((some_precision > 0) & (some_precision <= 1))


def test_co_occurrence_by_hand():
  true = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)
  np.testing.assert_array_equal(analysis.co_occurrence(true, [2, 0]),
                                [[2, 2], [2, 3]])


def test_confusion_by_hand():
  true = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0]], bool)
  given = np.array([[0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]],
                   bool)
  # Missed: a in texts 0, 1, 4, b in 4; false: b in 0, c in 3 and 4.
  np.testing.assert_array_equal(analysis.confusion(true, given, [0, 1, 2]), [
      [0, 1, 1, 1],
      [0, 0, 1, 0],
      [0, 0, 0, 0],
      [0, 0, 1, 0]])
  # A column that is not chosen still counts as something false.
  np.testing.assert_array_equal(analysis.confusion(true, given, [0]),
                                [[0, 1], [0, 0]])


def test_mistakes_by_hand():
  true = np.array([[0], [0], [0], [1], [1], [1], [1]], bool)
  given = np.array([[1], [1], [1], [0], [0], [0], [1]], bool)
  scores = np.array([[.6], [.9], [.9], [.3], [.1], [.2], [.5]], np.float32)
  assert analysis.mistakes(true, given, scores, 0, 2) == ([1, 2], [4, 5])
  assert analysis.mistakes(true, given, scores, 0, 9) == ([1, 2, 0], [4, 5, 3])


@pytest.mark.parametrize("num_cells, expected", [
    (1, 1000), (20000, 1000), (1000000, 300), (3000000, 100), (3000001, 0)])
def test_resamples_are_bounded(num_cells, expected):
  assert analysis.num_resamples(num_cells) == expected


def test_wrapped_command_is_one_command():
  words = ["python", "x.py"] + ["--flag_%d=value" % i for i in range(20)]
  # pylint: disable=protected-access
  text = run_sections._wrapped(words)
  assert max(len(line) for line in text.split("\n")) <= 78
  assert shlex.split(text.replace("\\\n", "")) == words


def test_the_learning_rate_is_read_under_the_name_that_runs_give_it(tmp_path):
  write_events(tmp_path, [(1, [(10, 1.0), (20, 2.0)])])
  found = run_files._read_scalars(str(tmp_path)).values
  assert sorted(found) == ["learning_rate", "loss"]
  assert [step for step, _ in found["learning_rate"]] == [10, 20]
