# SPDX-License-Identifier: Apache-2.0
"""Tests of what becomes of a text: ids, windows, label numbers, digests."""

import collections
import os

import numpy as np
import pytest
import tiny_bert
from word_records import CLS
from word_records import LABELS
from word_records import SEP
from word_records import TOKENIZER
from word_records import example
from word_records import ids
from word_records import words

from multilabel.features import encoding
import tokenization


# Text to ids.


def test_single_text():
  assert encoding.encode_text(TOKENIZER, words(3), None, 8) == (
      [CLS, 4, 5, 6, SEP], [0] * 5, False)


def test_pair():
  assert encoding.encode_text(TOKENIZER, words(2), words(3, 10), 9) == (
      [CLS, 4, 5, SEP, 14, 15, 16, SEP], [0, 0, 0, 0, 1, 1, 1, 1], False)


def test_exact_fit_is_not_truncated_and_one_more_is():
  fits = encoding.encode_text(TOKENIZER, words(6), None, 8)
  assert fits == ([CLS] + ids(6) + [SEP], [0] * 8, False)
  cut = encoding.encode_text(TOKENIZER, words(7), None, 8)
  assert cut == ([CLS] + ids(6) + [SEP], [0] * 8, True)
  pair = encoding.encode_text(TOKENIZER, words(3), words(2, 9), 8)
  assert pair[2] is False and len(pair[0]) == 8
  pair = encoding.encode_text(TOKENIZER, words(3), words(3, 9), 8)
  assert pair == ([CLS] + ids(3) + [SEP] + ids(2, 9) + [SEP],
                  [0] * 5 + [1] * 3, True)


