# SPDX-License-Identifier: Apache-2.0
"""Text to WordPiece ids, as BERT was trained to read it.

The public names are those of google-research/bert, and so is every id:

    text --BasicTokenizer--> words --WordpieceTokenizer--> pieces --vocab--> ids

It is fast because both tokenizers have caches: `BasicTokenizer` for characters,
`WordpieceTokenizer` for the pieces and ids of words. The caches are bounded and
start empty; a tokenizer is thread-safe.

A lone surrogate, which no valid text has, is a letter like any other: the word
that it is in becomes `[UNK]`, as with the original.

This module does not import tensorflow, unless a vocabulary's path has a scheme
(`gs://...`).
"""

import collections
import errno
import io
import itertools
import os
import re
import sys
import unicodedata


# Case of the published checkpoints, by the name of their directory.
_IS_LOWER_CASED = {
    "uncased_L-12_H-768_A-12": True,
    "uncased_L-24_H-1024_A-16": True,
    "multilingual_L-12_H-768_A-12": True,
    "chinese_L-12_H-768_A-12": True,
    "cased_L-12_H-768_A-12": False,
    "cased_L-24_H-1024_A-16": False,
    "multi_cased_L-12_H-768_A-12": False,
}

# The blocks of Chinese characters (Hangul and Kana are not among them: they are
# written with spaces, or as longer words).
_CHINESE_CHARACTER = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\uf900-\ufaff"
    "\U0002f800-\U0002fa1f]")

# Bytes; the vocabularies of the largest multilingual models have 10 MB.
_MAX_VOCAB_BYTES = 64 * 1024 * 1024

# Required tokens: padding, unknown words, and the frame of a text.
_REQUIRED_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

# Limits of the caches; together they stay under about 70 MB.
_MAX_CHARACTERS = 1 << 15
_MAX_WORDS = 1 << 16
_MAX_WORD_LENGTH = 32

# Characters, `##` among them, that entries of the vocabulary are looked up by
# before whole ones are.
_HEAD = 5

# Characters from which on a word is decomposed one by one.
_LONG_WORD = 1000

# In printable ASCII, all that is not a letter, digit or space is punctuation.
_ASCII_WORD = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z ]")


def validate_case_matches_checkpoint(do_lower_case, init_checkpoint):
  """Rejects a case that contradicts the name of a published checkpoint.

  Args:
    do_lower_case: bool. Whether texts will be lower-cased.
    init_checkpoint: str or None. Path such as `DIR/bert_model.ckpt`; the name
      of the directory tells the case. An unknown name is accepted.

  Raises:
    ValueError: the checkpoint was trained with the other case.
  """
  match = re.search(r"([A-Za-z0-9_-]+)/bert_model.ckpt", init_checkpoint or "")
  model_name = match.group(1) if match else None
  is_lower_cased = _IS_LOWER_CASED.get(model_name)
  if is_lower_cased is None or is_lower_cased == bool(do_lower_case):
    return
  raise ValueError(
      "--do_lower_case=%s does not match --init_checkpoint=%s: %s was trained "
      "on %s text, so use --do_lower_case=%s (or rename the directory if it "
      "holds another model)." %
      (bool(do_lower_case), init_checkpoint, model_name,
       "lower-cased" if is_lower_cased else "cased", is_lower_cased))


def convert_to_unicode(text):
  """Returns `text` as str: unchanged, or decoded from UTF-8 bytes.

  Bytes that are not UTF-8 are left out, as the original does.

  Raises:
    ValueError: `text` is neither str nor bytes.
  """
  if isinstance(text, str):
    return text
  if isinstance(text, bytes):
    return text.decode("utf-8", "ignore")
  raise ValueError("Expected text as str or bytes, not %s: %.80r." %
                   (type(text).__name__, text))


def printable_text(text):
  """Returns `text` (str, or bytes in UTF-8) as str, for print and logging."""
  return convert_to_unicode(text)


def load_vocab(vocab_file):
  """Reads a vocabulary: one token per line, whose id is the line's place.

  Lines end at a line feed only, and white space around a token is dropped. A
  token that occurs twice has the later id, as in the original.

  Args:
    vocab_file: str. Path of a UTF-8 file, local or known to TensorFlow.

  Returns:
    OrderedDict from token (str) to id (int), in the order of the file.

  Raises:
    ValueError: the file cannot be read or is not UTF-8.
  """
  vocab = collections.OrderedDict()
  for number, line in _read_vocab_lines(vocab_file):
    # Interned, so that pieces of cached words are the same objects.
    vocab[sys.intern(line.strip())] = number - 1
  return vocab


