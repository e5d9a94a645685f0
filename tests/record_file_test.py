# SPDX-License-Identifier: Apache-2.0
"""Tests of features on disk: record files, and what makes them valid."""

import binascii
import collections
import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert
from word_records import CLS
from word_records import LABELS
from word_records import SEP
from word_records import example
from word_records import ids
from word_records import read_bytes
from word_records import read_rows
from word_records import words
from word_records import write

from multilabel.common import atomic_files
from multilabel.common import write_errors
from multilabel.features import encoding
from multilabel.features import record_file


def test_records_have_the_original_keys(tmp_path):
  stats = write(tmp_path / "r", [
      example(0, labels=("c", "a"), text=words(2), pair=words(1)),
      example(1, labels=(), text=" "), example(2, text=words(30), labels=None)])
  assert stats == (3, 3, 1, 1)
  found = []
  for record in tf.python_io.tf_record_iterator(str(tmp_path / "r")):
    feature = tf.train.Example.FromString(record).features.feature
    found.append({key: list(feature[key].int64_list.value) for key in feature})
  assert found[0] == {
      "input_ids": [CLS, 4, 5, SEP, 4, SEP], "input_mask": [1] * 6,
      "segment_ids": [0, 0, 0, 0, 1, 1], "label_ids": [0, 2],
      "is_real_example": [1]}
  assert found[1] == {
      "input_ids": [CLS, SEP], "input_mask": [1, 1], "segment_ids": [0, 0],
      "label_ids": [], "is_real_example": [1]}
  assert found[2]["input_ids"] == [CLS] + ids(14) + [SEP]
  assert read_rows(tmp_path / "r") == [
      dict(row, is_real_example=True) for row in found]


def protobuf_bytes(input_ids, segment_ids, label_ids):
  """What `_serialize` is to give, from protobuf's own classes."""
  def feature(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  return tf.train.Example(features=tf.train.Features(feature={
      "input_ids": feature(input_ids),
      "input_mask": feature([1] * len(input_ids)),
      "segment_ids": feature(segment_ids),
      "label_ids": feature(label_ids),
      "is_real_example": feature([1])})).SerializeToString(deterministic=True)


def test_records_are_protobufs_byte_for_byte():
  rng = random.Random(1)
  # Lengths and numbers around those whose varint is a byte longer.
  for length in (0, 1, 2, 41, 60, 63, 64, 100, 126, 127, 128, 129, 512, 9000):
    for most in (1, 127, 128, 16383, 16384, 30521, 2 ** 21, 2 ** 40, 2 ** 62):
      for labels in (0, 1, 4, 127, 130):
        row = ([rng.choice([most, rng.randint(0, most)])
                for _ in range(length)],
               [rng.randint(0, 1) for _ in range(length)],
               sorted(rng.sample(range(300), labels)))
        assert record_file._serialize(*row) == protobuf_bytes(*row)


def test_index_and_manifest(tmp_path):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(20)], fingerprint="print")
  offsets, lengths, texts, sums = np.load(str(path) + ".index.npy")
  assert texts.tolist() == list(range(20))
  assert lengths.tolist() == [i % 7 + 3 for i in range(20)]
  data = read_bytes(path)
  position = 0
  for offset, checksum in zip(offsets, sums):
    assert offset == position
    size, = struct.unpack_from("<Q", data, position)
    assert binascii.crc32(data[position + 12:position + 12 + size]) == checksum
    position += 16 + size
  assert position == len(data)
  manifest = json.loads(tiny_bert.read_text(str(path) + ".json"))
  assert manifest["fingerprint"] == "print"
  assert (manifest["num_examples"], manifest["num_records"]) == (20, 20)
  assert sorted(os.listdir(str(tmp_path))) == ["r", "r.index.npy", "r.json"]


