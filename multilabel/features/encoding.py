# SPDX-License-Identifier: Apache-2.0
"""From examples to features: ids, windows of long texts, label numbers.

This is the only place where texts become ids, for training, prediction, export
and the server. Needs no TensorFlow.
"""

import array
import collections
import hashlib
import unicodedata

import numpy as np

from multilabel.common import atomic_files
from processors import base
from processors import label_checks
import tokenization


LONG_TEXT_FORMS = ("truncate_head", "truncate_tail", "head_tail", "windows")
WINDOW_POOLINGS = ("max", "mean")

# Sun et al. 2019 (https://arxiv.org/abs/1905.05583), section 5.3.1: the first
# 128 and the last 382 of the 510 tokens that fit beside [CLS] and [SEP].
HEAD_SHARE = 128 / 510

DataScan = collections.namedtuple(
    "DataScan", ["num_examples", "num_pairs", "label_counts", "digest",
                 "num_without", "unlabelled", "num_placeholders", "texts"],
    defaults=[0, (), 0, ()])

# How a text longer than max_seq_length is treated: one of LONG_TEXT_FORMS;
# tokens from the start of a window to the start of the next; how the windows'
# logits become the text's, one of WINDOW_POOLINGS.
LongText = collections.namedtuple("LongText", ["form", "stride", "pooling"])
TRUNCATE_HEAD = LongText("truncate_head", 0, "max")


def make_long_text(form, stride, pooling, max_seq_length):
  """Checks the settings for long texts.

  Args:
    form: str, one of `LONG_TEXT_FORMS`.
    stride: int or None; None: half of what fits in a window.
    pooling: str, one of `WINDOW_POOLINGS`.
    max_seq_length: int.

  Returns:
    `LongText`; its stride is 0 for all forms but "windows".

  Raises:
    ValueError: an unknown value, or a stride that would skip tokens between two
      windows.
  """
  if form not in LONG_TEXT_FORMS:
    raise ValueError("long_text is %s; it must be one of %s." % (
        form, ", ".join(LONG_TEXT_FORMS)))
  if pooling not in WINDOW_POOLINGS:
    raise ValueError("window_pooling is %s; it must be one of %s." % (
        pooling, ", ".join(WINDOW_POOLINGS)))
  if form != "windows":
    return LongText(form, 0, pooling)
  fits = max_seq_length - 2
  if stride is None:
    stride = max(1, fits // 2)
  if not 1 <= stride <= fits:
    raise ValueError(
        "stride is %d; it must be from 1 to %d, the tokens in a window of "
        "max_seq_length %d without [CLS] and [SEP]; otherwise tokens between "
        "windows would be skipped." % (stride, fits, max_seq_length))
  return LongText(form, stride, pooling)


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
  """Fills up a batch of fixed size."""


def encode_text(tokenizer, text_a, text_b, max_seq_length):
  """Turns a text, or a pair, into `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    text_a: str.
    text_b: str or None.
    max_seq_length: int, maximum number of ids; a single text is cut at its end;
      in a pair, the longer one loses its last ids until both fit.

  Returns:
    (input_ids, segment_ids, truncated): two lists of int of the same length,
    and whether anything was cut.
  """
  vocab = tokenizer.vocab
  # One extra id shows whether the text was cut.
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


def encode_windows(tokenizer, text_a, text_b, max_seq_length,
                   long_text=TRUNCATE_HEAD):
  """Turns a text into the rows of ids that the model reads.

  A text that fits is one row whatever the form. A pair is always one row: the
  longer text loses its last ids, as in the original.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    text_a: str.
    text_b: str or None.
    max_seq_length: int, maximum number of ids of a row, `[CLS]` and `[SEP]`
      included.
    long_text: `LongText`. Windows begin every `stride` tokens; the last one
      ends with the text, so that it is as long as the others.

  Returns:
    (windows, truncated): list of (input_ids, segment_ids), lists of int, and
    whether any token was dropped.
  """
  if text_b is not None or long_text.form == "truncate_head":
    input_ids, segment_ids, truncated = encode_text(
        tokenizer, text_a, text_b, max_seq_length)
    return [(input_ids, segment_ids)], truncated
  ids = tokenizer.encode(text_a)
  fits = max_seq_length - 2
  if len(ids) <= fits:
    pieces = [ids]
  elif long_text.form == "truncate_tail":
    pieces = [ids[-fits:]]
  elif long_text.form == "head_tail":
    head = int(fits * HEAD_SHARE)
    pieces = [ids[:head] + ids[len(ids) - (fits - head):]]
  else:
    starts = list(range(0, len(ids) - fits, long_text.stride))
    pieces = [ids[start:start + fits] for start in starts + [len(ids) - fits]]
  first, last = tokenizer.vocab["[CLS]"], tokenizer.vocab["[SEP]"]
  return ([([first] + piece + [last], [0] * (len(piece) + 2))
           for piece in pieces],
          len(ids) > fits and long_text.form != "windows")


def pool_windows(logits, first_windows, pooling):
  """Pools the logits of windows into those of texts.

  Args:
    logits: float32 `[num_windows, num_labels]`, the windows of a text side by
      side.
    first_windows: int `[num_texts]`, ascending: the first window of each text.
    pooling: "max": a text has a label if any window has it; or "mean".

  Returns:
    float32 `[num_texts, num_labels]`.
  """
  if len(first_windows) == len(logits):
    return logits
  if pooling == "max":
    return np.maximum.reduceat(logits, first_windows, axis=0)
  counts = np.diff(np.append(first_windows, len(logits)))
  total = np.add.reduceat(logits, first_windows, axis=0)
  return total / counts.astype(np.float32)[:, np.newaxis]


def _truncate_seq_pair(tokens_a, tokens_b, max_length):
  """Truncates two lists in place to `max_length` in total, the longer first."""
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
      label_ids(example, {name: i for i, name in enumerate(label_list)}))


