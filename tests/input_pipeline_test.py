# SPDX-License-Identifier: Apache-2.0
"""Tests of features, record files, their fingerprints, and batches."""

import collections
import functools
import json
import os
import struct
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import input_pipeline
import processors
import tiny_bert
import tokenization

LABELS = ["a", "b", "c"]


class WordTokenizer(object):
  """A word is a token; `encode` is all that the pipeline may ask for."""

  def __init__(self, words=1000):
    self.vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    self.vocab.update(("w%d" % i, 4 + i) for i in range(words))

  def encode(self, text, max_tokens=None):
    return [self.vocab[word] for word in text.split()][:max_tokens]


TOKENIZER = WordTokenizer()
CLS, SEP = 2, 3


def words(count, first=0):
  return " ".join("w%d" % (first + i) for i in range(count))


def ids(count, first=0):
  return [4 + first + i for i in range(count)]


def example(number, labels=("a",), text=None, pair=None):
  return processors.InputExample(
      "id-%d" % number, text or words(number % 7 + 1), pair, labels)


def write(path, examples, fingerprint="f", num_workers=1, length=16):
  return input_pipeline.file_based_convert_examples_to_features(
      iter(examples), LABELS, length, TOKENIZER, str(path), fingerprint,
      num_workers)


def rows_of(path):
  records = input_pipeline.RecordFile(str(path))
  try:
    return [vars(records.read(i)) for i in range(len(records))]
  finally:
    records.close()


def read_bytes(path):
  with open(str(path), "rb") as reader:
    return reader.read()


# Text to ids.


def test_single_text():
  assert input_pipeline.encode_text(TOKENIZER, words(3), None, 8) == (
      [CLS, 4, 5, 6, SEP], [0] * 5, False)


def test_pair():
  assert input_pipeline.encode_text(TOKENIZER, words(2), words(3, 10), 9) == (
      [CLS, 4, 5, SEP, 14, 15, 16, SEP], [0, 0, 0, 0, 1, 1, 1, 1], False)


def test_exact_fit_is_not_truncated_and_one_more_is():
  fits = input_pipeline.encode_text(TOKENIZER, words(6), None, 8)
  assert fits == ([CLS] + ids(6) + [SEP], [0] * 8, False)
  cut = input_pipeline.encode_text(TOKENIZER, words(7), None, 8)
  assert cut == ([CLS] + ids(6) + [SEP], [0] * 8, True)
  pair = input_pipeline.encode_text(TOKENIZER, words(3), words(2, 9), 8)
  assert pair[2] is False and len(pair[0]) == 8
  pair = input_pipeline.encode_text(TOKENIZER, words(3), words(3, 9), 8)
  assert pair == ([CLS] + ids(3) + [SEP] + ids(2, 9) + [SEP],
                  [0] * 5 + [1] * 3, True)


def test_empty_texts():
  assert input_pipeline.encode_text(TOKENIZER, "", None, 8) == (
      [CLS, SEP], [0, 0], False)
  assert input_pipeline.encode_text(TOKENIZER, "", "", 8) == (
      [CLS, SEP, SEP], [0, 0, 1], False)
  assert input_pipeline.encode_text(TOKENIZER, words(1), "", 4) == (
      [CLS, 4, SEP, SEP], [0, 0, 0, 1], False)


def plain_truncation(count_a, count_b, room):
  """How many tokens of each text stay: one at a time off the longer one."""
  while count_a + count_b > room:
    if count_a > count_b:
      count_a -= 1
    else:
      count_b -= 1
  return count_a, count_b


@pytest.mark.parametrize("length", [4, 5, 6, 7, 8, 31, 32])
def test_longest_first_truncation_is_the_plain_one(length):
  for count_a in (0, 1, 2, 3, 7, 13, 14, 15, 29, 30, 31, 40, 900):
    for count_b in (0, 1, 2, 5, 12, 15, 16, 28, 29, 30, 33, 1000):
      keep_a, keep_b = plain_truncation(count_a, count_b, length - 3)
      assert input_pipeline.encode_text(
          TOKENIZER, words(count_a), words(count_b), length) == (
              [CLS] + ids(keep_a) + [SEP] + ids(keep_b) + [SEP],
              [0] * (keep_a + 2) + [1] * (keep_b + 1),
              count_a + count_b > length - 3)


