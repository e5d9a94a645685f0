# SPDX-License-Identifier: Apache-2.0
"""Words that are tokens, examples made of them, and record files of those.

Shared by the tests of features, record files and batches; holds none itself.
"""

from multilabel.features import encoding
from multilabel.features import record_file
import processors


LABELS = ["a", "b", "c"]
CLS, SEP = 2, 3


class WordTokenizer(object):
  """A word is a token; `encode` is all that the pipeline may ask for."""

  def __init__(self, size=2000):
    self.vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP}
    self.vocab.update(("w%d" % i, 4 + i) for i in range(size))

  def encode(self, text, max_tokens=None):
    return [self.vocab[word] for word in text.split()][:max_tokens]


TOKENIZER = WordTokenizer()


def words(count, first=0):
  """The text of so many words."""
  return " ".join("w%d" % (first + i) for i in range(count))


def ids(count, first=0):
  """The ids of `words`."""
  return [4 + first + i for i in range(count)]


def example(number, labels=("a",), text=None, pair=None):
  return processors.InputExample(
      "id-%d" % number, text or words(number % 7 + 1), pair, labels)


def write(path, examples, fingerprint="f", num_workers=1, length=16,
          long_text=encoding.TRUNCATE_HEAD):
  """Writes a record file of examples: its `FeatureStats`."""
  return record_file.file_based_convert_examples_to_features(
      iter(examples), LABELS, length, TOKENIZER, str(path), fingerprint,
      num_workers, long_text)


def read_rows(path):
  """The fields of each record, list of dict."""
  records = record_file.RecordFile(str(path))
  try:
    return [vars(records.read(i)) for i in range(len(records))]
  finally:
    records.close()


def read_bytes(path):
  with open(str(path), "rb") as reader:
    return reader.read()
