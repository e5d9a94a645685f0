# SPDX-License-Identifier: Apache-2.0
"""Tests of tokenization.py.

`reference_tokens` is the algorithm once more, a character at a time and from
its description; where the original itself is installed (package
`bert-tensorflow`), ids are compared with the original's too.
"""

import os
import pickle
import random
import subprocess
import sys
import threading
import unicodedata

import pytest

import tokenization


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

VOCAB = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "want", "##want", "##ed",
    "wa", "un", "runn", "##ing", ",", "low", "lowest", "##est", "[", "]", "cls",
    "CLS", "#", "ing", "\u4e2d", "\u6587", "cafe", "caf\u00e9", "i", "\u03c3",
    "##\u03c2", "##\u03c3", "\u03b1", "##\u03b1", "a", "b", "##b", "##a", "=",
]

# White space of both kinds, dropped characters, accents, case, decompositions,
# punctuation, Chinese, and marks that decomposition sorts.
TRICKY = (
    "\0\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u1680\u180e\u2003\u200b"
    "\u200d\u2028\u2029\u202e\u202f\u3000\ufeff\ufffd\ufffe\ufe0f\u20e3\u0130"
    "\u0131\u00df\u1e9e\u03a3\u03c3\u03c2\u0391\u00c5\u00e9\u01c5\ufb01\u0301"
    "\u0307\u0323\u0345\u037e\u0387\u2260\u226e\u212b\u1fef\uf900\ufa0e\u302a"
    "\u302e\u302f\u1b44\ua953\ua9c0\U0001d15e\U0001d165\U0001d16d\uac00\u3131"
    "\u3001\u300c\u4e2d\u6587\uff41\uff01\ud800\udfff\ue000\U0002f800\U00020000"
    "\U0002ceb0\U0001f600\U000e0001\U0010ffff#$+<=>^`|~[]'_-.: 0aZ")

CHINESE = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
           (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
           (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F)]


def write_vocab(directory, content):
  path = os.path.join(str(directory), "vocab.txt")
  if not isinstance(content, bytes):
    content = "".join(token + "\n" for token in content).encode("utf-8")
  with open(path, "wb") as writer:
    writer.write(content)
  return path


def make_tokenizer(directory, do_lower_case=True, tokens=None):
  path = write_vocab(directory, tokens or VOCAB)
  return tokenization.FullTokenizer(path, do_lower_case)


def telling_vocab(seed):
  """Tokens of all planes, so that ids tell one character from another."""
  rng = random.Random(seed)
  chars = [chr(code) for code in range(33, 0x700)] + list(TRICKY)
  chars += [random_character(rng) for _ in range(20000)]
  tokens = list(VOCAB)
  for char in chars:
    char = char.encode("utf-8", "ignore").decode("utf-8").strip()
    if char not in ("", "\r"):
      tokens += [char, "##" + char, "##" + char + rng.choice("ab.")]
  return list(dict.fromkeys(tokens))


def random_character(rng):
  low, high = rng.choice([(0, 0x80), (0, 0x3000), (0x3000, 0x10000),
                          (0x10000, 0x20000), (0x20000, 0x30000),
                          (0x30000, 0x110000)])
  return chr(rng.randrange(low, high))


def random_text(rng):
  marks = "\u0301\u0323\u302e\u1b44\u1dfa\U0001d165\U0001d16d\U0001d16ea\u03a3"
  pools = [TRICKY, marks, "abI,. ", "\u0391\u03a3\u03c3.'\u0301\u00ad\u4e2d "]
  pool = rng.choice(pools)
  parts = []
  for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 21])):
    kind = rng.randrange(8)
    if kind < 2:
      parts.append(random_character(rng))
    elif kind == 2:
      parts.append(rng.choice(TRICKY))
    elif kind == 3:
      parts.append(rng.choice(VOCAB) + rng.choice([" ", ""]))
    else:
      parts.append(rng.choice(pool))
  if rng.random() < 0.003:
    parts.append(rng.choice("a\u00e9\u4e2d\u0301\u03a3\ue000") *
                 rng.choice([199, 200, 201, 1000]))
  return "".join(parts)


