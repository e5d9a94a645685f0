# SPDX-License-Identifier: Apache-2.0
"""Tests of the predictor's windows, rows of ids, padding and thresholds."""

import json
import os
import types

import numpy as np
import pytest
import tiny_bert
import tiny_model
from tiny_bert import error_of

from multilabel.features import feature_rows
from multilabel.inference import call_deadline
from multilabel.inference import predictor as predictor_of
import predict_session


FITS = 30  # words of a window of tiny_model's 32 ids
LATE = u"the a of " * 15 + u"apple " + u"the a of " * 5
WITHOUT = u"the a of " * 15 + u"plum " + u"the a of " * 5


def features(input_ids, input_mask=None, segment_ids=None):
  return types.SimpleNamespace(
      input_ids=input_ids,
      input_mask=[1] * len(input_ids) if input_mask is None else input_mask,
      segment_ids=[0] * len(input_ids) if segment_ids is None else segment_ids)


@pytest.fixture(scope="module")
def predictor(made):
  with predict_session.SessionPredictor(made[0]) as loaded:
    yield loaded


# Windows.


def windows_of(text, stride):
  """The windows of a text, each as (ids, segment ids)."""
  words = text.split()
  starts = list(range(0, max(len(words) - FITS, 0), stride)) + [
      max(len(words) - FITS, 0)]
  return [tiny_model.encode(u" ".join(words[start:start + FITS]))
          for start in starts]


def pooled(weights, text, stride, pooling):
  rows = tiny_model.probabilities(weights, windows_of(text, stride))
  logits = np.log(rows / (1 - rows))
  logits = logits.max(axis=0) if pooling == "max" else logits.mean(axis=0)
  return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("pooling, stride", [("max", 15), ("mean", 7)])
def test_windows_find_what_comes_late(pooling, stride, tmp_path):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder, long_text="windows", stride=stride,
                            window_pooling=pooling)
  texts = [LATE, u"the apple", WITHOUT, u"see " * FITS, u"see " * (FITS + 1),
           (u"the a of " * 30, u"apple"), u"", u"pear " * 200]
  with predict_session.SessionPredictor(folder, batch_size=3) as loaded:
    result = loaded.predict(texts)
    assert [len(windows) for windows in loaded.encode(texts)] == [
        len(windows_of(text, stride)) if isinstance(text, type(u"")) else 1
        for text in texts]
    np.testing.assert_allclose(
        loaded.predict_encoded(loaded.encode(texts)), result, atol=1e-6)
  for number in (0, 1, 2, 3, 4, 6, 7):
    np.testing.assert_allclose(
        result[number], pooled(weights, texts[number], stride, pooling),
        atol=1e-5)
  # The pair is cut as ever: its longer text loses its end.
  np.testing.assert_allclose(
      result[5], tiny_model.probabilities(
          weights, [tiny_model.encode(u" ".join(texts[5][0].split()[:28]),
                                      u"apple")])[0], atol=1e-5)
  assert np.abs(result[0] - result[2]).max() > 1e-3


def test_what_comes_late_is_cut_off(predictor):
  late, without = predictor.predict([LATE, WITHOUT])
  np.testing.assert_allclose(late, without, atol=1e-6)


@pytest.mark.parametrize("form, kept", [
    ("truncate_tail", LATE.split()[-FITS:]),
    ("head_tail", LATE.split()[:7] + LATE.split()[-23:]),
])
def test_end_and_middle(form, kept, tmp_path):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder, long_text=form)
  with predict_session.SessionPredictor(folder) as loaded:
    np.testing.assert_allclose(
        loaded.predict([LATE]), tiny_model.probabilities(
            weights, [tiny_model.encode(u" ".join(kept))]), atol=1e-5)


def test_text_of_many_windows(tmp_path, monkeypatch):
  """More than are held at a time, and more than fit into a batch."""
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder, long_text="windows", stride=30)
  text = u"the a of is and " * 600
  with predict_session.SessionPredictor(folder) as loaded:
    monkeypatch.setattr(predictor_of, "ROWS_HELD", 20)
    result = loaded.predict([u"apple", text, u"plum", text])
    assert len(loaded.encode([text])[0]) == 100
  want = pooled(weights, text, 30, "max")
  np.testing.assert_allclose(result[1], want, atol=1e-5)
  np.testing.assert_allclose(result[3], want, atol=1e-5)
  np.testing.assert_allclose(
      result[[0, 2]], tiny_model.probabilities(
          weights, [tiny_model.encode(u"apple"), tiny_model.encode(u"plum")]),
      atol=1e-5)


# Rounded lengths.

# The length that each of 0 to 64 is rounded up to.
ROUNDED = list(range(17)) + [
    n for n in range(18, 33, 2) for _ in range(2)] + [
        n for n in range(36, 65, 4) for _ in range(4)]