def convert_examples_to_features(examples, label_list, max_seq_length,
                                 tokenizer):
  """`convert_single_example` of each; a list, so only for small data."""
  return [convert_single_example(index, example, label_list, max_seq_length,
                                 tokenizer)
          for index, example in enumerate(examples)]


def label_ids(example, label_map):
  """Sorted indices of an example's labels; empty if it is not labelled."""
  labels = base.example_labels(example)
  if not labels or label_checks.is_placeholder(labels, label_map):
    return []
  return sorted(label_map[label] for label in set(labels))


def scan_examples(examples, label_list, require_labels, part="the data",
                  data_dir=None, takes_placeholders=False):
  """Reads examples once, to check them before any work and to fingerprint them.

  Args:
    examples: iterable of `InputExample`.
    label_list: list of str.
    require_labels: bool, whether an example without labels is an error.
    part: str, what the examples are called in messages, such as `dev`.
    data_dir: str, the folder they are from, for messages.
    takes_placeholders: bool, whether a placeholder label 0, as processors for
      google-research/bert give a test set, means that there is no label.

  Returns:
    `DataScan(num_examples, num_pairs, label_counts, digest, num_without,
    unlabelled, num_placeholders,
    texts)`: examples, those of two texts, numpy int64 `[num_labels]` examples a
    label is on, a hex digest of all texts and labels in their order, examples
    without labels, numpy int64 numbers of the examples that nobody labelled,
    those of them with a placeholder, and numpy uint64 `[num_examples, 2]`, a
    hash of the text and one of the text with its labels.

  Raises:
    ValueError: an example is broken, or has a label that is not in the list.
  """
  label_set = frozenset(label_list)
  label_map = {label: index for index, label in enumerate(label_list)}
  label_counts = np.zeros([len(label_list)], np.int64)
  digest = hashlib.sha256()
  unknown = label_checks.UnknownLabels(part, label_list, data_dir)
  unlabelled, hashes = array.array("q"), array.array("Q")
  num_examples = num_pairs = num_without = num_placeholders = 0
  for example in examples:
    base.check_texts(example)
    labels = base.example_labels(example)
    if takes_placeholders and label_checks.is_placeholder(labels, label_set):
      labels = None
      num_placeholders += 1
    elif labels is None:
      base.check_labels(example, label_set, require_labels)
    if labels is None:
      unlabelled.append(num_examples)
    elif not label_set.issuperset(labels):
      unknown.add(example, sorted(set(labels) - label_set))
      labels = label_set.intersection(labels)
    elif not labels:
      num_without += 1
    num_examples += 1
    text_b = getattr(example, "text_b", None)
    num_pairs += text_b is not None
    for label in set(labels or ()):
      label_counts[label_map[label]] += 1
    parts = [example.text_a] + ([] if text_b is None else [text_b])
    hashes.append(_hash(parts))
    parts += sorted(labels or ())
    hashes.append(_hash(parts))
    line = "\0".join("%d:%s" % (len(text), text) for text in parts)
    digest.update(("%d,%s\n" % (text_b is not None, line)).encode(
        "utf-8", "surrogatepass"))
  unknown.check()
  return DataScan(num_examples, num_pairs, label_counts, digest.hexdigest(),
                  num_without, np.asarray(unlabelled, np.int64),
                  num_placeholders,
                  np.asarray(hashes, np.uint64).reshape([-1, 2]))


def _hash(texts):
  """64 bits of a list of str."""
  data = "\0".join(texts).encode("utf-8", "surrogatepass")
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def features_fingerprint(scan, label_list, vocab_file, do_lower_case,
                         max_seq_length, long_text=TRUNCATE_HEAD):
  """Hex digest of all that the features depend on, including this code."""
  parts = [scan.digest, atomic_files.file_sha256(vocab_file),
           repr(do_lower_case), repr(max_seq_length),
           long_text.form, repr(long_text.stride),
           unicodedata.unidata_version]
  parts += [label.encode("unicode_escape").decode() for label in label_list]
  for module in (tokenization.__file__, __file__):
    parts.append(atomic_files.file_sha256(module))
  return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()