def reference_words(text, lower):
  """The words of `text`, one character after the other."""
  spaced = ""
  for char in text:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
      spaced += " "
    elif category in ("Cc", "Cf") or char == "\ufffd":
      continue
    elif any(a <= ord(char) <= b for a, b in CHINESE):
      spaced += " " + char + " "
    else:
      spaced += char
  words = []
  for word in spaced.split():
    if lower:
      word = unicodedata.normalize("NFD", word.lower())
    current = ""
    for char in word:
      category = unicodedata.category(char)
      if lower and category == "Mn":
        continue
      if category[0] == "P" or char in "$+<=>^`|~":
        words += [current, char]
        current = ""
      else:
        current += char
    words.append(current)
  return [word for word in words if word]


def reference_tokens(text, lower, vocab):
  """The pieces of `text`: from the left, the longest that is in `vocab`."""
  tokens = []
  for word in reference_words(text, lower):
    pieces = []
    rest = word
    while rest and len(word) <= 200:
      mark = "##" if pieces else ""
      fits = [n for n in range(1, len(rest) + 1) if mark + rest[:n] in vocab]
      if not fits:
        break
      pieces.append(mark + rest[:fits[-1]])
      rest = rest[fits[-1]:]
    tokens += ["[UNK]"] if rest else pieces
  return tokens


@pytest.mark.parametrize("text, expected", [
    ("", []),
    (" \t\r\n\u00a0\u3000", []),
    ("\0\x01\u200b\ufffd\u0301", []),
    ("UNwant\u00e9d,running",
     ["un", "##want", "##ed", ",", "runn", "##ing"]),
    ("un\0wan\u200bt\x1fed", ["un", "##want", "##ed"]),
    ("[CLS] [PAD]", ["[", "cls", "]", "[", "[UNK]", "]"]),
    ("##ing", ["#", "#", "ing"]),
    ("\u4e2d\u6587low", ["\u4e2d", "\u6587", "low"]),
    ("Caf\u00e9 cafe\u0301", ["cafe", "cafe"]),
    ("\u0130", ["i"]),
    ("a\u2028b a\x85b", ["a", "b", "a", "##b"]),
    ("a\u2260b", ["a", "=", "b"]),
    ("\u0391\u03a3 \u03a3\u0391 \u0391\u03a3.\u0391",
     ["\u03b1", "##\u03c2", "\u03c3", "##\u03b1", "\u03b1", "##\u03c3",
      "[UNK]", "\u03b1"]),
    ("low\ud800 low", ["[UNK]", "low"]),
    ("\U0001f600low", ["[UNK]"]),
    ("lowest wanted".encode("utf-8") + b"\xff", ["lowest", "want", "##ed"]),
])
def test_tokenize_lower_cased(tmp_path, text, expected):
  tokenizer = make_tokenizer(tmp_path)
  assert tokenizer.tokenize(text) == expected
  assert tokenizer.encode(text) == [VOCAB.index(token) for token in expected]


@pytest.mark.parametrize("text, expected", [
    ("caf\u00e9 CAF\u00c9", ["caf\u00e9", "[UNK]"]),
    ("[CLS]low", ["[", "CLS", "]", "low"]),
    ("a\u4e2db", ["a", "\u4e2d", "b"]),
    ("a\u2260b", ["[UNK]"]),
])
def test_tokenize_cased(tmp_path, text, expected):
  assert make_tokenizer(tmp_path, False).tokenize(text) == expected