def validate_vocab(vocab_file, embedding_size=None, config_file=None,
                   warn=None):
  """Rejects a vocabulary that does not work with a model.

  `[PAD]` may have any id: padding is written as id 0, whatever that token is,
  and the input mask hides it from the model.

  Released vocabularies have empty lines and repeated tokens. They are accepted
  if the number of lines fits the table, since all other ids are then right; the
  original gives a repeated token the later id, too. Empty lines at the end do
  not count.

  Args:
    vocab_file: str. Path of the vocabulary.
    embedding_size: int or None. Rows of the word embedding table (`vocab_size`
      of the config). None: the length is not checked, and a repeated line is
      rejected.
    config_file: str or None. Where `embedding_size` was read, for the message.
    warn: function of a str, or None. Called with accepted oddities.

  Returns:
    int, the number of ids: lines of the file.

  Raises:
    ValueError: the file cannot be read, is empty or not UTF-8, repeats a line
      (see `embedding_size`), lacks one of the required tokens, or is longer
      than the table.
  """
  first_seen, repeated, count, last_token = _scan_vocab(
      vocab_file, embedding_size, config_file)
  if not last_token:
    raise ValueError("Vocabulary %s is empty: it needs one token per line." %
                     vocab_file)
  tokens = {token.strip() for token in first_seen}
  missing = [token for token in _REQUIRED_TOKENS if token not in tokens]
  if missing:
    raise ValueError(
        "Vocabulary %s lacks %s: is it the vocab.txt of a BERT checkpoint?" %
        (vocab_file, ", ".join(missing)))
  if "[PAD]" in first_seen and first_seen["[PAD]"] != 1 and warn is not None:
    warn("%s has [PAD] in line %d, not in the first one as BERT's vocabularies "
         "do: are its lines in the order that the checkpoint was trained with?"
         % (vocab_file, first_seen["[PAD]"]))
  repeated = [place for place in repeated if place[0] <= last_token]
  if repeated and warn is not None:
    warn("%s has %d duplicate line%s (%s%s); the later id is used." % (
             vocab_file, len(repeated), "" if len(repeated) == 1 else "s",
             ", ".join("%r in lines %d and %d" % (token, first, number)
                       for number, token, first in repeated[:3]),
             ", ..." if len(repeated) > 3 else ""))
  return count


def _scan_vocab(vocab_file, embedding_size, config_file):
  """Reads a vocabulary once; errors as `validate_vocab` says.

  Returns:
    (dict from token to its first line, list of (line, token, first line) of
    repeated ones, number of lines, last line that is not empty).
  """
  first_seen = {}
  repeated = []
  count = last_token = 0
  lines = _read_vocab_lines(vocab_file)
  for count, line in lines:
    if count == 1 and line.startswith("\ufeff"):
      raise ValueError(
          "%s:1: the vocabulary starts with a byte order mark, which would "
          "become part of the first token: save it as UTF-8 without "
          "one." % vocab_file)
    token = line.rstrip("\n")
    if embedding_size is not None and count > embedding_size:
      if not token:
        continue
      count += sum(1 for _ in lines)
      raise ValueError(
          "Vocabulary %s has %d tokens, but the word embedding table has %d "
          "rows (vocab_size of %s): give the vocabulary and the config that "
          "came with the checkpoint." % (vocab_file, count, embedding_size,
                                         config_file or "the BERT config"))
    if token:
      last_token = count
    if token not in first_seen:
      first_seen[token] = count
    elif embedding_size is None:
      raise ValueError(
          "%s:%d: token %r is a duplicate of line %d: use the unchanged "
          "vocabulary that came with the checkpoint." %
          (vocab_file, count, token, first_seen[token]))
    else:
      repeated.append((count, token, first_seen[token]))
  return first_seen, repeated, count, last_token


