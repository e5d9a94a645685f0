# SPDX-License-Identifier: Apache-2.0
"""Tests of batches: their order, their padding, how they reach the graph."""

import functools
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from word_records import CLS
from word_records import LABELS
from word_records import SEP
from word_records import TOKENIZER
from word_records import example
from word_records import words
from word_records import write

from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.features import input_pipeline
from multilabel.features import record_file


# Batches for the graph.


def read_dataset(input_fn, **params):
  with tf.Graph().as_default(), tf.Session() as session:
    dataset = input_fn(params)
    row = tf.data.make_one_shot_iterator(dataset).get_next()
    batches = []
    try:
      while True:
        batches.append(session.run(row))
    except tf.errors.OutOfRangeError:
      return batches


def test_input_fn_builder_reads_once_in_order():
  features = encoding.convert_examples_to_features(
      [example(i, labels=("b",) * (i % 2)) for i in range(5)], LABELS, 16,
      TOKENIZER)
  read = functools.partial(input_pipeline.input_fn_builder, features, 16)
  batches = read_dataset(read(False, False, num_labels=3), batch_size=2)
  assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 1]
  assert batches[0]["input_ids"].tolist() == [[CLS, 4, SEP, 0],
                                              [CLS, 4, 5, SEP]]
  assert batches[0]["input_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
  assert batches[0]["segment_ids"].tolist() == [[0] * 4] * 2
  assert batches[0]["label_ids"].tolist() == [[0, 0, 0], [0, 1, 0]]
  assert batches[0]["label_ids"].dtype == np.float32
  assert batches[2]["input_ids"].tolist() == [[CLS, 4, 5, 6, 7, 8, SEP]]
  full = read_dataset(read(False, True), batch_size=2)
  assert [len(batch["input_ids"]) for batch in full] == [2, 2]
  assert "label_ids" not in full[0]


@pytest.mark.filterwarnings("ignore:To make it possible to preserve")
def test_no_tuner_that_closing_a_session_would_wait_for():
  with tf.Graph().as_default():
    options = input_pipeline.input_fn_builder(
        [], 16, False, False)({"batch_size": 2}).options()
  if hasattr(options, "autotune"):
    assert options.autotune.enabled is False
  else:
    assert options.experimental_optimization.autotune is False


def test_file_based_input_fn_trains_from_any_step(tmp_path):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(11)])
  input_fn = input_pipeline.file_based_input_fn_builder(
      str(path), 16, True, False, num_labels=3, seed=3, num_steps=9)
  everything = read_dataset(input_fn, batch_size=4)
  assert len(everything) == 9
  tail = read_dataset(input_fn, batch_size=4, first_step=5)
  assert len(tail) == 4
  for batch, expected in zip(tail, everything[5:]):
    for key in expected:
      assert batch[key].tolist() == expected[key].tolist()


def test_input_fn_refuses_records_longer_than_asked(tmp_path):
  write(tmp_path / "r", [example(0, text=words(9))])
  input_fn = input_pipeline.file_based_input_fn_builder(
      str(tmp_path / "r"), 8, False, False)
  with pytest.raises(tf.errors.OpError, match="11 tokens.*seq_length 8"):
    read_dataset(input_fn, batch_size=1)


def test_fixed_length_records_of_the_original(tmp_path):
  path = str(tmp_path / "r")

  def int64s(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  with tf.python_io.TFRecordWriter(path) as writer:
    for length, label in ((3, 2), (8, 0), (5, 1), (1, 1)):
      mask = [1] * length + [0] * (8 - length)
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          "input_ids": int64s(*[7 * i for i in mask]),
          "input_mask": int64s(*mask), "segment_ids": int64s(*([0] * 8)),
          "label_ids": int64s(label), "is_real_example": int64s(1)
      })).SerializeToString())
  batches = read_dataset(input_pipeline.file_based_input_fn_builder(
      path, 8, False, False, num_labels=3), batch_size=3)
  assert batches[0]["label_ids"].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
  assert batches[0]["input_ids"].shape == (3, 8)
  assert batches[0]["input_ids"][0].tolist() == [7] * 3 + [0] * 5
  assert batches[1]["input_ids"].tolist() == [[7]]