def test_words_are_compared_after_decomposition_is_known():
  tokenize = tokenization.BasicTokenizer().tokenize
  # A compatibility ideograph stands alone; only then it is decomposed.
  assert tokenize("a\uf900b") == ["a", "\u8c48", "b"]
  # The Greek question mark decomposes to a semicolon, U+2F800 to a Chinese
  # character, Hangul to its letters.
  assert tokenize("a\u037eb") == ["a", ";", "b"]
  assert tokenize("\U0002f800x") == ["\u4e3d", "x"]
  assert tokenize("\uac00x") == ["\u1100\u1161x"]
  # Marks that are no accents are sorted among themselves.
  assert tokenize("x\u302e\ua953") == ["x\ua953\u302e"]
  assert tokenization.BasicTokenizer(False).tokenize(
      "x\u302e\ua953") == ["x\u302e\ua953"]


@pytest.mark.parametrize("lower", [True, False])
def test_equals_reference_on_random_text(tmp_path, lower):
  tokens = telling_vocab(seed=1)
  tokenizer = make_tokenizer(tmp_path, lower, tokens)
  index = {token: number for number, token in enumerate(tokens)}
  rng = random.Random(20 + lower)
  known = 0
  for _ in range(15000):
    text = random_text(rng)
    expected = reference_tokens(text, lower, index)
    known += sum(token != "[UNK]" for token in expected)
    assert tokenizer.tokenize(text) == expected, ascii(text)
    assert tokenizer.encode(text) == [index[t] for t in expected], ascii(text)
    assert (tokenizer.basic_tokenizer.tokenize(text) ==
            reference_words(text, lower)), ascii(text)
  # The comparison means something only where words are known.
  assert known > 20000


def test_equals_reference_on_every_character():
  cased = tokenization.BasicTokenizer(False).tokenize
  lower = tokenization.BasicTokenizer(True).tokenize
  codes = list(range(0x3400)) + list(range(0xA000, 0xB000))
  codes += list(range(0xD7F0, 0x12000)) + list(range(0x1D000, 0x1F000))
  codes += list(range(0x2F7F0, 0x2FA30)) + list(range(0xE0000, 0xE0200))
  for code in codes:
    text = "a" + chr(code) + "\u0323b"
    assert cased(text) == reference_words(text, False), hex(code)
    assert lower(text) == reference_words(text, True), hex(code)


@pytest.mark.parametrize("lower", [True, False])
def test_equals_the_original(tmp_path, lower):
  pytest.importorskip("bert", reason="the original is not installed")
  original_module = pytest.importorskip("bert.tokenization")
  from absl import flags
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["tokenization_test"])
  path = write_vocab(tmp_path, telling_vocab(seed=2))
  original = original_module.FullTokenizer(path, lower)
  tokenizer = tokenization.FullTokenizer(path, lower)
  assert list(tokenizer.vocab.items()) == list(original.vocab.items())
  rng = random.Random(40 + lower)
  for _ in range(10000):
    text = random_text(rng)
    expected = original.convert_tokens_to_ids(original.tokenize(text))
    assert tokenizer.encode(text) == expected, ascii(text)


def test_long_words(tmp_path):
  tokenizer = make_tokenizer(tmp_path)
  assert tokenizer.tokenize("a" * 200) == ["a"] + ["##a"] * 199
  assert tokenizer.tokenize("a" * 201) == ["[UNK]"]
  assert tokenizer.tokenize("a" * 10000 + ",b") == ["[UNK]", ",", "b"]
  # The limit counts characters as they are after accents were stripped.
  assert len(tokenizer.tokenize("a\u0301" * 200)) == 200
  short = tokenization.WordpieceTokenizer(VOCAB, unk_token="?",
                                          max_input_chars_per_word=3)
  assert short.tokenize("low lowest") == ["low", "?"]


def test_encode_max_tokens(tmp_path):
  tokenizer = make_tokenizer(tmp_path)
  assert tokenizer.encode("wanted low", 2) == [5, 7]
  assert tokenizer.encode("wanted low", 0) == []
  assert tokenizer.encode("wanted low", 9) == [5, 7, 13]
  with pytest.raises(ValueError, match="max_tokens is -1"):
    tokenizer.encode("low", -1)


