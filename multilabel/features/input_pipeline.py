# SPDX-License-Identifier: Apache-2.0
"""From features to batches: order, padding, `tf.data`.

A batch is padded to its own longest row. Which rows form the batch of a step
is a function of (seed, step) alone.
"""

import collections

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.features import batch_parts
from multilabel.features import feature_rows
from multilabel.features.encoding import InputFeatures

from multilabel.features.record_shards import open_records


# Batches in a window are sorted by length; a larger window sorts better and
# shuffles less. In prediction, a window is also what is held in memory at a
# time.
TRAIN_WINDOW_BATCHES = 50
PREDICT_WINDOW = 4096
# Likewise for many labels: cells, for a few arrays of floats.
PREDICT_WINDOW_CELLS = 1 << 25

# Some texts of a record file: number of the first, how many they are, the row
# where each begins (int [size], from 0), rows in all, and an iterator over
# (row numbers, batch).
TextWindow = collections.namedtuple(
    "TextWindow", ["start", "size", "first_rows", "num_rows", "batches"])


def read_batch(records, numbers, num_labels):
  """`make_batch` of records of a `RecordFile` by their numbers."""
  return feature_rows.make_batch(
      [records.read(number, num_labels) for number in numbers], num_labels)


def epoch_batches(lengths, batch_size, seed, epoch):
  """The batches of an epoch: a pure function of the arguments.

  The examples are shuffled, sorted by length within windows of
  `TRAIN_WINDOW_BATCHES` batches, and the batches shuffled again, so a batch
  holds texts of similar length but no epoch repeats another's batches.

  Args:
    lengths: int `[n]`.
    batch_size: int.
    seed: int in [0, 2^32).
    epoch: int, from 0.

  Returns:
    list of int arrays; every example is in exactly one of them, one may be
    smaller.
  """
  lengths = np.asarray(lengths, np.int64)
  random = np.random.RandomState([seed, epoch])
  order = random.permutation(len(lengths))
  # With a single window, few examples would form the same batches every epoch.
  half = -(-len(lengths) // (2 * batch_size))
  window = batch_size * min(TRAIN_WINDOW_BATCHES, max(half, 1))
  batches = []
  for start in range(0, len(order), window):
    numbers = order[start:start + window]
    batches.extend(numbers[batch] for batch in feature_rows.batches_by_length(
        lengths[numbers], batch_size))
  return [batches[i] for i in random.permutation(len(batches))]


def train_batches(records, batch_size, seed, first_step, num_steps,
                  num_labels, drop_remainder=False, num_parts=1):
  """Yields the batches (see `make_batch`) of steps first_step..num_steps-1.

  With `num_parts` above 1, each in parts of `batch_size / num_parts` examples,
  with the additional keys of `batch_parts.split`.
  """
  full, rest = divmod(len(records), batch_size)
  per_epoch = full + (rest > 0 and not drop_remainder)
  if not per_epoch:
    raise ValueError("%d examples do not fill a batch of %d." % (
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
      for part, place in batch_parts.split(
          numbers, batch_size // num_parts, step):
        batch = read_batch(records, part, num_labels)
        yield dict(batch, **place) if num_parts > 1 else batch
      step += 1
    epoch, skip = epoch + 1, 0


def predict_windows(records, batch_size, num_labels=None,
                    window=PREDICT_WINDOW, num_outputs=1):
  """Yields the texts of a record file as `TextWindow`s of `window` texts.

  They are fewer if each has so many outputs (`num_outputs`) that a window would
  exceed `PREDICT_WINDOW_CELLS`.

  Within a window, batches are ordered by length, the longest first; the windows
  of a text are adjacent rows.
  """
  window = max(1, min(window, PREDICT_WINDOW_CELLS // num_outputs))
  # The first row of each text, and the end of the last one.
  bounds = np.searchsorted(records.texts, np.arange(records.num_texts + 1))
  for start in range(0, records.num_texts, window):
    stop = min(start + window, records.num_texts)
    first_rows, end = bounds[start:stop], int(bounds[stop])
    yield TextWindow(
        start, len(first_rows), first_rows - first_rows[0],
        end - int(first_rows[0]),
        _window_batches(records, int(first_rows[0]), end, batch_size,
                        num_labels))


def _window_batches(records, first, end, batch_size, num_labels):
  """Yields (row numbers from `first` on, batch) of rows first..end-1."""
  for numbers in feature_rows.batches_by_length(records.lengths[first:end],
                                                batch_size):
    yield numbers, read_batch(records, first + numbers, num_labels)


def file_based_input_fn_builder(input_file, seq_length, is_training,
                                drop_remainder, num_labels=None, seed=0,
                                num_steps=None):
  """Makes an `input_fn` that reads a record file.

  Args:
    input_file: str, of this program or of google-research/bert; or shards,
      see `record_shards.find_shards`.
    seq_length: int, maximum width; batches are as narrow as their texts allow.
    is_training: bool; True shuffles and repeats, False reads once in order.
    drop_remainder: bool, whether to leave out the last, smaller batch.
    num_labels: int; None gives no `label_ids`.
    seed: int, order of the examples.
    num_steps: int, batches to make in training from step 0 on; None: no end.

  Returns:
    Function of `params` (`batch_size`, and `first_step`, default 0, and
    `num_parts`, default 1, see `train_batches`) to a `tf.data.Dataset` of
    dicts as `make_batch` returns them.
  """
  return _input_fn(lambda: open_records(input_file), seq_length, is_training,
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
    self.num_texts = len(features)
    self.texts = np.arange(len(features))

  def __len__(self):
    return len(self._features)

  def read(self, number, unused_num_labels=None):
    row, length = self._features[number], self.lengths[number]
    return InputFeatures(
        row.input_ids[:length], row.input_mask[:length],
        row.segment_ids[:length], row.label_ids, row.is_real_example)


class RecordsWithout(object):
  """A `RecordFile` without some texts; the others keep their order."""

  def __init__(self, records, left_out):
    """Begins.

    Args:
      records: `RecordFile`, which stays open.
      left_out: int `[n]`, indices of the texts to leave out.
    """
    is_kept = np.ones([records.num_texts], np.bool_)
    is_kept[left_out] = False
    self._records = records
    self._rows = np.flatnonzero(is_kept[records.texts])
    self.lengths = records.lengths[self._rows]
    self.texts = (np.cumsum(is_kept) - 1)[records.texts[self._rows]]
    self.num_texts = int(is_kept.sum())

  def __len__(self):
    return len(self._rows)

  def read(self, number, num_labels=None):
    """See `RecordFile.read`."""
    return self._records.read(int(self._rows[number]), num_labels)


def _input_fn(open_records, seq_length, is_training, drop_remainder,
              num_labels, seed, num_steps):
  """The function that both builders return."""

  def generate(batch_size, first_step, num_parts):
    """Yields batches; in training, one per remaining step."""
    records = open_records()
    if is_training:
      batches = train_batches(
          records, batch_size, seed, first_step,
          float("inf") if num_steps is None else num_steps, num_labels,
          drop_remainder, num_parts)
    else:
      batches = (
          read_batch(records, range(
              start, min(start + batch_size, len(records))), num_labels)
          for start in range(0, len(records), batch_size)
          if not drop_remainder or start + batch_size <= len(records))
    for batch in batches:
      longest = batch["input_ids"].shape[1]
      if longest > seq_length:
        raise ValueError("the records have texts with %d tokens, more than "
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
    num_parts = params.get("num_parts", 1)
    if num_parts > 1:
      for known, more in zip((types, shapes),
                             batch_parts.element_types()):
        known.update(more)
    dataset = tf.data.Dataset.from_generator(
        lambda: generate(params["batch_size"], params.get("first_step", 0),
                         num_parts), types, shapes)
    # The next batch is made while the graph works on this one.
    return _without_tuning(dataset.prefetch(2))

  return input_fn


def _without_tuning(dataset):
  """Switches off tf.data's tuner, which has nothing to tune here.

  Its thread sleeps for up to a minute, and closing the session waits for it.
  """
  options = tf.data.Options()
  if hasattr(options, "autotune"):
    options.autotune.enabled = False
  else:  # TensorFlow 1.15
    options.experimental_optimization.autotune = False
  return dataset.with_options(options)
