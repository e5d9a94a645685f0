# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/compare_runs.py."""

import json
import os

import numpy as np
import pytest
import tiny_bert

from experiments import compare_runs


LABELS = ("a", u"\u732b")


def row(number, true, predicted, probabilities=None, text=None):
  if probabilities is None:
    probabilities = [0.9 if label in predicted else 0.1 for label in LABELS]
  record = {"id": str(number), "text": text or "text %d" % number,
            "labels": list(predicted),
            "probabilities": dict(zip(LABELS, probabilities))}
  if true is not None:
    record["true_labels"] = list(true)
  return record


A_ROWS = [row(1, "a", ""), row(2, "a", u"a\u732b"), row(3, u"\u732b", "a"),
          row(4, "", "")]
B_ROWS = [row(1, "a", "a"), row(2, "a", u"\u732b"), row(3, u"\u732b", ""),
          row(4, "", "")]


def write(path, rows):
  tiny_bert.write_jsonl(path, rows)
  return str(path)


@pytest.fixture(name="files")
def files_fixture(tmp_path):
  return (write(tmp_path / "a.jsonl", A_ROWS), write(tmp_path / "b.jsonl",
                                                     B_ROWS))


def read_both(files):
  path_a, a = compare_runs.read_predictions(files[0])
  path_b, b = compare_runs.read_predictions(files[1])
  return a, compare_runs.check_same_texts(path_a, a, path_b, b)


def test_metrics(files):
  metrics = compare_runs.compare_metrics(*read_both(files), num_resamples=50)
  # A: 1 hit, 3 predictions, 3 true; B: 1 hit, 2 predictions, 3 true.
  assert metrics["micro_f1"]["a"] == pytest.approx(2 / 6)
  assert metrics["micro_f1"]["b"] == pytest.approx(2 / 5)
  assert metrics["micro_f1"]["difference"] == pytest.approx(2 / 5 - 2 / 6)
  assert metrics["micro_f1"]["low"] <= metrics["micro_f1"]["high"]
  assert metrics["micro_precision"]["b"] == 0.5
  # Row 4 is right in both; row 1 in B.
  assert metrics["subset_accuracy"]["a"] == 0.25
  assert metrics["subset_accuracy"]["b"] == 0.5
  # A: a missed in 1, cat in 2, a and cat in 3: 4 of 8 cells.
  assert metrics["hamming_loss"]["a"] == 0.5
  assert "low" not in metrics["hamming_loss"]


def test_f1_is_that_of_the_decisions_not_of_the_probabilities(tmp_path):
  # Decided at a threshold of 0.05: 0.1 is a prediction there.
  rows = [row(1, "a", "a", [0.1, 0.0]), row(2, "", "", [0.01, 0.0])]
  path = write(tmp_path / "x.jsonl", rows)
  metrics = compare_runs.compare_metrics(
      *read_both((path, path)), num_resamples=5)
  assert metrics["micro_f1"]["a"] == 1.0
  assert metrics["micro_f1"]["difference"] == 0.0


def test_interval_of_a_sure_gain_leaves_out_zero():
  rng = np.random.RandomState(0)
  true = rng.rand(300, 2) < 0.4
  noise = rng.rand(300, 2) < 0.3

  def file(predicted):
    return compare_runs.prediction_files.PredictionFile(
        [str(i) for i in range(300)], ["t"] * 300, ["x", "y"], predicted, true,
        np.where(predicted, 0.8, 0.2))

  a = file(np.where(noise, ~true, true))
  b = file(np.stack([true[:, 0], a.predicted[:, 1]], axis=1))
  changes = compare_runs.compare_labels(a, b, num_resamples=200)
  assert [change.label for change in changes] == ["x", "y"]
  assert changes[0].f1_b == 1.0
  assert changes[0].low > 0.1
  assert changes[0].support == true[:, 0].sum()
  assert (changes[1].low, changes[1].high) == (0.0, 0.0)
  lines = compare_runs.format_labels(changes)
  assert lines[0].startswith("Labels: 1 of 2 won, 0 lost")
  assert lines[3].endswith("won")


def test_texts(files):
  changes = compare_runs.compare_texts(*read_both(files))
  assert [(change.id, change.kind, change.labels_a, change.labels_b)
          for change in changes] == [
              ("1", "better", "", "a"),
              ("2", "worse", u"a, \u732b", u"\u732b"),
              ("3", "better", "a", "")]
  lines = compare_runs.format_texts(changes, 4, 1)
  assert lines == [
      "Texts: labels of 3 of 4 changed: 2 better, 1 worse, 0 other", "",
      "better  1: text 1", "    true a", "    A    none", "    B    a", "",
      "(2 more: --show_texts=3 shows all)"]


