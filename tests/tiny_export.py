# SPDX-License-Identifier: Apache-2.0
"""What tests of exports share: requests, what BERT in numpy says, doubles.

Holds no test itself. Models are those of `tiny_model`.
"""

import numpy as np
import tensorflow.compat.v1 as tf
import tiny_bert
import tiny_model

from multilabel.export import graph_tokenizer


IDS = {token: number for number, token in enumerate(tiny_bert.vocabulary())}
NUM_LABELS = len(tiny_bert.LABELS)
IS_TF1 = tf.version.VERSION.startswith("1.")

TEXTS = [u"the apple", u"a", u"plum , pear and \u732b", u"we see \U0001f680 !",
         u"", u"\u72d7", u"un see one caf", u"the apple " * 9]


def batch_of(texts):
  """Arrays of the inputs, padded to the longest; texts or pairs of texts."""
  rows = [tiny_model.encode(*as_pair(text)) for text in texts]
  shape = [len(rows), max(len(ids) for ids, _ in rows)]
  batch = {name: np.zeros(shape, np.int32) for name in (
      "input_ids", "input_mask", "segment_ids")}
  for number, (ids, segments) in enumerate(rows):
    batch["input_ids"][number, :len(ids)] = ids
    batch["input_mask"][number, :len(ids)] = 1
    batch["segment_ids"][number, :len(ids)] = segments
  return batch


def as_pair(text):
  return text if isinstance(text, tuple) else (text, None)


def expected(weights, texts):
  """What BERT in numpy says of texts or pairs of texts."""
  return tiny_model.probabilities(
      weights, [tiny_model.encode(*as_pair(text)) for text in texts])


def example(**features):
  """A serialized `tf.Example` of lists of int."""
  return tf.train.Example(features=tf.train.Features(feature={
      name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
      for name, value in features.items()})).SerializeToString()


def examples_of(texts, names=("input_ids", "input_mask", "segment_ids")):
  """Serialized `tf.Example`s with the features of those names, and labels."""
  serialized = []
  for text in texts:
    ids, segments = tiny_model.encode(text)
    features = {"input_ids": ids, "input_mask": [1] * len(ids),
                "segment_ids": segments}
    serialized.append(example(label_ids=[1], **{n: features[n] for n in names}))
  return serialized


class Unchecked(object):
  """Stands for `export_check.Checker`, whose process takes seconds."""

  def check(self, *unused_args):
    return 0.0

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    pass


class WordTokenizer(graph_tokenizer.GraphTokenizer):
  """A `GraphTokenizer` without tensorflow-text, of words between spaces."""

  def __init__(self, tokenizer):  # pylint: disable=super-init-not-called
    self._vocab = tokenizer.vocab

  def _ids(self, texts):
    words = tf.strings.split(texts, result_type="RaggedTensor")
    tokens = tf.constant([token.encode("utf-8") for token in self._vocab])
    found = tf.equal(tf.expand_dims(words.flat_values, 1), tokens)
    ids = tf.where(
        tf.reduce_any(found, axis=1),
        tf.argmax(tf.cast(found, tf.int32), axis=1, output_type=tf.int32),
        tf.fill(tf.shape(words.flat_values), self._vocab["[UNK]"]))
    return words.with_flat_values(ids)
