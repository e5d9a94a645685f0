# SPDX-License-Identifier: Apache-2.0
"""Features on disk: TFRecord files that are reused, or written atomically.

Features are written without padding, one record per window of a text (most
texts have one). A record file `train.tf_record` is beside
`train.tf_record.index.npy` (offset, length, text and CRC-32 of each record) and
`train.tf_record.json` (fingerprint, counts, sha256), which is written last:
without it the records are rebuilt.
"""

import array
import collections
import concurrent.futures
import contextlib
import functools
import gc
import io
import itertools
import multiprocessing
import os
import signal
import struct
import threading
import time
import zlib

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files
from multilabel.common import waiting
from multilabel.common import write_errors
from multilabel.features import encoding


# Below this, starting processes costs more than they save.
MIN_EXAMPLES_FOR_WORKERS = 20000
_CHUNK = 1000
_BLOCK = 100  # texts whose records are written one after the other

# Encodings of numbers below this are cached; covers the largest vocabularies.
_MAX_VARINT = 1 << 17

_RECORD_HEADER = 12  # uint64 length, uint32 CRC of it
_RECORD_FOOTER = 4   # uint32 CRC of the data

# num_records counts windows; without long texts it is num_examples.
FeatureStats = collections.namedtuple(
    "FeatureStats", ["num_examples", "num_records", "num_truncated",
                     "num_empty"])


def file_based_convert_examples_to_features(
    examples, label_list, max_seq_length, tokenizer, output_file,
    fingerprint="", num_workers=1, long_text=encoding.TRUNCATE_HEAD):
  """Writes a TFRecord file of features, its index and its manifest.

  Keys are the original's: `input_ids`, `input_mask`, `segment_ids`, `label_ids`
  (indices), `is_real_example`; all int64, none padded. Examples are streamed,
  not kept in memory.

  Args:
    examples: iterable of `InputExample`.
    label_list: list of str, all labels in the order of the outputs.
    max_seq_length: int.
    tokenizer: `tokenization.FullTokenizer`.
    output_file: str.
    fingerprint: str, see `encoding.features_fingerprint`.
    num_workers: int, processes that compute features; does not affect the
      result.
    long_text: `encoding.LongText`.

  Returns:
    `FeatureStats(num_examples, num_records, num_truncated, num_empty)`.
  """
  label_map = {label: index for index, label in enumerate(label_list)}
  rows = _map_chunks(
      encode_chunk, (tokenizer, label_map, max_seq_length, long_text),
      examples, num_workers)
  return write_rows(waiting.counted(rows, "Writing " + output_file),
                    output_file, fingerprint)


def write_rows(rows, output_file, fingerprint, **more):
  """Writes what `encode_chunk` made: records, index and manifest.

  Args:
    rows: iterable of ([(record, length)], truncated, empty), one per text.
    output_file: str.
    fingerprint: str.
    **more: further entries of the manifest.

  Returns:
    `FeatureStats`.
  """
  with atomic_files.temporary_file(output_file) as temporary:
    columns, stats = _write_records(rows, temporary, output_file)
    _finish_record_file(temporary, output_file, columns, stats,
                        dict(more, fingerprint=fingerprint))
  return stats


def _write_records(rows, temporary, output_file):
  """Writes the records of all rows; returns (columns of the index, stats)."""
  # array.array keeps a million numbers in 12 MB; a list would take 60.
  offsets, lengths, texts, sums = (array.array("q"), array.array("i"),
                                   array.array("q"), array.array("I"))
  rows = iter(rows)
  offset = num_examples = num_truncated = num_empty = 0
  with _open_writer(temporary, output_file) as writer:
    for block in iter(lambda: list(itertools.islice(rows, _BLOCK)), []):
      records = []
      for windows, truncated, empty in block:
        for record, length in windows:
          records.append(record)
          offsets.append(offset)
          lengths.append(length)
          texts.append(num_examples)
          sums.append(zlib.crc32(record))
          offset += _RECORD_HEADER + len(record) + _RECORD_FOOTER
        num_examples += 1
        num_truncated += truncated
        num_empty += empty
      with write_errors.naming(output_file):
        for record in records:
          writer.write(record)
  return (offsets, lengths, texts, sums), FeatureStats(
      num_examples, len(offsets), num_truncated, num_empty)


