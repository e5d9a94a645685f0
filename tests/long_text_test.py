# SPDX-License-Identifier: Apache-2.0
"""Tests of texts that are longer than the model, as the program reads them."""

import functools
import json
import os
import random
import shutil

import numpy as np
import pytest
import tiny_bert
import tiny_model

from multilabel.features import input_pipeline
from multilabel.storage import checkpoint_choice
from multilabel.storage import trained_model
import predict_session
import run_multilabel_classifier


NUM_WORDS = 660
# The words that tell a label stand in these places only, one token per word.
CLUE_PLACES = range(640, 655)
MAX_SEQ_LENGTH = 32
STRIDE = 30


def make_long_rows(size, seed, part):
  """Texts of 660 tokens whose clues come after the 600th: list of dict."""
  rng = random.Random(seed)
  plain = [word for word in tiny_bert.FILLERS
           if not word.startswith("##") and word != "caf"]
  rows = []
  for number in range(size):
    labels = [label for label in tiny_bert.LABELS if rng.random() < 0.2]
    words = [rng.choice(plain) for _ in range(NUM_WORDS)]
    places = rng.sample(list(CLUE_PLACES), 3 * len(labels))
    for place, label in zip(places, labels * 3):
      words[place] = rng.choice(tiny_bert.WORDS_BY_LABEL[label])
    rows.append({"id": "%s-%d" % (part, number), "text": u" ".join(words),
                 "labels": labels})
  return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Short texts teach the clues; all of dev and test is long."""
  folder = tiny_bert.make_data(tmp_path_factory.mktemp("data"))
  for part, size in (("train", 12), ("dev", 20), ("test", 40)):
    rows = make_long_rows(size, size, part)
    if part == "train":
      rows += tiny_bert.make_rows(360, 7, "short")
    tiny_bert.write_jsonl(os.path.join(folder, part + ".jsonl"), rows)
  return folder


def call(*args, **flags):
  settings = dict(max_seq_length=MAX_SEQ_LENGTH, train_batch_size=32,
                  do_test=True, do_predict=True, num_train_epochs=12)
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      *args, **dict(settings, **flags)))


def run(*args, **flags):
  """Must succeed: the lines of the log."""
  status, stdout, stderr, log = call(*args, **flags)
  assert (status, stdout, stderr) == (0, "", "")
  return log


def again(data, output_dir, **flags):
  """The program over a trained directory: (exit status, stderr)."""
  status, _, stderr, _ = tiny_bert.call(
      run_multilabel_classifier, tiny_bert.flag_list(dict({
          "task_name": "jsonl", "data_dir": data, "output_dir": output_dir,
          "report": False}, **flags)))
  return status, stderr


def read_results(output_dir, name="test_eval_results.txt"):
  return dict(line.rpartition(" = ")[::2] for line in tiny_bert.read_text(
      os.path.join(str(output_dir), name)).splitlines())


def read_rows(path):
  return [json.loads(line) for line in tiny_bert.read_text(path).splitlines()]


def read_predictions(output_dir, name="test_predictions.jsonl"):
  """(ids, float64 probabilities) of a prediction file."""
  rows = read_rows(os.path.join(str(output_dir), name))
  return [row["id"] for row in rows], np.array(
      [[row["probabilities"][label] for label in tiny_bert.LABELS]
       for row in rows])


@pytest.fixture(scope="module")
def windows(bert, data, tmp_path_factory):
  """(output_dir, log) of a run that reads texts in windows."""
  output_dir = str(tmp_path_factory.mktemp("windows"))
  return output_dir, run(bert, data, output_dir, long_text="windows",
                         stride=STRIDE, do_eval=True, eval_steps=0)


def test_windows_find_a_clue_after_token_600(windows):
  for name in ("eval_results.txt", "test_eval_results.txt"):
    results = read_results(windows[0], name)
    assert float(results["micro_f1"]) > 0.9
    assert float(results["macro_f1"]) > 0.9


@pytest.mark.parametrize("form,finds", [
    ("truncate_head", False), ("head_tail", True), ("truncate_tail", True)])
def test_truncation_finds_what_it_leaves(bert, data, tmp_path, form, finds):
  log = run(bert, data, tmp_path / "o", long_text=form, do_predict=False,
            num_train_epochs=8)
  score = float(read_results(tmp_path / "o")["micro_f1"])
  assert score > 0.9 if finds else score < 0.4
  assert ("  372 texts; 12 longer than 32 tokens and truncated; 0 empty"
          in log)
  assert trained_model.read(str(tmp_path / "o")).long_text == (form, 0, "max")


def test_windows_are_logged_and_stored(windows):
  # 12 long texts of 22 windows.
  for line in ("  372 texts; 0 longer than 32 tokens and truncated; 0 "
               "empty", "  624 windows of at most 32 tokens, one every 30",
               "  372 examples, 3 labels, batches of 32, 240 steps"):
    assert line in windows[1]
  settings = json.loads(tiny_bert.read_text(
      os.path.join(windows[0], "model_settings.json")))
  assert (settings["long_text"], settings["stride"],
          settings["window_pooling"]) == ("windows", 30, "max")
  assert trained_model.read(windows[0]).long_text == ("windows", 30, "max")


def numpy_probabilities(output_dir, rows, pooling):
  """float64 probabilities of long texts, a window at a time."""
  weights = tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(output_dir))
  fits = MAX_SEQ_LENGTH - 2
  found = []
  for row in rows:
    words = row["text"].split()
    starts = [start for start in range(0, NUM_WORDS, STRIDE)
              if start + fits < NUM_WORDS] + [NUM_WORDS - fits]
    values = tiny_model.probabilities(weights, [
        tiny_model.encode(u" ".join(words[start:start + fits]))
        for start in starts])
    logits = np.log(values / (1 - values))
    pooled = logits.max(axis=0) if pooling == "max" else logits.mean(axis=0)
    found.append(1 / (1 + np.exp(-pooled)))
  return np.array(found)


def test_each_text_has_the_pooled_result_of_its_windows(windows, data):
  rows = read_rows(os.path.join(data, "test.jsonl"))
  ids, found = read_predictions(windows[0])
  assert ids == [row["id"] for row in rows]
  expected = numpy_probabilities(windows[0], rows, "max")
  np.testing.assert_allclose(found, expected, atol=1e-4)
  table = np.loadtxt(os.path.join(windows[0], "test_results.tsv"))
  np.testing.assert_allclose(table, expected, atol=1e-4)
  truth = np.array([[label in row["labels"] for label in tiny_bert.LABELS]
                    for row in rows])
  results = read_results(windows[0])
  assert results["num_examples"] == "40"
  assert float(results["loss"]) == pytest.approx(
      -np.mean(np.where(truth, np.log(expected), np.log(1 - expected))),
      abs=1e-4)
  hits = (truth & (expected >= 0.5)).sum()
  assert float(results["micro_f1"]) == pytest.approx(
      2.0 * hits / (truth.sum() + (expected >= 0.5).sum()))


@pytest.fixture
def copy(windows, tmp_path):
  folder = str(tmp_path / "copy")
  shutil.copytree(windows[0], folder)
  return folder


def test_pooling_by_the_mean(copy, data):
  settings = trained_model.read(copy).settings
  trained_model.write_settings(copy, dict(settings, window_pooling="mean"))
  assert again(data, copy, do_predict=True) == (0, "")
  rows = read_rows(os.path.join(data, "test.jsonl"))
  ids, found = read_predictions(copy)
  assert ids == [row["id"] for row in rows]
  np.testing.assert_allclose(
      found, numpy_probabilities(copy, rows, "mean"), atol=1e-4)


@pytest.mark.parametrize("batch_size,window", [(1000, 7), (5, 1), (3, 100)])
def test_results_do_not_depend_on_how_rows_are_batched(
    windows, copy, data, monkeypatch, batch_size, window):
  monkeypatch.setattr(input_pipeline, "predict_windows", functools.partial(
      input_pipeline.predict_windows, window=window))
  assert again(data, copy, do_predict=True, do_test=True, do_eval=True,
               predict_batch_size=batch_size,
               eval_batch_size=batch_size) == (0, "")
  for name in ("test_predictions.jsonl", "eval_predictions.jsonl"):
    expected, found = [read_predictions(folder, name)
                       for folder in (windows[0], copy)]
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1], atol=3e-6)
  for name in ("eval_results.txt", "test_eval_results.txt"):
    expected, found = [read_results(folder, name)
                       for folder in (windows[0], copy)]
    assert sorted(found) == sorted(expected)
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]),
                                                 abs=1e-6)
    assert found["micro_f1"] == expected["micro_f1"]


def test_the_session_predictor_finds_it_too(windows, data):
  rows = read_rows(os.path.join(data, "test.jsonl"))
  expected = read_predictions(windows[0])[1]
  short = u"see the apple"
  with predict_session.SessionPredictor(windows[0]) as predictor:
    # Short ones in between must not shift the windows of the long ones.
    texts = [text for row in rows for text in (row["text"], short)]
    found = predictor.predict(texts)
  assert found.shape == (80, 3)
  np.testing.assert_allclose(found[::2], expected, atol=1e-5)
  weights = tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(windows[0]))
  np.testing.assert_allclose(found[1::2], np.repeat(
      tiny_model.probabilities(weights, [tiny_model.encode(short)]), 40,
      axis=0), atol=1e-4)


@pytest.mark.parametrize("flags,words", [
    ({"stride": 31}, "stride is 31; it must be from 1 to 30"),
    ({"stride": 0}, "stride is 0; it must be from 1 to 30"),
    ({"stride": 7}, "stride (there 30, here 7)"),
    ({"long_text": "head_tail"},
     'long_text (there "windows", here "head_tail")'),
    ({"long_text": "head_tail", "stride": 3},
     "--stride needs --long_text=windows"),
    ({"window_pooling": "mean"},
     'window_pooling (there "max", here "mean")'),
    ({"window_pooling": "median"}, "window_pooling"),
    ({"long_text": "sliding"}, "long_text"),
])
def test_another_reading_is_refused(windows, data, flags, words):
  status, stderr = again(data, windows[0], do_predict=True, **flags)
  assert status == 2 and stderr.count("\n") == 1
  assert words in stderr


def test_windows_over_a_directory_of_heads_are_refused_by_name(
    copy, data):
  settings = trained_model.read(copy).settings
  trained_model.write_settings(copy, dict(settings, long_text="truncate_head",
                                      stride=0))
  status, stderr = again(data, copy, do_predict=True, long_text="windows")
  assert status == 2
  assert 'long_text (there "truncate_head", here "windows")' in stderr


@pytest.mark.parametrize("flags,words", [
    ({"stride": 3}, "--stride needs --long_text=windows"),
    ({"long_text": "windows", "stride": 31}, "stride is 31"),
    ({"long_text": "windows", "max_seq_length": 10, "stride": 9},
     "stride is 9; it must be from 1 to 8")])
def test_a_stride_that_cannot_be(bert, data, tmp_path, flags, words):
  status, _, stderr, _ = call(bert, data, tmp_path / "o", **flags)
  assert status == 2 and words in stderr
  assert not (tmp_path / "o").exists()