def test_swapped_labels_are_other(tmp_path):
  a = write(tmp_path / "a.jsonl", [row(1, "", "a")])
  b = write(tmp_path / "b.jsonl", [row(1, "", u"\u732b")])
  changes = compare_runs.compare_texts(*read_both((a, b)))
  assert [(change.kind, change.distance) for change in changes] == [
      ("other", 2)]


def test_labels_in_another_order_are_the_same(tmp_path, files):
  rows = [dict(record, probabilities=dict(
      reversed(list(record["probabilities"].items())))) for record in B_ROWS]
  other = write(tmp_path / "c.jsonl", rows)
  assert (compare_runs.compare(files[0], other, num_resamples=5)[3:] ==
          compare_runs.compare(files[0], files[1], num_resamples=5)[3:])


def test_a_directory_gives_test_where_it_is_labelled_else_dev(tmp_path):
  write(tmp_path / "test_predictions.jsonl", [row(1, None, "a")])
  write(tmp_path / "eval_predictions.jsonl", [row(2, "a", "a")])
  path, found = compare_runs.read_predictions(str(tmp_path))
  assert os.path.basename(path) == "eval_predictions.jsonl"
  assert found.ids == ["2"]
  write(tmp_path / "test_predictions.jsonl", [row(1, "a", "a")])
  path, found = compare_runs.read_predictions(str(tmp_path))
  assert os.path.basename(path) == "test_predictions.jsonl"


def test_nothing_with_true_labels(tmp_path):
  with pytest.raises(ValueError, match="looked for test_predictions.jsonl and"):
    compare_runs.read_predictions(str(tmp_path))
  path = write(tmp_path / "test_predictions.jsonl", [row(1, None, "a")])
  with pytest.raises(ValueError, match="test_predictions.jsonl has none"):
    compare_runs.read_predictions(str(tmp_path))
  with pytest.raises(ValueError, match="no true labels"):
    compare_runs.read_predictions(path)


@pytest.mark.parametrize("change, expected", [
    (lambda rows: rows[1].update(text="other"),
     "number 2: '2' 'text 2' in .*a.jsonl, '2' 'other' in .*b.jsonl"),
    (lambda rows: rows[2].update(id="x"), "number 3: '3' .*, 'x' 'text 3' in"),
    (lambda rows: rows.pop(), "a.jsonl has 4, .*b.jsonl has 3; .*only in "
     ".*a.jsonl is '4'"),
    (lambda rows: rows[0].update(true_labels=[]),
     "true labels of text '1' differ: a in .*a.jsonl, none in .*b.jsonl"),
    (lambda rows: [record.update(
        labels=[], true_labels=[], probabilities={"a": 0.5})
                   for record in rows],
     u"a.jsonl has the label '\u732b', .*b.jsonl does not"),
    (lambda rows: [record["probabilities"].update(z=0.5) for record in rows],
     "b.jsonl has the label 'z', .*a.jsonl does not"),
])
def test_what_cannot_be_compared(tmp_path, files, change, expected):
  rows = json.loads(json.dumps(B_ROWS))
  change(rows)
  write(files[1], rows)
  with pytest.raises(ValueError, match=expected) as caught:
    compare_runs.compare(*files, num_resamples=5)
  assert "\n" not in str(caught.value)


def run(*arguments):
  return tiny_bert.call(compare_runs, arguments)[:3]


def test_program(files):
  status, out, err = run(*files, "--num_resamples=20", "--show_texts=0")
  assert (status, err) == (0, "")
  lines = out.splitlines()
  assert lines[2] == "4 texts, 2 labels, 20 resamples"
  assert lines[4].split() == ["A", "B", "B", "-", "A", "95%", "interval", "p"]
  assert lines[5].split()[:4] == ["micro_f1", "0.3333", "0.4000", "+0.0667"]
  assert lines[-1] == "(3 more: --show_texts=3 shows all)"


def test_mistakes_end_in_one_sentence(files):
  for arguments, expected in (
      ((files[0],), "give two runs or prediction files"),
      (files + ("--show_texts=-1",), "--show_texts is -1"),
      ((files[0], files[0] + "x"), "x")):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_texts_that_one_run_cut(tmp_path):
  whole = "w" * 300
  for text, differs in ((whole, False), ("w" * 199 + u"\u2026", False),
                        ("v" * 199 + u"\u2026", True), ("w" * 199, True)):
    paths = []
    for name, here in (("a", whole), ("b", text)):
      paths.append(write(tmp_path / (name + ".jsonl"),
                         [row(1, "a", "a", text=here)]))
    if differs:
      with pytest.raises(ValueError, match="texts differ"):
        read_both(paths)
    else:
      read_both(paths)
