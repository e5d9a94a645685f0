# SPDX-License-Identifier: Apache-2.0
"""Tests of the words of a text: places, tokens, occlusion."""

import os
import random
import types
import unicodedata

import numpy as np
import pytest
import tiny_bert
from tiny_bert import error_of

from multilabel.features import encoding
from multilabel.reporting import coloured_text
from multilabel.reporting import words as text_words
import tokenization


CAT, DOG = u"\u732b", u"\u72d7"
ROCKET = u"\U0001f680"


def spans(text, lower=True):
  return [tuple(word) for word in text_words.split(
      text, tokenization.BasicTokenizer(lower))]


# Words and where they stand.


@pytest.mark.parametrize("text, expected", [
    (u"", []),
    (u" \t\n", []),
    (u"The  apple.", [("the", 0, 3), ("apple", 5, 10), (".", 10, 11)]),
    (u"don't", [("don", 0, 3), ("'", 3, 4), ("t", 4, 5)]),
    (u"CAF\u00c9s", [("cafes", 0, 5)]),
    (u"cafe\u0301 x", [("cafe", 0, 5), ("x", 6, 7)]),      # a mark of its own
    (u"a\0p\x07p \ufffd", [("app", 0, 5)]),                # dropped characters
    (CAT + DOG + u"ok", [(CAT, 0, 1), (DOG, 1, 2), ("ok", 2, 4)]),
    (u"!" + ROCKET + u"\ufe0f", [("!", 0, 1), (ROCKET, 1, 3)]),
    (u"\u0130x", [(u"ix", 0, 2)]),                         # two letters of one
    (u"\u039f\u03a3 \u03a3\u0391", [(u"\u03bf\u03c2", 0, 2),
                                    (u"\u03c3\u03b1", 3, 5)]),  # final sigma
    (u"\u2260", [("=", 0, 1)]),                # a sign that loses its stroke
    (u"\u0301", []),
    (u"a\u2028b", [("a", 0, 1), ("b", 2, 3)]),
    (u"x\ud800y", [(u"x\ud800y", 0, 3)]),
])
def test_words_of_a_text(text, expected):
  assert spans(text) == expected


def test_words_with_case():
  assert spans(u"CAFE\u0301 \u0301", lower=False) == [
      (u"CAFE\u0301", 0, 5), (u"\u0301", 6, 7)]


def hard_texts(count, seed):
  """Texts of letters, marks, signs and controls, in no order."""
  rng = random.Random(seed)
  plain = list("abAZ09 .,'-\t\n")
  marks = [chr(i) for i in range(0x110000) if unicodedata.combining(chr(i))]
  signs = list(u"\u03a3\u03c3\u0130\u1e9e\u2260\u037e\u1fef\ud55c\ufa11\u2028"
               u"\x85\x1c\ufeff\u200d\ufe0f\ufffd\0\u202e\u00a0\U0001d15e"
               u"\U0001f1e9\U0002f800\ud800\udfff") + [CAT, DOG, ROCKET]
  for _ in range(count):
    pool = rng.choice([plain, plain + signs, plain + marks, signs + marks, [
        chr(rng.randrange(0x110000)) for _ in range(20)] + plain])
    yield u"".join(rng.choice(pool) for _ in range(rng.randint(0, 15)))


@pytest.mark.parametrize("lower", [True, False])
def test_words_are_those_of_the_tokenizer(lower):
  basic = tokenization.BasicTokenizer(lower)
  count = 0
  for text in hard_texts(4000, seed=5):
    found = text_words.split(text, basic)
    assert [word.token for word in found] == basic.tokenize(text), repr(text)
    end, between = 0, []
    for word in found:
      assert end <= word.start < word.end <= len(text), repr(text)
      between.append(text[end:word.start])
      # A sigma's lower case depends on what stands around it.
      if u"\u03a3" not in text:
        assert basic.tokenize(text[word.start:word.end]) == [word.token]
      end = word.end
    between.append(text[end:])
    if lower:
      assert basic.tokenize(u" ".join(between)) == [], repr(text)
    count += len(found)
  assert count > 8000


def test_every_character_has_a_place():
  basic = tokenization.BasicTokenizer()
  for code in list(range(0x3200)) + list(range(0x3200, 0x110000, 499)):
    text = u"a%sb" % chr(code)
    assert [word.token for word in text_words.split(text, basic)] == (
        basic.tokenize(text)), hex(code)