def test_a_huge_text_is_its_beginning(tmp_path):
  bert = tiny_bert.make_bert(tmp_path)
  tokenizer = tokenization.FullTokenizer(os.path.join(bert, "vocab.txt"))
  long_text = u"apple \u732b \U0001f600 pear " * 50000
  expected = tokenizer.encode(u"apple \u732b \U0001f600 pear " * 8)[:30]
  input_ids, segment_ids, truncated = input_pipeline.encode_text(
      tokenizer, long_text, None, 32)
  assert input_ids[1:-1] == expected and truncated
  assert segment_ids == [0] * 32
  assert 1 not in input_ids  # nothing of it is [UNK]


# The original's functions.


def test_convert_single_example_pads():
  features = input_pipeline.convert_single_example(
      0, example(1, labels=("c", "a"), text=words(2)), LABELS, 6, TOKENIZER)
  assert features.input_ids == [CLS, 4, 5, SEP, 0, 0]
  assert features.input_mask == [1, 1, 1, 1, 0, 0]
  assert features.segment_ids == [0] * 6
  assert features.label_ids == [0, 2]
  assert features.is_real_example is True


def test_padding_input_example_is_not_real():
  features = input_pipeline.convert_single_example(
      5, input_pipeline.PaddingInputExample(), LABELS, 4, TOKENIZER)
  assert features.input_ids == [0, 0, 0, 0]
  assert features.input_mask == [0, 0, 0, 0]
  assert features.segment_ids == [0, 0, 0, 0]
  assert features.label_ids == []
  assert features.is_real_example is False


def test_an_example_of_the_original_has_one_label():
  Original = collections.namedtuple("Original", "guid text_a text_b label")
  features = input_pipeline.convert_examples_to_features(
      [Original("1", words(1), words(1, 5), "b"),
       Original("2", words(1), None, None)], LABELS, 8, TOKENIZER)
  assert [row.label_ids for row in features] == [[1], []]
  assert features[0].segment_ids == [0, 0, 0, 1, 1, 0, 0, 0]


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
  features = input_pipeline.convert_examples_to_features(
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


# Record files.


def test_records_have_the_original_keys(tmp_path):
  stats = write(tmp_path / "r", [
      example(0, labels=("c", "a"), text=words(2), pair=words(1)),
      example(1, labels=(), text=" "), example(2, text=words(30), labels=None)])
  assert stats == (3, 1, 1)
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
  assert rows_of(tmp_path / "r") == [
      dict(row, is_real_example=True) for row in found]


def test_index_and_manifest(tmp_path):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(20)], fingerprint="print")
  offsets, lengths = np.load(str(path) + ".index.npy")
  assert lengths.tolist() == [i % 7 + 3 for i in range(20)]
  data = read_bytes(path)
  position = 0
  for offset in offsets:
    assert offset == position
    position += 16 + struct.unpack_from("<Q", data, position)[0]
  assert position == len(data)
  manifest = json.loads(tiny_bert.read_text(str(path) + ".json"))
  assert manifest["fingerprint"] == "print"
  assert manifest["num_examples"] == 20
  assert sorted(os.listdir(str(tmp_path))) == ["r", "r.index.npy", "r.json"]


def test_random_access_without_an_index(tmp_path):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(9)])
  expected = rows_of(path)
  os.remove(str(path) + ".index.npy")
  assert rows_of(path) == expected
  records = input_pipeline.RecordFile(str(path))
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
  rows = rows_of(path)
  assert rows[0] == {"input_ids": [7, 8, 9], "input_mask": [1, 1, 1],
                     "segment_ids": [0, 1, 1], "label_ids": [2],
                     "is_real_example": True}
  assert rows[1]["input_ids"] == list(range(7, 15))
  assert [row["is_real_example"] for row in rows] == [True, True, True, False]
  batches = read_dataset(input_pipeline.file_based_input_fn_builder(
      path, 8, False, False, num_labels=3), batch_size=3)
  assert batches[0]["label_ids"].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
  assert batches[0]["input_ids"].shape == (3, 8)


@pytest.mark.parametrize("size", [5, 14, 60])
def test_a_cut_foreign_file_is_an_error(tmp_path, size):
  path = tmp_path / "r"
  write(path, [example(i) for i in range(3)])
  os.remove(str(path) + ".index.npy")
  path.write_bytes(read_bytes(path)[:size])
  with pytest.raises(ValueError, match="cut off or broken at byte 0"):
    input_pipeline.RecordFile(str(path))


