# SPDX-License-Identifier: Apache-2.0
"""Target: the tokenizer, against the original's and against itself."""

import functools

from multilabel.features import encoding
from robustness.fuzz import checks
import tokenization


_WORDS = ("the", "want", "##want", "##ed", "un", "runn", "##ing", "cafe",
          "caf\u00e9", "\u03c3", "##\u03c2", "##\u03c3", "\u03b1", "##\u03b1",
          "\u4e2d", "\u6587", "##\u1161", "\u1100", "i", "##\u302e",
          "\U0001f600")
_LENGTH = 16


def vocabulary():
  """Tokens of which every ASCII text consists: list of str."""
  characters = [chr(code) for code in range(33, 127)]
  return list(dict.fromkeys(
      ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + characters +
      ["##" + char for char in characters] + list(_WORDS)))


@functools.lru_cache(maxsize=None)
def _vocab_file():
  return checks.write("vocab.txt", "".join(
      token + "\n" for token in vocabulary()).encode("utf-8"))


@functools.lru_cache(maxsize=None)
def _tokenizer(lower):
  return tokenization.FullTokenizer(_vocab_file(), lower)


@functools.lru_cache(maxsize=None)
def _original(lower):
  """The original's tokenizer where `bert-tensorflow` is installed, or None."""
  try:
    from bert import tokenization as original  # pylint: disable=g-import-not-at-top
  except ImportError:
    return None
  from absl import flags  # pylint: disable=g-import-not-at-top
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["fuzz"])
  return original.FullTokenizer(_vocab_file(), lower)


def tokenize(data):
  """The first byte chooses the case; the rest is the text.

  Bytes that are not UTF-8 become lone surrogates.
  """
  lower = bool(data and data[0] & 1)
  text = data[1:].decode("utf-8", "surrogateescape")
  tokenizer = _tokenizer(lower)
  ids = tokenizer.encode(text)
  tokens = tokenizer.tokenize(text)
  checks.expect(ids == [tokenizer.vocab[token] for token in tokens],
                "ids of other tokens", text, tokens)
  checks.expect(ids == tokenizer.encode(text), "other ids the second time",
                text)
  checks.expect(all(0 <= i < len(tokenizer.vocab) for i in ids),
                "an id out of range", ids)
  words = tokenizer.basic_tokenizer.tokenize(text)
  checks.expect(
      words == tokenizer.basic_tokenizer._tokenize_in_steps(text),  # pylint: disable=protected-access
      "other words than those of the steps", text, words)
  checks.expect(all(word and word == word.strip() for word in words),
                "an empty word", words)
  # A space parts words whatever is on its sides.
  middle = len(text) // 2
  checks.expect(
      tokenizer.tokenize(text[:middle]) + tokenizer.tokenize(text[middle:]) ==
      tokenizer.tokenize(text[:middle] + " " + text[middle:]),
      "words reach over a space", text)
  if text.isascii() and "[UNK]" not in tokens:
    kept = "".join(char for char in text if "!" <= char <= "~")
    again = "".join(token[2:] if token.startswith("##") and token != "##"
                    else token for token in tokens)
    checks.expect(again == (kept.lower() if lower else kept),
                  "letters got lost", text, tokens)
  original = _original(lower)
  if original is not None:
    expected = original.convert_tokens_to_ids(original.tokenize(text))
    checks.expect(ids == expected, "other ids than the original's", text, ids,
                  expected)
  _check_windows(tokenizer, text, ids)


def _check_windows(tokenizer, text, ids):
  """Every id of a text is in one of its windows, in order."""
  windows, _ = encoding.encode_windows(
      tokenizer, text, None, _LENGTH,
      encoding.LongText("windows", 5, "max"))
  seen = []
  for number, (input_ids, segment_ids) in enumerate(windows):
    checks.expect(len(input_ids) == len(segment_ids) <= _LENGTH,
                  "a long window", input_ids)
    piece = input_ids[1:-1]
    start = (len(ids) - len(piece) if number == len(windows) - 1
             else number * 5)
    checks.expect(ids[start:start + len(piece)] == piece and
                  start <= len(seen), "a window from elsewhere", ids, piece)
    seen = ids[:max(len(seen), start + len(piece))]
  checks.expect(seen == ids, "ids in no window", ids, seen)
  for size in (0, 3, 1000):
    checks.expect(tokenizer.encode(text, size) == ids[:size], "another cut",
                  text, size)