def test_random_access_without_an_index(tmp_path):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(9)])
  expected = read_rows(path)
  os.remove(str(path) + ".index.npy")
  assert read_rows(path) == expected
  records = record_file.RecordFile(str(path))
  assert records.lengths.tolist() == [3, 4, 5, 6, 7, 8, 9, 3, 4]
  records.close()


def test_fixed_length_records_of_the_original(tmp_path):
  path = str(tmp_path / "train.tf_record")

  def int64s(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  with tf.python_io.TFRecordWriter(path) as writer:
    for length, label, real in ((3, 2, 1), (8, 0, 1), (5, 1, 1), (0, 0, 0)):
      padding = [0] * (8 - length)
      features = collections.OrderedDict([
          ("input_ids", int64s(*(list(range(7, 7 + length)) + padding))),
          ("input_mask", int64s(*([1] * length + padding))),
          ("segment_ids", int64s(*([0] + [1] * (length - 1) + padding)[:8])),
          ("label_ids", int64s(label)), ("is_real_example", int64s(real))])
      writer.write(tf.train.Example(features=tf.train.Features(
          feature=features)).SerializeToString())
  rows = read_rows(path)
  assert rows[0] == {"input_ids": [7, 8, 9], "input_mask": [1, 1, 1],
                     "segment_ids": [0, 1, 1], "label_ids": [2],
                     "is_real_example": True}
  assert rows[1]["input_ids"] == list(range(7, 15))
  assert [row["is_real_example"] for row in rows] == [True, True, True, False]


@pytest.mark.parametrize("size", [5, 14, 60])
def test_a_cut_foreign_file_is_an_error(tmp_path, size):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(3)])
  os.remove(str(path) + ".index.npy")
  path.write_bytes(read_bytes(path)[:size])
  with pytest.raises(ValueError, match="truncated or broken at byte 0"):
    record_file.RecordFile(str(path))


def test_a_missing_file_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="nothing is missing"):
    record_file.RecordFile(str(tmp_path / "nothing"))


# Windows: several records of a text.


WINDOWS = encoding.LongText("windows", 4, "max")


def test_a_long_text_is_several_records(tmp_path):
  stats = write(tmp_path / "r", [
      example(0, ("a",), words(3)), example(1, ("b", "c"), words(15)),
      example(2, None, " "), example(3, (), words(6), words(90)),
      example(4, ("c",), words(7))], length=8, long_text=WINDOWS)
  # 15 words are 4 windows of 6, 7 words are 2; the pair is cut.
  assert stats._asdict() == {"num_examples": 5, "num_records": 9,
                             "num_truncated": 1, "num_empty": 1}
  rows = read_rows(tmp_path / "r")
  assert [row["input_ids"][1:-1] for row in rows[1:5]] == [
      ids(6), ids(6, 4), ids(6, 8), ids(6, 9)]
  assert [row["input_ids"][1:-1] for row in rows[7:]] == [ids(6), ids(6, 1)]
  assert [row["label_ids"] for row in rows] == [
      [0], [1, 2], [1, 2], [1, 2], [1, 2], [], [], [2], [2]]
  records = record_file.RecordFile(str(tmp_path / "r"))
  assert records.texts.tolist() == [0, 1, 1, 1, 1, 2, 3, 4, 4]
  assert records.lengths.tolist() == [5, 8, 8, 8, 8, 2, 8, 8, 8]
  assert (len(records), records.num_texts) == (9, 5)
  records.close()
  manifest = json.loads(tiny_bert.read_text(tmp_path / "r.json"))
  assert (manifest["num_examples"], manifest["num_records"]) == (5, 9)
  assert record_file.read_feature_stats(str(tmp_path / "r"), "f") == stats


@pytest.mark.parametrize("num_texts,rows", [
    (0, 0), (1, 1), (2, 5), (3, 6), (4, 7), (5, 9), (6, 9), (None, 9)])
