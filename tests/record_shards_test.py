# SPDX-License-Identifier: Apache-2.0
"""Shards are read as the one file; a missing, extra or cut one is named."""

import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

from multilabel.common import atomic_files
from multilabel.features import input_pipeline
from multilabel.features import record_file
from multilabel.features import record_shards
import run_multilabel_classifier


def split(path, target, num_shards):
  """Writes a record file's texts in shards: what scale.make_features leaves."""
  index = np.load(path + ".index.npy")
  lengths, texts = index[1], index[2]
  records = list(tf.io.tf_record_iterator(path))
  fingerprint = atomic_files.read_sealed(path + ".json")["fingerprint"]
  num_texts = int(texts[-1]) + 1
  rows = [[] for _ in range(num_texts)]
  for record, length, text in zip(records, lengths, texts):
    rows[text].append((record, int(length)))
  bounds = [i * num_texts // num_shards for i in range(num_shards + 1)]
  for number in range(num_shards):
    record_file.write_rows(
        [(windows, False, False)
         for windows in rows[bounds[number]:bounds[number + 1]]],
        record_shards.shard_path(target, number, num_shards), fingerprint,
        first_example=bounds[number])


def call(*arguments):
  status, _, stderr, log = tiny_bert.call(run_multilabel_classifier, *arguments)
  return status, stderr, log


@pytest.fixture(scope="module")
def whole(bert, tmp_path_factory):
  """(data, settings, output_dir) of a run with the one file."""
  folder = tmp_path_factory.mktemp("whole")
  data = tiny_bert.make_data(folder / "data", (37, 5, 5))
  settings = {"num_train_epochs": 2, "long_text": "windows", "stride": 4,
              "max_seq_length": 10}
  status, stderr, _ = call(tiny_bert.arguments(
      bert, data, str(folder / "out"), **settings))
  assert status == 0, stderr
  return data, settings, str(folder / "out")


def sharded_dir(whole, folder, num_shards=4):
  os.makedirs(str(folder))
  # scale.make_features has locked it.
  (folder / ".lock").write_text(u"pid 1 on here")
  split(os.path.join(whole[2], "train.tf_record"),
        str(folder / "train.tf_record"), num_shards)
  return str(folder)


def test_the_same_weights_as_from_one_file(whole, bert, tmp_path):
  data, settings, output_dir = whole
  sharded = sharded_dir(whole, tmp_path / "out")
  status, stderr, log = call(tiny_bert.arguments(bert, data, sharded,
                                                 **settings))
  assert status == 0, stderr
  assert any("Features of train: found in" in line for line in log)
  assert not os.path.exists(os.path.join(sharded, "train.tf_record"))
  one, other = [tiny_bert.read_weights(tf.train.latest_checkpoint(folder))
                for folder in (output_dir, sharded)]
  assert sorted(one) == sorted(other)
  for name in one:
    np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("name", [
    "train.tf_record", "train.tf_record-00000-of-00004",
    "train.tf_record-?????-of-00004", "train.tf_record-*-of-*"])
def test_the_batches_are_those_of_one_file(whole, tmp_path, name):
  sharded = sharded_dir(whole, tmp_path / "out")
  batches = []
  for path in (os.path.join(whole[2], "train.tf_record"),
               os.path.join(sharded, name)):
    records = record_shards.open_records(path)
    assert len(records) > records.num_texts == 37
    batches.append(list(input_pipeline.train_batches(
        records, 8, 5, 3, 30, 3)))
    records.close()
  assert len(batches[0]) == len(batches[1]) == 27
  for one, other in zip(*batches):
    assert sorted(one) == sorted(other)
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])
  # The first texts, as a sample of train is taken.
  first = record_shards.open_records(os.path.join(sharded, name), 20)
  other = record_shards.open_records(
      os.path.join(whole[2], "train.tf_record"), 20)
  assert first.num_texts == 20
  np.testing.assert_array_equal(first.texts, other.texts)
  np.testing.assert_array_equal(first.lengths, other.lengths)
  first.close()
  other.close()


def test_an_input_fn_reads_them(whole, tmp_path):
  sharded = sharded_dir(whole, tmp_path / "out")
  input_fn = input_pipeline.file_based_input_fn_builder(
      os.path.join(sharded, "train.tf_record-?????-of-00004"), 10, False, False)
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(
        input_fn({"batch_size": 16})).get_next()
    rows = 0
    with pytest.raises(tf.errors.OutOfRangeError):
      while True:
        rows += len(session.run(batch)["input_ids"])
  records = record_shards.open_records(os.path.join(sharded,
                                                     "train.tf_record"))
  assert rows == len(records)
  records.close()


def remove(shards):
  os.remove(shards + "-00002-of-00004")


def add(shards):
  shutil.copy(shards + "-00002-of-00004", shards + "-00004-of-00004")


def add_of_other_set(shards):
  shutil.copy(shards + "-00002-of-00004", shards + "-00002-of-00005")


def cut(shards):
  with open(shards + "-00002-of-00004", "rb+") as writer:
    writer.truncate(os.path.getsize(writer.name) - 3)


def append(shards):
  with open(shards + "-00002-of-00004", "ab") as writer:
    writer.write(b"\0" * 20)


def empty(shards):
  with open(shards + "-00002-of-00004", "wb"):
    pass


def swap(shards):
  for suffix in ("", ".json", ".index.npy"):
    os.rename(shards + "-00002-of-00004" + suffix, shards + "x")
    os.rename(shards + "-00001-of-00004" + suffix,
              shards + "-00002-of-00004" + suffix)
    os.rename(shards + "x", shards + "-00001-of-00004" + suffix)


def lose_manifest(shards):
  os.remove(shards + "-00002-of-00004.json")


def beside_whole(shards):
  shutil.copy(shards + "-00002-of-00004", shards)


@pytest.mark.parametrize("harm, named, message", [
    (remove, "-00002-of-00004", "is missing: there are 3 of 4 shards"),
    (add, "-00004-of-00004", "does not belong to the set of 4 shards"),
    (add_of_other_set, "-00002-of-00005",
        "does not belong to the set of 4 shards"),
    (cut, "-00002-of-00004", "is truncated or broken at byte"),
    (append, "-00002-of-00004", "its index says"),
    (empty, "-00002-of-00004", "is truncated or broken at byte"),
    (swap, "-00001-of-00004", "begins with example 18, but 9 examples come "
                              "before"),
    (lose_manifest, "-00002-of-00004.json", "is missing"),
    (beside_whole, "train.tf_record", "exists beside its shards"),
])
def test_a_shard_that_is_not_as_it_should_be(
    whole, bert, tmp_path, harm, named, message):
  data, settings, _ = whole
  sharded = sharded_dir(whole, tmp_path / "out")
  harm(os.path.join(sharded, "train.tf_record"))
  status, stderr, _ = call(tiny_bert.arguments(bert, data, sharded, **settings))
  assert status == 2
  assert named in stderr and message in stderr
  assert stderr.count("\n") == 1


def test_shards_of_other_settings(whole, bert, tmp_path):
  data, settings, _ = whole
  sharded = sharded_dir(whole, tmp_path / "out")
  status, stderr, _ = call(tiny_bert.arguments(
      bert, data, sharded, **dict(settings, stride=3)))
  assert status == 2
  assert "-00000-of-00004 was made from other data or settings" in stderr