def write_foreign(path, rows):
  """Records whose `label_ids` are as given; no index."""
  with tf.python_io.TFRecordWriter(path) as writer:
    for row in rows:
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          key: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
          for key, value in (("input_ids", [7, 8, 0]), ("label_ids", row),
                             ("input_mask", [1, 1, 0]),
                             ("segment_ids", [0, 0, 0]),
                             ("is_real_example", [1]))
      })).SerializeToString())


def read_labels(path, num_labels, is_training=False):
  batches = read_dataset(input_pipeline.file_based_input_fn_builder(
      path, 8, is_training, False, num_labels=num_labels,
      num_steps=2 if is_training else None), batch_size=2)
  return [row for batch in batches for row in batch["label_ids"].tolist()]


@pytest.mark.parametrize("name", ["r", "r-00000-of-00001"])
@pytest.mark.parametrize("rows", [
    [[0, 1, 1], [0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]],
    [[1, 1], [0, 1]], [[1, 0]], [[1], [0]], [[1], [1]],
])
def test_records_of_rows_of_zeros_and_ones(tmp_path, name, rows):
  path = str(tmp_path / name)
  write_foreign(path, rows)
  assert read_labels(path, len(rows[0])) == rows
  found = read_labels(path, len(rows[0]), is_training=True)
  assert sorted(found) == sorted((rows * 9)[:len(found)])


@pytest.mark.parametrize("rows, num_labels", [
    ([[0, 1, 1], [0, 0, 0]], 4),  # of another number of labels
    ([[0, 1, 1], [0, 0]], 3),
    ([[0, 1, 2], [0, 0, 0]], 3),
    ([[0, 1, -1], [0, 0, 0]], 3),
    ([[2], [3]], 3),
    ([[-1], [1]], 3),
    ([[0, 2], [1]], 3),  # label numbers, which an index would say
    ([[], [1]], 3),
    ([[], []], 3),  # labels of another type, say
    ([[0, 1], [0, 1]], 2),  # may be both
    ([[0], [0]], 1),
])
def test_records_whose_labels_may_be_anything(tmp_path, rows, num_labels):
  path = str(tmp_path / "r")
  write_foreign(path, rows)
  with pytest.raises(Exception) as error:
    read_labels(path, num_labels)
  assert ("record file %s has no r.index.npy, and its label_ids are neither "
          "rows of %d zeros and ones nor one class number each; restore its "
          "index, or rebuild it." % (path, num_labels)) in str(error.value)
  # Without labels there is nothing to be told.
  batches = read_dataset(input_pipeline.file_based_input_fn_builder(
      path, 8, False, False), batch_size=2)
  assert batches[0]["input_ids"].tolist() == [[7, 8]] * 2


def test_own_records_are_label_numbers(tmp_path):
  path = str(tmp_path / "r")
  record_file.file_based_convert_examples_to_features(
      [example(i, labels=("x", "y")) for i in range(2)], ["x", "y"], 8,
      TOKENIZER, path)
  assert read_labels(path, 2) == [[1, 1]] * 2
  os.remove(path + ".index.npy")
  with pytest.raises(Exception) as error:
    read_labels(path, 2)
  assert "restore its index" in str(error.value)


# The batches themselves.


def test_make_batch():
  rows = [encoding.InputFeatures([2, 9, 3], [1, 1, 1], [0, 1, 1], [2, 0]),
          encoding.InputFeatures([2, 3], [1, 1], [0, 0], [])]
  batch = feature_rows.make_batch(rows, 4)
  assert {key: value.tolist() for key, value in batch.items()} == {
      "input_ids": [[2, 9, 3], [2, 3, 0]],
      "input_mask": [[1, 1, 1], [1, 1, 0]],
      "segment_ids": [[0, 1, 1], [0, 0, 0]],
      "is_real_example": [1, 1],
      "label_ids": [[1, 0, 1, 0], [0, 0, 0, 0]]}
  assert {key: value.dtype.name for key, value in batch.items()} == {
      "input_ids": "int32", "input_mask": "int32", "segment_ids": "int32",
      "is_real_example": "int32", "label_ids": "float32"}
  assert sorted(feature_rows.make_batch(rows)) == [
      "input_ids", "input_mask", "segment_ids"]