def test_the_first_texts_have_all_their_windows(tmp_path, num_texts, rows):
  write(tmp_path / "r", [
      example(0, text=words(3)), example(1, text=words(15)),
      example(2, text=" "), example(3, text=words(1)),
      example(4, text=words(7))], length=8, long_text=WINDOWS)
  records = record_file.RecordFile(str(tmp_path / "r"), num_texts)
  assert len(records) == len(records.lengths) == len(records.texts) == rows
  assert records.num_texts == min(5 if num_texts is None else num_texts, 5)
  records.close()


def test_workers_change_no_byte_of_windows(tmp_path, monkeypatch):
  monkeypatch.setattr(record_file, "_CHUNK", 3)
  examples = [example(i, LABELS[:i % 4], words(i)) for i in range(40)]
  write(tmp_path / "one", examples, length=8, long_text=WINDOWS)
  write(tmp_path / "two", examples, num_workers=2, length=8,
        long_text=WINDOWS)
  for suffix in ("", ".index.npy", ".json"):
    assert read_bytes(tmp_path / ("one" + suffix)) == read_bytes(
        tmp_path / ("two" + suffix))


# What makes records valid.


def test_stats_are_found_again(tmp_path):
  stats = write(tmp_path / "r", [example(0), example(1, text=" "),
                                 example(2, text=words(50))])
  assert stats == (3, 3, 1, 1)
  assert record_file.read_feature_stats(str(tmp_path / "r"), "f") == stats
  assert record_file.read_feature_stats(str(tmp_path / "r"), "g") is None


@pytest.mark.parametrize("suffix", ["", ".index.npy", ".json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_damaged_records_are_made_anew(tmp_path, suffix, damage):
  write(tmp_path / "r", [example(i) for i in range(10)])
  damaged = tmp_path / ("r" + suffix)
  data = bytearray(read_bytes(damaged))
  if damage == "flip":
    data[len(data) // 2] ^= 1
  elif damage == "cut":
    data = data[:-5]
  elif damage == "empty":
    data = b""
  if damage == "missing":
    os.remove(str(damaged))
  else:
    damaged.write_bytes(bytes(data))
  assert record_file.read_feature_stats(str(tmp_path / "r"), "f") is None
  stats = write(tmp_path / "r", [example(i) for i in range(10)])
  assert record_file.read_feature_stats(str(tmp_path / "r"), "f") == stats


@pytest.mark.parametrize("key,value", [
    ("num_truncated", 7), ("num_records", 9), ("fingerprint", "g"),
    ("index_sha256", "0" * 64)])
def test_a_changed_manifest_is_noticed(tmp_path, key, value):
  write(tmp_path / "r", [example(i) for i in range(10)])
  path = tmp_path / "r.json"
  manifest = json.loads(tiny_bert.read_text(path))
  assert manifest[key] != value
  manifest[key] = value
  tiny_bert.write_text(path, json.dumps(manifest))
  assert record_file.read_feature_stats(str(tmp_path / "r"), "f") is None
  assert record_file.read_feature_stats(str(tmp_path / "r"), "g") is None


def test_damage_while_a_file_is_open_is_noticed(tmp_path):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(10)])
  records = record_file.RecordFile(str(path))
  with open(str(path), "rb+") as writer:
    # The first id of the last record; the index says where that begins.
    writer.seek(os.path.getsize(str(path)) - 8)
    byte = writer.read(1)
    writer.seek(-1, os.SEEK_CUR)
    writer.write(bytes([byte[0] ^ 4]))
  assert len(records.read(8).input_ids) == 4
  with pytest.raises(ValueError, match="is broken at byte .*checksum differs"):
    records.read(9)
  records.close()


@pytest.mark.parametrize("damage", [
    lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:-9],
    lambda data: b"", lambda data: bytes(len(data))])
