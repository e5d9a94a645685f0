# SPDX-License-Identifier: Apache-2.0
"""Tests of experiments/prediction_files.py."""

import gzip
import json

import numpy as np
import pytest

from experiments import prediction_files


GOOD = ('{"id": "x", "text": "t", "labels": [], '
        '"probabilities": {"a": 0.5, "b": 0.25}}')


def write(tmp_path, *lines):
  path = tmp_path / "predictions.jsonl"
  path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
  return str(path)


def line_of(**changes):
  record = json.loads(GOOD)
  record.update(changes)
  return json.dumps(record)


def test_reads_what_a_run_writes(tmp_path):
  found = prediction_files.read(write(
      tmp_path,
      u'{"id": "p-1", "text": "\u4e00\u53e5", "labels": ["c", "a"], '
      u'"true_labels": ["b"], "probabilities": {"c": 0.9, "a": 1, "b": 0}}',
      u'{"id": 7, "text": "two", "labels": [], "true_labels": [], '
      u'"probabilities": {"c": 1e-6, "a": 0.499999, "b": 0.0}, "more": [1]}'))
  assert found.ids == ["p-1", "7"]
  assert found.texts == [u"\u4e00\u53e5", "two"]
  assert found.labels == ["c", "a", "b"]
  assert found.predicted.dtype == found.true.dtype == np.bool_
  assert found.predicted.tolist() == [[True, True, False], [False] * 3]
  assert found.true.tolist() == [[False, False, True], [False] * 3]
  assert found.probabilities.dtype == np.float64
  assert found.probabilities.tolist() == [[0.9, 1, 0], [1e-6, 0.499999, 0]]
  assert found.duplicate_ids == []


def test_order_of_labels_is_the_first_line_s(tmp_path):
  found = prediction_files.read(write(
      tmp_path, GOOD,
      line_of(labels=["a"], probabilities={"b": 0.75, "a": 0.125})))
  assert found.labels == ["a", "b"]
  assert found.probabilities.tolist() == [[0.5, 0.25], [0.125, 0.75]]
  assert found.predicted.tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("changes", [{}, {"true_labels": None}])
def test_without_true_labels(tmp_path, changes):
  found = prediction_files.read(write(tmp_path, GOOD, line_of(**changes)))
  assert found.true is None
  assert found.predicted.shape == (2, 2)


def test_duplicate_ids_stay_and_are_told(tmp_path):
  lines = [line_of(id=name) for name in ("u", "v", "w", "v", "u", "v")]
  found = prediction_files.read(write(tmp_path, *lines))
  assert found.ids == ["u", "v", "w", "v", "u", "v"]
  assert found.duplicate_ids == ["u", "v"]


def test_gzip_and_blank_lines_at_the_end(tmp_path):
  path = tmp_path / "predictions.jsonl.gz"
  with gzip.open(str(path), "wb") as stream:
    stream.write((GOOD + "\r\n" + GOOD + "\n\n\n").encode("utf-8"))
  assert prediction_files.read(str(path)).ids == ["x", "x"]


def test_lone_surrogates_are_replaced(tmp_path):
  found = prediction_files.read(write(tmp_path, (
      '{"id": "\\ud800", "text": "a\\udfffb", "labels": ["\\ud801"], '
      '"probabilities": {"\\ud801": 0.5}}')))
  assert (found.ids, found.texts, found.labels) == (
      [u"\ufffd"], [u"a\ufffdb"], [u"\ufffd"])
  assert found.predicted.tolist() == [[True]]