def _read_vocab_lines(vocab_file):
  """Yields (line number from 1, line as str with its line feed)."""
  try:
    with _open_vocab(vocab_file) as reader:
      for number, line in enumerate(reader, 1):
        # TensorFlow's line reader, which the original uses for vocabularies,
        # drops every carriage return.
        line = line.replace(b"\r", b"")
        if line:
          yield number, line.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(
        "%s:%d: byte 0x%02x is not UTF-8: a vocabulary is UTF-8 text with one "
        "token per line." % (vocab_file, number, error.object[error.start]))
  except OSError as error:
    raise ValueError("Vocabulary %s cannot be read (%s): give the path of a "
                     "vocab.txt." % (vocab_file, error.strerror or error))


def _open_vocab(vocab_file):
  """Returns the bytes of a local file, or of one that TensorFlow can open.

  No more than a vocabulary can have is ever read.
  """
  if "://" not in str(vocab_file):
    if os.path.exists(vocab_file) and not os.path.isfile(vocab_file):
      # A pipe might wait forever, a device might not end.
      raise OSError(errno.EINVAL, "it is not a file")
    with open(vocab_file, "rb") as reader:
      return _within_limit(vocab_file, reader)
  import tensorflow as tf  # Late: only paths with a scheme need it.
  try:
    with tf.io.gfile.GFile(vocab_file, "rb") as reader:
      return _within_limit(vocab_file, reader)
  except tf.errors.OpError as error:
    raise OSError(error.message.splitlines()[0])


def _within_limit(vocab_file, reader):
  data = reader.read(_MAX_VOCAB_BYTES + 1)
  if len(data) > _MAX_VOCAB_BYTES:
    raise ValueError("Vocabulary %s is longer than %d bytes: give the path of "
                     "a vocab.txt." % (vocab_file, _MAX_VOCAB_BYTES))
  return io.BytesIO(data)


def convert_by_vocab(vocab, items):
  """Returns the list of what `vocab` (dict) has for each of `items`.

  Raises:
    KeyError: an item is not in `vocab`.
  """
  return [vocab[item] for item in items]


def convert_tokens_to_ids(vocab, tokens):
  """Returns the ids of `tokens`; see `convert_by_vocab`."""
  return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab, ids):
  """Returns the tokens of `ids`; see `convert_by_vocab`."""
  return convert_by_vocab(inv_vocab, ids)


def whitespace_tokenize(text):
  """Returns the list of words between white space, of str.split()'s kind."""
  return text.split()


class FullTokenizer(object):
  """Text to WordPiece tokens and ids.

  Attributes:
    vocab: OrderedDict from token to id. Not to be changed in place.
    inv_vocab: dict from id to token.
    basic_tokenizer: `BasicTokenizer`.
    wordpiece_tokenizer: `WordpieceTokenizer`.
  """

  def __init__(self, vocab_file, do_lower_case=True):
    """Reads the vocabulary.

    Args:
      vocab_file: str. Path of the vocabulary, see `load_vocab`.
      do_lower_case: bool. Whether to lower-case and to strip accents: as the
        checkpoint was trained.

    Raises:
      ValueError: the vocabulary cannot be read.
    """
    self.vocab = load_vocab(vocab_file)
    self.inv_vocab = {index: token for token, index in self.vocab.items()}
    self.basic_tokenizer = BasicTokenizer(do_lower_case=do_lower_case)
    self.wordpiece_tokenizer = WordpieceTokenizer(vocab=self.vocab)

  def tokenize(self, text):
    """Returns the WordPiece tokens of `text` (str or bytes), a list of str."""
    words = self.basic_tokenizer.tokenize(text)
    return self.wordpiece_tokenizer.tokenize(" ".join(words))

  def encode(self, text, max_tokens=None):
    """Returns the ids of a text, without `[CLS]` and `[SEP]`.

    Args:
      text: str, or bytes in UTF-8.
      max_tokens: int or None. Return only the first ids; None: all.

    Returns:
      list of int, equal to `convert_tokens_to_ids(tokenize(text))`.

    Raises:
      KeyError: a word is unknown, and the vocabulary has no `[UNK]`.
      ValueError: `max_tokens` is negative, or `text` is not text.
    """
    if max_tokens is not None and max_tokens < 0:
      raise ValueError("max_tokens is %d: give a number from 0, or None." %
                       max_tokens)
    pieces_of = self.wordpiece_tokenizer
    if (type(self) is not FullTokenizer or  # pylint: disable=unidiomatic-typecheck
        type(pieces_of) is not WordpieceTokenizer or
        pieces_of.vocab is not self.vocab):
      # A subclass with its own steps, whose ids are not cached.
      return self.convert_tokens_to_ids(self.tokenize(text)[:max_tokens])
    return pieces_of.encode(self.basic_tokenizer.tokenize(text), max_tokens)

  def convert_tokens_to_ids(self, tokens):
    """Returns the ids of `tokens`, a list of int; KeyError if unknown."""
    return convert_by_vocab(self.vocab, tokens)

  def convert_ids_to_tokens(self, ids):
    """Returns the tokens of `ids`, a list of str; KeyError if unknown."""
    return convert_by_vocab(self.inv_vocab, ids)