@contextlib.contextmanager
def _open_writer(path, name):
  """A `TFRecordWriter`; errors name the final file."""
  with write_errors.naming(name):
    writer = tf.io.TFRecordWriter(path)
  yield writer
  with write_errors.naming(name):
    writer.close()


def _finish_record_file(temporary, output_file, columns, stats, more):
  """Puts the three files in place; the manifest, which makes them valid, last.
  """
  manifest_file = output_file + ".json"
  if os.path.exists(manifest_file):
    os.remove(manifest_file)
  atomic_files.sync_file(temporary)
  index = np.stack([np.asarray(column, np.int64) for column in columns])
  index_file = output_file + ".index.npy"
  # Through memory: numpy writes to files through its own stream, and does not
  # notice if closing that fails, as on a full disk.
  content = io.BytesIO()
  np.save(content, index, allow_pickle=False)
  with atomic_files.replacing(index_file) as writer:
    writer.write(content.getvalue())
  atomic_files.replace_file(temporary, output_file)
  atomic_files.write_sealed(manifest_file, dict(
      stats._asdict(),
      records_sha256=atomic_files.file_sha256(output_file),
      index_sha256=atomic_files.file_sha256(index_file), **more))


def read_feature_stats(path, fingerprint):
  """Returns the `FeatureStats` of a finished record file with that fingerprint.

  Returns None if there is none, it was made from other data or settings, or its
  bytes were changed; the log says which.
  """
  if not os.path.exists(path + ".json"):
    return None
  try:
    manifest = atomic_files.read_sealed(path + ".json", True)
    if manifest["fingerprint"] != fingerprint:
      logging.info(
          "%s was made from other data or settings and is rebuilt", path)
      return None
    for key, name in (("records_sha256", path),
                      ("index_sha256", path + ".index.npy")):
      if atomic_files.file_sha256(name) != manifest[key]:
        raise ValueError(
            "%s was changed after it was written (its sha256 differs)" %
                         name)
    return FeatureStats(*[manifest[key] for key in FeatureStats._fields])
  except (EnvironmentError, ValueError, KeyError) as error:
    logging.warning("%s is rebuilt: %s", path, " ".join(str(error).split()))
    return None


def load_index(path):
  """Reads the numbers beside a record file.

  Args:
    path: str.

  Returns:
    int64 `[columns, records]`: offsets, lengths, texts, maybe checksums.

  Raises:
    ValueError: it is not such an array; a sentence without the path.
  """
  with atomic_files.open_regular(path) as reader:
    try:
      index = np.load(reader, allow_pickle=False)
    # A corrupt header raises one of many kinds of errors.
    except Exception as error:  # pylint: disable=broad-except
      raise ValueError(" ".join(str(error).split()) or type(error).__name__)
  if not isinstance(index, np.ndarray) or index.ndim != 2 or (
      index.dtype.kind != "i"):
    raise ValueError("it is not a table of integers")
  return index


def encode_chunk(settings, chunk):
  """Rows of `write_rows` of a list of (text_a, text_b, label numbers).

  Args:
    settings: (tokenizer, {label: number} or None, max_seq_length, long_text).
    chunk: the list.

  Returns:
    list of ([(record, length)] of the windows, truncated, empty).
  """
  tokenizer, _, max_seq_length, long_text = settings
  rows = []
  for text_a, text_b, label_ids in chunk:
    windows, truncated = encoding.encode_windows(
        tokenizer, text_a, text_b, max_seq_length, long_text)
    empty = len(windows[0][0]) == (2 if text_b is None else 3)
    rows.append(([(_serialize(input_ids, segment_ids, label_ids),
                   len(input_ids)) for input_ids, segment_ids in windows],
                 truncated, empty))
  return rows


def _serialize(input_ids, segment_ids, label_ids):
  """Returns the bytes of a `tf.train.Example`, features in order of their keys.

  They equal protobuf's deterministic encoding, which takes longer than the
  tokenizer in Python: https://protobuf.dev/programming-guides/encoding/

  Args:
    input_ids: list of int from 0.
    segment_ids: list of 0 and 1, as long as `input_ids`.
    label_ids: list of int from 0.
  """
  ids = b"".join(map(_VARINTS.__getitem__, input_ids))
  head = _entry_head(b"input_ids", len(ids))
  others = _other_entries(len(input_ids), tuple(label_ids), bytes(segment_ids))
  return b"".join((b"\n", _VARINTS[len(head) + len(ids) + len(others)],
                   head, ids, others))