def test_a_missing_file_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="nothing is missing"):
    input_pipeline.RecordFile(str(tmp_path / "nothing"))


# What makes records valid.


def test_stats_are_found_again(tmp_path):
  stats = write(tmp_path / "r", [example(0), example(1, text=" "),
                                 example(2, text=words(50))])
  assert stats == (3, 1, 1)
  assert input_pipeline.read_feature_stats(str(tmp_path / "r"), "f") == stats
  assert input_pipeline.read_feature_stats(str(tmp_path / "r"), "g") is None


@pytest.mark.parametrize("suffix", ["", ".index.npy", ".json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_damaged_records_are_made_anew(tmp_path, suffix, damage):
  write(tmp_path / "r", [example(i) for i in range(10)])
  damaged = tmp_path / ("r" + suffix)
  data = bytearray(read_bytes(damaged))
  if damage == "flip":
    # In the manifest, a byte that matters: of the fingerprint or a sum.
    place = data.index(b"sha256") + 10 if suffix == ".json" else len(data) // 2
    data[place] ^= 1
  elif damage == "cut":
    data = data[:-5]
  elif damage == "empty":
    data = b""
  if damage == "missing":
    os.remove(str(damaged))
  else:
    damaged.write_bytes(bytes(data))
  assert input_pipeline.read_feature_stats(str(tmp_path / "r"), "f") is None
  stats = write(tmp_path / "r", [example(i) for i in range(10)])
  assert input_pipeline.read_feature_stats(str(tmp_path / "r"), "f") == stats


def test_a_failure_on_the_way_leaves_no_valid_records(tmp_path):
  def broken():
    yield example(0)
    raise ValueError("line 2 is broken")

  with pytest.raises(ValueError, match="line 2"):
    write(tmp_path / "r", broken())
  assert input_pipeline.read_feature_stats(str(tmp_path / "r"), "f") is None
  assert not (tmp_path / "r").exists()


def scan(examples, labels=None, required=False):
  return input_pipeline.scan_examples(examples, labels or LABELS, required)


def test_scan():
  found = scan([example(0, ("a", "c")), example(1, ("c", "c"), pair="x"),
                example(2, None)])
  assert found[:2] == (3, 1)
  assert found.label_counts.tolist() == [1, 0, 2]
  with pytest.raises(ValueError, match="id-4.*zebra"):
    scan([example(4, ("zebra",))])
  with pytest.raises(ValueError, match="id-5.*not labelled"):
    scan([example(5, None)], required=True)


def test_digest_of_the_data_tells_texts_apart():
  different = [
      [example(0, (), "ab")], [example(0, (), "a", "b")],
      [example(0, ("a",), "b")], [example(0, ("a", "b"), "")],
      [example(0, (), "", "ab")], [example(0, (), "ab", "")],
      [example(0, (), "a"), example(0, (), "b")],
      [example(0, (), "b"), example(0, (), "a")],
      [example(0, (), "a\n0,1:b")], [example(0, (), "a\x001:b")],
      [example(0, (), u"\ud800")], [example(0, ("a",), "ab")], []]
  digests = [scan(examples).digest for examples in different]
  assert len(set(digests)) == len(different)
  assert scan([example(0, ("a", "b"))]).digest == (
      scan([example(9, ("b", "a"), words(1))]).digest)


def test_fingerprint_changes_with_whatever_features_depend_on(tmp_path):
  vocab, other_vocab = tmp_path / "v", tmp_path / "w"
  vocab.write_text(u"[PAD]\na\n")
  other_vocab.write_text(u"[PAD]\nb\n")
  data, other_data = scan([example(0)]), scan([example(1)])

  def fingerprint(data=data, labels=tuple(LABELS), vocab=vocab, lower=True,
                  length=16):
    return input_pipeline.features_fingerprint(
        data, list(labels), str(vocab), lower, length)

  changed = [
      fingerprint(), fingerprint(data=other_data),
      fingerprint(labels=("b", "a", "c")), fingerprint(labels=("a", "b")),
      fingerprint(labels=("a\nb", "c")), fingerprint(labels=("a", "b\nc")),
      fingerprint(vocab=other_vocab), fingerprint(lower=False),
      fingerprint(length=17)]
  assert len(set(changed)) == len(changed)
  assert fingerprint() == changed[0]


def test_workers_change_no_byte(tmp_path, monkeypatch):
  monkeypatch.setattr(input_pipeline, "_CHUNK", 7)
  examples = [example(i, LABELS[:i % 4], words(i % 30 + 1)) for i in range(200)]
  one = write(tmp_path / "one", examples, num_workers=1)
  two = write(tmp_path / "two", examples, num_workers=2)
  assert one == two == (200, one.num_truncated, 0) and one.num_truncated > 0
  for suffix in ("", ".index.npy", ".json"):
    assert read_bytes(tmp_path / ("one" + suffix)) == read_bytes(
        tmp_path / ("two" + suffix))


def test_an_error_in_the_data_ends_the_workers(tmp_path, monkeypatch):
  monkeypatch.setattr(input_pipeline, "_CHUNK", 2)

  def broken():
    for i in range(9):
      yield example(i)
    raise ValueError("line 10 is broken")

  with pytest.raises(ValueError, match="line 10"):
    write(tmp_path / "r", broken(), num_workers=2)


def test_few_examples_need_no_workers(monkeypatch):
  assert input_pipeline.choose_num_workers(19999) == 1
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5},
                      raising=False)
  assert input_pipeline.choose_num_workers(20000) == 3


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
import input_pipeline, input_pipeline_test as t
serialize = functools.lru_cache()(lambda n: b"x" * n)
# Protocol buffers would take most of the time and none of the memory.
input_pipeline._serialize = lambda ids, segments, labels: serialize(len(ids))
def peak(count):
  path = os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "r")
  t.write(path, (t.example(i) for i in range(count)))
  lengths = input_pipeline.RecordFile(path).lengths
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