def test_setting_changed_after_use(tmp_path):
  tokenizer = make_tokenizer(tmp_path)
  assert tokenizer.tokenize("CLS lowest \u00e9") == ["cls", "lowest", "[UNK]"]
  assert tokenizer.encode("CLS lowest \u00e9") == [18, 14, 1]
  tokenizer.basic_tokenizer.do_lower_case = False
  assert tokenizer.tokenize("CLS\u00a0lowest") == ["CLS", "lowest"]
  assert tokenizer.encode("CLS\u00a0lowest") == [19, 14]
  tokenizer.wordpiece_tokenizer.max_input_chars_per_word = 5
  assert tokenizer.tokenize("CLS lowest") == ["CLS", "[UNK]"]
  assert tokenizer.encode("CLS lowest") == [19, 1]
  tokenizer.wordpiece_tokenizer.unk_token = "="
  assert tokenizer.encode("CLS lowest") == [19, 36]
  tokenizer.wordpiece_tokenizer.vocab = {"C": 0, "##LS": 1, "low": 2}
  assert tokenizer.tokenize("CLS") == ["C", "##LS"]
  # Pieces of the one vocabulary, ids of the other.
  assert tokenizer.encode("low") == [13]


def test_ids_of_somebodys_own_steps(tmp_path):

  class Reversed(tokenization.FullTokenizer):

    def tokenize(self, text):
      return super().tokenize(text)[::-1]

  class Capital(tokenization.WordpieceTokenizer):

    def tokenize(self, text):
      return [piece.upper() for piece in super().tokenize(text)]

  path = write_vocab(tmp_path, VOCAB)
  assert Reversed(path).encode("want low") == [13, 5]
  tokenizer = tokenization.FullTokenizer(path)
  tokenizer.wordpiece_tokenizer = Capital(tokenizer.vocab)
  assert tokenizer.encode("cls") == [19]


def longest_first(word, vocab):
  """Pieces of a word by the description: the longest that fits, or [UNK]."""
  pieces, rest = [], word
  while rest:
    found = [rest[:end] for end in range(len(rest), 0, -1)
             if ("##" if pieces else "") + rest[:end] in vocab]
    if not found:
      return ["[UNK]"]
    pieces.append(("##" if pieces else "") + found[0])
    rest = rest[len(found[0]):]
  return pieces


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_random_vocabularies(tmp_path, seed):
  rng = random.Random(seed)

  def word(letters, most):
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, most)))

  tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [
      rng.choice(["", "##", "##", "#"]) + word("ab", rng.choice([1, 3, 9]))
      for _ in range(rng.choice([3, 30, 300]))]
  tokens = list(dict.fromkeys(tokens))
  rng.shuffle(tokens)
  tokenizer = make_tokenizer(tmp_path, tokens=tokens)
  pieces = tokenization.WordpieceTokenizer(frozenset(tokens))
  for _ in range(500):
    # With "#", a word may begin as pieces do that continue one.
    text = word("ab#" if rng.random() < 0.3 else "ab", 14)
    expected = longest_first(text, tokens)
    assert pieces.tokenize(text) == expected
    if "#" not in text:
      assert tokenizer.encode(text) == [tokens.index(p) for p in expected]


def test_memory_is_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(tokenization, "_MAX_CHARACTERS", 300)
  monkeypatch.setattr(tokenization, "_MAX_WORDS", 100)
  tokenizer = make_tokenizer(tmp_path, tokens=telling_vocab(seed=3))
  characters = tokenizer.basic_tokenizer._replacements
  words = tokenizer.wordpiece_tokenizer._pieces
  rng = random.Random(5)
  most_characters = most_words = most_ids = 0
  for _ in range(3000):
    text = random_text(rng)
    assert tokenizer.tokenize(text) == reference_tokens(
        text, True, tokenizer.vocab)
    assert tokenizer.encode(text) == [
        tokenizer.vocab[token] for token in tokenizer.tokenize(text)]
    most_ids = max(most_ids, len(tokenizer.wordpiece_tokenizer._ids))
    most_characters = max(most_characters, len(characters))
    most_words = max(most_words, len(words))
  assert (most_characters, most_words, most_ids) == (300, 100, 100)
  tokenizer.tokenize("a" * 33 + " " + "b" * 32)
  assert "a" * 33 not in words and "b" * 32 in words