def test_lengths_are_rounded_up():
  def shape(*lengths):
    batch = feature_rows.pad_batch(
        [features([7] * length) for length in lengths], 61)
    assert all(array.dtype == np.int32 for array in batch.values())
    assert len({array.shape for array in batch.values()}) == 1
    return batch["input_ids"].shape

  assert [shape(length)[1] for length in range(1, 62)] == [
      min(rounded, 61) for rounded in ROUNDED[1:62]]
  assert shape(17, 3) == (2, 18)
  assert shape(57, 61, 2) == (3, 61)
  assert [feature_rows.round_up(length, 512)
          for length in (65, 128, 129, 255, 257, 480, 481, 512)] == [
              72, 128, 144, 256, 288, 480, 512, 512]
  batch = feature_rows.pad_batch(
      [features([3, 4, 5], [1, 0, 1], [0, 1, 1]), features([6])], 64)
  assert batch["input_ids"].tolist() == [[3, 4, 5], [6, 0, 0]]
  assert batch["input_mask"].tolist() == [[1, 0, 1], [1, 0, 0]]
  assert batch["segment_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
  batch = feature_rows.pad_batch([features([5] * 17)], 64)
  for name, value in (("input_ids", 5), ("input_mask", 1), ("segment_ids", 0)):
    assert batch[name].tolist() == [[value] * 17 + [0]]


def test_rounding_changes_no_probability(made, predictor, monkeypatch):
  texts = [u" ".join([u"apple", u"the", u"\u732b"] * 10)[:n * 4]
           for n in range(1, 31)]
  rounded = np.concatenate([predictor.predict([text]) for text in texts])
  for lengths in (1, 64):
    monkeypatch.setattr(feature_rows, "LENGTHS_A_DOUBLING", lengths)
    exact = np.concatenate([predictor.predict([text]) for text in texts])
    np.testing.assert_allclose(rounded, exact, atol=1e-6)
    np.testing.assert_allclose(predictor.predict(texts), exact, atol=1e-6)
  assert rounded.std(axis=0).min() > 0.01


# Ids that a caller made.


def test_predict_features(made, predictor):
  texts = [tiny_model.encode(u"the apple"), tiny_model.encode(u"a", u"pear"),
           tiny_model.encode(u"\u732b " * 25)]
  rows = [features(ids, None, segments) for ids, segments in texts]
  want = tiny_model.probabilities(made[1], texts)
  np.testing.assert_allclose(predictor.predict_features(rows), want, atol=1e-5)
  # Padded, as servers are sent them; as arrays; longer than max_seq_length.
  padded = [features(ids + [9] * 5, [1] * len(ids) + [0] * 5,
                     np.array(segments + [1] * 5))
            for ids, segments in texts]
  np.testing.assert_allclose(
      predictor.predict_features(padded), want, atol=1e-5)
  assert [len(windows[0].input_ids) for windows in predictor.check_features(
      padded)] == [4, 5, 27]
  longer = [([2] + [5] * 50, [0] * 51)]
  np.testing.assert_allclose(
      predictor.predict_features([features(*longer[0][:1])]),
      tiny_model.probabilities(made[1], longer), atol=1e-5)
  assert predictor.predict_features([]).shape == (0, 3)


def test_mask_inside_a_row(predictor):
  """What is masked has a position, but is not read."""
  one, other, third = predictor.predict_features([
      features([2, 5, 6, 7, 3], [1, 1, 0, 1, 1]),
      features([2, 5, 19, 7, 3], [1, 1, 0, 1, 1]),
      features([2, 5, 6, 7, 3])])
  np.testing.assert_allclose(one, other, atol=1e-6)
  assert np.abs(one - third).max() > 1e-3


VOCAB_SIZE = len(tiny_bert.vocabulary())


@pytest.mark.parametrize("row, message", [
    (features([2, VOCAB_SIZE, 3]),
     "row 1: input_ids has 32; it must be from 0 to 31."),
    (features([2, -1, 3]), "row 1: input_ids has -1; it must be from 0 to 31."),
    (features([2, 2**70]), "row 1: input_ids is not a list of integers."),
    (features([2, 1.5]), "row 1: input_ids is not a list of integers."),
    (features([2, "3"]), "row 1: input_ids is not a list of integers."),
    (features([2, None]), "row 1: input_ids is not a list of integers."),
    (features([[2], [2, 3]]),
     "row 1: input_ids is not a list of integers."),
    (features([[2, 3]]), "row 1: input_ids is not a list of integers."),
    (features([True, False]),
     "row 1: input_ids is not a list of integers."),
    (features([2, 3], [1, 2]),
     "row 1: input_mask has 2; it must be from 0 to 1."),
    (features([2, 3], [1, 1], [0, 2]),
     "row 1: segment_ids has 2; it must be from 0 to 1."),
    (features([2, 3], [1], [0, 0, 0]),
     "row 1 has 2 input_ids, 1 input_mask and 3 segment_ids; the numbers must "
     "be equal."),
    (features([2] * 65), "row 1 has 65 input_ids; the model takes at most 64."),
    (features([2, 3], [0, 0]),
     "row 1 has no token: its input_mask is empty, or 0 everywhere."),
    (features([]),
     "row 1 has no token: its input_mask is empty, or 0 everywhere."),
])
def test_wrong_features(row, message, predictor):
  assert error_of(predictor.predict_features, [features([2, 3]), row]) == (
      message)


# From probabilities to labels.

ROWS = np.array([[0.5, 0.7, 0.2], [0.1, 0.2, 0.3], [0.9, 0.9, 0.95]],
                np.float32)


def names(loaded, *arguments, **options):
  numbers = {label: n for n, label in enumerate(tiny_bert.LABELS)}
  return [[numbers[label] for label, _ in row.labels]
          for row in loaded.describe(ROWS, *arguments, **options)]


def test_decision_of_the_directory(tmp_path):
  folder = str(tmp_path / "model")
  tiny_model.make(folder, threshold=[0.55, 0.7, 0.1], top_k=2,
                  always_one_label=True, threshold_kind="tune_per_label")
  with predict_session.SessionPredictor(folder) as loaded:
    assert loaded.decision == ([0.55, 0.7, 0.1], 2, True)
    assert loaded.threshold == [0.55, 0.7, 0.1]
    assert names(loaded) == [[1, 2], [2], [2, 0]]
    assert names(loaded, 0.4) == [[1, 0], [2], [2, 0]]
    assert names(loaded, 0.4, top_k=3) == [[1, 0], [2], [2, 0, 1]]
    assert names(loaded, 0.4, 1, False) == [[1], [], [2]]
    assert names(loaded, always_one_label=False, threshold=1) == [[], [], []]
    assert loaded.decision_for(top_k=1) == ([0.55, 0.7, 0.1], 1, True)


def test_plain_decision(predictor):
  assert predictor.decision == (0.5, None, False)
  assert names(predictor, top_k=1) == [[1], [], [2]]
  assert names(predictor, always_one_label=True) == [[1, 0], [2], [2, 0, 1]]
  assert "top_k is 0" in error_of(predictor.describe, ROWS, top_k=0)


def test_directory_of_the_first_version(made, tmp_path):
  folder = str(tmp_path / "model")
  weights = tiny_model.make(folder)
  path = os.path.join(folder, "model_settings.json")
  settings = json.loads(tiny_bert.read_text(path))
  for key in ("threshold_kind", "top_k", "always_one_label", "long_text",
              "stride", "window_pooling", "fingerprint", "earlier_runs",
              "sha256"):
    del settings[key]
  settings.update(format_version=1, threshold=0.25)
  tiny_bert.write_text(path, json.dumps(settings))
  with predict_session.SessionPredictor(folder) as loaded:
    assert loaded.decision == (0.25, None, False)
    np.testing.assert_allclose(
        loaded.predict([LATE]), tiny_model.probabilities(
            weights, [tiny_model.encode(u" ".join(LATE.split()[:FITS]))]),
        atol=1e-5)


def test_deadline():
  assert call_deadline.Deadline().remaining() is None
  assert 0 < call_deadline.Deadline(9.5).remaining() <= 9.5
  assert call_deadline.Deadline(float("inf")).remaining() == float("inf")
  for timeout in (0, -1, float("-inf")):
    with pytest.raises(TimeoutError, match="not finish within its timeout of"):
      call_deadline.Deadline(timeout).remaining()
  for timeout in ("1", float("nan"), True, [1]):
    assert "it must be a number of seconds" in error_of(
        call_deadline.Deadline, timeout)


# Batches.


def cost(batches, lengths):
  """Tokens of all batches, and `RUN_COST` for each."""
  return sum(feature_rows.RUN_COST + len(numbers) * ROUNDED[max(
      lengths[i] for i in numbers)] for numbers in batches)


def splits(rows, batch_size):
  """All ways to cut a list into runs of neighbours of at most batch_size."""
  if not rows:
    yield []
  for size in range(1, min(len(rows), batch_size) + 1):
    for rest in splits(rows[size:], batch_size):
      yield [rows[:size]] + rest


def test_batches_cost_least():
  assert feature_rows.cut_batches([], 4, 64) == []
  rng = np.random.RandomState(1)
  for _ in range(60):
    lengths = rng.randint(1, 65, rng.randint(1, 11)).tolist()
    batches = feature_rows.cut_batches(lengths, 32, 64)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    ordered = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    assert cost(batches, lengths) == min(
        cost(way, lengths) for way in splits(ordered, 32))


def test_batches_are_small_enough():
  rng = np.random.RandomState(2)
  for batch_size in (1, 3, 32):
    lengths = rng.randint(1, 65, 200).tolist()
    batches = feature_rows.cut_batches(lengths, batch_size, 64)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert max(map(len, batches)) <= batch_size
    longest = [max(lengths[i] for i in numbers) for numbers in batches]
    assert [ROUNDED[n] for n in longest] == sorted(
        [ROUNDED[n] for n in longest], reverse=True)
  # One text more is worth its padding, many short ones are not.
  assert [len(numbers) for numbers in feature_rows.cut_batches(
      [64] + [60] * 5 + [8] * 10, 32, 64)] == [6, 10]
  assert [len(numbers) for numbers in feature_rows.cut_batches(
      [24, 16], 32, 64)] == [2]
