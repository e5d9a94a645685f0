# SPDX-License-Identifier: Apache-2.0
"""`tokenization.FullTokenizer` as TensorFlow ops, for exports that take texts.

tensorflow-text's own BERT tokenizers give different ids for some strings: they
fold case (U+00DF becomes "ss") where BERT lower-cases, limit words by bytes,
and use different Unicode tables. So only its normalization and its WordPiece
are used; the steps between them are regular expressions over exactly the
characters that `tokenization` treats so, taken from Python's `unicodedata`.
"""

import sys
import unicodedata

import tensorflow.compat.v1 as tf

from multilabel.features import encoding
import tokenization


# A letter before and after, since the treatment of a mark may depend on them.
_FRAME = u"0"

# Range of characters with case or a decomposition; beyond it are Chinese,
# private and unassigned ones.
_PLANES = (range(0xD800), range(0xE000, 0x20000), range(0x2F800, 0x2FA20))


def import_tensorflow_text():
  """Returns the module `tensorflow_text`.

  Raises:
    ValueError: it is missing, for another TensorFlow, or too old.
  """
  try:
    import tensorflow_text  # pylint: disable=g-import-not-at-top
  except (ImportError, tf.errors.NotFoundError) as error:
    raise ValueError(
        "--raw_text needs the tensorflow-text that matches TensorFlow %s: "
        "%s" % (
            tf.version.VERSION, " ".join(str(error).split())[:200]))
  if not hasattr(tensorflow_text, "FastWordpieceTokenizer"):
    raise ValueError("--raw_text needs tensorflow-text 2.8 or newer, not %s." %
                     tensorflow_text.__version__)
  return tensorflow_text


