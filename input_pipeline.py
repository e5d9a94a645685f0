# SPDX-License-Identifier: Apache-2.0
"""From examples to batches: features, record files, order, padding.

A text becomes ids in `encode_text` and nowhere else. Features are written to
TFRecord files without padding; a batch is padded to its own longest text.
Which examples form the batch of a step is a function of (seed, step) alone.

A record file `train.tf_record` stands beside `train.tf_record.index.npy`
(offset and length of each record) and `train.tf_record.json` (fingerprint,
counts, sha256), which is written last: without it the records are made anew.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import array
import collections
import concurrent.futures
import hashlib
import itertools
import multiprocessing
import os
import signal
import struct
import threading
import time
import unicodedata

import numpy as np
import tensorflow.compat.v1 as tf

import atomic_files
from processors import base
import tokenization

# Batches of one window are sorted by length; more sorts better and shuffles
# less. In prediction a window is also what is held in memory at a time.
TRAIN_WINDOW_BATCHES = 50
PREDICT_WINDOW = 4096

# Below this, starting processes costs more than they save.
MIN_EXAMPLES_FOR_WORKERS = 20000
_CHUNK = 1000

_RECORD_HEADER = 12  # uint64 length, uint32 CRC of it
_RECORD_FOOTER = 4   # uint32 CRC of the data

FeatureStats = collections.namedtuple(
    "FeatureStats", ["num_examples", "num_truncated", "num_empty"])

DataScan = collections.namedtuple(
    "DataScan", ["num_examples", "num_pairs", "label_counts", "digest"])


class InputFeatures(object):
  """One example as ids; lists of int, `label_ids` the indices of its labels."""

  def __init__(self, input_ids, input_mask, segment_ids, label_ids,
               is_real_example=True):
    self.input_ids = input_ids
    self.input_mask = input_mask
    self.segment_ids = segment_ids
    self.label_ids = label_ids
    self.is_real_example = is_real_example


class PaddingInputExample(object):
  """Stands where a batch of fixed size has no example left."""


def encode_text(tokenizer, text_a, text_b, max_seq_length):
  """Turns a text, or a pair, into `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    text_a: str.
    text_b: str or None.
    max_seq_length: int, most ids; a single text is cut at its end, of a pair
      the longer one loses its last ids until both fit.

  Returns:
    (input_ids, segment_ids, truncated): two lists of int of the same length,
    and whether anything was cut.
  """
  vocab = tokenizer.vocab
  # One id more than fits tells a cut text from one that just fits.
  tokens_a = tokenizer.encode(text_a, max_seq_length + 1)
  if text_b is None:
    truncated = len(tokens_a) > max_seq_length - 2
    del tokens_a[max_seq_length - 2:]
    input_ids = [vocab["[CLS]"]] + tokens_a + [vocab["[SEP]"]]
    return input_ids, [0] * len(input_ids), truncated
  tokens_b = tokenizer.encode(text_b, max_seq_length + 1)
  truncated = len(tokens_a) + len(tokens_b) > max_seq_length - 3
  _truncate_seq_pair(tokens_a, tokens_b, max_seq_length - 3)
  input_ids = ([vocab["[CLS]"]] + tokens_a + [vocab["[SEP]"]] + tokens_b +
               [vocab["[SEP]"]])
  segment_ids = [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)
  return input_ids, segment_ids, truncated


def _truncate_seq_pair(tokens_a, tokens_b, max_length):
  """Cuts two lists in place to `max_length` together, the longer one first."""
  while len(tokens_a) + len(tokens_b) > max_length:
    (tokens_a if len(tokens_a) > len(tokens_b) else tokens_b).pop()


def convert_single_example(ex_index, example, label_list, max_seq_length,
                           tokenizer):
  """Turns an example into features padded to `max_seq_length`.

  Args:
    ex_index: int, number of the example; accepted as in the original.
    example: `InputExample` or `PaddingInputExample`.
    label_list: list of str, all labels in the order of the outputs.
    max_seq_length: int.
    tokenizer: `tokenization.FullTokenizer`.

  Returns:
    `InputFeatures`.
  """
  del ex_index
  if isinstance(example, PaddingInputExample):
    zeros = [0] * max_seq_length
    return InputFeatures(zeros, zeros, zeros, [], is_real_example=False)
  input_ids, segment_ids, _ = encode_text(
      tokenizer, example.text_a, example.text_b, max_seq_length)
  padding = [0] * (max_seq_length - len(input_ids))
  return InputFeatures(
      input_ids + padding, [1] * len(input_ids) + padding,
      segment_ids + padding,
      _label_ids(example, {name: i for i, name in enumerate(label_list)}))


def convert_examples_to_features(examples, label_list, max_seq_length,
                                 tokenizer):
  """`convert_single_example` of each; a list, so for small data only."""
  return [convert_single_example(index, example, label_list, max_seq_length,
                                 tokenizer)
          for index, example in enumerate(examples)]


def _label_ids(example, label_map):
  labels = base.example_labels(example) or ()
  return sorted(label_map[label] for label in set(labels))


def scan_examples(examples, label_list, require_labels):
  """Reads examples once, to check them before any work and to know them again.

  Args:
    examples: iterable of `InputExample`.
    label_list: list of str.
    require_labels: bool, whether an example without labels is an error.

  Returns:
    `DataScan(num_examples, num_pairs, label_counts, digest)`: examples, those
    of two texts, numpy int64 `[num_labels]` examples a label is on, and a hex
    digest of all texts and labels in their order.

  Raises:
    ValueError: an example is broken, or has a label that is not in the list.
  """
  label_set = frozenset(label_list)
  label_map = {label: index for index, label in enumerate(label_list)}
  label_counts = np.zeros([len(label_list)], np.int64)
  digest = hashlib.sha256()
  num_examples = num_pairs = 0
  for example in examples:
    labels = base.check_example(example, label_set, require_labels)
    num_examples += 1
    text_b = getattr(example, "text_b", None)
    num_pairs += text_b is not None
    for label in set(labels or ()):
      label_counts[label_map[label]] += 1
    parts = [example.text_a] + ([] if text_b is None else [text_b])
    parts += sorted(labels or ())
    line = "\0".join("%d:%s" % (len(part), part) for part in parts)
    digest.update(("%d,%s\n" % (text_b is not None, line)).encode(
        "utf-8", "surrogatepass"))
  return DataScan(num_examples, num_pairs, label_counts, digest.hexdigest())


def features_fingerprint(scan, label_list, vocab_file, do_lower_case,
                         max_seq_length):
  """Hex digest of all that the features depend on, this program's code too."""
  parts = [scan.digest, atomic_files.file_sha256(vocab_file),
           repr(do_lower_case), repr(max_seq_length),
           unicodedata.unidata_version]
  parts += [label.encode("unicode_escape").decode() for label in label_list]
  for module in (tokenization.__file__, __file__):
    parts.append(atomic_files.file_sha256(module))
  return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()


def file_based_convert_examples_to_features(
    examples, label_list, max_seq_length, tokenizer, output_file,
    fingerprint="", num_workers=1):
  """Writes a TFRecord file of features, its index and its manifest.

  Keys are the original's: `input_ids`, `input_mask`, `segment_ids`,
  `label_ids` (indices), `is_real_example`; all int64, none padded. Examples
  are read as they come and not kept.

  Args:
    examples: iterable of `InputExample`.
    label_list: list of str, all labels in the order of the outputs.
    max_seq_length: int.
    tokenizer: `tokenization.FullTokenizer`.
    output_file: str.
    fingerprint: str, see `features_fingerprint`.
    num_workers: int, processes that make features; it changes no byte.

  Returns:
    `FeatureStats(num_examples, num_truncated, num_empty)`.
  """
  label_map = {label: index for index, label in enumerate(label_list)}
  # array.array keeps a million numbers in 12 MB; a list would take 60.
  offsets, lengths = array.array("q"), array.array("i")
  offset = num_truncated = num_empty = 0
  settings = (tokenizer, label_map, max_seq_length)
  temporary = output_file + ".tmp"
  with tf.io.TFRecordWriter(temporary) as writer:
    for record, length, truncated, empty in _map_chunks(
        _encode_chunk, settings, examples, num_workers):
      writer.write(record)
      offsets.append(offset)
      lengths.append(length)
      offset += _RECORD_HEADER + len(record) + _RECORD_FOOTER
      num_truncated += truncated
      num_empty += empty
  stats = FeatureStats(len(offsets), num_truncated, num_empty)
  _finish_record_file(temporary, output_file, offsets, lengths, stats,
                      fingerprint)
  return stats


def _finish_record_file(temporary, output_file, offsets, lengths, stats,
                        fingerprint):
  """Puts the three files in place; the manifest, which makes them valid, last.
  """
  manifest_file = output_file + ".json"
  if os.path.exists(manifest_file):
    os.remove(manifest_file)
  with open(temporary, "rb+") as written:
    os.fsync(written.fileno())
  index = np.stack([np.asarray(offsets, np.int64),
                    np.asarray(lengths, np.int64)])
  index_file = output_file + ".index.npy"
  with open(index_file + ".tmp", "wb") as writer:
    np.save(writer, index, allow_pickle=False)
    writer.flush()
    os.fsync(writer.fileno())
  atomic_files.replace_file(index_file + ".tmp", index_file)
  atomic_files.replace_file(temporary, output_file)
  atomic_files.write_text(manifest_file, atomic_files.to_json({
      "fingerprint": fingerprint,
      "num_examples": stats.num_examples,
      "num_truncated": stats.num_truncated,
      "num_empty": stats.num_empty,
      "records_sha256": atomic_files.file_sha256(output_file),
      "index_sha256": atomic_files.file_sha256(index_file)}))


def read_feature_stats(record_file, fingerprint):
  """Returns the `FeatureStats` of a finished record file of that fingerprint.

  Returns None if there is no such file, or it is of other data or settings,
  or its bytes are not those that were written.
  """
  try:
    manifest = atomic_files.read_json(record_file + ".json")
    if manifest["fingerprint"] != fingerprint:
      return None
    for key, path in (("records_sha256", record_file),
                      ("index_sha256", record_file + ".index.npy")):
      if atomic_files.file_sha256(path) != manifest[key]:
        return None
    return FeatureStats(manifest["num_examples"], manifest["num_truncated"],
                        manifest["num_empty"])
  except (EnvironmentError, ValueError, KeyError):
    return None


def _encode_chunk(settings, chunk):
  """[(record, length, truncated, empty)] of a list of examples."""
  tokenizer, _, max_seq_length = settings
  rows = []
  for text_a, text_b, label_ids in chunk:
    input_ids, segment_ids, truncated = encode_text(
        tokenizer, text_a, text_b, max_seq_length)
    empty = len(input_ids) == (2 if text_b is None else 3)
    rows.append((_serialize(input_ids, segment_ids, label_ids),
                 len(input_ids), truncated, empty))
  return rows


def _serialize(input_ids, segment_ids, label_ids):
  def int64s(values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  return tf.train.Example(features=tf.train.Features(feature={
      "input_ids": int64s(input_ids),
      "input_mask": int64s([1] * len(input_ids)),
      "segment_ids": int64s(segment_ids),
      "label_ids": int64s(label_ids),
      "is_real_example": int64s([1])})).SerializeToString(deterministic=True)


_worker_settings = None


def _start_worker(settings):
  global _worker_settings
  _worker_settings = settings
  # Ctrl-C reaches the whole group; the parent alone answers it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, args=(os.getppid(),),
                   daemon=True).start()


def _end_with_parent(parent):
  """Ends this process when its parent was killed: nobody else would."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)  # pylint: disable=protected-access


def _work(function, chunk):
  return function(_worker_settings, chunk)


def _map_chunks(function, settings, examples, num_workers):
  """Yields `function(settings, chunk)`'s rows in order, in constant memory."""
  label_map = settings[1]
  rows = ((example.text_a, getattr(example, "text_b", None),
           _label_ids(example, label_map)) for example in examples)
  chunks = iter(lambda: list(itertools.islice(rows, _CHUNK)), [])
  if num_workers <= 1:
    for chunk in chunks:
      for row in function(settings, chunk):
        yield row
    return
  # Forked before any session exists, so TensorFlow's threads do not either.
  with concurrent.futures.ProcessPoolExecutor(
      num_workers, multiprocessing.get_context("fork"), _start_worker,
      (settings,)) as pool:
    pending = collections.deque()
    for chunk in itertools.chain(chunks, itertools.repeat(None)):
      if chunk is not None:
        pending.append(pool.submit(_work, function, chunk))
      if not pending:
        return
      if chunk is None or len(pending) > 2 * num_workers:
        for row in pending.popleft().result():
          yield row


def choose_num_workers(num_examples):
  """Processes for `file_based_convert_examples_to_features`: 1 if few."""
  if (num_examples < MIN_EXAMPLES_FOR_WORKERS or
      "fork" not in multiprocessing.get_all_start_methods()):
    return 1
  if hasattr(os, "sched_getaffinity"):
    return max(1, len(os.sched_getaffinity(0)))
  return os.cpu_count() or 1


class RecordFile(object):
  """Random access to the features of a TFRecord file.

  Attributes:
    lengths: numpy int64 `[num_examples]`, real tokens of each example.
  """

  def __init__(self, path):
    """Opens a file, with its index if there is one.

    Args:
      path: str, a file written by `file_based_convert_examples_to_features`,
        or by google-research/bert, whose padding is left out on reading.

    Raises:
      ValueError: the file is missing or is cut off.
    """
    self._path = path
    if not os.path.isfile(path):
      raise ValueError("record file %s is missing." % path)
    self._file = open(path, "rb")
    self._size = os.fstat(self._file.fileno()).st_size
    if os.path.isfile(path + ".index.npy"):
      self._offsets, self.lengths = np.load(path + ".index.npy",
                                            allow_pickle=False)
    else:
      self._offsets = np.asarray(list(self._find_offsets()), np.int64)
      self.lengths = np.asarray(
          [len(self.read(i).input_ids) for i in range(len(self._offsets))],
          np.int64)

  def __len__(self):
    return len(self._offsets)

  def _find_offsets(self):
    """Yields where each record begins, from the lengths that precede them."""
    offset = 0
    while offset < self._size:
      yield offset
      offset += _RECORD_HEADER + self._record_size(offset) + _RECORD_FOOTER

  def _record_size(self, offset):
    header = os.pread(self._file.fileno(), _RECORD_HEADER, offset)
    size = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else None
    if size is None or (
        offset + _RECORD_HEADER + size + _RECORD_FOOTER > self._size):
      raise ValueError("record file %s is cut off or broken at byte %d." % (
          self._path, offset))
    return size

  def read(self, number):
    """Returns the `InputFeatures` of an example, without padding."""
    offset = int(self._offsets[number])
    size = self._record_size(offset)
    data = os.pread(self._file.fileno(), size, offset + _RECORD_HEADER)
    feature = tf.train.Example.FromString(data).features.feature
    length = sum(feature["input_mask"].int64_list.value)
    values = {key: list(feature[key].int64_list.value) for key in (
        "input_ids", "input_mask", "segment_ids")}
    return InputFeatures(
        label_ids=list(feature["label_ids"].int64_list.value),
        is_real_example=feature["is_real_example"].int64_list.value != [0],
        **{key: ids[:length] for key, ids in values.items()})

  def close(self):
    self._file.close()


def make_batch(features, num_labels=None):
  """Pads features to their longest and stacks them.

  Args:
    features: list of `InputFeatures` without padding.
    num_labels: int; None leaves the labels out.

  Returns:
    dict of numpy arrays: `input_ids`, `input_mask`, `segment_ids` int32
    `[batch, longest]`, which is what the model takes; with `num_labels`,
    `label_ids` float32 `[batch, num_labels]`, 1 where a label holds, and
    `is_real_example` int32 `[batch]`, 0 for rows that only fill a batch up.
  """
  shape = [len(features), max(len(row.input_ids) for row in features)]
  batch = {key: np.zeros(shape, np.int32)
           for key in ("input_ids", "input_mask", "segment_ids")}
  for number, row in enumerate(features):
    length = len(row.input_ids)
    batch["input_ids"][number, :length] = row.input_ids
    batch["input_mask"][number, :length] = 1
    batch["segment_ids"][number, :length] = row.segment_ids
  if num_labels is not None:
    batch["is_real_example"] = np.asarray(
        [row.is_real_example for row in features], np.int32)
    batch["label_ids"] = np.zeros([len(features), num_labels], np.float32)
    for number, row in enumerate(features):
      batch["label_ids"][number, row.label_ids] = 1.0
  return batch


def batches_by_length(lengths, batch_size):
  """Cuts examples into batches of similar length, the longest first.

  Args:
    lengths: int `[n]`.
    batch_size: int.

  Returns:
    list of int arrays, the numbers of the examples of each batch.
  """
  order = np.argsort(-np.asarray(lengths, np.int64), kind="mergesort")
  return [order[start:start + batch_size]
          for start in range(0, len(order), batch_size)]


def epoch_batches(lengths, batch_size, seed, epoch):
  """The batches of an epoch: a function of the arguments alone.

  The examples are shuffled, sorted by length within windows of
  `TRAIN_WINDOW_BATCHES` batches, and the batches shuffled again, so a batch
  holds texts of like length but no epoch repeats another's batches.

  Args:
    lengths: int `[n]`.
    batch_size: int.
    seed: int in [0, 2^32).
    epoch: int, from 0.

  Returns:
    list of int arrays; every example is in one of them, one may be smaller.
  """
  lengths = np.asarray(lengths, np.int64)
  random = np.random.RandomState([seed, epoch])
  order = random.permutation(len(lengths))
  # Sorted as one window, few examples would be the same batches every epoch.
  half = -(-len(lengths) // (2 * batch_size))
  window = batch_size * min(TRAIN_WINDOW_BATCHES, max(half, 1))
  batches = []
  for start in range(0, len(order), window):
    numbers = order[start:start + window]
    batches.extend(numbers[batch] for batch in batches_by_length(
        lengths[numbers], batch_size))
  return [batches[i] for i in random.permutation(len(batches))]


def train_batches(records, batch_size, seed, first_step, num_steps,
                  num_labels, drop_remainder=False):
  """Yields the batches (see `make_batch`) of steps first_step..num_steps-1."""
  full, rest = divmod(len(records), batch_size)
  per_epoch = full + (rest > 0 and not drop_remainder)
  if not per_epoch:
    raise ValueError("%d examples make no batch of %d." % (
        len(records), batch_size))
  epoch, skip = divmod(first_step, per_epoch)
  step = first_step
  while step < num_steps:
    batches = epoch_batches(records.lengths, batch_size, seed, epoch)
    if drop_remainder:
      batches = [batch for batch in batches if len(batch) == batch_size]
    for numbers in batches[skip:]:
      if step >= num_steps:
        return
      yield make_batch([records.read(i) for i in numbers], num_labels)
      step += 1
    epoch, skip = epoch + 1, 0


def predict_windows(records, batch_size, num_labels=None,
                    window=PREDICT_WINDOW):
  """Yields (number of the first example, [(numbers, batch), ...]) by window.

  Inside a window batches go by length; `numbers` count from its first example.
  """
  for start in range(0, len(records), window):
    lengths = records.lengths[start:start + window]
    yield start, len(lengths), (
        (numbers, make_batch([records.read(start + i) for i in numbers],
                             num_labels))
        for numbers in batches_by_length(lengths, batch_size))


def file_based_input_fn_builder(input_file, seq_length, is_training,
                                drop_remainder, num_labels=None, seed=0,
                                num_steps=None):
  """Makes an `input_fn` that reads a record file.

  Args:
    input_file: str, of this program or of google-research/bert.
    seq_length: int; batches are no wider, and as narrow as their texts allow.
    is_training: bool; True shuffles and repeats, False reads once in order.
    drop_remainder: bool, whether to leave out the last, smaller batch.
    num_labels: int; None gives no `label_ids`.
    seed: int, order of the examples.
    num_steps: int, batches to make in training from step 0 on; None: no end.

  Returns:
    Function of `params` (`batch_size`, and `first_step`, default 0) to a
    `tf.data.Dataset` of dicts as `make_batch` returns them.
  """
  return _input_fn(lambda: RecordFile(input_file), seq_length, is_training,
                   drop_remainder, num_labels, seed, num_steps)


def input_fn_builder(features, seq_length, is_training, drop_remainder,
                     num_labels=None, seed=0, num_steps=None):
  """`file_based_input_fn_builder` over a list of `InputFeatures`."""
  return _input_fn(lambda: _FeatureList(features), seq_length, is_training,
                   drop_remainder, num_labels, seed, num_steps)


class _FeatureList(object):
  """`RecordFile` of features in memory."""

  def __init__(self, features):
    self._features = features
    self.lengths = np.asarray([sum(row.input_mask) for row in features],
                              np.int64)

  def __len__(self):
    return len(self._features)

  def read(self, number):
    row, length = self._features[number], self.lengths[number]
    return InputFeatures(
        row.input_ids[:length], row.input_mask[:length],
        row.segment_ids[:length], row.label_ids, row.is_real_example)


def _input_fn(open_records, seq_length, is_training, drop_remainder,
              num_labels, seed, num_steps):
  """The function that the two builders return."""

  def generate(batch_size, first_step):
    """Yields batches, in training as many as steps are left."""
    records = open_records()
    if is_training:
      batches = train_batches(
          records, batch_size, seed, first_step,
          float("inf") if num_steps is None else num_steps, num_labels,
          drop_remainder)
    else:
      batches = (
          make_batch([records.read(i) for i in range(
              start, min(start + batch_size, len(records)))], num_labels)
          for start in range(0, len(records), batch_size)
          if not drop_remainder or start + batch_size <= len(records))
    for batch in batches:
      longest = batch["input_ids"].shape[1]
      if longest > seq_length:
        raise ValueError("the records have texts of %d tokens, more than "
                         "seq_length %d." % (longest, seq_length))
      yield batch

  def input_fn(params):
    """The batches as a `tf.data.Dataset`."""
    types = {key: tf.int32 for key in ("input_ids", "input_mask",
                                       "segment_ids")}
    shapes = {key: tf.TensorShape([None, None]) for key in types}
    if num_labels is not None:
      types["is_real_example"] = tf.int32
      shapes["is_real_example"] = tf.TensorShape([None])
      types["label_ids"] = tf.float32
      shapes["label_ids"] = tf.TensorShape([None, num_labels])
    dataset = tf.data.Dataset.from_generator(
        lambda: generate(params["batch_size"], params.get("first_step", 0)),
        types, shapes)
    # The next batch is made while the graph works on this one.
    return dataset.prefetch(2)

  return input_fn