def test_threads_get_what_one_gets(tmp_path, monkeypatch):
  # Memories so small that they are emptied under the other threads' hands.
  monkeypatch.setattr(tokenization, "_MAX_CHARACTERS", 20)
  monkeypatch.setattr(tokenization, "_MAX_WORDS", 20)
  tokenizer = make_tokenizer(tmp_path, tokens=telling_vocab(seed=4))
  rng = random.Random(6)
  texts = [random_text(rng) for _ in range(1500)]
  expected = [tokenizer.encode(text) for text in texts]
  results = {}

  def encode(worker):
    results[worker] = [tokenizer.encode(text) for text in texts]

  interval = sys.getswitchinterval()
  sys.setswitchinterval(1e-6)
  try:
    threads = [threading.Thread(target=encode, args=(n,)) for n in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  finally:
    sys.setswitchinterval(interval)
  assert [results.get(n) == expected for n in range(4)] == [True] * 4


def test_tokenizer_can_be_pickled(tmp_path):
  tokenizer = make_tokenizer(tmp_path)
  text = "UNwant\u00e9d,running \u4e2d"
  ids = tokenizer.encode(text)
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert copy.encode(text) == ids
  assert copy.encode("lowest \u6587") == [14, 23]


def test_parts_of_the_basic_tokenizer():
  basic = tokenization.BasicTokenizer()
  assert basic._run_strip_accents("H\u00e9llo\u0323") == "Hello"
  assert basic._run_split_on_punc("a.,bc d!") == ["a", ".", ",", "bc d", "!"]
  assert basic._run_split_on_punc("") == []
  assert basic._tokenize_chinese_chars("a\u4e2db") == "a \u4e2d b"
  assert basic._is_chinese_char(0x2CEAF) and not basic._is_chinese_char(0x2CEB0)
  assert basic._clean_text("a\0\ufffd\t\u00a0b\x7f\u2028") == "a  b\u2028"
  whitespace = [c for c in " \t\r\n\u00a0A-\u2028\x85\x1c"
                if tokenization._is_whitespace(c)]
  assert whitespace == [" ", "\t", "\r", "\n", "\u00a0"]
  control = [c for c in "\x05\u00adA \t\r\n\ufffd\ud800\ue000"
             if tokenization._is_control(c)]
  assert control == ["\x05", "\u00ad"]
  punctuation = [c for c in "-$`.^ A1\u00a7\u20ac\u00b7\u4e2d"
                 if tokenization._is_punctuation(c)]
  assert punctuation == ["-", "$", "`", ".", "^", "\u00a7", "\u00b7"]


def test_text_and_lookups():
  assert tokenization.convert_to_unicode(b"caf\xc3\xa9\xff") == "caf\u00e9"
  assert tokenization.convert_to_unicode("\ud800") == "\ud800"
  assert tokenization.printable_text(b"a\xffb") == "ab"
  assert tokenization.whitespace_tokenize(" a\u2028b\x1cc ") == ["a", "b", "c"]
  with pytest.raises(ValueError, match="not int: 7"):
    tokenization.convert_to_unicode(7)
  vocab = {"a": 3, "[UNK]": 1}
  assert tokenization.convert_by_vocab(vocab, ["a", "a"]) == [3, 3]
  assert tokenization.convert_tokens_to_ids(vocab, ["[UNK]"]) == [1]
  assert tokenization.convert_ids_to_tokens({3: "a"}, [3]) == ["a"]
  with pytest.raises(KeyError):
    tokenization.convert_tokens_to_ids(vocab, ["b"])


def test_word_is_unknown_without_unk_in_the_vocabulary(tmp_path):
  tokenizer = make_tokenizer(tmp_path, tokens=["a"])
  assert tokenizer.tokenize("a b") == ["a", "[UNK]"]
  with pytest.raises(KeyError):
    tokenizer.encode("a b")


@pytest.mark.parametrize("name, is_lower", [
    ("uncased_L-12_H-768_A-12", True), ("uncased_L-24_H-1024_A-16", True),
    ("multilingual_L-12_H-768_A-12", True), ("chinese_L-12_H-768_A-12", True),
    ("cased_L-12_H-768_A-12", False), ("cased_L-24_H-1024_A-16", False),
    ("multi_cased_L-12_H-768_A-12", False),
])
def test_validate_case(name, is_lower):
  path = "/models/" + name + "/bert_model.ckpt"
  tokenization.validate_case_matches_checkpoint(is_lower, path)
  with pytest.raises(ValueError) as error:
    tokenization.validate_case_matches_checkpoint(not is_lower, path)
  assert "--do_lower_case=%s (or" % is_lower in str(error.value)
  assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", [
    None, "", "bert_model.ckpt", "my_cased/bert_model.ckpt",
    "cased_L-12_H-768_A-12/model.ckpt-100",
])
def test_validate_case_of_unknown_models(path):
  for do_lower_case in (True, False):
    tokenization.validate_case_matches_checkpoint(do_lower_case, path)