@functools.lru_cache(maxsize=4096)
def _other_entries(num_ids, label_ids, segment_ids):
  """The part after the ids, which is the same for many texts."""
  values = (
      (b"input_mask", b"\1" * num_ids),
      (b"is_real_example", b"\1"),
      (b"label_ids", b"".join(map(_VARINTS.__getitem__, label_ids))),
      (b"segment_ids", segment_ids))
  return b"".join(_entry_head(key, len(value)) + value for key, value in values)


@functools.lru_cache(maxsize=4096)
def _entry_head(key, size):
  """An entry of the map of features up to its `size` bytes of varints."""
  # An empty list of numbers is left out, the message that holds it is not.
  head = b"\n" + _VARINTS[size] if size else b""
  for tag in (b"\x1a", b"\x12"):  # Feature.int64_list, the entry's value
    head = tag + _VARINTS[len(head) + size] + head
  head = b"\n" + _VARINTS[len(key)] + key + head
  return b"\n" + _VARINTS[len(head) + size] + head


class _Varints(dict):
  """From a number from 0 to its bytes, seven bits in each, lowest first."""

  def __missing__(self, number):
    parts, rest = bytearray(), number
    while rest > 127:
      parts.append(rest & 127 | 128)
      rest >>= 7
    parts.append(rest)
    value = bytes(parts)
    if number < _MAX_VARINT:
      self[number] = value
    return value


_VARINTS = _Varints()

_worker_settings = None


def _start_worker(settings):
  global _worker_settings
  _worker_settings = settings
  gc.freeze()  # What came from the parent is neither searched nor copied.
  # Ctrl-C reaches the whole group; the parent alone answers it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, args=(os.getppid(),),
                   daemon=True).start()


def _end_with_parent(parent):
  """Exits when the parent was killed; nothing else would end this process."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)  # pylint: disable=protected-access


def _work(function, chunk):
  return function(_worker_settings, chunk)


def _map_chunks(function, settings, examples, num_workers):
  """Yields `function(settings, chunk)`'s rows in order, in constant memory."""
  label_map = settings[1]
  rows = ((example.text_a, getattr(example, "text_b", None),
           encoding.label_ids(example, label_map)) for example in examples)
  chunks = iter(lambda: list(itertools.islice(rows, _CHUNK)), [])
  if num_workers <= 1:
    for chunk in chunks:
      for row in function(settings, chunk):
        yield row
    return
  # Forked before any session exists, so there are no TensorFlow threads yet.
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


class _ForeignLabels(object):
  """The meaning of `label_ids` in a file that this program did not write.

  Its own files contain the label indices of an example, as their index file
  says. Others may contain a 0 or 1 for each label, or, like those of
  google-research/bert, the index of the one class.
  """

  def __init__(self):
    self._sizes = set()
    self._least, self._most = 0, 0
    self._are_ranges = True

  def add(self, label_ids):
    """Takes the `label_ids` of a record into account."""
    self._sizes.add(len(label_ids))
    self._least = min([self._least] + label_ids)
    self._most = max([self._most] + label_ids)
    self._are_ranges &= label_ids == list(range(len(label_ids)))

  def numbers(self, label_ids, num_labels, path):
    """A record's `label_ids` as sorted label numbers.

    Raises:
      ValueError: the meaning is ambiguous.
    """
    if self._sizes == {num_labels} and self._least == 0 and self._most <= 1:
      # With one or two labels, 0 and 0 1 may also be label indices.
      if not self._are_ranges:
        return [i for i, is_on in enumerate(label_ids) if is_on]
    elif (self._sizes == {1} and num_labels > 1 and
          0 <= self._least <= self._most < num_labels):
      return label_ids
    raise ValueError(
        "record file %s has no %s.index.npy, and its label_ids are neither "
        "rows of %d zeros and ones nor one class number each; restore its "
        "index, or rebuild it." % (path, os.path.basename(path), num_labels))