def test_batches_by_length():
  batches = feature_rows.batches_by_length([3, 9, 1, 9, 5], 2)
  assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
  assert [batch.tolist() for batch in feature_rows.batches_by_length(
      [3, 9], 100)] == [[1, 0]]


@pytest.mark.parametrize("count,batch_size", [
    (1, 1), (1, 8), (7, 3), (100, 7), (1000, 4), (333, 1000)])
def test_an_epoch_has_each_example_once(count, batch_size):
  lengths = np.arange(count) % 13 + 2
  batches = input_pipeline.epoch_batches(lengths, batch_size, 5, 0)
  assert sorted(np.concatenate(batches).tolist()) == list(range(count))
  sizes = sorted(len(batch) for batch in batches)
  assert len(sizes) == -(-count // batch_size)
  assert sizes[1:] == [batch_size] * (len(sizes) - 1)
  assert sizes[0] == (count - 1) % batch_size + 1


def test_an_epoch_is_a_function_of_seed_and_epoch():
  lengths = np.arange(100) % 13 + 2

  def order(seed, epoch):
    return [batch.tolist() for batch in input_pipeline.epoch_batches(
        lengths, 8, seed, epoch)]

  assert order(1, 0) == order(1, 0)
  assert order(2 ** 32 - 1, 10 ** 6) == order(2 ** 32 - 1, 10 ** 6)
  several = [order(1, 0), order(1, 1), order(2, 0), order(0, 1)]
  assert len(set(map(str, several))) == 4


def test_no_epoch_repeats_the_batches_of_another():
  for count in (64, 4000):
    lengths = np.arange(count) + 3  # all differ: sorting leaves no choice
    contents = [{frozenset(batch.tolist()) for batch in
                 input_pipeline.epoch_batches(lengths, 8, 1, epoch)}
                for epoch in range(4)]
    assert all(len(one) == count // 8 for one in contents)
    assert len(set.union(*contents)) > 0.9 * 4 * count // 8


def test_a_batch_has_texts_of_like_length():
  lengths = np.random.RandomState(0).randint(3, 129, 3200)
  batches = input_pipeline.epoch_batches(lengths, 32, 1, 0)
  padded = sum(len(batch) * lengths[batch].max() for batch in batches)
  assert padded < 1.05 * lengths.sum()  # at random it would be about 1.9
  first = [lengths[batch].mean() for batch in batches[:20]]
  assert np.std(first) > 15  # the batches do not come by length


@pytest.mark.parametrize("first_step", [0, 1, 2, 3, 7, 8])
def test_train_batches_go_on_where_they_stopped(tmp_path, first_step):
  write(tmp_path / "r", [example(i, LABELS[:i % 4]) for i in range(10)])
  records = record_file.RecordFile(str(tmp_path / "r"))
  everything = list(input_pipeline.train_batches(records, 4, 1, 0, 8, 3))
  assert [len(batch["input_ids"]) for batch in everything].count(2) >= 2
  tail = list(input_pipeline.train_batches(records, 4, 1, first_step, 8, 3))
  assert len(tail) == 8 - first_step
  for batch, expected in zip(tail, everything[first_step:]):
    for key in expected:
      assert batch[key].tolist() == expected[key].tolist()
  records.close()


def test_drop_remainder_leaves_out_the_smaller_batch(tmp_path):
  write(tmp_path / "r", [example(i) for i in range(10)])
  records = record_file.RecordFile(str(tmp_path / "r"))
  batches = list(input_pipeline.train_batches(
      records, 4, 1, 0, 9, None, drop_remainder=True))
  assert [len(batch["input_ids"]) for batch in batches] == [4] * 9
  with pytest.raises(ValueError, match="10 examples do not fill a batch of 11"):
    list(input_pipeline.train_batches(
        records, 11, 1, 0, 9, None, drop_remainder=True))
  records.close()


# Windows of prediction.


@pytest.mark.parametrize("batch_size,window", [
    (1, 4), (3, 4), (100, 4), (2, 99)])
def test_predict_windows_hold_all_in_order(tmp_path, batch_size, window):
  write(tmp_path / "r", [example(i, LABELS[:i % 4]) for i in range(10)])
  records = record_file.RecordFile(str(tmp_path / "r"))
  found = {}
  starts = []
  for part in input_pipeline.predict_windows(records, batch_size, 3, window):
    starts.append((part.start, part.size))
    assert part.num_rows == part.size
    assert part.first_rows.tolist() == list(range(part.size))
    for numbers, batch in part.batches:
      assert len(numbers) <= batch_size
      for number, row in zip(numbers, batch["label_ids"]):
        assert part.start + number not in found and number < part.size
        found[part.start + number] = row.tolist()
  assert found == {i: [float(j < i % 4) for j in range(3)] for i in range(10)}
  assert starts == ([(0, 4), (4, 4), (8, 2)] if window == 4 else [(0, 10)])
  records.close()


@pytest.mark.parametrize("batch_size,window", [
    (1, 1), (3, 2), (2, 5), (100, 3), (7, 99)])
def test_predict_windows_keep_the_rows_of_a_text_together(
    tmp_path, batch_size, window):
  counts = [1, 30, 7, 6, 2, 13, 8, 31]  # words of each text, 6 fit
  long_text = encoding.LongText("windows", 5, "max")
  write(tmp_path / "r", [example(i, LABELS[:i % 4], words(count, 100 * i))
                         for i, count in enumerate(counts)],
        length=8, long_text=long_text)
  records = record_file.RecordFile(str(tmp_path / "r"))
  texts = []
  for part in input_pipeline.predict_windows(records, batch_size, 3, window):
    assert part.start == len(texts)
    rows = {}
    previous = float("inf")
    for numbers, batch in part.batches:
      assert len(numbers) <= batch_size
      lengths = batch["input_mask"].sum(axis=1)
      assert lengths.max() <= previous  # a batch holds texts of like length
      previous = lengths.min()
      for number, ids_of, mask in zip(numbers, batch["input_ids"],
                                      batch["input_mask"]):
        assert number not in rows
        rows[number] = ids_of[:mask.sum()].tolist()
    assert sorted(rows) == list(range(part.num_rows))
    assert len(part.first_rows) == part.size
    ends = part.first_rows.tolist()[1:] + [part.num_rows]
    for first, end in zip(part.first_rows, ends):
      texts.append([rows[i] for i in range(first, end)])
  assert texts == [
      [row for row, _ in encoding.encode_windows(
          TOKENIZER, words(count, 100 * i), None, 8, long_text)[0]]
      for i, count in enumerate(counts)]
  assert [len(text) for text in texts] == [1, 6, 2, 1, 1, 3, 2, 6]
  records.close()


def test_a_training_step_takes_windows(tmp_path):
  """A window is an example: steps and epochs count windows."""
  write(tmp_path / "r", [example(0, ("b",), words(30)),
                         example(1, (), words(2))], length=8,
        long_text=encoding.LongText("windows", 6, "max"))
  records = record_file.RecordFile(str(tmp_path / "r"))
  batches = list(input_pipeline.train_batches(records, 4, 1, 0, 2, 3))
  assert [len(batch["input_ids"]) for batch in batches] in ([4, 2], [2, 4])
  labels = np.concatenate([batch["label_ids"] for batch in batches])
  assert sorted(labels.tolist()) == [[0, 0, 0]] + [[0, 1, 0]] * 5
  records.close()