def test_load_vocab(tmp_path):
  path = write_vocab(
      tmp_path, b"[PAD]\r\n a \n\xe2\x80\xa8\nb\xc2\x85c\na\nlast")
  vocab = tokenization.load_vocab(path)
  assert list(vocab.items()) == [
      ("[PAD]", 0), ("a", 4), ("", 2), ("b\x85c", 3), ("last", 5)]


def test_load_vocab_reads_as_tensorflow_does(tmp_path):
  gfile = pytest.importorskip("tensorflow.compat.v1").gfile
  path = write_vocab(tmp_path, b"a\r\n\rb\rc\n\xe2\x80\xa8x\x0cy\n\r\nd\n\r")
  with gfile.GFile(path, "r") as reader:
    lines = list(iter(reader.readline, ""))
  expected = {line.strip(): number for number, line in enumerate(lines)}
  assert expected == {"a": 0, "bc": 1, "x\x0cy": 2, "": 3, "d": 4}
  assert tokenization.load_vocab(path) == expected
  assert tokenization.load_vocab("file://" + path) == expected
  with pytest.raises(ValueError, match="absent.* cannot be read"):
    tokenization.load_vocab("file://" + path + ".absent")


def test_validate_vocab_accepts(tmp_path):
  path = write_vocab(tmp_path, VOCAB)
  assert tokenization.validate_vocab(path) == len(VOCAB)
  assert tokenization.validate_vocab(path, len(VOCAB)) == len(VOCAB)
  # Ids in another order, Windows' line ends, and white space that differs.
  path = write_vocab(
      tmp_path, b"a\r\n[UNK]\r\n[CLS]\r\n[PAD]\r\n[SEP]\r\na \r\n")
  assert tokenization.validate_vocab(path, 30522) == 6


@pytest.mark.parametrize("content, expected", [
    (b"", "Vocabulary {path} is empty: it needs one token per line."),
    (b"[PAD]\n[CLS]\na\n", "Vocabulary {path} lacks [UNK], [SEP]: is it the "
     "vocab.txt of a BERT checkpoint?"),
    (b"[PAD]\nb\xffc\n", "{path}:2: byte 0xff is not UTF-8: a vocabulary is "
     "UTF-8 text with one token per line."),
    (b"\xef\xbb\xbf[PAD]\n[UNK]\n",
        "{path}:1: the vocabulary starts with a byte order mark, which would "
        "become part of the first token: save it as UTF-8 without one."),
    (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nc\nd\n", "Vocabulary {path} has 8 "
     "tokens, but the word embedding table has 6 rows (vocab_size of c.json): "
     "give the vocabulary and the config that came with the checkpoint."),
])
def test_validate_vocab_refuses(tmp_path, content, expected):
  path = write_vocab(tmp_path, content)
  with pytest.raises(ValueError) as error:
    tokenization.validate_vocab(path, 6, config_file="c.json")
  assert str(error.value) == expected.format(path=path)