class GraphTokenizer(object):
  """Builds the ops that turn texts into ids, in the current graph."""

  def __init__(self, tokenizer):
    """Prepares the tables.

    Args:
      tokenizer: `tokenization.FullTokenizer`, whose ids to reproduce.

    Raises:
      ValueError: tensorflow-text is missing, or the vocabulary has two lines
        for one id.
    """
    self._text = import_tensorflow_text()
    self._vocab = tokenizer.vocab
    self._lower = tokenizer.basic_tokenizer.do_lower_case
    self._max_chars = tokenizer.wordpiece_tokenizer.max_input_chars_per_word
    tokens = list(self._vocab)
    if list(self._vocab.values()) != list(range(len(tokens))):
      raise ValueError("--raw_text: two tokens of the vocabulary differ only "
                       "in white space.")
    self._removed, self._spaces, punctuation, self._marks = _character_classes()
    self._punctuation = _regex_class(punctuation)
    removed = set(self._removed)
    # A token that no cleaned text can contain would only disturb the matcher; a
    # word never contains a space.
    self._tokens = [
        u"no word %d" % number if not token or removed & set(map(ord, token))
        else token for number, token in enumerate(tokens)]
    self._shields = self._find_shields() if self._lower else []

  def encode(self, texts, max_seq_length,
             long_text=encoding.TRUNCATE_HEAD):
    """`encoding.encode_windows` of texts, padded to the longest row.

    Args:
      texts: string `[batch]`, UTF-8; invalid bytes are left out.
      max_seq_length: int, maximum number of ids of a row.
      long_text: `encoding.LongText`.

    Returns:
      (input_ids, input_mask, text_numbers): int32 `[rows, seq]` twice, padded
      with 0, and int32 `[rows]`, ascending: the text that the row belongs to.
      There is one row per text, unless long texts are read in windows.
    """
    ids = self._ids(texts)
    text_numbers = tf.range(tf.shape(texts)[0])
    fits = max_seq_length - 2
    if long_text.form == "windows":
      ids, text_numbers = _windows(ids, text_numbers, fits, long_text.stride)
    else:
      head = {"truncate_head": fits, "truncate_tail": 0,
              "head_tail": int(fits * encoding.HEAD_SHARE)}[
                  long_text.form]
      ids = _ends(ids, head, fits - head)
    edge = tf.ones([tf.size(text_numbers), 1], tf.int32)
    ids = tf.concat([edge * self._vocab["[CLS]"], ids,
                     edge * self._vocab["[SEP]"]], axis=1)
    input_ids = ids.to_tensor(0)
    mask = tf.sequence_mask(ids.row_lengths(), tf.shape(input_ids)[1])
    return input_ids, tf.cast(mask, tf.int32), text_numbers

  def _ids(self, texts):
    """The ids of texts, ragged int32 `[batch, tokens]`."""
    tokenizer = self._text.FastWordpieceTokenizer(
        vocab=self._tokens, suffix_indicator="##", unknown_token="[UNK]",
        max_bytes_per_word=4 * self._max_chars, token_out_type=tf.int32,
        no_pretokenization=True)
    words = tf.strings.split(self._words(texts), result_type="RaggedTensor")
    # Counted in characters; a space is not a token, so the word is unknown.
    too_long = tf.strings.length(
        words.flat_values, unit="UTF8_CHAR") > self._max_chars
    words = words.with_flat_values(tf.where(
        too_long, tf.fill(tf.shape(words.flat_values), " "),
        words.flat_values))
    return tokenizer.tokenize(words).merge_dims(1, 2)

  def _words(self, texts):
    """Cleaned texts with a space between words: string `[batch]`."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8",
                                         errors="ignore")
    texts = tf.strings.regex_replace(texts, _regex_class(self._removed), "")
    texts = tf.strings.regex_replace(texts, _regex_class(self._spaces), " ")
    # pylint: disable=protected-access
    texts = tf.strings.regex_replace(
        texts, tokenization._CHINESE_CHARACTER.pattern, r" \0 ")
    if self._lower:
      # Removed in the end anyway; but before that, a mark unknown to TensorFlow
      # would hide that a sigma ends the word.
      texts = tf.strings.regex_replace(texts, _regex_class(
          [c for c in self._marks if unicodedata.combining(chr(c))]), "")
      for codepoint, shield, _ in self._shields:
        texts = tf.strings.regex_replace(
            texts, _regex_class([codepoint]), shield)
      texts = self._strip_accents(texts)
      for _, shield, result in self._shields:
        texts = tf.strings.regex_replace(
            texts, _regex_class([ord(shield)]), result.replace("\\", r"\\"))
    return tf.strings.regex_replace(texts, self._punctuation, r" \0 ")

  def _strip_accents(self, texts):
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = self._text.normalize_utf8(texts, "NFD")
    return tf.strings.regex_replace(texts, _regex_class(self._marks), "")

  def _find_shields(self):
    """Characters with a different lower case or decomposition in Python.

    TensorFlow and tensorflow-text have Unicode tables of other versions. Such a
    character is replaced by a control character, of which a cleaned text has
    none, before they see it, and by Python's result afterwards.

    Returns:
      list of (code point, control character, Python's result).
    """
    removed = set(self._removed)
    codepoints = [c for plane in _PLANES for c in plane if c not in removed]
    with tf.Graph().as_default(), tf.Session() as session:
      texts = tf.placeholder(tf.string, [None])
      answers = session.run(self._strip_accents(texts), {texts: [
          (_FRAME + chr(c) + _FRAME).encode("utf-8") for c in codepoints]})
    basic = tokenization.BasicTokenizer(do_lower_case=True)
    free = iter(c for c in self._removed if c)
    shields = []
    for codepoint, answer in zip(codepoints, answers):
      want = basic._run_strip_accents(  # pylint: disable=protected-access
          (_FRAME + chr(codepoint) + _FRAME).lower())
      if answer.decode("utf-8") != want:
        control = next(free, None)
        if control is None:
          raise ValueError(
              "--raw_text: the Unicode tables of Python (%s) and "
              "tensorflow-text %s differ too much." % (
                  unicodedata.unidata_version, self._text.__version__))
        shields.append((codepoint, chr(control), want[1:-1]))
    return shields


def _ends(ids, head, tail):
  """Rows `[batch, tokens]` without what is between their two ends."""
  places = tf.ragged.range(ids.row_lengths()).flat_values
  lengths = tf.gather(ids.row_lengths(), ids.value_rowids())
  return tf.ragged.boolean_mask(ids, ids.with_flat_values(
      (places < head) | (places >= lengths - tail)))


def _windows(ids, text_numbers, size, stride):
  """Rows `[batch, tokens]` as windows; the last of a row ends with it.

  Returns:
    (ragged int32 `[windows, at most size]`, int32 `[windows]`: their texts).
  """
  lengths = ids.row_lengths()
  beyond = tf.maximum(lengths - size, 0)  # tokens after the first window
  counts = (beyond + stride - 1) // stride + 1
  rows = tf.repeat(text_numbers, counts)
  starts = tf.minimum(tf.ragged.range(counts).flat_values * stride,
                      tf.gather(beyond, rows))
  starts += tf.gather(ids.row_starts(), rows)
  places = tf.ragged.range(
      starts, starts + tf.gather(tf.minimum(lengths, size), rows))
  return places.with_flat_values(
      tf.gather(ids.flat_values, places.flat_values)), rows


def _character_classes():
  """Code points that are removed, separate words, are punctuation, are marks.

  Returns:
    four lists of int.
  """
  removed, spaces, punctuation, marks = [], [], [], []
  for codepoint in range(sys.maxunicode + 1):
    if 0xD800 <= codepoint < 0xE000:
      continue  # not in UTF-8
    char = chr(codepoint)
    # pylint: disable=protected-access
    if tokenization._is_punctuation(char):
      punctuation.append(codepoint)
    elif tokenization._is_control(char) or char in u"\0\ufffd":
      removed.append(codepoint)
    elif tokenization._is_whitespace(char) or char.isspace():
      spaces.append(codepoint)
    elif unicodedata.category(char) == "Mn":
      marks.append(codepoint)
  return removed, spaces, punctuation, marks


def _regex_class(codepoints):
  """An RE2 class of exactly these code points, written as ranges."""
  ranges = []
  for codepoint in codepoints:
    if ranges and ranges[-1][1] == codepoint - 1:
      ranges[-1][1] = codepoint
    else:
      ranges.append([codepoint, codepoint])
  return "[%s]" % "".join(
      r"\x{%x}-\x{%x}" % (low, high) for low, high in ranges)
