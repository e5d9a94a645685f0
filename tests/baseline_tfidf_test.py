# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/baseline_tfidf.py."""

import io
import json
import os

import numpy as np
import pytest
import tiny_bert

from experiments import baseline_tfidf
from experiments import prediction_files
from experiments import prediction_output
from processors import InputExample


pytest.importorskip("sklearn")


@pytest.fixture(name="data")
def data_fixture(tmp_path):
  folder = tmp_path / "data"
  tiny_bert.make_data(folder, sizes=(120, 40, 0))
  tiny_bert.write_jsonl(folder / "test.jsonl",
                        tiny_bert.make_rows(40, 5, "test"))
  return str(folder)


def part(labels, texts=None):
  labels = np.array(labels, np.uint8)
  texts = texts or ["t"] * len(labels)
  return baseline_tfidf.Part(["i"] * len(labels), texts, labels, texts)


def test_prior_is_the_share_in_train():
  train = part([[1, 0], [1, 0], [0, 0], [1, 1]])
  test = part([[1, 0], [0, 1]])
  assert baseline_tfidf.predict_prior(train, [test])[0].tolist() == [
      [0.75, 0.25], [0.75, 0.25]]


def test_score_at_half_and_tuned_on_dev():
  test = part([[1, 0], [0, 1]])
  probabilities = np.array([[0.3, 0.1], [0.1, 0.4]])
  scores = baseline_tfidf.score(test, probabilities, test, probabilities,
                                ["a", "b"])
  assert scores["fixed"]["micro_f1"] == 0
  assert scores["tuned"]["micro_f1"] == 1
  assert 0.1 < scores["tuned"]["thresholds"] <= 0.3
  assert len(scores["tuned_per_label"]["thresholds"]) == 2
  assert list(baseline_tfidf.score(test, probabilities, None, None,
                                   ["a", "b"])) == ["fixed"]


def test_a_label_that_all_or_none_has():
  train = part([[1, 0, 1], [1, 0, 0]], ["xx yy", "zz"])
  test = part([[1, 0, 1]], ["xx"])
  probabilities = baseline_tfidf.fit_and_predict(train, [test])[0]
  assert probabilities[0, :2].tolist() == [1, 0]
  assert 0.5 < probabilities[0, 2] < 1


def test_program(data, tmp_path, capsys):
  output = str(tmp_path / "out")
  assert baseline_tfidf.main(
      ["--data_dir=" + data, "--output_dir=" + output]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("120 train, 40 test texts")
  assert [line[:29].strip() for line in lines[1:4]] == [
      "Label prior, 0.5", "Label prior, tuned on dev",
      "Label prior, tuned per label"]
  with io.open(os.path.join(output, "results.json")) as reader:
    results = json.load(reader)
  assert results["micro_f1"] == results["tfidf"]["fixed"]["micro_f1"]
  # The other labels' words are single characters, which are no words to it.
  assert results["f1/fruit"] > 0.9
  assert results["label_prior"]["fixed"]["f1/fruit"] == 0
  # What the demo reads.
  table = np.loadtxt(os.path.join(output, "test_results.tsv"), delimiter="\t")
  assert table.shape == (40, 3)
  found = prediction_files.read(os.path.join(output, "test_predictions.jsonl"))
  assert found.labels == list(tiny_bert.LABELS)
  assert found.ids[0] == "test-0"
  np.testing.assert_allclose(found.probabilities, table, atol=1e-6)
  np.testing.assert_array_equal(found.predicted, table >= 0.5)
  rows = tiny_bert.make_rows(40, 5, "test")
  np.testing.assert_array_equal(found.true, [
      [label in row["labels"] for label in tiny_bert.LABELS] for row in rows])


def test_without_dev(data, capsys):
  os.remove(os.path.join(data, "dev.jsonl"))
  assert baseline_tfidf.main(["--data_dir=" + data]) == 2
  assert "with --no_tuning, no" in capsys.readouterr().err
  assert baseline_tfidf.main(["--data_dir=" + data, "--no_tuning"]) == 0
  assert "tuned" not in capsys.readouterr().out


def test_characters(data, capsys):
  assert baseline_tfidf.main(["--data_dir=" + data, "--analyzer=char"]) == 0
  assert "TF-IDF" in capsys.readouterr().out


def test_texts_are_shown_as_the_program_shows_them():
  evaluation = pytest.importorskip("multilabel.training.evaluation")
  for text_a, text_b in ((u"\u732b" * 200, None), (u"\u732b" * 201, None),
                         ("a", "b"), ("a" * 150, "b" * 150)):
    line = evaluation.prediction_line(
        InputExample("1", text_a, text_b, ()), [0.5], [True], ["x"])
    assert json.loads(line)["text"] == prediction_output.shown_text(
        text_a, text_b)