@pytest.mark.parametrize("content, odd", [
    (b"a\n", []),
    (b"a\r\nb\na\n", ["has 1 duplicate line ('a' in lines 5 and 7); the later "
                      "id is used."]),
    # Empty lines inside, one of them the first of its kind.
    (b"a\n\n\nb\n", ["has 1 duplicate line ('' in lines 6 and 7); the later id "
                     "is used."]),
    (b"a\u2028b\na\u2028b".decode("unicode_escape").encode("utf-8"),
     ["'a\\u2028b' in lines 5 and 6"]),
    (b"a\na\na\na\na\n", ["has 4 duplicate lines ('a' in lines 5 and 6, 'a' in "
                          "lines 5 and 7, 'a' in lines 5 and 8, ...)"]),
    # Empty lines at the end have ids that no table needs.
    (b"a\nb\nc\nd\ne\nf\n\n\n\n", []),
])
def test_oddities_of_released_vocabularies(tmp_path, content, odd):
  path = write_vocab(tmp_path, b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n" + content)
  lines = []
  tokenization.validate_vocab(path, 10, warn=lines.append)
  assert len(lines) == len(odd)
  for line, words in zip(lines, odd):
    assert line.startswith(path) and words in line, line
  tokenization.validate_vocab(path, 10)  # also without somebody to tell
  vocab = tokenization.load_vocab(path)
  lines = content.decode("utf-8").split("\n")
  for token in ("a", "b"):
    if token in [line.strip() for line in lines]:
      last = max(i for i, line in enumerate(lines) if line.strip() == token)
      assert vocab[token] == 4 + last
      # What makes ids agrees.
      tokenizer = tokenization.FullTokenizer(path)
      assert tokenizer.convert_tokens_to_ids([token]) == [4 + last]
  if odd:
    with pytest.raises(ValueError, match="is a duplicate of line"):
      tokenization.validate_vocab(path)


def test_a_vocabulary_in_another_order(tmp_path):
  path = write_vocab(tmp_path, b"!\n[CLS]\n[PAD]\n[SEP]\n[UNK]\na\n")
  lines = []
  tokenization.validate_vocab(path, 6, warn=lines.append)
  line, = lines
  assert line.startswith("%s has [PAD] in line 3, not in the first" % path)


def test_vocab_that_cannot_be_opened(tmp_path):
  missing = str(tmp_path / "absent.txt")
  for read in (tokenization.validate_vocab, tokenization.load_vocab,
               tokenization.FullTokenizer):
    with pytest.raises(ValueError) as error:
      read(missing)
    assert str(error.value) == (
        "Vocabulary %s cannot be read (No such file or directory): give the "
        "path of a vocab.txt." % missing)
    with pytest.raises(ValueError, match="cannot be read .it is not a file."):
      read(str(tmp_path))


def test_import_does_not_import_tensorflow(tmp_path):
  path = write_vocab(tmp_path, VOCAB)
  program = (
      "import sys, tokenization\n"
      "tokenization.validate_vocab(sys.argv[1])\n"
      "tokenizer = tokenization.FullTokenizer(sys.argv[1])\n"
      "print(tokenizer.encode('Lowest, caf\\xe9'))\n"
      "print([name for name in sys.modules if 'tensorflow' in name])\n")
  output = subprocess.check_output(
      [sys.executable, "-c", program, path], cwd=ROOT).decode("utf-8")
  assert output.split("\n")[:2] == ["[14, 12, 24]", "[]"]
