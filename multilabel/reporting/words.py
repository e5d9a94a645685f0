# SPDX-License-Identifier: Apache-2.0
"""The words of a text: their places in it, and in the model's input.

A tokenizer returns tokens without their positions. Here a text is split as by
`tokenization.BasicTokenizer`, with the position of every word in the original
text, regardless of changes to case, accents and control characters. Needs no
TensorFlow.
"""

import collections
import itertools
import unicodedata

import numpy as np

from multilabel.features import encoding
import tokenization


# A word of the basic tokenizer, and text[start:end] that it comes from.
Word = collections.namedtuple("Word", ["token", "start", "end"])

# A word as it was written, text[start:end]; its weight: a float, a float array
# with one number per label, or None if the model did not read it; and whether
# it belongs to the first text (0) or the second of a pair (1).
WordWeight = collections.namedtuple(
    "WordWeight", ["word", "start", "end", "weight", "part"])

# One row of the model's input: two lists of int, and an int array with the
# number of each token's word, -1 for [CLS] and [SEP].
Window = collections.namedtuple("Window", ["input_ids", "segment_ids", "words"])

# Above it, a float32 probability cannot be distinguished from 1.
_HIGHEST_PROBABILITY = 1 - 2.0 ** -25
_LOWEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def split(text, basic_tokenizer):
  """Splits a text into words.

  Args:
    text: str.
    basic_tokenizer: `tokenization.BasicTokenizer`.

  Returns:
    list of `Word`, in the order of the text and without overlap; the tokens are
    those of `basic_tokenizer.tokenize(text)`. A word ends after the marks (such
    as accents) on its last letter, kept or not.
  """
  words = []
  for run in _runs(text, basic_tokenizer):
    letters = _lower_case(run) if basic_tokenizer.do_lower_case else run
    # pylint: disable=protected-access
    tokens = basic_tokenizer._run_split_on_punc(
        "".join(letter for letter, _ in letters))
    first = 0
    for token in tokens:
      places = [place for _, place in letters[first:first + len(token)]]
      words.append(Word(token, min(places), max(places) + 1))
      first += len(token)
  return _extend_over_marks(text, words)


def _runs(text, basic_tokenizer):
  """Yields the runs between white space, each a list of (letter, place).

  A Chinese character is its own run.
  """
  # pylint: disable=protected-access
  run = []
  for place, char in enumerate(text):
    char = basic_tokenizer._clean_text(char)  # none, a space, or as it was
    is_chinese = char and basic_tokenizer._is_chinese_char(ord(char))
    if run and (is_chinese or char.isspace()):
      yield run
      run = []
    if is_chinese:
      yield [(char, place)]
    elif char and not char.isspace():
      run.append((char, place))
  if run:
    yield run


def _lower_case(run):
  """Lower-cases and strips accents of a list of (letter, place)."""
  # On the whole word, since a final sigma has a special lower case.
  lowered = "".join(char for char, _ in run).lower()
  places = [place for char, place in run for _ in char.lower()]
  letters = [(part, place) for char, place in zip(lowered, places)
             for part in unicodedata.normalize("NFD", char)]
  ordered = []
  # The canonical order: marks between two letters are sorted by class.
  for _, group in itertools.groupby(
      letters, key=lambda letter: unicodedata.combining(letter[0]) > 0):
    ordered.extend(sorted(
        group, key=lambda letter: unicodedata.combining(letter[0])))
  return [letter for letter in ordered
          if unicodedata.category(letter[0]) != "Mn"]


def _extend_over_marks(text, words):
  """Lets words end after the marks that follow their last letter."""
  extended = []
  limits = [word.start for word in words[1:]] + [len(text)]
  for word, limit in zip(words, limits):
    end = word.end
    while end < limit and unicodedata.category(text[end]).startswith("M"):
      end += 1
    extended.append(word._replace(end=end))
  return extended