class RecordFile(object):
  """Random access to the features of a TFRecord file.

  Attributes:
    lengths: numpy int64 `[num_records]`, real tokens of each record.
    texts: numpy int64 `[num_records]`, number of the text that the record is a
      window of, ascending from 0.
    num_texts: int.
  """

  def __init__(self, path, num_texts=None):
    """Opens a file, with its index if there is one.

    Args:
      path: str, a file written by `file_based_convert_examples_to_features`, or
        by google-research/bert, whose padding is dropped, or by a fork whose
        `label_ids` are a 0 or 1 per label.
      num_texts: int or None, read only the first N texts; None: all.

    Raises:
      ValueError: the file is missing or truncated.
    """
    self._path = path
    self._foreign_labels = None
    if not os.path.isfile(path):
      raise ValueError("record file %s is %s." % (
          path, "not a file" if os.path.lexists(path) else "missing"))
    self._file = open(path, "rb")
    self._size = os.fstat(self._file.fileno()).st_size
    self._sums = None
    if os.path.isfile(path + ".index.npy"):
      columns = self._read_index(path + ".index.npy")
      self._offsets, self.lengths, self.texts = columns[:3]
      if len(columns) > 3:
        self._sums = columns[3]
    else:
      self._offsets = np.asarray(list(self._find_offsets()), np.int64)
      self.lengths = np.zeros([len(self._offsets)], np.int64)
      self.texts = np.arange(len(self._offsets))
      foreign_labels = _ForeignLabels()
      for number in range(len(self._offsets)):
        features = self.read(number)
        self.lengths[number] = len(features.input_ids)
        foreign_labels.add(features.label_ids)
      self._foreign_labels = foreign_labels
    if num_texts is not None:
      rows = int(np.searchsorted(self.texts, num_texts))
      self._offsets, self.lengths, self.texts = [
          column[:rows] for column in (self._offsets, self.lengths,
                                       self.texts)]
    self.num_texts = int(self.texts[-1]) + 1 if len(self.texts) else 0

  def __len__(self):
    return len(self._offsets)

  def _read_index(self, index_file):
    """The columns of the index; ValueError if it was changed."""
    manifest_file = self._path + ".json"
    try:
      if os.path.isfile(manifest_file) and atomic_files.file_sha256(
          index_file) != atomic_files.read_json(manifest_file).get(
              "index_sha256"):
        raise ValueError("its sha256 differs from the one in %s" %
                         manifest_file)
      columns = load_index(index_file)
      if len(columns) < 3:
        raise ValueError("it has fewer than 3 columns")
      return columns
    except ValueError as error:
      raise ValueError("%s is broken (%s); remove it and its record file to "
                       "rebuild them." % (
                           index_file, str(error).rstrip(".")))

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
      raise ValueError("record file %s is truncated or broken at byte %d." % (
          self._path, offset))
    return size

  def check_end(self):
    """Raises ValueError unless the file ends where its last record does."""
    end = 0
    if len(self._offsets):
      last = int(self._offsets[-1])
      end = (last + _RECORD_HEADER + self._record_size(last) + _RECORD_FOOTER)
    if end != self._size:
      raise ValueError("record file %s has %d bytes, but its index says %d." % (
          self._path, self._size, end))

  def read(self, number, num_labels=None):
    """Returns the `InputFeatures` of a record, without padding.

    Args:
      number: int.
      num_labels: int; None leaves `label_ids` as they are in the record, which
        in a file of another program need not be label indices.

    Raises:
      ValueError: the record is broken, or the meaning of its labels is
        ambiguous.
    """
    offset = int(self._offsets[number])
    size = self._record_size(offset)
    data = os.pread(self._file.fileno(), size, offset + _RECORD_HEADER)
    if self._sums is not None and zlib.crc32(data) != self._sums[number]:
      raise ValueError("record file %s is broken at byte %d (a checksum "
                       "differs); the next start rebuilds it." % (
                           self._path, offset))
    try:
      feature = tf.train.Example.FromString(data).features.feature
    except Exception:  # DecodeError, whose module varies
      raise ValueError("record file %s is broken: the data at byte %d are not "
                       "a tf.train.Example." % (self._path, offset))
    length = sum(feature["input_mask"].int64_list.value)
    values = {key: list(feature[key].int64_list.value) for key in (
        "input_ids", "input_mask", "segment_ids")}
    label_ids = list(feature["label_ids"].int64_list.value)
    if self._foreign_labels is not None and num_labels is not None:
      label_ids = self._foreign_labels.numbers(label_ids, num_labels,
                                               self._path)
    return encoding.InputFeatures(
        label_ids=label_ids,
        is_real_example=feature["is_real_example"].int64_list.value != [0],
        **{key: ids[:length] for key, ids in values.items()})

  def close(self):
    self._file.close()