class BasicTokenizer(object):
  """Text to words: cleans, lower-cases, and cuts at punctuation.

  `_tokenize_in_steps` is the definition. Almost every character is treated the
  same in any context, so `tokenize` runs the steps on each character once, and
  then replaces all characters of a text in one pass.
  """

  def __init__(self, do_lower_case=True):
    """Sets whether to lower-case and to strip accents (bool)."""
    self.do_lower_case = do_lower_case

  def __setattr__(self, name, value):
    # A changed setting invalidates the caches.
    self.__dict__[name] = value
    self.__dict__["_replacements"] = _Memo(self._replacement, _MAX_CHARACTERS)

  def tokenize(self, text):
    """Returns the words of `text` (str or bytes), a list of str."""
    text = convert_to_unicode(text)
    if text.isascii() and text.isprintable():
      return _ASCII_WORD.findall(text.lower() if self.do_lower_case else text)
    try:
      return text.translate(self._replacements).split()
    except _NeighboursMatter:
      return self._tokenize_in_steps(text)

  def _tokenize_in_steps(self, text):
    """Returns the words of `text` (str), from one step after the other."""
    text = self._clean_text(text)
    text = self._tokenize_chinese_chars(text)
    words = []
    for word in whitespace_tokenize(text):
      if self.do_lower_case:
        word = self._run_strip_accents(word.lower())
      words.extend(self._run_split_on_punc(word))
    # A word of accents alone is empty by now.
    return whitespace_tokenize(" ".join(words))

  def _replacement(self, codepoint):
    """Returns the result of the steps for a character within a word, as str."""
    char = chr(codepoint)
    if self.do_lower_case and _neighbours_matter(char):
      raise _NeighboursMatter()
    return " ".join(self._tokenize_in_steps("0" + char + "0"))[1:-1]

  def _run_strip_accents(self, text):
    """Returns `text` in canonical decomposition without nonspacing marks."""
    return "".join(char for char in _decompose(text)
                   if unicodedata.category(char) != "Mn")

  def _run_split_on_punc(self, text):
    """Returns the pieces of a word: punctuation characters and runs between."""
    pieces = []
    for is_punctuation, run in itertools.groupby(text, _is_punctuation):
      pieces.extend(run if is_punctuation else ["".join(run)])  # noqa: B031
    return pieces

  def _tokenize_chinese_chars(self, text):
    """Returns `text` with spaces around every Chinese character."""
    return _CHINESE_CHARACTER.sub(r" \g<0> ", text)

  def _is_chinese_char(self, cp):
    """Whether code point `cp` (int) lies in a block of Chinese characters."""
    return _CHINESE_CHARACTER.match(chr(cp)) is not None

  def _clean_text(self, text):
    """Returns `text` without control characters, and with plain spaces."""
    return "".join(
        " " if _is_whitespace(char) else char for char in text
        if char not in "\0\ufffd" and not _is_control(char))