def encode(tokenizer, texts, max_seq_length, long_text):
  """Turns a text, or a pair, into the model's input, word by word.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    texts: list of one str, or of two.
    max_seq_length: int.
    long_text: `encoding.LongText`.

  Returns:
    (words, windows): list of `WordWeight` with the weight None, those of both
    texts one after the other; list of `Window`, the rows of
    `encoding.encode_windows`.

  Raises:
    ValueError: the tokenizer splits words differently from this module.
  """
  words, ids, word_of_id, numbers = [], [], [], []
  for part, text in enumerate(texts):
    pieces = []
    for word in split(text, tokenizer.basic_tokenizer):
      made = tokenizer.wordpiece_tokenizer.tokenize(word.token)
      pieces.extend(made)
      word_of_id.extend([len(words)] * len(made))
      words.append(WordWeight(
          text[word.start:word.end], word.start, word.end, None, part))
    if pieces != tokenizer.tokenize(text):
      raise ValueError("the text cannot be explained: its words do not match "
                       "the tokens of its tokenizer.")
    numbers.append(list(range(len(ids), len(ids) + len(pieces))))
    ids.extend(tokenizer.convert_tokens_to_ids(pieces))
  rows, _ = encoding.encode_windows(
      _Numbers(), numbers[0], numbers[1] if len(texts) == 2 else None,
      max_seq_length, long_text)
  # The last two are what _Numbers has for [SEP] and [CLS].
  ids = np.asarray(
      ids + [tokenizer.vocab["[SEP]"], tokenizer.vocab["[CLS]"]], np.int64)
  word_of_id = np.asarray(word_of_id + [-1, -1], np.int64)
  return words, [
      Window(ids[row].tolist(), segment_ids, word_of_id[row])
      for row, segment_ids in rows]


class _Numbers(object):
  """A tokenizer whose ids are the numbers of the tokens in the text.

  So texts go through the usual code, and it is still known what became of each
  token.
  """

  vocab = {"[SEP]": -2, "[CLS]": -1}

  def encode(self, numbers, max_tokens=None):
    return numbers[:max_tokens]


def occlusion_weights(predict, text, max_words=64):
  """Computes word weights by leaving out words (occlusion).

  A weight is the log-odds of the label minus its log-odds for the text with a
  space instead of the word (leave one out: Li et al. 2016,
  https://arxiv.org/abs/1612.08220, eq. 1). It only needs probabilities, so any
  predictor works; float32 probabilities close to 1 (log-odds over 15) give
  coarse weights.

  Args:
    predict: function of a list of str to probabilities `[n, L]`, such as
      `SessionPredictor.predict`; called once, with at most `max_words` + 1
      texts.
    text: str.
    max_words: int. If a text has more words, the smallest possible groups of
      neighbors are left out together, and each group counts as one word.

  Returns:
    list of `WordWeight`, whose weights are float64 `[L]`; positive means for
    the label.

  Raises:
    ValueError: `max_words` is less than 1, or `text` is not a str.
  """
  if max_words < 1:
    raise ValueError("max_words is %d; it must be 1 or more." % max_words)
  if not isinstance(text, str):
    raise ValueError("occlusion_weights takes one text, not %s." %
                     type(text).__name__)
  # Case and accents as written: no mark that a cased model would see is lost.
  words = split(text, tokenization.BasicTokenizer(do_lower_case=False))
  size = max(1, -(-len(words) // max_words))
  groups = [words[i:i + size] for i in range(0, len(words), size)]
  spans = [(group[0].start, group[-1].end) for group in groups]
  odds = _log_odds(predict([text] + [
      text[:start] + " " + text[end:] for start, end in spans]))
  return [WordWeight(text[start:end], start, end, odds[0] - row, 0)
          for (start, end), row in zip(spans, odds[1:])]


def _log_odds(probabilities):
  """float64 log(p / (1 - p)), finite for any p from 0 to 1."""
  probabilities = np.clip(np.asarray(probabilities, np.float64),
                          _LOWEST_PROBABILITY, _HIGHEST_PROBABILITY)
  return np.log(probabilities) - np.log1p(-probabilities)
