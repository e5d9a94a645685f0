# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of exports gives the ids of `tokenization`, on any bytes."""

import random

import pytest
import tensorflow.compat.v1 as tf
import tokenization_test

from multilabel.export import graph_tokenizer
from multilabel.features import encoding


try:
  import tensorflow_text  # noqa: F401  pylint: disable=unused-import
except ImportError as error:
  pytest.skip("no tensorflow-text: %s" % error, allow_module_level=True)


class Encoder(object):
  """`GraphTokenizer` and `FullTokenizer` of one vocabulary."""

  def __init__(self, folder, lower, max_seq_length,
               long_text=encoding.TRUNCATE_HEAD):
    tokens = tokenization_test.telling_vocab(seed=1)
    self.tokens = tokens
    self.full = tokenization_test.make_tokenizer(folder, lower, tokens)
    self.max_seq_length = max_seq_length
    in_graph = graph_tokenizer.GraphTokenizer(self.full)
    graph = tf.Graph()
    with graph.as_default():
      self.texts = tf.placeholder(tf.string, [None])
      self.outputs = in_graph.encode(
          self.texts, max_seq_length, long_text)
    self.session = tf.Session(graph=graph)

  def encode(self, texts):
    """[ids] of list of bytes; the mask must tell where they end."""
    rows = []
    for start in range(0, len(texts), 500):
      ids, mask, _ = self.session.run(
          self.outputs, {self.texts: texts[start:start + 500]})
      assert ids.dtype == mask.dtype == "int32"
      for row, length in zip(ids.tolist(), mask.sum(axis=1)):
        assert not any(row[length:])
        rows.append(row[:length])
      assert ((mask[:, 1:] <= mask[:, :-1]).all() and mask.max() == 1)
    return rows

  def check(self, texts):
    vocab = self.full.vocab
    known = 0
    for text, row in zip(texts, self.encode(texts)):
      words = self.full.encode(text)[:self.max_seq_length - 2]
      assert row == [vocab["[CLS]"]] + words + [vocab["[SEP]"]], ascii(text)
      known += sum(word != vocab["[UNK]"] for word in words)
    return known


@pytest.fixture(scope="module", params=[True, False], ids=["lower", "cased"])
def encoder(request, tmp_path_factory):
  return Encoder(tmp_path_factory.mktemp("vocab"), request.param, 5000)


def test_random_texts(encoder):
  rng = random.Random(20)
  # The comparison means something only where words are known.
  assert encoder.check([
      tokenization_test.random_text(rng).encode("utf-8", "ignore")
      for _ in range(15000)]) > 20000


def test_bytes_that_are_not_utf8(encoder):
  rng = random.Random(3)
  texts = []
  for _ in range(8000):
    text = bytearray(tokenization_test.random_text(rng).encode(
        "utf-8", "surrogatepass")[:60])
    for _ in range(rng.randrange(4)):
      if text:
        text[rng.randrange(len(text))] = rng.randrange(256)
    texts.append(bytes(text[:rng.randrange(len(text) + 1)]))
  assert encoder.check(texts) > 2000


def test_every_letter_and_mark(encoder):
  codes = list(range(1, 0xD800, 7)) + list(range(0x2C00, 0x3100))
  codes += list(range(0xA600, 0xAC00)) + list(range(0xF900, 0x12000))
  codes += list(range(0x16000, 0x17000)) + list(range(0x1D000, 0x20000, 3))
  codes += list(range(0x2F7F0, 0x2FA30)) + list(range(0xE0000, 0xE0200))
  encoder.check([("a%s\u0323b" % chr(code)).encode("utf-8") for code in codes])


@pytest.mark.parametrize("text, words", [
    # tensorflow-text's own tokenizers fold case: "strasse".
    (u"STRA\u00dfE", u"stra\u00dfe"),
    # Capitals of Unicode 14, and a sigma before a mark of Unicode 14.
    (u"\u2c2f", u"\u2c5f"), (u"\u0391\u03a3\u1dfa", u"\u03b1\u03c2"),
    (u"\u0130", u"i"), (u"a\u2028b", u"a b"), (u"a\u2260b", u"a = b"),
])
def test_words(text, words, tmp_path):
  if text == u"\u2c2f" and text.lower() == text:
    pytest.skip("this Python does not know the letter")
  encoder = Encoder(tmp_path, True, 64)
  assert encoder.full.basic_tokenizer.tokenize(text) == words.split()
  encoder.check([text.encode("utf-8")])


def test_long_words_and_texts(tmp_path):
  encoder = Encoder(tmp_path, True, 64)
  encoder.check([b"a" * 200, b"a" * 201, b"a" * 10000 + b",b",
                 u"\u00e9".encode("utf-8") * 200,
                 u"\u00e9".encode("utf-8") * 201, b"low " * 61,
                 b"low " * 62, b"low " * 63, b"wanted " * 1000,
                 b""])
  ids, mask, text_numbers = encoder.session.run(
      encoder.outputs, {encoder.texts: [b"wanted " * 1000]})
  assert ids.shape == mask.shape == (1, 64)
  assert text_numbers.tolist() == [0]


@pytest.mark.parametrize("form, stride", [
    ("truncate_head", 0), ("truncate_tail", 0), ("head_tail", 0),
    ("windows", 1), ("windows", 7), ("windows", 14)])
def test_long_texts(form, stride, tmp_path):
  """The rows of `encode_windows`, and which text each is of."""
  long_text = encoding.LongText(form, stride, "max")
  encoder = Encoder(tmp_path, True, 16, long_text)
  rng = random.Random(5)
  texts = [tokenization_test.random_text(rng) for _ in range(300)]
  texts += [u"low " * size for size in (0, 1, 13, 14, 15, 16, 27, 28, 29, 300)]
  texts = [text.encode("utf-8", "ignore") for text in texts]
  want = []
  for number, text in enumerate(texts):
    windows, _ = encoding.encode_windows(
        encoder.full, text.decode("utf-8"), None, 16, long_text)
    want += [(number, ids) for ids, _ in windows]
  ids, mask, text_numbers = encoder.session.run(
      encoder.outputs, {encoder.texts: texts})
  assert text_numbers.dtype == "int32"
  assert [(number, row[:length]) for number, row, length in zip(
      text_numbers.tolist(), ids.tolist(), mask.sum(axis=1))] == want
  assert (len(want) > len(texts) + 50) == (form == "windows")


def test_vocabulary_with_a_token_twice(tmp_path):
  tokenizer = tokenization_test.make_tokenizer(
      tmp_path, True, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "a ", "b"])
  with pytest.raises(ValueError, match="two tokens of the vocabulary"):
    graph_tokenizer.GraphTokenizer(tokenizer)
