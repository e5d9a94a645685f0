# SPDX-License-Identifier: Apache-2.0
"""Rows of ids for the model: checked if they come from a caller, and padded."""

import numpy as np

from multilabel.features import encoding


# A batch's length is rounded up to one of this many values between n and 2 n:
# few shapes for which memory and kernels are kept, and little padding.
LENGTHS_A_DOUBLING = 8

# Fixed cost of a run, in tokens that could be computed in that time: 20 to 30
# for MiniLM (6 layers of width 384) on two cores.
RUN_COST = 24


def round_up(length, max_length):
  """The length of a batch whose longest row has `length` ids."""
  step = max((1 << length.bit_length() - 1) // LENGTHS_A_DOUBLING, 1)
  return max(length, min(-(-length // step) * step, max_length))


def cut_batches(lengths, batch_size, max_length):
  """Splits rows into batches that minimize the total cost of padding and runs.

  Args:
    lengths: list of int, ids of each row.
    batch_size: int, maximum number of rows of a batch.
    max_length: int, the limit of rounding up.

  Returns:
    list of int arrays, the numbers of the rows of each batch, longest first.
  """
  if len(lengths) == 1:
    return [np.array([0])]
  rounded = np.array([round_up(length, max_length) for length in lengths])
  order = np.argsort(-rounded, kind="mergesort")
  sizes, starts = np.unique(-rounded[order], return_index=True)
  ends = [int(start) for start in starts] + [len(order)]
  # best[j]: least cost of the rows that are longer than the j-th length, and
  # where their last part begins. A part is as wide as its first row.
  best = [(0, 0)]
  for j in range(1, len(ends)):
    best.append(min(
        (best[i][0] + RUN_COST * -(-(ends[j] - ends[i]) // batch_size) -
         int(sizes[i]) * (ends[j] - ends[i]), i) for i in range(j)))
  batches, j = [], len(ends) - 1
  while j:
    i = best[j][1]
    part = order[ends[i]:ends[j]]
    batches[:0] = [part[start:start + batch_size]
                   for start in range(0, len(part), batch_size)]
    j = i
  return batches


def pad_batch(rows, max_length):
  """Stacks rows, padded to the rounded length of the longest.

  Args:
    rows: list of `InputFeatures` without padding.
    max_length: int, the limit of rounding up.

  Returns:
    dict of int32 arrays `[batch, length]`: `input_ids`, `input_mask`,
    `segment_ids`.
  """
  shape = [len(rows), round_up(max(len(row.input_ids) for row in rows),
                               max_length)]
  batch = {}
  for key in ("input_ids", "input_mask", "segment_ids"):
    batch[key] = np.zeros(shape, np.int32)
    for number, row in enumerate(rows):
      values = getattr(row, key)
      batch[key][number, :len(values)] = values
  return batch


def check_features(features, bert_config):
  """Checks rows of ids from a caller, and drops their padding.

  Args:
    features: list of `InputFeatures`, or of objects with `input_ids`,
      `input_mask` (1: a token, 0: padding) and `segment_ids`.
    bert_config: `modeling.BertConfig`.

  Returns:
    list, one per row, of lists of one `InputFeatures`.

  Raises:
    ValueError: an invalid row; names its number, from 0.
  """
  limits = (("input_ids", bert_config.vocab_size), ("input_mask", 2),
            ("segment_ids", bert_config.type_vocab_size))
  encoded = []
  for number, row in enumerate(features):
    columns = [_whole_numbers(number, name, getattr(row, name), limit)
               for name, limit in limits]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
      raise ValueError("row %d has %d input_ids, %d input_mask and %d "
                       "segment_ids; the numbers must be equal." % tuple(
                           [number] + lengths))
    if lengths[0] > bert_config.max_position_embeddings:
      raise ValueError("row %d has %d input_ids; the model takes at most %d." %
                       (number, lengths[0],
                        bert_config.max_position_embeddings))
    tokens = np.flatnonzero(columns[1])
    if not tokens.size:
      raise ValueError("row %d has no token: its input_mask is empty, or 0 "
                       "everywhere." % number)
    encoded.append([encoding.InputFeatures(
        *[column[:tokens[-1] + 1] for column in columns], label_ids=[])])
  return encoded


def _whole_numbers(number, name, values, limit):
  """A column of a row as an int array of numbers from 0 to limit - 1."""
  try:
    array = np.asarray(values)
  except ValueError:  # rows of several lengths
    array = np.zeros([0, 0])
  if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
    raise ValueError("row %d: %s is not a list of integers." % (
        number, name))
  if array.size and not 0 <= array.min() <= array.max() < limit:
    raise ValueError("row %d: %s has %d; it must be from 0 to %d." % (
        number, name, array[(array < 0) | (array >= limit)][0], limit - 1))
  return array


def make_batch(features, num_labels=None):
  """Pads features to their longest and stacks them.

  Args:
    features: list of `InputFeatures` without padding.
    num_labels: int; None leaves the labels out.

  Returns:
    dict of numpy arrays: `input_ids`, `input_mask`, `segment_ids` int32
    `[batch, longest]`, which is what the model takes; with `num_labels`,
    `label_ids` float32 `[batch, num_labels]`, 1 where a label holds, and
    `is_real_example` int32 `[batch]`, 0 for rows that only fill up a batch.
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
  """Splits examples into batches of similar length, the longest first.

  Args:
    lengths: int `[n]`.
    batch_size: int.

  Returns:
    list of int arrays, the numbers of the examples of each batch.
  """
  order = np.argsort(-np.asarray(lengths, np.int64), kind="mergesort")
  return [order[start:start + batch_size]
          for start in range(0, len(order), batch_size)]