def test_empty_texts():
  assert encoding.encode_text(TOKENIZER, "", None, 8) == (
      [CLS, SEP], [0, 0], False)
  assert encoding.encode_text(TOKENIZER, "", "", 8) == (
      [CLS, SEP, SEP], [0, 0, 1], False)
  assert encoding.encode_text(TOKENIZER, words(1), "", 4) == (
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
      assert encoding.encode_text(
          TOKENIZER, words(count_a), words(count_b), length) == (
              [CLS] + ids(keep_a) + [SEP] + ids(keep_b) + [SEP],
              [0] * (keep_a + 2) + [1] * (keep_b + 1),
              count_a + count_b > length - 3)


def test_a_huge_text_is_its_beginning(tmp_path):
  bert = tiny_bert.make_bert(tmp_path)
  tokenizer = tokenization.FullTokenizer(os.path.join(bert, "vocab.txt"))
  long_text = u"apple \u732b \U0001f600 pear " * 50000
  expected = tokenizer.encode(u"apple \u732b \U0001f600 pear " * 8)[:30]
  input_ids, segment_ids, truncated = encoding.encode_text(
      tokenizer, long_text, None, 32)
  assert input_ids[1:-1] == expected and truncated
  assert segment_ids == [0] * 32
  assert 1 not in input_ids  # nothing of it is [UNK]


# Windows of long texts.


def long_text(form, stride=0, pooling="max"):
  return encoding.LongText(form, stride, pooling)


def numbers_in(windows):
  """The numbers of the words in each window, without [CLS] and [SEP]."""
  for input_ids, segment_ids in windows:
    assert (input_ids[0], input_ids[-1]) == (CLS, SEP)
    assert segment_ids == [0] * len(input_ids)
  return [[i - 4 for i in input_ids[1:-1]] for input_ids, _ in windows]


@pytest.mark.parametrize("form,stride,expected", [
    ("truncate_head", 0, [range(0, 6)]),
    ("truncate_tail", 0, [range(14, 20)]),
    # A quarter of 6, rounded down, is 1.
    ("head_tail", 0, [[0] + list(range(15, 20))]),
    ("windows", 6, [range(0, 6), range(6, 12), range(12, 18), range(14, 20)]),
    ("windows", 4, [range(0, 6), range(4, 10), range(8, 14), range(12, 18),
                    range(14, 20)]),
    ("windows", 7, None),
])
def test_a_text_of_20_words_in_8_ids(form, stride, expected):
  if expected is None:
    with pytest.raises(ValueError):
      encoding.make_long_text(form, stride, "max", 8)
    return
  windows, truncated = encoding.encode_windows(
      TOKENIZER, words(20), None, 8, long_text(form, stride))
  assert numbers_in(windows) == [list(numbers) for numbers in expected]
  assert truncated == (form != "windows")


@pytest.mark.parametrize("max_seq_length,head,tail", [
    (512, 128, 382),  # Sun et al. 2019
    (128, 31, 95), (64, 15, 47), (32, 7, 23), (5, 0, 3), (3, 0, 1)])
def test_head_and_tail(max_seq_length, head, tail):
  windows, truncated = encoding.encode_windows(
      TOKENIZER, words(1000), None, max_seq_length, long_text("head_tail"))
  assert numbers_in(windows) == [
      list(range(head)) + list(range(1000 - tail, 1000))]
  assert len(windows[0][0]) == max_seq_length and truncated


def plain_windows(count, fits, stride):
  """(start, end) of each window, found by walking along the text."""
  start, found = 0, []
  while start + fits < count:
    found.append((start, start + fits))
    start += stride
  # The last is as long as the others, if the text is.
  found.append((max(count - fits, 0), count))
  return found


@pytest.mark.parametrize("max_seq_length", [3, 4, 5, 10, 12])
def test_windows_are_the_plain_ones(max_seq_length):
  fits = max_seq_length - 2
  for stride in range(1, fits + 1):
    for count in list(range(0, 3 * fits + 3)) + [97]:
      windows, truncated = encoding.encode_windows(
          TOKENIZER, words(count), None, max_seq_length,
          encoding.make_long_text("windows", stride, "mean",
                                       max_seq_length))
      expected = plain_windows(count, fits, stride)
      assert numbers_in(windows) == [
          list(range(start, end)) for start, end in expected]
      assert truncated is False
      read = set(i for start, end in expected for i in range(start, end))
      assert read == set(range(count))
      assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("form", encoding.LONG_TEXT_FORMS)
def test_a_text_that_fits_is_one_row_whatever_the_form(form):
  for count in (0, 1, 5, 6):
    assert encoding.encode_windows(
        TOKENIZER, words(count), None, 8, long_text(form, 2)) == (
            [([CLS] + ids(count) + [SEP], [0] * (count + 2))], False)


@pytest.mark.parametrize("form", encoding.LONG_TEXT_FORMS)
def test_a_pair_is_one_row_whatever_the_form(form):
  for count_a, count_b in ((50, 2), (2, 50), (50, 50), (2, 3), (0, 9)):
    row = encoding.encode_text(
        TOKENIZER, words(count_a), words(count_b, 100), 10)
    assert encoding.encode_windows(
        TOKENIZER, words(count_a), words(count_b, 100), 10,
        long_text(form, 3)) == ([row[:2]], row[2])


def test_make_long_text():
  make = encoding.make_long_text
  assert make("windows", None, "mean", 512) == ("windows", 255, "mean")
  assert make("windows", None, "max", 3) == ("windows", 1, "max")
  assert make("windows", 510, "max", 512).stride == 510
  for form in ("truncate_head", "truncate_tail", "head_tail"):
    assert make(form, None, "max", 512) == (form, 0, "max")
  assert encoding.TRUNCATE_HEAD == ("truncate_head", 0, "max")


@pytest.mark.parametrize("form,stride,pooling,words_of_error", [
    ("windows", 0, "max", ["stride is 0", "1 to 510", "max_seq_length 512"]),
    ("windows", -3, "max", ["stride is -3"]),
    ("windows", 511, "max", ["stride is 511", "would be skipped"]),
    ("windows", 512, "max", ["stride is 512"]),
    ("sliding", 1, "max", ["long_text is sliding", "truncate_head, "
                           "truncate_tail, head_tail, windows"]),
    ("windows", 1, "median", ["window_pooling is median", "max, mean"]),
    ("truncate_tail", None, "sum", ["window_pooling is sum"])])
def test_long_text_that_cannot_be(form, stride, pooling, words_of_error):
  with pytest.raises(ValueError) as raised:
    encoding.make_long_text(form, stride, pooling, 512)
  for some in words_of_error:
    assert some in str(raised.value)


@pytest.mark.parametrize("pooling", encoding.WINDOW_POOLINGS)
def test_pool_windows(pooling):
  random = np.random.RandomState(4)
  counts = [1, 3, 1, 7, 2, 1]
  logits = random.normal(0, 5, [sum(counts), 4]).astype(np.float32)
  first = np.cumsum([0] + counts[:-1])
  pooled = encoding.pool_windows(logits, first, pooling)
  assert pooled.dtype == np.float32 and pooled.shape == (6, 4)
  for text, count in enumerate(counts):
    for label in range(4):
      values = [float(logits[first[text] + i, label]) for i in range(count)]
      expected = max(values) if pooling == "max" else sum(values) / count
      assert pooled[text, label] == pytest.approx(expected, rel=1e-6, abs=1e-6)
  whole = encoding.pool_windows(logits, [0], pooling)
  expected = logits.max(axis=0) if pooling == "max" else logits.mean(axis=0)
  np.testing.assert_allclose(whole, [expected], rtol=1e-5)
  each = encoding.pool_windows(logits, np.arange(len(logits)), pooling)
  assert np.array_equal(each, logits)


def test_convert_examples_reads_heads_only():
  """The original's functions know of one row per text."""
  features = encoding.convert_examples_to_features(
      [example(0, text=words(50))], LABELS, 8, TOKENIZER)
  assert [row.input_ids for row in features] == [[CLS] + ids(6) + [SEP]]


# The original's functions.


def test_convert_single_example_pads():
  features = encoding.convert_single_example(
      0, example(1, labels=("c", "a"), text=words(2)), LABELS, 6, TOKENIZER)
  assert features.input_ids == [CLS, 4, 5, SEP, 0, 0]
  assert features.input_mask == [1, 1, 1, 1, 0, 0]
  assert features.segment_ids == [0] * 6
  assert features.label_ids == [0, 2]
  assert features.is_real_example is True


def test_padding_input_example_is_not_real():
  features = encoding.convert_single_example(
      5, encoding.PaddingInputExample(), LABELS, 4, TOKENIZER)
  assert features.input_ids == [0, 0, 0, 0]
  assert features.input_mask == [0, 0, 0, 0]
  assert features.segment_ids == [0, 0, 0, 0]
  assert features.label_ids == []
  assert features.is_real_example is False


def test_an_example_of_the_original_has_one_label():
  Original = collections.namedtuple("Original", "guid text_a text_b label")
  features = encoding.convert_examples_to_features(
      [Original("1", words(1), words(1, 5), "b"),
       Original("2", words(1), None, None)], LABELS, 8, TOKENIZER)
  assert [row.label_ids for row in features] == [[1], []]
  assert features[0].segment_ids == [0, 0, 0, 1, 1, 0, 0, 0]


# What is read of the data before any work.


def scan(examples, labels=None, required=False):
  return encoding.scan_examples(examples, labels or LABELS, required)


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
                  length=16, form="truncate_head", stride=0, pooling="max"):
    return encoding.features_fingerprint(
        data, list(labels), str(vocab), lower, length,
        long_text(form, stride, pooling))

  changed = [
      fingerprint(), fingerprint(data=other_data),
      fingerprint(labels=("b", "a", "c")), fingerprint(labels=("a", "b")),
      fingerprint(labels=("a\nb", "c")), fingerprint(labels=("a", "b\nc")),
      fingerprint(vocab=other_vocab), fingerprint(lower=False),
      fingerprint(length=17), fingerprint(form="truncate_tail"),
      fingerprint(form="head_tail"), fingerprint(form="windows", stride=3),
      fingerprint(form="windows", stride=4)]
  assert len(set(changed)) == len(changed)
  assert fingerprint() == changed[0] == encoding.features_fingerprint(
      data, list(LABELS), str(vocab), True, 16)
  # Pooling is of predictions; the features are the same.
  assert fingerprint(pooling="mean") == changed[0]