class WordpieceTokenizer(object):
  """Words to pieces that the vocabulary has."""

  def __init__(self, vocab, unk_token="[UNK]", max_input_chars_per_word=200):
    """Sets the vocabulary.

    Args:
      vocab: dict whose keys are the pieces, `##` before those that continue a
        word; or another container of them. Not to be changed in place.
      unk_token: str. Replaces a word that cannot be composed of pieces.
      max_input_chars_per_word: int. A word of more characters is unknown.
    """
    self.vocab = vocab
    self.unk_token = unk_token
    self.max_input_chars_per_word = max_input_chars_per_word

  def __setattr__(self, name, value):
    # A changed setting invalidates the caches.
    self.__dict__[name] = value
    self.__dict__["_pieces"] = _Memo(self._split_word, _MAX_WORDS,
                                     _MAX_WORD_LENGTH)
    self.__dict__["_ids"] = _Memo(self._word_ids, _MAX_WORDS,
                                  _MAX_WORD_LENGTH)
    if name == "vocab":
      # Maximum length of entries by their head, to limit the search.
      self.__dict__["_longest"] = {
          entry[:_HEAD]: len(entry) for entry in sorted(value, key=len)}

  def tokenize(self, text):
    """Splits words into pieces: "unaffable" into "un", "##aff", "##able".

    Args:
      text: str, or bytes in UTF-8. Words of a `BasicTokenizer`, between spaces.

    Returns:
      list of str, the pieces of all words.
    """
    words = whitespace_tokenize(convert_to_unicode(text))
    return list(
        itertools.chain.from_iterable(map(self._pieces.__getitem__, words)))

  def encode(self, words, max_tokens=None):
    """Returns the ids of words that hold no white space, a list of int.

    Args:
      words: iterable of str.
      max_tokens: int or None. Return only the first ids; None: all.

    Raises:
      KeyError: a word is unknown, and `vocab` (a dict here) has no `unk_token`.
    """
    ids = itertools.chain.from_iterable(map(self._ids.__getitem__, words))
    return list(itertools.islice(ids, max_tokens))

  def _word_ids(self, word):
    """Returns a tuple of the ids of a word's pieces."""
    if word in self.vocab and len(word) <= self.max_input_chars_per_word:
      return (self.vocab[word],)
    return tuple(map(self.vocab.__getitem__, self._split_word(word)))

  def _split_word(self, word):
    """Returns a tuple of pieces, each the longest that fits where it begins."""
    if len(word) > self.max_input_chars_per_word:
      return (self.unk_token,)
    vocab, longest, size = self.vocab, self._longest, len(word)
    pieces = []
    start = 0
    prefix = ""
    while start < size:
      head = (prefix + word[start:start + _HEAD])[:_HEAD]
      # If no entry has this head, the match is shorter than the head.
      end = start + longest.get(head, _HEAD - 1) - len(prefix)
      if end > size:
        end = size
      piece = prefix + word[start:end]
      while piece not in vocab:
        end -= 1
        if end == start:
          return (self.unk_token,)
        piece = prefix + word[start:end]
      pieces.append(sys.intern(piece))
      start = end
      prefix = "##"
    return tuple(pieces)


class _Memo(dict):
  """Cached values of a function.

  A full cache is cleared, so that it follows the texts. Two threads that need
  the same key may compute it twice.
  """

  def __init__(self, function, max_entries, max_length=None):
    """Takes a function of a key, a bound, and one of the length of keys kept.
    """
    super().__init__()
    self.function = function
    self.max_entries = max_entries
    self.max_length = max_length

  def __missing__(self, key):
    value = self.function(key)
    if self.max_length is None or len(key) <= self.max_length:
      if len(self) >= self.max_entries:
        self.clear()
      self[key] = value
    return value


class _NeighboursMatter(Exception):
  """A text has a character whose treatment depends on its context."""


def _neighbours_matter(char):
  """Whether lower-casing or decomposition depends on the context of `char`."""
  # The only letter whose lower case depends on its place in the word.
  if char == "\u03a3":
    return True
  # Decomposition sorts marks by class; those that are stripped may stay at the
  # end.
  return any(
      unicodedata.combining(part) and unicodedata.category(part) != "Mn"
      for part in unicodedata.normalize("NFD", char.lower()))


def _decompose(text):
  """Returns `text` in canonical decomposition (NFD)."""
  if len(text) < _LONG_WORD:
    return unicodedata.normalize("NFD", text)
  # Python sorts runs of marks in quadratic time: a line of 10 MB takes hours.
  parts = "".join(unicodedata.normalize("NFD", char) for char in text)
  return "".join(
      "".join(sorted(run, key=unicodedata.combining) if is_marks else run)
      for is_marks, run in itertools.groupby(parts, _is_mark))


def _is_mark(char):
  """Whether a character has its own position among marks."""
  return unicodedata.combining(char) > 0


def _is_whitespace(char):
  """Whether a character separates words."""
  return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char):
  """Whether a character is dropped: control or format, but no white space."""
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char):
  """Whether a character is a word by itself: Unicode's P*, ASCII's symbols."""
  is_ascii_symbol = "!" <= char <= "~" and not char.isalnum()
  return is_ascii_symbol or unicodedata.category(char).startswith("P")