def test_words_and_what_is_between_are_the_text():
  basic = tokenization.BasicTokenizer()
  for text in hard_texts(500, seed=9):
    words = [text_words.WordWeight(
        text[word.start:word.end], word.start, word.end, 0.0, 0)
             for word in text_words.split(text, basic)]
    cut = list(coloured_text.pieces(text, 0, words))
    assert u"".join(piece for piece, _ in cut) == text
    assert [word for _, word in cut if word is not None] == words
    assert list(coloured_text.pieces(text, 1, words)) == (
        [(text, None)] if text else [])


# What the model reads, word by word.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  folder = tiny_bert.make_bert(tmp_path_factory.mktemp("bert"))
  return tokenization.FullTokenizer(os.path.join(folder, "vocab.txt"))


def test_encode_names_the_word_of_each_token(tokenizer):
  words, windows = text_words.encode(
      tokenizer, [u"Caf\u00e9, the apples"], 32, encoding.TRUNCATE_HEAD)
  assert words == [(u"Caf\u00e9", 0, 4, None, 0), (u",", 4, 5, None, 0),
                   (u"the", 6, 9, None, 0), (u"apples", 10, 16, None, 0)]
  tokens = [["[CLS]", "caf", "##e", ",", "the", "apple", "##s", "[SEP]"]]
  assert [tokenizer.convert_ids_to_tokens(window.input_ids)
          for window in windows] == tokens
  assert windows[0].words.tolist() == [-1, 0, 0, 1, 2, 3, 3, -1]
  assert windows[0].segment_ids == [0] * 8


FORMS = [encoding.LongText("truncate_head", 0, "max"),
         encoding.LongText("truncate_tail", 0, "max"),
         encoding.LongText("head_tail", 0, "max"),
         encoding.LongText("windows", 3, "mean")]


@pytest.mark.parametrize("long_text", FORMS, ids=lambda form: form.form)
def test_encode_is_what_the_model_reads(tokenizer, long_text):
  rng = random.Random(8)
  vocab = [token for token in tiny_bert.vocabulary()[5:]
           if not token.startswith("##")] + ["apples", "unable", "xyz"]
  longest = 0
  for number in range(60):
    texts = [u" ".join(rng.choice(vocab) for _ in range(rng.randint(0, 25)))
             for _ in range(2 if number % 3 == 0 else 1)]
    words, windows = text_words.encode(tokenizer, texts, 10, long_text)
    expected, _ = encoding.encode_windows(
        tokenizer, texts[0], texts[1] if len(texts) == 2 else None, 10,
        long_text)
    assert [(window.input_ids, window.segment_ids)
            for window in windows] == expected
    longest = max(longest, len(windows))
    for window in windows:
      for token, word in zip(tokenizer.convert_ids_to_tokens(window.input_ids),
                             window.words):
        if word == -1:
          assert token in ("[CLS]", "[SEP]")
        else:
          assert token in tokenizer.tokenize(words[word].word)
  assert longest == (7 if long_text.form == "windows" else 1)


def test_encode_refuses_another_tokenizer(tokenizer):
  other = types.SimpleNamespace(
      basic_tokenizer=tokenizer.basic_tokenizer,
      wordpiece_tokenizer=tokenizer.wordpiece_tokenizer,
      tokenize=lambda text: ["the"])
  assert "cannot be explained" in error_of(
      text_words.encode, other, [u"the apple"], 32,
      encoding.TRUNCATE_HEAD)


# Occlusion with any predictor.


def test_occlusion_leaves_neighbours_out_together():
  asked = []

  def predict(texts):
    asked.extend(texts)
    return np.array([[0.2 if u"clue" in text else 0.5, 0.9]
                     for text in texts], np.float32)

  found = text_words.occlusion_weights(predict, u"a b, clue d", max_words=3)
  assert asked == [u"a b, clue d", u" , clue d", u"a b  d", u"a b, clue  "]
  assert [word[:3] for word in found] == [
      (u"a b", 0, 3), (u", clue", 3, 9), (u"d", 10, 11)]
  np.testing.assert_allclose(
      [word.weight for word in found],
      [[0, 0], [np.log(0.25), 0], [0, 0]], atol=1e-6)


def test_occlusion_of_nothing_and_of_certainty():
  def predict(texts):
    return np.array([[1.0, 0.0] if text else [0.0, 1.0] for text in texts],
                    np.float32)

  assert text_words.occlusion_weights(predict, u" ") == []
  word, = text_words.occlusion_weights(
      lambda texts: predict([text.strip() for text in texts]), u"x")
  assert np.isfinite(word.weight).all()
  assert word.weight[0] > 20 and word.weight[1] < -20


def test_occlusion_refuses():
  assert "max_words is 0" in error_of(
      text_words.occlusion_weights, None, u"a", 0)
  assert "not tuple" in error_of(
      text_words.occlusion_weights, None, (u"a", u"b"))