@pytest.mark.parametrize("bad, message", [
    ('{"id": "x"', "broken JSON at character 11 of the line (Expecting ',' "
                   "delimiter)."),
    ("[1]", "the line holds [1], not an object."),
    (line_of(id=None), "\"id\" is None, not a string or an integer."),
    (line_of(id=True), "\"id\" is True, not a string or an integer."),
    (line_of(text=3), '"text" is 3, not a string.'),
    ('{"id": "x", "text": "t", "labels": []}',
     "there is no key \"probabilities\" (keys: 'id', 'text', 'labels')."),
    ('{"text": "t", "labels": [], "probabilities": {"a": 1}}',
     "there is no key \"id\" (keys: 'text', 'labels', 'probabilities')."),
    ('{"id": "x", "labels": [], "probabilities": {"a": 1}}',
     "there is no key \"text\" (keys: 'id', 'labels', 'probabilities')."),
    ('{"id": "x", "text": "t", "probabilities": {"a": 1}}',
     "there is no key \"labels\" (keys: 'id', 'text', 'probabilities')."),
    (line_of(labels="a"), "\"labels\" is 'a', not a list such as [\"a\", "
                          '"b"].'),
    (line_of(labels=["z"]),
     "\"labels\" has 'z', which is not among the labels of \"probabilities\" "
     "('a', 'b')."),
    (line_of(labels=[["a"]]),
     "\"labels\" has ['a'], which is not among the labels of \"probabilities\" "
     "('a', 'b')."),
    (line_of(labels=["b", "a", "b"]), "\"labels\" has 'b' twice."),
    (line_of(true_labels=["a"]),
     "the line has some \"true_labels\", line 1 has no: give true labels on "
     "all lines or on none."),
    (line_of(probabilities=[0.5]), '"probabilities" is [0.5], not an object '
                                   'such as {"a": 0.5}.'),
    (line_of(probabilities={"a": 0.5}),
     "the probability of 'b' is missing, but line 1 has it; give every line "
     "the same labels."),
    (line_of(probabilities={"a": 0.5, "b": 0.5, "c": 0.5}),
     "there is a probability of 'c', but line 1 has none; give every line the "
     "same labels."),
    (line_of(probabilities={"a": 1.5, "b": 0.5}),
     "the probability of 'a' is 1.5, not in 0..1 (logits are not "
     "probabilities)."),
    (line_of(probabilities={"a": -1, "b": 0.5}),
     "the probability of 'a' is -1, not in 0..1 (logits are not "
     "probabilities)."),
    (line_of(probabilities={"a": 0.5, "b": "0.5"}),
     "the probability of 'b' is '0.5', not a number."),
    (line_of(probabilities={"a": 0.5, "b": True}),
     "the probability of 'b' is True, not a number."),
    (line_of(probabilities={"a": 0.5, "b": None}),
     "the probability of 'b' is None, not a number."),
    (line_of(probabilities={"a": float("nan"), "b": 0.5}),
     "NaN is not JSON."),
    ('{"id": "x", "text": "t", "labels": [], '
     '"probabilities": {"a": 0.5, "b": 1e999}}',
     "the probability of 'b' is inf, not in 0..1 (logits are not "
     "probabilities)."),
    ('{"id": "x", "id": "y", "text": "t", "labels": [], '
     '"probabilities": {"a": 0.5, "b": 0.5}}',
     "key 'id' stands twice in one object."),
    ('{"id": "x", "text": "t", "labels": [], '
     '"probabilities": {"a": 0.5, "b": 0.5, "a": 0.5}}',
     "key 'a' stands twice in one object."),
    ("[" * 100000, "JSON is nested too deeply."),
])
def test_broken_lines_are_named(tmp_path, bad, message):
  path = write(tmp_path, GOOD, bad, GOOD)
  with pytest.raises(ValueError) as error:
    prediction_files.read(path)
  assert str(error.value) == "%s:2: %s" % (path, message)


def test_true_labels_in_the_first_line_alone(tmp_path):
  path = write(tmp_path, line_of(true_labels=["a"]), GOOD)
  with pytest.raises(ValueError) as error:
    prediction_files.read(path)
  assert str(error.value) == (
      "%s:2: the line has no \"true_labels\", line 1 has some: give true "
      "labels on all lines or on none." % path)


def test_unknown_true_label(tmp_path):
  path = write(tmp_path, line_of(true_labels=["a", "q"]))
  with pytest.raises(ValueError) as error:
    prediction_files.read(path)
  assert str(error.value) == (
      "%s:1: \"true_labels\" has 'q', which is not among the labels of "
      "\"probabilities\" ('a', 'b')." % path)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_file(tmp_path, content):
  path = tmp_path / "empty.jsonl"
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    prediction_files.read(str(path))
  assert str(error.value) == (
      "%s: the file is empty; it has no predictions." % path)


def test_no_labels_at_all(tmp_path):
  path = write(tmp_path, line_of(probabilities={}))
  with pytest.raises(ValueError) as error:
    prediction_files.read(path)
  assert str(error.value) == "%s:1: \"probabilities\" is empty." % path


def test_file_that_is_not_there(tmp_path):
  path = str(tmp_path / "none.jsonl")
  with pytest.raises(ValueError) as error:
    prediction_files.read(path)
  assert str(error.value) == (
      "%s: cannot be read (No such file or directory)." % path)