@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_damaged_index_is_noticed_when_a_file_is_opened(
    tmp_path, damage, with_manifest):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(10)])
  index = tmp_path / "r.index.npy"
  index.write_bytes(damage(read_bytes(index)))
  if not with_manifest:
    os.remove(str(path) + ".json")
  try:
    records = record_file.RecordFile(str(path))
  except ValueError as error:
    assert "r.index.npy is broken" in str(error)
  else:
    assert not with_manifest  # a checksum that differs is found in reading
    with pytest.raises(ValueError, match="checksum differs"):
      records.read(9)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
  @contextlib.contextmanager
  def full(unused_path):
    yield "/dev/full"

  monkeypatch.setattr(atomic_files, "temporary_file", full)
  with pytest.raises(write_errors.StorageError) as raised:
    write(tmp_path / "r", [example(i) for i in range(10)])
  assert str(raised.value) == (
      "%s cannot be written: No space left on device" % (tmp_path / "r"))
  assert os.listdir(str(tmp_path)) == []


def test_a_failure_on_the_way_leaves_no_valid_records(tmp_path):
  def broken():
    yield example(0)
    raise ValueError("line 2 is broken")

  with pytest.raises(ValueError, match="line 2"):
    write(tmp_path / "r", broken())
  assert record_file.read_feature_stats(str(tmp_path / "r"), "f") is None
  assert not (tmp_path / "r").exists()


# Several processes, bounded memory.


def test_workers_change_no_byte(tmp_path, monkeypatch):
  monkeypatch.setattr(record_file, "_CHUNK", 7)
  examples = [example(i, LABELS[:i % 4], words(i % 30 + 1)) for i in range(200)]
  one = write(tmp_path / "one", examples, num_workers=1)
  two = write(tmp_path / "two", examples, num_workers=2)
  # Of the lengths 1 to 30, those above 14 are cut.
  assert one == two == (200, 200, 102, 0)
  for suffix in ("", ".index.npy", ".json"):
    assert read_bytes(tmp_path / ("one" + suffix)) == read_bytes(
        tmp_path / ("two" + suffix))


def test_an_error_in_the_data_ends_the_workers(tmp_path, monkeypatch):
  monkeypatch.setattr(record_file, "_CHUNK", 2)

  def broken():
    for i in range(9):
      yield example(i)
    raise ValueError("line 10 is broken")

  with pytest.raises(ValueError, match="line 10"):
    write(tmp_path / "r", broken(), num_workers=2)


def test_few_examples_need_no_workers(monkeypatch):
  assert record_file.choose_num_workers(19999) == 1
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5},
                      raising=False)
  assert record_file.choose_num_workers(20000) == 3


def test_examples_are_not_kept(tmp_path):
  alive = weakref.WeakSet()
  most = [0]

  def generate():
    for i in range(10000):
      one = example(i)
      alive.add(one)
      if i % 500 == 0:
        most[0] = max(most[0], len(alive))
      yield one

  assert write(tmp_path / "r", generate()).num_examples == 10000
  assert most[0] <= 3


MEMORY_SCRIPT = """
import functools, resource, sys, tempfile, os
from multilabel.features import input_pipeline, record_file
import word_records as t
serialize = functools.lru_cache()(lambda n: b"x" * n)
# Protocol buffers would take most of the time and none of the memory.
record_file._serialize = lambda ids, segments, labels: serialize(len(ids))
def peak(count):
  path = os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "r")
  t.write(path, (t.example(i) for i in range(count)))
  lengths = record_file.RecordFile(path).lengths
  assert sum(map(len, input_pipeline.epoch_batches(lengths, 32, 0, 0))) == count
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few = peak(5000)
print((peak(200000) - few) // 1024)
"""


def test_memory_for_200000_examples_is_bounded(tmp_path):
  if sys.platform != "linux":
    pytest.skip("ru_maxrss is in KiB on Linux")
  output = subprocess.check_output(
      [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path)],
      env=dict(os.environ, PYTHONPATH=os.pathsep.join(
          [tiny_bert.ROOT, os.path.dirname(os.path.abspath(__file__))])))
  # 200,000 lists of features would take some 200 MB; numbers of batches of an
  # epoch, 16 bytes of index an example, and the heap's slack are left.
  assert int(output.decode().split()[-1]) < 40
