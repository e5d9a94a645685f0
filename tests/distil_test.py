# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/distil.py."""

import json
import os

import numpy as np
import pytest
import tiny_bert
import tiny_model

from experiments import distil
import predict_session
import run_multilabel_classifier


def read_rows(path):
  return [json.loads(line) for line in tiny_bert.read_text(path).splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(teacher's folder, data, file of texts)."""
  folder = tmp_path_factory.mktemp("made")
  tiny_model.make(folder / "teacher", labels=tiny_bert.LABELS, threshold=0.55)
  data = tiny_bert.make_data(folder / "data", (20, 12, 8))
  texts = str(folder / "texts.txt")
  tiny_bert.write_text(texts, u"the apple\na plum and a pear\n\u732b\u72d7\n")
  return str(folder / "teacher"), str(data), texts


def call(made, output_dir, **flags):
  teacher, data, texts = made
  return tiny_bert.call(distil, tiny_bert.flag_list(dict({
      "teacher_dir": teacher, "data_dir": data, "unlabelled": texts,
      "output_dir": str(output_dir)}, **flags)))


def test_draws_have_the_teachers_probabilities(made, tmp_path):
  """Of 4,000 draws each share is within 4 standard deviations."""
  output_dir = tmp_path / "new"
  status, stdout, stderr, _ = call(made, output_dir, samples=4000)
  assert (status, stderr) == (0, "")
  assert stdout == ("%s: train has 20 labelled texts and 12000 from the "
                    "teacher\n" % output_dir)
  rows = read_rows(str(output_dir / "train.jsonl"))
  before = read_rows(os.path.join(made[1], "train.jsonl"))
  assert [(row["text"], sorted(row["labels"])) for row in rows[:20]] == [
      (row["text"], sorted(row["labels"])) for row in before]
  texts = tiny_bert.read_text(made[2]).splitlines()
  with predict_session.SessionPredictor(made[0]) as predictor:
    expected = predictor.predict(texts)
  found = np.array([[label in row["labels"] for label in tiny_bert.LABELS]
                    for row in rows[20:]])
  for text, probabilities in zip(texts, expected):
    own = found[[row["text"] == text for row in rows[20:]]]
    assert len(own) == 4000
    deviation = np.sqrt(probabilities * (1 - probabilities) / 4000)
    assert (np.abs(own.mean(axis=0) - probabilities) < 4 * deviation).all()


def test_hard_labels_and_the_rest_of_the_data(made, tmp_path):
  assert call(made, tmp_path / "new", hard=True)[0] == 0
  rows = read_rows(str(tmp_path / "new" / "train.jsonl"))[20:]
  texts = tiny_bert.read_text(made[2]).splitlines()
  with predict_session.SessionPredictor(made[0]) as predictor:
    expected = predictor.predict_labels(texts)
  assert [row["text"] for row in rows] == texts
  assert [sorted(row["labels"]) for row in rows] == [
      sorted(label for label, _ in labels) for labels in expected]
  for part in ("dev", "test"):
    assert [(row["text"], row.get("labels")) for row in read_rows(
        str(tmp_path / "new" / (part + ".jsonl")))] == [
            (row["text"], row.get("labels")) for row in read_rows(
                os.path.join(made[1], part + ".jsonl"))]


def test_the_same_seed_draws_the_same_and_it_trains(made, tmp_path):
  for name, seed in (("a", 1), ("b", 1), ("c", 2)):
    assert call(made, tmp_path / name, samples=5, random_seed=seed)[0] == 0
  text = [tiny_bert.read_text(str(tmp_path / name / "train.jsonl"))
          for name in "abc"]
  assert text[0] == text[1] != text[2]
  bert = tiny_bert.make_bert(tmp_path / "bert", num_hidden_layers=1)
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.arguments(
          bert, str(tmp_path / "a"), str(tmp_path / "out"), do_eval=True))
  assert (status, stderr) == (0, "")


@pytest.mark.parametrize("flags, words", [
    ({"samples": 0}, "--samples is 0"),
    ({"samples": 2, "hard": True}, "--samples and --hard exclude each other"),
    ({"unlabelled": None}, "--unlabelled must be given"),
    ({"random_seed": -1}, "--random_seed is -1")])
def test_what_is_refused(flags, words, made, tmp_path):
  status, _, stderr, _ = call(made, tmp_path / "new", **flags)
  assert status == 2 and words in stderr and stderr.count("\n") == 1
  assert not os.path.exists(str(tmp_path / "new"))


def test_a_folder_in_use_and_other_labels_are_refused(made, tmp_path):
  tiny_bert.write_text(str(tmp_path / "mine.txt"), u"mine\n")
  status, _, stderr, _ = call(made, tmp_path)
  assert status == 2 and "exists and is not an empty folder" in stderr
  tiny_model.make(tmp_path / "other" / "model", labels=("x", "y"))
  status, _, stderr, _ = call(made, tmp_path / "new",
                              teacher_dir=str(tmp_path / "other" / "model"))
  assert status == 2 and "has different labels from the teacher" in stderr