# Batches.


def test_make_batch():
  rows = [input_pipeline.InputFeatures([2, 9, 3], [1, 1, 1], [0, 1, 1], [2, 0]),
          input_pipeline.InputFeatures([2, 3], [1, 1], [0, 0], [])]
  batch = input_pipeline.make_batch(rows, 4)
  assert {key: value.tolist() for key, value in batch.items()} == {
      "input_ids": [[2, 9, 3], [2, 3, 0]],
      "input_mask": [[1, 1, 1], [1, 1, 0]],
      "segment_ids": [[0, 1, 1], [0, 0, 0]],
      "is_real_example": [1, 1],
      "label_ids": [[1, 0, 1, 0], [0, 0, 0, 0]]}
  assert {key: value.dtype.name for key, value in batch.items()} == {
      "input_ids": "int32", "input_mask": "int32", "segment_ids": "int32",
      "is_real_example": "int32", "label_ids": "float32"}
  assert sorted(input_pipeline.make_batch(rows)) == [
      "input_ids", "input_mask", "segment_ids"]


def test_batches_by_length():
  batches = input_pipeline.batches_by_length([3, 9, 1, 9, 5], 2)
  assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
  assert [batch.tolist() for batch in input_pipeline.batches_by_length(
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
  records = input_pipeline.RecordFile(str(tmp_path / "r"))
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
  records = input_pipeline.RecordFile(str(tmp_path / "r"))
  batches = list(input_pipeline.train_batches(
      records, 4, 1, 0, 9, None, drop_remainder=True))
  assert [len(batch["input_ids"]) for batch in batches] == [4] * 9
  with pytest.raises(ValueError, match="10 examples make no batch of 11"):
    list(input_pipeline.train_batches(
        records, 11, 1, 0, 9, None, drop_remainder=True))
  records.close()


@pytest.mark.parametrize("batch_size,window", [
    (1, 4), (3, 4), (100, 4), (2, 99)])
def test_predict_windows_hold_all_in_order(tmp_path, batch_size, window):
  write(tmp_path / "r", [example(i, LABELS[:i % 4]) for i in range(10)])
  records = input_pipeline.RecordFile(str(tmp_path / "r"))
  found = {}
  starts = []
  for start, size, batches in input_pipeline.predict_windows(
      records, batch_size, 3, window):
    starts.append((start, size))
    for numbers, batch in batches:
      assert len(numbers) <= batch_size
      for number, row in zip(numbers, batch["label_ids"]):
        assert start + number not in found and number < size
        found[start + number] = row.tolist()
  assert found == {i: [float(j < i % 4) for j in range(3)] for i in range(10)}
  assert starts == ([(0, 4), (4, 4), (8, 2)] if window == 4 else [(0, 10)])
  records.close()
